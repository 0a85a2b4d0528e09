//! Having what is in volumes count to their projects, beside everything else: a tree of millions of files takes minutes, and holds up
//! no pod meanwhile, not even those that have it mounted. What is made in a volume counts from the beginning; what was there comes to it.
//!
//! *Concurrency*: one volume at a time, on a thread of its own that is there while there is something to do. It has the volume's turn
//! only for its last act, so containers start on it meanwhile; whoever puts another directory in the volume's place has the counting
//! of the old one stop first.
//!
//! *Guarantees*: the mark beside a volume goes when all of it counts, on the disk, and it is still the same directory: never before,
//! whatever ends the daemon.

use super::{Places, Turns, VolumeError, limits, open_dir};
use crate::{dirty::Dirty, faults};
use rustix::fs::fstat;
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tank_plan::target::Quota;

/// The longest that it takes to have all of a volume count.
const COUNTING: Duration = Duration::from_secs(6 * 3600);

/// How long somebody waits who has to have it stopped: as long as one file under a lease may take, and a little more.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// How often a turn is tried for.
const TURN_RETRY: Duration = Duration::from_millis(20);

/// After how many of its entries a volume is half counted.
const HALF: u64 = 100;

/// The volumes that are being counted.
#[derive(Clone)]
pub(super) struct Counting(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    turns: Turns,
    dirty: Arc<Dirty>,
}

#[derive(Default)]
struct State {
    /// By where the volume is.
    jobs: BTreeMap<PathBuf, Job>,
    queue: VecDeque<(PathBuf, u64)>,
    /// The one that the thread is at.
    at: Option<u64>,
    next: u64,
    has_thread: bool,
}

struct Job {
    id: u64,
    places: Arc<Places>,
    quota: Quota,
    stop: Arc<AtomicBool>,
    /// Why not all of it counts, until somebody has asked.
    failed: Option<VolumeError>,
}

impl Counting {
    pub fn new(turns: Turns, dirty: Arc<Dirty>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            changed: Condvar::new(),
            turns,
            dirty,
        }))
    }

    /// Whether a volume is being counted, or will be.
    pub fn has(&self, places: &Places) -> bool {
        let state = self.0.state();
        let job = state.jobs.get(&places.volume);
        job.is_some_and(|job| job.failed.is_none())
    }

    /// Has a volume be counted, unless it is already.
    pub fn begin(&self, places: Places, quota: Quota) -> Result<(), VolumeError> {
        let mut state = self.0.state();
        let path = places.volume.clone();
        if state
            .jobs
            .get(&path)
            .is_some_and(|job| job.failed.is_none())
        {
            return Ok(());
        }
        if !state.has_thread {
            let inner = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("counting".to_owned());
            thread.spawn(move || inner.work())?;
            state.has_thread = true;
        }
        state.next += 1;
        let id = state.next;
        state.queue.push_back((path.clone(), id));
        let job = Job {
            id,
            places: Arc::new(places),
            quota,
            stop: Arc::default(),
            failed: None,
        };
        state.jobs.insert(path, job);
        Ok(())
    }

    /// Why the last counting of a volume has failed, once.
    ///
    /// # Errors
    /// That.
    pub fn outcome(&self, places: &Places) -> Result<(), VolumeError> {
        let mut state = self.0.state();
        match state.jobs.get(&places.volume) {
            Some(job) if job.failed.is_some() => {
                let job = state.jobs.remove(&places.volume);
                job.and_then(|job| job.failed).map_or(Ok(()), Err)
            }
            _ => Ok(()),
        }
    }

    /// Waits for a volume to be counted, and no longer than that. Blocking.
    ///
    /// # Errors
    /// Why not all of it counts.
    pub fn wait(&self, places: &Places, limit: Duration) -> Result<(), VolumeError> {
        let is_on = |state: &mut State| {
            let job = state.jobs.get(&places.volume);
            job.is_some_and(|job| job.failed.is_none())
        };
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.0.state(), limit, is_on);
        drop(waited);
        self.outcome(places)
    }

    /// Has the counting of a volume end, and waits until nothing of it is changed any more. Blocking.
    pub fn stop(&self, places: &Places) {
        let mut state = self.0.state();
        let Some(job) = state.jobs.remove(&places.volume) else {
            return;
        };
        job.stop.store(true, Ordering::Relaxed);
        let is_at = |state: &mut State| state.at == Some(job.id);
        let waited = self.0.changed.wait_timeout_while(state, STOP_LIMIT, is_at);
        drop(waited);
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one volume after the other, until there is none.
    fn work(&self) {
        loop {
            let (id, places, quota, stop) = {
                let mut state = self.state();
                let Some((path, id)) = state.queue.pop_front() else {
                    state.has_thread = false;
                    return;
                };
                // It was stopped meanwhile, and may be wanted again.
                let Some(job) = state.jobs.get(&path).filter(|job| job.id == id) else {
                    continue;
                };
                let job = (
                    id,
                    Arc::clone(&job.places),
                    job.quota,
                    Arc::clone(&job.stop),
                );
                state.at = Some(id);
                job
            };
            let counted = self.count(&places, &quota, &stop);
            {
                let mut state = self.state();
                state.at = None;
                let own = state
                    .jobs
                    .get_mut(&places.volume)
                    .filter(|job| job.id == id);
                match (own, counted) {
                    (Some(job), Err(error)) => job.failed = Some(error),
                    (Some(_), Ok(())) => drop(state.jobs.remove(&places.volume)),
                    (None, _) => {}
                }
            }
            self.changed.notify_all();
            self.dirty.mark();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "it is a thread of its own")]
    fn count(&self, places: &Places, quota: &Quota, stop: &AtomicBool) -> Result<(), VolumeError> {
        let volume = open_dir(&places.volume)?;
        let id = limits::own(volume.as_fd(), quota)?.unwrap_or(quota.project);
        faults::boundary("a volume is about to be counted");
        let deadline = Instant::now() + COUNTING;
        let mut entries = 0;
        let mut go_on = || {
            entries += 1;
            if entries == HALF {
                faults::boundary("a volume is half counted");
            }
            match stop.load(Ordering::Relaxed) {
                true => Err(io::Error::other("it is not to be counted any more")),
                false => limits::until(deadline),
            }
        };
        limits::count(&volume, id, &mut go_on)?;
        faults::boundary("a volume is counted");
        // Which file counts to what has to be on the disk before that.
        rustix::fs::syncfs(&volume).map_err(io::Error::from)?;
        let _turn = loop {
            go_on()?;
            match self.turns.try_take(&places.volume) {
                Some(turn) => break turn,
                None => std::thread::sleep(TURN_RETRY),
            }
        };
        // Another one is counted anew.
        let now = open_dir(&places.volume)?;
        match is_same(&volume, &now)? && limits::own(now.as_fd(), quota)? == Some(id) {
            true => limits::forget(&places.counting),
            false => Ok(()),
        }
    }
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    let id = |dir: &OwnedFd| fstat(dir).map(|stat| (stat.st_dev, stat.st_ino));
    Ok(id(one)? == id(other)?)
}
