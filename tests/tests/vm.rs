//! Debian 12's own kernel and pure cgroup version 2, in a virtual machine of their own.

use std::process::Command;
use tank_tests::{bin, fixtures, in_a_machine, repo};

#[test]
fn a_switch_on_cgroup_version_2_with_its_limits_enforced() {
    let target = bin("tank")
        .parent()
        .and_then(std::path::Path::parent)
        .expect("the target folder")
        .to_owned();
    let mut command = Command::new(repo().join("scripts/vm.sh"));
    let command = command
        .arg(repo().join("tests/fixtures/vm-switch.sh"))
        .arg(format!(
            "{}=/tmp/busybox",
            fixtures().join("busybox").display()
        ))
        .env("CARGO_TARGET_DIR", target);
    let output = in_a_machine(command);
    assert!(
        output.contains("memory 25165824 pids 12 cpu 25000 100000"),
        "{output}"
    );
}
