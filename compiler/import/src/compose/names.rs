//! By which names a service is found, and where it asks for others.

use super::{Compose, Fields, Service, list, objects, pairs};
use crate::{name_of, record, text_of};
use serde_json::{Value, json};
use tank_model::spec::{HOST_GATEWAY, is_domain, is_hostname, is_reserved};

impl Compose<'_> {
    /// Another name of a service, for when all pods are there.
    pub(super) fn alias(&mut self, service: &str, path: &str, alias: &str) {
        let Some(alias) = self.plain(alias) else {
            return self
                .draft
                .note(path, "it depends on a variable that has no value here");
        };
        let alias = alias.to_ascii_lowercase();
        if !is_domain(&alias) {
            let why = format!("`{alias}` is no name that DNS can carry");
            return self.draft.note(path, why);
        }
        if is_reserved(&alias) {
            return self.reserved(path, &alias);
        }
        self.aliases
            .entry(name_of(service))
            .or_default()
            .insert(alias);
    }

    fn reserved(&mut self, path: &str, name: &str) {
        let why = format!("`{name}` means something else to every program");
        self.draft.note(path, why);
    }

    /// A pod is found by its host name: by one that is another service's, who asks for that would find it.
    pub(super) fn hostname(&mut self, at: &mut Service<'_>, path: &str, name: &str) {
        let is_others = objects(self.whole.get("services"))
            .any(|(other, _)| *other != at.name && (other == name || name_of(other) == name));
        if is_reserved(name) {
            self.reserved(path, name);
        } else if !is_hostname(name) {
            let why = format!(
                "`{name}` is no host name: labels of `a-z`, `0-9` and `-`, with `.` between them"
            );
            self.draft.note(path, why);
        } else if is_others {
            let why = format!(
                "`{name}` is the name of another service: who asks for that would find this one"
            );
            self.draft.note(path, why);
        } else {
            at.pod.insert("hostname".to_owned(), name.into());
        }
    }

    /// Gives the pods the other names that were found. One that a pod has anyhow is none.
    pub(super) fn give_aliases(&mut self) {
        for (pod, aliases) in std::mem::take(&mut self.aliases) {
            let Some(Value::Object(fields)) = self.draft.pods.get_mut(&pod) else {
                continue;
            };
            let own = fields
                .get("hostname")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let known = |alias: &String| *alias == pod || Some(alias) == own.as_ref();
            let aliases: Vec<String> = aliases.into_iter().filter(|alias| !known(alias)).collect();
            if aliases.is_empty() {
                continue;
            }
            if fields.contains_key("network") {
                let why = "it is not on Tank's bridge, where names lead to";
                self.draft
                    .note(format!("services.{pod}: {}", aliases.join(", ")), why);
                continue;
            }
            let record = record(fields, "aliases");
            record.extend(aliases.into_iter().map(|alias| (alias, json!({}))));
        }
    }

    /// `links: [db:database]`: the other service has another name, and comes first.
    pub(super) fn links(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for link in list(value).iter().filter_map(text_of) {
            let (name, alias) = link.split_once(':').unwrap_or((&link, &link));
            let services = self.whole.get("services").cloned().unwrap_or_default();
            if name != alias && services.get(alias).is_some() {
                let why = format!("the alias `{alias}`: another service has that name, for all");
                self.draft.note(path, why);
            } else if name != alias && services.get(name).is_some() {
                self.alias(name, path, alias);
            }
            self.needs(at, path, name, "started");
        }
    }

    pub(super) fn dns(&mut self, at: &mut Service<'_>, path: &str, key: &str, value: &Value) {
        for (index, item) in list(value).iter().filter_map(text_of).enumerate() {
            let Some(item) = self.plain(&item) else {
                self.draft
                    .note(path, "it depends on a variable that has no value here");
                continue;
            };
            // Kept in their order by their names.
            let number = format!("{:02}", index + 1);
            let dns = record(at.pod, "dns");
            match key {
                "dns" if item.parse::<std::net::IpAddr>().is_ok() => {
                    record(dns, "servers").insert(format!("server{number}"), item.into());
                }
                "dns_search" if is_domain(&item.to_ascii_lowercase()) => {
                    let domain = item.to_ascii_lowercase();
                    record(dns, "search").insert(format!("domain{number}"), domain.into());
                }
                "dns_opt" => {
                    let (option, number) = item.split_once(':').unwrap_or((&item, ""));
                    record(dns, "options").insert(option.to_owned(), number.into());
                }
                _ => self
                    .draft
                    .note(path, format!("`{item}` can't be used here")),
            }
        }
        let empty = |dns: &Fields| dns.is_empty();
        if at
            .pod
            .get("dns")
            .and_then(Value::as_object)
            .is_some_and(empty)
        {
            at.pod.remove("dns");
        }
    }

    /// `[name=address]`, `[name:address]` or a record.
    pub(super) fn extra_hosts(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for (name, address) in pairs(value) {
            let (name, address) = match address {
                Some(address) => (name, address),
                None => match name.split_once(':') {
                    Some((name, address)) => (name.to_owned(), address.to_owned()),
                    None => (name, String::new()),
                },
            };
            let (Some(name), Some(address)) = (self.plain(&name), self.plain(&address)) else {
                self.draft
                    .note(path, "it depends on a variable that has no value here");
                continue;
            };
            let name = name.to_ascii_lowercase();
            let address = address.trim_start_matches('[').trim_end_matches(']');
            let is_address = address == HOST_GATEWAY || address.parse::<std::net::IpAddr>().is_ok();
            if !is_domain(&name) || !is_address {
                let why = format!("`{name}` does not lead to `{address}`");
                self.draft.note(path, why);
                continue;
            }
            let hosts = record(at.pod, "extra_hosts");
            if hosts.contains_key(&name) {
                let why = format!("a name leads to one address: `{name}` keeps the first");
                self.draft.note(path, why);
                continue;
            }
            hosts.insert(name, address.into());
        }
    }
}
