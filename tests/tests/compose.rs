//! Compose's well-known samples, as they are written (`tests/fixtures/compose`), imported, switched to, and asked over
//! HTTP. Their images are Debian's packages with entry points that do what the official ones do
//! (`scripts/compose-images.sh`); what the samples call them is the only thing that is replaced.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};
use tank_tests::{Ended, Host, repo};

/// A host with the registry of the samples' images, and a sample in a folder of its name.
fn host(sample: &str) -> Host {
    let made = Command::new(repo().join("scripts/compose-images.sh"))
        .output()
        .expect("compose-images.sh");
    let made: Ended = made.into();
    let storage = PathBuf::from(made.ok().trim_end());
    let mut host = Host::new();
    host.start_registry_of(&storage);
    let from = repo().join("tests/fixtures/compose").join(sample);
    let copied = Command::new("cp")
        .arg("-r")
        .args([&from, &host.dir])
        .status()
        .expect("cp");
    assert!(copied.success());
    host
}

/// Imports the sample; what could not be mapped, a line each.
fn import(host: &Host, sample: &str) -> Vec<String> {
    let file = format!("{sample}/compose.yaml");
    let to = format!("{sample}/pods.ncl");
    let ended = host.tank(&["import", &file, "--output", &to]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    ended
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("not mapped: "))
        .map(str::to_owned)
        .collect()
}

/// Switches to the sample, with other names for its images.
#[track_caller]
fn switch(host: &Host, sample: &str, images: &[(&str, &str)]) {
    let file = format!("{sample}/pods.ncl");
    let mut command = host.command(&["switch", &file, "--timeout", "5m"]);
    for (pod, image) in images {
        command.arg(format!(
            "--set=pods.{pod}.containers.app.image=\"localhost:5000/{image}\""
        ));
    }
    let ended: Ended = command.output().expect("tank").into();
    assert_eq!(
        ended.status,
        0,
        "{}{}\n{}",
        ended.stdout,
        ended.stderr,
        logs(host)
    );
}

fn logs(host: &Host) -> String {
    let list = host.tank(&["--json", "list"]).json();
    let pods = list["pods"].as_array().expect("pods");
    let log = |pod: &serde_json::Value| {
        let name = pod["name"].as_str().unwrap_or_default().to_owned();
        let ended = host.tank(&["logs", &name]);
        format!("--- {name}\n{}{}", ended.stdout, ended.stderr)
    };
    pods.iter().map(log).collect()
}

/// The page at an address of the host as soon as it holds `content`; a database takes its time to be made.
#[track_caller]
fn page(host: &Host, url: &str, content: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let mut curl = host.inside("curl");
        let curl = curl.args(["--silent", "--show-error", "--location", "--max-time", "20"]);
        let ended: Ended = curl.arg(url).output().expect("curl").into();
        if ended.stdout.contains(content) {
            return ended.stdout;
        }
        assert!(
            Instant::now() < deadline,
            "{url} does not say `{content}`: {}{}\n{}",
            ended.stdout,
            ended.stderr,
            logs(host)
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn wordpress_and_mariadb_of_compose_show_the_page_of_the_installation() {
    const SAMPLE: &str = "wordpress-mysql";
    let host = host(SAMPLE);
    assert_eq!(import(&host, SAMPLE), Vec::<String>::new());
    switch(
        &host,
        SAMPLE,
        &[("db", "mariadb"), ("wordpress", "wordpress")],
    );
    // WordPress sends whoever comes first there, when it has reached its database and found it empty.
    let shown = page(
        &host,
        "http://127.0.0.1/",
        "WordPress &rsaquo; Installation",
    );
    assert!(shown.contains("action=\"install.php?step=2\""), "{shown}");
    // A site is installed; its tables are in the volume, and stay when both are started anew.
    let form = "weblog_title=Of+Tank&user_name=me&admin_password=aPassw0rd-of-2026&admin_password2=aPassw0rd-of-2026&pw_weak=on\
                &admin_email=me%40example.org&blog_public=0&Submit=Install&language=";
    let mut curl = host.inside("curl");
    let curl = curl.args(["--silent", "--max-time", "120", "--data", form]);
    let installed: Ended = curl
        .arg("http://127.0.0.1/wp-admin/install.php?step=2")
        .output()
        .expect("curl")
        .into();
    assert!(
        installed.stdout.contains("WordPress has been installed"),
        "{}",
        installed.stdout
    );
    page(
        &host,
        "http://127.0.0.1/wp-login.php",
        "<title>Log In &lsaquo; Of Tank",
    );
    host.tank(&["delete", "--stack", SAMPLE]).ok();
    switch(
        &host,
        SAMPLE,
        &[("db", "mariadb"), ("wordpress", "wordpress")],
    );
    page(
        &host,
        "http://127.0.0.1/wp-login.php",
        "<title>Log In &lsaquo; Of Tank",
    );
    host.tank(&["delete", "--stack", SAMPLE]).ok();
    host.finish();
}

#[test]
fn a_proxy_an_application_and_a_database_of_compose_find_each_other() {
    const SAMPLE: &str = "nginx-flask-mysql";
    let host = host(SAMPLE);
    // What whoever has this sample would have to do by hand, and nothing else.
    let lacking = import(&host, SAMPLE);
    let keys: Vec<&str> = lacking
        .iter()
        .filter_map(|line| Some(line.split_once(": ")?.0))
        .collect();
    assert_eq!(keys, ["services.backend.build", "services.proxy.build"]);
    let images = [
        ("db", "mariadb"),
        ("backend", "backend"),
        ("proxy", "proxy"),
    ];
    switch(&host, SAMPLE, &images);
    let wanted: String = (1..5)
        .map(|post| format!("<div>   Hello  Blog post #{post}</div>"))
        .collect();
    // Through the proxy, and at the port of the application itself.
    for url in ["http://127.0.0.1/", "http://127.0.0.1:8000/"] {
        assert_eq!(page(&host, url, "Hello"), wanted, "{url}");
    }
    // Names as Compose gives them, and a secret as it has it: for every user of the container.
    let asked = host.exec(
        &format!("{SAMPLE}:backend"),
        "python3 -c 'import socket; print(*map(socket.gethostbyname, [\"db\", \"proxy\", \"backend\"]))'; \
         setpriv --reuid=www-data cat /run/secrets/db-password",
    );
    let (addresses, secret) = asked.split_once('\n').expect("two lines");
    assert_eq!(addresses.split(' ').count(), 3, "{addresses}");
    assert_eq!(
        secret,
        fs::read_to_string(host.dir.join(SAMPLE).join("db/password.txt")).expect("a password")
    );
    // Both are killed and come back, `restart: always`, with what is in the volume, and find each other again.
    for pod in ["db", "backend"] {
        let pid = host.pid(&format!("{SAMPLE}:{pod}"), "app").to_string();
        let killed = Command::new("kill").args(["-9", &pid]).status();
        assert!(killed.expect("kill").success());
    }
    page(&host, "http://127.0.0.1/", "Hello");
    host.tank(&["delete", "--stack", SAMPLE]).ok();
    host.finish();
}
