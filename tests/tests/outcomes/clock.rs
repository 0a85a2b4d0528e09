//! A clock that is set back decides nothing.

use super::*;

/// A host whose clock is what a file says, for `tankd` and its shims.
struct Clock {
    host: Host,
    offset: PathBuf,
}

const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static volatile long *offset;
__attribute__((constructor)) static void start(void) {
    int fd = open(getenv("TEST_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *page = fd < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) offset = page;
}
int clock_gettime(clockid_t id, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, time);
    if (result == 0 && id == CLOCK_REALTIME && offset) time->tv_sec += *offset;
    return result;
}
"#;

impl Clock {
    fn new() -> Self {
        let mut host = Host::without_daemon();
        host.write("clock.c", CLOCK);
        let library = host.dir.join("clock.so");
        let mut gcc = Command::new("gcc");
        gcc.args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(host.dir.join("clock.c"));
        assert!(gcc.status().expect("gcc").success());
        let offset = host.dir.join("offset");
        fs::write(&offset, 0i64.to_ne_bytes()).expect("writes");
        let path = |path: &Path| path.to_str().expect("a path").to_owned();
        host.start_daemon_with(&[
            ("TEST_CLOCK", &path(&offset)),
            ("LD_PRELOAD", &path(&library)),
        ]);
        Self { host, offset }
    }

    /// Sets the clock back by an hour.
    fn set_back(&self) {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&self.offset)
            .expect("opens");
        file.write_all_at(&(-3600i64).to_ne_bytes(), 0)
            .expect("writes");
    }
}

#[test]
fn a_clock_set_back_puts_no_good_switch_back() {
    let clock = Clock::new();
    let host = &clock.host;
    host.switch(&format!("{{ {} }}", sleeper("web")));
    // The one is waited for; of the other it counts how long it has run.
    let ready = script("app", STAY, READY_ONCE);
    let plain = script("plain", STAY, "");
    host.write(
        "pods.ncl",
        &marked(host, &format!("containers.{ready}, containers.{plain}"), ""),
    );
    let switch = spawn(host, &["switch", "--timeout", "20s", "pods.ncl"]);
    eventually("both run", || runs(host, "app") && runs(host, "plain"));
    clock.set_back();
    fs::write(marks(host).join("ok"), "").expect("a mark");
    let ended = wait(switch);
    assert_eq!(
        (ended.status, outcomes(host).as_slice()),
        (0, ["good", "good"].map(str::to_owned).as_slice()),
        "{ended:?}"
    );
    // It is the daemon's clock that was set: what it commits now is older than what it committed
    // before.
    host.write("more.ncl", &format!("{{ {} }}", sleeper("more")));
    host.tank(&["apply", "more.ncl"]).ok();
    let list = host.tank(&["--json", "generations", "list"]).json();
    assert!(
        list["generations"][2]["time"].as_u64() < list["generations"][1]["time"].as_u64(),
        "{list}"
    );
    clock.host.finish();
}

#[test]
fn a_clock_set_back_stops_no_restart() {
    let clock = Clock::new();
    let host = &clock.host;
    let crash = "[ -e /marks/ok ] || exit 1; trap 'exit 0' TERM; while true; do sleep 0.1; done";
    host.write(
        "pods.ncl",
        &marked(
            host,
            &format!("containers.{}", script("app", crash, "")),
            "",
        ),
    );
    assert_eq!(
        host.tank(&["switch", "--no-rollback", "pods.ncl"]).status,
        1
    );
    // It waits some seconds for its next restart now.
    eventually("it has ended", || {
        host.pod("web")["containers"][0]["state"] == "failed"
    });
    fs::write(marks(host).join("ok"), "").expect("a mark");
    clock.set_back();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !runs(host, "app") {
        assert!(
            Instant::now() < deadline,
            "it is not restarted: {}",
            host.pod("web")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    clock.host.finish();
}
