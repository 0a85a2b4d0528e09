//! The containers of a pod whose sandbox is as declared: what has to start, stop, or change in
//! place.
//!
//! A container starts once what its pod depends on is there and what runs before it (`init`) has
//! ended well, one after the other. That runs again when it was changed or its pod is another one,
//! not when a main process ended.
//!
//! What can't be started from what is declared is reported, and ends nothing that runs.

use crate::{
    backoff::{self, Verdict},
    observed::{self, Probed, State},
    planner::{Planner, Removal},
    step::{Class, Step, StepId},
    target::{TargetError, effective_limits},
    why::{Changed, WaitsFor, Why},
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Digest, Key, Name, spec::Restart};

impl Planner<'_> {
    /// `class` is that of what was not there before.
    pub(crate) fn containers(
        &mut self,
        pod: &Name,
        found: &observed::Pod,
        class: Class,
        after: &[StepId],
    ) {
        let graph = self.target.graph;
        self.undeclared(pod, found);
        let stopped = self.stop_changed(pod, found);
        self.restore(pod);
        let overrides = self.target.overrides;
        let is_wanted = |name: &Name| overrides.stopped(pod, name).is_none();
        let starting = graph
            .containers(pod)
            .filter(|(name, ..)| is_wanted(name))
            .any(|(name, ..)| stopped.contains_key(name) || !found.containers.contains_key(name));
        let stops = stopped.values().map(|(id, _)| *id);
        let before: Vec<StepId> = after.iter().copied().chain(stops).collect();
        let waits = if starting {
            self.init(pod, found, class, &before)
        } else {
            None
        };
        for (name, _, hash) in graph.containers(pod).filter(|(name, ..)| is_wanted(name)) {
            let start = Start {
                pod,
                name,
                hash,
                class,
                why: None,
                waits: waits.as_ref(),
            };
            match (stopped.get(name), found.containers.get(name)) {
                (Some((id, removal)), _) => {
                    let after: Vec<StepId> = after.iter().copied().chain([*id]).collect();
                    let start = Start {
                        class: removal.class,
                        why: Some(&removal.why),
                        ..start
                    };
                    self.start(&start, &after);
                }
                (None, None) => self.start(&start, after),
                (None, Some(container)) if container.hash == hash => {
                    self.keep(pod, name, container, after);
                }
                // What takes its place can't be started.
                (None, Some(_)) => {}
            }
        }
        self.runs_by_hand(pod, found, class, after);
    }

    /// Ends and removes what is not declared any more.
    fn undeclared(&mut self, pod: &Name, found: &observed::Pod) {
        let graph = self.target.graph;
        for (name, container) in &found.containers {
            if graph.process(pod, name).is_none() && !self.is_run_by_hand(pod, name, container) {
                let removal = Removal {
                    class: Class::Delete,
                    why: self.undeclared_because(pod, name),
                    drift: false,
                };
                let id = self.stop(pod, name, container, &removal, &[]);
                self.sweep(pod, name, false, &[id]);
            }
        }
        for name in found
            .left_over
            .iter()
            .filter(|name| graph.process(pod, name).is_none())
        {
            let drift = self
                .target
                .previous
                .is_some_and(|previous| previous.process(pod, name).is_none());
            self.sweep(pod, name, drift, &[]);
        }
    }

    /// What has changed ends before anything runs in its place.
    fn stop_changed<'a>(
        &mut self,
        pod: &Name,
        found: &'a observed::Pod,
    ) -> BTreeMap<&'a Name, (StepId, Removal)> {
        let mut stopped = BTreeMap::new();
        let disturbed = self.disturbed(pod, found);
        for (name, _, hash) in self.target.graph.containers(pod) {
            let Some((name, container)) = found.containers.get_key_value(name) else {
                continue;
            };
            if self.target.overrides.stopped(pod, name).is_some() {
                continue;
            }
            if let Some((id, removal)) = self.by_hand.get(&(pod.clone(), name.clone())) {
                stopped.insert(name, (*id, removal.clone()));
                continue;
            }
            let disturbed = disturbed.get(name).filter(|_| container.hash == hash);
            if container.hash == hash && disturbed.is_none() {
                continue;
            }
            if let Some((blocker, why)) = self.impossible(pod, found, name) {
                self.block(pod, Some(&blocker), why);
                continue;
            }
            let removal = match disturbed {
                Some(volume) => Removal::for_rest_of(volume),
                None => self.replacement(pod, name),
            };
            let id = self.stop(pod, name, container, &removal, &[]);
            stopped.insert(name, (id, removal));
        }
        self.end_disturbing_runs(pod, found);
        stopped
    }

    /// Which process keeps a container from being started, and why: its own, or one of those that
    /// have to run before it.
    pub(crate) fn impossible(
        &self,
        pod: &Name,
        found: &observed::Pod,
        name: &Name,
    ) -> Option<(Name, TargetError)> {
        let inits = self.target.graph.init(pod).filter(|(init, _, hash)| {
            let current = found.current(init, *hash);
            !current.is_some_and(observed::Run::ended_well)
        });
        let mut needed = inits.map(|(init, ..)| init).chain([name]);
        needed.find_map(|name| {
            let why = self.target.container(pod, name).err()?;
            Some((name.clone(), why))
        })
    }

    /// Removes what is left of a container that is not declared any more.
    fn sweep(&mut self, pod: &Name, name: &Name, drift: bool, after: &[StepId]) {
        let step = Step::SweepContainer {
            pod: pod.clone(),
            container: name.clone(),
        };
        let why = self.undeclared_because(pod, name);
        let drift = drift && why != Why::RunEnded;
        self.add(step, Class::Delete, why, drift, after);
    }

    /// Runs what comes before the containers, one after the other. Returns what they wait for, if
    /// anything.
    fn init(
        &mut self,
        pod: &Name,
        found: &observed::Pod,
        class: Class,
        after: &[StepId],
    ) -> Option<WaitsFor> {
        for (name, _, hash) in self.target.graph.init(pod) {
            let start = Start {
                pod,
                name,
                hash,
                class,
                why: None,
                waits: None,
            };
            match found.containers.get(name) {
                Some(container) if container.hash == hash => {
                    if container.ended_well() {
                        continue;
                    }
                    self.keep(pod, name, container, after);
                }
                Some(container) => self.init_again(start, container, after),
                None => self.start(&start, after),
            }
            return Some(WaitsFor::Init { name: name.clone() });
        }
        None
    }

    /// Runs what comes before the containers once more, since it was changed.
    fn init_again(&mut self, start: Start<'_>, found: &observed::Run, after: &[StepId]) {
        let Start { pod, name, .. } = start;
        if let Err(why) = self.target.container(pod, name) {
            return self.block(pod, Some(name), why);
        }
        let why = self.reason(&Key::Init(pod.clone(), name.clone()));
        let removal = Removal {
            class: Class::Restart,
            why: why.unwrap_or(Why::NeedsChanged),
            drift: false,
        };
        let stop = self.stop(pod, name, found, &removal, &[]);
        let after: Vec<StepId> = after.iter().copied().chain([stop]).collect();
        let start = Start {
            class: Class::Restart,
            why: Some(&removal.why),
            ..start
        };
        self.start(&start, &after);
    }

    /// A container that was started from what is declared.
    fn keep(&mut self, pod: &Name, name: &Name, found: &observed::Run, after: &[StepId]) {
        match found.state {
            State::Exited { status, at } => self.ended(pod, name, found, status, at, after),
            State::Running { verdict, .. } => {
                if let Some(probe) = verdict.failed {
                    return self.unhealthy(pod, name, found, probe);
                }
                self.limits(pod, name, found);
                if found.halted {
                    let step = Step::Resume {
                        pod: pod.clone(),
                        container: name.clone(),
                    };
                    self.add(step, Class::InPlace, Why::Halted, true, &[]);
                }
                self.files(pod, name, found);
            }
        }
    }

    /// A run whose probe has failed as often as it may: it ends, and the pod's `restart` says what
    /// follows.
    fn unhealthy(&mut self, pod: &Name, name: &Name, found: &observed::Run, probe: Probed) {
        if found.ending {
            return self.wait(pod, name, WaitsFor::End(probe), None);
        }
        let node = self.target.graph.pod(pod);
        let class = if node.is_some_and(|node| node.restart != Restart::Never) {
            Class::Restart
        } else {
            Class::Delete
        };
        let removal = Removal {
            class,
            why: Why::ProbeFailed(probe),
            drift: true,
        };
        self.end(pod, name, found, &removal);
    }

    /// Why a container has to end and start again.
    fn replacement(&self, pod: &Name, name: &Name) -> Removal {
        let graph = self.target.graph;
        let node = graph.container(pod, name).map(|(node, _)| node);
        let image = node.and_then(|node| self.change(&Key::Image(node.image.clone())));
        let named = |key: Key| self.change(&key).map(Changed::named);
        let volumes: BTreeSet<&Name> = node
            .into_iter()
            .flat_map(|node| node.mounts.values())
            .map(|m| &m.volume)
            .collect();
        let loses = volumes.iter().any(|volume| self.loses(pod, volume));
        let volumes: Vec<Changed> = volumes
            .into_iter()
            .flat_map(|volume| {
                let own = graph.volume(pod, volume);
                let shared = own
                    .and_then(|own| own.shared_of(pod))
                    .map(Key::SharedVolume);
                let own = Key::Volume(pod.clone(), volume.clone());
                [Some(own), shared].into_iter().flatten().filter_map(named)
            })
            .collect();
        let own = [Key::Container, Key::Files, Key::LiveFiles]
            .map(|key| self.change(&key(pod.clone(), name.clone())));
        let inits = graph
            .init(pod)
            .filter_map(|(init, ..)| named(Key::Init(pod.clone(), init.clone())));
        let class = match (&image, loses) {
            // What was written to the volume is not there any more for who mounts it.
            (_, true) => Class::DataRisk,
            (Some(_), false) => Class::Replace,
            (None, false) => Class::Restart,
        };
        let changes: Vec<Changed> = volumes
            .into_iter()
            .chain(image)
            .chain(own.into_iter().flatten())
            .chain(inits)
            .collect();
        let why = if changes.is_empty() {
            Why::NeedsChanged
        } else {
            Why::Changed(changes)
        };
        Removal {
            class,
            why,
            drift: false,
        }
    }

    /// Whether what was written to a volume is not there in what it is now.
    fn loses(&self, pod: &Name, volume: &Name) -> bool {
        let key = Key::Volume(pod.clone(), volume.clone());
        let before = self.target.previous;
        let before = before.and_then(|graph| graph.volume(pod, volume));
        let now = self.target.graph.volume(pod, volume);
        match (before, now) {
            (Some(before), Some(now)) => !now.keeps(before),
            _ => self.change(&key).is_some(),
        }
    }

    /// Starts what does not run, once what it waits for is there.
    fn start(&mut self, start: &Start<'_>, after: &[StepId]) {
        let Start {
            pod,
            name,
            hash,
            class,
            why,
            waits,
        } = *start;
        if let Some(waits) = self.blocker(pod, name).or_else(|| waits.cloned()) {
            self.later(pod, name, hash);
            return self.wait(pod, name, waits, None);
        }
        let of = |key: fn(Name, Name) -> Key| key(pod.clone(), name.clone());
        let key = if self.target.graph.container(pod, name).is_some() {
            of(Key::Container)
        } else {
            of(Key::Init)
        };
        let ended = self.target.overrides.ended(pod, name);
        let drift = self.is_declared_before(&key) && ended.is_none();
        let usual = match ended {
            Some(one) => Why::StopEnded { uid: one.uid },
            None if drift => Why::NotRunning,
            None => Why::Declared,
        };
        let run = Run {
            hash,
            attempt: 0,
            class,
            why: why.cloned().unwrap_or(usual),
            drift,
        };
        self.run(pod, name, run, after);
    }

    /// Plans one run of a container, or reports why there can be none.
    fn run(&mut self, pod: &Name, name: &Name, run: Run, after: &[StepId]) {
        let spec = match self.target.container(pod, name) {
            Ok(spec) => Box::new(spec),
            Err(why) => return self.block(pod, Some(name), why),
        };
        let step = Step::StartContainer {
            pod: pod.clone(),
            container: name.clone(),
            hash: run.hash,
            attempt: run.attempt,
            spec,
        };
        let data = self.data_before(pod, name);
        let after = [after, &data].concat();
        self.add(step, run.class, run.why, run.drift, &after);
    }

    /// Notes what a start that waits would do.
    fn later(&mut self, pod: &Name, name: &Name, hash: Digest) {
        let Ok(spec) = self.target.container(pod, name) else {
            return;
        };
        let (pod, container, spec) = (pod.clone(), name.clone(), Box::new(spec));
        let step = Step::StartContainer {
            pod,
            container,
            hash,
            attempt: 0,
            spec,
        };
        self.plan.later.push(step.id());
    }

    fn limits(&mut self, pod: &Name, name: &Name, found: &observed::Run) {
        let limits = effective_limits(&self.target.graph.limits(pod, name));
        if limits == found.limits {
            return;
        }
        let key = Key::Limits(pod.clone(), name.clone());
        let drift = self.is_declared_before(&key);
        let why = self.reason(&key).unwrap_or(Why::LimitsDiffer);
        let step = Step::SetLimits {
            pod: pod.clone(),
            container: name.clone(),
            limits,
        };
        self.add(step, Class::InPlace, why, drift, &[]);
    }

    fn ended(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Run,
        status: i32,
        at: u64,
        after: &[StepId],
    ) {
        let Some(node) = self.target.graph.pod(pod) else {
            return;
        };
        if let Some(one) = self.target.overrides.restarts(pod, name, found) {
            let run = Run {
                hash: found.hash,
                attempt: 0,
                class: Class::Restart,
                why: Why::RestartedByHand { uid: one.uid },
                drift: false,
            };
            return self.run(pod, name, run, after);
        }
        let verdict = backoff::verdict(node.restart, status == 0, found.attempt, found.started, at);
        let Verdict::Restart { attempt, at } = verdict else {
            return;
        };
        if at > self.observed.now {
            return self.wait(pod, name, WaitsFor::Restart { status, attempt }, Some(at));
        }
        let run = Run {
            hash: found.hash,
            attempt,
            class: Class::Restart,
            why: Why::Ended { status },
            drift: true,
        };
        self.run(pod, name, run, after);
    }
}

/// A start that is wanted.
#[derive(Clone, Copy)]
struct Start<'a> {
    pod: &'a Name,
    name: &'a Name,
    hash: Digest,
    class: Class,
    why: Option<&'a Why>,
    /// What it waits for beside what its pod depends on.
    waits: Option<&'a WaitsFor>,
}

/// One run of a container's main process.
struct Run {
    hash: Digest,
    attempt: u32,
    class: Class,
    why: Why,
    drift: bool,
}
