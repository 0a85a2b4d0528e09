//! The impure reader: builds [`Observed`] from the shims and the kernel.
//!
//! First every shim is asked, all at once; meanwhile what belongs to the whole host is read. Then the kernel's side of
//! each pod that anything was told of ([`crate::seen`]), on as many threads as there are processors: that is reading
//! small files and talking netlink, and none of it waits for anybody.
//!
//! Observing acts on nothing, whatever the graph it is for: it asks the shims for what they know, takes no lease, starts
//! no probe (what is known of probes is [`crate::prober`]'s), and leaves no record.

use crate::{
    actuate::link_name,
    events::now,
    files::Files,
    host::Host,
    prober::Standing,
    seen::{Asked, Look, Seen},
    shims::{Shim, failure},
};
use futures_util::future::join_all;
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
use tank_plan::observed::{self, Observed, Pod, Sandbox};
use tank_proto::shim::{self, ContainerState, ExitStatus, Failure, FailureKind};
use tank_sys::route::Link;

/// The fewest pods for which a thread more is worth its while.
const SHARE: usize = 8;

/// What was found.
pub struct Found {
    pub observed: Observed,
    /// Whether something was told of meanwhile that nobody else will hear of.
    pub heard: bool,
}

/// Looks at everything Tank has on this host. What can't be read is an error, never an absence: planning on half a
/// view would undo what was only not seen.
///
/// # Errors
/// What the kernel gave.
pub async fn observe(host: &Arc<Host>, graph: &Graph, wanted: &Files) -> Result<Found, Failure> {
    let heard = host.hear();
    let shims = host.living_shims();
    let asking = join_all(shims.into_iter().map(|(name, shim)| ask(graph, wanted, name, shim)));
    let whole = {
        let host = Arc::clone(host);
        tokio::task::spawn_blocking(move || Whole::read(&host))
    };
    let (asked, whole) = tokio::join!(asking, whole);
    let whole = Arc::new(whole.map_err(|e| failed("look at the host", &e))??);
    // A shim that ends while it is asked is one that is gone.
    let mut left: Vec<Said> = asked.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let share = left.len().div_ceil(host.processors).max(SHARE);
    let mut reading = Vec::new();
    while !left.is_empty() {
        let part = left.split_off(left.len().saturating_sub(share));
        let (host, whole) = (Arc::clone(host), Arc::clone(&whole));
        let read = move || -> Result<Vec<_>, Failure> {
            part.into_iter().map(|said| said.read(&host, &whole).map(|kernel| (said, kernel))).collect()
        };
        reading.push(tokio::task::spawn_blocking(read));
    }
    let mut observed = Observed { now: now(), ..Observed::default() };
    for part in join_all(reading).await {
        for (said, kernel) in part.map_err(|e| failed("look at the pods", &e))?? {
            observed.pods.insert(said.name.clone(), said.pod(host, graph, kernel)?);
        }
    }
    for name in &whole.left_over {
        observed.pods.entry(name.clone()).or_default();
    }
    observed.bridge = whole.bridge_addresses.clone();
    observed.firewall = (*whole.firewall).clone();
    Ok(Found { observed, heard })
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure { what: what.to_owned(), why: error.to_string(), kind: FailureKind::Other }
}

/// What belongs to no pod, and what is listed for all of them at once.
struct Whole {
    links: Arc<BTreeMap<String, Link>>,
    /// None: there is none, or it is not as it should be.
    bridge: Option<Link>,
    bridge_addresses: Option<BTreeSet<String>>,
    gateways: BTreeSet<IpAddr>,
    firewall: Arc<BTreeSet<String>>,
    /// Names that have a cgroup, a folder, or the upper layers of containers.
    left_over: BTreeSet<Name>,
}

impl Whole {
    fn read(host: &Host) -> Result<Self, Failure> {
        let links = || Ok(host.routes.links()?.into_iter().map(|link| (link.name.clone(), link)).collect());
        let links: Arc<BTreeMap<String, Link>> = host.links.get(links).map_err(|e| failure(&e))?;
        let bridge = links.get(&host.settings.config.bridge).filter(|link| link.marked).cloned();
        let bridge_addresses = match bridge.as_ref().filter(|link| link.up) {
            Some(link) => {
                let addresses = host.routes.addresses(link.index).map_err(|e| failure(&e))?;
                Some(addresses.iter().map(ToString::to_string).collect())
            }
            None => None,
        };
        let mut names = host.cgroups.pods();
        for dir in [host.settings.run_dir.join("pods"), host.settings.state_dir.join("scratch")] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(Self {
            links,
            bridge,
            bridge_addresses,
            gateways: host.bridge_addresses().into_iter().map(|cidr| cidr.address).collect(),
            firewall: host.rules.get(tank_sys::nft::list).map_err(|e| failure(&e))?,
            left_over: names.into_iter().filter_map(|name| Name::new(name).ok()).collect(),
        })
    }
}

/// What a pod's shim said, and what to look at in the kernel.
struct Said {
    name: Name,
    shim: Arc<Shim>,
    moment: u64,
    state: shim::State,
    asked: Asked,
}

/// The kernel's side of a pod.
struct Kernel {
    /// The addresses of the pod's link, if that is connected.
    network: Option<BTreeSet<String>>,
    seen: Arc<Seen>,
}

/// Asks a pod's shim. None: it is gone.
async fn ask(graph: &Graph, wanted: &Files, name: Name, shim: Arc<Shim>) -> Result<Option<Said>, Failure> {
    let moment = shim.moment();
    let state = match shim.state().await {
        Ok(state) => state,
        Err(_) if !shim.is_alive() => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let bridged = graph.sandbox(&name).is_some_and(|(node, _)| node.network == Network::Bridge);
    // Asked for once and kept by the shim's handle; a pod that can't be entered has no network.
    let bridged = bridged && shim.routes().await.is_ok();
    let mut files = BTreeMap::new();
    for container in state.containers.iter().filter(|container| container.exited.is_none()) {
        let Ok(container_name) = Name::new(container.name.clone()) else { continue };
        let Some(paths) = wanted.get(&(name.clone(), container_name)) else { continue };
        match shim.files(&container.name, container.started).await {
            Ok(Some(dir)) => drop(files.insert(container.name.clone(), (dir, paths.keys().cloned().collect()))),
            // Its shim can't show them.
            Ok(None) => {}
            // It has ended since.
            Err(failure) if failure.kind == FailureKind::NotRunning || !shim.is_alive() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(Some(Said { name, shim, moment, state, asked: Asked { bridged, files } }))
}

impl Said {
    /// Reads the kernel's side. Blocking.
    fn read(&self, host: &Host, whole: &Whole) -> Result<Kernel, Failure> {
        let look = Look {
            pod: &self.name,
            shim: &self.shim,
            state: &self.state,
            asked: &self.asked,
            moment: self.moment,
            gateways: &whole.gateways,
        };
        let seen = look.look(host)?;
        let network = seen.inside.as_ref().filter(|_| self.asked.bridged);
        let connected = network.is_some() && self.is_on_bridge(host, whole).map_err(|e| failure(&e))?;
        let network = network.filter(|_| connected).cloned();
        Ok(Kernel { network, seen })
    }

    /// Whether the other end of the pod's link is up on the bridge.
    fn is_on_bridge(&self, host: &Host, whole: &Whole) -> Result<bool, tank_sys::Error> {
        let name = link_name(self.state.pid);
        let outer = whole.links.get(&name);
        // The list may be older than the link: one that was just made is looked for again.
        let looked = if outer.is_none() { host.routes.link(&name)? } else { None };
        let on_bridge = |link: &Link| link.up && link.controller == whole.bridge.as_ref().map(|link| link.index);
        Ok(outer.or(looked.as_ref()).is_some_and(on_bridge))
    }

    fn pod(&self, host: &Host, graph: &Graph, kernel: Kernel) -> Result<Pod, Failure> {
        let hash = |text: &str| text.parse().map_err(|e| failed("read a shim's state", &e));
        let mut pod = Pod {
            sandbox: Some(Sandbox {
                hash: hash(&self.state.sandbox)?,
                pid: self.state.pid,
                version: self.state.version,
                network: kernel.network,
            }),
            containers: BTreeMap::new(),
        };
        for found in &self.state.containers {
            let (Ok(name), Some(seen)) = (Name::new(found.name.clone()), kernel.seen.containers.get(&found.name))
            else {
                continue;
            };
            let probed = host.prober.standing(graph, &self.name, &name, found.started);
            let container = observed::Container {
                hash: hash(&found.hash)?,
                attempt: found.attempt,
                started: found.started,
                state: state(found, &probed),
                limits: Limits {
                    memory: seen.limits.memory.map(Bytes),
                    pids: seen.limits.pids.and_then(|pids| u32::try_from(pids).ok()),
                    cpu: seen.limits.cpu.and_then(|cpu| u32::try_from(cpu).ok()).map(MilliCpu),
                },
                halted: seen.halted,
                files: seen.files.clone(),
                out_of_memory: seen.out_of_memory,
                unhealthy: probed.unhealthy.filter(|_| found.exited.is_none()),
                tty: found.tty,
                stop_signal: found.stop_signal,
                stop_timeout: found.stop_timeout,
            };
            pod.containers.insert(name, container);
        }
        Ok(pod)
    }
}

fn state(found: &ContainerState, probed: &Standing) -> observed::State {
    match found.exited {
        None => observed::State::Running { pid: found.pid, ready: probed.ready },
        Some((ExitStatus::Code(code), at)) => observed::State::Exited { status: code, at },
        Some((ExitStatus::Signal(signal), at)) => observed::State::Exited { status: 128 + signal, at },
    }
}
