//! What is installed beside the programs: files at their places, completions that a shell asks for, `tankd --end-pods`, the
//! flake. What a package does on a system is `debian.rs`'s.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tank_tests::{Ended, Host, RUN, bin, eventually, repo, sleeper};

fn programs() -> PathBuf {
    bin("tank").parent().expect("a folder").to_owned()
}

/// Every file below a folder, with its mode.
fn files(below: &Path) -> Vec<(String, u32)> {
    let (mut found, mut left) = (Vec::new(), vec![below.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            let mode = fs::symlink_metadata(&path).expect("is there").permissions();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path
                .strip_prefix(below)
                .expect("below")
                .display()
                .to_string();
            found.push((name, mode.mode() & 0o7777));
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_installed_is_where_it_is_looked_for() {
    let root = std::env::temp_dir().join(format!("tank-installed-{}", std::process::id()));
    let install = || -> Ended {
        let mut command = Command::new(repo().join("scripts/install.sh"));
        let command = command.arg(&root).arg("/usr/local").arg(programs());
        command.output().expect("install.sh").into()
    };
    install().ok();
    let all = files(&root);
    let (pages, others): (Vec<_>, Vec<_>) = all
        .iter()
        .partition(|(name, _)| name.starts_with("usr/local/share/man/"));
    let expected = [
        ("etc/tank/tank.toml", 0o644),
        ("usr/local/bin/tank", 0o755),
        ("usr/local/bin/tank-layer", 0o755),
        ("usr/local/bin/tank-names", 0o755),
        ("usr/local/bin/tank-shim", 0o755),
        ("usr/local/bin/tankd", 0o755),
        ("usr/local/lib/systemd/system/tank-pods.service", 0o644),
        ("usr/local/lib/systemd/system/tankd.service", 0o644),
        ("usr/local/lib/systemd/system/tankd.socket", 0o644),
        ("usr/local/lib/sysusers.d/tank.conf", 0o644),
        ("usr/local/share/bash-completion/completions/tank", 0o644),
        ("usr/local/share/doc/tank/CHANGELOG.md", 0o644),
        ("usr/local/share/doc/tank/CONTRIBUTING.md", 0o644),
        ("usr/local/share/doc/tank/LICENSE-APACHE", 0o644),
        ("usr/local/share/doc/tank/LICENSE-MIT", 0o644),
        ("usr/local/share/doc/tank/README.md", 0o644),
        ("usr/local/share/doc/tank/grafana.json", 0o644),
        ("usr/local/share/doc/tank/tank.rules.yml", 0o644),
        ("usr/local/share/fish/vendor_completions.d/tank.fish", 0o644),
        ("usr/local/share/zsh/site-functions/_tank", 0o644),
    ];
    let mut expected: Vec<(String, u32)> =
        expected.map(|(name, mode)| (name.to_owned(), mode)).into();
    let beside = ["docs", "examples"].map(|folder| {
        let names = files(&repo().join(folder));
        names
            .into_iter()
            .map(move |(name, _)| format!("{folder}/{name}"))
    });
    // An image that the demo has packed is not installed.
    let beside = beside
        .into_iter()
        .flatten()
        .filter(|name| !name.contains("/image/"));
    let beside = beside.chain(["stdlib/errors.md".to_owned()]);
    expected.extend(beside.map(|name| (format!("usr/local/share/doc/tank/{name}"), 0o644)));
    expected.sort();
    assert_eq!(others.into_iter().cloned().collect::<Vec<_>>(), expected);

    // A page for the daemon, one for `tank`, and one for each command that `--help` names.
    let help: Ended = Command::new(bin("tank"))
        .arg("--help")
        .output()
        .expect("tank")
        .into();
    let help = help.ok();
    let commands = help
        .split("Commands:")
        .nth(1)
        .expect("commands")
        .split("Options:")
        .next();
    for line in commands
        .expect("a list")
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
    {
        let name = line.split_whitespace().next().expect("a name");
        let page = format!("usr/local/share/man/man1/tank-{name}.1.gz");
        assert!(pages.iter().any(|(known, _)| *known == page), "{page}");
    }
    for page in [
        "man1/tank.1.gz",
        "man1/tank-generations-rollback.1.gz",
        "man5/tank.toml.5.gz",
        "man8/tankd.8.gz",
    ] {
        let page = format!("usr/local/share/man/{page}");
        let read: Ended = Command::new("zcat")
            .arg(root.join(&page))
            .output()
            .expect("zcat")
            .into();
        assert!(read.ok().contains(".SH SYNOPSIS"), "{page}");
    }
    let unit = fs::read_to_string(root.join("usr/local/lib/systemd/system/tankd.service"))
        .expect("a unit");
    assert!(
        unit.contains("\nExecStart=/usr/local/bin/tankd\n"),
        "{unit}"
    );

    // What the administrator wrote stays.
    fs::write(root.join("etc/tank/tank.toml"), "keep_free = 20\n").expect("writes");
    install().ok();
    let kept = fs::read_to_string(root.join("etc/tank/tank.toml")).expect("a file");
    assert_eq!(kept, "keep_free = 20\n");
    fs::remove_dir_all(&root).expect("removes");
}

/// What bash offers for a line whose last word is being typed, by what `tank` gives it.
fn offered(host: &Host, words: &[&str]) -> Vec<String> {
    let script = r#"
        PATH=$1:$PATH; shift
        source <(COMPLETE=bash tank)
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
        _clap_complete_tank tank "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let ended: Ended = host
        .inside("bash")
        .args(["--norc", "-c", script, "bash"])
        .arg(programs())
        .arg("tank")
        .args(words)
        .env("TANK_SOCKET", host.socket())
        .output()
        .expect("bash")
        .into();
    let lines = ended.ok();
    lines
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[test]
fn a_shell_offers_what_there_is() {
    let host = Host::new();
    host.switch(&format!(
        "{{
            pods.web = {{
                containers = {{
                    app = {{ image = \"oci:./busybox\", {RUN}, env.LOG = \"info\", mounts.d = {{ volume = \"data\", path = \"/d\" }} }},
                    side = {{ image = \"oci:./busybox\", {RUN} }},
                }},
                volumes.data = {{}},
            }},
            pods.worker.containers.app = {{ image = \"oci:./busybox\", {RUN} }},
        }}"
    ));
    assert_eq!(offered(&host, &["sw"]), ["switch"]);
    assert_eq!(
        offered(&host, &["exec", "w"]),
        ["web", "web/app", "web/side", "worker"]
    );
    assert_eq!(offered(&host, &["get", "wo"]), ["worker"]);
    assert_eq!(offered(&host, &["generations", "show", ""])[0], "1");
    assert_eq!(offered(&host, &["volume", "export", ""])[0], "web/data");
    assert_eq!(offered(&host, &["image", "inspect", "oci"]).len(), 1);
    assert_eq!(offered(&host, &["why", "web.app.env"]), ["web.app.env.LOG"]);
    assert_eq!(
        offered(&host, &["doc", "pods.containers.limits.mem"]),
        ["pods.containers.limits.memory"]
    );
    assert_eq!(
        offered(&host, &["doc", "--error", "tank::mount::unknown_v"]),
        ["tank::mount::unknown_volume"]
    );
    // A word that is typed may be anything.
    assert_eq!(
        offered(&host, &["exec", "$(touch /tmp/tank-typed)"]),
        [""; 0]
    );
    assert!(!Path::new("/tmp/tank-typed").exists());
    host.finish();
}

#[test]
fn without_a_daemon_a_shell_offers_what_needs_none() {
    let host = Host::without_daemon();
    assert_eq!(offered(&host, &["exec", "w"]), [""; 0]);
    assert_eq!(offered(&host, &["generations", "rollb"]), ["rollback"]);
}

#[test]
fn pods_end_with_what_the_host_has_for_them_and_come_back() {
    let mut host = Host::new();
    let config = r#"{
        pods.web = {
            containers.app = {
                image = "oci:./busybox",
                command = ["/bin/sh", "-c", "trap 'echo asked > /data/ended; exit 0' TERM USR1; while true; do sleep 0.1; done"],
                mounts.data = { volume = "data", path = "/data" },
            },
            volumes.data = {},
            publish.http = { port = 8080, to = 80 },
        },
    }"#;
    host.switch(config);
    let pid = host.pid("web", "app");
    host.kill_daemon();
    let ended: Ended = host
        .daemon_command()
        .arg("--end-pods")
        .output()
        .expect("tankd")
        .into();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it runs on");
    let links: Ended = host
        .inside("ip")
        .args(["-oneline", "link"])
        .output()
        .expect("ip")
        .into();
    let links = links.ok();
    assert!(
        !links.contains("tank") && !links.contains(": tk"),
        "{links}"
    );
    let rules: Ended = host
        .inside("nft")
        .args(["list", "tables"])
        .output()
        .expect("nft")
        .into();
    assert_eq!(rules.ok(), "");
    // What is declared is what it was.
    host.start_daemon();
    eventually("the pod is back", || {
        host.tank(&["diff", "--exit-code"]).status == 0
    });
    assert_ne!(host.pid("web", "app"), pid);
    assert_eq!(
        host.tank(&["--json", "generations", "list"]).json()["generations"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    host.finish();
}

/// Without nixpkgs, which no test has: what of it is named is there by its name alone (`tests/fixtures/flake.nix`).
#[test]
fn the_flake_has_a_package_and_a_module() {
    let expression = format!(
        "import {} {}",
        repo().join("tests/fixtures/flake.nix").display(),
        repo().display()
    );
    let evaluated: Ended = Command::new("nix-instantiate")
        .args([
            "--eval",
            "--strict",
            "--json",
            "--readonly-mode",
            "--store",
            "dummy://",
            "-E",
            &expression,
        ])
        .output()
        .expect("nix-instantiate")
        .into();
    let systems = ["aarch64-linux", "x86_64-linux"];
    let expected = serde_json::json!({
        "packages": systems,
        "shells": systems,
        "version": env!("CARGO_PKG_VERSION"),
        "overlaid": "tank",
        "options": ["enable", "package", "pods", "settings"],
        "off": {},
        "units": ["tank-pods", "tank-switch", "tankd"],
        "exec": "/tank/bin/tank switch /etc/nixos/pods.ncl",
        "toml": "tank.toml: {\"keep_for\":\"90d\"}",
        "by_hand": {},
    });
    assert_eq!(evaluated.json(), expected);
}

/// The unit spares the daemon when memory runs out, and keeps its files from others: neither is a container's.
#[test]
fn what_the_service_manager_gives_the_daemon_is_not_the_containers() {
    let mut host = Host::without_daemon();
    let daemon = host.daemon_command();
    let log = fs::File::create(host.dir.join("tankd.log")).expect("a log");
    let script = "umask 0077; echo 300 > /proc/self/oom_score_adj; exec \"$@\"";
    let mut daemon = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("tankd");
    eventually("tankd answers", || host.tank(&["status"]).status == 0);
    let given = fs::read_to_string(format!("/proc/{}/oom_score_adj", daemon.id())).expect("reads");
    assert_eq!(given.trim(), "300");
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let asked =
        "cat /proc/1/oom_score_adj /proc/self/oom_score_adj; umask; grep Umask /proc/1/status";
    assert_eq!(host.exec("web", asked), "0\n0\n0022\nUmask:\t0022");
    daemon.kill().expect("kill");
    daemon.wait().expect("wait");
    host.start_daemon();
    host.finish();
}
