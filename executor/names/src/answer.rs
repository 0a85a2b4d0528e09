//! From a query to what becomes of it: pure, but for the turn of names with several addresses.
//!
//! *Guarantees*: who is no client of the zone gets nothing, not even a refusal: an address that is
//! only pretended is not answered to. What ends with the pods' domain, and addresses of the pods'
//! networks, are answered here or not at all: they are never forwarded, and neither is a name that
//! the client's view knows, whatever is asked of it. Of who is on internal networks only nothing is
//! forwarded.

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA},
    },
};
use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
};
use tank_plan::target::{Zone, names::DOMAIN};

/// How long an answer about a pod holds, in seconds: what is kept by a resolver inside a pod is that
/// old at most.
pub const TTL: u32 = 5;

/// The most bytes of an answer over UDP, whatever a client says it takes: what no path has to
/// fragment (DNS flag day 2020).
pub const MAX_UDP: u16 = 1232;

/// The most bytes of an answer over UDP to who says nothing (RFC 1035, section 4.2.1).
const MIN_UDP: u16 = 512;

/// A message's fixed part (RFC 1035, section 4.1.1).
pub const HEADER: usize = 12;

/// The most bytes of a query: a name of 255, an OPT record, and options that nobody heeds.
pub const MAX_QUERY: usize = 1024;

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a query.
pub enum Verdict {
    /// Nothing.
    Silence,
    /// This is sent back.
    Reply(Vec<u8>),
    /// Others are asked.
    Forward(Forward),
}

/// A query that others are asked.
pub struct Forward {
    /// What is asked for.
    pub query: Query,
    /// Whether signatures are wanted (RFC 3225).
    pub dnssec_ok: bool,
    /// Whether they are left for the client to check (RFC 4035, section 3.2.2).
    pub checking_disabled: bool,
    /// Whom to ask, in this order.
    pub upstreams: Rc<[IpAddr]>,
    /// What the reply is made from.
    pub frame: Frame,
}

/// What an answer repeats of its query, and how large it may be.
#[derive(Clone, Debug)]
pub struct Frame {
    metadata: Metadata,
    queries: Vec<Query>,
    /// None: the query had none, and the answer has none.
    edns: Option<Edns>,
    limit: u16,
}

impl Frame {
    fn of(query: &Message, transport: Transport) -> Self {
        let mut metadata = Metadata::response_from_request(&query.metadata);
        metadata.recursion_available = true;
        let edns = query.edns.as_ref().map(|asked| {
            let mut own = Edns::new();
            own.set_max_payload(MAX_UDP).set_version(0);
            own.set_dnssec_ok(asked.flags().dnssec_ok);
            own
        });
        let limit = match (transport, &query.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, Some(asked)) => asked.max_payload().clamp(MIN_UDP, MAX_UDP),
            (Transport::Udp, None) => MIN_UDP,
        };
        Self {
            metadata,
            queries: query.queries.clone(),
            edns,
            limit,
        }
    }

    /// The bytes of a reply; of one that is too large for its way, that it is (RFC 2181, section 9).
    pub fn reply(&self, code: ResponseCode, fill: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata = self.metadata;
        message.metadata.response_code = code;
        message.queries.clone_from(&self.queries);
        fill(&mut message);
        // What is below it in the extended code (RFC 6891, section 6.1.3) is the encoder's.
        message.edns.clone_from(&self.edns);
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= usize::from(self.limit) => bytes,
            // Records that were read are written again; those of pods are few.
            Ok(_) => message.truncate().to_vec().unwrap_or_default(),
            Err(_) => {
                let mut failed = message.truncate();
                failed.metadata.truncation = false;
                failed.metadata.response_code = ResponseCode::ServFail;
                failed.to_vec().unwrap_or_default()
            }
        }
    }

    /// The head of a reply: its header, for the number of records of which there is room, and its
    /// question. None: the question can't be written.
    pub fn head(&self, code: u8, authentic: bool) -> Option<Vec<u8>> {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata = self.metadata;
        message.metadata.response_code = ResponseCode::from_low(code);
        message.metadata.authentic_data = authentic;
        message.queries.clone_from(&self.queries);
        message.to_vec().ok()
    }

    /// The OPT record of a reply (RFC 6891, section 6.1.2), where its query had one.
    pub fn options(&self) -> Option<[u8; 11]> {
        let edns = self.edns.as_ref()?;
        let [high, low] = edns.max_payload().to_be_bytes();
        let signed = u8::from(edns.flags().dnssec_ok) << 7;
        Some([0, 0, 41, high, low, 0, 0, signed, 0, 0, 0])
    }

    /// The most bytes of a reply.
    pub fn limit(&self) -> usize {
        self.limit.into()
    }

    /// That the reply is too large for its way.
    pub fn truncated(&self, code: u8) -> Vec<u8> {
        let code = ResponseCode::from_low(code);
        self.reply(code, |message| message.metadata.truncation = true)
    }

    /// A reply without records.
    pub fn refuse(&self, code: ResponseCode) -> Vec<u8> {
        self.reply(code, |_| {})
    }
}

/// The addresses of a name, and whose turn it is.
#[derive(Default)]
struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    next_v4: Cell<usize>,
    next_v6: Cell<usize>,
}

/// The items from the one on whose turn it is, once around.
fn in_turn<T: Copy>(items: &[T], next: &Cell<usize>) -> Vec<T> {
    if items.is_empty() {
        return Vec::new();
    }
    let first = next.get() % items.len();
    next.set(first + 1);
    items[first..]
        .iter()
        .chain(&items[..first])
        .copied()
        .collect()
}

/// The names that some clients see.
#[derive(Default)]
struct View {
    names: HashMap<String, Addresses>,
    /// What is above a name and none itself: there is nothing there, and something below.
    parents: HashSet<String>,
    reverse: HashMap<IpAddr, Name>,
}

struct Client {
    view: Rc<View>,
    /// What it sees behind that.
    shared: Rc<View>,
    upstreams: Rc<[IpAddr]>,
    /// Others are never asked for it.
    closed: bool,
}

/// A zone, ready to be asked.
pub struct Answers {
    domain: Name,
    zone: Zone,
    clients: HashMap<IpAddr, Client>,
}

impl Answers {
    /// Reads a zone.
    ///
    /// # Errors
    /// A name of it that DNS has no form for, in words.
    pub fn new(zone: Zone) -> Result<Self, String> {
        let domain = Name::from_ascii(format!("{DOMAIN}.")).map_err(|e| e.to_string())?;
        let mut views = HashMap::new();
        for (name, view) in &zone.views {
            views.insert(name.as_str(), Rc::new(read_view(view)?));
        }
        let (shared, nothing) = (Rc::new(read_view(&zone.shared)?), Rc::default());
        let others: Rc<[IpAddr]> = zone.upstreams.clone().into();
        let clients = zone.clients.iter().map(|(address, client)| {
            let view = views.get(client.view.as_str()).cloned().unwrap_or_default();
            let upstreams = match client.upstreams.is_empty() {
                true => Rc::clone(&others),
                false => client.upstreams.clone().into(),
            };
            let client = Client {
                view,
                shared: Rc::clone(if client.apart { &nothing } else { &shared }),
                upstreams,
                closed: client.closed,
            };
            (*address, client)
        });
        let clients = clients.collect();
        Ok(Self {
            domain,
            clients,
            zone,
        })
    }

    /// The zone it was made from.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Whether anything is said to an address.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.clients.contains_key(&address)
    }

    /// What becomes of what an address sent.
    pub fn decide(&self, from: IpAddr, bytes: &[u8], transport: Transport) -> Verdict {
        let Some(client) = self.clients.get(&from) else {
            return Verdict::Silence;
        };
        // An answer is never answered: two servers would not stop.
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return Verdict::Silence;
        }
        let read = Some(bytes).filter(|bytes| is_plain(bytes));
        let Some(Ok(message)) = read.map(Message::from_vec) else {
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            let wrong = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return wrong.to_vec().map_or(Verdict::Silence, Verdict::Reply);
        };
        let frame = Frame::of(&message, transport);
        let refuse = |code| Verdict::Reply(frame.refuse(code));
        if message.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(ResponseCode::BADVERS);
        }
        let [query] = message.queries.as_slice() else {
            return refuse(ResponseCode::FormErr);
        };
        if query.query_class != DNSClass::IN || is_refused(query.query_type) {
            return refuse(ResponseCode::Refused);
        }
        if let Some(reply) = self.own(client, query, &frame) {
            return Verdict::Reply(reply);
        }
        // Who does not want others to be asked wants to know what is in the cache. A query leads out of
        // the network of who must not reach anybody there: its name says what was to be said.
        if client.closed || !message.metadata.recursion_desired {
            return refuse(ResponseCode::Refused);
        }
        Verdict::Forward(Forward {
            query: query.clone(),
            dnssec_ok: message
                .edns
                .as_ref()
                .is_some_and(|edns| edns.flags().dnssec_ok),
            checking_disabled: message.metadata.checking_disabled,
            upstreams: Rc::clone(&client.upstreams),
            frame,
        })
    }

    /// The reply about what only this server knows. None: others are to be asked.
    fn own(&self, client: &Client, query: &Query, frame: &Frame) -> Option<Vec<u8>> {
        let (view, shared) = (&*client.view, &*client.shared);
        let name = &query.name;
        let below = self.domain.zone_of(name);
        let text = text_of(name);
        let local = if below {
            let end = text.len().saturating_sub(DOMAIN.len() + 1);
            &text[..end]
        } else {
            &text
        };
        let found = view.names.get(local).or_else(|| shared.names.get(local));
        if let Some(found) = found.filter(|_| !local.is_empty()) {
            let records = match query.query_type {
                RecordType::A => {
                    let addresses = in_turn(&found.v4, &found.next_v4).into_iter();
                    addresses.map(|address| RData::A(A(address))).collect()
                }
                RecordType::AAAA => {
                    let addresses = in_turn(&found.v6, &found.next_v6).into_iter();
                    addresses
                        .map(|address| RData::AAAA(AAAA(address)))
                        .collect()
                }
                _ => Vec::new(),
            };
            let apex = if below { &self.domain } else { name };
            return Some(self.authoritative(frame, ResponseCode::NoError, records, name, apex));
        }
        if below {
            let exists = [view, shared]
                .iter()
                .any(|view| view.parents.contains(local));
            let exists = exists || local.is_empty();
            let records = match query.query_type {
                RecordType::SOA if local.is_empty() => vec![RData::SOA(self.soa())],
                _ => Vec::new(),
            };
            let code = code(exists);
            return Some(self.authoritative(frame, code, records, name, &self.domain));
        }
        self.reverse([view, shared], query, frame)
    }

    /// The reply about an address of the pods' networks.
    fn reverse(&self, views: [&View; 2], query: &Query, frame: &Frame) -> Option<Vec<u8>> {
        let name = &query.name;
        let asked = name.parse_arpa_name().ok()?;
        let network = self
            .zone
            .networks
            .iter()
            .find(|network| network.contains(&asked))?;
        let labels = match asked.addr() {
            IpAddr::V4(_) => 2 + usize::from(network.prefix_len()) / 8,
            IpAddr::V6(_) => 2 + usize::from(network.prefix_len()) / 4,
        };
        let mut apex = name.trim_to(labels.min(usize::from(name.num_labels())));
        apex.set_fqdn(true);
        let whole = asked.prefix_len() == asked.max_prefix_len();
        let mut found = views
            .iter()
            .filter_map(|view| view.reverse.get(&asked.addr()));
        let found = found.next().filter(|_| whole);
        let records = match found {
            Some(target) if query.query_type == RecordType::PTR => {
                vec![RData::PTR(PTR(target.clone()))]
            }
            _ => Vec::new(),
        };
        let code = code(found.is_some() || !whole);
        Some(self.authoritative(frame, code, records, name, &apex))
    }

    /// A reply of which there is no better one; `apex` is the name of what it is a part of.
    fn authoritative(
        &self,
        frame: &Frame,
        code: ResponseCode,
        records: Vec<RData>,
        name: &Name,
        apex: &Name,
    ) -> Vec<u8> {
        frame.reply(code, |message| {
            message.metadata.authoritative = true;
            // Without it nobody would know for how long there is nothing (RFC 2308, section 3).
            if records.is_empty() {
                let soa = RData::SOA(self.soa());
                message.add_authority(Record::from_rdata(apex.clone(), TTL, soa));
            }
            let records = records.into_iter();
            message.add_answers(records.map(|data| Record::from_rdata(name.clone(), TTL, data)));
        })
    }

    fn soa(&self) -> SOA {
        let hostmaster = self.domain.prepend_label("hostmaster");
        let hostmaster = hostmaster.unwrap_or_else(|_| self.domain.clone());
        let times = [3600, 600, 86_400];
        let [refresh, retry, expire] = times;
        SOA::new(
            self.domain.clone(),
            hostmaster,
            1,
            refresh,
            retry,
            expire,
            TTL,
        )
    }
}

fn code(exists: bool) -> ResponseCode {
    match exists {
        true => ResponseCode::NoError,
        false => ResponseCode::NXDomain,
    }
}

/// Whether a message's header says that it is one question, no answer, and at most an OPT record and
/// a signature beside it: records that nobody asked for are not read, since that takes as long as
/// their names are.
fn is_plain(bytes: &[u8]) -> bool {
    let count = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    bytes.len() <= MAX_QUERY && count(4) <= 1 && count(6) == 0 && count(8) == 0 && count(10) <= 2
}

/// Transfers, everything at once, and what is only spoken of in a message's own terms (RFC 6895,
/// section 3.1: 128 to 255).
fn is_refused(kind: RecordType) -> bool {
    let number = u16::from(kind);
    (128..=255).contains(&number) || kind == RecordType::OPT || kind == RecordType::ZERO
}

/// A name in lower case, without the dot at its end.
fn text_of(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn read_view(view: &tank_plan::target::names::View) -> Result<View, String> {
    let mut read = View::default();
    for (name, addresses) in &view.names {
        let entry: &mut Addresses = read.names.entry(name.clone()).or_default();
        for address in addresses {
            match address {
                IpAddr::V4(address) => entry.v4.push(*address),
                IpAddr::V6(address) => entry.v6.push(*address),
            }
        }
        let mut above = name.as_str();
        while let Some((_, rest)) = above.split_once('.') {
            read.parents.insert(rest.to_owned());
            above = rest;
        }
    }
    for (address, name) in &view.reverse {
        let full = Name::from_ascii(format!("{name}.{DOMAIN}."));
        read.reverse.insert(
            *address,
            full.map_err(|e| format!("the name `{name}`: {e}"))?,
        );
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
