//! Backups into a folder that does not answer: whoever waits for it is in the kernel, and can't be ended.

use serde_json::Value;
use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tank_tests::{Ended, Host, RUN, eventually, segment::sh};

/// A file system that everybody waits for who writes to it, until this is dropped: also in a test that has failed.
struct Frozen(Command);

impl Frozen {
    fn new(host: &Host) -> Self {
        let mut thaw = host.inside("fsfreeze");
        thaw.args(["-u", &nas(host)]);
        let frozen = Self(thaw);
        sh(host, &format!("fsfreeze -f {}", nas(host)));
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.0.status();
    }
}

fn nas(host: &Host) -> String {
    host.dir.join("nas").display().to_string()
}

/// The names in that folder.
fn names(host: &Host) -> Vec<String> {
    let all = sh(
        host,
        &format!("ls -A {} | grep -v lost.found || true", nas(host)),
    );
    all.lines().map(str::to_owned).collect()
}

/// A host with a disk at `nas`, and a folder `backups` on its own.
fn host() -> Host {
    let host = Host::without_daemon();
    fs::create_dir(host.dir.join("backups")).expect("a folder");
    fs::create_dir(host.dir.join("nas")).expect("a folder");
    let disk = host.dir.join("nas.img").display().to_string();
    sh(
        &host,
        &format!(
            "truncate -s 300M {disk} && mkfs.ext4 -q {disk} && mount -o loop {disk} {0} && chmod 755 {0}",
            nas(&host)
        ),
    );
    host
}

/// A pod with three volumes that are backed up onto that disk, and one that is not.
fn config(host: &Host) -> String {
    let to = |name: &str, more: &str| {
        let to = host.dir.join(name).display().to_string();
        format!("backup = {{ to = \"{to}\", every = \"7d\", {more} }}")
    };
    let hook = "after.exec = [\"/bin/sh\", \"-c\", \"echo $TANK_RESULT >> /d/after\"]";
    format!(
        "{{ pods.db = {{ volumes = {{ data.{}, more.{}, third.{}, other.{} }}, containers.app = {{ image = \"oci:./busybox\", {RUN},
             stop.signal = \"SIGKILL\", mounts = {{ data = {{ volume = \"data\", path = \"/d\" }}, more = {{ volume = \"more\", path = \"/m\" }},
             third = {{ volume = \"third\", path = \"/t\" }}, other = {{ volume = \"other\", path = \"/o\" }} }} }} }} }}",
        to("nas", hook),
        to("nas", ""),
        to("nas", ""),
        to("backups", "")
    )
}

fn start(host: &mut Host) {
    host.start_daemon_with(&[("TANKD_BACKUP_STILL", "2")]);
}

fn shown(host: &Host, volume: &str) -> Value {
    let list = host.tank(&["--json", "volume", "backups", volume]).json();
    list["backups"][0].clone()
}

fn begin(host: &Host, volume: &str) -> Child {
    let mut command = host.command(&["volume", "backup", volume]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("tank")
}

fn end(child: Child) -> String {
    let ended: Ended = child.wait_with_output().expect("it ends").into();
    assert_eq!(ended.status, 1, "{ended:?}");
    tank_tests::words(&ended.stderr)
}

/// As [`eventually`], of what takes as long as a folder may be read.
#[track_caller]
fn after_a_while(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !is() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn failed(host: &Host) -> Value {
    host.tank(&["--json", "status"]).json()["failed_backups"].clone()
}

// long: one disk, from the time that it hangs until it answers again
#[test]
fn a_folder_that_does_not_answer_keeps_no_other_from_a_backup_and_the_daemon_from_no_end() {
    let mut host = host();
    start(&mut host);
    host.switch(&config(&host));
    for volume in ["db/data", "db/other"] {
        host.tank(&["volume", "backup", volume]).ok();
    }
    // What a listing of this disk has to remove, for which it waits.
    let half = ".db.third-20200105T000000Z.tar.zst.new";
    sh(&host, &format!("touch {}/{half}", nas(&host)));
    assert_eq!(host.exec("db", "cat /d/after; rm /d/after"), "ok");
    let before = names(&host);
    let daemon = host.daemon_pid();
    let pids = {
        let frozen = Frozen::new(&host);
        // As many as are made at once.
        let both = [begin(&host, "db/data"), begin(&host, "db/more")];
        for said in both.map(end) {
            assert!(
                said.contains("does not answer: nothing was read or written for 2 s"),
                "{said}"
            );
        }
        // The hook after it was run all the same.
        assert_eq!(host.exec("db", "cat /d/after"), "failed");
        let reason = format!(
            "`{}` does not answer: what was begun for the backup of db/",
            nas(&host)
        );
        for volume in ["db/data", "db/more", "db/third"] {
            let shown = shown(&host, volume);
            let hangs = shown["hangs"].as_str().expect("it hangs");
            assert!(
                hangs.starts_with(&reason) && shown["running"] == false,
                "{shown}"
            );
        }
        let table = host.tank(&["volume", "backups"]).ok();
        assert!(table.contains("hangs: `"), "{table}");
        assert_eq!(
            failed(&host),
            serde_json::json!(["db/data", "db/more", "db/third"])
        );
        let events = host.tank(&["events"]).ok();
        assert!(events.contains("hangs and can't be ended"), "{events}");
        // Whoever would hang as well is refused at once; whoever would not has a place.
        let said = end(begin(&host, "db/third"));
        assert!(said.contains("hangs there and can't be ended"), "{said}");
        assert_eq!(shown(&host, "db/other").get("hangs"), None);
        host.tank(&["volume", "backup", "db/other"]).ok();
        assert_eq!(shown(&host, "db/other")["count"], 2);
        let pids = sh(&host, &format!("pgrep -P {daemon} -f __archiver"));
        assert_eq!(pids.lines().count(), 2, "{pids}");
        drop(frozen);
        pids
    };
    let are_gone = || {
        pids.lines()
            .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    };
    eventually("what hung ends once it answers", are_gone);
    eventually("that is known", || {
        shown(&host, "db/data").get("hangs").is_none()
    });
    for volume in ["db/data", "db/more", "db/third"] {
        host.tank(&["volume", "backup", volume]).ok();
    }
    // Nothing half is left, and nothing is missing.
    let now = names(&host);
    assert_eq!(now.len(), before.len() + 2, "{now:?}");
    assert!(now.iter().all(|name| !name.starts_with('.')), "{now:?}");
    assert_eq!(failed(&host), Value::Null);
    sh(&host, &format!("umount {}", nas(&host)));
    host.finish();
}

/// As a network file system whose server is gone: who waits for it can be killed.
#[test]
fn a_folder_that_did_not_answer_is_tried_by_one_at_a_time() {
    let mut host = host();
    start(&mut host);
    let hook = "before.exec = [\"/bin/sh\", \"-c\", \"touch /m/begun; while [ -e /m/begun ]; do sleep 0.1; done\"]";
    let config = config(&host).replacen(
        &format!("more.backup = {{ to = \"{}\", every = \"7d\", ", nas(&host)),
        &format!(
            "more.backup = {{ to = \"{}\", every = \"7d\", {hook}, ",
            nas(&host)
        ),
        1,
    );
    host.switch(&config);
    let made = begin(&host, "db/more");
    eventually("it is on its way", || host.exec("db", "ls /m") == "begun");
    let daemon = host.daemon_pid();
    sh(&host, &format!("pkill -STOP -P {daemon} -f __archiver"));
    host.exec("db", "rm /m/begun");
    let said = end(made);
    assert!(
        said.contains("nothing was read or written for 2 s"),
        "{said}"
    );
    assert_eq!(
        sh(&host, &format!("pgrep -P {daemon} -f __archiver || true")),
        ""
    );
    let hangs = |volume: &str| shown(&host, volume).get("hangs").is_some();
    assert_eq!(
        ["db/data", "db/third", "db/other"].map(hangs),
        [true, true, false]
    );
    // Whoever asks for one has it tried, and then it is known to answer.
    host.tank(&["volume", "backup", "db/data"]).ok();
    assert_eq!(["db/data", "db/third", "db/other"].map(hangs), [false; 3]);
    assert!(
        names(&host)
            .iter()
            .all(|name| !name.starts_with(".db.data"))
    );
    sh(&host, &format!("umount {}", nas(&host)));
    host.finish();
}

// long: a start and an end while a disk hangs
#[test]
fn a_daemon_ends_and_starts_while_a_folder_does_not_answer() {
    let mut host = host();
    start(&mut host);
    host.switch(&config(&host));
    for volume in ["db/data", "db/other"] {
        host.tank(&["volume", "backup", volume]).ok();
    }
    sh(
        &host,
        &format!(
            "touch {}/.db.third-20200105T000000Z.tar.zst.new",
            nas(&host)
        ),
    );
    let frozen = Frozen::new(&host);
    let said = end(begin(&host, "db/more"));
    assert!(said.contains("does not answer"), "{said}");
    let hung = sh(
        &host,
        &format!("pgrep -P {} -f __archiver", host.daemon_pid()),
    );
    let begun = Instant::now();
    sh(&host, &format!("kill -TERM {}", host.daemon_pid()));
    host.reap_daemon();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    // The folder of the others is read, and what is due there made; that of those that hang is not waited for for ever.
    start(&mut host);
    eventually("the other folder is read", || {
        shown(&host, "db/other")["count"] == 1
    });
    after_a_while("the folder is given up", || {
        shown(&host, "db/data")["hangs"].is_string()
    });
    host.tank(&["volume", "backup", "db/other"]).ok();
    host.kill_daemon();
    start(&mut host);
    eventually("it serves", || shown(&host, "db/other")["count"] == 2);
    drop(frozen);
    after_a_while("what is there is known again", || {
        shown(&host, "db/data")["count"] == 1
    });
    let pid = hung.trim();
    eventually("what hung has ended", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
    host.tank(&["volume", "backup", "db/more"]).ok();
    let now = names(&host);
    assert!(now.iter().all(|name| !name.starts_with('.')), "{now:?}");
    sh(&host, &format!("umount {}", nas(&host)));
    host.finish();
}
