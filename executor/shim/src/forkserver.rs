//! Shims are forked, not executed: one process, which `tankd` starts once, makes each of them.
//!
//! A fork of a small single-threaded process takes a sixth of what executing a program and linking
//! it does, the pages that are never written are shared by all shims, and each is cloned into its
//! cgroup (`CLONE_INTO_CGROUP`): to move a process there takes a lock for which the kernel waits an
//! RCU grace period, 15 ms when nothing else was moved lately.
//!
//! A shim is made as a child of `tankd` (`CLONE_PARENT`), so this process waits for nobody, and as
//! the first process of a pid namespace, which takes everything in the pod along when it ends. This
//! process ends when `tankd` does, at the end of its standard input; the shims do not.

use crate::{
    failure::{Attempt, Reason},
    pod::{Pod, trace},
};
use rustix::fs::{Mode, OFlags};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tank_proto::shim::{FromShim, MAX_SPEC, Reply, Setup};
use tank_sys::{
    packet,
    process::{self, flags},
    trace::{Phase, Trace},
};

/// Forks a shim for each packet on standard input, until its end. With a packet come four
/// descriptors: the [`Setup`] as a sealed file, the shim's standard error, the socket on which it
/// sends [`Reply::Ready`] (or why it is not) and then takes requests, and the directory of its
/// cgroup.
///
/// # Errors
/// When standard input is no such socket.
pub fn serve() -> io::Result<()> {
    let requests = std::io::stdin();
    while let Some((_, fds)) = packet::receive(requests.as_fd())? {
        let Ok([setup, stderr, control, cgroup]) = <[OwnedFd; 4]>::try_from(fds) else {
            continue;
        };
        if let Err(reason) = fork(setup, &stderr, &control, &cgroup) {
            refuse(&control, reason);
        }
    }
    Ok(())
}

fn fork(
    setup: OwnedFd,
    stderr: &OwnedFd,
    control: &OwnedFd,
    cgroup: &OwnedFd,
) -> Result<(), Reason> {
    let bytes = packet::read_sealed(setup, MAX_SPEC).map_err(Reason::ReadSetup)?;
    let setup: Setup = serde_json::from_slice(&bytes).map_err(Reason::ParseSetup)?;
    let trace = trace(setup.timed);
    let body = || {
        trace.end(Phase::Fork);
        match run_shim(setup, stderr, control, &trace) {
            Ok(()) => 0,
            Err(reason) => {
                eprintln!("{}", tank_sys::with_causes(&reason));
                refuse(control, reason);
                1
            }
        }
    };
    process::spawn(flags::PARENT | flags::NEWPID, Some(cgroup.as_fd()), body)?;
    Ok(())
}

/// Sends why there is no shim.
fn refuse(control: &OwnedFd, reason: Reason) {
    let failure = Attempt::StartShim.failed(reason).into();
    let text = serde_json::to_vec(&FromShim::Reply(Reply::Failed(failure))).unwrap_or_default();
    // tankd sees the end of the socket, if nothing else.
    let _ = packet::send(control.as_fd(), &text, &[]);
}

/// A shim's whole life. Of what it was made with it keeps the socket: the directory of its cgroup
/// is a way to the host's.
fn run_shim(
    setup: Setup,
    stderr: &OwnedFd,
    control: &OwnedFd,
    trace: &Trace,
) -> Result<(), Reason> {
    let streams = || -> io::Result<()> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        Ok(rustix::stdio::dup2_stderr(stderr)?)
    };
    streams().map_err(Reason::TakeStreams)?;
    let _ = rustix::thread::set_name(c"tank-shim");
    let own = control.try_clone().map_err(Reason::KeepSocket)?;
    process::close_descriptors_but(&[control.as_fd(), own.as_fd()])?;
    Ok(Pod::set_up(setup, own, trace).and_then(Pod::serve)?)
}
