//! The rules, the bridges and the names, in the order in which none opens the host.

use crate::{
    observed,
    observed::NameServer,
    planner::Planner,
    step::{Class, Step, StepId},
    target::{
        Bridge, Table,
        firewall::{Difference, Going, HeldPorts, is_port_group},
        networks::memberships,
        nics::host_link_name,
    },
    why::{Policy, Reach, Why},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};
use tank_model::{
    Graph, Key, Name,
    spec::{Network, Protocol, Publish},
};

impl Planner<'_> {
    /// The rules, which name the bridges and need none: with a bridge the host begins to forward,
    /// and takes packets to 127.0.0.0/8 that come over it. Nothing may be able to use that before
    /// there are rules against it. Pods that are on their way out may send until they are gone.
    pub(super) fn ensure_firewall(&mut self) {
        let going = self.going();
        let (wanted, held) = self.firewall(&going);
        self.report.ports = held;
        let is_there = |wanted: &Table| self.differs(wanted).is_none();
        // What is narrower already is so since a pass that did not get further.
        let (narrow, _) = self.firewall(&Going::default());
        if going.is_empty() || !narrow.as_ref().is_some_and(is_there) {
            let after = self.unlinked.clone();
            let step = wanted.and_then(|wanted| {
                self.ensure_table(wanted, (self.reach(), self.policies()), &after)
            });
            self.network.extend(step);
            self.rules = step;
        }
    }

    /// The table as it has to be for now, and the ports that wait for their pods in it.
    fn firewall(&self, going: &Going) -> (Option<Table>, Vec<HeldPorts>) {
        let mut wanted = self.target.firewall_with(&self.observed.network, going);
        let held = wanted
            .as_mut()
            .map(|table| self.target.hold_ports(table, self.observed));
        (wanted, held.unwrap_or_default())
    }

    /// What the declaration changed of who reaches what: what is closed, then what is opened.
    fn reach(&self) -> Vec<Reach> {
        let overrides = self.target.overrides;
        // To a pod that was stopped by hand until now nothing has led.
        let before = self
            .target
            .previous
            .map(|graph| self.reach_of(graph, |pod| overrides.has_ended(graph, pod)));
        let before = before.unwrap_or_default();
        let graph = self.target.graph;
        let after = self.reach_of(graph, |pod| overrides.is_stopped(graph, pod));
        let leads = |one: &Reach| (one.at, one.last, one.protocol, one.pod.clone(), one.to);
        let stays = |one: &&Reach| !after.iter().any(|other| leads(other) == leads(one));
        // What leads to a pod until another is ready is said with that one.
        let is_over = |one: &&Reach| self.held(one, |held| &held.from).is_none();
        let closed = before.iter().filter(stays).filter(is_over);
        let closed = closed.map(|one| Reach {
            opens: false,
            ..one.clone()
        });
        let opened = after.iter().filter(|one| !before.contains(one));
        let opened = opened.map(|one| Reach {
            until: self
                .held(one, |held| &held.to)
                .map(|held| held.from.clone()),
            ..one.clone()
        });
        closed.chain(opened).collect()
    }

    /// The ports of these that wait, where `pod` of what waits is theirs.
    fn held(&self, reach: &Reach, pod: impl Fn(&HeldPorts) -> &Name) -> Option<&HeldPorts> {
        let is_of = |(at, protocol): &(SocketAddr, Protocol)| {
            let ports = reach.at.port()..=reach.last.unwrap_or(reach.at.port());
            at.ip() == reach.at.ip() && *protocol == reach.protocol && ports.contains(&at.port())
        };
        let mut held = self.report.ports.iter();
        held.find(|held| *pod(held) == reach.pod && held.ports.iter().any(is_of))
    }

    /// Who reaches the published ports of a graph, but of pods that are stopped by hand.
    fn reach_of(&self, graph: &Graph, is_stopped: impl Fn(&Name) -> bool) -> Vec<Reach> {
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
                until: None,
            };
            let addresses = publish.address.iter();
            // What is published at a family that the pod has no address of leads nowhere.
            let to = self.target.published_in(graph, pod);
            let leads = |at: &IpAddr| match to.is_empty() {
                true => self.target.has((*at).into()),
                false => to.iter().any(|own| own.is_ipv4() == at.is_ipv4()),
            };
            let own = addresses.filter(leads);
            own.flat_map(|address| {
                let protocols = publish.protocol.each().iter();
                protocols
                    .map(move |protocol| one(address, *protocol))
                    .collect::<Vec<_>>()
            })
            .collect()
        };
        let published = |pod| graph.published(pod).map(move |(_, publish)| (pod, publish));
        let pods = graph.pods().filter(bridged);
        let all = pods.filter(|pod| !is_stopped(pod)).flat_map(published);
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

    /// The ports that pods have and are not declared with, and the bridges that no declared pod needs.
    fn going(&self) -> Going {
        let target = self.target;
        let networks = target.networks();
        let used: BTreeSet<&String> = networks.iter().map(|network| &network.bridge).collect();
        let bridges = self.observed.bridges.keys();
        let ports = self.going_ports().into_values().flatten();
        Going {
            ports: ports.collect(),
            bridges: bridges
                .filter(|name| !used.contains(name))
                .cloned()
                .collect(),
            senders: self.going_senders(),
        }
    }

    /// As whom pods on their way out may still send over host links that are there.
    fn going_senders(&self) -> BTreeSet<([u8; 6], IpAddr)> {
        let links = &self.observed.network.host_links;
        let own = self.going_macvlans().map(|(_, nic)| nic);
        let own = own.filter(|nic| links.contains_key(&host_link_name(&nic.parent)));
        own.flat_map(|nic| nic.addresses.iter().map(|own| (nic.mac, own.addr())))
            .collect()
    }

    /// The pods with ports that they are not declared with, and the groups of these.
    fn going_ports(&self) -> BTreeMap<Name, BTreeSet<u32>> {
        let target = self.target;
        let places = target.graph.pods().flat_map(|pod| target.places(pod));
        let declared: BTreeSet<u32> = places.map(|place| place.group).collect();
        let of_pod = |(pod, found): (&'_ Name, &'_ observed::Pod)| {
            let links = found.sandbox.as_ref()?.links.values();
            let groups = links.map(|link| link.group);
            let going = groups.filter(|group| is_port_group(*group) && !declared.contains(group));
            let going: BTreeSet<u32> = going.collect();
            (!going.is_empty()).then(|| (pod.clone(), going))
        };
        self.observed.pods.iter().filter_map(of_pod).collect()
    }

    /// When those are gone, nobody may send as them. One that is not removed yet keeps its place.
    pub(super) fn narrow_firewall(
        &mut self,
        removed: &BTreeMap<Name, StepId>,
        unbridged: &[StepId],
    ) {
        let going = self.going();
        let ports = self.going_ports();
        let mut macvlans = self.going_macvlans().map(|(pod, _)| pod);
        let stays = macvlans.any(|pod| !removed.contains_key(pod))
            || ports.keys().any(|pod| !removed.contains_key(pod));
        drop(macvlans);
        if going.is_empty() || stays {
            return;
        }
        let before = removed.values().chain(&self.network).chain(unbridged);
        let before = before.chain(&self.unlinked);
        let after: Vec<StepId> = before.copied().collect();
        if let (Some(wanted), _) = self.firewall(&Going::default()) {
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
            absent: unwanted == 0 && self.observed.firewall.is_none(),
            reach,
            policies,
        };
        let declared = self.is_declared_as_before();
        let step = Step::EnsureFirewall { table };
        Some(self.add(step, Class::InPlace, why, declared, after))
    }

    pub(super) fn ensure_bridges(&mut self) {
        for bridge in self.target.bridges(&self.observed.network) {
            self.ensure_bridge(bridge);
        }
    }

    fn ensure_bridge(&mut self, bridge: Bridge) {
        let host = &self.observed.network;
        let found = self.observed.bridges.get(&bridge.name);
        let mut settings = bridge.settings.iter();
        let is_set = settings.all(|setting| {
            let found = host.settings.get(&setting.path);
            found.is_none_or(|found| *found == setting.value)
        });
        let has_addresses = found.is_some_and(|found| found.as_ref() == Some(&bridge.addresses));
        if is_set && has_addresses {
            return;
        }
        let drift = self.is_network_declared_before(&bridge);
        let after = self.network.clone();
        let name = bridge.name.clone();
        let step = Step::EnsureBridge { bridge };
        let step = self.add(step, Class::InPlace, Why::BridgeNeeded, drift, &after);
        self.bridges.insert(name, step);
    }

    /// Whether pods run that are on a bridge, and its declaration is not new.
    fn is_network_declared_before(&self, bridge: &Bridge) -> bool {
        match &bridge.network {
            None => !self.observed.pods.is_empty(),
            Some(network) => {
                let is_on = |graph: &Graph, pod: &Name| {
                    let own = memberships(graph, pod);
                    own.iter().any(|(own, _)| own == network)
                };
                let previous = self.target.previous;
                self.is_declared_before(&Key::Network(network.clone()))
                    && previous.is_some_and(|graph| graph.pods().any(|pod| is_on(graph, pod)))
            }
        }
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
        let declared = self.is_declared_as_before();
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

    /// Bridges that no pod needs go after the pods that were on them, and while the rules still guard
    /// them. Where no pod needs any, they all go at the end, with the host's settings.
    pub(super) fn remove_networks(&mut self, removed: &BTreeMap<Name, StepId>) -> Vec<StepId> {
        if !self.target.needs_bridge() {
            return Vec::new();
        }
        let after: Vec<StepId> = removed.values().chain(&self.network).copied().collect();
        let drift = self.is_declared_as_before();
        let mut steps = Vec::new();
        for name in self.going().bridges {
            let Some(moved) = self.moved_off(&name, removed) else {
                continue;
            };
            let of_it = format!("net/ipv4/conf/{name}/");
            let changed = self.observed.network.changed.iter();
            let restore = changed.filter(|(path, _)| path.starts_with(&of_it));
            let restore = restore.map(|(path, changed)| (path.clone(), changed.clone()));
            let step = Step::RemoveBridge {
                restore: restore.collect(),
                name,
            };
            let after = [after.as_slice(), &moved].concat();
            steps.push(self.add(step, Class::InPlace, Why::BridgeNotNeeded, drift, &after));
        }
        steps
    }

    /// The steps by which pods that stay leave a bridge that is not needed any more. None: one stays on it.
    fn moved_off(&self, bridge: &str, removed: &BTreeMap<Name, StepId>) -> Option<Vec<StepId>> {
        let is_on = |found: &observed::Pod| {
            let mut links = found.sandbox.iter().flat_map(|own| own.links.values());
            links.any(|link| link.bridge == bridge)
        };
        let stays = self
            .observed
            .pods
            .iter()
            .filter(|(pod, found)| is_on(found) && !removed.contains_key(*pod));
        let connect = |pod: &Name| {
            let mut steps = self.plan.steps.iter();
            steps.position(
                |planned| matches!(&planned.step, Step::EnsureNetwork { pod: of, .. } if of == pod),
            )
        };
        stays.map(|(pod, _)| connect(pod)).collect()
    }

    /// In the opposite order: the rules go when there is no bridge any more.
    pub(super) fn remove_bridges(&mut self) {
        let mut after = Vec::new();
        // What keeps a pod that could not be made anew stays with it.
        let mut pods = self.observed.pods.iter();
        let keeps = pods.any(|(pod, found)| self.is_kept(pod, found));
        let is_needed = self.target.needs_bridge() || keeps;
        if self.observed.names.is_some() && !is_needed {
            let all: Vec<StepId> = (0..self.plan.steps.len()).collect();
            let (class, why) = (Class::InPlace, Why::NamesNotNeeded);
            after.push(self.add(Step::RemoveNames, class, why, false, &all));
        }
        let changed = &self.observed.network.changed;
        let mut names: Vec<&String> = self.observed.bridges.keys().collect();
        if names.is_empty() && !changed.is_empty() {
            names.push(&self.target.host.bridge);
        }
        if !is_needed && let Some((last, others)) = names.split_last() {
            let none = BTreeMap::new();
            let drift = self.is_declared_as_before();
            let mut all: Vec<StepId> = (0..self.plan.steps.len()).collect();
            let others = others.iter().map(|name| (name, &none));
            for (name, restore) in others.chain([(last, changed)]) {
                let step = Step::RemoveBridge {
                    name: (*name).clone(),
                    restore: restore.clone(),
                };
                let id = self.add(step, Class::InPlace, Why::BridgeNotNeeded, drift, &all);
                all.push(id);
                after.push(id);
            }
        }
        after.extend(&self.unlinked);
        let wanted = self.target.firewall(&self.observed.network);
        let is_guarded = self.stays_linked();
        if wanted.is_none() && !keeps && !is_guarded && self.observed.firewall.is_some() {
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
