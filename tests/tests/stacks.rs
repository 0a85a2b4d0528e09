//! Several sources on one host: each stack has pods of its own, and what is done to one is not done to
//! the others.

#[path = "stacks/changes.rs"]
mod changes;
#[path = "stacks/hostile.rs"]
mod hostile;
#[path = "stacks/whole.rs"]
mod whole;

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Stdio},
};
use tank_tests::{
    Ended, Host, RUN, eventually,
    layouts::{copy_of_busybox, push_another},
};

/// A project as a newcomer from Compose has it: a `db` with a volume, and a `web` that waits for it.
/// `more` are fields of `web`.
fn project(stack: &str, step: &str, more: &str) -> String {
    let container = format!("image = \"oci:../image\", env.STEP = \"{step}\", {RUN}");
    format!(
        "{{\n  stack = \"{stack}\",\n  pods.db = {{\n    containers.app = {{ {container}, mounts.data = {{ volume = \"data\", path = \"/data\" }} }},\n    volumes.data = {{}},\n  }},\n  pods.web = {{\n    containers.app = {{ {container} }},\n    depends_on.db = 'ready,\n    {more}\n  }},\n}}\n"
    )
}

fn write(host: &Host, stack: &str, text: &str) {
    fs::create_dir_all(host.dir.join(stack)).expect("a folder");
    host.write(&format!("{stack}/pods.ncl"), text);
}

/// Switches to a project of this stack.
#[track_caller]
fn switch(host: &Host, stack: &str, step: &str) -> Value {
    write(host, stack, &project(stack, step, ""));
    let file = format!("{stack}/pods.ncl");
    host.tank(&["--json", "switch", &file]).json()
}

/// A host with two projects that both have a `db` and a `web`.
fn both() -> Host {
    let host = Host::new();
    copy_of_busybox(&host, "image");
    switch(&host, "shop", "1");
    switch(&host, "blog", "1");
    host
}

/// What each container of these pods is: its pid and the digest of its image.
fn runs(host: &Host, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, (i64, String)> {
    let list = host.tank(&["--json", "list"]).json();
    let pods = list["pods"].as_array().expect("pods").iter();
    let of = |pod: &Value| {
        let container = &pod["containers"][0];
        let pid = container["pid"].as_i64().unwrap_or_default();
        let digest = container["digest"].as_str().unwrap_or_default();
        let name = pod["name"].as_str().expect("a name").to_owned();
        (name, (pid, digest.to_owned()))
    };
    pods.map(of).filter(|(name, _)| wanted(name)).collect()
}

fn of_stack(stack: &str) -> impl Fn(&str) -> bool {
    let prefix = format!("{stack}:");
    move |pod| pod.starts_with(&prefix)
}

fn names(host: &Host) -> Vec<String> {
    runs(host, |_| true).into_keys().collect()
}

fn outcomes(host: &Host) -> Vec<String> {
    let list = host.tank(&["--json", "generations", "list"]).json();
    let outcome = |one: &Value| one["outcome"].as_str().expect("an outcome").to_owned();
    list["generations"]
        .as_array()
        .expect("generations")
        .iter()
        .map(outcome)
        .collect()
}

fn spawn(host: &Host, args: &[&str]) -> Child {
    let mut command = host.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("tank")
}

fn wait(child: Child) -> Ended {
    child.wait_with_output().expect("wait").into()
}

#[test]
fn two_projects_with_the_same_names_never_meet() {
    let host = both();
    assert_eq!(names(&host), ["blog:db", "blog:web", "shop:db", "shop:web"]);
    // Each has a volume, a folder of logs, an address and a cgroup of its own.
    host.exec("blog:db", "echo mine > /data/who");
    assert_eq!(host.exec("shop:db/app", "ls /data | wc -l"), "0");
    assert_eq!(host.exec("blog:db", "cat /data/who"), "mine");
    let address = |pod: &str| host.pod(pod)["addresses"][0].clone();
    assert_ne!(address("blog:web"), address("shop:web"));
    // Inside it is called what it is called in its stack.
    for pod in ["blog:web", "shop:web"] {
        assert_eq!(host.exec(pod, "hostname; cat /etc/hostname"), "web\nweb");
        let hosts = host.exec(pod, "cat /etc/hosts");
        assert!(hosts.ends_with("\tweb"), "{hosts}");
        assert!(
            !hosts.contains("blog") && !hosts.contains("shop"),
            "{hosts}"
        );
    }
    // Every command takes the name as it is shown.
    let shown = host.tank(&["list"]).ok();
    assert!(shown.contains("blog:web"), "{shown}");
    let blog = host.tank(&["list", "--stack", "blog"]).ok();
    assert!(blog.contains("blog:db") && !blog.contains("shop"), "{blog}");
    let got = host.tank(&["--json", "get", "blog:web"]).json();
    assert_eq!(got["pod"]["name"], "blog:web");
    assert_eq!(
        got["config"]["pods"]["blog:web"]["depends_on"],
        json!({ "blog:db": "ready" })
    );
    host.tank(&["logs", "blog:web"]).ok();
    let why = host
        .tank(&["--json", "why", "blog:web.app.env.STEP"])
        .json();
    assert_eq!(
        (&why["value"], &why["since"]["number"]),
        (&json!("\"1\""), &json!(2))
    );
    assert_eq!(why["place"], "blog/pods.ncl:8", "{why}");
    assert_eq!(
        host.tank(&["--json", "why", "shop:web.app.env.STEP"])
            .json()["place"],
        "shop/pods.ncl:8"
    );
    let default = host.tank(&["why", "blog:web.restart"]).ok();
    assert!(default.contains("the default"), "{default}");
    // One that is named without its stack is not guessed where two have it, and both are said.
    let web = host.tank(&["exec", "web", "--", "true"]);
    assert_eq!(web.status, 125);
    assert_eq!(
        web.stderr,
        "Error: several stacks have a pod `web`\n  help: name one: `blog:web`, `shop:web`\n"
    );
    host.tank(&["delete", "--stack", "shop"]).ok();
    bare_names(&host);
    host.finish();
}

/// Where one stack has a pod of that name, its bare name is it, for all that does not remove it.
fn bare_names(host: &Host) {
    host.tank(&["exec", "web", "--", "true"]).ok();
    assert_eq!(
        host.tank(&["--json", "get", "web"]).json()["pod"]["name"],
        "blog:web"
    );
    for command in [
        &["logs", "web"][..],
        &["events", "web"],
        &["stats", "-1", "web"],
        &["explain", "web/app"],
        &["why", "web.app.env.STEP"],
        &["restart", "web/app"],
        &["stop", "web"],
        &["start", "web"],
    ] {
        host.tank(command).ok();
    }
    assert!(host.tank(&["events", "web"]).ok().contains("blog:web: "));
    // What a name without its stack means changes when another stack gets one: what removes wants the whole name.
    let gone = host.tank(&["delete", "web"]);
    assert_eq!(gone.status, 1, "{}", gone.stdout);
    assert!(gone.stderr.contains("did you mean `blog:web`?"), "{gone:?}");
    assert_eq!(host.pod("blog:web")["state"], "running");
}

#[test]
fn two_compose_projects_are_two_stacks() {
    let host = Host::new();
    let run = "[\"/bin/sh\", \"-c\", \"trap 'exit 0' TERM USR1; while true; do sleep 0.1; done\"]";
    for project in ["shop", "blog"] {
        fs::create_dir_all(host.dir.join(project)).expect("a folder");
        let service = format!("image: \"oci:../busybox\", entrypoint: {run}");
        let text = format!(
            "name: {project}\nservices:\n  db: {{ {service}, environment: {{ OF: {project} }} }}\n  web: {{ {service}, depends_on: [db] }}\n"
        );
        host.write(&format!("{project}/compose.yaml"), &text);
        let (from, to) = (
            format!("{project}/compose.yaml"),
            format!("{project}/pods.ncl"),
        );
        host.tank(&["import", "--strict", &from, "-o", &to]).ok();
        host.tank(&["switch", &to]).ok();
    }
    assert_eq!(names(&host), ["blog:db", "blog:web", "shop:db", "shop:web"]);
    let of = ["blog:db", "shop:db"].map(|pod| host.exec(pod, "echo $OF"));
    assert_eq!(of, ["blog", "shop"]);
    host.finish();
}

#[test]
fn a_switch_of_one_stack_leaves_the_others_pids_digests_and_hashes() {
    let host = both();
    let (shop, blog) = (runs(&host, of_stack("shop")), runs(&host, of_stack("blog")));
    let nodes = |host: &Host| {
        let shown = host.tank(&["--json", "generations", "show"]).json();
        shown["config"]["pods"]["shop:web"].clone()
    };
    let declared = nodes(&host);
    // The tag that both use moves: it is resolved for the stack that is switched, and for no other.
    push_another(&host.dir.join("image"));
    switch(&host, "blog", "2");
    assert_eq!(runs(&host, of_stack("shop")), shop);
    assert_eq!(nodes(&host), declared);
    let moved = runs(&host, of_stack("blog"));
    assert!(
        moved
            .iter()
            .all(|(pod, (pid, digest))| blog[pod].0 != *pid && blog[pod].1 != *digest)
    );
    assert_eq!(host.exec("blog:web", "echo $STEP"), "2");
    // The same again is the same; when the other one follows, this one is not restarted for it.
    let again = host.tank(&["--json", "switch", "blog/pods.ncl"]).json();
    assert_eq!(
        (&again["changed"], &again["generation"]),
        (&json!(false), &json!(3))
    );
    host.tank(&["switch", "shop/pods.ncl"]).ok();
    assert_eq!(
        runs(&host, of_stack("shop"))["shop:web"].1,
        moved["blog:web"].1
    );
    host.tank(&["switch", "blog/pods.ncl"]).ok();
    assert_eq!(runs(&host, of_stack("blog")), moved);
    // What belongs to no stack is a set of its own, and its names are as they always were.
    host.write(
        "plain.ncl",
        &project("x", "1", "")
            .replace("stack = \"x\",", "")
            .replace("../image", "./image"),
    );
    host.tank(&["switch", "plain.ncl"]).ok();
    assert_eq!(
        names(&host),
        ["blog:db", "blog:web", "db", "shop:db", "shop:web", "web"]
    );
    host.switch("{}");
    assert_eq!(names(&host), ["blog:db", "blog:web", "shop:db", "shop:web"]);
    assert_eq!(runs(&host, of_stack("blog")), moved);
    host.finish();
}

#[test]
fn a_daemon_that_dies_finds_the_pods_of_its_stacks_again() {
    let mut host = both();
    let before = runs(&host, |_| true);
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(runs(&host, |_| true), before);
    assert_eq!(host.tank(&["diff"]).ok(), "nothing to do\n");
    // And what dies meanwhile is started again, under its own name.
    let pid = before["blog:web"].0.to_string();
    host.kill_daemon();
    let killed = host
        .inside("kill")
        .args(["-9", &pid])
        .status()
        .expect("kill");
    assert!(killed.success());
    host.start_daemon();
    eventually("it runs again", || {
        host.pod("blog:web")["state"] == "running"
            && host.pid("blog:web", "app") != before["blog:web"].0
    });
    let others = |name: &str| name != "blog:web";
    let before: BTreeMap<_, _> = before
        .into_iter()
        .filter(|(name, _)| others(name))
        .collect();
    assert_eq!(runs(&host, others), before);
    host.finish();
}
