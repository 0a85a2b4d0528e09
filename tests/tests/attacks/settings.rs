//! The host's own settings: what Tank changes of them opens no more than its pods need, costs the
//! host nothing it had, and is given back.

use super::*;

/// Sends a router advertisement over a link, as a router whose default route is good for so many seconds:
/// from the link's own address, once that is sure to be its own. From another one nobody takes it.
const ROUTER: &str = r#"
import socket, struct, sys, time
link, lifetime = sys.argv[1], int(sys.argv[2])
TENTATIVE = 0x40  # IFA_F_TENTATIVE, of the fifth word
def own():
    for line in open("/proc/net/if_inet6"):
        address, _, _, scope, flags, name = line.split()
        if name == link and scope == "20" and not int(flags, 16) & TENTATIVE:
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))
for _ in range(1000):
    if own():
        break
    time.sleep(0.02)
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.bind((own(), 0, 0, socket.if_nametoindex(link)))
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xc0, 3600, 3600, 0) + socket.inet_pton(socket.AF_INET6, "2001:db8:77::")
s.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0) + prefix, ("ff02::1", 0, 0, socket.if_nametoindex(link)))
"#;

/// Writes down from whom router advertisements arrive.
const LISTENER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
out = open(sys.argv[1], "w", buffering=1)
out.write("ready\n")
while True:
    message, source = s.recvfrom(2000)
    if message[0] == 134:
        out.write(source[0] + "\n")
"#;

/// Every setting of the host's links and of its forwarding, without those of Tank's own links.
fn settings(host: &Host) -> String {
    sh(
        host,
        "cd /proc/sys/net && for f in ipv4/ip_forward ipv4/conf/*/* ipv6/conf/*/*; do
           case $f in */tank0/*|*/tk[0-9]*/*|*/stable_secret) ;; *) echo $f $(cat $f 2>/dev/null) ;; esac
         done",
    )
}

fn web(publish: &str) -> String {
    format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, publish = {{ {publish} }} }} }}"
    )
}

fn remove_lans(host: &Host) {
    sh(
        host,
        "for link in lan0 lan1 late0; do ip link del $link 2>/dev/null || true; done",
    );
}

#[test]
fn the_host_is_no_router_between_its_links_and_gets_its_settings_back() {
    let host = Host::without_daemon();
    let near = neighbour(&host, "lan0", 2);
    let far = neighbour(&host, "lan1", 3);
    sh(
        &host,
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
         sysctl -qw net.ipv4.conf.lan1.forwarding=1 net.ipv4.conf.all.rp_filter=0",
    );
    let before = settings(&host);
    let host = host.started_with(&[]);
    host.switch(&web("all = { port = 18083, to = 80, address = \"0.0.0.0\" }, six = { port = 18083, to = 80, address = \"::\" }"));
    let pod = host.pid("web", "app") as u32;
    let servers = [
        listen_in(&host, pod, "::", 80),
        listen_in(&host, far.pid(), "::", 90),
        listen_in(&host, near.pid(), "::", 91),
    ];
    let forwards =
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding | xargs";
    assert_eq!(sh(&host, forwards), "1 1");
    for address in ["192.0.2.1", "2001:db8:2::1"] {
        assert_eq!(
            connect_from(near.pid(), address, 18083, PATIENT),
            "served",
            "{address}"
        );
    }
    for address in ["192.0.2.2", "2001:db8:2::2"] {
        assert_eq!(
            connect_from(pod, address, 91, PATIENT),
            "served",
            "{address}"
        );
    }
    for address in ["192.0.3.2", "2001:db8:3::2"] {
        assert_eq!(
            connect(&host, address, 90),
            "served",
            "{address} from the host"
        );
        assert_eq!(
            connect_from(near.pid(), address, 90, SHORT),
            "no connection",
            "{address}"
        );
    }
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    // Another link of somebody who has the host forward for it is his own business.
    let late = neighbour(&host, "late0", 4);
    let there = listen_in(&host, late.pid(), "::", 92);
    assert_eq!(connect_from(near.pid(), "192.0.4.2", 92, PATIENT), "served");
    drop((there, late));
    sh(&host, "ip link del late0 2>/dev/null || true");
    // It is found again by another daemon, and given back by it.
    let mut host = host;
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.switch("{}");
    assert_eq!(settings(&host), before);
    assert_eq!(
        connect_from(near.pid(), "192.0.3.2", 90, SHORT),
        "no connection"
    );
    drop((servers, near, far));
    remove_lans(&host);
    host.finish();
}

#[test]
fn a_host_that_was_a_router_stays_one() {
    let host = Host::without_daemon();
    let near = neighbour(&host, "lan0", 2);
    let far = neighbour(&host, "lan1", 3);
    sh(
        &host,
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0",
    );
    let before = settings(&host);
    let server = listen_in(&host, far.pid(), "::", 90);
    let host = host.started_with(&[]);
    let routed = || {
        for address in ["192.0.3.2", "2001:db8:3::2"] {
            assert_eq!(
                connect_from(near.pid(), address, 90, PATIENT),
                "served",
                "{address}"
            );
        }
    };
    routed();
    host.switch(&web(""));
    routed();
    host.switch("{}");
    routed();
    assert_eq!(settings(&host), before);
    drop((server, near, far));
    remove_lans(&host);
    host.finish();
}

#[test]
fn a_route_that_a_router_advertises_stays_and_pods_listen_to_none() {
    let host = Host::without_daemon();
    let router = neighbour(&host, "lan0", 2);
    sh(
        &host,
        "sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv6.conf.lan0.forwarding=0 net.ipv6.conf.lan0.accept_ra=1
         sysctl -qw net.ipv6.conf.lan0.accept_ra_defrtr=1",
    );
    let advertise = |lifetime: &str| {
        let mut command = Command::new("nsenter");
        command.args(["--net", &format!("--target={}", router.pid()), "--"]);
        output(command.args(["/usr/bin/python3", "-c", ROUTER, "eth0", lifetime]));
    };
    let default = || sh(&host, "ip -6 route show default");
    eventually("it is advertised", || {
        advertise("1000");
        default().contains("proto ra")
    });
    let before = settings(&host);
    let host = host.started_with(&[]);
    let default = || sh(&host, "ip -6 route show default");
    host.switch(&web(""));
    let setting = |name: &str| sh(&host, &format!("cat /proc/sys/net/ipv6/conf/{name}"));
    assert_eq!(
        (setting("all/forwarding"), setting("lan0/accept_ra")),
        ("1".into(), "2".into())
    );
    assert!(default().contains("proto ra"), "{}", default());
    // And it is renewed.
    eventually("it is advertised for longer", || {
        advertise("9000");
        let text = default();
        let mut words = text
            .split_whitespace()
            .skip_while(|word| *word != "expires");
        let left = words
            .nth(1)
            .and_then(|word| word.strip_suffix("sec"))
            .map(str::to_owned);
        left.and_then(|left| left.parse::<u32>().ok())
            .is_some_and(|left| left > 5000)
    });

    // The host itself gets through to pods, and is not believed.
    let pod = host.pid("web", "app") as u32;
    let inside = || {
        sh_in(
            pod,
            "ip -6 route show default; ip -6 -o addr show dev eth0 scope global | cut -d' ' -f1-7",
        )
    };
    let was = inside();
    let arrived = host.dir.join("arrived");
    let listener = Process::start(
        super::spoof::python_in(pod)
            .args(["-c", LISTENER])
            .arg(&arrived),
    );
    let lines = || std::fs::read_to_string(&arrived).unwrap_or_default();
    eventually("it listens", || !lines().is_empty());
    for count in [2, 3] {
        let mut router = host.inside("/usr/bin/python3");
        output(router.args(["-c", ROUTER, "tank0", "1000"]));
        eventually("it arrives", || lines().lines().count() == count);
    }
    // The first one was dealt with when the second was there.
    let sources = lines();
    let mut sources = sources.lines().skip(1);
    assert!(sources.all(|source| source.starts_with("fe80:")));
    assert_eq!(inside(), was);
    assert!(was.contains("via") && !was.contains("proto ra"), "{was}");
    assert_eq!(
        sh_in(pod, "cat /proc/sys/net/ipv6/conf/eth0/accept_ra"),
        "0"
    );

    drop(listener);
    host.switch("{}");
    assert_eq!(settings(&host), before);
    assert!(default().contains("proto ra"), "{}", default());
    drop(router);
    remove_lans(&host);
    host.finish();
}

#[test]
fn a_pod_pings_without_a_capability() {
    let host = Host::new();
    host.switch(&format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, user = \"1000:1000\", capabilities.drop = [\"ALL\"] }} }}"
    ));
    assert_eq!(
        host.exec("web", "id -u; grep -c '^CapEff:.0*$' /proc/self/status"),
        "1000\n1"
    );
    let own6 = sh(
        &host,
        "ip -6 -o addr show dev tank0 scope global | sed 's/.*inet6 \\([^/]*\\).*/\\1/'",
    );
    // The `ping` of a distribution, which opens a socket for echo requests alone (icmp(7)): from
    // inside the pod's network and user namespace, as one of its ordinary users.
    let ping = "import socket, sys\nv6 = ':' in sys.argv[1]\n\
                s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM, 58 if v6 else 1)\n\
                s.settimeout(5)\ns.sendto(bytes([128 if v6 else 8]) + bytes(7) + b'x', (sys.argv[1], 0))\n\
                print(s.recv(100)[:1] in (b'\\x00', b'\\x81'))";
    let pid = host.pid("web", "app");
    for address in ["10.90.0.1", &own6] {
        let mut command = Command::new("nsenter");
        command.args([
            "--net",
            "--user",
            "--setuid=1000",
            "--setgid=1000",
            &format!("--target={pid}"),
            "--",
        ]);
        let said = output(command.args(["/usr/bin/python3", "-c", ping, address]));
        assert_eq!(said, "True", "{address}");
    }
    host.finish();
}

#[test]
fn a_host_without_ipv6_does_without() {
    let host = Host::without_daemon();
    sh(
        &host,
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
    );
    let host = host.started_with(&[]);
    host.switch(&web("http = { port = 18080, to = 80 }"));
    let pod = host.pid("web", "app") as u32;
    let server = listen_in(&host, pod, "0.0.0.0", 80);
    assert_eq!(connect(&host, "127.0.0.1", 18080), "served");
    let list = host.pod("web")["addresses"].to_string();
    assert!(list.contains("10.90.") && !list.contains("fd"), "{list}");
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    drop(server);
    host.finish();
}

/// Whoever damages the record keeps no pod from being repaired, and opens no way between the host's
/// links.
#[test]
fn a_damaged_record_is_put_aside_and_the_links_stay_apart() {
    let host = Host::without_daemon();
    let near = neighbour(&host, "lan0", 2);
    let far = neighbour(&host, "lan1", 3);
    sh(
        &host,
        "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.ipv4.conf.all.rp_filter=0",
    );
    let mut host = host.started_with(&[]);
    host.switch(&web("p = { port = 18083, to = 80 }"));
    let (record, aside) = (
        host.dir.join("run/sysctls.json"),
        host.dir.join("run/sysctls.json.damaged"),
    );
    let (sound, rules) = (
        std::fs::read_to_string(&record).expect("the record"),
        table(&host),
    );
    let mut pid = host.pid("web", "app");
    for (junk, restart) in [("{\"net/ipv4", false), ("\0\0\0\0", true), ("[]", false)] {
        std::fs::write(&record, junk).expect("writes");
        // A look says which file it is, and what runs is looked after.
        let looked = host.tank(&["diff"]);
        assert!(
            looked.status == 0 || looked.stderr.contains("run/sysctls.json"),
            "{looked:?}"
        );
        sh(&host, &format!("kill -9 {pid}"));
        let runs_again = |pid: &mut i64| {
            let listed = host.tank(&["list", "--json"]);
            let found: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
            let found = found["pods"][0]["containers"][0]["pid"].as_i64();
            found.filter(|found| *found != *pid).is_some_and(|found| {
                *pid = found;
                true
            })
        };
        eventually("it runs again", || runs_again(&mut pid));
        if restart {
            host.kill_daemon();
            host.start_daemon();
        }
        eventually("it is put aside", || {
            std::fs::read_to_string(&aside).is_ok_and(|text| text == junk)
        });
        eventually("it is made anew", || {
            std::fs::read_to_string(&record).is_ok_and(|text| text.contains("\"lan0\""))
        });
        let events = host.tank(&["events"]).ok();
        let said = events.contains("run/sysctls.json can't be read");
        assert!(said || restart, "{events}");
        assert_eq!(table(&host), rules, "links stay apart");
        std::fs::remove_file(&aside).expect("removes");
    }
    assert!(sound.contains("\"lan0\""), "{sound}");
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.tank(&["delete", "web"]).ok();
    let forwards =
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding | xargs";
    eventually("it is given back", || sh(&host, forwards).trim() == "0 0");
    assert!(!record.exists());
    drop((near, far));
    remove_lans(&host);
    host.finish();
}
