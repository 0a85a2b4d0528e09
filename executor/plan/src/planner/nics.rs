//! Interfaces of pods' own, and the host's links to them.

use crate::{
    observed,
    planner::Planner,
    step::{Class, Step, StepId},
    target::{HostLink, PodNic, TargetError, nics::host_link_name},
    why::Why,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Name, spec::NicMode};

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

    fn host_links(&self) -> BTreeMap<String, HostLink> {
        let nics = self.nics.values().flatten().flatten();
        let links = self.target.host_links(nics, &self.observed.network);
        let links = links.into_iter();
        links.map(|link| (link.name.clone(), link)).collect()
    }

    /// The macvlans of pods that go, or that stay though they are others than declared.
    pub(super) fn going_macvlans(&self) -> impl Iterator<Item = (&Name, &PodNic)> {
        let graph = self.target.graph;
        let goes = move |(pod, found): &(&Name, &observed::Pod)| {
            let declared = graph.sandbox(pod).map(|(_, hash)| hash);
            let found = found.sandbox.as_ref().map(|sandbox| sandbox.hash);
            found != declared
        };
        let going = self.observed.pods.iter().filter(goes);
        let nics = going.flat_map(|(pod, found)| {
            let nics = found.sandbox.iter().flat_map(|own| own.nics.values());
            nics.map(move |nic| (pod, nic))
        });
        nics.filter(|(_, nic)| nic.mode == NicMode::Macvlan && !nic.addresses.is_empty())
    }

    /// Those that pods need as they are declared, and those that are there and that pods need which go,
    /// with the routes to these.
    fn host_links_for_now(&self) -> BTreeMap<String, HostLink> {
        let mut links = self.host_links();
        let network = &self.observed.network;
        let going = self.going_macvlans().map(|(_, nic)| nic);
        for link in self.target.host_links(going, network) {
            match links.get_mut(&link.name) {
                // What is narrower already is so since a pass that did not get further.
                Some(wanted)
                    if network.host_links.get(&link.name) != Some(&Some(wanted.clone())) =>
                {
                    wanted.addresses.extend(link.addresses);
                    let known: BTreeSet<IpAddr> = wanted.routes.iter().map(|to| to.to).collect();
                    let more = link.routes.into_iter();
                    wanted
                        .routes
                        .extend(more.filter(|to| !known.contains(&to.to)));
                }
                Some(_) => {}
                None if network.host_links.contains_key(&link.name) => {
                    links.insert(link.name.clone(), link);
                }
                None => {}
            }
        }
        links
    }

    /// Host links that nobody needs go first, while the rules still guard them.
    pub(super) fn remove_host_links(&mut self) {
        let wanted = self.host_links_for_now();
        let there = self.observed.network.host_links.keys();
        let others = there.filter(|name| !wanted.contains_key(*name));
        for name in others.cloned() {
            self.remove_host_link(name, &[]);
        }
    }

    /// Whether a host link stays, as one does whose pod does not answer: the rules guard it.
    pub(super) fn stays_linked(&self) -> bool {
        let goes = |name: &String| {
            let mut own = self
                .unlinked
                .iter()
                .filter_map(|id| self.plan.steps.get(*id));
            own.any(
                |planned| matches!(&planned.step, Step::RemoveHostLink { name: own } if own == name),
            )
        };
        !self.observed.network.host_links.keys().all(goes)
    }

    fn remove_host_link(&mut self, name: String, after: &[StepId]) {
        let drift = self.is_declared_as_before();
        let step = Step::RemoveHostLink { name };
        let why = Why::HostLinkNotNeeded;
        let id = self.add(step, Class::InPlace, why, drift, after);
        self.unlinked.push(id);
    }

    /// Those that pods need, after the rules that guard them. No pod waits for one: it is the host
    /// that can't reach the pods without.
    pub(super) fn ensure_host_links(&mut self) {
        let declared = self.host_links();
        let for_now = self.host_links_for_now().into_iter();
        for (_, link) in for_now.filter(|(name, _)| declared.contains_key(name)) {
            let after = self.rules.as_slice().to_vec();
            self.ensure_host_link(link, &after);
        }
    }

    fn ensure_host_link(&mut self, link: HostLink, after: &[StepId]) {
        let network = &self.observed.network;
        let parent = network.parents.get(&link.parent);
        let is_up = parent.is_some_and(|parent| parent.is_up);
        let found = network.host_links.get(&link.name);
        // One whose parent is down would not come up; it is looked at again when that does.
        if !is_up || found.is_some_and(|found| found.as_ref() == Some(&link)) {
            return;
        }
        let drift = !self.observed.pods.is_empty();
        let name = link.name.clone();
        let step = Step::EnsureHostLink { link };
        let id = self.add(step, Class::InPlace, Why::HostLinkDiffers, drift, after);
        self.linked.insert(name, id);
    }

    /// What of host links only pods needed that are gone by then. One that stays needs its link.
    pub(super) fn narrow_host_links(&mut self, removed: &BTreeMap<Name, StepId>) {
        let mut users: BTreeMap<String, BTreeSet<Option<StepId>>> = BTreeMap::new();
        for (pod, nic) in self.going_macvlans() {
            let of = users.entry(host_link_name(&nic.parent)).or_default();
            of.insert(removed.get(pod).copied());
        }
        let mut declared = self.host_links();
        for (name, link) in self.host_links_for_now() {
            let users = users.get(&name).into_iter().flatten().copied();
            let Some(mut after) = users.collect::<Option<Vec<StepId>>>() else {
                continue;
            };
            after.extend(self.linked.get(&name));
            match declared.remove(&name) {
                Some(narrow) if narrow == link => {}
                Some(narrow) => {
                    after.extend(self.rules);
                    self.narrow_host_link(narrow, &after);
                }
                None => self.remove_host_link(name, &after),
            }
        }
    }

    fn narrow_host_link(&mut self, link: HostLink, after: &[StepId]) {
        let parent = self.observed.network.parents.get(&link.parent);
        if !parent.is_some_and(|parent| parent.is_up) {
            return;
        }
        let drift = self.is_declared_as_before();
        let step = Step::EnsureHostLink { link };
        self.add(step, Class::InPlace, Why::HostLinkNotNeeded, drift, after);
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
            let handover = self.handover(pod, &nic.addresses, true);
            let why = handover.why(why.clone());
            let mut after = after.clone();
            after.extend(handover.after);
            let pod = pod.clone();
            self.add(Step::EnsureNic { pod, nic }, class, why, drift, &after)
        });
        Ok(steps.collect())
    }
}
