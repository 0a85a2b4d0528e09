//! Requests to a shim and their answers, over one socket.
//!
//! *Guarantees*: an answer goes to whoever asked for it ([`super::pending`]) or to nobody; a request
//! ends at its deadline, and the connection goes on; a shim that does not answer is sent no more
//! requests until a packet of it arrives, so only the first request waits for it in vain. Whatever
//! may change the shim's state raises the [version](Connection::version) before it is sent and
//! after it is answered: a state that was read in between may be either.

use super::{
    Notification,
    error::{Attempt, Error, Reason},
    pending::Pending,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tank_proto::shim::{self, Call, FromShim, MAX_SPEC, Reply, Request};
use tank_sys::{Error as SysError, clock::boot_millis, packet};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

/// The longest a shim may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The longest it may take to start a process; its own limit is shorter.
const START_LIMIT: Duration = Duration::from_secs(45);

/// How long whoever observes all pods waits for one of them, once: until it answers it is not waited
/// for again.
pub const OBSERVE_LIMIT: Duration = Duration::from_secs(3);

/// A reply and the descriptors that came with it.
pub type Answer = (Reply, Vec<OwnedFd>);

/// What came of a request, for whoever waits for that.
type Outcome = Result<Answer, Error>;

/// A connection to a pod's shim.
#[derive(Debug)]
pub struct Connection {
    pod: String,
    socket: AsyncFd<OwnedFd>,
    pending: Mutex<Pending<oneshot::Sender<Outcome>>>,
    sending: tokio::sync::Mutex<()>,
    alive: AtomicBool,
    /// It was asked to end.
    ending: AtomicBool,
    /// It did not answer in time, and no packet of it has arrived since.
    silent: AtomicBool,
    /// Its silence was notified of.
    announced: AtomicBool,
    /// Raised by whatever may change the shim's state: its events, its end, and requests.
    version: watch::Sender<u64>,
    notifications: mpsc::Sender<Notification>,
}

/// A shim does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Milliseconds of CLOCK_BOOTTIME.
    pub since: u64,
    /// It may be carrying out a request that takes long.
    pub busy: bool,
}

/// A request that was registered. Dropped before its answer came, it leaves its place behind, or
/// none if it was not sent.
struct Registered<'a> {
    connection: &'a Connection,
    id: u64,
    sent: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut pending = self.connection.pending();
        if self.sent {
            pending.abandon(self.id)
        } else {
            pending.remove(self.id)
        }
    }
}

/// Raises the version when it is made and when it is dropped.
struct Invalidation<'a>(&'a Connection);

impl<'a> Invalidation<'a> {
    fn begin(connection: &'a Connection) -> Self {
        connection.invalidate();
        Self(connection)
    }
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        self.0.invalidate();
    }
}

impl Connection {
    /// Speaks over a connected socket. `on_end` is called once, when the shim has ended or hung up.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` gives.
    pub fn new(
        socket: OwnedFd,
        pod: &str,
        notifications: mpsc::Sender<Notification>,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Self>, SysError> {
        let connection = Arc::new(Self {
            pod: pod.to_owned(),
            socket: packet::watch(socket)?,
            pending: Mutex::default(),
            sending: tokio::sync::Mutex::new(()),
            alive: AtomicBool::new(true),
            ending: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            version: watch::Sender::new(0),
            notifications,
        });
        let receiving = Arc::clone(&connection);
        tokio::spawn(async move { receiving.receive(on_end).await });
        Ok(connection)
    }

    fn pending(&self) -> MutexGuard<'_, Pending<oneshot::Sender<Outcome>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim has neither ended nor hung up.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Whether the other end is open, by the kernel and not by what was received until now.
    pub fn is_connected(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let mut poll = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|hung_up| hung_up == 0)
    }

    /// Changes whenever the shim's state may.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// How often the shim's state may have changed.
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Whatever was read of the shim is outdated.
    pub fn invalidate(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Since when the shim does not answer. None: as far as is known, it would.
    pub fn silence(&self) -> Option<Silence> {
        if !self.silent.load(Ordering::SeqCst) {
            return None;
        }
        let (pending, now) = (self.pending(), boot_millis());
        // It may have answered while that was noted.
        Some(Silence {
            since: pending.oldest()?,
            busy: pending.is_busy(now),
        })
    }

    /// It did not answer in time: until a packet of it arrives, nobody waits for it again.
    pub fn note_silence(&self) {
        if !self.is_alive() || self.pending().oldest().is_none() {
            return;
        }
        self.silent.store(true, Ordering::SeqCst);
        if !self.is_busy() && !self.announced.swap(true, Ordering::SeqCst) {
            // Where they are so many that one is lost, the loop is awake.
            let _ = self
                .notifications
                .try_send(Notification::Silent(self.pod.clone()));
        }
    }

    fn failed(&self, reason: impl Into<Reason>) -> Error {
        Attempt::Speak(self.pod.clone()).failed(reason)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The shim's own refusal, or that it is gone or does not answer.
    pub async fn request(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, Error> {
        let limit = ANSWER_LIMIT.as_millis() as u64;
        if self.pending().is_overdue(boot_millis(), limit) {
            // Whoever asked before may have given up before the limit, and so not noted it.
            self.note_silence();
        }
        if self.silence().is_some_and(|silence| !silence.busy) {
            self.note_silence();
            return Err(self.failed(Reason::Silent));
        }
        self.ask(request, fds).await
    }

    /// As [`Connection::request`], also of one that did not answer the last time.
    pub async fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
        let changes = matches!(
            request,
            Request::Start | Request::Forget { .. } | Request::Shutdown
        );
        let _invalidation = changes.then(|| Invalidation::begin(self));
        let limit = if is_long(request) {
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
        let busy = |_| self.failed(Reason::Full);
        // Kept until it is answered, or nobody waits any more.
        let _registered = timeout_at(deadline, sent).await.map_err(busy)??;
        tokio::pin!(receiver);
        loop {
            match timeout_at(deadline, &mut receiver).await {
                Ok(Ok(Ok((Reply::Failed(failure), _)))) => return Err(failure.into()),
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(_)) => return Err(self.failed(Reason::Gone)),
                // It carries out an earlier request first, which has a limit of its own.
                Err(_) if asked.elapsed() < START_LIMIT && self.is_busy() => {
                    deadline = Instant::now() + OBSERVE_LIMIT;
                }
                Err(_) => break,
            }
        }
        self.note_silence();
        Err(self.failed(Reason::Late))
    }

    fn is_busy(&self) -> bool {
        self.pending().is_busy(boot_millis())
    }

    /// Registers a request and sends it. The caller holds `sending`, so the ids are in the order of
    /// the packets.
    async fn send(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        sender: oneshot::Sender<Outcome>,
    ) -> Result<Registered<'_>, Error> {
        if !self.is_alive() {
            return Err(self.failed(Reason::Gone));
        }
        let now = boot_millis();
        let until = if is_long(request) {
            now + START_LIMIT.as_millis() as u64
        } else {
            now
        };
        let id = self.pending().add(sender, now, until);
        let id = id.ok_or_else(|| self.failed(Reason::TooManyPending))?;
        let mut registered = Registered {
            connection: self,
            id,
            sent: false,
        };
        let call = Call {
            id: Some(id),
            request: request.clone(),
        };
        let bytes = serde_json::to_vec(&call).map_err(|e| self.failed(e))?;
        loop {
            let writable = self.socket.writable().await;
            let mut guard = writable.map_err(|e| self.failed(e))?;
            match guard.try_io(|socket| packet::send(socket.as_fd(), &bytes, fds)) {
                Ok(Ok(())) => {
                    registered.sent = true;
                    return Ok(registered);
                }
                Ok(Err(error)) => return Err(self.failed(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// Reads packets for as long as the shim lives: answers to whoever asked, events to everyone.
    async fn receive(&self, on_end: impl FnOnce()) {
        loop {
            let Ok(mut guard) = self.socket.readable().await else {
                break;
            };
            let (bytes, fds) = match guard.try_io(|socket| packet::receive(socket.as_fd())) {
                Err(_would_block) => continue,
                Ok(Ok(Some(received))) => received,
                Ok(Ok(None) | Err(_)) => break,
            };
            // Whatever the packet is, the shim answers again.
            self.silent.store(false, Ordering::SeqCst);
            if self.announced.swap(false, Ordering::SeqCst) {
                self.notify(Notification::Answers(self.pod.clone())).await;
            }
            if !self.accept(&bytes, fds).await {
                break;
            }
        }
        self.alive.store(false, Ordering::Relaxed);
        on_end();
        self.pending().clear();
        self.invalidate();
        let pod = self.pod.clone();
        self.notify(match self.ending.load(Ordering::SeqCst) {
            true => Notification::Ended(pod),
            false => Notification::Gone(pod),
        })
        .await;
    }

    /// Its end is no surprise from here on.
    pub fn expect_end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Takes one packet. False: nobody can say whose answer it is, and the connection is over.
    async fn accept(&self, bytes: &[u8], fds: Vec<OwnedFd>) -> bool {
        match serde_json::from_slice(bytes) {
            Ok(FromShim::Answer(shim::Answer {
                id,
                reply: Reply::Sealed,
            })) => {
                let reply = unseal(fds).map_err(|reason| Attempt::ReadReply.failed(reason));
                self.answer(Some(id), reply.map(|reply| (reply, Vec::new())));
            }
            Ok(FromShim::Answer(shim::Answer { id, reply })) => {
                self.answer(Some(id), Ok((reply, fds)))
            }
            Ok(FromShim::Reply(reply)) => self.answer(None, Ok((reply, fds))),
            Ok(FromShim::Event(event)) => {
                // What was read is outdated before anybody is woken to read it again.
                self.invalidate();
                self.notify(Notification::Event(self.pod.clone(), event))
                    .await;
            }
            // A newer shim may notify of more than is known here.
            Err(error) if is_event(bytes) => {
                tracing::warn!(pod = self.pod, %error, "a shim notifies of something unknown");
            }
            Err(error) => {
                tracing::warn!(pod = self.pod, %error, "a shim said something unknown");
                return false;
            }
        }
        true
    }

    fn answer(&self, id: Option<u64>, outcome: Outcome) {
        let waiter = self.pending().take(id);
        // Whoever asked may have stopped waiting.
        let _ = waiter.map(|waiter| waiter.send(outcome));
    }

    async fn notify(&self, notification: Notification) {
        let _ = self.notifications.send(notification).await;
    }
}

fn is_long(request: &Request) -> bool {
    matches!(request, Request::Start | Request::Exec)
}

/// A reply that is larger than a packet.
fn unseal(fds: Vec<OwnedFd>) -> Result<Reply, Reason> {
    let file = fds.into_iter().next().ok_or(Reason::Missing)?;
    let bytes = packet::read_sealed(file, MAX_SPEC)?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn is_event(packet: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(packet)
        .is_ok_and(|packet| packet.get("event").is_some())
}
