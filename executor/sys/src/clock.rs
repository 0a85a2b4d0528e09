//! The clock that decisions are made by, and the one that rates are.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_BOOTTIME`: since the host started, its sleep included, and whatever its
/// clock is set to (clock_gettime(2)). The same in every process of a host.
pub fn boot_millis() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}

/// Microseconds of `CLOCK_MONOTONIC`: for how long something took.
pub fn monotonic_micros() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}
