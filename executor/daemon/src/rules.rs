//! Tank's own nftables tables, between the planner's data and the kernel's: the same vocabulary in
//! two crates, of which neither knows the other.
//!
//! The planner's data is one table; in the kernel there is one for each family, of the same name.

use std::sync::{Arc, Mutex, PoisonError};
use tank_plan::target::firewall::{
    Action, Chain, Family, Kind, Match, Rule, Selector, Set, Table, TableFamily, Value,
};
use tank_sys::nft;

/// The name of Tank's own tables.
pub const TABLE: &str = "tank";

/// Tank's own tables, in the network namespace that the daemon is in from its start to its end. What is
/// known of them and their socket are kept.
fn tables() -> tank_sys::Result<Arc<nft::Tables>> {
    static TABLES: Mutex<Option<Arc<nft::Tables>>> = Mutex::new(None);
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    match &*tables {
        Some(tables) => Ok(Arc::clone(tables)),
        None => Ok(Arc::clone(
            tables.insert(Arc::new(nft::Tables::open(TABLE)?)),
        )),
    }
}

/// Makes Tank's own tables hold these rules, in one transaction. Blocking.
///
/// # Errors
/// What the kernel gives; nothing has changed then.
pub fn ensure(table: &Table) -> tank_sys::Result<()> {
    let wanted =
        TableFamily::ALL.map(|family| (family_to_kernel(family), to_kernel(family, table)));
    tables()?.ensure(&wanted).map(drop)
}

/// Removes Tank's own tables. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn remove() -> tank_sys::Result<()> {
    tables()?.remove()
}

/// What is in Tank's own tables. None: there is neither. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn list() -> tank_sys::Result<Option<Table>> {
    let mut all: Option<Table> = None;
    for (kernel, found) in tables()?.list()? {
        let family = TableFamily::ALL
            .into_iter()
            .find(|own| family_to_kernel(*own) == kernel);
        if let (Some(family), Some(found)) = (family, found) {
            let Table {
                chains,
                sets,
                rules,
                others,
            } = from_kernel(family, found);
            let all = all.get_or_insert_default();
            all.chains.extend(chains);
            all.sets.extend(sets);
            all.rules.extend(rules);
            all.others.extend(others);
        }
    }
    Ok(all)
}

fn family_to_kernel(family: TableFamily) -> nft::TableFamily {
    match family {
        TableFamily::Inet => nft::TableFamily::Inet,
        TableFamily::Bridge => nft::TableFamily::Bridge,
    }
}

/// What of a table is of one family, as it is written.
fn to_kernel(family: TableFamily, table: &Table) -> nft::Table {
    let chain = |chain: &Chain| {
        let Chain {
            family: _,
            name,
            kind,
            hook,
            priority,
        } = chain.clone();
        nft::Chain {
            name,
            kind,
            hook,
            priority,
        }
    };
    let rule = |rule: &Rule| {
        let Rule {
            family: _,
            chain,
            comment,
            matches,
            action,
        } = rule.clone();
        nft::Rule {
            chain,
            comment,
            matches: matches.into_iter().map(match_to_kernel).collect(),
            action: match action {
                Action::Accept => nft::Action::Accept,
                Action::Drop => nft::Action::Drop,
                Action::Dnat(to) => nft::Action::Dnat(to),
                Action::DnatMap { map, of, family } => nft::Action::DnatMap {
                    map,
                    of: selectors_to_kernel(&of),
                    family: match family {
                        Family::V4 => nft::Family::V4,
                        Family::V6 => nft::Family::V6,
                    },
                },
                Action::Masquerade => nft::Action::Masquerade,
                Action::ToHost(mac) => nft::Action::ToHost(mac),
                Action::Other(text) => nft::Action::Other(text),
            },
        }
    };
    let chains = table.chains.iter().filter(|chain| chain.family == family);
    let rules = table.rules.iter().filter(|rule| rule.family == family);
    let sets = table.sets.iter().filter(|set| set.family == family);
    nft::Table {
        chains: chains.map(chain).collect(),
        sets: sets.map(set_to_kernel).collect(),
        rules: rules.map(rule).collect(),
        // What belongs to no family can't be written in any.
        others: table.others.clone(),
    }
}

const KINDS: [(Kind, nft::Kind); 9] = [
    (Kind::Group, nft::Kind::Group),
    (Kind::Interface, nft::Kind::Interface),
    (Kind::Mac, nft::Kind::Mac),
    (Kind::V4, nft::Kind::V4),
    (Kind::V6, nft::Kind::V6),
    (Kind::Protocol, nft::Kind::Protocol),
    (Kind::Port, nft::Kind::Port),
    (Kind::Net4, nft::Kind::Net4),
    (Kind::Net6, nft::Kind::Net6),
];

fn set_to_kernel(set: &Set) -> nft::Set {
    let value = |value: &Value| match value.clone() {
        Value::Group(number) => nft::Value::Group(number),
        Value::Interface(name) => nft::Value::Interface(name),
        Value::Mac(octets) => nft::Value::Mac(octets),
        Value::V4(address) => nft::Value::V4(address),
        Value::V6(address) => nft::Value::V6(address),
        Value::Protocol(number) => nft::Value::Protocol(number),
        Value::Port(port) => nft::Value::Port(port),
        Value::Net4(net) => nft::Value::Net4(net),
        Value::Net6(net) => nft::Value::Net6(net),
    };
    let kinds = |own: &[Kind]| {
        let same = |kind: &Kind| KINDS.iter().find(|(own, _)| own == kind);
        own.iter()
            .filter_map(same)
            .map(|(_, kernel)| *kernel)
            .collect()
    };
    let element = |element: &Vec<Value>| element.iter().map(value).collect();
    nft::Set {
        name: set.name.clone(),
        key: kinds(&set.key),
        data: kinds(&set.data),
        elements: set.elements.iter().map(element).collect(),
    }
}

fn set_from_kernel(family: TableFamily, set: nft::Set) -> Set {
    let value = |value: nft::Value| match value {
        nft::Value::Group(number) => Value::Group(number),
        nft::Value::Interface(name) => Value::Interface(name),
        nft::Value::Mac(octets) => Value::Mac(octets),
        nft::Value::V4(address) => Value::V4(address),
        nft::Value::V6(address) => Value::V6(address),
        nft::Value::Protocol(number) => Value::Protocol(number),
        nft::Value::Port(port) => Value::Port(port),
        nft::Value::Net4(net) => Value::Net4(net),
        nft::Value::Net6(net) => Value::Net6(net),
    };
    let kinds = |kernel: &[nft::Kind]| {
        let same = |kind: &nft::Kind| KINDS.iter().find(|(_, kernel)| kernel == kind);
        kernel
            .iter()
            .filter_map(same)
            .map(|(own, _)| *own)
            .collect()
    };
    let element = |element: Vec<nft::Value>| element.into_iter().map(value).collect();
    Set {
        family,
        name: set.name,
        key: kinds(&set.key),
        data: kinds(&set.data),
        elements: set.elements.into_iter().map(element).collect(),
    }
}

const SELECTORS: [(Selector, nft::Selector); 26] = [
    (Selector::InGroup, nft::Selector::InGroup),
    (Selector::InInterface, nft::Selector::InInterface),
    (Selector::OutInterface, nft::Selector::OutInterface),
    (Selector::OutGroup, nft::Selector::OutGroup),
    (Selector::FrameType, nft::Selector::FrameType),
    (Selector::DestinationMac, nft::Selector::DestinationMac),
    (Selector::SourceMac, nft::Selector::SourceMac),
    (Selector::ArpSenderMac, nft::Selector::ArpSenderMac),
    (Selector::ArpSender, nft::Selector::ArpSender),
    (Selector::Source4, nft::Selector::Source4),
    (Selector::Destination4, nft::Selector::Destination4),
    (Selector::Source6, nft::Selector::Source6),
    (Selector::Destination6, nft::Selector::Destination6),
    (Selector::OpenerSource4, nft::Selector::OpenerSource4),
    (Selector::OpenerSource6, nft::Selector::OpenerSource6),
    (Selector::AnswerSource4, nft::Selector::AnswerSource4),
    (Selector::AnswerSource6, nft::Selector::AnswerSource6),
    (Selector::NeighbourTarget, nft::Selector::NeighbourTarget),
    (Selector::NextHeader, nft::Selector::NextHeader),
    (Selector::PayloadLength, nft::Selector::PayloadLength),
    (Selector::NeighbourOption, nft::Selector::NeighbourOption),
    (Selector::NeighbourMac, nft::Selector::NeighbourMac),
    (
        Selector::SolicitationOption,
        nft::Selector::SolicitationOption,
    ),
    (Selector::SolicitationMac, nft::Selector::SolicitationMac),
    (Selector::Protocol, nft::Selector::Protocol),
    (Selector::DestinationPort, nft::Selector::DestinationPort),
];

fn selectors_to_kernel(of: &[Selector]) -> Vec<nft::Selector> {
    let same = |one: &Selector| SELECTORS.iter().find(|(own, _)| own == one);
    let of = of.iter().filter_map(same);
    of.map(|(_, kernel)| *kernel).collect()
}

fn selectors_from_kernel(of: &[nft::Selector]) -> Vec<Selector> {
    let same = |one: &nft::Selector| SELECTORS.iter().find(|(_, own)| own == one);
    let of = of.iter().filter_map(same);
    of.map(|(plan, _)| *plan).collect()
}

fn match_to_kernel(found: Match) -> nft::Match {
    match found {
        Match::InInterface { name, is } => nft::Match::InInterface { name, is },
        Match::OutInterface { name, is } => nft::Match::OutInterface { name, is },
        Match::InGroup { mask, value, is } => nft::Match::InGroup { mask, value, is },
        Match::EtherType(kind) => nft::Match::EtherType(kind),
        Match::PacketType(kind) => nft::Match::PacketType(kind),
        Match::LongerThan(bytes) => nft::Match::LongerThan(bytes),
        Match::Family(Family::V4) => nft::Match::Family(nft::Family::V4),
        Match::Family(Family::V6) => nft::Match::Family(nft::Family::V6),
        Match::Source { net, is } => nft::Match::Source { net, is },
        Match::Destination { net, is } => nft::Match::Destination { net, is },
        Match::DestinationLocal => nft::Match::DestinationLocal,
        Match::Protocol(number) => nft::Match::Protocol(number),
        Match::Icmpv6Type(kind) => nft::Match::Icmpv6Type(kind),
        Match::SourcePort(port) => nft::Match::SourcePort(port),
        Match::DestinationPort(port) => nft::Match::DestinationPort(port),
        Match::ConnState { any_of } => nft::Match::ConnState { any_of },
        Match::ConnStatus { any_of } => nft::Match::ConnStatus { any_of },
        Match::ConnReply => nft::Match::ConnReply,
        Match::SocketTransparent => nft::Match::SocketTransparent,
        Match::InSet { set, of, is } => nft::Match::InSet {
            set,
            of: selectors_to_kernel(&of),
            is,
        },
        Match::Other(text) => nft::Match::Other(text),
    }
}

/// The table of one family as it was listed.
fn from_kernel(family: TableFamily, table: nft::Table) -> Table {
    let chain = |chain: nft::Chain| {
        let nft::Chain {
            name,
            kind,
            hook,
            priority,
        } = chain;
        Chain {
            family,
            name,
            kind,
            hook,
            priority,
        }
    };
    let rule = |rule: nft::Rule| {
        let nft::Rule {
            chain,
            comment,
            matches,
            action,
        } = rule;
        Rule {
            family,
            chain,
            comment,
            matches: matches.into_iter().map(match_from_kernel).collect(),
            action: match action {
                nft::Action::Accept => Action::Accept,
                nft::Action::Drop => Action::Drop,
                nft::Action::Dnat(to) => Action::Dnat(to),
                nft::Action::DnatMap { map, of, family } => Action::DnatMap {
                    map,
                    of: selectors_from_kernel(&of),
                    family: match family {
                        nft::Family::V4 => Family::V4,
                        nft::Family::V6 => Family::V6,
                    },
                },
                nft::Action::Masquerade => Action::Masquerade,
                nft::Action::ToHost(mac) => Action::ToHost(mac),
                nft::Action::Other(text) => Action::Other(text),
            },
        }
    };
    let set = |set| set_from_kernel(family, set);
    Table {
        chains: table.chains.into_iter().map(chain).collect(),
        sets: table.sets.into_iter().map(set).collect(),
        rules: table.rules.into_iter().map(rule).collect(),
        others: table.others,
    }
}

fn match_from_kernel(found: nft::Match) -> Match {
    match found {
        nft::Match::InInterface { name, is } => Match::InInterface { name, is },
        nft::Match::OutInterface { name, is } => Match::OutInterface { name, is },
        nft::Match::InGroup { mask, value, is } => Match::InGroup { mask, value, is },
        nft::Match::EtherType(kind) => Match::EtherType(kind),
        nft::Match::PacketType(kind) => Match::PacketType(kind),
        nft::Match::LongerThan(bytes) => Match::LongerThan(bytes),
        nft::Match::Family(nft::Family::V4) => Match::Family(Family::V4),
        nft::Match::Family(nft::Family::V6) => Match::Family(Family::V6),
        nft::Match::Source { net, is } => Match::Source { net, is },
        nft::Match::Destination { net, is } => Match::Destination { net, is },
        nft::Match::DestinationLocal => Match::DestinationLocal,
        nft::Match::Protocol(number) => Match::Protocol(number),
        nft::Match::Icmpv6Type(kind) => Match::Icmpv6Type(kind),
        nft::Match::SourcePort(port) => Match::SourcePort(port),
        nft::Match::DestinationPort(port) => Match::DestinationPort(port),
        nft::Match::ConnState { any_of } => Match::ConnState { any_of },
        nft::Match::ConnStatus { any_of } => Match::ConnStatus { any_of },
        nft::Match::ConnReply => Match::ConnReply,
        nft::Match::SocketTransparent => Match::SocketTransparent,
        nft::Match::InSet { set, of, is } => Match::InSet {
            set,
            of: selectors_from_kernel(&of),
            is,
        },
        nft::Match::Other(text) => Match::Other(text),
    }
}
