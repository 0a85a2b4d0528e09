//! What a container sees beside its image: volumes, files, secrets, devices.

use super::is_default;
use crate::{
    name::{Name, plain},
    units::Bytes,
};
use serde::{Deserialize, Serialize};

/// What a volume is kept in. None of the fields: a managed one, kept by Tank under its state
/// folder.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// An existing absolute path of the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host: Option<String>,
    /// Memory of at most this size, emptied when the container stops.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tmpfs: Option<Bytes>,
}

/// Where a container sees a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// One of its pod's volumes.
    #[serde(deserialize_with = "plain")]
    pub volume: Name,
    /// Absolute path in the container.
    pub path: String,
    /// Whether it is mounted read-only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
}

/// A device of the host that the container sees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Absolute path on the host, below `/dev`.
    pub path: String,
    /// Absolute path in the container; `path` unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: Option<String>,
    /// Whether the container may only read it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
}

/// A file Tank writes into a container. The compiler turns a `source` into its `text`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its whole content.
    pub text: String,
    /// 0644 unless given.
    #[serde(
        default = "default_file_mode",
        skip_serializing_if = "is_default_file_mode"
    )]
    pub mode: Mode,
    /// How the running process takes a new text in: the signal that makes it read the file again,
    /// or [`READS_AGAIN`]. Without it a new text restarts the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<String>,
}

/// [`File::reload`] of a program that needs no signal to read its file again.
pub const READS_AGAIN: &str = "none";

/// A file of the host that is copied into the container's memory at its start, and never into the
/// store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Absolute path on the host.
    pub file: String,
    /// Absolute path in the container.
    pub path: String,
    /// 0400 unless given.
    #[serde(
        default = "default_secret_mode",
        skip_serializing_if = "is_default_secret_mode"
    )]
    pub mode: Mode,
}

/// Permission bits, written in octal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

impl TryFrom<String> for Mode {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(format!(
                "`{text}` is no file mode, write for example \"0644\""
            )),
        }
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        format!("{:04o}", mode.0)
    }
}

fn default_file_mode() -> Mode {
    Mode(0o644)
}

fn is_default_file_mode(mode: &Mode) -> bool {
    *mode == default_file_mode()
}

fn default_secret_mode() -> Mode {
    Mode(0o400)
}

fn is_default_secret_mode(mode: &Mode) -> bool {
    *mode == default_secret_mode()
}
