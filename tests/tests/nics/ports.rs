//! Ports of the host for pods on the host's network.

use super::on_host;
use tank_tests::Host;

const SERVER: &str = "{ pods.web = {
    containers.app = { image = \"oci:./busybox\", stop.signal = \"SIGKILL\", readiness.tcp.port = 80,
        command = [\"/bin/httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"], files.\"/www/index.html\".text = \"here\" },
    network = 'host,
} }";

/// A pod's root has its capabilities in the pod's user namespace, and the host's network belongs to
/// another: the kernel asks there (`inet_bind`).
#[test]
fn below_1024_are_the_hosts_roots() {
    let mut host = Host::without_daemon();
    on_host(
        &host,
        "echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start",
    );
    host.start_daemon();
    host.write("pods.ncl", SERVER);
    let ended = host.tank(&["switch", "--timeout", "5s", "pods.ncl"]);
    assert_eq!(ended.status, 3, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("bind: Permission denied"),
        "{}",
        ended.stderr
    );
    // The host's administrator may give them to everybody.
    on_host(
        &host,
        "echo 80 > /proc/sys/net/ipv4/ip_unprivileged_port_start",
    );
    host.switch(SERVER);
    assert_eq!(host.get("http://127.0.0.1/").status, 0);
    host.finish();
}
