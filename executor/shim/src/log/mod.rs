//! What containers print, as lines in bounded files.
//!
//! The format is the one of the Kubernetes CRI, which log shippers read: time (RFC 3339, UTC), stream,
//! tags, text. The first tag is `F` for a full line or `P` for a part of one. A notice of Tank's own has
//! a second tag (`F:notice`), which a container cannot write: what it prints comes behind the tags.
//!
//! What one read gives becomes one write: its lines have the same time, and nothing is allocated for a
//! line. A write may end anywhere, so a reader takes a line when its end is there ([`mod@file`]).
//!
//! * [`mod@file`]: the files, their bounds, and the starts of runs beside them.
//! * [`rate`]: how much of it is written in a second.
//! * [`journal`]: the same lines to systemd-journald, where that is asked for.

pub mod file;
pub mod journal;
pub mod rate;

use file::LogFile;
use journal::{Journal, Kind};
use memchr::{memchr, memchr_iter};
use rate::{Dropped, LastWords, Window};
use std::{
    io,
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tank_proto::shim::LogBounds;

/// The most bytes of a line before it is written in parts: 16 KiB, as the CRI has it.
const MAX_LINE: usize = 16 << 10;

/// Lines are written when they are this many bytes, or when what was read is at its end: 256 KiB.
const BATCH: usize = 256 << 10;

/// Standard output and standard error, as lines have them.
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// One time, by the host's clock and by the one that nobody sets.
#[derive(Clone, Copy)]
pub struct Now {
    time: SystemTime,
    instant: Instant,
}

impl Now {
    pub fn read() -> Self {
        Self {
            time: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}

/// The log of one container.
pub struct Log {
    file: LogFile,
    window: Window,
    /// What its limit was from the start.
    rate: u64,
    /// What was printed beyond the rate, and is not noted in the log yet.
    over: Dropped,
    /// The last of it, of each stream.
    last: [LastWords; 2],
    /// What could not be written, and is not noted either.
    unwritten: Dropped,
    why: Option<io::Error>,
    batch: Vec<u8>,
    journal: Option<Journal>,
}

impl Log {
    /// The log at `path`, which is made with its folder when there is something to write.
    pub fn new(path: PathBuf, bounds: &LogBounds, journal: Option<Journal>) -> Self {
        Self {
            file: LogFile::new(path, bounds),
            window: Window::new(bounds.rate, Instant::now()),
            rate: bounds.rate.unwrap_or(0),
            over: Dropped::default(),
            last: Default::default(),
            unwritten: Dropped::default(),
            why: None,
            batch: Vec::new(),
            journal,
        }
    }

    /// Notes beside the log that a run began. One that can't be noted is none that can't run.
    pub fn begin_run(&self, at: SystemTime) {
        let _ = self.file.note_run(at);
    }

    /// What is printed from now on is written whatever the rate is: what an ended process has left in
    /// its pipes, which is bounded by them.
    pub fn lift_rate(&mut self) {
        self.window = Window::new(None, Instant::now());
    }

    /// Until when something waits to be noted that was dropped.
    pub fn notice_due(&self) -> Option<Instant> {
        (!self.over.is_none()).then(|| self.window.end())
    }

    /// Notes what was dropped, if its second is over.
    pub fn note_dropped(&mut self, now: Now) {
        self.window.roll(now.instant);
        if !self.window.is_full() {
            self.note_over(now.time);
            self.flush(now.time);
        }
    }

    /// Notes what was dropped, and writes the last lines of it after all: they may be what somebody looks for.
    fn note_over(&mut self, now: SystemTime) {
        let last = self.last.each_mut().map(LastWords::take);
        for lines in &last {
            self.over
                .remove(memchr_iter(b'\n', lines).count(), lines.len());
        }
        if let Some(dropped) = self.over.take() {
            let text = format!(
                "{dropped}: more than {} bytes a second (logs.rate)",
                self.rate
            );
            self.notice(now, &text);
        }
        for (lines, stream) in last.iter().zip(STREAMS) {
            let head = head(now, stream, "F");
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                self.batch.extend(&head);
                self.batch.extend(line);
                if let Some(journal) = &mut self.journal {
                    journal.send(
                        stream,
                        &[line.strip_suffix(b"\n").unwrap_or(line)],
                        Kind::Line,
                        now,
                    );
                }
            }
        }
    }

    fn notice(&mut self, now: SystemTime, text: &str) {
        self.batch.extend(head(now, "stderr", "F:notice"));
        self.batch.extend(b"tank: ");
        self.batch.extend(text.as_bytes());
        self.batch.push(b'\n');
        if let Some(journal) = &mut self.journal {
            journal.send("stderr", &[b"tank: ", text.as_bytes()], Kind::Notice, now);
        }
    }

    /// Writes what is collected. What can't be written is counted, and noted when something can be.
    fn flush(&mut self, now: SystemTime) {
        if self.batch.is_empty() {
            return;
        }
        if let Some(lost) = self.unwritten.clone().some() {
            let why = self.why.take().map(|error| error.to_string());
            let why = why.unwrap_or_default();
            let lines = std::mem::take(&mut self.batch);
            self.notice(now, &format!("{lost}: the log could not be written: {why}"));
            let notice = std::mem::replace(&mut self.batch, lines);
            match self.file.append(&notice) {
                Ok(()) => self.unwritten = Dropped::default(),
                Err((error, _)) => self.why = Some(error),
            }
        }
        if let Err((error, written)) = self.file.append(&self.batch) {
            let rest = self.batch.get(written..).unwrap_or_default();
            let lines = memchr_iter(b'\n', rest).count() as u64;
            self.unwritten.add(lines, rest.len() as u64, now);
            self.why = Some(error);
        }
        self.batch.clear();
        // One container printed much for a time: that is no reason to keep the memory.
        self.batch.shrink_to(BATCH);
    }

    /// Notes what journald did not take, at most once in each second.
    fn note_unsent(&mut self, now: SystemTime, at_once: bool) {
        let unsent = self.journal.as_mut();
        if let Some(lost) = unsent.and_then(|journal| journal.unsent(Instant::now(), at_once)) {
            self.notice(now, &format!("{lost}: journald did not take them"));
        }
    }
}

/// One stream of one container.
pub struct Lines {
    stream: &'static str,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// The line began with parts that are in the log already.
    in_parts: bool,
    /// The rest of the line is dropped, since its beginning was.
    skipping: bool,
}

impl Lines {
    pub fn new(stream: &'static str) -> Self {
        Self {
            stream,
            partial: Vec::new(),
            in_parts: false,
            skipping: false,
        }
    }

    /// Takes what was read, writes the lines that are complete.
    pub fn push(&mut self, data: &[u8], log: &mut Log) {
        self.push_at(Now::read(), data, log);
    }

    fn push_at(&mut self, now: Now, data: &[u8], log: &mut Log) {
        log.window.roll(now.instant);
        let now = now.time;
        if !log.window.is_full() {
            log.note_over(now);
        }
        log.note_unsent(now, false);
        let (full, part) = (head(now, self.stream, "F"), head(now, self.stream, "P"));
        let mut rest = data;
        while !rest.is_empty() {
            if self.skipping || log.window.is_full() {
                rest = self.drop_some(rest, log, now);
                continue;
            }
            let room = MAX_LINE - self.partial.len();
            let within = rest.get(..room.min(rest.len())).unwrap_or(rest);
            match memchr(b'\n', within) {
                Some(end) => {
                    let (text, behind) = rest.split_at(end);
                    self.write(&full, text, log, now);
                    self.in_parts = false;
                    rest = behind.get(1..).unwrap_or_default();
                }
                None if within.len() == room => {
                    self.write(&part, within, log, now);
                    self.in_parts = true;
                    rest = rest.get(room..).unwrap_or_default();
                }
                None => {
                    self.partial.extend(within);
                    rest = &[];
                }
            }
            if log.batch.len() >= BATCH {
                log.flush(now);
            }
        }
        log.flush(now);
    }

    /// Adds one line, or part of one, to what is written next.
    fn write(&mut self, head: &[u8], text: &[u8], log: &mut Log, now: SystemTime) {
        let before = log.batch.len();
        log.batch.extend_from_slice(head);
        log.batch.extend_from_slice(&self.partial);
        log.batch.extend_from_slice(text);
        log.batch.push(b'\n');
        log.window.spend(log.batch.len() - before);
        if let Some(journal) = &mut log.journal {
            let kind = match head.ends_with(b" P ") {
                true => Kind::Part,
                false => Kind::Line,
            };
            journal.send(self.stream, &[&self.partial, text], kind, now);
        }
        self.partial.clear();
    }

    /// Drops the rest of a line whose beginning was dropped, or all that is there while the second's
    /// bytes are used up. Gives what is left.
    fn drop_some<'a>(&mut self, data: &'a [u8], log: &mut Log, now: SystemTime) -> &'a [u8] {
        let began = self.partial.len() as u64;
        let last = &mut log.last[usize::from(self.stream == "stderr")];
        last.keep(&self.partial, self.skipping || self.in_parts);
        let is_within = self.skipping || self.in_parts || began > 0;
        if self.in_parts {
            // A reader takes a line in parts to its end: it ends here.
            let head = head(now, self.stream, "F");
            log.batch.extend(head);
            log.batch.push(b'\n');
        }
        self.in_parts = false;
        self.partial.clear();
        if log.window.is_full() {
            last.keep(data, is_within);
            let lines = memchr_iter(b'\n', data).count() as u64;
            log.over.add(lines, began + data.len() as u64, now);
            self.skipping = data.last() != Some(&b'\n');
            return &[];
        }
        match memchr(b'\n', data) {
            Some(end) => {
                let (rest, behind) = data.split_at(end + 1);
                last.keep(rest, is_within);
                log.over.add(1, began + rest.len() as u64, now);
                self.skipping = false;
                behind
            }
            None => {
                log.over.add(0, began + data.len() as u64, now);
                &[]
            }
        }
    }

    /// The stream has ended: writes what came without a line end, and what is not noted yet.
    pub fn finish(&mut self, log: &mut Log) {
        let now = SystemTime::now();
        if self.skipping || log.window.is_full() && !self.partial.is_empty() {
            self.drop_some(b"\n", log, now);
        } else if !self.partial.is_empty() || self.in_parts {
            self.write(&head(now, self.stream, "F"), b"", log, now);
        }
        (self.in_parts, self.skipping) = (false, false);
        log.note_over(now);
        log.note_unsent(now, true);
        log.flush(now);
    }
}

/// What a line begins with.
fn head(time: SystemTime, stream: &str, tag: &str) -> Vec<u8> {
    let time = humantime::format_rfc3339_nanos(time);
    format!("{time} {stream} {tag} ").into_bytes()
}

/// Milliseconds since the epoch.
pub fn now_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}

#[cfg(test)]
mod tests;
