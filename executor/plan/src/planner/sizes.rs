//! The sizes of volumes: the kernel holds them to those, under running containers too.
//!
//! A volume that is not there yet begins with its limit, when the first container that mounts it starts; of one that is
//! there, whoever starts on it waits for its limit. Nobody waits until all that was in it before counts: that goes on beside the passes.

use crate::{
    observed::Counted,
    planner::Planner,
    step::{Class, Step, StepId},
    target::Quota,
    unmet::Unmet,
    why::Why,
};
use std::collections::BTreeMap;
use tank_model::{Graph, Key, Name, VolumeId};

/// The steps about sizes that are planned.
#[derive(Default)]
pub(crate) struct SizeSteps {
    planned: BTreeMap<VolumeId, StepId>,
    /// Which volumes have no room for anything, or no limit.
    pub(crate) unmet: Vec<Unmet>,
}

/// Whether a volume is limited as it is declared.
fn is_so(found: &Counted, quota: &Quota) -> bool {
    let own = found.project.filter(|project| quota.has(*project));
    match quota.bytes {
        // Some of it may count to one of its ids, whatever its directory counts to.
        0 => !found.limited && !found.counting,
        _ => {
            let counts = !found.counting || found.in_progress;
            own.is_some() && counts && (found.bytes, found.inodes) == limits(quota)
        }
    }
}

/// As the kernel has them: bytes in units of 1 KiB.
fn limits(quota: &Quota) -> (u64, u64) {
    (quota.bytes & !1023, quota.inodes)
}

/// A pod that has a volume.
fn pod_of<'a>(graph: &'a Graph, volume: &'a VolumeId) -> Option<&'a Name> {
    let mut pods = graph.pods();
    match volume {
        VolumeId::Own(pod, _) => Some(pod),
        VolumeId::Shared(_) => pods.find(|pod| {
            let mut own = graph.volumes(pod);
            own.any(|(name, _)| graph.kept_volume(pod, name).as_ref() == Some(volume))
        }),
    }
}

impl Planner<'_> {
    /// Limits what is there and is not limited as declared.
    pub(super) fn limit_volumes(&mut self) {
        for (volume, quota) in self.target.quotas() {
            let Some(found) = self.observed.data.counted.get(&volume.to_string()) else {
                continue;
            };
            let found = *found;
            let pod = pod_of(self.target.graph, &volume).cloned();
            if let Some(pod) = &pod
                && quota.bytes > 0
            {
                let over = found.used > quota.bytes || found.used_inodes > quota.inodes;
                if !found.held {
                    self.sizes.unmet.push(Unmet::NoQuotas {
                        pod: pod.clone(),
                        volume: volume.clone(),
                    });
                } else if found.in_progress && is_so(&found, &quota) {
                    self.sizes.unmet.push(Unmet::Counting {
                        pod: pod.clone(),
                        volume: volume.clone(),
                    });
                } else if over {
                    self.sizes.unmet.push(Unmet::OverSize {
                        pod: pod.clone(),
                        volume: volume.clone(),
                    });
                }
            }
            if !found.held || is_so(&found, &quota) {
                continue;
            }
            let key = match &volume {
                VolumeId::Own(pod, name) => Key::VolumeSize(pod.clone(), name.clone()),
                VolumeId::Shared(name) => Key::SharedVolumeSize(name.clone()),
            };
            let why = self.reason(&key);
            let drift = self.is_declared_before(&key);
            let step = Step::LimitVolume {
                volume: volume.clone(),
                quota,
            };
            let why = why.unwrap_or(Why::SizeDiffers);
            let id = self.add(step, Class::InPlace, why, drift, &[]);
            self.sizes.planned.insert(volume, id);
        }
    }

    /// The steps after which the volume of a mount is limited.
    pub(crate) fn limited(&self, pod: &Name, volume: &Name) -> Option<StepId> {
        let volume = self.target.graph.kept_volume(pod, volume)?;
        self.sizes.planned.get(&volume).copied()
    }
}
