//! Pods: their shims and namespaces, and what they leave behind.

use super::{Actuator, blocking, layers::remove_dir, network};
use crate::pods::{Shim, fail, failure};
use std::{fs, os::fd::AsFd, sync::Arc};
use tank_model::{Digest, Graph, Name, graph::SandboxNode, spec::Network};
use tank_proto::shim::{self, Failure, Setup};
use tank_sys::process::SIGCONT;

pub async fn start_sandbox(
    host: &Arc<Actuator>,
    graph: &Arc<Graph>,
    pod: &Name,
    hash: Digest,
) -> Result<(), Failure> {
    let (node, _) = graph
        .sandbox(pod)
        .ok_or_else(|| fail("create a pod", "it is not declared"))?;
    let shim = {
        let (host, pod, node) = (Arc::clone(host), pod.clone(), node.clone());
        blocking("create a pod", move || make_shim(&host, &node, &pod, hash)).await?
    };
    if node.network == Network::None {
        network::set_loopback_up(&shim).await?;
    }
    Ok(())
}

fn make_shim(
    host: &Actuator,
    node: &SandboxNode,
    pod: &Name,
    hash: Digest,
) -> Result<Arc<Shim>, Failure> {
    // Refused where a configuration is read; what an older version stored is refused here.
    if node.network == Network::Host
        && let Some(key) = node.sysctls.keys().find(|key| key.starts_with("net."))
    {
        return Err(fail(
            "set the pod's sysctls",
            format!("`{key}` would be the host's: the pod has its network"),
        ));
    }
    let settings = &host.settings;
    let dir = settings.pod_dir(pod.as_str());
    let id_base = host.id_base(pod).map_err(|e| fail("lease ids", e))?;
    let cgroup = host
        .cgroups
        .ensure_shim(pod.as_str())
        .map_err(|e| failure(&e))?;
    fs::create_dir_all(&dir).map_err(|e| fail(format!("make {}", dir.display()), e))?;
    let socket = dir.join("shim.sock");
    let _ = fs::remove_file(&socket);
    let stderr =
        fs::File::create(dir.join("shim.err")).map_err(|e| fail("open the shim's error log", e))?;
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
    host.pods.spawn(pod, &setup, &stderr, &cgroup.dir)
}

/// Thaws a shim's cgroup, and its pod's, and lets its process go on; then it answers.
pub async fn resume_shim(host: &Actuator, pod: &Name) -> Result<(), Failure> {
    let Some(shim) = host.pods.get(pod) else {
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
pub async fn sweep_container(
    host: &Arc<Actuator>,
    pod: &Name,
    container: &Name,
) -> Result<(), Failure> {
    let (host, pod, container) = (Arc::clone(host), pod.clone(), container.clone());
    let work = move || {
        host.cgroups
            .remove_part(pod.as_str(), container.as_str())
            .map_err(|e| failure(&e))?;
        let layers = host
            .settings
            .scratch_dir(pod.as_str())
            .join(container.as_str());
        remove_dir(&layers).map_err(|e| fail(format!("remove {}", layers.display()), e))
    };
    blocking("sweep a container", work).await
}

/// Removes what a pod left: processes, cgroups, its folder, its scratch space. Volumes and logs
/// stay.
pub async fn sweep(host: &Arc<Actuator>, pod: &Name) -> Result<(), Failure> {
    host.pods.remove(pod);
    let (host, pod) = (Arc::clone(host), pod.clone());
    let work = move || {
        host.cgroups
            .remove_pod(pod.as_str())
            .map_err(|e| failure(&e))?;
        for dir in [
            host.settings.pod_dir(pod.as_str()),
            host.settings.scratch_dir(pod.as_str()),
        ] {
            remove_dir(&dir).map_err(|e| fail(format!("remove {}", dir.display()), e))?;
        }
        Ok(())
    };
    blocking("sweep a pod", work).await
}
