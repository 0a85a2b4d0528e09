//! The flows of UDP whose published port leads elsewhere by now, or nowhere, and those from before it was
//! published.

use crate::{
    flows::{By, Flows, Leads, Port},
    planner::Planner,
    step::{Class, Step, StepId},
    target::Table,
    why::Why,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{
    Graph, Name,
    spec::{Network, Protocol},
};

impl Planner<'_> {
    /// Ends flows after the rules have changed: those to a pod that goes when that is gone, so that what
    /// it still answers arrives.
    pub(super) fn end_flows(&mut self, removed: &BTreeMap<Name, StepId>) {
        let mut ends: BTreeMap<Option<StepId>, BTreeSet<Flows>> = BTreeMap::new();
        let mut going: BTreeMap<IpAddr, StepId> = BTreeMap::new();
        for (pod, step) in removed {
            let own = self.addresses_of_going(pod);
            going.extend(own.iter().map(|own| (*own, *step)));
            // The same pod may have the same address again.
            let kept = self.target.addresses_in(self.target.graph, pod);
            let left = own.difference(&kept).copied();
            let left = left.map(|to| Flows { to, by: None });
            if self.published_udp(pod) {
                ends.entry(Some(*step)).or_default().extend(left);
            }
        }
        let (left, past) = self.left_flows();
        let (closed, mut opened) = self.changed_ports();
        for (to, by) in closed.into_iter().chain(left) {
            let step = going.get(&to).copied();
            let flows = ends.entry(step).or_default();
            if !flows.contains(&Flows { to, by: None }) {
                flows.insert(Flows { to, by: Some(by) });
            }
        }
        let none = BTreeSet::new;
        for (step, flows) in ends.into_iter().filter(|(_, flows)| !flows.is_empty()) {
            let after: Vec<StepId> = step.into_iter().chain(self.rules).collect();
            self.add_ends((flows, none()), Why::LeadsElsewhere, &after);
        }
        opened.extend(past);
        if !opened.is_empty() {
            let after: Vec<StepId> = self.rules.into_iter().collect();
            self.add_ends((BTreeSet::new(), opened), Why::LeadsThere, &after);
        }
    }

    fn add_ends(
        &mut self,
        (flows, opened): (BTreeSet<Flows>, BTreeSet<Port>),
        why: Why,
        after: &[StepId],
    ) {
        let drift = self.is_declared_as_before();
        let step = Step::EndFlows { flows, opened };
        self.add(step, Class::InPlace, why, drift, after);
    }

    /// The rules as they are planned. None: as they are.
    fn planned_rules(&self) -> Option<&Table> {
        match &self.plan.steps.get(self.rules?)?.step {
            Step::EnsureFirewall { table } => Some(table),
            _ => None,
        }
    }

    /// The ports of UDP that lead to an address by the rules that are there, and not by those that are
    /// planned; and those that are published by the planned ones only.
    fn changed_ports(&self) -> (BTreeMap<IpAddr, BTreeSet<By>>, BTreeSet<Port>) {
        let Some(planned) = self.planned_rules() else {
            return Default::default();
        };
        let after = Leads::of(Some(planned));
        let before = Leads::of(self.observed.firewall.as_ref());
        let opened = after.ports.difference(&before.ports).copied().collect();
        let none = BTreeSet::new();
        let closed = before.by.iter().map(|(to, by)| {
            let stay = after.by.get(to).unwrap_or(&none);
            (*to, by.difference(stay).copied().collect())
        });
        let closed = closed.filter(|(_, by): &(_, BTreeSet<By>)| !by.is_empty());
        (closed.collect(), opened)
    }

    /// What a daemon before this one was to end, or what was not ended when that was tried: flows that are
    /// led to pods, and not by the rules; and the published ports past which others go.
    fn left_flows(&self) -> (BTreeMap<IpAddr, BTreeSet<By>>, BTreeSet<Port>) {
        let (mut left, mut past) = (BTreeMap::<_, BTreeSet<By>>::new(), BTreeSet::new());
        let flows = &self.observed.network.flows;
        if flows.is_empty() {
            return (left, past);
        }
        let rules = self.planned_rules();
        let leads = Leads::of(rules.or(self.observed.firewall.as_ref()));
        for flow in flows {
            // Of those that are not translated only those were read that are for the host.
            let own = [flow.asked.ip()].into();
            if leads.has(*flow, &own) {
                continue;
            }
            match flow.to {
                Some(to) if self.is_on_a_bridge(to.ip()) => {
                    left.entry(to.ip()).or_default().insert(By {
                        at: Some(flow.asked.ip()),
                        port: flow.asked.port(),
                        to: to.port(),
                    });
                }
                Some(_) => {}
                None => past.extend(Port::among(&leads.ports, flow.asked, &own)),
            }
        }
        (left, past)
    }

    /// Whether an address is on a network of pods, and not the host's own there.
    fn is_on_a_bridge(&self, address: IpAddr) -> bool {
        let found = self.observed.bridges.values().flatten().flatten();
        let used = self.target.networks();
        let declared = used.iter().flat_map(|network| network.addresses());
        let mut all = found.copied().chain(declared);
        all.any(|own| own.contains(&address) && own.addr() != address)
    }

    /// The addresses that a pod had that goes: as they were found, and as the graph before has them.
    fn addresses_of_going(&self, pod: &Name) -> BTreeSet<IpAddr> {
        let found = self.observed.pods.get(pod);
        let mut own = found
            .map(|found| self.given(pod, found))
            .unwrap_or_default();
        if let Some(previous) = self.target.previous {
            own.extend(self.target.addresses_in(previous, pod));
        }
        own
    }

    /// Whether a pod that goes had published ports of UDP, as far as anything says so.
    fn published_udp(&self, pod: &Name) -> bool {
        let is_udp = |graph: &Graph| {
            let sandbox = graph.sandbox(pod);
            let is_bridged = sandbox.is_some_and(|(node, _)| node.network == Network::Bridge);
            let mut published = graph.published(pod);
            is_bridged
                && published.any(|(_, publish)| publish.protocol.each().contains(&Protocol::Udp))
        };
        self.target.previous.is_some_and(is_udp)
    }
}
