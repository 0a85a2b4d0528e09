//! Hosts made of data, configurations for them, and what may happen to them.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Config, Digest, Graph, Name};
use tank_plan::{
    Inputs, Observed, Plan, Report, Target,
    model::{apply, inputs},
    observed::{Parent, Pod, Probed, Run, State, Unresponsive, Verdict},
    plan,
    planner::SILENCE,
    target::{
        firewall::{Action, Match},
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
            assert_eq!(
                found.sandbox.as_ref().and_then(|s| s.network.clone()),
                target.is_bridged(pod).then(|| target.addresses(pod))
            );
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
        assert_eq!(host.bridge.is_some(), target.needs_bridge());
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
    );
    prop::collection::btree_map("[a-e]", pod, 0..5).prop_map(|pods| {
        let names: Vec<String> = pods.keys().cloned().collect();
        let pods: serde_json::Map<String, serde_json::Value> = pods
            .iter()
            .enumerate()
            .map(|(index, (name, (containers, inits, network, publish, label, depend)))| {
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
                if *publish && network == "bridge" {
                    pod["publish"] = serde_json::json!({ "p": { "port": 1000 + index } });
                }
                if let Some(before) = names.get(index.wrapping_sub(1)).filter(|_| *depend) {
                    pod["depends_on"] = serde_json::json!({ before: "ready" });
                }
                (name.clone(), pod)
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "pods": pods })).expect("a configuration")
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
                    sandbox.network = None;
                    sandbox.nics.clear();
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
        Meddling::DeleteBridge => host.bridge = None,
        _ => {}
    }
}

pub fn is_of_host_links(found: &Match) -> bool {
    matches!(found, Match::InGroup { value, is: true, .. } if *value == HOST_LINK_GROUP)
}
