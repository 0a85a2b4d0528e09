//! The files of one container's log: bounded in size and in number, and whole lines in each.
//!
//! `app.log` is the one that is written. When a write would take it beyond its size it becomes
//! `app.log.1`, that one `app.log.2` and so on, and the last is removed. `app.runs` has the time of each
//! start, one a line: what was printed from one to the next is a run's.
//!
//! **Two shims** may write one log for a while: a pod that takes another's place beside it has the same
//! name. Each appends whole batches (`O_APPEND`), asks for the file's length before each, and goes on in
//! the new file when the other one has replaced it.
//!
//! **Half a line.** A write that fails in its middle is taken back. A shim that is killed in its middle
//! leaves half a line at the end: whoever opens the file next takes it back, unless another shim has the
//! file open (a shared flock(2)), whose write that is.

use rustix::fs::FlockOperation;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};
use tank_proto::{
    log::{MAX_FILES, MAX_RUNS, RUN_LENGTH, renamed, runs_of},
    shim::LogBounds,
};

/// The most bytes looked through for the end of the last whole line: more than a line has.
const MAX_TORN: u64 = 64 << 10;

/// A log that is made, with its folder, when there is something to write.
pub struct LogFile {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    open: Option<File>,
}

impl LogFile {
    pub fn new(path: PathBuf, bounds: &LogBounds) -> Self {
        Self {
            path,
            max_size: bounds.max_size,
            max_files: bounds.max_files.clamp(1, MAX_FILES),
            open: None,
        }
    }

    /// The file that is written.
    fn file(&mut self) -> io::Result<&File> {
        if self.open.is_none() {
            self.open = Some(self.open_file()?);
        }
        self.open
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open_file(&self) -> io::Result<File> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        // Of a run with more files than this one may have.
        for number in self.max_files..MAX_FILES {
            let _ = fs::remove_file(renamed(&self.path, number));
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            take_back_half_a_line(&file)?;
        }
        // From exclusive to shared. Who holds it otherwise, for whatever reason, is not waited for.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
        Ok(file)
    }

    /// Appends lines, each with its end. Files are as full as whole lines make them.
    ///
    /// # Errors
    /// When they can't be written; and how many bytes of them were.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), (io::Error, usize)> {
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            let appended = self.append_some(rest);
            written += appended.map_err(|error| (error, written))?;
        }
        Ok(())
    }

    /// Appends as many lines as fit, one at least; how many bytes they were.
    fn append_some(&mut self, lines: &[u8]) -> io::Result<usize> {
        let max_size = self.max_size;
        let file = self.file()?;
        let length = file.metadata()?.len();
        let room = usize::try_from(max_size.saturating_sub(length)).unwrap_or(usize::MAX);
        let fitting = match lines.get(..room) {
            Some(fitting) => memchr::memrchr(b'\n', fitting).map_or(0, |end| end + 1),
            None => lines.len(),
        };
        let fitting = match fitting {
            0 if length > 0 => {
                self.rotate()?;
                return Ok(0);
            }
            // A line that is longer than a file may be: it is the only one in its file.
            0 => memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1),
            some => some,
        };
        let (now, _) = lines.split_at(fitting);
        write_whole(file, now, length)?;
        Ok(fitting)
    }

    /// The next lines go into a new file.
    fn rotate(&mut self) -> io::Result<()> {
        let open = self.open.take();
        let is_own = |file: &File| {
            let (own, named) = (file.metadata().ok()?, fs::metadata(&self.path).ok()?);
            Some((own.dev(), own.ino()) == (named.dev(), named.ino()))
        };
        // Another shim has done it already.
        if open.as_ref().and_then(is_own) != Some(true) {
            return Ok(());
        }
        // Removed first: a file that takes another's name is written to the disk by some file systems
        // there and then, and that one is to be gone soon.
        let last = self.max_files - 1;
        let _ = fs::remove_file(renamed(&self.path, last));
        for number in (0..last).rev() {
            match fs::rename(renamed(&self.path, number), renamed(&self.path, number + 1)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Notes that a run began.
    pub fn note_run(&self, at: SystemTime) -> io::Result<()> {
        let path = runs_of(&self.path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let line = format!("{}\n", humantime::format_rfc3339_nanos(at));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)?;
        let length = file.metadata()?.len();
        if length < (MAX_RUNS * RUN_LENGTH) as u64 {
            return file.write_all(line.as_bytes());
        }
        // The last half of them is kept.
        let mut kept = vec![0; MAX_RUNS / 2 * RUN_LENGTH];
        let begin = length - kept.len() as u64;
        file.read_exact_at(&mut kept, begin)?;
        kept.extend(line.as_bytes());
        replace(&path, &kept)
    }
}

/// Puts another file in the place of one, at once.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("runs.new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// Writes all of it behind the first `length` bytes of the file, or nothing.
fn write_whole(mut file: &File, lines: &[u8], length: u64) -> io::Result<()> {
    let mut written = 0;
    while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
        let failed = match file.write(rest) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(count) => {
                written += count;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        // What another shim has written behind it stays.
        let end = length + written as u64;
        if written > 0 && file.metadata().is_ok_and(|now| now.len() == end) {
            file.set_len(length)?;
        }
        return Err(failed);
    }
    Ok(())
}

/// Cuts off what is behind the last line end.
fn take_back_half_a_line(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(MAX_TORN);
    let mut end = vec![0; usize::try_from(length - begin).unwrap_or(0)];
    file.read_exact_at(&mut end, begin)?;
    match memchr::memrchr(b'\n', &end) {
        Some(at) if at + 1 == end.len() => Ok(()),
        Some(at) => file.set_len(begin + at as u64 + 1),
        None if end.is_empty() => Ok(()),
        None => file.set_len(begin),
    }
}
