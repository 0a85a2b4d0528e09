//! Reading the logs that shims write: the last lines, and what comes.

use crate::host::Host;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// The most bytes looked through for the last lines.
const TAIL_WINDOW: u64 = 8 << 20;

/// How often a followed file is looked at.
const FOLLOW: Duration = Duration::from_millis(100);

pub fn path(host: &Host, pod: &str, container: &str) -> PathBuf {
    host.settings.log_dir(pod).join(format!("{container}.log"))
}

/// What the container printed, without the time, stream and tag that the file has.
pub fn text_of(line: &str) -> &str {
    line.splitn(4, ' ').nth(3).unwrap_or(line)
}

/// The last `count` lines, as printed.
pub fn last_lines(host: &Host, pod: &str, container: &str, count: usize) -> Vec<String> {
    let tail = Tail::open(path(host, pod, container), Some(count as u64));
    tail.lines.iter().map(|line| text_of(line).to_owned()).collect()
}

/// A log that is read from its last lines on.
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
    /// Lines that have been read and not yet taken.
    pub lines: Vec<String>,
}

impl Tail {
    /// Reads the last `count` lines (none: all that is kept), and is then at the end.
    pub fn open(path: PathBuf, count: Option<u64>) -> Self {
        let mut tail = Self { file: None, path: path.clone(), rest: Vec::new(), lines: Vec::new() };
        if let Ok(mut old) = File::open(path.with_extension("log.1")) {
            tail.read(&mut old, count.is_some());
            tail.rest.clear();
        }
        if let Ok(mut file) = File::open(&path) {
            tail.read(&mut file, count.is_some());
            tail.file = Some(file);
        }
        if let Some(count) = count {
            let surplus = tail.lines.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
            tail.lines.drain(..surplus);
        }
        tail
    }

    fn read(&mut self, file: &mut File, window: bool) {
        let length = file.metadata().map_or(0, |meta| meta.len());
        if window && length > TAIL_WINDOW && file.seek(SeekFrom::End(-(TAIL_WINDOW as i64))).is_ok() {
            // The first line of a window is half of one.
            let mut discard = Vec::new();
            self.fill(file);
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                discard.extend(self.rest.drain(..=end));
            }
        } else {
            self.fill(file);
        }
        self.split();
    }

    fn fill(&mut self, file: &mut File) {
        let _ = file.read_to_end(&mut self.rest);
    }

    fn split(&mut self) {
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
    }

    /// Waits for more lines, also across a file that was renamed because it was full.
    pub async fn follow(&mut self) {
        loop {
            if let Some(mut file) = self.file.take() {
                self.fill(&mut file);
                self.split();
                if self.lines.is_empty() && is_replaced(&file, &self.path) {
                    self.file = File::open(&self.path).ok();
                    continue;
                }
                self.file = Some(file);
            } else {
                self.file = File::open(&self.path).ok();
            }
            if !self.lines.is_empty() {
                return;
            }
            tokio::time::sleep(FOLLOW).await;
        }
    }
}

fn is_replaced(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
        _ => false,
    }
}
