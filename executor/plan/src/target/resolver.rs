//! What the host's resolver files say: the servers it asks, the domains it looks in, its options.
//!
//! Where all servers of the host's own file are on its loopback (systemd-resolved puts its own at
//! 127.0.0.53), those that systemd-resolved asks itself take their place, and the rest of its file
//! with them.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where systemd-resolved writes the servers it asks (systemd-resolved.service(8)).
pub const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// What the host's files say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Resolver {
    /// Its `/etc/resolv.conf`; empty where there is none.
    pub host: String,
    /// Its [`UPSTREAM`]. Needed only where [`Resolver::needs_upstream`]; empty otherwise.
    pub upstream: String,
}

impl Resolver {
    /// Whether the host's own file, which says `host`, has no server beyond the host's loopback.
    pub fn needs_upstream(host: &str) -> bool {
        !addresses(host).any(|server| !server.is_loopback())
    }

    /// The servers that the host asks, as its own file has them, for who shares its network.
    pub fn host_servers(&self) -> Vec<String> {
        values(&self.host, "nameserver")
            .map(str::to_owned)
            .collect()
    }

    /// The servers to ask for names that no pod has, as a process on the host reaches them: those
    /// of systemd-resolved where the host asks that one, or else the host's own, on its loopback or
    /// not. A server on a link (`fe80::1%eth0`) is left out.
    pub fn upstreams(&self) -> Vec<IpAddr> {
        addresses(self.source()).collect()
    }

    /// The host's search domains. `shares_network`: as its own file has them.
    pub fn search(&self, shares_network: bool) -> Vec<String> {
        // As resolv.conf(5) has it, the last of these lines counts.
        let source = if shares_network {
            &self.host
        } else {
            self.source()
        };
        let mut lines = source
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let last = lines.rfind(|words| matches!(words[..], ["search" | "domain", _, ..]));
        let words = last.into_iter().flat_map(|words| words.into_iter().skip(1));
        // The root is where every name is looked for anyhow.
        words
            .filter(|domain| *domain != ".")
            .map(str::to_owned)
            .collect()
    }

    /// The host's options. `shares_network`: as its own file has them.
    pub fn options(&self, shares_network: bool) -> Vec<String> {
        let source = if shares_network {
            &self.host
        } else {
            self.source()
        };
        values(source, "options").map(str::to_owned).collect()
    }

    /// The file that counts for who is not on the host's loopback.
    fn source(&self) -> &str {
        let other = Self::needs_upstream(&self.host) && addresses(&self.upstream).next().is_some();
        if other { &self.upstream } else { &self.host }
    }
}

/// The words after `key`, in all lines that begin with it.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().flat_map(move |line| {
        let mut words = line.split_whitespace();
        let is = words.next() == Some(key);
        words.filter(move |_| is)
    })
}

/// The servers of a file that are addresses of somebody.
fn addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    let servers = values(text, "nameserver").filter_map(|server| server.parse::<IpAddr>().ok());
    let servers = servers.map(|server| server.to_canonical());
    servers.filter(|server| !server.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(host: &str, upstream: &str) -> Resolver {
        Resolver {
            host: host.to_owned(),
            upstream: upstream.to_owned(),
        }
    }

    fn upstreams(resolver: &Resolver) -> Vec<String> {
        resolver.upstreams().iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn the_hosts_servers_are_asked_in_its_order() {
        let mixed = resolver(
            "# comment\nnameserver 127.0.0.1\nnameserver 9.9.9.9\nsearch example.org\noptions ndots:2 rotate\n",
            "nameserver 192.0.2.1\n",
        );
        assert_eq!(upstreams(&mixed), ["127.0.0.1", "9.9.9.9"]);
        assert_eq!(mixed.search(false), ["example.org"]);
        assert_eq!(mixed.options(false), ["ndots:2", "rotate"]);
    }

    #[test]
    fn where_systemd_resolved_serves_its_upstreams_take_their_place() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
        let both = resolver(
            stub,
            "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nsearch lan\n",
        );
        assert_eq!(upstreams(&both), ["192.0.2.53", "2001:db8::53"]);
        assert_eq!(both.search(false), ["lan"]);
        assert_eq!(both.options(false), Vec::<String>::new());
        assert_eq!(
            both.host_servers(),
            ["127.0.0.53"],
            "on the host's network its own server answers"
        );
        assert_eq!(both.search(true), Vec::<String>::new());
        assert_eq!(both.options(true), ["edns0", "trust-ad"]);
    }

    #[test]
    fn a_server_on_the_hosts_loopback_is_asked_where_there_is_no_other() {
        let loopback = "nameserver 127.0.0.1\nnameserver ::1\nnameserver ::ffff:127.0.0.1\nnameserver 0.0.0.0\n";
        let none = resolver(loopback, "");
        assert_eq!(upstreams(&none), ["127.0.0.1", "::1", "127.0.0.1"]);
        assert_eq!(upstreams(&resolver("", "")), Vec::<String>::new());
    }

    #[test]
    fn the_last_list_of_domains_counts() {
        let two = resolver("domain old\nsearch a b\nnameserver 192.0.2.1\n", "");
        assert_eq!(two.search(false), ["a", "b"]);
    }
}
