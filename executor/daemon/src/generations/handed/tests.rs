//! Histories of a few generations, and what is deleted of them.

use super::*;

const GENERATIONS: u64 = 3;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn image(number: u64) -> Digest {
    Digest::of(&[number as u8])
}

/// Those of two images whose bits are set.
fn images(bits: u64) -> Writers {
    let all = (0..2).filter(|bit| bits & (1 << bit) != 0);
    all.map(image).collect()
}

fn snapshot(generation: u64, volume: &str) -> Snapshot {
    Snapshot {
        generation,
        pod: name("db"),
        volume: name(volume),
    }
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

/// What is there of a volume: the writers that each generation declares, what is kept with which, and what was noted of
/// those that are gone.
#[derive(Clone, Debug)]
struct There {
    declared: BTreeMap<u64, Writers>,
    kept: Vec<Kept>,
    past: Written,
}

impl There {
    fn written(&self) -> Written {
        let declared = self.declared.iter();
        let declared = declared.map(|(number, own)| (*number, Some(own.clone())));
        written(&self.past, declared, &self.kept, None)
    }

    /// What a rollback to a generation uses: by the generation that left it.
    fn used(&self, number: u64) -> Option<u64> {
        let later = self.kept.iter().filter(|one| one.at >= number);
        let first = later.min_by_key(|one| one.at)?;
        let own = self.declared.get(&number)?;
        is_used(&self.written(), number, first.origin, own).then_some(first.origin)
    }

    /// The same once only some generations stay.
    fn without(&self, outdated: &BTreeSet<u64>) -> There {
        let known: BTreeSet<u64> = self.declared.keys().copied().collect();
        let sets = (&known, outdated);
        let mut after = self.clone();
        after.past = noted(&self.written(), &self.past, &self.kept, sets);
        after
            .declared
            .retain(|number, _| !outdated.contains(number));
        let all: Vec<Known> = self
            .kept
            .iter()
            .map(|one| Known {
                snapshot: snapshot(one.at, "data"),
                origin: one.origin,
            })
            .collect();
        let stay: BTreeSet<u64> = after.declared.keys().copied().collect();
        let own = |number: u64, _: (&Name, &Name)| after.declared.get(&number).cloned();
        let handed = handed(&all, &stay, own, |_| after.written());
        after.kept.clear();
        for one in &self.kept {
            let to = match stay.contains(&one.at) {
                true => Some(one.at),
                false => handed.get(&snapshot(one.at, "data")).copied(),
            };
            if let Some(at) = to {
                assert!(after.kept.iter().all(|kept| kept.at != at), "two at {at}");
                after.kept.push(Kept { at, ..one.clone() });
            }
        }
        after
    }
}

/// A deletion changes what no rollback uses that is still possible; and none is kept for nobody.
fn check(before: &There, outdated: &BTreeSet<u64>) -> (There, u64) {
    let after = before.without(outdated);
    for number in after.declared.keys() {
        let (then, now) = (before.used(*number), after.used(*number));
        assert_eq!(
            now, then,
            "{number} of {before:?} without {outdated:?}: {after:?}"
        );
    }
    let mut handed_on = 0;
    for one in &after.kept {
        if before.kept.iter().all(|kept| kept.at != one.at) {
            handed_on += 1;
            assert_eq!(before.used(one.at), Some(one.origin), "{before:?}");
        }
    }
    (after, handed_on)
}

/// Every history: which of two images each generation declares; which of them have a snapshot, and which images that says have
/// written, if any; and every deletion of some, then of others.
#[test]
fn whoever_is_kept_goes_back_to_what_it_went_back_to_before() {
    let powers = |base: u64| base.pow(GENERATIONS as u32);
    let mut handed_on = 0_u64;
    for taken in 0..powers(5) {
        // None was taken, or one is there and says who wrote: the one image, the other, both, or nothing of that.
        let taken = digits(taken, 5);
        let kept: Vec<Kept> = (1..)
            .zip(&taken)
            .filter(|(_, by)| **by > 0)
            .map(|(at, by)| Kept {
                at,
                origin: at,
                by: Some(images(*by)).filter(|by| !by.is_empty()),
            })
            .collect();
        for declared in 0..powers(4) {
            let declared = (1..).zip(digits(declared, 4).into_iter().map(images));
            let mut before = There {
                declared: declared.collect(),
                kept: kept.clone(),
                past: Written::new(),
            };
            // The one that runs stays, and has none yet.
            before.declared.insert(GENERATIONS + 1, images(1));
            let first = digits((taken.iter().sum::<u64>() * 7 + 3) % powers(2), 2);
            for goes in 1..powers(2) {
                let of = |digits: Vec<u64>| -> BTreeSet<u64> {
                    let all = (1..).zip(digits).filter(|(_, goes)| *goes > 0);
                    all.map(|(number, _)| number).collect()
                };
                let outdated = of(digits(goes, 2));
                let (after, more) = check(&before, &outdated);
                handed_on += more;
                let rest = &of(first.clone()) - &outdated;
                handed_on += check(&after, &rest).1;
            }
        }
    }
    assert!(handed_on > 1_000, "{handed_on}");
}

/// `a` and `s` wrote at first; `s` does not any more, and no other image does until the third generation is left.
#[test]
fn who_wrote_before_a_generation_does_not_count() {
    let (a, s, c) = (image(1), image(2), image(3));
    let declared = [[a, s], [a, a], [a, a], [c, c]];
    let declared = (1..).zip(declared.map(Writers::from));
    let before = There {
        declared: declared.collect(),
        kept: vec![Kept {
            at: 3,
            origin: 3,
            by: Some(Writers::from([a, s])),
        }],
        past: Written::new(),
    };
    assert_eq!(before.used(2), Some(3));
    let after = before.without(&BTreeSet::from([1, 3]));
    assert_eq!(after.used(2), Some(3));
    assert_eq!((after.kept[0].at, after.kept[0].origin), (2, 3));
}

/// Another image wrote between: also once its generation is gone.
#[test]
fn who_wrote_between_counts() {
    let (a, b, c) = (image(1), image(2), image(3));
    let declared = (7..).zip([a, b, a, c].map(|image| Writers::from([image])));
    let before = There {
        declared: declared.collect(),
        kept: vec![Kept {
            at: 9,
            origin: 9,
            by: Some(Writers::from([a, b])),
        }],
        past: Written::new(),
    };
    assert_eq!([before.used(7), before.used(9)], [None, Some(9)]);
    let after = before.without(&BTreeSet::from([8]));
    assert_eq!([after.used(7), after.used(9)], [None, Some(9)]);
    // One that never came so far as to write does not.
    let mut other = before.clone();
    other.kept[0].by = Some(Writers::from([a]));
    assert_eq!(other.used(7), Some(9));
    assert_eq!(other.without(&BTreeSet::from([8, 9])).used(7), Some(9));
}

/// Generations come and go, and what is noted of them stays small.
#[test]
fn what_is_noted_does_not_grow() {
    let mut there = There {
        declared: BTreeMap::from([(1, images(1))]),
        kept: Vec::new(),
        past: Written::new(),
    };
    for number in 2..50 {
        there.declared.insert(number, images(1 + number % 2));
        if number > 4 {
            there = there.without(&BTreeSet::from([number - 3]));
        }
        assert!(there.past.len() <= 3, "{there:?}");
        assert!(there.past.is_empty() || there.used(1).is_none());
    }
}
