//! What the kernel says of a pod (limits, files, the network inside) and of the whole host (links,
//! rules). It is looked at when something was told of it, and holds until the next time: a pass
//! costs what has changed, not what is declared.
//!
//! *What tells*: the shim (a main process ends or is stopped), inotify(7) on the cgroups and the
//! files of each run, rtnetlink(7) in the pod's network and the host's, nftables, and the daemon
//! itself when it has done something to the pod. *What was told before somebody looks is heard
//! first* ([`Host::hear`]), so a look is never older than the call that changed something. A look
//! by the clock (`resync`) takes nothing on trust, and neither does one at a run that can't be
//! watched.

use crate::{
    actuate::files,
    pods::host::Host,
    pods::shim::{Shim, failure},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tank_model::{Digest, Name};
use tank_proto::shim::{ContainerState, Failure, State};
use tank_sys::{cgroup, watch::Changes};

/// What the kernel lists for the whole host.
pub struct Listed<T> {
    changes: Changes,
    known: Mutex<Option<Arc<T>>>,
}

impl<T> Listed<T> {
    pub fn new(changes: Changes) -> Self {
        Self {
            changes,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Arc<T>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list as it was made last, or as `list` makes it.
    ///
    /// # Errors
    /// Those of `list`.
    pub fn get(&self, list: impl FnOnce() -> tank_sys::Result<T>) -> tank_sys::Result<Arc<T>> {
        let mut known = self.known();
        match &*known {
            Some(listed) => Ok(Arc::clone(listed)),
            None => Ok(Arc::clone(known.insert(Arc::new(list()?)))),
        }
    }

    /// Hears what was told until now. Says whether that was anything.
    pub fn hear(&self) -> bool {
        let mut known = self.known();
        // A socket that fails tells nothing: then nothing is known to be as it was.
        let heard = self.changes.drain().unwrap_or(true);
        if heard {
            *known = None;
        }
        heard
    }

    /// Returns when something was told and [heard](Self::hear).
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn told(&self) -> tank_sys::Result<()> {
        loop {
            self.changes.ready().await?;
            if self.hear() {
                return Ok(());
            }
        }
    }

    pub fn forget(&self) {
        *self.known() = None;
    }
}

/// What to look at, and when.
pub struct Look<'a> {
    pub pod: &'a Name,
    pub shim: &'a Shim,
    pub state: &'a State,
    pub asked: &'a Asked,
    /// Before the state was asked for.
    pub moment: u64,
    /// The bridge's own addresses.
    pub gateways: &'a BTreeSet<IpAddr>,
}

/// What of a pod is wanted.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub bridged: bool,
    /// Of each running container whose files are known: where they are, and their paths.
    pub files: BTreeMap<String, (Arc<OwnedFd>, Vec<String>)>,
}

impl Asked {
    /// Whether another look was for the same. The directories are: at one moment there is one run
    /// of a container.
    fn is(&self, other: &Self) -> bool {
        let paths = |asked: &Self| {
            asked
                .files
                .iter()
                .map(|(name, (_, paths))| (name.clone(), paths.clone()))
                .collect()
        };
        let (these, others): (BTreeMap<_, _>, BTreeMap<_, _>) = (paths(self), paths(other));
        self.bridged == other.bridged && these == others
    }
}

/// The kernel's side of a pod.
#[derive(Debug)]
pub struct Seen {
    moment: u64,
    asked: Asked,
    /// The addresses of its link, if that is up and everything goes by the bridge.
    pub inside: Option<BTreeSet<String>>,
    pub containers: BTreeMap<String, Container>,
    /// The containers that have a cgroup, or upper layers.
    pub parts: BTreeSet<Name>,
}

#[derive(Debug)]
pub struct Container {
    pub limits: cgroup::ControllerLimits,
    pub halted: bool,
    pub out_of_memory: bool,
    pub files: Option<BTreeMap<String, Digest>>,
}

impl Look<'_> {
    /// What the kernel says, or has said. Blocking.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn look(&self, host: &Host) -> Result<Arc<Seen>, Failure> {
        let mut last = self
            .shim
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = last
            .as_ref()
            .filter(|seen| seen.moment == self.moment && seen.asked.is(self.asked))
        {
            return Ok(Arc::clone(seen));
        }
        let (seen, watched) = self.read(host)?;
        let seen = Arc::new(seen);
        *last = watched.then(|| Arc::clone(&seen));
        Ok(seen)
    }

    /// Reads it, and says whether all of it is watched.
    fn read(&self, host: &Host) -> Result<(Seen, bool), Failure> {
        let mut containers = BTreeMap::new();
        let mut watched = true;
        for container in &self.state.containers {
            let files = self.asked.files.get(&container.name);
            // First watched, then read: what is written between is told.
            watched &= host.watch_run(self.pod, container, files.map(|(dir, _)| dir));
            let files = files
                .map(|(dir, paths)| files::read(dir, paths))
                .transpose()?;
            containers.insert(
                container.name.clone(),
                self.container(host, container, files),
            );
        }
        let inside = if self.asked.bridged {
            self.inside().map_err(|e| failure(&e))?
        } else {
            None
        };
        let parts = self.parts(host);
        Ok((
            Seen {
                moment: self.moment,
                asked: self.asked.clone(),
                inside,
                containers,
                parts,
            },
            watched,
        ))
    }

    fn parts(&self, host: &Host) -> BTreeSet<Name> {
        let mut names = host.cgroups.parts(self.pod.as_str());
        let layers = std::fs::read_dir(host.settings.scratch_dir(self.pod.as_str()));
        names.extend(
            layers
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok()),
        );
        // What begins with a dot is on its way to be removed.
        names
            .into_iter()
            .filter_map(|name| Name::new(name).ok())
            .collect()
    }

    fn container(
        &self,
        host: &Host,
        found: &ContainerState,
        files: Option<BTreeMap<String, Digest>>,
    ) -> Container {
        let (pod, name) = (self.pod.as_str(), found.name.as_str());
        Container {
            limits: host.cgroups.limits(pod, name),
            halted: found.exited.is_none()
                && (host.cgroups.is_frozen(pod, name) || tank_sys::process::is_stopped(found.pid)),
            // One that has never ended was never out of memory: nothing is read for what runs well.
            out_of_memory: (found.attempt > 0 || found.exited.is_some())
                && host.cgroups.oom_kills(pod, name) > 0,
            files,
        }
    }

    /// The addresses of the pod's own link, if that is up and has the routes it should have, and no
    /// others.
    fn inside(&self) -> Result<Option<BTreeSet<String>>, tank_sys::Error> {
        let Some(routes) = self.shim.known_routes() else {
            return Ok(None);
        };
        let links = routes.links()?;
        let up = |name: &str| links.iter().find(|link| link.name == name && link.up);
        let (Some(link), Some(_)) = (up("eth0"), up("lo")) else {
            return Ok(None);
        };
        if routes.default_gateways()? != *self.gateways {
            return Ok(None);
        }
        Ok(Some(
            routes
                .addresses(link.index)?
                .iter()
                .map(ToString::to_string)
                .collect(),
        ))
    }
}
