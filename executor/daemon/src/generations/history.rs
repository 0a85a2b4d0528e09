//! What is done to the history itself: generations are deleted, and pinned. And when that, and what only they
//! needed, goes by itself.

use super::{
    Collect, Collected, Collector, Entry, Error, Generations, Inspected, ProgressSender,
    retention::{History, Needed, Policy},
};
use crate::events::{Kind, Subject};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tank_model::Rollback;
use tokio::time::{Instant, sleep};

/// The most generations that one call may delete: the history of a host that switches every minute for a week.
const MAX_DELETED: usize = 10_000;

/// How much longer than a look whether something has become old the pause after it is, and the longest.
const PAUSES: u32 = 20;
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// Refuses to remove what is needed.
///
/// # Errors
/// [`Error::Undeletable`], each with its reason; [`Error::DeletedGeneration`] or [`Error::NoSuchGeneration`] for one
/// that is not there.
pub fn refuse_needed(history: &History, chosen: &BTreeSet<u64>) -> Result<(), Error> {
    let missing = chosen
        .iter()
        .find(|number| !history.generations.contains_key(number));
    if let Some(number) = missing {
        return Err(no_such(*number, history.current));
    }
    let needed = history.needed();
    let refused = chosen.iter().filter_map(|number| {
        Some(match needed.get(number)? {
            Needed::Current => format!("generation {number} is the current one"),
            Needed::Pending => format!("generation {number} is on its way"),
            Needed::Parent(child) => format!(
                "generation {number} is what the host is put back to if generation {child} does not become healthy"
            ),
            Needed::Data(child) => {
                format!("volumes become what generation {number} left, on the way to generation {child}")
            }
            Needed::Pinned => {
                format!("generation {number} is pinned: `tank generations unpin {number}`")
            }
        })
    });
    match refused.collect::<Vec<_>>() {
        refused if refused.is_empty() => Ok(()),
        refused => Err(Error::Undeletable(refused)),
    }
}

/// A number that no generation has: it was one's, or was never used.
fn no_such(number: u64, current: Option<u64>) -> Error {
    match current {
        Some(current) if (1..current).contains(&number) => Error::DeletedGeneration(number),
        _ => Error::NoSuchGeneration(Some(number)),
    }
}

impl Generations {
    /// The error for a number that no generation has.
    pub(super) fn no_such(&self, number: u64) -> Error {
        match self.store.current() {
            Ok(current) => no_such(number, current),
            Err(error) => error.into(),
        }
    }

    /// Refuses to go back to what was deleted since it was looked for. No generation goes meanwhile.
    pub(super) fn refuse_deleted_target(&self, rollback: Option<Rollback>) -> Result<(), Error> {
        match rollback {
            Some(Rollback::To(number) | Rollback::Part(number))
                if self.store.generation(number)?.is_none() =>
            {
                Err(self.no_such(number))
            }
            _ => Ok(()),
        }
    }

    /// Deletes generations, with the nodes and leases that only they needed.
    ///
    /// # Errors
    /// When one is not there, or needed: none is deleted then.
    pub async fn delete_generations(&self, numbers: Vec<u64>) -> Result<Collected, Error> {
        if numbers.is_empty() || numbers.len() > MAX_DELETED {
            let problem = format!("name 1 to {MAX_DELETED} generations");
            return Err(Error::Unaskable(problem));
        }
        let numbers: BTreeSet<u64> = numbers.into_iter().collect();
        refuse_needed(&self.collector.history()?, &numbers)?;
        self.collector.delete(&numbers).await
    }

    /// Keeps a generation from being deleted, or takes that back.
    ///
    /// # Errors
    /// When there is none of that number, or the store refuses.
    pub async fn pin(&self, number: u64, pinned: bool) -> Result<Entry, Error> {
        let _history = self.history.lock().await;
        let found = self.store.generation(number)?;
        let found = found.ok_or_else(|| self.no_such(number))?;
        self.store.set_pin(number, pinned)?;
        let kind = if pinned { Kind::Pinned } else { Kind::Unpinned };
        let of = Subject::generation(number, None);
        self.events
            .add_of(kind, of, format!("generation {number} is {kind}"));
        self.entry(found, self.store.current()?, pinned)
    }

    /// Collects what nothing needs. What is not said is as the host is set up, where nothing is said at all.
    ///
    /// # Errors
    /// When the store or the disk refuses.
    pub async fn collect(
        &self,
        dry: bool,
        keep: Option<u64>,
        older_than: Option<u64>,
    ) -> Result<Collected, Error> {
        let policy = match (keep, older_than) {
            (None, None) => self.collector.own_policy(),
            (keep, keep_for) => Policy {
                keep: keep.unwrap_or(1),
                keep_for,
            },
        };
        self.collector.collect(Collect { dry, policy }).await
    }

    /// Checks all that is kept; with `repair`, fetches again what of images is damaged.
    ///
    /// # Errors
    /// When the store can't be read at all.
    pub async fn inspect(
        &self,
        repair: bool,
        progress: &ProgressSender,
    ) -> Result<Inspected, Error> {
        self.collector.inspect(repair, progress).await
    }

    /// Collects what may go for the sake of space. Whether anything went.
    pub(super) async fn make_space(&self, with_generations: bool) -> bool {
        self.collector.make_space(with_generations).await
    }

    /// Has it looked, some time, whether something has become old.
    pub(super) fn collect_soon(&self) {
        self.collector.due.notify_one();
        self.backups.wake();
    }

    /// Collects by itself, for ever.
    pub async fn collect_when_due(self: Arc<Self>) {
        loop {
            self.collector.due.notified().await;
            let begin = Instant::now();
            if let Err(error) = self.collector.collect_old().await {
                let message = format!("can't collect: {}", tank_sys::with_causes(&error));
                self.events.add(Kind::Failed, None, message);
            }
            // A long history is not looked at after each of many switches.
            sleep((begin.elapsed() * PAUSES).min(MAX_PAUSE)).await;
        }
    }
}

impl Collector {
    /// What the host is set up for.
    fn own_policy(&self) -> Policy {
        let config = &self.settings.config;
        Policy {
            keep: config.keep_generations,
            keep_for: Some(config.keep_for.0),
        }
    }

    /// The same where the disk is full: age does not count.
    fn pressed_policy(&self) -> Policy {
        Policy {
            keep_for: None,
            ..self.own_policy()
        }
    }

    async fn make_space(self: &Arc<Self>, with_generations: bool) -> bool {
        let pressed = self.pressed_policy();
        let policy = match with_generations {
            true => pressed,
            false => Policy {
                keep: u64::MAX,
                ..pressed
            },
        };
        // What another one has collected meanwhile is as good.
        let is_at_it = self.collecting.try_lock().is_err();
        match self.collect(Collect { dry: false, policy }).await {
            Ok(collected) => is_at_it || !collected.is_empty(),
            Err(error) => {
                let why = tank_sys::with_causes(&error);
                let message = format!("can't make space for an image: {why}");
                self.events.add(Kind::Failed, None, message);
                false
            }
        }
    }

    /// Collects if a generation has become old, or the disk full.
    async fn collect_old(self: &Arc<Self>) -> Result<(), Error> {
        let is_full = self.is_full();
        let policy = match is_full {
            true => self.pressed_policy(),
            false => self.own_policy(),
        };
        let outdated = self.history()?.outdated(policy, crate::events::now());
        if outdated.is_empty() && !is_full {
            return Ok(());
        }
        self.collect(Collect { dry: false, policy }).await.map(drop)
    }

    /// Whether less of the disk is free than the host is set up for.
    fn is_full(&self) -> bool {
        let percent = u64::from(self.settings.config.keep_free);
        let found = rustix::fs::statvfs(&self.settings.state_dir);
        found.is_ok_and(|found| {
            let (free, all) = (u128::from(found.f_bavail), u128::from(found.f_blocks));
            free * 100 < all * u128::from(percent)
        })
    }
}
