//! From the daemon's data to the shapes of the interface. Pure.

use crate::{
    events::Event,
    generations::{Entry, Overridden, Progress, Reason, Stage, Switched},
};
use serde_json::Value;
use std::net::IpAddr;
use tank_model::{
    Digest, Graph, Name, Outcome, Reference,
    diff::{NodeChange, What},
};
use tank_plan::{
    Class, Observed, PlannedStep, Report,
    observed::{self, State},
    why,
};
use tank_proto::varlink::{
    self, ChangeKind, ContainerState, GenerationOutcome, PodState, StepClass,
};

pub fn generation(entry: &Entry) -> varlink::Generation {
    let Entry {
        generation,
        outcome,
        current,
    } = entry;
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
    }
}

pub fn progress(progress: Progress) -> varlink::Progress {
    let stage = match progress.stage {
        Stage::Pull => varlink::Stage::Pull,
        Stage::Commit => varlink::Stage::Commit,
        Stage::Step => varlink::Stage::Step,
        Stage::Rollback => varlink::Stage::Rollback,
        Stage::Note => varlink::Stage::Note,
    };
    varlink::Progress {
        stage,
        message: progress.message,
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
    }
}

pub fn event(event: Event) -> varlink::Event {
    let Event {
        time,
        kind,
        pod,
        message,
    } = event;
    varlink::Event {
        time,
        kind: kind.to_owned(),
        pod,
        message,
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
    }
}

pub fn resolved(resolved: &[(Reference, Digest)]) -> varlink::ResolveReply {
    let one = |(image, digest): &(Reference, Digest)| varlink::Resolved {
        image: image.to_string(),
        digest: digest.to_string(),
    };
    varlink::ResolveReply {
        images: resolved.iter().map(one).collect(),
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
    waiting.chain(held).chain(blocked).collect()
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
        why: planned.why.to_string(),
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
            What::Modified { fields } => list.extend(fields.iter().map(|field| varlink::Change {
                field: Some(field.field.clone()),
                before: field.before.as_ref().map(plain),
                after: field.after.as_ref().map(plain),
                ..entry(ChangeKind::Modified)
            })),
        }
    }
    list
}

/// A JSON value as people write it: texts without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Every pod that is declared or there.
pub fn pods(graph: &Graph, observed: &Observed) -> Vec<varlink::Pod> {
    let mut names: Vec<&Name> = graph.pods().chain(observed.pods.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| pod(name, graph, observed))
        .collect()
}

pub fn pod(name: &Name, graph: &Graph, observed: &Observed) -> varlink::Pod {
    let found = observed.pods.get(name);
    let mut containers: Vec<varlink::ContainerStatus> = graph
        .containers(name)
        .map(|(container, node, hash)| {
            let there = found.and_then(|found| found.containers.get(container));
            let image = node.image.to_string();
            let digest = graph.image(&node.image).map(|digest| digest.to_string());
            let mut view = self::container(container, image, digest, there);
            if there.is_some_and(|there| there.hash != hash) {
                view.state = ContainerState::Outdated;
            }
            view
        })
        .collect();
    let declared = graph.pod(name).is_some();
    let undeclared = found.into_iter().flat_map(|found| &found.containers);
    for (container, there) in
        undeclared.filter(|(container, _)| graph.process(name, container).is_none())
    {
        containers.push(self::container(container, String::new(), None, Some(there)));
    }
    // What runs before the containers is shown while it is why they wait.
    let unfinished: Vec<varlink::ContainerStatus> = graph
        .init(name)
        .filter_map(|(init, spec, hash)| {
            let there = found.and_then(|found| found.current(init, hash))?;
            let digest = graph.image(&spec.image).map(|digest| digest.to_string());
            let view = self::container(init, spec.image.to_string(), digest, Some(there));
            (view.status != Some(0)).then_some(view)
        })
        .collect();
    let unresponsive = found.and_then(|found| found.unresponsive.as_ref());
    if unresponsive.is_some() {
        containers
            .iter_mut()
            .for_each(|container| container.state = ContainerState::Unknown);
    }
    let state = match unresponsive {
        _ if !declared => PodState::Undeclared,
        Some(_) => PodState::Unresponsive,
        None => state_of(&containers, !unfinished.is_empty()),
    };
    varlink::Pod {
        name: name.to_string(),
        state,
        addresses: found.map(addresses).unwrap_or_default(),
        published: published(name, graph),
        policies: Some(policies(name, graph)).filter(|all| !all.is_empty()),
        containers: unfinished.into_iter().chain(containers).collect(),
        reason: unresponsive.map(ToString::to_string),
    }
}

/// The addresses of a pod's links, without their prefix lengths.
fn addresses(found: &observed::Pod) -> Vec<String> {
    let Some(sandbox) = &found.sandbox else {
        return Vec::new();
    };
    let nics = sandbox.nics.values().flat_map(|nic| &nic.addresses);
    let all = sandbox.network.iter().flatten().chain(nics);
    all.map(|net| net.addr().to_string()).collect()
}

/// Where a pod's ports are published: `127.0.0.1:8080->80`.
fn published(pod: &Name, graph: &Graph) -> Vec<String> {
    let published = graph.published(pod).flat_map(|(_, publish)| {
        let addresses = publish.address.iter();
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

/// The state of a declared pod whose shim answers. `unfinished`: what runs before its containers has
/// not ended well.
fn state_of(containers: &[varlink::ContainerStatus], unfinished: bool) -> PodState {
    let is = |state: ContainerState| move |one: &varlink::ContainerStatus| one.state == state;
    let all_run = !containers.is_empty() && containers.iter().all(is(ContainerState::Running));
    let any_runs = containers.iter().any(is(ContainerState::Running));
    if all_run && containers.iter().all(|container| container.ready) {
        PodState::Running
    } else if all_run || unfinished && !any_runs {
        PodState::Starting
    } else if containers
        .iter()
        .all(|container| container.status == Some(0))
    {
        PodState::Completed
    } else if any_runs {
        PodState::Degraded
    } else {
        PodState::Stopped
    }
}

fn container(
    name: &Name,
    image: String,
    digest: Option<String>,
    there: Option<&observed::Run>,
) -> varlink::ContainerStatus {
    let mut view = varlink::ContainerStatus {
        name: name.to_string(),
        image,
        digest,
        state: ContainerState::Absent,
        pid: None,
        status: None,
        restarts: 0,
        started: None,
        ready: false,
    };
    let Some(there) = there else { return view };
    view.restarts = there.attempt;
    view.started = Some(there.since);
    match there.state {
        State::Running { pid, verdict } => {
            view.state = ContainerState::Running;
            view.pid = Some(pid);
            view.ready = verdict.ready;
        }
        State::Exited { status, .. } => {
            view.state = ContainerState::Exited;
            view.status = Some(status);
        }
    }
    view
}
