//! What a pod's state is explained by, on a model host.

use std::collections::BTreeMap;
use tank_model::Name;
use tank_plan::{
    Inputs, Observed,
    events::LastEnd,
    explain::{Subject, explain},
    model,
    observed::{FailedStep, Probed, State},
    overrides::{Operation, Request},
    plan,
};

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn inputs() -> Inputs {
    let config = serde_json::json!({ "pods": {
        "db": { "containers": { "app": { "image": "db" } } },
        "job": { "containers": { "app": { "image": "job" } }, "restart": "never" },
        "web": { "containers": { "app": { "image": "web" } }, "depends_on": { "db": "ready" } },
    } });
    model::inputs(&serde_json::from_value(config).expect("a configuration"))
}

fn converged(inputs: &Inputs) -> Observed {
    let mut host = Observed {
        now: 1_000_000,
        ..Observed::default()
    };
    for _ in 0..3 {
        model::apply(&plan(&inputs.target(), &host).0, &mut host);
    }
    host
}

/// Each as `container: text [until] (next)`.
fn lines(inputs: &mut Inputs, host: &Observed, pod: &str, probe: Option<&str>) -> Vec<String> {
    lines_after(inputs, host, (pod, None), probe)
}

/// As [`lines`], of a pod whose `app` ended so last.
fn lines_after(
    inputs: &mut Inputs,
    host: &Observed,
    (pod, last): (&str, Option<LastEnd>),
    probe: Option<&str>,
) -> Vec<String> {
    let ends: BTreeMap<Name, LastEnd> = last.into_iter().map(|last| (name("app"), last)).collect();
    inputs.previous = Some(inputs.graph.clone());
    let (plan, report) = plan(&inputs.target(), host);
    let probes = probe.map(|answer| (name("app"), answer.to_owned()));
    let probes: BTreeMap<Name, String> = probes.into_iter().collect();
    let pod = name(pod);
    let subject = Subject {
        pod: &pod,
        graph: &inputs.graph,
        observed: host,
        plan: &plan,
        report: &report,
        probes: &probes,
        ends: &ends,
        users: &BTreeMap::from([(7, "anna".to_owned())]),
    };
    let reasons = explain(&subject).into_iter().map(|reason| {
        let of = reason
            .container
            .map(|of| format!("{of}: "))
            .unwrap_or_default();
        let until = reason
            .until
            .map(|until| format!(" [in {} ms]", until - host.now));
        let next = reason
            .next
            .map(|next| format!(" ({next})"))
            .unwrap_or_default();
        format!("{of}{}{}{next}", reason.text, until.unwrap_or_default())
    });
    reasons.collect()
}

fn run<'a>(host: &'a mut Observed, pod: &str) -> &'a mut tank_plan::observed::Run {
    let pod = host.pods.get_mut(&name(pod)).expect("the pod");
    pod.containers.get_mut(&name("app")).expect("the container")
}

#[test]
fn what_runs_as_it_should_has_nothing_to_be_said() {
    let mut inputs = inputs();
    let host = converged(&inputs);
    assert_eq!(lines(&mut inputs, &host, "web", None), [] as [&str; 0]);
}

#[test]
fn each_state_has_its_reason_and_what_to_type() {
    let mut inputs = inputs();
    let mut host = converged(&inputs);
    // It keeps ending.
    let now = host.now;
    let found = run(&mut host, "web");
    (found.attempt, found.started) = (3, now);
    found.state = State::Exited { status: 1, at: now };
    assert_eq!(
        lines(&mut inputs, &host, "web", None),
        [
            "app: its main process ended with status 1; restart 4 in a row [in 4000 ms] (tank logs web/app)",
            "app: it ended with status 1 0 s ago (tank logs web/app)"
        ]
    );
    // It is not ready.
    host = converged(&inputs);
    if let Some(verdict) = run(&mut host, "web").verdict_mut() {
        (verdict.ready, verdict.since) = (false, now - 300_000);
    }
    assert_eq!(
        lines(&mut inputs, &host, "web", Some("GET / answers 503")),
        [
            "app: it runs, and is not ready for 5 min: its probe failed: GET / answers 503 (tank logs web/app)"
        ]
    );
    if let Some(verdict) = run(&mut host, "web").verdict_mut() {
        verdict.failed = Some(Probed::Liveness);
    }
    let all = lines(&mut inputs, &host, "web", Some("no answer"));
    assert_eq!(
        all[0],
        "app: it does not answer any more: its probe failed: no answer (tank logs web/app)"
    );
    assert_eq!(
        all[1],
        "next comes: end web/app, since it does not answer any more"
    );
    // It has ended for good.
    host = converged(&inputs);
    run(&mut host, "job").state = State::Exited {
        status: 3,
        at: now - 10_000,
    };
    assert_eq!(
        lines(&mut inputs, &host, "job", None),
        [
            "app: it ended with status 3 10 s ago, and `restart = 'never` wants no other run (tank logs job/app)"
        ]
    );
}

/// Whoever asks while it happens to run learns how it keeps ending, and where the words of that run are.
#[test]
fn a_container_that_keeps_ending_is_explained_while_it_runs() {
    let mut inputs = inputs();
    let mut host = converged(&inputs);
    run(&mut host, "web").attempt = 3;
    let last = |how: &str, probe: Option<&str>| {
        let probe = probe.map(str::to_owned);
        let how = how.to_owned();
        Some(LastEnd {
            how,
            probe,
            time: 7,
        })
    };
    let ended = last("container app ended with status 1", None);
    assert_eq!(
        lines_after(&mut inputs, &host, ("web", ended), None),
        [
            "app: it was restarted 3 times in a row; the last time it ended with status 1 (tank logs --previous web/app)"
        ]
    );
    run(&mut host, "web").attempt = 1;
    let probed = last(
        "container app was killed by SIGKILL",
        Some("container app: it does not answer any more (GET / answers 503)"),
    );
    assert_eq!(
        lines_after(&mut inputs, &host, ("web", probed.clone()), None),
        [
            "app: it was restarted once; the last time it was killed by SIGKILL, because of a probe: \
             it does not answer any more (GET / answers 503) (tank logs --previous web/app)"
        ]
    );
    // Before it runs again.
    let now = host.now;
    run(&mut host, "web").state = State::Exited {
        status: 137,
        at: now,
    };
    let all = lines_after(&mut inputs, &host, ("web", probed), None);
    assert_eq!(
        all.last().map(String::as_str),
        Some(
            "app: it was ended because of a probe: it does not answer any more (GET / answers 503) (tank events web)"
        )
    );
    // Nothing is remembered of how it ended.
    let mut host = converged(&inputs);
    run(&mut host, "web").attempt = 2;
    assert_eq!(
        lines(&mut inputs, &host, "web", None),
        ["app: it was restarted 2 times in a row (tank logs --previous web/app)"]
    );
}

#[test]
fn who_stopped_it_and_who_waits_for_that() {
    let mut inputs = inputs();
    let mut host = Observed {
        now: 1_000_000,
        ..Observed::default()
    };
    let selected = BTreeMap::from([(name("db"), [name("app")].into())]);
    let request = Request {
        operation: Operation::Stop,
        timeout: None,
        uid: 7,
        time: 1,
    };
    let made = inputs
        .overrides
        .requested(&request, &selected, (&inputs.graph, &host));
    inputs.overrides = made.overrides;
    for _ in 0..3 {
        model::apply(&plan(&inputs.target(), &host).0, &mut host);
    }
    assert_eq!(
        lines(&mut inputs, &host, "db", None),
        ["app: anna stopped it by hand (tank start db)"]
    );
    assert_eq!(
        lines(&mut inputs, &host, "web", None),
        ["app: waits for db, which is stopped by hand (`tank start db`) (tank start db)"]
    );
}

#[test]
fn a_step_that_fails_says_why_and_when_it_is_tried_again() {
    let mut inputs = inputs();
    let mut host = converged(&inputs);
    host.pods.remove(&name("job"));
    let (steps, _) = plan(&inputs.target(), &host);
    let step = &steps.steps[0].step;
    assert_eq!(step.to_string(), "create pod job");
    let failed = |count| FailedStep {
        step: step.id(),
        count,
        at: host.now,
        why: "no space left".to_owned(),
    };
    let (once, often) = (failed(1), failed(4));
    host.failures = vec![once];
    let all = lines(&mut inputs, &host, "job", None);
    assert_eq!(
        all[0],
        "can't create pod job: it failed 1 time: no space left"
    );
    host.failures = vec![often];
    assert_eq!(
        lines(&mut inputs, &host, "job", None),
        [
            "can't create pod job: it failed 4 times in a row: no space left [in 2000 ms] (tank start job)"
        ]
    );
}
