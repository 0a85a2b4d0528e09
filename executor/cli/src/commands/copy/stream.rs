//! A pipe that is read or written until somebody says stop.

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

pub struct Stoppable {
    pipe: OwnedFd,
    /// It hangs up when it is time to stop.
    stopped: OwnedFd,
}

impl Stoppable {
    pub fn new(pipe: OwnedFd, stopped: &OwnedFd) -> io::Result<Self> {
        // A write of more than fits waits for the reader, and for nobody else.
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let stopped = stopped.try_clone()?;
        Ok(Self { pipe, stopped })
    }

    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(&self.pipe, flags),
                PollFd::new(&self.stopped, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let [pipe, stopped] = &fds;
            if !stopped.revents().is_empty() {
                return Err(io::Error::other("it was interrupted"));
            }
            if !pipe.revents().is_empty() {
                return Ok(());
            }
        }
    }

    fn once<T>(
        &self,
        flags: PollFlags,
        mut attempt: impl FnMut() -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        loop {
            self.wait(flags)?;
            match attempt() {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }
}

impl Read for Stoppable {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.once(PollFlags::IN, || rustix::io::read(&self.pipe, &mut *bytes))
    }
}

impl Write for Stoppable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.once(PollFlags::OUT, || rustix::io::write(&self.pipe, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
