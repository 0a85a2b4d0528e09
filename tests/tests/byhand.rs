//! `stop`, `start`, `restart` and `explain`: what they do to a real host, and how long it lasts.

use serde_json::Value;
use tank_tests::{Host, RUN, eventually, pty::Terminal};

/// A server that says `up` on port 80 and needs a moment to be ready, one that needs it, and one of its own.
fn config() -> String {
    let serve = r#"command = ["/bin/httpd", "-f", "-p", "80", "-h", "/www"], files."/www/index.html" = { text = "up" }"#;
    format!(
        "{{ pods.web = {{ publish.http = {{ port = 8080, to = 80 }}, containers.app = {{ image = \"oci:./busybox\", {serve},
                readiness = {{ tcp = {{ port = 80 }}, period = \"100ms\" }} }} }},
            pods.worker = {{ depends_on.web = 'started, containers = {{
                a = {{ image = \"oci:./busybox\", {RUN} }}, b = {{ image = \"oci:./busybox\", {RUN} }} }} }} }}"
    )
}

fn state(host: &Host, pod: &str) -> String {
    host.pod(pod)["state"].as_str().expect("a state").to_owned()
}

fn generation(host: &Host) -> Value {
    host.tank(&["--json", "status"]).json()["generation"].clone()
}

fn failed(host: &Host, args: &[&str]) -> String {
    let ended = host.tank(args);
    assert_ne!(ended.status, 0, "{args:?}: {}", ended.stdout);
    ended.stderr
}

#[test]
fn what_is_stopped_stays_so_until_it_is_started() {
    let mut host = Host::new();
    host.switch(&config());
    let page = "http://127.0.0.1:8080/";
    assert_eq!(host.get(page).ok(), "up");
    let (before, address) = (generation(&host), host.pod("web")["addresses"].clone());
    let (a, b) = (host.pid("worker", "a"), host.pid("worker", "b"));

    let said = host.tank(&["stop", "web"]).ok();
    assert!(said.contains("stopped web/app"), "{said}");
    assert!(host.get(page).status != 0);
    // Its dependents, its address and the generation are what they were.
    assert_eq!(
        (host.pid("worker", "a"), generation(&host)),
        (a, before.clone())
    );
    assert_eq!(host.pod("web")["addresses"], address);
    assert!(
        host.tank(&["stop", "web"])
            .ok()
            .contains("stopped already: web/app")
    );

    // It is shown, and is nothing that anybody repairs.
    let listed = host.tank(&["list"]).ok();
    assert!(
        listed.contains("  stopped ") && listed.contains(" ago "),
        "{listed}"
    );
    assert!(host.tank(&["get", "web"]).ok().contains("by root"));
    assert!(host.tank(&["status"]).ok().contains("stopped: web/app"));
    let diff = host.tank(&["diff", "--exit-code"]);
    assert_eq!(diff.status, 0, "{}", diff.stdout);
    assert!(
        diff.stdout.contains("web/app: root stopped it by hand"),
        "{}",
        diff.stdout
    );
    assert!(diff.stdout.contains("nothing to do"), "{}", diff.stdout);
    let explained = host.tank(&["explain", "web"]).ok();
    assert!(
        explained.contains("app: root stopped it by hand"),
        "{explained}"
    );
    assert!(explained.contains("see  tank start web"), "{explained}");
    let events = host.tank(&["events"]).ok();
    assert!(events.contains("root stopped it by hand: app"), "{events}");

    // A daemon that is killed has not forgotten it.
    host.kill_daemon();
    host.start_daemon();
    assert!(
        host.tank(&["diff"])
            .ok()
            .contains("root stopped it by hand")
    );
    assert!(host.get(page).status != 0);
    assert_eq!(state(&host, "web"), "stopped");

    let said = host.tank(&["start", "web"]).ok();
    assert!(said.contains("started web/app"), "{said}");
    // It is ready by then.
    assert_eq!(host.get(page).ok(), "up");
    assert_eq!(
        (state(&host, "web"), generation(&host)),
        ("running".to_owned(), before)
    );
    assert_eq!((host.pid("worker", "a"), host.pid("worker", "b")), (a, b));
    assert!(host.tank(&["diff"]).ok().starts_with("nothing to do"));
    host.finish();
}

#[test]
fn a_restart_is_another_run_and_of_what_was_named_alone() {
    let host = Host::new();
    host.switch(&config());
    let (web, a, b) = (
        host.pid("web", "app"),
        host.pid("worker", "a"),
        host.pid("worker", "b"),
    );
    let before = generation(&host);
    host.tank(&["restart", "worker/a"]).ok();
    assert_ne!(host.pid("worker", "a"), a);
    assert_eq!((host.pid("worker", "b"), host.pid("web", "app")), (b, web));
    assert_eq!(host.pod("worker")["containers"][0]["restarts"], 0);
    host.tank(&["restart", "--all"]).ok();
    assert_ne!(host.pid("worker", "b"), b);
    assert_ne!(host.pid("web", "app"), web);
    assert_eq!(generation(&host), before);

    // What runs does without the rest as it did before; what is stopped waits for it.
    host.tank(&["stop", "web"]).ok();
    let a = host.pid("worker", "a");
    host.tank(&["restart", "-t", "1", "worker"]).ok();
    assert_ne!(host.pid("worker", "a"), a);
    host.tank(&["stop", "-t", "1", "worker"]).ok();
    let why = failed(&host, &["restart", "worker"]);
    assert!(why.contains("web, which is stopped by hand"), "{why}");
    host.tank(&["start", "--all"]).ok();

    // What is not there is refused, all of it, before anything is done.
    let web = host.pid("web", "app");
    let why = failed(&host, &["restart", "web", "wob"]);
    assert!(why.contains("no such pod: `wob`"), "{why}");
    assert!(failed(&host, &["restart", "web/opp"]).contains("`web/app`"));
    assert!(failed(&host, &["stop", "--stack", "blog"]).contains("no such stack"));
    assert!(failed(&host, &["stop"]).contains("POD"));
    assert_eq!(host.pid("web", "app"), web);
    host.finish();
}

#[test]
fn a_switch_to_it_ends_a_stop_and_one_that_fails_brings_it_back() {
    let host = Host::new();
    let config = config();
    host.switch(&config);
    host.write(
        "blog.ncl",
        &format!("{{ stack = \"blog\", {} }}", tank_tests::sleeper("db")),
    );
    host.tank(&["stop", "web", "worker/a"]).ok();
    // A stack that is another one's leaves it as it is.
    host.tank(&["switch", "blog.ncl"]).ok();
    assert_eq!(state(&host, "web"), "stopped");
    assert_eq!(state(&host, "worker"), "degraded");

    // One that does not become healthy is put back, and with it what was stopped.
    let broken = config.replace("pods.worker = {", "pods.bad.containers.app = { image = \"oci:./busybox\", command = [\"/bin/false\"] }, pods.worker = {");
    host.write("broken.ncl", &broken);
    let ended = host.tank(&["switch", "broken.ncl"]);
    assert_eq!(ended.status, 3, "{}", ended.stderr);
    assert_eq!(state(&host, "web"), "stopped");
    assert!(
        host.tank(&["diff"])
            .ok()
            .contains("worker/a: root stopped it by hand")
    );

    // The plan says what starts, and why; the file is the one that runs.
    host.write("pods.ncl", &config);
    let plan = host.tank(&["diff", "pods.ncl"]).ok();
    assert!(plan.contains("start web/app"), "{plan}");
    assert!(plan.contains("which this change ends"), "{plan}");
    assert!(!plan.contains("drift"), "{plan}");
    host.tank(&["switch", "pods.ncl"]).ok();
    assert_eq!(host.get("http://127.0.0.1:8080/").ok(), "up");
    assert_eq!(state(&host, "worker"), "running");
    assert!(host.tank(&["diff"]).ok().starts_with("nothing to do"));

    // With its pod it goes: one that comes back runs.
    host.tank(&["stop", "worker"]).ok();
    host.tank(&["delete", "worker"]).ok();
    host.tank(&["switch", "pods.ncl"]).ok();
    assert_eq!(state(&host, "worker"), "running");
    host.finish();
}

#[test]
fn a_start_ends_the_wait_for_the_next_try() {
    let host = Host::new();
    let job = "pods.job = { restart = 'never, containers.app = { image = \"oci:./busybox\", command = [\"/bin/true\"] } },";
    let flaky = "pods.flaky = { volumes.v = {}, containers.app = { image = \"oci:./busybox\", mounts.v = { volume = \"v\", path = \"/v\" },
        command = [\"/bin/sh\", \"-c\", \"test -e /v/up && exec sleep 1000; echo no disk today; exit 7\"] } },";
    host.write(
        "pods.ncl",
        &format!("{{ {job} {flaky} {} }}", tank_tests::sleeper("web")),
    );
    host.tank(&["switch", "--no-rollback", "pods.ncl"]);
    // Until the next try is far away.
    eventually("it waits", || {
        host.pod("flaky")["containers"][0]["restarts"].as_u64() >= Some(4)
    });
    let explained = host.tank(&["explain", "flaky"]).ok();
    assert!(
        explained.contains("its main process ended with status 7"),
        "{explained}"
    );
    assert!(explained.contains("it is tried again"), "{explained}");
    assert!(
        explained.contains("see  tank logs flaky/app"),
        "{explained}"
    );
    // It does not come up, which is said with its last words.
    let why = failed(&host, &["restart", "flaky", "--wait", "20s"]);
    assert!(
        why.contains("can't restart flaky/app") && why.contains("no disk today"),
        "{why}"
    );
    let volume = host.tank(&["--json", "volume", "list"]).json();
    assert_eq!(volume["volumes"].as_array().map(Vec::len), Some(1));
    std::fs::write(host.dir.join("state/volumes/flaky/v/up"), "").expect("a file");
    host.tank(&["start", "flaky"]).ok();
    let view = host.pod("flaky");
    assert_eq!(
        (&view["state"], &view["containers"][0]["restarts"]),
        (&"running".into(), &0.into())
    );

    // What has ended for good runs once more.
    let before = host.pod("job")["containers"][0]["started"].as_u64();
    host.tank(&["start", "job"]).ok();
    assert!(host.pod("job")["containers"][0]["started"].as_u64() > before);
    assert_eq!(state(&host, "job"), "completed");
    host.finish();
}

#[test]
fn while_a_switch_is_on_its_way_nothing_is_taken() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", tank_tests::sleeper("web")));
    let slow = "readiness = { exec = [\"/bin/false\"], period = \"1s\" }";
    host.write(
        "slow.ncl",
        &format!("{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, {slow} }} }}"),
    );
    let mut switch = host.command(&["switch", "--timeout", "60s", "slow.ncl"]);
    let mut switch = switch.spawn().expect("tank");
    eventually("it is on its way", || generation(&host) == 2);
    let why = failed(&host, &["stop", "web"]);
    assert!(
        why.contains("under way") && why.contains("tank generations rollback"),
        "{why}"
    );
    host.tank(&["generations", "rollback"]).ok();
    switch.wait().expect("tank ends");
    host.tank(&["stop", "web", "--timeout", "0"]).ok();
    assert_eq!(state(&host, "web"), "stopped");
    host.finish();
}

#[test]
fn exec_is_whoever_is_asked_for_and_has_no_more_than_that() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", tank_tests::sleeper("web")));
    let script =
        "id -u; id -g; grep CapEff /proc/self/status | tr -d '[:space:]'; echo; echo $HOME";
    let run = |user: &str| {
        host.tank(&["exec", "-u", user, "web", "--", "/bin/sh", "-c", script])
            .ok()
    };
    assert_eq!(run("1234:5678"), "1234\n5678\nCapEff:0000000000000000\n/\n");
    let own = host
        .tank(&["exec", "web", "--", "/bin/sh", "-c", script])
        .ok();
    // Root has what the container has, and no more.
    let capabilities = |text: &str| text.lines().nth(2).map(str::to_owned);
    assert_eq!(capabilities(&run("0")), capabilities(&own));
    // It can't make itself more.
    let more = host.tank(&[
        "exec",
        "-u",
        "1234",
        "web",
        "--",
        "/bin/sh",
        "-c",
        "cat /proc/1/environ",
    ]);
    assert_ne!(more.status, 0);
    let why = failed(&host, &["exec", "-u", "wob", "web", "--", "id"]);
    assert!(why.contains("no user `wob`"), "{why}");
    assert!(failed(&host, &["exec", "-u", "70000", "web", "--", "id"]).contains("65536"));
    host.finish();
}

/// What is waited for is of the pods that were named: a change of others does not end it, one of theirs does.
#[test]
fn a_change_of_other_pods_does_not_end_what_is_waited_for() {
    let host = Host::new();
    let web = "{ stack = \"shop\",
        pods.web = { volumes.data = {}, containers.app = { image = \"oci:./busybox\", stop.signal = \"SIGKILL\",
            command = [\"/bin/sh\", \"-c\", \"test -e /d/once || touch /d/ready; touch /d/once; exec sleep 1000\"],
            readiness = { exec = [\"/bin/test\", \"-e\", \"/d/ready\"], period = \"100ms\" },
            mounts.data = { volume = \"data\", path = \"/d\" } %MORE% } } }";
    host.write("shop.ncl", &web.replace("%MORE%", ""));
    let changed = web.replace("%MORE%", ", env.A = \"1\"");
    host.tank(&["switch", "shop.ncl"]).ok();
    let other = |name: &str| {
        let text = format!("{{ stack = \"{name}\", {} }}", tank_tests::sleeper("db"));
        host.write("other.ncl", &text);
        host.tank(&["switch", "other.ncl"]).ok();
    };
    let restart = || {
        host.exec("shop:web", "rm -f /d/ready");
        let before = host.pid("shop:web", "app");
        let mut command = host.command(&["restart", "shop:web"]);
        let piped = command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let restart = piped.spawn().expect("tank");
        let is_other = || {
            let containers = host.pod("shop:web")["containers"].clone();
            let pid = containers[0]["pid"].as_i64();
            pid.is_some_and(|pid| pid != before)
        };
        eventually("another run has begun", is_other);
        restart
    };
    let waits = restart();
    other("blog");
    host.exec("shop:web", "touch /d/ready");
    let ended = waits.wait_with_output().expect("tank ends");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{stderr}");

    let waits = restart();
    host.write("shop.ncl", &changed);
    let mut switch = host.command(&["switch", "shop.ncl"]);
    let piped = switch
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let switch = piped.spawn().expect("tank");
    let ended = waits.wait_with_output().expect("tank ends");
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("switch shop.ncl"), "{stderr}");
    let touch = ["exec", "shop:web", "--", "touch", "/d/ready"];
    eventually("it is ready", || host.tank(&touch).status == 0);
    let switched = switch.wait_with_output().expect("tank ends");
    let stderr = String::from_utf8_lossy(&switched.stderr);
    assert!(switched.status.success(), "{stderr}");
    host.finish();
}

/// Ctrl-C ends the wait and not what is waited for.
#[test]
fn an_interrupt_says_what_goes_on() {
    let host = Host::new();
    // It is ready at first, and not once it was asked to end, which it does not do.
    let script = "[ -e /data/first ] || touch /data/first /data/ready; \
                  trap 'rm -f /data/ready; echo asked' TERM; while true; do sleep 0.1; done";
    host.switch(&format!(
        "{{ pods.web = {{ volumes.data = {{}}, containers.app = {{ image = \"oci:./busybox\", stop = {{ timeout = \"1h\", signal = \"SIGTERM\" }},
            command = [\"/bin/sh\", \"-c\", \"{script}\"], mounts.data = {{ volume = \"data\", path = \"/data\" }},
            readiness = {{ exec = [\"test\", \"-e\", \"/data/ready\"], period = \"100ms\" }} }} }} }}"
    ));
    let first = host.pid("web", "app");
    let kill = |pid: i64| {
        let mut kill = std::process::Command::new("kill");
        let killed = kill.args(["-KILL", &pid.to_string()]).status();
        assert!(killed.expect("kill").success());
    };
    let interrupted = |operation: &str, is_on_its_way: &dyn Fn() -> bool| {
        let mut terminal = Terminal::run(&host.command(&[operation, "web"]));
        eventually("it is on its way", is_on_its_way);
        terminal.type_in("\x03");
        terminal.expect(&format!(
            "interrupted, and tankd goes on with the {operation}"
        ));
        terminal.expect("tank list");
        assert_eq!(terminal.ended(), 130);
    };
    let asked = |times: usize| host.tank(&["logs", "web"]).ok().matches("asked").count() == times;
    interrupted("stop", &|| asked(1));
    kill(first);
    eventually("it is stopped", || state(&host, "web") == "stopped");
    interrupted("start", &|| {
        host.pod("web")["containers"][0]["pid"].is_number()
    });
    let second = host.pid("web", "app");
    interrupted("restart", &|| asked(2));
    kill(second);
    eventually("it is another run", || {
        let pid = host.pod("web")["containers"][0]["pid"].as_i64();
        pid.is_some_and(|pid| pid != second)
    });
    // It would have an hour to end otherwise.
    host.tank(&["stop", "--timeout", "1ms", "web"]).ok();
    host.finish();
}
