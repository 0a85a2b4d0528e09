//! What the processes of a group use, as the kernel counts it: version 2 first, and where a host has its controllers on version 1,
//! what those count. Read without a lock of anybody's, and never more than a page of a file.

use super::Cgroups;
use crate::{Context, Result, read_small};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The controller of version 2 that counts what is read and written. No limit is set with it.
pub(super) const IO: &str = "io";

/// That of version 1.
pub(super) const BLKIO: &str = "blkio";

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
        let used = self.used(pod, part)?;
        let own = self.layout.v2.join(&self.prefix).join(pod).join(part);
        let of = |controller: &str| self.control(controller, pod, part);
        let (memory, pids) = (of("memory"), of("pids"));
        let v1 = self.layout.v1.contains_key("memory");
        let limit = if v1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        Some(Usage {
            // Version 1 says "no limit" as the largest number of whole pages.
            memory_limit: number(&memory, limit).filter(|bytes| *bytes < 1 << 62),
            memory_pressure: read(&own, "memory.pressure").and_then(|text| some_avg10(&text)),
            oom_kills: self.counted_oom_kills(&memory, v1),
            pids_limit: number(&pids, "pids.max"),
            ..used
        })
    }

    /// As [`Cgroups::usage`], without limits, pressure and what was ended: half of the files.
    pub fn used(&self, pod: &str, part: &str) -> Option<Usage> {
        let own = self.layout.v2.join(&self.prefix).join(pod).join(part);
        // Of version 2, whatever its controllers: cpu.stat and the pressures are every group's.
        let cpu = read(&own, "cpu.stat");
        if cpu.is_none() && !own.is_dir() {
            return None;
        }
        let of = |controller: &str| self.control(controller, pod, part);
        let (memory, pids) = (of("memory"), of("pids"));
        let names = if self.layout.v1.contains_key("memory") {
            ("memory.usage_in_bytes", "total_inactive_file")
        } else {
            ("memory.current", "inactive_file")
        };
        let (read_bytes, written) = self.disk_bytes(&own, &of(BLKIO)).unzip();
        Some(Usage {
            cpu: cpu.and_then(|text| field(&text, "usage_usec")),
            memory: number(&memory, names.0),
            inactive: read(&memory, "memory.stat").and_then(|text| field(&text, names.1)),
            read: read_bytes,
            written,
            pids: number(&pids, "pids.current"),
            ..Usage::default()
        })
    }

    /// The directories of `pod/part` by which it is limited, one in each hierarchy.
    pub fn dirs(&self, pod: &str, part: &str) -> Vec<PathBuf> {
        let counts = self.layout.v1.get(BLKIO);
        let own = counts.map(|root| root.join(&self.prefix));
        let limits = self
            .roots()
            .into_iter()
            .filter(|root| Some(root) != own.as_ref());
        limits.map(|root| root.join(pod).join(part)).collect()
    }

    /// Has version 1 count what is read from and written to the disk that a folder is on. Since Linux 6.10 (`blk_throtl_activated`) it
    /// does so on a device only where some group has been given a rule for it, and no limit is a rule as well: it is given to
    /// Tank's own group. Where the folder is on no block device of its own, or version 2 counts, nothing is done.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn count_disk(&self, folder: &Path) -> Result<()> {
        let Some(root) = self.layout.v1.get(BLKIO) else {
            return Ok(());
        };
        let device = fs::metadata(folder)
            .doing(|| format!("look at {}", folder.display()))?
            .dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let Some(disk) = whole_disk(Path::new("/sys/dev/block"), major, minor) else {
            return Ok(());
        };
        let file = root
            .join(&self.prefix)
            .join("blkio.throttle.read_bps_device");
        fs::write(&file, format!("{disk} 0"))
            .doing(|| format!("have {disk} counted in {}", file.display()))
    }

    /// Bytes read and written, by the files of version 2 or of version 1, where it is mounted.
    fn disk_bytes(&self, own: &Path, blkio: &Path) -> Option<(u64, u64)> {
        if !self.layout.v1.contains_key(BLKIO) {
            return read(own, "io.stat").as_deref().map(io_bytes);
        }
        // What passes the block layer is counted by whoever throttles it, whatever the device's scheduler; a kernel without
        // that has the scheduler's count.
        let files = ["throttle", "bfq"].map(|of| format!("blkio.{of}.io_service_bytes_recursive"));
        let mut texts = files.iter().filter_map(|file| read(blkio, file));
        texts.next().as_deref().map(service_bytes)
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

/// `MAJOR:MINOR` of the disk that a device is, or is a part of. None: it is no block device.
fn whole_disk(devices: &Path, major: u32, minor: u32) -> Option<String> {
    let device = fs::canonicalize(devices.join(format!("{major}:{minor}"))).ok()?;
    let is_part = device.join("partition").exists();
    let disk = if is_part { device.parent()? } else { &device };
    let text = read_small(&disk.join("dev")).ok()?;
    Some(text.trim().to_owned())
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

/// `8:0 Read 4096` and `8:0 Write 0` of all devices (cgroup-v1, "blkio-controller").
fn service_bytes(text: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        let values = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (_device, what, bytes) = (words.next()?, words.next()?, words.next()?);
            (what == kind).then(|| bytes.parse::<u64>().ok())?
        });
        values.fold(0u64, u64::saturating_add)
    };
    (sum("Read"), sum("Write"))
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
    use std::{collections::BTreeMap, os::unix::fs::symlink};

    #[test]
    fn what_the_kernel_writes_is_read() {
        let io = "8:0 rbytes=90112 wbytes=4096 rios=22 wios=1 dbytes=0 dios=0\n\
                  253:1 rbytes=10 wbytes=0 rios=1 wios=0\n254:0 \n";
        assert_eq!(io_bytes(io), (90_122, 4_096));
        assert_eq!(io_bytes(""), (0, 0));
        let service = "8:0 Read 8192\n8:0 Write 4096\n8:0 Sync 12288\n8:0 Async 0\n8:0 Discard 0\n8:0 Total 12288\n\
                       253:0 Read 1\n253:0 Write x\nTotal 12289\n";
        assert_eq!(service_bytes(service), (8_193, 4_096));
        assert_eq!(service_bytes("Total 0\n"), (0, 0));
        let pressure =
            "some avg10=12.34 avg60=0.05 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00\n";
        assert_eq!(some_avg10(pressure), Some(1_234));
        assert_eq!(some_avg10("full avg10=1.00\n"), None);
        assert_eq!(some_avg10("some avg10=x\n"), None);
        assert_eq!(field("a 1\ninactive_file 7\n", "inactive_file"), Some(7));
        assert_eq!(field("inactive_file_more 7\n", "inactive_file"), None);
    }

    /// `/sys/dev/block` as the kernel has it.
    #[test]
    fn a_disk_is_found_by_what_is_on_it() {
        let root = std::env::temp_dir().join(format!("tank-disks-{}", std::process::id()));
        let make = |dir: &str, files: &[(&str, &str)]| {
            fs::create_dir_all(root.join(dir)).expect("a folder");
            for (name, text) in files {
                fs::write(root.join(dir).join(name), text).expect("a file");
            }
        };
        make("devices/sda", &[("dev", "8:0\n")]);
        make(
            "devices/sda/sda2",
            &[("dev", "8:2\n"), ("partition", "2\n")],
        );
        make("block", &[]);
        symlink("../devices/sda", root.join("block/8:0")).expect("a link");
        symlink("../devices/sda/sda2", root.join("block/8:2")).expect("a link");
        let of = |major, minor| whole_disk(&root.join("block"), major, minor);
        assert_eq!(of(8, 0).as_deref(), Some("8:0"));
        assert_eq!(of(8, 2).as_deref(), Some("8:0"));
        assert_eq!(of(0, 33), None);
        fs::remove_dir_all(&root).expect("removed");
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
        let used = Usage {
            memory_pressure: None,
            oom_kills: None,
            pids_limit: None,
            ..whole.clone()
        };
        assert_eq!(two.used("web", "app"), Some(used));
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
        assert_eq!(one.usage("web", "app"), Some(without.clone()));
        // With the controller of version 1 that counts what disks do: by whoever throttles, or else the scheduler.
        let mut layout = one.layout.clone();
        layout.v1.insert("blkio".to_owned(), root.join("one/blkio"));
        let one = Cgroups::new(layout, "tank");
        assert_eq!(one.usage("web", "app"), Some(without.clone()));
        let disks = [("bfq", 5, 6), ("throttle", 1, 2)];
        for (of, read, written) in disks {
            let file = format!("blkio.{of}.io_service_bytes_recursive");
            let text = format!(
                "8:0 Read {read}\n8:0 Write {written}\nTotal {}\n",
                read + written
            );
            write("one/blkio", &[(&file, &text)]);
            let expected = Usage {
                read: Some(read),
                written: Some(written),
                ..without.clone()
            };
            assert_eq!(one.usage("web", "app"), Some(expected));
        }
        fs::remove_dir_all(&root).expect("removed");
    }
}
