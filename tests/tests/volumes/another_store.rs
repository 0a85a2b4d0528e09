//! Volumes beside a store that is another one than that which their containers were started from.

use super::{listed, pod};
use std::fs;
use tank_tests::{Host, words};

#[test]
fn beside_another_store_a_volume_is_in_use_where_that_is_known() {
    let mut host = Host::new();
    let config = pod("oci:./busybox", "", "");
    host.switch(&config);
    fs::write(host.dir.join("one"), "1").expect("writes");
    let tar = std::process::Command::new("tar")
        .args(["-cf", "other.tar", "one"])
        .current_dir(&host.dir)
        .status();
    assert!(tar.expect("tar").success());
    host.tank(&["volume", "import", "db/never", "other.tar"])
        .ok();
    let (data, never) = ("db/data", "db/never");
    let found = listed(&host);
    assert_eq!(found[data]["mounted"], true);
    assert_eq!(found[data].get("supposed"), None);
    host.kill_daemon();
    fs::remove_dir_all(host.dir.join("state/store")).expect("goes");
    fs::remove_file(host.dir.join("state/store.newest")).expect("goes");
    host.start_daemon();
    let found = listed(&host);
    let state = |volume: &str| {
        (
            found[volume]["mounted"].clone(),
            found[volume].get("supposed").cloned(),
        )
    };
    assert_eq!(state(data), (true.into(), Some(true.into())));
    assert_eq!(state(never), (false.into(), None));
    let table = host.tank(&["volume", "list"]).ok();
    assert!(table.contains("may be in use"), "{table}");
    let refused = host.tank(&["volume", "remove", data]);
    assert_eq!(refused.status, 1);
    assert!(
        words(&refused.stderr).contains("it is not known what it has mounted"),
        "{}",
        refused.stderr
    );
    let refused = host.tank(&["volume", "import", "--replace", data, "other.tar"]);
    assert!(
        words(&refused.stderr).contains("may have `data` mounted"),
        "{}",
        refused.stderr
    );
    host.tank(&["volume", "remove", never]).ok();
    // What its pod was started from is declared again: then it is known.
    host.switch(&config);
    let found = listed(&host);
    assert_eq!(found[data]["mounted"], true);
    assert_eq!(found[data].get("supposed"), None);
    host.finish();
}
