//! The loop: one `poll(2)` over everything the shim waits for. It never wakes without an event.

use crate::{
    container::{Container, Output, exit_status, failure, other},
    describe,
    exec::{self, Exec, ExecGroup},
    log::now_millis,
};
use rustix::event::{PollFd, PollFlags};
use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};
use tank_proto::{
    shim::{
        Answer, Call, Event, ExecSpec, ExitStatus, Failure, FailureKind, FromShim, MAX_DESCRIPTORS,
        MAX_SPEC, Reply, Request, Setup, StartSpec, State, VERSION, WITH_IDS,
    },
    terminal,
    timing::Span,
};
use tank_sys::{
    Context, Error, Result,
    namespace::{self, Namespaces},
    packet, process,
    trace::{Phase, Trace},
};

/// The most connections at once: `tankd`, and one that is going away.
const MAX_CONNECTIONS: usize = 16;

/// The most second processes of operators at once, and the most that end with their control socket:
/// one kind does not take the places of the other.
const MAX_EXECS: usize = 256;

/// The most cgroups of ended second processes that wait for their last process to be gone.
const MAX_EMPTYING: usize = 64;

pub struct Pod {
    /// As the host has it; the shim itself is the first process of a namespace.
    pid: i32,
    setup: Setup,
    namespaces: Namespaces,
    listener: OwnedFd,
    connections: Vec<OwnedFd>,
    containers: BTreeMap<String, Container>,
    execs: Vec<Exec>,
    /// How many second processes with a cgroup of their own there were: it names the next one.
    exec_groups: u64,
    /// The cgroups of ended second processes, which could not be removed yet.
    emptying: Vec<ExecGroup>,
    /// Readable when a child stopped: pidfds tell of ends only.
    children: OwnedFd,
    shutting_down: bool,
}

/// What a descriptor in the poll set stands for.
#[derive(Clone)]
enum Token {
    Listener,
    Children,
    Connection(usize),
    Exit(String),
    Output(String, usize),
    Client(String, usize),
    ExecExit(usize),
    ExecControl(usize),
    ExecTerminal(usize),
}

impl Pod {
    /// Makes the namespaces, listens, and says so on `control`, which is its first connection.
    pub fn set_up(setup: Setup, control: OwnedFd, trace: &Trace) -> Result<Self> {
        rustix::process::setsid().doing(|| "start a session")?;
        for path in &setup.cgroup {
            fs::write(path, "0").doing(|| format!("join {path}"))?;
        }
        trace.end(Phase::Cgroups);
        let (namespaces, sockets) =
            namespace::create(setup.id_base, setup.own_network, &setup.hostname, trace)?;
        set_sysctls(&setup, &namespaces)?;
        trace.end(Phase::Sysctls);
        let listener = packet::listen(Path::new(&setup.socket))?;
        rustix::process::chdir("/").doing(|| "enter /")?;
        rustix::io::ioctl_fionbio(&control, true).doing(|| "watch the socket to tankd")?;
        let pid = process::own_visible_pid()?;
        let pod = Self {
            pid,
            setup,
            namespaces,
            listener,
            connections: vec![control],
            containers: BTreeMap::new(),
            execs: Vec::new(),
            exec_groups: 0,
            emptying: Vec::new(),
            children: process::watch_children()?,
            shutting_down: false,
        };
        trace.end(Phase::Listen);
        let reply = Reply::Ready {
            pid,
            spans: spans(trace),
        };
        let mut fds = pod
            .copies()
            .map_err(|failure| Error::new(failure.what, io::Error::other(failure.why)))?;
        fds.extend(sockets);
        // A tankd that is gone meanwhile connects again when it is back.
        pod.send(0, &FromShim::Reply(reply), &fds);
        Ok(pod)
    }

    /// The namespaces that others may enter.
    fn copies(&self) -> Result<Vec<OwnedFd>, Failure> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| other("copy a namespace", &e));
        [Some(&self.namespaces.user), self.namespaces.net.as_ref()]
            .into_iter()
            .flatten()
            .map(copy)
            .collect()
    }

    /// Serves until told to end.
    pub fn serve(mut self) -> Result<()> {
        let mut buffer = vec![0; 32 << 10];
        loop {
            if self.shutting_down
                && self
                    .containers
                    .values()
                    .all(|container| container.exited.is_some())
            {
                let _ = fs::remove_file(&self.setup.socket);
                return Ok(());
            }
            for token in self.wait()? {
                self.handle(&token, &mut buffer);
            }
            self.tidy();
        }
    }

    /// Everything that has something to say.
    fn wait(&self) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let mut fds = Vec::new();
        for (token, fd, flags) in self.watched() {
            tokens.push(token);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        loop {
            match rustix::event::poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error).doing(|| "wait for events"),
            }
        }
        let ready = tokens
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(token, _)| token).collect())
    }

    fn watched(&self) -> Vec<(Token, BorrowedFd<'_>, PollFlags)> {
        let read = PollFlags::IN;
        let mut watched = vec![
            (Token::Listener, self.listener.as_fd(), read),
            (Token::Children, self.children.as_fd(), read),
        ];
        watched.extend(
            self.connections
                .iter()
                .enumerate()
                .map(|(i, fd)| (Token::Connection(i), fd.as_fd(), read)),
        );
        for (name, container) in self
            .containers
            .iter()
            .filter(|(_, container)| container.exited.is_none())
        {
            watched.push((
                Token::Exit(name.clone()),
                container.process.pidfd.as_fd(),
                read,
            ));
            match &container.output {
                Output::Pipes(pipes) => {
                    for (i, (fd, _)) in pipes.iter().enumerate() {
                        watched.push((Token::Output(name.clone(), i), fd.as_fd(), read));
                    }
                }
                Output::Terminal(relay, _) => {
                    let flags = if relay.has_input() {
                        read | PollFlags::OUT
                    } else {
                        read
                    };
                    // A terminal that has hung up is readable for ever.
                    if !relay.hung_up {
                        watched.push((Token::Output(name.clone(), 0), relay.master.as_fd(), flags));
                    }
                    let clients = relay.clients.iter().enumerate();
                    watched.extend(
                        clients.map(|(i, fd)| (Token::Client(name.clone(), i), fd.as_fd(), read)),
                    );
                }
            }
        }
        for (i, exec) in self.execs.iter().enumerate() {
            watched.push((Token::ExecExit(i), exec.process.pidfd.as_fd(), read));
            match (&exec.control, &exec.master) {
                (Some(control), _) => watched.push((Token::ExecControl(i), control.as_fd(), read)),
                (None, Some(master)) => {
                    watched.push((Token::ExecTerminal(i), master.as_fd(), read))
                }
                (None, None) => {}
            }
        }
        watched
    }

    fn handle(&mut self, token: &Token, buffer: &mut [u8]) {
        match token {
            Token::Listener => {
                if let Ok(Some(socket)) = packet::accept(self.listener.as_fd())
                    && self.connections.len() < MAX_CONNECTIONS
                {
                    self.connections.push(socket);
                }
            }
            Token::Children => self.stopped(buffer),
            Token::Connection(index) => self.answer(*index),
            Token::Exit(name) => self.exited(name, buffer),
            Token::Output(name, source) => {
                if let Some(container) = self.containers.get_mut(name) {
                    if let Output::Terminal(relay, _) = &mut container.output {
                        relay.flush();
                    }
                    if container.read_output(*source, buffer).is_none() {
                        // The other source of the same container is found again at the next turn.
                        container.end_output(*source);
                    }
                }
            }
            Token::Client(name, index) => {
                if let Some(Container {
                    output: Output::Terminal(relay, _),
                    ..
                }) = self.containers.get_mut(name)
                    && !relay.receive(*index)
                    && *index < relay.clients.len()
                {
                    relay.clients.remove(*index);
                }
            }
            Token::ExecExit(index) => self.exec_exited(*index),
            Token::ExecControl(index) => {
                if let Some(exec) = self.execs.get_mut(*index)
                    && let Some(control) = &exec.control
                    && !matches!(packet::receive(control.as_fd()), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
                {
                    if exec.kill_on_close {
                        exec.kill();
                    } else {
                        exec.detach();
                    }
                }
            }
            Token::ExecTerminal(index) => {
                if let Some(exec) = self.execs.get_mut(*index)
                    && let Some(master) = &exec.master
                    && !matches!(
                        rustix::io::read(master, &mut *buffer),
                        Ok(1..) | Err(rustix::io::Errno::AGAIN)
                    )
                {
                    exec.master = None;
                }
            }
        }
    }

    /// Reads one request and answers it.
    fn answer(&mut self, index: usize) {
        let Some(socket) = self.connections.get(index) else {
            return;
        };
        let received = packet::receive(socket.as_fd());
        let (id, reply, fds) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(None) | Err(_) => return self.hang_up(index),
            Ok(Some((bytes, fds))) => match serde_json::from_slice::<Call>(&bytes) {
                Ok(Call { id, request }) => {
                    let done = self.carry_out(request, fds);
                    let (reply, fds) =
                        done.unwrap_or_else(|failure| (Reply::Failed(failure), Vec::new()));
                    (id, reply, fds)
                }
                // Whatever else it says, its id may be readable: the answer is for who asked.
                Err(error) => (
                    id_of(&bytes),
                    Reply::Failed(other("read a request", &error.into())),
                    Vec::new(),
                ),
            },
        };
        let id = id.filter(|_| version() >= WITH_IDS);
        if !self.reply(index, id, reply, &fds) {
            self.hang_up(index);
        }
    }

    /// Answers a request. What can't be sent is answered with why, in a few words: never with
    /// silence, which would leave who asked waiting, and never by ending the connection, which is
    /// everybody's. False: the other side is gone.
    fn reply(&self, index: usize, id: Option<u64>, reply: Reply, fds: &[OwnedFd]) -> bool {
        let reply = match reply {
            Reply::Failed(failure) => Reply::Failed(failure.bounded()),
            other => other,
        };
        let answer = |reply: Reply| match id {
            Some(id) => FromShim::Answer(Answer { id, reply }),
            None => FromShim::Reply(reply),
        };
        let Some(socket) = self.connections.get(index) else {
            return false;
        };
        let send = |reply: Reply, fds: &[OwnedFd]| -> io::Result<()> {
            let bytes = serde_json::to_vec(&answer(reply))?;
            packet::send(socket.as_fd(), &bytes, &packet::borrow(fds))
        };
        let sent = match (serde_json::to_vec(&reply), id) {
            // Who knows ids knows this.
            (Ok(bytes), Some(_)) if bytes.len() > packet::MAX_PACKET / 2 && fds.is_empty() => {
                let sealed =
                    packet::sealed("reply", &bytes).map_err(|e| io::Error::other(describe(&e)));
                sealed.and_then(|sealed| send(Reply::Sealed, &[sealed]))
            }
            _ => send(reply, fds),
        };
        match sent {
            Ok(()) => true,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                false
            }
            // Who asked does not keep up; the answer would not fit either.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => send(
                Reply::Failed(other("send an answer", &error).bounded()),
                &[],
            )
            .is_ok(),
        }
    }

    /// Closed sockets are kept in place until [`Pod::tidy`], so that the tokens of this turn stay
    /// right.
    fn hang_up(&mut self, index: usize) {
        if let (Some(socket), Ok((closed, _))) = (self.connections.get_mut(index), packet::pair()) {
            *socket = closed;
        }
    }

    fn tidy(&mut self) {
        let mut probe = [0];
        self.connections.retain(|socket| {
            let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
            !matches!(rustix::net::recv(socket, &mut probe, flags), Ok((0, _)))
        });
        self.execs.retain(|exec| exec.process.pid != 0);
        self.emptying.retain(|group| !group.remove());
    }

    fn send(&self, index: usize, message: &FromShim, fds: &[OwnedFd]) -> bool {
        let (Some(socket), Ok(bytes)) = (self.connections.get(index), serde_json::to_vec(message))
        else {
            return false;
        };
        packet::send(socket.as_fd(), &bytes, &packet::borrow(fds)).is_ok()
    }

    fn carry_out(
        &mut self,
        request: Request,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        match request {
            Request::State => Ok((Reply::State(self.state()), Vec::new())),
            Request::Namespaces => Ok((Reply::Namespaces, self.copies()?)),
            Request::Start => {
                let spec: StartSpec = read_spec(&mut fds)?;
                if self
                    .containers
                    .get(&spec.name)
                    .is_some_and(|container| container.exited.is_none())
                {
                    return Err(other(
                        "start a container",
                        &io::ErrorKind::AlreadyExists.into(),
                    ));
                }
                if let Some(count) = spec.descriptors {
                    let rest = fds.pop().ok_or_else(|| {
                        other("read a specification", &io::ErrorKind::NotFound.into())
                    })?;
                    fds.extend(
                        packet::unbundle(&rest, MAX_DESCRIPTORS)
                            .map_err(|e| other("take the descriptors", &e))?,
                    );
                    if fds.len() != count {
                        let why = format!("{} of {count} descriptors arrived", fds.len());
                        return Err(other("take the descriptors", &io::Error::other(why)));
                    }
                }
                let trace = trace(spec.timed);
                let container = Container::start(&self.setup, &self.namespaces, spec, fds, &trace)?;
                let pid = container.process.pid;
                self.containers
                    .insert(container.spec.name.clone(), container);
                Ok((
                    Reply::Started {
                        pid,
                        spans: spans(&trace),
                    },
                    Vec::new(),
                ))
            }
            Request::Signal { container, signal } => {
                if let Some(container) = self
                    .containers
                    .get(&container)
                    .filter(|found| found.exited.is_none())
                {
                    process::signal(container.process.pidfd.as_fd(), signal)
                        .map_err(|e| failure(&e))?;
                }
                Ok((Reply::Done, Vec::new()))
            }
            Request::Forget { container } => {
                if self
                    .containers
                    .get(&container)
                    .is_some_and(|found| found.exited.is_some())
                {
                    self.containers.remove(&container);
                }
                Ok((Reply::Done, Vec::new()))
            }
            Request::Exec => {
                let spec: ExecSpec = read_spec(&mut fds)?;
                let alike = self
                    .execs
                    .iter()
                    .filter(|exec| exec.kill_on_close == spec.kill_on_close)
                    .count();
                if alike >= MAX_EXECS {
                    let why = format!("{MAX_EXECS} run already");
                    return Err(other("run a command", &io::Error::other(why)));
                }
                self.exec_groups += 1;
                let container = self.running(&spec.container)?;
                let (exec, for_client) = exec::start(
                    &self.setup,
                    &self.namespaces,
                    container,
                    &spec,
                    &fds,
                    self.exec_groups,
                )?;
                let pid = exec.process.pid;
                self.execs.push(exec);
                Ok((Reply::Executed { pid }, for_client))
            }
            Request::Attach { container } => {
                self.running(&container)?;
                match self
                    .containers
                    .get_mut(&container)
                    .map(|found| &mut found.output)
                {
                    Some(Output::Terminal(relay, _)) => {
                        let end = relay
                            .attach()
                            .map_err(|why| other("attach", &io::Error::other(why)))?;
                        Ok((Reply::Attached, vec![end]))
                    }
                    _ => Err(Failure {
                        what: format!("attach to container `{container}`"),
                        why: "it has no terminal".to_owned(),
                        kind: FailureKind::NotATty,
                    }),
                }
            }
            Request::Files { .. } if version() < 2 => Err(other(
                "read a request",
                &io::Error::other("unknown variant `files`"),
            )),
            Request::Files { container } => {
                let files = self
                    .running(&container)?
                    .files
                    .as_ref()
                    .map(OwnedFd::try_clone)
                    .transpose();
                let files = files.map_err(|e| other("copy a descriptor", &e))?;
                Ok((Reply::Files, files.into_iter().collect()))
            }
            Request::Shutdown => {
                self.shutting_down = true;
                for container in self
                    .containers
                    .values()
                    .filter(|container| container.exited.is_none())
                {
                    process::signal(container.process.pidfd.as_fd(), libc::SIGKILL)
                        .map_err(|e| failure(&e))?;
                }
                Ok((Reply::Done, Vec::new()))
            }
        }
    }

    fn running(&self, name: &str) -> Result<&Container, Failure> {
        let found = self
            .containers
            .get(name)
            .filter(|container| container.exited.is_none());
        found.ok_or_else(|| exec::not_running(name))
    }

    fn state(&self) -> State {
        State {
            version: version(),
            pod: self.setup.pod.clone(),
            sandbox: self.setup.sandbox.clone(),
            pid: self.pid,
            id_base: self.setup.id_base,
            containers: self.containers.values().map(Container::state).collect(),
        }
    }

    fn exited(&mut self, name: &str, buffer: &mut [u8]) {
        let Some(container) = self.containers.get_mut(name) else {
            return;
        };
        let Ok(Some(exit)) = process::try_wait(container.process.pidfd.as_fd()) else {
            return;
        };
        container.drain(buffer);
        let (exit, at) = (exit_status(exit), now_millis());
        container.exited = Some((exit, at));
        container.exited_boot = Some(tank_sys::clock::boot_millis());
        if let Output::Terminal(relay, _) = &mut container.output {
            relay.broadcast(&terminal::FromShim::Exited(status(exit)));
            relay.clients.clear();
        }
        let event = FromShim::Event(Event::Exited {
            container: name.to_owned(),
            exit,
            at,
        });
        for index in 0..self.connections.len() {
            self.send(index, &event, &[]);
        }
    }

    /// Tells of main processes that somebody has stopped. Which child it was is asked of the
    /// kernel: signals merge.
    fn stopped(&mut self, buffer: &mut [u8]) {
        while matches!(rustix::io::read(&self.children, &mut *buffer), Ok(1..)) {}
        if version() < 2 {
            return;
        }
        let running = self
            .containers
            .iter()
            .filter(|(_, container)| container.exited.is_none());
        let stopped: Vec<String> = running
            .filter(|(_, c)| process::is_stopped(c.process.pid))
            .map(|(name, _)| name.clone())
            .collect();
        for container in stopped {
            let event = FromShim::Event(Event::Stopped { container });
            for index in 0..self.connections.len() {
                self.send(index, &event, &[]);
            }
        }
    }

    /// A pid of 0 marks an ended one until [`Pod::tidy`].
    fn exec_exited(&mut self, index: usize) {
        let Some(exec) = self.execs.get_mut(index) else {
            return;
        };
        let Ok(Some(exit)) = process::try_wait(exec.process.pidfd.as_fd()) else {
            return;
        };
        if let Some(control) = &exec.control {
            let packet = terminal::FromShim::Exited(status(exit_status(exit))).encode();
            let _ = packet::send(control.as_fd(), &packet, &[]);
        }
        exec.process.pid = 0;
        // Its group outlives it only until what it left behind is killed.
        if let Some(group) = exec.group.take() {
            group.kill();
            if !group.remove() && self.emptying.len() < MAX_EMPTYING {
                self.emptying.push(group);
            }
        }
    }
}

/// The id of a request that is not understood.
fn id_of(request: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(request)
        .ok()?
        .get("id")?
        .as_u64()
}

/// The version of the messages this shim speaks. A debug build can be made to speak an older one,
/// for the tests of a `tankd` that finds such a shim.
fn version() -> u32 {
    let asked = std::env::var("TANK_SHIM_VERSION")
        .ok()
        .filter(|_| cfg!(debug_assertions));
    asked.and_then(|text| text.parse().ok()).unwrap_or(VERSION)
}

fn status(exit: ExitStatus) -> i32 {
    match exit {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128 + signal,
    }
}

/// Notes where the time goes, if that was asked. Not to know is no reason not to start.
fn trace(asked: bool) -> Trace {
    if asked {
        Trace::start().unwrap_or_else(|_| Trace::none())
    } else {
        Trace::none()
    }
}

fn spans(trace: &Trace) -> Vec<Span> {
    trace
        .spans()
        .into_iter()
        .map(|(name, begin, end)| Span {
            name: name.to_owned(),
            begin,
            end,
        })
        .collect()
}

/// A specification is the first descriptor of its request.
fn read_spec<T: serde::de::DeserializeOwned>(fds: &mut Vec<OwnedFd>) -> Result<T, Failure> {
    let what = "read a specification";
    if fds.is_empty() {
        return Err(other(what, &io::ErrorKind::NotFound.into()));
    }
    let bytes = packet::read_sealed(fds.remove(0), MAX_SPEC).map_err(|e| other(what, &e))?;
    serde_json::from_slice(&bytes).map_err(|e| other(what, &e.into()))
}

/// `net.*` settings belong to the network namespace and the others to the IPC namespace: both are
/// entered by a process of their own.
fn set_sysctls(setup: &Setup, namespaces: &Namespaces) -> Result<()> {
    use rustix::thread::ThreadNameSpaceType;
    if setup.sysctls.is_empty() {
        return Ok(());
    }
    let (report, report_end) = namespace::pipe()?;
    let helper = process::spawn(0, None, || {
        let set = || -> Result<()> {
            if let Some(net) = &namespaces.net {
                namespace::enter(net.as_fd(), ThreadNameSpaceType::NETWORK)?;
            }
            namespace::enter(
                namespaces.ipc.as_fd(),
                ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
            )?;
            for (key, value) in &setup.sysctls {
                let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
                fs::write(path, value).doing(|| format!("set the sysctl {key} to {value}"))?;
            }
            Ok(())
        };
        let Err(error) = set() else { return 0 };
        let _ = rustix::io::write(&report_end, crate::describe(&error).as_bytes());
        1
    })?;
    drop(report_end);
    let status = process::wait(&helper)?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    let _ = io::Read::read_to_string(&mut fs::File::from(report), &mut text);
    Err(Error::new(
        text,
        io::Error::from(io::ErrorKind::InvalidInput),
    ))
}
