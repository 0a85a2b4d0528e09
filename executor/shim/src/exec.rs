//! A second process inside a running container.
//!
//! It gets the main process's user, capabilities, filter, cgroup and environment. On a terminal, the master goes to
//! the client, which pumps the bytes itself; the shim keeps a copy, so that the terminal does not hang up when the
//! client detaches, and then reads it empty, so that the command is not stopped by a full one.

use crate::{
    container::{Container, Program, Report, absolute, failure, filter, launch, other, set_limits},
    describe,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tank_proto::shim::{ExecSpec, Failure, FailureKind, Setup};
use tank_sys::{
    Context, beneath::Root, laps::Laps, namespace, namespace::Namespaces, packet, privilege, process::Process, pty,
    stream,
};

/// A second process and who waits for it.
pub struct Exec {
    pub process: Process,
    /// None: the client has detached.
    pub control: Option<OwnedFd>,
    pub master: Option<OwnedFd>,
}

/// Runs the process; returns it with what the client gets: the control socket, then the terminal's master.
pub fn start(
    setup: &Setup,
    namespaces: &Namespaces,
    container: &Container,
    spec: &ExecSpec,
    streams: &[OwnedFd],
) -> Result<(Exec, Vec<OwnedFd>), Failure> {
    if spec.terminal.is_none() && streams.len() != 3 {
        return Err(other("read the request", &io::Error::other("three streams are needed without a terminal")));
    }
    // `tankd` has looked at them, and an older one has not.
    let streams = if spec.terminal.is_some() { &[] } else { streams };
    stream::check_all(streams.iter().map(AsFd::as_fd))
        .map_err(|why| other("use the streams", &io::Error::other(why)))?;
    let cwd = spec.cwd.as_deref().unwrap_or(&container.spec.cwd);
    absolute(cwd)?;
    let filter = filter(&container.spec.seccomp)?;
    let (terminal, terminal_end) = packet::pair().map_err(|e| failure(&e))?;
    let mut env = container.spec.env.clone();
    let mut set = |key: &str, value: &str| {
        env.retain(|(name, _)| name != key);
        env.push((key.to_owned(), value.to_owned()));
    };
    for (key, value) in &spec.env {
        set(key, value);
    }
    if spec.terminal.is_some() && !env.iter().any(|(key, _)| key == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let given: Vec<&OwnedFd> = [&namespaces.user, &terminal_end].into_iter().chain(streams).collect();
    let main = |report: &mut Report<'_>| -> Result<(), tank_sys::Error> {
        report.close_all_but(given.iter().copied())?;
        let root = Root::current()?;
        if let Some((rows, columns)) = spec.terminal {
            let (master, slave) = pty::open(&root, setup.id_base + container.spec.user.uid)?;
            if rows > 0 && columns > 0 {
                pty::resize(master.as_fd(), rows, columns)?;
            }
            packet::send(terminal_end.as_fd(), b"m", &[master.as_fd()]).doing(|| "hand over a terminal")?;
            pty::adopt(slave.as_fd())?;
        } else {
            rustix::process::setsid().doing(|| "start a session")?;
            pty::streams(streams[0].as_fd(), streams[1].as_fd(), streams[2].as_fd())?;
        }
        set_limits(setup, &container.spec)?;
        privilege::become_root(namespaces.user.as_fd())?;
        let program = Program { argv: &spec.argv, env: &env, cwd, user: &container.spec.user };
        let (bounding, ambient) = (&container.spec.bounding, &container.spec.ambient);
        program.run(root, bounding, ambient, &filter, report, &Laps::none())
    };
    let entrance = &container.process.pidfd;
    let carried: Vec<&OwnedFd> = given.iter().copied().chain([entrance]).collect();
    let process = launch(&container.cgroup, &carried, || namespace::enter_process(entrance.as_fd()), main)?;
    drop(terminal_end);
    let (ours, theirs) = packet::pair().map_err(|e| failure(&e))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|e| other("watch a client", &e.into()))?;
    let mut for_client = vec![theirs];
    let mut master = None;
    if spec.terminal.is_some() {
        let received = packet::receive(terminal.as_fd()).ok().flatten().and_then(|(_, mut fds)| fds.pop());
        let ours = received.ok_or_else(|| other("take the terminal", &io::ErrorKind::NotFound.into()))?;
        for_client.push(ours.try_clone().map_err(|e| other("copy the terminal", &e))?);
        master = Some(ours);
    }
    Ok((Exec { process, control: Some(ours), master }, for_client))
}

impl Exec {
    /// The client has gone: from now on the terminal is read here.
    pub fn detach(&mut self) {
        self.control = None;
        if let Some(master) = &self.master
            && let Err(error) = rustix::io::ioctl_fionbio(master, true)
        {
            eprintln!("watch a detached terminal: {}", describe(&error));
        }
    }
}

/// The failure of asking for a container that can't be entered.
pub fn not_running(container: &str) -> Failure {
    let why = "its main process has ended".to_owned();
    Failure { what: format!("enter container `{container}`"), why, kind: FailureKind::NotRunning }
}
