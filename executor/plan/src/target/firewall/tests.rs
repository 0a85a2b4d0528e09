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

#[test]
fn a_port_on_loopback_is_for_the_host_itself() {
    let chains = |address: &str| -> Vec<(String, Match)> {
        let table = published(&format!(
            r#"{{"p":{{"port":80,"to":8080,"address":"{address}"}}}}"#
        ));
        let rules = table.rules.into_iter();
        rules
            .filter(|rule| matches!(rule.action, Action::Dnat(to) if to.port() == 8080))
            .map(|rule| (rule.chain, rule.matches[1].clone()))
            .collect()
    };
    let at = |net: &str| Match::Destination {
        net: net.parse().expect("a network"),
        is: true,
    };
    let own = |chain: &str, at: Match| (chain.to_owned(), at);
    assert_eq!(chains("127.0.0.1"), [own(OUTPUT, at("127.0.0.1/32"))]);
    assert_eq!(
        chains("0.0.0.0"),
        [PREROUTING, OUTPUT].map(|chain| own(chain, Match::DestinationLocal))
    );
    assert_eq!(
        chains("10.1.2.3"),
        [PREROUTING, OUTPUT].map(|chain| own(chain, at("10.1.2.3/32")))
    );
    assert_eq!(chains("::1"), [], "the pods have no IPv6 addresses here");
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
        |change: &dyn Fn(&mut Set)| difference(&|found| change(&mut found.sets[1]));
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
