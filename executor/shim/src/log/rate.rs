//! How much of what is printed is written: so many bytes in each second, and what is beyond is counted.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

/// What a bound is for.
const PERIOD: Duration = Duration::from_secs(1);

/// The most bytes of each stream that are written although they are beyond the limit: 4 KiB in a second.
const MAX_LAST: usize = 4 << 10;

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

    /// Some of it is written after all.
    pub fn remove(&mut self, lines: usize, bytes: usize) {
        self.lines = self.lines.saturating_sub(lines as u64);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
        if self.bytes == 0 {
            self.between = None;
        }
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

/// The last bytes of what was dropped, of which whole lines are written after all.
#[derive(Default)]
pub struct LastWords {
    text: Vec<u8>,
    /// It begins within a line.
    is_torn: bool,
}

impl LastWords {
    /// Keeps the end of what is dropped; `within` a line that has begun before.
    pub fn keep(&mut self, data: &[u8], within: bool) {
        if self.text.is_empty() {
            self.is_torn = within;
        }
        let end = data.len().saturating_sub(MAX_LAST);
        if end > 0 {
            self.text.clear();
            self.is_torn = true;
        }
        self.text.extend(data.get(end..).unwrap_or_default());
        let excess = self.text.len().saturating_sub(MAX_LAST);
        if excess > 0 {
            self.text.drain(..excess);
            self.is_torn = true;
        }
    }

    /// Its whole lines, each with its end. What comes next is the rest of a line, if there was one.
    pub fn take(&mut self) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.text);
        let end = text.iter().rposition(|byte| *byte == b'\n');
        text.truncate(end.map_or(0, |end| end + 1));
        if std::mem::take(&mut self.is_torn) {
            let begin = text.iter().position(|byte| *byte == b'\n');
            text.drain(..begin.map_or(text.len(), |begin| begin + 1));
        }
        text
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
