//! Pods that have to go: those that are not declared any more, or have to become another one.

use crate::{
    observed::{self, State},
    planner::{Planner, Removal, SHIM_FILES, shims::Care},
    runs,
    step::{Class, Step, StepId},
    target::networks::memberships,
    why::{Changed, Why},
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Key, Name};

impl Planner<'_> {
    /// Ends every pod that is not declared any more or has to become another one: who depends on
    /// others first.
    pub(super) fn removals(&mut self) -> BTreeMap<Name, StepId> {
        let mut left: BTreeMap<Name, Removal> = BTreeMap::new();
        for (pod, found) in &self.observed.pods {
            if let Some(removal) = self.removal(pod, found) {
                left.insert(pod.clone(), removal);
            }
        }
        let dependents = self.dependents(&left);
        let mut waits: BTreeMap<Name, usize> = left
            .keys()
            .map(|pod| (pod.clone(), dependents.get(pod).map_or(0, BTreeSet::len)))
            .collect();
        let mut ready: BTreeSet<Name> = waits
            .iter()
            .filter(|(_, count)| **count == 0)
            .map(|(pod, _)| pod.clone())
            .collect();
        let mut removed: BTreeMap<Name, StepId> = BTreeMap::new();
        // The checks refuse cycles; should there be one, it is cut anywhere.
        while let Some(pod) = ready.pop_first().or_else(|| left.keys().next().cloned()) {
            let Some(removal) = left.remove(&pod) else {
                continue;
            };
            let before = dependents.get(&pod).into_iter().flatten();
            let after: Vec<StepId> = before
                .filter_map(|other| removed.get(other))
                .copied()
                .collect();
            for dependency in self.dependencies(&pod) {
                if let Some(count) = waits.get_mut(dependency) {
                    *count = count.saturating_sub(1);
                    if *count == 0 && left.contains_key(dependency) {
                        ready.insert(dependency.clone());
                    }
                }
            }
            let Some(found) = self.observed.pods.get(&pod) else {
                continue;
            };
            let id = self.remove_pod(&pod, found, &removal, &after);
            removed.insert(pod, id);
        }
        removed
    }

    /// Whether, and why, what is there under a pod's name has to go.
    fn removal(&self, pod: &Name, found: &observed::Pod) -> Option<Removal> {
        let removal = |class, why, drift| Some(Removal { class, why, drift });
        let care = found
            .unresponsive
            .as_ref()
            .map(|why| (why, self.care(pod, why)));
        if let Some((_, Care::Resume)) = care {
            // It may yet say what it holds, and end it as it should.
            return None;
        }
        let Some((_, hash)) = self.target.graph.sandbox(pod) else {
            let previous = self.target.previous;
            let (why, drift) = match previous.map(|previous| previous.pod(pod).is_some()) {
                Some(false) | None if runs::is_name(pod) => (Why::RunEnded, false),
                Some(false) => (Why::NeverDeclared, true),
                Some(true) | None => (Why::NoLongerDeclared, false),
            };
            return removal(Class::Delete, why, drift);
        };
        match care {
            Some((why, Care::Replace)) => {
                return removal(Class::Replace, Why::Unresponsive(why.clone()), true);
            }
            Some(_) => return None,
            None => {}
        }
        match &found.sandbox {
            None => removal(Class::Replace, Why::ShimGone, true),
            // What takes its place can't be made: it ends when that can be.
            Some(_) if self.is_kept(pod, found) => None,
            Some(sandbox) if sandbox.hash != hash => {
                let why = self.reason(&Key::Sandbox(pod.clone()));
                let why = why.or_else(|| self.reason_of_networks(pod));
                removal(Class::Replace, why.unwrap_or(Why::NamespacesDiffer), false)
            }
            // Left by an older Tank; only what it can't do makes it go.
            Some(sandbox) if sandbox.version < SHIM_FILES && self.has_live_files(pod) => {
                removal(Class::Replace, Why::ShimTooOld, false)
            }
            Some(_) => None,
        }
    }

    /// What the declaration changed of the networks that a pod is on.
    fn reason_of_networks(&self, pod: &Name) -> Option<Why> {
        let own = memberships(self.target.graph, pod).into_iter();
        let changes = own.filter_map(|(network, _)| self.change(&Key::Network(network)));
        let changes: Vec<Changed> = changes.map(Changed::named).collect();
        (!changes.is_empty()).then_some(Why::Changed(changes))
    }

    fn has_live_files(&self, pod: &Name) -> bool {
        self.target
            .graph
            .containers(pod)
            .any(|(_, node, _)| !node.live_files.is_empty())
    }

    /// What a pod depends on, as it is declared, or was where it is not any more.
    fn dependencies(&self, pod: &Name) -> BTreeSet<&Name> {
        let graphs = self.target.previous.into_iter().chain([self.target.graph]);
        let nodes = graphs.filter_map(|graph| graph.pod(pod));
        nodes
            .flat_map(|node| node.depends_on.keys())
            .filter(|other| *other != pod)
            .collect()
    }

    /// Of each pod that goes, those that go with it and depend on it.
    pub(super) fn dependents<V>(
        &self,
        going: &BTreeMap<Name, V>,
    ) -> BTreeMap<Name, BTreeSet<Name>> {
        let mut dependents: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for pod in going.keys() {
            for dependency in self
                .dependencies(pod)
                .into_iter()
                .filter(|other| going.contains_key(*other))
            {
                dependents
                    .entry(dependency.clone())
                    .or_default()
                    .insert(pod.clone());
            }
        }
        dependents
    }

    /// Stops what runs and removes the rest; returns the last step.
    fn remove_pod(
        &mut self,
        pod: &Name,
        found: &observed::Pod,
        removal: &Removal,
        after: &[StepId],
    ) -> StepId {
        let Removal { class, why, drift } = removal;
        if found.sandbox.is_none() {
            let why = found.unresponsive.clone();
            let why = why.map_or(Why::ShimGone, Why::Unresponsive);
            return self.add(
                Step::SweepPod { pod: pod.clone() },
                *class,
                why,
                true,
                after,
            );
        }
        let running = found
            .containers
            .iter()
            .filter(|(_, container)| matches!(container.state, State::Running { .. }));
        let stops: Vec<StepId> = running
            .map(|(name, container)| self.stop(pod, name, container, removal, after))
            .collect();
        let after = if stops.is_empty() { after } else { &stops };
        self.add(
            Step::StopSandbox { pod: pod.clone() },
            *class,
            why.clone(),
            *drift,
            after,
        )
    }
}
