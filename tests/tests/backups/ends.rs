//! A daemon that ends in the middle of a backup.

use super::*;

#[test]
fn a_daemon_that_ends_in_the_middle_leaves_nothing_half_and_begins_again() {
    let mut host = Host::new();
    make_folder(&host);
    let after = hook("[ -e /d/go ] || exec sleep 1000");
    host.switch(&pod(
        &host,
        &format!("every = \"1m\", after = {{ {after} }}"),
    ));
    let halves = |host: &Host| {
        files(host)
            .into_iter()
            .filter(|name| name.starts_with('.'))
            .count()
    };
    // The archive is written, and has no name: `after` has not ended.
    eventually("it is on its way", || halves(&host) == 1);
    assert_eq!(files(&host).len(), 1);
    host.kill_daemon();
    // The process that writes it takes it along.
    eventually("the half one goes", || files(&host).is_empty());
    host.start_daemon();
    eventually("another is on its way", || {
        shown(&host)["running"] == true && halves(&host) == 1
    });
    // Asked to end, it takes it along.
    sh(&host, &format!("kill -TERM {}", host.daemon_pid()));
    host.reap_daemon();
    assert_eq!(files(&host), Vec::<String>::new());
    host.start_daemon();
    host.exec("db", "touch /d/go");
    eventually("it is made", || {
        files(&host).len() == 1 && halves(&host) == 0
    });
    host.finish();
}

#[test]
fn killed_at_each_step_it_leaves_whole_archives_alone() {
    let mut host = Host::new();
    make_folder(&host);
    declare(
        &host,
        &pod(
            &host,
            "every = \"1d\", keep = 2, before.exec = [\"true\"], after.exec = [\"true\"]",
        ),
    );
    host.exec("db", "head -c 300000 /dev/urandom > /d/much");
    back_up(&host);
    host.kill_daemon();
    let file = host.dir.join("count");
    let count = || fs::read_to_string(&file).map_or(0, |text| text.parse().expect("a number"));
    host.start_daemon_with(&[("TANKD_COUNT_TO", &file.display().to_string())]);
    let first: u64 = count();
    back_up(&host);
    let last = count();
    assert!(last >= first + 3, "{first} {last}");
    host.kill_daemon();
    for at in first + 1..=last {
        host.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        assert_ne!(
            host.tank(&["volume", "backup", "db/data"]).status,
            0,
            "{at}"
        );
        host.reap_daemon();
        let whole = files(&host)
            .into_iter()
            .filter(|name| !name.starts_with('.'));
        for name in whole {
            sh(
                &host,
                &format!("zstd -tq {}", folder(&host).join(name).display()),
            );
        }
        host.start_daemon();
        eventually("nothing half is left", || {
            files(&host).iter().all(|name| !name.starts_with('.'))
        });
        host.kill_daemon();
    }
    host.start_daemon();
    let newest = back_up(&host);
    assert_eq!(files(&host).len(), 2);
    assert!(newest.exists());
    host.finish();
}
