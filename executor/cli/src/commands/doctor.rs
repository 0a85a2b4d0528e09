//! `tank doctor`: whether this host has what Tank needs, each answer with what to do about it.
//!
//! What only root can find out is shown to an ordinary user as unknown, and does not fail the
//! command.

use crate::{client::Client, error::Error, output};
use serde::Serialize;
use std::{borrow::Cow, fs, path::Path};
use tank_proto::varlink::{Method, StatusReply};
use tank_sys::nft::BaseChain;

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    /// None: this user can't find out.
    ok: Option<bool>,
    found: String,
    help: Option<Cow<'static, str>>,
}

fn finding(what: &'static str, ok: bool, found: impl Into<String>, help: &'static str) -> Finding {
    Finding {
        what,
        ok: Some(ok),
        found: found.into(),
        help: (!ok).then_some(Cow::Borrowed(help)),
    }
}

/// What this user can't find out, and why.
fn unknown(what: &'static str, found: impl Into<String>) -> Finding {
    Finding {
        what,
        ok: None,
        found: found.into(),
        help: Some("run `tank doctor` as root".into()),
    }
}

pub async fn doctor(socket: &Path, json: bool) -> Result<u8, Error> {
    let mut findings = vec![
        kernel(),
        cgroups(),
        user_namespaces(),
        filesystem("overlay", "load the module: `modprobe overlay`"),
        layers(),
        nftables(),
        connections(),
    ];
    findings.extend(others_rules());
    findings.extend(daemon(socket).await);
    let well = findings.iter().all(|finding| finding.ok != Some(false));
    if json {
        output::json(&serde_json::json!({ "ok": well, "findings": findings }))?;
    } else {
        for finding in &findings {
            let mark = match finding.ok {
                Some(true) => "ok  ",
                Some(false) => "FAIL",
                None => "?   ",
            };
            output::line(&format!("{mark}  {:<16} {}", finding.what, finding.found))?;
            if let Some(help) = &finding.help {
                output::line(&format!("      help: {help}"))?;
            }
        }
    }
    Ok(u8::from(!well))
}

/// The kernel's release, and the two numbers that it begins with.
fn release() -> (String, (u32, u32)) {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release, version)
}

fn kernel() -> Finding {
    let (release, version) = release();
    finding(
        "kernel",
        version >= (6, 1),
        release,
        "Linux 6.1 or later is needed",
    )
}

fn cgroups() -> Finding {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match tank_sys::cgroup::Layout::parse(&text) {
        Some(layout) if layout.v1.is_empty() => finding(
            "cgroups",
            true,
            format!("version 2 at {}", layout.v2.display()),
            "",
        ),
        Some(layout) => {
            let v1: Vec<&str> = layout.v1.keys().map(String::as_str).collect();
            finding(
                "cgroups",
                true,
                format!(
                    "hybrid: version 2 at {}, {} on version 1",
                    layout.v2.display(),
                    v1.join(", ")
                ),
                "",
            )
        }
        None => finding(
            "cgroups",
            false,
            "no version 2 hierarchy",
            "mount one: `mount -t cgroup2 none /sys/fs/cgroup`",
        ),
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn user_namespaces() -> Finding {
    let most = number("/proc/sys/user/max_user_namespaces").unwrap_or(0);
    finding(
        "user namespaces",
        most > 0,
        format!("at most {most}"),
        "raise the sysctl user.max_user_namespaces",
    )
}

/// Whether the kernel has a file system. Asked by root it loads the module.
fn filesystem(name: &'static str, help: &'static str) -> Finding {
    let known = fs::read_to_string("/proc/filesystems")
        .unwrap_or_default()
        .lines()
        .any(|line| line.ends_with(&format!("\t{name}")));
    let is_root = rustix::process::geteuid().is_root();
    match known || is_root && tank_sys::mount::knows(name) {
        true => finding(name, true, "known to the kernel", ""),
        false if is_root => finding(name, false, "not known to the kernel", help),
        false => unknown(name, "its module is not loaded"),
    }
}

/// How layers of images are mounted.
fn layers() -> Finding {
    let found = filesystem("erofs", "load the module: `modprobe erofs`");
    let mounts_files = release().1 >= (6, 12);
    let has_loop = Path::new("/dev/loop-control").exists();
    if found.ok != Some(true) || mounts_files || has_loop {
        return found;
    }
    finding(
        "erofs",
        false,
        "before Linux 6.12 it is mounted by loop devices, of which there are none",
        "load the module: `modprobe loop`",
    )
}

fn nftables() -> Finding {
    let families = tank_sys::nft::TableFamily::ALL.into_iter();
    let mut listed = families.map(|family| tank_sys::nft::list(family, "tank"));
    let listed = listed.try_for_each(|table| table.map(drop));
    match listed.and_then(|()| tank_sys::nft::missing_modules()) {
        Ok(missing) if missing.is_empty() => finding("nftables", true, "answers", ""),
        Ok(missing) => {
            let names = missing
                .iter()
                .map(|(module, why)| format!("`{module}` ({why})"));
            finding(
                "nftables",
                false,
                format!(
                    "these of its modules are missing: {}",
                    names.collect::<Vec<_>>().join(", ")
                ),
                "install the kernel's modules, and load these with `modprobe`: rules of Tank's need them",
            )
        }
        Err(error) if is_not_permitted(&error) => unknown(
            "nftables",
            "only root (CAP_NET_ADMIN) can ask for its rules",
        ),
        Err(error) => finding(
            "nftables",
            false,
            with_cause(&error),
            "load the module `nf_tables`, and run this as root",
        ),
    }
}

/// Flows of UDP are read and ended where published ports change.
fn connections() -> Finding {
    const WHAT: &str = "connections";
    match tank_sys::conntrack::udp(&|_| false) {
        Ok(_) => finding(WHAT, true, "answers", ""),
        Err(error) if is_not_permitted(&error) => {
            unknown(WHAT, "only root (CAP_NET_ADMIN) can ask for them")
        }
        Err(error) => finding(
            WHAT,
            false,
            with_cause(&error),
            "load the module: `modprobe nf_conntrack_netlink`",
        ),
    }
}

fn with_cause(error: &tank_sys::Error) -> String {
    let cause = std::error::Error::source(error);
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// What rules of others make of pods: they hold beside Tank's, at the hooks that a pod's packets pass.
fn others_rules() -> Vec<Finding> {
    const INPUT: u32 = 1;
    const FORWARD: u32 = 2;
    // Whoever may not ask was refused already.
    let chains = tank_sys::nft::filters().unwrap_or_default();
    let others = chains.iter().filter(|chain| chain.table != "inet tank");
    let names = |is: &dyn Fn(&BaseChain) -> bool| -> String {
        let names = others.clone().filter(|chain| is(chain));
        let names = names.map(|chain| format!("`{} {}`", chain.table, chain.name));
        names.collect::<Vec<_>>().join(", ")
    };
    let finding = |found: String, help| Finding {
        what: "others' rules",
        ok: None,
        found,
        help: Some(Cow::Borrowed(help)),
    };
    let mut findings = Vec::new();
    let closed = names(&|chain| chain.hook == FORWARD && chain.drops);
    if !closed.is_empty() {
        findings.push(finding(
            format!("what is forwarded is dropped unless a rule accepts it: {closed}"),
            "pods reach nobody outside, and nobody their ports, unless rules there accept what comes from and goes to the bridge",
        ));
    }
    let deaf = names(&|chain| chain.hook == INPUT && chain.drops);
    if !deaf.is_empty() {
        findings.push(finding(
            format!("what is for this host is dropped unless a rule accepts it: {deaf}"),
            "pods find nobody by name, unless a rule there accepts port 53, of UDP and TCP, from the bridge",
        ));
    }
    let input = names(&|chain| chain.hook == INPUT && (chain.drops || chain.has_rules));
    if !input.is_empty() {
        findings.push(finding(
            format!("what is for this host is filtered, which published ports are not: {input}"),
            "to close a published port, drop at the hook `forward`, by `meta l4proto tcp ct original proto-dst PORT`; or publish it on one address",
        ));
    }
    findings
}

/// Whether the kernel refused, with EPERM or EACCES, what this user asked for.
fn is_not_permitted(error: &tank_sys::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|source| source.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Whether the daemon answers, and what it knows of its host.
async fn daemon(socket: &Path) -> Vec<Finding> {
    let asked = async {
        let mut client = Client::connect(socket).await?;
        let status = client.call::<StatusReply>(Method::Status {}).await?;
        let advice = match status.low {
            Some(_) => super::disk::advice(&mut client).await,
            None => Vec::new(),
        };
        Ok::<_, Error>((status, advice))
    };
    match asked.await {
        Ok((status, advice)) => {
            let found = format!("{} answers at {}", status.version, socket.display());
            let mut findings = vec![finding("tankd", true, found, ""), volume_sizes(&status)];
            findings.extend(low_disk(&status, &advice));
            findings.extend(stuck(&status));
            findings
        }
        // It is there: nobody is refused by a socket that is not listened to.
        Err(Error::NotPermitted { socket }) => vec![unknown(
            "tankd",
            format!("this user may not ask it at {socket}: that takes root or the group `tank`"),
        )],
        Err(_) => vec![finding(
            "tankd",
            false,
            format!("does not answer at {}", socket.display()),
            "start it, as root: `tankd`",
        )],
    }
}

/// That little of the disk is free. A host whose disk fills is well until it is full.
fn low_disk(status: &StatusReply, advice: &[String]) -> Option<Finding> {
    let found = status.low.clone()?;
    Some(Finding {
        what: "disk",
        ok: None,
        found,
        help: (!advice.is_empty()).then(|| Cow::Owned(advice.join("; "))),
    })
}

/// What is to be removed and can't be, if there is any.
fn stuck(status: &StatusReply) -> Option<Finding> {
    let stuck = status.stuck.as_ref()?;
    let help =
        "something is mounted there, or the disk refuses; once that is over `tank gc` removes it";
    Some(finding("trash", false, stuck.join("; "), help))
}

/// Whether volumes can have a `size`. A host on which they can't is well all the same.
fn volume_sizes(status: &StatusReply) -> Finding {
    let what = "volume sizes";
    match &status.unlimited {
        None => finding(what, true, "held by project quotas", ""),
        Some(words) => Finding {
            what,
            ok: None,
            found: words.first().cloned().unwrap_or_default(),
            help: words.get(1).cloned().map(Cow::Owned),
        },
    }
}
