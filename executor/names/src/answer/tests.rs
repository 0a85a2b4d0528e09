use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use tank_plan::target::names::{Client, View};

const WEB: &str = "10.90.0.2";
const DB: &str = "10.90.0.3";
const OTHER: &str = "10.90.9.9";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| ip(address)).collect()
}

fn zone() -> Zone {
    let names = [
        ("web", set(&[WEB, "fd74::2"])),
        ("db", set(&[DB])),
        ("api", set(&[WEB, DB, "fd74::2", "fd74::3"])),
        ("idle", set(&[])),
        ("db.example.org", set(&[DB])),
    ];
    let view = View {
        names: names.map(|(name, to)| (name.to_owned(), to)).into(),
        reverse: [
            (ip(WEB), "web".to_owned()),
            (ip("fd74::2"), "web".to_owned()),
        ]
        .into(),
    };
    let hidden = View {
        names: [("secret".to_owned(), set(&[OTHER]))].into(),
        reverse: BTreeMap::new(),
    };
    let shared = View {
        names: [
            ("db.shop", set(&[OTHER])),
            // The first view has this name for itself.
            ("db.example.org", set(&[OTHER])),
        ]
        .map(|(name, to)| (name.to_owned(), to))
        .into(),
        reverse: [
            (ip(OTHER), "db.shop".to_owned()),
            (ip(WEB), "web.blog".to_owned()),
        ]
        .into(),
    };
    let client = |view: &str, upstreams: &[&str]| Client {
        view: view.to_owned(),
        upstreams: upstreams.iter().map(|server| ip(server)).collect(),
        ..Client::default()
    };
    Zone {
        addresses: set(&["10.90.0.1", "fd74::1"]),
        networks: ["10.90.0.0/16", "fd74::/64"]
            .map(|net| net.parse().expect("a network"))
            .into(),
        views: [("a".to_owned(), view), ("b".to_owned(), hidden)].into(),
        shared,
        clients: [
            (ip(WEB), client("a", &[])),
            (ip(DB), client("a", &["192.0.2.99"])),
            (ip(OTHER), client("b", &[])),
        ]
        .into(),
        upstreams: vec![ip("192.0.2.53")],
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn decide(answers: &Answers, from: &str, message: &Message) -> Verdict {
    answers.decide(ip(from), &message.to_vec().expect("bytes"), Transport::Udp)
}

fn reply(verdict: Verdict) -> Message {
    match verdict {
        Verdict::Reply(bytes) => Message::from_vec(&bytes).expect("a message"),
        Verdict::Silence => panic!("silence"),
        Verdict::Forward(forward) => panic!("forwards {}", forward.query),
    }
}

fn ask(name: &str, kind: RecordType) -> Message {
    let answers = Answers::new(zone()).expect("a zone");
    reply(decide(&answers, WEB, &query(name, kind)))
}

/// The code and the answers, as text.
fn said(message: &Message) -> (ResponseCode, Vec<String>) {
    let data = message.answers.iter().map(|record| record.data.to_string());
    (message.metadata.response_code, data.collect())
}

#[test]
fn a_pod_is_found_by_each_of_its_names_in_any_case() {
    for name in ["web.", "WEB.", "web.tank.internal.", "Web.Tank.Internal."] {
        let message = ask(name, RecordType::A);
        assert_eq!(
            said(&message),
            (ResponseCode::NoError, vec![WEB.to_owned()]),
            "{name}"
        );
        assert!(message.metadata.authoritative && message.metadata.recursion_available);
        // The question is repeated as it was asked: that is what a resolver compares.
        assert_eq!(message.queries[0].name.to_ascii(), name);
        assert_eq!(message.answers[0].ttl, TTL);
    }
    assert_eq!(said(&ask("web.", RecordType::AAAA)).1, ["fd74::2"]);
    assert_eq!(said(&ask("db.example.org.", RecordType::A)).1, [DB]);
    assert_eq!(
        said(&ask("db.example.org.tank.internal.", RecordType::A)).1,
        [DB]
    );
}

#[test]
fn a_name_that_is_known_is_never_forwarded() {
    for (name, kind) in [
        ("db.", RecordType::AAAA),
        ("db.", RecordType::MX),
        ("web.tank.internal.", RecordType::HTTPS),
        ("idle.", RecordType::A),
        ("tank.internal.", RecordType::A),
        // There is nothing there, and something below: not nothing at all.
        ("example.org.tank.internal.", RecordType::A),
    ] {
        let message = ask(name, kind);
        assert_eq!(
            said(&message),
            (ResponseCode::NoError, vec![]),
            "{name} {kind}"
        );
        let [soa] = message.authorities.as_slice() else {
            panic!("{message}")
        };
        assert_eq!(soa.record_type(), RecordType::SOA);
        assert!(
            soa.name.zone_of(&message.queries[0].name),
            "{name} is not below {}",
            soa.name
        );
    }
}

#[test]
fn what_no_pod_has_below_the_domain_or_as_an_address_is_nothing() {
    for (name, kind) in [
        ("nobody.tank.internal.", RecordType::A),
        ("a.web.tank.internal.", RecordType::A),
        ("7.7.90.10.in-addr.arpa.", RecordType::PTR),
        (
            "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.7.d.f.ip6.arpa.",
            RecordType::PTR,
        ),
    ] {
        let message = ask(name, kind);
        assert_eq!(said(&message), (ResponseCode::NXDomain, vec![]), "{name}");
        assert!(
            message.authorities[0]
                .name
                .zone_of(&message.queries[0].name)
        );
    }
    let soa = ask("7.7.90.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(soa.authorities[0].name.to_ascii(), "90.10.in-addr.arpa.");
}

#[test]
fn an_address_has_its_pods_name() {
    let answered = (ResponseCode::NoError, vec!["web.tank.internal.".to_owned()]);
    assert_eq!(
        said(&ask("2.0.90.10.in-addr.arpa.", RecordType::PTR)),
        answered
    );
    let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.7.d.f.ip6.arpa.";
    assert_eq!(said(&ask(v6, RecordType::PTR)), answered);
    assert_eq!(
        said(&ask("0.90.10.in-addr.arpa.", RecordType::PTR)),
        (ResponseCode::NoError, vec![])
    );
}

#[test]
fn everything_else_is_forwarded_to_whom_the_client_has() {
    let answers = Answers::new(zone()).expect("a zone");
    for name in [
        "example.org.",
        "webx.",
        "xtank.internal.",
        "7.2.0.192.in-addr.arpa.",
        "10.in-addr.arpa.",
    ] {
        for (from, upstream) in [(WEB, "192.0.2.53"), (DB, "192.0.2.99")] {
            match decide(&answers, from, &query(name, RecordType::A)) {
                Verdict::Forward(forward) => assert_eq!(*forward.upstreams, [ip(upstream)]),
                _ => panic!("{name} is not forwarded"),
            }
        }
    }
    // Who does not want others to be asked looks into the cache of what others asked.
    let mut asked = query("example.org.", RecordType::A);
    asked.metadata.recursion_desired = false;
    assert_eq!(
        said(&reply(decide(&answers, WEB, &asked))).0,
        ResponseCode::Refused
    );
}

#[test]
fn names_of_another_view_are_not_seen() {
    let answers = Answers::new(zone()).expect("a zone");
    let secret = query("secret.tank.internal.", RecordType::A);
    assert_eq!(said(&reply(decide(&answers, OTHER, &secret))).1, [OTHER]);
    assert_eq!(
        said(&reply(decide(&answers, WEB, &secret))).0,
        ResponseCode::NXDomain
    );
    let web = query("web.tank.internal.", RecordType::A);
    assert_eq!(
        said(&reply(decide(&answers, OTHER, &web))).0,
        ResponseCode::NXDomain
    );
}

#[test]
fn several_answers_take_turns_in_each_family() {
    let answers = Answers::new(zone()).expect("a zone");
    let first = |kind| said(&reply(decide(&answers, WEB, &query("api.", kind)))).1[0].clone();
    // Resolvers ask for both at once: one family does not take the turn of the other.
    let turns: Vec<_> = (0..4)
        .map(|_| (first(RecordType::A), first(RecordType::AAAA)))
        .collect();
    let pair = |v4: &str, v6: &str| (v4.to_owned(), v6.to_owned());
    let (one, two) = (pair(WEB, "fd74::2"), pair(DB, "fd74::3"));
    assert_eq!(turns, [one.clone(), two.clone(), one, two]);
}

#[test]
fn outsiders_and_answers_get_nothing() {
    let answers = Answers::new(zone()).expect("a zone");
    for from in ["192.0.2.1", "10.90.7.7", "fd74::77", "127.0.0.1"] {
        let verdict = decide(&answers, from, &query("web.", RecordType::A));
        assert!(matches!(verdict, Verdict::Silence), "{from}");
    }
    let mut answer = query("web.", RecordType::A);
    answer.metadata = Metadata::response_from_request(&answer.metadata);
    assert!(matches!(decide(&answers, WEB, &answer), Verdict::Silence));
    for short in [&[][..], &[0; 11]] {
        let verdict = answers.decide(ip(WEB), short, Transport::Udp);
        assert!(matches!(verdict, Verdict::Silence));
    }
}

#[test]
fn what_is_no_plain_question_is_refused() {
    let answers = Answers::new(zone()).expect("a zone");
    let code = |message: &Message| said(&reply(decide(&answers, WEB, message))).0;
    for kind in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(code(&query("web.", kind)), ResponseCode::Refused, "{kind}");
        assert_eq!(
            code(&query("example.org.", kind)),
            ResponseCode::Refused,
            "{kind}"
        );
    }
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut update = query("web.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut two = query("web.", RecordType::A);
    two.queries.push(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut none = query("web.", RecordType::A);
    none.queries.clear();
    assert_eq!(code(&none), ResponseCode::FormErr);
    let mut newer = query("web.", RecordType::A);
    newer.set_edns(Edns::new());
    newer.edns.as_mut().expect("it was set").set_version(1);
    // 16 is the one or the other by where it stands (RFC 6891, section 9).
    assert_eq!(u16::from(code(&newer)), u16::from(ResponseCode::BADVERS));
}

/// A name that points to itself, one that points forward, and labels without an end.
#[test]
fn loops_of_compression_end() {
    let answers = Answers::new(zone()).expect("a zone");
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for name in [
        &[0xc0, 12][..],
        &[0xc0, 14, 0xc0, 12],
        &[1, b'a', 0xc0, 12],
        &[0x3f, b'a'],
        &[0xff, 0xff],
    ] {
        let bytes = [&header[..], name, &[0, 1, 0, 1]].concat();
        let message = reply(answers.decide(ip(WEB), &bytes, Transport::Udp));
        assert_eq!(message.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(message.metadata.id, 0x1234);
    }
}

#[test]
fn an_answer_is_no_larger_than_its_way_carries() {
    let mut many = zone();
    let all: BTreeSet<IpAddr> = (0..200).map(|n| IpAddr::from([10, 90, 1, n])).collect();
    if let Some(view) = many.views.get_mut("a") {
        view.names.insert("many".to_owned(), all);
    }
    let answers = Answers::new(many).expect("a zone");
    let sized = |payload: Option<u16>, transport| {
        let mut asked = query("many.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            asked.set_edns(edns);
        }
        let verdict = answers.decide(ip(WEB), &asked.to_vec().expect("bytes"), transport);
        let Verdict::Reply(bytes) = verdict else {
            panic!("no reply")
        };
        let message = Message::from_vec(&bytes).expect("a message");
        assert_eq!(message.edns.is_some(), payload.is_some());
        (
            bytes.len(),
            message.metadata.truncation,
            message.answers.len(),
        )
    };
    for (payload, most) in [
        (None, 512),
        (Some(0), 512),
        (Some(900), 900),
        (Some(65_535), 1232),
    ] {
        let (length, truncated, answers) = sized(payload, Transport::Udp);
        assert!(
            length <= most && truncated && answers == 0,
            "{payload:?}: {length}"
        );
    }
    assert_eq!(sized(None, Transport::Tcp).2, 200);
}

proptest! {
    /// Whatever comes, it is answered with its own number and never with more than it may be, or
    /// not at all.
    #[test]
    fn any_bytes_are_borne(mut bytes in prop::collection::vec(any::<u8>(), 0..300), plain in any::<bool>()) {
        if plain && bytes.len() > 12 {
            // As far as the header goes it is a query.
            bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        let answers = Answers::new(zone()).expect("a zone");
        if let Verdict::Reply(reply) = answers.decide(ip(WEB), &bytes, Transport::Udp) {
            prop_assert!(reply.len() <= usize::from(MAX_UDP));
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(reply[2] & 0x80 != 0);
        }
    }

    /// Names of any labels: what is below the domain is never forwarded.
    #[test]
    fn nothing_below_the_domain_is_forwarded(labels in prop::collection::vec("[ -~]{1,20}", 0..5)) {
        let domain = Name::from_ascii("tank.internal.").expect("a name");
        let labels = labels.iter().map(String::as_bytes).collect::<Vec<_>>();
        let name = Name::from_labels(labels).and_then(|name| name.append_domain(&domain));
        prop_assume!(name.is_ok());
        let answers = Answers::new(zone()).expect("a zone");
        let mut asked = query("web.", RecordType::A);
        asked.queries[0].name = name.expect("assumed");
        prop_assert!(!matches!(decide(&answers, WEB, &asked), Verdict::Forward(_)));
    }
}

#[test]
fn pods_of_other_stacks_are_named_with_theirs() {
    let here = (ResponseCode::NoError, vec![OTHER.to_owned()]);
    assert_eq!(said(&ask("db.shop.", RecordType::A)), here);
    assert_eq!(said(&ask("db.shop.tank.internal.", RecordType::A)), here);
    // A name of the client's own view comes first, and what only another view has is not there.
    assert_eq!(said(&ask("db.example.org.", RecordType::A)).1, [DB]);
    let secret = said(&ask("secret.tank.internal.", RecordType::A));
    assert_eq!(secret, (ResponseCode::NXDomain, vec![]));
    // There is something below it.
    let shop = said(&ask("shop.tank.internal.", RecordType::A));
    assert_eq!(shop, (ResponseCode::NoError, vec![]));
    let of = |address: &str| said(&ask(address, RecordType::PTR)).1;
    assert_eq!(of("9.9.90.10.in-addr.arpa."), ["db.shop.tank.internal."]);
    assert_eq!(of("2.0.90.10.in-addr.arpa."), ["web.tank.internal."]);
}

/// Who is on internal networks only: what is asked of others leaves them.
#[test]
fn for_who_is_closed_nobody_else_is_asked() {
    let mut zone = zone();
    let closed = zone.clients.get_mut(&ip(DB)).expect("a client");
    closed.closed = true;
    let answers = Answers::new(zone).expect("a zone");
    let own = reply(decide(&answers, DB, &query("web.", RecordType::A)));
    assert_eq!(said(&own), (ResponseCode::NoError, vec![WEB.to_owned()]));
    for (name, kind) in [
        ("secret.example.org.", RecordType::A),
        ("secret.example.org.", RecordType::TXT),
        ("1.2.0.192.in-addr.arpa.", RecordType::PTR),
        (".", RecordType::NS),
    ] {
        let message = reply(decide(&answers, DB, &query(name, kind)));
        assert_eq!(said(&message), (ResponseCode::Refused, vec![]), "{name}");
        let other = decide(&answers, WEB, &query(name, kind));
        assert!(matches!(other, Verdict::Forward(_)), "{name}");
    }
}

#[test]
fn who_is_apart_sees_its_own_view_alone() {
    let mut zone = zone();
    zone.clients.get_mut(&ip(DB)).expect("a client").apart = true;
    let answers = Answers::new(zone).expect("a zone");
    let ask = |from, name| said(&reply(decide(&answers, from, &query(name, RecordType::A))));
    assert_eq!(ask(WEB, "db.shop.tank.internal.").1, [OTHER]);
    let unknown = (ResponseCode::NXDomain, vec![]);
    assert_eq!(ask(DB, "db.shop.tank.internal."), unknown);
    assert_eq!(
        ask(DB, "shop.tank.internal."),
        unknown,
        "nor that there is something below"
    );
    assert_eq!(ask(DB, "web.tank.internal.").1, [WEB]);
    let reverse = query("9.9.90.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(said(&reply(decide(&answers, WEB, &reverse))).1.len(), 1);
    assert_eq!(said(&reply(decide(&answers, DB, &reverse))), unknown);
}
