//! What is run by hand in a pod: started once, beside what is declared, and kept while it runs.

use crate::{
    observed::{self, State},
    planner::{Planner, Removal},
    runs,
    step::{Class, Step, StepId},
    why::{WaitsFor, Why},
};
use tank_model::Name;

impl Planner<'_> {
    /// Whether a container that is not declared runs because somebody runs it by hand.
    pub(crate) fn is_run_by_hand(&self, pod: &Name, name: &Name, found: &observed::Run) -> bool {
        let runs = matches!(found.state, State::Running { .. });
        runs && self.target.runs.get(pod, name).is_some()
    }

    /// Why what no graph declares goes: it was run by hand, as its name says and no declaration before denies, or is not
    /// declared any more.
    pub(crate) fn undeclared_because(&self, pod: &Name, name: &Name) -> Why {
        let before = self.target.previous;
        let was_declared = before.is_some_and(|graph| graph.process(pod, name).is_some());
        match runs::is_name(name) && !was_declared {
            true => Why::RunEnded,
            false => Why::NoLongerDeclared,
        }
    }

    /// Why a pod is made that was not there before.
    pub(crate) fn new_because(&self, pod: &Name) -> Why {
        let mut alone = self.target.runs.alone();
        let run = alone.find(|(own, ..)| *own == pod);
        run.map_or(Why::Declared, |(_, _, run)| Why::RunByHand { uid: run.uid })
    }

    /// Ends what is run by hand and has a volume that has to be at rest.
    pub(crate) fn end_disturbing_runs(&mut self, pod: &Name, found: &observed::Pod) {
        let runs = self.target.runs;
        for (name, run) in runs.of_pod(pod) {
            let running = found.containers.get(name);
            let running = running.filter(|found| self.is_run_by_hand(pod, name, found));
            let Some(found) = running else { continue };
            let mut mounts = run.spec.mounts.iter();
            let disturbs = mounts.find(|mount| self.due_of(pod, mount).is_some());
            if let Some(mount) = disturbs {
                let removal = Removal::for_rest_of(&mount.volume);
                self.stop(pod, name, found, &removal, &[]);
            }
        }
    }

    /// Starts what is to be run by hand and was not started yet, once what its pod waits for is there.
    pub(crate) fn runs_by_hand(
        &mut self,
        pod: &Name,
        found: &observed::Pod,
        class: Class,
        after: &[StepId],
    ) {
        let graph = self.target.graph;
        for (name, run) in self.target.runs.of_pod(pod) {
            let is_there = found.containers.contains_key(name);
            if run.started || is_there || graph.process(pod, name).is_some() {
                continue;
            }
            let mut inits = graph.init(pod);
            let unfinished = inits.find(|(init, _, hash)| {
                let current = found.current(init, *hash);
                !current.is_some_and(observed::Run::ended_well)
            });
            let init = unfinished.map(|(init, ..)| WaitsFor::Init { name: init.clone() });
            if let Some(waits) = self.blocker(pod, name).or(init) {
                self.wait(pod, name, waits, None);
                continue;
            }
            let step = Step::StartContainer {
                pod: pod.clone(),
                container: name.clone(),
                hash: run.hash,
                attempt: 0,
                spec: run.spec.clone(),
            };
            let mut after = after.to_vec();
            for mount in &run.spec.mounts {
                if let Some(due) = self.due_of(pod, mount) {
                    after.push(self.data_step(pod, &mount.volume, due));
                }
            }
            let why = Why::RunByHand { uid: run.uid };
            self.add(step, class, why, false, &after);
        }
    }
}
