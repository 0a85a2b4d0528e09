//! What Tank makes of a server as Debian ships it: ufw and firewalld ([`firewalls`]), and systemd-resolved, for which there
//! is a virtual machine with systemd as its first process (`scripts/debian-vm.sh`); `tests/fixtures/vm-resolved.sh` says what
//! is expected there, and `vm-systemd.sh` what of the units in `packaging`.

#[path = "debian/firewalls.rs"]
mod firewalls;

use std::process::Command;
use tank_tests::{Ended, bin, fixtures, repo};

/// Runs a script in the machine, with an image of busybox, and the units.
fn succeeds(flags: &[&str], script: &str) {
    let programs = bin("tank").parent().expect("a folder").to_owned();
    let ended: Ended = Command::new(repo().join("scripts/debian-vm.sh"))
        .args(flags)
        .arg(repo().join("tests/fixtures").join(script))
        .arg(format!("{}=busybox", fixtures().join("busybox").display()))
        .arg(format!("{}=packaging", repo().join("packaging").display()))
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

#[test]
fn pods_ask_the_servers_that_systemd_resolved_asks() {
    succeeds(&[], "vm-resolved.sh");
}

#[test]
fn systemd_starts_the_daemon_and_the_daemon_the_pods_again() {
    succeeds(&["--reboots"], "vm-systemd.sh");
}
