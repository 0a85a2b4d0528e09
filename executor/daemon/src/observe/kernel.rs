//! The kernel's side of a pod: limits, files, the network inside. It is read when something was
//! notified of it, and holds until the next time: a pass costs what has changed, not what is
//! declared.
//!
//! *What notifies*: the shim (a main process ends or is stopped), inotify(7) on the cgroups and the
//! files of each run, rtnetlink(7) in the pod's network, and the daemon itself when it has done
//! something to the pod.

use super::watch::RunWatches;
use crate::{
    pods::{Shim, files},
    settings::Settings,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
};
use tank_model::{Digest, Name};
use tank_plan::target::nics::NicRoute;
use tank_proto::shim::{ContainerState, State};
use tank_sys::{
    cgroup::{Cgroups, ControllerLimits},
    route::{Link, Routes},
};

/// Links with their addresses, and the next hops of default routes.
type Inside = (Vec<(Link, BTreeSet<IpNet>)>, BTreeSet<IpAddr>);

/// What of a pod is wanted.
#[derive(Clone, Debug, Default)]
pub struct PodRequest {
    pub bridged: bool,
    /// Its interfaces are its own.
    pub has_nics: bool,
    /// Of each running container whose files are known: where they are, and their paths.
    pub files: BTreeMap<String, (Arc<OwnedFd>, Vec<String>)>,
}

impl PodRequest {
    /// Whether another request was for the same. The directories are: at one version there is one
    /// run of a container.
    pub fn is_same(&self, other: &Self) -> bool {
        let paths = |request: &Self| {
            let files = request.files.iter();
            files
                .map(|(name, (_, paths))| (name.clone(), paths.clone()))
                .collect()
        };
        let (these, others): (BTreeMap<_, _>, BTreeMap<_, _>) = (paths(self), paths(other));
        let network = |request: &Self| (request.bridged, request.has_nics);
        network(self) == network(other) && these == others
    }
}

/// The kernel's side of a pod.
#[derive(Debug)]
pub struct PodSnapshot {
    pub request: PodRequest,
    /// Of one on bridges: its links that are up, with their addresses.
    pub links: Vec<(Link, BTreeSet<IpNet>)>,
    /// The next hops of its default routes.
    pub gateways: BTreeSet<IpAddr>,
    /// The links of one with interfaces of its own that are up.
    pub nics: Vec<InsideNic>,
    pub containers: BTreeMap<String, ContainerSnapshot>,
    /// The containers that have a cgroup, or upper layers.
    pub parts: BTreeSet<Name>,
    /// All of it is watched: it holds until the pod's version changes.
    pub watched: bool,
}

/// An interface of a pod's own, from inside.
#[derive(Debug)]
pub struct InsideNic {
    pub link: Link,
    pub addresses: BTreeSet<IpNet>,
    pub routes: BTreeSet<NicRoute>,
}

/// The kernel's side of a container.
#[derive(Debug)]
pub struct ContainerSnapshot {
    pub limits: ControllerLimits,
    pub halted: bool,
    pub out_of_memory: bool,
    pub files: Option<BTreeMap<String, Digest>>,
}

/// Reads the kernel's side of one pod.
pub struct PodReader<'a> {
    pub settings: &'a Settings,
    pub cgroups: &'a Cgroups,
    pub watches: &'a RunWatches,
    pub pod: &'a Name,
    pub shim: &'a Shim,
    pub state: &'a State,
}

impl PodReader<'_> {
    /// Reads it. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn read(&self, request: &PodRequest) -> Result<PodSnapshot, tank_sys::Error> {
        let mut containers = BTreeMap::new();
        let mut watched = true;
        for container in &self.state.containers {
            let files = request.files.get(&container.name);
            // First watched, then read: what is written in between is notified of.
            let dir = files.map(|(dir, _)| dir);
            watched &= self.watches.add(self.cgroups, self.pod, container, dir);
            let files = files
                .map(|(dir, paths)| files::read(dir, paths))
                .transpose()?;
            containers.insert(container.name.clone(), self.container(container, files));
        }
        let (links, gateways) = match request.bridged {
            true => self.inside()?,
            false => Default::default(),
        };
        let nics = match request.has_nics {
            true => self.nics()?,
            false => Vec::new(),
        };
        Ok(PodSnapshot {
            request: request.clone(),
            links,
            gateways,
            nics,
            containers,
            parts: self.parts(),
            watched,
        })
    }

    fn parts(&self) -> BTreeSet<Name> {
        let mut names = self.cgroups.parts(self.pod.as_str());
        let layers = std::fs::read_dir(self.settings.scratch_dir(self.pod.as_str()));
        let layers = layers.into_iter().flatten().flatten();
        names.extend(layers.filter_map(|entry| entry.file_name().into_string().ok()));
        // What begins with a dot is on its way to be removed.
        names
            .into_iter()
            .filter_map(|name| Name::new(name).ok())
            .collect()
    }

    fn container(
        &self,
        found: &ContainerState,
        files: Option<BTreeMap<String, Digest>>,
    ) -> ContainerSnapshot {
        let (cgroups, pod, name) = (self.cgroups, self.pod.as_str(), found.name.as_str());
        let runs = found.exited.is_none();
        // One that has never ended was never out of memory: nothing is read for what runs well.
        let may_have_starved = found.attempt > 0 || !runs;
        ContainerSnapshot {
            limits: cgroups.limits(pod, name),
            halted: runs
                && (cgroups.is_frozen(pod, name) || tank_sys::process::is_stopped(found.pid)),
            out_of_memory: may_have_starved && cgroups.oom_kills(pod, name) > 0,
            files,
        }
    }

    /// The links of a pod on bridges that are up, with their addresses, and the next hops of its
    /// default routes; no link where its loopback is down.
    fn inside(&self) -> Result<Inside, tank_sys::Error> {
        let Some(routes) = self.shim.known_routes() else {
            return Ok(Inside::default());
        };
        let links = self.links_up(routes)?;
        let read = |link: Link| Ok((routes.addresses(link.index)?, link));
        let links = links.into_iter().map(read);
        let links = links.map(|read| read.map(|(addresses, link)| (link, addresses)));
        let links = links.collect::<Result<_, tank_sys::Error>>()?;
        Ok((links, routes.default_gateways()?))
    }

    /// The links that are up, but for loopback; none where that is down.
    fn links_up(&self, routes: &Routes) -> Result<Vec<Link>, tank_sys::Error> {
        let mut links = routes.links()?;
        let is_usable = links.iter().any(|link| link.name == "lo" && link.up);
        links.retain(|link| is_usable && link.up && link.name != "lo");
        Ok(links)
    }

    /// The same, with their routes.
    fn nics(&self) -> Result<Vec<InsideNic>, tank_sys::Error> {
        let Some(routes) = self.shim.known_routes() else {
            return Ok(Vec::new());
        };
        let others = self.links_up(routes)?.into_iter();
        let read = |link: Link| {
            let by = routes.routes_by(link.index)?.into_iter();
            let routed = by.filter_map(|route| Some((route.to, route.via?)));
            Ok(InsideNic {
                addresses: routes.addresses(link.index)?,
                routes: routed.map(|(to, via)| NicRoute { to, via }).collect(),
                link,
            })
        };
        others.map(read).collect()
    }
}
