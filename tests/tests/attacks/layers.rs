//! The process that converts layers: what whoever takes it over could do.

use super::*;
use std::{
    os::unix::fs::MetadataExt,
    process::{Child, Stdio},
};

/// A pull of a layer that takes long: gibibytes of zeros, which compress well.
struct Pull(Child);

impl Pull {
    fn start(host: &Host) -> Self {
        let head = header(b'0', "zeros", 6 << 30, &[]);
        let image = pack(host, "long", &[bomb(&head, 6 << 10, &archive(&[]))]);
        host.write("long.ncl", &pod(&image));
        let mut command = host.command(&["switch", "long.ncl"]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.expect("tank"))
    }

    /// The process that converts for this host's daemon, stopped where it is.
    fn converter(host: &Host) -> i32 {
        let daemon = host.daemon_pid().to_string();
        let mut found = None;
        eventually("a layer is converted", || {
            let processes = fs::read_dir("/proc").expect("processes").flatten();
            let mut pids = processes.filter_map(|at| at.file_name().to_str()?.parse::<i32>().ok());
            found = pids.find(|pid| {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                status.contains("Name:\ttank-layer\n")
                    && status.contains(&format!("PPid:\t{daemon}\n"))
                    // It has given everything up.
                    && status.contains("Seccomp:\t2\n")
            });
            // One that has ended by now is another layer's.
            found.is_some_and(|pid| {
                let mut kill = Command::new("kill");
                let stopped = kill.args(["-STOP", &pid.to_string()]).status();
                let is_there = stopped.expect("kill").success();
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                is_there && status.contains("State:\tT")
            })
        });
        found.expect("a process")
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn halves(host: &Host) -> usize {
    let halves = fs::read_dir(host.dir.join("state/images/tmp"));
    halves.expect("a folder").count()
}

#[test]
fn the_process_that_converts_a_layer_owns_nothing() {
    let host = Host::new();
    let pull = Pull::start(&host);
    let pid = Pull::converter(&host);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let field = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("no {name}: {status}"))
            .to_owned()
    };
    let id = field("Uid").split('\t').next().expect("an id").to_owned();
    assert!(id.parse::<u32>().expect("an id") > 65_536, "{status}");
    let all = format!("{id}\t{id}\t{id}\t{id}");
    assert_eq!((field("Uid"), field("Gid")), (all.clone(), all));
    assert_eq!(field("Groups").trim(), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    // Every thread has the filter.
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .expect("threads")
        .flatten()
    {
        let status = fs::read_to_string(task.path().join("status")).expect("a status");
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
    }
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).expect("a link");
    let empty = host.dir.join("state/images/empty");
    assert_eq!((link("root"), link("cwd")), (empty.clone(), empty.clone()));
    assert_eq!(fs::read_dir(&empty).expect("a folder").count(), 0);
    assert_eq!(fs::metadata(&empty).expect("a folder").uid(), 0);
    let daemon = host.daemon_pid();
    for kind in ["net", "ipc", "uts", "mnt"] {
        let own = link(&format!("ns/{kind}"));
        let daemons = fs::read_link(format!("/proc/{daemon}/ns/{kind}")).expect("a link");
        assert_ne!(own, daemons, "{kind}");
    }
    let links = Command::new("nsenter")
        .args([
            "--net",
            &format!("--target={pid}"),
            "ip",
            "-oneline",
            "link",
        ])
        .output()
        .expect("nsenter");
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    assert!(
        links.contains(": lo: <LOOPBACK>") && links.lines().count() == 1,
        "{links}"
    );
    // The socket, what it reads and what it writes.
    let open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("descriptors")
        .flatten()
        .map(|fd| {
            fs::read_link(fd.path())
                .expect("a link")
                .display()
                .to_string()
        })
        .collect();
    let halves = host.dir.join("state/images/tmp").display().to_string();
    let strange = open.iter().filter(|open| {
        let own = ["socket:[", "pipe:[", "/dev/null", &halves];
        !own.iter().any(|own| open.starts_with(own))
    });
    assert_eq!(strange.count(), 0, "{open:?}");
    assert!(
        open.iter()
            .filter(|open| open.starts_with("socket:["))
            .count()
            <= 1,
        "{open:?}"
    );
    drop(pull);
    eventually("it ends with whoever asked", || {
        !PathBuf::from(format!("/proc/{pid}")).exists()
    });
    eventually("nothing half done is left", || self::halves(&host) == 0);
    host.finish();
}

#[test]
fn a_converter_that_is_killed_costs_its_own_pull() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let before = host.traces();
    let mut pull = Pull::start(&host);
    let pid = Pull::converter(&host);
    let kill = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(kill.expect("kill").success());
    let ended = pull.0.wait().expect("it ends");
    let mut said = String::new();
    std::io::Read::read_to_string(pull.0.stderr.as_mut().expect("a pipe"), &mut said)
        .expect("text");
    assert_eq!(ended.code(), Some(1), "{said}");
    let expected = "the process that converts layers has ended without an answer";
    assert!(words(&said).contains(expected), "{said}");
    assert_eq!(halves(&host), 0);
    assert_eq!(host.traces(), before);
    host.switch(&pod(&pack(
        &host,
        "short",
        &[archive(&[file("f", b"content")])],
    )));
    assert_eq!(host.exec("web", "cat /f"), "content");
    host.finish();
}

/// Where the layers of an image hang is nobody's to see or to run.
#[test]
fn a_layer_is_mounted_where_nobody_sees_it() {
    let host = Host::new();
    let before = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    host.switch(&format!("{{ {} }}", sleeper("web")));
    assert_eq!(
        fs::read_to_string("/proc/self/mountinfo").expect("mounts"),
        before
    );
    for layer in fs::read_dir(host.dir.join("state/images/layers"))
        .expect("layers")
        .flatten()
    {
        let layer = layer.metadata().expect("a layer");
        assert!(layer.is_file() && layer.uid() == 0, "{layer:?}");
        assert_eq!(
            layer.mode() & 0o077,
            0,
            "it is root's alone: {:o}",
            layer.mode()
        );
    }
    host.finish();
}
