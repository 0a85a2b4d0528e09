//! What shells and `man` are given: completions, which ask the daemon as they are asked, and pages, both of the same
//! [`Args`] as `--help`.

use crate::{args::Args, client::Client};
use clap::{Command, CommandFactory};
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    ffi::{OsStr, OsString},
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tank_compiler::manual;
use tank_proto::varlink::{
    GenerationsReply, GetReply, ImagesReply, ListReply, Method, SOCKET, VolumesReply,
};

/// The first argument that has the pages written into the folder that follows it.
pub const MAN_PAGES: &str = "__man-pages";

/// How long a shell waits for the daemon.
const LIMIT: Duration = Duration::from_secs(1);

/// How deep a running configuration is completed below a container or a pod, in names.
const MAX_DEPTH: usize = 3;

/// What an argument names.
#[derive(Clone, Copy)]
enum Named {
    Pod,
    Container,
    Generation,
    /// A path of a container, or of this host.
    Place,
    Volume,
    Image,
    Stack,
    /// A field of a pod that is declared.
    Declared,
    /// A field that may be declared.
    Field,
    Code,
}

/// The arguments that name something, each by its command.
const ARGUMENTS: [(&[&str], &str, Named); 44] = [
    (&["get"], "pod", Named::Pod),
    (&["explain"], "pod", Named::Pod),
    (&["port-forward"], "pod", Named::Pod),
    (&["stop"], "pods", Named::Container),
    (&["stop"], "stack", Named::Stack),
    (&["start"], "pods", Named::Container),
    (&["start"], "stack", Named::Stack),
    (&["restart"], "pods", Named::Container),
    (&["restart"], "stack", Named::Stack),
    (&["stats"], "pods", Named::Pod),
    (&["events"], "pods", Named::Pod),
    (&["stats"], "stack", Named::Stack),
    (&["events"], "stack", Named::Stack),
    (&["delete"], "pods", Named::Pod),
    (&["exec"], "target", Named::Container),
    (&["run"], "target", Named::Container),
    (&["cp"], "from", Named::Place),
    (&["cp"], "to", Named::Place),
    (&["attach"], "target", Named::Container),
    (&["logs"], "targets", Named::Container),
    (&["why"], "field", Named::Declared),
    (&["doc"], "field", Named::Field),
    (&["doc"], "error", Named::Code),
    (&["list"], "stack", Named::Stack),
    (&["logs"], "stack", Named::Stack),
    (&["delete"], "stack", Named::Stack),
    (&["generations", "rollback"], "stack", Named::Stack),
    (&["generations", "show"], "number", Named::Generation),
    (&["generations", "diff"], "from", Named::Generation),
    (&["generations", "diff"], "to", Named::Generation),
    (&["generations", "rollback"], "to", Named::Generation),
    (&["generations", "delete"], "numbers", Named::Generation),
    (&["generations", "pin"], "number", Named::Generation),
    (&["generations", "unpin"], "number", Named::Generation),
    (&["generations", "export"], "number", Named::Generation),
    (&["volume", "remove"], "volumes", Named::Volume),
    (&["volume", "export"], "volume", Named::Volume),
    (&["volume", "import"], "volume", Named::Volume),
    (&["volume", "backup"], "volume", Named::Volume),
    (&["volume", "backups"], "volume", Named::Volume),
    (&["volume", "restore"], "volume", Named::Volume),
    (&["image", "save"], "images", Named::Image),
    (&["image", "inspect"], "image", Named::Image),
    (&["image", "remove"], "images", Named::Image),
];

/// Answers a shell that asks for completions, and ends this process then. `COMPLETE=bash tank` prints what makes
/// bash ask; zsh, fish, elvish and powershell likewise.
pub fn answer() {
    // Asked is the program that the shell finds, wherever it is by then.
    clap_complete::CompleteEnv::with_factory(command)
        .bin("tank")
        .completer("tank")
        .complete();
}

/// The whole command, with what its arguments may be.
fn command() -> Command {
    let mut command = Args::command();
    for (path, argument, named) in ARGUMENTS {
        command = with(command, path, argument, named);
    }
    command
}

fn with(command: Command, path: &[&'static str], argument: &'static str, named: Named) -> Command {
    match path {
        // `mut_arg` would put the argument behind the others.
        [] => command.mut_args(|arg| match arg.get_id() == argument {
            true => arg.add(ArgValueCompleter::new(named)),
            false => arg,
        }),
        [first, rest @ ..] => {
            command.mut_subcommand(first, |inner| with(inner, rest, argument, named))
        }
    }
}

impl ValueCompleter for Named {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let Some(current) = current.to_str() else {
            return Vec::new();
        };
        // Nobody hears of an error while typing.
        let found = self.candidates(current).unwrap_or_default();
        let files = match self {
            Self::Place => PathCompleter::any().complete(OsStr::new(current)),
            _ => Vec::new(),
        };
        found
            .into_iter()
            .filter(|(value, _)| value.starts_with(current) && is_plain(value))
            .map(|(value, help)| {
                let help = (!help.is_empty()).then(|| help.into());
                CompletionCandidate::new(value).help(help)
            })
            .chain(files)
            .collect()
    }
}

/// Whether a shell takes a word as it stands: names of variables, of which some are offered, may have anything in them.
fn is_plain(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@-".contains(c);
    value.chars().all(plain)
}

impl Named {
    /// What may stand where `current` begins, with a few words on it.
    // long: an arm for each kind of name
    fn candidates(self, current: &str) -> Option<Vec<(String, String)>> {
        let bare = |values: Vec<String>| -> Vec<(String, String)> {
            values
                .into_iter()
                .map(|value| (value, String::new()))
                .collect()
        };
        Some(match self {
            Self::Field => manual::fields(),
            Self::Code => bare(manual::codes().map(str::to_owned).collect()),
            Self::Pod => bare(pods()?.pods.into_iter().map(|pod| pod.name).collect()),
            Self::Container => containers(&pods()?),
            Self::Place => {
                let found = containers(&pods()?).into_iter();
                found
                    .map(|(name, help)| (format!("{name}:/"), help))
                    .collect()
            }
            Self::Stack => {
                let pods = pods()?.pods.into_iter();
                let stacks = pods.filter_map(|pod| Some(pod.name.split_once(':')?.0.to_owned()));
                bare(
                    stacks
                        .collect::<std::collections::BTreeSet<_>>()
                        .into_iter()
                        .collect(),
                )
            }
            Self::Generation => {
                let reply: GenerationsReply = ask(Method::Generations {})?;
                let newest_first = reply.generations.into_iter().rev();
                newest_first
                    .map(|generation| (generation.number.to_string(), generation.source))
                    .collect()
            }
            Self::Volume => {
                let reply: VolumesReply = ask(Method::Volumes {})?;
                bare(
                    reply
                        .volumes
                        .into_iter()
                        .map(|volume| volume.name)
                        .collect(),
                )
            }
            Self::Image => {
                let reply: ImagesReply = ask(Method::Images {})?;
                bare(
                    reply
                        .images
                        .into_iter()
                        .flat_map(|image| image.references)
                        .collect(),
                )
            }
            Self::Declared => match current.split_once('.') {
                None => pods()?
                    .pods
                    .into_iter()
                    .map(|pod| (format!("{}.", pod.name), String::new()))
                    .collect(),
                Some((pod, _)) => {
                    let reply: GetReply = ask(Method::Get {
                        pod: pod.to_owned(),
                    })?;
                    declared(pod, &serde_json::from_str(&reply.config).ok()?)
                }
            },
        })
    }
}

/// Pods with one container by their names, the containers of others by theirs.
fn containers(reply: &ListReply) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for pod in &reply.pods {
        found.push((pod.name.clone(), String::new()));
        if pod.containers.len() > 1 {
            let names = pod
                .containers
                .iter()
                .map(|container| format!("{}/{}", pod.name, container.name));
            found.extend(names.map(|name| (name, String::new())));
        }
    }
    found
}

/// The paths of what a pod declares, as `why` takes them: `web.app.env.LOG`.
fn declared(pod: &str, config: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    // A configuration with this pod alone.
    let pods = config.get("pods").and_then(Value::as_object);
    let own = pods.and_then(|pods| pods.values().next());
    for (name, value) in own.and_then(Value::as_object).into_iter().flatten() {
        match (name.as_str(), value.as_object()) {
            ("containers" | "init", Some(containers)) => {
                for (container, value) in containers {
                    paths(&format!("{pod}.{container}"), value, MAX_DEPTH, &mut found);
                }
            }
            _ => paths(&format!("{pod}.{name}"), value, MAX_DEPTH - 1, &mut found),
        }
    }
    found
}

fn paths(path: &str, value: &Value, depth: usize, found: &mut Vec<(String, String)>) {
    match value.as_object() {
        Some(fields) if depth > 0 && !fields.is_empty() => {
            for (name, value) in fields {
                paths(&format!("{path}.{name}"), value, depth - 1, found);
            }
        }
        _ => found.push((path.to_owned(), String::new())),
    }
}

fn pods() -> Option<ListReply> {
    ask(Method::List {})
}

/// What the daemon answers, if it does so soon.
fn ask<R: DeserializeOwned + Debug>(method: Method) -> Option<R> {
    let socket =
        std::env::var_os("TANK_SOCKET").map_or_else(|| PathBuf::from(SOCKET), PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.ok()?.block_on(async {
        let call = async { Client::connect(&socket).await.ok()?.call(method).await.ok() };
        tokio::time::timeout(LIMIT, call).await.ok()?
    })
}

/// Writes a page for `tank` and for each of its commands into a folder.
///
/// # Errors
/// What writing gives.
pub fn man_pages(folder: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Args::command(), folder)
}

/// Whether this process is to write [`man_pages`], and where.
pub fn man_pages_asked() -> Option<OsString> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == MAN_PAGES).then(|| arguments.next())?
}
