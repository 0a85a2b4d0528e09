//! Networks that routes of a host are about which no link of it is on.

use super::{NEWROUTE, Routes};
use crate::{Context, Result};
use ipnet::IpNet;
use netlink_packet_core::ParseableParametrized;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What a route makes of a network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reserved {
    /// It leads there, and is in this table, which is not the main one.
    Table(u32),
    /// It drops what is for it (`blackhole`).
    Blackhole,
    /// It refuses what is for it (`unreachable`, `prohibit`).
    Unreachable,
}

impl Routes {
    /// The networks that routes of other tables than the main one lead to, and those that routes keep
    /// from being reached; without default routes, and without routes by the links `own`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn reserved(&self, own: &BTreeSet<u32>) -> Result<BTreeMap<IpNet, Reserved>> {
        // Of no family: of every one.
        let found = self.0.dump(
            RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            |found: &mut BTreeMap<IpNet, Reserved>, kind, payload| {
                // The second byte of a `struct rtmsg` is the length of the destination.
                if kind == NEWROUTE
                    && payload.get(1).is_some_and(|length| *length > 0)
                    && let Ok(RouteNetlinkMessage::NewRoute(route)) =
                        RouteNetlinkMessage::parse_with_param(payload, kind)
                {
                    found.extend(reserved(&route, own));
                }
            },
        );
        found.doing(|| "list the routes")
    }
}

fn reserved(route: &RouteMessage, own: &BTreeSet<u32>) -> Option<(IpNet, Reserved)> {
    let mut table = u32::from(route.header.table);
    let (mut to, mut by) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(found) => table = *found,
            RouteAttribute::Oif(found) => by = Some(*found),
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => to = Some(IpAddr::from(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => to = Some(IpAddr::from(*v6)),
            _ => {}
        }
    }
    let is_main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    let how = match route.header.kind {
        RouteType::BlackHole => Reserved::Blackhole,
        RouteType::Unreachable | RouteType::Prohibit => Reserved::Unreachable,
        RouteType::Unicast if !is_main => Reserved::Table(table),
        _ => return None,
    };
    let net = IpNet::new(to?, route.header.destination_prefix_length).ok()?;
    let is_link_local = matches!(net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    let is_own = by.is_some_and(|by| own.contains(&by));
    (!is_own && !is_link_local).then_some((net, how))
}
