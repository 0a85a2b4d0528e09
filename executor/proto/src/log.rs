//! Where the log of a container is: what shims write and `tankd` reads.

use std::path::{Path, PathBuf};

/// The most bytes of one file unless its container declares another size: 16 MiB.
pub const DEFAULT_SIZE: u64 = 16 << 20;

/// How many files there are unless its container declares another number.
pub const DEFAULT_FILES: u32 = 2;

/// The most bytes that are written in a second unless its container declares other ones: 64 MiB.
pub const DEFAULT_RATE: u64 = 64 << 20;

/// The most files of a log.
pub const MAX_FILES: u32 = 16;

/// The most starts that are noted, and the bytes of each: a time and a line end.
pub const MAX_RUNS: usize = 64;
/// See [`MAX_RUNS`].
pub const RUN_LENGTH: usize = "2026-01-01T00:00:00.000000000Z\n".len();

/// A file of a log by its age: 0 is the one that is written, `app.log`; then come `app.log.1` and so on.
pub fn renamed(log: &Path, number: u32) -> PathBuf {
    match number {
        0 => log.to_owned(),
        number => log.with_extension(format!("log.{number}")),
    }
}

/// The times of the starts, oldest first: `app.runs`.
pub fn runs_of(log: &Path) -> PathBuf {
    log.with_extension("runs")
}
