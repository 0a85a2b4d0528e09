//! Something runs out: space, inodes, processes, descriptors, memory. Each time the error says
//! what, what ran goes on untouched, and when the lack ends the same command works, without anybody
//! starting anything again.

use serde_json::Value;
use std::{fs, process::Command};
use tank_tests::{Ended, Host, RUN, eventually, fixtures, repo, words};

fn pod(name: &str, image: &str, step: u32) -> String {
    format!("pods.{name}.containers.app = {{ image = \"{image}\", {RUN}, env.STEP = \"{step}\" }},")
}

fn generations(host: &Host) -> Vec<Value> {
    host.tank(&["--json", "generations", "list"]).json()["generations"]
        .as_array()
        .expect("a list")
        .clone()
}

/// An image with a layer of `files` files of `size` bytes on top of BusyBox, at `DIR/NAME`.
fn pack(host: &Host, name: &str, files: u32, size: u32) {
    let script = format!(
        "set -e; cp -r {busybox}/. {name}; mkdir -p root/payload; \
         for i in $(seq {files}); do head -c {size} /dev/urandom > root/payload/$i; done; \
         BASE=latest {pack} root {name} big '{{}}'; rm -r root",
        busybox = fixtures().join("busybox").display(),
        pack = repo().join("scripts/pack-layout.sh").display(),
    );
    fs::create_dir(host.dir.join(name)).expect("a folder");
    let packed = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&host.dir)
        .status()
        .expect("sh");
    assert!(packed.success());
}

/// Tries a switch that has to fail and to leave everything as it is; ends the lack; tries again.
#[track_caller]
fn refused_then_done(host: &Host, config: &str, says: &str, end: impl FnOnce()) {
    let (before, pid) = (generations(host), host.pid("web", "app"));
    host.write("pods.ncl", config);
    let refused: Ended = host.tank(&["switch", "--timeout", "20s", "pods.ncl"]);
    assert!(refused.status == 1 || refused.status == 3, "{refused:?}");
    assert!(
        refused.stderr.contains(says),
        "it does not say `{says}`: {}",
        refused.stderr
    );
    // What is to be done about a full disk is said with it.
    if says.contains("No space left") {
        let said = words(&refused.stderr);
        for advice in [
            " are free",
            "`tank gc` frees ",
            "`tank disk-usage` says what takes it",
        ] {
            assert!(said.contains(advice), "no `{advice}`: {said}");
        }
    }
    // A daemon that lacks something may not be able to say what there is; the kernel can.
    assert!(
        fs::metadata(format!("/proc/{pid}")).is_ok(),
        "what ran was disturbed"
    );
    end();
    eventually("the daemon can tell what there is", || {
        host.tank(&["list"]).status == 0
    });
    assert_eq!(host.pid("web", "app"), pid, "what ran was disturbed");
    let after = generations(host);
    let root = |list: &[Value]| {
        list.iter()
            .find(|one| one["current"] == true)
            .expect("a current one")["root"]
            .clone()
    };
    assert_eq!(
        root(&after),
        root(&before),
        "the host is at another generation"
    );
    assert_eq!(host.exec("web", "echo $STEP"), "1");
    let done = host.tank(&["switch", "pods.ncl"]);
    assert_eq!(done.status, 0, "after the lack has ended: {done:?}");
    eventually("nothing is left to do", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
}

/// A file that leaves so many KiB of the state's file system.
fn fill(host: &Host, leave: u64) -> impl FnOnce() {
    let path = host.dir.join("state/filler");
    let script = format!(
        "free=$(df --output=avail -k {dir} | tail -n 1); head -c $(((free - {leave}) * 1024)) /dev/zero > {path}",
        dir = host.dir.join("state").display(),
        path = path.display(),
    );
    let filled = host
        .inside("sh")
        .args(["-c", &script])
        .status()
        .expect("sh");
    assert!(filled.success());
    let mut remove = host.inside("rm");
    remove.arg(path);
    move || assert!(remove.status().expect("rm").success())
}

#[test]
fn no_space_to_unpack_an_image() {
    let host = Host::without_daemon()
        .with_state_on("size=64m")
        .started_with(&[]);
    pack(&host, "large", 20, 1 << 20);
    host.switch(&format!("{{ {} }}", pod("web", "oci:./busybox", 1)));
    let end = fill(&host, 10 << 10);
    let config = format!(
        "{{ {} {} }}",
        pod("web", "oci:./busybox", 1),
        pod("new", "oci:./large:big", 1)
    );
    refused_then_done(&host, &config, "No space left on device", end);
    assert_eq!(host.exec("new", "ls /payload | wc -l"), "20");
    let left = host
        .inside("ls")
        .arg(host.dir.join("state/images/tmp"))
        .output()
        .expect("ls");
    assert!(left.stdout.is_empty(), "half an image is left");
    host.finish();
}

#[test]
fn no_space_to_commit_a_generation() {
    let host = Host::without_daemon()
        .with_state_on("size=24m")
        .started_with(&[]);
    host.switch(&format!("{{ {} }}", pod("web", "oci:./busybox", 1)));
    let end = fill(&host, 0);
    // Large enough that what the log of the database has in hand does not hold it.
    let text: String = "x".repeat(3_000_000);
    let config = format!(
        "{{ {} pods.big.containers.app = {{ image = \"oci:./busybox\", {RUN}, files.\"/text\".text = \"{text}\" }} }}",
        pod("web", "oci:./busybox", 1)
    );
    // It is the commit that fails, and nothing before it.
    refused_then_done(
        &host,
        &config,
        "in the store: IO error: No space left on device",
        end,
    );
    assert_eq!(host.exec("big", "wc -c < /text"), "3000000");
    host.finish();
}

/// A layer is one file, however many it has.
#[test]
fn no_inodes_to_unpack_an_image() {
    let host = Host::without_daemon()
        .with_state_on("size=64m,nr_inodes=1500")
        .started_with(&[]);
    pack(&host, "many", 2_000, 1);
    host.switch(&format!("{{ {} }}", pod("web", "oci:./busybox", 1)));
    let config = format!(
        "{{ {} {} }}",
        pod("web", "oci:./busybox", 1),
        pod("new", "oci:./many:big", 1)
    );
    let taken = host.dir.join("state/taken");
    let script = format!(
        "mkdir {0}; cd {0}; while : > f$((n=n+1)); do :; done; rm f1 f2 f3",
        taken.display()
    );
    host.inside("sh")
        .args(["-c", &script])
        .output()
        .expect("sh");
    let mut free = host.inside("rm");
    free.arg("-r").arg(&taken);
    let end = move || assert!(free.status().expect("rm").success());
    refused_then_done(&host, &config, "No space left on device", end);
    assert_eq!(host.exec("new", "ls /payload | wc -l"), "2000");
    host.finish();
}

/// Where the daemon's own processes are counted: a group of the test's, beside the host's.
struct Counted(std::path::PathBuf);

impl Counted {
    fn new(host: &Host, controller: &str) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
        let v1 = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup" && fields[3].split(',').any(|one| one == controller))
                .then(|| fields[1].to_owned())
        });
        let dir = std::path::Path::new(v1.as_deref().unwrap_or("/sys/fs/cgroup"))
            .join(format!("{}-daemon", host.cgroup));
        fs::create_dir(&dir).expect("a group");
        // Shims are forked by a child of the daemon's.
        let daemon = host.daemon_pid().to_string();
        let children =
            fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).expect("children");
        let forkserver = children.split_whitespace().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "tank-forkserver")
        });
        for pid in [daemon.as_str(), forkserver.expect("it runs")] {
            fs::write(dir.join("cgroup.procs"), pid).expect("joined");
        }
        Self(dir)
    }

    fn read(&self, file: &str) -> u64 {
        fs::read_to_string(self.0.join(file))
            .expect("read")
            .trim()
            .parse()
            .expect("a number")
    }

    fn write(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap_or_else(|e| panic!("{file} = {value}: {e}"));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            let root = self.0.parent().expect("a parent").join("cgroup.procs");
            for pid in fs::read_to_string(self.0.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
            {
                let _ = fs::write(&root, pid);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn no_processes_to_start_a_pod() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", pod("web", "oci:./busybox", 1)));
    let counted = Counted::new(&host, "pids");
    counted.write("pids.max", &counted.read("pids.current").to_string());
    let config = format!(
        "{{ {} {} }}",
        pod("web", "oci:./busybox", 1),
        pod("new", "oci:./busybox", 1)
    );
    refused_then_done(&host, &config, "Resource temporarily unavailable", || {
        counted.write("pids.max", "max")
    });
    drop(counted);
    host.finish();
}

#[test]
fn no_descriptors() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", pod("web", "oci:./busybox", 1)));
    let daemon = host.daemon_pid().to_string();
    let limit = |number: &str| {
        let status = Command::new("prlimit")
            .args(["--pid", &daemon, &format!("--nofile={number}:")])
            .status();
        assert!(status.expect("prlimit").success());
    };
    // A collection after the switch has some open for as long as it takes.
    let looks = (0..20).map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let open = fs::read_dir(format!("/proc/{daemon}/fd"));
        open.expect("fds").count()
    });
    let open = looks.min().expect("a look");
    // Enough for a client, too few for a pod's shim and its sockets.
    limit(&(open + 6).to_string());
    let config = format!(
        "{{ {} {} }}",
        pod("web", "oci:./busybox", 1),
        pod("new", "oci:./busybox", 1)
    );
    refused_then_done(&host, &config, "Too many open files", || limit("10000"));
    host.finish();
}

#[test]
fn no_memory_to_run_a_container() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", pod("web", "oci:./busybox", 1)));
    let pid = host.pid("web", "app");
    let greedy = |limit: &str| {
        format!(
            "{{ {} pods.new.containers.app = {{ image = \"oci:./busybox\", limits.memory = \"{limit}\",
                readiness = {{ exec = [\"/bin/sh\", \"-c\", \"test -e /tmp/up\"], period = \"50ms\" }},
                command = [\"/bin/sh\", \"-c\", \"x=$(yes | head -c 20000000); touch /tmp/up; trap 'exit 0' USR1; while true; do sleep 0.1; done\"] }} }}",
            pod("web", "oci:./busybox", 1)
        )
    };
    host.write("pods.ncl", &greedy("8MiB"));
    let refused = host.tank(&["switch", "pods.ncl"]);
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("new/app") && refused.stderr.contains("memory"),
        "{}",
        refused.stderr
    );
    assert_eq!(host.pid("web", "app"), pid);
    host.switch(&greedy("256MiB"));
    assert_eq!(host.pid("web", "app"), pid);
    host.finish();
}

/// What a daemon takes does not grow with how often it is asked, by how many, or how many
/// generations there are.
#[test]
fn memory_is_bounded_by_what_there_is() {
    const PODS: usize = 20;
    let host = Host::new();
    let config = |label: &str| {
        let pod = |i: usize| {
            format!(
                "pods.p{i} = {{ network = 'none, labels.step = \"{label}\",
                     containers.app = {{ image = \"oci:./busybox\", {RUN} }} }},"
            )
        };
        format!("{{ {} }}", (0..PODS).map(pod).collect::<String>())
    };
    let daemon = host.daemon_pid();
    let kib = |name: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{daemon}/status")).expect("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a line");
        line.split_whitespace()
            .next()
            .expect("a number")
            .parse()
            .expect("a number")
    };
    let ask = |step: usize| {
        // A new generation that restarts nothing, and plans for another one.
        host.switch(&config(&step.to_string()));
        host.write("candidate.ncl", &config("candidate"));
        for _ in 0..4 {
            assert!(
                host.tank(&["diff", "candidate.ncl"])
                    .ok()
                    .contains("labels.step")
            );
            host.tank(&["list"]).ok();
        }
        // Callers that begin to say something and say no more, as many as are served at once.
        let begun = |_| {
            use std::io::Write;
            let mut stream = std::os::unix::net::UnixStream::connect(host.socket()).ok()?;
            stream.write_all(&[b' '; 1024]).ok()?;
            Some(stream)
        };
        let callers: Vec<_> = (0..400).filter_map(begun).collect();
        assert!(callers.len() > 300, "only {} were let in", callers.len());
        drop(callers);
        eventually("it answers", || host.tank(&["status"]).status == 0);
    };
    (0..3).for_each(ask);
    // 5: the peak is counted from here, see proc(5).
    fs::write(format!("/proc/{daemon}/clear_refs"), "5").expect("written");
    let before = kib("VmRSS:");
    (3..25).for_each(ask);
    let peak = kib("VmHWM:");
    eprintln!("resident before: {before} KiB, the peak since: {peak} KiB");
    assert!(
        peak < before + (32 << 10),
        "it grew from {before} KiB to {peak} KiB"
    );
    host.finish();
}
