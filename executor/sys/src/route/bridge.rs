//! Bridges, and the veth pairs that lead from them into pods.

use super::{MARK, PORT_MARK, Request, Routes};
use crate::{Context, Error, Result, netlink::Refused};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::{
    LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        RouteNetlinkMessage,
        link::{
            AfSpecInet6, AfSpecUnspec, BridgeMulticastRouterType, In6AddrGenMode, InfoData,
            InfoVeth, LinkAttribute,
        },
    },
};
use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsRawFd, BorrowedFd},
};

type Port = LinkMessageBuilder<LinkBridgePort>;

/// A port of Tank's own bridge. Where `br_netfilter` is loaded, what a pod sends to a published port of
/// its own is sent back by the bridge and not by the host's routing; and no pod is a router of
/// multicast, whatever it says. Frames that a bridge does not forward (01:80:c2:00:00:0x) come over the
/// port itself, some of them past every rule: no ARP is taken there.
fn as_own(port: Port) -> Port {
    port.hairpin(true)
        .mcast_router(BridgeMulticastRouterType::Disabled)
        .arp(false)
}

/// Tank's own bridge. It learns nothing of frames that it keeps for itself, and gives what is for a group
/// to everybody, whoever says that he listens: nobody has to.
fn as_pods(bridge: LinkMessageBuilder<LinkBridge>) -> LinkMessageBuilder<LinkBridge> {
    bridge.no_linklocal_learn(true).mcast_snooping(false)
}

/// IFLA_INET6_ADDR_GEN_MODE: the kernel makes no link-local address.
pub(super) fn without_addresses() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])])
}

impl Request {
    /// Says what a link is, for people (`ip link` shows it).
    pub fn describe(index: u32, text: &str) -> Self {
        let alias = LinkAttribute::IfAlias(text.to_owned());
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(alias);
        Self {
            what: "describe a link".to_owned(),
            message: RouteNetlinkMessage::SetLink(message.build()),
            flags: 0,
        }
    }

    /// Puts a bridge's port into a group, and has it give frames back to where they came from, take
    /// nobody behind it for a router of multicast, and no ARP for itself.
    pub fn set_port(index: u32, group: u32) -> Self {
        let build = as_own(LinkBridgePort::new(index)).link_group(group);
        Self {
            what: "set up a port of the bridge".to_owned(),
            message: RouteNetlinkMessage::NewLink(build.build()),
            flags: 0,
        }
    }
}

impl Routes {
    /// Ensures a bridge called `name` that is up, marked and [guarded](super::Link::is_guarded). Returns its
    /// index. One without the
    /// mark is taken over only when it has one of `own` addresses: earlier versions set none.
    ///
    /// # Errors
    /// `EEXIST` when somebody else's link has the name; what else the kernel answers.
    pub fn ensure_bridge(&self, name: &str, own: &BTreeSet<IpNet>) -> Result<u32> {
        let mac = [&MARK[..], &[0xff, 0, 1]].concat();
        if let Some(link) = self.link(name)? {
            if !link.marked {
                if self.addresses(link.index)?.is_disjoint(own) {
                    let what = format!(
                        "use the link {name}: it is not Tank's (remove it, or set `bridge` in tank.toml)"
                    );
                    return Err(Error::new(
                        what,
                        io::Error::from(io::ErrorKind::AlreadyExists),
                    ));
                }
                let message = LinkUnspec::new_with_index(link.index).address(mac).build();
                let what = format!("mark the bridge {name}");
                let message = RouteNetlinkMessage::SetLink(message);
                self.carry_out(vec![Request {
                    what,
                    message,
                    flags: 0,
                }])?;
            }
            if !link.is_guarded {
                let message = as_pods(LinkBridge::new(name)).build();
                self.carry_out(vec![Request {
                    what: format!("keep the bridge {name} from learning"),
                    message: RouteNetlinkMessage::NewLink(message),
                    flags: 0,
                }])?;
            }
            if !link.up {
                self.carry_out(vec![Request::set_up(link.index)])?;
            }
            return Ok(link.index);
        }
        let message =
            RouteNetlinkMessage::NewLink(as_pods(LinkBridge::new(name)).address(mac).build());
        let what = format!("create the bridge {name}");
        self.carry_out(vec![Request {
            what,
            message,
            flags: NLM_F_CREATE | NLM_F_EXCL,
        }])?;
        // Without a link-local address the host asks nobody where a pod is, and whether it may have it
        // takes two seconds to find out. Where there is no IPv6 there is nothing to set.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
        let link = self.link(name)?;
        let index = link
            .map(|link| link.index)
            .ok_or(io::ErrorKind::NotFound)
            .doing(|| format!("find the bridge {name}"))?;
        self.carry_out(vec![Request::set_up(index)])?;
        Ok(index)
    }

    /// Makes a veth pair: `name` here, up, on the bridge `controller`, in the group `group` and
    /// marked; `peer`, with the hardware address `mac` and as long packets as `mtu`, in the namespace
    /// `net`, where it has to be
    /// set up (the kernel can't open one whose other end is not there yet).
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_veth(
        &self,
        name: &str,
        (controller, group): (u32, u32),
        (peer, mac, mtu): (&str, [u8; 6], u32),
        net: BorrowedFd<'_>,
    ) -> Result<()> {
        // Pods on the default network have 0 there, and others a bit of the higher half.
        let mut own = mac;
        own[3] = if mac[3] == 0 { 1 } else { mac[3] | 4 };
        self.add_pair(
            name,
            (controller, Some(group)),
            [&MARK[..], &own[3..]].concat(),
            (peer, mac, mtu),
            net,
        )
    }

    /// As [`Routes::add_veth`], onto a bridge that is not Tank's; `peer` takes packets up to `mtu`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_port(
        &self,
        name: &str,
        controller: u32,
        (peer, mac, mtu): (&str, [u8; 6], u32),
        net: BorrowedFd<'_>,
    ) -> Result<()> {
        let own = [&PORT_MARK[..], &mac[3..]].concat();
        self.add_pair(name, (controller, None), own, (peer, mac, mtu), net)
    }

    /// `group`: that of a port of Tank's own bridge.
    fn add_pair(
        &self,
        name: &str,
        (controller, group): (u32, Option<u32>),
        own: Vec<u8>,
        (peer, mac, mtu): (&str, [u8; 6], u32),
        net: BorrowedFd<'_>,
    ) -> Result<()> {
        let other = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .address(mac.to_vec())
            .mtu(mtu);
        let other = other.setns_by_fd(net.as_raw_fd()).build();
        let made = LinkMessageBuilder::<LinkVeth>::new(name, peer)
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
            .controller(controller)
            .link_group(group.unwrap_or_default())
            .address(own)
            .build();
        let made = (
            RouteNetlinkMessage::NewLink(made),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        // A bridge's port needs no address. It would be announced a second later, to everybody who
        // listens.
        let quiet = LinkMessageBuilder::<LinkUnspec>::new()
            .name(name)
            .append_extra_attribute(without_addresses())
            .build();
        let quiet = (RouteNetlinkMessage::SetLink(quiet), 0);
        let up = match group {
            Some(_) => as_own(LinkBridgePort::new(0)).name(name).up().build(),
            None => LinkUnspec::new_with_name(name).up().arp(false).build(),
        };
        let up = (RouteNetlinkMessage::NewLink(up), 0);
        match self.0.request(vec![made, quiet]) {
            // Without IPv6 there is nothing to keep from it.
            Err(Refused { index: 1, error })
                if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            other => other
                .map_err(|refused| refused.error)
                .doing(|| format!("create the link {name}"))?,
        }
        self.0
            .request(vec![up])
            .map_err(|refused| refused.error)
            .doing(|| format!("set the link {name} up"))
    }
}
