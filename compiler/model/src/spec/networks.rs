//! Networks of some pods only, beside the default one that all others are on.

use super::{Alias, is_default};
use crate::{
    name::{Name, NameError},
    units::Cidr,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// The host's default network, which no configuration declares. It belongs to no stack, and every
/// source calls it this.
pub const DEFAULT_NETWORK: &str = "default";

/// The most networks of a host.
pub const MAX_NETWORKS: usize = 256;

/// The most networks of a pod.
pub const MAX_MEMBERSHIPS: usize = 16;

/// A network of some pods only: a bridge of its own. By the name that it has on a host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedNetwork {
    /// Whether nothing leads out of it or into it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub internal: bool,
    /// Its addresses, one subnet of a family at most. None: leased from the host's pools.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subnets: Vec<Cidr>,
}

/// What a pod is on a network.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Static ones, one of a family at most. None: leased.
    #[serde(default, skip_serializing_if = "is_default")]
    pub addresses: Vec<IpAddr>,
    /// Names under which pods find it on this network, beside those it has everywhere.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aliases: BTreeMap<String, Alias>,
}

impl NamedNetwork {
    /// Its declared subnets, in the order that they were declared in.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.subnets.iter().map(|subnet| subnet.0)
    }
}

impl Name {
    /// The network that a source of `stack` means, as [`Name::reference`] has it for pods, but for
    /// [`DEFAULT_NETWORK`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn network(text: &str, stack: Option<&Self>) -> Result<Self, NameError> {
        match text {
            DEFAULT_NETWORK => Self::new(text),
            _ => Self::reference(text, stack),
        }
    }

    /// How a source of `stack` says this network: [`Name::network`] gives it back.
    pub fn network_as_seen_from(&self, stack: Option<&str>) -> String {
        match self.as_str() {
            DEFAULT_NETWORK => DEFAULT_NETWORK.to_owned(),
            _ => self.as_seen_from(stack),
        }
    }

    /// Whether this is the host's default network.
    pub fn is_default_network(&self) -> bool {
        self.as_str() == DEFAULT_NETWORK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_says_which_network_it_means() {
        let blog = Name::new("blog").expect("a name");
        for (stack, said, meant) in [
            (Some(&blog), "back", "blog:back"),
            (Some(&blog), ":back", "back"),
            (Some(&blog), "shop:back", "shop:back"),
            (Some(&blog), "default", "default"),
            (Some(&blog), ":default", "default"),
            (None, "default", "default"),
            (None, "back", "back"),
            (None, "shop:back", "shop:back"),
        ] {
            let found = Name::network(said, stack).expect(said);
            assert_eq!(found.as_str(), meant, "{said}");
            let again = found.network_as_seen_from(stack.map(Name::as_str));
            assert_eq!(Name::network(&again, stack), Ok(found), "{again}");
        }
        for bad in ["", ":", "a/b", "Back", "a:b:c"] {
            assert!(Name::network(bad, Some(&blog)).is_err(), "{bad}");
        }
    }
}
