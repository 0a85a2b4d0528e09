//! The project ids of volumes that have a size, or had one: two in a row for each.
//!
//! They are leases as those of pods are, by names that no pod has: `quota/POD/VOLUME`, `quota/VOLUME`. What is on the disk
//! counts to them, so one is a volume's until that is removed, whatever generations there are.

use super::{LeaseChange, Leases, Proposal};
use crate::store::StoreError;
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Digest, VolumeId};
use tank_plan::target::Projects;

/// The first project id of Tank's. Whoever numbers by hand, Docker, Podman and the kubelet begin far below.
pub const FIRST_PROJECT: u32 = 0x5441_0000;

/// How many volumes of a host may have a size.
pub const VOLUMES: u32 = 32_768;

const OF_VOLUME: &str = "quota/";

/// Whether a project id is one of Tank's.
pub fn is_own(project: u32) -> bool {
    (FIRST_PROJECT..FIRST_PROJECT + 2 * VOLUMES).contains(&project)
}

/// The name of a volume's lease.
pub fn key(volume: &VolumeId) -> String {
    format!("{OF_VOLUME}{volume}")
}

/// The volume of a lease, if it is one of a volume.
pub fn volume_of(name: &str) -> Option<VolumeId> {
    VolumeId::parse(name.strip_prefix(OF_VOLUME)?)
}

/// Those that are leased.
pub fn of(leases: &Leases) -> Projects {
    let own = leases.range(OF_VOLUME.to_owned()..);
    let own = own.take_while(|(name, _)| name.starts_with(OF_VOLUME));
    own.filter_map(|(name, project)| Some((volume_of(name)?.to_string(), *project)))
        .collect()
}

/// New ones for those of `volumes` that have none in `kept`: the ones that the name's hash says, or the next free ones. None of
/// which somebody else has one of the two (`avoid`, asked only if there is a new one). Pure.
///
/// # Errors
/// [`StoreError::NoProject`].
pub fn propose(
    kept: &Leases,
    volumes: &[VolumeId],
    avoid: impl FnOnce() -> BTreeSet<u32>,
) -> Result<Leases, StoreError> {
    let mut new = Leases::new();
    let lacking: Vec<&VolumeId> = volumes
        .iter()
        .filter(|volume| !kept.contains_key(&key(volume)))
        .collect();
    if lacking.is_empty() {
        return Ok(new);
    }
    let mut taken = avoid();
    taken.extend(of(kept).into_values());
    for volume in lacking {
        let key = key(volume);
        let bytes = *Digest::of(key.as_bytes()).as_bytes();
        let start = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % VOLUMES;
        let mut all = (0..VOLUMES).map(|i| FIRST_PROJECT + (start + i) % VOLUMES * 2);
        let free = |project: &u32| !taken.contains(project) && !taken.contains(&(project + 1));
        let project = all.find(free).ok_or(StoreError::NoProject)?;
        taken.insert(project);
        new.insert(key, project);
    }
    Ok(new)
}

/// That a volume has none any more.
pub fn release(volume: &VolumeId) -> LeaseChange {
    LeaseChange {
        new: BTreeMap::new(),
        released: BTreeSet::from([key(volume)]),
    }
}

impl Proposal {
    /// The same, with the project ids that these volumes get.
    ///
    /// # Errors
    /// [`StoreError::NoProject`].
    pub fn with_projects(
        mut self,
        volumes: &[VolumeId],
        avoid: impl FnOnce() -> BTreeSet<u32>,
    ) -> Result<Self, StoreError> {
        self.change.new.extend(propose(&self.kept, volumes, avoid)?);
        Ok(self)
    }

    /// The project ids of volumes, new ones among them.
    pub fn projects(&self) -> Projects {
        let mut projects = of(&self.kept);
        projects.extend(of(&self.change.new));
        projects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(text: &str) -> VolumeId {
        VolumeId::parse(text).expect("a volume")
    }

    #[test]
    fn each_volume_has_two_ids_of_its_own_which_nobody_else_has() {
        let volumes: Vec<VolumeId> = (0..200)
            .flat_map(|n| {
                [
                    volume(&format!("p{n}/data")),
                    volume(&format!("shared-{n}")),
                ]
            })
            .collect();
        let nobody = BTreeSet::new;
        let first = propose(&Leases::new(), &volumes, nobody).expect("there are enough");
        assert_eq!(first.len(), 400);
        let ids: BTreeSet<u32> = first.values().flat_map(|id| [*id, id + 1]).collect();
        assert_eq!(ids.len(), 800);
        assert!(ids.iter().all(|id| is_own(*id)));
        // The same ones where a store is made anew, and none of them where others have them.
        assert_eq!(
            propose(&Leases::new(), &volumes, nobody).expect("again"),
            first
        );
        let others = propose(&Leases::new(), &volumes, || ids.clone()).expect("others");
        assert!(
            others
                .values()
                .all(|id| !ids.contains(id) && !ids.contains(&(id + 1)))
        );
        // What is leased stays, and nobody is asked then.
        let again = propose(&first, &volumes, || unreachable!("nothing is new"));
        assert_eq!(again.expect("nothing"), Leases::new());
        assert_eq!(of(&first)["p7/data"], first["quota/p7/data"]);
        assert_eq!(of(&first)["shared-7"], first["quota/shared-7"]);
    }

    #[test]
    fn a_pod_or_an_interface_that_is_called_so_is_no_volume() {
        let leases: Leases = [
            ("quota", 7),
            ("quota/eth0@10.0.0.0/25/24", 8),
            ("quotas/x", 9),
        ]
        .map(|(name, number)| (name.to_owned(), number))
        .into();
        assert_eq!(of(&leases), Projects::new());
    }

    #[test]
    fn when_all_are_taken_that_is_said() {
        let all = || (FIRST_PROJECT..FIRST_PROJECT + 2 * VOLUMES).collect();
        let none = propose(&Leases::new(), &[volume("db/data")], all);
        assert!(matches!(none, Err(StoreError::NoProject)));
    }
}
