//! Networks of others: what is the same in every dialect.

use super::{Draft, fresh, name_of, record};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, net::IpAddr};
use tank_model::{
    Name, check,
    spec::{DEFAULT_NETWORK, NamedNetwork, is_domain},
    units::{Cidr, parse_network},
};

impl Draft {
    /// Declares a network, by the nearest name that is not taken; which one that is.
    pub(crate) fn network(&mut self, wanted: &str) -> String {
        let name = self.unremarked_network(wanted);
        if name != wanted {
            let remark = format!("The network `{wanted}` is called `{name}`.");
            self.remarks.push(remark);
        }
        name
    }

    /// The same, of one that the source does not call so.
    pub(crate) fn unremarked_network(&mut self, wanted: &str) -> String {
        let mut taken = Map::new();
        taken.insert(DEFAULT_NETWORK.to_owned(), Value::Null);
        taken.extend(self.networks.keys().map(|name| (name.clone(), Value::Null)));
        let name = fresh(&taken, &name_of(wanted));
        self.networks.insert(name.clone(), json!({}));
        name
    }

    pub(crate) fn set_internal(&mut self, network: &str) {
        if let Some(Value::Object(fields)) = self.networks.get_mut(network) {
            fields.insert("internal".to_owned(), true.into());
        }
    }

    fn typed(&self, network: &str) -> NamedNetwork {
        let typed = self.networks.get(network).cloned();
        let typed = typed.and_then(|fields| serde_json::from_value(fields).ok());
        typed.unwrap_or_default()
    }

    /// The families of a network's subnets: whether each is IPv6.
    pub(crate) fn families(&self, network: &str) -> BTreeSet<bool> {
        let own = self.typed(network);
        own.nets().map(|net| net.addr().is_ipv6()).collect()
    }

    /// Gives a network a subnet, unless Tank would refuse that.
    pub(crate) fn subnet(&mut self, network: &str, key: &str, text: &str) {
        let Ok(net) = parse_network(text) else {
            return self.note(key, format!("`{text}` is no subnet"));
        };
        let net = net.trunc();
        let mut own = self.typed(network);
        if own
            .nets()
            .any(|other| other.addr().is_ipv4() == net.addr().is_ipv4())
        {
            let why = "a network has one subnet of a family: this one is not used";
            return self.note(key, why);
        }
        if let Some((message, _)) = check::wrong_subnet(net) {
            return self.note(key, format!("{message}: the network is leased one"));
        }
        let others: Vec<NamedNetwork> = self.networks.keys().map(|name| self.typed(name)).collect();
        let mut others = others.iter().flat_map(NamedNetwork::nets);
        if others.any(|other| other.contains(&net) || net.contains(&other)) {
            let why = "another network has these addresses: this one is leased some";
            return self.note(key, why);
        }
        own.subnets.push(Cidr(net));
        let typed = serde_json::to_value(own).unwrap_or_default();
        self.networks.insert(network.to_owned(), typed);
    }

    /// Whether an address is the one that a network's bridge has anyhow.
    pub(crate) fn is_gateway(&self, network: &str, text: &str) -> bool {
        let own = self.typed(network);
        let first = |net| tank_model::units::nth_address(net, 1).map(|first| first.addr());
        let address = text.parse::<IpAddr>().ok();
        address.is_some() && own.nets().any(|net| first(net) == address)
    }

    /// Gives a pod an address on a network, unless Tank would refuse that.
    pub(crate) fn address(
        &mut self,
        network: &str,
        key: &str,
        text: &str,
        membership: &mut Map<String, Value>,
    ) {
        let Ok(address) = text.parse::<IpAddr>() else {
            return self.note(key, format!("`{text}` is no IP address"));
        };
        if network == DEFAULT_NETWORK {
            let why =
                "on the default network a pod's address is Tank's to give: it stays with the name";
            return self.note(key, why);
        }
        let declared = self.typed(network);
        let name = Name::new(network).ok();
        let wrong = name.and_then(|name| check::wrong_address(address, (&name, &declared)));
        if let Some((message, _)) = wrong {
            return self.note(key, message);
        }
        let list = membership.entry("addresses").or_insert_with(|| json!([]));
        let Value::Array(list) = list else { return };
        let family = |own: &Value| own.as_str().map(|own| own.contains(':'));
        let has_one = list
            .iter()
            .any(|own| family(own) == Some(address.is_ipv6()));
        if has_one || !self.taken.insert((network.to_owned(), address)) {
            return self.note(
                key,
                format!("{address} is the second one, or another pod's"),
            );
        }
        list.push(address.to_string().into());
    }

    /// Gives a pod another name on a network.
    pub(crate) fn network_alias(
        &mut self,
        key: &str,
        alias: &str,
        membership: &mut Map<String, Value>,
    ) {
        let alias = alias.to_ascii_lowercase();
        if is_domain(&alias) {
            record(membership, "aliases").insert(alias, json!({}));
        } else {
            self.note(key, format!("`{alias}` is no name that DNS can carry"));
        }
    }
}

/// What was refused is left as an empty list.
pub(crate) fn without_empty(membership: &mut Map<String, Value>) {
    membership.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
}
