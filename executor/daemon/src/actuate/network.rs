//! The bridge, and the pods' links to it.

use super::{Actuator, blocking};
use crate::{
    pods::{Shim, fail, failure, link_name},
    settings::Settings,
    store::{StoreError, leases::Proposal},
};
use std::{collections::BTreeSet, fs, net::SocketAddr, sync::Arc};
use tank_model::{
    Graph, Name,
    spec::{Network, Protocol},
};
use tank_proto::shim::Failure;
use tank_sys::{
    nft::{Forward, Ruleset},
    route::{Cidr, Request},
};

/// The index of the loopback link: it is the first that the kernel makes in a network namespace.
const LOOPBACK: u32 = 1;

pub fn ensure_bridge(host: &Actuator) -> Result<(), Failure> {
    let name = &host.settings.config.bridge;
    let ensure = || {
        let index = host
            .routes
            .ensure_bridge(name, &host.settings.bridge_addresses())?;
        let addresses = host
            .settings
            .bridge_addresses()
            .into_iter()
            .map(|address| Request::address(index, address));
        host.routes.carry_out(addresses.collect())
    };
    ensure().map_err(|e| failure(&e))?;
    let mut settings = Vec::new();
    for network in &host.settings.config.networks {
        if network.address.is_ipv4() {
            settings.push("net/ipv4/ip_forward".to_owned());
            // Lets a port on 127.0.0.1 lead to a pod; the table's guard keeps pods from the host's
            // loopback.
            settings.push(format!("net/ipv4/conf/{name}/route_localnet"));
        } else {
            settings.push("net/ipv6/conf/all/forwarding".to_owned());
        }
    }
    for setting in settings {
        let path = format!("/proc/sys/{setting}");
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            continue;
        }
        fs::write(&path, "1").map_err(|e| fail(format!("set {}", setting.replace('/', ".")), e))?;
    }
    Ok(())
}

pub async fn set_loopback_up(shim: &Shim) -> Result<(), Failure> {
    shim.routes()
        .await?
        .carry_out(vec![Request::set_up(LOOPBACK)])
        .map_err(|e| failure(&e))
}

pub async fn ensure_network(host: &Arc<Actuator>, pod: &Name) -> Result<(), Failure> {
    let shim = host
        .pods
        .get(pod)
        .ok_or_else(|| fail("connect a pod", "its shim is gone"))?;
    let name = link_name(shim.pid().await?);
    shim.routes().await?;
    let (host, pod) = (Arc::clone(host), pod.clone());
    blocking("connect a pod", move || {
        let lease = host.lease(&pod).map_err(|e| fail("lease an address", e))?;
        let addresses = host
            .addresses(&pod)
            .map_err(|e| fail("lease an address", e))?;
        connect(&host, &shim, &name, lease, &addresses).map_err(|e| failure(&e))
    })
    .await
}

fn connect(
    host: &Actuator,
    shim: &Shim,
    name: &str,
    lease: u32,
    addresses: &BTreeSet<Cidr>,
) -> Result<(), tank_sys::Error> {
    let missing =
        |what: &str| tank_sys::Error::new(what, std::io::Error::from(std::io::ErrorKind::NotFound));
    let (Some(inside), Some(net)) = (shim.known_routes(), shim.known_network()) else {
        return Err(missing("enter the pod's network: it uses the host's"));
    };
    let bridge = host.routes.ensure_bridge(
        &host.settings.config.bridge,
        &host.settings.bridge_addresses(),
    )?;
    let outer = host.routes.link(name)?;
    let mut inner = inside.link("eth0")?;
    // A pair can't be half there; a link that is down or off its bridge is put back by making it
    // anew.
    let sound = outer
        .as_ref()
        .is_some_and(|link| link.up && link.controller == Some(bridge))
        && inner.is_some();
    if !sound {
        if let Some(link) = outer {
            if !link.marked && link.controller != Some(bridge) {
                let taken = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
                return Err(tank_sys::Error::new(
                    format!("use the link {name}: it is not Tank's"),
                    taken,
                ));
            }
            host.routes.delete(link.index)?;
        }
        // A pod keeps its hardware address with its lease, and neighbours their entry.
        host.routes
            .add_veth(name, bridge, "eth0", lease as u16, net)?;
        inner = inside.link("eth0")?;
    }
    let index = inner.ok_or_else(|| missing("find the pod's link"))?.index;
    let gateways: BTreeSet<_> = host
        .settings
        .bridge_addresses()
        .into_iter()
        .map(|cidr| cidr.address)
        .collect();
    inside.remove_other_default_routes(&gateways)?;
    let mut requests = vec![Request::set_up(LOOPBACK), Request::set_up(index)];
    requests.extend(
        addresses
            .iter()
            .map(|address| Request::address(index, *address)),
    );
    requests.extend(gateways.into_iter().map(Request::default_route));
    inside.carry_out(requests)
}

/// Removes the bridge, if it is Tank's.
pub fn remove_bridge(host: &Actuator) -> Result<(), Failure> {
    let link = host
        .routes
        .link(&host.settings.config.bridge)
        .map_err(|e| failure(&e))?;
    match link.filter(|link| link.marked) {
        Some(link) => host.routes.delete(link.index).map_err(|e| failure(&e)),
        None => Ok(()),
    }
}

/// Puts the rules in place of whatever Tank's table holds.
pub async fn ensure_firewall(host: &Actuator, graph: &Graph) -> Result<(), Failure> {
    let leases = Proposal::of(
        host.store.as_ref(),
        graph.pods().collect::<Vec<_>>().into_iter(),
    );
    let ruleset = leases.and_then(|leases| ruleset(&host.settings, graph, &leases));
    let Some(ruleset) = ruleset.map_err(|e| fail("work out the rules", e))? else {
        return Ok(());
    };
    let replace = move || tank_sys::nft::replace(&ruleset).map_err(|e| failure(&e));
    blocking("publish ports", replace).await
}

/// The nftables rules that a graph needs; none when no pod is on the bridge.
pub fn ruleset(
    settings: &Settings,
    graph: &Graph,
    leases: &Proposal,
) -> Result<Option<Ruleset>, StoreError> {
    let bridged = |pod: &&Name| {
        graph
            .sandbox(pod)
            .is_some_and(|(node, _)| node.network == Network::Bridge)
    };
    let mut forwards = Vec::new();
    let mut any = false;
    for pod in graph.pods().filter(bridged) {
        any = true;
        let addresses = settings.addresses_of(leases.get(pod)?);
        for (name, publish) in graph.published(pod) {
            let target = addresses
                .iter()
                .find(|cidr| cidr.address.is_ipv4() == publish.address.is_ipv4());
            let Some(target) = target else { continue };
            forwards.push(Forward {
                name: format!("{pod}/{name}"),
                address: publish.address,
                protocol: if publish.protocol == Protocol::Udp {
                    17
                } else {
                    6
                },
                port: publish.port,
                to: SocketAddr::new(target.address, publish.target()),
            });
        }
    }
    let (bridge, networks) = (
        settings.config.bridge.clone(),
        settings.config.networks.clone(),
    );
    Ok(any.then_some(Ruleset {
        bridge,
        networks,
        forwards,
    }))
}
