//! What has gone over links.

use super::{NEWLINK, Routes};
use crate::{Context, Result};
use netlink_packet_core::NlasIterator;
use rtnetlink::packet_route::{RouteNetlinkMessage, link::LinkMessage};
use std::collections::BTreeMap;

/// Bytes that a link has carried since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// That it has received.
    pub received: u64,
    /// That it has sent.
    pub sent: u64,
}

impl Routes {
    /// What every link has carried, by its name: one answer for all of them.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn counters(&self) -> Result<BTreeMap<String, Counters>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let read = |found: &mut BTreeMap<String, Counters>, kind, payload: &[u8]| {
            if kind == NEWLINK {
                found.extend(read_counters(payload));
            }
        };
        let counters = self.0.dump(request, read);
        counters.doing(|| "read what links have carried")
    }
}

/// Reads a `struct ifinfomsg` and, of the attributes behind it, the name and `struct rtnl_link_stats64`.
fn read_counters(payload: &[u8]) -> Option<(String, Counters)> {
    /// `IFLA_IFNAME` and `IFLA_STATS64` of rtnetlink(7).
    const IFNAME: u16 = 3;
    const STATS: u16 = 23;
    let (mut name, mut counters) = (None, None);
    for attribute in NlasIterator::new(payload.get(16..)?).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            IFNAME => {
                name = Some(
                    String::from_utf8_lossy(value)
                        .trim_end_matches('\0')
                        .to_owned(),
                )
            }
            // Packets received and sent, then bytes.
            STATS => {
                let number = |at: usize| {
                    let bytes = value.get(at..)?.first_chunk()?;
                    Some(u64::from_ne_bytes(*bytes))
                };
                counters = number(16).zip(number(24));
            }
            _ => {}
        }
    }
    let (received, sent) = counters?;
    Some((name?, Counters { received, sent }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn counters_are_read_and_what_is_cut_is_none() {
        let stats: Vec<u8> = (1..=8u64).flat_map(u64::to_ne_bytes).collect();
        let link = |stats: &[u8]| {
            let parts = [vec![0; 16], attribute(3, b"tk7\0"), attribute(23, stats)];
            parts.concat()
        };
        let counters = Counters {
            received: 3,
            sent: 4,
        };
        assert_eq!(
            read_counters(&link(&stats)),
            Some(("tk7".to_owned(), counters))
        );
        assert_eq!(read_counters(&link(&stats[..28])), None);
        assert_eq!(read_counters(&[0; 10]), None);
    }

    #[test]
    fn every_link_of_this_namespace_has_counters() {
        let routes = Routes::here().expect("a socket");
        let names: Vec<String> = routes.counters().expect("read").into_keys().collect();
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
    }
}
