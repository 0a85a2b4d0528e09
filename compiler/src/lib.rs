//! From Nickel to the typed model, with every mistake shown where it was made.
//!
//! [`compile`] evaluates the user's files as the calling user ([`nickel`]), lowers the value to
//! [`tank_model::spec::Config`] ([`lower`]) and runs the checks that cross fields; what is wrong comes back as a list
//! of [`Problem`]s with spans ([`diagnostics`]). The contracts are `stdlib/tank.ncl`, embedded.
//!
//! It runs in the command line and never in the daemon.

#![forbid(unsafe_code)]

pub mod diagnostics;
pub mod draw;
mod lower;
mod nickel;

pub use diagnostics::{CompileError, Problem};

use std::path::{Path, PathBuf};
use tank_model::{Config, Graph, canonical, check};

/// The embedded contracts.
pub const STDLIB: &str = include_str!("../../stdlib/tank.ncl");

/// What to compile.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Merged in this order; at least one.
    pub files: Vec<PathBuf>,
    /// `pods.web.containers.app.image="nginx"`, as `--set` takes them: a path, `=`, and Nickel.
    pub overrides: Vec<String>,
}

/// A configuration that has nothing wrong with it.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub config: Config,
    /// What is sent to the daemon.
    pub canonical: String,
    /// The graph, its images resolved only where they are pinned by digest.
    pub graph: Graph,
    /// Where relative paths count from: the first file's folder.
    pub base_dir: PathBuf,
}

/// Compiles. See the module's documentation.
///
/// # Errors
/// Everything that is wrong, at once where that can be seen.
pub fn compile(inputs: &Inputs) -> Result<Compiled, CompileError> {
    let evaluated = nickel::evaluate(inputs)?;
    let base_dir = base_dir(&inputs.files)?;
    let config = lower::lower(&evaluated, &base_dir)?;
    let problems: Vec<Problem> =
        check::check(&config).into_iter().map(|problem| Problem::from_check(problem, &evaluated)).collect();
    if !problems.is_empty() {
        return Err(CompileError::Problems(problems));
    }
    let internal = |e: &dyn std::fmt::Display| CompileError::Internal(e.to_string());
    let bytes = canonical::encode(&config).map_err(|e| internal(&e))?;
    let graph = Graph::build(&config, |_| None).map_err(|e| internal(&e))?;
    let canonical = String::from_utf8(bytes).map_err(|e| internal(&e))?;
    Ok(Compiled { config, canonical, graph, base_dir })
}

fn base_dir(files: &[PathBuf]) -> Result<PathBuf, CompileError> {
    let first = files.first().map_or(Path::new("."), PathBuf::as_path);
    let absolute = std::path::absolute(first).map_err(|e| CompileError::Read(first.to_owned(), e.to_string()))?;
    Ok(absolute.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned))
}
