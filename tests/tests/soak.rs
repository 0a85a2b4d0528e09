//! An hour's worth of a host's life in a minute: thirty pods are switched, rolled back, killed,
//! starved and meddled with at random. Between two things the host converges; what the daemon holds
//! stays flat; at the end nothing is left.
//!
//! `TANK_SOAK_ROUNDS` (60 unless it is set) says how long, `TANK_SOAK_SEED` repeats a run.

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher, RandomState},
    process::Command,
    time::{Duration, Instant},
};
use tank_tests::{Host, RUN};

const PODS: u64 = 30;

/// SplitMix64: the same run for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Thirty pods as they are at rest.
fn baseline() -> String {
    let pods: String = (0..PODS).map(|i| pod(i, 0, 0, None)).collect();
    format!("{{ {pods} }}")
}

fn pod(i: u64, step: u64, pids: u64, port: Option<u64>) -> String {
    let publish = port
        .map(|port| format!("publish.p = {{ port = {port}, to = 80 }},"))
        .unwrap_or_default();
    let network = ["'bridge", "'bridge", "'bridge", "'none"][(i % 4) as usize];
    let depends = if i % 5 == 4 {
        format!("depends_on.p{} = 'started,", i - 1)
    } else {
        String::new()
    };
    format!(
        "pods.p{i} = {{ network = {network}, {publish} {depends} containers.app = {{
            image = \"oci:./busybox\", {RUN}, env.STEP = \"{step}\", limits.pids = {},
            files.\"/etc/step\" = {{ text = \"{step}\", reload = \"none\" }} }} }},\n",
        20 + pids
    )
}

/// Some of the pods, each changed or not.
fn some(random: &mut Random) -> String {
    let mut wanted: Vec<u64> = (0..PODS).filter(|_| random.below(10) > 1).collect();
    // Whoever is depended on stays.
    let needed: Vec<u64> = wanted
        .iter()
        .filter(|i| **i % 5 == 4)
        .map(|i| i - 1)
        .collect();
    wanted.extend(needed);
    wanted.sort_unstable();
    wanted.dedup();
    let pods: String = wanted
        .into_iter()
        .map(|i| {
            let publish = (i % 4 != 3 && random.below(4) == 0).then(|| 20_000 + i);
            pod(
                i,
                if random.below(3) == 0 {
                    random.below(3)
                } else {
                    0
                },
                random.below(3),
                publish,
            )
        })
        .collect();
    format!("{{ {pods} }}")
}

/// What a daemon holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: u64,
    resident_kib: u64,
    processes: usize,
}

fn held(host: &Host) -> Held {
    let pid = host.daemon_pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let number = |name: &str| -> u64 {
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .expect("a line");
        line.split_whitespace()
            .nth(1)
            .expect("a number")
            .parse()
            .expect("a number")
    };
    Held {
        // The database opens and closes its own files as it likes, 64 at most.
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("descriptors")
            .flatten()
            .filter(|fd| {
                !fs::read_link(fd.path())
                    .is_ok_and(|to| to.starts_with(host.dir.join("state/store")))
            })
            .count(),
        threads: number("Threads:"),
        resident_kib: number("VmRSS:"),
        processes: host
            .traces()
            .iter()
            .filter(|line| line.ends_with("with processes"))
            .count(),
    }
}

#[track_caller]
fn converged(host: &Host, seed: u64, what: &str) -> Duration {
    let before = Instant::now();
    while host.tank(&["diff", "--exit-code"]).status != 0 {
        let waited = before.elapsed() < Duration::from_secs(45);
        assert!(
            waited,
            "seed {seed}, after {what}: {}",
            host.tank(&["diff"]).stdout
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    before.elapsed()
}

/// The pid of some running main process.
fn some_pid(host: &Host, random: &mut Random) -> Option<i64> {
    let list = host.tank(&["--json", "list"]).json();
    let pods = list["pods"].as_array().expect("pods");
    let pids: Vec<i64> = pods
        .iter()
        .filter_map(|pod| pod["containers"][0]["pid"].as_i64())
        .collect();
    (!pids.is_empty()).then(|| pids[random.below(pids.len() as u64) as usize])
}

fn kill(signal: &str, pid: i64) {
    let _ = Command::new("kill")
        .args([signal, &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .status();
}

fn parent(pid: i64) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Goes back to the generation before, and expects to be there.
fn roll_back(host: &Host) {
    let generations = || -> Vec<serde_json::Value> {
        host.tank(&["--json", "generations", "list"]).json()["generations"]
            .as_array()
            .expect("a list")
            .clone()
    };
    let before = generations();
    let current = |list: &[serde_json::Value]| {
        list.iter()
            .find(|one| one["current"] == true)
            .expect("one")
            .clone()
    };
    let was = current(&before);
    let ended = host.tank(&["--json", "generations", "rollback"]);
    // The very first has none before it.
    let Some(parent) = before.iter().find(|one| one["number"] == was["parent"]) else {
        assert_eq!(
            (ended.status, current(&generations())),
            (1, was),
            "{}",
            ended.stderr
        );
        return;
    };
    let done = ended.json();
    let is = current(&generations());
    // One that a rollback has ended on its way is not gone back to: what is, was good.
    let was_good = |one: &&serde_json::Value| {
        one["outcome"] == "good" && is["source"] == format!("rollback to {}", one["number"])
    };
    let parent = match parent["outcome"] == "good" {
        true => parent,
        false => before.iter().find(was_good).expect("a good one"),
    };
    assert_eq!(
        (&done["failure"], &done["root"]),
        (&serde_json::Value::Null, &parent["root"]),
        "{done}"
    );
    assert_eq!(
        (&is["root"], &is["number"], &is["outcome"]),
        (&parent["root"], &done["generation"], &"good".into())
    );
    assert_eq!(is["source"], format!("rollback to {}", parent["number"]));
}

/// Does one thing to the host and says what.
fn disturb(host: &mut Host, random: &mut Random, deadly: bool) -> &'static str {
    let quietly = |host: &Host, script: &str| {
        let _ = host
            .inside("sh")
            .args(["-c", script])
            .stderr(std::process::Stdio::null())
            .status();
    };
    match random.below(if deadly { 13 } else { 11 }) {
        0..=3 => {
            host.write("pods.ncl", &some(random));
            host.tank(&["switch", "pods.ncl"]).ok();
            "a switch"
        }
        4 => {
            roll_back(host);
            "a rollback"
        }
        5 => {
            some_pid(host, random)
                .into_iter()
                .for_each(|pid| kill("-9", pid));
            "the death of a main process"
        }
        6 => {
            some_pid(host, random)
                .and_then(parent)
                .into_iter()
                .for_each(|pid| kill("-9", pid));
            "the death of a shim"
        }
        7 => {
            some_pid(host, random)
                .into_iter()
                .for_each(|pid| kill("-STOP", pid));
            "a stopped process"
        }
        8 => {
            quietly(host, "nft flush ruleset");
            "flushed rules"
        }
        9 => {
            quietly(
                host,
                "ip link set $(ip -oneline link show master tank0 | cut -d: -f2 | cut -d@ -f1 | head -n 1) down",
            );
            "a link that is down"
        }
        10 => {
            let group = format!(
                "find /sys/fs/cgroup -path '*/{}/p*/app/pids.max' | head -n 1",
                host.cgroup
            );
            quietly(host, &format!("echo 7 > $({group})"));
            "a limit that is edited"
        }
        11 => {
            host.kill_daemon();
            host.start_daemon();
            "the daemon's death"
        }
        _ => {
            host.write("pods.ncl", &some(random));
            let mut client = host.command(&["switch", "pods.ncl"]);
            let mut client = client
                .stderr(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("tank");
            std::thread::sleep(Duration::from_millis(random.below(400)));
            host.kill_daemon();
            client.wait().expect("wait");
            host.start_daemon();
            "the daemon's death in a switch"
        }
    }
}

#[test]
fn a_life_of_switches_kills_and_drift() {
    let from_env = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let rounds = from_env("TANK_SOAK_ROUNDS").unwrap_or(60);
    let seed = from_env("TANK_SOAK_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("TANK_SOAK_SEED={seed} TANK_SOAK_ROUNDS={rounds}");
    let mut random = Random(seed);
    let mut host = Host::new();
    let mut repairs: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    // First without killing the daemon, so that what it holds can be compared; then anything goes.
    for deadly in [false, true] {
        // Twice: what is kept for later is kept by now.
        for _ in 0..2 {
            host.write("rest.ncl", &baseline());
            host.tank(&["switch", "rest.ncl"]).ok();
            host.tank(&["switch", "rest.ncl"]).ok();
            converged(&host, seed, "coming to rest");
            std::thread::sleep(Duration::from_millis(500));
        }
        let before = held(&host);
        for round in 0..rounds / 2 {
            if round % 250 == 249 {
                eprintln!("  after {round}: {:?}", held(&host));
            }
            let what = disturb(&mut host, &mut random, deadly);
            let took = converged(&host, seed, what);
            repairs.entry(what).or_default().push(took);
        }
        host.tank(&["switch", "rest.ncl"]).ok();
        converged(&host, seed, "coming to rest");
        // Watches of namespaces that are gone end a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut after = held(&host);
        while after.descriptors > before.descriptors && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            after = held(&host);
        }
        eprintln!("{rounds} rounds, deadly: {deadly}\n  before: {before:?}\n  after:  {after:?}");
        assert_eq!(after.processes, before.processes, "seed {seed}");
        if !deadly {
            assert!(
                after.descriptors <= before.descriptors,
                "seed {seed}: {before:?} {after:?}"
            );
            assert!(after.threads <= 40, "seed {seed}: {before:?} {after:?}");
            assert!(
                after.resident_kib < before.resident_kib + (24 << 10),
                "seed {seed}: {before:?} {after:?}"
            );
        }
    }
    for (what, mut took) in repairs {
        took.sort_unstable();
        eprintln!(
            "  {what}: {} times, then converged after {:?} (median), {:?} (most)",
            took.len(),
            took[took.len() / 2],
            took[took.len() - 1]
        );
    }
    host.finish();
}
