//! Ports of the host that lead to a pod.

use super::is_default;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

/// The most ports of one [`Publish`].
pub const MAX_PORTS: usize = 4096;

/// Ports of the host that lead to ports of the pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The host's.
    pub port: Ports,
    /// The pod's: as many, each for one of the host's, or one for all; the same unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: Option<Ports>,
    /// The host's addresses; 127.0.0.1 unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: Addresses,
    /// TCP unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocols,
}

/// One port of the host that leads to one of the pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lead {
    /// The host's address; an unspecified one is every address of its family.
    pub address: IpAddr,
    /// By which it is spoken to.
    pub protocol: Protocol,
    /// Of the host.
    pub port: u16,
    /// Of the pod.
    pub to: u16,
}

impl Publish {
    /// The ports inside the pod.
    pub fn target(&self) -> Ports {
        self.to.unwrap_or(self.port)
    }

    /// Each port of the host by itself.
    pub fn leads(&self) -> impl Iterator<Item = Lead> + '_ {
        let target = self.target();
        let first = self.port.first;
        let to = move |port: u16| match target.count() {
            1 => target.first,
            _ => target.first.saturating_add(port - first),
        };
        let of_port = move |address: IpAddr, protocol: Protocol| {
            self.port.iter().map(move |port| Lead {
                address,
                protocol,
                port,
                to: to(port),
            })
        };
        self.address.iter().flat_map(move |address| {
            let protocols = self.protocol.each().iter();
            protocols.flat_map(move |protocol| of_port(address, *protocol))
        })
    }
}

/// One port, or several in a row: `8080` or `"8000-8010"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// Why a text says no ports.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no port and no range of ports such as `8000-8010`")]
pub struct PortsError(String);

impl Ports {
    /// From the first to the last, both included. None: the last is below the first.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first one.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last one.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many they are.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }

    /// The first that both have.
    pub fn common(self, other: Self) -> Option<u16> {
        let first = self.first.max(other.first);
        (first <= self.last.min(other.last)).then_some(first)
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|_| digits)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        port(first)
            .zip(port(last))
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| PortsError(text.to_owned()))
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(u16),
            Text(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::One(port)) => Ok(port.into()),
            Ok(Written::Text(text)) => text.parse().map_err(D::Error::custom),
            Err(_) => Err(D::Error::custom("this is no port and no range of ports")),
        }
    }
}

/// At least one address of the host: a text, or an array of texts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Addresses(BTreeSet<IpAddr>);

impl Addresses {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().copied()
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self([IpAddr::from([127, 0, 0, 1])].into())
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.first() {
            Some(address) if self.0.len() == 1 => address.serialize(serializer),
            _ => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(IpAddr),
            Several(BTreeSet<IpAddr>),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::One(address)) => Ok(Self([address].into())),
            Ok(Written::Several(addresses)) if !addresses.is_empty() => Ok(Self(addresses)),
            Ok(Written::Several(_)) => Err(D::Error::custom(
                "without an address nothing is published: leave `address` out for 127.0.0.1",
            )),
            Err(_) => Err(D::Error::custom(
                "this is no IP address, and no array of some",
            )),
        }
    }
}

/// By which protocols published ports are spoken to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocols {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// Either.
    Both,
}

impl Protocols {
    /// Each of them.
    pub fn each(self) -> &'static [Protocol] {
        match self {
            Self::Tcp => &[Protocol::Tcp],
            Self::Udp => &[Protocol::Udp],
            Self::Both => &[Protocol::Tcp, Protocol::Udp],
        }
    }

    /// What is written behind a port: nothing for TCP alone.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Tcp => "",
            Self::Udp => "/udp",
            Self::Both => "/tcp+udp",
        }
    }
}

/// The protocol of a published port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Publish {
        serde_json::from_value(value).expect("a published port")
    }

    #[test]
    fn what_is_written_shortest_is_what_it_was_before_there_were_ranges() {
        for value in [
            json!({ "port": 80 }),
            json!({ "port": 80, "to": 81, "address": "0.0.0.0", "protocol": "udp" }),
            json!({ "port": "80-90", "to": "180-190", "address": ["10.0.0.1", "::"], "protocol": "both" }),
        ] {
            let back = serde_json::to_value(read(value.clone())).expect("a value");
            assert_eq!(back, value);
        }
        let spelt = json!({ "port": "80", "address": ["127.0.0.1"], "protocol": "tcp" });
        assert_eq!(
            serde_json::to_value(read(spelt)).expect("a value"),
            json!({ "port": 80 })
        );
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "", "-", "a", "80-", "-80", "90-80", "1-65536", "+80", "80-90-95",
        ] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
        for value in [
            json!(-1),
            json!(65536),
            json!(1.5),
            json!([80]),
            json!(null),
        ] {
            assert!(
                serde_json::from_value::<Ports>(value.clone()).is_err(),
                "{value}"
            );
        }
        for value in [json!([]), json!("web"), json!(["10.0.0.1", "x"]), json!(7)] {
            assert!(
                serde_json::from_value::<Addresses>(value.clone()).is_err(),
                "{value}"
            );
        }
    }

    #[test]
    fn each_port_leads_to_its_own_or_all_to_one() {
        let leads = |value| {
            let publish: Publish = read(value);
            let lead = |lead: Lead| {
                format!(
                    "{} {:?} {}>{}",
                    lead.address, lead.protocol, lead.port, lead.to
                )
            };
            publish.leads().map(lead).collect::<Vec<_>>()
        };
        assert_eq!(leads(json!({ "port": 80 })), ["127.0.0.1 Tcp 80>80"]);
        assert_eq!(
            leads(json!({ "port": "80-81", "to": "8-9", "address": ["::", "0.0.0.0"] })),
            [
                "0.0.0.0 Tcp 80>8",
                "0.0.0.0 Tcp 81>9",
                ":: Tcp 80>8",
                ":: Tcp 81>9"
            ]
        );
        assert_eq!(
            leads(json!({ "port": "80-81", "to": 8, "protocol": "both" })),
            [
                "127.0.0.1 Tcp 80>8",
                "127.0.0.1 Tcp 81>8",
                "127.0.0.1 Udp 80>8",
                "127.0.0.1 Udp 81>8"
            ]
        );
        assert_eq!(leads(json!({ "port": "65535-65535" })).len(), 1);
        assert_eq!(leads(json!({ "port": "0-65535" })).len(), 65536);
    }
}
