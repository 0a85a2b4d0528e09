//! What holds for every graph and every host, tried on a host made of data.

#[path = "properties/addresses.rs"]
mod addresses;
#[path = "properties/world.rs"]
mod world;

use proptest::prelude::*;
use std::{collections::BTreeSet, net::IpAddr};
use tank_model::{Digest, Name};
use tank_plan::{
    Observed, Plan, PlannedStep, Report, Step,
    model::{apply, apply_step},
    observed::{HostNetwork, State},
    target::firewall::{Difference, Value},
};
use world::{World, configs, guards_host_links, has_guard, leads, meddle, meddling, new_host};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

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
        let guarded = |host: &Observed| host.bridges.is_empty() || has_guard(host);
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
            let all = |is: fn(&Step) -> bool| -> Vec<usize> {
                let steps = plan.steps.iter().enumerate();
                steps.filter(|(_, planned)| is(&planned.step)).map(|(id, _)| id).collect()
            };
            let ensured = find(|step| matches!(step, Step::EnsureFirewall { .. }));
            // What only takes away who is gone comes after that.
            let ensured = ensured.filter(|id| plan.steps[*id].after.is_empty());
            let waits = |later: usize, earlier: usize| plan.steps[later].after.contains(&earlier);
            for bridge in all(|step| matches!(step, Step::EnsureBridge { .. })) {
                prop_assert!(ensured.is_none_or(|rules| waits(bridge, rules)));
            }
            for bridge in all(|step| matches!(step, Step::RemoveBridge { .. })) {
                let gone = find(|step| *step == Step::RemoveFirewall);
                prop_assert!(gone.is_none_or(|rules| waits(rules, bridge)));
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
            host.network.host_links.is_empty() || host.firewall.as_ref().is_some_and(guards_host_links)
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
            let PlannedStep { step, after, .. } = &plan.steps[rules];
            let guards = matches!(step, Step::EnsureFirewall { table } if guards_host_links(table));
            prop_assert!(guards || gone.iter().all(|link| after.iter().any(|before| before >= link)));
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

    /// A pod is another one on each of its networks: by its port, its hardware address and its addresses, none
    /// of which another one has, and a port may send as itself alone.
    #[test]
    fn a_port_sends_as_one_pod_on_one_network(config in configs()) {
        let world = World::new(&config);
        let target = world.target(None);
        let places: Vec<_> = world.graph().pods().flat_map(|pod| target.places(pod)).collect();
        let distinct = |count: usize| count == places.len();
        prop_assert!(distinct(places.iter().map(|place| place.group).collect::<BTreeSet<_>>().len()));
        prop_assert!(distinct(places.iter().map(|place| place.mac).collect::<BTreeSet<_>>().len()));
        let all = places.iter().flat_map(|place| &place.addresses);
        let (count, addresses) = (all.clone().count(), all.map(|own| own.addr()).collect::<BTreeSet<_>>());
        prop_assert_eq!(addresses.len(), count);
        let table = target.firewall(&HostNetwork::default()).unwrap_or_default();
        for place in &places {
            let own = Value::Group(place.group);
            let sets = table.sets.iter().filter(|set| set.name.starts_with("senders"));
            let elements = sets.flat_map(|set| &set.elements).filter(|element| element[0] == own);
            let mut found = BTreeSet::new();
            for element in elements {
                prop_assert_eq!(&element[1], &Value::Mac(place.mac));
                found.insert(element[2].clone());
            }
            let wanted: BTreeSet<Value> = place.addresses.iter().map(|own| Value::from(own.addr())).collect();
            let more: Vec<&Value> = found.difference(&wanted).collect();
            prop_assert!(found.is_superset(&wanted) && more.len() == 1, "with that of the link: {more:?}");
        }
        // And nothing enters or leaves a network that is internal.
        let internal = target.networks().into_iter().filter(|network| network.internal);
        let internal: BTreeSet<Vec<Value>> = internal.map(|network| vec![Value::Interface(network.bridge)]).collect();
        let listed = table.sets.iter().find(|set| set.name == "internal");
        prop_assert_eq!(listed.map(|set| set.elements.clone()).unwrap_or_default(), internal);
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

    /// Whatever else a change does: a published port goes from a pod that runs to one that is ready, and
    /// to no other.
    #[test]
    fn a_port_goes_to_nobody_who_is_not_ready(first in configs(), second in configs(), unready in any::<bool>()) {
        let (one, two) = (World::new(&first), World::new(&second));
        let mut host = new_host();
        one.converge(&mut host);
        let target = two.target(None);
        let bridged = || two.graph().pods().filter(|pod| target.is_bridged(pod));
        let owner = |address: IpAddr| bridged().find(|pod| target.addresses(pod).iter().any(|own| own.addr() == address));
        for round in 0..20 {
            let (plan, report) = two.plan(Some(&one), &host);
            let before = leads(host.firewall.as_ref());
            for table in plan.steps.iter().filter_map(|planned| match &planned.step {
                Step::EnsureFirewall { table } => Some(table),
                _ => None,
            }) {
                for (port, to) in leads(Some(table)) {
                    let (from, to) = (before.get(&port).and_then(|from| owner(*from)), owner(to));
                    let (Some(from), Some(to)) = (from.filter(|from| Some(*from) != to), to) else { continue };
                    let found = |pod: &Name| host.pods.get(pod).cloned().unwrap_or_default();
                    let runs = found(from).containers.values().any(|run| matches!(run.state, State::Running { .. }));
                    let names: Vec<&Name> = two.graph().containers(to).map(|(name, ..)| name).collect();
                    prop_assert!(!runs || found(to).ready(names), "{port:?} goes from {from} to {to}");
                }
            }
            // Nobody is told of a port that leads where it should.
            for held in &report.ports {
                prop_assert!(held.from != held.to && !held.ports.is_empty());
            }
            apply(&plan, &mut host);
            if unready && round < 3 {
                let runs = host.pods.values_mut().flat_map(|pod| pod.containers.values_mut());
                runs.filter_map(|run| run.verdict_mut()).for_each(|verdict| verdict.ready = false);
            }
            if round == 3 {
                let runs = host.pods.values_mut().flat_map(|pod| pod.containers.values_mut());
                runs.filter_map(|run| run.verdict_mut()).for_each(|verdict| verdict.ready = true);
            }
        }
        two.converge(&mut host);
        two.satisfied_by(&host);
    }
}
