//! Links, addresses and routes over rtnetlink, in whichever network namespace the socket was opened.
//!
//! A veth pair is born with both ends where they belong: the peer's namespace is named in the `RTM_NEWLINK` itself.
//! Made here and moved later, a pair costs thirty times as much (an RCU grace period), and so does deleting one: links
//! die with their namespace.

use crate::{Context, Error, Result, namespace};
use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressHeaderFlags},
        link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
    str::FromStr,
};

/// An address and how many of its leading bits name the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no network, write for example \"10.90.0.0/16\"");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (address, prefix): (IpAddr, u8) =
            (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl Cidr {
    /// The network's `n`th address with its prefix. None: the network is smaller.
    pub fn nth(self, n: u32) -> Option<Self> {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let host_bits = 32 - u32::from(self.prefix);
                // The last address is the broadcast address.
                (u64::from(n) + 1 < 1 << host_bits).then_some(())?;
                let base = u32::from(v4) & u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::from(Ipv4Addr::from(base + n))
            }
            IpAddr::V6(v6) => {
                let host_bits = 128 - u32::from(self.prefix);
                (host_bits > 32 || u128::from(n) < 1 << host_bits).then_some(())?;
                let base = u128::from(v6) & u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::from(Ipv6Addr::from(base + u128::from(n)))
            }
        };
        Some(Self { address, prefix: self.prefix })
    }
}

/// A link as the kernel lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    /// The bridge it belongs to.
    pub controller: Option<u32>,
    /// Whether its hardware address begins with [`MARK`].
    pub marked: bool,
}

/// How the hardware addresses of Tank's links on the host begin: locally administered, and "tk". The one mark of a link
/// that the kernel takes in the request that makes it, so there is no moment at which one is without.
pub const MARK: [u8; 3] = [0x02, 0x74, 0x6b];

/// A socket to one network namespace's routing tables. Ends when dropped.
#[derive(Debug)]
pub struct Routes {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
    /// A socket lists one thing at a time: a second dump beside the first is `EBUSY` (`__netlink_dump_start`).
    listing: tokio::sync::Mutex<()>,
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Says what was attempted; netlink errors carry the errno.
trait Netlink<T> {
    fn asking(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Netlink<T> for std::result::Result<T, rtnetlink::Error> {
    fn asking(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let source = match &error {
                rtnetlink::Error::NetlinkError(message) => message.to_io(),
                _ => io::Error::other(error.to_string()),
            };
            Error::new(what(), source)
        })
    }
}

impl Routes {
    /// Opens a socket in the caller's network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// What `socket(2)` gives.
    pub fn here() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().doing(|| "open a route socket")?;
        Ok(Self { handle, connection: tokio::spawn(connection), listing: tokio::sync::Mutex::new(()) })
    }

    /// Opens a socket in the namespace `net`, where it stays. Needs a tokio runtime.
    ///
    /// # Errors
    /// What `setns(2)` or `socket(2)` gives.
    pub fn in_namespace(net: BorrowedFd<'_>) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        namespace::in_network(net, move || {
            let _context = runtime.enter();
            Self::here()
        })
    }

    /// All links.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let _listing = self.listing.lock().await;
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.asking(|| "list the links".to_owned())?;
        Ok(messages.iter().filter_map(read_link).collect())
    }

    /// The link called `name`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        Ok(self.links().await?.into_iter().find(|link| link.name == name))
    }

    /// The addresses of the link with `index`, without link-local ones.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn addresses(&self, index: u32) -> Result<BTreeSet<Cidr>> {
        let _listing = self.listing.lock().await;
        let get = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<_> = get.execute().try_collect().await.asking(|| "list the addresses".to_owned())?;
        let address = |message: &rtnetlink::packet_route::address::AddressMessage| {
            let found = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            found.map(|address| Cidr { address, prefix: message.header.prefix_len })
        };
        let link_local = |cidr: &Cidr| matches!(cidr.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        Ok(messages.iter().filter_map(address).filter(|cidr| !link_local(cidr)).collect())
    }

    /// Ensures a bridge called `name` that is up and marked. Returns its index. One without the mark is taken over only
    /// when it has one of `own` addresses: earlier versions set none.
    ///
    /// # Errors
    /// `EEXIST` when somebody else's link has the name; what else the kernel answers.
    pub async fn ensure_bridge(&self, name: &str, own: &BTreeSet<Cidr>) -> Result<u32> {
        let mac = [&MARK[..], &[0xff, 0, 1]].concat();
        if let Some(link) = self.link(name).await? {
            if !link.marked {
                if self.addresses(link.index).await?.is_disjoint(own) {
                    let what =
                        format!("use the link {name}: it is not Tank's (remove it, or set `bridge` in tank.toml)");
                    return Err(Error::new(what, io::Error::from(io::ErrorKind::AlreadyExists)));
                }
                let message = LinkUnspec::new_with_index(link.index).address(mac).build();
                self.handle.link().set(message).execute().await.asking(|| format!("mark the bridge {name}"))?;
            }
            if !link.up {
                self.set_up(link.index).await?;
            }
            return Ok(link.index);
        }
        let message = LinkBridge::new(name).address(mac).up().build();
        self.handle.link().add(message).execute().await.asking(|| format!("create the bridge {name}"))?;
        let link = self.link(name).await?;
        link.map(|link| link.index).ok_or(io::ErrorKind::NotFound).doing(|| format!("find the bridge {name}"))
    }

    /// Makes a veth pair: `name` here, up, on the bridge `controller` and marked; `peer` in the namespace `net`. `number`
    /// makes their hardware addresses.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn add_veth(
        &self,
        name: &str,
        controller: u32,
        peer: &str,
        number: u16,
        net: BorrowedFd<'_>,
    ) -> Result<()> {
        let [high, low] = number.to_be_bytes();
        let mac = |end: u8| [&MARK[..], &[end, high, low]].concat();
        let other = LinkMessageBuilder::<LinkUnspec>::new().name(peer).address(mac(0));
        let other = other.setns_by_fd(net.as_raw_fd()).build();
        let message = LinkMessageBuilder::<LinkVeth>::new(name, peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
            .controller(controller)
            .address(mac(1))
            .up()
            .build();
        self.handle.link().add(message).execute().await.asking(|| format!("create the link {name}"))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.asking(|| "set a link up".to_owned())
    }

    /// Deletes a link.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn delete(&self, index: u32) -> Result<()> {
        self.handle.link().del(index).execute().await.asking(|| "delete a link".to_owned())
    }

    /// Ensures an address. IPv6 skips duplicate address detection: Tank hands each address out once.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn ensure_address(&self, index: u32, cidr: Cidr) -> Result<()> {
        let mut request = self.handle.address().add(index, cidr.address, cidr.prefix).replace();
        if cidr.address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.asking(|| format!("add the address {cidr}"))
    }

    /// Ensures the default route through `gateway`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn ensure_default_route(&self, gateway: IpAddr) -> Result<()> {
        let message: RouteMessage = match gateway {
            IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(v4).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(v6).build(),
        };
        let request = self.handle.route().add(message).replace();
        request.execute().await.asking(|| format!("route everything through {gateway}"))
    }

    /// Deletes the default routes through other gateways than `gateways`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn remove_other_default_routes(&self, gateways: &BTreeSet<IpAddr>) -> Result<()> {
        for (gateway, route) in self.default_routes().await? {
            if !gateways.contains(&gateway) {
                self.handle
                    .route()
                    .del(route)
                    .execute()
                    .await
                    .asking(|| format!("remove the route through {gateway}"))?;
            }
        }
        Ok(())
    }

    /// The gateways of the default routes, of both families.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn default_gateways(&self) -> Result<BTreeSet<IpAddr>> {
        Ok(self.default_routes().await?.into_iter().map(|(gateway, _)| gateway).collect())
    }

    async fn default_routes(&self) -> Result<Vec<(IpAddr, RouteMessage)>> {
        let _listing = self.listing.lock().await;
        let mut routes: Vec<RouteMessage> = Vec::new();
        for family in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
            let listed = self.handle.route().get(family).execute().try_collect::<Vec<_>>().await;
            routes.extend(listed.asking(|| "list the routes".to_owned())?);
        }
        let default = routes.into_iter().filter(|route| route.header.destination_prefix_length == 0);
        let gateway = |attribute: &RouteAttribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
            _ => None,
        };
        Ok(default.filter_map(|route| Some((route.attributes.iter().find_map(gateway)?, route))).collect())
    }
}

fn read_link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        controller: None,
        marked: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(address) => link.marked = address.starts_with(&MARK),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hand_out_addresses_and_end() {
        let v4: Cidr = "10.90.3.4/30".parse().expect("parses");
        assert_eq!(v4.nth(1).expect("fits").to_string(), "10.90.3.5/30");
        assert_eq!(v4.nth(3), None, "the last is broadcast");
        let v6: Cidr = "fd74:616e:6b00::/64".parse().expect("parses");
        assert_eq!(v6.nth(258).expect("fits").to_string(), "fd74:616e:6b00::102/64");
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "x/1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
