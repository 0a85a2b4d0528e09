//! Interfaces that are ports of a bridge of the host's.

use super::{
    A, B, HOST, NEIGHBOUR, all_reach_each_other, finish, host_on_lan, host_pid, in_network,
    interface, is_as_before, on_host, picture, pid, pod, reaches, reaches_beyond, run, serve, sh,
};
use tank_tests::eventually;

/// The host's link of the network becomes a port of a bridge, which has the host's addresses.
const BRIDGED: &str = "ip link add br0 type bridge && ip link set br0 up
    ip -6 route flush default && ip addr flush dev eth0 scope global && ip link set eth0 master br0
    ip addr add 10.77.0.2/24 dev br0 && ip addr add fd77::2/64 dev br0 nodad
    ip route add default via 10.77.0.1 && ip -6 route add default via fd77::1";

#[test]
fn pods_are_hosts_of_the_bridges_network() {
    let (mut host, lan) = host_on_lan();
    on_host(&host, BRIDGED);
    let before = picture(&host);
    host.start_daemon();
    let config = |pods: &[(&str, [&str; 2])]| {
        let pods = pods
            .iter()
            .map(|(name, own)| pod(name, *own, "mode = 'bridge, parent = \"br0\""));
        format!("{{ {} }}", pods.collect::<String>())
    };
    host.switch(&config(&[("a", A), ("b", B)]));
    assert_eq!(
        on_host(&host, "nft list tables"),
        "",
        "a bridge needs no rules of Tank's"
    );
    let (a, b, own) = (pid(&host, "a"), pid(&host, "b"), host_pid(&host));
    let everybody = [
        (a, A, "a"),
        (b, B, "b"),
        (own, HOST, "host"),
        (lan.neighbour(), NEIGHBOUR, "neighbour"),
    ];
    let mut servers = all_reach_each_other(&host, &everybody);
    servers.push(serve(&host, lan.router(), "router"));
    reaches_beyond(a, A);

    let found = interface(a, "eth0");
    let port = format!("tk{}", found.0.replace(':', ""));
    let meddling = [
        (own, format!("ip link del {port}")),
        (own, format!("ip link set {port} nomaster")),
        (own, format!("ip link set {port} down")),
        (a, "ip link del eth0".to_owned()),
        (a, "ip addr del 10.77.0.11/24 dev eth0".to_owned()),
        (a, "ip route del default".to_owned()),
    ];
    for (pid, what) in meddling {
        sh(pid, &what);
        let is_port = || {
            let said = on_host(
                &host,
                &format!("ip -j link show master br0 up | grep -o {port} | head -1 || true"),
            );
            said == port
        };
        eventually(&what, is_port);
        eventually(&what, || host.tank(&["diff", "--exit-code"]).status == 0);
        let mut show = in_network(a, "ip");
        show.args(["-j", "addr", "show", "dev", "eth0"]);
        assert!(run(show).contains("10.77.0.11"));
        assert_eq!(interface(a, "eth0"), found);
    }
    reaches(lan.neighbour(), NEIGHBOUR, &[(A, "a")]);
    drop(servers);
    host.switch("{}");
    host.kill_daemon();
    is_as_before(&host, &before);
    host.start_daemon();
    finish(host, lan);
}

/// A bridge without another port takes the hardware address of the first that it gets.
#[test]
fn a_bridge_may_have_no_other_port() {
    let (mut host, lan) = host_on_lan();
    on_host(&host, "ip link add br9 type bridge && ip link set br9 up");
    host.start_daemon();
    let of = |name, own| pod(name, own, "mode = 'bridge, parent = \"br9\"");
    host.switch(&format!("{{ {} }}", of("a", A)));
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.kill_daemon();
    host.start_daemon();
    host.switch(&format!("{{ {} {} }}", of("a", A), of("b", B)));
    let server = serve(&host, pid(&host, "b"), "b");
    reaches(pid(&host, "a"), A, &[(B, "b")]);
    drop(server);
    host.tank(&["delete", "a"]).ok();
    host.tank(&["delete", "b"]).ok();
    on_host(&host, "ip link del br9");
    finish(host, lan);
}
