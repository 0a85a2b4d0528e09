//! What of backups is due, over thousands of steps of a host made of numbers: it crashes, its clock is set, backups take
//! their time and fail.

use proptest::prelude::*;
use std::collections::BTreeMap;
use tank_plan::backups::{
    AT_ONCE, Archive, Hanging, Hold, MAX_HANGING, Series, due, hold, outdated, replaced,
    replaced_since, since_boot,
};

const MINUTE: u64 = 60_000;

fn series(every: u64, known: u64, newest: Option<i64>) -> Series {
    Series {
        every,
        known,
        newest,
        failed: None,
        running: false,
        held: false,
        spread: 0,
    }
}

#[test]
fn the_newest_may_get_so_old_and_no_older() {
    let one = series(60 * MINUTE, 1_000, Some(500));
    let next = 500 + 60 * MINUTE;
    let at = |now| due(now, [("a", one)]);
    assert_eq!((at(1_000).begin, at(1_000).wake), (vec![], Some(next)));
    assert_eq!(at(next - 1).begin, Vec::<&str>::new());
    assert_eq!((at(next).begin, at(next).wake), (vec!["a"], None));
    // One that was missed is due at once, and once.
    let missed = series(60 * MINUTE, 1_000, Some(-i64::MAX));
    assert_eq!(due(1_000, [("a", missed)]).begin, ["a"]);
    assert_eq!(
        due(1_000, [("a", series(MINUTE, 1_000, None))]).begin,
        ["a"]
    );
    // Several that were missed do not begin together.
    let spread = |spread| Series { spread, ..missed };
    let begin: Vec<u64> = [0, 7, 299_999].map(|n| spread(n).due_at()).to_vec();
    assert_eq!(begin, [1_000, 1_007, 300_999]);
    let ends: Vec<u64> = [0, u64::MAX].map(|n| spread(n).due_at()).to_vec();
    assert!(ends.iter().all(|at| *at <= 1_000 + 5 * MINUTE), "{ends:?}");
}

#[test]
fn a_failure_is_tried_again_ever_later_and_each_has_its_turn() {
    let failed = |count| {
        let failed = Some((count, 10 * MINUTE));
        let one = Series {
            failed,
            ..series(24 * 60 * MINUTE, 0, None)
        };
        (one.due_at() - 10 * MINUTE) / MINUTE
    };
    let waits = [1, 2, 3, 6, 7, 1_000, u32::MAX].map(failed);
    assert_eq!(waits, [1, 2, 4, 32, 60, 60, 60]);
    // Never later than it would be made anyway.
    let quick = Series {
        failed: Some((9, 0)),
        ..series(2 * MINUTE, 0, None)
    };
    assert_eq!(quick.due_at(), 2 * MINUTE);
    // Those first that have been due for longest.
    let all = ["a", "b", "c"].map(|name| {
        let newest = -(name.as_bytes()[0] as i64);
        (name, series(MINUTE, 0, Some(newest - MINUTE as i64)))
    });
    let mut all: BTreeMap<&str, Series> = all.into_iter().collect();
    all.get_mut("c").expect("c").known = 0;
    all.get_mut("a").expect("a").known = 5;
    assert_eq!(due(10, all.clone()).begin, ["b", "c"]);
    all.get_mut("b").expect("b").running = true;
    let next = due(10, all);
    assert_eq!((next.begin, next.wake), (vec!["c"], None));
}

#[test]
fn what_hangs_has_no_place_and_keeps_back_what_would_hang_with_it() {
    let hanging = |of, to: &str, in_folder| Hanging {
        of,
        to: to.to_owned(),
        in_folder,
    };
    let all = [hanging("a", "/nas", true), hanging("b", "/srv", false)];
    let by = |of, to| hold(&of, to, &all, (10, None));
    assert_eq!(by("c", "/nas"), Some(Hold::Folder("a", "/nas".to_owned())));
    // It was declared otherwise: the folder was the reason.
    assert_eq!(by("a", "/srv"), None);
    // The volume was, and is it in any folder.
    assert_eq!(
        (by("b", "/srv"), by("b", "/x")),
        (Some(Hold::Volume), Some(Hold::Volume))
    );
    assert_eq!((by("c", "/srv"), by("c", "/nas/x")), (None, None));
    let many: Vec<_> = (0..MAX_HANGING)
        .map(|n| hanging("a", &format!("/nas{n}"), true))
        .collect();
    assert_eq!(hold(&"z", "/srv", &many[1..], (10, None)), None);
    assert_eq!(
        hold(&"z", "/srv", &many, (10, None)),
        Some(Hold::Many(MAX_HANGING))
    );
    // A folder that did not answer is left alone for a while.
    let silent = |of, to, until| hold(&of, to, &all, (10, Some(until)));
    assert_eq!(silent("c", "/x", 11), Some(Hold::Silent("/x".to_owned())));
    assert_eq!(silent("c", "/x", 10), None);
    assert_eq!(silent("b", "/x", 11), Some(Hold::Volume));
    // Those that are held have no place, keep nobody else from one, and are not looked for again and again.
    let held = Series {
        held: true,
        ..series(MINUTE, 0, None)
    };
    let free = series(MINUTE, 5, None);
    let next = due(10, [("a", held), ("b", held), ("c", free), ("d", free)]);
    assert_eq!((next.begin, next.wake), (vec!["c", "d"], None));
    let next = due(10, [("a", held)]);
    assert_eq!((next.begin, next.wake), (vec![], None));
}

#[test]
fn what_the_wall_clock_said_counts_by_how_old_it_is_now() {
    let year = 366 * 24 * 60 * MINUTE;
    assert_eq!(since_boot(1_000, 2 * year, &[2 * year - 400, 7]), Some(600));
    assert_eq!(
        since_boot(1_000, 2 * year, &[2 * year - 4_000]),
        Some(-3_000)
    );
    assert_eq!(since_boot(1_000, 2 * year, &[2 * year + 5]), Some(1_000));
    // It was made when the clock was wrong, or the clock is wrong now.
    assert_eq!(since_boot(1_000, 2 * year, &[3 * year]), None);
    assert_eq!(
        since_boot(1_000, 2 * year, &[3 * year, year]),
        Some(1_000 - year as i64)
    );
    assert_eq!(since_boot(1_000, 2 * year, &[]), None);
}

#[test]
fn the_new_one_never_goes() {
    assert_eq!(outdated(100_000_000, &[3, 1, 2, 9], 9, 2), [1, 2]);
    assert_eq!(outdated(100_000_000, &[3, 1, 2, 9], 9, 1), [1, 2, 3]);
    assert_eq!(outdated(100_000_000, &[9], 9, 7), Vec::<u64>::new());
    // The clock was set back: what seems to come is what was before.
    let future = [200_000_000, 300_000_000];
    let all = [future[0], future[1], 40, 50];
    assert_eq!(outdated(1_000, &all, 50, 3), [200_000_000]);
    assert_eq!(outdated(1_000, &all, 50, 2), future);
    assert_eq!(outdated(1_000, &all, future[1], 1), [200_000_000, 40, 50]);
}

#[test]
fn empty_ones_take_the_place_of_empty_ones_alone() {
    let wall = 100_000_000;
    let all = |text: &str| -> Vec<Archive> {
        let of = |(time, letter): (usize, char)| Archive {
            time: time as u64 + 1,
            empty: letter == '-',
        };
        text.chars().enumerate().map(of).collect()
    };
    // Of those that are there, the oldest first, the last one being new: `x` has something in it, `-` has nothing.
    let gone = |text: &str, keep| replaced(wall, &all(text), text.len() as u64, keep);
    let none = Vec::<u64>::new();
    assert_eq!(gone("xxx", 2), [1]);
    assert_eq!(gone("xx-", 2), none);
    assert_eq!(gone("xx--", 2), none);
    assert_eq!(gone("xx---", 2), [3]);
    assert_eq!(gone("xx--x", 2), [1, 3]);
    assert_eq!(gone("xx-xx", 2), [1, 2, 3]);
    assert_eq!(gone("---", 1), [1, 2]);
    assert_eq!(gone("x-", 1), none);
    assert_eq!(gone("x-x", 1), [1, 2]);
    // What is there by then: twice as many at most, whatever comes in what order.
    for bits in 0..1_u32 << 10 {
        let mut there: Vec<Archive> = Vec::new();
        for time in 1..=10_u64 {
            let empty = bits >> (time - 1) & 1 == 1;
            there.push(Archive { time, empty });
            let gone = replaced(wall, &there, time, 3);
            there.retain(|one| !gone.contains(&one.time));
            let full = there.iter().filter(|one| !one.empty).count();
            let made = (1..=time).filter(|time| bits >> (time - 1) & 1 == 0);
            assert_eq!(full, made.count().min(3), "{bits:b} {time}");
            assert!(there.len() <= 6 && there.iter().any(|one| one.time == time));
        }
    }
}

/// One backup of a host made of numbers.
#[derive(Clone, Debug)]
struct Volume {
    every: u64,
    series: Series,
    /// The archives: the wall time in the name, and the real time.
    archives: Vec<(u64, u64)>,
    ends: Option<(u64, u64, u64)>,
    begun: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Tick {
    passes: u64,
    fails: bool,
    takes: u64,
    event: u8,
    jump: i64,
}

fn tick() -> impl Strategy<Value = Tick> {
    (1..90_000u64, 0..10u8, 1..120_000u64, 0..200u8, -400..400i64).prop_map(
        |(passes, fails, takes, event, days)| Tick {
            passes,
            fails: fails == 0,
            takes,
            event,
            jump: days * 24 * 60 * MINUTE as i64,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn ten_thousand_steps_have_no_burst_and_starve_none(
        everys in prop::collection::vec(1..2_000u64, 1..12),
        ticks in prop::collection::vec(tick(), 10_000),
    ) {
        let mut now = 0u64;
        let mut wall = 50 * 366 * 24 * 60 * MINUTE;
        let mut volumes: Vec<Volume> = everys.iter().enumerate().map(|(n, minutes)| {
            let every = minutes * MINUTE;
            let spread = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Volume { every, series: Series { spread, ..series(every, 0, None) }, archives: Vec::new(), ends: None, begun: Vec::new() }
        }).collect();
        let mut restarts = vec![0u64];
        for tick in &ticks {
            now += tick.passes;
            wall += tick.passes;
            match tick.event {
                // The clock is set.
                0 => wall = wall.saturating_add_signed(tick.jump).max(1_000 * MINUTE),
                // The daemon is killed and begins anew: the archives are what it knows.
                1 => {
                    restarts.push(now);
                    for volume in &mut volumes {
                        let times: Vec<u64> = volume.archives.iter().map(|(name, _)| *name).collect();
                        let newest = since_boot(now, wall, &times);
                        volume.series = Series { known: now, newest, failed: None, running: false, ..volume.series };
                        volume.ends = None;
                    }
                }
                _ => {}
            }
            for volume in &mut volumes {
                if let Some((ends, begun, name)) = volume.ends && ends <= now {
                    volume.ends = None;
                    volume.series.running = false;
                    if tick.fails {
                        let count = volume.series.failed.map_or(0, |(count, _)| count);
                        volume.series.failed = Some((count + 1, now));
                    } else {
                        volume.series.failed = None;
                        volume.series.newest = Some(begun as i64);
                        volume.archives.push((name, begun));
                        let times: Vec<u64> = volume.archives.iter().map(|(name, _)| *name).collect();
                        let gone = outdated(wall, &times, name, 3);
                        volume.archives.retain(|(time, _)| !gone.contains(time));
                        prop_assert!(volume.archives.iter().any(|(_, real)| *real == begun), "the new one went");
                        prop_assert!(volume.archives.len() <= 3);
                    }
                }
            }
            let decided = due(now, volumes.iter().map(|volume| volume.series).enumerate());
            for at in decided.begin {
                let volume = &mut volumes[at];
                prop_assert!(!volume.series.running);
                volume.series.running = true;
                volume.ends = Some((now + tick.takes, now, wall));
                volume.begun.push(now);
            }
            let running = volumes.iter().filter(|volume| volume.series.running).count();
            prop_assert!(running <= AT_ONCE);
            prop_assert!(decided.wake.is_none_or(|wake| wake > now), "it would be asked at once again, for ever");
            // Whatever is due begins, or there is no place.
            let waits = volumes.iter().any(|volume| !volume.series.running && volume.series.due_at() <= now);
            prop_assert!(!waits || running == AT_ONCE);
        }
        for volume in &volumes {
            // In one life no two begin with less than the first wait between them.
            for pair in volume.begun.windows(2) {
                let restarted = restarts.iter().any(|at| (pair[0] + 1..=pair[1]).contains(at));
                prop_assert!(restarted || pair[1] - pair[0] >= MINUTE.min(volume.every), "a burst");
            }
            // And none waits much longer than it may: its own time, the waits after failures, and its turn.
            let mut times = volume.begun.clone();
            times.insert(0, 0);
            times.push(now);
            let most = volume.every + 5 * MINUTE + 60 * MINUTE + 60 * MINUTE;
            for pair in times.windows(2) {
                prop_assert!(pair[1] - pair[0] <= most, "{} starves: {}", volume.every, pair[1] - pair[0]);
            }
        }
    }
}

#[test]
fn what_was_kept_of_a_volume_that_was_removed_stays() {
    let wall = 1_000_000_000;
    let at = |second: u64| second * 1_000;
    let full = |second| Archive {
        time: at(second),
        empty: false,
    };
    let empty = |second| Archive {
        empty: true,
        ..full(second)
    };
    let gone = |all: &[Archive], began: Option<u64>, keep| {
        let made = all.last().expect("one").time;
        replaced_since(wall, all, (made, began), keep)
    };
    // Three of a life that is over, and then more of the next one than are kept.
    let mut all: Vec<Archive> = [10, 20, 30].map(full).to_vec();
    for second in [50, 60, 70] {
        all.push(full(second));
        assert_eq!(gone(&all, Some(at(40) + 500), 3), [0_u64; 0]);
    }
    all.push(full(80));
    assert_eq!(gone(&all, Some(at(40) + 500), 3), [at(50)]);
    // An older Tank has not noted when it began.
    assert_eq!(gone(&all, None, 3), [10, 20, 30, 50].map(at));
    // One that begins later than what is made is of a clock that was set.
    assert_eq!(gone(&all, Some(at(90)), 3), [10, 20, 30, 50].map(at));
    // What was made in the second in which it began is its own.
    assert_eq!(gone(&all, Some(at(50) + 999), 3), [at(50)]);
    // Of what was before no more than `keep` stay, and of empty ones none.
    let before = [full(5), full(10), empty(20), full(30), full(50)];
    assert_eq!(gone(&before, Some(at(40)), 2), [at(5), at(20)]);
}
