//! The daemon's side of [`tank_proto::shim`]: speaking to the shims that are there.

use crate::{observe::kernel::Seen, pods::forkserver::Born, pods::pending::Pending};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tank_proto::shim::{
    self, Call, Event, Failure, FailureKind, FromShim, MAX_SPEC, Reply, Request, State,
};
use tank_sys::{Error as SysError, clock::boot_millis, packet, route::Routes, watch::Changes};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

/// The longest a shim may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The longest it may take to start a process; its own limit is shorter.
const START_LIMIT: Duration = Duration::from_secs(45);

/// How long who looks at all pods waits for one of them, once: until it answers it is not waited
/// for again.
pub const OBSERVE_LIMIT: Duration = Duration::from_secs(3);

type Answer = (Reply, Vec<OwnedFd>);

/// A connection to a pod's shim.
#[derive(Debug)]
pub struct Shim {
    pub pod: String,
    socket: Arc<AsyncFd<OwnedFd>>,
    pending: Requests,
    alive: Arc<AtomicBool>,
    /// It did not answer in time, and has not said anything since.
    silent: Arc<AtomicBool>,
    /// That was said.
    announced: Arc<AtomicBool>,
    /// Counts what the shim says by itself, its end included.
    news: watch::Sender<u64>,
    /// Counts what the shim was asked that changes its state.
    asked: AtomicU64,
    /// Counts what happened to the pod in the kernel, by whomever.
    touched: Arc<AtomicU64>,
    /// The last state, and the age at which it was asked for.
    known: Mutex<Option<(u64, State)>>,
    /// The last look at the kernel's side of the pod.
    pub seen: Mutex<Option<Arc<Seen>>>,
    sending: tokio::sync::Mutex<()>,
    pid: OnceLock<i32>,
    namespaces: OnceLock<Namespaces>,
    routes: tokio::sync::OnceCell<Routes>,
    /// The mounts of generated files, by container and run.
    files: Mutex<BTreeMap<String, RunFiles>>,
    notices: mpsc::Sender<Notice>,
    watching: Arc<Watching>,
}

/// The requests that wait for their answers.
type Requests = Arc<Mutex<Pending<oneshot::Sender<Answer>>>>;

/// A request that was registered. Dropped before its answer came, it leaves its place behind, or
/// none if it was not sent.
struct Registered<'a> {
    requests: &'a Requests,
    id: u64,
    sent: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut requests = lock(self.requests);
        if self.sent {
            requests.abandon(self.id)
        } else {
            requests.remove(self.id)
        }
    }
}

fn lock(requests: &Requests) -> std::sync::MutexGuard<'_, Pending<oneshot::Sender<Answer>>> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That a shim says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Milliseconds of CLOCK_BOOTTIME.
    pub since: u64,
    /// It may be at a request that takes long.
    pub busy: bool,
}

/// The directory of a run's files, if its shim can show it.
type RunFiles = (u64, Option<Arc<OwnedFd>>);

/// What tells of changes in a pod's network, and the task that waits for them. Its socket keeps the
/// namespace alive: it ends when the shim does.
#[derive(Debug, Default)]
struct Watching(Mutex<Option<(Arc<Changes>, tokio::task::AbortHandle)>>);

impl Watching {
    fn get(&self) -> std::sync::MutexGuard<'_, Option<(Arc<Changes>, tokio::task::AbortHandle)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, watch: Option<(Arc<Changes>, tokio::task::AbortHandle)>) {
        let before = std::mem::replace(&mut *self.get(), watch);
        if let Some((_, task)) = before {
            task.abort();
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.set(None);
    }
}

/// The namespaces of a pod, opened.
#[derive(Debug)]
pub struct Namespaces {
    pub user: OwnedFd,
    pub net: Option<OwnedFd>,
}

/// The least time between two looks because of changes.
pub const CALM: Duration = Duration::from_millis(20);

/// What a shim says by itself.
#[derive(Debug)]
pub enum Notice {
    Event(String, Event),
    Gone(String),
    /// Something changed in the pod's network.
    Changed(String),
    /// It does not answer.
    Silent(String),
    /// It answers again.
    Answers(String),
}

impl Shim {
    /// Connects to the shim that listens at `path`.
    ///
    /// # Errors
    /// What `connect(2)` gives: `ECONNREFUSED` when the shim is gone.
    pub fn connect(
        pod: &str,
        path: &Path,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Arc<Self>, SysError> {
        let socket = packet::connect(path)?;
        // Who listens is the shim itself. It may be unable to say so.
        let peer = rustix::net::sockopt::socket_peercred(&socket);
        let shim = Self::over(socket, pod, notices)?;
        if let Ok(peer) = peer {
            let _ = shim.pid.set(peer.pid.as_raw_nonzero().get());
        }
        Ok(shim)
    }

    /// Speaks to a shim that was just made; gives where the time went with it.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` gives.
    pub fn new(
        pod: &str,
        born: Born,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Arc<Self>, SysError> {
        let shim = Self::over(born.socket, pod, notices)?;
        let _ = shim.pid.set(born.pid);
        let mut fds = born.fds.into_iter();
        if let Some(user) = fds.next() {
            let _ = shim.namespaces.set(Namespaces {
                user,
                net: fds.next(),
            });
        }
        if let (Some(routes), Some(changes)) = (fds.next(), fds.next()) {
            shim.watch(Changes::from_fd(changes)?);
            let _ = shim.routes.set(Routes::from_fd(routes));
        }
        Ok(shim)
    }

    fn over(
        socket: OwnedFd,
        pod: &str,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Arc<Self>, SysError> {
        let socket = packet::watch(socket)?;
        let shim = Arc::new(Self {
            pod: pod.to_owned(),
            socket: Arc::new(socket),
            pending: Arc::default(),
            alive: Arc::new(AtomicBool::new(true)),
            silent: Arc::default(),
            announced: Arc::default(),
            news: watch::Sender::new(0),
            asked: AtomicU64::new(0),
            touched: Arc::default(),
            known: Mutex::default(),
            seen: Mutex::default(),
            sending: tokio::sync::Mutex::new(()),
            pid: OnceLock::new(),
            namespaces: OnceLock::new(),
            routes: tokio::sync::OnceCell::new(),
            files: Mutex::default(),
            notices: notices.clone(),
            watching: Arc::default(),
        });
        tokio::spawn(receive(
            pod.to_owned(),
            Arc::clone(&shim.socket),
            Arc::clone(&shim.pending),
            [&shim.alive, &shim.silent, &shim.announced].map(Arc::clone),
            shim.news.clone(),
            Arc::clone(&shim.watching),
            notices,
        ));
        Ok(shim)
    }

    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Whether the other end of the connection is open at this moment, whatever was received until
    /// now.
    pub fn is_connected(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let mut poll = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|hung_up| hung_up == 0)
    }

    /// Changes whenever the shim says something by itself, or ends.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Why the shim says nothing. None: as far as is known, it would answer.
    pub fn silence(&self) -> Option<Silence> {
        if !self.silent.load(Ordering::SeqCst) {
            return None;
        }
        let (requests, now) = (lock(&self.pending), boot_millis());
        // It may have answered in the moment in which that was noted.
        Some(Silence {
            since: requests.oldest()?,
            busy: requests.is_busy(now),
        })
    }

    /// It did not answer in time: until it says something, nobody waits for it again.
    pub fn note_silence(&self) {
        if !self.is_alive() || lock(&self.pending).oldest().is_none() {
            return;
        }
        self.silent.store(true, Ordering::SeqCst);
        if !self.is_busy() && !self.announced.swap(true, Ordering::SeqCst) {
            // Where they are so many that one is lost, the loop is awake.
            let _ = self.notices.try_send(Notice::Silent(self.pod.clone()));
        }
    }

    /// Asks for its state, whatever is known, and notes if it does not answer.
    pub async fn check(&self) {
        if self.silence().is_none() && timeout(OBSERVE_LIMIT, self.fetch_state()).await.is_err() {
            self.note_silence();
        }
    }

    fn failed(&self, why: &str) -> Failure {
        let what = format!("speak to the shim of {}", self.pod);
        Failure {
            what,
            why: why.to_owned(),
            kind: FailureKind::Other,
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The shim's own refusal, or that it is gone or does not answer.
    pub async fn request(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, Failure> {
        if lock(&self.pending).is_overdue(boot_millis(), ANSWER_LIMIT.as_millis() as u64) {
            // Whoever asked before may have had less patience than to say so.
            self.note_silence();
        }
        if self.silence().is_some_and(|silence| !silence.busy) {
            self.note_silence();
            return Err(self.failed("it does not answer"));
        }
        self.ask(request, fds).await
    }

    /// As [`Shim::request`], also of one that did not answer the last time.
    pub async fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Failure> {
        let changes = matches!(
            request,
            Request::Start | Request::Forget { .. } | Request::Shutdown
        );
        // Before it is sent and after it is answered: what was said between is of neither moment.
        let _forget = changes.then(|| Forget::new(self));
        let limit = if matches!(request, Request::Start | Request::Exec) {
            START_LIMIT
        } else {
            ANSWER_LIMIT
        };
        let asked = Instant::now();
        let mut deadline = asked + limit;
        let (sender, receiver) = oneshot::channel();
        let sent = async {
            let _sending = self.sending.lock().await;
            self.send(request, fds, sender).await
        };
        let busy = |_| self.failed("it takes no more requests");
        // Kept until it is answered, or nobody waits any more.
        let _registered = timeout_at(deadline, sent).await.map_err(busy)??;
        tokio::pin!(receiver);
        loop {
            match timeout_at(deadline, &mut receiver).await {
                Ok(Ok((Reply::Failed(failure), _))) => return Err(failure),
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_)) => return Err(self.failed("it is gone")),
                // It is at what somebody else asked for, which has a limit of its own.
                Err(_) if asked.elapsed() < START_LIMIT && self.is_busy() => {
                    deadline = Instant::now() + OBSERVE_LIMIT
                }
                Err(_) => break,
            }
        }
        self.note_silence();
        Err(self.failed("it does not answer in time"))
    }

    fn is_busy(&self) -> bool {
        lock(&self.pending).is_busy(boot_millis())
    }

    /// Registers a request and sends it. The caller holds `sending`, so the ids are in the order of
    /// the packets.
    async fn send(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        sender: oneshot::Sender<Answer>,
    ) -> Result<Registered<'_>, Failure> {
        if !self.is_alive() {
            return Err(self.failed("it is gone"));
        }
        let now = boot_millis();
        let long = matches!(request, Request::Start | Request::Exec);
        let until = if long {
            now + START_LIMIT.as_millis() as u64
        } else {
            now
        };
        let id = lock(&self.pending).add(sender, now, until);
        let id = id.ok_or_else(|| self.failed("too many requests wait for its answer"))?;
        let mut registered = Registered {
            requests: &self.pending,
            id,
            sent: false,
        };
        let call = Call {
            id: Some(id),
            request: request.clone(),
        };
        let bytes = serde_json::to_vec(&call).map_err(|e| self.failed(&e.to_string()))?;
        loop {
            let mut guard = self
                .socket
                .writable()
                .await
                .map_err(|e| self.failed(&e.to_string()))?;
            match guard.try_io(|socket| packet::send(socket.as_fd(), &bytes, fds)) {
                Ok(Ok(())) => {
                    registered.sent = true;
                    return Ok(registered);
                }
                Ok(Err(error)) => return Err(self.failed(&error.to_string())),
                Err(_would_block) => {}
            }
        }
    }

    /// What the shim has to say of itself and its containers. That changes only when it is asked
    /// for something, or with an event; what it said last holds until then.
    ///
    /// # Errors
    /// As [`Shim::request`].
    pub async fn state(&self) -> Result<State, Failure> {
        let age = self.age();
        if let Some((known, state)) = self.known().as_ref()
            && *known == age
        {
            return Ok(state.clone());
        }
        self.fetch_state().await
    }

    /// What it said last, however old. None: it never did.
    pub fn last_state(&self) -> Option<State> {
        self.known().as_ref().map(|(_, state)| state.clone())
    }

    async fn fetch_state(&self) -> Result<State, Failure> {
        let age = self.age();
        match self.request(&Request::State, &[]).await? {
            (Reply::State(state), _) => {
                // If something happened meanwhile, it is the state of a moment that has passed.
                *self.known() = Some((age, state.clone()));
                Ok(state)
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<(u64, State)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often something has happened that changes what the shim says of itself.
    fn age(&self) -> u64 {
        *self.news.borrow() + self.asked.load(Ordering::SeqCst)
    }

    /// Has the shim say everything again when it is asked next, and the kernel.
    pub fn forget(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
    }

    /// Has the kernel's side of the pod looked at again.
    pub fn touch(&self) {
        self.touched.fetch_add(1, Ordering::SeqCst);
    }

    /// Hears what was told of the pod's network until now. Says whether that was anything.
    pub fn hear(&self) -> bool {
        let watch = self
            .watching
            .get()
            .as_ref()
            .map(|(changes, _)| Arc::clone(changes));
        // A socket that fails tells nothing: then nothing is known to be as it was.
        let heard = watch.is_some_and(|changes| changes.drain().unwrap_or(true));
        if heard {
            self.touch();
        }
        heard
    }

    /// What is [seen](Self::seen) of the pod holds as long as this is the same.
    pub fn moment(&self) -> u64 {
        self.age() + self.touched.load(Ordering::SeqCst)
    }

    /// The shim's process, if it is known.
    pub fn known_pid(&self) -> Option<i32> {
        self.pid.get().copied()
    }

    /// The shim's process, asked for once.
    ///
    /// # Errors
    /// As [`Shim::request`].
    pub async fn pid(&self) -> Result<i32, Failure> {
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
    pub async fn namespaces(&self) -> Result<&Namespaces, Failure> {
        if let Some(known) = self.namespaces.get() {
            return Ok(known);
        }
        let (_, fds) = self.request(&Request::Namespaces, &[]).await?;
        let mut fds = fds.into_iter();
        let user = fds.next().ok_or_else(|| unexpected(&Reply::Namespaces))?;
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
    ) -> Result<Option<Arc<OwnedFd>>, Failure> {
        let known = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files
                .get(container)
                .filter(|(run, _)| *run == started)
                .map(|(_, dir)| dir.clone())
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let dir = match self
            .request(
                &Request::Files {
                    container: container.to_owned(),
                },
                &[],
            )
            .await
        {
            Ok((Reply::Files, fds)) => match fds.into_iter().next() {
                Some(mount) => Some(Arc::new(
                    tank_sys::mount::open_root(&mount).map_err(|e| failure(&e))?,
                )),
                None => None,
            },
            Ok((other, _)) => return Err(unexpected(&other)),
            Err(failure) if failure.kind == FailureKind::NotRunning || !self.is_alive() => {
                return Err(failure);
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
    pub async fn routes(&self) -> Result<&Routes, Failure> {
        let open = || async {
            let namespaces = self.namespaces().await?;
            let Some(net) = &namespaces.net else {
                let why = "it uses the host's".to_owned();
                return Err(Failure {
                    what: "enter the pod's network".to_owned(),
                    why,
                    kind: FailureKind::Other,
                });
            };
            let (routes, changes) =
                tank_sys::namespace::open_routes(net.as_fd()).map_err(|e| failure(&e))?;
            self.watch(changes);
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

    /// Tells of changes in the pod's network for as long as the shim lives.
    fn watch(&self, changes: Changes) {
        let (pod, notices) = (self.pod.clone(), self.notices.clone());
        let (changes, touched) = (Arc::new(changes), Arc::clone(&self.touched));
        let waiting = Arc::clone(&changes);
        let task = tokio::spawn(async move {
            while waiting.ready().await.is_ok() {
                match waiting.drain() {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(_) => break,
                }
                // First what was seen is old, then somebody looks.
                touched.fetch_add(1, Ordering::SeqCst);
                if notices.send(Notice::Changed(pod.clone())).await.is_err() {
                    break;
                }
                // An interface that flaps keeps nobody busy.
                tokio::time::sleep(CALM).await;
            }
        });
        self.watching
            .set(self.is_alive().then(|| (changes, task.abort_handle())));
        if !self.is_alive() {
            task.abort();
        }
    }
}

/// Forgets a shim's state twice: when it is made and when it goes.
struct Forget<'a>(&'a Shim);

impl<'a> Forget<'a> {
    fn new(shim: &'a Shim) -> Self {
        shim.forget();
        Self(shim)
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

/// Reads packets for as long as the shim lives: answers to whoever asked, events to everyone.
async fn receive(
    pod: String,
    socket: Arc<AsyncFd<OwnedFd>>,
    pending: Requests,
    [alive, silent, announced]: [Arc<AtomicBool>; 3],
    news: watch::Sender<u64>,
    watching: Arc<Watching>,
    notices: mpsc::Sender<Notice>,
) {
    loop {
        let Ok(mut guard) = socket.readable().await else {
            break;
        };
        let received = match guard.try_io(|socket| packet::receive(socket.as_fd())) {
            Err(_would_block) => continue,
            Ok(Ok(Some(received))) => received,
            Ok(Ok(None) | Err(_)) => break,
        };
        // Whatever it says, it lives.
        silent.store(false, Ordering::SeqCst);
        if announced.swap(false, Ordering::SeqCst) {
            let _ = notices.send(Notice::Answers(pod.clone())).await;
        }
        let (bytes, fds) = received;
        let answered = |id: Option<u64>, answer: Answer| {
            // Whoever asked may have stopped waiting.
            let sender = lock(&pending).take(id);
            let _ = sender.map(|sender| sender.send(answer));
        };
        match serde_json::from_slice(&bytes) {
            Ok(FromShim::Answer(shim::Answer {
                id,
                reply: Reply::Sealed,
            })) => match unseal(fds) {
                Ok(reply) => answered(Some(id), (reply, Vec::new())),
                Err(failure) => answered(Some(id), (Reply::Failed(failure), Vec::new())),
            },
            Ok(FromShim::Answer(shim::Answer { id, reply })) => answered(Some(id), (reply, fds)),
            Ok(FromShim::Reply(reply)) => answered(None, (reply, fds)),
            Ok(FromShim::Event(event)) => {
                // First what was known is old, then somebody looks.
                news.send_modify(|count| *count += 1);
                let _ = notices.send(Notice::Event(pod.clone(), event)).await;
            }
            // A newer shim may say more than is known here; an answer that nobody understands is
            // one to nobody.
            Err(error) if is_event(&bytes) => {
                tracing::warn!(pod, %error, "a shim told of something unknown")
            }
            Err(error) => {
                tracing::warn!(pod, %error, "a shim said something unknown");
                break;
            }
        }
    }
    alive.store(false, Ordering::Relaxed);
    watching.set(None);
    lock(&pending).clear();
    news.send_modify(|count| *count += 1);
    let _ = notices.send(Notice::Gone(pod)).await;
}

/// A reply that is larger than a packet.
fn unseal(fds: Vec<OwnedFd>) -> Result<Reply, Failure> {
    let failed = |why: String| Failure {
        what: "read the shim's answer".to_owned(),
        why,
        kind: FailureKind::Other,
    };
    let file = fds
        .into_iter()
        .next()
        .ok_or_else(|| failed("it is missing".to_owned()))?;
    let bytes = packet::read_sealed(file, MAX_SPEC).map_err(|e| failed(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))
}

fn is_event(packet: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(packet)
        .is_ok_and(|packet| packet.get("event").is_some())
}

pub fn unexpected(reply: &Reply) -> Failure {
    let why = format!("it answered {reply:?}");
    Failure {
        what: "understand the shim".to_owned(),
        why,
        kind: FailureKind::Other,
    }
}

/// A kernel error in the words of the interface.
pub fn failure(error: &SysError) -> Failure {
    let mut why = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        why.push(cause.to_string());
        source = cause.source();
    }
    Failure {
        what: error.what().to_owned(),
        why: why.join(": "),
        kind: FailureKind::Other,
    }
}
