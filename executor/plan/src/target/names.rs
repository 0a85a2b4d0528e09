//! What pods find each other by: the answers of Tank's name server, as data.
//!
//! A name is one of a pod: its own, its `hostname`, its aliases. Each is answered as it stands and
//! below [`DOMAIN`], so that a resolver's search list and a query of one label both find it. What
//! one pod alone has for a name is answered whether the pod is ready or not, since its address is
//! its own for good; a name of several pods leads to those that are ready.
//!
//! Who asks decides what there is: each client has a [`View`], and names of one view are not seen
//! in another. Each stack has one: its own pods have their names, so two stacks with a `db` never
//! meet; pods of other stacks are named with theirs, `db.shop`. So do pods that are on the same
//! networks, where these are others than the default one: they see the pods that share one with them,
//! at the address that is on the first of those, and of others not even that there are any.

#[cfg(test)]
mod tests;
mod views;

use crate::{
    observed::Observed,
    target::{
        Target,
        networks::{Place, UsedNetwork},
    },
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Digest, Name, canonical, spec::Peer};
use views::{Named, Viewpoint};

/// The domain of the pods' names. `internal` is reserved for private use (ICANN, 2024).
pub const DOMAIN: &str = "tank.internal";

/// The view of the pods that belong to no stack, and of the host: no stack is called so.
const NO_STACK: &str = "";

/// What Tank's name server answers, to whom, and whom it asks for the rest.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Zone {
    /// Where it is asked: the bridges' own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Who may ask, and whose addresses have names here or none: the pods' networks.
    pub networks: BTreeSet<IpNet>,
    /// What the pods of each stack see first, by its name, and those that belong to none. Of pods on
    /// other networks than the default one: all that they see, by their stack and their networks.
    pub views: BTreeMap<String, View>,
    /// What all on the default network alone see: the pods of every stack, with its name behind
    /// theirs.
    #[serde(default)]
    pub shared: View,
    /// By their addresses. Who is not among them is refused.
    pub clients: BTreeMap<IpAddr, Client>,
    /// The servers that are asked for all other names, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<IpAddr>,
}

/// The names that some clients see.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// The addresses of each name, in lower case and without a dot at its end. None of them: the
    /// name is known, and nobody who has it is ready.
    pub names: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The name of each address, below [`DOMAIN`].
    pub reverse: BTreeMap<IpAddr, String>,
}

/// Somebody who may ask.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Client {
    /// The name of its view.
    pub view: String,
    /// It sees nothing beside that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
    /// Nobody else is asked for it: it is on internal networks only, or may reach none but pods, and a
    /// query leads out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// Servers of its own, in place of the zone's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<IpAddr>,
}

impl View {
    /// Adds what another one says, where this one says nothing.
    fn put_behind(&mut self, other: Self) {
        for (name, addresses) in other.names {
            self.names.entry(name).or_insert(addresses);
        }
        for (address, name) in other.reverse {
            self.reverse.entry(address).or_insert(name);
        }
    }
}

impl Zone {
    /// Names all that it says.
    pub fn digest(&self) -> Digest {
        Digest::of(&canonical::encode(self).unwrap_or_default())
    }

    /// All names, for people: those of a stack with its name.
    pub fn names(&self) -> BTreeSet<&str> {
        let apart = self.views.iter().filter(|(name, _)| name.starts_with('/'));
        let views = self.views.get(NO_STACK).into_iter().chain([&self.shared]);
        let views = views.chain(apart.map(|(_, view)| view));
        let names = views.flat_map(|view| view.names.keys());
        names.map(String::as_str).collect()
    }
}

impl Target<'_> {
    /// What the name server has to say. None: no pod is on a bridge, and there is to be no server.
    pub fn zone(&self, observed: &Observed) -> Option<Zone> {
        if !self.needs_bridge() {
            return None;
        }
        let (networks, pods) = (self.networks(), self.named());
        let addresses: BTreeSet<IpAddr> = networks.iter().flat_map(own_of).collect();
        let clients = self.clients(&networks, &pods);
        let host = Viewpoint::of_host();
        let view = |viewpoint: &Viewpoint| {
            let mut first = self.own_view(viewpoint, &pods, observed);
            if viewpoint.is_apart() {
                first.put_behind(self.shared_view(viewpoint, &pods, observed));
            }
            (viewpoint.name(), first)
        };
        let viewpoints: BTreeSet<&Viewpoint> = clients
            .iter()
            .map(|client| &client.viewpoint)
            .chain([&host])
            .collect();
        let views = viewpoints.into_iter().map(view).collect();
        let shared = self.shared_view(&host, &pods, observed);
        // It would ask itself, and so on, and as the host.
        let others = |servers: Vec<IpAddr>| {
            let servers = servers.iter().map(IpAddr::to_canonical);
            let servers = servers.filter(|server| !addresses.contains(server));
            servers.collect::<Vec<IpAddr>>()
        };
        let clients = clients.into_iter().flat_map(|client| {
            let to_be = Client {
                view: client.viewpoint.name(),
                apart: client.viewpoint.is_apart(),
                closed: client.closed,
                upstreams: others(client.upstreams),
            };
            let addresses = client.addresses.into_iter();
            addresses.map(move |address| (address, to_be.clone()))
        });
        let clients = clients.collect();
        let nets = networks.into_iter().flat_map(|network| network.subnets);
        Some(Zone {
            networks: nets.collect(),
            views,
            shared,
            clients,
            upstreams: others(self.resolver.upstreams()),
            addresses,
        })
    }

    /// Who may ask: the host itself on each of the networks, and the pods.
    fn clients(&self, networks: &[UsedNetwork], pods: &[Named<'_>]) -> Vec<Asker> {
        let host = |network: &UsedNetwork| Asker {
            viewpoint: Viewpoint::of_host_on(&network.name),
            addresses: own_of(network),
            upstreams: Vec::new(),
            closed: false,
        };
        let is_inside = |server: &IpAddr| {
            let mut subnets = networks.iter().flat_map(|network| &network.subnets);
            subnets.any(|subnet| subnet.contains(server))
        };
        let pod = |named: &Named<'_>| {
            let Named { pod, places, .. } = named;
            let node = self.graph.pod(pod);
            let reaches = node.and_then(|node| node.egress.peers());
            let is_bound = reaches.is_some_and(|peers| {
                let is_pod = |peer: &Peer| matches!(peer, Peer::Pod(_));
                peers.iter().all(is_pod)
            });
            let servers = node.into_iter().flat_map(|node| node.dns.servers.values());
            let on = places.iter().map(|place| place.network.clone());
            let addresses = places.iter().flat_map(|place| &place.addresses);
            Asker {
                viewpoint: Viewpoint::of(pod, &on.collect()),
                addresses: addresses.map(|own| own.addr()).collect(),
                // The host asks for the pod: it may reach any of them, the pod those alone that it
                // reaches itself.
                upstreams: servers
                    .map(IpAddr::to_canonical)
                    .filter(|server| {
                        !is_inside(server)
                            || pods.iter().any(|other| self.reaches(named, other, *server))
                    })
                    .collect(),
                closed: is_bound || places.iter().all(|place| place.internal),
            }
        };
        let hosts = networks.iter().map(host);
        hosts.chain(pods.iter().map(pod)).collect()
    }
}

impl Target<'_> {
    /// Whether a pod may open connections to another one at an address: they share its network, and the
    /// policies of both let it.
    fn reaches(&self, from: &Named<'_>, to: &Named<'_>, at: IpAddr) -> bool {
        let on = |place: &Place, at: IpAddr| place.addresses.iter().any(|own| own.addr() == at);
        let Some(place) = to.places.iter().find(|place| on(place, at)) else {
            return false;
        };
        let shared = from.places.iter();
        let own = shared.filter(|own| own.network == place.network);
        let own: Vec<IpAddr> = own
            .flat_map(|own| own.addresses.iter().map(IpNet::addr))
            .collect();
        let names = |peers: Option<&[Peer]>, pod: &Name, at: &[IpAddr]| {
            peers.is_none_or(|peers| {
                peers.iter().any(|peer| match peer {
                    Peer::Pod(named) => named == pod,
                    Peer::Net(net) => at.iter().any(|at| net.contains(at)),
                    Peer::Internet => false,
                })
            })
        };
        let node = |pod| self.graph.pod(pod);
        let admitting = node(to.pod).and_then(|node| node.allow_from.peers());
        let reached = node(from.pod).and_then(|node| node.egress.peers());
        !own.is_empty() && names(admitting, from.pod, &own) && names(reached, to.pod, &[at])
    }
}

/// Somebody who may ask, from some addresses.
struct Asker {
    viewpoint: Viewpoint,
    addresses: Vec<IpAddr>,
    upstreams: Vec<IpAddr>,
    closed: bool,
}

fn own_of(network: &UsedNetwork) -> Vec<IpAddr> {
    let own = network.addresses().into_iter();
    own.map(|own| own.addr()).collect()
}
