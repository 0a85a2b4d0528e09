//! An address is never at two pods, in whichever order independent steps are carried out, and wherever the
//! daemon dies on the way.

use super::world::{World, new_host};
use proptest::{prelude::*, sample::Index};
use std::{collections::BTreeMap, net::IpAddr};
use tank_model::{Config, Name};
use tank_plan::{
    Observed, Plan, Step,
    model::apply_step,
    observed::{Pod, Sandbox, Unresponsive},
    planner::SILENCE,
    why::WaitsFor,
};

const PODS: [&str; 4] = ["a", "b", "c", "d"];

/// Pods with addresses that somebody chose, each of which any of them may have: macvlans, ports of a
/// bridge of the host's, and pods on a network.
fn configs() -> impl Strategy<Value = Config> {
    let places = Just(vec![11, 12, 13, 14]).prop_shuffle();
    let kinds = prop::collection::vec(0..5u8, PODS.len());
    (places, kinds).prop_map(|(places, kinds)| {
        let pods = PODS.iter().zip(kinds.iter().zip(&places));
        let pods = pods.filter(|(_, (kind, _))| **kind > 0);
        let pods: serde_json::Map<_, _> = pods.map(|(name, (kind, place))| {
            let mut pod = serde_json::json!({ "containers": { "app": { "image": "x" } } });
            match kind {
                1 | 2 => pod["network"] = serde_json::json!({ "nics": { "eth0": {
                    "mode": "macvlan", "parent": "eth0", "address": format!("10.77.0.{place}/24"),
                    "addresses": { "six": format!("fd77::{place}/64") },
                } } }),
                3 => pod["network"] = serde_json::json!({ "nics": { "eth0": {
                    "mode": "bridge", "parent": "br0", "address": format!("10.78.0.{place}/24"),
                } } }),
                _ => pod["networks"] = serde_json::json!({ "back": { "addresses": [format!("10.92.0.{place}")] } }),
            }
            ((*name).to_owned(), pod)
        }).collect();
        let networks = serde_json::json!({ "back": { "subnets": ["10.92.0.0/24"] } });
        serde_json::from_value(serde_json::json!({ "pods": pods, "networks": networks })).expect("a configuration")
    })
}

/// A world whose pods have the leases that they have in every one.
fn world(config: &Config) -> World {
    let mut world = World::new(config);
    let names = || PODS.map(|pod| Name::new(pod).expect("a name")).into_iter();
    world.0.leases = names().zip(2..).collect();
    for lease in world.0.networks.values_mut() {
        lease.pods = names().zip(2..).collect();
    }
    world
}

/// Whose each address is.
fn owners(host: &Observed) -> BTreeMap<IpAddr, Vec<&Name>> {
    let mut owners: BTreeMap<IpAddr, Vec<&Name>> = BTreeMap::new();
    for (pod, found) in &host.pods {
        let links = found.sandbox.iter().flat_map(|own| own.links.values());
        let nics = found.sandbox.iter().flat_map(|own| own.nics.values());
        let addresses = links.flat_map(|link| &link.addresses);
        for address in addresses.chain(nics.flat_map(|nic| &nic.addresses)) {
            owners.entry(address.addr()).or_default().push(pod);
        }
    }
    owners
}

fn nobody_shares(host: &Observed) -> Result<(), TestCaseError> {
    for (address, owners) in owners(host) {
        prop_assert!(owners.len() < 2, "{address} is at {owners:?}");
    }
    Ok(())
}

/// Carries out so many steps of a plan, each when those before it are done, and otherwise in any order.
fn carry_out(
    plan: &Plan,
    host: &mut Observed,
    order: &[Index],
    most: usize,
) -> Result<(), TestCaseError> {
    let mut done = vec![false; plan.steps.len()];
    for turn in 0..plan.steps.len().min(most) {
        let ready =
            |id: &usize| !done[*id] && plan.steps[*id].after.iter().all(|before| done[*before]);
        let ready: Vec<usize> = (0..plan.steps.len()).filter(ready).collect();
        prop_assert!(!ready.is_empty(), "nothing may begin: {:?}", plan.steps);
        let id = *order[turn % order.len()].get(&ready);
        done[id] = true;
        apply_step(&plan.steps[id].step, host);
        nobody_shares(host)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_address_is_never_at_two_pods(
        all in prop::collection::vec(configs(), 3), order in prop::collection::vec(any::<Index>(), 60), cut in 0..60usize,
    ) {
        let worlds: Vec<World> = all.iter().map(world).collect();
        let mut host = new_host();
        worlds[0].converge(&mut host);
        nobody_shares(&host)?;
        // The daemon dies on the way to the second, and the next one is given the third.
        let (plan, _) = worlds[1].plan(Some(&worlds[0]), &host);
        carry_out(&plan, &mut host, &order, cut)?;
        for _ in 0..20 {
            let (plan, report) = worlds[2].plan(Some(&worlds[1]), &host);
            if plan.is_empty() && report.is_settled() {
                break;
            }
            carry_out(&plan, &mut host, &order, usize::MAX)?;
        }
        worlds[2].satisfied_by(&host);
    }

    /// Of a pod whose shim does not answer nobody knows what it has.
    #[test]
    fn nor_at_one_of_which_nothing_is_known(
        first in configs(), second in configs(), order in prop::collection::vec(any::<Index>(), 60),
        whose in any::<Index>(), halted in any::<bool>(),
    ) {
        let (one, two) = (world(&first), world(&second));
        let mut host = new_host();
        one.converge(&mut host);
        let names: Vec<Name> = host.pods.keys().cloned().collect();
        prop_assume!(!names.is_empty());
        let silent = whose.get(&names).clone();
        let held: Vec<IpAddr> = owners(&host).into_iter().filter(|(_, of)| of.contains(&&silent)).map(|(own, _)| own).collect();
        let why = match halted {
            true => Unresponsive::Halted { since: host.now },
            false => Unresponsive::Silent { since: host.now },
        };
        let known = host.pods.insert(silent.clone(), Pod { unresponsive: Some(why), ..Pod::default() });
        for round in 0..20 {
            let (plan, report) = two.plan(Some(&one), &host);
            if round == 0 {
                for waiting in &report.waiting {
                    let WaitsFor::Address(owned) = &waiting.why else { continue };
                    prop_assert!(owned.pod == silent && waiting.pod != silent && !owned.addresses.is_empty());
                }
            }
            let mut done = vec![false; plan.steps.len()];
            for turn in 0..plan.steps.len() {
                let ready = |id: &usize| !done[*id] && plan.steps[*id].after.iter().all(|before| done[*before]);
                let ready: Vec<usize> = (0..plan.steps.len()).filter(ready).collect();
                prop_assert!(!ready.is_empty(), "nothing may begin: {:?}", plan.steps);
                let id = *order[turn % order.len()].get(&ready);
                done[id] = true;
                let step = &plan.steps[id].step;
                apply_step(step, &mut host);
                // It is what it was when it goes on.
                if let (Step::ResumeShim { .. }, Some(known)) = (step, &known) {
                    host.pods.insert(silent.clone(), known.clone());
                }
                nobody_shares(&host)?;
                let unknown = host.pods.get(&silent).is_some_and(|found| found.unresponsive.is_some());
                let owners = owners(&host);
                let taken = held.iter().find(|own| owners.contains_key(*own));
                prop_assert!(!unknown || taken.is_none(), "{taken:?} after {step}");
            }
            host.now += SILENCE;
        }
        two.satisfied_by(&host);
    }
}

/// A pod that goes, and to which somebody in it has added another one's address, keeps that one from
/// nothing, and nobody's flows end but those that were its own.
#[test]
fn a_pod_that_goes_has_what_it_was_given() {
    let config = |pods: &[(&str, u8)]| -> Config {
        let pod = |own: u8| {
            serde_json::json!({
                "containers": { "app": { "image": "x" } },
                "networks": { "back": { "addresses": [format!("10.92.0.{own}")] } },
                "publish": { "p": { "port": 5000 + u16::from(own), "address": "0.0.0.0", "protocol": "udp" } },
            })
        };
        let pods: serde_json::Map<_, _> = pods
            .iter()
            .map(|(name, own)| ((*name).to_owned(), pod(*own)))
            .collect();
        let networks = serde_json::json!({ "back": { "subnets": ["10.92.0.0/24"] } });
        serde_json::from_value(serde_json::json!({ "pods": pods, "networks": networks }))
            .expect("a configuration")
    };
    let one = world(&config(&[("a", 11), ("c", 13)]));
    let two = world(&config(&[("b", 12), ("c", 13)]));
    let mut host = new_host();
    one.converge(&mut host);
    let a = Name::new("a").expect("a name");
    let sandbox = host.pods.get_mut(&a).and_then(|pod| pod.sandbox.as_mut());
    let link = sandbox.and_then(|own| own.links.values_mut().next());
    let added = ["10.92.0.12/24", "10.92.0.13/24"]
        .map(|own| own.parse::<ipnet::IpNet>().expect("an address"));
    link.expect("its link").addresses.extend(added);
    let (plan, _) = two.plan(Some(&one), &host);
    let ends = plan.steps.iter().filter_map(|planned| match &planned.step {
        Step::EndFlows { flows, .. } => Some(flows.iter().map(|flows| flows.to)),
        _ => None,
    });
    let ends: Vec<IpAddr> = ends.flatten().collect();
    assert_eq!(ends, ["10.92.0.11".parse::<IpAddr>().expect("an address")]);
    let place = |text: &str| {
        let mut steps = plan.steps.iter();
        let place = steps.position(|planned| planned.step.to_string() == text);
        place.expect("it is planned")
    };
    let (connect, remove) = (place("connect pod b"), place("remove pod a"));
    assert!(!plan.steps[connect].after.contains(&remove));
}

/// What another pod adds to itself keeps nobody waiting: it is removed, and the rules let nobody use it.
#[test]
fn a_pod_that_takes_an_address_keeps_nobody_from_it() {
    let config = |b: bool| -> Config {
        let pod = |own: u8| {
            serde_json::json!({
                "containers": { "app": { "image": "x" } },
                "networks": { "back": { "addresses": [format!("10.92.0.{own}")] } },
            })
        };
        let mut pods = serde_json::json!({ "a": pod(11) });
        if b {
            pods["b"] = pod(12);
        }
        let networks = serde_json::json!({ "back": { "subnets": ["10.92.0.0/24"] } });
        serde_json::from_value(serde_json::json!({ "pods": pods, "networks": networks }))
            .expect("a configuration")
    };
    let (one, two) = (world(&config(false)), world(&config(true)));
    let mut host = new_host();
    one.converge(&mut host);
    let a = Name::new("a").expect("a name");
    let sandbox: &mut Sandbox = host
        .pods
        .get_mut(&a)
        .and_then(|pod| pod.sandbox.as_mut())
        .expect("it is there");
    let link = sandbox.links.values_mut().next().expect("its link");
    link.addresses
        .insert("10.92.0.12/24".parse().expect("an address"));
    let (plan, report) = two.plan(Some(&one), &host);
    assert!(report.is_settled(), "{report:?}");
    let connects: Vec<String> = plan
        .steps
        .iter()
        .map(|planned| planned.step.to_string())
        .collect();
    assert!(
        connects.contains(&"connect pod b".to_owned()),
        "{connects:?}"
    );
}
