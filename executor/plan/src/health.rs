//! Whether what a switch changed is well: what its gate waits for. And whether all that is declared
//! runs, which is what a rollback waits for: never for health.

use crate::{
    observed::{Observed, Run, State, Verdict},
    report::{Blocked, Report, Waiting},
    why::WaitsFor,
};
use std::collections::BTreeSet;
use tank_model::{Graph, Name, spec::Restart};

/// How often a start may fail before nothing more is expected of it.
pub const PATIENCE: u32 = 3;

/// What a gate knows of the pods it waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// All of them are well.
    Good,
    /// Waiting longer may help. Which container, and why, for people.
    NotYet(String),
    /// Waiting longer changes nothing. Which container or pod, and why, for people.
    Hopeless(String),
}

/// The health of the pods `changed`. `grace` is how long a container without a probe has to run, in
/// milliseconds; `report` is the plan's, for the reason why something does not run.
pub fn health(
    graph: &Graph,
    changed: &BTreeSet<Name>,
    observed: &Observed,
    report: &Report,
    grace: u64,
) -> Health {
    let all = |_: &Name, _: &Name| true;
    health_of(graph, (changed, &all), (observed, report), grace)
}

/// Pods, and which of their containers count.
pub type Counted<'a> = (&'a BTreeSet<Name>, &'a dyn Fn(&Name, &Name) -> bool);

/// The health of the containers that count, of these pods.
pub fn health_of(
    graph: &Graph,
    (pods, counts): Counted<'_>,
    (observed, report): (&Observed, &Report),
    grace: u64,
) -> Health {
    let mut not_yet = None;
    for pod in pods {
        let Some(node) = graph.pod(pod) else { continue };
        let found = observed.pods.get(pod);
        if let Some(blocked) = report.blocked.iter().find(|blocked| blocked.pod == *pod) {
            return Health::Hopeless(blocked.to_string());
        }
        // What runs before the containers is why they wait; on its own it only says when there is
        // no more hope.
        for (name, _, hash) in graph.init(pod) {
            let failed = found
                .and_then(|found| found.current(name, hash))
                .filter(|found| found.failed());
            let health =
                failed.map(|failed| of_container(failed, node.restart, true, observed.now, grace));
            if let Some(Health::Hopeless(why)) = health {
                return Health::Hopeless(format!("{pod}/{name} {why}"));
            }
        }
        let wanted = |name: &Name| counts(pod, name) && !report.is_stopped(pod, name);
        for (name, _, hash) in graph.containers(pod).filter(|(name, ..)| wanted(name)) {
            let Some(found) = found.and_then(|found| found.current(name, hash)) else {
                let reason = report.waiting.iter().find(|waiting| waiting.pod == *pod);
                let is_stopped = |one: &&Waiting| matches!(one.why, WaitsFor::Stopped { .. });
                if let Some(waiting) = reason.filter(is_stopped) {
                    return Health::Hopeless(format!("{pod}/{name} {}", waiting.why));
                }
                let reason = reason_of(reason);
                not_yet = Some(format!("{pod}/{name} {reason}"));
                continue;
            };
            let probed = graph.lifecycle(pod, name).is_probed();
            match of_container(found, node.restart, probed, observed.now, grace) {
                Health::Good => {}
                Health::NotYet(why) => not_yet = Some(format!("{pod}/{name} {why}")),
                Health::Hopeless(why) => return Health::Hopeless(format!("{pod}/{name} {why}")),
            }
        }
    }
    not_yet.map_or(Health::Good, Health::NotYet)
}

/// What is declared of the pods that count, and does not run, with the reason. What has ended as its pod's policy lets it
/// is not missing.
pub fn not_running(
    graph: &Graph,
    counts: impl Fn(&Name) -> bool,
    observed: &Observed,
    report: &Report,
) -> Missing {
    let mut missing = Missing::default();
    for pod in graph.pods().filter(|pod| counts(pod)) {
        let Some(node) = graph.pod(pod) else { continue };
        let found = observed.pods.get(pod);
        let over = |found: &Run| match found.state {
            State::Running { .. } => true,
            State::Exited { status, .. } => match node.restart {
                Restart::Always => false,
                Restart::OnFailure => status == 0,
                Restart::Never => true,
            },
        };
        // Nothing starts after what runs before it and has failed for good.
        let failed = |name: &Name, hash| {
            let init = found.and_then(|found| found.current(name, hash));
            node.restart == Restart::Never && init.is_some_and(Run::failed)
        };
        let stuck = graph
            .init(pod)
            .any(|(name, _, hash)| failed(name, hash) || report.blocked(pod, name).is_some());
        if let Some(blocked) = kept(graph, pod, observed, report) {
            missing.list.push(blocked.to_string());
            continue;
        }
        let containers = graph.containers(pod);
        for (name, _, hash) in containers.filter(|(name, ..)| !report.is_stopped(pod, name)) {
            let there = found.and_then(|found| found.current(name, hash));
            if there.is_some_and(over) {
                continue;
            }
            if let Some(blocked) = report.blocked(pod, name) {
                let why = &blocked.why;
                missing
                    .list
                    .push(format!("{pod}/{name} can't be started: {why}"));
                continue;
            }
            let reason = report
                .waiting
                .iter()
                .find(|waiting| waiting.pod == *pod && waiting.container == *name);
            missing
                .list
                .push(format!("{pod}/{name} {}", reason_of(reason)));
            let is_stopped = |one: &Waiting| matches!(one.why, WaitsFor::Stopped { .. });
            missing.may_come |= !stuck && !reason.is_some_and(is_stopped);
        }
    }
    missing
}

/// Why a pod stays another one than declared, if it does.
fn kept<'r>(
    graph: &Graph,
    pod: &Name,
    observed: &Observed,
    report: &'r Report,
) -> Option<&'r Blocked> {
    let found = observed.pods.get(pod)?.sandbox.as_ref()?;
    let (_, declared) = graph.sandbox(pod)?;
    let mut blocked = report.blocked.iter();
    let is_of_pod = |blocked: &&Blocked| blocked.pod == *pod && blocked.container.is_none();
    blocked.find(is_of_pod).filter(|_| declared != found.hash)
}

/// Why something does not run.
fn reason_of(waiting: Option<&Waiting>) -> String {
    waiting.map_or_else(
        || "does not run".to_owned(),
        |waiting| waiting.why.to_string(),
    )
}

/// What [`not_running`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Missing {
    /// `pod/container` and the reason, for people; one text for each container.
    pub list: Vec<String>,
    /// Whether waiting longer can change it.
    pub may_come: bool,
}

fn of_container(found: &Run, restart: Restart, probed: bool, now: u64, grace: u64) -> Health {
    let memory = if found.out_of_memory {
        "; the kernel ended processes of it that were out of memory (`limits.memory`)"
    } else {
        ""
    };
    match &found.state {
        State::Exited { status: 0, .. } if restart != Restart::Always => Health::Good,
        State::Exited { status, .. } if restart == Restart::Never || found.attempt >= PATIENCE => {
            Health::Hopeless(format!("ended with status {status}{memory}"))
        }
        State::Exited { status, .. } => {
            Health::NotYet(format!("ended with status {status}{memory}"))
        }
        State::Running { .. } if found.attempt >= PATIENCE => {
            Health::Hopeless(format!("keeps ending{memory}"))
        }
        State::Running {
            verdict: Verdict {
                failed: Some(probe),
                ..
            },
            ..
        } => Health::NotYet(format!("is ended: {}", probe.failure())),
        State::Running { verdict, .. } if !verdict.ready => {
            Health::NotYet("is not ready".to_owned())
        }
        State::Running { .. } if probed => Health::Good,
        State::Running { .. } if now.saturating_sub(found.started) >= grace => Health::Good,
        State::Running { .. } => Health::NotYet("has only just started".to_owned()),
    }
}

#[cfg(test)]
mod tests;
