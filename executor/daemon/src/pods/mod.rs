//! The daemon's side of the shims: which pods have one, spawning them, requests and notifications.
//!
//! *Never*: decides what a pod should be, or reads the kernel's side of it. *Concurrency*: every
//! method may be called by anybody; no lock is held while a shim is waited for.

pub mod command;
mod connection;
mod error;
pub mod files;
pub mod forkserver;
pub mod forward;
pub mod logs;
pub mod names;
mod pending;
pub mod runs;
pub mod shim;

pub use connection::{OBSERVE_LIMIT, Silence};
pub use error::{Error, NoShim, unexpected, why};
pub use names::Names;
pub use shim::Shim;

use crate::{
    dirty::Dirty,
    events::{Events, Kind},
    settings::Settings,
    timings::Timings,
};
use forkserver::Forkserver;
use logs::watch::LogWatch;
use runs::RunsByHand;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tank_model::Name;
use tank_proto::shim::{Event, Setup};
use tank_sys::{Error as SysError, cgroup::Cgroups, with_causes};
use tokio::{sync::mpsc, time::sleep};

/// How long after an end that failed a run may be asked to end again.
const END_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a shim, or the kernel on its behalf, notifies of.
#[derive(Debug)]
pub enum Notification {
    Event(String, Event),
    /// The shim has ended, and nobody asked it to.
    Gone(String),
    /// The shim was asked to end, and did.
    Ended(String),
    /// Something changed in the pod's network.
    Changed(String),
    /// It does not answer.
    Silent(String),
    /// It answers again.
    Answers(String),
}

/// One run of a container: its pod, its name, and when it started as its shim reports it, in
/// milliseconds since the Unix epoch.
pub type RunId = (Name, Name, u64);

/// The pods that have a shim.
pub struct Pods {
    settings: Arc<Settings>,
    cgroups: Arc<Cgroups>,
    events: Arc<Events>,
    timings: Arc<Timings>,
    dirty: Arc<Dirty>,
    forkserver: Forkserver,
    notifications: mpsc::Sender<Notification>,
    logs: Arc<LogWatch>,
    runs: Arc<RunsByHand>,
    shims: Mutex<BTreeMap<Name, Arc<Shim>>>,
    /// The runs that were asked to end and have not yet.
    ending: Mutex<BTreeSet<RunId>>,
}

impl Pods {
    pub fn new(
        settings: Arc<Settings>,
        cgroups: Arc<Cgroups>,
        (events, timings, dirty): (Arc<Events>, Arc<Timings>, Arc<Dirty>),
        notifications: mpsc::Sender<Notification>,
    ) -> Self {
        Self {
            forkserver: Forkserver::new(&settings.shim),
            settings,
            cgroups,
            events,
            timings,
            dirty,
            notifications,
            logs: Arc::new(LogWatch::new()),
            runs: Arc::default(),
            shims: Mutex::default(),
            ending: Mutex::default(),
        }
    }

    fn shims(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Shim>>> {
        self.shims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What clients run by hand.
    pub fn runs(&self) -> &Arc<RunsByHand> {
        &self.runs
    }

    /// What wakes whoever follows a log.
    pub fn logs(&self) -> &Arc<LogWatch> {
        &self.logs
    }

    /// Starts the process that forks shims: the first pod need not wait for it. If that fails,
    /// the first pod tries again and reports why.
    pub fn warm_up(&self) {
        let _ = self.forkserver.start();
    }

    /// Connects to every shim that was left running. Needs a tokio runtime.
    pub fn adopt(&self) {
        let pods = std::fs::read_dir(self.settings.run_dir.join("pods"));
        for entry in pods.into_iter().flatten().flatten() {
            let name = entry.file_name().to_str().map(Name::of_pod);
            let Some(Ok(pod)) = name else { continue };
            match self.connect(&pod) {
                Ok(shim) => {
                    self.shims().insert(pod.clone(), shim);
                    self.events
                        .add(Kind::Adopted, Some(pod.as_str()), "its shim is still there");
                }
                Err(error) => tracing::info!(%pod, %error, "its shim is gone"),
            }
        }
    }

    fn connect(&self, pod: &Name) -> Result<Arc<Shim>, SysError> {
        let path = self.settings.pod_dir(pod.as_str()).join("shim.sock");
        Shim::connect(pod.as_str(), &path, self.notifications.clone())
    }

    /// Spawns a pod's shim in the cgroup `cgroup`, and waits until it is ready. Blocking.
    ///
    /// # Errors
    /// The failure that the shim sent, or that it sent nothing in time.
    pub fn spawn(
        &self,
        pod: &Name,
        setup: &Setup,
        stderr: &File,
        cgroup: &OwnedFd,
    ) -> Result<Arc<Shim>, Error> {
        let mut spawned = self.forkserver.spawn(setup, stderr, cgroup)?;
        let spans = std::mem::take(&mut spawned.spans);
        self.timings.add(&format!("shim of {pod}"), spans);
        let shim = Shim::new(pod.as_str(), spawned, self.notifications.clone())?;
        self.shims().insert(pod.clone(), Arc::clone(&shim));
        Ok(shim)
    }

    /// The living shim of a pod.
    pub fn get(&self, pod: &Name) -> Option<Arc<Shim>> {
        self.shims()
            .get(pod)
            .filter(|shim| shim.is_alive())
            .cloned()
    }

    /// All living shims; the others are forgotten. One that only hung up, or was hung up on, is
    /// connected to again: what it holds runs on.
    pub fn living(&self) -> Vec<(Name, Arc<Shim>)> {
        let mut shims = self.shims();
        shims.retain(|pod, shim| {
            if shim.is_alive() {
                return true;
            }
            let Ok(again) = self.connect(pod) else {
                return false;
            };
            *shim = again;
            true
        });
        shims
            .iter()
            .map(|(pod, shim)| (pod.clone(), Arc::clone(shim)))
            .collect()
    }

    /// Forgets a pod's shim.
    pub fn remove(&self, pod: &Name) {
        self.shims().remove(pod);
    }

    /// Whatever was read of any pod is outdated.
    pub fn invalidate(&self) {
        self.living().iter().for_each(|(_, shim)| shim.invalidate());
    }

    /// Asks every shim whether it answers, and notes which do not.
    pub async fn check(&self) {
        let shims = self.living();
        futures_util::future::join_all(shims.iter().map(|(_, shim)| self.check_one(shim))).await;
    }

    /// As [`Pods::check`], of the shim that is this process.
    pub async fn check_process(&self, pid: i32) {
        let shim = self
            .living()
            .into_iter()
            .find(|(_, shim)| shim.known_pid() == Some(pid));
        if let Some((_, shim)) = shim {
            self.check_one(&shim).await;
        }
    }

    async fn check_one(&self, shim: &Shim) {
        shim.check().await;
        // What can't run is not busy, whatever it was asked last.
        if shim.silence().is_some() && self.is_halted(shim) {
            self.dirty.mark();
        }
    }

    /// Whether somebody stopped a shim or froze its cgroup.
    pub fn is_halted(&self, shim: &Shim) -> bool {
        shim.known_pid().is_some_and(tank_sys::process::is_stopped)
            || self.cgroups.is_shim_frozen(&shim.pod)
    }

    /// Begins to end the run of a container and does not wait for it, which may take as long as the
    /// container may. Of a run that is ending already, or of none, nothing is done.
    pub async fn begin_end(
        self: &Arc<Self>,
        pod: &Name,
        container: &Name,
        (signal, limit): (i32, Duration),
    ) -> Result<(), Error> {
        let Some(shim) = self.get(pod) else {
            return Ok(());
        };
        let state = shim.state().await?;
        let running = state
            .containers
            .iter()
            .find(|found| found.name == container.as_str() && found.exited.is_none());
        let Some(running) = running else {
            return Ok(());
        };
        let run = (pod.clone(), container.clone(), running.started);
        if !self.ending().insert(run.clone()) {
            return Ok(());
        }
        let pods = Arc::clone(self);
        tokio::spawn(async move {
            // With its shim its containers are gone.
            if let Err(error) = shim.end(&run.1, signal, limit).await
                && shim.is_alive()
            {
                let message = format!("can't {}", with_causes(&error));
                pods.events.add(Kind::Failed, Some(run.0.as_str()), message);
                sleep(END_RETRY_AFTER).await;
            }
            pods.ending().remove(&run);
            pods.dirty.mark();
        });
        Ok(())
    }

    /// Whether a run was asked to end and has not yet.
    pub fn is_ending(&self, run: &RunId) -> bool {
        self.ending().contains(run)
    }

    fn ending(&self) -> MutexGuard<'_, BTreeSet<RunId>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's end of an interface of a pod's own that is a port of somebody's bridge: as its
/// hardware address, which no other pod's is.
pub fn port_name(mac: [u8; 6]) -> String {
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("tk{hex}")
}

/// The host's end of a pod's link to the network at this place among the pod's: the shim's pid makes it
/// unique while an older one is still going away.
pub fn outer_link_name(shim: i32, place: usize) -> String {
    match place {
        0 => format!("tk{shim}"),
        place => format!("tk{shim}-{place}"),
    }
}
