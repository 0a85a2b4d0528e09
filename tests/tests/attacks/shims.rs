//! From one pod against its neighbours, through its shim, its probes or the loop.

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tank_tests::{Host, RUN, eventually, sleeper};

/// Far more than it takes, and far less than a shim may be silent where nobody notices: ten
/// minutes.
const LONG: Duration = Duration::from_secs(240);

/// As [`eventually`], for what takes as long as Tank is patient with a shim.
#[track_caller]
fn in_the_end(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A command that has to end by itself.
#[track_caller]
fn ends(host: &Host, args: &[&str]) -> std::process::Output {
    let child = host
        .command(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tank");
    let pid = child.id().to_string();
    let (sender, receiver) = std::sync::mpsc::channel();
    // Not waited for: a stopped shim that has its streams keeps them open.
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let ended = receiver.recv_timeout(LONG);
    if ended.is_err() {
        let _ = Command::new("kill").args(["-9", &pid]).status();
    }
    ended
        .unwrap_or_else(|_| panic!("it does not end: tank {}", args.join(" ")))
        .expect("output")
}

fn shim_of(host: &Host, pod: &str) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", host.pid(pod, "app"))).expect("stat");
    let parent = stat
        .rsplit_once(") ")
        .expect("a state")
        .1
        .split_whitespace()
        .nth(1)
        .expect("a parent")
        .to_owned();
    parent.parse().expect("a pid")
}

fn kill(signal: &str, pid: i32) {
    assert!(
        Command::new("kill")
            .args([signal, &pid.to_string()])
            .status()
            .expect("kill")
            .success()
    );
}

fn events(host: &Host) -> Vec<Value> {
    let output = host.tank(&["--json", "events"]).ok();
    output
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect()
}

/// The directories of this name below a pod's, in every hierarchy.
fn cgroups(host: &Host, pod: &str, name: &str) -> Vec<PathBuf> {
    let pattern = format!("*/{}/{pod}/{name}", host.cgroup);
    let output = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-path", &pattern])
        .output()
        .expect("find");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .collect()
}

#[test]
fn a_word_that_is_longer_than_an_answer_may_be_breaks_no_later_exec() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let pid = host.pid("web", "app");
    let word = "x".repeat(70_000);
    let ended = ends(&host, &["exec", "web", "--", &word]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(125), "{said}");
    // What it quotes is cut, and says so.
    assert!(
        said.contains("File name too long") && said.contains("bytes more"),
        "{said}"
    );
    assert!(said.len() < 10_000, "{} bytes", said.len());
    let again = ends(&host, &["exec", "web", "--", "/bin/echo", "fine"]);
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        "fine\n",
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    // And a working directory, and a variable of its environment.
    let ended = ends(
        &host,
        &[
            "exec",
            "web",
            "--cwd",
            &format!("/{word}"),
            "--",
            "/bin/true",
        ],
    );
    assert_eq!(ended.status.code(), Some(125));
    host.write(
        "more.ncl",
        &format!("{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, limits.pids = 77 }} }}"),
    );
    let switched = ends(&host, &["switch", "more.ncl"]);
    assert!(
        switched.status.success(),
        "{}",
        String::from_utf8_lossy(&switched.stderr)
    );
    assert_eq!(
        host.pid("web", "app"),
        pid,
        "neither the pod nor its shim was made anew"
    );
    host.finish();
}

#[test]
fn more_mounts_than_a_packet_carries_run_and_hide_no_other_pod() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let mounts: String = (0..300)
        .map(|n| {
            format!(
                "mounts.m{n} = {{ volume = \"v\", path = \"/m/{n}\", read_only = {} }},",
                n % 2 == 0
            )
        })
        .collect();
    let many = format!(
        "pods.many = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, {mounts} }}, volumes.v = {{}} }},"
    );
    host.write("many.ncl", &format!("{{ {} {many} }}", sleeper("web")));
    let switched = ends(&host, &["switch", "many.ncl"]);
    let listed = ends(&host, &["--json", "list"]);
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    assert!(
        switched.status.success(),
        "{}",
        String::from_utf8_lossy(&switched.stderr)
    );
    assert_eq!(host.pod("web")["state"], "running");
    // Each is where it belongs, in its own manner.
    assert_eq!(host.exec("many", "grep -c ' /m/' /proc/mounts"), "300");
    assert_eq!(
        host.exec("many", "echo hello > /m/299/file && cat /m/0/file"),
        "hello"
    );
    assert_eq!(
        host.exec("many", "touch /m/298/file 2>/dev/null || echo refused"),
        "refused"
    );
    // It takes no more of them for another start.
    assert_eq!(host.exec("web", "echo fine"), "fine");
    host.finish();
}

/// What may be done to a shim so that it does not answer any more.
fn silenced(how: impl FnOnce(&Host, i32)) -> (Host, i32) {
    let host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("bad"), sleeper("good")));
    let shim = shim_of(&host, "bad");
    how(&host, shim);
    (host, shim)
}

/// Whoever has to do with other pods does not wait for the one whose shim is silent.
#[track_caller]
fn others_are_served(host: &Host) {
    let changed = format!(
        "{{ {} pods.good.containers.app = {{ image = \"oci:./busybox\", {RUN}, env.NEW = \"1\" }} }}",
        sleeper("bad")
    );
    host.write("changed.ncl", &changed);
    let switched = ends(host, &["switch", "changed.ncl"]);
    assert!(
        switched.status.success(),
        "{}",
        String::from_utf8_lossy(&switched.stderr)
    );
    assert_eq!(host.exec("good", "echo $NEW"), "1");
    let listed = ends(host, &["--json", "list"]);
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
}

#[test]
fn a_stopped_shim_holds_nobody_up_and_goes_on() {
    let (host, shim) = silenced(|_, shim| kill("-STOP", shim));
    let pid = host.pod("bad")["containers"][0]["pid"].clone();
    others_are_served(&host);
    in_the_end("it runs on", || {
        ends(&host, &["exec", "bad", "--", "/bin/true"])
            .status
            .success()
    });
    in_the_end("it is shown", || host.pod("bad")["state"] == "running");
    // The container that runs in it was not disturbed.
    assert_eq!(shim_of(&host, "bad"), shim);
    assert!(pid.is_null() || pid == host.pid("bad", "app"));
    assert!(
        host.tank(&["events"])
            .ok()
            .contains("resume the shim of pod bad: somebody stopped or froze its shim")
    );
    host.finish();
}

#[test]
fn a_frozen_shim_holds_nobody_up_and_goes_on() {
    let (mut host, shim) = silenced(|host, _| {
        for group in cgroups(host, "bad", "_shim") {
            let freezer = group.join("cgroup.freeze");
            if freezer.exists() {
                fs::write(&freezer, "1").expect("frozen");
                eventually("it is frozen", || {
                    fs::read_to_string(group.join("cgroup.events"))
                        .expect("events")
                        .contains("frozen 1")
                });
            }
        }
    });
    // A daemon that does not know it yet finds it so.
    host.kill_daemon();
    host.start_daemon();
    others_are_served(&host);
    in_the_end("it runs on", || {
        ends(&host, &["exec", "bad", "--", "/bin/true"])
            .status
            .success()
    });
    assert_eq!(shim_of(&host, "bad"), shim);
    host.finish();
}

/// Nobody asks about it: the daemon is notified.
#[test]
fn a_frozen_pod_goes_on_by_itself() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("bad")));
    let shim = cgroups(&host, "bad", "_shim");
    let mut shim = shim.iter().map(|group| group.join("cgroup.freeze"));
    let shim = shim.find(|freezer| freezer.exists()).expect("a freezer");
    let pod = shim.parent().and_then(Path::parent).expect("the pod's");
    for freezer in [pod.join("cgroup.freeze"), shim.clone()] {
        fs::write(&freezer, "1").expect("frozen");
        in_the_end("it runs on", || {
            fs::read_to_string(&freezer).expect("reads") == "0\n"
        });
    }
    let events = host.tank(&["events"]).ok();
    assert!(
        events.contains("resume the shim of pod bad: somebody stopped or froze its shim"),
        "{events}"
    );
    host.finish();
}

/// Makes a process that waits in a system call loop for ever when that returns: a jump to itself is
/// written where it would go on.
#[cfg(target_arch = "x86_64")]
fn make_it_spin(pid: i32) {
    use std::os::unix::fs::FileExt;
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).expect("where it is");
    let at = call
        .split_whitespace()
        .last()
        .expect("an instruction pointer")
        .trim_start_matches("0x")
        .to_owned();
    let at = u64::from_str_radix(&at, 16).expect("an address");
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .expect("its memory");
    memory.write_all_at(&[0xeb, 0xfe], at).expect("written");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_spinning_shim_holds_nobody_up_and_is_replaced() {
    let (host, shim) = silenced(|_, shim| {
        eventually("it waits", || {
            fs::read_to_string(format!("/proc/{shim}/syscall"))
                .is_ok_and(|call| call.starts_with("7 ") || call.starts_with("271 "))
        });
        make_it_spin(shim);
    });
    in_the_end("it is shown", || {
        let bad = host.pod("bad");
        bad["state"] == "unresponsive" && bad["reason"] == "its shim does not answer"
    });
    others_are_served(&host);
    in_the_end("another one is there", || {
        let container = &host.pod("bad")["containers"][0];
        container["pid"].is_i64() && shim_of(&host, "bad") != shim
    });
    eventually("the old one is gone", || {
        !Path::new(&format!("/proc/{shim}")).exists()
    });
    assert_eq!(host.exec("bad", "echo fine"), "fine");
    let events = host.tank(&["events"]).ok();
    assert!(
        events.contains("sweep what is left of pod bad: its shim does not answer"),
        "{events}"
    );
    host.finish();
}

#[test]
fn probes_that_hang_leave_no_process_and_take_no_operators_place() {
    let host = Host::new();
    let config = |probe: &str, more: &str| {
        format!(
            "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN},
                readiness = {{ exec = [\"/bin/sh\", \"-c\", \"{probe}\"] {more} }} }} }}"
        )
    };
    // Another process of it leaves its session, as an attacker's would.
    let hangs = "echo x >> /tmp/asked; setsid sleep 7777 & sleep 7777";
    host.write(
        "pods.ncl",
        &config(hangs, ", period = \"10ms\", timeout = \"50ms\""),
    );
    ends(
        &host,
        &["switch", "--no-rollback", "--timeout", "100ms", "pods.ncl"],
    );
    let pid = host.pid("web", "app");
    let asleep = || {
        host.exec("web", "ps | grep -c '[s]leep 7777' || true")
            .parse::<u32>()
            .expect("a number")
    };
    let asked = || {
        host.exec("web", "wc -l < /tmp/asked || echo 0")
            .parse::<u32>()
            .expect("a number")
    };
    let deadline = Instant::now() + 3 * LONG;
    // More of them than there are places.
    while asked() < 300 {
        assert!(Instant::now() < deadline, "{} probes were asked", asked());
        let count = asleep();
        assert!(count < 20, "{count} processes of probes are there");
    }
    // One that is answered takes its place, and nothing is left of the others.
    host.switch(&config("true", ""));
    assert_eq!(host.pid("web", "app"), pid, "a probe disturbed it");
    eventually("no process is left", || asleep() == 0);
    eventually("no cgroup is left", || {
        cgroups(&host, "web", "app/exec-*").is_empty()
    });
    host.finish();
}

#[test]
fn a_start_that_can_not_succeed_is_tried_less_and_less() {
    let host = Host::new();
    let data = host.dir.join("data");
    fs::create_dir(&data).expect("a folder");
    host.switch(&format!(
        "{{ {} pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, mounts.d = {{ volume = \"d\", path = \"/d\" }} }},
            volumes.d.host = \"{}\" }} }}",
        sleeper("good"),
        data.display()
    ));
    fs::remove_dir(&data).expect("removed");
    kill("-9", i32::try_from(host.pid("web", "app")).expect("a pid"));
    let failed = || {
        let events = events(&host).into_iter();
        let failed = events.filter(|event| event["kind"] == "failed");
        let times = failed.map(|event| event["count"].as_u64().unwrap_or(1));
        times.sum::<u64>()
    };
    eventually("it fails", || failed() >= 3);
    let (before, from) = (failed(), Instant::now());
    // Whatever happens meanwhile makes it try no more often.
    while from.elapsed() < Duration::from_secs(8) {
        assert_eq!(host.exec("good", "echo fine"), "fine");
        let limit = cgroups(&host, "good", "app")
            .into_iter()
            .map(|dir| dir.join("pids.max"))
            .find(|file| file.exists());
        fs::write(limit.expect("a limit"), "7777").expect("written");
        std::thread::sleep(Duration::from_millis(50));
    }
    // After 1, 2 and 4 seconds; a slow machine does it less often, none more.
    let after = failed();
    assert!(after - before <= 4, "it was tried {} times", after - before);
    let diff = host.tank(&["diff"]).ok();
    assert!(
        diff.contains("start web/app") && diff.contains("times in a row"),
        "{diff}"
    );
    // What was missing is there again: whoever switches need not wait.
    fs::create_dir(&data).expect("a folder");
    in_the_end("it runs", || host.pod("web")["state"] == "running");
    host.finish();
}

#[test]
fn a_tree_that_is_too_deep_for_the_daemon_is_removed_with_its_pod() {
    let host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("web"), sleeper("good")));
    let daemon = host.daemon_pid();
    // Eight thousand levels, more than a thread's stack holds: each round puts a thousand around
    // those there are.
    host.exec(
        "web",
        "L=$(i=0; s=a; while [ $i -lt 999 ]; do s=$s/a; i=$((i+1)); done; echo $s); cd /; mkdir -p d; k=0; \
         while [ $k -lt 8 ]; do mkdir -p n/$L; mv d n/$L/; mv n d; k=$((k+1)); done",
    );
    host.tank(&["delete", "web"]).ok();
    assert_eq!(host.daemon_pid(), daemon);
    assert_eq!(host.exec("good", "echo fine"), "fine");
    host.finish();
}

#[test]
fn a_joining_process_that_is_stopped_from_inside_holds_its_shim_up_for_a_moment_only() {
    let host = Host::new();
    let long: String = (0..4_000).map(|i| format!("/nowhere/{i}:")).collect();
    host.switch(&format!(
        "{{ pods.st.containers.app = {{ image = \"oci:./busybox\", env.PATH = \"{long}/bin\",
              command = [\"/bin/sh\", \"-c\", \"while true; do kill -STOP -1; usleep 500; done\"] }}, {} }}",
        sleeper("good")
    ));
    for _ in 0..4 {
        // It is stopped on its way in, or when it is there, or not at all.
        let mut client = host
            .command(&["exec", "st", "--", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let client = client.as_mut().expect("tank");
        let deadline = Instant::now() + Duration::from_secs(10);
        while client.try_wait().expect("wait").is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = client.kill();
        client.wait().expect("wait");
        in_the_end("its shim answers", || host.pod("st")["state"] == "running");
    }
    assert_eq!(host.exec("good", "echo fine"), "fine");
    host.finish();
}

#[test]
fn a_container_that_is_removed_leaves_no_cgroup() {
    let host = Host::new();
    let pods = |more: &str| {
        format!(
            "{{ pods.web.containers = {{ app = {{ image = \"oci:./busybox\", {RUN} }}, {more} }} }}"
        )
    };
    host.switch(&pods(&format!(
        "side = {{ image = \"oci:./busybox\", {RUN} }}"
    )));
    let pid = host.pid("web", "app");
    assert!(!cgroups(&host, "web", "side").is_empty());
    let layers = host.dir.join("state/scratch/web/side");
    assert!(layers.exists());
    host.switch(&pods(""));
    assert_eq!(cgroups(&host, "web", "side"), Vec::<PathBuf>::new());
    assert!(!layers.exists());
    assert!(!cgroups(&host, "web", "app").is_empty());
    // One that nobody removed in time is found.
    for root in cgroups(&host, "web", "app") {
        fs::create_dir(root.parent().expect("the pod's").join("lost")).expect("a cgroup");
    }
    assert!(
        host.tank(&["diff"]).ok().contains("nothing to do")
            || !cgroups(&host, "web", "lost").is_empty()
    );
    host.switch(&format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, limits.pids = 99 }} }}"
    ));
    eventually("it is removed", || cgroups(&host, "web", "lost").is_empty());
    assert_eq!(host.pid("web", "app"), pid);
    host.finish();
}
