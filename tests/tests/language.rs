//! The language as a person meets it: at the command line, in an editor, and beside a running host.

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use tank_tests::{Ended, Host, RUN, bin, repo};

/// A folder with a configuration, and a cache of its own.
struct Desk(PathBuf);

impl Desk {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tank-language-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("write");
    }

    fn tank(&self, args: &[&str], env: &[(&str, &str)]) -> Ended {
        let mut command = Command::new(bin("tank"));
        command
            .args(args)
            .current_dir(&self.0)
            .env("TANK_CACHE_DIR", self.0.join("cache"));
        command.env("TANK_SOCKET", self.0.join("none.sock"));
        command.envs(env.iter().copied());
        command.output().expect("tank").into()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_never_ends_ends_in_an_error() {
    let desk = Desk::new("limits");
    let config = |lets: &str, value: &str| {
        format!("{lets}\n{{ pods.a.containers.a = {{ image = \"x\", env.N = {value} }} }}\n")
    };
    let cases = [
        // A loop that needs no memory, a recursion that does, a value a million deep, a text of a
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
                "std.serialize 'Json (f 1000000)",
            ),
            "30s",
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
    for (name, text, time, memory) in cases {
        desk.write("pods.ncl", &text);
        let before = Instant::now();
        let ended = desk.tank(
            &["check", "pods.ncl"],
            &[("TANK_EVAL_TIMEOUT", time), ("TANK_EVAL_MEMORY", memory)],
        );
        assert_eq!(ended.status, 1, "{name}: {}{}", ended.stdout, ended.stderr);
        insta::assert_snapshot!(format!("limit_{name}"), ended.stderr);
        assert!(
            before.elapsed() < Duration::from_secs(45),
            "{name} took {:?}",
            before.elapsed()
        );
        let json = desk.tank(
            &["--json", "check", "pods.ncl"],
            &[("TANK_EVAL_TIMEOUT", time), ("TANK_EVAL_MEMORY", memory)],
        );
        let found: Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert!(
            found["problems"][0]["code"]
                .as_str()
                .is_some_and(|code| code.starts_with("tank::limit::")),
            "{found}"
        );
    }
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

/// A language server that is spoken to over its standard streams.
struct Server {
    child: Child,
    replies: mpsc::Receiver<Value>,
    next: u64,
}

impl Server {
    fn start(program: &str, import_path: &str) -> Self {
        let mut child = Command::new(program)
            .env("NICKEL_IMPORT_PATH", import_path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("nls");
        let mut out = BufReader::new(child.stdout.take().expect("stdout"));
        let (send, replies) = mpsc::channel();
        std::thread::spawn(move || {
            loop {
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if out.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                    if let Some(bytes) = line.strip_prefix("Content-Length: ") {
                        length = bytes.trim().parse().expect("a length");
                    }
                }
                let mut body = vec![0; length];
                out.read_exact(&mut body).expect("a message");
                if send
                    .send(serde_json::from_slice(&body).expect("JSON"))
                    .is_err()
                {
                    return;
                }
            }
        });
        Self {
            child,
            replies,
            next: 0,
        }
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        let stdin = self.child.stdin.as_mut().expect("stdin");
        write!(stdin, "Content-Length: {}\r\n\r\n{text}", text.len()).expect("write");
        stdin.flush().expect("flush");
    }

    fn notify(&mut self, method: &str, params: &Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let id = self.next;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let reply = self
                .replies
                .recv_timeout(Duration::from_secs(60))
                .expect("an answer of nls");
            if reply["id"] == id {
                return reply["result"].clone();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    for unknown in ["nftables", "tankd"] {
        let finding = doctor["findings"]
            .as_array()
            .and_then(|findings| findings.iter().find(|finding| finding["what"] == unknown))
            .unwrap_or_else(|| panic!("no {unknown}: {doctor}"));
        assert_eq!(finding["ok"], Value::Null, "{finding}");
        assert_eq!(finding["help"], "run `tank doctor` as root");
    }
    std::fs::remove_dir_all(dir).expect("remove");
}

#[test]
fn the_language_server_completes_and_explains() {
    let output = Command::new(repo().join("scripts/nls.sh"))
        .output()
        .expect("scripts/nls.sh");
    let program = String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned();
    assert!(
        Path::new(&program).exists(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let desk = Desk::new("editor");
    let import_path = desk
        .tank(&["doc", "--import-path"], &[])
        .ok()
        .trim()
        .to_owned();
    // Braces and not dotted paths: the server completes only inside the former while the file is
    // incomplete.
    let text = "let tank = import \"tank.ncl\" in\n{\n  pods = { web = {\n    containers = { app = {\n      image = \"nginx\",\n      read\n    } },\n    publ\n  } },\n}\n| tank.Config\n";
    desk.write("pods.ncl", text);
    let uri = format!("file://{}", desk.0.join("pods.ncl").display());
    let mut server = Server::start(&program, &import_path);
    server.ask(
        "initialize",
        &json!({ "processId": null, "rootUri": null, "capabilities": {
        "textDocument": { "completion": { "completionItem": { "documentationFormat": ["markdown"] } } } } }),
    );
    server.notify("initialized", &json!({}));
    let document = json!({ "uri": uri, "languageId": "nickel", "version": 1, "text": text });
    server.notify("textDocument/didOpen", &json!({ "textDocument": document }));
    let mut complete = |line: u64, character: u64| -> Vec<String> {
        let at = json!({ "textDocument": { "uri": uri }, "position": { "line": line, "character": character } });
        let items = server.ask("textDocument/completion", &at);
        let items = items
            .as_array()
            .cloned()
            .or_else(|| items["items"].as_array().cloned())
            .unwrap_or_default();
        items
            .iter()
            .filter_map(|item| Some(item["label"].as_str()?.to_owned()))
            .collect()
    };
    let inside = complete(5, 10);
    for field in ["readiness", "read_only"] {
        assert!(
            inside.iter().any(|label| label == field),
            "{field} is not completed in a container: {inside:?}"
        );
    }
    let outside = complete(7, 8);
    assert!(
        outside.iter().any(|label| label == "publish"),
        "publish is not completed in a pod: {outside:?}"
    );
    let at = json!({ "textDocument": { "uri": uri }, "position": { "line": 4, "character": 8 } });
    let hover = server.ask("textDocument/hover", &at).to_string();
    assert!(
        hover.contains("A tag is resolved to a digest once"),
        "no doc on hover: {hover}"
    );
}
