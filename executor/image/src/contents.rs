//! What an image has at a path, as files of the host: what a volume begins with.

use crate::{Error, Images, config::mount_layers, copy, error::Attempt, store::Temporary};
use rustix::{fs::OFlags, io::Errno};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};
use tank_layer::budget::Budget;
use tank_model::Digest;
use tank_sys::mount;

impl Images {
    /// Copies what an image has in the directory `path` into the empty directory `into`, with the
    /// owners and modes that a container of it sees: how many entries there are. None, and nothing
    /// done, where it has no such directory. `path` is looked up as a process of that container
    /// would: no link leads out of the image. Blocks, and mounts.
    ///
    /// # Errors
    /// When the image is not here, or what the budget refuses, or the kernel.
    pub fn copy_out(
        &self,
        digest: Digest,
        path: &str,
        into: BorrowedFd<'_>,
        budget: &Budget,
    ) -> Result<Option<u64>, Error> {
        let what = || format!("copy {path} of the image");
        let scratch = Temporary(self.temporary(digest));
        let root = mount_layers(self.mounts(), &self.find(digest)?, &scratch.0)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let from = match mount::open_in_root(root.as_fd(), path, flags) {
            Ok(from) => from,
            Err(error) if is_no_directory(&error) => return Ok(None),
            Err(error) => return Err(error).attempt(what),
        };
        copy::tree(from.as_fd(), into, budget)
            .map(Some)
            .attempt(what)
    }
}

/// Whether a path leads to no directory: to nothing, to something else, or in a circle.
fn is_no_directory(error: &io::Error) -> bool {
    let none = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG];
    let code = error.raw_os_error();
    none.iter().any(|errno| code == Some(errno.raw_os_error()))
}
