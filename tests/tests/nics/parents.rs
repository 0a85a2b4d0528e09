//! The links that interfaces sit on: named, found, gone, and refused.

use super::{A, finish, host_on_lan, interface, macvlan, on_host, pid, pod};
use tank_tests::{Host, eventually, words};

fn refused(host: &Host, more: &str) -> String {
    host.write("bad.ncl", &format!("{{ {} }}", pod("a", A, more)));
    let diff = host.tank(&["diff", "bad.ncl"]);
    let switch = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(
        (diff.status, switch.status),
        (1, 1),
        "{more}: {} {}",
        diff.stderr,
        switch.stderr
    );
    assert_eq!(
        diff.stderr.contains("pods.a.network.nics.eth0."),
        switch.stderr.contains("pods.a.network.nics.eth0.")
    );
    words(&diff.stderr)
}

#[test]
fn what_can_t_be_one_is_refused_before_anything_changes() {
    let (mut host, lan) = host_on_lan();
    on_host(
        &host,
        "ip link add br0 type bridge && ip link set br0 up
         ip link add port type veth peer name other && ip link set port master br0 && ip link set port up
         ip link add idle type veth peer name idlep && ip link add mv link eth0 type macvlan mode bridge && ip link set mv up
         ip tuntap add dev tun7 mode tun && ip link set tun7 up",
    );
    host.start_daemon();
    for (more, why) in [
        (
            "mode = 'macvlan, parent = \"eth9\"",
            "parent: this host has no link `eth9`",
        ),
        (
            "mode = 'macvlan, parent = \"idle\"",
            "parent: the host's link `idle` is down; `ip link set idle up` sets it up",
        ),
        (
            "mode = 'macvlan, parent = \"port\"",
            "parent: the host's link `port` is a port of `br0`",
        ),
        (
            "mode = 'macvlan, parent = \"mv\"",
            "parent: the host's link `mv` is a macvlan itself",
        ),
        (
            "mode = 'macvlan, parent = \"tun7\"",
            "parent: the host's link `tun7` is no Ethernet",
        ),
        (
            "mode = 'macvlan, mtu = 9000",
            "mtu: packets of 9000 bytes are longer than the 1500 that `eth0` takes",
        ),
        (
            "mode = 'bridge, parent = \"eth0\"",
            "parent: the host's link `eth0` is no bridge",
        ),
        (
            "mode = 'bridge, parent = \"tank0\"",
            "parent: `tank0` is Tank's own bridge",
        ),
    ] {
        let said = refused(&host, more);
        assert!(
            said.contains(&format!("pods.a.network.nics.eth0.{why}")),
            "{more}: {said}"
        );
    }
    // One address on one link, which two interfaces call differently.
    let twice = pod("b", A, "mode = 'macvlan, parent = \"eth0\"");
    host.write("bad.ncl", &format!("{{ {} {twice} }}", macvlan("a", A)));
    let said = host.tank(&["diff", "bad.ncl"]).stderr;
    assert!(
        said.contains(
            "pods.b.network.nics.eth0: 10.77.0.11 is taken on eth0, by pods.a.network.nics.eth0"
        ),
        "{said}"
    );
    // Who answers for the router gets what the whole host sends.
    for (own, why) in [
        (
            "address = \"10.77.0.1/24\", gateway = \"10.77.0.9\"",
            "10.77.0.1 is the next hop of this host's routes by `eth0`",
        ),
        (
            "address = \"fd77::1/64\"",
            "fd77::1 is the next hop of this host's routes by `eth0`",
        ),
        (
            "pool = \"10.77.0.1/32\", prefix = 24",
            "10.77.0.1 is the next hop of this host's routes by `eth0`",
        ),
    ] {
        host.write(
            "bad.ncl",
            &format!(
                "{{ pods.a = {{ containers.app.image = \"oci:./busybox\", network.nics.eth0 = {{ mode = 'macvlan, parent = \"eth0\", {own} }} }} }}"
            ),
        );
        let said = host.tank(&["switch", "bad.ncl"]);
        assert!(
            said.status == 1 && said.stderr.contains(why),
            "{own}: {said:?}"
        );
    }
    on_host(&host, "ip route del default && ip -6 route del default");
    let said = refused(&host, "mode = 'macvlan");
    assert!(
        said.contains("parent: this host has no default route"),
        "{said}"
    );
    assert_eq!(
        host.tank(&["list", "--json"]).json()["pods"],
        serde_json::json!([])
    );
    finish(host, lan);
}

#[test]
fn one_that_goes_and_comes_back_takes_its_pods_along() {
    let (mut host, lan) = host_on_lan();
    let router = lan.router();
    host.start_daemon();
    host.switch(&format!("{{ {} }}", macvlan("a", A)));
    let a = pid(&host, "a");
    let before = interface(a, "eth0");
    // Another default route, and none at all: the interface stays where it is.
    on_host(
        &host,
        "ip link add eth1 type veth peer name eth1p && ip link set eth1 up && ip link set eth1p up
         ip addr add 10.78.0.2/24 dev eth1 && ip route replace default via 10.78.0.1 && ip -6 route del default",
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    on_host(&host, "ip route del default");
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    // A link that is down a while: it is waited for.
    on_host(&host, "ip link set eth0 down");
    let steps = host.tank(&["--json", "diff"]).json()["steps"].clone();
    assert_eq!(steps, serde_json::json!([]));
    on_host(
        &host,
        "ip link set eth0 up && ip addr add fd77::2/64 dev eth0 nodad && ip route replace default via 10.77.0.1",
    );
    eventually("all is as it was", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
    // One that is gone: the pod runs on without, and the reason is shown.
    on_host(&host, "ip link del eth1 && ip link del eth0");
    let said = host.tank(&["diff"]);
    let said = format!("{} {}", said.stdout, said.stderr);
    assert!(said.contains("this host has no"), "{said}");
    assert_eq!(host.exec("a", "echo runs"), "runs");
    on_host(
        &host,
        &format!(
            "ip link add eth0 type veth peer name port2 netns {router} && ip link set eth0 up
             ip addr add 10.77.0.2/24 dev eth0 && ip addr add fd77::2/64 dev eth0 nodad && ip route add default via 10.77.0.1"
        ),
    );
    super::sh(router, "ip link set port2 master lan0 up");
    eventually("it is connected again", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
    assert_eq!(pid(&host, "a"), a);
    assert_eq!(interface(a, "eth0"), before);
    finish(host, lan);
}
