//! Bad input: each gives its error and its status, and leaves everything as it was.

use tank_tests::{Ended, Host, RUN, sleeper};

/// Everything that a refusal must not change.
#[derive(Debug, PartialEq)]
struct State {
    generations: serde_json::Value,
    pods: serde_json::Value,
    traces: Vec<String>,
}

fn state(host: &Host) -> State {
    let mut generations = host.tank(&["--json", "generations", "list"]).json();
    generations.sort_all_objects();
    State {
        generations,
        pods: host.tank(&["--json", "list"]).json(),
        traces: host.traces(),
    }
}

/// The error as it prints, without what differs from run to run.
fn said(host: &Host, ended: &Ended) -> String {
    ended.stderr.replace(&host.dir.display().to_string(), "DIR")
}

#[track_caller]
fn refuses(host: &Host, name: &str, config: &str) {
    let before = state(host);
    host.write("bad.ncl", config);
    let ended = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(ended.status, 1, "{name}: {}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.stdout, "", "{name}");
    insta::with_settings!({ filters => vec![(r"sha256:[0-9a-f]{64}", "sha256:…")] }, {
        insta::assert_snapshot!(name, said(host, &ended));
    });
    assert_eq!(state(host), before, "{name} changed something");
}

#[test]
fn what_the_compiler_refuses() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    refuses(&host, "syntax_error", "{\n  pods.web.containers = {\n}\n");
    refuses(
        &host,
        "contract_violation",
        "{\n  pods.web.containers.app = {\n    image = \"nginx\",\n    limits.memory = \"lots\",\n  },\n}\n",
    );
    refuses(
        &host,
        "unknown_field",
        "{\n  pods.web.containers.app = {\n    image = \"nginx\",\n    imagee = \"nginx\",\n  },\n}\n",
    );
    refuses(
        &host,
        "dangling_mount",
        "{\n  pods.web = {\n    containers.app = {\n      image = \"nginx\",\n      mounts.data = { volume = \"dta\", path = \"/data\" },\n    },\n    volumes.data = {},\n  },\n}\n",
    );
    refuses(
        &host,
        "port_taken_twice",
        "{\n  pods.a = { containers.app.image = \"nginx\", publish.http.port = 80 },\n  pods.b = { containers.app.image = \"nginx\", publish.web = { port = 80, address = \"0.0.0.0\" } },\n}\n",
    );
    refuses(
        &host,
        "bad_image_reference",
        "{\n  pods.web.containers.app.image = \"Not An Image\",\n}\n",
    );
    refuses(
        &host,
        "several_at_once",
        "{\n  pods.a = { containers.app = { image = \"x\", working_dir = \"tmp\" }, depends_on.b = 'ready },\n  pods.b = { containers.app.image = \"x\", depends_on.a = 'ready, network = 'none, publish.p.port = 1 },\n}\n",
    );
    refuses(
        &host,
        "missing_file",
        "{\n  pods.a.containers.app = { image = \"x\", files.\"/x\".source = \"./nope\" },\n}\n",
    );
    host.finish();
}

#[test]
fn what_the_registry_is_refused_for() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let image =
        |name: &str| format!("{{ pods.web.containers.app = {{ image = \"{name}\", {RUN} }} }}");
    refuses(&host, "registry_down", &image("localhost:5000/nginx"));
    host.start_registry();
    refuses(&host, "tag_missing", &image("localhost:5000/nginx:nope"));
    refuses(&host, "repository_missing", &image("localhost:5000/nope"));
    refuses(
        &host,
        "blob_with_another_digest",
        &image("localhost:5000/tampered"),
    );
    refuses(
        &host,
        "layer_that_is_no_tar",
        &image("localhost:5000/no-tar"),
    );
    refuses(&host, "layout_missing", &image("oci:./nope"));
    host.finish();
}

#[test]
fn what_the_daemon_is_asked_for() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    refuses(
        &host,
        "host_volume_missing",
        &format!(
            "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, mounts.x = {{ volume = \"x\", path = \"/x\" }} }}, volumes.x.host = \"/nope\" }} }}"
        ),
    );
    // A plan that the host has moved away from.
    host.write("two.ncl", &format!("{{ {} }}", sleeper("two")));
    let before = state(&host);
    let zero = format!("sha256:{}", "0".repeat(64));
    let moved = host.tank(&["switch", "two.ncl", "--plan", &zero]);
    assert_eq!(moved.status, 1);
    insta::assert_snapshot!("plan_changed", moved.stderr);
    assert_eq!(state(&host), before);
    // And one that is what diff showed.
    let diff = host.tank(&["--json", "diff", "two.ncl"]).json();
    host.tank(&[
        "switch",
        "two.ncl",
        "--plan",
        diff["plan"].as_str().expect("a hash"),
    ])
    .ok();
    // Used wrongly: 2, before anything is spoken.
    assert_eq!(host.tank(&["switch"]).status, 2);
    assert_eq!(host.tank(&["frobnicate"]).status, 2);
    host.finish();
}

#[test]
fn no_daemon_and_no_permission() {
    let mut host = Host::without_daemon();
    let ended = host.tank(&["list"]);
    assert_eq!(ended.status, 1);
    insta::assert_snapshot!("tankd_not_running", said(&host, &ended));
    host.start_daemon();
    // As nobody, whom the kernel does not let connect: the command says what to do.
    use std::os::unix::fs::PermissionsExt;
    for dir in [host.dir.clone(), host.dir.join("run")] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let tank = host.dir.join("tank");
    std::fs::copy(tank_tests::bin("tank"), &tank).expect("copy");
    let ended: Ended = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&tank)
        .arg("--socket")
        .arg(host.socket())
        .arg("list")
        .output()
        .expect("setpriv")
        .into();
    assert_eq!(ended.status, 1, "{}", ended.stdout);
    insta::assert_snapshot!("socket_not_permitted", said(&host, &ended));
    host.finish();
}
