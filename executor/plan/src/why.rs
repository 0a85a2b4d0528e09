//! Why something is done, or waits: data that becomes text where people read it.

mod waits;

pub use waits::WaitsFor;

use crate::observed::{Probed, Unresponsive};
use crate::overrides::by_hand;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};
use tank_model::{
    Key, Name, diff,
    spec::{AllowFrom, Egress, Peer, Protocol},
};

/// Why a step is planned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is declared, and was not before, or was another.
    Declared,
    /// A pod was declared before and is not there.
    PodMissing,
    /// A container was declared before and does not run.
    NotRunning,
    /// A new pod in place of one that is removed.
    Replaces,
    /// It is not declared any more, or nothing says whether it ever was.
    NoLongerDeclared,
    /// It was run by hand, and that is over.
    RunEnded,
    /// It is on the host, and neither this graph nor the one before declares it.
    NeverDeclared,
    /// What the declaration changed, in the order of the fields.
    Changed(Vec<Changed>),
    /// Something below it is another one, and no field says which.
    NeedsChanged,
    /// The pod's sandbox was made from another node, and no field says which.
    NamespacesDiffer,
    /// Of the pod only cgroups and folders are left.
    ShimGone,
    /// The shim's version is below [`crate::planner::SHIM_FILES`], and files of the pod are to be
    /// written while it runs.
    ShimTooOld,
    /// What keeps the pod's shim from answering.
    Unresponsive(Unresponsive),
    /// A new pod is to have a link to the bridge.
    NeedsAddress,
    /// A new pod is to have an interface of its own.
    NeedsInterface,
    /// A link gets addresses that other pods have until they are gone.
    TakesAddresses(Vec<Owned>),
    /// A pod's link is down, off the bridge, or has other addresses or routes.
    LinkDiffers,
    /// Somebody stopped it.
    StoppedByHand {
        /// Who.
        uid: u32,
    },
    /// Somebody restarted it, or started what had ended.
    RestartedByHand {
        /// Who.
        uid: u32,
    },
    /// Somebody runs it by hand.
    RunByHand {
        /// Who.
        uid: u32,
    },
    /// It was stopped by hand, which the change at hand ends.
    StopEnded {
        /// By whom it was stopped.
        uid: u32,
    },
    /// The host's own link to pods is not there, or not as it has to be.
    HostLinkDiffers,
    /// No pod needs it any more.
    HostLinkNotNeeded,
    /// Tank's table is not as wanted ([`crate::target::firewall::Difference`]).
    RulesDiffer {
        /// Chains and rules that are wanted and not there.
        missing: usize,
        /// Chains and rules that are there and not wanted.
        unwanted: usize,
        /// Whether there are none of Tank's at all.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        absent: bool,
        /// What the declaration changed of who reaches what.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reach: Vec<Reach>,
        /// What the declaration changed of whom pods may reach, and by whom they may be reached.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<Policy>,
    },
    /// A pod is declared on the bridge, which is not there, is down or lacks an address.
    BridgeNeeded,
    /// No pod is declared on the bridge any more.
    BridgeNotNeeded,
    /// A published port leads to another pod, or to none.
    LeadsElsewhere,
    /// A published port leads to a pod, and what began before goes past it.
    LeadsThere,
    /// No pod is declared on the bridge, and the table is still there.
    NothingPublished,
    /// Pods are declared on the bridge, and there is no name server, or it does not answer.
    NamesMissing,
    /// The name server says something else than it should.
    NamesDiffer,
    /// The name server runs another program than the installed one.
    NamesOutdated,
    /// No pod is declared on the bridge, and the name server is still there.
    NamesNotNeeded,
    /// Somebody stopped the container's main process, or froze its cgroup.
    Halted,
    /// A probe failed as often as it may.
    ProbeFailed(Probed),
    /// The main process ended, and the pod's `restart` has it start again.
    Ended {
        /// As shells have it: 128 and the signal where one ended it.
        status: i32,
    },
    /// The cgroup's limits are not the declared ones.
    LimitsDiffer,
    /// Files under the running container have another text than the declared one.
    FilesDiffer,
    /// An image is about to write to a volume that does not write to it now.
    NewImage,
    /// A container is about to write to what was put in a volume by hand.
    Imported,
    /// A rollback was asked to bring data back.
    DataWanted,
    /// The kernel holds a volume to another size than the declared one, or to none.
    SizeDiffers,
    /// A container has a volume mounted that is about to be another one, or of which a snapshot is
    /// about to be taken.
    VolumeAtRest {
        /// The volume.
        volume: Name,
    },
}

/// Addresses that another pod has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Owned {
    /// Which of them. Empty: nothing says what it has.
    pub addresses: BTreeSet<IpAddr>,
    /// Whose they are.
    pub pod: Name,
}

impl fmt::Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, pod } = self;
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        match texts.len() {
            0 => write!(f, "any address may be of {pod} until that is gone"),
            1 => write!(f, "{} is of {pod} until that is gone", joined(&texts)),
            _ => write!(f, "{} are of {pod} until that is gone", joined(&texts)),
        }
    }
}

/// Published ports that are opened or closed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reach {
    /// Of the host; the first of several ports.
    pub at: SocketAddr,
    /// The last of several ports of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u16>,
    /// By which it is spoken to.
    pub protocol: Protocol,
    /// Where it leads.
    pub pod: Name,
    /// The pod's port; the first of several.
    pub to: u16,
    /// The last of several ports of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_last: Option<u16>,
    /// Who may open connections to the pod. None: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<Peer>>,
    /// Whether it is reached from now on, or no longer.
    pub opens: bool,
    /// The pod that some of them lead to until this one is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Name>,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            last,
            protocol,
            pod,
            to,
            to_last,
            only,
            opens,
            until,
        } = self;
        let range = |last: &Option<u16>| last.map_or(String::new(), |last| format!("-{last}"));
        let protocol = match protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        };
        let from = match (at.ip().is_loopback(), only) {
            (true, _) => "from this host".to_owned(),
            (false, None) => "from anywhere".to_owned(),
            (false, Some(peers)) => format!("from {}", listed(peers, "this host")),
        };
        let (last, to_last) = (range(last), range(to_last));
        if !opens {
            return write!(
                f,
                "{at}{last}{protocol} no longer leads to {pod}:{to}{to_last}"
            );
        }
        write!(
            f,
            "{at}{last}{protocol} {from} \u{2192} {pod}:{to}{to_last}"
        )?;
        match until {
            Some(old) => write!(f, " once {pod} is ready, {old} until then"),
            None => Ok(()),
        }
    }
}

/// What a declaration changed of whom a pod may reach, and by whom it may be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// The pod.
    pub pod: Name,
    /// None: that is as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_from: Option<AllowFrom>,
    /// None: that is as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pod,
            allow_from,
            egress,
        } = self;
        let admits = allow_from.as_ref().map(|policy| admitted(pod, policy));
        let reaches = egress.as_ref().map(|policy| reached(pod, policy));
        let both: Vec<String> = admits.into_iter().chain(reaches).collect();
        f.write_str(&both.join("; "))
    }
}

/// By whom a pod is reached, in words.
pub fn admitted(pod: &Name, policy: &AllowFrom) -> String {
    match policy.peers() {
        None => format!("{pod} is reached by all pods"),
        Some(peers) => format!("{pod} is reached by {} only", listed(peers, "this host")),
    }
}

/// Whom a pod reaches, in words.
pub fn reached(pod: &Name, policy: &Egress) -> String {
    match policy.peers() {
        None => format!("{pod} reaches everybody"),
        Some([]) => format!("{pod} reaches nobody"),
        Some(peers) => {
            let words = |peer: &Peer| match peer {
                Peer::Internet => "the internet".to_owned(),
                other => other.to_string(),
            };
            let all: Vec<String> = peers.iter().map(words).collect();
            format!("{pod} reaches {} only", joined(&all))
        }
    }
}

/// Peers, and somebody who is always among them.
fn listed(peers: &[Peer], always: &str) -> String {
    let mut all: Vec<String> = peers.iter().map(ToString::to_string).collect();
    all.push(always.to_owned());
    joined(&all)
}

/// `a, b and c`.
fn joined(all: &[String]) -> String {
    match all {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        all => all.concat(),
    }
}

/// A node that the declaration changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// Which node of the graph.
    pub key: Key,
    /// Whether the node is named: it is another one than the step is about.
    pub named: bool,
    /// What became of it.
    pub how: How,
}

/// How a node differs from the graph before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Only the newer graph has it.
    Added,
    /// Only the older graph had it.
    Removed,
    /// The fields that differ, by their paths within the node.
    Fields(Vec<String>),
}

impl Changed {
    /// From a difference of two graphs, with [`Changed::named`] false.
    pub fn of(change: &diff::NodeChange) -> Self {
        let how = match &change.what {
            diff::What::Added => How::Added,
            diff::What::Removed => How::Removed,
            diff::What::Modified { fields } => {
                How::Fields(fields.iter().map(|field| field.field.clone()).collect())
            }
        };
        Self {
            key: change.key.clone(),
            named: false,
            how,
        }
    }

    /// The same, with those fields only that are one of `names` or below it. None: there are none.
    pub fn below(self, names: &[&str]) -> Option<Self> {
        let How::Fields(mut fields) = self.how else {
            return None;
        };
        let is_below = |field: &String| {
            let first = field.split('.').next();
            first.is_some_and(|first| names.contains(&first))
        };
        fields.retain(is_below);
        let how = How::Fields(fields);
        match &how {
            How::Fields(fields) if fields.is_empty() => None,
            _ => Some(Self { how, ..self }),
        }
    }

    /// The same, with the name of the node.
    pub fn named(self) -> Self {
        Self {
            named: true,
            ..self
        }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, named, how } = self;
        if *named {
            write!(f, "{key}: ")?;
        }
        match how {
            How::Added => write!(f, "{key} is new"),
            How::Removed => write!(f, "{key} is gone"),
            How::Fields(fields) => write!(f, "{} changed", fields.join(", ")),
        }
    }
}

impl Why {
    /// Whose doing it is.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Self::StoppedByHand { uid }
            | Self::RestartedByHand { uid }
            | Self::RunByHand { uid }
            | Self::StopEnded { uid } => Some(*uid),
            _ => None,
        }
    }

    /// As text, with what its user is called: this crate asks nobody.
    pub fn text(&self, called: impl FnOnce(u32) -> String) -> String {
        let text = self.to_string();
        let Some(uid) = self.uid() else { return text };
        match text.strip_prefix(crate::overrides::who(uid).as_str()) {
            Some(rest) => format!("{}{rest}", called(uid)),
            None => text,
        }
    }
}

impl fmt::Display for Why {
    // long: one arm a reason
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Declared => "it is declared",
            Self::PodMissing => "it is declared and not there",
            Self::NotRunning => "it is declared and does not run",
            Self::Replaces => "in place of the one before",
            Self::NoLongerDeclared => "it is no longer declared",
            Self::RunEnded => "its run by hand has ended",
            Self::NeverDeclared => "nobody declared it",
            Self::NeedsChanged => "what it needs has changed",
            Self::NamespacesDiffer => "its namespaces are not the declared ones",
            Self::ShimGone => "its shim is gone",
            Self::ShimTooOld => "its shim is too old to write files under a container",
            Self::NeedsAddress => "it needs an address",
            Self::NeedsInterface => "it is declared",
            Self::LinkDiffers => "its link is not as declared",
            Self::HostLinkDiffers => {
                "pods have addresses there, which the link itself does not reach"
            }
            Self::HostLinkNotNeeded => "no pod has an address there",
            Self::BridgeNeeded => "pods need it",
            Self::BridgeNotNeeded => "no pod needs it",
            Self::LeadsElsewhere => "the published port does not lead there any more",
            Self::LeadsThere => {
                "the port is published, and what was sent there before would go on past the pod"
            }
            Self::NothingPublished => "no port is published",
            Self::NamesMissing => "pods find each other by name",
            Self::NamesDiffer => "it answers something else",
            Self::NamesOutdated => "it runs another version of the program",
            Self::NamesNotNeeded => "no pod needs it",
            Self::Halted => "somebody stopped or froze it",
            Self::ProbeFailed(probe) => probe.failure(),
            Self::LimitsDiffer => "the kernel has others",
            Self::FilesDiffer => "they do not say what they should",
            Self::NewImage => "another image is about to write to it",
            Self::Imported => "it was imported, and nothing has written to it since",
            Self::DataWanted => "the rollback is with data",
            Self::SizeDiffers => "the kernel has another limit",
            Self::VolumeAtRest { volume } => {
                return write!(f, "nothing may have its volume {volume} mounted meanwhile");
            }
            Self::StoppedByHand { uid } => return by_hand(f, *uid, "stopped it by hand"),
            Self::RestartedByHand { uid } => return by_hand(f, *uid, "restarted it by hand"),
            Self::RunByHand { uid } => return by_hand(f, *uid, "runs it by hand"),
            Self::StopEnded { uid } => {
                return by_hand(f, *uid, "stopped it by hand, which this change ends");
            }
            Self::Unresponsive(unresponsive) => return unresponsive.fmt(f),
            Self::RulesDiffer {
                missing,
                unwanted,
                absent,
                reach,
                policies,
            } => {
                for one in reach {
                    write!(f, "{one}; ")?;
                }
                for one in policies {
                    write!(f, "{one}; ")?;
                }
                if *absent {
                    return f.write_str("Tank's rules are not there");
                }
                return write!(
                    f,
                    "{missing} rules are missing and {unwanted} are not wanted"
                );
            }
            Self::Ended { status } => {
                return write!(f, "its main process ended with status {status}");
            }
            Self::TakesAddresses(owned) => {
                let texts: Vec<String> = owned.iter().map(ToString::to_string).collect();
                return f.write_str(&texts.join("; "));
            }
            Self::Changed(changed) => {
                let texts: Vec<String> = changed.iter().map(ToString::to_string).collect();
                return f.write_str(&texts.join(", "));
            }
        })
    }
}
