//! Requests and their answers.

use super::{MAX_COPIES, MAX_EXECS, Pod, id_of, spans, trace, version};
use crate::{
    exec,
    failure::{Attempt, Error, Reason},
    run::{Output, Run},
    start,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tank_proto::shim::{
    Answer, Call, ExecSpec, Failure, FromShim, MAX_DESCRIPTORS, MAX_SPEC, Reply, Request,
    StartSpec, State, WITH_IDS,
};
use tank_sys::{packet, process};

/// A reply and the descriptors that go with it.
type Done = (Reply, Vec<OwnedFd>);

impl Pod {
    /// Reads one request and answers it.
    pub(super) fn answer(&mut self, index: usize) {
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
                        done.unwrap_or_else(|error| (Reply::Failed(error.into()), Vec::new()));
                    (id, reply, fds)
                }
                // Whatever else it holds, its id may be readable: the answer is for that request.
                Err(error) => (
                    id_of(&bytes),
                    Reply::Failed(Attempt::ReadPacket.failed(error).into()),
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
    /// silence, which would leave the sender waiting, and never by ending the connection, which
    /// serves other requests too. False: the other side is gone.
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
            // A sender that knows ids knows sealed replies.
            (Ok(bytes), Some(_)) if bytes.len() > packet::MAX_PACKET / 2 && fds.is_empty() => {
                let sealed = packet::sealed("reply", &bytes)
                    .map_err(|e| io::Error::other(tank_sys::with_causes(&e)));
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
            // The sender does not keep up; the failure would not fit either.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                let failure: Failure = Attempt::Answer.failed(error).into();
                send(Reply::Failed(failure.bounded()), &[]).is_ok()
            }
        }
    }

    fn carry_out(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Done, Error> {
        match request {
            Request::State => Ok((Reply::State(self.state()), Vec::new())),
            Request::Namespaces => Ok((Reply::Namespaces, self.copies()?)),
            Request::Start => self.start(fds),
            Request::Signal { container, signal } => self.signal(&container, signal),
            Request::Forget { container } => {
                let ended = |found: &Run| found.exited.is_some();
                if self.containers.get(&container).is_some_and(ended) {
                    self.containers.remove(&container);
                }
                Ok((Reply::Done, Vec::new()))
            }
            Request::Exec => self.exec(fds),
            Request::Attach { container } => self.attach(&container),
            Request::Files { .. } if version() < 2 => {
                Err(Attempt::ReadPacket.failed(Reason::OlderVersion))
            }
            Request::Files { container } => {
                let files = self.running(&container)?.files.as_ref();
                let files = files.map(OwnedFd::try_clone).transpose();
                let files = files.map_err(|e| Attempt::CopyDescriptor.failed(e))?;
                Ok((Reply::Files, files.into_iter().collect()))
            }
            Request::Shutdown => {
                self.shutting_down = true;
                let running = self.containers.values();
                for container in running.filter(|container| container.exited.is_none()) {
                    process::signal(container.process.pidfd.as_fd(), libc::SIGKILL)?;
                }
                Ok((Reply::Done, Vec::new()))
            }
        }
    }

    fn start(&mut self, mut fds: Vec<OwnedFd>) -> Result<Done, Error> {
        let spec: StartSpec = read_spec(&mut fds)?;
        let runs = |container: &Run| container.exited.is_none();
        if self.containers.get(&spec.name).is_some_and(runs) {
            return Err(Attempt::StartContainer.failed(io::ErrorKind::AlreadyExists));
        }
        if let Some(count) = spec.descriptors {
            take_bundled(&mut fds, count)?;
        }
        let trace = trace(spec.timed);
        let (container, for_client) =
            start::start(&self.setup, &self.namespaces, spec, fds, &trace)?;
        let pid = container.process.pid;
        let name = container.spec.name.clone();
        self.containers.insert(name, container);
        let spans = spans(&trace);
        Ok((Reply::Started { pid, spans }, for_client))
    }

    fn signal(&self, container: &str, signal: i32) -> Result<Done, Error> {
        let found = self.containers.get(container);
        if let Some(container) = found.filter(|found| found.exited.is_none()) {
            process::signal(container.process.pidfd.as_fd(), signal)?;
        }
        Ok((Reply::Done, Vec::new()))
    }

    fn exec(&mut self, mut fds: Vec<OwnedFd>) -> Result<Done, Error> {
        let spec: ExecSpec = read_spec(&mut fds)?;
        let execs = self.execs.iter();
        let kind = (spec.kill_on_close, spec.copy.is_some());
        let alike = execs.filter(|exec| (exec.kill_on_close, exec.copies) == kind);
        let (most, attempt) = match kind {
            (_, true) => (MAX_COPIES, Attempt::CopyFiles),
            (_, false) => (MAX_EXECS, Attempt::RunCommand),
        };
        if alike.count() >= most {
            return Err(attempt.failed(Reason::TooManyExecs(most)));
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

    fn attach(&mut self, container: &str) -> Result<Done, Error> {
        self.running(container)?;
        let output = self
            .containers
            .get_mut(container)
            .map(|found| &mut found.output);
        let Some(Output::Terminal(relay, _)) = output else {
            return Err(Error::NotATty(container.to_owned()));
        };
        let end = relay.attach().map_err(|e| Attempt::Attach.failed(e))?;
        Ok((Reply::Attached, vec![end]))
    }

    fn running(&self, name: &str) -> Result<&Run, Error> {
        let found = self
            .containers
            .get(name)
            .filter(|container| container.exited.is_none());
        found.ok_or_else(|| Error::NotRunning(name.to_owned()))
    }

    fn state(&self) -> State {
        State {
            version: version(),
            pod: self.setup.pod.clone(),
            sandbox: self.setup.sandbox.clone(),
            pid: self.pid,
            id_base: self.setup.id_base,
            containers: self.containers.values().map(Run::state).collect(),
        }
    }
}

/// Takes the descriptors of a start that wait in a socket, the last of those that came.
fn take_bundled(fds: &mut Vec<OwnedFd>, count: usize) -> Result<(), Error> {
    let failed = |reason: Reason| Attempt::TakeDescriptors.failed(reason);
    let rest = fds.pop();
    let rest = rest.ok_or_else(|| Attempt::ReadSpec.failed(io::ErrorKind::NotFound))?;
    let bundled = packet::unbundle(&rest, MAX_DESCRIPTORS);
    fds.extend(bundled.map_err(|e| failed(e.into()))?);
    let arrived = fds.len();
    if arrived != count {
        return Err(failed(Reason::DescriptorsMissing { arrived, count }));
    }
    Ok(())
}

/// A specification is the first descriptor of its request.
fn read_spec<T: serde::de::DeserializeOwned>(fds: &mut Vec<OwnedFd>) -> Result<T, Error> {
    let failed = |reason: Reason| Attempt::ReadSpec.failed(reason);
    if fds.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    let bytes = packet::read_sealed(fds.remove(0), MAX_SPEC).map_err(|e| failed(e.into()))?;
    serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))
}
