//! What belongs to no pod, and what is listed for all of them at once.

use super::Observer;
use crate::{pods::failure, rules};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};
use tank_model::Name;
use tank_plan::target::Table;
use tank_proto::shim::Failure;
use tank_sys::{nft, route::Link};

/// The host at one look.
pub struct HostSnapshot {
    /// The host's own links, by their names: one for each pod.
    pub links: Arc<BTreeMap<String, Link>>,
    /// None: there is none, or it is not as it should be.
    pub bridge: Option<Link>,
    pub bridge_addresses: Option<BTreeSet<IpNet>>,
    pub gateways: BTreeSet<IpAddr>,
    /// What is in Tank's own table.
    pub firewall: Arc<Option<Table>>,
    /// Names that have a cgroup, a folder, or the upper layers of containers.
    pub left_over: BTreeSet<Name>,
}

impl HostSnapshot {
    /// Reads it. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn read(observer: &Observer) -> Result<Self, Failure> {
        let Observer {
            settings,
            routes,
            cgroups,
            ..
        } = observer;
        let by_name = |link: Link| (link.name.clone(), link);
        let links = observer
            .links
            .get(|| Ok(routes.links()?.into_iter().map(by_name).collect()));
        let links: Arc<BTreeMap<String, Link>> = links.map_err(|e| failure(&e))?;
        let bridge = links
            .get(&settings.config.bridge)
            .filter(|link| link.marked)
            .cloned();
        let bridge_addresses = match bridge.as_ref().filter(|link| link.up) {
            Some(link) => {
                let addresses = routes.addresses(link.index).map_err(|e| failure(&e))?;
                Some(addresses)
            }
            None => None,
        };
        let mut names = cgroups.pods();
        for dir in [
            settings.run_dir.join("pods"),
            settings.state_dir.join("scratch"),
        ] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                names.extend(entry.file_name().into_string());
            }
        }
        let own = settings.bridge_addresses();
        Ok(Self {
            links,
            bridge,
            bridge_addresses,
            gateways: own.into_iter().map(|address| address.addr()).collect(),
            firewall: observer
                .rules
                .get(|| Ok(nft::list(rules::TABLE)?.map(rules::from_kernel)))
                .map_err(|e| failure(&e))?,
            left_over: names
                .into_iter()
                .filter_map(|name| Name::of_pod(name).ok())
                .collect(),
        })
    }
}
