//! The end of a pipe that somebody else reads, for as long as they do.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io::{self, Write},
    os::fd::OwnedFd,
};

/// How long it is waited for the reader, in seconds.
const READ_LIMIT: i64 = 60;

/// A pipe that is written to. Blocking, and for a minute at most where nobody reads.
pub struct Outlet(OwnedFd);

impl Outlet {
    /// # Errors
    /// What the kernel gives.
    pub fn new(pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self(pipe))
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE) => {
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it"));
                }
                other => return Ok(other?),
            }
            let limit = Timespec {
                tv_sec: READ_LIMIT,
                tv_nsec: 0,
            };
            let mut ready = [PollFd::new(&self.0, PollFlags::OUT)];
            match poll(&mut ready, Some(&limit)) {
                Ok(0) => {
                    let why = "nobody has read it for a minute";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
