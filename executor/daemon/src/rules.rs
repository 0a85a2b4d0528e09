//! Tank's own nftables table, between the planner's data and the kernel's: the same vocabulary in
//! two crates, of which neither knows the other.

use tank_plan::target::firewall::{Action, Chain, Family, Match, Rule, Table};
use tank_sys::nft;

/// The name of Tank's own table.
pub const TABLE: &str = "tank";

/// A table as it is written.
pub fn to_kernel(table: &Table) -> nft::Table {
    let chain = |chain: &Chain| {
        let Chain {
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
                Action::Masquerade => nft::Action::Masquerade,
                Action::Other(text) => nft::Action::Other(text),
            },
        }
    };
    nft::Table {
        chains: table.chains.iter().map(chain).collect(),
        rules: table.rules.iter().map(rule).collect(),
        others: table.others.clone(),
    }
}

fn match_to_kernel(found: Match) -> nft::Match {
    match found {
        Match::InInterface { name, is } => nft::Match::InInterface { name, is },
        Match::OutInterface { name, is } => nft::Match::OutInterface { name, is },
        Match::Family(Family::V4) => nft::Match::Family(nft::Family::V4),
        Match::Family(Family::V6) => nft::Match::Family(nft::Family::V6),
        Match::Source { net, is } => nft::Match::Source { net, is },
        Match::Destination { net, is } => nft::Match::Destination { net, is },
        Match::DestinationLocal => nft::Match::DestinationLocal,
        Match::Protocol(number) => nft::Match::Protocol(number),
        Match::DestinationPort(port) => nft::Match::DestinationPort(port),
        Match::ConnState { any_of } => nft::Match::ConnState { any_of },
        Match::ConnStatus { any_of } => nft::Match::ConnStatus { any_of },
        Match::Other(text) => nft::Match::Other(text),
    }
}

/// A table as it was listed.
pub fn from_kernel(table: nft::Table) -> Table {
    let chain = |chain: nft::Chain| {
        let nft::Chain {
            name,
            kind,
            hook,
            priority,
        } = chain;
        Chain {
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
            chain,
            comment,
            matches: matches.into_iter().map(match_from_kernel).collect(),
            action: match action {
                nft::Action::Accept => Action::Accept,
                nft::Action::Drop => Action::Drop,
                nft::Action::Dnat(to) => Action::Dnat(to),
                nft::Action::Masquerade => Action::Masquerade,
                nft::Action::Other(text) => Action::Other(text),
            },
        }
    };
    Table {
        chains: table.chains.into_iter().map(chain).collect(),
        rules: table.rules.into_iter().map(rule).collect(),
        others: table.others,
    }
}

fn match_from_kernel(found: nft::Match) -> Match {
    match found {
        nft::Match::InInterface { name, is } => Match::InInterface { name, is },
        nft::Match::OutInterface { name, is } => Match::OutInterface { name, is },
        nft::Match::Family(nft::Family::V4) => Match::Family(Family::V4),
        nft::Match::Family(nft::Family::V6) => Match::Family(Family::V6),
        nft::Match::Source { net, is } => Match::Source { net, is },
        nft::Match::Destination { net, is } => Match::Destination { net, is },
        nft::Match::DestinationLocal => Match::DestinationLocal,
        nft::Match::Protocol(number) => Match::Protocol(number),
        nft::Match::DestinationPort(port) => Match::DestinationPort(port),
        nft::Match::ConnState { any_of } => Match::ConnState { any_of },
        nft::Match::ConnStatus { any_of } => Match::ConnStatus { any_of },
        nft::Match::Other(text) => Match::Other(text),
    }
}
