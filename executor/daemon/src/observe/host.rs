//! What belongs to no pod, and what is listed for all of them at once.

use super::{Error, Observer, nics};
use crate::{
    rules,
    sysctls::{self, Record},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tank_model::Name;
use tank_plan::{
    observed::{HostNetwork, NameServer},
    target::Table,
};
use tank_sys::route::Link;

/// The host at one look.
pub struct HostSnapshot {
    /// The host's own links, by their names: one for each pod.
    pub links: Arc<BTreeMap<String, Link>>,
    /// None: there is none, or it is not as it should be.
    pub bridge: Option<Link>,
    pub bridge_addresses: Option<BTreeSet<IpNet>>,
    pub gateways: BTreeSet<IpAddr>,
    /// What of the host's network is not Tank's, and what Tank has changed of it.
    pub network: HostNetwork,
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
    pub fn read(observer: &Observer, parents: &BTreeSet<String>) -> Result<Self, Error> {
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
        let bridge = links
            .get(&settings.config.bridge)
            .filter(|link| link.marked)
            .cloned();
        let bridge_addresses = match bridge.as_ref().filter(|link| link.up && link.is_guarded) {
            Some(link) => {
                let addresses = routes.addresses(link.index)?;
                Some(addresses)
            }
            None => None,
        };
        let mut names = cgroups.pods();
        for dir in [
            settings.run_dir.join("pods"),
            settings.state_dir.join("scratch"),
        ] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                names.extend(entry.file_name().into_string());
            }
        }
        let own = settings.bridge_addresses();
        let mut network = read_network(observer, &links)?;
        nics::read(routes, &links, parents, &mut network)?;
        Ok(Self {
            network,
            links,
            bridge,
            bridge_addresses,
            gateways: own.into_iter().map(|address| address.addr()).collect(),
            firewall: observer.rules.get(rules::list)?,
            names: observer.names.observe(),
            left_over: names
                .into_iter()
                .filter_map(|name| Name::of_pod(name).ok())
                .collect(),
        })
    }
}

/// The host's own network: which links there are, what the settings say that the bridge needs, and
/// what Tank has changed of them.
fn read_network(observer: &Observer, links: &BTreeMap<String, Link>) -> Result<HostNetwork, Error> {
    let Observer {
        settings, routes, ..
    } = observer;
    let others = || {
        links
            .values()
            .filter(|link| !link.marked && link.name != "lo")
    };
    let mut network = HostNetwork {
        links: others().map(|link| link.name.clone()).collect(),
        changed: Record::of(&settings.run_dir)
            .read()
            .map_err(Error::Settings)?,
        ..HostNetwork::default()
    };
    let mut read = |path: String| {
        let value = sysctls::read(&path)?;
        network.settings.insert(path, value.clone());
        Some(value)
    };
    read("net/ipv4/ip_forward".to_owned());
    read(format!(
        "net/ipv4/conf/{}/route_localnet",
        settings.config.bridge
    ));
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
