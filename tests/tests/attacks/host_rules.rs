//! What the host's own rules make of a published port: which hold, and which do not.

use super::*;

#[test]
fn a_drop_of_the_host_holds_where_the_packets_pass() {
    let host = Host::new();
    let near = neighbour(&host, "lan0", 2);
    sh(&host, "sysctl -qw net.ipv4.conf.all.rp_filter=0");
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, publish = {{
             four = {{ port = 18083, to = 80, address = \"0.0.0.0\" }}, six = {{ port = 18083, to = 80, address = \"::\" }},
             other = {{ port = 18084, to = 81, address = \"0.0.0.0\" }} }} }} }}"
    ));
    let pod = host.pid("web", "app") as u32;
    let servers = [
        listen_in(&host, pod, "::", 80),
        listen_in(&host, pod, "::", 81),
    ];
    let from = |address: &str, port, limit| connect_from(near.pid(), address, port, limit);
    let both = ["192.0.2.1", "2001:db8:2::1"];
    let chain = |hook: &str, priority: &str, policy: &str, rule: &str| {
        format!(
            "table inet other {{\n chain c {{\n type filter hook {hook} priority {priority}; policy {policy};\n {rule}\n }}\n}}"
        )
    };
    let doctor = || {
        let mut command = host.inside(&bin("tank").display().to_string());
        let said = command.arg("--socket").arg(host.socket()).arg("doctor");
        let ended: Ended = said.output().expect("tank").into();
        ended.stdout
    };
    for address in both {
        assert_eq!(from(address, 18083, PATIENT), "served", "{address}");
    }
    assert!(!doctor().contains("others' rules"), "{}", doctor());
    // These hold: of what is forwarded by whom it is from and to, by the port it was for, all of it,
    // and what is dropped before anything is translated.
    for (rules, closed, told) in [
        (
            chain("forward", "0", "accept", "iifname lan0 oifname tank0 drop"),
            true,
            false,
        ),
        (
            chain(
                "forward",
                "10",
                "accept",
                "meta l4proto tcp ct original proto-dst 18083 drop",
            ),
            false,
            false,
        ),
        (chain("forward", "0", "drop", ""), true, true),
        // As firewalld ends its chain: the policy accepts, and the last rule rejects whatever comes to it.
        (
            chain(
                "forward",
                "10",
                "accept",
                "ct state established accept\n counter reject with icmpx admin-prohibited",
            ),
            true,
            true,
        ),
        (
            chain("prerouting", "-150", "accept", "tcp dport 18083 drop"),
            false,
            false,
        ),
    ] {
        host.write("other.nft", &rules);
        sh(&host, &format!("nft -f {}/other.nft", host.dir.display()));
        for address in both {
            assert_eq!(
                from(address, 18083, SHORT),
                "no connection",
                "{rules} {address}"
            );
        }
        let other = if closed { "no connection" } else { "served" };
        let limit = if closed { SHORT } else { PATIENT };
        assert_eq!(from("192.0.2.1", 18084, limit), other, "{rules}");
        assert_eq!(
            doctor().contains("what is forwarded is dropped"),
            told,
            "{rules}"
        );
        // They are nobody's but the host's.
        assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
        sh(&host, "nft delete table inet other");
    }
    // This one does not: what is for a published port is not for the host. It is said.
    host.write(
        "other.nft",
        &chain("input", "0", "accept", "tcp dport 18083 drop"),
    );
    sh(&host, &format!("nft -f {}/other.nft", host.dir.display()));
    for address in both {
        assert_eq!(from(address, 18083, PATIENT), "served", "{address}");
    }
    let said = doctor();
    assert!(
        said.contains("which published ports are not: `inet other c`")
            && said.contains("ct original proto-dst"),
        "{said}"
    );
    sh(&host, "nft delete table inet other");
    drop((servers, near));
    sh(&host, "ip link del lan0 2>/dev/null || true");
    host.finish();
}
