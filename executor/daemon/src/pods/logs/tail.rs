//! One log that is read from some line on, across its files.

use super::{
    Query,
    files::{BLOCK, identity, is_replaced, open_all, start_of_last, start_of_time},
    line::{Entry, Kind, Line},
};
use memchr::memchr_iter;
use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

/// The most bytes of a line in a file: 64 KiB. A shim writes at most 16 KiB and what stands before them; this is
/// for a file that is damaged.
const MAX_LINE: usize = 64 << 10;

/// The most bytes of a line that is put together of parts: what is longer is given in parts.
const MAX_JOINED: usize = 64 << 10;

/// The most bytes read at once where none of it is of the time that is wanted: 1 MiB.
const MAX_SEARCHED: usize = 1 << 20;

/// What is said where files were replaced before they were read.
const MISSED: &str = "tank: lines may be missing here: the log was written faster than it was read";

/// A log that is read from some line on.
pub struct Tail {
    path: PathBuf,
    query: Arc<Query>,
    block: usize,
    /// Oldest first, each with how far it is read. The last is the one that is written, unless it was
    /// replaced meanwhile.
    files: VecDeque<(Arc<File>, u64)>,
    /// The beginning of a line whose end is not read yet.
    rest: Vec<u8>,
    /// Parts of a line of standard output, and of standard error.
    parts: [Vec<u8>; 2],
    /// Counts what is wanted, of which the last are: nothing is given until that is known.
    counting: Option<Box<Tail>>,
    /// How many of what is wanted are left out.
    skip: u64,
    /// All that comes is too late.
    over: bool,
}

impl Tail {
    /// Begins at the first line that is wanted.
    ///
    /// # Errors
    /// When a file of it can't be read.
    pub fn open(path: PathBuf, query: Arc<Query>, block: usize) -> io::Result<Self> {
        let mut tail = Self {
            files: first_lines(open_all(&path)?, &query)?,
            path,
            block: block.clamp(1 << 10, BLOCK),
            rest: Vec::new(),
            parts: Default::default(),
            counting: None,
            skip: 0,
            over: false,
            query,
        };
        if tail.query.tail.is_some() && tail.query.grep.is_some() {
            tail.counting = Some(Box::new(Self {
                path: tail.path.clone(),
                query: Arc::clone(&tail.query),
                files: tail.files.clone(),
                rest: Vec::new(),
                parts: Default::default(),
                counting: None,
                ..tail
            }));
        }
        Ok(tail)
    }

    /// The next lines, those that end in the next block; and whether this is the end, for now. There may be
    /// none before that, where none is wanted of many.
    pub fn read(&mut self) -> (Vec<Entry>, bool) {
        if let Some(counting) = &mut self.counting {
            let (counted, at_end) = counting.read();
            self.skip += counted.len() as u64;
            if at_end {
                self.skip = self.skip.saturating_sub(self.query.tail.unwrap_or(0));
                self.counting = None;
            }
            return (Vec::new(), false);
        }
        // What is searched for a pattern takes its time: who waits may have left after each block.
        let most = self.query.grep.as_ref().map_or(MAX_SEARCHED, |_| 0);
        let mut searched = 0;
        while let Some((file, offset)) = self.files.front_mut() {
            if self.over || searched > most {
                return (Vec::new(), self.over);
            }
            let begin = self.rest.len();
            self.rest.resize(begin + self.block, 0);
            let length = read_some(
                file,
                self.rest.get_mut(begin..).unwrap_or_default(),
                *offset,
            );
            *offset += length as u64;
            self.rest.truncate(begin + length);
            searched += length;
            if length == 0 {
                if self.files.len() == 1 {
                    break;
                }
                self.files.pop_front();
                self.rest.clear();
                continue;
            }
            let entries = self.take_lines();
            if !entries.is_empty() {
                return (entries, false);
            }
        }
        (Vec::new(), true)
    }

    /// As [`Tail::read`], and goes on with the next file when this one was renamed because it was full.
    pub fn follow(&mut self) -> (Vec<Entry>, bool) {
        // Looked at first: what was written until the renaming is then read below.
        let last = self.files.back();
        let replaced = last.is_none_or(|(file, _)| is_replaced(file, &self.path));
        let (entries, at_end) = self.read();
        if !at_end || !replaced || self.over {
            return (entries, at_end);
        }
        let Ok(named) = open_all(&self.path) else {
            return (entries, at_end);
        };
        let own = self.files.back().and_then(|(file, _)| identity(file));
        let place = named.iter().position(|file| identity(file) == own);
        let newer = named.into_iter().take(place.unwrap_or(usize::MAX));
        let files: VecDeque<(Arc<File>, u64)> = newer.map(|file| (Arc::new(file), 0)).collect();
        if files.is_empty() {
            return (entries, at_end);
        }
        // Where only one file is kept, the one before is gone whenever there is another.
        let missed = own.is_some() && place.is_none() && files.len() > 1;
        self.files = files.into_iter().rev().collect();
        self.rest.clear();
        match missed {
            true => (vec![self.missed()], false),
            false => self.read(),
        }
    }

    fn missed(&self) -> Entry {
        Entry {
            time: humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string(),
            stderr: true,
            kind: Kind::Notice,
            text: MISSED.to_owned(),
        }
    }

    fn take_lines(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut begin = 0;
        let bytes = std::mem::take(&mut self.rest);
        for end in memchr_iter(b'\n', &bytes) {
            let line = bytes.get(begin..end).unwrap_or_default();
            begin = end + 1;
            if let Some(line) = Line::parse(line) {
                entries.extend(self.take(&line));
            }
            if self.over {
                return entries;
            }
        }
        self.rest = bytes;
        self.rest.drain(..begin);
        if self.rest.len() > MAX_LINE {
            self.rest.clear();
        }
        entries
    }

    /// A line that is wanted.
    fn take(&mut self, line: &Line<'_>) -> Option<Entry> {
        let query = &self.query;
        if query
            .until
            .as_ref()
            .is_some_and(|until| line.time >= until.as_bytes())
        {
            self.over = true;
            return None;
        }
        if query
            .since
            .as_ref()
            .is_some_and(|since| line.time < since.as_bytes())
        {
            return None;
        }
        let parts = &mut self.parts[usize::from(line.stderr)];
        let kind = match line.kind {
            Kind::Part if parts.len() + line.text.len() <= MAX_JOINED => {
                parts.extend(line.text);
                return None;
            }
            other => other,
        };
        let joined = match kind {
            Kind::Notice => Vec::new(),
            _ => std::mem::take(parts),
        };
        let whole;
        let text = match joined.is_empty() {
            true => line.text,
            false => {
                whole = [&joined, line.text].concat();
                &whole
            }
        };
        if query.grep.as_ref().is_some_and(|grep| !grep.is_match(text)) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some(Entry {
            time: String::from_utf8_lossy(line.time).into_owned(),
            stderr: line.stderr,
            kind,
            text: String::from_utf8_lossy(text).into_owned(),
        })
    }
}

/// The files with wanted lines, oldest first, and where those begin. The newest is always among them.
fn first_lines(newest_first: Vec<File>, query: &Query) -> io::Result<VecDeque<(Arc<File>, u64)>> {
    let mut wanted = VecDeque::new();
    // With a pattern, which the last ones are is found by reading.
    let mut left = query.tail.filter(|_| query.grep.is_none());
    for file in newest_first {
        let length = file.metadata()?.len();
        let of_time = |time: &Option<String>, none: u64| {
            let time = time.as_deref();
            time.map_or(Ok(none), |time| start_of_time(&file, length, time))
        };
        let mut start = of_time(&query.since, 0)?;
        if let Some(count) = left {
            let end = of_time(&query.until, length)?;
            let (begin, found) = start_of_last(&file, end, count)?;
            start = start.max(begin);
            left = Some(count.saturating_sub(found));
        }
        // This one and those before it have nothing that is wanted.
        if start >= length && !wanted.is_empty() {
            break;
        }
        let is_within = start > 0;
        wanted.push_front((Arc::new(file), start));
        if left == Some(0) || is_within && query.since.is_some() {
            break;
        }
    }
    Ok(wanted)
}

/// What is left of an end is an end: a file that can't be read is one.
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.unwrap_or(0),
        }
    }
}
