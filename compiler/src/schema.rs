//! The values that contracts accept: what `stdlib/tank.ncl` checks with functions of Nickel, in
//! Rust, so that every mistake has a code, a message and a help text.
//!
//! The contracts themselves are data: [`tank_model::schema`], which `nickel::contracts` reads from
//! the syntax of the stdlib.

use serde_json::Value;
use std::{net::IpAddr, str::FromStr};
use tank_model::{
    Name, Platform, Reference,
    name::nearest,
    schema::{Kind, Schema, Shape},
    spec::{Amount, FileOwner, FolderMode, HostAddress, LogRate, Mode, Owner, Peer, Ports},
    units::{Bytes, MilliCpu, Millis, parse_network},
};

/// What a value of a kind is, in words for a message: `a text`.
pub fn words(kind: &Kind, schema: &Schema) -> String {
    match kind {
        Kind::String => "a text".to_owned(),
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Array(of) => match of.as_ref() {
            Kind::Named(name) if name == "Subnet" => "an array of networks".to_owned(),
            Kind::Named(name) if name == "Address" => "an array of addresses".to_owned(),
            _ => "an array of texts".to_owned(),
        },
        Kind::Dict(_) => "a record keyed by name".to_owned(),
        Kind::Named(name) => match schema.contracts.get(name).map(|contract| &contract.shape) {
            Some(Shape::Record(_)) => "a record".to_owned(),
            Some(Shape::Enum(tags)) => one_of(tags),
            _ => expected(name).to_owned(),
        },
    }
}

/// What a record of a contract is, in words for a message: `a container`. The names of contracts are
/// the stdlib's.
pub fn noun(contract: &str) -> &'static str {
    match contract {
        "Alias" => "an alias",
        "Backup" => "a volume's `backup`",
        "Capabilities" => "a container's `capabilities`",
        "Config" => "the configuration",
        "Container" => "a container",
        "Device" => "a device",
        "Dns" => "a pod's `dns`",
        "File" => "a file",
        "Hook" => "a hook",
        "HttpProbe" => "an HTTP probe",
        "Limits" => "a container's `limits`",
        "Logs" => "a container's `logs`",
        "Membership" => "a network of a pod",
        "Mount" => "a mount",
        "NamedNetwork" => "a network",
        "Nic" => "an interface",
        "NicRoute" => "a route",
        "Nics" => "a network of the pod's own",
        "Pod" => "a pod",
        "Probe" => "a probe",
        "Publish" => "a published port",
        "Seccomp" => "a container's `seccomp`",
        "Secret" => "a secret",
        "SharedVolume" => "a volume that pods share",
        "Stop" => "a container's `stop`",
        "TcpProbe" => "a TCP probe",
        "Ulimit" => "a ulimit",
        "Volume" => "a volume",
        _ => "this record",
    }
}

/// `'a`, `'b` or `'c`.
pub fn one_of(tags: &[String]) -> String {
    let quoted: Vec<String> = tags.iter().map(|tag| format!("`'{tag}`")).collect();
    match quoted.as_slice() {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.join(""),
    }
}

/// What a value contract wants.
fn expected(contract: &str) -> &'static str {
    match contract {
        "Port" => "a port from 1 to 65535",
        "Ports" => "a port from 1 to 65535, or several such as \"8000-8010\"",
        "Addresses" => "an address such as \"127.0.0.1\", or an array of some",
        "Peer" => "a pod such as \"web\", an address, or a subnet such as \"10.0.0.0/8\"",
        "AllowFrom" => "`'all`, `'none`, or an array of pods, addresses and subnets",
        "Egress" => "`'all`, `'none`, `'internet`, or an array of pods, addresses and subnets",
        "Count" => "a whole number",
        "Amount" => "a whole number or \"unlimited\"",
        "Size" => "a number of bytes, or for example \"256MiB\"",
        "Rate" => "a number of bytes a second, for example \"1MiB\", or \"unlimited\"",
        "Age" => "a time such as \"12h\", \"1d\" or \"2w\"",
        "Time" => "a time such as \"500ms\", \"30s\" or \"5m\"",
        "Cpu" => "a number of CPUs, for example 0.5, \"1.5\" or \"500m\"",
        "FolderMode" => "a directory's mode such as \"0750\"",
        "Mode" => "a file mode such as \"0644\"",
        "Owner" => "an owner such as \"999:999\"",
        "FileOwner" => "an owner such as \"postgres\" or \"999:999\"",
        "Signal" => "a signal such as \"SIGTERM\"",
        "Reload" => "a signal such as \"SIGHUP\", or \"none\"",
        "Image" => "an image such as \"nginx:1.27\"",
        "Platform" => "a platform such as \"linux/arm64\"",
        "HostAddress" => "an address such as \"10.0.0.1\", or \"host-gateway\"",
        "Address" => "an address such as \"127.0.0.1\"",
        "Cidr" => "an address with its prefix, such as \"10.0.0.5/24\"",
        "Subnet" => "a network such as \"10.91.7.0/24\"",
        "Capability" => "a capability such as \"CAP_NET_ADMIN\"",
        "SystemCall" => "a system call such as \"keyctl\"",
        "Name" => "a name such as \"blog\"",
        "Network" => "`'bridge`, `'host`, `'none`, or a record with `nics`",
        _ => "another value",
    }
}

/// The fields around one that are entries by a name of somebody's own, as `pods.web` and
/// `pods.web.publish.http` are of `pods.web.publish.http.port`: the lengths of their paths.
pub fn entries_around(schema: &Schema, path: &[String]) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut record = "Config";
    let mut at = 0;
    while let Some(name) = path.get(at) {
        let fields = schema.record(record).unwrap_or_default();
        let Some(field) = fields.iter().find(|field| field.name == *name) else {
            break;
        };
        let of = match &field.kind {
            Kind::Dict(of) => {
                at += 2;
                lengths.extend(Some(at).filter(|length| *length < path.len()));
                of.as_ref()
            }
            other => {
                at += 1;
                other
            }
        };
        let Kind::Named(of) = of else { break };
        record = of;
    }
    lengths
}

/// A value that a contract refuses.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, with a page of its own.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub help: String,
}

impl Refusal {
    fn invalid(message: String) -> Self {
        Self {
            code: "tank::value::invalid",
            message,
            help: String::new(),
        }
    }
}

/// Checks a value against a contract whose shape is [`Shape::Value`].
///
/// # Errors
/// What is wrong with it.
// long: one arm a contract
pub fn check_value(contract: &str, value: &Value) -> Result<(), Refusal> {
    let wrong_type = || Refusal {
        code: "tank::value::type",
        message: format!("this is {}, not {}", kind_of(value), expected(contract)),
        help: String::new(),
    };
    let text = || value.as_str().ok_or_else(wrong_type);
    let quantity = |parse: &dyn Fn(&str) -> Result<(), String>| match value {
        Value::String(text) => parse(text).map_err(Refusal::invalid),
        Value::Number(number) => parse(&number.to_string()).map_err(Refusal::invalid),
        _ => Err(wrong_type()),
    };
    match contract {
        "Port" => match value.as_u64() {
            Some(1..=65_535) => Ok(()),
            _ if value.is_number() => Err(Refusal::invalid(format!(
                "{value} is no port, use 1 to 65535"
            ))),
            _ => Err(wrong_type()),
        },
        "Ports" if value.is_number() => check_value("Port", value),
        "Ports" => ports(text()?),
        "Peer" => peer(text()?),
        "Count" => match value.as_u64() {
            Some(0..=0xffff_ffff) => Ok(()),
            _ if value.is_number() => Err(Refusal::invalid(format!(
                "{value} is no whole number from 0 to 4294967295"
            ))),
            _ => Err(wrong_type()),
        },
        "Amount" => Amount::try_from(value.clone())
            .map(drop)
            .map_err(Refusal::invalid),
        "Rate" => LogRate::try_from(value.clone())
            .map(drop)
            .map_err(|error| Refusal::invalid(error.to_string())),
        "Size" => quantity(&|text| Bytes::parse(text).map(drop).map_err(|e| e.to_string())),
        "Cpu" => quantity(&|text| MilliCpu::parse(text).map(drop).map_err(|e| e.to_string())),
        "Time" => Millis::parse(text()?)
            .map(drop)
            .map_err(|e| Refusal::invalid(e.to_string())),
        "Age" => Millis::parse_age(text()?)
            .map(drop)
            .map_err(|e| Refusal::invalid(e.to_string())),
        "FolderMode" => FolderMode::try_from(text()?.to_owned())
            .map(drop)
            .map_err(Refusal::invalid),
        "Mode" => Mode::try_from(text()?.to_owned())
            .map(drop)
            .map_err(Refusal::invalid),
        "Owner" => Owner::try_from(text()?.to_owned())
            .map(drop)
            .map_err(Refusal::invalid),
        "FileOwner" => FileOwner::try_from(text()?.to_owned())
            .map(drop)
            .map_err(Refusal::invalid),
        "Signal" => signal(text()?),
        "Reload" if value.as_str() == Some(tank_model::spec::READS_AGAIN) => Ok(()),
        "Reload" => signal(text()?),
        "Image" => image(text()?),
        "Platform" => platform(text()?),
        "Name" => Name::new(text()?).map(drop).map_err(|e| Refusal {
            code: "tank::name::invalid",
            message: e.to_string(),
            help: "for example \"blog\"".to_owned(),
        }),
        "Address" | "Addresses" => address(text()?),
        "HostAddress" => {
            let text = text()?;
            let wrong = format!("`{text}` is no IP address, and not `host-gateway`");
            HostAddress::from_str(text)
                .map(drop)
                .map_err(|_| Refusal::invalid(wrong))
        }
        "Cidr" => parse_network(text()?)
            .map(drop)
            .map_err(|e| Refusal::invalid(e.to_string())),
        "Subnet" => subnet(text()?),
        "Capability" => capability(text()?),
        "SystemCall" => system_call(text()?),
        _ => Ok(()),
    }
}

/// Whether a value is of a contract's kind at all, for its message.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "a record",
    }
}

fn image(text: &str) -> Result<(), Refusal> {
    Reference::from_str(text).map(drop).map_err(|e| Refusal {
        code: "tank::image::invalid",
        message: e.to_string(),
        help: "for example \"nginx:1.27\", \"ghcr.io/a/b@sha256:…\", \"oci:./image:tag\" for a layout on disk, \"docker-archive:./app.tar\" for what `docker save` writes, or \"dir:./rootfs\" for a root directory"
            .to_owned(),
    })
}

fn platform(text: &str) -> Result<(), Refusal> {
    Platform::from_str(text).map(drop).map_err(|e| Refusal {
        code: "tank::platform::invalid",
        message: e.to_string(),
        help: "in the words of OCI images: \"linux/amd64\", \"linux/arm64\", \"linux/arm/v7\""
            .to_owned(),
    })
}

fn address(text: &str) -> Result<(), Refusal> {
    let read = IpAddr::from_str(text).map(drop);
    read.map_err(|_| Refusal::invalid(format!("`{text}` is no IP address")))
}

fn subnet(text: &str) -> Result<(), Refusal> {
    if parse_network(text).is_ok() {
        return Ok(());
    }
    let whole = |address: IpAddr| {
        let length = if address.is_ipv4() { 24 } else { 64 };
        parse_network(&format!("{address}/{length}")).ok()
    };
    Err(match IpAddr::from_str(text).ok().and_then(whole) {
        Some(net) => Refusal {
            code: "tank::value::invalid",
            message: format!("`{text}` has no prefix length: it is one address, and not a network"),
            help: format!("write \"{}\"", net.trunc()),
        },
        None => Refusal {
            code: "tank::value::invalid",
            message: format!("`{text}` is no network"),
            help: "for example \"10.91.7.0/24\" or \"fd00:7::/64\"".to_owned(),
        },
    })
}

fn ports(text: &str) -> Result<(), Refusal> {
    match text.parse::<Ports>() {
        Ok(ports) if ports.first() > 0 => Ok(()),
        Ok(_) => Err(Refusal::invalid("0 is no port, use 1 to 65535".to_owned())),
        Err(error) => Err(Refusal::invalid(error.to_string())),
    }
}

fn peer(text: &str) -> Result<(), Refusal> {
    if let Ok(net) = parse_network(text)
        && net.trunc() != net
    {
        return Err(Refusal {
            code: "tank::value::invalid",
            message: format!("`{text}` is an address in a network, and not the network"),
            help: format!(
                "write \"{}\", or \"{}\" for that address",
                net.trunc(),
                net.addr()
            ),
        });
    }
    Peer::read(text, None).map(drop).map_err(|error| Refusal {
        code: "tank::value::invalid",
        message: error.to_string(),
        help: "for example \"web\", \"shop:web\", \"10.0.0.0/8\" or \"internet\"".to_owned(),
    })
}

fn signal(text: &str) -> Result<(), Refusal> {
    let known = tank_model::spec::SIGNALS.contains(&text)
        || text
            .strip_prefix("SIGRTMIN+")
            .and_then(|n| n.parse::<u8>().ok())
            .is_some_and(|n| n <= 30);
    if known {
        return Ok(());
    }
    let upper = text.to_uppercase();
    let candidates = tank_model::spec::SIGNALS.iter().copied();
    let near =
        nearest(&upper, candidates.clone()).or_else(|| nearest(&format!("SIG{upper}"), candidates));
    let help = near.map_or_else(
        || "see signal(7)".to_owned(),
        |near| format!("did you mean \"{near}\"?"),
    );
    Err(Refusal {
        code: "tank::signal::unknown",
        message: format!("`{text}` is no signal"),
        help,
    })
}

fn capability(text: &str) -> Result<(), Refusal> {
    let known = tank_model::spec::CAPABILITIES;
    if known.contains(&text) || text == "ALL" {
        return Ok(());
    }
    let upper = text.to_uppercase();
    let prefixed = format!("CAP_{upper}");
    let exact = known.iter().find(|name| **name == prefixed).copied();
    let near = exact.or_else(|| nearest(&upper, known.iter().copied()));
    let help = near.map_or_else(
        || "see capabilities(7)".to_owned(),
        |near| format!("did you mean \"{near}\"?"),
    );
    Err(Refusal {
        code: "tank::capability::unknown",
        message: format!("`{text}` is no capability"),
        help,
    })
}

/// A name is known if it is on any architecture that Tank runs on: whether this machine has the
/// call is its daemon's to say, which may be on another one.
fn system_call(text: &str) -> Result<(), Refusal> {
    let known = text.parse::<syscalls::x86_64::Sysno>().is_ok()
        || text.parse::<syscalls::aarch64::Sysno>().is_ok();
    if known {
        return Ok(());
    }
    let near = nearest(
        text,
        syscalls::x86_64::Sysno::iter().map(|call| call.name()),
    );
    let help = near.map_or_else(
        || "see syscalls(2)".to_owned(),
        |near| format!("did you mean \"{near}\"?"),
    );
    Err(Refusal {
        code: "tank::seccomp::unknown",
        message: format!("`{text}` is no system call"),
        help,
    })
}
