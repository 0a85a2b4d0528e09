//! What somebody has asked for by hand, beside what is declared: a container that stays stopped, or a run
//! that has to end and be followed by another one.
//!
//! An override is of the host and not of a generation. It ends at the next change that concerns its pod
//! ([`Overrides::after_change`]), since who declares a pod wants it to run; where that change is put back,
//! so is the override ([`Overrides::put_back`]). It goes with its pod. Until then no pass repairs it, and
//! neither a restart of the daemon nor one of the host ends it.
//!
//! A run is named by its start, so a restart that was carried out asks for nothing any more, whoever
//! carried it out. What ran and is restarted waits only for what is restarted with it: it ran with the rest of
//! its dependencies as they are.

use crate::observed::{Observed, Pod, Run, State};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Graph, Name, Scope};

/// The overrides of a host, by pod and container.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overrides(BTreeMap<Name, BTreeMap<Name, Override>>);

/// What was asked for of one container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Override {
    /// What it is to be.
    #[serde(flatten)]
    pub kind: OverrideKind,
    /// Milliseconds between the signal to end and `SIGKILL`. None: as it is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Who asked.
    pub uid: u32,
    /// When, in milliseconds since the Unix epoch, for people.
    pub time: u64,
    /// The generation that ended it. Kept while that may be put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
}

/// What a container is to be in place of what is declared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "override", rename_all = "snake_case")]
pub enum OverrideKind {
    /// It does not run.
    Stopped,
    /// Another run follows the one that began at `since` ([`Run::since`]).
    Restarted {
        /// Milliseconds since the Unix epoch.
        since: u64,
        /// The dependencies that the other run waits for, where that one ran when it was restarted: those
        /// that were restarted with it. None: it waits for all of them, as any other start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        awaits: Option<BTreeSet<Name>>,
    },
}

/// What is asked for by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Containers end, and stay so.
    Stop,
    /// What does not run starts, without waiting for its next restart.
    Start,
    /// What runs ends, and all of it starts.
    Restart,
}

/// Who asks, when, and how long containers have to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What for.
    pub operation: Operation,
    /// In milliseconds. None: as it is declared.
    pub timeout: Option<u64>,
    /// Who.
    pub uid: u32,
    /// In milliseconds since the Unix epoch.
    pub time: u64,
}

/// A user where nothing is known of what they are called.
pub fn who(uid: u32) -> String {
    match uid {
        0 => "root".to_owned(),
        other => format!("uid {other}"),
    }
}

/// Writes what somebody did.
pub(crate) fn by_hand(f: &mut std::fmt::Formatter<'_>, uid: u32, did: &str) -> std::fmt::Result {
    write!(f, "{} {did}", who(uid))
}

/// A container that is stopped by hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stopped {
    /// The pod of the container.
    pub pod: Name,
    /// The container.
    pub container: Name,
    /// Who stopped it.
    pub uid: u32,
    /// When, in milliseconds since the Unix epoch.
    pub time: u64,
}

/// What a request makes of the overrides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Requested {
    /// Those from then on.
    pub overrides: Overrides,
    /// The containers of which something is done.
    pub concerned: BTreeSet<(Name, Name)>,
    /// Those that are what was asked for already.
    pub unchanged: BTreeSet<(Name, Name)>,
}

impl Overrides {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, pod: &Name, container: &Name) -> Option<&Override> {
        self.0.get(pod)?.get(container)
    }

    fn in_force(&self, pod: &Name, container: &Name) -> Option<&Override> {
        self.get(pod, container).filter(|one| one.ended.is_none())
    }

    /// The override by which a container is stopped.
    pub fn stopped(&self, pod: &Name, container: &Name) -> Option<&Override> {
        self.in_force(pod, container)
            .filter(|one| one.kind == OverrideKind::Stopped)
    }

    /// The override by which a container was stopped until a change ended that.
    pub fn ended(&self, pod: &Name, container: &Name) -> Option<&Override> {
        let found = self.get(pod, container)?;
        (found.kind == OverrideKind::Stopped && found.ended.is_some()).then_some(found)
    }

    /// The override by which another run has to follow this one.
    pub fn restarts(&self, pod: &Name, container: &Name, run: &Run) -> Option<&Override> {
        let one = self.in_force(pod, container)?;
        let OverrideKind::Restarted { since, .. } = one.kind else {
            return None;
        };
        (since == run.since).then_some(one)
    }

    /// The only dependencies that a container waits for, since its next run takes the place of one that ran
    /// when it was restarted by hand. None: it waits for all of them. After a reboot nothing takes a place.
    pub fn awaits(&self, pod: &Name, container: &Name, found: &Pod) -> Option<&BTreeSet<Name>> {
        self.replaced(pod, container, found)
            .map(|(_, awaits)| awaits)
    }

    /// The run that ran when it was restarted by hand and has no successor yet, and what that waits for.
    fn replaced(
        &self,
        pod: &Name,
        container: &Name,
        found: &Pod,
    ) -> Option<(u64, &BTreeSet<Name>)> {
        let kind = &self.in_force(pod, container)?.kind;
        let OverrideKind::Restarted {
            since,
            awaits: Some(awaits),
        } = kind
        else {
            return None;
        };
        let is_next = match found.containers.get(container) {
            Some(run) => run.since == *since,
            None => found.left_over.contains(container),
        };
        is_next.then_some((*since, awaits))
    }

    /// How long a run that has to end by hand has for that, in milliseconds, where that was asked for.
    pub fn timeout(&self, pod: &Name, container: &Name, run: &Run) -> Option<u64> {
        let one = self.in_force(pod, container)?;
        let ends = match one.kind {
            OverrideKind::Stopped => true,
            // Its successor ends as it is declared.
            OverrideKind::Restarted { since, .. } => since == run.since,
        };
        one.timeout.filter(|_| ends)
    }

    /// Whether these have the same in force for containers as `others`.
    pub fn agree(&self, others: &Self, containers: &BTreeMap<Name, BTreeSet<Name>>) -> bool {
        let mut pods = containers.iter();
        pods.all(|(pod, names)| {
            let same = |name| self.in_force(pod, name) == others.in_force(pod, name);
            names.iter().all(same)
        })
    }

    /// Whether every container of a declared pod is stopped by hand.
    pub fn is_stopped(&self, graph: &Graph, pod: &Name) -> bool {
        self.0.contains_key(pod) && all(graph, pod, |name| self.stopped(pod, name).is_some())
    }

    /// Whether every container of a pod was stopped by hand until a change ended that.
    pub fn has_ended(&self, graph: &Graph, pod: &Name) -> bool {
        self.0.contains_key(pod) && all(graph, pod, |name| self.ended(pod, name).is_some())
    }

    /// Whether a change ended any, or something runs yet that is stopped: what follows from that is no
    /// drift.
    pub fn are_new(&self, observed: &Observed) -> bool {
        let mut pods = self.0.iter();
        pods.any(|(pod, containers)| {
            let runs = |name| {
                let run = run_of(observed, pod, name);
                run.is_some_and(|run| matches!(run.state, State::Running { .. }))
            };
            let mut containers = containers.iter();
            containers.any(|(name, one)| {
                let is_stop = one.kind == OverrideKind::Stopped;
                is_stop && (one.ended.is_some() || runs(name))
            })
        })
    }

    /// The containers of a graph that are stopped by hand.
    pub fn all_stopped(&self, graph: &Graph) -> Vec<Stopped> {
        let pods = self.0.keys().filter(|pod| graph.pod(pod).is_some());
        let containers =
            pods.flat_map(|pod| graph.containers(pod).map(move |(one, ..)| (pod, one)));
        let stopped = containers.filter_map(|(pod, container)| {
            let found = self.stopped(pod, container)?;
            Some(Stopped {
                pod: pod.clone(),
                container: container.clone(),
                uid: found.uid,
                time: found.time,
            })
        });
        stopped.collect()
    }

    /// Those with which the generation `number` begins, which changes the pods of `scope` and declares
    /// `graph`: what concerns any of these ends, and what is of no pod any more.
    #[must_use]
    pub fn after_change(&self, number: u64, scope: &Scope, graph: &Graph) -> Self {
        let kept = self.0.iter().map(|(pod, containers)| {
            let goes = scope.has(pod) || graph.pod(pod).is_none();
            let in_force = containers.iter().filter(|(_, one)| one.ended.is_none());
            let kept = in_force.filter_map(|(container, one)| {
                let is_stop = one.kind == OverrideKind::Stopped;
                let ended = goes.then_some(number);
                // A restart that was not carried out is one of the change now, or of nothing.
                (is_stop || !goes).then(|| {
                    (
                        container.clone(),
                        Override {
                            ended,
                            ..one.clone()
                        },
                    )
                })
            });
            (pod.clone(), kept.collect())
        });
        Self::of(kept)
    }

    /// Those as before the generation `number`, which is put back.
    #[must_use]
    pub fn put_back(&self, number: u64) -> Self {
        let back = self.0.iter().map(|(pod, containers)| {
            let kept = containers
                .iter()
                .filter(|(_, one)| one.ended.is_none_or(|by| by == number));
            let kept = kept.map(|(container, one)| {
                let one = Override {
                    ended: None,
                    ..one.clone()
                };
                (container.clone(), one)
            });
            (pod.clone(), kept.collect())
        });
        Self::of(back)
    }

    /// Those that are in force.
    #[must_use]
    pub fn without_ended(&self) -> Self {
        let kept = self.0.iter().map(|(pod, containers)| {
            let kept = containers.iter().filter(|(_, one)| one.ended.is_none());
            let kept = kept.map(|(container, one)| (container.clone(), one.clone()));
            (pod.clone(), kept.collect())
        });
        Self::of(kept)
    }

    fn of(all: impl Iterator<Item = (Name, BTreeMap<Name, Override>)>) -> Self {
        Self(
            all.filter(|(_, containers)| !containers.is_empty())
                .collect(),
        )
    }

    fn set(&mut self, pod: &Name, container: &Name, one: Override) {
        let of_pod = self.0.entry(pod.clone()).or_default();
        of_pod.insert(container.clone(), one);
    }

    fn remove(&mut self, pod: &Name, container: &Name) {
        if let Some(of_pod) = self.0.get_mut(pod) {
            of_pod.remove(container);
            if of_pod.is_empty() {
                self.0.remove(pod);
            }
        }
    }

    /// What these become when containers of `graph` are stopped, started or restarted by hand.
    pub fn requested(
        &self,
        request: &Request,
        selected: &BTreeMap<Name, BTreeSet<Name>>,
        (graph, observed): (&Graph, &Observed),
    ) -> Requested {
        let mut result = Requested {
            overrides: self.without_ended(),
            ..Requested::default()
        };
        for (pod, containers) in selected {
            let found = observed.pods.get(pod);
            let depends_on = graph.pod(pod).into_iter().flat_map(|pod| &pod.depends_on);
            let awaits = depends_on.map(|(other, _)| other);
            let awaits = awaits.filter(|other| selected.contains_key(*other));
            let awaits: BTreeSet<Name> = awaits.cloned().collect();
            for container in containers {
                let overrides = &mut result.overrides;
                let is_new = overrides.request(request, (pod, container), found, &awaits);
                let set = match is_new {
                    true => &mut result.concerned,
                    false => &mut result.unchanged,
                };
                set.insert((pod.clone(), container.clone()));
            }
            // What runs before the containers and has failed is why they wait.
            let begins = request.operation != Operation::Stop;
            for (init, _, hash) in graph.init(pod).filter(|_| begins) {
                let run = found.and_then(|found| found.current(init, hash));
                if let Some(run) = run.filter(|run| run.failed()) {
                    let since = run.since;
                    result.overrides.restart(request, (pod, init), since, None);
                }
            }
        }
        result
    }

    /// Whether something is done of one container. `awaits` are the dependencies that are restarted with it.
    fn request(
        &mut self,
        request: &Request,
        (pod, container): (&Name, &Name),
        found: Option<&Pod>,
        awaits: &BTreeSet<Name>,
    ) -> bool {
        let run = found.and_then(|found| found.containers.get(container));
        let was_stopped = self.stopped(pod, container).is_some();
        let runs = run.is_some_and(|run| matches!(run.state, State::Running { .. }));
        match request.operation {
            Operation::Stop if was_stopped && !runs => return false,
            Operation::Stop => self.set(pod, container, request.of(OverrideKind::Stopped)),
            Operation::Start if runs => {
                self.remove(pod, container);
                return was_stopped;
            }
            Operation::Start | Operation::Restart => {
                let restarts = request.operation == Operation::Restart;
                // One whose next run waits yet since it was restarted before.
                let replaced = found.and_then(|found| self.replaced(pod, container, found));
                let replaced = replaced.filter(|_| restarts).map(|(since, _)| since);
                let ran = restarts && (runs || replaced.is_some());
                let awaits = ran.then(|| awaits.clone());
                match run.map(|run| run.since).or(replaced) {
                    Some(since) => self.restart(request, (pod, container), since, awaits),
                    None => self.remove(pod, container),
                }
            }
        }
        true
    }

    fn restart(
        &mut self,
        request: &Request,
        (pod, container): (&Name, &Name),
        since: u64,
        awaits: Option<BTreeSet<Name>>,
    ) {
        let kind = OverrideKind::Restarted { since, awaits };
        self.set(pod, container, request.of(kind));
    }
}

impl Request {
    fn of(&self, kind: OverrideKind) -> Override {
        Override {
            kind,
            timeout: self.timeout,
            uid: self.uid,
            time: self.time,
            ended: None,
        }
    }
}

fn all(graph: &Graph, pod: &Name, is: impl Fn(&Name) -> bool) -> bool {
    let mut containers = graph.containers(pod).peekable();
    containers.peek().is_some() && containers.all(|(name, ..)| is(name))
}

fn run_of<'a>(observed: &'a Observed, pod: &Name, container: &Name) -> Option<&'a Run> {
    observed.pods.get(pod)?.containers.get(container)
}
