//! What the files say that Tank writes into a container: names and resolvers, and those that were
//! declared. Secrets are none of them: they never become data.

use crate::target::{Target, names::DOMAIN};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tank_model::{
    Digest, Name,
    graph::PodNode,
    spec::{self, HostAddress, Network},
};

/// Where names are looked up before any server is asked (hosts(5)).
pub const HOSTS: &str = "/etc/hosts";

/// Which servers are asked (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Target<'_> {
    /// What a container's files say, by their paths.
    pub fn files(&self, pod: &Name, container: &Name) -> BTreeMap<String, spec::File> {
        let mut files = self.graph.files(pod, container);
        let (Some((sandbox, _)), Some(node)) = (self.graph.sandbox(pod), self.graph.pod(pod))
        else {
            return files;
        };
        let own = self.addresses(pod).into_iter();
        let mut addresses: BTreeSet<IpAddr> = own.map(|own| own.addr()).collect();
        let nics = self.declared_nics(pod).into_iter().flatten();
        addresses.extend(nics.flat_map(|(_, nic)| nic.static_addresses().map(|own| own.addr())));
        let gateways = self.servers(pod);
        let generated = [
            (
                HOSTS,
                hosts_file(&sandbox.hostname, &addresses, node, &gateways),
            ),
            ("/etc/hostname", format!("{}\n", sandbox.hostname)),
            (
                RESOLV_CONF,
                self.resolver_file(&sandbox.network, node, &gateways),
            ),
        ];
        for (path, text) in generated {
            files.entry(path.to_owned()).or_insert(spec::File {
                text,
                mode: spec::Mode(0o644),
                reload: None,
            });
        }
        files
    }

    /// The digests of what a container's files say, by their paths: what an observation is compared
    /// with.
    pub fn file_digests(&self, pod: &Name, container: &Name) -> BTreeMap<String, Digest> {
        let files = self.files(pod, container).into_iter();
        files
            .map(|(path, file)| (path, Digest::of(file.text.as_bytes())))
            .collect()
    }

    /// `/etc/resolv.conf` of a pod. On the bridge it asks Tank's server and looks for short names
    /// below [`DOMAIN`] first; on the host's network, or with interfaces of its own, it asks whom the
    /// host asks; elsewhere there is nobody.
    fn resolver_file(
        &self,
        network: &Network,
        node: &PodNode,
        gateways: &BTreeSet<IpAddr>,
    ) -> String {
        let declared = &node.dns;
        let (servers, first): (Vec<String>, _) = match network {
            Network::Bridge => (
                gateways.iter().map(IpAddr::to_string).collect(),
                Some(DOMAIN),
            ),
            Network::Host if declared.servers.is_empty() => (self.resolver.host_servers(), None),
            Network::Host => (
                declared.servers.values().map(IpAddr::to_string).collect(),
                None,
            ),
            Network::Nics(_) if declared.servers.is_empty() => {
                // The host's loopback is not the pod's.
                let servers = self.resolver.upstreams().into_iter();
                let others = servers.filter(|server| !server.is_loopback());
                (others.map(|server| server.to_string()).collect(), None)
            }
            Network::Nics(_) => (
                declared.servers.values().map(IpAddr::to_string).collect(),
                None,
            ),
            Network::None => {
                return "# the pod has no network on which a server could be asked\n".to_owned();
            }
        };
        let shares = *network == Network::Host;
        let host = || self.resolver.search(shares);
        let search: Vec<String> = match declared.search.is_empty() {
            true => host(),
            false => declared.search.values().cloned().collect(),
        };
        let options: Vec<String> = match declared.options.is_empty() {
            true => self.resolver.options(shares),
            false => {
                let option = |(name, value): (&String, &String)| match value.is_empty() {
                    true => name.clone(),
                    false => format!("{name}:{value}"),
                };
                declared.options.iter().map(option).collect()
            }
        };
        let search: Vec<String> = first.map(str::to_owned).into_iter().chain(search).collect();
        let mut text: String = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        if !search.is_empty() {
            text.push_str(&format!("search {}\n", search.join(" ")));
        }
        if !options.is_empty() {
            text.push_str(&format!("options {}\n", options.join(" ")));
        }
        text
    }
}

/// `/etc/hosts` of a pod: loopback, its own name at its own addresses, and what it declares.
fn hosts_file(
    hostname: &str,
    addresses: &BTreeSet<IpAddr>,
    node: &PodNode,
    gateways: &BTreeSet<IpAddr>,
) -> String {
    let line = |address: &dyn std::fmt::Display, name: &str| format!("{address}\t{name}\n");
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    if addresses.is_empty() {
        text.push_str(&line(&"127.0.0.1", hostname));
    }
    text.extend(addresses.iter().map(|address| line(address, hostname)));
    for (name, to) in &node.extra_hosts {
        match to {
            HostAddress::Address(address) => text.push_str(&line(address, name)),
            HostAddress::Gateway => text.extend(gateways.iter().map(|address| line(address, name))),
        }
    }
    text
}
