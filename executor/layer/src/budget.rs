//! What fetching one image may take of this host: bytes, entries, time, and of the disk only what
//! is not kept for the store. One [`Budget`] goes through all of it, also into the threads that
//! unpack, and ends it when whoever asked for the image has left.

use crate::error::Cause;
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
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

/// What is left of a budget, or was taken of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Share {
    /// Bytes of files, holes counted in.
    pub bytes: u64,
    /// Entries of layers.
    pub entries: u64,
    /// Milliseconds.
    pub time: u64,
}

/// A share of what this host has. Clones draw on the same one.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: PathBuf,
    /// A file on that disk, for whoever does not see its path.
    place: Option<OwnedFd>,
    bytes: AtomicU64,
    entries: AtomicU64,
    deadline: Instant,
    cancelled: AtomicBool,
}

/// An image would take more of this host than it may, or its pull was cancelled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// Its layers have more than a million entries.
    #[error("it has more than {MAX_ENTRIES} entries")]
    Entries,
    /// Its files have more than 64 GiB, holes counted in.
    #[error("its files have more than {MAX_BYTES} bytes")]
    Bytes,
    /// Whoever asked for it has left.
    #[error("nobody waits for it any more")]
    Cancelled,
    /// It has taken longer than two hours.
    #[error("it takes longer than {} s", MAX_TIME.as_secs())]
    Late,
    /// What is free on the disk is kept for the store.
    #[error("No space left on device for images at {}: {free} are free and {spare} kept for the store", disk.display())]
    NoSpace {
        /// The store's folder.
        disk: PathBuf,
        /// What is free, with its unit.
        free: String,
        /// What is kept for the store.
        spare: String,
    },
    /// The disk does not say what is free (statvfs(3)).
    #[error(transparent)]
    Disk(#[from] Cause),
}

impl Refusal {
    /// Whether the disk has no space left that is not kept for the store.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Disk(cause) => cause.is_no_space(),
            _ => false,
        }
    }
}

/// For readers and writers, whose errors these are: the type stays inside.
impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Disk(Cause {
                errno: Some(errno), ..
            }) => Self::from_raw_os_error(errno),
            Refusal::NoSpace { .. } => Self::new(io::ErrorKind::StorageFull, refusal),
            _ => Self::other(refusal),
        }
    }
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
        let whole = Share {
            bytes: MAX_BYTES,
            entries: MAX_ENTRIES,
            time: MAX_TIME.as_millis() as u64,
        };
        Self::of(whole, disk, None)
    }

    /// A share of another one; `place` is a file on the disk of that name.
    pub fn of(share: Share, disk: &Path, place: Option<OwnedFd>) -> Self {
        let time = Duration::from_millis(share.time).min(MAX_TIME);
        Self(Arc::new(Inner {
            disk: disk.to_owned(),
            place,
            bytes: AtomicU64::new(share.bytes),
            entries: AtomicU64::new(share.entries),
            deadline: Instant::now() + time,
            cancelled: AtomicBool::new(false),
        }))
    }

    /// What is left of it.
    pub fn left(&self) -> Share {
        let time = self.0.deadline.saturating_duration_since(Instant::now());
        Share {
            bytes: self.0.bytes.load(Ordering::Relaxed),
            entries: self.0.entries.load(Ordering::Relaxed),
            time: time.as_millis() as u64,
        }
    }

    /// Takes what somebody took of a share.
    ///
    /// # Errors
    /// When there is not so much left.
    pub fn take(&self, taken: Share) -> Result<(), Refusal> {
        self.bytes(taken.bytes)?;
        take(&self.0.entries, taken.entries).ok_or(Refusal::Entries)
    }

    /// Ends what draws on it once this is dropped.
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// Takes one entry.
    ///
    /// # Errors
    /// When there is none left, or nobody waits any more.
    pub fn entry(&self) -> Result<(), Refusal> {
        take(&self.0.entries, 1).ok_or(Refusal::Entries)?;
        self.go_on()
    }

    /// Takes the bytes of a file.
    ///
    /// # Errors
    /// When there are not so many left.
    pub fn bytes(&self, count: u64) -> Result<(), Refusal> {
        take(&self.0.bytes, count).ok_or(Refusal::Bytes)
    }

    /// Refuses when nobody waits for the image any more, or has for too long.
    ///
    /// # Errors
    /// That.
    pub fn go_on(&self) -> Result<(), Refusal> {
        if self.0.cancelled.load(Ordering::Relaxed) {
            return Err(Refusal::Cancelled);
        }
        if Instant::now() > self.0.deadline {
            return Err(Refusal::Late);
        }
        Ok(())
    }

    /// How many bytes of a disk stay free of images.
    pub fn spare(total: u64) -> u64 {
        spare_bytes(total)
    }

    /// Refuses when what is free on the disk is kept for the store, which has to be able to commit.
    ///
    /// # Errors
    /// That, and as [`Budget::go_on`].
    pub fn space(&self) -> Result<(), Refusal> {
        self.go_on()?;
        let disk = &self.0.disk;
        let found = match &self.0.place {
            Some(place) => rustix::fs::fstatvfs(place.as_fd()),
            None => rustix::fs::statvfs(disk),
        };
        let found = found.map_err(|error| Cause::from(io::Error::from(error)))?;
        let (total, free) = (
            found.f_blocks * found.f_frsize,
            found.f_bavail * found.f_frsize,
        );
        let spare = spare_bytes(total);
        if free < spare {
            return Err(Refusal::NoSpace {
                disk: disk.clone(),
                free: format!("{} MiB", free >> 20),
                spare: format!("{} MiB", spare >> 20),
            });
        }
        // A file system without a table of inodes says that it has none.
        let spare = (found.f_files / SPARE_SHARE).min(SPARE_INODES);
        if found.f_files > 0 && found.f_favail < spare {
            return Err(Refusal::NoSpace {
                disk: disk.clone(),
                free: format!("{} inodes", found.f_favail),
                spare: spare.to_string(),
            });
        }
        Ok(())
    }
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
    fn a_full_disk_is_one_for_the_kernel_too_and_its_text_is_its_own() {
        let full = Refusal::NoSpace {
            disk: "/state/images".into(),
            free: "15 MiB".into(),
            spare: "16 MiB".into(),
        };
        let error = io::Error::from(full);
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let expected = "No space left on device for images at /state/images: 15 MiB are free and 16 MiB kept for the store";
        assert_eq!(error.to_string(), expected);
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
        let guard = budget.cancel_on_drop();
        clone.go_on().expect("goes on");
        drop(guard);
        assert_eq!(
            clone.go_on().expect_err("ends").to_string(),
            "nobody waits for it any more"
        );
    }
}
