//! The daemon dies at every boundary between two steps, and between two writes of the store, of a ten-pod switch and of
//! its rollback. Each time the next one brings the host to where the current generation says, and it is the same host as
//! one that was never interrupted: processes, links, addresses, rules, cgroups, mounts.

use std::collections::BTreeMap;
use tank_tests::{Host, RUN, eventually};

/// Ten pods; the second configuration adds, removes, replaces and edits some of them, and moves published ports.
fn config(second: bool) -> String {
    let pod = |name: &str, more: &str| {
        format!("  pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, {more} }} }},\n")
    };
    let with = |name: &str, container: &str, pod: &str| {
        format!("  pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, {container} }}, {pod} }},\n")
    };
    let pick = |first: &'static str, other: &'static str| if second { other } else { first };
    let mut text = String::from("{\n");
    for name in ["same-a", "same-b", "same-c"] {
        text += &pod(name, "");
    }
    text += &with("edited", pick("env.N = \"1\"", "env.N = \"2\""), "");
    text += &with("limited", pick("limits.pids = 50", "limits.pids = 60"), "");
    text +=
        &with("published", "", pick("publish.p = { port = 18080, to = 80 }", "publish.p = { port = 18081, to = 80 }"));
    text += &with("renamed", "", pick("hostname = \"one\"", "hostname = \"two\""));
    text += &with("after", "", "depends_on.edited = 'started");
    text += &if second { pod("new-a", "") + &pod("new-b", "") } else { pod("old-a", "") + &pod("old-b", "") };
    text + "}\n"
}

/// The host without what a name or a number of this run makes different.
fn picture(host: &Host) -> BTreeMap<String, Vec<String>> {
    let list = host.tank(&["--json", "list"]).json();
    let pods = list["pods"].as_array().expect("pods").iter();
    let mut picture = BTreeMap::new();
    let shown = pods.map(|pod| {
        let containers = pod["containers"].as_array().expect("containers").iter();
        let containers: Vec<String> =
            containers.map(|c| format!("{} {} {} {}", c["name"], c["state"], c["digest"], c["pid"].is_i64())).collect();
        // A pod has its own addresses whoever made it.
        format!("{} {} {} {containers:?}", pod["name"], pod["state"], pod["published"])
    });
    picture.insert("pods".to_owned(), shown.collect());
    let plain = |line: String| -> String {
        let line = line.replace(&host.cgroup, "CGROUP").replace(&host.dir.display().to_string(), "DIR");
        let mut out = String::new();
        let mut digits = false;
        for c in line.chars() {
            if c.is_ascii_digit() {
                if !digits {
                    out.push('N');
                }
                digits = true;
            } else {
                digits = false;
                out.push(c);
            }
        }
        out
    };
    let mut traces: Vec<String> = host.traces().into_iter().map(plain).collect();
    traces.sort();
    picture.insert("traces".to_owned(), traces);
    picture.insert("diff".to_owned(), vec![host.tank(&["diff"]).stdout]);
    picture
}

/// What only one of two pictures has.
fn difference(one: &BTreeMap<String, Vec<String>>, other: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let lines =
        |picture: &BTreeMap<String, Vec<String>>| -> Vec<String> { picture.values().flatten().cloned().collect() };
    let (one, other) = (lines(one), lines(other));
    let only = |a: &[String], b: &[String], sign: &str| -> Vec<String> {
        let mut rest = b.to_vec();
        let extra = a.iter().filter(|line| match rest.iter().position(|known| known == *line) {
            Some(at) => {
                rest.remove(at);
                false
            }
            None => true,
        });
        extra.map(|line| format!("{sign} {line}")).collect()
    };
    [only(&one, &other, "+"), only(&other, &one, "-")].concat()
}

/// Waits until nothing is left to do, and gives the picture.
fn settled(host: &Host) -> BTreeMap<String, Vec<String>> {
    eventually("the host has converged", || host.tank(&["diff", "--exit-code"]).status == 0);
    // Network namespaces are taken apart in the background: two pictures that agree are one that lasts.
    let mut last = picture(host);
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(40));
        let next = picture(host);
        if next == last {
            return last;
        }
        last = next;
    }
    last
}

fn current(host: &Host) -> u64 {
    let list = host.tank(&["--json", "generations", "list"]).json();
    let generations = list["generations"].as_array().expect("generations");
    generations.iter().find(|one| one["current"] == true).expect("a current one")["number"].as_u64().expect("a number")
}

/// Kills the daemon at each boundary of `change`, which leads from the first state to the second.
fn die_everywhere(to_first: &dyn Fn(&Host), change: &dyn Fn(&Host) -> i32) {
    let mut host = Host::new();
    to_first(&host);
    let first = settled(&host);
    let counter = host.dir.join("count");
    host.kill_daemon();
    host.start_daemon_with(&[("TANKD_COUNT_TO", counter.to_str().expect("a path"))]);
    settled(&host);
    let begin: u64 = std::fs::read_to_string(&counter).map_or(0, |text| text.parse().expect("a number"));
    assert_eq!(change(&host), 0);
    let second = settled(&host);
    let end: u64 = std::fs::read_to_string(&counter).expect("a count").parse().expect("a number");
    assert!(end - begin > 20, "only {} boundaries", end - begin);
    assert_ne!(first, second);
    let mut died = 0;
    for at in 1..=end - begin {
        host.kill_daemon();
        host.start_daemon_with(&[]);
        to_first(&host);
        assert_eq!(difference(&settled(&host), &first), Vec::<String>::new(), "before boundary {at}");
        let before = current(&host);
        host.kill_daemon();
        host.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        let status = change(&host);
        if host.daemon_has_ended() {
            died += 1;
            assert_ne!(status, 0, "a switch that was cut off at {at} said it was done");
            host.reap_daemon();
        } else {
            host.kill_daemon();
        }
        host.start_daemon_with(&[]);
        let found = settled(&host);
        // The old generation or the new one, never between.
        let expected = if current(&host) == before { &first } else { &second };
        assert_eq!(difference(&found, expected), Vec::<String>::new(), "after boundary {at}");
    }
    assert!(died > 5, "it died {died} times only");
    host.finish();
}

#[test]
fn of_a_switch() {
    let switch = |host: &Host, second: bool| {
        host.write("pods.ncl", &config(second));
        host.tank(&["switch", "pods.ncl"]).status
    };
    die_everywhere(&|host| assert_eq!(switch(host, false), 0), &|host| switch(host, true));
}

#[test]
fn of_a_rollback() {
    let to_second = |host: &Host| {
        for second in [false, true] {
            host.write("pods.ncl", &config(second));
            host.tank(&["switch", "pods.ncl"]).ok();
        }
    };
    die_everywhere(&to_second, &|host| host.tank(&["generations", "rollback"]).status);
}
