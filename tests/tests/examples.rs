//! The examples that another test does not run already (`scenario` has `web`, the demo `hello`): each as its file says, with
//! images made of Debian's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tank_tests::{Ended, Host, eventually, repo};

/// A copy of an example in the host's folder, so that nothing is written beside the original.
fn copied(host: &Host, example: &str) {
    let from = repo().join("examples").join(example);
    let copied = Command::new("cp")
        .arg("-r")
        .args([&from, &host.dir])
        .status();
    assert!(copied.expect("cp").success());
}

/// What the host gets at an address of its own, as soon as it gets anything.
#[track_caller]
fn page(host: &Host, url: &str) -> String {
    let mut page = String::new();
    eventually(url, || {
        let ended = host.get(url);
        page = ended.stdout;
        ended.status == 0
    });
    page
}

#[test]
fn an_application_waits_for_its_migration_and_that_for_the_database() {
    let made = Command::new(repo().join("scripts/compose-images.sh")).output();
    let made: Ended = made.expect("compose-images.sh").into();
    let mut host = Host::new();
    host.start_registry_of(Path::new(made.ok().trim_end()));
    copied(&host, "database");
    // The folders of the host that it names are of this test alone.
    let file = host.dir.join("database/pods.ncl");
    let text = fs::read_to_string(&file).expect("the example");
    let own = |name: &str| host.dir.join(name).display().to_string();
    let (secrets, backups) = (own("secrets"), own("backups"));
    let text = text
        .replace("/etc/tank", &secrets)
        .replace("/var/backups/notes", &backups);
    fs::write(&file, text).expect("a copy");
    for folder in [&secrets, &backups] {
        fs::create_dir(folder).expect("a folder");
    }
    fs::write(
        PathBuf::from(&secrets).join("db-password"),
        "a-password-of-2026",
    )
    .expect("a password");
    let switch = |timeout: &str| -> Ended {
        let mut switch = host.command(&["switch", "database/pods.ncl", "--timeout", timeout]);
        for pod in ["db", "migrate"] {
            let image = format!("pods.{pod}.containers.app.image");
            switch.arg(format!("--set={image}=\"localhost:5000/mariadb:latest\""));
        }
        switch.output().expect("tank").into()
    };
    // The first start makes the database.
    let switched = switch("5m");
    assert_eq!(switched.status, 0, "{}", switched.stderr);
    let shown = page(&host, "http://127.0.0.1:8083/");
    assert!(shown.contains("Hello  Blog post #1"), "{shown}");
    let ask = "mariadb --batch --skip-column-names --password=\"$(cat /run/secrets/db-password)\" example -e 'SELECT text FROM notes'";
    assert_eq!(host.exec("notes:db", ask), "the first note");
    // The order that it was started in.
    let started = |pod: &str| host.pod(pod)["containers"][0]["started"].as_u64();
    assert!(started("notes:db") < started("notes:migrate"));
    assert!(started("notes:migrate") < started("notes:web"));
    assert_eq!(host.pod("notes:migrate")["containers"][0]["status"], 0);
    // A migration that fails is put back, and what ran before goes on.
    let broken = "database/migrations/1-notes.sql";
    host.write(broken, "THIS IS NO SQL;\n");
    let switched = switch("20s");
    assert_eq!(switched.status, 3, "{}", switched.stderr);
    assert!(switched.stderr.contains("migrate"), "{}", switched.stderr);
    assert_eq!(host.exec("notes:db", ask), "the first note");
    host.tank(&["delete", "--stack", "notes"]).ok();
    host.finish();
}

#[test]
fn a_compose_file_becomes_the_example_beside_it_and_runs() {
    let mut host = Host::new();
    host.start_registry();
    copied(&host, "compose");
    let made = host.dir.join("compose/pods.ncl");
    let kept = fs::read_to_string(&made).expect("the example");
    fs::remove_file(&made).expect("removes");
    host.tank(&[
        "import",
        "compose/compose.yaml",
        "--output",
        "compose/pods.ncl",
    ])
    .ok();
    // The folder is not said: it is imported as it was.
    let imported = fs::read_to_string(&made)
        .expect("imported")
        .replace("compose/compose.yaml", "compose.yaml");
    assert_eq!(imported, kept);
    host.tank(&["switch", "compose/pods.ncl"]).ok();
    assert!(page(&host, "http://127.0.0.1:8084/").contains("It came from Compose"));
    assert_eq!(host.exec("journal:web", "echo $LOG"), "info");
    host.tank(&["delete", "--stack", "journal"]).ok();
    host.finish();
}
