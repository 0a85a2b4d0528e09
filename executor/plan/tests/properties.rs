//! What holds for every graph and every host, tried on a host made of data.

#[path = "properties/world.rs"]
mod world;

use proptest::prelude::*;
use tank_model::{Digest, Name};
use tank_plan::{
    Observed, Plan, Report, Step,
    model::{apply, apply_step},
    observed::{HostNetwork, State},
    target::firewall::{Action, Difference},
};
use world::{World, configs, has_guard, is_of_host_links, meddle, meddling, new_host};

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_that_is_carried_out_satisfies_and_planning_again_yields_nothing(first in configs(), second in configs()) {
        let mut host = new_host();
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
        let mut host = new_host();
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
        let mut host = new_host();
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
        let mut host = new_host();
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
        let mut host = new_host();
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

    /// A host link is on somebody else's network.
    #[test]
    fn there_is_no_host_link_without_its_guard(first in configs(), second in configs(), what in prop::option::of(meddling())) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = new_host();
        one.converge(&mut host);
        if let Some(what) = &what {
            meddle(&mut host, what);
        }
        let guarded = |host: &Observed| {
            let rules = host.firewall.iter().flat_map(|table| &table.rules);
            let drops = rules.filter(|rule| rule.action == Action::Drop && rule.matches.first().is_some_and(is_of_host_links));
            host.network.host_links.is_empty() || drops.count() == 3
        };
        let begun_guarded = guarded(&host);
        let (plan, _) = two.plan(Some(&one), &host);
        for planned in &plan.steps {
            apply_step(&planned.step, &mut host);
            prop_assert!(guarded(&host) || !begun_guarded, "after {}", planned.step);
        }
        prop_assert!(guarded(&host));
        let find = |is: fn(&Step) -> bool| -> Vec<usize> {
            let steps = plan.steps.iter().enumerate();
            steps.filter(|(_, planned)| is(&planned.step)).map(|(id, _)| id).collect()
        };
        let tables = find(|step| matches!(step, Step::EnsureFirewall { .. } | Step::RemoveFirewall));
        let connected = find(|step| matches!(step, Step::EnsureHostLink { .. } | Step::EnsureNic { .. }));
        let gone = find(|step| matches!(step, Step::RemoveHostLink { .. }));
        for rules in tables {
            // The last of several only takes away who is gone.
            prop_assert!(connected.iter().all(|link| rules > *link || plan.steps[*link].after.contains(&rules)));
            let after = &plan.steps[rules].after;
            prop_assert!(gone.iter().all(|link| after.iter().any(|before| before >= link)));
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
        let mut host = new_host();
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
        let mut host = new_host();
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
        let mut host = new_host();
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
        let mut host = new_host();
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
        let mut host = new_host();
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
        let mut host = new_host();
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
