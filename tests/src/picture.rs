//! A host as a picture: everything by which two hosts that were brought to the same state by
//! different ways may differ. Each line is exact. What is another number on every host stands under
//! the name of what it means: a process or a link of a pod under the pod's name, the host's own
//! folder and cgroup under `DIR` and `CGROUP`.

use crate::Host;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

/// What there is on a host, by kind.
pub type Picture = BTreeMap<&'static str, Vec<String>>;

/// A main process.
struct Process {
    /// `POD/CONTAINER`.
    name: String,
    pid: i64,
}

/// Takes the picture. None: something of it ended meanwhile.
pub fn picture(host: &Host) -> Option<Picture> {
    let list = host.tank(&["--json", "list"]).json();
    let pods = list["pods"].as_array().expect("pods");
    let mut processes = Vec::new();
    let mut shown = Vec::new();
    for pod in pods {
        let mut pod = pod.clone();
        let name = pod["name"].as_str().expect("a name").to_owned();
        for container in pod["containers"].as_array_mut().expect("containers") {
            // When it started and as which process is each run's own.
            let fields = container.as_object_mut().expect("fields");
            fields.remove("started");
            let process = format!("{name}/{}", fields["name"].as_str().expect("a name"));
            if let Some(pid) = fields
                .insert("pid".to_owned(), "PID".into())
                .as_ref()
                .and_then(|pid| pid.as_i64())
            {
                processes.push(Process { name: process, pid });
            }
        }
        shown.push(pod.to_string());
    }
    let mut names = BTreeMap::new();
    for process in &processes {
        let shim = field(&text(process.pid, "status")?, "PPid:");
        let pod = process.name.split('/').next().expect("a pod");
        names.insert(format!("tk{shim}"), format!("LINK-OF-{pod}"));
    }
    let renamed = |line: &str| named(line, host, &names);
    let mut picture = Picture::new();
    picture.insert("pods", shown);
    picture.insert(
        "inside",
        processes
            .iter()
            .map(|one| inside(one, &renamed))
            .collect::<Option<Vec<_>>>()?
            .concat(),
    );
    picture.insert(
        "cgroups",
        limits(host).iter().map(|line| renamed(line)).collect(),
    );
    picture.insert(
        "network",
        network(host).iter().map(|line| renamed(line)).collect(),
    );
    picture.insert(
        "traces",
        host.traces().iter().map(|line| renamed(line)).collect(),
    );
    picture.insert("folders", folders(host));
    picture.insert("diff", vec![host.tank(&["diff"]).stdout]);
    picture.values_mut().for_each(|lines| lines.sort());
    Some(picture)
}

/// What only one of two pictures has.
pub fn difference(one: &Picture, other: &Picture) -> Vec<String> {
    let lines = |picture: &Picture| -> Vec<String> {
        picture
            .iter()
            .flat_map(|(kind, lines)| lines.iter().map(move |line| format!("{kind}: {line}")))
            .collect()
    };
    let (one, other) = (lines(one), lines(other));
    let only = |a: &[String], b: &[String], sign: &str| -> Vec<String> {
        let mut rest = b.to_vec();
        let extra = a
            .iter()
            .filter(|line| match rest.iter().position(|known| known == *line) {
                Some(at) => {
                    rest.remove(at);
                    false
                }
                None => true,
            });
        extra.map(|line| format!("{sign} {line}")).collect()
    };
    [only(&one, &other, "+"), only(&other, &one, "-")].concat()
}

/// A line with what is this host's own named by its meaning: links of pods, the number of the link
/// at their other end, its folder, its cgroup.
fn named(line: &str, host: &Host, links: &BTreeMap<String, String>) -> String {
    let line = line
        .replace(&host.dir.display().to_string(), "DIR")
        .replace(&host.cgroup, "CGROUP");
    let mut out = String::new();
    let mut rest = line.as_str();
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        out += match links.get(word) {
            Some(name) => name,
            // `tk123@if2`: the kernel counts links as they come.
            None if out.ends_with('@')
                && word.starts_with("if")
                && word[2..].parse::<u32>().is_ok() =>
            {
                "PEER"
            }
            None => word,
        };
        let separator = after.chars().next().map_or(0, char::len_utf8);
        out += &after[..separator];
        rest = &after[separator..];
    }
    out
}

fn text(pid: i64, file: &str) -> Option<String> {
    fs::read(format!("/proc/{pid}/{file}"))
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', "\n"))
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// A process as the kernel and the process itself see it: what it runs with, where, and what is
/// around it.
fn inside(process: &Process, renamed: &impl Fn(&str) -> String) -> Option<Vec<String>> {
    let Process { name, pid } = process;
    let mut lines = Vec::new();
    for file in [
        "environ",
        "cmdline",
        "limits",
        "cgroup",
        "net/route",
        "uid_map",
        "gid_map",
    ] {
        lines.extend(
            text(*pid, file)?
                .lines()
                .map(|line| format!("{file}: {line}")),
        );
    }
    let status = text(*pid, "status")?;
    for key in [
        "Uid:",
        "Gid:",
        "Groups:",
        "CapEff:",
        "CapBnd:",
        "CapAmb:",
        "NoNewPrivs:",
        "Seccomp:",
    ] {
        lines.push(format!("{key} {}", field(&status, key)));
    }
    lines.extend(addresses_and_routes(*pid)?);
    for mount in text(*pid, "mountinfo")?.lines() {
        // Three numbers of the kernel's own come first.
        let fields: Vec<&str> = mount.split_whitespace().skip(3).collect();
        lines.push(format!("mount: {}", without_descriptors(&fields.join(" "))));
    }
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/n"] {
        if Path::new(&format!("/proc/{pid}/root/{file}")).exists() {
            lines.extend(
                text(*pid, &format!("root/{file}"))?
                    .lines()
                    .map(|line| format!("{file}: {line}")),
            );
        }
    }
    Some(
        lines
            .into_iter()
            .map(|line| format!("{name}: {}", renamed(&line)))
            .collect(),
    )
}

/// Addresses and routes, as a process sees them, without what is counted or numbered.
fn addresses_and_routes(pid: i64) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    // The second column is the number of the link.
    for address in text(pid, "net/if_inet6")?.lines() {
        let fields: Vec<&str> = address.split_whitespace().collect();
        lines.push(format!(
            "if_inet6: {} {} {} {} {}",
            fields[0], fields[2], fields[3], fields[4], fields[5]
        ));
    }
    // Columns six and seven count who uses a route, and how often it was used.
    for route in text(pid, "net/ipv6_route")?.lines() {
        let fields: Vec<&str> = route.split_whitespace().collect();
        lines.push(format!(
            "ipv6_route: {} {}",
            fields[..6].join(" "),
            fields[8..].join(" ")
        ));
    }
    let tree = text(pid, "net/fib_trie")?;
    let local = |pair: (&str, &str)| {
        pair.1
            .contains("host LOCAL")
            .then(|| pair.0.trim().to_owned())
    };
    lines.extend(tree.lines().zip(tree.lines().skip(1)).filter_map(local));
    Some(lines)
}

/// Layers were mounted from descriptors: `/proc/self/fd/7`, whichever was free then.
fn without_descriptors(line: &str) -> String {
    let mut parts = line.split("/proc/self/fd/");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += "/proc/self/fd/FD";
        out += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out
}

/// Every limit in the cgroups of the host's pods, in each hierarchy.
fn limits(host: &Host) -> Vec<String> {
    const FILES: [&str; 8] = [
        "pids.max",
        "memory.max",
        "memory.limit_in_bytes",
        "cpu.max",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
        "cgroup.freeze",
        "cgroup.type",
    ];
    let mut lines = Vec::new();
    for group in host.cgroups() {
        for file in FILES {
            if let Ok(value) = fs::read_to_string(group.join(file)) {
                lines.push(format!("{}/{file}: {}", group.display(), value.trim()));
            }
        }
    }
    lines
}

/// The host's own side of the network: addresses, routes, ports of the bridge, the rules.
fn network(host: &Host) -> Vec<String> {
    let lines = |program: &str, args: &[&str]| -> Vec<String> {
        let output: Output = host.inside(program).args(args).output().expect(program);
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let mut found = Vec::new();
    // Without the number of the link at the begin, and without a link's own random hardware
    // address.
    let unnumbered = |line: &String| {
        line.split_once(": ")
            .map_or(line.clone(), |(_, rest)| rest.to_owned())
    };
    for args in [
        &["-oneline", "-4", "addr"][..],
        &[
            "-oneline", "-6", "addr", "show", "dev", "tank0", "scope", "global",
        ],
    ] {
        found.extend(lines("ip", args).iter().map(unnumbered));
    }
    let ports = lines("ip", &["-oneline", "link", "show", "type", "veth"]);
    found.extend(ports.iter().map(unnumbered).map(|line| {
        line.split("\\    link/ether")
            .next()
            .expect("a line")
            .to_owned()
    }));
    found.extend(lines("ip", &["-4", "route"]));
    found.extend(lines("ip", &["-6", "route", "show", "dev", "tank0"]));
    for setting in [
        "net/ipv4/ip_forward",
        "net/ipv6/conf/all/forwarding",
        "net/ipv4/conf/tank0/route_localnet",
    ] {
        found.extend(
            lines("cat", &[&format!("/proc/sys/{setting}")])
                .iter()
                .map(|value| format!("{setting} {value}")),
        );
    }
    found
}

/// The names in the folders of running pods, and of their upper layers. When a pod ran is kept until its log is collected,
/// also of one that is gone, and does not count.
fn folders(host: &Host) -> Vec<String> {
    let find = "find run -printf '%p %y %m %U:%G\\n'; find state/scratch -maxdepth 4 -printf '%p %y %m %U:%G\\n'; \
                find state/volumes -printf '%p %y %m %U:%G\\n'; \
                find state/logs -maxdepth 0 -printf '%p %y %m %U:%G\\n'; \
                for pod in state/logs/*; do ls $pod | grep -qv '[.]runs$' && \
                find $pod ! -name '*.runs' -printf '%p %y %m %U:%G\\n'; done";
    let output = Command::new("sh")
        .args(["-c", find])
        .current_dir(&host.dir)
        .output()
        .expect("sh");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}
