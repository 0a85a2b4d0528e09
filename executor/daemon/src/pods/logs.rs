//! Reading the logs that shims write: the last lines, all that is kept, and what comes.
//!
//! Everything here costs what is read: the beginning of the last lines is looked for from the end,
//! block by block, and from there a log is read a block at a time, so that no more than a block and
//! a line of it is in memory. All of it blocks: who is on the runtime goes through [`blocking`].

use crate::settings::Settings;
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The bytes read at once: 64 KiB.
const BLOCK: usize = 64 << 10;

/// The most bytes of a line: 1 MiB. A shim writes at most 16 KiB; this is for a file that is
/// damaged.
const MAX_LINE: usize = 1 << 20;

/// The most bytes of one file looked through for the last lines: four times what a shim lets a file
/// grow to.
const MAX_SCAN: u64 = 64 << 20;

/// The most bytes of a container's last lines in an error: 64 KiB.
const MAX_EXCERPT: usize = 64 << 10;

/// Where a container's log is.
pub fn path(settings: &Settings, pod: &str, container: &str) -> PathBuf {
    settings.log_dir(pod).join(format!("{container}.log"))
}

/// Does `work` on a thread where it may block. None: it panicked, or the daemon ends.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The last `count` lines that were written since `since`, as printed, and no more of them than
/// [`MAX_EXCERPT`].
pub async fn last_lines(
    settings: &Settings,
    pod: &str,
    container: &str,
    count: u64,
    since: SystemTime,
) -> Vec<String> {
    let path = path(settings, pod, container);
    blocking(move || excerpt(path, count, since))
        .await
        .unwrap_or_default()
}

fn excerpt(path: PathBuf, count: u64, since: SystemTime) -> Vec<String> {
    let mut tail = Tail::open(path, Some(count));
    // As the shim writes it: equally long, so that texts are in the order of times.
    tail.since = Some(humantime::format_rfc3339_nanos(since).to_string());
    let mut lines = VecDeque::new();
    let mut bytes = 0;
    loop {
        let more = tail.read();
        if more.is_empty() {
            return lines.into();
        }
        bytes += more.iter().map(String::len).sum::<usize>();
        lines.extend(more);
        while bytes > MAX_EXCERPT {
            bytes -= lines.pop_front().map_or(bytes, |line: String| line.len());
        }
    }
}

/// A log that is read from some line on.
pub struct Tail {
    path: PathBuf,
    /// Oldest first. The last is the one that is written, unless it was replaced meanwhile.
    files: VecDeque<File>,
    /// The beginning of a line whose end is not read yet.
    rest: Vec<u8>,
    /// Lines of before this time (RFC 3339) are left out.
    since: Option<String>,
}

impl Tail {
    /// Begins at the last `count` lines; none: at the first that is kept.
    pub fn open(path: PathBuf, count: Option<u64>) -> Self {
        let (old, new) = open_both(&path);
        let mut tail = Self {
            path,
            files: VecDeque::new(),
            rest: Vec::new(),
            since: None,
        };
        let mut left = count;
        for mut file in [new, old].into_iter().flatten() {
            if let Some(wanted) = left {
                let Ok((start, found)) = start_of_last(&file, wanted) else {
                    continue;
                };
                if file.seek(SeekFrom::Start(start)).is_err() {
                    continue;
                }
                left = Some(wanted.saturating_sub(found));
            }
            tail.files.push_front(file);
            if left == Some(0) {
                break;
            }
        }
        tail
    }

    /// The next lines, as printed: those that end in the next block. None: this is the end, for
    /// now.
    pub fn read(&mut self) -> Vec<String> {
        while let Some(file) = self.files.front_mut() {
            let begin = self.rest.len();
            self.rest.resize(begin + BLOCK, 0);
            let length = read_some(file, &mut self.rest[begin..]);
            self.rest.truncate(begin + length);
            if length == 0 {
                if self.files.len() == 1 {
                    return Vec::new();
                }
                self.files.pop_front();
                self.rest.clear();
                continue;
            }
            let lines = self.take_lines();
            if !lines.is_empty() {
                return lines;
            }
        }
        Vec::new()
    }

    /// As [`Tail::read`], and goes on with the next file when this one was renamed because it was
    /// full.
    pub fn follow(&mut self) -> Vec<String> {
        // Looked at first: what was written until the renaming is then read below.
        let replaced = self
            .files
            .back()
            .is_none_or(|file| is_replaced(file, &self.path));
        let lines = self.read();
        if !lines.is_empty() || !replaced {
            return lines;
        }
        let Ok(file) = File::open(&self.path) else {
            return lines;
        };
        self.rest.clear();
        self.files = VecDeque::from([file]);
        self.read()
    }

    fn take_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut begin = 0;
        for (end, _) in self
            .rest
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
        {
            let line = &self.rest[begin..end];
            let is_older = |since: &String| line < since.as_bytes();
            if !self.since.as_ref().is_some_and(is_older) {
                lines.push(text_of(line));
            }
            begin = end + 1;
        }
        self.rest.drain(..begin);
        if self.rest.len() > MAX_LINE {
            lines.push(text_of(&std::mem::take(&mut self.rest)));
        }
        lines
    }
}

/// What the container printed, without the time, stream and tag that the file has.
fn text_of(line: &[u8]) -> String {
    let text = line.splitn(4, |byte| *byte == b' ').nth(3).unwrap_or(line);
    String::from_utf8_lossy(text).into_owned()
}

/// What is left of an end is an end: a file that can't be read is one.
fn read_some(file: &mut File, buffer: &mut [u8]) -> usize {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.unwrap_or(0),
        }
    }
}

/// The file that is written and the full one before it.
fn open_both(path: &Path) -> (Option<File>, Option<File>) {
    let renamed = path.with_extension("log.1");
    let mut new = File::open(path).ok();
    let mut old = File::open(&renamed).ok();
    // In between it may have become full and been renamed: then both are the same.
    if let (Some(one), Some(other)) = (&new, &old)
        && identity(one).is_some_and(|this| identity(other) == Some(this))
    {
        new = File::open(path).ok();
        old = File::open(&renamed).ok();
    }
    (old, new)
}

/// Where the last `count` lines of a file begin, and how many of them there are.
fn start_of_last(file: &File, count: u64) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let least = length.saturating_sub(MAX_SCAN);
    let mut block = vec![0; BLOCK];
    let (mut end, mut ends, mut first) = (length, 0, length);
    while end > least {
        let begin = end.saturating_sub(BLOCK as u64).max(least);
        let part = &mut block[..usize::try_from(end - begin).unwrap_or(BLOCK)];
        file.read_exact_at(part, begin)?;
        for (at, _) in part
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            first = begin + at as u64 + 1;
            // The end of the line before the first that is wanted.
            if ends == count {
                return Ok((first, count));
            }
            ends += 1;
        }
        end = begin;
    }
    Ok(if least == 0 {
        (0, ends)
    } else {
        (first, count)
    })
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

fn is_replaced(file: &File, path: &Path) -> bool {
    match (identity(file), std::fs::metadata(path)) {
        (Some(open), Ok(named)) => open != (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, time::UNIX_EPOCH};

    /// A log in a folder of its own.
    struct Log(PathBuf);

    impl Log {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("tankd-logs-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a folder");
            Self(dir.join("app.log"))
        }

        fn write(&self, lines: std::ops::Range<usize>) {
            let mut file = File::options()
                .append(true)
                .create(true)
                .open(&self.0)
                .expect("opens");
            let line = |n| format!("2026-11-25T12:00:00.000000000Z stdout F line {n} of it\n");
            file.write_all(lines.map(line).collect::<String>().as_bytes())
                .expect("writes");
        }

        fn rotate(&self) {
            std::fs::rename(&self.0, self.0.with_extension("log.1")).expect("renames");
        }

        fn read(&self, count: Option<u64>) -> Vec<String> {
            all(&mut Tail::open(self.0.clone(), count))
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.parent().expect("a folder"));
        }
    }

    fn all(tail: &mut Tail) -> Vec<String> {
        std::iter::from_fn(|| Some(tail.read()).filter(|lines| !lines.is_empty()))
            .flatten()
            .collect()
    }

    fn lines(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("line {n} of it")).collect()
    }

    #[test]
    fn the_last_lines_are_found_across_blocks_and_files() {
        let log = Log::new("last");
        assert_eq!(log.read(Some(3)), Vec::<String>::new());
        log.write(0..5_000);
        log.rotate();
        log.write(5_000..8_000);
        assert_eq!(log.read(None), lines(0..8_000));
        for count in [0, 1, 2, 2_999, 3_000, 3_001, 7_999, 8_000, 9_000_usize] {
            assert_eq!(
                log.read(Some(count as u64)),
                lines(8_000_usize.saturating_sub(count)..8_000),
                "{count}"
            );
        }
    }

    #[test]
    fn what_is_printed_may_hold_anything_but_a_line_end() {
        let log = Log::new("any");
        let mut file = File::create(&log.0).expect("makes");
        file.write_all(b"t stdout F \nt stderr P a  b\xff\nt stdout F half")
            .expect("writes");
        assert_eq!(log.read(None), ["", "a  b\u{fffd}"]);
        assert_eq!(log.read(Some(1)), ["a  b\u{fffd}"]);
    }

    #[test]
    fn following_goes_on_in_the_next_file() {
        let log = Log::new("follow");
        let mut tail = Tail::open(log.0.clone(), None);
        assert!(tail.follow().is_empty());
        log.write(0..2);
        assert_eq!(tail.follow(), lines(0..2));
        log.write(2..3);
        log.rotate();
        log.write(3..4);
        assert_eq!(tail.follow(), lines(2..3));
        assert_eq!(tail.follow(), lines(3..4));
        assert!(tail.follow().is_empty());
    }

    #[test]
    fn an_excerpt_has_nothing_of_runs_before() {
        let log = Log::new("since");
        log.write(0..3);
        let mut file = File::options().append(true).open(&log.0).expect("opens");
        file.write_all(b"2026-11-25T12:00:01.000000000Z stderr F of this run\n")
            .expect("writes");
        let noon = UNIX_EPOCH + std::time::Duration::from_secs(1_795_608_000);
        let since = |seconds| noon + std::time::Duration::from_secs(seconds);
        assert_eq!(excerpt(log.0.clone(), 10, since(0)).len(), 4);
        assert_eq!(excerpt(log.0.clone(), 10, since(1)), ["of this run"]);
        assert_eq!(excerpt(log.0.clone(), 10, since(2)), Vec::<String>::new());
    }

    #[test]
    fn an_excerpt_is_bounded() {
        let log = Log::new("excerpt");
        let mut file = File::create(&log.0).expect("makes");
        for n in 0..10 {
            file.write_all(format!("2026 stdout F {n}{}\n", "x".repeat(16 << 10)).as_bytes())
                .expect("writes");
        }
        let excerpt = excerpt(log.0.clone(), 10, UNIX_EPOCH);
        assert_eq!(
            excerpt.iter().map(|line| &line[..1]).collect::<String>(),
            "789"
        );
    }
}
