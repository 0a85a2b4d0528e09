//! Shims are forked, not executed: one process that `tankd` starts once is asked for each of them.
//!
//! A fork of a small single-threaded process takes a sixth of what executing a program and linking it does, the pages
//! that are never written are shared by all shims, and each is *born* in its cgroup (`CLONE_INTO_CGROUP`): to move a
//! process there takes a lock for which the kernel waits an RCU grace period, 15 ms when nothing else was moved lately.
//!
//! A shim is made as a child of `tankd` (`CLONE_PARENT`), so this process waits for nobody. It ends when `tankd` does,
//! at the end of its standard input; the shims do not.

use crate::{describe, pod::Pod};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};
use tank_proto::shim::{MAX_SPEC, Setup};
use tank_sys::{
    laps::{Laps, Phase},
    packet,
    process::{self, flags},
};

/// Forks a shim for each packet on standard input, until its end. With a packet come four descriptors: the [`Setup`] as
/// a sealed file, the shim's standard error, the pipe on which it says `ready` or why it is not, and the directory of
/// its cgroup.
///
/// # Errors
/// When standard input is no such socket.
pub fn serve() -> io::Result<()> {
    let asked = std::io::stdin();
    while let Some((_, fds)) = packet::receive(asked.as_fd())? {
        let Ok([setup, stderr, report, cgroup]) = <[OwnedFd; 4]>::try_from(fds) else { continue };
        let mut report = File::from(report);
        if let Err(error) = fork(setup, stderr, &mut report, cgroup) {
            // tankd reads until the pipe is closed, here and in the shim.
            let _ = report.write_all(error.as_bytes());
        }
    }
    Ok(())
}

fn fork(setup: OwnedFd, stderr: OwnedFd, report: &mut File, cgroup: OwnedFd) -> Result<(), String> {
    let read = |e: &dyn std::fmt::Display| format!("read the set-up: {e}");
    let bytes = packet::read_sealed(setup, MAX_SPEC).map_err(|e| read(&e))?;
    let setup: Setup = serde_json::from_slice(&bytes).map_err(|e| read(&e))?;
    // Not to know where the time goes is no reason not to start.
    let laps = if setup.timed { Laps::start().unwrap_or_else(|_| Laps::none()) } else { Laps::none() };
    let body = || {
        laps.note(Phase::Fork);
        match live(setup, &stderr, report, &laps) {
            Ok(()) => 0,
            Err(error) => {
                let _ = report.write_all(error.as_bytes());
                eprintln!("{error}");
                1
            }
        }
    };
    process::spawn(flags::PARENT, Some(cgroup.as_fd()), body).map(drop).map_err(|e| describe(&e))
}

/// A shim's whole life.
fn live(setup: Setup, stderr: &OwnedFd, report: &mut File, laps: &Laps) -> Result<(), String> {
    let streams = || -> io::Result<()> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(rustix::stdio::dup2_stderr(stderr)?)
    };
    streams().map_err(|e| format!("take its streams: {e}"))?;
    let _ = rustix::thread::set_name(c"tank-shim");
    let timed = setup.timed;
    let pod = Pod::set_up(setup, laps).map_err(|e| describe(&e))?;
    let spans = if timed { serde_json::to_string(&crate::pod::spans(laps)).unwrap_or_default() } else { String::new() };
    report.write_all(format!("ready {spans}").as_bytes()).map_err(|e| format!("say that it is ready: {e}"))?;
    // Nobody reads it from here on, and tankd's end has to see the end.
    let null = File::options().write(true).open("/dev/null").map_err(|e| format!("open /dev/null: {e}"))?;
    *report = null;
    pod.serve().map_err(|e| describe(&e))
}
