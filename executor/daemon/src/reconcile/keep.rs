//! The loop: a pass whenever something happened, when a wait is over, and at least every `resync`.

use super::{Pass, Reconciler};
use crate::{events::Kind, pods::runs::RunsByHand};
use std::{future::Future, sync::Arc, time::Duration};
use tank_model::{Config, Digest, Graph, Name, Outcome};
use tank_plan::health::PATIENCE;
use tank_sys::clock::boot_millis;
use tokio::time::{Instant, sleep, timeout};

/// How long nothing has to happen until memory is given back.
const IDLE_TRIM_AFTER: Duration = Duration::from_secs(3);

/// How long after a pass in which a step failed the next one is. When the step is tried again is the
/// planner's to say.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long after a pass the next one is where each finds something to do: another program undoes
/// it, or the kernel rounds what it is given.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why the floor above could not do its part.
pub type KeeperError = Box<dyn std::error::Error + Send + Sync>;

/// What the floor above does between two passes.
pub trait Keeper: Send + Sync {
    /// Goes on with a generation that a daemon before this one left on its way.
    fn resume(&self) -> impl Future<Output = Result<(), KeeperError>> + Send;

    /// The generation `number` is reached, and nobody waits for that.
    ///
    /// # Errors
    /// When the store refuses.
    fn settle(&self, number: u64, root: Digest) -> Result<(), KeeperError>;
}

/// How often something was done, or failed, in a row.
#[derive(Default)]
struct Streak {
    failures: u32,
    busy: u32,
}

impl Streak {
    /// How long to wait after a pass, unless something happens.
    fn pause(&mut self, pass: Result<Option<&Pass>, &KeeperError>, resync: Duration) -> Duration {
        match pass {
            Ok(Some(pass)) if !pass.failed.is_empty() => {
                self.busy = 0;
                RETRY_AFTER
            }
            Ok(Some(pass)) if pass.plan.steps.is_empty() => {
                *self = Self::default();
                let wake = pass
                    .report
                    .wake_at()
                    .map(|at| at.saturating_sub(boot_millis()).max(1));
                wake.map_or(resync, Duration::from_millis)
            }
            // Something was done: the next pass sees what became of it.
            Ok(Some(_)) => {
                self.busy += 1;
                if self.busy <= PATIENCE {
                    Duration::ZERO
                } else {
                    BUSY_RETRY_AFTER
                }
            }
            Ok(None) => resync,
            Err(_) => {
                self.busy = 0;
                self.failures += 1;
                Duration::from_millis(tank_plan::backoff::delay(self.failures)).max(RETRY_AFTER)
            }
        }
    }
}

impl Reconciler {
    /// Runs for ever.
    pub async fn keep(self: Arc<Self>, keeper: Arc<impl Keeper>) {
        let mut streak = Streak::default();
        let mut trusted_since = Instant::now();
        loop {
            let resync = self.settings.config.resync.duration();
            if trusted_since.elapsed() >= resync {
                // Once in a while a pass takes nothing on trust, however much happens.
                self.observer.invalidate();
                trusted_since = Instant::now();
            }
            let before = self.dirty.version();
            let pass = self.keep_once(keeper.as_ref()).await;
            let version = match &pass {
                Ok(Some(pass)) => pass.version,
                Ok(None) => before,
                // It is tried again soon enough.
                Err(_) => self.dirty.version(),
            };
            if let Err(error) = &pass {
                self.events
                    .add(Kind::Failed, None, tank_sys::with_causes(error.as_ref()));
            }
            let pause = streak
                .pause(pass.as_ref().map(Option::as_ref), resync)
                .min(resync);
            drop(pass);
            if streak.busy > PATIENCE {
                // Somebody undoes what is done: they do not keep this process busy.
                sleep(BUSY_RETRY_AFTER).await;
            } else {
                self.wait(version, pause).await;
            }
        }
    }

    /// Waits until something happens, for `pause` at most.
    async fn wait(&self, version: u64, pause: Duration) {
        let changed = || self.dirty.changed_since(version);
        let idle = timeout(pause.min(IDLE_TRIM_AFTER), changed())
            .await
            .is_err();
        if idle && pause > IDLE_TRIM_AFTER {
            // What the last change took is not kept for the next.
            tank_sys::process::give_memory_back();
            if timeout(pause - IDLE_TRIM_AFTER, changed()).await.is_err() {
                // A pass by the clock reads everything anew: a notification may have been lost.
                self.observer.invalidate();
            }
        }
    }

    async fn keep_once(&self, keeper: &impl Keeper) -> Result<Option<Pass>, KeeperError> {
        if !self.settings.no_repair {
            keeper.resume().await?;
        }
        self.converge_current(keeper).await
    }

    /// One pass where nothing was ever declared: of what is run by hand all the same, and of what is left of that.
    async fn keep_runs_alone(&self) -> Result<Option<Pass>, KeeperError> {
        let is_run = |(pod, _): &(Name, _)| RunsByHand::is_pod(pod);
        let there = self.pods.living();
        let are_runs = !there.is_empty() && there.iter().all(is_run);
        if !are_runs && !self.pods.runs().were_alone() {
            return Ok(None);
        }
        let nothing = Arc::new(Graph::build(&Config::default(), |_| None)?);
        Ok(Some(self.pass(&nothing, Some(&nothing), &|_| {}).await?))
    }

    /// One pass towards the current generation. None: there is none, or nothing is repaired.
    async fn converge_current(&self, keeper: &impl Keeper) -> Result<Option<Pass>, KeeperError> {
        let _lock = self.lock().await;
        let Some(current) = self.store.current()? else {
            return self.keep_runs_alone().await;
        };
        let Some(graph) = self.graphs.of_generation(current)? else {
            return Ok(None);
        };
        // Drift is left for a person to look at. A switch, a delete and a rollback still act.
        if self.settings.no_repair {
            let planned = self.plan(&graph, None).await?;
            self.probe(&graph, &planned.observed, &planned.inputs);
            return Ok(None);
        }
        // What a daemon that ended on the way has not reached yet is change, and in the order of one;
        // the rest is drift.
        let pending = self.store.outcome(current)? == Outcome::Pending;
        let parent = self.store.generation(current)?.and_then(|one| one.parent);
        let before = match parent.filter(|_| pending) {
            Some(parent) => self.graphs.of_generation(parent)?,
            None => None,
        };
        let previous = before.as_deref().unwrap_or(&graph);
        let pass = self.pass(&graph, Some(previous), &|_| {}).await?;
        if pass.plan.is_empty() && pass.report.is_settled() && pending {
            keeper.settle(current, graph.root())?;
        }
        Ok(Some(pass))
    }
}
