//! Interfaces that take their address from a pool.

use super::*;
use std::collections::BTreeSet;

fn pooled(name: &str, pool: &str, more: &str) -> String {
    format!(
        "pods.{name} = {{
            containers.app = {{ image = \"oci:./busybox\", stop.signal = \"SIGKILL\", command = [\"/bin/sleep\", \"3600\"], {more} }},
            network.nics.eth0 = {{ mode = 'macvlan, {pool}, gateway = \"{}\" }},
        }},",
        ROUTER[0]
    )
}

/// The address of a pod's interface, with the length of its network's prefix.
fn own(host: &Host, pod: &str) -> String {
    sh(
        pid(host, pod),
        "ip -4 -o addr show dev eth0 | awk '{print $4}'",
    )
}

/// Asks another by TCP, who answers with its name and whom it saw.
fn ask(from: u32, address: &str) -> String {
    let found = python(from, &["ask", address]);
    found.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn each_interface_has_an_address_of_its_pool_and_keeps_it() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    let pool = "pool = \"10.77.0.128/29\", prefix = 24";
    let fixed = macvlan("fixed", ["10.77.0.130", "fd77::130"]);
    let declared = |pods: &[&str], more: &str| -> String {
        let of = |name: &&str| pooled(name, pool, more);
        let pods: String = pods.iter().map(of).collect();
        format!("{{ {pods} {fixed} }}")
    };
    host.switch(&declared(&["a", "b"], ""));
    let (a, b) = (own(&host, "a"), own(&host, "b"));
    let of_pool: BTreeSet<String> = (128..136)
        .filter(|n| *n != 130)
        .map(|n| format!("10.77.0.{n}/24"))
        .collect();
    assert!(
        a != b && of_pool.contains(&a) && of_pool.contains(&b),
        "{a} {b}"
    );
    // They are hosts of that network: for the neighbour, the host, each other and beyond the router.
    let bare = |own: &str| own.split('/').next().unwrap_or_default().to_owned();
    assert_eq!(host.pod("a")["addresses"][0], bare(&a).as_str());
    let servers = [
        serve(&host, pid(&host, "a"), "a"),
        serve(&host, lan.neighbour(), "neighbour"),
        serve(&host, host_pid(&host), "host"),
    ];
    for (from, address, answer) in [
        (lan.neighbour(), bare(&a), format!("a {}", NEIGHBOUR[0])),
        (host_pid(&host), bare(&a), format!("a {}", HOST[0])),
        (pid(&host, "b"), bare(&a), format!("a {}", bare(&b))),
        (
            pid(&host, "b"),
            NEIGHBOUR[0].to_owned(),
            format!("neighbour {}", bare(&b)),
        ),
        (
            pid(&host, "b"),
            HOST[0].to_owned(),
            format!("host {}", bare(&b)),
        ),
    ] {
        assert_eq!(ask(from, &address), format!("tcp {address}: {answer}"));
    }
    drop(servers);
    // A plan takes none, and what is planned is what comes.
    host.write("more.ncl", &declared(&["a", "b", "c"], ""));
    let plan = host.tank(&["diff", "more.ncl"]).ok();
    host.tank(&["switch", "more.ncl"]).ok();
    let c = own(&host, "c");
    assert!(
        plan.contains(&format!("connect eth0 of pod c on eth0 as {c}")),
        "{plan}"
    );
    // Over changes, other pods, the daemon's death, and rollbacks.
    host.switch(&declared(&["a", "b", "c"], "env.A = \"2\""));
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.switch(&declared(&["a"], ""));
    host.switch(&declared(&["z", "c", "b", "a"], ""));
    assert_eq!(
        (own(&host, "a"), own(&host, "b"), own(&host, "c")),
        (a.clone(), b.clone(), c)
    );
    host.tank(&["generations", "rollback", "1"]).ok();
    assert_eq!((own(&host, "a"), own(&host, "b")), (a, b));
    drop(lan);
    host.finish();
}

#[test]
fn a_pool_that_has_none_left_is_refused_and_one_that_is_free_again_is_given() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    let declared = |pods: &[&str], pool: &str| -> String {
        let pods: String = pods.iter().map(|name| pooled(name, pool, "")).collect();
        format!("{{ {pods} }}")
    };
    let own_of_host = "pool = \"10.77.0.2/32\", prefix = 24";
    host.write("host.ncl", &declared(&["a"], own_of_host));
    let refused = host.tank(&["switch", "host.ncl"]);
    assert!(
        refused.status == 1
            && refused.stderr.contains(
                "pods.a.network.nics.eth0.pool: 10.77.0.2 of the pool is the host's own on `eth0`"
            ),
        "{refused:?}"
    );
    let small = "pool = \"10.77.0.128/31\", prefix = 24";
    host.switch(&declared(&["a", "b"], small));
    let before = [own(&host, "a"), own(&host, "b")];
    let runs = host.traces();
    host.write("three.ncl", &declared(&["a", "b", "c"], small));
    let refused = host.tank(&["switch", "three.ncl"]);
    assert!(
        refused.status == 1
            && refused.stderr.contains(
                "pods.c.network.nics.eth0.pool: every address of the pool 10.77.0.128/31 is somebody's"
            ),
        "{refused:?}"
    );
    assert_eq!(host.traces(), runs, "nothing was disturbed");
    // The one of a pod that went is given to the next.
    host.switch(&declared(&["b", "c"], small));
    assert_eq!([own(&host, "c"), own(&host, "b")], before);
    drop(lan);
    host.finish();
}
