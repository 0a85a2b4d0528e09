//! The record of a generation: what a host should be, since when, by whose request and from what.

use crate::{digest::Digest, name::Name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One entry of a host's history. Immutable once committed; how it went is kept beside it as an
/// [`Outcome`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Counts from 1. That of one that was deleted is not used again.
    pub number: u64,
    /// The hash of the graph's root: equal roots are equal desired states.
    pub root: Digest,
    /// The generation this one was planned against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// Milliseconds since the Unix epoch.
    pub time: u64,
    /// The user id of the process that asked.
    pub uid: u32,
    /// What it asked for, in words: `switch /srv/pods.ncl`, `rollback to 3`, `delete web`.
    pub source: String,
    /// The digest of the [`Provenance`](crate::provenance::Provenance) of its values, kept beside
    /// its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Digest>,
    /// What it goes back from or to, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// Which snapshots take the places of volumes on the way to it: by pod and volume, the generation
    /// that each is kept with. Only of a rollback that was asked to bring data back; a Tank that does
    /// not know the field refuses to read such a generation, rather than leave that out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<Name, BTreeMap<Name, u64>>,
}

/// Why a generation declares again what an earlier one did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rollback {
    /// Somebody asked for the generation of this number.
    To(u64),
    /// Somebody asked for one stack as the generation of this number has it.
    Part(u64),
    /// The generation of this number was not healthy.
    Of(u64),
}

/// How a generation went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Committed; the host is not there yet, or the daemon ended on the way.
    Pending,
    /// Every changed pod was ready.
    Good,
    /// The host did not get there, and nothing was put back.
    Failed,
    /// The host did not get there, and an earlier one was put back as a new generation.
    RolledBack,
}

impl Outcome {
    /// How a generation went that only brings back what others declared before it: as they did.
    /// Nobody looked whether it is healthy.
    pub fn again(before: &[Self]) -> Self {
        if before.is_empty() || before.contains(&Self::Good) {
            Self::Good
        } else {
            Self::Failed
        }
    }
}

/// How a generation is judged. Kept beside it from its commit on: a daemon that ends on the way
/// leaves the next one to judge as it would have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gate {
    /// Whether the parent is put back when it does not become healthy.
    pub rollback: bool,
    /// How long to wait for health, in milliseconds.
    pub wait: u64,
}

/// What follows for a generation once its way is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is the current one, and healthy.
    Good,
    /// It stays the current one.
    Failed,
    /// Its parent is put back, as a new generation.
    PutBack,
    /// It has no gate and is not reached yet; the loop goes on converging to it.
    GoOn,
}

impl Verdict {
    /// Judges a generation with this gate, if it has one. `reached` says whether it is what its
    /// gate asks for or, without one, whether all it declares is there.
    pub fn of(gate: Option<Gate>, reached: bool) -> Self {
        match gate {
            _ if reached => Self::Good,
            Some(Gate { rollback: true, .. }) => Self::PutBack,
            Some(Gate {
                rollback: false, ..
            }) => Self::Failed,
            None => Self::GoOn,
        }
    }
}

/// Where a rollback leads unless its caller names a generation: the newest ancestor of `current` that was good. One with the
/// same root would change nothing and does not count, unless `same` says so. `read` gives a
/// generation and how it went.
///
/// # Errors
/// Those of `read`.
pub fn last_good<E>(
    current: u64,
    same: bool,
    mut read: impl FnMut(u64) -> Result<Option<(Generation, Outcome)>, E>,
) -> Result<Option<Generation>, E> {
    let Some((newest, _)) = read(current)? else {
        return Ok(None);
    };
    let differs = |found: &Generation| Ok(same || found.root != newest.root);
    last_good_that(current, differs, read)
}

/// The newest ancestor of `current` that was good and for which `counts`. `read` gives a generation and
/// how it went.
///
/// # Errors
/// Those of `read` and of `counts`.
pub fn last_good_that<E>(
    current: u64,
    mut counts: impl FnMut(&Generation) -> Result<bool, E>,
    mut read: impl FnMut(u64) -> Result<Option<(Generation, Outcome)>, E>,
) -> Result<Option<Generation>, E> {
    let Some((newest, _)) = read(current)? else {
        return Ok(None);
    };
    let (mut number, mut parent) = (current, newest.parent);
    // A parent is older: a history that says otherwise is not followed in a circle.
    while let Some(next) = parent.filter(|parent| *parent < number) {
        let Some((found, outcome)) = read(next)? else {
            // It was deleted; a parent is the one before.
            (number, parent) = (next, next.checked_sub(1).filter(|before| *before > 0));
            continue;
        };
        if outcome == Outcome::Good && counts(&found)? {
            return Ok(Some(found));
        }
        (number, parent) = (next, found.parent);
    }
    Ok(None)
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Good => "good",
            Self::Failed => "failed",
            Self::RolledBack => "rolled back",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a rollback leads from the newest of these, numbered from 1: the content of each, and
    /// how it went.
    fn target(history: &[(&str, Outcome)], same: bool) -> Option<u64> {
        let read = |number: u64| {
            let entry = usize::try_from(number - 1)
                .ok()
                .and_then(|index| history.get(index));
            let (content, outcome) = entry.expect("only what there is is read");
            let generation = Generation {
                rollback: None,
                data: BTreeMap::new(),
                number,
                root: Digest::of(content.as_bytes()),
                parent: (number > 1).then(|| number - 1),
                time: 0,
                uid: 0,
                source: String::new(),
                provenance: None,
            };
            Ok::<_, std::convert::Infallible>(Some((generation, *outcome)))
        };
        let Ok(found) = last_good(history.len() as u64, same, read);
        found.map(|generation| generation.number)
    }

    #[test]
    fn what_was_never_good_is_not_good_because_it_runs_again() {
        use Outcome::{Failed, Good, Pending, RolledBack};
        assert_eq!(Outcome::again(&[]), Good);
        assert_eq!(Outcome::again(&[Failed, Good, RolledBack]), Good);
        assert_eq!(Outcome::again(&[RolledBack, Pending]), Failed);
    }

    #[test]
    fn a_rollback_leads_to_the_newest_good_one_that_differs() {
        use Outcome::{Failed, Good, Pending, RolledBack};
        type Case<'a> = (&'a [(&'a str, Outcome)], Option<u64>);
        let cases: [Case<'_>; 8] = [
            (&[("a", Good)], None),
            (&[("a", Good), ("b", Good)], Some(1)),
            // What was put back is not gone to again, and what is the same is no going back.
            (
                &[("a", Good), ("b", Good), ("c", RolledBack), ("b", Good)],
                Some(1),
            ),
            (&[("a", Good), ("b", RolledBack), ("a", Good)], None),
            (&[("a", Good), ("b", Failed), ("c", Pending)], Some(1)),
            (&[("a", Pending), ("b", Good)], None),
            // There and back again.
            (&[("a", Good), ("b", Good), ("a", Good)], Some(2)),
            (&[("a", Good), ("b", Good), ("b", Good)], Some(1)),
        ];
        for (history, expected) in cases {
            assert_eq!(target(history, false), expected, "{history:?}");
        }
        // While it is being put back, the same is what is gone back to.
        assert_eq!(
            target(&[("a", Good), ("b", RolledBack), ("a", Pending)], true),
            Some(1)
        );
    }

    #[test]
    fn a_rollback_leads_past_what_was_deleted() {
        let there = |number: u64| {
            let generation = Generation {
                rollback: None,
                data: BTreeMap::new(),
                number,
                root: Digest::of(&number.to_be_bytes()),
                parent: number.checked_sub(1).filter(|parent| *parent > 0),
                time: 0,
                uid: 0,
                source: String::new(),
                provenance: None,
            };
            (generation, Outcome::Good)
        };
        for (kept, expected) in [
            (&[9_u64, 8][..], Some(8)),
            (&[9, 3], Some(3)),
            (&[9, 1], Some(1)),
            (&[9], None),
            (&[3], None),
        ] {
            let read = |number: u64| {
                let found = kept.contains(&number).then(|| there(number));
                Ok::<_, std::convert::Infallible>(found)
            };
            let Ok(found) = last_good(9, false, read);
            assert_eq!(found.map(|found| found.number), expected, "{kept:?}");
        }
    }

    #[test]
    fn a_gate_says_what_follows() {
        let gate = |rollback| Some(Gate { rollback, wait: 1 });
        for asked in [gate(true), gate(false), None] {
            assert_eq!(Verdict::of(asked, true), Verdict::Good);
        }
        assert_eq!(Verdict::of(gate(true), false), Verdict::PutBack);
        assert_eq!(Verdict::of(gate(false), false), Verdict::Failed);
        assert_eq!(Verdict::of(None, false), Verdict::GoOn);
    }
}
