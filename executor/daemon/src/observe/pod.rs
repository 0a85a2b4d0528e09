//! A pod's observation, made of its shim's report and of what the kernel has.

use super::{
    Error, Files, VerdictOf,
    kernel::{PodRequest, PodSnapshot},
};
use crate::{
    events,
    pods::{Pods, Shim},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tank_model::{
    Graph, Name,
    spec::{Limits, Network},
    units::{Bytes, MilliCpu},
};
use tank_plan::{
    observed::{self, FoundLink, Pod, Sandbox, Unresponsive, Verdict},
    target::PodNic,
};
use tank_proto::shim::{self, ContainerState, ExitStatus, FailureKind};
use tank_sys::{cgroup::ControllerLimits, clock::boot_millis};

/// A pod's shim's answer, and what to read of the pod in the kernel.
pub struct PodState {
    pub name: Name,
    pub shim: Arc<Shim>,
    /// From before it was asked.
    pub version: u64,
    pub state: Arc<shim::State>,
    pub request: PodRequest,
}

/// The kernel's side of a pod, and its links that are connected.
pub struct PodRead {
    pub links: BTreeMap<String, FoundLink>,
    pub nics: BTreeMap<String, PodNic>,
    pub snapshot: Arc<PodSnapshot>,
}

/// What came of asking a pod's shim.
pub enum Answer {
    State(Box<PodState>),
    Gone,
    Unresponsive(Name, Unresponsive),
}

pub fn unresponsive(why: Unresponsive) -> Pod {
    Pod {
        unresponsive: Some(why),
        ..Pod::default()
    }
}

pub fn is_bridged(graph: &Graph, pod: &Name) -> bool {
    graph
        .sandbox(pod)
        .is_some_and(|(node, _)| node.network == Network::Bridge)
}

pub fn has_nics(graph: &Graph, pod: &Name) -> bool {
    graph
        .sandbox(pod)
        .is_some_and(|(node, _)| matches!(node.network, Network::Nics(_)))
}

/// Whether a pod is another one than the graph declares: whatever it has of a network, it has until it
/// is gone.
pub fn is_another(graph: &Graph, pod: &Name, state: &shim::State) -> bool {
    let declared = graph.sandbox(pod);
    declared.is_none_or(|(_, hash)| hash.to_string() != state.sandbox)
}

impl PodState {
    /// Asks a shim of its pod.
    pub async fn fetch(
        graph: &Graph,
        wanted: &Files,
        name: Name,
        shim: Arc<Shim>,
    ) -> Result<Self, Error> {
        let version = shim.version();
        let state = shim.state().await?;
        let goes = is_another(graph, &name, &state);
        let bridged = goes || is_bridged(graph, &name);
        // Asked for once and kept by the shim's handle; a pod that can't be entered has no network.
        let bridged = bridged && shim.routes().await.is_ok();
        let has_nics = (goes || has_nics(graph, &name)) && shim.routes().await.is_ok();
        let mut files = BTreeMap::new();
        for container in state
            .containers
            .iter()
            .filter(|container| container.exited.is_none())
        {
            let Ok(container_name) = Name::new(container.name.clone()) else {
                continue;
            };
            let Some(paths) = wanted.get(&(name.clone(), container_name)) else {
                continue;
            };
            match shim.files(&container.name, container.started).await {
                Ok(Some(dir)) => {
                    files.insert(
                        container.name.clone(),
                        (dir, paths.keys().cloned().collect()),
                    );
                }
                // Its shim can't show them.
                Ok(None) => {}
                // It has ended since.
                Err(error) if error.kind() == FailureKind::NotRunning || !shim.is_alive() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self {
            name,
            shim,
            version,
            state,
            request: PodRequest {
                bridged,
                has_nics,
                files,
            },
        })
    }

    pub fn sandbox(
        &self,
        links: BTreeMap<String, FoundLink>,
        gateways: BTreeSet<IpAddr>,
        nics: BTreeMap<String, PodNic>,
    ) -> Result<Sandbox, Error> {
        let hash = self.state.sandbox.parse().map_err(Error::Report)?;
        Ok(Sandbox {
            hash,
            pid: self.state.pid,
            version: self.state.version,
            links,
            gateways,
            nics,
        })
    }

    pub fn pod(
        &self,
        verdict_of: &VerdictOf<'_>,
        pods: &Pods,
        read: PodRead,
    ) -> Result<Pod, Error> {
        let known = |name: &Name| {
            self.state
                .containers
                .iter()
                .any(|found| found.name == name.as_str())
        };
        let mut pod = Pod {
            sandbox: Some(self.sandbox(read.links, read.snapshot.gateways.clone(), read.nics)?),
            left_over: read
                .snapshot
                .parts
                .iter()
                .filter(|name| !known(name))
                .cloned()
                .collect(),
            ..Pod::default()
        };
        for found in &self.state.containers {
            let kernel = read.snapshot.containers.get(&found.name);
            let (Ok(name), Some(kernel)) = (Name::new(found.name.clone()), kernel) else {
                continue;
            };
            let run = (self.name.clone(), name.clone(), found.started);
            let started = found
                .started_boot
                .unwrap_or_else(|| on_boot_clock(found.started));
            let state = state(found, || verdict_of(&run, started));
            let ending = matches!(state, observed::State::Running { .. }) && pods.is_ending(&run);
            let container = observed::Run {
                hash: found.hash.parse().map_err(Error::Report)?,
                attempt: found.attempt,
                started,
                since: found.started,
                state,
                limits: limits(&kernel.limits),
                halted: kernel.halted,
                files: kernel.files.clone(),
                out_of_memory: kernel.out_of_memory,
                ending,
                tty: found.tty,
                stop_signal: found.stop_signal,
                stop_timeout: found.stop_timeout,
            };
            pod.containers.insert(name, container);
        }
        Ok(pod)
    }
}

fn limits(kernel: &ControllerLimits) -> Limits {
    Limits {
        memory: kernel.memory.map(Bytes),
        pids: kernel.pids.and_then(|pids| u32::try_from(pids).ok()),
        cpu: kernel
            .cpu
            .and_then(|cpu| u32::try_from(cpu).ok())
            .map(MilliCpu),
    }
}

fn state(found: &ContainerState, verdict: impl FnOnce() -> Verdict) -> observed::State {
    match found.exited {
        None => observed::State::Running {
            pid: found.pid,
            verdict: verdict(),
        },
        Some((exit, at)) => {
            let at = found.exited_boot.unwrap_or_else(|| on_boot_clock(at));
            let status = match exit {
                ExitStatus::Code(code) => code,
                ExitStatus::Signal(signal) => 128 + signal,
            };
            observed::State::Exited { status, at }
        }
    }
}

/// A time that an older shim gives in milliseconds since the epoch, by the clock that decisions are
/// made by: as old now as it is by the other. One that is still to come says that the clock was set
/// back, and counts as long past.
fn on_boot_clock(at: u64) -> u64 {
    let age = events::now().checked_sub(at);
    age.map_or(0, |age| boot_millis().saturating_sub(age))
}
