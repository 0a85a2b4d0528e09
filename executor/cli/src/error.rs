//! The one place that says what an error means to a caller: its message says what was attempted, its
//! cause why, its help what to do next, and its status is what the command ends with.
//!
//! Commands and the client make an [`Error`] of what happened; none of them words it.

pub mod json;

use crate::{output, status};
use miette::{GraphicalReportHandler, GraphicalTheme, ThemeCharacters, ThemeStyles};
use std::{error::Error as StdError, fmt, io, path::PathBuf};
use tank_compiler::{CompileError, Problems, manual::Unknown};
use tank_import::ImportError;
use tank_proto::stream::NoStream;
use tank_proto::varlink::{self, Outcome};

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Error {
    /// The daemon refused, in its own words.
    Refused(varlink::Error),
    /// The socket is there and not for this user.
    NotPermitted { socket: String },
    /// Nothing listens at the socket.
    NoDaemon { socket: String },
    /// Connecting failed for another reason.
    Unreachable { socket: String, source: io::Error },
    /// The daemon closed the connection before its answer was whole.
    Closed,
    /// What came over the socket is no Varlink.
    Connection(Box<zlink::Error>),
    /// The daemon's answer lacks something; a text that names it.
    Answer(&'static str),
    /// The daemon's answer holds something that is no JSON.
    AnswerJson(serde_json::Error),
    /// A configuration does not compile.
    Compile(CompileError),
    /// A file of others can't be imported.
    Import(ImportError),
    /// A call to the system failed: what it was for, and why.
    Failed {
        what: String,
        source: Box<dyn StdError>,
    },
    /// The runtime did not start.
    Start(io::Error),
    /// Standard output took no more.
    Print(io::Error),
    /// A value has no JSON.
    Json(serde_json::Error),
    /// `--cwd` of `exec` has to be absolute.
    RelativeDirectory(String),
    /// A stream of the caller's that is not handed into a container.
    NotAStream { name: &'static str, why: NoStream },
    /// The shim at the other end of a terminal has gone.
    PodGone,
    /// `attach` needs a terminal.
    NotATty,
    /// A change came to an end other than the one asked for. `gated`: it was to become healthy.
    Change {
        outcome: Box<Outcome>,
        failure: String,
        gated: bool,
        /// The command that takes it back.
        undo: String,
    },
    /// A change was interrupted: after the commit of the generation that is named here, or before.
    Interrupted {
        committed: Option<String>,
        /// The command that takes it back.
        undo: String,
    },
    /// Waiting for what is done by hand was interrupted: which operation.
    GoesOn { what: String },
    /// `why` of a field that nothing declares and that has no default.
    NotDeclared { field: String },
    /// `lock` names a pod that the configuration lacks.
    NoSuchPod {
        pod: String,
        nearest: Option<String>,
    },
    /// `lock --check` found a difference.
    LockDiffers {
        path: PathBuf,
        missing: Vec<String>,
        unused: Vec<String>,
    },
    /// `init` overwrites nothing without `--force`.
    Exists { file: PathBuf },
    /// There is no cache folder for a copy of the stdlib.
    NoStdlibFolder,
    /// `doc` knows no such field or error.
    Unknown { what: &'static str, name: Unknown },
    /// A variable of the environment can't be read as what it stands for.
    Environment { name: &'static str, why: String },
    /// `--set` without a file.
    NothingToOverride,
    /// A folder for a whole host has nothing in it.
    NoStacks { folder: PathBuf },
    /// A sub-folder of one has no configuration.
    NoPods { folder: PathBuf },
    /// An entry of one can't be a stack.
    NoStackName { path: PathBuf, why: String },
    /// Two entries of one are the same stack; none: pods that belong to no stack.
    SameStack {
        stack: Option<String>,
        first: PathBuf,
        second: PathBuf,
    },
}

impl Error {
    /// A call to the system that failed; `what` was to be done.
    pub fn failed(what: impl Into<String>, source: impl Into<Box<dyn StdError>>) -> Self {
        Self::Failed {
            what: what.into(),
            source: source.into(),
        }
    }

    /// Prints the message, the cause and the help to standard error.
    pub fn print(&self) {
        if let Self::Compile(error @ CompileError::Problems(problems)) = self {
            return output::drawn_error(&draw(problems, &error.to_string()));
        }
        let mut text = format!("Error: {self}\n");
        if let Some(cause) = self.cause() {
            text = format!("{text}  caused by: {cause}\n");
        }
        if let Some(help) = self.help() {
            text = format!("{text}  help: {help}\n");
        }
        output::error(&output::for_error(&text, 2));
    }

    /// The status the command ends with. Of `exec` and `attach` (`exec`), what container users
    /// expect: the command's own statuses are below 125.
    pub fn status(&self, exec: bool) -> u8 {
        match self {
            Self::Refused(varlink::Error::NotFound { .. }) if exec => status::NOT_FOUND,
            Self::Refused(varlink::Error::NotExecutable { .. }) if exec => status::NOT_EXECUTABLE,
            _ if exec => status::NOT_RUN,
            Self::Change { outcome, .. } if outcome.rolled_back => status::ROLLED_BACK,
            Self::Interrupted { .. } | Self::GoesOn { .. } => status::INTERRUPTED,
            _ => status::FAILED,
        }
    }

    /// Why it failed, where the message does not say so.
    fn cause(&self) -> Option<String> {
        Some(match self {
            Self::Refused(
                varlink::Error::ImageUnavailable { why, .. } | varlink::Error::Failed { why, .. },
            )
            | Self::Environment { why, .. } => why.clone(),
            Self::NoStackName { why, .. } => why.clone(),
            Self::Unreachable { source, .. } => source.to_string(),
            Self::Connection(error) => error.to_string(),
            Self::Failed { source, .. } => source.to_string(),
            Self::Change { failure, .. } => match failure.split_once('\n') {
                Some((line, "")) => line.to_owned(),
                _ => failure.clone(),
            },
            Self::LockDiffers {
                missing, unused, ..
            } => [("missing", missing), ("not used", unused)]
                .iter()
                .filter(|(_, images)| !images.is_empty())
                .map(|(what, images)| format!("{what}: {}", quoted(images)))
                .collect::<Vec<_>>()
                .join("; "),
            _ => return None,
        })
    }

    /// What to do about it.
    // long: it has an arm for each kind
    fn help(&self) -> Option<String> {
        let help = match self {
            Self::Refused(error) => return error.help(),
            Self::Compile(CompileError::Limit { help, .. }) => help,
            // What the commands read that are told no file.
            Self::Compile(CompileError::Read(path, _)) if path.as_os_str() == "pods.ncl" => {
                "name a configuration, or write a first one: `tank init`"
            }
            Self::Unknown {
                name: Unknown { nearest, .. },
                ..
            } => {
                return Some(did_you_mean(
                    nearest.as_deref(),
                    "`tank doc` begins at the top, and `tank doc pods` is a pod's page",
                ));
            }
            Self::NoSuchPod { nearest, .. } => {
                return Some(did_you_mean(nearest.as_deref(), "name one of its pods"));
            }
            Self::NotPermitted { .. } => {
                "run it as root, or become a member of the group `tank` (which is as good as root on this host)"
            }
            Self::NoDaemon { .. } => {
                "start it with `systemctl start tankd` or, as root, `tankd`; another socket is named with --socket"
            }
            Self::Closed => {
                "it may have ended or been started again; a switch goes on (`tank generations list`), anything else is asked for again"
            }
            Self::Import(ImportError::Dialect(_)) => {
                "say it: --from compose, --from kubernetes or --from quadlet"
            }
            Self::RelativeDirectory(_) => "name it from the container's `/`: `--cwd /srv`",
            Self::NotAStream { why, .. } => match why {
                NoStream::Directory => "to copy a directory: `tank cp DIR POD:/PATH`",
                _ => "redirect it to a file, a pipe or `/dev/null`",
            },
            Self::PodGone => "`tank events` says why",
            Self::NotATty => "`tank logs -f` needs none",
            Self::Change {
                outcome,
                gated,
                undo,
                ..
            } => match (outcome.rolled_back, gated) {
                (true, _) => "nothing of the failed generation is left running",
                (false, true) => return Some(format!("go back with `{undo}`")),
                (false, false) => "tankd goes on with it; `tank list` shows how far it is",
            },
            Self::Interrupted {
                committed: None, ..
            } => "`tank generations list` shows it if the interrupt was too late",
            Self::Interrupted {
                committed: Some(_),
                undo,
            } => {
                return Some(format!(
                    "`{undo}` ends it and goes back; `tank generations list` shows how it ended, \
                     `tank list` how far it is"
                ));
            }
            Self::GoesOn { .. } => "`tank list` shows how far it is",
            Self::NotDeclared { .. } => "`tank get POD` shows what is",
            Self::LockDiffers { .. } => "run `tank lock`",
            Self::Exists { .. } => "`--force` overwrites it",
            Self::NoStdlibFolder => "set TANK_CACHE_DIR, or HOME",
            Self::NoStacks { .. } => {
                "put in a file (`blog.ncl`) or a folder (`blog/pods.ncl`) for each stack; to remove every pod, \
                 switch to a folder with an empty `pods.ncl`"
            }
            Self::NoPods { .. } => {
                "call its configuration `pods.ncl`; a folder that is no stack begins with `_` or `.`"
            }
            Self::NoStackName { .. } => {
                "name it as the stack; what is no stack begins with `_` or `.`"
            }
            Self::SameStack { .. } => "give one of the two another `stack`, or merge them",
            _ => return None,
        };
        Some(help.to_owned())
    }
}

/// The message.
impl fmt::Display for Error {
    // long: it has an arm for each kind
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(varlink::Error::ImageUnavailable {
                image, containers, ..
            }) => {
                let users = varlink::used_by(containers.as_deref());
                write!(f, "can't get the image `{image}`{users}")
            }
            Self::Refused(varlink::Error::Failed { what, .. }) => write!(f, "can't {what}"),
            Self::Refused(error) => error.fmt(f),
            Self::NotPermitted { socket } => write!(f, "not permitted to use {socket}"),
            Self::NoDaemon { socket } => {
                write!(f, "tankd is not running: nothing answers at {socket}")
            }
            Self::Unreachable { socket, .. } => write!(f, "can't connect to {socket}"),
            Self::Closed => f.write_str("tankd closed the connection"),
            Self::Connection(_) => f.write_str("can't speak with tankd"),
            Self::Answer(what) => f.write_str(what),
            Self::AnswerJson(error) => write!(f, "can't read tankd's answer: {error}"),
            Self::Compile(error) => error.fmt(f),
            Self::Import(error) => error.fmt(f),
            Self::Failed { what, .. } => write!(f, "can't {what}"),
            Self::Start(error) => write!(f, "can't start: {error}"),
            Self::Print(error) => write!(f, "can't print: {error}"),
            Self::Json(error) => write!(f, "can't write JSON: {error}"),
            Self::RelativeDirectory(cwd) => {
                write!(f, "the working directory `{cwd}` is not absolute")
            }
            Self::NotAStream { name, why } => {
                write!(f, "can't hand {name} into the container: it is {why}")
            }
            Self::PodGone => f.write_str("the pod has gone"),
            Self::NotATty => f.write_str("not a tty: standard input is no terminal"),
            Self::Change { outcome, gated, .. } => {
                let number = outcome.generation;
                match (outcome.rolled_back, gated) {
                    (true, _) => {
                        write!(f, "put back to what ran before, as generation {number}")
                    }
                    (false, true) => write!(f, "generation {number} does not work"),
                    (false, false) => write!(
                        f,
                        "generation {number} is current and not all of it is there"
                    ),
                }
            }
            Self::Interrupted {
                committed: None, ..
            } => f.write_str("interrupted before the commit: tankd ends it and nothing is changed"),
            Self::Interrupted {
                committed: Some(generation),
                ..
            } => write!(f, "interrupted, and {generation} goes on being reached"),
            Self::GoesOn { what } => write!(f, "interrupted, and tankd goes on with the {what}"),
            Self::NotDeclared { field } => write!(f, "`{field}` is not declared"),
            Self::NoSuchPod { pod, .. } => write!(f, "the configuration has no pod `{pod}`"),
            Self::LockDiffers { path, .. } => {
                write!(f, "{} does not fit the configuration", path.display())
            }
            Self::Exists { file } => write!(f, "{} is there already", file.display()),
            Self::NoStdlibFolder => {
                f.write_str("there is no folder to keep a copy of `tank.ncl` in")
            }
            Self::Unknown { what, name } => write!(f, "no {what} is called `{}`", name.what),
            Self::Environment { name, .. } => {
                write!(f, "the environment variable {name} is wrong")
            }
            Self::NoStacks { folder } => {
                write!(f, "{} has no configuration of a stack", folder.display())
            }
            Self::NoPods { folder } => write!(f, "{} has no `pods.ncl`", folder.display()),
            Self::NoStackName { path, .. } => {
                write!(
                    f,
                    "{} can't be the configuration of a stack",
                    path.display()
                )
            }
            Self::SameStack {
                stack,
                first,
                second,
            } => {
                let (first, second) = (first.display(), second.display());
                match stack {
                    Some(stack) => write!(f, "{first} and {second} are both the stack `{stack}`"),
                    None => write!(f, "{first} and {second} both belong to no stack"),
                }
            }
            Self::NothingToOverride => {
                f.write_str("--set overrides a field of a file, and no file is named")
            }
        }
    }
}

fn did_you_mean(nearest: Option<&str>, otherwise: &str) -> String {
    nearest.map_or_else(
        || otherwise.to_owned(),
        |near| format!("did you mean `{near}`?"),
    )
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

impl From<varlink::Error> for Error {
    fn from(error: varlink::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<CompileError> for Error {
    fn from(error: CompileError) -> Self {
        Self::Compile(error)
    }
}

impl From<ImportError> for Error {
    fn from(error: ImportError) -> Self {
        Self::Import(error)
    }
}

/// The most columns of a picture of problems.
const MAX_WIDTH: usize = 100;

/// The most problems that are drawn; who has more starts with these.
const MAX_DRAWN: usize = 100;

/// Every problem with its snippets.
fn draw(problems: &Problems, count: &str) -> String {
    let styles = if output::colours() {
        ThemeStyles::ansi()
    } else {
        ThemeStyles::none()
    };
    let theme = GraphicalTheme {
        characters: ThemeCharacters::unicode(),
        styles,
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_width(output::error_width().min(MAX_WIDTH));
    let mut text = String::new();
    let diagnostics = problems.diagnostics();
    for problem in diagnostics.iter().take(MAX_DRAWN) {
        if handler.render_report(&mut text, problem).is_err() {
            text.push_str(&problem.to_string());
        }
        text.push('\n');
    }
    let more = diagnostics.len().saturating_sub(MAX_DRAWN);
    let rest = if more > 0 {
        format!(", {more} of them not shown")
    } else {
        String::new()
    };
    format!("{text}{count}{rest}; what a code means: `tank doc --error CODE`\n")
}
