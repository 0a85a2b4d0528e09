//! What a container sees of its pod's volumes: where, and what they begin with.

use super::{Quota, Target, TargetError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tank_model::{Digest, Name, VolumeId, graph::ContainerNode, spec, units::Bytes};

/// Something that is mounted into a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// A volume of its pod.
    pub volume: Name,
    /// Absolute, in the container.
    pub path: String,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// The directory of the volume that is mounted in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// Whether what is mounted on the host later appears in it.
    #[serde(default, skip_serializing_if = "is_private")]
    pub propagation: spec::Propagation,
    /// Where its content comes from.
    pub source: MountSource,
}

fn is_private(propagation: &spec::Propagation) -> bool {
    !propagation.is_slave()
}

/// What a volume's own directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Folder {
    /// Whom it belongs to, by ids in the container. None: whom it does already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<spec::Owner>,
    /// Its permissions. None: those it has already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<spec::FolderMode>,
}

impl Folder {
    fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// What of an image a volume begins with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Content {
    /// Its manifest.
    pub image: Digest,
    /// Absolute, in a container of it.
    pub path: String,
}

/// What a mount shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum MountSource {
    /// Memory of at most `size` bytes, which everybody in the pod may write.
    Tmpfs {
        size: Bytes,
        /// The host's id of the pod's root.
        owner: u32,
        /// What is declared of its directory.
        #[serde(default, skip_serializing_if = "Folder::is_any")]
        folder: Folder,
    },
    /// A directory of the host, by its absolute path.
    Host { path: String },
    /// What Tank keeps for this volume of the pod.
    Managed {
        /// What is declared of its directory.
        #[serde(default, skip_serializing_if = "Folder::is_any")]
        folder: Folder,
        /// What it begins with: the first of these with something at its path.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        content: Vec<Content>,
        /// The images of all that may write to it as it is declared; of a mount that may be read
        /// only, none.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        writers: BTreeSet<Digest>,
        /// By its name on the host: it is not this pod's alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared: Option<Name>,
        /// What it may take of the disk. None: the disk is the bound.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quota: Option<Quota>,
    },
}

impl Target<'_> {
    pub(super) fn mounts(
        &self,
        pod: &Name,
        node: &ContainerNode,
        id_base: u32,
    ) -> Result<Vec<Mount>, TargetError> {
        let mut mounts = Vec::new();
        for at in node.mounts.values() {
            let volume = self.graph.volume(pod, &at.volume);
            let volume = volume.ok_or_else(|| TargetError::NoVolume {
                volume: at.volume.clone(),
            })?;
            let folder = Folder {
                owner: volume.owner,
                mode: volume.mode,
            };
            let source = match (volume.tmpfs, &volume.host) {
                (Some(size), _) => MountSource::Tmpfs {
                    size,
                    owner: id_base,
                    folder,
                },
                (None, Some(path)) => MountSource::Host { path: path.clone() },
                (None, None) => self.managed((pod, at), volume, folder)?,
            };
            mounts.push(Mount {
                volume: at.volume.clone(),
                path: at.path.clone(),
                read_only: at.read_only,
                sub_path: at.sub_path.clone(),
                propagation: at.propagation,
                source,
            });
        }
        mounts.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(mounts)
    }

    /// What Tank keeps: for the pod, or for several.
    fn managed(
        &self,
        (pod, at): (&Name, &spec::Mount),
        volume: &spec::Volume,
        folder: Folder,
    ) -> Result<MountSource, TargetError> {
        let name = &at.volume;
        let Some(shared) = volume.shared_of(pod) else {
            let content = match volume.no_copy {
                true => Vec::new(),
                false => self.content(pod, &BTreeSet::from([name])),
            };
            return Ok(MountSource::Managed {
                folder,
                content,
                writers: match at.read_only {
                    true => BTreeSet::new(),
                    false => self.graph.writers(pod, name),
                },
                shared: None,
                quota: self.quota(&VolumeId::Own(pod.clone(), name.clone()))?,
            });
        };
        let declared = self.graph.shared_volume(&shared);
        let declared = declared.ok_or_else(|| TargetError::NoVolume {
            volume: name.clone(),
        })?;
        // By whichever of the pod's names for it.
        let names = self.graph.volumes(pod);
        let names = names.filter(|(_, own)| own.shared == volume.shared);
        let content = match declared.no_copy {
            true => Vec::new(),
            false => self.content(pod, &names.map(|(name, _)| name).collect()),
        };
        let folder = Folder {
            owner: declared.owner,
            mode: declared.mode,
        };
        Ok(MountSource::Managed {
            folder,
            content,
            writers: BTreeSet::new(),
            quota: self.quota(&VolumeId::Shared(shared.clone()))?,
            shared: Some(shared),
        })
    }

    /// What the images of a pod have where its containers mount a volume as a whole, in the order in
    /// which those start. It is the same whichever of them starts first. `names`: the volume's in the pod.
    fn content(&self, pod: &Name, names: &BTreeSet<&Name>) -> Vec<Content> {
        let inits = self.graph.init(pod);
        let inits = inits.map(|(_, spec, _)| (&spec.image, &spec.mounts));
        let containers = self.graph.containers(pod);
        let containers = containers.map(|(_, node, _)| (&node.image, &node.mounts));
        let mut all = Vec::new();
        for (image, mounts) in inits.chain(containers) {
            let Some(image) = self.graph.image(image) else {
                continue;
            };
            let whole = mounts
                .values()
                .filter(|at| names.contains(&at.volume) && at.sub_path.is_none());
            for at in whole {
                let path = at.path.clone();
                let content = Content { image, path };
                if !all.contains(&content) {
                    all.push(content);
                }
            }
        }
        all
    }
}
