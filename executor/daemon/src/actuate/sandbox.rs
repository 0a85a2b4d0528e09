//! Pods: their shims and namespaces, and what they leave behind.

use super::{Actuator, Error, blocking, layers::remove_dir, network};
use crate::pods::Shim;
use std::{fs, os::fd::AsFd, path::PathBuf, sync::Arc};
use tank_model::{Digest, Name};
use tank_plan::target::SandboxSpec;
use tank_proto::shim::{Request, Setup};
use tank_sys::process::SIGCONT;

/// Spawns a pod's shim with its namespaces.
///
/// # Errors
/// The shim's failure, or the kernel's.
pub async fn start_sandbox(
    actuator: &Arc<Actuator>,
    pod: &Name,
    hash: Digest,
    spec: &SandboxSpec,
) -> Result<(), Error> {
    let shim = {
        let (actuator, pod, spec) = (Arc::clone(actuator), pod.clone(), spec.clone());
        blocking("create a pod", move || {
            spawn_shim(&actuator, &pod, hash, spec)
        })
        .await?
    };
    if spec.loopback {
        network::set_loopback_up(&shim).await?;
    }
    Ok(())
}

fn spawn_shim(
    actuator: &Actuator,
    pod: &Name,
    hash: Digest,
    spec: SandboxSpec,
) -> Result<Arc<Shim>, Error> {
    let settings = &actuator.settings;
    let dir = settings.pod_dir(pod.as_str());
    let cgroup = actuator.cgroups.ensure_shim(pod.as_str())?;
    fs::create_dir_all(&dir).map_err(|source| Error::MakeDir {
        path: dir.clone(),
        source,
    })?;
    let socket = dir.join("shim.sock");
    let _ = fs::remove_file(&socket);
    let stderr = fs::File::create(dir.join("shim.err"));
    let stderr = stderr.map_err(Error::ShimLog)?;
    let tasks = actuator.cgroups.shim_tasks(pod.as_str());
    let setup = Setup {
        pod: pod.to_string(),
        sandbox: hash.to_string(),
        hostname: spec.hostname,
        id_base: spec.id_base,
        own_network: spec.own_network,
        sysctls: spec.sysctls.into_iter().collect(),
        default_sysctls: spec.default_sysctls.into_iter().collect(),
        socket: socket.display().to_string(),
        log_dir: settings.log_dir(pod.as_str()).display().to_string(),
        attach_on: settings.attach_dir().display().to_string(),
        cgroup: tasks
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        nofile: Some(settings.nofile),
        timed: actuator.timings.is_on(),
    };
    Ok(actuator.pods.spawn(pod, &setup, &stderr, &cgroup.dir)?)
}

/// Thaws a shim's cgroup, and its pod's, and lets its process go on; then it answers.
///
/// # Errors
/// What the kernel gives, or that it does not answer.
pub async fn resume_shim(actuator: &Actuator, pod: &Name) -> Result<(), Error> {
    let Some(shim) = actuator.pods.get(pod) else {
        return Ok(());
    };
    actuator.cgroups.thaw_shim(pod.as_str())?;
    if let Some(pid) = shim.known_pid() {
        let process = tank_sys::process::open(pid)?;
        // Its end of the connection was not closed: the process that was named is the shim still.
        if shim.is_connected() {
            tank_sys::process::signal(process.pidfd.as_fd(), SIGCONT)?;
        }
    }
    Ok(shim.ask(&Request::State, &[]).await.map(drop)?)
}

/// Removes what a container left in a pod that stays: its cgroups, its upper layers. Volumes and
/// logs stay.
///
/// # Errors
/// What the kernel gives.
pub async fn sweep_container(
    actuator: &Arc<Actuator>,
    pod: &Name,
    container: &Name,
) -> Result<(), Error> {
    let actuator = Arc::clone(actuator);
    let (pod, container) = (pod.clone(), container.clone());
    let sweep = move || {
        let (pod, container) = (pod.as_str(), container.as_str());
        actuator.cgroups.remove_part(pod, container)?;
        remove(actuator.settings.scratch_dir(pod).join(container))
    };
    blocking("sweep a container", sweep).await
}

/// Removes what a pod left: processes, cgroups, its folder, its scratch space. Volumes and logs
/// stay.
///
/// # Errors
/// What the kernel gives.
pub async fn sweep(actuator: &Arc<Actuator>, pod: &Name) -> Result<(), Error> {
    actuator.pods.remove(pod);
    let (actuator, pod) = (Arc::clone(actuator), pod.clone());
    let sweep = move || {
        actuator.cgroups.remove_pod(pod.as_str())?;
        let settings = &actuator.settings;
        for dir in [
            settings.pod_dir(pod.as_str()),
            settings.scratch_dir(pod.as_str()),
        ] {
            remove(dir)?;
        }
        Ok(())
    };
    blocking("sweep a pod", sweep).await
}

fn remove(path: PathBuf) -> Result<(), Error> {
    remove_dir(&path).map_err(|source| Error::RemoveDir { path, source })
}
