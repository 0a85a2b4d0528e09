use super::{
    routed::{OUTPUT, PREROUTING},
    *,
};
use crate::model::inputs;

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
    assert_eq!(difference(&|found| found.rules.rotate_left(3)), (0, 0));
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
        |change: &dyn Fn(&mut Set)| difference(&|found| change(&mut found.sets[4]));
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
