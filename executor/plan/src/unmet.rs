//! What pods need of the host, mostly of its own network, and is not there or is not free. Nothing waits for it, and nothing of the
//! pods is otherwise than declared: it is reported, so that nobody looks for the fault elsewhere.

use crate::{observed::Observed, ports::CutOff};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};
use tank_model::{Graph, Name, VolumeId, spec::Network};

/// Something that is not there, or not free.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(tag = "unmet", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are described with their variants")]
pub enum Unmet {
    /// The host's address that ports of a pod are published on.
    Address { pod: Name, address: IpAddr },
    /// The host's link that an interface of a pod sits on is down.
    Link {
        pod: Name,
        nic: String,
        parent: String,
    },
    /// A volume is about to be written to by an image that has not before, and no snapshot can be
    /// taken of it here.
    Snapshot {
        pod: Name,
        volume: Name,
        generation: u64,
    },
    /// A volume has more in it than its size.
    OverSize { pod: Name, volume: VolumeId },
    /// Not all that is in a volume counts to its size yet.
    Counting { pod: Name, volume: VolumeId },
    /// A volume's file system does not hold it to its size.
    NoQuotas { pod: Name, volume: VolumeId },
    /// A volume of a pod is another one than before: what it had stays with the one that it was.
    LeftBehind {
        pod: Name,
        volume: Name,
        before: VolumeId,
        /// None: it is of the host, or in memory.
        now: Option<VolumeId>,
    },
    /// A program of the host listens where a port leads to the pod.
    Port(CutOff),
}

impl Unmet {
    /// The pod that needs it.
    pub fn pod(&self) -> &Name {
        match self {
            Self::Address { pod, .. }
            | Self::Link { pod, .. }
            | Self::Snapshot { pod, .. }
            | Self::OverSize { pod, .. }
            | Self::Counting { pod, .. }
            | Self::NoQuotas { pod, .. }
            | Self::LeftBehind { pod, .. } => pod,
            Self::Port(cut_off) => &cut_off.pod,
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, .. } => {
                write!(
                    f,
                    "this host has no address {address} that ports are published on"
                )
            }
            Self::Link { nic, parent, .. } => {
                write!(f, "the host's link {parent} is down, and {nic} with it")
            }
            Self::Snapshot {
                volume, generation, ..
            } => write!(
                f,
                "no snapshot of the volume {volume} is taken, since its file system shares no bytes of files (XFS and btrfs do): \
                 `tank generations rollback {generation} --with-data` won't have what it has now"
            ),
            Self::OverSize { volume, .. } => write!(
                f,
                "the volume {volume} has more in it than its `size`: nothing can be written to it until it has less, and nothing of it is lost"
            ),
            Self::Counting { volume, .. } => write!(
                f,
                "the volume {volume} is being counted: until that is done it may have more in it than its `size`, by what was there before"
            ),
            Self::NoQuotas { volume, .. } => write!(
                f,
                "nothing holds the volume {volume} to its `size`: its file system is no longer mounted with project quotas (`tank doctor`)"
            ),
            Self::LeftBehind {
                volume,
                before,
                now,
                ..
            } => {
                write!(f, "the volume {volume} is another one from now on")?;
                if let Some(now) = now {
                    write!(f, ", `{now}`")?;
                }
                write!(
                    f,
                    ": what it had stays in `{before}` (`tank volume export {before}` has it)"
                )
            }
            Self::Port(cut_off) => cut_off.fmt(f),
        }
    }
}

/// The volumes of pods that are kept elsewhere than in the graph before.
pub fn left_behind(graph: &Graph, previous: Option<&Graph>) -> Vec<Unmet> {
    let Some(previous) = previous else {
        return Vec::new();
    };
    let one = |pod: &Name, volume: &Name| {
        let before = previous.kept_volume(pod, volume)?;
        let now = graph.kept_volume(pod, volume);
        (now.as_ref() != Some(&before)).then(|| Unmet::LeftBehind {
            pod: pod.clone(),
            volume: volume.clone(),
            before,
            now,
        })
    };
    let pods = graph.pods();
    let volumes = pods.flat_map(|pod| graph.volumes(pod).map(move |(volume, _)| (pod, volume)));
    volumes
        .filter_map(|(pod, volume)| one(pod, volume))
        .collect()
}

/// The addresses of the host that ports of pods on bridges are published on, by the pods: those among
/// them that only some hosts have.
pub fn published_on(graph: &Graph) -> BTreeMap<&Name, BTreeSet<IpAddr>> {
    let is_bridged = |pod: &&Name| {
        let sandbox = graph.sandbox(pod);
        sandbox.is_some_and(|(node, _)| node.network == Network::Bridge)
    };
    let addresses = |pod| {
        let published = graph.published(pod);
        let addresses = published.flat_map(|(_, publish)| publish.address.iter());
        let own = addresses.filter(|own| !own.is_loopback() && !own.is_unspecified());
        (pod, own.collect::<BTreeSet<IpAddr>>())
    };
    let pods = graph.pods().filter(is_bridged).map(addresses);
    pods.filter(|(_, own)| !own.is_empty()).collect()
}

/// What the pods of a graph lack of a host.
pub fn unmet(graph: &Graph, observed: &Observed) -> Vec<Unmet> {
    let network = &observed.network;
    let mut unmet = Vec::new();
    if let Some(there) = &network.addresses {
        for (pod, addresses) in published_on(graph) {
            let lacks = addresses.difference(there).copied();
            unmet.extend(lacks.map(|address| Unmet::Address {
                pod: pod.clone(),
                address,
            }));
        }
    }
    let is_down = |parent: &String| network.parents.get(parent).is_some_and(|link| !link.is_up);
    for pod in graph.pods() {
        let found = observed
            .pods
            .get(pod)
            .and_then(|found| found.sandbox.as_ref());
        let nics = found.into_iter().flat_map(|sandbox| sandbox.nics.values());
        let down = nics.filter(|nic| is_down(&nic.parent));
        unmet.extend(down.map(|nic| Unmet::Link {
            pod: pod.clone(),
            nic: nic.name.clone(),
            parent: nic.parent.clone(),
        }));
    }
    unmet.extend(network.cut_off.iter().cloned().map(Unmet::Port));
    unmet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(volume: &str) -> Graph {
        let text = format!(
            r#"{{"volumes":{{"data":{{}}}},"pods":{{"db":{{"containers":{{"app":{{"image":"a","mounts":{{"d":{{"volume":"data","path":"/d"}}}}}}}},"volumes":{{"data":{volume}}}}}}}}}"#
        );
        let config = serde_json::from_str(&text).expect("a configuration");
        Graph::build(&config, |_| None).expect("a graph")
    }

    #[test]
    fn what_stays_behind_is_named() {
        let (own, shared, host) = (
            graph("{}"),
            graph(r#"{"shared":"data"}"#),
            graph(r#"{"host":"/srv"}"#),
        );
        let said = |before: &Graph, now: &Graph| {
            let all = left_behind(now, Some(before));
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            said(&own, &shared),
            [
                "the volume data is another one from now on, `data`: what it had stays in `db/data` (`tank volume export db/data` has it)"
            ]
        );
        assert_eq!(
            said(&shared, &own),
            [
                "the volume data is another one from now on, `db/data`: what it had stays in `data` (`tank volume export data` has it)"
            ]
        );
        assert_eq!(
            said(&own, &host),
            [
                "the volume data is another one from now on: what it had stays in `db/data` (`tank volume export db/data` has it)"
            ]
        );
        for (before, now) in [
            (&own, &own),
            (&shared, &shared),
            (&host, &own),
            (&host, &shared),
        ] {
            assert_eq!(said(before, now), [] as [String; 0]);
        }
        assert_eq!(left_behind(&own, None), []);
    }
}
