//! Quantities with units. People write `"256MiB"`, `"30s"`, `0.5`; the model holds integers.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// A text is no quantity of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}, write {example}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A number of bytes. Reads a number, or a text with `B`, `KiB`, `MiB`, `GiB`, `TiB`, `kB`, `MB`,
/// `GB` or `TB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bytes(pub u64);

/// A span of time in milliseconds. Reads a text with `ms`, `s`, `m` or `h`; canonical bytes hold
/// the milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Millis(pub u64);

/// A share of processor time in thousandths of one CPU. Reads `0.5`, `"0.5"` or `"500m"`; canonical
/// bytes hold the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MilliCpu(pub u32);

/// Reads an address with the length of its network's prefix: `10.0.0.5/24`. The address is kept as
/// it is written, and is read by the standard library's rules: no octet begins with a zero.
///
/// # Errors
/// When the text is no address, `/` and a length that fits it.
pub fn parse_network(text: &str) -> Result<IpNet, UnitError> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let address: IpAddr = address.parse().ok()?;
        IpNet::new(address, prefix.parse().ok()?).ok()
    });
    parsed.ok_or_else(|| UnitError {
        text: text.to_owned(),
        what: "address with a prefix length",
        example: "for example \"10.0.0.5/24\"",
    })
}

/// The `n`th address of a network, with the network's prefix length; the 0th is the network's own.
/// None: the network is smaller, or the address is an IPv4 network's last, its broadcast address.
pub fn nth_address(network: IpNet, n: u32) -> Option<IpNet> {
    let address = match network {
        IpNet::V4(v4) => {
            let base = u32::from(v4.network());
            let last = u32::from(v4.broadcast());
            (n < last - base).then(|| IpAddr::from(Ipv4Addr::from(base + n)))?
        }
        IpNet::V6(v6) => {
            let base = u128::from(v6.network());
            let last = u128::from(v6.broadcast());
            let n = u128::from(n);
            (n <= last - base).then(|| IpAddr::from(Ipv6Addr::from(base + n)))?
        }
    };
    IpNet::new(address, network.prefix_len()).ok()
}

/// An address with the length of its network's prefix, or a network, in the form that
/// [`parse_network`] reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cidr(pub IpNet);

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_network(&text).map(Self).map_err(de::Error::custom)
    }
}

/// The form of an optional network in serde: the text that [`parse_network`] reads.
pub mod optional_network {
    use super::*;

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        network: &Option<IpNet>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match network {
            Some(network) => serializer.collect_str(network),
            None => serializer.serialize_none(),
        }
    }

    /// # Errors
    /// When the text is no network.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<IpNet>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse_network(&text).map_err(de::Error::custom))
            .transpose()
    }
}

/// The fields that hold [`Bytes`], by their own names: no other field has one of these.
pub const OF_BYTES: [&str; 4] = ["max_size", "memory", "size", "tmpfs"];

/// The fields that hold [`Millis`], likewise.
pub const OF_MILLIS: [&str; 4] = ["delay", "every", "period", "timeout"];

/// The value of a field as people write it, where it is a quantity: `128MiB` of `limits.memory`, `30s` of `stop.timeout`.
pub fn written(field: &str, value: &Value) -> Option<String> {
    let number = value.as_u64()?;
    let name = field.rsplit('.').next().unwrap_or(field);
    if OF_BYTES.contains(&name) {
        Some(Bytes(number).to_string())
    } else if OF_MILLIS.contains(&name) {
        Some(Millis(number).to_string())
    } else {
        None
    }
}

impl Bytes {
    /// # Errors
    /// When the text is no number of bytes, or one of 2⁶⁴ or more.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        const UNITS: [(&str, u64); 9] = [
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("kB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("TB", 1_000_000_000_000),
            ("B", 1),
        ];
        scaled(text, &UNITS, 1).map(Self).ok_or_else(|| UnitError {
            text: text.to_owned(),
            what: "size",
            example: "a number of bytes, or for example \"256MiB\"",
        })
    }

    /// About how many they are, for people: in the largest unit of which there is one, with a digit behind the point below 100. Rounded
    /// down.
    pub fn rounded(self) -> String {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let unit = (1..UNITS.len())
            .rev()
            .find(|unit| self.0 >> (10 * unit) > 0);
        let unit = unit.unwrap_or(0);
        let (shift, name) = (10 * unit, UNITS.get(unit).copied().unwrap_or_default());
        let whole = self.0 >> shift;
        if unit == 0 || whole >= 100 {
            return format!("{whole} {name}");
        }
        let tenths = (u128::from(self.0) * 10) >> shift;
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

impl Millis {
    /// # Errors
    /// When the text is no time, or one of 2⁶⁴ ms or more.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
        scaled(text, &UNITS, 0).map(Self).ok_or_else(|| UnitError {
            text: text.to_owned(),
            what: "time",
            example: "for example \"500ms\", \"30s\" or \"5m\"",
        })
    }

    /// As [`Millis::parse`], with days and weeks: for ages.
    ///
    /// # Errors
    /// When the text is no time, or one of 2⁶⁴ ms or more.
    pub fn parse_age(text: &str) -> Result<Self, UnitError> {
        const UNITS: [(&str, u64); 2] = [("d", 86_400_000), ("w", 604_800_000)];
        let age = scaled(text, &UNITS, 0).map(Self);
        age.map_or_else(|| Self::parse(text), Ok)
            .map_err(|_| UnitError {
                text: text.to_owned(),
                what: "age",
                example: "for example \"12h\", \"30d\" or \"8w\"",
            })
    }

    /// The same time as the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl MilliCpu {
    /// # Errors
    /// When the text is no positive number of CPUs.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let thousandths = match text.strip_suffix('m') {
            Some(millis) => millis.parse::<u32>().ok(),
            None => scaled(text, &[], 1_000).and_then(|value| u32::try_from(value).ok()),
        };
        thousandths.map(Self).ok_or_else(|| UnitError {
            text: text.to_owned(),
            what: "number of CPUs",
            example: "for example 0.5, \"1.5\" or \"500m\"",
        })
    }
}

/// `"1.5GiB"` as an integer: decimal digits, at most one point, one of `units`. Without a unit the
/// number counts `bare` (0: a unit is needed). Fractions are exact or refused, so that no rounding
/// hides in a hash.
fn scaled(text: &str, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim_start() {
        "" if bare > 0 => bare,
        "" => return None,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let scale = 10u128.pow(fraction.len() as u32);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(u128::from(factor))?;
    (scaled % scale == 0)
        .then(|| u64::try_from(scaled / scale).ok())
        .flatten()
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, size) in [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1u64 << 10),
        ] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{name}", self.0 / size);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000u64)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{name}", self.0 / size);
            }
        }
        write!(f, "{}ms", self.0)
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl Serialize for MilliCpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The number or text a quantity was written as.
fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(Option<u64>, String), D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Number(number) => Ok((number.as_u64(), number.to_string())),
        Value::String(text) => Ok((None, text)),
        other => Err(de::Error::custom(format!(
            "expected a number or a text, not `{other}`"
        ))),
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (number, text) = scalar(deserializer)?;
        number.map_or_else(
            || Self::parse(&text).map_err(de::Error::custom),
            |number| Ok(Self(number)),
        )
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (number, text) = scalar(deserializer)?;
        number.map_or_else(
            || Self::parse(&text).map_err(de::Error::custom),
            |number| Ok(Self(number)),
        )
    }
}

impl<'de> Deserialize<'de> for MilliCpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&scalar(deserializer)?.1).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_to_a_few_digits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (100 * 1024, "100 KiB"),
            (5 << 20, "5.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (2 << 40, "2.0 TiB"),
            (u64::MAX, "16777215 TiB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Bytes(bytes).rounded(), expected);
        }
    }

    #[test]
    fn quantities_are_written_with_their_units() {
        let of = |field: &str, number: u64| written(field, &Value::from(number));
        assert_eq!(of("limits.memory", 128 << 20), Some("128MiB".to_owned()));
        assert_eq!(of("stop.timeout", 90_000), Some("90s".to_owned()));
        assert_eq!(of("limits.pids", 100), None);
        assert_eq!(written("size", &Value::from("1GiB")), None);
    }

    #[test]
    fn quantities_read_what_people_write() {
        assert_eq!(Bytes::parse("256MiB"), Ok(Bytes(256 << 20)));
        assert_eq!(Bytes::parse("1.5 GiB"), Ok(Bytes(3 << 29)));
        assert_eq!(Bytes::parse("10"), Ok(Bytes(10)));
        assert_eq!(Millis::parse("1.5s"), Ok(Millis(1_500)));
        assert_eq!(MilliCpu::parse("0.5"), Ok(MilliCpu(500)));
        assert_eq!(MilliCpu::parse("500m"), Ok(MilliCpu(500)));
    }

    #[test]
    fn quantities_refuse_the_rest() {
        for bad in [
            "",
            "MiB",
            "-1",
            "1e3",
            "0.3B",
            "1.2.3",
            "1.",
            ".5",
            "99999999999TiB",
            "5 parsecs",
        ] {
            assert!(Bytes::parse(bad).is_err(), "{bad}");
        }
        assert!(Millis::parse("30").is_err(), "a time needs its unit");
        assert!(
            MilliCpu::parse("0.0001").is_err(),
            "finer than a thousandth"
        );
    }

    #[test]
    fn networks_are_read_strictly_and_written_as_they_are() {
        let network = parse_network("10.0.0.5/24").expect("a network");
        assert_eq!(network.to_string(), "10.0.0.5/24");
        assert!(network.contains(&IpAddr::from([10, 0, 0, 200])));
        assert!(!network.contains(&"::1".parse::<IpAddr>().expect("an address")));
        for bad in [
            "",
            "10.0.0.5",
            "10.0.0.5/33",
            "::1/129",
            "a/8",
            "10.0.0.5/",
            "010.0.0.5/8",
        ] {
            assert!(parse_network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_hand_out_addresses_and_end() {
        let nth = |text: &str, n| {
            nth_address(parse_network(text).expect("a network"), n).map(|one| one.to_string())
        };
        assert_eq!(nth("10.90.3.4/30", 1).as_deref(), Some("10.90.3.5/30"));
        assert_eq!(nth("10.90.3.4/30", 3), None, "the last is broadcast");
        assert_eq!(nth("0.0.0.0/0", 7).as_deref(), Some("0.0.0.7/0"));
        assert_eq!(
            nth("fd74:616e:6b00::/64", 258).as_deref(),
            Some("fd74:616e:6b00::102/64")
        );
        assert_eq!(nth("fd74::/126", 3).as_deref(), Some("fd74::3/126"));
        assert_eq!(nth("fd74::/126", 4), None);
    }

    #[test]
    fn display_reads_back() {
        for bytes in [0, 1, 1023, 1 << 10, 3 << 20, (1 << 30) + 1] {
            assert_eq!(Bytes::parse(&Bytes(bytes).to_string()), Ok(Bytes(bytes)));
        }
        for millis in [0, 1, 999, 1_000, 90_000, 7_200_000] {
            assert_eq!(
                Millis::parse(&Millis(millis).to_string()),
                Ok(Millis(millis))
            );
        }
    }
}
