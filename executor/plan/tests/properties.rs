//! What holds for every graph and every host, tried on a host made of data.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Config, Digest, Graph, Name};
use tank_plan::{
    Inputs, Observed, Plan, Report, Step, Target,
    model::{apply, apply_step, inputs},
    observed::{HostNetwork, Pod, Probed, Run, State, Unresponsive, Verdict},
    plan,
    planner::SILENCE,
    target::firewall::{Action, Difference},
};

/// The inputs of a host's target.
struct World(Inputs);

impl World {
    fn new(config: &Config) -> Self {
        Self(inputs(config))
    }

    fn graph(&self) -> &Graph {
        &self.0.graph
    }

    fn target<'a>(&'a self, previous: Option<&'a Graph>) -> Target<'a> {
        Target {
            previous,
            ..self.0.target()
        }
    }

    fn plan(&self, previous: Option<&World>, host: &Observed) -> (Plan, Report) {
        plan(&self.target(previous.map(World::graph)), host)
    }

    /// Plans and applies until nothing is left. Dependencies make several rounds, never more than
    /// there are pods.
    fn converge(&self, host: &mut Observed) {
        for _ in 0..20 {
            let (plan, report) = self.plan(None, host);
            if plan.is_empty() && report.is_settled() {
                return;
            }
            apply(&plan, host);
        }
        panic!("it does not converge: {:?}", self.plan(None, host));
    }

    fn satisfied_by(&self, host: &Observed) {
        let (graph, target) = (self.graph(), self.target(None));
        let declared: BTreeSet<&Name> = graph.pods().collect();
        assert_eq!(host.pods.keys().collect::<BTreeSet<_>>(), declared);
        for pod in declared {
            let found = &host.pods[pod];
            assert_eq!(
                found.sandbox.as_ref().map(|s| s.hash),
                graph.sandbox(pod).map(|(_, hash)| hash)
            );
            assert_eq!(
                found.sandbox.as_ref().and_then(|s| s.network.clone()),
                target.is_bridged(pod).then(|| target.addresses(pod))
            );
            let containers: BTreeMap<&Name, _> = graph
                .containers(pod)
                .map(|(name, _, hash)| (name, hash))
                .collect();
            let inits: BTreeMap<&Name, _> = graph
                .init(pod)
                .map(|(name, _, hash)| (name, hash))
                .collect();
            for (name, one) in &found.containers {
                match inits.get(name) {
                    Some(hash) => assert!(
                        one.hash == *hash && matches!(one.state, State::Exited { status: 0, .. })
                    ),
                    None => {
                        assert_eq!(Some(&one.hash), containers.get(name));
                        assert!(
                            matches!(one.state, State::Running { .. })
                                && !one.halted
                                && one.verdict().is_some_and(Verdict::is_live)
                        );
                        assert_eq!(one.files, Some(target.file_digests(pod, name)));
                    }
                }
            }
            assert!(found.unresponsive.is_none());
            assert!(
                found
                    .left_over
                    .iter()
                    .all(|name| graph.process(pod, name).is_some()),
                "{:?}",
                found.left_over
            );
            let there: BTreeSet<&Name> = found.containers.keys().collect();
            assert!(
                containers
                    .keys()
                    .chain(inits.keys())
                    .all(|name| there.contains(name)),
                "{pod}: {there:?}"
            );
        }
        assert_eq!(host.firewall, target.firewall(&host.network));
        assert_eq!(host.bridge.is_some(), target.needs_bridge());
        let served = host.names.as_ref().and_then(|found| found.zone);
        assert_eq!(served, target.zone(host).map(|zone| zone.digest()));
    }
}

/// Whether there is the rule without which a bridge is a way to the host's loopback.
fn has_guard(host: &Observed) -> bool {
    let rules = host.firewall.iter().flat_map(|table| &table.rules);
    rules
        .filter(|rule| rule.chain == "guard" && rule.action == Action::Drop)
        .count()
        >= 3
}

/// Configurations of up to five pods that depend only on those before them.
fn configs() -> impl Strategy<Value = Config> {
    let container = (0..3u8, 0..3u8, prop::option::of(1..5u32), 0..3u8);
    let containers = prop::collection::btree_map("[xyz]", container, 1..3);
    let inits = prop::collection::btree_map("[ij]", 0..3u8, 0..3);
    let pod = (
        containers,
        inits,
        0..3u8,
        any::<bool>(),
        0..3u8,
        any::<bool>(),
    );
    prop::collection::btree_map("[a-e]", pod, 0..5).prop_map(|pods| {
        let names: Vec<String> = pods.keys().cloned().collect();
        let pods: serde_json::Map<String, serde_json::Value> = pods
            .iter()
            .enumerate()
            .map(|(index, (name, (containers, inits, network, publish, label, depend)))| {
                let containers: serde_json::Map<String, serde_json::Value> = containers
                    .iter()
                    .map(|(name, (image, env, pids, text))| {
                        let mut spec = serde_json::json!({
                            "image": format!("image{image}"), "env": { "A": env.to_string() }, "limits": { "pids": pids },
                        });
                        if *text > 0 {
                            spec["files"] = serde_json::json!({ "/live": { "text": text.to_string(), "reload": "SIGHUP" } });
                        }
                        (name.clone(), spec)
                    })
                    .collect();
                let network = ["bridge", "host", "none"][usize::from(*network)];
                let inits: serde_json::Map<String, serde_json::Value> =
                    inits.iter().map(|(name, image)| (name.clone(), serde_json::json!({ "image": format!("i{image}") }))).collect();
                let mut pod = serde_json::json!({
                    "containers": containers, "init": inits, "network": network, "labels": { "l": label.to_string() },
                });
                if network == "bridge" && index % 2 == 0 {
                    pod["aliases"] = serde_json::json!({ "shared": {}, format!("alias{label}"): {} });
                    pod["dns"] = serde_json::json!({ "servers": { "a": format!("192.0.2.{label}") } });
                }
                if *publish && network == "bridge" {
                    pod["publish"] = serde_json::json!({ "p": { "port": 1000 + index } });
                }
                if let Some(before) = names.get(index.wrapping_sub(1)).filter(|_| *depend) {
                    pod["depends_on"] = serde_json::json!({ before: "ready" });
                }
                (name.clone(), pod)
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "pods": pods })).expect("a configuration")
    })
}

/// Things that happen to a host behind Tank's back.
#[derive(Clone, Debug)]
enum Meddling {
    KillContainers,
    LoseShims,
    LoseLinks,
    FlushRules,
    DeleteBridge,
    LoseNames,
    OutdateNames,
    ChangeLimits,
    Halt,
    FailProbes,
    EditFiles,
    StopShims,
    SilenceShims,
}

fn meddling() -> impl Strategy<Value = Meddling> {
    prop_oneof![
        Just(Meddling::KillContainers),
        Just(Meddling::LoseShims),
        Just(Meddling::LoseLinks),
        Just(Meddling::FlushRules),
        Just(Meddling::DeleteBridge),
        Just(Meddling::LoseNames),
        Just(Meddling::OutdateNames),
        Just(Meddling::ChangeLimits),
        Just(Meddling::Halt),
        Just(Meddling::FailProbes),
        Just(Meddling::EditFiles),
        Just(Meddling::StopShims),
        Just(Meddling::SilenceShims),
    ]
}

fn meddle(host: &mut Observed, what: &Meddling) {
    let now = host.now;
    for pod in host.pods.values_mut() {
        match what {
            Meddling::KillContainers => {
                for container in pod.containers.values_mut() {
                    if matches!(container.state, State::Running { .. }) {
                        container.state = State::Exited {
                            status: 137,
                            at: now,
                        };
                    }
                }
            }
            Meddling::LoseShims => {
                pod.sandbox = None;
                pod.containers.clear();
            }
            Meddling::LoseLinks => {
                if let Some(sandbox) = &mut pod.sandbox {
                    sandbox.network = None;
                }
            }
            Meddling::ChangeLimits => {
                for container in pod.containers.values_mut() {
                    container.limits.pids = None;
                }
            }
            Meddling::Halt => pod.containers.values_mut().for_each(|container| {
                container.halted = matches!(container.state, State::Running { .. });
            }),
            Meddling::FailProbes => {
                let running = pod.containers.values_mut().filter_map(Run::verdict_mut);
                running.for_each(|verdict| {
                    verdict.failed = Some(Probed::Liveness);
                    verdict.since = now;
                });
            }
            Meddling::EditFiles => {
                for files in pod
                    .containers
                    .values_mut()
                    .filter_map(|container| container.files.as_mut())
                {
                    files.insert("/etc/hosts".to_owned(), Digest::of(b"somebody's"));
                }
            }
            Meddling::StopShims => pod.unresponsive = Some(Unresponsive::Halted { since: now }),
            Meddling::SilenceShims => {
                *pod = Pod {
                    unresponsive: Some(Unresponsive::Silent {
                        since: now - SILENCE,
                    }),
                    ..Pod::default()
                };
            }
            Meddling::FlushRules
            | Meddling::DeleteBridge
            | Meddling::LoseNames
            | Meddling::OutdateNames => {}
        }
    }
    match what {
        Meddling::FlushRules => host.firewall = None,
        Meddling::LoseNames => host.names = None,
        Meddling::OutdateNames => {
            if let Some(names) = &mut host.names {
                names.current = false;
            }
        }
        Meddling::DeleteBridge => host.bridge = None,
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_that_is_carried_out_satisfies_and_planning_again_yields_nothing(first in configs(), second in configs()) {
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        for config in [&first, &second] {
            let world = World::new(config);
            world.converge(&mut host);
            world.satisfied_by(&host);
            let (plan, report) = world.plan(Some(&world), &host);
            prop_assert!(plan.is_empty() && report.is_settled());
        }
    }

    #[test]
    fn cut_after_any_step_it_still_converges(first in configs(), second in configs(), cut in 0..40usize) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        one.converge(&mut host);
        let (plan, _) = two.plan(Some(&one), &host);
        for planned in plan.steps.iter().take(cut) {
            apply_step(&planned.step, &mut host);
        }
        two.converge(&mut host);
        two.satisfied_by(&host);
    }

    #[test]
    fn whatever_is_done_to_the_host_is_repaired_as_drift(config in configs(), what in meddling()) {
        let world = World::new(&config);
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        world.converge(&mut host);
        host.now += 60_000;
        meddle(&mut host, &what);
        let (repair, _) = world.plan(Some(&world), &host);
        prop_assert!(repair.steps.iter().all(|step| step.drift), "{repair:?}");
        world.converge(&mut host);
        world.satisfied_by(&host);
    }

    #[test]
    fn steps_come_after_what_they_need(first in configs(), second in configs()) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        one.converge(&mut host);
        let (plan, _) = two.plan(Some(&one), &host);
        for (id, planned) in plan.steps.iter().enumerate() {
            prop_assert!(planned.after.iter().all(|before| *before < id), "no cycles, no step before its needs");
        }
    }

    /// With the bridge the host forwards and takes packets to 127.0.0.0/8 from pods; without it
    /// neither is of use.
    #[test]
    fn there_is_no_bridge_without_its_guard(first in configs(), second in configs(), what in prop::option::of(meddling())) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        let (fresh, _) = one.plan(None, &host);
        one.converge(&mut host);
        if let Some(what) = &what {
            meddle(&mut host, what);
        }
        let guarded = |host: &Observed| host.bridge.is_none() || has_guard(host);
        let begun_guarded = guarded(&host);
        let (second, _) = two.plan(Some(&one), &host);
        for planned in &second.steps {
            apply_step(&planned.step, &mut host);
            prop_assert!(guarded(&host) || !begun_guarded, "after {}", planned.step);
        }
        prop_assert!(guarded(&host));
        // Steps run side by side: what counts is who waits for whom.
        for plan in [&fresh, &second] {
            let find = |is: fn(&Step) -> bool| plan.steps.iter().position(|planned| is(&planned.step));
            let ensured = find(|step| matches!(step, Step::EnsureFirewall { .. }));
            // What only takes away who is gone comes after that.
            let ensured = ensured.filter(|id| plan.steps[*id].after.is_empty());
            let waits = |later: usize, earlier: usize| plan.steps[later].after.contains(&earlier);
            if let (Some(rules), Some(bridge)) = (ensured, find(|step| matches!(step, Step::EnsureBridge { .. }))) {
                prop_assert!(waits(bridge, rules));
            }
            if let (Some(rules), Some(bridge)) = (find(|step| *step == Step::RemoveFirewall), find(|step| matches!(step, Step::RemoveBridge { .. }))) {
                prop_assert!(waits(rules, bridge));
            }
            for (id, planned) in plan.steps.iter().enumerate() {
                if matches!(planned.step, Step::EnsureNetwork { .. }) {
                    prop_assert!(ensured.is_none_or(|rules| waits(id, rules)), "no pod before them");
                }
            }
        }
    }

    #[test]
    fn bystanders_are_not_disturbed(config in configs(), extra in configs()) {
        // Pods `a` to `e` run; others come beside them.
        let mut both = config.clone();
        for (name, pod) in &extra.pods {
            let mut pod = pod.clone();
            pod.depends_on.clear();
            pod.publish.clear();
            both.pods.insert(Name::new(format!("new-{name}")).expect("a name"), pod);
        }
        let (one, two) = (World::new(&config), World::new(&both));
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        one.converge(&mut host);
        let (plan, _) = two.plan(Some(&one), &host);
        let touched: Vec<&Step> = plan
            .steps
            .iter()
            .map(|planned| &planned.step)
            .filter(|step| step.pod().is_some_and(|pod| config.pods.contains_key(pod)))
            .collect();
        prop_assert!(touched.is_empty(), "{touched:?}");
    }

    #[test]
    fn who_depends_on_others_ends_before_them(first in configs(), second in configs()) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        one.converge(&mut host);
        let (plan, _) = two.plan(Some(&one), &host);
        let position = |wanted: &Name| plan.steps.iter().position(|planned| {
            matches!(&planned.step, Step::StopSandbox { pod } if pod == wanted)
        });
        for pod in one.graph().pods() {
            for other in one.graph().pod(pod).into_iter().flat_map(|node| node.depends_on.keys()) {
                let (Some(mine), Some(its)) = (position(pod), position(other)) else { continue };
                let first_stop = plan.steps.iter().position(|planned| {
                    matches!(&planned.step, Step::StopContainer { pod, .. } if pod == other)
                });
                // Not merely earlier in the list: what runs side by side has to wait as well.
                prop_assert!(mine < its && first_stop.is_none_or(|stop| plan.steps[stop].after.contains(&mine)));
            }
        }
    }

    #[test]
    fn steps_only_concern_what_is_declared_or_tanks_own(first in configs(), second in configs(), what in meddling()) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        one.converge(&mut host);
        meddle(&mut host, &what);
        let (plan, _) = two.plan(Some(&one), &host);
        for pod in plan.steps.iter().filter_map(|planned| planned.step.pod()) {
            prop_assert!(host.pods.contains_key(pod) || second.pods.contains_key(pod), "{pod}");
        }
    }

    #[test]
    fn containers_wait_for_what_runs_before_them(config in configs()) {
        let world = World::new(&config);
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        for _ in 0..20 {
            let (plan, _) = world.plan(None, &host);
            for planned in &plan.steps {
                let Step::StartContainer { pod, container, .. } = &planned.step else { continue };
                let ran = |name: &Name, hash: Digest| host.pods.get(pod).and_then(|found| found.current(name, hash))
                    .is_some_and(|found| matches!(found.state, State::Exited { status: 0, .. }));
                let before = world.graph().init(pod).take_while(|(name, ..)| *name != container);
                for (name, _, hash) in before {
                    prop_assert!(ran(name, hash), "{pod}/{container} starts before {name} has run");
                }
            }
            apply(&plan, &mut host);
        }
    }

    /// Whatever is planned is the same again, and has the same name; what is written down of it is
    /// read back.
    #[test]
    fn planning_the_same_twice_gives_the_same_hash(first in configs(), second in configs(), what in meddling()) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        one.converge(&mut host);
        meddle(&mut host, &what);
        let (plan, report) = two.plan(Some(&one), &host);
        let (again, _) = World::new(&second).plan(Some(&World::new(&first)), &host);
        let root = two.graph().root();
        prop_assert_eq!(plan.hash(root), again.hash(root));
        let text = serde_json::to_string(&(&host, &plan, &report)).expect("JSON");
        let read: (Observed, Plan, Report) = serde_json::from_str(&text).expect("what was written");
        prop_assert_eq!(read.1.hash(root), plan.hash(root));
        prop_assert_eq!(read, (host, plan, report));
    }

    /// A step is carried out from what was written of it, by somebody who knows nothing else.
    #[test]
    fn applying_needs_nothing_but_the_step(first in configs(), second in configs()) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = Observed { now: 1_000_000, ..Observed::default() };
        one.converge(&mut host);
        for _ in 0..20 {
            let (plan, _) = two.plan(Some(&one), &host);
            for planned in &plan.steps {
                let text = serde_json::to_string(&planned.step).expect("JSON");
                let step: Step = serde_json::from_str(&text).expect("a step");
                prop_assert_eq!(step.id(), planned.step.id());
                apply_step(&step, &mut host);
            }
        }
        two.satisfied_by(&host);
    }

    /// The actuator gets its tables from the planner, and the planner from a listing.
    #[test]
    fn a_table_is_as_far_from_another_as_the_other_from_it(first in configs(), second in configs()) {
        let table = |config| World::new(config).target(None).firewall(&HostNetwork::default()).unwrap_or_default();
        let (one, two) = (table(&first), table(&second));
        let (to, fro) = (Difference::of(&one, Some(&two)), Difference::of(&two, Some(&one)));
        prop_assert_eq!((to.missing, to.unwanted), (fro.unwanted, fro.missing));
        prop_assert_eq!(to.is_none(), one == two);
    }
}
