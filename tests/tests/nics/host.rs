//! The host's own link to pods on one of its links.

use super::{
    A, B, Lan, finish, host_on_lan, interface, json, macvlan, on_host, pid, reaches, serve, sh,
};
use super::{HOST, host_pid};
use tank_tests::{Host, eventually};

/// The link and its routes, without its number.
/// All of the host's own link: addresses, routes, settings.
const LINK: &str = "ip -j -d addr show dev tank-eth0 | sed 's/\"ifindex\":[0-9]*//g'
     ip -j route show dev tank-eth0; ip -j -6 route show dev tank-eth0
     cat /proc/sys/net/ipv4/conf/tank-eth0/arp_filter /proc/sys/net/ipv6/conf/tank-eth0/accept_ra";

fn link(host: &Host) -> String {
    on_host(host, LINK)
}

fn is_settled(host: &Host) -> bool {
    host.tank(&["diff", "--exit-code"]).status == 0
}

fn switched() -> (Host, Lan) {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    host.switch(&format!("{{ {} {} }}", macvlan("a", A), macvlan("b", B)));
    (host, lan)
}

#[test]
fn is_as_it_has_to_be_whatever_happens_to_it() {
    let (mut host, lan) = switched();
    let before = link(&host);
    for part in [
        "\"info_kind\":\"macvlan\"",
        "\"mode\":\"bridge\"",
        "02:74:6b:",
        "\"fd77::2\"",
        "\"prefsrc\":\"10.77.0.2\"",
    ] {
        assert!(before.contains(part), "{part}: {before}");
    }
    let routes = json(&host, "ip -j route show dev tank-eth0");
    assert_eq!(routes.as_array().map(Vec::len), Some(2), "{routes}");
    let meddling = [
        "ip link del tank-eth0",
        "ip link set tank-eth0 down",
        "ip route del 10.77.0.11 dev tank-eth0",
        "ip -6 route del fd77::12 dev tank-eth0",
        "ip route add 203.0.113.9 dev tank-eth0",
        "ip addr add 10.99.0.1/24 dev tank-eth0",
        "ip link set tank-eth0 address 02:74:6b:66:66:66",
        "ip link set tank-eth0 group 0",
        "sysctl -qw net.ipv4.conf.tank-eth0.arp_filter=0 || echo 0 > /proc/sys/net/ipv4/conf/tank-eth0/arp_filter; ip link set tank-eth0 down",
        "nft delete table inet tank",
    ];
    for what in meddling {
        on_host(&host, what);
        eventually(what, || link_or_none(&host) == before);
        eventually("nothing is left to do", || is_settled(&host));
    }
    let server = serve(&host, pid(&host, "a"), "a");
    reaches(host_pid(&host), HOST, &[(A, "a")]);
    drop(server);

    // Another address of the host: what it sends from follows.
    on_host(
        &host,
        "ip addr del 10.77.0.2/24 dev eth0; ip addr add 10.77.0.3/24 dev eth0; ip route replace default via 10.77.0.1",
    );
    eventually("the routes follow", || {
        link_or_none(&host).contains("\"prefsrc\":\"10.77.0.3\"")
    });
    eventually("nothing is left to do", || is_settled(&host));

    // It stays as long as a pod needs it, and leads to that one only.
    host.switch(&format!("{{ {} }}", macvlan("b", B)));
    let routes = json(&host, "ip -j route show dev tank-eth0");
    assert_eq!(routes.as_array().map(Vec::len), Some(1), "{routes}");
    // What a daemon left that died before it was up is swept by the next one.
    host.kill_daemon();
    on_host(
        &host,
        "ip link add tank-lo9 link eth0 address 02:74:6b:99:99:99 type macvlan mode bridge",
    );
    host.start_daemon();
    eventually("it is swept", || link_is_gone(&host, "tank-lo9"));
    host.switch("{}");
    assert!(link_is_gone(&host, "tank-eth0"));
    assert_eq!(on_host(&host, "nft list tables"), "");
    finish(host, lan);
}

/// Nothing while it is not there, or is taken apart in the middle of a look.
fn link_or_none(host: &Host) -> String {
    on_host(host, &format!("{{ {LINK}; }} 2>/dev/null || true"))
}

fn link_is_gone(host: &Host, name: &str) -> bool {
    let said = on_host(
        host,
        &format!("ip -j link show dev {name} 2>/dev/null || true"),
    );
    !said.contains(name)
}

#[test]
fn of_somebody_else_is_left_alone_and_said() {
    let (mut host, lan) = host_on_lan();
    on_host(
        &host,
        "ip link add tank-eth0 type veth peer name other && ip addr add 10.98.0.1/24 dev tank-eth0",
    );
    let before = on_host(&host, "ip -j -d addr show dev tank-eth0");
    host.start_daemon();
    host.write("pods.ncl", &format!("{{ {} }}", macvlan("a", A)));
    let ended = host.tank(&["switch", "pods.ncl"]);
    assert_ne!(ended.status, 0);
    assert!(
        ended
            .stderr
            .contains("use the link tank-eth0: it is not Tank's"),
        "{}",
        ended.stderr
    );
    assert_eq!(on_host(&host, "ip -j -d addr show dev tank-eth0"), before);
    on_host(&host, "ip link del tank-eth0");
    finish(host, lan);
}

/// A router on the network, and a host that takes its advertisements, change nothing of it, and its
/// links stay the only ones that neighbours are answered by.
#[test]
fn is_no_second_link_of_the_host_for_its_network() {
    let (host, lan) = switched();
    let eth0 = json(&host, "ip -j link show dev eth0")[0]["address"].clone();
    let said = super::python(
        lan.neighbour(),
        &["who_has", "eth0", "10.77.0.9", "10.77.0.2"],
    );
    assert_eq!(said, eth0.as_str().expect("an address"));
    // For pods, it is.
    let tank = json(&host, "ip -j link show dev tank-eth0")[0]["address"].clone();
    let said = super::python(pid(&host, "a"), &["who_has", "eth0", A[0], "10.77.0.2"]);
    assert_eq!(said, tank.as_str().expect("an address"));
    // The neighbour's own discovery of IPv6, as the kernel does it.
    sh(lan.neighbour(), "ip -6 neigh flush dev eth0");
    let server = serve(&host, host_pid(&host), "host");
    reaches(lan.neighbour(), super::NEIGHBOUR, &[(HOST, "host")]);
    let entry = sh(lan.neighbour(), "ip -j -6 neigh show fd77::2 dev eth0");
    assert!(
        entry.contains(eth0.as_str().expect("an address")),
        "{entry}"
    );
    drop(server);
    assert_eq!(interface(host_pid(&host), "tank-eth0").1, ["fd77::2/128"]);
    finish(host, lan);
}
