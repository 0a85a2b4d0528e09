//! Networks of some pods only: who reaches whom over which, by which names, what there is of them on
//! the host, and what is left. Real traffic of both families and protocols.

#[path = "networks/attacks.rs"]
mod attacks;
#[path = "networks/bridged.rs"]
mod bridged;
#[path = "networks/host.rs"]
mod host;

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};
use tank_tests::{
    Host, eventually,
    segment::{From, NEIGHBOUR, Process, Segment, UPLINK, sh},
    sleeper,
};

/// Where everybody answers, and where a program of the host does; the port that is published.
const OPEN: &str = "80";
const OF_HOST: &str = "7777";
const PUBLISHED: &str = "8080";

/// Switches to pods that sleep, over the socket; the outcome.
#[track_caller]
fn switch(host: &Host, networks: &Value, pods: &[(&str, Value)]) -> Value {
    let outcome = try_switch(host, networks, pods);
    assert!(outcome.get("error").is_none(), "{outcome}");
    outcome
}

/// The last reply to a switch.
fn try_switch(host: &Host, networks: &Value, pods: &[(&str, Value)]) -> Value {
    let plain = |pod: &(&str, Value)| sleeper(&format!("\"{}\"", pod.0));
    let plain: String = pods.iter().map(plain).collect();
    host.write("plain.ncl", &format!("{{ {plain} }}"));
    let canonical = host.tank(&["build", "--canonical", "plain.ncl"]).ok();
    let mut config: Value = serde_json::from_str(canonical.trim()).expect("JSON");
    if networks
        .as_object()
        .is_some_and(|networks| !networks.is_empty())
    {
        config["networks"] = networks.clone();
    }
    for (pod, more) in pods {
        for (field, value) in more.as_object().into_iter().flatten() {
            config["pods"][*pod][field] = value.clone();
        }
    }
    let call = json!({
        "method": "io.tank.Executor.Switch", "more": true,
        "parameters": {
            "config": config.to_string(), "base_dir": host.dir, "source": "test", "wait": 60_000,
        },
    });
    let mut stream = UnixStream::connect(host.socket()).expect("the socket");
    let text = [call.to_string().as_bytes(), &[0]].concat();
    stream.write_all(&text).expect("writes");
    let mut replies = BufReader::new(stream);
    loop {
        let mut text = Vec::new();
        replies.read_until(0, &mut text).expect("reads");
        text.pop();
        let reply: Value = serde_json::from_slice(&text).expect("a reply");
        if reply["continues"] != true {
            return reply;
        }
    }
}

/// The pods of most tests: `db` and `api` on an internal network, `api` and `web` on another, one
/// alone on a third, one on the default network.
fn pods() -> (Value, Vec<(&'static str, Value)>) {
    let networks = json!({ "back": { "internal": true }, "far": {}, "front": {} });
    let both = ["tcp", "udp"].map(|protocol| {
        let port = |address: &str| {
            let mut port = json!({ "port": 8080, "to": 80, "address": address });
            // Canonical bytes don't say what is so anyhow.
            if protocol != "tcp" {
                port["protocol"] = protocol.into();
            }
            port
        };
        [
            (format!("p4{protocol}"), port("0.0.0.0")),
            (format!("p6{protocol}"), port("::")),
        ]
    });
    let publish: serde_json::Map<_, _> = both.into_iter().flatten().collect();
    let pods = vec![
        ("api", json!({ "networks": { "back": {}, "front": {} } })),
        ("cache", json!({ "networks": { "back": {} } })),
        (
            "db",
            json!({ "networks": { "back": { "aliases": { "database": {} } } } }),
        ),
        ("far", json!({ "networks": { "far": {} } })),
        ("plain", json!({})),
        (
            "web",
            json!({ "networks": { "front": {} }, "publish": publish }),
        ),
    ];
    (networks, pods)
}

const PODS: [&str; 6] = ["api", "cache", "db", "far", "plain", "web"];

/// The networks of a pod of [`pods`], in the order of its links.
fn networks_of(pod: &str) -> &'static [&'static str] {
    match pod {
        "api" => &["back", "front"],
        "cache" | "db" => &["back"],
        "far" => &["far"],
        "web" => &["front"],
        _ => &["default"],
    }
}

#[test]
fn who_shares_a_network_reaches_the_other_there_and_nobody_else_does() {
    let site = Segment::new(false);
    let site = reach_all(site);
    site.finish();
}

#[test]
fn also_where_the_rules_see_what_bridges_pass_on() {
    let site = Segment::new(true);
    let site = reach_all(site);
    site.finish();
}

// long: everybody asks everybody
fn reach_all(mut site: Segment) -> Segment {
    let (networks, pods) = pods();
    switch(&site.host, &networks, &pods);
    for pod in PODS {
        site.serve(From::Pod(pod), OPEN);
    }
    site.serve(From::Neighbour, OPEN);
    site.serve(From::Host, OF_HOST);
    let addresses: BTreeMap<&str, Vec<[String; 2]>> = PODS
        .iter()
        .map(|pod| (*pod, site.addresses(pod).into_values().collect()))
        .collect();
    let bridges: BTreeMap<&str, [String; 2]> = PODS
        .iter()
        .flat_map(|pod| networks_of(pod).iter().zip(&addresses[pod]))
        .map(|(network, own)| (*network, own.clone().map(|own| first_of(&own))))
        .collect();
    let mut wrong = Vec::new();
    let froms = PODS.iter().map(|pod| From::Pod(pod));
    for from in froms.chain([From::Host, From::Neighbour]) {
        let (mut asked, mut expected) = (Vec::new(), Vec::new());
        let mut row = |protocol: &str, at: &str, port: &str, answer: Option<&str>| {
            asked.push(format!("{protocol} {at} {port}"));
            expected.push(answer.unwrap_or("nothing").to_owned());
        };
        let own: &[&str] = match from {
            From::Pod(pod) => networks_of(pod),
            _ => &[],
        };
        // Who is on internal networks only.
        let closed = matches!(from, From::Pod("cache" | "db"));
        for protocol in ["tcp", "udp"] {
            for family in 0..2 {
                // Every pod, at each of its addresses.
                for (pod, places) in &addresses {
                    for (network, at) in networks_of(pod).iter().zip(places) {
                        let at = &at[family];
                        let seen = match from {
                            From::Pod(asker) if asker == *pod => Some(at.clone()),
                            From::Pod(asker) => {
                                let place = own.iter().position(|mine| mine == network);
                                place.map(|place| addresses[asker][place][family].clone())
                            }
                            From::Host => Some(bridges[network][family].clone()),
                            From::Neighbour => None,
                        };
                        row(protocol, at, OPEN, seen.as_deref());
                    }
                }
                // Out of the host, and into it.
                let out = match from {
                    From::Pod(_) if closed => None,
                    From::Pod(_) | From::Host => Some(UPLINK[family]),
                    From::Neighbour => Some(NEIGHBOUR[family]),
                };
                row(protocol, NEIGHBOUR[family], OPEN, out);
                let source = match from {
                    From::Pod(_) if closed => None,
                    // By the first network that leads further.
                    From::Pod(pod) => {
                        let place = own.iter().position(|network| *network != "back");
                        place.map(|place| addresses[pod][place][family].clone())
                    }
                    From::Host => Some(UPLINK[family].to_owned()),
                    From::Neighbour => Some(NEIGHBOUR[family].to_owned()),
                };
                // Who answers by UDP does so from the address that is nearest.
                if protocol == "tcp" || !matches!(from, From::Pod(_)) {
                    row(protocol, UPLINK[family], OF_HOST, source.as_deref());
                }
                // The port that `web` has published.
                let published = match from {
                    From::Pod(_) if closed => None,
                    From::Neighbour => Some(NEIGHBOUR[family].to_owned()),
                    _ => Some(bridges["front"][family].clone()),
                };
                let published = match from {
                    From::Host => Some(UPLINK[family].to_owned()),
                    _ => published,
                };
                row(protocol, UPLINK[family], PUBLISHED, published.as_deref());
            }
        }
        // The bridges' own addresses: a program of the host, and whether it is there.
        for (network, at) in &bridges {
            for (family, at) in at.iter().enumerate() {
                let is_own = own.contains(network);
                let source = match from {
                    From::Pod(_) if closed => None,
                    From::Pod(pod) => {
                        let place = own.iter().position(|mine| mine == network);
                        let place = place.or(own.iter().position(|mine| *mine != "back"));
                        let source = place.map(|place| addresses[pod][place][family].clone());
                        // Over an internal network there is nothing of the host.
                        source.filter(|_| !(is_own && *network == "back"))
                    }
                    From::Host => Some(at.clone()),
                    From::Neighbour => Some(NEIGHBOUR[family].to_owned()),
                };
                row("tcp", at, OF_HOST, source.as_deref());
                if is_own || closed || matches!(from, From::Host) {
                    row("udp", at, OF_HOST, source.as_deref());
                }
                let there = !closed || is_own;
                row("echo", at, "0", there.then_some("echo"));
            }
        }
        let answers = site.ask(from, &asked);
        for ((asked, expected), answer) in asked.iter().zip(&expected).zip(&answers) {
            if expected != answer {
                wrong.push(format!("{from:?} {asked}: {answer}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    site
}

/// The first address of a network that is a /24, or a /64; of the default network's, of these.
fn first_of(own: &str) -> String {
    if own.starts_with("10.90.") {
        return "10.90.0.1".to_owned();
    }
    match own.contains(':') {
        true => {
            let before = own.split("::").next().unwrap_or_default();
            format!("{before}::1")
        }
        false => {
            let (before, _) = own.rsplit_once('.').unwrap_or_default();
            format!("{before}.1")
        }
    }
}

/// What a pod is told of a name, by the server of its own network.
fn named(site: &Segment, pod: &'static str, server: &str, name: &str, kind: &str) -> Value {
    let mut command = site.python(From::Pod(pod), "names/dns.py");
    let output = command
        .args(["ask", server, name, kind, "tries=3"])
        .output()
        .expect("python3");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

#[test]
fn names_lead_to_the_address_on_a_network_that_is_shared() {
    let site = Segment::new(false);
    let (networks, pods) = pods();
    switch(&site.host, &networks, &pods);
    let at = |pod: &'static str, link: &str| site.addresses(pod)[link].clone();
    let (api, db, web) = (at("api", "eth0"), at("db", "eth0"), at("web", "eth0"));
    let api_front = at("api", "eth1");
    let answers = |pod: &'static str, name: &str| {
        let server = first_of(&at(pod, "eth0")[0]);
        let mut all = Vec::new();
        for kind in ["A", "AAAA"] {
            let found = named(&site, pod, &server, name, kind);
            let found = found["answers"].as_array().cloned().unwrap_or_default();
            all.extend(found.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        all
    };
    assert_eq!(answers("db", "api"), api);
    assert_eq!(answers("db", "api.tank.internal"), api);
    assert_eq!(answers("web", "api"), api_front);
    assert_eq!(answers("api", "db"), db);
    assert_eq!(answers("cache", "database"), db);
    assert_eq!(answers("api", "web"), web);
    for (pod, unknown) in [
        ("db", "web"),
        ("web", "db"),
        ("web", "database"),
        ("far", "web"),
        ("plain", "api"),
        ("db", "plain"),
    ] {
        assert_eq!(
            answers(pod, unknown),
            Vec::<String>::new(),
            "{pod} {unknown}"
        );
    }
    // Names inside: the same, by the resolver of the image.
    let resolv = site.host.exec("db", "cat /etc/resolv.conf");
    let servers = db
        .clone()
        .map(|own| format!("nameserver {}", first_of(&own)));
    let expected = format!("{}\nsearch tank.internal", servers.join("\n"));
    assert!(resolv.starts_with(&expected), "{resolv}");
    let hosts = site.host.exec("api", "cat /etc/hosts");
    for own in api.iter().chain(&api_front) {
        assert!(hosts.contains(&format!("{own}\tapi")), "{hosts}");
    }
    // A network comes while the server runs, and goes again.
    let mut more = pods.clone();
    let late = json!({ "networks": { "late": {} } });
    more.extend([("late1", late.clone()), ("late2", late)]);
    let mut with_late = networks.clone();
    with_late["late"] = json!({ "subnets": ["10.77.7.0/24"] });
    switch(&site.host, &with_late, &more);
    assert_eq!(answers("late1", "late2"), [at("late2", "eth0")[0].clone()]);
    assert!(at("late1", "eth0")[0].starts_with("10.77.7."));
    assert_eq!(answers("db", "api"), api, "nobody else moved");
    switch(&site.host, &networks, &pods);
    assert_eq!(answers("db", "api"), api);
    site.finish();
}

/// The names of links of the host.
fn links(host: &Host) -> BTreeSet<String> {
    let text = sh(host, "ip -j link");
    let links: Value = serde_json::from_str(&text).expect("JSON");
    let links = links.as_array().expect("links").iter();
    let names = links.filter_map(|link| link["ifname"].as_str());
    names.map(str::to_owned).collect()
}

/// A program of the host is at every address of it, those of other bridges among them. Whoever is root in
/// the network of a pod gives it the routes that it was not given: through its bridge, and on its link.
#[test]
fn no_other_address_of_the_host_is_a_way_to_it() {
    let mut site = Segment::new(false);
    let (networks, mut pods) = pods();
    let more = |egress: Value| json!({ "networks": { "front": {} }, "egress": egress });
    pods.extend([
        ("inet", more("internet".into())),
        ("mute", more("none".into())),
        ("one", more(json!(["10.90.0.1"]))),
    ]);
    switch(&site.host, &networks, &pods);
    site.serve(From::Host, OF_HOST);
    let own = |pod: &'static str, link: &str| site.addresses(pod)[link].clone();
    let of = |pod: &'static str| own(pod, "eth0").map(|own| first_of(&own));
    let (back, front, default) = (of("cache"), of("web"), of("plain"));
    let asked: Vec<String> = [&back, &front, &default, &UPLINK.map(str::to_owned)]
        .into_iter()
        .flatten()
        .map(|at| format!("tcp {at} {OF_HOST}"))
        .collect();
    let askers = [
        ("cache", &back),
        ("inet", &front),
        ("mute", &front),
        ("one", &front),
    ];
    for (pod, [v4, v6]) in askers {
        for (how, how6) in [
            (format!("via {v4}"), format!("via {v6}")),
            ("dev eth0".to_owned(), "dev eth0".to_owned()),
        ] {
            let script = format!(
                "ip route replace 10.0.0.0/8 {how}; ip route replace 192.0.2.0/24 {how}
                 for net in fd00::/8 2001:db8::/32; do
                   ip -6 route del $net 2>/dev/null || true; ip -6 route add $net {how6}
                 done"
            );
            let mut shell = site.inside(From::Pod(pod), "sh");
            let status = shell.args(["-ec", &script]).status();
            assert!(status.expect("sh").success(), "{script}");
            for (asked, answer) in asked.iter().zip(site.ask(From::Pod(pod), &asked)) {
                // The host tells nobody on the link where its other addresses are.
                let may = pod == "one" && asked == "tcp 10.90.0.1 7777" && how.starts_with("via");
                assert_eq!(answer != "nothing", may, "{pod} {how}: {asked}: {answer}");
            }
        }
        // Nor is the name server at an address that is not its own bridge's.
        let servers: Vec<&String> = [&back, &front, &default].into_iter().flatten().collect();
        std::thread::scope(|scope| {
            let site = &site;
            let answers: Vec<_> = servers
                .iter()
                .map(|other| scope.spawn(move || named(site, pod, other, pod, "A")))
                .collect();
            for (other, answer) in servers.iter().zip(answers) {
                let answer = answer.join().expect("asked");
                let may = [v4, v6].contains(other);
                assert_eq!(answer != "nothing", may, "{pod} {other}: {answer}");
            }
        });
    }
    // Who may reach the host reaches it by each of its addresses.
    let own = own("web", "eth0");
    for (asked, answer) in asked.iter().zip(site.ask(From::Pod("web"), &asked)) {
        assert!(own.contains(&answer), "{asked}: {answer}");
    }
    site.finish();
}
