//! The kernel notifies of whatever somebody does to the host behind Tank's back, and Tank repairs
//! it, long before the ten minutes after which it reads everything anyway.

use std::{
    process::Command,
    time::{Duration, Instant},
};
use tank_tests::{Host, RUN, eventually};

/// Far less than `resync`, which is ten minutes: what is repaired by then an event has notified of.
const SOON: Duration = Duration::from_secs(5);

fn in_pod(host: &Host, command: &[&str]) {
    let pid = host.pid("web", "app").to_string();
    let status = Command::new("nsenter")
        .args(["--net", "--target", &pid, "--"])
        .args(command)
        .status()
        .expect("nsenter");
    assert!(status.success(), "{command:?}");
}

#[track_caller]
fn repaired(host: &Host, what: &str, break_it: impl FnOnce(), is_well: impl Fn() -> bool) {
    assert!(is_well(), "{what}: it was not well before");
    // A pass that is under way has to be over, or it would see the damage without a notification.
    std::thread::sleep(Duration::from_millis(300));
    break_it();
    let before = Instant::now();
    eventually(what, &is_well);
    assert!(before.elapsed() < SOON, "{what}: {:?}", before.elapsed());
    eventually("nothing is left to do", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
}

#[test]
fn each_kind_is_told_by_its_own_event() {
    let host = Host::new();
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, limits = {{ pids = 50, memory = \"32MiB\" }} }}, publish.p = {{ port = 18080, to = 80 }} }} }}"
    ));
    let says = |command: &str| {
        let output = host
            .inside("sh")
            .args(["-c", command])
            .output()
            .expect("sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let does = |command: &'static str| {
        let status = host
            .inside("sh")
            .args(["-c", command])
            .status()
            .expect("sh");
        assert!(status.success(), "{command}");
    };
    let inside = |command: &str| {
        let pid = host.pid("web", "app").to_string();
        let output = Command::new("nsenter")
            .args(["--net", "--target", &pid, "--", "sh", "-c", command])
            .output();
        String::from_utf8_lossy(&output.expect("nsenter").stdout).into_owned()
    };

    // The host's side: the bridge, its address, the rules, the pod's port of it.
    let bridge = || {
        says("ip link show tank0").contains("state UP")
            || says("ip link show tank0").contains(",UP")
    };
    repaired(
        &host,
        "the bridge is up again",
        || does("ip link set tank0 down"),
        bridge,
    );
    let address = says("ip -4 -oneline addr show tank0")
        .split_whitespace()
        .nth(3)
        .expect("an address")
        .to_owned();
    repaired(
        &host,
        "the bridge has its address again",
        || {
            assert!(
                host.inside("ip")
                    .args(["addr", "del", &address, "dev", "tank0"])
                    .status()
                    .expect("ip")
                    .success()
            )
        },
        || says("ip addr show tank0").contains(&address),
    );
    let rules = || says("nft list table inet tank").contains("18080");
    repaired(
        &host,
        "the rules are there again",
        || does("nft delete table inet tank"),
        rules,
    );
    repaired(
        &host,
        "the rules are whole again",
        || does("nft flush table inet tank"),
        rules,
    );
    let port = || says("ip -oneline link show master tank0").contains("tk");
    repaired(
        &host,
        "the pod's port is on the bridge again",
        || {
            does(
                "ip link set $(ip -oneline link show master tank0 | cut -d: -f2 | cut -d@ -f1) nomaster",
            )
        },
        port,
    );

    // The pod's side: its link, its address, its route.
    let up = || inside("ip link show eth0").contains(",UP");
    repaired(
        &host,
        "the pod's link is up again",
        || in_pod(&host, &["ip", "link", "set", "eth0", "down"]),
        up,
    );
    let route = || inside("ip route").contains("default");
    repaired(
        &host,
        "the pod has its route again",
        || in_pod(&host, &["ip", "route", "del", "default"]),
        route,
    );
    let gateway = || {
        inside("ip route show default")
            .split_whitespace()
            .nth(2)
            .unwrap_or_default()
            .to_owned()
    };
    let before = gateway();
    let elsewhere = [
        "ip",
        "route",
        "add",
        "default",
        "via",
        "10.90.0.77",
        "metric",
        "1",
    ];
    repaired(
        &host,
        "the route leads nowhere else",
        || in_pod(&host, &elsewhere),
        || gateway() == before,
    );
    let elsewhere = ["ip", "route", "replace", "default", "via", "10.90.0.77"];
    repaired(
        &host,
        "the route leads where it did",
        || in_pod(&host, &elsewhere),
        || gateway() == before,
    );
    let own = inside("ip -4 -oneline addr show eth0")
        .split_whitespace()
        .nth(3)
        .expect("an address")
        .to_owned();
    repaired(
        &host,
        "the pod has its address again",
        || in_pod(&host, &["ip", "addr", "del", &own, "dev", "eth0"]),
        || inside("ip addr show eth0").contains(&own),
    );

    // The container's limits, and its life.
    let find = format!(
        "find /sys/fs/cgroup -path '*/{}/web/app/pids.max'",
        host.cgroup
    );
    let file = says(&find).trim().to_owned();
    assert!(!file.is_empty(), "no limit of processes in any hierarchy");
    let limit = || std::fs::read_to_string(&file).expect("read").trim() == "50";
    repaired(
        &host,
        "the limit is back",
        || std::fs::write(&file, "7").expect("write"),
        limit,
    );
    let pid = host.pid("web", "app");
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        stat.rsplit_once(") ").expect("a state").1.starts_with('T')
    };
    let stop = || {
        assert!(
            Command::new("kill")
                .args(["-STOP", &pid.to_string()])
                .status()
                .expect("kill")
                .success()
        )
    };
    repaired(&host, "it goes on", stop, || !state());
    let freezer = says(&format!(
        "find /sys/fs/cgroup -path '*/{}/web/app/cgroup.freeze'",
        host.cgroup
    ));
    let freezer = freezer.trim().to_owned();
    let thawed = || std::fs::read_to_string(&freezer).expect("read").trim() == "0";
    repaired(
        &host,
        "it is thawed",
        || std::fs::write(&freezer, "1").expect("write"),
        thawed,
    );
    // The container sees its files read-only; the host's root can still get at them.
    let resolver = "/etc/resolv.conf";
    let before = host.exec("web", &format!("cat {resolver}"));
    let edit = || {
        let script = format!(
            "mount -o remount,bind,rw none {resolver} && echo nameserver 192.0.2.66 > {resolver}"
        );
        let mut nsenter = Command::new("nsenter");
        nsenter.args([
            "--mount",
            "--pid",
            "--target",
            &pid.to_string(),
            "--",
            "/bin/sh",
            "-c",
            &script,
        ]);
        assert!(nsenter.status().expect("nsenter").success());
    };
    repaired(&host, "the resolver is the old one", edit, || {
        host.exec("web", &format!("cat {resolver}")) == before
    });
    assert_eq!(host.pid("web", "app"), pid, "none of this restarts it");
    let kill = || {
        assert!(
            Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()
                .expect("kill")
                .success()
        )
    };
    eventually("it runs", || {
        host.pod("web")["containers"][0]["state"] == "running"
    });
    kill();
    let before = Instant::now();
    eventually("another one runs", || {
        host.pod("web")["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|other| other != pid)
    });
    assert!(before.elapsed() < SOON);
    let pod = host.pid("web", "app");
    let shim = std::fs::read_to_string(format!("/proc/{pod}/stat")).expect("stat");
    let shim = shim
        .rsplit_once(") ")
        .expect("a state")
        .1
        .split_whitespace()
        .nth(1)
        .expect("a parent")
        .to_owned();
    assert!(
        Command::new("kill")
            .args(["-9", &shim])
            .status()
            .expect("kill")
            .success()
    );
    let before = Instant::now();
    eventually("another one runs", || {
        host.pod("web")["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|one| one != pod)
    });
    assert!(before.elapsed() < SOON);

    // Each of them is on record with what was wrong, and a bystander is as it was.
    let events = host.tank(&["events"]).ok();
    for what in [
        "set up the bridge",
        "publish ports",
        "connect pod web",
        "set the limits of web/app",
        "start web/app",
        "resume web/app",
        "write /etc/resolv.conf of web/app",
        "its shim is gone",
        "container app was stopped",
    ] {
        assert!(events.contains(what), "{what} is not on record: {events}");
    }
    host.finish();
}

/// What was looked at before is not looked at again unless there is a notification of it: a damage is in
/// the very next plan all the same, and gone from it as soon as it is undone.
#[test]
fn no_plan_is_older_than_the_damage() {
    let mut host = Host::new();
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, limits.pids = 50 }}, publish.p = {{ port = 18080, to = 80 }} }} }}"
    ));
    host.kill_daemon();
    let host = host.started_with(&["--no-repair"]);
    let sh = |command: &str| {
        let output = host
            .inside("sh")
            .args(["-c", command])
            .output()
            .expect("sh");
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let limit = sh(&format!(
        "find /sys/fs/cgroup -path '*/{}/web/app/pids.max'",
        host.cgroup
    ));
    let port = sh("ip -oneline link show master tank0 | cut -d: -f2 | cut -d@ -f1");
    let pod = format!("nsenter --net --target {} --", host.pid("web", "app"));
    let gateway = sh(&format!("{pod} ip -4 route show default | cut -d' ' -f3"));
    host.write("rules.nft", &sh("nft list table inet tank"));
    let damages = [
        (
            format!("echo 7 > {limit}"),
            format!("echo 50 > {limit}"),
            "set the limits of web/app",
        ),
        (
            format!("ip link set {port} nomaster"),
            format!(
                "ip link set {port} master tank0 && ip link set {port} type bridge_slave hairpin on"
            ),
            "connect pod web",
        ),
        (
            format!("ip link set {port} type bridge_slave hairpin off"),
            format!("ip link set {port} type bridge_slave hairpin on"),
            "connect pod web",
        ),
        (
            format!("{pod} ip -4 route del default"),
            format!("{pod} ip -4 route add default via {gateway}"),
            "connect pod web",
        ),
        (
            "nft flush table inet tank".to_owned(),
            format!(
                "nft delete table inet tank && nft -f {}/rules.nft",
                host.dir.display()
            ),
            "publish ports",
        ),
    ];
    let diff = || host.tank(&["diff"]).ok();
    for round in 0..5 {
        for (damage, undo, step) in &damages {
            assert_eq!(diff(), "nothing to do\n", "round {round}, before: {damage}");
            sh(damage);
            let plan = diff();
            assert!(
                plan.contains(step),
                "round {round}, after: {damage}: {plan}"
            );
            sh(undo);
        }
    }
    host.finish();
}
