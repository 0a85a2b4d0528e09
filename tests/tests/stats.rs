//! What has happened outlives the daemon, what pods use is what the kernel counts, metrics are served to whom they are for, and
//! hooks are run as nobody and end.

use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{FileExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tank_plan::figures::{FINE, Sample};
use tank_tests::{Ended, Host, RUN, eventually, fixtures, pty::Terminal, repo, sleeper};

/// A host whose `tank.toml` says more.
fn host_with(more: impl FnOnce(&Path) -> String) -> Host {
    let mut host = Host::without_daemon();
    let path = host.dir.join("tank.toml");
    let text = fs::read_to_string(&path).expect("settings");
    fs::write(&path, format!("{text}{}", more(&host.dir))).expect("settings");
    host.start_daemon();
    host
}

fn events(host: &Host, args: &[&str]) -> Vec<Value> {
    let printed = host.tank(&[&["--json", "events"], args].concat()).ok();
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn events_outlive_the_daemon_and_are_found_again() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("web"), sleeper("db")));
    host.exec("web", "kill -USR1 1");
    let of_web = ["web", "--kind", "exited"];
    eventually("it is said", || !events(&host, &of_web).is_empty());
    let before = events(&host, &[]);
    host.kill_daemon();
    // The end of the last line is missing, as after a power cut.
    let path = host.dir.join("state/events.jsonl");
    let found = fs::metadata(&path).expect("a file");
    assert_eq!((found.mode() & 0o777, found.uid()), (0o600, 0));
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .expect("a file");
    file.write_all(b"{\"time\":1,\"kind\":\"fai")
        .expect("written");
    host.start_daemon();
    let after = events(&host, &[]);
    for event in &before {
        assert!(after.contains(event), "{event} is lost: {after:#?}");
    }
    let notes = events(&host, &["--kind", "note"]);
    let message = notes[0]["message"].as_str().expect("a text");
    assert!(
        message.starts_with("1 events of before can't be read"),
        "{message}"
    );
    // Each event says what it is of.
    let exited = &events(&host, &of_web)[0];
    assert_eq!(
        (&exited["pod"], &exited["container"]),
        (&"web".into(), &"app".into())
    );
    let committed = &events(&host, &["--kind", "committed,switched"]);
    assert_eq!(committed[0]["generation"], 1);
    assert_eq!(committed[0]["uid"], 0);
    assert_eq!(committed[1]["kind"], "switched");
    // And is found by it.
    assert_eq!(events(&host, &["-n", "1"]).len(), 1);
    assert_eq!(events(&host, &["--until", "1h"]), [] as [Value; 0]);
    assert!(events(&host, &["--since", "1h", "db"]).len() > 1);
    let all_db = events(&host, &["db"]);
    assert!(all_db.iter().all(|event| event["pod"] == "db"));
    for (wrong, why) in [
        (
            &["events", "--kind", "exitted"][..],
            "did you mean `exited`?",
        ),
        (&["events", "wbe"], "web"),
        (
            &["events", "--since", "yesterday"],
            "write for example `10m`",
        ),
    ] {
        let refused = host.tank(wrong);
        assert_ne!(refused.status, 0, "{wrong:?}");
        assert!(
            refused.stderr.contains(why),
            "{wrong:?}: {}",
            refused.stderr
        );
    }
    // One that is followed ends when it is said to.
    let followed = host
        .tank(&["events", "-f", "--until", "0s", "-n", "0"])
        .ok();
    assert_eq!(followed, "");
    host.finish();
}

#[test]
fn what_pods_use_is_what_the_kernel_counts() {
    let host = Host::new();
    let busy = r#"command = ["/bin/sh", "-c", "trap 'exit 0' TERM; while true; do :; done"]"#;
    host.switch(&format!(
        "{{ pods.busy.containers.app = {{ image = \"oci:./busybox\", {busy}, stop.timeout = \"1s\",
              limits = {{ memory = \"64MiB\", pids = 20 }} }},
            pods.two.containers = {{ one = {{ image = \"oci:./busybox\", {RUN} }},
              other = {{ image = \"oci:./busybox\", {RUN} }} }},
            pods.host = {{ network = 'host, containers.app = {{ image = \"oci:./busybox\", {RUN} }} }} }}"
    ));
    // Something goes over its link.
    host.exec(
        "busy",
        "i=0; while [ $i -lt 40 ]; do nslookup web 2> /dev/null; i=$((i + 1)); done; true",
    );
    let stats = host.tank(&["--json", "stats"]).json();
    let pods = stats["pods"].as_array().expect("pods");
    let names: Vec<&str> = pods.iter().filter_map(|pod| pod["pod"].as_str()).collect();
    assert_eq!(names, ["busy", "host", "two"]);
    let (busy, of_host, two) = (&pods[0], &pods[1], &pods[2]);
    let app = &busy["containers"][0]["usage"];
    assert_eq!(
        (&app["memory_limit"], &app["pids_limit"]),
        (&(64 << 20).into(), &20.into()),
        "{busy}"
    );
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{stats}"));
    assert!(number(&app["cpu_percent"]) > 1.0, "{busy}");
    assert!(number(&app["memory"]) >= number(&app["inactive"]), "{busy}");
    assert!(number(&app["pids"]) >= 1.0);
    assert!(number(&busy["traffic"]["received"]) > 2_000.0, "{busy}");
    assert!(number(&busy["traffic"]["sent"]) > 2_000.0, "{busy}");
    assert_eq!(of_host["traffic"], Value::Null);
    assert_eq!(two["containers"].as_array().expect("two").len(), 2);
    // Where the kernel knows who waits for memory, it is said.
    let group = PathBuf::from("/sys/fs/cgroup/unified").join(&host.cgroup);
    if group.join("busy/app/memory.pressure").exists() {
        assert!(app["memory_pressure"].is_u64(), "{busy}");
    }
    let table = host.tank(&["stats", "two"]).ok();
    let first: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split("  ").next())
        .collect();
    assert_eq!(first, ["POD", "two", "", ""], "{table}");
    assert!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    let refused = host.tank(&["stats", "tow"]);
    assert!(
        refused.status != 0 && refused.stderr.contains("two"),
        "{}",
        refused.stderr
    );
    host.finish();
}

/// The points of a pod of this command's answer.
fn points(host: &Host, pod: &str) -> Vec<Value> {
    let history = host.tank(&["--json", "stats", pod, "--since", "1h"]).json();
    assert_eq!(history["step"], 30_000, "{history}");
    history["pods"][0]["points"]
        .as_array()
        .expect("points")
        .clone()
}

#[test]
fn what_pods_have_used_outlives_the_daemon() {
    let mut host = Host::new();
    let loops = r#"command = ["/bin/sh", "-c", "trap 'exit 0' TERM; while true; do :; done"]"#;
    host.switch(&format!(
        "{{ pods.busy.containers.app = {{ image = \"oci:./busybox\", {loops}, stop.timeout = \"1s\" }},
            pods.two.containers = {{ one = {{ image = \"oci:./busybox\", {RUN} }},
              other = {{ image = \"oci:./busybox\", {RUN} }} }} }}"
    ));
    // Of what is now there is a point before anything is written.
    assert_eq!(points(&host, "busy").len(), 1);
    let folder = host.dir.join("state/usage");
    let kept = |pod: &str| -> Vec<String> {
        let entries = fs::read_dir(folder.join(pod))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .filter_map(|one| one.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    };
    host.end_daemon();
    assert_eq!(kept("busy"), ["_pod"]);
    assert_eq!(kept("two"), ["_pod", "one", "other"]);
    let found = fs::metadata(folder.join("busy/_pod")).expect("a file");
    assert_eq!(
        (found.mode() & 0o777, found.uid(), found.len()),
        (0o600, 0, 144_448)
    );
    host.start_daemon();
    let written = points(&host, "busy");
    assert!(!written.is_empty(), "{written:#?}");
    host.end_daemon();
    // As it was two minutes ago: a point is of what was used since the one before it.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let ago = Sample {
        time: now.as_millis() as u64 - 120_000,
        cpu: Some(1),
        memory: Some(7 << 20),
        ..Sample::default()
    };
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.join("busy/_pod"))
        .expect("a file");
    file.write_all_at(&ago.encode(), FINE.offset(ago.time))
        .expect("written");
    host.start_daemon();
    let all = points(&host, "busy");
    let number = |at: usize, field: &str| {
        all[at][field]
            .as_u64()
            .unwrap_or_else(|| panic!("{all:#?}"))
    };
    assert_eq!(
        (number(0, "time"), number(0, "memory")),
        (ago.time, 7 << 20),
        "{all:#?}"
    );
    assert_eq!(
        (&all[0]["span"], &all[0]["cpu"]),
        (&Value::Null, &Value::Null),
        "{all:#?}"
    );
    assert!(all.len() > 1, "{all:#?}");
    // Of a time that is longer than three steps nothing is said.
    assert_eq!(
        (&all[1]["span"], &all[1]["cpu"]),
        (&Value::Null, &Value::Null),
        "{all:#?}"
    );
    let near = Sample {
        time: number(1, "time") - 60_000,
        ..ago
    };
    file.write_all_at(&near.encode(), FINE.offset(near.time))
        .expect("written");
    let all = points(&host, "busy");
    let number = |at: usize, field: &str| {
        all[at][field]
            .as_u64()
            .unwrap_or_else(|| panic!("{all:#?}"))
    };
    let at = all
        .iter()
        .position(|one| one["time"] == near.time)
        .expect("it is there")
        + 1;
    assert!(
        number(at, "span") >= 60_000 && number(at, "span") < 90_000,
        "{all:#?}"
    );
    assert!(
        number(at, "cpu") > 1_000 && number(at, "memory") > 0 && number(at, "pids") >= 1,
        "{all:#?}"
    );
    let table = host.tank(&["stats", "--since", "1h"]).ok();
    let first: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split("  ").next())
        .collect();
    assert_eq!(first, ["POD", "busy", "two", "", ""], "{table}");
    // Garbage, half a file and none of Tank's: what runs and what is shown go on.
    host.end_daemon();
    fs::write(folder.join("busy/_pod"), vec![0x5a; 10_000]).expect("written");
    fs::remove_file(folder.join("two/_pod")).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("two/_pod")).expect("a link");
    host.start_daemon();
    assert_eq!(points(&host, "busy").len(), 1);
    assert_eq!(points(&host, "two").len(), 1);
    host.end_daemon();
    host.start_daemon();
    let notes = events(&host, &["--kind", "note"]);
    let is_said = |note: &Value| {
        let message = note["message"].as_str().unwrap_or_default();
        message.starts_with("figures over time are not kept: ")
            && message.contains("usage/two/_pod")
    };
    assert!(notes.iter().any(is_said), "{notes:#?}");
    for (wrong, why) in [
        (
            &["stats", "--since", "yesterday"][..],
            "write for example `10m`",
        ),
        (
            &["stats", "--since", "2099-01-01T00:00:00Z"],
            "`since` is still to come",
        ),
        (&["stats", "tow", "--since", "1h"], "did you mean `two`?"),
    ] {
        let refused = host.tank(wrong);
        assert_ne!(refused.status, 0, "{wrong:?}");
        assert!(
            refused.stderr.contains(why),
            "{wrong:?}: {}",
            refused.stderr
        );
    }
    host.finish();
}

#[test]
fn bytes_of_disks_are_counted_by_either_version() {
    let host = Host::new();
    let volume = "mounts.data = { volume = \"data\", path = \"/data\" }";
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, {volume} }}, volumes.data = {{}} }} }}"
    ));
    let written = || {
        let stats = host.tank(&["--json", "stats", "web"]).json();
        let of = |usage: &Value| {
            usage["written"]
                .as_u64()
                .unwrap_or_else(|| panic!("{stats}"))
        };
        let pod = &stats["pods"][0];
        (of(&pod["usage"]), of(&pod["containers"][0]["usage"]))
    };
    let before = written();
    // Past the kernel's cache, so that it is the container's own.
    host.exec(
        "web",
        "dd if=/dev/zero of=/data/file bs=65536 count=64 oflag=direct conv=fsync 2> /dev/null",
    );
    let after = written();
    let least = 64 << 16;
    assert!(
        after.0 - before.0 >= least && after.1 - before.1 >= least,
        "{before:?} {after:?}"
    );
    host.finish();
}

/// What an endpoint answers to bytes.
fn answer(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).expect("a socket");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a limit");
    // One that has read enough closes its side before all is written.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn get(socket: &Path, path: &str) -> String {
    answer(
        socket,
        format!("GET {path} HTTP/1.1\r\nHost: tank\r\n\r\n").as_bytes(),
    )
}

/// Prometheus' own check, which has to find nothing.
fn promtool(args: &[&str], input: &str) {
    let mut child = Command::new(fixtures().join("promtool"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which `scripts/fixtures.sh` fetches");
    let mut pipe = child.stdin.take().expect("piped");
    pipe.write_all(input.as_bytes()).expect("written");
    drop(pipe);
    let ended: Ended = child.wait_with_output().expect("promtool").into();
    assert_eq!(
        (ended.status, ended.stderr.as_str()),
        (0, ""),
        "{}\n{input}",
        ended.stdout
    );
}

/// `promtool check metrics` reads the older text format, in which a counter's name ends with `_total` also where it is described, and
/// there are no units.
fn as_prometheus_text(open_metrics: &str) -> String {
    let counter = |line: &str| {
        line.strip_prefix("# TYPE ")?
            .strip_suffix(" counter")
            .map(str::to_owned)
    };
    let counters: Vec<String> = open_metrics.lines().filter_map(counter).collect();
    assert!(counters.len() >= 5, "{open_metrics}");
    let lines = open_metrics.lines().filter_map(|line| {
        let mut words = line.splitn(4, ' ');
        match (words.next()?, words.next(), words.next()) {
            ("#", Some("EOF" | "UNIT"), _) => None,
            ("#", Some(what), Some(name)) if counters.iter().any(|one| one == name) => {
                Some(format!("# {what} {name}_total {}\n", words.next()?))
            }
            _ => Some(format!("{line}\n")),
        }
    });
    lines.collect()
}

#[test]
fn promtool_finds_nothing_wrong_with_the_alerts_and_the_dashboard() {
    let read = |file: &str| fs::read_to_string(repo().join("packaging").join(file)).expect(file);
    promtool(
        &["check", "rules", "/dev/stdin"],
        &read("prometheus/tank.rules.yml"),
    );
    let dashboard: Value = serde_json::from_str(&read("grafana/tank.json")).expect("JSON");
    fn expressions(of: &Value, found: &mut Vec<String>) {
        let inside: Vec<&Value> = match of {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        };
        found.extend(of.get("expr").and_then(Value::as_str).map(str::to_owned));
        inside.into_iter().for_each(|one| expressions(one, found));
    }
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 15, "{found:?}");
    // Each is a rule, with what Grafana puts in the place of its variables.
    let rules: Vec<Value> = found
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let text = text
                .replace("$__rate_interval", "5m")
                .replace("$instance", ".*")
                .replace("$pod", ".*");
            assert!(!text.contains('$'), "{text}");
            serde_json::json!({ "record": format!("dashboard:{at}"), "expr": text })
        })
        .collect();
    let group = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    promtool(&["check", "rules", "/dev/stdin"], &group.to_string());
}

#[test]
fn metrics_are_served_at_a_socket_within_bounds() {
    let host = host_with(|dir| format!("metrics = \"{}/run/metrics.sock\"\n", dir.display()));
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let socket = host.dir.join("run/metrics.sock");
    eventually("it is served", || socket.exists());
    // As the daemon's own socket: nobody else gets in.
    let mode = |path: &Path| fs::metadata(path).expect("a socket").mode() & 0o777;
    assert_eq!(mode(&socket), mode(&host.socket()));
    let metrics = get(&socket, "/metrics");
    for expected in [
        "HTTP/1.1 200 OK\r\n",
        "content-type: application/openmetrics-text",
        "tank_pod_state{pod=\"web\",stack=\"\",state=\"running\"} 1.0\n",
        "tank_generation 1.0\n",
        "tank_generation_outcome{outcome=\"good\"} 1.0\n",
        "tank_events_total{kind=\"switched\"} 1.0\n",
        "tank_container_running{pod=\"web\",stack=\"\",container=\"app\"} 1.0\n",
        "tank_container_cpu_seconds_total{pod=\"web\"",
        "tank_pod_network_received_bytes_total{pod=\"web\"",
        "# EOF\n",
    ] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }
    let (_, text) = metrics.split_once("\r\n\r\n").expect("a body");
    promtool(&["check", "metrics"], &as_prometheus_text(text));
    assert!(get(&socket, "/healthz").ends_with("\r\n\r\nok\n"));
    assert!(get(&socket, "/").starts_with("HTTP/1.1 404 "));
    let post = b"POST /metrics HTTP/1.1\r\nHost: tank\r\nContent-Length: 5\r\n\r\nhello";
    assert!(answer(&socket, post).starts_with("HTTP/1.1 405 "));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let refused = answer(&socket, long.as_bytes());
    assert!(
        refused.is_empty() || refused.starts_with("HTTP/1.1 4"),
        "{refused}"
    );
    assert!(!answer(&socket, b"\0\xff\r\n\r\n").contains("200 OK"));
    // Those that say nothing keep nobody out for ever.
    let silent: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(&socket).expect("a socket"))
        .collect();
    assert!(get(&socket, "/healthz").ends_with("ok\n"));
    drop(silent);
    assert_eq!(host.tank(&["status"]).status, 0);
    host.finish();
}

#[test]
fn metrics_at_loopback_are_not_for_a_page_that_is_called_otherwise() {
    let host = host_with(|_| "metrics = \"127.0.0.1:9464\"\n".to_owned());
    let url = "http://127.0.0.1:9464/metrics";
    eventually("it is served", || host.get(url).status == 0);
    assert!(host.get(url).ok().contains("tank_build_info{version="));
    assert_eq!(host.get("http://localhost:9464/healthz").ok(), "ok\n");
    let mut curl = host.inside("curl");
    let named = curl
        .args(["--silent", "--header", "Host: attacker.example", url])
        .output()
        .expect("curl");
    let named = String::from_utf8_lossy(&named.stdout).into_owned();
    assert!(!named.contains("tank_"), "{named}");
    host.finish();
}

/// A folder that everybody may write to, and that is reached by everybody.
fn open_folder(host: &Path) -> PathBuf {
    fs::set_permissions(host, fs::Permissions::from_mode(0o755)).expect("its mode");
    let folder = host.join("marks");
    fs::create_dir_all(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("its mode");
    folder
}

#[test]
fn a_hook_is_run_as_nobody_and_ends() {
    let host = host_with(|dir| {
        let marks = open_folder(dir);
        let marks = marks.display();
        let hook = |kinds: &str, script: &str, more: &str| {
            format!(
                "[[on_event]]\nkinds = [{kinds}]\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\n{more}\n"
            )
        };
        [
            hook(
                "\"switched\"",
                &format!(
                    "cat > {marks}/event.new; id > {marks}/id; grep -E 'NoNewPrivs|CapEff|Groups' /proc/self/status > {marks}/status; \
                     env > {marks}/env; ls /proc/self/fd > {marks}/fds; mv {marks}/event.new {marks}/event"
                ),
                "",
            ),
            // What it has started ends with it, and what it prints is said.
            hook(
                "\"committed\"",
                &format!(
                    "setsid sleep 7654 & echo $! > {marks}/left; printf 'no\\033[2J way' >&2; exit 3"
                ),
                "",
            ),
            hook(
                "\"committed\"",
                &format!("echo $$ > {marks}/late; exec sleep 7655"),
                "limit = \"300ms\"",
            ),
            hook("\"committed\"", "true", "user = \"no-such-user\""),
        ]
        .concat()
    });
    let marks = host.dir.join("marks");
    host.switch(&format!("{{ {} }}", sleeper("web")));
    eventually("it was run", || marks.join("event").exists());
    let read = |name: &str| fs::read_to_string(marks.join(name)).expect("a mark");
    let event: Value = serde_json::from_str(&read("event")).expect("JSON");
    assert_eq!(
        (&event["kind"], &event["generation"], &event["uid"]),
        (&"switched".into(), &1.into(), &0.into())
    );
    assert!(
        read("id").starts_with("uid=65534(nobody) "),
        "{}",
        read("id")
    );
    let status: Vec<String> = read("status")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        status,
        ["Groups:", "CapEff: 0000000000000000", "NoNewPrivs: 1"]
    );
    // `ls` has the folder open that it reads.
    assert_eq!(read("fds"), "0\n1\n2\n3\n");
    let env = read("env");
    assert!(env.contains("TANK_EVENT_KIND=switched\n"), "{env}");
    assert!(env.contains("TANK_EVENT_GENERATION=1\n"), "{env}");
    let said = || -> Vec<String> {
        let hooks = events(&host, &["--kind", "hook"]);
        let mut said: Vec<String> = hooks
            .iter()
            .map(|event| event["message"].as_str().expect("a text").to_owned())
            .collect();
        said.sort();
        said
    };
    eventually("three have failed", || said().len() == 3);
    let failed = "/bin/sh failed for an event of the kind committed:";
    assert_eq!(
        said(),
        [
            format!(
                "on_event 2: {failed} it ended with status 3, and printed last: no\u{1b}[2J way"
            ),
            format!("on_event 3: {failed} it was killed: it took more than 0.3 s"),
            "on_event 4: true".to_owned(),
        ]
        .map(|line| match line.strip_prefix("on_event 4: ") {
            Some(_) => format!("on_event 4: {failed} there is no user `no-such-user`"),
            None => line,
        })
    );
    // What an escape says is shown on a terminal and not obeyed: see `output`. Nothing of them runs on.
    for mark in ["left", "late"] {
        let pid = read(mark);
        let pid = pid.trim();
        eventually("it has ended", || {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !line.contains("sleep")
        });
    }
    host.finish();
}

/// Fails where a hook has failed that should not.
fn panic_with(hooks: &[Value]) -> bool {
    let of_first = |event: &&Value| event["message"].to_string().contains("on_event 1:");
    assert_eq!(hooks.iter().find(of_first), None);
    false
}

/// One that runs when the daemon is ended ends with it: nobody would wait for it.
#[test]
fn a_hook_ends_with_the_daemon() {
    let mut host = host_with(|dir| {
        let marks = open_folder(dir);
        let marks = marks.display();
        let script = format!(
            "test -e {marks}/pid && exit; echo $$ > {marks}/new; mv {marks}/new {marks}/pid; exec sleep 7656"
        );
        format!(
            "[[on_event]]\nkinds = [\"switched\"]\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\nlimit = \"5m\"\n"
        )
    });
    let pid = host.dir.join("marks/pid");
    host.switch(&format!("{{ {} }}", sleeper("web")));
    eventually("it runs", || pid.exists());
    let pid = fs::read_to_string(pid).expect("a number");
    let line = format!("/proc/{}/cmdline", pid.trim());
    let runs = || fs::read_to_string(&line).is_ok_and(|line| line.contains("7656"));
    eventually("it sleeps", runs);
    let daemon = i32::try_from(host.daemon_pid()).expect("a pid");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(daemon).expect("a pid"),
        rustix::process::Signal::TERM,
    )
    .expect("signals");
    host.reap_daemon();
    assert!(!runs());
    host.start_daemon();
    host.finish();
}

#[test]
fn a_webhook_is_sent_what_happened_and_nobody_else_is() {
    let script = "
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        open(sys.argv[1] + '/posted' + self.path.replace('/', '-'), 'ab').write(body + b'\\n')
        if self.path == '/moved':
            self.send_response(307)
            self.send_header('location', 'http://127.0.0.1:8099/elsewhere')
        else:
            self.send_response(204)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.HTTPServer(('127.0.0.1', 8099), Handler).serve_forever()
";
    let host = host_with(|_| {
        let hook = |path: &str| {
            format!(
                "[[on_event]]\nkinds = [\"switched\"]\nwebhook = \"http://127.0.0.1:8099/{path}\"\n"
            )
        };
        [hook("hook"), hook("moved")].concat()
    });
    let mut server = host.inside("python3");
    let mut server = server
        .args(["-c", script])
        .arg(&host.dir)
        .spawn()
        .expect("python3");
    let is_up = || {
        host.inside("curl")
            .args(["-s", "http://127.0.0.1:8099/"])
            .output()
    };
    eventually("it listens", || is_up().expect("curl").status.success());
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let posted = host.dir.join("posted-hook");
    let posted = || fs::read_to_string(&posted).ok();
    // The server ends what it writes with a line break.
    let whole = || posted().filter(|text| text.ends_with('\n'));
    eventually("it was called", || {
        whole().is_some() || panic_with(&events(&host, &["--kind", "hook"]))
    });
    let text = whole().expect("a body");
    let event: Value = serde_json::from_str(text.trim()).expect("JSON");
    assert_eq!(
        (&event["kind"], &event["generation"]),
        (&"switched".into(), &1.into())
    );
    eventually("the other one has failed", || {
        events(&host, &["--kind", "hook"]).len() == 1
    });
    let said = events(&host, &["--kind", "hook"])[0]["message"].to_string();
    assert!(
        said.contains("307 Temporary Redirect, and no redirect is followed"),
        "{said}"
    );
    assert!(!said.contains("/moved"), "{said}");
    assert!(!host.dir.join("posted-elsewhere").exists());
    server.kill().expect("kill");
    server.wait().expect("wait");
    host.finish();
}

#[test]
fn a_mistake_in_the_settings_is_at_its_line() {
    let host = Host::without_daemon();
    let path = host.dir.join("tank.toml");
    let text = fs::read_to_string(&path).expect("settings");
    let line = text.lines().count() + 1;
    fs::write(&path, format!("{text}metrics = \"0.0.0.0:9464\"\n")).expect("settings");
    let refused = host.daemon_command().output().expect("tankd");
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(
        stderr.contains(&format!("line {line}")) && stderr.contains("beyond_loopback = true"),
        "{stderr}"
    );
}

/// What a terminal shows is drawn over what it has shown, and ends with Ctrl-C.
#[test]
fn a_terminal_is_shown_it_again_and_again() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let mut terminal = Terminal::run(&host.command(&["stats"]));
    for shown in ["PIDS", "web", "\u{1b}[J", "\u{1b}[H", "web", "\u{1b}[J"] {
        terminal.expect(shown);
    }
    terminal.type_in("\u{3}");
    assert_eq!(terminal.ended(), 0);
    host.finish();
}
