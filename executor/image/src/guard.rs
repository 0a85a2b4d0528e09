//! Where a registry may lead: not to this host, nor to what answers on its own link (a cloud's
//! metadata, a router), unless the registry is of this host itself.

use crate::registries::Proxy;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use std::net::{IpAddr, SocketAddr};
use url::Host;

/// Who is let through for one registry.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The names of the registry and of proxies: who runs this host says what they are.
    own: Vec<String>,
    /// It is of this host.
    open: bool,
}

impl Guard {
    /// Of the registry `HOST` or `HOST:PORT`.
    pub fn of_registry(registry: &str) -> Self {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let address = host.parse::<IpAddr>();
        Self {
            own: vec![host.to_owned()],
            open: host == "localhost" || address.is_ok_and(is_of_this_host),
        }
    }

    /// The same, where this proxy, or those that the environment names, may be of this host.
    pub fn behind(mut self, proxy: Option<&Proxy>) -> Self {
        let hosts = |url: &Url| url.host_str().map(str::to_owned);
        match proxy {
            Some(Proxy::None) => {}
            Some(Proxy::Url(url)) => self.own.extend(hosts(url)),
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
                self.own.extend(urls.filter_map(|url| hosts(&url)));
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
                Some(Host::Domain(_)) | None => true,
            }
    }

    fn lets_address(&self, name: &str, address: IpAddr) -> bool {
        self.open || self.own.iter().any(|own| own == name) || !is_of_this_host(address)
    }
}

/// Loopback, link-local, or none at all.
fn is_of_this_host(address: IpAddr) -> bool {
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
            let let_through =
                found.filter(|address: &SocketAddr| guard.lets_address(&name, address.ip()));
            let addresses: Vec<SocketAddr> = let_through.collect();
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
        let guard = Guard::of_registry("registry.lan:5000");
        let loopback = "127.0.0.1".parse().expect("an address");
        assert!(
            guard.lets_address("registry.lan", loopback),
            "who runs this host says so"
        );
        assert!(!guard.lets_address("elsewhere.lan", loopback));
        let proxy = Proxy::try_from("http://proxy.lan:3128".to_owned()).expect("a proxy");
        let guard = guard.behind(Some(&proxy));
        assert!(guard.lets_address("proxy.lan", loopback));
        assert!(!guard.lets_address("elsewhere.lan", loopback));
    }
}
