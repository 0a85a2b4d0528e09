//! Volumes that Tank keeps: what they begin with, whose they are, and that what is in them stays.

use std::fs;
use tank_tests::{Host, RUN, eventually, images::image};

/// An image as that of a database: its directory belongs to its user, and has something in it.
const DATABASE: &str = r"
folder('srv/db', 0o2750, 999, 998)
file('srv/db/conf', b'port = 1\n', 0o640, 999, 998)
same('srv/db/again', 'srv/db/conf')
link('srv/db/out', '/etc/passwd', uid=999, gid=998)
link('srv/db/up', '../../../../../etc')
folder('srv/db/sub', 0o1777, 1, 2)
file('srv/db/sub/root', b'#!/bin/sh\n', 0o6755)
file('srv/db/sub/far', b'far', 0o600, 100000, 99)
fifo('srv/db/sub/fifo')
device('srv/db/sub/mem')
file('srv/db/holes', b'\0' * 3000000 + b'end', 0o444)
file('srv/db/marked', b'm', pax={'SCHILY.xattr.user.of': 'it'})
";

/// Every entry below a directory, directories first: kind and mode, owner, size, time, names, and where
/// it leads.
const LISTING: &str = "cd /srv/db && find . -type d -exec stat -c '%A %u:%g %Y %n' {} + | sort -k4 && \
     find . ! -type d -exec stat -c '%A %u:%g %s %Y %h %N' {} + | sort";

fn pod(image: &str, container: &str, volume: &str) -> String {
    format!(
        "{{ pods.db = {{ volumes.data = {{ {volume} }}, containers.app = {{ image = \"{image}\", {RUN}, \
         stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/srv/db\" }}, {container} }} }} }}"
    )
}

/// The directory of a volume on the host.
fn on_disk(host: &Host, volume: &str) -> std::path::PathBuf {
    host.dir.join("state/volumes/db").join(volume)
}

#[test]
fn a_volume_begins_with_what_the_image_has_and_keeps_what_is_written() {
    let host = Host::new();
    let image = image(&host, "db", DATABASE);
    host.switch(&pod(&image, "user = \"999:998\"", ""));
    let listing = host.exec("db", LISTING);
    let expected = [
        "drwxr-s--- 999:998 1000000000 .",
        "drwxrwxrwt 1:2 1000000000 ./sub",
        "-r--r--r-- 0:0 3000003 1000000000 1 ./holes",
        "-rw------- 65534:99 3 1000000000 1 ./sub/far",
        "-rw-r----- 999:998 9 1000000000 2 ./again",
        "-rw-r----- 999:998 9 1000000000 2 ./conf",
        "-rw-r--r-- 0:0 1 1000000000 1 ./marked",
        "-rwxr-xr-x 0:0 10 1000000000 1 ./sub/root",
        "lrwxrwxrwx 0:0 18 1000000000 1 './up' -> '../../../../../etc'",
        "lrwxrwxrwx 999:998 11 1000000000 1 './out' -> '/etc/passwd'",
        "prw-r--r-- 0:0 0 1000000000 1 ./sub/fifo",
    ];
    assert_eq!(listing.lines().collect::<Vec<_>>(), expected);
    assert_eq!(host.exec("db", "tail -c 3 /srv/db/holes"), "end");
    // Its user writes there, and on disk the ids are those of the container.
    host.exec("db", "id -u > /srv/db/mine");
    assert_eq!(
        fs::read_to_string(on_disk(&host, "data").join("mine")).expect("reads"),
        "999\n"
    );
    let marked = std::process::Command::new("python3")
        .args([
            "-c",
            "import os, sys; print(os.getxattr(sys.argv[1], 'user.of').decode())",
        ])
        .arg(on_disk(&host, "data").join("marked"))
        .output();
    assert_eq!(marked.expect("python3").stdout, b"it\n");
    // It stays over another container, and over a rollback; and what is removed stays away.
    host.exec("db", "rm /srv/db/conf");
    host.switch(&pod(&image, "user = \"999:998\", env.N = \"2\"", ""));
    assert_eq!(
        host.exec("db", "cat /srv/db/mine; ls /srv/db"),
        "999\nagain\nholes\nmarked\nmine\nout\nsub\nup"
    );
    host.tank(&["generations", "rollback"]).ok();
    assert_eq!(host.exec("db", "cat /srv/db/mine"), "999");
    host.exec("db", "rm -rf /srv/db/* ; id -u");
    host.switch(&pod(&image, "env.N = \"3\"", ""));
    host.exec("db", "rm -rf /srv/db/*");
    host.switch(&pod(&image, "env.N = \"4\"", ""));
    assert_eq!(host.exec("db", "ls /srv/db"), "");
    host.finish();
}

#[test]
fn a_volume_that_was_begun_empty_gets_what_a_later_image_has() {
    let host = Host::new();
    host.switch(&pod("oci:./busybox", "", ""));
    assert_eq!(
        host.exec("db", "stat -c '%a %u:%g' /srv/db; ls /srv/db"),
        "755 0:0"
    );
    let image = image(&host, "db", DATABASE);
    host.switch(&pod(&image, "", ""));
    assert_eq!(
        host.exec("db", "stat -c '%a %u:%g' /srv/db; cat /srv/db/conf"),
        "2750 999:998\nport = 1"
    );
    host.finish();
}

#[test]
fn what_was_changed_of_an_empty_volume_stays() {
    let host = Host::new();
    let image = image(&host, "db", DATABASE);
    // Only the init container sees it first, as that of another image.
    let text = format!(
        "{{ pods.db = {{ volumes.data.no_copy = true,
            init.own = {{ image = \"oci:./busybox\", command = [\"/bin/chown\", \"5:6\", \"/d\"], mounts.data = {{ volume = \"data\", path = \"/d\" }} }},
            containers.app = {{ image = \"{image}\", {RUN}, stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/srv/db\" }} }} }} }}"
    );
    host.switch(&text);
    assert_eq!(
        host.exec("db", "stat -c '%a %u:%g' /srv/db; ls /srv/db"),
        "755 5:6"
    );
    host.switch(
        &text
            .replace("no_copy = true", "no_copy = false")
            .replace("5:6", "5:7"),
    );
    assert_eq!(
        host.exec("db", "stat -c '%a %u:%g' /srv/db; ls /srv/db"),
        "755 5:7"
    );
    host.finish();
}

#[test]
fn of_several_containers_the_first_with_something_there_counts() {
    let host = Host::new();
    let image = image(&host, "db", DATABASE);
    host.switch(&format!(
        "{{ pods.db = {{ volumes.data = {{}},
            init.look = {{ image = \"oci:./busybox\", command = [\"/bin/sh\", \"-c\", \"cat /d/conf > /d/looked\"], mounts.data = {{ volume = \"data\", path = \"/d\" }} }},
            containers.app = {{ image = \"{image}\", {RUN}, stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/srv/db\" }} }} }} }}"
    ));
    // What runs before the containers has it already.
    assert_eq!(host.exec("db", "cat /srv/db/looked"), "port = 1");
    host.finish();
}

#[test]
fn an_owner_and_a_mode_are_the_directory_s_and_change_without_losing_anything() {
    let host = Host::new();
    let image = image(&host, "db", DATABASE);
    host.switch(&pod(&image, "", "owner = \"7:8\", mode = \"0711\""));
    let look = "stat -c '%a %u:%g' /srv/db /srv/db/conf";
    assert_eq!(host.exec("db", look), "711 7:8\n640 999:998");
    host.write(
        "next.ncl",
        &pod(&image, "", "owner = \"9\", mode = \"1770\""),
    );
    let plan = host.tank(&["diff", "next.ncl"]).ok();
    assert!(
        plan.contains("restart") && !plan.contains("data_risk") && !plan.contains("data risk"),
        "{plan}"
    );
    host.tank(&["switch", "next.ncl"]).ok();
    assert_eq!(host.exec("db", look), "1770 9:9\n640 999:998");
    // In memory, and with nothing of the image.
    host.switch(&pod(
        &image,
        "",
        "tmpfs = \"1MiB\", owner = \"7:8\", mode = \"0711\"",
    ));
    assert_eq!(
        host.exec("db", "stat -c '%a %u:%g' /srv/db; ls /srv/db"),
        "711 7:8"
    );
    host.switch(&pod(&image, "", "tmpfs = \"1MiB\""));
    assert_eq!(host.exec("db", "stat -c '%a %u:%g' /srv/db"), "1777 0:0");
    // The directory of the host is the host's.
    host.write(
        "bad.ncl",
        &pod(&image, "", "host = \"/srv\", owner = \"7\""),
    );
    let refused = host.tank(&["check", "bad.ncl"]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("tank::volume::misplaced"),
        "{}",
        refused.stderr
    );
    host.write("bad.ncl", &pod(&image, "", "owner = \"70000:1\""));
    assert_eq!(host.tank(&["check", "bad.ncl"]).status, 1);
    host.finish();
}

#[test]
fn a_directory_inside_of_a_volume_is_mounted_in_its_place() {
    let host = Host::new();
    let text = |path: &str| {
        format!(
            "{{ pods.db = {{ volumes.data = {{ owner = \"7:8\", mode = \"0750\" }}, containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\",
                mounts.whole = {{ volume = \"data\", path = \"/whole\" }},
                mounts.part = {{ volume = \"data\", path = \"/part\", sub_path = \"{path}\" }} }} }} }}"
        )
    };
    host.switch(&text("a/b"));
    assert_eq!(
        host.exec(
            "db",
            "echo x > /part/f; cat /whole/a/b/f; stat -c '%a %u:%g' /part /whole/a"
        ),
        "x\n750 7:8\n750 7:8"
    );
    host.switch(&text("a"));
    assert_eq!(host.exec("db", "cat /part/b/f"), "x");
    // Of a directory of the host only what is there.
    fs::create_dir_all(host.dir.join("files/in")).expect("made");
    fs::write(host.dir.join("files/in/f"), "of the host").expect("written");
    let files = host.dir.join("files");
    let text = |path: &str| {
        format!(
            "{{ pods.db = {{ volumes.data.host = \"{}\", containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\",
                mounts.part = {{ volume = \"data\", path = \"/part\", sub_path = \"{path}\" }} }} }} }}",
            files.display()
        )
    };
    host.switch(&text("in"));
    assert_eq!(host.exec("db", "cat /part/f"), "of the host");
    host.write("bad.ncl", &text("out"));
    let refused = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("it has no `out`"),
        "{}",
        refused.stderr
    );
    assert!(!files.join("out").exists());
    host.finish();
}

/// Whatever ends the daemon while it copies, no container starts with half of it.
#[test]
fn a_daemon_that_dies_while_it_copies_leaves_no_half() {
    let mut host = Host::without_daemon();
    let image = image(&host, "db", DATABASE);
    let config = pod(&image, "", "");
    let counter = host.dir.join("count");
    let count =
        || fs::read_to_string(&counter).map_or(0, |text| text.parse::<u64>().expect("a number"));
    // The boundaries of a whole switch, then each of them, on a host without the volume.
    host.start_daemon_with(&[("TANKD_COUNT_TO", counter.to_str().expect("a path"))]);
    host.switch(&config);
    let expected = host.exec("db", LISTING);
    let most = count();
    let mut died = 0;
    for at in 1..=most {
        host.tank(&["delete", "db"]).ok();
        host.kill_daemon();
        fs::remove_dir_all(host.dir.join("state/volumes")).expect("removed");
        host.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        host.write("pods.ncl", &config);
        host.tank(&["switch", "pods.ncl"]);
        if host.daemon_has_ended() {
            died += 1;
            host.reap_daemon();
            host.start_daemon();
        }
        eventually("it is switched", || {
            host.tank(&["switch", "pods.ncl"]).status == 0
        });
        eventually("it runs", || {
            host.tank(&["diff", "--exit-code"]).status == 0
        });
        assert_eq!(host.exec("db", LISTING), expected, "at {at}");
        let beside = fs::read_dir(host.dir.join("state/volumes/db")).expect("a folder");
        let mut names: Vec<_> = beside
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, [".data.filled", "data"], "at {at}");
    }
    assert!(died > 4, "{died} of {most}");
    host.finish();
}
