//! The examples that another test does not run already (`scenario` has `web`, the demo `hello`): each as its file says, with
//! images made of Debian's packages.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tank_tests::{
    Ended, Host, eventually, repo,
    segment::{From, Segment, UPLINK},
};

/// A copy of an example in the host's folder, so that nothing is written beside the original.
fn copied(host: &Host, example: &str) {
    let from = repo().join("examples").join(example);
    let copied = Command::new("cp")
        .arg("-r")
        .args([&from, &host.dir])
        .status();
    assert!(copied.expect("cp").success());
}

/// As [`copied`], with images that are here and other texts in the file, such as folders of this test alone.
fn copied_with(host: &Host, example: &str, others: &[(&str, &str)]) {
    copied(host, example);
    adapt(host, &format!("{example}/pods.ncl"), others);
}

fn adapt(host: &Host, file: &str, others: &[(&str, &str)]) {
    let busybox = format!("oci:{}", host.dir.join("busybox").display());
    let images = [
        ("nginx:1.27", "localhost:5000/nginx:latest"),
        ("busybox:1.36", &busybox),
    ];
    let file = host.dir.join(file);
    let mut text = fs::read_to_string(&file).expect("the example");
    for (from, to) in others {
        assert!(text.contains(from), "{}: {from}", file.display());
        text = text.replace(from, to);
    }
    for (from, to) in images {
        text = text.replace(from, to);
    }
    fs::write(&file, text).expect("a copy");
}

/// A folder of the host in place of one that an example names.
fn folder(host: &Host, name: &str) -> String {
    let folder = host.dir.join(name);
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("a mode");
    folder.display().to_string()
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

/// What the README shows first: it is switched to, a value is edited, and the plan is the one that it shows.
#[test]
fn the_readme_runs_and_its_plan_is_true() {
    let host = Host::new();
    let readme = fs::read_to_string(repo().join("README.md")).expect("the README");
    let example = readme.split("```nickel").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    // A server that is here, in place of nginx.
    let image = "image = \"oci:./busybox\", command = [\"/bin/httpd\", \"-f\", \"-h\", \"/etc\"], stop.signal = \"SIGKILL\"";
    let here = example
        .replace("image = \"nginx:1.27\"", image)
        .replace("{ port = 80 } }", "{ port = 80, path = \"/passwd\" } }");
    assert!(
        here.contains("busybox") && here.contains("/passwd"),
        "{here}"
    );
    host.switch(&here);
    assert!(page(&host, "http://127.0.0.1:8081/passwd").contains("root"));
    host.write("pods.ncl", &here.replace("\"info\"", "\"debug\""));
    let diff = host.tank(&["diff", "pods.ncl"]).ok();
    let shown = readme.split("the plan says what that costs before anything happens:\n\n");
    let shown = shown
        .last()
        .and_then(|rest| rest.split("\n\nMistakes").next());
    let shown = shown.expect("what it shows").lines();
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    };
    for line in lines(&shown.collect::<Vec<_>>().join("\n")) {
        assert!(lines(&diff).contains(&line), "{line}: {diff}");
    }
    host.tank(&["delete", "web"]).ok();
    host.finish();
}

#[test]
fn a_folder_of_the_host_is_served_and_nginx_reads_its_file_again() {
    let mut host = Host::new();
    host.start_registry();
    let pages = folder(&host, "pages");
    copied_with(
        &host,
        "static-site",
        &[("host = \"/srv/www\"", &format!("host = \"{pages}\""))],
    );
    host.write("pages/index.html", "<h1>Hello</h1>\n");
    host.tank(&["switch", "static-site/pods.ncl"]).ok();
    let url = "http://127.0.0.1:8085/";
    assert_eq!(page(&host, url), "<h1>Hello</h1>\n");
    // A page is edited on the host, and can't be from inside.
    host.write("pages/index.html", "<h1>Hello again</h1>\n");
    assert_eq!(page(&host, url), "<h1>Hello again</h1>\n");
    let written = host.tank(&["exec", "site", "--", "touch", "/srv/www/x"]);
    assert!(
        written.stderr.contains("Read-only file system"),
        "{}",
        written.stderr
    );
    // Another configuration is read by the program that runs.
    let pid = host.pid("site", "web");
    host.write("pages/missing.html", "<h1>Nothing here</h1>\n");
    let conf = host.dir.join("static-site/site.conf");
    let text = fs::read_to_string(&conf).expect("its file");
    let added = text.replace(
        "error_page",
        "location = /other { return 200 other; }\n    error_page",
    );
    assert_ne!(added, text);
    fs::write(&conf, added).expect("writes");
    host.tank(&["switch", "static-site/pods.ncl"]).ok();
    assert_eq!(page(&host, "http://127.0.0.1:8085/other"), "other");
    assert_eq!(host.pid("site", "web"), pid, "no restart");
    host.tank(&["delete", "site"]).ok();
    host.finish();
}

#[test]
fn secrets_are_for_whom_their_mode_says_and_are_read_when_a_container_starts() {
    let host = Host::new();
    let secrets = folder(&host, "secrets-of-host");
    copied_with(&host, "secrets", &[("/etc/tank/secrets", &secrets)]);
    for (name, text) in [("password", "the-first-of-2026"), ("key", "a key")] {
        let file = PathBuf::from(&secrets).join(name);
        fs::write(&file, text).expect("a secret");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    host.tank(&["switch", "secrets/pods.ncl"]).ok();
    let shown = |container: &str, file: &str| {
        let script = format!("id -u; stat -c '%u:%g %a' {file}; cat {file}");
        host.exec(container, &script)
    };
    assert_eq!(
        shown("app/app", "/run/secrets/password"),
        "1000\n0:0 444\nthe-first-of-2026"
    );
    assert_eq!(shown("app/proxy", "/run/secrets/key"), "0\n0:0 400\na key");
    // Neither has the other's.
    assert_eq!(host.exec("app/app", "ls /run/secrets"), "password");
    assert_eq!(host.exec("app/proxy", "ls /run/secrets"), "key");
    // It is kept nowhere: what is exported says that it has to be there.
    let exported = host.tank(&["generations", "export", "1", "-o", "out.tank"]);
    assert!(
        exported.stderr.contains(&secrets) || exported.stdout.contains(&secrets),
        "{exported:?}"
    );
    let bytes = fs::read(host.dir.join("out.tank")).expect("the export");
    let is_there = bytes.windows(17).any(|bytes| bytes == b"the-first-of-2026");
    assert!(!is_there);
    // Another one is read at the next start.
    fs::write(PathBuf::from(&secrets).join("password"), "second").expect("a secret");
    host.tank(&["restart", "app"]).ok();
    assert_eq!(
        shown("app/app", "/run/secrets/password"),
        "1000\n0:0 444\nsecond"
    );
    host.tank(&["delete", "app"]).ok();
    host.finish();
}

#[test]
fn a_pod_on_the_hosts_network_answers_the_neighbours() {
    let mut segment = Segment::new(false);
    segment.host.start_registry();
    let address = "192.0.2.50";
    copied_with(
        &segment.host,
        "lan",
        &[
            ("\"eth0\"", "\"up0\""),
            ("192.168.1.50", address),
            ("192.168.1.1\"", "192.0.2.2\""),
        ],
    );
    segment.host.tank(&["switch", "lan/pods.ncl"]).ok();
    let url = format!("http://{address}/");
    assert_eq!(page(&segment.host, &url), "<h1>A host of its own</h1>\n");
    let asked = segment
        .inside(From::Neighbour, "curl")
        .args(["-s", "--max-time", "5", &url])
        .output();
    assert_eq!(
        Ended::from(asked.expect("curl")).ok(),
        "<h1>A host of its own</h1>\n"
    );
    // It is no port of the host.
    let host = segment.host.get(&format!("http://{}/", UPLINK[0]));
    assert_eq!(host.status, 7, "{}", host.stderr);
    segment.host.tank(&["delete", "web"]).ok();
    segment.finish();
}

#[test]
fn two_projects_have_the_same_names_and_do_not_meet() {
    let mut host = Host::new();
    host.start_registry();
    copied(&host, "projects");
    for stack in ["blog", "shop"] {
        adapt(&host, &format!("projects/{stack}/pods.ncl"), &[]);
    }
    host.tank(&["switch", "projects/blog/pods.ncl"]).ok();
    let pid = host.pid("blog:web", "app");
    host.tank(&["switch", "projects/shop/pods.ncl"]).ok();
    assert_eq!(page(&host, "http://127.0.0.1:8086/"), "<h1>The blog</h1>\n");
    assert_eq!(page(&host, "http://127.0.0.1:8087/"), "<h1>The shop</h1>\n");
    assert_eq!(host.pid("blog:web", "app"), pid, "not disturbed");
    // Each one's `db` is its own; there is no way to the other's.
    for (stack, other) in [("blog", "shop"), ("shop", "blog")] {
        let db = host.pod(&format!("{stack}:db"))["addresses"][0].clone();
        let web = format!("{stack}:web");
        let found = host.exec(&web, "getent ahostsv4 db | head -n 1 | cut -d' ' -f1");
        assert_eq!(db, found.as_str());
        let other = host.tank(&[
            "exec",
            &web,
            "--",
            "getent",
            "hosts",
            &format!("db.{other}"),
        ]);
        assert_eq!(other.status, 2, "{}", other.stdout);
    }
    // The whole folder is what runs; one is taken away, and the other stays.
    let whole = host.tank(&["switch", "--host", "projects"]).ok();
    assert!(whole.contains("nothing changed"), "{whole}");
    host.tank(&["delete", "--stack", "shop"]).ok();
    assert_eq!(host.pid("blog:web", "app"), pid);
    assert_eq!(host.get("http://127.0.0.1:8087/").status, 7);
    host.tank(&["delete", "--stack", "blog"]).ok();
    host.finish();
}

#[test]
fn a_backup_is_brought_back_and_what_was_there_is_kept() {
    let host = Host::new();
    let backups = folder(&host, "backups");
    copied_with(&host, "backup", &[("/srv/backups/journal", &backups)]);
    // One that is of this second already: so none is due by itself, beside that which is asked for.
    let fresh = "name=journal.data-$(date -u +%Y%m%dT%H%M%SZ).tar.zst; touch $name; echo $name";
    let fresh = host
        .inside("sh")
        .args(["-c", &format!("cd {backups}; {fresh}")])
        .output();
    let fresh = Ended::from(fresh.expect("sh")).ok();
    host.tank(&["switch", "backup/pods.ncl"]).ok();
    eventually("it is known that none is due", || {
        let list = host.tank(&["--json", "volume", "backups"]).json();
        let next = list["backups"][0]["next"].as_u64();
        next.is_some_and(|next| next > 3_600_000)
    });
    fs::remove_file(Path::new(&backups).join(fresh.trim())).expect("removes");
    host.exec("journal", "echo 'a day' > /data/journal");
    let made = host
        .tank(&["--json", "volume", "backup", "journal/data"])
        .json();
    let archive = made["archive"].as_str().expect("a path");
    host.exec("journal", "echo 'gone wrong' > /data/journal");
    host.tank(&["stop", "journal"]).ok();
    host.tank(&["volume", "restore", "journal/data", archive])
        .ok();
    host.tank(&["start", "journal"]).ok();
    let shown = |file: &str| {
        let mut text = String::new();
        eventually("it runs", || {
            let ended = host.tank(&["exec", "journal", "--", "cat", file]);
            text = ended.stdout;
            ended.status == 0
        });
        text
    };
    assert_eq!(shown("/data/journal"), "a day\n");
    assert_eq!(shown("/data/journal.dump"), "a day\n", "what ran before it");
    host.tank(&["stop", "journal"]).ok();
    host.tank(&["volume", "restore", "journal/data", "--replaced"])
        .ok();
    host.tank(&["start", "journal"]).ok();
    assert_eq!(shown("/data/journal"), "gone wrong\n");
    host.tank(&["delete", "journal"]).ok();
    host.finish();
}
