//! Where metrics are served.

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, net::SocketAddr, path::PathBuf};

/// `""`, `"127.0.0.1:9464"`, `"/run/tank/metrics.sock"`, or `{ listen = "10.0.0.5:9464", beyond_loopback = true }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Metrics {
    /// They are not.
    #[default]
    Off,
    /// At a socket, for root and the group `tank`.
    Socket(PathBuf),
    /// At an address, for whoever reaches it.
    Address(SocketAddr),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    listen: String,
    #[serde(default)]
    beyond_loopback: bool,
}

/// The longest path of a socket (unix(7)).
const MAX_PATH: usize = 107;

impl Metrics {
    fn parse(listen: &str, beyond_loopback: bool) -> Result<Self, String> {
        if listen.is_empty() {
            return Ok(Self::Off);
        }
        if listen.starts_with('/') {
            return match listen.len() {
                0..=MAX_PATH => Ok(Self::Socket(PathBuf::from(listen))),
                _ => Err(format!("a socket's path has at most {MAX_PATH} bytes")),
            };
        }
        let address: SocketAddr = listen.parse().map_err(|_| {
            format!(
                "`{listen}` is neither an address with a port (`127.0.0.1:9464`, `[::1]:9464`) nor the absolute path of a socket"
            )
        })?;
        if address.port() == 0 {
            return Err(format!("`{listen}` has no port that anybody could know"));
        }
        if !address.ip().is_loopback() && !beyond_loopback {
            return Err(format!(
                "`{listen}` can be reached from elsewhere, and whoever reaches it may read it: \
                 say so with {{ listen = \"{listen}\", beyond_loopback = true }}"
            ));
        }
        Ok(Self::Address(address))
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrTable)
    }
}

struct TextOrTable;

impl<'de> Visitor<'de> for TextOrTable {
    type Value = Metrics;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, the path of a socket, or { listen, beyond_loopback }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Metrics, E> {
        Metrics::parse(text, false).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Metrics, A::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        Metrics::parse(&table.listen, table.beyond_loopback).map_err(de::Error::custom)
    }
}
