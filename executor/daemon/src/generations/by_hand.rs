//! Stopping, starting and restarting by hand: overrides of what is declared, without a generation.
//!
//! *Flow*: what is asked for becomes overrides ([`tank_plan::overrides`]), written in one synced write
//! under the lock of changes, which is free again then. From there on every pass sees to it; the caller
//! only waits, and makes the passes sooner. *Guarantees*: while a change is on its way nothing is taken;
//! a change that is committed later decides ([`Error::Overtaken`]). *Never*: waits for, or fails because
//! of, pods that were not named.

mod waiting;

use self::waiting::Wanted;
use super::{Error, Generations, ProgressSender, switch::Candidate};
use crate::events::{Kind, Subject, now};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tank_model::{Generation, Graph, Name, Outcome, Rollback, Scope};
use tank_plan::{
    Observed, Overrides,
    overrides::{Operation, Request},
};
use tokio::time::Instant;

/// How long the kernel has for ending what was killed.
pub(super) const AFTER_KILL: Duration = Duration::from_secs(30);

/// The longest that containers may be given to end.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The longest that readiness is waited for.
pub const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Which pods are meant.
#[derive(Clone, Debug)]
pub enum Which {
    /// Each is `POD` or `POD/CONTAINER`.
    Named(Vec<String>),
    Stack(String),
    All,
}

/// What is asked for by hand.
#[derive(Clone, Debug)]
pub struct ByHand {
    pub operation: Operation,
    pub which: Which,
    /// Milliseconds that containers have to end. None: as they are declared.
    pub timeout: Option<u64>,
    /// Milliseconds that readiness is waited for. None: as long as the host is set up to.
    pub wait: Option<u64>,
    pub uid: u32,
}

/// What came of it: containers, as `pod/container`.
#[derive(Clone, Debug, Default)]
pub struct Operated {
    pub concerned: Vec<String>,
    /// Those that were what is asked for already.
    pub unchanged: Vec<String>,
    /// Runs by hand that were ended.
    pub ended: Vec<String>,
    /// Why it is not, or not yet, as asked for.
    pub failure: Option<String>,
}

type Selected = BTreeMap<Name, BTreeSet<Name>>;

impl Generations {
    /// What somebody has asked for by hand.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn overrides(&self) -> Result<Overrides, Error> {
        Ok(self.store.overrides()?)
    }

    /// Stops, starts or restarts containers by hand, and waits until that is so.
    ///
    /// # Errors
    /// When nothing was taken: a name is unknown, a change is on its way, or the store refuses. And when a
    /// change was committed meanwhile.
    pub async fn by_hand(
        self: &Arc<Self>,
        asked: &ByHand,
        progress: &ProgressSender,
    ) -> Result<Operated, Error> {
        let (ended, rest) = self.stop_runs(asked).await?;
        let operated = match &rest.which {
            Which::Named(named) if named.is_empty() => Operated::default(),
            _ => self.operate(&rest, progress).await?,
        };
        Ok(Operated { ended, ..operated })
    }

    /// The same of what is declared.
    async fn operate(&self, asked: &ByHand, progress: &ProgressSender) -> Result<Operated, Error> {
        let begin = SystemTime::now();
        let (generation, graph, requested, longest) = {
            let _switching = self.begin(self.store.current()?).await?;
            let (current, graph) = self.current()?;
            let generation = current.ok_or(Error::NoSuchGeneration(None))?;
            let selected = self.select(&graph, &asked.which)?;
            let observed = self.reconciler.observe(&graph).await?;
            let request = Request {
                operation: asked.operation,
                timeout: asked.timeout,
                uid: asked.uid,
                time: now(),
            };
            let overrides = self.store.overrides()?;
            let requested = overrides.requested(&request, &selected, (&graph, &observed));
            if requested.overrides != overrides {
                self.store.set_overrides(&requested.overrides)?;
            }
            let longest = longest_end(asked, &selected, &observed);
            (generation, graph, requested, longest)
        };
        self.add_by_hand(asked, &requested.concerned);
        if asked.operation != Operation::Stop {
            // What failed is tried at once.
            self.reconciler.retry_failures();
        }
        self.dirty.mark();
        let texts = |all: &BTreeSet<(Name, Name)>| {
            let all = all.iter().map(|(pod, name)| format!("{pod}/{name}"));
            all.collect::<Vec<_>>()
        };
        let (concerned, unchanged) = (texts(&requested.concerned), texts(&requested.unchanged));
        let mut selected = Selected::new();
        for (pod, container) in requested.concerned {
            selected.entry(pod).or_default().insert(container);
        }
        let wanted = Wanted {
            generation,
            operation: asked.operation,
            selected,
            overrides: requested.overrides,
            graph,
            deadline: Instant::now() + longest + self.wait_of(asked),
            begin,
        };
        Ok(Operated {
            failure: self.await_by_hand(&wanted, progress).await?,
            concerned,
            unchanged,
            ended: Vec::new(),
        })
    }

    /// How long it is waited for, once what ran has ended.
    fn wait_of(&self, asked: &ByHand) -> Duration {
        match (asked.operation, asked.wait) {
            (Operation::Stop, _) => AFTER_KILL,
            (_, Some(wait)) => Duration::from_millis(wait).min(MAX_WAIT),
            (_, None) => self.settings.config.wait.duration(),
        }
    }

    /// The containers that are meant.
    fn select(&self, graph: &Graph, which: &Which) -> Result<Selected, Error> {
        let all_of = |pod: &Name| -> BTreeSet<Name> {
            let containers = graph.containers(pod);
            containers.map(|(name, ..)| name.clone()).collect()
        };
        let mut selected = Selected::new();
        match which {
            Which::All => {
                selected.extend(graph.pods().map(|pod| (pod.clone(), all_of(pod))));
            }
            Which::Stack(stack) => {
                let scope = Scope::Stack(Some(Self::stack_of(stack, &[graph])?));
                let pods = graph.pods().filter(|pod| scope.has(pod));
                selected.extend(pods.map(|pod| (pod.clone(), all_of(pod))));
            }
            Which::Named(named) => {
                for target in named {
                    let (pod, container) = match target.split_once('/') {
                        Some((pod, container)) => (pod, Some(container)),
                        None => (target.as_str(), None),
                    };
                    let pod = self.declared(graph, pod)?;
                    let known = all_of(&pod);
                    let containers = match container {
                        None => known,
                        Some(container) => {
                            BTreeSet::from([one_of(graph, &pod, container, &known)?])
                        }
                    };
                    selected.entry(pod).or_default().extend(containers);
                }
            }
        }
        Ok(selected)
    }

    fn add_by_hand(&self, asked: &ByHand, concerned: &BTreeSet<(Name, Name)>) {
        let mut pods: BTreeMap<&Name, Vec<&str>> = BTreeMap::new();
        for (pod, container) in concerned {
            pods.entry(pod).or_default().push(container.as_str());
        }
        let uid = asked.uid;
        let verb = match asked.operation {
            Operation::Stop => "stopped",
            Operation::Start => "started",
            Operation::Restart => "restarted",
        };
        for (pod, containers) in pods {
            let containers = containers.join(", ");
            let who = tank_sys::users::named(uid);
            let message = format!("{who} {verb} it by hand: {containers}");
            let of = Subject {
                pod: Some(pod.to_string()),
                uid: Some(uid),
                ..Subject::default()
            };
            self.events.add_of(Kind::ByHand, of, message);
        }
    }

    /// The overrides that a generation begins with. None: they stay.
    pub(super) fn overrides_of(
        &self,
        generation: &Generation,
        candidate: &Candidate,
    ) -> Result<Option<Overrides>, Error> {
        let known = self.store.overrides()?;
        let pending = |parent: u64| {
            let outcome = self.store.outcome(parent);
            outcome.map(|outcome| (outcome == Outcome::Pending).then_some(parent))
        };
        // Of a change that is ended on its way nothing stays.
        let undone = match (candidate.rollback, generation.parent) {
            (Some(Rollback::Of(number)), _) => Some(number),
            (Some(_), Some(parent)) => pending(parent)?,
            _ => None,
        };
        let before = match undone {
            Some(number) => known.put_back(number),
            None => known.clone(),
        };
        let after = match candidate.rollback {
            Some(Rollback::Of(_)) => before,
            _ => before.after_change(generation.number, &candidate.scope, &candidate.graph),
        };
        Ok((after != known).then_some(after))
    }

    /// Ends what was asked for by hand of the pods that a switch to the current generation means.
    pub(super) fn end_overrides(
        &self,
        number: u64,
        scope: &Scope,
        graph: &Graph,
    ) -> Result<(), Error> {
        let known = self.store.overrides()?;
        let after = known.after_change(number, scope, graph);
        if after != known {
            self.store.set_overrides(&after)?;
        }
        Ok(())
    }

    /// Forgets what the current generation has ended: it is not put back any more.
    pub(super) fn forget_ended(&self) -> Result<(), Error> {
        let known = self.store.overrides()?;
        let kept = known.without_ended();
        if kept != known {
            self.store.set_overrides(&kept)?;
        }
        Ok(())
    }
}

/// The container of this name, which is one that is started by hand.
fn one_of(
    graph: &Graph,
    pod: &Name,
    container: &str,
    known: &BTreeSet<Name>,
) -> Result<Name, Error> {
    if let Some(found) = known.iter().find(|name| name.as_str() == container) {
        return Ok(found.clone());
    }
    let mut inits = graph.init(pod);
    if inits.any(|(name, ..)| name.as_str() == container) {
        return Err(Error::NotByHand(format!(
            "`{pod}/{container}` runs before the containers of its pod, and not by itself: `tank restart {pod}` runs it \
             again where it has failed"
        )));
    }
    Err(Error::NoSuchContainer {
        pod: pod.clone(),
        container: Some(container.to_owned()),
        known: known.iter().map(Name::to_string).collect(),
    })
}

/// The longest that what runs may take to end.
fn longest_end(asked: &ByHand, selected: &Selected, observed: &Observed) -> Duration {
    let named = selected.iter().flat_map(|(pod, containers)| {
        let found = observed.pods.get(pod);
        let found = found.into_iter().flat_map(|found| &found.containers);
        found.filter(|(name, _)| containers.contains(*name))
    });
    let each = named.map(|(_, run)| asked.timeout.unwrap_or(run.stop_timeout));
    Duration::from_millis(each.max().unwrap_or_default()).min(MAX_TIMEOUT)
}
