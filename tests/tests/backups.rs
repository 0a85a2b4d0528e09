//! Backups of volumes: made when they are due and by hand, with hooks, kept as many as are wanted, and brought back.

use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};
use tank_tests::{Ended, Host, RUN, eventually, segment::sh};

/// A pod with a volume at `/d` that is backed up: `backup` is what that says beside `to`.
fn pod(host: &Host, backup: &str) -> String {
    let to = folder(host).display().to_string();
    format!(
        "{{ pods.db = {{ volumes.data.backup = {{ to = \"{to}\", {backup} }}, containers.app = {{ image = \"oci:./busybox\", {RUN},
              stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/d\" }} }} }} }}"
    )
}

fn folder(host: &Host) -> PathBuf {
    host.dir.join("backups")
}

fn make_folder(host: &Host) {
    fs::create_dir(folder(host)).expect("a folder");
    fs::set_permissions(folder(host), fs::Permissions::from_mode(0o755)).expect("a mode");
}

fn hook(script: &str) -> String {
    format!("exec = [\"/bin/sh\", \"-c\", m%\"{script}\"%]")
}

/// Switches to a configuration of which no backup is due before somebody asks for one.
#[track_caller]
fn declare(host: &Host, config: &str) {
    declare_of(host, "db.data", config);
}

#[track_caller]
fn declare_of(host: &Host, volume: &str, config: &str) {
    let name = format!(
        "{}/{volume}-$(date -u +%Y%m%dT%H%M%SZ).tar.zst",
        folder(host).display()
    );
    let fresh = sh(host, &format!("touch {name}; echo {name}"));
    host.switch(config);
    eventually("it is known that none is due", || {
        let list = host.tank(&["--json", "volume", "backups"]).json();
        list["backups"][0]["next"]
            .as_u64()
            .is_some_and(|next| next > 3_600_000)
    });
    sh(host, &format!("rm {fresh}"));
}

/// What is in the folder, by name.
fn files(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(folder(host)).expect("the folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Makes one by hand: its path.
#[track_caller]
fn back_up(host: &Host) -> PathBuf {
    let made = host.tank(&["--json", "volume", "backup", "db/data"]).json();
    PathBuf::from(made["archive"].as_str().expect("a path"))
}

/// Makes one by hand whose name says a later time than any other's: of a second there is one.
#[track_caller]
fn back_up_later(host: &Host) -> PathBuf {
    eventually("it is later", || {
        let now = sh(host, "date -u +db.data-%Y%m%dT%H%M%SZ");
        files(host).iter().all(|name| name.as_str() < now.trim())
    });
    back_up(host)
}

/// One that fails: what is said of it, and that nothing of it is left beside what was there.
#[track_caller]
fn refused(host: &Host) -> String {
    let before = files(host);
    let mut ended: Ended = host.tank(&["volume", "backup", "db/data"]);
    // It may have been due as well: that one fails likewise.
    eventually("it is tried", || {
        let is_due = ended.stderr.contains("is being made");
        if is_due {
            ended = host.tank(&["volume", "backup", "db/data"]);
        }
        !is_due
    });
    assert_eq!(ended.status, 1, "{ended:?}");
    assert_eq!(files(host), before);
    tank_tests::words(&ended.stderr)
}

#[track_caller]
fn shown(host: &Host) -> Value {
    let list = host
        .tank(&["--json", "volume", "backups", "db/data"])
        .json();
    list["backups"][0].clone()
}

fn events(host: &Host, kind: &str) -> Vec<String> {
    let text = host.tank(&["--json", "events"]).ok();
    let all = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let of = all.filter(|event| event["kind"] == kind);
    of.map(|event| event["message"].as_str().expect("a message").to_owned())
        .collect()
}

/// Everything that a listing says of what is in a volume.
fn listing(host: &Host, volume: &str) -> String {
    let dir = host.dir.join("state/volumes/db").join(volume);
    sh(
        host,
        &format!(
            "cd {} && find . -printf '%y %m %U:%G %n %s %T@ %P -> %l\\0' | sort -z | tr '\\0' '\\n' && \
             find . -type f -exec md5sum {{}} + | sort && getfattr -R -P -d -m - -e hex . | grep -v '^$' | sort && \
             find . -type f -printf '%i %P\\0' | sort -z | awk -v RS='\\0' '{{ n[$1] = n[$1] \" \" $2 }} END {{ for (i in n) print n[i] }}' | sort",
            dir.display()
        ),
    )
}

/// What may be in a volume, made by the root of a container.
const ODD: &str = "cd /d && mkdir -m 2750 sub && echo a > sub/a && ln sub/a sub/b && ln -s /etc up && ln -s ../../.. sub/out &&
    mkfifo -m 600 pipe && dd if=/dev/zero of=holes bs=1 count=1 seek=9000000 2>/dev/null && echo x > own && chown 7:8 own && chmod 640 own &&
    chown -h 9:9 up && touch \"$(printf 'new\\nline\\033[1m')\" && touch -d @1000 own && mkdir -m 1777 tmp && chown 5:6 sub &&
    head -c 3000000 /dev/urandom > much && touch -d @77 sub .";

fn comes_back(kind: Option<&str>) {
    let mut host = Host::without_daemon();
    if let Some(kind) = kind {
        host = host.with_state_on_disk(kind);
    }
    host.start_daemon();
    make_folder(&host);
    // What `after` removes is there between the two, and so it is in the archive.
    let before = hook("touch -d @5 /d/quiet; touch -d @77 /d");
    let after = hook("rm /d/quiet; touch -d @77 /d; env | grep ^TANK_ | sort > /tmp/after");
    declare(
        &host,
        &pod(
            &host,
            &format!("every = \"1d\", before = {{ {before} }}, after = {{ {after} }}"),
        ),
    );
    host.exec("db", ODD);
    let data = host.dir.join("state/volumes/db/data");
    sh(
        &host,
        &format!(
            "cd {} && setfattr -n user.of -v it own && setfattr -n user.a -v b sub",
            data.display()
        ),
    );
    let archive = back_up(&host);
    assert_eq!(
        fs::metadata(&archive)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o7777,
        0o600
    );
    let name = archive
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert_eq!(files(&host), std::slice::from_ref(&name));
    let expected = format!(
        "TANK_ARCHIVE={}\nTANK_HOOK=after\nTANK_RESULT=ok\nTANK_VOLUME=db/data",
        archive.display()
    );
    assert_eq!(host.exec("db", "cat /tmp/after"), expected);
    // Of a snapshot where the file system can, and of nothing of it is left.
    let done = events(&host, "backup");
    let how = if kind.is_some() {
        "of a snapshot"
    } else {
        "read as it was written to"
    };
    assert!(
        done.iter()
            .any(|said| said.contains(how) && said.contains(&name)),
        "{done:?}"
    );
    let left = host.dir.join("state/volumes/.backups");
    assert_eq!(fs::read_dir(left).map_or(0, Iterator::count), 0);
    host.tank(&[
        "volume",
        "import",
        "db/copy",
        &archive.display().to_string(),
    ])
    .ok();
    assert_eq!(
        host.exec("db", "ls /d/quiet 2>&1; true"),
        "ls: /d/quiet: No such file or directory"
    );
    let copy = host.dir.join("state/volumes/db/copy");
    // It was there between the hooks.
    sh(
        &host,
        &format!("rm {0}/quiet && touch -d @77 {0}", copy.display()),
    );
    assert_eq!(listing(&host, "copy"), listing(&host, "data"));
    host.finish();
}

#[test]
fn a_volume_comes_back_as_it_was_between_the_hooks() {
    comes_back(None);
}

#[test]
fn a_volume_comes_back_from_a_snapshot_on_xfs() {
    comes_back(Some("xfs"));
}

#[test]
fn it_is_made_by_itself_and_again_when_the_newest_is_too_old() {
    let mut host = Host::new();
    make_folder(&host);
    host.switch(&pod(&host, "every = \"1m\", keep = 3"));
    host.exec("db", "echo 1 > /d/one");
    eventually("it is made", || {
        shown(&host)["count"] == 1 && shown(&host)["running"] == false
    });
    let first = files(&host);
    assert_eq!(first.len(), 1, "{first:?}");
    // One that is young enough is one that is not made again, whoever asks after a start.
    host.switch(&pod(&host, "every = \"1d\", keep = 3"));
    host.kill_daemon();
    host.start_daemon();
    let next = |host: &Host| shown(host)["next"].as_u64().unwrap_or(0);
    eventually("it is known what is there", || shown(&host)["count"] == 1);
    assert!(next(&host) > 3_600_000, "{}", shown(&host));
    // As if the host had been off for years; what of a time to come is there does not count.
    host.switch(&pod(&host, "every = \"1m\", keep = 3"));
    host.kill_daemon();
    let bytes = fs::read(folder(&host).join(&first[0])).expect("it is there");
    for name in files(&host) {
        fs::remove_file(folder(&host).join(name)).expect("goes");
    }
    for time in ["20200101T000000Z", "22000101T000000Z"] {
        let name = format!("db.data-{time}.tar.zst");
        fs::write(folder(&host).join(name), &bytes).expect("writes");
    }
    host.start_daemon();
    eventually("what was missed is made", || {
        let all = files(&host);
        all.len() == 3 && all.iter().all(|name| !name.starts_with('.'))
    });
    host.finish();
}

#[test]
fn one_that_fails_by_itself_is_shown_and_tried_again_once_it_is_declared_otherwise() {
    let host = Host::new();
    host.switch(&pod(&host, "every = \"1m\""));
    eventually("it fails: there is no folder", || {
        shown(&host)["failures"] == 1
    });
    let status = host.tank(&["status"]).ok();
    assert!(status.contains("failed of db/data"), "{status}");
    let said = events(&host, "backup_failed");
    assert!(
        said.iter()
            .any(|said| said.contains("no backup of db/data: can't use the folder of backups")),
        "{said:?}"
    );
    // It would be tried in a minute, and has no reason to wait any more.
    assert!(shown(&host)["next"].as_u64().expect("a time") > 20_000);
    make_folder(&host);
    host.switch(&pod(&host, "every = \"1m\", keep = 5"));
    eventually("it is made", || shown(&host)["count"] == 1);
    assert_eq!(
        host.tank(&["--json", "status"])
            .json()
            .get("failed_backups"),
        None
    );
    host.finish();
}

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
fn a_hook_that_fails_is_said_and_what_was_there_stays() {
    let host = Host::new();
    make_folder(&host);
    let after = hook("echo $TANK_HOOK $TANK_RESULT >> /d/after");
    let with = |before: &str, more: &str| {
        let before = hook(before);
        pod(
            &host,
            &format!("every = \"1d\", before = {{ {before}, {more} }}, after = {{ {after} }}"),
        )
    };
    declare(&host, &with("echo $TANK_HOOK $TANK_VOLUME > /d/before", ""));
    back_up(&host);
    assert_eq!(
        host.exec("db", "cat /d/before /d/after; rm /d/after"),
        "before db/data\nafter ok"
    );
    let pid = host.pid("db", "app");
    // A failure, with what it has printed last.
    host.switch(&with("seq 1 5000; echo no way >&2; exit 3", ""));
    let why = refused(&host);
    assert!(why.contains("ended with status 3"), "{why}");
    assert!(why.contains("4998 | 4999 | 5000 | no way"), "{why}");
    assert!(!why.contains("4900"), "{why}");
    assert_eq!(host.exec("db", "cat /d/after"), "after failed");
    let status = host.tank(&["--json", "status"]).json();
    assert_eq!(status["failed_backups"], serde_json::json!(["db/data"]));
    let list = host.tank(&["volume", "list"]).ok();
    assert!(list.contains("failed ("), "{list}");
    assert!(
        shown(&host)["failed"]
            .as_str()
            .expect("why")
            .contains("no way")
    );
    let said = events(&host, "backup_failed");
    assert!(said.iter().any(|said| said.contains("no way")), "{said:?}");
    // One that kills itself, one that is not there, and one without end that prints without end.
    host.switch(&with("kill -9 $$", ""));
    assert!(refused(&host).contains("status 137"));
    host.switch(&with("exec /no/such", ""));
    assert!(refused(&host).contains("status 127"));
    host.switch(&with("sleep 4321 & yes much", "timeout = \"1s\""));
    let why = refused(&host);
    assert!(
        why.contains("it was killed: it took more than 1 s") && why.contains("much | much"),
        "{why}"
    );
    assert!(why.len() < 3_000, "{}", why.len());
    eventually("all of it is gone", || {
        !host
            .exec("db", "ps -o args")
            .lines()
            .any(|line| line.contains("4321") && !line.contains("ps") || line == "yes much")
    });
    // And what works again is said to.
    host.switch(&with("true", ""));
    back_up(&host);
    let status = host.tank(&["--json", "status"]).json();
    assert_eq!(status.get("failed_backups"), None);
    // None of that was a change of the container.
    assert_eq!(host.pid("db", "app"), pid);
    host.finish();
}

#[test]
fn a_hook_after_that_fails_leaves_the_backup() {
    let host = Host::new();
    make_folder(&host);
    let after = hook("echo stuck; exit 9");
    declare(
        &host,
        &pod(&host, &format!("every = \"1d\", after = {{ {after} }}")),
    );
    host.exec("db", "echo 1 > /d/one");
    let ended = host.tank(&["volume", "backup", "db/data"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(
        ended.stderr.contains("status 9") && ended.stderr.contains("stuck"),
        "{ended:?}"
    );
    assert_eq!(files(&host).len(), 1);
    let shown = shown(&host);
    assert!(
        shown["failed"].as_str().expect("why").contains("stuck"),
        "{shown}"
    );
    // It is made: no other is due for a day.
    assert!(
        shown["next"].as_u64().expect("a time") > 3_600_000,
        "{shown}"
    );
    host.finish();
}

#[test]
fn a_change_of_a_backup_is_shown_and_restarts_nothing() {
    let host = Host::new();
    make_folder(&host);
    let without = pod(&host, "").replace(
        &format!(".backup = {{ to = \"{}\",  }}", folder(&host).display()),
        " = {}",
    );
    host.switch(&without);
    let pid = host.pid("db", "app");
    host.write("next.ncl", &pod(&host, "every = \"1d\""));
    let diff = host.tank(&["diff", "next.ncl"]).ok();
    assert!(diff.contains("volumes.data.backup.every"), "{diff}");
    assert!(!diff.contains("restart"), "{diff}");
    host.switch(&pod(&host, "every = \"1d\""));
    host.write("next.ncl", &pod(&host, "every = \"2d\""));
    let diff = host.tank(&["--json", "diff", "next.ncl"]).json();
    assert_eq!(diff["steps"], serde_json::json!([]), "{diff}");
    host.switch(&pod(&host, "every = \"2d\""));
    assert_eq!(host.pid("db", "app"), pid);
    let why = host
        .tank(&["--json", "why", "db.volumes.data.backup.every"])
        .json();
    assert_eq!(why["value"], "172800000");
    host.switch(&without);
    assert_eq!(host.pid("db", "app"), pid);
    host.finish();
}

#[test]
fn a_daemon_that_ends_in_the_middle_leaves_nothing_half_and_begins_again() {
    let mut host = Host::new();
    make_folder(&host);
    let after = hook("[ -e /d/go ] || exec sleep 1000");
    host.switch(&pod(
        &host,
        &format!("every = \"1m\", after = {{ {after} }}"),
    ));
    let halves = |host: &Host| {
        files(host)
            .into_iter()
            .filter(|name| name.starts_with('.'))
            .count()
    };
    // The archive is written, and has no name: `after` has not ended.
    eventually("it is on its way", || halves(&host) == 1);
    assert_eq!(files(&host).len(), 1);
    host.kill_daemon();
    // The process that writes it takes it along.
    eventually("the half one goes", || files(&host).is_empty());
    host.start_daemon();
    eventually("another is on its way", || {
        shown(&host)["running"] == true && halves(&host) == 1
    });
    // Asked to end, it takes it along.
    sh(&host, &format!("kill -TERM {}", host.daemon_pid()));
    host.reap_daemon();
    assert_eq!(files(&host), Vec::<String>::new());
    host.start_daemon();
    host.exec("db", "touch /d/go");
    eventually("it is made", || {
        files(&host).len() == 1 && halves(&host) == 0
    });
    host.finish();
}

#[test]
fn killed_at_each_step_it_leaves_whole_archives_alone() {
    let mut host = Host::new();
    make_folder(&host);
    declare(
        &host,
        &pod(
            &host,
            "every = \"1d\", keep = 2, before.exec = [\"true\"], after.exec = [\"true\"]",
        ),
    );
    host.exec("db", "head -c 300000 /dev/urandom > /d/much");
    back_up(&host);
    host.kill_daemon();
    let file = host.dir.join("count");
    let count = || fs::read_to_string(&file).map_or(0, |text| text.parse().expect("a number"));
    host.start_daemon_with(&[("TANKD_COUNT_TO", &file.display().to_string())]);
    let first: u64 = count();
    back_up(&host);
    let last = count();
    assert!(last >= first + 3, "{first} {last}");
    host.kill_daemon();
    for at in first + 1..=last {
        host.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        assert_ne!(
            host.tank(&["volume", "backup", "db/data"]).status,
            0,
            "{at}"
        );
        host.reap_daemon();
        let whole = files(&host)
            .into_iter()
            .filter(|name| !name.starts_with('.'));
        for name in whole {
            sh(
                &host,
                &format!("zstd -tq {}", folder(&host).join(name).display()),
            );
        }
        host.start_daemon();
        eventually("nothing half is left", || {
            files(&host).iter().all(|name| !name.starts_with('.'))
        });
        host.kill_daemon();
    }
    host.start_daemon();
    let newest = back_up(&host);
    assert_eq!(files(&host).len(), 2);
    assert!(newest.exists());
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
        host.switch(&named(name));
        let said = refused(&host);
        assert!(said.contains(why), "{name}: {said}");
    }
    fs::create_dir_all(host.dir.join("srv/sub")).expect("a folder");
    let srv = host.dir.join("srv").display().to_string();
    let other = format!(
        "pods.db = {{ volumes.srv.host = \"{srv}\", containers.app.mounts.srv = {{ volume = \"srv\", path = \"/srv\" }} }}"
    );
    host.switch(&format!("({}) & {{ {other} }}", named("srv/sub")));
    let said = refused(&host);
    assert!(said.contains("which a container can write"), "{said}");
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
    let mut host = host;
    host.start_daemon();
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
    sh(&host, &format!("umount {}", folder(&host).display()));
    host.finish();
}

#[test]
fn whatever_a_container_does_meanwhile_the_archive_has_what_is_its_own() {
    let host = Host::new();
    make_folder(&host);
    declare(&host, &pod(&host, "every = \"1d\""));
    fs::write(host.dir.join("secret"), "the host's").expect("writes");
    let secret = host.dir.join("secret").display().to_string();
    fs::create_dir(host.dir.join("hidden")).expect("a folder");
    fs::write(host.dir.join("hidden/outside"), "the host's").expect("writes");
    let outside = host.dir.join("hidden").display().to_string();
    // What changes what it is all the time.
    host.exec(
        "db",
        &format!(
            "cd /d && mkdir many && cd many && seq 1 500 | xargs touch && cd .. && mkfifo wait && ln wait wait2 &&
             echo mine > a && mkdir dir && echo mine > dir/a && (while true; do ln -sf {secret} a; ln -sfn {outside} b; mv b dir2 2>/dev/null; rm -f a dir2; mkfifo a; rm -f a;
             mkdir a; rmdir a; echo mine > a; mv dir c; ln -sfn {outside} dir; rm dir; mv c dir; done) > /dev/null 2>&1 &"
        ),
    );
    for round in 0..3 {
        let archive = back_up(&host);
        let name = format!("db/copy{round}");
        host.tank(&["volume", "import", &name, &archive.display().to_string()])
            .ok();
        let copy = host.dir.join("state/volumes").join(name);
        let found = sh(
            &host,
            &format!(
                "cd {} && ls many | wc -l; find . -type f ! -path './many/*' -exec cat {{}} + | sort -u",
                copy.display()
            ),
        );
        assert!(
            ["500\nmine\n", "500\n"].contains(&found.as_str()),
            "{found}"
        );
        let names = sh(
            &host,
            &format!("cd {} && find . -name 'outside*'", copy.display()),
        );
        assert_eq!(names, "");
    }
    // Many, and a terabyte of nothing, which takes no place.
    host.exec(
        "db",
        "cd /d/many && seq 501 100000 | xargs touch && truncate -s 1099511627776 /d/hole",
    );
    let made = host.tank(&["--json", "volume", "backup", "db/data"]).json();
    assert!(
        made["entries"].as_u64().expect("a number") > 100_000,
        "{made}"
    );
    assert!(
        made["bytes"].as_u64().expect("a number") < 50_000_000,
        "{made}"
    );
    host.finish();
}

#[test]
fn a_volume_that_pods_share_is_backed_up_by_the_one_that_says_so() {
    let host = Host::new();
    make_folder(&host);
    let to = folder(&host).display().to_string();
    let app = format!(
        "{{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\", mounts.up = {{ volume = \"up\", path = \"/up\" }} }}"
    );
    let config = format!(
        "{{ stack = \"blog\", volumes.uploads = {{}}, pods.web = {{ volumes.up = {{ shared = \"uploads\", backup = {{ to = \"{to}\", every = \"1d\",
             before.exec = [\"/bin/sh\", \"-c\", \"hostname > /up/who\"] }} }}, containers.app = {app} }}, pods.job = {{ volumes.up.shared = \"uploads\", containers.app = {app} }} }}"
    );
    declare_of(&host, "blog.web.up", &config);
    host.exec("blog:job", "echo job > /up/job");
    let made = host
        .tank(&["--json", "volume", "backup", "blog:uploads"])
        .json();
    let archive = made["archive"].as_str().expect("a path");
    let name = files(&host).pop().expect("one");
    assert!(
        name.starts_with("blog.web.up-2") && archive.ends_with(&name),
        "{name}"
    );
    host.tank(&["volume", "import", "copy", archive]).ok();
    let copy = host.dir.join("state/shared-volumes/copy");
    let read = |name: &str| fs::read_to_string(copy.join(name)).expect("it is there");
    assert_eq!(
        (read("job"), read("who")),
        ("job\n".to_owned(), "web\n".to_owned())
    );
    let list = host.tank(&["--json", "volume", "list"]).json();
    let volumes = list["volumes"].as_array().expect("volumes");
    let of = volumes
        .iter()
        .find(|one| one["name"] == "blog:uploads")
        .expect("it");
    assert_eq!(of["backups"][0]["volume"], "blog:web/up");
    host.tank(&["volume", "backup", "blog:web/up"]).ok();
    let other = host.tank(&["volume", "backup", "blog:job/up"]);
    assert_eq!(other.status, 1, "{other:?}");
    host.finish();
}

#[test]
fn what_could_not_be_imported_is_no_backup() {
    let mut host = Host::without_daemon().with_state_on_disk("xfs");
    host.start_daemon();
    make_folder(&host);
    declare(&host, &pod(&host, "every = \"1d\", keep = 1"));
    let volumes = host.dir.join("state/volumes/db");
    let import = |archive: &std::path::Path, name: &str| {
        let archive = archive.display().to_string();
        host.tank(&["volume", "import", &format!("db/{name}"), &archive])
            .ok();
        assert_eq!(listing(&host, name), listing(&host, "data"));
    };
    // The deepest file there may be, and the most attributes.
    let deep = format!("/d/{}", "d/".repeat(255));
    host.exec(
        "db",
        &format!("mkdir -p {deep}; echo x > {deep}/file; echo x > /d/much"),
    );
    let attribute = |name: &str, bytes: usize| {
        let (value, file) = ("v".repeat(bytes), volumes.join("data/much"));
        sh(
            &host,
            &format!("setfattr -n user.{name} -v {value} {}", file.display()),
        );
    };
    for name in ["a", "b", "c", "d"] {
        attribute(name, 65_000);
    }
    // All that is left of 256 KiB.
    attribute("e", (256 << 10) - 4 * 65_000 - 5 * ("user.a".len() + 32));
    sh(
        &host,
        &format!("touch -d @77 {}", volumes.join("data").display()),
    );
    let good = back_up(&host);
    import(&good, "copy");
    let kept = files(&host);
    host.exec("db", &format!("mkdir {deep}/d; echo x > {deep}/d/file"));
    let why = refused(&host);
    assert!(why.contains("it is deeper than 256 levels"), "{why}");
    host.exec("db", &format!("rm -r {deep}/d"));
    attribute("f", 10);
    let why = refused(&host);
    assert!(
        why.contains("`much`: its attributes (`user.*`) have more than 256 KiB"),
        "{why}"
    );
    // The one that is good was not removed for those.
    assert_eq!(files(&host), kept);
    host.exec("db", "rm /d/much");
    back_up(&host);
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
