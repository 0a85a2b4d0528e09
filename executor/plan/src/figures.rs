//! What pods have used over time: the records that are kept of it, the place of each, and the points that are shown. Pure.
//!
//! There are two rings: [`FINE`] for what was lately, [`COARSE`] for what was this week. The place of a record in its ring follows from its
//! time alone, so nothing has to say where a ring begins: it is whole after any death, and whatever does not belong to its place is
//! nothing. Counters are kept as the kernel counts them, so that a record that is missing costs no sum.

mod points;
mod record;

pub use points::{Kept, Point, Window, points};
pub use record::{HEADER, RECORD_BYTES, Sample};

/// The most points that are shown of one series.
pub const MAX_POINTS: u64 = 240;

/// A ring: how far its records are apart, in milliseconds, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Milliseconds of one record.
    pub step: u64,
    /// How many it has.
    pub slots: u64,
    /// Where it begins in its file, in bytes.
    pub begin: u64,
}

/// Two hours.
pub const FINE: Ring = Ring {
    step: 30_000,
    slots: 240,
    begin: RECORD_BYTES as u64,
};

/// A week.
pub const COARSE: Ring = Ring {
    step: 300_000,
    slots: 2_016,
    begin: FINE.end(),
};

/// How long a file of records is, in bytes.
pub const FILE_BYTES: u64 = COARSE.end();

impl Ring {
    /// How far it reaches back, in milliseconds.
    pub const fn span(self) -> u64 {
        self.step * self.slots
    }

    /// The place of what was at this time.
    pub const fn slot(self, time: u64) -> u64 {
        (time / self.step) % self.slots
    }

    /// Where in the file that is.
    pub const fn offset(self, time: u64) -> u64 {
        self.begin + self.slot(time) * RECORD_BYTES as u64
    }

    /// Where it ends in its file.
    pub const fn end(self) -> u64 {
        self.begin + self.slots * RECORD_BYTES as u64
    }

    /// The records of its bytes that are in their places, in the order of their times; what is torn or damaged is none.
    pub fn read(self, bytes: &[u8]) -> Vec<Sample> {
        let records = bytes.chunks_exact(RECORD_BYTES).zip(0..self.slots);
        let records = records.filter_map(|(record, slot)| {
            let sample = Sample::decode(record)?;
            (self.slot(sample.time) == slot).then_some(sample)
        });
        let mut samples: Vec<Sample> = records.collect();
        samples.sort_unstable_by_key(|sample| sample.time);
        samples
    }

    /// What its place says after `sample`, where `there` is what it says now: of one time, the highest of what goes up and down and the
    /// newest of what is counted.
    pub fn merged(self, there: Option<Sample>, sample: Sample) -> Sample {
        let same = there.filter(|there| there.time / self.step == sample.time / self.step);
        same.map_or(sample, |there| there.followed_by(sample))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(time: u64, cpu: u64) -> Sample {
        Sample {
            time,
            cpu: Some(cpu),
            ..Sample::default()
        }
    }

    #[test]
    fn a_file_is_bounded_and_its_rings_do_not_overlap() {
        assert_eq!((FINE.span(), COARSE.span()), (7_200_000, 604_800_000));
        assert_eq!((FINE.begin, COARSE.begin), (64, 15_424));
        assert_eq!(FILE_BYTES, 144_448);
        // No record is in two sectors.
        assert_eq!(
            (512 % RECORD_BYTES, FINE.begin % 64, COARSE.begin % 64),
            (0, 0, 0)
        );
        for time in [0, 1, FINE.span() - 1, FINE.span(), u64::MAX - 1] {
            assert!(FINE.offset(time) + 64 <= COARSE.begin);
            assert!(COARSE.offset(time) + 64 <= FILE_BYTES);
        }
    }

    #[test]
    fn what_is_not_in_its_place_is_nothing() {
        let mut bytes = vec![0; (FINE.slots * 64) as usize];
        assert_eq!(FINE.read(&bytes), []);
        let mut put = |at: u64, sample: Sample| {
            let at = at as usize * RECORD_BYTES;
            bytes[at..at + RECORD_BYTES].copy_from_slice(&sample.encode());
        };
        let (newer, older) = (sample(FINE.span() + 30_000, 2), sample(90_000, 1));
        put(1, newer);
        put(3, older);
        // A copy of another's place, and one whose last byte was not written.
        put(7, older);
        put(4, sample(120_000, 3));
        bytes[4 * RECORD_BYTES + 63] ^= 1;
        assert_eq!(FINE.read(&bytes), [older, newer]);
        // Of a file that was cut, what is left.
        assert_eq!(FINE.read(&bytes[..2 * RECORD_BYTES + 5]), [newer]);
        // Garbage has no records.
        let garbage: Vec<u8> = (0..bytes.len()).map(|n| (n * 31 % 251) as u8).collect();
        assert_eq!(FINE.read(&garbage), []);
    }

    #[test]
    fn a_place_keeps_the_highest_and_the_newest_of_its_time() {
        let (first, then) = (
            Sample {
                memory: Some(9),
                pids: Some(1),
                ..sample(300_000, 5)
            },
            Sample {
                memory: Some(4),
                pids: Some(2),
                ..sample(599_999, 8)
            },
        );
        let both = Sample {
            memory: Some(9),
            pids: Some(2),
            ..sample(599_999, 8)
        };
        assert_eq!(COARSE.merged(Some(first), then), both);
        assert_eq!(COARSE.merged(None, then), then);
        // What is there is of a week ago.
        let old = Sample {
            time: first.time,
            ..first
        };
        let next = Sample {
            time: first.time + COARSE.span(),
            ..then
        };
        assert_eq!(COARSE.slot(old.time), COARSE.slot(next.time));
        assert_eq!(COARSE.merged(Some(old), next), next);
    }
}
