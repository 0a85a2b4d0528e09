//! Backups of volumes: made when they are due and by hand, with hooks, kept as many as are wanted, and brought back.

#[path = "backups/content.rs"]
mod content;
#[path = "backups/ends.rs"]
mod ends;
#[path = "backups/folder.rs"]
mod folder;
#[path = "backups/hanging.rs"]
mod hanging;
#[path = "backups/hooks.rs"]
mod hooks;
#[path = "backups/restored.rs"]
mod restored;

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
    // The time is asked for once: it may be another one the second time.
    let fresh = sh(host, &format!("name={name}; touch $name; echo $name"));
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
    let mut host = Host::new();
    make_folder(&host);
    declare(&host, &pod(&host, "every = \"1d\""));
    // What is lost once it is declared is found by a backup. One that was missed is soon due.
    fs::remove_dir(folder(&host)).expect("goes");
    host.switch(&pod(&host, "every = \"1m\""));
    host.kill_daemon();
    host.start_daemon();
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
