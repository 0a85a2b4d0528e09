//! What name servers print on their standard error, and whether the end of one was asked for.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A file that is longer than this begins anew with the next server (64 KiB).
const MAX_KEPT: u64 = 64 << 10;

/// The most bytes of one server's output that are read (4 KiB), the last ones.
const MAX_READ: u64 = 4 << 10;

/// The most characters of a line that an event quotes.
const MAX_LINE: usize = 300;

/// The file that name servers write to, one after the other.
#[derive(Clone, Debug)]
pub struct Log(PathBuf);

impl Log {
    pub const NAME: &str = "names.err";

    pub fn of(run_dir: &Path) -> Self {
        Self(run_dir.join(Self::NAME))
    }

    /// Opens it for another server; what that prints begins at the offset returned.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn open(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().append(true).create(true).open(&self.0)?;
        if file.metadata()?.len() > MAX_KEPT {
            file.set_len(0)?;
        }
        let begin = file.metadata()?.len();
        Ok((file, begin))
    }

    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.0.metadata().map_or(0, |found| found.len())
    }

    /// What was written from there on, of much the end.
    pub fn since(&self, begin: u64) -> String {
        let read = || {
            let mut file = File::open(&self.0)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(begin.max(end.saturating_sub(MAX_READ))))?;
            let mut bytes = Vec::new();
            file.take(MAX_READ).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        let bytes = read().unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// The end of a server, in words.
    pub fn ended(&self, begin: u64) -> String {
        let text = self.since(begin);
        match text.lines().next_back() {
            Some(line) => {
                let line: String = line.trim().chars().take(MAX_LINE).collect();
                format!("the name server has ended by itself: {line}")
            }
            None => {
                "the name server has ended by itself, or was killed: it printed nothing".to_owned()
            }
        }
    }
}

/// Whether the end of a server that is watched is nobody's surprise.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<AtomicBool>);

impl Watch {
    /// From now on its end was asked for, or is reported otherwise.
    pub fn expect(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// From now on it is one.
    pub fn begin(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub fn is_expected(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn each_server_has_its_own_words() {
        let dir = std::env::temp_dir().join(format!("tank-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let log = Log::of(&dir);
        assert_eq!(log.since(0), "");
        let (mut first, begin) = log.open().expect("opens");
        assert_eq!(begin, 0);
        writeln!(first, "one\ntwo").expect("writes");
        assert!(log.ended(begin).ends_with(": two"));
        let (mut second, begin) = log.open().expect("opens");
        assert!(log.ended(begin).ends_with("printed nothing"));
        writeln!(second, "{}", "x".repeat(100_000)).expect("writes");
        assert_eq!(log.since(begin).len() as u64, MAX_READ - 1);
        assert!(log.ended(begin).len() < 400);
        // A long one begins anew.
        assert_eq!(log.open().expect("opens").1, 0);
        std::fs::remove_dir_all(dir).expect("removes");
    }
}
