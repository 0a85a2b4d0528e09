//! From what the kernel lists to the vocabulary.
//!
//! A word is a guess that is proved: it counts only when encoding it again gives the expressions it
//! was read from. So nothing that differs in any attribute is taken for it.
//!
//! Handles are left out.

use super::{
    Action, Chain, Family, Match, Rule, Table, TableFamily, about,
    encode::{self, DESTINATION, NETWORK, SOURCE, TRANSPORT, Written},
    expression::{Expression, attributes, number, read_comment, text},
    sets,
};
use crate::netlink::Socket;
use ipnet::IpNet;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetMessage, TableMessage,
    },
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
};

/// The attributes of a message.
pub type Attributes = BTreeMap<u16, Vec<u8>>;

/// The number of the ruleset that there is: every transaction of anybody's, in this network namespace,
/// makes it one higher. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn generation(socket: &Socket) -> io::Result<u32> {
    /// `NFT_MSG_GETGEN` and `NFTA_GEN_ID`.
    const GET_GENERATION: u8 = 16;
    const ID: u16 = 1;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let message = NfTablesMessage::Other {
        message_type: GET_GENERATION,
        attributes: Vec::new(),
    };
    let request = NetfilterMessage::new(header, NetfilterMessageInner::NfTables(message));
    let mut found = None;
    socket.get(request, |_, payload| {
        let rest = payload.get(4..).unwrap_or_default();
        found = attributes(rest).find_map(|(kind, value)| (kind == ID).then(|| number(&value))?);
    })?;
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The table called `name` of a family. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn list(socket: &Socket, family: TableFamily, name: &str) -> io::Result<Option<Table>> {
    let dump = |message: NfTablesMessage| -> io::Result<Vec<Attributes>> {
        let found = socket.dump(
            about(family, message),
            |found: &mut Vec<Attributes>, _, payload| found.extend(in_table(family, name, payload)),
        );
        match found {
            // There is no such table.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
            other => other,
        }
    };
    let tables = dump(NfTablesMessage::GetTable(TableMessage {
        attributes: Vec::new(),
    }))?;
    let Some(found) = tables.first() else {
        return Ok(None);
    };
    let mut table = Table::default();
    table.others.extend(read_flags(found));
    let chains = dump(NfTablesMessage::GetChain(ChainMessage {
        attributes: Vec::new(),
    }))?;
    for chain in &chains {
        match read_chain(chain) {
            Ok(chain) => table.chains.push(chain),
            Err(other) => table.others.push(other),
        }
    }
    let rules = dump(NfTablesMessage::GetRule(RuleMessage {
        attributes: vec![RuleAttribute::Table(name.to_owned())],
    }))?;
    table.rules.extend(rules.iter().map(read_rule));
    list_sets(name, &dump, &mut table)?;
    let others = [
        ("object", NfTablesMessage::GetObject(Vec::new())),
        ("flow table", NfTablesMessage::GetFlowTable(Vec::new())),
    ];
    for (what, message) in others {
        match dump(message) {
            Ok(found) => {
                let line = |one: &Attributes| format!("{what} {}", text_of(one, 2));
                table.others.extend(found.iter().map(line));
            }
            // A kernel without objects or flow tables.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(table))
}

fn list_sets(
    name: &str,
    dump: &dyn Fn(NfTablesMessage) -> io::Result<Vec<Attributes>>,
    table: &mut Table,
) -> io::Result<()> {
    let message = NfTablesMessage::GetSet(SetMessage {
        attributes: Vec::new(),
    });
    for found in dump(message)? {
        let other = format!("set {}", text_of(&found, 2));
        let Some(mut set) = sets::read(&found) else {
            table.others.push(other);
            continue;
        };
        let mut plain = true;
        for message in dump(sets::ask_for_elements(name, &set.name))? {
            plain &= sets::read_elements(&message, &mut set);
        }
        if plain {
            table.sets.push(set);
        } else {
            table.others.push(other);
        }
    }
    Ok(())
}

/// The attributes behind a `struct nfgenmsg`, of something in the table `name` of a family.
pub fn in_table(family: TableFamily, name: &str, payload: &[u8]) -> Option<Attributes> {
    /// `NFPROTO_*`.
    const INET: u8 = 1;
    const BRIDGE: u8 = 7;
    let own = match family {
        TableFamily::Inet => INET,
        TableFamily::Bridge => BRIDGE,
    };
    /// `NFT_*_TABLE` of chains, rules, sets, objects and flow tables, and `NFTA_TABLE_NAME`.
    const OF_TABLE: u16 = 1;
    let found: Attributes = attributes(payload.get(4..)?).collect();
    (payload.first() == Some(&own) && text(found.get(&OF_TABLE)?) == name).then_some(found)
}

pub fn text_of(found: &Attributes, kind: u16) -> String {
    found
        .get(&kind)
        .map(|value| text(value))
        .unwrap_or_default()
}

fn read_flags(table: &Attributes) -> Option<String> {
    const FLAGS: u16 = 2;
    let flags = number(table.get(&FLAGS)?)?;
    (flags != 0).then(|| format!("table with flags {flags}"))
}

/// What the attributes of a base chain say.
pub struct BaseOf {
    pub name: String,
    pub kind: String,
    pub hook: u32,
    pub priority: i32,
    pub policy: u32,
}

const CHAIN_NAME: u16 = 3;

pub fn read_base(found: &Attributes) -> Option<BaseOf> {
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const KIND: u16 = 7;
    let hook: Attributes = attributes(found.get(&HOOK)?).collect();
    let policy = found.get(&POLICY).and_then(|policy| number(policy));
    Some(BaseOf {
        name: text_of(found, CHAIN_NAME),
        kind: text_of(found, KIND),
        hook: number(hook.get(&1)?)?,
        priority: number(hook.get(&2)?)? as i32,
        policy: policy.unwrap_or(encode::ACCEPT),
    })
}

/// A base chain that accepts by default; the text of any other one.
fn read_chain(found: &Attributes) -> Result<Chain, String> {
    let Some(base) = read_base(found) else {
        return Err(format!("chain {}", text_of(found, CHAIN_NAME)));
    };
    let BaseOf {
        name,
        kind,
        hook,
        priority,
        policy,
    } = base;
    match policy {
        encode::ACCEPT => Ok(Chain {
            name,
            kind,
            hook,
            priority,
        }),
        policy => Err(format!(
            "chain {name}: {kind} at hook {hook}, priority {priority}, policy {policy}"
        )),
    }
}

/// A rule from its attributes.
pub fn read_rule(found: &Attributes) -> Rule {
    const CHAIN: u16 = 2;
    const EXPRESSIONS: u16 = 4;
    const USER_DATA: u16 = 7;
    let list = found.get(&EXPRESSIONS).into_iter();
    let expressions: Vec<Expression> = list
        .flat_map(|list| attributes(list))
        .map(|(_, element)| Expression::read(&element))
        .collect();
    let (action, conditions) = read_action(&expressions);
    Rule {
        chain: text_of(found, CHAIN),
        comment: found
            .get(&USER_DATA)
            .and_then(|data| read_comment(data))
            .unwrap_or_default(),
        matches: read_matches(conditions),
        action,
    }
}

/// The action at the end of a rule, and the expressions before it.
fn read_action(expressions: &[Expression]) -> (Action, &[Expression]) {
    let Some((last, before)) = expressions.split_last() else {
        return (Action::Other(String::new()), expressions);
    };
    let guess = match last.name.as_str() {
        "immediate" => match last.verdict(2) {
            Some(encode::ACCEPT) => read_to_host(before).or(Some((Action::Accept, 1))),
            Some(encode::DROP) => Some((Action::Drop, 1)),
            _ => None,
        },
        "masq" => Some((Action::Masquerade, 1)),
        "nat" => read_target(before)
            .map(|to| (Action::Dnat(to), 3))
            .or_else(|| read_map(before, last)),
        _ => None,
    };
    if let Some((action, length)) = guess {
        let (before, own) = expressions.split_at(expressions.len() - length);
        if is_written_as(encode::of_action(&action), own) {
            return (action, before);
        }
    }
    (Action::Other(last.text()), before)
}

/// The address and the port that the two expressions before a translation load.
fn read_target(before: &[Expression]) -> Option<SocketAddr> {
    let [.., address, port] = before else {
        return None;
    };
    let port = port.data(2)?.try_into().ok().map(u16::from_be_bytes)?;
    Some(SocketAddr::new(read_address(&address.data(2)?)?, port))
}

/// What ends by accepting a frame that seems to be handed to the host.
fn read_to_host(before: &[Expression]) -> Option<(Action, usize)> {
    let [.., mac, write, _, set] = before else {
        return None;
    };
    let is_it = write.name == "payload" && set.name == "meta" && set.number(3)? != 0;
    let mac = mac.data(2)?.try_into().ok()?;
    is_it.then_some((Action::ToHost(mac), 5))
}

/// The map that a translation seems to take its target from.
fn read_map(before: &[Expression], nat: &Expression) -> Option<(Action, usize)> {
    let (map, of, length) = sets::read_fetch(before)?;
    let family = match nat.number(2)? {
        number if number == u32::from(encode::IPV4) => Family::V4,
        _ => Family::V6,
    };
    Some((Action::DnatMap { map, of, family }, length + 1))
}

pub fn read_matches(mut expressions: &[Expression]) -> Vec<Match> {
    let mut matches = Vec::new();
    while let Some((first, rest)) = expressions.split_first() {
        let proved = read_match(expressions).and_then(|(guess, length)| {
            let (own, rest) = expressions.split_at_checked(length)?;
            is_written_as(encode::of_match(&guess), own).then_some((guess, rest))
        });
        let (condition, rest) = proved.unwrap_or_else(|| (Match::Other(first.text()), rest));
        matches.push(condition);
        expressions = rest;
    }
    matches
}

/// Whether `written` gives `expressions` when it is listed.
fn is_written_as(written: Option<Vec<Written>>, expressions: &[Expression]) -> bool {
    written.is_some_and(|written| {
        written.len() == expressions.len()
            && written
                .iter()
                .zip(expressions)
                .all(|((name, attributes), found)| Expression::of(name, attributes) == *found)
    })
}

/// What the expressions seem to begin with, and how many of them that is.
fn read_match(expressions: &[Expression]) -> Option<(Match, usize)> {
    // A lookup is of any number of fields: what loads the first of them begins other conditions, too.
    if let Some((set, of, is, length)) = sets::read_lookup(expressions) {
        return Some((Match::InSet { set, of, is }, length));
    }
    let [load, second, ..] = expressions else {
        return None;
    };
    let is = second.number(2)? == encode::EQUAL;
    let value = || second.data(3);
    match load.name.as_str() {
        "meta" if load.number(2)? == encode::META_IIFGROUP => {
            read_group(second, expressions.get(2)?)
        }
        "meta" if load.number(2)? == encode::META_LENGTH => {
            let bytes = expressions.get(2)?.data(3)?.try_into().ok()?;
            Some((Match::LongerThan(u32::from_be_bytes(bytes)), 3))
        }
        "meta" => {
            let value = value()?;
            let condition = match load.number(2)? {
                encode::META_IIFNAME => Match::InInterface {
                    name: text(&value),
                    is,
                },
                encode::META_OIFNAME => Match::OutInterface {
                    name: text(&value),
                    is,
                },
                encode::META_NFPROTO if value == [encode::IPV4] => Match::Family(Family::V4),
                encode::META_NFPROTO if value == [encode::IPV6] => Match::Family(Family::V6),
                encode::META_L4PROTO => Match::Protocol(*value.first()?),
                encode::META_PACKET_TYPE => Match::PacketType(*value.first()?),
                encode::META_PROTOCOL => {
                    Match::EtherType(u16::from_be_bytes(value.try_into().ok()?))
                }
                _ => return None,
            };
            Some((condition, 2))
        }
        "fib" => Some((Match::DestinationLocal, 2)),
        "socket" => Some((Match::SocketTransparent, 2)),
        "ct" => read_connection(load, second),
        "payload" if load.number(2)? == TRANSPORT => {
            let value = value()?;
            let port = || Some(u16::from_be_bytes(value.as_slice().try_into().ok()?));
            let condition = match (load.number(3)?, load.number(4)?) {
                (0, 1) => Match::Icmpv6Type(*value.first()?),
                (0, _) => Match::SourcePort(port()?),
                _ => Match::DestinationPort(port()?),
            };
            Some((condition, 2))
        }
        "payload" if load.number(2)? == NETWORK => read_network(load, second, expressions.get(2)),
        _ => None,
    }
}

fn read_connection(load: &Expression, second: &Expression) -> Option<(Match, usize)> {
    let key = load.number(2)?;
    if key == encode::CT_DIRECTION {
        return Some((Match::ConnReply, 2));
    }
    let any_of = u32::from_ne_bytes(second.data(4)?.try_into().ok()?);
    let condition = match key {
        encode::CT_STATE => Match::ConnState { any_of },
        encode::CT_STATUS => Match::ConnStatus { any_of },
        _ => return None,
    };
    Some((condition, 3))
}

fn read_group(mask: &Expression, cmp: &Expression) -> Option<(Match, usize)> {
    let number = |bytes: Vec<u8>| Some(u32::from_ne_bytes(bytes.try_into().ok()?));
    let condition = Match::InGroup {
        mask: number(mask.data(4)?)?,
        value: number(cmp.data(3)?)?,
        is: cmp.number(2)? == encode::EQUAL,
    };
    Some((condition, 3))
}

/// A network: the bytes that name it, or all of the address under a mask.
fn read_network(
    load: &Expression,
    second: &Expression,
    third: Option<&Expression>,
) -> Option<(Match, usize)> {
    let offset = load.number(3)?;
    let size = if [SOURCE.v4, DESTINATION.v4].contains(&offset) {
        4
    } else {
        16
    };
    let (cmp, prefix, length) = if second.name == "bitwise" {
        let ones: u32 = second.data(4)?.iter().map(|byte| byte.leading_ones()).sum();
        (third?, ones, 3)
    } else {
        (second, load.number(4)?.checked_mul(8)?, 2)
    };
    let mut octets = cmp.data(3)?;
    if octets.len() > size {
        return None;
    }
    octets.resize(size, 0);
    let net = IpNet::new(read_address(&octets)?, prefix.try_into().ok()?).ok()?;
    let is = cmp.number(2)? == encode::EQUAL;
    if [SOURCE.v4, SOURCE.v6].contains(&offset) {
        Some((Match::Source { net, is }, length))
    } else {
        Some((Match::Destination { net, is }, length))
    }
}

fn read_address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
    }
}
