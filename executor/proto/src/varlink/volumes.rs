//! What the methods for volumes answer.

use serde::{Deserialize, Serialize};

/// A volume that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Volume {
    /// `POD/VOLUME`, or `VOLUME` of one that pods share.
    pub name: String,
    /// What it takes of the disk.
    pub bytes: u64,
    /// It is that at least: there is too much to be measured.
    pub at_least: bool,
    /// Whether the current generation declares it.
    pub declared: bool,
    /// The generations that declare it.
    pub generations: Vec<u64>,
    /// Whether a container has it mounted, or may have.
    pub mounted: bool,
    /// Whether it only may have: one runs of which it is not known. Absent: it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supposed: Option<bool>,
    /// When a container that mounts it was started last, in milliseconds since the epoch.
    pub used: Option<u64>,
    /// The generations that a snapshot of it is kept with. Absent: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Vec<u64>>,
    /// Of one that pods share: those that say so in the current generation.
    pub pods: Option<Vec<String>>,
    /// What is known of its backups, of each pod that says so. Absent: none is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Vec<Backup>>,
    /// The most that it may take, as the current generation declares it. Absent: the disk is the bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether what was in it before is being counted to that. Absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counting: Option<bool>,
    /// Whether what it was before the last import is kept. Absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<bool>,
}

/// An archive of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Archive {
    /// From 1 for the newest on.
    pub number: u64,
    /// When it was begun, in milliseconds since the epoch.
    pub time: u64,
    /// Its size.
    pub bytes: u64,
    /// Its path on the host.
    pub path: String,
    /// Whether it has nothing but the volume's own directory.
    pub empty: bool,
}

/// The answer to [`super::Method::BackupArchives`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct BackupArchivesReply {
    /// The newest first.
    pub archives: Vec<Archive>,
}

/// The answer to [`super::Method::ImportVolume`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ImportVolumeReply {
    /// Files, directories and links; none in the reply that comes with the pipe.
    pub entries: Option<u64>,
    /// Nothing.
    pub bytes: Option<u64>,
    /// Where what was there is kept until the next time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Whether what was kept before is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<bool>,
    /// Whether that is what was kept before, since no container has had what was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still: Option<bool>,
}

/// The answer to [`super::Method::RestoreVolume`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct RestoreVolumeReply {
    /// The path of the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Files, directories and links in it.
    pub entries: Option<u64>,
    /// As in [`ImportVolumeReply`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<bool>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still: Option<bool>,
}

/// The backups of a volume that the current generation declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Backup {
    /// The pod that says so, and its volume.
    pub volume: String,
    /// What is written, as [`Volume::name`].
    pub of: String,
    /// The folder of the host.
    pub to: String,
    /// How old the newest may get, in milliseconds.
    pub every: u64,
    /// How many stay.
    pub keep: u32,
    /// How many there are.
    pub count: u64,
    /// When the newest was begun, in milliseconds since the epoch.
    pub newest: Option<u64>,
    /// Whether one is being made.
    pub running: bool,
    /// Why the last one was not made, or why the hook after it failed.
    pub failed: Option<String>,
    /// How often in a row.
    pub failures: Option<u64>,
    /// When it did last, in milliseconds since the epoch.
    pub failed_at: Option<u64>,
    /// In how many milliseconds the next is due.
    pub next: Option<u64>,
    /// Why none is begun now: a process for backups hangs, and can't be ended. Absent: none is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hangs: Option<String>,
}

/// The backups of a volume that the current generation declares none of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct FormerBackup {
    /// The pod that said so, and its volume.
    pub volume: String,
    /// What was written, as [`Volume::name`].
    pub of: String,
    /// The folder of the host.
    pub to: String,
    /// The newest generation that says it.
    pub generation: u64,
    /// How many there are.
    pub count: u64,
    /// When the newest was begun, in milliseconds since the epoch.
    pub newest: Option<u64>,
}

/// The answer to [`super::Method::Backups`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct BackupsReply {
    /// By pod and volume.
    pub backups: Vec<Backup>,
    /// Those of which an earlier generation says where they are, and the current one nothing. Absent: none is there, or an older
    /// daemon answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Vec<FormerBackup>>,
}

/// The answer to [`super::Method::BackUpVolume`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct BackUpVolumeReply {
    /// Its path on the host.
    pub archive: String,
    /// Files, directories and links in it.
    pub entries: u64,
    /// Its size.
    pub bytes: u64,
    /// Why the hook after it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The answer to [`super::Method::Volumes`] and [`super::Method::RemoveVolumes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct VolumesReply {
    /// By name.
    pub volumes: Vec<Volume>,
}

/// The answer to [`super::Method::ExportVolume`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct TransferReply {
    /// Files, directories and links; none in the reply that comes with the pipe.
    pub entries: Option<u64>,
    /// Bytes of files, holes counted in.
    pub bytes: Option<u64>,
}

/// What [`super::Method::RestoreVolume`] takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct RestoreVolumeCall {
    /// Its name, `pod/volume`.
    pub volume: String,
    /// The number, the time or the path of a backup; the newest unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// No backup: what it was before the last import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<bool>,
}
