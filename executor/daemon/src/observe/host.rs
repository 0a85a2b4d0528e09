//! What belongs to no pod, and what is listed for all of them at once.

use super::{Error, Observer, listeners::bound, nics};
use crate::{
    rules,
    settings::Settings,
    sysctls::{self, Record},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};
use tank_model::{Graph, Name, spec::Protocol};
use tank_plan::{
    flows::{Flow, Leads},
    observed::{HostNetwork, NameServer},
    ports::{Bound, published},
    target::{
        Table,
        firewall::BRIDGE_MAC,
        networks::{DEFAULT_ALIAS, is_bridge_name},
    },
    unmet::published_on,
};
use tank_sys::{
    cgroup::Cgroups,
    conntrack,
    route::{Link, LinkKind, Routes},
};

/// What a graph publishes, and has to be known of the host for.
pub struct Publishes {
    /// Whether there are ports on addresses of the host's own.
    pub on_addresses: bool,
    /// The ports that lead to pods.
    pub ports: BTreeSet<(Protocol, u16)>,
}

impl Publishes {
    pub fn of(graph: &Graph) -> Self {
        Self {
            on_addresses: !published_on(graph).is_empty(),
            ports: published(graph),
        }
    }
}

/// The host at one look.
pub struct HostSnapshot {
    /// The host's own links, by their names: one for each pod.
    pub links: Arc<BTreeMap<String, Link>>,
    /// The names of Tank's bridges, by their numbers.
    pub bridges: BTreeMap<u32, String>,
    /// Their addresses. None: it is not as it should be.
    pub bridge_addresses: BTreeMap<String, Option<BTreeSet<IpNet>>>,
    /// What of the host's network is not Tank's, and what Tank has changed of it.
    pub network: HostNetwork,
    /// The sockets of others that are bound to published ports.
    pub sockets: Vec<Bound>,
    /// What is in Tank's own table.
    pub firewall: Arc<Option<Table>>,
    /// The name server's process.
    pub names: Option<NameServer>,
    /// Names that have a cgroup, a folder, or the upper layers of containers.
    pub left_over: BTreeSet<Name>,
}

impl HostSnapshot {
    /// Reads it; `parents` are the links that pods' interfaces name. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn read(
        observer: &Observer,
        parents: &BTreeSet<String>,
        publishes: &Publishes,
    ) -> Result<Self, Error> {
        let Observer {
            settings,
            routes,
            cgroups,
            ..
        } = observer;
        let by_name = |link: Link| (link.name.clone(), link);
        let links = observer
            .links
            .get(|| Ok(routes.links()?.into_iter().map(by_name).collect()));
        let links: Arc<BTreeMap<String, Link>> = links?;
        let is_bridge = |link: &&Link| is_bridge(link, &settings.config.bridge);
        let (mut bridges, mut bridge_addresses) = (BTreeMap::new(), BTreeMap::new());
        for link in links.values().filter(is_bridge) {
            let alias = link.alias.as_deref();
            let is_named = alias.is_some_and(|alias| alias.starts_with("Tank's "));
            let addresses = match link.up && link.is_guarded && is_named {
                true => Some(routes.addresses(link.index)?),
                false => None,
            };
            bridges.insert(link.index, link.name.clone());
            bridge_addresses.insert(link.name.clone(), addresses);
        }
        let mut network = read_network(observer, &links, bridges.values())?;
        nics::read(routes, &links, parents, &mut network)?;
        if publishes.on_addresses {
            network.addresses = Some(routes.own_addresses()?);
        }
        let own = bridge_addresses.values().flatten().flatten();
        let sockets = bound(&publishes.ports, &own.map(IpNet::addr).collect())?;
        let firewall = observer.rules.get(rules::list)?;
        if observer.flows_are_uncertain.load(Ordering::Relaxed) && !bridges.is_empty() {
            let networks = bridge_addresses.values().flatten().flatten();
            network.flows = read_flows(routes, (*firewall).as_ref(), networks)?;
        }
        Ok(Self {
            network,
            sockets,
            links,
            bridges,
            bridge_addresses,
            firewall,
            names: observer.names.observe(),
            left_over: left_over(settings, cgroups),
        })
    }
}

/// Names that have a cgroup, a folder, or the upper layers of containers.
fn left_over(settings: &Settings, cgroups: &Cgroups) -> BTreeSet<Name> {
    let mut names = cgroups.pods();
    for dir in [
        settings.run_dir.join("pods"),
        settings.state_dir.join("scratch"),
    ] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            names.extend(entry.file_name().into_string());
        }
    }
    let names = names.into_iter();
    names.filter_map(|name| Name::of_pod(name).ok()).collect()
}

/// Whether a link is a bridge of Tank's, of which `own` is the default network's. One of another name was
/// that before the settings said this one. A hardware address alone says nothing: an administrator may
/// have chosen it.
fn is_bridge(link: &Link, own: &str) -> bool {
    let was_default = || link.mac == BRIDGE_MAC && link.alias.as_deref() == Some(DEFAULT_ALIAS);
    let is_own = link.kind == LinkKind::Bridge && (is_bridge_name(&link.name) || was_default());
    link.marked && (link.name == *own || is_own)
}

/// Flows of UDP that go past where these rules lead: those to addresses on these networks that are led
/// there by none of them, and those to a published port that are not translated.
fn read_flows<'a>(
    routes: &Routes,
    rules: Option<&Table>,
    networks: impl Iterator<Item = &'a IpNet> + Clone,
) -> Result<BTreeSet<Flow>, tank_sys::Error> {
    let (leads, own) = (Leads::of(rules), routes.own_addresses()?);
    let flow = |conntrack::Flow { asked, to }| Flow { asked, to };
    let is_on_one = |to: IpAddr| networks.clone().any(|net| net.contains(&to));
    let is_wanted = |found: conntrack::Flow| {
        found.to.is_none_or(|to| is_on_one(to.ip())) && !leads.has(flow(found), &own)
    };
    let found = conntrack::udp(&is_wanted)?.into_iter();
    Ok(found.map(flow).collect())
}

/// The host's own network: which links there are, what the settings say that bridges need, and
/// what Tank has changed of them.
fn read_network<'a>(
    observer: &Observer,
    links: &BTreeMap<String, Link>,
    bridges: impl Iterator<Item = &'a String>,
) -> Result<HostNetwork, Error> {
    let Observer {
        settings, routes, ..
    } = observer;
    let others = || {
        links
            .values()
            .filter(|link| !link.marked && link.name != "lo")
    };
    let record = Record::of(&settings.run_dir);
    let mut network = HostNetwork {
        links: others().map(|link| link.name.clone()).collect(),
        changed: record.read().map_err(|source| Error::Settings {
            record: record.path().to_owned(),
            source,
        })?,
        ..HostNetwork::default()
    };
    let mut read = |path: String| {
        let value = sysctls::read(&path)?;
        network.settings.insert(path, value.clone());
        Some(value)
    };
    read("net/ipv4/ip_forward".to_owned());
    for bridge in bridges {
        for setting in ["arp_ignore", "route_localnet"] {
            read(format!("net/ipv4/conf/{bridge}/{setting}"));
        }
    }
    // Only a host that does not forward yet may still listen to what routers advertise.
    if read("net/ipv6/conf/all/forwarding".to_owned()).is_some_and(|value| value == "0") {
        let advertised = routes.advertised()?;
        for link in others().filter(|link| advertised.contains(&link.index)) {
            let accepts = read(format!("net/ipv6/conf/{}/accept_ra", link.name));
            if accepts.is_some_and(|value| value == "1") {
                network.advertised.insert(link.name.clone());
            }
        }
    }
    Ok(network)
}
