//! Observe, plan, carry out: one pass, and the loop of them.
//!
//! *Guarantees*: a pass never runs beside another ([`Reconciler::lock`]); planning writes nothing, so
//! what [`Reconciler::plan`] gives may be shown to anybody at any time. *Never*: changes the desired
//! state; whoever does is above ([`Keeper`]).

mod failures;
mod keep;

pub use keep::{Keeper, KeeperError, with_causes};

use crate::{
    actuate::{Actuator, Carried, Failed, files, network},
    dirty::Dirty,
    events::Events,
    observe::{Health, Observer},
    pods::RunId,
    probe::Prober,
    settings::Settings,
    store::{Store, StoreError, graphs::Graphs, leases::Proposal},
    timings::Timings,
};
use failures::Failures;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use tank_model::{Graph, Name, spec::Network};
use tank_plan::{Desired, Observed, Plan, Step};
use tank_proto::shim::Failure;
use tokio::sync::{Mutex, MutexGuard};

/// Why there is no pass.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't use the store")]
    Store(#[from] StoreError),
    #[error("can't {}: {}", .0.what, .0.why)]
    Observe(Failure),
}

/// What one pass found and did.
pub struct Pass {
    pub observed: Observed,
    /// The version of [`Dirty`] at which the host was observed.
    pub version: u64,
    pub plan: Plan,
    pub failed: Vec<Failed>,
}

/// What is to be done, and on what that was decided.
pub struct Planned {
    pub observed: Observed,
    /// The version of [`Dirty`] at which the host was observed.
    pub version: u64,
    pub plan: Plan,
}

/// Keeps a host as a graph declares.
pub struct Reconciler {
    pub settings: Arc<Settings>,
    pub store: Arc<dyn Store>,
    pub graphs: Arc<Graphs>,
    pub observer: Arc<Observer>,
    pub actuator: Arc<Actuator>,
    pub prober: Arc<Prober>,
    pub events: Arc<Events>,
    pub timings: Arc<Timings>,
    pub dirty: Arc<Dirty>,
    failures: Failures,
    lock: Mutex<()>,
}

impl Reconciler {
    pub fn new(
        (settings, store, graphs): (Arc<Settings>, Arc<dyn Store>, Arc<Graphs>),
        (observer, actuator, prober): (Arc<Observer>, Arc<Actuator>, Arc<Prober>),
        (events, timings, dirty): (Arc<Events>, Arc<Timings>, Arc<Dirty>),
    ) -> Self {
        Self {
            settings,
            store,
            graphs,
            observer,
            actuator,
            prober,
            events,
            timings,
            dirty,
            failures: Failures::default(),
            lock: Mutex::new(()),
        }
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
        Proposal::of(
            self.store.as_ref(),
            graph.pods().collect::<Vec<_>>().into_iter(),
        )
    }

    /// What there is of a graph on this host, after every shim was asked whether it answers. Acts on
    /// nothing.
    ///
    /// # Errors
    /// When something can't be read.
    pub async fn observe(&self, graph: &Graph) -> Result<Observed, Error> {
        let leases = self.propose_leases(graph)?;
        let wanted = files::digests(&self.settings, graph, &leases)?;
        // Whoever looks wants to know which pods answer, and not only what they said last.
        self.actuator.pods.check().await;
        let (observed, _) = self.read_host(graph, &wanted).await?;
        Ok(observed)
    }

    async fn read_host(
        &self,
        graph: &Graph,
        wanted: &crate::observe::Files,
    ) -> Result<(Observed, u64), Error> {
        let health_of = |run: &RunId| {
            let standing = self.prober.standing(graph, run);
            Health {
                ready: standing.ready,
                failed: standing.failed,
            }
        };
        let read = self.observer.observe(graph, wanted, &health_of).await;
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
        let leases = self.propose_leases(graph)?;
        let wanted = files::digests(&self.settings, graph, &leases)?;
        let (observed, version) = {
            let _span = self.timings.span(|| "observe the host".to_owned());
            self.read_host(graph, &wanted).await?
        };
        let _span = self.timings.span(|| "plan".to_owned());
        let mut addresses = BTreeMap::new();
        let mut stop_signals = BTreeMap::new();
        for pod in graph.pods() {
            if is_bridged(graph, pod) {
                let own = self.settings.addresses_of(leases.get(pod)?);
                let own = own.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
                addresses.insert(pod.clone(), own);
            }
            for (container, _, _) in graph.containers(pod) {
                let signal = graph.lifecycle(pod, container).stop.signal;
                let number = |name: String| tank_sys::process::signal_number(&name);
                if let Some(signal) = signal.and_then(number) {
                    stop_signals.insert((pod.clone(), container.clone()), signal);
                }
            }
        }
        let ruleset = network::ruleset(&self.settings, graph, &leases)?;
        let bridge = self.settings.bridge_addresses();
        let desired = Desired {
            graph,
            previous,
            addresses: &addresses,
            bridge: &bridge.iter().map(ToString::to_string).collect(),
            firewall: &ruleset
                .map(|ruleset| ruleset.contents())
                .unwrap_or_default(),
            stop_signals: &stop_signals,
            files: &wanted,
        };
        let plan = tank_plan::plan(&desired, &observed);
        Ok(Planned {
            observed,
            version,
            plan,
        })
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
        progress: &(dyn Fn(&Step) + Sync),
    ) -> Result<Pass, Error> {
        let planned = self.plan(graph, previous).await?;
        self.probe(graph, &planned.observed)?;
        Ok(self.carry_out(graph, planned, progress).await)
    }

    /// Carries a plan out. The caller holds the [lock](Self::lock).
    pub async fn carry_out(
        &self,
        graph: &Arc<Graph>,
        Planned {
            observed,
            version,
            plan,
        }: Planned,
        progress: &(dyn Fn(&Step) + Sync),
    ) -> Pass {
        let _span = self
            .timings
            .span(|| format!("carry {} steps out", plan.steps.len()));
        let Carried { done, failed } = self.actuator.carry_out(graph, &plan, progress).await;
        done.iter().for_each(|step| self.failures.remove(step));
        for Failed { step, failure } in &failed {
            self.failures
                .add(step, format!("{}: {}", failure.what, failure.why));
        }
        Pass {
            observed,
            version,
            plan,
            failed,
        }
    }

    /// Probes the runs of `current`, which is the graph of the current generation.
    fn probe(&self, current: &Graph, observed: &Observed) -> Result<(), Error> {
        let leases = self.propose_leases(current)?;
        let address_of = |pod: &Name| -> Option<IpAddr> {
            match &current.sandbox(pod)?.0.network {
                Network::Host => Some(Ipv4Addr::LOCALHOST.into()),
                Network::Bridge => {
                    let addresses = self.settings.addresses_of(leases.get(pod).ok()?);
                    addresses.first().map(|address| address.address)
                }
                _ => None,
            }
        };
        self.prober.reconcile(current, observed, &address_of);
        Ok(())
    }
}

fn is_bridged(graph: &Graph, pod: &Name) -> bool {
    graph
        .sandbox(pod)
        .is_some_and(|(node, _)| node.network == Network::Bridge)
}
