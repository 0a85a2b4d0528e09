//! The daemon dies at every boundary between two steps, and between two writes of the store, of a
//! ten-pod switch and of its rollback; or every pod of the host does, or the client that asked for
//! it. Each time the next one brings the host to where the current generation says, and it is,
//! exactly, the same host as one that was never interrupted: processes and what they run with,
//! links, addresses, routes, rules, cgroups and their limits, mounts, files, folders.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tank_tests::{
    Host, RUN, eventually,
    picture::{Picture, difference, picture},
};

/// Ten pods; the second configuration adds, removes, replaces and edits some of them, and moves
/// published ports.
fn config(second: bool) -> String {
    let pod = |name: &str, more: &str| {
        format!(
            "  pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, {more} }} }},\n"
        )
    };
    let with = |name: &str, container: &str, pod: &str| {
        format!(
            "  pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, {container} }}, {pod} }},\n"
        )
    };
    let pick = |first: &'static str, other: &'static str| if second { other } else { first };
    let mut text = String::from("{\n");
    for name in ["same-a", "same-b", "same-c"] {
        text += &pod(name, "");
    }
    text += &with(
        "edited",
        pick(
            "env.N = \"1\", files.\"/etc/n\".text = \"n 1\\n\"",
            "env.N = \"2\", files.\"/etc/n\".text = \"n 2\\n\"",
        ),
        "",
    );
    text += &with(
        "limited",
        pick(
            "limits = { pids = 50, memory = \"24MiB\", cpu = 0.5 }",
            "limits = { pids = 60, memory = \"32MiB\", cpu = 0.25 }",
        ),
        "",
    );
    text += &with(
        "published",
        "",
        pick(
            "publish.p = { port = 18080, to = 80 }",
            "publish.p = { port = 18081, to = 80 }",
        ),
    );
    text += &with(
        "renamed",
        "",
        pick("hostname = \"one\"", "hostname = \"two\""),
    );
    text += &with("after", "", "depends_on.edited = 'started");
    text += &if second {
        pod("new-a", "") + &pod("new-b", "")
    } else {
        pod("old-a", "") + &pod("old-b", "")
    };
    text + "}\n"
}

/// Waits until nothing is left to do, and gives the picture.
fn settled(host: &Host) -> Picture {
    eventually("the host has converged", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
    // Network namespaces are taken apart, and what a container wrote is removed, in the background:
    // two pictures that agree are one that lasts.
    let mut last = None;
    eventually("two pictures agree", || {
        let next = picture(host);
        let same = next.is_some() && next == last;
        last = next;
        same
    });
    last.expect("a picture")
}

/// The current generation's number, and its root: the same before a switch and after it was put
/// back.
fn current(host: &Host) -> (u64, String) {
    let list = host.tank(&["--json", "generations", "list"]).json();
    let generations = list["generations"].as_array().expect("generations");
    let current = generations
        .iter()
        .find(|one| one["current"] == true)
        .expect("a current one");
    (
        current["number"].as_u64().expect("a number"),
        current["root"].to_string(),
    )
}

/// How many boundaries `change` has, which leads from the first state to the second, and what the
/// host is before and after.
fn measure(
    host: &mut Host,
    to_first: &dyn Fn(&Host),
    change: &dyn Fn(&Host) -> i32,
) -> (u64, Picture, Picture) {
    let counter = host.dir.join("count");
    to_first(host);
    let first = settled(host);
    host.kill_daemon();
    host.start_daemon_with(&[("TANKD_COUNT_TO", counter.to_str().expect("a path"))]);
    settled(host);
    let count = || {
        std::fs::read_to_string(&counter).map_or(0, |text| text.parse::<u64>().expect("a number"))
    };
    let begin = count();
    assert_eq!(change(host), 0);
    let second = settled(host);
    let boundaries = count() - begin;
    eprintln!("{boundaries} boundaries");
    assert!(boundaries > 20, "only {boundaries} boundaries");
    assert_ne!(first, second);
    (boundaries, first, second)
}

/// Goes to the first configuration, begins a switch to the second one, and calls `fault` at each
/// boundary of it.
fn fault_everywhere(fault: impl Fn(&Host, &mut Child)) {
    let mut host = Host::new();
    let (to_first, change) = (
        |host: &Host| assert_eq!(switch(host, false), 0),
        |host: &Host| switch(host, true),
    );
    let (boundaries, first, second) = measure(&mut host, &to_first, &change);
    let (mut went_on, mut faults) = (0, 0);
    let hold = host.dir.join("hold");
    for at in 1..=boundaries {
        host.kill_daemon();
        host.start_daemon_with(&[]);
        to_first(&host);
        settled(&host);
        let (_, before) = current(&host);
        host.kill_daemon();
        let at_text = at.to_string();
        host.start_daemon_with(&[
            ("TANKD_HOLD_AT", &at_text),
            ("TANKD_HOLD", hold.to_str().expect("a path")),
        ]);
        host.write("pods.ncl", &config(true));
        let mut client = host.command(&["switch", "pods.ncl"]);
        let mut client = client
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tank");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !hold.exists()
            && client.try_wait().expect("wait").is_none()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        if hold.exists() {
            fault(&host, &mut client);
            faults += 1;
            std::fs::remove_file(&hold).expect("let go");
        }
        let status = client.wait().expect("wait");
        // A client that was killed does not stop what it began.
        eventually("the change is over", || {
            let list = host.tank(&["--json", "generations", "list"]).json();
            list["generations"]
                .as_array()
                .expect("generations")
                .iter()
                .all(|one| one["outcome"] != "pending")
        });
        let found = settled(&host);
        let put_back = current(&host).1 == before;
        went_on += u32::from(!put_back);
        let expected = if put_back { &first } else { &second };
        assert_eq!(
            difference(&found, expected),
            Vec::<String>::new(),
            "after boundary {at}, the client ended with {status}"
        );
    }
    assert!(went_on > 5, "it went on {went_on} times only");
    // A switch takes a pass more or less, so the last boundaries may not be met.
    assert!(
        faults * 4 > boundaries * 3,
        "of {boundaries} boundaries {faults} were met"
    );
    host.finish();
}

#[test]
fn of_a_switch_whose_pods_are_killed() {
    fault_everywhere(|host, _| {
        let shims = shims(host);
        assert!(shims.len() > 3, "{shims:?}");
        for shim in shims {
            let _ = Command::new("kill")
                .args(["-9", &shim])
                .stderr(Stdio::null())
                .status();
        }
    });
}

#[test]
fn of_a_switch_whose_client_is_killed() {
    fault_everywhere(|_, client| client.kill().expect("kill"));
}

/// The pids of this host's shims.
fn shims(host: &Host) -> Vec<String> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let named = std::fs::read_to_string(entry.path().join("comm"))
            .is_ok_and(|name| name.trim() == "tank-shim");
        let own = || {
            let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            groups.contains(&format!("/{}/", host.cgroup))
        };
        if named && own() {
            pids.push(pid);
        }
    }
    pids
}

fn switch(host: &Host, second: bool) -> i32 {
    host.write("pods.ncl", &config(second));
    host.tank(&["switch", "pods.ncl"]).status
}

/// Kills the daemon at each boundary of `change`, which leads from the first state to the second.
fn die_everywhere(to_first: &dyn Fn(&Host), change: &dyn Fn(&Host) -> i32) {
    let mut host = Host::new();
    let (boundaries, first, second) = measure(&mut host, to_first, change);
    let mut died = 0;
    for at in 1..=boundaries {
        host.kill_daemon();
        host.start_daemon_with(&[]);
        to_first(&host);
        assert_eq!(
            difference(&settled(&host), &first),
            Vec::<String>::new(),
            "before boundary {at}"
        );
        let (before, _) = current(&host);
        host.kill_daemon();
        host.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        let status = change(&host);
        if host.daemon_has_ended() {
            died += 1;
            assert_ne!(
                status, 0,
                "a switch that was cut off at {at} said it was done"
            );
            host.reap_daemon();
        } else {
            host.kill_daemon();
        }
        host.start_daemon_with(&[]);
        let found = settled(&host);
        // The old generation or the new one, never between.
        let expected = if current(&host).0 == before {
            &first
        } else {
            &second
        };
        assert_eq!(
            difference(&found, expected),
            Vec::<String>::new(),
            "after boundary {at}"
        );
    }
    // A switch takes a pass more or less, so the last boundaries may not be met.
    assert!(
        died * 4 > boundaries * 3,
        "of {boundaries} boundaries it died at {died}"
    );
    host.finish();
}

#[test]
fn of_a_switch() {
    die_everywhere(&|host| assert_eq!(switch(host, false), 0), &|host| {
        switch(host, true)
    });
}

#[test]
fn of_a_rollback() {
    let to_second = |host: &Host| {
        assert_eq!(switch(host, false), 0);
        assert_eq!(switch(host, true), 0);
    };
    die_everywhere(&to_second, &|host| {
        host.tank(&["generations", "rollback"]).status
    });
}
