//! How much of what is printed is written: so many bytes in each second, and what is beyond is counted.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

/// What a bound is for.
const PERIOD: Duration = Duration::from_secs(1);

/// The second under way, and what was written in it.
pub struct Window {
    limit: Option<u64>,
    used: u64,
    since: Instant,
}

impl Window {
    /// None: there is no limit.
    pub fn new(limit: Option<u64>, now: Instant) -> Self {
        Self {
            limit,
            used: 0,
            since: now,
        }
    }

    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Begins the next second, if this one is over.
    pub fn roll(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.used, self.since) = (0, now);
        }
    }

    /// When this second is over.
    pub fn end(&self) -> Instant {
        self.since + PERIOD
    }

    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.used >= limit)
    }

    /// Counts what is written. The last line of a second may go beyond its limit, so that there is none
    /// that is too long for ever.
    pub fn spend(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes as u64);
    }
}

/// Lines that are in no log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    lines: u64,
    bytes: u64,
    /// When the first and the last of them were printed.
    between: Option<(SystemTime, SystemTime)>,
}

impl Dropped {
    pub fn add(&mut self, lines: u64, bytes: u64, at: SystemTime) {
        self.lines = self.lines.saturating_add(lines);
        self.bytes = self.bytes.saturating_add(bytes);
        self.between = Some((self.between.map_or(at, |(first, _)| first), at));
    }

    pub fn is_none(&self) -> bool {
        self.between.is_none()
    }

    pub fn some(self) -> Option<Self> {
        (!self.is_none()).then_some(self)
    }

    pub fn take(&mut self) -> Option<Self> {
        std::mem::take(self).some()
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.lines == 1 { "" } else { "s" };
        let (lines, bytes) = (self.lines, self.bytes);
        write!(f, "dropped {lines} line{plural}, {bytes} bytes")?;
        match self.between {
            Some((first, last)) => write!(
                f,
                ", printed from {} to {}",
                humantime::format_rfc3339_millis(first),
                humantime::format_rfc3339_millis(last)
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_bytes_and_the_next_has_its_own() {
        let begin = Instant::now();
        let mut window = Window::new(Some(100), begin);
        window.spend(60);
        assert!(!window.is_full());
        // The last one goes beyond.
        window.spend(60);
        assert!(window.is_full());
        window.roll(begin + Duration::from_millis(999));
        assert!(window.is_full());
        window.roll(begin + Duration::from_secs(1));
        assert!(!window.is_full());
        assert_eq!(window.end(), begin + Duration::from_secs(2));
        let mut none = Window::new(None, begin);
        none.spend(usize::MAX);
        none.spend(usize::MAX);
        assert!(!none.is_full());
    }

    #[test]
    fn what_is_dropped_is_counted_from_its_first_to_its_last() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut dropped = Dropped::default();
        assert_eq!(dropped.take(), None);
        dropped.add(1, 10, at(1));
        assert_eq!(
            dropped.to_string(),
            "dropped 1 line, 10 bytes, printed from 1970-01-01T00:00:01.000Z to 1970-01-01T00:00:01.000Z"
        );
        dropped.add(2, 20, at(5));
        dropped.add(0, 1, at(9));
        let whole = dropped.take().expect("some");
        assert_eq!(
            whole.to_string(),
            "dropped 3 lines, 31 bytes, printed from 1970-01-01T00:00:01.000Z to 1970-01-01T00:00:09.000Z"
        );
        assert!(dropped.is_none());
    }
}
