//! What a pod and its containers are started with: the rules that container users know from OCI
//! images, and the policy on what a process may do.

use crate::target::{
    ImageConfig, Mount, NulField, Target, TargetError, User, signal,
    user::{self, Resolved},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use tank_model::{
    Digest, Name,
    graph::ContainerNode,
    host_files::WITHHELD,
    reference::Reference,
    spec::{self, DEFAULT_PIDS, Limits, Network},
    units::Bytes,
};

/// The capabilities a container's root has where its configuration adds and drops none: Docker's
/// set without `NET_RAW`, `MKNOD` and `AUDIT_WRITE`. All of them count only against what the pod's
/// own user namespace owns.
pub const DEFAULT_CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the kernel counts memory in, in bytes.
const PAGE_BYTES: u64 = 4096;

/// The namespaces of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Of its UTS namespace; at most 64 bytes.
    pub hostname: String,
    /// The host's id of the pod's root.
    pub id_base: u32,
    /// Whether it has a network namespace of its own, rather than the host's.
    pub own_network: bool,
    /// Whether its loopback is set up with it: where it gets no link, which would do that.
    pub loopback: bool,
    /// The settings of its namespaces, by their dotted names.
    pub sysctls: BTreeMap<String, String>,
    /// More of them, where the kernel has them.
    pub default_sysctls: BTreeMap<String, String>,
}

/// Everything a container is started with. Names stand for what only the kernel's headers number
/// (capabilities, system calls, limits); secrets are named and never held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// What its root file system is made from.
    pub image: Image,
    /// Whether it runs before the pod's containers, and to its end.
    pub init: bool,
    /// The program and its arguments; never empty.
    pub argv: Vec<String>,
    /// In order, each name once.
    pub env: Vec<(String, String)>,
    /// Absolute, in the container.
    pub cwd: String,
    /// Who its main process is.
    pub user: User,
    /// Whether its streams are a terminal.
    pub tty: bool,
    /// Whether its root is mounted read-only.
    pub read_only: bool,
    /// The capabilities a process of it may ever have, sorted.
    pub bounding: Vec<String>,
    /// Those that its main process has whoever it is.
    pub ambient: Vec<String>,
    /// By its number.
    pub stop_signal: i32,
    /// Milliseconds from the signal to `SIGKILL`.
    pub stop_timeout: u64,
    /// In the order of their paths: what is mounted below another comes after it.
    pub mounts: Vec<Mount>,
    /// What is written into it, by absolute path.
    pub files: BTreeMap<String, File>,
    /// What is copied into its memory from files of the host.
    pub secrets: BTreeMap<Name, spec::Secret>,
    /// Whom those belong to that are not root's: user and group, by the ids of the pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_owners: BTreeMap<Name, (u32, u32)>,
    /// Of its cgroup, as [`effective_limits`] has them.
    pub limits: Limits,
    /// By the name setrlimit(2) has for it, in lower case: `nofile`.
    pub ulimits: BTreeMap<String, spec::Ulimit>,
    /// What is kept of its output.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logs: spec::Logs,
    /// Which system calls it may make.
    pub seccomp: spec::Seccomp,
    /// Devices of the host that it sees.
    pub devices: Vec<Device>,
    /// The host's id of the pod's root.
    pub id_base: u32,
    /// Whether a container of its pod writes files of the host: it may then set no bit on a file
    /// that gives its rights away (set-user-id).
    pub writes_host: bool,
}

fn is_default(logs: &spec::Logs) -> bool {
    *logs == spec::Logs::default()
}

/// An image by the name it was declared with, and what that stood for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Image {
    /// As the configuration has it.
    pub name: Reference,
    /// What that name was resolved to.
    pub digest: Digest,
}

/// A file that is written into a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct File {
    /// Its whole content.
    pub text: String,
    /// Permission bits.
    pub mode: spec::Mode,
}

/// A device of the host that a container sees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Absolute, on the host.
    pub source: String,
    /// Absolute, in the container.
    pub path: String,
    /// Whether the container may only read it.
    pub read_only: bool,
}

impl Target<'_> {
    /// The namespaces of a pod.
    ///
    /// # Errors
    /// When they can't be made from what is declared.
    pub fn sandbox(&self, pod: &Name) -> Result<SandboxSpec, TargetError> {
        let (node, _) = self.graph.sandbox(pod).ok_or(TargetError::NotDeclared)?;
        super::network::refuse_host_sysctls(node)?;
        Ok(SandboxSpec {
            hostname: node.hostname.clone(),
            id_base: self.id_base(pod)?,
            own_network: node.network != Network::Host,
            loopback: matches!(node.network, Network::None | Network::Nics(_)),
            sysctls: node.sysctls.clone(),
            default_sysctls: self.default_sysctls(pod)?,
        })
    }

    /// Somebody else in a container, `user[:group]` by the names of its image or numbers.
    ///
    /// # Errors
    /// When the container is not declared, or its image knows no such user.
    pub fn user_of(&self, pod: &Name, name: &Name, user: &str) -> Result<Resolved, TargetError> {
        let (node, _) = self
            .graph
            .process(pod, name)
            .ok_or(TargetError::NotDeclared)?;
        let image = || Box::new(node.image.clone());
        let digest = self.graph.image(&node.image);
        let digest = digest.ok_or_else(|| TargetError::NoDigest { image: image() })?;
        let config = self.images.get(&digest);
        let config = config.ok_or_else(|| TargetError::NoImage { image: image() })?;
        user::resolve(user, &config.passwd, &config.group)
            .map_err(|why| TargetError::NoUser { why })
    }

    /// Everything a container, or what runs before them, is started with.
    ///
    /// # Errors
    /// When it can't be started: what is declared does not fit its image, or something is missing.
    pub fn container(&self, pod: &Name, name: &Name) -> Result<ContainerSpec, TargetError> {
        let missing = || TargetError::NotDeclared;
        let (node, _) = self.graph.process(pod, name).ok_or_else(missing)?;
        let (sandbox, _) = self.graph.sandbox(pod).ok_or_else(missing)?;
        let reference = || Box::new(node.image.clone());
        let digest = self.graph.image(&node.image);
        let digest = digest.ok_or_else(|| TargetError::NoDigest { image: reference() })?;
        let config = self.images.get(&digest);
        let config = config.ok_or_else(|| TargetError::NoImage { image: reference() })?;
        let user = node.user.as_ref().or(config.user.as_ref());
        let user = user.map_or("", String::as_str);
        let resolved = user::resolve(user, &config.passwd, &config.group)
            .map_err(|why| TargetError::NoUser { why })?;
        let secret_owners = secret_owners(&node, config)?;
        let argv = argv(&node, config);
        if argv.is_empty() {
            return Err(TargetError::NoCommand);
        }
        let cwd = working_dir(&node, config)?;
        let env = environment(&config.env, &node, &sandbox.hostname, &resolved.home);
        if let Some(field) = nul(&argv, &env, &cwd) {
            let image = reference();
            return Err(TargetError::Nul { image, field });
        }
        let id_base = self.id_base(pod)?;
        let (stop_signal, stop_timeout) = self.stop(pod, name);
        let of_image = || config.stop_signal.as_deref().and_then(signal::number);
        let writes_host = self.graph.writes_host(pod);
        Ok(ContainerSpec {
            init: self.graph.init_container(pod, name).is_some(),
            argv,
            env,
            cwd,
            user: resolved.user,
            tty: node.tty,
            read_only: node.read_only,
            bounding: capabilities(&node.capabilities, writes_host),
            ambient: node.capabilities.add.clone(),
            stop_signal: stop_signal.or_else(of_image).unwrap_or(signal::SIGTERM),
            stop_timeout: stop_timeout.unwrap_or(spec::DEFAULT_STOP_TIMEOUT.0),
            mounts: self.mounts(pod, &node, id_base)?,
            files: self.written(pod, name),
            secrets: node.secrets.clone(),
            secret_owners,
            limits: effective_limits(&self.graph.limits(pod, name)),
            ulimits: node.ulimits.clone(),
            logs: node.logs,
            seccomp: node.seccomp.clone(),
            devices: node.devices.values().map(Device::of).collect(),
            id_base,
            writes_host,
            image: Image {
                name: node.image,
                digest,
            },
        })
    }

    /// How a container is declared to be ended: the number of the signal, and the milliseconds it
    /// has then. None: nothing is declared, or it is not.
    pub fn stop(&self, pod: &Name, name: &Name) -> (Option<i32>, Option<u64>) {
        let stop = self.graph.lifecycle(pod, name).stop;
        let number = stop.signal.as_deref().and_then(signal::number);
        (number, stop.timeout.map(|timeout| timeout.0))
    }

    fn written(&self, pod: &Name, name: &Name) -> BTreeMap<String, File> {
        let file = |file: spec::File| File {
            text: file.text,
            mode: file.mode,
        };
        let files = self.files(pod, name).into_iter();
        files
            .map(|(path, declared)| (path, file(declared)))
            .collect()
    }
}

impl Device {
    fn of(declared: &spec::Device) -> Self {
        Self {
            source: declared.path.clone(),
            path: declared.to.clone().unwrap_or_else(|| declared.path.clone()),
            read_only: declared.read_only,
        }
    }
}

/// The limits that the kernel gets: those declared, and a bound on processes in any case. Memory is
/// rounded down to whole pages as the kernel does it, so that what is read back is what was meant.
pub fn effective_limits(declared: &Limits) -> Limits {
    Limits {
        memory: declared
            .memory
            .map(|memory| Bytes(memory.0 / PAGE_BYTES * PAGE_BYTES)),
        pids: Some(declared.pids.unwrap_or(DEFAULT_PIDS)),
        cpu: declared.cpu,
    }
}

/// Whom secrets belong to that are not root's.
fn secret_owners(
    node: &ContainerNode,
    image: &ImageConfig,
) -> Result<BTreeMap<Name, (u32, u32)>, TargetError> {
    let owned = node
        .secrets
        .iter()
        .filter_map(|(name, secret)| Some((name, secret.owner.as_ref()?.as_str())));
    let owner = |(name, owner): (&Name, &str)| {
        let found = user::resolve(owner, &image.passwd, &image.group);
        let secret = name.clone();
        let found = found.map_err(|why| TargetError::NoOwner { secret, why })?;
        Ok((name.clone(), (found.user.uid, found.user.gid)))
    };
    owned.map(owner).collect()
}

/// The command line: `command` replaces the entry point and with it the image's arguments, `args`
/// replaces the image's arguments.
fn argv(node: &ContainerNode, image: &ImageConfig) -> Vec<String> {
    let program = node.command.as_ref().unwrap_or(&image.entrypoint);
    let args = match (&node.args, &node.command) {
        (Some(args), _) => args.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => &image.cmd,
    };
    program.iter().chain(args).cloned().collect()
}

/// The environment: what every program expects, then the image's, then the container's own, each of
/// which replaces what is there.
fn environment(
    image: &[String],
    node: &ContainerNode,
    hostname: &str,
    home: &str,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    // An image may have hundreds of thousands of them.
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut set = |key: &str, value: &str| match places.get(key) {
        Some(place) => env[*place].1 = value.to_owned(),
        None => {
            places.insert(key.to_owned(), env.len());
            env.push((key.to_owned(), value.to_owned()));
        }
    };
    set("PATH", DEFAULT_PATH);
    set("HOSTNAME", hostname);
    set("HOME", home);
    if node.tty {
        set("TERM", "xterm");
    }
    for (key, value) in image.iter().filter_map(|entry| entry.split_once('=')) {
        set(key, value);
    }
    for (key, value) in &node.env {
        set(key, value);
    }
    env
}

/// The bounding set: the default one, less what is dropped (`ALL` drops everything), plus what is
/// added, less what is withheld where files of the host are written.
fn capabilities(declared: &spec::Capabilities, writes_host: bool) -> Vec<String> {
    let all = declared.drop.iter().any(|name| name == "ALL");
    let default = DEFAULT_CAPABILITIES.iter().map(|name| (*name).to_owned());
    let mut set: Vec<String> = default
        .filter(|name| !all && !declared.drop.contains(name))
        .collect();
    set.extend(declared.add.iter().cloned());
    set.retain(|name| !writes_host || !WITHHELD.contains(&name.as_str()));
    set.sort();
    set.dedup();
    set
}

/// Where a program begins: what the container says, or else the image, or else `/`. What an image
/// says has to be absolute, too: a relative one means a place that depends on where a process
/// happens to be.
fn working_dir(node: &ContainerNode, image: &ImageConfig) -> Result<String, TargetError> {
    let dir = node.working_dir.as_ref().or(image.working_dir.as_ref());
    match dir.filter(|dir| !dir.is_empty()) {
        None => Ok("/".to_owned()),
        Some(dir) if dir.starts_with('/') => Ok(dir.clone()),
        Some(dir) => Err(TargetError::RelativeWorkingDir {
            image: Box::new(node.image.clone()),
            dir: dir.clone(),
        }),
    }
}

/// What has a NUL byte, at which the kernel ends a text, if anything has. A configuration is
/// refused because of one, so it is the image's.
fn nul(argv: &[String], env: &[(String, String)], cwd: &str) -> Option<NulField> {
    let has = |text: &str| text.contains('\0');
    if argv.iter().any(|text| has(text)) {
        Some(NulField::Command)
    } else if env.iter().any(|(key, value)| has(key) || has(value)) {
        Some(NulField::Env)
    } else {
        has(cwd).then_some(NulField::WorkingDir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_would_cut_short_is_refused() {
        let refused = |argv: &str, env: (&str, &str), cwd: &str| {
            nul(
                &[argv.to_owned()],
                &[(env.0.to_owned(), env.1.to_owned())],
                cwd,
            )
        };
        assert_eq!(refused("/bin/sh", ("A", "1"), "/"), None);
        assert_eq!(refused("a\0", ("A", "1"), "/"), Some(NulField::Command));
        assert_eq!(refused("a", ("A\0", "1"), "/"), Some(NulField::Env));
        assert_eq!(refused("a", ("A", "\x001"), "/"), Some(NulField::Env));
        assert_eq!(refused("a", ("A", "1"), "/\0"), Some(NulField::WorkingDir));
    }

    fn node(fields: serde_json::Value) -> ContainerNode {
        let mut node = serde_json::json!({ "image": "x" });
        for (field, value) in fields.as_object().expect("fields") {
            node[field] = value.clone();
        }
        serde_json::from_value(node).expect("a node")
    }

    #[test]
    fn command_lines_follow_the_oci_rules() {
        let image = ImageConfig {
            entrypoint: vec!["entry".to_owned()],
            cmd: vec!["cmd".to_owned()],
            ..ImageConfig::default()
        };
        let line = |command: Option<&[&str]>, args: Option<&[&str]>| {
            let node = node(serde_json::json!({ "command": command, "args": args }));
            argv(&node, &image).join(" ")
        };
        assert_eq!(line(None, None), "entry cmd");
        assert_eq!(line(None, Some(&["mine"][..])), "entry mine");
        assert_eq!(line(Some(&["run"][..]), None), "run");
        assert_eq!(line(Some(&["run"][..]), Some(&["mine"][..])), "run mine");
        assert_eq!(line(None, Some(&[][..])), "entry");
    }

    #[test]
    fn the_pod_environment_wins_over_the_image() {
        let image = ["PATH=/image".to_owned(), "A=1".to_owned()];
        let mine = node(serde_json::json!({ "env": { "A": "2" }, "tty": true }));
        let env = environment(&image, &mine, "web", "/root");
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
        let dir = |declared: Option<&str>, image: Option<&str>| {
            let image = ImageConfig {
                working_dir: image.map(str::to_owned),
                ..ImageConfig::default()
            };
            let node = node(serde_json::json!({ "working_dir": declared }));
            working_dir(&node, &image).ok()
        };
        assert_eq!(dir(None, None).as_deref(), Some("/"));
        assert_eq!(dir(None, Some("")).as_deref(), Some("/"));
        assert_eq!(dir(None, Some("/srv")).as_deref(), Some("/srv"));
        assert_eq!(dir(Some("/mine"), Some("srv")).as_deref(), Some("/mine"));
        assert_eq!(dir(None, Some("srv")), None);
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let declared = |add: &[&str], drop: &[&str]| spec::Capabilities {
            add: add.iter().map(|name| (*name).to_owned()).collect(),
            drop: drop.iter().map(|name| (*name).to_owned()).collect(),
        };
        let usual = |add: &[&str], drop: &[&str]| capabilities(&declared(add, drop), false);
        assert_eq!(usual(&[], &[]).len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(usual(&["CAP_NET_RAW"], &["ALL"]), ["CAP_NET_RAW"]);
        assert!(!usual(&[], &["CAP_KILL"]).contains(&"CAP_KILL".to_owned()));
        let withheld = capabilities(&declared(&["CAP_SYS_ADMIN", "CAP_NET_RAW"], &[]), true);
        assert_eq!(withheld.len(), DEFAULT_CAPABILITIES.len() - 2 + 1);
        assert!(
            !withheld
                .iter()
                .any(|name| WITHHELD.contains(&name.as_str())),
            "{withheld:?}"
        );
    }
}
