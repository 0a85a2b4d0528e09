//! Through the volumes that Tank keeps: by what an image has at their place, and by a container that
//! changes them while Tank is at it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt,
    path::Path,
};
use tank_tests::{Host, RUN, eventually, images::image};

/// What no pod may ever have.
fn canary(host: &Host) -> std::path::PathBuf {
    let path = host.dir.join("canary");
    fs::write(&path, "of the host").expect("written");
    path
}

fn pod(image: &str, path: &str) -> String {
    format!(
        "{{ pods.db = {{ volumes.data = {{}}, containers.app = {{ image = \"{image}\", {RUN}, stop.signal = \"SIGKILL\", \
         mounts.data = {{ volume = \"data\", path = \"{path}\" }} }} }} }}"
    )
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// An image whose directory is a link to one of the host, or has links in it: the volume gets what a
/// container would see there, and nothing of the host.
#[test]
fn an_image_s_links_lead_nowhere_else() {
    let host = Host::new();
    let canary = canary(&host);
    let here = host.dir.display().to_string();
    let script = format!(
        "link('srv/db', '{here}')\nlink('srv/up', '../../../../../..{here}')\nlink('srv/root', '/proc/1/root{here}')\n\
         link('srv/fd', '/proc/self/fd')\nlink('srv/in', '../etc/inner')\n\
         folder('etc/inner')\nlink('etc/inner/out', '{here}/canary')\nlink('etc/inner/dir', '{here}')\n"
    );
    let image = image(&host, "links", &script);
    let volume = host.dir.join("state/volumes/db/data");
    for path in ["/srv/db", "/srv/up", "/srv/root", "/srv/fd"] {
        host.switch(&pod(&image, path));
        assert_eq!(entries(&volume), [""; 0], "{path}");
        host.tank(&["delete", "db"]).ok();
        fs::remove_dir_all(host.dir.join("state/volumes")).expect("removed");
    }
    host.switch(&pod(&image, "/srv/in"));
    assert_eq!(entries(&volume), ["dir", "out"]);
    assert!(
        fs::symlink_metadata(volume.join("out"))
            .expect("a link")
            .is_symlink()
    );
    assert!(
        fs::symlink_metadata(volume.join("dir"))
            .expect("a link")
            .is_symlink()
    );
    assert_eq!(fs::read_to_string(canary).expect("reads"), "of the host");
    host.finish();
}

/// Programs that make another user of whoever runs them, devices, and owners that are the host's: none
/// of it reaches the state folder.
#[test]
fn nothing_of_power_is_copied_out_of_an_image() {
    let host = Host::new();
    let script = "folder('srv/db', 0o7777)\nfile('srv/db/root', b'x', 0o7777)\ndevice('srv/db/mem')\nfile('srv/db/id', b'x', 0o644, 2000000000, 70000)\n\
                  file('srv/db/caps', b'x', 0o755, pax={'SCHILY.xattr.security.capability': 'AAAAAgAAAAA'})\nfile('srv/db/.wh.gone')\n";
    let image = image(&host, "power", script);
    host.switch(&pod(&image, "/srv/db"));
    let volume = host.dir.join("state/volumes/db/data");
    assert_eq!(entries(&volume), ["caps", "id", "root"]);
    let found = |name: &str| fs::symlink_metadata(volume.join(name)).expect("it is there");
    assert_eq!(found("root").mode() & 0o7777, 0o1777);
    assert_eq!((found("id").uid(), found("id").gid()), (65_534, 65_534));
    assert_eq!(
        fs::symlink_metadata(&volume).expect("it is there").mode() & 0o7777,
        0o3777
    );
    let listed = std::process::Command::new("python3")
        .args(["-c", "import os, sys; print(os.listxattr(sys.argv[1]))"])
        .arg(volume.join("caps"))
        .output();
    assert_eq!(listed.expect("python3").stdout, b"[]\n");
    // Not that of a neighbour, nor the host's: only root comes there at all.
    for dir in ["state/volumes/db", "state"] {
        let mode = fs::metadata(host.dir.join(dir))
            .expect("it is there")
            .mode();
        assert_eq!(mode & 0o077, 0, "{dir}: {mode:o}");
    }
    host.finish();
}

/// A hundred thousand entries are copied in bounded memory, and a tree at the bound of a layer's depth.
#[test]
fn many_and_deep_entries_take_no_memory() {
    let host = Host::new();
    let script = "folder('srv/db')\n\
                  for n in range(100000): file(f'srv/db/{n:0>200}')\n\
                  folder('srv/db/' + '/'.join(['d'] * 250))\n";
    let image = image(&host, "many", script);
    host.switch(&pod(&image, "/srv/db"));
    let volume = host.dir.join("state/volumes/db/data");
    assert_eq!(entries(&volume).len(), 100_001);
    assert!(volume.join(vec!["d"; 250].join("/")).is_dir());
    let status = fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).expect("reads");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    let peak: u64 = peak
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    assert!(peak < 200 << 10, "the daemon had {peak} KiB");
    host.finish();
}

/// A copy that does not fit is not begun to be used, and leaves nothing.
#[test]
fn a_copy_that_does_not_fit_leaves_nothing() {
    let host = Host::without_daemon()
        .with_state_on("size=192m")
        .started_with(&[]);
    // Compressed it is small, and a hole nowhere.
    let script =
        "folder('srv/db')\nfor n in range(90): file(f'srv/db/{n}', bytes([n + 1]) * (1 << 20))\n";
    let image = image(&host, "large", script);
    host.write("pods.ncl", &pod(&image, "/srv/db"));
    let ended = host.tank(&["switch", "pods.ncl"]);
    assert_ne!(ended.status, 0, "{}", ended.stdout);
    assert!(
        ended.stderr.contains("use the volume `data`"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("kept for the store"),
        "{}",
        ended.stderr
    );
    let left = host
        .inside("find")
        .arg(host.dir.join("state/volumes/db"))
        // Who was about to write to it is noted.
        .args(["-mindepth", "1", "!", "-name", ".data.images"])
        .output();
    assert_eq!(String::from_utf8_lossy(&left.expect("find").stdout), "");
    host.finish();
}

/// A container that puts a link in the place of a directory inside of its volume: the next one that
/// asks for that directory is refused, and the host is not shown.
#[test]
fn a_link_in_the_place_of_a_sub_path_is_refused() {
    let host = Host::new();
    let canary = canary(&host);
    let text = |sub: &str, more: &str| {
        format!(
            "{{ pods.db = {{ volumes.data = {{}},
                containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/d\" }} }},
                containers.part = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/d\", sub_path = \"{sub}\" }}, {more} }} }} }}"
        )
    };
    host.switch(&text("in/part", ""));
    host.exec("db/part", "echo x > /d/f");
    for to in [
        "/".to_owned(),
        host.dir.display().to_string(),
        "/proc/self/root".to_owned(),
        "..".to_owned(),
        "../../../..".to_owned(),
        "other".to_owned(),
    ] {
        host.exec(
            "db/app",
            &format!("rm -rf /d/in; mkdir -p /d/other/part; ln -s {to} /d/in"),
        );
        host.write("next.ncl", &text("in/part", &format!("env.N = \"{to}\"")));
        let refused = host.tank(&["switch", "next.ncl"]);
        assert_eq!(refused.status, 3, "{}", refused.stderr);
        assert!(
            refused
                .stderr
                .contains("its `in` is a link, and none is followed"),
            "{}",
            refused.stderr
        );
        host.exec("db/app", "rm /d/in; mkdir /d/in; ln -s / /d/in/part");
        let refused = host.tank(&["switch", "next.ncl"]);
        assert!(
            refused
                .stderr
                .contains("its `in/part` is a link, and none is followed"),
            "{}",
            refused.stderr
        );
    }
    assert_eq!(fs::read_to_string(canary).expect("reads"), "of the host");
    host.exec("db/app", "rm /d/in/part; mkfifo /d/in/part");
    let refused = host.tank(&["switch", "next.ncl"]);
    assert!(
        refused.stderr.contains("its `in/part` is no directory"),
        "{}",
        refused.stderr
    );
    host.finish();
}

/// While a container swaps a directory of its volume for a link as fast as it can, another one is
/// started with that directory again and again: it has the volume's, or is not started.
#[test]
fn a_sub_path_that_is_swapped_all_the_time_never_shows_the_host() {
    let host = Host::new();
    canary(&host);
    let here = host.dir.display().to_string();
    let text = |n: u32| {
        format!(
            "{{ pods.db = {{ restart = 'never, volumes.data = {{}},
                containers.app = {{ image = \"oci:./busybox\", stop.signal = \"SIGKILL\",
                    command = [\"/bin/sh\", \"-c\", \"cd /d; mkdir -p real/x; ln -s {here} link; while true; do mv -T real in; mv -T in real; mv -T link in; mv -T in link; done\"],
                    mounts.data = {{ volume = \"data\", path = \"/d\" }} }},
                containers.part = {{ image = \"oci:./busybox\", env.N = \"{n}\",
                    command = [\"/bin/sh\", \"-c\", \"ls /d; exec sleep 1000\"], stop.signal = \"SIGKILL\",
                    mounts.data = {{ volume = \"data\", path = \"/d\", sub_path = \"in\" }} }} }} }}"
        )
    };
    for n in 0..12 {
        host.write("next.ncl", &text(n));
        host.tank(&["switch", "--no-rollback", "--timeout", "1s", "next.ncl"]);
        let log = host.tank(&["logs", "db/part"]);
        assert!(!log.stdout.contains("canary"), "{}", log.stdout);
    }
    host.finish();
}

/// A volume is its pod's: another pod that names one in the same way has its own.
#[test]
fn a_neighbour_s_volume_of_the_same_name_is_another() {
    let host = Host::new();
    let pod = |name: &str| {
        format!(
            "pods.{name} = {{ volumes.data = {{}}, containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/d\" }} }} }},"
        )
    };
    host.switch(&format!("{{ {} {} }}", pod("a"), pod("b")));
    host.exec("a", "echo a > /d/a");
    assert_eq!(
        host.exec("b", "ls -A /d; ls -A /d/.. | grep -c volumes || true"),
        "0"
    );
    host.finish();
}

/// What is exported of a volume is in the volume, whatever a container does with it meanwhile, and
/// gives whoever unpacks it nothing that it should not.
#[test]
fn an_export_never_leaves_a_volume_that_is_changed_all_the_time() {
    let host = Host::new();
    canary(&host);
    let here = host.dir.display().to_string();
    let command = format!(
        "cd /d; mkdir -p real/x; echo inside > real/canary; ln -s {here} link; mkfifo pipe; cp /bin/busybox root; chmod 6755 root; \
         (while true; do mv -T real in; mv -T in real; mv -T link in; mv -T in link; done) & \
         while true; do echo x > f; rm f; mkfifo f; rm f; ln -s {here}/canary f; rm f; done"
    );
    host.switch(&format!(
        "{{ pods.db = {{ volumes.data = {{}}, containers.app = {{ image = \"oci:./busybox\", stop.signal = \"SIGKILL\", \
         command = [\"/bin/sh\", \"-c\", \"{command}\"], mounts.data = {{ volume = \"data\", path = \"/d\" }} }} }} }}"
    ));
    tank_tests::eventually("it changes", || {
        host.exec(
            "db",
            "test -p /d/pipe && test -u /d/root && echo y || echo n",
        ) == "y"
    });
    for _ in 0..20 {
        let exported = host
            .command(&["volume", "export", "db/data"])
            .output()
            .expect("runs");
        assert!(
            exported.status.success(),
            "{}",
            String::from_utf8_lossy(&exported.stderr)
        );
        assert!(
            !exported
                .stdout
                .windows(11)
                .any(|bytes| bytes == b"of the host")
        );
        let script = "import sys, tarfile, io\nfor m in tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())):\n    assert not m.mode & 0o6000 or m.isdir(), m\n    assert not m.name.startswith('/') and '..' not in m.name.split('/'), m\n    assert m.isreg() or m.isdir() or m.issym() or m.isfifo() or m.islnk(), m\n";
        fs::write(host.dir.join("v.tar"), &exported.stdout).expect("written");
        let checked = std::process::Command::new("python3")
            .args(["-c", script])
            .stdin(fs::File::open(host.dir.join("v.tar")).expect("opens"))
            .output()
            .expect("python3");
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
    host.finish();
}

/// An archive that has links out, names that climb, devices and programs of power: it is refused, or
/// what it has is in the volume.
#[test]
fn an_archive_reaches_nothing_but_its_volume() {
    let host = Host::new();
    let canary = canary(&host);
    let here = host.dir.display().to_string();
    let import = |tag: &str, script: &str| {
        image(&host, tag, script);
        let path = host.dir.join(format!("{tag}.tar"));
        host.tank(&[
            "volume",
            "import",
            "db/data",
            path.to_str().expect("a path"),
            "--replace",
        ])
    };
    let volume = host.dir.join("state/volumes/db/data");
    for (tag, script) in [
        ("climbs", "file('../../canary', b'bad')".to_owned()),
        (
            "hard",
            format!("same('out', '../../../canary')\nsame('abs', '{here}/canary')"),
        ),
    ] {
        let refused = import(tag, &script);
        assert_eq!(refused.status, 1, "{tag}: {}", refused.stdout);
        assert!(!volume.exists(), "{tag}");
    }
    // Through a link of its own it gets no further than the volume's top.
    let through = import(
        "through",
        &format!(
            "link('out', '{here}')\nfile('out/canary', b'bad')\ndevice('mem')\nfile('{here}/abs', b'x')\nfile('root', b'x', 0o6755)"
        ),
    );
    if through.status == 0 {
        assert_eq!(
            fs::symlink_metadata(volume.join("root"))
                .expect("it is there")
                .mode()
                & 0o7777,
            0o755
        );
        assert!(!volume.join("mem").exists());
    }
    assert_eq!(fs::read_to_string(canary).expect("reads"), "of the host");
    assert!(!host.dir.join("abs").exists());
    // A name that is no volume's is none of a folder either.
    for name in ["../x/data", "db/../../x", "db/.data.new", "/db/data", "db"] {
        let refused = host.tank_with_input(&["volume", "import", name], b"");
        assert_eq!(refused.status, 1, "{name}");
        assert!(
            refused.stderr.contains("no such volume"),
            "{}",
            refused.stderr
        );
    }
    host.finish();
}

/// Whoever asks for archives and does not read them holds a few, and nobody else up.
#[test]
fn exports_that_nobody_reads_are_few_and_end_with_their_reader() {
    let host = Host::new();
    host.switch(&pod("oci:./busybox", "/d"));
    host.exec("db", "head -c 4000000 /dev/zero | tr '\\0' x > /d/f");
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut command = host.command(&["volume", "export", "db/data"]);
        let mut one = command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("runs");
        // It has begun, and is read no further.
        let out = one.stdout.as_mut().expect("its output");
        out.read_exact(&mut [0]).expect("a byte");
        held.push(one);
    }
    let refused = host.tank(&["volume", "export", "db/data", "-o", "v.tar"]);
    assert_eq!(refused.status, 1);
    let busy = refused.stderr;
    assert!(busy.contains("too many archives"), "{busy}");
    assert!(!host.dir.join("v.tar").exists());
    host.switch(&pod("oci:./busybox", "/e"));
    for mut one in held {
        one.kill().expect("ends");
        one.wait().expect("ends");
    }
    tank_tests::eventually("there is room again", || {
        host.tank(&["volume", "export", "db/data", "-o", "w.tar"])
            .status
            == 0
    });
    host.finish();
}

/// Whoever begins to send archives and sends nothing holds nobody up.
#[test]
fn who_sends_nothing_has_no_place_among_those_that_do() {
    let host = Host::new();
    host.switch(&pod("oci:./busybox", "/d"));
    let mut held = Vec::new();
    for command in [
        ["image", "load", "-"],
        ["volume", "import", "db/other"],
        ["generations", "import", "-"],
    ] {
        for _ in 0..2 {
            let mut command = host.command(command.as_slice());
            let piped = std::process::Stdio::piped;
            held.push(
                command
                    .stdin(piped())
                    .stdout(piped())
                    .stderr(piped())
                    .spawn()
                    .expect("runs"),
            );
        }
    }
    // They have asked.
    let asked = || {
        held.iter().all(|one| {
            let wchan = fs::read_dir(format!("/proc/{}/fd", one.id())).expect("it runs");
            let links = wchan
                .flatten()
                .filter_map(|fd| fs::read_link(fd.path()).ok());
            links
                .filter(|link| link.to_string_lossy().starts_with("pipe:"))
                .count()
                > 3
        })
    };
    tank_tests::eventually("all of them have a pipe", asked);
    host.tank(&["volume", "export", "db/data", "-o", "v.tar"])
        .ok();
    let archive = fs::read(host.dir.join("v.tar")).expect("an archive");
    host.tank_with_input(&["volume", "import", "db/third"], &archive)
        .ok();
    for mut one in held {
        one.kill().expect("ends");
        one.wait().expect("ends");
    }
    host.finish();
}

/// Four bytes and no more: the place is somebody else's a minute later.
#[test]
fn who_sends_no_further_loses_the_place() {
    let host = Host::new();
    host.switch(&pod("oci:./busybox", "/d"));
    let hold = |number: usize| {
        let mut command = host.command(&["volume", "import", &format!("db/held{number}")]);
        let piped = std::process::Stdio::piped;
        let command = command.stdin(piped()).stdout(piped()).stderr(piped());
        let mut one = command.spawn().expect("runs");
        let mut input = one.stdin.take().expect("a pipe");
        // Who was refused does not read it.
        let _ = input.write_all(b"\x28\xb5\x2f\xfd");
        (one, input)
    };
    let mut held: Vec<_> = (0..4).map(hold).collect();
    let export = || host.tank(&["volume", "export", "db/data"]);
    let taken = || {
        let is_refused = tank_tests::words(&export().stderr).contains("too many archives");
        // An export that was let has the place of one that comes late, which is refused then: again.
        for (number, one) in held.iter_mut().enumerate() {
            if one.0.try_wait().expect("a status").is_some() {
                *one = hold(number);
            }
        }
        is_refused
    };
    eventually("all places are taken", taken);
    for (one, input) in held {
        let ended: tank_tests::Ended = one.wait_with_output().expect("ends").into();
        drop(input);
        assert_ne!(ended.status, 0);
        let words = tank_tests::words(&ended.stderr);
        assert!(words.contains("nothing for a minute"), "{words}");
    }
    export().ok();
    host.finish();
}

/// Whether a container has a volume is not the container's to say: by a name that is no text, or since the volumes
/// are on a file system of their own.
#[test]
fn what_a_container_has_mounted_is_not_replaced_whatever_it_is_called() {
    for own_disk in [false, true] {
        let mut host = Host::without_daemon();
        if own_disk {
            let (there, volumes) = (host.dir.join("disk"), host.dir.join("state/volumes"));
            for dir in [&there, &volumes] {
                fs::create_dir_all(dir).expect("a folder");
            }
            let mut mount = host.inside("mount");
            let mounted = mount.arg("--bind").args([&there, &volumes]).status();
            assert!(mounted.expect("mount").success());
        }
        host.start_daemon();
        let script = "echo precious > /data/x; mv /data/s /data/$(printf '\\377'); sleep 10000";
        host.switch(&format!(
            "{{ pods.web = {{ volumes.d = {{}}, containers.app = {{ image = \"oci:./busybox\", stop.signal = \"SIGKILL\", \
             command = [\"/bin/sh\", \"-c\", m%\"{script}\"%], mounts.d = {{ volume = \"d\", path = \"/data\" }}, \
             mounts.t = {{ volume = \"d\", path = \"/s\", sub_path = \"s\" }} }} }} }}"
        ));
        let tar = std::process::Command::new("tar")
            .args(["--create", "--file"])
            .arg(host.dir.join("new.tar"))
            .args(["--directory", "/etc", "hostname"])
            .status();
        assert!(tar.expect("tar").success());
        eventually("it has written", || {
            host.exec("web", "cat /data/x") == "precious"
        });
        let refused = host.tank(&["volume", "import", "--replace", "web/d", "new.tar"]);
        assert_eq!(refused.status, 1, "{}", refused.stdout);
        let why = "a container of pod `web` has `d` mounted";
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
        assert_eq!(host.exec("web", "cat /data/x"), "precious");
        host.tank(&["delete", "web"]).ok();
        host.tank(&["volume", "import", "--replace", "web/d", "new.tar"])
            .ok();
        if own_disk {
            host.kill_daemon();
            let mut umount = host.inside("umount");
            let gone = umount.arg(host.dir.join("state/volumes")).status();
            assert!(gone.expect("umount").success());
            host.start_daemon();
        }
        host.finish();
    }
}
