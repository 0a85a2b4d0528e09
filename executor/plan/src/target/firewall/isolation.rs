//! Internal networks: nothing enters one or leaves it, and of the host itself its pods have next to
//! nothing.
//!
//! What stays on the bridge is nobody's business here. The host may open connections to the pods: what
//! belongs to one of these comes back. A pod opens none to the host but for names, and may ask whether
//! it is there (echo). By the direction of a connection that is told apart, and not by its state: one
//! that the pod opened while the network was another is established, too.

use super::{
    Action, Chain, Family, Match, Rule, Scene, Selector, Table, TableFamily,
    bridged::ICMPV6,
    host_services::{always, for_own_bridge},
    in_set,
    routed::{FORWARD, PREROUTING, on_one_bridge},
    rule,
    scene::set_of_interfaces,
};
use std::collections::BTreeSet;

const ISOLATION: &str = "isolation";

/// The set of bridges.
const INTERNAL: &str = "internal";

pub(super) const ICMP: u8 = 1;

/// Echo requests (RFC 792, RFC 4443).
const ECHO: u8 = 8;
const ECHO6: u8 = 128;

/// Adds what internal networks need, where there are any.
pub(super) fn add_isolation(table: &mut Table, scene: &Scene) {
    if scene.internal().next().is_none() {
        return;
    }
    table.chains.push(Chain {
        family: TableFamily::Inet,
        name: ISOLATION.to_owned(),
        kind: "filter".to_owned(),
        hook: 1,
        priority: -6,
    });
    table
        .sets
        .push(set_of_interfaces(INTERNAL, scene.internal()));
    // Before answers and published ports are let through.
    let mut rules = apart();
    rules.push(untranslated());
    rules.append(&mut table.rules);
    table.rules = rules;
    table.rules.extend(inward(&scene.families()));
}

fn apart() -> Vec<Rule> {
    let drop = |comment: &str, end: Selector| {
        let matches = vec![in_set(INTERNAL, &[end], true), on_one_bridge(false)];
        rule((TableFamily::Inet, FORWARD), comment, matches, Action::Drop)
    };
    vec![
        drop("nothing leaves an internal network", Selector::InInterface),
        drop("nothing enters an internal network", Selector::OutInterface),
    ]
}

/// For pods of internal networks no port is published: what they send there is for the host, which drops
/// it. Dropped on its way to a pod it would be too late: the kernel tells the sender of a better way there
/// before (a redirect), and so which ports there are.
fn untranslated() -> Rule {
    let from = in_set(INTERNAL, &[Selector::InInterface], true);
    rule(
        (TableFamily::Inet, PREROUTING),
        "no published port is for an internal network",
        vec![from],
        Action::Accept,
    )
}

/// What the host takes from pods of internal networks.
fn inward(families: &BTreeSet<Family>) -> Vec<Rule> {
    let from = in_set(INTERNAL, &[Selector::InInterface], true);
    let rule = |comment: &str, matches: &[Match], action| {
        let matches = [std::slice::from_ref(&from), matches].concat();
        rule((TableFamily::Inet, ISOLATION), comment, matches, action)
    };
    let answers = rule("answers to the host", &[Match::ConnReply], Action::Accept);
    let mut rules = vec![answers];
    rules.extend(always(ISOLATION, &from, families));
    rules.extend(families.iter().map(|family| {
        let (icmp, echo) = match family {
            Family::V4 => (ICMP, ECHO),
            Family::V6 => (ICMPV6, ECHO6),
        };
        let request = [Match::Protocol(icmp), Match::Icmpv6Type(echo)];
        let matches = [for_own_bridge(*family), request].concat();
        rule("is the host there?", &matches, Action::Accept)
    }));
    rules.push(rule("nothing else of the host", &[], Action::Drop));
    rules
}
