//! The host as data: what is, read from the shims and the kernel, never from memory of what was
//! done.

mod data;
mod network;

pub use data::{Counted, Data, VolumeData};
pub use network::{ChangedSetting, HostNetwork, Parent};

use crate::target::{PodLink, PodNic, Table};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Digest, Name, spec};

/// Everything the planner may know of the host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Observed {
    /// Milliseconds of `CLOCK_BOOTTIME`, as every time that is decided by: setting the clock moves
    /// nothing.
    pub now: u64,
    /// By the names their shims, cgroups or folders bear: Tank's own, declared or not.
    pub pods: BTreeMap<Name, Pod>,
    /// Addresses of Tank's bridges, with the lengths of their networks' prefixes, by the bridges'
    /// names. None: it is there, and not in order (down, or it learns from what no rule sees).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bridges: BTreeMap<String, Option<BTreeSet<IpNet>>>,
    /// What is in Tank's nftables table. None: there is no table.
    pub firewall: Option<Table>,
    /// The name server's process. None: there is none.
    #[serde(default)]
    pub names: Option<NameServer>,
    /// The host's own side of the network.
    #[serde(default)]
    pub network: HostNetwork,
    /// What was tried and has failed since it last went well.
    #[serde(default)]
    pub failures: Vec<FailedStep>,
    /// The volumes that Tank keeps, and what is known of who wrote what they have.
    #[serde(default, skip_serializing_if = "Data::is_empty")]
    pub data: Data,
}

/// Tank's name server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NameServer {
    /// The digest of the zone that it serves ([`crate::target::Zone::digest`]). None: it serves none,
    /// or does not answer the daemon.
    pub zone: Option<Digest>,
    /// Whether it runs the program that is installed.
    pub current: bool,
}

/// A step that failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailedStep {
    /// Its [`crate::Step::id`]: one that says something else is another step, and is tried at once.
    pub step: Digest,
    /// How often in a row.
    pub count: u32,
    /// When it failed last, in milliseconds of CLOCK_BOOTTIME.
    pub at: u64,
    /// For people.
    pub why: String,
}

/// What bears one pod's name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    /// None: there is no shim, and what else is here (cgroups, folders) is left over.
    pub sandbox: Option<Sandbox>,
    /// Those its shim knows of, by name; empty without a shim that answers.
    pub containers: BTreeMap<Name, Run>,
    /// Containers of which only cgroups and folders are here.
    #[serde(default)]
    pub left_over: BTreeSet<Name>,
    /// There is a shim, of which nothing else is known. What it costs is this pod's alone.
    #[serde(default)]
    pub unresponsive: Option<Unresponsive>,
}

/// Why nothing is known of a pod's shim.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "unresponsive", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Unresponsive {
    /// It is at a request that may take long.
    Busy,
    /// Somebody stopped its process or froze its cgroup; it answers nothing since then, in
    /// milliseconds of CLOCK_BOOTTIME.
    Halted { since: u64 },
    /// It answers nothing since then, in milliseconds of CLOCK_BOOTTIME.
    Silent { since: u64 },
    /// It answers, and its pod can't be looked at: `why` is for people.
    Unreadable { why: String },
}

impl std::fmt::Display for Unresponsive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Busy => write!(f, "its shim is at something that takes long"),
            Self::Halted { .. } => write!(f, "somebody stopped or froze its shim"),
            Self::Silent { .. } => write!(f, "its shim does not answer"),
            Self::Unreadable { why } => write!(f, "it can't be looked at: {why}"),
        }
    }
}

/// A shim and the namespaces it holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sandbox {
    /// The hash of the sandbox node it was made from.
    pub hash: Digest,
    /// The shim's pid.
    pub pid: i32,
    /// The version of the messages it speaks.
    pub version: u32,
    /// Its links to bridges of Tank's that are up at both ends, by their names inside; none where its
    /// loopback is down.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, FoundLink>,
    /// The next hops of its default routes. Read only of one on a bridge.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gateways: BTreeSet<IpAddr>,
    /// The interfaces of its own that are up, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nics: BTreeMap<String, PodNic>,
}

/// A pod's link to a bridge of Tank's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoundLink {
    /// The bridge's name.
    pub bridge: String,
    /// The group of its port; 0 where that does not give frames back to where they came from.
    pub group: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The longest packet it takes.
    pub mtu: u32,
    /// Its addresses, with the lengths of their networks' prefixes.
    pub addresses: BTreeSet<IpNet>,
}

impl FoundLink {
    /// One that is as it should be.
    pub fn of(link: &PodLink) -> Self {
        let PodLink {
            bridge,
            group,
            mac,
            mtu,
            addresses,
            ..
        } = link.clone();
        Self {
            bridge,
            group,
            mac,
            mtu,
            addresses,
        }
    }
}

/// A container its shim knows of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Run {
    /// The hash of the container node it was started from.
    pub hash: Digest,
    /// Restarts in a row.
    pub attempt: u32,
    /// By the clock of [`Observed::now`].
    pub started: u64,
    /// The same in milliseconds since the Unix epoch, for people: nothing is decided by it.
    pub since: u64,
    /// Whether its main process runs, or how it ended.
    pub state: State,
    /// As the kernel has them; meaningless once it has ended.
    pub limits: spec::Limits,
    /// Its main process was stopped, or its cgroup frozen, by somebody.
    pub halted: bool,
    /// What the files that Tank wrote for it say, by their paths. None: its shim can't show them.
    pub files: Option<BTreeMap<String, Digest>>,
    /// The kernel ended processes of it that were out of memory.
    pub out_of_memory: bool,
    /// It was asked to end because of a probe, and will be killed when its time is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ending: bool,
    /// Whether its streams are a terminal.
    pub tty: bool,
    /// The number of the signal that asks it to end.
    pub stop_signal: i32,
    /// Milliseconds.
    pub stop_timeout: u64,
}

/// What the probes of a running container have found. Probing only says so: what follows is the
/// planner's to decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// Its readiness probe succeeds, which may change while it runs; true where there is none.
    pub ready: bool,
    /// The probe that has failed as often as it may. None: it lives, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Probed>,
    /// When that last changed, by the clock of [`Observed::now`]: the start of the run, where it has
    /// not.
    #[serde(default)]
    pub since: u64,
}

impl Verdict {
    /// Of a run that is not probed, or that nobody has asked yet: it lives, and nothing has changed
    /// since its start.
    pub fn unasked(ready: bool, started: u64) -> Self {
        Self {
            ready,
            failed: None,
            since: started,
        }
    }

    /// None of its probes has failed as often as it may.
    pub fn is_live(self) -> bool {
        self.failed.is_none()
    }
}

/// What a probe is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probed {
    /// Whether it has come up; the other probes wait for this one.
    Startup,
    /// Whether it still does its work.
    Liveness,
}

impl Probed {
    /// What its failure says of a container.
    pub fn failure(self) -> &'static str {
        match self {
            Self::Startup => "it did not come up",
            Self::Liveness => "it does not answer any more",
        }
    }
}

/// What became of a container's main process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It runs.
    Running {
        /// In the host's pid namespace.
        pid: i32,
        /// What its probes have found.
        #[serde(flatten)]
        verdict: Verdict,
    },
    /// It ended, and its shim keeps how.
    Exited {
        /// As shells have it: 128 and the signal where one ended it.
        status: i32,
        /// By the clock of [`Observed::now`].
        at: u64,
    },
}

impl Run {
    /// What its probes have found. None: it has ended.
    pub fn verdict(&self) -> Option<Verdict> {
        match self.state {
            State::Running { verdict, .. } => Some(verdict),
            State::Exited { .. } => None,
        }
    }

    /// The same, to be changed.
    pub fn verdict_mut(&mut self) -> Option<&mut Verdict> {
        match &mut self.state {
            State::Running { verdict, .. } => Some(verdict),
            State::Exited { .. } => None,
        }
    }

    /// Whether its main process ended with status 0.
    pub fn ended_well(&self) -> bool {
        matches!(self.state, State::Exited { status: 0, .. })
    }

    /// Whether its main process ended with another status than 0, or by a signal.
    pub fn failed(&self) -> bool {
        matches!(self.state, State::Exited { status, .. } if status != 0)
    }
}

impl Serialize for Run {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Run {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RecordedRun { mut run, unhealthy } = RecordedRun::deserialize(deserializer)?;
        let started = run.started;
        if let Some(verdict) = run.verdict_mut() {
            if let Some(unhealthy) = &unhealthy {
                verdict.failed = Some(unhealthy.probe);
            }
            // A dump of before says no time.
            if verdict.since == 0 {
                verdict.since = started;
            }
        }
        run.ending |= unhealthy.is_some_and(|unhealthy| unhealthy.ending);
        Ok(run)
    }
}

/// A run as a dump has it, that of an older Tank among them.
#[derive(Deserialize)]
struct RecordedRun {
    #[serde(flatten, deserialize_with = "Run::deserialize")]
    run: Run,
    /// What [`Verdict::failed`] and [`Run::ending`] say, before there were these.
    unhealthy: Option<RecordedUnhealthy>,
}

#[derive(Deserialize)]
struct RecordedUnhealthy {
    probe: Probed,
    ending: bool,
}

impl Pod {
    /// The container of this name if it was started from this node.
    pub fn current(&self, name: &Name, hash: Digest) -> Option<&Run> {
        self.containers.get(name).filter(|found| found.hash == hash)
    }

    /// Whether every one of `containers` runs.
    pub fn started<'a>(&self, containers: impl IntoIterator<Item = &'a Name>) -> bool {
        self.all(containers, |state| matches!(state, State::Running { .. }))
    }

    /// Whether every one of `containers` runs and is ready.
    pub fn ready<'a>(&self, containers: impl IntoIterator<Item = &'a Name>) -> bool {
        self.all(
            containers,
            |state| matches!(state, State::Running { verdict, .. } if verdict.ready),
        )
    }

    /// Whether every one of `containers` has ended well.
    pub fn completed<'a>(&self, containers: impl IntoIterator<Item = &'a Name>) -> bool {
        self.all(containers, |state| {
            matches!(state, State::Exited { status: 0, .. })
        })
    }

    fn all<'a>(
        &self,
        containers: impl IntoIterator<Item = &'a Name>,
        is: impl Fn(&State) -> bool,
    ) -> bool {
        containers.into_iter().all(|name| {
            self.containers
                .get(name)
                .is_some_and(|found| is(&found.state))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(state: Value, unhealthy: Value) -> Value {
        let mut run = json!({
            "hash": Digest::of(b"x"), "attempt": 0, "started": 700, "since": 1_700_000_000_000_u64,
            "limits": {}, "halted": false, "files": null, "out_of_memory": false, "tty": false,
            "stop_signal": 15, "stop_timeout": 10_000,
        });
        run["state"] = state;
        if !unhealthy.is_null() {
            run["unhealthy"] = unhealthy;
        }
        run
    }

    fn read(recorded: &Value) -> Run {
        serde_json::from_value(recorded.clone()).expect("a run")
    }

    #[test]
    fn a_verdict_is_written_and_read_again() {
        let state = json!({
            "state": "running", "pid": 7, "ready": true, "failed": "liveness", "since": 900,
        });
        let recorded = run(state, Value::Null);
        let found = read(&recorded);
        let verdict = Verdict {
            ready: true,
            failed: Some(Probed::Liveness),
            since: 900,
        };
        assert_eq!(found.verdict(), Some(verdict));
        assert!(!verdict.is_live() && !found.ending);
        assert_eq!(serde_json::to_value(&found).expect("encodes"), recorded);
        let ended = json!({ "state": "exited", "status": 3, "at": 800 });
        let recorded = run(ended, Value::Null);
        assert_eq!(read(&recorded).verdict(), None);
        assert_eq!(
            serde_json::to_value(read(&recorded)).expect("encodes"),
            recorded
        );
    }

    #[test]
    fn a_dump_of_before_verdicts_is_read() {
        let running = || json!({ "state": "running", "pid": 7, "ready": false });
        let found = read(&run(running(), Value::Null));
        assert_eq!(found.verdict(), Some(Verdict::unasked(false, 700)));
        let found = read(&run(
            running(),
            json!({ "probe": "startup", "ending": true }),
        ));
        let failed = Verdict {
            failed: Some(Probed::Startup),
            ..Verdict::unasked(false, 700)
        };
        assert_eq!((found.verdict(), found.ending), (Some(failed), true));
    }
}
