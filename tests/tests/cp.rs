//! `cp`: where files go, and what a hostile container can't do with it.

use std::{
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tank_tests::{Ended, Host, RUN, eventually, sleeper};

fn cp(host: &Host, args: &[&str]) -> Ended {
    host.tank(&[&["cp"], args].concat())
}

/// A copy that is refused, or fails, and says all of these.
#[track_caller]
fn refused(host: &Host, args: &[&str], why: &[&str]) {
    let ended = cp(host, args);
    assert_eq!(ended.status, 1, "{args:?}: {}", ended.stdout);
    let text = ended
        .stderr
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    for why in why {
        assert!(text.contains(why), "{args:?}: {text}");
    }
}

fn read(host: &Host, path: &str) -> String {
    fs::read_to_string(host.dir.join(path)).unwrap_or_else(|e| e.to_string())
}

/// The process that copies in the container of `web`, by this host's count.
fn copier(host: &Host) -> Option<PathBuf> {
    let of = |pid: &Path| fs::read_link(pid.join("ns/mnt")).ok();
    let main = of(&PathBuf::from(format!("/proc/{}", host.pid("web", "app"))));
    let entries = fs::read_dir("/proc").expect("proc");
    entries.flatten().map(|entry| entry.path()).find(|pid| {
        let name = fs::read_to_string(pid.join("comm")).unwrap_or_default();
        name == "tank-copy\n" && of(pid) == main
    })
}

/// A copy of a file of 4 MiB to a pipe that nobody reads, once its process is there.
fn held(host: &Host, to: &str) -> (Child, PathBuf) {
    host.exec(
        "web",
        "dd if=/dev/urandom of=/big bs=1M count=4 2>/dev/null",
    );
    let mut command = host.command(&["cp", "web:/big", to]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tank");
    eventually("a process copies", || copier(host).is_some());
    (child, copier(host).expect("a process"))
}

#[test]
fn no_path_of_a_container_leads_out_of_it() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    host.write("marker", "of the host\n");
    let dir = host.dir.display();
    // What is there under the host's path is the container's, however it is named.
    host.exec(
        "web",
        &format!("mkdir -p {dir}/hole && echo inside > {dir}/marker"),
    );
    let up = "../../../../../../../../../..";
    for (name, through) in [
        ("up", up.to_owned()),
        ("root", "/proc/self/root".to_owned()),
        ("init", "/proc/1/root".to_owned()),
        ("cwd", format!("/proc/self/cwd/{up}")),
    ] {
        host.exec("web", &format!("ln -s {through} /{name}"));
        let out = cp(&host, &[&format!("web:/{name}{dir}/marker"), "got"]);
        let got = read(&host, "got");
        assert!(out.status != 0 || got == "inside\n", "{name}: {got}");
        let into = format!("web:/{name}{dir}/hole/");
        cp(&host, &["marker", &into]);
        assert!(!host.dir.join("hole").exists(), "{name}");
        let _ = fs::remove_file(host.dir.join("got"));
    }
    // No way through what the copying process has open, or what it runs.
    for number in 0..10 {
        // What is open has the kernel's answer for links that lead on without a name; what is not open is not there.
        let why = if number < 3 { "not followed" } else { "`/fd" };
        host.exec("web", &format!("ln -s /proc/self/fd/{number} /fd{number}"));
        let (from, into) = (format!("web:/fd{number}"), format!("web:/fd{number}/x"));
        refused(&host, &["-L", &from, "got"], &[why]);
        refused(&host, &["marker", &into], &[why]);
    }
    refused(
        &host,
        &["web:/proc/self/exe", "-L", "got"],
        &["not followed"],
    );
    refused(&host, &["web:/proc/self/maps", "got"], &["of the kernel"]);
    refused(
        &host,
        &["marker", "web:/proc/self/mem"],
        &["/proc/self/mem"],
    );
    // A container that exchanges a folder for a link, over and over, while it is copied.
    host.exec(
        "web",
        &format!(
            "mkdir -p /a/d /spare && echo inside > /a/d/marker; ln -s {up}{dir} /a/link; \
             (while [ ! -e /over ]; do mv /a/d /spare/d; mv /a/link /a/d; mv /a/d /a/link; mv /spare/d /a/d; done) >/dev/null 2>&1 &"
        ),
    );
    for turn in 0..15 {
        let (out, into) = (format!("out{turn}"), format!("in{turn}"));
        cp(&host, &["web:/a", &out]);
        let files = Command::new("grep")
            .args(["-r", "of the host", &out])
            .current_dir(&host.dir)
            .output();
        assert!(files.expect("grep").stdout.is_empty(), "{turn}");
        fs::create_dir(host.dir.join(&into)).expect("made");
        fs::write(host.dir.join(&into).join(format!("planted{turn}")), "x").expect("written");
        cp(&host, &[&format!("{into}/."), "web:/a/d"]);
        assert!(!host.dir.join(format!("planted{turn}")).exists(), "{turn}");
    }
    host.exec("web", "touch /over");
    assert_eq!(read(&host, "marker"), "of the host\n");
    host.finish();
}

/// The process that copies has no more rights than the container, and nothing that the container could take from it.
#[test]
fn who_copies_can_do_what_the_container_can_and_is_out_of_its_reach() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let (mut child, process) = held(&host, "-");
    let main = PathBuf::from(format!("/proc/{}", host.pid("web", "app")));
    for name in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let of = |pid: &Path| fs::read_link(pid.join("ns").join(name)).expect("a namespace");
        assert_eq!(of(&process), of(&main), "{name}");
    }
    let of = |pid: &Path, file: &str| fs::read_to_string(pid.join(file)).expect("a file of proc");
    assert_eq!(of(&process, "cgroup"), of(&main, "cgroup"));
    let status = |pid: &Path| -> Vec<String> {
        let names = [
            "Uid:",
            "Gid:",
            "Groups:",
            "CapInh:",
            "CapPrm:",
            "CapEff:",
            "CapBnd:",
            "CapAmb:",
            "NoNewPrivs:",
            "Seccomp:",
        ];
        let text = of(pid, "status");
        let lines = text
            .lines()
            .filter(|line| names.iter().any(|name| line.starts_with(name)));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(status(&process), status(&main));
    let links = fs::read_dir(process.join("fd")).expect("descriptors");
    let open: Vec<String> = links
        .map(|fd| {
            fs::read_link(fd.expect("a descriptor").path())
                .expect("a link")
                .display()
                .to_string()
        })
        .filter(|link| {
            !link.starts_with("pipe:") && !["/dev/null", "/", "/big"].contains(&link.as_str())
        })
        .collect();
    assert_eq!(open, Vec::<String>::new());
    // From inside it is visible, and no more than that.
    let found = host.exec(
        "web",
        "for p in /proc/[0-9]*; do if [ \"$(cat $p/comm)\" = tank-copy ]; then \
         for f in exe root cwd; do readlink $p/$f; done; ls $p/fd/; cat $p/environ $p/maps $p/mem $p/exe; echo end; fi; done 2>/dev/null",
    );
    assert_eq!(found, "end");
    // It can be killed, as whatever runs in the container: whoever waits is notified.
    host.exec("web", "for p in /proc/[0-9]*; do if [ \"$(cat $p/comm)\" = tank-copy ]; then kill -9 ${p#/proc/}; fi; done");
    let mut all = Vec::new();
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_end(&mut all)
        .expect("read");
    let ended: Ended = child.wait_with_output().expect("tank").into();
    assert!(
        ended.status == 1 && ended.stderr.contains("the container ended"),
        "{}",
        ended.stderr
    );
    host.finish();
}

#[test]
fn whoever_leaves_leaves_nothing_behind() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    // Out: the process ends with its reader.
    let (mut child, _) = held(&host, "-");
    child.kill().expect("killed");
    child.wait().expect("ended");
    eventually("the process ended", || copier(&host).is_none());
    // In: what was not finished is removed. A file of which nothing more comes for now.
    let mut command = host.command(&["cp", "-", "web:/tmp"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tank");
    let archive = Command::new("tar")
        .args(["-c", "-C", "/", "bin/busybox"])
        .output()
        .expect("tar")
        .stdout;
    let mut input = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut input, &archive[..300_000]).expect("written");
    eventually("a file is written", || {
        host.exec("web", "ls -A /tmp/bin").contains(".tank-cp-")
    });
    child.kill().expect("killed");
    child.wait().expect("ended");
    drop(input);
    eventually("it is removed", || {
        host.exec("web", "ls -A /tmp/bin").is_empty()
    });
    assert!(copier(&host).is_none());
    // A disk that is full, in the container: the one that was there stays.
    host.exec("web", "echo before > /dev/shm/file");
    let big = host.dir.join("big");
    fs::write(&big, vec![7; 200 << 20]).expect("written");
    refused(
        &host,
        &["big", "web:/dev/shm/file"],
        &["/dev/shm/file", "No space left"],
    );
    assert_eq!(
        host.exec("web", "ls -A /dev/shm; cat /dev/shm/file"),
        "file\nbefore"
    );
    // A file that is larger than the container may write.
    let limited = format!(
        r#"{{ pods.small.containers.app = {{ image = "oci:./busybox", {RUN}, ulimits.fsize = {{ soft = 100000, hard = 100000 }} }} }}"#
    );
    host.write("small.ncl", &limited);
    host.tank(&["apply", "small.ncl"]).ok();
    refused(
        &host,
        &["big", "small:/tmp/file"],
        &["/tmp/file", "File too large"],
    );
    assert_eq!(host.exec("small", "ls -A /tmp"), "");
    // Whoever interrupts has nothing half of a file. What is copied has 20 GiB, and takes no place.
    host.exec("web", "truncate -s 20G /huge");
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let mut command = host.command(&["cp", "web:/huge", "huge"]);
        let child = command.stderr(Stdio::piped()).spawn().expect("tank");
        let names = || -> Vec<String> {
            let entries = fs::read_dir(&host.dir).expect("a folder").flatten();
            entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        let is_half = |name: &String| name.starts_with(".tank-cp-");
        eventually("a file is written", || names().iter().any(is_half));
        let pid = child.id().to_string();
        let sent = Command::new("kill")
            .args([signal, &pid])
            .status()
            .expect("kill");
        assert!(sent.success());
        let ended: Ended = child.wait_with_output().expect("tank").into();
        assert!(
            ended.status == status && ended.stderr.contains("interrupted"),
            "{}",
            ended.stderr
        );
        assert!(
            !names().iter().any(|name| is_half(name) || name == "huge"),
            "{:?}",
            names()
        );
    }
    eventually("the process ended", || copier(&host).is_none());
    host.finish();
}

// long: one command after the other, each with what it makes
#[test]
fn files_go_where_docker_cp_puts_them() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ {} pods.two.containers = {{ a = {{ image = "oci:./busybox", {RUN} }}, b = {{ image = "oci:./busybox", {RUN} }} }} }}"#,
        sleeper("web")
    ));
    let local = |path: &str| host.dir.join(path);
    fs::create_dir_all(local("site/css")).expect("made");
    host.write("site/index.html", "hello\n");
    host.write("site/css/a.css", "a\n");
    symlink("index.html", local("site/link")).expect("linked");
    fs::set_permissions(local("site/index.html"), fs::Permissions::from_mode(0o640)).expect("set");
    chown(local("site/index.html"), Some(1234), Some(4321)).expect("given");

    // In: a file to a name, into a folder, and in the place of another one.
    let said = cp(&host, &["site/index.html", "web:/tmp/x"]).ok();
    assert_eq!(said, "copied 1 entry (6 B) to web:/tmp/x\n");
    cp(&host, &["site/css/a.css", "web:/tmp"]).ok();
    cp(&host, &["site/css/a.css", "web/app:/tmp/x"]).ok();
    cp(&host, &["-a", "site/index.html", "web:/tmp/mine"]).ok();
    assert_eq!(
        host.exec(
            "web",
            "cat /tmp/x /tmp/a.css; stat -c '%u:%g %a' /tmp/x /tmp/mine"
        ),
        "a\na\n0:0 644\n1234:4321 640"
    );
    // A folder becomes what is missing, and goes into what is there; with `/.` only what is in it.
    for to in ["web:/tmp/new", "web:/tmp/new", "web:/tmp/new/deeper/"] {
        cp(&host, &["site", to]).ok();
    }
    cp(&host, &["site/.", "web:/tmp/flat"]).ok();
    let found = host.exec(
        "web",
        "cd /tmp; find new flat -name a.css | sort; readlink flat/link",
    );
    assert_eq!(
        found,
        "flat/css/a.css\nnew/css/a.css\nnew/deeper/css/a.css\nnew/site/css/a.css\nindex.html"
    );

    // Out: whoever calls owns it.
    host.exec("web", "mkdir -p /srv/log/old; echo one > /srv/log/one; chown 7:8 /srv/log/one; chmod 4755 /srv/log/one; mkfifo /srv/log/pipe; ln -s one /srv/log/latest");
    let out = cp(&host, &["web:/srv/log", "logs"]);
    assert!(out.stderr.contains("left out: 1"), "{}", out.stderr);
    assert_eq!(out.ok(), "copied 4 entries (4 B) to `logs`\n");
    cp(&host, &["-q", "web:/srv/log", "logs"]).ok();
    cp(&host, &["web:/srv/log/.", "logs/flat"]).ok();
    for at in ["logs", "logs/log", "logs/flat"] {
        let made = fs::metadata(local(at).join("one")).expect("made");
        assert_eq!(
            (made.uid(), made.gid(), made.mode() & 0o7777),
            (0, 0, 0o755),
            "{at}"
        );
        assert!(local(at).join("old").is_dir() && !local(at).join("pipe").exists());
        assert_eq!(
            fs::read_link(local(at).join("latest")).expect("a link"),
            Path::new("one")
        );
    }
    cp(&host, &["-a", "web:/srv/log/one", "owned"]).ok();
    let made = fs::metadata(local("owned")).expect("made");
    assert_eq!((made.uid(), made.gid()), (7, 8));
    cp(&host, &["-L", "web:/srv/log/latest", "followed"]).ok();
    assert_eq!(read(&host, "followed"), "one\n");
    let json = host.tank(&["--json", "cp", "web:/srv/log", "again"]).json();
    assert_eq!(json.to_string(), r#"{"bytes":4,"entries":4,"left_out":1}"#);

    // As a tar archive, out and in.
    let archive = host
        .command(&["cp", "web:/srv/log", "-"])
        .output()
        .expect("tank");
    assert!(archive.status.success() && archive.stderr.is_empty());
    let ended = host.tank_with_input(&["cp", "-", "web:/tmp"], &archive.stdout);
    assert_eq!(ended.ok(), "copied 4 entries (4 B) to web:/tmp\n");
    assert_eq!(host.exec("web", "cat /tmp/log/one"), "one");

    // What is refused says the path, and why.
    refused(&host, &["web:/none", "x"], &["`/none`", "No such file"]);
    refused(&host, &["none", "web:/tmp"], &["none", "No such file"]);
    refused(
        &host,
        &["site", "web:/tmp/x"],
        &["`/tmp/x`", "it is no folder there"],
    );
    refused(
        &host,
        &["site/index.html", "web:/none/"],
        &["`/none/`", "there is no such folder"],
    );
    refused(
        &host,
        &["site/index.html", "web:/proc/version"],
        &["/proc/version"],
    );
    refused(
        &host,
        &["site/index.html", "web:/etc/hosts"],
        &["`/etc/hosts`", "mounted there"],
    );
    refused(
        &host,
        &["site/index.html", "web:/dev/null"],
        &["`/dev/null`", "a device"],
    );
    refused(
        &host,
        &["web:/etc", "two/a:/etc"],
        &[
            "through a pipe",
            "tank cp web:/etc - | tank cp - two/a:/etc",
        ],
    );
    refused(&host, &["site", "logs"], &["without a container"]);
    refused(&host, &["web:etc/hosts", "x"], &["begins with its `/`"]);
    refused(&host, &["two:/etc/hosts", "x"], &["`two/a`, `two/b`"]);
    refused(&host, &["site", "nobody:/tmp"], &["nobody"]);
    let cut = host.tank_with_input(&["cp", "-", "web:/tmp"], &archive.stdout[..700]);
    assert!(
        cut.status == 1 && cut.stderr.contains("in the middle"),
        "{}",
        cut.stderr
    );

    // One that does not run has no files put together.
    host.tank(&["stop", "web"]).ok();
    refused(
        &host,
        &["web:/etc", "x"],
        &["it does not run", "tank start web", "tank volume export"],
    );
    host.finish();
}

#[test]
fn what_takes_the_disk_is_counted_once() {
    let host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("web"), sleeper("two")));
    let usage = || -> serde_json::Value { host.tank(&["--json", "disk-usage"]).json() };
    let part = |usage: &serde_json::Value, kind: &str| {
        let parts = usage["parts"].as_array().expect("parts");
        parts
            .iter()
            .find(|part| part["kind"] == kind)
            .expect(kind)
            .clone()
    };
    let before = usage();
    let kinds = before["parts"].as_array().expect("parts").iter();
    let kinds: Vec<&str> = kinds
        .map(|part| part["kind"].as_str().expect("a word"))
        .collect();
    assert_eq!(
        kinds,
        [
            "layers",
            "documents",
            "logs",
            "scratch",
            "figures",
            "generations",
            "trash",
            "volumes",
            "snapshots",
            "replaced"
        ]
    );
    // Two pods have one image, of one layer; what is in it is what `image list` says of it.
    let images = host.tank(&["--json", "image", "list"]).json();
    let image = images["images"][0]["own"].as_u64().expect("bytes");
    let bytes = |of: &serde_json::Value| of["bytes"].as_u64().expect("bytes");
    let (layers, documents) = (part(&before, "layers"), part(&before, "documents"));
    assert_eq!((&layers["count"], &layers["freed"]), (&1.into(), &0.into()));
    let both = bytes(&layers) + bytes(&documents);
    assert!(both >= image && both < image + (1 << 20), "{both} {image}");
    assert_eq!(part(&before, "generations")["count"], 1);
    assert_eq!(part(&before, "snapshots")["bytes"], serde_json::Value::Null);
    // What a pod writes is in its scratch layer.
    host.exec(
        "web",
        "dd if=/dev/urandom of=/srv-file bs=1M count=3 2>/dev/null",
    );
    let after = usage();
    assert!(bytes(&part(&after, "scratch")) >= bytes(&part(&before, "scratch")) + (3 << 20));
    let shown = host.tank(&["df"]).ok();
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    assert!(
        shown.contains("scratch layers of pods") && shown.contains("of the disk"),
        "{shown}"
    );
    host.finish();
}
