//! Where a value and an image come from, beside a running host: `why` and `lock`.

use serde_json::json;
use tank_tests::{Host, RUN};

#[test]
fn why_a_value_is_what_it_is() {
    let host = Host::new();
    host.write(
        "base.ncl",
        &format!(
            "{{\n  pods.web = {{\n    containers.app = {{\n      image = \"oci:./busybox\",\n      env.LOG | default = \"info\",\n      env.TZ = \"UTC\",\n      {RUN},\n    }},\n  }},\n}}\n"
        ),
    );
    host.write(
        "prod.ncl",
        "{\n  pods.web.containers.app.env.LOG = \"warn\",\n}\n",
    );
    host.tank(&["switch", "base.ncl", "prod.ncl"]).ok();
    let clean = |text: &str| text.replace(&host.dir.display().to_string(), "DIR");
    insta::with_settings!({ filters => vec![(r"\d+[smh] ago", "a while ago")] }, {
        insta::assert_snapshot!("why_overridden", clean(&host.tank(&["why", "web.app.env.LOG"]).ok()));
        insta::assert_snapshot!("why_plain", clean(&host.tank(&["why", "pods.web.containers.app.env.TZ"]).ok()));
        insta::assert_snapshot!("why_default", clean(&host.tank(&["why", "web.restart"]).ok()));
        // What is in an entry that is not there has no default: the entry is named.
        for (field, missing) in [
            ("pods.web.containers.ap.env.A", "pods.web.containers.ap"),
            ("pods.web.publish.http.protocol", "pods.web.publish.http"),
        ] {
            let why = host.tank(&["why", field]);
            assert_eq!((why.status, why.stdout.as_str()), (1, ""), "{field}");
            let expected = format!("Error: `{missing}` is not declared\n");
            assert!(why.stderr.starts_with(&expected), "{field}: {}", why.stderr);
        }
        insta::assert_snapshot!("why_unknown", clean(&host.tank(&["why", "wbe.app.env.LOG"]).stderr));
        // Another value changes: this one still came with the first generation.
        host.write("prod.ncl", "{\n\n  pods.web.containers.app.env = { LOG = \"warn\", NEW = \"1\" },\n}\n");
        host.tank(&["switch", "base.ncl", "prod.ncl"]).ok();
        let why = host.tank(&["--json", "why", "web.app.env.LOG"]).json();
        assert_eq!((&why["since"]["number"], &why["value"]), (&json!(1), &json!("\"warn\"")), "{why}");
        let why = host.tank(&["--json", "why", "web.app.env.NEW"]).json();
        assert_eq!(why["since"]["number"], 2, "{why}");
        // And from the command line; `apply` keeps what is known of the others.
        host.write("other.ncl", &format!("{{ pods.other.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}"));
        host.tank(&["apply", "other.ncl", "--set", "pods.other.labels.a=\"b\""]).ok();
        insta::assert_snapshot!("why_set", clean(&host.tank(&["why", "other.labels.a"]).ok()));
        assert_eq!(host.tank(&["--json", "why", "web.app.env.LOG"]).json()["place"], json!("prod.ncl:3"));
    });
    // Back to the first: what is said of it is what was said then.
    host.tank(&["generations", "rollback", "1"]).ok();
    let why = host.tank(&["--json", "why", "web.app.env.LOG"]).json();
    assert_eq!(
        (&why["place"], &why["since"]["number"]),
        (&json!("prod.ncl:2"), &json!(1)),
        "{why}"
    );
    host.finish();
}

#[test]
fn a_lock_pins_what_tags_stand_for() {
    let mut host = Host::new();
    host.start_registry();
    let config = format!(
        "{{ pods.web = {{ containers.app = {{ image = \"localhost:5000/nginx:latest\", {RUN} }} }}, pods.own.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}"
    );
    host.write("pods.ncl", &config);
    let missing = host.tank(&["lock", "--check"]);
    assert_eq!(missing.status, 1);
    insta::assert_snapshot!(
        "lock_missing",
        missing
            .stderr
            .replace(&host.dir.display().to_string(), "DIR")
    );
    let said = host.tank(&["lock"]).ok();
    assert!(
        said.contains("localhost:5000/nginx:latest") && said.contains("(new)"),
        "{said}"
    );
    host.tank(&["lock", "--check"]).ok();
    let lock = std::fs::read_to_string(host.dir.join("tank.lock")).expect("the lock");
    let digest = lock.split("sha256:").nth(1).expect("a digest")[..64].to_owned();
    assert!(
        !lock.contains("oci:"),
        "a layout on disk has no tag to lock: {lock}"
    );
    // The lock is in the graph, and its digest is what runs.
    assert!(
        host.tank(&["build", "--canonical", "pods.ncl"])
            .ok()
            .contains(&digest)
    );
    host.tank(&["switch", "pods.ncl"]).ok();
    assert_eq!(
        host.pod("web")["containers"][0]["digest"],
        json!(format!("sha256:{digest}"))
    );
    // A lock that says otherwise is believed: the image it names is not there.
    host.write("tank.lock", &lock.replace(&digest, &"0".repeat(64)));
    let refused = host.tank(&["switch", "pods.ncl"]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains(&"0".repeat(64)),
        "{}",
        refused.stderr
    );
    // `--update` asks again, for one pod or all; nothing else touches a lock.
    host.tank(&["lock"]).ok();
    assert!(
        std::fs::read_to_string(host.dir.join("tank.lock"))
            .expect("the lock")
            .contains(&"0".repeat(64))
    );
    assert_eq!(host.tank(&["lock", "--update", "wbe"]).status, 1);
    host.tank(&["lock", "--update", "own"]).ok();
    assert!(
        std::fs::read_to_string(host.dir.join("tank.lock"))
            .expect("the lock")
            .contains(&"0".repeat(64))
    );
    host.tank(&["lock", "--update", "web"]).ok();
    assert_eq!(
        std::fs::read_to_string(host.dir.join("tank.lock")).expect("the lock"),
        lock
    );
    // What is no lock is not guessed at.
    host.write("tank.lock", "version = 9\n");
    let newer = host.tank(&["check", "pods.ncl"]);
    assert_eq!(newer.status, 1);
    assert!(newer.stderr.contains("version 9"), "{}", newer.stderr);
    std::fs::remove_file(host.dir.join("tank.lock")).expect("remove");
    host.finish();
}
