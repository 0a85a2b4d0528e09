//! What a pod declares beside its network and its containers.

use super::{Extent, Pass, did_you_mean, exposure::no_destination, is_absolute, path, shared};
use crate::{
    name::Name,
    spec::{
        Condition, Config, HOST_GATEWAY, HostAddress, Network, Nic, Pod, Restart, Snapshots,
        Update, Volume, is_domain, is_hostname, is_reserved,
    },
};
use std::net::IpAddr;

/// The kernel settings that each network or IPC namespace has for itself; `*` stands for any
/// ending.
const NAMESPACED: [&str; 5] = [
    "net.*",
    "kernel.shm*",
    "kernel.msg*",
    "kernel.sem*",
    "fs.mqueue.*",
];

const RESERVED: &str =
    "`localhost` is the pod itself, and names that end with `arpa` are addresses";

/// Why no server can be asked at an address.
fn unusable_server(server: IpAddr) -> Option<&'static str> {
    match server {
        _ if server.is_unspecified() => Some("it is nobody's"),
        _ => no_destination(server),
    }
}

/// What is wrong with a kernel setting of a pod's: the code, the problem, and what to do.
fn wrong_sysctl((key, value): (&str, &str), pod: &Pod) -> Option<(&'static str, String, String)> {
    let mut own = NAMESPACED.iter();
    if !own.any(|own| key.starts_with(own.trim_end_matches('*'))) {
        let help = match key {
            "kernel.hostname" => "use the pod's `hostname`".to_owned(),
            _ => format!(
                "a pod has its own {} only",
                NAMESPACED.map(|own| format!("`{own}`")).join(", ")
            ),
        };
        let message = format!("`{key}` is a setting of the whole host");
        return Some(("tank::sysctl::not_namespaced", message, help));
    }
    let is_disabling = key.starts_with("net.ipv6.conf.") && key.ends_with(".disable_ipv6");
    let (code, message, help) = if key.starts_with("net.") && pod.network == Network::Host {
        (
            "tank::sysctl::host_network",
            format!(
                "`{key}` would be set for the whole host, for good: the pod has the host's network"
            ),
            "set it on the host (sysctl.d(5)), or use another `network`".to_owned(),
        )
    } else if value.contains(|c: char| c.is_control() && c != '\t') {
        (
            "tank::sysctl::value",
            format!("the value of `{key}` has a control character: {value:?}"),
            "write one line; numbers of one setting are separated by spaces or tabs".to_owned(),
        )
    } else if is_disabling && has_ipv6(&pod.network) && value.trim() != "0" {
        (
            "tank::sysctl::addresses",
            format!("`{key}` would take the pod's IPv6 addresses, which Tank gives it"),
            "leave it out; a network whose `subnets` are of IPv4 gives none of IPv6".to_owned(),
        )
    } else {
        let interface = interface_of(key)?;
        (
            "tank::sysctl::interface",
            format!("`{interface}` is not there when the pod's settings are made"),
            format!("write `default` for `{interface}`: what comes afterwards gets it"),
        )
    };
    Some((code, message, help))
}

/// The interface that a setting is of, where it is a particular one (`net.ipv4.conf.eth0.…`).
fn interface_of(key: &str) -> Option<&str> {
    let rest = key
        .strip_prefix("net.ipv4.")
        .or(key.strip_prefix("net.ipv6."))?;
    let rest = rest.strip_prefix("conf.").or(rest.strip_prefix("neigh."))?;
    let (interface, _) = rest.rsplit_once('.')?;
    (!matches!(interface, "all" | "default" | "lo")).then_some(interface)
}

impl Pass<'_> {
    pub(super) fn pod(&mut self, name: &Name, pod: &Pod, among: (&Config, Extent)) {
        if pod.containers.is_empty() {
            let help = "add one under `containers`, with at least its `image`";
            self.report(
                "tank::pod::empty",
                &["containers"],
                format!("pod `{name}` has no container"),
                help,
            );
        }
        self.volumes(pod);
        self.shared_volumes(name, pod, among.0);
        self.dependencies(name, pod, among);
        if let Some(hostname) = &pod.hostname
            && !is_hostname(hostname)
        {
            let message = format!("`{hostname}` is no host name");
            self.report(
                "tank::hostname::invalid",
                &["hostname"],
                message,
                "use at most 64 of `a-z`, `0-9`, `-`, `.`",
            );
        }
        self.names(pod);
        self.update(pod);
        self.terminals(name, pod);
        self.network(name, pod);
        self.memberships(name, pod, among);
        self.aliases_of_pods(name, pod, among.0);
        self.sysctls(pod);
        let shared = among.0.volumes.keys();
        let shared = shared.filter(|volume| volume.stack() == name.stack());
        let shared: Vec<&str> = shared.map(Name::local).collect();
        for (group, containers) in [("containers", &pod.containers), ("init", &pod.init)] {
            for (container, spec) in containers {
                let mut at = self.at.clone();
                at.extend(path([group, container.as_str()]));
                let mut pass = Pass {
                    problems: self.problems,
                    at,
                };
                pass.container(container, spec, (pod, &shared));
                if group == "init" {
                    pass.init(spec);
                    if pod.containers.contains_key(container) {
                        let message = format!("`{container}` is also a container of this pod");
                        let help = "give it a name of its own: logs and `tank exec` go by it";
                        pass.report("tank::init::same_name", &[], message, help);
                    }
                }
            }
        }
    }

    fn volumes(&mut self, pod: &Pod) {
        for (volume, source) in &pod.volumes {
            if source.host.is_some() && source.tmpfs.is_some() {
                let message = format!("volume `{volume}` is both a path of the host and in memory");
                self.report(
                    "tank::volume::two_kinds",
                    &["volumes", volume.as_str()],
                    message,
                    "keep one of the two",
                );
            }
            if let Some(host) = source.host.as_deref().filter(|host| !is_absolute(host)) {
                let field = ["volumes", volume.as_str(), "host"];
                self.relative(&field, host);
            }
            self.misplaced(volume, source);
            self.backup(volume, source, pod);
            let field = ["volumes", volume.as_str(), "size"];
            if let Some(found) = shared::size(volume, source.size) {
                self.report(shared::SIZE, &field, found.0, found.1);
            }
        }
    }

    /// Fields of a volume that its kind does not have.
    fn misplaced(&mut self, name: &Name, volume: &Volume) {
        if volume.shared.is_some() {
            return;
        }
        let kind = match (&volume.host, volume.tmpfs) {
            (Some(_), _) => "a directory of the host",
            (None, Some(_)) => "in memory",
            (None, None) => return,
        };
        let of_host = volume.host.is_some();
        let owned =
            "set it on the host (`chown`, `chmod`), or let Tank keep the volume: leave `host` out";
        let copied = "leave it out: nothing of an image is put into it";
        let taken = "leave it out: snapshots are of volumes that Tank keeps";
        let written = "leave it out: Tank backs up the volumes that it keeps";
        let bounded = match of_host {
            true => "limit it on the host, or let Tank keep the volume: leave `host` out",
            false => "leave it out: `tmpfs` says how large it is",
        };
        let fields = [
            ("size", volume.size.is_some(), bounded),
            ("owner", of_host && volume.owner.is_some(), owned),
            ("mode", of_host && volume.mode.is_some(), owned),
            ("no_copy", volume.no_copy, copied),
            (
                "snapshots",
                volume.snapshots != Snapshots::OnNewImage,
                taken,
            ),
            ("backup", volume.backup.is_some(), written),
        ];
        for (field, _, help) in fields.iter().filter(|(_, wrong, _)| *wrong) {
            let message = format!("volume `{name}` is {kind}, which has no `{field}`");
            self.report(
                "tank::volume::misplaced",
                &["volumes", name.as_str(), field],
                message,
                *help,
            );
        }
    }

    fn dependencies(&mut self, name: &Name, pod: &Pod, (config, extent): (&Config, Extent)) {
        let own = name.stack();
        for (other, condition) in &pod.depends_on {
            let said = other.as_seen_from(own);
            let field = ["depends_on", other.as_str()];
            let Some(dependency) = config.pods.get(other) else {
                // A source knows the pods of its own stack only.
                if extent == Extent::Host || other.stack() == own {
                    let help = unknown_pod(name, &said, config);
                    let message = match other.stack() {
                        Some(stack) if own != Some(stack) => format!(
                            "pod `{name}` depends on `{}` of the stack `{stack}`, which is not declared",
                            other.local()
                        ),
                        _ => format!("pod `{name}` depends on `{said}`, which is not declared"),
                    };
                    self.report("tank::depends_on::unknown_pod", &field, message, help);
                }
                continue;
            };
            if *condition == Condition::Completed && dependency.restart == Restart::Always {
                let message = format!("`{said}` never completes: it is restarted whenever it ends");
                let help = format!(
                    "set `pods.{}.restart` to `'on_failure` or `'never`",
                    other.local()
                );
                self.report("tank::depends_on::never_completes", &field, message, help);
            }
        }
    }

    /// The names it is found by.
    fn aliases(&mut self, pod: &Pod) {
        let everywhere = pod.aliases.keys().map(|alias| (vec!["aliases"], alias));
        let there = pod.networks.iter().flat_map(|(network, membership)| {
            let at = ["networks", network.as_str(), "aliases"];
            let aliases = membership.aliases.keys();
            aliases.map(move |alias| (at.to_vec(), alias))
        });
        let mut many = 0;
        for (mut at, alias) in everywhere.chain(there) {
            at.push(alias);
            if !is_domain(alias) {
                let message = format!("`{alias}` is no name that can be asked for");
                self.report("tank::alias::invalid", &at, message, SHAPE);
            }
            if is_reserved(alias) {
                let message = format!("`{alias}` means something else to every program");
                self.report("tank::alias::reserved", &at, message, RESERVED);
            }
            many += 1;
        }
        if many > MAX_ALIASES {
            let message = format!("the pod has {many} aliases, and {MAX_ALIASES} are the most");
            let help = "have those who use it agree on a few";
            let field = match pod.aliases.len() > MAX_ALIASES {
                true => "aliases",
                false => "networks",
            };
            self.report("tank::alias::many", &[field], message, help);
        }
        if pod.network != Network::Bridge && !pod.aliases.is_empty() {
            let message = "the pod has no address that a name could lead to".to_owned();
            let help = "use `network = 'bridge`, or drop `aliases`";
            self.report("tank::alias::no_network", &["aliases"], message, help);
            self.relate(&["network"], "it is not on the bridge here");
        }
    }

    /// Names: its own, and where it asks for others.
    fn names(&mut self, pod: &Pod) {
        self.aliases(pod);
        if let Some(hostname) = pod.hostname.as_ref().filter(|own| is_reserved(own)) {
            let message = format!("`{hostname}` means something else to every program");
            self.report("tank::alias::reserved", &["hostname"], message, RESERVED);
        }
        for (key, server) in &pod.dns.servers {
            if let Some(why) = unusable_server(*server) {
                let message = format!("nobody answers at {server}: {why}");
                let field = ["dns", "servers", key.as_str()];
                let help = "name the address of a server that the host reaches";
                self.report("tank::dns::server", &field, message, help);
            }
        }
        for (key, domain) in pod.dns.search.iter().filter(|(_, name)| !is_domain(name)) {
            let message = format!("`{domain}` is no domain");
            let field = ["dns", "search", key.as_str()];
            self.report("tank::dns::search", &field, message, SHAPE);
        }
        for (option, value) in &pod.dns.options {
            let word = |text: &str| {
                text.bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-' || b.is_ascii_digit())
            };
            let number = value.len() <= 4 && value.bytes().all(|b| b.is_ascii_digit());
            if option.is_empty() || option.len() > 32 || !word(option) || !number {
                let message = format!("`{option}` with `{value}` is no option of a resolver");
                let help = "write a number as in `options.ndots = \"2\"`, or nothing as in `options.rotate = \"\"`";
                let field = ["dns", "options", option.as_str()];
                self.report("tank::dns::option", &field, message, help);
            }
        }
        for host in pod.extra_hosts.keys().filter(|host| !is_domain(host)) {
            let message = format!("`{host}` is no host name");
            self.report(
                "tank::extra_hosts::name",
                &["extra_hosts", host],
                message,
                SHAPE,
            );
        }
        let gateway = pod
            .extra_hosts
            .iter()
            .find(|(_, to)| **to == HostAddress::Gateway);
        if let Some((host, _)) = gateway.filter(|_| pod.network != Network::Bridge) {
            let message = format!(
                "`{HOST_GATEWAY}` is the host's address on the bridge, which this pod is not on"
            );
            let help = "name an address, or use `network = 'bridge`";
            self.report(
                "tank::extra_hosts::no_gateway",
                &["extra_hosts", host],
                message,
                help,
            );
        }
    }

    fn update(&mut self, pod: &Pod) {
        let settled =
            |nic: &Nic| nic.static_addresses().next().is_some() || nic.own_pool().is_some();
        let nics = matches!(&pod.network, Network::Nics(nics) if nics.values().any(settled));
        let mut networks = pod.networks.values();
        let fixed = nics || networks.any(|membership| !membership.addresses.is_empty());
        if pod.update == Update::StartFirst && (pod.network == Network::Host || fixed) {
            let message = "the old and the new pod can't both have the same address".to_owned();
            let help =
                "use `update = 'recreate`, or a network that gives each an address of its own";
            self.report("tank::update::shared_address", &["update"], message, help);
        }
    }

    fn terminals(&mut self, name: &Name, pod: &Pod) {
        let terminals: Vec<&str> = pod
            .containers
            .iter()
            .filter(|(_, c)| c.tty)
            .map(|(name, _)| name.as_str())
            .collect();
        if let [first, second, ..] = terminals.as_slice() {
            let message = format!(
                "`{first}` and `{second}` both have a terminal, and `tank attach {name}` can show one"
            );
            let help = "give `tty` to one container of a pod";
            self.report(
                "tank::tty::several",
                &["containers", second, "tty"],
                message,
                help,
            );
        }
    }

    fn sysctls(&mut self, pod: &Pod) {
        for (key, value) in &pod.sysctls {
            if let Some((code, message, help)) = wrong_sysctl((key, value), pod) {
                self.report(code, &["sysctls", key], message, &help);
                if code == "tank::sysctl::host_network" {
                    self.relate(&["network"], "the host's network is shared here");
                }
            }
        }
    }
}

/// Whether Tank gives a pod addresses of IPv6. On its bridges a pod has a link-local one at least.
fn has_ipv6(network: &Network) -> bool {
    match network {
        Network::Bridge => true,
        Network::Host | Network::None => false,
        Network::Nics(nics) => nics
            .values()
            .flat_map(|nic| nic.static_addresses().chain(nic.pool))
            .any(|net| net.addr().is_ipv6()),
    }
}

/// What to do about a dependency on a pod that is not there.
pub(super) fn unknown_pod(name: &Name, said: &str, config: &Config) -> String {
    let others: Vec<String> = config
        .pods
        .keys()
        .filter(|other| *other != name)
        .map(|other| other.as_seen_from(name.stack()))
        .collect();
    let candidates = others.iter().map(String::as_str);
    did_you_mean(said, candidates, "no such pod is declared")
}

/// What a name consists of.
const SHAPE: &str = "use labels of `a-z`, `0-9`, `-` and `_`, with `.` between them";

/// The most aliases of a pod: all names of a host have to fit into what the name server takes.
const MAX_ALIASES: usize = 64;

#[cfg(test)]
mod tests {
    #[test]
    fn ipv6_is_not_disabled_where_its_addresses_are_given() {
        use serde_json::json;
        let nic = |address: &str| json!({ "nics": { "eth0": { "mode": "macvlan", "address": address } } });
        for (network, value, refused) in [
            (json!("bridge"), "1", true),
            (json!("bridge"), "0", false),
            (json!("none"), "1", false),
            (nic("10.0.0.5/24"), "1", false),
            (nic("fd00::5/64"), "1", true),
        ] {
            for link in ["all", "default"] {
                let key = format!("net.ipv6.conf.{link}.disable_ipv6");
                let pod = json!({
                    "containers": { "app": { "image": "x" } }, "network": network,
                    "sysctls": { key.as_str(): value },
                });
                let config = json!({ "pods": { "web": pod } });
                let config = serde_json::from_value(config).expect("a configuration");
                let codes: Vec<&str> = crate::check::check(&config)
                    .iter()
                    .map(|found| found.code)
                    .collect();
                let expected: &[&str] = match refused {
                    true => &["tank::sysctl::addresses"],
                    false => &[],
                };
                assert_eq!(codes, expected, "{network} {key} = {value}");
            }
        }
    }
}
