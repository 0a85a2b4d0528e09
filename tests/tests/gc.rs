//! Generations are deleted and pinned; what none of them needs is collected, by hand and by itself, beside
//! switches, on a full disk and however the daemon dies; and what is kept is checked and fetched again.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};
use tank_tests::{Host, eventually, fixtures, layouts, repo, words};

/// As [`tank_tests::RUN`], and it prints something: a log is made with its first line.
const RUN: &str = r#"command = ["/bin/sh", "-c", "echo begins; trap 'exit 0' TERM USR1; while true; do sleep 0.1; done"]"#;

fn pod(name: &str, image: &str, step: u32) -> String {
    format!("pods.{name}.containers.app = {{ image = \"{image}\", {RUN}, env.STEP = \"{step}\" }},")
}

fn busybox(step: u32) -> String {
    format!("{{ {} }}", pod("web", "oci:./busybox", step))
}

/// An image with a layer of a file of its own on top of BusyBox, at `DIR/NAME`.
fn pack(host: &Host, name: &str, size: u32) {
    let script = format!(
        "set -e; cp -rL {busybox}/. {name}; mkdir -p root-{name}/payload; \
         head -c {size} /dev/urandom > root-{name}/payload/file; \
         BASE=latest {pack} root-{name} {name} big '{{}}'; rm -r root-{name}",
        busybox = fixtures().join("busybox").display(),
        pack = repo().join("scripts/pack-layout.sh").display(),
    );
    fs::create_dir(host.dir.join(name)).expect("a folder");
    let packed = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&host.dir)
        .status()
        .expect("sh");
    assert!(packed.success());
}

fn generations(host: &Host) -> Vec<Value> {
    let list = host.tank(&["--json", "generations", "list"]).json();
    list["generations"].as_array().expect("a list").clone()
}

fn numbers(host: &Host) -> Vec<u64> {
    let list = generations(host);
    let numbers = list.iter().map(|one| one["number"].as_u64());
    numbers.map(|number| number.expect("a number")).collect()
}

/// The names in a folder of the state.
fn names(host: &Host, folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(host.dir.join("state").join(folder));
    let entries = entries.into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != ".trash").collect()
}

/// Everything that is kept of images.
fn images(host: &Host) -> (BTreeSet<String>, BTreeSet<String>) {
    (
        names(host, "images/blobs/sha256"),
        names(host, "images/layers"),
    )
}

/// What a file takes of the disk.
fn blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("is there").blocks() * 512
}

fn kinds(collected: &Value) -> BTreeMap<String, (u64, u64)> {
    let kinds = collected["collected"]["kinds"].as_array().expect("kinds");
    let kind = |kind: &Value| {
        let number = |field: &str| kind[field].as_u64().expect("a number");
        let name = kind["kind"].as_str().expect("a name").to_owned();
        (name, (number("count"), number("bytes")))
    };
    kinds.iter().map(kind).collect()
}

/// Checks the store, which has to be whole.
#[track_caller]
fn is_whole(host: &Host) {
    let report = host.tank(&["--json", "fsck"]);
    assert_eq!(report.status, 0, "{report:?}");
    let report = report.json();
    assert_eq!(report["damages"], serde_json::json!([]), "{report}");
    assert_eq!(report["unverified"], serde_json::json!([]), "{report}");
}

#[test]
fn generations_are_deleted_and_pinned_and_their_numbers_are_not_used_again() {
    let mut host = Host::new();
    for step in 1..=5 {
        host.switch(&busybox(step));
    }
    let pid = host.pid("web", "app");
    let refused = |host: &Host, args: &[&str], says: &str| {
        let refused = host.tank(args);
        assert_eq!(refused.status, 1, "{refused:?}");
        assert!(
            refused.stderr.contains(says),
            "no `{says}`: {}",
            refused.stderr
        );
    };
    let delete = ["generations", "delete"];
    refused(
        &host,
        &[&delete[..], &["5"]].concat(),
        "generation 5 is the current one",
    );
    host.tank(&["generations", "pin", "2"]).ok();
    refused(
        &host,
        &[&delete[..], &["1", "2"]].concat(),
        "tank generations unpin 2",
    );
    refused(
        &host,
        &[&delete[..], &["1", "9"]].concat(),
        "no such generation: 9",
    );
    refused(
        &host,
        &[&delete[..], &["0"]].concat(),
        "no such generation: 0",
    );
    refused(&host, &["generations", "pin", "9"], "no such generation: 9");
    assert_eq!(numbers(&host), [1, 2, 3, 4, 5], "all of them or none");
    let list = host.tank(&["generations", "list"]).ok();
    assert!(
        list.lines()
            .nth(2)
            .is_some_and(|line| line.starts_with("2 pinned")),
        "{list}"
    );
    host.tank(&["generations", "delete", "1", "4"]).ok();
    for _ in 0..2 {
        assert_eq!(numbers(&host), [2, 3, 5]);
        refused(
            &host,
            &["generations", "rollback", "4"],
            "generation 4 was deleted",
        );
        refused(
            &host,
            &["generations", "show", "4"],
            "generation 4 was deleted",
        );
        refused(
            &host,
            &["generations", "diff", "1", "5"],
            "generation 1 was deleted",
        );
        refused(
            &host,
            &[&delete[..], &["4"]].concat(),
            "generation 4 was deleted",
        );
        is_whole(&host);
        host.kill_daemon();
        host.start_daemon();
    }
    assert_eq!(host.pid("web", "app"), pid, "what runs was disturbed");
    // It leads past what is gone, and its number is a new one.
    let back = host.tank(&["--json", "generations", "rollback"]).json();
    assert_eq!(back["generation"], 6);
    assert_eq!(host.exec("web", "echo $STEP"), "3");
    host.tank(&["generations", "unpin", "2"]).ok();
    host.tank(&["generations", "delete", "2", "3", "5"]).ok();
    assert_eq!(numbers(&host), [6]);
    let none = host.tank(&["generations", "rollback"]);
    assert_eq!(none.status, 1, "{none:?}");
    assert_eq!(host.switch(&busybox(9))["generation"], 7);
    is_whole(&host);
    host.finish();
}

/// What is on its way is neither deleted nor collected, and neither is what it would be put back to.
#[test]
fn a_change_on_its_way_keeps_what_it_may_need() {
    let host = Host::new();
    pack(&host, "old", 100_000);
    host.switch(&format!("{{ {} }}", pod("web", "oci:./old:big", 1)));
    let never = format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, readiness = {{ exec = [\"/bin/false\"], period = \"100ms\" }} }} }}"
    );
    host.write("pods.ncl", &never);
    let mut change = host
        .command(&["switch", "--timeout", "4s", "pods.ncl"])
        .stderr(Stdio::null())
        .spawn()
        .expect("tank");
    eventually("it is committed", || numbers(&host) == [1, 2]);
    for (number, why) in [("1", "put back to"), ("2", "is the current one")] {
        let refused = host.tank(&["generations", "delete", number]);
        assert_eq!(refused.status, 1, "{refused:?}");
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    let collected = host.tank(&["--json", "gc", "--keep", "1"]).json();
    assert_eq!(collected["collected"]["generations"], serde_json::json!([]));
    assert_eq!(
        change.wait().expect("wait").code(),
        Some(3),
        "it was put back"
    );
    assert_eq!(host.exec("web", "ls /payload"), "file");
    is_whole(&host);
    host.finish();
}

#[test]
fn what_no_generation_needs_goes_and_nothing_else() {
    let host = Host::new();
    for name in ["one", "two", "three"] {
        pack(&host, name, 300_000);
    }
    let volume = "volumes.data = {}";
    let old = format!(
        "{{ {} pods.gone = {{ containers.app = {{ image = \"oci:./one:big\", {RUN}, mounts.data = {{ volume = \"data\", path = \"/data\" }} }}, {volume} }}, networks.back = {{}}, pods.there.networks.back = {{}}, {} }}",
        pod("web", "oci:./busybox", 1),
        pod("there", "oci:./two:big", 1),
    );
    host.switch(&old);
    host.exec("gone", "echo kept > /data/file");
    eventually("its log is there", || names(&host, "logs").contains("gone"));
    // What it used, which a daemon writes once a minute, and when it ends.
    fs::create_dir_all(host.dir.join("state/usage/gone")).expect("a folder");
    fs::create_dir_all(host.dir.join("state/usage/web")).expect("a folder");
    host.switch(&format!(
        "{{ {} {} }}",
        pod("web", "oci:./busybox", 2),
        pod("there", "oci:./two:big", 1)
    ));
    // What is only looked at is fetched, and nothing needs it.
    host.write(
        "look.ncl",
        &format!("{{ {} }}", pod("web", "oci:./three:big", 1)),
    );
    host.tank(&["diff", "look.ncl"]).ok();
    for step in 3..=5 {
        host.switch(&format!(
            "{{ {} {} }}",
            pod("web", "oci:./busybox", step),
            pod("there", "oci:./two:big", 1)
        ));
    }
    eventually("the pod is gone", || host.pod("gone") == Value::Null);
    let (before, layers_before) = images(&host);
    let plan = host
        .tank(&["--json", "gc", "--keep", "2", "--dry-run"])
        .json();
    assert_eq!(
        images(&host),
        (before.clone(), layers_before.clone()),
        "a dry run changes something"
    );
    assert_eq!(numbers(&host), [1, 2, 3, 4, 5]);
    assert!(names(&host, "logs").contains("gone"));
    host.tank(&["logs", "gone"]).ok();
    let sizes: BTreeMap<String, u64> = layers_before
        .iter()
        .map(|name| {
            (
                name.clone(),
                blocks(&host.dir.join("state/images/layers").join(name)),
            )
        })
        .collect();
    let done = host.tank(&["--json", "gc", "--keep", "2"]).json();
    assert_eq!(
        done["collected"]["generations"],
        serde_json::json!([1, 2, 3])
    );
    assert_eq!(done, plan, "it does what the dry run says");
    let (after, layers_after) = images(&host);
    // Of images `one` and `three` each document, and the layer on top: BusyBox's own is in use.
    let kinds = kinds(&done);
    assert_eq!(before.difference(&after).count(), 4, "{before:?} {after:?}");
    assert_eq!(kinds["documents"].0, 4);
    let gone: BTreeSet<&String> = layers_before.difference(&layers_after).collect();
    assert_eq!(
        gone.len(),
        6,
        "two layers, with a recipe and a record each: {gone:?}"
    );
    assert_eq!(
        kinds["layers"],
        (2, gone.iter().map(|name| sizes[*name]).sum())
    );
    assert_eq!(
        layers_after.len(),
        6,
        "BusyBox and the layer of `two`: {layers_after:?}"
    );
    assert_eq!(kinds["logs"].0, 1, "{done}");
    assert_eq!(kinds["figures"].0, 1, "{done}");
    assert!(!names(&host, "usage").contains("gone") && names(&host, "usage").contains("web"));
    assert!(kinds["nodes"].0 > 5, "{done}");
    assert!(!names(&host, "logs").contains("gone"));
    assert_eq!(host.tank(&["logs", "gone"]).status, 1);
    let leases: Vec<&str> = done["collected"]["leases"]
        .as_array()
        .expect("leases")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(leases, ["gone", "net/back", "net/back/there"]);
    assert_eq!(
        fs::read_to_string(host.dir.join("state/volumes/gone/data/file")).expect("the volume"),
        "kept\n"
    );
    is_whole(&host);
    let again = host
        .tank(&["--json", "gc", "--keep", "2", "--dry-run"])
        .json();
    assert_eq!(kinds_count(&again), 0, "{again}");
    // What was given up is fetched anew, and what is kept is gone back to.
    host.tank(&["generations", "rollback", "4"]).ok();
    host.switch(&format!("{{ {} }}", pod("web", "oci:./three:big", 1)));
    assert_eq!(host.exec("web", "ls /payload"), "file");
    is_whole(&host);
    host.finish();
}

fn kinds_count(collected: &Value) -> u64 {
    kinds(collected).values().map(|(count, _)| count).sum()
}

/// Root's own hand put something where layers are: it is not followed, and not removed.
#[test]
fn a_link_among_the_layers_leads_nowhere() {
    let host = Host::new();
    pack(&host, "one", 10_000);
    host.switch(&format!("{{ {} }}", pod("web", "oci:./one:big", 1)));
    let victim = host.dir.join("victim");
    fs::create_dir(&victim).expect("a folder");
    fs::write(victim.join("file"), "theirs").expect("writes");
    let layers = host.dir.join("state/images/layers");
    let (folder, image) = ("ab".repeat(32), format!("{}.erofs", "cd".repeat(32)));
    std::os::unix::fs::symlink(&victim, layers.join(&folder)).expect("a link");
    std::os::unix::fs::symlink(victim.join("file"), layers.join(&image)).expect("a link");
    fs::write(layers.join("notes.txt"), "mine").expect("writes");
    // One of a folder, as old versions made them, is collected, with links in it that lead out.
    let old = layers.join("ef".repeat(32));
    fs::create_dir_all(old.join("deep")).expect("a folder");
    std::os::unix::fs::symlink(&victim, old.join("deep/link")).expect("a link");
    let done = host.tank(&["gc"]);
    assert!(
        done.stderr.contains(&folder) && done.stderr.contains(&image),
        "{done:?}"
    );
    let done = done.ok();
    assert!(done.contains("removed 1 layer of images"), "{done}");
    assert_eq!(
        fs::read_to_string(victim.join("file")).expect("is there"),
        "theirs"
    );
    assert!(layers.join("notes.txt").exists() && !old.exists());
    assert!(fs::symlink_metadata(layers.join(&folder)).is_ok());
    // Neither does a check read through it.
    let report = host.tank(&["--json", "fsck"]);
    assert_eq!(report.status, 1);
    let damages = report.stdout;
    assert!(damages.contains(&"cd".repeat(32)), "{damages}");
    host.finish();
}

/// Collections run all the time, beside switches, applies, diffs and rollbacks that pull what was just collected.
#[test]
fn beside_changes_nothing_that_they_need_goes() {
    let host = Host::new();
    for name in ["one", "two"] {
        pack(&host, name, 200_000);
    }
    host.switch(&busybox(0));
    let over = AtomicBool::new(false);
    let collections = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for keep in ["1", "2"] {
            let (over, host, collections) = (&over, &host, &collections);
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let done = host.tank(&["gc", "--keep", keep]);
                    assert_eq!(done.status, 0, "{done:?}");
                    collections.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let (over_, host_) = (&over, &host);
        scope.spawn(move || {
            host_.write(
                "look.ncl",
                &format!("{{ {} }}", pod("web", "oci:./two:big", 7)),
            );
            while !over_.load(Ordering::SeqCst) {
                let looked = host_.tank(&["diff", "look.ncl"]);
                assert_eq!(looked.status, 0, "{looked:?}");
            }
        });
        let finish = Finish(&over);
        for step in 1..=8 {
            let image = ["oci:./one:big", "oci:./two:big"][step as usize % 2];
            host.switch(&format!("{{ {} }}", pod("web", image, step)));
            assert_eq!(host.exec("web", "ls /payload"), "file");
            host.write(
                "more.ncl",
                &format!("{{ {} }}", pod("more", "oci:./one:big", step)),
            );
            host.tank(&["apply", "more.ncl"]).ok();
            // Where to is there at that instant, or was collected; it is never half there.
            let back = host.tank(&["generations", "rollback"]);
            let known =
                back.stderr.contains("no generation before") || back.stderr.contains("was deleted");
            assert!(back.status == 0 || known, "{back:?}");
        }
        drop(finish);
    });
    assert!(collections.load(Ordering::SeqCst) > 10);
    eventually("nothing is left to do", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
    is_whole(&host);
    host.finish();
}

/// Ends the threads beside, also where an assertion fails.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Two pods that go and one that stays, each of its own image: a history of which a collection takes most.
fn history(host: &Host) {
    for step in 1..=3 {
        host.switch(&format!(
            "{{ {} {} }}",
            pod("web", "oci:./busybox", step),
            pod("gone", "oci:./one:big", step)
        ));
    }
    for step in 4..=5 {
        host.switch(&busybox(step));
    }
    eventually("the pod is gone", || host.pod("gone") == Value::Null);
}

/// The daemon dies at every boundary of a collection. Each time all that is kept is whole, what ran goes on, and the
/// next collection takes the rest.
#[test]
fn wherever_the_daemon_dies() {
    let mut host = Host::new();
    pack(&host, "one", 50_000);
    let counter = host.dir.join("count");
    let count =
        || fs::read_to_string(&counter).map_or(0, |text| text.parse::<u64>().expect("a number"));
    history(&host);
    host.kill_daemon();
    host.start_daemon_with(&[("TANKD_COUNT_TO", counter.to_str().expect("a path"))]);
    let pid = host.pid("web", "app");
    let begin = count();
    host.tank(&["gc", "--keep", "2"]).ok();
    let boundaries = count() - begin;
    assert!(boundaries > 8, "only {boundaries} boundaries");
    let expected = images(&host);
    let mut died = 0;
    for at in 1..=boundaries {
        host.kill_daemon();
        host.start_daemon();
        history(&host);
        host.kill_daemon();
        host.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        let _ = host.tank(&["gc", "--keep", "2"]);
        if host.daemon_has_ended() {
            died += 1;
            host.reap_daemon();
        } else {
            host.kill_daemon();
        }
        host.start_daemon();
        is_whole(&host);
        host.tank(&["gc", "--keep", "2"]).ok();
        is_whole(&host);
        assert_eq!(images(&host), expected, "after boundary {at}");
        assert_eq!(
            names(&host, "logs"),
            BTreeSet::from(["web".to_owned()]),
            "after boundary {at}"
        );
        assert_eq!(numbers(&host).len(), 2, "after boundary {at}");
    }
    assert_eq!(died, boundaries);
    assert_ne!(host.pid("web", "app"), 0);
    assert!(
        fs::metadata(format!("/proc/{pid}")).is_err(),
        "it was restarted by switches"
    );
    host.finish();
}

/// A collection is held at each of its boundaries, while a switch takes up again what it is about to remove.
#[test]
fn what_is_pulled_again_meanwhile_stays() {
    let mut host = Host::new();
    pack(&host, "one", 50_000);
    history(&host);
    let (counter, hold) = (host.dir.join("count"), host.dir.join("hold"));
    let path = |path: &Path| path.to_str().expect("a path").to_owned();
    host.kill_daemon();
    host.start_daemon_with(&[("TANKD_COUNT_TO", &path(&counter))]);
    host.tank(&["gc", "--keep", "2"]).ok();
    let boundaries: u64 = fs::read_to_string(&counter)
        .expect("a count")
        .parse()
        .expect("a number");
    let mut beside = 0;
    for at in 1..=boundaries {
        history(&host);
        host.kill_daemon();
        host.start_daemon_with(&[
            ("TANKD_HOLD_AT", &at.to_string()),
            ("TANKD_HOLD", &path(&hold)),
        ]);
        let mut collection = host.command(&["gc", "--keep", "2"]);
        let mut collection = collection.stdout(Stdio::null()).spawn().expect("tank");
        eventually("it is held", || hold.exists());
        let config = format!(
            "{{ {} {} }}",
            pod("web", "oci:./busybox", 5),
            pod("gone", "oci:./one:big", 9)
        );
        host.write("pods.ncl", &config);
        let mut change = host.command(&["switch", "pods.ncl"]);
        let mut change = change
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tank");
        // While generations are removed a commit waits.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let waits = fs::read_to_string(&hold)
            .expect("a boundary")
            .contains("generations");
        let mut status = None;
        while status.is_none() && !waits && std::time::Instant::now() < deadline {
            status = change.try_wait().expect("wait");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        beside += u32::from(status.is_some());
        fs::remove_file(&hold).expect("let go");
        assert!(change.wait().expect("wait").success(), "boundary {at}");
        assert!(collection.wait().expect("wait").success(), "boundary {at}");
        assert_eq!(host.exec("gone", "ls /payload"), "file", "boundary {at}");
        is_whole(&host);
        host.kill_daemon();
        host.start_daemon();
        let again = host
            .tank(&["--json", "gc", "--dry-run", "--keep", "1000"])
            .json();
        assert_eq!(kinds(&again)["layers"].0, 0, "boundary {at}: {again}");
    }
    assert!(beside > 6, "{beside} of {boundaries}");
    host.finish();
}

/// Each image fills most of the disk: the one that is not needed any more makes room for the next.
#[test]
fn a_disk_that_pulls_have_filled_heals_by_itself() {
    let host = Host::without_daemon();
    let settings = fs::read_to_string(host.dir.join("tank.toml")).expect("reads");
    fs::write(
        host.dir.join("tank.toml"),
        format!("{settings}keep_generations = 1\nkeep_free = 0\n"),
    )
    .expect("writes");
    let host = host.with_state_on("size=96m").started_with(&[]);
    for step in 1..=6 {
        let name = format!("large{step}");
        pack(&host, &name, 25 << 20);
        let config = format!("{{ {} }}", pod("web", &format!("oci:./{name}:big"), step));
        host.switch(&config);
        assert_eq!(
            host.exec("web", "stat -c %s /payload/file"),
            (25 << 20).to_string()
        );
    }
    let events = host.tank(&["--json", "events"]).ok();
    assert!(events.contains("collected"), "{events}");
    // What it was that went is gone, and what a rollback leads to is not.
    let back = host.tank(&["generations", "rollback"]);
    assert_eq!(back.status, 0, "{back:?}");
    assert_eq!(host.exec("web", "echo $STEP"), "5");
    is_whole(&host);
    host.finish();
}

/// The disk has no byte left, for the database neither: what is removed first makes the room.
#[test]
fn a_full_disk_is_collected() {
    let host = Host::without_daemon()
        .with_state_on("size=64m")
        .started_with(&[]);
    pack(&host, "look", 5 << 20);
    for step in 1..=4 {
        host.switch(&busybox(step));
    }
    host.write(
        "look.ncl",
        &format!("{{ {} }}", pod("web", "oci:./look:big", 1)),
    );
    host.tank(&["diff", "look.ncl"]).ok();
    let filler = host.dir.join("state/filler");
    let fill = format!("cat /dev/zero > {} 2> /dev/null; true", filler.display());
    assert!(
        host.inside("sh")
            .args(["-c", &fill])
            .status()
            .expect("sh")
            .success()
    );
    // Who asks gets what there is to do about it.
    let status = words(&host.tank(&["status"]).ok());
    for text in [
        "of 64.0 MiB are free",
        "`tank gc` frees 5.",
        "`tank disk-usage` says",
    ] {
        assert!(status.contains(text), "{text}: {status}");
    }
    let doctor = words(&host.tank(&["doctor"]).stdout);
    assert!(
        doctor.contains("disk") && doctor.contains("`tank gc` frees"),
        "{doctor}"
    );
    let done = host.tank(&["--json", "gc", "--keep", "1"]);
    assert_eq!(done.status, 0, "{done:?}");
    let done = done.json();
    assert_eq!(kinds(&done)["layers"].0, 1, "{done}");
    pack(&host, "more", 6 << 20);
    let more = format!("{{ {} }}", pod("web", "oci:./more:big", 1));
    host.write("more.ncl", &more);
    let refused = host.tank(&["switch", "more.ncl"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    let said = words(&refused.stderr);
    for text in [
        "No space left",
        "of 64.0 MiB are free",
        "images are refused below",
        "`tank gc` frees nothing now",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert!(!said.contains("``"), "{said}");
    assert!(
        host.inside("rm")
            .arg(&filler)
            .status()
            .expect("rm")
            .success()
    );
    is_whole(&host);
    host.finish();
}

#[test]
fn old_generations_go_by_themselves_after_a_switch() {
    let host = Host::without_daemon();
    let settings = fs::read_to_string(host.dir.join("tank.toml")).expect("reads");
    fs::write(
        host.dir.join("tank.toml"),
        format!("{settings}keep_generations = 2\nkeep_for = \"1ms\"\nkeep_free = 0\n"),
    )
    .expect("writes");
    let host = host.started_with(&[]);
    pack(&host, "one", 10_000);
    host.switch(&format!("{{ {} }}", pod("web", "oci:./one:big", 1)));
    host.tank(&["generations", "pin", "1"]).ok();
    for step in 2..=4 {
        host.switch(&busybox(step));
    }
    eventually("old ones are gone", || numbers(&host) == [1, 3, 4]);
    let layers = images(&host).1.len();
    host.tank(&["generations", "unpin", "1"]).ok();
    host.switch(&busybox(5));
    eventually("the image is gone", || images(&host).1.len() == layers - 3);
    assert_eq!(numbers(&host), [4, 5]);
    let events = host.tank(&["events"]).ok();
    assert!(events.contains("1 layers"), "{events}");
    is_whole(&host);
    host.finish();
}

/// The file of the layer that the image at `DIR/NAME` has on top.
fn top_layer(host: &Host, before: &BTreeSet<String>) -> PathBuf {
    let layers = names(host, "images/layers");
    let new = layers
        .difference(before)
        .find(|name| name.ends_with(".erofs"));
    host.dir
        .join("state/images/layers")
        .join(new.expect("a layer"))
}

/// Changes a byte in the middle of a file, whatever its mode.
fn damage(path: &Path) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("opens");
    let middle = file.metadata().expect("is there").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("reads");
    file.write_all_at(&[byte[0] ^ 0x40], middle)
        .expect("writes");
}

#[test]
fn what_is_damaged_is_named_with_who_needs_it_and_fetched_again() {
    let mut host = Host::new();
    host.switch(&busybox(1));
    let before = names(&host, "images/layers");
    pack(&host, "one", 300_000);
    let config = format!(
        "{{ {} {} }}",
        pod("web", "oci:./one:big", 1),
        pod("other", "oci:./busybox", 1)
    );
    host.switch(&config);
    is_whole(&host);
    let sum = |host: &Host| host.exec("web", "sha256sum /payload/file");
    let (pid, content) = (host.pid("web", "app"), sum(&host));
    let layer = top_layer(&host, &before);
    damage(&layer);
    let report = host.tank(&["--json", "fsck"]);
    assert_eq!(report.status, 1, "{report:?}");
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    let found = report["damages"].as_array().expect("damages");
    assert_eq!(found.len(), 1, "{report}");
    let digest = layer
        .file_stem()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert_eq!(found[0]["what"], format!("layer sha256:{digest}"));
    assert_eq!(found[0]["images"], serde_json::json!(["oci:./one:big"]));
    assert_eq!(found[0]["generations"], serde_json::json!([2]));
    assert_eq!(found[0]["pods"], serde_json::json!(["web"]));
    assert_eq!(found[0]["repaired"], false);
    let text = host.tank(&["fsck"]);
    assert!(
        text.stdout.contains("tank fsck --repair"),
        "{}",
        text.stdout
    );
    let repaired = host.tank(&["--json", "fsck", "--repair"]).json();
    assert_eq!(repaired["damages"][0]["repaired"], true, "{repaired}");
    assert_eq!(
        repaired["restart"],
        serde_json::json!(["web/app"]),
        "{repaired}"
    );
    assert_eq!(host.pid("web", "app"), pid, "what runs was disturbed");
    is_whole(&host);
    // A new container has the new file.
    host.switch(&format!(
        "{{ {} {} }}",
        pod("web", "oci:./one:big", 2),
        pod("other", "oci:./busybox", 1)
    ));
    assert_eq!(sum(&host), content);
    // Documents, one after the other, and a layer that is gone.
    for document in names(&host, "images/blobs/sha256") {
        let path = host.dir.join("state/images/blobs/sha256").join(document);
        damage(&path);
        assert_eq!(host.tank(&["fsck"]).status, 1);
        let repaired = host.tank(&["fsck", "--repair"]);
        assert_eq!(repaired.status, 0, "{repaired:?}");
        is_whole(&host);
    }
    fs::remove_file(&layer).expect("removes");
    let missing = host.tank(&["fsck"]);
    assert_eq!(missing.status, 1);
    assert!(
        missing.stdout.contains("is not on this host"),
        "{}",
        missing.stdout
    );
    host.tank(&["fsck", "--repair"]).ok();
    is_whole(&host);
    // Of what an older version made there is no digest: it is said so once.
    fs::remove_file(layer.with_extension("sum")).expect("removes");
    let unverified = host.tank(&["fsck"]).ok();
    assert!(
        unverified.contains(&format!("unverified: layer sha256:{digest}")),
        "{unverified}"
    );
    is_whole(&host);
    // Where it came from has another one by now, and then none.
    damage(&layer);
    layouts::push_another(
        &host
            .dir
            .join("busybox-copy-is-not-there")
            .parent()
            .map(|dir| dir.join("one"))
            .expect("a folder"),
    );
    host.tank(&["fsck", "--repair"]).ok();
    is_whole(&host);
    damage(&layer);
    fs::rename(host.dir.join("one"), host.dir.join("moved")).expect("moves");
    let failed = host.tank(&["fsck", "--repair"]);
    assert_eq!(failed.status, 1);
    assert!(
        failed
            .stdout
            .contains("can't be fetched again: oci:./one:big"),
        "{}",
        failed.stdout
    );
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(host.tank(&["fsck"]).status, 1, "it is damaged still");
    host.finish();
}

#[test]
fn an_image_of_a_registry_is_fetched_again_by_its_digest() {
    let mut host = Host::new();
    host.start_registry();
    host.switch("{ pods.web.containers.app = { image = \"localhost:5000/nginx\" } }");
    let pid = host.pid("web", "app");
    for name in names(&host, "images/layers") {
        if name.ends_with(".erofs") {
            damage(&host.dir.join("state/images/layers").join(name));
        }
    }
    assert_eq!(host.tank(&["fsck"]).status, 1);
    // It says nothing: a check asks no registry, and a repair says that it can't.
    host.signal_registry("KILL");
    eventually("the registry is gone", || {
        host.get("http://localhost:5000/v2/").status != 0
    });
    let failed = host.tank(&["fsck", "--repair"]);
    assert_eq!(failed.status, 1, "{failed:?}");
    assert!(failed.stdout.contains("can't reach"), "{}", failed.stdout);
    assert_eq!(host.pid("web", "app"), pid);
    host.start_registry();
    host.tank(&["fsck", "--repair"]).ok();
    is_whole(&host);
    host.finish();
}

/// A killed daemon has left half an import, with something mounted inside: it is out of the way at the next start, named while it is
/// being removed, and what was mounted stays.
#[test]
fn what_a_killed_daemon_left_is_removed_in_the_background_and_named_while_it_is_there() {
    let mut host = Host::new();
    host.switch(&busybox(1));
    host.kill_daemon();
    let state = host.dir.join("state");
    let half = state.join("volumes/web/.data.import");
    fs::create_dir_all(half.join("a/mounted")).expect("a folder");
    let mut mount = host.inside("mount");
    let mount = mount
        .args(["-t", "tmpfs", "none"])
        .arg(half.join("a/mounted"));
    assert!(mount.status().expect("mount").success());
    // And on a folder that no pod has: not even its top is gone into.
    let (top, precious) = (state.join("scratch/other"), host.dir.join("precious"));
    fs::create_dir_all(precious.join("deep")).expect("a folder");
    fs::write(precious.join("deep/file"), "kept").expect("a file");
    fs::create_dir_all(&top).expect("a folder");
    let mut mount = host.inside("mount");
    let mount = mount.arg("--bind").args([&precious, &top]);
    assert!(mount.status().expect("mount").success());
    host.start_daemon();
    assert!(!half.exists());
    let trash = state.join("volumes/.trash");
    let stuck = || fs::read_dir(&trash).expect("a folder").count();
    assert_eq!(stuck(), 1);
    let is_stuck = |host: &Host| {
        let doctor = host.tank(&["--json", "doctor"]);
        doctor.stdout.contains("it can't be removed")
    };
    eventually("it is known that it can't be removed", || is_stuck(&host));
    let usage = host.tank(&["--json", "disk-usage"]).json();
    let parts = usage["parts"].as_array().expect("parts").iter();
    let trash_part = parts.clone().find(|part| part["kind"] == "trash");
    assert_eq!(trash_part.expect("a kind")["count"], 1);
    let volumes = host.tank(&["--json", "volume", "list"]).json();
    assert_eq!(volumes["volumes"].as_array().map(Vec::len), Some(0));
    let collected = host.tank(&["gc"]).stderr;
    assert!(collected.contains("it can't be removed"), "{collected}");
    let is_kept =
        || fs::read_to_string(precious.join("deep/file")).is_ok_and(|text| text == "kept");
    assert!(is_kept());
    host.kill_daemon();
    let left = fs::read_dir(&trash).expect("a folder").flatten().next();
    let mounted = left.expect("an entry").path().join("a/mounted");
    let mut umount = host.inside("umount");
    let umount = umount.arg(mounted).arg(&top).status();
    assert!(umount.expect("umount").success() && is_kept());
    host.start_daemon();
    eventually("it is removed", || stuck() == 0);
    assert!(!is_stuck(&host));
    host.finish();
}
