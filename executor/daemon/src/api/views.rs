//! From the daemon's data to the shapes of the interface. Pure.

use super::states;
use crate::{
    events::Event,
    generations::{Entry, Overridden, Progress, Reason, Stage, Switched},
};
use ipnet::IpNet;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{
    Graph, Key, Name, Outcome,
    diff::{NodeChange, What},
    spec::Peer,
    units::written,
};
use tank_plan::{
    Class, Observed, PlannedStep, Report, Unmet, observed,
    target::{Target, networks::declared},
    unmet::unmet,
    why,
};
use tank_proto::varlink::{self, ChangeKind, GenerationOutcome, State, StepClass};

pub fn generation(entry: &Entry) -> varlink::Generation {
    let Entry {
        generation,
        outcome,
        current,
        pinned,
        snapshots,
    } = entry;
    let snapshots: Vec<String> = snapshots
        .iter()
        .map(|one| format!("{}/{}", one.pod, one.volume))
        .collect();
    varlink::Generation {
        number: generation.number,
        root: generation.root.to_string(),
        parent: generation.parent,
        time: generation.time,
        uid: generation.uid,
        source: generation.source.clone(),
        outcome: match outcome {
            Outcome::Pending => GenerationOutcome::Pending,
            Outcome::Good => GenerationOutcome::Good,
            Outcome::Failed => GenerationOutcome::Failed,
            Outcome::RolledBack => GenerationOutcome::RolledBack,
        },
        current: *current,
        pinned: pinned.then_some(true),
        snapshots: Some(snapshots).filter(|all| !all.is_empty()),
    }
}

pub fn progress(progress: Progress) -> varlink::Progress {
    let stage = match progress.stage {
        Stage::Pull => varlink::Stage::Pull,
        Stage::Commit => varlink::Stage::Commit,
        Stage::Step => varlink::Stage::Step,
        Stage::Wait => varlink::Stage::Wait,
        Stage::Rollback => varlink::Stage::Rollback,
        Stage::Note => varlink::Stage::Note,
    };
    varlink::Progress {
        stage,
        message: progress.message,
        layer: progress.layer.map(|layer| varlink::Layer {
            digest: layer.digest.to_string(),
            done: layer.done,
            size: layer.size,
        }),
    }
}

pub fn outcome(switched: Switched) -> varlink::Outcome {
    varlink::Outcome {
        generation: switched.generation,
        root: switched.root.to_string(),
        changed: switched.changed,
        rolled_back: switched.rolled_back,
        failure: switched.failure,
        repaired: switched.repaired,
        timings: switched.timings,
        unmet: Some(lacks(&switched.unmet)).filter(|unmet| !unmet.is_empty()),
        notes: Some(switched.notes).filter(|notes| !notes.is_empty()),
    }
}

pub fn event(event: Event) -> varlink::Event {
    let (since, is_again) = (event.since(), event.count > 1);
    varlink::Event {
        time: event.time,
        kind: event.kind.to_string(),
        pod: event.of.pod,
        container: event.of.container,
        generation: event.of.generation,
        uid: event.of.uid,
        message: event.message,
        count: is_again.then_some(event.count),
        since: is_again.then_some(since),
    }
}

pub fn reason(reason: Reason) -> varlink::WhyReply {
    let overridden = |one: Overridden| varlink::Overridden {
        place: one.place,
        text: one.text,
        priority: one.priority,
    };
    varlink::WhyReply {
        field: reason.field,
        value: reason.value,
        place: reason.place,
        via: reason.via,
        overrode: reason.overrode.into_iter().map(overridden).collect(),
        since: reason.since.as_ref().map(generation),
        also: Some(reason.also).filter(|also| !also.is_empty()),
    }
}

/// What a plan leaves undone, and why, one line each.
pub fn not_done(report: &Report) -> Vec<String> {
    let waiting = report.waiting.iter();
    let waiting = waiting.map(|one| format!("{}/{}: {}", one.pod, one.container, one.why));
    let held = report
        .held
        .iter()
        .map(|held| format!("{}: {}", held.step, held.reason()));
    let blocked = report.blocked.iter().map(ToString::to_string);
    let ports = report.ports.iter().map(ToString::to_string);
    let all = waiting.chain(ports).chain(held).chain(blocked);
    all.chain(lacks(&report.unmet)).collect()
}

/// What pods lack of the host, one line each.
fn lacks(unmet: &[Unmet]) -> Vec<String> {
    let line = |one: &Unmet| format!("{}: {one}", one.pod());
    unmet.iter().map(line).collect()
}

pub fn step(planned: &PlannedStep) -> varlink::Step {
    varlink::Step {
        text: planned.step.to_string(),
        pod: planned.step.pod().map(ToString::to_string),
        class: match planned.class {
            Class::Create => StepClass::Create,
            Class::InPlace => StepClass::InPlace,
            Class::Restart => StepClass::Restart,
            Class::Replace => StepClass::Replace,
            Class::Delete => StepClass::Delete,
            Class::DataRisk => StepClass::DataRisk,
        },
        why: planned.why.text(tank_sys::users::named),
        drift: planned.drift,
    }
}

/// One entry for each field that differs, or for each part that came or went.
pub fn changes(changes: &[NodeChange]) -> Vec<varlink::Change> {
    let mut list = Vec::new();
    for change in changes {
        let entry = |kind: ChangeKind| varlink::Change {
            what: change.key.to_string(),
            change: kind,
            field: None,
            before: None,
            after: None,
        };
        match &change.what {
            What::Added => list.push(entry(ChangeKind::Added)),
            What::Removed => list.push(entry(ChangeKind::Removed)),
            What::Modified { fields } => list.extend(fields.iter().map(|field| {
                let side = |value: Option<&Value>| match (&change.key, field.field.as_str()) {
                    (Key::Pod(pod), "allow_from" | "egress") => Some(policy(pod, value)),
                    (_, name) => {
                        value.map(|value| written(name, value).unwrap_or_else(|| plain(value)))
                    }
                };
                varlink::Change {
                    field: Some(field.field.clone()),
                    before: side(field.before.as_ref()),
                    after: side(field.after.as_ref()),
                    ..entry(ChangeKind::Modified)
                }
            })),
        }
    }
    list
}

/// A JSON value as people write it: texts without quotes, lists with a space behind each comma.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// A policy as the source of its pod writes it: `'all`, which is the default, or a list.
fn policy(pod: &Name, value: Option<&Value>) -> String {
    match value {
        None => "'all".to_owned(),
        Some(Value::String(word)) => format!("'{word}"),
        Some(Value::Array(peers)) => {
            let written = |peer: &Value| {
                let text = peer.as_str().unwrap_or_default();
                let peer = Peer::read(text, None).map(|peer| peer.as_seen_from(pod.stack()));
                format!("{:?}", peer.unwrap_or_else(|_| text.to_owned()))
            };
            let peers: Vec<String> = peers.iter().map(written).collect();
            format!("[{}]", peers.join(", "))
        }
        Some(other) => other.to_string(),
    }
}

/// Every pod that is declared or there.
pub fn pods(graph: &Graph, observed: &Observed) -> Vec<varlink::Pod> {
    let mut names: Vec<&Name> = graph.pods().chain(observed.pods.keys()).collect();
    names.sort();
    names.dedup();
    let lacks = unmet(graph, observed);
    names
        .into_iter()
        .map(|name| pod_that_lacks(name, graph, observed, &lacks))
        .collect()
}

pub fn pod(name: &Name, graph: &Graph, observed: &Observed) -> varlink::Pod {
    pod_that_lacks(name, graph, observed, &unmet(graph, observed))
}

/// A pod, where `lacks` is what pods need of the host and is not there.
fn pod_that_lacks(
    name: &Name,
    graph: &Graph,
    observed: &Observed,
    lacks: &[Unmet],
) -> varlink::Pod {
    let found = observed.pods.get(name);
    let mut containers: Vec<varlink::ContainerStatus> = graph
        .containers(name)
        .map(|(container, node, hash)| {
            let there = found.and_then(|found| found.containers.get(container));
            let image = node.image.to_string();
            let digest = graph.image(&node.image).map(|digest| digest.to_string());
            let mut view = states::container(container, (image, digest), there);
            if there.is_some_and(|there| there.hash != hash) {
                view.state = State::Outdated;
            }
            view
        })
        .collect();
    let declared = graph.pod(name).is_some();
    let own = containers.len();
    let undeclared = found.into_iter().flat_map(|found| &found.containers);
    for (container, there) in
        undeclared.filter(|(container, _)| graph.process(name, container).is_none())
    {
        let undeclared = (String::new(), None);
        containers.push(states::container(container, undeclared, Some(there)));
    }
    let unfinished = unfinished(name, graph, found);
    let unresponsive = found.and_then(|found| found.unresponsive.as_ref());
    if unresponsive.is_some() {
        containers
            .iter_mut()
            .for_each(|container| container.state = State::Unresponsive);
    }
    let state = match unresponsive {
        _ if !declared => State::Undeclared,
        Some(_) => State::Unresponsive,
        None => {
            let own = containers.get(..own).unwrap_or_default();
            states::of_pod(own, !unfinished.is_empty())
        }
    };
    varlink::Pod {
        name: name.to_string(),
        state,
        addresses: found.map(addresses).unwrap_or_default(),
        published: published(name, graph, found),
        policies: Some(policies(name, graph)).filter(|all| !all.is_empty()),
        interfaces: None,
        containers: unfinished.into_iter().chain(containers).collect(),
        reason: unresponsive
            .map(ToString::to_string)
            .or_else(|| lacking(name, lacks)),
    }
}

/// What runs before the containers of a pod, while it is why they wait.
fn unfinished(
    name: &Name,
    graph: &Graph,
    found: Option<&observed::Pod>,
) -> Vec<varlink::ContainerStatus> {
    let all = graph.init(name).filter_map(|(init, spec, hash)| {
        let there = found.and_then(|found| found.current(init, hash))?;
        let digest = graph.image(&spec.image).map(|digest| digest.to_string());
        let view = states::container(init, (spec.image.to_string(), digest), Some(there));
        (view.status != Some(0)).then_some(view)
    });
    all.collect()
}

/// What a pod lacks, in words.
fn lacking(pod: &Name, lacks: &[Unmet]) -> Option<String> {
    let own = lacks.iter().filter(|one| one.pod() == pod);
    let own: Vec<String> = own.map(ToString::to_string).collect();
    (!own.is_empty()).then(|| own.join("; "))
}

/// The addresses of a pod's links, without their prefix lengths.
fn addresses(found: &observed::Pod) -> Vec<String> {
    let Some(sandbox) = &found.sandbox else {
        return Vec::new();
    };
    let nics = sandbox.nics.values().flat_map(|nic| &nic.addresses);
    let links = sandbox.links.values().flat_map(|link| &link.addresses);
    let all = links.chain(nics);
    all.map(|net| net.addr().to_string()).collect()
}

/// The interfaces that a pod has, in the order of [`addresses`]. On which network each is, is known by
/// its bridge.
pub fn interfaces(
    pod: &Name,
    target: &Target<'_>,
    observed: &Observed,
) -> Option<Vec<varlink::PodInterface>> {
    let sandbox = observed.pods.get(pod)?.sandbox.as_ref()?;
    let networks = target.networks();
    let texts = |addresses: &BTreeSet<IpNet>| {
        let all = addresses.iter();
        all.map(|net| net.addr().to_string()).collect::<Vec<_>>()
    };
    let links = sandbox.links.iter().map(|(name, link)| {
        let network = networks
            .iter()
            .find(|network| network.bridge == link.bridge);
        varlink::PodInterface {
            name: name.clone(),
            network: network.map(|network| network.name.to_string()),
            parent: None,
            addresses: texts(&link.addresses),
        }
    });
    let nics = sandbox.nics.values().map(|nic| varlink::PodInterface {
        name: nic.name.clone(),
        network: None,
        parent: Some(nic.parent.clone()),
        addresses: texts(&nic.addresses),
    });
    Some(links.chain(nics).collect())
}

/// Every network that is declared, and the default one where pods are on it, as they are meant to be.
pub fn networks(target: &Target<'_>) -> Vec<varlink::Network> {
    let mut pods: BTreeMap<Name, Vec<varlink::NetworkPod>> = BTreeMap::new();
    for pod in target.graph.pods() {
        for place in target.places(pod) {
            let addresses = place.addresses.iter();
            pods.entry(place.network)
                .or_default()
                .push(varlink::NetworkPod {
                    pod: pod.to_string(),
                    addresses: addresses.map(|net| net.addr().to_string()).collect(),
                });
        }
    }
    let names = target.graph.networks().map(|(name, _)| name.clone());
    let names: BTreeSet<Name> = names.chain(pods.keys().cloned()).collect();
    let network = |name: Name| {
        let on = pods.remove(&name).unwrap_or_default();
        let used = target.network(&name).filter(|_| !on.is_empty());
        let spec = declared(target.graph, &name);
        let subnets: Vec<IpNet> = match &used {
            Some(used) => used.subnets.clone(),
            None => spec.into_iter().flat_map(|spec| spec.nets()).collect(),
        };
        varlink::Network {
            stack: name.stack().map(str::to_owned),
            internal: spec.is_some_and(|spec| spec.internal),
            subnets: subnets.iter().map(IpNet::to_string).collect(),
            bridge: used.map(|used| used.bridge),
            pods: on,
            name: name.to_string(),
        }
    };
    names.into_iter().map(network).collect()
}

/// Where a pod's ports are published: `127.0.0.1:8080->80`. What leads to no address that it has, being of
/// the other family, is not.
fn published(pod: &Name, graph: &Graph, found: Option<&observed::Pod>) -> Vec<String> {
    let links = found.and_then(|found| found.sandbox.as_ref());
    let links = links.into_iter().flat_map(|sandbox| sandbox.links.values());
    let own: Vec<IpAddr> = links
        .flat_map(|link| link.addresses.iter().map(IpNet::addr))
        .collect();
    let leads = |at: &IpAddr| own.is_empty() || own.iter().any(|own| own.is_ipv4() == at.is_ipv4());
    let published = graph.published(pod).flat_map(|(_, publish)| {
        let addresses = publish.address.iter().filter(leads);
        addresses.map(|address| {
            let address = match address {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            };
            let (from, to, protocol) = (publish.port, publish.target(), publish.protocol.suffix());
            format!("{address}:{from}->{to}{protocol}")
        })
    });
    published.collect()
}

/// Whom a pod may reach, and by whom it may be reached, where that is not everybody: in words.
fn policies(pod: &Name, graph: &Graph) -> Vec<String> {
    let Some(node) = graph.pod(pod) else {
        return Vec::new();
    };
    let admitted = node
        .allow_from
        .peers()
        .map(|_| why::admitted(pod, &node.allow_from));
    let reached = node.egress.peers().map(|_| why::reached(pod, &node.egress));
    admitted.into_iter().chain(reached).collect()
}
