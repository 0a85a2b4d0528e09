//! Who reaches a pod, by which address, and as whom: real traffic of both families and protocols,
//! from the host itself, another pod, the pod itself and a neighbour of the host.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tank_tests::{Host, eventually, repo, sleeper};

/// The host's addresses on its uplink, and its neighbour's there.
const UPLINK: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const NEIGHBOUR: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// The bridge's own addresses.
const BRIDGE: [&str; 2] = ["10.90.0.1", "fd74:616e:6b00::1"];

/// Ports: what everybody may reach, what only programs of the host may, what nobody published.
const OPEN: &str = "8080";
const LOCAL: &str = "8081";
const TARGET: &str = "80";

/// A process that is ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From where something is asked.
#[derive(Clone, Copy, Debug)]
enum From {
    Host,
    Pod(&'static str),
    Neighbour,
}

/// A host with an uplink, a neighbour behind it that routes the pods' networks to the host, and the
/// pods `web`, which answers on port 80, and `other`.
struct Segment {
    host: Host,
    neighbour: Process,
    server: Process,
}

impl Segment {
    /// `called`: whether the rules for IP see what the bridge passes on, as where `br_netfilter` is
    /// loaded. A kernel without that module has one way only.
    fn new(called: bool) -> Self {
        let host = Host::without_daemon();
        let value = u8::from(called);
        let script = format!(
            "for family in iptables ip6tables; do
               file=/proc/sys/net/bridge/bridge-nf-call-$family
               ! test -e $file || echo {value} > $file
             done"
        );
        let status = host.inside("sh").args(["-c", &script]).status();
        assert!(status.expect("sh").success(), "{script}");
        let host = host.started_with(&[]);
        let mut command = host.inside("unshare");
        command
            .args(["--net", "sleep", "3600"])
            .stdin(Stdio::null());
        let neighbour = Process(command.spawn().expect("unshare"));
        let pid = neighbour.0.id();
        // When it sleeps, it is in a network of its own: before, it is still in others.
        eventually("the neighbour is there", || {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm == "sleep\n")
        });
        let [[up4, up6], [next4, next6]] = [UPLINK, NEIGHBOUR];
        let script = format!(
            "ip link add up0 type veth peer name eth0 netns {pid} && ip link set up0 up &&
             ip addr add {up4}/24 dev up0 && ip addr add {up6}/64 dev up0 nodad &&
             nsenter --target={pid} --net sh -c 'ip link set lo up && ip link set eth0 up &&
               ip addr add {next4}/24 dev eth0 && ip addr add {next6}/64 dev eth0 nodad &&
               ip route add 10.90.0.0/16 via {up4} && ip -6 route add fd74:616e:6b00::/64 via {up6}'"
        );
        let status = host.inside("sh").args(["-c", &script]).status();
        assert!(status.expect("sh").success(), "{script}");
        let publish = |protocol: &str| {
            format!(
                "open-{protocol} = {{ port = {OPEN}, to = {TARGET}, address = \"0.0.0.0\", protocol = '{protocol} }},
                 open6-{protocol} = {{ port = {OPEN}, to = {TARGET}, address = \"::\", protocol = '{protocol} }},
                 local-{protocol} = {{ port = {LOCAL}, to = {TARGET}, protocol = '{protocol} }},"
            )
        };
        host.switch(&format!(
            "{{ {} pods.web.publish = {{ {} {} }}, {} }}",
            sleeper("web"),
            publish("tcp"),
            publish("udp"),
            sleeper("other")
        ));
        let ready = host.dir.join("serving");
        let mut command = python(&host, From::Pod("web"), 0);
        command.args(["serve", TARGET]).arg(&ready);
        let server = Process(command.spawn().expect("python3"));
        eventually("the server is there", || ready.exists());
        Self {
            host,
            neighbour,
            server,
        }
    }

    /// What is answered: the address that `web` sees, "refused" or "nothing".
    fn ask(&self, from: From, protocol: &str, address: &str, port: &str) -> String {
        let mut command = python(&self.host, from, self.neighbour.0.id());
        command.args(["ask", protocol, address, port]);
        let output = command.output().expect("python3");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn addresses(&self, pod: &str) -> [String; 2] {
        let view = self.host.pod(pod);
        let all = view["addresses"].as_array().expect("addresses");
        let of = |v6: bool| {
            let texts = all.iter().filter_map(|address| address.as_str());
            let found = texts.into_iter().find(|text| text.contains(':') == v6);
            found.expect("of each family").to_owned()
        };
        [of(false), of(true)]
    }

    /// The address that a pod's link made for itself.
    fn link_local(&self, pod: &str) -> String {
        let mut command = Command::new("nsenter");
        let target = format!("--target={}", self.host.pid(pod, "app"));
        command.args([
            &target, "--net", "ip", "-6", "-brief", "address", "show", "dev", "eth0",
        ]);
        let text = command.output().expect("ip").stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        let found = text
            .split_whitespace()
            .find(|word| word.starts_with("fe80:"));
        let found = found.expect("a link-local address");
        found.trim_end_matches("/64").to_owned()
    }

    fn finish(self) {
        let Self {
            host,
            neighbour,
            server,
        } = self;
        drop((neighbour, server));
        // With its peer's network the link is gone, soon.
        let script = "ip link del up0 2> /dev/null || true";
        let _ = host.inside("sh").args(["-c", script]).status();
        host.finish();
    }
}

fn script() -> PathBuf {
    repo().join("tests/tests/reach/traffic.py")
}

/// The script in a network.
fn python(host: &Host, from: From, neighbour: u32) -> Command {
    let enter = |pid: String| {
        let mut command = Command::new("nsenter");
        command.args([&format!("--target={pid}"), "--net", "--", "python3"]);
        command
    };
    let mut command = match from {
        From::Host => host.inside("python3"),
        From::Pod(pod) => enter(host.pid(pod, "app").to_string()),
        From::Neighbour => enter(neighbour.to_string()),
    };
    command.arg(script()).stdin(Stdio::null());
    command
}

#[test]
fn each_port_is_reached_from_where_it_is_published_and_from_nowhere_else() {
    let segment = Segment::new(false);
    reach_all(&segment);
    segment.finish();
}

#[test]
fn also_where_the_rules_see_what_the_bridge_passes_on() {
    let segment = Segment::new(true);
    reach_all(&segment);
    segment.finish();
}

fn reach_all(segment: &Segment) {
    let (web, other) = (segment.addresses("web"), segment.addresses("other"));
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
    ];
    let mut wrong = Vec::new();
    for (from, at, port, seen) in rows.into_iter().flatten().chain(loopback) {
        for protocol in ["tcp", "udp"] {
            let is = segment.ask(from, protocol, &at, port);
            if is != seen {
                wrong.push(format!("{from:?} {protocol} {at} {port}: {is}, not {seen}"));
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
    let segment = Segment::new(true);
    let host = &segment.host;
    let received = host.dir.join("received");
    let mut listener = python(host, From::Host, 0);
    listener.args(["receive", PORT]).arg(&received);
    let listener = Process(listener.spawn().expect("python3"));
    let lines = || std::fs::read_to_string(&received).unwrap_or_default();
    eventually("it listens", || !lines().is_empty());
    // Whoever has IPv6 from a router: links to come listen to routers although the host forwards.
    let script = "echo 2 > /proc/sys/net/ipv6/conf/tank0/accept_ra;
        for link in /proc/sys/net/ipv6/conf/tk*; do echo 2 > $link/accept_ra; done";
    let status = host.inside("sh").args(["-c", script]).status();
    assert!(status.expect("sh").success());
    let run = |from: From, args: &[&str]| {
        let status = python(host, from, segment.neighbour.0.id())
            .args(args)
            .status();
        assert!(status.expect("python3").success(), "{from:?} {args:?}");
    };
    let (evil, web) = (From::Pod("other"), segment.addresses("web"));
    let own = segment.addresses("other");
    let script = format!(
        "ip addr add {}/32 dev eth0; ip addr add {}/128 dev eth0 nodad",
        web[0], web[1]
    );
    let mut command = Command::new("nsenter");
    let pid = segment.neighbour.0.id();
    command.args([&format!("--target={pid}"), "--net", "sh", "-c", &script]);
    assert!(command.status().expect("nsenter").success());
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
        // What is honest arrives, after all that.
        run(evil, &["say", bridge, PORT, "honest"]);
        run(From::Neighbour, &["say", uplink, PORT, "outside"]);
        for honest in [
            format!("honest {}\n", own[family]),
            format!("outside {}\n", NEIGHBOUR[family]),
        ] {
            eventually("what is honest arrives", || lines().contains(&honest));
        }
    }
    run(evil, &["route", &segment.link_local("other")]);
    run(evil, &["say", BRIDGE[0], PORT, "last"]);
    eventually("the last arrives", || lines().contains("last "));
    assert!(
        !lines().contains("forged") && !lines().contains("as-web"),
        "{}",
        lines()
    );
    let routes = host
        .inside("ip")
        .args(["-6", "route", "show", "default"])
        .output();
    assert_eq!(String::from_utf8_lossy(&routes.expect("ip").stdout), "");
    drop(listener);
    segment.finish();
}
