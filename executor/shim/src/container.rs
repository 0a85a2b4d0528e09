//! From a specification to a running main process.
//!
//! ```text
//! shim ──clone3(into its cgroup, new pid and mount namespace)──► main process: joins the cgroups of version 1, enters the
//!          pod's namespaces, closes what it was not given, root file system, terminal or streams, ids, working directory,
//!          capabilities, closes the rest, filter, exec
//! shim ──fork──► carrier: closes what it was not given, enters the container's namespaces
//!                   └──fork (a child of the shim)──► second process: streams, ids, capabilities, working directory, closes
//!                                                    the rest, filter, exec
//! ```
//!
//! A working directory that is missing is made by the pod's root in the pod's own user namespace,
//! as everything else in the container is there; it is entered by the container's user.
//!
//! A pid namespace is entered by the children of whoever enters it: that is the carrier, which ends
//! as soon as its child exists. The shim itself never changes where it is. A failure comes back
//! over a pipe that closes by itself when the program is executed.

use crate::{
    describe,
    log::{Lines, LogFile, now_millis},
    relay::Relay,
};
use rustix::thread::ThreadNameSpaceType;
use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tank_proto::shim::{ContainerState, ExitStatus, Failure, FailureKind, Setup, StartSpec, User};
use tank_sys::{
    Context,
    beneath::{Owner, Root},
    cgroup,
    namespace::{self, Namespaces},
    packet, privilege,
    process::{self, Exit, Process, flags},
    pty,
    rootfs::{self, Entered, FileMount, Rootfs},
    seccomp,
    trace::{Phase, Trace},
};

/// How long a process may take from fork to exec before it is given up on.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a second process may take. Somebody in the container can stop it on its way in, and the
/// shim serves nobody else meanwhile.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// A container that runs or has run.
pub struct Container {
    pub spec: StartSpec,
    pub process: Process,
    pub cgroup: Groups,
    /// The mount of the files Tank wrote for it.
    pub files: Option<OwnedFd>,
    pub output: Output,
    pub log: LogFile,
    pub started: u64,
    pub exited: Option<(ExitStatus, u64)>,
    /// The same of `CLOCK_BOOTTIME`.
    pub started_boot: u64,
    pub exited_boot: Option<u64>,
}

/// Where a main process's output comes from.
pub enum Output {
    Pipes(Vec<(OwnedFd, Lines)>),
    Terminal(Relay, Lines),
}

impl Container {
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

    /// Starts a main process. `fds` are those that came with the request, the specification's own
    /// taken out.
    pub fn start(
        setup: &Setup,
        namespaces: &Namespaces,
        spec: StartSpec,
        fds: Vec<OwnedFd>,
        trace: &Trace,
    ) -> Result<Self, Failure> {
        absolute(&spec.cwd)?;
        let parts = Parts::sort(&spec, fds)?;
        let path = PathBuf::from(&setup.log_dir).join(format!("{}.log", spec.name));
        let log = LogFile::new(path);
        let filter = filter(&spec.seccomp)?;
        let (out, out_end) = namespace::pipe().map_err(|e| failure(&e))?;
        let (err, err_end) = namespace::pipe().map_err(|e| failure(&e))?;
        // A program that opens /dev/stdout opens the pipe itself, which has an owner like any file.
        let owner = rustix::fs::Uid::from_raw(setup.id_base + spec.user.uid);
        for end in [&out_end, &err_end] {
            rustix::fs::fchown(end, Some(owner), None)
                .map_err(|e| other("own the output", &e.into()))?;
        }
        let (terminal, terminal_end) = packet::pair().map_err(|e| failure(&e))?;
        trace.end(Phase::Prepare);
        let main = |report: &mut Report<'_>| -> Result<(), tank_sys::Error> {
            trace.end(Phase::Clone);
            cgroup::join(&parts.cgroup.join)?;
            namespace::own_cgroups()?;
            trace.end(Phase::Cgroups);
            if let Some(net) = &namespaces.net {
                namespace::enter(net.as_fd(), ThreadNameSpaceType::NETWORK)?;
            }
            namespace::enter(
                namespaces.uts.as_fd(),
                ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
            )?;
            namespace::enter(
                namespaces.ipc.as_fd(),
                ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
            )?;
            // Nothing of the host's but its own streams, while a path of the container is resolved.
            let given = [
                &namespaces.user,
                &parts.root,
                &out_end,
                &err_end,
                &terminal_end,
            ];
            let given = given
                .into_iter()
                .chain(&parts.files)
                .chain(parts.mounts.iter().map(|(fd, _)| fd));
            report.close_all_but(given)?;
            trace.end(Phase::Namespaces);
            let devices: Vec<rootfs::Device> = spec.devices.iter().map(device).collect();
            let files: Vec<FileMount> = spec
                .files
                .iter()
                .flat_map(|(_, files)| files)
                .map(file_mount)
                .collect();
            let Entered { root, null } = rootfs::enter(&Rootfs {
                root: parts.root.as_fd(),
                attach_on: Path::new(&setup.attach_on),
                mounts: &parts.mounts,
                files: parts
                    .files
                    .as_ref()
                    .map(|fd| (fd.as_fd(), files.as_slice())),
                owner: setup.id_base,
                read_only: spec.read_only,
                devices: &devices,
                trace,
            })?;
            if spec.tty {
                let (master, slave) = pty::open(&root, setup.id_base + spec.user.uid)?;
                packet::send(terminal_end.as_fd(), b"m", &[master.as_fd()])
                    .doing(|| "hand over a terminal")?;
                pty::adopt(slave.as_fd())?;
            } else {
                rustix::process::setsid().doing(|| "start a session")?;
                pty::streams(null.as_fd(), out_end.as_fd(), err_end.as_fd())?;
            }
            drop(null);
            set_limits(setup, &spec)?;
            trace.end(Phase::Streams);
            privilege::become_root(namespaces.user.as_fd())?;
            // Where it can't be made, it can't be entered either, which is said then.
            let _ = root.ensure_directory(Path::new(&spec.cwd), Owner::Caller);
            let program = Program {
                argv: &spec.argv,
                env: &spec.env,
                cwd: &spec.cwd,
                user: &spec.user,
            };
            program.run(root, &spec.bounding, &spec.ambient, &filter, report, trace)
        };
        let process = launch_in(
            flags::NEWPID | flags::NEWNS,
            parts.cgroup.into.as_ref(),
            main,
        )?;
        trace.end(Phase::Exec);
        drop((out_end, err_end, terminal_end));
        let output = if spec.tty {
            let master = packet::receive(terminal.as_fd())
                .ok()
                .flatten()
                .and_then(|(_, mut fds)| fds.pop());
            let master = master.ok_or_else(|| {
                other(
                    "take the terminal",
                    &io::Error::from(io::ErrorKind::NotFound),
                )
            })?;
            Output::Terminal(
                Relay::new(master).map_err(|e| other("watch the terminal", &e))?,
                Lines::new("stdout"),
            )
        } else {
            for pipe in [&out, &err] {
                rustix::io::ioctl_fionbio(pipe, true)
                    .map_err(|e| other("watch the output", &e.into()))?;
            }
            Output::Pipes(vec![
                (out, Lines::new("stdout")),
                (err, Lines::new("stderr")),
            ])
        };
        Ok(Self {
            spec,
            process,
            cgroup: parts.cgroup,
            files: parts.files,
            output,
            log,
            started: now_millis(),
            exited: None,
            started_boot: tank_sys::clock::boot_millis(),
            exited_boot: None,
        })
    }

    /// Reads what is there from one source of output: how much, or none at its end. A log that
    /// can't be written loses lines, never the container.
    pub fn read_output(&mut self, source: usize, buffer: &mut [u8]) -> Option<usize> {
        let log = &mut self.log;
        match &mut self.output {
            Output::Terminal(relay, lines) => {
                let length = relay.read(buffer)?;
                let _ = lines.push(&buffer[..length], log);
                Some(length)
            }
            Output::Pipes(pipes) => {
                let (pipe, lines) = pipes.get_mut(source)?;
                match rustix::io::read(&*pipe, &mut *buffer) {
                    Ok(length @ 1..) => {
                        let _ = lines.push(&buffer[..length], log);
                        Some(length)
                    }
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Some(0),
                    Ok(0) | Err(_) => {
                        let _ = lines.finish(log);
                        None
                    }
                }
            }
        }
    }

    /// One source is at its end. A pipe is closed; a terminal stays, for who is attached, and is
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
                    let _ = lines.finish(log);
                }
                pipes.clear();
            }
            Output::Terminal(_, lines) => drop(lines.finish(log)),
        }
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
pub fn filter(declared: &tank_proto::shim::Seccomp) -> Result<Vec<seccomp::Instruction>, Failure> {
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
    seccomp::filter(changes).map_err(|e| failure(&e))
}

fn device(device: &tank_proto::shim::Device) -> rootfs::Device {
    rootfs::Device {
        path: device.path.clone(),
        block: device.block,
        major: device.major,
        minor: device.minor,
        read_only: device.read_only,
    }
}

fn file_mount((name, path): &(String, String)) -> FileMount {
    FileMount {
        name: name.clone(),
        path: path.clone(),
    }
}

/// The descriptors of a start, each where it belongs.
struct Parts {
    root: OwnedFd,
    mounts: Vec<(OwnedFd, String)>,
    files: Option<OwnedFd>,
    cgroup: Groups,
}

/// The groups of a container: one to be born in, and those to join.
pub struct Groups {
    pub into: Option<OwnedFd>,
    pub join: Vec<OwnedFd>,
}

impl Parts {
    fn sort(spec: &StartSpec, fds: Vec<OwnedFd>) -> Result<Self, Failure> {
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let mut take = |index: usize| {
            let fd = fds.get_mut(index).and_then(Option::take);
            fd.ok_or_else(|| {
                other(
                    "read the request",
                    &io::Error::other(format!("descriptor {index} is missing")),
                )
            })
        };
        Ok(Self {
            root: take(spec.root)?,
            mounts: spec
                .mounts
                .iter()
                .map(|(index, target)| Ok((take(*index)?, target.clone())))
                .collect::<Result<_, Failure>>()?,
            files: spec
                .files
                .as_ref()
                .map(|(index, _)| take(*index))
                .transpose()?,
            cgroup: {
                let into = spec.into.map(&mut take).transpose()?;
                // Who is born in the group of version 2 need not join it.
                let count =
                    spec.cgroup.len() - usize::from(into.is_some() && !spec.cgroup.is_empty());
                Groups {
                    into,
                    join: spec.cgroup[..count]
                        .iter()
                        .map(|index| take(*index))
                        .collect::<Result<_, _>>()?,
                }
            },
        })
    }
}

/// A working directory is beneath the container's root, and not wherever a process happens to be.
///
/// # Errors
/// When it is relative.
pub fn absolute(cwd: &str) -> Result<(), Failure> {
    if cwd.starts_with('/') {
        return Ok(());
    }
    let why = format!("`{cwd}` is not absolute: name it from `/`");
    Err(other("enter the working directory", &io::Error::other(why)))
}

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
        report: &mut Report<'_>,
        trace: &Trace,
    ) -> Result<(), tank_sys::Error> {
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
        // Closed, and not at the program's execution: until it is found, a link in its path could
        // lead through them.
        report.close_all_but([])?;
        trace.end(Phase::Privileges);
        seccomp::install(filter)?;
        trace.end(Phase::Filter);
        let error = process::exec(&argv, &env);
        let program = self.argv.first().map_or("", String::as_str);
        report.kind = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => FailureKind::NotFound,
            Some(libc::EACCES | libc::ENOEXEC | libc::EISDIR) => FailureKind::NotExecutable,
            _ => FailureKind::Other,
        };
        Err(error).doing(|| format!("execute `{program}`"))
    }
}

/// What goes wrong in a process that does not get as far as its program, and where that is said.
pub struct Report<'a> {
    pub kind: FailureKind,
    /// A pipe, which closes by itself when the program is executed.
    status: &'a OwnedFd,
}

impl<'a> Report<'a> {
    fn new(status: &'a OwnedFd) -> Self {
        Self {
            kind: FailureKind::Other,
            status,
        }
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

/// Runs `main` in a process in new namespaces. Returns once the program is executed, or with why it
/// was not.
fn launch_in(
    namespaces: u64,
    cgroup: Option<&OwnedFd>,
    main: impl FnOnce(&mut Report<'_>) -> Result<(), tank_sys::Error>,
) -> Result<Process, Failure> {
    let (status, status_end) = namespace::pipe().map_err(|e| failure(&e))?;
    let process = process::spawn(namespaces, cgroup.map(AsFd::as_fd), || {
        let mut report = Report::new(&status_end);
        let result = main(&mut report);
        tell(&status_end, result, report.kind)
    });
    let process = process.map_err(|e| failure(&e))?;
    drop(status_end);
    executed(process, status, START_LIMIT)
}

/// Makes a process through a carrier, born in the group `into`: `enter` runs in the carrier, once
/// that has joined the groups `join` and closed everything but `given`; `main` in the process,
/// which is a child of the shim. Returns once the program is executed, or with why it was not.
pub fn launch(
    into: Option<&OwnedFd>,
    join: &[OwnedFd],
    given: &[&OwnedFd],
    enter: impl FnOnce() -> Result<(), tank_sys::Error>,
    main: impl FnOnce(&mut Report<'_>) -> Result<(), tank_sys::Error>,
) -> Result<Process, Failure> {
    let (status, status_end) = namespace::pipe().map_err(|e| failure(&e))?;
    let (pid, pid_end) = namespace::pipe().map_err(|e| failure(&e))?;
    let carrier = process::spawn(0, into.map(AsFd::as_fd), || {
        let ready = cgroup::join(join).and_then(|()| {
            Report::new(&status_end).close_all_but(given.iter().copied().chain([&pid_end]))?;
            enter()
        });
        let launched = ready.and_then(|()| {
            process::spawn(flags::PARENT, None, || {
                let mut report = Report::new(&status_end);
                let result = main(&mut report);
                tell(&status_end, result, report.kind)
            })
        });
        match launched {
            Ok(process) => {
                let _ = rustix::io::write(&pid_end, &process.pid.to_le_bytes());
                0
            }
            Err(error) => tell(&status_end, Err(error), FailureKind::Other),
        }
    })
    .map_err(|e| failure(&e))?;
    drop(pid_end);
    let mut bytes = [0; 4];
    let known = match await_input(&pid, Instant::now() + JOIN_LIMIT) {
        Ok(()) => File::from(pid).read_exact(&mut bytes).is_ok(),
        Err(failure) => {
            let _ = process::signal(carrier.pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(&carrier);
            return Err(failure);
        }
    };
    process::wait(&carrier).map_err(|e| failure(&e))?;
    drop(status_end);
    match known {
        true => executed(
            process::open(i32::from_le_bytes(bytes)).map_err(|e| failure(&e))?,
            status,
            JOIN_LIMIT,
        ),
        false => Err(read_status(status, JOIN_LIMIT)?.unwrap_or_else(no_process)),
    }
}

/// The status of a process that did not get as far as its program; says why on `status`.
fn tell(status: &OwnedFd, result: Result<(), tank_sys::Error>, kind: FailureKind) -> i32 {
    let Err(error) = result else { return 0 };
    let why = std::error::Error::source(&error)
        .map(ToString::to_string)
        .unwrap_or_default();
    let failure = Failure {
        what: error.what().to_owned(),
        why,
        kind,
    };
    let text = serde_json::to_vec(&failure).unwrap_or_default();
    let _ = rustix::io::write(status, &text);
    125
}

/// Waits until a process executes its program, and says by which pid the host knows it; one that
/// does not is ended.
fn executed(process: Process, status: OwnedFd, limit: Duration) -> Result<Process, Failure> {
    let visible = || process::visible_pid(process.pidfd.as_fd()).map_err(|e| failure(&e));
    let failure = match read_status(status, limit) {
        Ok(None) => match visible() {
            Ok(pid) => return Ok(Process { pid, ..process }),
            Err(failure) => failure,
        },
        Ok(Some(failure)) | Err(failure) => failure,
    };
    let _ = process::signal(process.pidfd.as_fd(), libc::SIGKILL);
    let _ = process::wait(&process);
    Err(failure)
}

fn no_process() -> Failure {
    other(
        "make a process",
        &io::Error::from(io::ErrorKind::UnexpectedEof),
    )
}

/// Waits until there is something to read, or the end.
fn await_input(pipe: &OwnedFd, deadline: Instant) -> Result<(), Failure> {
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
            Ok(0) => return Err(other("start a process", &io::ErrorKind::TimedOut.into())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(other("start a process", &error.into())),
            Ok(_) => return Ok(()),
        }
    }
}

/// Waits until the pipe closes (the program runs) or says why not, for so long at most.
fn read_status(status: OwnedFd, limit: Duration) -> Result<Option<Failure>, Failure> {
    let deadline = Instant::now() + limit;
    let mut text = Vec::new();
    loop {
        await_input(&status, deadline)?;
        let mut buffer = [0; 4096];
        match rustix::io::read(&status, &mut buffer) {
            Ok(0) if text.is_empty() => return Ok(None),
            Ok(0) => {
                let parsed = serde_json::from_slice(&text);
                return parsed
                    .map(Some)
                    .map_err(|e| other("start a process", &io::Error::other(e)));
            }
            Ok(length) => text.extend(&buffer[..length]),
            Err(error) => return Err(other("start a process", &error.into())),
        }
    }
}

pub fn failure(error: &tank_sys::Error) -> Failure {
    let why = std::error::Error::source(error)
        .map(describe)
        .unwrap_or_default();
    Failure {
        what: error.what().to_owned(),
        why,
        kind: FailureKind::Other,
    }
}

pub fn other(what: &str, error: &io::Error) -> Failure {
    Failure {
        what: what.to_owned(),
        why: error.to_string(),
        kind: FailureKind::Other,
    }
}

pub fn exit_status(exit: Exit) -> ExitStatus {
    match exit {
        Exit::Code(code) => ExitStatus::Code(code),
        Exit::Signal(signal) => ExitStatus::Signal(signal),
    }
}
