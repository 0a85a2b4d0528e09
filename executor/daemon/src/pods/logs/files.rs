//! The files of a log, and where in one of them the wanted lines begin.

use super::line::Line;
use memchr::{memchr, memchr_iter, memrchr_iter};
use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};
use tank_proto::log::{MAX_FILES, MAX_RUNS, RUN_LENGTH, renamed, runs_of};

/// The bytes read at once: 64 KiB, several lines as shims write them.
pub const BLOCK: usize = 64 << 10;

/// The bytes of a line that its time, its stream and the first of its tags are in.
const HEAD: u64 = 48;

/// Which file it is, whatever it is called.
pub fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Whether another file has the name that this one had.
pub fn is_replaced(file: &File, path: &Path) -> bool {
    match (identity(file), std::fs::metadata(path)) {
        (Some(open), Ok(named)) => open != (named.dev(), named.ino()),
        _ => false,
    }
}

/// All files of a log, the newest first, each once. They are renamed meanwhile from newer to older
/// names, so one may be met again and none is missed.
///
/// # Errors
/// When one that is there can't be opened.
pub fn open_all(path: &Path) -> io::Result<Vec<File>> {
    let mut files: Vec<File> = Vec::new();
    for number in 0..MAX_FILES {
        match File::open(renamed(path, number)) {
            Ok(file) => {
                let known = |other: &File| identity(other) == identity(&file);
                if !files.iter().any(known) {
                    files.push(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Where the last `count` lines before `end` begin, and how many of them there are. What was printed in
/// one line and written in parts is one line.
///
/// # Errors
/// When it can't be read.
pub fn start_of_last(file: &File, end: u64, count: u64) -> io::Result<(u64, u64)> {
    let mut block = vec![0; BLOCK];
    // The end of the line whose beginning is looked for, and how many lines are behind it.
    let (mut line_end, mut found) = (None, 0);
    let mut upto = end;
    while upto > 0 {
        let begin = upto.saturating_sub(BLOCK as u64);
        let length = usize::try_from(upto - begin).unwrap_or(BLOCK);
        let part = block.get_mut(..length).unwrap_or_default();
        file.read_exact_at(part, begin)?;
        for at in memrchr_iter(b'\n', part) {
            let start = begin + at as u64 + 1;
            let Some(line_end) = line_end.replace(start) else {
                continue;
            };
            let head = at + 1..at + 1 + head_length(start, line_end);
            let is_part = match part.get(head) {
                Some(head) => Line::begins_part(head),
                None => is_part(file, start, line_end)?,
            };
            if !is_part {
                if found == count {
                    return Ok((line_end, found));
                }
                found += 1;
            }
        }
        upto = begin;
    }
    match line_end {
        Some(line_end) if found == count && !is_part(file, 0, line_end)? => Ok((line_end, found)),
        Some(line_end) => Ok((0, found + u64::from(!is_part(file, 0, line_end)?))),
        None => Ok((0, 0)),
    }
}

/// Whether the line at `start` is a part that another one follows.
fn is_part(file: &File, start: u64, end: u64) -> io::Result<bool> {
    let mut head = vec![0; head_length(start, end)];
    file.read_exact_at(&mut head, start)?;
    Ok(Line::begins_part(&head))
}

fn head_length(start: u64, end: u64) -> usize {
    usize::try_from(end.saturating_sub(start).min(HEAD)).unwrap_or(0)
}

/// Where the first line begins that is of this time or later. Lines are in the order of their times, unless the
/// clock was set back.
///
/// # Errors
/// When it can't be read.
pub fn start_of_time(file: &File, end: u64, time: &str) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let (mut low, mut high) = (0, end);
    // Both are where lines begin; the one that is looked for is between them.
    while high - low > BLOCK as u64 {
        let middle = low + (high - low) / 2;
        let length = usize::try_from(high - middle).unwrap_or(BLOCK).min(BLOCK);
        let part = block.get_mut(..length).unwrap_or_default();
        file.read_exact_at(part, middle)?;
        let Some((start, line)) = first_line(part) else {
            break;
        };
        let start = middle + start as u64;
        if is_before(line, time) {
            low = start;
        } else {
            high = start;
        }
    }
    // Two blocks at most, unless there is a line that no shim wrote.
    while low < high {
        let length = usize::try_from(high - low).unwrap_or(BLOCK).min(BLOCK);
        let part = block.get_mut(..length).unwrap_or_default();
        file.read_exact_at(part, low)?;
        let mut begin = 0;
        for line_end in memchr_iter(b'\n', part) {
            let line = part.get(begin..line_end).unwrap_or_default();
            if !is_before(line, time) {
                return Ok(low + begin as u64);
            }
            begin = line_end + 1;
        }
        match begin {
            // The end of what is whole.
            0 if low + length as u64 >= high => return Ok(low),
            0 => low += length as u64,
            _ => low += begin as u64,
        }
    }
    Ok(high)
}

/// The first line that begins in a block, as far as it is in it, and where.
fn first_line(block: &[u8]) -> Option<(usize, &[u8])> {
    let start = memchr(b'\n', block)? + 1;
    let line = block.get(start..).filter(|line| line.len() >= 30)?;
    let end = memchr(b'\n', line).unwrap_or(line.len());
    Some((start, line.get(..end)?))
}

/// A line without a time is as old as the one before it.
fn is_before(line: &[u8], time: &str) -> bool {
    let own = line.split(|byte| *byte == b' ').next();
    own.is_none_or(|own| own < time.as_bytes())
}

/// From when to when the run before the last was.
pub fn previous_run(path: &Path) -> Option<(String, String)> {
    let mut text = String::new();
    let most = (MAX_RUNS * RUN_LENGTH) as u64;
    let file = File::open(runs_of(path)).ok()?;
    file.take(most).read_to_string(&mut text).ok()?;
    let mut starts: Vec<&str> = text
        .lines()
        .filter(|line| line.len() == RUN_LENGTH - 1)
        .collect();
    starts.sort_unstable();
    match starts.as_slice() {
        [.., previous, last] => Some(((*previous).to_owned(), (*last).to_owned())),
        _ => None,
    }
}
