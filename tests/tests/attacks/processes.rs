//! By what a process of a pod has open, and by its end.

use super::*;

/// The descriptors of a process, and what is behind each.
fn descriptors(pid: &str) -> Vec<(String, PathBuf)> {
    let listed = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("listed")
        .flatten();
    let mut found: Vec<_> = listed
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect();
    found.sort();
    found
}

#[test]
fn what_is_open_is_what_was_named() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ pods.web.containers = {{ app = {{ image = "oci:./busybox", {RUN} }}, two = {{ image = "oci:./busybox", {RUN} }} }} }}"#
    ));
    // A program has its streams, and `ls` the directory that it lists.
    assert_eq!(
        exec(&host, &["web/app", "--", "ls", "/proc/self/fd"]).ok(),
        "0\n1\n2\n3\n"
    );
    assert_eq!(host.exec("web/app", "ls /proc/1/fd"), "0\n1\n2");
    // A shim has of the host's directories those in which the processes of its containers are made,
    // and no more.
    let shim = parent(host.pid("web", "app"));
    let device = fs::metadata("/").expect("a root").dev();
    let directories: Vec<PathBuf> = descriptors(&shim)
        .into_iter()
        .filter(|(_, path)| fs::metadata(path).is_ok_and(|found| found.is_dir()))
        .inspect(|(number, path)| {
            assert_ne!(fs::metadata(path).expect("open").dev(), device, "{number}")
        })
        .map(|(_, path)| fs::read_link(path).expect("a link"))
        .collect();
    let mut groups: Vec<&str> = directories
        .iter()
        // The others are the mounts of the files that Tank wrote: attached nowhere, they have no
        // path.
        .filter_map(|path| {
            path.to_str()?
                .strip_prefix("/sys/fs/cgroup/")?
                .rsplit_once('/')
        })
        .map(|(_, name)| name)
        .collect();
    groups.sort_unstable();
    assert_eq!(groups, ["app", "two"], "{directories:?}");
    assert_eq!(
        directories
            .iter()
            .filter(|path| *path == Path::new("/"))
            .count(),
        2,
        "{directories:?}"
    );
    assert_eq!(directories.len(), 4, "{directories:?}");
    // The process that forks shims has nothing.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.daemon_pid()))
        .expect("children");
    let comm = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let forkserver = children
        .split_whitespace()
        .find(|pid| comm(pid).trim() == "tank-forkserver")
        .expect("it runs");
    let numbers: Vec<String> = descriptors(forkserver)
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    assert_eq!(numbers, ["0", "1", "2"]);
    host.finish();
}

#[test]
fn a_directory_is_no_stream() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ pods.web.containers.app = {{ image = "oci:./busybox", {RUN} }} }}"#
    ));
    let mut command = host.command(&["exec", "web", "--", "cat", "/proc/self/fd/0/etc/hostname"]);
    let ended = Ended::from(
        command
            .stdin(fs::File::open("/").expect("opened"))
            .output()
            .expect("tank"),
    );
    assert_eq!((ended.status, ended.stdout.as_str()), (125, ""));
    assert!(
        ended
            .stderr
            .contains("can't hand standard input into the container: it is a directory"),
        "{}",
        ended.stderr
    );

    // Whatever a client of somebody else's hands in, by the daemon and past it.
    let kinds = r#"
paths = {
    "directory": os.open("/", os.O_RDONLY),
    "path of a directory": os.open("/", os.O_PATH),
    "path of a file": os.open("/etc/passwd", os.O_PATH),
    "terminal": os.openpty()[1],
    "eventfd": os.eventfd(0),
}
for name, fd in paths.items():
    for place in range(3):
        fds = [null, null, null]
        fds[place] = fd
        refused = call(fds, argv=["/bin/true"])
        print(name, place, refused["error"], refused["parameters"]["problems"][0])
        refused = shim(fds, argv=["/bin/true"])
        print(name, place, refused["reply"], refused["why"])
"#;
    let said = python(&host, kinds).ok();
    let mut expected = String::new();
    for (name, why) in [
        ("directory", "a directory"),
        (
            "path of a directory",
            "the name of a file, which is not open (`O_PATH`)",
        ),
        (
            "path of a file",
            "the name of a file, which is not open (`O_PATH`)",
        ),
        ("terminal", "a terminal"),
        (
            "eventfd",
            "no pipe, socket, regular file or character device",
        ),
    ] {
        for (place, stream) in ["standard input", "standard output", "standard error"]
            .iter()
            .enumerate()
        {
            expected += &format!("{name} {place} io.tank.Executor.Invalid {stream} is {why}\n");
            expected += &format!("{name} {place} failed {stream} is {why}\n");
        }
    }
    assert_eq!(said, expected);

    let streams = r#"
read, write = os.pipe()
one, two = socket.socketpair()
file = tempfile.TemporaryFile()
print(sorted(call([read, write, null], argv=["/bin/true"])["parameters"]) == ["pid"])
print(sorted(call([one.fileno(), file.fileno(), null], argv=["/bin/true"])["parameters"]) == ["pid"])
print(shim([null, null, null], argv=["/bin/true"])["reply"])
"#;
    assert_eq!(python(&host, streams).ok(), "True\nTrue\nexecuted\n");
    host.finish();
}

/// The processes in a pod's container groups.
fn processes(host: &Host, pod: &str) -> Vec<String> {
    let find = format!(
        "find /sys/fs/cgroup -path '*/{}/{pod}/app/cgroup.procs' -exec cat {{}} +",
        host.cgroup
    );
    let output = Command::new("sh").args(["-c", &find]).output().expect("sh");
    let mut pids: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    pids.sort();
    pids.dedup();
    pids
}

#[test]
fn a_main_process_that_changes_its_user_does_not_outlive_its_shim() {
    let mut host = Host::new();
    host.switch(
        r#"{ pods.web.containers.app = { image = "oci:./busybox", stop.timeout = "100ms",
               command = ["/bin/su", "web", "-s", "/bin/sh", "-c", "exec sleep 10000"] } }"#,
    );
    let main = host.pid("web", "app");
    let name = |pid: &str| {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    eventually("it has another user", || name(&main.to_string()) == "sleep");
    // A second process that does the same, and one that has lost its parent.
    let script = "(sleep 10001 &); exec sleep 10002";
    let second = [
        "exec", "web", "--", "/bin/su", "web", "-s", "/bin/sh", "-c", script,
    ];
    let mut second = host
        .command(&second)
        .stderr(Stdio::null())
        .spawn()
        .expect("tank");
    eventually("all three sleep", || {
        let pids = processes(&host, "web");
        pids.len() == 3 && pids.iter().all(|pid| name(pid) == "sleep")
    });
    // No daemon is there to look after anything.
    let shim = parent(main);
    host.kill_daemon();
    kill(&shim);
    eventually("all of it has ended", || processes(&host, "web").is_empty());
    assert_ne!(second.wait().expect("wait").code(), Some(0));
    // The next one sweeps what is left, and starts it again.
    host.start_daemon();
    eventually("it runs again", || {
        host.pod("web")["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|pid| pid != main)
    });
    host.finish();
}

#[test]
fn sockets_that_no_namespace_confines_are_refused() {
    let host = Host::new();
    let dir = host.dir.join("build");
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(
        dir.join("s.c"),
        "#include <stdio.h>\n#include <errno.h>\n#include <sys/socket.h>\n\
         int main(void) { int f[] = {AF_VSOCK, AF_ALG, AF_INET}; for (int i = 0; i < 3; i++) \
         printf(\"%d\\n\", socket(f[i], i == 1 ? SOCK_SEQPACKET : SOCK_STREAM, 0) < 0 ? errno : 0); return 0; }",
    )
    .expect("written");
    let program = dir.join("s");
    let built = std::process::Command::new("cc")
        .args(["-static", "-o"])
        .arg(&program)
        .arg(dir.join("s.c"))
        .status();
    assert!(built.expect("cc").success());
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let said = host.tank_with_input(
        &[
            "exec",
            "web",
            "--",
            "/bin/sh",
            "-c",
            "cat > /tmp/s; chmod 755 /tmp/s; /tmp/s",
        ],
        &std::fs::read(&program).expect("read"),
    );
    // Of the machine below this one, of the kernel's ciphers: refused (EPERM). An ordinary one:
    // made.
    assert_eq!(said.ok(), "1\n1\n0\n");
    host.finish();
}
