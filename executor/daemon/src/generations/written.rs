//! Which images wrote to volumes in which generation: of generations that are kept their graphs say it, of those that are
//! gone what was noted of them beside the volume.

use super::{
    Collector, Error,
    error::Context,
    handed::{Kept, Known, Writers, Written, noted, written},
    kept::managed,
};
use crate::{
    actuate::volumes::{Snapshot, Volumes},
    store::{Store, graphs::Graphs},
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Graph, Name, VolumeId};

/// Which images a generation declares that write to each volume, by pod and volume.
type Declared = BTreeMap<(Name, Name), Writers>;

/// Reads what is known of that. Blocking.
pub struct History<'a> {
    volumes: &'a Volumes,
    /// Of each generation the volumes that are a pod's own, and which images write to them. Of one that can't be read
    /// nothing is known.
    declared: BTreeMap<u64, Option<Declared>>,
}

impl<'a> History<'a> {
    /// # Errors
    /// When the store can't be read.
    pub fn read(
        store: &dyn Store,
        graphs: &Graphs,
        volumes: &'a Volumes,
    ) -> Result<History<'a>, Error> {
        let all = store.generations()?.into_iter();
        let all = all.map(|one| {
            let graph = graphs.get(one.root).ok();
            (one.number, graph.map(|graph| own_volumes(&graph)))
        });
        Ok(Self {
            volumes,
            declared: all.collect(),
        })
    }

    /// Which images write to a volume in a generation; none where it has no such volume.
    pub fn declared(&self, number: u64, (pod, volume): (&Name, &Name)) -> Option<Writers> {
        let own = self.declared.get(&number)?.as_ref()?;
        own.get(&(pod.clone(), volume.clone())).cloned()
    }

    /// Which images wrote to a volume, by generations.
    pub fn written(&self, of: (&Name, &Name)) -> Written {
        self.look(of).0
    }

    fn look(&self, of: (&Name, &Name)) -> (Written, Written, Vec<Kept>) {
        let past = self.volumes.past(of);
        let kept = self.volumes.decided(of);
        let kept: Vec<Kept> = kept
            .into_iter()
            .map(|(at, origin, by)| Kept { at, origin, by })
            .collect();
        let key = (of.0.clone(), of.1.clone());
        let declared = self.declared.iter().map(|(number, own)| {
            let own = own.as_ref();
            (
                *number,
                own.map(|own| own.get(&key).cloned().unwrap_or_default()),
            )
        });
        let now = self.volumes.writers_now(of);
        let all = written(&past, declared, &kept, now.as_ref());
        (all, past, kept)
    }

    /// Notes what of the generations that go decides which snapshots a rollback uses.
    ///
    /// # Errors
    /// What the disk gives.
    fn note(&self, outdated: &BTreeSet<u64>) -> Result<(), Error> {
        let known: BTreeSet<u64> = self.declared.keys().copied().collect();
        let snapshots = self.volumes.snapshots().into_iter();
        let mut all: BTreeSet<(Name, Name)> = snapshots.map(|one| (one.pod, one.volume)).collect();
        for own in self.declared.values().flatten() {
            all.extend(own.keys().cloned());
        }
        for (pod, volume) in &all {
            let (all, past, kept) = self.look((pod, volume));
            let past_now = noted(&all, &past, &kept, (&known, outdated));
            let done = match past_now == past {
                true => Ok(()),
                false => self.volumes.note_past((pod, volume), past_now),
            };
            done.doing("note who wrote to a volume")?;
        }
        Ok(())
    }
}

fn own_volumes(graph: &Graph) -> BTreeMap<(Name, Name), Writers> {
    let own = managed(graph).into_iter().filter_map(|id| match id {
        VolumeId::Own(pod, volume) => {
            let writers = graph.writers(&pod, &volume);
            Some(((pod, volume), writers))
        }
        VolumeId::Shared(_) => None,
    });
    own.collect()
}

/// What is known of snapshots. Blocking.
pub(super) fn known(volumes: &Volumes, all: Vec<Snapshot>) -> Vec<Known> {
    let all = all.into_iter();
    all.map(|one| (volumes.origin(&one), one))
        .map(|(origin, snapshot)| Known { snapshot, origin })
        .collect()
}

impl Collector {
    /// Notes of generations that are about to be removed who wrote to volumes in them. Blocking.
    ///
    /// # Errors
    /// When the store or the disk refuses.
    pub(super) fn note_written(&self, outdated: &BTreeSet<u64>) -> Result<(), Error> {
        if outdated.is_empty() {
            return Ok(());
        }
        History::read(&*self.store, &self.graphs, &self.volumes)?.note(outdated)
    }
}
