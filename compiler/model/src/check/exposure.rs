//! What a pod could take from others on a network, if it were let.

use super::Pass;
use crate::spec::{Network, NicMode, Pod};
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};

/// With it a process makes links (capabilities(7)).
const NET_ADMIN: &str = "CAP_NET_ADMIN";

/// Why nothing is reached at an address, nor published: it is nobody's that packets come to by routing.
pub(super) fn no_destination(address: IpAddr) -> Option<&'static str> {
    let reserved = Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4);
    match address {
        _ if address.is_multicast() => Some("it is for groups"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("it is everybody's on a link"),
        IpAddr::V4(v4) if reserved.contains(&v4) => Some("it is nobody's (RFC 1112)"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 && !v4.is_unspecified() => {
            Some("it is nobody's (RFC 1122)")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("each of the host's links has a network of that name")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("it is an address of IPv4 in IPv6's clothes; write it as IPv4's")
        }
        _ => None,
    }
}

impl Pass<'_> {
    /// A macvlan sits on a link of the host. A process with `CAP_NET_ADMIN` can make another one
    /// there, of a kind that takes what is for the host, and for other pods, by the addresses that
    /// it is from.
    pub(super) fn administered_macvlans(&mut self, pod: &Pod) {
        let Network::Nics(nics) = &pod.network else {
            return;
        };
        let mut macvlans = nics.iter().filter(|(_, nic)| nic.mode == NicMode::Macvlan);
        let Some((nic, _)) = macvlans.next() else {
            return;
        };
        let processes = pod.processes();
        let mut admins = processes.filter(|(.., spec)| {
            spec.capabilities
                .add
                .iter()
                .any(|capability| capability == NET_ADMIN)
        });
        let Some((field, name, _)) = admins.next() else {
            return;
        };
        self.report(
            "tank::nic::admin",
            &[field, name.as_str(), "capabilities"],
            format!("a process with `{NET_ADMIN}` could take what is for others on the network of `{nic}`"),
            "drop the capability, or give the pod a port of a bridge (`mode = 'bridge`) in place of its macvlan",
        );
        self.relate(&["network", "nics", nic.as_str()], "its macvlan");
    }

    pub(super) fn published_at(&mut self, pod: &Pod) {
        for (name, publish) in &pod.publish {
            let found = publish.address.iter();
            let mut found = found.filter_map(|address| Some((address, no_destination(address)?)));
            if let Some((address, why)) = found.next() {
                self.report(
                    "tank::publish::address",
                    &["publish", name.as_str(), "address"],
                    format!("a port can't be published on {address}: {why}"),
                    "write an address of the host, or \"0.0.0.0\" or \"::\" for all of them",
                );
            }
        }
    }

    /// An interface can't have the address of the router that it is to reach.
    pub(super) fn own_gateways(&mut self, pod: &Pod) {
        let Network::Nics(nics) = &pod.network else {
            return;
        };
        for (name, nic) in nics {
            let own = |via: &IpAddr| nic.static_addresses().any(|own| own.addr() == *via);
            let gateway = nic.gateway.as_ref().map(|via| (via, vec!["gateway"]));
            let routes = nic.routes.iter();
            let routes = routes.map(|(route, to)| (&to.via, vec!["routes", route.as_str(), "via"]));
            for (via, field) in gateway
                .into_iter()
                .chain(routes)
                .filter(|(via, _)| own(via))
            {
                self.report(
                    "tank::nic::gateway",
                    &[&["network", "nics", name.as_str()][..], &field].concat(),
                    format!("{via} is the interface's own address"),
                    "a next hop is another host's: write the router's address, and give the pod one that is free",
                );
            }
        }
    }
}
