//! Which snapshots of volumes are handed on when the generation that they are kept with goes.
//!
//! What a generation left is also what those before it left, as far as no snapshot was taken then: the same images went on
//! with the same data. So a snapshot whose generation goes is handed to the newest generation that is kept and that a
//! rollback would use it for; those before that one find it there. What no kept generation would use goes.

use super::data::earliest;
use crate::actuate::volumes::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Digest, Name};

/// Images that write to a volume.
pub type Writers = BTreeSet<Digest>;

/// What is known of a snapshot: who wrote what is in it. None: that was not kept, and it is not handed on.
pub type Known = (Snapshot, Option<Writers>);

/// To which of the generations that are `kept` each snapshot is handed whose own goes. `writers` says which images write to
/// a volume in a generation that is kept; none where it has no such volume.
pub fn handed<E>(
    all: &[Known],
    kept: &BTreeSet<u64>,
    mut writers: impl FnMut(u64, (&Name, &Name)) -> Result<Option<Writers>, E>,
) -> Result<BTreeMap<Snapshot, u64>, E> {
    let mut handed = BTreeMap::new();
    let names: Vec<Snapshot> = all.iter().map(|(snapshot, _)| snapshot.clone()).collect();
    for (snapshot, by) in all {
        let Some(by) = by.as_ref().filter(|_| !kept.contains(&snapshot.generation)) else {
            continue;
        };
        let of = (&snapshot.pod, &snapshot.volume);
        for to in kept.range(..snapshot.generation).rev() {
            // One that is kept with an earlier one is that one's, and of all before it.
            if earliest(&names, of, *to) != Some(snapshot.generation) {
                break;
            }
            if writers(*to, of)?.is_some_and(|own| by.is_subset(&own)) {
                handed.insert(snapshot.clone(), *to);
                break;
            }
        }
    }
    Ok(handed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const GENERATIONS: u64 = 5;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn image(number: u64) -> Digest {
        Digest::of(&[number as u8])
    }

    fn snapshot(generation: u64, volume: &str) -> Snapshot {
        Snapshot {
            generation,
            pod: name("db"),
            volume: name(volume),
        }
    }

    /// Each snapshot by where it is kept, with the generation that it was taken for.
    type There = BTreeMap<u64, (u64, Writers)>;

    /// What a rollback to a generation uses: by the generation that it was taken for.
    fn used(there: &There, at: u64, writers: &BTreeMap<u64, Writers>) -> Option<u64> {
        let (_, (origin, by)) = there.range(at..).next()?;
        let own = writers.get(&at)?;
        by.is_subset(own).then_some(*origin)
    }

    /// The digits of a number to a base, one a generation.
    fn digits(mut number: u64, base: u64) -> Vec<u64> {
        (0..GENERATIONS)
            .map(|_| {
                let digit = number % base;
                number /= base;
                digit
            })
            .collect()
    }

    fn after(there: &There, kept: &BTreeSet<u64>, writers: &BTreeMap<u64, Writers>) -> There {
        let all: Vec<Known> = there
            .iter()
            .map(|(number, (_, by))| (snapshot(*number, "data"), Some(by.clone())))
            .collect();
        let own =
            |number: u64, _: (&Name, &Name)| Ok::<_, Infallible>(writers.get(&number).cloned());
        let Ok(handed) = handed(&all, kept, own);
        let mut after = There::new();
        for (number, content) in there {
            let to = match kept.contains(number) {
                true => Some(*number),
                false => handed.get(&snapshot(*number, "data")).copied(),
            };
            if let Some(to) = to {
                let before = after.insert(to, content.clone());
                assert_eq!(before, None, "two at generation {to}");
            }
        }
        after
    }

    /// Every history of a few generations: those which have a snapshot, by which of two images, which images write in each
    /// generation, and which of them are kept.
    #[test]
    fn whoever_is_kept_goes_back_to_what_it_went_back_to_before() {
        let powers = |base: u64| base.pow(GENERATIONS as u32);
        let mut handed_on = 0_u64;
        for taken in 0..powers(3) {
            let by = digits(taken, 3);
            let there: There = (1..)
                .zip(&by)
                .filter(|(_, by)| **by > 0)
                .map(|(number, by)| (number, (number, Writers::from([image(*by)]))))
                .collect();
            for declared in 0..powers(3) {
                let own = digits(declared, 3);
                let writers: BTreeMap<u64, Writers> = (1..)
                    .zip(&own)
                    .filter(|(_, own)| **own > 0)
                    .map(|(number, own)| (number, Writers::from([image(*own)])))
                    .collect();
                for stays in 0..powers(2) {
                    let kept: BTreeSet<u64> = (1..)
                        .zip(digits(stays, 2))
                        .filter(|(_, stays)| *stays > 0)
                        .map(|(number, _)| number)
                        .collect();
                    let after = after(&there, &kept, &writers);
                    for number in &kept {
                        let before = used(&there, *number, &writers);
                        if before.is_some() {
                            let now = used(&after, *number, &writers);
                            assert_eq!(now, before, "{there:?} {writers:?} {kept:?}");
                        }
                    }
                    // Nothing stays for nobody.
                    for (to, (origin, _)) in &after {
                        if to != origin {
                            handed_on += 1;
                            assert_eq!(used(&there, *to, &writers), Some(*origin));
                        }
                    }
                }
            }
        }
        assert!(handed_on > 1_000, "{handed_on}");
    }

    #[test]
    fn volumes_are_apart_and_what_is_not_known_is_not_handed_on() {
        let (first, second) = (Writers::from([image(1)]), Writers::from([image(2)]));
        let all = [
            (snapshot(2, "data"), Some(first.clone())),
            (snapshot(2, "log"), None),
            (snapshot(3, "log"), Some(first.clone())),
            (snapshot(3, "data"), Some(second.clone())),
        ];
        let own = |_: u64, (_, volume): (&Name, &Name)| {
            Ok::<_, Infallible>(match volume.as_str() {
                "data" => Some(&first | &second),
                _ => Some(first.clone()),
            })
        };
        let Ok(handed) = handed(&all, &BTreeSet::from([1, 4]), own);
        assert_eq!(handed, BTreeMap::from([(snapshot(2, "data"), 1)]));
    }
}
