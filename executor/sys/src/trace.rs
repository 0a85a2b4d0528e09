//! A trace of a start: spans recorded by a process and by those it forks, in memory that they share.
//!
//! Each record ends one span and begins the next. [`Trace::none`] records nothing and costs nothing.

use crate::{Context, Result};
use rustix::{
    mm::{MapFlags, ProtFlags},
    time::{ClockId, clock_gettime},
};
use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// What a process does on its way to its program: the name of a span ([`Phase::as_str`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described by `as_str`")]
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

    /// The name of the span, for people.
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

/// The most spans of one trace; those after that are dropped.
const MAX_SPANS: usize = 62;

/// The shared memory. All zeroes, as the kernel gives them, are valid.
#[repr(C)]
#[derive(Debug)]
struct Page {
    /// How many spans were ended.
    used: AtomicUsize,
    /// Phase and end in microseconds.
    ends: [(AtomicUsize, AtomicU64); MAX_SPANS],
}

/// The spans of one start, one after the other.
#[derive(Debug)]
pub struct Trace {
    begin: u64,
    page: Option<NonNull<Page>>,
}

impl Trace {
    /// Records nothing.
    pub fn none() -> Self {
        Self {
            begin: 0,
            page: None,
        }
    }

    /// Begins the first span now.
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

    /// Ends the span of `phase` now, and begins the next.
    pub fn end(&self, phase: Phase) {
        let Some(page) = self.page() else { return };
        let at = page.used.fetch_add(1, Ordering::Relaxed);
        if let Some((name, time)) = page.ends.get(at) {
            name.store(phase as usize, Ordering::Relaxed);
            time.store(now(), Ordering::Release);
        }
    }

    /// The spans that have ended: phase, beginning and end in microseconds of `CLOCK_MONOTONIC`.
    pub fn spans(&self) -> Vec<(&'static str, u64, u64)> {
        let Some(page) = self.page() else {
            return Vec::new();
        };
        let mut begin = self.begin;
        let mut spans = Vec::new();
        for (name, time) in page.ends.iter().take(page.used.load(Ordering::Acquire)) {
            let end = time.load(Ordering::Acquire);
            let phase = Phase::ALL
                .get(name.load(Ordering::Relaxed))
                .map_or("", |phase| phase.as_str());
            spans.push((phase, begin, end));
            begin = end;
        }
        spans
    }
}

impl Drop for Trace {
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
    fn spans_follow_each_other_and_more_than_fit_are_dropped() {
        let trace = Trace::start().expect("maps");
        (0..MAX_SPANS + 9).for_each(|_| trace.end(Phase::Exec));
        let spans = trace.spans();
        assert_eq!(spans.len(), MAX_SPANS);
        assert!(
            spans
                .iter()
                .all(|(name, begin, end)| *name == "exec" && begin <= end)
        );
        assert!(spans.windows(2).all(|pair| pair[0].2 == pair[1].1));
        assert_eq!(Trace::none().spans(), []);
    }
}
