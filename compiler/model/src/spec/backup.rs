//! When a volume is written into archives, where they go, and what is run before and after.

use super::is_default;
use crate::{name::Name, units::Millis};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The least time between two backups of a volume: one minute.
pub const LEAST_EVERY: Millis = Millis(60_000);

/// The longest: a hundred years.
pub const MOST_EVERY: Millis = Millis(100 * 366 * 86_400_000);

/// The longest time that a hook may take: one hour.
pub const MOST_HOOK: Millis = Millis(3_600_000);

/// Backups of a volume that are made by themselves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Absolute path of a directory of the host.
    pub to: String,
    /// How old the newest may get before another one is made.
    #[serde(deserialize_with = "age")]
    pub every: Millis,
    /// How many are kept; 7 unless given.
    #[serde(default = "default_keep", skip_serializing_if = "is_default_keep")]
    pub keep: u32,
    /// What has to succeed before the volume is read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before: Option<Hook>,
    /// What is run once the volume was read, or could not be.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after: Option<Hook>,
}

/// A command that is run in a container before or after a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The command.
    pub exec: Vec<String>,
    /// The container of the pod. None: the only one that mounts the volume.
    #[serde(default, skip_serializing_if = "is_default")]
    pub container: Option<Name>,
    /// How long it may take; 5 min unless given.
    #[serde(
        default = "default_timeout",
        skip_serializing_if = "is_default_timeout"
    )]
    pub timeout: Millis,
}

/// What can change of a pod's volume without a restart of any process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumePolicy {
    /// As [`super::Volume::backup`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub backup: Option<Backup>,
}

impl Backup {
    /// Its hooks with the names of their fields.
    pub fn hooks(&self) -> impl Iterator<Item = (&'static str, &Hook)> {
        let before = self.before.iter().map(|hook| ("before", hook));
        before.chain(self.after.iter().map(|hook| ("after", hook)))
    }
}

/// A time that may be one of days or weeks.
fn age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    use serde::de::Error;
    match Value::deserialize(deserializer)? {
        Value::String(text) => Millis::parse_age(&text).map_err(Error::custom),
        other => serde_json::from_value(other).map_err(Error::custom),
    }
}

fn default_keep() -> u32 {
    7
}

fn is_default_keep(keep: &u32) -> bool {
    *keep == default_keep()
}

fn default_timeout() -> Millis {
    Millis(5 * 60_000)
}

fn is_default_timeout(timeout: &Millis) -> bool {
    *timeout == default_timeout()
}
