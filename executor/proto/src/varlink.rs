//! The interface `io.tank.Executor`. The file `io.tank.Executor.varlink` is the contract and is
//! served as it stands; these are its shapes in Rust, and a test holds the two together.

use crate::timing::Span;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The interface's name.
pub const INTERFACE: &str = "io.tank.Executor";

/// The interface as it is introspected.
pub const DESCRIPTION: &str = include_str!("../io.tank.Executor.varlink");

/// The default socket.
pub const SOCKET: &str = "/run/tank/tank.sock";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Method {
    #[serde(rename = "io.tank.Executor.Status")]
    Status {},
    #[serde(rename = "io.tank.Executor.Diff")]
    Diff(DiffCall),
    #[serde(rename = "io.tank.Executor.Switch")]
    Switch(SwitchCall),
    #[serde(rename = "io.tank.Executor.Delete")]
    Delete { pod: String },
    #[serde(rename = "io.tank.Executor.Rollback")]
    Rollback { to: Option<u64> },
    #[serde(rename = "io.tank.Executor.Generations")]
    Generations {},
    #[serde(rename = "io.tank.Executor.GetGeneration")]
    GetGeneration { number: Option<u64> },
    #[serde(rename = "io.tank.Executor.GenerationDiff")]
    GenerationDiff { from: u64, to: u64 },
    #[serde(rename = "io.tank.Executor.List")]
    List {},
    #[serde(rename = "io.tank.Executor.Get")]
    Get { pod: String },
    #[serde(rename = "io.tank.Executor.Exec")]
    Exec(ExecCall),
    #[serde(rename = "io.tank.Executor.Attach")]
    Attach {
        pod: String,
        container: Option<String>,
    },
    #[serde(rename = "io.tank.Executor.Logs")]
    Logs(LogsCall),
    #[serde(rename = "io.tank.Executor.Events")]
    Events { follow: Option<bool> },
    #[serde(rename = "io.tank.Executor.Why")]
    Why { field: String },
    #[serde(rename = "io.tank.Executor.Resolve")]
    Resolve { images: Vec<String> },
}

/// Every method's name, to tell an unknown one from wrong parameters.
pub const METHODS: [&str; 16] = [
    "Status",
    "Diff",
    "Switch",
    "Delete",
    "Rollback",
    "Generations",
    "GetGeneration",
    "GenerationDiff",
    "List",
    "Get",
    "Exec",
    "Attach",
    "Logs",
    "Events",
    "Why",
    "Resolve",
];

/// Methods by the names they had in the version before, for clients of that version. `Generation`
/// was a type as well, and clients that keep both in one table called the type. To be removed with
/// the next version.
pub const RENAMED: [(&str, &str); 1] = [("Generation", "GetGeneration")];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiffCall {
    pub config: Option<String>,
    pub base_dir: Option<String>,
    pub source: Option<String>,
    pub merge: Option<bool>,
    pub files: Option<Vec<String>>,
    pub replace: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SwitchCall {
    pub config: String,
    pub base_dir: Option<String>,
    pub source: String,
    pub merge: Option<bool>,
    pub rollback: Option<bool>,
    pub wait: Option<u64>,
    pub plan: Option<String>,
    pub provenance: Option<String>,
    pub timings: Option<bool>,
    pub files: Option<Vec<String>>,
    pub replace: Option<bool>,
    pub parent: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecCall {
    pub pod: String,
    pub container: Option<String>,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub rows: Option<u16>,
    pub columns: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogsCall {
    pub pod: String,
    pub container: Option<String>,
    pub tail: Option<u64>,
    pub follow: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub stage: String,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub number: u64,
    pub root: String,
    pub parent: Option<u64>,
    pub time: u64,
    pub uid: u32,
    pub source: String,
    pub outcome: String,
    pub current: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub generation: u64,
    pub root: String,
    pub changed: bool,
    pub rolled_back: bool,
    pub failure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Vec<Span>>,
}

/// A reply of a method that streams its progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchReply {
    pub progress: Option<Progress>,
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub text: String,
    pub pod: Option<String>,
    pub class: String,
    pub why: String,
    pub drift: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub what: String,
    pub change: String,
    pub field: Option<String>,
    pub before: Option<String>,
    pub after: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReply {
    pub changes: Vec<Change>,
    pub steps: Vec<Step>,
    pub waiting: Vec<String>,
    pub plan: String,
    pub parent: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub digest: Option<String>,
    pub state: String,
    pub pid: Option<i32>,
    pub status: Option<i32>,
    pub restarts: u32,
    pub started: Option<u64>,
    pub ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub name: String,
    pub state: String,
    pub addresses: Vec<String>,
    pub published: Vec<String>,
    pub containers: Vec<Container>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub time: u64,
    pub kind: String,
    pub pod: Option<String>,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    pub version: String,
    pub pid: u32,
    pub generation: Option<u64>,
    pub root: Option<String>,
    pub pods: u64,
    pub running: u64,
    pub kernel: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationsReply {
    pub generations: Vec<Generation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationReply {
    pub generation: Generation,
    pub config: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesReply {
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    pub pods: Vec<Pod>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetReply {
    pub pod: Pod,
    pub config: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecReply {
    pub pid: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachReply {
    pub container: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsReply {
    pub container: String,
    pub line: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsReply {
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overridden {
    pub place: String,
    pub text: String,
    pub priority: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReply {
    pub field: String,
    pub value: Option<String>,
    pub place: Option<String>,
    pub via: Option<String>,
    pub overrode: Vec<Overridden>,
    pub since: Option<Generation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    pub image: String,
    pub digest: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveReply {
    pub images: Vec<Resolved>,
}

/// Every error of the interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum Error {
    #[error("no such pod: `{pod}`")]
    #[serde(rename = "io.tank.Executor.NoSuchPod")]
    NoSuchPod {
        pod: String,
        nearest: Option<String>,
    },
    #[error("pod `{pod}` has {}", match container {
        Some(container) => format!("no container `{container}`"),
        None => "several containers".to_owned(),
    })]
    #[serde(rename = "io.tank.Executor.NoSuchContainer")]
    NoSuchContainer {
        pod: String,
        container: Option<String>,
        known: Vec<String>,
    },
    #[error("not running: `{pod}/{container}`")]
    #[serde(rename = "io.tank.Executor.NotRunning")]
    NotRunning { pod: String, container: String },
    #[error("not a tty: `{pod}/{container}` has no terminal")]
    #[serde(rename = "io.tank.Executor.NotATty")]
    NotATty { pod: String, container: String },
    #[error("`{program}`: not found in the container")]
    #[serde(rename = "io.tank.Executor.NotFound")]
    NotFound { program: String },
    #[error("`{program}`: can't be executed")]
    #[serde(rename = "io.tank.Executor.NotExecutable")]
    NotExecutable { program: String },
    #[error("no such generation{}", number.map(|number| format!(": {number}")).unwrap_or_default())]
    #[serde(rename = "io.tank.Executor.NoSuchGeneration")]
    NoSuchGeneration { number: Option<u64> },
    #[error("the host has moved since that plan was made")]
    #[serde(rename = "io.tank.Executor.PlanChanged")]
    PlanChanged { expected: String, actual: String },
    #[error("{message}")]
    #[serde(rename = "io.tank.Executor.Busy")]
    Busy { message: String },
    #[error("{}generation {generation} ({by}) came first", match ended {
        Some(ended) => format!("generation {ended} was ended on its way: "),
        None => String::new(),
    })]
    #[serde(rename = "io.tank.Executor.Superseded")]
    Superseded {
        generation: u64,
        by: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<u64>,
    },
    #[error("pod `{pod}` comes from {known}, and {asked} is another source")]
    #[serde(rename = "io.tank.Executor.OtherSource")]
    OtherSource {
        pod: String,
        known: String,
        asked: String,
    },
    #[error("the configuration is not valid: {}", problems.join("; "))]
    #[serde(rename = "io.tank.Executor.Invalid")]
    Invalid { problems: Vec<String> },
    #[error("can't get the image `{image}`: {why}")]
    #[serde(rename = "io.tank.Executor.ImageUnavailable")]
    ImageUnavailable {
        image: String,
        why: String,
        help: Option<String>,
    },
    #[error("can't {what}: {why}")]
    #[serde(rename = "io.tank.Executor.Failed")]
    Failed { what: String, why: String },
}

impl Error {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoSuchPod {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Self::NoSuchPod { nearest: None, .. } => {
                Some("`tank list` shows the pods there are".to_owned())
            }
            Self::NoSuchContainer { pod, known, .. } => Some(format!(
                "name one: {}",
                known
                    .iter()
                    .map(|c| format!("`{pod}/{c}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            Self::NotRunning { pod, .. } => {
                Some(format!("`tank logs {pod}` shows what it said last"))
            }
            Self::NotATty { pod, container } => Some(format!(
                "set `tty = true` for it, or use `tank logs -f {pod}/{container}` to watch and `tank exec` to enter"
            )),
            Self::NoSuchGeneration { .. } => {
                Some("`tank generations list` shows those there are".to_owned())
            }
            Self::Superseded {
                generation,
                ended: Some(_),
                ..
            } => Some(format!(
                "the host is what generation {generation} declares; `tank diff` shows what is missing"
            )),
            Self::OtherSource { pod, .. } => Some(format!(
                "give one of the two another name, or take `{pod}` over with `--replace`"
            )),
            Self::Busy { .. } => Some("`tank generations rollback` ends it".to_owned()),
            Self::Superseded { .. } => {
                Some("nothing was changed; look at `tank diff` and switch again".to_owned())
            }
            Self::PlanChanged { .. } => Some("look at `tank diff` again".to_owned()),
            Self::ImageUnavailable { help, .. } => help.clone(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zlink::idl::Interface;

    #[test]
    fn the_file_describes_every_method() {
        let interface = Interface::try_from(DESCRIPTION).expect("the file parses");
        assert_eq!(interface.name().as_str(), INTERFACE);
        let described: Vec<String> = interface
            .methods()
            .map(|method| method.name().to_string())
            .collect();
        assert_eq!(described, METHODS);
    }

    #[test]
    fn no_name_stands_for_two_things() {
        let mut names: Vec<&str> = DESCRIPTION
            .lines()
            .filter_map(|line| {
                ["method ", "type ", "error "]
                    .iter()
                    .find_map(|kind| line.strip_prefix(kind))
            })
            .filter_map(|rest| rest.split(['(', ' ']).next())
            .collect();
        names.sort_unstable();
        let twice: Vec<&str> = names
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| pair[0])
            .collect();
        assert_eq!(twice, Vec::<&str>::new());
        assert!(
            RENAMED
                .iter()
                .all(|(old, new)| !METHODS.contains(old) && METHODS.contains(new))
        );
    }

    #[test]
    fn the_file_describes_every_error() {
        let errors = DESCRIPTION
            .lines()
            .filter_map(|line| line.strip_prefix("error ")?.split(' ').next());
        for name in errors {
            let wrong =
                serde_json::json!({ "error": format!("{INTERFACE}.{name}"), "parameters": 1 });
            let message = serde_json::from_value::<Error>(wrong)
                .expect_err("wrong parameters")
                .to_string();
            assert!(
                !message.contains("unknown variant"),
                "{name} is in the file and not in the code"
            );
        }
    }
}
