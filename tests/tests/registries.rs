//! Registries, as a user meets them: private ones, blocked ones, and what `tank.toml` says of them.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Child, Stdio},
};
use tank_tests::{Host, RUN, eventually, layouts, pty::Terminal, words};

/// `se:cret`, by bcrypt.
const USERS: &str = "me:$2b$04$1.HdPsXb6ZmHbENmbCfNGuBZw0/Kh8FFft4p/A4GMkPsnpy1hM/B6\n";

/// A host whose daemon looks into no file of this machine's, with more lines of `tank.toml`.
fn host(settings: &str) -> Host {
    let host = Host::without_daemon();
    let path = host.dir.join("tank.toml");
    let text = fs::read_to_string(&path).expect("settings");
    fs::write(path, format!("{text}auth_files = []\n{settings}")).expect("settings");
    host.started_with(&[])
}

fn web() -> String {
    format!(
        "{{ pods.web.containers.app = {{ image = \"localhost:5000/nginx\", stop.signal = \"SIGKILL\", {RUN} }} }}"
    )
}

#[test]
fn a_private_image_is_pulled_after_a_login() {
    let mut host = host("");
    host.start_registry_for(USERS);
    host.write("web.ncl", &web());
    let refused = host.tank(&["switch", "web.ncl"]);
    assert_eq!(refused.status, 1);
    insta::assert_snapshot!("anonymous", refused.stderr);
    // At a terminal it is asked for, and the password is not shown.
    let mut terminal = Terminal::run(&host.command(&["login", "localhost:5000"]));
    terminal.expect("user for localhost:5000: ");
    terminal.type_in("me\n");
    terminal.expect("password of me: ");
    terminal.type_in("se:cret\n");
    terminal.expect("localhost:5000 takes `me`");
    assert_eq!(terminal.ended(), 0);
    assert!(!terminal.shown.contains("se:cret"), "{}", terminal.shown);
    // What is typed before it is asked for is not shown, and Ctrl-C leaves the terminal as it was.
    let login = host.command(&["login", "localhost:5000"]);
    let tank = login.get_program().to_string_lossy().into_owned();
    let args: Vec<String> = login
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let mut shell = std::process::Command::new("sh");
    let script = format!(
        "stty -a > before; {tank} {}; echo ended $?; stty -a | diff before - && echo same",
        args.join(" ")
    );
    shell.args(["-c", &script]).current_dir(&host.dir);
    let mut terminal = Terminal::run(&shell);
    terminal.expect("user for localhost:5000: ");
    terminal.type_in("me\n");
    terminal.expect("password of me: ");
    terminal.type_in("half\u{3}");
    terminal.expect("ended 1");
    terminal.expect("same");
    assert_eq!(terminal.ended(), 0);
    assert!(!terminal.shown.contains("half"), "{}", terminal.shown);
    let kept = host.dir.join("state/auth.json");
    let found = fs::metadata(&kept).expect("it is kept");
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600));
    host.tank(&["switch", "web.ncl"]).ok();
    // It is known after a restart, and asked for again by a lock.
    host.kill_daemon();
    host.start_daemon();
    host.tank(&["lock", "web.ncl", "--update"]).ok();
    // Another password is refused, and takes nothing away.
    let login = [
        "login",
        "localhost:5000",
        "--user",
        "me",
        "--password-stdin",
    ];
    let wrong = host.tank_with_input(&login, b"wrong\n");
    assert_eq!((wrong.status, wrong.stdout.as_str()), (1, ""));
    insta::assert_snapshot!("wrong_password", wrong.stderr);
    host.tank(&["lock", "web.ncl", "--update"]).ok();
    let out = host.tank(&["logout", "localhost:5000"]).ok();
    assert_eq!(out, "the password for localhost:5000 is forgotten\n");
    let out = host.tank(&["logout", "localhost:5000"]).ok();
    assert_eq!(out, "no password for localhost:5000 was kept\n");
    let refused = host.tank(&["lock", "web.ncl", "--update"]);
    assert_eq!(refused.status, 1);
    assert!(
        words(&refused.stderr).contains("localhost:5000 does not let anonymous users pull `nginx`"),
        "{}",
        refused.stderr
    );
    // What is here needs no registry: it runs on.
    assert_eq!(host.pod("web")["state"], "running");
    let given = host.tank_with_input(&login, b"se:cret\r\n").ok();
    assert_eq!(given, "localhost:5000 takes `me`\n");
    host.finish();
}

#[test]
fn a_login_that_can_not_be_is_refused_in_words() {
    let host = host("registries.\"bad.example\".blocked = true\n");
    let login = |registry: &str, input: &[u8]| {
        let args = ["login", registry, "--user", "me", "--password-stdin"];
        let refused = host.tank_with_input(&args, input);
        assert_eq!((refused.status, refused.stdout.as_str()), (1, ""));
        refused.stderr
    };
    insta::assert_snapshot!("no_registry", login("https://x/y", b"s"));
    insta::assert_snapshot!("registry_down", login("localhost:5000", b"s"));
    insta::assert_snapshot!("blocked_registry", login("bad.example", b"s"));
    insta::assert_snapshot!("no_password", login("localhost:5000", b"\n"));
    insta::assert_snapshot!("two_lines", login("localhost:5000", b"a\nb\n"));
    let no_terminal = host.tank_with_input(&["login", "localhost:5000"], b"s");
    assert_eq!(no_terminal.status, 1);
    insta::assert_snapshot!("no_terminal", no_terminal.stderr);
    assert!(!host.dir.join("state/auth.json").exists());
    host.finish();
}

#[test]
fn what_the_host_is_set_up_to_pull_is_pulled_and_nothing_else() {
    let mut host = host(
        "registries.\"*\".blocked = true\nregistries.\"docker.io\".mirrors = [\"localhost:5001\", \"localhost:5000\"]\nregistries.\"localhost:5000\" = {}\n",
    );
    host.start_registry();
    host.write(
        "web.ncl",
        &web().replace("localhost:5000/nginx", "quay.io/nginx"),
    );
    let refused = host.tank(&["switch", "web.ncl"]);
    assert_eq!(refused.status, 1);
    insta::assert_snapshot!("blocked", refused.stderr);
    // Docker's own registry is not reached from here: its mirror has what it is asked for.
    host.write(
        "web.ncl",
        &web().replace("localhost:5000/nginx", "docker.io/nginx"),
    );
    let refused = host.tank(&["switch", "web.ncl"]);
    assert_eq!(refused.status, 1, "the mirror has no library/nginx");
    host.write("web.ncl", &web());
    host.tank(&["switch", "web.ncl"]).ok();
    host.finish();
}

#[test]
fn a_mirror_has_what_is_pulled_of_its_registry() {
    let mut host =
        host("registries.\"there.example\".mirrors = [\"localhost:5001\", \"localhost:5000\"]\n");
    host.start_registry();
    host.write(
        "web.ncl",
        &web().replace("localhost:5000/nginx", "there.example/nginx"),
    );
    host.tank(&["switch", "web.ncl"]).ok();
    assert_eq!(
        host.pod("web")["containers"][0]["image"],
        "there.example/nginx"
    );
    host.finish();
}

/// Whether a registry is asked at a switch, as its containers say.
#[test]
fn a_registry_is_asked_when_it_is_wanted() {
    let mut host = host("");
    let config =
        |pull: &str, more: &str| web().replace("image =", &format!("{pull} {more} image ="));
    let (always, missing, never) = ("", "pull = 'missing,", "pull = 'never,");
    host.write("web.ncl", &config(never, ""));
    let refused = host.tank(&["switch", "web.ncl"]);
    assert_eq!(refused.status, 1);
    insta::assert_snapshot!("never_pulled", refused.stderr);
    host.start_registry();
    host.write("web.ncl", &config(missing, ""));
    host.tank(&["switch", "web.ncl"]).ok();
    let pid = host.pid("web", "app");
    host.signal_registry("STOP");
    // Nobody answers there now, and nobody is asked.
    for pull in [never, missing] {
        host.write("web.ncl", &config(pull, ""));
        let switched = host.tank(&["switch", "web.ncl"]);
        assert!(
            !switched.stderr.contains("pull localhost"),
            "{}",
            switched.stderr
        );
        switched.ok();
        assert_eq!(host.pid("web", "app"), pid, "nothing is restarted by it");
    }
    // Also where the generation before has no such pod.
    host.tank(&["delete", "web"]).ok();
    host.tank(&["switch", "web.ncl"]).ok();
    let get = host.tank(&["get", "web"]).ok();
    assert!(get.contains("pull"), "{get}");
    host.signal_registry("CONT");
    host.write("web.ncl", &config(always, "env.A = \"1\","));
    let switched = host.tank(&["switch", "web.ncl"]);
    assert!(
        switched.stderr.contains("pull localhost:5000/nginx"),
        "{}",
        switched.stderr
    );
    switched.ok();
    // One that wants it always asks for all.
    let both = config(never, "").replace(" } }", " }, pods.other.containers.app = { image = \"localhost:5000/nginx\", command = [\"/bin/sleep\", \"1000\"], stop.signal = \"SIGKILL\" } }");
    host.write("both.ncl", &both);
    let switched = host.tank(&["switch", "both.ncl"]);
    assert!(
        switched.stderr.contains("pull localhost:5000/nginx"),
        "{}",
        switched.stderr
    );
    switched.ok();
    host.finish();
}

/// An image that came as a file, as `docker save` writes it: beside the configuration, named from elsewhere.
#[test]
fn an_archive_is_an_image_without_a_registry() {
    let host = host("");
    let script = r#"
import gzip, hashlib, io, json, sys, tarfile
layout, out = sys.argv[1:]
blob = lambda digest: open(layout + "/blobs/" + digest.replace(":", "/"), "rb").read()
manifest = json.loads(blob(json.load(open(layout + "/index.json"))["manifests"][0]["digest"]))
config, layer = blob(manifest["config"]["digest"]), gzip.decompress(blob(manifest["layers"][0]["digest"]))
saved = [{"Config": "config.json", "RepoTags": ["team/app:1"], "Layers": ["1/layer.tar"]}]
with tarfile.open(out, "w") as tar:
    for name, content in [("1/layer.tar", layer), ("config.json", config), ("manifest.json", json.dumps(saved).encode())]:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
"#;
    let mut python = host.inside("python3");
    let made = python
        .args(["-c", script])
        .args([host.dir.join("busybox"), host.dir.join("app.tar")])
        .status()
        .expect("python3");
    assert!(made.success());
    let config =
        |image: &str| format!("{{ pods.web.containers.app = {{ image = \"{image}\", {RUN} }} }}");
    host.write("web.ncl", &config("docker-archive:./app.tar:team/app:1"));
    let mut command = host.command(&["switch", &host.dir.join("web.ncl").display().to_string()]);
    let switched = command.current_dir("/").output().expect("tank");
    assert!(
        switched.status.success(),
        "{}",
        String::from_utf8_lossy(&switched.stderr)
    );
    assert_eq!(host.exec("web", "echo works"), "works");
    host.write("web.ncl", &config("docker-archive:./app.tar:team/app:2"));
    let refused = host.tank(&["switch", "web.ncl"]);
    assert_eq!(refused.status, 1);
    let text = refused
        .stderr
        .replace(&host.dir.display().to_string(), "DIR");
    insta::assert_snapshot!("no_such_name", text);
    for image in ["docker://nginx", "docker-daemon:nginx"] {
        host.write("web.ncl", &config(image));
        let refused = host.tank(&["check", "web.ncl"]);
        assert_eq!(refused.status, 1);
        let name = image.split(':').next().expect("a word");
        insta::assert_snapshot!(format!("elsewhere_{name}"), refused.stderr);
    }
    host.finish();
}

#[test]
fn a_rule_that_is_none_keeps_the_daemon_from_starting() {
    for (settings, why) in [
        (
            "registries.\"https://x\" = {}",
            "registries: `https://x` is no registry, write HOST, HOST:PORT or *",
        ),
        (
            "registries.\"x.example\".mirrors = [\"https://y\"]",
            "`https://y` is no mirror, write for example \"mirror.example:5000\"",
        ),
        (
            "registries.\"x.example\".mirror = []",
            "unknown field `mirror`",
        ),
        (
            "registries.\"*\".mirrors = [\"y.example\"]",
            "registries: a mirror is one of a registry, and `*` is all of them",
        ),
        (
            "registries.\"x.example\".proxy = \"x\"",
            "`x` is no proxy, write \"http://HOST:PORT\" or \"none\"",
        ),
        (
            "auth_files = [\"auth.json\"]",
            "auth_files: `auth.json` is no absolute path",
        ),
    ] {
        let host = Host::without_daemon();
        host.write("wrong.toml", settings);
        let tankd = tank_tests::bin("tankd").display().to_string();
        let mut command = host.inside(&tankd);
        for (flag, name) in [
            ("state-dir", "state"),
            ("run-dir", "run"),
            ("config", "wrong.toml"),
        ] {
            command.arg(format!("--{flag}={}", host.dir.join(name).display()));
        }
        let ended = command.output().expect("tankd");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(
            !ended.status.success() && said.contains(why),
            "{settings}: {said}"
        );
    }
}

/// Serves an OCI layout as the repository `busybox`: half a mebibyte and a byte of each layer, and the rest when the file
/// `go` is there.
const SLOW: &str = r#"
import http.server, json, os, sys, time
layout, go, ready = sys.argv[1:]
blob = lambda digest: open(layout + "/blobs/" + digest.replace(":", "/"), "rb").read()
class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        with open(ready + ".log", "a") as log:
            log.write(self.path + "\n")
        name = self.path.rsplit("/", 1)[1]
        index = json.load(open(layout + "/index.json"))
        body = blob(index["manifests"][0]["digest"] if name == "latest" else name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = 512 << 10
        if len(body) > half:
            self.wfile.write(body[:half])
            time.sleep(0.3)
            self.wfile.write(body[half:half + 1])
            while not os.path.exists(go):
                time.sleep(0.05)
            body = body[half + 1:]
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 5000), Slow)
open(ready, "w").close()
server.serve_forever()
"#;

#[test]
fn a_pull_shows_how_far_each_layer_is() {
    let host = host("");
    let (go, ready) = (host.dir.join("go"), host.dir.join("ready-to-serve"));
    let mut server = host.inside("python3");
    let layout = host.dir.join("busybox");
    let mut server = server
        .args(["-c", SLOW])
        .args([&layout, &go, &ready])
        .spawn()
        .expect("python3");
    eventually("it serves", || ready.exists());
    host.write("web.ncl", &web().replace("nginx", "busybox"));
    // A registry's texts and a layer's numbers, at a terminal.
    let mut command = host.command(&["switch", "web.ncl"]);
    command.current_dir(&host.dir);
    let mut terminal = Terminal::run(&command);
    terminal.expect("512.00 KiB of 1.05 MiB");
    terminal.expect("localhost:5000/busybox");
    fs::write(&go, "").expect("writes");
    terminal.expect("generation 1");
    assert_eq!(terminal.ended(), 0);
    // Without one, and for programs that do not ask, there are the steps alone.
    host.write(
        "other.ncl",
        &web().replace("nginx", "busybox").replace("web", "other"),
    );
    let plain = host.tank(&["apply", "other.ncl"]);
    assert_eq!(
        plain.stderr.lines().next(),
        Some("pull localhost:5000/busybox")
    );
    assert!(!plain.stderr.contains("KiB"), "{}", plain.stderr);
    plain.ok();
    server.kill().expect("it ends");
    server.wait().expect("it ends");
    host.finish();
}

/// A program that is ended with its test, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_run_asks_the_registry_when_it_is_wanted() {
    let host = host("");
    let (go, ready) = (host.dir.join("go"), host.dir.join("ready-to-serve"));
    fs::write(&go, "").expect("writes");
    let layout = layouts::copy_of_busybox(&host, "served");
    let mut server = host.inside("python3");
    let server = server
        .args(["-c", SLOW])
        .args([&layout, &go, &ready])
        .spawn();
    let server = Killed(server.expect("python3"));
    eventually("it serves", || ready.exists());
    let asked = || {
        let log = fs::read_to_string(host.dir.join("ready-to-serve.log"));
        let log = log.unwrap_or_default();
        let tags = log.lines().filter(|path| path.ends_with("/latest"));
        (tags.count(), log.lines().count())
    };
    let image = "localhost:5000/busybox:latest";
    let run = |pull: &str| host.tank(&["run", "--pull", pull, image, "--", "/bin/echo", "works"]);
    let refused = run("never");
    assert_eq!(
        (refused.status, asked()),
        (125, (0, 0)),
        "{}",
        refused.stderr
    );
    assert_eq!(run("missing").ok(), "works\n");
    let (tags, all) = asked();
    assert!(tags >= 1 && all > tags, "{tags} {all}");
    // What is kept by hand is here, and asked for by whoever wants that.
    host.tank(&["image", "pull", image]).ok();
    let (tags, all) = asked();
    for pull in ["missing", "never"] {
        assert_eq!(run(pull).ok(), "works\n");
        assert_eq!(asked(), (tags, all), "{pull}");
    }
    // What the tag stands for by now is asked for.
    layouts::push_another(&layout);
    assert_eq!(run("always").ok(), "works\n");
    assert!(asked().0 > tags);
    drop(server);
    let refused = run("always");
    assert_eq!(refused.status, 125, "nobody is there to be asked");
    assert!(words(&refused.stderr).contains(image), "{}", refused.stderr);

    host.finish();
}

#[test]
fn an_image_that_only_a_run_has_is_kept_for_as_long() {
    let mut host = host("");
    host.start_registry();
    let layers = || {
        let all = fs::read_dir(host.dir.join("state/images/layers"));
        all.map(|all| all.count()).unwrap_or_default()
    };
    let script = "echo runs; cat";
    let image = "localhost:5000/nginx:latest";
    let child = host
        .command(&[
            "run",
            "--entrypoint",
            "",
            image,
            "--",
            "/bin/sh",
            "-c",
            script,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Killed(child.expect("tank"));
    let mut line = String::new();
    let stdout = child.0.stdout.as_mut().expect("stdout");
    let read = BufReader::with_capacity(1, stdout).read_line(&mut line);
    assert_eq!((read.expect("reads"), line.as_str()), (5, "runs\n"));
    let there = layers();
    assert!(there > 0);
    host.tank(&["gc"]).ok();
    assert_eq!(layers(), there);
    drop(child.0.stdin.take());
    assert!(child.0.wait().expect("wait").success());
    eventually("it is freed", || {
        host.tank(&["gc"]).ok();
        layers() == 0
    });
    host.finish();
}

#[test]
fn a_run_has_the_passwords_of_the_host() {
    let mut host = Host::without_daemon();
    let path = host.dir.join("tank.toml");
    let text = fs::read_to_string(&path).expect("settings");
    let auth = host.dir.join("auth.json");
    let settings = format!("{text}auth_files = [\"{}\"]\n", auth.display());
    fs::write(path, settings).expect("settings");
    host.start_daemon();
    host.start_registry_for(USERS);
    let run = || {
        let image = "localhost:5000/nginx:latest";
        let command = ["--entrypoint", "", image, "--", "/bin/echo", "works"];
        host.tank(&[&["run"], &command[..]].concat())
    };
    let refused = run();
    assert_eq!(refused.status, 125);
    let why = "localhost:5000 does not let anonymous users pull `nginx`";
    assert!(words(&refused.stderr).contains(why), "{}", refused.stderr);
    // `me:se:cret`, as Podman and Docker keep it.
    let file = r#"{ "auths": { "localhost:5000": { "auth": "bWU6c2U6Y3JldA==" } } }"#;
    fs::write(&auth, file).expect("writes");
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(run().ok(), "works\n");
    // A password of another's is none of this one's.
    fs::write(&auth, file.replace(":5000", ":5001")).expect("writes");
    host.tank(&["gc"]).ok();
    let refused = run();
    assert_eq!(refused.status, 125);
    assert!(words(&refused.stderr).contains(why), "{}", refused.stderr);
    assert!(!refused.stderr.contains("cret"), "{}", refused.stderr);
    host.finish();
}
