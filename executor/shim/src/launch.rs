//! From a fork to an executed program, and what goes wrong on the way.

use crate::{
    failure::{Attempt, Error, Reason},
    handshake::{Handshake, Message},
};
use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};
use tank_proto::shim::{Failure, User};
use tank_sys::{
    Context,
    beneath::Root,
    cgroup, namespace, packet, privilege,
    process::{self, Process, flags},
    seccomp,
    trace::{Phase, Trace},
};

/// How long a process may take from fork to exec before it is given up on.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a second process may take. Somebody in the container can stop it on its way in, and the
/// shim serves nobody else meanwhile.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// A program with what it is to see of the world.
pub struct Program<'a> {
    pub argv: &'a [String],
    pub env: &'a [(String, String)],
    pub cwd: &'a str,
    pub user: &'a User,
}

impl Program<'_> {
    /// Executes the program with what privileges it is to have; the caller is
    /// [the pod's root](privilege::become_root). Returns only on failure.
    pub fn run(
        &self,
        root: Root,
        bounding: &[String],
        ambient: &[String],
        filter: &[seccomp::Instruction],
        report: &Report<'_>,
        trace: &Trace,
    ) -> Result<(), Error> {
        let text = |text: String| CString::new(text).map_err(|e| io::Error::other(e.to_string()));
        let argv: Vec<CString> = self
            .argv
            .iter()
            .map(|a| text(a.clone()))
            .collect::<Result<_, _>>()
            .doing(|| "read the arguments")?;
        let env: Vec<CString> = self
            .env
            .iter()
            .map(|(key, value)| text(format!("{key}={value}")))
            .collect::<Result<_, _>>()
            .doing(|| "read the environment")?;
        let User { uid, gid, groups } = self.user.clone();
        let identity = privilege::Identity { uid, gid, groups };
        privilege::become_user(&identity, bounding, ambient)?;
        root.enter(Path::new(self.cwd))
            .doing(|| format!("enter the working directory {}", self.cwd))?;
        drop(root);
        process::reset_signals();
        process::reset_umask();
        // Closed, and not at the program's execution: until it is found, a link in its path could
        // lead through them.
        report.close_all_but([])?;
        trace.end(Phase::Privileges);
        seccomp::install(filter)?;
        trace.end(Phase::Filter);
        let source = process::exec(&argv, &env);
        let program = self.argv.first().cloned().unwrap_or_default();
        Err(Error::Execute { program, source })
    }
}

/// Where a process that does not get as far as its program sends why.
pub struct Report<'a> {
    /// A pipe, which closes by itself when the program is executed.
    status: &'a OwnedFd,
}

impl<'a> Report<'a> {
    fn new(status: &'a OwnedFd) -> Self {
        Self { status }
    }

    /// Closes every descriptor but the standard streams, those that are given and the one to report
    /// on. What is closed is owned by frames that this process never returns to.
    pub fn close_all_but<'b>(
        &'b self,
        given: impl IntoIterator<Item = &'b OwnedFd>,
    ) -> Result<(), tank_sys::Error> {
        let mut keep: Vec<BorrowedFd<'_>> = vec![self.status.as_fd()];
        keep.extend(given.into_iter().map(|fd| -> BorrowedFd<'_> { fd.as_fd() }));
        process::close_descriptors_but(&keep)
    }
}

/// A process that executes its program, and may still owe its terminal.
pub struct Launched {
    process: Process,
    handshake: Handshake,
}

impl Launched {
    /// The process, and the master of its terminal if it was launched to have one: it is the packet
    /// that waits in `terminal`, whose other end nobody holds any more. A process without the
    /// terminal it should have is ended.
    pub fn with_terminal(self, terminal: &OwnedFd) -> Result<(Process, Option<OwnedFd>), Error> {
        let Self { process, handshake } = self;
        let master = || -> Result<Option<OwnedFd>, Error> {
            if !handshake.awaits_terminal() {
                return handshake.finish().map(|()| None);
            }
            let received = packet::receive(terminal.as_fd()).ok().flatten();
            let Some(master) = received.and_then(|(_, mut fds)| fds.pop()) else {
                return handshake.finish().map(|()| None);
            };
            handshake.accept(Message::Terminal)?.finish()?;
            Ok(Some(master))
        };
        match master() {
            Ok(master) => Ok((process, master)),
            Err(error) => {
                end(&process);
                Err(error)
            }
        }
    }
}

/// Runs `main` in a process in new namespaces. Returns once the program is executed, or with why it
/// was not.
pub fn launch_in(
    namespaces: u64,
    cgroup: Option<&OwnedFd>,
    terminal: bool,
    main: impl FnOnce(&Report<'_>) -> Result<(), Error>,
) -> Result<Launched, Error> {
    let (status, status_end) = namespace::pipe()?;
    let process = process::spawn(namespaces, cgroup.map(AsFd::as_fd), || {
        send_failure(&status_end, main(&Report::new(&status_end)))
    });
    let process = process?;
    drop(status_end);
    executed(process, Handshake::main(terminal), status, START_LIMIT)
}

/// Where a second process is made, and what its carrier may keep.
pub struct Place<'a> {
    /// The cgroup of version 2 that the carrier is cloned into.
    pub into: Option<&'a OwnedFd>,
    /// The cgroups of version 1 that it joins.
    pub join: &'a [OwnedFd],
    /// The descriptors that it keeps.
    pub given: &'a [&'a OwnedFd],
}

/// Makes a process through a carrier: `enter` runs in the carrier, once that has joined its groups
/// and closed everything it was not given; `main` in the process, which is a child of the shim.
/// Returns once the program is executed, or with why it was not.
pub fn launch(
    place: &Place<'_>,
    terminal: bool,
    enter: impl FnOnce() -> Result<(), tank_sys::Error>,
    main: impl FnOnce(&Report<'_>) -> Result<(), Error>,
) -> Result<Launched, Error> {
    let (status, status_end) = namespace::pipe()?;
    let (pid, pid_end) = namespace::pipe()?;
    let carrier = process::spawn(0, place.into.map(AsFd::as_fd), || {
        let ready = cgroup::join(place.join).and_then(|()| {
            let given = place.given.iter().copied().chain([&pid_end]);
            Report::new(&status_end).close_all_but(given)?;
            enter()
        });
        let launched = ready.and_then(|()| {
            process::spawn(flags::PARENT, None, || {
                send_failure(&status_end, main(&Report::new(&status_end)))
            })
        });
        match launched {
            Ok(process) => {
                let _ = rustix::io::write(&pid_end, &process.pid.to_le_bytes());
                0
            }
            Err(error) => send_failure(&status_end, Err(error.into())),
        }
    })?;
    drop(pid_end);
    let pid = read_pid(pid, &carrier)?;
    process::wait(&carrier)?;
    drop(status_end);
    let handshake = Handshake::second(terminal);
    let Some(pid) = pid else {
        return Err(match read_status(status, JOIN_LIMIT)? {
            Message::Failed(failure) => Error::Process(failure),
            early => handshake.refuse(early),
        });
    };
    let handshake = handshake.accept(Message::Process)?;
    let process = process::open(pid)?;
    executed(process, handshake, status, JOIN_LIMIT)
}

/// The pid that a carrier writes when its child is there. None: it ended without one. A carrier that
/// does neither in time is ended.
fn read_pid(pid: OwnedFd, carrier: &Process) -> Result<Option<i32>, Error> {
    if let Err(error) = await_input(&pid, Instant::now() + JOIN_LIMIT) {
        end(carrier);
        return Err(error);
    }
    let mut bytes = [0; 4];
    let read = File::from(pid).read_exact(&mut bytes);
    Ok(read.ok().map(|()| i32::from_le_bytes(bytes)))
}

fn end(process: &Process) {
    let _ = process::signal(process.pidfd.as_fd(), libc::SIGKILL);
    let _ = process::wait(process);
}

/// The exit status of a process that did not get as far as its program; sends why on `status`.
fn send_failure(status: &OwnedFd, result: Result<(), Error>) -> i32 {
    let Err(error) = result else { return 0 };
    let text = serde_json::to_vec(&Failure::from(error)).unwrap_or_default();
    let _ = rustix::io::write(status, &text);
    125
}

/// Waits until a process executes its program, and finds by which pid the host knows it; one that
/// does not is ended.
fn executed(
    process: Process,
    handshake: Handshake,
    status: OwnedFd,
    limit: Duration,
) -> Result<Launched, Error> {
    let accepted = read_status(status, limit).and_then(|message| {
        let handshake = handshake.accept(message)?;
        let pid = process::visible_pid(process.pidfd.as_fd())?;
        Ok((pid, handshake))
    });
    match accepted {
        Ok((pid, handshake)) => Ok(Launched {
            process: Process { pid, ..process },
            handshake,
        }),
        Err(error) => {
            end(&process);
            Err(error)
        }
    }
}

/// Waits until there is something to read, or the end.
fn await_input(pipe: &OwnedFd, deadline: Instant) -> Result<(), Error> {
    let failed = |reason: Reason| Attempt::StartProcess.failed(reason);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut poll = [rustix::event::PollFd::new(
            pipe,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut poll, Some(&timeout)) {
            Ok(0) => return Err(failed(io::ErrorKind::TimedOut.into())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
            Ok(_) => return Ok(()),
        }
    }
}

/// Waits until the pipe closes, which the execution of the program does, or holds why not.
fn read_status(status: OwnedFd, limit: Duration) -> Result<Message, Error> {
    let failed = |reason: Reason| Attempt::StartProcess.failed(reason);
    let deadline = Instant::now() + limit;
    let mut text = Vec::new();
    loop {
        await_input(&status, deadline)?;
        let mut buffer = [0; 4096];
        match rustix::io::read(&status, &mut buffer) {
            Ok(0) if text.is_empty() => return Ok(Message::Executed),
            Ok(0) => {
                let parsed = serde_json::from_slice(&text);
                return parsed.map(Message::Failed).map_err(|e| failed(e.into()));
            }
            Ok(length) => text.extend(&buffer[..length]),
            Err(error) => return Err(failed(error.into())),
        }
    }
}
