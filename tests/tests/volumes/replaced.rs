//! What a volume was before an import: kept, brought back, removed.

use super::{listed, on_disk};
use std::{fs, io::Write, process::Stdio};
use tank_tests::{Host, RUN, eventually, words};

fn plain(more: &str) -> String {
    format!(
        "{{ pods.db = {{ volumes.data = {{}}, containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\",
              mounts.data = {{ volume = \"data\", path = \"/d\" }} {more} }} }} }}"
    )
}

/// An archive of a folder with one file.
fn archive(host: &Host, name: &str, content: &str) -> String {
    let from = host.dir.join(format!("from-{name}"));
    fs::create_dir(&from).expect("a folder");
    fs::write(from.join(name), content).expect("writes");
    let tar = host.dir.join(format!("{name}.tar"));
    let packed = std::process::Command::new("tar")
        .args(["--create", "--file"])
        .arg(&tar)
        .arg("--directory")
        .arg(&from)
        .arg(".")
        .status();
    assert!(packed.expect("tar").success());
    tar.display().to_string()
}

fn has(host: &Host, volume: &str) -> Vec<String> {
    let entries = fs::read_dir(on_disk(host, volume)).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn what_an_import_replaces_is_kept_and_comes_back() {
    let host = Host::new();
    host.switch(&plain(""));
    host.exec("db", "echo mine > /d/mine");
    let (one, two) = (archive(&host, "one", "1"), archive(&host, "two", "2"));
    // Nothing was replaced yet, and nothing is while it is mounted.
    let back = ["volume", "restore", "db/data", "--replaced"];
    assert_eq!(host.tank(&back).status, 1);
    host.tank(&["delete", "db"]).ok();
    let none = host.tank(&back);
    assert_eq!(none.status, 1);
    assert!(
        none.stderr.contains("nothing was replaced of it"),
        "{}",
        none.stderr
    );
    let refused = host.tank(&["volume", "import", "db/data", &one]);
    assert!(
        words(&refused.stderr).contains("keeps what is there beside it"),
        "{}",
        refused.stderr
    );
    // The first import keeps what was there, and says where and how it comes back.
    let said = host
        .tank(&["volume", "import", "db/data", &one, "--replace"])
        .ok();
    let kept = on_disk(&host, ".data.replaced");
    let text = words(&said);
    for part in [
        "db/data has 1 entry now",
        &format!("what it was is kept in {}", kept.display()),
        "`tank volume restore db/data --replaced` brings it back",
        "`tank volume remove db/data --replaced` removes it",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("is gone"), "{text}");
    assert_eq!(
        (has(&host, "data"), has(&host, ".data.replaced")),
        (vec!["one".to_owned()], vec!["mine".to_owned()])
    );
    assert_eq!(listed(&host)["db/data"]["replaced"], true);
    assert!(host.tank(&["volume", "list"]).ok().contains("replaced"));
    // What is brought back is written by whoever starts first: the reason of the snapshot that is due is no other image.
    host.tank(&back).ok();
    assert_eq!(
        (has(&host, "data"), has(&host, ".data.replaced")),
        (vec!["mine".to_owned()], vec!["one".to_owned()])
    );
    // The next one takes the place of what is kept, and says so.
    let json = host
        .tank(&["--json", "volume", "import", "db/data", &two, "--replace"])
        .json();
    assert_eq!(json["entries"], 1);
    assert_eq!(json["kept"], kept.display().to_string());
    assert_eq!(json["dropped"], true);
    assert_eq!(
        (has(&host, "data"), has(&host, ".data.replaced")),
        (vec!["two".to_owned()], vec!["mine".to_owned()])
    );
    // No container has had that: another one takes its place, and what was kept stays.
    for archive in [&one, &two] {
        let import = [
            "--json",
            "volume",
            "import",
            "db/data",
            archive,
            "--replace",
        ];
        let json = host.tank(&import).json();
        assert_eq!(
            (&json["still"], &json["dropped"]),
            (&true.into(), &serde_json::Value::Null)
        );
        assert_eq!(has(&host, ".data.replaced"), ["mine"]);
    }
    // It outlives the daemon, and a pod that starts does not see it.
    let mut host = host;
    host.kill_daemon();
    host.start_daemon();
    host.switch(&plain(""));
    assert_eq!(host.exec("db", "ls -A /d"), "two");
    assert_eq!(host.tank(&back).status, 1);
    let dry = ["volume", "remove", "db/data", "--replaced", "--dry-run"];
    assert_eq!(
        host.tank(&dry).ok(),
        "would remove what db/data was before the last import\n"
    );
    assert_eq!(has(&host, ".data.replaced"), ["mine"]);
    assert_eq!(
        host.tank(&dry[..4]).ok(),
        "removed what db/data was before the last import\n"
    );
    assert!(!kept.exists());
    assert_eq!(host.tank(&dry[..4]).status, 1);
    assert_eq!(host.exec("db", "ls -A /d"), "two");
    // With the volume all of it goes.
    host.tank(&["delete", "db"]).ok();
    host.tank(&["volume", "import", "db/data", &one, "--replace"])
        .ok();
    let removed = host.tank(&["volume", "remove", "db/data"]).ok();
    assert!(
        removed.contains("what it was before the last import"),
        "{removed}"
    );
    assert!(!kept.exists() && !on_disk(&host, "data").exists());
    assert!(listed(&host).is_empty());
    host.finish();
}

/// A snapshot of what was imported is taken for what it is, and no other image is said to be about to write.
#[test]
fn a_snapshot_after_an_import_says_why() {
    let mut host = Host::without_daemon().with_state_on_disk("xfs");
    host.start_daemon();
    host.switch(&plain(""));
    host.exec("db", "echo mine > /d/mine");
    host.tank(&["delete", "db"]).ok();
    let one = archive(&host, "one", "1");
    host.tank(&["volume", "import", "db/data", &one, "--replace"])
        .ok();
    host.write("pods.ncl", &plain(""));
    let said = words(&host.tank(&["diff", "pods.ncl"]).ok());
    assert!(
        said.contains("snapshot db/data, kept with generation 2")
            && said.contains("it was imported, and nothing has written to it since"),
        "{said}"
    );
    assert!(!said.contains("another image"), "{said}");
    host.tank(&["switch", "pods.ncl"]).ok();
    assert_eq!(host.exec("db", "ls -A /d"), "one");
    host.finish();
}

/// Two at once are not mixed, and what one that has ended leaves keeps nobody from trying again.
#[test]
fn an_import_waits_for_another_one_of_the_same_volume() {
    let host = Host::new();
    host.switch(&plain(""));
    host.tank(&["delete", "db"]).ok();
    let tar = fs::read(archive(&host, "one", "1")).expect("reads");
    let import = ["volume", "import", "db/data", "--replace"];
    let mut command = host.command(&import);
    let mut first = command.stdin(Stdio::piped()).spawn().expect("runs");
    let mut pipe = first.stdin.take().expect("a pipe");
    pipe.write_all(&tar[..512]).expect("writes");
    let begun = on_disk(&host, ".data.import");
    eventually("it has begun", || begun.exists());
    let refused = host.tank_with_input(&import, &tar);
    assert_eq!(refused.status, 1, "{}", refused.stdout);
    let says = "it is being imported by somebody else";
    assert!(words(&refused.stderr).contains(says), "{}", refused.stderr);
    first.kill().expect("ends");
    first.wait().expect("ends");
    host.tank_with_input(&import, &tar).ok();
    assert_eq!(has(&host, "data"), ["one"]);
    drop(pipe);
    host.finish();
}
