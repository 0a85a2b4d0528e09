//! The containers of a pod whose sandbox is as declared: what has to start, stop, or change in
//! place.
//!
//! A container starts once what its pod depends on is there and what runs before it (`init`) has
//! ended well, one after the other. That runs again when it was changed or its pod is another one,
//! not when a main process ended.

use crate::{
    backoff::{self, Verdict},
    observed::{self, State, Unhealthy},
    planner::{Planner, Removal, effective_limits},
    step::{Class, Step, StepId},
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{
    Digest, Key, Name,
    spec::{Condition, Restart},
};

impl Planner<'_> {
    /// `class` is that of what was not there before.
    pub(crate) fn containers(
        &mut self,
        pod: &Name,
        found: &observed::Pod,
        class: Class,
        after: &[StepId],
    ) {
        let graph = self.desired.graph;
        for (name, container) in &found.containers {
            if graph.process(pod, name).is_none() {
                let why = "it is no longer declared".to_owned();
                let id = self.stop(
                    pod,
                    name,
                    container,
                    &Removal {
                        class: Class::Delete,
                        why,
                        drift: false,
                    },
                    &[],
                );
                self.sweep(pod, name, false, &[id]);
            }
        }
        for name in found
            .left_over
            .iter()
            .filter(|name| graph.process(pod, name).is_none())
        {
            let drift = self
                .desired
                .previous
                .is_some_and(|previous| previous.process(pod, name).is_none());
            self.sweep(pod, name, drift, &[]);
        }
        // What has changed ends before anything runs in its place.
        let mut stopped: BTreeMap<&Name, (StepId, Removal)> = BTreeMap::new();
        for (name, _, hash) in graph.containers(pod) {
            if let Some(container) = found.containers.get(name)
                && container.hash != hash
            {
                let removal = self.change(pod, name);
                let id = self.stop(pod, name, container, &removal, &[]);
                stopped.insert(name, (id, removal));
            }
        }
        let starting = graph
            .containers(pod)
            .any(|(name, ..)| stopped.contains_key(name) || !found.containers.contains_key(name));
        let stops = stopped.values().map(|(id, _)| *id);
        let before: Vec<StepId> = after.iter().copied().chain(stops).collect();
        let waits = if starting {
            self.init(pod, found, class, &before)
        } else {
            None
        };
        for (name, _, hash) in graph.containers(pod) {
            let start = |why| Start {
                pod,
                name,
                hash,
                class,
                why,
                waits: waits.as_deref(),
            };
            match (stopped.get(name), found.containers.get(name)) {
                (Some((id, removal)), _) => {
                    let after: Vec<StepId> = after.iter().copied().chain([*id]).collect();
                    let start = Start {
                        class: removal.class,
                        ..start(Some(removal.why.as_str()))
                    };
                    self.start(&start, &after);
                }
                (None, None) => self.start(&start(None), after),
                (None, Some(container)) => self.keep(pod, name, container, after),
            }
        }
    }

    /// Removes what is left of a container that is not declared any more.
    fn sweep(&mut self, pod: &Name, name: &Name, drift: bool, after: &[StepId]) {
        let step = Step::SweepContainer {
            pod: pod.clone(),
            container: name.clone(),
        };
        self.add(
            step,
            Class::Delete,
            "it is no longer declared",
            drift,
            after,
        );
    }

    /// Runs what comes before the containers, one after the other. Returns what they wait for, if
    /// anything.
    fn init(
        &mut self,
        pod: &Name,
        found: &observed::Pod,
        class: Class,
        after: &[StepId],
    ) -> Option<String> {
        for (name, _, hash) in self.desired.graph.init(pod) {
            let start = |class| Start {
                pod,
                name,
                hash,
                class,
                why: None,
                waits: None,
            };
            let waits = format!("waits for {name} to end well");
            match found.containers.get(name) {
                Some(container) if container.hash == hash => {
                    if container.ended_well() {
                        continue;
                    }
                    self.keep(pod, name, container, after);
                }
                Some(container) => {
                    let why = self.reason(&Key::Init(pod.clone(), name.clone()));
                    let why = why.unwrap_or_else(|| "what it needs has changed".to_owned());
                    let removal = Removal {
                        class: Class::Restart,
                        why,
                        drift: false,
                    };
                    let stop = self.stop(pod, name, container, &removal, &[]);
                    let after: Vec<StepId> = after.iter().copied().chain([stop]).collect();
                    self.start(
                        &Start {
                            why: Some(&removal.why),
                            ..start(Class::Restart)
                        },
                        &after,
                    );
                }
                None => self.start(&start(class), after),
            }
            return Some(waits);
        }
        None
    }

    /// A container that was started from what is declared.
    fn keep(&mut self, pod: &Name, name: &Name, found: &observed::Container, after: &[StepId]) {
        match found.state {
            State::Exited { status, at } => self.ended(pod, name, found, status, at, after),
            State::Running { .. } => {
                if let Some(unhealthy) = found.unhealthy {
                    return self.unhealthy(pod, name, found, unhealthy);
                }
                self.limits(pod, name, found);
                if found.halted {
                    let step = Step::Resume {
                        pod: pod.clone(),
                        container: name.clone(),
                    };
                    self.add(
                        step,
                        Class::InPlace,
                        "somebody stopped or froze it",
                        true,
                        &[],
                    );
                }
                self.files(pod, name, found);
            }
        }
    }

    /// A run whose probe has failed as often as it may: it ends, and the pod's `restart` says what
    /// follows.
    fn unhealthy(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Container,
        unhealthy: Unhealthy,
    ) {
        let why = unhealthy.probe.failure();
        if unhealthy.ending {
            return self.wait(pod, name, format!("is ending: {why}"), None);
        }
        let starts_again = self
            .desired
            .graph
            .pod(pod)
            .is_some_and(|node| node.restart != Restart::Never);
        let class = if starts_again {
            Class::Restart
        } else {
            Class::Delete
        };
        self.end(
            pod,
            name,
            found,
            &Removal {
                class,
                why: why.to_owned(),
                drift: true,
            },
        );
    }

    /// Why a container has to end and start again.
    fn change(&self, pod: &Name, name: &Name) -> Removal {
        let graph = self.desired.graph;
        let node = graph.container(pod, name).map(|(node, _)| node);
        let image = node.and_then(|node| self.reason(&Key::Image(node.image.clone())));
        let named = |key: Key| self.reason(&key).map(|why| format!("{key}: {why}"));
        let volumes: BTreeSet<&Name> = node
            .into_iter()
            .flat_map(|node| node.mounts.values())
            .map(|m| &m.volume)
            .collect();
        let volumes: Vec<String> = volumes
            .into_iter()
            .filter_map(|volume| named(Key::Volume(pod.clone(), volume.clone())))
            .collect();
        let own = [Key::Container, Key::Files, Key::LiveFiles]
            .map(|key| self.reason(&key(pod.clone(), name.clone())));
        let inits = graph
            .init(pod)
            .filter_map(|(init, ..)| named(Key::Init(pod.clone(), init.clone())));
        let class = match (&image, volumes.is_empty()) {
            // What was written to the volume is not there any more for who mounts it.
            (_, false) => Class::DataRisk,
            (Some(_), true) => Class::Replace,
            (None, true) => Class::Restart,
        };
        let reasons: Vec<String> = volumes
            .into_iter()
            .chain(image)
            .chain(own.into_iter().flatten())
            .chain(inits)
            .collect();
        let why = if reasons.is_empty() {
            "what it needs has changed".to_owned()
        } else {
            reasons.join(", ")
        };
        Removal {
            class,
            why,
            drift: false,
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
        let waits = self.blocker(pod).or_else(|| waits.map(str::to_owned));
        if let Some(waits) = waits {
            self.wait(pod, name, waits, None);
            return;
        }
        let of = |key: fn(Name, Name) -> Key| key(pod.clone(), name.clone());
        let key = if self.desired.graph.container(pod, name).is_some() {
            of(Key::Container)
        } else {
            of(Key::Init)
        };
        let drift = self.is_declared_before(&key);
        let usual = if drift {
            "it is declared and does not run"
        } else {
            "it is declared"
        };
        let step = Step::StartContainer {
            pod: pod.clone(),
            container: name.clone(),
            hash,
            attempt: 0,
        };
        self.add(step, class, why.unwrap_or(usual), drift, after);
    }

    /// The first dependency of `pod` that is not met.
    fn blocker(&self, pod: &Name) -> Option<String> {
        let node = self.desired.graph.pod(pod)?;
        node.depends_on.iter().find_map(|(other, condition)| {
            let containers: Vec<&Name> = self
                .desired
                .graph
                .containers(other)
                .map(|(name, _, _)| name)
                .collect();
            let found = self.observed.pods.get(other);
            let current = |found: &observed::Pod| {
                self.desired
                    .graph
                    .containers(other)
                    .all(|(name, _, hash)| found.current(name, hash).is_some())
            };
            let (met, what) = match condition {
                Condition::Started => (
                    found.is_some_and(|found| found.started(containers)),
                    "started",
                ),
                Condition::Ready => (found.is_some_and(|found| found.ready(containers)), "ready"),
                Condition::Completed => (
                    found.is_some_and(|found| found.completed(containers)),
                    "completed",
                ),
            };
            (!met || !found.is_some_and(current)).then(|| format!("waits for {other} to be {what}"))
        })
    }

    fn limits(&mut self, pod: &Name, name: &Name, found: &observed::Container) {
        let limits = effective_limits(&self.desired.graph.limits(pod, name));
        if limits == found.limits {
            return;
        }
        let key = Key::Limits(pod.clone(), name.clone());
        let drift = self.is_declared_before(&key);
        let why = self
            .reason(&key)
            .unwrap_or_else(|| "the kernel has others".to_owned());
        let step = Step::SetLimits {
            pod: pod.clone(),
            container: name.clone(),
            limits,
        };
        self.add(step, Class::InPlace, why, drift, &[]);
    }

    fn files(&mut self, pod: &Name, name: &Name, found: &observed::Container) {
        let wanted = self.desired.files.get(&(pod.clone(), name.clone()));
        let (Some(wanted), Some(there)) = (wanted, &found.files) else {
            return;
        };
        let wrong = wanted
            .iter()
            .filter(|(path, digest)| there.get(*path) != Some(digest));
        let paths: BTreeSet<String> = wrong.map(|(path, _)| path.clone()).collect();
        if paths.is_empty() {
            return;
        }
        let change = self.reason(&Key::LiveFiles(pod.clone(), name.clone()));
        let drift = change.is_none();
        let why = change.unwrap_or_else(|| "they do not say what they should".to_owned());
        let step = Step::WriteFiles {
            pod: pod.clone(),
            container: name.clone(),
            paths,
        };
        self.add(step, Class::InPlace, why, drift, &[]);
    }

    fn ended(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Container,
        status: i32,
        at: u64,
        after: &[StepId],
    ) {
        let Some(node) = self.desired.graph.pod(pod) else {
            return;
        };
        let verdict = backoff::verdict(node.restart, status == 0, found.attempt, found.started, at);
        let Verdict::Restart { attempt, at } = verdict else {
            return;
        };
        let why = format!("its main process ended with status {status}");
        if at > self.observed.now {
            self.wait(
                pod,
                name,
                format!("{why}; restart {attempt} in a row"),
                Some(at),
            );
            return;
        }
        let hash = found.hash;
        let step = Step::StartContainer {
            pod: pod.clone(),
            container: name.clone(),
            hash,
            attempt,
        };
        self.add(step, Class::Restart, why, true, after);
    }
}

/// A start that is wanted.
#[derive(Clone, Copy)]
struct Start<'a> {
    pod: &'a Name,
    name: &'a Name,
    hash: Digest,
    class: Class,
    why: Option<&'a str>,
    /// What it waits for beside what its pod depends on.
    waits: Option<&'a str>,
}
