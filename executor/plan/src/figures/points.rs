//! What is shown of a series: at most so many points, each with what was used since the one before it.

use super::{COARSE, FINE, MAX_POINTS, Sample};

/// How many steps of silence are a gap: over it, nothing is said of what was used.
const GAP: u64 = 3;

/// What is asked for, and in which steps it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Milliseconds since the epoch.
    pub since: u64,
    /// Not after this.
    pub until: u64,
    /// Milliseconds between two points.
    pub step: u64,
    /// Whether what is fine reaches back as far.
    pub is_fine: bool,
}

/// What is kept of one series, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Those of [`FINE`].
    pub fine: Vec<Sample>,
    /// Those of [`COARSE`].
    pub coarse: Vec<Sample>,
    /// Those that are not on disk yet.
    pub newest: Vec<Sample>,
}

/// What was used in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Its end, in milliseconds since the epoch.
    pub time: u64,
    /// Milliseconds since the point before it. None: that is not known, nor what was counted meanwhile.
    pub span: Option<u64>,
    /// Microseconds of processors that were used in it.
    pub cpu: Option<u64>,
    /// The most bytes in it, of those that were looked at.
    pub memory: Option<u64>,
    /// Bytes that were read from disks in it.
    pub read: Option<u64>,
    /// Bytes that were written to them.
    pub written: Option<u64>,
    /// Bytes that came over its links.
    pub received: Option<u64>,
    /// Bytes that went over them.
    pub sent: Option<u64>,
    /// The most processes and threads.
    pub pids: Option<u64>,
}

impl Window {
    /// From `since` to `now`, of no more than a week, in at most `points` steps for each series: as fine as it is kept, and no finer.
    pub fn new(since: u64, now: u64, points: u64) -> Self {
        let until = now;
        let since = since.max(now.saturating_sub(COARSE.span())).min(now);
        let length = until - since;
        let is_fine = length <= FINE.span();
        let ring = if is_fine { FINE } else { COARSE };
        let points = points.clamp(1, MAX_POINTS);
        let steps = length.div_ceil(ring.step * points).max(1);
        Self {
            since,
            until,
            step: ring.step * steps,
            is_fine,
        }
    }

    /// Those that count, in the order of time: one before the first as well, which the first is measured from.
    fn select(self, kept: &Kept) -> Vec<Sample> {
        let ring = if self.is_fine {
            &kept.fine
        } else {
            &kept.coarse
        };
        let all = ring.iter().chain(&kept.newest);
        // What is later than now is of a clock that was set back.
        let since = self.since.saturating_sub(GAP * self.step);
        let mut samples: Vec<Sample> = all
            .filter(|sample| (since..=self.until).contains(&sample.time))
            .copied()
            .collect();
        samples.sort_by_key(|sample| sample.time);
        samples
    }
}

/// The points of a series, oldest first.
pub fn points(kept: &Kept, window: Window) -> Vec<Point> {
    let mut steps: Vec<Sample> = Vec::new();
    for sample in window.select(kept) {
        match steps.last_mut() {
            Some(last) if last.time / window.step == sample.time / window.step => {
                *last = last.followed_by(sample);
            }
            _ => steps.push(sample),
        }
    }
    let before = std::iter::once(None).chain(steps.iter().map(Some));
    let points = before.zip(&steps);
    let points = points.filter(|(_, sample)| sample.time >= window.since);
    points
        .map(|(before, sample)| point(before, *sample, window.step))
        .collect()
}

fn point(before: Option<&Sample>, sample: Sample, step: u64) -> Point {
    let near = before.filter(|before| sample.time - before.time <= GAP * step);
    let counted = |of: fn(&Sample) -> Option<u64>| {
        let (before, now) = (of(near?)?, of(&sample)?);
        // What was made anew meanwhile counts from nothing.
        Some(now.checked_sub(before).unwrap_or(now))
    };
    Point {
        time: sample.time,
        span: near.map(|before| sample.time - before.time),
        cpu: counted(|sample| sample.cpu),
        memory: sample.memory,
        read: counted(|sample| sample.read),
        written: counted(|sample| sample.written),
        received: counted(|sample| sample.received),
        sent: counted(|sample| sample.sent),
        pids: sample.pids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = 1_800_000_000_000;

    fn sample(time: u64, cpu: u64, memory: u64) -> Sample {
        Sample {
            time,
            cpu: Some(cpu),
            memory: Some(memory),
            ..Sample::default()
        }
    }

    #[test]
    fn a_window_has_no_more_points_than_it_may() {
        let cases = [
            (HOUR, MAX_POINTS, 30_000, true),
            (2 * HOUR, MAX_POINTS, 30_000, true),
            (3 * HOUR, MAX_POINTS, 300_000, false),
            (24 * HOUR, MAX_POINTS, 600_000, false),
            (7 * 24 * HOUR, MAX_POINTS, 2_700_000, false),
            // More is not kept.
            (70 * 24 * HOUR, MAX_POINTS, 2_700_000, false),
            (HOUR, 24, 150_000, true),
            (HOUR, 0, HOUR, true),
            (0, MAX_POINTS, 30_000, true),
        ];
        for (length, points, step, is_fine) in cases {
            let window = Window::new(NOW - length, NOW, points);
            assert_eq!((window.step, window.is_fine), (step, is_fine), "{length}");
            let most = (window.until - window.since).div_ceil(window.step);
            assert!(most <= points.max(1), "{length}: {most}");
        }
        // A time that is to come is now.
        assert_eq!(Window::new(NOW + 1, NOW, 5).since, NOW);
    }

    #[test]
    fn a_point_says_what_was_used_since_the_one_before() {
        let at = |step: u64| NOW - 10 * 30_000 + step * 30_000;
        let kept = Kept {
            fine: vec![
                // Before what is asked for: the first is measured from it.
                sample(at(0), 100, 9),
                sample(at(1), 150, 4),
                // It was made anew.
                sample(at(2), 30, 5),
                // Nothing was written for a while.
                sample(at(7), 90, 6),
            ],
            // Of another ring.
            coarse: vec![sample(at(1) + 5, 1, 1)],
            newest: vec![
                sample(at(7) + 10, 95, 3),
                sample(at(8), 100, 2),
                // A clock was set back.
                sample(NOW + 1, 0, 0),
            ],
        };
        let window = Window::new(at(1), NOW, MAX_POINTS);
        let shown = points(&kept, window);
        let brief: Vec<_> = shown
            .iter()
            .map(|point| (point.time, point.span, point.cpu, point.memory))
            .collect();
        assert_eq!(
            brief,
            [
                (at(1), Some(30_000), Some(50), Some(4)),
                (at(2), Some(30_000), Some(30), Some(5)),
                (at(7) + 10, None, None, Some(6)),
                (at(8), Some(29_990), Some(5), Some(2)),
            ]
        );
        assert!(shown.iter().all(|point| point.read.is_none()));
        assert_eq!(points(&Kept::default(), window), []);
    }

    /// Sums do not depend on how finely they are shown.
    #[test]
    fn sums_are_the_same_in_every_step() {
        let fine: Vec<Sample> = (0..240)
            .map(|n| sample(NOW - 2 * HOUR + n * 30_000, n * n, n % 7))
            .collect();
        let kept = Kept {
            fine,
            ..Kept::default()
        };
        // Steps that an hour has a whole number of begin where it begins.
        for (most, count) in [(240, 120), (60, 60), (4, 4), (1, 1)] {
            let shown = points(&kept, Window::new(NOW - HOUR, NOW, most));
            assert_eq!(shown.len(), count, "{most}");
            let sum: u64 = shown.iter().filter_map(|point| point.cpu).sum();
            let last = shown.last().map(|point| point.time);
            let expected = (239 * 239 - 119 * 119, Some(NOW - 30_000));
            assert_eq!((sum, last), expected, "{most}");
        }
        // Another begins earlier, with what was used by then.
        let shown = points(&kept, Window::new(NOW - HOUR, NOW, 7));
        let sum: u64 = shown.iter().filter_map(|point| point.cpu).sum();
        assert_eq!((shown.len(), sum), (8, 239 * 239 - 107 * 107));
    }
}
