//! Changes that are committed: a switch, the removal of a pod, a seed.

use super::{
    Error, Generations, ProgressSender, Stage,
    data::Wanted,
    deleted::{Deleted, declared_network, declared_volume},
    error::Context,
    intent::{Intent, MAX_SOURCE, Request},
    notify, ports,
    provenance::Lines,
    request,
    way::{Aim, Committed, Reached, Switched, Verified, Way},
};
use crate::{
    events::{Kind, Subject, now},
    faults, store,
};
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};
use tank_model::{Config, Gate, Generation, Graph, Name, Outcome, Rollback, Scope};
use tokio::{
    sync::{MutexGuard, mpsc},
    time::timeout,
};

/// How long a change waits for another one to be over: the loop takes the lock for as long as it
/// settles what a daemon before it left.
const LOCK_WAIT: Duration = Duration::from_millis(200);

/// What is asked of a switch.
pub struct Switch {
    pub request: Request,
    /// What it asks for, in words.
    pub source: String,
    /// The hash of the plan that has to be carried out, or nothing.
    pub plan: Option<String>,
    /// The generation it was planned against. None: the one that is current when it begins.
    pub parent: Option<u64>,
    /// How long to wait for health, in milliseconds; none: as long as the host is set up to.
    pub wait: Option<u64>,
    /// Whether the parent is put back when the change does not become healthy.
    pub rollback: bool,
    /// Where the time went is wanted.
    pub timings: bool,
}

/// A generation that is about to be committed.
pub(super) struct Candidate {
    pub graph: Arc<Graph>,
    /// The pods that are meant: what was asked for by hand of these ends.
    pub scope: Scope,
    pub source: String,
    pub uid: u32,
    /// Which line set each field, if that is known.
    pub provenance: Option<Lines>,
    pub rollback: Option<Rollback>,
    /// The snapshots that take the places of volumes: see [`Generation::data`].
    pub data: Wanted,
    pub aim: Aim,
}

impl Generations {
    /// A switch. A caller that leaves before the commit ends it.
    ///
    /// # Errors
    /// Whatever stops it before the commit; after it, how it went is the outcome.
    pub async fn switch(
        &self,
        switch: &Switch,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let result = self.switch_until_superseded(switch, progress).await;
        self.name_successor(result).await
    }

    async fn switch_until_superseded(
        &self,
        switch: &Switch,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let recording = switch.timings.then(|| self.timings.record());
        let Request { uid, .. } = switch.request;
        let intent = tokio::select! {
            intent = self.intend(&switch.request, progress) => intent?,
            () = progress.closed() => return Err(Error::CallerLeft),
        };
        let Intent {
            current,
            before,
            graph,
            scope,
            provenance,
            held: _held,
        } = intent;
        let _switching = self.begin(switch.parent.or(current)).await?;
        ports::refuse_taken(&self.cgroups, &before, &graph).await?;
        self.refuse_unconnectable(&before, &graph).await?;
        let verified = match &switch.plan {
            Some(expected) => Some(self.verify(expected, (&graph, &scope), &before).await?),
            None => None,
        };
        let wait = switch.wait.unwrap_or(self.settings.config.wait.0);
        let provenance = Some(Lines::new(&provenance)?);
        let gate = Gate {
            rollback: switch.rollback,
            wait,
        };
        let source = switch.source.chars().take(MAX_SOURCE).collect();
        let aim = Aim::Healthy(gate);
        let candidate = Candidate {
            graph,
            scope,
            source,
            uid,
            provenance,
            rollback: None,
            data: Wanted::new(),
            aim,
        };
        let mut switched = self
            .change(current, &before, candidate, verified, progress)
            .await?;
        switched.timings = recording.map(|recording| recording.read());
        Ok(switched)
    }

    /// Makes the plan again, and keeps everybody from acting until it is carried out.
    async fn verify(
        &self,
        expected: &str,
        (graph, scope): (&Arc<Graph>, &Scope),
        before: &Graph,
    ) -> Result<Verified<'_>, Error> {
        let lock = self.reconciler.lock().await;
        let change = (None, Some(scope));
        let planned = self.reconciler.plan_on(graph, Some(before), change).await?;
        let actual = planned.plan.hash(graph.root());
        if actual.to_string() != expected {
            return Err(Error::PlanChanged {
                expected: expected.to_owned(),
                actual,
            });
        }
        Ok(Verified { lock, planned })
    }

    /// Takes the right to change the desired state from what it was when the caller looked.
    pub(super) async fn begin(&self, parent: Option<u64>) -> Result<MutexGuard<'_, ()>, Error> {
        let guard = timeout(LOCK_WAIT, self.switch_lock.lock()).await;
        let current = self.store.current()?;
        let newest = current
            .map(|number| self.store.generation(number))
            .transpose()?
            .flatten();
        match (guard, newest) {
            (_, Some(newest)) if current != parent => {
                let Generation { number, source, .. } = newest;
                Err(Error::Superseded {
                    generation: number,
                    by: source,
                    ended: None,
                })
            }
            (Ok(guard), _) => Ok(guard),
            (Err(_), newest) => {
                let pending = |newest: &Generation| {
                    Ok::<_, Error>(self.store.outcome(newest.number)? == Outcome::Pending)
                };
                match newest {
                    Some(newest) if pending(&newest)? => {
                        Err(Error::Busy(Some(self.under_way(newest)?)))
                    }
                    _ => Err(Error::Busy(None)),
                }
            }
        }
    }

    /// Removes one pod, all that a stack declares, one network or one shared volume, as a new generation.
    ///
    /// # Errors
    /// As [`Generations::switch`].
    pub async fn delete(
        &self,
        what: &Deleted,
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let result = self.delete_until_superseded(what, uid, progress).await;
        self.name_successor(result).await
    }

    async fn delete_until_superseded(
        &self,
        what: &Deleted,
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let (current, before) = self.current()?;
        let _switching = self.begin(current).await?;
        let stored = before.config();
        let nothing = Config::default();
        let (scope, config, source) = match what {
            Deleted::Pods(pods) => {
                let names = pods
                    .iter()
                    .map(|pod| self.declared_or_network(&before, pod));
                let scope = Scope::Pods(names.collect::<Result<_, _>>()?);
                let config = stored.with(&nothing, &scope);
                (scope, config, format!("delete {}", pods.join(" ")))
            }
            Deleted::Stack(stack) => {
                let scope = Scope::Stack(Some(Self::stack_of(stack, &[&before])?));
                let config = stored.with(&nothing, &scope);
                (scope, config, format!("delete --stack {stack}"))
            }
            Deleted::Network(network) => {
                let name = declared_network(&before, network)?;
                let mut config = stored.clone();
                config.networks.remove(&name);
                let source = format!("delete networks.{network}");
                (Scope::Pods(BTreeSet::new()), config, source)
            }
            Deleted::Volume(volume) => {
                let name = declared_volume(&before, volume)?;
                let mut config = stored.clone();
                config.volumes.remove(&name);
                let source = format!("delete volumes.{volume}");
                (Scope::Pods(BTreeSet::new()), config, source)
            }
        };
        let lines = self.known_provenance(current).unwrap_or_default();
        request::refuse_added_problems((&[&stored], &config), &scope, &[&lines])?;
        let images = before.images();
        let graph = Graph::build(&config, |reference| images.get(reference).copied());
        let candidate = Candidate {
            graph: Arc::new(graph.doing("build the graph")?),
            scope,
            source,
            uid,
            provenance: Lines::of(self.provenance_of(current)),
            rollback: None,
            data: Wanted::new(),
            aim: Aim::Done,
        };
        self.change(current, &before, candidate, None, progress)
            .await
    }

    /// As [`Generations::declared_exactly`]; where a network or a stack is called so, the error names it as one.
    fn declared_or_network(&self, graph: &Graph, pod: &str) -> Result<Name, Error> {
        self.declared_exactly(graph, pod).map_err(|error| {
            let network = graph.networks().find(|(name, _)| name.as_str() == pod);
            let network = network.map(|(network, _)| format!("networks.{network}"));
            let stack = graph.stacks().contains(pod);
            let stack = stack.then(|| format!("--stack {pod}"));
            match (error, network.or(stack)) {
                (Error::NoSuchPod { pod, several, .. }, nearest @ Some(_)) => Error::NoSuchPod {
                    pod,
                    nearest,
                    several,
                },
                (error, _) => error,
            }
        })
    }

    /// Declares pods where nothing was ever declared. `text` is canonical JSON, of one source or of a
    /// whole host with its stacks.
    pub async fn seed(&self, text: &str, base_dir: Option<&Path>) {
        let (progress, _kept) = mpsc::channel(1);
        let text = text.trim_end();
        let mut request = Request::new(text.to_owned(), base_dir, (&[], "seed"), 0);
        // What it is not is said when it is read.
        if let Ok(config) = serde_json::from_str(text) {
            request.origins = request.origins.for_stacks_of(&config);
        }
        let switch = Switch {
            request,
            source: "seed".to_owned(),
            plan: None,
            parent: None,
            wait: None,
            rollback: false,
            timings: false,
        };
        if let Err(error) = self.switch(&switch, &progress).await {
            let message = format!("the seed was not taken: {}", tank_sys::with_causes(&error));
            self.events.add(Kind::Failed, None, message);
        }
    }

    /// Commits and converges. The switch lock is held by the caller.
    pub(super) async fn change(
        &self,
        parent: Option<u64>,
        before: &Arc<Graph>,
        candidate: Candidate,
        verified: Option<Verified<'_>>,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        if let Some(number) = parent.filter(|_| candidate.graph.root() == before.root()) {
            self.end_overrides(number, &candidate.scope, &candidate.graph)?;
            let repaired = self.repair(number, candidate, verified, progress).await;
            self.forget_ended()?;
            return repaired;
        }
        // Once it is committed they begin.
        let notes = self.notes_of_new(&candidate.graph, &candidate.scope).await;
        let number = self.committed(parent, before, &candidate, progress).await?;
        let Candidate {
            graph,
            uid,
            aim,
            scope,
            ..
        } = candidate;
        let before = Arc::clone(before);
        let committed = Committed {
            number,
            parent,
            uid,
            graph,
            before,
            aim,
            scope,
            verified,
        };
        let switched = self.converge(committed, progress).await?;
        Ok(switched.noting(notes))
    }

    /// Commits for a caller that is still there.
    pub(super) async fn committed(
        &self,
        parent: Option<u64>,
        before: &Graph,
        candidate: &Candidate,
        progress: &ProgressSender,
    ) -> Result<u64, Error> {
        if progress.is_closed() {
            return Err(Error::CallerLeft);
        }
        let _span = self.timings.span(|| "commit".to_owned());
        let number = self.commit(parent, before, candidate).await?;
        notify(progress, Stage::Commit, format_args!("generation {number}"));
        Ok(number)
    }

    /// A committed generation that a daemon before this one did not reach.
    fn unfinished(
        &self,
        number: u64,
        uid: u32,
        graph: Arc<Graph>,
        aim: Aim,
    ) -> Result<Committed<'static>, Error> {
        let parent = self.store.generation(number)?.and_then(|one| one.parent);
        let before = self.graph_or_empty(parent)?;
        Ok(Committed {
            number,
            parent,
            uid,
            graph,
            before,
            aim,
            scope: Scope::Host,
            verified: None,
        })
    }

    /// A switch to what is current already: the same passes as any other. What was good stays it,
    /// and the health of what was repaired counts; what was not is tried again as a whole. Of either only
    /// the pods that are meant: whether those of another stack work is not what was asked.
    async fn repair(
        &self,
        number: u64,
        candidate: Candidate,
        verified: Option<Verified<'_>>,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let Candidate {
            graph,
            uid,
            aim,
            scope,
            ..
        } = candidate;
        let before = self.store.outcome(number)?;
        if before == Outcome::Pending && self.store.gate(number)?.is_some() {
            // A daemon that ended left it on its way.
            let mut committed = self.unfinished(number, uid, graph, aim)?;
            committed.verified = verified;
            return self.converge(committed, progress).await;
        }
        let was_good = before == Outcome::Good;
        let all = graph.pods().filter(|pod| !was_good && scope.has(pod));
        let changed: BTreeSet<_> = all.cloned().collect();
        let way = Way {
            graph: &graph,
            previous: &graph,
            aim,
            changed,
            scope: &scope,
            repairs: true,
            verified,
        };
        let Reached {
            failure,
            superseded,
            all_healthy,
            steps,
            unmet,
        } = self.reach(way, progress).await;
        if superseded {
            return Err(Error::Ended(number));
        }
        let is_whole = graph.pods().all(|pod| scope.has(pod));
        match failure {
            _ if was_good => {}
            Some(_) => self.store.set_outcome(number, Outcome::Failed)?,
            None if is_whole || all_healthy => self.store.set_outcome(number, Outcome::Good)?,
            // What is wrong with it may be another stack's.
            None => {}
        }
        self.dirty.mark();
        let switched = Switched::new(number, &graph, (failure, unmet), false);
        Ok(Switched {
            changed: !steps.is_empty(),
            repaired: Some(steps),
            ..switched
        })
    }

    /// Makes `candidate` the current generation. `before` is the graph of the generation `parent`. No
    /// generation and no node goes meanwhile ([`super::history`]): what is not written, since it is there, stays.
    pub(super) async fn commit(
        &self,
        parent: Option<u64>,
        before: &Graph,
        candidate: &Candidate,
    ) -> Result<u64, Error> {
        let _history = self.history.lock().await;
        self.refuse_deleted_target(candidate.rollback)?;
        self.refuse_deleted_data(&candidate.data)?;
        let data = self.carried_data(parent, candidate).await?;
        let number = store::next_number(self.store.as_ref())?;
        // Those of the generation before are there.
        let nodes = match parent {
            Some(_) => candidate.graph.stored_beside(before),
            None => candidate.graph.stored(),
        };
        let mut nodes = nodes.doing("encode the graph")?;
        if let Some(Lines {
            digest,
            bytes: Some(bytes),
        }) = &candidate.provenance
        {
            nodes.push((*digest, bytes.clone()));
        }
        let generation = Generation {
            number,
            root: candidate.graph.root(),
            parent,
            time: now(),
            uid: candidate.uid,
            source: candidate.source.clone(),
            provenance: candidate.provenance.as_ref().map(|lines| lines.digest),
            rollback: candidate.rollback,
            data,
        };
        faults::boundary("before the nodes");
        self.store.put_nodes(&nodes)?;
        let leases = self.reconciler.propose_leases(&candidate.graph)?;
        faults::boundary("between nodes and generation");
        let gate = candidate.aim.gate();
        let overrides = self.overrides_of(&generation, candidate)?;
        let (leases, overrides) = (leases.change(), overrides.as_ref());
        self.store
            .commit_with(&generation, gate.as_ref(), leases, overrides)?;
        self.graphs.put(Arc::clone(&candidate.graph));
        faults::boundary("after the commit");
        let message = format!("generation {number}: {}", generation.source);
        let of = Subject::generation(number, Some(generation.uid));
        self.events.add_of(Kind::Committed, of, message);
        Ok(number)
    }
}
