//! Which steps may begin: each when those before it are done.

use std::collections::BTreeSet;
use tank_model::Name;
use tank_plan::{Plan, Step, StepId};

/// Which steps may begin: each when those before it are done.
pub struct Order {
    ready: BTreeSet<StepId>,
    /// How many steps each one still waits for.
    waits: Vec<usize>,
    /// Who waits for each.
    next: Vec<Vec<StepId>>,
}

impl Order {
    pub fn of(plan: &Plan) -> Self {
        let mut next = vec![Vec::new(); plan.steps.len()];
        let mut waits = Vec::new();
        for (id, planned) in plan.steps.iter().enumerate() {
            let before: BTreeSet<StepId> = planned.after.iter().copied().collect();
            waits.push(before.len());
            before.into_iter().for_each(|before| next[before].push(id));
        }
        let ready = (0..waits.len()).filter(|id| waits[*id] == 0).collect();
        Self { ready, waits, next }
    }

    /// The first step that may begin and for which there is room.
    pub fn take(&mut self, room: impl Fn(StepId) -> bool) -> Option<StepId> {
        let id = self.ready.iter().copied().find(|id| room(*id))?;
        self.ready.take(&id)
    }

    pub fn done(&mut self, id: StepId) {
        for next in &self.next[id] {
            self.waits[*next] -= 1;
            if self.waits[*next] == 0 {
                self.ready.insert(*next);
            }
        }
    }

    /// The containers that wait for nothing but the network of a pod whose shim has just been made
    /// by the step `made`.
    pub fn starts_once_connected(&self, plan: &Plan, pod: &Name, made: StepId) -> Vec<StepId> {
        let connects = |id: &&StepId| matches!(&plan.steps[**id].step, Step::EnsureNetwork { pod: of, .. } if of == pod);
        let Some(connect) = self.next[made].iter().find(connects) else {
            return Vec::new();
        };
        let last = self.next[*connect].iter().copied();
        last.filter(|id| self.waits[*id] == 1).collect()
    }
}
