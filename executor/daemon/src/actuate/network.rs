//! Bridges, the pods' links to them, and the rules.

use super::{Error, blocking};
use crate::{
    pods::{Shim, outer_link_name},
    rules,
    sysctls::Record,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::BorrowedFd,
    sync::Arc,
};
use tank_plan::{
    flows::{Flows, Port},
    observed::ChangedSetting,
    target::{Bridge, PodLink, Table, firewall::changed_settings, networks::DEFAULT_ALIAS},
};
use tank_sys::{
    conntrack::{self, Flow},
    route::{Request, Routes},
};

/// The index of the loopback link: it is the first that the kernel makes in a network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// Makes a bridge as it should be, and the host's settings with it. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn ensure_bridge(routes: &Routes, record: &Record, bridge: &Bridge) -> Result<(), Error> {
    let Bridge {
        name,
        network,
        addresses,
        settings,
    } = bridge;
    let ensure = || {
        let index = routes.ensure_bridge(name, addresses)?;
        let text = match network {
            Some(network) => format!("Tank's network {network}"),
            None => DEFAULT_ALIAS.to_owned(),
        };
        let mut requests = vec![Request::describe(index, &text)];
        // Of other subnets that it had.
        let found = routes.addresses(index)?;
        let others = found.difference(addresses);
        requests.extend(others.map(|other| Request::remove_address(index, *other)));
        requests.extend(addresses.iter().map(|own| Request::address(index, *own)));
        routes.carry_out(requests)
    };
    ensure()?;
    settings.iter().try_for_each(|setting| {
        record.set(setting).map_err(|source| Error::SetSetting {
            setting: setting.path.replace('/', "."),
            source,
        })
    })
}

/// What the rules still say of the host's settings that were changed. Blocking.
///
/// # Errors
/// When the rules can't be listed.
pub fn changed_by_the_rules() -> io::Result<BTreeMap<String, ChangedSetting>> {
    let table = rules::list().map_err(io::Error::other)?;
    Ok(table.as_ref().map(changed_settings).unwrap_or_default())
}

/// Removes a bridge, if it is Tank's, and gives back what was changed of the host's settings.
/// Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn remove_bridge(
    routes: &Routes,
    record: &Record,
    name: &str,
    restore: &BTreeMap<String, ChangedSetting>,
) -> Result<(), Error> {
    let link = routes.link(name)?;
    if let Some(link) = link.filter(|link| link.marked) {
        routes.delete(link.index)?;
    }
    record.restore(restore).map_err(Error::RestoreSettings)
}

/// Takes the addresses of a pod from it whose processes are gone: the kernel takes its network apart
/// some time later, and answers for them until then. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn release_addresses(inside: &Routes) -> Result<(), tank_sys::Error> {
    let links = inside.links()?.into_iter();
    let mut requests = Vec::new();
    for link in links.filter(|link| link.index != LOOPBACK) {
        let own = inside.addresses(link.index)?.into_iter();
        requests.extend(own.map(|own| Request::remove_address(link.index, own)));
    }
    inside.carry_out(requests)
}

/// Sets up the loopback of a pod that gets no link.
///
/// # Errors
/// When the pod can't be entered, or what the kernel gives.
pub async fn set_loopback_up(shim: &Shim) -> Result<(), Error> {
    let routes = shim.routes().await?;
    Ok(routes.carry_out(vec![Request::set_up(LOOPBACK)])?)
}

/// Makes a pod's links, their addresses and its routes as they should be.
///
/// # Errors
/// When the pod can't be entered, or what the kernel gives.
pub async fn ensure_network(
    routes: &Arc<Routes>,
    shim: Arc<Shim>,
    links: &[PodLink],
) -> Result<(), Error> {
    let pid = shim.pid().await?;
    shim.routes().await?;
    let (routes, links) = (Arc::clone(routes), links.to_vec());
    let connect = move || Ok(connect(&routes, &shim, pid, &links)?);
    blocking("connect a pod", connect).await
}

fn missing(what: &str) -> tank_sys::Error {
    tank_sys::Error::new(what, io::Error::from(io::ErrorKind::NotFound))
}

fn connect(
    routes: &Routes,
    shim: &Shim,
    pid: i32,
    links: &[PodLink],
) -> Result<(), tank_sys::Error> {
    let (Some(inside), Some(net)) = (shim.known_routes(), shim.known_network()) else {
        return Err(missing("enter the pod's network: it uses the host's"));
    };
    let mut requests = vec![Request::set_up(LOOPBACK)];
    let mut announcements = Vec::new();
    for (place, link) in links.iter().enumerate() {
        let index = ensure_link(routes, (inside, net), &outer_link_name(pid, place), link)?;
        let found = inside.addresses(index)?;
        let others = found.difference(&link.addresses);
        requests.extend(others.map(|other| Request::remove_address(index, *other)));
        let has_v6 = link.addresses.iter().any(|own| own.addr().is_ipv6());
        match has_v6 {
            true => requests.extend(Request::set_up_quietly(index, link.mac)),
            false => requests.push(Request::set_up(index)),
        }
        let own = link.addresses.iter();
        requests.extend(own.map(|own| Request::address(index, *own)));
        if link.announced {
            announcements.push((place, link, Request::announce(index, link.mac)));
        }
    }
    let gateways = links.iter().flat_map(|link| link.gateways.iter().copied());
    let gateways: BTreeSet<IpAddr> = gateways.collect();
    inside.remove_other_default_routes(&gateways)?;
    // Each is on one of the links, which by then has an address beside it.
    requests.extend(gateways.into_iter().map(Request::default_route));
    inside.carry_out(requests)?;
    for (place, link, announcement) in announcements {
        inside.await_running(&link.name)?;
        routes.await_running(&outer_link_name(pid, place))?;
        inside.carry_out(vec![announcement])?;
    }
    Ok(())
}

/// One link of a pod, but for its addresses. Its index inside.
fn ensure_link(
    routes: &Routes,
    (inside, net): (&Routes, BorrowedFd<'_>),
    name: &str,
    link: &PodLink,
) -> Result<u32, tank_sys::Error> {
    let bridge = routes.ensure_bridge(&link.bridge, &link.bridge_addresses)?;
    let outer = routes.link(name)?;
    let mut inner = inside.link(&link.name)?;
    // A pair can't be half there; a link that is down or off its bridge is put back by making it
    // anew.
    let on_bridge = outer
        .as_ref()
        .is_some_and(|link| link.up && link.controller == Some(bridge));
    if !on_bridge || inner.is_none() {
        if let Some(outer) = outer {
            if !outer.marked && outer.controller != Some(bridge) {
                let taken = io::Error::from(io::ErrorKind::AlreadyExists);
                let what = format!("use the link {name}: it is not Tank's");
                return Err(tank_sys::Error::new(what, taken));
            }
            routes.delete(outer.index)?;
        }
        routes.add_veth(
            name,
            (bridge, link.group),
            (&link.name, link.mac, link.mtu),
            net,
        )?;
        inner = inside.link(&link.name)?;
    } else if let Some(outer) =
        outer.filter(|outer| outer.group != link.group || !outer.is_pods_port())
    {
        // Left by an older Tank, or changed by somebody.
        routes.carry_out(vec![Request::set_port(outer.index, link.group)])?;
    }
    let inner = inner.ok_or_else(|| missing("find the pod's link"))?;
    let index = inner.index;
    if inner.mac != link.mac {
        inside.carry_out(vec![Request::set_mac(index, link.mac)])?;
    }
    if inner.mtu != link.mtu {
        let outer = routes.link(name)?;
        let outer = outer.map(|outer| Request::set_mtu(outer.index, link.mtu));
        routes.carry_out(outer.into_iter().collect())?;
        inside.carry_out(vec![Request::set_mtu(index, link.mtu)])?;
    }
    Ok(index)
}

/// Makes Tank's own tables hold these rules. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn ensure_firewall(table: &Table) -> Result<(), Error> {
    Ok(rules::ensure(table)?)
}

/// Removes Tank's own tables. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn remove_firewall() -> Result<(), Error> {
    Ok(rules::remove()?)
}

/// Ends flows of UDP. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn end_flows(
    routes: &Routes,
    flows: &BTreeSet<Flows>,
    opened: &BTreeSet<Port>,
) -> Result<(), Error> {
    for of in flows {
        let is_over = |found: Flow| found.to.is_some_and(|to| of.has(found.asked, to));
        conntrack::end_udp(Some(of.to), &is_over)?;
    }
    if opened.is_empty() {
        return Ok(());
    }
    let own = routes.own_addresses()?;
    let is_opened =
        |found: Flow| found.to.is_none() && Port::among(opened, found.asked, &own).is_some();
    Ok(conntrack::end_udp(None, &is_opened)?)
}
