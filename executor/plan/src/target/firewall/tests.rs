use super::{
    routed::{OUTPUT, PREROUTING},
    *,
};
use crate::model::inputs;
use tank_model::Name;

fn table(pod: &str) -> Option<Table> {
    let config = format!(r#"{{"pods":{{"web":{pod}}}}}"#);
    inputs(&serde_json::from_str(&config).expect("a configuration"))
        .target()
        .firewall(&HostNetwork::default())
}

fn published(publish: &str) -> Table {
    let pod = format!(r#"{{"containers":{{"app":{{"image":"x"}}}},"publish":{publish}}}"#);
    table(&pod).expect("a table")
}

#[test]
fn there_is_a_table_where_a_pod_is_on_the_bridge() {
    for (network, there) in [("bridge", true), ("host", false), ("none", false)] {
        let pod = format!(r#"{{"containers":{{}},"network":"{network}"}}"#);
        assert_eq!(table(&pod).is_some(), there, "{network}");
    }
}

/// The maps that lead to port 8080, each with the keys that do, as it is written.
fn leading(table: &Table) -> Vec<(String, Vec<Value>)> {
    let leads = |set: &Set| -> Vec<(String, Vec<Value>)> {
        let elements = set.elements.iter();
        elements
            .filter(|element| element.last() == Some(&Value::Port(8080)))
            .map(|element| (set.name.clone(), element[..set.key.len()].to_vec()))
            .collect()
    };
    table.sets.iter().flat_map(leads).collect()
}

#[test]
fn a_port_is_in_the_map_of_its_address() {
    let at = |address: &str| {
        leading(&published(&format!(
            r#"{{"p":{{"port":80,"to":8080,"address":"{address}"}}}}"#
        )))
    };
    let port = [Value::Protocol(6), Value::Port(80)];
    let of = |map: &str, address: &[[u8; 4]]| {
        let address = address.iter().map(|octets| Value::V4((*octets).into()));
        vec![(map.to_owned(), address.chain(port.clone()).collect())]
    };
    assert_eq!(at("127.0.0.1"), of("loopback4", &[[127, 0, 0, 1]]));
    assert_eq!(at("127.9.9.9"), of("loopback4", &[[127, 9, 9, 9]]));
    assert_eq!(at("0.0.0.0"), of("any4", &[]));
    assert_eq!(at("10.1.2.3"), of("ports4", &[[10, 1, 2, 3]]));
    assert_eq!(at("::1"), [], "the pods have no IPv6 addresses here");
}

#[test]
fn a_port_on_loopback_is_for_the_host_itself() {
    let table = published(r#"{"p":{"port":80}}"#);
    let chains = |map: &str| -> Vec<&str> {
        let rules = table.rules.iter();
        let looks =
            |rule: &&Rule| matches!(&rule.action, Action::DnatMap { map: own, .. } if own == map);
        rules
            .filter(looks)
            .map(|rule| rule.chain.as_str())
            .collect()
    };
    assert_eq!(chains("loopback4"), [OUTPUT]);
    assert_eq!(chains("ports4"), [PREROUTING, OUTPUT]);
    assert_eq!(chains("any4"), [PREROUTING, OUTPUT]);
    let local = table.rules.iter().filter(|rule| {
        matches!(&rule.action, Action::DnatMap { map, .. } if map == "any4" || map == "ports4")
            == rule.matches.contains(&Match::DestinationLocal)
    });
    assert_eq!(
        local.count(),
        table.rules.len(),
        "addresses of the host, and no other's"
    );
}

#[test]
fn a_thousand_ports_are_as_many_rules_as_one() {
    let rules = |count: u16| {
        let ports = (0..count).map(|n| format!(r#""p{n}":{{"port":{}}}"#, 1000 + n));
        let table = published(&format!("{{{}}}", ports.collect::<Vec<_>>().join(",")));
        let elements = table.sets.iter().map(|set| set.elements.len());
        (table.rules.len(), elements.sum::<usize>())
    };
    let (one, thousand) = (rules(1), rules(1000));
    assert_eq!(one.0, thousand.0);
    assert_eq!(thousand.1 - one.1, 999);
}

#[test]
fn tables_are_compared_by_what_they_do() {
    let wanted = published(r#"{"p":{"port":80}}"#);
    let difference = |change: &dyn Fn(&mut Table)| {
        let mut found = wanted.clone();
        change(&mut found);
        let Difference { missing, unwanted } = Difference::of(&wanted, Some(&found));
        (missing, unwanted)
    };
    assert_eq!(difference(&|_| {}), (0, 0));
    assert_eq!(difference(&|found| found.rules[0].comment.clear()), (0, 0));
    assert_eq!(difference(&|found| found.chains.reverse()), (0, 0));
    assert_eq!(
        difference(&|found| found.rules.sort_by(|a, b| b.chain.cmp(&a.chain))),
        (0, 0)
    );
    assert_eq!(difference(&|found| found.rules.swap(0, 1)), (2, 2));
    assert_eq!(difference(&|found| drop(found.rules.pop())), (1, 0));
    let twice = |found: &mut Table| found.rules.push(found.rules[0].clone());
    assert_eq!(difference(&twice), (0, 1));
    assert_eq!(
        difference(&|found| found.rules[0].action = Action::Accept),
        (1, 1)
    );
    assert_eq!(difference(&|found| found.chains[0].priority += 1), (1, 1));
    assert_eq!(
        difference(&|found| found.others.push("set x".to_owned())),
        (0, 1)
    );
    let difference_of_sets = |change: &dyn Fn(&mut Set)| {
        difference(&|found| {
            change(
                found
                    .sets
                    .iter_mut()
                    .find(|set| set.name == "pods")
                    .expect("a set"),
            )
        })
    };
    assert_eq!(difference_of_sets(&|set| set.elements.clear()), (1, 0));
    let more = |set: &mut Set| {
        set.elements.insert(vec![Value::Group(7)]);
    };
    assert_eq!(difference_of_sets(&more), (0, 1));
    assert_eq!(
        difference_of_sets(&|set| {
            set.key.pop();
        }),
        (2, 2)
    );
    assert_eq!(difference(&|found| drop(found.sets.remove(0))), (2, 0));
    let sets = wanted.sets.iter().map(|set| 1 + set.elements.len());
    let none = Difference::of(&wanted, None);
    assert_eq!(
        (none.missing, none.unwanted),
        (
            wanted.chains.len() + wanted.rules.len() + sets.sum::<usize>(),
            0
        )
    );
}

/// The elements of a set, as they are written.
fn elements(table: &Table, name: &str) -> Vec<String> {
    let set = table.sets.iter().find(|set| set.name == name);
    let text = |value: &Value| match value {
        Value::V4(address) => address.to_string(),
        Value::V6(address) => address.to_string(),
        Value::Net4(net) => net.to_string(),
        Value::Net6(net) => net.to_string(),
        Value::Group(group) => format!("{group:x}"),
        other => format!("{other:?}"),
    };
    let elements = set.iter().flat_map(|set| &set.elements);
    elements
        .map(|element| element.iter().map(text).collect::<Vec<_>>().join(" "))
        .collect()
}

/// The inputs for pods on the bridge with these policies, on a host with both families.
fn policed(pods: &[(&str, &str)]) -> crate::Inputs {
    let pod = |(name, policy): &(&str, &str)| {
        format!(r#""{name}":{{"containers":{{"app":{{"image":"x"}}}}{policy}}}"#)
    };
    let pods: Vec<String> = pods.iter().map(pod).collect();
    let config = format!(r#"{{"pods":{{{}}}}}"#, pods.join(","));
    let mut inputs = inputs(&serde_json::from_str(&config).expect("a configuration"));
    inputs
        .host
        .networks
        .push("fd00::1/64".parse().expect("a network"));
    inputs
}

#[test]
fn policies_are_sets_that_follow_the_pods() {
    let inputs = policed(&[
        (
            "db",
            r#","allow_from":["web","10.0.0.0/8","10.1.0.0/16","2001:db8::/32"]"#,
        ),
        ("lone", r#","egress":"none""#),
        ("web", r#","egress":["db","internet"]"#),
    ]);
    let table = inputs
        .target()
        .firewall(&HostNetwork::default())
        .expect("a table");
    let address = |pod: &str, v4: bool| {
        let name = Name::new(pod).expect("a name");
        let own = inputs.target().addresses(&name);
        let own = own.iter().find(|own| own.addr().is_ipv4() == v4);
        own.expect("an address").addr().to_string()
    };
    let (db, web, lone) = (
        address("db", true),
        address("web", true),
        address("lone", true),
    );
    let (db6, web6) = (address("db", false), address("web", false));
    assert_eq!(elements(&table, "closed4"), std::slice::from_ref(&db));
    assert_eq!(
        elements(&table, "closed6").len(),
        2,
        "with that of the link"
    );
    // What is in another network of the list is not said twice: the kernel refuses that.
    let mut admitted = vec![format!("10.0.0.0/8 {db}/32")];
    if !web.starts_with("10.") {
        admitted.push(format!("{web}/32 {db}/32"));
    }
    assert_eq!(elements(&table, "admitted4"), admitted);
    let mut admitted = vec![
        format!("2001:db8::/32 {db6}/128"),
        format!("{web6}/128 {db6}/128"),
        // Itself, by what it publishes.
        format!("{db6}/128 {db6}/128"),
    ];
    admitted.sort();
    assert_eq!(
        elements(&table, "admitted6")
            .into_iter()
            .collect::<BTreeSet<_>>(),
        admitted.into_iter().collect()
    );
    let both: BTreeSet<String> = [lone.clone(), web.clone()].into();
    assert_eq!(
        elements(&table, "bound4")
            .into_iter()
            .collect::<BTreeSet<_>>(),
        both
    );
    assert_eq!(
        elements(&table, "bound6").len(),
        4,
        "with those of the link"
    );
    let allowed: BTreeSet<String> = [(&web, &db), (&web, &web), (&lone, &lone)]
        .map(|(from, to)| format!("{from}/32 {to}/32"))
        .into();
    assert_eq!(
        elements(&table, "allowed4")
            .into_iter()
            .collect::<BTreeSet<_>>(),
        allowed
    );
    assert_eq!(elements(&table, "internet4"), [web]);
    assert_eq!(elements(&table, "policed").len(), 3);
    assert_eq!(elements(&table, "policed_macs").len(), 3);
}

#[test]
fn without_a_policy_there_is_nothing_of_it() {
    let chains = |pods: &[(&str, &str)]| -> BTreeSet<String> {
        let table = policed(pods).target().firewall(&HostNetwork::default());
        let chains = table.expect("a table").chains.into_iter();
        chains.map(|chain| chain.name).collect()
    };
    let with = chains(&[("db", r#","allow_from":[]"#)]);
    let without = chains(&[("db", r#","allow_from":"all","egress":"all""#)]);
    let more: BTreeSet<&str> = with.difference(&without).map(String::as_str).collect();
    assert_eq!(more, ["between", "inward", "policy", "steering"].into());
}

#[test]
fn a_pod_on_its_way_out_keeps_its_policy() {
    let (before, after) = (
        policed(&[("db", r#","egress":"none""#), ("web", "")]),
        policed(&[("web", "")]),
    );
    let lease = before.leases[&Name::new("db").expect("a name")];
    let mut inputs = after;
    inputs.leases = before.leases.clone();
    let mut target = inputs.target();
    target.previous = Some(&before.graph);
    let host = HostNetwork::default();
    let bound = |table: Option<Table>| elements(&table.expect("a table"), "bound4").len();
    let going = Going {
        ports: [port_group(lease)].into(),
        ..Going::default()
    };
    assert_eq!(bound(target.firewall_with(&host, &going)), 1);
    assert_eq!(bound(target.firewall(&host)), 0);
}

/// Every address of the internet, and none that is not, by RFC 6890's list.
#[test]
fn the_internet_is_what_is_public() {
    let inputs = policed(&[("web", r#","egress":"internet""#)]);
    let table = inputs
        .target()
        .firewall(&HostNetwork::default())
        .expect("a table");
    let inner: Vec<IpNet> = elements(&table, "inner4")
        .iter()
        .map(|pair| {
            pair.split(' ')
                .nth(1)
                .expect("a network")
                .parse()
                .expect("a network")
        })
        .collect();
    let is_inner = |address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        inner.iter().any(|net| net.contains(&address))
    };
    for address in [
        "0.0.0.0",
        "10.255.255.255",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.31.0.1",
        "192.168.1.1",
        "224.0.0.251",
        "255.255.255.255",
    ] {
        assert!(is_inner(address), "{address}");
    }
    for address in [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.128.0.0",
        "172.32.0.0",
        "192.169.0.0",
        "223.255.255.255",
    ] {
        assert!(!is_inner(address), "{address}");
    }
}

/// A host with so many networks, every second one internal, and a pod on each; one is on all.
fn networked(count: usize) -> crate::Inputs {
    let name = |n: usize| format!("n{n}");
    let networks = (0..count).map(|n| (name(n), serde_json::json!({ "internal": n % 2 == 0 })));
    let networks: serde_json::Map<_, _> = networks.collect();
    let pod = |on: &[usize]| {
        let on = on.iter().map(|n| (name(*n), serde_json::json!({})));
        let on: serde_json::Map<_, _> = on.collect();
        serde_json::json!({ "containers": { "app": { "image": "x" } }, "networks": on })
    };
    let all: Vec<usize> = (0..count).collect();
    let pods = (0..count).map(|n| (format!("p{n}"), pod(&[n])));
    let mut pods: serde_json::Map<_, _> = pods.chain([("all".to_owned(), pod(&all))]).collect();
    pods["p0"]["egress"] = serde_json::json!("internet");
    let config = serde_json::json!({ "networks": networks, "pods": pods });
    let mut inputs = inputs(&serde_json::from_value(config).expect("a configuration"));
    let six = "fd74:616e:6b01::/48".parse().expect("a network");
    inputs.host.pools.push(six);
    inputs
}

#[test]
fn networks_are_elements_and_no_rules() {
    let table = |count| networked(count).target().firewall(&HostNetwork::default());
    let (two, many) = (table(2).expect("a table"), table(16).expect("a table"));
    assert_eq!(two.rules, many.rules);
    let names = |table: &Table| -> BTreeSet<String> {
        table.sets.iter().map(|set| set.name.clone()).collect()
    };
    assert_eq!(names(&two), names(&many));
    assert_eq!(elements(&many, "bridges").len(), 16);
    assert_eq!(elements(&many, "internal").len(), 8);
    assert_eq!(elements(&many, "gateways4").len(), 16);
    assert_eq!(elements(&many, "gateways6").len(), 16);
    // What `p0` may is the same at each of its addresses, and what is no internet has no end of networks:
    // those of the pods are in one of the three that have no place there.
    assert_eq!(elements(&many, "inner6").len(), 3);
}

/// What a pod of an internal network sends is looked at before what belongs to a connection passes.
#[test]
fn nothing_passes_before_internal_networks_are_apart() {
    let table = networked(2).target().firewall(&HostNetwork::default());
    let table = table.expect("a table");
    let forward = table.rules.iter().filter(|rule| rule.chain == "forward");
    let actions: Vec<&Action> = forward.map(|rule| &rule.action).collect();
    let (drop, accept) = (&Action::Drop, &Action::Accept);
    let expected = [drop, drop, drop, accept, accept, drop];
    assert_eq!(actions[..6], expected);
    let isolation = table.rules.iter().filter(|rule| rule.chain == "isolation");
    let isolation: Vec<&Rule> = isolation.collect();
    let last = isolation.last().expect("rules");
    assert_eq!((&last.action, last.matches.len()), (&Action::Drop, 1));
    let states = isolation.iter().flat_map(|rule| &rule.matches);
    assert!(
        !states
            .into_iter()
            .any(|one| matches!(one, Match::ConnState { .. })),
        "one that a pod has opened is established, too"
    );
}

/// An error passes that a pod sends about a connection of which it is an end, by each of its addresses.
#[test]
fn errors_of_pods_are_about_their_own_connections() {
    let target = networked(2);
    let table = target.target().firewall(&HostNetwork::default());
    let table = table.expect("a table");
    let errors = table.rules.iter().filter(|rule| rule.chain == "errors");
    let errors: Vec<&Rule> = errors.collect();
    assert_eq!(errors.len(), 4);
    assert!(errors.iter().all(|rule| rule.action == Action::Drop));
    for (name, is_v4) in [("ends4", true), ("ends6", false)] {
        let set = table.sets.iter().find(|set| set.name == name);
        let found = set.expect("a set").elements.clone();
        let pods = target
            .graph
            .pods()
            .flat_map(|pod| target.target().addresses(pod));
        let own = pods
            .map(|own| own.addr())
            .filter(|own| own.is_ipv4() == is_v4);
        let twice = own.map(|own| vec![Value::from(own), Value::from(own)]);
        let twice: BTreeSet<Vec<Value>> = twice.collect();
        assert!(!twice.is_empty());
        assert_eq!(found, twice);
    }
}

/// A port of the host's leads to a pod's address on a network that is not internal.
#[test]
fn published_ports_lead_into_no_internal_network() {
    let mut config: serde_json::Value =
        serde_json::to_value(networked(3).graph.config()).expect("a configuration");
    for pod in ["all", "p0"] {
        config["pods"][pod]["publish"] = serde_json::json!({ "p": { "port": 80, "to": 8080 } });
    }
    let inputs = inputs(&serde_json::from_value(config).expect("a configuration"));
    let table = inputs.target().firewall(&HostNetwork::default());
    let led: Vec<_> = leading(&table.expect("a table"));
    let all = Name::new("all").expect("a name");
    let second = inputs.target().places(&all)[1].addresses.clone();
    let second = second.first().expect("an address").addr();
    let targets: Vec<Value> = {
        let table = inputs.target().firewall(&HostNetwork::default());
        let sets = table.expect("a table").sets;
        let maps = sets.into_iter().filter(|set| set.name == "loopback4");
        let elements = maps.flat_map(|set| set.elements);
        elements.map(|element| element[3].clone()).collect()
    };
    assert_eq!((led.len(), targets), (1, vec![Value::from(second)]));
}

/// A bridge that no declared pod needs is apart until it is gone.
#[test]
fn a_bridge_on_its_way_out_is_internal() {
    let inputs = policed(&[("web", "")]);
    let going = Going {
        bridges: ["tank-012345678".to_owned()].into(),
        ..Going::default()
    };
    let table = inputs
        .target()
        .firewall_with(&HostNetwork::default(), &going);
    let table = table.expect("a table");
    let names = |set: &str| -> usize {
        let set = table.sets.iter().find(|one| one.name == set);
        set.map_or(0, |set| set.elements.len())
    };
    assert_eq!(
        (names("bridges"), names("internal"), names("gateways4")),
        (2, 1, 1)
    );
}
