//! Networks that sit on a link of the host (`macvlan`, `ipvlan`): their addresses are the LAN's, so they
//! become no bridge here. What a pod has in their place is said where a service is on one.

use super::super::{Compose, Fields, array};
use crate::text_of;
use serde_json::Value;
use std::net::IpAddr;
use tank_model::units::parse_network;

/// What is known of such a network.
#[derive(Debug, Clone)]
pub(in super::super) struct Link {
    driver: String,
    parent: Option<String>,
    /// How long the prefix of its IPv4 subnet is.
    prefix: Option<u8>,
    gateway: Option<String>,
}

impl Compose<'_> {
    /// The network, if its driver makes no bridge; noted then.
    pub(super) fn link(&mut self, name: &str, fields: &Fields) -> Option<Link> {
        let driver = fields.get("driver").and_then(text_of)?;
        let driver = self.plain(&driver)?;
        if matches!(
            driver.as_str(),
            "" | "default" | "bridge" | "nat" | "overlay"
        ) {
            return None;
        }
        let mut text = |value: Option<&Value>| {
            let text = value.and_then(text_of)?;
            self.plain(&text)
        };
        let options = fields.get("driver_opts");
        let parent = text(options.and_then(|options| options.get("parent")));
        let mut link = Link {
            driver,
            parent,
            prefix: None,
            gateway: None,
        };
        let config = fields.get("ipam").and_then(|ipam| ipam.get("config"));
        for config in array(config) {
            let subnet = text(config.get("subnet")).and_then(|text| parse_network(&text).ok());
            if let Some(subnet) = subnet.filter(|subnet| subnet.addr().is_ipv4()) {
                link.prefix = link.prefix.or(Some(subnet.prefix_len()));
                let gateway = text(config.get("gateway"));
                let gateway = gateway.filter(|text| text.parse::<IpAddr>().is_ok());
                link.gateway = link.gateway.or(gateway);
            }
        }
        let why = format!(
            "a network is a bridge of Tank's, and this one is a part of the host's own: it is left out; {}",
            self.instead(&link, &Fields::new())
        );
        self.draft.note(format!("networks.{name}.driver"), why);
        Some(link)
    }

    /// What to write in a pod that is to be on such a network.
    pub(super) fn instead(&mut self, link: &Link, fields: &Fields) -> String {
        let own = fields.get("ipv4_address").and_then(text_of);
        let own = own.and_then(|own| self.plain(&own));
        let own = own.filter(|own| own.parse::<IpAddr>().is_ok());
        let address = match (own, link.prefix) {
            (Some(own), Some(prefix)) => format!("{own}/{prefix}"),
            _ => "…".to_owned(),
        };
        let before = match link.driver.as_str() {
            "ipvlan" => "there is no ipvlan: ",
            _ => "",
        };
        let parent = link.parent.as_deref().unwrap_or("eth0");
        let gateway = link.gateway.as_ref();
        let gateway = gateway.map_or_else(String::new, |via| format!(", gateway = \"{via}\""));
        format!(
            "{before}write `network.nics.eth0 = {{ mode = 'macvlan, parent = \"{parent}\", address = \"{address}\"{gateway} }}` in the pod, which is on no bridge then"
        )
    }
}
