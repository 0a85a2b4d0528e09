//! From Nickel to hashes: exact ones, on every machine.

use std::process::Command;
use tank_tests::{Ended, bin, repo};

fn tank(args: &[&str]) -> Ended {
    Command::new(bin("tank"))
        .args(args)
        .current_dir(repo())
        .output()
        .expect("tank")
        .into()
}

fn build(text: &str, name: &str, args: &[&str]) -> Ended {
    let dir = std::env::temp_dir().join(format!("tank-compile-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("pods.ncl");
    std::fs::write(&file, text).expect("write");
    let ended = tank(&[&["build", &file.display().to_string()], args].concat());
    std::fs::remove_dir_all(dir).expect("remove");
    ended
}

fn root(text: &str, name: &str) -> String {
    build(text, name, &["--json"]).json()["root"]
        .as_str()
        .expect("a root")
        .to_owned()
}

#[test]
fn hashes_are_pinned() {
    // A change here is a change of every stored graph: it needs a new domain and a migration, not a
    // new snapshot.
    insta::assert_snapshot!("root_of_the_empty_configuration", root("{}", "empty"));
    insta::assert_snapshot!(
        "build_of_examples_web",
        tank(&["build", "examples/web/pods.ncl"]).ok()
    );
    insta::assert_snapshot!(
        "canonical_of_examples_web",
        tank(&["build", "--canonical", "examples/web/pods.ncl"]).ok()
    );
}

#[test]
fn the_same_bytes_on_every_run() {
    let once = tank(&["build", "--json", "examples/web/pods.ncl"]).ok();
    for _ in 0..3 {
        assert_eq!(
            tank(&["build", "--json", "examples/web/pods.ncl"]).ok(),
            once
        );
    }
}

#[test]
fn how_it_is_written_does_not_matter_and_what_it_says_does() {
    let plain = "{ pods.a = { containers.x = { image = \"i\", env = { A = \"1\", B = \"2\" } }, labels.l = \"v\" } }";
    let other = "let b = \"2\" in { pods = { a = { labels = { l = \"v\" }, containers = { x = { env.B = b, env.A = \"1\", image = \"i\", tty = false, restart_me | optional | not_exported = 1 } } } } }"
        .replace(", restart_me | optional | not_exported = 1", "");
    assert_eq!(root(plain, "plain"), root(&other, "other"));
    for (index, change) in [
        ("\"1\"", "\"3\""),
        ("labels.l", "labels.m"),
        ("\"i\"", "\"j\""),
        ("a =", "c ="),
    ]
    .iter()
    .enumerate()
    {
        let changed = plain.replacen(change.0, change.1, 1);
        assert_ne!(
            root(plain, "plain2"),
            root(&changed, &format!("changed{index}")),
            "{changed}"
        );
    }
}

#[test]
fn files_merge_and_fields_are_overridden() {
    let dir = std::env::temp_dir().join(format!("tank-merge-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let path = |name: &str| dir.join(name).display().to_string();
    std::fs::write(
        path("base.ncl"),
        "{ pods.a.containers.x = { image | default = \"one\", env.A = \"1\" } }",
    )
    .expect("write");
    std::fs::write(
        path("prod.yaml"),
        "pods: { a: { containers: { x: { image: two, env: { B: '2' } } } } }",
    )
    .expect("write");
    let built = tank(&[
        "build",
        "--canonical",
        &path("base.ncl"),
        &path("prod.yaml"),
        "--set",
        "pods.a.containers.x.env.C=\"3\"",
    ]);
    assert_eq!(
        built.ok().trim(),
        r#"{"pods":{"a":{"containers":{"x":{"env":{"A":"1","B":"2","C":"3"},"image":"two"}}}}}"#
    );
    std::fs::remove_dir_all(dir).expect("remove");
}

#[test]
fn data_files_merge_with_each_other_and_with_what_imports_them() {
    let dir = std::env::temp_dir().join(format!("tank-data-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let path = |name: &str| dir.join(name).display().to_string();
    for (name, text) in [
        (
            "a.ncl",
            "{ pods.a.containers.x = { image = \"one\", env.A = \"1\" } }",
        ),
        (
            "b.json",
            r#"{"pods":{"a":{"containers":{"x":{"env":{"B":"2"},"args":["go"]}},"volumes":{}}}}"#,
        ),
        (
            "c.yaml",
            "pods: { a: { containers: { x: { env: { C: '3' } } } } }",
        ),
        ("d.toml", "[pods.a.containers.x.env]\nD = \"4\"\n"),
        (
            "e.ncl",
            "(import \"c.yaml\") & (import \"d.toml\") & { pods.a.containers.x.env.E = \"5\" }",
        ),
        (
            "wrong.yaml",
            "pods:\n  a:\n    containers:\n      x:\n        tty: 1\n",
        ),
    ] {
        std::fs::write(path(name), text).expect("write");
    }
    let built = tank(&[
        "build",
        "--canonical",
        &path("a.ncl"),
        &path("b.json"),
        &path("e.ncl"),
    ]);
    assert_eq!(
        built.ok().trim(),
        r#"{"pods":{"a":{"containers":{"x":{"args":["go"],"env":{"A":"1","B":"2","C":"3","D":"4","E":"5"},"image":"one"}}}}}"#
    );
    // A mistake is still shown at its own line.
    let refused = tank(&["check", &path("a.ncl"), &path("wrong.yaml")]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("wrong.yaml:5:14"),
        "{}",
        refused.stderr
    );
    std::fs::remove_dir_all(dir).expect("remove");
}

#[test]
fn pictures_are_drawn() {
    let text = "{ pods.a = { containers.x = { image = \"i\", mounts.v = { volume = \"v\", path = \"/v\" } }, volumes.v = {} } }";
    insta::assert_snapshot!("graph_dot", build(text, "dot", &["--graph", "dot"]).ok());
    insta::assert_snapshot!(
        "graph_mermaid",
        build(text, "mermaid", &["--graph", "mermaid"]).ok()
    );
}

#[test]
fn every_example_compiles() {
    // An example has one configuration, or one in each of its folders; beside them is what they are.
    let folders = |of: &std::path::Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(of).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.is_dir()).collect()
    };
    let mut files = Vec::new();
    for example in folders(&repo().join("examples")) {
        match example.join("pods.ncl").exists() {
            true => files.push(example.join("pods.ncl")),
            false => files.extend(folders(&example).iter().map(|of| of.join("pods.ncl"))),
        }
    }
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        // For any host: files of the host that one names are not on this one.
        let built = tank(&["build", &file.display().to_string()]);
        assert_eq!(built.status, 0, "{}: {}", file.display(), built.stderr);
    }
    let files = ["examples/shop/pods.ncl", "examples/shop/production.ncl"];
    let built = tank(&[&["build", "--canonical"], &files[..]].concat()).ok();
    assert!(
        built.contains(r#""LOG":"warn""#) && built.contains(r#""memory":1073741824"#),
        "{built}"
    );
}

#[test]
fn check_speaks_json() {
    let checked = build(
        "{ pods.a.containers.x = { image = \"i\", working_dir = \"rel\" } }",
        "json",
        &[],
    );
    assert_eq!(checked.status, 1);
    let dir = std::env::temp_dir().join(format!("tank-check-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("pods.ncl").display().to_string();
    std::fs::write(
        &file,
        "{\n  pods.a.containers.x = { image = \"i\", working_dir = \"rel\" },\n}\n",
    )
    .expect("write");
    let checked = tank(&["--json", "check", &file]);
    assert_eq!(checked.status, 1);
    let found: serde_json::Value = serde_json::from_str(&checked.stdout).expect("JSON");
    let problem = &found["problems"][0];
    assert_eq!(
        (&problem["code"], &problem["line"], &problem["field"]),
        (
            &"tank::path::relative".into(),
            &2.into(),
            &"pods.a.containers.x.working_dir".into()
        )
    );
    std::fs::remove_dir_all(dir).expect("remove");
}
