//! What pods need of the host and is not there: it is reported, and what runs goes on.

use super::*;

fn printed(host: &Host, args: &[&str]) -> String {
    let ended = host.tank(args);
    let text = format!("{} {}", ended.stdout, ended.stderr);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_link_that_is_set_down_is_reported() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    host.switch(&format!("{{ {} }}", macvlan("a", A)));
    let what = "the host's link eth0 is down, and eth0 with it";
    assert!(!printed(&host, &["diff"]).contains(what));
    on_host(&host, "ip link set eth0 down");
    eventually("it is in the events", || {
        printed(&host, &["events"]).contains(what)
    });
    assert!(printed(&host, &["diff"]).contains(&format!("a: {what}")));
    // Whoever goes back is told so, though that is no reason for it to fail.
    host.write("b.ncl", &format!("{{ {} }}", tank_tests::sleeper("b")));
    let applied = host.tank(&["apply", "b.ncl"]);
    let warning = format!("warning: a: {what}\n");
    assert_eq!(applied.status, 0, "{applied:?}");
    assert!(applied.stderr.ends_with(&warning), "{applied:?}");
    let back = host.tank(&["generations", "rollback"]);
    assert_eq!(back.status, 0, "{back:?}");
    assert!(back.stderr.ends_with(&warning), "{back:?}");
    assert_eq!(host.pod("a")["reason"], what);
    assert!(printed(&host, &["get", "a"]).contains(what));
    on_host(
        &host,
        "ip link set eth0 up && ip addr add fd77::2/64 dev eth0 nodad && ip route replace default via 10.77.0.1",
    );
    eventually("nothing is reported any more", || {
        host.pod("a")["reason"].is_null()
    });
    finish(host, lan);
}

#[test]
fn an_address_that_the_host_does_not_have_is_reported() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    let publish = "pods.a.publish.p = { port = 80, address = [\"10.77.0.2\", \"10.77.0.99\", \"127.0.0.9\"] },";
    let what = "this host has no address 10.77.0.99 that ports are published on";
    host.write(
        "a.ncl",
        &format!("{{ {} {publish} }}", tank_tests::sleeper("a")),
    );
    let switched = host.tank(&["switch", "a.ncl"]);
    assert_eq!(switched.status, 0, "{switched:?}");
    let warning = format!("warning: a: {what}\n");
    assert!(switched.stderr.ends_with(&warning), "{switched:?}");
    let again = host.tank(&["--json", "switch", "a.ncl"]);
    assert!(!again.stderr.contains("warning"), "{again:?}");
    assert_eq!(
        again.json()["unmet"],
        serde_json::json!([format!("a: {what}")])
    );
    assert_eq!(host.pod("a")["reason"], what);
    assert!(printed(&host, &["diff"]).contains(&format!("a: {what}")));
    eventually("it is in the events", || {
        printed(&host, &["events"]).contains(what)
    });
    on_host(&host, "ip addr add 10.77.0.99/24 dev eth0");
    eventually("nothing is reported any more", || {
        host.pod("a")["reason"].is_null()
    });
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    let met = host.tank(&["switch", "a.ncl"]);
    assert!(!met.stderr.contains("warning"), "{met:?}");
    finish(host, lan);
}

/// What a rollback can't make is made when it can be: what runs until then goes on.
#[test]
fn a_rollback_to_a_link_that_is_gone_stops_nothing() {
    let (mut host, lan) = host_on_lan();
    on_host(
        &host,
        "ip link add eth1 type veth peer name eth1p && ip link set eth1 up && ip link set eth1p up",
    );
    host.start_daemon();
    let on = |link: &str| {
        format!(
            "{{ {} }}",
            pod("a", A, &format!("mode = 'macvlan, parent = \"{link}\""))
        )
    };
    host.switch(&on("eth1"));
    host.switch(&on("eth0"));
    let first = host.pid("a", "app");
    on_host(&host, "ip link del eth1");
    let ended = host.tank(&["generations", "rollback"]);
    assert!(
        ended.stderr.contains("this host has no link `eth1`"),
        "{} {}",
        ended.stdout,
        ended.stderr
    );
    // It is recorded, and the pod runs on as it was, on the network that there is.
    let listed = host.tank(&["--json", "generations", "list"]).json();
    assert!(listed.to_string().contains("rollback to 1"), "{listed}");
    assert_eq!(host.pid("a", "app"), first);
    assert_eq!(
        interface(pid(&host, "a"), "eth0").1,
        ["10.77.0.11/24", "fd77::11/64"]
    );
    let server = serve(&host, pid(&host, "a"), "a");
    reaches(lan.neighbour(), NEIGHBOUR, &[(A, "a")]);
    reaches(host_pid(&host), HOST, &[(A, "a")]);
    drop(server);
    assert!(printed(&host, &["diff"]).contains("this host has no link `eth1`"));
    on_host(
        &host,
        "ip link add eth1 type veth peer name eth1p && ip link set eth1 up && ip link set eth1p up",
    );
    eventually("it is as it was gone back to", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
    assert_ne!(host.pid("a", "app"), first);
    finish(host, lan);
}
