//! A newer daemon on what an older one left: its store, its shims.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};
use tank_tests::{Host, RUN, bin, repo};

/// `tests/fixtures/state-1/store` was written by the first `tankd` with store format 1 that kept
/// provenance (two switches of two pods); it stays as it was made.
#[test]
fn a_store_of_format_1_is_read() {
    let host = Host::without_daemon();
    let state = host.dir.join("state");
    fs::create_dir_all(&state).expect("a folder");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(repo().join("tests/fixtures/state-1/store"))
        .arg(&state)
        .status()
        .expect("cp");
    assert!(copied.success());
    // Its images are not here: nothing is started.
    let host = host.started_with(&["--no-repair"]);
    let list = host.tank(&["--json", "generations", "list"]).json();
    let seen: Vec<String> = list["generations"]
        .as_array()
        .expect("generations")
        .iter()
        .map(|one| {
            format!(
                "{} {} {} {}",
                one["number"], one["root"], one["outcome"], one["current"]
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            r#"1 "sha256:81b48cfe86bbaec9c8730f0c4cc86fac363d0b81a01d57f4e30eaa16ad70b6db" "good" false"#,
            r#"2 "sha256:1623cbd7c61b8e1245e955fd25d5e9df460844d7e38b17e60a1d63c4166e2279" "good" true"#,
        ]
    );
    // Both graphs load, which hashes every node of them again.
    let diff = host.tank(&["generations", "diff", "1", "2"]).ok();
    assert!(
        diff.contains("limits a/app") && diff.contains("\"50\" \u{2192} \"51\""),
        "{diff}"
    );
    let why = host.tank(&["why", "a.app.limits.pids"]).ok();
    assert!(why.contains("51") && why.contains("pods.ncl"), "{why}");
    // And one more comes on top of them.
    host.write("none.ncl", "{}");
    host.tank(&["switch", "none.ncl"]).ok();
    let list = host.tank(&["--json", "generations", "list"]).json();
    assert_eq!(list["generations"][2]["parent"], 2);
    host.finish();
}

#[test]
fn a_store_that_can_not_be_read_is_left_alone() {
    let mut host = Host::new();
    host.switch(&format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}"
    ));
    let pid = host.pid("web", "app");
    host.kill_daemon();
    let before = fs::read_dir(host.dir.join("state"))
        .expect("a folder")
        .count();
    // It names a file that is not there: a broken disk, or half a copy.
    let store = host.dir.join("state/store");
    let stale = host.dir.join("state/store.kept");
    fs::rename(&store, &stale).expect("moved");
    fs::create_dir(&store).expect("a folder");
    fs::write(store.join("CURRENT"), "MANIFEST-000099\n").expect("written");
    let mut command = host.inside(&bin("tankd").display().to_string());
    let ended = command
        .arg(format!("--state-dir={}", host.dir.join("state").display()))
        .arg(format!("--run-dir={}", host.dir.join("run").display()))
        .arg(format!("--config={}", host.dir.join("tank.toml").display()))
        .output()
        .expect("tankd");
    assert!(!ended.status.success());
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        said.contains("can't open the database in the store"),
        "{said}"
    );
    // What runs is not touched by a daemon that can't know what is declared.
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok());
    fs::remove_dir_all(&store).expect("removed");
    fs::rename(&stale, &store).expect("moved back");
    assert_eq!(
        fs::read_dir(host.dir.join("state"))
            .expect("a folder")
            .count(),
        before
    );
    host.start_daemon();
    assert_eq!(host.pid("web", "app"), pid);
    host.finish();
}

#[test]
fn shims_of_version_1_are_taken_over() {
    let host = Host::without_daemon();
    let wrapper = host.dir.join("old-shim");
    let shim = bin("tank-shim");
    fs::write(
        &wrapper,
        format!(
            "#!/bin/sh\nTANK_SHIM_VERSION=1 exec {} \"$@\"\n",
            shim.display()
        ),
    )
    .expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("executable");
    let flag = format!("--shim={}", wrapper.display());
    let mut host = host.started_with(&[&flag]);
    let config = |pids: u32, files: &str| {
        format!(
            "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, limits.pids = {pids}, files = {{ {files} }} }} }}"
        )
    };
    host.switch(&config(50, ""));
    let pid = host.pid("web", "app");
    // The newer one comes; the shims that are there stay what they are.
    host.kill_daemon();
    let host = host.started_with(&[]);
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.switch(&config(51, ""));
    assert_eq!(host.pid("web", "app"), pid, "a limit disturbed it");
    // What the old shim can't do takes a new one, and the plan says so.
    let live = |text: &str| format!("\"/etc/live\" = {{ text = \"{text}\", reload = \"none\" }}");
    host.write("pods.ncl", &config(51, &live("one")));
    let diff = host.tank(&["diff", "pods.ncl"]).ok();
    assert!(diff.contains("its shim is too old"), "{diff}");
    host.tank(&["switch", "pods.ncl"]).ok();
    let pid = host.pid("web", "app");
    host.switch(&config(51, &live("two")));
    assert_eq!(host.exec("web", "cat /etc/live"), "two");
    assert_eq!(host.pid("web", "app"), pid);
    host.finish();
}

#[test]
fn shims_of_version_3_are_taken_over() {
    let host = Host::without_daemon();
    let wrapper = host.dir.join("old-shim");
    let shim = bin("tank-shim");
    fs::write(
        &wrapper,
        format!(
            "#!/bin/sh\nTANK_SHIM_VERSION=3 exec {} \"$@\"\n",
            shim.display()
        ),
    )
    .expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("executable");
    let flag = format!("--shim={}", wrapper.display());
    let mut host = host.started_with(&[&flag]);
    let config = |more: &str| {
        format!(
            "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, {more} }}, volumes.v = {{}} }} }}"
        )
    };
    host.switch(&config(""));
    let pid = host.pid("web", "app");
    host.kill_daemon();
    let host = host.started_with(&[]);
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    // It answers in order, without ids, whatever fails in between.
    for _ in 0..3 {
        assert_eq!(host.tank(&["exec", "web", "--", "nope"]).status, 127);
        assert_eq!(host.exec("web", "echo fine"), "fine");
    }
    // What it does not know is refused by whoever does.
    let refused = host.tank(&["cp", "web:/etc/hosts", "hosts"]);
    assert_eq!(refused.status, 1, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("its shim is of a Tank before this"),
        "{}",
        refused.stderr
    );
    host.switch(&config("limits.pids = 77"));
    assert_eq!(host.pid("web", "app"), pid, "a limit disturbed it");
    // More mounts than its packets carry are refused before anything is sent, and it goes on.
    let mounts: String = (0..130)
        .map(|n| format!("mounts.m{n} = {{ volume = \"v\", path = \"/m/{n}\" }},"))
        .collect();
    host.write("many.ncl", &config(&mounts));
    let refused = host.tank(&["switch", "many.ncl"]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("it is of an older Tank, for which 100 is the most"),
        "{}",
        refused.stderr
    );
    assert_eq!(host.exec("web", "echo fine"), "fine");
    host.finish();
}

/// A shim of the next version, which says more than is known here, and whose notifications are not all known: what a `tankd` that was put
/// back by one version finds.
#[test]
fn shims_of_a_newer_version_are_taken_over() {
    let host = Host::without_daemon();
    let wrapper = host.dir.join("new-shim");
    let shim = bin("tank-shim");
    fs::write(
        &wrapper,
        format!(
            "#!/bin/sh\nTANK_SHIM_VERSION=99 exec {} \"$@\"\n",
            shim.display()
        ),
    )
    .expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("executable");
    let flag = format!("--shim={}", wrapper.display());
    let mut host = host.started_with(&[&flag]);
    let config = |pids: u32| {
        format!(
            "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, limits.pids = {pids} }} }}"
        )
    };
    host.switch(&config(50));
    let pid = host.pid("web", "app");
    host.kill_daemon();
    // What the newer one keeps beside the store, in a format that is not known.
    let figures = host.dir.join("state/usage/web");
    fs::create_dir_all(&figures).expect("a folder");
    fs::write(figures.join("_pod"), "tank figures, format 2\nand so on").expect("written");
    let host = host.started_with(&[]);
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.switch(&config(51));
    assert_eq!(host.exec("web", "echo fine"), "fine");
    assert_eq!(host.pid("web", "app"), pid, "a limit disturbed it");
    let history = host
        .tank(&["--json", "stats", "web", "--since", "1h"])
        .json();
    assert_eq!(
        history["pods"][0]["points"].as_array().map(Vec::len),
        Some(1),
        "{history}"
    );
    // And it can be ended.
    host.tank(&["delete", "web"]).ok();
    host.finish();
}
