//! The loop: one `poll(2)` over everything the shim waits for. It never wakes without an event, but to note in a
//! log what was dropped, and to end what copies for nobody.

mod ends;
mod requests;

use crate::{
    exec::{Exec, ExecGroup},
    log::Now,
    run::{Output, Run},
    sysctls,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};
use tank_proto::{
    shim::{FromShim, Reply, Setup, VERSION},
    timing::Span,
};
use tank_sys::{
    Context, Result,
    namespace::{self, Namespaces},
    packet, process,
    trace::{Phase, Trace},
};

/// The most connections at once: `tankd`, and one that is going away.
const MAX_CONNECTIONS: usize = 16;

/// The most second processes of operators at once, and the most that end with their control socket:
/// one kind does not take the places of the other.
const MAX_EXECS: usize = 256;

/// The most that copy files.
const MAX_COPIES: usize = 16;

/// The most cgroups of ended second processes that wait for their last process to be gone.
const MAX_EMPTYING: usize = 64;

/// The most bytes of a container's output that are read at once: 64 KiB, which a pipe holds unless it was
/// [widened](crate::run).
const READ: usize = 64 << 10;

pub struct Pod {
    /// As the host has it; the shim itself is the first process of a namespace.
    pid: i32,
    setup: Setup,
    namespaces: Namespaces,
    listener: OwnedFd,
    connections: Vec<OwnedFd>,
    containers: BTreeMap<String, Run>,
    execs: Vec<Exec>,
    /// How many second processes with a cgroup of their own there were: it names the next one.
    exec_groups: u64,
    /// The cgroups of ended second processes, which could not be removed yet.
    emptying: Vec<ExecGroup>,
    /// Readable when a child stopped: a pidfd is readable at the end only.
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
    Control(String),
    ExecExit(usize),
    ExecControl(usize),
    ExecTerminal(usize),
}

impl Pod {
    /// Makes the namespaces, listens, and sends [`Reply::Ready`] on `control`, its first connection.
    pub fn set_up(setup: Setup, control: OwnedFd, trace: &Trace) -> Result<Self> {
        rustix::process::setsid().doing(|| "start a session")?;
        for path in &setup.cgroup {
            fs::write(path, "0").doing(|| format!("join {path}"))?;
        }
        trace.end(Phase::Cgroups);
        let (namespaces, sockets) =
            namespace::create(setup.id_base, setup.own_network, &setup.hostname, trace)?;
        sysctls::set(&setup, &namespaces)?;
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
        let mut fds = pod.copies()?;
        fds.extend(sockets);
        // A tankd that is gone meanwhile connects again when it is back.
        pod.send(0, &FromShim::Reply(reply), &fds);
        Ok(pod)
    }

    /// The namespaces that others may enter.
    fn copies(&self) -> Result<Vec<OwnedFd>> {
        let copy = |fd: &OwnedFd| fd.try_clone().doing(|| "copy a namespace");
        [Some(&self.namespaces.user), self.namespaces.net.as_ref()]
            .into_iter()
            .flatten()
            .map(copy)
            .collect()
    }

    /// Serves until [`tank_proto::shim::Request::Shutdown`], and then until no container runs.
    pub fn serve(mut self) -> Result<()> {
        let mut buffer = vec![0; READ];
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
            let tokens = self.wait()?;
            for token in tokens {
                self.handle(&token, &mut buffer);
            }
            self.note_dropped();
            self.end_overdue();
            self.tidy();
        }
    }

    /// Everything that is ready.
    fn wait(&self) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let mut fds = Vec::new();
        for (token, fd, flags) in self.watched() {
            tokens.push(token);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        loop {
            match rustix::event::poll(&mut fds, self.next_due().as_ref()) {
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

    /// How long until lines have to be noted that were dropped, or a process be ended.
    fn next_due(&self) -> Option<Timespec> {
        let notices = self
            .containers
            .values()
            .filter_map(|run| run.log.notice_due());
        let ends = self.execs.iter().filter_map(|exec| exec.end_by);
        let left = notices
            .chain(ends)
            .min()?
            .saturating_duration_since(Instant::now());
        // Never 0: what is due then is due in its own time.
        (left + Duration::from_millis(1)).try_into().ok()
    }

    fn note_dropped(&mut self) {
        for run in self.containers.values_mut() {
            if run
                .log
                .notice_due()
                .is_some_and(|due| due <= Instant::now())
            {
                run.log.note_dropped(Now::read());
            }
        }
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
            if let Some(control) = &container.control {
                watched.push((Token::Control(name.clone()), control.as_fd(), read));
            }
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

    // long: one arm a token
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
                if let Some(Run {
                    output: Output::Terminal(relay, _),
                    ..
                }) = self.containers.get_mut(name)
                    && !relay.receive(*index)
                    && *index < relay.clients.len()
                {
                    relay.clients.remove(*index);
                }
            }
            Token::Control(name) => {
                if let Some(container) = self.containers.get_mut(name) {
                    container.receive();
                }
            }
            Token::ExecExit(index) => self.exec_exited(*index),
            Token::ExecControl(index) => {
                if let Some(exec) = self.execs.get_mut(*index)
                    && let Some(control) = &exec.control
                    && !matches!(packet::receive(control.as_fd()), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
                {
                    exec.client_gone();
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
    let version = std::env::var("TANK_SHIM_VERSION")
        .ok()
        .filter(|_| cfg!(debug_assertions));
    version
        .and_then(|text| text.parse().ok())
        .unwrap_or(VERSION)
}

/// A trace, if one is wanted. Not to know where the time goes is no reason not to start.
pub fn trace(wanted: bool) -> Trace {
    if wanted {
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
