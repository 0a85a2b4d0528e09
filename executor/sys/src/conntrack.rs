//! Flows of UDP that the kernel tracks (ctnetlink of nfnetlink).
//!
//! The destination of a flow is translated as that of its first packet was, or is not, for as long as
//! packets of it come: whoever sends from one port reaches the old destination whatever the rules say by
//! now. Ended here, the next packet is the first of a new flow.
//!
//! Only what the kernel finds by address and protocol is sent here (Linux 5.8; an older one sends all of
//! it, and the same is chosen from that). An end names the whole flow and its number, so a flow that was
//! opened anew meanwhile is not ended with it.

use crate::{
    Context, Result,
    netlink::{Refused, Socket},
};
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, Nla, ParseableParametrized};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    NetfilterSubsystem,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, ConntrackMessageType, IPTuple, ProtoTuple, Protocol,
        Status, Tuple,
    },
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// `CTA_TUPLE_REPLY`, `CTA_ID`, `CTA_ZONE` and `CTA_FILTER` of `linux/netfilter/nfnetlink_conntrack.h`.
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// `CTA_FILTER_REPLY_FLAGS`, and the bits of it: which parts of the tuple of the answers are compared
/// (`CTA_FILTER_F_*` of `net/netfilter/nf_internals.h`).
const FILTER_REPLY: u16 = 2;
const BY_SOURCE: u32 = 1 << 0;
const BY_PROTOCOL: u32 = 1 << 3;

/// The most ends that are sent together: their answers wait in the socket's buffer.
const MAX_TOGETHER: usize = 64;

/// A flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Whom its packets are for.
    pub asked: SocketAddr,
    /// Who gets them by a translation. None: it is not translated.
    pub to: Option<SocketAddr>,
}

/// The flows of UDP of which `is_wanted` says so. Blocking.
///
/// # Errors
/// What the kernel answers.
pub fn udp(is_wanted: &dyn Fn(Flow) -> bool) -> Result<Vec<Flow>> {
    let what = || "list the flows of UDP (the module nf_conntrack_netlink)";
    let socket = Socket::open(NETLINK_NETFILTER).doing(what)?;
    let mut all = Vec::new();
    for asked in EVERYBODY {
        let keep = |flow, _| is_wanted(flow).then_some(flow);
        all.extend(tracked(&socket, asked, None, &keep).doing(what)?);
    }
    Ok(all)
}

/// Ends the flows of UDP of which `is_over` says so; `to`: only of those that this address answers.
/// Blocking.
///
/// # Errors
/// What the kernel answers. Of those that are over by themselves it says nothing.
pub fn end_udp(to: Option<IpAddr>, is_over: &dyn Fn(Flow) -> bool) -> Result<()> {
    let what = || match to {
        Some(to) => format!("end the flows to {to}"),
        None => "end flows of UDP".to_owned(),
    };
    let socket = Socket::open(NETLINK_NETFILTER).doing(what)?;
    let families = to.map_or(EVERYBODY.to_vec(), |to| vec![family(to)]);
    for family in families {
        let keep = |flow, of| is_over(flow).then(|| end(of));
        let ends = tracked(&socket, family, to, &keep).doing(what)?;
        for some in ends.chunks(MAX_TOGETHER) {
            let ends = some.iter().map(|end| (about(family, end.clone()), 0));
            match socket.request(ends.collect()) {
                // It is over by itself.
                Err(Refused { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other.map_err(|refused| refused.error).doing(what)?,
            }
        }
    }
    Ok(())
}

/// The families that flows are asked for.
const EVERYBODY: [NetfilterProtoFamily; 2] =
    [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6];

fn family(of: IpAddr) -> NetfilterProtoFamily {
    match of {
        IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
        IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
    }
}

fn about(
    family: NetfilterProtoFamily,
    message: impl Into<NetfilterMessageInner>,
) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// What `keep` keeps of the flows of a family, and of all that is said of each; `to`: only of those that
/// this address answers. There may be millions.
fn tracked<T>(
    socket: &Socket,
    family: NetfilterProtoFamily,
    to: Option<IpAddr>,
    keep: &dyn Fn(Flow, Vec<ConntrackAttribute>) -> Option<T>,
) -> io::Result<Vec<T>> {
    socket.dump(
        about(family, listing(to)),
        |found: &mut Vec<T>, kind, payload| {
            let read = read(kind, payload);
            let read = read.filter(|(_, answers, _)| to.is_none_or(|to| *answers == to));
            found.extend(read.and_then(|(flow, _, of)| keep(flow, of)));
        },
    )
}

/// What is asked for: flows of UDP, those whose answers come from an address. The kernel takes the
/// filter only if it is marked as nested, which the open variant of the typed attributes is not.
fn listing(to: Option<IpAddr>) -> NetfilterMessageInner {
    let address = to.map(|to| Tuple::Ip(vec![IPTuple::SourceAddress(to)]));
    let protocol = Tuple::Proto(vec![ProtoTuple::Protocol(Protocol::Udp)]);
    let answers: Vec<Tuple> = address.into_iter().chain([protocol]).collect();
    // Of IPv6 the kernel takes every address for another one (`ctnetlink_filter_match_tuple` reads the
    // answer of `ipv6_addr_cmp` the wrong way round): there the choice is made here alone.
    let by_source = to.filter(IpAddr::is_ipv4).map_or(0, |_| BY_SOURCE);
    let flags = (by_source | BY_PROTOCOL).to_ne_bytes();
    let compared = [DefaultNla::new(FILTER_REPLY, flags.to_vec())];
    NetfilterMessageInner::Other {
        subsys: NetfilterSubsystem::Conntrack,
        message_type: ConntrackMessageType::Get.into(),
        attributes: vec![nested(TUPLE_REPLY, &answers), nested(FILTER, &compared)],
    }
}

fn nested<T: Nla>(kind: u16, attributes: &[T]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

/// A flow that is listed, who answers, and all that is said of it.
fn read(kind: u16, payload: &[u8]) -> Option<(Flow, IpAddr, Vec<ConntrackAttribute>)> {
    let message = NetfilterMessage::parse_with_param(payload, kind).ok()?;
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        return None;
    };
    let (mut asked, mut from, mut is_translated) = (None, None, false);
    for attribute in &attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => asked = udp_of(tuple).map(|(_, to)| to),
            ConntrackAttribute::CtaTupleReply(tuple) => from = udp_of(tuple).map(|(from, _)| from),
            ConntrackAttribute::CtaStatus(status) => {
                is_translated = status.contains(Status::DstNat);
            }
            _ => {}
        }
    }
    let from = from?;
    let flow = Flow {
        asked: asked?,
        to: is_translated.then_some(from),
    };
    Some((flow, from.ip(), attributes))
}

/// What ends a flow: it names the flow, and its number.
fn end(mut of: Vec<ConntrackAttribute>) -> ConntrackMessage {
    of.retain(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(_) => true,
        other => matches!(other.kind(), ID | ZONE),
    });
    ConntrackMessage::Delete(of)
}

/// Whom a tuple of UDP is from, and whom it is for.
fn udp_of(tuple: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut source, mut destination) = ((None, None), (None, None));
    let mut is_udp = false;
    for part in tuple {
        match part {
            Tuple::Ip(parts) => parts.iter().for_each(|part| match part {
                IPTuple::SourceAddress(address) => source.0 = Some(*address),
                IPTuple::DestinationAddress(address) => destination.0 = Some(*address),
                _ => {}
            }),
            Tuple::Proto(parts) => parts.iter().for_each(|part| match part {
                ProtoTuple::Protocol(protocol) => is_udp = *protocol == Protocol::Udp,
                ProtoTuple::SourcePort(port) => source.1 = Some(*port),
                ProtoTuple::DestinationPort(port) => destination.1 = Some(*port),
                _ => {}
            }),
            _ => {}
        }
    }
    let end =
        |(address, port): (Option<IpAddr>, Option<u16>)| Some(SocketAddr::new(address?, port?));
    is_udp.then_some((end(source)?, end(destination)?))
}
