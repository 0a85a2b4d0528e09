//! Sizes of volumes: held by the kernel where it has project quotas, in a virtual machine, and refused where it has none.

use std::process::Command;
use tank_tests::{Host, RUN, bin, fixtures, repo, words};

/// A program of the host, with the libraries that it needs, as files of a virtual machine.
fn with_libraries(program: &str, at: &[&str]) -> Vec<String> {
    let ldd = Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8(ldd.stdout).expect("text");
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    let libraries = words.map(|library| format!("{library}={library}"));
    let programs = at.iter().map(|at| format!("{program}={at}"));
    libraries.chain(programs).collect()
}

/// The tests of `executor/sys/tests/quota_tree.rs`, built as those of the workspace are.
fn quota_tree() -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built: tank_tests::Ended = Command::new(cargo)
        .args([
            "test",
            "--workspace",
            "--locked",
            "--test",
            "quota_tree",
            "--no-run",
        ])
        .arg("--message-format=json")
        .current_dir(repo())
        .output()
        .expect("cargo")
        .into();
    let messages = built.ok();
    let all = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut programs = all.filter_map(|message: serde_json::Value| {
        let is_it = message["target"]["name"] == "quota_tree";
        message["executable"]
            .as_str()
            .filter(|_| is_it)
            .map(str::to_owned)
    });
    programs.next().expect("it is built")
}

fn in_a_machine(script: &str, files: &[String]) -> String {
    let target = bin("tank")
        .parent()
        .and_then(std::path::Path::parent)
        .expect("the target folder")
        .to_owned();
    let mut command = Command::new(repo().join("scripts/vm.sh"));
    let command = command
        .arg(repo().join("tests/fixtures").join(script))
        .arg(format!(
            "{}=/tmp/busybox",
            fixtures().join("busybox").display()
        ))
        .args(files)
        .env("CARGO_TARGET_DIR", target)
        .env("TANK_VM_LIMIT", "540");
    tank_tests::in_a_machine(command)
}

#[test]
fn volumes_on_ext4_have_their_sizes_and_no_container_gets_past_them() {
    let mut files = with_libraries("/usr/bin/chattr", &["/bin/chattr", "/usr/tools/chattr"]);
    files.extend(with_libraries("/usr/bin/lsattr", &["/bin/lsattr"]));
    files.extend(with_libraries(&quota_tree(), &["/bin/quota-tree"]));
    let output = in_a_machine("vm-quota.sh", &files);
    // Blocks of 4 KiB: what is full takes its size to the byte.
    assert!(output.contains("FULL 4194304 OF 4194304"), "{output}");
}

fn pods(own: &str, shared: &str) -> String {
    format!(
        r#"{{
  volumes.up = {{ {shared} }},
  pods.db = {{
    containers.app = {{
      image = "oci:./busybox",
      {RUN},
      mounts = {{ data = {{ volume = "data", path = "/data" }}, up = {{ volume = "up", path = "/up" }} }},
    }},
    volumes.data = {{ {own} }},
    volumes.up.shared = "up",
  }},
}}
"#
    )
}

/// A tmpfs has no project quotas, whatever this kernel has.
#[test]
fn where_nothing_would_hold_it_a_size_is_refused_at_its_line_before_anything_changes() {
    let mut host = Host::without_daemon().with_state_on("size=256m");
    host.start_daemon();
    host.switch(&pods("", ""));
    let pid = host.pid("db", "app");
    host.exec("db", "echo kept > /data/file");
    let generations = host.tank(&["--json", "generations", "list"]).json();
    host.write("pods.ncl", &pods("size = \"64MiB\"", "size = \"1GiB\""));
    for command in ["diff", "switch"] {
        let refused = host.tank(&[command, "pods.ncl"]);
        assert_eq!(refused.status, 1, "{}", refused.stderr);
        let said = words(&refused.stderr);
        for text in [
            "tank::host::volume",
            "the volume db/data",
            "the volume up",
            "volumes.data = { size = \"64MiB\" }",
            "volumes.up = { size = \"1GiB\" }",
            "a file system that has no project quotas",
            "have it on ext4 or XFS",
        ] {
            assert!(said.contains(text), "{text}: {said}");
        }
    }
    assert_eq!(host.pid("db", "app"), pid);
    assert_eq!(host.exec("db", "cat /data/file"), "kept");
    let list = host.tank(&["--json", "generations", "list"]).json();
    assert_eq!(list, generations);
    let volumes = host.tank(&["--json", "volume", "list"]).json();
    assert!(
        volumes["volumes"]
            .as_array()
            .expect("volumes")
            .iter()
            .all(|one| one.get("size").is_none()),
        "{volumes}"
    );
    let doctor = host.tank(&["--json", "doctor"]).json();
    let findings = doctor["findings"].as_array().expect("findings");
    let sizes = findings.iter().find(|one| one["what"] == "volume sizes");
    let sizes = sizes.expect("it is among them");
    assert_eq!(sizes["ok"], serde_json::Value::Null);
    let found = sizes["found"].as_str().expect("a text");
    assert!(
        found.ends_with("state/volumes is on a file system that has no project quotas"),
        "{found}"
    );
}

#[test]
fn volumes_on_xfs_have_their_sizes_and_what_is_kept_of_them_counts_to_none() {
    let mut files = with_libraries("/usr/sbin/mkfs.xfs", &["/sbin/mkfs.xfs"]);
    files.extend(with_libraries("/usr/bin/lsattr", &["/bin/lsattr"]));
    in_a_machine("vm-quota-xfs.sh", &files);
}
