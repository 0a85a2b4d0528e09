//! Everything a container is started with, from its node and its image: the pure rules first, then
//! the mounts.

use crate::{
    actuate::Actuator,
    actuate::sources::{self, Kind},
    actuate::user,
    actuate::{files, layers},
    pods::{Shim, fail, failure},
};
use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};
use tank_model::{Digest, Graph, Name, graph::ContainerNode, host_files::WITHHELD, spec};
use tank_plan::Step;
use tank_proto::shim::{Failure, MAX_BESIDE, MAX_DESCRIPTORS, Reply, Request, StartSpec, WITH_IDS};
use tank_sys::{
    mount::{self, attr},
    packet, privilege, process,
};
use tokio::task::JoinHandle;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line by the rules container users know: `command` replaces the entry point and with
/// it the image's arguments, `args` replaces the image's arguments.
pub fn argv(node: &ContainerNode, entrypoint: &[String], cmd: &[String]) -> Vec<String> {
    let program = node.command.as_deref().unwrap_or(entrypoint);
    let args = match (&node.args, &node.command) {
        (Some(args), _) => args.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => cmd,
    };
    program.iter().chain(args).cloned().collect()
}

/// The environment: the image's, then the pod's, then what nobody set and every program expects.
pub fn environment(
    image: &[String],
    node: &BTreeMap<String, String>,
    hostname: &str,
    home: &str,
    tty: bool,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: &str| match env.iter_mut().find(|(known, _)| known == key) {
        Some(known) => known.1 = value.to_owned(),
        None => env.push((key.to_owned(), value.to_owned())),
    };
    set("PATH", DEFAULT_PATH);
    set("HOSTNAME", hostname);
    set("HOME", home);
    if tty {
        set("TERM", "xterm");
    }
    for (key, value) in image.iter().filter_map(|entry| entry.split_once('=')) {
        set(key, value);
    }
    for (key, value) in node {
        set(key, value);
    }
    env
}

/// The bounding set: the default one, less what is dropped (`ALL` drops everything), plus what is
/// added, less what is withheld where files of the host are written.
pub fn capabilities(declared: &spec::Capabilities, writes_host: bool) -> Vec<String> {
    let all = declared.drop.iter().any(|name| name == "ALL");
    let default = privilege::DEFAULT_CAPABILITIES
        .iter()
        .map(|name| (*name).to_owned());
    let mut set: Vec<String> = default
        .filter(|name| !all && !declared.drop.contains(name))
        .collect();
    set.extend(declared.add.iter().cloned());
    set.retain(|name| !writes_host || !WITHHELD.contains(&name.as_str()));
    set.sort();
    set.dedup();
    set
}

/// Where a program begins: what the pod says, or else the image, or else `/`. What an image says
/// has to be absolute, too: a relative one means a place that depends on where a process happens to
/// be.
///
/// # Errors
/// What is wrong with the image's.
pub fn working_dir<'a>(
    declared: Option<&'a str>,
    image: Option<&'a str>,
) -> Result<&'a str, String> {
    match declared.or(image).filter(|dir| !dir.is_empty()) {
        None => Ok("/"),
        Some(dir) if dir.starts_with('/') => Ok(dir),
        Some(dir) => Err(format!("its working directory `{dir}` is not absolute")),
    }
}

/// What a container's start needs beside its node.
struct Parts {
    fds: Vec<OwnedFd>,
}

impl Parts {
    /// Keeps a descriptor and gives its place.
    fn push(&mut self, fd: OwnedFd) -> usize {
        self.fds.push(fd);
        self.fds.len() - 1
    }
}

/// A container that is about to start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    pub pod: Name,
    pub container: Name,
    pub hash: Digest,
    pub attempt: u32,
}

impl Start {
    /// The container that a step starts.
    pub fn of(step: &Step) -> Option<Self> {
        let Step::StartContainer {
            pod,
            container,
            hash,
            attempt,
        } = step
        else {
            return None;
        };
        Some(Self {
            pod: pod.clone(),
            container: container.clone(),
            hash: *hash,
            attempt: *attempt,
        })
    }
}

/// Everything a start needs, as it becomes ready on a thread of its own.
pub type Prepared = JoinHandle<Result<(StartSpec, Vec<OwnedFd>), Failure>>;

/// Mounts and makes what a container needs: all of that can be done while its pod is being
/// connected. The pod's shim has to be there, and its namespaces known.
pub fn prepare_ahead(host: &Arc<Actuator>, graph: &Arc<Graph>, start: &Start) -> Prepared {
    let (host, graph, start) = (Arc::clone(host), Arc::clone(graph), start.clone());
    tokio::task::spawn_blocking(move || {
        let _span = host
            .timings
            .span(|| format!("{}/{}: mount what it needs", start.pod, start.container));
        prepare(&host, &graph, &start)
    })
}

/// Starts a container.
pub async fn start(
    host: &Arc<Actuator>,
    start: &Start,
    prepared: Prepared,
) -> Result<i32, Failure> {
    let Start { pod, container, .. } = start;
    let shim = host
        .pods
        .get(pod)
        .ok_or_else(|| fail("start a container", "its shim is gone"))?;
    let (mut spec, mut fds) = prepared
        .await
        .map_err(|e| fail("prepare a container", e))??;
    if fds.len() > MAX_BESIDE {
        bundle(&shim, &mut spec, &mut fds).await?;
    }
    let text = serde_json::to_vec(&spec).map_err(|e| fail("write a specification", e))?;
    let sealed = packet::sealed("start", &text).map_err(|e| failure(&e))?;
    let all: Vec<_> = std::iter::once(sealed.as_fd())
        .chain(fds.iter().map(AsFd::as_fd))
        .collect();
    let started = shim.request(&Request::Start, &all).await;
    let stale = layers::stale(host, pod, container);
    // What can't be removed is tried again at the next start, and when the pod goes.
    drop(tokio::task::spawn_blocking(move || {
        layers::remove_dir(&stale)
    }));
    match started? {
        (Reply::Started { pid, spans }, _) => {
            host.timings.add(&format!("{pod}/{container}"), spans);
            Ok(pid)
        }
        (other, _) => Err(crate::pods::unexpected(&other)),
    }
}

/// Puts the descriptors that are too many for a packet into a socket that takes their place.
async fn bundle(shim: &Shim, spec: &mut StartSpec, fds: &mut Vec<OwnedFd>) -> Result<(), Failure> {
    let count = fds.len();
    let refuse = |why: String| {
        Err(fail(
            format!("hand {count} mounts and cgroups to the pod's shim"),
            why,
        ))
    };
    if count > MAX_DESCRIPTORS {
        return refuse(format!(
            "{MAX_DESCRIPTORS} is the most; mount fewer volumes in one container"
        ));
    }
    if shim.state().await?.version < WITH_IDS {
        return refuse(format!(
            "it is of an older Tank, for which {MAX_BESIDE} is the most; delete the pod and switch again"
        ));
    }
    let rest = fds.split_off(MAX_BESIDE - 1);
    fds.push(packet::bundle(&packet::borrow(&rest)).map_err(|e| failure(&e))?);
    spec.descriptors = Some(count);
    Ok(())
}

fn prepare(
    host: &Actuator,
    graph: &Graph,
    start: &Start,
) -> Result<(StartSpec, Vec<OwnedFd>), Failure> {
    let Start {
        pod,
        container,
        hash,
        attempt,
    } = start;
    let shim = host
        .pods
        .get(pod)
        .ok_or_else(|| fail("start a container", "its shim is gone"))?;
    let (node, _) = graph
        .process(pod, container)
        .ok_or_else(|| fail("start a container", "it is not declared"))?;
    let (sandbox, _) = graph
        .sandbox(pod)
        .ok_or_else(|| fail("start a container", "its pod is not declared"))?;
    let digest = graph
        .image(&node.image)
        .ok_or_else(|| fail("start a container", "its image has no digest"))?;
    let image = host
        .images
        .find(digest)
        .map_err(|e| fail(format!("use the image {}", node.image), e.message()))?;
    let unknown = || {
        fail(
            "start a container",
            "nobody has asked for its pod's namespaces",
        )
    };
    let user_namespace = shim.known_namespaces().ok_or_else(unknown)?.user.as_fd();
    let base = host.id_base(pod).map_err(|e| fail("lease ids", e))?;
    let mut parts = Parts { fds: Vec::new() };
    let root = layers::root_mount(host, &image, pod, container, user_namespace, base)?;

    let config = image.config.config().clone().unwrap_or_default();
    let read = |path: &str| layers::read_in_root(&root, path);
    let spec = node
        .user
        .clone()
        .or_else(|| config.user().clone())
        .unwrap_or_default();
    let resolved = user::resolve(&spec, &read("etc/passwd"), &read("etc/group"))
        .map_err(|e| fail("find the user", e))?;
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let argv = argv(&node, &list(config.entrypoint()), &list(config.cmd()));
    if argv.is_empty() {
        return Err(fail(
            "start a container",
            "neither it nor its image names a command",
        ));
    }
    let stop = graph.lifecycle(pod, container).stop;
    let signal = stop.signal.or_else(|| config.stop_signal().clone());
    let cwd = working_dir(node.working_dir.as_deref(), config.working_dir().as_deref());
    let cwd = cwd
        .map_err(|e| fail(format!("use the image {}", node.image), e))?
        .to_owned();

    let root = parts.push(root);
    let mut mounts = volumes(host, graph, pod, &node, user_namespace, base)?;
    mounts.sort_by(|a, b| a.1.cmp(&b.1));
    let mounts = mounts
        .into_iter()
        .map(|(fd, path)| (parts.push(fd), path))
        .collect();
    let (files, entries) = files::mount(host, graph, pod, container, &node, base)?;
    let files = Some((parts.push(files), entries));
    let cgroup = host
        .cgroups
        .ensure(pod.as_str(), container.as_str())
        .map_err(|e| failure(&e))?;
    let into = Some(parts.push(cgroup.dir));
    let cgroup = cgroup
        .tasks
        .into_iter()
        .chain([cgroup.procs])
        .map(|fd| parts.push(fd))
        .collect();
    set_limits(
        host,
        pod,
        container,
        &tank_plan::planner::effective_limits(&graph.limits(pod, container)),
    )?;

    let writes_host = graph.writes_host(pod);
    let start = StartSpec {
        name: container.to_string(),
        hash: hash.to_string(),
        attempt: *attempt,
        argv,
        env: environment(
            &list(config.env()),
            &node.env,
            &sandbox.hostname,
            &resolved.home,
            node.tty,
        ),
        cwd,
        user: resolved.user,
        tty: node.tty,
        read_only: node.read_only,
        bounding: capabilities(&node.capabilities, writes_host),
        ambient: node.capabilities.add.clone(),
        stop_signal: signal
            .and_then(|name| process::signal_number(&name))
            .unwrap_or(process::SIGTERM),
        stop_timeout: stop.timeout.unwrap_or(spec::DEFAULT_STOP_TIMEOUT).0,
        root,
        mounts,
        files,
        cgroup,
        into,
        descriptors: None,
        ulimits: node
            .ulimits
            .iter()
            .map(|(name, limit)| (name.clone(), amount(limit.soft), amount(limit.hard)))
            .collect(),
        seccomp: seccomp(&node.seccomp, writes_host)?,
        devices: node
            .devices
            .values()
            .map(|declared| device(host, declared))
            .collect::<Result<_, Failure>>()?,
        timed: host.timings.is_on(),
    };
    Ok((start, parts.fds))
}

fn amount(amount: spec::Amount) -> Option<u64> {
    match amount {
        spec::Amount::Of(number) => Some(number),
        spec::Amount::Unlimited => None,
    }
}

fn seccomp(
    declared: &spec::Seccomp,
    no_set_id: bool,
) -> Result<tank_proto::shim::Seccomp, Failure> {
    let numbers = |names: &[String]| -> Result<Vec<i64>, Failure> {
        let number = |name: &String| {
            let number = tank_sys::seccomp::number(name);
            number.ok_or_else(|| {
                fail(
                    "filter system calls",
                    format!("`{name}` is none of this machine's"),
                )
            })
        };
        names.iter().map(number).collect()
    };
    Ok(tank_proto::shim::Seccomp {
        unconfined: declared.profile == spec::SeccompProfile::Unconfined,
        allow: numbers(&declared.allow)?,
        deny: numbers(&declared.deny)?,
        no_set_id,
    })
}

/// What a device is on this host. No link is followed: it could lead to another one tomorrow.
fn device(host: &Actuator, declared: &spec::Device) -> Result<tank_proto::shim::Device, Failure> {
    let found = host.sources.device(&declared.path);
    let found = found.map_err(|why| fail(format!("use the device `{}`", declared.path), why))?;
    Ok(tank_proto::shim::Device {
        path: declared.to.clone().unwrap_or_else(|| declared.path.clone()),
        block: found.block,
        major: rustix::fs::major(found.number),
        minor: rustix::fs::minor(found.number),
        read_only: declared.read_only,
    })
}

/// Sets a container's limits in its cgroups.
pub fn set_limits(
    host: &Actuator,
    pod: &Name,
    container: &Name,
    limits: &spec::Limits,
) -> Result<(), Failure> {
    let limits = tank_sys::cgroup::ControllerLimits {
        memory: limits.memory.map(|memory| memory.0),
        pids: limits.pids.map(u64::from),
        cpu: limits.cpu.map(|cpu| u64::from(cpu.0)),
    };
    host.cgroups
        .set_limits(pod.as_str(), container.as_str(), &limits)
        .map_err(|e| failure(&e))
}

fn volumes(
    host: &Actuator,
    graph: &Graph,
    pod: &Name,
    node: &ContainerNode,
    user_namespace: std::os::fd::BorrowedFd<'_>,
    base: u32,
) -> Result<Vec<(OwnedFd, String)>, Failure> {
    let mut mounts = Vec::new();
    for at in node.mounts.values() {
        let volume = graph
            .volume(pod, &at.volume)
            .ok_or_else(|| fail("mount a volume", "it is not declared"))?;
        let own = attr::NOSUID | attr::NODEV;
        let fd = if let Some(size) = volume.tmpfs {
            let (size, owner) = (size.0.to_string(), base.to_string());
            let options = [
                ("size", size.as_str()),
                ("mode", "1777"),
                ("uid", owner.as_str()),
                ("gid", owner.as_str()),
            ];
            mount::filesystem("tmpfs", &options, own).map_err(|e| failure(&e))?
        } else {
            let fd = match &volume.host {
                Some(path) => host_volume(host, graph, path, at)?,
                None => {
                    let path = host.settings.volume_dir(pod.as_str(), at.volume.as_str());
                    fs::create_dir_all(&path)
                        .map_err(|e| fail(format!("make the volume {}", at.volume), e))?;
                    mount::clone_tree(&path, false).map_err(|e| failure(&e))?
                }
            };
            mount::idmap(fd.as_fd(), user_namespace).map_err(|e| failure(&e))?;
            fd
        };
        let attributes = if at.read_only {
            own | attr::RDONLY
        } else {
            own
        };
        mount::restrict(fd.as_fd(), attributes, false).map_err(|e| failure(&e))?;
        mounts.push((fd, at.path.clone()));
    }
    Ok(mounts)
}

/// A detached mount of a directory of the host.
fn host_volume(
    host: &Actuator,
    graph: &Graph,
    path: &str,
    at: &spec::Mount,
) -> Result<OwnedFd, Failure> {
    let what = || format!("use the volume `{}`", at.volume);
    let opened = host
        .sources
        .open_at(path, Kind::Directory, || sources::writable(&graph.config()));
    let (place, opened) = opened.map_err(|why| fail(what(), why))?;
    if !at.read_only {
        host.sources
            .add_writable(&opened)
            .map_err(|why| fail(what(), why))?;
    }
    mount::clone_place(place.as_fd(), false).map_err(|e| failure(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(command: Option<&[&str]>, args: Option<&[&str]>) -> ContainerNode {
        let own = |list: &[&str]| {
            list.iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let json =
            serde_json::json!({ "image": "x", "command": command.map(own), "args": args.map(own) });
        serde_json::from_value(json).expect("a node")
    }

    #[test]
    fn command_lines_follow_the_oci_rules() {
        let (entry, cmd) = (["entry".to_owned()], ["cmd".to_owned()]);
        let line = |command, args| argv(&node(command, args), &entry, &cmd).join(" ");
        assert_eq!(line(None, None), "entry cmd");
        assert_eq!(line(None, Some(&["mine"][..])), "entry mine");
        assert_eq!(line(Some(&["run"][..]), None), "run");
        assert_eq!(line(Some(&["run"][..]), Some(&["mine"][..])), "run mine");
        assert_eq!(line(None, Some(&[][..])), "entry");
    }

    #[test]
    fn the_pod_environment_wins_over_the_image() {
        let image = ["PATH=/image".to_owned(), "A=1".to_owned()];
        let mine = BTreeMap::from([("A".to_owned(), "2".to_owned())]);
        let env = environment(&image, &mine, "web", "/root", true);
        let get = |key: &str| {
            env.iter()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!((get("PATH"), get("A")), (Some("/image"), Some("2")));
        assert_eq!(
            (get("HOSTNAME"), get("HOME"), get("TERM")),
            (Some("web"), Some("/root"), Some("xterm"))
        );
    }

    #[test]
    fn a_working_directory_is_absolute_whoever_names_it() {
        assert_eq!(working_dir(None, None), Ok("/"));
        assert_eq!(working_dir(None, Some("")), Ok("/"));
        assert_eq!(working_dir(None, Some("/srv")), Ok("/srv"));
        assert_eq!(working_dir(Some("/mine"), Some("srv")), Ok("/mine"));
        assert!(working_dir(None, Some("srv")).is_err());
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let declared = |add: &[&str], drop: &[&str]| spec::Capabilities {
            add: add.iter().map(|name| (*name).to_owned()).collect(),
            drop: drop.iter().map(|name| (*name).to_owned()).collect(),
        };
        let usual = |add: &[&str], drop: &[&str]| capabilities(&declared(add, drop), false);
        assert_eq!(usual(&[], &[]).len(), privilege::DEFAULT_CAPABILITIES.len());
        assert_eq!(usual(&["CAP_NET_RAW"], &["ALL"]), ["CAP_NET_RAW"]);
        assert!(!usual(&[], &["CAP_KILL"]).contains(&"CAP_KILL".to_owned()));
        let withheld = capabilities(&declared(&["CAP_SYS_ADMIN", "CAP_NET_RAW"], &[]), true);
        assert_eq!(
            withheld.len(),
            privilege::DEFAULT_CAPABILITIES.len() - 2 + 1
        );
        assert!(
            !withheld
                .iter()
                .any(|name| WITHHELD.contains(&name.as_str())),
            "{withheld:?}"
        );
    }
}
