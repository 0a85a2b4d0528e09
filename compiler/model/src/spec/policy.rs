//! Who may open connections to a pod, and to whom a pod may.

use crate::{name::Name, units::parse_network};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::Value;
use std::{fmt, net::IpAddr};

/// The word for [`Peer::Internet`]. A pod of this name is said with its stack, or with `:` alone.
pub const INTERNET: &str = "internet";

/// The most entries of a list of peers.
pub const MAX_PEERS: usize = 256;

/// Who may open connections to a pod. The host itself always may.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AllowFrom {
    /// Every pod, and whoever comes through a published port.
    #[default]
    All,
    /// Nobody else.
    None,
    /// These.
    Peers(Vec<Peer>),
}

/// To whom a pod may open connections. The name server of its bridge always answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Egress {
    /// Everybody.
    #[default]
    All,
    /// Nobody.
    None,
    /// [`Peer::Internet`] alone.
    Internet,
    /// These.
    Peers(Vec<Peer>),
}

/// Somebody that a policy names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Peer {
    /// A pod, wherever its addresses are.
    Pod(Name),
    /// A network, or one address.
    Net(IpNet),
    /// What is neither on this host nor in a private network.
    Internet,
}

/// Why a text names nobody.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no pod, no address and no network")]
pub struct PeerError(String);

impl Peer {
    /// Reads what is no pod: an address, a network with its prefix, or [`INTERNET`]. None: it is a
    /// pod's name, or nothing.
    pub fn of_address(text: &str) -> Option<Self> {
        if text == INTERNET {
            return Some(Self::Internet);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Net(address.into()));
        }
        parse_network(text).ok().map(|net| Self::Net(net.trunc()))
    }

    /// Reads what a source of `stack` says.
    ///
    /// # Errors
    /// When it is none of all that.
    pub fn read(text: &str, stack: Option<&Name>) -> Result<Self, PeerError> {
        if let Some(peer) = Self::of_address(text) {
            return Ok(peer);
        }
        Name::reference(text, stack)
            .map(Self::Pod)
            .map_err(|_| PeerError(text.to_owned()))
    }

    /// As a source of `stack` says it.
    pub fn as_seen_from(&self, stack: Option<&str>) -> String {
        match self {
            Self::Pod(pod) => match pod.as_seen_from(stack) {
                same if same == INTERNET => match pod.stack() {
                    Some(_) => pod.to_string(),
                    None => format!(":{same}"),
                },
                other => other,
            },
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) if pod.as_str() == INTERNET => write!(f, ":{pod}"),
            Self::Pod(pod) => pod.fmt(f),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Internet => f.write_str(INTERNET),
        }
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text, None).map_err(D::Error::custom)
    }
}

fn peers<E: Error>(value: Value, words: &str) -> Result<Vec<Peer>, E> {
    let refused = || E::custom(format!("this is none of {words}, and no array of texts"));
    let Value::Array(items) = value else {
        return Err(refused());
    };
    if items.len() > MAX_PEERS {
        return Err(E::custom(format!("more than {MAX_PEERS} entries")));
    }
    let item = |item| Peer::deserialize(item).map_err(E::custom);
    items.into_iter().map(item).collect()
}

impl Serialize for AllowFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::Peers(peers) => peers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AllowFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(word) if word == "all" => Ok(Self::All),
            Value::String(word) if word == "none" => Ok(Self::None),
            other => peers(other, "`all` and `none`").map(Self::Peers),
        }
    }
}

impl Serialize for Egress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::Internet => serializer.serialize_str(INTERNET),
            Self::Peers(peers) => peers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Egress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(word) if word == "all" => Ok(Self::All),
            Value::String(word) if word == "none" => Ok(Self::None),
            Value::String(word) if word == INTERNET => Ok(Self::Internet),
            other => peers(other, "`all`, `none` and `internet`").map(Self::Peers),
        }
    }
}

impl AllowFrom {
    /// Those it names. None: everybody.
    pub fn peers(&self) -> Option<&[Peer]> {
        match self {
            Self::All => None,
            Self::None => Some(&[]),
            Self::Peers(peers) => Some(peers),
        }
    }
}

impl Egress {
    /// Those it names. None: everybody.
    pub fn peers(&self) -> Option<&[Peer]> {
        match self {
            Self::All => None,
            Self::None => Some(&[]),
            Self::Internet => Some(&[Peer::Internet]),
            Self::Peers(peers) => Some(peers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_are_read_and_written() {
        for value in [
            json!("all"),
            json!("none"),
            json!([]),
            json!([
                "web",
                "shop:web",
                "10.0.0.0/8",
                "fd00::1",
                ":internet",
                "internet"
            ]),
        ] {
            let read: AllowFrom = serde_json::from_value(value.clone()).expect("a policy");
            assert_eq!(serde_json::to_value(read).expect("a value"), value);
            let read: Egress = serde_json::from_value(value.clone()).expect("a policy");
            assert_eq!(serde_json::to_value(read).expect("a value"), value);
        }
        assert_eq!(
            serde_json::from_value::<Egress>(json!("internet")).expect("a policy"),
            Egress::Internet
        );
        for value in [
            json!("web"),
            json!(7),
            json!([""]),
            json!(["a b"]),
            json!(["10.0.0.0/33"]),
            json!([1]),
        ] {
            assert!(
                serde_json::from_value::<AllowFrom>(value.clone()).is_err(),
                "{value}"
            );
            assert!(
                serde_json::from_value::<Egress>(value.clone()).is_err(),
                "{value}"
            );
        }
        assert!(serde_json::from_value::<AllowFrom>(json!("internet")).is_err());
    }

    #[test]
    fn peers_are_pods_addresses_and_networks() {
        let pod = |name: &str| Peer::Pod(Name::of_pod(name).expect("a name"));
        let blog = Name::new("blog").expect("a name");
        let read = |text: &str| Peer::read(text, Some(&blog)).expect("a peer");
        assert_eq!(read("web"), pod("blog:web"));
        assert_eq!(read(":web"), pod("web"));
        assert_eq!(read("shop:web"), pod("shop:web"));
        assert_eq!(read("internet"), Peer::Internet);
        assert_eq!(read(":internet"), pod("internet"));
        assert_eq!(read("10.0.0.7").to_string(), "10.0.0.7");
        assert_eq!(read("10.0.0.7/8").to_string(), "10.0.0.0/8");
        assert_eq!(read("::1").to_string(), "::1");
        assert_eq!(pod("blog:web").as_seen_from(Some("blog")), "web");
        assert_eq!(
            pod("blog:internet").as_seen_from(Some("blog")),
            "blog:internet"
        );
        assert_eq!(pod("internet").as_seen_from(None), ":internet");
    }
}
