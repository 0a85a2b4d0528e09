//! A published port that leads to another pod than it should: it moves when that one is ready, and
//! leads to the old one for as long as that is declared and runs.

use super::{Table, Value};
use crate::{
    observed::{self, Observed, State},
    target::Target,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tank_model::{
    Name,
    spec::{Protocol, Restart},
};

/// The most ports that a text lists.
const MAX_LISTED: usize = 8;

/// Published ports that are to lead to another pod, and do not yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldPorts {
    /// Where they lead.
    pub from: Name,
    /// Where they are to lead, as soon as it is ready.
    pub to: Name,
    /// Of the host.
    pub ports: BTreeSet<(SocketAddr, Protocol)>,
}

impl fmt::Display for HeldPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, ports } = self;
        let one = |(at, protocol): &(SocketAddr, Protocol)| match protocol {
            Protocol::Tcp => at.to_string(),
            Protocol::Udp => format!("{at}/udp"),
        };
        let listed: Vec<String> = ports.iter().take(MAX_LISTED).map(one).collect();
        write!(f, "{}", listed.join(", "))?;
        let more = ports.len().saturating_sub(MAX_LISTED);
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        let verb = if ports.len() == 1 { "leads" } else { "lead" };
        write!(f, ": {verb} to {from} until {to} is ready")
    }
}

impl Target<'_> {
    /// Has the ports of a wanted table lead where they do for as long as the pod that they are to lead
    /// to is not ready, and says which.
    pub fn hold_ports(&self, table: &mut Table, observed: &Observed) -> Vec<HeldPorts> {
        let mut pods = None;
        let mut held: BTreeMap<(Name, Name), BTreeSet<_>> = BTreeMap::new();
        let found_sets = observed.firewall.iter().flat_map(|table| &table.sets);
        let found_sets: Vec<_> = found_sets.filter(|set| !set.data.is_empty()).collect();
        for wanted in table.sets.iter_mut().filter(|set| !set.data.is_empty()) {
            let same = |set: &&&super::Set| {
                (set.family, &set.name, &set.key, &set.data)
                    == (wanted.family, &wanted.name, &wanted.key, &wanted.data)
            };
            // Usually all is as it should be.
            let found = found_sets.iter().find(same);
            let Some(found) = found.filter(|found| found.elements != wanted.elements) else {
                continue;
            };
            let mut back = Vec::new();
            for element in wanted.elements.difference(&found.elements) {
                let Some((key, _)) = element.split_at_checked(wanted.key.len()) else {
                    continue;
                };
                let mut after = found.elements.range(key.to_vec()..);
                let Some(other) = after.next().filter(|other| other.starts_with(key)) else {
                    continue;
                };
                let pods = pods.get_or_insert_with(|| self.pods_by_address());
                let pod = |element: &[Value]| {
                    let address = leads_to(element, key.len())?;
                    Some((address, *pods.get(&address)?))
                };
                let (Some((_, from)), Some((at, to))) = (pod(other), pod(element)) else {
                    continue;
                };
                let moves = from != to && runs(from, observed) && !self.serves(to, observed);
                let Some(port) = port(key, at).filter(|_| moves) else {
                    continue;
                };
                back.push((element.clone(), other.clone()));
                let between = (from.clone(), to.clone());
                held.entry(between).or_default().insert(port);
            }
            for (element, other) in back {
                wanted.elements.remove(&element);
                wanted.elements.insert(other);
            }
        }
        let held = held.into_iter();
        held.map(|((from, to), ports)| HeldPorts { from, to, ports })
            .collect()
    }

    fn pods_by_address(&self) -> BTreeMap<IpAddr, &Name> {
        let pods = self.graph.pods().filter(|pod| self.is_bridged(pod));
        let addresses = |pod| {
            let own = self.addresses(pod).into_iter();
            own.map(move |own: IpNet| (own.addr(), pod))
        };
        pods.flat_map(addresses).collect()
    }

    /// Whether a pod is as declared, connected, and ready; what has ended well and is not to run again
    /// is no reason to wait.
    fn serves(&self, pod: &Name, observed: &Observed) -> bool {
        let (Some(found), Some((_, hash))) = (observed.pods.get(pod), self.graph.sandbox(pod))
        else {
            return false;
        };
        let connected = found
            .sandbox
            .as_ref()
            .is_some_and(|sandbox| sandbox.hash == hash && self.is_connected(pod, sandbox));
        let again = self.graph.pod(pod).map(|node| node.restart) == Some(Restart::Always);
        connected
            && self.graph.containers(pod).all(|(name, _, hash)| {
                let run = found.current(name, hash);
                run.is_some_and(|run| match run.state {
                    State::Running { verdict, .. } => verdict.ready,
                    State::Exited { status, .. } => status == 0 && !again,
                })
            })
    }
}

/// Whether something of a pod runs, as far as anybody knows: a shim that does not answer just now is
/// no reason to move a port.
fn runs(pod: &Name, observed: &Observed) -> bool {
    let is_running = |run: &observed::Run| matches!(run.state, State::Running { .. });
    observed.pods.get(pod).is_some_and(|found| {
        found.unresponsive.is_some() || found.containers.values().any(is_running)
    })
}

/// The address that an element leads to, whose key is so long.
fn leads_to(element: &[Value], key: usize) -> Option<IpAddr> {
    match element.get(key)? {
        Value::V4(address) => Some((*address).into()),
        Value::V6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The port of the host that an element of a map is about. One that names no address is about every
/// one of the family of `to`.
fn port(key: &[Value], to: IpAddr) -> Option<(SocketAddr, Protocol)> {
    let every = match to {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let (mut address, mut protocol, mut port) = (every, None, None);
    for value in key {
        match value {
            Value::V4(own) => address = IpAddr::V4(*own),
            Value::V6(own) => address = IpAddr::V6(*own),
            Value::Protocol(own) => protocol = Some(*own),
            Value::Port(own) => port = Some(*own),
            _ => {}
        }
    }
    let protocol = match protocol? {
        super::routed::TCP => Protocol::Tcp,
        _ => Protocol::Udp,
    };
    Some((SocketAddr::new(address, port?), protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::inputs,
        observed::{HostNetwork, Pod, Unresponsive},
    };

    /// A shim that is at something else is no reason to move a port, and a pod that is gone is.
    #[test]
    fn a_pod_of_which_nothing_is_known_keeps_its_port() {
        let of = |a: &str, b: &str| {
            let pod = |publish: &str| {
                format!(r#"{{"containers":{{"app":{{"image":"x"}}}},"publish":{{{publish}}}}}"#)
            };
            let config = format!(r#"{{"pods":{{"a":{},"b":{}}}}}"#, pod(a), pod(b));
            inputs(&serde_json::from_str(&config).expect("a configuration"))
        };
        let ports = r#""p":{"port":"8000-8020","address":["0.0.0.0"]}"#;
        let (before, after) = (of(ports, ""), of("", ports));
        let table = |inputs: &crate::Inputs| inputs.target().firewall(&HostNetwork::default());
        let mut host = Observed {
            firewall: table(&before),
            ..Observed::default()
        };
        let held = |host: &Observed| {
            let mut wanted = table(&after).expect("a table");
            let held = after.target().hold_ports(&mut wanted, host);
            let is_kept = wanted == table(&before).expect("a table");
            (held, is_kept)
        };
        assert_eq!(held(&host), (Vec::new(), false));
        let a = Pod {
            unresponsive: Some(Unresponsive::Busy),
            ..Pod::default()
        };
        host.pods.insert(Name::new("a").expect("a name"), a);
        let (found, is_kept) = held(&host);
        assert!(is_kept && found.len() == 1, "{found:?}");
        let text = found[0].to_string();
        assert!(text.starts_with("0.0.0.0:8000, 0.0.0.0:8001, "), "{text}");
        let end = "0.0.0.0:8007 and 13 more: lead to a until b is ready";
        assert!(text.ends_with(end), "{text}");
    }
}
