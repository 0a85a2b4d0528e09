//! Interfaces of pods' own, and the host's links to them.

use crate::{
    planner::Planner,
    step::{Class, Step, StepId},
    target::{HostLink, PodNic, TargetError},
    why::Why,
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::Name;

impl Planner<'_> {
    /// Settles what the interfaces of all pods have to be: the host's links depend on them.
    pub(super) fn resolve_nics(&mut self) {
        let none = BTreeMap::new();
        let target = self.target;
        for pod in target.graph.pods() {
            if target.declared_nics(pod).is_none() {
                continue;
            }
            let found = self
                .observed
                .pods
                .get(pod)
                .and_then(|pod| pod.sandbox.as_ref())
                // One that goes has nothing that the next one could keep.
                .filter(|sandbox| {
                    target
                        .graph
                        .sandbox(pod)
                        .is_some_and(|(_, hash)| hash == sandbox.hash)
                });
            let found = found.map_or(&none, |sandbox| &sandbox.nics);
            let nics = target.nics(pod, &self.observed.network, found);
            self.nics.insert(pod.clone(), nics);
        }
    }

    fn host_links(&self) -> Vec<HostLink> {
        let nics = self.nics.values().flatten().flatten();
        self.target.host_links(nics, &self.observed.network)
    }

    /// Host links that nobody needs go first, while the rules still guard them.
    pub(super) fn remove_host_links(&mut self) {
        let wanted = self.host_links();
        let wanted: BTreeSet<&str> = wanted.iter().map(|link| link.name.as_str()).collect();
        let there = self.observed.network.host_links.keys();
        let others = there.filter(|name| !wanted.contains(name.as_str()));
        let declared = self
            .target
            .previous
            .is_some_and(|previous| previous.root() == self.target.graph.root());
        for name in others.cloned() {
            let step = Step::RemoveHostLink { name };
            let id = self.add(step, Class::InPlace, Why::HostLinkNotNeeded, declared, &[]);
            self.unlinked.push(id);
        }
    }

    /// Those that pods need, after the rules that guard them. No pod waits for one: it is the host
    /// that can't reach the pods without.
    pub(super) fn ensure_host_links(&mut self) {
        let network = &self.observed.network;
        let drift = !self.observed.pods.is_empty();
        for link in self.host_links() {
            let found = network.host_links.get(&link.name);
            let is_up = network
                .parents
                .get(&link.parent)
                .is_some_and(|parent| parent.is_up);
            // One whose parent is down would not come up; it is looked at again when that does.
            if !is_up || found.is_some_and(|found| found.as_ref() == Some(&link)) {
                continue;
            }
            let after = self.rules.as_slice().to_vec();
            let step = Step::EnsureHostLink { link };
            self.add(step, Class::InPlace, Why::HostLinkDiffers, drift, &after);
        }
    }

    /// The interfaces of a pod that are not as they should be among those `found`.
    pub(super) fn connect_nics(
        &mut self,
        pod: &Name,
        found: &BTreeMap<String, PodNic>,
        (class, why, drift): (Class, Why, bool),
        after: &[StepId],
    ) -> Result<Vec<StepId>, TargetError> {
        let Some(nics) = self.nics.get(pod).cloned() else {
            return Ok(Vec::new());
        };
        let after = [after, self.rules.as_slice()].concat();
        let differ = nics?.into_iter();
        let differ = differ.filter(|nic| found.get(&nic.name) != Some(nic));
        let steps = differ.map(|nic| {
            let pod = pod.clone();
            self.add(
                Step::EnsureNic { pod, nic },
                class,
                why.clone(),
                drift,
                &after,
            )
        });
        Ok(steps.collect())
    }
}
