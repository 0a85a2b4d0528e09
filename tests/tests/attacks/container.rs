//! Out of a container, by descriptors, links, working directories, programs and streams.
//!
//! The links of these tests lead through every descriptor number that a process of Tank's could
//! have open while it is on its way into the container, and from there up and down to a folder of
//! this host (CVE-2024-21626 has one such link). Which numbers are directories today is of no
//! concern: none of them may lead anywhere.

#[path = "processes.rs"]
mod processes;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tank_tests::{Ended, Host, RUN, eventually, fixtures, repo, sleeper};

/// The numbers that are tried.
const NUMBERS: std::ops::RangeInclusive<u32> = 3..=32;

/// A host with an image of links: `/xN` leads to where `/proc/self/fd/N` would be the host's `/`,
/// `/sN` and `/exe` are scripts whose interpreter is `echo` there and the program of the process
/// itself. The host has a file `marker`, and its `echo` in `bin`.
fn host_with_links() -> Host {
    let host = Host::new();
    let layer = host.dir.join("layer");
    fs::create_dir_all(&layer).expect("a folder");
    let script = |name: &str, text: String| {
        fs::write(layer.join(name), text).expect("written");
        fs::set_permissions(layer.join(name), fs::Permissions::from_mode(0o755))
            .expect("executable");
    };
    for number in NUMBERS {
        let up = format!("/proc/self/fd/{number}/../../../../../../../../../..");
        symlink(up, layer.join(format!("x{number}"))).expect("linked");
        script(
            &format!("s{number}"),
            format!("#!{} escaped\n", outside(&host, number, "bin/echo")),
        );
    }
    script("exe", "#!/proc/self/exe --version\n".to_owned());
    pack(
        &host,
        &layer,
        "all",
        r#"{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]}"#,
    );
    fs::create_dir(host.dir.join("bin")).expect("a folder");
    fs::copy("/bin/busybox", host.dir.join("bin/echo")).expect("copied");
    host.write("marker", "of the host\n");
    for dir in [host.dir.clone(), host.dir.join("bin")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("open to everybody");
    }
    host
}

/// A path of this host's own folder, through the descriptor `number`.
fn outside(host: &Host, number: u32, name: &str) -> String {
    format!("/x{number}{}/{name}", host.dir.display())
}

/// Adds a tag with this layer on top of busybox to the layout `links`.
fn pack(host: &Host, layer: &Path, tag: &str, config: &str) {
    let layout = host.dir.join("links");
    if !layout.exists() {
        let copied = Command::new("cp")
            .arg("-r")
            .arg(fixtures().join("busybox"))
            .arg(&layout)
            .status()
            .expect("cp");
        assert!(copied.success());
    }
    let mut pack = Command::new(repo().join("scripts/pack-layout.sh"));
    let packed = pack
        .arg(layer)
        .arg(&layout)
        .args([tag, config, "none"])
        .env("BASE", "latest")
        .status()
        .expect("sh");
    assert!(packed.success());
}

/// What a command in a container printed, whether or not it could be run.
fn exec(host: &Host, args: &[&str]) -> Ended {
    let mut all = vec!["exec"];
    all.extend(args);
    host.tank(&all)
}

fn sleeper_with_links() -> String {
    format!(r#"{{ pods.web.containers.app = {{ image = "oci:./links:all", {RUN} }} }}"#)
}

/// The parent of a process.
fn parent(pid: i64) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    stat.rsplit_once(") ")
        .expect("a state")
        .1
        .split_whitespace()
        .nth(1)
        .expect("a parent")
        .to_owned()
}

fn kill(pid: &str) {
    assert!(
        Command::new("kill")
            .args(["-9", pid])
            .status()
            .expect("kill")
            .success()
    );
}

/// A Python script that speaks to the daemon (`call`) or to the shim of `web` (`shim`) as a client
/// of an attacker's own would.
fn python(host: &Host, text: &str) -> Ended {
    let preamble = r#"
import json, os, socket, sys, tempfile
def call(fds, **parameters):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect("run/tank.sock")
    call = {"method": "io.tank.Executor.Exec", "parameters": {"pod": "web", "env": {}, **parameters}}
    socket.send_fds(s, [json.dumps(call).encode() + b"\0"], fds)
    reply = b""
    while not reply.endswith(b"\0"):
        reply += s.recv(65536)
    return json.loads(reply[:-1])
def shim(fds, **spec):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect("run/pods/web/shim.sock")
    memory = os.memfd_create("exec")
    os.write(memory, json.dumps({"container": "app", "env": [], "cwd": None, "terminal": None, **spec}).encode())
    socket.send_fds(s, [b'{"op":"exec"}'], [memory, *fds])
    return json.loads(socket.recv_fds(s, 65536, 8)[0])
null = os.open("/dev/null", os.O_RDWR)
"#;
    let output = Command::new("python3")
        .args(["-c", &format!("{preamble}\n{text}")])
        .current_dir(&host.dir)
        .output();
    output.expect("python3").into()
}

#[test]
fn a_working_directory_does_not_lead_out() {
    let host = host_with_links();
    // Two by images, as attackers have them, and all of them by the pod.
    let layer = host.dir.join("layer");
    let mut pods = String::new();
    for number in [6, 17] {
        let dir = outside(&host, number, &format!("made-by-image-{number}"));
        pack(
            &host,
            &layer,
            &format!("w{number}"),
            &format!(r#"{{"Env":["PATH=/bin"],"WorkingDir":"{dir}"}}"#),
        );
        pods += &format!(
            r#"pods.i{number} = {{ containers.app = {{ image = "oci:./links:w{number}", {RUN} }} }},"#
        );
    }
    for number in NUMBERS {
        let dir = outside(&host, number, &format!("made-{number}"));
        pods += &format!(
            r#"pods.p{number} = {{ containers.app = {{ image = "oci:./links:all", {RUN}, working_dir = "{dir}" }} }},"#
        );
    }
    host.write("pods.ncl", &format!("{{ {pods} }}"));
    let ended = host.tank(&["switch", "--no-rollback", "pods.ncl"]);
    assert_eq!(ended.status, 1, "{}{}", ended.stdout, ended.stderr);
    let made: Vec<_> = fs::read_dir(&host.dir)
        .expect("listed")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        !made
            .iter()
            .any(|name| name.to_string_lossy().starts_with("made")),
        "{made:?}"
    );
    let list = host.tank(&["--json", "list"]).json();
    for pod in list["pods"].as_array().expect("pods") {
        assert_ne!(pod["containers"][0]["state"], "running", "{pod}");
    }
    host.finish();
}

#[test]
fn a_missing_working_directory_is_made_as_the_pods_root_and_entered_as_its_user() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ pods.web = {{
               containers.app = {{ image = "oci:./busybox", {RUN}, working_dir = "/made/for/it", user = "web" }},
               containers.data = {{ image = "oci:./busybox", {RUN}, working_dir = "/data/app",
                                    mounts.data = {{ volume = "data", path = "/data" }} }},
               volumes.data = {{}},
             }} }}"#
    ));
    assert_eq!(
        host.exec("web/app", "pwd; id -u; stat -c '%u %g' /made /made/for/it"),
        "/made/for/it\n33\n0 0\n0 0"
    );
    assert_eq!(
        host.exec("web/data", "pwd; stat -c '%u %g' ."),
        "/data/app\n0 0"
    );
    host.finish();
}

#[test]
fn a_directory_of_exec_does_not_lead_out() {
    let host = host_with_links();
    host.switch(&sleeper_with_links());
    for number in NUMBERS {
        let dir = outside(&host, number, ".");
        let ended = exec(&host, &["web", "--cwd", &dir, "--", "cat", "marker"]);
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (125, ""),
            "{number}: {}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains("enter the working directory"),
            "{}",
            ended.stderr
        );
    }
    // Those of the container's own are entered, links or not.
    assert_eq!(
        exec(&host, &["web", "--cwd", "/bin/../etc/.", "--", "pwd"]).ok(),
        "/etc\n"
    );
    host.exec(
        "web",
        "ln -s /etc /tmp/link; mkdir /tmp/far; ln -s ../../../../tmp/link /tmp/far/link",
    );
    assert_eq!(
        exec(&host, &["web", "--cwd", "/tmp/far/link", "--", "pwd"]).ok(),
        "/etc\n"
    );
    host.finish();
}

#[test]
fn a_probe_of_a_directory_that_became_a_link_does_not_lead_out() {
    let host = host_with_links();
    let mut pods = String::new();
    for number in NUMBERS {
        let dir = outside(&host, number, ".");
        let main =
            format!("rmdir /w; ln -s {dir} /w; trap 'exit 0' TERM; while true; do sleep 1; done");
        // A probe that finds the host's file is content, and nothing happens.
        pods += &format!(
            r#"pods.p{number} = {{ restart = 'never, containers.app = {{
                 image = "oci:./links:all", working_dir = "/w", command = ["/bin/sh", "-c", "{main}"],
                 liveness = {{ exec = ["/bin/grep", "of the host", "marker"], delay = "2s", period = "1s", timeout = "10s",
                              failures = 1 }} }} }},"#
        );
    }
    host.write("pods.ncl", &format!("{{ {pods} }}"));
    let ended = host.tank(&["switch", "--no-rollback", "pods.ncl"]);
    assert!(
        matches!(ended.status, 0 | 1),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
    for number in NUMBERS {
        eventually(&format!("the probe of p{number} fails"), || {
            let events = host.tank(&["events"]).ok();
            events.lines().any(|line| {
                line.contains(&format!(" p{number}: ")) && line.contains("does not answer any more")
            })
        });
    }
    host.finish();
}

#[test]
fn a_program_does_not_come_from_outside() {
    let host = host_with_links();
    host.switch(&sleeper_with_links());
    for number in NUMBERS {
        let program = outside(&host, number, "bin/echo");
        let script = format!("/s{number}");
        for argv in [[program.as_str(), "escaped"], [script.as_str(), "escaped"]] {
            let ended = exec(&host, &["web", "--", argv[0], argv[1]]);
            assert_eq!(ended.stdout, "", "{argv:?}");
            assert!(
                matches!(ended.status, 126 | 127),
                "{argv:?}: {} {}",
                ended.status,
                ended.stderr
            );
        }
    }
    // The same as main processes.
    let mut pods = String::new();
    for number in NUMBERS {
        let program = outside(&host, number, "bin/echo");
        pods += &format!(
            r#"pods.p{number} = {{ containers.app = {{ image = "oci:./links:all", command = ["{program}", "escaped"] }},
                                   restart = 'never }},"#
        );
    }
    host.write("pods.ncl", &format!("{{ {pods} }}"));
    let ended = host.tank(&["switch", "--no-rollback", "pods.ncl"]);
    assert_eq!(ended.status, 1, "{}{}", ended.stdout, ended.stderr);
    for number in NUMBERS {
        assert_eq!(
            host.tank(&["logs", &format!("p{number}")]).stdout,
            "",
            "{number}"
        );
    }
    host.finish();
}

#[test]
fn the_program_of_tank_is_neither_run_nor_reached_from_inside() {
    let host = host_with_links();
    host.switch(&sleeper_with_links());
    for argv in [
        ["/proc/self/exe", "--version"],
        ["/proc/thread-self/exe", "--version"],
        ["/exe", "x"],
    ] {
        let ended = exec(&host, &["web", "--", argv[0], argv[1]]);
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (126, ""),
            "{argv:?}: {}",
            ended.stderr
        );
    }
    // Whoever looks at everything there is, all the time, while others come in.
    let script = "while [ ! -e /tmp/enough ]; do for p in /proc/[0-9]*; do \
                  readlink $p/exe; readlink $p/cwd; readlink $p/root; (exec 3>>$p/exe) && echo written; \
                  for fd in $p/fd/*; do readlink $fd; done; done; done 2>/dev/null > /tmp/looked; echo done";
    let watcher = host
        .command(&["exec", "web", "--", "/bin/sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn();
    let watcher = watcher.expect("tank");
    eventually("it looks", || {
        !host.exec("web", "cat /tmp/looked || true").is_empty()
    });
    for _ in 0..100 {
        exec(&host, &["web", "--", "/bin/true"]).ok();
    }
    host.exec("web", "touch /tmp/enough");
    assert_eq!(
        Ended::from(watcher.wait_with_output().expect("wait")).ok(),
        "done\n"
    );
    let looked = host.exec("web", "sort -u /tmp/looked");
    assert!(
        looked.lines().any(|line| line == "/bin/busybox"),
        "{looked}"
    );
    let strange: Vec<&str> = looked
        .lines()
        .filter(|line| line.contains("tank") || line.contains("cgroup") || line.contains("written"))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");

    host.switch(
        r#"{ pods.web = { containers.app = { image = "oci:./links:all", command = ["/bin/sh", "-c", "exec sleep 0.1"] }, restart = 'never } }"#,
    );
    host.write(
        "exe.ncl",
        r#"{ pods.web = { containers.app = { image = "oci:./links:all", command = ["/proc/self/exe", "--version"] }, restart = 'never } }"#,
    );
    assert_eq!(host.tank(&["switch", "--no-rollback", "exe.ncl"]).status, 1);
    let logs = host.tank(&["logs", "web"]).stdout;
    assert!(!logs.contains("tank-shim"), "{logs}");
    host.finish();
}

#[test]
fn a_relative_working_directory_is_refused() {
    let host = host_with_links();
    host.switch(&sleeper_with_links());
    let ended = exec(&host, &["web", "--cwd", "etc", "--", "pwd"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (125, ""));
    assert!(
        ended
            .stderr
            .contains("the working directory `etc` is not absolute"),
        "{}",
        ended.stderr
    );
    let asked = r#"
for cwd in ["etc", "", ".", "../etc"]:
    print(call([null, null, null], argv=["/bin/true"], cwd=cwd)["parameters"]["problems"][0])
    print(shim([null, null, null], argv=["/bin/true"], cwd=cwd)["why"])
"#;
    let mut expected = String::new();
    for cwd in ["etc", "", ".", "../etc"] {
        expected += &format!(
            "the working directory `{cwd}` is not absolute: name it from the container's `/`\n"
        );
        expected += &format!("`{cwd}` is not absolute: name it from `/`\n");
    }
    assert_eq!(python(&host, asked).ok(), expected);

    // An image's, before anything is disturbed; a pod may say it better.
    pack(
        &host,
        &host.dir.join("layer"),
        "relative",
        r#"{"Env":["PATH=/bin"],"WorkingDir":"proc/self/cwd"}"#,
    );
    let relative = |more: &str| {
        let pod = format!(
            r#"{{ pods.web.containers.app = {{ image = "oci:./links:relative", {RUN}{more} }} }}"#
        );
        host.write("relative.ncl", &pod);
        host.tank(&["switch", "relative.ncl"])
    };
    let before = host.pid("web", "app");
    let ended = relative("");
    assert_eq!(ended.status, 1, "{}", ended.stdout);
    assert!(
        tank_tests::words(&ended.stderr)
            .contains("its working directory `proc/self/cwd` is not absolute"),
        "{}",
        ended.stderr
    );
    assert_eq!(host.pid("web", "app"), before);
    relative(r#", working_dir = "/etc""#).ok();
    assert_eq!(host.exec("web", "pwd"), "/etc");
    host.finish();
}

#[test]
fn a_text_of_an_image_that_the_kernel_would_cut_short_is_refused_before_anything_is_disturbed() {
    let host = host_with_links();
    host.switch(&sleeper_with_links());
    let before = host.pid("web", "app");
    for (tag, config, field) in [
        ("command", r#"{"Cmd":["/bin/sh\u0000-x"]}"#, "command"),
        (
            "env",
            r#"{"Cmd":["/bin/sh"],"Env":["A=b\u0000c"]}"#,
            "environment",
        ),
        (
            "cwd",
            r#"{"Cmd":["/bin/sh"],"WorkingDir":"/etc\u0000x"}"#,
            "working directory",
        ),
    ] {
        pack(&host, &host.dir.join("layer"), tag, config);
        let pod = format!(r#"{{ pods.web.containers.app.image = "oci:./links:{tag}" }}"#);
        host.write("nul.ncl", &pod);
        let ended = host.tank(&["switch", "nul.ncl"]);
        assert_eq!(ended.status, 1, "{}", ended.stdout);
        let expected =
            format!("its {field} has a NUL byte, at which the kernel would end the text");
        let said = tank_tests::words(&ended.stderr);
        assert!(said.contains(&expected), "{said}");
        assert_eq!(host.pid("web", "app"), before);
    }
    host.finish();
}
