//! From Nickel to the typed model, with every mistake shown where it was made.
//!
//! ```text
//! files ─► nickel (evaluate, field by field) ─► lower (sources, lock) ─► checks ─► canonical bytes
//!               │ schema: stdlib/tank.ncl                                    │
//!               └───────────────────────── problems ◄────────────────────────┘
//! ```
//!
//! [`compile`] runs that in a child process with limits on time, memory and depth ([`child`]),
//! unless nothing that was read has changed since the last time ([`cache`]). [`compile_here`] does
//! it in this process.
//!
//! * [`schema()`]: the contracts as data; [`manual`] prints them. [`mod@schema`]: the values that
//!   they accept.
//! * [`lock`]: `tank.lock`. `provenance`: which line set a field. `stack`: the names of a source and
//!   those of the host.
//! * [`draw`]: pictures of a graph.
//!
//! It runs in the command line and never in the daemon.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cache;
pub mod child;
pub mod diagnostics;
pub mod draw;
pub mod lock;
mod lower;
pub mod manual;
mod nickel;
mod provenance;
pub mod schema;
mod stack;

pub use diagnostics::{CompileError, Problem, Problems};
pub use nickel::schema;

use lock::Lock;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tank_model::{Config, Digest, Graph, Name, canonical, check};

/// The embedded contracts.
pub const STDLIB: &str = include_str!("../../stdlib/tank.ncl");

/// What to compile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// Merged in this order; at least one.
    pub files: Vec<PathBuf>,
    /// `pods.web.containers.app.image="nginx"`, as `--set` takes them: a path, `=`, and Nickel.
    pub overrides: Vec<String>,
    /// Ignore `tank.lock`: `tank lock` resolves the tags themselves.
    #[serde(default)]
    pub unlocked: bool,
    /// Look whether this host has the files of the secrets. Off where a configuration is only
    /// looked at.
    #[serde(default)]
    pub this_host: bool,
    /// The stack that the source belongs to; it may say so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Name>,
    /// The stack that it belongs to if neither it nor [`Inputs::stack`] says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_stack: Option<Name>,
}

/// A configuration that has nothing wrong with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compiled {
    /// What is sent to the daemon.
    pub canonical: String,
    /// Where relative paths count from: the first file's folder.
    pub base_dir: PathBuf,
    /// A [`tank_model::provenance::Provenance`] as JSON: which line set each field.
    pub provenance: String,
    /// Everything that was read.
    pub reads: Vec<Read>,
}

/// A file that the result depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Absolute.
    pub path: PathBuf,
    /// Of its content; none: that there is no such file.
    pub digest: Option<Digest>,
}

impl Compiled {
    /// # Errors
    /// Never for what [`compile`] made.
    pub fn config(&self) -> Result<Config, CompileError> {
        // Written by this very program: whether it is canonical is the daemon's to ask.
        serde_json::from_str(&self.canonical).map_err(|e| internal(&e))
    }

    /// The graph, its images resolved only where they are pinned by digest.
    ///
    /// # Errors
    /// Never for what [`compile`] made.
    pub fn graph(&self) -> Result<Graph, CompileError> {
        Graph::build(&self.config()?, |_| None).map_err(|e| internal(&e))
    }
}

/// Compiles in a child process, or takes what the cache has.
///
/// # Errors
/// Everything that is wrong, at once; or the limit that evaluation ran into.
pub fn compile(inputs: &Inputs, settings: &child::Settings) -> Result<Compiled, CompileError> {
    let cache = settings
        .cache_dir
        .as_deref()
        .and_then(|dir| cache::Entry::of(dir, inputs));
    if let Some(known) = cache.as_ref().and_then(cache::Entry::load) {
        return Ok(known);
    }
    let compiled = child::compile(inputs, settings)?;
    if let Some(entry) = &cache {
        entry.save(&compiled);
    }
    Ok(compiled)
}

/// Compiles in this process and thread, without limits.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn compile_here(inputs: &Inputs, stdlib_dir: Option<&Path>) -> Result<Compiled, CompileError> {
    compile_with(inputs, stdlib_dir, false)
}

/// As [`compile_here`]; with `leak`, the evaluator's memory is freed by the end of the process.
fn compile_with(
    inputs: &Inputs,
    stdlib_dir: Option<&Path>,
    leak: bool,
) -> Result<Compiled, CompileError> {
    let base_dir = base_dir(&inputs.files)?;
    let mut evaluated = nickel::evaluate(inputs, stdlib_dir, leak)?;
    let locked = if inputs.unlocked {
        None
    } else {
        Lock::read(&base_dir)?
    };
    let (lock, lock_text) = locked.unzip();
    let config = lower::lower(&mut evaluated, &base_dir, &lock.unwrap_or_default(), inputs);
    if let Some(config) = &config {
        add_problems(&mut evaluated, config);
    }
    let Some(config) = config.filter(|_| evaluated.problems.is_empty()) else {
        sort_by_place(&mut evaluated.problems);
        return Err(CompileError::Problems(Problems {
            list: evaluated.problems,
            sources: evaluated.sources,
        }));
    };
    let bytes = encode(&config)?;
    let mut reads = reads(&evaluated);
    if !inputs.unlocked {
        reads.push(Read {
            path: Lock::path(&base_dir),
            digest: lock_text.map(|text| Digest::of(text.as_bytes())),
        });
    }
    let provenance = serde_json::to_string(&provenance::of(&evaluated, config.stack.as_ref()))
        .map_err(|e| internal(&e))?;
    let canonical = String::from_utf8(bytes).map_err(|e| internal(&e))?;
    if leak {
        std::mem::forget((evaluated, config));
    }
    Ok(Compiled {
        canonical,
        base_dir,
        provenance,
        reads,
    })
}

/// Adds what the checks find, each at the place of its field. A field that has a problem already is
/// left out: what is found of it follows from that one.
fn add_problems(evaluated: &mut nickel::Evaluated, config: &Config) {
    for found in check::check(config) {
        let path = stack::source_path(&found.path, evaluated);
        if evaluated.is_poisoned(&path) {
            continue;
        }
        // Where a port is published is its address as well, whose default is in place of a wrong one.
        if found.code == "tank::publish::port_taken" {
            let related = found.related.as_ref().map(|(path, _)| path);
            let mut entries = related.into_iter().chain([&found.path]);
            let is_wrong = |port: &Vec<String>| {
                let mut address = stack::source_path(port, evaluated);
                address.pop();
                address.push("address".to_owned());
                evaluated.is_poisoned(&address)
            };
            if entries.any(is_wrong) {
                continue;
            }
        }
        // What a pod is on a network that has a problem follows from that one as well.
        let related = found.related.as_ref().map(|(related, _)| related);
        let network = related.filter(|path| path.first().is_some_and(|first| first == "networks"));
        if network.is_some_and(|path| evaluated.is_poisoned(&stack::source_path(path, evaluated))) {
            continue;
        }
        let help = Some(found.help).filter(|help| !help.is_empty());
        let mut problem = evaluated.problem(found.code, &path, found.message, help);
        if let Some((path, role)) = found.related
            && let Some(place) = evaluated.pointed(&stack::source_path(&path, evaluated))
        {
            let place = place.clone();
            problem.labels.push(diagnostics::Label {
                place,
                text: role.to_owned(),
            });
        }
        evaluated.problems.push(problem);
    }
}

/// Sorts problems by where they are, those without a place last.
fn sort_by_place(problems: &mut [Problem]) {
    let at = |problem: &Problem| {
        let first = problem
            .labels
            .first()
            .map(|label| (label.place.source, label.place.range.start));
        (first.is_none(), first)
    };
    problems.sort_by_key(at);
}

fn encode(config: &Config) -> Result<Vec<u8>, CompileError> {
    let bytes = canonical::encode(config).map_err(|e| internal(&e))?;
    if bytes.len() > canonical::MAX_BYTES {
        return Err(CompileError::Limit {
            code: "tank::limit::size".to_owned(),
            what: format!(
                "the configuration has {} bytes, more than the {} it may have",
                bytes.len(),
                canonical::MAX_BYTES
            ),
            help: "put large contents into images or volumes".to_owned(),
        });
    }
    Ok(bytes)
}

fn reads(evaluated: &nickel::Evaluated) -> Vec<Read> {
    let read = |(path, text): &(PathBuf, String)| Read {
        path: path.clone(),
        digest: Some(Digest::of(text.as_bytes())),
    };
    evaluated.reads.iter().map(read).collect()
}

fn internal(error: &dyn std::fmt::Display) -> CompileError {
    CompileError::Internal(error.to_string())
}

fn base_dir(files: &[PathBuf]) -> Result<PathBuf, CompileError> {
    let first = files.first().map_or(Path::new("."), PathBuf::as_path);
    let absolute = std::path::absolute(first)
        .map_err(|e| CompileError::Read(first.to_owned(), e.to_string()))?;
    Ok(absolute
        .parent()
        .map_or_else(|| PathBuf::from("/"), Path::to_owned))
}
