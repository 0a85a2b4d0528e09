//! What containers print, and reading it: bounds, runs, several logs, those that are gone, and who must not have
//! more of the daemon than others by asking.

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use tank_tests::{Host, eventually, pty::Terminal};

/// A container that runs a script and then stays, until it is asked to end.
fn container(script: &str, more: &str) -> String {
    format!(
        r#"{{ image = "oci:./busybox", {more} command = ["/bin/sh", "-c", m%"{script}; trap 'exit 0' TERM USR1; while true; do sleep 0.1; done"%] }}"#
    )
}

fn pod(name: &str, script: &str, more: &str) -> String {
    format!("pods.{name}.containers.app = {},", container(script, more))
}

/// The files of a container's log, the newest first, each with its bytes.
fn files(host: &Host, pod: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = host.dir.join("state/logs").join(pod);
    let names = (0..20).map(|number| match number {
        0 => folder.join("app.log"),
        number => folder.join(format!("app.log.{number}")),
    });
    names
        .filter_map(|path| Some((path.clone(), fs::read(path).ok()?)))
        .collect()
}

/// What `tank logs` prints, without the times that `-t` puts before it.
fn untimed(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let (before, time) = line.split_once("| ").unwrap_or(("", line));
        let (time, text) = time.split_once(' ').expect("a time");
        assert!(time.len() == 30 && time.ends_with('Z'), "{line}");
        format!("{before}{text}")
    };
    text.lines().map(line).collect()
}

/// What hands type that come from Docker and Compose; several logs in the order of time, across a restart of the daemon, and of a
/// pod that is gone (`gc.rs` holds until when).
#[test]
fn logs_of_all_kinds() {
    let mut host = Host::new();
    let config = |run: u32| {
        format!(
            "{{ {} {} pods.pair = {{ containers = {{ a = {}, b = {} }}, init.first = {{ image = \"oci:./busybox\", command = [\"/bin/echo\", \"before all\"] }} }} }}",
            pod(
                "web",
                &format!("echo one >&2; sleep 0.3; echo two; echo run {run}"),
                ""
            ),
            pod("gone", "echo remembered", ""),
            container("sleep 0.2; echo from a", ""),
            container("echo from b", ""),
        )
    };
    host.switch(&config(1));
    let tank = |host: &Host, args: &[&str]| host.tank(args).ok();
    eventually("all is printed", || {
        tank(&host, &["logs", "--all"]).lines().count() == 7
    });
    assert_eq!(tank(&host, &["logs", "web"]), "one\ntwo\nrun 1\n");
    assert_eq!(tank(&host, &["logs", "--tail", "1", "web"]), "run 1\n");
    assert_eq!(tank(&host, &["logs", "-n", "2", "web"]), "two\nrun 1\n");
    assert_eq!(
        tank(&host, &["logs", "--tail", "all", "web"]),
        "one\ntwo\nrun 1\n"
    );
    assert_eq!(
        tank(&host, &["logs", "--since", "10m", "web/app"])
            .lines()
            .count(),
        3
    );
    assert_eq!(tank(&host, &["logs", "--until", "10m", "web"]), "");
    assert_eq!(tank(&host, &["logs", "--since", "2999-01-01", "web"]), "");
    assert_eq!(
        tank(&host, &["logs", "--grep", "^t.o$|1", "web"]),
        "two\nrun 1\n"
    );
    assert_eq!(
        tank(&host, &["logs", "-g", "n", "-n", "1", "web"]),
        "run 1\n"
    );
    assert_eq!(
        untimed(&tank(&host, &["logs", "-t", "web"])),
        ["one", "two", "run 1"]
    );
    // Several have their names before their lines, and are in the order of time.
    assert_eq!(
        tank(&host, &["logs", "pair"]),
        "pair/first | before all\npair/b     | from b\npair/a     | from a\n"
    );
    assert_eq!(
        tank(&host, &["logs", "pair/a", "gone", "-n1"])
            .lines()
            .count(),
        2
    );
    let times = tank(&host, &["logs", "-t", "--all"]);
    let times: Vec<&str> = times
        .lines()
        .map(|line| line.split("| ").nth(1).expect("a time"))
        .collect();
    assert!(times.is_sorted_by_key(|line| &line[..30]), "{times:?}");
    let first = host.tank(&["--json", "logs", "web", "-g", "one"]).json();
    let time = first["time"].as_str().expect("a time").to_owned();
    assert_eq!(
        first,
        json!({ "pod": "web", "container": "app", "time": time, "stream": "stderr", "line": "one" })
    );

    // Nothing is known of a run before, until there is one.
    let none = host.tank(&["logs", "--previous", "web"]);
    assert_eq!((none.status, none.stdout.as_str()), (1, ""));
    assert!(
        none.stderr
            .contains("nothing is known of a run before the last"),
        "{}",
        none.stderr
    );
    host.switch(&config(2));
    eventually("it runs again", || {
        tank(&host, &["logs", "-n", "1", "web"]) == "run 2\n"
    });
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(
        tank(&host, &["logs", "--previous", "web"]),
        "one\ntwo\nrun 1\n"
    );
    assert_eq!(tank(&host, &["logs", "-p", "-n", "1", "web"]), "run 1\n");
    assert_eq!(tank(&host, &["logs", "web"]).lines().count(), 6);

    // Of a pod that is gone, by its name.
    host.tank(&["delete", "gone"]).ok();
    assert_eq!(tank(&host, &["logs", "gone"]), "remembered\n");
    assert_eq!(tank(&host, &["logs", "gone/app"]), "remembered\n");
    assert!(!tank(&host, &["logs", "--all"]).contains("remembered"));
    let unknown = host.tank(&["logs", "gone/other"]);
    assert!(
        unknown.stderr.contains("no container `other`"),
        "{}",
        unknown.stderr
    );
    for wrong in ["never", "../web", "web/../../web", ".", "web/"] {
        assert_eq!(host.tank(&["logs", wrong]).status, 1, "{wrong}");
    }
    assert_eq!(host.tank(&["logs"]).status, 2);
    host.finish();
}

/// A follower goes on over restarts; names are coloured on a terminal alone, and what containers print is not obeyed there.
#[test]
fn several_logs_are_followed() {
    let host = Host::new();
    let config = |run: u32| {
        format!(
            "{{ {} {} }}",
            pod("web", &format!("echo run {run}"), ""),
            pod("evil", r"printf '\033]0;owned\007\033[2Jtext\n'", ""),
        )
    };
    host.switch(&config(1));
    eventually("both are there", || {
        host.tank(&["logs", "--all"]).ok().lines().count() == 2
    });
    let mut follow = host
        .command(&["logs", "-f", "--tail", "100", "web", "evil"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tank");
    let mut lines = BufReader::new(follow.stdout.take().expect("stdout")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    let mut first = [next(), next()];
    first.sort();
    assert_eq!(
        first,
        [
            "evil/app | \u{1b}]0;owned\u{7}\u{1b}[2Jtext",
            "web/app  | run 1"
        ]
    );
    host.switch(&config(2));
    assert_eq!(next(), "web/app  | run 2");
    follow.kill().expect("kill");
    follow.wait().expect("wait");

    let shown = |no_color: &str| {
        let tank = host.command(&["logs", "web", "evil", "-n", "1"]);
        let mut command = Command::new("env");
        command
            .arg(format!("NO_COLOR={no_color}"))
            .arg(tank.get_program());
        command.args(tank.get_args()).current_dir(&host.dir);
        let mut terminal = Terminal::run(&command);
        assert_eq!(terminal.ended(), 0);
        terminal.expect("text");
        terminal.expect("run 2");
        std::mem::take(&mut terminal.shown)
    };
    let coloured = shown("");
    assert!(
        coloured.contains("\x1b[36mevil/app | \x1b[0m\\u{1b}]0;owned\\u{7}\\u{1b}[2Jtext"),
        "{coloured:?}"
    );
    assert!(
        coloured.contains("\x1b[33mweb/app  | \x1b[0mrun 2"),
        "{coloured:?}"
    );
    let plain = shown("1");
    assert!(
        !plain.contains('\x1b') && plain.contains("web/app  | run 2"),
        "{plain:?}"
    );
    host.finish();
}

/// What a container declares of its log holds on the disk, and what is not in it is said.
#[test]
fn a_log_has_its_bounds() {
    let host = Host::new();
    let once = |script: &str, logs: &str| {
        format!(
            r#"{{ containers.app = {{ image = "oci:./busybox", logs = {{ {logs} }}, command = ["/bin/sh", "-c", "{script}"] }}, restart = 'never }}"#
        )
    };
    host.switch(&format!(
        "{{ pods.many = {}, pods.fast = {} }}",
        once("seq 20000", r#"max_size = "64KiB", max_files = 3"#),
        once(
            "yes | head -n 100000; echo last",
            r#"max_size = "16MiB", rate = "128KiB""#
        ),
    ));
    let ended = |pod: &str| host.pod(pod)["containers"][0]["state"] == "completed";
    eventually("both have printed", || ended("many") && ended("fast"));

    let files_of_many = files(&host, "many");
    assert_eq!(files_of_many.len(), 3);
    for (number, (path, bytes)) in files_of_many.iter().enumerate() {
        assert!(bytes.len() <= 64 << 10, "{}", path.display());
        assert!(number == 0 || bytes.len() > 63 << 10, "{}", path.display());
        assert!(
            bytes.ends_with(b"\n") && bytes.starts_with(b"20"),
            "whole lines"
        );
    }
    let kept: Vec<u32> = host
        .tank(&["logs", "many"])
        .ok()
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert!(kept.len() > 2_000, "{}", kept.len());
    assert_eq!(
        kept,
        (20_001 - kept.len() as u32..=20_000).collect::<Vec<_>>()
    );

    // Every line is there, or counted where it is not; the last words are there.
    let log = host.tank(&["logs", "fast"]).ok();
    assert_eq!(log.lines().last(), Some("last"));
    let printed = log.lines().filter(|line| *line == "y").count();
    let dropped: usize = log
        .lines()
        .filter_map(|line| {
            line.strip_prefix("tank: dropped ")?
                .split(' ')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .sum();
    assert!(dropped > 1_000, "{dropped}");
    assert_eq!(printed + dropped, 100_000);
    let notice = host
        .tank(&["--json", "logs", "fast", "-g", "^tank: dropped", "-n", "1"])
        .json();
    assert_eq!(
        (&notice["notice"], &notice["stream"]),
        (&json!(true), &json!("stderr"))
    );
    let text = notice["line"].as_str().expect("a text");
    assert!(
        text.contains(" lines, ") && text.contains(" bytes, printed from 20"),
        "{text}"
    );
    assert!(
        text.ends_with(": more than 131072 bytes a second (logs.rate)"),
        "{text}"
    );

    // Bounds that can't be are refused where they are written.
    host.write(
        "bad.ncl",
        "{ pods.web.containers.app = { image = \"x\", logs.max_size = \"1KiB\" } }\n",
    );
    let refused = host.tank(&["check", "bad.ncl"]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("tank::logs::bounds"),
        "{}",
        refused.stderr
    );
    host.finish();
}

/// A shim that is killed while it writes leaves whole lines, to whoever reads them then and later.
#[test]
fn a_killed_shim_leaves_whole_lines() {
    let host = Host::new();
    let line = "0123456789".repeat(8);
    host.switch(&format!(
        "{{ {} }}",
        pod("loud", &format!("yes {line} & sleep 0"), "")
    ));
    let shim = |pid: i64| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("runs");
        let rest = stat.rsplit(')').next().expect("fields").to_owned();
        rest.split_whitespace().nth(1).expect("a parent").to_owned()
    };
    for _ in 0..3 {
        let pid = host.pid("loud", "app");
        eventually("it prints", || !files(&host, "loud").is_empty());
        std::thread::sleep(Duration::from_millis(200));
        let killed = Command::new("kill").args(["-9", &shim(pid)]).status();
        assert!(killed.expect("kill").success());
        let log = host.tank(&["logs", "loud", "-n", "1000"]).ok();
        assert!(
            log.lines().all(|found| found == line),
            "half a line is shown"
        );
        eventually("it runs again", || {
            let now = host.pod("loud")["containers"][0]["pid"].as_i64();
            now.is_some_and(|now| now != 0 && now != pid)
        });
    }
    host.switch("{}");
    let log = host.tank(&["logs", "loud"]).ok();
    let mut lines = log
        .lines()
        .filter(|found| !found.starts_with("tank: dropped "));
    // The last one may be what its printer had not ended when it was.
    let last = lines.next_back().expect("some");
    assert!(line.starts_with(last), "{last}");
    assert!(lines.all(|found| found == line), "half a line is shown");
    for (path, bytes) in files(&host, "loud") {
        let text = String::from_utf8(bytes).expect("text");
        let mut lines = text.lines();
        let is_whole = |line: &str| {
            line.starts_with("20") && line.get(30..36) == Some(" stdou")
                || line.contains("F:notice")
        };
        assert!(lines.all(is_whole), "{}", path.display());
    }
    host.finish();
}

/// Who asks for much gets an answer, and no more of the daemon than others.
#[test]
fn an_asker_is_bounded() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", pod("web", "echo one", "")));
    eventually("it has printed", || {
        !host.tank(&["logs", "web"]).ok().is_empty()
    });
    let call = |parameters: Value| -> UnixStream {
        let mut stream = UnixStream::connect(host.socket()).expect("connects");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("sets");
        let call =
            json!({ "method": "io.tank.Executor.Logs", "more": true, "parameters": parameters });
        stream
            .write_all(format!("{call}\0").as_bytes())
            .expect("sends");
        stream
    };
    let reply = |stream: &mut UnixStream| -> Value {
        let mut bytes = Vec::new();
        let mut byte = [0];
        // What is behind the 0 is another reply's.
        loop {
            stream.read_exact(&mut byte).expect("an answer");
            match byte[0] {
                0 => break,
                byte => bytes.push(byte),
            }
        }
        serde_json::from_slice(&bytes).expect("json")
    };
    for wrong in [
        json!({ "targets": ["web"], "grep": "(" }),
        json!({ "targets": ["web"], "grep": "a".repeat(2_000) }),
        json!({ "targets": ["web"], "grep": r"(\pL{900}){900}" }),
        json!({ "targets": vec!["web"; 2_000] }),
    ] {
        let answer = reply(&mut call(wrong.clone()));
        assert_eq!(
            answer["error"], "io.tank.Executor.Invalid",
            "{wrong}: {answer}"
        );
    }
    // Named twice it is one.
    let answer = reply(&mut call(
        json!({ "targets": ["web", "web/app", "web"], "since": u64::MAX, "tail": u64::MAX }),
    ));
    assert_eq!(
        answer["parameters"]["logs"],
        json!([{ "pod": "web", "container": "app" }])
    );
    // Followers that do not read, and those that leave, give back what they have.
    for _ in 0..3 {
        let followers: Vec<UnixStream> = (0..50)
            .map(|_| call(json!({ "targets": [], "follow": true })))
            .collect();
        drop(followers);
    }
    assert_eq!(host.tank(&["logs", "web"]).ok(), "one\n");
    host.finish();
}

/// A line in journald has the fields that it is looked for by, and is in the log as well.
#[test]
fn lines_go_to_journald() {
    let mut host = Host::without_daemon();
    let mounted = host
        .inside("mount")
        .args(["-t", "tmpfs", "run", "/run"])
        .status();
    assert!(mounted.expect("mount").success());
    let shown = host
        .inside("sh")
        .args([
            "-c",
            "mkdir -p /run/systemd/journal && echo $$ && exec sleep 60",
        ])
        .stdout(Stdio::piped())
        .spawn();
    let mut holder = shown.expect("sh");
    let mut pid = String::new();
    BufReader::new(holder.stdout.take().expect("stdout"))
        .read_line(&mut pid)
        .expect("a pid");
    let path = format!("/proc/{}/root/run/systemd/journal/socket", pid.trim());
    let journald = UnixDatagram::bind(path).expect("binds");
    journald
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("sets");
    host.start_daemon();
    host.switch(&format!(
        "{{ {} }}",
        pod("web", "echo wrong >&2", "logs.journald = true,")
    ));
    let mut buffer = [0; 4096];
    let length = journald.recv(&mut buffer).expect("a line");
    let sent = String::from_utf8_lossy(&buffer[..length]).into_owned();
    for expected in [
        "MESSAGE\n\u{5}\0\0\0\0\0\0\0wrong\n",
        "CONTAINER_NAME\n\u{7}\0\0\0\0\0\0\0web/app\n",
        "PRIORITY\n\u{1}\0\0\0\0\0\0\u{0}3\n",
    ] {
        assert!(sent.contains(expected), "{sent:?}");
    }
    assert_eq!(host.tank(&["logs", "web"]).ok(), "wrong\n");
    host.finish();
    holder.kill().expect("kill");
    holder.wait().expect("wait");
}
