//! The impure reader: builds [`Observed`] from the shims and the kernel.

use crate::{
    events::now,
    files::{self, Files},
    host::Host,
    shims::Shim,
};
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tank_model::{
    Digest, Graph, Key, Name,
    spec::{Limits, Network},
    units::{Bytes, MilliCpu},
};
use tank_plan::observed::{Container, Observed, Pod, Sandbox, State};
use tank_proto::shim::{ContainerState, ExitStatus, Failure, FailureKind};
use tank_sys::route::Link;

/// Looks at everything Tank has on this host. What can't be read is an error, never an absence: planning on half a
/// view would undo what was only not seen.
///
/// # Errors
/// What the kernel gave.
pub async fn observe(host: &Arc<Host>, graph: &Graph, wanted: &Files) -> Result<Observed, Failure> {
    let shims = host.living_shims();
    // Once for all pods: a host has a link for each of them.
    let links = host.routes.links().await.map_err(|e| crate::shims::failure(&e))?;
    let pods = join_all(shims.iter().map(|(name, shim)| pod(host, graph, wanted, &links, name, shim))).await;
    let mut observed = Observed { now: now(), ..Observed::default() };
    for ((name, _), pod) in shims.iter().zip(pods) {
        // A shim that ends while it is asked is one that is gone.
        if let Some(pod) = pod? {
            observed.pods.insert(name.clone(), pod);
        }
    }
    for name in left_over(host).await {
        observed.pods.entry(name).or_default();
    }
    observed.bridge = bridge(host).await?;
    let marks = tokio::task::spawn_blocking(tank_sys::nft::list).await;
    observed.firewall = marks.map_err(|e| failed("list the rules", &e))?.map_err(|e| crate::shims::failure(&e))?;
    Ok(observed)
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    let kind = tank_proto::shim::FailureKind::Other;
    Failure { what: what.to_owned(), why: error.to_string(), kind }
}

/// Names that have a cgroup, a folder, or the upper layers of containers.
async fn left_over(host: &Arc<Host>) -> BTreeSet<Name> {
    let host = Arc::clone(host);
    let look = move || {
        let mut names = host.cgroups.pods();
        for dir in [host.settings.run_dir.join("pods"), host.settings.state_dir.join("scratch")] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.into_iter().filter_map(|name| Name::new(name).ok()).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

async fn bridge(host: &Host) -> Result<Option<BTreeSet<String>>, Failure> {
    let link = host.routes.link(&host.settings.config.bridge).await.map_err(|e| crate::shims::failure(&e))?;
    let Some(link) = link.filter(|link| link.up && link.marked) else { return Ok(None) };
    let addresses = host.routes.addresses(link.index).await.map_err(|e| crate::shims::failure(&e))?;
    Ok(Some(addresses.iter().map(ToString::to_string).collect()))
}

async fn pod(
    host: &Arc<Host>,
    graph: &Graph,
    wanted: &Files,
    links: &[Link],
    name: &Name,
    shim: &Arc<Shim>,
) -> Result<Option<Pod>, Failure> {
    let state = match shim.state().await {
        Ok(state) => state,
        Err(_) if !shim.is_alive() => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let bridged = graph.sandbox(name).is_some_and(|(node, _)| node.network == Network::Bridge);
    let network = if bridged { network(host, links, shim, state.pid).await? } else { None };
    let mut pod = Pod {
        sandbox: Some(Sandbox {
            hash: state.sandbox.parse().map_err(|e| failed("read a shim's state", &e))?,
            pid: state.pid,
            version: state.version,
            network,
        }),
        containers: BTreeMap::new(),
    };
    for container in &state.containers {
        let Ok(container_name) = Name::new(container.name.clone()) else { continue };
        let mut found = self::container(host, graph, name, &container_name, container)?;
        let wanted = wanted.get(&(name.clone(), container_name.clone()));
        if let (Some(wanted), State::Running { .. }) = (wanted, &found.state) {
            let files = files::observe(host, shim, &container_name, container.started, wanted.keys()).await;
            match files {
                Ok(files) => found.files = files,
                // It has ended since.
                Err(failure) if failure.kind == FailureKind::NotRunning || !shim.is_alive() => {}
                Err(failure) => return Err(failure),
            }
        }
        pod.containers.insert(container_name, found);
    }
    Ok(Some(pod))
}

fn container(
    host: &Arc<Host>,
    graph: &Graph,
    pod: &Name,
    name: &Name,
    found: &ContainerState,
) -> Result<Container, Failure> {
    let lifecycle = graph.lifecycle(pod, name);
    let probes = graph.get(&Key::Lifecycle(pod.clone(), name.clone())).map_or(Digest::of(b""), |entry| entry.hash);
    let state = match found.exited {
        None => State::Running {
            pid: found.pid,
            ready: host.readiness.is_ready(host, pod, name, found.started, &lifecycle, probes),
        },
        Some((ExitStatus::Code(code), at)) => State::Exited { status: code, at },
        Some((ExitStatus::Signal(signal), at)) => State::Exited { status: 128 + signal, at },
    };
    let limits = host.cgroups.limits(pod.as_str(), name.as_str());
    host.watch_limits(pod, name, found.started);
    let halted = found.exited.is_none()
        && (host.cgroups.is_frozen(pod.as_str(), name.as_str()) || tank_sys::process::is_stopped(found.pid));
    Ok(Container {
        hash: found.hash.parse().map_err(|e| failed("read a shim's state", &e))?,
        attempt: found.attempt,
        started: found.started,
        state,
        limits: Limits {
            memory: limits.memory.map(Bytes),
            pids: limits.pids.and_then(|pids| u32::try_from(pids).ok()),
            cpu: limits.cpu.and_then(|cpu| u32::try_from(cpu).ok()).map(MilliCpu),
        },
        halted,
        files: None,
        // One that has never ended was never out of memory: nothing is read for what runs well.
        out_of_memory: (found.attempt > 0 || found.exited.is_some())
            && host.cgroups.oom_kills(pod.as_str(), name.as_str()) > 0,
        tty: found.tty,
        stop_signal: found.stop_signal,
        stop_timeout: found.stop_timeout,
    })
}

/// The addresses of the pod's own link, if that is up, has a route, and its other end is up on the bridge.
async fn network(host: &Host, links: &[Link], shim: &Shim, pid: i32) -> Result<Option<BTreeSet<String>>, Failure> {
    let Ok(routes) = shim.routes().await else { return Ok(None) };
    let read = async {
        let inside = routes.links().await?;
        let Some(link) = inside.iter().find(|link| link.name == "eth0" && link.up) else { return Ok(None) };
        let loopback = inside.iter().any(|link| link.name == "lo" && link.up);
        let gateways: BTreeSet<_> = host.bridge_addresses().into_iter().map(|cidr| cidr.address).collect();
        if !loopback || routes.default_gateways().await? != gateways {
            return Ok(None);
        }
        Ok(Some(routes.addresses(link.index).await?))
    };
    let addresses: Option<BTreeSet<_>> = read.await.map_err(|e: tank_sys::Error| crate::shims::failure(&e))?;
    let bridge = links.iter().find(|link| link.name == host.settings.config.bridge).map(|link| link.index);
    let name = crate::actuate::link_name(pid);
    let connected = links.iter().any(|link| link.name == name && link.up && link.controller == bridge);
    Ok(addresses.filter(|_| connected).map(|addresses| addresses.iter().map(ToString::to_string).collect()))
}
