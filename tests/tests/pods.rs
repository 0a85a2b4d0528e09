//! What pods are made of and what keeps them running.

#[path = "pods/confinement.rs"]
mod confinement;

use std::os::unix::fs::PermissionsExt;
use tank_tests::{Host, RUN, eventually, sleeper};

#[test]
fn two_containers_share_a_network_and_nothing_else() {
    let host = Host::new();
    host.switch(
        r#"{ pods.duo.containers = {
            server = { image = "oci:./busybox", command = ["/bin/httpd", "-f", "-p", "8000", "-h", "/etc"], stop.signal = "SIGKILL" },
            client = { image = "oci:./busybox", command = ["/bin/sleep", "1000"], stop.signal = "SIGKILL" },
        } }"#,
    );
    assert_eq!(host.pod("duo")["state"], "running");
    // The one reaches the other over their loopback, by the same address, under the same host name.
    assert!(
        host.exec("duo/client", "wget -qO- http://127.0.0.1:8000/passwd")
            .contains("root:x:0:0")
    );
    assert_eq!(
        host.exec("duo/server", "hostname; ip -4 addr show eth0"),
        host.exec("duo/client", "hostname; ip -4 addr show eth0")
    );
    // Processes and files are each one's own.
    assert!(!host.exec("duo/client", "ps").contains("httpd"));
    host.exec("duo/server", "touch /tmp/mine");
    assert_eq!(
        host.tank(&["exec", "duo/client", "--", "test", "-e", "/tmp/mine"])
            .status,
        1
    );
    host.finish();
}

#[test]
fn the_network_is_as_it_will_be_when_the_switch_is_over() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ pods.one.containers.app = {{ image = "oci:./busybox", {RUN}, capabilities.add = ["CAP_NET_RAW"] }},
              pods.two.containers.app = {{ image = "oci:./busybox", {RUN} }} }}"#
    ));
    // Every address holds at once: the kernel does not wait to see whether somebody else has it.
    let inside = host.exec("one", "ip -6 addr show dev eth0");
    assert!(
        inside.contains("scope global") && inside.contains("scope link"),
        "{inside}"
    );
    assert!(!inside.contains("tentative"), "{inside}");
    // The other end is a port of the bridge and nothing else.
    let ports = host
        .inside("ip")
        .args(["-oneline", "link", "show", "type", "veth"])
        .output()
        .expect("ip");
    assert_eq!(String::from_utf8_lossy(&ports.stdout).lines().count(), 2);
    let addresses = host
        .inside("ip")
        .args(["-oneline", "addr", "show", "type", "veth"])
        .output()
        .expect("ip");
    assert_eq!(String::from_utf8_lossy(&addresses.stdout), "");
    // Neighbours find each other by either address, with nothing done before.
    let two: Vec<String> = host.pod("two")["addresses"]
        .as_array()
        .expect("addresses")
        .iter()
        .map(|a| a.as_str().expect("one").to_owned())
        .collect();
    assert_eq!(two.len(), 2);
    for address in two {
        host.exec("one", &format!("ping -c 1 -W 5 {address}"));
    }
    host.finish();
}

/// Those of the IPC namespace are the pod's root's, those of the network whoever's owns that.
#[test]
fn a_pods_own_kernel_settings_are_set() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ pods.web = {{
            containers.app = {{ image = "oci:./busybox", {RUN} }},
            sysctls = {{
                "net.ipv4.tcp_keepalive_time" = "601",
                "kernel.shmmax" = "12345",
                "kernel.msgmax" = "4096",
                "kernel.sem" = "100\t3200\t50\t64",
                "fs.mqueue.msg_max" = "7",
            }},
        }} }}"#
    ));
    let settings =
        "net/ipv4/tcp_keepalive_time kernel/shmmax kernel/msgmax kernel/sem fs/mqueue/msg_max";
    assert_eq!(
        host.exec("web", &format!("cd /proc/sys && cat {settings}")),
        "601\n12345\n4096\n100\t3200\t50\t64\n7"
    );
    host.finish();
}

#[test]
fn volumes_files_and_secrets() {
    let host = Host::new();
    std::fs::create_dir(host.dir.join("shared")).expect("a folder");
    host.write("shared/seen", "by the pod");
    host.write("password", "s3cret-value");
    let config = |text: &str| {
        format!(
            r#"{{ pods.web = {{
            containers.app = {{ image = "oci:./busybox", {RUN}, user = "web",
                mounts.data = {{ volume = "data", path = "/var/lib/data" }},
                mounts.host = {{ volume = "host", path = "/srv", read_only = true }},
                mounts.memory = {{ volume = "memory", path = "/cache" }},
                files."/etc/app.conf" = {{ text = "{text}", mode = "0640" }},
                secrets.db = {{ file = "{0}/password", path = "/run/secrets/db" }},
                secrets.own = {{ file = "{0}/password", path = "/run/secrets/own", owner = "web" }},
            }},
            volumes = {{ data = {{}}, host.host = "{0}/shared", memory.tmpfs = "1MiB" }},
        }} }}"#,
            host.dir.display()
        )
    };
    host.switch(&config("one"));
    let root = |script: &str| host.tank(&["exec", "web", "--", "/bin/sh", "-c", script]);
    // Files belong to the container's root: this user may read the one for everybody and not the
    // others.
    assert_eq!(root("cat /srv/seen").ok(), "by the pod");
    assert_ne!(root("cat /etc/app.conf").status, 0);
    assert_ne!(root("cat /run/secrets/db").status, 0);
    // But one that is declared to be its own.
    assert_eq!(root("cat /run/secrets/own").ok(), "s3cret-value");
    let own = root("ls -ln /run/secrets/own").ok();
    let words: Vec<&str> = own.split_whitespace().take(4).collect();
    assert_eq!(words, ["-r--------", "1", "33", "44"]);
    assert_ne!(root("touch /srv/new").status, 0);
    root("echo scratch > /cache/x").ok();
    assert!(root("mount").ok().contains("size=1024k"));
    assert!(
        host.exec("web", "ls -ln /etc/app.conf /run/secrets/db")
            .contains("-rw-r-----")
    );

    // As root they are read; the managed volume is kept across a change, under ids that mean the
    // same to every pod.
    let as_root = config("two").replace("user = \"web\",", "");
    host.switch(&as_root);
    assert_eq!(
        host.exec("web", "cat /etc/app.conf /run/secrets/db"),
        "twos3cret-value"
    );
    host.exec("web", "echo kept > /var/lib/data/file");
    host.tank(&["delete", "web"]).ok();
    host.switch(&as_root);
    assert_eq!(host.exec("web", "cat /var/lib/data/file"), "kept");
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(host.dir.join("state/volumes/web/data/file")).expect("the file");
    assert_eq!(meta.uid(), 0, "on disk it is the container's own id");
    // No secret is in the store, a log or a view.
    let found = std::process::Command::new("grep")
        .args(["-rlaF", "s3cret-value", "state", "tankd.log"])
        .current_dir(&host.dir)
        .output()
        .expect("grep");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    host.finish();
}

#[test]
fn a_killed_container_comes_back_by_an_event() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let before = host.pid("web", "app");
    let address = host.pod("web")["addresses"].clone();
    kill(before);
    // The next look by the clock is ten minutes away (`resync`).
    eventually("another process", || {
        host.pod("web")["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|pid| pid != before)
    });
    let after = host.pod("web");
    assert_eq!(
        (&after["containers"][0]["restarts"], &after["addresses"]),
        (&1.into(), &address)
    );
    let events = host.tank(&["events"]).ok();
    assert!(
        events.contains("web: container app was killed by SIGKILL"),
        "{events}"
    );
    // The second failure in a row has to wait a second.
    kill(host.pid("web", "app"));
    let state = || host.pod("web")["containers"][0]["state"].clone();
    eventually("it shows", || state() == "failed");
    let diff = host.tank(&["diff"]).ok();
    assert!(diff.contains("restart 2 in a row"), "{diff}");
    eventually("it comes back", || state() == "running");
    assert_eq!(host.pod("web")["containers"][0]["restarts"], 2);
    host.finish();
}

fn kill(pid: i64) {
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .expect("kill");
    assert!(status.success());
}

#[test]
fn a_lost_shim_takes_its_pod_along_and_both_come_back() {
    let host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("web"), sleeper("other")));
    let (web, other) = (host.pid("web", "app"), host.pid("other", "app"));
    let address = host.pod("web")["addresses"].clone();
    let status = std::fs::read_to_string(format!("/proc/{web}/status")).expect("status");
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .expect("a parent")
        .trim()
        .parse::<i64>();
    kill(parent.expect("a number"));
    eventually("the container is gone with it", || {
        !std::path::Path::new(&format!("/proc/{web}")).exists()
    });
    eventually("the pod is back", || host.pod("web")["state"] == "running");
    assert_ne!(host.pid("web", "app"), web);
    assert_eq!(
        (
            host.pod("web")["addresses"].clone(),
            host.pid("other", "app")
        ),
        (address, other)
    );
    assert!(
        host.tank(&["events"])
            .ok()
            .contains("web: its shim is gone")
    );
    // What ends because it was asked to is no surprise.
    host.tank(&["delete", "other"]).ok();
    let events = host.tank(&["events"]).ok();
    assert!(events.contains("other: it was taken down"), "{events}");
    assert!(!events.contains("other: its shim is gone"), "{events}");
    host.finish();
}

#[test]
fn restart_policies_and_dependencies() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{
            pods.job = {{ containers.run = {{ image = "oci:./busybox", command = ["/bin/sh", "-c", "echo did it"] }}, restart = 'on_failure }},
            pods.db = {{ containers.app = {{ image = "oci:./busybox",
                command = ["/bin/sh", "-c", "trap 'exit 0' TERM USR1; sleep 0.5; touch /tmp/up; while true; do sleep 0.1; done"],
                readiness = {{ exec = ["/bin/test", "-e", "/tmp/up"], period = "50ms" }} }} }},
            pods.web = {{ containers.app = {{ image = "oci:./busybox", {RUN} }}, depends_on = {{ db = 'ready, job = 'completed }} }},
        }}"#
    ));
    assert_eq!(host.pod("job")["state"], "completed");
    assert_eq!(host.pod("job")["containers"][0]["restarts"], 0);
    let started = |pod: &str| {
        host.pod(pod)["containers"][0]["started"]
            .as_u64()
            .expect("started")
    };
    assert!(
        started("web") >= started("db") + 400,
        "web waited for db to be ready"
    );
    assert_eq!(host.tank(&["logs", "job"]).ok(), "did it\n");
    host.finish();
}

#[test]
fn a_stop_uses_the_signal_of_the_image_and_then_kills() {
    let host = Host::new();
    // The image says SIGUSR1.
    host.switch(
        r#"{ pods.web.containers = {
            polite = { image = "oci:./busybox", command = ["/bin/sh", "-c", "trap 'echo asked; exit 0' USR1; while true; do sleep 0.05; done"] },
            stubborn = { image = "oci:./busybox", command = ["/bin/sh", "-c", "trap '' USR1; while true; do sleep 0.05; done"], stop.timeout = "300ms" },
        } }"#,
    );
    let begin = std::time::Instant::now();
    host.tank(&["delete", "web"]).ok();
    let took = begin.elapsed();
    assert!(took.as_millis() >= 300 && took.as_secs() < 8, "{took:?}");
    let log = std::fs::read_to_string(host.dir.join("state/logs/web/polite.log")).expect("the log");
    assert!(log.contains("asked"), "{log}");
    host.finish();
}

#[test]
fn all_that_have_to_end_are_asked_at_once() {
    // More than there are steps at once: one that takes its time must not make another one wait for
    // being asked.
    const PODS: usize = 40;
    let host = Host::new();
    let marks = host.dir.join("marks");
    std::fs::create_dir(&marks).expect("a folder");
    std::fs::set_permissions(&marks, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    let asked = "touch /marks/$(hostname); until [ -e /marks/go ]; do sleep 0.1; done; exit 0";
    let pod = |number: usize| {
        format!(
            r#"p{number} = {{ containers.app = {{ image = "oci:./busybox",
                 command = ["/bin/sh", "-c", "trap '{asked}' TERM; while true; do sleep 0.1; done"],
                 mounts.marks = {{ volume = "marks", path = "/marks" }},
                 stop = {{ signal = "SIGTERM", timeout = "60s" }} }}, volumes.marks.host = "{}" }},"#,
            marks.display()
        )
    };
    host.switch(&format!(
        "{{ pods = {{ {} }} }}",
        (0..PODS).map(pod).collect::<String>()
    ));
    host.write("nothing.ncl", "{}");
    let mut ending = host
        .command(&["switch", "nothing.ncl"])
        .spawn()
        .expect("tank");
    eventually("all are asked", || {
        std::fs::read_dir(&marks).expect("marks").count() == PODS
    });
    std::fs::write(marks.join("go"), "").expect("go");
    assert!(ending.wait().expect("tank ends").success());
    host.finish();
}

#[test]
fn apply_and_delete_are_generations() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("one")));
    let pid = host.pid("one", "app");
    host.write("two.ncl", &format!("{{ {} }}", sleeper("two")));
    host.tank(&["apply", "two.ncl"]).ok();
    assert_eq!(host.pid("one", "app"), pid, "a bystander is not disturbed");
    assert_eq!(host.pod("two")["state"], "running");
    host.tank(&["delete", "one"]).ok();
    assert!(host.pod("one").is_null());
    let said = host.tank(&["delete", "won"]);
    assert_eq!(said.status, 1);
    assert!(
        said.stderr.contains("no such pod: `won`"),
        "{}",
        said.stderr
    );
    assert_eq!(
        host.tank(&["--json", "generations", "list"]).json()["generations"]
            .as_array()
            .expect("list")
            .len(),
        3
    );
    let back = host
        .tank(&["--json", "generations", "rollback", "2"])
        .json();
    assert_eq!(back["generation"], 4);
    assert_eq!(
        (
            host.pod("one")["state"].clone(),
            host.pod("two")["state"].clone()
        ),
        ("running".into(), "running".into())
    );
    host.finish();
}

#[test]
fn the_death_of_the_daemon_disturbs_nothing() {
    let mut host = Host::new();
    host.switch(&format!(
        r#"{{ {}
            pods.chatty.containers.app = {{ image = "oci:./busybox", command = ["/bin/sh", "-c", "trap 'exit 0' USR1; i=0; while true; do echo n$i; i=$((i+1)); sleep 0.01; done"] }},
            pods.job = {{ containers.run = {{ image = "oci:./busybox", command = ["/bin/sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 9"] }}, restart = 'never }},
        }}"#,
        sleeper("web")
    ));
    let pids = (host.pid("web", "app"), host.pid("chatty", "app"));
    let mut terminal =
        tank_tests::pty::Terminal::run(&host.command(&["exec", "web", "--", "/bin/sh"]));
    terminal.type_in("echo be''fore\r");
    terminal.expect("before");
    host.exec(
        "job",
        "(sleep 0.5; touch /tmp/go) > /dev/null 2>&1 < /dev/null &",
    );
    host.kill_daemon();
    // A terminal that was open stays open.
    terminal.type_in("echo mean''while\r");
    terminal.expect("meanwhile");
    std::thread::sleep(std::time::Duration::from_millis(1000));
    host.start_daemon();
    assert_eq!(
        (host.pid("web", "app"), host.pid("chatty", "app")),
        pids,
        "the same processes"
    );
    assert_eq!(host.exec("web", "echo works"), "works");
    terminal.type_in("exit 4\r");
    assert_eq!(terminal.ended(), 4);
    // An exit while it was away is known.
    let job = host.pod("job");
    assert_eq!(
        (
            &job["containers"][0]["state"],
            &job["containers"][0]["status"]
        ),
        (&"failed".into(), &9.into()),
        "{job}"
    );
    // No line is lost.
    let log = host.tank(&["logs", "chatty"]).ok();
    for (expected, line) in log.lines().enumerate() {
        assert_eq!(line, format!("n{expected}"));
    }
    assert!(log.lines().count() > 50);
    assert_eq!(host.tank(&["diff", "--exit-code"]).ok(), "nothing to do\n");
    // The old shims take orders from the new daemon.
    kill(pids.0);
    eventually("another process", || {
        host.pod("web")["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|pid| pid != pids.0)
    });
    assert_eq!(host.exec("web", "echo works"), "works");
    host.finish();
}

#[test]
fn logs_and_events_follow() {
    let host = Host::new();
    host.switch(r#"{ pods.say.containers.app = { image = "oci:./busybox", command = ["/bin/sh", "-c", "trap 'exit 0' USR1; echo first; echo wrong >&2; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo second; while true; do sleep 0.1; done"] } }"#);
    eventually("the first lines are there", || {
        host.tank(&["logs", "say"]).stdout.lines().count() == 2
    });
    let mut follow = host
        .command(&["logs", "-f", "-n", "1", "say"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("tank");
    host.exec("say", "touch /tmp/go");
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(follow.stdout.take().expect("stdout")).lines();
    lines.next().expect("a line").expect("text");
    assert_eq!(lines.next().expect("a line").expect("text"), "second");
    follow.kill().expect("kill");
    follow.wait().expect("wait");
    let events = host.tank(&["--json", "events"]).ok();
    assert!(
        events
            .lines()
            .any(|line| line.contains("\"kind\":\"switched\"")),
        "{events}"
    );
    host.finish();
}

#[test]
fn a_seed_counts_only_where_nothing_was_declared() {
    let host = Host::without_daemon();
    host.write("seed.ncl", &format!("{{ {} }}", sleeper("seeded")));
    let canonical = host.tank(&["build", "--canonical", "seed.ncl"]).ok();
    host.write("seed.json", &canonical);
    let seed = format!("--seed={}", host.dir.join("seed.json").display());
    let mut host = host.started_with(&[&seed]);
    let outcome = |host: &Host| {
        host.tank(&["--json", "generations", "list"]).json()["generations"][0]["outcome"].clone()
    };
    eventually("the seed is good", || outcome(&host) == "good");
    assert_eq!(host.pod("seeded")["state"], "running");
    host.tank(&["delete", "seeded"]).ok();
    host.kill_daemon();
    host.start_daemon();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(
        host.pod("seeded").is_null(),
        "what changed since is not clobbered"
    );
    assert!(host.tank(&["events"]).ok().contains("is ignored"));
    host.finish();
}

#[test]
fn what_is_printed_last_is_kept() {
    let host = Host::new();
    // More than one read's worth without a line's end, right before the end; and a terminal that is
    // let go of.
    host.switch(
        r#"{
            pods.pipe = { containers.run = { image = "oci:./busybox", command = ["/bin/sh", "-c", "yes x | tr -d '\n' | head -c 40000; echo; echo last"] }, restart = 'never },
            pods.tty = { containers.run = { image = "oci:./busybox", tty = true, command = ["/bin/sh", "-c", "yes y | tr -d '\n' | head -c 9000; echo; echo last"] }, restart = 'never },
            pods.closed = { containers.run = { image = "oci:./busybox", tty = true, stop.signal = "SIGKILL",
                command = ["/bin/sh", "-c", "exec sleep 1000 < /dev/null > /dev/null 2>&1"] } },
        }"#,
    );
    for (pod, letter, count) in [("pipe", "x", 40_000), ("tty", "y", 9_000)] {
        let log = host.tank(&["logs", pod]).ok();
        assert_eq!(log.matches(letter).count(), count, "{pod}");
        assert_eq!(log.lines().last().map(str::trim_end), Some("last"), "{pod}");
    }
    // Nobody has the terminal open: its shim sleeps all the same.
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid("closed", "run")))
        .expect("status");
    let shim = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .expect("a parent")
        .trim()
        .to_owned();
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{shim}/stat")).expect("stat");
        stat.split_whitespace()
            .skip(13)
            .take(2)
            .map(|t| t.parse::<u64>().expect("ticks"))
            .sum::<u64>()
    };
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(ticks() - before < 10, "it spins");
    host.finish();
}
