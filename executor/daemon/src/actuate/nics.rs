//! Interfaces of pods' own, and the host's links to them.

use super::{blocking, error::Error as StepError, network::LOOPBACK};
use crate::{
    pods::{Shim, port_name},
    sysctls,
};
use std::{collections::BTreeSet, io, net::IpAddr, os::fd::BorrowedFd, sync::Arc, time::Duration};
use tank_model::spec::NicMode;
use tank_plan::target::{HostLink, PodNic, nics::HOST_LINK_GROUP};
use tank_sys::{
    Error,
    route::{Link, LinkKind, Macvlan, Request, Route, Routes, is_down},
};
use tokio::time::{Instant, sleep};

/// How long the interface of a pod before may take to go with its namespace, which the kernel does
/// after the last process: until then its hardware address is taken.
const GOING_LIMIT: Duration = Duration::from_secs(5);

/// How often it is tried meanwhile.
const GOING_POLL: Duration = Duration::from_millis(20);

/// Makes an interface of a pod, its addresses and its routes as they should be.
///
/// # Errors
/// When the pod can't be entered, or what the kernel gives.
pub async fn ensure_nic(
    routes: &Arc<Routes>,
    shim: Arc<Shim>,
    nic: &PodNic,
) -> Result<(), StepError> {
    shim.routes().await?;
    let deadline = Instant::now() + GOING_LIMIT;
    loop {
        let (routes, shim) = (Arc::clone(routes), Arc::clone(&shim));
        let nic = nic.clone();
        let once = move || Ok(connect(&routes, &shim, &nic));
        match blocking("connect a pod", once).await? {
            Err(error) if is_taken(&error) && Instant::now() < deadline => {
                sleep(GOING_POLL).await;
            }
            other => return Ok(other?),
        }
    }
}

/// Whether a sibling on the parent has the hardware address (`macvlan_open`).
fn is_taken(error: &Error) -> bool {
    let errno = error.errno().map(io::Error::from_raw_os_error);
    errno.is_some_and(|errno| errno.kind() == io::ErrorKind::AddrInUse)
}

fn error(what: String, kind: io::ErrorKind) -> Error {
    Error::new(what, io::Error::from(kind))
}

/// The link of the host that is meant, which has to be there and up.
fn parent(routes: &Routes, name: &str) -> Result<Link, Error> {
    let found = routes.link(name)?;
    let what = format!("use the host's link {name}: it is not there any more");
    found.ok_or_else(|| error(what, io::ErrorKind::NotFound))
}

fn connect(routes: &Routes, shim: &Shim, nic: &PodNic) -> Result<(), Error> {
    let (Some(inside), Some(net)) = (shim.known_routes(), shim.known_network()) else {
        let what = "enter the pod's network: it uses the host's".to_owned();
        return Err(error(what, io::ErrorKind::NotFound));
    };
    let parent = parent(routes, &nic.parent)?;
    let mut found = inside.link(&nic.name)?;
    let outer = match nic.mode {
        NicMode::Bridge => routes.link(&port_name(nic.mac))?,
        NicMode::Macvlan => None,
    };
    let fits = found.as_ref().is_some_and(|found| match &outer {
        None => found.kind == LinkKind::Macvlan && found.below == Some(parent.index),
        Some(outer) => {
            let is_port = outer.up && outer.controller == Some(parent.index);
            is_port && found.kind == LinkKind::Veth && found.below == Some(outer.index)
        }
    });
    if !fits {
        if let Some(other) = found {
            inside.delete(other.index)?;
        }
        make(routes, &parent, nic, net)?;
        found = inside.link(&nic.name)?;
    }
    let what = || format!("find the pod's interface {}", nic.name);
    let link = found.ok_or_else(|| error(what(), io::ErrorKind::NotFound))?;
    let announce = || {
        inside.await_running(&nic.name)?;
        if let NicMode::Bridge = nic.mode {
            routes.await_running(&port_name(nic.mac))?;
        }
        inside.carry_out(vec![Request::announce(link.index, nic.mac)])
    };
    let settled = settle(inside, &link, nic).and_then(|()| announce());
    settled.map_err(|error| match is_down(&error) {
        true => Error::new(
            format!(
                "set {} up: the host's link {} is down",
                nic.name, nic.parent
            ),
            io::Error::from(io::ErrorKind::NetworkDown),
        ),
        false => error,
    })
}

/// Makes an interface that is not there, in the pod's network `net`.
fn make(routes: &Routes, parent: &Link, nic: &PodNic, net: BorrowedFd<'_>) -> Result<(), Error> {
    match nic.mode {
        NicMode::Macvlan => {
            let link = Macvlan {
                name: &nic.name,
                parent: parent.index,
                mac: nic.mac,
                mtu: nic.mtu,
                group: 0,
            };
            routes.add_macvlan(link, Some(net))
        }
        NicMode::Bridge => {
            let port = port_name(nic.mac);
            // A pair that the pod before left, or whose other end somebody moved: it goes with this
            // end.
            if let Some(outer) = routes.link(&port)? {
                if !outer.marked {
                    let what = format!("use the link {port}: it is not Tank's");
                    return Err(error(what, io::ErrorKind::AlreadyExists));
                }
                routes.delete(outer.index)?;
            }
            let peer = (nic.name.as_str(), nic.mac, nic.mtu);
            routes.add_port(&port, parent.index, peer, net)
        }
    }
}

/// The addresses and routes of a pod's interface that is there.
fn settle(inside: &Routes, link: &Link, nic: &PodNic) -> Result<(), Error> {
    let index = link.index;
    let mut requests = vec![Request::set_up(LOOPBACK)];
    if link.mac != nic.mac {
        requests.push(Request::set_mac(index, nic.mac));
    }
    if link.mtu != nic.mtu {
        requests.push(Request::set_mtu(index, nic.mtu));
    }
    let addresses = inside.addresses(index)?;
    let others = addresses.difference(&nic.addresses);
    requests.extend(others.map(|other| Request::remove_address(index, *other)));
    requests.push(Request::set_up(index));
    let own = nic.addresses.iter();
    requests.extend(own.map(|own| Request::address(index, *own)));
    inside.carry_out(requests)?;
    let wanted: BTreeSet<Route> = nic
        .routes
        .iter()
        .map(|route| Route {
            to: route.to,
            via: Some(route.via),
            source: None,
        })
        .collect();
    settle_routes(inside, index, &wanted)
}

fn settle_routes(routes: &Routes, index: u32, wanted: &BTreeSet<Route>) -> Result<(), Error> {
    let found = routes.routes_by(index)?;
    let others = found.difference(wanted);
    let remove = others.map(|other| Request::remove_route(index, *other));
    let missing = wanted.difference(&found);
    let add = missing.map(|missing| Request::route(index, *missing));
    let requests: Vec<Request> = remove.chain(add).collect();
    match requests.is_empty() {
        true => Ok(()),
        false => routes.carry_out(requests),
    }
}

/// Makes the host's own link to pods as it should be. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn ensure_host_link(routes: &Routes, link: &HostLink) -> Result<(), StepError> {
    let found = found_or_made(routes, link)?;
    let name = &link.name;
    // Before it is up: a router of its network has nothing to say to it.
    routes.keep_quiet(name)?;
    sysctls::set_of_host_link(name)?;
    let index = found.index;
    let mut requests = Vec::new();
    if found.mac != link.mac {
        requests.push(Request::set_mac(index, link.mac));
    }
    let addresses = routes.addresses(index)?;
    let others = addresses.difference(&link.addresses);
    requests.extend(others.map(|other| Request::remove_address(index, *other)));
    let own = link.addresses.iter();
    requests.extend(own.map(|own| Request::shared_address(index, *own)));
    requests.push(Request::set_up(index));
    routes.carry_out(requests)?;
    let wanted = link.routes.iter();
    let wanted = wanted.map(|route| Route {
        to: route.to.into(),
        via: None,
        source: route.source.filter(IpAddr::is_ipv4),
    });
    Ok(settle_routes(routes, index, &wanted.collect())?)
}

/// The host link that is there, on its parent and in its group, or a new one.
fn found_or_made(routes: &Routes, link: &HostLink) -> Result<Link, Error> {
    let parent = parent(routes, &link.parent)?;
    let name = &link.name;
    if let Some(found) = routes.link(name)? {
        if !found.marked {
            let what = format!("use the link {name}: it is not Tank's; rename or remove it");
            return Err(error(what, io::ErrorKind::AlreadyExists));
        }
        let on_parent = found.kind == LinkKind::Macvlan && found.below == Some(parent.index);
        if on_parent && found.group == HOST_LINK_GROUP {
            return Ok(found);
        }
        routes.delete(found.index)?;
    }
    let new = Macvlan {
        name,
        parent: parent.index,
        mac: link.mac,
        mtu: parent.mtu,
        group: HOST_LINK_GROUP,
    };
    routes.add_macvlan(new, None)?;
    let what = || format!("find the link {name}");
    let found = routes.link(name)?;
    found.ok_or_else(|| error(what(), io::ErrorKind::NotFound))
}

/// Removes a host link, if it is Tank's. Blocking.
///
/// # Errors
/// What the kernel gives.
pub fn remove_host_link(routes: &Routes, name: &str) -> Result<(), StepError> {
    if let Some(link) = routes.link(name)?.filter(|link| link.marked) {
        routes.delete(link.index)?;
    }
    Ok(())
}
