//! Whether the kernel has what Tank's rules are made of: each part is written as a rule, in a
//! transaction that has no end and so never happens (as `nft --check` does).

use super::{Action, Chain, Family, Match, Rule, Table, TableFamily, ct_state, encode};
use crate::netlink::Socket;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

/// The table that is written and never there.
const NAME: &str = "tank-check";

/// `NF_INET_PRE_ROUTING` and those after it (`NF_BR_*` has the same numbers).
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const POSTROUTING: u32 = 4;

/// The modules that are not there, with what the kernel answered.
pub fn missing() -> io::Result<Vec<(&'static str, io::Error)>> {
    let socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
    let mut missing = Vec::new();
    for (module, family, (kind, hook), matches, action) in parts() {
        let chain = Chain {
            name: "check".to_owned(),
            kind: kind.to_owned(),
            hook,
            priority: 0,
        };
        let rule = Rule {
            chain: chain.name.clone(),
            comment: String::new(),
            matches,
            action,
        };
        let table = Table {
            chains: vec![chain],
            rules: vec![rule],
            ..Table::default()
        };
        let messages = encode::replacement(family, NAME, &table)?;
        let (begin, _) = encode::batch_ends(None);
        match socket.batch(begin, messages, None) {
            Ok(()) => {}
            Err(refused) if refused.error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(refused.error);
            }
            Err(refused) => missing.push((module, refused.error)),
        }
    }
    Ok(missing)
}

/// A module, and a rule that needs it: its family, the type and hook of its chain, and itself.
type Part = (
    &'static str,
    TableFamily,
    (&'static str, u32),
    Vec<Match>,
    Action,
);

fn parts() -> [Part; 7] {
    use TableFamily::{Bridge, Inet};
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let v4 = || Match::Family(Family::V4);
    let tracked = || Match::ConnState {
        any_of: ct_state::ESTABLISHED,
    };
    let from_group = Match::InGroup {
        mask: 1,
        value: 1,
        is: true,
    };
    let filter = |hook| ("filter", hook);
    [
        ("nft_ct", Inet, filter(INPUT), vec![tracked()], Action::Drop),
        (
            "nft_fib_inet",
            Inet,
            filter(PREROUTING),
            vec![Match::DestinationLocal],
            Action::Drop,
        ),
        (
            "nft_socket",
            Inet,
            filter(INPUT),
            vec![v4(), Match::SocketTransparent],
            Action::Drop,
        ),
        (
            "nft_nat",
            Inet,
            ("nat", PREROUTING),
            vec![v4(), Match::Protocol(6)],
            Action::Dnat(to),
        ),
        (
            "nft_masq",
            Inet,
            ("nat", POSTROUTING),
            vec![v4()],
            Action::Masquerade,
        ),
        (
            "nf_tables of the family bridge",
            Bridge,
            filter(PREROUTING),
            vec![from_group],
            Action::Drop,
        ),
        (
            "nft_meta_bridge",
            Bridge,
            filter(PREROUTING),
            Vec::new(),
            Action::ToHost([2, 0, 0, 0, 0, 0]),
        ),
    ]
}
