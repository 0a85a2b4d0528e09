//! Packets between `tankd` and a pod's shim.
//!
//! The shim is told what to do in full and decides nothing. Each request is a [`Call`] with an id
//! of its own and is answered by one [`Answer`] with that id, so that an answer that is lost, late
//! or sent twice is never taken for another one's; between answers the shim sends [`Event`]s. Shims
//! before version 4 answer with a bare [`Reply`], in order.
//!
//! Descriptors travel beside the packet and are named by their place in it. A [`Request::Start`] or
//! [`Request::Exec`] can be larger than a packet, so what it says is in a sealed memory file, the
//! first descriptor. The descriptors of a start beyond [`MAX_BESIDE`] wait in a socket that is the
//! last of those: they arrive with the request or not at all.
//!
//! What a shim says of a failure can be as long as what it was asked: [`Failure::bounded`] makes it
//! fit.
//!
//! [`VERSION`] is part of the state a shim reports: a newer `tankd` takes over the shims of an
//! older one.

use crate::timing::Span;
use serde::{Deserialize, Serialize};

/// The version of these messages.
///
/// 1: the first. 2: [`Request::Files`], [`Event::Stopped`], [`Setup::nofile`]. 3:
/// [`StartSpec::into`], where the time went. 4: [`Call::id`], [`ExecSpec::kill_on_close`],
/// [`StartSpec::descriptors`], [`Reply::Sealed`].
pub const VERSION: u32 = 4;

/// The first version that answers with the request's id, and takes more descriptors than
/// [`MAX_BESIDE`].
pub const WITH_IDS: u32 = 4;

/// The most bytes of a start or exec specification: 4 MiB (`ARG_MAX` is 2 MiB).
pub const MAX_SPEC: u64 = 4 << 20;

/// The most descriptors of a start that travel beside its packet, the specification not counted.
pub const MAX_BESIDE: usize = 100;

/// The most descriptors of a start: its root, its mounts, its files and its cgroups.
pub const MAX_DESCRIPTORS: usize = 1_200;

/// The most bytes of each text of a [`Failure`]: half a line of a log, and with every byte escaped
/// two of them still fit into a packet.
pub const MAX_FAILURE: usize = 2 << 10;

/// What a shim is made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    pub pod: String,
    /// The hash of the sandbox node it stands for.
    pub sandbox: String,
    pub hostname: String,
    /// The first host id of the pod's 65,536.
    pub id_base: u32,
    /// Whether the pod has its own network namespace.
    pub own_network: bool,
    pub sysctls: Vec<(String, String)>,
    /// The socket to listen on.
    pub socket: String,
    /// Where logs are written, a folder per pod.
    pub log_dir: String,
    /// An empty directory, to attach root file systems on for a moment.
    pub attach_on: String,
    /// `tasks` files, as paths, of the cgroups of version 1 that the shim itself belongs in.
    pub cgroup: Vec<String>,
    /// Soft and hard limit of descriptors that containers get unless they name their own.
    #[serde(default)]
    pub nofile: Option<(u64, u64)>,
    /// Say in [`Reply::Ready`] where the time went.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed: bool,
}

/// A packet to the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Counted up on each connection. None: from a `tankd` before version 4, which takes answers by
    /// their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    #[serde(flatten)]
    pub request: Request,
}

/// The reply to one [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub id: u64,
    #[serde(flatten)]
    pub reply: Reply,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Reply::State`].
    State,
    /// Answered by [`Reply::Namespaces`], with the user namespace and, where there is one, the
    /// network namespace.
    Namespaces,
    /// Starts a main process. Descriptors: the [`StartSpec`], then those it names.
    Start,
    /// Sends a signal to a main process.
    Signal { container: String, signal: i32 },
    /// Forgets an ended container.
    Forget { container: String },
    /// Runs a second process. Descriptors: the [`ExecSpec`], then stdin, stdout and stderr unless
    /// it has a terminal. Answered with a control socket ([`crate::terminal`]) and, with a
    /// terminal, its master.
    Exec,
    /// Answered with a socket of [`crate::terminal`] to the main process's terminal.
    Attach { container: String },
    /// Answered by [`Reply::Files`], with the mount of the files Tank wrote for a running
    /// container.
    Files { container: String },
    /// Ends every container and the shim itself.
    Shutdown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Said once, unasked, on the socket that a shim is made with. Descriptors: its user namespace
    /// and, where it has a network of its own, that namespace and two sockets in it: one for its
    /// routing tables, one that tells of changes.
    Ready {
        pid: i32,
        /// Where the time went, if that was asked.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spans: Vec<Span>,
    },
    State(State),
    Namespaces,
    Started {
        pid: i32,
        /// Where the time went, if that was asked.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spans: Vec<Span>,
    },
    Executed {
        pid: i32,
    },
    Attached,
    Files,
    Done,
    /// The reply is larger than a packet: it is in a sealed memory file, the first descriptor. Only
    /// in an [`Answer`].
    Sealed,
    Failed(Failure),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was attempted.
    pub what: String,
    /// Why it failed.
    pub why: String,
    pub kind: FailureKind,
}

impl Failure {
    /// The same with each text cut to [`MAX_FAILURE`] bytes, and a note where something was left
    /// out. What a failure quotes can be of any length: the word that was to be executed, a path.
    pub fn bounded(self) -> Self {
        Self {
            what: bounded(self.what),
            why: bounded(self.why),
            kind: self.kind,
        }
    }
}

fn bounded(text: String) -> String {
    if text.len() <= MAX_FAILURE {
        return text;
    }
    let cut = (0..=MAX_FAILURE)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    format!("{}\u{2026} ({} bytes more)", &text[..cut], text.len() - cut)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist in the container.
    NotFound,
    /// It exists and can't be executed.
    NotExecutable,
    NotRunning,
    NotATty,
    Other,
}

/// Said without being asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Exited {
        container: String,
        exit: ExitStatus,
        at: u64,
    },
    /// A main process was stopped by a signal.
    Stopped { container: String },
}

/// A packet from the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromShim {
    Answer(Answer),
    /// The reply of a shim before version 4; and of any [`Reply::Ready`].
    Reply(Reply),
    Event(Event),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    pub pod: String,
    pub sandbox: String,
    pub pid: i32,
    pub id_base: u32,
    pub containers: Vec<ContainerState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    pub name: String,
    /// The hash of the container node it was started from.
    pub hash: String,
    /// How many times in a row it has been restarted.
    pub attempt: u32,
    pub pid: i32,
    pub tty: bool,
    /// Milliseconds since the epoch.
    pub started: u64,
    /// None: it runs.
    pub exited: Option<(ExitStatus, u64)>,
    /// When it was started and when it ended, in milliseconds of `CLOCK_BOOTTIME`: setting the
    /// clock moves neither. None: its shim is older than these fields, or it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_boot: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited_boot: Option<u64>,
    /// Kept here, so that a stop needs neither the image nor the generation it came from.
    pub stop_signal: i32,
    /// Milliseconds between that signal and `SIGKILL`.
    pub stop_timeout: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

/// Everything a main process is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSpec {
    pub name: String,
    pub hash: String,
    pub attempt: u32,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub user: User,
    pub tty: bool,
    pub read_only: bool,
    pub bounding: Vec<String>,
    pub ambient: Vec<String>,
    pub stop_signal: i32,
    pub stop_timeout: u64,
    /// The root file system: a detached mount.
    pub root: usize,
    /// Detached mounts and their places, parents first.
    pub mounts: Vec<(usize, String)>,
    /// A detached mount of generated files, and each file's name and place.
    pub files: Option<(usize, Vec<(String, String)>)>,
    /// `tasks` files of cgroups of version 1, then the `cgroup.procs` of the one of version 2.
    pub cgroup: Vec<usize>,
    /// The directory of the one of version 2: who knows it is born there and does not join it.
    #[serde(default)]
    pub into: Option<usize>,
    /// How many descriptors there are in all, where the last one beside the packet is the socket
    /// that holds the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<usize>,
    /// Name, soft and hard limit; none: unlimited.
    #[serde(default)]
    pub ulimits: Vec<(String, Option<u64>, Option<u64>)>,
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Beside those that every container has.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Say in the reply where the time went.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed: bool,
}

/// How the default system call filter is changed, by the numbers of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// No default filter; `deny` still holds.
    pub unconfined: bool,
    pub allow: Vec<i64>,
    pub deny: Vec<i64>,
    /// No file becomes set-user-id or set-group-id, whatever is allowed.
    #[serde(default)]
    pub no_set_id: bool,
}

/// A device node to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute, below `/dev`.
    pub path: String,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    pub read_only: bool,
}

/// Everything a second process in a container is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    pub container: String,
    pub argv: Vec<String>,
    /// On top of the main process's environment.
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
    /// Rows and columns. None: no terminal.
    pub terminal: Option<(u16, u16)>,
    /// The process, and whatever it started, ends when its control socket is closed; it counts
    /// apart from those that an operator runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill_on_close: bool,
}

/// Ids inside the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_any_length_fits_into_a_packet() {
        for text in [
            "x".repeat(70_000),
            "\u{1}".repeat(70_000),
            "\u{1F600}".repeat(20_000),
            "short".to_owned(),
        ] {
            let failure = Failure {
                what: text.clone(),
                why: text.clone(),
                kind: FailureKind::Other,
            }
            .bounded();
            let answer = FromShim::Answer(Answer {
                id: u64::MAX,
                reply: Reply::Failed(failure.clone()),
            });
            assert!(serde_json::to_vec(&answer).expect("encodes").len() < 32 << 10);
            assert!(text.starts_with(failure.what.split('\u{2026}').next().unwrap_or_default()));
            assert_eq!(failure.what == text, text.len() <= MAX_FAILURE);
        }
    }

    #[test]
    fn an_id_is_ignored_by_who_does_not_know_it() {
        let call = Call {
            id: Some(7),
            request: Request::Signal {
                container: "app".to_owned(),
                signal: 15,
            },
        };
        let text = serde_json::to_string(&call).expect("encodes");
        assert_eq!(
            text,
            r#"{"id":7,"op":"signal","container":"app","signal":15}"#
        );
        assert_eq!(
            serde_json::from_str::<Request>(&text).expect("version 3 reads it"),
            call.request
        );
        let state = serde_json::to_string(&Call {
            id: Some(8),
            request: Request::State,
        })
        .expect("encodes");
        assert_eq!(
            serde_json::from_str::<Request>(&state).expect("version 3 reads it"),
            Request::State
        );
        // And a `tankd` of version 3 sends none.
        let call: Call = serde_json::from_str(r#"{"op":"state"}"#).expect("version 4 reads it");
        assert_eq!(
            call,
            Call {
                id: None,
                request: Request::State
            }
        );
    }
}
