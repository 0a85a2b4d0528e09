//! Which networks there are, and which of them a service is on.

mod links;

pub(super) use links::Link;

use super::{Compose, Fields, Service, array, list, objects, values::boolean};
use crate::{networks::without_empty, record, text_of};
use serde_json::Value;
use tank_model::spec::DEFAULT_NETWORK;

/// What Compose's `default` network is called here, if nothing else is: Tank's is the host's.
const PROJECT: &str = "project";

impl Compose<'_> {
    /// The `networks` of the file.
    pub(super) fn networks(&mut self, value: &Value) {
        let all = value.as_object().into_iter().flatten();
        // `default` last: it has to have a name that no other has.
        let (last, first): (Vec<_>, Vec<_>) = all.partition(|(name, _)| *name == DEFAULT_NETWORK);
        for (name, fields) in first.into_iter().chain(last) {
            let fields = fields.as_object().cloned().unwrap_or_default();
            if let Some(link) = self.link(name, &fields) {
                self.links.insert(name.clone(), link);
                continue;
            }
            let own = match name.as_str() {
                DEFAULT_NETWORK => self.project_network(),
                _ => self.draft.network(name),
            };
            self.networks.insert(name.clone(), own.clone());
            self.declared(name, &own, &fields);
        }
    }

    fn declared(&mut self, name: &str, own: &str, fields: &Fields) {
        let external = fields.get("external");
        let at = format!("networks.{name}.external");
        let is_external = external.is_some_and(|value| !self.is_plain(&at, "external", value));
        for (key, value) in fields {
            let path = format!("networks.{name}.{key}");
            match key.as_str() {
                "name" if is_external => {
                    let why = "it is what Docker calls the network of another project: `external` says what to do";
                    self.draft.note(path, why);
                }
                _ => self.network(own, &path, (key, value)),
            }
        }
        if let Some(value) = fields.get("enable_ipv6") {
            self.enable_ipv6(own, &format!("networks.{name}.enable_ipv6"), value);
        }
    }

    /// The network of services that name none: the project's own, where the file says of anybody who reaches
    /// whom, and else the host's.
    pub(super) fn default_network(&mut self) {
        let is_some = |value: Option<&Value>| match value {
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            _ => false,
        };
        let whole = self.whole.clone();
        let mut services = objects(whole.get("services")).map(|(_, service)| service);
        let names_some = services.any(|service| is_some(service.get("networks")));
        if !names_some && !is_some(whole.get("networks")) {
            let remark = "The pods are on the host's default network, as those of other stacks are; for one of their own, \
                          write `networks.project = {}` here and in each.";
            self.draft.remarks.push(remark.to_owned());
            return;
        }
        let on_it = |(_, service): (&String, &Fields)| {
            let networks = service.get("networks");
            let named = networks.is_some_and(|networks| match networks {
                Value::Object(fields) => fields.contains_key(DEFAULT_NETWORK),
                other => list(other).contains(&DEFAULT_NETWORK.into()),
            });
            named || !service.contains_key("network_mode") && !is_some(networks)
        };
        let is_used = objects(whole.get("services")).any(on_it);
        if is_used && !self.networks.contains_key(DEFAULT_NETWORK) {
            let own = self.project_network();
            self.networks.insert(DEFAULT_NETWORK.to_owned(), own);
        }
    }

    fn project_network(&mut self) -> String {
        let own = self.draft.unremarked_network(PROJECT);
        let remark = format!(
            "Compose's network `default` is called `{own}`: Tank's is the host's, with pods of other stacks."
        );
        self.draft.remarks.push(remark);
        own
    }

    /// Puts a service that names no networks on the project's own.
    pub(super) fn on_default(&mut self, at: &mut Service<'_>, service: &Fields) {
        let own = self.networks.get(DEFAULT_NETWORK);
        let is_elsewhere = ["network", "networks"]
            .iter()
            .any(|key| at.pod.contains_key(*key))
            || service.contains_key("network_mode");
        if let Some(own) = own.filter(|_| !is_elsewhere) {
            record(record(at.pod, "networks"), own);
        }
    }

    fn network(&mut self, own: &str, path: &str, (key, value): (&str, &Value)) {
        match key {
            "internal" if self.flag(path, value) => self.draft.set_internal(own),
            "internal" => {}
            "external" if !self.is_plain(path, key, value) => self.draft.note(
                path,
                format!(
                    "`{own}` is this stack's own here: where another stack has it, name that in the pods' `networks` (`\"STACK:{own}\"`)"
                ),
            ),
            "driver" if !self.is_plain(path, key, value) => self
                .draft
                .note(path, "a network is a bridge of one host"),
            "ipam" => self.ipam(own, path, value),
            "name" => self.draft.note(
                path,
                format!("a network is called by its key and its stack: other stacks join it as `\"STACK:{own}\"`"),
            ),
            "attachable" => self.draft.note(
                path,
                format!("pods of every stack may join a network, as `\"STACK:{own}\"`"),
            ),
            "labels" => self.draft.note(path, "Tank's networks have no labels"),
            // When its subnets are known.
            "enable_ipv6" => {}
            _ if self.is_plain(path, key, value) => {}
            _ => self.draft.note(path, "Tank's networks have no such key"),
        }
    }

    /// A network has the families of its subnets; both, where it declares none.
    fn enable_ipv6(&mut self, own: &str, path: &str, value: &Value) {
        let families = self.draft.families(own);
        let text = text_of(value).and_then(|text| self.plain(&text));
        match text.as_deref().map(boolean) {
            Some(Some(true)) if families.is_empty() || families.contains(&true) => {}
            Some(Some(true)) => self.draft.note(
                path,
                "its `subnets` are of IPv4 alone: add one of IPv6, such as \"fd00:7::/64\", or leave them out to be leased both",
            ),
            Some(Some(false)) if families.iter().eq([&false]) => {}
            Some(Some(false)) => self.draft.note(
                path,
                "it has IPv6 here: give it `subnets` of IPv4 alone, such as \"10.91.7.0/24\"",
            ),
            Some(None) => self
                .draft
                .note(path, "it is neither `true` nor `false`"),
            None => self.no_value(path),
        }
    }

    fn ipam(&mut self, own: &str, path: &str, value: &Value) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            match key.as_str() {
                "driver" if value.as_str() == Some("default") => {}
                "config" => {
                    let subnets = array(Some(value)).filter_map(Value::as_object);
                    let subnets: Vec<&Fields> = subnets.collect();
                    for fields in &subnets {
                        self.ipam_subnet(own, &path, fields);
                    }
                    let others = subnets.into_iter().flatten();
                    for (key, value) in others.filter(|(key, _)| *key != "subnet") {
                        self.ipam_key(own, &path, (key, value));
                    }
                }
                _ => self.draft.note(path, "Tank's networks have no such key"),
            }
        }
    }

    fn ipam_subnet(&mut self, own: &str, path: &str, fields: &Fields) {
        let Some(text) = fields.get("subnet").and_then(text_of) else {
            return;
        };
        let path = format!("{path}.subnet");
        match self.plain(&text) {
            Some(text) => self.draft.subnet(own, &path, &text),
            None => self.no_value(&path),
        }
    }

    fn ipam_key(&mut self, own: &str, path: &str, (key, value): (&str, &Value)) {
        let path = format!("{path}.{key}");
        let text = text_of(value).and_then(|text| self.plain(&text));
        match key {
            "gateway" if text.is_some_and(|text| self.draft.is_gateway(own, &text)) => {}
            "gateway" => self.draft.note(
                path,
                "the first address of a subnet is its bridge's, and leads out",
            ),
            _ => self.draft.note(path, "Tank's networks have no such key"),
        }
    }

    fn no_value(&mut self, path: &str) {
        self.draft
            .note(path, "it depends on a variable that has no value here");
    }

    /// The networks of a service: their names, or what it is on each.
    pub(super) fn service_networks(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let named: Vec<(String, Fields)> = match value {
            Value::Object(all) => {
                let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
                let named = all.iter();
                named.map(|(name, of)| (name.clone(), fields(of))).collect()
            }
            other => {
                let names = list(other).into_iter().filter_map(|name| text_of(&name));
                names.map(|name| (name, Fields::new())).collect()
            }
        };
        let mut on = Fields::new();
        for (name, fields) in &named {
            let path = format!("{path}.{name}");
            if let Some(link) = self.links.get(name).cloned() {
                let why = self.instead(&link, fields);
                self.draft.note(path, why);
                continue;
            }
            let Some(own) = self.networks.get(name).cloned() else {
                self.draft
                    .refuse(path, "the file declares no such network in `networks`");
                continue;
            };
            let membership = self.membership(&own, &path, fields, named.len() > 1);
            on.insert(own, Value::Object(membership));
        }
        if !on.is_empty() {
            record(at.pod, "networks").append(&mut on);
        } else if !named.is_empty() && !at.pod.contains_key("network") {
            // On the default network it would reach pods, and they it, that it is on no network with.
            at.pod.insert("network".to_owned(), "none".into());
        }
    }

    fn membership(&mut self, own: &str, path: &str, fields: &Fields, several: bool) -> Fields {
        let mut membership = Fields::new();
        for (key, value) in fields {
            let path = format!("{path}.{key}");
            match key.as_str() {
                "aliases" => {
                    for alias in list(value).iter().filter_map(text_of) {
                        match self.plain(&alias) {
                            Some(alias) => {
                                self.draft.network_alias(&path, &alias, &mut membership);
                            }
                            None => self.no_value(&path),
                        }
                    }
                }
                "ipv4_address" | "ipv6_address" => {
                    match text_of(value).and_then(|text| self.plain(&text)) {
                        Some(text) => self.draft.address(own, &path, &text, &mut membership),
                        None => self.no_value(&path),
                    }
                }
                "priority" | "gw_priority" if several => self.draft.note(
                    path,
                    "a pod's networks are in the order of their names: the first that is not internal leads out",
                ),
                // It says which network is named first, and there is one.
                "priority" | "gw_priority" => {}
                _ => self.draft.note(path, "Tank's networks have no such key"),
            }
        }
        without_empty(&mut membership);
        membership
    }

    /// Whether a key of a network says what is so anyhow.
    fn is_plain(&mut self, path: &str, key: &str, value: &Value) -> bool {
        match key {
            "driver" => matches!(value.as_str(), Some("bridge" | "")) || value.is_null(),
            "enable_ipv4" => self.flag(path, value),
            "external" => !self.is_external(path, value),
            key => key.starts_with("x-"),
        }
    }
}
