//! What a command declares: the files of one source, or a folder with one for each stack of the host.

use super::{
    config,
    frames::{Found, at_lines},
};
use crate::{args::Overrides, error::Error};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tank_compiler::{CompileError, Inputs, Problem, compile};
use tank_model::{Config, Graph, Name, Scope, canonical, check, provenance::Provenance};
use tank_proto::varlink::{self, StackSource};

/// The endings of the files that can be a configuration.
const ENDINGS: [&str; 5] = ["ncl", "yaml", "yml", "json", "toml"];

/// What the file of a sub-folder is called, and the one for the pods that belong to no stack.
const PODS: &str = "pods";

/// What is asked for.
pub struct Asked<'a> {
    pub files: &'a [PathBuf],
    pub overrides: &'a Overrides,
    pub stack: Option<&'a Name>,
    pub host: Option<&'a Path>,
    /// Whether it is to run on this host.
    pub this_host: bool,
}

/// A configuration with nothing wrong, and where it comes from.
pub struct Source {
    /// What is sent to the daemon.
    pub canonical: String,
    pub base_dir: Option<PathBuf>,
    /// A [`Provenance`] as JSON.
    pub provenance: String,
    /// Absolute.
    pub files: Vec<String>,
    /// Of a whole host: where the pods of each stack come from.
    pub stacks: Option<Vec<StackSource>>,
    /// What was asked for, in words: files, overrides and stack.
    pub words: String,
    /// The stack that its pods belong to. None: to none, or it is a whole host.
    pub stack: Option<String>,
}

/// One stack's configuration in a folder for the whole host.
struct Part {
    path: PathBuf,
    /// By its place in the folder; none: of pods that belong to no stack.
    stack: Option<Name>,
}

impl Source {
    /// Compiles it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(asked: &Asked<'_>) -> Result<Self, Error> {
        match asked.host {
            Some(folder) => host(folder, asked.this_host),
            None => one(asked),
        }
    }

    pub fn config(&self) -> Result<Config, Error> {
        serde_json::from_str(&self.canonical).map_err(Error::Json)
    }

    pub fn graph(&self) -> Result<Graph, Error> {
        let graph = Graph::build(&self.config()?, |_| None);
        graph.map_err(|error| Error::failed("build the graph", error))
    }
}

fn one(asked: &Asked<'_>) -> Result<Source, Error> {
    let inputs = Inputs {
        files: asked.files.to_vec(),
        overrides: asked.overrides.set.clone(),
        this_host: asked.this_host,
        stack: asked.stack.cloned(),
        ..Inputs::default()
    };
    let compiled = compile(&inputs, &config::settings()?)?;
    let own = compiled.config()?.stack.map(|stack| stack.to_string());
    let files: Vec<String> = asked
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let sets = asked
        .overrides
        .set
        .iter()
        .map(|set| format!(" --set {set}"));
    let stack = asked.stack.map(|stack| format!(" --stack {stack}"));
    Ok(Source {
        canonical: compiled.canonical,
        base_dir: Some(compiled.base_dir),
        provenance: compiled.provenance,
        files: absolute(asked.files),
        stacks: None,
        words: format!(
            "{}{}{}",
            files.join(" "),
            sets.collect::<String>(),
            stack.unwrap_or_default()
        ),
        stack: own,
    })
}

/// The stacks of a folder as one configuration of the whole host.
fn host(folder: &Path, this_host: bool) -> Result<Source, Error> {
    let settings = config::settings()?;
    let mut whole = Config::default();
    let mut lines = Provenance::default();
    let mut stacks = Vec::new();
    let mut paths: BTreeMap<Option<Name>, PathBuf> = BTreeMap::new();
    for part in parts(folder)? {
        let inputs = Inputs {
            files: vec![part.path.clone()],
            this_host,
            default_stack: part.stack,
            ..Inputs::default()
        };
        let compiled = compile(&inputs, &settings).map_err(as_of_folder)?;
        let config = compiled.config()?;
        if let Some(first) = paths.insert(config.stack.clone(), part.path.clone()) {
            return Err(Error::SameStack {
                stack: config.stack.map(|stack| stack.to_string()),
                first,
                second: part.path,
            });
        }
        let newer = serde_json::from_str(&compiled.provenance).map_err(Error::Json)?;
        lines = lines.with(newer, &Scope::Stack(config.stack.clone()));
        stacks.push(StackSource {
            stack: config.stack.as_ref().map(Name::to_string),
            base_dir: compiled.base_dir.display().to_string(),
            files: absolute(&[part.path]),
        });
        whole.pods.extend(config.pods);
        whole.networks.extend(config.networks);
        whole.volumes.extend(config.volumes);
    }
    fits(&whole, &lines)?;
    let canonical = canonical::encode(&whole).map_err(|e| Error::failed("encode the host", e))?;
    Ok(Source {
        canonical: String::from_utf8_lossy(&canonical).into_owned(),
        base_dir: None,
        provenance: serde_json::to_string(&lines).map_err(Error::Json)?,
        files: Vec::new(),
        stacks: Some(stacks),
        words: format!("--host {}", folder.display()),
        stack: None,
    })
}

/// What has fields that no stack has may be none: what several stacks share.
fn as_of_folder(mut error: CompileError) -> CompileError {
    if let CompileError::Problems(found) = &mut error {
        let is_of_none = |problem: &&mut Problem| {
            problem.code == "tank::field::unknown" && problem.path.len() <= 1
        };
        for problem in found.list.iter_mut().filter(is_of_none) {
            let help = problem.help.take().unwrap_or_default();
            let more =
                "a file or folder that is no stack, such as what stacks import, begins with `_`";
            problem.help = Some(format!("{help}; {more}"));
        }
    }
    error
}

/// What the stacks of a host can't all have is refused here, each with its line.
fn fits(whole: &Config, lines: &Provenance) -> Result<(), Error> {
    let found = check::check_host(whole, &Scope::Host);
    if found.is_empty() {
        return Ok(());
    }
    let found = found.into_iter().map(|problem| Found {
        problem: varlink::Problem {
            code: problem.code.to_owned(),
            place: lines.place(&problem.path),
            field: problem.path,
            message: problem.message,
            help: problem.help,
            related: None,
        },
        related: problem.related.into_iter().collect(),
    });
    let problems = at_lines(found.collect(), lines);
    Err(Error::Compile(CompileError::Problems(problems)))
}

/// The configurations of a folder, by name. What begins with `.` or `_` is none: a library, notes.
fn parts(folder: &Path) -> Result<Vec<Part>, Error> {
    let read = |error: std::io::Error| CompileError::Read(folder.to_owned(), error.to_string());
    let entries = std::fs::read_dir(folder).map_err(read)?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(read)?.path());
    }
    names.sort();
    let mut parts = Vec::new();
    for path in names {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_dir() {
            let stack = stack_called(name, &path)?;
            parts.push(Part {
                path: pods_of(&path)?,
                stack: Some(stack),
            });
        } else if let Some(stem) = configuration(&path) {
            parts.push(Part {
                stack: match stem {
                    PODS => None,
                    stem => Some(stack_called(stem, &path)?),
                },
                path: path.clone(),
            });
        }
    }
    if parts.is_empty() {
        return Err(Error::NoStacks {
            folder: folder.to_owned(),
        });
    }
    Ok(parts)
}

fn stack_called(name: &str, path: &Path) -> Result<Name, Error> {
    Name::new(name).map_err(|error| Error::NoStackName {
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// The name of a configuration's file without its ending.
fn configuration(path: &Path) -> Option<&str> {
    let ending = path.extension()?.to_str()?;
    ENDINGS
        .contains(&ending)
        .then(|| path.file_stem()?.to_str())?
}

/// The configuration in a sub-folder. A folder without one is not taken for a stack without pods.
fn pods_of(folder: &Path) -> Result<PathBuf, Error> {
    let mut files = ENDINGS
        .iter()
        .map(|ending| folder.join(format!("{PODS}.{ending}")));
    files
        .find(|file| file.is_file())
        .ok_or_else(|| Error::NoPods {
            folder: folder.to_owned(),
        })
}

/// The absolute paths of the files: they name a source, whichever folder a command runs in.
fn absolute(files: &[PathBuf]) -> Vec<String> {
    let name = |file: &PathBuf| {
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        file.file_name()
            .map_or_else(|| file.clone(), |name| folder.join(name))
            .display()
            .to_string()
    };
    files.iter().map(name).collect()
}
