//! Pods with interfaces of their own: macvlans and ports of the host's bridges, on a network with a
//! router and a neighbour, as real packets have it.

#[path = "nics/attacks.rs"]
mod attacks;
#[path = "nics/bridges.rs"]
mod bridges;
#[path = "nics/host.rs"]
mod host;
#[path = "nics/missing.rs"]
mod missing;
#[path = "nics/moves.rs"]
mod moves;
#[path = "nics/mtu.rs"]
mod mtu;
#[path = "nics/parents.rs"]
mod parents;
#[path = "nics/pools.rs"]
mod pools;
#[path = "nics/ports.rs"]
mod ports;

use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tank_tests::{Host, eventually, repo};

/// The addresses of the network: the router's, the host's, the neighbour's, and what is behind the
/// router.
const ROUTER: [&str; 2] = ["10.77.0.1", "fd77::1"];
const HOST: [&str; 2] = ["10.77.0.2", "fd77::2"];
const NEIGHBOUR: [&str; 2] = ["10.77.0.9", "fd77::9"];
const BEYOND: [&str; 2] = ["198.51.100.1", "2001:db8::1"];

/// Those of the two pods of most tests.
const A: [&str; 2] = ["10.77.0.11", "fd77::11"];
const B: [&str; 2] = ["10.77.0.12", "fd77::12"];

/// A process that is ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network beside a host: a namespace with a switch and a router, and one with a neighbour.
struct Lan {
    router: Process,
    neighbour: Process,
}

fn namespace(ready: PathBuf) -> Process {
    let script = format!(
        "ip link set lo up && touch {} && exec sleep 3600",
        ready.display()
    );
    let child = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .stdin(Stdio::null())
        .spawn();
    let process = Process(child.expect("unshare"));
    eventually("the namespace is there", || ready.exists());
    process
}

fn in_network(pid: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={pid}"))
        .args(["--net", "--", program])
        .stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> String {
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text} {errors}");
    text
}

fn sh(pid: u32, script: &str) -> String {
    let mut command = in_network(pid, "sh");
    command.args(["-e", "-c", script]);
    run(command)
}

/// A shell in the host's namespaces.
fn on_host(host: &Host, script: &str) -> String {
    let mut command = host.inside("sh");
    command.args(["-e", "-c", script]).stdin(Stdio::null());
    run(command)
}

fn script() -> String {
    repo().join("tests/tests/nics/lan.py").display().to_string()
}

/// A host whose `eth0` is on a network, and which has a default route there. The daemon does not run
/// yet.
fn host_on_lan() -> (Host, Lan) {
    let host = Host::without_daemon();
    let lan = Lan {
        router: namespace(host.dir.join("router")),
        neighbour: namespace(host.dir.join("neighbour")),
    };
    let (router, neighbour) = (lan.router(), lan.neighbour());
    sh(
        router,
        &format!(
            "ip link add lan0 type bridge && ip link set lan0 address 02:00:00:00:00:01 up
             ip addr add {}/24 dev lan0 && ip addr add {}/64 dev lan0 nodad
             ip addr add {}/32 dev lo && ip addr add {}/128 dev lo nodad
             ip link add port9 type veth peer name eth0 netns {neighbour} && ip link set port9 master lan0 up",
            ROUTER[0], ROUTER[1], BEYOND[0], BEYOND[1]
        ),
    );
    let settle = |own: &[&str; 2]| {
        format!(
            "ip link set eth0 up && ip addr add {}/24 dev eth0 && ip addr add {}/64 dev eth0 nodad
             ip route add default via {} && ip -6 route add default via {}",
            own[0], own[1], ROUTER[0], ROUTER[1]
        )
    };
    sh(neighbour, &settle(&NEIGHBOUR));
    // An address that is still asked for would be another one later.
    on_host(&host, "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
    on_host(
        &host,
        &format!("ip link add eth0 type veth peer name port2 netns {router}"),
    );
    sh(router, "ip link set port2 master lan0 up");
    on_host(&host, &settle(&HOST));
    (host, lan)
}

impl Lan {
    fn router(&self) -> u32 {
        self.router.0.id()
    }

    fn neighbour(&self) -> u32 {
        self.neighbour.0.id()
    }
}

/// A pod with one interface on the network, with both families and their default routes.
fn pod(name: &str, own: [&str; 2], more: &str) -> String {
    format!(
        "pods.{name} = {{
            containers.app = {{ image = \"oci:./busybox\", stop.signal = \"SIGKILL\", command = [\"/bin/sleep\", \"3600\"] }},
            network.nics.eth0 = {{ address = \"{}/24\", gateway = \"{}\", addresses.six = \"{}/64\",
                routes.six = {{ to = \"::/0\", via = \"{}\" }}, {more} }},
        }},",
        own[0], ROUTER[0], own[1], ROUTER[1]
    )
}

/// As [`pod`], a macvlan on the link of the default route.
fn macvlan(name: &str, own: [&str; 2]) -> String {
    pod(name, own, "mode = 'macvlan")
}

fn pid(host: &Host, pod: &str) -> u32 {
    u32::try_from(host.pid(pod, "app")).expect("a pid")
}

/// A process in the host's network.
fn host_pid(host: &Host) -> u32 {
    host.daemon_pid()
}

/// Serves in a network, by a name.
fn serve(host: &Host, pid: u32, name: &str) -> Process {
    let ready = host.dir.join(format!("serves-{name}"));
    let _ = fs::remove_file(&ready);
    let mut command = in_network(pid, "python3");
    command.args([&script(), "serve", name, &ready.display().to_string()]);
    let process = Process(command.spawn().expect("python3"));
    eventually("it serves", || ready.exists());
    process
}

fn python(pid: u32, args: &[&str]) -> String {
    let mut command = in_network(pid, "python3");
    command.arg(script()).args(args);
    run(command)
}

/// Asks each of others by both protocols at both of its addresses: it answers, and saw the one that
/// asks as itself.
#[track_caller]
fn reaches(from: u32, own: [&str; 2], others: &[([&str; 2], &str)]) {
    let addresses: Vec<&str> = others
        .iter()
        .flat_map(|(addresses, _)| *addresses)
        .collect();
    let found = python(from, &[&["ask"], &addresses[..]].concat());
    let mut expected = Vec::new();
    for (addresses, name) in others {
        for (own, address) in own.iter().zip(addresses) {
            expected.extend(
                ["tcp", "udp"].map(|protocol| format!("{protocol} {address}: {name} {own}")),
            );
        }
    }
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

/// All of these reach each other.
#[track_caller]
fn all_reach_each_other(host: &Host, everybody: &[(u32, [&str; 2], &'static str)]) -> Vec<Process> {
    let serve = |(pid, _, name): &(u32, _, &str)| serve(host, *pid, name);
    let servers = everybody.iter().map(serve).collect();
    for (from, own, name) in everybody {
        let others = everybody.iter().filter(|(.., other)| other != name);
        let others: Vec<_> = others
            .map(|(_, addresses, name)| (*addresses, *name))
            .collect();
        reaches(*from, *own, &others);
    }
    servers
}

/// What is behind the router, which answers UDP as itself.
fn reaches_beyond(from: u32, own: [&str; 2]) {
    let found = python(from, &[&["ask"], &BEYOND[..]].concat());
    let lines: Vec<&str> = found.lines().collect();
    for (line, (own, beyond)) in [lines[0], lines[2]].iter().zip(own.iter().zip(BEYOND)) {
        assert_eq!(*line, format!("tcp {beyond}: router {own}"));
    }
}

/// Everything of a network namespace that somebody could miss.
fn picture(host: &Host) -> String {
    let script = "ip -j link; ip -j addr; ip -j route show table all; ip -j -6 route show table all
         ip -j rule; nft list ruleset
         cd /proc/sys/net && find . -type f -perm -400 | sort | while read -r file; do
            case $file in *nf_conntrack_count|*/stable_secret|*/mf_*|*route/flush) continue;; esac
            printf '%s ' \"$file\"; cat \"$file\" 2>/dev/null || echo; done";
    on_host(host, script)
}

/// The host is what it was, as soon as the kernel has taken apart what is gone.
#[track_caller]
fn is_as_before(host: &Host, before: &str) {
    let mut now = picture(host);
    for _ in 0..100 {
        if now == before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        now = picture(host);
    }
    let differ = before
        .lines()
        .zip(now.lines())
        .find(|(before, now)| before != now);
    panic!("it is not as before: {differ:#?}");
}

fn json(host: &Host, command: &str) -> Value {
    serde_json::from_str(&on_host(host, command)).expect("JSON")
}

/// What a pod's interface is, as `ip` has it: its link and its addresses without link-local ones.
fn interface(pid: u32, name: &str) -> (String, Vec<String>) {
    let text = sh(pid, &format!("ip -j addr show dev {name}"));
    let found: Value = serde_json::from_str(&text).expect("JSON");
    let mac = found[0]["address"].as_str().expect("an address").to_owned();
    let own = found[0]["addr_info"].as_array().into_iter().flatten();
    let own = own.filter(|own| own["scope"] == "global");
    let text = |own: &Value| {
        format!(
            "{}/{}",
            own["local"].as_str().unwrap_or_default(),
            own["prefixlen"]
        )
    };
    (mac, own.map(text).collect())
}

/// Nothing of Tank's is left of itself, as soon as the kernel has taken apart what is gone; then the test's own links go.
fn finish(host: Host, lan: Lan) {
    host.switch("{}");
    let links = || on_host(&host, "ip -o link | cut -d: -f2 | cut -d@ -f1 | tr -d ' '");
    let is_tanks = |link: &str| link.starts_with("tank") || link.starts_with("tk");
    eventually("no link of Tank's is left", || {
        !links().lines().any(is_tanks)
    });
    for link in links().lines().filter(|link| *link != "lo") {
        on_host(&host, &format!("ip link del {link} 2>/dev/null || true"));
    }
    host.finish();
    drop(lan);
}

#[test]
fn pods_are_hosts_of_the_network() {
    let (mut host, lan) = host_on_lan();
    let before = picture(&host);
    host.start_daemon();
    host.write(
        "pods.ncl",
        &format!("{{ {} {} }}", macvlan("a", A), macvlan("b", B)),
    );
    let plan = host.tank(&["diff", "pods.ncl"]).ok();
    let said = [
        "connect eth0 of pod a on eth0 as 10.77.0.11/24, fd77::11/64",
        "let the host reach the pods on eth0",
    ];
    for text in said {
        assert!(plan.contains(text), "{plan}");
    }
    host.tank(&["switch", "pods.ncl"]).ok();
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    for (name, own) in [("a", A), ("b", B)] {
        assert_eq!(host.pod(name)["addresses"], serde_json::json!(own));
    }

    let (a, b, own) = (pid(&host, "a"), pid(&host, "b"), host_pid(&host));
    let everybody = [
        (a, A, "a"),
        (b, B, "b"),
        (own, HOST, "host"),
        (lan.router(), ROUTER, "router"),
        (lan.neighbour(), NEIGHBOUR, "neighbour"),
    ];
    let servers = all_reach_each_other(&host, &everybody);
    reaches_beyond(a, A);
    let all = [HOST, NEIGHBOUR, BEYOND, B].concat();
    let answers: Vec<String> = all.iter().map(|to| format!("{to} answers")).collect();
    let found = python(a, &[&["ping"], &all[..]].concat());
    assert_eq!(found.lines().collect::<Vec<_>>(), answers);
    assert_eq!(
        host.exec("a", "grep -v '#' /etc/hosts | grep -w a"),
        "10.77.0.11\ta\nfd77::11\ta"
    );

    drop(servers);
    host.switch("{}");
    host.kill_daemon();
    is_as_before(&host, &before);
    host.start_daemon();
    finish(host, lan);
}

#[test]
fn an_interface_is_as_declared_whatever_happens_to_it() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    let config = format!(
        "{{ {} }}",
        pod(
            "a",
            A,
            "mode = 'macvlan, parent = \"eth0\", mtu = 1400,
        routes.more = { to = \"192.0.2.0/24\", via = \"10.77.0.9\" }"
        )
    );
    host.switch(&config);
    let a = pid(&host, "a");
    let whole = || {
        sh(
            a,
            "ip -j -d link show dev eth0 | sed 's/\"ifindex\":[0-9]*//'; ip -j addr show dev eth0 | sed 's/\"ifindex\":[0-9]*//'; ip -j route; ip -j -6 route",
        )
    };
    let (before, (mac, own)) = (whole(), interface(a, "eth0"));
    assert_eq!(own, ["10.77.0.11/24", "fd77::11/64"]);
    assert!(before.contains("\"mtu\":1400"), "{before}");
    assert!(before.contains("192.0.2.0/24"), "{before}");
    let meddling = [
        "ip link del eth0",
        "ip link set eth0 down",
        "ip addr flush dev eth0 scope global",
        "ip addr del 10.77.0.11/24 dev eth0",
        "ip addr add 10.77.0.66/24 dev eth0",
        "ip route del default",
        "ip -6 route del default",
        "ip route del 192.0.2.0/24",
        "ip route add 203.0.113.0/24 via 10.77.0.9",
        "ip link set eth0 address 02:00:00:00:00:66",
        "ip link set eth0 mtu 1300",
        "ip link set lo down",
    ];
    let pids = host.pid("a", "app");
    for what in meddling {
        sh(a, what);
        eventually(what, || whole() == before);
        eventually("nothing is left to do", || {
            host.tank(&["diff", "--exit-code"]).status == 0
        });
    }
    assert_eq!(host.pid("a", "app"), pids, "it ran on");

    // A daemon that dies, a pod that starts anew, and a rollback: the same interface.
    host.kill_daemon();
    sh(a, "ip route del default");
    host.start_daemon();
    eventually("the next daemon repairs it", || whole() == before);
    host.switch("{}");
    host.tank(&["generations", "rollback"]).ok();
    let a = pid(&host, "a");
    assert_eq!(interface(a, "eth0"), (mac, own));
    // Another interface is another sandbox, and the plan says so.
    host.write(
        "other.ncl",
        &format!(
            "{{ {} }}",
            pod("a", B, "mode = 'macvlan, parent = \"eth0\"")
        ),
    );
    let plan = host.tank(&["diff", "other.ncl"]).ok();
    assert!(plan.contains("replace"), "{plan}");
    host.tank(&["switch", "other.ncl"]).ok();
    assert_eq!(
        interface(pid(&host, "a"), "eth0").1,
        ["10.77.0.12/24", "fd77::12/64"]
    );
    finish(host, lan);
}

#[test]
fn a_pod_has_several_interfaces_and_asks_whom_the_host_asks() {
    let (mut host, lan) = host_on_lan();
    host.write(
        "resolv.conf",
        "nameserver 127.0.0.53\nnameserver 10.77.0.1\nsearch lan\n",
    );
    let resolver = host.dir.join("resolv.conf");
    on_host(
        &host,
        &format!("mount --bind {} /etc/resolv.conf", resolver.display()),
    );
    on_host(
        &host,
        "ip link add eth1 type veth peer name eth1p && ip link set eth1 up && ip link set eth1p up",
    );
    host.start_daemon();
    host.switch(
        "{ pods.a = {
            containers.app = { image = \"oci:./busybox\", stop.signal = \"SIGKILL\", command = [\"/bin/sleep\", \"3600\"] },
            network.nics = {
                front = { mode = 'macvlan, address = \"10.77.0.11/24\", gateway = \"10.77.0.1\" },
                back = { mode = 'macvlan, parent = \"eth1\", addresses = { one = \"10.78.0.1/24\", two = \"10.78.0.2/24\" } },
                idle = { mode = 'macvlan, parent = \"eth1\" },
            },
        } }",
    );
    let a = pid(&host, "a");
    let names = sh(
        a,
        "ip -j link | python3 -c 'import json,sys; print(*sorted(l[\"ifname\"] for l in json.load(sys.stdin)))'",
    );
    assert_eq!(names, "back front idle lo");
    assert_eq!(interface(a, "front").1, ["10.77.0.11/24"]);
    assert_eq!(interface(a, "back").1, ["10.78.0.1/24", "10.78.0.2/24"]);
    assert_eq!(interface(a, "idle").1, Vec::<String>::new());
    let macs: Vec<String> = ["front", "back", "idle"]
        .map(|name| interface(a, name).0)
        .into();
    assert!(macs[0] != macs[1] && macs[1] != macs[2], "{macs:?}");
    assert_eq!(
        host.exec("a", "cat /etc/resolv.conf"),
        "nameserver 10.77.0.1\nsearch lan"
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    on_host(&host, "umount /etc/resolv.conf");
    finish(host, lan);
}
