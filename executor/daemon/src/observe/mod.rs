//! The impure reader: builds [`Observed`] from the shims and the kernel.
//!
//! First every shim is asked, all at once; meanwhile what belongs to the whole host is read. Then
//! the kernel's side of each pod that anything was told of ([`crate::observe::kernel`]), on as many threads as
//! there are processors: that is reading small files and talking netlink, and none of it waits for
//! anybody.
//!
//! A shim that does not answer, or a pod that can't be read, is [`Unresponsive`] and costs no other
//! pod its place: it is waited for [once](OBSERVE_LIMIT), and then not again until it answers.
//!
//! Observing acts on nothing, whatever the graph it is for: it asks the shims for what they know,
//! takes no lease, starts no probe (what is known of probes is [`crate::probe`]'s), and leaves no
//! record.

pub mod kernel;

use crate::{
    actuate::files::Files,
    actuate::link_name,
    observe::kernel::{Asked, Look, Seen},
    pods::host::Host,
    pods::shim::{OBSERVE_LIMIT, Shim, Silence, failure},
    probe::Standing,
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
use tank_plan::observed::{self, Observed, Pod, Sandbox, Unresponsive};
use tank_proto::shim::{self, ContainerState, ExitStatus, Failure, FailureKind};
use tank_sys::{clock::boot_millis, route::Link};
use tokio::time::timeout;

/// The fewest pods for which a thread more is worth its while.
const SHARE: usize = 8;

/// What was found.
pub struct Found {
    pub observed: Observed,
    /// Whether something was told of meanwhile that nobody else will hear of.
    pub heard: bool,
}

/// Looks at everything Tank has on this host. What can't be read is an error, or of a pod its
/// [state](Unresponsive), never an absence: planning on half a view would undo what was only not
/// seen.
///
/// # Errors
/// What the kernel gave.
pub async fn observe(host: &Arc<Host>, graph: &Graph, wanted: &Files) -> Result<Found, Failure> {
    let heard = host.hear();
    let shims = host.living_shims();
    let asking = join_all(
        shims
            .into_iter()
            .map(|(name, shim)| ask(host, graph, wanted, name, shim)),
    );
    let whole = {
        let host = Arc::clone(host);
        tokio::task::spawn_blocking(move || Whole::read(&host))
    };
    let (asked, whole) = tokio::join!(asking, whole);
    let whole = Arc::new(whole.map_err(|e| failed("look at the host", &e))??);
    let mut observed = Observed {
        now: boot_millis(),
        failures: host.failures.recent(),
        ..Observed::default()
    };
    let mut left = Vec::new();
    for answer in asked {
        match answer {
            Asking::Said(said) => left.push(*said),
            // A shim that ends while it is asked is one that is gone.
            Asking::Gone => {}
            Asking::Unresponsive(name, why) => drop(observed.pods.insert(name, unresponsive(why))),
        }
    }
    let share = left.len().div_ceil(host.processors).max(SHARE);
    let mut reading = Vec::new();
    while !left.is_empty() {
        let part = left.split_off(left.len().saturating_sub(share));
        let (host, whole) = (Arc::clone(host), Arc::clone(&whole));
        let read = move || -> Vec<_> {
            part.into_iter()
                .map(|said| (said.read(&host, &whole), said))
                .collect()
        };
        reading.push(tokio::task::spawn_blocking(read));
    }
    for part in join_all(reading).await {
        for (kernel, said) in part.map_err(|e| failed("look at the pods", &e))? {
            let pod = kernel.and_then(|kernel| said.pod(host, graph, kernel));
            let pod = pod.unwrap_or_else(|failure| {
                let sandbox = said.sandbox(None).ok();
                let why = format!("{}: {}", failure.what, failure.why);
                Pod {
                    sandbox,
                    ..unresponsive(Unresponsive::Unreadable { why })
                }
            });
            observed.pods.insert(said.name.clone(), pod);
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
    Failure {
        what: what.to_owned(),
        why: error.to_string(),
        kind: FailureKind::Other,
    }
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
        let links = || {
            Ok(host
                .routes
                .links()?
                .into_iter()
                .map(|link| (link.name.clone(), link))
                .collect())
        };
        let links: Arc<BTreeMap<String, Link>> = host.links.get(links).map_err(|e| failure(&e))?;
        let bridge = links
            .get(&host.settings.config.bridge)
            .filter(|link| link.marked)
            .cloned();
        let bridge_addresses = match bridge.as_ref().filter(|link| link.up) {
            Some(link) => {
                let addresses = host.routes.addresses(link.index).map_err(|e| failure(&e))?;
                Some(addresses.iter().map(ToString::to_string).collect())
            }
            None => None,
        };
        let mut names = host.cgroups.pods();
        for dir in [
            host.settings.run_dir.join("pods"),
            host.settings.state_dir.join("scratch"),
        ] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(Self {
            links,
            bridge,
            bridge_addresses,
            gateways: host
                .bridge_addresses()
                .into_iter()
                .map(|cidr| cidr.addr())
                .collect(),
            firewall: host
                .rules
                .get(crate::actuate::firewall::list)
                .map_err(|e| failure(&e))?,
            left_over: names
                .into_iter()
                .filter_map(|name| Name::new(name).ok())
                .collect(),
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

/// What came of asking a pod's shim.
enum Asking {
    Said(Box<Said>),
    Gone,
    Unresponsive(Name, Unresponsive),
}

fn unresponsive(why: Unresponsive) -> Pod {
    Pod {
        unresponsive: Some(why),
        ..Pod::default()
    }
}

/// Asks a pod's shim, unless it is known not to answer.
async fn ask(host: &Host, graph: &Graph, wanted: &Files, name: Name, shim: Arc<Shim>) -> Asking {
    if shim.silence().is_none() {
        match timeout(
            OBSERVE_LIMIT,
            say(graph, wanted, name.clone(), Arc::clone(&shim)),
        )
        .await
        {
            Ok(Ok(said)) => return Asking::Said(Box::new(said)),
            _ if !shim.is_alive() => return Asking::Gone,
            Err(_) => shim.note_silence(),
            // It was not in time for somebody else, or it answers what nobody understands.
            Ok(Err(failure)) if shim.silence().is_none() => {
                let why = format!("{}: {}", failure.what, failure.why);
                return Asking::Unresponsive(name, Unresponsive::Unreadable { why });
            }
            Ok(Err(_)) => {}
        }
    }
    let why = match (shim.silence(), shim.last_state()) {
        (Some(Silence { since, .. }), _) if host.is_halted(&shim) => Unresponsive::Halted { since },
        (Some(Silence { since, busy: false }), _) => Unresponsive::Silent { since },
        // What it said before it began is what is known.
        (Some(Silence { busy: true, .. }), Some(state)) => {
            let moment = shim.moment();
            let bridged = is_bridged(graph, &name) && shim.known_routes().is_some();
            let asked = Asked {
                bridged,
                files: BTreeMap::new(),
            };
            return Asking::Said(Box::new(Said {
                name,
                shim,
                moment,
                state,
                asked,
            }));
        }
        // Or it has answered in this very moment.
        (Some(_), None) | (None, _) => Unresponsive::Busy,
    };
    Asking::Unresponsive(name, why)
}

fn is_bridged(graph: &Graph, pod: &Name) -> bool {
    graph
        .sandbox(pod)
        .is_some_and(|(node, _)| node.network == Network::Bridge)
}

/// What a shim says of its pod.
async fn say(graph: &Graph, wanted: &Files, name: Name, shim: Arc<Shim>) -> Result<Said, Failure> {
    let moment = shim.moment();
    let state = shim.state().await?;
    let bridged = is_bridged(graph, &name);
    // Asked for once and kept by the shim's handle; a pod that can't be entered has no network.
    let bridged = bridged && shim.routes().await.is_ok();
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
            Ok(Some(dir)) => drop(files.insert(
                container.name.clone(),
                (dir, paths.keys().cloned().collect()),
            )),
            // Its shim can't show them.
            Ok(None) => {}
            // It has ended since.
            Err(failure) if failure.kind == FailureKind::NotRunning || !shim.is_alive() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(Said {
        name,
        shim,
        moment,
        state,
        asked: Asked { bridged, files },
    })
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
        let connected =
            network.is_some() && self.is_on_bridge(host, whole).map_err(|e| failure(&e))?;
        let network = network.filter(|_| connected).cloned();
        Ok(Kernel { network, seen })
    }

    /// Whether the other end of the pod's link is up on the bridge.
    fn is_on_bridge(&self, host: &Host, whole: &Whole) -> Result<bool, tank_sys::Error> {
        let name = link_name(self.state.pid);
        let outer = whole.links.get(&name);
        // The list may be older than the link: one that was just made is looked for again.
        let looked = if outer.is_none() {
            host.routes.link(&name)?
        } else {
            None
        };
        let on_bridge = |link: &Link| {
            link.up && link.controller == whole.bridge.as_ref().map(|link| link.index)
        };
        Ok(outer.or(looked.as_ref()).is_some_and(on_bridge))
    }

    fn sandbox(&self, network: Option<BTreeSet<String>>) -> Result<Sandbox, Failure> {
        let hash = self
            .state
            .sandbox
            .parse()
            .map_err(|e| failed("read a shim's state", &e))?;
        Ok(Sandbox {
            hash,
            pid: self.state.pid,
            version: self.state.version,
            network,
        })
    }

    fn pod(&self, host: &Host, graph: &Graph, kernel: Kernel) -> Result<Pod, Failure> {
        let hash = |text: &str| text.parse().map_err(|e| failed("read a shim's state", &e));
        let known = |name: &Name| {
            self.state
                .containers
                .iter()
                .any(|found| found.name == name.as_str())
        };
        let mut pod = Pod {
            sandbox: Some(self.sandbox(kernel.network)?),
            left_over: kernel
                .seen
                .parts
                .iter()
                .filter(|name| !known(name))
                .cloned()
                .collect(),
            ..Pod::default()
        };
        for found in &self.state.containers {
            let (Ok(name), Some(seen)) = (
                Name::new(found.name.clone()),
                kernel.seen.containers.get(&found.name),
            ) else {
                continue;
            };
            let probed = host
                .prober
                .standing(graph, &self.name, &name, found.started);
            let container = observed::Container {
                hash: hash(&found.hash)?,
                attempt: found.attempt,
                started: found
                    .started_boot
                    .unwrap_or_else(|| on_boot_clock(found.started)),
                since: found.started,
                state: state(found, &probed),
                limits: Limits {
                    memory: seen.limits.memory.map(Bytes),
                    pids: seen.limits.pids.and_then(|pids| u32::try_from(pids).ok()),
                    cpu: seen
                        .limits
                        .cpu
                        .and_then(|cpu| u32::try_from(cpu).ok())
                        .map(MilliCpu),
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
        None => observed::State::Running {
            pid: found.pid,
            ready: probed.ready,
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
    crate::events::now()
        .checked_sub(at)
        .map_or(0, |age| boot_millis().saturating_sub(age))
}
