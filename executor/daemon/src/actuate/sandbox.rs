//! Pods: their shims and namespaces, and what they leave behind.

use super::{Error, blocking, network};
use crate::{
    pods::{Pods, Shim},
    settings::Settings,
    timings::Timings,
    trash,
};
use std::{fs, os::fd::AsFd, path::PathBuf, sync::Arc};
use tank_model::{Digest, Name};
use tank_plan::target::SandboxSpec;
use tank_proto::shim::{Request, Setup};
use tank_sys::{cgroup::Cgroups, process::SIGCONT};

/// Spawns shims.
#[derive(Clone)]
pub struct Spawner {
    pub settings: Arc<Settings>,
    pub cgroups: Arc<Cgroups>,
    pub pods: Arc<Pods>,
    pub timings: Arc<Timings>,
}

impl Spawner {
    /// Spawns a pod's shim with its namespaces.
    ///
    /// # Errors
    /// The shim's failure, or the kernel's.
    pub async fn start_sandbox(
        self,
        pod: &Name,
        hash: Digest,
        spec: &SandboxSpec,
    ) -> Result<(), Error> {
        let (pod, loopback, spec) = (pod.clone(), spec.loopback, spec.clone());
        let spawn = move || self.spawn(&pod, hash, spec);
        let shim = blocking("create a pod", spawn).await?;
        if loopback {
            network::set_loopback_up(&shim).await?;
        }
        Ok(())
    }

    fn spawn(&self, pod: &Name, hash: Digest, spec: SandboxSpec) -> Result<Arc<Shim>, Error> {
        let settings = &self.settings;
        let dir = settings.pod_dir(pod.as_str());
        let cgroup = self.cgroups.ensure_shim(pod.as_str())?;
        fs::create_dir_all(&dir).map_err(|source| Error::MakeDir {
            path: dir.clone(),
            source,
        })?;
        let socket = dir.join("shim.sock");
        let _ = fs::remove_file(&socket);
        let stderr = fs::File::create(dir.join("shim.err"));
        let stderr = stderr.map_err(Error::ShimLog)?;
        let tasks = self.cgroups.shim_tasks(pod.as_str());
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
            timed: self.timings.is_on(),
        };
        Ok(self.pods.spawn(pod, &setup, &stderr, &cgroup.dir)?)
    }
}

/// Thaws a shim's cgroup, and its pod's, and lets its process go on; then it answers.
///
/// # Errors
/// What the kernel gives, or that it does not answer.
pub async fn resume_shim(shim: &Shim, cgroups: &Cgroups, pod: &Name) -> Result<(), Error> {
    cgroups.thaw_shim(pod.as_str())?;
    if let Some(pid) = shim.known_pid() {
        let process = tank_sys::process::open(pid)?;
        // Its end of the connection was not closed: the process that was named is the shim still.
        if shim.is_connected() {
            tank_sys::process::signal(process.pidfd.as_fd(), SIGCONT)?;
        }
    }
    Ok(shim.ask(&Request::State, &[]).await.map(drop)?)
}

/// What pods and containers leave behind.
pub struct Leavings {
    pub settings: Arc<Settings>,
    pub cgroups: Arc<Cgroups>,
}

impl Leavings {
    /// Removes what a container left in a pod that stays: its cgroups, its upper layers. Volumes
    /// and logs stay.
    ///
    /// # Errors
    /// What the kernel gives.
    pub async fn sweep_container(self, pod: &Name, container: &Name) -> Result<(), Error> {
        let (pod, container) = (pod.clone(), container.clone());
        let sweep = move || {
            let (pod, container) = (pod.as_str(), container.as_str());
            self.cgroups.remove_part(pod, container)?;
            remove(self.settings.scratch_dir(pod).join(container))
        };
        blocking("sweep a container", sweep).await
    }

    /// Removes what a pod left: processes, cgroups, its folder, its scratch space. Volumes and logs
    /// stay.
    ///
    /// # Errors
    /// What the kernel gives.
    pub async fn sweep(self, pod: &Name) -> Result<(), Error> {
        let pod = pod.clone();
        let sweep = move || {
            self.cgroups.remove_pod(pod.as_str())?;
            remove(self.settings.pod_dir(pod.as_str()))?;
            remove(self.settings.scratch_dir(pod.as_str()))
        };
        blocking("sweep a pod", sweep).await
    }
}

/// Out of the way at once, however much a container made there.
fn remove(path: PathBuf) -> Result<(), Error> {
    let put = trash::put(&path).map(drop);
    put.map_err(|source| Error::RemoveDir { path, source })
}
