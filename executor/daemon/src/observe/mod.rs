//! The impure reader: builds [`Observed`] from the shims and the kernel.
//!
//! *Flow*: every shim is asked, all at once; meanwhile what belongs to the whole host is read
//! ([`host`]). Then the kernel's side of each pod of which anything was notified ([`kernel`]), on as
//! many threads as there are processors: that is reading small files and talking netlink, and none of
//! it waits for anybody.
//!
//! *Guarantees*: it acts on nothing, whatever the graph it is for. It asks the shims for what they
//! know, takes no lease, starts no probe (what is known of probes is handed in), and leaves no
//! record. A shim that does not answer, or a pod that can't be read, is [`Unresponsive`] and costs no
//! other pod its place: it is waited for [once](OBSERVE_LIMIT), and then not again until it answers.
//! What the kernel notified of before somebody looks is drained first, so what is read is never older
//! than the call that changed something.

mod error;
mod host;
mod kernel;
mod listing;
mod nics;
mod pod;
mod resolver_watch;
mod watch;

pub use error::Error;

use crate::{
    cache::Cached,
    dirty::{DEBOUNCE, Dirty},
    pods::{Names, OBSERVE_LIMIT, Pods, RunId, Shim, Silence, link_name},
    settings::Settings,
};
use futures_util::future::join_all;
use host::HostSnapshot;
use kernel::{PodReader, PodRequest, PodSnapshot};
use listing::Listing;
use pod::{Answer, PodRead, PodState, has_nics, is_bridged, unresponsive};
use resolver_watch::ResolverWatch;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};
use tank_model::{Digest, Graph, Name};
use tank_plan::{
    observed::{Observed, Pod, Unresponsive, Verdict},
    target::{Table, nics::parents},
};
use tank_sys::{
    cgroup::Cgroups,
    clock::boot_millis,
    route::{Link, Routes},
    watch::Changes,
    with_causes,
};
use tokio::time::timeout;
use watch::RunWatches;

/// The fewest pods for which another thread is worth its while.
const PODS_PER_THREAD: usize = 8;

/// What the files of each container have to say, by their paths: what is read of them.
pub type Files = BTreeMap<(Name, Name), BTreeMap<String, Digest>>;

/// What probes have found of each run, which started at this time of `CLOCK_BOOTTIME`.
pub type VerdictOf<'a> = dyn Fn(&RunId, u64) -> Verdict + Sync + 'a;

/// The id of the connection that a pod was read for, and what was read.
type OfConnection = (u64, Arc<Cached<PodSnapshot>>);

/// Reads the host.
pub struct Observer {
    settings: Arc<Settings>,
    cgroups: Arc<Cgroups>,
    /// The host's own network namespace.
    routes: Arc<Routes>,
    pods: Arc<Pods>,
    dirty: Arc<Dirty>,
    links: Listing<BTreeMap<String, Link>>,
    rules: Listing<Option<Table>>,
    watches: RunWatches,
    resolvers: ResolverWatch,
    names: Arc<Names>,
    /// The kernel's side of each pod.
    snapshots: Mutex<BTreeMap<Name, OfConnection>>,
    threads: usize,
}

impl Observer {
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel's interfaces can't be opened.
    pub fn new(
        settings: Arc<Settings>,
        cgroups: Arc<Cgroups>,
        routes: Arc<Routes>,
        (pods, names): (Arc<Pods>, Arc<Names>),
        dirty: Arc<Dirty>,
    ) -> Result<Self, tank_sys::Error> {
        Ok(Self {
            settings,
            cgroups,
            routes,
            pods,
            dirty,
            links: Listing::new(Changes::of_routes()?),
            rules: Listing::new(Changes::of_rules()?),
            watches: RunWatches::new(),
            resolvers: ResolverWatch::new(),
            names,
            snapshots: Mutex::default(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// Marks the host as dirty whenever the kernel notifies of a change. Each ends when the kernel's
    /// interface does.
    pub async fn watch(&self) {
        tokio::join!(
            self.watch_links(),
            self.watch_rules(),
            self.watch_writes(),
            self.watch_resolvers()
        );
    }

    async fn watch_links(&self) {
        while self.links.changed().await.is_ok() {
            self.mark().await;
        }
    }

    async fn watch_rules(&self) {
        while self.rules.changed().await.is_ok() {
            self.mark().await;
        }
    }

    async fn watch_writes(&self) {
        while self.watches.changed(&self.pods).await.is_ok() {
            self.mark().await;
        }
    }

    async fn watch_resolvers(&self) {
        while self.resolvers.changed().await.is_ok() {
            self.mark().await;
        }
    }

    async fn mark(&self) {
        self.dirty.mark();
        tokio::time::sleep(DEBOUNCE).await;
    }

    /// Whatever was read before is outdated.
    pub fn invalidate(&self) {
        self.links.invalidate();
        self.rules.invalidate();
        self.pods.invalidate();
    }

    /// Takes what the kernel has notified of until now.
    fn drain(&self) {
        let mut changed = self.watches.drain(&self.pods);
        changed |= self.links.drain();
        changed |= self.rules.drain();
        for (_, shim) in self.pods.living() {
            changed |= shim.drain();
        }
        // Whoever observed before has to look again, too.
        if changed {
            self.dirty.mark();
        }
    }

    /// Reads everything Tank has on this host. What can't be read is an error, or of a pod its
    /// [state](Unresponsive), never an absence: planning on half a view would undo what was only not
    /// read. The version is that of [`Dirty`] from before.
    ///
    /// # Errors
    /// What the kernel gave.
    pub async fn observe(
        self: &Arc<Self>,
        graph: &Graph,
        wanted: &Files,
        verdict_of: &VerdictOf<'_>,
    ) -> Result<(Observed, u64), Error> {
        self.drain();
        let version = self.dirty.version();
        let shims = self.pods.living();
        self.retain(&shims);
        let asking = join_all(
            shims
                .into_iter()
                .map(|(name, shim)| self.ask(graph, wanted, name, shim)),
        );
        let host = {
            let observer = Arc::clone(self);
            let parents: BTreeSet<String> = parents(graph).into_iter().map(str::to_owned).collect();
            tokio::task::spawn_blocking(move || HostSnapshot::read(&observer, &parents))
        };
        let (asked, host) = tokio::join!(asking, host);
        let host = Arc::new(host.map_err(Error::Host)??);
        let mut observed = Observed {
            now: boot_millis(),
            ..Observed::default()
        };
        let mut states = Vec::new();
        for answer in asked {
            match answer {
                Answer::State(state) => states.push(*state),
                // A shim that ends while it is asked is one that is gone.
                Answer::Gone => {}
                Answer::Unresponsive(name, why) => {
                    observed.pods.insert(name, unresponsive(why));
                }
            }
        }
        for (state, snapshot) in self.read_all(states, &host).await? {
            let pod = snapshot.and_then(|read| state.pod(verdict_of, &self.pods, read));
            let pod = pod.unwrap_or_else(|error| {
                let sandbox = state.sandbox(None, 0, BTreeMap::new()).ok();
                let why = with_causes(&error);
                Pod {
                    sandbox,
                    ..unresponsive(Unresponsive::Unreadable { why })
                }
            });
            observed.pods.insert(state.name.clone(), pod);
        }
        for name in &host.left_over {
            observed.pods.entry(name.clone()).or_default();
        }
        observed.bridge = host.bridge_addresses.clone();
        observed.firewall = (*host.firewall).clone();
        observed.names.clone_from(&host.names);
        observed.network = host.network.clone();
        Ok((observed, version))
    }

    /// Forgets what was read of pods that have no shim any more.
    fn retain(&self, shims: &[(Name, Arc<Shim>)]) {
        self.watches.retain(shims);
        let living = |pod: &Name| shims.binary_search_by(|(name, _)| name.cmp(pod)).is_ok();
        let mut snapshots = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        snapshots.retain(|pod, _| living(pod));
    }

    /// Reads the kernel's side of every pod, on as many threads as that is worth.
    async fn read_all(
        self: &Arc<Self>,
        mut states: Vec<PodState>,
        host: &Arc<HostSnapshot>,
    ) -> Result<Vec<(PodState, Result<PodRead, Error>)>, Error> {
        let share = states.len().div_ceil(self.threads).max(PODS_PER_THREAD);
        let mut reading = Vec::new();
        while !states.is_empty() {
            let part = states.split_off(states.len().saturating_sub(share));
            let (observer, host) = (Arc::clone(self), Arc::clone(host));
            reading.push(tokio::task::spawn_blocking(move || -> Vec<_> {
                let read = |state: PodState| {
                    let read = observer.read(&state, &host);
                    (state, read)
                };
                part.into_iter().map(read).collect()
            }));
        }
        let mut all = Vec::new();
        for part in join_all(reading).await {
            all.extend(part.map_err(Error::Pods)?);
        }
        Ok(all)
    }

    /// Asks a pod's shim, unless it is known not to answer.
    async fn ask(&self, graph: &Graph, wanted: &Files, name: Name, shim: Arc<Shim>) -> Answer {
        if shim.silence().is_none() {
            let state = PodState::fetch(graph, wanted, name.clone(), Arc::clone(&shim));
            match timeout(OBSERVE_LIMIT, state).await {
                Ok(Ok(state)) => return Answer::State(Box::new(state)),
                _ if !shim.is_alive() => return Answer::Gone,
                Err(_) => shim.note_silence(),
                // It was not in time for somebody else, or its answer can't be read.
                Ok(Err(error)) if shim.silence().is_none() => {
                    let why = with_causes(&error);
                    return Answer::Unresponsive(name, Unresponsive::Unreadable { why });
                }
                Ok(Err(_)) => {}
            }
        }
        let why = match (shim.silence(), shim.last_state()) {
            (Some(Silence { since, .. }), _) if self.pods.is_halted(&shim) => {
                Unresponsive::Halted { since }
            }
            (Some(Silence { since, busy: false }), _) => Unresponsive::Silent { since },
            // A busy shim can't answer now: its last report is used.
            (Some(Silence { busy: true, .. }), Some(state)) => {
                let version = shim.version();
                let bridged = is_bridged(graph, &name) && shim.known_routes().is_some();
                let has_nics = has_nics(graph, &name) && shim.known_routes().is_some();
                let request = PodRequest {
                    bridged,
                    has_nics,
                    files: BTreeMap::new(),
                };
                let state = PodState {
                    name,
                    shim,
                    version,
                    state,
                    request,
                };
                return Answer::State(Box::new(state));
            }
            // Or it has answered meanwhile.
            (Some(_), None) | (None, _) => Unresponsive::Busy,
        };
        Answer::Unresponsive(name, why)
    }

    /// The kernel's side of a pod, or what was read of it last. Blocking.
    fn read(&self, state: &PodState, host: &HostSnapshot) -> Result<PodRead, Error> {
        let cached = self.cached(state);
        let known = cached.get(state.version);
        let known = known.filter(|known| known.watched && known.request.is_same(&state.request));
        let snapshot = match known {
            Some(snapshot) => snapshot,
            None => {
                let reader = PodReader {
                    settings: &self.settings,
                    cgroups: &self.cgroups,
                    watches: &self.watches,
                    pod: &state.name,
                    shim: &state.shim,
                    state: &state.state,
                    gateways: &host.gateways,
                };
                cached.put(state.version, reader.read(&state.request)?)
            }
        };
        let inside = snapshot.inside.as_ref().filter(|_| state.request.bridged);
        let port = self.port(state, host, inside.is_some());
        let port = port?;
        Ok(PodRead {
            network: inside.filter(|_| port.is_some()).cloned(),
            port_group: port.unwrap_or_default(),
            nics: self.nics(&snapshot, host)?,
            snapshot,
        })
    }

    fn cached(&self, state: &PodState) -> Arc<Cached<PodSnapshot>> {
        let mut snapshots = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = state.shim.id();
        let entry = snapshots
            .entry(state.name.clone())
            .or_insert_with(|| (id, Arc::default()));
        if entry.0 != id {
            *entry = (id, Arc::default());
        }
        Arc::clone(&entry.1)
    }

    /// The group of the other end of the pod's link, if that is up on the bridge: none where an older
    /// Tank set it up, or somebody changed it.
    fn port(
        &self,
        state: &PodState,
        host: &HostSnapshot,
        expected: bool,
    ) -> tank_sys::Result<Option<u32>> {
        let name = link_name(state.state.pid);
        let listed = host.links.get(&name);
        // The list may be older than the link: one that was just made is looked for again.
        let found = if listed.is_none() && expected {
            self.routes.link(&name)?
        } else {
            None
        };
        let bridge = host.bridge.as_ref().map(|link| link.index);
        let on_bridge = |link: &&Link| link.up && link.controller == bridge;
        let port = listed.or(found.as_ref()).filter(on_bridge);
        Ok(port.map(|link| if link.hairpin { link.group } else { 0 }))
    }
}
