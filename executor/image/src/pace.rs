//! How long it is waited for whoever reads an archive, or sends one: a minute, and a second more for each 16 KiB of it. Only
//! waiting counts, and not what making the archive takes, or taking it in.

use std::time::Duration;

/// What everybody has.
const GRACE: Duration = Duration::from_secs(60);

/// The bytes that make a second.
const RATE: u64 = 16 << 10;

/// How a reader, or a sender, has kept up by now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// What is waited at most for them to go on.
    pub fn left(&self) -> Duration {
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / RATE);
        let all = GRACE.saturating_add(earned);
        all.saturating_sub(self.waited).min(GRACE)
    }

    /// They have read or sent bytes, for which it was waited.
    pub fn add(&mut self, bytes: u64, waited: Duration) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
    }

    /// That a reader has not.
    pub fn late() -> std::io::Error {
        let why = "less than 16 KiB a second of it are read, or nothing for a minute";
        std::io::Error::new(std::io::ErrorKind::TimedOut, why)
    }

    /// That a sender has not.
    pub fn late_to_send() -> std::io::Error {
        let why = "less than 16 KiB a second of it come, or nothing for a minute";
        std::io::Error::new(std::io::ErrorKind::TimedOut, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_a_little_now_and_then_comes_to_an_end_and_who_is_slow_does_not() {
        let after = |bytes: u64, every: Duration, times: u32| {
            let mut pace = Pace::default();
            for _ in 0..times {
                if every >= pace.left() {
                    return false;
                }
                pace.add(bytes, every);
            }
            true
        };
        // A page each 59 seconds, as nobody does who wants it.
        assert!(!after(4096, Duration::from_secs(59), 10));
        assert!(!after(1, Duration::from_secs(1), 100));
        // A line of 128 kbit/s, for a week; a disk that stops for 50 s and goes on.
        assert!(after(16 << 10, Duration::from_secs(1), 7 * 86_400));
        assert!(after(4 << 20, Duration::from_secs(50), 1_000));
        // What is made slowly is not waited for.
        assert!(after(1, Duration::ZERO, 1_000_000));
        assert_eq!(Pace::default().left(), GRACE);
    }
}
