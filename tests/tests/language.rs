//! The language as a person meets it at the command line. Needs no root and no daemon.

use serde_json::Value;
use tank_tests::desk::Desk;

/// `tank check` of `text` ends at one of its limits, for people and for programs.
fn ends_in_an_error(name: &str, text: &str, time: &str, memory: &str) {
    let desk = Desk::new(&format!("limit-{name}"));
    desk.write("pods.ncl", text);
    let limits = [("TANK_EVAL_TIMEOUT", time), ("TANK_EVAL_MEMORY", memory)];
    let ended = desk.tank(&["check", "pods.ncl"], &limits);
    assert_eq!(ended.status, 1, "{name}: {}{}", ended.stdout, ended.stderr);
    insta::assert_snapshot!(format!("limit_{name}"), ended.stderr);
    let json = desk.tank(&["--json", "check", "pods.ncl"], &limits);
    let found: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert!(
        found["problems"][0]["code"]
            .as_str()
            .is_some_and(|code| code.starts_with("tank::limit::")),
        "{found}"
    );
}

#[test]
fn what_never_ends_ends_in_an_error() {
    let desk = Desk::new("limits");
    let config = |lets: &str, value: &str| {
        format!("{lets}\n{{ pods.a.containers.a = {{ image = \"x\", env.N = {value} }} }}\n")
    };
    let cases = [
        // A loop that needs no memory, a recursion that does, a value 200,000 deep, a text of a
        // gigabyte.
        (
            "loop",
            config(
                "let rec spin = fun n => if n == 0 then 0 else spin (n - 1) in",
                "std.to_string (std.array.fold_left (fun _ _ => spin 1000) 0 (std.array.range 0 100000))",
            ),
            "2s",
            "512MiB",
        ),
        (
            "recursion",
            config(
                "let rec f = fun x => 1 + f (x + 1) in",
                "std.to_string (f 0)",
            ),
            "30s",
            "256MiB",
        ),
        (
            "depth",
            config(
                "let rec f = fun n => if n == 0 then {} else { x = f (n - 1) } in",
                "std.serialize 'Json (f 200000)",
            ),
            "10m",
            "4GiB",
        ),
        (
            "text",
            config(
                "let rec double = fun s n => if n == 0 then s else double (s ++ s) (n - 1) in",
                "double \"x\" 30",
            ),
            "30s",
            "512MiB",
        ),
    ];
    std::thread::scope(|scope| {
        for (name, text, time, memory) in &cases {
            scope.spawn(move || ends_in_an_error(name, text, time, memory));
        }
    });
    desk.write("pods.ncl", "{}");
    // A wrong limit is said so, and no evaluator is left behind by any of it.
    let wrong = desk.tank(&["check", "pods.ncl"], &[("TANK_EVAL_TIMEOUT", "soon")]);
    assert_eq!(wrong.status, 1);
    assert!(
        wrong.stderr.contains("TANK_EVAL_TIMEOUT"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn nothing_is_evaluated_while_nothing_changes() {
    let desk = Desk::new("cache");
    desk.write(
        "pods.ncl",
        "let lib = import \"lib.ncl\" in { pods.web.containers.app = lib & { files.\"/f\".source = \"./f.txt\" } }",
    );
    desk.write("lib.ncl", "{ image = \"nginx:1\" }");
    desk.write("f.txt", "one");
    // An evaluation in no time fails: one that succeeds did not happen.
    let build = |limit: &str, more: &[&str]| {
        desk.tank(
            &[&["build", "--canonical", "pods.ncl"], more].concat(),
            &[("TANK_EVAL_TIMEOUT", limit)],
        )
    };
    assert_eq!(build("0ms", &[]).status, 1);
    let first = build("30s", &[]).ok();
    assert_eq!(build("0ms", &[]).ok(), first);
    // Each of the inputs counts, by its content.
    for (name, before, after) in [
        (
            "lib.ncl",
            "{ image = \"nginx:1\" }",
            "{ image = \"nginx:2\" }",
        ),
        ("f.txt", "one", "two"),
        (
            "pods.ncl",
            "",
            "{ pods.web.containers.app.image = \"nginx:3\" }",
        ),
    ] {
        let path = desk.0.join(name);
        let before = if before.is_empty() {
            std::fs::read_to_string(&path).expect("read")
        } else {
            before.to_owned()
        };
        desk.write(name, after);
        assert_eq!(
            build("0ms", &[]).status,
            1,
            "{name} changed and nothing was evaluated"
        );
        assert_ne!(build("30s", &[]).ok(), first, "{name}");
        desk.write(name, &before);
        // As it was, though written anew. (One entry is kept for the same command: it is made
        // again.)
        assert_eq!(build("30s", &[]).ok(), first, "{name}");
        assert_eq!(build("0ms", &[]).ok(), first, "{name}");
    }
    let set = ["--set", "pods.web.containers.app.env.A=\"1\""];
    assert_eq!(build("0ms", &set).status, 1);
    assert_ne!(build("30s", &set).ok(), first);
    // A lock that appears is an input as well.
    let digest = format!("sha256:{}", "1".repeat(64));
    desk.write(
        "tank.lock",
        &format!("version = 1\n[images]\n\"nginx:1\" = \"{digest}\"\n"),
    );
    assert_eq!(build("0ms", &[]).status, 1);
    assert!(
        build("30s", &[])
            .ok()
            .contains(&format!("nginx:1@{digest}"))
    );
    std::fs::remove_file(desk.0.join("tank.lock")).expect("remove");
    assert_eq!(build("30s", &[]).ok(), first);
    // A damaged entry is no entry.
    for entry in std::fs::read_dir(desk.0.join("cache/eval")).expect("the cache") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path)
            .expect("read")
            .replace("nginx", "apache");
        std::fs::write(&path, text).expect("write");
    }
    assert_eq!(build("30s", &[]).ok(), first);
    // And none at all is no loss.
    assert_eq!(
        desk.tank(
            &["build", "--canonical", "pods.ncl"],
            &[("TANK_CACHE_DIR", "")]
        )
        .ok(),
        first
    );
}

#[test]
fn a_first_file_and_its_manual() {
    let desk = Desk::new("init");
    let nothing = desk.tank(&["check"], &[]);
    assert_eq!(
        (nothing.status, nothing.stderr.as_str()),
        (
            1,
            "Error: can't read pods.ncl: No such file or directory (os error 2)\n  help: name a configuration, or write a first one: `tank init`\n"
        )
    );
    desk.tank(&["init"], &[]).ok();
    let written = std::fs::read_to_string(desk.0.join("pods.ncl")).expect("read");
    assert!(written.contains("tank doc"));
    desk.tank(&["check", "pods.ncl"], &[]).ok();
    let again = desk.tank(&["init"], &[]);
    assert_eq!(again.status, 1);
    insta::assert_snapshot!("init_again", again.stderr);
    desk.tank(&["init", "--force"], &[]).ok();
    // With the line for an editor.
    desk.write(
        "pods.ncl",
        &written.replace("# let tank = import", "let tank = import"),
    );
    desk.tank(&["check", "pods.ncl"], &[]).ok();
    let page = desk.tank(&["doc", "pods.containers.limits"], &[]).ok();
    assert!(page.contains("memory") && page.contains("Size"), "{page}");
    let unknown = desk.tank(&["doc", "web.app.limits.memroy"], &[]);
    assert_eq!(unknown.status, 1);
    insta::assert_snapshot!("doc_unknown", unknown.stderr);
    for (word, name) in [("nonsense", "doc_nonsense"), ("netwroks", "doc_nearly")] {
        let unknown = desk.tank(&["doc", word], &[]);
        assert_eq!((unknown.status, unknown.stdout.as_str()), (1, ""), "{word}");
        insta::assert_snapshot!(name, unknown.stderr);
    }
    insta::assert_snapshot!(
        "doc_unknown_code",
        desk.tank(&["doc", "--error", "tank::mount::unknown_volum"], &[])
            .stderr
    );
    assert!(
        desk.tank(&["doc", "--error", "tank::mount::unknown_volume"], &[])
            .ok()
            .contains("Volumes belong to a pod")
    );
    // A code is known without being called one.
    let page = desk.tank(&["doc", "tank::publish::range"], &[]).ok();
    assert!(page.starts_with("tank::publish::range\n\n"), "{page}");
    // An import that leaves things out says so, and with `--strict` it is an error.
    desk.write(
        "compose.yaml",
        "services: { a: { image: x, privileged: true, restart: always } }",
    );
    let imported = desk.tank(&["import", "compose.yaml", "-o", "imported.ncl"], &[]);
    assert_eq!(
        (
            imported.status,
            imported.stderr.contains("services.a.privileged")
        ),
        (0, true),
        "{}",
        imported.stderr
    );
    desk.tank(&["check", "imported.ncl"], &[]).ok();
    assert_eq!(
        desk.tank(&["import", "--strict", "compose.yaml"], &[])
            .status,
        1
    );
    assert_eq!(
        desk.tank(&["import", "compose.yaml", "-o", "imported.ncl"], &[])
            .status,
        1,
        "it was overwritten"
    );
}

#[test]
fn a_thousand_pods_are_checked() {
    let desk = Desk::new("thousand");
    desk.write(
        "pods.ncl",
        "{ pods = tank.replicas \"web\" 1000 (fun i => { containers.app = { image = \"nginx:1.27\", env.I = std.to_string i } }) }",
    );
    assert!(
        desk.tank(&["check", "pods.ncl"], &[])
            .ok()
            .starts_with("1000 pods")
    );
}

/// What only root can look at is unknown to another user, and no finding.
#[test]
fn doctor_reports_nothing_that_an_ordinary_user_can_not_see() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    let dir = std::env::temp_dir().join(format!("tank-doctor-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    // Where every user can execute it.
    let program = dir.join("tank");
    std::fs::copy(tank_tests::bin("tank"), &program).expect("copy");
    let socket = dir.join("tank.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("listen");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).expect("chmod");
    let mut command = std::process::Command::new(&program);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command
        .arg("--socket")
        .arg(&socket)
        .args(["--json", "doctor"])
        .output()
        .expect("tank");
    let doctor: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for unknown in ["nftables", "connections", "tankd"] {
        let finding = doctor["findings"]
            .as_array()
            .and_then(|findings| findings.iter().find(|finding| finding["what"] == unknown))
            .unwrap_or_else(|| panic!("no {unknown}: {doctor}"));
        assert_eq!(finding["ok"], Value::Null, "{finding}");
        assert_eq!(finding["help"], "run `tank doctor` as root");
    }
    std::fs::remove_dir_all(dir).expect("remove");
}
