//! The loop, and what changes the desired state: switch, delete, rollback, seed. All of them end in one code path:
//! observe, plan, carry out, observe again.
//!
//! *Flow of a switch*: check, fetch, commit, converge, wait for health; then good, or the parent again. Until the
//! commit nothing is disturbed. *Guarantees*: one change of the desired state at a time; a pass never runs beside
//! another; going back is never gated on health. *Caveat*: a daemon that ends while it waits leaves the generation
//! pending; the loop goes on with it at the next start and calls it good when it is reached, without waiting for health.

use crate::{
    actuate::{self, Failed},
    events::now,
    host::Host,
    observe::{self, Found},
    request,
    store::{self, StoreError},
};
use futures_util::stream::{self, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tank_model::{Digest, Generation, Graph, Key, Name, Outcome, check, reference::Reference, spec::Config};
use tank_plan::{
    Desired, Health, Observed, Plan, Step,
    health::{self, PATIENCE},
    observed::State,
};
use tank_proto::{
    shim::{Failure, FailureKind},
    varlink::{self, Error, Progress, SwitchCall},
};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep, timeout},
};

/// The most images fetched at once.
const FETCHES: usize = 4;

/// How long nothing has to happen until memory is given back.
const REST: Duration = Duration::from_secs(3);

/// How long a change waits for another one to be over.
const MOMENT: Duration = Duration::from_millis(200);

/// The engine of one host.
pub struct Engine {
    pub host: Arc<Host>,
    /// Held by whoever observes and acts.
    passing: Mutex<()>,
    /// Held by whoever changes the desired state.
    changing: Mutex<()>,
}

/// Where progress goes. Sending never waits and never fails: a caller that is gone stops nothing.
pub type Told = mpsc::Sender<Progress>;

/// The most progress that waits for a client to read it; what comes on top of that is not told.
pub const PROGRESS: usize = 1_024;

/// What one pass found and did.
pub struct Pass {
    pub observed: Observed,
    pub plan: Plan,
    pub failed: Vec<Failed>,
}

/// What is asked of a change.
pub struct Change {
    pub graph: Arc<Graph>,
    pub source: String,
    pub uid: u32,
    /// Which line set each field, if that is known.
    pub provenance: Option<Digest>,
    /// Whether to put the parent back when it does not become healthy. None: do not wait for health at all.
    pub gate: Option<Gate>,
}

#[derive(Clone, Copy)]
pub struct Gate {
    pub rollback: bool,
    pub wait: Duration,
}

pub fn internal(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Failed { what: what.to_owned(), why: error.to_string() }
}

pub fn store_error(error: StoreError) -> Error {
    let mut why = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        why = format!("{why}: {source}");
    }
    Error::Failed { what: "use the store".to_owned(), why }
}

fn failure_error(failure: &Failure) -> Error {
    Error::Failed { what: failure.what.clone(), why: failure.why.clone() }
}

fn tell(told: &Told, stage: &str, message: impl Into<String>) {
    let _ = told.try_send(Progress { stage: stage.to_owned(), message: message.into() });
}

impl Engine {
    pub fn new(host: Arc<Host>) -> Self {
        Self { host, passing: Mutex::new(()), changing: Mutex::new(()) }
    }

    /// Runs for ever: whenever something happens, when a wait is over, and at least every `resync`.
    pub async fn run(self: Arc<Self>) {
        let mut failures = 0;
        let mut busy = 0;
        loop {
            let resync = self.host.settings.config.resync.duration();
            let pause = match self.converge_current().await {
                Ok(Some(pass)) if !pass.failed.is_empty() => {
                    failures += 1;
                    Duration::from_millis(tank_plan::backoff::delay(failures).max(500))
                }
                Ok(Some(pass)) if pass.plan.steps.is_empty() => {
                    (failures, busy) = (0, 0);
                    let wake = pass.plan.wake_at().map(|at| Duration::from_millis(at.saturating_sub(now()).max(1)));
                    wake.unwrap_or(resync)
                }
                // Something was done: look again at once. A host that never is as it was just made (another program
                // undoes it, or the kernel rounds what it is told) must not keep a CPU busy.
                Ok(Some(_)) => {
                    busy += 1;
                    if busy <= PATIENCE { Duration::ZERO } else { Duration::from_secs(1) }
                }
                Ok(None) => resync,
                Err(error) => {
                    failures += 1;
                    self.host.events.add("failed", None, error.to_string());
                    Duration::from_millis(tank_plan::backoff::delay(failures).max(500))
                }
            };
            let pause = pause.min(resync);
            if timeout(pause.min(REST), self.host.wake.notified()).await.is_err() && pause > REST {
                // What the last change took is not kept for the next.
                tank_sys::process::give_memory_back();
                if timeout(pause - REST, self.host.wake.notified()).await.is_err() {
                    // A look by the clock takes nothing on trust.
                    self.host.forget_seen();
                }
            }
        }
    }

    /// Leases what the current generation names, should an older Tank not have done that. Before anything is served.
    ///
    /// # Errors
    /// When the store can't be read, or written to.
    pub fn lease_current(&self) -> Result<(), Error> {
        let (_, graph) = self.current()?;
        let leases = self.host.propose_leases(&graph).map_err(store_error)?;
        leases.take(self.host.store.as_ref()).map_err(store_error)
    }

    /// One pass towards the current generation. None: there is none.
    async fn converge_current(&self) -> Result<Option<Pass>, Error> {
        let _passing = self.passing.lock().await;
        let Some(current) = self.host.store.current().map_err(store_error)? else {
            return Ok(None);
        };
        let Some(graph) = self.host.generation_graph(current).map_err(store_error)? else { return Ok(None) };
        // A person wants to see what is wrong before it is put right: a switch still does what it says.
        if self.host.settings.no_repair {
            let observed = self.observe(&graph).await?;
            self.host.prober.reconcile(&self.host, &graph, &observed);
            return Ok(None);
        }
        // What a daemon that ended on the way has not reached yet is change, and in the order of one; the rest is drift.
        let pending = self.host.store.outcome(current).map_err(store_error)? == Outcome::Pending;
        let parent = self.host.store.generation(current).map_err(store_error)?.and_then(|one| one.parent);
        let before = match parent.filter(|_| pending) {
            Some(parent) => self.host.generation_graph(parent).map_err(store_error)?,
            None => None,
        };
        let pass = self.pass(&graph, Some(before.as_deref().unwrap_or(&graph)), &|_| {}).await?;
        // A daemon that ended on the way left its generation pending; if nobody is at it, it is reached now.
        // Asked again under the lock: whoever was at it may have said meanwhile how it ended.
        if pass.plan.is_empty()
            && pending
            && let Ok(_idle) = self.changing.try_lock()
            && self.host.store.outcome(current).map_err(store_error)? == Outcome::Pending
        {
            self.host.store.set_outcome(current, Outcome::Good).map_err(store_error)?;
        }
        Ok(Some(pass))
    }

    /// Observes, plans, carries out. The caller holds `passing`, and `graph` is that of the current generation: its runs
    /// are those that are probed.
    async fn pass(
        &self,
        graph: &Arc<Graph>,
        previous: Option<&Graph>,
        told: &(dyn Fn(&Step) + Sync),
    ) -> Result<Pass, Error> {
        let (Found { observed, .. }, plan) = self.look(graph, previous).await?;
        self.host.prober.reconcile(&self.host, graph, &observed);
        let _span = self.host.timings.span(|| format!("carry {} steps out", plan.steps.len()));
        let failed = actuate::carry_out(&self.host, graph, &plan, told).await;
        Ok(Pass { observed, plan, failed })
    }

    /// What there is of a graph on this host. Looks and does not touch.
    ///
    /// # Errors
    /// When something can't be looked at.
    pub async fn observe(&self, graph: &Graph) -> Result<Observed, Error> {
        let leases = self.host.propose_leases(graph).map_err(store_error)?;
        let files = crate::files::digests(&self.host, graph, &leases).map_err(store_error)?;
        let found = observe::observe(&self.host, graph, &files).await.map_err(|e| failure_error(&e))?;
        self.pass_on(found.heard);
        Ok(found.observed)
    }

    /// What was heard outside of a pass is the loop's to put right.
    fn pass_on(&self, heard: bool) {
        if heard {
            self.host.wake.notify_one();
        }
    }

    /// Observes, and asks the pure planner, with what this host leases, or would lease, handed to it as data. Acts on
    /// nothing.
    async fn look(&self, graph: &Graph, previous: Option<&Graph>) -> Result<(Found, Plan), Error> {
        let leases = self.host.propose_leases(graph).map_err(store_error)?;
        let files = crate::files::digests(&self.host, graph, &leases).map_err(store_error)?;
        let found = {
            let _span = self.host.timings.span(|| "observe the host".to_owned());
            observe::observe(&self.host, graph, &files).await.map_err(|e| failure_error(&e))?
        };
        let _span = self.host.timings.span(|| "plan".to_owned());
        let mut addresses = BTreeMap::new();
        let mut stop_signals = BTreeMap::new();
        for pod in graph.pods() {
            let bridged = graph.sandbox(pod).is_some_and(|(node, _)| node.network == tank_model::spec::Network::Bridge);
            if bridged {
                let own = self.host.addresses_of(leases.get(pod).map_err(store_error)?);
                addresses.insert(pod.clone(), own.iter().map(ToString::to_string).collect::<BTreeSet<_>>());
            }
            for (container, _, _) in graph.containers(pod) {
                let signal = graph.lifecycle(pod, container).stop.signal;
                if let Some(signal) = signal.and_then(|name| tank_sys::process::signal_number(&name)) {
                    stop_signals.insert((pod.clone(), container.clone()), signal);
                }
            }
        }
        let ruleset = self.host.ruleset(graph, &leases).map_err(store_error)?;
        let desired = Desired {
            graph,
            previous,
            addresses: &addresses,
            bridge: &self.host.bridge_addresses().iter().map(ToString::to_string).collect(),
            firewall: &ruleset.map(|ruleset| ruleset.marks()).unwrap_or_default(),
            stop_signals: &stop_signals,
            files: &files,
        };
        let plan = tank_plan::plan(&desired, &found.observed);
        Ok((found, plan))
    }

    /// The current generation and its graph; the empty graph where there is none.
    pub fn current(&self) -> Result<(Option<u64>, Arc<Graph>), Error> {
        let current = self.host.store.current().map_err(store_error)?;
        let graph =
            current.map(|number| self.host.generation_graph(number)).transpose().map_err(store_error)?.flatten();
        match graph {
            Some(graph) => Ok((current, graph)),
            None => Ok((current, Arc::new(empty_graph()?))),
        }
    }

    /// What a switch to `graph` would do. Looks and does not touch.
    pub async fn preview(&self, graph: &Graph, previous: &Graph) -> Result<(Observed, Plan), Error> {
        let (found, plan) = self.look(graph, Some(previous)).await?;
        self.pass_on(found.heard);
        Ok((found.observed, plan))
    }

    /// Resolves and fetches every image, checks every path of the host, and builds the graph. Disturbs nothing.
    pub async fn prepare(&self, config: &Config, base_dir: Option<&Path>, told: &Told) -> Result<Graph, Error> {
        for (pod, spec) in &config.pods {
            for (name, volume) in &spec.volumes {
                if let Some(path) = volume.host.as_deref().filter(|path| !Path::new(path).is_dir()) {
                    let why = format!("there is no directory `{path}` on this host");
                    return Err(Error::Failed { what: format!("use the volume `{name}` of pod `{pod}`"), why });
                }
            }
            for secret in spec.processes().flat_map(|(_, _, container)| container.secrets.values()) {
                if !Path::new(&secret.file).is_file() {
                    let why = format!("there is no file `{}` on this host", secret.file);
                    return Err(Error::Failed { what: format!("use a secret of pod `{pod}`"), why });
                }
            }
        }
        let references: BTreeSet<Reference> = config
            .pods
            .values()
            .flat_map(|pod| pod.processes())
            .map(|(_, _, container)| container.image.clone())
            .collect();
        // Owned values in and out: the futures are moved between threads.
        let fetches: Vec<_> = references.into_iter().map(|reference| self.fetch(reference, base_dir, told)).collect();
        let fetched: Vec<Result<_, Error>> = stream::iter(fetches).buffer_unordered(FETCHES).collect().await;
        let digests: BTreeMap<Reference, Digest> = fetched.into_iter().collect::<Result<_, _>>()?;
        Graph::build(config, |reference| digests.get(reference).copied()).map_err(|e| internal("build the graph", e))
    }

    async fn fetch(
        &self,
        reference: Reference,
        base_dir: Option<&Path>,
        told: &Told,
    ) -> Result<(Reference, Digest), Error> {
        tell(told, "pull", reference.to_string());
        match self.host.images.pull(&reference, base_dir).await {
            Ok(digest) => Ok((reference, digest)),
            Err(e) => Err(Error::ImageUnavailable { image: reference.to_string(), why: e.why, help: e.help }),
        }
    }

    /// What tags stand for now.
    ///
    /// # Errors
    /// When one is no reference, or its registry does not say.
    pub async fn resolve(&self, images: Vec<String>) -> Result<varlink::ResolveReply, Error> {
        let parse = |image: String| match image.parse::<Reference>() {
            Ok(reference) => Ok(reference),
            Err(e) => Err(Error::ImageUnavailable { image, why: e.to_string(), help: None }),
        };
        let references: BTreeSet<Reference> = images.into_iter().map(parse).collect::<Result<_, Error>>()?;
        let resolve = |reference: Reference| async move {
            match self.host.images.resolve(&reference).await {
                Ok(digest) => Ok(varlink::Resolved { image: reference.to_string(), digest: digest.to_string() }),
                Err(e) => Err(Error::ImageUnavailable { image: reference.to_string(), why: e.why, help: e.help }),
            }
        };
        let asked: Vec<_> = references.into_iter().map(resolve).collect();
        let resolved: Vec<Result<_, Error>> = stream::iter(asked).buffered(FETCHES).collect().await;
        Ok(varlink::ResolveReply { images: resolved.into_iter().collect::<Result<_, _>>()? })
    }

    /// A switch as it comes over the socket.
    ///
    /// # Errors
    /// Whatever stops it before the commit; after it, how it went is the outcome.
    pub async fn switch(&self, call: &SwitchCall, uid: u32, told: &Told) -> Result<varlink::Outcome, Error> {
        let recording = (call.timings == Some(true)).then(|| self.host.timings.record());
        let mut config = {
            let _span = self.host.timings.span(|| "read and check the request".to_owned());
            request::read_config(&call.config)?
        };
        let (current, before) = self.current()?;
        if call.merge == Some(true) {
            let mut merged = before.config();
            merged.pods.append(&mut config.pods);
            config = merged;
            let problems: Vec<String> = check::check(&config).iter().map(|problem| problem.message.clone()).collect();
            if !problems.is_empty() {
                return Err(Error::Invalid { problems });
            }
        }
        let base_dir = call.base_dir.as_deref().map(PathBuf::from);
        // While images are fetched others may change the host; who commits first wins.
        let graph = {
            let _span = self.host.timings.span(|| "find the images, build the graph".to_owned());
            Arc::new(self.prepare(&config, base_dir.as_deref(), told).await?)
        };
        let _changing = self.begin(current).await?;
        if let Some(expected) = &call.plan {
            let (_, plan) = self.preview(&graph, &before).await?;
            let actual = plan.hash(graph.root()).to_string();
            if actual != *expected {
                return Err(Error::PlanChanged { expected: expected.clone(), actual });
            }
        }
        let wait = call.wait.map_or(self.host.settings.config.wait.duration(), Duration::from_millis);
        let provenance = self.keep_provenance(call.provenance.as_deref(), current, call.merge == Some(true))?;
        let gate = Gate { rollback: call.rollback != Some(false), wait };
        let change =
            Change { graph, source: call.source.chars().take(512).collect(), uid, provenance, gate: Some(gate) };
        let mut outcome = self.change(current, &before, change, told).await?;
        outcome.timings = recording.map(|recording| recording.read());
        Ok(outcome)
    }

    /// Takes the right to change the desired state from what it was when the caller looked.
    async fn begin(&self, parent: Option<u64>) -> Result<tokio::sync::MutexGuard<'_, ()>, Error> {
        // The loop holds it for a moment when it settles what a daemon before it left; a change holds it for long.
        let guard = timeout(MOMENT, self.changing.lock()).await;
        let current = self.host.store.current().map_err(store_error)?;
        let newest =
            current.map(|number| self.host.store.generation(number)).transpose().map_err(store_error)?.flatten();
        match (guard, newest) {
            (_, Some(newest)) if current != parent => {
                Err(Error::Superseded { generation: newest.number, by: newest.source })
            }
            (Ok(guard), _) => Ok(guard),
            (Err(_), newest) => {
                let what = match newest {
                    Some(newest)
                        if self.host.store.outcome(newest.number).map_err(store_error)? == Outcome::Pending =>
                    {
                        format!("generation {} ({})", newest.number, newest.source)
                    }
                    _ => "another change".to_owned(),
                };
                Err(Error::Busy { message: format!("{what} is under way; try again when it is done") })
            }
        }
    }

    /// Removes one pod, as a new generation.
    ///
    /// # Errors
    /// As [`Engine::switch`].
    pub async fn delete(&self, pod: &str, uid: u32, told: &Told) -> Result<varlink::Outcome, Error> {
        let (current, before) = self.current()?;
        let _changing = self.begin(current).await?;
        let mut config = before.config();
        let name = self.declared(&before, pod)?;
        config.pods.remove(&name);
        let problems: Vec<String> = check::check(&config).iter().map(|problem| problem.message.clone()).collect();
        if !problems.is_empty() {
            return Err(Error::Invalid { problems });
        }
        let images = before.images();
        let graph = Graph::build(&config, |reference| images.get(reference).copied())
            .map_err(|e| internal("build the graph", e))?;
        let graph = Arc::new(graph);
        let change =
            Change { graph, source: format!("delete {pod}"), uid, provenance: self.provenance_of(current), gate: None };
        self.change(current, &before, change, told).await
    }

    /// The name of a declared pod, or an error with the nearest one.
    pub fn declared(&self, graph: &Graph, pod: &str) -> Result<Name, Error> {
        let found = graph.pods().find(|name| name.as_str() == pod).cloned();
        found.ok_or_else(|| Error::NoSuchPod {
            pod: pod.to_owned(),
            nearest: tank_model::name::nearest(pod, graph.pods().map(Name::as_str)).map(str::to_owned),
        })
    }

    /// Goes back to an earlier generation, as a new one.
    ///
    /// # Errors
    /// When there is no such generation, or the store refuses.
    pub async fn rollback(&self, to: Option<u64>, uid: u32, told: &Told) -> Result<varlink::Outcome, Error> {
        let (current, before) = self.current()?;
        let _changing = self.begin(current).await?;
        let parent = || -> Option<u64> {
            self.host.store.generation(current?).ok().flatten().and_then(|generation| generation.parent)
        };
        let target = to.or_else(parent).ok_or(Error::NoSuchGeneration { number: to })?;
        let graph = self.host.generation_graph(target).map_err(store_error)?;
        let graph = graph.ok_or(Error::NoSuchGeneration { number: Some(target) })?;
        let change = Change {
            graph,
            source: format!("rollback to {target}"),
            uid,
            provenance: self.provenance_of(Some(target)),
            gate: None,
        };
        self.change(current, &before, change, told).await
    }

    /// Declares pods where nothing was ever declared.
    pub async fn seed(&self, text: &str, base_dir: Option<&Path>) {
        let (told, _) = mpsc::channel(1);
        let call = SwitchCall {
            config: text.trim_end().to_owned(),
            base_dir: base_dir.map(|dir| dir.display().to_string()),
            source: "seed".to_owned(),
            rollback: Some(false),
            ..SwitchCall::default()
        };
        if let Err(error) = self.switch(&call, 0, &told).await {
            self.host.events.add("failed", None, format!("the seed was not taken: {error}"));
        }
    }

    /// Commits and converges. `changing` is held by the caller.
    async fn change(
        &self,
        parent: Option<u64>,
        before: &Arc<Graph>,
        change: Change,
        told: &Told,
    ) -> Result<varlink::Outcome, Error> {
        let root = change.graph.root();
        let unchanged = parent.filter(|_| root == before.root());
        if let Some(number) = unchanged.filter(|_| !change.source.starts_with("rollback")) {
            return self.settle(number, change.graph, change.gate, told).await;
        }
        let number = {
            let _span = self.host.timings.span(|| "commit".to_owned());
            self.commit(parent, before, &change)?
        };
        tell(told, "commit", format!("generation {number}"));
        let graph = change.graph;
        let changed = changed_pods(before, &graph);
        let failure = self.reach(&graph, before, &changed, change.gate, told).await;
        let Some(failure) = failure else {
            crate::faults::boundary("before the outcome");
            self.host.store.set_outcome(number, Outcome::Good).map_err(store_error)?;
            self.host.events.add("switched", None, format!("generation {number} is good"));
            return Ok(outcome(number, root, true, None, false));
        };
        if !change.gate.is_some_and(|gate| gate.rollback) {
            self.host.store.set_outcome(number, Outcome::Failed).map_err(store_error)?;
            self.host.events.add("failed", None, format!("generation {number}: {failure}"));
            self.host.wake.notify_one();
            return Ok(outcome(number, root, true, Some(failure), false));
        }
        tell(told, "rollback", failure.clone());
        self.host.events.add("rollback", None, format!("generation {number} is put back: {failure}"));
        let back = Change {
            graph: Arc::clone(before),
            source: format!("automatic rollback of {number}"),
            uid: change.uid,
            provenance: self.provenance_of(parent),
            gate: None,
        };
        let restored = self.commit(Some(number), &graph, &back)?;
        self.host.store.set_outcome(number, Outcome::RolledBack).map_err(store_error)?;
        let again = self.reach(before, &graph, &BTreeSet::new(), None, told).await;
        let how = if again.is_none() { Outcome::Good } else { Outcome::Pending };
        self.host.store.set_outcome(restored, how).map_err(store_error)?;
        self.host.wake.notify_one();
        Ok(outcome(restored, before.root(), true, Some(failure), true))
    }

    /// A switch to what is current already. One that was good is left to the loop; one that was not is tried again.
    async fn settle(
        &self,
        number: u64,
        graph: Arc<Graph>,
        gate: Option<Gate>,
        told: &Told,
    ) -> Result<varlink::Outcome, Error> {
        let mut failure = None;
        if self.host.store.outcome(number).map_err(store_error)? != Outcome::Good {
            let pods = graph.pods().cloned().collect();
            failure = self.reach(&graph, &graph, &pods, gate, told).await;
            let how = if failure.is_none() { Outcome::Good } else { Outcome::Failed };
            self.host.store.set_outcome(number, how).map_err(store_error)?;
        }
        self.host.wake.notify_one();
        Ok(outcome(number, graph.root(), false, failure, false))
    }

    /// `before` is the graph of the generation `parent`.
    fn commit(&self, parent: Option<u64>, before: &Graph, change: &Change) -> Result<u64, Error> {
        let store = &self.host.store;
        let number = store::next_number(store.as_ref()).map_err(store_error)?;
        // Those of the generation before are there.
        let nodes = if parent.is_some() { change.graph.stored_beside(before) } else { change.graph.stored() };
        let nodes = nodes.map_err(|e| internal("encode the graph", e))?;
        let generation = Generation {
            number,
            root: change.graph.root(),
            parent,
            time: now(),
            uid: change.uid,
            source: change.source.clone(),
            provenance: change.provenance,
        };
        crate::faults::boundary("before the nodes");
        store.put_nodes(&nodes).map_err(store_error)?;
        // With the commit they are on the disk.
        let leases = self.host.propose_leases(&change.graph).map_err(store_error)?;
        leases.take(store.as_ref()).map_err(store_error)?;
        crate::faults::boundary("between nodes and generation");
        store.commit(&generation).map_err(store_error)?;
        self.host.remember(Arc::clone(&change.graph));
        crate::faults::boundary("after the commit");
        self.host.events.add("committed", None, format!("generation {number}: {}", generation.source));
        Ok(number)
    }

    /// Passes until there is nothing left to do and, with a gate, until every changed pod is healthy. Returns why it
    /// is not.
    async fn reach(
        &self,
        graph: &Arc<Graph>,
        previous: &Graph,
        changed: &BTreeSet<Name>,
        gate: Option<Gate>,
        told: &Told,
    ) -> Option<String> {
        let _passing = self.passing.lock().await;
        let deadline = Instant::now() + gate.map_or(self.host.settings.config.wait.duration(), |gate| gate.wait);
        let mut failures: u32 = 0;
        loop {
            let told_step = |step: &Step| tell(told, "step", step.to_string());
            let pass = match self.pass(graph, Some(previous), &told_step).await {
                Ok(pass) => pass,
                Err(error) => return Some(error.to_string()),
            };
            if pass.failed.is_empty() && pass.plan.steps.is_empty() {
                gate?;
                match health::health(
                    graph,
                    changed,
                    &pass.observed,
                    &pass.plan.waiting,
                    self.host.settings.config.grace.0,
                ) {
                    Health::Good => return None,
                    Health::Hopeless(why) => return Some(self.with_log(why, graph, changed, &pass.observed)),
                    Health::NotYet(why) if Instant::now() >= deadline => {
                        return Some(self.with_log(
                            format!("not healthy in time: {why}"),
                            graph,
                            changed,
                            &pass.observed,
                        ));
                    }
                    Health::NotYet(_) => {}
                }
                let _ = timeout(Duration::from_millis(20), self.host.wake.notified()).await;
            } else if let Some(first) = pass.failed.first() {
                failures += 1;
                let lasting = matches!(first.failure.kind, FailureKind::NotFound | FailureKind::NotExecutable);
                if failures >= PATIENCE || lasting || Instant::now() >= deadline {
                    return Some(format!("can't {}: {}: {}", first.step, first.failure.what, first.failure.why));
                }
                sleep(Duration::from_millis(100)).await;
            } else if Instant::now() >= deadline {
                return Some("something is left to do after every pass: it takes longer than it may".to_owned());
            }
        }
    }

    /// Adds the last lines of the containers that are not well.
    fn with_log(&self, why: String, graph: &Graph, changed: &BTreeSet<Name>, observed: &Observed) -> String {
        let mut text = why;
        for pod in changed {
            let inits = graph.init(pod).map(|(name, ..)| name);
            for name in inits.chain(graph.containers(pod).map(|(name, ..)| name)) {
                let found = observed.pods.get(pod).and_then(|found| found.containers.get(name));
                if found.is_some_and(|found| {
                    matches!(found.state, State::Running { ready: true, .. } | State::Exited { status: 0, .. })
                        && found.attempt == 0
                }) {
                    continue;
                }
                for line in crate::logs::last_lines(&self.host, pod.as_str(), name.as_str(), 10) {
                    text = format!("{text}\n  {pod}/{name}: {line}");
                }
            }
        }
        text
    }
}

fn outcome(
    generation: u64,
    root: Digest,
    changed: bool,
    failure: Option<String>,
    rolled_back: bool,
) -> varlink::Outcome {
    varlink::Outcome { generation, root: root.to_string(), changed, rolled_back, failure, timings: None }
}

/// The pods that are new or differ.
fn changed_pods(before: &Graph, after: &Graph) -> BTreeSet<Name> {
    let hash = |graph: &Graph, pod: &Name| graph.get(&Key::Pod(pod.clone())).map(|entry| entry.hash);
    after.pods().filter(|pod| hash(before, pod) != hash(after, pod)).cloned().collect()
}

pub fn empty_graph() -> Result<Graph, Error> {
    Graph::build(&Config::default(), |_| None).map_err(|e| internal("build the empty graph", e))
}
