//! The sockets on which the server is asked.
//!
//! *Concurrency*: one thread. What is answered from the zone is answered where it is received; what
//! others are asked is a task of its own, and so is each connection. *Limits*: those of
//! [`crate::limits`], for each client and for all. *The end*: no more is received, and what was
//! received is answered; what waits in the sockets is for the process that has them, too.

use crate::{
    answer::{Answers, Forward, MAX_QUERY, Transport, Verdict},
    forward::{Forwarder, receive, send},
    limits::{Buckets, Places, times},
};
use hickory_proto::op::ResponseCode;
use std::{
    cell::{Cell, RefCell},
    io,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::{Duration, Instant},
};
use tank_plan::target::Zone;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::{spawn_local, yield_now},
    time::{sleep, timeout},
};

/// The most queries of one socket until another's turn.
const BATCH: usize = 64;

/// The most queries that others are asked at once, and the most of one client. Each has a socket.
const ASKED: (usize, usize) = (1_024, 128);

/// The most connections at once, and the most of one client.
const CONNECTIONS: (usize, usize) = (512, 32);

/// How long a connection may still say something when the end has come: what it sent before is
/// there already.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long after a connection that could not be accepted (`EMFILE`, `ENOBUFS`) the next one is.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The server.
pub struct Server {
    answers: RefCell<Option<Rc<Answers>>>,
    forwarder: Forwarder,
    buckets: RefCell<Buckets>,
    asked: Places,
    connections: Places,
    answered: Cell<u64>,
    /// Whether there is a zone: before, what is asked is left for who has the sockets, too.
    ready: watch::Sender<bool>,
    ending: watch::Sender<bool>,
}

impl Server {
    /// One that has no zone yet, and says nothing to anybody.
    pub fn new() -> Self {
        Self {
            answers: RefCell::default(),
            forwarder: Forwarder::default(),
            buckets: RefCell::default(),
            asked: Places::new(ASKED.0, ASKED.1),
            connections: Places::new(CONNECTIONS.0, CONNECTIONS.1),
            answered: Cell::new(0),
            ready: watch::Sender::new(false),
            ending: watch::Sender::new(false),
        }
    }

    /// Answers this from now on.
    ///
    /// # Errors
    /// What of it can't be answered; what was answered before still is.
    pub fn set_zone(&self, zone: Zone) -> Result<(), String> {
        let answers = Answers::new(zone)?;
        let mut buckets = self.buckets.borrow_mut();
        buckets.retain(|client| answers.knows(client));
        let before = self.answers.replace(Some(Rc::new(answers)));
        let servers = |answers: &Option<Rc<Answers>>| {
            answers
                .as_ref()
                .map(|answers| answers.zone().upstreams.clone())
        };
        self.ready.send_replace(true);
        // Who is asked now may say something else.
        if servers(&before) != servers(&self.answers.borrow()) {
            self.forwarder.clear();
        }
        Ok(())
    }

    /// The digest of the zone.
    pub fn zone(&self) -> Option<String> {
        let answers = self.answers.borrow();
        answers
            .as_ref()
            .map(|answers| answers.zone().digest().to_string())
    }

    /// How many queries were answered.
    pub fn answered(&self) -> u64 {
        self.answered.get()
    }

    /// Returns when there is a zone.
    async fn is_ready(&self) {
        // It fails when the sender is gone, which is this.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Receives no more.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Returns when the end has come and all that was begun is over, or has had its time.
    pub async fn ended(&self) {
        let mut ending = self.ending.subscribe();
        // It fails when the sender is gone, which is this.
        let _ = ending.wait_for(|ending| *ending).await;
        let over = async {
            while self.asked.taken() + self.connections.taken() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(times::DRAIN, over).await;
    }

    /// Answers what comes over a socket, until the end.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub async fn serve_udp(self: Rc<Self>, socket: UdpSocket) -> io::Result<()> {
        self.is_ready().await;
        let socket = Rc::new(socket);
        let mut ending = self.ending.subscribe();
        // A byte more: what is cut off there is too long.
        let mut buffer = [0; MAX_QUERY + 1];
        loop {
            tokio::select! {
                biased;
                _ = ending.wait_for(|ending| *ending) => return Ok(()),
                ready = socket.readable() => ready?,
            }
            for _ in 0..BATCH {
                match socket.try_recv_from(&mut buffer) {
                    Ok((length, from)) => self.datagram(&socket, &buffer[..length], from),
                    // Nothing is there, or what is there is an error of what was sent before.
                    Err(_) => break,
                }
            }
            yield_now().await;
        }
    }

    fn datagram(self: &Rc<Self>, socket: &Rc<UdpSocket>, bytes: &[u8], from: SocketAddr) {
        match self.decide(from.ip().to_canonical(), bytes, Transport::Udp) {
            Verdict::Silence => {}
            Verdict::Reply(reply) => self.send_datagram(socket, &reply, from),
            Verdict::Forward(forward) => {
                let Some(place) = self.asked.take(from.ip().to_canonical()) else {
                    let busy = forward.frame.refuse(ResponseCode::ServFail);
                    return self.send_datagram(socket, &busy, from);
                };
                let (server, socket) = (Rc::clone(self), Rc::clone(socket));
                spawn_local(async move {
                    let reply = server.forwarder.ask(&forward).await;
                    server.send_datagram(&socket, &reply, from);
                    drop(place);
                });
            }
        }
    }

    /// Sends, unless the socket is full: a client that asks again is answered again, and one that
    /// can't be reached keeps nobody waiting.
    fn send_datagram(&self, socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
        if !reply.is_empty() && socket.try_send_to(reply, to).is_ok() {
            self.answered.set(self.answered.get() + 1);
        }
    }

    /// What becomes of what a client sent.
    fn decide(&self, client: IpAddr, bytes: &[u8], transport: Transport) -> Verdict {
        let Some(answers) = self.answers.borrow().clone() else {
            return Verdict::Silence;
        };
        if !answers.knows(client) || !self.buckets.borrow_mut().take(client, Instant::now()) {
            return Verdict::Silence;
        }
        // A message that the parser trips over costs that message and no other.
        let decide = AssertUnwindSafe(|| answers.decide(client, bytes, transport));
        catch_unwind(decide).unwrap_or(Verdict::Silence)
    }

    /// Takes connections, until the end.
    ///
    /// # Errors
    /// None: what can't be accepted is tried again.
    pub async fn serve_tcp(self: Rc<Self>, listener: TcpListener) -> io::Result<()> {
        self.is_ready().await;
        let mut ending = self.ending.subscribe();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = ending.wait_for(|ending| *ending) => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, from)) = accepted else {
                sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let client = from.ip().to_canonical();
            let known = self
                .answers
                .borrow()
                .as_ref()
                .is_some_and(|zone| zone.knows(client));
            if let Some(place) = self.connections.take(client).filter(|_| known) {
                let server = Rc::clone(&self);
                spawn_local(async move {
                    server.connection(stream, client).await;
                    drop(place);
                });
            }
        }
    }

    /// Answers one message after the other, until the client is done, or takes too long.
    async fn connection(&self, mut stream: TcpStream, client: IpAddr) {
        let mut ending = self.ending.subscribe();
        loop {
            let last = async {
                let _ = ending.wait_for(|ending| *ending).await;
                sleep(LAST_WORDS).await;
            };
            let received = tokio::select! {
                received = timeout(times::IDLE, receive(&mut stream, MAX_QUERY)) => received,
                () = last => return,
            };
            let Ok(Ok(bytes)) = received else { return };
            let reply = match self.decide(client, &bytes, Transport::Tcp) {
                Verdict::Silence => return,
                Verdict::Reply(reply) => reply,
                Verdict::Forward(forward) => self.ask(&forward, client).await,
            };
            match timeout(times::SEND, send(&mut stream, &reply)).await {
                Ok(Ok(())) => self.answered.set(self.answered.get() + 1),
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    async fn ask(&self, forward: &Forward, client: IpAddr) -> Vec<u8> {
        match self.asked.take(client) {
            Some(_place) => self.forwarder.ask(forward).await,
            None => forward.frame.refuse(ResponseCode::ServFail),
        }
    }
}
