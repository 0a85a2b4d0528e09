//! Backups of one volume: listed, and brought back.

use super::{back_up, back_up_later, declare, folder, make_folder, pod};
use std::fs;
use tank_tests::{Host, words};

fn archives(host: &Host) -> Vec<serde_json::Value> {
    let list = host
        .tank(&["--json", "volume", "backups", "db/data"])
        .json();
    list["archives"].as_array().expect("archives").clone()
}

#[test]
fn a_backup_is_brought_back_by_its_number_its_time_or_its_path() {
    let host = Host::new();
    make_folder(&host);
    declare(&host, &pod(&host, "every = \"1d\""));
    host.exec("db", "echo one > /d/one");
    let first = back_up(&host).display().to_string();
    host.exec("db", "rm /d/one; echo two > /d/two");
    let second = back_up_later(&host).display().to_string();
    host.exec("db", "rm /d/two; echo three > /d/three");
    // The newest first, beside what is declared.
    let found = archives(&host);
    let path = |at: usize| found[at]["path"].as_str().expect("a path").to_owned();
    assert_eq!((path(0), path(1)), (second.clone(), first.clone()));
    assert_eq!(
        (&found[0]["number"], &found[1]["number"]),
        (&1.into(), &2.into())
    );
    assert!(found[0]["time"].as_u64() > found[1]["time"].as_u64());
    let size = fs::metadata(&first).expect("it is there").len();
    assert_eq!(
        (&found[1]["bytes"], &found[1]["empty"]),
        (&size.into(), &false.into())
    );
    let said = host.tank(&["volume", "backups", "db/data"]).ok();
    assert!(
        said.contains("NEWEST") && said.contains("NUMBER") && said.contains(&second),
        "{said}"
    );
    // Not while it is mounted.
    let refused = host.tank(&["volume", "restore", "db/data"]);
    assert_eq!(refused.status, 1);
    assert!(
        words(&refused.stderr).contains("a container of pod `db` has `data` mounted"),
        "{}",
        refused.stderr
    );
    host.tank(&["delete", "db"]).ok();
    // Where they are, a generation before this one says.
    assert_eq!(archives(&host), found);
    let volume = host.dir.join("state/volumes/db/data");
    let has = |name: &str| {
        let entries = fs::read_dir(&volume).expect("the volume");
        let names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, [name]);
    };
    let restore = |more: &[&str]| host.tank(&[&["volume", "restore", "db/data"], more].concat());
    let said = words(&restore(&[]).ok());
    assert!(
        said.contains(&format!("db/data has 1 entry now, of {second}")),
        "{said}"
    );
    assert!(
        said.contains("`tank volume restore db/data --replaced` brings it back"),
        "{said}"
    );
    has("two");
    restore(&["--replaced"]).ok();
    has("three");
    restore(&["2"]).ok();
    has("one");
    let stamp = second
        .rsplit_once('-')
        .and_then(|(_, end)| end.strip_suffix(".tar.zst"));
    restore(&[stamp.expect("a time")]).ok();
    has("two");
    restore(&[&first]).ok();
    has("one");
    let json = host
        .tank(&["--json", "volume", "restore", "db/data", "1"])
        .json();
    assert_eq!(
        (&json["archive"], &json["entries"], &json["still"]),
        (&second.clone().into(), &1.into(), &true.into())
    );
    has("two");
    // What there is none of.
    for wrong in ["0", "3", "yesterday", "/etc/passwd", "../../etc/passwd"] {
        let refused = restore(&[wrong]);
        assert_eq!(refused.status, 1);
        let said = words(&refused.stderr);
        assert!(
            said.contains("no backup is called") && said.contains("tank volume backups"),
            "{said}"
        );
    }
    assert_eq!(host.tank(&["volume", "restore", "db/nothing"]).status, 1);
    assert_eq!(restore(&["1", "--replaced"]).status, 2);
    // One that is no archive leaves all as it is; so does a file of somebody else's, and a link.
    fs::write(&second, "no archive").expect("writes");
    assert_eq!(restore(&["1"]).status, 1);
    has("two");
    fs::remove_file(&second).expect("goes");
    std::os::unix::fs::symlink(&first, &second).expect("a link");
    assert_eq!(archives(&host).len(), 1);
    // Also of a volume that is gone.
    let removed = host.tank(&["volume", "remove", "db/data"]).ok();
    assert!(
        removed.contains("`tank volume restore db/data`"),
        "{removed}"
    );
    // It is listed though nothing declares it now, and what declares it anew says how it comes back.
    let listed = words(&host.tank(&["volume", "backups"]).ok());
    assert!(listed.contains("last declared by generation 1"), "{listed}");
    host.write("again.ncl", &pod(&host, "every = \"1d\""));
    let note = "volume db/data begins anew, and";
    let plan = words(&host.tank(&["diff", "again.ncl"]).ok());
    let way = "`tank volume restore db/data` brings that back while its containers are stopped (`tank stop db`, then `tank start db`)";
    assert!(plan.contains(note) && plan.contains(way), "{plan}");
    restore(&[]).ok();
    has("one");
    let plan = words(&host.tank(&["diff", "again.ncl"]).ok());
    assert!(!plan.contains(note), "{plan}");
    host.tank(&["volume", "remove", "db/data"]).ok();
    let switched = host.tank(&["switch", "again.ncl"]);
    assert_eq!(switched.status, 0, "{switched:?}");
    let said = words(&switched.stderr);
    assert!(said.contains(note) && said.contains(way), "{said}");
    fs::remove_dir_all(folder(&host)).expect("goes");
    let refused = restore(&[]);
    assert_eq!(refused.status, 1);
    assert!(
        words(&refused.stderr).contains("there is no directory"),
        "{}",
        refused.stderr
    );
    host.finish();
}
