//! `/etc/resolv.conf` of a pod: the host's, without servers on the host's loopback, which a pod
//! can't reach. Where all of them are (systemd-resolved puts its own at 127.0.0.53), the servers it
//! asks itself take their place.

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
    /// Whether the host's own file, which says `host`, has no server that a pod can reach.
    pub fn needs_upstream(host: &str) -> bool {
        !servers(host).any(is_reachable)
    }

    /// What the file of a pod says; `shares_network`: the pod is on the host's network, with its
    /// loopback.
    pub fn text(&self, shares_network: bool) -> String {
        if shares_network {
            return lines(&self.host, |_| true);
        }
        for source in [&self.host, &self.upstream] {
            if servers(source).any(is_reachable) {
                return lines(source, is_reachable);
            }
        }
        let why = match servers(&self.host).collect::<Vec<_>>()[..] {
            [] => "the host's /etc/resolv.conf names no server".to_owned(),
            [..] => format!(
                "the servers of the host's /etc/resolv.conf are on its loopback, where a pod can't reach them, and \
                 {UPSTREAM} names no other"
            ),
        };
        format!("# {why}\n{}", lines(&self.host, is_reachable))
    }
}

fn servers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    })
}

/// Whether a pod can reach a server: not on loopback, nor by a link of the host (`fe80::1%eth0`).
fn is_reachable(server: &str) -> bool {
    let loopback =
        |address: IpAddr| address.to_canonical().is_loopback() || address.is_unspecified();
    !server.contains('%') && !server.parse::<IpAddr>().is_ok_and(loopback)
}

/// The lines that a resolver knows, with the servers that are wanted.
fn lines(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let known = |line: &&str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(server)) => wanted(server),
            (Some("search" | "options" | "domain"), Some(_)) => true,
            _ => false,
        }
    };
    text.lines()
        .filter(known)
        .map(|line| format!("{line}\n"))
        .collect()
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

    #[test]
    fn servers_on_the_hosts_loopback_are_left_out() {
        let mixed = resolver(
            "# comment\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch example.org\n",
            "",
        );
        assert_eq!(
            mixed.text(false),
            "nameserver 9.9.9.9\nsearch example.org\n"
        );
        assert_eq!(
            mixed.text(true),
            "nameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch example.org\n"
        );
    }

    #[test]
    fn where_systemd_resolved_serves_its_upstreams_take_their_place() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
        let both = resolver(
            stub,
            "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nsearch lan\n",
        );
        assert_eq!(
            both.text(false),
            "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch lan\n"
        );
        assert_eq!(
            both.text(true),
            stub,
            "on the host's network its own server answers"
        );
    }

    #[test]
    fn a_file_without_a_server_says_why() {
        let none = resolver(
            "nameserver 127.0.0.53\nnameserver ::1\nnameserver ::ffff:127.0.0.1\nsearch lan\n",
            "nameserver 127.0.0.1\n",
        );
        assert_eq!(
            none.text(false),
            "# the servers of the host's /etc/resolv.conf are on its loopback, where a pod can't reach them, and \
             /run/systemd/resolve/resolv.conf names no other\nsearch lan\n"
        );
        assert_eq!(
            resolver("", "").text(false),
            "# the host's /etc/resolv.conf names no server\n"
        );
    }
}
