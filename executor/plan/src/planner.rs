//! From a graph and an observation to a plan.

use crate::{
    backoff::{self, Verdict},
    observed::{self, Observed, State},
    step::{Class, Plan, PlannedStep, Step, StepId, Waiting},
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{
    Digest, Graph, Key, Name,
    diff::{self, What},
    spec::{Condition, DEFAULT_PIDS, Limits, Network},
    units::Bytes,
};

/// What the host should be: the graph, and what the daemon has leased for it, all as data.
#[derive(Clone, Debug)]
pub struct Desired<'a> {
    pub graph: &'a Graph,
    /// The graph before, to say which field a step comes from and to tell drift from intent. None: the first.
    pub previous: Option<&'a Graph>,
    /// Addresses with prefixes, of every pod on the bridge.
    pub addresses: &'a BTreeMap<Name, BTreeSet<String>>,
    /// The bridge's own addresses.
    pub bridge: &'a BTreeSet<String>,
    /// What the rules of the table are for; see [`Observed::firewall`].
    pub firewall: &'a BTreeSet<String>,
    /// Signal numbers by pod and container, for stops declared in the configuration.
    pub stop_signals: &'a BTreeMap<(Name, Name), i32>,
}

/// Decides; never acts. Same inputs, same plan, on any machine.
pub fn plan(desired: &Desired<'_>, observed: &Observed) -> Plan {
    let changes = desired.previous.map(|previous| diff::diff(previous, desired.graph)).unwrap_or_default();
    let mut planner = Planner { desired, observed, changes, plan: Plan::default(), bridge: None };
    planner.remove_undeclared();
    planner.ensure_bridge();
    for pod in desired.graph.pods() {
        planner.pod(pod);
    }
    planner.firewall();
    planner.remove_bridge();
    planner.plan
}

struct Planner<'a> {
    desired: &'a Desired<'a>,
    observed: &'a Observed,
    changes: Vec<diff::Change>,
    plan: Plan,
    /// The step that makes the bridge, where one is needed.
    bridge: Option<StepId>,
}

impl Planner<'_> {
    fn add(&mut self, step: Step, class: Class, why: impl Into<String>, drift: bool, after: &[StepId]) -> StepId {
        let why = why.into();
        self.plan.steps.push(PlannedStep { step, class, why, drift, after: after.to_vec() });
        self.plan.steps.len() - 1
    }

    fn wait(&mut self, pod: &Name, container: &Name, why: String, until: Option<u64>) {
        self.plan.waiting.push(Waiting { pod: pod.clone(), container: container.clone(), why, until });
    }

    /// Whether the declaration of this node is not new: what differs from it then is drift.
    fn is_declared_before(&self, key: &Key) -> bool {
        let hash = |graph: &Graph| graph.get(key).map(|entry| entry.hash);
        self.desired.previous.is_some_and(|previous| hash(previous) == hash(self.desired.graph))
    }

    fn remove_undeclared(&mut self) {
        for (pod, found) in &self.observed.pods {
            if self.desired.graph.pod(pod).is_some() {
                continue;
            }
            let drift = self.desired.previous.is_some_and(|previous| previous.pod(pod).is_none());
            let why = if drift { "nobody declared it" } else { "it is no longer declared" };
            self.remove_pod(pod, found, Class::Delete, why, drift);
        }
    }

    /// Stops what runs and removes the rest; returns the last step.
    fn remove_pod(&mut self, pod: &Name, found: &observed::Pod, class: Class, why: &str, drift: bool) -> StepId {
        if found.sandbox.is_none() {
            return self.add(Step::SweepPod { pod: pod.clone() }, class, "its shim is gone", true, &[]);
        }
        let running = found.containers.iter().filter(|(_, container)| matches!(container.state, State::Running { .. }));
        let stops: Vec<StepId> =
            running.map(|(name, container)| self.stop(pod, name, container, class, why, drift)).collect();
        self.add(Step::StopSandbox { pod: pod.clone() }, class, why, drift, &stops)
    }

    fn stop(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Container,
        class: Class,
        why: &str,
        drift: bool,
    ) -> StepId {
        let key = (pod.clone(), name.clone());
        // A stop that is declared now counts; of a container that is not declared any more its own, from its start.
        let declared = self.desired.graph.container(pod, name).is_some();
        let timeout = declared.then(|| self.desired.graph.lifecycle(pod, name).stop.timeout).flatten();
        let step = Step::StopContainer {
            pod: pod.clone(),
            container: name.clone(),
            signal: self.desired.stop_signals.get(&key).copied().unwrap_or(found.stop_signal),
            timeout: timeout.map_or(found.stop_timeout, |timeout| timeout.0),
        };
        self.add(step, class, why, drift, &[])
    }

    fn needs_bridge(&self) -> bool {
        let graph = self.desired.graph;
        graph.pods().any(|pod| graph.sandbox(pod).is_some_and(|(node, _)| node.network == Network::Bridge))
    }

    fn ensure_bridge(&mut self) {
        let in_order = self.observed.bridge.as_ref().is_some_and(|found| found.is_superset(self.desired.bridge));
        if self.needs_bridge() && !in_order {
            let drift = !self.observed.pods.is_empty();
            self.bridge = Some(self.add(Step::EnsureBridge, Class::InPlace, "pods need it", drift, &[]));
        }
    }

    fn remove_bridge(&mut self) {
        if self.observed.bridge.is_some() && !self.needs_bridge() {
            let all: Vec<StepId> = (0..self.plan.steps.len()).collect();
            self.add(Step::RemoveBridge, Class::InPlace, "no pod needs it", false, &all);
        }
    }

    fn firewall(&mut self) {
        if self.observed.firewall == *self.desired.firewall {
            return;
        }
        if self.desired.firewall.is_empty() {
            self.add(Step::RemoveFirewall, Class::InPlace, "no port is published", false, &[]);
            return;
        }
        let missing = self.desired.firewall.difference(&self.observed.firewall).count();
        let extra = self.observed.firewall.difference(self.desired.firewall).count();
        let why = format!("{missing} rules are missing and {extra} are not wanted");
        let declared = self.desired.previous.is_some_and(|previous| previous.root() == self.desired.graph.root());
        let after: Vec<StepId> = self.bridge.into_iter().collect();
        self.add(Step::EnsureFirewall, Class::InPlace, why, declared, &after);
    }

    fn pod(&mut self, pod: &Name) {
        let Some((sandbox, hash)) = self.desired.graph.sandbox(pod) else { return };
        let bridged = sandbox.network == Network::Bridge;
        let key = Key::Sandbox(pod.clone());
        let found = self.observed.pods.get(pod);
        let mut after = Vec::new();
        let current = match found.and_then(|found| found.sandbox.as_ref().map(|sandbox| (found, sandbox))) {
            Some((found, sandbox)) if sandbox.hash == hash => Some((found, sandbox)),
            Some((found, _)) => {
                let why = self.reason(&key).unwrap_or_else(|| "its namespaces are not the declared ones".to_owned());
                after.push(self.remove_pod(pod, found, Class::Replace, &why, false));
                None
            }
            None => {
                if let Some(found) = found {
                    after.push(self.remove_pod(pod, found, Class::Replace, "its shim is gone", true));
                }
                None
            }
        };
        match current {
            None => {
                let drift = self.is_declared_before(&key);
                let (class, why) = if after.is_empty() {
                    (Class::Create, if drift { "it is declared and not there" } else { "it is declared" })
                } else {
                    (Class::Replace, "in place of the one before")
                };
                let step = Step::StartSandbox { pod: pod.clone(), hash };
                let mut ready = self.add(step, class, why, drift, &after);
                if bridged {
                    let after: Vec<StepId> = [ready].into_iter().chain(self.bridge).collect();
                    ready =
                        self.add(Step::EnsureNetwork { pod: pod.clone() }, class, "it needs an address", drift, &after);
                }
                for (name, _, hash) in self.desired.graph.containers(pod) {
                    self.start_new(pod, name, hash, class, &[ready], None);
                }
            }
            Some((found, sandbox)) => {
                let wanted = self.desired.addresses.get(pod);
                let mut ready = Vec::new();
                if bridged && sandbox.network.as_ref() != wanted {
                    let after: Vec<StepId> = self.bridge.into_iter().collect();
                    let step = Step::EnsureNetwork { pod: pod.clone() };
                    ready.push(self.add(step, Class::InPlace, "its link is not as declared", true, &after));
                }
                self.containers(pod, found, &ready);
            }
        }
    }

    /// The containers of a pod whose sandbox is as declared.
    fn containers(&mut self, pod: &Name, found: &observed::Pod, after: &[StepId]) {
        for (name, container) in &found.containers {
            if self.desired.graph.container(pod, name).is_none() {
                self.stop(pod, name, container, Class::Delete, "it is no longer declared", false);
            }
        }
        for (name, _, hash) in self.desired.graph.containers(pod) {
            match found.containers.get(name) {
                None => self.start_new(pod, name, hash, Class::Create, after, None),
                Some(container) if container.hash != hash => self.change(pod, name, hash, container, after),
                Some(container) => match container.state {
                    State::Running { .. } => self.limits(pod, name, container),
                    State::Exited { status, at } => self.ended(pod, name, container, status, at, after),
                },
            }
        }
    }

    fn change(&mut self, pod: &Name, name: &Name, hash: Digest, found: &observed::Container, after: &[StepId]) {
        let image = self.desired.graph.container(pod, name).map(|(node, _)| Key::Image(node.image.clone()));
        let keys = [Key::Container(pod.clone(), name.clone()), Key::Files(pod.clone(), name.clone())];
        let replaced = image.as_ref().and_then(|key| self.reason(key));
        let fields: Vec<String> = keys.iter().filter_map(|key| self.reason(key)).collect();
        let why = match (&replaced, fields.is_empty()) {
            (Some(image), _) => image.clone(),
            (None, false) => fields.join(", "),
            (None, true) => "what it needs has changed".to_owned(),
        };
        let class = if replaced.is_some() { Class::Replace } else { Class::Restart };
        let stop = self.stop(pod, name, found, class, &why, false);
        let after: Vec<StepId> = after.iter().copied().chain([stop]).collect();
        self.start_new(pod, name, hash, class, &after, Some(why));
    }

    /// Starts a container that does not run, once what its pod depends on is there.
    fn start_new(
        &mut self,
        pod: &Name,
        name: &Name,
        hash: Digest,
        class: Class,
        after: &[StepId],
        why: Option<String>,
    ) {
        if let Some(blocker) = self.blocker(pod) {
            self.wait(pod, name, blocker, None);
            return;
        }
        let key = Key::Container(pod.clone(), name.clone());
        let drift = self.is_declared_before(&key);
        let usual = if drift { "it is declared and does not run" } else { "it is declared" };
        let step = Step::StartContainer { pod: pod.clone(), container: name.clone(), hash, attempt: 0 };
        self.add(step, class, why.unwrap_or_else(|| usual.to_owned()), drift, after);
    }

    /// The first dependency of `pod` that is not met.
    fn blocker(&self, pod: &Name) -> Option<String> {
        let node = self.desired.graph.pod(pod)?;
        node.depends_on.iter().find_map(|(other, condition)| {
            let containers: Vec<&Name> = self.desired.graph.containers(other).map(|(name, _, _)| name).collect();
            let hashes: BTreeMap<&Name, Digest> =
                self.desired.graph.containers(other).map(|(name, _, hash)| (name, hash)).collect();
            let found = self.observed.pods.get(other);
            let current = |found: &observed::Pod| {
                hashes.iter().all(|(name, hash)| found.containers.get(*name).is_some_and(|one| one.hash == *hash))
            };
            let (met, what) = match condition {
                Condition::Started => (found.is_some_and(|found| found.started(containers)), "started"),
                Condition::Ready => (found.is_some_and(|found| found.ready(containers)), "ready"),
                Condition::Completed => (found.is_some_and(|found| found.completed(containers)), "completed"),
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
        let why = self.reason(&key).unwrap_or_else(|| "the kernel has others".to_owned());
        let step = Step::SetLimits { pod: pod.clone(), container: name.clone(), limits };
        self.add(step, Class::InPlace, why, drift, &[]);
    }

    fn ended(&mut self, pod: &Name, name: &Name, found: &observed::Container, status: i32, at: u64, after: &[StepId]) {
        let Some(node) = self.desired.graph.pod(pod) else { return };
        let verdict = backoff::verdict(node.restart, status == 0, found.attempt, found.started, at);
        let Verdict::Restart { attempt, at } = verdict else { return };
        let why = format!("its main process ended with status {status}");
        if at > self.observed.now {
            self.wait(pod, name, format!("{why}; restart {attempt} in a row"), Some(at));
            return;
        }
        let hash = found.hash;
        let step = Step::StartContainer { pod: pod.clone(), container: name.clone(), hash, attempt };
        self.add(step, Class::Restart, why, true, after);
    }

    /// Which fields of a node have changed, for people.
    fn reason(&self, key: &Key) -> Option<String> {
        let change = self.changes.iter().find(|change| change.key == *key)?;
        Some(match &change.what {
            What::Added => format!("{key} is new"),
            What::Removed => format!("{key} is gone"),
            What::Modified { fields } => {
                let fields: Vec<&str> = fields.iter().map(|field| field.field.as_str()).collect();
                format!("{} changed", fields.join(", "))
            }
        })
    }
}

/// What the kernel counts memory in, in bytes.
const PAGE: u64 = 4096;

/// The limits the kernel is told: those declared, and a bound on processes in any case. Memory is rounded down to
/// whole pages as the kernel does it, so that what is read back is what was meant.
pub fn effective_limits(declared: &Limits) -> Limits {
    Limits {
        memory: declared.memory.map(|memory| Bytes(memory.0 / PAGE * PAGE)),
        pids: Some(declared.pids.unwrap_or(DEFAULT_PIDS)),
        cpu: declared.cpu,
    }
}
