//! The loop, and what changes the desired state: switch, delete, rollback, seed. All of them end in
//! one code path: observe, plan, carry out, observe again.
//!
//! *Flow of a switch*: find out what is meant ([`crate::generations::intent`]: check, fetch), commit, converge
//! and wait for health ([`crate::generations::reach`]); then good, or the parent again. Until the commit nothing
//! is disturbed, and a caller that leaves ends it. *Guarantees*: one change of the desired state at
//! a time; a pass never runs beside another; going back is never gated on health, and ends a change
//! that is on its way. A daemon that ends while it waits leaves the generation pending; the loop of
//! the next one goes on with it: with its gate where it has one, and else until it is reached.

pub mod intent;
pub mod ports;
pub mod reach;
mod request;
mod why;

use crate::{
    actuate::{self, Failed},
    events::now,
    generations::intent::Intent,
    generations::reach::{Aim, Committed, Reached, Verified, Way},
    observe::{self, Found},
    pods::host::Host,
    store::{self, StoreError},
};
use futures_util::stream::{self, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tank_model::{
    Digest, Gate, Generation, Graph, Name, Outcome, generation::last_good, reference::Reference,
    spec::Config,
};
use tank_plan::{Desired, Observed, Plan, Step, health::PATIENCE};
use tank_proto::{
    shim::Failure,
    varlink::{self, Error, Progress, Stage, SwitchCall},
};
use tank_sys::clock::boot_millis;
use tokio::{
    sync::{Mutex, MutexGuard, mpsc},
    time::{sleep, timeout},
};

/// The most registries asked at once.
const FETCHES: usize = 4;

/// The most images of one call.
const MAX_RESOLVED: usize = 1_000;

/// How long nothing has to happen until memory is given back.
const REST: Duration = Duration::from_secs(3);

/// How long a change waits for another one to be over.
const MOMENT: Duration = Duration::from_millis(200);

/// How long a rollback waits for the pass under way: longer than containers are usually given to
/// stop.
const PASS_LIMIT: Duration = Duration::from_secs(120);

/// What the source of a rollback that was asked for begins with.
const ROLLBACK: &str = "rollback to ";

/// The engine of one host.
pub struct Engine {
    pub host: Arc<Host>,
    /// Held by whoever observes and acts.
    pub(crate) passing: Mutex<()>,
    /// Held by whoever changes the desired state, until that is reached.
    pub(crate) changing: Mutex<()>,
    /// How many rollbacks wait for the change that is on its way to stop.
    pub(crate) superseding: AtomicUsize,
}

/// Where progress goes. Sending never waits and never fails. It is closed when the caller has gone.
pub type ProgressSender = mpsc::Sender<Progress>;

/// The most progress that waits for a client to read it; what comes on top of that is not progress.
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
    pub aim: Aim,
}

pub fn internal(what: &str, error: impl std::fmt::Display) -> Error {
    Error::Failed {
        what: what.to_owned(),
        why: error.to_string(),
    }
}

pub fn store_error(error: StoreError) -> Error {
    let mut why = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        why = format!("{why}: {source}");
    }
    Error::Failed {
        what: "use the store".to_owned(),
        why,
    }
}

fn failure_error(failure: &Failure) -> Error {
    Error::Failed {
        what: failure.what.clone(),
        why: failure.why.clone(),
    }
}

pub fn notify(progress: &ProgressSender, stage: Stage, message: impl Into<String>) {
    let _ = progress.try_send(Progress {
        stage,
        message: message.into(),
    });
}

impl Engine {
    pub fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            passing: Mutex::new(()),
            changing: Mutex::new(()),
            superseding: AtomicUsize::new(0),
        }
    }

    /// Runs for ever: whenever something happens, when a wait is over, and at least every `resync`.
    pub async fn run(self: Arc<Self>) {
        let mut failures = 0;
        let mut busy = 0;
        loop {
            let resync = self.host.settings.config.resync.duration();
            let resumed = if self.host.settings.no_repair {
                Ok(())
            } else {
                self.resume().await
            };
            let pass = match resumed {
                Ok(()) => self.converge_current().await,
                Err(error) => Err(error),
            };
            let pause = match pass {
                // When each is tried again is the planner's to say: the next pass gets to know it.
                Ok(Some(pass)) if !pass.failed.is_empty() => Duration::from_millis(500),
                Ok(Some(pass)) if pass.plan.steps.is_empty() => {
                    (failures, busy) = (0, 0);
                    let wake = pass
                        .plan
                        .wake_at()
                        .map(|at| Duration::from_millis(at.saturating_sub(boot_millis()).max(1)));
                    wake.unwrap_or(resync)
                }
                // Something was done: look again at once. A host that never is as it was just made
                // (another program undoes it, or the kernel rounds what it is progress) must not
                // keep a CPU busy.
                Ok(Some(_)) => {
                    busy += 1;
                    if busy <= PATIENCE {
                        Duration::ZERO
                    } else {
                        Duration::from_secs(1)
                    }
                }
                Ok(None) => resync,
                Err(error) => {
                    failures += 1;
                    self.host.events.add("failed", None, error.to_string());
                    Duration::from_millis(tank_plan::backoff::delay(failures).max(500))
                }
            };
            let pause = pause.min(resync);
            if timeout(pause.min(REST), self.host.wake.notified())
                .await
                .is_err()
                && pause > REST
            {
                // What the last change took is not kept for the next.
                tank_sys::process::give_memory_back();
                if timeout(pause - REST, self.host.wake.notified())
                    .await
                    .is_err()
                {
                    // A look by the clock takes nothing on trust.
                    self.host.forget_seen();
                }
            }
        }
    }

    /// Leases what the current generation names, should an older Tank not have done that. Before
    /// anything is served.
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
        let Some(graph) = self.host.generation_graph(current).map_err(store_error)? else {
            return Ok(None);
        };
        // A person wants to see what is wrong before it is put right: a switch still does what it
        // says.
        if self.host.settings.no_repair {
            let observed = self.observe(&graph).await?;
            self.host.prober.reconcile(&self.host, &graph, &observed);
            return Ok(None);
        }
        // What a daemon that ended on the way has not reached yet is change, and in the order of
        // one; the rest is drift.
        let pending = self.host.store.outcome(current).map_err(store_error)? == Outcome::Pending;
        let parent = self
            .host
            .store
            .generation(current)
            .map_err(store_error)?
            .and_then(|one| one.parent);
        let before = match parent.filter(|_| pending) {
            Some(parent) => self.host.generation_graph(parent).map_err(store_error)?,
            None => None,
        };
        let pass = self
            .pass(&graph, Some(before.as_deref().unwrap_or(&graph)), &|_| {})
            .await?;
        // A daemon that ended on the way left its generation pending; if nobody is at it, it is
        // reached now. One with a gate is waited for instead ([`Engine::resume`]). Asked again
        // under the lock: whoever was at it may have said meanwhile how it ended.
        if pass.plan.is_empty()
            && pending
            && self
                .host
                .store
                .gate(current)
                .map_err(store_error)?
                .is_none()
            && let Ok(_idle) = self.changing.try_lock()
            && self.host.store.outcome(current).map_err(store_error)? == Outcome::Pending
        {
            let how = self.outcome_of(current, graph.root(), Aim::Running)?;
            self.host
                .store
                .set_outcome(current, how)
                .map_err(store_error)?;
        }
        Ok(Some(pass))
    }

    /// Observes, plans, carries out. The caller holds `passing`, and `graph` is that of the current
    /// generation: its runs are those that are probed.
    pub(crate) async fn pass(
        &self,
        graph: &Arc<Graph>,
        previous: Option<&Graph>,
        progress: &(dyn Fn(&Step) + Sync),
    ) -> Result<Pass, Error> {
        let (Found { observed, .. }, plan) = self.look(graph, previous).await?;
        self.host.prober.reconcile(&self.host, graph, &observed);
        let _span = self
            .host
            .timings
            .span(|| format!("carry {} steps out", plan.steps.len()));
        let failed = actuate::carry_out(&self.host, graph, &plan, progress).await;
        Ok(Pass {
            observed,
            plan,
            failed,
        })
    }

    /// What there is of a graph on this host. Looks and does not touch.
    ///
    /// # Errors
    /// When something can't be looked at.
    pub async fn observe(&self, graph: &Graph) -> Result<Observed, Error> {
        let leases = self.host.propose_leases(graph).map_err(store_error)?;
        let files =
            crate::actuate::files::digests(&self.host, graph, &leases).map_err(store_error)?;
        // Whoever looks wants to know which pods answer, and not only what they said last.
        self.host.check_shims().await;
        let found = observe::observe(&self.host, graph, &files)
            .await
            .map_err(|e| failure_error(&e))?;
        self.pass_on(found.heard);
        Ok(found.observed)
    }

    /// What was heard outside of a pass is the loop's to put right.
    fn pass_on(&self, heard: bool) {
        if heard {
            self.host.wake.notify_one();
        }
    }

    /// Observes, and asks the pure planner, with what this host leases, or would lease, handed to
    /// it as data. Acts on nothing.
    async fn look(&self, graph: &Graph, previous: Option<&Graph>) -> Result<(Found, Plan), Error> {
        let leases = self.host.propose_leases(graph).map_err(store_error)?;
        let files =
            crate::actuate::files::digests(&self.host, graph, &leases).map_err(store_error)?;
        let found = {
            let _span = self.host.timings.span(|| "observe the host".to_owned());
            observe::observe(&self.host, graph, &files)
                .await
                .map_err(|e| failure_error(&e))?
        };
        let _span = self.host.timings.span(|| "plan".to_owned());
        let mut addresses = BTreeMap::new();
        let mut stop_signals = BTreeMap::new();
        for pod in graph.pods() {
            let bridged = graph
                .sandbox(pod)
                .is_some_and(|(node, _)| node.network == tank_model::spec::Network::Bridge);
            if bridged {
                let own = self
                    .host
                    .addresses_of(leases.get(pod).map_err(store_error)?);
                addresses.insert(
                    pod.clone(),
                    own.iter().map(ToString::to_string).collect::<BTreeSet<_>>(),
                );
            }
            for (container, _, _) in graph.containers(pod) {
                let signal = graph.lifecycle(pod, container).stop.signal;
                if let Some(signal) =
                    signal.and_then(|name| tank_sys::process::signal_number(&name))
                {
                    stop_signals.insert((pod.clone(), container.clone()), signal);
                }
            }
        }
        let ruleset = self.host.ruleset(graph, &leases).map_err(store_error)?;
        let desired = Desired {
            graph,
            previous,
            addresses: &addresses,
            bridge: &self
                .host
                .bridge_addresses()
                .iter()
                .map(ToString::to_string)
                .collect(),
            firewall: &ruleset
                .map(|ruleset| ruleset.contents())
                .unwrap_or_default(),
            stop_signals: &stop_signals,
            files: &files,
        };
        let plan = tank_plan::plan(&desired, &found.observed);
        Ok((found, plan))
    }

    /// The current generation and its graph; the empty graph where there is none.
    pub fn current(&self) -> Result<(Option<u64>, Arc<Graph>), Error> {
        let current = self.host.store.current().map_err(store_error)?;
        let graph = current
            .map(|number| self.host.generation_graph(number))
            .transpose()
            .map_err(store_error)?
            .flatten();
        match graph {
            Some(graph) => Ok((current, graph)),
            None => Ok((current, Arc::new(empty_graph()?))),
        }
    }

    /// What a switch to `graph` would do. Looks and does not touch.
    pub async fn preview(
        &self,
        graph: &Graph,
        previous: &Graph,
    ) -> Result<(Observed, Plan), Error> {
        let (found, plan) = self.look(graph, Some(previous)).await?;
        self.pass_on(found.heard);
        Ok((found.observed, plan))
    }

    /// What tags stand for now.
    ///
    /// # Errors
    /// When one is no reference, or its registry does not say.
    pub async fn resolve(&self, images: Vec<String>) -> Result<varlink::ResolveReply, Error> {
        let parse = |image: String| match image.parse::<Reference>() {
            Ok(reference) => Ok(reference),
            Err(e) => Err(Error::ImageUnavailable {
                image,
                why: e.to_string(),
                help: None,
            }),
        };
        if images.len() > MAX_RESOLVED {
            let problem = format!(
                "{} images are asked for, and {MAX_RESOLVED} is the most",
                images.len()
            );
            return Err(Error::Invalid {
                problems: vec![problem],
            });
        }
        let references: BTreeSet<Reference> = images
            .into_iter()
            .map(parse)
            .collect::<Result<_, Error>>()?;
        let resolve = |reference: Reference| async move {
            match self.host.images.resolve(&reference).await {
                Ok(digest) => Ok(varlink::Resolved {
                    image: reference.to_string(),
                    digest: digest.to_string(),
                }),
                Err(e) => Err(Error::ImageUnavailable {
                    image: reference.to_string(),
                    why: e.why,
                    help: e.help,
                }),
            }
        };
        let asked: Vec<_> = references.into_iter().map(resolve).collect();
        let resolved: Vec<Result<_, Error>> = stream::iter(asked).buffered(FETCHES).collect().await;
        Ok(varlink::ResolveReply {
            images: resolved.into_iter().collect::<Result<_, _>>()?,
        })
    }

    /// A switch as it comes over the socket. A caller that leaves before the commit ends it.
    ///
    /// # Errors
    /// Whatever stops it before the commit; after it, how it went is the outcome.
    pub async fn switch(
        &self,
        call: &SwitchCall,
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        let result = self.switch_until_superseded(call, uid, progress).await;
        self.name_successor(result).await
    }

    async fn switch_until_superseded(
        &self,
        call: &SwitchCall,
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        let recording = (call.timings == Some(true)).then(|| self.host.timings.record());
        let request = intent::Request::of_switch(call, uid);
        let Intent {
            current,
            before,
            graph,
            sources,
        } = tokio::select! {
            intent = self.intend(&request, progress) => intent?,
            () = progress.closed() => return Err(left()),
        };
        let _changing = self.begin(current).await?;
        crate::generations::ports::refuse_taken(&self.host, &before, &graph).await?;
        let verified = match &call.plan {
            Some(expected) => Some(self.verify(expected, &graph, &before).await?),
            None => None,
        };
        let wait = call.wait.unwrap_or(self.host.settings.config.wait.0);
        let provenance = self.keep_provenance(
            call.provenance.as_deref(),
            current,
            call.merge == Some(true),
            sources,
        )?;
        let gate = Gate {
            rollback: call.rollback != Some(false),
            wait,
        };
        let source = call.source.chars().take(512).collect();
        let change = Change {
            graph,
            source,
            uid,
            provenance,
            aim: Aim::Healthy(gate),
        };
        let mut outcome = self
            .change(current, &before, change, verified, progress)
            .await?;
        outcome.timings = recording.map(|recording| recording.read());
        Ok(outcome)
    }

    /// Makes the plan again, and keeps everybody from acting until it is carried out.
    async fn verify(
        &self,
        expected: &str,
        graph: &Arc<Graph>,
        before: &Graph,
    ) -> Result<Verified<'_>, Error> {
        let lock = self.passing.lock().await;
        let (found, plan) = self.look(graph, Some(before)).await?;
        self.pass_on(found.heard);
        let actual = plan.hash(graph.root()).to_string();
        if actual != expected {
            return Err(Error::PlanChanged {
                expected: expected.to_owned(),
                actual,
            });
        }
        Ok(Verified { lock, plan })
    }

    /// Takes the right to change the desired state from what it was when the caller looked.
    async fn begin(&self, parent: Option<u64>) -> Result<tokio::sync::MutexGuard<'_, ()>, Error> {
        // The loop holds it for a moment when it settles what a daemon before it left; a change
        // holds it for long.
        let guard = timeout(MOMENT, self.changing.lock()).await;
        let current = self.host.store.current().map_err(store_error)?;
        let newest = current
            .map(|number| self.host.store.generation(number))
            .transpose()
            .map_err(store_error)?
            .flatten();
        match (guard, newest) {
            (_, Some(newest)) if current != parent => Err(Error::Superseded {
                generation: newest.number,
                by: newest.source,
                ended: None,
            }),
            (Ok(guard), _) => Ok(guard),
            (Err(_), newest) => {
                let what = match newest {
                    Some(newest)
                        if self
                            .host
                            .store
                            .outcome(newest.number)
                            .map_err(store_error)?
                            == Outcome::Pending =>
                    {
                        format!("generation {} ({})", newest.number, newest.source)
                    }
                    _ => "another change".to_owned(),
                };
                Err(Error::Busy {
                    message: format!("{what} is under way; try again when it is done"),
                })
            }
        }
    }

    /// Removes one pod, as a new generation.
    ///
    /// # Errors
    /// As [`Engine::switch`].
    pub async fn delete(
        &self,
        pod: &str,
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        let result = self.delete_until_superseded(pod, uid, progress).await;
        self.name_successor(result).await
    }

    async fn delete_until_superseded(
        &self,
        pod: &str,
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        let (current, before) = self.current()?;
        let _changing = self.begin(current).await?;
        let stored = before.config();
        let mut config = stored.clone();
        let name = self.declared(&before, pod)?;
        config.pods.remove(&name);
        let problems = request::added_problems(&stored, &config);
        if !problems.is_empty() {
            return Err(Error::Invalid { problems });
        }
        let images = before.images();
        let graph = Graph::build(&config, |reference| images.get(reference).copied())
            .map_err(|e| internal("build the graph", e))?;
        let graph = Arc::new(graph);
        let source = format!("delete {pod}");
        let change = Change {
            graph,
            source,
            uid,
            provenance: self.provenance_of(current),
            aim: Aim::Done,
        };
        self.change(current, &before, change, None, progress).await
    }

    /// The name of a declared pod, or an error with the nearest one.
    pub fn declared(&self, graph: &Graph, pod: &str) -> Result<Name, Error> {
        let found = graph.pods().find(|name| name.as_str() == pod).cloned();
        found.ok_or_else(|| Error::NoSuchPod {
            pod: pod.to_owned(),
            nearest: tank_model::name::nearest(pod, graph.pods().map(Name::as_str))
                .map(str::to_owned),
        })
    }

    /// Goes back to an earlier generation, as a new one; the newest good one that differs unless
    /// `to` names another. It ends a change that is on its way, and is done when all that it
    /// declares runs.
    ///
    /// # Errors
    /// When there is no such generation, or the store refuses.
    pub async fn rollback(
        &self,
        to: Option<u64>,
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        let result = self.rollback_until_superseded(to, uid, progress).await;
        self.name_successor(result).await
    }

    async fn rollback_until_superseded(
        &self,
        to: Option<u64>,
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        // What can't be gone back to ends nothing.
        self.target(to)?;
        let _changing = self.supersede(progress).await?;
        let (current, before) = self.current()?;
        let (target, note) = self.target(to)?;
        let pending = current.filter(|number| {
            self.host
                .store
                .outcome(*number)
                .is_ok_and(|outcome| outcome == Outcome::Pending)
        });
        notify(progress, Stage::Note, note);
        let change = Change {
            graph: self.host.graph(target.root).map_err(store_error)?,
            source: format!("{ROLLBACK}{}", target.number),
            uid,
            provenance: target.provenance,
            aim: Aim::Running,
        };
        let number = self.committed(current, &before, &change, progress)?;
        if let Some(pending) = pending {
            self.host
                .store
                .set_outcome(pending, Outcome::RolledBack)
                .map_err(store_error)?;
        }
        let committed = Committed {
            number,
            parent: current,
            uid,
            graph: change.graph,
            before,
            aim: change.aim,
            verified: None,
        };
        self.converge(committed, progress).await
    }

    /// Takes the right to change the desired state from whoever has it: they stop after the pass
    /// under way.
    async fn supersede(&self, progress: &ProgressSender) -> Result<MutexGuard<'_, ()>, Error> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.superseding.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.superseding);
        tokio::select! {
            guard = self.changing.lock() => Ok(guard),
            () = progress.closed() => Err(left()),
            () = sleep(PASS_LIMIT) => {
                let why = format!("the pass under way has not ended for {} s", PASS_LIMIT.as_secs());
                Err(Error::Failed { what: "end the change that is on its way".to_owned(), why })
            }
        }
    }

    /// Which generation to go back to, and that in words.
    fn target(&self, to: Option<u64>) -> Result<(Generation, String), Error> {
        let store = &self.host.store;
        let read = |number: u64| -> Result<_, Error> {
            let found = store.generation(number).map_err(store_error)?;
            found
                .map(|found| Ok((found, store.outcome(number).map_err(store_error)?)))
                .transpose()
        };
        let current = store
            .current()
            .map_err(store_error)?
            .ok_or(Error::NoSuchGeneration { number: to })?;
        if let Some(number) = to {
            let (found, outcome) = read(number)?.ok_or(Error::NoSuchGeneration { number: to })?;
            let was = match outcome {
                Outcome::Good => String::new(),
                bad => format!("; it was {bad}"),
            };
            let note = format!("going back to generation {number} ({}){was}", found.source);
            return Ok((found, note));
        }
        // Who asks for what is being done already does not mean the one before.
        let on_its_way = read(current)?
            .filter(|(_, outcome)| *outcome == Outcome::Pending)
            .map(|(newest, _)| newest);
        if let Some(newest) = on_its_way
            .clone()
            .filter(|newest| newest.source.starts_with(ROLLBACK))
        {
            let note = format!(
                "generation {current} ({}) is on its way already",
                newest.source
            );
            return Ok((newest, note));
        }
        let by_itself =
            on_its_way.is_some_and(|newest| newest.source.starts_with(reach::AUTOMATIC));
        let found = last_good(current, by_itself, read)?.ok_or_else(|| Error::Failed {
            what: "go back".to_owned(),
            why: format!(
                "no generation before {current} was good and is another one; `tank generations list` shows them, and \
                 `tank generations rollback N` goes to any"
            ),
        })?;
        let note = format!(
            "going back to generation {} ({}), the newest good one that differs",
            found.number, found.source
        );
        Ok((found, note))
    }

    /// Declares pods where nothing was ever declared.
    pub async fn seed(&self, text: &str, base_dir: Option<&Path>) {
        let (progress, _kept) = mpsc::channel(1);
        let call = SwitchCall {
            config: text.trim_end().to_owned(),
            base_dir: base_dir.map(|dir| dir.display().to_string()),
            source: "seed".to_owned(),
            rollback: Some(false),
            ..SwitchCall::default()
        };
        if let Err(error) = self.switch(&call, 0, &progress).await {
            self.host
                .events
                .add("failed", None, format!("the seed was not taken: {error}"));
        }
    }

    /// Commits and converges. `changing` is held by the caller.
    async fn change(
        &self,
        parent: Option<u64>,
        before: &Arc<Graph>,
        change: Change,
        verified: Option<Verified<'_>>,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        if let Some(number) = parent.filter(|_| change.graph.root() == before.root()) {
            return self.repair(number, change, verified, progress).await;
        }
        let number = self.committed(parent, before, &change, progress)?;
        let Change {
            graph, uid, aim, ..
        } = change;
        let committed = Committed {
            number,
            parent,
            uid,
            graph,
            before: Arc::clone(before),
            aim,
            verified,
        };
        self.converge(committed, progress).await
    }

    /// Commits for a caller that is still there.
    fn committed(
        &self,
        parent: Option<u64>,
        before: &Graph,
        change: &Change,
        progress: &ProgressSender,
    ) -> Result<u64, Error> {
        if progress.is_closed() {
            return Err(left());
        }
        let _span = self.host.timings.span(|| "commit".to_owned());
        let number = self.commit(parent, before, change)?;
        notify(progress, Stage::Commit, format!("generation {number}"));
        Ok(number)
    }

    /// A switch to what is current already: the same passes as any other. What was good stays it,
    /// and the health of what was repaired counts; what was not is tried again as a whole.
    async fn repair(
        &self,
        number: u64,
        change: Change,
        verified: Option<Verified<'_>>,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        let Change {
            graph, uid, aim, ..
        } = change;
        let store = &self.host.store;
        let before = store.outcome(number).map_err(store_error)?;
        if before == Outcome::Pending && store.gate(number).map_err(store_error)?.is_some() {
            // A daemon that ended left it on its way.
            let parent = store
                .generation(number)
                .map_err(store_error)?
                .and_then(|generation| generation.parent);
            let before = self.graph_or_empty(parent)?;
            return self
                .converge(
                    Committed {
                        number,
                        parent,
                        uid,
                        graph,
                        before,
                        aim,
                        verified,
                    },
                    progress,
                )
                .await;
        }
        let was_good = before == Outcome::Good;
        let changed = if was_good {
            BTreeSet::new()
        } else {
            graph.pods().cloned().collect()
        };
        let way = Way {
            graph: &graph,
            previous: &graph,
            aim,
            changed,
            repaired_counts: was_good,
            verified,
        };
        let Reached {
            failure,
            superseded,
            steps,
        } = self.reach(way, progress).await;
        if superseded {
            return Err(Error::Superseded {
                generation: number,
                by: String::new(),
                ended: Some(number),
            });
        }
        if !was_good {
            let how = if failure.is_none() {
                Outcome::Good
            } else {
                Outcome::Failed
            };
            store.set_outcome(number, how).map_err(store_error)?;
        }
        self.host.wake.notify_one();
        let outcome = reach::outcome(number, &graph, failure, false);
        Ok(varlink::Outcome {
            changed: !steps.is_empty(),
            repaired: Some(steps),
            ..outcome
        })
    }

    /// `before` is the graph of the generation `parent`.
    pub(crate) fn commit(
        &self,
        parent: Option<u64>,
        before: &Graph,
        change: &Change,
    ) -> Result<u64, Error> {
        let store = &self.host.store;
        let number = store::next_number(store.as_ref()).map_err(store_error)?;
        // Those of the generation before are there.
        let nodes = if parent.is_some() {
            change.graph.stored_beside(before)
        } else {
            change.graph.stored()
        };
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
        let leases = self
            .host
            .propose_leases(&change.graph)
            .map_err(store_error)?;
        leases.take(store.as_ref()).map_err(store_error)?;
        crate::faults::boundary("between nodes and generation");
        store
            .commit_gated(&generation, change.aim.gate().as_ref())
            .map_err(store_error)?;
        self.host.remember(Arc::clone(&change.graph));
        crate::faults::boundary("after the commit");
        self.host.events.add(
            "committed",
            None,
            format!("generation {number}: {}", generation.source),
        );
        Ok(number)
    }
}

/// A caller that is gone before anything was committed.
fn left() -> Error {
    Error::Failed {
        what: "change anything".to_owned(),
        why: "the caller has left before the commit".to_owned(),
    }
}

pub fn empty_graph() -> Result<Graph, Error> {
    Graph::build(&Config::default(), |_| None).map_err(|e| internal("build the empty graph", e))
}
