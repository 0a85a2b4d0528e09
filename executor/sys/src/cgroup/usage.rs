//! What the processes of a group use, as the kernel counts it: version 2 first, and where a host has its controllers on version 1,
//! what those count. Read without a lock of anybody's, and never more than a page of a file.

use super::Cgroups;
use crate::read_small;
use std::path::{Path, PathBuf};

/// The controller of version 2 that counts what is read and written. No limit is set with it.
pub(super) const IO: &str = "io";

/// What the processes of a group and of those below it use. None: the kernel does not count it here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Microseconds of processors.
    pub cpu: Option<u64>,
    /// Bytes, with cached pages of files.
    pub memory: Option<u64>,
    /// Those of them that are cached and were not used lately.
    pub inactive: Option<u64>,
    /// The most bytes. None as well: there is no limit.
    pub memory_limit: Option<u64>,
    /// `some avg10` of memory's pressure (PSI), in hundredths of a percent.
    pub memory_pressure: Option<u64>,
    /// How often processes were ended that were out of memory.
    pub oom_kills: Option<u64>,
    /// Bytes read from block devices.
    pub read: Option<u64>,
    /// Bytes written to them.
    pub written: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The most of them. None as well: there is no limit.
    pub pids_limit: Option<u64>,
}

impl Cgroups {
    /// What a part of a pod uses; all of the pod where the part is empty. None: there is no such group. Blocking.
    pub fn usage(&self, pod: &str, part: &str) -> Option<Usage> {
        let own = self.layout.v2.join(&self.prefix).join(pod).join(part);
        // Of version 2, whatever its controllers: cpu.stat and the pressures are every group's.
        let cpu = read(&own, "cpu.stat");
        if cpu.is_none() && !own.is_dir() {
            return None;
        }
        let of = |controller: &str| self.control(controller, pod, part);
        let (memory, pids) = (of("memory"), of("pids"));
        let v1 = self.layout.v1.contains_key("memory");
        let (current, limit, stat, inactive) = if v1 {
            let names = ("memory.usage_in_bytes", "memory.limit_in_bytes");
            (names.0, names.1, "memory.stat", "total_inactive_file")
        } else {
            (
                "memory.current",
                "memory.max",
                "memory.stat",
                "inactive_file",
            )
        };
        let io = read(&own, "io.stat");
        let (read_bytes, written) = io.as_deref().map(io_bytes).unzip();
        Some(Usage {
            cpu: cpu.and_then(|text| field(&text, "usage_usec")),
            memory: number(&memory, current),
            inactive: read(&memory, stat).and_then(|text| field(&text, inactive)),
            // Version 1 says "no limit" as the largest number of whole pages.
            memory_limit: number(&memory, limit).filter(|bytes| *bytes < 1 << 62),
            memory_pressure: read(&own, "memory.pressure").and_then(|text| some_avg10(&text)),
            oom_kills: self.counted_oom_kills(&memory, v1),
            read: read_bytes,
            written,
            pids: number(&pids, "pids.current"),
            pids_limit: number(&pids, "pids.max"),
        })
    }

    fn counted_oom_kills(&self, memory: &Path, v1: bool) -> Option<u64> {
        let file = if v1 {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        field(&read(memory, file)?, "oom_kill")
    }
}

fn read(dir: &Path, file: &str) -> Option<String> {
    let path: PathBuf = dir.join(file);
    read_small(&path).ok()
}

/// A file with one number; none where it says `max`.
fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file)?.trim().parse().ok()
}

/// A line `KEY NUMBER`.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// `rbytes` and `wbytes` of all devices (cgroup-v2, "io.stat").
fn io_bytes(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let words = text.split_ascii_whitespace();
        let values = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let numbers = values.filter_map(|value| value.parse::<u64>().ok());
        numbers.fold(0u64, u64::saturating_add)
    };
    (sum("rbytes"), sum("wbytes"))
}

/// `some avg10=1.23 …`, in hundredths (Documentation/accounting/psi.rst).
fn some_avg10(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let mut words = line.split_ascii_whitespace();
    let value = words.find_map(|word| word.strip_prefix("avg10="))?;
    let (whole, hundredths) = value.split_once('.')?;
    let hundredths = hundredths.get(..2)?.parse::<u64>().ok()?;
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(100)?.checked_add(hundredths)
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;
    use std::{collections::BTreeMap, fs};

    #[test]
    fn what_the_kernel_writes_is_read() {
        let io = "8:0 rbytes=90112 wbytes=4096 rios=22 wios=1 dbytes=0 dios=0\n\
                  253:1 rbytes=10 wbytes=0 rios=1 wios=0\n254:0 \n";
        assert_eq!(io_bytes(io), (90_122, 4_096));
        assert_eq!(io_bytes(""), (0, 0));
        let pressure =
            "some avg10=12.34 avg60=0.05 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00\n";
        assert_eq!(some_avg10(pressure), Some(1_234));
        assert_eq!(some_avg10("full avg10=1.00\n"), None);
        assert_eq!(some_avg10("some avg10=x\n"), None);
        assert_eq!(field("a 1\ninactive_file 7\n", "inactive_file"), Some(7));
        assert_eq!(field("inactive_file_more 7\n", "inactive_file"), None);
    }

    /// Folders as each layout has them, with files as the kernel has them.
    #[test]
    fn a_group_is_read_in_both_layouts() {
        let root = std::env::temp_dir().join(format!("tank-usage-{}", std::process::id()));
        let write = |dir: &str, files: &[(&str, &str)]| {
            let dir = root.join(dir).join("tank/web/app");
            fs::create_dir_all(&dir).expect("a folder");
            for (name, text) in files {
                fs::write(dir.join(name), text).expect("a file");
            }
        };
        let cpu = ("cpu.stat", "usage_usec 5000\nuser_usec 4000\n");
        let pressure = (
            "memory.pressure",
            "some avg10=0.50 avg60=0.00 avg300=0.00 total=1\n",
        );
        write(
            "two",
            &[
                cpu,
                pressure,
                ("memory.current", "4096\n"),
                ("memory.max", "max\n"),
                ("memory.stat", "anon 1\ninactive_file 96\n"),
                ("memory.events", "low 0\noom 2\noom_kill 1\n"),
                ("io.stat", "8:0 rbytes=1 wbytes=2\n"),
                ("pids.current", "3\n"),
                ("pids.max", "12\n"),
            ],
        );
        let two = Cgroups::new(
            Layout {
                v2: root.join("two"),
                v1: BTreeMap::new(),
            },
            "tank",
        );
        let whole = Usage {
            cpu: Some(5_000),
            memory: Some(4_096),
            inactive: Some(96),
            memory_limit: None,
            memory_pressure: Some(50),
            oom_kills: Some(1),
            read: Some(1),
            written: Some(2),
            pids: Some(3),
            pids_limit: Some(12),
        };
        assert_eq!(two.usage("web", "app"), Some(whole.clone()));
        assert_eq!(two.usage("web", "none"), None);
        write("one/unified", &[cpu]);
        write(
            "one/memory",
            &[
                ("memory.usage_in_bytes", "4096\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 96\n"),
                ("memory.oom_control", "under_oom 0\noom_kill 1\n"),
            ],
        );
        write("one/pids", &[("pids.current", "3\n"), ("pids.max", "12\n")]);
        let one = Cgroups::new(
            Layout {
                v2: root.join("one/unified"),
                v1: ["memory", "pids", "cpu"]
                    .map(|name| (name.to_owned(), root.join("one").join(name)))
                    .into(),
            },
            "tank",
        );
        let without = Usage {
            memory_pressure: None,
            read: None,
            written: None,
            ..whole
        };
        assert_eq!(one.usage("web", "app"), Some(without));
        fs::remove_dir_all(&root).expect("removed");
    }
}
