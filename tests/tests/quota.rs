//! Sizes of volumes: held by the kernel where it has project quotas, in a virtual machine, and refused where it has none.

use std::process::Command;
use tank_tests::{Ended, bin, fixtures, repo};

/// A program of the host, with the libraries that it needs, as files of a virtual machine.
fn with_libraries(program: &str, at: &[&str]) -> Vec<String> {
    let ldd = Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8(ldd.stdout).expect("text");
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    let libraries = words.map(|library| format!("{library}={library}"));
    let programs = at.iter().map(|at| format!("{program}={at}"));
    libraries.chain(programs).collect()
}

fn in_a_machine(script: &str, files: &[String]) -> String {
    let target = bin("tank")
        .parent()
        .and_then(std::path::Path::parent)
        .expect("the target folder")
        .to_owned();
    let ended: Ended = Command::new(repo().join("scripts/vm.sh"))
        .arg(repo().join("tests/fixtures").join(script))
        .arg(format!(
            "{}=/tmp/busybox",
            fixtures().join("busybox").display()
        ))
        .args(files)
        .env("CARGO_TARGET_DIR", target)
        .env("TANK_VM_LIMIT", "540")
        .output()
        .expect("vm.sh")
        .into();
    assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(
        ended.stdout.trim_end().ends_with("done"),
        "{}",
        ended.stdout
    );
    ended.stdout
}

#[test]
fn volumes_on_ext4_have_their_sizes_and_no_container_gets_past_them() {
    let mut files = with_libraries("/usr/bin/chattr", &["/bin/chattr", "/usr/tools/chattr"]);
    files.extend(with_libraries("/usr/bin/lsattr", &["/bin/lsattr"]));
    let output = in_a_machine("vm-quota.sh", &files);
    // Blocks of 4 KiB: what is full takes its size to the byte.
    assert!(output.contains("FULL 4194304 OF 4194304"), "{output}");
}
