//! The network of a pod: its interfaces, and the ports that lead to it.

use super::Pass;
use crate::{
    name::Name,
    spec::{MAX_PORTS, Network, Nic, NicMode, NicRoute, Pod, Publish},
};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

/// The shortest that IPv6 works with (RFC 8200), and the longest that a packet can be.
const MIN_MTU: u32 = 1280;
const MAX_MTU: u32 = 65_535;

/// As the kernel has it (`dev_valid_name`).
fn is_link_name(name: &str) -> bool {
    let is_odd = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    !matches!(name, "" | "." | "..") && name.len() <= 15 && !name.contains(is_odd)
}

/// Why no host can have an address.
fn unusable(own: IpNet) -> Option<&'static str> {
    let (address, single) = (own.addr(), own.prefix_len() == own.max_prefix_len());
    let first = address == own.network() && !single && own.prefix_len() + 1 != own.max_prefix_len();
    if address.is_loopback() {
        Some("it is loopback")
    } else if address.is_multicast() {
        Some("it is for groups")
    } else if address.is_unspecified() {
        Some("it is nobody's")
    } else if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        Some("the kernel makes each interface its own link-local one")
    } else if first {
        Some("it is its network's own")
    } else if address.is_ipv4() && address == own.broadcast() && own.prefix_len() < 31 {
        Some("it is its network's broadcast")
    } else {
        None
    }
}

impl Pass<'_> {
    pub(super) fn network(&mut self, name: &Name, pod: &Pod) {
        if let Network::Nics(nics) = &pod.network {
            let before = self.problems.len();
            for (nic, spec) in nics {
                self.nic(nic, spec);
            }
            if self.problems.len() == before {
                self.mute(name, pod, nics);
            }
            if nics.is_empty() {
                let message = format!("pod `{name}` has a network without interfaces");
                self.report(
                    "tank::nic::none",
                    &["network", "nics"],
                    message,
                    "declare one, or use `network = 'none`",
                );
            }
        }
        self.own_gateways(pod);
        self.administered_macvlans(pod);
        self.declared_ports(pod);
        self.published(name, pod);
        self.published_at(pod);
    }

    /// A pod whose interfaces have no address speaks to nobody, unless it makes its own packets or gives
    /// itself one.
    fn mute(&mut self, name: &Name, pod: &Pod, nics: &BTreeMap<Name, Nic>) {
        let speaks = |nic: &Nic| nic.pool.is_some() || nic.static_addresses().next().is_some();
        let mut added = pod
            .processes()
            .flat_map(|(.., spec)| &spec.capabilities.add);
        let is_own =
            added.any(|capability| matches!(capability.as_str(), "CAP_NET_ADMIN" | "CAP_NET_RAW"));
        let Some(first) = nics.keys().next() else {
            return;
        };
        if nics.values().any(speaks) || is_own {
            return;
        }
        self.report(
            "tank::nic::no_address",
            &["network", "nics", first.as_str()],
            format!("no interface of pod `{name}` has an address"),
            "there is no DHCP: give it an `address` such as \"10.0.0.5/24\", or a `pool`",
        );
    }

    fn nic(&mut self, name: &Name, nic: &Nic) {
        let field = |last: &'static str| ["network", "nics", name.as_str(), last];
        if name.as_str().len() > 15 {
            let message = format!(
                "`{name}` has more than the 15 characters a network interface's name can have"
            );
            self.report(
                "tank::nic::name_too_long",
                &["network", "nics", name.as_str()],
                message,
                "for example `eth0`",
            );
        }
        if nic.parent == "auto" && nic.mode == NicMode::Bridge {
            let message = format!("`{name}` does not say which bridge it joins");
            self.report(
                "tank::nic::parent",
                &["network", "nics", name.as_str()],
                message,
                "name a bridge of the host (`parent = \"br0\"`), use `mode = 'macvlan`, or `network = 'bridge` for Tank's own",
            );
        }
        if !is_link_name(&nic.parent) {
            let message = format!("`{}` can't be the name of a network interface", nic.parent);
            self.report(
                "tank::nic::parent",
                &field("parent"),
                message,
                "use the name `ip link` shows, or \"auto\"",
            );
        }
        if name.as_str() == "lo" {
            let message = "`lo` is every pod's loopback".to_owned();
            self.report(
                "tank::nic::loopback",
                &["network", "nics", "lo"],
                message,
                "call it for example `eth0`",
            );
        }
        self.nic_addresses(name, nic);
        self.nic_pool(name, nic);
        self.nic_routes(name, nic);
        if let Some(mtu) = nic.mtu
            && !(MIN_MTU..=MAX_MTU).contains(&mtu)
        {
            let message = format!("{mtu} is no length that packets can be limited to");
            self.report(
                "tank::nic::mtu",
                &field("mtu"),
                message,
                "use 1280 to 65535, or drop it: the parent's counts then",
            );
        }
    }

    fn nic_addresses(&mut self, name: &Name, nic: &Nic) {
        let nic_path = ["network", "nics", name.as_str()];
        let first = nic.address.map(|own| (own, vec!["address"]));
        let more = nic.addresses.iter();
        let more = more.map(|(name, own)| (own.0, vec!["addresses", name.as_str()]));
        for (own, field) in first.into_iter().chain(more) {
            let Some(why) = unusable(own) else { continue };
            let message = format!("{own} can't be a pod's address: {why}");
            self.report(
                "tank::nic::address",
                &[&nic_path[..], &field].concat(),
                message,
                "write one that a host of that network can have, for example \"10.0.0.5/24\"",
            );
        }
        let field = |last: &'static str| ["network", "nics", name.as_str(), last];
        if let (Some(address), Some(pool)) = (nic.address, nic.pool)
            && !pool.contains(&address.addr())
        {
            let message = format!("{} is not in the pool {pool}", address.addr());
            self.report(
                "tank::nic::outside_pool",
                &field("pool"),
                message,
                "choose an address from the pool, or drop it",
            );
        }
    }

    fn nic_pool(&mut self, name: &Name, nic: &Nic) {
        let field = |last: &'static str| ["network", "nics", name.as_str(), last];
        let Some(pool) = nic.pool else {
            if nic.prefix.is_some() {
                let message = "there is no pool whose network this could be of".to_owned();
                let help = "an `address` has it behind its `/`; drop this, or declare a `pool`";
                self.report("tank::nic::pool", &field("prefix"), message, help);
            }
            return;
        };
        if pool != pool.trunc() {
            let message = format!("{pool} is an address in a network, not a pool of addresses");
            let help = format!("write \"{}\"", pool.trunc());
            return self.report("tank::nic::pool", &field("pool"), message, help);
        }
        if let Some(prefix) = nic.prefix
            && (prefix == 0 || prefix > u32::from(pool.prefix_len()))
        {
            let message = format!("no network with a prefix of {prefix} bits has all of {pool}");
            let help = format!(
                "use 1 to {}, or drop it: the pool's counts then",
                pool.prefix_len()
            );
            return self.report("tank::nic::pool", &field("prefix"), message, help);
        }
        let Some(own) = nic.own_pool() else { return };
        let first = (0..own.len().min(3)).find_map(|nth| own.nth(nth));
        let why = match first.map(|first| IpNet::new(first, own.network.prefix_len())) {
            Some(Ok(first)) => unusable(first),
            _ => Some("no address of it is a host's"),
        };
        if let Some(why) = why {
            let message = format!("pods can't have addresses of {pool}: {why}");
            let help =
                "write a part of the network that is left to pods, for example \"10.0.0.128/25\"";
            self.report("tank::nic::pool", &field("pool"), message, help);
        }
    }

    fn nic_routes(&mut self, name: &Name, nic: &Nic) {
        let nic_path = ["network", "nics", name.as_str()];
        let pool = nic.own_pool().map(|pool| pool.network);
        let own = nic.static_addresses().chain(pool);
        let own: Vec<String> = own.map(|own| own.to_string()).collect();
        let gateway = nic.gateway.map(|via| (via, vec!["gateway"]));
        let more = nic.routes.iter();
        let more = more.map(|(name, route)| (route.via, vec!["routes", name.as_str(), "via"]));
        for (via, field) in gateway.into_iter().chain(more) {
            if nic.reaches(&via) {
                continue;
            }
            let message = match own.is_empty() {
                true => format!("{via} can't be reached: the interface has no address"),
                false => format!("{via} is in no network of {}", own.join(", ")),
            };
            let path = [&nic_path[..], &field].concat();
            let help = match (pool, nic.prefix) {
                (Some(_), None) => {
                    "a next hop is reached directly: say how long the prefix of the pool's network is, for example `prefix = 24`"
                }
                _ => "a next hop is reached directly: give an address of its network",
            };
            self.report("tank::nic::gateway", &path, message, help);
        }
        for (route, NicRoute { to, via }) in &nic.routes {
            let path = [&nic_path[..], &["routes", route.as_str(), "to"]].concat();
            if to.0.addr().is_ipv4() != via.is_ipv4() {
                let message = format!("{} and {via} are of two families", to.0);
                let help = "a route's next hop is of its own family";
                self.report("tank::nic::route", &path, message, help);
            } else if to.0 != to.0.trunc() {
                let message = format!("{} is an address in a network, not a network", to.0);
                let help = format!("write \"{}\"", to.0.trunc());
                self.report("tank::nic::route", &path, message, help);
            }
        }
    }

    fn published(&mut self, name: &Name, pod: &Pod) {
        if pod.network != Network::Bridge && !pod.publish.is_empty() {
            let message = format!("pod `{name}` publishes ports but has no address of its own");
            let help = match &pod.network {
                Network::Nics(_) => {
                    "drop `publish`: its ports are reached at its own addresses already, by everybody on their networks"
                }
                Network::Host => {
                    "use `network = 'bridge`, or drop `publish`: with `'host` its ports are the host's already"
                }
                _ => {
                    "use `network = 'bridge`, or drop `publish`: nothing leads to a pod without a network"
                }
            };
            self.report("tank::publish::no_network", &["publish"], message, help);
        }
        for (port, publish) in &pod.publish {
            for (field, ports) in [("port", publish.port), ("to", publish.target())] {
                if ports.first() == 0 {
                    let message = "0 is no port".to_owned();
                    self.report(
                        "tank::publish::port_zero",
                        &["publish", port.as_str(), field],
                        message,
                        "use 1 to 65535",
                    );
                }
            }
            self.range(port, publish);
            if publish
                .address
                .iter()
                .any(|own| own == IpAddr::from(Ipv6Addr::LOCALHOST))
            {
                let message = "a port can't be published on `::1`".to_owned();
                let help = "the kernel takes no answer to `::1` from another link; use `127.0.0.1`";
                self.report(
                    "tank::publish::ipv6_loopback",
                    &["publish", port.as_str(), "address"],
                    message,
                    help,
                );
            }
        }
    }

    /// Each port of a range leads to one of the pod's, or all of them to one.
    fn range(&mut self, port: &Name, publish: &Publish) {
        let (own, to) = (publish.port.count(), publish.target().count());
        if own > MAX_PORTS {
            let message = format!(
                "`{}` are {own} ports, and at most {MAX_PORTS} are one entry",
                publish.port
            );
            self.report(
                "tank::publish::range",
                &["publish", port.as_str(), "port"],
                message,
                "a pod that needs so many has the host's network: `network = 'host`",
            );
        } else if to != 1 && own != to {
            let message = format!("{own} of the host's ports can't lead to {to} of the pod's");
            self.report(
                "tank::publish::range",
                &["publish", port.as_str(), "to"],
                message,
                "name as many, or one to which all of them lead",
            );
        }
    }

    /// Where a pod says what it listens on, nothing leads elsewhere.
    fn declared_ports(&mut self, pod: &Pod) {
        let declared: BTreeMap<u16, &Name> = pod
            .containers
            .values()
            .flat_map(|spec| &spec.ports)
            .map(|(name, port)| (*port, name))
            .collect();
        if declared.is_empty() {
            return;
        }
        let known: Vec<String> = declared
            .iter()
            .map(|(port, name)| format!("{port} ({name})"))
            .collect();
        for (name, publish) in &pod.publish {
            let mut targets = publish.target().iter();
            if let Some(target) = targets.find(|target| !declared.contains_key(target)) {
                let field = if publish.to.is_some() { "to" } else { "port" };
                let message = format!("nobody in the pod declares port {target}");
                let help = format!(
                    "it declares {}; name one of them, or add this one to `ports`",
                    known.join(", ")
                );
                self.report(
                    "tank::publish::undeclared_port",
                    &["publish", name.as_str(), field],
                    message,
                    help,
                );
            }
        }
    }
}
