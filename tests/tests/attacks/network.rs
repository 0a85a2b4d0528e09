//! Real packets: a neighbour is a network namespace of its own on a link of the host.

#[path = "edges.rs"]
mod edges;
#[path = "host_rules.rs"]
mod host_rules;
#[path = "open.rs"]
mod open;
#[path = "policy.rs"]
mod policy;
#[path = "publish.rs"]
mod publish;
#[path = "second_daemon.rs"]
mod second_daemon;
#[path = "settings.rs"]
mod settings;
#[path = "spoof.rs"]
mod spoof;
#[path = "table.rs"]
mod table;
#[path = "untracked.rs"]
mod untracked;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};
use tank_tests::{Ended, Host, RUN, bin, eventually, sleeper, words};

/// Listens at a port and says `served` to whoever connects: at `::` of both families, unless an argument more
/// says `v6only`.
const SERVER: &str = r#"
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, dualstack_ipv6=sys.argv[1] == "::" and sys.argv[4:] != ["v6only"])
open(sys.argv[3], "w").close()
while True:
    c, _ = s.accept()
    c.sendall(b"served")
    c.close()
"#;

/// Connects and prints what it is told, or why it can't be.
const CLIENT: &str = r#"
import socket, sys
try:
    c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3]))
    print(c.recv(100).decode())
except OSError:
    print("no connection")
"#;

/// How long a connection is waited for that has to come about, and for one that must not, in
/// seconds.
const PATIENT: &str = "15";
const SHORT: &str = "1";

/// A process that is ended with the test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("a process"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that listens on the host itself.
fn listen(host: &Host, address: &str, port: u16) -> Process {
    let ready = host.dir.join(format!("listens-{port}"));
    let _ = std::fs::remove_file(&ready);
    let mut command = host.inside("/usr/bin/python3");
    let process = Process::start(
        command
            .args(["-c", SERVER, address, &port.to_string()])
            .arg(&ready),
    );
    eventually("it listens", || ready.exists());
    process
}

/// A program that listens in the network of a process: of a pod, or a neighbour.
fn listen_in(host: &Host, pid: u32, address: &str, port: u16) -> Process {
    let ready = host.dir.join(format!("listens-{pid}-{port}"));
    let mut command = Command::new("nsenter");
    command.args([
        "--net",
        &format!("--target={pid}"),
        "--",
        "/usr/bin/python3",
        "-c",
        SERVER,
        address,
    ]);
    let process = Process::start(command.arg(port.to_string()).arg(&ready));
    eventually("it listens", || ready.exists());
    process
}

fn output(command: &mut Command) -> String {
    let ended: Ended = command.output().expect("a program").into();
    ended.ok().trim().to_owned()
}

fn sh(host: &Host, script: &str) -> String {
    output(host.inside("sh").args(["-ec", script]))
}

fn sh_in(pid: u32, script: &str) -> String {
    output(Command::new("nsenter").args([
        "--net",
        &format!("--target={pid}"),
        "--",
        "sh",
        "-ec",
        script,
    ]))
}

/// What a connection from the host gives.
fn connect(host: &Host, address: &str, port: u16) -> String {
    output(host.inside("/usr/bin/python3").args([
        "-c",
        CLIENT,
        address,
        &port.to_string(),
        PATIENT,
    ]))
}

fn connect_from(pid: u32, address: &str, port: u16, limit: &str) -> String {
    let mut command = Command::new("nsenter");
    command.args([
        "--net",
        &format!("--target={pid}"),
        "--",
        "/usr/bin/python3",
        "-c",
        CLIENT,
        address,
    ]);
    output(command.args([&port.to_string(), limit]))
}

/// A machine on the link `name` of the host: 192.0.2.1 and .2, or another `net`.
fn neighbour(host: &Host, name: &str, net: u8) -> Process {
    let ready = host.dir.join(format!("{name}-ready"));
    let script = format!("touch {} && exec sleep 3600", ready.display());
    let process = Process::start(host.inside("unshare").args(["--net", "sh", "-c", &script]));
    eventually("its namespace is there", || ready.exists());
    let pid = process.pid();
    sh(
        host,
        &format!(
            "ip link add {name} type veth peer name eth0 netns {pid}
             ip addr add 192.0.{net}.1/24 dev {name}
             ip addr add 2001:db8:{net}::1/64 dev {name} nodad
             ip link set {name} up"
        ),
    );
    sh_in(
        pid,
        &format!(
            "ip addr add 192.0.{net}.2/24 dev eth0
             ip addr add 2001:db8:{net}::2/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via 192.0.{net}.1
             ip -6 route add default via 2001:db8:{net}::1"
        ),
    );
    process
}

/// The pod's addresses: of IPv4 and of IPv6.
fn addresses(pid: u32) -> (String, String) {
    let of = |family: &str| {
        let lines = sh_in(
            pid,
            &format!("ip {family} -oneline addr show dev eth0 scope global"),
        );
        let cidr = lines
            .split_whitespace()
            .nth(3)
            .expect("an address")
            .to_owned();
        cidr.split('/').next().expect("an address").to_owned()
    };
    (of("-4"), of("-6"))
}

/// Whether the rules for IP see what bridges pass on, as where `br_netfilter` is loaded. Then the kernel
/// cuts a frame off where its packet ends.
fn bridged_packets_are_looked_at(host: &Host, are: bool) {
    let value = u8::from(are);
    sh(
        host,
        &format!(
            "for file in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $file ] || echo {value} > $file; done"
        ),
    );
}

fn table(host: &Host) -> String {
    sh(host, "nft list table inet tank; nft list table bridge tank")
}

#[test]
fn a_port_of_a_program_on_the_host_is_not_taken() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("other")));
    let config = |publish: &str| {
        format!(
            "{{ {} pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, publish.http = {{ {publish}, to = 80 }} }} }}",
            sleeper("other")
        )
    };
    let before = (
        host.traces(),
        host.tank(&["--json", "generations", "list"]).json(),
    );
    for (address, publish, place) in [
        ("127.0.0.1", "port = 5001", "127.0.0.1:5001"),
        ("0.0.0.0", "port = 5001", "127.0.0.1:5001"),
        ("::", "port = 5001", "127.0.0.1:5001"),
        (
            "127.0.0.1",
            "port = 5001, address = \"0.0.0.0\"",
            "0.0.0.0:5001",
        ),
    ] {
        let registry = listen(&host, address, 5001);
        let at = if address == "::" {
            "[::]".to_owned()
        } else {
            address.to_owned()
        };
        host.write("taken.ncl", &config(publish));
        for command in [["switch", "taken.ncl"], ["diff", "taken.ncl"]] {
            let ended = host.tank(&command);
            assert_eq!(
                ended.status, 1,
                "{command:?} {address}: {}{}",
                ended.stdout, ended.stderr
            );
            let pid = registry.pid();
            let expected = format!(
                "pod `web` publishes `http` at {place} (tcp), where `python3` (pid {pid}) listens on this host, at \
                 {at}:5001: it would be cut off; end it, or choose another port"
            );
            assert!(
                words(&ended.stderr).contains(&expected),
                "{command:?}: {}",
                ended.stderr
            );
        }
        assert_eq!(
            (
                host.traces(),
                host.tank(&["--json", "generations", "list"]).json()
            ),
            before
        );
        assert_eq!(connect(&host, "127.0.0.1", 5001), "served");
    }
    // Another address, another protocol, and no program any more.
    let registry = listen(&host, "127.0.0.2", 5001);
    host.switch(&config("port = 5001"));
    drop(registry);
    host.switch(&format!("{{ {} }}", sleeper("other")));
    let registry = listen(&host, "127.0.0.1", 5001);
    host.switch(&config("port = 5001, protocol = 'udp"));
    drop(registry);
    host.switch(&config("port = 5001"));
    // What is published already is not asked about again.
    let late = listen(&host, "127.0.0.1", 5001);
    host.switch(&config("port = 5001").replace("{ image", "{ env.A = \"b\", image"));
    drop(late);
    host.finish();
}

#[test]
fn a_neighbour_reaches_what_is_published_and_nothing_else() {
    let host = Host::new();
    let near = neighbour(&host, "lan0", 2);
    let far = neighbour(&host, "lan1", 3);
    sh(
        &host,
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    );
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, publish = {{
             own = {{ port = 18080, to = 80 }},
             named = {{ port = 18081, to = 80, address = \"192.0.2.1\" }},
             six = {{ port = 18082, to = 80, address = \"2001:db8:2::1\" }},
             all = {{ port = 18083, to = 80, address = \"0.0.0.0\" }} }} }} }}"
    ));
    let pod = host.pid("web", "app") as u32;
    let (v4, v6) = addresses(pod);
    let servers = [
        listen_in(&host, pod, "::", 80),
        listen_in(&host, pod, "::", 81),
        listen_in(&host, far.pid(), "::", 90),
    ];
    let own = listen(&host, "127.0.0.1", 18090);

    // The host's own programs use what is published, and every port of a pod.
    for (address, port) in [
        ("127.0.0.1", 18080),
        ("192.0.2.1", 18081),
        ("2001:db8:2::1", 18082),
        ("127.0.0.1", 18083),
        (&v4, 81),
        (&v6, 81),
    ] {
        assert_eq!(connect(&host, address, port), "served", "{address} {port}");
    }
    // The neighbour what is published for it; others' traffic through the host is none of Tank's
    // business.
    let from =
        |address: &str, port: u16, limit: &str| connect_from(near.pid(), address, port, limit);
    for (address, port) in [
        ("192.0.2.1", 18081),
        ("2001:db8:2::1", 18082),
        ("192.0.2.1", 18083),
        ("192.0.3.2", 90),
        ("2001:db8:3::2", 90),
    ] {
        assert_eq!(from(address, port, PATIENT), "served", "{address} {port}");
    }
    // A pod reaches the neighbour.
    let there = listen_in(&host, near.pid(), "::", 91);
    for address in ["192.0.2.2", "2001:db8:2::2"] {
        assert_eq!(
            connect_from(pod, address, 91, PATIENT),
            "served",
            "{address}"
        );
    }
    // Its default route leads to the host: so do those to the pods, and, without a loopback of its
    // own, that to 127.0.0.1.
    sh_in(
        near.pid(),
        "sysctl -qw net.ipv4.conf.all.route_localnet=1 && ip route add 127.0.0.0/8 via 192.0.2.1 dev eth0",
    );
    for (address, port) in [
        (v4.as_str(), 80),
        (v4.as_str(), 81),
        (v6.as_str(), 80),
        (v6.as_str(), 81),
        ("127.0.0.1", 18080),
        ("127.0.0.1", 18083),
        ("127.0.0.1", 18090),
        ("192.0.2.1", 18080),
        ("2001:db8:2::1", 18080),
    ] {
        assert_eq!(
            from(address, port, SHORT),
            "no connection",
            "{address} {port}"
        );
    }
    // A pod whose root has its way with its own network gets no further.
    sh_in(
        pod,
        "ip route del table local 127.0.0.0/8 dev lo && ip route del table local 127.0.0.1 dev lo
         sysctl -qw net.ipv4.conf.all.route_localnet=1 && ip route add 127.0.0.0/8 via 10.90.0.1 dev eth0",
    );
    for port in [18080, 18090] {
        assert_eq!(
            connect_from(pod, "127.0.0.1", port, SHORT),
            "no connection",
            "127.0.0.1 {port}"
        );
    }
    drop((servers, own, there, near, far));
    sh(
        &host,
        "for link in lan0 lan1; do ip link del $link 2>/dev/null || true; done",
    );
    host.finish();
}

/// A first switch, ended at each of its boundaries: the host never forwards or takes packets to its
/// loopback unguarded.
#[test]
fn the_guard_is_there_before_the_host_forwards() {
    let config = format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, publish.a = {{ port = 18080, to = 80 }} }} }}"
    );
    let mut open = 0;
    for at in 1.. {
        let mut host = Host::without_daemon();
        // A new namespace has what the machine's own has.
        sh(
            &host,
            "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0",
        );
        host.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        host.write("pods.ncl", &config);
        let over = host.tank(&["switch", "pods.ncl"]).status == 0;
        let on = |name: &str| {
            sh(
                &host,
                &format!("cat /proc/sys/net/{name} 2>/dev/null || true"),
            ) == "1"
        };
        if on("ipv4/conf/tank0/route_localnet")
            || on("ipv4/ip_forward")
            || on("ipv6/conf/all/forwarding")
        {
            open += 1;
            let rules = sh(&host, "nft list table inet tank 2>/dev/null || true");
            assert!(
                rules.contains("chain guard") && rules.contains("drop"),
                "boundary {at}: {rules:?}"
            );
        }
        // One that has not died yet would in what follows.
        host.kill_daemon();
        host.start_daemon();
        // What the one before left on its way is waited for by this one.
        eventually("nothing is under way", || {
            let generations = host.tank(&["--json", "generations", "list"]).json();
            generations["generations"]
                .as_array()
                .expect("generations")
                .iter()
                .all(|one| one["outcome"] != "pending")
        });
        host.finish();
        if over {
            break;
        }
    }
    assert!(open > 1, "it was never looked at while the host forwards");
}

/// systemd-resolved is on the host's loopback: its search domains are those of its own file, and its
/// upstreams are what the name server asks (`names.rs`).
#[test]
fn a_pod_asks_the_servers_behind_the_hosts_own() {
    let mut host = Host::without_daemon();
    host.write("stub", "nameserver 127.0.0.53\noptions edns0 trust-ad\n");
    host.write("upstream", "nameserver 192.0.2.53\nsearch lan\n");
    sh(
        &host,
        &format!(
            "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/resolve && cp {0}/upstream /run/systemd/resolve/resolv.conf
             mount --bind {0}/stub /etc/resolv.conf",
            host.dir.display()
        ),
    );
    host.start_daemon();
    host.switch(&format!(
        "{{ {} pods.near = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, network = 'host }} }}",
        sleeper("web")
    ));
    assert_eq!(
        host.exec("web", "cat /etc/resolv.conf"),
        "nameserver 10.90.0.1\nnameserver fd74:616e:6b00::1\nsearch tank.internal lan"
    );
    assert_eq!(
        host.exec("near", "cat /etc/resolv.conf"),
        "nameserver 127.0.0.53\noptions edns0 trust-ad"
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    sh(&host, "umount /etc/resolv.conf");
    host.finish();
}
