//! What volumes have over changes of images: kept with the generation that is left, brought back by
//! `generations rollback --with-data`, and never unasked. On XFS and on btrfs, whose files can share what
//! they have, and on one where they can't.

use serde_json::{Value, json};
use tank_tests::{Host, RUN, eventually, images::image, segment::sh};

/// A database of which the second version can't leave alone what the first one wrote.
const OLD: &str = "[ -e /d/row ] || echo one > /d/row";
const NEW: &str = "rm -f /d/row; echo two > /d/new";

fn pod(image: &str, script: &str, more: &str) -> String {
    format!(
        "{{ pods.db = {{ volumes.data = {{ {more} }}, containers.app = {{ image = \"{image}\", stop.signal = \"SIGKILL\",
              command = [\"/bin/sh\", \"-c\", \"{script}; while true; do sleep 0.1; done\"],
              mounts.data = {{ volume = \"data\", path = \"/d\" }} }} }} }}"
    )
}

struct Versions {
    old: String,
    new: String,
}

impl Versions {
    fn new(host: &Host) -> Self {
        Self {
            old: image(host, "old", "file('version', b'1')"),
            new: image(host, "new", "file('version', b'2')"),
        }
    }

    fn old(&self) -> String {
        pod(&self.old, OLD, "")
    }

    fn new_(&self) -> String {
        pod(&self.new, NEW, "")
    }
}

fn on(kind: &str) -> Host {
    let mut host = Host::without_daemon().with_state_on_disk(kind);
    host.start_daemon();
    host
}

/// The volumes of which snapshots are kept, by their generations.
fn kept(host: &Host) -> Vec<(u64, Value)> {
    let list = host.tank(&["--json", "generations", "list"]).json();
    let generations = list["generations"].as_array().expect("generations");
    let with = generations
        .iter()
        .filter(|one| one.get("snapshots").is_some());
    with.map(|one| {
        (
            one["number"].as_u64().expect("a number"),
            one["snapshots"].clone(),
        )
    })
    .collect()
}

/// What of snapshots is on the disk, half of one among it.
fn on_disk(host: &Host) -> Vec<String> {
    let state = host.dir.join("state/volumes/.snapshots");
    let found = sh(
        host,
        &format!(
            "cd {} && find . -mindepth 3 -maxdepth 3 | sort",
            state.display()
        ),
    );
    let all: Vec<String> = found.lines().map(str::to_owned).collect();
    // Who wrote a snapshot stands beside it.
    let of = |path: &str| {
        let (dir, name) = path.rsplit_once('/')?;
        let volume = name.strip_prefix('.')?.strip_suffix(".by")?;
        Some(format!("{dir}/{volume}"))
    };
    let is_own = |path: &String| of(path).is_none_or(|of| !all.contains(&of));
    all.iter().filter(|path| is_own(path)).cloned().collect()
}

fn data(host: &Host) -> String {
    let mut last = String::new();
    eventually("the container has begun", || {
        last = host.exec("db", "cd /d && grep -H . * 2>/dev/null | sort");
        !last.is_empty()
    });
    last
}

fn with_data(host: &Host, number: u64) -> String {
    host.tank(&[
        "generations",
        "rollback",
        &number.to_string(),
        "--with-data",
    ])
    .ok()
}

/// Everything that a listing of the host says of a volume, by names from its top.
fn listing(host: &Host) -> String {
    let volume = host.dir.join("state/volumes/db/data");
    sh(
        host,
        &format!(
            "cd {} && find . -printf '%y %m %U:%G %n %s %T@ %P -> %l\\0' | sort -z | tr '\\0' '\\n' && \
             find . -type f -exec md5sum {{}} + | sort && getfattr -R -P -d -m - -e hex . | grep -v '^$' | sort",
            volume.display()
        ),
    )
}

/// What may be in a volume, made by the root of a container.
const ODD: &str = "cd /d && mkdir -m 2750 sub && echo a > sub/a && ln sub/a sub/b && ln -s /etc up && ln -s ../../.. sub/out &&
    mkfifo -m 600 pipe && dd if=/dev/zero of=holes bs=1 count=1 seek=9000000 2>/dev/null && echo x > set && chown 7:8 set && chmod 6755 set &&
    chown -h 9:9 up && touch \"$(printf 'new\\nline\\033[1m')\" && touch -d @1000 set && mkdir -m 1777 tmp && chown 5:6 sub &&
    head -c 8000000 /dev/urandom > much && touch -d @77 sub .";

fn back_and_forth(kind: &str) {
    let host = on(kind);
    let versions = Versions::new(&host);
    host.switch(&versions.old());
    assert_eq!(data(&host), "row:one");
    host.exec("db", ODD);
    sh(
        &host,
        &format!(
            "cd {}/state/volumes/db/data && setfattr -n user.of -v it set && setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 much",
            host.dir.display()
        ),
    );
    let before = listing(&host);
    let space = || -> u64 {
        let free = sh(
            &host,
            &format!(
                "sync; df --output=used -k {}/state | tail -1",
                host.dir.display()
            ),
        );
        free.trim().parse().expect("a number")
    };
    host.write("next.ncl", &versions.new_());
    let plan = host.tank(&["diff", "next.ncl"]).ok();
    assert!(
        plan.contains("snapshot db/data, kept with generation 1"),
        "{plan}"
    );
    let (plan, used) = (host.tank(&["--json", "diff", "next.ncl"]).json(), space());
    let name = plan["plan"].as_str().expect("a hash");
    host.tank(&["switch", "next.ncl", "--plan", name]).ok();
    assert_eq!(
        host.exec("db", "ls /d/new /d/row 2>&1 | head -1"),
        "ls: /d/row: No such file or directory"
    );
    assert_eq!(kept(&host), [(1, json!(["db/data"]))]);
    assert_eq!(on_disk(&host), ["./1/db/data"]);
    // 17 MB are there twice, and lie on the disk once.
    let more = space().saturating_sub(used);
    assert!(more < 8_000, "{more} KiB more");
    let volumes = host.tank(&["--json", "volume", "list"]).json();
    assert_eq!(volumes["volumes"][0]["snapshots"], json!([1]));
    assert!(
        host.tank(&["generations", "show", "1"])
            .ok()
            .contains("db/data as it left them")
    );
    // Back without data: it runs on what the second one left, which is kept as well.
    host.tank(&["generations", "rollback", "1"]).ok();
    eventually("the first one writes again", || {
        host.exec("db", "cat /d/row /d/new 2>&1") == "one\ntwo"
    });
    assert_eq!(
        kept(&host),
        [(1, json!(["db/data"])), (2, json!(["db/data"]))]
    );
    // With them: what was there, to the last of it. It declares what runs already.
    with_data(&host, 1);
    assert_eq!(listing(&host), before);
    assert_eq!(
        kept(&host).iter().map(|one| one.0).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    // Which may be taken back, too.
    with_data(&host, 3);
    eventually("it is the container of then", || {
        host.exec("db", "cat /d/row /d/new 2>&1") == "one\ntwo"
    });
    with_data(&host, 1);
    assert_eq!(listing(&host), before);
    // What is kept goes with its generation.
    let dry = host.tank(&["gc", "--dry-run", "--keep", "1"]).ok();
    assert!(dry.contains("snapshots of volumes"), "{dry}");
    host.tank(&["generations", "delete", "1", "2"]).ok();
    assert_eq!(
        on_disk(&host),
        ["./3/db/data", "./4/db/data", "./5/db/data"]
    );
    // None half is there after all this, and nobody but root gets to them.
    assert_eq!(
        sh(
            &host,
            &format!("stat -c %a {}/state/volumes/.snapshots", host.dir.display())
        )
        .trim(),
        "700"
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    // And with the volume.
    host.switch("{}");
    let removed = host.tank(&["volume", "remove", "db/data"]).ok();
    assert!(
        removed.contains("and its snapshots, kept with generations 3"),
        "{removed}"
    );
    assert_eq!(on_disk(&host), [] as [String; 0]);
    host.finish();
}

#[test]
fn a_volume_goes_back_with_a_generation_and_forth_again_on_xfs() {
    back_and_forth("xfs");
}

#[test]
fn a_volume_goes_back_with_a_generation_and_forth_again_on_btrfs() {
    back_and_forth("btrfs");
}

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

/// Two versions of a database, and a pod that has nothing to do with them.
fn with_other(versions: &Versions, db: &str) -> String {
    let other = format!(
        "pods.other.containers.app = {{ image = \"{}\", {RUN}, stop.signal = \"SIGKILL\" }}",
        versions.new
    );
    format!("{}, {other} }}", db.strip_suffix('}').expect("a record"))
}

/// Somebody asks for data, which can't be had at once. Whatever else is changed meanwhile, the old version does not
/// start on what the new one has left.
#[test]
fn what_was_to_be_brought_back_is_not_forgotten_over_other_changes() {
    let host = on("xfs");
    let versions = Versions::new(&host);
    host.switch(&with_other(&versions, &versions.old()));
    assert_eq!(data(&host), "row:one");
    host.switch(&with_other(&versions, &versions.new_()));
    assert_eq!(data(&host), "new:two");
    let state = host.dir.join("state");
    let fill =
        "free=$(df --output=avail -B1 . | tail -1) && fallocate -l $((free - 30000000)) filled";
    sh(&host, &format!("cd {} && {fill}", state.display()));
    let back = ["generations", "rollback", "1", "--with-data"];
    let failed = host.tank(&back);
    assert_eq!(failed.status, 1, "{}", failed.stderr);
    // A neighbour goes, and the same is asked for once more.
    host.tank(&["delete", "other"]);
    host.tank(&["generations", "rollback", "--with-data"]);
    sh(&host, &format!("rm {}/filled", state.display()));
    let again = host.tank(&["generations", "rollback", "--with-data"]);
    eventually(&again.stderr, || data(&host) == "row:one");
    // What the new one had is kept: nobody else wrote to it.
    let newest = kept(&host).last().map(|one| one.0).expect("one");
    with_data(&host, newest);
    assert_eq!(host.exec("db", "cat /d/new"), "two");
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

/// The snapshot of a version between goes with its generation: then what is left is another version's.
#[test]
fn what_other_images_have_written_is_not_brought_back() {
    let host = on("xfs");
    let versions = Versions::new(&host);
    let third = image(&host, "third", "file('version', b'3')");
    host.switch(&versions.old());
    assert_eq!(data(&host), "row:one");
    host.switch(&pod(&versions.old, OLD, "mode = \"0711\""));
    host.switch(&versions.new_());
    assert_eq!(data(&host), "new:two");
    host.switch(&pod(&third, "echo three > /d/third", ""));
    eventually("the third one writes", || {
        host.exec("db", "cat /d/third 2>&1") == "three"
    });
    // An older Tank did not keep who wrote a snapshot: then those did that were declared.
    let by = |number: u64| {
        let state = host.dir.join("state/volumes/.snapshots");
        sh(
            &host,
            &format!("rm {}/{number}/db/.data.by", state.display()),
        )
    };
    by(2);
    by(3);
    host.tank(&["generations", "pin", "1"]).ok();
    host.tank(&["generations", "delete", "2"]).ok();
    let handed = [(1, json!(["db/data"])), (3, json!(["db/data"]))];
    assert_eq!(kept(&host), handed);
    // Without that, what the third one wrote on is not what the first one left.
    let state = host.dir.join("state/volumes/.snapshots/1/db/data");
    sh(&host, &format!("rm -r {}", state.display()));
    let back = host.tank(&["generations", "rollback", "1", "--with-data"]);
    assert_eq!(back.status, 0, "{}", back.stderr);
    assert!(
        back.stderr
            .contains("`tank generations rollback 3 --with-data` brings that back"),
        "{}",
        back.stderr
    );
    assert_eq!(host.exec("db", "cat /d/third"), "three");
    with_data(&host, 3);
    assert_eq!(data(&host), "new:two");
    host.finish();
}

/// A container beside it wrote in the first generation, and is in no later one: what the third one left is what the second
/// one goes back to, before the others go and after it, and its name stays that of the third.
#[test]
fn who_wrote_before_a_generation_keeps_nothing_from_it() {
    let host = on("xfs");
    let versions = Versions::new(&host);
    let third = image(&host, "third", "file('version', b'3')");
    let app = |image: &str, more: &str| {
        format!(
            "containers.app = {{ image = \"{image}\", stop.signal = \"SIGKILL\", {more}
              command = [\"/bin/sh\", \"-c\", \"echo $V >> /d/v; while true; do sleep 0.1; done\"],
              mounts.data = {{ volume = \"data\", path = \"/d\" }} }}"
        )
    };
    let pod = |containers: &str| format!("{{ pods.db = {{ volumes.data = {{}}, {containers} }} }}");
    let side = format!(
        "containers.side = {{ image = \"{}\", {RUN}, stop.signal = \"SIGKILL\", mounts.data = {{ volume = \"data\", path = \"/d\" }} }}",
        versions.new
    );
    let wrote = |lines: &str| {
        let file = host.dir.join("state/volumes/db/data/v");
        let cat = format!("cat {} 2>/dev/null || true", file.display());
        eventually(lines, || sh(&host, &cat).trim() == lines);
    };
    let old = |more: &str| app(&versions.old, more);
    host.switch(&pod(&format!("{}, {side}", old("env.V = \"1\","))));
    wrote("1");
    host.switch(&pod(&old("env.V = \"2\",")));
    wrote("1\n2");
    host.switch(&pod(&old("env.V = \"3\",")));
    wrote("1\n2\n3");
    host.switch(&pod(&app(&third, "env.V = \"4\",")));
    wrote("1\n2\n3\n4");
    assert_eq!(kept(&host), [(3, json!(["db/data"]))]);
    let dry = ["generations", "rollback", "2", "--with-data", "--dry-run"];
    let becomes = "db/data becomes what generation 3 left";
    let said = tank_tests::words(&host.tank(&dry).ok());
    assert!(said.contains(becomes), "{said}");
    host.tank(&["generations", "delete", "1", "3"]).ok();
    assert_eq!(kept(&host), [(2, json!(["db/data"]))]);
    let said = tank_tests::words(&host.tank(&dry).ok());
    assert!(said.contains(becomes), "{said}");
    assert!(
        said.contains("data db/data: as generation 3 left it"),
        "{said}"
    );
    with_data(&host, 2);
    wrote("1\n2\n3\n2");
    host.finish();
}

/// No snapshot was taken before another image wrote: then what is there later is not what was left before it, whether the
/// generation between is still there or not.
#[test]
fn what_another_image_has_changed_meanwhile_is_not_brought_back() {
    let host = on("xfs");
    let versions = Versions::new(&host);
    let third = image(&host, "third", "file('version', b'3')");
    let step = |image: &str, script: &str, more: &str| {
        host.switch(&pod(image, script, more));
    };
    let reads = |text: &str| {
        eventually(text, || host.exec("db", "cat /d/x 2>&1") == text);
    };
    let never = "snapshots = 'never";
    step(&versions.old, "echo A1 > /d/x", never);
    reads("A1");
    step(&versions.new, "echo B2 > /d/x", never);
    reads("B2");
    step(&versions.old, "echo A3-on-$(cat /d/x) > /d/x", "");
    reads("A3-on-B2");
    step(&third, "echo C4 > /d/x", "");
    reads("C4");
    assert_eq!(kept(&host), [(3, json!(["db/data"]))]);
    let stays = |when: &str| {
        let dry = ["generations", "rollback", "1", "--with-data", "--dry-run"];
        let said = tank_tests::words(&host.tank(&dry).ok());
        assert!(
            said.contains("db/data stays as it is")
                && said.contains("`tank generations rollback 3 --with-data` brings that back"),
            "{when}: {said}"
        );
    };
    stays("all are there");
    host.tank(&["generations", "delete", "2"]).ok();
    stays("the one between is gone");
    with_data(&host, 3);
    // It was started on what the third one had left.
    reads("A3-on-A3-on-B2");
    host.tank(&["generations", "delete", "3"]).ok();
    assert_eq!(kept(&host), [(4, json!(["db/data"]))]);
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

/// The daemon dies at every boundary of a switch that takes a snapshot, and of the rollback that brings
/// it back: each time the next one comes to the same end, and nothing half is left.
#[test]
fn whenever_the_daemon_dies_a_snapshot_is_whole_and_comes_back_once() {
    let mut host = on("xfs");
    let versions = Versions::new(&host);
    host.switch(&versions.old());
    assert_eq!(data(&host), "row:one");
    host.write("next.ncl", &versions.new_());
    let counter = host.dir.join("count");
    let counted = |host: &mut Host, change: &[&str]| -> u64 {
        host.kill_daemon();
        let _ = std::fs::remove_file(&counter);
        host.start_daemon_with(&[("TANKD_COUNT_TO", counter.to_str().expect("a path"))]);
        host.tank(change).ok();
        let count = std::fs::read_to_string(&counter).expect("a count");
        count.parse().expect("a number")
    };
    let back = ["generations", "rollback", "1", "--with-data"];
    let forth = ["switch", "next.ncl"];
    let boundaries = counted(&mut host, &forth).max(counted(&mut host, &back));
    assert_eq!(data(&host), "row:one");
    let current = |host: &Host| host.tank(&["--json", "status"]).json()["generation"].as_u64();
    let mut died = 0;
    for boundary in 1..=boundaries {
        for (change, expected) in [(&forth[..], "new:two"), (&back[..], "row:one")] {
            let begin = current(&host);
            host.kill_daemon();
            host.start_daemon_with(&[("TANKD_DIE_AT", &boundary.to_string())]);
            let ended = host.tank(change);
            let has_died = host.daemon_has_ended();
            died += u32::from(has_died);
            if has_died {
                host.reap_daemon();
                host.start_daemon();
            }
            if current(&host) == begin {
                // It died before the commit: nobody has asked for anything.
                host.tank(change).ok();
            }
            let what = format!("{change:?} at {boundary}: {}", ended.stderr);
            eventually(&what, || host.tank(&["diff", "--exit-code"]).status == 0);
            eventually(&what, || data(&host) == expected);
            let left = begin.expect("a generation");
            let paths = on_disk(&host);
            assert!(
                paths.contains(&format!("./{left}/db/data")),
                "{what}: {paths:?}"
            );
            let half: Vec<&String> = paths.iter().filter(|path| path.contains("/.")).collect();
            assert!(half.is_empty(), "{what}: {half:?}");
        }
    }
    assert!(died >= 10, "{died} deaths of {boundaries} boundaries");
    host.finish();
}

/// A change of the configuration takes none, so what the second generation left is what the first one goes back to.
#[test]
fn a_snapshot_is_handed_to_the_generation_that_goes_back_to_it() {
    let host = on("btrfs");
    let versions = Versions::new(&host);
    let third = image(&host, "third", "file('version', b'3')");
    host.switch(&versions.old());
    assert_eq!(data(&host), "row:one");
    host.switch(&pod(&versions.old, OLD, "mode = \"0711\""));
    host.exec("db", "echo more > /d/more");
    let before = listing(&host);
    host.switch(&versions.new_());
    assert_eq!(data(&host), "more:more\nnew:two");
    host.switch(&pod(&third, "echo three > /d/third", ""));
    eventually("the third one writes", || {
        host.exec("db", "cat /d/third 2>&1") == "three"
    });
    let (second, other) = ((2, json!(["db/data"])), (3, json!(["db/data"])));
    assert_eq!(kept(&host), [second, other.clone()]);
    // What would be is said, and is so.
    host.tank(&["generations", "pin", "1"]).ok();
    let dry = host.tank(&["gc", "--dry-run", "--keep", "1"]);
    let said =
        "what generation 2 left of db/data: generation 1 goes back to it, and has it from then on";
    let words = tank_tests::words(&format!("{}{}", dry.stdout, dry.stderr));
    assert!(words.contains(said), "{words}");
    let deleted = host.tank(&["generations", "delete", "2"]);
    let words = tank_tests::words(&format!("{}{}", deleted.stdout, deleted.stderr));
    assert!(words.contains(said), "{words}");
    let first = (1, json!(["db/data"]));
    assert_eq!(kept(&host), [first.clone(), other]);
    assert_eq!(on_disk(&host), ["./1/db/data", "./3/db/data"]);
    let volumes = host.tank(&["--json", "volume", "list"]).json();
    assert_eq!(volumes["volumes"][0]["snapshots"], json!([1, 3]));
    // What nobody goes back to goes: the first one's images have not written that.
    host.tank(&["generations", "delete", "3"]).ok();
    assert_eq!(on_disk(&host), ["./1/db/data"]);
    let back = with_data(&host, 1);
    assert_eq!(listing(&host), before, "{back}");
    assert_eq!(kept(&host), [first, (4, json!(["db/data"]))]);
    host.tank(&["generations", "unpin", "1"]).ok();
    host.tank(&["generations", "delete", "1", "4"]).ok();
    assert_eq!(on_disk(&host), [] as [String; 0]);
    host.finish();
}

/// The daemon dies at every boundary of a deletion: what is handed on is there once, whole, and with one of the two.
#[test]
fn whenever_the_daemon_dies_a_snapshot_is_handed_on_once() {
    let mut host = on("xfs");
    let versions = Versions::new(&host);
    let mut ended_by_itself = false;
    for boundary in 1..60 {
        // Not the same text twice: that would be no generation.
        host.switch(&pod(
            &versions.old,
            OLD,
            &format!("mode = \"0{:o}\"", 0o700 + boundary),
        ));
        host.exec("db", &format!("echo {boundary} > /d/mark"));
        host.switch(&pod(
            &versions.old,
            OLD,
            &format!("owner = \"{boundary}:1\""),
        ));
        host.switch(&versions.new_());
        let current = host.tank(&["--json", "status"]).json()["generation"].as_u64();
        let (to, from) = (current.expect("one") - 2, current.expect("one") - 1);
        host.kill_daemon();
        host.start_daemon_with(&[("TANKD_DIE_AT", &boundary.to_string())]);
        let deleted = host.tank(&["generations", "delete", &from.to_string()]);
        ended_by_itself = !host.daemon_has_ended();
        match ended_by_itself {
            true => host.kill_daemon(),
            false => host.reap_daemon(),
        }
        host.start_daemon();
        // It may be gone already.
        host.tank(&["generations", "delete", &from.to_string()]);
        host.tank(&["gc"]).ok();
        let paths = on_disk(&host);
        let (old, new) = (format!("./{from}/db/data"), format!("./{to}/db/data"));
        let what = format!("at {boundary}: {paths:?}: {}", deleted.stderr);
        assert!(paths.contains(&new) && !paths.contains(&old), "{what}");
        assert!(!paths.iter().any(|path| path.contains("/.")), "{what}");
        let mark = format!(
            "cat {}/state/volumes/.snapshots/{to}/db/data/mark",
            host.dir.display()
        );
        assert_eq!(sh(&host, &mark).trim(), boundary.to_string(), "{what}");
        if ended_by_itself {
            break;
        }
    }
    assert!(ended_by_itself, "every deletion ends the daemon");
    host.finish();
}

/// What a rollback would do is what it then does, and asking changes nothing.
#[test]
fn a_rollback_is_shown_before_it_is_made() {
    let host = on("xfs");
    let versions = Versions::new(&host);
    host.switch(&with_other(&versions, &versions.old()));
    assert_eq!(data(&host), "row:one");
    host.switch(&with_other(&versions, &versions.new_()));
    assert_eq!(data(&host), "new:two");
    let state = || {
        let list = |what: &[&str]| host.tank(what).json();
        (
            list(&["--json", "generations", "list"]),
            host.pid("db", "app"),
            data(&host),
            on_disk(&host),
        )
    };
    let begin = state();
    let dry = ["generations", "rollback", "1", "--dry-run"];
    let said = host.tank(&dry).ok();
    assert!(said.starts_with("going back to generation 1 ("), "{said}");
    assert!(said.contains("~ container db/app  image: "), "{said}");
    let steps = tank_tests::words(&said);
    assert!(
        steps.contains("stop db/app") && steps.contains("start db/app"),
        "{said}"
    );
    assert!(
        steps.contains("snapshot db/data, kept with generation 2"),
        "{said}"
    );
    assert!(
        !steps.contains("other/app") && !steps.contains("data db/data: as generation"),
        "{said}"
    );
    let with_data_too = [&dry[..], &["--with-data"]].concat();
    let said = host.tank(&with_data_too).ok();
    let words = tank_tests::words(&said);
    assert!(
        words.contains("db/data becomes what generation 1 left"),
        "{said}"
    );
    assert!(
        words.contains("data db/data: as generation 1 left it, "),
        "{said}"
    );
    assert!(
        words.contains("bring db/data back as generation 1 left it"),
        "{said}"
    );
    // As a diff: 0, or 2 if it is asked for.
    let coded = host.tank(&[&dry[..], &["--exit-code"]].concat());
    assert_eq!(coded.status, 2, "{}", coded.stderr);
    let json = host
        .tank(&[&["--json"], &with_data_too[..]].concat())
        .json();
    assert_eq!(
        (&json["generation"], &json["parent"]),
        (&json!(1), &json!(2)),
        "{json}"
    );
    let back = &json["data"][0];
    assert_eq!(
        (&back["volume"], &back["generation"]),
        (&json!("db/data"), &json!(1))
    );
    assert!(back["time"].as_u64().is_some_and(|time| time > 0), "{json}");
    // What is not there is no rollback, and of a stack that there is none of neither.
    assert_eq!(
        host.tank(&["generations", "rollback", "9", "--dry-run"])
            .status,
        1
    );
    let stack = ["generations", "rollback", "--stack", "none", "--dry-run"];
    assert_eq!(host.tank(&stack).status, 1);
    assert_eq!(
        host.tank(&["generations", "rollback", "--exit-code"])
            .status,
        2
    );
    assert_eq!(state(), begin);
    let shown: Vec<Value> = json["steps"].as_array().expect("steps").clone();
    with_data(&host, 1);
    assert_eq!(data(&host), "row:one");
    assert!(shown.len() >= 3, "{json}");
    // There is nothing to go back to any more than what runs.
    let none = host.tank(&["generations", "rollback", "1", "--dry-run", "--exit-code"]);
    assert_eq!(none.status, 0, "{}", none.stdout);
    assert!(none.stdout.contains("nothing to do"), "{}", none.stdout);
    host.finish();
}
