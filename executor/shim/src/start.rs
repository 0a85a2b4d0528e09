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
    failure::{Attempt, Error, Reason},
    launch::{Program, Report, launch_in},
    log::{
        Lines, Log,
        journal::{self, Journal},
        now_millis,
    },
    relay::Relay,
    run::{Output, Run, absolute, filter, set_limits},
};
use rustix::thread::ThreadNameSpaceType;
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};
use tank_proto::shim::{Setup, StartSpec};
use tank_sys::{
    Context,
    beneath::{Owner, Root},
    cgroup,
    namespace::{self, Namespaces},
    packet, privilege,
    process::flags,
    pty,
    rootfs::{self, Entered, FileMount, Rootfs},
    seccomp,
    trace::{Phase, Trace},
};

/// Starts a main process. `fds` are those that came with the request, the specification's own taken
/// out.
pub fn start(
    setup: &Setup,
    namespaces: &Namespaces,
    spec: StartSpec,
    fds: Vec<OwnedFd>,
    trace: &Trace,
) -> Result<(Run, Vec<OwnedFd>), Error> {
    absolute(&spec.cwd)?;
    let parts = Parts::sort(&spec, fds)?;
    let path = PathBuf::from(&setup.log_dir).join(format!("{}.log", spec.name));
    let journal = || Journal::new(journal::SOCKET.into(), &setup.pod, &spec.name);
    let log = Log::new(path, &spec.logs, spec.logs.journald.then(journal));
    let filter = filter(&spec.seccomp)?;
    let (streams, ends) = streams(setup.id_base + spec.user.uid)?;
    trace.end(Phase::Prepare);
    let main = Main {
        setup,
        namespaces,
        spec: &spec,
        parts: &parts,
        filter: &filter,
        ends: &ends,
        trace,
    };
    let begin = SystemTime::now();
    let launched = launch_in(
        flags::NEWPID | flags::NEWNS,
        parts.cgroup.into.as_ref(),
        spec.tty,
        |report| main.run(report),
    )?;
    trace.end(Phase::Exec);
    drop(ends);
    let (process, master) = launched.with_terminal(&streams.terminal)?;
    let (output, control, for_client) = match spec.by_hand {
        None => {
            log.begin_run(begin);
            (output(streams, master)?, None, Vec::new())
        }
        Some(_) => {
            let (control, mut for_client) = crate::exec::control()?;
            for_client.extend(master);
            (Output::Pipes(Vec::new()), Some(control), for_client)
        }
    };
    let run = Run {
        output,
        control,
        spec,
        process,
        cgroup: parts.cgroup,
        files: parts.files,
        log,
        started: now_millis(),
        exited: None,
        started_boot: tank_sys::clock::boot_millis(),
        exited_boot: None,
    };
    Ok((run, for_client))
}

/// Either side of a main process's output: two pipes, and the socket over which its terminal comes.
struct Streams {
    out: OwnedFd,
    err: OwnedFd,
    terminal: OwnedFd,
}

/// The shim's side and the process's.
fn streams(owner: u32) -> Result<(Streams, Streams), Error> {
    let (out, out_end) = namespace::pipe()?;
    let (err, err_end) = namespace::pipe()?;
    // A program that opens /dev/stdout opens the pipe itself, which has an owner like any file.
    let owner = rustix::fs::Uid::from_raw(owner);
    for end in [&out_end, &err_end] {
        rustix::fs::fchown(end, Some(owner), None).map_err(|e| Attempt::OwnOutput.failed(e))?;
    }
    let (terminal, terminal_end) = packet::pair()?;
    let ours = Streams { out, err, terminal };
    let theirs = Streams {
        out: out_end,
        err: err_end,
        terminal: terminal_end,
    };
    Ok((ours, theirs))
}

/// Where the output is read: from the terminal, or from the pipes of a process without one.
fn output(streams: Streams, master: Option<OwnedFd>) -> Result<Output, Error> {
    if let Some(master) = master {
        let relay = Relay::new(master).map_err(|e| Attempt::WatchTerminal.failed(e))?;
        return Ok(Output::Terminal(relay, Lines::new("stdout")));
    }
    for pipe in [&streams.out, &streams.err] {
        rustix::io::ioctl_fionbio(pipe, true).map_err(|e| Attempt::WatchOutput.failed(e))?;
    }
    Ok(Output::Pipes(vec![
        (streams.out, Lines::new("stdout")),
        (streams.err, Lines::new("stderr")),
    ]))
}

/// What a main process is on its way to its program.
struct Main<'a> {
    setup: &'a Setup,
    namespaces: &'a Namespaces,
    spec: &'a StartSpec,
    parts: &'a Parts,
    filter: &'a [seccomp::Instruction],
    ends: &'a Streams,
    trace: &'a Trace,
}

impl Main<'_> {
    /// Returns only on failure.
    fn run(&self, report: &Report<'_>) -> Result<(), Error> {
        self.trace.end(Phase::Clone);
        cgroup::join(&self.parts.cgroup.join)?;
        namespace::own_cgroups()?;
        self.trace.end(Phase::Cgroups);
        self.enter_namespaces()?;
        // Nothing of the host's but its own streams, while a path of the container is resolved.
        let given = [
            &self.namespaces.user,
            &self.parts.root,
            &self.ends.out,
            &self.ends.err,
            &self.ends.terminal,
        ];
        let given = given
            .into_iter()
            .chain(&self.parts.files)
            .chain(&self.parts.streams)
            .chain(self.parts.mounts.iter().map(|(fd, _)| fd));
        report.close_all_but(given)?;
        self.trace.end(Phase::Namespaces);
        let Entered { root, null } = self.enter_root()?;
        self.take_streams(&root, &null)?;
        drop(null);
        set_limits(self.setup, self.spec)?;
        self.trace.end(Phase::Streams);
        privilege::become_root(self.namespaces.user.as_fd())?;
        let spec = self.spec;
        // Where it can't be made, entering it fails with the reason.
        let _ = root.ensure_directory(Path::new(&spec.cwd), Owner::Caller);
        let program = Program {
            argv: &spec.argv,
            env: &spec.env,
            cwd: &spec.cwd,
            user: &spec.user,
        };
        let (bounding, ambient) = (&spec.bounding, &spec.ambient);
        program.run(root, bounding, ambient, self.filter, report, self.trace)
    }

    /// Those of the pod; the process has mounts and pids of its own already.
    fn enter_namespaces(&self) -> tank_sys::Result<()> {
        if let Some(net) = &self.namespaces.net {
            namespace::enter(net.as_fd(), ThreadNameSpaceType::NETWORK)?;
        }
        namespace::enter(
            self.namespaces.uts.as_fd(),
            ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
        )?;
        namespace::enter(
            self.namespaces.ipc.as_fd(),
            ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
        )
    }

    fn enter_root(&self) -> tank_sys::Result<Entered> {
        let devices: Vec<rootfs::Device> = self.spec.devices.iter().map(device).collect();
        let files = self.spec.files.iter().flat_map(|(_, files)| files);
        let files: Vec<FileMount> = files.map(file_mount).collect();
        let mount = self.parts.files.as_ref();
        rootfs::enter(&Rootfs {
            root: self.parts.root.as_fd(),
            attach_on: Path::new(&self.setup.attach_on),
            mounts: &self.parts.mounts,
            files: mount.map(|fd| (fd.as_fd(), files.as_slice())),
            owner: self.setup.id_base,
            read_only: self.spec.read_only,
            devices: &devices,
            trace: self.trace,
        })
    }

    /// A terminal, whose master goes to the shim, or `/dev/null` and the pipes.
    fn take_streams(&self, root: &Root, null: &OwnedFd) -> tank_sys::Result<()> {
        if self.spec.tty {
            let (master, slave) = pty::open(root, self.setup.id_base + self.spec.user.uid)?;
            if let Some((rows @ 1.., columns @ 1..)) = self.spec.by_hand.as_ref().map(|by| by.size)
            {
                pty::resize(master.as_fd(), rows, columns)?;
            }
            packet::send(self.ends.terminal.as_fd(), b"m", &[master.as_fd()])
                .doing(|| "hand over a terminal")?;
            pty::adopt(slave.as_fd())
        } else {
            rustix::process::setsid().doing(|| "start a session")?;
            if let [input, output, error] = self.parts.streams.as_slice() {
                return pty::streams(input.as_fd(), output.as_fd(), error.as_fd());
            }
            pty::streams(null.as_fd(), self.ends.out.as_fd(), self.ends.err.as_fd())
        }
    }
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
    /// Those of a client that runs it by hand.
    streams: Vec<OwnedFd>,
}

/// The cgroups of a container: the one it is cloned into, and those it joins.
pub struct Groups {
    pub into: Option<OwnedFd>,
    pub join: Vec<OwnedFd>,
}

impl Parts {
    fn sort(spec: &StartSpec, fds: Vec<OwnedFd>) -> Result<Self, Error> {
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let mut take = |index: usize| {
            let fd = fds.get_mut(index).and_then(Option::take);
            fd.ok_or_else(|| Attempt::ReadRequest.failed(Reason::MissingDescriptor(index)))
        };
        Ok(Self {
            root: take(spec.root)?,
            mounts: spec
                .mounts
                .iter()
                .map(|(index, target)| Ok((take(*index)?, target.clone())))
                .collect::<Result<_, Error>>()?,
            files: spec
                .files
                .as_ref()
                .map(|(index, _)| take(*index))
                .transpose()?,
            cgroup: {
                let into = spec.into.map(&mut take).transpose()?;
                // What is cloned into the cgroup of version 2 need not join it.
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
            streams: {
                let places = spec.by_hand.iter().flat_map(|by| &by.streams);
                let streams: Vec<OwnedFd> =
                    places.map(|place| take(*place)).collect::<Result<_, _>>()?;
                if spec.by_hand.is_some() && !spec.tty && streams.len() != 3 {
                    return Err(Attempt::ReadRequest.failed(Reason::NoStreams));
                }
                // `tankd` has looked at them; a stream is never trusted for that alone.
                tank_proto::stream::check_all(streams.iter().map(AsFd::as_fd))
                    .map_err(|bad| Attempt::UseStreams.failed(bad))?;
                streams
            },
        })
    }
}
