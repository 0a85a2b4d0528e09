//! `run`: a command in a container of its own beside those of a pod, and that nothing of it stays.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};
use tank_tests::{Host, RUN, eventually, pty::Terminal};

fn config() -> String {
    format!(
        "{{ pods.web = {{ volumes.data = {{}}, publish.http = {{ port = 8080, to = 80 }}, containers.app = {{
                image = \"oci:./busybox\", {RUN}, env = {{ LEVEL = \"debug\", WHO = \"web\" }}, mounts.data = {{ volume = \"data\", path = \"/data\" }},
                files.\"/etc/motd\" = {{ text = \"hello\" }}, stop.timeout = \"1s\", readiness = {{ exec = [\"true\"] }} }} }} }}"
    )
}

/// The containers of the pod, as they are listed.
fn containers(host: &Host) -> Vec<String> {
    let pod = host.pod("web");
    let all = pod["containers"].as_array().expect("containers").iter();
    let mut names: Vec<String> = all
        .map(|one| one["name"].as_str().expect("a name").to_owned())
        .collect();
    names.sort();
    names
}

fn nothing_is_left(host: &Host) {
    eventually("the container is gone", || containers(host) == ["app"]);
    eventually("nothing is to be done", || {
        host.tank(&["diff"]).stdout.starts_with("nothing to do")
    });
    let logs = host.dir.join("state/logs/web");
    let logs = std::fs::read_dir(logs).into_iter().flatten();
    let logs: Vec<_> = logs
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    let runs = logs
        .iter()
        .filter(|name| name.to_string_lossy().starts_with("run-"));
    assert_eq!(runs.count(), 0, "{logs:?}");
}

/// A command that runs until its input is at its end; it says that it runs.
fn waiting(host: &Host) -> Child {
    let script = "echo runs; cat; echo ended";
    let mut child = host
        .command(&["run", "web", "--", "/bin/sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tank");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("stdout");
    let read = BufReader::with_capacity(1, stdout).read_line(&mut line);
    assert_eq!((read.expect("reads"), line.as_str()), (5, "runs\n"));
    child
}

#[test]
fn a_command_has_what_its_pod_declares_and_leaves_nothing() {
    let host = Host::new();
    host.switch(&config());
    let before = host.tank(&["--json", "status"]).json()["generation"].clone();
    let pid = host.pid("web", "app");
    let run = |args: &[&str]| host.tank(&[&["run"], args].concat());

    let script =
        "echo $LEVEL $WHO $MORE; cat /etc/motd; pwd; echo kept > /data/file; echo bad >&2; exit 7";
    let ended = run(&[
        "-e", "MORE=x", "-e", "WHO=me", "-w", "/etc", "web", "--", "/bin/sh", "-c", script,
    ]);
    assert_eq!(
        (ended.status, ended.stdout.as_str(), ended.stderr.as_str()),
        (7, "debug me x\nhello/etc\n", "bad\n")
    );
    // Its volume is the pod's, its processes and its file system are its own.
    assert_eq!(host.exec("web", "cat /data/file"), "kept");
    assert_eq!(
        run(&["web", "--", "/bin/sh", "-c", "echo $$; touch /tmp/own"]).ok(),
        "1\n"
    );
    assert_eq!(
        host.exec("web", "ls /tmp/own 2>/dev/null || echo none"),
        "none"
    );
    // Its network is the pod's: what listens there is found at loopback.
    let listens = host.exec(
        "web",
        "nc -l -p 90 -e /bin/echo found >/dev/null 2>&1 & sleep 0.1; netstat -ltn",
    );
    assert!(listens.contains(":90 "), "{listens}");
    assert_eq!(run(&["web", "--", "nc", "127.0.0.1", "90"]).ok(), "found\n");
    // Bytes go through untouched.
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let mut child = host
        .command(&["run", "web", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tank");
    let (mut stdin, input) = (child.stdin.take().expect("stdin"), bytes.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("wait");
    writer.join().expect("a thread").expect("writes");
    assert!(output.status.success() && output.stdout == bytes);

    // What can't be run is said as container users expect it.
    assert_eq!(run(&["web", "--", "nope"]).status, 127);
    assert_eq!(run(&["web", "--", "/etc/passwd"]).status, 126);
    assert_eq!(run(&["wbe", "--", "true"]).status, 125);
    let refused = run(&["-u", "nobody-here", "web", "--", "true"]);
    assert_eq!(refused.status, 125);
    assert!(refused.stderr.contains("nobody-here"), "{}", refused.stderr);
    let refused = run(&["-v", "/:/host", "web", "--", "true"]);
    assert!(
        refused.stderr.contains("tank doc pods"),
        "{}",
        refused.stderr
    );

    nothing_is_left(&host);
    assert_eq!(
        host.tank(&["--json", "status"]).json()["generation"],
        before
    );
    assert_eq!(host.pid("web", "app"), pid);
    host.finish();
}

#[test]
fn a_terminal_is_a_terminal_and_ends_with_its_command() {
    let host = Host::new();
    host.switch(&config());
    let mut terminal = Terminal::run(&host.command(&["run", "-it", "web", "--", "/bin/sh"]));
    terminal.type_in("PS1='ready'\"> \"\r");
    terminal.expect("ready> ");
    terminal.type_in("tty; echo $LEVEL $TERM; stty size\r");
    terminal.expect("/dev/pts/0");
    terminal.expect("debug vt220");
    terminal.expect("24 80");
    terminal.resize(50, 132);
    terminal.type_in("sleep 0.3; stty size\r");
    terminal.expect("50 132");
    terminal.type_in("sleep 1000\r");
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.type_in("\x03");
    terminal.type_in("echo st=$?\r");
    terminal.expect("st=130");
    terminal.type_in("exit 3\r");
    assert_eq!(terminal.ended(), 3);
    nothing_is_left(&host);
    host.finish();
}

#[test]
fn whoever_goes_takes_the_run_along() {
    let mut host = Host::new();
    host.switch(&config());

    // It is listed, and in nobody's way.
    let mut child = waiting(&host);
    let list = host.tank(&["list"]).ok();
    assert!(list.contains("run by hand, root"), "{list}");
    assert_eq!(host.pod("web")["state"], "running");
    assert!(host.tank(&["diff"]).ok().starts_with("nothing to do"));
    // A switch that changes something else of the pod leaves it.
    host.switch(&config().replace("8080", "8081"));
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ended\n");
    assert!(output.status.success());
    nothing_is_left(&host);

    // The client is killed.
    let mut child = waiting(&host);
    child.kill().expect("kill");
    child.wait().expect("wait");
    nothing_is_left(&host);

    // It is asked to end, by a signal that the command obeys.
    let script = "trap 'exit 9' TERM; echo runs; while true; do sleep 0.1; done";
    let mut child = host
        .command(&["run", "web", "--", "/bin/sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tank");
    let mut line = String::new();
    let read = BufReader::new(child.stdout.as_mut().expect("stdout")).read_line(&mut line);
    read.expect("reads");
    eventually("it passes signals on", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.expect("its status");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = u64::from_str_radix(mask.expect("a mask").trim(), 16);
        mask.expect("a number") & (1 << 14) != 0
    });
    let sent = Command::new("kill").arg(child.id().to_string()).status();
    assert!(sent.expect("kill").success());
    assert_eq!(child.wait().expect("wait").code(), Some(9));
    nothing_is_left(&host);

    // The daemon is killed: the next one ends what nobody declares.
    let mut child = waiting(&host);
    // Waiting closes what is not taken.
    let input = child.stdin.take();
    host.kill_daemon();
    host.start_daemon();
    assert_ne!(child.wait().expect("wait").code(), Some(0));
    nothing_is_left(&host);

    // The pod is taken away.
    let mut child = waiting(&host);
    let input = (input, child.stdin.take());
    host.tank(&["delete", "web"]).ok();
    assert_ne!(child.wait().expect("wait").code(), Some(0));
    drop(input);
    host.switch(&config());
    nothing_is_left(&host);

    // There are no more than eight.
    let children: Vec<Child> = (0..8).map(|_| waiting(&host)).collect();
    let refused = host.tank(&["run", "web", "--", "true"]);
    assert_eq!(refused.status, 125);
    assert!(
        refused.stderr.contains("8 runs by hand"),
        "{}",
        refused.stderr
    );
    for mut child in children {
        drop(child.stdin.take());
        assert!(child.wait().expect("wait").success());
    }
    host.tank(&["run", "web", "--", "true"]).ok();
    nothing_is_left(&host);
    host.finish();
}

/// What is left of a run in a pod of its own: neither the pod nor an address, a folder or a cgroup of it.
fn no_pod_is_left(host: &Host) {
    let runs = || {
        let list = host.tank(&["--json", "list"]).json();
        let pods = list["pods"].as_array().expect("pods").clone();
        let names = pods.iter().map(|pod| pod["name"].as_str().expect("a name"));
        names.filter(|name| name.starts_with("run-")).count()
    };
    eventually("its pod is gone", || runs() == 0);
    eventually("nothing is to be done", || {
        let diff = host.tank(&["diff"]);
        diff.status != 0 || diff.stdout.starts_with("nothing to do")
    });
    for folder in ["run/pods", "state/logs", "state/pods"] {
        let all = std::fs::read_dir(host.dir.join(folder))
            .into_iter()
            .flatten();
        let left = all.filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            name.to_string_lossy().starts_with("run-")
        });
        assert_eq!(left.count(), 0, "{folder}");
    }
}

/// A command of an image that runs until its input is at its end; it says its address.
fn waiting_alone(host: &Host) -> (Child, String) {
    let script = "ip -4 addr show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p'; cat; echo ended";
    let mut child = host
        .command(&["run", "oci:./busybox", "--", "/bin/sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("tank");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("stdout");
    let read = BufReader::with_capacity(1, stdout).read_line(&mut line);
    read.expect("reads");
    assert!(
        line.trim().parse::<std::net::Ipv4Addr>().is_ok(),
        "{line:?}"
    );
    (child, line.trim().to_owned())
}

#[test]
fn an_image_runs_where_nothing_is_declared_and_leaves_nothing() {
    let mut host = Host::new();
    let run = |host: &Host, args: &[&str]| host.tank(&[&["run"], args].concat());
    let script = "echo $MORE; pwd; id -u; ls /data 2>&1; echo bad >&2; exit 7";
    let more = [
        "-e",
        "MORE=x",
        "-w",
        "/etc",
        "-u",
        "1000",
        "oci:./busybox",
        "--",
    ];
    let ended = run(&host, &[&more[..], &["/bin/sh", "-c", script]].concat());
    assert_eq!(
        (ended.status, ended.stdout.as_str(), ended.stderr.as_str()),
        (
            7,
            "x\n/etc\n1000\nls: /data: No such file or directory\n",
            "bad\n"
        )
    );
    no_pod_is_left(&host);

    // What can't be run is said as container users expect it.
    assert_eq!(run(&host, &["oci:./busybox", "nope"]).status, 127);
    let bare = run(&host, &["busybox", "true"]);
    assert_eq!(bare.status, 125);
    assert!(
        bare.stderr.contains("no pod is called so") && bare.stderr.contains("`busybox:latest`"),
        "{}",
        bare.stderr
    );
    let missing = run(
        &host,
        &["--pull", "never", "nobody.invalid/nothing:1", "true"],
    );
    assert_eq!(missing.status, 125);
    assert!(
        missing.stderr.contains("nobody.invalid/nothing:1"),
        "{}",
        missing.stderr
    );
    let user = run(&host, &["-u", "nobody-here", "oci:./busybox", "true"]);
    assert_eq!(user.status, 125);
    assert!(user.stderr.contains("nobody-here"), "{}", user.stderr);
    no_pod_is_left(&host);

    // The daemon is killed: the next one ends it, where nothing was ever declared as well.
    let (mut child, _) = waiting_alone(&host);
    let input = child.stdin.take();
    host.kill_daemon();
    host.start_daemon();
    assert_ne!(child.wait().expect("wait").code(), Some(0));
    drop(input);
    no_pod_is_left(&host);
    let generations = host.tank(&["--json", "generations", "list"]).json();
    assert_eq!(generations["generations"], serde_json::json!([]));
    host.finish();
}

#[test]
fn an_image_runs_beside_what_is_declared_and_in_nobodys_way() {
    let host = Host::new();
    host.switch(&config());
    let pid = host.pid("web", "app");
    let (mut child, own) = waiting_alone(&host);
    let list = host.tank(&["list"]).ok();
    assert!(list.contains("run by hand, root"), "{list}");
    assert!(list.contains(&own), "{list}");
    let status = host.tank(&["--json", "status"]).json();
    assert_eq!(status["failing"], serde_json::Value::Null);
    assert!(host.tank(&["diff"]).ok().starts_with("nothing to do"));
    // What is declared, gone back to, collected and taken away meanwhile is not it.
    host.switch(&config().replace("8080", "8081"));
    host.tank(&["generations", "rollback"]).ok();
    host.tank(&["generations", "delete", "1"]);
    host.tank(&["gc"]).ok();
    assert!(host.tank(&["diff"]).ok().starts_with("nothing to do"));
    assert_eq!(host.pid("web", "app"), pid);
    host.tank(&["delete", "web"]).ok();
    let (mut other, another) = waiting_alone(&host);
    assert_ne!(own, another);
    for child in [&mut child, &mut other] {
        drop(child.stdin.take());
        let mut rest = String::new();
        let stdout = child.stdout.as_mut().expect("stdout");
        std::io::Read::read_to_string(stdout, &mut rest).expect("reads");
        assert_eq!(
            (rest.as_str(), child.wait().expect("wait").code()),
            ("ended\n", Some(0))
        );
    }
    no_pod_is_left(&host);

    // The client is killed.
    let (mut child, _) = waiting_alone(&host);
    child.kill().expect("kill");
    child.wait().expect("wait");
    no_pod_is_left(&host);

    // It knows the names of pods, and reaches those that let it.
    let shut = config().replace("volumes.data = {}", "allow_from = [], volumes.data = {}");
    for (config, reaches) in [(config(), true), (shut, false)] {
        host.switch(&config);
        host.exec(
            "web",
            "nc -l -p 91 -e /bin/echo found >/dev/null 2>&1 & sleep 0.1",
        );
        let asks = "nslookup web >/dev/null && echo known; nc -w 2 web 91 </dev/null";
        let ended = host.tank(&["run", "oci:./busybox", "--", "/bin/sh", "-c", asks]);
        let found = if reaches { "known\nfound\n" } else { "known\n" };
        assert_eq!((ended.stdout.as_str(), ended.status == 0), (found, reaches));
        no_pod_is_left(&host);
    }

    // A terminal is one.
    let mut terminal = Terminal::run(&host.command(&["run", "oci:./busybox", "--", "/bin/sh"]));
    terminal.type_in("tty; exit 3\r");
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.ended(), 3);
    no_pod_is_left(&host);
    host.finish();
}

/// A command that is ended with its test, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The name of the only run there is.
fn name_of_run(host: &Host) -> String {
    let list = host.tank(&["--json", "list"]).json();
    let pods = list["pods"].as_array().expect("pods").clone();
    let containers = pods.iter().flat_map(|pod| {
        let containers = pod["containers"].as_array().expect("containers");
        containers
            .iter()
            .map(|one| one["name"].as_str().expect("a name").to_owned())
    });
    let runs: Vec<String> = containers.filter(|name| name.starts_with("run-")).collect();
    let [run] = runs.as_slice() else {
        panic!("{runs:?}")
    };
    run.clone()
}

#[test]
fn a_run_is_known_by_its_name_while_it_lasts() {
    let host = Host::new();
    let script = "trap 'exit 3' TERM USR1; hostname -i; while true; do sleep 0.1; done";
    let child = host
        .command(&["run", "oci:./busybox", "--", "/bin/sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Killed(child.expect("tank"));
    let mut own = String::new();
    let read = BufReader::new(child.0.stdout.as_mut().expect("stdout")).read_line(&mut own);
    read.expect("reads");
    let own = own.split_whitespace().next().expect("an address");
    let run = name_of_run(&host);
    let run = run.as_str();
    // Where nothing is declared as well.
    assert_eq!(
        host.tank(&["exec", run, "--", "/bin/echo", "in"]).ok(),
        "in\n"
    );
    assert_eq!(
        host.tank(&["exec", "-u", "web", run, "--", "id", "-u"])
            .ok(),
        "33\n"
    );
    host.write("here", "from here");
    host.tank(&["cp", "here", &format!("{run}:/tmp/there")])
        .ok();
    assert_eq!(
        host.tank(&["exec", run, "--", "cat", "/tmp/there"]).ok(),
        "from here"
    );
    assert_eq!(
        host.tank(&["cp", &format!("{run}:/tmp/there"), "back"])
            .status,
        0
    );
    let explained = host.tank(&["explain", run]).ok();
    assert!(
        explained.starts_with(&format!("{run}: running\n")),
        "{explained}"
    );
    assert!(
        explained.contains("root runs it by hand: a command of oci:./busybox")
            && explained.contains(&format!("tank stop {run}")),
        "{explained}"
    );
    let used = host.tank(&["--json", "stats", "--no-stream", run]).json();
    assert_eq!(used["pods"][0]["pod"], run);
    assert!(used["pods"][0]["usage"].is_object(), "{used}");
    // At its own address alone: that is what a port is forwarded to.
    let script = format!("httpd -p {own}:90 -h /tmp");
    host.tank(&["exec", run, "--", "/bin/sh", "-c", &script])
        .ok();
    let forward = host
        .command(&["--json", "port-forward", run, ":90"])
        .stdout(Stdio::piped())
        .spawn();
    let mut forward = Killed(forward.expect("tank"));
    let mut line = String::new();
    let read = BufReader::new(forward.0.stdout.as_mut().expect("stdout")).read_line(&mut line);
    read.expect("reads");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let address = line["addresses"][0].as_str().expect("an address");
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    stream
        .write_all(b"GET /there HTTP/1.0\r\n\r\n")
        .expect("writes");
    let mut page = String::new();
    std::io::Read::read_to_string(&mut stream, &mut page).expect("reads");
    assert!(page.ends_with("from here"), "{page}");
    drop(forward);
    // What it is not is said.
    for (args, why) in [
        (
            vec!["logs", run],
            "goes to whoever runs it, and into no log",
        ),
        (vec!["get", run], "declared in no generation"),
        (vec!["attach", run], "declared in no generation"),
        (vec!["run", run, "--", "true"], "declared in no generation"),
        (vec!["restart", run], "it runs until its command ends, once"),
        (vec!["start", run], "it runs until its command ends, once"),
        (
            vec!["stop", "--timeout", "1s", run],
            "it ends in the time that it was started with",
        ),
    ] {
        let refused = host.tank(&args);
        assert_ne!(refused.status, 0, "{args:?}");
        let text = tank_tests::words(&refused.stderr);
        assert!(text.contains(why), "{args:?}: {text}");
    }
    // It is stopped as a container is, and whoever runs it gets to know it.
    let stopped = host.tank(&["stop", run]).ok();
    assert!(
        stopped.starts_with(&format!("ended {run}/{run}:")),
        "{stopped}"
    );
    assert!(!stopped.contains("tank start"), "{stopped}");
    assert_eq!(child.0.wait().expect("wait").code(), Some(3));
    no_pod_is_left(&host);
    for args in [
        vec!["exec", run, "--", "true"],
        vec!["logs", run],
        vec!["explain", run],
        vec!["stats", "--no-stream", run],
        vec!["cp", "here", &format!("{run}:/tmp/there")],
        vec!["port-forward", run, ":90"],
    ] {
        let refused = host.tank(&args);
        assert_ne!(refused.status, 0, "{args:?}");
        let text = tank_tests::words(&refused.stderr);
        assert!(
            text.contains("its run by hand has ended"),
            "{args:?}: {text}"
        );
    }
    let events = host.tank(&["events", run]).ok();
    assert!(events.contains("its run by hand has ended"), "{events}");
    assert!(!events.contains("declared"), "{events}");

    // Beside the containers of a pod it is one of that.
    host.switch(&config());
    let mut child = waiting(&host);
    let run = name_of_run(&host);
    let whole = format!("web/{run}");
    assert_eq!(
        host.tank(&["exec", &whole, "--", "/bin/sh", "-c", "echo $LEVEL"])
            .ok(),
        "debug\n"
    );
    let explained = host.tank(&["explain", &whole]).ok();
    assert!(explained.contains("root runs it by hand"), "{explained}");
    // Without its pod the error has its whole name.
    for args in [
        vec!["exec", &run, "--", "true"],
        vec!["explain", &run],
        vec!["stats", "--no-stream", &run],
        vec!["stop", &run],
    ] {
        let refused = host.tank(&args);
        assert_ne!(refused.status, 0, "{args:?}");
        let text = tank_tests::words(&refused.stderr);
        let why = format!("it is called `{whole}`");
        assert!(text.contains(&why), "{args:?}: {text}");
    }
    let stopped = host.tank(&["stop", &whole]).ok();
    assert!(stopped.starts_with(&format!("ended {whole}:")), "{stopped}");
    assert_ne!(child.wait().expect("wait").code(), Some(0));
    nothing_is_left(&host);
    assert_eq!(host.pod("web")["state"], "running");
    let events = host.tank(&["events", "web"]).ok();
    assert!(
        events.contains(&format!("stop {whole}: its run by hand has ended")),
        "{events}"
    );
    host.finish();
}
