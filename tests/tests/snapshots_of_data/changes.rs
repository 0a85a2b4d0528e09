//! When a snapshot is taken, and when none is.

use super::{Versions, data, kept, on, on_disk, pod, with_data, with_other};
use serde_json::json;
use tank_tests::{Host, RUN, eventually, images::image, segment::sh};

#[test]
fn where_files_share_nothing_the_plan_says_so_and_goes_on() {
    let host = Host::without_daemon().with_state_on("size=200m");
    let mut host = host;
    host.start_daemon();
    let versions = Versions::new(&host);
    host.switch(&versions.old());
    host.write("next.ncl", &versions.new_());
    let plan = host.tank(&["diff", "next.ncl"]).ok();
    assert!(
        plan.contains("no snapshot of the volume data is taken")
            && !plan.contains("kept with generation"),
        "{plan}"
    );
    host.tank(&["switch", "next.ncl"]).ok();
    assert_eq!(data(&host), "new:two");
    let back = host.tank(&["generations", "rollback", "1", "--with-data"]);
    assert_eq!(back.status, 0);
    assert!(
        back.stderr.contains("db/data stays as it is"),
        "{}",
        back.stderr
    );
    assert_eq!(kept(&host), []);
    host.finish();
}

#[test]
fn a_switch_that_fails_brings_no_data_back_and_says_how() {
    let host = on("xfs");
    let versions = Versions::new(&host);
    host.switch(&versions.old());
    assert_eq!(data(&host), "row:one");
    host.write(
        "next.ncl",
        &versions
            .new_()
            .replace("while true; do sleep 0.1; done", "exit 1"),
    );
    let failed = host.tank(&["switch", "next.ncl", "--timeout", "5s"]);
    assert_eq!(failed.status, 3, "{}", failed.stderr);
    assert!(
        failed
            .stderr
            .contains("the data of db/data stay as generation 2 left them")
            && failed
                .stderr
                .contains("tank generations rollback 1 --with-data"),
        "{}",
        failed.stderr
    );
    // What the second one has written may be somebody's.
    assert_eq!(data(&host), "new:two\nrow:one");
    with_data(&host, 1);
    assert_eq!(data(&host), "row:one");
    assert_eq!(kept(&host).len(), 3);
    host.finish();
}

/// A container may make subvolumes of btrfs in its volume, and have nobody write to them: neither keeps its next version
/// from starting, nor its volume from being removed.
#[test]
fn a_subvolume_in_a_volume_is_kept_and_removed_as_any_directory() {
    let host = on("btrfs");
    let versions = Versions::new(&host);
    host.switch(&versions.old());
    assert_eq!(data(&host), "row:one");
    let volume = host.dir.join("state/volumes/db/data");
    sh(
        &host,
        &format!(
            "cd {} && btrfs -q subvolume create sub && mkdir sub/deep && echo in > sub/deep/file && btrfs property set sub ro true",
            volume.display()
        ),
    );
    host.switch(&versions.new_());
    assert_eq!(host.exec("db", "cat /d/sub/deep/file"), "in");
    with_data(&host, 1);
    assert_eq!(host.exec("db", "cat /d/row /d/sub/deep/file"), "one\nin");
    host.switch("{}");
    host.tank(&["volume", "remove", "db/data"]).ok();
    let state = host.dir.join("state/volumes");
    let find = format!("find {} -name '*data*' -o -name '.gone*'", state.display());
    assert_eq!(sh(&host, &find), "");
    host.finish();
}

/// The numbers of a new store begin anew beside volumes that stay: what is kept with those of the old one is nobody's.
#[test]
fn snapshots_of_another_store_are_stale() {
    let mut host = on("xfs");
    let versions = Versions::new(&host);
    host.switch(&versions.old());
    assert_eq!(data(&host), "row:one");
    host.switch(&versions.new_());
    assert_eq!(data(&host), "new:two");
    assert_eq!(kept(&host), [(1, json!(["db/data"]))]);
    host.switch("{}");
    host.kill_daemon();
    let state = host.dir.join("state");
    sh(
        &host,
        &format!("cd {} && rm -r store store.*", state.display()),
    );
    host.start_daemon();
    host.switch(&versions.old());
    assert_eq!(data(&host), "new:two\nrow:one");
    assert_eq!(kept(&host), []);
    let third = image(&host, "third", "file('version', b'3')");
    host.switch(&pod(&third, "rm /d/new", ""));
    eventually("the third one writes", || data(&host) == "row:one");
    assert_eq!(kept(&host), [(1, json!(["db/data"]))]);
    with_data(&host, 1);
    assert_eq!(data(&host), "new:two\nrow:one");
    let stale = "volumes/.snapshots/.stale-1-0/db/data/row";
    let row = sh(&host, &format!("cd {} && cat {stale}", state.display()));
    assert_eq!(row, "one\n");
    let events = host.tank(&["events"]).ok();
    assert!(events.contains(".stale-1-0"), "{events}");
    host.finish();
}

/// What can't be kept is not run over: the switch fails, and the way back does not wait for it.
#[test]
fn a_full_disk_fails_the_switch_and_leaves_no_half() {
    let host = on("xfs");
    let versions = Versions::new(&host);
    host.switch(&with_other(&versions, &versions.old()));
    assert_eq!(data(&host), "row:one");
    // Less is free than is kept for the store.
    let state = host.dir.join("state");
    let fill =
        "free=$(df --output=avail -B1 . | tail -1) && fallocate -l $((free - 30000000)) filled";
    sh(&host, &format!("cd {} && {fill}", state.display()));
    host.write("next.ncl", &with_other(&versions, &versions.new_()));
    let failed = host.tank(&["switch", "next.ncl", "--timeout", "20s"]);
    assert_eq!(failed.status, 3, "{}", failed.stderr);
    let text = tank_tests::words(&failed.stderr);
    assert!(
        text.contains(
            "take a snapshot of the volume `data` (`snapshots = 'never` goes on without)"
        ) && text.contains("No space left on device"),
        "{text}"
    );
    assert_eq!(data(&host), "row:one");
    assert_eq!(on_disk(&host), [] as [String; 0]);
    sh(&host, &format!("rm {}/filled", state.display()));
    host.tank(&["switch", "next.ncl"]).ok();
    assert_eq!(data(&host), "new:two");
    with_data(&host, 1);
    assert_eq!(data(&host), "row:one");
    host.finish();
}

#[test]
fn what_crashes_or_is_edited_causes_none_and_a_container_beside_it_rests() {
    let host = on("xfs");
    let versions = Versions::new(&host);
    let text = |image: &str, more: &str| {
        let beside = format!(
            "containers.side = {{ image = \"{}\", {RUN}, stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/d\" }} }},
             containers.far = {{ image = \"{}\", {RUN}, stop.signal = \"SIGKILL\" }} }} }}",
            versions.old, versions.old
        );
        let pod = pod(image, "true", more);
        format!("{}, {beside}", pod.strip_suffix(" } }").expect("a pod"))
    };
    host.switch(&text(&versions.old, ""));
    let (far, side) = (host.pid("db", "far"), host.pid("db", "side"));
    host.switch(&text(&versions.new, ""));
    assert_eq!(kept(&host).len(), 1);
    assert_eq!(host.pid("db", "far"), far);
    assert_ne!(host.pid("db", "side"), side);
    // Whatever becomes of what was kept, what runs is nobody else's.
    host.tank(&["generations", "delete", "1"]).ok();
    let app = host.pid("db", "app");
    sh(&host, &format!("kill -9 {app}"));
    eventually("it runs again", || {
        let pod = host.pod("db");
        let pid = pod["containers"][0]["pid"].as_i64();
        pod["state"] == "running" && pid.is_some_and(|pid| pid != app)
    });
    host.switch(&text(&versions.new, "mode = \"0711\""));
    assert_eq!(kept(&host), []);
    // It may be said that none is wanted.
    host.switch(&text(&versions.old, "mode = \"0711\", snapshots = 'never"));
    assert_eq!(kept(&host), []);
    host.finish();
}

#[test]
fn a_volume_that_an_older_tank_has_started_is_known() {
    let mut host = on("xfs");
    let versions = Versions::new(&host);
    host.switch(&versions.old());
    assert_eq!(data(&host), "row:one");
    host.kill_daemon();
    sh(
        &host,
        &format!("rm {}/state/volumes/db/.data.images", host.dir.display()),
    );
    host.start_daemon();
    host.switch(&versions.new_());
    assert_eq!(kept(&host), [(1, json!(["db/data"]))]);
    host.finish();
}
