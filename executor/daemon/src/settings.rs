//! How a daemon is set up: flags, then the environment, then `/etc/tank/tank.toml`, then defaults.

pub mod hooks;
pub mod manual;
mod metrics;

pub use metrics::Metrics;

use clap::Parser;
use hooks::Hook;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};
use tank_image::{Registries, Rules};
use tank_model::{
    VolumeId,
    digest::Hasher,
    units::{Millis, nth_address, parse_network},
};
use tank_plan::target::{
    DEFAULT_MTU, HostConfig,
    networks::{is_bridge_name, leased_subnets},
};

/// The first host id handed out. Above systemd-nspawn's range, below 2³¹ where some tools begin to
/// fail; in steps of 65,536, a pod's lease times that.
const ID_BASE: u32 = 0x7000_0000;

/// The shortest that IPv6 works with (RFC 8200), and the longest that a packet can be.
const MIN_MTU: u32 = 1280;
const MAX_MTU: u32 = 65_535;

/// The most of a disk that can be asked to be free, in percent.
const MAX_KEEP_FREE: u8 = 90;

/// machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";

/// The configuration file unless another is named.
const CONFIG: &str = "/etc/tank/tank.toml";

/// Where `podman login`, `skopeo login` and `docker login` keep what root gave them
/// (containers-auth.json(5)).
const AUTH_FILES: [&str; 3] = [
    "/run/containers/0/auth.json",
    "/root/.config/containers/auth.json",
    "/root/.docker/config.json",
];

/// Leases are counted from here: a network's first address is the bridge's own.
pub const FIRST_LEASE: u32 = 2;

/// How many leases there are: ids below 2³¹ in steps of 65,536.
pub const LEASES: u32 = 4_000;

/// Tank's executor: keeps a host as its current generation declares.
#[derive(Parser, Debug)]
#[command(name = "tankd", version)]
pub struct Flags {
    /// Where generations, images, volumes and logs are kept.
    #[arg(long, env = "TANK_STATE_DIR", default_value = "/var/lib/tank")]
    pub state_dir: PathBuf,
    /// Where sockets and running pods' folders are.
    #[arg(long, env = "TANK_RUN_DIR", default_value = "/run/tank")]
    pub run_dir: PathBuf,
    /// The socket to serve; `RUN_DIR/tank.sock` unless given.
    #[arg(long, env = "TANK_SOCKET")]
    pub socket: Option<PathBuf>,
    /// The configuration file; `/etc/tank/tank.toml`, which may be missing, unless given.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Pods for a fresh store, as `tank build --canonical` writes them; ignored once there is any
    /// generation.
    #[arg(long)]
    pub seed: Option<PathBuf>,
    /// Put nothing right by itself: `tank diff` shows what differs, a switch carries it out. For
    /// looking into a host.
    #[arg(long)]
    pub no_repair: bool,
    /// End every pod and what this host has for them, and then this daemon: for taking Tank off a
    /// host. What is declared stays, and the next start begins it again.
    #[arg(long, conflicts_with = "seed")]
    pub end_pods: bool,
    /// Go on although the store has lost its newest generation: from the newest one it has. What
    /// there was is kept beside it.
    #[arg(long)]
    pub accept_loss: bool,
    /// Repair a store that can't be opened, from the files that can be read. What there was is kept
    /// beside it.
    #[arg(long)]
    pub repair_store: bool,
    /// The shim's program; the one beside this one unless given.
    #[arg(long, env = "TANK_SHIM")]
    pub shim: Option<PathBuf>,
    /// The name server's program; the one beside this one unless given.
    #[arg(long, env = "TANK_NAMES")]
    pub names: Option<PathBuf>,
    /// The program that converts layers of images; the one beside this one unless given.
    #[arg(long, env = "TANK_LAYER")]
    pub layer: Option<PathBuf>,
}

/// `/etc/tank/tank.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name of the default network's bridge.
    pub bridge: String,
    /// Its subnets, at most one of each family. The first address is the bridge's own.
    #[serde(deserialize_with = "read_networks")]
    pub networks: Vec<IpNet>,
    /// What the subnets of other networks are taken of, at most one of each family: a /24 of IPv4
    /// and a /64 of IPv6 each.
    #[serde(deserialize_with = "read_networks")]
    pub network_pools: Vec<IpNet>,
    /// The longest packet of the pods on Tank's bridges, in bytes.
    pub mtu: u32,
    /// The directory of Tank's cgroups, in each hierarchy.
    pub cgroup: String,
    /// How long a container without a probe has to run before a switch counts it as healthy.
    pub grace: Millis,
    /// How long a switch waits for health that does not say how long itself.
    pub wait: Millis,
    /// The longest time between two passes. The kernel and the shims notify of what needs one: this
    /// is for notifications that get lost.
    pub resync: Millis,
    /// Registries spoken to without TLS. Those on loopback always are.
    pub insecure_registries: Vec<String>,
    /// How registries are asked, each under its name.
    pub registries: BTreeMap<String, Rules>,
    /// Files of other tools with credentials for registries, looked into behind what `tank login` was
    /// given.
    pub auth_files: Vec<PathBuf>,
    /// The newest generations that are never deleted by themselves, however old they are.
    pub keep_generations: u64,
    /// How old a generation gets until it is deleted by itself.
    #[serde(deserialize_with = "read_age")]
    pub keep_for: Millis,
    /// The percentage of the disk that is to be free: where less is, the age of generations does not count. 0: it
    /// is not looked at.
    pub keep_free: u8,
    /// Where metrics are served.
    pub metrics: Metrics,
    /// What is done when something has happened.
    pub on_event: Vec<Hook>,
}

/// One of [`Config::networks`], or [`Config::network_pools`]: `10.90.0.0/16`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Network(IpNet);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let example = "write for example \"10.90.0.0/16\"";
        let parsed = parse_network(&text).map(Self);
        parsed.map_err(|_| format!("`{text}` is no network, {example}"))
    }
}

fn read_networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let networks = Vec::<Network>::deserialize(deserializer)?;
    Ok(networks.into_iter().map(|network| network.0).collect())
}

fn read_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    let text = String::deserialize(deserializer)?;
    Millis::parse_age(&text).map_err(serde::de::Error::custom)
}

impl Default for Config {
    fn default() -> Self {
        let networks =
            |texts: [&str; 2]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        Self {
            bridge: "tank0".to_owned(),
            networks: networks(["10.90.0.0/16", "fd74:616e:6b00::/64"]),
            network_pools: networks(["10.91.0.0/16", "fd74:616e:6b01::/48"]),
            mtu: DEFAULT_MTU,
            cgroup: "tank".to_owned(),
            grace: Millis(500),
            wait: Millis(60_000),
            resync: Millis(600_000),
            insecure_registries: Vec::new(),
            registries: BTreeMap::new(),
            auth_files: AUTH_FILES.map(PathBuf::from).to_vec(),
            keep_generations: 20,
            keep_for: Millis(30 * 24 * 3_600_000),
            keep_free: 10,
            metrics: Metrics::Off,
            on_event: Vec::new(),
        }
    }
}

/// Everything settled.
#[derive(Clone, Debug)]
pub struct Settings {
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub socket: PathBuf,
    pub shim: PathBuf,
    pub names: PathBuf,
    /// The program that converts layers of images.
    pub layer: PathBuf,
    pub no_repair: bool,
    /// Soft and hard limit of descriptors that containers get: this process's own at its start.
    pub nofile: (u64, u64),
    /// As [`HostConfig::machine`].
    pub machine: String,
    pub config: Config,
}

impl Settings {
    /// Reads the configuration file and settles the rest.
    ///
    /// # Errors
    /// A text that says which file, or which flag, is wrong.
    pub fn settle(flags: &Flags) -> Result<Self, String> {
        let path = flags.config.as_deref().unwrap_or(Path::new(CONFIG));
        let config = match std::fs::read_to_string(path) {
            Ok(text) => {
                toml::from_str::<Config>(&text).map_err(|e| format!("{}: {e}", path.display()))?
            }
            // One that was named has to be there: its defaults are not what was meant.
            Err(error) if error.kind() == ErrorKind::NotFound && flags.config.is_none() => {
                Config::default()
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        check(&config)?;
        let config = of_this_host(config, has_ipv6())?;
        let beside = |program: &str| -> Option<PathBuf> {
            Some(std::env::current_exe().ok()?.parent()?.join(program))
        };
        let named = |flag: &Option<PathBuf>, program| flag.clone().or_else(|| beside(program));
        let shim = named(&flags.shim, "tank-shim").ok_or("no shim: name it with --shim")?;
        let names = named(&flags.names, "tank-names");
        let names = names.ok_or("no name server: name it with --names")?;
        let layer = named(&flags.layer, "tank-layer");
        let layer = layer.ok_or("no program that converts layers: name it with --layer")?;
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()));
        let run_dir = absolute(&flags.run_dir)?;
        Ok(Self {
            state_dir: absolute(&flags.state_dir)?,
            socket: flags
                .socket
                .clone()
                .unwrap_or_else(|| run_dir.join("tank.sock")),
            run_dir,
            shim,
            names,
            layer,
            no_repair: flags.no_repair,
            nofile: (1024, 4096),
            machine: machine(),
            config,
        })
    }

    /// What a plan has to know of how this host is set up.
    pub fn host_config(&self) -> HostConfig {
        HostConfig {
            bridge: self.config.bridge.clone(),
            networks: self.config.networks.clone(),
            pools: self.config.network_pools.clone(),
            id_base: ID_BASE,
            mtu: self.config.mtu,
            machine: self.machine.clone(),
        }
    }

    /// How registries are asked, and as whom.
    ///
    /// # Errors
    /// A text that says what is wrong in the configuration file.
    pub fn registries(&self) -> Result<Registries, String> {
        let kept = self.state_dir.join("auth.json");
        registries(&self.config, kept)
    }

    pub fn pod_dir(&self, pod: &str) -> PathBuf {
        self.run_dir.join("pods").join(pod)
    }

    /// An empty directory on which each container attaches its root for a moment, where nobody else
    /// sees it.
    pub fn attach_dir(&self) -> PathBuf {
        self.run_dir.join("attach")
    }

    /// What every image is put on top of: see [`crate::actuate::make_skeleton`].
    pub fn skeleton_dir(&self) -> PathBuf {
        self.state_dir.join("skeleton")
    }

    pub fn log_dir(&self, pod: &str) -> PathBuf {
        self.state_dir.join("logs").join(pod)
    }

    pub fn scratch_dir(&self, pod: &str) -> PathBuf {
        self.state_dir.join("scratch").join(pod)
    }

    pub fn volume_dir(&self, volume: &VolumeId) -> PathBuf {
        let (own, shared) = (self.volumes_dir(), self.shared_volumes_dir());
        match volume {
            VolumeId::Own(pod, volume) => own.join(pod.as_str()).join(volume.as_str()),
            VolumeId::Shared(volume) => shared.join(volume.as_str()),
        }
    }

    /// The volumes of pods, each in a folder of its pod.
    pub fn volumes_dir(&self) -> PathBuf {
        self.state_dir.join("volumes")
    }

    /// The volumes that pods share.
    pub fn shared_volumes_dir(&self) -> PathBuf {
        self.state_dir.join("shared-volumes")
    }
}

fn registries(config: &Config, kept: PathBuf) -> Result<Registries, String> {
    let Config {
        registries,
        insecure_registries,
        auth_files,
        ..
    } = config;
    Registries::new(registries, insecure_registries, kept, auth_files.clone())
}

fn check(config: &Config) -> Result<(), String> {
    registries(config, PathBuf::new())?;
    if let Some(file) = config.auth_files.iter().find(|file| !file.is_absolute()) {
        return Err(format!(
            "auth_files: `{}` is no absolute path",
            file.display()
        ));
    }
    let name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !name(&config.bridge) || config.bridge.len() > 15 {
        return Err(format!(
            "bridge: `{}` is no name of a link (at most 15 letters, digits, `-`, `_`)",
            config.bridge
        ));
    }
    if is_bridge_name(&config.bridge) {
        let bridge = &config.bridge;
        return Err(format!(
            "bridge: `{bridge}` is how the bridges of other networks are called"
        ));
    }
    if !(MIN_MTU..=MAX_MTU).contains(&config.mtu) {
        return Err(format!(
            "mtu: {} is not between {MIN_MTU} and {MAX_MTU}",
            config.mtu
        ));
    }
    if !name(&config.cgroup) {
        return Err(format!(
            "cgroup: `{}` is no name of a directory",
            config.cgroup
        ));
    }
    if config.keep_generations == 0 {
        return Err("keep_generations: the current one is always kept: at least 1".to_owned());
    }
    if config.keep_free > MAX_KEEP_FREE {
        return Err(format!("keep_free: at most {MAX_KEEP_FREE} percent"));
    }
    if config.on_event.len() > hooks::MAX_HOOKS {
        return Err(format!("on_event: at most {} of them", hooks::MAX_HOOKS));
    }
    check_pools(config)?;
    for network in &config.networks {
        if nth_address(*network, FIRST_LEASE + LEASES).is_none() {
            return Err(format!(
                "networks: {network} has fewer than {} addresses",
                LEASES
            ));
        }
    }
    Ok(())
}

/// The default network's subnets, and what those of others are taken of.
fn check_pools(config: &Config) -> Result<(), String> {
    let twice = |networks: &[IpNet]| {
        let is_v4 = |network: &IpNet| network.addr().is_ipv4();
        networks.len() > 2 || matches!(networks, [one, other] if is_v4(one) == is_v4(other))
    };
    if config.networks.is_empty() || twice(&config.networks) {
        return Err("networks: give one network, or one of IPv4 and one of IPv6".to_owned());
    }
    if twice(&config.network_pools) {
        return Err("network_pools: give one of IPv4 and one of IPv6 at most".to_owned());
    }
    for pool in &config.network_pools {
        if leased_subnets(&[*pool], 0).is_empty() {
            let part = if pool.addr().is_ipv4() { 24 } else { 64 };
            return Err(format!("network_pools: {pool} has no subnet of /{part}"));
        }
        let is_default = Config::default().network_pools.contains(pool);
        if let Some(network) = overlapping(pool, &config.networks).filter(|_| !is_default) {
            return Err(format!(
                "network_pools: {pool} and {network} of `networks` overlap"
            ));
        }
    }
    Ok(())
}

fn overlapping<'a>(pool: &IpNet, networks: &'a [IpNet]) -> Option<&'a IpNet> {
    let overlaps =
        |network: &&IpNet| network.contains(&pool.network()) || pool.contains(&network.network());
    networks.iter().find(overlaps)
}

/// What tells this host from others, made of its machine-id(5), which is for nobody else to see; of
/// its name where it has none.
fn machine() -> String {
    let name = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id = std::fs::read_to_string(MACHINE_ID).unwrap_or_default();
    let id = Some(id).filter(|id| id.trim().len() == 32);
    let hasher = Hasher::new("tank.machine.v1");
    let hash = hasher.field(id.unwrap_or_else(name).trim().as_bytes());
    hash.finish().to_string()
}

/// Whether links of this host get addresses of IPv6: it has the protocol, and it was not disabled.
pub fn has_ipv6() -> bool {
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
    disabled.is_ok_and(|text| text.trim() == "0")
}

/// Without the pods' network of IPv6 where the host has none: pods do without it, too.
fn of_this_host(mut config: Config, has_ipv6: bool) -> Result<Config, String> {
    for networks in [&mut config.networks, &mut config.network_pools] {
        networks.retain(|network| has_ipv6 || network.addr().is_ipv4());
    }
    // Nobody chose the pool that is in the way of what somebody has chosen.
    let networks = &config.networks;
    config
        .network_pools
        .retain(|pool| overlapping(pool, networks).is_none());
    if config.networks.is_empty() {
        let why = "networks: IPv6 is off on this host, and no network of IPv4 is named";
        return Err(why.to_owned());
    }
    Ok(config)
}

#[cfg(test)]
mod tests;
