//! What of volumes decides whether a snapshot is taken of them, or one brought back.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Digest, Name};

/// The volumes that Tank keeps.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Data {
    /// The generation that is left on the way to what is declared: that of what ran before. None: there
    /// is none, or it was deleted, and nothing is kept with it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Whether this is a way back: then it is not kept waiting for a snapshot that can't be taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
    /// Whether files can share what they have, where volumes are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reflinks: bool,
    /// Those that are there, or are to be brought back: by pod and volume.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<Name, BTreeMap<Name, VolumeData>>,
    /// Those that are there and have a size, or had one, by their [`tank_model::VolumeId`]s.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counted: BTreeMap<String, Counted>,
}

/// What the kernel counts of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// Whether its file system holds it to a size.
    pub held: bool,
    /// The project id that its directory counts to, and hands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<u32>,
    /// Whether not all of it counts to that, as far as anybody knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counting: bool,
    /// Whether what is in it is being counted now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_progress: bool,
    /// Whether one of the two ids that it has is limited, whatever counts to that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub limited: bool,
    /// The limits of that project, as in [`crate::target::Quota`].
    pub bytes: u64,
    /// The same.
    pub inodes: u64,
    /// The bytes that it takes.
    pub used: u64,
    /// How many files, directories and others there are.
    pub used_inodes: u64,
}

/// What is known of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VolumeData {
    /// The images of which containers were started that may write to it, since it was last another
    /// one's. None: nobody has kept that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<BTreeSet<Digest>>,
    /// Whether it is decided what is kept with [`Data::left`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Whether what it has was put there by hand, and nothing has written to it since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// The generation whose snapshot is to be brought back on the way to what is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<u64>,
    /// The one that left what that snapshot is of, where it was handed on since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<u64>,
    /// Whether it is on another file system than its snapshots would be: nothing is shared then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
}

impl VolumeData {
    /// Notes that a container of an image is about to start that may write to it. The first one after
    /// a snapshot, or of a new volume, speaks for all that are declared: what another of them starts
    /// with later is no data of a generation before.
    pub fn note(&mut self, image: Digest, declared: &BTreeSet<Digest>) {
        let images = self.images.get_or_insert_default();
        if images.is_empty() {
            images.extend(declared);
        }
        images.insert(image);
        self.imported = false;
    }
}

impl Data {
    /// Whether there is nothing to be known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a snapshot can be taken of a volume.
    pub fn can_share(&self, pod: &Name, volume: &Name) -> bool {
        self.reflinks && self.of(pod, volume).is_none_or(|found| !found.apart)
    }

    /// What is known of a volume, if it is there.
    pub fn of(&self, pod: &Name, volume: &Name) -> Option<&VolumeData> {
        self.volumes.get(pod)?.get(volume)
    }
}
