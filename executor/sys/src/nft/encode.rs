//! From the vocabulary to messages: what `nft` would send.
//!
//! Registers: 1 holds what is compared or an address, 2 a port.

use super::{
    Action, Chain, Family, Match, Rule, Table, TableFamily, about,
    expression::{of_data, of_number, of_verdict},
    sets,
    values::register,
};
use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, Expressions, Hook, HookNumber, ListAttribute,
        NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

pub const EQUAL: u32 = 0;
pub const NOT_EQUAL: u32 = 1;
pub const GREATER: u32 = 4;
/// `NFT_META_LEN`.
pub const META_LENGTH: u32 = 0;
pub const META_PROTOCOL: u32 = 1;
pub const META_IIFGROUP: u32 = 21;
pub const META_OIFGROUP: u32 = 22;
pub const META_PACKET_TYPE: u32 = 19;
pub const META_IIFNAME: u32 = 6;
pub const META_OIFNAME: u32 = 7;
pub const META_NFPROTO: u32 = 15;
pub const META_L4PROTO: u32 = 16;
pub const NETWORK: u32 = 1;
pub const TRANSPORT: u32 = 2;
const RTN_LOCAL: u32 = 2;
/// `IP_CT_DIR_ORIGINAL` and `IP_CT_DIR_REPLY`.
pub const OPENER: u8 = 0;
pub const REPLY: u8 = 1;
/// Keys of a connection: its state, which way a packet of it goes, and its status.
pub const CT_STATE: u32 = 0;
pub const CT_DIRECTION: u32 = 1;
pub const CT_STATUS: u32 = 2;
/// The source of a direction (`NFT_CT_SRC_IP`, `NFT_CT_SRC_IP6`), and the attribute that says which
/// (`NFTA_CT_DIRECTION`).
pub const CT_SOURCE4: u32 = 19;
pub const CT_SOURCE6: u32 = 21;
pub const CT_WAY: u16 = 3;
/// `NF_DROP` and `NF_ACCEPT`.
pub const DROP: u32 = 0;
pub const ACCEPT: u32 = 1;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub const IPV4: u8 = 2;
pub const IPV6: u8 = 10;

/// Where an address is: its offsets into the IP headers, in bytes.
#[derive(Clone, Copy, PartialEq)]
pub struct Field {
    pub v4: u32,
    pub v6: u32,
}

pub const SOURCE: Field = Field { v4: 12, v6: 8 };
pub const DESTINATION: Field = Field { v4: 16, v6: 24 };

/// An expression to be written: its name and its attributes.
pub type Written = (&'static str, Vec<DefaultNla>);

/// The messages that replace the table `name`: it is made, in case it is not there, removed with
/// all it holds, and made anew.
///
/// # Errors
/// `EINVAL` for what this vocabulary has no word for.
pub fn replacement(
    family: TableFamily,
    name: &str,
    table: &Table,
) -> io::Result<Vec<(NetfilterMessage, u16)>> {
    if !table.others.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut messages = removal(family, name);
    messages.push(add_table(family, name));
    // Sets before the rules that look something up in them.
    for (id, set) in (1..).zip(&table.sets) {
        let added = sets::messages(name, set, id)?;
        messages.extend(
            added
                .into_iter()
                .map(|message| (about(family, message), NLM_F_CREATE)),
        );
    }
    let chains = table.chains.iter().map(|chain| add_chain(name, chain));
    messages.extend(chains.map(|message| (about(family, message), NLM_F_CREATE)));
    for rule in &table.rules {
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        let message = NfTablesMessage::NewRule(rule_message(name, rule)?);
        messages.push((about(family, message), flags));
    }
    Ok(messages)
}

/// The messages after which the table `name`, which holds `found`, holds what `table` says: elements of
/// sets only. None: more than elements differs.
///
/// # Errors
/// `EINVAL` for what this vocabulary has no word for.
pub fn changes(
    family: TableFamily,
    name: &str,
    (found, table): (&Table, &Table),
) -> io::Result<Option<Vec<(NetfilterMessage, u16)>>> {
    let frame = |table: &Table| {
        let mut frame = table.clone().content();
        for set in &mut frame.sets {
            set.elements.clear();
        }
        frame
    };
    if frame(found) != frame(table) {
        return Ok(None);
    }
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for set in &table.sets {
        let same = |other: &&sets::Set| other.name == set.name;
        let Some(other) = found.sets.iter().find(same) else {
            return Ok(None);
        };
        let (less, more) = sets::changes(name, other, set)?;
        let message = |flags| move |message| (about(family, message), flags);
        removed.extend(less.into_iter().map(message(0)));
        added.extend(more.into_iter().map(message(NLM_F_CREATE)));
    }
    // A key that leads elsewhere is removed and added again within the transaction.
    removed.extend(added);
    Ok(Some(removed))
}

/// The messages that remove the table `name`, whether it is there or not.
pub fn removal(family: TableFamily, name: &str) -> Vec<(NetfilterMessage, u16)> {
    let delete = about(family, NfTablesMessage::DeleteTable(table_message(name)));
    vec![add_table(family, name), (delete, 0)]
}

/// The messages around a batch. Where a generation is named, the batch is refused with `ERESTART` if
/// it is not the current one any more.
pub fn batch_ends(generation: Option<u32>) -> (NetfilterMessage, NetfilterMessage) {
    /// `NFNL_MSG_BATCH_BEGIN` and `NFNL_BATCH_GENID`.
    const BEGIN: u8 = 16;
    const GENERATION: u16 = 1;
    let control = |message: ControlMessage| {
        // The resource of a batch is the subsystem it is for: nftables is 10.
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 10);
        NetfilterMessage::new(header, NetfilterMessageInner::None(message))
    };
    let begin = match generation {
        None => ControlMessage::BatchBegin,
        Some(generation) => ControlMessage::Other {
            message_type: BEGIN,
            attributes: vec![of_number(GENERATION, generation)],
        },
    };
    (control(begin), control(ControlMessage::BatchEnd))
}

fn table_message(name: &str) -> TableMessage {
    TableMessage {
        attributes: vec![TableAttribute::Name(name.to_owned())],
    }
}

fn add_table(family: TableFamily, name: &str) -> (NetfilterMessage, u16) {
    let message = NfTablesMessage::NewTable(table_message(name));
    (about(family, message), NLM_F_CREATE)
}

fn add_chain(table: &str, chain: &Chain) -> NfTablesMessage {
    let message = ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.to_owned()),
            ChainAttribute::Name(chain.name.clone()),
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Other(chain.hook)),
                Hook::Priority(chain.priority as u32),
            ]),
            ChainAttribute::Type(chain.kind.clone()),
        ],
    };
    NfTablesMessage::NewChain(message)
}

/// A rule of the table `table`.
///
/// # Errors
/// `EINVAL` for an `Other`.
pub fn rule_message(table: &str, rule: &Rule) -> io::Result<RuleMessage> {
    // libnftnl's user data: type (0: comment), length, text with its NUL. The kernel takes 256
    // bytes in all, `nft` loads comments of up to 128: a longer one would keep a saved table from
    // being loaded.
    let comment: String = rule
        .comment
        .chars()
        .filter(char::is_ascii)
        .take(127)
        .collect();
    let mut data = vec![0, comment.len() as u8 + 1];
    data.extend(comment.as_bytes());
    data.push(0);
    let unknown = || io::Error::from_raw_os_error(libc::EINVAL);
    let mut expressions = Vec::new();
    for condition in &rule.matches {
        expressions.extend(of_match(condition).ok_or_else(unknown)?);
    }
    expressions.extend(of_action(&rule.action).ok_or_else(unknown)?);
    let list = expressions.into_iter().map(|(name, attributes)| {
        ListAttribute::from(Expressions::Other {
            expression_type: name.to_owned(),
            attributes,
        })
    });
    Ok(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(rule.chain.clone()),
            RuleAttribute::Expressions(list.collect()),
            RuleAttribute::UserData(data),
        ],
    })
}

/// The expressions of a condition. None: it is an `Other`.
pub fn of_match(condition: &Match) -> Option<Vec<Written>> {
    let operator = |is: bool| if is { EQUAL } else { NOT_EQUAL };
    Some(match condition {
        Match::InInterface { name, is } => vec![
            meta(META_IIFNAME),
            cmp(operator(*is), &interface_name(name)),
        ],
        Match::OutInterface { name, is } => vec![
            meta(META_OIFNAME),
            cmp(operator(*is), &interface_name(name)),
        ],
        Match::InGroup { mask, value, is } => vec![
            meta(META_IIFGROUP),
            bitwise(&mask.to_ne_bytes()),
            cmp(operator(*is), &value.to_ne_bytes()),
        ],
        Match::EtherType(kind) => vec![meta(META_PROTOCOL), cmp(EQUAL, &kind.to_be_bytes())],
        Match::PacketType(kind) => vec![meta(META_PACKET_TYPE), cmp(EQUAL, &[*kind])],
        Match::LongerThan(bytes) => vec![
            meta(META_LENGTH),
            to_network_order(),
            cmp(GREATER, &bytes.to_be_bytes()),
        ],
        Match::Family(family) => {
            let number = match family {
                Family::V4 => IPV4,
                Family::V6 => IPV6,
            };
            vec![meta(META_NFPROTO), cmp(EQUAL, &[number])]
        }
        Match::Source { net, is } => network_is(SOURCE, *net, operator(*is)),
        Match::Destination { net, is } => network_is(DESTINATION, *net, operator(*is)),
        Match::DestinationLocal => vec![fib_daddr_type(), cmp(EQUAL, &RTN_LOCAL.to_ne_bytes())],
        Match::Protocol(protocol) => vec![meta(META_L4PROTO), cmp(EQUAL, &[*protocol])],
        Match::Icmpv6Type(kind) => vec![payload(TRANSPORT, 0, 1), cmp(EQUAL, &[*kind])],
        Match::SourcePort(port) => {
            vec![payload(TRANSPORT, 0, 2), cmp(EQUAL, &port.to_be_bytes())]
        }
        Match::DestinationPort(port) => {
            vec![payload(TRANSPORT, 2, 2), cmp(EQUAL, &port.to_be_bytes())]
        }
        Match::ConnState { any_of } => ct_has(CT_STATE, *any_of),
        Match::ConnStatus { any_of } => ct_has(CT_STATUS, *any_of),
        Match::ConnReply => vec![
            ("ct", vec![of_number(1, 1), of_number(2, CT_DIRECTION)]),
            cmp(EQUAL, &[REPLY]),
        ],
        Match::SocketTransparent => {
            /// `NFT_SOCKET_TRANSPARENT`.
            const TRANSPARENT: u32 = 0;
            let load = vec![of_number(1, TRANSPARENT), of_number(2, 1)];
            vec![("socket", load), cmp(EQUAL, &[1])]
        }
        Match::InSet { set, of, is } => sets::lookup(set, of, *is),
        Match::Other(_) => return None,
    })
}

/// The expressions of an action. None: it is an `Other`.
pub fn of_action(action: &Action) -> Option<Vec<Written>> {
    let decide = |verdict: u32| ("immediate", vec![of_number(1, 0), of_verdict(2, verdict)]);
    Some(match action {
        Action::Accept => vec![decide(ACCEPT)],
        Action::Drop => vec![decide(DROP)],
        Action::Dnat(to) => dnat(*to),
        Action::DnatMap { map, of, family } => {
            let mut expressions = sets::fetch(map, of);
            expressions.push(match family {
                // The port is behind the address.
                Family::V4 => nat(IPV4, register(1)),
                Family::V6 => nat(IPV6, register(4)),
            });
            expressions
        }
        Action::Masquerade => vec![("masq", Vec::new())],
        Action::ToHost(mac) => to_host(*mac, decide(ACCEPT)),
        Action::Other(_) => return None,
    })
}

fn meta(key: u32) -> Written {
    ("meta", vec![of_number(1, 1), of_number(2, key)])
}

/// Numbers are compared by their bytes, the highest first.
fn to_network_order() -> Written {
    /// `NFT_BYTEORDER_HTON`.
    const TO_NETWORK: u32 = 1;
    let numbers = [(1, 1), (2, 1), (3, TO_NETWORK), (4, 4), (5, 4)];
    let attributes = numbers.map(|(kind, value)| of_number(kind, value));
    ("byteorder", attributes.into())
}

fn cmp(operator: u32, value: &[u8]) -> Written {
    let attributes = vec![of_number(1, 1), of_number(2, operator), of_data(3, value)];
    ("cmp", attributes)
}

fn payload(base: u32, offset: u32, length: u32) -> Written {
    let attributes = vec![
        of_number(1, 1),
        of_number(2, base),
        of_number(3, offset),
        of_number(4, length),
    ];
    ("payload", attributes)
}

fn bitwise(mask: &[u8]) -> Written {
    let zero = vec![0; mask.len()];
    let attributes = vec![
        of_number(1, 1),
        of_number(2, 1),
        of_number(3, mask.len() as u32),
        of_data(4, mask),
        of_data(5, &zero),
    ];
    ("bitwise", attributes)
}

fn immediate(register: u32, value: &[u8]) -> Written {
    ("immediate", vec![of_number(1, register), of_data(2, value)])
}

fn fib_daddr_type() -> Written {
    (
        "fib",
        vec![of_number(1, 1), of_number(2, 3), of_number(3, 2)],
    )
}

/// Whether one of `bits` is set in a key of the connection. What is not tracked has only a state.
fn ct_has(key: u32, bits: u32) -> Vec<Written> {
    vec![
        ("ct", vec![of_number(1, 1), of_number(2, key)]),
        bitwise(&bits.to_ne_bytes()),
        cmp(NOT_EQUAL, &[0; 4]),
    ]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn network_is(field: Field, network: IpNet, operator: u32) -> Vec<Written> {
    let base = octets(network.network());
    let offset = match network {
        IpNet::V4(_) => field.v4,
        IpNet::V6(_) => field.v6,
    };
    let whole = usize::from(network.prefix_len() / 8);
    if network.prefix_len() > 0 && network.prefix_len().is_multiple_of(8) {
        // As `nft` has it: only as many bytes as the network has.
        return vec![
            payload(NETWORK, offset, whole as u32),
            cmp(operator, &base[..whole]),
        ];
    }
    vec![
        payload(NETWORK, offset, base.len() as u32),
        bitwise(&octets(network.netmask())),
        cmp(operator, &base),
    ]
}

fn dnat(to: SocketAddr) -> Vec<Written> {
    let family = if to.is_ipv4() { IPV4 } else { IPV6 };
    vec![
        immediate(1, &octets(to.ip())),
        immediate(2, &to.port().to_be_bytes()),
        nat(family, 2),
    ]
}

/// The destination becomes the address in the first register and the port in another one.
fn nat(family: u8, port: u32) -> Written {
    // What the kernel would add by itself is said: the ends of the ranges, and that there is an
    // address and a port.
    const MAP_IPS: u32 = 1;
    const PROTO_SPECIFIED: u32 = 2;
    let attributes = vec![
        of_number(1, 1),
        of_number(2, family.into()),
        of_number(3, 1),
        of_number(4, 1),
        of_number(5, port),
        of_number(6, port),
        of_number(7, MAP_IPS | PROTO_SPECIFIED),
    ];
    ("nat", attributes)
}

/// The destination of the frame becomes a hardware address, and the packet one for the host.
fn to_host(mac: [u8; 6], accept: Written) -> Vec<Written> {
    /// `PACKET_HOST` of packet(7).
    const HOST: u8 = 0;
    let write = vec![
        of_number(5, 1),
        of_number(2, 0),
        of_number(3, 0),
        of_number(4, mac.len() as u32),
        of_number(6, 0),
        of_number(7, 0),
        of_number(8, 0),
    ];
    let set = vec![of_number(2, META_PACKET_TYPE), of_number(3, 1)];
    vec![
        immediate(1, &mac),
        ("payload", write),
        immediate(1, &[HOST]),
        ("meta", set),
        accept,
    ]
}

/// Interface names are compared as the kernel holds them: 16 bytes, padded with zeros (`IFNAMSIZ`).
pub fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
