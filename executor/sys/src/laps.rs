//! Where the time of a start goes: moments noted by a process and by those it forks, in memory that
//! they share.
//!
//! Each note says what has just ended. [`Laps::none`] notes nothing and costs nothing.

use crate::{Context, Result};
use rustix::{
    mm::{MapFlags, ProtFlags},
    time::{ClockId, clock_gettime},
};
use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// What a process does on its way to its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Prepare,
    Fork,
    Cgroups,
    Namespaces,
    Ids,
    Sysctls,
    Clone,
    Root,
    Devices,
    Volumes,
    Files,
    KernelFilesystems,
    Streams,
    Privileges,
    Filter,
    Exec,
    Listen,
}

impl Phase {
    const ALL: [Self; 17] = [
        Self::Prepare,
        Self::Fork,
        Self::Cgroups,
        Self::Namespaces,
        Self::Ids,
        Self::Sysctls,
        Self::Clone,
        Self::Root,
        Self::Devices,
        Self::Volumes,
        Self::Files,
        Self::KernelFilesystems,
        Self::Streams,
        Self::Privileges,
        Self::Filter,
        Self::Exec,
        Self::Listen,
    ];

    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Fork => "fork",
            Self::Cgroups => "join the cgroups",
            Self::Namespaces => "enter or make the namespaces",
            Self::Ids => "map the ids",
            Self::Sysctls => "set the sysctls",
            Self::Clone => "clone3",
            Self::Root => "mount the root and pivot",
            Self::Devices => "mount /dev",
            Self::Volumes => "mount the volumes",
            Self::Files => "mount the files",
            Self::KernelFilesystems => "mount, mask /proc and /sys",
            Self::Streams => "terminal or streams",
            Self::Privileges => "give up privileges",
            Self::Filter => "filter system calls",
            Self::Exec => "exec",
            Self::Listen => "listen",
        }
    }
}

/// How many notes there is room for.
const ROOM: usize = 62;

#[repr(C)]
#[derive(Debug)]
struct Page {
    used: AtomicUsize,
    /// Phase and microseconds; all zeroes, as the kernel gives them, are valid.
    notes: [(AtomicUsize, AtomicU64); ROOM],
}

/// The notes of one start.
#[derive(Debug)]
pub struct Laps {
    begin: u64,
    page: Option<NonNull<Page>>,
}

impl Laps {
    /// Notes nothing.
    pub fn none() -> Self {
        Self {
            begin: 0,
            page: None,
        }
    }

    /// Begins now.
    ///
    /// # Errors
    /// What `mmap(2)` gives.
    pub fn start() -> Result<Self> {
        let flags = MapFlags::SHARED;
        // SAFETY: a new mapping, at an address of the kernel's choice, nobody else knows of.
        let page = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                size_of::<Page>(),
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        };
        let page = page.doing(|| "share memory for timings")?;
        Ok(Self {
            begin: now(),
            page: NonNull::new(page.cast()),
        })
    }

    fn page(&self) -> Option<&Page> {
        // SAFETY: the mapping is of the type's size, is page-aligned, zeroed (valid for atomics),
        // and lives until `drop`. Forked processes change it through the same atomics only.
        self.page.map(|page| unsafe { page.as_ref() })
    }

    /// Notes that `phase` has just ended.
    pub fn note(&self, phase: Phase) {
        let Some(page) = self.page() else { return };
        let at = page.used.fetch_add(1, Ordering::Relaxed);
        if let Some((name, time)) = page.notes.get(at) {
            name.store(phase as usize, Ordering::Relaxed);
            time.store(now(), Ordering::Release);
        }
    }

    /// What was noted: phase, beginning and end in microseconds of `CLOCK_MONOTONIC`.
    pub fn read(&self) -> Vec<(&'static str, u64, u64)> {
        let Some(page) = self.page() else {
            return Vec::new();
        };
        let mut begin = self.begin;
        let mut read = Vec::new();
        for (name, time) in page.notes.iter().take(page.used.load(Ordering::Acquire)) {
            let end = time.load(Ordering::Acquire);
            let phase = Phase::ALL
                .get(name.load(Ordering::Relaxed))
                .map_or("", |phase| phase.as_str());
            read.push((phase, begin, end));
            begin = end;
        }
        read
    }
}

impl Drop for Laps {
    fn drop(&mut self) {
        if let Some(page) = self.page {
            // SAFETY: mapped by `start` with this size, and nothing borrows it any more.
            let _ = unsafe { rustix::mm::munmap(page.as_ptr().cast(), size_of::<Page>()) };
        }
    }
}

/// Microseconds of `CLOCK_MONOTONIC`: the same in every process of a host.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_known_by_their_place() {
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
        }
    }

    #[test]
    fn notes_follow_each_other_and_more_than_fit_are_dropped() {
        let laps = Laps::start().expect("maps");
        (0..ROOM + 9).for_each(|_| laps.note(Phase::Exec));
        let read = laps.read();
        assert_eq!(read.len(), ROOM);
        assert!(
            read.iter()
                .all(|(name, begin, end)| *name == "exec" && begin <= end)
        );
        assert!(read.windows(2).all(|pair| pair[0].2 == pair[1].1));
        assert_eq!(Laps::none().read(), []);
    }
}
