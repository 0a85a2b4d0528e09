use super::*;
use crate::{
    model::{apply, inputs},
    observed::{Pod, Probed, Verdict},
    plan,
};

const NOW: u64 = 1_000_000;
const GRACE: u64 = 500;

/// The health of a pod `web` with this configuration, after everything that can be started was,
/// and `change`.
fn of(pod: serde_json::Value, passes: usize, change: impl FnOnce(&mut Pod)) -> Health {
    let (graph, host, report) = host_of(pod, passes, change);
    health(
        &graph,
        &graph.pods().cloned().collect(),
        &host,
        &report,
        GRACE,
    )
}

fn host_of(
    pod: serde_json::Value,
    passes: usize,
    change: impl FnOnce(&mut Pod),
) -> (Graph, Observed, Report) {
    let config = serde_json::from_value(serde_json::json!({ "pods": { "web": pod } }));
    let inputs = inputs(&config.expect("a pod"));
    let target = inputs.target();
    let mut host = Observed {
        now: NOW,
        ..Observed::default()
    };
    for _ in 0..passes {
        apply(&plan(&target, &host).0, &mut host);
    }
    change(host.pods.values_mut().next().expect("web"));
    host.now += GRACE - 1;
    let (_, report) = plan(&target, &host);
    (inputs.graph, host, report)
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
                verdict: Verdict::unasked(false, 0),
            }
        });
    };
    assert_eq!(of(probed(), 1, unready), not_yet("app is not ready"));
    let failing = |pod: &mut Pod| {
        let verdicts = pod.containers.values_mut().filter_map(Run::verdict_mut);
        verdicts.for_each(|verdict| verdict.failed = Some(Probed::Liveness));
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
        let (graph, host, report) = host_of(config, passes, change);
        not_running(&graph, |_| true, &host, &report)
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
                verdict: Verdict::unasked(false, 0),
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
                verdict: Verdict::unasked(true, 0),
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

#[test]
fn what_can_t_be_started_is_hopeless_at_once() {
    let stranger = serde_json::json!({ "image": "x", "user": "x" });
    let why = "find the user: the image has no user `x` in /etc/passwd";
    for (field, name) in [("containers", "app"), ("init", "first")] {
        let pod = pod(serde_json::json!({ field: { name: stranger } }));
        let (graph, host, report) = host_of(pod, 1, |_| {});
        let changed = graph.pods().cloned().collect();
        assert_eq!(
            health(&graph, &changed, &host, &report, GRACE),
            Health::Hopeless(format!("can't start web/{name}: {why}"))
        );
        let missing = not_running(&graph, |_| true, &host, &report);
        assert!(!missing.may_come && missing.list.len() == 1, "{missing:?}");
        // Of no concern for others.
        let none = BTreeSet::new();
        assert_eq!(health(&graph, &none, &host, &report, GRACE), Health::Good);
    }
}
