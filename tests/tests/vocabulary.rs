//! What a configuration may say about a container is what the kernel then does.

use tank_tests::{Host, RUN, eventually};

#[test]
fn limits_of_each_process_and_its_system_calls() {
    let host = Host::new();
    host.switch(&format!(
        "{{ pods.web.containers.app = {{
            image = \"oci:./busybox\", {RUN},
            ulimits = {{ nofile = {{ soft = 123, hard = 456 }}, core = {{ soft = 0, hard = \"unlimited\" }} }},
            seccomp.deny = [\"mkdir\", \"mkdirat\"],
        }} }}"
    ));
    // Of the main process and of one that is run beside it.
    let pid = host.pid("web", "app");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line")
        .to_owned();
    assert_eq!(
        line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(),
        ["123", "456"]
    );
    assert_eq!(
        host.exec("web", "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc"),
        "123\n456\n0\nunlimited"
    );
    let denied = host.tank(&["exec", "web", "--", "/bin/mkdir", "/tmp/x"]);
    assert_eq!(denied.status, 1, "{}", denied.stderr);
    assert!(
        denied.stderr.contains("Operation not permitted"),
        "{}",
        denied.stderr
    );
    // What the default filter refuses can be allowed by name, or altogether. (BusyBox's unshare
    // needs nothing else.)
    let unshare = |host: &Host| {
        host.tank(&["exec", "web", "--", "/bin/unshare", "-U", "/bin/true"])
            .status
    };
    assert_ne!(unshare(&host), 0);
    host.switch(&format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, seccomp.profile = 'unconfined }} }}"
    ));
    assert_eq!(unshare(&host), 0);
    // A misspelt call would be one that is not denied.
    host.write(
        "bad.ncl",
        &format!("{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, seccomp.deny = [\"mkdirr\"] }} }}"),
    );
    let refused = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("mkdirr"), "{}", refused.stderr);
    host.finish();
}

#[test]
fn devices_of_the_host() {
    let host = Host::new();
    host.switch(&format!(
        "{{ pods.web.containers.app = {{
            image = \"oci:./busybox\", {RUN},
            devices = {{ b = {{ path = \"/dev/zero\", to = \"/dev/mine/zero\", read_only = true }} }},
        }} }}"
    ));
    assert_eq!(
        host.exec("web", "head -c 3 /dev/mine/zero | od -An -tx1")
            .trim(),
        "00 00 00"
    );
    // Not even the container's root writes to what may only be read.
    let written = host.tank(&[
        "exec",
        "web",
        "--",
        "/bin/sh",
        "-c",
        "id -u; echo x > /dev/mine/zero",
    ]);
    assert_ne!(written.status, 0);
    assert!(
        written.stderr.contains("Permission denied"),
        "{}",
        written.stderr
    );
    let changed = host.tank(&["exec", "web", "--", "/bin/chmod", "666", "/dev/mine/zero"]);
    assert_ne!(changed.status, 0, "the container's root owns the device");
    // What is no device is refused, and the pod that runs goes on.
    let before = host.pid("web", "app");
    host.write(
        "bad.ncl",
        &format!(
            "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, devices.x.path = \"/dev/nope\" }} }}"
        ),
    );
    let refused = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("/dev/nope"), "{}", refused.stderr);
    assert_eq!(
        host.pod("web")["containers"][0]["state"],
        "running",
        "{before}"
    );
    host.finish();
}

#[test]
fn a_container_that_does_not_answer_is_started_again() {
    let host = Host::new();
    let pod = |probes: &str| {
        format!(
            "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.timeout = \"1s\", {probes} }} }}"
        )
    };
    host.switch(&pod(
        "liveness = { exec = [\"/bin/test\", \"!\", \"-e\", \"/tmp/hung\"], period = \"50ms\", failures = 2 }",
    ));
    let first = host.pid("web", "app");
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(
        host.pid("web", "app"),
        first,
        "a container that answers was ended"
    );
    host.exec("web", "touch /tmp/hung");
    // Its successor has a file system of its own, without the file.
    eventually("another one runs", || {
        let view = host.pod("web");
        view["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|pid| pid != first)
    });
    let events = host.tank(&["events"]).ok();
    assert!(events.contains("does not answer any more"), "{events}");
    host.finish();
}

#[test]
fn what_comes_up_slowly_is_asked_when_it_is_up() {
    let host = Host::new();
    // Ready only when up, and not ended for not being alive before that.
    let config = |failures: u32| {
        format!(
            "{{ pods.web.containers.app = {{
                image = \"oci:./busybox\",
                command = [\"/bin/sh\", \"-c\", \"trap 'exit 0' TERM; sleep 1; touch /tmp/up; while true; do sleep 0.1; done\"],
                startup = {{ exec = [\"/bin/test\", \"-e\", \"/tmp/up\"], period = \"50ms\", failures = {failures} }},
                liveness = {{ exec = [\"/bin/test\", \"-e\", \"/tmp/up\"], period = \"50ms\", failures = 1 }},
                stop.timeout = \"200ms\", env.N = \"{failures}\",
            }} }}"
        )
    };
    let before = std::time::Instant::now();
    host.switch(&config(100));
    assert!(
        before.elapsed() > std::time::Duration::from_millis(900),
        "the switch did not wait for the startup"
    );
    assert_eq!(host.pod("web")["containers"][0]["restarts"], 0);
    // A probe that changes is asked at once, without a restart.
    let pid = host.pid("web", "app");
    let other = config(100)
        .replace("\"!\"", "")
        .replace("failures = 1 }", "failures = 7 }");
    host.switch(&other);
    assert_eq!(host.pid("web", "app"), pid);
    // One that never comes up is no healthy switch.
    host.write("never.ncl", &config(2));
    let ended = host.tank(&["switch", "never.ncl", "--timeout", "4s"]);
    assert_eq!(ended.status, 3, "{}{}", ended.stdout, ended.stderr);
    host.finish();
}

#[test]
fn repair_can_be_paused_to_look_at_what_is_wrong() {
    let mut host = Host::new();
    host.switch(&format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}"
    ));
    host.kill_daemon();
    host = host.started_with(&["--no-repair"]);
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    let pid = host.pid("web", "app");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid"),
        rustix::process::Signal::KILL,
    )
    .expect("kill");
    host.inside("ip")
        .args(["link", "set", "tank0", "down"])
        .status()
        .expect("ip");
    eventually("it shows", || {
        host.pod("web")["containers"][0]["state"] != "running"
    });
    std::thread::sleep(std::time::Duration::from_millis(500));
    let diff = host.tank(&["diff", "--exit-code"]);
    assert_eq!(diff.status, 2, "{}", diff.stdout);
    assert!(
        diff.stdout.contains("start web/app") && diff.stdout.contains("drift"),
        "{}",
        diff.stdout
    );
    assert!(diff.stdout.contains("set up the bridge"), "{}", diff.stdout);
    // With repair, it is gone by itself.
    host.kill_daemon();
    host = host.started_with(&[]);
    eventually("all is well again", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
    assert_eq!(host.pod("web")["containers"][0]["state"], "running");
    host.finish();
}

#[test]
fn what_runs_before_the_containers() {
    let host = Host::new();
    let config = |second: &str, env: &str| {
        format!(
            "{{ pods.web = {{
                volumes.shared = {{}},
                init = {{
                    a = {{ image = \"oci:./busybox\", command = [\"/bin/sh\", \"-c\", \"echo a >> /shared/ran\"],
                          mounts.s = {{ volume = \"shared\", path = \"/shared\" }} }},
                    b = {{ image = \"oci:./busybox\", command = [\"/bin/sh\", \"-c\", \"{second}\"],
                          mounts.s = {{ volume = \"shared\", path = \"/shared\" }},
                          files.\"/etc/from\".text = \"b\" }},
                }},
                containers.app = {{ image = \"oci:./busybox\", {RUN}, env.LOG = \"{env}\",
                                    mounts.s = {{ volume = \"shared\", path = \"/shared\" }} }},
            }} }}"
        )
    };
    host.switch(&config(
        "cat /etc/from >> /shared/ran; echo >> /shared/ran",
        "1",
    ));
    let ran = |host: &Host| {
        host.exec("web", "cat /shared/ran")
            .split_whitespace()
            .collect::<String>()
    };
    assert_eq!(ran(&host), "ab");
    assert_eq!(
        host.pod("web")["containers"]
            .as_array()
            .expect("containers")
            .len(),
        1,
        "what has ended well is not shown"
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    // Not again when the main process ends, nor when only the container changes.
    let before = host.pid("web", "app");
    host.exec("web", "kill -USR1 1");
    eventually("it runs again", || {
        host.pod("web")["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|pid| pid != before)
    });
    host.switch(&config(
        "cat /etc/from >> /shared/ran; echo >> /shared/ran",
        "2",
    ));
    assert_eq!(ran(&host), "ab");
    // Again when it was changed; the daemon's death in between changes nothing.
    host.switch(&config("echo c >> /shared/ran", "2"));
    assert_eq!(ran(&host), "abc");
    // One that fails is a switch that fails, with its last words, and what ran before comes back.
    host.write("pods.ncl", &config("echo cannot migrate; exit 3", "2"));
    let failed = host.tank(&["switch", "pods.ncl"]);
    assert_eq!(failed.status, 3, "{}", failed.stderr);
    assert!(
        failed.stderr.contains("web/b: ") && failed.stderr.contains("cannot migrate"),
        "{}",
        failed.stderr
    );
    eventually("what ran before comes back", || {
        host.pod("web")["state"] == "running"
    });
    assert!(
        host.tank(&["logs", "web/b"])
            .ok()
            .contains("cannot migrate")
    );
    host.finish();
}

#[test]
fn files_that_are_read_again() {
    let host = Host::new();
    let config = |text: &str, other: &str| {
        format!(
            "{{ pods.web.containers.app = {{
                image = \"oci:./busybox\",
                command = [\"/bin/sh\", \"-c\", \"trap 'cp /etc/live /tmp/seen' HUP; trap 'exit 0' TERM; while true; do sleep 0.1; done\"],
                files = {{
                    \"/etc/live\" = {{ text = \"{text}\", reload = \"SIGHUP\" }},
                    \"/etc/watched\" = {{ text = \"{text}\", reload = \"none\" }},
                    \"/etc/fixed\" = {{ text = \"{other}\" }},
                }},
            }} }}"
        )
    };
    host.switch(&config("one, and longer than the next", "x"));
    let pid = host.pid("web", "app");
    host.write("pods.ncl", &config("two", "x"));
    let diff = host.tank(&["diff", "pods.ncl"]).ok();
    assert!(
        diff.contains("in place") && !diff.contains("restart"),
        "{diff}"
    );
    host.tank(&["switch", "pods.ncl"]).ok();
    assert_eq!(host.pid("web", "app"), pid, "it was disturbed");
    assert_eq!(host.exec("web", "cat /etc/live /etc/watched"), "twotwo");
    eventually("the signal came", || {
        host.exec("web", "cat /tmp/seen 2>/dev/null || true") == "two"
    });
    host.tank(&["generations", "rollback"]).ok();
    assert_eq!(
        host.exec("web", "cat /etc/live"),
        "one, and longer than the next"
    );
    assert_eq!(host.pid("web", "app"), pid);
    // A file that nobody said it reads again restarts it.
    host.switch(&config("two", "y"));
    assert_ne!(host.pid("web", "app"), pid);
    // A daemon that comes later does the same.
    host.finish();
}
