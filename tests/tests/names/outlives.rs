//! The name server while the daemon dies, is replaced, or has the server replaced.

use super::{SERVER, addresses, name_server, name_servers, of_pod, python};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tank_tests::{Host, bin, eventually, sleeper};

/// How many queries are asked beside a restart.
const QUERIES: &str = "100000";

/// A pod that asks for another one all the time.
struct Load {
    child: Child,
}

impl Load {
    /// Returns when the first of them were answered.
    fn start(host: &Host, pod: &str, name: &str, count: &str) -> Self {
        let ready = host.dir.join("load-runs");
        let _ = fs::remove_file(&ready);
        let ready_name = ready.display().to_string();
        let mut command = python(host, pod, &["load", SERVER, name, count, &ready_name]);
        let child = command.stdout(Stdio::piped()).spawn().expect("python3");
        eventually("the load runs", || ready.exists());
        Self { child }
    }

    /// Whether it is still at it.
    fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// How many had no answer.
    fn lost(self) -> u64 {
        let output = self.child.wait_with_output().expect("wait");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!("load: {text}");
        let read: Value = serde_json::from_str(&text).expect("JSON");
        read["lost"].as_u64().expect("a number")
    }
}

#[test]
fn no_query_is_lost_while_the_daemon_is_killed_and_started() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("db"), sleeper("web")));
    let (server, db) = (name_server(&host), of_pod(&host, "db").0);
    let mut load = Load::start(&host, "web", "db", QUERIES);
    let mut kills = 0;
    while load.runs() && kills < 3 {
        host.kill_daemon();
        // From the host: which process a pod is, the daemon would have to say.
        assert_eq!(
            addresses(&host, "", "db"),
            std::slice::from_ref(&db),
            "without a daemon"
        );
        host.start_daemon();
        kills += 1;
    }
    assert!(kills > 0, "the load was over before the daemon was killed");
    assert_eq!(load.lost(), 0);
    assert_eq!(name_server(&host), server, "it was not taken over");
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    // The next daemon has its say as the first one had.
    host.switch(&format!(
        "{{ {} {} {} }}",
        sleeper("db"),
        sleeper("web"),
        sleeper("new")
    ));
    assert_eq!(addresses(&host, "web", "new"), [of_pod(&host, "new").0]);
    assert_eq!(name_server(&host), server);
    host.finish();
}

#[test]
fn another_program_takes_over_and_no_query_is_lost() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("db"), sleeper("web")));
    let old = name_server(&host);
    let newer = host.dir.join("tank-names-newer");
    fs::copy(bin("tank-names"), &newer).expect("copied");
    let load = Load::start(&host, "web", "db", "40000");
    host.kill_daemon();
    let flag = format!("--names={}", newer.display());
    let host = host.started_with(&[&flag]);
    eventually("the newer program serves", || {
        let servers = name_servers(&host);
        !servers.is_empty() && !servers.contains(&old)
    });
    assert_eq!(load.lost(), 0);
    let program = fs::read_link(format!("/proc/{}/exe", name_server(&host))).expect("a link");
    assert_eq!(program, newer);
    assert_eq!(addresses(&host, "web", "db"), [of_pod(&host, "db").0]);
    host.finish();
}

#[test]
fn one_that_is_killed_or_stopped_is_replaced() {
    let host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("db"), sleeper("web")));
    let db = of_pod(&host, "db").0;
    for signal in ["KILL", "STOP"] {
        let server = name_server(&host);
        let load = Load::start(&host, "web", "db", "20000");
        let pid = server.to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(sent.expect("kill").success());
        if signal == "STOP" {
            // Nobody notifies of that: whoever looks next notices.
            host.tank(&["diff"]);
            host.switch(&format!(
                "{{ {} {} {} }}",
                sleeper("db"),
                sleeper("web"),
                sleeper("more")
            ));
        }
        eventually("another one is there", || {
            let servers = name_servers(&host);
            servers.len() == 1 && servers[0] != server
        });
        // What was asked meanwhile waited in the sockets; what it had read and not answered is gone.
        assert!(load.lost() <= 1, "{signal}");
        assert_eq!(addresses(&host, "web", "db"), std::slice::from_ref(&db));
    }
    host.finish();
}

#[test]
fn pods_run_where_the_port_is_taken_and_have_names_when_it_is_free() {
    let host = Host::new();
    let hold = "import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 53))
print('held', flush=True); time.sleep(600)";
    let mut holder = host
        .inside("python3")
        .args(["-c", hold])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut held = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().expect("piped"), &mut held).expect("held");
    host.switch(&format!("{{ {} }}", sleeper("web")));
    assert_eq!(host.pod("web")["state"], "running");
    let events = host.tank(&["events"]).ok();
    assert!(
        events.contains("listens there already") && events.contains("python3"),
        "{events}"
    );
    holder.kill().expect("kill");
    holder.wait().expect("wait");
    eventually("names are answered", || {
        addresses(&host, "web", "web") == [of_pod(&host, "web").0]
    });
    host.finish();
}

#[test]
fn a_program_that_can_not_be_had_keeps_no_pod_down() {
    let host = Host::without_daemon();
    let broken = host.dir.join("broken");
    fs::write(&broken, "#!/bin/sh\necho it does not work >&2\nexit 1\n").expect("written");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("executable");
    let flag = format!("--names={}", broken.display());
    let host = host.started_with(&[&flag]);
    let began = Instant::now();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(host.pod("web")["state"], "running");
    let events = host.tank(&["events"]).ok();
    assert!(events.contains("it does not work"), "{events}");
    host.finish();
}

/// A server that ends by itself is started anew, and its last words are kept.
#[test]
fn the_end_of_a_server_is_an_event_with_its_last_words() {
    let host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("db"), sleeper("web")));
    let ends = || {
        let events = host.tank(&["--json", "events"]).ok();
        let ended = events
            .matches("the name server has ended by itself")
            .count();
        (ended, events)
    };
    assert_eq!(ends().0, 0);
    // A handover is no surprise.
    let first = name_server(&host);
    let mut last = first;
    for (words, quoted) in [("", "it printed nothing"), ("one\ntwo \u{1b}[31m", "two")] {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(host.dir.join("run/names.err"))
            .expect("its standard error");
        std::io::Write::write_all(&mut file, words.as_bytes()).expect("writes");
        let before = ends().0;
        let killed = host.inside("kill").args(["-9", &last.to_string()]).status();
        assert!(killed.expect("kill").success());
        eventually("there is another", || {
            name_servers(&host).iter().any(|pid| *pid != last)
        });
        eventually("it is said", || ends().0 == before + 1);
        let (_, events) = ends();
        assert!(events.contains(quoted), "{quoted}: {events}");
        eventually("there is one", || name_servers(&host).len() == 1);
        last = name_server(&host);
    }
    assert_eq!(ends().0, 2, "each is said once");
    assert_eq!(addresses(&host, "web", "db"), [of_pod(&host, "db").0]);
    host.finish();
}
