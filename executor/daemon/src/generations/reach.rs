//! The way to a committed generation: passes until what was asked of it is so, and what follows when
//! it is not.
//!
//! *Guarantees*: a gate outlives the daemon that set it, since it is committed with its generation
//! ([`Generations::resume_pending`]); a generation with a gate is good only after it was healthy.
//! Between two passes, and while health is waited for, a rollback ends the way (`superseding`): it
//! waits for the pass under way and for nothing else.

use super::{
    Error, Generations, MAX_PROGRESS, ProgressSender, Stage,
    data::Wanted,
    notify, notify_step, notify_wait,
    provenance::Lines,
    switch::Candidate,
    way::{Aim, Committed, Reached, Switched, Verified, Way},
};
use crate::{
    actuate::At,
    events::{Kind, Subject},
    faults,
    pods::logs,
    reconcile::{Pass, Planned},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};
use tank_model::{Digest, Graph, Key, Name, Outcome, Rollback, Scope, generation::Verdict};
use tank_plan::{
    Health, Observed,
    health::{self, PATIENCE},
    observed::{Run, State},
};
use tank_proto::shim::FailureKind;
use tank_sys::with_causes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

/// How long the host is not looked at while something is waited for, unless something happens.
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// How long after a pass in which a step failed the next one is.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How long the client of a change that was ended waits for the number of the one that ended it.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(10);

/// How many of a container's last lines a failure quotes.
const LOG_LINES: u64 = 10;

enum Arrived {
    Yes,
    /// What is waited for.
    NotYet(String),
    Never(String),
}

impl Generations {
    /// Goes on with a gated generation that a daemon before this one left on its way, with its whole
    /// wait.
    ///
    /// # Errors
    /// When the store refuses.
    pub(super) async fn resume_pending(&self) -> Result<(), Error> {
        // Whoever changes the desired state is at it.
        let Ok(_switching) = self.switch_lock.try_lock() else {
            return Ok(());
        };
        let store = &self.store;
        let Some(number) = store.current()? else {
            return Ok(());
        };
        if store.outcome(number)? != Outcome::Pending {
            return Ok(());
        }
        let Some(gate) = store.gate(number)? else {
            return Ok(());
        };
        let Some(generation) = store.generation(number)? else {
            return Ok(());
        };
        let message = format!("generation {number} is waited for again: it has a gate");
        let of = Subject::generation(number, None);
        self.events.add_of(Kind::Resumed, of, message);
        let (progress, _kept) = mpsc::channel(MAX_PROGRESS);
        let committed = Committed {
            number,
            parent: generation.parent,
            uid: generation.uid,
            graph: self.graphs.get(generation.root)?,
            before: self.graph_or_empty(generation.parent)?,
            aim: Aim::Healthy(gate),
            scope: Scope::Host,
            verified: None,
        };
        match self.converge(committed, &progress).await {
            // The rollback that ended it is at it.
            Err(Error::Ended(_)) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Brings the host to a committed generation, and judges it. The switch lock is held by the
    /// caller.
    pub(super) async fn converge(
        &self,
        committed: Committed<'_>,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let Committed {
            number,
            graph,
            before,
            aim,
            scope,
            ..
        } = committed;
        let way = Way {
            graph: &graph,
            previous: &before,
            aim,
            changed: changed_pods(&before, &graph),
            scope: &scope,
            repairs: false,
            verified: committed.verified,
        };
        let reached = self.reach(way, progress).await;
        if reached.superseded {
            return Err(Error::Ended(number));
        }
        let Reached { failure, unmet, .. } = reached;
        match Verdict::of(aim.gate(), failure.is_none()) {
            Verdict::Good => {
                faults::boundary("before the outcome");
                let how = self.outcome_of(number, graph.root(), aim)?;
                self.store.set_outcome(number, how)?;
                self.forget_ended()?;
                let how = match how {
                    Outcome::Good => "good",
                    _ => "what was never good, and runs again",
                };
                let of = Subject::generation(number, Some(committed.uid));
                let message = format!("generation {number} is {how}");
                self.events.add_of(Kind::Switched, of, message);
                self.collect_soon();
            }
            Verdict::Failed => {
                self.store.set_outcome(number, Outcome::Failed)?;
                self.forget_ended()?;
                let why = failure.as_deref().unwrap_or_default();
                let of = Subject::generation(number, Some(committed.uid));
                let message = format!("generation {number}: {why}");
                self.events.add_of(Kind::Failed, of, message);
                self.dirty.mark();
            }
            Verdict::GoOn => self.dirty.mark(),
            Verdict::PutBack => {
                let (failure, graphs) = (failure.unwrap_or_default(), (&graph, &before));
                let of = (number, committed.parent, committed.uid);
                return self.put_back(of, (graphs, &scope), failure, progress).await;
            }
        }
        Ok(Switched::new(number, &graph, (failure, unmet), false))
    }

    /// Makes the parent's graph the current one again. Going back is never gated on health.
    async fn put_back(
        &self,
        (number, parent, uid): (u64, Option<u64>, u32),
        ((graph, before), scope): ((&Arc<Graph>, &Arc<Graph>), &Scope),
        mut failure: String,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        failure.extend(self.left_data(parent, number).await);
        notify(progress, Stage::Rollback, &failure);
        let message = format!("generation {number} is put back: {failure}");
        let of = Subject::generation(number, Some(uid));
        self.events.add_of(Kind::Rollback, of, message);
        let back = Candidate {
            graph: Arc::clone(before),
            scope: Scope::Host,
            source: format!("automatic rollback of {number}"),
            uid,
            provenance: Lines::of(self.provenance_of(parent)),
            rollback: Some(Rollback::Of(number)),
            data: Wanted::new(),
            aim: Aim::ChangedRunning,
        };
        let restored = self.commit(Some(number), graph, &back).await?;
        self.store.set_outcome(number, Outcome::RolledBack)?;
        let way = Way {
            graph: before,
            previous: graph,
            aim: Aim::ChangedRunning,
            changed: changed_pods(graph, before),
            scope,
            repairs: false,
            verified: None,
        };
        let again = self.reach(way, progress).await;
        if again.superseded {
            return Err(Error::Ended(restored));
        }
        if again.failure.is_none() {
            let how = self.outcome_of(restored, before.root(), Aim::ChangedRunning)?;
            self.store.set_outcome(restored, how)?;
        }
        self.dirty.mark();
        let how = (Some(failure), again.unmet);
        Ok(Switched::new(restored, before, how, true))
    }

    /// How a generation went that is what was asked of it. One that only had to run again says
    /// nothing new of what it declares: it is good if that was good before, or never judged.
    pub(super) fn outcome_of(&self, number: u64, root: Digest, aim: Aim) -> Result<Outcome, Error> {
        if aim.gate().is_some() {
            return Ok(Outcome::Good);
        }
        let before = self.store.generations()?;
        let before = before
            .iter()
            .filter(|one| one.root == root && one.number < number);
        let outcomes = before.map(|one| self.store.outcome(one.number));
        Ok(Outcome::again(&outcomes.collect::<Result<Vec<_>, _>>()?))
    }

    /// Says by which generation a change was ended on its way. The switch lock is not held: the
    /// other one waits for it.
    pub(super) async fn name_successor<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        let Err(Error::Ended(ended)) = result else {
            return result;
        };
        let deadline = Instant::now() + SUCCESSOR_WAIT;
        loop {
            let current = self.store.current()?.filter(|current| *current != ended);
            let newer = current
                .map(|number| self.store.generation(number))
                .transpose()?;
            if let Some(newer) = newer.flatten() {
                let (generation, by) = (newer.number, newer.source);
                return Err(Error::Superseded {
                    generation,
                    by,
                    ended: Some(ended),
                });
            }
            if Instant::now() >= deadline {
                return Err(Error::NoSuccessor(ended));
            }
            sleep(POLL_PERIOD).await;
        }
    }

    /// Passes until nothing is left to do and what is aimed at is so.
    // long: one loop over the ways in which a pass may end
    pub(super) async fn reach(&self, mut way: Way<'_>, progress: &ProgressSender) -> Reached {
        let Way {
            graph,
            previous,
            aim,
            scope,
            ..
        } = way;
        let (_lock, mut verified) = match way.verified.take() {
            Some(Verified { lock, planned }) => (lock, Some(planned)),
            None => (self.reconciler.lock().await, None),
        };
        let wait = aim.gate().map(|gate| Duration::from_millis(gate.wait));
        let wait = wait.unwrap_or(self.settings.config.wait.duration());
        let mut deadline = Instant::now() + wait;
        // Whoever changes something wants all of it tried now.
        self.reconciler.retry_failures();
        let mut reached = Reached::default();
        let begin = SystemTime::now();
        let (mut failures, mut overdue, mut waits_for) = (0u32, 0u32, String::new());
        loop {
            if self.superseding.load(Ordering::SeqCst) > 0 {
                return Reached {
                    superseded: true,
                    ..reached
                };
            }
            let step_begins = |at: At<'_>| notify_step(progress, at);
            let pass = match self
                .pass_or(verified.take(), graph, previous, &step_begins)
                .await
            {
                Ok(pass) => pass,
                Err(error) => {
                    return Reached {
                        failure: Some(with_causes(&error)),
                        ..reached
                    };
                }
            };
            reached.unmet.clone_from(&pass.report.unmet);
            reached.steps.extend(
                pass.plan
                    .steps
                    .iter()
                    .map(|planned| planned.step.to_string()),
            );
            if way.repairs {
                let repaired = pass
                    .plan
                    .steps
                    .iter()
                    .filter_map(|planned| planned.step.pod());
                let waiting = pass.report.waiting.iter().map(|waiting| &waiting.pod);
                let awaited = pass.report.ports.iter().map(|held| &held.to);
                let all = repaired.chain(waiting).chain(awaited);
                way.changed
                    .extend(all.filter(|pod| scope.has(pod)).cloned());
            }
            let late = Instant::now() >= deadline;
            let mut failed = pass.failed.iter();
            let failed = failed.find(|failed| way.counts(&failed.step));
            let mut left = pass.plan.steps.iter();
            let left = left.any(|planned| way.counts(&planned.step));
            if failed.is_none() && !left {
                match self
                    .arrived(aim, graph, &way.changed, &pass, (begin, late))
                    .await
                {
                    Arrived::Yes => {
                        let all = graph.pods().cloned().collect();
                        let grace = self.settings.config.grace.0;
                        let health =
                            health::health(graph, &all, &pass.observed, &pass.report, grace);
                        let all_healthy = health == Health::Good;
                        return Reached {
                            all_healthy,
                            ..reached
                        };
                    }
                    Arrived::Never(why) => {
                        return Reached {
                            failure: Some(why),
                            ..reached
                        };
                    }
                    Arrived::NotYet(why) => notify_wait(progress, &mut waits_for, why),
                }
                let dirty = self.dirty.changed_since(pass.version);
                let _ = timeout(POLL_PERIOD, dirty).await;
            } else if let Some(first) = failed {
                failures += 1;
                let lasting = matches!(
                    first.error.kind(),
                    FailureKind::NotFound | FailureKind::NotExecutable
                );
                if failures >= PATIENCE || lasting || late {
                    let why = format!("can't {}: {}", first.step, with_causes(&first.error));
                    return Reached {
                        failure: Some(why),
                        ..reached
                    };
                }
                sleep(RETRY_AFTER).await;
            } else if late {
                // What took long may have been an end that is over: the next pass says.
                overdue += 1;
                if overdue == 1 {
                    // What was started beside it has its time yet.
                    deadline = Instant::now() + wait;
                }
                if overdue <= PATIENCE {
                    continue;
                }
                let why = "something is left to do after every pass: it takes longer than it may";
                return Reached {
                    failure: Some(why.to_owned()),
                    ..reached
                };
            }
        }
    }

    /// A pass; with a plan that was verified, that plan.
    async fn pass_or(
        &self,
        verified: Option<Planned>,
        graph: &Arc<Graph>,
        previous: &Graph,
        progress: &(dyn Fn(At<'_>) + Sync),
    ) -> Result<Pass, Error> {
        match verified {
            None => Ok(self
                .reconciler
                .pass(graph, Some(previous), progress)
                .await?),
            Some(planned) => Ok(self.reconciler.carry_out(planned, progress).await),
        }
    }

    /// Whether what is aimed at is so, after a pass that left nothing to do.
    async fn arrived(
        &self,
        aim: Aim,
        graph: &Graph,
        changed: &BTreeSet<Name>,
        pass: &Pass,
        (begin, late): (SystemTime, bool),
    ) -> Arrived {
        let why = match aim {
            Aim::Done => return Arrived::Yes,
            Aim::Running | Aim::ChangedRunning => {
                let counts = |pod: &Name| matches!(aim, Aim::Running) || changed.contains(pod);
                let missing = health::not_running(graph, counts, &pass.observed, &pass.report);
                return if missing.list.is_empty() {
                    Arrived::Yes
                } else if late || !missing.may_come {
                    Arrived::Never(format!("not running yet: {}", missing.list.join(", ")))
                } else {
                    Arrived::NotYet(missing.list.join(", "))
                };
            }
            Aim::Healthy(_) => {
                let grace = self.settings.config.grace.0;
                match health::health(graph, changed, &pass.observed, &pass.report, grace) {
                    Health::Good => return Arrived::Yes,
                    Health::NotYet(why) if !late => return Arrived::NotYet(why),
                    Health::NotYet(why) => format!("not healthy in time: {why}"),
                    Health::Hopeless(why) => why,
                }
            }
        };
        let grace = self.settings.config.grace.0;
        Arrived::Never(
            self.with_log(why, graph, changed, (&pass.observed, grace), begin)
                .await,
        )
    }

    /// Adds, of the containers that are not well, how their probes failed and what they printed
    /// since `begin`: nothing of the runs before.
    pub(super) async fn with_log(
        &self,
        why: String,
        graph: &Graph,
        changed: &BTreeSet<Name>,
        (observed, grace): (&Observed, u64),
        begin: SystemTime,
    ) -> String {
        let mut text = why;
        for pod in changed {
            let inits = graph.init(pod).map(|(name, ..)| name);
            for name in inits.chain(graph.containers(pod).map(|(name, ..)| name)) {
                let found = observed
                    .pods
                    .get(pod)
                    .and_then(|found| found.containers.get(name));
                if found.is_some_and(|found| is_well(found, observed.now, grace)) {
                    continue;
                }
                let run = found.map(|found| (pod.clone(), name.clone(), found.since));
                let failure = run.and_then(|run| self.prober.last_failure(&run));
                if let Some(failure) = failure {
                    text = format!("{text}\n  {pod}/{name}: its probe failed: {failure}");
                }
                let (pod, name) = (pod.as_str(), name.as_str());
                let lines = logs::last_lines(&self.settings, pod, name, LOG_LINES, begin).await;
                for line in lines {
                    text = format!("{text}\n  {pod}/{name}: {line}");
                }
            }
        }
        text
    }
}

/// Whether a container is none of those that a failure is about: it runs, is ready, and has not ended
/// lately, or it has ended well.
fn is_well(found: &Run, now: u64, grace: u64) -> bool {
    match found.state {
        State::Running { verdict, .. } => {
            let lasts = found.attempt == 0 || now.saturating_sub(found.started) >= grace;
            verdict.ready && verdict.is_live() && lasts
        }
        State::Exited { status, .. } => status == 0 && found.attempt == 0,
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
