//! PostgreSQL as its own user on a volume that Tank keeps: a row stays over replacement, crashes, going back,
//! export and import; and one that a new version has deleted comes back with the data. Debian's package
//! in an image (`scripts/postgres-image.sh`), on XFS.

use std::{path::PathBuf, process::Command};
use tank_tests::{Ended, Host, eventually, repo, segment::sh};

struct Database {
    host: Host,
    owner: String,
}

impl Database {
    fn new() -> Self {
        let made = Command::new(repo().join("scripts/postgres-image.sh")).output();
        let made: Ended = made.expect("postgres-image.sh").into();
        let layout = PathBuf::from(made.ok().trim_end());
        let mut host = Host::without_daemon().with_state_on_disk("xfs");
        std::os::unix::fs::symlink(&layout, host.dir.join("pg")).expect("a link");
        host.start_daemon();
        let owner = std::fs::read_to_string(layout.join("owner")).expect("ids");
        let owner = owner.trim().to_owned();
        Self { host, owner }
    }

    /// A pod with a database of this image, and something more of its container.
    fn pod(&self, name: &str, tag: &str, more: &str) -> String {
        let owner = &self.owner;
        format!(
            "pods.{name} = {{ volumes.data = {{ owner = \"{owner}\", mode = \"0700\" }}, containers.app = {{ image = \"oci:./pg:{tag}\",
                mounts.data = {{ volume = \"data\", path = \"/var/lib/postgresql/data\" }},
                readiness = {{ exec = [\"pg_isready\", \"--quiet\"], period = \"200ms\" }}, {more} }} }},"
        )
    }

    #[track_caller]
    fn switch(&self, pods: &str) {
        self.host.write("pods.ncl", &format!("{{ {pods} }}"));
        let switch = ["switch", "pods.ncl", "--timeout", "2m"];
        self.host.tank(&switch).ok();
    }

    #[track_caller]
    fn sql(&self, pod: &str, text: &str) -> String {
        let args = ["exec", pod, "--", "psql", "-qAt", "-c", text, "postgres"];
        self.host.tank(&args).ok().trim_end().to_owned()
    }

    /// The rows, once the server answers.
    #[track_caller]
    fn rows(&self, pod: &str) -> String {
        let args = [
            "exec",
            pod,
            "--",
            "psql",
            "-qAt",
            "-c",
            "SELECT string_agg(what, ',' ORDER BY what) FROM rows",
            "postgres",
        ];
        let mut last = String::new();
        eventually("the server answers", || {
            let ended = self.host.tank(&args);
            last = ended.stdout.trim_end().to_owned();
            ended.status == 0
        });
        last
    }
}

#[test]
fn rows_stay_and_come_back() {
    let mut db = Database::new();
    let pod = |db: &Database, more: &str| db.pod("db", "postgres", more);
    db.switch(&pod(&db, ""));
    db.sql(
        "db",
        "CREATE TABLE rows (what text); INSERT INTO rows VALUES ('first')",
    );
    // Nobody in there is root, and the files are its own.
    assert_eq!(
        db.host.exec("db", "id -un; cat /proc/1/comm"),
        "postgres\npostgres"
    );
    let volume = db.host.dir.join("state/volumes/db/data");
    let owners = sh(
        &db.host,
        &format!("find {} -printf '%U:%G\\n' | sort -u", volume.display()),
    );
    assert_eq!(owners.trim(), db.owner);
    // Over another container of the same image, and back.
    let first = db.host.pid("db", "app");
    db.switch(&pod(&db, "env.N = \"2\""));
    assert_ne!(db.host.pid("db", "app"), first);
    db.sql("db", "INSERT INTO rows VALUES ('second')");
    db.host.tank(&["generations", "rollback"]).ok();
    assert_eq!(db.rows("db"), "first,second");
    // Over the end of the daemon, which ends nothing, and that of the server in the middle of its work.
    let server = db.host.pid("db", "app");
    db.host.kill_daemon();
    db.host.start_daemon();
    assert_eq!(db.host.pid("db", "app"), server);
    db.sql("db", "INSERT INTO rows VALUES ('third')");
    sh(&db.host, &format!("kill -9 {server}"));
    eventually("it is another server", || {
        let pod = db.host.pod("db");
        let pid = pod["containers"][0]["pid"].as_i64();
        pid.is_some_and(|pid| pid != server)
    });
    assert_eq!(db.rows("db"), "first,second,third");
    // A new version that does away with what the one before has written.
    let generations = db.host.tank(&["--json", "status"]).json();
    let before = generations["generation"].as_u64().expect("a number");
    db.switch(&db.pod("db", "next", ""));
    assert_eq!(db.host.exec("db", "cat /etc/image-version"), "2");
    db.sql(
        "db",
        "DELETE FROM rows WHERE what <> 'third'; INSERT INTO rows VALUES ('new')",
    );
    db.host.tank(&["generations", "rollback"]).ok();
    assert_eq!(db.rows("db"), "new,third");
    let back = [
        "generations",
        "rollback",
        &before.to_string(),
        "--with-data",
    ];
    db.host.tank(&back).ok();
    assert_eq!(db.rows("db"), "first,second,third");
    // And what the new version had is there still.
    let back = [
        "generations",
        "rollback",
        &(before + 1).to_string(),
        "--with-data",
    ];
    db.host.tank(&back).ok();
    assert_eq!(db.rows("db"), "new,third");
    db.host.finish();
}

#[test]
fn an_archive_is_the_database_of_another_pod() {
    let db = Database::new();
    db.switch(&db.pod("db", "postgres", ""));
    db.sql(
        "db",
        "CREATE TABLE rows (what text); INSERT INTO rows VALUES ('kept')",
    );
    db.host.tank(&["delete", "db"]).ok();
    db.host
        .tank(&["volume", "export", "db/data", "-o", "data.tar"])
        .ok();
    db.host
        .tank(&["volume", "import", "copy/data", "data.tar"])
        .ok();
    db.switch(&db.pod("copy", "postgres", ""));
    assert_eq!(db.rows("copy"), "kept");
    db.sql("copy", "INSERT INTO rows VALUES ('more')");
    // It is another one from then on.
    let pods = [db.pod("copy", "postgres", ""), db.pod("db", "postgres", "")];
    db.switch(&pods.concat());
    assert_eq!(db.rows("db"), "kept");
    assert_eq!(db.rows("copy"), "kept,more");
    db.host.finish();
}

#[test]
fn a_dump_in_a_backup_brings_back_what_there_was() {
    let db = Database::new();
    let to = db.host.dir.join("backups");
    std::fs::create_dir(&to).expect("a folder");
    let dump = "pg_dump --clean --if-exists postgres > /var/lib/postgresql/data/dump.sql";
    let backup = format!(
        "pods.db.volumes.data.backup = {{ to = \"{}\", every = \"1d\", before.exec = [\"sh\", \"-c\", \"{dump}\"] }},",
        to.display()
    );
    db.switch(&format!("{} {backup}", db.pod("db", "postgres", "")));
    db.sql(
        "db",
        "CREATE TABLE rows (what text); INSERT INTO rows VALUES ('first')",
    );
    let made = db
        .host
        .tank(&["--json", "volume", "backup", "db/data"])
        .json();
    db.sql("db", "DROP TABLE rows");
    let archive = made["archive"].as_str().expect("a path");
    db.host
        .tank(&["volume", "import", "old/data", archive])
        .ok();
    let dump = db.host.dir.join("state/volumes/old/data/dump.sql");
    let dump = sh(&db.host, &format!("cat {}", dump.display()));
    let psql = ["exec", "-T", "db", "--", "psql", "-q", "postgres"];
    db.host.tank_with_input(&psql, dump.as_bytes()).ok();
    assert_eq!(db.rows("db"), "first");
    db.host.finish();
}
