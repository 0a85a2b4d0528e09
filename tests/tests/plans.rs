//! A plan is one thing: what `diff` shows is what a switch carries out, what it was made from can be
//! written down, and what can't be carried out is refused before anything is disturbed.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use tank_plan::Dump;
use tank_tests::{Host, RUN, eventually, sleeper};

/// Sends one Varlink call, and gives the first reply.
fn call(host: &Host, method: &str, parameters: &Value) -> Value {
    let call = json!({ "method": format!("io.tank.Executor.{method}"), "parameters": parameters });
    let mut socket = std::os::unix::net::UnixStream::connect(host.socket()).expect("connect");
    let mut text = serde_json::to_vec(&call).expect("JSON");
    text.push(0);
    socket.write_all(&text).expect("write");
    let mut reply = Vec::new();
    BufReader::new(socket)
        .read_until(0, &mut reply)
        .expect("read");
    serde_json::from_slice(&reply[..reply.len() - 1]).expect("JSON")
}

fn hash_of(dump: &Dump) -> String {
    dump.plan().0.hash(dump.inputs.graph.root()).to_string()
}

#[test]
fn what_a_plan_was_made_from_gives_the_same_plan_elsewhere() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    host.write("secret", "hidden-from-dumps");
    let candidate = format!(
        "{{ {} pods.db = {{ containers.app = {{ image = \"oci:./busybox\", {RUN},
             env.KEY = \"value\",
             secrets.s = {{ file = \"{}\", path = \"/run/s\" }} }},
             publish.sql = {{ port = 15432, to = 5432 }} }} }}",
        sleeper("web"),
        host.dir.join("secret").display()
    );
    host.write("pods.ncl", &candidate);
    let shown = host.tank(&["--json", "diff", "pods.ncl"]).json();
    let text = host.tank(&["diff", "--observed", "-", "pods.ncl"]).ok();
    assert!(
        text.contains("\"KEY\"") && !text.contains("hidden-from-dumps"),
        "{text}"
    );
    let dump: Dump = serde_json::from_str(&text).expect("a dump");
    assert_eq!(json!(hash_of(&dump)), shown["plan"]);
    // To a file, beside what is shown.
    let beside = host
        .tank(&["diff", "--observed", "dump.json", "pods.ncl"])
        .ok();
    assert!(beside.contains("create pod db"), "{beside}");
    let file = std::fs::read_to_string(host.dir.join("dump.json")).expect("the dump");
    let again: Dump = serde_json::from_str(&file).expect("a dump");
    assert_eq!(hash_of(&again), hash_of(&dump));
    // It is the plan that is carried out.
    let plan = shown["plan"].as_str().expect("a plan");
    host.tank(&["switch", "--plan", plan, "pods.ncl"]).ok();
    assert_eq!(host.pod("db")["state"], "running");
    host.finish();
}

#[test]
fn a_plan_names_all_that_would_happen() {
    let host = Host::new();
    let config = |text: &str| {
        format!(
            "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN},
                 files.\"/etc/motd\".text = \"{text}\" }} }}"
        )
    };
    host.switch(&config("one"));
    host.write("pods.ncl", &config("two"));
    let plan = host.tank(&["--json", "diff", "pods.ncl"]).json()["plan"].clone();
    let plan = plan.as_str().expect("a plan");
    // The same steps in the same order, with another text in the file.
    host.write("pods.ncl", &config("three"));
    let refused = host.tank(&["switch", "--plan", plan, "pods.ncl"]);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("what would be done is not that plan"),
        "{}",
        refused.stderr
    );
    host.write("pods.ncl", &config("two"));
    host.tank(&["switch", "--plan", plan, "pods.ncl"]).ok();
    assert_eq!(host.exec("web", "cat /etc/motd"), "two");
    host.finish();
}

#[test]
fn what_an_image_can_not_run_is_refused_and_disturbs_nothing() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let (pid, generation) = (host.pid("web", "app"), current(&host));
    for (more, why) in [
        (
            "user = \"nobodyx\"",
            "the image has no user `nobodyx` in /etc/passwd",
        ),
        ("user = \"70000\"", "outside the 65536 ids of a pod"),
    ] {
        host.write(
            "pods.ncl",
            &format!(
                "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, {more} }} }}"
            ),
        );
        for command in ["diff", "switch"] {
            let refused = host.tank(&[command, "pods.ncl"]);
            assert_eq!(refused.status, 1, "{}", refused.stderr);
            assert!(
                refused.stderr.contains("can't start web/app"),
                "{}",
                refused.stderr
            );
            assert!(refused.stderr.contains(why), "{}", refused.stderr);
        }
    }
    assert_eq!((host.pid("web", "app"), current(&host)), (pid, generation));
    host.finish();
}

#[test]
fn a_switch_that_was_planned_against_another_generation_is_refused() {
    let host = Host::new();
    let config = |pods: &[&str]| {
        let pods = pods.iter().map(|pod| sleeper(pod));
        format!("{{ {} }}", pods.collect::<String>())
    };
    host.switch(&config(&["web"]));
    host.switch(&config(&["web", "db"]));
    host.write("pods.ncl", &config(&["web", "late"]));
    let canonical = host.tank(&["build", "--canonical", "pods.ncl"]).ok();
    let base_dir = host.dir.display().to_string();
    let switch = |parent: u64| {
        let parameters = json!({ "config": canonical.trim_end(), "base_dir": base_dir,
            "source": "a test", "parent": parent });
        call(&host, "Switch", &parameters)
    };
    let stale = switch(1);
    assert_eq!(stale["error"], "io.tank.Executor.Superseded", "{stale}");
    assert_eq!(stale["parameters"]["generation"], 2, "{stale}");
    assert_eq!(current(&host), json!(2));
    let done = switch(2);
    assert_eq!(done["parameters"]["outcome"]["generation"], 3, "{done}");
    host.finish();
}

/// Readiness is asked for as long as the container runs.
#[test]
fn readiness_may_be_lost_and_come_back() {
    let host = Host::new();
    host.switch(
        r#"{ pods.web.containers.app = { image = "oci:./busybox",
             command = ["/bin/sh", "-c",
               "touch /tmp/ok; trap 'exit 0' TERM USR1; while true; do sleep 0.1; done"],
             readiness = { exec = ["/bin/sh", "-c", "test -e /tmp/ok"], period = "50ms",
               failures = 2 } } }"#,
    );
    let pid = host.pid("web", "app");
    let ready = || host.pod("web")["containers"][0]["ready"] == true;
    assert!(ready());
    host.exec("web", "rm /tmp/ok");
    eventually("it is not ready any more", || !ready());
    assert_eq!(host.pod("web")["state"], "starting");
    host.exec("web", "touch /tmp/ok");
    eventually("it is ready again", ready);
    assert_eq!(host.pid("web", "app"), pid, "readiness ends nothing");
    let kinds: Vec<String> = host
        .tank(&["--json", "events"])
        .ok()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["kind"].clone())
        .map(|kind| kind.as_str().unwrap_or_default().to_owned())
        .filter(|kind| kind.ends_with("ready"))
        .collect();
    assert_eq!(kinds, ["ready", "unready", "ready"]);
    host.finish();
}

/// What a failure says is of this change: how the probe fails, and no line of a run before.
#[test]
fn a_failure_says_how_the_probe_fails_and_quotes_this_run_only() {
    let host = Host::new();
    let config = |script: &str, probe: &str| {
        format!(
            "{{ pods.web.containers.app = {{ image = \"oci:./busybox\",
                 command = [\"/bin/sh\", \"-c\", \"{script}; trap 'exit 0' TERM USR1; while true; do sleep 0.1; done\"],
                 {probe} }} }}"
        )
    };
    host.switch(&config("echo of an older run", ""));
    for (probe, how) in [
        (
            "tcp = { port = 81 }",
            ":81: Connection refused (os error 111)",
        ),
        ("exec = [\"/bin/false\"]", "its command ended with status 1"),
        (
            "exec = [\"/nope\"]",
            "its command can't be run: execute `/nope`: No such file",
        ),
    ] {
        let probe = format!("readiness = {{ {probe}, period = \"100ms\" }}");
        host.write("pods.ncl", &config("echo of this run", &probe));
        let back = host.tank(&["switch", "--timeout", "4s", "pods.ncl"]);
        assert_eq!(back.status, 3, "{}", back.stderr);
        assert!(
            back.stderr.contains("web/app: its probe failed: "),
            "{}",
            back.stderr
        );
        assert!(back.stderr.contains(how), "{}", back.stderr);
        assert!(
            back.stderr.contains("web/app: of this run"),
            "{}",
            back.stderr
        );
        assert!(!back.stderr.contains("older run"), "{}", back.stderr);
    }
    host.finish();
}

/// What takes longer than the wait is an end: what comes after it is judged by its own health.
#[test]
fn pods_that_end_slowly_do_not_make_a_healthy_switch_fail() {
    let host = Host::new();
    let stubborn = "pods.old.containers.app = { image = \"oci:./busybox\",
        command = [\"/bin/sh\", \"-c\", \"trap '' TERM USR1; while true; do sleep 0.1; done\"],
        stop.timeout = \"4s\" },";
    host.switch(&format!("{{ {stubborn} }}"));
    host.write("pods.ncl", &format!("{{ {} }}", sleeper("web")));
    host.tank(&["switch", "--timeout", "1s", "pods.ncl"]).ok();
    assert_eq!(host.pod("web")["state"], "running");
    let list = host.tank(&["--json", "list"]).json();
    assert_eq!(list["pods"].as_array().map(Vec::len), Some(1), "{list}");
    host.finish();
}

fn current(host: &Host) -> Value {
    host.tank(&["--json", "status"]).json()["generation"].clone()
}
