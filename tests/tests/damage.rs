//! The store's files are changed, cut or gone, or its disk fails. The host is never put on an older
//! generation without a word: the daemon says what is wrong and what to do, and what runs goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tank_tests::{Ended, Host, RUN, bin, eventually};

fn pod(step: u32) -> String {
    format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, env.STEP = \"{step}\" }} }}"
    )
}

/// A host at its eighth generation, whose daemon was killed.
fn killed() -> Host {
    let mut host = Host::new();
    for step in 1..=8 {
        host.switch(&pod(step));
    }
    host.kill_daemon();
    host
}

/// The file of the store whose name is like this; the newest if there are several.
fn file(host: &Host, is: impl Fn(&str) -> bool) -> PathBuf {
    let entries = fs::read_dir(host.dir.join("state/store"))
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path());
    let found = entries.filter(|path| is(&path.file_name().expect("a name").to_string_lossy()));
    found.max().expect("the file")
}

fn manifest(host: &Host) -> PathBuf {
    file(host, |name| name.starts_with("MANIFEST-"))
}

fn log(host: &Host) -> PathBuf {
    file(host, |name| name.ends_with(".log"))
}

/// Starts a daemon that has to refuse, and gives what it says.
#[track_caller]
fn refused(host: &Host) -> String {
    let mut command = host.inside("timeout");
    command.arg("30").arg(bin("tankd"));
    for (flag, path) in [
        ("state-dir", "state"),
        ("run-dir", "run"),
        ("config", "tank.toml"),
    ] {
        command.arg(format!("--{flag}={}", host.dir.join(path).display()));
    }
    let ended: Ended = command.output().expect("tankd").into();
    assert_eq!(ended.status, 1, "it went on: {}", ended.stderr);
    ended.stderr
}

/// The number of the current generation.
fn current(host: &Host) -> u64 {
    let list = host.tank(&["--json", "generations", "list"]).json();
    let generations = list["generations"].as_array().expect("generations");
    let current = generations
        .iter()
        .find(|one| one["current"] == true)
        .expect("a current one");
    current["number"].as_u64().expect("a number")
}

fn recovered(host: &Host) -> String {
    let events = host.tank(&["--json", "events"]).ok();
    events
        .lines()
        .filter(|line| line.contains("recovered"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_bit_of_the_log_flips() {
    let mut host = killed();
    let pid = shim_pid(&host);
    let log = log(&host);
    let bytes = fs::read(&log).expect("reads");
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 0x10;
    fs::write(&log, &changed).expect("writes");
    let said = refused(&host);
    assert!(
        said.contains("generation 8 (sha256:") && said.contains("was committed"),
        "{said}"
    );
    assert!(
        said.contains("`tankd --accept-loss` goes on with generation"),
        "{said}"
    );
    assert!(
        Path::new(&format!("/proc/{pid}")).exists(),
        "what ran was disturbed"
    );
    assert_eq!(
        fs::read(&log).expect("reads"),
        changed,
        "what is damaged was changed"
    );
    // The copy is the way back to where it was.
    fs::write(&log, &bytes).expect("writes");
    host.start_daemon();
    assert_eq!(current(&host), 8);
    assert_eq!(host.exec("web", "echo $STEP"), "8");
    host.finish();
}

#[test]
fn a_loss_is_accepted() {
    let mut host = killed();
    let log = log(&host);
    let mut bytes = fs::read(&log).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&log, &bytes).expect("writes");
    refused(&host);
    host = host.started_with(&["--accept-loss"]);
    let now = current(&host);
    assert!((1..8).contains(&now), "{now}");
    let noted = recovered(&host);
    assert!(
        noted.contains("generation 8 (sha256:") && noted.contains("is lost"),
        "{noted}"
    );
    assert!(
        host.dir
            .join("state/store.damaged")
            .join(log.file_name().expect("a name"))
            .exists()
    );
    // From now on that is the newest one, and nothing has to be accepted again: what was is remembered, and nothing is new.
    host.kill_daemon();
    host = host.started_with(&[]);
    assert_eq!((current(&host), recovered(&host)), (now, noted));
    host.switch(&pod(9));
    assert_eq!(host.exec("web", "echo $STEP"), "9");
    host.finish();
}

/// The pid of this host's only shim.
fn shim_pid(host: &Host) -> String {
    let output = Command::new("sh")
        .args([
            "-c",
            &format!(
                "cat $(find /sys/fs/cgroup -path '*/{}/*' -name cgroup.procs)",
                host.cgroup
            ),
        ])
        .output()
        .expect("sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().expect("a process").to_owned()
}

#[test]
fn what_a_power_cut_leaves_of_a_write_is_no_damage() {
    let mut host = killed();
    // The last thing written is how the eighth ended, after it was committed.
    let log = log(&host);
    let length = fs::metadata(&log).expect("is there").len();
    fs::File::options()
        .write(true)
        .open(&log)
        .expect("opens")
        .set_len(length - 3)
        .expect("cuts");
    host.start_daemon();
    assert_eq!(current(&host), 8);
    assert_eq!(recovered(&host), "");
    host.finish();
}

#[test]
fn half_a_manifest_and_no_pointer_to_it() {
    let mut host = killed();
    let length = fs::metadata(manifest(&host)).expect("is there").len();
    fs::File::options()
        .write(true)
        .open(manifest(&host))
        .expect("opens")
        .set_len(length / 2)
        .expect("cuts");
    fs::remove_file(host.dir.join("state/store/CURRENT")).expect("removes");
    let said = refused(&host);
    assert!(said.contains("state/store/CURRENT is missing"), "{said}");
    assert!(
        said.contains("`tankd --repair-store` reads what is left of it"),
        "{said}"
    );
    host = host.started_with(&["--repair-store"]);
    assert_eq!(current(&host), 8);
    let noted = recovered(&host);
    assert!(noted.contains("the store was repaired"), "{noted}");
    host.kill_daemon();
    host = host.started_with(&[]);
    assert_eq!((current(&host), recovered(&host)), (8, noted));
    host.finish();
}

/// A library that lets the disk below the store fail for as long as `FAIL_WHEN` is there.
const FAILING_DISK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int fails(int fd) {
    char link[64], path[4096];
    const char *when = getenv("FAIL_WHEN");
    if (!when || access(when, F_OK) != 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "/state/store/") != NULL;
}
int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    if (fails(fd)) { errno = EIO; return -1; }
    return real(fd);
}
int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    if (fails(fd)) { errno = EIO; return -1; }
    return real(fd);
}
"#;

#[test]
fn the_disk_fails_and_works_again() {
    let mut host = Host::without_daemon();
    host.write("disk.c", FAILING_DISK);
    let library = host.dir.join("disk.so");
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(host.dir.join("disk.c"))
        .arg("-ldl");
    assert!(gcc.status().expect("gcc").success());
    let when = host.dir.join("failing");
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    host.start_daemon_with(&[("LD_PRELOAD", &text(&library)), ("FAIL_WHEN", &text(&when))]);
    host.switch(&pod(1));
    let pid = host.pid("web", "app");
    fs::write(&when, "").expect("writes");
    host.write("pods.ncl", &pod(2));
    let failed = host.tank(&["switch", "pods.ncl"]);
    assert_eq!(failed.status, 1, "{failed:?}");
    assert!(
        failed.stderr.contains("Input/output error"),
        "{}",
        failed.stderr
    );
    assert!(
        failed
            .stderr
            .contains("it is opened again at the next attempt"),
        "{}",
        failed.stderr
    );
    assert!(
        Path::new(&format!("/proc/{pid}")).exists(),
        "what ran was disturbed"
    );
    // The same command works when the disk does, and nobody has to start anything again.
    fs::remove_file(&when).expect("removes");
    eventually("the store is open again", || {
        host.tank(&["list"]).status == 0
    });
    host.tank(&["switch", "pods.ncl"]).ok();
    assert_eq!(host.exec("web", "echo $STEP"), "2");
    // Whether the first attempt was committed is for the disk to say.
    assert!((2..=3).contains(&current(&host)), "{}", current(&host));
    host.finish();
}
