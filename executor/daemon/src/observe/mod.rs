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
mod listeners;
mod listing;
mod nics;
mod pod;
mod resolver_watch;
mod usage;
mod watch;

pub use error::Error;
pub use listeners::listeners;
pub use usage::{PodUsage, UsageSnapshot};

use crate::{
    cache::Cached,
    dirty::{DEBOUNCE, Dirty},
    pods::{Names, OBSERVE_LIMIT, Pods, RunId, Shim, Silence, outer_link_name},
    settings::Settings,
};
use futures_util::future::join_all;
use host::{HostSnapshot, Publishes};
use kernel::{PodReader, PodRequest, PodSnapshot};
use listing::Listing;
use pod::{Answer, PodRead, PodState, has_nics, is_another, is_bridged, unresponsive};
use resolver_watch::ResolverWatch;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tank_model::{Digest, Graph, Name, spec::MAX_MEMBERSHIPS};
use tank_plan::{
    observed::{FoundLink, Observed, Pod, Unresponsive, Verdict},
    ports::cut_off,
    target::{Table, link_name, nics::parents},
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
    /// Whether flows may be there that a step was to end, and nobody knows that it did.
    flows_are_uncertain: AtomicBool,
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
            flows_are_uncertain: AtomicBool::new(true),
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

    /// Notes whether all flows have ended that were to. Until they have, and from the start, flows are
    /// read with the host.
    pub fn note_flows(&self, have_ended: bool) {
        self.flows_are_uncertain
            .store(!have_ended, Ordering::Relaxed);
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
        let ask = |(name, shim)| self.ask(graph, wanted, name, shim);
        let asking = join_all(shims.into_iter().map(ask));
        let host = {
            let observer = Arc::clone(self);
            let parents = parents(graph).into_iter().map(str::to_owned).collect();
            let publishes = Publishes::of(graph);
            tokio::task::spawn_blocking(move || HostSnapshot::read(&observer, &parents, &publishes))
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
                let sandbox = state
                    .sandbox(BTreeMap::new(), BTreeSet::new(), BTreeMap::new())
                    .ok();
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
        observed.bridges.clone_from(&host.bridge_addresses);
        observed.firewall = (*host.firewall).clone();
        observed.names.clone_from(&host.names);
        observed.network = host.network.clone();
        observed.network.cut_off = cut_off(graph, host.sockets.iter().copied());
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
                let (goes, is_known) = (
                    is_another(graph, &name, &state),
                    shim.known_routes().is_some(),
                );
                let bridged = (goes || is_bridged(graph, &name)) && is_known;
                let has_nics = (goes || has_nics(graph, &name)) && is_known;
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
                };
                cached.put(state.version, reader.read(&state.request)?)
            }
        };
        Ok(PodRead {
            links: self.links(state, &snapshot, host)?,
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

    /// The pod's links whose other ends are up on bridges of Tank's, declared or not: whatever hangs there
    /// may send.
    fn links(
        &self,
        state: &PodState,
        snapshot: &PodSnapshot,
        host: &HostSnapshot,
    ) -> tank_sys::Result<BTreeMap<String, FoundLink>> {
        let mut found = BTreeMap::new();
        for place in 0..MAX_MEMBERSHIPS {
            let name = link_name(place);
            let mut inside = snapshot.links.iter();
            let inside = inside.find(|(link, _)| link.name == name);
            let outer = outer_link_name(state.state.pid, place);
            let port = match host.links.get(&outer) {
                Some(listed) => Some(listed.clone()),
                // The list may be older than the link: one that was just made is looked for again.
                None if inside.is_some() => self.routes.link(&outer)?,
                // They are made in this order.
                None => break,
            };
            let Some(port) = port.filter(|port| port.up) else {
                continue;
            };
            let bridge = port.controller.and_then(|bridge| host.bridges.get(&bridge));
            let Some(bridge) = bridge else {
                continue;
            };
            let one = FoundLink {
                bridge: bridge.clone(),
                // An older Tank set it up, or somebody changed it.
                group: if port.is_pods_port() { port.group } else { 0 },
                mac: inside.map(|(link, _)| link.mac).unwrap_or_default(),
                mtu: inside.map(|(link, _)| link.mtu).unwrap_or_default(),
                addresses: inside.map(|(_, own)| own.clone()).unwrap_or_default(),
            };
            found.insert(name, one);
        }
        Ok(found)
    }
}
