//! Real packets: a neighbour is a network namespace of its own on a link of the host.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};
use tank_tests::{Ended, Host, RUN, bin, eventually, sleeper};

/// Listens at a port and says `served` to whoever connects.
const SERVER: &str = r#"
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, dualstack_ipv6=sys.argv[1] == "::")
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

fn table(host: &Host) -> String {
    sh(host, "nft list table inet tank")
}

/// Where a second daemon would put what is its own.
fn second(host: &Host, name: &str, given: &[(&str, &Path)]) -> Vec<String> {
    let own = host.dir.join(name);
    let config = own.join("tank.toml");
    std::fs::create_dir_all(&own).expect("a folder");
    std::fs::write(
        &config,
        format!(
            "cgroup = \"{}\"\nbridge = \"tank1\"\n",
            host.cgroup.clone() + name
        ),
    )
    .expect("settings");
    let own = [
        ("state-dir", own.join("state")),
        ("run-dir", own.join("run")),
        ("config", config),
    ];
    let mut args: Vec<String> = Vec::new();
    for (flag, path) in &own {
        let path = given
            .iter()
            .find(|(known, _)| known == flag)
            .map_or(path.as_path(), |(_, path)| path);
        args.push(format!("--{flag}={}", path.display()));
    }
    let more = given
        .iter()
        .filter(|(flag, _)| own.iter().all(|(known, _)| known != flag));
    args.extend(more.map(|(flag, path)| format!("--{flag}={}", path.display())));
    args
}

/// What a daemon says that has to end by itself.
#[track_caller]
fn refused(host: &Host, network: bool, args: &[String]) -> String {
    let mut command = host.inside("timeout");
    command.arg("60");
    if network {
        command.args(["unshare", "--net"]);
    }
    let ended: Ended = command
        .arg(bin("tankd"))
        .args(args)
        .output()
        .expect("tankd")
        .into();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let said = ended.stderr.lines().last().unwrap_or_default();
    said.replace(&host.dir.display().to_string(), "DIR")
        .replace(&host.cgroup, "CGROUP")
}

#[test]
fn a_second_daemon_takes_nothing_of_the_first() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let (pid, daemon) = (host.pid("web", "app"), host.daemon_pid());
    let (state, run, config, socket) = (
        host.dir.join("state"),
        host.dir.join("run"),
        host.dir.join("tank.toml"),
        host.socket(),
    );
    // As an operator does who thinks that it is left over.
    std::fs::remove_file(state.join("store/LOCK")).expect("the store's lock");

    let by = |what: &str, help: &str| {
        format!("tankd: {what} is used by another tankd (pid {daemon}): stop that one, or {help}")
    };
    assert_eq!(
        refused(&host, true, &second(&host, "a", &[("state-dir", &state)])),
        by(
            "the state folder DIR/state",
            "give this one another with `--state-dir`"
        )
    );
    assert_eq!(
        refused(&host, true, &second(&host, "b", &[("run-dir", &run)])),
        by(
            "the run folder DIR/run",
            "give this one another with `--run-dir`"
        )
    );
    let cgroup = sh(
        &host,
        &format!(
            "find /sys/fs/cgroup -maxdepth 3 -path '*/{}/cgroup.kill'",
            host.cgroup
        ),
    );
    let cgroup = cgroup
        .trim_end_matches("/cgroup.kill")
        .replace(&host.cgroup, "CGROUP");
    assert_eq!(
        refused(&host, true, &second(&host, "c", &[("config", &config)])),
        by(
            &format!("the cgroup {cgroup}"),
            "give this one another with `cgroup` in tank.toml"
        )
    );
    assert_eq!(
        refused(&host, false, &second(&host, "d", &[])),
        by(
            "the network namespace, with the bridge and the table `inet tank`,",
            "start this one in a network namespace of its own"
        )
    );
    assert_eq!(
        refused(&host, true, &second(&host, "e", &[("socket", &socket)])),
        format!(
            "tankd: serve DIR/run/tank.sock: somebody else serves it (pid {daemon}): stop that one, or name another with \
             `--socket`"
        )
    );
    // What is no socket is never replaced.
    let file = host.dir.join("notes");
    std::fs::write(&file, "mine").expect("write");
    assert_eq!(
        refused(&host, true, &second(&host, "f", &[("socket", &file)])),
        "tankd: serve DIR/notes: there is something else that is no socket: remove it, or name another with `--socket`"
    );
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "mine");

    assert_eq!(
        host.pid("web", "app"),
        pid,
        "the first one and its pod are as they were"
    );
    assert_eq!(host.daemon_pid(), daemon);
    remove_cgroups_of_second(&host);
    host.finish();
}

/// Second daemons that got as far as their cgroup leave it, empty.
fn remove_cgroups_of_second(host: &Host) {
    sh(
        host,
        &format!(
            "find /sys/fs/cgroup -maxdepth 2 -type d -name '{}[a-z]' -exec rmdir {{}} +",
            host.cgroup
        ),
    );
}

#[test]
fn pods_of_a_daemon_that_is_away_are_not_swept_by_another() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let pid = host.pid("web", "app");
    host.kill_daemon();
    let (run, config) = (host.dir.join("run"), host.dir.join("tank.toml"));
    let cgroup = sh(
        &host,
        &format!(
            "find /sys/fs/cgroup -maxdepth 3 -path '*/{}/cgroup.kill'",
            host.cgroup
        ),
    );
    let cgroup = cgroup
        .trim_end_matches("/cgroup.kill")
        .replace(&host.cgroup, "CGROUP");
    let holds = |what: &str, help: &str| {
        format!(
            "tankd: {what} holds pods of the tankd with the state folder DIR/state: end them with that one, or {help}"
        )
    };
    assert_eq!(
        refused(&host, false, &second(&host, "a", &[("config", &config)])),
        holds(
            &format!("the cgroup {cgroup}"),
            "give this one another with `cgroup` in tank.toml"
        )
    );
    assert_eq!(
        refused(&host, false, &second(&host, "b", &[("run-dir", &run)])),
        holds(
            "the run folder DIR/run",
            "give this one another with `--run-dir`"
        )
    );
    host.start_daemon();
    assert_eq!(
        host.pid("web", "app"),
        pid,
        "it runs on under its own daemon"
    );
    remove_cgroups_of_second(&host);
    host.finish();
}

#[test]
fn a_daemon_that_was_killed_leaves_nothing_taken() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let pid = host.pid("web", "app");
    for _ in 0..5 {
        host.kill_daemon();
        host.start_daemon();
    }
    assert_eq!(host.pid("web", "app"), pid);
    assert_eq!(
        host.daemon_log().matches("another tankd").count(),
        0,
        "{}",
        host.daemon_log()
    );
    host.finish();
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
                ended.stderr.contains(&expected),
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

/// Everything that is done to the table is seen by its content, and undone.
#[test]
fn an_edited_table_is_put_right_whatever_its_comments_say() {
    let host = Host::new();
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }},
             publish.a = {{ port = 18080, to = 80 }}, publish.b = {{ port = 18081, to = 81 }} }} }}"
    ));
    let sound = table(&host);
    let load = |text: &str| {
        host.write("edited.nft", &format!("delete table inet tank\n{text}\n"));
        sh(&host, &format!("nft -f {}/edited.nft", host.dir.display()));
    };
    let swapped = {
        let mut lines: Vec<&str> = sound.lines().collect();
        let rules: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].contains("dport 1808"))
            .collect();
        lines.swap(rules[0], rules[1]);
        lines.join("\n")
    };
    let first = |from: &str, to: &str| sound.replacen(from, to, 1);
    let edits = [
        ("a guard that accepts", first(" drop ", " accept ")),
        ("a guard for less", first("127.0.0.0/8", "127.0.0.0/16")),
        (
            "a port that leads elsewhere",
            first(":80 comment", ":8 comment"),
        ),
        (
            "a chain that comes later",
            first("priority raw", "priority 50"),
        ),
        ("a chain that drops", first("policy accept", "policy drop")),
        ("rules in another order", swapped),
        (
            "a rule more",
            first("\t\tiifname", "\t\ttcp dport 9 accept\n\t\tiifname"),
        ),
        ("a rule twice", {
            let line = sound
                .lines()
                .find(|line| line.contains("dport 18080"))
                .expect("a rule");
            first(line, &format!("{line}\n{line}"))
        }),
    ];
    for (what, text) in edits {
        assert_ne!(text, sound, "{what}: nothing is edited");
        load(&text);
        eventually(what, || table(&host) == sound);
    }
    for (what, command) in [
        (
            "a table that sleeps",
            "nft 'add table inet tank { flags dormant; }'",
        ),
        ("a chain more", "nft add chain inet tank mine"),
        (
            "a set more",
            "nft 'add set inet tank mine { type ipv4_addr; }'",
        ),
    ] {
        sh(&host, command);
        eventually(what, || table(&host) == sound);
    }
    host.finish();
}

#[test]
fn long_names_and_ipv6_do_not_make_rules_alike() {
    let host = Host::new();
    let (pod, publish) = ("p".repeat(63), "n".repeat(62));
    let container = format!("containers.app = {{ image = \"oci:./busybox\", {RUN} }}");
    let address = "address = \"2001:db8:1111:2222:3333:4444:5555:6666\"";
    host.switch(&format!(
        "{{ pods.{pod} = {{ {container}, publish = {{
             {publish}1 = {{ port = 18080, to = 80, {address} }}, {publish}2 = {{ port = 18080, to = 80 }},
             {publish}3 = {{ port = 18081, to = 18080, {address} }}, {publish}4 = {{ port = 18081, to = 18081, {address}, protocol = 'udp }},
             {publish}5 = {{ port = 18082, to = 18081, address = \"::\" }} }} }} }}"
    ));
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    assert_eq!(
        table(&host).matches("dport 1808").count(),
        4 * 2 + 1,
        "one on loopback is for the host alone"
    );
    host.finish();
}

#[test]
fn a_neighbour_reaches_what_is_published_and_nothing_else() {
    let host = Host::new();
    let near = neighbour(&host, "lan0", 2);
    let far = neighbour(&host, "lan1", 3);
    sh(
        &host,
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0",
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

/// systemd-resolved is on the host's loopback: its upstreams are what a pod can reach.
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
        "nameserver 192.0.2.53\nsearch lan"
    );
    assert_eq!(
        host.exec("near", "cat /etc/resolv.conf"),
        "nameserver 127.0.0.53\noptions edns0 trust-ad"
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    sh(&host, "umount /etc/resolv.conf");
    host.finish();
}
