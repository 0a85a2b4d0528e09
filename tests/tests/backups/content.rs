//! What is in an archive, whatever containers do.

use super::*;

#[test]
fn whatever_a_container_does_meanwhile_the_archive_has_what_is_its_own() {
    let host = Host::new();
    make_folder(&host);
    declare(&host, &pod(&host, "every = \"1d\""));
    fs::write(host.dir.join("secret"), "the host's").expect("writes");
    let secret = host.dir.join("secret").display().to_string();
    fs::create_dir(host.dir.join("hidden")).expect("a folder");
    fs::write(host.dir.join("hidden/outside"), "the host's").expect("writes");
    let outside = host.dir.join("hidden").display().to_string();
    // What changes what it is all the time.
    host.exec(
        "db",
        &format!(
            "cd /d && mkdir many && cd many && seq 1 500 | xargs touch && cd .. && mkfifo wait && ln wait wait2 &&
             echo mine > a && mkdir dir && echo mine > dir/a && (while true; do ln -sf {secret} a; ln -sfn {outside} b; mv b dir2 2>/dev/null; rm -f a dir2; mkfifo a; rm -f a;
             mkdir a; rmdir a; echo mine > a; mv dir c; ln -sfn {outside} dir; rm dir; mv c dir; done) > /dev/null 2>&1 &"
        ),
    );
    for round in 0..3 {
        let archive = back_up(&host);
        let name = format!("db/copy{round}");
        host.tank(&["volume", "import", &name, &archive.display().to_string()])
            .ok();
        let copy = host.dir.join("state/volumes").join(name);
        let found = sh(
            &host,
            &format!(
                "cd {} && ls many | wc -l; find . -type f ! -path './many/*' -exec cat {{}} + | sort -u",
                copy.display()
            ),
        );
        assert!(
            ["500\nmine\n", "500\n"].contains(&found.as_str()),
            "{found}"
        );
        let names = sh(
            &host,
            &format!("cd {} && find . -name 'outside*'", copy.display()),
        );
        assert_eq!(names, "");
    }
    // Many, and a terabyte of nothing, which takes no place.
    host.exec(
        "db",
        "cd /d/many && seq 501 100000 | xargs touch && truncate -s 1099511627776 /d/hole",
    );
    let made = host.tank(&["--json", "volume", "backup", "db/data"]).json();
    assert!(
        made["entries"].as_u64().expect("a number") > 100_000,
        "{made}"
    );
    assert!(
        made["bytes"].as_u64().expect("a number") < 50_000_000,
        "{made}"
    );
    host.finish();
}

#[test]
fn a_volume_that_pods_share_is_backed_up_by_the_one_that_says_so() {
    let host = Host::new();
    make_folder(&host);
    let to = folder(&host).display().to_string();
    let app = format!(
        "{{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\", mounts.up = {{ volume = \"up\", path = \"/up\" }} }}"
    );
    let config = format!(
        "{{ stack = \"blog\", volumes.uploads = {{}}, pods.web = {{ volumes.up = {{ shared = \"uploads\", backup = {{ to = \"{to}\", every = \"1d\",
             before.exec = [\"/bin/sh\", \"-c\", \"hostname > /up/who\"] }} }}, containers.app = {app} }}, pods.job = {{ volumes.up.shared = \"uploads\", containers.app = {app} }} }}"
    );
    declare_of(&host, "blog.web.up", &config);
    host.exec("blog:job", "echo job > /up/job");
    let made = host
        .tank(&["--json", "volume", "backup", "blog:uploads"])
        .json();
    let archive = made["archive"].as_str().expect("a path");
    let name = files(&host).pop().expect("one");
    assert!(
        name.starts_with("blog.web.up-2") && archive.ends_with(&name),
        "{name}"
    );
    host.tank(&["volume", "import", "copy", archive]).ok();
    let copy = host.dir.join("state/shared-volumes/copy");
    let read = |name: &str| fs::read_to_string(copy.join(name)).expect("it is there");
    assert_eq!(
        (read("job"), read("who")),
        ("job\n".to_owned(), "web\n".to_owned())
    );
    let list = host.tank(&["--json", "volume", "list"]).json();
    let volumes = list["volumes"].as_array().expect("volumes");
    let of = volumes
        .iter()
        .find(|one| one["name"] == "blog:uploads")
        .expect("it");
    assert_eq!(of["backups"][0]["volume"], "blog:web/up");
    host.tank(&["volume", "backup", "blog:web/up"]).ok();
    let other = host.tank(&["volume", "backup", "blog:job/up"]);
    assert_eq!(other.status, 1, "{other:?}");
    host.finish();
}

#[test]
fn what_could_not_be_imported_is_no_backup() {
    let mut host = Host::without_daemon().with_state_on_disk("xfs");
    host.start_daemon();
    make_folder(&host);
    declare(&host, &pod(&host, "every = \"1d\", keep = 1"));
    let volumes = host.dir.join("state/volumes/db");
    let import = |archive: &std::path::Path, name: &str| {
        let archive = archive.display().to_string();
        host.tank(&["volume", "import", &format!("db/{name}"), &archive])
            .ok();
        assert_eq!(listing(&host, name), listing(&host, "data"));
    };
    // The deepest file there may be, and the most attributes.
    let deep = format!("/d/{}", "d/".repeat(255));
    host.exec(
        "db",
        &format!("mkdir -p {deep}; echo x > {deep}/file; echo x > /d/much"),
    );
    let attribute = |name: &str, bytes: usize| {
        let (value, file) = ("v".repeat(bytes), volumes.join("data/much"));
        sh(
            &host,
            &format!("setfattr -n user.{name} -v {value} {}", file.display()),
        );
    };
    for name in ["a", "b", "c", "d"] {
        attribute(name, 65_000);
    }
    // All that is left of 256 KiB.
    attribute("e", (256 << 10) - 4 * 65_000 - 5 * ("user.a".len() + 32));
    sh(
        &host,
        &format!("touch -d @77 {}", volumes.join("data").display()),
    );
    let good = back_up(&host);
    import(&good, "copy");
    let kept = files(&host);
    host.exec("db", &format!("mkdir {deep}/d; echo x > {deep}/d/file"));
    let why = refused(&host);
    assert!(why.contains("it is deeper than 256 levels"), "{why}");
    host.exec("db", &format!("rm -r {deep}/d"));
    attribute("f", 10);
    let why = refused(&host);
    assert!(
        why.contains("`much`: its attributes (`user.*`) have more than 256 KiB"),
        "{why}"
    );
    // The one that is good was not removed for those.
    assert_eq!(files(&host), kept);
    host.exec("db", "rm /d/much");
    back_up(&host);
    host.finish();
}
