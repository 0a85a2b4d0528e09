//! `allow_from` and `egress` against real packets: both families, TCP and UDP, each direction, and a
//! pod that sends raw frames.

use super::{
    publish::{datagram, servers},
    spoof::{FRAMES, Frames, Sniffer, python_in, sent},
    *,
};
use std::collections::BTreeMap;
use tank_tests::packets::HEADERS;

/// Asks a name server for an address and prints how many it gave.
const ASK: &str = r#"
import socket, struct, sys
name = b"".join(bytes([len(label)]) + label.encode() for label in sys.argv[2].split(".")) + b"\0"
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
question = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1)
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect((sys.argv[1], 53))
s.send(question)
udp = struct.unpack("!6H", s.recv(512)[:12])[3]
s = socket.create_connection((sys.argv[1], 53), timeout=15)
s.sendall(struct.pack("!H", len(question)) + question)
tcp = struct.unpack("!6H", s.recv(512)[2:14])[3]
print(udp, tcp)
"#;

/// Pods with policies, and what the policies are.
struct Net {
    pids: BTreeMap<String, u32>,
    addresses: BTreeMap<String, (String, String)>,
}

impl Net {
    fn of(host: &Host, pods: &[&str]) -> Self {
        let pid = |pod: &&str| ((*pod).to_owned(), host.pid(pod, "app") as u32);
        let pids: BTreeMap<String, u32> = pods.iter().map(pid).collect();
        let addresses = pids.iter().map(|(pod, pid)| (pod.clone(), addresses(*pid)));
        let addresses = addresses.collect();
        Self { pids, addresses }
    }

    /// What a pod gets from an address: by TCP and by UDP.
    fn asks(&self, from: &str, address: &str, port: u16, reaches: bool) {
        let (pid, limit) = (self.pids[from], if reaches { PATIENT } else { SHORT });
        let tcp = connect_from(pid, address, port, limit);
        let udp = datagram(python_in(pid), address, port, limit);
        if reaches {
            assert!(tcp.starts_with("tcp "), "{from} to {address}:{port}: {tcp}");
            assert!(udp.starts_with("udp "), "{from} to {address}:{port}: {udp}");
        } else {
            let none = ("no connection".to_owned(), "no answer".to_owned());
            assert_eq!((tcp, udp), none, "{from} to {address}:{port}");
        }
    }

    /// Whether a pod reaches another one, by both families and both protocols.
    fn reaches(&self, from: &str, to: &str, is: bool) {
        let (v4, v6) = &self.addresses[to];
        self.asks(from, v4, 80, is);
        self.asks(from, v6, 80, is);
    }
}

fn pod(name: &str, rest: &str) -> String {
    format!("pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, {rest} }},")
}

const PODS: [&str; 7] = ["db", "web", "evil", "lone", "front", "inet", "picky"];

fn config(db: &str) -> String {
    [
        "{",
        &pod(
            "db",
            &format!("{db}, publish.q = {{ port = 18090, to = 80, address = [\"0.0.0.0\", \"::\"], protocol = 'both }}"),
        ),
        &pod("web", ""),
        &pod("evil", ""),
        &pod("lone", "egress = 'none"),
        &pod(
            "front",
            "allow_from = [\"192.0.2.0/24\", \"2001:db8:2::/64\"],
             publish.p = { port = 18080, to = 80, address = [\"0.0.0.0\", \"::\"], protocol = 'both }",
        ),
        &pod("inet", "egress = 'internet"),
        &pod("picky", "egress = [\"web\", \"10.90.0.1\"], allow_from = 'none"),
        "}",
    ]
    .concat()
}

#[test]
fn policies_hold_in_each_direction() {
    let host = Host::new();
    let (near, far) = (neighbour(&host, "lan0", 2), neighbour(&host, "lan1", 3));
    sh(
        &host,
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0 net.ipv4.conf.lan1.rp_filter=0",
    );
    host.write("pods.ncl", &config("allow_from = [\"web\"]"));
    let plan = host.tank(&["diff", "pods.ncl"]).ok();
    for words in [
        "db is reached by web and this host only",
        "lone reaches nobody",
        "inet reaches the internet only",
        "picky is reached by this host only\n",
        "picky reaches web and 10.90.0.1 only\n",
        "[::]:18090 from web and this host \u{2192} db:80",
        "0.0.0.0:18080 from 192.0.2.0/24, 2001:db8:2::/64 and this host \u{2192} front:80",
    ] {
        assert!(plan.contains(words), "{words}: {plan}");
    }
    host.switch(&config("allow_from = [\"web\"]"));
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    let net = Net::of(&host, &PODS);
    let mut all: Vec<_> = net
        .pids
        .values()
        .map(|pid| servers(&host, *pid, &["80"]))
        .collect();
    all.push(servers(&host, near.pid(), &["80"]));

    let host6 = sh(
        &host,
        "ip -6 -o addr show dev tank0 scope global | sed 's/.*inet6 \\([^/]*\\).*/\\1/'",
    );
    // Who reaches a pod; and a pod that few reach speaks to all, and is answered: also where the host
    // looks at bridged packets as at routed ones, or does not.
    for looks in [false, true] {
        bridged_packets_are_looked_at(&host, looks);
        net.reaches("web", "db", true);
        net.reaches("evil", "db", false);
        net.reaches("db", "evil", true);
        net.reaches("web", "evil", true);
        net.reaches("lone", "web", false);
        net.reaches("web", "lone", true);
        // By its published port as by its own address; and a pod by its own, whom it admits or not.
        for address in ["10.90.0.1", "192.0.2.1", host6.as_str()] {
            net.asks("web", address, 18090, true);
            net.asks("db", address, 18090, true);
            net.asks("evil", address, 18090, false);
        }
    }
    for family in [&net.addresses["db"].0, &net.addresses["db"].1] {
        assert!(
            connect(&host, family, 80).starts_with("tcp 80"),
            "the host reaches its pods"
        );
    }
    // Whom a pod reaches; and a pod that reaches few is reached by all, and answers.
    for to in ["web", "db", "evil", "front"] {
        net.reaches("lone", to, false);
    }
    net.reaches("web", "lone", true);
    net.reaches("picky", "web", true);
    net.reaches("picky", "evil", false);
    net.reaches("web", "picky", false);
    net.reaches("inet", "web", false);
    // The host's own programs, and the world.
    let own = [
        publish::serve(&host, host.daemon_pid(), publish::TCP_SERVER, &["9000"]),
        publish::serve(&host, host.daemon_pid(), publish::UDP_SERVER, &["9000"]),
    ];
    for (from, reaches4, reaches6) in [
        ("web", true, true),
        ("lone", false, false),
        ("inet", false, false),
        ("picky", true, false),
    ] {
        net.asks(from, "10.90.0.1", 9000, reaches4);
        net.asks(from, &host6, 9000, reaches6);
    }
    for (from, reaches) in [
        ("web", true),
        ("inet", true),
        ("lone", false),
        ("picky", false),
        ("db", true),
    ] {
        net.asks(from, "192.0.2.2", 80, reaches);
        net.asks(from, "2001:db8:2::2", 80, reaches);
    }
    // Names are answered to everybody.
    for from in ["lone", "inet", "db"] {
        for server in ["10.90.0.1", host6.as_str()] {
            let asked =
                output(python_in(net.pids[from]).args(["-c", ASK, server, "web.tank.internal"]));
            assert_eq!(asked, "1 1", "{from} at {server}");
        }
    }
    // Through a published port, by the address one has; from the host always.
    for (who, net4, net6, reaches) in [
        (&near, "192.0.2.1", "2001:db8:2::1", true),
        (&far, "192.0.3.1", "2001:db8:3::1", false),
    ] {
        for address in [net4, net6] {
            let limit = if reaches { PATIENT } else { SHORT };
            let tcp = connect_from(who.pid(), address, 18080, limit).starts_with("tcp 80");
            let udp = datagram(python_in(who.pid()), address, 18080, limit) == "udp 80";
            assert_eq!((tcp, udp), (reaches, reaches), "{address}");
        }
    }
    assert!(connect(&host, "127.0.0.1", 18080).starts_with("tcp 80"));
    // The way through the host's own address is no way around.
    net.asks("web", "10.90.0.1", 18080, false);
    net.asks("lone", "10.90.0.1", 18080, false);
    // Nobody outside has a pod's address: not even where a port is published.
    let (web4, web6) = &net.addresses["web"];
    sh_in(
        far.pid(),
        &format!("ip addr add {web4}/32 dev lo; ip -6 addr add {web6}/128 dev lo nodad"),
    );
    let as_web = "import socket, sys\ns = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\ns.bind((sys.argv[2], 0))\ns.sendto(b'pretends', (sys.argv[1], 18090))";
    let db = Sniffer::start(&host, "db-far", python_in(net.pids["db"]), "eth0");
    for (to, from) in [("192.0.3.1", web4), ("2001:db8:3::1", web6)] {
        output(python_in(far.pid()).args(["-c", as_web, to, from]));
    }
    net.reaches("web", "db", true);
    assert!(!db.has(b"pretends"), "it came from outside");

    // A change is in place: the same processes, and what they have open stays open.
    host.switch(&config("allow_from = [\"evil\"]"));
    assert_eq!(
        Net::of(&host, &PODS).pids,
        net.pids,
        "nothing was restarted"
    );
    net.reaches("evil", "db", true);
    net.reaches("web", "db", false);
    let listed = host.tank(&["get", "db"]).ok();
    assert!(
        listed.contains("db is reached by evil and this host only"),
        "{listed}"
    );
    // Without any policy there is nothing left of it.
    let plain: Vec<String> = PODS.iter().map(|name| pod(name, "")).collect();
    host.switch(&format!("{{ {} }}", plain.concat()));
    net.reaches("web", "db", true);
    net.reaches("lone", "web", true);
    let listed = table(&host);
    for name in [
        "chain policy",
        "chain inward",
        "chain steering",
        "chain between",
        "set policed",
        "set closed4",
        "set bound6",
    ] {
        assert!(!listed.contains(name), "{name}: {listed}");
    }
    drop((all, own, db, near, far));
    sh(
        &host,
        "for link in lan0 lan1; do ip link del $link 2>/dev/null || true; done",
    );
    host.finish();
}

/// Raw frames, straight to the hardware address of a pod that admits only others.
#[test]
fn a_frame_to_its_neighbour_is_no_way_around_a_policy() {
    let host = Host::new();
    let pods = [
        pod("db", "allow_from = [\"web\"]"),
        pod("web", ""),
        pod("evil", ""),
        pod("mute", "egress = 'none"),
    ];
    host.switch(&format!("{{ {} }}", pods.concat()));
    let net = Net::of(&host, &["db", "web", "evil", "mute"]);
    let server = servers(&host, net.pids["db"], &["80"]);
    let mac = |pod: &str| {
        let line = sh_in(net.pids[pod], "ip -o link show eth0");
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word != "link/ether");
        words.nth(1).expect("a hardware address").to_owned()
    };
    let host6 = sh(
        &host,
        "ip -6 -o addr show dev tank0 scope global | sed 's/.*inet6 \\([^/]*\\).*/\\1/'",
    );
    let send = |from: &str, to: &str, which: &str| -> Frames {
        let ((own4, own6), (near4, near6)) = (&net.addresses[from], &net.addresses[to]);
        let (own_mac, near_mac) = (mac(from), mac(to));
        let text = output(python_in(net.pids[from]).args([
            "-c",
            &[HEADERS, FRAMES].concat(),
            &own_mac,
            own4,
            own6,
            &near_mac,
            near4,
            near6,
            "10.90.0.1",
            &host6,
            which,
        ]));
        sent(&text)
    };
    let is_discovery = |name: &str| {
        let discovery = [
            "own-arp-request",
            "own-arp-reply",
            "own-probe",
            "own-probe-nonce",
            "own-advertisement",
            "own-solicitation",
            "na",
            "ns",
        ];
        discovery.contains(&name)
    };
    let pairs = [("evil", "db"), ("mute", "web")];
    let ways = [false, true]
        .into_iter()
        .flat_map(|looks| pairs.map(|pair| (looks, pair)));
    for (looks, (from, to)) in ways {
        bridged_packets_are_looked_at(&host, looks);
        let sniffer = Sniffer::start(&host, to, python_in(net.pids[to]), "eth0");
        let strange = send(from, to, "strange");
        let own = send(from, to, "own");
        let mut discovery = own.clone();
        discovery.retain(|name, _| is_discovery(name));
        assert!(discovery.len() == 8 && own.len() > 8 && strange.len() >= 30);
        eventually("what finds neighbours comes by", || {
            sniffer.received(&discovery) == discovery
        });
        // All of them came in order, and a packet that may come after them.
        let (v4, _) = &net.addresses[to];
        let last = if to == "db" { "web" } else { "db" };
        net.asks(last, v4, 80, to == "db");
        assert_eq!(sniffer.received(&own), discovery, "{from} to {to}");
        assert_eq!(sniffer.received(&strange), Frames::new(), "{from} to {to}");
    }
    // A peer of whom it is admitted is not reached by whoever takes its address or its place.
    let (web4, web6) = &net.addresses["web"];
    sh_in(
        net.pids["evil"],
        &format!("ip addr add {web4}/32 dev lo; ip -6 addr add {web6}/128 dev lo nodad"),
    );
    let from = |source: &str, to: &str| {
        let script = "import socket, sys\ntry:\n    c = socket.create_connection((sys.argv[1], 80), timeout=1, source_address=(sys.argv[2], 0))\n    \
                      print(c.recv(100).decode())\nexcept OSError:\n    print('no connection')";
        output(python_in(net.pids["evil"]).args(["-c", script, to, source]))
    };
    let (db4, db6) = &net.addresses["db"];
    assert_eq!(
        (from(web4, db4), from(web6, db6)),
        ("no connection".to_owned(), "no connection".to_owned())
    );
    net.reaches("web", "db", true);
    drop(server);
    host.finish();
}
