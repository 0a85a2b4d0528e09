//! Bad input: each gives its error and its status, and leaves everything as it was.

use serde_json::json;
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
    assert_eq!(host.tank(&["apply"]).status, 2);
    assert_eq!(host.tank(&["frobnicate"]).status, 2);
    host.finish();
}

/// A pod on lines of its own.
fn pod(name: &str, more: &[&str]) -> String {
    let more: String = more.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "  pods.{name} = {{\n    containers.app = {{ image = \"oci:./busybox\", {RUN} }},\n{more}  }},\n"
    )
}

#[track_caller]
fn keeps(host: &Host, name: &str, args: &[&str]) {
    let before = state(host);
    let ended = host.tank(args);
    assert_eq!(ended.status, 1, "{name}: {}{}", ended.stdout, ended.stderr);
    insta::assert_snapshot!(name, said(host, &ended));
    assert_eq!(state(host), before, "{name} changed something");
}

#[test]
fn what_others_use_is_not_removed() {
    let host = Host::new();
    let shop = |pods: &str| format!("{{\n  stack = \"shop\",\n  networks.back = {{}},\n{pods}}}\n");
    let own = pod("own", &["depends_on.db = 'started,"]);
    let db = pod("db", &["networks = { back = {}, default = {} },"]);
    host.write("shop.ncl", &shop(&format!("{db}{own}")));
    host.tank(&["switch", "shop.ncl"]).ok();
    let web = [
        "depends_on.\"shop:db\" = 'started,",
        "allow_from = [\"shop:own\", \"10.0.0.0/8\"],",
        "egress = [\"shop:db\"],",
        "networks = { default = {}, \"shop:back\" = {} },",
    ];
    host.write("web.ncl", &format!("{{\n{}}}\n", pod("web", &web)));
    host.tank(&["switch", "web.ncl"]).ok();
    keeps(&host, "in_use_pod", &["delete", "shop:db"]);
    keeps(&host, "in_use_policy", &["delete", "shop:own"]);
    keeps(&host, "in_use_stack", &["delete", "--stack", "shop"]);
    // Nor by leaving it out, what is planned included.
    host.write("shop.ncl", &shop(&pod("own", &[])));
    for verb in ["diff", "switch"] {
        keeps(&host, "in_use_left_out", &[verb, "shop.ncl"]);
    }
    // What uses each other goes together, by what the help says.
    host.write(
        "pair.ncl",
        &format!(
            "{{\n{}{}}}\n",
            pod("front", &["depends_on.back = 'started,"]),
            pod("back", &["allow_from = [\"front\"],"])
        ),
    );
    host.tank(&["apply", "pair.ncl"]).ok();
    let refused = host.tank(&["delete", "front"]);
    let help = "or remove who uses it, too: `tank delete front back`";
    assert!(refused.stderr.contains(help), "{}", refused.stderr);
    host.tank(&["delete", "front", "back"]).ok();
    let left = host.tank(&["list"]).stdout;
    assert!(!left.contains("front") && !left.contains("back"), "{left}");
    // What nobody uses goes.
    host.tank(&["delete", "web"]).ok();
    host.tank(&["switch", "shop.ncl"]).ok();
    host.tank(&["delete", "--stack", "shop"]).ok();
    host.finish();
}

#[test]
fn what_another_stack_lacks_is_shown_where_it_is_asked_for() {
    let host = Host::new();
    let web = [
        "depends_on.\"shop:cache\" = 'started,",
        "allow_from = [",
        "  \"shop:web\",",
        "],",
        "networks = {",
        "  \"shop:bakc\" = {},",
        "},",
    ];
    let source = format!("{{\n  stack = \"blog\",\n{}}}\n", pod("web", &web));
    // Where there is nothing else, and where there is.
    for name in ["elsewhere_alone", "elsewhere_beside"] {
        host.write("blog.ncl", &source);
        host.tank(&["check", "blog.ncl"]).ok();
        for verb in ["diff", "switch", "apply"] {
            keeps(&host, name, &[verb, "blog.ncl"]);
        }
        let shop = format!(
            "{{\n  stack = \"shop\",\n  networks.back = {{}},\n{}}}\n",
            pod("cache2", &[])
        );
        host.write("shop.ncl", &shop);
        host.tank(&["switch", "shop.ncl"]).ok();
    }
    host.finish();
}

/// The one document on standard error of a command that fails.
fn error(host: &Host, args: &[&str], status: i32) -> serde_json::Value {
    let ended = host.tank(&[&["--json"], args].concat());
    assert_eq!(ended.status, status, "{args:?}: {}", ended.stderr);
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).expect(&ended.stderr);
    assert_eq!(error["status"], status, "{error}");
    error
}

#[test]
fn what_programs_read_of_an_error() {
    let mut host = Host::without_daemon();
    assert_eq!(error(&host, &["list"], 1)["error"], "tank.NoDaemon");
    let usage = error(&host, &["ps"], 2);
    assert_eq!(usage["error"], "tank.Usage");
    assert!(
        usage["help"]
            .as_str()
            .is_some_and(|help| help.contains("`tank list`")),
        "{usage}"
    );
    host.start_daemon();
    host.write("pods.ncl", &format!("{{\n{}}}\n", pod("web", &[])));
    host.tank(&["switch", "pods.ncl"]).ok();
    // As `docs/scripts.md` has it.
    let missing = json!({
        "error": "io.tank.Executor.NoSuchPod",
        "parameters": { "pod": "wbe", "nearest": "web" },
        "message": "no such pod: `wbe`",
        "cause": null,
        "help": "did you mean `web`?",
        "status": 1,
        "problems": [],
    });
    assert_eq!(error(&host, &["get", "wbe"], 1), missing);
    assert_eq!(
        error(&host, &["exec", "web", "--", "nothing"], 127)["parameters"],
        json!({ "program": "nothing" })
    );
    assert_eq!(
        error(&host, &["exec", "wbe", "--", "true"], 125)["error"],
        missing["error"]
    );
    host.write(
        "wrong.ncl",
        "{\n  pods.web.containers.app = { imgae = \"a\" },\n}\n",
    );
    let wrong = error(&host, &["switch", "wrong.ncl"], 1);
    assert_eq!(wrong["error"], "tank.Compile");
    let checked = host.tank(&["--json", "check", "wrong.ncl"]);
    assert_eq!(checked.status, 1);
    let checked: serde_json::Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!(wrong["problems"], checked["problems"]);
    assert_eq!(wrong["problems"][0]["line"], 2);
    // What an image, a file or a registry put into an error ends no line and is no control.
    let hostile = error(&host, &["get", "a\nb\u{1b}[31m"], 1);
    assert!(
        hostile["message"]
            .as_str()
            .is_some_and(|text| text.contains('\u{1b}')),
        "{hostile}"
    );
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
