//! Files between a container and whoever calls `tank cp`, as a tar stream.
//!
//! The same two functions serve both ends. In the container they run in a process that can do no more than the container's own
//! root can (`exec` of `tank-shim`); outside, in the caller's command, with the caller's own rights. So
//! no path of the container is ever resolved by anybody who may do more than the container, and what the container has the
//! stream say is taken by nobody who may do more than the caller.
//!
//! What is trusted: nothing. A container exchanges files for links, pipes and devices while they are sent; a stream says
//! whatever it likes. Both sides open each directory beneath the one it is in, by its name and through no link; nothing is made
//! but files, directories and symbolic links, which are not followed; set-user-id and set-group-id bits are left out. A file is
//! written beside its place and moved there when it is whole.
//!
//! * [`send()`]: a file or a folder becomes a stream.
//! * [`receive()`]: a stream becomes files.
//! * [`Error`]: what went wrong, by the path it went wrong at.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod names;
mod place;
mod receive;
mod send;
mod temporary;

pub use error::{Error, Problem};
pub use receive::{Layout, Target, receive};
pub use send::{Source, send};

/// The most entries of a stream.
pub const MAX_ENTRIES: u64 = 1_000_000;

/// The most bytes of all its files, holes counted in: 1 TiB.
pub const MAX_BYTES: u64 = 1 << 40;

/// The deepest folder: each one that is open costs two descriptors.
pub const MAX_LEVELS: usize = 200;

/// The most bytes of a path beneath what is copied.
pub const MAX_PATH: usize = 4_000;

/// Bytes that are read and written at once.
const PIECE: usize = 128 << 10;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Files, directories and symbolic links.
    pub entries: u64,
    /// Bytes of files, holes counted in.
    pub bytes: u64,
    /// Devices, pipes, sockets, and what is below a file system of the kernel's own.
    pub left_out: u64,
}

impl Tally {
    /// Counts one entry of so many bytes.
    fn count(&mut self, bytes: u64) -> Result<(), Problem> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > MAX_ENTRIES {
            return Err(Problem::TooMany);
        }
        if self.bytes > MAX_BYTES {
            return Err(Problem::TooLarge);
        }
        Ok(())
    }
}
