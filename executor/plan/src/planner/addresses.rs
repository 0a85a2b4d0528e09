//! Addresses that go from one pod to another: nobody gets one that another pod still has.
//!
//! Who has one is observed; of a pod of which nothing is known, what the graph before declares counts.
//! A pod that stays as declared keeps nobody waiting, whatever it has: somebody in it could give it
//! another one's address, and the other would wait for ever.

use crate::{
    observed,
    planner::Planner,
    step::StepId,
    target::{PodLink, TargetError, networks::memberships},
    why::{Owned, WaitsFor, Why},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Graph, Name};

/// Who has addresses that others get only when they are gone.
#[derive(Default)]
pub(super) struct Holders {
    /// By the address: the pods, with the steps after which they are gone. None: none is planned.
    of: BTreeMap<IpAddr, BTreeMap<Name, Option<StepId>>>,
    /// Pods that go, and of which neither the host nor a graph says what they have.
    unknown: BTreeMap<Name, StepId>,
}

/// What a link waits for before it gets its addresses.
pub(super) struct Handover {
    /// The steps after which those are gone that have them.
    pub after: Vec<StepId>,
    /// Those, and what they have of it.
    from: Vec<Owned>,
}

impl Handover {
    /// A step's reason, with what it waits for.
    pub fn why(&self, usual: Why) -> Why {
        match self.from.is_empty() {
            true => usual,
            false => Why::TakesAddresses(self.from.clone()),
        }
    }
}

impl Planner<'_> {
    pub(super) fn holders(&self, removed: &BTreeMap<Name, StepId>) -> Holders {
        let mut holders = Holders::default();
        for (pod, found) in &self.observed.pods {
            let step = removed.get(pod).copied();
            let is_unknown = found.unresponsive.is_some() || found.sandbox.is_none();
            if step.is_none() && !is_unknown && !self.is_kept(pod, found) {
                continue;
            }
            let mut addresses = self.given(pod, found);
            let previous = self.target.previous;
            let declared = previous.filter(|graph| graph.sandbox(pod).is_some());
            if let Some(graph) = declared {
                addresses.extend(self.target.addresses_in(graph, pod));
            }
            let is_declared = declared.is_some() || self.target.graph.sandbox(pod).is_some();
            if let Some(step) = step.filter(|_| is_unknown && !is_declared) {
                holders.unknown.insert(pod.clone(), step);
            }
            for address in addresses {
                let of = holders.of.entry(address).or_default();
                of.insert(pod.clone(), step);
            }
        }
        holders
    }

    /// The addresses that a pod has, of which nobody but Tank can have given it one: somebody in it may add
    /// others' (`CAP_NET_ADMIN`), who would wait for them, so found ones count only of a pod that no graph
    /// here made.
    pub(super) fn given(&self, pod: &Name, found: &observed::Pod) -> BTreeSet<IpAddr> {
        let hash = found.sandbox.as_ref().map(|sandbox| sandbox.hash);
        let made = |graph: &&Graph| graph.sandbox(pod).map(|(_, hash)| hash) == hash;
        let graphs = self.target.previous.into_iter().chain([self.target.graph]);
        let mut made = graphs.filter(made).peekable();
        if hash.is_none() || made.peek().is_none() {
            return addresses_of(found);
        }
        let mut all = BTreeSet::new();
        for graph in made {
            all.extend(self.target.addresses_in(graph, pod));
        }
        all
    }

    /// The other pods that have one of these addresses, the steps after which they are gone, and what
    /// they have.
    fn owners<'n>(
        &self,
        pod: &Name,
        addresses: impl IntoIterator<Item = &'n IpNet>,
    ) -> BTreeMap<&Name, (Option<StepId>, BTreeSet<IpAddr>)> {
        let mut owners: BTreeMap<&Name, (Option<StepId>, BTreeSet<IpAddr>)> = BTreeMap::new();
        for address in addresses.into_iter().map(IpNet::addr) {
            let of = self.holders.of.get(&address).into_iter().flatten();
            for (other, step) in of.filter(|(other, _)| *other != pod) {
                let owned = owners.entry(other).or_insert((*step, BTreeSet::new()));
                owned.1.insert(address);
            }
        }
        owners
    }

    /// What a pod's link with these addresses waits for; `chosen`: somebody chose one of them, it does
    /// not follow from the pod's lease.
    pub(super) fn handover<'n>(
        &self,
        pod: &Name,
        addresses: impl IntoIterator<Item = &'n IpNet>,
        chosen: bool,
    ) -> Handover {
        let unknown = self.holders.unknown.iter();
        let unknown = unknown.filter(|(other, _)| chosen && *other != pod);
        let unknown = unknown.map(|(other, step)| (other, (Some(*step), BTreeSet::new())));
        let (mut after, mut from) = (BTreeSet::new(), Vec::new());
        for (other, (step, addresses)) in self.owners(pod, addresses).into_iter().chain(unknown) {
            after.extend(step);
            let pod = other.clone();
            from.push(Owned { addresses, pod });
        }
        Handover {
            after: after.into_iter().collect(),
            from,
        }
    }

    /// As [`Planner::handover`], of the links of a pod on bridges.
    pub(super) fn handover_of_links(&self, pod: &Name, links: &[PodLink]) -> Handover {
        let own = memberships(self.target.graph, pod);
        let chosen = own.iter().any(|(_, own)| !own.addresses.is_empty());
        let addresses = links.iter().flat_map(|link| &link.addresses);
        self.handover(pod, addresses, chosen)
    }

    /// Whether a pod has to wait for an address of which another one may have it, and whose end is not
    /// planned. Then its containers wait.
    pub(super) fn waits_for_address(&mut self, pod: &Name) -> bool {
        let mut own = self.target.addresses(pod);
        own.extend(self.target.nic_addresses(pod));
        let owners = self.owners(pod, &own);
        let stays = owners.into_iter().find(|(_, (step, _))| step.is_none());
        let owned = stays.map(|(other, (_, addresses))| Owned {
            addresses,
            pod: other.clone(),
        });
        let Some(owned) = owned else {
            return false;
        };
        let graph = self.target.graph;
        for (name, ..) in graph.containers(pod) {
            self.wait(pod, name, WaitsFor::Address(owned.clone()), None);
        }
        true
    }

    /// Whether a pod is another one than declared, and stays: that one can't be made.
    pub(super) fn is_kept(&self, pod: &Name, found: &observed::Pod) -> bool {
        let declared = self.target.graph.sandbox(pod);
        let both = found.sandbox.as_ref().zip(declared);
        both.is_some_and(|(sandbox, (_, hash))| sandbox.hash != hash)
            && self.unmakeable(pod).is_some()
    }

    /// Why a pod can't be made as it is declared.
    pub(super) fn unmakeable(&self, pod: &Name) -> Option<TargetError> {
        let nics = || self.nics.get(pod)?.as_ref().err().cloned();
        let sandbox = self.target.sandbox(pod).err();
        sandbox
            .or_else(|| self.target.links(pod).err())
            .or_else(nics)
    }
}

/// The addresses that were found of a pod.
fn addresses_of(found: &observed::Pod) -> BTreeSet<IpAddr> {
    let sandbox = || found.sandbox.iter();
    let links = sandbox().flat_map(|own| own.links.values());
    let nics = sandbox().flat_map(|own| own.nics.values());
    let addresses = links.flat_map(|link| &link.addresses);
    let addresses = addresses.chain(nics.flat_map(|nic| &nic.addresses));
    addresses.map(IpNet::addr).collect()
}
