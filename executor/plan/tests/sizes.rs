//! The sizes of volumes, planned: limits of what is there, before anything starts on it, and under what runs.

use tank_model::{Config, Name};
use tank_plan::{
    Class, Inputs, Observed, Plan, Report, Step, Target,
    model::{apply, inputs},
    observed::Counted,
    plan,
};

/// The first project id of a volume.
const FIRST: u32 = 1_413_545_984;

fn pods(own: &str, shared: &str) -> Inputs {
    let volume =
        |text: &str| -> serde_json::Value { serde_json::from_str(text).expect("a volume") };
    let mounts = serde_json::json!({ "data": { "volume": "data", "path": "/d" }, "up": { "volume": "up", "path": "/up" } });
    let pod = serde_json::json!({
        "volumes": { "data": volume(own), "up": { "shared": "up" } },
        "containers": { "app": { "image": "x", "mounts": mounts } },
    });
    let config: Config = serde_json::from_value(serde_json::json!({
        "pods": { "db": pod }, "volumes": { "up": volume(shared) },
    }))
    .expect("a configuration");
    inputs(&config)
}

/// A host that runs this, and whose volumes are there.
fn host(first: &Inputs) -> Observed {
    let mut host = Observed::default();
    let (begin, _) = plan(&first.target(), &host);
    apply(&begin, &mut host);
    for volume in ["db/data", "up"] {
        let found = host.data.counted.entry(volume.to_owned()).or_default();
        found.held = true;
    }
    host
}

/// The plan for `inputs`, whose volumes keep the project ids that they had `before`.
fn next(inputs: &Inputs, before: &Inputs, host: &Observed) -> (Plan, Report) {
    let mut projects = before.projects.clone();
    projects.extend(inputs.projects.clone());
    let target = Target {
        previous: Some(&before.graph),
        projects: &projects,
        ..inputs.target()
    };
    plan(&target, host)
}

fn words(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter();
    steps
        .map(|one| {
            format!(
                "{} ({}, {}, drift: {})",
                one.step, one.class, one.why, one.drift
            )
        })
        .collect()
}

#[test]
fn a_size_is_set_changed_and_lifted_under_the_container() {
    let (none, some) = (
        pods("{}", "{}"),
        pods(r#"{ "size": 4194304 }"#, r#"{ "size": 1048576 }"#),
    );
    let mut host = host(&none);
    let (plan, report) = next(&some, &none, &host);
    assert_eq!(
        words(&plan),
        [
            "limit volume db/data to 4MiB (in place, size of volume db/data is new, drift: false)",
            "limit volume up to 1MiB (in place, size of volume up is new, drift: false)",
        ]
    );
    assert!(report.unmet.is_empty() && report.is_settled());
    apply(&plan, &mut host);
    assert!(next(&some, &none, &host).0.is_empty());
    let more = pods(r#"{ "size": 8388608 }"#, r#"{ "size": 1048576 }"#);
    let (plan, _) = next(&more, &some, &host);
    assert_eq!(
        words(&plan),
        ["limit volume db/data to 8MiB (in place, size changed, drift: false)"]
    );
    apply(&plan, &mut host);
    // And back, as a rollback has it.
    let (plan, _) = next(&none, &more, &host);
    assert_eq!(
        words(&plan),
        [
            "let volume db/data have what the disk has (in place, size of volume db/data is gone, drift: false)",
            "let volume up have what the disk has (in place, size of volume up is gone, drift: false)",
        ]
    );
    apply(&plan, &mut host);
    assert!(next(&none, &more, &host).0.is_empty());
}

#[test]
fn what_somebody_changed_by_hand_is_drift() {
    let some = pods(r#"{ "size": 4194304 }"#, "{}");
    let mut host = host(&some);
    assert!(
        next(&some, &some, &host).0.is_empty(),
        "{:?}",
        next(&some, &some, &host).0
    );
    let change = |host: &mut Observed, change: fn(&mut Counted)| {
        change(host.data.counted.get_mut("db/data").expect("it is there"));
    };
    let changes: [fn(&mut Counted); 5] = [
        |found| found.bytes = 0,
        |found| found.inodes += 1,
        |found| found.counting = true,
        |found| found.project = None,
        // Somebody else's.
        |found| found.project = Some(7),
    ];
    for by_hand in changes {
        let mut host = host.clone();
        change(&mut host, by_hand);
        let (plan, _) = next(&some, &some, &host);
        assert_eq!(
            words(&plan),
            ["limit volume db/data to 4MiB (in place, the kernel has another limit, drift: true)"]
        );
        apply(&plan, &mut host);
        assert!(next(&some, &some, &host).0.is_empty());
    }
    // What was imported counts to the other one of the two.
    change(&mut host, |found| {
        found.project = found.project.map(|id| id + 1)
    });
    assert!(next(&some, &some, &host).0.is_empty());
}

/// As after a size that could not be set, on the way back to what ran before.
#[test]
fn what_is_limited_or_half_counted_is_let_go_where_no_size_is_declared() {
    let (none, some) = (pods("{}", "{}"), pods(r#"{ "size": 4194304 }"#, "{}"));
    let mut host = host(&none);
    assert!(next(&none, &some, &host).0.is_empty());
    let rests: [fn(&mut Counted); 3] = [
        |found| (found.project, found.counting, found.limited) = (Some(FIRST), true, true),
        // Its directory was not changed, or somebody changed that alone.
        |found| found.limited = true,
        |found| found.counting = true,
    ];
    for rest in rests {
        rest(host.data.counted.get_mut("db/data").expect("it is there"));
        let (plan, _) = next(&none, &some, &host);
        let lifts =
            |step: &Step| matches!(step, Step::LimitVolume { quota, .. } if quota.bytes == 0);
        assert!(
            plan.steps.len() == 1 && lifts(&plan.steps[0].step),
            "{plan:?}"
        );
        apply(&plan, &mut host);
        assert!(next(&none, &some, &host).0.is_empty());
    }
}

#[test]
fn what_is_being_counted_is_said_and_waited_for_by_nobody() {
    let some = pods(r#"{ "size": 4194304 }"#, "{}");
    let mut host = host(&some);
    let of = |host: &mut Observed, in_progress| {
        let found = host.data.counted.get_mut("db/data").expect("it is there");
        (found.counting, found.in_progress) = (true, in_progress);
    };
    of(&mut host, true);
    let (plan, report) = next(&some, &some, &host);
    assert!(plan.is_empty() && report.is_settled(), "{plan:?}");
    let said: Vec<String> = report.unmet.iter().map(ToString::to_string).collect();
    let counting = "the volume db/data is being counted: until that is done it may have more in it than its `size`, by what was there before";
    assert_eq!(said, [counting]);
    // A container starts on it meanwhile.
    let mut stopped = host.clone();
    stopped.pods.clear();
    let (plan, _) = next(&some, &some, &stopped);
    assert!(
        plan.steps
            .iter()
            .all(|one| !matches!(one.step, Step::LimitVolume { .. })),
        "{plan:?}"
    );
    // Another size is set at once, and that it has none stops the counting.
    let more = pods(r#"{ "size": 8388608 }"#, "{}");
    assert_eq!(next(&more, &some, &host).0.steps.len(), 1);
    assert_eq!(next(&pods("{}", "{}"), &some, &host).0.steps.len(), 1);
    // The daemon was killed meanwhile: it is counted anew.
    of(&mut host, false);
    let (plan, report) = next(&some, &some, &host);
    assert_eq!((plan.steps.len(), report.unmet.len()), (1, 0));
    apply(&plan, &mut host);
    assert!(next(&some, &some, &host).0.is_empty());
}

#[test]
fn who_starts_on_a_volume_waits_for_its_limit() {
    let (none, some) = (
        pods("{}", "{}"),
        pods(r#"{ "size": 4194304 }"#, r#"{ "size": 1048576 }"#),
    );
    let mut host = host(&none);
    host.pods.clear();
    let (plan, _) = next(&some, &none, &host);
    let is_limit = |step: &Step| matches!(step, Step::LimitVolume { .. });
    let start = plan
        .steps
        .iter()
        .find(|one| matches!(one.step, Step::StartContainer { .. }))
        .expect("a start");
    let limits = start
        .after
        .iter()
        .filter(|id| is_limit(&plan.steps[**id].step));
    assert_eq!(limits.count(), 2);
    // One that is not there begins with it, and needs no step.
    host.data.counted.clear();
    let (plan, _) = next(&some, &none, &host);
    assert!(
        plan.steps
            .iter()
            .all(|one| !is_limit(&one.step) && one.class != Class::InPlace)
    );
    apply(&plan, &mut host);
    assert!(next(&some, &none, &host).0.is_empty());
}

#[test]
fn what_has_more_in_it_or_is_held_by_nothing_is_said() {
    let some = pods(r#"{ "size": 4194304 }"#, r#"{ "size": 1048576 }"#);
    let mut host = host(&some);
    let said = |host: &Observed| -> Vec<String> {
        let (plan, report) = next(&some, &some, host);
        assert!(plan.is_empty());
        assert!(
            report
                .unmet
                .iter()
                .all(|one| one.pod() == &Name::new("db").expect("a name"))
        );
        report.unmet.iter().map(ToString::to_string).collect()
    };
    assert!(said(&host).is_empty());
    for found in host.data.counted.values_mut() {
        found.used = 4_194_304;
    }
    let over = "has more in it than its `size`: nothing can be written to it until it has less, and nothing of it is lost";
    assert_eq!(said(&host), [format!("the volume up {over}")]);
    for found in host.data.counted.values_mut() {
        (found.used, found.used_inodes) = (0, 2_000);
    }
    assert_eq!(
        said(&host),
        [
            format!("the volume db/data {over}"),
            format!("the volume up {over}")
        ]
    );
    for found in host.data.counted.values_mut() {
        (found.held, found.project) = (false, None);
    }
    let unheld = |volume: &str| {
        format!(
            "nothing holds the volume {volume} to its `size`: its file system is no longer mounted with project quotas (`tank doctor`)"
        )
    };
    assert_eq!(said(&host), [unheld("db/data"), unheld("up")]);
}

/// The limit is no part of what a container is, and what it starts with says it.
#[test]
fn a_container_keeps_its_hash_and_starts_with_the_limit() {
    let (none, some) = (pods("{}", "{}"), pods(r#"{ "size": 4194304 }"#, "{}"));
    let hash = |inputs: &Inputs| {
        let (db, app) = (
            Name::new("db").expect("a name"),
            Name::new("app").expect("a name"),
        );
        inputs.graph.process(&db, &app).map(|(_, hash)| hash)
    };
    assert_eq!(hash(&none), hash(&some));
    assert_ne!(none.graph.root(), some.graph.root());
    assert_eq!(some.graph.config().pods, {
        let again = inputs(&some.graph.config());
        again.graph.config().pods
    });
    let (plan, _) = plan(&some.target(), &Observed::default());
    let text = serde_json::to_string(&plan).expect("encodes");
    assert!(
        text.contains(r#""quota":{"project":1413545984,"bytes":4194304,"inodes":1024}"#),
        "{text}"
    );
}
