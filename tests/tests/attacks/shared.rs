//! Through a volume that pods share: from one of them against the others, and against the host.

use std::{fs, os::unix::fs::MetadataExt};
use tank_tests::{Host, RUN};

fn pod(user: &str, mount: &str) -> String {
    format!(
        "{{ volumes.up.shared = \"up\", containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\", user = \"{user}\",
            mounts.up = {{ volume = \"up\", path = \"/up\", {mount} }} }} }}"
    )
}

/// A program with the set-user-id bit and a device, of one pod's root: another pod's user gets nothing by them.
#[test]
fn a_program_of_another_pod_makes_no_root_of_anybody() {
    let host = Host::new();
    host.switch(&format!(
        "{{ volumes.up.mode = \"1777\", pods.evil = {}, pods.web = {} }}",
        pod("0", ""),
        pod("1000:1000", "")
    ));
    host.exec(
        "evil",
        "cp /bin/busybox /up/busybox; chmod 6755 /up/busybox",
    );
    assert_eq!(
        host.exec("evil", "stat -c '%A %u' /up/busybox"),
        "-rwsr-sr-x 0"
    );
    assert_eq!(
        host.exec(
            "web",
            "/up/busybox id -u; /up/busybox id -g; stat -c '%A %u' /up/busybox"
        ),
        "1000\n1000\n-rwsr-sr-x 0"
    );
    let refused = host.tank(&["exec", "evil", "--", "mknod", "/up/mem", "c", "1", "1"]);
    assert_ne!(refused.status, 0);
    // What it says on the disk, nobody but root gets at.
    let mode = fs::metadata(host.dir.join("state/shared-volumes"))
        .expect("it is there")
        .mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    host.finish();
}

/// A pod that swaps directories for links, and for directories of its own, while another starts with a
/// directory of the volume: what that one mounts is of the volume, and no directory that was there is
/// given another owner or mode.
#[test]
fn a_directory_that_is_swapped_while_another_pod_starts_is_of_the_volume_still() {
    let host = Host::new();
    let canary = host.dir.join("canary");
    fs::create_dir(&canary).expect("made");
    fs::write(canary.join("secret"), "of the host").expect("written");
    let before = fs::metadata(&canary).expect("it is there");
    let config = |step: &str| {
        format!(
            "{{ volumes.up = {{ owner = \"5:5\", mode = \"0777\" }}, pods.evil = {}, pods.web = {} & {{ containers.app.env.STEP = \"{step}\" }} }}",
            pod("0", ""),
            pod("0", "sub_path = \"a/b\"")
        )
    };
    host.switch(&config("0"));
    let here = canary.display().to_string();
    host.exec(
        "evil",
        "mkdir -p /up/kept/b; chmod 700 /up/kept /up/kept/b; echo k > /up/kept/b/k",
    );
    // As fast as a shell can: nothing, a link out, a directory of its own.
    let script = format!(
        "cd /up; while [ ! -e stop ]; do rm -rf a; ln -s {here} a; rm -f a; mkdir a; ln -s {here} a/b; rm -rf a; mv -T kept a; mv -T a kept; done"
    );
    let mut racing = host
        .command(&["exec", "evil", "--", "sh", "-c", &script])
        .spawn()
        .expect("runs");
    for step in 1..12 {
        host.write("next.ncl", &config(&step.to_string()));
        let switched = host.tank(&["switch", "--no-rollback", "--timeout", "20s", "next.ncl"]);
        if switched.status == 0 {
            let found = host.tank(&["exec", "web", "--", "ls", "/up"]);
            assert!(!found.stdout.contains("secret"), "{}", found.stdout);
        }
    }
    host.exec("evil", "touch /up/stop");
    racing.wait().expect("ends");
    let after = fs::metadata(&canary).expect("it is there");
    assert_eq!(
        (after.uid(), after.mode(), after.ino()),
        (before.uid(), before.mode(), before.ino())
    );
    let names: Vec<_> = fs::read_dir(&canary)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["secret"]);
    // Wherever the directory of the racing pod is by now, it is as that pod made it.
    let kept = host.exec(
        "evil",
        "cd /up; [ -d kept ] || mv -T a kept; stat -c '%a %u:%g' kept kept/b; cat kept/b/k",
    );
    assert_eq!(kept, "700 0:0\n700 0:0\nk");
    host.finish();
}
