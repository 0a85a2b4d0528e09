//! Which backups of volumes are due, when the next one is, and which old ones go.
//!
//! Pure: the time comes in. All decisions are by a clock that only goes forward and goes on while the host sleeps
//! (`CLOCK_BOOTTIME`). The wall clock is asked once for each archive that another life of the daemon has left, since its
//! name is all that says when that was begun ([`since_boot`]). So when somebody sets the clock, no backup that is due waits
//! for a year to pass again, and none is made twice.
//!
//! *Guarantees*: a series is due when its newest backup is `every` old; one that was missed, or whose first is to be made,
//! soon after it was known, each of several at a time of its own; one that failed, after a wait that doubles. At most
//! [`AT_ONCE`] run, those first that have been due for longest, so none starves. One that hangs and can't be ended has no place,
//! and keeps back those alone that would hang with it ([`hold`]), until [`MAX_HANGING`] do.

use std::{cmp::Reverse, fmt};

/// The most backups that are made at once.
pub const AT_ONCE: usize = 2;

/// The most that may hang: each is a process that nobody can end.
pub const MAX_HANGING: usize = 8;

/// How long after a failure it is tried again at first, and at most, in milliseconds.
const FIRST_RETRY: u64 = 60_000;
const MOST_RETRY: u64 = 3_600_000;

/// The longest that one which was missed waits so that not all begin together; a tenth of `every` where that is less.
const MOST_SPREAD: u64 = 300_000;

/// How far in the future an archive's time may be that is taken for one of now: clocks are set by seconds all the time.
const SLACK: u64 = 60_000;

/// What is known of the backups of one volume. Times are milliseconds of the clock since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Series {
    /// How old the newest may get.
    pub every: u64,
    /// Since when this life of the daemon has known that it is to be made.
    pub known: u64,
    /// When the newest was begun: before zero if before the boot. None: there is none.
    pub newest: Option<i64>,
    /// How often in a row it has failed since, and when it did last.
    pub failed: Option<(u32, u64)>,
    /// One is being made.
    pub running: bool,
    /// None is begun now: see [`hold`].
    pub held: bool,
    /// Some number of its own.
    pub spread: u64,
}

/// What to do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due<K> {
    /// Those to begin, in this order.
    pub begin: Vec<K>,
    /// When to ask again, unless one ends or something else is declared before. None: not before that.
    pub wake: Option<u64>,
}

impl Series {
    /// When the next one is due.
    pub fn due_at(&self) -> u64 {
        let spread = (self.every / 10).min(MOST_SPREAD);
        let soon = self
            .known
            .saturating_add(self.spread % spread.saturating_add(1));
        let every = i64::try_from(self.every).unwrap_or(i64::MAX);
        let old = self.newest.map(|newest| newest.saturating_add(every));
        let old = old.map_or(0, |old| u64::try_from(old).unwrap_or(0));
        // One that gets too old after it was known is due then, and no sooner.
        let regular = old.max(soon);
        let retry = self.failed.map(|(count, at)| {
            let wait = FIRST_RETRY << count.saturating_sub(1).min(16);
            at.saturating_add(wait.min(MOST_RETRY).min(self.every))
        });
        regular.max(retry.unwrap_or(0))
    }
}

/// Decides what begins at `now`.
pub fn due<K: Clone + Ord>(now: u64, all: impl IntoIterator<Item = (K, Series)>) -> Due<K> {
    let (running, waiting): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, series)| series.running);
    let mut waiting: Vec<(u64, K)> = waiting
        .into_iter()
        // Their wait is over when something has ended.
        .filter(|(_, series)| !series.held)
        .map(|(key, series)| (series.due_at(), key))
        .collect();
    waiting.sort();
    let places = AT_ONCE.saturating_sub(running.len());
    let is_due = |(at, _): &&(u64, K)| *at <= now;
    let begin: Vec<K> = waiting
        .iter()
        .take_while(is_due)
        .take(places)
        .map(|(_, key)| key.clone())
        .collect();
    let next = waiting.get(begin.len()).map(|(at, _)| *at);
    // Where one is due and there is no place, the end of another is waited for.
    let wake = next.filter(|at| *at > now);
    Due { begin, wake }
}

/// What was begun for a backup, has done nothing for longer than it may, and can't be ended: the kernel waits for a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hanging<K> {
    /// The backup, or the first of those whose folder is read.
    pub of: K,
    /// The folder.
    pub to: String,
    /// It is the folder that does not answer, and not the volume.
    pub in_folder: bool,
}

/// Why no backup is begun now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold<K> {
    /// What was begun for this one hangs in the same folder.
    Folder(K, String),
    /// What was begun for the same volume hangs in that.
    Volume,
    /// The folder did not answer, and somebody else finds out whether it does again.
    Silent(String),
    /// So many hang.
    Many(usize),
}

impl<K: fmt::Display> fmt::Display for Hold<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(of, to) => write!(
                f,
                "`{to}` does not answer: what was begun for the backup of {of} hangs there and can't be ended, and no other is begun there before it has ended"
            ),
            Self::Volume => write!(
                f,
                "the volume can't be read: what was begun for its backup hangs there and can't be ended, and no other is begun before it has ended"
            ),
            Self::Silent(to) => write!(
                f,
                "`{to}` did not answer: backups into it are tried again one at a time, until one is made"
            ),
            Self::Many(count) => write!(
                f,
                "{count} backups hang and can't be ended, and no other is begun before one of them has ended"
            ),
        }
    }
}

/// Whether the backup `of` into the folder `to` is kept from being begun by what hangs, or, at `now`, since the folder did not answer
/// and is left alone until then.
pub fn hold<'h, K: Clone + Eq + 'h>(
    of: &K,
    to: &str,
    hanging: impl IntoIterator<Item = &'h Hanging<K>>,
    (now, alone): (u64, Option<u64>),
) -> Option<Hold<K>> {
    let mut count = 0;
    for one in hanging {
        count += 1;
        if one.in_folder && one.to == to {
            return Some(Hold::Folder(one.of.clone(), to.to_owned()));
        }
        if !one.in_folder && one.of == *of {
            return Some(Hold::Volume);
        }
    }
    if count >= MAX_HANGING {
        return Some(Hold::Many(count));
    }
    let is_alone = alone.is_some_and(|until| now < until);
    is_alone.then(|| Hold::Silent(to.to_owned()))
}

/// The newest of archives that are not of a time to come.
pub fn newest_of_the_past(wall: u64, times: &[u64]) -> Option<u64> {
    let past = times.iter().filter(|time| **time <= wall + SLACK);
    past.max().copied()
}

/// When the newest of archives was begun, by the clock since boot, which is at `now` while the wall clock is at `wall`. One
/// whose name says a time to come was made while the clock was wrong: how old it is, nobody knows, and it does not count.
pub fn since_boot(now: u64, wall: u64, times: &[u64]) -> Option<i64> {
    let age = wall.saturating_sub(newest_of_the_past(wall, times)?);
    let signed = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    Some(signed(now).saturating_sub(signed(age)))
}

/// Which archives go, the oldest first, when one begun at `made` is there and `keep` of them stay, that one among them. Those
/// whose names say a time to come are taken for the oldest.
pub fn outdated(wall: u64, times: &[u64], made: u64, keep: u32) -> Vec<u64> {
    let mut others: Vec<u64> = times.iter().copied().filter(|time| *time != made).collect();
    others.sort_by_key(|time| Reverse((*time <= wall + SLACK, *time)));
    let stay = usize::try_from(keep.saturating_sub(1)).unwrap_or(usize::MAX);
    let mut gone: Vec<u64> = others.into_iter().skip(stay).collect();
    gone.reverse();
    gone
}

/// An archive that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Archive {
    /// What its name says.
    pub time: u64,
    /// There is nothing in it beside the top.
    pub empty: bool,
}

/// Which archives go, as [`replaced`] says, where the volume began anew at `began`: those made before are of what was removed. They use up
/// nothing of `keep`, and the newest `keep` of them that have something in them stay.
pub fn replaced_since(
    wall: u64,
    all: &[Archive],
    (made, began): (u64, Option<u64>),
    keep: u32,
) -> Vec<u64> {
    // Names say seconds. One that began after what was made says that the clock was set.
    let began = began.map(|began| began / 1_000 * 1_000);
    let began = began.filter(|began| *began <= made).unwrap_or(0);
    let (mut before, since): (Vec<Archive>, Vec<Archive>) =
        all.iter().partition(|one| one.time < began);
    before.sort_by_key(|one| (one.empty, Reverse(one.time)));
    let stay = usize::try_from(keep).unwrap_or(usize::MAX);
    let goes = |(at, one): (usize, &Archive)| (at >= stay || one.empty).then_some(one.time);
    let mut gone: Vec<u64> = before.iter().enumerate().filter_map(goes).collect();
    gone.sort_unstable();
    gone.extend(replaced(wall, &since, made, keep));
    gone
}

/// Which archives go, as [`outdated`] says, the one begun at `made` being among them. Empty ones take the place of empty ones alone:
/// a volume that somebody has emptied by mistake does not use up what it can be had back from, neither as it is nor once
/// something is in it again.
pub fn replaced(wall: u64, all: &[Archive], made: u64, keep: u32) -> Vec<u64> {
    let times: Vec<u64> = all.iter().map(|one| one.time).collect();
    let full: Vec<u64> = all
        .iter()
        .filter(|one| !one.empty)
        .map(|one| one.time)
        .collect();
    let may_go = match full.contains(&made) {
        true => outdated(wall, &full, made, keep),
        false => Vec::new(),
    };
    let goes = |time: &u64| !full.contains(time) || may_go.contains(time);
    let old = outdated(wall, &times, made, keep).into_iter();
    old.filter(goes).collect()
}
