//! By programs with the set-user-id bit in a directory of the host.

use super::*;

/// What `set_id.c` prints where all of it is refused.
fn all_refused() -> String {
    let mut lines = String::new();
    let ways = [
        "chmod",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "creat",
        "open",
        "openat",
        "open a temporary file",
        "openat a temporary file",
        "chmod with more bits",
        "openat2",
        "chmod by x32",
    ];
    for bits in ["u+s", "g+s"] {
        for way in ways {
            let said = if matches!(way, "openat2" | "chmod by x32") {
                "ENOSYS"
            } else {
                "EPERM"
            };
            lines.push_str(&format!("{way} {bits}: {said}\n"));
        }
    }
    lines.push_str(
        "io_uring: EPERM\ncapabilities: EPERM\na user namespace: EPERM\na process in one: EPERM\n",
    );
    lines.push_str("chmod by i386: Bad system call\n");
    lines.push_str(
        "chmod 0755: done\nchmod 1777: done\nmkdir 0755: done\nopen without making: done\nopen and make: done",
    );
    lines
}

#[test]
fn a_program_of_roots_is_not_left_in_a_host_volume() {
    let host = Host::new();
    let dir = host.dir.join("srv");
    fs::create_dir_all(&dir).expect("mkdir");
    let program = dir.join("set_id");
    let source = tank_tests::repo().join("tests/tests/attacks/set_id.c");
    let built = Command::new("cc")
        .args(["-static", "-O1", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .expect("cc");
    assert!(built.success());
    let container =
        |mounts: &str, more: &str| format!("{{ image = \"oci:./busybox\", {mounts} {more} }}");
    let mounts = "mounts.m = { volume = \"v\", path = \"/v\" },";
    let all = "seccomp = { profile = 'unconfined, allow = [\"chmod\", \"openat2\", \"io_uring_setup\"] },";
    let main = "command = [\"/bin/sh\", \"-c\", \"mkdir -p /v/main && /v/set_id /v/main; exec sleep 1000\"],";
    let sleeps = "command = [\"/bin/sleep\", \"1000\"],";
    host.switch(&format!(
        "{{ pods.web = {{ containers = {{ app = {}, free = {}, beside = {} }}, volumes = {{ v.host = \"{}\", own = {{}} }} }} }}",
        container(mounts, main),
        container(mounts, &format!("{all} {sleeps}")),
        container("mounts.m = { volume = \"own\", path = \"/v\" },", sleeps),
        dir.display()
    ));
    // The main process, and what `tank exec` starts beside it, with and without the default filter.
    eventually("the main process has tried everything", || {
        host.tank(&["logs", "web/app"])
            .stdout
            .contains("open and make")
    });
    let log = host.tank(&["--json", "logs", "web/app"]).ok();
    assert!(!log.contains("+s: done"), "{log}");
    assert!(
        !log.contains("io_uring: done") && !log.contains("capabilities: done"),
        "{log}"
    );
    for container in ["app", "free"] {
        let target = format!("web/{container}");
        let said = host.exec(
            &target,
            &format!("mkdir /v/{container} && /v/set_id /v/{container}"),
        );
        assert_eq!(said, all_refused(), "{container}");
    }
    // A container of the same pod that has none of it could be handed a directory of it.
    let beside = host.tank_with_input(
        &[
            "exec",
            "web/beside",
            "--",
            "/bin/sh",
            "-c",
            "cat > /v/s; chmod 755 /v/s; mkdir /v/x; /v/s /v/x",
        ],
        &fs::read(&program).expect("read"),
    );
    assert_eq!(beside.ok().trim_end(), all_refused());
    // An ordinary user of the host gains nothing from what is there, and what an ordinary program
    // does there works.
    assert_ne!(
        host.tank(&[
            "exec",
            "web/app",
            "--",
            "/bin/sh",
            "-c",
            "cp /v/set_id /v/root && chmod 4755 /v/root"
        ])
        .status,
        0
    );
    host.exec("web/app", "chmod 755 /v/root && mkdir /v/plain && echo text > /v/plain/file && chmod 600 /v/plain/file");
    let mut user = host.inside("setpriv");
    user.args(["--reuid=1000", "--regid=1000", "--clear-groups"])
        .arg(dir.join("root"))
        .arg("who");
    let ended: Ended = user.output().expect("setpriv").into();
    assert_eq!(ended.ok(), "1000\n");
    let found = Command::new("find")
        .arg(&dir)
        .args(["-perm", "/6000"])
        .output()
        .expect("find");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    // Other pods are as they were: packages that bring such programs can be installed.
    host.switch(&format!(
        "{{ pods.plain.containers.app = {} }}",
        container("", sleeps)
    ));
    host.exec(
        "plain",
        "cp /bin/busybox /bin/mine && chmod 4755 /bin/mine && test -u /bin/mine",
    );
    host.finish();
}

#[test]
fn a_program_of_the_hosts_with_the_bit_is_not_for_a_container_to_write() {
    let host = Host::new();
    let dir = host.dir.join("srv");
    fs::create_dir_all(dir.join("bin")).expect("mkdir");
    let program = dir.join("bin/su");
    fs::copy("/bin/busybox", &program).expect("copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("set");
    // A page of it that is mapped and changed keeps the bit, and no filter sees that.
    let pods = with_volume("web", &dir, "/v");
    refused(
        &host,
        &pods,
        &["`bin/su` in it is set-user-id", "`read_only`"],
    );
    let config = format!("{{ {pods} }}");
    let only_read = config.replace("path = \"/v\" }", "path = \"/v\", read_only = true }");
    host.switch(&only_read);
    assert_eq!(
        host.exec(
            "web",
            "test -u /v/bin/su && echo seen; echo x 2>/dev/null > /v/bin/su || echo kept"
        ),
        "seen\nkept"
    );
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
    host.switch(&config);
    host.finish();
}

#[test]
fn no_process_without_the_filter_is_left_in_a_pod_that_gets_a_host_volume() {
    let host = Host::new();
    let dir = host.dir.join("srv");
    fs::create_dir_all(&dir).expect("mkdir");
    let old = format!("old = {{ image = \"oci:./busybox\", {RUN} }}");
    host.switch(&format!("{{ pods.web.containers = {{ {old} }} }}"));
    let before = host.pid("web", "old");
    host.exec("web/old", "cp /bin/busybox /mine && chmod 4755 /mine");
    let with = format!(
        "{{ pods.web = {{ containers = {{ {old}, new = {{ image = \"oci:./busybox\", {RUN},
              mounts.m = {{ volume = \"v\", path = \"/v\" }} }} }}, volumes.v.host = \"{}\" }} }}",
        dir.display()
    );
    // A descriptor of the directory could be handed to it.
    host.switch(&with);
    assert_ne!(
        host.pid("web", "old"),
        before,
        "it still runs without the filter"
    );
    assert_eq!(
        try_exec(
            &host,
            "web/old",
            "cp /bin/busybox /mine && chmod 4755 /mine"
        ),
        None
    );
    // Nor does one that keeps a descriptor go on when the volume goes.
    let filtered = host.pid("web", "new");
    let own = "volumes.v = {} } }";
    let without = with.replace(
        &format!("volumes.v.host = \"{}\" }} }}", dir.display()),
        own,
    );
    host.switch(&without);
    assert_ne!(host.pid("web", "new"), filtered);
    host.finish();
}
