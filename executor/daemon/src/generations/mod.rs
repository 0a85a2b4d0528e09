//! What changes the desired state: switch (apply is one with merge), delete, rollback, seed; and
//! what is known of it.
//!
//! *Flow of a switch*: find out what is meant ([`intent`]: check, fetch), commit, converge and wait
//! for health ([`reach`]); then good, or the parent again. Until the commit nothing is disturbed, and
//! a caller that leaves ends it. *Guarantees*: one change of the desired state at a time
//! (`switch_lock`); going back is never gated on health, and ends a change that is on its way. A
//! daemon that ends while it waits leaves the generation pending; the loop of the next one goes on
//! with it: with its gate where it has one, and else until it is reached.

pub mod backups;
pub mod bundle;
pub mod by_hand;
mod chosen;
mod collector;
mod data;
mod deleted;
mod disk;
mod end;
mod error;
mod explain;
mod handed;
mod history;
pub mod images;
pub mod imports;
mod inspect;
pub mod intent;
mod kept;
mod leftovers;
mod nics;
pub mod origin;
mod part;
mod ports;
mod preview;
mod provenance;
mod pull;
mod reach;
mod request;
mod retention;
mod rollback;
pub mod run;
mod sizes;
mod space;
mod switch;
mod transfers;
mod uses;
pub mod volumes;
mod way;
mod why;
mod written;

pub use collector::{Collect, Collected, Collector};
pub use deleted::Deleted;
pub use disk::DiskUse;
pub use error::{Error, Misfit};
pub use inspect::{Damage, Inspected};
pub use intent::Request;
pub use switch::Switch;
pub use way::Switched;
pub use why::{Overridden, Reason};

use crate::{
    actuate::{
        At,
        sources::Sources,
        volumes::{Snapshot, Volumes},
    },
    dirty::Dirty,
    events::Events,
    pods::Pods,
    probe::Prober,
    reconcile::{Keeper, KeeperError, Planned, Reconciler},
    settings::Settings,
    store::{Store, graphs::Graphs},
    timings::Timings,
};
use error::Context;
use std::{
    fmt,
    sync::{Arc, atomic::AtomicUsize},
};
use tank_image::{Images, LayerProgress, Registries};
use tank_model::{Config, Digest, Generation, Graph, Outcome, Reference, Scope};
use tank_sys::cgroup::Cgroups;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};

/// Where progress goes. Sending never waits and never fails. It is closed when the caller has gone.
pub type ProgressSender = mpsc::Sender<Progress>;

/// The most progress that waits for a client to read it; what comes on top of that is not sent.
pub const MAX_PROGRESS: usize = 1_024;

/// What a change is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Pull,
    Commit,
    Step,
    /// What is waited for.
    Wait,
    Rollback,
    Note,
}

/// What a change is at, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    pub stage: Stage,
    pub message: String,
    /// How far a layer of the image that `message` names is.
    pub layer: Option<LayerProgress>,
}

/// Says which step begins, or is waited for.
fn notify_step(progress: &ProgressSender, at: At<'_>) {
    match at {
        At::Begins(step) => notify(progress, Stage::Step, step),
        At::WaitsFor(step) => notify(progress, Stage::Wait, step),
    }
}

/// Says what is waited for, where that is something else than was said last.
fn notify_wait(progress: &ProgressSender, said: &mut String, why: String) {
    if *said != why {
        notify(progress, Stage::Wait, &why);
        *said = why;
    }
}

fn notify(progress: &ProgressSender, stage: Stage, message: impl fmt::Display) {
    let _ = progress.try_send(Progress {
        stage,
        message: message.to_string(),
        layer: None,
    });
}

/// Says which image is fetched, or read where it is on this host.
fn notify_image(progress: &ProgressSender, image: &Reference) {
    match image.source().path() {
        None => notify(progress, Stage::Pull, image),
        Some(_) => notify(progress, Stage::Note, format_args!("reading {image}")),
    }
}

/// A generation and how it went.
pub struct Entry {
    pub generation: Generation,
    pub outcome: Outcome,
    pub current: bool,
    /// It is never deleted.
    pub pinned: bool,
    /// What of volumes is kept with it.
    pub snapshots: Vec<Snapshot>,
}

/// What changes of the desired state may touch, beside the reconciler.
pub struct Handles {
    pub settings: Arc<Settings>,
    pub store: Arc<dyn Store>,
    pub graphs: Arc<Graphs>,
    pub images: Arc<Images>,
    pub sources: Arc<Sources>,
    pub volumes: Arc<Volumes>,
    pub pods: Arc<Pods>,
    pub cgroups: Arc<Cgroups>,
    pub prober: Arc<Prober>,
    pub events: Arc<Events>,
    pub timings: Arc<Timings>,
    pub dirty: Arc<Dirty>,
}

/// The desired states of one host.
pub struct Generations {
    settings: Arc<Settings>,
    store: Arc<dyn Store>,
    graphs: Arc<Graphs>,
    images: Arc<Images>,
    sources: Arc<Sources>,
    volumes: Arc<Volumes>,
    /// How many archives of volumes may still begin.
    transfers: Arc<Semaphore>,
    pods: Arc<Pods>,
    backups: backups::Backups,
    cgroups: Arc<Cgroups>,
    prober: Arc<Prober>,
    events: Arc<Events>,
    timings: Arc<Timings>,
    dirty: Arc<Dirty>,
    reconciler: Arc<Reconciler>,
    /// Held by whoever changes the desired state, until that is reached.
    switch_lock: Mutex<()>,
    /// Held by whoever commits a generation, and by whoever removes some.
    history: Arc<Mutex<()>>,
    collector: Arc<Collector>,
    /// How many rollbacks wait for the change that is on its way to stop.
    superseding: AtomicUsize,
}

impl Generations {
    pub fn new(reconciler: Arc<Reconciler>, handles: Handles) -> Self {
        let Handles {
            settings,
            store,
            graphs,
            images,
            sources,
            volumes,
            pods,
            cgroups,
            prober,
            events,
            timings,
            dirty,
        } = handles;
        let history = Arc::default();
        let collector = Collector {
            settings: Arc::clone(&settings),
            store: Arc::clone(&store),
            graphs: Arc::clone(&graphs),
            images: Arc::clone(&images),
            volumes: Arc::clone(&volumes),
            events: Arc::clone(&events),
            reconciler: Arc::clone(&reconciler),
            history: Arc::clone(&history),
            collecting: Mutex::default(),
            due: Notify::new(),
        };
        Self {
            settings,
            store,
            graphs,
            images,
            sources,
            volumes,
            cgroups,
            prober,
            events,
            timings,
            dirty,
            reconciler,
            transfers: Arc::new(Semaphore::new(transfers::MAX_TRANSFERS)),
            pods,
            backups: backups::Backups::default(),
            switch_lock: Mutex::new(()),
            history,
            collector: Arc::new(collector),
            superseding: AtomicUsize::new(0),
        }
    }

    /// How registries are asked, and as whom.
    pub fn registries(&self) -> &Registries {
        self.images.registries()
    }

    /// Takes over what an older Tank has left: leases what the current generation names, should it not
    /// have done that, and notes who writes to volumes. Before anything is served.
    ///
    /// # Errors
    /// When the store can't be read, or written to.
    pub fn lease_current(&self) -> Result<(), Error> {
        let (_, graph) = self.current()?;
        let leases = self.reconciler.propose_leases(&graph)?;
        if !leases.change().is_empty() {
            self.store.take_leases(leases.change())?;
        }
        self.release_unused_projects()?;
        self.adopt_volumes()
    }

    /// The current generation and its graph; the empty graph where there is none.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn current(&self) -> Result<(Option<u64>, Arc<Graph>), Error> {
        let current = self.store.current()?;
        Ok((current, self.graph_or_empty(current)?))
    }

    fn graph_or_empty(&self, number: Option<u64>) -> Result<Arc<Graph>, Error> {
        let graph = number
            .map(|number| self.graphs.of_generation(number))
            .transpose()?;
        graph
            .flatten()
            .map_or_else(|| empty_graph().map(Arc::new), Ok)
    }

    /// What a switch to `graph` would do that changes the pods of a scope; without one, what the next pass
    /// would. Acts on nothing.
    ///
    /// # Errors
    /// When it would be refused, or the host can't be read.
    pub async fn preview(
        &self,
        graph: &Graph,
        previous: &Graph,
        scope: Option<&Scope>,
    ) -> Result<Planned, Error> {
        ports::refuse_taken(&self.cgroups, previous, graph).await?;
        self.refuse_unconnectable(previous, graph).await?;
        let planned = self
            .reconciler
            .plan_on(graph, Some(previous), (None, scope));
        Ok(planned.await?)
    }

    /// All generations, oldest first.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let current = self.store.current()?;
        let pins = self.store.pins()?;
        let generations = self.store.generations()?.into_iter();
        generations
            .map(|generation| {
                let pinned = pins.contains(&generation.number);
                self.entry(generation, current, pinned)
            })
            .collect()
    }

    fn entry(
        &self,
        generation: Generation,
        current: Option<u64>,
        pinned: bool,
    ) -> Result<Entry, Error> {
        let outcome = self.store.outcome(generation.number)?;
        let current = current == Some(generation.number);
        let snapshots = self.volumes.snapshots_of(generation.number);
        Ok(Entry {
            snapshots,
            generation,
            outcome,
            current,
            pinned,
        })
    }

    /// A generation, the current one unless a number is given, and what it declares. Blocking.
    ///
    /// # Errors
    /// When there is no such generation, or the store can't be read.
    pub fn get(&self, number: Option<u64>) -> Result<(Entry, Config), Error> {
        let current = self.store.current()?;
        let number = number.or(current).ok_or(Error::NoSuchGeneration(None))?;
        let found = self.store.generation(number)?;
        let found = found.ok_or_else(|| self.no_such(number))?;
        let config = self.graphs.get(found.root)?.config();
        let pinned = self.store.pins()?.contains(&number);
        Ok((self.entry(found, current, pinned)?, config))
    }

    /// The graph of a generation. Blocking.
    ///
    /// # Errors
    /// When there is no such generation, or the store can't be read.
    pub fn graph_of(&self, number: u64) -> Result<Arc<Graph>, Error> {
        self.graphs
            .of_generation(number)?
            .ok_or_else(|| self.no_such(number))
    }
}

impl Keeper for Generations {
    async fn resume(&self) -> Result<(), KeeperError> {
        Ok(self.resume_pending().await?)
    }

    fn settle(&self, number: u64, root: Digest) -> Result<(), KeeperError> {
        // `resume` judges one with a gate. A change that is under way holds the lock and records
        // the outcome itself; it is read again under the lock, since that change may have just
        // ended.
        if self.store.gate(number)?.is_none()
            && let Ok(_idle) = self.switch_lock.try_lock()
            && self.store.outcome(number)? == Outcome::Pending
        {
            let outcome = self.outcome_of(number, root, way::Aim::Running)?;
            self.store.set_outcome(number, outcome)?;
        }
        Ok(())
    }
}

fn empty_graph() -> Result<Graph, Error> {
    Graph::build(&Config::default(), |_| None).doing("build the empty graph")
}
