//! Where a policy could end: at addresses that nobody declared, with a pod's last breath, at what was
//! open before it, at what leaves by a question.

use super::{
    publish::{self, datagram, servers},
    spoof::python_in,
    *,
};
use std::process::Child;

/// Sends datagrams from one port of its own, for each line it reads, and prints what comes back.
const FLOW: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5555))
s.settimeout(float(sys.argv[3]))
for line in sys.stdin:
    s.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
    try:
        print(s.recv(100).decode(), flush=True)
    except OSError:
        print("no answer", flush=True)
"#;

fn pod(name: &str, rest: &str) -> String {
    format!("pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, {rest} }},")
}

fn pid(host: &Host, pod: &str) -> u32 {
    u32::try_from(host.pid(pod, "app")).expect("a pid")
}

/// What `from` gets of an address, by TCP and by UDP.
fn asks(from: u32, address: &str, port: u16, limit: &str) -> (String, String) {
    let tcp = connect_from(from, address, port, limit);
    (tcp, datagram(python_in(from), address, port, limit))
}

fn link_local(pid: u32) -> String {
    sh_in(
        pid,
        "ip -6 -o addr show dev eth0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'",
    )
}

fn nothing() -> (String, String) {
    ("no connection".to_owned(), "no answer".to_owned())
}

/// Pods with policies, asked at their link-local addresses: the kernel gives every interface one, and routes
/// between two of one link.
fn link_local_policies(host: &Host, prepare: impl Fn(bool)) {
    let pods = [
        pod("db", "allow_from = 'none"),
        pod("web", ""),
        pod("mute", "egress = 'none"),
    ];
    host.switch(&format!("{{ {} }}", pods.concat()));
    let [db, web, mute] = ["db", "web", "mute"].map(|name| pid(host, name));
    let at = |pid| format!("{}%eth0", link_local(pid));
    let all = [db, web].map(|pid| servers(host, pid, &["80"]));
    let own = publish::serve(host, host.daemon_pid(), publish::TCP_SERVER, &["9000"]);
    let bridge = sh(
        host,
        "ip -6 -o addr show dev tank0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'",
    );
    for are in [false, true] {
        prepare(are);
        assert_eq!(asks(web, &at(db), 80, SHORT), nothing(), "web to db");
        assert_eq!(asks(mute, &at(web), 80, SHORT), nothing(), "mute to web");
        let to_host = connect_from(mute, &format!("{bridge}%eth0"), 9000, SHORT);
        assert_eq!(to_host, "no connection", "mute to the host");
        // Whoever has no policy goes on having them.
        let to_host = connect_from(web, &format!("{bridge}%eth0"), 9000, PATIENT);
        assert!(to_host.starts_with("tcp "), "{to_host}");
        let (tcp, udp) = asks(db, &at(web), 80, PATIENT);
        assert!(
            tcp.starts_with("tcp ") && udp.starts_with("udp "),
            "{tcp} {udp}"
        );
    }
    drop((own, all));
}

#[test]
fn a_policy_holds_for_link_local_addresses() {
    let host = Host::new();
    link_local_policies(&host, |are| bridged_packets_are_looked_at(&host, are));
    host.finish();
}

/// A host without a network of IPv6 has pods with link-local addresses all the same.
#[test]
fn a_policy_holds_where_pods_have_no_other_address_of_the_family() {
    let mut host = Host::without_daemon();
    let settings = std::fs::read_to_string(host.dir.join("tank.toml")).expect("settings");
    host.write(
        "tank.toml",
        &format!("networks = [\"10.90.0.0/16\"]\n{settings}"),
    );
    host.start_daemon();
    link_local_policies(&host, |are| {
        bridged_packets_are_looked_at(&host, are);
        sh(&host, "sysctl -qw net.ipv6.conf.all.forwarding=1");
    });
    host.finish();
}

/// A pod that takes its time to end is reached by nobody new meanwhile, also when the daemon that knew
/// its policy is gone.
#[test]
fn a_pod_on_its_way_out_keeps_its_policy() {
    let mut host = Host::new();
    let slow = |name: &str, rest: &str| {
        format!(
            "pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", command = [\"/bin/sh\", \"-c\", \"trap '' TERM USR1; while :; do sleep 1; done\"], stop.timeout = \"40s\" }}, {rest} }},"
        )
    };
    let pods = [
        slow("db", "allow_from = 'none"),
        slow("mute", "egress = 'none"),
        pod("web", ""),
    ];
    host.switch(&format!("{{ {} }}", pods.concat()));
    let [db, web, mute] = ["db", "web", "mute"].map(|name| pid(&host, name));
    let (to_db, to_web) = (addresses(db), addresses(web));
    let all = [db, web].map(|pid| servers(&host, pid, &["80"]));
    host.write("less.ncl", &format!("{{ {} }}", pod("web", "")));
    let mut switch: Child = host
        .command(&["switch", "less.ncl"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a switch");
    eventually("it has begun", || {
        host.tank(&["status", "--json"]).json()["generation"] == 2
    });
    for restarted in [false, true] {
        if restarted {
            host.kill_daemon();
            let _ = switch.wait();
            host.start_daemon();
        }
        for (from, to, what) in [(web, &to_db, "web to db"), (mute, &to_web, "mute to web")] {
            for address in [&to.0, &to.1] {
                assert_eq!(asks(from, address, 80, SHORT), nothing(), "{what}");
            }
        }
        assert!(
            std::path::Path::new(&format!("/proc/{db}")).exists(),
            "db runs"
        );
    }
    drop(all);
    sh(&host, &format!("kill -9 {db} {mute}"));
    let _ = switch.wait();
    eventually("it is over", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
    host.finish();
}

/// What was open before a policy is judged by it: it does not begin with the next connection.
#[test]
fn a_policy_ends_what_it_does_not_let_through() {
    let host = Host::new();
    let config = |db: &str| format!("{{ {}{} }}", pod("db", db), pod("web", ""));
    host.switch(&config("allow_from = [\"web\"]"));
    let [db, web] = ["db", "web"].map(|name| pid(&host, name));
    let server = servers(&host, db, &["80"]);
    for are in [false, true] {
        bridged_packets_are_looked_at(&host, are);
        host.switch(&config("allow_from = [\"web\"]"));
        let mut flow = python_in(web)
            .args(["-c", FLOW, &addresses(db).0, "80", "3"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a sender");
        let mut lines = std::io::BufReader::new(flow.stdout.take().expect("output"));
        let mut to = flow.stdin.take().expect("input");
        let mut ask = || {
            let mut line = String::new();
            std::io::Write::write_all(&mut to, b"\n").expect("write");
            std::io::BufRead::read_line(&mut lines, &mut line).expect("read");
            line.trim().to_owned()
        };
        assert_eq!(ask(), "udp 80");
        host.switch(&config("allow_from = 'none"));
        assert_eq!(ask(), "no answer");
        host.switch(&config("allow_from = [\"web\"]"));
        assert_eq!(ask(), "udp 80");
        drop(to);
        let _ = flow.wait();
    }
    drop(server);
    host.finish();
}

/// A port that is published at another's address leads nobody astray.
#[test]
fn nobody_publishes_at_the_address_of_another() {
    let host = Host::new();
    host.switch(&format!("{{ {}{} }}", pod("db", ""), pod("web", "")));
    let [db, web] = ["db", "web"].map(|name| pid(&host, name));
    let server = servers(&host, db, &["80"]);
    let (db4, db6) = addresses(db);
    let thief = format!(
        "publish.p = {{ port = 80, to = 81, address = [\"{db4}\", \"{db6}\"], protocol = 'both }}"
    );
    host.switch(&format!(
        "{{ {}{}{} }}",
        pod("db", ""),
        pod("web", ""),
        pod("thief", &thief)
    ));
    let other = servers(&host, pid(&host, "thief"), &["81"]);
    for address in [&db4, &db6] {
        let (tcp, udp) = asks(web, address, 80, PATIENT);
        assert!(tcp.starts_with("tcp 80 "), "{tcp}");
        assert_eq!(udp, "udp 80");
        let tcp = connect(&host, address, 80);
        assert!(tcp.starts_with("tcp 80 "), "{tcp}");
    }
    drop((server, other));
    host.finish();
}
