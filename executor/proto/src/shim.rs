//! Packets between `tankd` and a pod's shim.
//!
//! A request says in full what is to be done; the shim decides nothing. Each is a [`Call`] with an id
//! of its own and is answered by one [`Answer`] with that id, so that an answer that is lost, late
//! or sent twice is never taken for another one's; between answers the shim sends [`Event`]s. Shims
//! before version 4 answer with a bare [`Reply`], in order.
//!
//! Descriptors travel beside the packet and are named by their place in it. A [`Request::Start`] or
//! [`Request::Exec`] can be larger than a packet, so its specification is in a sealed memory file, the
//! first descriptor. The descriptors of a start beyond [`MAX_BESIDE`] wait in a socket that is the
//! last of those: they arrive with the request or not at all.
//!
//! A failure quotes what it was requested to do, which can be of any length: [`Failure::bounded`]
//! makes it fit.
//!
//! [`VERSION`] is part of the state a shim reports: a newer `tankd` takes over the shims of an
//! older one.

mod exec;

pub use exec::ExecSpec;

use crate::{log, timing::Span};
use serde::{Deserialize, Serialize};

/// The version of these messages.
///
/// 1: the first. 2: [`Request::Files`], [`Event::Stopped`], [`Setup::nofile`]. 3:
/// [`StartSpec::into`], [`Setup::timed`]. 4: [`Call::id`], [`ExecSpec::kill_on_close`],
/// [`StartSpec::descriptors`], [`Reply::Sealed`]. 5: [`ExecSpec::user`]. 6: [`StartSpec::by_hand`].
/// 7: [`ExecSpec::copy`].
pub const VERSION: u32 = 7;

/// The first version that answers with the request's id, and takes more descriptors than
/// [`MAX_BESIDE`].
pub const WITH_IDS: u32 = 4;

/// The first version in which a second process can be another user than the main process.
pub const WITH_EXEC_USER: u32 = 5;

/// The first version in which a main process can be one that somebody runs by hand.
pub const WITH_BY_HAND: u32 = 6;

/// The first version that copies files into and out of a container.
pub const WITH_COPY: u32 = 7;

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
    /// The pod's name.
    pub pod: String,
    /// The hash of the sandbox node it stands for.
    pub sandbox: String,
    /// The host name in the pod.
    pub hostname: String,
    /// The first host id of the pod's 65,536.
    pub id_base: u32,
    /// Whether the pod has its own network namespace.
    pub own_network: bool,
    /// Kernel settings, `net.core.somaxconn` and so on, and their values.
    pub sysctls: Vec<(String, String)>,
    /// More of them, which are set where the kernel has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_sysctls: Vec<(String, String)>,
    /// The socket to listen on.
    pub socket: String,
    /// Where logs are written, a folder per pod.
    pub log_dir: String,
    /// An empty directory on which a container attaches its root file system while it starts.
    pub attach_on: String,
    /// `tasks` files, as paths, of the cgroups of version 1 that the shim itself belongs in.
    pub cgroup: Vec<String>,
    /// Soft and hard limit of descriptors that containers get unless they name their own.
    #[serde(default)]
    pub nofile: Option<(u64, u64)>,
    /// Send with [`Reply::Ready`] where the time went.
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
    /// What is to be done.
    #[serde(flatten)]
    pub request: Request,
}

/// The reply to one [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The id of the call.
    pub id: u64,
    /// What came of it.
    #[serde(flatten)]
    pub reply: Reply,
}

/// What a shim is to do.
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
    Signal {
        /// Its container.
        container: String,
        /// The signal's number.
        signal: i32,
    },
    /// Drops the record of an ended container.
    Forget {
        /// The container.
        container: String,
    },
    /// Runs a second process. Descriptors: the [`ExecSpec`], then stdin, stdout and stderr unless
    /// it has a terminal. Answered with a control socket ([`crate::terminal`]) and, with a
    /// terminal, its master.
    Exec,
    /// Answered with a socket of [`crate::terminal`] to the main process's terminal.
    Attach {
        /// The container.
        container: String,
    },
    /// Answered by [`Reply::Files`], with the mount of the files Tank wrote for a running
    /// container.
    Files {
        /// The container.
        container: String,
    },
    /// Ends every container and the shim itself.
    Shutdown,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Sent once, unrequested, on the socket that a shim is made with. Descriptors: its user namespace
    /// and, where it has a network of its own, that namespace and two sockets in it: one for its
    /// routing tables, one for notifications of changes.
    Ready {
        /// The shim, by the host's count.
        pid: i32,
        /// Where the time went, if a trace was requested.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spans: Vec<Span>,
    },
    /// The answer to [`Request::State`].
    State(State),
    /// The answer to [`Request::Namespaces`].
    Namespaces,
    /// The answer to [`Request::Start`].
    Started {
        /// The main process, by the host's count.
        pid: i32,
        /// Where the time went, if a trace was requested.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spans: Vec<Span>,
    },
    /// The answer to [`Request::Exec`].
    Executed {
        /// The second process, by the host's count.
        pid: i32,
    },
    /// The answer to [`Request::Attach`].
    Attached,
    /// The answer to [`Request::Files`].
    Files,
    /// The answer to a request that has no more to give.
    Done,
    /// The reply is larger than a packet: it is in a sealed memory file, the first descriptor. Only
    /// in an [`Answer`].
    Sealed,
    /// The request was not carried out.
    Failed(Failure),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was attempted.
    pub what: String,
    /// Why it failed.
    pub why: String,
    /// What `tankd` decides by.
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

/// A failure, as far as `tankd` has to tell one from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist in the container.
    NotFound,
    /// It exists and can't be executed.
    NotExecutable,
    /// The container's main process has ended.
    NotRunning,
    /// The container has no terminal.
    NotATty,
    /// Anything else, and what a newer shim tells apart.
    #[serde(other)]
    Other,
}

/// A notification: no request asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A main process ended.
    Exited {
        /// Its container.
        container: String,
        /// How it ended.
        exit: ExitStatus,
        /// When, in milliseconds since the epoch.
        at: u64,
    },
    /// A main process was stopped by a signal.
    Stopped {
        /// Its container.
        container: String,
    },
}

/// A packet from the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromShim {
    /// The reply of a shim since version 4.
    Answer(Answer),
    /// The reply of a shim before version 4; and of any [`Reply::Ready`].
    Reply(Reply),
    /// A notification.
    Event(Event),
}

/// The state of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The [`VERSION`] that its shim speaks.
    pub version: u32,
    /// The pod's name.
    pub pod: String,
    /// As in its [`Setup`].
    pub sandbox: String,
    /// The shim, by the host's count.
    pub pid: i32,
    /// As in its [`Setup`].
    pub id_base: u32,
    /// Every container that runs, or has ended and was not dropped.
    pub containers: Vec<ContainerState>,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name in the pod.
    pub name: String,
    /// The hash of the container node it was started from.
    pub hash: String,
    /// How many times in a row it has been restarted.
    pub attempt: u32,
    /// The main process, by the host's count.
    pub pid: i32,
    /// It has a terminal.
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
    /// See [`ContainerState::started_boot`].
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
    /// By exit(3), with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Everything a main process is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSpec {
    /// The container's name in the pod.
    pub name: String,
    /// The hash of the container node that it is started from.
    pub hash: String,
    /// How many times in a row it has been restarted.
    pub attempt: u32,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory: absolute, and made if it is missing.
    pub cwd: String,
    /// Whom the program runs as.
    pub user: User,
    /// It gets a terminal.
    pub tty: bool,
    /// Its root file system is mounted read-only.
    pub read_only: bool,
    /// The capabilities that it may ever have, `CAP_CHOWN` and so on.
    pub bounding: Vec<String>,
    /// Those that a program of a user other than root starts with.
    pub ambient: Vec<String>,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// Milliseconds between that signal and `SIGKILL`.
    pub stop_timeout: u64,
    /// The root file system: a detached mount.
    pub root: usize,
    /// Detached mounts and their places, parents first.
    pub mounts: Vec<(usize, String)>,
    /// A detached mount of generated files, and each file's name and place.
    pub files: Option<(usize, Vec<(String, String)>)>,
    /// `tasks` files of cgroups of version 1, then the `cgroup.procs` of the one of version 2.
    pub cgroup: Vec<usize>,
    /// The directory of the one of version 2: a shim that knows it clones the process into it, and
    /// none joins it then.
    #[serde(default)]
    pub into: Option<usize>,
    /// How many descriptors there are in all, where the last one beside the packet is the socket
    /// that holds the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<usize>,
    /// Name, soft and hard limit; none: unlimited.
    #[serde(default)]
    pub ulimits: Vec<(String, Option<u64>, Option<u64>)>,
    /// Its system call filter.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Beside those that every container has.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// What is kept of its output.
    #[serde(default)]
    pub logs: LogBounds,
    /// Send with the reply where the time went.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed: bool,
    /// Somebody runs it by hand: its streams are that client's, and nothing is logged. The answer comes
    /// with a control socket ([`crate::terminal`]), at whose end it is killed, and with the master of its
    /// terminal if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<ByHand>,
}

/// The streams of a main process that somebody runs by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByHand {
    /// The places of stdin, stdout and stderr among the descriptors; none of one with a terminal.
    pub streams: Vec<usize>,
    /// Rows and columns of its terminal.
    pub size: (u16, u16),
}

/// What is kept of a container's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBounds {
    /// The most bytes of one file.
    pub max_size: u64,
    /// How many files there are, the one that is written among them.
    pub max_files: u32,
    /// The most bytes that are written in a second; none: as many as there are.
    pub rate: Option<u64>,
    /// Lines go to systemd-journald as well.
    #[serde(default)]
    pub journald: bool,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self {
            max_size: log::DEFAULT_SIZE,
            max_files: log::DEFAULT_FILES,
            rate: Some(log::DEFAULT_RATE),
            journald: false,
        }
    }
}

/// How the default system call filter is changed, by the numbers of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seccomp {
    /// No default filter; `deny` still holds.
    pub unconfined: bool,
    /// Calls that the default filter refuses and this one does not.
    pub allow: Vec<i64>,
    /// Calls that are refused as well.
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
    /// A block device, or else a character device.
    pub block: bool,
    /// The kernel's number of its driver.
    pub major: u32,
    /// The driver's number of the device.
    pub minor: u32,
    /// It can't be written.
    pub read_only: bool,
}

/// Ids inside the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

#[cfg(test)]
mod tests;
