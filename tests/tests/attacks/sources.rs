//! Through volumes, secrets and devices that come from the host, and settings that are the host's.

#[path = "set_id.rs"]
mod set_id;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tank_tests::{Ended, Host, RUN};

/// Waits as long as a start may take on a loaded machine, with an attempt that has to be given up
/// before it.
#[track_caller]
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A pod whose one container sees a directory of the host.
fn with_volume(pod: &str, of_host: &Path, path: &str) -> String {
    format!(
        r#"pods.{pod} = {{
            containers.app = {{ image = "oci:./busybox", {RUN}, mounts.m = {{ volume = "v", path = "{path}" }} }},
            volumes.v.host = "{}",
        }},"#,
        of_host.display()
    )
}

/// A pod with a secret of the host.
fn with_secret(pod: &str, file: &Path) -> String {
    format!(
        r#"pods.{pod}.containers.app = {{
            image = "oci:./busybox", {RUN}, secrets.s = {{ file = "{}", path = "/secret" }},
        }},"#,
        file.display()
    )
}

fn file(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
    fs::write(path, text).expect("write");
}

/// Ends a container's main process; its successor opens everything anew.
fn restart(host: &Host, pod: &str) {
    let killed = Command::new("kill")
        .args(["-9", &host.pid(pod, "app").to_string()])
        .status()
        .expect("kill");
    assert!(killed.success());
}

/// What a command in a container prints; none where it does not run.
fn try_exec(host: &Host, pod: &str, script: &str) -> Option<String> {
    let ended = host.tank(&["exec", pod, "--", "/bin/sh", "-c", script]);
    (ended.status == 0).then(|| ended.stdout.trim_end().to_owned())
}

fn failed_with(host: &Host, words: &str) -> bool {
    host.tank(&["events"]).stdout.contains(words)
}

#[track_caller]
fn refused(host: &Host, config: &str, words: &[&str]) {
    host.write("bad.ncl", &format!("{{ {config} }}"));
    let Ended { status, stderr, .. } = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(status, 1, "{stderr}");
    let said = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in words {
        assert!(
            said.contains(&words.replace("DIR", &host.dir.display().to_string())),
            "{words}: {stderr}"
        );
    }
}

#[test]
fn a_link_at_the_place_of_a_nested_volume_does_not_lead_to_the_hosts_files() {
    let host = Host::new();
    let outer = host.dir.join("srv/a");
    file(&outer.join("b/mine"), "mine");
    file(&host.dir.join("hosts"), "the host's");
    let nested = with_volume("inner", &outer.join("b"), "/b");
    let before = format!("{{ {} {nested} }}", with_volume("outer", &outer, "/a"));
    host.switch(&before);
    assert_eq!(host.exec("inner", "cat /b/mine"), "mine");
    // The outer container puts a link to the whole host there; the inner one starts again.
    host.exec("outer", "mv /a/b /a/kept && ln -s / /a/b");
    restart(&host, "inner");
    let link = format!(
        "`{}` is a link inside of `{}`, which containers may write",
        outer.join("b").display(),
        outer.display()
    );
    let stolen = format!("cat /b/{}/hosts", host.dir.display());
    eventually("the link is refused or followed", || {
        failed_with(&host, &link) || try_exec(&host, "inner", &stolen).is_some()
    });
    assert_eq!(
        try_exec(&host, "inner", &stolen),
        None,
        "the host's files are in the container"
    );
    assert!(failed_with(&host, &link));
    // A switch says so before anything is disturbed, also one that knows nothing of the container
    // that made the link.
    let generations = host.tank(&["--json", "generations", "list"]).json();
    refused(
        &host,
        &nested,
        &[
            "can't use the volume `v` of pod `inner`",
            "`DIR/srv/a/b` is a link inside of `DIR/srv/a`",
        ],
    );
    assert_eq!(
        host.tank(&["--json", "generations", "list"]).json(),
        generations
    );
    // Nor is it followed when that container is no more.
    host.switch("{}");
    refused(
        &host,
        &nested,
        &["`DIR/srv/a/b` is a link inside of `DIR/srv/a`, which containers may write"],
    );
    // And the directory it was is taken again.
    fs::remove_file(outer.join("b")).expect("unlink");
    fs::rename(outer.join("kept"), outer.join("b")).expect("rename");
    host.switch(&before);
    assert_eq!(host.exec("inner", "cat /b/mine"), "mine");
    host.finish();
}

#[test]
fn a_link_at_the_place_of_a_secret_does_not_read_the_hosts_files() {
    let host = Host::new();
    let dir = host.dir.join("srv");
    file(&dir.join("keys/key"), "mine");
    file(&host.dir.join("hosts"), "the host's");
    host.switch(&format!(
        "{{ {} {} }}",
        with_volume("outer", &dir, "/a"),
        with_secret("inner", &dir.join("keys/key"))
    ));
    assert_eq!(host.exec("inner", "cat /secret"), "mine");
    // Once the file itself, once a directory on the way to it.
    let hosts = host.dir.join("hosts").display().to_string();
    let elsewhere = host.dir.join("elsewhere");
    file(&elsewhere.join("key"), "the host's");
    for (link, script) in [
        (
            "keys/key",
            format!("rm /a/keys/key && ln -s {hosts} /a/keys/key"),
        ),
        (
            "keys",
            format!(
                "mv /a/keys /a/kept && ln -s {} /a/keys",
                elsewhere.display()
            ),
        ),
    ] {
        host.exec("outer", &script);
        restart(&host, "inner");
        let refused = format!(
            "`{}` is a link inside of `{}",
            dir.join(link).display(),
            dir.display()
        );
        let stolen =
            || try_exec(&host, "inner", "cat /secret").is_some_and(|text| text == "the host's");
        eventually("the link is refused or followed", || {
            failed_with(&host, &refused) || stolen()
        });
        assert!(!stolen(), "{script}");
        host.exec(
            "outer",
            "rm -f /a/keys/key; [ ! -d /a/kept ] || { rm -f /a/keys; mv /a/kept /a/keys; }",
        );
        // Whole at once: a container that starts meanwhile would keep what is there.
        host.exec(
            "outer",
            "echo -n new > /a/keys/.new; mv /a/keys/.new /a/keys/key",
        );
        eventually("it starts again", || {
            try_exec(&host, "inner", "cat /secret").as_deref() == Some("new")
        });
    }
    host.finish();
}

#[test]
fn a_pipe_at_the_place_of_a_secret_holds_nobody_up() {
    let host = Host::new();
    let dir = host.dir.join("srv");
    file(&dir.join("key"), "mine");
    host.switch(&format!(
        "{{ {} {} pods.other.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}",
        with_volume("outer", &dir, "/a"),
        with_secret("inner", &dir.join("key"))
    ));
    host.exec("outer", "rm /a/key && mkfifo /a/key");
    restart(&host, "inner");
    let pipe = format!(
        "`{}` is a pipe, and no regular file",
        dir.join("key").display()
    );
    eventually("the pipe is refused", || failed_with(&host, &pipe));
    // Everything else goes on.
    restart(&host, "other");
    eventually("another pod starts again", || {
        try_exec(&host, "other", "true").is_some()
    });
    refused(
        &host,
        &with_secret("inner", &dir.join("key")),
        &["`DIR/srv/key` is a pipe, and no regular file"],
    );
    host.exec("outer", "rm /a/key && echo -n new > /a/key");
    eventually("it starts again", || {
        try_exec(&host, "inner", "cat /secret").as_deref() == Some("new")
    });
    // What is no file that somebody keeps is no secret.
    for (path, what) in [
        (
            "/proc/meminfo",
            "`/proc/meminfo` is an interface of the kernel",
        ),
        ("/sys/kernel/notes", "is an interface of the kernel"),
        ("/dev/zero", "`/dev/zero` is a device, and no regular file"),
        ("/etc", "`/etc` is a directory, and no regular file"),
    ] {
        refused(&host, &with_secret("inner", Path::new(path)), &[what]);
    }
    host.finish();
}

#[test]
fn links_of_the_hosts_root_are_followed_and_no_others() {
    let host = Host::new();
    let at = |name: &str| host.dir.join(name);
    file(&at("real/data/file"), "real");
    file(&at("keys/archive/key1"), "one");
    fs::create_dir_all(at("keys/live")).expect("mkdir");
    symlink("../archive/key1", at("keys/live/key")).expect("symlink");
    symlink(at("real"), at("link")).expect("symlink");
    let config = format!(
        "{} {}",
        with_volume("a", &at("link/data"), "/a"),
        with_secret("b", &at("keys/live/key"))
    );
    host.switch(&format!("{{ {config} }}"));
    assert_eq!(host.exec("a", "cat /a/file"), "real");
    assert_eq!(host.exec("b", "cat /secret"), "one");
    // What the container may write is known by its own name, whichever it was declared by.
    host.exec("a", "mkdir /a/d && ln -s / /a/l");
    let inside = "is a link inside of `DIR/real/data`, which containers may write";
    refused(
        &host,
        &with_volume("c", &at("real/data/l/etc"), "/c"),
        &["`DIR/real/data/l`", inside],
    );
    // A link that somebody else could have put there.
    let others = "is a link that others than root may have put there";
    let owner = |path: &Path, uid: &str| {
        let done = Command::new("chown")
            .arg("-h")
            .arg(uid)
            .arg(path)
            .status()
            .expect("chown");
        assert!(done.success());
    };
    owner(&at("link"), "1000");
    refused(
        &host,
        &with_volume("c", &at("link/data"), "/c"),
        &["`DIR/link`", others],
    );
    owner(&at("link"), "0");
    owner(&at("keys/live"), "1000");
    refused(
        &host,
        &with_secret("c", &at("keys/live/key")),
        &["`DIR/keys/live/key`", others],
    );
    owner(&at("keys/live"), "0");
    fs::set_permissions(at("keys"), fs::Permissions::from_mode(0o777)).expect("chmod");
    refused(
        &host,
        &with_secret("c", &at("keys/live/key")),
        &["`DIR/keys/live/key`", others],
    );
    fs::set_permissions(at("keys"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    host.switch(&format!("{{ {config} }}"));
    host.finish();
}

/// Mounts a FUSE file system whose server never answers, and holds it until its standard input
/// ends.
const UNANSWERED: &str = r#"
import ctypes, os, sys
fd = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"none", sys.argv[1].encode(), b"fuse", 6, options):
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
sys.stdin.read()
libc.umount2(sys.argv[1].encode(), 2)
"#;

#[test]
fn a_file_system_that_does_not_answer_holds_nobody_up() {
    use std::io::{BufRead, BufReader};
    let host = Host::without_daemon();
    let dead = host.dir.join("dead");
    fs::create_dir_all(&dead).expect("mkdir");
    let mut mount = host.inside("python3");
    mount
        .args(["-c", UNANSWERED])
        .arg(&dead)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut server = mount.spawn().expect("python3");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("a pipe"))
        .read_line(&mut line)
        .expect("read");
    assert_eq!(line, "mounted\n");
    let host = host.started_with(&[]);
    let alive = format!("pods.alive.containers.app = {{ image = \"oci:./busybox\", {RUN} }},");
    host.switch(&format!("{{ {alive} }}"));
    let volume = with_volume("stuck", &dead.join("a"), "/a");
    refused(
        &host,
        &volume,
        &["the file system of `DIR/dead/a` does not answer (10 s)"],
    );
    // It is not asked again, and nothing else waits for it.
    refused(
        &host,
        &volume,
        &["the file system of `DIR/dead/a` has not answered an earlier attempt yet"],
    );
    assert_eq!(host.exec("alive", "echo fine"), "fine");
    host.switch(&format!(
        "{{ {alive} pods.more.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}"
    ));
    // When it is gone, so is the memory of it.
    drop(server.stdin.take());
    server.wait().expect("wait");
    eventually("it is asked again", || {
        host.write("bad.ncl", &format!("{{ {volume} }}"));
        let said = host.tank(&["switch", "bad.ncl"]).stderr;
        !said.contains("has not answered")
    });
    host.finish();
}

#[test]
fn volumes_of_tanks_own_are_not_an_ordinary_users_to_enter() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ pods.web = {{
            containers.app = {{ image = "oci:./busybox", {RUN}, mounts.m = {{ volume = "v", path = "/v" }} }},
            volumes.v = {{}},
        }} }}"#
    ));
    host.exec(
        "web",
        "cp /bin/busybox /v/sh && chmod 4755 /v/sh && test -u /v/sh",
    );
    let state = host.dir.join("state");
    assert_eq!(
        fs::metadata(&state).expect("stat").permissions().mode() & 0o7777,
        0o700
    );
    let program = state.join("volumes/web/v/sh");
    assert!(program.exists());
    let mut user = Command::new("setpriv");
    // Through a shell: setpriv itself still has root's capabilities when it executes a program.
    user.args([
        "--reuid=1000",
        "--regid=1000",
        "--clear-groups",
        "/bin/sh",
        "-c",
        "exec \"$0\" -c true",
    ])
    .arg(&program);
    let ended: Ended = user.output().expect("setpriv").into();
    assert_eq!(ended.status, 126, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("Permission denied"),
        "{}",
        ended.stderr
    );
    host.finish();
}

#[test]
fn a_pod_with_the_hosts_network_does_not_set_the_hosts_sysctls() {
    let host = Host::new();
    let read = || {
        let output = host
            .inside("cat")
            .arg("/proc/sys/net/core/somaxconn")
            .output()
            .expect("cat");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let before = read();
    assert_ne!(before, "4321");
    let pod = format!(
        r#"pods.web = {{
            containers.app = {{ image = "oci:./busybox", {RUN} }},
            network = 'host, sysctls."net.core.somaxconn" = "4321",
        }},"#
    );
    refused(
        &host,
        &pod,
        &[
            "tank::sysctl::host_network",
            "`net.core.somaxconn` would be set for the whole host",
        ],
    );
    // Nor by a client that checks nothing.
    let config = r#"{"pods":{"web":{"containers":{"app":{"image":"oci:./busybox"}},"network":"host","sysctls":{"net.core.somaxconn":"4321"}}}}"#;
    let parameters = serde_json::json!({ "config": config, "source": "x" });
    let call = serde_json::json!({ "method": "io.tank.Executor.Switch", "parameters": parameters, "more": true });
    let said = ask(&host, &call);
    assert!(
        said.contains("io.tank.Executor.Invalid") && said.contains("net.core.somaxconn"),
        "{said}"
    );
    assert_eq!(read(), before);
    host.finish();
}

/// Sends one Varlink call, and gives the first reply.
fn ask(host: &Host, call: &serde_json::Value) -> String {
    use std::io::{BufRead, BufReader, Write};
    let mut socket = std::os::unix::net::UnixStream::connect(host.socket()).expect("connect");
    let mut text = serde_json::to_vec(call).expect("JSON");
    text.push(0);
    socket.write_all(&text).expect("write");
    let mut reply = Vec::new();
    BufReader::new(socket)
        .read_until(0, &mut reply)
        .expect("read");
    String::from_utf8_lossy(&reply)
        .trim_end_matches('\0')
        .to_owned()
}
