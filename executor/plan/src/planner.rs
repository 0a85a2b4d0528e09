//! From a graph and an observation to a plan: pods, the bridge, the rules. Their containers are in
//! `containers`.

use crate::{
    backoff,
    health::PATIENCE,
    observed::{self, Observed, State, Unresponsive},
    step::{Class, Plan, PlannedStep, Step, StepId, Waiting},
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{
    Digest, Graph, Key, Name,
    diff::{self, What},
    spec::{DEFAULT_PIDS, Limits, Network},
    units::Bytes,
};

/// What the host should be: the graph, and what the daemon has leased for it, all as data.
#[derive(Clone, Debug)]
pub struct Desired<'a> {
    pub graph: &'a Graph,
    /// The graph before, to say which field a step comes from and to tell drift from intent. None:
    /// the first.
    pub previous: Option<&'a Graph>,
    /// Addresses with prefixes, of every pod on the bridge.
    pub addresses: &'a BTreeMap<Name, BTreeSet<String>>,
    /// The bridge's own addresses.
    pub bridge: &'a BTreeSet<String>,
    /// What the table has to hold; see [`Observed::firewall`].
    pub firewall: &'a BTreeSet<String>,
    /// Signal numbers by pod and container, for stops declared in the configuration.
    pub stop_signals: &'a BTreeMap<(Name, Name), i32>,
    /// What the files that Tank writes for a container have to say, by pod and container, then by
    /// path.
    pub files: &'a BTreeMap<(Name, Name), BTreeMap<String, Digest>>,
}

/// Decides; never acts. Same inputs, same plan, on any machine.
pub fn plan(desired: &Desired<'_>, observed: &Observed) -> Plan {
    let changes = desired
        .previous
        .map(|previous| diff::diff(previous, desired.graph))
        .unwrap_or_default();
    let mut planner = Planner {
        desired,
        observed,
        changes,
        plan: Plan::default(),
        network: Vec::new(),
    };
    let removed = planner.removals();
    planner.resume_undeclared();
    planner.ensure_firewall();
    planner.ensure_bridge();
    for pod in desired.graph.pods() {
        planner.pod(pod, removed.get(pod).copied());
    }
    planner.remove_bridge();
    backoff::hold_back(planner.plan, &observed.failures, observed.now)
}

/// How long a shim may be silent, in milliseconds, before it is killed with all that runs in it and
/// made anew. A disk that stalls may hold a log up for seconds.
pub const SILENCE: u64 = 15_000;

/// What to do about a shim of which nothing is known.
enum Care {
    Wait(Option<u64>),
    Resume,
    Replace,
}

impl Care {
    fn of(unresponsive: &Unresponsive, now: u64) -> Self {
        match unresponsive {
            // An event tells.
            Unresponsive::Busy | Unresponsive::Unreadable { .. } => Self::Wait(None),
            Unresponsive::Silent { since } if now >= since.saturating_add(SILENCE) => Self::Replace,
            Unresponsive::Silent { since } => Self::Wait(Some(since.saturating_add(SILENCE))),
            Unresponsive::Halted { .. } => Self::Resume,
        }
    }
}

/// Why something has to go.
pub(crate) struct Removal {
    pub(crate) class: Class,
    pub(crate) why: String,
    pub(crate) drift: bool,
}

pub(crate) struct Planner<'a> {
    pub(crate) desired: &'a Desired<'a>,
    pub(crate) observed: &'a Observed,
    pub(crate) changes: Vec<diff::NodeChange>,
    plan: Plan,
    /// The steps that a pod's link comes after: the rules, then the bridge.
    network: Vec<StepId>,
}

impl Planner<'_> {
    pub(crate) fn add(
        &mut self,
        step: Step,
        class: Class,
        why: impl Into<String>,
        drift: bool,
        after: &[StepId],
    ) -> StepId {
        let why = why.into();
        self.plan.steps.push(PlannedStep {
            step,
            class,
            why,
            drift,
            after: after.to_vec(),
        });
        self.plan.steps.len() - 1
    }

    pub(crate) fn wait(&mut self, pod: &Name, container: &Name, why: String, until: Option<u64>) {
        self.plan.waiting.push(Waiting {
            pod: pod.clone(),
            container: container.clone(),
            why,
            until,
        });
    }

    /// Whether the declaration of this node is not new: what differs from it then is drift.
    pub(crate) fn is_declared_before(&self, key: &Key) -> bool {
        let hash = |graph: &Graph| graph.get(key).map(|entry| entry.hash);
        self.desired
            .previous
            .is_some_and(|previous| hash(previous) == hash(self.desired.graph))
    }

    /// Ends every pod that is not declared any more or has to become another one: who depends on
    /// others first.
    fn removals(&mut self) -> BTreeMap<Name, StepId> {
        let mut left: BTreeMap<Name, Removal> = BTreeMap::new();
        for (pod, found) in &self.observed.pods {
            if let Some(removal) = self.removal(pod, found) {
                left.insert(pod.clone(), removal);
            }
        }
        let dependents = self.dependents(&left);
        let mut waits: BTreeMap<Name, usize> = left
            .keys()
            .map(|pod| (pod.clone(), dependents.get(pod).map_or(0, BTreeSet::len)))
            .collect();
        let mut ready: BTreeSet<Name> = waits
            .iter()
            .filter(|(_, count)| **count == 0)
            .map(|(pod, _)| pod.clone())
            .collect();
        let mut removed: BTreeMap<Name, StepId> = BTreeMap::new();
        // The checks refuse cycles; should there be one, it is cut anywhere.
        while let Some(pod) = ready.pop_first().or_else(|| left.keys().next().cloned()) {
            let Some(removal) = left.remove(&pod) else {
                continue;
            };
            let before = dependents.get(&pod).into_iter().flatten();
            let after: Vec<StepId> = before
                .filter_map(|other| removed.get(other))
                .copied()
                .collect();
            for dependency in self.dependencies(&pod) {
                if let Some(count) = waits.get_mut(dependency) {
                    *count = count.saturating_sub(1);
                    if *count == 0 && left.contains_key(dependency) {
                        ready.insert(dependency.clone());
                    }
                }
            }
            let Some(found) = self.observed.pods.get(&pod) else {
                continue;
            };
            let id = self.remove_pod(&pod, found, &removal, &after);
            removed.insert(pod, id);
        }
        removed
    }

    /// Whether, and why, what is there under a pod's name has to go.
    fn removal(&self, pod: &Name, found: &observed::Pod) -> Option<Removal> {
        let removal = |class, why: &str, drift| {
            Some(Removal {
                class,
                why: why.to_owned(),
                drift,
            })
        };
        let care = found
            .unresponsive
            .as_ref()
            .map(|why| (why, self.care(pod, why)));
        if let Some((_, Care::Resume)) = care {
            // It may yet say what it holds, and end it as it should.
            return None;
        }
        let Some((_, hash)) = self.desired.graph.sandbox(pod) else {
            let drift = self
                .desired
                .previous
                .is_some_and(|previous| previous.pod(pod).is_none());
            return removal(
                Class::Delete,
                if drift {
                    "nobody declared it"
                } else {
                    "it is no longer declared"
                },
                drift,
            );
        };
        match care {
            Some((why, Care::Replace)) => return removal(Class::Replace, &why.to_string(), true),
            Some(_) => return None,
            None => {}
        }
        match &found.sandbox {
            None => removal(Class::Replace, "its shim is gone", true),
            Some(sandbox) if sandbox.hash != hash => {
                let why = self.reason(&Key::Sandbox(pod.clone()));
                removal(
                    Class::Replace,
                    why.as_deref()
                        .unwrap_or("its namespaces are not the declared ones"),
                    false,
                )
            }
            // Left by an older Tank; only what it can't do makes it go.
            Some(sandbox) if sandbox.version < SHIM_FILES && self.has_live_files(pod) => removal(
                Class::Replace,
                "its shim is too old to write files under a container",
                false,
            ),
            Some(_) => None,
        }
    }

    fn has_live_files(&self, pod: &Name) -> bool {
        self.desired
            .graph
            .containers(pod)
            .any(|(_, node, _)| !node.live_files.is_empty())
    }

    /// What a pod depends on, as it is declared, or was where it is not any more.
    fn dependencies(&self, pod: &Name) -> BTreeSet<&Name> {
        let graphs = self
            .desired
            .previous
            .into_iter()
            .chain([self.desired.graph]);
        let nodes = graphs.filter_map(|graph| graph.pod(pod));
        nodes
            .flat_map(|node| node.depends_on.keys())
            .filter(|other| *other != pod)
            .collect()
    }

    /// Of each pod that goes, those that go with it and depend on it.
    fn dependents(&self, going: &BTreeMap<Name, Removal>) -> BTreeMap<Name, BTreeSet<Name>> {
        let mut dependents: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
        for pod in going.keys() {
            for dependency in self
                .dependencies(pod)
                .into_iter()
                .filter(|other| going.contains_key(*other))
            {
                dependents
                    .entry(dependency.clone())
                    .or_default()
                    .insert(pod.clone());
            }
        }
        dependents
    }

    /// Stops what runs and removes the rest; returns the last step.
    fn remove_pod(
        &mut self,
        pod: &Name,
        found: &observed::Pod,
        removal: &Removal,
        after: &[StepId],
    ) -> StepId {
        let Removal { class, why, drift } = removal;
        if found.sandbox.is_none() {
            let why = found
                .unresponsive
                .as_ref()
                .map_or_else(|| "its shim is gone".to_owned(), ToString::to_string);
            return self.add(
                Step::SweepPod { pod: pod.clone() },
                *class,
                why,
                true,
                after,
            );
        }
        let running = found
            .containers
            .iter()
            .filter(|(_, container)| matches!(container.state, State::Running { .. }));
        let stops: Vec<StepId> = running
            .map(|(name, container)| self.stop(pod, name, container, removal, after))
            .collect();
        let after = if stops.is_empty() { after } else { &stops };
        self.add(
            Step::StopSandbox { pod: pod.clone() },
            *class,
            why.as_str(),
            *drift,
            after,
        )
    }

    pub(crate) fn stop(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Container,
        removal: &Removal,
        after: &[StepId],
    ) -> StepId {
        let (signal, timeout) = self.stop_of(pod, name, found);
        let step = Step::StopContainer {
            pod: pod.clone(),
            container: name.clone(),
            signal,
            timeout,
        };
        self.resumed_first(pod, name, found, removal, after, step)
    }

    /// Has a container end without waiting for it.
    pub(crate) fn end(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Container,
        removal: &Removal,
    ) -> StepId {
        let (signal, timeout) = self.stop_of(pod, name, found);
        let step = Step::EndContainer {
            pod: pod.clone(),
            container: name.clone(),
            signal,
            timeout,
        };
        self.resumed_first(pod, name, found, removal, &[], step)
    }

    /// The signal by which a container ends, and the milliseconds it has for that.
    fn stop_of(&self, pod: &Name, name: &Name, found: &observed::Container) -> (i32, u64) {
        let key = (pod.clone(), name.clone());
        // A stop that is declared now counts; of a container that is not declared any more its own,
        // from its start.
        let timeout = self
            .desired
            .graph
            .process(pod, name)
            .and_then(|_| self.desired.graph.lifecycle(pod, name).stop.timeout);
        let signal = self
            .desired
            .stop_signals
            .get(&key)
            .copied()
            .unwrap_or(found.stop_signal);
        (
            signal,
            timeout.map_or(found.stop_timeout, |timeout| timeout.0),
        )
    }

    /// A step that signals, after one that has a halted container hear it: what is stopped or
    /// frozen hears no signal but the last.
    fn resumed_first(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Container,
        removal: &Removal,
        after: &[StepId],
        step: Step,
    ) -> StepId {
        let Removal { class, why, drift } = removal;
        let mut after = after.to_vec();
        if found.halted {
            let step = Step::Resume {
                pod: pod.clone(),
                container: name.clone(),
            };
            after = vec![self.add(step, *class, why.as_str(), *drift, &after)];
        }
        self.add(step, *class, why.as_str(), *drift, &after)
    }

    fn needs_bridge(&self) -> bool {
        let graph = self.desired.graph;
        graph.pods().any(|pod| {
            graph
                .sandbox(pod)
                .is_some_and(|(node, _)| node.network == Network::Bridge)
        })
    }

    /// The rules, which name the bridge and need none: with the bridge the host begins to forward,
    /// and takes packets to 127.0.0.0/8 that come over it. Nothing may be able to use that before
    /// there are rules against it.
    fn ensure_firewall(&mut self) {
        let (wanted, found) = (self.desired.firewall, &self.observed.firewall);
        if found == wanted || wanted.is_empty() {
            return;
        }
        let missing = wanted.difference(found).count();
        let extra = found.difference(wanted).count();
        let why = format!("{missing} rules are missing and {extra} are not wanted");
        let declared = self
            .desired
            .previous
            .is_some_and(|previous| previous.root() == self.desired.graph.root());
        let step = self.add(Step::EnsureFirewall, Class::InPlace, why, declared, &[]);
        self.network.push(step);
    }

    fn ensure_bridge(&mut self) {
        let in_order = self
            .observed
            .bridge
            .as_ref()
            .is_some_and(|found| found.is_superset(self.desired.bridge));
        if self.needs_bridge() && !in_order {
            let drift = !self.observed.pods.is_empty();
            let after = self.network.clone();
            let step = self.add(
                Step::EnsureBridge,
                Class::InPlace,
                "pods need it",
                drift,
                &after,
            );
            self.network.push(step);
        }
    }

    /// In the opposite order: the rules go when there is no bridge any more.
    fn remove_bridge(&mut self) {
        let mut after = Vec::new();
        if self.observed.bridge.is_some() && !self.needs_bridge() {
            let all: Vec<StepId> = (0..self.plan.steps.len()).collect();
            after.push(self.add(
                Step::RemoveBridge,
                Class::InPlace,
                "no pod needs it",
                false,
                &all,
            ));
        }
        if self.desired.firewall.is_empty() && !self.observed.firewall.is_empty() {
            self.add(
                Step::RemoveFirewall,
                Class::InPlace,
                "no port is published",
                false,
                &after,
            );
        }
    }

    fn pod(&mut self, pod: &Name, removed: Option<StepId>) {
        let Some((sandbox, hash)) = self.desired.graph.sandbox(pod) else {
            return;
        };
        let bridged = sandbox.network == Network::Bridge;
        let found = self.observed.pods.get(pod).filter(|_| removed.is_none());
        if let Some(unresponsive) = found.and_then(|found| found.unresponsive.as_ref()) {
            return self.unresponsive(pod, unresponsive);
        }
        match found.and_then(|found| found.sandbox.as_ref().map(|sandbox| (found, sandbox))) {
            None => {
                let drift = self.is_declared_before(&Key::Sandbox(pod.clone()));
                let (class, why) = match removed {
                    Some(_) => (Class::Replace, "in place of the one before"),
                    None if drift => (Class::Create, "it is declared and not there"),
                    None => (Class::Create, "it is declared"),
                };
                let step = Step::StartSandbox {
                    pod: pod.clone(),
                    hash,
                };
                let mut ready = self.add(step, class, why, drift, removed.as_slice());
                if bridged {
                    let after: Vec<StepId> = [ready]
                        .into_iter()
                        .chain(self.network.iter().copied())
                        .collect();
                    let step = Step::EnsureNetwork { pod: pod.clone() };
                    ready = self.add(step, class, "it needs an address", drift, &after);
                }
                self.containers(pod, &observed::Pod::default(), class, &[ready]);
            }
            Some((found, sandbox)) => {
                let mut ready = Vec::new();
                if bridged && sandbox.network.as_ref() != self.desired.addresses.get(pod) {
                    let after = self.network.clone();
                    let step = Step::EnsureNetwork { pod: pod.clone() };
                    ready.push(self.add(
                        step,
                        Class::InPlace,
                        "its link is not as declared",
                        true,
                        &after,
                    ));
                }
                self.containers(pod, found, Class::Create, &ready);
            }
        }
    }

    /// Nothing is known of the pod, so nothing is done to it but what makes it known again.
    fn unresponsive(&mut self, pod: &Name, unresponsive: &Unresponsive) {
        let mut until = None;
        match self.care(pod, unresponsive) {
            Care::Wait(at) => until = at,
            Care::Resume => self.resume_shim(pod, unresponsive),
            // Its removal comes first.
            Care::Replace => return,
        }
        for (name, ..) in self.desired.graph.containers(pod) {
            self.wait(pod, name, unresponsive.to_string(), until);
        }
    }

    /// A shim that has to go is let run on first.
    fn resume_undeclared(&mut self) {
        for (pod, found) in &self.observed.pods {
            if self.desired.graph.pod(pod).is_none()
                && let Some(unresponsive) = &found.unresponsive
                && let Care::Resume = self.care(pod, unresponsive)
            {
                self.resume_shim(pod, unresponsive);
            }
        }
    }

    /// What to do about a shim. One that does not go on though it was let is like one that is
    /// silent.
    fn care(&self, pod: &Name, unresponsive: &Unresponsive) -> Care {
        let resume = Step::ResumeShim { pod: pod.clone() };
        let in_vain = self
            .observed
            .failures
            .iter()
            .any(|failed| failed.step == resume && failed.count >= PATIENCE);
        match Care::of(unresponsive, self.observed.now) {
            Care::Resume if in_vain => Care::Replace,
            care => care,
        }
    }

    fn resume_shim(&mut self, pod: &Name, unresponsive: &Unresponsive) {
        let step = Step::ResumeShim { pod: pod.clone() };
        self.add(step, Class::InPlace, unresponsive.to_string(), true, &[]);
    }

    /// Which fields of a node have changed, for people.
    pub(crate) fn reason(&self, key: &Key) -> Option<String> {
        // In the order of their keys, as `diff` gives them.
        let found = self
            .changes
            .binary_search_by(|change| change.key.cmp(key))
            .ok()?;
        let change = &self.changes[found];
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

/// The first version of a shim's messages that shows a container's files.
pub const SHIM_FILES: u32 = 2;

/// What the kernel counts memory in, in bytes.
const PAGE: u64 = 4096;

/// The limits the kernel is told: those declared, and a bound on processes in any case. Memory is
/// rounded down to whole pages as the kernel does it, so that what is read back is what was meant.
pub fn effective_limits(declared: &Limits) -> Limits {
    Limits {
        memory: declared.memory.map(|memory| Bytes(memory.0 / PAGE * PAGE)),
        pids: Some(declared.pids.unwrap_or(DEFAULT_PIDS)),
        cpu: declared.cpu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{FailedStep, Pod};
    use tank_model::Config;

    const NOW: u64 = 1_000_000;

    /// What is planned, and what waits until when, for the pod `web`, which is unresponsive.
    fn planned(
        declared: bool,
        unresponsive: Unresponsive,
        failures: Vec<FailedStep>,
    ) -> (Vec<String>, Vec<Option<u64>>) {
        let mut config = serde_json::json!({ "pods": {} });
        if declared {
            config["pods"]["web"] =
                serde_json::json!({ "network": "none", "containers": { "app": { "image": "x" } } });
        }
        let config: Config = serde_json::from_value(config).expect("a configuration");
        let graph = Graph::build(&config, |_| None).expect("a graph");
        let (none, addresses) = (BTreeSet::new(), BTreeMap::new());
        let (signals, files) = (BTreeMap::new(), BTreeMap::new());
        let desired = Desired {
            graph: &graph,
            previous: Some(&graph),
            addresses: &addresses,
            bridge: &none,
            firewall: &none,
            stop_signals: &signals,
            files: &files,
        };
        let web = Pod {
            unresponsive: Some(unresponsive),
            ..Pod::default()
        };
        let pods = BTreeMap::from([(Name::new("web").expect("a name"), web)]);
        let plan = plan(
            &desired,
            &Observed {
                now: NOW,
                pods,
                failures,
                ..Observed::default()
            },
        );
        (
            plan.steps
                .iter()
                .map(|step| step.step.to_string())
                .collect(),
            plan.waiting.iter().map(|w| w.until).collect(),
        )
    }

    #[test]
    fn a_shim_that_says_nothing_is_waited_for_let_run_on_or_replaced() {
        let silent = |since| Unresponsive::Silent { since };
        assert_eq!(
            planned(true, silent(NOW - SILENCE + 1), vec![]),
            (vec![], vec![Some(NOW + 1)])
        );
        let replaced = [
            "sweep what is left of pod web",
            "create pod web",
            "start web/app",
        ]
        .map(str::to_owned);
        assert_eq!(
            planned(true, silent(NOW - SILENCE), vec![]),
            (replaced.to_vec(), vec![])
        );
        assert_eq!(
            planned(true, Unresponsive::Busy, vec![]),
            (vec![], vec![None])
        );
        assert_eq!(
            planned(
                true,
                Unresponsive::Unreadable { why: String::new() },
                vec![]
            ),
            (vec![], vec![None])
        );
        // However long it was stopped, what runs in it need not end; unless that is in vain.
        let resumed = vec!["resume the shim of pod web".to_owned()];
        assert_eq!(
            planned(true, Unresponsive::Halted { since: 0 }, vec![]),
            (resumed.clone(), vec![None])
        );
        let step = Step::ResumeShim {
            pod: Name::new("web").expect("a name"),
        };
        let in_vain = FailedStep {
            step,
            count: PATIENCE,
            at: 0,
            why: String::new(),
        };
        let halted = planned(true, Unresponsive::Halted { since: 0 }, vec![in_vain]);
        assert_eq!(halted, (replaced.to_vec(), vec![]));
        // What has to go anyway is not waited for, but let run on, so that it may end as it should.
        assert_eq!(
            planned(false, silent(NOW), vec![]),
            (replaced[..1].to_vec(), vec![])
        );
        assert_eq!(
            planned(false, Unresponsive::Halted { since: 0 }, vec![]),
            (resumed, vec![])
        );
    }
}
