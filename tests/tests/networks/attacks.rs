//! Out of a network, or into one: by who is root in a pod and sends what it likes, by names, and by
//! whoever is beside the host.

use super::*;
use std::{fs, time::Duration};
use tank_tests::packets::HEADERS;

/// Sends packets over a link as whoever it says, to whatever hardware address: each has its name in it.
const SEND: &str = r#"
link, cases = sys.argv[1], sys.argv[2:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((link, 0))
own = s.getsockname()[4]
for case in cases:
    name, to_mac, from_mac, source, to, port = case.split()
    body = b"<" + name.encode() + b">"
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(to)
    udp = struct.pack("!HHHH", 9999, int(port), 8 + len(body), 0) + body
    udp = udp[:6] + struct.pack("!H", sum16(pseudo(a, b, 17, len(udp)) + udp)) + udp[8:]
    kind = 0x800 if a.version == 4 else 0x86dd
    source_mac = own if from_mac == "own" else bytes.fromhex(from_mac.replace(":", ""))
    s.send(bytes.fromhex(to_mac.replace(":", "")) + source_mac + struct.pack("!H", kind) + ip(a, b, 17, udp))
"#;

/// What came by on every link of a network, until it is dropped.
struct Sniffer {
    _process: Process,
    file: std::path::PathBuf,
}

const SNIFF: &str = r#"
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
out = open(sys.argv[1], "wb", buffering=0)
open(sys.argv[2], "w").close()
while True:
    data, where = s.recvfrom(4096)
    if where[2] != 4:  # PACKET_OUTGOING
        out.write(data + b"\n")
"#;

impl Sniffer {
    fn start(site: &Segment, from: From, name: &str) -> Self {
        let file = site.host.dir.join(format!("{name}.frames"));
        let ready = site.host.dir.join(format!("{name}.ready"));
        let mut command = site.inside(from, "python3");
        let process = Process::start(command.args(["-c", SNIFF]).arg(&file).arg(&ready));
        eventually("it listens", || ready.exists());
        Self {
            _process: process,
            file,
        }
    }

    fn saw(&self, name: &str) -> bool {
        let wanted = format!("<{name}>");
        let seen = fs::read(&self.file).unwrap_or_default();
        seen.windows(wanted.len())
            .any(|part| part == wanted.as_bytes())
    }
}

const BRIDGE_MAC: &str = "02:74:6b:ff:00:01";
const ALL: &str = "ff:ff:ff:ff:ff:ff";

/// The hardware address of a pod's link.
pub(super) fn mac(site: &Segment, pod: &'static str, link: &str) -> String {
    let mut command = site.inside(From::Pod(pod), "ip");
    let output = command
        .args(["-j", "link", "show", link])
        .output()
        .expect("ip");
    let links: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    links[0]["address"].as_str().expect("an address").to_owned()
}

fn send(site: &Segment, pod: &'static str, link: &str, cases: &[String]) {
    let mut command = site.inside(From::Pod(pod), "python3");
    let output = command
        .args(["-c", &[HEADERS, SEND].concat(), link])
        .args(cases)
        .output()
        .expect("python3");
    assert!(output.status.success(), "{output:?}");
}

// long: one line a frame
fn attack(called: bool) {
    let site = Segment::new(called);
    let (networks, pods) = pods();
    switch(&site.host, &networks, &pods);
    let own = |pod: &'static str, link: &str| site.addresses(pod)[link].clone();
    let (db, cache, web, far) = (
        own("db", "eth0"),
        own("cache", "eth0"),
        own("web", "eth0"),
        own("far", "eth0"),
    );
    let (api_back, api_front) = (own("api", "eth0"), own("api", "eth1"));
    let macs = |pod, link| mac(&site, pod, link);
    let sniffers: BTreeMap<&str, Sniffer> = [
        ("api", From::Pod("api")),
        ("cache", From::Pod("cache")),
        ("far", From::Pod("far")),
        ("web", From::Pod("web")),
        ("neighbour", From::Neighbour),
    ]
    .into_iter()
    .map(|(name, from)| (name, Sniffer::start(&site, from, name)))
    .collect();
    let mut expected: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for family in 0..2 {
        let mut cases: BTreeMap<(&'static str, &str), Vec<String>> = BTreeMap::new();
        let mut case = |from: (&'static str, &'static str),
                        name: &str,
                        frame: [&str; 4],
                        seen: &[&'static str]| {
            let [to_mac, from_mac, source, to] = frame;
            let name = format!("{name}{family}");
            cases
                .entry(from)
                .or_default()
                .push(format!("{name} {to_mac} {from_mac} {source} {to} 80"));
            expected.insert(name, seen.iter().copied().collect());
        };
        let [db, cache, web, far] = [&db, &cache, &web, &far].map(|own| own[family].as_str());
        let [api_back, api_front] = [&api_back, &api_front].map(|own| own[family].as_str());
        let (next, up) = (NEIGHBOUR[family], UPLINK[family]);
        // What may be: to a neighbour on the same network, directly.
        case(
            ("db", "eth0"),
            "direct",
            [&macs("cache", "eth0"), "own", db, cache],
            &["cache"],
        );
        // Out of an internal network, and into others, by way of the bridge's hardware address.
        case(("db", "eth0"), "out", [BRIDGE_MAC, "own", db, next], &[]);
        case(
            ("db", "eth0"),
            "into-front",
            [BRIDGE_MAC, "own", db, web],
            &[],
        );
        case(
            ("db", "eth0"),
            "into-far",
            [BRIDGE_MAC, "own", db, far],
            &[],
        );
        case(
            ("db", "eth0"),
            "by-api",
            [&macs("api", "eth0"), "own", db, web],
            &["api"],
        );
        // As somebody else: of its own network, of another, of the host.
        case(
            ("db", "eth0"),
            "as-cache",
            [BRIDGE_MAC, "own", cache, next],
            &[],
        );
        case(("db", "eth0"), "as-web", [BRIDGE_MAC, "own", web, far], &[]);
        case(
            ("db", "eth0"),
            "as-web-to-cache",
            [ALL, "own", web, cache],
            &[],
        );
        case(("db", "eth0"), "as-host", [ALL, BRIDGE_MAC, up, cache], &[]);
        // Its address of the one network on the other.
        case(
            ("api", "eth1"),
            "back-on-front",
            [&macs("web", "eth0"), "own", api_back, web],
            &[],
        );
        case(
            ("api", "eth0"),
            "front-on-back",
            [&macs("db", "eth0"), "own", api_front, db],
            &[],
        );
        case(
            ("api", "eth1"),
            "back-and-its-mac",
            [&macs("web", "eth0"), &macs("api", "eth0"), api_back, web],
            &[],
        );
        case(
            ("api", "eth0"),
            "back-out",
            [BRIDGE_MAC, "own", api_back, next],
            &[],
        );
        // Between networks that are not internal.
        case(
            ("web", "eth0"),
            "web-far",
            [BRIDGE_MAC, "own", web, far],
            &[],
        );
        case(
            ("far", "eth0"),
            "far-web",
            [BRIDGE_MAC, "own", far, web],
            &[],
        );
        case(("far", "eth0"), "far-db", [BRIDGE_MAC, "own", far, db], &[]);
        case(
            ("far", "eth0"),
            "far-out",
            [BRIDGE_MAC, "own", far, next],
            &["neighbour"],
        );
        // For many at once.
        let many = ["224.0.0.251", "ff02::fb"][family];
        let to_many = ["01:00:5e:00:00:fb", "33:33:00:00:00:fb"][family];
        case(
            ("db", "eth0"),
            "many",
            [to_many, "own", db, many],
            &["api", "cache"],
        );
        case(
            ("web", "eth0"),
            "many-front",
            [to_many, "own", web, many],
            &["api"],
        );
        for ((pod, link), cases) in &cases {
            send(&site, pod, link, cases);
        }
    }
    // The link's own addresses: to the host, and to everybody.
    let ll = |pod, link| {
        let mut command = site.inside(From::Pod(pod), "ip");
        let output = command
            .args(["-6", "-brief", "addr", "show", "dev", link, "scope", "link"])
            .output();
        let text = String::from_utf8_lossy(&output.expect("ip").stdout).into_owned();
        let word = text
            .split_whitespace()
            .find(|word| word.starts_with("fe80:"));
        word.expect("a link-local address")
            .trim_end_matches("/64")
            .to_owned()
    };
    let own_ll = ll("db", "eth0");
    send(
        &site,
        "db",
        "eth0",
        &[
            format!("ll-out {BRIDGE_MAC} own {own_ll} {} 80", NEIGHBOUR[1]),
            format!(
                "ll-near {} own {own_ll} {} 80",
                macs("cache", "eth0"),
                ll("cache", "eth0")
            ),
            format!(
                "ll-as-api {} own {} {} 80",
                macs("cache", "eth0"),
                ll("api", "eth1"),
                ll("cache", "eth0")
            ),
        ],
    );
    expected.insert("ll-out".to_owned(), BTreeSet::new());
    expected.insert("ll-near".to_owned(), ["cache"].into());
    expected.insert("ll-as-api".to_owned(), BTreeSet::new());
    // Whoever is on the network of one that gets through may see it, too: a bridge floods what it has
    // no place for, and who did not want it says so.
    let may = |name: &str, who: &BTreeSet<&'static str>| -> BTreeSet<&'static str> {
        let near: &[&'static str] = match name.trim_end_matches(['0', '1']) {
            _ if who.is_empty() => &[],
            "far-out" => &["far"],
            "many-front" => &["api", "web"],
            _ => &["api", "cache"],
        };
        near.iter().chain(who).copied().collect()
    };
    let seen = || -> BTreeMap<String, BTreeSet<&str>> {
        let of = |name: &String| {
            let all = sniffers.iter().filter(|(_, sniffer)| sniffer.saw(name));
            (name.clone(), all.map(|(who, _)| *who).collect())
        };
        expected.keys().map(of).collect()
    };
    eventually("what may be is there", || {
        let seen = seen();
        expected
            .iter()
            .all(|(name, who)| seen[name].is_superset(who))
    });
    std::thread::sleep(Duration::from_millis(500));
    for (name, seen) in seen() {
        let (must, may) = (&expected[&name], may(&name, &expected[&name]));
        assert!(
            seen.is_superset(must) && seen.is_subset(&may),
            "{name}: {seen:?}, not {must:?}"
        );
    }
    drop(sniffers);
    site.finish();
}

#[test]
fn raw_frames_lead_into_no_other_network() {
    attack(false);
}

#[test]
fn nor_where_the_rules_see_what_bridges_pass_on() {
    attack(true);
}

/// A query that others are asked is a message to whoever serves the name.
#[test]
fn nothing_leaves_an_internal_network_by_a_query() {
    let mut site = Segment::new(false);
    let (networks, mut pods) = pods();
    for (_, pod) in &mut pods {
        pod["dns"] = json!({ "servers": { "a": NEIGHBOUR[0] } });
    }
    let log = site.host.dir.join("asked");
    let mut command = site.python(From::Neighbour, "names/dns.py");
    command.args(["serve", NEIGHBOUR[0]]).arg(&log).arg("7");
    site.servers.push(Process::start(&mut command));
    switch(&site.host, &networks, &pods);
    let asked = || fs::read_to_string(&log).unwrap_or_default();
    let ask = |pod: &'static str, server: &str, name: &str, more: &[&str]| -> Value {
        let mut command = site.python(From::Pod(pod), "names/dns.py");
        let output = command
            .args(["ask", server, name, "A", "tries=2"])
            .args(more)
            .output();
        let output = output.expect("python3");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    let server =
        |pod: &'static str, link: &str, family: usize| first_of(&site.addresses(pod)[link][family]);
    eventually("the other server answers", || {
        ask("web", &server("web", "eth0", 0), "web.example.org", &[])["answers"]
            == json!(["198.51.100.7"])
    });
    assert!(asked().contains("web.example.org"));
    // A pod that has a way out may ask over either of its networks.
    for link in ["eth0", "eth1"] {
        let name = format!("api-{link}.example.org");
        let answer = ask("api", &server("api", link, 0), &name, &[]);
        assert_eq!(answer["answers"], json!(["198.51.100.7"]), "{answer}");
    }
    const REFUSED: u64 = 5;
    for (index, more) in [&[][..], &["tcp"], &["edns=1232"]].into_iter().enumerate() {
        for family in 0..2 {
            let name = format!("secret-{index}-{family}.example.org");
            let answer = ask("db", &server("db", "eth0", family), &name, more);
            assert_eq!(answer["code"], REFUSED, "{answer}");
            assert_eq!(answer["answers"], json!([]), "{answer}");
        }
    }
    // What pods are called is answered as ever.
    let answer = ask("db", &server("db", "eth0", 0), "cache", &[]);
    assert_eq!(
        answer["answers"],
        json!([site.addresses("cache")["eth0"][0]])
    );
    // Nor by the servers of other networks, the host's own addresses among them.
    for server in [
        server("web", "eth0", 0),
        "10.90.0.1".to_owned(),
        NEIGHBOUR[0].to_owned(),
    ] {
        assert_eq!(
            ask("db", &server, "other.example.org", &[]),
            "nothing",
            "{server}"
        );
    }
    // A web client of a name on the network of the other pod: no answer says that it exists.
    let far = ask("web", &server("web", "eth0", 0), "db.tank.internal", &[]);
    assert_eq!((&far["code"], &far["answers"]), (&json!(3), &json!([])));
    let text = asked();
    assert!(
        !text.contains("secret") && !text.contains("other.example"),
        "{text}"
    );
    site.finish();
}

/// A connection of a pod's to the host, from before its network was internal, is none any more.
#[test]
fn what_was_open_before_a_network_was_internal_is_closed() {
    let mut site = Segment::new(false);
    let pods = [
        ("a", json!({ "networks": { "net": {} } })),
        ("b", json!({ "networks": { "net": {} } })),
    ];
    let subnets = json!(["10.88.0.0/24", "fd88::/64"]);
    switch(&site.host, &json!({ "net": { "subnets": subnets } }), &pods);
    site.serve(From::Host, OF_HOST);
    site.serve(From::Neighbour, OPEN);
    let talk = |site: &Segment| -> Vec<String> {
        // From one port, so that it is the same connection for whoever tracks it.
        let script = "
import socket, sys
for address, port in (('10.88.0.1', 7777), ('192.0.2.2', 80), ('fd88::1', 7777), ('2001:db8::2', 80)):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.bind(('', 5555))
    try:
        s.connect((address, port))
        s.send(b'?')
        print(s.recv(100).decode())
    except OSError:
        print('nothing')
    s.close()
";
        let mut command = site.inside(From::Pod("a"), "python3");
        let output = command.args(["-c", script]).output().expect("python3");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::to_owned).collect()
    };
    let [v4, v6] = site.addresses("a")["eth0"].clone();
    assert_eq!(talk(&site), [v4.as_str(), UPLINK[0], &v6, UPLINK[1]]);
    switch(
        &site.host,
        &json!({ "net": { "subnets": subnets, "internal": true } }),
        &pods,
    );
    assert_eq!(site.addresses("a")["eth0"], [v4, v6]);
    // Somebody who has the run of the pod's network gives it the route that it has no more.
    let mut command = site.inside(From::Pod("a"), "sh");
    let _ = command
        .args([
            "-c",
            "ip route add 192.0.2.0/24 via 10.88.0.1; ip -6 route add 2001:db8::/32 via fd88::1",
        ])
        .status();
    assert_eq!(talk(&site), ["nothing"; 4]);
    site.finish();
}

/// Sends errors of ICMP (`port unreachable`) about packets of UDP that somebody else sent: over a link, to a
/// hardware address.
const ERRORS: &str = r#"
link, mac, cases = sys.argv[1], sys.argv[2], sys.argv[3:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((link, 0))
own = s.getsockname()[4]
for case in cases:
    source, to, inner_source, inner_port, inner_to, inner_to_port = case.split()
    source, to, inner_source, inner_to = map(ipaddress.ip_address, (source, to, inner_source, inner_to))
    packet = ip(inner_source, inner_to, 17, struct.pack("!HHHH", int(inner_port), int(inner_to_port), 9, 0) + b"?")
    if source.version == 6:
        body = struct.pack("!BBHI", 1, 4, 0, 0) + packet
        body = body[:2] + struct.pack("!H", sum16(pseudo(source, to, 58, len(body)) + body)) + body[4:]
        packet, kind = ip(source, to, 58, body), 0x86dd
    else:
        body = struct.pack("!BBHI", 3, 3, 0, 0) + packet
        body = body[:2] + struct.pack("!H", sum16(body)) + body[4:]
        packet, kind = ip(source, to, 1, body), 0x800
    s.send(bytes.fromhex(mac.replace(":", "")) + own + struct.pack("!H", kind) + packet)
"#;

/// Asks an address by UDP from one port, and says for each line of its input what became of it.
const ASKS: &str = r#"
import socket, sys
address, port, own = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.bind(("", int(own)))
s.connect((address, int(port)))
s.send(b"?")
s.recv(100)
print("answered", flush=True)
for _ in sys.stdin:
    print(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), flush=True)
"#;

/// Somebody who asks by UDP.
struct Asker {
    child: Process,
    answers: BufReader<std::process::ChildStdout>,
}

impl Asker {
    fn start(site: &Segment, from: From, (to, port, own): (&str, &str, &str)) -> Self {
        let mut command = site.inside(from, "python3");
        command.args(["-c", ASKS, to, port, own]);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let mut asker = Self {
            child: Process(child),
            answers,
        };
        assert_eq!(asker.line(), "answered");
        asker
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// The error that its socket was given since this was asked last.
    fn error(&mut self) -> String {
        let stdin = self.child.0.stdin.as_mut().expect("its input");
        stdin.write_all(b"?\n").expect("it is asked");
        self.line()
    }
}

/// An error of ICMP belongs to the connection that it names. A pod that may send any packet ends nobody's
/// with it but its own.
#[test]
fn errors_about_connections_of_others_lead_nowhere() {
    const REFUSED: &str = "111";
    let mut site = Segment::new(false);
    let (networks, mut pods) = pods();
    let closed = json!({ "networks": { "far": {} }, "egress": "none" });
    pods.push(("closed", closed));
    switch(&site.host, &networks, &pods);
    site.serve(From::Neighbour, OPEN);
    site.serve(From::Pod("web"), OPEN);
    for family in 0..2 {
        let (next, up) = (NEIGHBOUR[family], UPLINK[family]);
        let web = site.addresses("web")["eth0"][family].clone();
        let mut host = Asker::start(&site, From::Host, (next, OPEN, "5555"));
        let mut pod = Asker::start(&site, From::Pod("web"), (next, OPEN, "5556"));
        // To the published port, and the host to the pod itself.
        let mut guest = Asker::start(&site, From::Neighbour, (up, PUBLISHED, "5557"));
        let mut own = Asker::start(&site, From::Host, (&web, OPEN, "5558"));
        // Whom an error is for, and the packet that it is about: as the neighbour sees them, the pod asks
        // with the host's address.
        let outward = |from: &str, port| format!("{from} {up} {up} {port} {next} {OPEN}");
        let inward = |from: &str| format!("{from} {next} {next} 5557 {up} {PUBLISHED}");
        let inner = |from: &str| format!("{from} {next} {next} 5557 {web} {OPEN}");
        let gateway = first_of(&web);
        let to_pod = |from: &str| format!("{from} {gateway} {gateway} 5558 {web} {OPEN}");
        for sender in ["db", "closed", "far"] {
            let address = &site.addresses(sender)["eth0"][family];
            let cases = [
                outward(address, 5555),
                outward(address, 5556),
                inward(address),
                inner(address),
                to_pod(address),
            ];
            let mut command = site.inside(From::Pod(sender), "python3");
            command
                .args(["-c", &[HEADERS, ERRORS].concat(), "eth0", BRIDGE_MAC])
                .args(&cases);
            assert!(command.status().expect("python3").success());
            std::thread::sleep(Duration::from_millis(300));
            let errors = [&mut host, &mut pod, &mut guest, &mut own].map(Asker::error);
            assert_eq!(errors, ["0"; 4], "by {sender}");
        }
        // What the network beyond says of a connection arrives, at the host and at the pod, and what a pod
        // says of its own does.
        let up0 = sh(&site.host, "ip -j link show up0");
        let up0: Value = serde_json::from_str(&up0).expect("JSON");
        let mac = up0[0]["address"].as_str().expect("an address");
        let mut command = site.inside(From::Neighbour, "python3");
        command
            .args(["-c", &[HEADERS, ERRORS].concat(), "eth0", mac])
            .args([outward(next, 5555), outward(next, 5556)]);
        assert!(command.status().expect("python3").success());
        let mut command = site.inside(From::Pod("web"), "python3");
        command
            .args(["-c", &[HEADERS, ERRORS].concat(), "eth0", BRIDGE_MAC])
            .args([inner(&web), to_pod(&web)]);
        assert!(command.status().expect("python3").success());
        for (who, asker) in [
            ("the host", &mut host),
            ("the pod", &mut pod),
            ("the neighbour", &mut guest),
            ("the host, by the pod", &mut own),
        ] {
            eventually(who, || asker.error() == REFUSED);
        }
    }
    site.finish();
}

/// A pod on a network of IPv4 alone has a link-local address of IPv6 all the same, and says nothing by it of
/// the host's connections.
#[test]
fn errors_from_a_link_local_address_lead_nowhere() {
    let mut site = Segment::new(false);
    let networks = json!({ "four": { "subnets": ["10.88.0.0/24"] } });
    let pods = [("a", json!({ "networks": { "four": {} } }))];
    switch(&site.host, &networks, &pods);
    site.serve(From::Neighbour, OPEN);
    let (next, up) = (NEIGHBOUR[1], UPLINK[1]);
    let mut host = Asker::start(&site, From::Host, (next, OPEN, "5555"));
    let case = |from: &str| format!("{from} {up} {up} 5555 {next} {OPEN}");
    let output = site
        .inside(From::Pod("a"), "ip")
        .args(["-j", "-6", "address", "show", "dev", "eth0"])
        .output();
    let found: Value = serde_json::from_slice(&output.expect("ip").stdout).expect("JSON");
    let own = found[0]["addr_info"][0]["local"].as_str();
    let own = own.expect("a link-local address");
    assert!(own.starts_with("fe80::"), "{own}");
    let mut command = site.inside(From::Pod("a"), "python3");
    command.args([
        "-c",
        &[HEADERS, ERRORS].concat(),
        "eth0",
        BRIDGE_MAC,
        &case(own),
    ]);
    assert!(command.status().expect("python3").success());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.error(), "0");
    let up0 = sh(&site.host, "ip -j link show up0");
    let up0: Value = serde_json::from_str(&up0).expect("JSON");
    let mac = up0[0]["address"].as_str().expect("an address");
    let mut command = site.inside(From::Neighbour, "python3");
    command.args(["-c", &[HEADERS, ERRORS].concat(), "eth0", mac, &case(next)]);
    assert!(command.status().expect("python3").success());
    eventually("the neighbour says so", || host.error() == "111");
    drop(host);
    site.finish();
}

/// Nobody waits for a pod where nobody listens: it says so, whatever its network and its policy.
#[test]
fn who_asks_where_nobody_listens_is_refused() {
    let site = Segment::new(false);
    let (networks, mut pods) = pods();
    pods.extend([
        (
            "closed",
            json!({ "networks": { "far": {} }, "egress": "none" }),
        ),
        (
            "picky",
            json!({ "networks": { "front": {} }, "allow_from": ["api"] }),
        ),
    ]);
    switch(&site.host, &networks, &pods);
    let of = |pod: &'static str| site.addresses(pod)["eth0"].clone();
    let web = of("web");
    for (from, to) in [
        (From::Host, of("db")),
        (From::Host, of("closed")),
        (From::Host, of("web")),
        (From::Pod("picky"), web.clone()),
        (From::Pod("cache"), of("db")),
        (From::Pod("far"), of("closed")),
        (From::Neighbour, UPLINK.map(str::to_owned)),
    ] {
        for address in to {
            let port = if from == From::Neighbour {
                PUBLISHED
            } else {
                OPEN
            };
            let asked = [format!("udp {address} {port}")];
            // A peer that was sent a redirect gets one error a second at most.
            eventually("it is refused", || site.ask(from, &asked) == ["refused"]);
        }
    }
    site.finish();
}
