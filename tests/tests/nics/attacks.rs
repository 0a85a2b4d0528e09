//! What a neighbour sends to the host's own link to pods, and what a pod can't send.

use super::{
    A, B, finish, host_on_lan, host_pid, interface, macvlan, on_host, pid, pod, python, sh,
};
use std::{fs, process::Stdio};
use tank_tests::{Host, eventually};

/// What arrives at a port of the host while `attack` sends to it, up to what says `end`.
fn arrives(host: &Host, pid: u32, port: &str, attack: impl FnOnce()) -> Vec<String> {
    let ready = host.dir.join(format!("receives-{port}"));
    let _ = fs::remove_file(&ready);
    let mut command = super::in_network(pid, "python3");
    let args = [
        &super::script(),
        "receive",
        port,
        &ready.display().to_string(),
        "120",
    ];
    let child = command
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    eventually("it receives", || ready.exists());
    attack();
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn nobody_but_pods_comes_over_the_hosts_link() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    host.switch(&format!(
        "{{ {} {} }}",
        macvlan("a", A),
        pod("b", B, "mode = 'macvlan")
    ));
    let (neighbour, a) = (lan.neighbour(), pid(&host, "a"));
    let tank = interface(host_pid(&host), "tank-eth0").0;
    let eth0 = interface(host_pid(&host), "eth0").0;
    let (own, of_a) = (interface(neighbour, "eth0").0, interface(a, "eth0").0);
    let send = |pid: u32, to: &str, from: &str, source: &str, payload: &str| {
        python(
            pid,
            &[
                "send",
                "eth0",
                to,
                from,
                source,
                "10.77.0.2",
                "7100",
                payload,
            ],
        );
    };
    let found = arrives(&host, host_pid(&host), "7100", || {
        // As itself, from a pod's address, and with a pod's hardware address from its own.
        send(neighbour, &tank, &own, "10.77.0.9", "itself");
        send(neighbour, &tank, &own, A[0], "as a");
        send(neighbour, &tank, &of_a, "10.77.0.9", "frame of a");
        send(neighbour, &tank, &own, "127.0.0.1", "as loopback");
        // The ways that are open.
        send(neighbour, &eth0, &own, "10.77.0.9", "past the parent");
        send(a, &tank, &of_a, A[0], "end");
    });
    assert_eq!(found, ["past the parent 10.77.0.9", "end 10.77.0.11"]);
    finish(host, lan);
}

/// The host forwards for the pods on its bridge; a pod on a network of its own can't use that, nor
/// reach what listens on the host's loopback.
#[test]
fn the_hosts_link_leads_no_further() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    host.switch(&format!(
        "{{ {} pods.c = {{ containers.app = {{ image = \"oci:./busybox\", stop.signal = \"SIGKILL\", command = [\"/bin/sleep\", \"3600\"] }} }} }}",
        macvlan("a", A)
    ));
    let (a, c) = (pid(&host, "a"), pid(&host, "c"));
    let tank = interface(host_pid(&host), "tank-eth0").0;
    let (of_a, bridged) = (
        interface(a, "eth0").0,
        host.pod("c")["addresses"][0].clone(),
    );
    let bridged = bridged.as_str().expect("an address").to_owned();
    let found = arrives(&host, c, "7101", || {
        python(
            a,
            &[
                "send",
                "eth0",
                &tank,
                &of_a,
                A[0],
                &bridged,
                "7101",
                "over the host",
            ],
        );
        on_host(
            &host,
            &format!(
                "python3 -c 'import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b\"end\", (\"{bridged}\", 7101))'"
            ),
        );
    });
    assert_eq!(found, ["end 10.90.0.1"]);
    let found = arrives(&host, host_pid(&host), "7102", || {
        python(
            a,
            &[
                "send",
                "eth0",
                &tank,
                &of_a,
                A[0],
                "127.0.0.1",
                "7102",
                "to loopback",
            ],
        );
        on_host(
            &host,
            "python3 -c 'import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b\"end\", (\"127.0.0.1\", 7102))'",
        );
    });
    assert_eq!(found, ["end 127.0.0.1"]);
    finish(host, lan);
}

/// Without a capability that nobody has by default, a pod sends as itself alone: it opens no raw
/// socket, and changes nothing of its interface.
#[test]
fn a_pod_can_neither_change_its_interface_nor_send_as_somebody_else() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    host.switch(&format!("{{ {} }}", macvlan("a", A)));
    let attempts = [
        "ip link set eth0 address 02:00:00:00:00:66",
        "ip addr add 10.77.0.66/24 dev eth0",
        "ip link set eth0 promisc on",
        "arping -c 1 -I eth0 10.77.0.9",
    ];
    let before = sh(pid(&host, "a"), "ip -j addr");
    for attempt in attempts {
        let said = host.exec("a", &format!("{attempt} 2>&1 || echo refused"));
        let why = ["Operation not permitted", "Permission denied"];
        assert!(
            said.ends_with("refused") && why.iter().any(|why| said.contains(why)),
            "{attempt}: {said}"
        );
    }
    assert_eq!(sh(pid(&host, "a"), "ip -j addr"), before);
    finish(host, lan);
}
