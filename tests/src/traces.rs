//! What Tank has on a host, and its end.

use crate::Host;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

impl Host {
    /// Everything Tank has on this host that is not in its store: processes, links, mounts, rules,
    /// cgroups, folders.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for group in self.cgroups() {
            let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            let state = if processes.is_empty() {
                "without"
            } else {
                "with"
            };
            traces.push(format!("cgroup {} {state} processes", group.display()));
        }
        traces.extend(self.links());
        let rules = self.inside("nft").args(["list", "ruleset"]).output();
        traces.extend(lines(&rules.expect("nft")));
        traces.extend(self.mounts());
        for dir in ["run/pods", "state/scratch", "state/images/tmp"] {
            let entries = fs::read_dir(self.dir.join(dir)).into_iter().flatten();
            // What is in a trash is on its way out, beside everything else.
            let kept = |entry: &fs::DirEntry| entry.file_name() != ".trash";
            for entry in entries.flatten().filter(kept) {
                traces.push(format!("folder {}", entry.path().display()));
            }
        }
        traces.sort();
        traces
    }

    fn links(&self) -> impl Iterator<Item = String> {
        let links = self.inside("ip").args(["-oneline", "link"]).output();
        let name = |line: String| line.split(": ").nth(1).map(|name| format!("link {name}"));
        let links = lines(&links.expect("ip")).into_iter().filter_map(name);
        links.filter(|name| name != "link lo")
    }

    fn mounts(&self) -> impl Iterator<Item = String> {
        let mounts = self.inside("cat").arg("/proc/mounts").output();
        let name = self.dir.display().to_string();
        let own = |line: &String| {
            let mut own = self.mounted.iter();
            own.any(|dir| line.contains(&format!(" {} ", dir.display())))
        };
        let strange = move |line: &String| line.contains(&name) || line.starts_with("none /");
        let mounts = lines(&mounts.expect("cat")).into_iter();
        mounts.filter(move |line| strange(line) && !own(line))
    }

    /// The directories below this host's own in every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let output = Command::new("find")
            .args([
                "/sys/fs/cgroup",
                "-mindepth",
                "2",
                "-type",
                "d",
                "-path",
                &format!("*/{}/*", self.cgroup),
            ])
            .output()
            .expect("find");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(PathBuf::from)
            .collect()
    }

    /// Switches to nothing and expects nothing to be left.
    #[track_caller]
    pub fn finish(self) {
        let pods = self.tank(&["--json", "list"]).json();
        if has_stacks(&pods) {
            std::fs::create_dir_all(self.dir.join("nothing")).expect("a folder");
            self.write("nothing/pods.ncl", "{}");
            self.tank(&["switch", "--host", "nothing"]).ok();
        } else {
            self.switch("{}");
        }
        let mut traces = self.traces();
        let deadline = Instant::now() + Duration::from_secs(5);
        // A network namespace is taken apart in the background.
        while !traces.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            traces = self.traces();
        }
        assert!(traces.is_empty(), "left behind: {traces:#?}");
    }
}

/// Whether a list has a pod that belongs to a stack: a switch of `{}` leaves such alone.
fn has_stacks(list: &serde_json::Value) -> bool {
    let pods = list["pods"].as_array().into_iter().flatten();
    pods.filter_map(|pod| pod["name"].as_str())
        .any(|name| name.contains(':'))
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- tankd ---\n{}", self.daemon_log());
        }
        for child in [self.daemon.take(), self.registry.take()]
            .into_iter()
            .flatten()
        {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
        }
        // A test that failed may leave its pods: their cgroup is this host's own.
        let _ = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "find /sys/fs/cgroup -maxdepth 2 -type d -name '{}' | while read -r group; do \
                 [ ! -e $group/cgroup.kill ] || echo 1 > $group/cgroup.kill; \
                 for i in 1 2 3 4 5 6 7 8 9 10; do find $group -depth -type d -exec rmdir {{}} + 2>/dev/null; \
                 [ -d $group ] || break; sleep 0.05; done; done",
                self.cgroup
            ))
            .status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
