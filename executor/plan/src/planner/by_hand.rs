//! Containers that have to end because somebody asked for that by hand: those that are stopped, and those
//! that are restarted. Who depends on others ends first.

use crate::{
    observed::{self, State},
    planner::{Planner, Removal},
    step::{Class, StepId},
    why::Why,
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::Name;

/// The containers of a pod that end, with why.
type Ends = Vec<(Name, Removal)>;

impl Planner<'_> {
    /// Ends what is stopped or restarted by hand, of pods that stay, and reports what is stopped.
    pub(super) fn end_by_hand(&mut self, removed: &BTreeMap<Name, StepId>) {
        if self.target.overrides.is_empty() {
            return;
        }
        self.report.stopped = self.target.overrides.all_stopped(self.target.graph);
        let mut left: BTreeMap<Name, Ends> = BTreeMap::new();
        for (pod, found) in &self.observed.pods {
            let is_known = found.sandbox.is_some() && found.unresponsive.is_none();
            if is_known && !removed.contains_key(pod) && self.target.graph.pod(pod).is_some() {
                let ends = self.ends_by_hand(pod, found);
                if !ends.is_empty() {
                    left.insert(pod.clone(), ends);
                }
            }
        }
        let dependents = self.dependents(&left);
        let mut done: BTreeMap<Name, Vec<StepId>> = BTreeMap::new();
        while !left.is_empty() {
            let is_free = |pod: &&Name| {
                let mut before = dependents.get(*pod).into_iter().flatten();
                before.all(|other| done.contains_key(other))
            };
            // The checks refuse cycles; should there be one, it is cut anywhere.
            let free: BTreeSet<Name> = left.keys().filter(is_free).cloned().collect();
            let next = match free.is_empty() {
                true => left.keys().take(1).cloned().collect(),
                false => free,
            };
            for pod in next {
                let (Some(ends), Some(found)) = (left.remove(&pod), self.observed.pods.get(&pod))
                else {
                    continue;
                };
                let before = dependents.get(&pod).into_iter().flatten();
                let before = before.filter_map(|other| done.get(other)).flatten();
                let before: Vec<StepId> = before.copied().collect();
                let steps = self.end_of_pod(&pod, found, ends, &before);
                done.insert(pod, steps);
            }
        }
    }

    fn end_of_pod(
        &mut self,
        pod: &Name,
        found: &observed::Pod,
        ends: Ends,
        before: &[StepId],
    ) -> Vec<StepId> {
        let mut steps = Vec::new();
        for (name, removal) in ends {
            let Some(run) = found.containers.get(&name) else {
                continue;
            };
            let id = self.stop(pod, &name, run, &removal, before);
            steps.push(id);
            let key = (pod.clone(), name);
            self.by_hand.insert(key, (id, removal));
        }
        steps
    }

    fn ends_by_hand(&mut self, pod: &Name, found: &observed::Pod) -> Ends {
        let (graph, overrides) = (self.target.graph, self.target.overrides);
        let mut ends = Ends::new();
        let runs = |run: &&observed::Run| matches!(run.state, State::Running { .. });
        for (name, _, hash) in graph.containers(pod) {
            let Some(run) = found.containers.get(name).filter(runs) else {
                continue;
            };
            let (class, why) = match overrides.restarts(pod, name, run) {
                _ if overrides.stopped(pod, name).is_some() => (Class::Delete, None),
                Some(one) if run.hash == hash => {
                    (Class::Restart, Some(Why::RestartedByHand { uid: one.uid }))
                }
                _ => continue,
            };
            if class == Class::Restart
                && let Some((blocker, why)) = self.impossible(pod, found, name)
            {
                self.block(pod, Some(&blocker), why);
                continue;
            }
            let stopped = || overrides.stopped(pod, name).map(|one| one.uid);
            let why = why.or_else(|| Some(Why::StoppedByHand { uid: stopped()? }));
            ends.extend(why.map(|why| (name.clone(), by_hand(class, why))));
        }
        // What runs before the containers of a pod that is stopped as a whole.
        let is_stopped = overrides.is_stopped(graph, pod);
        let first = graph.containers(pod).next().filter(|_| is_stopped);
        let by = first.and_then(|(name, ..)| overrides.stopped(pod, name));
        if let Some(uid) = by.map(|one| one.uid) {
            for (name, _, _) in graph.init(pod) {
                if found.containers.get(name).filter(runs).is_some() {
                    let why = Why::StoppedByHand { uid };
                    ends.push((name.clone(), by_hand(Class::Delete, why)));
                }
            }
        }
        ends
    }
}

fn by_hand(class: Class, why: Why) -> Removal {
    Removal {
        class,
        why,
        drift: false,
    }
}
