//! The clock that decisions are made by, and the one that rates are.

use rustix::time::{ClockId, clock_gettime};

/// Seconds since the epoch of a second of a day (from 0) in this host's zone, as `mktime(3)` has it. None: there is no
/// such time.
pub fn local_seconds(year: i32, month: u32, day: u32, second: u64) -> Option<i64> {
    let field = |value: u64| libc::c_int::try_from(value).ok();
    // SAFETY: `tm` is a C structure of numbers and, in some C libraries, a pointer that may be null: all zeros
    // are a value of it.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    time.tm_year = year.checked_sub(1900)?;
    time.tm_mon = field(u64::from(month.checked_sub(1)?))?;
    time.tm_mday = field(u64::from(day))?;
    time.tm_hour = field(second / 3_600)?;
    time.tm_min = field(second / 60 % 60)?;
    time.tm_sec = field(second % 60)?;
    // Whether it is summer time is found out.
    time.tm_isdst = -1;
    // SAFETY: `time` is borrowed for the call alone. The zone is read from `TZ` and a file; nothing changes the
    // environment of a process of Tank's while it runs.
    let seconds = unsafe { libc::mktime(&raw mut time) };
    // -1 is a time as well: the last second of 1969, which no log has.
    (seconds != -1).then_some(seconds)
}

/// A second since the epoch as this host's zone has it (localtime_r(3)): year, month and day from 1, hour, minute, second. None: there is
/// no such time.
pub fn local_time(seconds: i64) -> Option<[i32; 6]> {
    // SAFETY: as in `local_seconds`.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both are borrowed for the call alone. The zone is read as by `mktime`, which sets it for this call.
    let found = unsafe { libc::localtime_r(&raw const seconds, &raw mut time) };
    let (year, month) = (time.tm_year.checked_add(1900)?, time.tm_mon + 1);
    let all = [
        year,
        month,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
    ];
    (!found.is_null()).then_some(all)
}

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
