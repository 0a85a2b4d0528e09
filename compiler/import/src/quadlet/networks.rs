//! `.network` units, and the networks of a container.

use super::{Entry, Fields, Unit, is_yes};
use crate::{Draft, networks::without_empty, record};
use serde_json::Value;
use std::collections::BTreeMap;
use tank_model::spec::DEFAULT_NETWORK;

/// What to write in a pod in the place of a network that sits on a link of the host.
const LINK: &str = "it is a part of the host's own network, and no bridge: write `network.nics.eth0 = { mode = 'macvlan, parent = \"eth0\", address = \"…\" }` in the pods that are on it";

/// What a `.network` file declares; the name that the network has here. None: it sits on a link of the host,
/// whose addresses no bridge can have, and is left out.
pub(super) fn network(
    stem: &str,
    file: &str,
    entries: &[Entry],
    draft: &mut Draft,
) -> Option<String> {
    let is_link = |(section, key, value): &&Entry| {
        section == "Network" && key == "Driver" && matches!(value.as_str(), "macvlan" | "ipvlan")
    };
    if let Some((section, key, _)) = entries.iter().find(is_link) {
        draft.note(format!("{file}.{section}.{key}"), LINK);
        return None;
    }
    let own = draft.network(stem);
    let of_network = entries
        .iter()
        .filter(|(section, _, _)| section == "Network");
    let subnets = of_network.clone().filter(|(_, key, _)| key == "Subnet");
    for (section, key, value) in subnets {
        draft.subnet(&own, &format!("{file}.{section}.{key}"), value);
    }
    for (section, key, value) in of_network {
        let why = match (key.as_str(), value.as_str()) {
            // A unit's dependencies and its start are Tank's.
            ("Subnet" | "NetworkName" | "Label" | "IPv6", _) | ("Driver", "bridge") => continue,
            ("Internal", value) if is_yes(value) => {
                draft.set_internal(&own);
                continue;
            }
            ("Internal" | "DisableDNS" | "NetworkDeleteOnStop", value) if !is_yes(value) => {
                continue;
            }
            ("Gateway", value) if draft.is_gateway(&own, value) => continue,
            ("Gateway", _) => "the first address of a subnet is its bridge's, and leads out",
            ("Driver", _) => "a network is a bridge of one host",
            _ => "Tank's networks have no such key",
        };
        draft.note(format!("{file}.{section}.{key}"), why);
    }
    Some(own)
}

/// What a container says of networks, until all of it is known.
#[derive(Default)]
pub(super) struct Networks {
    /// What it is on each, by the names that networks have here.
    on: BTreeMap<String, Fields>,
    aliases: Vec<Entry>,
    addresses: Vec<Entry>,
    /// Whether it is on one that is left out.
    left_out: bool,
}

impl Unit<'_> {
    /// `Network=`, `NetworkAlias=`, `IP=` and `IP6=`.
    pub(super) fn network(&mut self, entry: &Entry) {
        match entry.1.as_str() {
            "NetworkAlias" => return self.networks.aliases.push(entry.clone()),
            "IP" | "IP6" => return self.networks.addresses.push(entry.clone()),
            _ => {}
        }
        let (name, options) = entry.2.split_once(':').unwrap_or((&entry.2, ""));
        let own = match name {
            "host" | "none" => {
                return drop(self.pod.insert("network".to_owned(), name.into()));
            }
            "bridge" => DEFAULT_NETWORK.to_owned(),
            name => match name.strip_suffix(".network") {
                Some(stem) => match self.declared.get(stem) {
                    Some(Some(own)) => own.clone(),
                    Some(None) => {
                        self.networks.left_out = true;
                        return self.note(entry, LINK);
                    }
                    None => return self.note(entry, format!("`{name}` is none of these files")),
                },
                None => {
                    let why = "a network is a `.network` file, `bridge`, `host` or `none`";
                    return self.note(entry, why);
                }
            },
        };
        let mut membership = self.networks.on.remove(&own).unwrap_or_default();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let path = self.key(entry);
            match key {
                "ip" | "ip6" => self.draft.address(&own, &path, value, &mut membership),
                "alias" => self.draft.network_alias(&path, value, &mut membership),
                _ => self.note(entry, format!("a pod has no `{key}` on a network")),
            }
        }
        self.networks.on.insert(own, membership);
    }

    fn key(&self, (section, key, _): &Entry) -> String {
        format!("{}.{section}.{key}", self.file)
    }

    /// Gives the pod its networks, and its names and addresses there.
    pub(super) fn finish_networks(&mut self) {
        let Networks {
            mut on,
            aliases,
            addresses,
            left_out,
        } = std::mem::take(&mut self.networks);
        if left_out && on.is_empty() && !self.pod.contains_key("network") {
            // On the default network it would reach pods, and they it, that it is on no network with.
            self.pod.insert("network".to_owned(), "none".into());
        }
        let no_bridge = self.pod.contains_key("network");
        if no_bridge {
            if !on.is_empty() {
                let key = format!("{}.Container.Network", self.file);
                let why = "it has another network, and is on no bridge";
                self.draft.note(key, why);
            }
            for entry in aliases.iter().chain(&addresses) {
                self.note(entry, "it is not on a bridge, where names lead to");
            }
            return;
        }
        let alone = on.len() == 1;
        for entry in &addresses {
            let path = self.key(entry);
            match on.iter_mut().next().filter(|_| alone) {
                Some((own, membership)) => {
                    self.draft.address(own, &path, &entry.2, membership);
                }
                None => self.note(entry, "an address is one of one network"),
            }
        }
        if on.is_empty() {
            on.insert(DEFAULT_NETWORK.to_owned(), Fields::new());
        }
        for entry in &aliases {
            let path = self.key(entry);
            for membership in on.values_mut() {
                self.draft.network_alias(&path, &entry.2, membership);
            }
        }
        on.values_mut().for_each(without_empty);
        if on.len() == 1
            && let Some(mut default) = on.remove(DEFAULT_NETWORK)
        {
            // On it alone a pod is anyhow, and then its names are the pod's.
            if let Some(Value::Object(mut aliases)) = default.remove("aliases") {
                record(&mut self.pod, "aliases").append(&mut aliases);
            }
            return;
        }
        let networks = record(&mut self.pod, "networks");
        networks.extend(
            on.into_iter()
                .map(|(own, membership)| (own, Value::Object(membership))),
        );
    }
}
