//! Asking others: one server after the other, over UDP, and over TCP what does not fit into that.
//!
//! A query is written anew: it carries the question and nothing else of the client's. Its number
//! and its port are of the kernel's randomness, it comes from a socket of its own that is connected
//! to the server, and only a message with that number and that question is its answer; anything
//! else is waited past. What several clients ask at once is asked once: each query in flight is one
//! more chance for who guesses its number and its port (RFC 5452, section 5).

use crate::{
    answer::{Forward, MAX_UDP},
    cache::{Cache, Key},
    limits::times,
    relay::{self, Answer, Received},
};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::OnceCell,
    time::timeout,
};

/// The port of DNS.
const PORT: u16 = 53;

/// The most servers that are asked, as resolv.conf(5) has it.
const MAX_SERVERS: usize = 3;

/// How often all of them are.
const ROUNDS: usize = 2;

/// The most servers of which it is remembered that they did not answer.
const MAX_DISTRUSTED: usize = 256;

/// A question that is being asked, and what came of it.
type Flight = Rc<OnceCell<Option<Rc<Answer>>>>;

/// Asks others, and remembers what they said.
#[derive(Default)]
pub struct Forwarder {
    cache: RefCell<Cache>,
    /// What is being asked. As many as there are places at most.
    flights: RefCell<HashMap<Key, Flight>>,
    /// When a server did not answer.
    failed: RefCell<HashMap<IpAddr, Instant>>,
}

/// What came of asking one server.
enum Outcome {
    Answer(Answer),
    /// It said that it can't, which another server may.
    Refusal(Answer),
    Nothing,
}

impl Forwarder {
    /// The bytes to reply with.
    pub async fn ask(&self, forward: &Forward) -> Vec<u8> {
        let key = key_of(forward);
        if let Some((known, age)) = self.cache.borrow_mut().get(&key, Instant::now()) {
            return known.reply(&forward.frame, age);
        }
        let flight = Rc::clone(self.flights.borrow_mut().entry(key.clone()).or_default());
        let ask = async || {
            let answer = timeout(times::QUERY, self.ask_all(forward)).await;
            let answer = answer.ok().flatten().map(Rc::new);
            self.flights.borrow_mut().remove(&key);
            if let Some(answer) = &answer {
                let mut cache = self.cache.borrow_mut();
                cache.put(key.clone(), Rc::clone(answer), Instant::now());
            }
            answer
        };
        match flight.get_or_init(ask).await {
            Some(answer) => answer.reply(&forward.frame, 0),
            None => forward.frame.refuse(ResponseCode::ServFail),
        }
    }

    /// Forgets what was said.
    pub fn clear(&self) {
        self.cache.borrow_mut().clear();
        self.flights.borrow_mut().clear();
        self.failed.borrow_mut().clear();
    }

    async fn ask_all(&self, forward: &Forward) -> Option<Answer> {
        let mut refusal = None;
        for _ in 0..ROUNDS {
            for server in self.in_order(&forward.upstreams) {
                match ask_one(forward, server).await {
                    Outcome::Answer(answer) => {
                        self.failed.borrow_mut().remove(&server);
                        return Some(answer);
                    }
                    Outcome::Refusal(answer) => refusal = refusal.or(Some(answer)),
                    Outcome::Nothing => self.distrust(server),
                }
            }
            // All of them answered: they will say the same again.
            if refusal.is_some() {
                break;
            }
        }
        refusal
    }

    /// The servers in their order, those that did not answer lately after the others.
    fn in_order(&self, servers: &[IpAddr]) -> Vec<IpAddr> {
        let failed = self.failed.borrow();
        let mut order: Vec<IpAddr> = servers.iter().copied().take(MAX_SERVERS).collect();
        order.sort_by_key(|server| {
            failed
                .get(server)
                .is_some_and(|at| at.elapsed() < times::DISTRUST)
        });
        order
    }

    fn distrust(&self, server: IpAddr) {
        let mut failed = self.failed.borrow_mut();
        if failed.len() >= MAX_DISTRUSTED {
            failed.clear();
        }
        failed.insert(server, Instant::now());
    }
}

fn key_of(forward: &Forward) -> Key {
    Key {
        name: forward.query.name.to_ascii().to_ascii_lowercase(),
        kind: forward.query.query_type,
        dnssec_ok: forward.dnssec_ok,
        checking_disabled: forward.checking_disabled,
        upstreams: Rc::clone(&forward.upstreams),
    }
}

async fn ask_one(forward: &Forward, server: IpAddr) -> Outcome {
    let mut query = Message::new(random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.metadata.checking_disabled = forward.checking_disabled;
    query.add_query(forward.query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP).set_version(0);
    edns.set_dnssec_ok(forward.dnssec_ok);
    query.set_edns(edns);
    let Ok(bytes) = query.to_vec() else {
        return Outcome::Nothing;
    };
    let Some(question) = relay::question(&bytes) else {
        return Outcome::Nothing;
    };
    let asked = (query.metadata.id, question);
    let server = SocketAddr::new(server, PORT);
    let answer = match timeout(times::TRY, over_udp(server, &bytes, asked)).await {
        Ok(Ok(Received::Truncated)) => {
            timeout(times::TRY_TCP, over_tcp(server, &bytes, asked)).await
        }
        received => received,
    };
    match answer {
        Ok(Ok(Received::Answer(answer))) if answer.settles() => Outcome::Answer(answer),
        Ok(Ok(Received::Answer(answer))) => Outcome::Refusal(answer),
        Ok(Ok(Received::Nothing | Received::Truncated) | Err(_)) | Err(_) => Outcome::Nothing,
    }
}

async fn over_udp(
    server: SocketAddr,
    bytes: &[u8],
    (id, question): (u16, &[u8]),
) -> io::Result<Received> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    // A server may send more than it was asked for; what does not fit is cut off, and no answer.
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match relay::read(&buffer[..length], id, question) {
            Received::Nothing => {}
            received => return Ok(received),
        }
    }
}

async fn over_tcp(
    server: SocketAddr,
    bytes: &[u8],
    (id, question): (u16, &[u8]),
) -> io::Result<Received> {
    let mut stream = TcpStream::connect(server).await?;
    send(&mut stream, bytes).await?;
    let answer = receive(&mut stream, u16::MAX.into()).await?;
    Ok(relay::read(&answer, id, question))
}

/// Sends a message over TCP, with its length before it (RFC 1035, section 4.2.2).
pub async fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(bytes);
    stream.write_all(&whole).await
}

/// Receives a message of `most` bytes at most, as [`send`] sends it.
pub async fn receive(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A number that nobody can guess.
fn random() -> u16 {
    let mut bytes = [0; 2];
    // It fails for no length as small as this (getrandom(2)).
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u16::from_be_bytes(bytes)
}
