//! Whether what a switch changed is well: what its gate waits for. And whether all that is declared
//! runs, which is what a rollback waits for: never for health.

use crate::{
    observed::{Container, Observed, State},
    step::Waiting,
};
use std::collections::BTreeSet;
use tank_model::{Graph, Name, spec::Restart};

/// How often a start may fail before nothing more is expected of it.
pub const PATIENCE: u32 = 3;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    Good,
    NotYet(String),
    /// Waiting longer changes nothing.
    Hopeless(String),
}

/// The health of the pods `changed`. `grace` is how long a container without a probe has to run, in
/// milliseconds; `waiting` is the plan's, for the reason why something does not run.
pub fn health(
    graph: &Graph,
    changed: &BTreeSet<Name>,
    observed: &Observed,
    waiting: &[Waiting],
    grace: u64,
) -> Health {
    let mut not_yet = None;
    for pod in changed {
        let Some(node) = graph.pod(pod) else { continue };
        let found = observed.pods.get(pod);
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
        for (name, _, hash) in graph.containers(pod) {
            let Some(found) = found.and_then(|found| found.current(name, hash)) else {
                let reason = waiting.iter().find(|waiting| waiting.pod == *pod);
                let reason = reason.map_or("does not run", |waiting| waiting.why.as_str());
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

/// What is declared and does not run, with the reason. What has ended as its pod's policy lets it
/// is not missing.
pub fn not_running(graph: &Graph, observed: &Observed, waiting: &[Waiting]) -> Missing {
    let mut missing = Missing::default();
    for pod in graph.pods() {
        let Some(node) = graph.pod(pod) else { continue };
        let found = observed.pods.get(pod);
        let over = |found: &Container| match found.state {
            State::Running { .. } => true,
            State::Exited { status, .. } => match node.restart {
                Restart::Always => false,
                Restart::OnFailure => status == 0,
                Restart::Never => true,
            },
        };
        // Nothing starts after what runs before it and has failed for good.
        let stuck = node.restart == Restart::Never
            && graph.init(pod).any(|(name, _, hash)| {
                found
                    .and_then(|found| found.current(name, hash))
                    .is_some_and(Container::failed)
            });
        for (name, _, hash) in graph.containers(pod) {
            let there = found.and_then(|found| found.current(name, hash));
            if there.is_some_and(over) {
                continue;
            }
            let reason = waiting
                .iter()
                .find(|waiting| waiting.pod == *pod && waiting.container == *name);
            let why = reason.map_or("does not run", |waiting| waiting.why.as_str());
            missing.list.push(format!("{pod}/{name} {why}"));
            missing.may_come |= !stuck;
        }
    }
    missing
}

/// What [`not_running`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Missing {
    pub list: Vec<String>,
    /// Whether waiting longer can change it.
    pub may_come: bool,
}

fn of_container(found: &Container, restart: Restart, probed: bool, now: u64, grace: u64) -> Health {
    let memory = if found.out_of_memory {
        "; the kernel ended processes of it that were out of memory (`limits.memory`)"
    } else {
        ""
    };
    let failure = found
        .unhealthy
        .map(|unhealthy| unhealthy.probe.failure())
        .unwrap_or_default();
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
        State::Running { .. } if !failure.is_empty() => {
            Health::NotYet(format!("is ended: {failure}"))
        }
        State::Running { ready: false, .. } => Health::NotYet("is not ready".to_owned()),
        State::Running { .. } if probed => Health::Good,
        State::Running { .. } if now.saturating_sub(found.started) >= grace => Health::Good,
        State::Running { .. } => Health::NotYet("has only just started".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Desired,
        model::apply,
        observed::{Pod, Probed, Unhealthy},
        plan,
    };
    use std::collections::BTreeMap;
    use tank_model::Config;

    const NOW: u64 = 1_000_000;
    const GRACE: u64 = 500;

    /// The health of a pod `web` with this configuration, after everything that can be started was,
    /// and `change`.
    fn of(pod: serde_json::Value, passes: usize, change: impl FnOnce(&mut Pod)) -> Health {
        let (graph, host, waiting) = host_of(pod, passes, change);
        health(
            &graph,
            &graph.pods().cloned().collect(),
            &host,
            &waiting,
            GRACE,
        )
    }

    fn host_of(
        pod: serde_json::Value,
        passes: usize,
        change: impl FnOnce(&mut Pod),
    ) -> (Graph, Observed, Vec<Waiting>) {
        let config: Config =
            serde_json::from_value(serde_json::json!({ "pods": { "web": pod } })).expect("a pod");
        let graph = Graph::build(&config, |_| None).expect("a graph");
        let (none, addresses) = (BTreeSet::new(), BTreeMap::new());
        let (signals, files) = (BTreeMap::new(), BTreeMap::new());
        let desired = Desired {
            graph: &graph,
            previous: None,
            addresses: &addresses,
            bridge: &none,
            firewall: &none,
            stop_signals: &signals,
            files: &files,
        };
        let mut host = Observed {
            now: NOW,
            ..Observed::default()
        };
        for _ in 0..passes {
            apply(&plan(&desired, &host), &desired, &mut host);
        }
        change(host.pods.values_mut().next().expect("web"));
        host.now += GRACE - 1;
        let waiting = plan(&desired, &host).waiting;
        (graph, host, waiting)
    }

    fn pod(more: serde_json::Value) -> serde_json::Value {
        let mut pod =
            serde_json::json!({ "network": "none", "containers": { "app": { "image": "x" } } });
        for (field, value) in more.as_object().expect("fields") {
            pod[field] = value.clone();
        }
        pod
    }

    fn ended(status: i32, attempt: u32) -> impl FnOnce(&mut Pod) {
        move |pod| {
            for container in pod.containers.values_mut() {
                container.state = State::Exited { status, at: NOW };
                container.attempt = attempt;
            }
        }
    }

    fn not_yet(why: &str) -> Health {
        Health::NotYet(format!("web/{why}"))
    }

    fn hopeless(why: &str) -> Health {
        Health::Hopeless(format!("web/{why}"))
    }

    #[test]
    fn a_container_without_a_probe_has_to_last() {
        let plain = || pod(serde_json::json!({}));
        assert_eq!(of(plain(), 1, |_| {}), not_yet("app has only just started"));
        let older = |pod: &mut Pod| {
            pod.containers
                .values_mut()
                .for_each(|found| found.started -= 1)
        };
        assert_eq!(of(plain(), 1, older), Health::Good);
        assert_eq!(
            of(plain(), 1, |pod| pod.containers.clear()),
            not_yet("app does not run")
        );
    }

    #[test]
    fn a_probe_is_believed_at_once() {
        let probed = || {
            pod(
                serde_json::json!({ "containers": { "app": { "image": "x", "readiness": { "tcp": { "port": 1 } } } } }),
            )
        };
        assert_eq!(of(probed(), 1, |_| {}), Health::Good);
        let unready = |pod: &mut Pod| {
            pod.containers.values_mut().for_each(|found| {
                found.state = State::Running {
                    pid: 2,
                    ready: false,
                }
            });
        };
        assert_eq!(of(probed(), 1, unready), not_yet("app is not ready"));
        let failing = |pod: &mut Pod| {
            let unhealthy = Unhealthy {
                probe: Probed::Liveness,
                ending: false,
            };
            pod.containers
                .values_mut()
                .for_each(|found| found.unhealthy = Some(unhealthy));
        };
        assert_eq!(
            of(probed(), 1, failing),
            not_yet("app is ended: it does not answer any more")
        );
    }

    #[test]
    fn what_ends_is_well_only_where_it_may_end() {
        let with = |restart: &str| pod(serde_json::json!({ "restart": restart }));
        assert_eq!(of(with("never"), 1, ended(0, 0)), Health::Good);
        assert_eq!(of(with("on_failure"), 1, ended(0, 0)), Health::Good);
        assert_eq!(
            of(with("always"), 1, ended(0, 0)),
            not_yet("app ended with status 0")
        );
        assert_eq!(
            of(with("never"), 1, ended(2, 0)),
            hopeless("app ended with status 2")
        );
        assert_eq!(
            of(with("on_failure"), 1, ended(2, PATIENCE - 1)),
            not_yet("app ended with status 2")
        );
        assert_eq!(
            of(with("on_failure"), 1, ended(2, PATIENCE)),
            hopeless("app ended with status 2")
        );
        let starved = |pod: &mut Pod| {
            pod.containers.values_mut().for_each(|found| {
                found.attempt = PATIENCE;
                found.out_of_memory = true;
            });
        };
        let why = "app keeps ending; the kernel ended processes of it that were out of memory (`limits.memory`)";
        assert_eq!(of(with("always"), 1, starved), hopeless(why));
    }

    #[test]
    fn what_is_declared_runs_or_has_ended_as_it_may() {
        let missing = |config: serde_json::Value, passes, change: &dyn Fn(&mut Pod)| {
            let (graph, host, waiting) = host_of(config, passes, change);
            not_running(&graph, &host, &waiting)
        };
        let with = |restart: &str| {
            pod(serde_json::json!({ "restart": restart, "init": { "a": { "image": "a" } } }))
        };
        let of = |list: &[&str], may_come| Missing {
            list: list.iter().map(|line| (*line).to_owned()).collect(),
            may_come,
        };
        let none = of(&[], false);
        let unready = |pod: &mut Pod| {
            pod.containers.values_mut().for_each(|found| {
                found.state = State::Running {
                    pid: 2,
                    ready: false,
                }
            });
        };
        // Never for health; and for what comes after `init`.
        assert_eq!(missing(pod(serde_json::json!({})), 1, &unready), none);
        assert_eq!(
            missing(with("always"), 1, &|_| {}),
            of(&["web/app does not run"], true)
        );
        assert_eq!(missing(with("always"), 2, &|_| {}), none);
        let end = |status| move |pod: &mut Pod| ended(status, 0)(pod);
        let broken = |pod: &mut Pod| ended(3, 5)(pod);
        assert_eq!(
            missing(with("always"), 1, &broken),
            of(&["web/app waits for a to end well"], true)
        );
        assert_eq!(
            missing(with("never"), 1, &end(3)),
            of(&["web/app waits for a to end well"], false)
        );
        let plain = |restart: &str| pod(serde_json::json!({ "restart": restart }));
        for (restart, status, is_missing) in [
            ("never", 3, false),
            ("on_failure", 0, false),
            ("on_failure", 3, true),
            ("always", 0, true),
        ] {
            let found = missing(plain(restart), 1, &end(status));
            assert_eq!(
                !found.list.is_empty(),
                is_missing,
                "{restart} {status}: {found:?}"
            );
        }
    }

    #[test]
    fn containers_wait_for_what_runs_before_them() {
        let with = |restart: &str| {
            pod(serde_json::json!({ "restart": restart, "init": { "a": { "image": "a" } } }))
        };
        let running = |pod: &mut Pod| {
            pod.containers.values_mut().for_each(|found| {
                found.state = State::Running {
                    pid: 2,
                    ready: true,
                }
            });
        };
        assert_eq!(
            of(with("always"), 1, running),
            not_yet("app waits for a to end well")
        );
        assert_eq!(
            of(with("always"), 1, ended(3, 0)),
            not_yet("app waits for a to end well")
        );
        assert_eq!(
            of(with("always"), 1, ended(3, PATIENCE)),
            hopeless("a ended with status 3")
        );
        assert_eq!(
            of(with("never"), 1, ended(3, 0)),
            hopeless("a ended with status 3")
        );
        assert_eq!(
            of(with("always"), 2, |_| {}),
            not_yet("app has only just started")
        );
    }
}
