//! What was asked for by hand, waited for: passes until it is so, or until somebody else has decided.

use super::{
    super::{Error, Generations, ProgressSender, notify_step, notify_wait},
    Selected,
};
use crate::{actuate::At, reconcile::Pass};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tank_model::{Generation, Graph, Name, Outcome};
use tank_plan::{
    Health, Observed, Overrides, Step,
    health::{self, PATIENCE},
    observed::State,
    overrides::Operation,
};
use tank_sys::with_causes;
use tokio::time::{Instant, sleep, timeout};

/// How long a pass waits for another one, unless something happens.
const POLL_PERIOD: Duration = Duration::from_millis(50);

/// How long a change that is on its way is waited for before it is looked at what it changes.
const CHANGE_PERIOD: Duration = Duration::from_millis(500);

/// How long after a pass in which a step failed the next one is.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What is waited for.
pub(super) struct Wanted {
    pub generation: u64,
    pub operation: Operation,
    pub selected: Selected,
    /// What stands in for what is declared since then, and what is declared.
    pub overrides: Overrides,
    pub graph: Arc<Graph>,
    pub deadline: Instant,
    pub begin: SystemTime,
}

impl Wanted {
    fn has(&self, pod: &Name) -> bool {
        self.selected.contains_key(pod)
    }
}

enum Arrived {
    Yes,
    NotYet(String),
    Never(String),
}

impl Generations {
    /// Passes until what was asked for is so. Returns why it is not.
    pub(super) async fn await_by_hand(
        &self,
        wanted: &Wanted,
        progress: &ProgressSender,
    ) -> Result<Option<String>, Error> {
        if wanted.selected.is_empty() {
            return Ok(None);
        }
        let begins = |at: At<'_>| {
            let (At::Begins(step) | At::WaitsFor(step)) = at;
            if step.pod().is_some_and(|pod| wanted.has(pod)) {
                notify_step(progress, at);
            }
        };
        let mut waits_for = String::new();
        let concerns =
            |step: &Step| step.is_vital() && step.pod().is_none_or(|pod| wanted.has(pod));
        let mut failures = 0;
        loop {
            if progress.is_closed() {
                // Whoever asked has gone. The loop sees to it.
                return Ok(None);
            }
            let late = Instant::now() >= wanted.deadline;
            let Some((graph, pass)) = self.pass_by_hand(wanted, &begins).await? else {
                if late {
                    let why = "a change that is on its way takes longer than it may";
                    return Ok(Some(why.to_owned()));
                }
                continue;
            };
            let mut failed = pass.failed.iter();
            if let Some(first) = failed.find(|failed| concerns(&failed.step)) {
                failures += 1;
                if failures >= PATIENCE || late {
                    let why = format!("can't {}: {}", first.step, with_causes(&first.error));
                    return Ok(Some(why));
                }
                sleep(RETRY_AFTER).await;
                continue;
            }
            let mut left = pass.plan.steps.iter();
            let left = left.any(|planned| concerns(&planned.step));
            let arrived = match left {
                true => Arrived::NotYet("something is left to do after every pass".to_owned()),
                false => self.arrived_by_hand(wanted, &graph, &pass),
            };
            match arrived {
                Arrived::Yes => return Ok(None),
                Arrived::NotYet(why) if !late => notify_wait(progress, &mut waits_for, why),
                Arrived::NotYet(why) | Arrived::Never(why) => {
                    return Ok(Some(self.why_not(why, wanted, &graph, &pass).await));
                }
            }
            if !left {
                let dirty = self.dirty.changed_since(pass.version);
                let _ = timeout(POLL_PERIOD, dirty).await;
            }
        }
    }

    /// Adds what containers that do not come up have printed.
    async fn why_not(&self, why: String, wanted: &Wanted, graph: &Graph, pass: &Pass) -> String {
        let grace = self.settings.config.grace.0;
        let pods = wanted.selected.keys().cloned().collect();
        let observed = (&pass.observed, grace);
        match wanted.operation {
            Operation::Stop => why,
            _ => {
                self.with_log(why, graph, &pods, observed, wanted.begin)
                    .await
            }
        }
    }

    /// One pass towards what was asked for. None: a change is on its way, and does not end it so far.
    async fn pass_by_hand(
        &self,
        wanted: &Wanted,
        progress: &(dyn Fn(At<'_>) + Sync),
    ) -> Result<Option<(Arc<Graph>, Pass)>, Error> {
        let lock = timeout(CHANGE_PERIOD, self.reconciler.lock()).await;
        let (current, graph) = self.current()?;
        let newest = current.map(|number| self.store.generation(number));
        let newest = newest.transpose()?.flatten();
        let newest = newest.ok_or(Error::NoSuchGeneration(Some(wanted.generation)))?;
        if newest.number != wanted.generation && !self.is_still_asked(wanted, &graph)? {
            return Err(Error::Overtaken {
                generation: newest.number,
                by: newest.source,
            });
        }
        let Ok(_lock) = lock else { return Ok(None) };
        let pass = self.pass_to(&newest, &graph, progress).await?;
        Ok(Some((graph, pass)))
    }

    /// One pass towards the current generation, if there is one.
    pub(in super::super) async fn pass_to_current(&self) -> Result<(), Error> {
        let _lock = self.reconciler.lock().await;
        let (current, graph) = self.current()?;
        let newest = current.map(|number| self.store.generation(number));
        if let Some(newest) = newest.transpose()?.flatten() {
            self.pass_to(&newest, &graph, &|_| {}).await?;
        } else if self.pods.runs().were_alone() {
            self.reconciler.pass(&graph, Some(&graph), &|_| {}).await?;
        }
        Ok(())
    }

    /// One pass towards the current generation and its graph, by whoever holds the lock.
    async fn pass_to(
        &self,
        newest: &Generation,
        graph: &Arc<Graph>,
        progress: &(dyn Fn(At<'_>) + Sync),
    ) -> Result<Pass, Error> {
        // As the loop has it: what was not reached yet is change.
        let pending = self.store.outcome(newest.number)? == Outcome::Pending;
        let before = match newest.parent.filter(|_| pending) {
            Some(parent) => self.graphs.of_generation(parent)?,
            None => None,
        };
        let previous = before.as_deref().unwrap_or(graph);
        let pass = self.reconciler.pass(graph, Some(previous), progress);
        Ok(pass.await?)
    }

    /// Whether a change that was committed later leaves what was asked for as it is: it meant other pods.
    fn is_still_asked(&self, wanted: &Wanted, graph: &Graph) -> Result<bool, Error> {
        let declared = |graph: &Graph, pod: &Name, name: &Name| {
            let mut containers = graph.containers(pod);
            let found = containers.find(|(container, ..)| *container == name);
            found.map(|(_, _, hash)| hash)
        };
        let mut pods = wanted.selected.iter();
        let same = pods.all(|(pod, names)| {
            let mut names = names.iter();
            names.all(|name| declared(graph, pod, name) == declared(&wanted.graph, pod, name))
        });
        Ok(same
            && wanted
                .overrides
                .agree(&self.store.overrides()?, &wanted.selected))
    }

    /// Whether the containers are what was asked for, after a pass that left nothing of them to do.
    fn arrived_by_hand(&self, wanted: &Wanted, graph: &Graph, pass: &Pass) -> Arrived {
        let Pass {
            observed, report, ..
        } = pass;
        if wanted.operation == Operation::Stop {
            return stopped(&wanted.selected, observed);
        }
        let pods: BTreeSet<Name> = wanted.selected.keys().cloned().collect();
        let counts = |pod: &Name, name: &Name| {
            let of_pod = wanted.selected.get(pod);
            of_pod.is_some_and(|names| names.contains(name))
        };
        let grace = self.settings.config.grace.0;
        let health = health::health_of(graph, (&pods, &counts), (observed, report), grace);
        match health {
            Health::Good => Arrived::Yes,
            Health::NotYet(why) => {
                let held = report.held.iter();
                let mut held =
                    held.filter(|held| held.pod.as_ref().is_none_or(|pod| pods.contains(pod)));
                match held.next() {
                    Some(held) => {
                        Arrived::NotYet(format!("can't {}: {}", held.step, held.reason()))
                    }
                    None => Arrived::NotYet(format!("not healthy in time: {why}")),
                }
            }
            Health::Hopeless(why) => Arrived::Never(why),
        }
    }
}

/// Whether none of these runs.
fn stopped(selected: &Selected, observed: &Observed) -> Arrived {
    for (pod, containers) in selected {
        let Some(found) = observed.pods.get(pod) else {
            continue;
        };
        if let Some(why) = &found.unresponsive {
            return Arrived::NotYet(format!("{pod}: {why}"));
        }
        let mut running = found.containers.iter().filter(|(name, run)| {
            containers.contains(*name) && matches!(run.state, State::Running { .. })
        });
        if let Some((name, _)) = running.next() {
            return Arrived::NotYet(format!("{pod}/{name} still runs"));
        }
    }
    Arrived::Yes
}
