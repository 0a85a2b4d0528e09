//! Interfaces on a link of the host, and the routes that go by one link.

use super::{NEWROUTE, Request, Routes, bridge::without_addresses};
use crate::{Context, Error, Result, netlink::Refused};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, ParseableParametrized};
use rtnetlink::{
    AddressMessageBuilder, LinkMacVlan, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::MacVlanMode,
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
            RouteType,
        },
    },
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

/// A route of the main table that leaves by one link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// Where it leads; a default route's is of length 0.
    pub to: IpNet,
    /// The next hop. None: whom it leads to is on the link.
    pub via: Option<IpAddr>,
    /// The source of what is sent by it, where nobody chose one.
    pub source: Option<IpAddr>,
}

/// A macvlan that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Macvlan<'a> {
    /// Its name, where it will be.
    pub name: &'a str,
    /// The link that it sits on, in the namespace of the socket.
    pub parent: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The longest packet it takes.
    pub mtu: u32,
    /// Its group.
    pub group: u32,
}

impl Request {
    /// Gives a link another hardware address.
    pub fn set_mac(index: u32, mac: [u8; 6]) -> Self {
        let message = LinkUnspec::new_with_index(index)
            .address(mac.to_vec())
            .build();
        Self {
            what: "set a link's hardware address".to_owned(),
            message: RouteNetlinkMessage::SetLink(message),
            flags: 0,
        }
    }

    /// Announces the addresses of a link of this hardware address, so that whoever knew them by another
    /// one asks no more there; what is sent before the link [runs](Routes::await_running) is lost. The
    /// kernel does so when the hardware address is set, be it the same, in a
    /// network with `arp_notify` and `ndisc_notify` of its ip-sysctl page, which those of pods are made with.
    pub fn announce(index: u32, mac: [u8; 6]) -> Self {
        Self {
            what: "announce a link's addresses".to_owned(),
            ..Self::set_mac(index, mac)
        }
    }

    /// Limits the packets of a link.
    pub fn set_mtu(index: u32, mtu: u32) -> Self {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        Self {
            what: format!("set a link's MTU to {mtu}"),
            message: RouteNetlinkMessage::SetLink(message),
            flags: 0,
        }
    }

    /// Removes an address.
    pub fn remove_address(index: u32, address: IpNet) -> Self {
        Self {
            what: format!("remove the address {address}"),
            message: RouteNetlinkMessage::DelAddress(address_message(index, address)),
            flags: 0,
        }
    }

    /// Ensures an address by which nothing is routed, and of which nobody is asked whether it is
    /// taken: another link of this host has it, too.
    pub fn shared_address(index: u32, address: IpNet) -> Self {
        let mut message = address_message(index, address);
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        message.attributes.push(AddressAttribute::Flags(flags));
        Self {
            what: format!("add the address {address}"),
            message: RouteNetlinkMessage::NewAddress(message),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        }
    }

    /// Ensures a route by a link.
    pub fn route(index: u32, route: Route) -> Self {
        Self {
            what: format!("route {}", route.to),
            message: RouteNetlinkMessage::NewRoute(route_message(index, route)),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        }
    }

    /// Removes a route by a link.
    pub fn remove_route(index: u32, route: Route) -> Self {
        let mut message = route_message(index, route);
        // Whoever made it.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        Self {
            what: format!("remove the route to {}", route.to),
            message: RouteNetlinkMessage::DelRoute(message),
            flags: 0,
        }
    }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    match address.addr() {
        IpAddr::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(v4, address.prefix_len())
            .build(),
        IpAddr::V6(v6) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(v6, address.prefix_len())
            .build(),
    }
}

fn route_message(index: u32, Route { to, via, source }: Route) -> RouteMessage {
    let as_attribute = |address| match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    let mut message = match to.addr() {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, to.prefix_len())
            .output_interface(index)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, to.prefix_len())
            .output_interface(index)
            .build(),
    };
    let attributes = &mut message.attributes;
    attributes.extend(via.map(|via| RouteAttribute::Gateway(as_attribute(via))));
    attributes.extend(source.map(|source| RouteAttribute::PrefSource(as_attribute(source))));
    if via.is_none() && to.addr().is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message
}

/// The longest wait for a link that is up to carry frames: where nothing is plugged in it never does.
const RUNNING_LIMIT: Duration = Duration::from_millis(200);

/// How often it is looked at meanwhile. Since Linux 6.8 the first look is enough.
const RUNNING_POLL: Duration = Duration::from_millis(2);

impl Routes {
    /// Waits until a link that was set up carries frames, or is gone, for two hundred milliseconds at
    /// most. Blocking.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn await_running(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + RUNNING_LIMIT;
        while self.link(name)?.is_some_and(|link| !link.running) && Instant::now() < deadline {
            std::thread::sleep(RUNNING_POLL);
        }
        Ok(())
    }

    /// Makes a macvlan whose siblings on the same parent reach it directly, here or in the namespace
    /// `net`: down, and without addresses that it would make itself.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_macvlan(&self, link: Macvlan<'_>, net: Option<BorrowedFd<'_>>) -> Result<()> {
        let Macvlan {
            name,
            parent,
            mac,
            mtu,
            group,
        } = link;
        let mut build = LinkMacVlan::new(name, parent, MacVlanMode::Bridge)
            .address(mac.to_vec())
            .mtu(mtu)
            .link_group(group);
        if let Some(net) = net {
            build = build.setns_by_fd(net.as_raw_fd());
        }
        let message = RouteNetlinkMessage::NewLink(build.build());
        self.0
            .request(vec![(message, NLM_F_CREATE | NLM_F_EXCL)])
            .map_err(|refused| refused.error)
            .doing(|| format!("create the link {name}"))
    }

    /// Keeps a link from making itself an address of IPv6.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn keep_quiet(&self, name: &str) -> Result<()> {
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .name(name)
            .append_extra_attribute(without_addresses())
            .build();
        match self
            .0
            .request(vec![(RouteNetlinkMessage::SetLink(message), 0)])
        {
            // Without IPv6 there is nothing to keep from it.
            Err(Refused { error, .. }) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                Ok(())
            }
            other => other
                .map_err(|refused| refused.error)
                .doing(|| format!("keep the link {name} without addresses")),
        }
    }

    /// The routes of the main table by the link with `index`, of both families, that lead to
    /// somebody: without those that the kernel makes of addresses.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn routes_by(&self, index: u32) -> Result<BTreeSet<Route>> {
        let mut all = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut asked = RouteMessage::default();
            asked.header.address_family = family;
            asked.attributes.push(RouteAttribute::Oif(index));
            let found = self.0.dump(
                RouteNetlinkMessage::GetRoute(asked),
                |found: &mut Vec<Route>, kind, payload| {
                    if kind == NEWROUTE
                        && let Ok(RouteNetlinkMessage::NewRoute(route)) =
                            RouteNetlinkMessage::parse_with_param(payload, kind)
                    {
                        found.extend(read_route(&route, index));
                    }
                },
            );
            match found {
                // The host has no IPv6.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                other => all.extend(other.doing(|| "list the routes of a link")?),
            }
        }
        Ok(all)
    }

    /// The links of the default routes, by their numbers: those of IPv4 first, and of each family
    /// the one that is used first.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn default_links(&self) -> Result<Vec<u32>> {
        // Of no family: of every one.
        let found = self.0.dump(
            RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            |found: &mut Vec<(bool, u32, u32)>, kind, payload| {
                // As in `default_routes`: most routes have a destination.
                if kind == NEWROUTE
                    && payload.get(1) == Some(&0)
                    && let Ok(RouteNetlinkMessage::NewRoute(route)) =
                        RouteNetlinkMessage::parse_with_param(payload, kind)
                {
                    found.extend(default_link(&route));
                }
            },
        );
        let mut found = found.doing(|| "list the default routes")?;
        found.sort_unstable();
        Ok(found.into_iter().map(|(.., link)| link).collect())
    }
}

fn is_plain(route: &RouteMessage) -> bool {
    route.header.table == RouteHeader::RT_TABLE_MAIN && route.header.kind == RouteType::Unicast
}

/// Whether it is of IPv6, its metric, its link.
fn default_link(route: &RouteMessage) -> Option<(bool, u32, u32)> {
    if !is_plain(route) {
        return None;
    }
    let (mut link, mut metric) = (None, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let is_v6 = route.header.address_family == AddressFamily::Inet6;
    Some((is_v6, metric, link?))
}

fn read_route(route: &RouteMessage, index: u32) -> Option<Route> {
    if !is_plain(route) || route.header.protocol == RouteProtocol::Kernel {
        return None;
    }
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::from(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::from(*v6)),
        _ => None,
    };
    let (mut to, mut via, mut source, mut by) = (None, None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(found) => to = address(found),
            RouteAttribute::Gateway(found) => via = address(found),
            RouteAttribute::PrefSource(found) => source = address(found),
            RouteAttribute::Oif(found) => by = Some(*found),
            _ => {}
        }
    }
    let to = to.unwrap_or(match route.header.address_family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    });
    let to = IpNet::new(to, route.header.destination_prefix_length).ok()?;
    (by == Some(index)).then_some(Route { to, via, source })
}

/// What the kernel gives when a link's parent is down (`macvlan_open`).
pub fn is_down(error: &Error) -> bool {
    error.errno() == Some(libc::ENETDOWN)
}
