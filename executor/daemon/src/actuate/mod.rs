//! The impure writer: carries steps out, the independent ones side by side.

pub mod files;
pub mod firewall;
mod resolver;
mod set_id;
pub mod sources;
pub mod start;
mod user;

use crate::{
    actuate::start::{Prepared, Start},
    faults,
    pods::host::Host,
    pods::shim::{Shim, failure},
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};
use tank_model::{Digest, Graph, Name, graph::SandboxNode, spec::Network};
use tank_plan::{Plan, Step, StepId};
use tank_proto::shim::{self, Failure, FailureKind, Setup};
use tank_sys::{
    process::{SIGCONT, SIGKILL},
    route::Request,
};
use tokio::time::{Instant, timeout_at};

/// The index of the loopback link: it is the first that the kernel makes in a network namespace.
const LOOPBACK: u32 = 1;

/// The most steps at once that do something.
const AT_ONCE: usize = 16;

/// The most steps at once that wait for processes to end: each may take as long as its container
/// may.
const ENDING: usize = 128;

/// A step that was not carried out.
#[derive(Clone, Debug)]
pub struct Failed {
    pub step: Step,
    pub failure: Failure,
}

/// Carries a plan out: each step when those before it are done. What depends on a failed step is
/// left; the failures that are returned are root causes.
pub async fn carry_out(
    host: &Arc<Host>,
    graph: &Arc<Graph>,
    plan: &Plan,
    told: &(dyn Fn(&Step) + Sync),
) -> Vec<Failed> {
    let mut order = Order::of(plan);
    let mut failed = Vec::new();
    // What was begun before its step was. Detached mounts: what is not used is gone when it is
    // dropped.
    let mut ahead: BTreeMap<StepId, Prepared> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    let (mut working, mut ending) = (0, 0);
    loop {
        while let Some(id) = order.take(|id| match is_an_end(&plan.steps[id].step) {
            true => ending < ENDING,
            false => working < AT_ONCE,
        }) {
            let step = plan.steps[id].step.clone();
            *(if is_an_end(&step) {
                &mut ending
            } else {
                &mut working
            }) += 1;
            told(&step);
            let (host, graph, prepared) = (Arc::clone(host), Arc::clone(graph), ahead.remove(&id));
            running.push(async move {
                faults::boundary("before a step");
                let _span = host.timings.span(|| step.to_string());
                let outcome = perform(&host, &graph, &step, prepared).await;
                // However it went, the pod is not what was seen.
                step.pod()
                    .and_then(|pod| host.shim(pod))
                    .into_iter()
                    .for_each(|shim| shim.touch());
                (id, outcome)
            });
        }
        let Some((id, outcome)) = running.next().await else {
            return failed;
        };
        let step = plan.steps[id].step.clone();
        *(if is_an_end(&step) {
            &mut ending
        } else {
            &mut working
        }) -= 1;
        match outcome {
            Ok(()) => {
                faults::boundary("after a step");
                host.failures.remove(&step);
                host.events.add(
                    "step",
                    step.pod().map(Name::as_str),
                    format!("{step}: {}", plan.steps[id].why),
                );
                order.done(id);
                if let Step::StartSandbox { pod, .. } = &step {
                    for (id, start) in order.starts_once_connected(plan, pod, id) {
                        ahead.insert(id, start::prepare_ahead(host, graph, &start));
                    }
                }
            }
            Err(failure) => {
                let message = format!("can't {step}: {}: {}", failure.what, failure.why);
                host.failures
                    .add(&step, format!("{}: {}", failure.what, failure.why));
                host.events
                    .add("failed", step.pod().map(Name::as_str), message);
                failed.push(Failed { step, failure });
            }
        }
    }
}

/// Whether most of a step is waiting for processes to end.
fn is_an_end(step: &Step) -> bool {
    matches!(step, Step::StopContainer { .. } | Step::StopSandbox { .. })
}

/// Which steps may begin: each when those before it are done.
struct Order {
    ready: BTreeSet<StepId>,
    /// How many steps each one still waits for.
    waits: Vec<usize>,
    /// Who waits for each.
    next: Vec<Vec<StepId>>,
}

impl Order {
    fn of(plan: &Plan) -> Self {
        let mut next = vec![Vec::new(); plan.steps.len()];
        let mut waits = Vec::new();
        for (id, planned) in plan.steps.iter().enumerate() {
            let before: BTreeSet<StepId> = planned.after.iter().copied().collect();
            waits.push(before.len());
            before.into_iter().for_each(|before| next[before].push(id));
        }
        let ready = (0..waits.len()).filter(|id| waits[*id] == 0).collect();
        Self { ready, waits, next }
    }

    /// The first step that may begin and for which there is room.
    fn take(&mut self, room: impl Fn(StepId) -> bool) -> Option<StepId> {
        let id = self.ready.iter().copied().find(|id| room(*id))?;
        self.ready.take(&id)
    }

    fn done(&mut self, id: StepId) {
        for next in &self.next[id] {
            self.waits[*next] -= 1;
            if self.waits[*next] == 0 {
                self.ready.insert(*next);
            }
        }
    }

    /// The containers that wait for nothing but the network of a pod whose shim has just been made
    /// by the step `made`.
    fn starts_once_connected(&self, plan: &Plan, pod: &Name, made: StepId) -> Vec<(StepId, Start)> {
        let connects = |id: &&StepId| matches!(&plan.steps[**id].step, Step::EnsureNetwork { pod: of } if of == pod);
        let Some(connect) = self.next[made].iter().find(connects) else {
            return Vec::new();
        };
        let last = self.next[*connect]
            .iter()
            .filter(|id| self.waits[**id] == 1);
        last.filter_map(|id| Some((*id, Start::of(&plan.steps[*id].step)?)))
            .collect()
    }
}

fn other(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure {
        what: what.to_owned(),
        why: why.to_string(),
        kind: FailureKind::Other,
    }
}

/// Runs what blocks on a thread for it.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| other(what, e))?
}

async fn perform(
    host: &Arc<Host>,
    graph: &Arc<Graph>,
    step: &Step,
    prepared: Option<Prepared>,
) -> Result<(), Failure> {
    match step {
        Step::EnsureBridge => {
            let host = Arc::clone(host);
            blocking("set up the bridge", move || ensure_bridge(&host)).await
        }
        Step::RemoveBridge => {
            let host = Arc::clone(host);
            let remove = move || match host
                .routes
                .link(&host.settings.config.bridge)?
                .filter(|link| link.marked)
            {
                Some(link) => host.routes.delete(link.index),
                None => Ok(()),
            };
            blocking("remove the bridge", move || {
                remove().map_err(|e| failure(&e))
            })
            .await
        }
        Step::StartSandbox { pod, hash } => start_sandbox(host, graph, pod, *hash).await,
        Step::StopSandbox { pod } => {
            if let Some(shim) = host.shim(pod) {
                shut_down(&shim).await;
            }
            sweep(host, pod).await
        }
        Step::SweepPod { pod } => sweep(host, pod).await,
        Step::SweepContainer { pod, container } => sweep_container(host, pod, container).await,
        Step::ResumeShim { pod } => resume_shim(host, pod).await,
        Step::EnsureNetwork { pod } => ensure_network(host, pod).await,
        Step::StartContainer {
            pod,
            container,
            hash,
            attempt,
        } => {
            let (pod, container) = (pod.clone(), container.clone());
            let start = Start {
                pod,
                container,
                hash: *hash,
                attempt: *attempt,
            };
            let prepared = match prepared {
                Some(prepared) => prepared,
                None => {
                    // A shim that was taken over was not asked for them yet.
                    let shim = host
                        .shim(&start.pod)
                        .ok_or_else(|| other("start a container", "its shim is gone"))?;
                    shim.namespaces().await?;
                    start::prepare_ahead(host, graph, &start)
                }
            };
            start::start(host, &start, prepared).await.map(drop)
        }
        Step::StopContainer {
            pod,
            container,
            signal,
            timeout,
        } => {
            stop(
                host,
                pod,
                container,
                *signal,
                Duration::from_millis(*timeout),
            )
            .await
        }
        Step::EndContainer {
            pod,
            container,
            signal,
            timeout,
        } => {
            host.prober
                .end(pod, container, *signal, Duration::from_millis(*timeout));
            Ok(())
        }
        Step::SetLimits {
            pod,
            container,
            limits,
        } => {
            let (host, pod, container, limits) = (
                Arc::clone(host),
                pod.clone(),
                container.clone(),
                limits.clone(),
            );
            blocking("set limits", move || {
                start::set_limits(&host, &pod, &container, &limits)
            })
            .await
        }
        Step::Resume { pod, container } => resume(host, pod, container).await,
        Step::WriteFiles {
            pod,
            container,
            paths,
        } => {
            let shim = host
                .shim(pod)
                .ok_or_else(|| other("write files", "the pod's shim is gone"))?;
            files::write(host, &shim, graph, pod, container, paths).await
        }
        Step::EnsureFirewall => {
            let ruleset = host
                .propose_leases(graph)
                .and_then(|leases| host.ruleset(graph, &leases));
            let ruleset = ruleset.map_err(|e| other("work out the rules", e))?;
            let Some(ruleset) = ruleset else {
                return Ok(());
            };
            blocking("publish ports", move || {
                firewall::replace(&ruleset).map_err(|e| failure(&e))
            })
            .await
        }
        Step::RemoveFirewall => {
            blocking("remove the rules", || {
                firewall::remove().map_err(|e| failure(&e))
            })
            .await
        }
    }
}

fn ensure_bridge(host: &Host) -> Result<(), Failure> {
    let name = &host.settings.config.bridge;
    let ensure = || {
        let index = host.routes.ensure_bridge(name, &host.bridge_addresses())?;
        let addresses = host
            .bridge_addresses()
            .into_iter()
            .map(|address| Request::address(index, address));
        host.routes.carry_out(addresses.collect())
    };
    ensure().map_err(|e| failure(&e))?;
    let mut settings = Vec::new();
    for network in &host.settings.config.networks {
        if network.addr().is_ipv4() {
            settings.push("net/ipv4/ip_forward".to_owned());
            // Lets a port on 127.0.0.1 lead to a pod; the table's guard keeps pods from the host's
            // loopback.
            settings.push(format!("net/ipv4/conf/{name}/route_localnet"));
        } else {
            settings.push("net/ipv6/conf/all/forwarding".to_owned());
        }
    }
    for setting in settings {
        let path = format!("/proc/sys/{setting}");
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            continue;
        }
        fs::write(&path, "1")
            .map_err(|e| other(&format!("set {}", setting.replace('/', ".")), e))?;
    }
    Ok(())
}

/// The host's end of a pod's link: the shim's pid makes it unique while an older one is still going
/// away.
pub fn link_name(shim: i32) -> String {
    format!("tk{shim}")
}

async fn start_sandbox(
    host: &Arc<Host>,
    graph: &Arc<Graph>,
    pod: &Name,
    hash: Digest,
) -> Result<(), Failure> {
    let (node, _) = graph
        .sandbox(pod)
        .ok_or_else(|| other("create a pod", "it is not declared"))?;
    let shim = {
        let (host, pod, node) = (Arc::clone(host), pod.clone(), node.clone());
        blocking("create a pod", move || make_shim(&host, &node, &pod, hash)).await?
    };
    if node.network == Network::None {
        set_loopback_up(&shim).await?;
    }
    Ok(())
}

fn make_shim(
    host: &Host,
    node: &SandboxNode,
    pod: &Name,
    hash: Digest,
) -> Result<Arc<Shim>, Failure> {
    // Refused where a configuration is read; what an older version stored is refused here.
    if node.network == Network::Host
        && let Some(key) = node.sysctls.keys().find(|key| key.starts_with("net."))
    {
        return Err(other(
            "set the pod's sysctls",
            format!("`{key}` would be the host's: the pod has its network"),
        ));
    }
    let settings = &host.settings;
    let dir = settings.pod_dir(pod.as_str());
    let id_base = host.id_base(pod).map_err(|e| other("lease ids", e))?;
    let cgroup = host
        .cgroups
        .ensure_shim(pod.as_str())
        .map_err(|e| failure(&e))?;
    fs::create_dir_all(&dir).map_err(|e| other(&format!("make {}", dir.display()), e))?;
    let socket = dir.join("shim.sock");
    let _ = fs::remove_file(&socket);
    let stderr = fs::File::create(dir.join("shim.err"))
        .map_err(|e| other("open the shim's error log", e))?;
    let setup = Setup {
        pod: pod.to_string(),
        sandbox: hash.to_string(),
        hostname: node.hostname.clone(),
        id_base,
        own_network: node.network != Network::Host,
        sysctls: node.sysctls.clone().into_iter().collect(),
        socket: socket.display().to_string(),
        log_dir: settings.log_dir(pod.as_str()).display().to_string(),
        attach_on: settings.attach_dir().display().to_string(),
        cgroup: host
            .cgroups
            .shim_tasks(pod.as_str())
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        nofile: Some(settings.nofile),
        timed: host.timings.is_on(),
    };
    let mut born = host.forkserver.spawn(&setup, &stderr, &cgroup.dir)?;
    host.timings
        .add(&format!("shim of {pod}"), std::mem::take(&mut born.spans));
    host.welcome(pod, born).map_err(|e| failure(&e))
}

async fn set_loopback_up(shim: &Shim) -> Result<(), Failure> {
    shim.routes()
        .await?
        .carry_out(vec![Request::set_up(LOOPBACK)])
        .map_err(|e| failure(&e))
}

async fn ensure_network(host: &Arc<Host>, pod: &Name) -> Result<(), Failure> {
    let shim = host
        .shim(pod)
        .ok_or_else(|| other("connect a pod", "its shim is gone"))?;
    let name = link_name(shim.pid().await?);
    shim.routes().await?;
    let (host, pod) = (Arc::clone(host), pod.clone());
    blocking("connect a pod", move || {
        let lease = host.lease(&pod).map_err(|e| other("lease an address", e))?;
        let addresses = host
            .addresses(&pod)
            .map_err(|e| other("lease an address", e))?;
        connect(&host, &shim, &name, lease, &addresses).map_err(|e| failure(&e))
    })
    .await
}

fn connect(
    host: &Host,
    shim: &Shim,
    name: &str,
    lease: u32,
    addresses: &BTreeSet<IpNet>,
) -> Result<(), tank_sys::Error> {
    let missing =
        |what: &str| tank_sys::Error::new(what, std::io::Error::from(std::io::ErrorKind::NotFound));
    let (Some(inside), Some(net)) = (shim.known_routes(), shim.known_network()) else {
        return Err(missing("enter the pod's network: it uses the host's"));
    };
    let bridge = host
        .routes
        .ensure_bridge(&host.settings.config.bridge, &host.bridge_addresses())?;
    let outer = host.routes.link(name)?;
    let mut inner = inside.link("eth0")?;
    // A pair can't be half there; a link that is down or off its bridge is put back by making it
    // anew.
    let sound = outer
        .as_ref()
        .is_some_and(|link| link.up && link.controller == Some(bridge))
        && inner.is_some();
    if !sound {
        if let Some(link) = outer {
            if !link.marked && link.controller != Some(bridge) {
                let taken = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
                return Err(tank_sys::Error::new(
                    format!("use the link {name}: it is not Tank's"),
                    taken,
                ));
            }
            host.routes.delete(link.index)?;
        }
        // A pod keeps its hardware address with its lease, and neighbours their entry.
        host.routes
            .add_veth(name, bridge, "eth0", lease as u16, net)?;
        inner = inside.link("eth0")?;
    }
    let index = inner.ok_or_else(|| missing("find the pod's link"))?.index;
    let gateways: BTreeSet<_> = host
        .bridge_addresses()
        .into_iter()
        .map(|cidr| cidr.addr())
        .collect();
    inside.remove_other_default_routes(&gateways)?;
    let mut requests = vec![Request::set_up(LOOPBACK), Request::set_up(index)];
    requests.extend(
        addresses
            .iter()
            .map(|address| Request::address(index, *address)),
    );
    requests.extend(gateways.into_iter().map(Request::default_route));
    inside.carry_out(requests)
}

/// Thaws the container's cgroup and lets its main process go on.
async fn resume(host: &Host, pod: &Name, container: &Name) -> Result<(), Failure> {
    host.cgroups
        .thaw(pod.as_str(), container.as_str())
        .map_err(|e| failure(&e))?;
    let Some(shim) = host.shim(pod) else {
        return Ok(());
    };
    let request = shim::Request::Signal {
        container: container.to_string(),
        signal: SIGCONT,
    };
    shim.request(&request, &[]).await.map(drop)
}

/// Asks, waits, kills; then the shim forgets it.
async fn stop(
    host: &Host,
    pod: &Name,
    container: &Name,
    signal: i32,
    limit: Duration,
) -> Result<(), Failure> {
    let Some(shim) = host.shim(pod) else {
        return Ok(());
    };
    end(&shim, container, signal, limit).await?;
    shim.request(
        &shim::Request::Forget {
            container: container.to_string(),
        },
        &[],
    )
    .await
    .map(drop)
}

/// Ends a main process: the signal, and `SIGKILL` when the time is over.
pub async fn end(
    shim: &Shim,
    container: &Name,
    signal: i32,
    limit: Duration,
) -> Result<(), Failure> {
    let ended = || async {
        let state = shim.state().await?;
        let found = state
            .containers
            .iter()
            .find(|found| found.name == container.as_str());
        Ok::<bool, Failure>(found.is_none_or(|found| found.exited.is_some()))
    };
    // Listened to before it is asked: an end in between is told.
    let mut news = shim.news();
    for (signal, limit) in [(signal, limit), (SIGKILL, Duration::from_secs(10))] {
        let deadline = Instant::now() + limit;
        // To one that has ended it does nothing.
        shim.request(
            &shim::Request::Signal {
                container: container.to_string(),
                signal,
            },
            &[],
        )
        .await?;
        loop {
            if ended().await? {
                return Ok(());
            }
            if timeout_at(deadline, news.changed()).await.is_err() {
                break;
            }
        }
    }
    Err(other("stop a container", "it outlives SIGKILL"))
}

/// Ends a shim, and with it whatever is left of its containers.
async fn shut_down(shim: &Shim) {
    let mut news = shim.news();
    let deadline = Instant::now() + Duration::from_secs(10);
    // One that does not answer is killed with its group.
    let _ = shim.request(&shim::Request::Shutdown, &[]).await;
    while shim.is_alive() && timeout_at(deadline, news.changed()).await.is_ok() {}
}

/// Thaws a shim's cgroup, and its pod's, and lets its process go on; then it answers.
async fn resume_shim(host: &Host, pod: &Name) -> Result<(), Failure> {
    let Some(shim) = host.shim(pod) else {
        return Ok(());
    };
    host.cgroups
        .thaw_shim(pod.as_str())
        .map_err(|e| failure(&e))?;
    if let Some(pid) = shim.known_pid() {
        let process = tank_sys::process::open(pid).map_err(|e| failure(&e))?;
        // Its end of the connection was not closed: the process that was named is the shim still.
        if shim.is_connected() {
            tank_sys::process::signal(process.pidfd.as_fd(), SIGCONT).map_err(|e| failure(&e))?;
        }
    }
    shim.ask(&shim::Request::State, &[]).await.map(drop)
}

/// Removes what a container left in a pod that stays: its cgroups, its upper layers. Volumes and
/// logs stay.
async fn sweep_container(host: &Arc<Host>, pod: &Name, container: &Name) -> Result<(), Failure> {
    let (host, pod, container) = (Arc::clone(host), pod.clone(), container.clone());
    let work = move || {
        host.cgroups
            .remove_part(pod.as_str(), container.as_str())
            .map_err(|e| failure(&e))?;
        let layers = host
            .settings
            .scratch_dir(pod.as_str())
            .join(container.as_str());
        start::remove_dir(&layers).map_err(|e| other(&format!("remove {}", layers.display()), e))
    };
    blocking("sweep a container", work).await
}

/// Removes what a pod left: processes, cgroups, its folder, its scratch space. Volumes and logs
/// stay.
async fn sweep(host: &Arc<Host>, pod: &Name) -> Result<(), Failure> {
    host.forget_shim(pod);
    let (host, pod) = (Arc::clone(host), pod.clone());
    let work = move || {
        host.cgroups
            .remove_pod(pod.as_str())
            .map_err(|e| failure(&e))?;
        for dir in [
            host.settings.pod_dir(pod.as_str()),
            host.settings.scratch_dir(pod.as_str()),
        ] {
            start::remove_dir(&dir).map_err(|e| other(&format!("remove {}", dir.display()), e))?;
        }
        Ok(())
    };
    blocking("sweep a pod", work).await
}
