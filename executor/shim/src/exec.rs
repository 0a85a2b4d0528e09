//! A second process inside a running container.
//!
//! It gets the main process's user, capabilities, filter, cgroup and environment. On a terminal,
//! the master goes to the client, which pumps the bytes itself; the shim keeps a copy, so that the
//! terminal does not hang up when the client detaches, and then reads it empty, so that the command
//! is not stopped by a full one.
//!
//! A probe's process is made to end with its control socket ([`ExecSpec::kill_on_close`]): a waiter
//! that stops waiting, for whatever reason, ends it by that alone. It gets a cgroup below its
//! container's, so that nothing it started, in whatever session, outlives it.

use crate::{
    copy,
    failure::{Attempt, Error, Reason},
    launch::{Launched, Place, Program, Report, launch},
    run::{Run, absolute, filter, set_limits},
};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};
use tank_proto::shim::{ExecSpec, Setup, User};
use tank_sys::{
    Context,
    beneath::Root,
    namespace::{self, Namespaces},
    packet, privilege,
    process::{self, Process},
    pty, seccomp,
    trace::Trace,
};

/// A second process and its client.
pub struct Exec {
    pub process: Process,
    /// None: the client has detached.
    pub control: Option<OwnedFd>,
    pub master: Option<OwnedFd>,
    /// It ends when the client has gone.
    pub kill_on_close: bool,
    /// The cgroup of one that does, as long as it runs.
    pub group: Option<ExecGroup>,
    /// It copies files, and ends by itself when the client has gone.
    pub copies: bool,
    /// When it is ended, if it does not.
    pub end_by: Option<Instant>,
}

/// How long a process that copies may take to end once its client has gone: it removes what it has not finished.
const COPY_END_LIMIT: Duration = Duration::from_secs(10);

/// A cgroup of version 2 for one second process and all it starts, below its container's.
pub struct ExecGroup {
    parent: OwnedFd,
    name: String,
    dir: OwnedFd,
}

impl ExecGroup {
    /// Makes one below `parent`. The container's own limits hold in it, too: it has no controllers.
    fn new(parent: &OwnedFd, number: u64) -> Result<Self, tank_sys::Error> {
        let name = format!("exec-{number}");
        let make = || -> io::Result<Self> {
            rustix::fs::mkdirat(parent, name.as_str(), Mode::from_raw_mode(0o755))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let dir = rustix::fs::openat(parent, name.as_str(), flags, Mode::empty())?;
            Ok(Self {
                parent: parent.try_clone()?,
                name: name.clone(),
                dir,
            })
        };
        make().doing(|| format!("make the cgroup {name}"))
    }

    /// Kills every process in it.
    pub fn kill(&self) {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let killed = rustix::fs::openat(&self.dir, "cgroup.kill", flags, Mode::empty())
            .and_then(|file| rustix::io::write(file, b"1"));
        if let Err(error) = killed {
            eprintln!(
                "kill the processes of {}: {}",
                self.name,
                tank_sys::with_causes(&error)
            );
        }
    }

    /// Removes it; false: it still has processes. What is left here goes with the container's
    /// cgroup.
    pub fn remove(&self) -> bool {
        let removed = rustix::fs::unlinkat(&self.parent, self.name.as_str(), AtFlags::REMOVEDIR);
        !matches!(removed, Err(rustix::io::Errno::BUSY))
    }
}

/// Runs the process; returns it with what the client gets: the control socket, then the terminal's
/// master. `number` is another one for each.
pub fn start(
    setup: &Setup,
    namespaces: &Namespaces,
    container: &Run,
    spec: &ExecSpec,
    streams: &[OwnedFd],
    number: u64,
) -> Result<(Exec, Vec<OwnedFd>), Error> {
    let streams = checked(spec, streams)?;
    let cwd = spec.cwd.as_deref().unwrap_or(&container.spec.cwd);
    absolute(cwd)?;
    let filter = filter(&container.spec.seccomp)?;
    let (terminal, terminal_end) = packet::pair()?;
    let main = Main {
        setup,
        namespaces,
        container,
        spec,
        env: environment(container, spec),
        cwd,
        filter: &filter,
        streams,
        terminal: &terminal_end,
    };
    let group = match container.cgroup.into.as_ref() {
        Some(parent) if spec.kill_on_close => Some(ExecGroup::new(parent, number)?),
        _ => None,
    };
    let launched = main.launch(group.as_ref());
    drop(terminal_end);
    let (process, master) = match launched.and_then(|launched| launched.with_terminal(&terminal)) {
        Ok(launched) => launched,
        Err(error) => {
            // It is empty: the process was waited for.
            if let Some(group) = &group {
                group.remove();
            }
            return Err(error);
        }
    };
    let (control, mut for_client) = control()?;
    if let Some(master) = &master {
        let copy = master.try_clone();
        for_client.push(copy.map_err(|e| Attempt::CopyTerminal.failed(e))?);
    }
    let exec = Exec {
        process,
        control: Some(control),
        master,
        kill_on_close: spec.kill_on_close,
        group,
        copies: spec.copy.is_some(),
        end_by: None,
    };
    Ok((exec, for_client))
}

/// A control socket: the shim's end, and what the client gets.
pub fn control() -> Result<(OwnedFd, Vec<OwnedFd>), Error> {
    let (ours, theirs) = packet::pair()?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(|e| Attempt::WatchClient.failed(e))?;
    Ok((ours, vec![theirs]))
}

/// The streams of a process without a terminal; none of one with a terminal.
fn checked<'a>(spec: &ExecSpec, streams: &'a [OwnedFd]) -> Result<&'a [OwnedFd], Error> {
    if spec.terminal.is_some() {
        return Ok(&[]);
    }
    if streams.len() != 3 {
        return Err(Attempt::ReadRequest.failed(Reason::NoStreams));
    }
    // `tankd` has looked at them, and an older one has not.
    tank_proto::stream::check_all(streams.iter().map(AsFd::as_fd))
        .map_err(|bad| Attempt::UseStreams.failed(bad))?;
    Ok(streams)
}

/// The main process's environment with what is added to it.
fn environment(container: &Run, spec: &ExecSpec) -> Vec<(String, String)> {
    let mut env = container.spec.env.clone();
    for (key, value) in &spec.env {
        env.retain(|(name, _)| name != key);
        env.push((key.clone(), value.clone()));
    }
    if spec.terminal.is_some() && !env.iter().any(|(key, _)| key == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    env
}

/// What a second process is on its way to its program.
struct Main<'a> {
    setup: &'a Setup,
    namespaces: &'a Namespaces,
    container: &'a Run,
    spec: &'a ExecSpec,
    env: Vec<(String, String)>,
    cwd: &'a str,
    filter: &'a [seccomp::Instruction],
    streams: &'a [OwnedFd],
    /// Its end of the socket over which the terminal goes.
    terminal: &'a OwnedFd,
}

impl Main<'_> {
    /// Who it is.
    fn user(&self) -> &User {
        self.spec.user.as_ref().unwrap_or(&self.container.spec.user)
    }

    /// The descriptors it needs.
    fn given(&self) -> impl Iterator<Item = &OwnedFd> {
        [&self.namespaces.user, self.terminal]
            .into_iter()
            .chain(self.streams)
    }

    /// Makes the process, in `group` or else where its container is.
    fn launch(&self, group: Option<&ExecGroup>) -> Result<Launched, Error> {
        let cgroup = &self.container.cgroup;
        let entrance = &self.container.process.pidfd;
        let given: Vec<&OwnedFd> = self.given().chain([entrance]).collect();
        let place = Place {
            into: group.map(|group| &group.dir).or(cgroup.into.as_ref()),
            join: &cgroup.join,
            given: &given,
        };
        let enter = || namespace::enter_process(entrance.as_fd());
        let terminal = self.spec.terminal.is_some();
        launch(&place, terminal, enter, |report| self.run(report))
    }

    /// Returns only on failure.
    fn run(&self, report: &Report<'_>) -> Result<(), Error> {
        report.close_all_but(self.given())?;
        let (root, container) = (Root::current()?, self.container);
        if let Some((rows, columns)) = self.spec.terminal {
            let (master, slave) = pty::open(&root, self.setup.id_base + self.user().uid)?;
            if rows > 0 && columns > 0 {
                pty::resize(master.as_fd(), rows, columns)?;
            }
            packet::send(self.terminal.as_fd(), b"m", &[master.as_fd()])
                .doing(|| "hand over a terminal")?;
            pty::adopt(slave.as_fd())?;
        } else {
            rustix::process::setsid().doing(|| "start a session")?;
            let [input, output, error] = [0, 1, 2].map(|at| self.streams[at].as_fd());
            pty::streams(input, output, error)?;
        }
        set_limits(self.setup, &container.spec)?;
        privilege::become_root(self.namespaces.user.as_fd())?;
        if let Some(copy) = &self.spec.copy {
            let bounding = &container.spec.bounding;
            return copy::run(copy, root, bounding, self.filter, report);
        }
        let program = Program {
            argv: &self.spec.argv,
            env: &self.env,
            cwd: self.cwd,
            user: self.user(),
        };
        let is_same = *self.user() == container.spec.user;
        let ambient = match is_same {
            true => container.spec.ambient.as_slice(),
            false => &[],
        };
        program.run(
            root,
            &container.spec.bounding,
            ambient,
            self.filter,
            report,
            &Trace::none(),
        )
    }
}

impl Exec {
    /// The client has gone, and the process goes with it, and all it started.
    pub fn kill(&mut self) {
        self.control = None;
        match &self.group {
            Some(group) => group.kill(),
            // A container of a `tankd` before version 3.
            None => drop(process::signal(self.process.pidfd.as_fd(), libc::SIGKILL)),
        }
    }

    /// The client has closed the control socket.
    pub fn client_gone(&mut self) {
        match (self.kill_on_close, self.copies) {
            (true, _) => self.kill(),
            (false, true) => self.leave(),
            (false, false) => self.detach(),
        }
    }

    /// The client has gone, and so have both ends of its streams.
    fn leave(&mut self) {
        self.control = None;
        self.end_by = Some(Instant::now() + COPY_END_LIMIT);
    }

    /// The client has gone: from now on the terminal is read here.
    fn detach(&mut self) {
        self.control = None;
        if let Some(master) = &self.master
            && let Err(error) = rustix::io::ioctl_fionbio(master, true)
        {
            eprintln!(
                "watch a detached terminal: {}",
                tank_sys::with_causes(&error)
            );
        }
    }
}
