//! The steps that failed the last time they were tried, for the planner: it decides when to try
//! them again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tank_plan::{Step, backoff, observed::FailedStep};
use tank_sys::clock::boot_millis;

/// The most that are remembered: of more the oldest are tried again too early.
const MAX_REMEMBERED: usize = 4_096;

#[derive(Debug, Default)]
pub struct Failures(Mutex<Vec<FailedStep>>);

impl Failures {
    fn steps(&self) -> MutexGuard<'_, Vec<FailedStep>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step has failed, once more if it was the same one.
    pub fn add(&self, step: &Step, why: String) {
        let (id, at) = (step.id(), boot_millis());
        let mut steps = self.steps();
        match steps.iter_mut().find(|known| known.step == id) {
            Some(known) => {
                *known = FailedStep {
                    count: known.count.saturating_add(1),
                    at,
                    why,
                    ..known.clone()
                }
            }
            None => {
                if steps.len() >= MAX_REMEMBERED {
                    steps.remove(0);
                }
                steps.push(FailedStep {
                    step: id,
                    count: 1,
                    at,
                    why,
                });
            }
        }
    }

    /// A step was carried out.
    pub fn remove(&self, step: &Step) {
        let mut steps = self.steps();
        if !steps.is_empty() {
            let id = step.id();
            steps.retain(|known| known.step != id);
        }
    }

    /// Drops all failures, so that the next plan waits for none of their retries.
    pub fn clear(&self) {
        self.steps().clear();
    }

    /// Those that were tried lately: what nobody has planned for longer than the longest wait is no
    /// longer wanted.
    pub fn recent(&self) -> Vec<FailedStep> {
        let now = boot_millis();
        let mut steps = self.steps();
        steps.retain(|known| now.saturating_sub(known.at) < 2 * backoff::CAP);
        steps.clone()
    }
}
