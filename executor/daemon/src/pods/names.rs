//! The daemon's side of the name server: one process beside the pods, which outlives the daemon.
//!
//! *Never*: decides what is answered. *The sockets* on which it is asked are this daemon's as much
//! as the server's: while there is no process, what is asked waits in them. *A handover*: another
//! process gets the sockets, serves, and takes the place of the old one's socket in the run folder
//! before that is asked to end; until then both answer. *Concurrency*: every method blocks, for
//! [`REPLY_LIMIT`] at most where a server does not answer, and one is carried out at a time.

mod bind;
mod log;

use super::error::{Attempt, Error, Reason, Words};
use crate::{
    dirty::Dirty,
    events::{Events, Kind},
    settings::Settings,
};
use log::{Log, Watch};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{
        RecvFlags,
        sockopt::{self, Timeout},
    },
};
use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tank_plan::{observed::NameServer, target::Zone};
use tank_proto::names::{
    MAX_SOCKETS, MAX_ZONE, Reply, Request, SOCKET, SOCKETS_BESIDE, Setup, State, VERSION,
};
use tank_sys::{
    cgroup::{Cgroups, ControllerLimits},
    packet,
};

/// Its place among the cgroups of pods, none of whose names begins like that.
const GROUP: &str = "_names";

/// How long a server that runs may take to answer.
const REPLY_LIMIT: Duration = Duration::from_secs(1);

/// The same, of one that did not answer the last time.
const SILENT_LIMIT: Duration = Duration::from_millis(100);

/// How long a new one may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// How long one that was asked to end may take: longer than what it still answers.
const END_LIMIT: Duration = Duration::from_secs(8);

/// What its processes may use. Its zone and what it remembers take a tenth of it.
const LIMITS: ControllerLimits = ControllerLimits {
    memory: Some(256 << 20),
    pids: Some(4),
    cpu: None,
};

/// The name server's process, as far as this daemon has to do with it.
pub struct Names {
    settings: Arc<Settings>,
    cgroups: Arc<Cgroups>,
    dirty: Arc<Dirty>,
    events: Arc<Events>,
    /// Which program a server has to run to be the installed one. None: that is unknown.
    program: Option<String>,
    known: Mutex<Known>,
    /// Those that were asked to end and may still answer.
    ending: Arc<Mutex<BTreeSet<String>>>,
}

#[derive(Default)]
struct Known {
    connection: Option<OwnedFd>,
    /// Says when that ends unasked.
    watch: Watch,
    /// Empty: they were not asked for yet, or there are none.
    sockets: Vec<OwnedFd>,
    /// It did not answer in time.
    silent: bool,
}

impl Names {
    pub fn new(
        (settings, cgroups): (Arc<Settings>, Arc<Cgroups>),
        (dirty, events): (Arc<Dirty>, Arc<Events>),
    ) -> Self {
        Self {
            program: identity(&settings.names),
            settings,
            cgroups,
            dirty,
            events,
            known: Mutex::default(),
            ending: Arc::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self) -> PathBuf {
        self.settings.run_dir.join(SOCKET)
    }

    /// What there is. Needs a tokio runtime. Blocking.
    pub fn observe(&self) -> Option<NameServer> {
        let mut known = self.known();
        let parts = self.parts();
        match self.state(&mut known) {
            Some(state) => Some(NameServer {
                current: self.is_current(&state, &parts),
                zone: state.zone.and_then(|zone| zone.parse().ok()),
            }),
            None => (!parts.is_empty()).then(NameServer::default),
        }
    }

    /// Its cgroups, without those of servers that were asked to end.
    fn parts(&self) -> BTreeSet<String> {
        let mut parts = self.cgroups.parts(GROUP);
        let ending = self.ending();
        parts.retain(|part| !ending.contains(part));
        parts
    }

    /// Whether a server is the only one, and the installed one.
    fn is_current(&self, state: &State, parts: &BTreeSet<String>) -> bool {
        let others = parts.iter().filter(|part| **part != state.part);
        let same = |program: &String| *program == state.program;
        state.version == VERSION
            && self.program.as_ref().is_none_or(same)
            && !others
                .into_iter()
                .any(|part| self.cgroups.is_populated(GROUP, part))
    }

    /// What the server says of itself. None: there is none that answers.
    fn state(&self, known: &mut Known) -> Option<State> {
        let limit = if known.silent {
            SILENT_LIMIT
        } else {
            REPLY_LIMIT
        };
        // One that was connected to before may have ended; then there may be another.
        for _ in 0..2 {
            if known.connection.is_none()
                && let Some((connection, watch)) = self.connect()
            {
                known.connection = Some(connection);
                known.watch = watch;
            }
            let connection = known.connection.as_ref()?;
            let begun = Instant::now();
            let asked = set_limit(connection, limit).is_ok();
            match ask(connection, &Request::State, &[]) {
                Ok((Reply::State(state), _)) if asked => {
                    known.silent = false;
                    known.watch.begin();
                    return Some(state);
                }
                Ok(_) | Err(_) => known.connection = None,
            }
            known.silent = begun.elapsed() >= limit;
            if known.silent {
                // It is given up: what follows is said of that.
                known.watch.expect();
                return None;
            }
        }
        None
    }

    /// A connection to whoever accepts it. Its end is no news before it has answered: a server that is killed still
    /// accepts for as long as the kernel has not come to its socket, after the end of the connection before.
    fn connect(&self) -> Option<(OwnedFd, Watch)> {
        let connection = packet::connect(&self.socket()).ok()?;
        let begin = self.log().end();
        let watch = self.keep(&connection, REPLY_LIMIT, begin).ok()?;
        watch.expect();
        Some((connection, watch))
    }

    fn log(&self) -> Log {
        Log::of(&self.settings.run_dir)
    }

    /// Bounds what is waited for on a connection, and marks the host as dirty when that ends. What its
    /// server prints begins at `begin` of the log.
    fn keep(&self, connection: &OwnedFd, limit: Duration, begin: u64) -> Result<Watch, Error> {
        set_limit(connection, limit).map_err(|e| Attempt::SpeakToNames.failed(e))?;
        let end = connection
            .try_clone()
            .map_err(|e| Attempt::WatchNames.failed(e))?;
        let end = packet::watch(end)?;
        let (dirty, events, log) = (
            Arc::clone(&self.dirty),
            Arc::clone(&self.events),
            self.log(),
        );
        let watch = Watch::default();
        let watched = watch.clone();
        tokio::spawn(async move {
            while let Ok(mut ready) = end.readable().await {
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                match rustix::net::recv(end.get_ref(), &mut [0u8; 1], flags) {
                    Ok((0, _)) => break,
                    // A reply, which is somebody else's.
                    Ok(_) | Err(Errno::AGAIN | Errno::INTR) => ready.clear_ready(),
                    Err(_) => break,
                }
            }
            if !watched.is_expected() {
                events.add(Kind::Failed, None, log.ended(begin));
            }
            dirty.mark();
        });
        Ok(watch)
    }

    /// Has a server answer this and nothing else. Needs a tokio runtime. Blocking.
    ///
    /// # Errors
    /// What is in the way, with who holds a port.
    pub fn ensure(&self, zone: &Zone) -> Result<(), Error> {
        let mut known = self.known();
        let old = self.state(&mut known);
        let parts = self.parts();
        if old.is_some() && known.sockets.is_empty() {
            known.sockets = Self::fetch_sockets(&known)?;
        }
        if old.is_none() && known.sockets.is_empty() && !parts.is_empty() {
            // It holds the sockets and gives nobody any.
            self.cgroups.remove_pod(GROUP)?;
        }
        let changed = bind::all(&mut known.sockets, &zone.addresses)?;
        if let Some(state) = &old
            && !changed
            && self.is_current(state, &parts)
            && let Some(connection) = &known.connection
        {
            set_limit(connection, REPLY_LIMIT).map_err(|e| Attempt::ServeNames.failed(e))?;
            return serve(connection, zone);
        }
        let connection = self.spawn(zone, &known.sockets, &parts)?;
        if old.is_some() {
            known.watch.expect();
        }
        known.watch = connection.watch;
        let before = known.connection.replace(connection.server);
        let others = parts.into_iter().filter(|part| *part != connection.part);
        let (ending, gone): (Vec<String>, Vec<String>) =
            others.partition(|part| old.as_ref().is_some_and(|old| old.part == *part));
        for part in gone {
            self.cgroups.remove_part(GROUP, &part)?;
        }
        if let (Some(before), Some(part)) = (before, ending.into_iter().next()) {
            self.end(before, part);
        }
        Ok(())
    }

    /// Asks a server to end, and sees that it does.
    fn end(&self, connection: OwnedFd, part: String) {
        self.ending().insert(part.clone());
        let (cgroups, ending) = (Arc::clone(&self.cgroups), Arc::clone(&self.ending));
        tokio::task::spawn_blocking(move || {
            if ask(&connection, &Request::End, &[]).is_ok()
                && set_limit(&connection, END_LIMIT).is_ok()
            {
                // Its end of the connection closes when it ends.
                let _ = packet::receive(connection.as_fd());
            }
            if let Err(error) = cgroups.remove_part(GROUP, &part) {
                tracing::warn!(part, %error, "a name server of before is still there");
            }
            let mut ending = ending.lock().unwrap_or_else(PoisonError::into_inner);
            ending.remove(&part);
        });
    }

    fn fetch_sockets(known: &Known) -> Result<Vec<OwnedFd>, Error> {
        let Some(connection) = &known.connection else {
            return Ok(Vec::new());
        };
        match ask(connection, &Request::Sockets, &[])? {
            (Reply::Sockets { more }, mut sockets) => {
                let failed = |reason: Reason| Attempt::TakeNameSockets.failed(reason);
                for _ in 0..more.min(MAX_SOCKETS.div_ceil(SOCKETS_BESIDE)) {
                    let received = packet::receive(connection.as_fd());
                    let received = received.map_err(|e| failed(e.into()))?;
                    let (_, further) = received.ok_or_else(|| failed(Reason::Ended))?;
                    sockets.extend(further);
                }
                sockets.truncate(MAX_SOCKETS);
                Ok(sockets)
            }
            (other, _) => {
                Err(Attempt::TakeNameSockets.failed(Reason::UnexpectedReply(Box::new(other))))
            }
        }
    }

    /// Starts a server that serves a zone, in a cgroup that is none of `taken`.
    fn spawn(
        &self,
        zone: &Zone,
        sockets: &[OwnedFd],
        taken: &BTreeSet<String>,
    ) -> Result<Spawned, Error> {
        let ending = self.ending().clone();
        let free = |part: &String| !taken.contains(part) && !ending.contains(part);
        let part = (0..=u32::MAX)
            .map(|n| n.to_string())
            .find(free)
            .unwrap_or_default();
        let spawned = self.execute(&part, zone, sockets);
        if spawned.is_err() {
            // What is left of it is nobody's to find: nothing is observed where there is none.
            let _ = match taken.is_empty() && ending.is_empty() {
                true => self.cgroups.remove_pod(GROUP),
                false => self.cgroups.remove_part(GROUP, &part),
            };
        }
        spawned.map(|(server, watch)| Spawned {
            server,
            watch,
            part,
        })
    }

    // long: one step after the other, of which none makes sense without the one before
    fn execute(
        &self,
        part: &str,
        zone: &Zone,
        sockets: &[OwnedFd],
    ) -> Result<(OwnedFd, Watch), Error> {
        fn failed(reason: impl Into<Reason>) -> Error {
            Attempt::StartNames.failed(reason)
        }
        let program = &self.settings.names;
        let entrance = self.cgroups.ensure(GROUP, part)?;
        if let Err(error) = self.cgroups.set_limits(GROUP, part, &LIMITS) {
            tracing::warn!(%error, "the name server has no limits");
        }
        let cgroups: Vec<OwnedFd> = [entrance.procs].into_iter().chain(entrance.tasks).collect();
        let new = self.settings.run_dir.join(format!("{SOCKET}.new"));
        let _ = fs::remove_file(&new);
        let listener = packet::listen(&new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).map_err(failed)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(self.settings.attach_dir(), flags, Mode::empty());
        let root = root.map_err(failed)?;
        let log = self.log();
        let (stderr, begin) = log.open().map_err(failed)?;
        let (ours, theirs) = packet::pair()?;
        // It is reaped with the shims.
        let started = Command::new(program)
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn();
        started.map_err(|source| {
            let program = program.clone();
            failed(Reason::Execute { program, source })
        })?;
        let sockets = packet::borrow(sockets);
        let (beside, rest) = sockets.split_at(sockets.len().min(SOCKETS_BESIDE));
        let setup = Setup {
            id: self.settings.host_config().id_base,
            program: self.program.clone().unwrap_or_default(),
            part: part.to_owned(),
            cgroups: cgroups.len(),
            more: rest.len().div_ceil(SOCKETS_BESIDE),
        };
        let text = serde_json::to_vec(&setup).map_err(failed)?;
        let handed = [root.as_fd(), listener.as_fd()].into_iter();
        let handed = handed
            .chain(packet::borrow(&cgroups))
            .chain(beside.iter().copied());
        let handed: Vec<BorrowedFd<'_>> = handed.collect();
        packet::send(ours.as_fd(), &text, &handed).map_err(failed)?;
        for further in rest.chunks(SOCKETS_BESIDE) {
            packet::send(ours.as_fd(), b"d", further).map_err(failed)?;
        }
        let watch = self.keep(&ours, READY_LIMIT, begin)?;
        // Until it serves, whoever starts it says what becomes of it.
        watch.expect();
        serve(&ours, zone).map_err(|failure| {
            let stderr = log.since(begin);
            let failure = Box::new(failure);
            failed(Reason::DoesNotServe { failure, stderr })
        })?;
        set_limit(&ours, REPLY_LIMIT).map_err(failed)?;
        fs::rename(&new, self.socket()).map_err(failed)?;
        watch.begin();
        Ok((ours, watch))
    }

    /// Ends the server and gives its sockets back. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn remove(&self) -> Result<(), Error> {
        let mut known = self.known();
        known.watch.expect();
        *known = Known::default();
        self.cgroups.remove_pod(GROUP)?;
        for name in [SOCKET, "names.sock.new", Log::NAME] {
            match fs::remove_file(self.settings.run_dir.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Attempt::Remove(name).failed(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A server that serves.
struct Spawned {
    server: OwnedFd,
    watch: Watch,
    part: String,
}

/// Which program a file is, as far as another file in its place is another one.
fn identity(program: &Path) -> Option<String> {
    let found = fs::metadata(program).ok()?;
    let (seconds, nanos) = (found.mtime(), found.mtime_nsec());
    Some(format!(
        "{}:{}:{}:{seconds}.{nanos}",
        found.dev(),
        found.ino(),
        found.size()
    ))
}

fn set_limit(connection: &OwnedFd, limit: Duration) -> std::io::Result<()> {
    rustix::io::ioctl_fionbio(connection, false)?;
    sockopt::set_socket_timeout(connection, Timeout::Recv, Some(limit))?;
    Ok(sockopt::set_socket_timeout(
        connection,
        Timeout::Send,
        Some(limit),
    )?)
}

/// Sends a request and waits for its reply.
fn ask(
    connection: &OwnedFd,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), Error> {
    let failed = |reason: Reason| Attempt::AskNames.failed(reason);
    let text = serde_json::to_vec(request).map_err(|e| failed(e.into()))?;
    packet::send(connection.as_fd(), &text, fds).map_err(|e| failed(e.into()))?;
    let received = packet::receive(connection.as_fd()).map_err(|e| failed(e.into()))?;
    let (text, fds) = received.ok_or_else(|| failed(Reason::Ended))?;
    let reply = serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
    Ok((reply, fds))
}

/// Has a server answer a zone.
fn serve(connection: &OwnedFd, zone: &Zone) -> Result<(), Error> {
    let failed = |reason: Reason| Attempt::ServeNames.failed(reason);
    let text = serde_json::to_vec(zone).map_err(|e| failed(e.into()))?;
    if text.len() as u64 > MAX_ZONE {
        return Err(failed(Reason::TooManyNames));
    }
    let sealed = packet::sealed("zone", &text)?;
    match ask(connection, &Request::Serve, &[sealed.as_fd()])?.0 {
        Reply::State(state) if state.zone == Some(zone.digest().to_string()) => Ok(()),
        Reply::Failed { why } => Err(failed(Words(why).into())),
        other => Err(failed(Reason::UnexpectedReply(Box::new(other)))),
    }
}
