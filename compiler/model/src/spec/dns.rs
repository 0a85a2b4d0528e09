//! By which names a pod is found, and where it asks for others.

use super::is_default;
use crate::name::{Name, plain_keys};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

/// Another name under which other pods find a pod. It says nothing yet beside its key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {}

/// Where a pod asks for names that no pod has. What is empty is the host's.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Tried in the order of their keys.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub servers: BTreeMap<Name, IpAddr>,
    /// Domains in which a short name is looked for, in the order of their keys.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_keys"
    )]
    pub search: BTreeMap<Name, String>,
    /// Options of resolv.conf(5), each with its number, or with nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}

/// Where a name in `/etc/hosts` leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum HostAddress {
    /// The host, by its addresses on the bridge.
    Gateway,
    /// This address.
    Address(IpAddr),
}

/// The word for [`HostAddress::Gateway`], as Docker has it.
pub const HOST_GATEWAY: &str = "host-gateway";

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str(HOST_GATEWAY),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for HostAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            HOST_GATEWAY => Ok(Self::Gateway),
            address => address.parse().map(Self::Address),
        }
    }
}

impl Serialize for HostAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a text is a name that DNS can carry and a resolver's file can hold: at most 253 of
/// `a-z`, `0-9`, `-`, `_` and `.`, in labels of 1 to 63 of which none begins or ends with `-`
/// (RFC 1035, section 2.3.4).
pub fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether a text is a host name: at most 64 of `a-z`, `0-9`, `-` and `.`, as the kernel holds it.
pub fn is_hostname(text: &str) -> bool {
    text.len() <= 64 && text.split('.').all(|label| Name::new(label).is_ok())
}

/// Whether a name means something to resolvers themselves (RFC 6761).
pub fn is_reserved(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last.to_ascii_lowercase().as_str(), "localhost" | "arpa")
}
