//! From a target and an observation to a plan: pods, bridges, the rules. Their containers are in
//! `containers`.

mod addresses;
mod by_hand;
mod data;
mod dependencies;
mod files;
mod flows;
mod network;
mod nics;
mod removals;
mod runs;
mod shims;
mod sizes;
#[cfg(test)]
mod tests;

pub use shims::SILENCE;

use crate::{
    backoff,
    observed::{self, Observed},
    report::{Blocked, Report, Waiting},
    step::{Class, Plan, PlannedStep, Step, StepId},
    target::{PodNic, Target, TargetError},
    unmet::{left_behind, unmet},
    why::{Changed, WaitsFor, Why},
};
use addresses::Holders;
use data::DataSteps;
use sizes::SizeSteps;
use std::collections::BTreeMap;
use tank_model::{Graph, Key, Name, diff};

/// The first version of a shim's messages that shows a container's files.
pub const SHIM_FILES: u32 = 2;

/// Decides; never acts. Same inputs, same plan, on any machine.
pub fn plan(target: &Target<'_>, observed: &Observed) -> (Plan, Report) {
    let changes = target
        .previous
        .map(|previous| diff::diff(previous, target.graph))
        .unwrap_or_default();
    let mut planner = Planner {
        target,
        observed,
        changes,
        plan: Plan::default(),
        report: Report::default(),
        network: Vec::new(),
        bridges: BTreeMap::new(),
        rules: None,
        names: None,
        nics: BTreeMap::new(),
        unlinked: Vec::new(),
        linked: BTreeMap::new(),
        holders: Holders::default(),
        data: DataSteps::default(),
        sizes: SizeSteps::default(),
        by_hand: BTreeMap::new(),
    };
    planner.resolve_nics();
    let removed = planner.removals();
    planner.holders = planner.holders(&removed);
    planner.resume_undeclared();
    planner.remove_host_links();
    planner.ensure_firewall();
    planner.ensure_bridges();
    planner.ensure_names();
    planner.ensure_host_links();
    planner.limit_volumes();
    planner.end_by_hand(&removed);
    for pod in target.graph.pods() {
        planner.pod(pod, removed.get(pod).copied());
    }
    planner.end_flows(&removed);
    planner.narrow_host_links(&removed);
    let unbridged = planner.remove_networks(&removed);
    planner.narrow_firewall(&removed, &unbridged);
    planner.remove_bridges();
    let Planner {
        plan,
        mut report,
        data,
        sizes,
        ..
    } = planner;
    report.unmet = unmet(target.graph, observed);
    let left = left_behind(target.graph, target.previous);
    let beside = data.without.into_iter().chain(sizes.unmet).chain(left);
    report.unmet.extend(beside);
    let mut plan = backoff::hold_back(plan, &mut report, &observed.failures, observed.now);
    let starts = |planned: &PlannedStep| matches!(planned.step, Step::StartContainer { .. });
    if plan.steps.iter().any(starts) {
        plan.host_writable = target.host_writable();
    }
    (plan, report)
}

/// Why something has to go.
#[derive(Clone)]
pub(crate) struct Removal {
    pub(crate) class: Class,
    pub(crate) why: Why,
    pub(crate) drift: bool,
}

impl Removal {
    /// Of a container that is as it is declared and has a volume mounted that has to be at rest.
    pub(crate) fn for_rest_of(volume: &Name) -> Self {
        Self {
            class: Class::Restart,
            why: Why::VolumeAtRest {
                volume: volume.clone(),
            },
            drift: false,
        }
    }
}

pub(crate) struct Planner<'a> {
    pub(crate) target: &'a Target<'a>,
    pub(crate) observed: &'a Observed,
    pub(crate) changes: Vec<diff::NodeChange>,
    pub(crate) plan: Plan,
    report: Report,
    /// The steps that a pod's links come after: the rules and the names.
    network: Vec<StepId>,
    /// The steps by which bridges are as they should be, by their names.
    bridges: BTreeMap<String, StepId>,
    /// The step by which the rules are as they should be, if there is one.
    rules: Option<StepId>,
    /// The step by which the name server says what it should, if there is one.
    pub(crate) names: Option<StepId>,
    /// The interfaces of pods' own, as they have to be.
    nics: BTreeMap<Name, Result<Vec<PodNic>, TargetError>>,
    /// The steps by which host links go that nobody needs: the rules about them go after them.
    unlinked: Vec<StepId>,
    /// The steps by which host links are as they should be, by their names.
    linked: BTreeMap<String, StepId>,
    /// Who has addresses that others get only when they are gone.
    holders: Holders,
    /// What is done of the data of volumes.
    pub(crate) data: DataSteps,
    /// What is done of the sizes of volumes.
    sizes: SizeSteps,
    /// The steps by which containers end that somebody stopped or restarted by hand, with why, by
    /// pod and container.
    pub(crate) by_hand: BTreeMap<(Name, Name), (StepId, Removal)>,
}

impl Planner<'_> {
    pub(crate) fn add(
        &mut self,
        step: Step,
        class: Class,
        why: Why,
        drift: bool,
        after: &[StepId],
    ) -> StepId {
        self.plan.steps.push(PlannedStep {
            step,
            class,
            why,
            drift,
            after: after.to_vec(),
        });
        self.plan.steps.len() - 1
    }

    pub(crate) fn wait(&mut self, pod: &Name, container: &Name, why: WaitsFor, until: Option<u64>) {
        self.report.waiting.push(Waiting {
            pod: pod.clone(),
            container: container.clone(),
            why,
            until,
        });
    }

    /// Reports what can't be started from what is declared.
    pub(crate) fn block(&mut self, pod: &Name, container: Option<&Name>, why: TargetError) {
        let blocked = Blocked {
            pod: pod.clone(),
            container: container.cloned(),
            why,
        };
        if !self.report.blocked.contains(&blocked) {
            self.report.blocked.push(blocked);
        }
    }

    /// Whether the declaration of this node is not new: what differs from it then is drift.
    pub(crate) fn is_declared_before(&self, key: &Key) -> bool {
        let hash = |graph: &Graph| graph.get(key).map(|entry| entry.hash);
        self.target
            .previous
            .is_some_and(|previous| hash(previous) == hash(self.target.graph))
    }

    /// Whether nothing at all of the declaration is new, and nothing that was asked for by hand.
    fn is_declared_as_before(&self) -> bool {
        let previous = self.target.previous.map(Graph::root);
        previous == Some(self.target.graph.root()) && !self.target.overrides.are_new(self.observed)
    }

    pub(crate) fn stop(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Run,
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
        found: &observed::Run,
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

    /// The signal by which a container ends, and the milliseconds it has for that. A stop that is
    /// declared now counts; of a container that is not declared any more its own, from its start.
    fn stop_of(&self, pod: &Name, name: &Name, found: &observed::Run) -> (i32, u64) {
        let (signal, timeout) = self.target.stop(pod, name);
        let by_hand = self.target.overrides.timeout(pod, name, found);
        (
            signal.unwrap_or(found.stop_signal),
            by_hand.or(timeout).unwrap_or(found.stop_timeout),
        )
    }

    /// A step that signals, after one that has a halted container hear it: what is stopped or
    /// frozen hears no signal but the last.
    fn resumed_first(
        &mut self,
        pod: &Name,
        name: &Name,
        found: &observed::Run,
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
            after = vec![self.add(step, *class, why.clone(), *drift, &after)];
        }
        self.add(step, *class, why.clone(), *drift, &after)
    }

    fn pod(&mut self, pod: &Name, removed: Option<StepId>) {
        if self.target.graph.sandbox(pod).is_none() {
            return;
        }
        let found = self.observed.pods.get(pod).filter(|_| removed.is_none());
        if let Some(unresponsive) = found.and_then(|found| found.unresponsive.as_ref()) {
            return self.unresponsive(pod, unresponsive);
        }
        match found.and_then(|found| found.sandbox.as_ref().map(|sandbox| (found, sandbox))) {
            None => self.new_pod(pod, removed),
            Some((found, _)) if self.is_kept(pod, found) => {
                if let Some(why) = self.unmakeable(pod) {
                    self.block(pod, None, why);
                }
            }
            Some((found, sandbox)) => {
                let mut ready = Vec::new();
                if self.target.is_bridged(pod) && !self.target.is_connected(pod, sandbox) {
                    if self.waits_for_address(pod) {
                        return;
                    }
                    match self.connect(pod, Class::InPlace, Why::LinkDiffers, true, &[]) {
                        Ok(id) => ready.push(id),
                        Err(why) => return self.block(pod, None, why),
                    }
                }
                let drift = (Class::InPlace, Why::LinkDiffers, true);
                match self.connect_nics(pod, &sandbox.nics, drift, &[]) {
                    Ok(steps) => ready.extend(steps),
                    Err(why) => return self.block(pod, None, why),
                }
                self.containers(pod, found, Class::Create, &ready);
            }
        }
    }

    /// A pod that is not there, or is not any more after the step `removed`.
    fn new_pod(&mut self, pod: &Name, removed: Option<StepId>) {
        if self.target.overrides.is_stopped(self.target.graph, pod) {
            return;
        }
        let Some((_, hash)) = self.target.graph.sandbox(pod) else {
            return;
        };
        let spec = match self.target.sandbox(pod) {
            Ok(spec) => spec,
            Err(why) => return self.block(pod, None, why),
        };
        if let Some(Err(why)) = self.nics.get(pod) {
            let why = why.clone();
            return self.block(pod, None, why);
        }
        if self.waits_for_address(pod) {
            return;
        }
        let drift = self.is_declared_before(&Key::Sandbox(pod.clone()));
        let (class, why) = match removed {
            Some(_) => (Class::Replace, Why::Replaces),
            None if drift => (Class::Create, Why::PodMissing),
            None => (Class::Create, self.new_because(pod)),
        };
        let step = Step::StartSandbox {
            pod: pod.clone(),
            hash,
            spec,
        };
        let made = self.add(step, class, why, drift, removed.as_slice());
        let mut ready = vec![made];
        if self.target.is_bridged(pod) {
            match self.connect(pod, class, Why::NeedsAddress, drift, &ready) {
                Ok(id) => ready = vec![id],
                Err(why) => return self.block(pod, None, why),
            }
        }
        let why = (class, Why::NeedsInterface, drift);
        match self.connect_nics(pod, &BTreeMap::new(), why, &[made]) {
            Ok(steps) => ready.extend(steps),
            Err(why) => return self.block(pod, None, why),
        }
        self.containers(pod, &observed::Pod::default(), class, &ready);
    }

    fn connect(
        &mut self,
        pod: &Name,
        class: Class,
        why: Why,
        drift: bool,
        after: &[StepId],
    ) -> Result<StepId, TargetError> {
        let links = self.target.links(pod)?;
        // Bridges of other networks keep no pod waiting.
        let own = links
            .iter()
            .filter_map(|link| self.bridges.get(&link.bridge));
        let own: Vec<StepId> = own.copied().collect();
        let handover = self.handover_of_links(pod, &links);
        let why = handover.why(why);
        let mut after = [after, self.network.as_slice(), &own].concat();
        after.extend(handover.after);
        let step = Step::EnsureNetwork {
            pod: pod.clone(),
            links,
        };
        Ok(self.add(step, class, why, drift, &after))
    }

    /// What the declaration changed of a node.
    pub(crate) fn change(&self, key: &Key) -> Option<Changed> {
        // In the order of their keys, as `diff` gives them.
        let found = self
            .changes
            .binary_search_by(|change| change.key.cmp(key))
            .ok()?;
        Some(Changed::of(&self.changes[found]))
    }

    /// As [`Planner::change`], as the reason of a step.
    pub(crate) fn reason(&self, key: &Key) -> Option<Why> {
        self.change(key).map(|change| Why::Changed(vec![change]))
    }
}
