//! What is kept of a container's output.

use super::is_default;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// The bounds of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// The most bytes of one file.
    #[serde(skip_serializing_if = "is_default_size")]
    pub max_size: Bytes,
    /// How many files there are, the one that is written among them.
    #[serde(skip_serializing_if = "is_default_files")]
    pub max_files: u32,
    /// The most bytes that are written in a second.
    #[serde(skip_serializing_if = "is_default")]
    pub rate: LogRate,
    /// Whether lines go to systemd-journald as well.
    #[serde(skip_serializing_if = "is_default")]
    pub journald: bool,
}

/// The bounds of [`Logs::max_size`].
pub const LOG_SIZES: (Bytes, Bytes) = (Bytes(64 << 10), Bytes(16 << 30));

/// The most of [`Logs::max_files`].
pub const MAX_LOG_FILES: u32 = 16;

/// The least of [`Logs::rate`].
pub const MIN_LOG_RATE: Bytes = Bytes(1 << 10);

const SIZE: Bytes = Bytes(16 << 20);
const FILES: u32 = 2;
const RATE: Bytes = Bytes(64 << 20);

fn is_default_size(size: &Bytes) -> bool {
    *size == SIZE
}

fn is_default_files(files: &u32) -> bool {
    *files == FILES
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            max_size: SIZE,
            max_files: FILES,
            rate: LogRate::default(),
            journald: false,
        }
    }
}

/// Bytes in a second. Reads a number of bytes, a text with a unit, or `"unlimited"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum LogRate {
    /// So many at most.
    Of(Bytes),
    /// As many as there are.
    Unlimited,
}

impl LogRate {
    /// None: unlimited.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Of(bytes) => Some(bytes.0),
            Self::Unlimited => None,
        }
    }
}

impl Default for LogRate {
    fn default() -> Self {
        Self::Of(RATE)
    }
}

impl TryFrom<serde_json::Value> for LogRate {
    type Error = String;
    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        if value == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let bytes = serde_json::from_value(value);
        bytes.map(Self::Of).map_err(|error| error.to_string())
    }
}

impl From<LogRate> for serde_json::Value {
    fn from(rate: LogRate) -> Self {
        match rate {
            LogRate::Of(bytes) => bytes.0.into(),
            LogRate::Unlimited => "unlimited".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn what_is_as_usual_is_in_no_bytes() {
        let read = |value| from_value::<Logs>(value).expect("reads");
        assert_eq!(read(json!({})), Logs::default());
        let usual = json!({ "max_size": "16MiB", "max_files": 2, "rate": "64MiB" });
        assert_eq!(to_value(read(usual)).expect("encodes"), json!({}));
        let own =
            json!({ "max_size": "1MiB", "max_files": 5, "rate": "unlimited", "journald": true });
        let encoded = to_value(read(own)).expect("encodes");
        let expected =
            json!({ "max_size": 1 << 20, "max_files": 5, "rate": "unlimited", "journald": true });
        assert_eq!(encoded, expected);
        assert_eq!(read(encoded).rate.bytes(), None);
        assert_eq!(read(json!({ "rate": "1kB" })).rate.bytes(), Some(1_000));
        for wrong in [json!("fast"), json!(-1), json!(null), json!(true)] {
            assert!(from_value::<Logs>(json!({ "rate": wrong })).is_err());
        }
    }
}
