//! What fetching one image may take of this host: bytes, entries, time, and of the disk only what
//! is not kept for the store. One [`Budget`] goes through all of it, also into the threads that
//! unpack, and ends it when whoever asked for the image has left.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The most bytes of an image's files, holes counted in: 64 GiB.
pub const MAX_BYTES: u64 = 64 << 30;

/// The most entries of an image's layers.
pub const MAX_ENTRIES: u64 = 1_000_000;

/// The longest time that one image may take.
pub const MAX_TIME: Duration = Duration::from_secs(2 * 3600);

/// What stays free on the disk: 2 %, at least 64 MiB, and never more than an eighth.
const SPARE_SHARE: u64 = 50;
const SPARE_LEAST: u64 = 64 << 20;
const SPARE_MOST_SHARE: u64 = 8;

/// What stays free of inodes: 2 %, never more than this.
const SPARE_INODES: u64 = 4_096;

/// A share of what this host has. Clones draw on the same one.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: PathBuf,
    bytes: AtomicU64,
    entries: AtomicU64,
    deadline: Instant,
    cancelled: AtomicBool,
}

/// Ends what draws on a budget when it is dropped.
#[must_use]
pub struct CancelOnDrop(Budget);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Budget {
    /// For an image whose parts come to lie on the file system of `disk`.
    pub fn new(disk: &Path) -> Self {
        Self(Arc::new(Inner {
            disk: disk.to_owned(),
            bytes: AtomicU64::new(MAX_BYTES),
            entries: AtomicU64::new(MAX_ENTRIES),
            deadline: Instant::now() + MAX_TIME,
            cancelled: AtomicBool::new(false),
        }))
    }

    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// Takes one entry.
    pub fn entry(&self) -> io::Result<()> {
        take(&self.0.entries, 1)
            .ok_or_else(|| refuse(format!("it has more than {MAX_ENTRIES} entries")))?;
        self.go_on()
    }

    /// Takes the bytes of a file.
    pub fn bytes(&self, count: u64) -> io::Result<()> {
        take(&self.0.bytes, count)
            .ok_or_else(|| refuse(format!("its files have more than {MAX_BYTES} bytes")))
    }

    /// Refuses when nobody waits for the image any more, or has for too long.
    pub fn go_on(&self) -> io::Result<()> {
        if self.0.cancelled.load(Ordering::Relaxed) {
            return Err(refuse("nobody waits for it any more".to_owned()));
        }
        if Instant::now() > self.0.deadline {
            return Err(refuse(format!(
                "it takes longer than {} s",
                MAX_TIME.as_secs()
            )));
        }
        Ok(())
    }

    /// Refuses when what is free on the disk is kept for the store, which has to be able to commit.
    pub fn space(&self) -> io::Result<()> {
        self.go_on()?;
        let found = rustix::fs::statvfs(&self.0.disk)?;
        let (total, free) = (
            found.f_blocks * found.f_frsize,
            found.f_bavail * found.f_frsize,
        );
        let spare = spare_bytes(total);
        if free < spare {
            let (free, spare) = (free >> 20, spare >> 20);
            return Err(no_space(
                &self.0.disk,
                format!("{free} MiB are free and {spare} MiB kept for the store"),
            ));
        }
        // A file system without a table of inodes says that it has none.
        let spare = (found.f_files / SPARE_SHARE).min(SPARE_INODES);
        if found.f_files > 0 && found.f_favail < spare {
            let free = found.f_favail;
            return Err(no_space(
                &self.0.disk,
                format!("{free} inodes are free and {spare} kept for the store"),
            ));
        }
        Ok(())
    }
}

fn refuse(why: String) -> io::Error {
    io::Error::other(why)
}

fn no_space(disk: &Path, why: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::StorageFull,
        format!(
            "No space left on device for images at {}: {why}",
            disk.display()
        ),
    )
}

/// Takes `count` of what is left, or nothing.
fn take(left: &AtomicU64, count: u64) -> Option<()> {
    let less = |left: u64| left.checked_sub(count);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .ok()
        .map(drop)
}

/// How many bytes of a disk stay free.
fn spare_bytes(total: u64) -> u64 {
    (total / SPARE_SHARE)
        .max(SPARE_LEAST)
        .min(total / SPARE_MOST_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spare_grows_with_the_disk_and_leaves_a_small_one_usable() {
        assert_eq!(spare_bytes(40 << 20), 5 << 20);
        assert_eq!(spare_bytes(1 << 30), 64 << 20);
        assert_eq!(spare_bytes(100 << 30), 2 << 30);
    }

    #[test]
    fn what_is_too_much_takes_nothing() {
        let budget = Budget::new(Path::new("/"));
        assert!(budget.bytes(MAX_BYTES + 1).is_err());
        budget.bytes(MAX_BYTES).expect("all of it");
        assert!(budget.bytes(1).is_err());
    }

    #[test]
    fn clones_end_with_the_one_who_asked() {
        let budget = Budget::new(Path::new("/"));
        let clone = budget.clone();
        let asked = budget.cancel_on_drop();
        clone.go_on().expect("goes on");
        drop(asked);
        assert_eq!(
            clone.go_on().expect_err("ends").to_string(),
            "nobody waits for it any more"
        );
    }
}
