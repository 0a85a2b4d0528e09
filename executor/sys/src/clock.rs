//! The clock that decisions are made by.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_BOOTTIME`: since the host started, its sleep included, and whatever its
/// clock is set to (clock_gettime(2)). The same in every process of a host.
pub fn boot_millis() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}
