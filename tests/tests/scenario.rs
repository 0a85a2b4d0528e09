//! The main job, end to end, on nginx from a registry.

use tank_tests::{Host, repo};

#[test]
fn the_main_job() {
    let mut host = Host::new();
    host.start_registry();
    let web = repo().join("examples/web/pods.ncl").display().to_string();

    // Nothing is there: a diff creates.
    let diff = host.tank(&["--json", "diff", &web]).json();
    let classes: Vec<&str> = diff["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter_map(|s| s["class"].as_str())
        .collect();
    assert!(classes.contains(&"create"), "{diff}");
    assert_eq!(host.tank(&["diff", "--exit-code", &web]).status, 2);
    assert!(
        host.traces().is_empty(),
        "a diff touches nothing: {:#?}",
        host.traces()
    );

    // Switch: pulled, unpacked, run, ready; the page answers on its own address and on the
    // published port.
    let first = host.tank(&["--json", "switch", &web]).json();
    assert_eq!(
        (first["generation"].as_u64(), &first["rolled_back"]),
        (Some(1), &false.into())
    );
    let address = host.pod("web")["addresses"][0]
        .as_str()
        .expect("an address")
        .to_owned();
    for url in [
        format!("http://{address}/"),
        "http://127.0.0.1:8081/".to_owned(),
    ] {
        assert_eq!(host.get(&url).ok(), "<h1>It runs in Tank</h1>\n", "{url}");
    }
    // Also over IPv6, and logged through the image's own /dev/stdout.
    let v6 = host.pod("web")["addresses"][1]
        .as_str()
        .expect("an address")
        .to_owned();
    assert!(host.get(&format!("http://[{v6}]/")).ok().contains("Tank"));
    assert!(host.tank(&["logs", "web"]).ok().contains("GET / HTTP/1.1"));

    // The same again: nothing to do.
    let again = host.tank(&["diff", "--exit-code", &web]);
    assert_eq!(
        (again.status, again.stdout.as_str()),
        (0, "nothing to do\n"),
        "{}",
        again.stderr
    );
    let same = host.tank(&["--json", "switch", &web]).json();
    assert_eq!(
        (same["generation"].as_u64(), &same["changed"]),
        (Some(1), &false.into())
    );

    // One value edited: the diff names the field and what it costs.
    let edit = ["--set", "pods.web.containers.app.env.LOG=\"debug\""];
    let before = host.exec("web", "echo $LOG");
    assert_eq!(before, "info");
    let diff = host.tank(&["diff", &web, edit[0], edit[1]]).ok();
    assert!(
        diff.contains("~ container web/app  env.LOG: \"info\" → \"debug\""),
        "{diff}"
    );
    assert!(
        diff.contains("restart  stop web/app   env.LOG changed"),
        "{diff}"
    );
    assert!(
        diff.contains("restart  start web/app  env.LOG changed"),
        "{diff}"
    );
    let shim = shim_pid(&host);
    let second = host
        .tank(&["--json", "switch", &web, edit[0], edit[1]])
        .json();
    assert_eq!(second["generation"], 2);
    assert_eq!(host.exec("web", "echo $LOG"), "debug", "read from inside");
    assert_eq!(shim_pid(&host), shim, "the pod itself was not touched");
    assert_eq!(
        host.get("http://127.0.0.1:8081/").ok(),
        "<h1>It runs in Tank</h1>\n"
    );

    // And back: the registry is gone, the digest is what it was.
    host.signal_registry("KILL");
    tank_tests::eventually("the registry is gone", || {
        host.get("http://localhost:5000/v2/").status != 0
    });
    let third = host.tank(&["--json", "generations", "rollback"]).json();
    assert_eq!(third["generation"], 3);
    assert_eq!(third["root"], first["root"], "generation 3 is generation 1");
    assert_eq!(host.exec("web", "echo $LOG"), "info", "read from inside");
    let list = host.tank(&["--json", "generations", "list"]).json();
    let sources: Vec<&str> = list["generations"]
        .as_array()
        .expect("generations")
        .iter()
        .filter_map(|g| g["source"].as_str())
        .collect();
    assert_eq!(sources.len(), 3);
    assert_eq!(sources[2], "rollback to 1");
    let changes = host.tank(&["generations", "diff", "1", "2"]).ok();
    assert_eq!(
        changes.trim(),
        "~ container web/app  env.LOG: \"info\" → \"debug\""
    );
    assert_eq!(
        host.tank(&["generations", "diff", "1", "3"]).ok().trim(),
        "no difference"
    );

    // Every view, for programs. Going back does not wait for health, so it may only be starting.
    tank_tests::eventually("it is ready again", || {
        host.pod("web")["state"] == "running"
    });
    let get = host.tank(&["--json", "get", "web"]).json();
    assert_eq!(
        get["config"]["pods"]["web"]["containers"]["app"]["env"]["LOG"],
        "info"
    );
    assert_eq!(
        (&get["pod"]["state"], &get["pod"]["published"][0]),
        (&"running".into(), &"127.0.0.1:8081->80".into())
    );
    let shown = host.tank(&["--json", "generations", "show", "2"]).json();
    assert_eq!(
        shown["config"]["pods"]["web"]["containers"]["app"]["env"]["LOG"],
        "debug"
    );
    assert_eq!(
        (
            &shown["generation"]["parent"],
            &shown["generation"]["current"]
        ),
        (&1.into(), &false.into())
    );
    let status = host.tank(&["--json", "status"]).json();
    assert_eq!(
        (&status["generation"], &status["running"], &status["root"]),
        (&3.into(), &1.into(), &first["root"])
    );
    let mut doctor = host.inside(&tank_tests::bin("tank").display().to_string());
    let doctor = doctor
        .arg("--socket")
        .arg(host.socket())
        .args(["--json", "doctor"])
        .output()
        .expect("tank");
    let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    assert_eq!(doctor["ok"], true, "{doctor}");
    host.finish();
}

fn shim_pid(host: &Host) -> String {
    let output = host
        .inside("ip")
        .args(["-oneline", "link"])
        .output()
        .expect("ip");
    let links = String::from_utf8_lossy(&output.stdout).into_owned();
    let link = links
        .lines()
        .find(|line| line.contains(": tk"))
        .expect("the pod's link");
    link.split(": ")
        .nth(1)
        .expect("a name")
        .split('@')
        .next()
        .expect("a name")
        .to_owned()
}

#[test]
fn a_switch_that_does_not_become_healthy_is_put_back() {
    let host = Host::new();
    let run = tank_tests::RUN;
    host.switch(&format!(
        "{{ pods.app.containers.main = {{ image = \"oci:./busybox\", {run}, env.V = \"1\" }} }}"
    ));
    host.write(
        "bad.ncl",
        r#"{ pods.app.containers.main = { image = "oci:./busybox", command = ["/bin/sh", "-c", "echo no config; exit 7"] } }"#,
    );
    let failed = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(failed.status, 3, "{}", failed.stderr);
    assert!(
        failed
            .stderr
            .contains("put back to what ran before, as generation 3"),
        "{}",
        failed.stderr
    );
    assert!(
        failed.stderr.contains("app/main: no config"),
        "the last lines of its log: {}",
        failed.stderr
    );
    assert_eq!(
        host.exec("app", "echo $V"),
        "1",
        "what ran before runs again"
    );
    let list = host.tank(&["--json", "generations", "list"]).json();
    assert_eq!(list["generations"][1]["outcome"], "rolled_back");
    assert_eq!(
        list["generations"][0]["root"],
        list["generations"][2]["root"]
    );

    // Left as it is where that is asked for, and the same switch again is no success either.
    let left = host.tank(&["switch", "--no-rollback", "bad.ncl"]);
    assert_eq!(left.status, 1, "{}", left.stderr);
    assert!(
        left.stderr.contains("generation 4 does not work"),
        "{}",
        left.stderr
    );
    let again = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(again.status, 1, "{}{}", again.stdout, again.stderr);
    host.tank(&["generations", "rollback"]).ok();
    assert_eq!(host.exec("app", "echo $V"), "1");

    // A program that does not exist is hopeless at once.
    host.write(
        "worse.ncl",
        r#"{ pods.app.containers.main = { image = "oci:./busybox", command = ["/nope"] } }"#,
    );
    let failed = host.tank(&["switch", "worse.ncl"]);
    assert_eq!(failed.status, 3, "{}", failed.stderr);
    assert!(failed.stderr.contains("/nope"), "{}", failed.stderr);
    host.finish();
}
