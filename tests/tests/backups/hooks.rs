//! What hooks do to a backup, and what becomes of what they print.

use super::*;

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
