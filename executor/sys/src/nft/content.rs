//! What a table holds, as a set of lines that are equal when the tables do the same: one for the
//! table, one for each chain (type, hook, priority, policy), one for each rule (its expressions),
//! and one for the order of a chain's rules. Handles, comments and what counters have counted are
//! left out; a set, object or flow table is a line, too, since Tank has none.
//!
//! An expression is a name and attributes. The kernel lists them in an order of its own, with those
//! that were left to their default, so they are compared by their numbers, without numbers that are
//! zero.

use super::{Rule, TABLE};
use crate::netlink::Conversation;
use netlink_packet_core::NlasIterator;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainMessage, Expressions, NfTablesMessage, RuleAttribute, RuleMessage, SetMessage,
        TableMessage,
    },
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    io,
};

/// Without the flags of an attribute's kind (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const KIND: u16 = 0x3fff;

/// `NFT_*_TABLE` of chains, rules, sets, objects and flow tables, and `NFTA_TABLE_NAME` of tables.
const OF_TABLE: u16 = 1;

/// The lines of a table that holds `rules` in `chains`: name, type, hook, priority.
pub fn of_rules(chains: &[(&str, &str, u32, i32)], rules: &[Rule]) -> BTreeSet<String> {
    let mut table = Table::default();
    table.lines.insert(table_line(0));
    for (name, kind, hook, priority) in chains {
        table
            .lines
            .insert(chain_line(name, kind, Some((*hook, *priority)), ACCEPT));
    }
    for rule in rules {
        let mut text = String::new();
        for expression in &rule.expressions {
            if let Expressions::Other {
                expression_type,
                attributes,
            } = expression
            {
                use netlink_packet_core::Nla;
                let read = attributes.iter().map(|attribute| {
                    let mut value = vec![0; attribute.value_len()];
                    attribute.emit_value(&mut value);
                    (attribute.kind(), value)
                });
                write_expression(&mut text, expression_type, read);
            }
        }
        table
            .rules
            .entry(rule.chain.to_owned())
            .or_default()
            .push(text);
    }
    table.finish()
}

/// The lines of the table that is there; none where there is none. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn list() -> io::Result<BTreeSet<String>> {
    let conversation = Conversation::open(NETLINK_NETFILTER)?;
    let dump = |message: NfTablesMessage, each: &mut dyn FnMut(&[u8])| -> io::Result<()> {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        let request = NetfilterMessage::new(header, NetfilterMessageInner::NfTables(message));
        match conversation.list(request, |_, payload| each(payload)) {
            // There is no such table.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    };
    let mut table = Table::default();
    dump(
        NfTablesMessage::GetTable(TableMessage {
            attributes: Vec::new(),
        }),
        &mut |payload| {
            table.lines.extend(read_table(payload));
        },
    )?;
    if table.lines.is_empty() {
        return Ok(table.lines);
    }
    dump(
        NfTablesMessage::GetChain(ChainMessage {
            attributes: Vec::new(),
        }),
        &mut |payload| {
            table.lines.extend(read_chain(payload));
        },
    )?;
    let of_table = RuleMessage {
        attributes: vec![RuleAttribute::Table(TABLE.to_owned())],
    };
    dump(NfTablesMessage::GetRule(of_table), &mut |payload| {
        if let Some((chain, rule)) = read_rule(payload) {
            table.rules.entry(chain).or_default().push(rule);
        }
    })?;
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
        let listed = dump(message, &mut |payload| {
            table
                .lines
                .extend(name_in_table(payload).map(|name| format!("{what} {name}")));
        });
        match listed {
            // A kernel without objects or flow tables.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            }
            other => other?,
        }
    }
    Ok(table.finish())
}

#[derive(Default)]
struct Table {
    lines: BTreeSet<String>,
    /// The rules of each chain, in their order.
    rules: BTreeMap<String, Vec<String>>,
}

impl Table {
    fn finish(mut self) -> BTreeSet<String> {
        for (chain, rules) in self.rules {
            // Rules are known by their place among all different ones: so a rule that is there
            // twice shows as well.
            let different: BTreeSet<&String> = rules.iter().collect();
            let places: BTreeMap<&String, usize> = different.into_iter().zip(0..).collect();
            let order: Vec<String> = rules.iter().map(|rule| places[rule].to_string()).collect();
            self.lines
                .insert(format!("order of {chain}: {}", order.join(" ")));
            self.lines
                .extend(rules.iter().map(|rule| format!("rule of {chain}:{rule}")));
        }
        self.lines
    }
}

/// `NF_ACCEPT`, what a chain does with what no rule decides on.
const ACCEPT: u32 = 1;

fn table_line(flags: u32) -> String {
    format!("table with flags {flags}")
}

/// `base` are hook and priority of a chain that the kernel calls; others are called by rules.
fn chain_line(name: &str, kind: &str, base: Option<(u32, i32)>, policy: u32) -> String {
    match base {
        Some((hook, priority)) => {
            format!("chain {name}: {kind} at hook {hook}, priority {priority}, policy {policy}")
        }
        None => format!("chain {name}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .to_owned()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(bytes)
        .flatten()
        .map(|attribute| (attribute.kind() & KIND, attribute.value().to_vec()))
}

/// The attributes behind a `struct nfgenmsg`, of something in Tank's table of the family `inet`.
fn in_table(payload: &[u8]) -> Option<BTreeMap<u16, Vec<u8>>> {
    const INET: u8 = 1;
    let found: BTreeMap<u16, Vec<u8>> = attributes(payload.get(4..)?).collect();
    (payload.first() == Some(&INET) && text(found.get(&OF_TABLE)?) == TABLE).then_some(found)
}

fn read_table(payload: &[u8]) -> Option<String> {
    const FLAGS: u16 = 2;
    let found = in_table(payload)?;
    Some(table_line(
        found
            .get(&FLAGS)
            .and_then(|flags| number(flags))
            .unwrap_or(0),
    ))
}

fn name_in_table(payload: &[u8]) -> Option<String> {
    const NAME: u16 = 2;
    Some(text(in_table(payload)?.get(&NAME)?))
}

fn read_chain(payload: &[u8]) -> Option<String> {
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const KIND_OF: u16 = 7;
    let found = in_table(payload)?;
    let base = found.get(&HOOK).and_then(|hook| {
        let hook: BTreeMap<u16, Vec<u8>> = attributes(hook).collect();
        Some((number(hook.get(&1)?)?, number(hook.get(&2)?)? as i32))
    });
    let kind = found
        .get(&KIND_OF)
        .map(|kind| text(kind))
        .unwrap_or_default();
    let policy = found
        .get(&POLICY)
        .and_then(|policy| number(policy))
        .unwrap_or(ACCEPT);
    Some(chain_line(&text(found.get(&NAME)?), &kind, base, policy))
}

/// A rule's chain and content.
fn read_rule(payload: &[u8]) -> Option<(String, String)> {
    const CHAIN: u16 = 2;
    const EXPRESSIONS: u16 = 4;
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    let found = in_table(payload)?;
    let mut rule = String::new();
    for (_, expression) in found
        .get(&EXPRESSIONS)
        .into_iter()
        .flat_map(|list| attributes(list))
    {
        let expression: BTreeMap<u16, Vec<u8>> = attributes(&expression).collect();
        let name = expression
            .get(&NAME)
            .map(|name| text(name))
            .unwrap_or_default();
        let data = expression
            .get(&DATA)
            .into_iter()
            .flat_map(|data| attributes(data));
        write_expression(&mut rule, &name, data);
    }
    Some((text(found.get(&CHAIN)?), rule))
}

/// Appends ` name{kind=value …}`, attributes by their kinds.
fn write_expression(
    rule: &mut String,
    name: &str,
    attributes: impl Iterator<Item = (u16, Vec<u8>)>,
) {
    let sorted: BTreeMap<u16, Vec<u8>> = attributes
        .map(|(kind, value)| (kind & KIND, value))
        .collect();
    let _ = write!(rule, " {name}{{");
    for (kind, value) in sorted {
        if holds_data(name, kind) {
            write_data(rule, kind, &value);
        } else if value != [0; 4] {
            write_bytes(rule, kind, &value);
        }
    }
    rule.push('}');
}

/// Which attributes are a `NFTA_DATA_*` again: what is compared with, masks, and what is loaded.
fn holds_data(name: &str, kind: u16) -> bool {
    matches!(
        (name, kind),
        ("cmp", 3) | ("bitwise", 4 | 5) | ("immediate", 2)
    )
}

/// `NFTA_DATA_VALUE` or `NFTA_DATA_VERDICT`.
fn write_data(rule: &mut String, kind: u16, value: &[u8]) {
    const VERDICT: u16 = 2;
    let _ = write!(rule, " {kind}=(");
    for (kind, value) in attributes(value).collect::<BTreeMap<_, _>>() {
        if kind == VERDICT {
            attributes(&value)
                .collect::<BTreeMap<_, _>>()
                .iter()
                .for_each(|(kind, value)| write_bytes(rule, *kind, value));
        } else {
            write_bytes(rule, kind, &value);
        }
    }
    rule.push_str(" )");
}

fn write_bytes(rule: &mut String, kind: u16, value: &[u8]) {
    let _ = write!(rule, " {kind}=");
    for byte in value {
        let _ = write!(rule, "{byte:02x}");
    }
}
