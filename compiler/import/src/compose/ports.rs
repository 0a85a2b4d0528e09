//! How a service is reached: the ports it publishes and exposes.

use super::{
    super::{fresh, record, text_of},
    Compose, Service, list,
};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tank_model::spec::Ports;

impl Compose<'_> {
    pub(super) fn port(&mut self, at: &mut Service<'_>, path: &str, port: &Value) {
        let entry = match port {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let why = match key.as_str() {
                        "target" | "published" | "protocol" | "host_ip" => continue,
                        // As every port is here.
                        "mode" if value.as_str() == Some("host") => continue,
                        "mode" => {
                            "a port is published by the host that its pod is on, as by mode `host`"
                        }
                        "name" => {
                            "an entry of `publish` is named after its port here: rename it as you like"
                        }
                        _ => "Tank has no such key",
                    };
                    self.draft.note(format!("{path}.{key}"), why);
                }
                let text = |key: &str| fields.get(key).and_then(text_of);
                let target = text("target").unwrap_or_default();
                let bracketed = |ip: String| match ip.contains(':') && !ip.starts_with('[') {
                    true => format!("[{ip}]:"),
                    false => format!("{ip}:"),
                };
                let address = text("host_ip").map(bracketed).unwrap_or_default();
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
            Ok(port) => publish(record(at.pod, "publish"), &port),
            Err(_) if entry.is_empty() => self.draft.note(path, "an entry is empty: it is no port"),
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

/// Ports that a source publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// None: every address of both families.
    address: Option<IpAddr>,
    /// The host's.
    port: Ports,
    /// The container's, as many.
    to: Ports,
    /// `tcp` or `udp`.
    protocol: &'static str,
}

/// Adds published ports under a name of their own, saying what differs from the defaults.
pub fn publish(published: &mut Map<String, Value>, port: &Published) {
    let wanted = if port.protocol == "udp" {
        format!("p{}-udp", port.port)
    } else {
        format!("p{}", port.port)
    };
    let name = fresh(published, &wanted);
    let mut entry = json!({ "port": port.port });
    match port.address {
        None => entry["address"] = json!(["0.0.0.0", "::"]),
        Some(address) if address == IpAddr::from(Ipv4Addr::LOCALHOST) => {}
        Some(address) => entry["address"] = json!(address),
    }
    if port.to != port.port {
        entry["to"] = json!(port.to);
    }
    if port.protocol == "udp" {
        entry["protocol"] = "udp".into();
    }
    published.insert(name, entry);
}

/// `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, each of the ports a range; without an address it is every
/// one, as it is where nothing is before its `:`.
pub fn ports(text: &str) -> Result<Published, String> {
    const ANY: &str = "the host's port would be any: name one";
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => "tcp",
        "udp" => "udp",
        other => return Err(format!("Tank publishes tcp and udp, not {other}")),
    };
    let (rest, target) = rest.rsplit_once(':').ok_or(ANY)?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (address, host),
        None => ("", rest),
    };
    if host.is_empty() {
        return Err(ANY.to_owned());
    }
    let range = |text: &str| {
        text.trim()
            .parse::<Ports>()
            .map_err(|error| error.to_string())
    };
    let (port, to) = (range(host)?, range(target)?);
    if port.count() != to.count() {
        return Err("the two ranges differ: the host's port would be any of several".to_owned());
    }
    if port.first() == 0 || to.first() == 0 {
        return Err(ANY.to_owned());
    }
    let address = match address.trim_start_matches('[').trim_end_matches(']') {
        "" => None,
        text => Some(
            text.parse::<IpAddr>()
                .map_err(|_| format!("`{text}` is no IP address"))?,
        ),
    };
    if address == Some(Ipv6Addr::LOCALHOST.into()) {
        return Err("the kernel has no way from `::1` to a pod: use 127.0.0.1".to_owned());
    }
    Ok(Published {
        address,
        port,
        to,
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_compose_reads_them() {
        let entry = |text: &str| {
            let mut all = Map::new();
            publish(&mut all, &ports(text).expect("a port"));
            Value::Object(all).to_string()
        };
        for (text, expected) in [
            (
                "8080:80",
                r#"{"p8080":{"address":["0.0.0.0","::"],"port":8080,"to":80}}"#,
            ),
            (
                ":80:92",
                r#"{"p80":{"address":["0.0.0.0","::"],"port":80,"to":92}}"#,
            ),
            (
                "0.0.0.0:80:80",
                r#"{"p80":{"address":"0.0.0.0","port":80}}"#,
            ),
            ("[::]:80:80", r#"{"p80":{"address":"::","port":80}}"#),
            (":::80:80", r#"{"p80":{"address":"::","port":80}}"#),
            (
                "127.0.0.1:53:53/udp",
                r#"{"p53-udp":{"port":53,"protocol":"udp"}}"#,
            ),
            (
                "[fd00::1]:1:2/TCP",
                r#"{"p1":{"address":"fd00::1","port":1,"to":2}}"#,
            ),
            (
                "127.0.0.1:3000-3001:80-81",
                r#"{"p3000-3001":{"port":"3000-3001","to":"80-81"}}"#,
            ),
            (
                "8000-9000:8000-9000",
                r#"{"p8000-9000":{"address":["0.0.0.0","::"],"port":"8000-9000"}}"#,
            ),
        ] {
            assert_eq!(entry(text), expected, "{text}");
        }
        for refused in [
            "80",
            "1-2:3",
            "3:1-2",
            "a:b",
            "1:2/sctp",
            "127.0.0.1::80",
            "0:80",
            "[::1]:80:80",
            "x:1:2",
            "2-1:2-1",
            "",
        ] {
            assert!(ports(refused).is_err(), "{refused}");
        }
    }
}
