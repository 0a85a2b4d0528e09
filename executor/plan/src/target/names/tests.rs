use super::*;
use crate::{Inputs, model, planner};
use tank_model::{Config, Name};

fn inputs(pods: serde_json::Value) -> Inputs {
    let config: Result<Config, _> = serde_json::from_value(serde_json::json!({ "pods": pods }));
    model::inputs(&config.expect("a configuration"))
}

fn pod(more: serde_json::Value) -> serde_json::Value {
    let mut pod = serde_json::json!({ "containers": { "app": { "image": "x" } } });
    for (field, value) in more.as_object().into_iter().flatten() {
        pod[field] = value.clone();
    }
    pod
}

fn converged(inputs: &Inputs) -> Observed {
    let mut host = Observed::default();
    for _ in 0..3 {
        let (plan, _) = planner::plan(&inputs.target(), &host);
        model::apply(&plan, &mut host);
    }
    assert!(planner::plan(&inputs.target(), &host).0.is_empty());
    host
}

/// The addresses of a name, as texts.
fn answers(inputs: &Inputs, host: &Observed, name: &str) -> Option<Vec<String>> {
    let zone = inputs.target().zone(host).expect("a zone");
    let found = zone.views.get(NO_STACK)?.names.get(name)?;
    Some(found.iter().map(IpAddr::to_string).collect())
}

#[test]
fn a_name_of_one_is_answered_and_one_of_several_where_it_is_ready() {
    let alias = serde_json::json!({ "aliases": { "api": {} }, "hostname": "Host.Example" });
    let inputs = inputs(serde_json::json!({
        "a": pod(alias.clone()), "b": pod(serde_json::json!({ "aliases": { "api": {} } })),
        "c": pod(serde_json::json!({ "network": "host" })),
    }));
    // Nothing runs yet: the address is known all the same.
    let none = Observed::default();
    assert_eq!(
        answers(&inputs, &none, "a"),
        Some(vec!["10.90.0.2".to_owned()])
    );
    assert_eq!(
        answers(&inputs, &none, "host.example"),
        answers(&inputs, &none, "a")
    );
    assert_eq!(
        answers(&inputs, &none, "api"),
        Some(vec![]),
        "nobody is ready"
    );
    assert_eq!(
        answers(&inputs, &none, "c"),
        None,
        "it has no address of its own"
    );
    let mut host = converged(&inputs);
    assert_eq!(answers(&inputs, &host, "api").map(|all| all.len()), Some(2));
    // One is lost: the plan says so, and has no other step for it than its own.
    let b = Name::new("b").expect("a name");
    host.pods
        .get_mut(&b)
        .expect("it is there")
        .containers
        .clear();
    assert_eq!(
        answers(&inputs, &host, "api"),
        Some(vec!["10.90.0.2".to_owned()])
    );
    assert_eq!(
        answers(&inputs, &host, "b"),
        Some(vec!["10.90.0.3".to_owned()])
    );
}

#[test]
fn servers_of_the_host_or_of_ones_own_are_asked_and_never_the_server_itself() {
    let own = serde_json::json!({ "dns": { "servers": { "z": "192.0.2.1", "a": "192.0.2.2" } } });
    let mut inputs =
        inputs(serde_json::json!({ "own": pod(own), "web": pod(serde_json::json!({})) }));
    inputs.resolver.host =
        "nameserver 10.90.0.1\nnameserver 127.0.0.1\nnameserver 9.9.9.9\n".to_owned();
    let zone = inputs.target().zone(&Observed::default()).expect("a zone");
    let texts = |servers: &[IpAddr]| servers.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&zone.upstreams), ["127.0.0.1", "9.9.9.9"]);
    let client = |address: [u8; 4]| texts(&zone.clients[&IpAddr::from(address)].upstreams);
    assert_eq!(
        client([10, 90, 0, 2]),
        ["192.0.2.2", "192.0.2.1"],
        "in the order of their keys"
    );
    assert_eq!(client([10, 90, 0, 3]), Vec::<String>::new());
    // The host itself may ask.
    assert!(zone.clients.contains_key(&IpAddr::from([10, 90, 0, 1])));
}

#[test]
fn a_server_among_the_pods_is_asked_where_the_pod_reaches_it() {
    let config = |more: Option<(&str, IpAddr)>| {
        let mut pods = serde_json::json!({
            "open": pod(serde_json::json!({})),
            "closed": pod(serde_json::json!({ "allow_from": ["friend"] })),
            "inner": pod(serde_json::json!({ "networks": { "back": {} } })),
            "friend": pod(serde_json::json!({})),
            "other": pod(serde_json::json!({})),
            "bound": pod(serde_json::json!({ "egress": ["other", "192.0.2.0/24"] })),
        });
        if let Some((pod, server)) = more {
            pods[pod]["dns"] = serde_json::json!({ "servers": { "first": server } });
        }
        let config = serde_json::json!({ "networks": { "back": {} }, "pods": pods });
        model::inputs(&serde_json::from_value(config).expect("a configuration"))
    };
    let inputs = config(None);
    let address = |pod: &str| {
        let pod = Name::new(pod).expect("a name");
        let mut own = inputs.target().places(&pod).into_iter();
        let own = own.find_map(|place| place.addresses.first().map(IpNet::addr));
        own.expect("an address")
    };
    for (pod, server, asked) in [
        ("other", "open", true),
        ("friend", "closed", true),
        ("other", "closed", false),
        ("other", "inner", false),
        ("inner", "open", false),
        ("bound", "open", false),
        ("bound", "other", true),
    ] {
        let server = address(server);
        let mapped = match server {
            IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
            v6 => v6,
        };
        for written in [server, mapped] {
            let inputs = config(Some((pod, written)));
            let zone = inputs.target().zone(&Observed::default());
            let clients = zone.expect("a zone").clients;
            let upstreams = &clients[&address(pod)].upstreams;
            let expected = if asked { vec![server] } else { Vec::new() };
            assert_eq!(*upstreams, expected, "{pod} asks {server}");
        }
    }
}

#[test]
fn a_name_with_dots_is_for_its_own_stack() {
    let alias = serde_json::json!({ "aliases": { "www.bank": {}, "api": {} } });
    let inputs = inputs(serde_json::json!({ "com:web": pod(alias) }));
    let zone = inputs.target().zone(&Observed::default()).expect("a zone");
    let own: Vec<&str> = zone.views["com"].names.keys().map(String::as_str).collect();
    assert_eq!(own, ["api", "web", "www.bank"]);
    let shared: Vec<&str> = zone.shared.names.keys().map(String::as_str).collect();
    assert_eq!(shared, ["api.com", "web.com"]);
}

#[test]
fn nothing_is_served_where_no_pod_is_on_the_bridge() {
    let inputs =
        inputs(serde_json::json!({ "web": pod(serde_json::json!({ "network": "none" })) }));
    assert_eq!(inputs.target().zone(&Observed::default()), None);
}

#[test]
fn a_server_that_can_not_be_had_keeps_no_pod_down() {
    let inputs = inputs(serde_json::json!({ "web": pod(serde_json::json!({})) }));
    let mut host = Observed::default();
    let depends = |host: &Observed| {
        let (plan, _) = planner::plan(&inputs.target(), host);
        let place = |is: fn(&crate::Step) -> bool| plan.steps.iter().position(|one| is(&one.step));
        let names = place(|step| matches!(step, crate::Step::EnsureNames { .. })).expect("names");
        let link = place(|step| matches!(step, crate::Step::EnsureNetwork { .. })).expect("a link");
        (
            plan.steps[link].after.contains(&names),
            plan.steps[names].step.id(),
        )
    };
    let (before, step) = depends(&host);
    assert!(before, "its first query is answered");
    host.failures.push(crate::observed::FailedStep {
        step,
        count: 1,
        at: 0,
        why: "taken".to_owned(),
    });
    assert!(!depends(&host).0);
}

/// A host of pods on networks, by the networks' names and what the pods are there.
fn networked(pods: &[(&str, serde_json::Value)]) -> Inputs {
    let networks = serde_json::json!({ "back": { "internal": true }, "front": {}, "x:back": {} });
    let of = |(name, on): &(&str, serde_json::Value)| {
        (
            (*name).to_owned(),
            pod(serde_json::json!({ "networks": on })),
        )
    };
    let pods: serde_json::Map<_, _> = pods.iter().map(of).collect();
    let config = serde_json::json!({ "networks": networks, "pods": pods });
    model::inputs(&serde_json::from_value(config).expect("a configuration"))
}

#[test]
fn a_pod_is_seen_by_who_shares_a_network_at_its_address_there() {
    let both = serde_json::json!({ "back": { "aliases": { "database": {} } }, "front": {} });
    let inputs = networked(&[
        ("api", both),
        ("db", serde_json::json!({ "back": {} })),
        ("lone", serde_json::json!({})),
        ("web", serde_json::json!({ "front": {}, "default": {} })),
        ("x:db", serde_json::json!({ "x:back": {} })),
        ("x:web", serde_json::json!({ "x:back": {}, "front": {} })),
    ]);
    let target = inputs.target();
    let zone = target.zone(&Observed::default()).expect("a zone");
    let at = |pod: &str, place: usize| -> Vec<IpAddr> {
        let pod = Name::of_pod(pod).expect("a name");
        let place = target.places(&pod).into_iter().nth(place);
        let place = place.expect("it is there");
        place.addresses.iter().map(IpNet::addr).collect()
    };
    let sees = |pod: &str, name: &str| -> Option<Vec<IpAddr>> {
        let client = &zone.clients[&at(pod, 0)[0]];
        let own = zone.views[&client.view].names.get(name);
        let found = own.or_else(|| zone.shared.names.get(name).filter(|_| !client.apart));
        found.map(|found| found.iter().copied().collect())
    };
    // At the first network that both are on.
    assert_eq!(sees("db", "api"), Some(at("api", 0)));
    assert_eq!(sees("web", "api"), Some(at("api", 1)));
    assert_eq!(
        sees("api", "web"),
        Some(at("web", 1)),
        "`default` comes before `front`"
    );
    assert_eq!(sees("lone", "web"), Some(at("web", 0)));
    // An alias of a network is a name there.
    assert_eq!(sees("db", "database"), Some(at("api", 0)));
    assert_eq!(sees("web", "database"), None);
    // Nobody else is known, in one's own stack or in another.
    for (pod, unknown) in [
        ("db", "web"),
        ("db", "lone"),
        ("web", "db"),
        ("lone", "api"),
        ("lone", "db"),
    ] {
        assert_eq!(sees(pod, unknown), None, "{pod} {unknown}");
    }
    assert_eq!(sees("api", "db"), Some(at("db", 0)));
    assert_eq!(sees("x:web", "db"), Some(at("x:db", 0)), "of its own stack");
    assert_eq!(
        sees("x:web", "api"),
        None,
        "names of no stack are not its own"
    );
    assert_eq!(sees("api", "web.x"), Some(at("x:web", 0)));
    assert_eq!(sees("api", "db.x"), None, "it is on another network");
    assert_eq!(sees("lone", "web.x"), None);
    // So it is with addresses.
    let named = |pod: &str, address: IpAddr| {
        let client = &zone.clients[&at(pod, 0)[0]];
        zone.views[&client.view].reverse.get(&address).cloned()
    };
    assert_eq!(named("db", at("api", 0)[0]), Some("api".to_owned()));
    assert_eq!(named("db", at("api", 1)[0]), None);
    assert_eq!(named("web", at("api", 1)[0]), Some("api".to_owned()));
    // Who is on internal networks only has no way out, by whichever address it asks.
    let closed = |address: IpAddr| zone.clients[&address].closed;
    assert!(closed(at("db", 0)[0]));
    assert!(!closed(at("api", 0)[0]) && !closed(at("api", 1)[0]) && !closed(at("lone", 0)[0]));
    assert_eq!(zone.addresses.len(), 4, "of each network that pods are on");
}

#[test]
fn the_server_of_another_network_is_nobody_to_be_asked() {
    let own = serde_json::json!({ "dns": { "servers": { "a": "10.91.0.1", "b": "192.0.2.1" } } });
    let config = serde_json::json!({
        "networks": { "back": {} },
        "pods": { "db": pod(serde_json::json!({ "networks": { "back": {} } })), "web": pod(own) },
    });
    let inputs = model::inputs(&serde_json::from_value(config).expect("a configuration"));
    let zone = inputs.target().zone(&Observed::default()).expect("a zone");
    assert!(zone.addresses.contains(&IpAddr::from([10, 91, 0, 1])));
    let web = &zone.clients[&IpAddr::from([10, 90, 0, 3])];
    assert_eq!(web.upstreams, [IpAddr::from([192, 0, 2, 1])]);
}
