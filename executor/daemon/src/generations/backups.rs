//! Backups of volumes, made by themselves when they are due and by hand.
//!
//! *Flow*: [`Generations::back_up_when_due`] looks at what the current generation declares; `tank_plan::backups` decides what
//! begins; each is a task ([`run`]) that has one archive written into a folder ([`folder`]) and notes how that went. What waits for the
//! folder is a process of its own ([`archiver`]), whose end is waited for as long as it gets on ([`writer`]).
//!
//! *What is known after a restart* is what the folder has: the names of the archives say when each was begun. Not the store: an
//! archive that somebody has removed counts no more, one that came back with a disk counts again, and a store that was lost or put
//! back takes no backup with it. That one has failed is not kept: what is due is tried again soon after the start, and fails
//! again where the reason is still there. The folder is read when tankd starts, when `to` changes and after each backup ([`listing`]).
//!
//! *Concurrency*: one at a time of a volume, two at a time of all. No lock is held while anything is waited for.

mod anew;
pub mod archiver;
mod archives;
mod folder;
mod former;
mod listing;
mod names;
mod run;
mod usable;
pub mod wire;
mod writer;

pub use former::Former;
pub use wire::Archived;

use super::{Error, Generations, error::Context, kept::no_such};
use crate::events::{Kind, now};
use archives::{matching, several};
use run::Run;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tank_model::{Graph, Name, VolumeId, spec::Backup};
use tank_plan::backups::{AT_ONCE, Hold, Series, due, hold};
use tank_sys::{clock::boot_millis, with_causes};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};
use writer::{Writers, name};

/// The longest time between two looks: the clock of a sleep stops while the host does.
const LOOK: Duration = Duration::from_secs(60);

/// The most archives that are restored at once, and folders that a question or a change looks at.
const MAX_LOOKS: usize = 4;

/// How long after it was known a pod that has hooks is waited for, and when it is looked for again, in milliseconds.
const START_WAIT: u64 = 120_000;
const START_RETRY: u64 = 2_000;

/// The pod and its volume.
type Key = (Name, Name);

/// A backup that was made.
#[derive(Clone, Debug)]
pub struct Done {
    pub path: PathBuf,
    /// What its name says, in milliseconds since the epoch.
    pub time: u64,
    pub entries: u64,
    /// Of the archive.
    pub bytes: u64,
    /// It is of a snapshot.
    pub shared: bool,
    /// How many there are now.
    pub kept: usize,
    /// Old ones that could not be removed, each with why.
    pub left: Vec<String>,
    /// Why old ones were not to be removed.
    pub stay: Option<String>,
    /// Why the hook after it failed.
    pub after: Option<String>,
    pub took: Duration,
}

/// What is known of the backups of one volume.
#[derive(Clone, Debug)]
struct Known {
    series: Series,
    /// As it was declared when this was begun to be known, or since.
    backup: Backup,
    /// The newest's time, by its name.
    newest: Option<u64>,
    count: usize,
    /// Why the last one failed, and when.
    failed: Option<(String, u64)>,
    /// The folder has not answered: when it is read again, unless something hangs there.
    unread: Option<u64>,
}

/// All of them.
#[derive(Default)]
pub struct Backups {
    known: Mutex<BTreeMap<Key, Known>>,
    /// One has ended, or something else may be declared.
    changed: Notify,
    writers: Arc<Writers>,
    looks: Looks,
}

/// Places for what looks into a folder and is no backup.
struct Looks(Arc<Semaphore>);

impl Default for Looks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKS)))
    }
}

/// The backups of one volume, to be shown.
#[derive(Clone, Debug)]
pub struct Shown {
    pub pod: Name,
    pub volume: Name,
    /// What is written: the pod's own volume, or one that it shares.
    pub id: VolumeId,
    pub backup: Backup,
    /// When the newest was begun, in milliseconds since the epoch. None: there is none, or nobody has looked yet.
    pub newest: Option<u64>,
    pub count: usize,
    pub running: bool,
    /// Why the last one failed, how often in a row, and when.
    pub failed: Option<(String, u32, u64)>,
    /// Why none is begun now: something hangs.
    pub hangs: Option<String>,
    /// In how many milliseconds the next one is due.
    pub next: Option<u64>,
}

impl Known {
    /// It is declared like this. Where that has changed, what failed before says nothing of it.
    fn is_to_be(&mut self, backup: &Backup) {
        if self.backup != *backup {
            self.backup = backup.clone();
            self.series.every = backup.every.0;
            self.series.failed = None;
        }
    }
}

impl Backups {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it looked what is due.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// What keeps a backup from being begun into a folder.
    fn hold(&self, key: &Key, to: &str) -> Option<Hold<String>> {
        let alone = (boot_millis(), self.writers.left_alone(to));
        hold(&name(key), to, &self.writers.hanging(), alone)
    }

    /// Begins one, unless it is being made or too many are.
    fn take(&self, key: &Key) -> Taken {
        let mut known = self.known();
        let running = known.values().filter(|one| one.series.running).count();
        match known.get_mut(key) {
            None => Taken::Unknown,
            Some(one) if one.series.running => Taken::Running,
            Some(_) if running >= AT_ONCE => Taken::Full,
            Some(one) => {
                one.series.running = true;
                Taken::Begun
            }
        }
    }

    /// Notes how one has ended that was begun at `begun`, by the clock since boot.
    fn end(&self, key: &Key, begun: u64, outcome: &Result<Done, String>) {
        let mut known = self.known();
        if let Some(one) = known.get_mut(key) {
            one.series.running = false;
            match outcome {
                Ok(done) => {
                    one.series.newest = i64::try_from(begun).ok();
                    one.series.failed = None;
                    (one.newest, one.count) = (Some(done.time), done.kept);
                    // It is made: another one now would only take the place of an old one.
                    let why = done.after.clone().or_else(|| done.stay.clone());
                    one.failed = why.map(|why| (why, now()));
                }
                Err(why) => {
                    let count = one.series.failed.map_or(0, |(count, _)| count);
                    one.series.failed = Some((count.saturating_add(1), boot_millis()));
                    one.failed = Some((why.clone(), now()));
                }
            }
        }
        drop(known);
        self.changed.notify_one();
    }
}

enum Taken {
    Begun,
    Running,
    Full,
    Unknown,
}

/// What a graph declares.
fn declared(graph: &Graph) -> BTreeMap<Key, Backup> {
    let all = graph.backups();
    all.map(|(pod, volume, backup)| ((pod.clone(), volume.clone()), backup.clone()))
        .collect()
}

/// Some number that is a volume's own.
fn spread(key: &Key) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    std::process::id().hash(&mut hasher);
    hasher.finish()
}

impl Generations {
    /// Makes backups when they are due, for ever.
    pub async fn back_up_when_due(self: Arc<Self>) {
        loop {
            let wake = match self.begin_due().await {
                Ok(wake) => wake,
                Err(error) => {
                    let why = with_causes(&error);
                    tracing::error!(why, "it is not known which backups are due");
                    None
                }
            };
            let wait = wake.map(|at| Duration::from_millis(at.saturating_sub(boot_millis())));
            let wait = wait.map_or(LOOK, |wait| wait.clamp(Duration::from_millis(10), LOOK));
            let _ = timeout(wait, self.backups.changed.notified()).await;
        }
    }

    /// Has every process end that reads or writes a folder of backups, and waits for those that can.
    pub async fn end_backups(&self) {
        self.backups.writers.end_all().await;
    }

    /// Begins what is due, and says when something will be.
    async fn begin_due(self: &Arc<Self>) -> Result<Option<u64>, Error> {
        let graph = self.look_at_backups().await?;
        let known = self.backups.known().clone();
        let declared = declared(&graph);
        let now = boot_millis();
        let all = known.into_iter().map(|(key, one)| {
            let mut series = one.series;
            let hooks = declared.get(&key).map_or(0, |one| one.hooks().count());
            // After a boot it takes a while until a hook has a container to run in.
            let is_early = now < series.known.saturating_add(START_WAIT);
            if hooks > 0 && is_early && self.pods.get(&key.0).is_none() {
                series.known = now.saturating_add(START_RETRY);
            }
            series.held = self.backups.hold(&key, &one.backup.to).is_some();
            (key, series)
        });
        let due = due(now, all);
        for key in due.begin {
            if let Some(run) = self.run_of(&key, &graph)
                // The one before it may be what finds out whether the folder answers.
                && self.backups.hold(&key, &run.backup.to).is_none()
                && matches!(self.backups.take(&key), Taken::Begun)
            {
                tokio::spawn(Arc::clone(self).back_up_and_note(key, run));
            }
        }
        Ok(due.wake)
    }

    fn run_of(&self, (pod, volume): &Key, graph: &Arc<Graph>) -> Option<Run> {
        let mut all = graph.backups();
        let (_, _, backup) = all.find(|(of, name, _)| *of == pod && *name == volume)?;
        Some(Run {
            key: (pod.clone(), volume.clone()),
            id: graph.kept_volume(pod, volume)?,
            backup: backup.clone(),
            graph: Arc::clone(graph),
        })
    }

    /// Makes a backup that was taken, and notes and says how that went.
    async fn back_up_and_note(self: Arc<Self>, key: Key, run: Run) -> Result<Done, Error> {
        let begun = boot_millis();
        let (name, pod) = (name(&key), key.0.to_string());
        let say = |kind, message: String| self.events.add(kind, Some(&pod), message);
        say(Kind::Backup, format!("a backup of {name} is begun"));
        let this = Arc::clone(&self);
        let made = tokio::spawn(async move { this.back_up_now(run).await });
        let made = made
            .await
            .unwrap_or_else(|error| Err(error).doing("make a backup"));
        let noted = made
            .as_ref()
            .map(Done::clone)
            .map_err(|error| with_causes(error));
        self.backups.end(&key, begun, &noted);
        match &noted {
            Ok(done) => {
                say(Kind::Backup, done.words(&name));
                if let Some(why) = &done.after {
                    say(
                        Kind::BackupFailed,
                        format!("after the backup of {name}: {why}"),
                    );
                }
                if let Some(why) = &done.stay {
                    say(Kind::BackupFailed, why.clone());
                }
                for left in &done.left {
                    let why = format!("an old backup of {name} stays: {left}");
                    say(Kind::BackupFailed, why);
                }
            }
            Err(why) => say(Kind::BackupFailed, format!("no backup of {name}: {why}")),
        }
        made
    }

    /// Makes a backup now, of a volume of which that is declared. Once begun it goes on.
    ///
    /// # Errors
    /// When none is declared, one is being made, or it fails.
    pub async fn back_up(self: &Arc<Self>, name: &str) -> Result<Done, Error> {
        let graph = self.look_at_backups().await?;
        let key = self.declared_backup(name, &graph)?;
        let what = "make a backup";
        let run = self.run_of(&key, &graph);
        let run = run.ok_or("Tank does not keep that volume").doing(what)?;
        match self.backups.hold(&key, &run.backup.to) {
            // Who asks for it wants to know whether it does.
            None | Some(Hold::Silent(_)) => {}
            Some(hold) => return Err(hold.to_string()).doing(what),
        }
        match self.backups.take(&key) {
            Taken::Begun => {}
            Taken::Running => {
                return Err("one of that volume is being made: `tank events` says when it is done")
                    .doing(what);
            }
            Taken::Full => return Err(Error::TooManyTransfers),
            Taken::Unknown => return Err("it is not declared any more").doing(what),
        }
        let this = Arc::clone(self);
        let made = tokio::spawn(this.back_up_and_note(key, run)).await;
        made.doing(what)?
    }

    /// The pod and the volume of a name, `pod/volume`, or that of a volume that pods share, of which one says how it is
    /// backed up.
    fn declared_backup(&self, name: &str, graph: &Graph) -> Result<Key, Error> {
        let found = matching(name, graph);
        match found.as_slice() {
            [(one, _)] => Ok(one.clone()),
            [] => {
                let kept = self.volumes.kept().unwrap_or_default();
                let names = |(pod, volume): &Key| VolumeId::Own(pod.clone(), volume.clone());
                let is_there = VolumeId::parse(name).is_some_and(|id| kept.contains(&id));
                if is_there {
                    let why = format!(
                        "`{name}` has no `backup` in the current generation: `tank volume export` writes it into a file"
                    );
                    return Err(why).doing("make a backup");
                }
                let all: Vec<VolumeId> = declared(graph).keys().map(names).chain(kept).collect();
                Err(no_such(name, &all))
            }
            all => Err(several(all.iter().map(|(key, _)| key))).doing("make a backup"),
        }
    }

    /// What is known of the backups that the current generation declares. Blocking.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn backups(&self) -> Result<Vec<Shown>, Error> {
        let (_, graph) = self.current()?;
        let known = self.backups.known().clone();
        let now = boot_millis();
        let show = |((pod, volume), backup): (Key, Backup)| {
            let id = graph.kept_volume(&pod, &volume)?;
            let key = (pod.clone(), volume.clone());
            let one = known.get(&key);
            let hangs = self.backups.hold(&key, &backup.to);
            let series = one.map(|one| one.series);
            let failed = one.and_then(|one| {
                let (why, at) = one.failed.clone()?;
                let count = one.series.failed.map_or(1, |(count, _)| count);
                Some((why, count, at))
            });
            Some(Shown {
                pod,
                volume,
                id,
                backup,
                newest: one.and_then(|one| one.newest),
                count: one.map_or(0, |one| one.count),
                running: series.is_some_and(|series| series.running),
                failed,
                next: series.map(|series| series.due_at().saturating_sub(now)),
                hangs: hangs.map(|hold| hold.to_string()),
            })
        };
        Ok(declared(&graph).into_iter().filter_map(show).collect())
    }
}

impl Shown {
    /// The pod and its volume.
    pub fn name(&self) -> String {
        format!("{}/{}", self.pod, self.volume)
    }
}

impl Done {
    /// In words, for an event.
    fn words(&self, name: &str) -> String {
        let Self {
            path,
            entries,
            bytes,
            took,
            kept,
            ..
        } = self;
        let of = match self.shared {
            true => "of a snapshot",
            false => "read as it was written to",
        };
        format!(
            "{name} is backed up: {}, {bytes} bytes of {entries} entries in {:.1} s, {of}; {kept} are kept",
            path.display(),
            took.as_secs_f32()
        )
    }
}
