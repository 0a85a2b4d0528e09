//! What a rollback leaves alone, since other images wrote to it; and snapshots whose generation goes.

use super::{OLD, Versions, data, kept, listing, on, on_disk, pod, with_data};
use serde_json::json;
use tank_tests::{RUN, eventually, images::image, segment::sh};

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
