//! A container that runs or has run: its process, its output, its log.

use crate::{
    failure::{Attempt, Error, Reason},
    log::{Lines, Log},
    relay::Relay,
    start::Groups,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tank_proto::{
    shim::{ContainerState, ExitStatus, Setup, StartSpec},
    terminal::FromClient,
};
use tank_sys::{
    packet,
    process::{self, Exit, Process},
    seccomp,
};

/// A container that runs or has run.
pub struct Run {
    pub spec: StartSpec,
    pub process: Process,
    pub cgroup: Groups,
    /// The mount of the files Tank wrote for it.
    pub files: Option<OwnedFd>,
    pub output: Output,
    pub log: Log,
    /// Of one that somebody runs by hand, while it runs: at its end it is killed.
    pub control: Option<OwnedFd>,
    pub started: u64,
    pub exited: Option<(ExitStatus, u64)>,
    /// The same of `CLOCK_BOOTTIME`.
    pub started_boot: u64,
    pub exited_boot: Option<u64>,
}

/// What a pipe holds that a container prints into as fast as it can: 512 KiB.
const WIDE_PIPE: usize = 512 << 10;

/// Where a main process's output comes from.
pub enum Output {
    Pipes(Vec<(OwnedFd, Lines)>),
    Terminal(Relay, Lines),
}

impl Run {
    /// What whoever runs it by hand sends: a signal. Anything else, and the end, is its end.
    pub fn receive(&mut self) {
        let Some(control) = &self.control else { return };
        let signal = match packet::receive(control.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(Some((bytes, _))) => match FromClient::decode(&bytes) {
                Some(FromClient::Signal(signal)) => Some(signal),
                _ => None,
            },
            Ok(None) | Err(_) => None,
        };
        if signal.is_none() {
            self.control = None;
        }
        let signal = signal.map_or(libc::SIGKILL, i32::from);
        let _ = process::signal(self.process.pidfd.as_fd(), signal);
    }

    pub fn state(&self) -> ContainerState {
        ContainerState {
            name: self.spec.name.clone(),
            hash: self.spec.hash.clone(),
            attempt: self.spec.attempt,
            pid: self.process.pid,
            tty: self.spec.tty,
            started: self.started,
            exited: self.exited,
            started_boot: Some(self.started_boot),
            exited_boot: self.exited_boot,
            stop_signal: self.spec.stop_signal,
            stop_timeout: self.spec.stop_timeout,
        }
    }

    /// Reads what is there from one source of output: how much, or none at its end. A log that
    /// can't be written loses lines, never the container.
    pub fn read_output(&mut self, source: usize, buffer: &mut [u8]) -> Option<usize> {
        let log = &mut self.log;
        match &mut self.output {
            Output::Terminal(relay, lines) => {
                let length = relay.read(buffer)?;
                lines.push(buffer.get(..length)?, log);
                Some(length)
            }
            Output::Pipes(pipes) => {
                let (pipe, lines) = pipes.get_mut(source)?;
                match rustix::io::read(&*pipe, &mut *buffer) {
                    Ok(length @ 1..) => {
                        if length == buffer.len() {
                            widen(pipe);
                        }
                        lines.push(buffer.get(..length)?, log);
                        Some(length)
                    }
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Some(0),
                    Ok(0) | Err(_) => {
                        lines.finish(log);
                        None
                    }
                }
            }
        }
    }

    /// One source is at its end. A pipe is closed; a terminal stays, for attached clients, and is
    /// not read any more.
    pub fn end_output(&mut self, source: usize) {
        match &mut self.output {
            Output::Pipes(pipes) if source < pipes.len() => drop(pipes.remove(source)),
            Output::Pipes(_) => {}
            Output::Terminal(relay, _) => relay.hung_up = true,
        }
    }

    /// Reads what is still in the pipes of an ended process and closes them.
    pub fn drain(&mut self, buffer: &mut [u8]) {
        // The last words are what matters most.
        self.log.lift_rate();
        let sources = match &self.output {
            Output::Pipes(pipes) => pipes.len(),
            Output::Terminal(..) => 1,
        };
        for source in 0..sources {
            // Bounded: no more than a pipe holds (1 MiB at most) can be left of a process that has
            // ended.
            for _ in 0..1024 {
                if !matches!(self.read_output(source, buffer), Some(1..)) {
                    break;
                }
            }
        }
        let log = &mut self.log;
        match &mut self.output {
            Output::Pipes(pipes) => {
                for (_, lines) in pipes.iter_mut() {
                    lines.finish(log);
                }
                pipes.clear();
            }
            Output::Terminal(_, lines) => lines.finish(log),
        }
    }
}

/// Makes a pipe that is found full hold more, so that its container is not stopped for each turn of the shim's.
/// Most containers never fill one, and what a pipe could hold costs memory.
fn widen(pipe: &OwnedFd) {
    if rustix::pipe::fcntl_getpipe_size(pipe).is_ok_and(|size| size < WIDE_PIPE) {
        // Beyond what this user may have in pipes, it stays as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, WIDE_PIPE);
    }
}

/// The limits of setrlimit(2): the host's usual number of descriptors, not the shim's own, and what
/// was declared.
pub fn set_limits(setup: &Setup, spec: &StartSpec) -> Result<(), tank_sys::Error> {
    let usual = setup
        .nofile
        .map(|(soft, hard)| ("nofile".to_owned(), Some(soft), Some(hard)));
    process::set_ulimits(usual.as_slice())?;
    process::set_ulimits(&spec.ulimits)
}

/// A container's system call filter.
pub fn filter(declared: &tank_proto::shim::Seccomp) -> Result<Vec<seccomp::Instruction>, Error> {
    let tank_proto::shim::Seccomp {
        unconfined,
        allow,
        deny,
        no_set_id,
    } = declared;
    let changes = seccomp::Changes {
        unconfined: *unconfined,
        allow,
        deny,
        no_set_id: *no_set_id,
    };
    Ok(seccomp::filter(changes)?)
}

/// A working directory is beneath the container's root, and not wherever a process happens to be.
///
/// # Errors
/// When it is relative.
pub fn absolute(cwd: &str) -> Result<(), Error> {
    if cwd.starts_with('/') {
        return Ok(());
    }
    Err(Attempt::EnterDirectory.failed(Reason::Relative(cwd.to_owned())))
}

pub fn exit_status(exit: Exit) -> ExitStatus {
    match exit {
        Exit::Code(code) => ExitStatus::Code(code),
        Exit::Signal(signal) => ExitStatus::Signal(signal),
    }
}
