//! A pod's shim: its state, the descriptors that it hands out, and its pod's network.

use super::{
    Notification,
    connection::{Answer, Connection, OBSERVE_LIMIT, Silence},
    error::{Attempt, Error, Reason, unexpected},
    forkserver::SpawnedShim,
};
use crate::{
    cache::{Cached, Version},
    dirty::DEBOUNCE,
};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tank_model::Name;
use tank_proto::shim::{FailureKind, Reply, Request, State};
use tank_sys::{
    Error as SysError, namespace::open_routes, packet, process::SIGKILL, route::Routes,
    watch::Changes,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

/// How long a main process may outlive `SIGKILL`.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How long a shim may take to end its containers and itself.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// What is known of a pod by its shim. A new connection is a new one.
#[derive(Debug)]
pub struct Shim {
    pub pod: String,
    /// No other connection of this process has the same.
    id: u64,
    connection: Arc<Connection>,
    state: Cached<State>,
    /// Raised by what changes the kernel's side of the pod: its cgroups, files, network.
    kernel: Arc<Version>,
    pid: OnceLock<i32>,
    namespaces: OnceLock<Namespaces>,
    routes: tokio::sync::OnceCell<Routes>,
    /// The mounts of generated files, by container; their version is the run.
    files: Mutex<BTreeMap<String, RunFiles>>,
    notifications: mpsc::Sender<Notification>,
    network: Arc<NetworkWatch>,
}

/// The start of a run and the directory of its files, if its shim can show it.
type RunFiles = (u64, Option<Arc<OwnedFd>>);

/// What notifies of changes in a pod's network, and the task that waits for them. Its socket keeps
/// the namespace alive: it ends when the shim does.
#[derive(Debug, Default)]
struct NetworkWatch(Mutex<Option<(Arc<Changes>, tokio::task::AbortHandle)>>);

impl NetworkWatch {
    fn lock(&self) -> MutexGuard<'_, Option<(Arc<Changes>, tokio::task::AbortHandle)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, watch: Option<(Arc<Changes>, tokio::task::AbortHandle)>) {
        let before = std::mem::replace(&mut *self.lock(), watch);
        if let Some((_, task)) = before {
            task.abort();
        }
    }
}

impl Drop for NetworkWatch {
    fn drop(&mut self) {
        self.set(None);
    }
}

/// The namespaces of a pod, opened.
#[derive(Debug)]
pub struct Namespaces {
    pub user: OwnedFd,
    /// None: the pod uses the host's.
    pub net: Option<OwnedFd>,
}

impl Shim {
    /// Connects to the shim that listens at `path`.
    ///
    /// # Errors
    /// What `connect(2)` gives: `ECONNREFUSED` when the shim is gone.
    pub fn connect(
        pod: &str,
        path: &Path,
        notifications: mpsc::Sender<Notification>,
    ) -> Result<Arc<Self>, SysError> {
        let socket = packet::connect(path)?;
        // Who listens is the shim itself. It may be unable to say so.
        let peer = rustix::net::sockopt::socket_peercred(&socket);
        let shim = Self::over(socket, pod, notifications)?;
        if let Ok(peer) = peer {
            let _ = shim.pid.set(peer.pid.as_raw_nonzero().get());
        }
        Ok(shim)
    }

    /// Speaks to a shim that was just spawned.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` gives.
    pub fn new(
        pod: &str,
        spawned: SpawnedShim,
        notifications: mpsc::Sender<Notification>,
    ) -> Result<Arc<Self>, SysError> {
        let shim = Self::over(spawned.socket, pod, notifications)?;
        let _ = shim.pid.set(spawned.pid);
        let mut fds = spawned.fds.into_iter();
        if let Some(user) = fds.next() {
            let _ = shim.namespaces.set(Namespaces {
                user,
                net: fds.next(),
            });
        }
        if let (Some(routes), Some(changes)) = (fds.next(), fds.next()) {
            shim.watch_network(Changes::from_fd(changes)?);
            let _ = shim.routes.set(Routes::from_fd(routes));
        }
        Ok(shim)
    }

    fn over(
        socket: OwnedFd,
        pod: &str,
        notifications: mpsc::Sender<Notification>,
    ) -> Result<Arc<Self>, SysError> {
        static LAST_ID: AtomicU64 = AtomicU64::new(0);
        let network = Arc::<NetworkWatch>::default();
        let ended = Arc::clone(&network);
        let connection =
            Connection::new(socket, pod, notifications.clone(), move || ended.set(None))?;
        Ok(Arc::new(Self {
            pod: pod.to_owned(),
            id: LAST_ID.fetch_add(1, Ordering::Relaxed),
            connection,
            state: Cached::default(),
            kernel: Arc::default(),
            pid: OnceLock::new(),
            namespaces: OnceLock::new(),
            routes: tokio::sync::OnceCell::new(),
            files: Mutex::default(),
            notifications,
            network,
        }))
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// The shim has neither ended nor hung up.
    pub fn is_alive(&self) -> bool {
        self.connection.is_alive()
    }

    /// As [`Connection::is_connected`].
    pub fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    /// Changes whenever the shim's state may.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.connection.subscribe()
    }

    /// Since when the shim does not answer. None: as far as is known, it would.
    pub fn silence(&self) -> Option<Silence> {
        self.connection.silence()
    }

    /// As [`Connection::note_silence`].
    pub fn note_silence(&self) {
        self.connection.note_silence();
    }

    /// As [`Connection::request`].
    ///
    /// # Errors
    /// The shim's own refusal, or that it is gone or does not answer.
    pub async fn request(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, Error> {
        self.connection.request(request, fds).await
    }

    /// As [`Connection::ask`].
    ///
    /// # Errors
    /// As [`Shim::request`].
    pub async fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
        self.connection.ask(request, fds).await
    }

    /// Asks for its state, whatever is known, and notes if it does not answer.
    pub async fn check(&self) {
        if self.silence().is_none() && timeout(OBSERVE_LIMIT, self.fetch_state()).await.is_err() {
            self.note_silence();
        }
    }

    /// The shim's report of itself and its containers. That changes only by a request, or with an
    /// event; until then the last one is used.
    ///
    /// # Errors
    /// As [`Shim::request`].
    pub async fn state(&self) -> Result<Arc<State>, Error> {
        match self.state.get(self.connection.version()) {
            Some(state) => Ok(state),
            None => self.fetch_state().await,
        }
    }

    /// Its last report, however old. None: it never sent one.
    pub fn last_state(&self) -> Option<Arc<State>> {
        self.state.last()
    }

    async fn fetch_state(&self) -> Result<Arc<State>, Error> {
        let version = self.connection.version();
        match self.request(&Request::State, &[]).await? {
            (Reply::State(state), _) => Ok(self.state.put(version, state)),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// The version of all that can be read of the pod: from its shim and from the kernel.
    pub fn version(&self) -> u64 {
        self.connection.version() + self.kernel.get()
    }

    /// Whatever was read of the pod is outdated.
    pub fn invalidate(&self) {
        self.connection.invalidate();
    }

    /// Whatever was read of the kernel's side of the pod is outdated.
    pub fn invalidate_kernel(&self) {
        self.kernel.invalidate();
    }

    /// Drains the kernel's notifications of the pod's network. Whether there were any.
    pub fn drain(&self) -> bool {
        let watch = self
            .network
            .lock()
            .as_ref()
            .map(|(changes, _)| Arc::clone(changes));
        // A socket that fails notifies of nothing: then nothing is known to be as it was.
        let changed = watch.is_some_and(|changes| changes.drain().unwrap_or(true));
        if changed {
            self.invalidate_kernel();
        }
        changed
    }

    /// The shim's process, if it is known.
    pub fn known_pid(&self) -> Option<i32> {
        self.pid.get().copied()
    }

    /// The shim's process, asked for once.
    ///
    /// # Errors
    /// As [`Shim::request`].
    pub async fn pid(&self) -> Result<i32, Error> {
        match self.pid.get() {
            Some(pid) => Ok(*pid),
            None => Ok(*self.pid.get_or_init({
                let pid = self.state().await?.pid;
                move || pid
            })),
        }
    }

    /// The pod's namespaces, asked for once.
    ///
    /// # Errors
    /// As [`Shim::request`].
    pub async fn namespaces(&self) -> Result<&Namespaces, Error> {
        if let Some(known) = self.namespaces.get() {
            return Ok(known);
        }
        let (_, fds) = self.request(&Request::Namespaces, &[]).await?;
        let mut fds = fds.into_iter();
        let user = fds.next().ok_or_else(|| unexpected(Reply::Namespaces))?;
        Ok(self.namespaces.get_or_init(|| Namespaces {
            user,
            net: fds.next(),
        }))
    }

    /// The directory of the files Tank wrote for one run of a container, asked for once. None: this
    /// shim is too old to show it.
    ///
    /// # Errors
    /// When the shim is gone, or does not answer.
    pub async fn files(
        &self,
        container: &str,
        started: u64,
    ) -> Result<Option<Arc<OwnedFd>>, Error> {
        let known = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            let of_run = files.get(container).filter(|(run, _)| *run == started);
            of_run.map(|(_, dir)| dir.clone())
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let request = Request::Files {
            container: container.to_owned(),
        };
        let dir = match self.request(&request, &[]).await {
            Ok((Reply::Files, fds)) => match fds.into_iter().next() {
                Some(mount) => {
                    let dir = tank_sys::mount::open_root(&mount)?;
                    Some(Arc::new(dir))
                }
                None => None,
            },
            Ok((other, _)) => return Err(unexpected(other)),
            Err(error) if error.kind() == FailureKind::NotRunning || !self.is_alive() => {
                return Err(error);
            }
            // Version 1 does not know the request.
            Err(_) => None,
        };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(container.to_owned(), (started, dir.clone()));
        Ok(dir)
    }

    /// A socket to the routing tables of the pod's own network namespace, opened once.
    ///
    /// # Errors
    /// As [`Shim::request`]; and when the pod has no network of its own.
    pub async fn routes(&self) -> Result<&Routes, Error> {
        let open = || async {
            let namespaces = self.namespaces().await?;
            let Some(net) = &namespaces.net else {
                return Err(Attempt::EnterNetwork.failed(Reason::HostNetwork));
            };
            let (routes, changes) = open_routes(net.as_fd())?;
            self.watch_network(changes);
            Ok(routes)
        };
        self.routes.get_or_try_init(open).await
    }

    /// As [`Shim::namespaces`], if they are known.
    pub fn known_namespaces(&self) -> Option<&Namespaces> {
        self.namespaces.get()
    }

    /// The pod's own network namespace, if that is known.
    pub fn known_network(&self) -> Option<BorrowedFd<'_>> {
        self.namespaces.get()?.net.as_ref().map(AsFd::as_fd)
    }

    /// As [`Shim::routes`], if it was opened.
    pub fn known_routes(&self) -> Option<&Routes> {
        self.routes.get()
    }

    /// Notifies of changes in the pod's network for as long as the shim lives.
    fn watch_network(&self, changes: Changes) {
        let (pod, notifications) = (self.pod.clone(), self.notifications.clone());
        let (changes, kernel) = (Arc::new(changes), Arc::clone(&self.kernel));
        let waiting = Arc::clone(&changes);
        let task = tokio::spawn(async move {
            while waiting.ready().await.is_ok() {
                match waiting.drain() {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(_) => break,
                }
                // What was read is outdated before anybody is woken to read it again.
                kernel.invalidate();
                if notifications
                    .send(Notification::Changed(pod.clone()))
                    .await
                    .is_err()
                {
                    break;
                }
                // An interface that flaps keeps nobody busy.
                tokio::time::sleep(DEBOUNCE).await;
            }
        });
        self.network
            .set(self.is_alive().then(|| (changes, task.abort_handle())));
        if !self.is_alive() {
            task.abort();
        }
    }

    /// Ends a main process: the signal, and `SIGKILL` when the time is over.
    ///
    /// # Errors
    /// As [`Shim::request`]; and when the process outlives `SIGKILL`.
    pub async fn end(&self, container: &Name, signal: i32, limit: Duration) -> Result<(), Error> {
        let ended = || async {
            let state = self.state().await?;
            let found = state
                .containers
                .iter()
                .find(|found| found.name == container.as_str());
            Ok::<bool, Error>(found.is_none_or(|found| found.exited.is_some()))
        };
        // Subscribed before it is asked: an end in between is not missed.
        let mut changes = self.subscribe();
        for (signal, limit) in [(signal, limit), (SIGKILL, KILL_LIMIT)] {
            let deadline = Instant::now() + limit;
            // To one that has ended it does nothing.
            let request = Request::Signal {
                container: container.to_string(),
                signal,
            };
            self.request(&request, &[]).await?;
            loop {
                if ended().await? {
                    return Ok(());
                }
                if timeout_at(deadline, changes.changed()).await.is_err() {
                    break;
                }
            }
        }
        Err(Attempt::StopContainer.failed(Reason::Outlives))
    }

    /// Ends the shim, and with it whatever is left of its containers.
    pub async fn shut_down(&self) {
        let mut changes = self.subscribe();
        let deadline = Instant::now() + SHUTDOWN_LIMIT;
        self.connection.expect_end();
        // One that does not answer is killed with its group.
        let _ = self.request(&Request::Shutdown, &[]).await;
        while self.is_alive() && timeout_at(deadline, changes.changed()).await.is_ok() {}
    }
}
