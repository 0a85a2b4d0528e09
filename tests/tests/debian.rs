//! What Tank makes of a server as Debian ships it: ufw and firewalld ([`firewalls`]), and systemd-resolved, for which there
//! is a virtual machine with systemd as its first process (`scripts/debian-vm.sh`); `tests/fixtures/vm-resolved.sh` says what
//! is expected there.

#[path = "debian/firewalls.rs"]
mod firewalls;

use std::process::Command;
use tank_tests::{Ended, bin, fixtures, repo};

#[test]
fn pods_ask_the_servers_that_systemd_resolved_asks() {
    let programs = bin("tank").parent().expect("a folder").to_owned();
    let file = |name: &str| repo().join("tests/fixtures").join(name);
    let ended: Ended = Command::new(repo().join("scripts/debian-vm.sh"))
        .arg(file("vm-resolved.sh"))
        .arg(format!("{}=busybox", fixtures().join("busybox").display()))
        .env("TANK_BIN_DIR", programs)
        .output()
        .expect("debian-vm.sh")
        .into();
    assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(
        ended.stdout.trim_end().ends_with("done"),
        "{}",
        ended.stdout
    );
}
