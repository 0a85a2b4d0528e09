//! What each client sees, made of the pods that share a network with it.

use super::{NO_STACK, View};
use crate::{
    observed::Observed,
    target::{
        Target,
        networks::{Place, memberships},
    },
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Name, spec::DEFAULT_NETWORK};

/// Who sees the same: those of a stack, or of none, that are on the same networks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Viewpoint {
    stack: Option<String>,
    networks: BTreeSet<Name>,
}

impl Viewpoint {
    /// That of the host, on the default network.
    pub fn of_host() -> Self {
        Self {
            stack: None,
            networks: default_alone(),
        }
    }

    /// That of the host on a network.
    pub fn of_host_on(network: &Name) -> Self {
        Self {
            stack: None,
            networks: BTreeSet::from([network.clone()]),
        }
    }

    /// That of a pod on some networks.
    pub fn of(pod: &Name, networks: &BTreeSet<Name>) -> Self {
        Self {
            stack: pod.stack().map(str::to_owned),
            networks: networks.clone(),
        }
    }

    /// Whether it is on other networks than the default one.
    pub fn is_apart(&self) -> bool {
        !self.networks.iter().all(Name::is_default_network)
    }

    /// The name of its view: no stack is called as one of other networks.
    pub fn name(&self) -> String {
        let stack = self.stack.as_deref().unwrap_or(NO_STACK);
        let networks: Vec<&str> = self.networks.iter().map(Name::as_str).collect();
        match self.is_apart() {
            true => format!("{stack}/{}", networks.join(",")),
            false => stack.to_owned(),
        }
    }
}

/// A pod, with what its names lead to.
pub struct Named<'a> {
    pub pod: &'a Name,
    pub places: Vec<Place>,
    /// Its names wherever it is, and those it has on one network.
    names: BTreeSet<String>,
    aliases: BTreeMap<Name, BTreeSet<String>>,
}

impl Named<'_> {
    /// Its names for who is on these networks, with the addresses they lead to. The first of each is
    /// that on the first network.
    fn seen_from(&self, networks: &BTreeSet<Name>) -> BTreeMap<&str, Vec<IpAddr>> {
        let mut seen = BTreeMap::new();
        let shared = self.places.iter();
        let shared = shared.filter(|place| networks.contains(&place.network));
        for (index, place) in shared.enumerate() {
            let everywhere = self.names.iter().filter(|_| index == 0);
            let here = self.aliases.get(&place.network).into_iter().flatten();
            for name in everywhere.chain(here) {
                let addresses = || place.addresses.iter().map(IpNet::addr).collect();
                seen.entry(name.as_str()).or_insert_with(addresses);
            }
        }
        seen
    }
}

impl Target<'_> {
    /// The pods that are on bridges.
    pub(super) fn named(&self) -> Vec<Named<'_>> {
        let pods = self.graph.pods().filter(|pod| self.is_bridged(pod));
        let named = |pod| {
            let lower = |name: &String| name.to_ascii_lowercase();
            let aliases = memberships(self.graph, pod).into_iter();
            let aliases = aliases.map(|(network, own)| {
                let names = own.aliases.keys().map(lower);
                (network, names.collect())
            });
            Named {
                pod,
                places: self.places(pod),
                names: self.names_of(pod),
                aliases: aliases.collect(),
            }
        };
        pods.map(named).collect()
    }

    /// What is seen from somewhere first: the names of the own stack.
    pub(super) fn own_view(
        &self,
        from: &Viewpoint,
        pods: &[Named<'_>],
        observed: &Observed,
    ) -> View {
        let stack = from.stack.as_deref();
        let own = |pod: &Name, name: &str| (pod.stack() == stack).then(|| name.to_owned());
        self.view(own, &from.networks, pods, observed)
    }

    /// What is seen from somewhere behind that: those of every stack, with the stack's name.
    pub(super) fn shared_view(
        &self,
        from: &Viewpoint,
        pods: &[Named<'_>],
        observed: &Observed,
    ) -> View {
        // A name with dots is for its own stack alone: `www.bank` of a stack `com` is no bank.
        let shared = |pod: &Name, name: &str| {
            let of = pod.stack().filter(|_| !name.contains('.'));
            of.map(|of| format!("{name}.{of}"))
        };
        self.view(shared, &from.networks, pods, observed)
    }

    /// The names that `name_of` gives the names of a pod, for who is on these networks. None: it has
    /// none in this view.
    fn view(
        &self,
        name_of: impl Fn(&Name, &str) -> Option<String>,
        networks: &BTreeSet<Name>,
        pods: &[Named<'_>],
        observed: &Observed,
    ) -> View {
        let mut carriers: BTreeMap<String, BTreeMap<&Name, Vec<IpAddr>>> = BTreeMap::new();
        let mut reverse = BTreeMap::new();
        for named in pods {
            for (name, addresses) in named.seen_from(networks) {
                if let Some(name) = name_of(named.pod, name) {
                    let carriers = carriers.entry(name).or_default();
                    carriers.entry(named.pod).or_insert(addresses);
                }
            }
            if let Some(name) = name_of(named.pod, named.pod.local()) {
                let places = named.places.iter();
                let shared = places.filter(|place| networks.contains(&place.network));
                let addresses = shared.flat_map(|place| &place.addresses);
                reverse.extend(addresses.map(|own| (own.addr(), name.clone())));
            }
        }
        let answers = |pods: &BTreeMap<&Name, Vec<IpAddr>>| -> BTreeSet<IpAddr> {
            // One that is stopped by hand is known, and nowhere.
            let is_stopped = |pod: &Name| self.overrides.is_stopped(self.graph, pod);
            let pods = || pods.iter().filter(|(pod, _)| !is_stopped(pod));
            let alone = pods().count() == 1;
            let counts = |pod: &Name| alone || self.is_ready(pod, observed);
            let pods = pods().filter(|(pod, _)| counts(pod));
            pods.flat_map(|(_, addresses)| addresses.iter().copied())
                .collect()
        };
        let names = carriers.iter();
        View {
            names: names
                .map(|(name, pods)| (name.clone(), answers(pods)))
                .collect(),
            reverse,
        }
    }

    /// Every name of a pod within its stack, in lower case.
    fn names_of(&self, pod: &Name) -> BTreeSet<String> {
        let hostname = self
            .graph
            .sandbox(pod)
            .map(|(node, _)| node.hostname.clone());
        let node = self.graph.pod(pod);
        let aliases = node
            .into_iter()
            .flat_map(|node| node.aliases.iter().cloned());
        let names = [pod.local().to_owned()]
            .into_iter()
            .chain(hostname)
            .chain(aliases);
        names.map(|name| name.to_ascii_lowercase()).collect()
    }

    /// Whether every container of a pod runs and is ready.
    fn is_ready(&self, pod: &Name, observed: &Observed) -> bool {
        let found = observed.pods.get(pod);
        found.is_some_and(|found| found.ready(self.graph.containers(pod).map(|(name, ..)| name)))
    }
}

fn default_alone() -> BTreeSet<Name> {
    Name::new(DEFAULT_NETWORK).into_iter().collect()
}
