//! One owned nftables table, `inet tank`, spoken to over netlink.
//!
//! The whole table is replaced in one transaction: there is no moment with half the rules, and nothing outside the
//! table is looked at or touched. Each rule carries what it is for as its comment (`NFTA_RULE_USERDATA`, the form that
//! `nft list` shows), which is how the observer knows what is there.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`; the crate below types the messages, and expressions it has no
//! type for are written through its open variant, all of them, for one way to read them.

use crate::{Context, Result, netlink::Conversation, route::Cidr};
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, Expressions, Hook, HookNumber, ListAttribute, NfTablesMessage, RuleAttribute,
        RuleMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr as IpSocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
};

/// The table's name.
pub const TABLE: &str = "tank";

/// Everything the table does. Pure data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruleset {
    /// The bridge pods hang on.
    pub bridge: String,
    /// The pods' networks: what leaves them for elsewhere takes the host's address.
    pub networks: Vec<Cidr>,
    pub forwards: Vec<Forward>,
}

/// One published port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Forward {
    /// What it is for, for people: `web/http`.
    pub name: String,
    /// The host's address; unspecified: any of them.
    pub address: IpAddr,
    /// 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    pub port: u16,
    pub to: IpSocketAddr,
}

/// A rule: where, what it is for, and its expressions.
struct Rule {
    chain: &'static str,
    comment: String,
    expressions: Vec<Expressions>,
}

impl Ruleset {
    fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for forward in &self.forwards {
            for chain in ["prerouting", "output"] {
                let family = forward.to.ip();
                let mut expressions = family_is(family);
                expressions.extend(if forward.address.is_unspecified() {
                    vec![fib_daddr_type(), cmp(EQUAL, &RTN_LOCAL.to_ne_bytes())]
                } else {
                    destination_is(forward.address)
                });
                expressions.extend([meta(META_L4PROTO), cmp(EQUAL, &[forward.protocol])]);
                expressions.extend([payload(TRANSPORT, 2, 2), cmp(EQUAL, &forward.port.to_be_bytes())]);
                expressions.extend(dnat(forward.to));
                rules.push(Rule { chain, comment: forward.comment(), expressions });
            }
        }
        let bridge = interface_name(&self.bridge);
        // Publishing on loopback needs `route_localnet` on the bridge, which would let a pod speak to the host's own
        // loopback services (CVE-2020-8558): nothing that comes from the bridge may.
        rules.push(Rule {
            chain: "guard",
            comment: "no pod reaches the host's loopback".to_owned(),
            expressions: [
                family_is(IpAddr::from([127, 0, 0, 0])),
                vec![meta(META_IIFNAME), cmp(EQUAL, &bridge)],
                network_is(DESTINATION, Cidr { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 }, EQUAL),
                vec![drop_packet()],
            ]
            .concat(),
        });
        rules.push(Rule {
            chain: "postrouting",
            comment: "loopback clients of published ports".to_owned(),
            expressions: [
                family_is(IpAddr::from([127, 0, 0, 0])),
                vec![meta(META_OIFNAME), cmp(EQUAL, &bridge)],
                network_is(SOURCE, Cidr { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 }, EQUAL),
                vec![masquerade()],
            ]
            .concat(),
        });
        for network in &self.networks {
            rules.push(Rule {
                chain: "postrouting",
                comment: format!("{network} to elsewhere"),
                expressions: [
                    family_is(network.address),
                    network_is(SOURCE, *network, EQUAL),
                    network_is(DESTINATION, *network, NOT_EQUAL),
                    vec![masquerade()],
                ]
                .concat(),
            });
            // A pod that uses a published port, of itself or of a neighbour, would be answered past the translation.
            rules.push(Rule {
                chain: "postrouting",
                comment: format!("{network} to itself through a published port"),
                expressions: [
                    family_is(network.address),
                    network_is(SOURCE, *network, EQUAL),
                    network_is(DESTINATION, *network, EQUAL),
                    ct_status_has_dnat(),
                    vec![masquerade()],
                ]
                .concat(),
            });
        }
        rules
    }

    /// What [`list`] gives when this ruleset is in place.
    pub fn marks(&self) -> BTreeSet<String> {
        self.rules().iter().map(|rule| format!("{}: {}", rule.chain, rule.comment)).collect()
    }
}

impl Forward {
    fn comment(&self) -> String {
        let protocol = if self.protocol == 17 { "udp" } else { "tcp" };
        format!("{} {}/{protocol} to {}", self.name, IpSocketAddr::new(self.address, self.port), self.to)
    }
}

/// Puts `ruleset` in place of whatever the table holds. Blocking.
///
/// # Errors
/// What the kernel answers; the table is then as it was.
pub fn replace(ruleset: &Ruleset) -> Result<()> {
    let mut batch = Batch::new();
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    for (name, kind, hook, priority) in CHAINS {
        batch.add_chain(name, kind, hook, priority);
    }
    for rule in ruleset.rules() {
        batch.add_rule(rule);
    }
    batch.commit().doing(|| "replace the nftables table `tank`")
}

/// Removes the table, if it is there. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn remove() -> Result<()> {
    let mut batch = Batch::new();
    batch.add_table();
    batch.delete_table();
    batch.commit().doing(|| "remove the nftables table `tank`")
}

/// What every rule of the table is for, with its chain; empty when there is no table. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn list() -> Result<BTreeSet<String>> {
    let rule = RuleMessage { attributes: vec![RuleAttribute::Table(TABLE.to_owned())] };
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let request = NetfilterMessage::new(header, NetfilterMessageInner::NfTables(NfTablesMessage::GetRule(rule)));
    let mut marks = BTreeSet::new();
    let list = || -> io::Result<()> {
        Conversation::open(NETLINK_NETFILTER)?.list(request, |_, payload| marks.extend(mark(payload)))
    };
    match list() {
        // There is no such table.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(BTreeSet::new()),
        other => other.doing(|| "list the nftables table `tank`").map(|()| marks),
    }
}

/// Chains: name, type, hook (`NF_INET_*`), priority.
const CHAINS: [(&str, &str, u32, i32); 4] = [
    ("guard", "filter", 0, -300),
    ("prerouting", "nat", 0, -100),
    ("output", "nat", 3, -100),
    ("postrouting", "nat", 4, 100),
];

/// Messages that take effect together (nfnetlink's batch).
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), sequence: 0 };
        batch.control(ControlMessage::BatchBegin);
        batch
    }

    fn control(&mut self, message: ControlMessage) {
        // The resource of a batch is the subsystem it is for: nftables is 10.
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 10);
        self.push(NetfilterMessage::new(header, NetfilterMessageInner::None(message)), NLM_F_REQUEST);
    }

    fn push(&mut self, payload: NetfilterMessage, flags: u16) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        self.bytes.extend(serialize(NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload))));
    }

    fn tables(&mut self, message: NfTablesMessage, flags: u16) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        let payload = NetfilterMessage::new(header, NetfilterMessageInner::NfTables(message));
        self.push(payload, NLM_F_REQUEST | flags);
    }

    fn table() -> TableMessage {
        TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] }
    }

    fn add_table(&mut self) {
        self.tables(NfTablesMessage::NewTable(Self::table()), NLM_F_CREATE);
    }

    fn delete_table(&mut self) {
        self.tables(NfTablesMessage::DeleteTable(Self::table()), 0);
    }

    fn add_chain(&mut self, name: &str, kind: &str, hook: u32, priority: i32) {
        let chain = ChainMessage {
            attributes: vec![
                ChainAttribute::Table(TABLE.to_owned()),
                ChainAttribute::Name(name.to_owned()),
                ChainAttribute::Hook(vec![Hook::Number(HookNumber::Other(hook)), Hook::Priority(priority as u32)]),
                ChainAttribute::Type(kind.to_owned()),
            ],
        };
        self.tables(NfTablesMessage::NewChain(chain), NLM_F_CREATE);
    }

    fn add_rule(&mut self, rule: Rule) {
        // libnftnl's user data: type (0: comment), length, text with its NUL. At most 256 bytes in all.
        let comment: String = rule.comment.chars().filter(char::is_ascii).take(200).collect();
        let mut data = vec![0, comment.len() as u8 + 1];
        data.extend(comment.as_bytes());
        data.push(0);
        let message = RuleMessage {
            attributes: vec![
                RuleAttribute::Table(TABLE.to_owned()),
                RuleAttribute::Chain(rule.chain.to_owned()),
                RuleAttribute::Expressions(rule.expressions.into_iter().map(ListAttribute::from).collect()),
                RuleAttribute::UserData(data),
            ],
        };
        self.tables(NfTablesMessage::NewRule(message), NLM_F_CREATE | NLM_F_APPEND);
    }

    /// Sends everything. The acknowledgement is asked of the last message; an error may come for any.
    fn commit(mut self) -> io::Result<()> {
        self.control(ControlMessage::BatchEnd);
        let last = self.sequence;
        let socket = open()?;
        // A batch is one packet: thousands of rules need a large buffer.
        // SAFETY: the descriptor is the socket's own, which outlives the borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        rustix::net::sockopt::set_socket_send_buffer_size_force(borrowed, self.bytes.len().max(1 << 16) * 2)?;
        socket.send(&self.with_acknowledgement(), 0)?;
        loop {
            let (bytes, _) = socket.recv_from_full()?;
            for message in messages(&bytes)? {
                if let NetlinkPayload::Error(error) = message.payload {
                    match error.code {
                        Some(_) => return Err(error.to_io()),
                        None if message.header.sequence_number + 1 >= last => return Ok(()),
                        None => {}
                    }
                }
            }
        }
    }

    /// Sets `NLM_F_ACK` on the last message before the end: messages are acknowledged in order.
    fn with_acknowledgement(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut at = 0;
        let mut starts = Vec::new();
        while at + 16 <= bytes.len() {
            starts.push(at);
            let length = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
            at += length.next_multiple_of(4).max(16);
        }
        if let Some(start) = starts.len().checked_sub(2).and_then(|index| starts.get(index)) {
            let flags = u16::from_ne_bytes([bytes[start + 6], bytes[start + 7]]) | NLM_F_ACK;
            bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        }
        bytes
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn serialize(mut message: NetlinkMessage<NetfilterMessage>) -> Vec<u8> {
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    let length = message.buffer_len();
    message.serialize(&mut bytes[..length]);
    bytes
}

fn messages(bytes: &[u8]) -> io::Result<Vec<NetlinkMessage<NetfilterMessage>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 16 <= bytes.len() {
        let length = NetlinkBuffer::new_checked(&bytes[at..]).map_err(io::Error::other)?.length() as usize;
        let message = NetlinkMessage::deserialize(&bytes[at..at + length]).map_err(io::Error::other)?;
        found.push(message);
        at += length.next_multiple_of(4).max(16);
    }
    Ok(found)
}

/// Chain and comment of a listed rule of Tank's table: a `struct nfgenmsg`, and of the attributes behind it those three
/// that matter. To read the expressions of some hundred rules at every look would take longer than all else.
fn mark(payload: &[u8]) -> Option<String> {
    /// `NFTA_RULE_TABLE`, `NFTA_RULE_CHAIN` and `NFTA_RULE_USERDATA`.
    const OF_TABLE: u16 = 1;
    const OF_CHAIN: u16 = 2;
    const USERDATA: u16 = 7;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let (mut chain, mut comment, mut ours) = (String::new(), String::new(), false);
    for attribute in NlasIterator::new(payload.get(4..)?).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            OF_TABLE => ours = text(value) == TABLE,
            OF_CHAIN => chain = text(value),
            // As `add_rule` writes it: type, length, text.
            USERDATA if value.len() > 3 && value[0] == 0 => {
                comment = text(&value[2..(2 + usize::from(value[1])).min(value.len())]);
            }
            _ => {}
        }
    }
    ours.then(|| format!("{chain}: {comment}"))
}

// Expressions. Registers: 1 holds what is compared or an address, 2 a port.

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NESTED: u16 = 0x8000;

#[derive(Clone, Copy, PartialEq)]
struct Field {
    v4: u32,
    v6: u32,
}

/// Offsets into the IP headers.
const SOURCE: Field = Field { v4: 12, v6: 8 };
const DESTINATION: Field = Field { v4: 16, v6: 24 };

fn expression(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

fn data(kind: u16, value: &[u8]) -> DefaultNla {
    nested(kind, &[DefaultNla::new(1, value.to_vec())])
}

fn meta(key: u32) -> Expressions {
    expression("meta", vec![number(1, 1), number(2, key)])
}

fn cmp(operator: u32, value: &[u8]) -> Expressions {
    expression("cmp", vec![number(1, 1), number(2, operator), data(3, value)])
}

fn payload(base: u32, offset: u32, length: u32) -> Expressions {
    expression("payload", vec![number(1, 1), number(2, base), number(3, offset), number(4, length)])
}

fn bitwise(mask: &[u8]) -> Expressions {
    let zero = vec![0; mask.len()];
    let length = number(3, mask.len() as u32);
    expression("bitwise", vec![number(1, 1), number(2, 1), length, data(4, mask), data(5, &zero)])
}

fn immediate(register: u32, value: &[u8]) -> Expressions {
    expression("immediate", vec![number(1, register), data(2, value)])
}

fn masquerade() -> Expressions {
    expression("masq", Vec::new())
}

fn drop_packet() -> Expressions {
    let verdict = nested(2, &[nested(2, &[number(1, 0)])]);
    expression("immediate", vec![number(1, 0), verdict])
}

fn fib_daddr_type() -> Expressions {
    expression("fib", vec![number(1, 1), number(2, 3), number(3, 2)])
}

fn ct_status_has_dnat() -> Vec<Expressions> {
    const IPS_DST_NAT: u32 = 1 << 5;
    let load = expression("ct", vec![number(1, 1), number(2, 2)]);
    vec![load, bitwise(&IPS_DST_NAT.to_ne_bytes()), cmp(NOT_EQUAL, &[0; 4])]
}

fn family_is(address: IpAddr) -> Vec<Expressions> {
    vec![meta(META_NFPROTO), cmp(EQUAL, &[family(address) as u8])]
}

fn family(address: IpAddr) -> u32 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn load_address(field: Field, address: IpAddr) -> Expressions {
    match address {
        IpAddr::V4(_) => payload(NETWORK, field.v4, 4),
        IpAddr::V6(_) => payload(NETWORK, field.v6, 16),
    }
}

fn destination_is(address: IpAddr) -> Vec<Expressions> {
    vec![load_address(DESTINATION, address), cmp(EQUAL, &octets(address))]
}

fn network_is(field: Field, network: Cidr, operator: u32) -> Vec<Expressions> {
    let bytes = octets(network.address);
    let bit = |index: usize| u8::from(index < usize::from(network.prefix));
    let mask: Vec<u8> = (0..bytes.len()).map(|i| (0..8).fold(0, |byte, j| byte << 1 | bit(i * 8 + j))).collect();
    let base: Vec<u8> = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
    vec![load_address(field, network.address), bitwise(&mask), cmp(operator, &base)]
}

fn dnat(to: IpSocketAddr) -> Vec<Expressions> {
    let nat = vec![number(1, 1), number(2, family(to.ip())), number(3, 1), number(5, 2)];
    vec![immediate(1, &octets(to.ip())), immediate(2, &to.port().to_be_bytes()), expression("nat", nat)]
}

/// Interface names are compared as the kernel holds them: 16 bytes, padded with zeros (`IFNAMSIZ`).
fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
