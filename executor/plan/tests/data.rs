//! The data of volumes, planned: when a snapshot is taken, when one is brought back, and what ends for it.

use std::collections::BTreeSet;
use tank_model::{Config, Digest, Name};
use tank_plan::{
    Inputs, Observed, Plan, Report, RunByHand, Step, Target,
    model::{apply, inputs},
    observed::{State, VolumeData},
    plan,
};

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// A database and a container beside it that writes to the same volume, one that reads it, and one that
/// has nothing to do with it.
fn pods(database: &str, side: &str, volume: &str) -> Inputs {
    let mount = |read_only: bool| serde_json::json!({ "data": { "volume": "data", "path": "/d", "read_only": read_only } });
    let volume: serde_json::Value = serde_json::from_str(volume).expect("a volume");
    let config: Config = serde_json::from_value(serde_json::json!({ "pods": { "db": {
        "volumes": { "data": volume },
        "containers": {
            "app": { "image": database, "mounts": mount(false) },
            "other": { "image": "other" },
            "reads": { "image": "reads", "mounts": mount(true) },
            "side": { "image": side, "mounts": mount(false) },
        },
    } } }))
    .expect("a configuration");
    inputs(&config)
}

/// A host that runs this, as its first generation, where files can share what they have.
fn host_of(first: &Inputs) -> Observed {
    let mut host = Observed::default();
    host.data.reflinks = true;
    let (begin, _) = plan(&first.target(), &host);
    apply(&begin, &mut host);
    assert!(plan(&first.target(), &host).0.is_empty());
    host.data.left = Some(1);
    host
}

fn next(inputs: &Inputs, before: &Inputs, host: &Observed) -> (Plan, Report) {
    let target = Target {
        previous: Some(&before.graph),
        ..inputs.target()
    };
    plan(&target, host)
}

fn texts(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter();
    steps.map(|planned| planned.step.to_string()).collect()
}

/// The steps that one comes after, in words, those that they come after among them.
fn before(plan: &Plan, text: &str) -> BTreeSet<String> {
    let at = texts(plan).iter().position(|step| step == text);
    let mut open = vec![at.expect("the step")];
    let mut all = BTreeSet::new();
    while let Some(id) = open.pop() {
        for before in &plan.steps[id].after {
            all.insert(plan.steps[*before].step.to_string());
            open.push(*before);
        }
    }
    all
}

#[test]
fn a_snapshot_is_taken_between_the_ends_of_those_that_write_and_the_starts() {
    let (first, second) = (pods("one", "side", "{}"), pods("two", "side", "{}"));
    let mut host = host_of(&first);
    let (plan, report) = next(&second, &first, &host);
    let snapshot = "snapshot db/data, kept with generation 1";
    assert_eq!(
        texts(&plan),
        [
            "stop db/app",
            "stop db/side",
            snapshot,
            "start db/app",
            "start db/side"
        ]
    );
    assert_eq!(
        before(&plan, snapshot),
        BTreeSet::from(["stop db/app".to_owned(), "stop db/side".to_owned()])
    );
    for start in ["start db/app", "start db/side"] {
        assert!(before(&plan, start).contains(snapshot));
    }
    assert!(report.unmet.is_empty());
    let why: Vec<String> = plan.steps.iter().map(|one| one.why.to_string()).collect();
    assert_eq!(why[1], "nothing may have its volume data mounted meanwhile");
    assert_eq!(why[2], "another image is about to write to it");
    apply(&plan, &mut host);
    assert!(next(&second, &first, &host).0.is_empty());
    // What ends and starts again is no other image, whenever that is.
    let pod = host.pods.get_mut(&name("db")).expect("a pod");
    let run = pod.containers.get_mut(&name("app")).expect("a container");
    run.state = State::Exited { status: 1, at: 0 };
    host.now = 1_000_000;
    let (again, _) = next(&second, &second, &host);
    assert_eq!(texts(&again), ["start db/app"]);
    // Nor where what was kept has been removed since.
    host.data.left = None;
    assert_eq!(texts(&next(&second, &second, &host).0), ["start db/app"]);
    let data = host.data.volumes.get_mut(&name("db")).expect("volumes");
    data.get_mut(&name("data")).expect("a volume").kept = false;
    host.data.left = Some(1);
    assert_eq!(texts(&next(&second, &second, &host).0), ["start db/app"]);
}

/// A command that somebody runs beside them, on the same volume.
fn run(inputs: &mut Inputs, of: &str, started: bool) {
    let spec = inputs.target().container(&name("db"), &name(of));
    let run = RunByHand {
        uid: 1000,
        time: 7,
        hash: Digest::of(b"a run"),
        spec: Box::new(spec.expect("a specification")),
        started,
        own: None,
    };
    inputs.runs.insert(name("db"), name("run-1"), run);
}

#[test]
fn what_is_run_by_hand_is_not_on_a_volume_that_has_to_rest() {
    let (mut first, mut second) = (pods("one", "side", "{}"), pods("two", "side", "{}"));
    let mut host = host_of(&first);
    run(&mut first, "app", false);
    let (begins, _) = next(&first, &first, &host);
    assert_eq!(texts(&begins), ["start db/run-1"]);
    apply(&begins, &mut host);
    run(&mut second, "app", true);
    let (plan, _) = next(&second, &first, &host);
    let (snapshot, stop) = ("snapshot db/data, kept with generation 1", "stop db/run-1");
    assert!(before(&plan, snapshot).contains(stop), "{:?}", texts(&plan));
    apply(&plan, &mut host);
    let (sweep, _) = next(&second, &second, &host);
    apply(&sweep, &mut host);
    assert!(next(&second, &second, &host).0.is_empty());

    // One that reads goes on while a snapshot is taken, and ends before another volume is in its place.
    run(&mut second, "reads", false);
    let (begins, _) = next(&second, &second, &host);
    apply(&begins, &mut host);
    let mut third = pods("three", "side", "{}");
    run(&mut third, "reads", true);
    host.data.left = Some(2);
    let data = host.data.volumes.get_mut(&name("db")).expect("volumes");
    let data = data.get_mut(&name("data")).expect("a volume");
    data.kept = false;
    let mut wanted = host.clone();
    let (plan, _) = next(&third, &second, &host);
    assert!(
        !texts(&plan).contains(&stop.to_owned()),
        "{:?}",
        texts(&plan)
    );
    let data = wanted.data.volumes.get_mut(&name("db")).expect("volumes");
    data.get_mut(&name("data")).expect("a volume").wanted = Some(1);
    let (plan, _) = next(&third, &second, &wanted);
    let steps = texts(&plan);
    let restore = steps
        .iter()
        .find(|step| step.starts_with("bring db/data back"));
    let restore = restore.expect("it is brought back");
    assert!(before(&plan, restore).contains(stop), "{steps:?}");

    // What is not started yet waits for it.
    let mut second = pods("two", "side", "{}");
    run(&mut second, "app", false);
    let host = host_of(&pods("one", "side", "{}"));
    let (plan, _) = next(&second, &pods("one", "side", "{}"), &host);
    let start = before(&plan, "start db/run-1");
    assert!(start.contains(snapshot), "{start:?}");
}

#[test]
fn cut_after_any_step_the_snapshot_is_taken_once_and_before_anything_starts() {
    let (first, second) = (pods("one", "side", "{}"), pods("two", "side", "{}"));
    let begin = host_of(&first);
    let (whole, _) = next(&second, &first, &begin);
    for cut in 0..=whole.steps.len() {
        let mut host = begin.clone();
        let mut done: Vec<Step> = Vec::new();
        for planned in whole.steps.iter().take(cut) {
            tank_plan::model::apply_step(&planned.step, &mut host);
            done.push(planned.step.clone());
        }
        let (rest, _) = next(&second, &first, &host);
        apply(&rest, &mut host);
        done.extend(rest.steps.into_iter().map(|planned| planned.step));
        assert!(next(&second, &first, &host).0.is_empty());
        let is_snapshot = |step: &Step| matches!(step, Step::SnapshotVolume { .. });
        let is_start = |step: &Step| matches!(step, Step::StartContainer { container, .. } if container.as_str() == "app");
        assert_eq!(
            done.iter().filter(|step| is_snapshot(step)).count(),
            1,
            "{cut}"
        );
        let at = |is: &dyn Fn(&Step) -> bool| done.iter().position(is);
        assert!(at(&is_snapshot) < at(&is_start), "{cut}");
    }
}

#[test]
fn who_only_reads_and_who_is_another_image_already_cause_none() {
    let (first, env) = (
        pods("one", "side", "{}"),
        pods("one", "side", r#"{ "mode": "0700" }"#),
    );
    let mut host = host_of(&first);
    let (plan, _) = next(&env, &first, &host);
    let snapshots = |plan: &Plan| {
        let steps = plan.steps.iter();
        steps
            .filter(|one| matches!(one.step, Step::SnapshotVolume { .. }))
            .count()
    };
    assert_eq!(snapshots(&plan), 0);
    apply(&plan, &mut host);
    // A container that was another one's image before has written with it.
    let swapped = pods("side", "one", "{}");
    host.data.left = Some(2);
    assert_eq!(snapshots(&next(&swapped, &env, &host).0), 0);
    // Where it is not wanted, or nothing was ever started with it by Tank.
    let never = pods("two", "side", r#"{ "snapshots": "never" }"#);
    assert_eq!(snapshots(&next(&never, &env, &host).0), 0);
    let second = pods("two", "side", "{}");
    assert_eq!(snapshots(&next(&second, &env, &host).0), 1);
    let data = host.data.volumes.get_mut(&name("db")).expect("volumes");
    data.get_mut(&name("data")).expect("a volume").images = None;
    assert_eq!(snapshots(&next(&second, &env, &host).0), 0);
}

#[test]
fn where_files_share_nothing_the_plan_says_what_is_missing() {
    let (first, second) = (pods("one", "side", "{}"), pods("two", "side", "{}"));
    let mut host = host_of(&first);
    host.data.reflinks = false;
    let (plan, report) = next(&second, &first, &host);
    assert_eq!(texts(&plan), ["stop db/app", "start db/app"]);
    let unmet: Vec<String> = report.unmet.iter().map(ToString::to_string).collect();
    assert_eq!(
        unmet,
        [
            "no snapshot of the volume data is taken, since its file system shares no bytes of files (XFS and btrfs do): \
             `tank generations rollback 1 --with-data` won't have what it has now"
        ]
    );
    apply(&plan, &mut host);
    let (plan, report) = next(&second, &first, &host);
    assert!(plan.is_empty() && report.unmet.is_empty());
}

#[test]
fn what_is_brought_back_has_nothing_of_it_mounted_and_comes_once() {
    let first = pods("one", "side", "{}");
    let mut host = host_of(&first);
    host.data.left = Some(7);
    let wanted = VolumeData {
        wanted: Some(3),
        images: Some(BTreeSet::from([Digest::of(b"one")])),
        ..VolumeData::default()
    };
    let volumes = host.data.volumes.entry(name("db")).or_default();
    volumes.insert(name("data"), wanted);
    // Nothing of what is declared is new.
    let (plan, _) = next(&first, &first, &host);
    let restore =
        "bring db/data back as generation 3 left it; what it has is kept with generation 7";
    assert_eq!(
        texts(&plan),
        [
            "stop db/app",
            "stop db/reads",
            "stop db/side",
            restore,
            "start db/app",
            "start db/reads",
            "start db/side"
        ]
    );
    let stops = ["stop db/app", "stop db/reads", "stop db/side"].map(str::to_owned);
    assert_eq!(before(&plan, restore), BTreeSet::from(stops));
    for start in ["start db/app", "start db/reads", "start db/side"] {
        assert!(before(&plan, start).contains(restore));
    }
    assert_ne!(
        plan.hash(first.graph.root()),
        Plan::default().hash(first.graph.root())
    );
    apply(&plan, &mut host);
    assert!(next(&first, &first, &host).0.is_empty());
}

/// A snapshot that was handed on is of what another generation left than the one that it is kept with.
#[test]
fn what_was_handed_on_is_called_by_the_generation_that_left_it() {
    let first = pods("one", "side", "{}");
    let mut host = host_of(&first);
    host.data.left = Some(7);
    let wanted = VolumeData {
        wanted: Some(3),
        origin: Some(5),
        images: Some(BTreeSet::from([Digest::of(b"one")])),
        ..VolumeData::default()
    };
    let volumes = host.data.volumes.entry(name("db")).or_default();
    volumes.insert(name("data"), wanted);
    let (plan, _) = next(&first, &first, &host);
    let step = plan.steps.iter().find_map(|planned| match planned.step {
        Step::RestoreVolume { from, .. } => Some((from, planned.step.to_string())),
        _ => None,
    });
    let text = "bring db/data back as generation 5 left it; what it has is kept with generation 7";
    assert_eq!(step, Some((3, text.to_owned())));
}

#[test]
fn what_was_imported_is_said_to_be_that() {
    let (first, second) = (pods("one", "side", "{}"), pods("two", "side", "{}"));
    let mut host = host_of(&first);
    let reason = |host: &Observed| {
        let (plan, _) = next(&second, &first, host);
        let mut steps = plan.steps.iter();
        let snapshot = steps.find(|planned| matches!(planned.step, Step::SnapshotVolume { .. }));
        snapshot.map(|planned| planned.why.to_string())
    };
    let another = "another image is about to write to it";
    assert_eq!(reason(&host).as_deref(), Some(another));
    let volumes = host.data.volumes.entry(name("db")).or_default();
    let imported = VolumeData {
        images: Some(BTreeSet::new()),
        imported: true,
        ..VolumeData::default()
    };
    volumes.insert(name("data"), imported);
    let imported = "it was imported, and nothing has written to it since";
    assert_eq!(reason(&host).as_deref(), Some(imported));
    // Whoever starts with it has written to it.
    let (plan, _) = next(&second, &first, &host);
    apply(&plan, &mut host);
    let data = host.data.of(&name("db"), &name("data"));
    assert!(data.is_some_and(|data| !data.imported));
}
