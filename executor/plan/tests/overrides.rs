//! What is stopped, started and restarted by hand, on a model host: what is planned for it, and when it ends.

use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Graph, Name, Scope};
use tank_plan::{
    Dump, Health, Inputs, Observed, Plan, Report, Step, WaitsFor, health, model,
    observed::{Probed, Run, State, Verdict},
    overrides::{Operation, Override, OverrideKind, Overrides, Request},
    plan,
};

fn name(text: &str) -> Name {
    Name::of_pod(text).expect("a name")
}

/// `web` needs `db`; `two` has two containers; `job` runs once, after something else; `blog:db` is of a stack.
fn config() -> serde_json::Value {
    serde_json::json!({ "pods": {
        "db": { "containers": { "app": { "image": "db" } }, "publish": { "sql": { "port": 5432 } } },
        "web": {
            "containers": { "app": { "image": "web" } },
            "publish": { "http": { "port": 8080, "to": 80 } },
            "depends_on": { "db": "ready" },
        },
        "two": {
            "containers": { "a": { "image": "a" }, "b": { "image": "b" } },
            "publish": { "p": { "port": 9000 } },
        },
        "job": {
            "containers": { "app": { "image": "job" } },
            "init": { "first": { "image": "first" } },
            "restart": "never",
        },
        "blog:db": { "containers": { "app": { "image": "db" } } },
    } })
}

struct World {
    inputs: Inputs,
    host: Observed,
}

impl World {
    fn of(config: serde_json::Value) -> Self {
        let config = serde_json::from_value(config).expect("a configuration");
        let host = Observed {
            now: 1_000_000,
            ..Observed::default()
        };
        let inputs = model::inputs(&config);
        let mut world = Self { inputs, host };
        world.converge();
        world
    }

    fn new() -> Self {
        Self::of(config())
    }

    fn plan(&mut self) -> (Plan, Report) {
        self.inputs.previous = Some(self.inputs.graph.clone());
        let planned = plan(&self.inputs.target(), &self.host);
        let dump = Dump::of(&self.inputs.target(), &self.host);
        let text = serde_json::to_string(&dump).expect("a dump");
        let read: Dump = serde_json::from_str(&text).expect("a dump");
        assert_eq!(read.plan(), planned);
        planned
    }

    /// Carries plans out until one is empty; the report of that one.
    fn converge(&mut self) -> Report {
        for _ in 0..20 {
            let (plan, report) = self.plan();
            if plan.is_empty() {
                return report;
            }
            self.host.now += 10;
            model::apply(&plan, &mut self.host);
        }
        panic!("it does not converge");
    }

    fn request(&mut self, operation: Operation, selected: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut all: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for text in selected {
            let (pod, container) = text.split_once('/').unwrap_or((text, ""));
            let pod = name(pod);
            let containers = self
                .inputs
                .graph
                .containers(&pod)
                .map(|(one, ..)| one.clone());
            let containers =
                containers.filter(|one| container.is_empty() || one.as_str() == container);
            all.entry(pod.clone()).or_default().extend(containers);
        }
        let request = Request {
            operation,
            timeout: None,
            uid: 1_000,
            time: 1_700_000_000_000,
        };
        let of = (&self.inputs.graph, &self.host);
        let made = self.inputs.overrides.requested(&request, &all, of);
        self.inputs.overrides = made.overrides;
        let texts = |set: BTreeSet<(Name, Name)>| {
            set.iter()
                .map(|(pod, one)| format!("{pod}/{one}"))
                .collect()
        };
        (texts(made.concerned), texts(made.unchanged))
    }

    fn running(&self) -> BTreeSet<String> {
        let pods = self.host.pods.iter();
        let runs = pods.flat_map(|(pod, found)| {
            found
                .containers
                .iter()
                .map(move |(one, run)| (pod, one, run))
        });
        let runs = runs.filter(|(.., run)| matches!(run.state, State::Running { .. }));
        runs.map(|(pod, one, _)| format!("{pod}/{one}")).collect()
    }

    fn run(&mut self, text: &str) -> &mut Run {
        let (pod, container) = text.split_once('/').expect("POD/CONTAINER");
        let pod = self.host.pods.get_mut(&name(pod)).expect("the pod");
        pod.containers
            .get_mut(&name(container))
            .expect("the container")
    }

    fn exit(&mut self, text: &str, status: i32, attempt: u32) {
        let at = self.host.now;
        let run = self.run(text);
        run.state = State::Exited { status, at };
        // It did not run for long.
        (run.attempt, run.started) = (attempt, at);
    }

    fn ports(&self) -> usize {
        let sets = self.host.firewall.iter().flat_map(|table| &table.sets);
        let maps = sets.filter(|set| !set.data.is_empty());
        maps.map(|set| set.elements.len()).sum()
    }

    fn answers(&self, pod: &str) -> usize {
        let zone = self.inputs.target().zone(&self.host).expect("a zone");
        zone.views[""].names[pod].len()
    }
}

const ALL: [&str; 6] = [
    "blog:db/app",
    "db/app",
    "job/app",
    "two/a",
    "two/b",
    "web/app",
];

fn but(left_out: &[&str]) -> BTreeSet<String> {
    let kept = ALL.iter().filter(|one| !left_out.contains(one));
    kept.map(|one| (*one).to_owned()).collect()
}

fn texts(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter();
    steps
        .map(|planned| format!("{}: {}", planned.step, planned.why))
        .collect()
}

#[test]
fn what_is_stopped_ends_and_stays_so_with_its_address_and_without_its_ports() {
    let mut world = World::new();
    assert_eq!(world.running(), but(&[]));
    let (ports, links) = (world.ports(), world.host.pods[&name("db")].sandbox.clone());
    assert!(world.answers("db") > 0);
    assert_eq!(
        world.request(Operation::Stop, &["db"]),
        (vec!["db/app".to_owned()], vec![])
    );
    let (steps, _) = world.plan();
    assert!(texts(&steps).contains(&"stop db/app: uid 1000 stopped it by hand".to_owned()));
    assert!(
        steps.steps.iter().all(|planned| !planned.drift),
        "{:?}",
        texts(&steps)
    );
    let report = world.converge();
    // Who depends on it runs on.
    assert_eq!(world.running(), but(&["db/app"]));
    assert!(report.is_settled(), "{report:?}");
    assert_eq!(report.stopped.len(), 1);
    assert_eq!(world.host.pods[&name("db")].sandbox, links);
    assert!(world.ports() < ports);
    assert_eq!(world.answers("db"), 0);
    // It is what was asked for.
    assert_eq!(
        world.request(Operation::Stop, &["db"]),
        (vec![], vec!["db/app".to_owned()])
    );
    world.request(Operation::Start, &["db"]);
    assert!(world.inputs.overrides.is_empty());
    assert!(world.converge().stopped.is_empty());
    assert_eq!((world.running(), world.ports()), (but(&[]), ports));
    assert_eq!(
        world.request(Operation::Start, &["db"]),
        (vec![], vec!["db/app".to_owned()])
    );
}

#[test]
fn one_container_of_two_is_stopped_and_the_ports_stay() {
    let mut world = World::new();
    let ports = world.ports();
    world.request(Operation::Stop, &["two/a"]);
    world.converge();
    assert_eq!((world.running(), world.ports()), (but(&["two/a"]), ports));
    world.request(Operation::Stop, &["two"]);
    world.converge();
    assert_eq!(world.running(), but(&["two/a", "two/b"]));
    assert!(world.ports() < ports);
    world.request(Operation::Start, &["two/b"]);
    world.converge();
    assert_eq!((world.running(), world.ports()), (but(&["two/a"]), ports));
}

#[test]
fn who_depends_on_others_ends_first_and_starts_last() {
    let mut world = World::new();
    let order = |plan: &Plan, begin: &str| -> Vec<String> {
        let of = |step: &Step| step.to_string();
        let steps = plan
            .steps
            .iter()
            .filter(|planned| of(&planned.step).starts_with(begin));
        steps.map(|planned| of(&planned.step)).collect()
    };
    for operation in [Operation::Restart, Operation::Stop] {
        world.request(operation, &["db", "web"]);
        let (steps, report) = world.plan();
        assert_eq!(order(&steps, "stop"), ["stop web/app", "stop db/app"]);
        let at = |text: &str| {
            steps
                .steps
                .iter()
                .position(|one| one.step.to_string() == text)
        };
        let (web, db) = (
            at("stop web/app").expect("a step"),
            at("stop db/app").expect("a step"),
        );
        assert!(steps.steps[db].after.contains(&web));
        if operation == Operation::Restart {
            // `web` waits for the `db` that is to come, not for the one that ends.
            assert_eq!(order(&steps, "start"), ["start db/app"]);
            assert_eq!(report.waiting[0].pod, name("web"));
        }
        world.converge();
    }
    assert_eq!(world.running(), but(&["db/app", "web/app"]));
}

#[test]
fn a_restart_is_one_other_run_and_counts_as_none() {
    let mut world = World::new();
    world.run("two/a").attempt = 4;
    let since = world.run("two/a").since;
    let other = world.run("two/b").since;
    world.request(Operation::Restart, &["two/a"]);
    let (steps, _) = world.plan();
    assert_eq!(
        texts(&steps),
        [
            "stop two/a: uid 1000 restarted it by hand",
            "start two/a: uid 1000 restarted it by hand"
        ]
    );
    // The daemon dies between the two: it starts.
    model::apply_step(&steps.steps[0].step, &mut world.host);
    world.host.now += 10;
    world.converge();
    let run = world.run("two/a");
    assert_eq!(run.attempt, 0);
    assert_ne!(run.since, since);
    assert_eq!(world.run("two/b").since, other);
    // It asks for nothing any more, and a crash is one as ever.
    world.exit("two/a", 1, 3);
    let (steps, report) = world.plan();
    assert!(steps.is_empty());
    assert!(matches!(
        report.waiting[0].why,
        WaitsFor::Restart { attempt: 4, .. }
    ));
}

#[test]
fn a_start_does_not_wait_for_the_next_try() {
    let mut world = World::new();
    for operation in [Operation::Start, Operation::Restart] {
        world.host.now += 1_000_000;
        world.exit("web/app", 1, 6);
        let (steps, report) = world.plan();
        assert!(steps.is_empty() && report.wake_at().is_some());
        assert_eq!(world.request(operation, &["web"]).0, ["web/app"]);
        world.converge();
        assert_eq!(
            (world.running(), world.run("web/app").attempt),
            (but(&[]), 0)
        );
    }
    // What crashes stays down when it is stopped, and starts at once when it is not any more.
    world.host.now += 1_000_000;
    world.exit("web/app", 1, 6);
    world.request(Operation::Stop, &["web"]);
    assert!(world.converge().is_settled());
    assert_eq!(world.running(), but(&["web/app"]));
    world.request(Operation::Start, &["web"]);
    world.converge();
    assert_eq!(
        (world.running(), world.run("web/app").attempt),
        (but(&[]), 0)
    );
}

#[test]
fn what_has_ended_for_good_runs_once_more() {
    let mut world = World::new();
    world.exit("job/app", 0, 0);
    assert!(world.converge().is_settled());
    world.host.now += 1_000;
    assert_eq!(world.request(Operation::Start, &["job"]).0, ["job/app"]);
    world.converge();
    assert_eq!(world.running(), but(&[]));
    world.exit("job/app", 0, 0);
    assert!(world.converge().is_settled());
    assert_eq!(world.running(), but(&["job/app"]));
}

#[test]
fn what_runs_before_the_containers_and_failed_is_tried_again() {
    let mut world = World::new();
    // As after the first pass of a new pod whose `first` failed for good.
    let pod = world.host.pods.get_mut(&name("job")).expect("the pod");
    pod.containers.remove(&name("app"));
    world.exit("job/first", 1, 0);
    let report = world.converge();
    assert!(matches!(report.waiting[0].why, WaitsFor::Init { .. }));
    world.host.now += 1_000;
    world.request(Operation::Start, &["job"]);
    world.converge();
    assert_eq!(world.running(), but(&[]));
}

#[test]
fn what_waits_for_a_stopped_pod_says_so_and_nobody_waits_for_it() {
    let mut world = World::new();
    world.request(Operation::Stop, &["db", "web"]);
    world.converge();
    world.request(Operation::Start, &["web"]);
    let report = world.converge();
    assert_eq!(world.running(), but(&["db/app", "web/app"]));
    assert_eq!(
        report.waiting[0].why.to_string(),
        "waits for db, which is stopped by hand (`tank start db`)"
    );
    let web = BTreeSet::from([name("web")]);
    let health = health::health(&world.inputs.graph, &web, &world.host, &report, 0);
    assert!(matches!(health, Health::Hopeless(why) if why.contains("`tank start db`")));
    // What is stopped itself is as it should be.
    let db = BTreeSet::from([name("db")]);
    let health = health::health(&world.inputs.graph, &db, &world.host, &report, 0);
    assert_eq!(health, Health::Good);
    let missing = health::not_running(
        &world.inputs.graph,
        |pod| *pod == name("db"),
        &world.host,
        &report,
    );
    assert!(missing.list.is_empty());
    world.request(Operation::Start, &["db"]);
    world.converge();
    assert_eq!(world.running(), but(&[]));
}

#[test]
fn what_runs_and_is_restarted_does_not_wait_for_what_is_not_restarted_with_it() {
    let mut world = World::new();
    let not_ready = |world: &mut World| {
        let now = world.host.now;
        let verdict = Verdict::unasked(false, now);
        world.run("db/app").state = State::Running { pid: 2, verdict };
    };
    for stopped in [true, false] {
        match stopped {
            true => {
                world.request(Operation::Stop, &["db"]);
                world.converge();
            }
            false => not_ready(&mut world),
        }
        let since = world.run("web/app").since;
        assert_eq!(world.request(Operation::Restart, &["web"]).0, ["web/app"]);
        let (steps, report) = world.plan();
        assert!(report.waiting.is_empty(), "{report:?}");
        let restart = [
            "stop web/app: uid 1000 restarted it by hand",
            "start web/app: uid 1000 restarted it by hand",
        ];
        assert!(texts(&steps).starts_with(&restart.map(str::to_owned)));
        // The daemon dies between the two, and somebody asks for it once more.
        model::apply_step(&steps.steps[0].step, &mut world.host);
        world.host.now += 10;
        world.request(Operation::Restart, &["web"]);
        world.converge();
        assert_ne!(world.run("web/app").since, since);
        world.request(Operation::Start, &["db"]);
        world.converge();
    }
    // A start of what is stopped waits, whatever it is called.
    for operation in [Operation::Start, Operation::Restart] {
        world.request(Operation::Stop, &["db", "web"]);
        world.converge();
        world.request(operation, &["web"]);
        assert!(matches!(
            world.converge().waiting[0].why,
            WaitsFor::Stopped { .. }
        ));
    }
}

#[test]
fn what_is_restarted_together_waits_for_that_and_for_nothing_else() {
    let mut config = config();
    config["pods"]["web"]["depends_on"] = serde_json::json!({ "db": "ready", "two": "ready" });
    let mut world = World::of(config);
    world.request(Operation::Stop, &["two"]);
    world.converge();
    world.request(Operation::Restart, &["db", "web"]);
    let (steps, report) = world.plan();
    let waits = |report: &Report| report.waiting[0].why.to_string();
    assert!(waits(&report).contains("db"), "{report:?}");
    world.host.now += 10;
    model::apply(&steps, &mut world.host);
    // The new `db` is there, and not ready: `web` waits for it, and no longer than that.
    let verdict = Verdict::unasked(false, world.host.now);
    world.run("db/app").state = State::Running { pid: 2, verdict };
    let report = world.converge();
    assert!(waits(&report).contains("db"), "{report:?}");
    let kept = world.host.clone();
    let verdict = Verdict::unasked(true, world.host.now);
    world.run("db/app").state = State::Running { pid: 2, verdict };
    world.converge();
    assert_eq!(world.running(), but(&["two/a", "two/b"]));
    // With a reboot in between it is a start as any other.
    world.host = kept;
    world.host.pods.clear();
    let report = world.converge();
    assert!(waits(&report).contains("`tank start two`"), "{report:?}");
}

#[test]
fn a_reboot_and_a_lost_shim_start_nothing_that_is_stopped() {
    let mut world = World::new();
    world.request(Operation::Stop, &["db", "two/a"]);
    world.converge();
    let stopped = world.inputs.overrides.clone();
    let found = world.host.pods.get_mut(&name("db")).expect("the pod");
    found.sandbox = None;
    found.containers.clear();
    assert!(world.converge().is_settled());
    assert!(!world.host.pods.contains_key(&name("db")));
    // A reboot; `web` needs `db`, and waits with everybody's reason.
    let text = serde_json::to_string(&stopped).expect("overrides");
    world.inputs.overrides = serde_json::from_str(&text).expect("overrides");
    assert_eq!(world.inputs.overrides, stopped);
    world.host = Observed {
        now: 5_000,
        ..Observed::default()
    };
    let report = world.converge();
    assert_eq!(world.running(), but(&["db/app", "two/a", "web/app"]));
    assert!(matches!(report.waiting[0].why, WaitsFor::Stopped { .. }));
    world.request(Operation::Start, &["db", "two"]);
    world.converge();
    assert_eq!(world.running(), but(&[]));
}

#[test]
fn a_restart_that_was_asked_for_before_a_reboot_is_over() {
    let mut world = World::new();
    world.request(Operation::Restart, &["db"]);
    world.host = Observed {
        now: 5_000,
        ..Observed::default()
    };
    world.converge();
    assert_eq!(world.running(), but(&[]));
}

fn stack(text: &str) -> Scope {
    Scope::Stack((!text.is_empty()).then(|| name(text)))
}

#[test]
fn the_next_change_of_the_pod_ends_it_and_no_other() {
    let mut world = World::new();
    world.request(Operation::Stop, &["db", "blog:db"]);
    world.converge();
    let before = world.inputs.overrides.clone();
    let graph = world.inputs.graph.clone();
    let of =
        |overrides: &Overrides, pod: &str| overrides.stopped(&name(pod), &name("app")).is_some();
    // Another stack's.
    let other = before.after_change(7, &stack("blog"), &graph);
    assert!(of(&other, "db") && !of(&other, "blog:db"));
    // Some pods'.
    let some = before.after_change(7, &Scope::Pods(BTreeSet::from([name("web")])), &graph);
    assert_eq!(some, before);
    // Its own: the plan says why it starts.
    world.inputs.overrides = before.after_change(7, &stack(""), &graph);
    let (steps, _) = world.plan();
    let all = texts(&steps);
    let start = "start db/app: uid 1000 stopped it by hand, which this change ends".to_owned();
    assert!(all.contains(&start), "{all:?}");
    assert!(steps.steps.iter().all(|planned| !planned.drift), "{all:?}");
    world.converge();
    assert_eq!(world.running(), but(&["blog:db/app"]));
    // It is put back: it stops again, as before the change.
    world.inputs.overrides = world.inputs.overrides.put_back(7);
    assert_eq!(world.inputs.overrides, before);
    world.converge();
    assert_eq!(world.running(), but(&["blog:db/app", "db/app"]));
    // What an earlier change ended is not brought back by another one.
    let ended = before.after_change(7, &Scope::Host, &graph);
    assert!(ended.put_back(8).is_empty() && ended.without_ended().is_empty());
    let later = ended.after_change(8, &stack("blog"), &graph);
    assert!(later.put_back(8).is_empty());
}

#[test]
fn it_goes_with_its_pod_and_comes_back_with_a_change_that_is_put_back() {
    let mut world = World::new();
    world.request(Operation::Stop, &["db", "web"]);
    world.converge();
    let before = world.inputs.overrides.clone();
    let all = world.inputs.graph.clone();
    let mut config = config();
    config["pods"].as_object_mut().expect("pods").remove("web");
    let config = serde_json::from_value(config).expect("a configuration");
    let without = model::inputs(&config);
    let gone = before.after_change(
        7,
        &Scope::Pods(BTreeSet::from([name("web")])),
        &without.graph,
    );
    assert!(gone.stopped(&name("db"), &name("app")).is_some());
    assert!(gone.stopped(&name("web"), &name("app")).is_none());
    assert_eq!(gone.put_back(7), before);
    // It is declared again later: it runs.
    let again = gone.after_change(8, &stack("blog"), &all);
    assert!(again.stopped(&name("web"), &name("app")).is_none());
    assert!(again.stopped(&name("db"), &name("app")).is_some());
}

#[test]
fn a_stop_that_was_asked_for_has_its_own_time() {
    let mut world = World::new();
    let graph: &Graph = &world.inputs.graph;
    let selected = BTreeMap::from([(name("db"), BTreeSet::from([name("app")]))]);
    let request = Request {
        operation: Operation::Stop,
        timeout: Some(1_500),
        uid: 0,
        time: 1,
    };
    let made = world
        .inputs
        .overrides
        .requested(&request, &selected, (graph, &world.host));
    let one = made.overrides.stopped(&name("db"), &name("app")).cloned();
    let expected = Override {
        kind: OverrideKind::Stopped,
        timeout: Some(1_500),
        uid: 0,
        time: 1,
        ended: None,
    };
    assert_eq!(one, Some(expected));
    world.inputs.overrides = made.overrides;
    let (steps, _) = world.plan();
    let timeout = steps.steps.iter().find_map(|planned| match &planned.step {
        Step::StopContainer { timeout, .. } => Some(*timeout),
        _ => None,
    });
    assert_eq!(timeout, Some(1_500));
}

#[test]
fn the_time_of_a_restart_is_that_of_the_run_that_ends() {
    let world = World::new();
    let (db, app) = (name("db"), name("app"));
    let run = world.host.pods[&db].containers[&app].clone();
    let selected = BTreeMap::from([(db.clone(), BTreeSet::from([app.clone()]))]);
    let request = Request {
        operation: Operation::Restart,
        timeout: Some(1_500),
        uid: 0,
        time: 1,
    };
    let (graph, host) = (&world.inputs.graph, &world.host);
    let made = world
        .inputs
        .overrides
        .requested(&request, &selected, (graph, host));
    let overrides = made.overrides;
    assert_eq!(overrides.timeout(&db, &app, &run), Some(1_500));
    let next = Run {
        since: run.since + 1,
        ..run
    };
    assert_eq!(overrides.timeout(&db, &app, &next), None);
    // Another stack's change leaves it as it is, one of its own ends it.
    let same = overrides.after_change(7, &stack("shop"), graph);
    assert!(overrides.agree(&same, &selected));
    let ended = overrides.after_change(7, &Scope::Host, graph);
    assert!(!overrides.agree(&ended, &selected));
}

#[test]
fn nothing_repairs_what_is_stopped_whatever_happens_to_it() {
    let mut world = World::new();
    world.request(Operation::Stop, &["two/a"]);
    world.converge();
    // Somebody flushes the rules, and the other container fails its probe.
    world.host.firewall = None;
    if let Some(verdict) = world.run("two/b").verdict_mut() {
        verdict.failed = Some(Probed::Liveness);
    }
    for _ in 0..3 {
        world.host.now += 600_000;
        world.converge();
        assert_eq!(world.running(), but(&["two/a"]));
    }
}

#[test]
fn cut_after_any_step_it_still_comes_to_the_same() {
    let operations = [Operation::Stop, Operation::Restart, Operation::Start];
    for (first, second) in operations
        .iter()
        .flat_map(|one| operations.map(|two| (*one, two)))
    {
        for cut in [1, 3, 4, 6] {
            let mut world = World::new();
            world.request(first, &["db", "web", "two"]);
            let (steps, _) = world.plan();
            world.host.now += 10;
            for planned in steps.steps.iter().take(cut) {
                model::apply_step(&planned.step, &mut world.host);
            }
            world.request(second, &["db", "web", "two"]);
            world.converge();
            let stopped: &[&str] = match second {
                Operation::Stop => &["db/app", "web/app", "two/a", "two/b"],
                Operation::Start | Operation::Restart => &[],
            };
            assert_eq!(world.running(), but(stopped), "{first:?} {second:?} {cut}");
        }
    }
}
