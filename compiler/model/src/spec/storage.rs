//! What a container sees beside its image: volumes, files, secrets, devices.

use super::{Backup, is_default};
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
    /// One of its stack's [`SharedVolume`]s, by its name there: who else mounts that has the same files.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        deserialize_with = "plain_option"
    )]
    pub shared: Option<Name>,
    /// Whom its directory belongs to. None: whom the image's does, or root.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: Option<Owner>,
    /// The permissions of its directory. None: those of the image's, or its kind's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Option<FolderMode>,
    /// Whether nothing of the image is put into a managed one at its first use.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_copy: bool,
    /// When a snapshot is taken of a managed one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub snapshots: Snapshots,
    /// When it is written into archives. It is no part of what a container sees: its pod's node has it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backup: Option<Backup>,
    /// The most that a managed one may take of the disk. None: the disk is the bound.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Option<Bytes>,
}

/// When a snapshot is taken of a volume, to be kept with the generation that is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Snapshots {
    /// Before the first container of another image starts on it, where the file system can share
    /// what files have (reflink).
    #[default]
    OnNewImage,
    /// Never.
    Never,
}

impl Volume {
    /// Whether Tank keeps it for its pod alone.
    pub fn is_managed(&self) -> bool {
        self.host.is_none() && self.tmpfs.is_none() && self.shared.is_none()
    }

    /// The host's name of the shared volume that it is, as a pod of `stack` says it.
    pub fn shared_of(&self, pod: &Name) -> Option<Name> {
        let stack = pod.stack().and_then(|stack| Name::new(stack).ok());
        self.shared.as_ref()?.in_stack(stack.as_ref()).ok()
    }

    /// Whether what was written to `other` is there in this one.
    pub fn keeps(&self, other: &Self) -> bool {
        (&self.host, self.tmpfs, &self.shared) == (&other.host, other.tmpfs, &other.shared)
    }
}

/// A volume that Tank keeps for the pods of a stack: each of them may mount it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedVolume {
    /// As [`Volume::owner`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: Option<Owner>,
    /// As [`Volume::mode`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Option<FolderMode>,
    /// As [`Volume::no_copy`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_copy: bool,
    /// As [`Volume::size`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Option<Bytes>,
}

/// The most shared volumes of a host.
pub const MAX_SHARED_VOLUMES: usize = 4096;

/// The smallest [`Volume::size`].
pub const MIN_VOLUME_SIZE: Bytes = Bytes(64 << 10);

/// The largest [`Volume::size`] (1 EiB): what file systems count is below it.
pub const MAX_VOLUME_SIZE: Bytes = Bytes(1 << 60);

fn plain_option<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Name>, D::Error> {
    plain(from).map(Some)
}

/// A user and a group by their ids in the container, written `UID[:GID]`; without a group, the one
/// of the user's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner {
    /// The user.
    pub uid: u16,
    /// The group.
    pub gid: u16,
}

impl TryFrom<String> for Owner {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let id = |part: &str| {
            let digits = part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| digits)
        };
        let (uid, gid) = text.split_once(':').unwrap_or((&text, &text));
        match (id(uid), id(gid)) {
            (Some(uid), Some(gid)) => Ok(Self { uid, gid }),
            _ => Err(format!(
                "`{text}` is no owner, write for example \"999:999\"; ids are below 65536"
            )),
        }
    }
}

impl From<Owner> for String {
    fn from(Owner { uid, gid }: Owner) -> Self {
        format!("{uid}:{gid}")
    }
}

/// Permission bits of a directory, written in octal: those of everybody, and the set-group-id and
/// the sticky bit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FolderMode(pub u32);

impl TryFrom<String> for FolderMode {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o3777 => Ok(Self(mode)),
            _ => Err(format!(
                "`{text}` is no mode of a directory, write for example \"0750\""
            )),
        }
    }
}

impl From<FolderMode> for String {
    fn from(mode: FolderMode) -> Self {
        format!("{:04o}", mode.0)
    }
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
    /// The directory inside of the volume that is mounted in its place: see [`is_sub_path`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub sub_path: Option<String>,
    /// Whether what is mounted on the host later appears in it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub propagation: Propagation,
}

/// What becomes of what is mounted on the host below a directory that a container has mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Nothing of it is in the container.
    #[default]
    Private,
    /// It is there as well, and so is what is mounted later, until it is unmounted on the host.
    Slave,
}

impl Propagation {
    /// Whether the container sees what the host mounts.
    pub fn is_slave(&self) -> bool {
        *self == Self::Slave
    }
}

/// Whether this is a relative path of names alone: no `.`, no `..`, no `//`, none that is too long.
pub fn is_sub_path(path: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
    path.len() < 4096 && !path.contains('\0') && path.split('/').all(is_name)
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
    /// `user[:group]`, names of the image or numbers; root unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<FileOwner>,
}

/// A user, or a user and a group (`user:group`), by names of the image or by numbers in the container.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileOwner(String);

/// The longest name of a user or a group, in bytes.
const MAX_OWNER: usize = 64;

impl FileOwner {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FileOwner {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let is_name = |part: &str| {
            let is_plain = |c: char| c != ':' && !c.is_whitespace() && !c.is_control();
            (1..=MAX_OWNER).contains(&part.len()) && part.chars().all(is_plain)
        };
        let (user, group) = text.split_once(':').unwrap_or((&text, "root"));
        // A number is one of those that a pod has; what else begins with a sign is no name.
        let is_id = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => part.parse::<u16>().is_ok(),
            false => !part.starts_with(['-', '+']),
        };
        let is_owner = [user, group]
            .iter()
            .all(|part| is_name(part) && is_id(part));
        match is_owner {
            true => Ok(Self(text)),
            false => Err(format!(
                "`{}` is no owner: a user, or a user and a group, such as \"postgres\" or \"999:999\"; ids are below 65536",
                text.escape_debug()
            )),
        }
    }
}

impl From<FileOwner> for String {
    fn from(owner: FileOwner) -> Self {
        owner.0
    }
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
