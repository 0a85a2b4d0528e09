//! Who reaches a pod, by which address, and as whom: real traffic of both families and protocols,
//! from the host itself, another pod, the pod itself and a neighbour of the host.

use std::process::Command;
use tank_tests::{
    eventually,
    segment::{From, NEIGHBOUR, Process, Segment, UPLINK, sh},
    sleeper,
};

/// The bridge's own addresses.
const BRIDGE: [&str; 2] = ["10.90.0.1", "fd74:616e:6b00::1"];

/// Ports: what everybody may reach, what only programs of the host may, what nobody published.
const OPEN: &str = "8080";
const LOCAL: &str = "8081";
const TARGET: &str = "80";

/// A segment with the pods `web`, which answers on port 80, and `other`.
fn segment(called: bool) -> Segment {
    let mut segment = Segment::new(called);
    let publish = |protocol: &str| {
        format!(
            "open-{protocol} = {{ port = {OPEN}, to = {TARGET}, address = \"0.0.0.0\", protocol = '{protocol} }},
             open6-{protocol} = {{ port = {OPEN}, to = {TARGET}, address = \"::\", protocol = '{protocol} }},
             local-{protocol} = {{ port = {LOCAL}, to = {TARGET}, protocol = '{protocol} }},"
        )
    };
    segment.host.switch(&format!(
        "{{ {} pods.web.publish = {{ {} {} }}, {} }}",
        sleeper("web"),
        publish("tcp"),
        publish("udp"),
        sleeper("other")
    ));
    segment.serve(From::Pod("web"), TARGET);
    segment
}

/// The addresses of a pod's one link.
fn addresses(segment: &Segment, pod: &'static str) -> [String; 2] {
    segment.addresses(pod)["eth0"].clone()
}

/// The address that a pod's link made for itself.
fn link_local(segment: &Segment, pod: &'static str) -> String {
    let mut command = segment.inside(From::Pod(pod), "ip");
    command.args(["-6", "-brief", "address", "show", "dev", "eth0"]);
    let text = command.output().expect("ip").stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut words = text.split_whitespace();
    let found = words.find(|word| word.starts_with("fe80:"));
    let found = found.expect("a link-local address");
    found.trim_end_matches("/64").to_owned()
}

/// The script in a network.
fn traffic(segment: &Segment, from: From) -> Command {
    segment.python(from, "reach/traffic.py")
}

#[test]
fn each_port_is_reached_from_where_it_is_published_and_from_nowhere_else() {
    let segment = segment(false);
    reach_all(&segment);
    segment.finish();
}

#[test]
fn also_where_the_rules_see_what_the_bridge_passes_on() {
    let segment = segment(true);
    reach_all(&segment);
    segment.finish();
}

fn reach_all(segment: &Segment) {
    let (web, other) = (addresses(segment, "web"), addresses(segment, "other"));
    // Who asks, whom, at which port; and who that is for the pod, in each family.
    let row = |from, at: [&str; 2], port, seen: [&str; 2]| {
        [0, 1].map(|family| (from, at[family].to_owned(), port, seen[family].to_owned()))
    };
    let [web_at, other_at] = [&web, &other].map(|of| [of[0].as_str(), of[1].as_str()]);
    let no = ["nothing"; 2];
    let (pod, itself) = (From::Pod("other"), From::Pod("web"));
    let rows = [
        // Whoever is outside is seen as who they are.
        row(From::Neighbour, UPLINK, OPEN, NEIGHBOUR),
        row(From::Neighbour, BRIDGE, OPEN, NEIGHBOUR),
        // What nobody published is not reached by a route to the pods, nor what is on loopback.
        row(From::Neighbour, web_at, TARGET, no),
        row(From::Neighbour, UPLINK, LOCAL, ["refused"; 2]),
        // The host.
        row(From::Host, UPLINK, OPEN, UPLINK),
        row(From::Host, BRIDGE, OPEN, BRIDGE),
        row(From::Host, web_at, TARGET, BRIDGE),
        // Another pod: by its name's address as itself, by the host's addresses as the host.
        row(pod, web_at, TARGET, other_at),
        row(pod, UPLINK, OPEN, BRIDGE),
        row(pod, BRIDGE, OPEN, BRIDGE),
        row(pod, UPLINK, LOCAL, ["refused"; 2]),
        // The pod itself.
        row(itself, UPLINK, OPEN, BRIDGE),
        row(itself, BRIDGE, OPEN, BRIDGE),
    ];
    let loopback = [
        (
            From::Host,
            "127.0.0.1".to_owned(),
            OPEN,
            BRIDGE[0].to_owned(),
        ),
        (
            From::Host,
            "127.0.0.1".to_owned(),
            LOCAL,
            BRIDGE[0].to_owned(),
        ),
        (
            From::Host,
            "127.0.0.2".to_owned(),
            OPEN,
            BRIDGE[0].to_owned(),
        ),
        (
            From::Host,
            "127.0.0.2".to_owned(),
            LOCAL,
            "refused".to_owned(),
        ),
        // The kernel would drop what a pod answers there.
        (From::Host, "::1".to_owned(), OPEN, "refused".to_owned()),
    ];
    let mut wrong = Vec::new();
    for (from, at, port, expected) in rows.into_iter().flatten().chain(loopback) {
        let asked = ["tcp", "udp"].map(|protocol| format!("{protocol} {at} {port}"));
        for (asked, is) in asked.iter().zip(segment.ask(from, &asked)) {
            // The kernel sends one error of ICMP a second at most to whom it sent a redirect, as it does to
            // a pod that asks another one by the host's address. Whoever waited for one is late enough.
            let is = match is == "nothing" && expected == "refused" {
                true => segment.ask(from, std::slice::from_ref(asked)).concat(),
                false => is,
            };
            if is != expected {
                wrong.push(format!("{from:?} {asked}: {is}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A pod that may send what it likes (`NET_RAW` of its own network), and a neighbour that has a pod's
/// address: for the host both are who they are, or nobody.
#[test]
fn nobody_speaks_to_the_host_as_a_pod_or_a_router() {
    const PORT: &str = "7777";
    let segment = segment(true);
    let host = &segment.host;
    let received = host.dir.join("received");
    let mut listener = traffic(&segment, From::Host);
    let listener = Process::start(listener.args(["receive", PORT]).arg(&received));
    let lines = || std::fs::read_to_string(&received).unwrap_or_default();
    eventually("it listens", || !lines().is_empty());
    // Whoever has IPv6 from a router: links to come listen to routers although the host forwards.
    let script = "echo 2 > /proc/sys/net/ipv6/conf/tank0/accept_ra;
        for link in /proc/sys/net/ipv6/conf/tk*; do echo 2 > $link/accept_ra; done";
    sh(host, script);
    let run = |from: From, args: &[&str]| {
        let status = traffic(&segment, from).args(args).status();
        assert!(status.expect("python3").success(), "{from:?} {args:?}");
    };
    let (evil, web) = (From::Pod("other"), addresses(&segment, "web"));
    let own = addresses(&segment, "other");
    let script = format!(
        "ip addr add {}/32 dev eth0; ip addr add {}/128 dev eth0 nodad",
        web[0], web[1]
    );
    let mut command = segment.inside(From::Neighbour, "sh");
    assert!(
        command
            .args(["-c", &script])
            .status()
            .expect("sh")
            .success()
    );
    for family in [0, 1] {
        let (bridge, uplink) = (BRIDGE[family], UPLINK[family]);
        run(
            evil,
            &["forge", &web[family], bridge, PORT, "forged-as-web"],
        );
        run(
            evil,
            &["forge", &own[family], bridge, PORT, "forged-as-itself"],
        );
        run(
            evil,
            &[
                "forge",
                NEIGHBOUR[family],
                uplink,
                PORT,
                "forged-as-neighbour",
            ],
        );
        run(
            From::Neighbour,
            &["say", uplink, PORT, "from-outside-as-web", &web[family]],
        );
        // What is honest arrives, after all that; a datagram may be lost while neighbours look for each other.
        let honest = [
            format!("honest {}\n", own[family]),
            format!("outside {}\n", NEIGHBOUR[family]),
        ];
        eventually("what is honest arrives", || {
            run(evil, &["say", bridge, PORT, "honest"]);
            run(From::Neighbour, &["say", uplink, PORT, "outside"]);
            honest.iter().all(|line| lines().contains(line))
        });
    }
    run(evil, &["route", &link_local(&segment, "other")]);
    eventually("the last arrives", || {
        run(evil, &["say", BRIDGE[0], PORT, "last"]);
        lines().contains("last ")
    });
    assert!(
        !lines().contains("forged") && !lines().contains("as-web"),
        "{}",
        lines()
    );
    assert_eq!(sh(host, "ip -6 route show default"), "");
    drop(listener);
    segment.finish();
}
