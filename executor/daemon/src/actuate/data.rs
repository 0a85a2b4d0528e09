//! Snapshots of volumes, as steps.

use super::{Actuator, Error, blocking};
use crate::events::Kind;
use std::sync::Arc;
use tank_model::VolumeId;
use tank_plan::{Step, target::Quota};
use tank_sys::with_causes;

impl Actuator {
    /// Takes a snapshot, or brings one back. What could not be taken and is no condition of what follows
    /// is an event, and is not tried again.
    pub(super) async fn data(&self, step: &Step) -> Result<(), Error> {
        let (volumes, events) = (Arc::clone(&self.volumes), Arc::clone(&self.events));
        let step = step.clone();
        let work = move || match &step {
            Step::SnapshotVolume {
                pod,
                volume,
                generation,
                optional,
            } => {
                let of = (pod, volume);
                let taken = volumes.take_snapshot(of, *generation);
                let taken = taken.or_else(|error| {
                    if !optional {
                        return Err(error);
                    }
                    let why = with_causes(&error);
                    let message = format!("going on without this: {step}: {why}");
                    events.add(Kind::Failed, Some(pod.as_str()), message);
                    volumes.take_none(of, *generation)
                });
                taken.map_err(|source| Error::Snapshot {
                    volume: volume.clone(),
                    source,
                })
            }
            Step::RestoreVolume {
                pod,
                volume,
                from,
                generation,
                ..
            } => {
                let restored = volumes.restore((pod, volume), *from, *generation);
                restored.map_err(|source| Error::ManagedVolume {
                    volume: volume.clone(),
                    source,
                })
            }
            _ => Ok(()),
        };
        blocking("keep the data of a volume", work).await
    }

    /// Holds a volume that is there to its size.
    pub(super) async fn limit(&self, volume: &VolumeId, quota: Quota) -> Result<(), Error> {
        let (volumes, volume) = (Arc::clone(&self.volumes), volume.clone());
        let limit = move || {
            let limited = volumes.limit(&volume, &quota);
            limited.map_err(|source| Error::Limit { volume, source })
        };
        blocking("limit a volume", limit).await
    }
}
