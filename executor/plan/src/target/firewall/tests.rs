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
        matches!(&rule.action, Action::DnatMap { map, .. } if map == "any4")
            == rule.matches.contains(&Match::DestinationLocal)
    });
    assert_eq!(
        local.count(),
        table.rules.len(),
        "every address of the host, and no other"
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
    let difference_of_sets =
        |change: &dyn Fn(&mut Set)| difference(&|found| change(&mut found.sets[5]));
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
    assert_eq!(difference(&|found| drop(found.sets.remove(3))), (2, 0));
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
    // What is in another network of the list is not said twice: the kernel refuses that.
    let mut admitted = vec![format!("10.0.0.0/8 {db}/32")];
    if !web.starts_with("10.") {
        admitted.push(format!("{web}/32 {db}/32"));
    }
    assert_eq!(elements(&table, "admitted4"), admitted);
    let mut admitted = vec![
        format!("2001:db8::/32 {db6}/128"),
        format!("{web6}/128 {db6}/128"),
    ];
    admitted.sort();
    assert_eq!(
        elements(&table, "admitted6")
            .into_iter()
            .collect::<BTreeSet<_>>(),
        admitted.into_iter().collect()
    );
    let both: BTreeSet<String> = [lone, web.clone()].into();
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
    assert_eq!(elements(&table, "allowed4"), [format!("{web}/32 {db}/32")]);
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
    assert_eq!(bound(target.firewall_with(&host, &[lease].into())), 1);
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
