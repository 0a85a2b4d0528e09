//! The daemon is killed at each step.

use super::{OLD, Versions, data, on, on_disk, pod};
use tank_tests::{Host, eventually, segment::sh};

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
