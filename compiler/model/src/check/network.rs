//! The network of a pod: its interfaces, and the ports that lead to it.

use super::Pass;
use crate::{
    name::Name,
    spec::{MAX_PORTS, Network, Nic, Pod, Publish},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

impl Pass<'_> {
    pub(super) fn network(&mut self, name: &Name, pod: &Pod) {
        if let Network::Nics(nics) = &pod.network {
            for (nic, spec) in nics {
                self.nic(nic, spec);
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
        self.declared_ports(pod);
        self.published(name, pod);
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
        if nic.parent != "auto"
            && (nic.parent.len() > 15
                || nic.parent.is_empty()
                || nic.parent.contains(['/', ' ', '\0']))
        {
            let message = format!("`{}` can't be the name of a network interface", nic.parent);
            self.report(
                "tank::nic::parent",
                &field("parent"),
                message,
                "use the name `ip link` shows, or \"auto\"",
            );
        }
        if let (Some(address), Some(pool)) = (nic.address, nic.pool)
            && !pool.contains(&address.addr())
        {
            let message = format!("{} is not in the pool {pool}", address.addr());
            self.report(
                "tank::nic::outside_pool",
                &field("address"),
                message,
                "choose one from the pool, or drop it",
            );
        }
        if let (Some(address), Some(gateway)) = (nic.address, nic.gateway)
            && !address.contains(&gateway)
        {
            let message = format!("the gateway {gateway} is not in the network of {address}");
            self.report(
                "tank::nic::gateway",
                &field("gateway"),
                message,
                "a gateway is reached directly",
            );
        }
    }

    fn published(&mut self, name: &Name, pod: &Pod) {
        if pod.network != Network::Bridge && !pod.publish.is_empty() {
            let message = format!("pod `{name}` publishes ports but has no address of its own");
            let help = "use `network = 'bridge`, or drop `publish`: with `'host` its ports are the host's already";
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
