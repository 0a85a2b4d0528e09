//! How a service is reached: the ports it publishes and exposes.

use super::{
    super::{fresh, record, text_of},
    Compose, Service, list,
};
use serde_json::{Map, Value, json};

/// The most ports of one range.
const MAX_PORTS: u16 = 64;

impl Compose<'_> {
    pub(super) fn port(&mut self, at: &mut Service<'_>, path: &str, port: &Value) {
        let entry = match port {
            Value::Object(fields) => {
                for key in fields.keys() {
                    if !matches!(
                        key.as_str(),
                        "target"
                            | "published"
                            | "protocol"
                            | "host_ip"
                            | "mode"
                            | "name"
                            | "app_protocol"
                    ) {
                        self.draft
                            .note(format!("{path}.{key}"), "Tank has no such key");
                    }
                }
                let text = |key: &str| fields.get(key).and_then(text_of);
                let target = text("target").unwrap_or_default();
                let address = text("host_ip")
                    .map(|ip| format!("{ip}:"))
                    .unwrap_or_default();
                let protocol = text("protocol")
                    .map(|protocol| format!("/{protocol}"))
                    .unwrap_or_default();
                match text("published") {
                    Some(published) => format!("{address}{published}:{target}{protocol}"),
                    None => format!("{target}{protocol}"),
                }
            }
            other => text_of(other).unwrap_or_default(),
        };
        let Some(entry) = self.plain(&entry) else {
            self.draft.note(
                path,
                format!("`{entry}` depends on a variable that has no value here"),
            );
            return;
        };
        match ports(&entry) {
            Ok(ports) => {
                ports
                    .into_iter()
                    .for_each(|port| publish(record(at.pod, "publish"), port));
            }
            Err(why) => self.draft.note(format!("{path}.{entry}"), why),
        }
    }

    pub(super) fn expose(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for port in list(value) {
            let text = text_of(&port).unwrap_or_default();
            // Said for people: every port of a pod can be reached by the others. `ports` would
            // close the rest.
            if text
                .split('/')
                .next()
                .and_then(|port| port.split('-').next()?.parse::<u16>().ok())
                .is_none()
            {
                self.draft.note(path, format!("`{text}` is no port"));
            }
        }
        let _ = at;
    }
}

/// Address, port of the host, port of the container, protocol.
type Port = (String, u16, u16, &'static str);

/// Adds a published port under a name of its own, saying what differs from the defaults.
pub fn publish(published: &mut Map<String, Value>, (address, host, target, protocol): Port) {
    let wanted = if protocol == "udp" {
        format!("p{host}-udp")
    } else {
        format!("p{host}")
    };
    let name = fresh(published, &wanted);
    let mut entry = json!({ "port": host });
    if address != "127.0.0.1" {
        entry["address"] = address.into();
    }
    if host != target {
        entry["to"] = target.into();
    }
    if protocol == "udp" {
        entry["protocol"] = "udp".into();
    }
    published.insert(name, entry);
}

/// `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, each of the ports a range.
pub fn ports(text: &str) -> Result<Vec<Port>, String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => "tcp",
        "udp" => "udp",
        other => return Err(format!("Tank publishes tcp and udp, not {other}")),
    };
    let Some((rest, target)) = rest.rsplit_once(':') else {
        return Err("the host's port would be any: name one".to_owned());
    };
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (
            address
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            host,
        ),
        None => ("0.0.0.0".to_owned(), rest),
    };
    if host.is_empty() {
        return Err("the host's port would be any: name one".to_owned());
    }
    let range = |text: &str| -> Result<(u16, u16), String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |text: &str| {
            text.trim()
                .parse::<u16>()
                .map_err(|_| format!("`{text}` is no port"))
        };
        Ok((parse(first)?, parse(last)?))
    };
    let ((host, host_end), (target, target_end)) = (range(host)?, range(target)?);
    let count = host_end.saturating_sub(host);
    if count != target_end.saturating_sub(target) || count >= MAX_PORTS {
        return Err("the two ranges differ, or are too long".to_owned());
    }
    Ok((0..=count)
        .map(|n| (address.clone(), host + n, target + n, protocol))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_compose_reads_them() {
        let port = |a: &str, h, t, p| (a.to_owned(), h, t, p);
        assert_eq!(ports("8080:80"), Ok(vec![port("0.0.0.0", 8080, 80, "tcp")]));
        assert_eq!(
            ports("127.0.0.1:53:53/udp"),
            Ok(vec![port("127.0.0.1", 53, 53, "udp")])
        );
        assert_eq!(ports("[::1]:1:2"), Ok(vec![port("::1", 1, 2, "tcp")]));
        assert_eq!(ports("3000-3001:80-81").map(|ports| ports.len()), Ok(2));
        for refused in ["80", "1-2:3", "a:b", "1:2/sctp", "127.0.0.1::80"] {
            assert!(ports(refused).is_err(), "{refused}");
        }
    }
}
