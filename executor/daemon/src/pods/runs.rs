//! What clients run by hand in pods: which runs there are, as plans know them, and the streams of each until
//! its shim has them.
//!
//! It is in memory alone: with the daemon the runs are over, and what is left of them is found as what nobody
//! declares.

use super::Pods;
use crate::{dirty::Dirty, store::leases::Leases};
use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tank_image::Images;
use tank_model::{Digest, Name};
use tank_plan::{RunByHand, Runs, runs};
use tank_proto::shim::FailureKind;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

/// The most runs of one user at once, and of all users but root together.
const MEMBER: usize = 8;
const MEMBERS: usize = 32;

/// How often a shim is asked whether a run is still there, should it send nothing.
const ASK_PERIOD: Duration = Duration::from_secs(60);

/// How long a run's own pod has its leases when it is over, should it not be gone before, and how often it is looked.
const LEASED_AFTER: Duration = Duration::from_secs(120);
const GONE_PERIOD: Duration = Duration::from_millis(200);

/// Why a run was not started.
#[derive(Debug)]
pub struct NotStarted {
    pub kind: FailureKind,
    pub why: String,
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{MEMBER} runs by hand at once are the most of a user, and {MEMBERS} of all but root")]
pub struct TooMany;

/// What comes with a run that was started: its control socket and, if it has one, its terminal's master.
type Started = Result<Vec<OwnedFd>, NotStarted>;

/// What a client hands to its run.
#[derive(Debug, Default)]
pub struct Streams {
    pub fds: Vec<OwnedFd>,
    /// Rows and columns of a terminal.
    pub size: (u16, u16),
}

/// The runs that there are.
#[derive(Default)]
pub struct RunsByHand(Mutex<Held>);

#[derive(Default)]
struct Held {
    runs: Runs,
    streams: BTreeMap<(Name, Name), Streams>,
    waiting: BTreeMap<(Name, Name), oneshot::Sender<Started>>,
    names: u64,
    /// Of runs' own pods. No store has them: with the daemon they are given back.
    leases: Leases,
    were_alone: bool,
}

impl Alone {
    /// Keeps it until the pod is gone, or that takes too long.
    pub async fn until_gone(self, pods: &Pods) {
        let until = Instant::now() + LEASED_AFTER;
        while pods.get(&self.pod).is_some() && Instant::now() < until {
            sleep(GONE_PERIOD).await;
        }
    }
}

impl Held {
    fn refuse_more(&self, uid: u32) -> Result<(), TooMany> {
        let of = |counts: &dyn Fn(u32) -> bool| {
            let runs = self.runs.all();
            runs.filter(|run| counts(run.uid)).count()
        };
        if of(&|other| other == uid) >= MEMBER || (uid != 0 && of(&|other| other != 0) >= MEMBERS) {
            return Err(TooMany);
        }
        Ok(())
    }
}

/// What a run in a pod of its own has for as long as this is kept.
pub struct Leased {
    runs: Arc<RunsByHand>,
    names: Vec<String>,
}

impl Drop for Leased {
    fn drop(&mut self) {
        let mut held = self.runs.lock();
        for name in &self.names {
            held.leases.remove(name);
        }
    }
}

/// What is kept with a run in a pod of its own.
#[expect(dead_code, reason = "they are held, and nobody reads them")]
pub struct Alone {
    pub pod: Name,
    pub leased: Leased,
    /// Keeps its image from being collected.
    pub image: Images,
}

/// A run that is wanted for as long as this is kept.
pub struct Wanted {
    runs: Arc<RunsByHand>,
    dirty: Arc<Dirty>,
    pub pod: Name,
    pub container: Name,
    alone: Option<Alone>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut held = self.runs.lock();
        let key = (self.pod.clone(), self.container.clone());
        held.runs.remove(&key.0, &key.1);
        held.streams.remove(&key);
        held.waiting.remove(&key);
        drop(held);
        self.dirty.mark();
    }
}

impl Wanted {
    /// Keeps it for as long as its container runs; gives what its own pod has until that is gone.
    pub async fn keep(mut self, pods: &Pods) -> Option<Alone> {
        until_ended(pods, &self.pod, &self.container).await;
        self.alone.take()
    }
}

/// Waits until a container does not run any more.
pub async fn until_ended(pods: &Pods, pod: &Name, container: &Name) {
    while let Some(shim) = pods.get(pod) {
        let mut changes = shim.subscribe();
        let runs = shim.state().await.map(|state| {
            let mut containers = state.containers.iter();
            containers.any(|found| found.name == container.as_str() && found.exited.is_none())
        });
        if !matches!(runs, Ok(true)) && shim.silence().is_none() {
            return;
        }
        let _ = timeout(ASK_PERIOD, changes.changed()).await;
    }
}

impl RunsByHand {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a pod is called as those of runs are.
    pub fn is_pod(pod: &Name) -> bool {
        runs::is_name(pod)
    }

    /// The leases of runs' own pods.
    pub fn leases(&self) -> Leases {
        self.lock().leases.clone()
    }

    /// Keeps leases that a run's own pod gets.
    pub fn lease(self: &Arc<Self>, leases: Leases) -> Leased {
        let names = leases.keys().cloned().collect();
        self.lock().leases.extend(leases);
        Leased {
            runs: Arc::clone(self),
            names,
        }
    }

    /// Whether there was one in a pod of its own since the daemon was started.
    pub fn were_alone(&self) -> bool {
        self.lock().were_alone
    }

    /// As plans know them.
    pub fn planned(&self) -> Runs {
        self.lock().runs.clone()
    }

    /// One of them: a container of a pod, or, without a container, that of a pod of its own.
    pub fn find(&self, pod: &Name, container: Option<&Name>) -> Option<(Name, RunByHand)> {
        let held = self.lock();
        let mut of_pod = held.runs.of_pod(pod);
        let found = of_pod.find(|(name, run)| match container {
            Some(container) => *name == container,
            None => run.own.is_some(),
        });
        found.map(|(name, run)| (name.clone(), run.clone()))
    }

    /// The pod that one of this name runs beside the containers of.
    pub fn pod_of(&self, container: &Name) -> Option<Name> {
        self.lock().runs.pod_of(container).cloned()
    }

    /// Wants one no longer, while whoever runs it is still there: the next pass ends it.
    pub fn forget(&self, pod: &Name, container: &Name) {
        self.lock().runs.remove(pod, container);
    }

    /// A name for the next one: no other has had it, of this daemon or, as good as surely, of one before.
    pub fn next_name(&self, now: u64) -> Option<Name> {
        let number = {
            let mut held = self.lock();
            held.names += 1;
            held.names
        };
        let digest = Digest::of(format!("{} {now} {number}", std::process::id()).as_bytes());
        let bytes = digest.as_bytes().iter().take(4);
        let hex: String = bytes.map(|byte| format!("{byte:02x}")).collect();
        Name::new(format!("{}{hex}", runs::PREFIX)).ok()
    }

    /// Adds one; what it is started with comes over the receiver.
    ///
    /// # Errors
    /// When there are too many.
    pub fn add(
        self: &Arc<Self>,
        (pod, container): (Name, Name),
        run: RunByHand,
        (streams, alone): (Streams, Option<Alone>),
        dirty: &Arc<Dirty>,
    ) -> Result<(Wanted, oneshot::Receiver<Started>), TooMany> {
        let (sender, receiver) = oneshot::channel();
        let mut held = self.lock();
        held.refuse_more(run.uid)?;
        held.were_alone |= alone.is_some();
        let key = (pod.clone(), container.clone());
        held.runs.insert(pod.clone(), container.clone(), run);
        held.streams.insert(key.clone(), streams);
        held.waiting.insert(key, sender);
        drop(held);
        dirty.mark();
        let wanted = Wanted {
            runs: Arc::clone(self),
            dirty: Arc::clone(dirty),
            pod,
            container,
            alone,
        };
        Ok((wanted, receiver))
    }

    /// Refuses a user that has as many as there may be.
    ///
    /// # Errors
    /// When there are.
    pub fn refuse_more(&self, uid: u32) -> Result<(), TooMany> {
        self.lock().refuse_more(uid)
    }

    /// The streams of one that is about to be started: nobody starts it again. None: it is no run by hand, or
    /// nobody wants it any more.
    pub fn take(&self, pod: &Name, container: &Name) -> Option<Streams> {
        let mut held = self.lock();
        let streams = held.streams.remove(&(pod.clone(), container.clone()))?;
        if let Some(run) = held.runs.get_mut(pod, container) {
            run.started = true;
        }
        Some(streams)
    }

    /// Says what came of a start. Of one that nobody wants any more the control socket is closed, which ends it.
    pub fn answer(&self, pod: &Name, container: &Name, started: Started) {
        let waiting = self
            .lock()
            .waiting
            .remove(&(pod.clone(), container.clone()));
        if let Some(waiting) = waiting {
            let _ = waiting.send(started);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        leases::{Proposal, Wanted},
        memory::MemoryStore,
    };

    #[test]
    fn what_a_run_has_nobody_else_gets_until_it_is_over() {
        let (store, web) = (MemoryStore::default(), Name::new("web").expect("a name"));
        let runs = Arc::new(RunsByHand::default());
        let wanted = Wanted {
            pods: vec![web.clone()],
            ..Wanted::default()
        };
        let proposed = || {
            let proposal = Proposal::of(&store, &wanted, (&[], &runs.leases()));
            let proposal = proposal.expect("proposes");
            // What a store takes is none of a run's.
            assert_eq!(proposal.change().new.len(), 1);
            proposal.get(&web).expect("a lease")
        };
        let free = proposed();
        let leased = runs.lease([("run-1".to_owned(), free)].into());
        assert_eq!(proposed(), free + 1);
        drop(leased);
        assert_eq!(proposed(), free);
    }
}
