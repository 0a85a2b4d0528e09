use super::{
    decode::{in_table, read_rule},
    encode, *,
};
use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use proptest::prelude::*;
use std::net::IpAddr;

/// The rule as it is read back from the message that writes it.
fn read_back(rule: &Rule) -> Rule {
    let message = encode::rule_message("mine", rule).expect("has only words");
    let payload = NetlinkPayload::InnerMessage(about(
        TableFamily::Bridge,
        NfTablesMessage::NewRule(message),
    ));
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let found = in_table(TableFamily::Bridge, "mine", &bytes[16..]).expect("is in the table");
    assert!(in_table(TableFamily::Bridge, "other", &bytes[16..]).is_none());
    assert!(in_table(TableFamily::Inet, "mine", &bytes[16..]).is_none());
    read_rule(&found)
}

fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<[u8; 4]>(), 0..=32u8).prop_map(|(octets, prefix)| (octets.into(), prefix));
    let v6 = (any::<[u8; 16]>(), 0..=128u8).prop_map(|(octets, prefix)| (octets.into(), prefix));
    prop_oneof![v4, v6].prop_map(|(address, prefix): (IpAddr, u8)| {
        IpNet::new(address, prefix)
            .expect("a prefix that fits")
            .trunc()
    })
}

fn condition() -> impl Strategy<Value = Match> {
    let name = || "[a-z][a-z0-9.-]{0,14}";
    prop_oneof![
        (name(), any::<bool>()).prop_map(|(name, is)| Match::InInterface { name, is }),
        (name(), any::<bool>()).prop_map(|(name, is)| Match::OutInterface { name, is }),
        any::<bool>().prop_map(|v4| Match::Family(if v4 { Family::V4 } else { Family::V6 })),
        (network(), any::<bool>()).prop_map(|(net, is)| Match::Source { net, is }),
        (network(), any::<bool>()).prop_map(|(net, is)| Match::Destination { net, is }),
        Just(Match::DestinationLocal),
        any::<u8>().prop_map(Match::Protocol),
        any::<u16>().prop_map(Match::DestinationPort),
        any::<u16>().prop_map(Match::SourcePort),
        any::<u8>().prop_map(Match::Icmpv6Type),
        any::<u16>().prop_map(Match::EtherType),
        any::<u8>().prop_map(Match::PacketType),
        any::<u32>().prop_map(Match::LongerThan),
        (any::<u32>(), any::<u32>(), any::<bool>()).prop_map(|(mask, value, is)| Match::InGroup {
            mask,
            value,
            is
        }),
        (
            name(),
            prop::collection::vec(selector(), 1..4),
            any::<bool>()
        )
            .prop_map(|(set, of, is)| Match::InSet { set, of, is }),
        any::<u32>().prop_map(|any_of| Match::ConnState { any_of }),
        any::<u32>().prop_map(|any_of| Match::ConnStatus { any_of }),
        Just(Match::ConnReply),
        Just(Match::SocketTransparent),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    prop::sample::select(Selector::ALL.to_vec())
}

fn value(kind: Kind) -> BoxedStrategy<Value> {
    match kind {
        Kind::Group => any::<u32>().prop_map(Value::Group).boxed(),
        Kind::Interface => "[a-z][a-z0-9.-]{0,14}".prop_map(Value::Interface).boxed(),
        Kind::Mac => any::<[u8; 6]>().prop_map(Value::Mac).boxed(),
        Kind::V4 => any::<[u8; 4]>()
            .prop_map(|octets| Value::V4(octets.into()))
            .boxed(),
        Kind::V6 => any::<[u8; 16]>()
            .prop_map(|octets| Value::V6(octets.into()))
            .boxed(),
        Kind::Protocol => any::<u8>().prop_map(Value::Protocol).boxed(),
        Kind::Port => any::<u16>().prop_map(Value::Port).boxed(),
        Kind::Net4 => (any::<[u8; 4]>(), 0..=32u8)
            .prop_map(|(octets, prefix)| Ipv4Net::new_assert(octets.into(), prefix).trunc())
            .prop_map(Value::Net4)
            .boxed(),
        Kind::Net6 => (any::<[u8; 16]>(), 0..=128u8)
            .prop_map(|(octets, prefix)| Ipv6Net::new_assert(octets.into(), prefix).trunc())
            .prop_map(Value::Net6)
            .boxed(),
    }
}

/// A set or a map; networks are among networks only.
fn set() -> impl Strategy<Value = Set> {
    let (of_networks, plain): (Vec<Kind>, Vec<Kind>) =
        Kind::ALL.into_iter().partition(|kind| kind.is_network());
    let key = prop_oneof![
        prop::collection::vec(prop::sample::select(plain.clone()), 1..4),
        prop::collection::vec(prop::sample::select(of_networks), 2..4),
    ];
    let data = prop::collection::vec(prop::sample::select(plain), 0..3);
    ("[a-z]{1,9}", key, data).prop_flat_map(|(name, key, data)| {
        let of = |kinds: &[Kind]| kinds.iter().map(|kind| value(*kind)).collect::<Vec<_>>();
        let elements = prop::collection::btree_map(of(&key), of(&data), 0..9);
        elements.prop_map(move |elements| Set {
            name: name.clone(),
            key: key.clone(),
            data: data.clone(),
            elements: elements
                .into_iter()
                .map(|(key, data)| [key, data].concat())
                .collect(),
        })
    })
}

/// The attributes of a message that would be sent.
fn sent(message: NfTablesMessage) -> std::collections::BTreeMap<u16, Vec<u8>> {
    use netlink_packet_core::Emitable;
    let message = about(TableFamily::Inet, message);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    in_table(TableFamily::Inet, "mine", &bytes).expect("is in the table")
}

fn action() -> impl Strategy<Value = Action> {
    let to = (network(), any::<u16>());
    prop_oneof![
        Just(Action::Accept),
        Just(Action::Drop),
        to.prop_map(|(net, port)| Action::Dnat(SocketAddr::new(net.addr(), port))),
        Just(Action::Masquerade),
        any::<[u8; 6]>().prop_map(Action::ToHost),
        (
            "[a-z]{1,9}",
            prop::collection::vec(selector(), 1..4),
            any::<bool>()
        )
            .prop_map(|(map, of, v4)| Action::DnatMap {
                map,
                of,
                family: if v4 { Family::V4 } else { Family::V6 },
            }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        comment in "[ -~]{0,127}",
        matches in prop::collection::vec(condition(), 0..6),
        action in action(),
    ) {
        let rule = Rule { chain: "forward".to_owned(), comment, matches, action };
        prop_assert_eq!(read_back(&rule), rule);
    }

    #[test]
    fn a_set_that_is_written_is_read_back(set in set()) {
        let mut messages = sets::messages("mine", &set, 7).expect("has only words").into_iter().map(sent);
        let mut found = sets::read(&messages.next().expect("the set")).expect("is Tank's");
        for message in messages {
            prop_assert!(sets::read_elements(&message, &mut found));
        }
        prop_assert_eq!(found, set);
    }

    /// Whatever a host's administrator wrote is read, without a panic.
    #[test]
    fn anything_is_read(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let found = [(2, b"forward\0".to_vec()), (4, bytes.clone()), (7, bytes)];
        prop_assert_eq!(read_rule(&found.into_iter().collect()).chain, "forward");
    }
}

#[test]
fn words_are_not_taken_for_others() {
    use expression::{Expression, of_data, of_number};
    // `iifname "eth*"` compares fewer bytes; `meta mark` has another key; an ordering is no
    // equality.
    let cmp = |operator: u32, value: &[u8]| {
        let attributes = [of_number(1, 1), of_number(2, operator), of_data(3, value)];
        Expression::of("cmp", &attributes)
    };
    let meta = |key: u32| Expression::of("meta", &[of_number(1, 1), of_number(2, key)]);
    let others = [
        [meta(6), cmp(0, b"eth")],
        [meta(3), cmp(0, &[1, 0, 0, 0])],
        [meta(16), cmp(2, &[6])],
    ];
    for expressions in others {
        let texts = expressions.iter().map(|one| Match::Other(one.text()));
        let texts: Vec<Match> = texts.collect();
        assert_eq!(decode::read_matches(&expressions), texts);
    }
    assert_eq!(meta(6).text(), "meta{ 1=00000001 2=00000006}");
    assert_eq!(cmp(0, b"a").text(), "cmp{ 1=00000001 3=( 1=61 )}");
}

#[test]
fn an_other_is_not_written() {
    let table = Table {
        others: vec!["set mine".to_owned()],
        ..Table::default()
    };
    assert!(encode::replacement(TableFamily::Inet, "mine", &table).is_err());
    let rule = Rule {
        chain: "forward".to_owned(),
        comment: String::new(),
        matches: vec![Match::Other("counter{}".to_owned())],
        action: Action::Accept,
    };
    assert!(encode::rule_message("mine", &rule).is_err());
}

#[test]
fn a_set_with_more_than_values_is_none_of_tanks() {
    let set = Set {
        name: "s".to_owned(),
        key: vec![Kind::Mac, Kind::V4],
        data: vec![],
        elements: [vec![Value::Mac([2; 6]), Value::V4([10, 0, 0, 1].into())]].into(),
    };
    let messages = sets::messages("mine", &set, 1).expect("has only words");
    let [made, filled] = &messages.into_iter().map(sent).collect::<Vec<_>>()[..] else {
        panic!("a set and its element")
    };
    // A time limit, other flags, another length.
    for (kind, value) in [
        (11, vec![0; 8]),
        (3, vec![0, 0, 0, 0x84]),
        (5, vec![0, 0, 0, 8]),
        (9, vec![]),
    ] {
        let mut other = made.clone();
        other.insert(kind, value);
        assert_eq!(sets::read(&other), None, "attribute {kind}");
    }
    let mut of_another = Set {
        key: vec![Kind::V6],
        elements: [].into(),
        ..set
    };
    assert!(!sets::read_elements(filled, &mut of_another));
    let wrong = Set {
        elements: [vec![Value::Mac([2; 6])]].into(),
        ..of_another
    };
    assert!(sets::messages("mine", &wrong, 1).is_err());
}

#[test]
fn tables_that_do_the_same_have_one_content() {
    let rule = |chain: &str, comment: &str, action: Action| Rule {
        chain: chain.to_owned(),
        comment: comment.to_owned(),
        matches: Vec::new(),
        action,
    };
    let of = |rules: Vec<Rule>| {
        Table {
            rules,
            ..Table::default()
        }
        .content()
    };
    let (a, b) = (
        rule("a", "one", Action::Drop),
        rule("b", "", Action::Accept),
    );
    assert_eq!(
        of(vec![a.clone(), b.clone()]),
        of(vec![b.clone(), rule("a", "", Action::Drop)])
    );
    let swapped = |first, second| of(vec![rule("a", "", first), rule("a", "", second)]);
    assert_ne!(
        swapped(Action::Accept, Action::Drop),
        swapped(Action::Drop, Action::Accept),
        "the order within a chain counts"
    );
}

/// The elements that messages add or remove, as `TYPE SET KEY…`.
fn summary(messages: Vec<(NetfilterMessage, u16)>) -> Vec<String> {
    use netlink_packet_core::NetlinkSerializable;
    let line = |(message, _): (NetfilterMessage, u16)| {
        let kind = NetlinkSerializable::message_type(&message) & 0xff;
        let mut bytes = vec![0; NetlinkSerializable::buffer_len(&message)];
        message.serialize(&mut bytes);
        let found = in_table(TableFamily::Inet, "mine", &bytes).expect("is in the table");
        let elements = found
            .get(&3)
            .map_or(0, |list| expression::attributes(list).count());
        let name = found
            .get(&2)
            .map(|name| expression::text(name))
            .unwrap_or_default();
        format!("{kind} {name} {elements}")
    };
    messages.into_iter().map(line).collect()
}

#[test]
fn elements_are_sent_alone_where_nothing_else_differs() {
    let ports = |leads_to: &[(u16, u8)]| Set {
        name: "ports".to_owned(),
        key: vec![Kind::Protocol, Kind::Port],
        data: vec![Kind::V4, Kind::Port],
        elements: leads_to
            .iter()
            .map(|(port, host)| {
                vec![
                    Value::Protocol(6),
                    Value::Port(*port),
                    Value::V4([10, 0, 0, *host].into()),
                    Value::Port(80),
                ]
            })
            .collect(),
    };
    let senders = |hosts: u16| Set {
        name: "senders".to_owned(),
        key: vec![Kind::V4],
        data: vec![],
        elements: (0..hosts)
            .map(|host| vec![Value::V4([10, 0, (host >> 8) as u8, host as u8].into())])
            .collect(),
    };
    let table = |ports: Set, senders: Set| Table {
        chains: vec![],
        sets: vec![senders, ports],
        rules: vec![Rule {
            chain: "c".to_owned(),
            comment: String::new(),
            matches: vec![],
            action: Action::Drop,
        }],
        others: vec![],
    };
    let changes = |found: &Table, wanted: &Table| {
        encode::changes(TableFamily::Inet, "mine", (found, wanted))
            .expect("has only words")
            .map(summary)
    };
    let found = table(ports(&[(80, 2), (81, 2)]), senders(3));
    assert_eq!(changes(&found, &found), Some(vec![]));
    let mut shown = found.clone();
    shown.sets.reverse();
    shown.rules[0].comment = "for people".to_owned();
    assert_eq!(changes(&shown, &found), Some(vec![]));
    // A port that leads to another pod: removed and added, in this order.
    let moved = table(ports(&[(80, 3), (81, 2)]), senders(3));
    assert_eq!(
        changes(&found, &moved),
        Some(vec!["14 ports 1".to_owned(), "12 ports 1".to_owned()])
    );
    let more = table(ports(&[(80, 2)]), senders(1200));
    assert_eq!(
        changes(&found, &more),
        Some(
            [
                "14 ports 1",
                "12 senders 500",
                "12 senders 500",
                "12 senders 197"
            ]
            .map(str::to_owned)
            .to_vec()
        )
    );
    // Whatever else differs: the whole table.
    let others: [&dyn Fn(&mut Table); 6] = [
        &|table| table.rules.clear(),
        &|table| table.rules[0].action = Action::Accept,
        &|table| table.others.push("object x".to_owned()),
        &|table| drop(table.sets.pop()),
        &|table| table.sets[0].key.push(Kind::Port),
        &|table| {
            table.chains.push(Chain {
                name: "c".to_owned(),
                kind: "filter".to_owned(),
                hook: 0,
                priority: 0,
            });
        },
    ];
    for (at, change) in others.iter().enumerate() {
        let mut found = found.clone();
        change(&mut found);
        assert_eq!(changes(&found, &moved), None, "change {at}");
    }
}
