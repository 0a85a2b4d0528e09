//! The rules, the bridge and the names, in the order in which none opens the host.

use crate::{
    observed,
    observed::NameServer,
    planner::Planner,
    step::{Class, Step, StepId},
    target::{
        Table,
        firewall::{Difference, PORT_GROUP, port_group},
    },
    why::{Policy, Reach, Why},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};
use tank_model::{
    Graph, Name,
    spec::{Network, Publish},
};

impl Planner<'_> {
    /// The rules, which name the bridge and need none: with the bridge the host begins to forward,
    /// and takes packets to 127.0.0.0/8 that come over it. Nothing may be able to use that before
    /// there are rules against it. Pods that are on their way out may send until they are gone.
    pub(super) fn ensure_firewall(&mut self) {
        let going: BTreeSet<u32> = self.going().into_values().collect();
        let wanted = self.target.firewall_with(&self.observed.network, &going);
        let is_there = |wanted: &Table| self.differs(wanted).is_none();
        // What is narrower already is so since a pass that did not get further.
        let narrow = self.target.firewall(&self.observed.network);
        if going.is_empty() || !narrow.as_ref().is_some_and(is_there) {
            let after = self.unlinked.clone();
            let step = wanted.and_then(|wanted| {
                self.ensure_table(wanted, (self.reach(), self.policies()), &after)
            });
            self.network.extend(step);
            self.rules = step;
        }
    }

    /// What the declaration changed of who reaches what: what is closed, then what is opened.
    fn reach(&self) -> Vec<Reach> {
        let before = self.target.previous.map(|graph| self.reach_of(graph));
        let before = before.unwrap_or_default();
        let after = self.reach_of(self.target.graph);
        let leads = |one: &Reach| (one.at, one.last, one.protocol, one.pod.clone(), one.to);
        let stays = |one: &&Reach| !after.iter().any(|other| leads(other) == leads(one));
        let closed = before.iter().filter(stays).map(|one| Reach {
            opens: false,
            ..one.clone()
        });
        let opened = after.iter().filter(|one| !before.contains(one)).cloned();
        closed.chain(opened).collect()
    }

    /// Who reaches the published ports of a graph.
    fn reach_of(&self, graph: &Graph) -> Vec<Reach> {
        let bridged = |pod: &&Name| {
            let sandbox = graph.sandbox(pod);
            sandbox.is_some_and(|(node, _)| node.network == Network::Bridge)
        };
        let of_publish = |pod: &Name, publish: &Publish| -> Vec<Reach> {
            let (ports, to) = (publish.port, publish.target());
            let only = graph.pod(pod).and_then(|node| node.allow_from.peers());
            let one = |address, protocol| Reach {
                at: SocketAddr::new(address, ports.first()),
                last: (ports.count() > 1).then_some(ports.last()),
                protocol,
                pod: pod.clone(),
                to: to.first(),
                to_last: (to.count() > 1).then_some(to.last()),
                only: only.map(<[_]>::to_vec),
                opens: true,
            };
            let addresses = publish.address.iter();
            let own = addresses.filter(|address| self.target.has((*address).into()));
            own.flat_map(|address| {
                let protocols = publish.protocol.each().iter();
                protocols
                    .map(move |protocol| one(address, *protocol))
                    .collect::<Vec<_>>()
            })
            .collect()
        };
        let published = |pod| graph.published(pod).map(move |(_, publish)| (pod, publish));
        let all = graph.pods().filter(bridged).flat_map(published);
        all.flat_map(|(pod, publish)| of_publish(pod, publish))
            .collect()
    }

    /// The policies that the declaration changed.
    fn policies(&self) -> Vec<Policy> {
        let of = |graph: &Graph, pod: &Name| {
            let node = graph.pod(pod)?;
            Some((node.allow_from.clone(), node.egress.clone()))
        };
        let (graph, previous) = (self.target.graph, self.target.previous);
        let pods = graph.pods().filter(|pod| self.target.is_bridged(pod));
        let changed = pods.filter_map(|pod| {
            let (allow_from, egress) = of(graph, pod)?;
            let before = previous
                .and_then(|before| of(before, pod))
                .unwrap_or_default();
            Some(Policy {
                pod: pod.clone(),
                allow_from: (allow_from != before.0).then_some(allow_from),
                egress: (egress != before.1).then_some(egress),
            })
        });
        let is_any = |policy: &Policy| policy.allow_from.is_some() || policy.egress.is_some();
        changed.filter(is_any).collect()
    }

    /// The pods that have a port of the bridge and are not declared with it, and their leases.
    fn going(&self) -> BTreeMap<Name, u32> {
        let target = self.target;
        let pods = target.graph.pods().filter(|pod| target.is_bridged(pod));
        let declared: BTreeSet<u32> = pods
            .filter_map(|pod| target.leases.get(pod).copied())
            .collect();
        let lease = |(pod, found): (&'_ Name, &'_ observed::Pod)| {
            let group = found.sandbox.as_ref()?.port_group;
            let lease = group.checked_sub(PORT_GROUP)?;
            let is_going = port_group(lease) == group && !declared.contains(&lease);
            is_going.then(|| (pod.clone(), lease))
        };
        self.observed.pods.iter().filter_map(lease).collect()
    }

    /// When those are gone, nobody may send as them. One that is not removed yet keeps its place.
    pub(super) fn narrow_firewall(&mut self, removed: &BTreeMap<Name, StepId>) {
        let going = self.going();
        if going.is_empty() || going.keys().any(|pod| !removed.contains_key(pod)) {
            return;
        }
        let before = removed.values().chain(&self.network);
        let after: Vec<StepId> = before.copied().collect();
        if let Some(wanted) = self.target.firewall(&self.observed.network) {
            self.ensure_table(wanted, Default::default(), &after);
        }
    }

    /// How far what was found, or what is planned already, is from a table.
    fn differs(&self, wanted: &Table) -> Option<Difference> {
        let planned = self
            .plan
            .steps
            .iter()
            .rev()
            .find_map(|planned| match &planned.step {
                Step::EnsureFirewall { table } => Some(table),
                _ => None,
            });
        let found = planned.or(self.observed.firewall.as_ref());
        let difference = Difference::of(wanted, found);
        (!difference.is_none() || found.is_none()).then_some(difference)
    }

    fn ensure_table(
        &mut self,
        table: Table,
        (reach, policies): (Vec<Reach>, Vec<Policy>),
        after: &[StepId],
    ) -> Option<StepId> {
        let Difference { missing, unwanted } = self.differs(&table)?;
        let why = Why::RulesDiffer {
            missing,
            unwanted,
            reach,
            policies,
        };
        let declared = self
            .target
            .previous
            .is_some_and(|previous| previous.root() == self.target.graph.root());
        let step = Step::EnsureFirewall { table };
        Some(self.add(step, Class::InPlace, why, declared, after))
    }

    pub(super) fn ensure_bridge(&mut self) {
        if !self.target.needs_bridge() {
            return;
        }
        let host = &self.observed.network;
        let bridge = self.target.bridge(host);
        let found = self.observed.bridge.as_ref();
        let mut settings = bridge.settings.iter();
        let is_set = settings.all(|setting| {
            let found = host.settings.get(&setting.path);
            found.is_none_or(|found| *found == setting.value)
        });
        if is_set && found.is_some_and(|found| found.is_superset(&bridge.addresses)) {
            return;
        }
        let drift = !self.observed.pods.is_empty();
        let after = self.network.clone();
        let step = Step::EnsureBridge { bridge };
        let step = self.add(step, Class::InPlace, Why::BridgeNeeded, drift, &after);
        self.network.push(step);
    }

    /// The name server, which needs the rules and no bridge: its sockets are bound to addresses that
    /// are still to come. A pod is connected after it, so that its first query is answered. Where it
    /// can't be had, pods run without: whatever else holds its port would keep all of them down.
    pub(super) fn ensure_names(&mut self) {
        let Some(zone) = self.target.zone(self.observed) else {
            return;
        };
        let why = match &self.observed.names {
            None | Some(NameServer { zone: None, .. }) => Why::NamesMissing,
            Some(NameServer { current: false, .. }) => Why::NamesOutdated,
            Some(found) if found.zone != Some(zone.digest()) => Why::NamesDiffer,
            Some(_) => return,
        };
        let declared = self
            .target
            .previous
            .is_some_and(|previous| previous.root() == self.target.graph.root());
        let step = Step::EnsureNames { zone };
        let id = step.id();
        let failed = self
            .observed
            .failures
            .iter()
            .any(|failed| failed.step == id);
        let after = self.rules.as_slice().to_vec();
        let step = self.add(step, Class::InPlace, why, declared, &after);
        if !failed {
            self.network.push(step);
            self.names = Some(step);
        }
    }

    /// In the opposite order: the rules go when there is no bridge any more.
    pub(super) fn remove_bridge(&mut self) {
        let mut after = Vec::new();
        if self.observed.names.is_some() && !self.target.needs_bridge() {
            let all: Vec<StepId> = (0..self.plan.steps.len()).collect();
            let (class, why) = (Class::InPlace, Why::NamesNotNeeded);
            after.push(self.add(Step::RemoveNames, class, why, false, &all));
        }
        let changed = &self.observed.network.changed;
        let is_there = self.observed.bridge.is_some() || !changed.is_empty();
        if is_there && !self.target.needs_bridge() {
            let all: Vec<StepId> = (0..self.plan.steps.len()).collect();
            let step = Step::RemoveBridge {
                name: self.target.host.bridge.clone(),
                restore: changed.clone(),
            };
            after.push(self.add(step, Class::InPlace, Why::BridgeNotNeeded, false, &all));
        }
        after.extend(&self.unlinked);
        let wanted = self.target.firewall(&self.observed.network);
        if wanted.is_none() && self.observed.firewall.is_some() {
            self.add(
                Step::RemoveFirewall,
                Class::InPlace,
                Why::NothingPublished,
                false,
                &after,
            );
        }
    }
}
