//! What interfaces of pods' own sit on, the interfaces themselves, and the host's links to them.

use super::{Error, Observer, host::HostSnapshot, kernel::PodSnapshot};
use crate::{pods::port_name, settings::has_ipv6, sysctls};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tank_model::spec::NicMode;
use tank_plan::{
    observed::{HostNetwork, Parent},
    target::{
        HostLink, PodNic,
        networks::{HostNets, Taken},
        nics::{HOST_LINK_GROUP, HOST_LINK_PREFIX, HostRoute},
    },
};
use tank_sys::route::{Link, LinkKind, Reserved, Routes};

type Links = BTreeMap<String, Link>;

/// Adds to what is known of the host's network: its own links to pods, always, since one may be left
/// over; and, where pods name any, the links that theirs may sit on.
///
/// # Errors
/// What the kernel gives.
pub fn read(
    routes: &Routes,
    links: &Links,
    named: &BTreeSet<String>,
    network: &mut HostNetwork,
) -> tank_sys::Result<()> {
    let own = links.values().filter(|link| is_host_link(link));
    for link in own {
        let found = read_host_link(routes, links, link)?;
        network.host_links.insert(link.name.clone(), found);
    }
    if named.is_empty() {
        return Ok(());
    }
    let by_number = |number: u32| links.values().find(|link| link.index == number);
    let others = || {
        links
            .values()
            .filter(|link| !link.marked && link.name != "lo")
    };
    if named.contains("auto") {
        let default = routes.default_links()?.into_iter();
        let mut default = default.filter_map(by_number).filter(|link| !link.marked);
        network.uplink = default.next().map(|link| link.name.clone());
    }
    let below = links.values().filter(|link| is_host_link(link));
    let below: BTreeSet<u32> = below.filter_map(|link| link.below).collect();
    for link in others() {
        let is_asked = named.contains(&link.name)
            || network.uplink.as_ref() == Some(&link.name)
            || below.contains(&link.index);
        let addresses = match is_asked {
            true => routes.addresses(link.index)?,
            false => BTreeSet::new(),
        };
        let parent = Parent {
            is_up: link.up,
            mtu: link.mtu,
            is_bridge: link.kind == LinkKind::Bridge,
            is_macvlan: link.kind == LinkKind::Macvlan,
            is_ethernet: link.is_ethernet,
            port_of: link
                .controller
                .and_then(by_number)
                .map(|of| of.name.clone()),
            addresses,
            next_hops: BTreeSet::new(),
        };
        network.parents.insert(link.name.clone(), parent);
    }
    Ok(())
}

/// By its mark and its name: what else is of it may be half done.
fn is_host_link(link: &Link) -> bool {
    link.marked && link.name.starts_with(HOST_LINK_PREFIX) && link.kind == LinkKind::Macvlan
}

fn read_host_link(
    routes: &Routes,
    links: &Links,
    link: &Link,
) -> tank_sys::Result<Option<HostLink>> {
    let parent = links
        .values()
        .find(|parent| Some(parent.index) == link.below);
    let Some(parent) = parent else {
        return Ok(None);
    };
    if !link.up || link.group != HOST_LINK_GROUP || !sysctls::is_host_link(&link.name) {
        return Ok(None);
    }
    let by = routes.routes_by(link.index)?;
    // One that leads elsewhere is nobody's of Tank's.
    let is_own = |to: &ipnet::IpNet| to.prefix_len() == to.max_prefix_len();
    if by
        .iter()
        .any(|route| route.via.is_some() || !is_own(&route.to))
    {
        return Ok(None);
    }
    Ok(Some(HostLink {
        name: link.name.clone(),
        parent: parent.name.clone(),
        mac: link.mac,
        addresses: routes.addresses(link.index)?,
        routes: by
            .into_iter()
            .map(|route| HostRoute {
                to: route.to.addr(),
                source: route.source,
            })
            .collect(),
    }))
}

impl Observer {
    /// The links that interfaces of pods may sit on, of which `named` are named.
    ///
    /// # Errors
    /// What the kernel gives.
    pub async fn parents(self: &Arc<Self>, named: BTreeSet<String>) -> Result<HostNetwork, Error> {
        let observer = Arc::clone(self);
        let look = move || {
            let links = observer.routes.links()?.into_iter();
            let links = links.map(|link| (link.name.clone(), link)).collect();
            let mut network = HostNetwork::default();
            read(&observer.routes, &links, &named, &mut network)?;
            for (name, parent) in &mut network.parents {
                if let Some(link) = links.get(name) {
                    let by = observer.routes.routes_by(link.index)?.into_iter();
                    parent.next_hops = by.filter_map(|route| route.via).collect();
                }
            }
            Ok::<_, tank_sys::Error>(network)
        };
        let found = tokio::task::spawn_blocking(look).await;
        Ok(found.map_err(Error::Links)??)
    }

    /// The networks that the host's own links lead to.
    ///
    /// # Errors
    /// What the kernel gives.
    pub async fn nets(self: &Arc<Self>) -> Result<HostNets, Error> {
        let observer = Arc::clone(self);
        let look = move || {
            let routes = &observer.routes;
            let mut by_link = BTreeMap::new();
            let (own, links): (Vec<Link>, Vec<Link>) =
                routes.links()?.into_iter().partition(|link| link.marked);
            let own = own.iter().map(|link| link.index).collect();
            for link in links.into_iter().filter(|link| link.name != "lo") {
                let mut nets = routes.addresses(link.index)?;
                let routes = routes.routes_by(link.index)?.into_iter();
                nets.extend(
                    routes
                        .map(|route| route.to)
                        .filter(|to| to.prefix_len() > 0),
                );
                by_link.insert(link.name, nets);
            }
            Ok::<_, tank_sys::Error>((by_link, routes.reserved(&own)?))
        };
        let found = tokio::task::spawn_blocking(look).await;
        let (by_link, reserved) = found.map_err(Error::Links)??;
        let how = |reserved: Reserved| match reserved {
            Reserved::Table(table) => Taken::Table(table),
            Reserved::Blackhole => Taken::Blackhole,
            Reserved::Unreachable => Taken::Unreachable,
        };
        let reserved = reserved.into_iter();
        Ok(HostNets {
            by_link,
            reserved: reserved.map(|(net, of)| (net, how(of))).collect(),
            has_ipv6: has_ipv6(),
        })
    }

    /// The interfaces of a pod's own that are up and lead somewhere.
    ///
    /// # Errors
    /// What the kernel gives.
    pub(super) fn nics(
        &self,
        snapshot: &PodSnapshot,
        host: &HostSnapshot,
    ) -> tank_sys::Result<BTreeMap<String, PodNic>> {
        let mut nics = BTreeMap::new();
        for found in &snapshot.nics {
            let link = &found.link;
            let (mode, parent) = match link.kind {
                LinkKind::Macvlan => (NicMode::Macvlan, link.below),
                LinkKind::Veth => (NicMode::Bridge, self.bridge_of(link, host)?),
                _ => continue,
            };
            let parent = host.links.values().find(|one| Some(one.index) == parent);
            let Some(parent) = parent else { continue };
            let nic = PodNic {
                name: link.name.clone(),
                mode,
                parent: parent.name.clone(),
                mac: link.mac,
                mtu: link.mtu,
                addresses: found.addresses.clone(),
                routes: found.routes.clone(),
            };
            nics.insert(link.name.clone(), nic);
        }
        Ok(nics)
    }

    /// The bridge of the other end of an interface, if that is up.
    fn bridge_of(&self, inner: &Link, host: &HostSnapshot) -> tank_sys::Result<Option<u32>> {
        let name = port_name(inner.mac);
        // As in `port`: the list may be older than the link.
        let looked_up = match host.links.get(&name) {
            Some(_) => None,
            None => self.routes.link(&name)?,
        };
        let outer = host.links.get(&name).or(looked_up.as_ref());
        let outer = outer.filter(|outer| outer.up && inner.below == Some(outer.index));
        Ok(outer.and_then(|outer| outer.controller))
    }
}
