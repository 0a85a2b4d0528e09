//! What is run by hand in a pod: started once, beside what is declared, and kept while it runs.

use crate::{
    observed::{self, State},
    planner::Planner,
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
            self.add(step, class, Why::RunByHand { uid: run.uid }, false, after);
        }
    }
}
