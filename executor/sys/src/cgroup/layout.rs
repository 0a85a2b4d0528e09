//! Where the hierarchies are mounted.

use super::{CONTROLLERS, usage::BLKIO};
use crate::{Context, Result};
use std::{collections::BTreeMap, fs, io, path::PathBuf};

/// Where the hierarchies are mounted. Pure data, read from `mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The version 2 hierarchy.
    pub v2: PathBuf,
    /// Version 1 hierarchies by controller; empty on a host of version 2 only.
    pub v1: BTreeMap<String, PathBuf>,
}

impl Layout {
    /// Reads the layout from the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)). None:
    /// there is no version 2 hierarchy at all.
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut v2 = None;
        let mut v1 = BTreeMap::new();
        for line in mountinfo.lines() {
            let Some((fields, rest)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = fields.split(' ').nth(4) else {
                continue;
            };
            let mut rest = rest.split(' ');
            match (rest.next(), rest.nth(1)) {
                (Some("cgroup2"), _) => v2 = v2.or_else(|| Some(PathBuf::from(point))),
                (Some("cgroup"), Some(options)) => {
                    let is_used = |option: &&str| CONTROLLERS.contains(option) || *option == BLKIO;
                    for option in options.split(',').filter(is_used) {
                        v1.entry(option.to_owned())
                            .or_insert_with(|| PathBuf::from(point));
                    }
                }
                _ => {}
            }
        }
        Some(Self { v2: v2?, v1 })
    }

    /// Whether limits are set in version 1, in whole or in part.
    pub fn limits_by_v1(&self) -> bool {
        CONTROLLERS.iter().any(|name| self.v1.contains_key(*name))
    }
}

/// Reads this process's layout.
///
/// # Errors
/// When there is no version 2 hierarchy.
pub fn detect() -> Result<Layout> {
    let text = fs::read_to_string("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo")?;
    Layout::parse(&text)
        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
        .doing(|| "find the cgroup version 2 hierarchy (is it mounted?)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn layouts_are_read_from_mountinfo() {
        let pure = "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = Layout::parse(pure).expect("has version 2");
        assert_eq!(
            layout,
            Layout {
                v2: "/sys/fs/cgroup".into(),
                v1: BTreeMap::new()
            }
        );

        // One controller that only counts makes no host of version 1.
        let counts = "32 1 0:27 / /sys/fs/cgroup/blkio rw - cgroup none rw,blkio\n";
        let layout = Layout::parse(&format!("{pure}{counts}")).expect("has version 2");
        assert_eq!(layout.v1["blkio"], Path::new("/sys/fs/cgroup/blkio"));
        assert!(!layout.limits_by_v1());

        let hybrid = "30 1 0:25 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n\
                      31 1 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup none rw,cpu,cpuacct\n\
                      32 1 0:27 / /sys/fs/cgroup/memory rw shared:3 - cgroup none rw,memory\n";
        let layout = Layout::parse(hybrid).expect("has version 2");
        assert_eq!(layout.v2, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(layout.v1["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(layout.v1["memory"], Path::new("/sys/fs/cgroup/memory"));
        assert!(layout.limits_by_v1());
        assert_eq!(Layout::parse("1 1 0:1 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
