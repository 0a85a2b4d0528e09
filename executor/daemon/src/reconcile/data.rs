//! What is known of the data of volumes, for a plan.

use super::{Error, Reconciler};
use crate::{actuate::volumes::Snapshot, store::leases::projects};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tank_model::{Digest, Graph, Key, Name, VolumeId};
use tank_plan::{
    observed::{Data, VolumeData},
    target::declares,
};

/// What is wanted of volumes' data on the way to a graph.
#[derive(Default)]
pub struct Way {
    /// The generation that is left.
    pub left: Option<u64>,
    /// It leads back.
    pub back: bool,
    pub wanted: BTreeMap<Name, BTreeMap<Name, u64>>,
}

impl Reconciler {
    /// What is known of the volumes that a graph declares; `way` is what leads to it, where that is not known from the store.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(super) async fn read_data(&self, graph: &Graph, way: Option<Way>) -> Result<Data, Error> {
        let managed: Vec<(Name, Name)> = managed(graph).collect();
        let sized: BTreeSet<VolumeId> = self.sized(graph);
        let projects = projects::of(&self.store.leases());
        if managed.is_empty() && sized.is_empty() {
            return Ok(Data::default());
        }
        let way = match way {
            Some(way) => way,
            None => self.way(graph.root())?,
        };
        let volumes = Arc::clone(&self.actuator.volumes);
        let read = move || {
            let mut data = Data {
                left: way.left,
                back: way.back,
                reflinks: !managed.is_empty() && volumes.can_share(),
                volumes: BTreeMap::new(),
                counted: BTreeMap::new(),
            };
            for volume in sized {
                let leased = projects.get(&volume.to_string()).copied();
                let counted = volumes.counted(&volume, leased);
                let counted = counted.map(|counted| (volume.to_string(), counted));
                data.counted.extend(counted);
            }
            for (pod, volume) in managed {
                let wanted = way.wanted.get(&pod).and_then(|own| own.get(&volume));
                let found = volumes.data(&pod, &volume, way.left);
                let found = found.or_else(|| wanted.map(|_| VolumeData::default()));
                if let Some(found) = found {
                    let of_pod: &mut BTreeMap<_, _> = data.volumes.entry(pod.clone()).or_default();
                    let origin = wanted.and_then(|from| {
                        let snapshot = Snapshot {
                            generation: *from,
                            pod: pod.clone(),
                            volume: volume.clone(),
                        };
                        let origin = volumes.origin(&snapshot);
                        Some(origin).filter(|origin| origin != from)
                    });
                    let wanted = wanted.copied();
                    let found = VolumeData {
                        wanted,
                        origin,
                        ..found
                    };
                    of_pod.insert(volume, found);
                }
            }
            data
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(Error::Inputs)
    }

    /// The volumes of a graph that have a size, or had one.
    fn sized(&self, graph: &Graph) -> BTreeSet<VolumeId> {
        let leased = self.store.leases();
        let leased = leased.keys().filter_map(|name| projects::volume_of(name));
        let declared = leased.filter(|volume| declares(graph, volume));
        let sized = graph.sizes().map(|(volume, _)| volume);
        declared.chain(sized).collect()
    }

    /// Which generation is left on the way to a graph. One that is the current generation's is on its
    /// way from the parent of that; another one would be the next generation.
    fn way(&self, root: Digest) -> Result<Way, Error> {
        let Some(current) = self.store.current()? else {
            return Ok(Way::default());
        };
        let Some(generation) = self.store.generation(current)? else {
            return Ok(Way::default());
        };
        if generation.root != root {
            return Ok(Way {
                left: Some(current),
                ..Way::default()
            });
        }
        let left = match generation.parent {
            // Nothing is kept with one that was deleted: what it left was other data by then.
            Some(parent) => self.store.generation(parent)?.map(|parent| parent.number),
            None => None,
        };
        Ok(Way {
            left,
            back: generation.rollback.is_some(),
            wanted: generation.data,
        })
    }
}

/// The volumes of a graph that Tank keeps.
fn managed(graph: &Graph) -> impl Iterator<Item = (Name, Name)> {
    let volumes = graph.entries().filter_map(|entry| match &entry.key {
        Key::Volume(pod, volume) => Some((pod, volume)),
        _ => None,
    });
    let managed = volumes.filter(|(pod, volume)| {
        let declared = graph.volume(pod, volume);
        declared.is_some_and(tank_model::spec::Volume::is_managed)
    });
    managed.map(|(pod, volume)| (pod.clone(), volume.clone()))
}
