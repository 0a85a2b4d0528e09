//! Where a registry may lead: not to this host, by whichever of its addresses, nor to what answers on its own link (a
//! cloud's metadata, a router), unless the registry is of this host itself.

use crate::registries::Proxy;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, OnceLock},
};
use url::Host;

/// Who is let through for one registry.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The registry's name.
    registry: String,
    /// The names of proxies: who runs this host says what they are.
    proxies: Vec<String>,
    /// It is of this host.
    open: bool,
    /// Whether the registry's own name stood for this host when it was asked for first: who has the name
    /// may say otherwise afterwards.
    own_is_here: Arc<OnceLock<bool>>,
}

impl Guard {
    /// Of the registry `HOST` or `HOST:PORT`.
    pub fn of_registry(registry: &str) -> Self {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let address = host.parse::<IpAddr>();
        Self {
            own_is_here: Arc::default(),
            registry: host.to_owned(),
            proxies: Vec::new(),
            open: host == "localhost" || address.is_ok_and(is_of_this_host),
        }
    }

    /// The same, where this proxy, or those that the environment names, may be of this host.
    pub fn behind(mut self, proxy: Option<&Proxy>) -> Self {
        let hosts = |url: &Url| url.host_str().map(str::to_owned);
        match proxy {
            Some(Proxy::None) => {}
            Some(Proxy::Url(url)) => self.proxies.extend(hosts(url)),
            None => {
                let names = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];
                let values = names
                    .into_iter()
                    .flat_map(|name| [name.to_owned(), name.to_lowercase()])
                    .filter_map(|name| std::env::var(name).ok());
                // One without a scheme is one of http.
                let urls = values.filter_map(|text| {
                    let url = Url::parse(&text).ok().filter(Url::has_host);
                    url.or_else(|| Url::parse(&format!("http://{text}")).ok())
                });
                self.proxies.extend(urls.filter_map(|url| hosts(&url)));
            }
        }
        self
    }

    /// Whether it may lead there, as far as its text says. What a name stands for is looked at when it
    /// is resolved.
    pub fn lets(&self, url: &Url) -> bool {
        self.open
            || match url.host() {
                Some(Host::Ipv4(address)) => !is_of_this_host(address.into()),
                Some(Host::Ipv6(address)) => !is_of_this_host(address.into()),
                Some(Host::Domain(name)) => name == self.registry || !is_localhost(name),
                None => true,
            }
    }

    /// Those of the addresses of a name that it may lead to.
    fn filter(&self, name: &str, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let is_here = |address: &SocketAddr| is_of_this_host(address.ip());
        let free = self.open
            || self.proxies.iter().any(|proxy| proxy == name)
            || name == self.registry
                && *self
                    .own_is_here
                    .get_or_init(|| addresses.iter().any(is_here));
        let mut addresses = addresses;
        addresses.retain(|address| free || !is_here(address));
        addresses
    }
}

/// Whether a name is that of this host (RFC 6761, section 6.3), also where a proxy looks it up.
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Loopback, link-local, one of the host's own addresses, or none at all.
fn is_of_this_host(address: IpAddr) -> bool {
    is_near(address) || is_own(address.to_canonical())
}

/// Whether the host has an address: the kernel speaks to it from itself. Nothing is sent.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        // Any port but none.
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address)
}

/// Loopback, link-local, or none at all.
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_link_local() || address.octets()[0] == 0
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified()
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses = guard.filter(&name, found.collect());
            if addresses.is_empty() {
                return Err(
                    format!("`{name}` stands for this host, or one on its own link").into(),
                );
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_leads_nowhere_on_this_host_unless_it_is_there() {
        let lets = |registry: &str, url: &str| {
            Guard::of_registry(registry).lets(&Url::parse(url).expect("a url"))
        };
        for here in [
            "https://127.0.0.1/x",
            "https://127.9.9.9:5000/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://[fe80::1]/",
            "https://0.0.0.0/",
            "https://0x7f000001/",
            "https://2130706433/",
        ] {
            assert!(!lets("registry.example", here), "{here}");
            assert!(lets("127.0.0.1:5000", here), "{here}");
            assert!(lets("localhost:5000", here), "{here}");
        }
        for there in [
            "https://cdn.example/x",
            "https://10.0.0.1/x",
            "https://[fd00::1]/",
        ] {
            assert!(lets("registry.example", there), "{there}");
        }
        for here in [
            "https://localhost/",
            "https://localhost./",
            "https://x.LOCALHOST:1/",
        ] {
            assert!(!lets("registry.example", here), "{here}");
        }
    }

    #[test]
    fn who_runs_this_host_says_what_its_names_stand_for() {
        let at = |address: &str| -> Vec<SocketAddr> { vec![address.parse().expect("an address")] };
        let (here, there) = (at("127.0.0.1:0"), at("10.0.0.1:0"));
        let guard = Guard::of_registry("registry.lan:5000");
        assert_eq!(guard.filter("elsewhere.lan", here.clone()), []);
        assert_eq!(guard.filter("elsewhere.lan", there.clone()), there);
        assert_eq!(guard.filter("registry.lan", here.clone()), here);
        let proxy = Proxy::try_from("http://proxy.lan:3128".to_owned()).expect("a proxy");
        let guard = guard.behind(Some(&proxy));
        assert_eq!(guard.filter("proxy.lan", here.clone()), here);
        assert_eq!(guard.filter("elsewhere.lan", here.clone()), []);
        // A name that was elsewhere, and is here afterwards.
        let guard = Guard::of_registry("rebind.lan:5000");
        assert_eq!(guard.filter("rebind.lan", there.clone()), there);
        assert_eq!(guard.clone().filter("rebind.lan", here), []);
    }
}
