//! What a container can do to its host: nothing.

use super::*;

/// `tank_plan::target::DEFAULT_CAPABILITIES` as the kernel writes them: bits 0, 1, 3 to 8, 10, 18 and 31.
const DEFAULT_CAPABILITIES: &str = "00000000800405fb";

/// What root inside a container that is not even read-only tries against its host.
fn root_can_do_no_harm(host: &Host) {
    assert_eq!(
        host.exec("root", "id -u; id -g; touch /etc/mine && echo wrote"),
        "0\n0\nwrote"
    );
    // The host's own settings, to see that they are as they were.
    let settings = [
        "kernel/panic",
        "kernel/core_pattern",
        "vm/drop_caches",
        "kernel/hostname",
    ];
    let read = || {
        settings.map(|setting| {
            std::fs::read_to_string(format!("/proc/sys/{setting}")).unwrap_or_default()
        })
    };
    let before = read();
    let tried = [
        "mount -t tmpfs none /tmp",
        "mount -t proc none /tmp",
        "mount --bind / /tmp",
        "mount -o remount,rw /sys",
        "umount /proc",
        "umount -l /etc/hosts",
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "chroot / mount -t tmpfs none /tmp",
        "mknod /tmp/null c 1 3",
        "mknod /tmp/sda b 8 0",
        "head -c 1 /proc/kcore | grep -q .",
        "head -c 1 /dev/mem",
        "ls /sys/firmware | grep -q .",
        "echo 1 > /proc/sys/kernel/panic",
        "echo core > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo 1 > /proc/sysrq-trigger",
        "echo -1000 > /proc/1/oom_score_adj",
        "hostname elsewhere",
        // Should one of these be permitted, it does the host no harm.
        "adjtimex -o 0",
        "dmesg | grep -q .",
        "ip link set eth0 down",
        "ip addr add 192.0.2.1/24 dev eth0",
        "ip link add dummy0 type dummy",
        "reboot -f",
        "mkdir /sys/fs/cgroup/mine",
        "echo max > /sys/fs/cgroup/pids.max",
        "echo $$ > /sys/fs/cgroup/cgroup.procs",
    ];
    let mut permitted = Vec::new();
    for script in tried {
        let ended = host.tank(&["exec", "root", "--", "/bin/sh", "-c", script]);
        // Refused, and not for lack of the program that tries it.
        if [0, 125, 126, 127].contains(&ended.status) || ended.stderr.contains("not found") {
            permitted.push((script, ended));
        }
    }
    assert!(permitted.is_empty(), "{permitted:#?}");
    assert_eq!(read(), before);
    // It sees its own processes only, and what it owns it owns under its own ids.
    assert_eq!(
        host.exec(
            "root",
            "ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm | head -n 1"
        )
        .lines()
        .nth(1),
        Some("sh")
    );
    use std::os::unix::fs::MetadataExt;
    let made = format!("/proc/{}/root/etc/mine", host.pid("root", "app"));
    assert!(std::fs::metadata(made).expect("the file").uid() >= 0x7000_0000);
}

#[test]
fn a_container_is_confined() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ pods.web = {{ containers.app = {{ image = "oci:./busybox", {RUN}, user = "web", read_only = true,
             limits = {{ memory = "16MiB", pids = 20, cpu = 0.5 }} }}, hostname = "front.example" }},
              pods.root = {{ containers.app = {{ image = "oci:./busybox", {RUN}, user = "0" }} }} }}"#
    ));
    let pid = host.pid("web", "app");
    for (pod, capabilities) in [("web", "0000000000000000"), ("root", DEFAULT_CAPABILITIES)] {
        let pid = host.pid(pod, "app");
        // Every namespace is its own.
        for kind in ["mnt", "pid", "uts", "ipc", "net", "cgroup", "user"] {
            let of = |path: String| std::fs::read_link(path).expect("a namespace");
            assert_ne!(
                of(format!("/proc/{pid}/ns/{kind}")),
                of(format!("/proc/self/ns/{kind}")),
                "{pod}: {kind}"
            );
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let field = |name: &str| {
            status
                .lines()
                .find(|l| l.starts_with(name))
                .expect(name)
                .split_whitespace()
                .nth(1)
                .expect(name)
                .to_owned()
        };
        assert_eq!(
            (field("NoNewPrivs:"), field("Seccomp:")),
            ("1".into(), "2".into()),
            "{pod}"
        );
        assert_eq!(
            (field("CapEff:"), field("CapAmb:")),
            (capabilities.into(), "0000000000000000".into()),
            "{pod}"
        );
        assert_eq!(field("CapBnd:"), DEFAULT_CAPABILITIES, "{pod}");
        assert!(
            field("Uid:").parse::<u32>().expect("a number") >= 0x7000_0000,
            "{pod}: an id of its own range"
        );
    }
    root_can_do_no_harm(&host);
    assert_eq!(
        host.exec("web", "id -u; id -g; id -G; hostname; cat /etc/hostname"),
        "33\n44\n44 55\nfront.example\nfront.example"
    );
    assert!(host.exec("web", "cat /etc/hosts").contains("front.example"));
    // A link of the image that led nowhere leads to Tank's file.
    assert_eq!(
        host.exec(
            "web",
            "readlink /etc/resolv.conf; test -f /etc/resolv.conf && echo file"
        ),
        "../run/resolve/stub.conf\nfile"
    );
    // Nothing can be written, mounted or looked at that is not its own.
    for refused in [
        "touch /etc/x",
        "mount -t tmpfs none /tmp",
        "unshare -U true",
        "cat /proc/kcore | head -c 1 | grep -q .",
        "echo 1 > /proc/sys/kernel/panic",
    ] {
        let ended = host.tank(&["exec", "web", "--", "/bin/sh", "-c", refused]);
        assert_ne!(
            ended.status, 0,
            "{refused}: {}{}",
            ended.stdout, ended.stderr
        );
    }
    // No descriptor of Tank's leaks in.
    assert_eq!(
        host.exec("web", "ls /proc/1/fd | tr '\\n' ' '")
            .split_whitespace()
            .filter(|fd| fd.parse::<u32>().is_ok_and(|fd| fd > 2 && fd != 10))
            .count(),
        0
    );
    // The limits are the kernel's.
    let limit = |file: &str| {
        let found = std::process::Command::new("find")
            .args([
                "/sys/fs/cgroup",
                "-path",
                &format!("*/{}/web/app/{file}", host.cgroup),
            ])
            .output()
            .expect("find");
        let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        (!path.is_empty()).then(|| {
            std::fs::read_to_string(path)
                .expect("read")
                .trim()
                .to_owned()
        })
    };
    let memory = limit("memory.limit_in_bytes").or_else(|| limit("memory.max"));
    assert_eq!(memory.as_deref(), Some("16777216"));
    assert_eq!(limit("pids.max").as_deref(), Some("20"));
    // Editing a limit changes it in place.
    host.write(
        "more.ncl",
        &format!(
            r#"{{ pods.web = {{ containers.app = {{ image = "oci:./busybox", {RUN}, user = "web", read_only = true,
             limits = {{ memory = "16MiB", pids = 30, cpu = 0.5 }} }}, hostname = "front.example" }},
              pods.root = {{ containers.app = {{ image = "oci:./busybox", {RUN}, user = "0" }} }} }}"#
        ),
    );
    let diff = host.tank(&["diff", "more.ncl"]).ok();
    assert!(
        diff.contains("in place  set the limits of web/app  pids changed"),
        "{diff}"
    );
    host.tank(&["switch", "more.ncl"]).ok();
    assert_eq!(
        (limit("pids.max").as_deref(), host.pid("web", "app")),
        (Some("30"), pid)
    );
    host.finish();
}
