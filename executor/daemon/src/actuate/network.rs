//! The bridge, the pods' links to it, and the rules.

use super::{Actuator, blocking};
use crate::{
    pods::{Shim, fail, failure, link_name},
    rules,
    sysctls::Record,
};
use std::{collections::BTreeMap, io, sync::Arc};
use tank_model::Name;
use tank_plan::{
    observed::ChangedSetting,
    target::{Bridge, PodLink, Table},
};
use tank_proto::shim::Failure;
use tank_sys::route::{Request, Routes};

/// The index of the loopback link: it is the first that the kernel makes in a network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// The name of a pod's link inside.
const INNER_LINK: &str = "eth0";

/// Makes the bridge as it should be, and the host's settings with it. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn ensure_bridge(routes: &Routes, record: &Record, bridge: &Bridge) -> Result<(), Failure> {
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
    ensure().map_err(|e| failure(&e))?;
    settings.iter().try_for_each(|setting| {
        let name = || format!("set {}", setting.path.replace('/', "."));
        record.set(setting).map_err(|e| fail(name(), e))
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
) -> Result<(), Failure> {
    let link = routes.link(name).map_err(|e| failure(&e))?;
    if let Some(link) = link.filter(|link| link.marked) {
        routes.delete(link.index).map_err(|e| failure(&e))?;
    }
    record
        .restore(restore)
        .map_err(|e| fail("give back the host's settings", e))
}

/// Sets up the loopback of a pod that gets no link.
///
/// # Errors
/// When the pod can't be entered, or what the kernel gives.
pub async fn set_loopback_up(shim: &Shim) -> Result<(), Failure> {
    let routes = shim.routes().await?;
    routes
        .carry_out(vec![Request::set_up(LOOPBACK)])
        .map_err(|e| failure(&e))
}

/// Makes a pod's link, its addresses and its routes as they should be.
///
/// # Errors
/// When the pod can't be entered, or what the kernel gives.
pub async fn ensure_network(
    actuator: &Actuator,
    pod: &Name,
    link: &PodLink,
) -> Result<(), Failure> {
    let shim = actuator.pods.get(pod);
    let shim = shim.ok_or_else(|| fail("connect a pod", "its shim is gone"))?;
    let name = link_name(shim.pid().await?);
    shim.routes().await?;
    let (routes, link) = (Arc::clone(&actuator.routes), link.clone());
    let connect = move || connect(&routes, &shim, &name, &link).map_err(|e| failure(&e));
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
    } else if let Some(outer) = outer.filter(|outer| outer.group != link.group) {
        // Left by an older Tank, or changed by somebody.
        routes.carry_out(vec![Request::set_group(outer.index, link.group)])?;
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

/// Puts rules in place of whatever Tank's own tables hold. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn ensure_firewall(table: &Table) -> Result<(), Failure> {
    rules::replace(table).map_err(|e| failure(&e))
}

/// Removes Tank's own tables. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn remove_firewall() -> Result<(), Failure> {
    rules::remove().map_err(|e| failure(&e))
}
