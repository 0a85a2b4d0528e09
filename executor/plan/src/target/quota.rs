//! What a volume may take of the disk, as the kernel has it.

use super::{Target, TargetError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tank_model::{Graph, VolumeId, units::Bytes};

/// Leases of project ids, by [`VolumeId`]s as texts: the first of the two that a volume has.
pub type Projects = BTreeMap<String, u32>;

/// The limit of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quota {
    /// The first of its two project ids; the other one follows it. What is there counts to one of them, and
    /// what is to take its place to the other until it does.
    pub project: u32,
    /// The most bytes; 0: there is no limit.
    pub bytes: u64,
    /// The most files, directories and others; 0: there is no limit.
    pub inodes: u64,
}

impl Quota {
    /// Of a volume of this size, or of one without.
    pub fn new(project: u32, size: Option<Bytes>) -> Self {
        Self {
            project,
            bytes: size.map_or(0, |Bytes(bytes)| bytes),
            inodes: size.map_or(0, inodes),
        }
    }

    /// Whether a project id is one of the two.
    pub fn has(&self, project: u32) -> bool {
        project == self.project || Some(project) == self.project.checked_add(1)
    }
}

/// As many as mkfs.ext4(8) gives a file system of that size: one for each 4 KiB of one below 512 MiB, and for
/// each 16 KiB of a larger one; never fewer than a smaller one has, and 1024 at least.
fn inodes(Bytes(size): Bytes) -> u64 {
    const SMALL: u64 = 512 << 20;
    (size.min(SMALL) >> 12).max(size >> 14).max(1024)
}

/// Whether a graph declares a volume as one that Tank keeps.
pub fn declares(graph: &Graph, volume: &VolumeId) -> bool {
    match volume {
        VolumeId::Own(pod, name) => graph.kept_volume(pod, name).as_ref() == Some(volume),
        VolumeId::Shared(name) => graph.shared_volume(name).is_some(),
    }
}

impl Target<'_> {
    /// The limit of a volume that has a size.
    pub(super) fn quota(&self, volume: &VolumeId) -> Result<Option<Quota>, TargetError> {
        let Some(size) = self.graph.size(volume) else {
            return Ok(None);
        };
        let project = self.projects.get(&volume.to_string());
        let project = project.ok_or_else(|| TargetError::NoProject {
            volume: volume.clone(),
        })?;
        Ok(Some(Quota::new(*project, Some(size))))
    }

    /// The limits of the volumes that are declared and have one, or had one.
    pub(crate) fn quotas(&self) -> Vec<(VolumeId, Quota)> {
        let all = self.projects.iter();
        let of = |(volume, project): (&String, &u32)| {
            let volume = VolumeId::parse(volume)?;
            let quota = Quota::new(*project, self.graph.size(&volume));
            declares(self.graph, &volume).then_some((volume, quota))
        };
        all.filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_as_many_inodes_as_a_file_system_of_its_size() {
        let sizes = [
            (64 << 10, 1024),
            (4 << 20, 1024),
            (100 << 20, 25_600),
            (512 << 20, 131_072),
            (1 << 30, 131_072),
            (2 << 30, 131_072),
            (10 << 30, 655_360),
        ];
        for (size, expected) in sizes {
            assert_eq!(inodes(Bytes(size)), expected, "{size}");
        }
        let lifted = Quota::new(7, None);
        assert_eq!((lifted.bytes, lifted.inodes), (0, 0));
        assert!(lifted.has(7) && lifted.has(8) && !lifted.has(9) && !lifted.has(6));
    }
}
