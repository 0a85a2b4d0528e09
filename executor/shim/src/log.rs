//! What containers print, as lines in a bounded file.
//!
//! The format is the one of the Kubernetes CRI, which log shippers read: time (RFC 3339, UTC), stream, `F` for a full
//! line or `P` for a part of one, text. A file that reaches [`MAX_FILE`] becomes `NAME.log.1`, replacing the one
//! before, so a container's logs never take more than twice that.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The most bytes of one file: 16 MiB.
pub const MAX_FILE: u64 = 16 << 20;

/// The most bytes of a line before it is written in parts: 16 KiB, as the CRI has it.
const MAX_LINE: usize = 16 << 10;

/// One stream of one container.
pub struct Lines {
    stream: &'static str,
    partial: Vec<u8>,
}

impl Lines {
    pub fn new(stream: &'static str) -> Self {
        Self { stream, partial: Vec::new() }
    }

    /// Takes what was read, writes the lines that are complete.
    pub fn push(&mut self, mut data: &[u8], log: &mut LogFile) -> io::Result<()> {
        while !data.is_empty() {
            let room = MAX_LINE - self.partial.len();
            match data.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.partial.extend(&data[..end]);
                    data = &data[end + 1..];
                    self.write('F', log)?;
                }
                None => {
                    let taken = data.len().min(room);
                    self.partial.extend(&data[..taken]);
                    data = &data[taken..];
                    if self.partial.len() == MAX_LINE {
                        self.write('P', log)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The stream has ended: writes what came without a line end.
    pub fn finish(&mut self, log: &mut LogFile) -> io::Result<()> {
        if self.partial.is_empty() { Ok(()) } else { self.write('F', log) }
    }

    fn write(&mut self, tag: char, log: &mut LogFile) -> io::Result<()> {
        let mut line = format!("{} {} {tag} ", rfc3339(now()), self.stream).into_bytes();
        line.append(&mut self.partial);
        line.push(b'\n');
        log.write(&line)
    }
}

/// A file that is renamed when it is full.
pub struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl LogFile {
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length })
    }

    /// Bytes written so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// One write a line, so a reader never sees half of one.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.length + line.len() as u64 > MAX_FILE {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(line)?;
        self.length += line.len() as u64;
        Ok(())
    }
}

pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since the epoch.
pub fn now_millis() -> u64 {
    now().as_millis() as u64
}

/// `2026-11-23T17:05:09.123456789Z` (the civil calendar from days, Howard Hinnant's algorithm).
fn rfc3339(since_epoch: Duration) -> String {
    let (days, rest) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let nanos = since_epoch.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(Duration::new(0, 5)), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(rfc3339(Duration::from_secs(951_827_696)), "2000-02-29T12:34:56.000000000Z");
        assert_eq!(rfc3339(Duration::from_secs(1_795_453_509)), "2026-11-23T17:05:09.000000000Z");
    }
}
