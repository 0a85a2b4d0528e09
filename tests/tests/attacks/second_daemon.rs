//! By a second daemon on the same host.

use super::*;

/// Where a second daemon would put what is its own.
fn second(host: &Host, name: &str, given: &[(&str, &Path)]) -> Vec<String> {
    let own = host.dir.join(name);
    let config = own.join("tank.toml");
    std::fs::create_dir_all(&own).expect("a folder");
    std::fs::write(
        &config,
        format!(
            "cgroup = \"{}\"\nbridge = \"tank1\"\n",
            host.cgroup.clone() + name
        ),
    )
    .expect("settings");
    let own = [
        ("state-dir", own.join("state")),
        ("run-dir", own.join("run")),
        ("config", config),
    ];
    let mut args: Vec<String> = Vec::new();
    for (flag, path) in &own {
        let path = given
            .iter()
            .find(|(known, _)| known == flag)
            .map_or(path.as_path(), |(_, path)| path);
        args.push(format!("--{flag}={}", path.display()));
    }
    let more = given
        .iter()
        .filter(|(flag, _)| own.iter().all(|(known, _)| known != flag));
    args.extend(more.map(|(flag, path)| format!("--{flag}={}", path.display())));
    args
}

/// What a daemon says that has to end by itself.
#[track_caller]
fn refused(host: &Host, network: bool, args: &[String]) -> String {
    let mut command = host.inside("timeout");
    command.arg("60");
    if network {
        command.args(["unshare", "--net"]);
    }
    let ended: Ended = command
        .arg(bin("tankd"))
        .args(args)
        .output()
        .expect("tankd")
        .into();
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let said = ended.stderr.lines().last().unwrap_or_default();
    said.replace(&host.dir.display().to_string(), "DIR")
        .replace(&host.cgroup, "CGROUP")
}

#[test]
fn a_second_daemon_takes_nothing_of_the_first() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let (pid, daemon) = (host.pid("web", "app"), host.daemon_pid());
    let (state, run, config, socket) = (
        host.dir.join("state"),
        host.dir.join("run"),
        host.dir.join("tank.toml"),
        host.socket(),
    );
    // As an operator does who thinks that it is left over.
    std::fs::remove_file(state.join("store/LOCK")).expect("the store's lock");

    let by = |what: &str, help: &str| {
        format!("tankd: {what} is used by another tankd (pid {daemon}): stop that one, or {help}")
    };
    assert_eq!(
        refused(&host, true, &second(&host, "a", &[("state-dir", &state)])),
        by(
            "the state folder DIR/state",
            "give this one another with `--state-dir`"
        )
    );
    assert_eq!(
        refused(&host, true, &second(&host, "b", &[("run-dir", &run)])),
        by(
            "the run folder DIR/run",
            "give this one another with `--run-dir`"
        )
    );
    let cgroup = sh(
        &host,
        &format!(
            "find /sys/fs/cgroup -maxdepth 3 -path '*/{}/cgroup.kill'",
            host.cgroup
        ),
    );
    let cgroup = cgroup
        .trim_end_matches("/cgroup.kill")
        .replace(&host.cgroup, "CGROUP");
    assert_eq!(
        refused(&host, true, &second(&host, "c", &[("config", &config)])),
        by(
            &format!("the cgroup {cgroup}"),
            "give this one another with `cgroup` in tank.toml"
        )
    );
    assert_eq!(
        refused(&host, false, &second(&host, "d", &[])),
        by(
            "the network namespace, with the bridge and the table `inet tank`,",
            "start this one in a network namespace of its own"
        )
    );
    assert_eq!(
        refused(&host, true, &second(&host, "e", &[("socket", &socket)])),
        format!(
            "tankd: serve DIR/run/tank.sock: somebody else serves it (pid {daemon}): stop that one, or name another with \
             `--socket`"
        )
    );
    // What is no socket is never replaced.
    let file = host.dir.join("notes");
    std::fs::write(&file, "mine").expect("write");
    assert_eq!(
        refused(&host, true, &second(&host, "f", &[("socket", &file)])),
        "tankd: serve DIR/notes: there is something else that is no socket: remove it, or name another with `--socket`"
    );
    assert_eq!(std::fs::read_to_string(&file).expect("read"), "mine");

    assert_eq!(
        host.pid("web", "app"),
        pid,
        "the first one and its pod are as they were"
    );
    assert_eq!(host.daemon_pid(), daemon);
    remove_cgroups_of_second(&host);
    host.finish();
}

/// Second daemons that got as far as their cgroup leave it, empty.
fn remove_cgroups_of_second(host: &Host) {
    sh(
        host,
        &format!(
            "find /sys/fs/cgroup -maxdepth 2 -type d -name '{}[a-z]' -exec rmdir {{}} +",
            host.cgroup
        ),
    );
}

#[test]
fn pods_of_a_daemon_that_is_away_are_not_swept_by_another() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let pid = host.pid("web", "app");
    host.kill_daemon();
    let (run, config) = (host.dir.join("run"), host.dir.join("tank.toml"));
    let cgroup = sh(
        &host,
        &format!(
            "find /sys/fs/cgroup -maxdepth 3 -path '*/{}/cgroup.kill'",
            host.cgroup
        ),
    );
    let cgroup = cgroup
        .trim_end_matches("/cgroup.kill")
        .replace(&host.cgroup, "CGROUP");
    let holds = |what: &str, help: &str| {
        format!(
            "tankd: {what} holds pods of the tankd with the state folder DIR/state: end them with that one, or {help}"
        )
    };
    assert_eq!(
        refused(&host, false, &second(&host, "a", &[("config", &config)])),
        holds(
            &format!("the cgroup {cgroup}"),
            "give this one another with `cgroup` in tank.toml"
        )
    );
    assert_eq!(
        refused(&host, false, &second(&host, "b", &[("run-dir", &run)])),
        holds(
            "the run folder DIR/run",
            "give this one another with `--run-dir`"
        )
    );
    host.start_daemon();
    assert_eq!(
        host.pid("web", "app"),
        pid,
        "it runs on under its own daemon"
    );
    remove_cgroups_of_second(&host);
    host.finish();
}

#[test]
fn a_daemon_that_was_killed_leaves_nothing_taken() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let pid = host.pid("web", "app");
    for _ in 0..5 {
        host.kill_daemon();
        host.start_daemon();
    }
    assert_eq!(host.pid("web", "app"), pid);
    assert_eq!(
        host.daemon_log().matches("another tankd").count(),
        0,
        "{}",
        host.daemon_log()
    );
    host.finish();
}
