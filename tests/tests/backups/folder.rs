//! The folder: whose it may be, what of it stays, and what is full.

use super::*;

#[test]
fn as_many_are_kept_as_are_wanted_and_no_other_file_is_touched() {
    let host = Host::new();
    make_folder(&host);
    let at = |name: &str| folder(&host).join(name);
    let foreign = [
        "db.data-1-20200101T000000Z.tar.zst",
        "db.data-20200101T000000Z.tar",
        "db.data-20200101T000000Z.tar.zst.bak",
        "blog.db.data-20200101T000000Z.tar.zst",
        ".db.data-1-20200101T000000Z.tar.zst.new",
        "notes",
    ];
    for name in foreign {
        fs::write(at(name), "mine").expect("writes");
    }
    // With the very name, and no file of root's.
    fs::create_dir(at("db.data-20200102T000000Z.tar.zst")).expect("a folder");
    std::os::unix::fs::symlink("notes", at("db.data-20200103T000000Z.tar.zst")).expect("a link");
    fs::write(at("db.data-20200104T000000Z.tar.zst"), "mine").expect("writes");
    std::os::unix::fs::chown(at("db.data-20200104T000000Z.tar.zst"), Some(1000), None)
        .expect("an owner");
    // Half of one that nobody writes goes.
    fs::write(at(".db.data-20200105T000000Z.tar.zst.new"), "half").expect("writes");
    let theirs = files(&host).len() - 1;
    declare(&host, &pod(&host, "every = \"1d\", keep = 2"));
    host.exec("db", "echo 1 > /d/one");
    let made: Vec<PathBuf> = (0..4).map(|_| back_up(&host)).collect();
    let mut expected: Vec<String> = made[2..]
        .iter()
        .map(|path| {
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    expected.sort();
    let all = files(&host);
    assert_eq!(all.len(), theirs + 2, "{all:?}");
    assert!(
        expected.iter().all(|name| all.contains(name)),
        "{all:?} {expected:?}"
    );
    for name in foreign {
        assert_eq!(fs::read(at(name)).expect("it is there"), b"mine");
    }
    // The pod goes, and its backups stay; so does what another of the same folder has.
    host.tank(&["delete", "db"]).ok();
    assert_eq!(files(&host), all);
    let none = host.tank(&["--json", "volume", "backups"]).json();
    assert_eq!(none["backups"], serde_json::json!([]));
    host.finish();
}

#[test]
fn a_folder_that_is_not_root_s_alone_is_refused() {
    let host = Host::new();
    make_folder(&host);
    let config = pod(&host, "every = \"1d\"");
    declare(&host, &config);
    back_up(&host);
    let kept = files(&host);
    let to = folder(&host);
    fs::set_permissions(&to, fs::Permissions::from_mode(0o777)).expect("a mode");
    assert!(refused(&host).contains("can be written by others than root"));
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("a mode");
    std::os::unix::fs::chown(&to, Some(1000), None).expect("an owner");
    let said = refused(&host);
    assert!(
        said.contains("can be written by others than root") && said.contains("chown root"),
        "{said}"
    );
    assert!(!said.contains("chmod"), "{said}");
    std::os::unix::fs::chown(&to, Some(0), None).expect("an owner");
    // What everybody may write to on purpose is not to be changed.
    fs::set_permissions(&to, fs::Permissions::from_mode(0o1777)).expect("a mode");
    let said = refused(&host);
    assert!(said.contains("install -d -m 0700"), "{said}");
    assert!(!said.contains("chown") && !said.contains("chmod"), "{said}");
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("a mode");
    back_up(&host);
    assert_eq!(files(&host).len(), kept.len() + 1);
    // What is named instead: nothing, a file, a link that somebody may have put there, the state folder, what a container writes.
    let named = |name: &str| {
        config.replace(
            &to.display().to_string(),
            &host.dir.join(name).display().to_string(),
        )
    };
    fs::write(host.dir.join("file"), "").expect("writes");
    fs::create_dir(host.dir.join("others")).expect("a folder");
    std::os::unix::fs::chown(host.dir.join("others"), Some(1000), None).expect("an owner");
    std::os::unix::fs::symlink(&to, host.dir.join("others/link")).expect("a link");
    fs::create_dir(host.dir.join("state/mine")).expect("a folder");
    // It is said at its line, by a diff as well, and nothing is disturbed.
    let generations = host.tank(&["--json", "generations", "list"]).json();
    let unusable = |config: &str| {
        host.write("pods.ncl", config);
        let said = ["diff", "switch"].map(|command| {
            let ended = host.tank(&[command, "pods.ncl"]);
            assert_eq!(ended.status, 1, "{ended:?}");
            tank_tests::words(&ended.stderr)
        });
        for part in [
            "tank::host::backup",
            "to = \"",
            "the backups of db/data can't go there",
        ] {
            assert!(
                said[0].contains(part) && said[1].contains(part),
                "{part}: {said:?}"
            );
        }
        said[1].clone()
    };
    for (name, why) in [
        ("missing", "there is no directory"),
        ("file", ""),
        ("others/link", "link"),
        ("state/mine", "it is inside of Tank's own state folder"),
        (
            "state/volumes/db/data",
            "it is inside of Tank's own state folder",
        ),
    ] {
        let said = unusable(&named(name));
        assert!(said.contains(why), "{name}: {said}");
    }
    fs::create_dir_all(host.dir.join("srv/sub")).expect("a folder");
    let srv = host.dir.join("srv").display().to_string();
    let other = format!(
        "pods.db = {{ volumes.srv.host = \"{srv}\", containers.app.mounts.srv = {{ volume = \"srv\", path = \"/srv\" }} }}"
    );
    let said = unusable(&format!("({}) & {{ {other} }}", named("srv/sub")));
    assert!(said.contains("which a container can write"), "{said}");
    assert_eq!(
        host.tank(&["--json", "generations", "list"]).json(),
        generations
    );
    back_up_later(&host);
    host.finish();
}

#[test]
fn a_full_disk_fails_and_keeps_what_was_there() {
    let host = Host::without_daemon();
    make_folder(&host);
    sh(
        &host,
        &format!(
            "mount -t tmpfs -o size=16m,mode=755 backups {}",
            folder(&host).display()
        ),
    );
    let fixed = host.dir.join("fixed").display().to_string();
    sh(
        &host,
        &format!("mkdir {fixed}; mount -t tmpfs -o ro,mode=755 fixed {fixed}"),
    );
    let mut host = host;
    host.start_daemon();
    // One in which nobody can make anything is none from the begin.
    let config = pod(&host, "every = \"1d\"");
    let to = folder(&host).display().to_string();
    host.write("fixed.ncl", &config.replace(&to, &fixed));
    let ended = host.tank(&["diff", "fixed.ncl"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.stderr.contains("read-only"), "{}", ended.stderr);
    let inside = |host: &Host| sh(host, &format!("ls -A {}", folder(host).display()));
    declare(&host, &pod(&host, "every = \"1d\", keep = 1"));
    host.exec("db", "head -c 1000000 /dev/urandom > /d/little");
    back_up(&host);
    let kept = inside(&host);
    assert_eq!(kept.lines().count(), 1, "{kept}");
    host.exec("db", "head -c 40000000 /dev/urandom > /d/much");
    let ended = host.tank(&["volume", "backup", "db/data"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    let why = tank_tests::words(&ended.stderr);
    assert!(why.contains("stay free"), "{why}");
    assert_eq!(inside(&host), kept);
    sh(
        &host,
        &format!("umount {} {fixed}", folder(&host).display()),
    );
    host.finish();
}

#[test]
fn backups_of_nothing_leave_those_of_something() {
    let host = Host::new();
    make_folder(&host);
    declare(&host, &pod(&host, "every = \"1d\", keep = 2"));
    host.exec("db", "echo 1 > /d/one");
    let first = back_up_later(&host);
    let second = back_up_later(&host);
    host.exec("db", "rm /d/one");
    let empty: Vec<PathBuf> = (0..3).map(|_| back_up_later(&host)).collect();
    let expected = |paths: &[&PathBuf]| {
        let name = |path: &&PathBuf| {
            let name = path.file_name().expect("a name");
            name.to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = paths.iter().map(name).collect();
        names.sort();
        names
    };
    assert_eq!(
        files(&host),
        expected(&[&first, &second, &empty[1], &empty[2]])
    );
    let why = "`db/data` is empty: older backups stay";
    let failed = |host: &Host| shown(host)["failed"].as_str().map(str::to_owned);
    assert_eq!(failed(&host).as_deref(), Some(why));
    assert!(events(&host, "backup_failed").contains(&why.to_owned()));
    let status = host.tank(&["status"]).ok();
    assert!(status.contains("failed of db/data"), "{status}");
    assert_eq!(shown(&host)["count"], 4);
    // It is made: no other is due for a day.
    assert!(shown(&host)["next"].as_u64().expect("a time") > 3_600_000);
    // Once something is in it again, one goes for one that comes.
    host.exec("db", "echo 2 > /d/two");
    let third = back_up_later(&host);
    assert_eq!(files(&host), expected(&[&second, &empty[2], &third]));
    assert_eq!(failed(&host), None);
    let fourth = back_up_later(&host);
    assert_eq!(files(&host), expected(&[&third, &fourth]));
    host.finish();
}
