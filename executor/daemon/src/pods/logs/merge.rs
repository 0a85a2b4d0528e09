//! Several logs at once, in the order of their times, as far as they are read.

use super::{
    Query,
    files::BLOCK,
    line::{Entry, Kind},
    tail::Tail,
};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// The most bytes of text that are given at once, beyond one line: 64 KiB.
const BATCH: usize = 64 << 10;

/// What the blocks of all logs of one reader are at most: 4 MiB.
const BLOCKS: usize = 4 << 20;

/// What a line costs in a reply beside its text: 128 bytes. An empty one is not for nothing.
const LINE_COST: usize = 128;

/// The longest that is read without a line before who waits is asked whether it still does.
const MAX_TIME: Duration = Duration::from_millis(100);

/// Logs that are read together.
#[derive(Default)]
pub struct Merge {
    logs: Vec<Log>,
    /// Those with lines that wait, by the time of the first.
    waiting: BinaryHeap<Reverse<(String, usize)>>,
    /// Those that may have more, and no line that waits.
    unread: Vec<usize>,
    follow: bool,
}

struct Log {
    tail: Tail,
    lines: VecDeque<Entry>,
    at_end: bool,
}

/// Lines, each with the number of its log.
pub type Lines = Vec<(usize, Entry)>;

impl Merge {
    /// With `follow`, logs go on in the file that takes the place of a full one.
    pub fn new(follow: bool) -> Self {
        Self {
            follow,
            ..Self::default()
        }
    }

    /// Adds a log to those that are read; `of` is how many there will be.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn add(&mut self, path: PathBuf, query: Arc<Query>, of: usize) -> io::Result<()> {
        let tail = Tail::open(path, query, (BLOCKS / of.max(1)).min(BLOCK))?;
        self.unread.push(self.logs.len());
        self.logs.push(Log {
            tail,
            lines: VecDeque::new(),
            at_end: false,
        });
        Ok(())
    }

    /// There may be more of a log that was at its end.
    pub fn wake(&mut self, number: usize) {
        if let Some(log) = self.logs.get_mut(number)
            && std::mem::take(&mut log.at_end)
        {
            self.unread.push(number);
        }
    }

    /// The next lines, and whether all logs are at their ends, for now. There may be none before that.
    pub fn next(&mut self) -> (Lines, bool) {
        let mut given = Vec::new();
        let (mut bytes, begin) = (0, Instant::now());
        loop {
            while let Some(number) = self.unread.pop() {
                if !self.fill(number) && begin.elapsed() > MAX_TIME {
                    return (given, false);
                }
            }
            let Some(Reverse((_, number))) = self.waiting.pop() else {
                return (given, true);
            };
            let Some(log) = self.logs.get_mut(number) else {
                continue;
            };
            while let Some(entry) = log.lines.pop_front() {
                let is_part = entry.kind == Kind::Part;
                bytes += entry.text.len() + LINE_COST;
                given.push((number, entry));
                // What goes on is not parted by another's line.
                if !is_part {
                    break;
                }
            }
            self.place(number);
            if bytes > BATCH || begin.elapsed() > MAX_TIME {
                return (given, false);
            }
        }
    }

    /// Reads more of a log. False: it has to be read again.
    fn fill(&mut self, number: usize) -> bool {
        let Some(log) = self.logs.get_mut(number) else {
            return true;
        };
        let (entries, at_end) = match self.follow {
            true => log.tail.follow(),
            false => log.tail.read(),
        };
        log.lines.extend(entries);
        log.at_end = at_end;
        self.place(number)
    }

    /// Puts a log where it belongs. False: it has to be read.
    fn place(&mut self, number: usize) -> bool {
        let Some(log) = self.logs.get(number) else {
            return true;
        };
        match log.lines.front() {
            Some(first) => self.waiting.push(Reverse((first.time.clone(), number))),
            None if log.at_end => {}
            None => {
                self.unread.push(number);
                return false;
            }
        }
        true
    }
}
