//! Volumes that Tank keeps: what they begin with, whose they are, and that what is in them stays.

#[path = "volumes/another_store.rs"]
mod another_store;
#[path = "volumes/attributes.rs"]
mod attributes;
#[path = "volumes/replaced.rs"]
mod replaced;

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
        // What the daemon goes on with ends first, and a step that failed on the way is tried again when its time has come.
        let begun = std::time::Instant::now();
        loop {
            let switched = host.tank(&["switch", "pods.ncl"]);
            if switched.status == 0 {
                break;
            }
            let late = begun.elapsed().as_secs() > 120;
            assert!(!late, "at {at}: {}\n{}", switched.stderr, host.daemon_log());
        }
        eventually("it runs", || {
            host.tank(&["diff", "--exit-code"]).status == 0
        });
        assert_eq!(host.exec("db", LISTING), expected, "at {at}");
        let beside = fs::read_dir(host.dir.join("state/volumes/db")).expect("a folder");
        let mut names: Vec<_> = beside
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        // Once so many generations were made that the first ones go: who wrote to it in those.
        names.retain(|name| name != ".data.past");
        names.sort();
        assert_eq!(
            names,
            [
                ".data.began",
                ".data.filled",
                ".data.images",
                ".data.used",
                "data"
            ],
            "at {at}"
        );
    }
    assert!(died > 4, "{died} of {most}");
    host.finish();
}

/// The volumes that are listed, by name.
fn listed(host: &Host) -> std::collections::BTreeMap<String, serde_json::Value> {
    let list = host.tank(&["--json", "volume", "list"]).json();
    let list = list["volumes"].as_array().expect("volumes").clone();
    let name = |one: &serde_json::Value| one["name"].as_str().expect("a name").to_owned();
    list.into_iter().map(|one| (name(&one), one)).collect()
}

#[test]
fn volumes_are_listed_and_removed_when_they_are_asked_to_be_and_not_before() {
    let host = Host::new();
    let plain = |volumes: &str, mounts: &str| {
        format!(
            "{{ pods.db = {{ volumes = {{ {volumes} }}, containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\", mounts = {{ {mounts} }} }} }} }}"
        )
    };
    let (a, b) = (
        "a = { volume = \"a\", path = \"/a\" },",
        "b = { volume = \"b\", path = \"/b\" },",
    );
    host.switch(&plain("a = {}, b = {}", &format!("{a} {b}")));
    host.exec("db", "head -c 3000000 /dev/urandom > /a/f; echo x > /b/f");
    let found = listed(&host);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["db/a", "db/b"]);
    let one = &found["db/a"];
    assert_eq!(
        (&one["declared"], &one["mounted"], &one["at_least"]),
        (&true.into(), &true.into(), &false.into())
    );
    assert!(
        one["bytes"].as_u64().expect("a number") >= 3_000_000,
        "{one}"
    );
    assert_eq!(one["generations"], serde_json::json!([1]));
    assert!(one["used"].as_u64().is_some(), "{one}");
    // What is declared stays, also beside one that could go.
    let refused = host.tank(&["volume", "remove", "db/a"]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("pod `db` declares the volume `a`"),
        "{}",
        refused.stderr
    );
    host.switch(&plain("a = {}", a));
    let refused = host.tank(&["volume", "remove", "db/b", "db/a"]);
    assert_eq!(refused.status, 1);
    assert_eq!(listed(&host).len(), 2);
    // A generation still names it: it is no orphan, and goes when it is named.
    let none = host.tank(&["volume", "remove", "--orphans"]).ok();
    assert!(
        none.starts_with(
            "nothing to remove: an older generation declares what the current one does not"
        ) && none.contains("declared by generation 1\n"),
        "{none}"
    );
    let said = host.tank(&["volume", "remove", "db/b", "--dry-run"]).ok();
    assert!(
        said.starts_with("would remove db/b (") && said.contains("declared by 1"),
        "{said}"
    );
    assert!(on_disk(&host, "b").join("f").exists());
    let said = host.tank(&["volume", "remove", "db/b"]).ok();
    assert!(said.starts_with("removed db/b ("), "{said}");
    assert!(!on_disk(&host, "b").exists());
    assert_eq!(listed(&host).len(), 1);
    // A rollback begins it anew.
    host.tank(&["generations", "rollback", "1"]).ok();
    assert_eq!(host.exec("db", "ls /b; ls /a"), "f");
    // A misspelt one, and none.
    let refused = host.tank(&["volume", "remove", "db/aa"]);
    assert!(
        refused.stderr.contains("did you mean `db/a`?"),
        "{}",
        refused.stderr
    );
    let refused = host.tank(&["volume", "remove", "../../etc"]);
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("no such volume"),
        "{}",
        refused.stderr
    );
    assert_eq!(host.tank(&["volume", "remove"]).status, 2);
    // Nothing of a pod that is deleted goes by itself.
    host.tank(&["delete", "db"]).ok();
    assert_eq!(listed(&host).len(), 2);
    // One that was never declared is an orphan.
    fs::create_dir_all(host.dir.join("state/volumes/old/data/sub")).expect("made");
    assert_eq!(
        host.tank(&["volume", "remove", "--orphans", "--dry-run"])
            .ok(),
        "would remove old/data (4.0 KiB)\n"
    );
    assert_eq!(
        host.tank(&["volume", "remove", "--orphans"]).ok(),
        "removed old/data (4.0 KiB)\n"
    );
    assert!(!host.dir.join("state/volumes/old").exists());
    host.finish();
}

/// Everything below a directory of the host: kind, mode, owner, time, links, content and attributes.
fn digest(dir: &std::path::Path) -> String {
    let script = r"
import hashlib, os, stat, sys
top = sys.argv[1]
inodes = {}
for root, dirs, files in os.walk(top):
    for name in ['.'] * (root == top) + dirs + files:
        path = os.path.normpath(os.path.join(root, name)); s = os.lstat(path)
        of = os.readlink(path) if stat.S_ISLNK(s.st_mode) else hashlib.sha256(open(path, 'rb').read()).hexdigest() if stat.S_ISREG(s.st_mode) else ''
        marks = {n: os.getxattr(path, n) for n in os.listxattr(path, follow_symlinks=False)} if not stat.S_ISLNK(s.st_mode) else {}
        same = inodes.setdefault(s.st_ino, os.path.relpath(path, top)) if not stat.S_ISDIR(s.st_mode) else ''
        print(os.path.relpath(path, top), oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns, of, same if s.st_nlink > 1 else '', marks)
";
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(dir)
        .output();
    let output = output.expect("python3");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn an_archive_of_a_volume_makes_the_same_volume() {
    let host = Host::new();
    let image = image(&host, "db", DATABASE);
    host.switch(&pod(&image, "", ""));
    let long = "n".repeat(200);
    host.exec(
        "db",
        &format!(
            "cd /srv/db; mkdir -p {long}/{long}; echo deep > {long}/{long}/{long}; ln -s {long}/{long} far; ln conf {long}/hard; \
             echo w > .wh.conf; echo o > .wh..wh..opq; touch old; truncate -s 200000000 holes2; echo end >> holes2; mkdir -m 700 empty; chown 12:13 old"
        ),
    );
    // Also a time before 1970, to a nanosecond.
    let touched = std::process::Command::new("touch")
        .args(["-d", "1969-12-31 23:59:58.123456789 UTC"])
        .arg(on_disk(&host, "data").join("old"))
        .status();
    assert!(touched.expect("touch").success());
    let before = digest(&on_disk(&host, "data"));
    let (tar, gz) = (host.dir.join("v.tar"), host.dir.join("v.tar.gz"));
    let said = host
        .tank(&[
            "volume",
            "export",
            "db/data",
            "-o",
            tar.to_str().expect("a path"),
        ])
        .ok();
    assert!(said.starts_with("wrote "), "{said}");
    // It is as small as the volume, though a file of it is as large as a disk, and tar reads it.
    assert!(fs::metadata(&tar).expect("it is there").len() < 10 << 20);
    let read = std::process::Command::new("tar")
        .arg("tf")
        .arg(&tar)
        .output()
        .expect("tar");
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    let names = String::from_utf8_lossy(&read.stdout).into_owned();
    assert!(
        names
            .lines()
            .all(|name| !name.starts_with('/') && !name.contains("..wh..opq/")),
        "{names}"
    );
    // Not over what is there, and not while it is used.
    let path = tar.to_str().expect("a path");
    assert_eq!(
        host.tank(&["volume", "export", "db/data", "-o", path])
            .status,
        1
    );
    let refused = host.tank(&["volume", "import", "db/data", path, "--replace"]);
    assert_eq!(refused.status, 1);
    assert!(
        refused
            .stderr
            .contains("a container of pod `db` has `data` mounted"),
        "{}",
        refused.stderr
    );
    host.tank(&["delete", "db"]).ok();
    let refused = host.tank(&["volume", "import", "db/data", path]);
    assert!(
        refused.stderr.contains("has something in it") && refused.stderr.contains("--replace"),
        "{}",
        refused.stderr
    );
    // Of a pod that is not declared yet, through a pipe and packed.
    assert!(
        std::process::Command::new("gzip")
            .arg("-k")
            .arg(&tar)
            .status()
            .expect("gzip")
            .success()
    );
    let said = host
        .tank_with_input(
            &["volume", "import", "db/other"],
            &fs::read(&gz).expect("reads"),
        )
        .ok();
    assert!(said.starts_with("db/other has "), "{said}");
    assert_eq!(digest(&on_disk(&host, "other")), before);
    fs::write(on_disk(&host, "data").join("more"), "x").expect("written");
    host.tank(&["volume", "import", "db/data", path, "--replace"])
        .ok();
    assert_eq!(digest(&on_disk(&host, "data")), before);
    host.switch(&pod(&image, "", ""));
    assert_eq!(
        host.exec("db", "cat /srv/db/conf; stat -c %u:%g /srv/db/old"),
        "port = 1\n12:13"
    );
    // To standard output it is the same.
    let exported = host
        .command(&["volume", "export", "db/other"])
        .output()
        .expect("runs");
    let listed = |bytes: &[u8]| {
        fs::write(host.dir.join("again.tar"), bytes).expect("written");
        let read = std::process::Command::new("tar")
            .arg("tvf")
            .arg(host.dir.join("again.tar"))
            .output()
            .expect("tar");
        let mut lines: Vec<String> = String::from_utf8_lossy(&read.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(
        listed(&exported.stdout).len(),
        listed(&fs::read(&tar).expect("reads")).len()
    );
    host.finish();
}

/// Whatever is wrong with an archive, the volume is what it was; and a daemon that dies leaves the old
/// one or the new one.
#[test]
fn an_archive_is_taken_as_a_whole_or_not_at_all() {
    let mut host = Host::without_daemon();
    image(&host, "tree", DATABASE);
    let good = fs::read(host.dir.join("tree.tar")).expect("reads");
    let data = on_disk(&host, "data");
    let counter = host.dir.join("count");
    host.start_daemon_with(&[("TANKD_COUNT_TO", counter.to_str().expect("a path"))]);
    let import = |host: &Host, bytes: &[u8]| {
        host.tank_with_input(&["volume", "import", "db/data", "--replace"], bytes)
    };
    let count =
        || fs::read_to_string(&counter).map_or(0, |text| text.parse::<u64>().expect("a number"));
    import(&host, &good).ok();
    let whole = digest(&data);
    let unused = on_disk(&host, ".data.imported");
    let change = || {
        // As if a container had had it.
        let _ = fs::remove_file(&unused);
        fs::write(data.join("mine"), "x").expect("written");
        digest(&data)
    };
    // With something that was replaced before, whose place is taken as well.
    change();
    import(&host, &good).ok();
    change();
    let begin = count();
    import(&host, &good).ok();
    let most = count() - begin;
    assert!(most >= 4, "{most}");
    let mine = change();
    let kept = on_disk(&host, ".data.replaced");
    for (bytes, says) in [
        (&good[..good.len() / 2], ""),
        // Members without the end that says that there are no more.
        (&good[..1024], "it ends too early"),
        (b"no archive at all".as_slice(), ""),
        (b"".as_slice(), "it ends too early"),
    ] {
        let refused = import(&host, bytes);
        assert_eq!(refused.status, 1, "{}", refused.stdout);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
        assert_eq!(digest(&data), mine);
    }
    for at in 1..=most {
        host.kill_daemon();
        host.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        let (mine, replaced) = (digest(&data), digest(&kept));
        import(&host, &good);
        eventually("it has ended", || host.daemon_has_ended());
        host.reap_daemon();
        host.start_daemon();
        let now = digest(&data);
        assert!(now == mine || now == whole, "at {at}: {now}");
        // What was there is kept if it is another one now, and what was kept before if not.
        let expected = if now == mine { &replaced } else { &mine };
        assert_eq!(&digest(&kept), expected, "at {at}");
        eventually("nothing is left beside it", || {
            let left = fs::read_dir(data.parent().expect("a folder")).expect("a folder");
            let known = [
                "data",
                ".data.began",
                ".data.filled",
                ".data.imported",
                ".data.replaced",
            ];
            left.map(|entry| entry.expect("an entry").file_name())
                .all(|name| known.iter().any(|known| name == *known))
        });
        change();
    }
    // A removal that ends on its way leaves what was replaced whole, or none of it.
    let (mine, replaced) = (digest(&data), digest(&kept));
    let boundary = "what was replaced is out of the way";
    host.kill_daemon();
    host.start_daemon_with(&[("TANKD_DIE_AT", boundary)]);
    host.tank(&["volume", "remove", "db/data"]);
    eventually("it has ended", || host.daemon_has_ended());
    host.reap_daemon();
    host.start_daemon();
    assert_eq!(digest(&data), mine);
    let back = host.tank(&["volume", "restore", "db/data", "--replaced"]);
    assert!(
        back.status != 0 || digest(&data) == replaced,
        "{}",
        back.stderr
    );
    assert_eq!(back.status, 1, "{}", back.stdout);
    host.finish();
}
