//! Asking others: one server after the other, over UDP, and over TCP what does not fit into that.
//!
//! A query is written anew: it carries the question and nothing else of the client's. Its number
//! and its port are of the kernel's randomness, it comes from a socket of its own that is connected
//! to the server, and only a message with that number and that question is its answer; anything
//! else is waited past. The answer is read, and written anew for the client.

use crate::{
    answer::{Forward, MAX_UDP},
    cache::{Cache, Key},
    limits::times,
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::RecordType,
};
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

/// Asks others, and remembers what they said.
#[derive(Default)]
pub struct Forwarder {
    cache: RefCell<Cache>,
    /// When a server did not answer.
    failed: RefCell<HashMap<IpAddr, Instant>>,
}

/// What came of asking one server.
enum Outcome {
    Answer(Message, usize),
    /// It said that it can't, which another server may.
    Refusal(Message),
    Nothing,
}

impl Forwarder {
    /// The bytes to reply with.
    pub async fn ask(&self, forward: &Forward) -> Vec<u8> {
        let key = key_of(forward);
        if let Some((known, age)) = self.cache.borrow_mut().get(&key, Instant::now()) {
            return reply(forward, &known, age);
        }
        match timeout(times::QUERY, self.ask_all(forward)).await {
            Ok(Some((message, size))) => {
                let message = Rc::new(message);
                let kept = Rc::clone(&message);
                self.cache.borrow_mut().put(key, kept, size, Instant::now());
                reply(forward, &message, 0)
            }
            Ok(None) | Err(_) => forward.frame.refuse(ResponseCode::ServFail),
        }
    }

    /// Forgets what was said.
    pub fn clear(&self) {
        self.cache.borrow_mut().clear();
        self.failed.borrow_mut().clear();
    }

    async fn ask_all(&self, forward: &Forward) -> Option<(Message, usize)> {
        let mut refusal = None;
        for _ in 0..ROUNDS {
            for server in self.in_order(&forward.upstreams) {
                match ask_one(forward, server).await {
                    Outcome::Answer(message, size) => {
                        self.failed.borrow_mut().remove(&server);
                        return Some((message, size));
                    }
                    Outcome::Refusal(message) => refusal = refusal.or(Some((message, 0))),
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

/// An answer of `age` seconds for the client.
fn reply(forward: &Forward, answer: &Message, age: u32) -> Vec<u8> {
    forward
        .frame
        .reply(answer.metadata.response_code, |message| {
            message.metadata.authentic_data = answer.metadata.authentic_data;
            let sections = [
                (&answer.answers, &mut message.answers),
                (&answer.authorities, &mut message.authorities),
                (&answer.additionals, &mut message.additionals),
            ];
            for (from, to) in sections {
                to.extend(
                    from.iter()
                        .filter(|record| record.record_type() != RecordType::OPT)
                        .cloned(),
                );
                for record in to {
                    record.decrement_ttl(age);
                }
            }
        })
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
    let asked = (query.metadata.id, &forward.query);
    let server = SocketAddr::new(server, PORT);
    let answer = match timeout(times::TRY, over_udp(server, &bytes, asked)).await {
        Ok(Ok((message, _))) if message.metadata.truncation => {
            match timeout(times::TRY_TCP, over_tcp(server, &bytes, asked)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) | Err(_) => Err(()),
            }
        }
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(()),
    };
    match answer {
        Ok((message, size)) => match message.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Outcome::Answer(message, size),
            _ => Outcome::Refusal(message),
        },
        Err(()) => Outcome::Nothing,
    }
}

/// Whether a message is the answer to what was asked.
fn is_answer(message: &Message, (id, query): (u16, &Query)) -> bool {
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query
        && message.queries.len() == 1
        && message.queries[0].name == query.name
        && message.queries[0].query_type == query.query_type
        && message.queries[0].query_class == query.query_class
}

async fn over_udp(
    server: SocketAddr,
    bytes: &[u8],
    asked: (u16, &Query),
) -> io::Result<(Message, usize)> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    // A server may send more than it was asked for; what does not fit is cut off, and no message.
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(message) = Message::from_vec(&buffer[..length])
            && is_answer(&message, asked)
        {
            return Ok((message, length));
        }
    }
}

async fn over_tcp(
    server: SocketAddr,
    bytes: &[u8],
    asked: (u16, &Query),
) -> io::Result<(Message, usize)> {
    let mut stream = TcpStream::connect(server).await?;
    send(&mut stream, bytes).await?;
    let answer = receive(&mut stream).await?;
    let message = Message::from_vec(&answer).map_err(io::Error::other)?;
    match is_answer(&message, asked) {
        true => Ok((message, answer.len())),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends a message over TCP, with its length before it (RFC 1035, section 4.2.2).
pub async fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(bytes);
    stream.write_all(&whole).await
}

/// Receives a message as [`send`] sends it.
pub async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
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
