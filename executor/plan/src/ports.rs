//! Whether ports that are about to be published are somebody's already. A rule of Tank's takes what
//! comes to a port before a program of the host that listens there could: that program would be cut
//! off without a word.
//!
//! Judged is what a change adds. What is published already is so by a decision of before, and a
//! port at which a pod on the host's network listens is the configuration's own affair unless that
//! pod stays as it is. A rollback is refused nothing, and a program may begin to listen at any time:
//! of those [`crate::unmet`] tells.

use crate::unusable::Unusable;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};
use tank_model::{
    Graph, Key, Name,
    spec::{Lead, Network, Protocol},
};

/// A program that listens in the host's network namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listener {
    /// Of its socket.
    pub protocol: Protocol,
    /// `::` is every address of both families, unless it is of IPv6 only.
    pub address: IpAddr,
    /// Its socket takes nothing of IPv4 (`IPV6_V6ONLY`).
    pub v6_only: bool,
    /// In host byte order.
    pub port: u16,
    /// Name and pid of whoever listens. None: it is hidden.
    pub process: Option<(String, i32)>,
    /// The pod that the process is in.
    pub pod: Option<String>,
}

/// Who it is and where, as in "where `nginx` (pid 7) listens on this host, at 0.0.0.0:80".
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.process, &self.pod) {
            (Some((program, pid)), Some(pod)) => {
                write!(f, "`{program}` (pid {pid}) of pod `{pod}`")
            }
            (Some((program, pid)), None) => write!(f, "`{program}` (pid {pid})"),
            (None, _) => f.write_str("a program whose process is hidden"),
        }?;
        let at = SocketAddr::new(self.address, self.port);
        write!(f, " listens on this host, at {at}")
    }
}

/// The ports that `wanted` publishes and `previous` does not: what has to be known of the host.
pub fn added(previous: &Graph, wanted: &Graph) -> BTreeSet<(Protocol, u16)> {
    new(previous, wanted)
        .map(|(_, _, lead)| (lead.protocol, lead.port))
        .collect()
}

/// The ports that lead to pods of a graph.
pub fn published(graph: &Graph) -> BTreeSet<(Protocol, u16)> {
    leads(graph)
        .map(|(_, _, lead)| (lead.protocol, lead.port))
        .collect()
}

/// A socket of the host that is bound to a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Of the socket.
    pub protocol: Protocol,
    /// Where it is bound: `::` is every address of both families, unless it is of IPv6 only.
    pub at: SocketAddr,
    /// It takes nothing of IPv4 (`IPV6_V6ONLY`).
    pub v6_only: bool,
    /// Whose it is.
    pub user: u32,
}

/// A socket of the host that gets nothing, since what comes to its port is led to a pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct CutOff {
    /// The pod that the port leads to.
    pub pod: Name,
    /// What of the pod is published there.
    pub name: Name,
    /// Of the port, and of the socket.
    pub protocol: Protocol,
    /// Where the port is published.
    pub at: SocketAddr,
    /// Where the socket is bound.
    pub listens: SocketAddr,
    /// Whose it is.
    pub user: u32,
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            protocol,
            at,
            listens,
            user,
            ..
        } = self;
        let place = place(*protocol, *at);
        let (option, port) = match protocol {
            Protocol::Tcp => ("-tlnp", at.port()),
            Protocol::Udp => ("-ulnp", at.port()),
        };
        write!(
            f,
            "publishes `{name}` at {place}, where a program of user {user} listens on this host, at {listens}: that is cut \
             off; `ss {option} sport = {port}` names it"
        )
    }
}

/// The sockets that are cut off: of each name that something is published under the first, since anybody
/// on the host may listen at thousands of ports.
pub fn cut_off(graph: &Graph, sockets: impl Iterator<Item = Bound>) -> BTreeSet<CutOff> {
    let mut by_port: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in leads(graph) {
        let at = (one.2.protocol, one.2.port);
        by_port.entry(at).or_default().push(one);
    }
    let mut first: BTreeMap<(&Name, &Name), CutOff> = BTreeMap::new();
    for socket in sockets {
        let Bound {
            protocol,
            at: listens,
            v6_only,
            user,
        } = socket;
        let there = by_port.get(&(protocol, listens.port()));
        for (pod, name, lead) in there.into_iter().flatten() {
            if overlap(lead.address, listens.ip(), v6_only) {
                let found = CutOff {
                    pod: (*pod).clone(),
                    name: (*name).clone(),
                    protocol,
                    at: SocketAddr::new(lead.address, lead.port),
                    listens,
                    user,
                };
                let known = first.entry((pod, name)).or_insert_with(|| found.clone());
                if found < *known {
                    *known = found;
                }
            }
        }
    }
    first.into_values().collect()
}

/// Each port that is published anew and that a program of the host listens at, in words.
pub fn taken(previous: &Graph, wanted: &Graph, listeners: &BTreeSet<Listener>) -> Vec<Unusable> {
    let mut problems = Vec::new();
    let mut by_port: BTreeMap<_, Vec<&Listener>> = BTreeMap::new();
    for listener in listeners {
        let at = (listener.protocol, listener.port);
        by_port.entry(at).or_default().push(listener);
    }
    for (pod, name, lead) in new(previous, wanted) {
        let meets = |listener: &&&Listener| {
            overlap(lead.address, listener.address, listener.v6_only)
                && stays(previous, wanted, listener)
        };
        let there = by_port.get(&(lead.protocol, lead.port));
        if let Some(listener) = there.into_iter().flatten().find(meets) {
            problems.push(Unusable::new(
                ["pods", pod.as_str(), "publish", name.as_str()],
                describe(pod, name, &lead, listener),
            ));
        }
    }
    problems
}

/// What is published by a pod of its own address and was not before, by whichever pod.
fn new<'a>(
    previous: &'a Graph,
    wanted: &'a Graph,
) -> impl Iterator<Item = (&'a Name, &'a Name, Lead)> {
    let place = |lead: &Lead| (lead.protocol, lead.address, lead.port);
    let known: BTreeSet<_> = leads(previous).map(|(_, _, lead)| place(&lead)).collect();
    leads(wanted).filter(move |(_, _, lead)| !known.contains(&place(lead)))
}

/// Each port that leads to a pod.
fn leads(graph: &Graph) -> impl Iterator<Item = (&Name, &Name, Lead)> {
    graph
        .pods()
        .filter(|pod| network(graph, pod) == Some(&Network::Bridge))
        .flat_map(|pod| graph.published(pod).map(move |published| (pod, published)))
        .flat_map(|(pod, (name, publish))| publish.leads().map(move |lead| (pod, name, lead)))
}

fn network<'a>(graph: &'a Graph, pod: &Name) -> Option<&'a Network> {
    graph.sandbox(pod).map(|(node, _)| &node.network)
}

/// Whether a packet can be for both. `v6_only`: what listens takes nothing of IPv4.
fn overlap(published: IpAddr, listens: IpAddr, v6_only: bool) -> bool {
    match (published, listens) {
        (IpAddr::V4(_), IpAddr::V6(v6)) => v6.is_unspecified() && !v6_only,
        // What is published on IPv6 leads to the pod's IPv6 address only.
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
        _ => published == listens || published.is_unspecified() || listens.is_unspecified(),
    }
}

/// Whether a listener is there after the change, too. A program of the host is; one of a pod when
/// the change leaves the pod as it is.
fn stays(previous: &Graph, wanted: &Graph, listener: &Listener) -> bool {
    let Some(pod) = listener
        .pod
        .as_ref()
        .and_then(|pod| Name::of_pod(pod.clone()).ok())
    else {
        return true;
    };
    let hash = |graph: &Graph| graph.get(&Key::Pod(pod.clone())).map(|entry| entry.hash);
    hash(wanted).is_some() && hash(previous) == hash(wanted)
}

fn describe(pod: &Name, name: &Name, lead: &Lead, listener: &Listener) -> String {
    format!(
        "pod `{pod}` publishes `{name}` at {}, where {listener}: it would be cut off; end it, or choose another port",
        place(lead.protocol, SocketAddr::new(lead.address, lead.port))
    )
}

/// Where a port is, as in "0.0.0.0:80 (tcp)".
pub(crate) fn place(protocol: Protocol, at: SocketAddr) -> String {
    match protocol {
        Protocol::Tcp => format!("{at} (tcp)"),
        Protocol::Udp => format!("{at} (udp)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of each port that is taken.
    fn texts(previous: &Graph, wanted: &Graph, listeners: &BTreeSet<Listener>) -> Vec<String> {
        let problems = taken(previous, wanted, listeners).into_iter();
        problems.map(|problem| problem.text).collect()
    }

    fn graph(config: &str) -> Graph {
        Graph::build(
            &serde_json::from_str(config).expect("a configuration"),
            |_| None,
        )
        .expect("a graph")
    }

    fn web(publish: &str) -> Graph {
        graph(&format!(
            r#"{{"pods":{{"web":{{"containers":{{"app":{{"image":"x"}}}},"publish":{publish}}}}}}}"#
        ))
    }

    fn listener(address: &str) -> BTreeSet<Listener> {
        let process = Some(("docker-registry".to_owned(), 7));
        let address = address.parse().expect("an address");
        BTreeSet::from([Listener {
            protocol: Protocol::Tcp,
            address,
            v6_only: false,
            port: 5001,
            process,
            pod: None,
        }])
    }

    #[test]
    fn addresses_meet_as_the_kernel_has_it() {
        let none = web("{}");
        for (published, listens, meets) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "0.0.0.0", true),
            ("127.0.0.1", "::", true),
            ("0.0.0.0", "10.1.2.3", true),
            ("0.0.0.0", "::", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "::1", false),
            ("::", "::1", true),
            ("::", "0.0.0.0", false),
            ("fd00::1", "::", true),
            ("fd00::1", "fd00::2", false),
        ] {
            let wanted = web(&format!(
                r#"{{"http":{{"port":5001,"address":"{published}"}}}}"#
            ));
            assert_eq!(
                !texts(&none, &wanted, &listener(listens)).is_empty(),
                meets,
                "{published} and {listens}"
            );
            assert_eq!(
                texts(&wanted, &wanted, &listener(listens)),
                Vec::<String>::new(),
                "it is published already"
            );
            let v6_only = listener(listens).into_iter().map(|listener| Listener {
                v6_only: true,
                ..listener
            });
            assert_eq!(
                !texts(&none, &wanted, &v6_only.collect()).is_empty(),
                meets && (listens != "::" || published.contains(':')),
                "{published} and {listens} of IPv6 only"
            );
        }
    }

    #[test]
    fn the_program_is_named_and_others_are_left_out() {
        let none = web("{}");
        let wanted = web(r#"{"http":{"port":5001}}"#);
        assert_eq!(
            added(&none, &wanted),
            BTreeSet::from([(Protocol::Tcp, 5001)])
        );
        assert_eq!(added(&wanted, &wanted), BTreeSet::new());
        assert_eq!(
            texts(&none, &wanted, &listener("0.0.0.0")),
            [
                "pod `web` publishes `http` at 127.0.0.1:5001 (tcp), where `docker-registry` (pid 7) listens on this host, \
              at 0.0.0.0:5001: it would be cut off; end it, or choose another port"
            ]
        );
        for publish in [
            r#"{"http":{"port":5002}}"#,
            r#"{"http":{"port":5001,"protocol":"udp"}}"#,
        ] {
            assert_eq!(
                texts(&none, &web(publish), &listener("0.0.0.0")),
                Vec::<String>::new()
            );
        }
    }

    #[test]
    fn each_port_of_a_range_each_address_and_both_protocols_are_asked_about() {
        let none = web("{}");
        let wanted =
            web(r#"{"http":{"port":"4999-5003","address":["127.0.0.2","::"],"protocol":"both"}}"#);
        let asked = added(&none, &wanted);
        assert_eq!(asked.len(), 10);
        assert!(asked.contains(&(Protocol::Udp, 5001)));
        assert_eq!(
            texts(&none, &wanted, &listener("fd00::1")),
            [
                "pod `web` publishes `http` at [::]:5001 (tcp), where `docker-registry` (pid 7) listens on this host, \
              at [fd00::1]:5001: it would be cut off; end it, or choose another port"
            ]
        );
        assert_eq!(
            texts(&none, &wanted, &listener("127.0.0.1")),
            Vec::<String>::new()
        );
        // One port more of a range asks about that one.
        let more =
            web(r#"{"http":{"port":"4999-5004","address":["127.0.0.2","::"],"protocol":"both"}}"#);
        assert_eq!(
            added(&wanted, &more),
            BTreeSet::from([(Protocol::Tcp, 5004), (Protocol::Udp, 5004)])
        );
    }

    #[test]
    fn a_pod_that_listens_itself_counts_while_it_stays() {
        let pods = |db: &str, web: &str| {
            graph(&format!(
                r#"{{"pods":{{{db}"web":{{"containers":{{"app":{{"image":"x"}}}},"publish":{web}}}}}}}"#
            ))
        };
        let db = |image: &str| {
            format!(r#""db":{{"containers":{{"app":{{"image":"{image}"}}}},"network":"host"}},"#)
        };
        let publish = r#"{"http":{"port":5001}}"#;
        let before = pods(&db("one"), "{}");
        let own: BTreeSet<Listener> = listener("0.0.0.0")
            .into_iter()
            .map(|listener| Listener {
                pod: Some("db".to_owned()),
                ..listener
            })
            .collect();
        assert_eq!(texts(&before, &pods(&db("one"), publish), &own).len(), 1);
        assert_eq!(
            texts(&before, &pods(&db("two"), publish), &own),
            Vec::<String>::new(),
            "it becomes another"
        );
        assert_eq!(
            texts(&before, &pods("", publish), &own),
            Vec::<String>::new(),
            "it goes"
        );
    }
}
