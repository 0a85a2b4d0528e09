//! Control groups: version 2, and where a host still has its controllers on version 1, those beside
//! it.
//!
//! Everything lives under one directory of Tank's own, `PREFIX/POD/CONTAINER`; that place is the
//! mark by which Tank knows what it made. On a hybrid host version 2 still groups the processes
//! (`cgroup.kill` ends a whole pod), and limits go to the version 1 controllers.

mod layout;
mod usage;

pub use layout::{Layout, detect};
pub use usage::Usage;

use crate::{Context, Result, read_small};
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The controllers Tank sets limits with.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// What the controllers of a group are set to. None: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ControllerLimits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Processes and threads together.
    pub pids: Option<u64>,
    /// Thousandths of one CPU.
    pub cpu: Option<u64>,
}

/// The name of a shim's group beside those of the containers, none of whose names begins like that.
const SHIM: &str = "_shim";

/// The bandwidth period, in microseconds: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;

/// Tank's part of the hierarchies.
#[derive(Clone, Debug)]
pub struct Cgroups {
    layout: Layout,
    prefix: String,
}

impl Cgroups {
    /// `prefix` is one directory name; everything below it is Tank's.
    pub fn new(layout: Layout, prefix: &str) -> Self {
        Self {
            layout,
            prefix: prefix.to_owned(),
        }
    }

    fn roots(&self) -> BTreeSet<PathBuf> {
        self.layout
            .v1
            .values()
            .chain([&self.layout.v2])
            .map(|root| root.join(&self.prefix))
            .collect()
    }

    /// Ensures Tank's own directories, and gives the one in version 2 with a file of it to be
    /// locked by whoever uses them: `cgroup.kill`, since nobody but root can open it.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn claim(&self) -> Result<(PathBuf, OwnedFd)> {
        for root in self.roots() {
            fs::create_dir_all(&root).doing(|| format!("make {}", root.display()))?;
        }
        let dir = self.layout.v2.join(&self.prefix);
        let path = dir.join("cgroup.kill");
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .doing(|| format!("open {}", path.display()))?;
        Ok((dir, file.into()))
    }

    /// The pod that a process is in, by its group of version 2.
    pub fn pod_of(&self, pid: i32) -> Option<String> {
        let text = read_small(format!("/proc/{pid}/cgroup").as_ref()).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let mut parts = path.split('/');
        (parts.next() == Some(&self.prefix)).then(|| parts.next().map(str::to_owned))?
    }

    /// Ensures `pod/part` exists in every hierarchy and opens the ways into it.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn ensure(&self, pod: &str, part: &str) -> Result<Entrance> {
        for root in self.roots() {
            self.make(&root, &root.join(pod).join(part))?;
        }
        self.open(pod, part, self.tasks(pod, part))
    }

    /// Ensures the groups of a pod's shim and opens the ways into them: one of its own beside the
    /// containers' in version 2, where a group with groups below holds no processes, and in version
    /// 1, where it may, the pod's.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn ensure_shim(&self, pod: &str) -> Result<Entrance> {
        let own = self.layout.v2.join(&self.prefix);
        for root in self.roots() {
            let dir = root.join(pod);
            self.make(&root, &if root == own { dir.join(SHIM) } else { dir })?;
        }
        self.open(pod, SHIM, self.shim_tasks(pod))
    }

    /// The `tasks` files of version 1 that a pod's shim belongs in.
    pub fn shim_tasks(&self, pod: &str) -> Vec<PathBuf> {
        self.v1_roots()
            .map(|root| root.join(&self.prefix).join(pod).join("tasks"))
            .collect()
    }

    fn open(&self, pod: &str, part: &str, tasks: Vec<PathBuf>) -> Result<Entrance> {
        let open = |path: PathBuf| -> Result<OwnedFd> {
            let file = OpenOptions::new()
                .write(true)
                .open(&path)
                .doing(|| format!("open {}", path.display()))?;
            Ok(file.into())
        };
        let own = self.layout.v2.join(&self.prefix).join(pod).join(part);
        Ok(Entrance {
            dir: crate::beneath::open_path(&own)?,
            procs: open(own.join("cgroup.procs"))?,
            tasks: tasks.into_iter().map(open).collect::<Result<_>>()?,
        })
    }

    /// The `tasks` files of `pod/part`, one in each hierarchy of version 1.
    pub fn tasks(&self, pod: &str, part: &str) -> Vec<PathBuf> {
        self.v1_roots()
            .map(|root| root.join(&self.prefix).join(pod).join(part).join("tasks"))
            .collect()
    }

    /// The hierarchies of version 1; one may have several controllers.
    fn v1_roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.layout.v1.values().collect::<BTreeSet<_>>().into_iter()
    }

    fn make(&self, root: &Path, leaf: &Path) -> Result<()> {
        match fs::create_dir(leaf) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            // What is above it comes first.
            Err(_) => fs::create_dir_all(leaf).doing(|| format!("make {}", leaf.display()))?,
        }
        if root.starts_with(&self.layout.v2) && !self.layout.limits_by_v1() {
            // Controllers reach a leaf only where every parent passes them on (cgroups(7),
            // "subtree_control").
            let parents = [
                self.layout.v2.as_path(),
                root,
                leaf.parent().unwrap_or(root),
            ];
            for parent in parents {
                self.delegate(parent)?;
            }
        }
        Ok(())
    }

    fn delegate(&self, parent: &Path) -> Result<()> {
        let file = parent.join("cgroup.subtree_control");
        let available = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
        let passed_on = fs::read_to_string(&file).unwrap_or_default();
        let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
        for name in CONTROLLERS
            .iter()
            .chain([&usage::IO])
            .filter(|name| has(&available, name) && !has(&passed_on, name))
        {
            match fs::write(&file, format!("+{name}")) {
                // It is for counting alone.
                Err(_) if *name == usage::IO => {}
                passed => passed.doing(|| format!("pass {name} on in {}", parent.display()))?,
            }
        }
        Ok(())
    }

    fn control(&self, controller: &str, pod: &str, part: &str) -> PathBuf {
        let root = self.layout.v1.get(controller).unwrap_or(&self.layout.v2);
        root.join(&self.prefix).join(pod).join(part)
    }

    /// Sets the limits of an existing group.
    ///
    /// # Errors
    /// What the kernel gives; a controller the host lacks is an error only where a limit is asked
    /// of it.
    pub fn set_limits(&self, pod: &str, part: &str, limits: &ControllerLimits) -> Result<()> {
        let v1 = |controller: &str| self.layout.v1.contains_key(controller);
        let text = |limit: Option<u64>, none: &str| {
            limit.map_or_else(|| none.to_owned(), |limit| limit.to_string())
        };
        let memory = if v1("memory") {
            ("memory.limit_in_bytes", "-1")
        } else {
            ("memory.max", "max")
        };
        self.write(
            "memory",
            pod,
            part,
            memory.0,
            &text(limits.memory, memory.1),
            limits.memory.is_some(),
        )?;
        self.write(
            "pids",
            pod,
            part,
            "pids.max",
            &text(limits.pids, "max"),
            limits.pids.is_some(),
        )?;
        let quota = limits.cpu.map(|cpu| cpu * CPU_PERIOD / 1000);
        if v1("cpu") {
            self.write(
                "cpu",
                pod,
                part,
                "cpu.cfs_quota_us",
                &text(quota, "-1"),
                quota.is_some(),
            )
        } else {
            let value = format!("{} {CPU_PERIOD}", text(quota, "max"));
            self.write("cpu", pod, part, "cpu.max", &value, quota.is_some())
        }
    }

    fn write(
        &self,
        controller: &str,
        pod: &str,
        part: &str,
        file: &str,
        value: &str,
        needed: bool,
    ) -> Result<()> {
        let path = self.control(controller, pod, part).join(file);
        match fs::write(&path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !needed => Ok(()),
            other => other.doing(|| format!("set {file} to {value} for {pod}/{part}")),
        }
    }

    /// The limits a group has now.
    pub fn limits(&self, pod: &str, part: &str) -> ControllerLimits {
        let read = |controller: &str, file: &str| {
            read_small(&self.control(controller, pod, part).join(file)).unwrap_or_default()
        };
        let number = |text: &str| {
            text.split_whitespace()
                .next()
                .and_then(|word| word.parse::<u64>().ok())
        };
        let v1 = |controller: &str| self.layout.v1.contains_key(controller);
        // Version 1 says "no limit" as the largest number of whole pages.
        let memory = number(&read(
            "memory",
            if v1("memory") {
                "memory.limit_in_bytes"
            } else {
                "memory.max"
            },
        ));
        let quota = number(&read(
            "cpu",
            if v1("cpu") {
                "cpu.cfs_quota_us"
            } else {
                "cpu.max"
            },
        ));
        ControllerLimits {
            memory: memory.filter(|bytes| *bytes < 1 << 62),
            pids: number(&read("pids", "pids.max")),
            cpu: quota.map(|quota| quota * 1000 / CPU_PERIOD),
        }
    }

    /// How many processes of a group the kernel has ended because it was out of memory.
    pub fn oom_kills(&self, pod: &str, part: &str) -> u64 {
        let file = if self.layout.v1.contains_key("memory") {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        let text = read_small(&self.control("memory", pod, part).join(file)).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
            .unwrap_or(0)
    }

    /// Whether somebody froze a group (cgroup version 2's own switch, which needs no controller).
    pub fn is_frozen(&self, pod: &str, part: &str) -> bool {
        read_small(&self.freezer(pod, part)).is_ok_and(|text| text.trim() == "1")
    }

    /// Lets a frozen group run on.
    ///
    /// # Errors
    /// What the kernel gives; a group that is not there, or can't be frozen (before Linux 5.2), is
    /// no error.
    pub fn thaw(&self, pod: &str, part: &str) -> Result<()> {
        match fs::write(self.freezer(pod, part), "0") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.doing(|| format!("thaw {pod}/{part}")),
        }
    }

    /// Whether somebody froze a pod's shim, alone or with the whole pod.
    pub fn is_shim_frozen(&self, pod: &str) -> bool {
        let freezers = self.shim_freezers(pod);
        let mut freezers = freezers.iter();
        freezers.any(|file| read_small(file).is_ok_and(|t| t.trim() == "1"))
    }

    /// The files by which a pod's shim is frozen: alone, and with the whole pod.
    pub fn shim_freezers(&self, pod: &str) -> [PathBuf; 2] {
        [self.freezer(pod, SHIM), self.freezer(pod, "")]
    }

    /// Lets a frozen shim run on, and the pod if that is frozen as a whole.
    ///
    /// # Errors
    /// As [`Cgroups::thaw`].
    pub fn thaw_shim(&self, pod: &str) -> Result<()> {
        self.thaw(pod, "")?;
        self.thaw(pod, SHIM)
    }

    fn freezer(&self, pod: &str, part: &str) -> PathBuf {
        self.layout
            .v2
            .join(&self.prefix)
            .join(pod)
            .join(part)
            .join("cgroup.freeze")
    }

    /// The pods that have a directory in any hierarchy.
    pub fn pods(&self) -> BTreeSet<String> {
        let mut pods = BTreeSet::new();
        for root in self.roots() {
            for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
                if is_dir(&entry) {
                    pods.extend(entry.file_name().into_string());
                }
            }
        }
        pods
    }

    /// The parts of a pod that have a directory in any hierarchy, without its shim's.
    pub fn parts(&self, pod: &str) -> BTreeSet<String> {
        let mut parts = BTreeSet::new();
        for root in self.roots() {
            for entry in fs::read_dir(root.join(pod))
                .into_iter()
                .flatten()
                .flatten()
                .filter(is_dir)
            {
                parts.extend(
                    entry
                        .file_name()
                        .into_string()
                        .ok()
                        .filter(|name| name != SHIM),
                );
            }
        }
        parts
    }

    /// Whether a part of a pod has a process.
    pub fn is_populated(&self, pod: &str, part: &str) -> bool {
        let dir = self.layout.v2.join(&self.prefix).join(pod).join(part);
        read_small(&dir.join("cgroup.procs")).is_ok_and(|pids| !pids.trim().is_empty())
    }

    /// Ends every process of one part of a pod and removes its groups. Groups that are not there
    /// are where the caller wanted them.
    ///
    /// # Errors
    /// As [`Cgroups::remove_pod`].
    pub fn remove_part(&self, pod: &str, part: &str) -> Result<()> {
        self.remove(&Path::new(pod).join(part))
    }

    /// Ends every process of a pod and removes its groups. A group that is not there is where the
    /// caller wanted it.
    ///
    /// # Errors
    /// What the kernel gives; `EBUSY` when processes outlive `SIGKILL` for more than five seconds.
    pub fn remove_pod(&self, pod: &str) -> Result<()> {
        self.remove(Path::new(pod))
    }

    fn remove(&self, group: &Path) -> Result<()> {
        let tree = self.layout.v2.join(&self.prefix).join(group);
        if tree.is_dir() {
            fs::write(tree.join("cgroup.kill"), "1")
                .doing(|| format!("kill what is left of {}", group.display()))?;
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        for root in self.roots() {
            remove_tree(&root.join(group), deadline)
                .doing(|| format!("remove the cgroups of {}", group.display()))?;
        }
        Ok(())
    }
}

/// What a process joins a group by, opened.
///
/// To move a process by writing to `cgroup.procs` takes a lock for which the kernel may wait an RCU
/// grace period (15 ms here), lest a thread is made meanwhile. A process that is cloned into the
/// group, or that moves its only thread, does not wait.
#[derive(Debug)]
pub struct Entrance {
    /// The directory in version 2, for [`crate::process::spawn`].
    pub dir: OwnedFd,
    /// The `cgroup.procs` there.
    pub procs: OwnedFd,
    /// The `tasks` files of version 1, for [`join`].
    pub tasks: Vec<OwnedFd>,
}

/// Joins the calling process, which has one thread, to groups by their `tasks` or `cgroup.procs`
/// files.
///
/// # Errors
/// What the kernel gives.
pub fn join(entrances: &[OwnedFd]) -> Result<()> {
    for entrance in entrances {
        rustix::io::write(entrance, b"0").doing(|| "join a cgroup")?;
    }
    Ok(())
}

/// Whether it is a directory, by the listing itself: a group has some forty files, and stat(2)
/// would be a call for each.
fn is_dir(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Removes directories from the bottom up. Processes that were just killed keep a group busy until
/// they have exited: it is tried again until `deadline`.
fn remove_tree(dir: &Path, deadline: Instant) -> io::Result<()> {
    let busy = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if busy(&error) => {}
        Err(error) => return Err(error),
    }
    // Busy with groups below it, or with processes.
    for child in fs::read_dir(dir)?.flatten().filter(is_dir) {
        remove_tree(&child.path(), deadline)?;
    }
    loop {
        match fs::remove_dir(dir) {
            Err(error) if busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}
