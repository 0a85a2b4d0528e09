//! The typed configuration, as section 3 of the design has it: what a user declares, with every
//! default filled in.
//!
//! Field names, defaults and the OCI rules behind them are documented for users in
//! `stdlib/tank.ncl`; here are the shapes. Whatever equals its default is left out of the canonical
//! bytes, so a field added to Tank later changes no hash of a configuration that does not use it.

use crate::{
    name::Name,
    reference::Reference,
    units::{Bytes, MilliCpu, Millis, optional_network},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// Everything that should run on a host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default, skip_serializing_if = "is_default")]
    pub pods: BTreeMap<Name, Pod>,
}

/// Containers that share a network, IPC and UTS namespace, and start and stop together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    pub containers: BTreeMap<Name, Container>,
    /// Run one after another in the order of their names, each to its end, before the containers
    /// start.
    #[serde(default, skip_serializing_if = "is_default")]
    pub init: BTreeMap<Name, Container>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Network,
    #[serde(default, skip_serializing_if = "is_default")]
    pub volumes: BTreeMap<Name, Volume>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub publish: BTreeMap<Name, Publish>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: Restart,
    #[serde(default, skip_serializing_if = "is_default")]
    pub depends_on: BTreeMap<Name, Condition>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub update: Update,
    #[serde(default, skip_serializing_if = "is_default")]
    pub hostname: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub sysctls: BTreeMap<String, String>,
}

/// One main process and its file system.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    pub image: Reference,
    /// Replaces the image's `Entrypoint`; the image's `Cmd` is then not used.
    #[serde(default, skip_serializing_if = "is_default")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's `Cmd`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub args: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub tty: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub mounts: BTreeMap<Name, Mount>,
    /// By absolute path inside the container.
    #[serde(default, skip_serializing_if = "is_default")]
    pub files: BTreeMap<String, File>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub secrets: BTreeMap<Name, Secret>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// What it listens on. Where a pod declares any, `publish` and probes may lead to these only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ports: BTreeMap<Name, u16>,
    /// By the name `setrlimit(2)` has for it, in lower case: `nofile`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, Ulimit>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub capabilities: Capabilities,
    #[serde(default, skip_serializing_if = "is_default")]
    pub seccomp: Seccomp,
    #[serde(default, skip_serializing_if = "is_default")]
    pub devices: BTreeMap<Name, Device>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub readiness: Option<Probe>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub liveness: Option<Probe>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub startup: Option<Probe>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: Stop,
}

/// How a pod reaches others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// An own address on Tank's bridge.
    #[default]
    Bridge,
    /// The host's network namespace.
    Host,
    /// Loopback only.
    None,
    /// Interfaces of one's own, by the name they have inside the pod.
    Nics(BTreeMap<Name, Nic>),
}

/// A network interface of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: NicMode,
    /// The host's interface: what a macvlan sits on, or the bridge that is joined. `auto`: the
    /// default route's, or Tank's bridge.
    #[serde(default = "auto_parent", skip_serializing_if = "is_auto_parent")]
    pub parent: String,
    /// A static address with the length of its network's prefix.
    #[serde(default, skip_serializing_if = "is_default", with = "optional_network")]
    pub address: Option<IpNet>,
    /// Addresses to take one from, or what a static one has to be within.
    #[serde(default, skip_serializing_if = "is_default", with = "optional_network")]
    pub pool: Option<IpNet>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateway: Option<IpAddr>,
}

/// What kind of interface a [`Nic`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicMode {
    /// One end of a pair whose other end is a port of a bridge.
    #[default]
    Bridge,
    /// An address of its own on the network of `parent`.
    Macvlan,
}

/// What a volume is kept in. None of the fields: a managed one, kept by Tank under its state
/// folder.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// An existing absolute path of the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host: Option<String>,
    /// Memory of at most this size, emptied when the container stops.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tmpfs: Option<Bytes>,
}

/// Where a container sees a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    pub volume: Name,
    pub path: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
}

impl Pod {
    /// Its containers, and what runs before them, each with the field it stands in.
    pub fn processes(&self) -> impl Iterator<Item = (&'static str, &Name, &Container)> {
        let of = |field, (name, spec)| (field, name, spec);
        let containers = self
            .containers
            .iter()
            .map(move |entry| of("containers", entry));
        containers.chain(self.init.iter().map(move |entry| of("init", entry)))
    }
}

/// A file Tank writes into a container. The compiler turns a `source` into its `text`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub text: String,
    #[serde(
        default = "default_file_mode",
        skip_serializing_if = "is_default_file_mode"
    )]
    pub mode: Mode,
    /// How the running process takes a new text in: the signal that makes it read the file again,
    /// or [`READS_AGAIN`]. Without it a new text restarts the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<String>,
}

/// [`File::reload`] of a program that needs no signal to read its file again.
pub const READS_AGAIN: &str = "none";

/// A file of the host that is copied into the container's memory at its start, and never into the
/// store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Absolute path on the host.
    pub file: String,
    /// Absolute path in the container.
    pub path: String,
    #[serde(
        default = "default_secret_mode",
        skip_serializing_if = "is_default_secret_mode"
    )]
    pub mode: Mode,
}

/// Permission bits, written in octal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

impl TryFrom<String> for Mode {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!(
                "`{text}` is no file mode, write for example \"0644\""
            )),
        }
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        format!("{:04o}", mode.0)
    }
}

/// What a container may use at most. None: no limit, except for processes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: Option<Bytes>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pids: Option<u32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpu: Option<MilliCpu>,
}

/// The pids limit of a container that declares none: a fork bomb stays in its pod.
pub const DEFAULT_PIDS: u32 = 4096;

/// What one process may use at most, as `setrlimit(2)` has it. None: unlimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    pub soft: Amount,
    pub hard: Amount,
}

/// A number, or no limit at all. Reads a number or `"unlimited"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum Amount {
    Of(u64),
    Unlimited,
}

impl TryFrom<serde_json::Value> for Amount {
    type Error = String;
    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        match (&value, value.as_u64()) {
            (_, Some(number)) => Ok(Self::Of(number)),
            (serde_json::Value::String(text), _) if text == "unlimited" => Ok(Self::Unlimited),
            _ => Err(format!(
                "`{value}` is no amount, write a whole number or \"unlimited\""
            )),
        }
    }
}

impl From<Amount> for serde_json::Value {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Of(number) => number.into(),
            Amount::Unlimited => "unlimited".into(),
        }
    }
}

/// The resources a [`Ulimit`] can be for.
pub const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The names of capabilities(7), in the order of their numbers.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The names of signal(7), in the order of their numbers. Real-time signals are `SIGRTMIN+n`.
pub const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// Which system calls a container may make: the default filter, with exceptions by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seccomp {
    #[serde(default, skip_serializing_if = "is_default")]
    pub profile: SeccompProfile,
    /// Allowed although the profile denies them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow: Vec<String>,
    /// Denied with `EPERM` although the profile allows them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deny: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompProfile {
    #[default]
    Default,
    /// Every system call.
    Unconfined,
}

/// A device of the host that the container sees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Absolute path on the host, below `/dev`.
    pub path: String,
    /// Absolute path in the container; `path` unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
}

/// Capabilities on top of, or taken from, the default set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    #[serde(default, skip_serializing_if = "is_default")]
    pub add: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub drop: Vec<String>,
}

/// A port of the host that leads to one of the pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    pub port: u16,
    /// The pod's port; `port` unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: Option<u16>,
    #[serde(default = "loopback", skip_serializing_if = "is_loopback")]
    pub address: IpAddr,
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
}

impl Publish {
    /// The port inside the pod.
    pub fn target(&self) -> u16 {
        self.to.unwrap_or(self.port)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// What happens when a main process ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    #[default]
    Always,
    /// Only when it ended with a status other than 0.
    OnFailure,
    Never,
}

/// What a dependency has to be before a pod starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Every main process runs.
    Started,
    /// Every readiness probe has succeeded as well.
    Ready,
    /// Every main process has ended with status 0.
    Completed,
}

/// How a changed pod takes the place of the one that runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// The old one ends, then the new one starts.
    #[default]
    Recreate,
    /// The new one starts beside the old and takes over when it is ready.
    StartFirst,
}

/// A question to a container. Exactly one of `http`, `tcp`, `exec`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    #[serde(default, skip_serializing_if = "is_default")]
    pub http: Option<HttpProbe>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp: Option<TcpProbe>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub exec: Option<Vec<String>>,
    #[serde(default = "default_period", skip_serializing_if = "is_default_period")]
    pub period: Millis,
    #[serde(default = "default_period", skip_serializing_if = "is_default_period")]
    pub timeout: Millis,
    /// How many times in a row it has to fail before that counts.
    #[serde(
        default = "default_failures",
        skip_serializing_if = "is_default_failures"
    )]
    pub failures: u32,
    /// The time before it is asked first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub delay: Millis,
}

/// A `GET` whose answer is 200 to 399.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    pub port: u16,
    #[serde(default = "root_path", skip_serializing_if = "is_root_path")]
    pub path: String,
}

/// A connection that is accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    pub port: u16,
}

/// How a main process is asked to end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// By name; the image's `StopSignal`, or `SIGTERM`, unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signal: Option<String>,
    /// After this long it is killed; 10 s unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeout: Option<Millis>,
}

/// The time between asking a process to end and killing it, unless declared.
pub const DEFAULT_STOP_TIMEOUT: Millis = Millis(10_000);

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn loopback() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

fn is_loopback(address: &IpAddr) -> bool {
    *address == loopback()
}

fn default_file_mode() -> Mode {
    Mode(0o644)
}

fn is_default_file_mode(mode: &Mode) -> bool {
    *mode == default_file_mode()
}

fn default_secret_mode() -> Mode {
    Mode(0o400)
}

fn is_default_secret_mode(mode: &Mode) -> bool {
    *mode == default_secret_mode()
}

fn default_period() -> Millis {
    Millis(1_000)
}

fn is_default_period(period: &Millis) -> bool {
    *period == default_period()
}

fn default_failures() -> u32 {
    3
}

fn is_default_failures(failures: &u32) -> bool {
    *failures == default_failures()
}

fn auto_parent() -> String {
    "auto".to_owned()
}

fn is_auto_parent(parent: &str) -> bool {
    parent == "auto"
}

fn root_path() -> String {
    "/".to_owned()
}

fn is_root_path(path: &str) -> bool {
    path == "/"
}
