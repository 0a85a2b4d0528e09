//! Published ports of every shape: ranges, several addresses, both families and both protocols.

use super::{spoof::python_in, *};

/// Answers every datagram with its port.
pub const UDP_SERVER: &str = r#"
import select, socket, sys
open_ones = []
for port in sys.argv[2:]:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    s.bind(("::", int(port)))
    open_ones.append(s)
open(sys.argv[1], "w").close()
while True:
    for s in select.select(open_ones, [], [])[0]:
        data, ancillary, _, sender = s.recvmsg(100, 100)
        s.sendmsg([b"udp %d" % s.getsockname()[1]], ancillary, 0, sender)
"#;

const UDP_CLIENT: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[3]))
s.connect(socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_DGRAM)[0][4])
try:
    s.send(b"x")
    print(s.recv(100).decode())
except OSError:
    print("no answer")
"#;

/// Listens at TCP ports and says which one it was, and who came.
pub const TCP_SERVER: &str = r#"
import select, socket, sys
open_ones = [socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True) for port in sys.argv[2:]]
open(sys.argv[1], "w").close()
while True:
    for s in select.select(open_ones, [], [])[0]:
        c, sender = s.accept()
        c.sendall(b"tcp %d from %s" % (s.getsockname()[1], sender[0].replace("::ffff:", "").encode()))
        c.close()
"#;

pub fn serve(host: &Host, pid: u32, script: &str, ports: &[&str]) -> Process {
    let ready = host.dir.join(format!("serves-{pid}-{}", script.len()));
    let _ = std::fs::remove_file(&ready);
    let process = Process::start(python_in(pid).args(["-c", script]).arg(&ready).args(ports));
    eventually("it listens", || ready.exists());
    process
}

pub fn servers(host: &Host, pid: u32, ports: &[&str]) -> [Process; 2] {
    [
        serve(host, pid, TCP_SERVER, ports),
        serve(host, pid, UDP_SERVER, ports),
    ]
}

/// What a datagram to a port is answered with.
pub fn datagram(mut command: Command, address: &str, port: u16, limit: &str) -> String {
    output(command.args(["-c", UDP_CLIENT, address, &port.to_string(), limit]))
}

#[test]
fn ranges_addresses_and_protocols_lead_where_they_say() {
    let host = Host::new();
    let near = neighbour(&host, "lan0", 2);
    sh(
        &host,
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0",
    );
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, publish = {{
             range = {{ port = \"18000-18002\", to = \"80-82\", address = [\"0.0.0.0\", \"::\"], protocol = 'both }},
             one = {{ port = \"18010-18011\", to = 80, address = [\"192.0.2.1\", \"2001:db8:2::1\"] }},
             own = {{ port = \"18020-18021\", to = \"80-81\", address = [\"127.0.0.1\", \"127.0.0.2\"], protocol = 'both }} }} }} }}"
    ));
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    let pod = host.pid("web", "app") as u32;
    let servers = servers(&host, pod, &["80", "81", "82", "83"]);
    let tcp = |address: &str, port: u16, limit| connect_from(near.pid(), address, port, limit);
    let udp = |address: &str, port, limit| datagram(python_in(near.pid()), address, port, limit);
    for (address, source) in [
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8:2::1", "2001:db8:2::2"),
    ] {
        for (port, to) in [(18000, 80), (18001, 81), (18002, 82)] {
            // From elsewhere with the address it has.
            assert_eq!(
                tcp(address, port, PATIENT),
                format!("tcp {to} from {source}")
            );
            assert_eq!(udp(address, port, PATIENT), format!("udp {to}"));
        }
        for port in [18010, 18011] {
            assert_eq!(tcp(address, port, PATIENT), format!("tcp 80 from {source}"));
            assert_eq!(udp(address, port, SHORT), "no answer", "{address} {port}");
        }
        for port in [17999, 18003, 18009, 18012, 18020, 18021] {
            assert_eq!(
                tcp(address, port, SHORT),
                "no connection",
                "{address} {port}"
            );
        }
    }
    // From the host itself, by loopback and by every address, and from the pod itself.
    let on_host = || host.inside("/usr/bin/python3");
    for (address, port, to) in [
        ("127.0.0.1", 18020, 80),
        ("127.0.0.2", 18021, 81),
        ("127.0.0.1", 18002, 82),
        ("192.0.2.1", 18001, 81),
        ("2001:db8:2::1", 18001, 81),
    ] {
        let answer = connect(&host, address, port);
        assert!(
            answer.starts_with(&format!("tcp {to} from ")),
            "{address} {port}: {answer}"
        );
        assert_eq!(
            datagram(on_host(), address, port, PATIENT),
            format!("udp {to}"),
            "{address} {port}"
        );
    }
    for (address, port) in [("127.0.0.3", 18020), ("127.0.0.1", 18010)] {
        assert_eq!(
            connect(&host, address, port),
            "no connection",
            "{address} {port}"
        );
    }
    let hairpin = connect_from(pod, "10.90.0.1", 18001, PATIENT);
    assert!(hairpin.starts_with("tcp 81 from "), "{hairpin}");
    let listed = host.tank(&["get", "web"]).ok();
    for line in [
        "0.0.0.0:18000-18002->80-82/tcp+udp",
        "[::]:18000-18002->80-82/tcp+udp",
        "192.0.2.1:18010-18011->80",
        "127.0.0.2:18020-18021->80-81/tcp+udp",
    ] {
        assert!(listed.contains(line), "{line}: {listed}");
    }
    drop((servers, near));
    sh(&host, "ip link del lan0 2>/dev/null || true");
    host.finish();
}

/// Of a range, of each address and of both protocols: whatever one port of it meets.
#[test]
fn a_program_of_the_host_keeps_each_port_it_has() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let before = (host.traces(), table(&host));
    let config = "{ pods.web = { containers.app = { image = \"oci:./busybox\", RUN }, publish.p = { port = \"18000-18010\", address = [\"127.0.0.9\", \"::\"], protocol = 'both } } }";
    host.write("taken.ncl", &config.replace("RUN", RUN));
    let refused = |place: &str, protocol: &str| {
        let ended = host.tank(&["switch", "taken.ncl"]);
        let expected = format!("publishes `p` at {place} ({protocol}), where `python3`");
        assert!(
            ended.status == 1 && ended.stderr.contains(&expected),
            "{expected}: {}",
            ended.stderr
        );
        assert_eq!((host.traces(), table(&host)), before, "nothing was changed");
    };
    let program = listen(&host, "127.0.0.9", 18010);
    refused("127.0.0.9:18010", "tcp");
    drop(program);
    let program = listen(&host, "::1", 18000);
    refused("[::]:18000", "tcp");
    drop(program);
    let ready = host.dir.join("udp-ready");
    let mut command = host.inside("/usr/bin/python3");
    let program = Process::start(command.args(["-c", UDP_SERVER]).arg(&ready).arg("18005"));
    eventually("it listens", || ready.exists());
    refused("127.0.0.9:18005", "udp");
    drop(program);
    // Beside the range it is in nobody's way.
    let program = listen(&host, "127.0.0.9", 18011);
    host.switch(&config.replace("RUN", RUN));
    drop(program);
    host.finish();
}

/// A rollback takes a port from a program of the host, and one that begins to listen later gets nothing:
/// neither without a word.
#[test]
fn a_program_that_is_cut_off_is_named() {
    let host = Host::new();
    let published = "{ pods.web = { containers.app = { image = \"oci:./busybox\", RUN }, publish.p = { port = \"18000-18010\", address = \"127.0.0.9\" } } }";
    host.switch(&published.replace("RUN", RUN));
    let unmet = || host.tank(&["diff", "--exit-code", "pods.ncl"]);
    assert_eq!(unmet().status, 0, "{}", unmet().stdout);
    let listener = listen(&host, "0.0.0.0", 18003);
    let warning = "web: publishes `p` at 127.0.0.9:18003 (tcp), where a program of user 0 listens on this host, at \
                   0.0.0.0:18003: that is cut off; `ss -tlnp sport = 18003` names it";
    assert!(unmet().stdout.contains(warning), "{}", unmet().stdout);
    assert_eq!(unmet().status, 2);
    let ss = host
        .inside("ss")
        .args(["-tlnp", "sport", "=", "18003"])
        .output();
    let named = String::from_utf8(ss.expect("ss").stdout).expect("text");
    let pid = format!("pid={},", listener.0.id());
    assert!(named.contains(&pid), "{named}");
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let rollback = host.tank(&["generations", "rollback"]);
    assert_eq!(rollback.status, 0, "{}", rollback.stderr);
    assert!(rollback.stderr.contains(warning), "{}", rollback.stderr);
    let web = host.tank(&["get", "web"]).stdout;
    assert!(web.contains("that is cut off"), "{web}");
    drop(listener);
    host.write("pods.ncl", &published.replace("RUN", RUN));
    assert_eq!(unmet().status, 0, "{}", unmet().stdout);
    host.finish();
}

/// A program that listens at `::` for IPv6 alone holds no port of IPv4: none is refused for it, and it goes
/// on being reached. One of IPv6 is.
#[test]
fn a_program_of_ipv6_alone_holds_no_port_of_ipv4() {
    let host = Host::new();
    let ready = host.dir.join("listens-6");
    let mut command = host.inside("/usr/bin/python3");
    let program = Process::start(
        command
            .args(["-c", SERVER, "::", "18003"])
            .args([ready.as_os_str(), "v6only".as_ref()]),
    );
    eventually("it listens", || ready.exists());
    let config = |address: &str| {
        format!(
            "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, publish.p = {{ port = 18003, address = \"{address}\" }} }} }}"
        )
    };
    host.write("six.ncl", &config("::"));
    let refused = host.tank(&["switch", "six.ncl"]);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    let expected = format!("`python3` (pid {}) listens on this host", program.pid());
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    host.switch(&config("0.0.0.0"));
    let unmet = host.tank(&["diff", "--exit-code", "pods.ncl"]);
    assert_eq!(unmet.status, 0, "{}", unmet.stdout);
    assert_eq!(connect(&host, "::1", 18003), "served");
    drop(program);
    host.finish();
}
