//! The end of a pipe that somebody else reads, for as long as they do.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io::{self, Write},
    os::fd::OwnedFd,
    time::Instant,
};
use tank_image::Pace;

/// A pipe that is written to. Blocking, and as long as somebody keeps reading ([`Pace`]).
pub struct Outlet(OwnedFd, Pace);

impl Outlet {
    /// # Errors
    /// What the kernel gives.
    pub fn new(pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self(pipe, Pace::default()))
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let begin = Instant::now();
        loop {
            match rustix::io::write(&self.0, bytes) {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE) => {
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it"));
                }
                other => {
                    let written = other?;
                    self.1.add(written as u64, begin.elapsed());
                    return Ok(written);
                }
            }
            let left = self.1.left().saturating_sub(begin.elapsed());
            let limit = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut ready = [PollFd::new(&self.0, PollFlags::OUT)];
            match poll(&mut ready, Some(&limit)) {
                Ok(0) => return Err(Pace::late()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
