//! The chains of everybody's tables, as far as they matter to whoever has others' packets forwarded: what they make of
//! a packet that none of their rules is about.

use super::{
    BaseChain,
    decode::{Attributes, BaseOf, read_base, text_of},
    encode,
    expression::{Expression, attributes},
};
use crate::netlink::Socket;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{ChainMessage, NfTablesMessage, RuleMessage},
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::{collections::BTreeMap, io};

/// The base chains of type `filter` of every table of IP. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn filters() -> io::Result<Vec<BaseChain>> {
    /// `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`.
    const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];
    const TABLE: u16 = 1;
    const CHAIN_OF_RULE: u16 = 2;
    let socket = Socket::open(NETLINK_NETFILTER)?;
    let dump = |message: NfTablesMessage| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
        let message = NetfilterMessage::new(header, NetfilterMessageInner::NfTables(message));
        socket.dump(message, |found: &mut Vec<(u8, Attributes)>, _, payload| {
            let rest = payload.get(4..).unwrap_or_default();
            found.extend(
                payload
                    .first()
                    .map(|family| (*family, attributes(rest).collect())),
            );
        })
    };
    let chains = dump(NfTablesMessage::GetChain(ChainMessage {
        attributes: Vec::new(),
    }))?;
    let rules = dump(NfTablesMessage::GetRule(RuleMessage {
        attributes: Vec::new(),
    }))?;
    // The kernel lists the rules of a chain in their order: what stays is the last one.
    let last: BTreeMap<(u8, String, String), &Attributes> = rules
        .iter()
        .map(|(family, rule)| {
            let chain = text_of(rule, CHAIN_OF_RULE);
            ((*family, text_of(rule, TABLE), chain), rule)
        })
        .collect();
    let read = |(family, found): &(u8, Attributes)| {
        let (_, family_name) = FAMILIES.iter().find(|(number, _)| number == family)?;
        let BaseOf {
            name,
            kind,
            hook,
            policy,
            ..
        } = read_base(found)?;
        let table = text_of(found, TABLE);
        let last = last.get(&(*family, table.clone(), name.clone()));
        (kind == "filter").then(|| BaseChain {
            has_rules: last.is_some(),
            table: format!("{family_name} {table}"),
            name,
            hook,
            drops: policy == encode::DROP || last.is_some_and(|rule| drops_all(rule)),
        })
    };
    Ok(chains.iter().filter_map(read).collect())
}

/// Whether a rule drops or rejects whatever comes to it: the end of a chain whose policy accepts (firewalld writes such).
fn drops_all(rule: &Attributes) -> bool {
    const EXPRESSIONS: u16 = 4;
    const VERDICT: u16 = 2;
    let list = rule
        .get(&EXPRESSIONS)
        .into_iter()
        .flat_map(|list| attributes(list));
    let expressions: Vec<Expression> = list
        .map(|(_, element)| Expression::read(&element))
        .collect();
    let Some((end, before)) = expressions.split_last() else {
        return false;
    };
    let ends = match end.name.as_str() {
        "reject" => true,
        "immediate" => end.verdict(VERDICT) == Some(encode::DROP),
        _ => false,
    };
    // These say nothing about a packet; everything else may be a condition.
    let notes = |one: &Expression| matches!(one.name.as_str(), "counter" | "log");
    ends && before.iter().all(notes)
}
