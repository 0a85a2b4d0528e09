//! What somebody runs by hand in a pod, on a model host: it is started once, kept, and in nobody's way.

use tank_model::{Digest, Name};
use tank_plan::{
    Dump, Inputs, Observed, Plan, RunByHand, Step, WaitsFor, model, observed::State, plan,
};

fn name(text: &str) -> Name {
    Name::of_pod(text).expect("a name")
}

struct World {
    inputs: Inputs,
    host: Observed,
}

impl World {
    /// `web` needs `db`; `job` runs once.
    fn new() -> Self {
        let config = serde_json::json!({ "pods": {
            "db": { "containers": { "app": { "image": "db" } } },
            "web": { "containers": { "app": { "image": "web" } }, "depends_on": { "db": "ready" } },
            "job": { "containers": { "app": { "image": "job" } }, "restart": "never" },
        } });
        let config = serde_json::from_value(config).expect("a configuration");
        let host = Observed {
            now: 1_000_000,
            ..Observed::default()
        };
        let inputs = model::inputs(&config);
        Self { inputs, host }
    }

    fn plan(&mut self) -> Plan {
        self.inputs.previous = Some(self.inputs.graph.clone());
        let planned = plan(&self.inputs.target(), &self.host);
        let dump = Dump::of(&self.inputs.target(), &self.host);
        let text = serde_json::to_string(&dump).expect("a dump");
        let read: Dump = serde_json::from_str(&text).expect("a dump");
        assert_eq!(read.plan(), planned);
        planned.0
    }

    fn steps(&mut self) -> Vec<String> {
        let plan = self.plan();
        let steps = plan.steps.iter();
        steps.map(|planned| planned.step.to_string()).collect()
    }

    fn converge(&mut self) {
        for _ in 0..20 {
            let plan = self.plan();
            if plan.is_empty() {
                return;
            }
            self.host.now += 10;
            model::apply(&plan, &mut self.host);
        }
        panic!("it does not converge");
    }

    fn run(&mut self, pod: &str, container: &str) {
        let spec = self.inputs.target().container(&name(pod), &name("app"));
        let run = RunByHand {
            uid: 1000,
            time: 7,
            hash: Digest::of(b"a run"),
            spec: Box::new(spec.expect("a specification")),
            started: false,
            own: None,
        };
        self.inputs.runs.insert(name(pod), name(container), run);
    }

    /// What the daemon notes once it has the shim start it.
    fn started(&mut self, pod: &str, container: &str) {
        let run = self.inputs.runs.get_mut(&name(pod), &name(container));
        run.expect("a run").started = true;
    }

    fn is_there(&self, pod: &str, container: &str) -> bool {
        let pod = &self.host.pods[&name(pod)];
        pod.containers.contains_key(&name(container))
    }
}

#[test]
fn a_run_is_started_once_and_kept_while_it_is_wanted() {
    let mut world = World::new();
    world.converge();
    world.run("web", "run-1");
    let plan = world.plan();
    let [planned] = plan.steps.as_slice() else {
        panic!("{plan:?}")
    };
    assert!(
        matches!(&planned.step, Step::StartContainer { container, .. } if *container == name("run-1"))
    );
    assert!(!planned.drift);
    assert_eq!(planned.why.to_string(), "uid 1000 runs it by hand");
    model::apply(&plan, &mut world.host);
    world.started("web", "run-1");
    assert_eq!(world.steps(), [""; 0]);
    assert!(world.is_there("web", "run-1"));

    // Ended, it goes, and is not started again, as a declared one would be.
    let pod = world.host.pods.get_mut(&name("web")).expect("web");
    let run = pod.containers.get_mut(&name("run-1")).expect("a run");
    run.state = State::Exited {
        status: 3,
        at: 1_000_100,
    };
    world.converge();
    assert!(!world.is_there("web", "run-1"));
    assert_eq!(world.steps(), [""; 0]);
    world.inputs.runs.remove(&name("web"), &name("run-1"));
    assert_eq!(world.steps(), [""; 0]);
}

#[test]
fn a_run_that_nobody_wants_any_more_is_ended() {
    let mut world = World::new();
    world.converge();
    world.run("job", "run-1");
    world.converge_started("job", "run-1");
    // As after another daemon was started, which knows of none.
    world.inputs.runs.remove(&name("job"), &name("run-1"));
    world.converge();
    assert!(!world.is_there("job", "run-1"));
    assert!(world.is_there("job", "app"));
}

#[test]
fn a_run_goes_with_its_pod_and_does_not_come_back() {
    let mut world = World::new();
    world.converge();
    world.run("web", "run-1");
    world.converge_started("web", "run-1");
    // Its pod is another one.
    world.host.pods.remove(&name("web"));
    world.converge();
    assert!(world.is_there("web", "app"));
    assert!(!world.is_there("web", "run-1"));
}

#[test]
fn a_run_waits_for_what_its_pod_waits_for_and_keeps_nobody_waiting() {
    let mut world = World::new();
    world.run("web", "run-1");
    world.run("db", "run-2");
    let planned = plan(&world.inputs.target(), &world.host);
    let waits = planned.1.waiting.iter();
    let waits: Vec<_> = waits.filter(|one| one.container == name("run-1")).collect();
    assert!(matches!(waits.as_slice(), [one] if matches!(one.why, WaitsFor::Dependency { .. })));
    let starts = planned.0.steps.iter();
    let mut starts = starts.filter(|planned| matches!(planned.step, Step::StartContainer { .. }));
    assert!(starts.any(|planned| planned.step.container() == Some(&name("run-2"))));
    // `web` needs `db` to be ready: what is run beside it is not asked.
    model::apply(&planned.0, &mut world.host);
    world.started("db", "run-2");
    let pod = world.host.pods.get_mut(&name("db")).expect("db");
    pod.containers.remove(&name("run-2"));
    world.converge();
    assert!(world.is_there("web", "app") && world.is_there("web", "run-1"));
}

impl World {
    fn converge_started(&mut self, pod: &str, container: &str) {
        let plan = self.plan();
        model::apply(&plan, &mut self.host);
        self.started(pod, container);
        self.converge();
        assert!(self.is_there(pod, container));
    }
}

#[test]
fn a_run_in_a_pod_of_its_own_is_started_once_and_goes_with_its_pod() {
    let mut world = World::new();
    world.converge();
    let declared = world.inputs.graph.clone();
    let spec = world.inputs.target().container(&name("web"), &name("app"));
    let own = serde_json::json!({ "containers": {}, "restart": "never" });
    let run = RunByHand {
        uid: 1000,
        time: 7,
        hash: Digest::of(b"a run"),
        spec: Box::new(spec.expect("a specification")),
        started: false,
        own: Some(serde_json::from_value(own).expect("a pod")),
    };
    let (pod, taken) = (name("run-1"), name("web"));
    world
        .inputs
        .runs
        .insert(pod.clone(), pod.clone(), run.clone());
    // A pod that is declared by that name is what is declared.
    world.inputs.runs.insert(
        taken.clone(),
        name("run-2"),
        RunByHand {
            started: true,
            ..run
        },
    );
    let runs = world.inputs.runs.clone();
    let whole = runs.beside(&declared, |_| true).expect("a pod more");
    assert_eq!(whole.pods().count(), declared.pods().count() + 1);
    assert_eq!(whole.containers(&taken).count(), 1);
    assert!(runs.beside(&declared, |run| run.started).is_none());

    world.inputs.graph = whole;
    world.inputs.leases.insert(pod.clone(), 77);
    world.inputs.runs.remove(&taken, &name("run-2"));
    let steps = world.steps();
    let own: Vec<&String> = steps.iter().filter(|step| step.contains("run-1")).collect();
    assert!(own.iter().any(|step| step.contains("start")), "{steps:?}");
    let plan = world.plan();
    model::apply(&plan, &mut world.host);
    world.started("run-1", "run-1");
    world.converge();
    assert!(world.is_there("run-1", "run-1"));
    // Its pod is killed: it does not come back.
    world.host.pods.remove(&pod);
    world.converge();
    assert!(!world.is_there("run-1", "run-1"));
    // It is over: the pod goes.
    world.inputs.runs.remove(&pod, &pod);
    world.inputs.graph = declared;
    world.converge();
    assert!(!world.host.pods.contains_key(&pod));
}

#[test]
fn what_goes_is_said_to_have_ended_and_who_did_something_by_name() {
    let mut world = World::new();
    world.converge();
    let reasons = |world: &mut World| -> Vec<String> {
        let plan = world.plan();
        let steps = plan.steps.iter();
        steps
            .map(|planned| format!("{}: {}, {}", planned.step, planned.why, planned.drift))
            .collect()
    };
    for (run, why) in [
        ("run-0123abcd", "its run by hand has ended"),
        // No run is called so.
        ("run-it", "it is no longer declared"),
    ] {
        world.run("job", run);
        world.converge_started("job", run);
        world.inputs.runs.remove(&name("job"), &name(run));
        let expected = [
            format!("stop job/{run}: {why}, false"),
            format!("sweep what is left of job/{run}: {why}, false"),
        ];
        assert_eq!(reasons(&mut world), expected);
        world.converge();
    }
    for (pod, is_run) in [
        ("run-0123abcd", true),
        ("run-0123ABCD", false),
        ("run-0123abcde", false),
    ] {
        let Ok(pod) = Name::new(pod) else { continue };
        assert_eq!(tank_plan::runs::is_name(&pod), is_run, "{pod}");
    }
    let why = tank_plan::why::Why::RunByHand { uid: 1000 };
    assert_eq!(why.to_string(), "uid 1000 runs it by hand");
    assert_eq!(
        why.text(|uid| format!("anna{uid}")),
        "anna1000 runs it by hand"
    );
    let declared = tank_plan::why::Why::Declared;
    assert_eq!(declared.text(|_| panic!("nobody")), "it is declared");
}
