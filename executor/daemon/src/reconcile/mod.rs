//! Observe, plan, carry out: one pass, and the loop of them.
//!
//! *Guarantees*: a pass never runs beside another ([`Reconciler::lock`]); planning writes nothing, so
//! what [`Reconciler::plan`] gives may be shown to anybody at any time. *Never*: changes the desired
//! state; whoever does is above ([`Keeper`]).

mod data;
mod failures;
mod keep;
mod sampler;
mod target;
mod telemetry;

pub use data::Way;
pub use keep::{Keeper, KeeperError};
pub use telemetry::Telemetry;

use crate::{
    actuate::{Actuator, At, Carried, Failed},
    dirty::Dirty,
    events::{Events, Kind},
    figures::Figures,
    observe::{self, Files, Observer, UsageSnapshot},
    pods::{Pods, RunId, runs::Leased},
    probe::Prober,
    settings::Settings,
    store::{
        self, Store, StoreError,
        graphs::Graphs,
        leases::{Proposal, Wanted},
    },
    timings::Timings,
};
use failures::Failures;
use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, PoisonError},
    time::Instant,
};
use tank_image::Images;
use tank_model::{Graph, Key, Name, Scope, spec::Network};
use tank_plan::{
    Dump, Observed, Plan, Report, Step, Target, Unmet,
    target::{
        networks::{self, MAX_PODS},
        nics,
        pools::Demand,
    },
    unusable::Unusable,
};
use tank_sys::with_causes;
use target::{HostInputs, TargetReader};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinError,
};

/// Why there is no pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't use the store")]
    Store(#[from] StoreError),
    #[error("can't {}", with_causes(.0))]
    Observe(observe::Error),
    #[error("can't read what is declared")]
    Inputs(#[source] JoinError),
}

/// What one pass found and did.
pub struct Pass {
    pub observed: Observed,
    /// The version of [`Dirty`] at which the host was observed.
    pub version: u64,
    pub plan: Plan,
    /// What the plan leaves undone.
    pub report: Report,
    pub failed: Vec<Failed>,
}

/// What is to be done, and on what that was decided.
pub struct Planned {
    pub observed: Observed,
    /// The version of [`Dirty`] at which the host was observed.
    pub version: u64,
    pub plan: Plan,
    /// What the plan leaves undone.
    pub report: Report,
    inputs: HostInputs,
}

impl Planned {
    /// All that the plan was made from, to be planned from again elsewhere.
    pub fn dump(&self, graph: &Graph, previous: Option<&Graph>) -> Dump {
        let runs = &self.inputs.runs;
        let with_runs = runs.beside(graph, |_| true);
        let with_started = previous.and_then(|previous| runs.beside(previous, |run| run.started));
        let graph = with_runs.as_ref().unwrap_or(graph);
        let previous = with_started.as_ref().or(previous);
        Dump::of(&self.inputs.target(graph, previous), &self.observed)
    }
}

/// Keeps a host as a graph declares.
pub struct Reconciler {
    settings: Arc<Settings>,
    store: Arc<dyn Store>,
    graphs: Arc<Graphs>,
    pods: Arc<Pods>,
    observer: Arc<Observer>,
    actuator: Arc<Actuator>,
    prober: Arc<Prober>,
    events: Arc<Events>,
    timings: Arc<Timings>,
    dirty: Arc<Dirty>,
    targets: Arc<TargetReader>,
    failures: Failures,
    telemetry: Telemetry,
    figures: Arc<Figures>,
    /// What pods lacked of the host at the last pass.
    unmet: std::sync::Mutex<Vec<Unmet>>,
    lock: Mutex<()>,
}

impl Reconciler {
    pub fn new(
        (settings, store, graphs): (Arc<Settings>, Arc<dyn Store>, Arc<Graphs>),
        (pods, images): (Arc<Pods>, Arc<Images>),
        (observer, actuator, prober): (Arc<Observer>, Arc<Actuator>, Arc<Prober>),
        (events, timings, dirty): (Arc<Events>, Arc<Timings>, Arc<Dirty>),
    ) -> Self {
        let runs = Arc::clone(pods.runs());
        let beside = (images, Arc::clone(&actuator.volumes), runs);
        let targets = TargetReader::new(&settings, Arc::clone(&store), beside);
        Self {
            targets: Arc::new(targets),
            figures: Arc::new(Figures::new(&settings.state_dir)),
            settings,
            store,
            graphs,
            pods,
            observer,
            actuator,
            prober,
            events,
            timings,
            dirty,
            failures: Failures::default(),
            telemetry: Telemetry::default(),
            unmet: std::sync::Mutex::default(),
            lock: Mutex::new(()),
        }
    }

    /// What passes have cost and done.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Held by whoever observes and acts.
    pub async fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().await
    }

    /// Has everything that failed tried again at once: somebody changes something.
    pub fn retry_failures(&self) {
        self.failures.clear();
    }

    /// The leases of a graph's pods, those that new names would get among them. Takes none.
    ///
    /// # Errors
    /// When the store can't be read, or has no lease left.
    pub fn propose_leases(&self, graph: &Graph) -> Result<Proposal, StoreError> {
        let pools = &self.settings.config.network_pools;
        let wanted = Wanted::of(graph);
        let beside = self.pods.runs().leases();
        let proposal = Proposal::of(self.store.as_ref(), &wanted, (pools, &beside))?;
        let others = || self.actuator.volumes.projects_in_use();
        let proposal = proposal.with_projects(&wanted.volumes, others)?;
        Ok(proposal.with_pools(&Demand::of(graph)))
    }

    /// Leases what the pod of a run needs that is in none of the current graph, until the guard is dropped: no store keeps it.
    /// `graph` has the pod, and the caller keeps generations from being committed meanwhile.
    ///
    /// # Errors
    /// When the store can't be read, or has no lease left.
    pub fn lease_run(&self, graph: &Graph, pod: &Name) -> Result<Leased, StoreError> {
        let proposal = self.propose_leases(graph)?;
        let on_network = format!("/{pod}");
        let new = proposal.change().new.iter();
        let own = new.filter(|(name, _)| *name == pod.as_str() || name.ends_with(&on_network));
        let own = own.map(|(name, lease)| (name.clone(), *lease)).collect();
        Ok(self.pods.runs().lease(own))
    }

    /// What there is of a graph on this host, after every shim was asked whether it answers. Acts on
    /// nothing.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn observe(&self, graph: &Graph) -> Result<Observed, Error> {
        let inputs = self.read_inputs(graph).await?;
        // Callers show which pods answer now, which a cached report does not say.
        self.pods.check().await;
        let wanted = files_of(&inputs.target(graph, None));
        let (observed, _) = self.read_host(graph, &wanted).await?;
        Ok(observed)
    }

    /// What pods use: these and, where that is asked for, all others that run.
    ///
    /// # Errors
    /// When the host's links can't be read.
    pub async fn usage(
        &self,
        pods: BTreeSet<Name>,
        and_others: bool,
    ) -> Result<UsageSnapshot, Error> {
        let read = self.observer.usage(pods, and_others).await;
        read.map_err(Error::Observe)
    }

    /// Reads what a plan for `graph` is made from. Takes no lease.
    ///
    /// # Errors
    /// When the store can't be read, or has no lease left.
    pub async fn read_inputs(&self, graph: &Graph) -> Result<HostInputs, Error> {
        self.read_inputs_beside(graph, None).await
    }

    async fn read_inputs_beside(
        &self,
        graph: &Graph,
        previous: Option<&Graph>,
    ) -> Result<HostInputs, Error> {
        // Images that were planned with before cost nothing; others are mounted to be read.
        let targets = Arc::clone(&self.targets);
        let wanted = Wanted::of(graph);
        let previous = previous.filter(|previous| previous.root() != graph.root());
        let before = previous.map(Wanted::of).unwrap_or_default();
        let images = graph.images().into_values().collect();
        let demand = Demand::of(graph);
        let read = move || targets.read(&wanted, &before, &demand, &images);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(Error::Inputs)?
    }

    async fn read_host(&self, graph: &Graph, wanted: &Files) -> Result<(Observed, u64), Error> {
        let verdict_of = |run: &RunId, started| self.prober.verdict(graph, run, started);
        let read = self.observer.observe(graph, wanted, &verdict_of).await;
        let (mut observed, version) = read.map_err(Error::Observe)?;
        observed.failures = self.failures.recent();
        Ok((observed, version))
    }

    /// Observes, and asks the pure planner, with what this host leases, or would lease, handed to it
    /// as data. Acts on nothing.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn plan(&self, graph: &Graph, previous: Option<&Graph>) -> Result<Planned, Error> {
        self.plan_on(graph, previous, (None, None)).await
    }

    /// As [`Self::plan`], on a way that no generation was committed for, and for a change of the pods of a
    /// scope that was not either: what was asked for by hand of those is over then.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn plan_on(
        &self,
        graph: &Graph,
        previous: Option<&Graph>,
        (way, scope): (Option<Way>, Option<&Scope>),
    ) -> Result<Planned, Error> {
        // With the pods of runs by hand; those that were not started yet are new.
        let runs = self.pods.runs().planned();
        let (with_runs, with_started) = (
            runs.beside(graph, |_| true),
            previous.and_then(|previous| runs.beside(previous, |run| run.started)),
        );
        let whole = with_runs.as_ref().unwrap_or(graph);
        let before = with_started.as_ref().or(previous);
        let mut inputs = self.read_inputs_beside(whole, before).await?;
        inputs.runs = runs;
        if let Some(scope) = scope {
            let number = store::next_number(self.store.as_ref())?;
            inputs.begin(number, scope, graph);
        }
        let target = inputs.target(whole, before);
        let (observed, version) = {
            let _span = self.timings.span(|| "observe the host".to_owned());
            let (mut observed, version) = self.read_host(whole, &files_of(&target)).await?;
            observed.data = self.read_data(graph, way).await?;
            (observed, version)
        };
        let _span = self.timings.span(|| "plan".to_owned());
        let (plan, report) = tank_plan::plan(&target, &observed);
        Ok(Planned {
            observed,
            version,
            plan,
            report,
            inputs,
        })
    }

    /// What keeps interfaces from being connected that `graph` declares and `previous` did not, one
    /// text for each. Acts on nothing.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn unusable_nics(
        &self,
        previous: &Graph,
        graph: &Graph,
    ) -> Result<Vec<Unusable>, Error> {
        let parents: BTreeSet<String> = nics::parents(graph)
            .into_iter()
            .map(str::to_owned)
            .collect();
        if parents.is_empty() {
            return Ok(Vec::new());
        }
        let inputs = self.read_inputs(graph).await?;
        let host = self.observer.parents(parents).await;
        let host = host.map_err(Error::Observe)?;
        Ok(nics::unusable(previous, &inputs.target(graph, None), &host))
    }

    /// What keeps networks from being made that pods of `graph` are on and none of `previous` was, or
    /// that were declared otherwise, one text for each. Acts on nothing.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn unusable_networks(
        &self,
        previous: &Graph,
        graph: &Graph,
    ) -> Result<Vec<Unusable>, Error> {
        let is_new = graph.networks().next().is_some() || networks::is_new_default(previous, graph);
        if !is_new && graph.pods().count() <= MAX_PODS {
            return Ok(Vec::new());
        }
        let inputs = self.read_inputs(graph).await?;
        let host = self.observer.nets().await.map_err(Error::Observe)?;
        let target = inputs.target(graph, None);
        let mut problems = networks::unusable(previous, &target, &host);
        let before = self.read_inputs(previous).await?;
        problems.extend(networks::evicting(&before.target(previous, None), graph));
        Ok(problems)
    }

    /// Observes, plans, carries out. The caller holds the [lock](Self::lock), and `graph` is that of
    /// the current generation: its runs are those that are probed.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn pass(
        &self,
        graph: &Arc<Graph>,
        previous: Option<&Graph>,
        progress: &(dyn Fn(At<'_>) + Sync),
    ) -> Result<Pass, Error> {
        let begun = Instant::now();
        let pass = self.pass_once(graph, previous, progress).await;
        let failed = pass.as_ref().map_or(true, |pass| !pass.failed.is_empty());
        self.telemetry.add_pass(begun.elapsed(), failed);
        pass
    }

    async fn pass_once(
        &self,
        graph: &Arc<Graph>,
        previous: Option<&Graph>,
        progress: &(dyn Fn(At<'_>) + Sync),
    ) -> Result<Pass, Error> {
        let mut planned = self.plan(graph, previous).await;
        if let Err(Error::Observe(observe::Error::Settings { .. })) = planned {
            self.actuator.mend_record().await;
            planned = self.plan(graph, previous).await;
        }
        let planned = planned?;
        self.probe(graph, &planned.observed, &planned.inputs);
        self.add_unmet(&planned.report);
        Ok(self.carry_out(planned, progress).await)
    }

    /// Adds an event for what pods lack of the host since this pass.
    fn add_unmet(&self, report: &Report) {
        let mut known = self.unmet.lock().unwrap_or_else(PoisonError::into_inner);
        for one in report.unmet.iter().filter(|one| !known.contains(one)) {
            let pod = Some(one.pod().as_str());
            self.events.add(Kind::Unmet, pod, one.to_string());
        }
        known.clone_from(&report.unmet);
    }

    /// Carries a plan out. The caller holds the [lock](Self::lock).
    pub async fn carry_out(
        &self,
        Planned {
            observed,
            version,
            plan,
            report,
            ..
        }: Planned,
        progress: &(dyn Fn(At<'_>) + Sync),
    ) -> Pass {
        let _span = self
            .timings
            .span(|| format!("carry {} steps out", plan.steps.len()));
        let Carried { done, failed } = self.actuator.carry_out(&plan, progress).await;
        let mut ends = plan.steps.iter().map(|planned| &planned.step);
        let have_ended = ends.all(|step| match step {
            Step::EndFlows { .. } => done.contains(step),
            _ => true,
        });
        // Of a bridge that is not in order nobody has read which networks are on it.
        let were_read = observed.bridges.values().all(Option::is_some);
        self.observer.note_flows(have_ended && were_read);
        done.iter().for_each(|step| self.failures.remove(step));
        let drift = plan.steps.iter().filter(|planned| planned.drift);
        let repaired = drift.filter(|planned| done.contains(&planned.step));
        self.telemetry.repairs.inc_by(repaired.count() as u64);
        self.telemetry.steps.inc_by(done.len() as u64);
        for Failed { step, error } in &failed {
            self.failures.add(step, with_causes(error));
        }
        Pass {
            observed,
            version,
            plan,
            report,
            failed,
        }
    }

    /// Probes the runs of `current`, which is the graph of the current generation.
    fn probe(&self, current: &Graph, observed: &Observed, inputs: &HostInputs) {
        let target = inputs.target(current, None);
        let address_of = |pod: &Name| -> Option<IpAddr> {
            match &current.sandbox(pod)?.0.network {
                Network::Host => Some(Ipv4Addr::LOCALHOST.into()),
                Network::Bridge => target.addresses(pod).first().map(IpNet::addr),
                Network::Nics(_) => target.nic_addresses(pod).first().map(IpNet::addr),
                Network::None => None,
            }
        };
        self.prober.reconcile(current, observed, &address_of);
    }
}

/// What the files of each container have to say: what is read of them.
fn files_of(target: &Target<'_>) -> Files {
    let mut files = Files::new();
    for entry in target.graph.entries() {
        if let Key::Container(pod, container) | Key::Init(pod, container) = &entry.key {
            let digests = target.file_digests(pod, container);
            files.insert((pod.clone(), container.clone()), digests);
        }
    }
    files
}
