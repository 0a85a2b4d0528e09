//! inotify(7) on the cgroups and the files of each run: what somebody else writes there makes what
//! was read of the pod outdated.

use crate::pods::{Pods, Shim};
use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tank_model::Name;
use tank_proto::shim::ContainerState;
use tank_sys::{
    cgroup::Cgroups,
    watch::{WatchId, WriteEvents, Writes},
};

/// The watches of all runs.
pub struct RunWatches {
    /// None: the kernel has no instance of inotify(7) left for root, and every pass reads everything.
    writes: Option<Writes>,
    watched: Mutex<Watched>,
}

/// What is watched.
#[derive(Default)]
struct Watched {
    /// The start of each container's run, and whether its files are watched too.
    runs: BTreeMap<(Name, String), (u64, bool)>,
    /// Whose each directory is.
    dirs: BTreeMap<WatchId, Name>,
    /// Whose shim each of these files freezes.
    freezers: BTreeMap<WatchId, Name>,
}

impl RunWatches {
    pub fn new() -> Self {
        let writes = Writes::new();
        let writes =
            writes.inspect_err(|error| tracing::warn!(%error, "every pass reads every limit"));
        Self {
            writes: writes.ok(),
            watched: Mutex::default(),
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the cgroup and the files of a container's run. False: not all of it can be.
    pub fn add(
        &self,
        cgroups: &Cgroups,
        pod: &Name,
        run: &ContainerState,
        files: Option<&Arc<OwnedFd>>,
    ) -> bool {
        let this = (run.started, files.is_some());
        let mut watched = self.watched();
        let key = (pod.clone(), run.name.clone());
        if watched.runs.get(&key) == Some(&this) {
            return true;
        }
        let mut dirs = cgroups.dirs(pod.as_str(), &run.name);
        dirs.extend(files.map(|dir| format!("/proc/self/fd/{}", dir.as_raw_fd()).into()));
        let mut all = true;
        for dir in dirs {
            let Some(writes) = &self.writes else {
                return false;
            };
            match writes.add(&dir) {
                Ok(added) => drop(watched.dirs.insert(added, pod.clone())),
                // Without a watch, the next pass reads it.
                Err(error) => {
                    tracing::debug!(%pod, container = run.name, %error, "it is not watched");
                    all = false;
                }
            }
        }
        for freezer in cgroups.shim_freezers(pod.as_str()) {
            // Where none can be written (before Linux 5.2), nobody freezes.
            if let Some(Ok(added)) = self.writes.as_ref().map(|writes| writes.add(&freezer)) {
                watched.freezers.insert(added, pod.clone());
            }
        }
        if all {
            watched.runs.insert(key, this);
        }
        all
    }

    /// Forgets the runs of pods that have no shim any more: another one of that name is watched anew.
    pub fn retain(&self, shims: &[(Name, Arc<Shim>)]) {
        let living = |pod: &Name| shims.binary_search_by(|(name, _)| name.cmp(pod)).is_ok();
        self.watched().runs.retain(|(pod, _), _| living(pod));
    }

    /// Drains the kernel's notifications: what was read of the pods they are about is outdated.
    /// Whether there were any.
    pub fn drain(&self, pods: &Pods) -> bool {
        let Some(writes) = &self.writes else {
            return false;
        };
        // A descriptor that fails notifies of nothing: then nothing is known to be as it was.
        let changes = writes.drain().unwrap_or(WriteEvents {
            lost: true,
            ..WriteEvents::default()
        });
        let mut watched = self.watched();
        for dir in &changes.written {
            let shim = watched.dirs.get(dir).and_then(|pod| pods.get(pod));
            shim.into_iter().for_each(|shim| shim.invalidate_kernel());
            // It is asked whether it still runs.
            let shim = watched.freezers.get(dir).and_then(|pod| pods.get(pod));
            shim.into_iter().for_each(|shim| shim.invalidate());
        }
        for gone in &changes.gone {
            watched.dirs.remove(gone);
            watched.freezers.remove(gone);
        }
        if changes.lost {
            // Which of the watches are gone was lost, too.
            *watched = Watched::default();
            pods.living()
                .iter()
                .for_each(|(_, shim)| shim.invalidate_kernel());
        }
        changes.of_writes()
    }

    /// Returns when the kernel has notified of writes and they were [drained](Self::drain).
    ///
    /// # Errors
    /// When the descriptor fails.
    pub async fn changed(&self, pods: &Pods) -> Result<(), tank_sys::Error> {
        let Some(writes) = &self.writes else {
            return std::future::pending().await;
        };
        loop {
            writes.ready().await?;
            if self.drain(pods) {
                return Ok(());
            }
        }
    }
}
