//! What fields are called elsewhere, and how ports are written there: in Compose, and in Kubernetes. Whoever comes from there writes them
//! first, and reads what they are here.

mod backup;

use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use tank_model::spec::Ports;

/// The contract, the field as it is called elsewhere, and what to do.
const WORDS: [(&str, &str, &str); 115] = [
    ("Config", "services", IMPORT),
    ("Config", "apiVersion", IMPORT),
    ("Config", "kind", IMPORT),
    (
        "Config",
        "secrets",
        "secrets are a container's: `pods.NAME.containers.NAME.secrets`",
    ),
    (
        "Config",
        "configs",
        "write them as `pods.NAME.containers.NAME.files`",
    ),
    (
        "Config",
        "containers",
        "containers are a pod's: `pods.NAME.containers.NAME`",
    ),
    ("Config", "name", "write `stack`"),
    ("Pod", "image", CONTAINER),
    ("Pod", "command", CONTAINER),
    ("Pod", "env", CONTAINER),
    ("Pod", "environment", "write `containers.NAME.env`"),
    ("Pod", "ports", PUBLISH),
    (
        "Pod",
        "healthcheck",
        "write `containers.NAME.readiness`, or `liveness`, or both",
    ),
    ("Pod", "container_name", "write `aliases`"),
    (
        "Pod",
        "links",
        "pods find each other by name; for another name write `aliases` in the pod it is for",
    ),
    (
        "Pod",
        "network_mode",
        "write `network = 'host`, or `'none`; without it a pod is on its `networks`",
    ),
    ("Pod", "readiness", PROBE),
    ("Pod", "liveness", PROBE),
    ("Pod", "startup", PROBE),
    ("Pod", "mounts", CONTAINER),
    ("Pod", "files", CONTAINER),
    ("Pod", "secrets", CONTAINER),
    ("Pod", "user", CONTAINER),
    ("Pod", "limits", CONTAINER),
    ("Pod", "privileged", PRIVILEGED),
    ("Container", "privileged", PRIVILEGED),
    ("Pod", "services", "write `containers`"),
    ("Container", "environment", "write `env`"),
    ("Container", "envFrom", "write `env`"),
    (
        "Container",
        "entrypoint",
        "write `command`; what follows it is `args`",
    ),
    ("Container", "publish", PUBLISH),
    (
        "Container",
        "volumes",
        "write `mounts`; the volumes themselves are the pod's",
    ),
    ("Container", "volumeMounts", "write `mounts`"),
    (
        "Container",
        "healthcheck",
        "write `readiness`, or `liveness`, or both",
    ),
    ("Container", "readinessProbe", "write `readiness`"),
    ("Container", "livenessProbe", "write `liveness`"),
    ("Container", "startupProbe", "write `startup`"),
    ("Container", "restart", "write it in the pod: `restart`"),
    (
        "Container",
        "depends_on",
        "write it in the pod: `depends_on`",
    ),
    (
        "Container",
        "networks",
        "write it in the pod: `networks.NAME = {}`",
    ),
    ("Container", "expose", EXPOSE),
    ("Pod", "expose", EXPOSE),
    ("Pod", "network_alias", "write `aliases`"),
    ("Pod", "scale", REPLICAS),
    ("Pod", "build", BUILD),
    ("Container", "build", BUILD),
    ("Pod", "env_file", ENV_FILE),
    (
        "Container",
        "env_file",
        "write `env`; a file of JSON, YAML or TOML can be imported: `env = import \"env.json\"`",
    ),
    ("Pod", "deploy", DEPLOY),
    ("Container", "deploy", "write `limits`"),
    ("Pod", "replicas", REPLICAS),
    ("Config", "replicas", REPLICAS),
    ("Pod", "profiles", PROFILES),
    ("Container", "profiles", PROFILES),
    ("Pod", "stop_grace_period", CONTAINER_STOP),
    ("Container", "stop_grace_period", "write `stop.timeout`"),
    ("Container", "stop_signal", "write `stop.signal`"),
    ("Publish", "target", "write `to`"),
    ("Publish", "published", "write `port`"),
    ("Publish", "host_ip", "write `address`"),
    ("Probe", "interval", "write `period`"),
    ("Probe", "retries", "write `failures`"),
    ("Probe", "test", "write `exec`"),
    (
        "Probe",
        "start_period",
        "write a `startup` beside it: as long as that fails, the others wait",
    ),
    (
        "SharedVolume",
        "host",
        "a directory of the host is named by each pod: `pods.NAME.volumes.NAME.host`",
    ),
    (
        "SharedVolume",
        "tmpfs",
        "memory is one pod's: write `pods.NAME.volumes.NAME.tmpfs`",
    ),
    ("SharedVolume", "driver", KEPT),
    ("SharedVolume", "driver_opts", KEPT),
    ("SharedVolume", "external", KEPT),
    (
        "SharedVolume",
        "name",
        "leave it out: it has the name it is declared by, and its stack's",
    ),
    ("Volume", "driver", KEPT),
    ("Volume", "driver_opts", KEPT),
    (
        "Volume",
        "external",
        "a volume of several pods is declared beside `pods`, `volumes.NAME = {}`, and `shared = \"NAME\"` here",
    ),
    ("NamedNetwork", "external", JOIN),
    ("NamedNetwork", "name", JOIN),
    (
        "NamedNetwork",
        "driver",
        "leave it out: a network is a bridge of Tank's. For an address on the host's own network (macvlan) a pod has `network.nics`",
    ),
    ("NamedNetwork", "ipam", "write `subnets`"),
    ("NamedNetwork", "subnet", "write `subnets`"),
    (
        "NamedNetwork",
        "attachable",
        "leave it out: pods of every stack may join a network, as `networks.\"STACK:NAME\" = {}`",
    ),
    (
        "NamedNetwork",
        "enable_ipv6",
        "leave it out: a network has the families of its `subnets`, and both without any",
    ),
    (
        "NamedNetwork",
        "labels",
        "leave them out: a network has none, and pods have `labels`",
    ),
    (
        "NamedNetwork",
        "gateway",
        "leave it out: the first address of a subnet is its bridge's, and leads out",
    ),
    (
        "NamedNetwork",
        "driver_opts",
        "leave it out: a network is a bridge of Tank's",
    ),
    ("Pod", "ingress", ALLOW),
    ("Pod", "allow", ALLOW),
    ("Pod", "allow_to", "write `egress`: whom the pod reaches"),
    ("Pod", "deny", DENY),
    ("Pod", "deny_from", DENY),
    (
        "Pod",
        "nics",
        "write `network.nics`: interfaces of the pod's own on the host's links",
    ),
    ("Pod", "dns_search", "write `dns.search.NAME`"),
    ("Pod", "dns_opt", "write `dns.options`"),
    ("Pod", "hosts", "write `extra_hosts`"),
    ("Pod", "hostAliases", "write `extra_hosts`"),
    ("Pod", "dnsConfig", "write `dns`"),
    ("Pod", "hostNetwork", "write `network = 'host`"),
    ("Container", "network", POD),
    ("Container", "hostname", POD),
    ("Container", "aliases", POD),
    ("Container", "dns", POD),
    ("Container", "extra_hosts", POD),
    ("Container", "sysctls", POD),
    ("Container", "allow_from", POD),
    ("Container", "egress", POD),
    (
        "Container",
        "network_mode",
        "write it in the pod: `network = 'host`, or `'none`",
    ),
    (
        "Container",
        "links",
        "pods find each other by name; for another name write `aliases` in the pod it is for",
    ),
    ("Container", "hosts", "write `extra_hosts` in the pod"),
    ("Publish", "host", "write `address`"),
    ("Publish", "ip", "write `address`"),
    ("Publish", "bind", "write `address`"),
    ("Publish", "hostIP", "write `address`"),
    ("Publish", "hostPort", "write `port`"),
    ("Publish", "containerPort", "write `to`"),
    ("Publish", "container_port", "write `to`"),
    ("Membership", "ipv4_address", "write `addresses`"),
    ("Membership", "ipv6_address", "write `addresses`"),
];

const ALLOW: &str = "write `allow_from`: who reaches the pod";
const DENY: &str =
    "write who may: `allow_from` for who reaches the pod, `egress` for whom it reaches";
const POD: &str = "write it in the pod, beside `containers`";
const IMPORT: &str = "`tank import FILE` writes a Compose file, or Kubernetes manifests, as Nickel";
const CONTAINER: &str = "a pod's processes are its containers: write it in `containers.NAME`";
const PROBE: &str = "probes are a container's: write it in `containers.NAME`";
const PRIVILEGED: &str =
    "there is none: name what it needs, in `containers.NAME.capabilities.add` and `devices`";
const EXPOSE: &str = "leave it out: pods that share a network reach each other's ports; one that outsiders reach is an entry of `publish`";
const JOIN: &str = "a pod joins a network of another stack by its name there: `networks.\"STACK:NAME\" = {}`, and nothing is declared";
const NO_SHARED: &str = "there is none: what a container mounts never appears on the host; `'slave` is the other direction";
const KEPT: &str = "leave it out: Tank keeps it in a folder of its own; a directory of the host is `pods.NAME.volumes.NAME.host`";
const BUILD: &str =
    "Tank builds no images: build it with another tool, and name it in a container's `image`";
const ENV_FILE: &str = "write `containers.NAME.env`; a file of JSON, YAML or TOML can be imported: `env = import \"env.json\"`";
const DEPLOY: &str = "write `containers.NAME.limits`; several of a pod are `pods = tank.replicas \"web\" 3 (fun index => { … })`";
const REPLICAS: &str = "write `pods = tank.replicas \"web\" 3 (fun index => { … })`";
const PROFILES: &str = "write what is for some hosts only into a file of its own: `tank switch pods.ncl debug.ncl` merges them";
const CONTAINER_STOP: &str = "write `containers.NAME.stop.timeout`";
const PUBLISH: &str = "write `publish.NAME = { port = 8080, to = 80 }` in the pod";

/// What to write in the place of a field that the contract does not have.
pub(super) fn here(contract: &str, field: &str) -> Option<&'static str> {
    let mut words = WORDS.iter().chain(&backup::WORDS);
    let known = words.find(|(of, word, _)| *of == contract && *word == field);
    known.map(|(.., help)| *help)
}

/// What to write in the place of a tag that a field does not have.
pub(super) fn tag(field: &str, text: &str, path: &[String]) -> Option<String> {
    let of_pods = |name: &str| path.iter().rev().nth(1).is_some_and(|of| of == name);
    let written = match (field, text) {
        (_, "ipvlan") => {
            let help = "there is no ipvlan: `'macvlan` gives the pod a hardware address of its own, `'bridge` is a port of a bridge that is there";
            return Some(help.to_owned());
        }
        (_, "service_healthy") if of_pods("depends_on") => "'ready",
        (_, "healthy") if of_pods("depends_on") => "'ready",
        (_, "service_started") if of_pods("depends_on") => "'started",
        (_, "service_completed_successfully") if of_pods("depends_on") => "'completed",
        ("restart", "unless-stopped") => "'always",
        ("restart", "on-failure") => "'on_failure",
        ("restart", "no") => "'never",
        ("allow_from", "host") => return Some(tank_model::check::HOST_MAY.to_owned()),
        ("egress", "host") => return Some(tank_model::check::HOST_BY_ADDRESS.to_owned()),
        ("allow_from" | "egress", "*" | "any") => "'all",
        ("allow_from", "internet") => {
            return Some(
                "whoever is on the Internet is known by no name here: `'all`, or subnets in a list"
                    .to_owned(),
            );
        }
        ("egress", "internal") => {
            return Some("name whom it reaches in a list: pods, and subnets".to_owned());
        }
        ("propagation", "rslave" | "HostToContainer" | "host_to_container") => "'slave",
        ("propagation", "rprivate") => "'private",
        ("propagation", "shared" | "rshared" | "Bidirectional" | "bidirectional") => {
            return Some(NO_SHARED.to_owned());
        }
        ("protocol", "sctp") => {
            return Some("there are `'tcp`, `'udp`, and `'both`".to_owned());
        }
        ("network", "macvlan") => {
            return Some(
                "write `network.nics.eth0 = { mode = 'macvlan, parent = \"eth0\" }`, with the host's link".to_owned(),
            );
        }
        ("network", name) if is_field(name) => {
            return Some(format!(
                "for a network that is declared write `networks.{name} = {{}}`"
            ));
        }
        _ => return None,
    };
    Some(format!("write `{field} = {written}`"))
}

/// What to write in the place of names in a list, of which these are the first, where each is a field.
pub(super) fn field_for_each(field: &str, names: &[String]) -> Option<String> {
    let value = match field {
        "aliases" | "networks" | "volumes" => "{}",
        "depends_on" => "'started",
        _ => return None,
    };
    let names = names.iter().filter(|name| is_field(name));
    Some(match names.collect::<Vec<_>>().as_slice() {
        [] => format!("write a field for each: `{field}.NAME = {value}`"),
        [name] => format!("write `{field}.{name} = {value}`"),
        [first, second, ..] => {
            format!(
                "write a field for each: `{field} = {{ {first} = {value}, {second} = {value} }}`"
            )
        }
    })
}

/// What to write in the place of a text that a port, an address or a peer is in other files.
pub(super) fn value(contract: &str, field: &str, text: &str) -> Option<String> {
    if contract == "Cidr" {
        let address: IpAddr = text.parse().ok()?;
        let length = if address.is_ipv4() { 24 } else { 64 };
        return Some(format!(
            "write it with the length of its network's prefix, for example `{field} = \"{address}/{length}\"`"
        ));
    }
    if field == "address" {
        let inner = text.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = match inner {
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            "*" => Some(Ipv4Addr::UNSPECIFIED.into()),
            _ => inner.parse().ok(),
        };
        return address.map(|address| format!("write `address = \"{address}\"`"));
    }
    if matches!(field, "port" | "to")
        && let Some((high, low)) = text.split_once('-')
        && let Ok(range) = format!("{}-{}", low.trim(), high.trim()).parse::<Ports>()
    {
        return Some(format!("write `{field} = \"{range}\"`"));
    }
    if matches!(field, "allow_from" | "egress") && matches!(text, "*" | "any" | "all") {
        return Some(format!("write it without the list: `{field} = 'all`"));
    }
    if field == "port" && text.contains([':', '/']) {
        let entry = read(text)?;
        let entry = entry.trim_start_matches("{ ").trim_end_matches(" }");
        return Some(format!("write `{entry}`"));
    }
    None
}

/// A boolean as YAML has it in other words.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => Some(true),
        "false" | "no" | "off" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// What to write in the place of one text, where a contract's fields are.
pub(super) fn record(contract: &str, field: &str, text: &str) -> Option<String> {
    let is_path = text.starts_with(['/', '.', '~']);
    Some(match contract {
        "Dns" if text.parse::<IpAddr>().is_ok() => {
            format!("write `dns.servers.first = \"{text}\"`")
        }
        "Dns" => {
            "write `dns.servers.NAME` for a server, and `dns.search.NAME` for a domain".to_owned()
        }
        "Volume" if text.starts_with('/') => format!("write `volumes.{field}.host = \"{text}\"`"),
        "Volume" if is_path => format!(
            "write `volumes.{field}.host`, with the absolute path of `{text}`; `volumes.{field} = {{}}` is one that Tank keeps"
        ),
        "Volume" | "SharedVolume" => format!("write `volumes.{field} = {{}}`: Tank keeps it"),
        "File" if is_path => format!("write `files.\"{field}\".source = \"{text}\"`"),
        "File" => format!("write `files.\"{field}\".text`"),
        _ => return None,
    })
}

/// What to write in the place of pods that are the fields of a record, where they are a list.
pub(super) fn listed(field: &str, names: &[String]) -> Option<String> {
    if !matches!(field, "allow_from" | "egress") || names.is_empty() {
        return None;
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    Some(format!(
        "name them in a list: `{field} = [{}]`",
        quoted.join(", ")
    ))
}

/// Whether a name is a field's without quotes.
fn is_field(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(legal)
}

/// How published ports are written here.
pub(super) const PUBLISH_HERE: &str =
    "write an entry for each, by a name of your own: `publish.http = { port = 8080, to = 80 }`";

/// A published port that is written as by Compose, `"8080:80"`, as Tank writes it: the field's name and
/// what stands there.
pub(super) fn published(name: &str, written: &Value) -> String {
    let text = match written {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let entry = read(&text).unwrap_or_else(|| "{ port = 8080, to = 80 }".to_owned());
    let mut help =
        format!("write `publish.{name} = {entry}`: `port` is the host's, `to` the pod's");
    if !entry.contains("address") {
        help.push_str(
            ". It is reached from this host alone; from everywhere with `address = [\"0.0.0.0\", \"::\"]` in it",
        );
    }
    help
}

/// `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`. None: it is something else.
fn read(text: &str) -> Option<String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (address, port, to) = match rest.rsplit_once(':') {
        None => (None, rest, rest),
        Some((rest, to)) => match rest.rsplit_once(':') {
            None => (None, rest, to),
            Some((address, port)) => (Some(address), port, to),
        },
    };
    let (port, to) = (port.parse::<Ports>().ok()?, to.parse::<Ports>().ok()?);
    let said = |ports: Ports| match ports.count() {
        1 => ports.first().to_string(),
        _ => format!("\"{ports}\""),
    };
    let mut entry = format!("{{ port = {}", said(port));
    if to != port {
        entry.push_str(&format!(", to = {}", said(to)));
    }
    if let Some(address) = address.filter(|address| !address.is_empty()) {
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = address.parse().ok()?;
        entry.push_str(&format!(", address = \"{address}\""));
    }
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => {}
        "udp" => entry.push_str(", protocol = 'udp"),
        _ => return None,
    }
    Some(format!("{entry} }}"))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn ports_of_compose_are_written_as_here() {
        for (text, expected) in [
            ("8080:80", Some("{ port = 8080, to = 80 }")),
            ("80", Some("{ port = 80 }")),
            ("80:80/tcp", Some("{ port = 80 }")),
            ("53:53/UDP", Some("{ port = 53, protocol = 'udp }")),
            (
                "127.0.0.1:8080:80",
                Some("{ port = 8080, to = 80, address = \"127.0.0.1\" }"),
            ),
            (
                "[::]:8000-8010:80-90",
                Some("{ port = \"8000-8010\", to = \"80-90\", address = \"::\" }"),
            ),
            ("http", None),
            ("8080:80/sctp", None),
            ("host:8080:80", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
    }
}
