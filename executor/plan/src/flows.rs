//! Flows of UDP that published ports led to pods.
//!
//! The kernel goes on to send a flow where its first packet went, for as long as it lasts, and nothing
//! else ends it: who asks from one port all the time would reach a pod that is gone. Connections of TCP
//! end by themselves, and stay with their pod until then. Nor does it translate a flow that began before
//! its port was published.

use crate::target::firewall::{Table, Value};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// A flow of UDP, as the kernel tracks it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// Whom its packets are for.
    pub asked: SocketAddr,
    /// Who gets them by a translation. None: it is not translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
}

/// A port of the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Port {
    /// The host's address; an unspecified one: every one of its family.
    pub at: IpAddr,
    /// Its number.
    pub port: u16,
}

impl Port {
    /// The one of these ports at which something arrives that is for `asked`; `own` are the host's
    /// addresses. Nothing is published on `::1`.
    pub fn among(
        ports: &BTreeSet<Self>,
        asked: SocketAddr,
        own: &BTreeSet<IpAddr>,
    ) -> Option<Self> {
        let at = |at: IpAddr| {
            let port = asked.port();
            ports.get(&Self { at, port }).copied()
        };
        let is_own = match asked.ip().is_loopback() {
            true => asked.is_ipv4(),
            false => own.contains(&asked.ip()),
        };
        at(asked.ip()).or_else(|| at(every(asked.is_ipv4())).filter(|_| is_own))
    }
}

/// The unspecified address of a family.
fn every(is_ipv4: bool) -> IpAddr {
    match is_ipv4 {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Flows to one address of a pod's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Flows {
    /// The pod's.
    pub to: IpAddr,
    /// Those that came by one of these ports. None: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<BTreeSet<By>>,
}

/// A published port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct By {
    /// The host's address. None: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<IpAddr>,
    /// The host's port.
    pub port: u16,
    /// The pod's.
    pub to: u16,
}

impl Flows {
    /// Whether a flow is one of these, that was for `asked` and is led to `to`.
    pub fn has(&self, asked: SocketAddr, to: SocketAddr) -> bool {
        let is_one = |by: &BTreeSet<By>| is_by(by, asked, to);
        to.ip() == self.to && self.by.as_ref().is_none_or(is_one)
    }
}

/// Whether a flow comes by one of these ports.
fn is_by(by: &BTreeSet<By>, asked: SocketAddr, to: SocketAddr) -> bool {
    let with = |at| {
        by.contains(&By {
            at,
            port: asked.port(),
            to: to.port(),
        })
    };
    with(Some(asked.ip())) || with(None)
}

/// Where the published ports of UDP of a table lead.
#[derive(Debug, Default)]
pub struct Leads {
    /// By the addresses that they lead to.
    pub by: BTreeMap<IpAddr, BTreeSet<By>>,
    /// The ports.
    pub ports: BTreeSet<Port>,
}

impl Leads {
    /// Those of a table.
    pub fn of(table: Option<&Table>) -> Self {
        let by = published(table);
        let each = |(to, by): (&IpAddr, &BTreeSet<By>)| {
            let every = every(to.is_ipv4());
            let ports = by.iter().map(move |By { at, port, .. }| Port {
                at: at.unwrap_or(every),
                port: *port,
            });
            ports.collect::<Vec<_>>()
        };
        Self {
            ports: by.iter().flat_map(each).collect(),
            by,
        }
    }

    /// Whether a flow goes where the ports lead; `own` are the host's addresses.
    pub fn has(&self, flow: Flow, own: &BTreeSet<IpAddr>) -> bool {
        match flow.to {
            Some(to) => {
                let by = self.by.get(&to.ip());
                by.is_some_and(|by| is_by(by, flow.asked, to))
            }
            None => Port::among(&self.ports, flow.asked, own).is_none(),
        }
    }
}

/// The published ports of UDP of a table, by the addresses that they lead to.
fn published(table: Option<&Table>) -> BTreeMap<IpAddr, BTreeSet<By>> {
    let mut published: BTreeMap<IpAddr, BTreeSet<By>> = BTreeMap::new();
    let sets = table.into_iter().flat_map(|table| &table.sets);
    for set in sets.filter(|set| !set.data.is_empty()) {
        let elements = set.elements.iter();
        let elements = elements.filter_map(|element| lead(element, set.key.len()));
        for (to, by) in elements {
            published.entry(to).or_default().insert(by);
        }
    }
    published
}

/// What an element of a map says, whose key is so long; none that is not of UDP.
fn lead(element: &[Value], key: usize) -> Option<(IpAddr, By)> {
    let (key, data) = element.split_at_checked(key)?;
    let (mut at, mut is_udp, mut port) = (None, false, None);
    for value in key {
        match value {
            Value::V4(own) => at = Some(IpAddr::V4(*own)),
            Value::V6(own) => at = Some(IpAddr::V6(*own)),
            Value::Protocol(own) => is_udp = *own == UDP,
            Value::Port(own) => port = Some(*own),
            _ => {}
        }
    }
    let (to, to_port) = match data {
        [Value::V4(to), Value::Port(port)] => (IpAddr::V4(*to), *port),
        [Value::V6(to), Value::Port(port)] => (IpAddr::V6(*to), *port),
        _ => return None,
    };
    let by = By {
        at,
        port: port.filter(|_| is_udp)?,
        to: to_port,
    };
    Some((to, by))
}
