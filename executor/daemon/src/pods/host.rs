//! Everything a daemon holds: its settings, its store, and its connections to the shims and the
//! kernel.

use crate::{
    actuate::firewall::{Forward, Ruleset},
    actuate::sources::Sources,
    events::Events,
    images::Images,
    observe::kernel::Listed,
    pods::forkserver::{Born, Forkserver},
    pods::shim::{Notice, Shim},
    probe::Prober,
    reconcile::failures::Failures,
    settings::{ID_BASE, Settings},
    store::{Store, StoreError, leases::Proposal},
    timings::Timings,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};
use tank_model::{Digest, Graph, Name, spec::Network, units::nth_address};
use tank_proto::shim::ContainerState;
use tank_sys::{
    cgroup::Cgroups,
    route::{Link, Routes},
    watch::{self, Changes, WriteEvents, Writes},
};
use tokio::sync::{Notify, mpsc};

pub struct Host {
    pub settings: Settings,
    pub store: Box<dyn Store>,
    pub images: Images,
    /// What containers get from the host.
    pub sources: Sources,
    pub cgroups: Cgroups,
    /// The host's own network namespace.
    pub routes: Routes,
    /// The host's own links, by their names: one for each pod.
    pub links: Listed<BTreeMap<String, Link>>,
    /// What is in Tank's own table.
    pub rules: Listed<BTreeSet<String>>,
    /// Tells when somebody writes into a container's cgroup, or its files. None: the kernel has no
    /// instance of inotify(7) left for root, and every pass reads everything.
    writes: Option<Writes>,
    pub events: Events,
    pub prober: Prober,
    pub timings: Timings,
    pub forkserver: Forkserver,
    /// Rings whenever the loop should look.
    pub wake: Notify,
    pub notices: mpsc::Sender<Notice>,
    shims: Mutex<BTreeMap<Name, Arc<Shim>>>,
    watched: Mutex<Watched>,
    /// The steps that failed the last time.
    pub failures: Failures,
    /// How many threads looking at the pods takes.
    pub processors: usize,
    /// Graphs and their roots, whichever was used last at the end.
    graphs: Mutex<VecDeque<(Digest, Arc<Graph>)>>,
}

/// What is watched for being written.
#[derive(Default)]
struct Watched {
    /// The run of each container, and whether its files are too.
    runs: BTreeMap<(Name, String), (u64, bool)>,
    /// Whose each directory is.
    dirs: BTreeMap<watch::WatchId, Name>,
}

/// How many graphs are kept in memory.
const KEPT_GRAPHS: usize = 4;

impl Host {
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel's interfaces can't be opened.
    pub fn new(
        settings: Settings,
        store: Box<dyn Store>,
        images: Images,
        cgroups: Cgroups,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Self, tank_sys::Error> {
        let routes = Routes::here()?;
        Ok(Self {
            forkserver: Forkserver::new(&settings.shim),
            sources: Sources::open(&settings.state_dir),
            settings,
            store,
            images,
            cgroups,
            routes,
            links: Listed::new(Changes::of_routes()?),
            rules: Listed::new(Changes::of_rules()?),
            writes: Writes::new()
                .inspect_err(|error| tracing::warn!(%error, "every pass reads every limit"))
                .ok(),
            events: Events::default(),
            prober: Prober::default(),
            timings: Timings::default(),
            wake: Notify::new(),
            notices,
            shims: Mutex::default(),
            watched: Mutex::default(),
            failures: Failures::default(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            graphs: Mutex::default(),
        })
    }

    /// Connects to every shim that was left running.
    pub fn adopt(&self) {
        for entry in std::fs::read_dir(self.settings.run_dir.join("pods"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Some(pod) = entry
                .file_name()
                .to_str()
                .and_then(|name| Name::new(name).ok())
            else {
                continue;
            };
            match self.connect(&pod) {
                Ok(_) => self
                    .events
                    .add("adopted", Some(pod.as_str()), "its shim is still there"),
                Err(error) => tracing::info!(%pod, %error, "its shim is gone"),
            }
        }
    }

    /// Connects to a pod's shim and remembers it.
    pub fn connect(&self, pod: &Name) -> Result<Arc<Shim>, tank_sys::Error> {
        let path = self.settings.pod_dir(pod.as_str()).join("shim.sock");
        let shim = Shim::connect(pod.as_str(), &path, self.notices.clone())?;
        self.shims().insert(pod.clone(), Arc::clone(&shim));
        Ok(shim)
    }

    /// Remembers the shim of a pod that was just made.
    pub fn welcome(&self, pod: &Name, born: Born) -> Result<Arc<Shim>, tank_sys::Error> {
        let shim = Shim::new(pod.as_str(), born, self.notices.clone())?;
        self.shims().insert(pod.clone(), Arc::clone(&shim));
        Ok(shim)
    }

    /// Watches the cgroup and the files of a container's run for what somebody else writes. False:
    /// not all of it can be.
    pub fn watch_run(
        &self,
        pod: &Name,
        run: &ContainerState,
        files: Option<&Arc<OwnedFd>>,
    ) -> bool {
        let seen = (run.started, files.is_some());
        let mut watched = self.watched();
        let key = (pod.clone(), run.name.clone());
        if watched.runs.get(&key) == Some(&seen) {
            return true;
        }
        let mut dirs = self.cgroups.dirs(pod.as_str(), &run.name);
        dirs.extend(files.map(|dir| format!("/proc/self/fd/{}", dir.as_raw_fd()).into()));
        let mut whole = true;
        for dir in dirs {
            let Some(writes) = &self.writes else {
                return false;
            };
            match writes.add(&dir) {
                Ok(added) => drop(watched.dirs.insert(added, pod.clone())),
                // Without a watch, the next pass looks.
                Err(error) => {
                    tracing::debug!(%pod, container = run.name, %error, "it is not watched");
                    whole = false;
                }
            }
        }
        if whole {
            watched.runs.insert(key, seen);
        }
        whole
    }

    /// Has everything looked at again.
    pub fn forget_seen(&self) {
        self.links.forget();
        self.rules.forget();
        self.living_shims()
            .iter()
            .for_each(|(_, shim)| shim.forget());
    }

    /// Hears all that was told until now. Says whether there was anything.
    pub fn hear(&self) -> bool {
        let mut heard = self.hear_writes() | self.links.hear() | self.rules.hear();
        for (_, shim) in self.living_shims() {
            heard |= shim.hear();
        }
        heard
    }

    /// Returns when writes were told of and [heard](Self::hear).
    ///
    /// # Errors
    /// When the descriptor fails.
    pub async fn told_of_writes(&self) -> Result<(), tank_sys::Error> {
        let Some(writes) = &self.writes else {
            return std::future::pending().await;
        };
        loop {
            writes.ready().await?;
            if self.hear_writes() {
                return Ok(());
            }
        }
    }

    /// Hears what was told of writes until now: whose pods they are in are looked at again. Says
    /// whether there were any.
    fn hear_writes(&self) -> bool {
        // A descriptor that fails tells nothing: then nothing is known to be as it was.
        let Some(writes) = &self.writes else {
            return false;
        };
        let told = writes.drain().unwrap_or(WriteEvents {
            lost: true,
            ..WriteEvents::default()
        });
        let mut watched = self.watched();
        let shims = self.shims();
        for dir in &told.written {
            let shim = watched.dirs.get(dir).and_then(|pod| shims.get(pod));
            shim.into_iter().for_each(|shim| shim.touch());
        }
        told.gone
            .iter()
            .for_each(|dir| drop(watched.dirs.remove(dir)));
        if told.lost {
            // Which of them are no more was not told either.
            *watched = Watched::default();
            shims.values().for_each(|shim| shim.touch());
        }
        told.of_writes()
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shims(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Arc<Shim>>> {
        self.shims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The living shim of a pod.
    pub fn shim(&self, pod: &Name) -> Option<Arc<Shim>> {
        self.shims()
            .get(pod)
            .filter(|shim| shim.is_alive())
            .cloned()
    }

    /// All living shims; the others are forgotten. One that only hung up, or was hung up on, is
    /// connected to again: what it holds runs on.
    pub fn living_shims(&self) -> Vec<(Name, Arc<Shim>)> {
        let mut shims = self.shims();
        shims.retain(|pod, shim| {
            if shim.is_alive() {
                return true;
            }
            let path = self.settings.pod_dir(pod.as_str()).join("shim.sock");
            let Ok(again) = Shim::connect(pod.as_str(), &path, self.notices.clone()) else {
                return false;
            };
            *shim = again;
            true
        });
        shims
            .iter()
            .map(|(pod, shim)| (pod.clone(), Arc::clone(shim)))
            .collect()
    }

    /// Asks every shim whether it answers, and notes which do not.
    pub async fn check_shims(&self) {
        let shims = self.living_shims();
        futures_util::future::join_all(shims.iter().map(|(_, shim)| self.check(shim))).await;
    }

    /// As [`Host::check_shims`], of the shim that is this process.
    pub async fn check_shim(&self, pid: i32) {
        let shim = self
            .living_shims()
            .into_iter()
            .find(|(_, shim)| shim.known_pid() == Some(pid));
        if let Some((_, shim)) = shim {
            self.check(&shim).await;
        }
    }

    async fn check(&self, shim: &Shim) {
        shim.check().await;
        // What can't run is not busy, whatever it was asked last.
        if shim.silence().is_some() && self.is_halted(shim) {
            self.wake.notify_one();
        }
    }

    /// Whether somebody stopped a shim or froze its cgroup.
    pub fn is_halted(&self, shim: &Shim) -> bool {
        shim.known_pid().is_some_and(tank_sys::process::is_stopped)
            || self.cgroups.is_shim_frozen(&shim.pod)
    }

    pub fn forget_shim(&self, pod: &Name) {
        self.shims().remove(pod);
        self.watched().runs.retain(|(watched, _), _| watched != pod);
    }

    /// The graph of a root, from memory or the store.
    pub fn graph(&self, root: Digest) -> Result<Arc<Graph>, StoreError> {
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = graphs
            .iter()
            .position(|(known, _)| *known == root)
            .and_then(|at| graphs.remove(at));
        let graph = match known {
            Some((_, graph)) => graph,
            None => Arc::new(Graph::load(root, |hash| self.store.node(hash))?),
        };
        keep(&mut graphs, Arc::clone(&graph));
        Ok(graph)
    }

    /// Keeps a graph that was just stored in memory: nobody has to read it from there.
    pub fn remember(&self, graph: Arc<Graph>) {
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.retain(|(known, _)| *known != graph.root());
        keep(&mut graphs, graph);
    }

    /// The graph of a generation.
    pub fn generation_graph(&self, number: u64) -> Result<Option<Arc<Graph>>, StoreError> {
        self.store
            .generation(number)?
            .map(|generation| self.graph(generation.root))
            .transpose()
    }

    /// The leases of a graph's pods, those that new names would get among them. Takes none.
    pub fn propose_leases(&self, graph: &Graph) -> Result<Proposal, StoreError> {
        Proposal::of(
            self.store.as_ref(),
            graph.pods().collect::<Vec<_>>().into_iter(),
        )
    }

    /// The lease of a pod that some generation names.
    pub fn lease(&self, pod: &Name) -> Result<u32, StoreError> {
        let leases = self.store.leases();
        leases
            .get(pod.as_str())
            .copied()
            .ok_or_else(|| StoreError::Unleased(pod.to_string()))
    }

    /// The addresses that go with a pod's name, one of each of the host's networks.
    pub fn addresses(&self, pod: &Name) -> Result<BTreeSet<IpNet>, StoreError> {
        Ok(self.addresses_of(self.lease(pod)?))
    }

    /// The addresses that go with a lease.
    pub fn addresses_of(&self, lease: u32) -> BTreeSet<IpNet> {
        self.settings
            .config
            .networks
            .iter()
            .filter_map(|network| nth_address(*network, lease))
            .collect()
    }

    /// The bridge's own addresses.
    pub fn bridge_addresses(&self) -> BTreeSet<IpNet> {
        self.settings
            .config
            .networks
            .iter()
            .filter_map(|network| nth_address(*network, 1))
            .collect()
    }

    /// The first host id of a pod's own.
    pub fn id_base(&self, pod: &Name) -> Result<u32, StoreError> {
        Ok(ID_BASE + self.lease(pod)? * tank_sys::namespace::ID_COUNT)
    }

    /// The nftables rules that a graph needs; none when no pod is on the bridge.
    pub fn ruleset(&self, graph: &Graph, leases: &Proposal) -> Result<Option<Ruleset>, StoreError> {
        let bridged = |pod: &&Name| {
            graph
                .sandbox(pod)
                .is_some_and(|(node, _)| node.network == Network::Bridge)
        };
        let mut forwards = Vec::new();
        let mut any = false;
        for pod in graph.pods().filter(bridged) {
            any = true;
            let addresses = self.addresses_of(leases.get(pod)?);
            for (name, publish) in graph.published(pod) {
                let target = addresses
                    .iter()
                    .find(|cidr| cidr.addr().is_ipv4() == publish.address.is_ipv4());
                let Some(target) = target else { continue };
                forwards.push(Forward {
                    name: format!("{pod}/{name}"),
                    address: publish.address,
                    protocol: if publish.protocol == tank_model::spec::Protocol::Udp {
                        17
                    } else {
                        6
                    },
                    port: publish.port,
                    to: SocketAddr::new(target.addr(), publish.target()),
                });
            }
        }
        let (bridge, networks) = (
            self.settings.config.bridge.clone(),
            self.settings.config.networks.clone(),
        );
        Ok(any.then_some(Ruleset {
            bridge,
            networks,
            forwards,
        }))
    }
}

fn keep(graphs: &mut VecDeque<(Digest, Arc<Graph>)>, graph: Arc<Graph>) {
    while graphs.len() >= KEPT_GRAPHS {
        graphs.pop_front();
    }
    graphs.push_back((graph.root(), graph));
}
