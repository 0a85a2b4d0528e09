//! Hosts made of data, configurations for them, and what may happen to them.

use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Config, Digest, Graph, Name};
use tank_plan::{
    Inputs, Observed, Plan, Report, Target,
    model::{apply, inputs},
    observed::{FoundLink, Parent, Pod, Probed, Run, State, Unresponsive, Verdict},
    plan,
    planner::SILENCE,
    target::{
        firewall::{Action, Match, Set, Table, Value},
        nics::HOST_LINK_GROUP,
    },
};

/// The inputs of a host's target.
pub struct World(pub Inputs);

impl World {
    pub fn new(config: &Config) -> Self {
        Self(inputs(config))
    }

    pub fn graph(&self) -> &Graph {
        &self.0.graph
    }

    pub fn target<'a>(&'a self, previous: Option<&'a Graph>) -> Target<'a> {
        Target {
            previous,
            ..self.0.target()
        }
    }

    pub fn plan(&self, previous: Option<&World>, host: &Observed) -> (Plan, Report) {
        plan(&self.target(previous.map(World::graph)), host)
    }

    /// Plans and applies until nothing is left. Dependencies make several rounds, never more than
    /// there are pods.
    pub fn converge(&self, host: &mut Observed) {
        for _ in 0..20 {
            let (plan, report) = self.plan(None, host);
            if plan.is_empty() && report.is_settled() {
                return;
            }
            apply(&plan, host);
        }
        panic!("it does not converge: {:?}", self.plan(None, host));
    }

    pub fn satisfied_by(&self, host: &Observed) {
        let (graph, target) = (self.graph(), self.target(None));
        let declared: BTreeSet<&Name> = graph.pods().collect();
        assert_eq!(host.pods.keys().collect::<BTreeSet<_>>(), declared);
        for pod in declared {
            let found = &host.pods[pod];
            assert_eq!(
                found.sandbox.as_ref().map(|s| s.hash),
                graph.sandbox(pod).map(|(_, hash)| hash)
            );
            let links = target.links(pod).expect("it has leases");
            let there = found.sandbox.iter().flat_map(|sandbox| &sandbox.links);
            let there: Vec<_> = there
                .map(|(name, link)| (name.clone(), link.clone()))
                .collect();
            let wanted = links
                .iter()
                .map(|link| (link.name.clone(), FoundLink::of(link)));
            assert_eq!(there, wanted.collect::<Vec<_>>());
            let nics = target
                .nics(pod, &host.network, &BTreeMap::new())
                .expect("every parent is there");
            let there = found.sandbox.iter().flat_map(|s| s.nics.values());
            assert_eq!(there.collect::<Vec<_>>(), nics.iter().collect::<Vec<_>>());
            let containers: BTreeMap<&Name, _> = graph
                .containers(pod)
                .map(|(name, _, hash)| (name, hash))
                .collect();
            let inits: BTreeMap<&Name, _> = graph
                .init(pod)
                .map(|(name, _, hash)| (name, hash))
                .collect();
            for (name, one) in &found.containers {
                match inits.get(name) {
                    Some(hash) => assert!(
                        one.hash == *hash && matches!(one.state, State::Exited { status: 0, .. })
                    ),
                    None => {
                        assert_eq!(Some(&one.hash), containers.get(name));
                        assert!(
                            matches!(one.state, State::Running { .. })
                                && !one.halted
                                && one.verdict().is_some_and(Verdict::is_live)
                        );
                        assert_eq!(one.files, Some(target.file_digests(pod, name)));
                    }
                }
            }
            assert!(found.unresponsive.is_none());
            assert!(
                found
                    .left_over
                    .iter()
                    .all(|name| graph.process(pod, name).is_some()),
                "{:?}",
                found.left_over
            );
            let there: BTreeSet<&Name> = found.containers.keys().collect();
            assert!(
                containers
                    .keys()
                    .chain(inits.keys())
                    .all(|name| there.contains(name)),
                "{pod}: {there:?}"
            );
        }
        assert_eq!(host.firewall, target.firewall(&host.network));
        let nics = host.pods.values().filter_map(|pod| pod.sandbox.as_ref());
        let nics = nics.flat_map(|sandbox| sandbox.nics.values());
        let links = target.host_links(nics, &host.network);
        let links: BTreeMap<_, _> = links
            .into_iter()
            .map(|link| (link.name.clone(), Some(link)))
            .collect();
        assert_eq!(host.network.host_links, links);
        let bridges = target.bridges(&host.network).into_iter();
        let bridges = bridges.map(|bridge| (bridge.name, Some(bridge.addresses)));
        assert_eq!(host.bridges, bridges.collect());
        let served = host.names.as_ref().and_then(|found| found.zone);
        assert_eq!(served, target.zone(host).map(|zone| zone.digest()));
    }
}

/// A host with links that pods may use, and nothing of Tank's.
pub fn new_host() -> Observed {
    let mut host = Observed {
        now: 1_000_000,
        ..Observed::default()
    };
    let link = |is_bridge: bool, own: &[&str]| Parent {
        is_up: true,
        mtu: 1500,
        is_bridge,
        is_ethernet: true,
        addresses: own.iter().filter_map(|own| own.parse().ok()).collect(),
        ..Parent::default()
    };
    let parents = [
        ("eth0", link(false, &["10.77.0.2/24", "fd77::2/64"])),
        ("eth1", link(false, &[])),
        ("br0", link(true, &["10.78.0.2/24"])),
    ];
    let parents = parents.map(|(name, link)| (name.to_owned(), link));
    host.network.parents = parents.into();
    host.network.uplink = Some("eth0".to_owned());
    host
}

/// Whether there is the rule without which a bridge is a way to the host's loopback.
pub fn has_guard(host: &Observed) -> bool {
    let rules = host.firewall.iter().flat_map(|table| &table.rules);
    rules
        .filter(|rule| rule.chain == "guard" && rule.action == Action::Drop)
        .count()
        >= 3
}

/// The networks of generated configurations, beside the default one.
const NETWORKS: [&str; 4] = ["back", "front", "x:back", "y:back"];

fn place(network: &str) -> Option<usize> {
    NETWORKS.iter().position(|own| *own == network)
}

/// Configurations of up to five pods that depend only on those before them.
pub fn configs() -> impl Strategy<Value = Config> {
    let container = (0..3u8, 0..3u8, prop::option::of(1..5u32), 0..3u8);
    let containers = prop::collection::btree_map("[xyz]", container, 1..3);
    let inits = prop::collection::btree_map("[ij]", 0..3u8, 0..3);
    let pod = (
        containers,
        inits,
        0..5u8,
        any::<bool>(),
        0..3u8,
        any::<bool>(),
        prop::collection::btree_set("default|back|front|[xy]:back", 0..4),
    );
    let network = (any::<bool>(), any::<bool>());
    let networks = prop::collection::vec(network, NETWORKS.len());
    let pods = prop::collection::btree_map("[a-e]", pod, 0..5);
    (pods, networks).prop_map(|(pods, networks)| {
        let names: Vec<String> = pods.keys().cloned().collect();
        let pods: serde_json::Map<String, serde_json::Value> = pods
            .iter()
            .enumerate()
            .map(|(index, (name, (containers, inits, network, publish, label, depend, on)))| {
                let containers: serde_json::Map<String, serde_json::Value> = containers
                    .iter()
                    .map(|(name, (image, env, pids, text))| {
                        let mut spec = serde_json::json!({
                            "image": format!("image{image}"), "env": { "A": env.to_string() }, "limits": { "pids": pids },
                        });
                        if *text > 0 {
                            spec["files"] = serde_json::json!({ "/live": { "text": text.to_string(), "reload": "SIGHUP" } });
                        }
                        (name.clone(), spec)
                    })
                    .collect();
                let own = serde_json::json!({ "nics": {
                    "a": { "mode": "macvlan", "address": format!("10.77.0.{}/24", 10 + index), "gateway": "10.77.0.1",
                        "addresses": { "six": format!("fd77::{}/64", 10 + index) } },
                    "b": { "mode": "macvlan", "parent": "eth1" },
                } });
                let port = serde_json::json!({ "nics": { "a": { "parent": "br0", "address": format!("10.78.0.{}/24", 10 + index) } } });
                let network = ["bridge".into(), "host".into(), "none".into(), own, port][usize::from(*network)].clone();
                let inits: serde_json::Map<String, serde_json::Value> =
                    inits.iter().map(|(name, image)| (name.clone(), serde_json::json!({ "image": format!("i{image}") }))).collect();
                let mut pod = serde_json::json!({
                    "containers": containers, "init": inits, "network": network, "labels": { "l": label.to_string() },
                });
                if network == "bridge" && index % 2 == 0 {
                    pod["aliases"] = serde_json::json!({ "shared": {}, format!("alias{label}"): {} });
                    pod["dns"] = serde_json::json!({ "servers": { "a": format!("192.0.2.{label}") } });
                }
                if network == "bridge" && !on.is_empty() {
                    let on = on.iter().map(|network| {
                        let static_address = format!("10.92.{}.{}", place(network).unwrap_or_default(), 100 + index);
                        let own = match place(network).filter(|place| networks[*place].1) {
                            Some(_) if index % 2 == 0 => serde_json::json!({ "addresses": [static_address] }),
                            _ => serde_json::json!({ "aliases": { "here": {} } }),
                        };
                        (network.clone(), own)
                    });
                    pod["networks"] = on.collect::<serde_json::Map<_, _>>().into();
                }
                if *publish && network == "bridge" {
                    pod["publish"] = serde_json::json!({ "p": { "port": 1000 + index } });
                }
                if let Some(before) = names.get(index.wrapping_sub(1)).filter(|_| *depend) {
                    pod["depends_on"] = serde_json::json!({ before: "ready" });
                }
                (name.clone(), pod)
            })
            .collect();
        let networks = NETWORKS.iter().zip(&networks).enumerate().map(|(place, (name, (internal, own)))| {
            let mut network = serde_json::json!({ "internal": internal });
            if *own {
                network["subnets"] = serde_json::json!([format!("10.92.{place}.0/24"), format!("fd92:{place}::/64")]);
            }
            ((*name).to_owned(), network)
        });
        let networks: serde_json::Map<_, _> = networks.collect();
        serde_json::from_value(serde_json::json!({ "pods": pods, "networks": networks })).expect("a configuration")
    })
}

/// Things that happen to a host behind Tank's back.
#[derive(Clone, Debug)]
pub enum Meddling {
    KillContainers,
    LoseShims,
    LoseLinks,
    LoseHostLinks,
    FlushRules,
    DeleteBridge,
    StopBridges,
    AddAddresses,
    LeaveBridge,
    ChangeLinks,
    Reroute,
    LoseNames,
    OutdateNames,
    ChangeLimits,
    Halt,
    FailProbes,
    EditFiles,
    StopShims,
    SilenceShims,
}

pub fn meddling() -> impl Strategy<Value = Meddling> {
    prop_oneof![
        Just(Meddling::KillContainers),
        Just(Meddling::LoseShims),
        Just(Meddling::LoseLinks),
        Just(Meddling::LoseHostLinks),
        Just(Meddling::FlushRules),
        Just(Meddling::DeleteBridge),
        Just(Meddling::StopBridges),
        Just(Meddling::AddAddresses),
        Just(Meddling::LeaveBridge),
        Just(Meddling::ChangeLinks),
        Just(Meddling::Reroute),
        Just(Meddling::LoseNames),
        Just(Meddling::OutdateNames),
        Just(Meddling::ChangeLimits),
        Just(Meddling::Halt),
        Just(Meddling::FailProbes),
        Just(Meddling::EditFiles),
        Just(Meddling::StopShims),
        Just(Meddling::SilenceShims),
    ]
}

pub fn meddle(host: &mut Observed, what: &Meddling) {
    let now = host.now;
    for pod in host.pods.values_mut() {
        match what {
            Meddling::KillContainers => {
                for container in pod.containers.values_mut() {
                    if matches!(container.state, State::Running { .. }) {
                        container.state = State::Exited {
                            status: 137,
                            at: now,
                        };
                    }
                }
            }
            Meddling::LoseShims => {
                pod.sandbox = None;
                pod.containers.clear();
            }
            Meddling::LoseLinks => {
                if let Some(sandbox) = &mut pod.sandbox {
                    sandbox.links.clear();
                    sandbox.nics.clear();
                }
            }
            Meddling::ChangeLinks => {
                let links = pod
                    .sandbox
                    .iter_mut()
                    .flat_map(|own| own.links.values_mut());
                for (index, link) in links.enumerate() {
                    match index % 4 {
                        0 => link.group = 0,
                        1 => link.mac = [2; 6],
                        2 => link.bridge = "br0".to_owned(),
                        _ => link.addresses.clear(),
                    }
                }
            }
            Meddling::Reroute => {
                if let Some(sandbox) = &mut pod.sandbox
                    && !sandbox.links.is_empty()
                {
                    sandbox.gateways = BTreeSet::from([std::net::Ipv4Addr::BROADCAST.into()]);
                }
            }
            Meddling::ChangeLimits => {
                for container in pod.containers.values_mut() {
                    container.limits.pids = None;
                }
            }
            Meddling::Halt => pod.containers.values_mut().for_each(|container| {
                container.halted = matches!(container.state, State::Running { .. });
            }),
            Meddling::FailProbes => {
                let running = pod.containers.values_mut().filter_map(Run::verdict_mut);
                running.for_each(|verdict| {
                    verdict.failed = Some(Probed::Liveness);
                    verdict.since = now;
                });
            }
            Meddling::EditFiles => {
                for files in pod
                    .containers
                    .values_mut()
                    .filter_map(|container| container.files.as_mut())
                {
                    files.insert("/etc/hosts".to_owned(), Digest::of(b"somebody's"));
                }
            }
            Meddling::StopShims => pod.unresponsive = Some(Unresponsive::Halted { since: now }),
            Meddling::SilenceShims => {
                *pod = Pod {
                    unresponsive: Some(Unresponsive::Silent {
                        since: now - SILENCE,
                    }),
                    ..Pod::default()
                };
            }
            Meddling::FlushRules
            | Meddling::LoseHostLinks
            | Meddling::DeleteBridge
            | Meddling::StopBridges
            | Meddling::AddAddresses
            | Meddling::LeaveBridge
            | Meddling::LoseNames
            | Meddling::OutdateNames => {}
        }
    }
    match what {
        Meddling::FlushRules => host.firewall = None,
        Meddling::LoseHostLinks => {
            let links = &mut host.network.host_links;
            links.values_mut().for_each(|link| *link = None);
            links.insert("tank-left".to_owned(), None);
        }
        Meddling::LoseNames => host.names = None,
        Meddling::OutdateNames => {
            if let Some(names) = &mut host.names {
                names.current = false;
            }
        }
        Meddling::DeleteBridge => host.bridges.clear(),
        Meddling::StopBridges => host.bridges.values_mut().for_each(|bridge| *bridge = None),
        Meddling::AddAddresses => {
            let other = "10.66.0.1/24".parse().expect("an address");
            for bridge in host.bridges.values_mut().flatten() {
                bridge.insert(other);
            }
        }
        Meddling::LeaveBridge => drop(host.bridges.insert("tank-012345678".to_owned(), None)),
        _ => {}
    }
}

/// Whether what comes over host links is judged.
pub fn guards_host_links(table: &Table) -> bool {
    let is_of_host_links = |found: &Match| matches!(found, Match::InGroup { value, is: true, .. } if *value == HOST_LINK_GROUP);
    let drops = table.rules.iter().filter(|rule| {
        rule.action == Action::Drop && rule.matches.first().is_some_and(is_of_host_links)
    });
    drops.count() == 3
}

/// Where each published port leads, by the map and its key.
pub fn leads(table: Option<&Table>) -> BTreeMap<(String, Vec<Value>), IpAddr> {
    let sets = table.into_iter().flat_map(|table| &table.sets);
    let maps = sets.filter(|set| !set.data.is_empty());
    let of_map = |set: &Set| {
        let (name, length) = (set.name.clone(), set.key.len());
        let elements = set.elements.clone().into_iter();
        elements.filter_map(move |element| {
            let to = match element.get(length)? {
                Value::V4(address) => IpAddr::V4(*address),
                Value::V6(address) => IpAddr::V6(*address),
                _ => return None,
            };
            Some(((name.clone(), element[..length].to_vec()), to))
        })
    };
    maps.flat_map(of_map).collect()
}
