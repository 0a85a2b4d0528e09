//! Links, addresses and routes over rtnetlink, in whichever network namespace the socket was
//! opened.
//!
//! A veth pair is made with both ends where they belong: the peer's namespace is named in the
//! `RTM_NEWLINK` itself. Made here and moved later, a pair costs thirty times as much (an RCU grace
//! period), and so does deleting one: links die with their namespace. What belongs together goes to
//! the kernel in one packet ([`Routes::carry_out`]).
//!
//! Every call is blocking, for as long as somebody else holds the kernel's one lock on all of this
//! (`rtnl`).

mod bridge;
mod counters;
mod link;
mod nic;
mod reserved;

use bridge::without_addresses;
pub use counters::Counters;
use link::read_link;
pub use link::{Link, LinkKind};
pub use nic::{Macvlan, Route, is_down};
pub use reserved::Reserved;

use crate::{
    Context, Error, Result,
    netlink::{Refused, Socket},
};
use ipnet::{IpNet, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, ParseableParametrized};
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::{
    AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
        link::{LinkAttribute, LinkExtentMask, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
    },
};
use rustix::io::Errno;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

/// How the hardware addresses of Tank's links on the host begin: locally administered, and "tk".
/// The one mark of a link that the kernel takes in the request that makes it, so no link of Tank's
/// ever exists without it.
pub const MARK: [u8; 3] = [0x02, 0x74, 0x6b];

/// How those begin that are ports of a bridge that is not Tank's: as [`MARK`], but high, since a
/// bridge without an address of its own takes the lowest of its ports' (`br_stp_recalculate_bridge_id`).
pub const PORT_MARK: [u8; 3] = [0xfe, 0x74, 0x6b];

/// `RTM_NEWLINK` and `RTM_NEWROUTE` of rtnetlink(7).
const NEWLINK: u16 = 16;
const NEWROUTE: u16 = 24;

/// A socket to one network namespace's routing tables.
#[derive(Debug)]
pub struct Routes(Socket);

/// Something to be changed, and what it is for.
#[derive(Debug)]
pub struct Request {
    what: String,
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    /// Sets a link up.
    pub fn set_up(index: u32) -> Self {
        let message = LinkUnspec::new_with_index(index).up().build();
        Self {
            what: "set a link up".to_owned(),
            message: RouteNetlinkMessage::SetLink(message),
            flags: 0,
        }
    }

    /// Sets a link of this hardware address up with the link-local address that the kernel would give
    /// it, without its announcement, a packet to everybody on the network. Only where there is IPv6.
    pub fn set_up_quietly(index: u32, mac: [u8; 6]) -> Vec<Self> {
        let quiet = LinkMessageBuilder::<LinkUnspec>::new()
            .index(index)
            .append_extra_attribute(without_addresses())
            .build();
        let quiet = Self {
            what: "keep a link quiet".to_owned(),
            message: RouteNetlinkMessage::SetLink(quiet),
            flags: 0,
        };
        let local = link_local(mac);
        vec![quiet, Self::set_up(index), Self::address(index, local)]
    }

    /// Ensures an address. IPv6 skips duplicate address detection: Tank hands each address out
    /// once.
    pub fn address(index: u32, address: IpNet) -> Self {
        let message = match address.addr() {
            IpAddr::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(index)
                .address(v4, address.prefix_len())
                .build(),
            IpAddr::V6(v6) => {
                let build = AddressMessageBuilder::<Ipv6Addr>::new()
                    .index(index)
                    .address(v6, address.prefix_len());
                let mut message = build.build();
                message.header.flags |= AddressHeaderFlags::Nodad;
                message
            }
        };
        let message = RouteNetlinkMessage::NewAddress(message);
        Self {
            what: format!("add the address {address}"),
            message,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        }
    }

    /// Ensures the default route through `gateway`.
    pub fn default_route(gateway: IpAddr) -> Self {
        let message: RouteMessage = match gateway {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(v4).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(v6).build(),
        };
        let message = RouteNetlinkMessage::NewRoute(message);
        let what = format!("route everything through {gateway}");
        Self {
            what,
            message,
            flags: NLM_F_CREATE | NLM_F_REPLACE,
        }
    }
}

impl Routes {
    /// Opens a socket in the caller's network namespace.
    ///
    /// # Errors
    /// What `socket(2)` gives.
    pub fn here() -> Result<Self> {
        Ok(Self(
            Socket::open(NETLINK_ROUTE)
                .doing(|| "open a route socket")?
                .strict(),
        ))
    }

    /// Takes over a socket of [`sockets`].
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(Socket::from_fd(fd))
    }

    /// Carries requests out, in their order, all of them in one packet.
    ///
    /// # Errors
    /// What the kernel answers to the first it refuses; those behind it are carried out all the
    /// same.
    pub fn carry_out(&self, requests: Vec<Request>) -> Result<()> {
        let (mut names, mut messages) = (Vec::new(), Vec::new());
        for request in requests {
            names.push(request.what);
            messages.push((request.message, request.flags));
        }
        self.0
            .request(messages)
            .map_err(|Refused { index, error }| {
                Error::new(names.into_iter().nth(index).unwrap_or_default(), error)
            })
    }

    /// All links.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn links(&self) -> Result<Vec<Link>> {
        let request = RouteNetlinkMessage::GetLink(without_statistics(LinkMessage::default()));
        let links = self
            .0
            .dump(request, |links: &mut Vec<Link>, kind, payload| {
                if kind == NEWLINK {
                    links.extend(read_link(payload));
                }
            });
        links.doing(|| "list the links")
    }

    /// The link called `name`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut found = None;
        let asked = LinkMessageBuilder::<LinkUnspec>::new().name(name).build();
        let request = RouteNetlinkMessage::GetLink(without_statistics(asked));
        match self.0.get(request, |_, payload| found = read_link(payload)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            other => other
                .doing(|| format!("look for the link {name}"))
                .map(|()| found),
        }
    }

    /// The addresses of the link with `index`, without link-local ones; none of one that is gone.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn addresses(&self, index: u32) -> Result<BTreeSet<IpNet>> {
        let mut asked = AddressMessage::default();
        asked.header.index = index;
        let addresses = self.0.dump(
            RouteNetlinkMessage::GetAddress(asked),
            |addresses: &mut BTreeSet<IpNet>, kind, payload| {
                if let Ok(RouteNetlinkMessage::NewAddress(message)) =
                    RouteNetlinkMessage::parse_with_param(payload, kind)
                    && message.header.index == index
                {
                    addresses.extend(address(&message));
                }
            },
        );
        match addresses {
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
                Ok(BTreeSet::new())
            }
            addresses => addresses.doing(|| "list the addresses"),
        }
    }

    /// The addresses of all links.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn own_addresses(&self) -> Result<BTreeSet<IpAddr>> {
        let addresses = self.0.dump(
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            |addresses: &mut BTreeSet<IpAddr>, kind, payload| {
                if let Ok(RouteNetlinkMessage::NewAddress(message)) =
                    RouteNetlinkMessage::parse_with_param(payload, kind)
                {
                    addresses.extend(own_address(&message));
                }
            },
        );
        addresses.doing(|| "list the addresses")
    }

    /// Deletes a link.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn delete(&self, index: u32) -> Result<()> {
        let message = RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build());
        self.carry_out(vec![Request {
            what: "delete a link".to_owned(),
            message,
            flags: 0,
        }])
    }

    /// Deletes the default routes through other gateways than `gateways`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn remove_other_default_routes(&self, gateways: &BTreeSet<IpAddr>) -> Result<()> {
        let others = self
            .default_routes()?
            .into_iter()
            .filter(|(gateway, _)| !gateways.contains(gateway));
        let remove = |(gateway, route): (IpAddr, RouteMessage)| Request {
            what: format!("remove the route through {gateway}"),
            message: RouteNetlinkMessage::DelRoute(route),
            flags: 0,
        };
        self.carry_out(others.map(remove).collect())
    }

    /// The gateways of the default routes, of both families.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn default_gateways(&self) -> Result<BTreeSet<IpAddr>> {
        Ok(self
            .default_routes()?
            .into_iter()
            .map(|(gateway, _)| gateway)
            .collect())
    }

    /// The links whose default route of IPv6 a router advertised, by their numbers.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn advertised(&self) -> Result<BTreeSet<u32>> {
        let oif = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        };
        let routes = self.default_routes()?.into_iter().map(|(_, route)| route);
        let advertised = routes.filter(|route| route.header.protocol == RouteProtocol::Ra);
        let links = advertised.filter_map(|route| route.attributes.iter().find_map(oif));
        Ok(links.collect())
    }

    fn default_routes(&self) -> Result<Vec<(IpAddr, RouteMessage)>> {
        let gateway = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
            _ => None,
        };
        // Of no family: of every one.
        let routes = self.0.dump(
            RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            |found: &mut Vec<(IpAddr, RouteMessage)>, kind, payload| {
                // The second byte of a `struct rtmsg` is the length of the destination: most routes
                // have one.
                if kind == NEWROUTE
                    && payload.get(1) == Some(&0)
                    && let Ok(RouteNetlinkMessage::NewRoute(route)) =
                        RouteNetlinkMessage::parse_with_param(payload, kind)
                {
                    found.extend(
                        route
                            .attributes
                            .iter()
                            .find_map(gateway)
                            .map(|gateway| (gateway, route.clone())),
                    );
                }
            },
        );
        routes.doing(|| "list the routes")
    }
}

/// Two sockets of the caller's network namespace, for [`Routes::from_fd`] and [`crate::watch::Changes::from_fd`]
/// of another process.
///
/// # Errors
/// What `socket(2)` and `bind(2)` give.
pub fn sockets() -> Result<[OwnedFd; 2]> {
    Ok([Routes::here()?.0.into_fd(), crate::watch::route_socket()?])
}

fn without_statistics(mut message: LinkMessage) -> LinkMessage {
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// The host's own: of a link to one other host, `IFA_ADDRESS` is that of the other.
/// The link-local address that is made of a hardware address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> IpNet {
    let bits = [
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ];
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(bits), 64))
}

fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let any = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let mut all = message.attributes.iter();
    all.find_map(local)
        .or_else(|| message.attributes.iter().find_map(any))
}

fn address(message: &AddressMessage) -> Option<IpNet> {
    let found = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
    let address = IpNet::new(found?, message.header.prefix_len).ok()?;
    let link_local = matches!(address.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!link_local).then_some(address)
}
