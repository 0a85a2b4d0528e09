//! What a rollback brings back, and when.

use super::{Versions, data, kept, listing, on, on_disk, with_data, with_other};
use serde_json::{Value, json};
use tank_tests::{eventually, segment::sh, words};

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
    let back = host.tank(&["generations", "rollback", "1"]);
    assert_eq!(back.status, 0, "{back:?}");
    assert!(
        words(&back.stderr).contains(
            "volumes stay as they are: `tank generations rollback 1 --with-data` would bring back db/data as well"
        ),
        "{}",
        back.stderr
    );
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
    assert!(
        dry.contains("snapshots of volumes") && dry.contains("  db/data as generation 1 left it ("),
        "{dry}"
    );
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
