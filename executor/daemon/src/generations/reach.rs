//! The way to a committed generation: passes until what was asked of it is so, and what follows
//! when it is not.
//!
//! *Guarantees*: a gate outlives the daemon that set it, since it is committed with its generation
//! ([`Engine::resume`]); a generation with a gate is good only after it was healthy. Between two
//! passes, and while health is waited for, a rollback ends the way (`superseding`): it waits for
//! the pass under way and for nothing else.

use crate::{
    actuate,
    generations::{Change, Engine, Pass, ProgressSender, empty_graph, notify, store_error},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tank_model::{Digest, Gate, Graph, Key, Name, Outcome, generation::Verdict};
use tank_plan::{
    Health, Observed, Plan, Step,
    health::{self, PATIENCE},
    observed::State,
};
use tank_proto::{
    shim::FailureKind,
    varlink::{self, Error, Stage},
};
use tokio::{
    sync::{MutexGuard, mpsc},
    time::{Instant, sleep, timeout},
};

/// How long nothing is looked at while something is waited for, unless something happens.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long the client of a change that was ended waits for the number of the one that ended it.
const SUCCESSOR: Duration = Duration::from_secs(10);

/// What a generation has to be until its way is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Every changed pod is healthy.
    Healthy(Gate),
    /// All it declares runs, or has ended as it may.
    Running,
    /// Nothing is left to do.
    Done,
}

impl Aim {
    pub fn gate(self) -> Option<Gate> {
        match self {
            Self::Healthy(gate) => Some(gate),
            Self::Running | Self::Done => None,
        }
    }
}

/// A plan that was looked at and has to be carried out as it is, and the lock under which it was
/// made.
pub struct Verified<'a> {
    pub lock: MutexGuard<'a, ()>,
    pub plan: Plan,
}

/// A way to go.
pub struct Way<'a> {
    pub graph: &'a Arc<Graph>,
    pub previous: &'a Graph,
    pub aim: Aim,
    /// The pods whose health counts.
    pub changed: BTreeSet<Name>,
    /// Whether the health of what was repaired on the way, or waits, counts too.
    pub repaired_counts: bool,
    pub verified: Option<Verified<'a>>,
}

/// How a way ended.
#[derive(Default)]
pub struct Reached {
    pub failure: Option<String>,
    /// A rollback wants to go another one: nothing is known of the end of this one.
    pub superseded: bool,
    /// What was done.
    pub steps: Vec<String>,
}

/// A committed generation that is to be reached and judged.
pub struct Committed<'a> {
    pub number: u64,
    pub parent: Option<u64>,
    pub uid: u32,
    pub graph: Arc<Graph>,
    /// The graph of its parent.
    pub before: Arc<Graph>,
    pub aim: Aim,
    pub verified: Option<Verified<'a>>,
}

impl Engine {
    /// Goes on with a gated generation that a daemon before this one left on its way, with its
    /// whole wait.
    ///
    /// # Errors
    /// When the store refuses.
    pub(crate) async fn resume(&self) -> Result<(), Error> {
        // Whoever changes the desired state is at it.
        let Ok(_changing) = self.changing.try_lock() else {
            return Ok(());
        };
        let store = &self.host.store;
        let Some(number) = store.current().map_err(store_error)? else {
            return Ok(());
        };
        if store.outcome(number).map_err(store_error)? != Outcome::Pending {
            return Ok(());
        }
        let Some(gate) = store.gate(number).map_err(store_error)? else {
            return Ok(());
        };
        let Some(generation) = store.generation(number).map_err(store_error)? else {
            return Ok(());
        };
        let graph = self.host.graph(generation.root).map_err(store_error)?;
        self.host.events.add(
            "resumed",
            None,
            format!("generation {number} is waited for again: it has a gate"),
        );
        let (progress, _kept) = mpsc::channel(crate::generations::PROGRESS);
        let committed = Committed {
            number,
            parent: generation.parent,
            uid: generation.uid,
            graph,
            before: self.graph_or_empty(generation.parent)?,
            aim: Aim::Healthy(gate),
            verified: None,
        };
        match self.converge(committed, &progress).await {
            // The rollback that ended it is at it.
            Err(Error::Superseded { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    pub(crate) fn graph_or_empty(&self, number: Option<u64>) -> Result<Arc<Graph>, Error> {
        let graph = number
            .map(|number| self.host.generation_graph(number))
            .transpose()
            .map_err(store_error)?;
        graph
            .flatten()
            .map_or_else(|| empty_graph().map(Arc::new), Ok)
    }

    /// Brings the host to a committed generation, and judges it. The switch lock is held by the
    /// caller.
    pub(crate) async fn converge(
        &self,
        committed: Committed<'_>,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        let Committed {
            number,
            graph,
            before,
            aim,
            ..
        } = committed;
        let store = &self.host.store;
        let way = Way {
            graph: &graph,
            previous: &before,
            aim,
            changed: changed_pods(&before, &graph),
            repaired_counts: false,
            verified: committed.verified,
        };
        let reached = self.reach(way, progress).await;
        if reached.superseded {
            return Err(ended(number));
        }
        let failure = reached.failure;
        match Verdict::of(aim.gate(), failure.is_none()) {
            Verdict::Good => {
                crate::faults::boundary("before the outcome");
                let how = self.outcome_of(number, graph.root(), aim)?;
                store.set_outcome(number, how).map_err(store_error)?;
                let how = if how == Outcome::Good {
                    "good"
                } else {
                    "what was never good, and runs again"
                };
                self.host
                    .events
                    .add("switched", None, format!("generation {number} is {how}"));
                Ok(outcome(number, &graph, failure, false))
            }
            Verdict::Failed => {
                store
                    .set_outcome(number, Outcome::Failed)
                    .map_err(store_error)?;
                let why = failure.as_deref().unwrap_or_default();
                self.host
                    .events
                    .add("failed", None, format!("generation {number}: {why}"));
                self.host.wake.notify_one();
                Ok(outcome(number, &graph, failure, false))
            }
            Verdict::GoOn => {
                self.host.wake.notify_one();
                Ok(outcome(number, &graph, failure, false))
            }
            Verdict::PutBack => {
                let failure = failure.unwrap_or_default();
                self.put_back(
                    number,
                    committed.parent,
                    committed.uid,
                    (&graph, &before),
                    failure,
                    progress,
                )
                .await
            }
        }
    }

    /// Makes the parent's graph the current one again. Going back is never gated on health.
    async fn put_back(
        &self,
        number: u64,
        parent: Option<u64>,
        uid: u32,
        (graph, before): (&Arc<Graph>, &Arc<Graph>),
        failure: String,
        progress: &ProgressSender,
    ) -> Result<varlink::Outcome, Error> {
        notify(progress, Stage::Rollback, failure.clone());
        self.host.events.add(
            "rollback",
            None,
            format!("generation {number} is put back: {failure}"),
        );
        let back = Change {
            graph: Arc::clone(before),
            source: format!("{AUTOMATIC}{number}"),
            uid,
            provenance: self.provenance_of(parent),
            aim: Aim::Running,
        };
        let restored = self.commit(Some(number), graph, &back)?;
        self.host
            .store
            .set_outcome(number, Outcome::RolledBack)
            .map_err(store_error)?;
        let way = Way {
            graph: before,
            previous: graph,
            aim: Aim::Running,
            changed: BTreeSet::new(),
            repaired_counts: false,
            verified: None,
        };
        let again = self.reach(way, progress).await;
        if again.superseded {
            return Err(ended(restored));
        }
        if again.failure.is_none() {
            let how = self.outcome_of(restored, before.root(), Aim::Running)?;
            self.host
                .store
                .set_outcome(restored, how)
                .map_err(store_error)?;
        }
        self.host.wake.notify_one();
        Ok(outcome(restored, before, Some(failure), true))
    }

    /// How a generation went that is what was asked of it. One that only had to run again says
    /// nothing new of what it declares: it is good if that was good before, or never judged.
    pub(crate) fn outcome_of(&self, number: u64, root: Digest, aim: Aim) -> Result<Outcome, Error> {
        if aim.gate().is_some() {
            return Ok(Outcome::Good);
        }
        let store = &self.host.store;
        let before = store.generations().map_err(store_error)?;
        let before = before
            .iter()
            .filter(|one| one.root == root && one.number < number);
        let outcomes: Vec<Outcome> = before
            .map(|one| store.outcome(one.number))
            .collect::<Result<_, _>>()
            .map_err(store_error)?;
        Ok(Outcome::again(&outcomes))
    }

    /// Says by which generation a change was ended on its way. The switch lock is not held: the
    /// other one waits for it.
    pub(crate) async fn name_successor<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        let Err(Error::Superseded {
            ended: Some(ended), ..
        }) = result
        else {
            return result;
        };
        let deadline = Instant::now() + SUCCESSOR;
        loop {
            let current = self
                .host
                .store
                .current()
                .map_err(store_error)?
                .filter(|current| *current != ended);
            let newer = current
                .map(|number| self.host.store.generation(number))
                .transpose()
                .map_err(store_error)?;
            if let Some(newer) = newer.flatten() {
                return Err(Error::Superseded {
                    generation: newer.number,
                    by: newer.source,
                    ended: Some(ended),
                });
            }
            if Instant::now() >= deadline {
                let what = format!("go on with generation {ended}");
                let why = "a rollback ended the change and did not come to its own; tankd goes on"
                    .to_owned();
                return Err(Error::Failed { what, why });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Passes until nothing is left to do and what is aimed at is so.
    pub(crate) async fn reach(&self, way: Way<'_>, progress: &ProgressSender) -> Reached {
        let Way {
            graph,
            previous,
            aim,
            mut changed,
            repaired_counts,
            verified,
        } = way;
        let (_passing, mut verified) = match verified {
            Some(Verified { lock, plan }) => (lock, Some(plan)),
            None => (self.passing.lock().await, None),
        };
        let wait = aim
            .gate()
            .map_or(self.host.settings.config.wait.duration(), |gate| {
                Duration::from_millis(gate.wait)
            });
        // Whoever changes something wants all of it tried now.
        self.host.failures.clear();
        let deadline = Instant::now() + wait;
        let mut reached = Reached::default();
        let mut failures: u32 = 0;
        loop {
            if self.superseding.load(Ordering::SeqCst) > 0 {
                return Reached {
                    superseded: true,
                    ..reached
                };
            }
            let step_begins = |step: &Step| notify(progress, Stage::Step, step.to_string());
            let pass = match self
                .pass_or(verified.take(), graph, previous, &step_begins)
                .await
            {
                Ok(pass) => pass,
                Err(error) => {
                    return Reached {
                        failure: Some(error.to_string()),
                        ..reached
                    };
                }
            };
            reached.steps.extend(
                pass.plan
                    .steps
                    .iter()
                    .map(|planned| planned.step.to_string()),
            );
            if repaired_counts {
                let repaired = pass
                    .plan
                    .steps
                    .iter()
                    .filter_map(|planned| planned.step.pod());
                changed.extend(
                    repaired
                        .chain(pass.plan.waiting.iter().map(|waiting| &waiting.pod))
                        .cloned(),
                );
            }
            if pass.failed.is_empty() && pass.plan.steps.is_empty() {
                match self
                    .arrived(aim, graph, &changed, &pass, Instant::now() >= deadline)
                    .await
                {
                    Arrived::Yes => return reached,
                    Arrived::Never(why) => {
                        return Reached {
                            failure: Some(why),
                            ..reached
                        };
                    }
                    Arrived::NotYet => {}
                }
                let _ = timeout(LOOK_AGAIN, self.host.wake.notified()).await;
            } else if let Some(first) = pass.failed.first() {
                failures += 1;
                let lasting = matches!(
                    first.failure.kind,
                    FailureKind::NotFound | FailureKind::NotExecutable
                );
                if failures >= PATIENCE || lasting || Instant::now() >= deadline {
                    let why = format!(
                        "can't {}: {}: {}",
                        first.step, first.failure.what, first.failure.why
                    );
                    return Reached {
                        failure: Some(why),
                        ..reached
                    };
                }
                sleep(Duration::from_millis(100)).await;
            } else if Instant::now() >= deadline {
                let why = "something is left to do after every pass: it takes longer than it may"
                    .to_owned();
                return Reached {
                    failure: Some(why),
                    ..reached
                };
            }
        }
    }

    /// A pass; with a plan that was verified, that plan.
    async fn pass_or(
        &self,
        verified: Option<Plan>,
        graph: &Arc<Graph>,
        previous: &Graph,
        progress: &(dyn Fn(&Step) + Sync),
    ) -> Result<Pass, Error> {
        match verified.filter(|plan| !plan.steps.is_empty()) {
            None => self.pass(graph, Some(previous), progress).await,
            Some(plan) => {
                let failed = actuate::carry_out(&self.host, graph, &plan, progress).await;
                Ok(Pass {
                    observed: Observed::default(),
                    plan,
                    failed,
                })
            }
        }
    }

    /// Whether what is aimed at is so, after a pass that left nothing to do.
    async fn arrived(
        &self,
        aim: Aim,
        graph: &Graph,
        changed: &BTreeSet<Name>,
        pass: &Pass,
        late: bool,
    ) -> Arrived {
        match aim {
            Aim::Done => Arrived::Yes,
            Aim::Running => {
                let missing = health::not_running(graph, &pass.observed, &pass.plan.waiting);
                if missing.list.is_empty() {
                    Arrived::Yes
                } else if late || !missing.may_come {
                    Arrived::Never(format!("not running yet: {}", missing.list.join(", ")))
                } else {
                    Arrived::NotYet
                }
            }
            Aim::Healthy(_) => {
                let grace = self.host.settings.config.grace.0;
                match health::health(graph, changed, &pass.observed, &pass.plan.waiting, grace) {
                    Health::Good => Arrived::Yes,
                    Health::Hopeless(why) => {
                        Arrived::Never(self.with_log(why, graph, changed, &pass.observed).await)
                    }
                    Health::NotYet(why) if late => {
                        let why = format!("not healthy in time: {why}");
                        Arrived::Never(self.with_log(why, graph, changed, &pass.observed).await)
                    }
                    Health::NotYet(_) => Arrived::NotYet,
                }
            }
        }
    }

    /// Adds the last lines of the containers that are not well.
    async fn with_log(
        &self,
        why: String,
        graph: &Graph,
        changed: &BTreeSet<Name>,
        observed: &Observed,
    ) -> String {
        let mut text = why;
        for pod in changed {
            let inits = graph.init(pod).map(|(name, ..)| name);
            for name in inits.chain(graph.containers(pod).map(|(name, ..)| name)) {
                let found = observed
                    .pods
                    .get(pod)
                    .and_then(|found| found.containers.get(name));
                if found.is_some_and(|found| {
                    matches!(
                        found.state,
                        State::Running { ready: true, .. } | State::Exited { status: 0, .. }
                    ) && found.attempt == 0
                }) {
                    continue;
                }
                for line in
                    crate::pods::logs::last_lines(&self.host, pod.as_str(), name.as_str(), 10).await
                {
                    text = format!("{text}\n  {pod}/{name}: {line}");
                }
            }
        }
        text
    }
}

enum Arrived {
    Yes,
    NotYet,
    Never(String),
}

/// What the source of an automatic rollback begins with.
pub const AUTOMATIC: &str = "automatic rollback of ";

/// A change that a rollback ended; [`Engine::name_successor`] says which.
fn ended(number: u64) -> Error {
    Error::Superseded {
        generation: number,
        by: String::new(),
        ended: Some(number),
    }
}

pub fn outcome(
    generation: u64,
    graph: &Graph,
    failure: Option<String>,
    rolled_back: bool,
) -> varlink::Outcome {
    varlink::Outcome {
        generation,
        root: graph.root().to_string(),
        changed: true,
        rolled_back,
        failure,
        repaired: None,
        timings: None,
    }
}

/// The pods that are new or differ.
fn changed_pods(before: &Graph, after: &Graph) -> BTreeSet<Name> {
    let hash =
        |graph: &Graph, pod: &Name| graph.get(&Key::Pod(pod.clone())).map(|entry| entry.hash);
    after
        .pods()
        .filter(|pod| hash(before, pod) != hash(after, pod))
        .cloned()
        .collect()
}
