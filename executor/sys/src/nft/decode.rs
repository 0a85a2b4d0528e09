//! From what the kernel lists to the vocabulary.
//!
//! A word is a guess that is proved: it counts only when encoding it again gives the expressions it
//! was read from. So nothing that differs in any attribute is taken for it.
//!
//! Handles are left out.

use super::{
    Action, Chain, Family, Match, Rule, Table,
    encode::{self, DESTINATION, NETWORK, SOURCE, TRANSPORT, Written},
    expression::{Expression, attributes, number, text},
    inet,
};
use crate::netlink::Socket;
use ipnet::IpNet;
use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetMessage, TableMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
};

/// The attributes of a message.
type Attributes = BTreeMap<u16, Vec<u8>>;

/// The table called `name`. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn list(name: &str) -> io::Result<Option<Table>> {
    let socket = Socket::open(NETLINK_NETFILTER)?;
    let dump = |message: NfTablesMessage| -> io::Result<Vec<Attributes>> {
        let found = socket.dump(inet(message), |found: &mut Vec<Attributes>, _, payload| {
            found.extend(in_table(name, payload))
        });
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
    let others = [
        (
            "set",
            NfTablesMessage::GetSet(SetMessage {
                attributes: Vec::new(),
            }),
        ),
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

/// The attributes behind a `struct nfgenmsg`, of something in the table `name` of the family
/// `inet`.
pub fn in_table(name: &str, payload: &[u8]) -> Option<Attributes> {
    const INET: u8 = 1;
    /// `NFT_*_TABLE` of chains, rules, sets, objects and flow tables, and `NFTA_TABLE_NAME`.
    const OF_TABLE: u16 = 1;
    let found: Attributes = attributes(payload.get(4..)?).collect();
    (payload.first() == Some(&INET) && text(found.get(&OF_TABLE)?) == name).then_some(found)
}

fn text_of(found: &Attributes, kind: u16) -> String {
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

/// A base chain that accepts by default; the text of any other one.
fn read_chain(found: &Attributes) -> Result<Chain, String> {
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const KIND: u16 = 7;
    let name = text_of(found, NAME);
    let base = found.get(&HOOK).and_then(|hook| {
        let hook: Attributes = attributes(hook).collect();
        Some((number(hook.get(&1)?)?, number(hook.get(&2)?)? as i32))
    });
    let Some((hook, priority)) = base else {
        return Err(format!("chain {name}"));
    };
    let kind = text_of(found, KIND);
    let policy = found.get(&POLICY).and_then(|policy| number(policy));
    match policy.unwrap_or(encode::ACCEPT) {
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

/// The comment among libnftnl's user data: type, length and value of each.
fn read_comment(mut data: &[u8]) -> Option<String> {
    const COMMENT: u8 = 0;
    loop {
        let [kind, length, rest @ ..] = data else {
            return None;
        };
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        data = &rest[value.len()..];
    }
}

/// The action at the end of a rule, and the expressions before it.
fn read_action(expressions: &[Expression]) -> (Action, &[Expression]) {
    let Some((last, before)) = expressions.split_last() else {
        return (Action::Other(String::new()), expressions);
    };
    let guess = match last.name.as_str() {
        "immediate" => match last.verdict(2) {
            Some(encode::ACCEPT) => Some((Action::Accept, 1)),
            Some(encode::DROP) => Some((Action::Drop, 1)),
            _ => None,
        },
        "masq" => Some((Action::Masquerade, 1)),
        "nat" => read_target(before).map(|to| (Action::Dnat(to), 3)),
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
                .all(|((name, attributes), found)| {
                    Expression::of(name, attributes).text() == found.text()
                })
    })
}

/// What the expressions seem to begin with, and how many of them that is.
fn read_match(expressions: &[Expression]) -> Option<(Match, usize)> {
    let [load, second, ..] = expressions else {
        return None;
    };
    let is = second.number(2)? == encode::EQUAL;
    let value = || second.data(3);
    match load.name.as_str() {
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
                _ => return None,
            };
            Some((condition, 2))
        }
        "fib" => Some((Match::DestinationLocal, 2)),
        "ct" => {
            let any_of = u32::from_ne_bytes(second.data(4)?.try_into().ok()?);
            let condition = match load.number(2)? {
                encode::CT_STATE => Match::ConnState { any_of },
                encode::CT_STATUS => Match::ConnStatus { any_of },
                _ => return None,
            };
            Some((condition, 3))
        }
        "payload" if load.number(2)? == TRANSPORT => {
            let port = u16::from_be_bytes(value()?.try_into().ok()?);
            Some((Match::DestinationPort(port), 2))
        }
        "payload" if load.number(2)? == NETWORK => read_network(load, second, expressions.get(2)),
        _ => None,
    }
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
