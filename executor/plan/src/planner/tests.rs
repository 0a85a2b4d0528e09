use super::*;
use crate::{
    health::PATIENCE,
    model::{apply, inputs},
    observed::{FailedStep, Pod, State, Unresponsive},
    target::TargetError,
};
use std::collections::BTreeMap;
use tank_model::Config;

const NOW: u64 = 1_000_000;

/// What is planned, and what waits until when, for the pod `web`, which is unresponsive.
fn planned(
    declared: bool,
    unresponsive: Unresponsive,
    failures: Vec<FailedStep>,
) -> (Vec<String>, Vec<Option<u64>>) {
    let mut config = serde_json::json!({ "pods": {} });
    if declared {
        config["pods"]["web"] =
            serde_json::json!({ "network": "none", "containers": { "app": { "image": "x" } } });
    }
    let config: Config = serde_json::from_value(config).expect("a configuration");
    let mut inputs = inputs(&config);
    inputs.previous = Some(inputs.graph.clone());
    let web = Pod {
        unresponsive: Some(unresponsive),
        ..Pod::default()
    };
    let pods = BTreeMap::from([(Name::new("web").expect("a name"), web)]);
    let observed = Observed {
        now: NOW,
        pods,
        failures,
        ..Observed::default()
    };
    let (plan, report) = plan(&inputs.target(), &observed);
    let steps = plan.steps.iter().map(|step| step.step.to_string());
    let until = report.waiting.iter().map(|waiting| waiting.until);
    (steps.collect(), until.collect())
}

#[test]
fn a_shim_that_says_nothing_is_waited_for_let_run_on_or_replaced() {
    let silent = |since| Unresponsive::Silent { since };
    assert_eq!(
        planned(true, silent(NOW - SILENCE + 1), vec![]),
        (vec![], vec![Some(NOW + 1)])
    );
    let replaced = [
        "sweep what is left of pod web",
        "create pod web",
        "start web/app",
    ]
    .map(str::to_owned);
    assert_eq!(
        planned(true, silent(NOW - SILENCE), vec![]),
        (replaced.to_vec(), vec![])
    );
    assert_eq!(
        planned(true, Unresponsive::Busy, vec![]),
        (vec![], vec![None])
    );
    assert_eq!(
        planned(
            true,
            Unresponsive::Unreadable { why: String::new() },
            vec![]
        ),
        (vec![], vec![Some(NOW + shims::READ_AGAIN)])
    );
    // However long it was stopped, what runs in it need not end; unless that is in vain.
    let resumed = vec!["resume the shim of pod web".to_owned()];
    assert_eq!(
        planned(true, Unresponsive::Halted { since: 0 }, vec![]),
        (resumed.clone(), vec![None])
    );
    let step = Step::ResumeShim {
        pod: Name::new("web").expect("a name"),
    };
    let in_vain = FailedStep {
        step: step.id(),
        count: PATIENCE,
        at: 0,
        why: String::new(),
    };
    let halted = planned(true, Unresponsive::Halted { since: 0 }, vec![in_vain]);
    assert_eq!(halted, (replaced.to_vec(), vec![]));
    // What has to go anyway is not waited for, but let run on, so that it may end as it should.
    assert_eq!(
        planned(false, silent(NOW), vec![]),
        (replaced[..1].to_vec(), vec![])
    );
    assert_eq!(
        planned(false, Unresponsive::Halted { since: 0 }, vec![]),
        (resumed, vec![])
    );
}

fn steps(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter();
    steps.map(|planned| planned.step.to_string()).collect()
}

#[test]
fn what_can_t_be_started_ends_nothing_that_runs() {
    let config = |user: &str| -> Config {
        let app = serde_json::json!({ "image": "x", "user": user });
        let pod = serde_json::json!({ "network": "none", "containers": { "app": app } });
        serde_json::from_value(serde_json::json!({ "pods": { "web": pod } })).expect("a pod")
    };
    let mut host = Observed {
        now: NOW,
        ..Observed::default()
    };
    let before = inputs(&config("root"));
    apply(&plan(&before.target(), &host).0, &mut host);
    let mut after = inputs(&config("nobody-knows"));
    after.previous = Some(before.graph.clone());
    let (none, report) = plan(&after.target(), &host);
    assert_eq!(steps(&none), Vec::<String>::new());
    assert!(matches!(report.blocked[0].why, TargetError::NoUser { .. }));
    assert!(!report.is_settled() && report.wake_at().is_none());
    // With its image's own user it goes on.
    for image in after.images.values_mut() {
        image.passwd.push_str("nobody-knows:x:7:7::/:\n");
    }
    let (some, report) = plan(&after.target(), &host);
    assert_eq!(steps(&some), ["stop web/app", "start web/app"]);
    assert!(report.is_settled());
    // What ended is not started from an image that is gone.
    let mut before = before;
    before.images.clear();
    let run = host
        .pods
        .values_mut()
        .flat_map(|pod| pod.containers.values_mut());
    run.for_each(|found| found.state = State::Exited { status: 1, at: NOW });
    let (none, report) = plan(&before.target(), &host);
    assert_eq!(steps(&none), Vec::<String>::new());
    let why = "can't start web/app: use the image x: it is not on this host";
    assert_eq!(report.blocked[0].to_string(), why);
}
