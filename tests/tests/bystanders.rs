//! What Tank did not make, it does not touch: bridges, links, rules, groups, folders, mounts and
//! processes of others on the same host are what they were after switches, repairs, a sweep and a
//! delete of everything.

use std::{collections::BTreeMap, fs, process::Command};
use tank_tests::{Host, RUN, eventually};

/// Everything of others that could be mistaken for Tank's, or stands in its way.
fn settle_neighbours(host: &Host) {
    let script = "set -e
        ip link add br-other type bridge && ip link set br-other up && ip addr add 10.91.0.1/24 dev br-other
        ip link add tk0 type veth peer name tk0p && ip link set tk0 master br-other && ip link set tk0 up
        ip route add 192.0.2.0/24 via 10.91.0.7
        nft add table inet other
        nft add chain inet other input '{ type filter hook input priority 0; policy accept; }'
        nft add rule inet other input tcp dport 9999 counter drop comment other
        nft add table ip tank
        nft add chain ip tank mine
        nft add rule ip tank mine ip saddr 192.0.2.1 accept
        mkdir -p run state/scratch.other state/volumes/gone/data
        echo precious > state/volumes/gone/data/file
        echo other > run/other
        mount -t tmpfs neighbour $(pwd)/state/scratch.other";
    let done = host
        .inside("sh")
        .args(["-c", script])
        .current_dir(&host.dir)
        .status()
        .expect("sh");
    assert!(done.success());
}

fn neighbours(host: &Host) -> BTreeMap<&'static str, String> {
    let says = |script: &str| {
        let output = host
            .inside("sh")
            .args(["-c", script])
            .current_dir(&host.dir)
            .output()
            .expect("sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    BTreeMap::from([
        ("the bridge", says("ip -4 -oneline addr show br-other")),
        (
            "the link",
            says("ip -oneline link show tk0 | sed 's/ state [A-Z]*//'"),
        ),
        ("the route", says("ip route show 192.0.2.0/24")),
        ("the rules", says("nft list table inet other")),
        ("the table of the same name", says("nft list table ip tank")),
        (
            "the folders",
            says("ls state/scratch.other run/other; cat run/other state/volumes/gone/data/file"),
        ),
        ("the mount", says("grep neighbour /proc/mounts")),
        (
            "the group",
            says(&format!(
                "ls -d /sys/fs/cgroup/unified/{0}-other /sys/fs/cgroup/{0}-other 2>/dev/null",
                host.cgroup
            )),
        ),
    ])
}

#[test]
fn are_what_they_were() {
    let mut host = Host::without_daemon();
    settle_neighbours(&host);
    let v2 = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|dir| fs::metadata(format!("{dir}/cgroup.procs")).is_ok());
    let group = format!("{}/{}-other", v2.expect("cgroup version 2"), host.cgroup);
    fs::create_dir(&group).expect("a group");
    let mut other = Command::new("sleep").arg("300").spawn().expect("sleep");
    fs::write(format!("{group}/cgroup.procs"), other.id().to_string()).expect("joined");
    let before = neighbours(&host);
    assert!(before.values().all(|text| !text.is_empty()), "{before:#?}");

    host.start_daemon();
    let config = |step: u32| {
        format!(
            "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, env.STEP = \"{step}\" }},
                              publish.p = {{ port = 18090, to = 80 }} }} }}"
        )
    };
    host.switch(&config(1));
    host.switch(&config(2));
    assert_eq!(neighbours(&host), before, "after two switches");
    // A shim is killed, the daemon too: what is left is swept by the next one.
    let pid = host.pid("web", "app");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let shim = stat
        .rsplit_once(") ")
        .expect("a state")
        .1
        .split_whitespace()
        .nth(1)
        .expect("a parent")
        .to_owned();
    host.kill_daemon();
    assert!(
        Command::new("kill")
            .args(["-9", &shim])
            .status()
            .expect("kill")
            .success()
    );
    host.start_daemon();
    eventually("it runs again", || {
        host.pod("web")["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|now| now != pid)
    });
    host.tank(&["generations", "rollback"]).ok();
    assert_eq!(neighbours(&host), before, "after a sweep and a rollback");
    host.tank(&["delete", "web"]).ok();
    assert_eq!(neighbours(&host), before, "after everything was deleted");
    assert!(
        other.try_wait().expect("wait").is_none(),
        "a process of somebody else was ended"
    );

    other.kill().expect("kill");
    other.wait().expect("wait");
    eventually("the group is empty", || fs::remove_dir(&group).is_ok());
    let script = "ip link del br-other; ip link del tk0; nft delete table inet other; nft delete table ip tank; umount state/scratch.other";
    assert!(
        host.inside("sh")
            .args(["-c", script])
            .current_dir(&host.dir)
            .status()
            .expect("sh")
            .success()
    );
    host.finish();
}

#[test]
fn a_link_of_the_same_name_is_somebody_elses() {
    let host = Host::without_daemon();
    let script = "ip link add tank0 type bridge && ip addr add 10.77.0.1/24 dev tank0 && ip link set tank0 up";
    assert!(
        host.inside("sh")
            .args(["-c", script])
            .status()
            .expect("sh")
            .success()
    );
    let host = host.started_with(&[]);
    let before = || {
        let output = host
            .inside("ip")
            .args(["-4", "-oneline", "addr", "show", "tank0"])
            .output()
            .expect("ip");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let theirs = before();
    host.write(
        "pods.ncl",
        &format!("{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}"),
    );
    let refused = host.tank(&["switch", "pods.ncl"]);
    assert_ne!(refused.status, 0);
    assert!(
        refused.stderr.contains("the link tank0: it is not Tank's"),
        "{}",
        refused.stderr
    );
    assert_eq!(before(), theirs);
    host.switch("{}");
    assert_eq!(before(), theirs, "it was removed");
    assert!(
        host.inside("ip")
            .args(["link", "del", "tank0"])
            .status()
            .expect("ip")
            .success()
    );
    host.finish();
}
