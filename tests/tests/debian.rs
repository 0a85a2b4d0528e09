//! What Tank makes of a server as Debian ships it: ufw and firewalld ([`firewalls`]), and systemd-resolved, for which there
//! is a virtual machine with systemd as its first process (`scripts/debian-vm.sh`); `tests/fixtures/vm-resolved.sh` says what
//! is expected there, and `vm-systemd.sh` what of the
//! package.

#[path = "debian/firewalls.rs"]
mod firewalls;

use std::process::Command;
use tank_tests::{Ended, bin, fixtures, in_a_machine, repo};

/// Runs a script in the machine, with an image of busybox and `files`, each as `FILE=NAME`.
fn succeeds(flags: &[&str], script: &str, files: &[String]) {
    let programs = bin("tank").parent().expect("a folder").to_owned();
    let mut command = Command::new(repo().join("scripts/debian-vm.sh"));
    let command = command
        .args(flags)
        .arg(repo().join("tests/fixtures").join(script))
        .arg(format!("{}=busybox", fixtures().join("busybox").display()))
        .args(files)
        .env("TANK_BIN_DIR", programs);
    in_a_machine(command);
}

#[test]
fn pods_ask_the_servers_that_systemd_resolved_asks() {
    succeeds(&[], "vm-resolved.sh", &[]);
}

#[test]
fn the_package_is_installed_and_systemd_keeps_what_it_has() {
    let programs = bin("tank").parent().expect("a folder").to_owned();
    let into = std::env::temp_dir().join(format!("tank-deb-{}", std::process::id()));
    let made: Ended = Command::new(repo().join("scripts/deb.sh"))
        .args([&programs, &into])
        .output()
        .expect("deb.sh")
        .into();
    assert_eq!(made.status, 0, "{}{}", made.stdout, made.stderr);
    let package = format!("{}=tank.deb", made.stdout.trim_end());
    succeeds(&["--reboots"], "vm-systemd.sh", &[package]);
    std::fs::remove_dir_all(&into).expect("removes");
}
