//! The sizes of volumes, beside what is declared: which can't be held here, what an import may take, and what a removed one gives back.

use super::{
    Error, Generations,
    error::{Context, Misfit, Unfit},
};
use crate::{
    actuate::volumes::{Unlimitable, VolumeError, is_full},
    store::leases::projects,
};
use std::sync::Arc;
use tank_model::{
    Graph, VolumeId,
    check::{HOST_VOLUME, Problem},
    units::Bytes,
};
use tank_plan::target::Quota;
use tokio::task::spawn_blocking;

/// The field of a volume's size.
fn field(volume: &VolumeId) -> Vec<String> {
    let parts = match volume {
        VolumeId::Own(pod, name) => vec!["pods", pod.as_str(), "volumes", name.as_str(), "size"],
        VolumeId::Shared(name) => vec!["volumes", name.as_str(), "size"],
    };
    parts.into_iter().map(str::to_owned).collect()
}

impl Generations {
    /// Refuses a change that gives a volume a size which nothing would hold it to. One that had a size
    /// before is not asked for.
    ///
    /// # Errors
    /// [`Error::Unfit`] with each of these; what the kernel gave where it can't be looked at.
    pub(super) async fn refuse_unlimitable(
        &self,
        before: &Graph,
        after: &Graph,
    ) -> Result<(), Error> {
        let sized = after.sizes().map(|(volume, _)| volume);
        let new: Vec<VolumeId> = sized
            .filter(|volume| before.size(volume).is_none())
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let what = "look whether volumes can be limited";
        let volumes = Arc::clone(&self.volumes);
        let look = move || {
            let mut found = Vec::new();
            for volume in new {
                if let Some(lacks) = volumes.unlimitable(&volume)? {
                    found.push((volume, lacks));
                }
            }
            Ok::<_, VolumeError>(found)
        };
        let found = spawn_blocking(look).await.doing(what)?.doing(what)?;
        if found.is_empty() {
            return Ok(());
        }
        let problems = found.into_iter().map(|(volume, lacks)| Problem {
            code: HOST_VOLUME,
            path: field(&volume),
            message: format!(
                "nothing would hold the volume {volume} to its size: {}",
                lacks.why
            ),
            help: lacks.help,
            related: None,
        });
        let list: Vec<Misfit> = problems
            .map(|problem| Misfit {
                problem,
                place: None,
                related: None,
            })
            .collect();
        let words = list.iter().map(|one| one.problem.message.clone());
        Err(Error::Unfit(Box::new(Unfit {
            words: words.collect(),
            list,
        })))
    }

    /// Why volumes can't have a size on this host, and what to do. None: they can.
    pub async fn unlimited(&self) -> Option<Vec<String>> {
        let volumes = Arc::clone(&self.volumes);
        let look = move || volumes.unlimitable_folders();
        let found = spawn_blocking(look).await.ok()?;
        let words = |found: Unlimitable| vec![found.why, found.help];
        match found {
            Ok(found) => found.map(words),
            Err(error) => Some(vec![tank_sys::with_causes(&error)]),
        }
    }

    /// What a volume of the current generation may take.
    pub(super) fn quota(&self, graph: &Graph, volume: &VolumeId) -> Option<Quota> {
        let size = graph.size(volume)?;
        let leases = self.store.leases();
        let project = leases.get(&projects::key(volume))?;
        Some(Quota::new(*project, Some(size)))
    }

    /// Has the project ids of a volume that is removed be nobody's. Blocking.
    pub(super) fn release_project(&self, volume: &VolumeId) -> Result<(), Error> {
        let leases = self.store.leases();
        let Some(project) = leases.get(&projects::key(volume)) else {
            return Ok(());
        };
        self.volumes.release(volume, *project);
        Ok(self.store.take_leases(&projects::release(volume))?)
    }

    /// Releases what is leased to volumes that are gone, and that no generation declares. Before anything is served. Blocking.
    ///
    /// # Errors
    /// When the store refuses.
    pub(super) fn release_unused_projects(&self) -> Result<(), Error> {
        let leases = self.store.leases();
        let leased = leases.keys().filter_map(|name| projects::volume_of(name));
        let leased: Vec<VolumeId> = leased.collect();
        if leased.is_empty() {
            return Ok(());
        }
        let kept = self.volumes.kept().doing("list the volumes")?;
        let named = self.named()?;
        let is_used = |volume: &&VolumeId| kept.contains(volume) || named.contains_key(volume);
        let mut unused = leased.iter().filter(|volume| !is_used(volume));
        unused.try_for_each(|volume| self.release_project(volume))
    }
}

/// Why an archive was not taken in: also that it is larger than the volume may be.
pub(super) fn not_taken(error: tank_image::Error, quota: Option<Quota>) -> Error {
    match quota {
        Some(quota) if is_full(&error) => Error::Internal {
            what: "import a volume",
            source: format!(
                "what the archive has takes more than the volume's `size` of {}, or the disk is full; the volume is as it was",
                Bytes(quota.bytes)
            )
            .into(),
        },
        _ => Error::Internal {
            what: "read the archive",
            source: error.into(),
        },
    }
}
