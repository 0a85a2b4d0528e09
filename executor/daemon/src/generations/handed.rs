//! Which snapshots of volumes are handed on when the generation that they are kept with goes.
//!
//! What a generation left is also what those before it left, as far as no snapshot was taken then: the same images went on
//! with the same data. So a snapshot whose generation goes is handed to the newest generation that is kept and that a
//! rollback would use it for; those before that one find it there. What no kept generation would use goes.

use super::data::earliest;
use crate::actuate::volumes::Snapshot;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};
use tank_model::{Digest, Name};

/// Images that write to a volume.
pub type Writers = BTreeSet<Digest>;

/// Which images wrote to a volume, by generations.
pub type Written = BTreeMap<u64, Writers>;

/// A snapshot, and which generation left what it is of: another one than it is kept with, if it was handed on.
#[derive(Clone, Debug)]
pub struct Known {
    pub snapshot: Snapshot,
    pub origin: u64,
}

/// Where it is decided what is kept of a volume, be it nothing: with which generation, which one left it, and who had written to
/// it since what was decided before. None: that was not kept.
#[derive(Clone, Debug)]
pub struct Kept {
    pub at: u64,
    pub origin: u64,
    pub by: Option<Writers>,
}

/// Whether a rollback to a generation, of which `own` images write to a volume, uses what `origin` left of it: that is what it
/// left itself, or no other images wrote to it from then on.
pub fn is_used(written: &Written, number: u64, origin: u64, own: &Writers) -> bool {
    let since = (Bound::Excluded(number), Bound::Included(origin));
    origin <= number || written.range(since).all(|(_, by)| by.is_subset(own))
}

/// The first that was decided from a generation on.
fn first(kept: &[Kept], number: u64) -> Option<&Kept> {
    let later = kept.iter().filter(|one| one.origin >= number);
    later.min_by_key(|one| one.origin)
}

/// Which images wrote to a volume, by generations: as noted in the `past`, else those that were `declared` (None: that can't be
/// read) and have written to it by the next that was decided, or by `now`.
pub fn written(
    past: &Written,
    declared: impl Iterator<Item = (u64, Option<Writers>)>,
    kept: &[Kept],
    now: Option<&Writers>,
) -> Written {
    let mut all = past.clone();
    for (number, declared) in declared {
        let actual = first(kept, number).map_or(now, |one| one.by.as_ref());
        all.entry(number).or_insert_with(|| match declared {
            Some(declared) => actual.map_or(declared.clone(), |actual| &declared & actual),
            None => actual.cloned().unwrap_or_default(),
        });
    }
    // What an older Tank handed on, and of which it noted no more.
    for one in kept {
        if let Some(by) = &one.by {
            all.entry(one.origin).or_insert_with(|| by.clone());
        }
    }
    all
}

/// What of `all` is to be noted before the generations that are `outdated` go, of those that are `known`: what neither
/// graphs nor snapshots say afterwards, as far as no other of them says it as well.
pub fn noted(
    all: &Written,
    past: &Written,
    kept: &[Kept],
    (known, outdated): (&BTreeSet<u64>, &BTreeSet<u64>),
) -> Written {
    let mut left = all.clone();
    let stays = |number: &u64| known.contains(number) && !outdated.contains(number);
    for number in all.keys().filter(|number| !stays(number)) {
        let after = (Bound::Excluded(*number), Bound::Unbounded);
        let Some(next) = left.range(after).next().map(|(next, _)| *next) else {
            continue;
        };
        // Where nothing was decided between the two, what has the one of them has the other as well.
        let is_apart = |one: &Kept| (*number..next).contains(&one.origin);
        if kept.iter().any(is_apart) {
            continue;
        }
        let own = left.get(number).cloned().unwrap_or_default();
        let both_are_gone = !known.contains(number) && !known.contains(&next);
        if let Some(by) = left.get_mut(&next)
            && (both_are_gone || own.is_subset(by))
        {
            by.extend(own);
            left.remove(number);
        }
    }
    let goes = |number| first(kept, number).is_some_and(|one| !stays(&one.at));
    left.retain(|number, _| !stays(number) || past.contains_key(number) || goes(*number));
    left
}

/// To which of the generations that are `kept` each snapshot is handed whose own goes. `declared` says which images write to
/// a volume in a generation that is kept, none where it has no such volume; `written` which ones wrote to it.
pub fn handed(
    all: &[Known],
    kept: &BTreeSet<u64>,
    declared: impl Fn(u64, (&Name, &Name)) -> Option<Writers>,
    written: impl Fn((&Name, &Name)) -> Written,
) -> BTreeMap<Snapshot, u64> {
    let mut handed = BTreeMap::new();
    let names: Vec<Snapshot> = all.iter().map(|one| one.snapshot.clone()).collect();
    let gone = |one: &&Known| !kept.contains(&one.snapshot.generation);
    for Known { snapshot, origin } in all.iter().filter(gone) {
        let of = (&snapshot.pod, &snapshot.volume);
        let written = written(of);
        for to in kept.range(..snapshot.generation).rev() {
            // One that is kept with an earlier one is that one's, and of all before it.
            if earliest(&names, of, *to) != Some(snapshot.generation) {
                break;
            }
            if declared(*to, of).is_some_and(|own| is_used(&written, *to, *origin, &own)) {
                handed.insert(snapshot.clone(), *to);
                break;
            }
        }
    }
    handed
}

#[cfg(test)]
mod tests;
