//! One owned nftables table, `inet tank`, spoken to over netlink.
//!
//! The whole table is replaced in one transaction: there is no instant with half the rules, and
//! nothing outside the table is looked at or touched. What is there is compared by its content
//! ([`content`]): chains with their hooks and policies, the expressions of every rule, their order.
//! Comments are for people (`nft list table inet tank` shows them).
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `guard` | prerouting, raw | nothing that comes over a link is for or from the host's loopback |
//! | `prerouting`, `output` | nat | published ports lead to pods; those on loopback for programs of the host only |
//! | `forward` | filter | from elsewhere nothing reaches a pod but through a published port, and answers |
//! | `postrouting` | nat | what leaves the pods' networks has the host's address |
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`; the crate below types the messages, and
//! expressions it has no type for are written through its open variant, all of them, for one way to
//! read them. They are written as `nft` would, so that a table that was saved and loaded with it is
//! the same.

mod content;

use crate::{Context, Result, route::Cidr};
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, Expressions, Hook, HookNumber, ListAttribute,
        NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
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
        let mut rules = guard();
        for forward in &self.forwards {
            // Who is on the host itself passes only `output`. Nobody else may use what is published
            // on loopback (moby #45610): for that there is no rule by which a neighbour's packet
            // could be translated.
            let chains: &[&str] = if forward.address.is_loopback() {
                &["output"]
            } else {
                &["prerouting", "output"]
            };
            rules.extend(chains.iter().map(|chain| forward.rule(chain)));
        }
        rules.extend(self.forwarding());
        rules.extend(self.masquerading());
        rules
    }

    /// The host forwards because of the pods, and a neighbour may have a route to their network:
    /// that must not make ports reachable that nobody published. What does not go to a pod is none
    /// of Tank's business.
    fn forwarding(&self) -> Vec<Rule> {
        let bridge = interface_name(&self.bridge);
        let from_elsewhere = vec![
            meta(META_IIFNAME),
            cmp(NOT_EQUAL, &bridge),
            meta(META_OIFNAME),
            cmp(EQUAL, &bridge),
        ];
        // One after the other and not one rule that drops: what is not tracked has no status to be
        // looked at.
        let rule = |comment: &str, matches: Vec<Expressions>, verdict: u32| Rule {
            chain: "forward",
            comment: comment.to_owned(),
            expressions: [from_elsewhere.clone(), matches, vec![decide(verdict)]].concat(),
        };
        vec![
            rule(
                "answers to pods",
                ct_has(CT_STATE, CT_ESTABLISHED | CT_RELATED),
                ACCEPT,
            ),
            rule("published ports", ct_has(CT_STATUS, CT_DNAT), ACCEPT),
            rule("nothing else reaches a pod", Vec::new(), DROP),
        ]
    }

    fn masquerading(&self) -> Vec<Rule> {
        let rule = |comment: String, matches: Vec<Vec<Expressions>>| Rule {
            chain: "postrouting",
            comment,
            expressions: [matches.concat(), vec![masquerade()]].concat(),
        };
        let to_bridge = vec![
            meta(META_OIFNAME),
            cmp(EQUAL, &interface_name(&self.bridge)),
        ];
        let loopback = network_is(SOURCE, LOOPBACK, EQUAL);
        let mut rules = vec![rule(
            "loopback clients of published ports".to_owned(),
            vec![to_bridge, family_is(LOOPBACK.address), loopback],
        )];
        for network in &self.networks {
            let from = [
                family_is(network.address),
                network_is(SOURCE, *network, EQUAL),
            ]
            .concat();
            rules.push(rule(
                format!("{network} to elsewhere"),
                vec![from.clone(), network_is(DESTINATION, *network, NOT_EQUAL)],
            ));
            // A pod that uses a published port, of itself or of a neighbour, would be answered past
            // the translation.
            rules.push(rule(
                format!("{network} to itself through a published port"),
                vec![
                    from,
                    network_is(DESTINATION, *network, EQUAL),
                    ct_has(CT_STATUS, CT_DNAT),
                ],
            ));
        }
        rules
    }

    /// What [`list`] gives when this ruleset is in place.
    pub fn contents(&self) -> BTreeSet<String> {
        content::of_rules(&CHAINS, &self.rules())
    }
}

/// 127.0.0.0/8.
const LOOPBACK: Cidr = Cidr {
    address: IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)),
    prefix: 8,
};

/// Publishing on loopback needs `route_localnet` on the bridge, which would let a pod speak to the
/// host's own loopback services (CVE-2020-8558), and translates a neighbour's packet before it is
/// looked at as a martian: nothing that comes from elsewhere than the host itself may be for its
/// loopback, or pretend to be from there.
fn guard() -> Vec<Rule> {
    let rule = |comment: &str, address: IpAddr, matches: Vec<Expressions>| Rule {
        chain: "guard",
        comment: comment.to_owned(),
        expressions: [
            vec![meta(META_IIFNAME), cmp(NOT_EQUAL, &interface_name("lo"))],
            family_is(address),
            matches,
            vec![decide(DROP)],
        ]
        .concat(),
    };
    let v6 = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    vec![
        rule(
            "nobody else reaches the host's loopback",
            LOOPBACK.address,
            network_is(DESTINATION, LOOPBACK, EQUAL),
        ),
        rule(
            "nobody else comes from the host's loopback",
            LOOPBACK.address,
            network_is(SOURCE, LOOPBACK, EQUAL),
        ),
        rule(
            "nobody else reaches the host's loopback",
            v6,
            destination_is(v6),
        ),
    ]
}

impl Forward {
    fn rule(&self, chain: &'static str) -> Rule {
        let to = match self.address.is_unspecified() {
            true => vec![fib_daddr_type(), cmp(EQUAL, &RTN_LOCAL.to_ne_bytes())],
            false => destination_is(self.address),
        };
        let expressions = [
            family_is(self.to.ip()),
            to,
            vec![meta(META_L4PROTO), cmp(EQUAL, &[self.protocol])],
            vec![
                payload(TRANSPORT, 2, 2),
                cmp(EQUAL, &self.port.to_be_bytes()),
            ],
            dnat(self.to),
        ];
        Rule {
            chain,
            comment: self.comment(),
            expressions: expressions.concat(),
        }
    }

    fn comment(&self) -> String {
        let protocol = if self.protocol == 17 { "udp" } else { "tcp" };
        format!(
            "{} {}/{protocol} to {}",
            self.name,
            IpSocketAddr::new(self.address, self.port),
            self.to
        )
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

/// What is in the table, to be compared with [`Ruleset::contents`]; empty when there is none.
/// Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn list() -> Result<BTreeSet<String>> {
    content::list().doing(|| "list the nftables table `tank`")
}

/// Chains: name, type, hook (`NF_INET_*`), priority.
const CHAINS: [(&str, &str, u32, i32); 5] = [
    ("guard", "filter", 0, -300),
    ("prerouting", "nat", 0, -100),
    ("forward", "filter", 2, 0),
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
        let mut batch = Self {
            bytes: Vec::new(),
            sequence: 0,
        };
        batch.control(ControlMessage::BatchBegin);
        batch
    }

    fn control(&mut self, message: ControlMessage) {
        // The resource of a batch is the subsystem it is for: nftables is 10.
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 10);
        self.push(
            NetfilterMessage::new(header, NetfilterMessageInner::None(message)),
            NLM_F_REQUEST,
        );
    }

    fn push(&mut self, payload: NetfilterMessage, flags: u16) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        self.bytes.extend(serialize(NetlinkMessage::new(
            header,
            NetlinkPayload::InnerMessage(payload),
        )));
    }

    fn tables(&mut self, message: NfTablesMessage, flags: u16) {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        let payload = NetfilterMessage::new(header, NetfilterMessageInner::NfTables(message));
        self.push(payload, NLM_F_REQUEST | flags);
    }

    fn table() -> TableMessage {
        TableMessage {
            attributes: vec![TableAttribute::Name(TABLE.to_owned())],
        }
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
                ChainAttribute::Hook(vec![
                    Hook::Number(HookNumber::Other(hook)),
                    Hook::Priority(priority as u32),
                ]),
                ChainAttribute::Type(kind.to_owned()),
            ],
        };
        self.tables(NfTablesMessage::NewChain(chain), NLM_F_CREATE);
    }

    fn add_rule(&mut self, rule: Rule) {
        // libnftnl's user data: type (0: comment), length, text with its NUL. The kernel takes 256
        // bytes in all, `nft` loads comments of up to 128: a longer one would keep a saved table
        // from being loaded.
        let comment: String = rule
            .comment
            .chars()
            .filter(char::is_ascii)
            .take(127)
            .collect();
        let mut data = vec![0, comment.len() as u8 + 1];
        data.extend(comment.as_bytes());
        data.push(0);
        let message = RuleMessage {
            attributes: vec![
                RuleAttribute::Table(TABLE.to_owned()),
                RuleAttribute::Chain(rule.chain.to_owned()),
                RuleAttribute::Expressions(
                    rule.expressions
                        .into_iter()
                        .map(ListAttribute::from)
                        .collect(),
                ),
                RuleAttribute::UserData(data),
            ],
        };
        self.tables(
            NfTablesMessage::NewRule(message),
            NLM_F_CREATE | NLM_F_APPEND,
        );
    }

    /// Sends everything. The acknowledgement is asked of the last message; an error may come for
    /// any.
    fn commit(mut self) -> io::Result<()> {
        self.control(ControlMessage::BatchEnd);
        let last = self.sequence;
        let socket = open()?;
        // A batch is one packet: thousands of rules need a large buffer.
        // SAFETY: the descriptor is the socket's own, which outlives the borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        rustix::net::sockopt::set_socket_send_buffer_size_force(
            borrowed,
            self.bytes.len().max(1 << 16) * 2,
        )?;
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
            let length =
                u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                    as usize;
            at += length.next_multiple_of(4).max(16);
        }
        if let Some(start) = starts
            .len()
            .checked_sub(2)
            .and_then(|index| starts.get(index))
        {
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
        let length = NetlinkBuffer::new_checked(&bytes[at..])
            .map_err(io::Error::other)?
            .length() as usize;
        let message =
            NetlinkMessage::deserialize(&bytes[at..at + length]).map_err(io::Error::other)?;
        found.push(message);
        at += length.next_multiple_of(4).max(16);
    }
    Ok(found)
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
/// `NF_DROP` and `NF_ACCEPT`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// Keys of a connection, bits of its state (`NF_CT_STATE_BIT`) and of its status (`IPS_DST_NAT`).
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const CT_ESTABLISHED: u32 = 1 << 1;
const CT_RELATED: u32 = 1 << 2;
const CT_DNAT: u32 = 1 << 5;

#[derive(Clone, Copy, PartialEq)]
struct Field {
    v4: u32,
    v6: u32,
}

/// Offsets into the IP headers.
const SOURCE: Field = Field { v4: 12, v6: 8 };
const DESTINATION: Field = Field { v4: 16, v6: 24 };

fn expression(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes,
    }
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
    expression(
        "cmp",
        vec![number(1, 1), number(2, operator), data(3, value)],
    )
}

fn payload(base: u32, offset: u32, length: u32) -> Expressions {
    expression(
        "payload",
        vec![
            number(1, 1),
            number(2, base),
            number(3, offset),
            number(4, length),
        ],
    )
}

fn bitwise(mask: &[u8]) -> Expressions {
    let zero = vec![0; mask.len()];
    let length = number(3, mask.len() as u32);
    expression(
        "bitwise",
        vec![
            number(1, 1),
            number(2, 1),
            length,
            data(4, mask),
            data(5, &zero),
        ],
    )
}

fn immediate(register: u32, value: &[u8]) -> Expressions {
    expression("immediate", vec![number(1, register), data(2, value)])
}

fn masquerade() -> Expressions {
    expression("masq", Vec::new())
}

fn decide(verdict: u32) -> Expressions {
    let verdict = nested(2, &[nested(2, &[number(1, verdict)])]);
    expression("immediate", vec![number(1, 0), verdict])
}

fn fib_daddr_type() -> Expressions {
    expression("fib", vec![number(1, 1), number(2, 3), number(3, 2)])
}

/// Whether one of `bits` is set in a key of the connection. What is not tracked has only a state.
fn ct_has(key: u32, bits: u32) -> Vec<Expressions> {
    let load = expression("ct", vec![number(1, 1), number(2, key)]);
    vec![load, bitwise(&bits.to_ne_bytes()), cmp(NOT_EQUAL, &[0; 4])]
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
    vec![
        load_address(DESTINATION, address),
        cmp(EQUAL, &octets(address)),
    ]
}

fn network_is(field: Field, network: Cidr, operator: u32) -> Vec<Expressions> {
    let bytes = octets(network.address);
    let bit = |index: usize| u8::from(index < usize::from(network.prefix));
    let mask: Vec<u8> = (0..bytes.len())
        .map(|i| (0..8).fold(0, |byte, j| byte << 1 | bit(i * 8 + j)))
        .collect();
    let base: Vec<u8> = bytes
        .iter()
        .zip(&mask)
        .map(|(byte, mask)| byte & mask)
        .collect();
    let whole = usize::from(network.prefix / 8);
    if network.prefix > 0 && network.prefix.is_multiple_of(8) {
        // As `nft` has it: only as many bytes as the network has.
        let offset = if network.address.is_ipv4() {
            field.v4
        } else {
            field.v6
        };
        return vec![
            payload(NETWORK, offset, whole as u32),
            cmp(operator, &base[..whole]),
        ];
    }
    vec![
        load_address(field, network.address),
        bitwise(&mask),
        cmp(operator, &base),
    ]
}

fn dnat(to: IpSocketAddr) -> Vec<Expressions> {
    // What the kernel would add by itself is said: the ends of the ranges, and that there is an
    // address and a port.
    const MAP_IPS: u32 = 1;
    const PROTO_SPECIFIED: u32 = 2;
    let registers = [number(3, 1), number(4, 1), number(5, 2), number(6, 2)];
    let mut nat = vec![number(1, 1), number(2, family(to.ip()))];
    nat.extend(registers);
    nat.push(number(7, MAP_IPS | PROTO_SPECIFIED));
    vec![
        immediate(1, &octets(to.ip())),
        immediate(2, &to.port().to_be_bytes()),
        expression("nat", nat),
    ]
}

/// Interface names are compared as the kernel holds them: 16 bytes, padded with zeros (`IFNAMSIZ`).
fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
