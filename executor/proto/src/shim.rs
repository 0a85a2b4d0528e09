//! Packets between `tankd` and a pod's shim.
//!
//! The shim is told what to do in full and decides nothing. Requests are answered in order, each with one
//! [`Reply`]; between replies the shim sends [`Event`]s. Descriptors travel beside the packet and are named by their
//! place in it. A [`Request::Start`] or [`Request::Exec`] can be larger than a packet, so what it says is in a sealed
//! memory file, the first descriptor.
//!
//! [`VERSION`] is part of the state a shim reports: a newer `tankd` takes over the shims of an older one.

use crate::timing::Span;
use serde::{Deserialize, Serialize};

/// The version of these messages.
///
/// 1: the first. 2: [`Request::Files`], [`Event::Stopped`], [`Setup::nofile`]. 3: [`StartSpec::into`], where the time
/// went.
pub const VERSION: u32 = 3;

/// The most bytes of a start or exec specification: 4 MiB (`ARG_MAX` is 2 MiB).
pub const MAX_SPEC: u64 = 4 << 20;

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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Reply::State`].
    State,
    /// Answered by [`Reply::Namespaces`], with the user namespace and, where there is one, the network namespace.
    Namespaces,
    /// Starts a main process. Descriptors: the [`StartSpec`], then those it names.
    Start,
    /// Sends a signal to a main process.
    Signal { container: String, signal: i32 },
    /// Forgets an ended container.
    Forget { container: String },
    /// Runs a second process. Descriptors: the [`ExecSpec`], then stdin, stdout and stderr unless it has a terminal.
    /// Answered with a control socket ([`crate::terminal`]) and, with a terminal, its master.
    Exec,
    /// Answered with a socket of [`crate::terminal`] to the main process's terminal.
    Attach { container: String },
    /// Answered by [`Reply::Files`], with the mount of the files Tank wrote for a running container.
    Files { container: String },
    /// Ends every container and the shim itself.
    Shutdown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Said once, unasked, on the socket that a shim is made with. Descriptors: its user namespace and, where it has a
    /// network of its own, that namespace and two sockets in it: one for its routing tables, one that tells of changes.
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
    Stopped {
        container: String,
    },
}

/// A packet from the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromShim {
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
}

/// Ids inside the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}
