//! Interfaces of pods' own, and the host's links to them.
//!
//! A macvlan takes no packet from the link it sits on, and gives it none: for the host and its pods
//! to reach each other, the host has a macvlan of its own beside theirs (its *host link*), with a
//! route to each of their addresses. Nothing else of the network is taken from it: `guard` drops what
//! is not from one of these pods, `forward` what is not for the host.

use crate::{
    observed::{HostNetwork, Parent},
    target::{
        Target, TargetError,
        networks::{BRIDGE_DIGITS, is_bridge_name},
    },
    unusable::Unusable,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{
    Digest, Graph, Name,
    digest::Hasher,
    spec::{Network, Nic, NicMode},
};

/// The group of host links, by which rules know them.
pub const HOST_LINK_GROUP: u32 = 0x746c_0000;

/// How the hardware addresses of host links begin: as those of all of Tank's links on the host.
const HOST_LINK_MAC: [u8; 3] = [0x02, 0x74, 0x6b];

/// The longest name of a link.
const MAX_LINK_NAME: usize = 15;

/// An interface of a pod's own, with all that has to be so of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodNic {
    /// Its name inside.
    pub name: String,
    /// How it is connected.
    pub mode: NicMode,
    /// The host's link that it sits on, or the bridge that it is a port of.
    pub parent: String,
    /// Its hardware address: made of the host's, the pod's and its own name, so that neighbours keep
    /// their entries and routers their leases.
    pub mac: [u8; 6],
    /// The longest packet it takes.
    pub mtu: u32,
    /// Its addresses, with the lengths of their networks' prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// Its routes, the default ones among them.
    pub routes: BTreeSet<NicRoute>,
}

/// A route through a next hop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NicRoute {
    /// Where it leads; a default route's is of length 0.
    pub to: IpNet,
    /// The next hop.
    pub via: IpAddr,
}

/// The host's own link to the pods on one parent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostLink {
    /// Its name.
    pub name: String,
    /// The link that it sits on.
    pub parent: String,
    /// Its hardware address, which no other host's is.
    pub mac: [u8; 6],
    /// Those of the parent's addresses of IPv6 that pods ask for here: neighbour discovery answers
    /// on no other link than an address's own. ARP does.
    pub addresses: BTreeSet<IpNet>,
    /// To each of the pods' addresses.
    pub routes: BTreeSet<HostRoute>,
}

/// A route to a pod's address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct HostRoute {
    /// The address.
    pub to: IpAddr,
    /// The parent's address on the same network: what the host sends from. None: it has none there,
    /// or the link has it itself.
    pub source: Option<IpAddr>,
}

/// Why an interface can't be connected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NicError {
    #[error("this host has no default route whose link `\"auto\"` could mean; name one")]
    NoDefaultRoute,
    #[error("this host has no link `{parent}` (`ip link` shows those it has)")]
    NoParent { parent: String },
    #[error("the host's link `{parent}` is down; `ip link set {parent} up` sets it up")]
    ParentDown { parent: String },
    #[error("the host's link `{parent}` is no bridge; name one, or use `mode = 'macvlan`")]
    NoBridge { parent: String },
    #[error("`{parent}` is Tank's own bridge; declare the network, and use `networks`")]
    OwnBridge { parent: String },
    #[error("the host's link `{parent}` is no Ethernet, and takes no macvlan; name another")]
    NoEthernet { parent: String },
    #[error("the host's link `{parent}` is a macvlan itself; name the link that it sits on")]
    IsMacvlan { parent: String },
    #[error("the host's link `{parent}` is a port of `{of}`, and takes no macvlan; name `{of}`")]
    IsPort { parent: String, of: String },
    #[error("every address of the pool {pool} is somebody's; make it larger, or add a pool")]
    PoolEmpty { pool: IpNet },
    #[error("{address} of the pool is the host's own on `{parent}`; use a pool without it")]
    OfTheHost { address: IpAddr, parent: String },
    #[error("packets of {mtu} bytes are longer than the {limit} that `{parent}` takes")]
    TooLong {
        parent: String,
        mtu: u32,
        limit: u32,
    },
}

impl NicError {
    /// The field of the interface that is at fault.
    fn field(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "mtu",
            Self::PoolEmpty { .. } | Self::OfTheHost { .. } => "pool",
            _ => "parent",
        }
    }
}

impl Target<'_> {
    /// The interfaces that a pod declares.
    pub(crate) fn declared_nics(&self, pod: &Name) -> Option<&BTreeMap<Name, Nic>> {
        declared(self.graph, pod)
    }

    /// A pod's interfaces as they have to be, on a host whose network is this; `found` are those
    /// that it has.
    ///
    /// # Errors
    /// When one can't be connected.
    pub fn nics(
        &self,
        pod: &Name,
        host: &HostNetwork,
        found: &BTreeMap<String, PodNic>,
    ) -> Result<Vec<PodNic>, TargetError> {
        let declared = self.declared_nics(pod).into_iter().flatten();
        let nic = |(name, nic): (&Name, &Nic)| {
            let found = found.get(name.as_str());
            let wanted = self.nic((pod, name), nic, host, found);
            wanted.map_err(|why| TargetError::Nic {
                nic: name.to_string(),
                why,
            })
        };
        declared.map(nic).collect()
    }

    fn nic(
        &self,
        (pod, name): (&Name, &Name),
        nic: &Nic,
        host: &HostNetwork,
        found: Option<&PodNic>,
    ) -> Result<PodNic, NicError> {
        let parent = parent_of(nic, host, found)?;
        if parent == self.host.bridge || is_bridge_name(parent) {
            let parent = parent.to_owned();
            return Err(NicError::OwnBridge { parent });
        }
        let Some(link) = host.parents.get(parent) else {
            let parent = parent.to_owned();
            return Err(NicError::NoParent { parent });
        };
        let default = |via: IpAddr| {
            let everything = match via {
                IpAddr::V4(_) => IpNet::new(IpAddr::from([0; 4]), 0),
                IpAddr::V6(_) => IpNet::new(IpAddr::from([0u16; 8]), 0),
            };
            everything.ok().map(|to| NicRoute { to, via })
        };
        let more = nic.routes.values();
        let more = more.map(|route| NicRoute {
            to: route.to.0,
            via: route.via,
        });
        let wanted = PodNic {
            name: name.to_string(),
            mode: nic.mode,
            parent: parent.to_owned(),
            mac: self.nic_mac(pod, name),
            mtu: nic.mtu.unwrap_or(link.mtu),
            addresses: self.own_addresses(pod, name, nic).collect(),
            routes: nic
                .gateway
                .and_then(default)
                .into_iter()
                .chain(more)
                .collect(),
        };
        if let Some(pool) = nic.own_pool() {
            let Some(own) = self.pooled_address(pod, name, nic) else {
                let pool = pool.addresses;
                return Err(NicError::PoolEmpty { pool });
            };
            let address = own.addr();
            if link.addresses.iter().any(|host| host.addr() == address) {
                let parent = parent.to_owned();
                return Err(NicError::OfTheHost { address, parent });
            }
        }
        // One that is as it should be stays so while its parent is down.
        if found != Some(&wanted) {
            self.refuse_parent(nic.mode, parent, link, wanted.mtu)?;
        }
        Ok(wanted)
    }

    /// The address that an interface has of its pool.
    fn pooled_address(&self, pod: &Name, name: &Name, nic: &Nic) -> Option<IpNet> {
        let pool = nic.own_pool()?;
        let address = self.pooled.get(pod)?.get(name)?;
        IpNet::new(*address, pool.network.prefix_len()).ok()
    }

    /// The addresses of an interface.
    fn own_addresses(
        &self,
        pod: &Name,
        name: &Name,
        nic: &Nic,
    ) -> impl Iterator<Item = IpNet> + use<'_> {
        let pooled = self.pooled_address(pod, name, nic);
        let all: Vec<IpNet> = pooled.into_iter().chain(nic.static_addresses()).collect();
        all.into_iter()
    }

    /// The addresses of a pod's own interfaces, in the order of these.
    pub fn nic_addresses(&self, pod: &Name) -> Vec<IpNet> {
        let declared = self.declared_nics(pod).into_iter().flatten();
        declared
            .flat_map(|(name, nic)| self.own_addresses(pod, name, nic))
            .collect()
    }

    /// All addresses of a pod, as a graph has it.
    pub(crate) fn addresses_in(&self, graph: &Graph, pod: &Name) -> BTreeSet<IpAddr> {
        let places = self.places_in(graph, pod).into_iter();
        let on_bridges = places.flat_map(|place| place.addresses);
        let nics = declared(graph, pod).into_iter().flatten();
        let own = nics.flat_map(|(name, nic)| self.own_addresses(pod, name, nic));
        on_bridges.chain(own).map(|own| own.addr()).collect()
    }

    /// Whose an address is on this host that no interface of a pod's own can have then: the host would
    /// lead what is for it to that pod.
    fn has_already(&self, own: IpAddr, host: &HostNetwork) -> Option<String> {
        let fixed = self.host.networks.iter().copied();
        let declared = self.networks().into_iter();
        let mut pods = fixed.chain(declared.flat_map(|network| network.subnets));
        if let Some(net) = pods.find(|net| net.contains(&own)) {
            return Some(format!("of {}, which is the pods' own", net.trunc()));
        }
        let has = |link: &Parent| link.addresses.iter().any(|at| at.addr() == own);
        if let Some((name, _)) = host.parents.iter().find(|(_, link)| has(link)) {
            return Some(format!("this host's, on `{name}`"));
        }
        let mut links = host.parents.iter();
        let (name, _) = links.find(|(_, link)| link.next_hops.contains(&own))?;
        Some(format!("the next hop of this host's routes by `{name}`"))
    }

    fn refuse_parent(
        &self,
        mode: NicMode,
        name: &str,
        link: &Parent,
        mtu: u32,
    ) -> Result<(), NicError> {
        let parent = name.to_owned();
        let macvlan = mode == NicMode::Macvlan;
        Err(match &link.port_of {
            _ if !macvlan && !link.is_bridge => NicError::NoBridge { parent },
            _ if macvlan && link.is_macvlan => NicError::IsMacvlan { parent },
            _ if macvlan && !link.is_ethernet => NicError::NoEthernet { parent },
            Some(of) if macvlan => NicError::IsPort {
                parent,
                of: of.clone(),
            },
            _ if !link.is_up => NicError::ParentDown { parent },
            _ if mtu > link.mtu => NicError::TooLong {
                parent,
                mtu,
                limit: link.mtu,
            },
            _ => return Ok(()),
        })
    }

    /// Locally administered, and of one host (RFC 7042, section 2.1).
    fn nic_mac(&self, pod: &Name, nic: &Name) -> [u8; 6] {
        let hash = Hasher::new("tank.nic.v1")
            .field(self.host.machine.as_bytes())
            .field(pod.as_str().as_bytes())
            .field(nic.as_str().as_bytes())
            .finish();
        let mut mac = first_bytes::<6>(&hash);
        mac[0] = mac[0] & 0xfc | 2;
        mac
    }

    /// Whether a pod has a macvlan with an address: then there are rules for host links.
    pub(super) fn needs_host_links(&self) -> bool {
        let has_address =
            |nic: &Nic| nic.own_pool().is_some() || nic.static_addresses().next().is_some();
        self.macvlans().any(|(.., nic)| has_address(nic))
    }

    /// Every macvlan that is declared: its pod, its name, itself.
    fn macvlans(&self) -> impl Iterator<Item = (&Name, &Name, &Nic)> {
        let of_pod = |pod| {
            let nics = self.declared_nics(pod).into_iter().flatten();
            nics.map(move |(name, nic)| (pod, name, nic))
        };
        let all = self.graph.pods().flat_map(of_pod);
        all.filter(|(.., nic)| nic.mode == NicMode::Macvlan)
    }

    /// As whom pods may send over host links: hardware addresses with addresses.
    pub(super) fn macvlan_senders(&self) -> impl Iterator<Item = ([u8; 6], IpAddr)> {
        self.macvlans().flat_map(|(pod, name, nic)| {
            let mac = self.nic_mac(pod, name);
            let own = self.own_addresses(pod, name, nic);
            own.map(move |own| (mac, own.addr()))
        })
    }

    /// The host's links to pods with these interfaces.
    pub fn host_links<'a>(
        &self,
        nics: impl Iterator<Item = &'a PodNic>,
        host: &HostNetwork,
    ) -> Vec<HostLink> {
        let mut links: BTreeMap<&str, HostLink> = BTreeMap::new();
        for nic in nics.filter(|nic| nic.mode == NicMode::Macvlan && !nic.addresses.is_empty()) {
            let parent = host.parents.get(&nic.parent);
            let parent: Vec<&IpNet> = parent.iter().flat_map(|parent| &parent.addresses).collect();
            let link = links
                .entry(&nic.parent)
                .or_insert_with(|| self.host_link(&nic.parent));
            for own in &nic.addresses {
                // On the pod's network, as the pod has it: it answers there.
                let near = parent.iter().find(|near| own.contains(&near.addr()));
                let near = near.map(|near| near.addr());
                if let Some(v6) = near.filter(IpAddr::is_ipv6) {
                    link.addresses.insert(v6.into());
                }
                link.routes.insert(HostRoute {
                    to: own.addr(),
                    source: near.filter(IpAddr::is_ipv4),
                });
            }
        }
        links.into_values().collect()
    }

    fn host_link(&self, parent: &str) -> HostLink {
        let hash = Hasher::new("tank.host_link.v1")
            .field(self.host.machine.as_bytes())
            .field(parent.as_bytes())
            .finish();
        let [a, b, c] = HOST_LINK_MAC;
        // Those of ports and bridges are below.
        let [d, e, f] = first_bytes::<3>(&hash);
        HostLink {
            name: host_link_name(parent),
            parent: parent.to_owned(),
            mac: [a, b, c, d | 2, e, f],
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
        }
    }
}

fn declared<'a>(graph: &'a Graph, pod: &Name) -> Option<&'a BTreeMap<Name, Nic>> {
    match &graph.sandbox(pod)?.0.network {
        Network::Nics(nics) => Some(nics),
        _ => None,
    }
}

/// The parents that the interfaces of a graph name; `"auto"` among them, where one leaves it open.
pub fn parents(graph: &Graph) -> BTreeSet<&str> {
    let nics = graph
        .pods()
        .filter_map(|pod| declared(graph, pod))
        .flatten();
    nics.map(|(_, nic)| nic.parent.as_str()).collect()
}

/// The parent that is meant. `"auto"` is decided when an interface is made, and holds until its
/// parent is gone or down: a pod does not move because the host's default route does.
fn parent_of<'a>(
    nic: &'a Nic,
    host: &'a HostNetwork,
    found: Option<&'a PodNic>,
) -> Result<&'a str, NicError> {
    if nic.parent != "auto" {
        return Ok(&nic.parent);
    }
    let is_up = |found: &&PodNic| {
        host.parents
            .get(&found.parent)
            .is_some_and(|link| link.is_up)
    };
    let held = found.filter(is_up).map(|found| &found.parent);
    let parent = held.or(host.uplink.as_ref());
    // While the host has no default route at all, one that is there stays.
    let parent = parent.or(found.map(|found| &found.parent));
    parent.map(String::as_str).ok_or(NicError::NoDefaultRoute)
}

/// `tank-eth0`; of a parent with a longer name the hash of it, and of one by whose name it would be
/// called as a bridge of a network is.
pub fn host_link_name(parent: &str) -> String {
    let name = format!("{HOST_LINK_PREFIX}{parent}");
    if name.len() <= MAX_LINK_NAME && !is_hash_of_network(parent) {
        return name;
    }
    let hash = Digest::of(parent.as_bytes()).to_string();
    let hash = hash.rsplit(':').next().unwrap_or_default();
    let hash = hash.get(..MAX_LINK_NAME - HOST_LINK_PREFIX.len());
    format!("{HOST_LINK_PREFIX}{}", hash.unwrap_or_default())
}

/// Whether this is what follows the prefix in the name of a network's bridge: as many digits as a host
/// link's hash never has.
pub(super) fn is_hash_of_network(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == BRIDGE_DIGITS && text.bytes().all(is_digit)
}

/// How the names of host links begin.
pub const HOST_LINK_PREFIX: &str = "tank-";

fn first_bytes<const N: usize>(hash: &Digest) -> [u8; N] {
    hash.as_bytes().first_chunk().copied().unwrap_or([0; N])
}

/// What keeps interfaces from being connected that `wanted` declares and `previous` did not: one
/// text for each. Two addresses that are one on this host, where `"auto"` is a link that another
/// interface names, are among it.
pub fn unusable(previous: &Graph, wanted: &Target<'_>, host: &HostNetwork) -> Vec<Unusable> {
    let mut problems = Vec::new();
    let mut taken: BTreeMap<(String, IpAddr), String> = BTreeMap::new();
    let nics = wanted.graph.pods().flat_map(|pod| {
        let before = declared(previous, pod);
        let nics = declared(wanted.graph, pod).into_iter().flatten();
        nics.map(move |(name, nic)| {
            let is_new = before.and_then(|before| before.get(name)) != Some(nic);
            (is_new, pod, name, nic)
        })
    });
    let mut nics: Vec<_> = nics.collect();
    // Those that were there before keep what they have.
    nics.sort_by_key(|(is_new, ..)| *is_new);
    for (is_new, pod, name, nic) in nics {
        let at = format!("pods.{pod}.network.nics.{name}");
        let field = ["pods", pod.as_str(), "network", "nics", name.as_str()];
        let nic = match wanted.nic((pod, name), nic, host, None) {
            Ok(nic) => nic,
            Err(why) if is_new => {
                let text = format!("{at}.{}: {why}", why.field());
                problems.push(Unusable::new(field.into_iter().chain([why.field()]), text));
                continue;
            }
            Err(_) => continue,
        };
        for own in nic.addresses.iter().map(IpNet::addr) {
            if let Some(whose) = wanted.has_already(own, host).filter(|_| is_new) {
                let text = format!("{at}: {own} is {whose}");
                problems.push(Unusable::new(field, text));
            }
            let other = taken.insert((nic.parent.clone(), own), at.clone());
            if let Some(other) = other.filter(|_| is_new) {
                let parent = &nic.parent;
                let text = format!("{at}: {own} is taken on {parent}, by {other}");
                problems.push(Unusable::new(field, text));
            }
        }
    }
    problems
}
