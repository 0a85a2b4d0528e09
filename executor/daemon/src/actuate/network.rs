//! The bridge, the pods' links to it, and the rules.

use super::{Error, blocking};
use crate::{
    pods::{Shim, link_name},
    rules,
    sysctls::Record,
};
use std::{collections::BTreeMap, io, sync::Arc};
use tank_plan::{
    observed::ChangedSetting,
    target::{Bridge, PodLink, Table},
};
use tank_sys::route::{Request, Routes};

/// The index of the loopback link: it is the first that the kernel makes in a network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// The name of a pod's link inside.
const INNER_LINK: &str = "eth0";

/// Makes the bridge as it should be, and the host's settings with it. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn ensure_bridge(routes: &Routes, record: &Record, bridge: &Bridge) -> Result<(), Error> {
    let Bridge {
        name,
        addresses,
        settings,
    } = bridge;
    let ensure = || {
        let index = routes.ensure_bridge(name, addresses)?;
        routes.carry_out(
            addresses
                .iter()
                .map(|own| Request::address(index, *own))
                .collect(),
        )
    };
    ensure()?;
    settings.iter().try_for_each(|setting| {
        record.set(setting).map_err(|source| Error::SetSetting {
            setting: setting.path.replace('/', "."),
            source,
        })
    })
}

/// Removes the bridge, if it is Tank's, and gives back what was changed of the host's settings.
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

/// Sets up the loopback of a pod that gets no link.
///
/// # Errors
/// When the pod can't be entered, or what the kernel gives.
pub async fn set_loopback_up(shim: &Shim) -> Result<(), Error> {
    let routes = shim.routes().await?;
    Ok(routes.carry_out(vec![Request::set_up(LOOPBACK)])?)
}

/// Makes a pod's link, its addresses and its routes as they should be.
///
/// # Errors
/// When the pod can't be entered, or what the kernel gives.
pub async fn ensure_network(
    routes: &Arc<Routes>,
    shim: Arc<Shim>,
    link: &PodLink,
) -> Result<(), Error> {
    let name = link_name(shim.pid().await?);
    shim.routes().await?;
    let (routes, link) = (Arc::clone(routes), link.clone());
    let connect = move || Ok(connect(&routes, &shim, &name, &link)?);
    blocking("connect a pod", connect).await
}

fn connect(
    routes: &Routes,
    shim: &Shim,
    name: &str,
    link: &PodLink,
) -> Result<(), tank_sys::Error> {
    let missing = |what: &str| tank_sys::Error::new(what, io::Error::from(io::ErrorKind::NotFound));
    let (Some(inside), Some(net)) = (shim.known_routes(), shim.known_network()) else {
        return Err(missing("enter the pod's network: it uses the host's"));
    };
    let bridge = routes.ensure_bridge(&link.bridge, &link.bridge_addresses)?;
    let outer = routes.link(name)?;
    let mut inner = inside.link(INNER_LINK)?;
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
            (INNER_LINK, link.mac, link.mtu),
            net,
        )?;
        inner = inside.link(INNER_LINK)?;
    } else if let Some(outer) = outer.filter(|outer| outer.group != link.group || !outer.hairpin) {
        // Left by an older Tank, or changed by somebody.
        routes.carry_out(vec![Request::set_port(outer.index, link.group)])?;
    }
    let inner = inner.ok_or_else(|| missing("find the pod's link"))?;
    let index = inner.index;
    if inner.mtu != link.mtu {
        let outer = routes.link(name)?;
        let outer = outer.map(|outer| Request::set_mtu(outer.index, link.mtu));
        routes.carry_out(outer.into_iter().collect())?;
        inside.carry_out(vec![Request::set_mtu(index, link.mtu)])?;
    }
    inside.remove_other_default_routes(&link.gateways)?;
    let mut requests = vec![Request::set_up(LOOPBACK), Request::set_up(index)];
    requests.extend(
        link.addresses
            .iter()
            .map(|address| Request::address(index, *address)),
    );
    requests.extend(link.gateways.iter().copied().map(Request::default_route));
    inside.carry_out(requests)
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
