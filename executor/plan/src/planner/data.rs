//! The data of volumes over a change: a snapshot before another image writes to them, and what a
//! rollback brings back.
//!
//! A snapshot is kept with the generation that is left, so what decides is not which step replaces what
//! but who has written: an image that was never started on what the volume has may not be able to
//! leave it as the ones before it can read it. So also a container under another name counts, and one
//! of a pod that was deleted and is declared again; and what crashes and starts again does not.
//!
//! Both are of files at rest: whatever runs with the volume ends before and starts after, also where
//! nothing else of it has changed. Nothing is brought back that nobody has asked for. Where a switch
//! fails its parent starts on what the new version has left, since that may hold what somebody
//! relies on; the snapshot is there for whoever decides otherwise.

use crate::{
    observed,
    planner::Planner,
    step::{Class, Step, StepId},
    target::{self, MountSource},
    unmet::Unmet,
    why::Why,
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{
    Digest, Graph, Name,
    spec::{Mount, Snapshots},
};

/// What has to be done of a volume before anything starts on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Snapshot {
        generation: u64,
    },
    Restore {
        from: u64,
        origin: Option<u64>,
        generation: u64,
    },
}

/// The steps about data that are planned.
#[derive(Default)]
pub(crate) struct DataSteps {
    /// The volumes of pods of which something is due, and that nothing has mounted by then.
    resting: BTreeMap<(Name, Name), Due>,
    planned: BTreeMap<(Name, Name), StepId>,
    /// Of which no snapshot can be taken here.
    pub(crate) without: BTreeSet<Unmet>,
}

/// A process of a pod: its name, the digest of its image, and what it mounts.
type User<'a> = (&'a Name, Option<Digest>, Vec<&'a Mount>);

fn users<'a>(graph: &'a Graph, pod: &'a Name) -> Vec<User<'a>> {
    let inits = graph.init(pod);
    let inits = inits.map(|(name, spec, _)| (name, &spec.image, &spec.mounts));
    let containers = graph.containers(pod);
    let containers = containers.map(|(name, node, _)| (name, &node.image, &node.mounts));
    let all = inits.chain(containers);
    all.map(|(name, image, mounts)| (name, graph.image(image), mounts.values().collect()))
        .collect()
}

fn writes(mounts: &[&Mount], volume: &Name) -> bool {
    let mut mounts = mounts.iter();
    mounts.any(|mount| mount.volume == *volume && !mount.read_only)
}

fn has(mounts: &[&Mount], volume: &Name) -> bool {
    mounts.iter().any(|mount| mount.volume == *volume)
}

impl Planner<'_> {
    /// What is due of the data of a volume, and the images that it is due for.
    fn due(&self, pod: &Name, volume: &Name) -> Option<(Due, BTreeSet<Digest>)> {
        let found = self.observed.data.of(pod, volume)?;
        let generation = self.observed.data.left.filter(|_| !found.kept)?;
        let graph = self.target.graph;
        let declared = graph.volume(pod, volume).filter(|one| one.is_managed())?;
        if let Some(from) = found.wanted {
            let due = Due::Restore {
                from,
                origin: found.origin,
                generation,
            };
            return Some((due, BTreeSet::new()));
        }
        if declared.snapshots == Snapshots::Never {
            return None;
        }
        // Of what nobody has kept that, nothing of Tank's was ever started with it.
        let known = found.images.as_ref()?;
        let mut new = graph.writers(pod, volume);
        new.retain(|image| !known.contains(image));
        (!new.is_empty()).then_some((Due::Snapshot { generation }, new))
    }

    /// The containers that run as they are declared and have to end nevertheless, each with the
    /// volume that has to be at rest.
    pub(crate) fn disturbed(&mut self, pod: &Name, found: &observed::Pod) -> BTreeMap<Name, Name> {
        let mut disturbed = BTreeMap::new();
        let Some(volumes) = self.observed.data.volumes.get(pod) else {
            return disturbed;
        };
        for volume in volumes.keys() {
            let Some((due, new)) = self.due(pod, volume) else {
                continue;
            };
            let can_share = self.observed.data.can_share(pod, volume);
            if matches!(due, Due::Snapshot { .. }) && !can_share {
                continue;
            }
            let resting = self.rests(pod, found, volume, (due, &new));
            let Some(ending) = resting else { continue };
            disturbed.extend(ending.into_iter().map(|name| (name, volume.clone())));
            let key = (pod.clone(), volume.clone());
            self.data.resting.insert(key, due);
        }
        disturbed
    }

    /// The containers that end for the sake of a volume's rest, beside those that end anyway. None:
    /// nothing needs it now, or it has no rest.
    fn rests(
        &self,
        pod: &Name,
        found: &observed::Pod,
        volume: &Name,
        (due, new): (Due, &BTreeSet<Digest>),
    ) -> Option<Vec<Name>> {
        let graph = self.target.graph;
        let (mut ending, mut starts) = (Vec::new(), false);
        for (name, image, mounts) in users(graph, pod) {
            let hash = graph.process(pod, name).map(|(_, hash)| hash)?;
            let run = found.containers.get(name);
            let runs = run.is_some_and(|run| matches!(run.state, observed::State::Running { .. }));
            let is_current = run.is_some_and(|run| run.hash == hash);
            let disturbs = match due {
                Due::Snapshot { .. } => writes(&mounts, volume),
                Due::Restore { .. } => has(&mounts, volume),
            };
            if runs && !is_current && self.impossible(pod, found, name).is_some() {
                // It runs on, and nothing says that it has not mounted it.
                return None;
            }
            if runs && is_current && disturbs {
                ending.push(name.clone());
            }
            let is_new = image.is_some_and(|image| new.contains(&image));
            let is_over = run.is_some_and(|run| is_current && run.ended_well());
            let stays = (runs && is_current) || (is_over && graph.container(pod, name).is_none());
            starts |= is_new && writes(&mounts, volume) && !stays;
        }
        match due {
            Due::Restore { .. } => Some(ending),
            Due::Snapshot { .. } => starts.then_some(ending),
        }
    }

    /// Brings back what of a pod's volumes is wanted, once nothing has them mounted.
    pub(crate) fn restore(&mut self, pod: &Name) {
        let resting = self.data.resting.iter();
        let restores: Vec<(Name, Due)> = resting
            .filter(|((of, _), due)| of == pod && matches!(due, Due::Restore { .. }))
            .map(|((_, volume), due)| (volume.clone(), *due))
            .collect();
        for (volume, due) in restores {
            self.data_step(pod, &volume, due);
        }
    }

    /// What has to be done of data before a process starts.
    pub(crate) fn data_before(&mut self, pod: &Name, name: &Name) -> Vec<StepId> {
        let mut before = Vec::new();
        let users = users(self.target.graph, pod);
        let Some((_, _, mounts)) = users.into_iter().find(|(own, ..)| *own == name) else {
            return before;
        };
        for mount in mounts {
            before.extend(self.limited(pod, &mount.volume));
            let key = (pod.clone(), mount.volume.clone());
            let due = self.data.resting.get(&key).copied();
            match due {
                Some(due @ Due::Restore { .. }) => {
                    before.push(self.data_step(pod, &mount.volume, due));
                }
                Some(due) if !mount.read_only => {
                    before.push(self.data_step(pod, &mount.volume, due));
                }
                Some(_) => {}
                None => self.note_without(pod, mount),
            }
        }
        before
    }

    /// Reports that a process is about to write where no snapshot can be taken.
    fn note_without(&mut self, pod: &Name, mount: &Mount) {
        if mount.read_only || self.observed.data.can_share(pod, &mount.volume) {
            return;
        }
        if let Some((Due::Snapshot { generation }, _)) = self.due(pod, &mount.volume) {
            self.data.without.insert(Unmet::Snapshot {
                pod: pod.clone(),
                volume: mount.volume.clone(),
                generation,
            });
        }
    }

    /// What is due of a volume's data before anything has this mount, or while nothing has it.
    pub(crate) fn due_of(&self, pod: &Name, mount: &target::Mount) -> Option<Due> {
        if !matches!(mount.source, MountSource::Managed { .. }) {
            return None;
        }
        let key = (pod.clone(), mount.volume.clone());
        let due = self.data.resting.get(&key).copied()?;
        let reads = mount.read_only && matches!(due, Due::Snapshot { .. });
        (!reads).then_some(due)
    }

    pub(crate) fn data_step(&mut self, pod: &Name, volume: &Name, due: Due) -> StepId {
        let key = (pod.clone(), volume.clone());
        if let Some(planned) = self.data.planned.get(&key) {
            return *planned;
        }
        let steps = self.plan.steps.iter().enumerate();
        let ends = steps.filter(|(_, planned)| {
            let is_end = matches!(
                planned.step,
                Step::StopContainer { .. } | Step::StopSandbox { .. } | Step::SweepPod { .. }
            );
            is_end && planned.step.pod() == Some(pod)
        });
        let after: Vec<StepId> = ends.map(|(id, _)| id).collect();
        let (pod, volume) = key.clone();
        let (step, class, why) = match due {
            Due::Snapshot { generation } => {
                let optional = self.observed.data.back;
                let found = self.observed.data.of(&pod, &volume);
                let why = match found.is_some_and(|found| found.imported) {
                    true => Why::Imported,
                    false => Why::NewImage,
                };
                let step = Step::SnapshotVolume {
                    pod,
                    volume,
                    generation,
                    optional,
                };
                (step, Class::InPlace, why)
            }
            Due::Restore {
                from,
                origin,
                generation,
            } => {
                let step = Step::RestoreVolume {
                    pod,
                    volume,
                    from,
                    generation,
                    origin,
                };
                (step, Class::Replace, Why::DataWanted)
            }
        };
        let id = self.add(step, class, why, false, &after);
        self.data.planned.insert(key, id);
        id
    }
}
