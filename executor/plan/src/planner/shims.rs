//! What is done about a shim that does not answer.

use crate::{
    health::PATIENCE,
    observed::Unresponsive,
    planner::Planner,
    step::{Class, Step},
    why::{WaitsFor, Why},
};
use tank_model::Name;

/// How long a shim may be silent, in milliseconds, before it is killed with all that runs in it and
/// made anew. A disk that stalls may hold a log up for seconds.
pub const SILENCE: u64 = 15_000;

/// How long, in milliseconds, until a pod is read again that could not be.
pub const READ_AGAIN: u64 = 5_000;

/// What to do about a shim of which nothing is known.
pub(super) enum Care {
    Wait(Option<u64>),
    Resume,
    Replace,
}

impl Care {
    fn of(unresponsive: &Unresponsive, now: u64) -> Self {
        match unresponsive {
            // It notifies when it is done.
            Unresponsive::Busy => Self::Wait(None),
            // Nothing notifies of a pod that can be read again.
            Unresponsive::Unreadable { .. } => Self::Wait(Some(now.saturating_add(READ_AGAIN))),
            Unresponsive::Silent { since } if now >= since.saturating_add(SILENCE) => Self::Replace,
            Unresponsive::Silent { since } => Self::Wait(Some(since.saturating_add(SILENCE))),
            Unresponsive::Halted { .. } => Self::Resume,
        }
    }
}

impl Planner<'_> {
    /// Nothing is known of the pod, so nothing is done to it but what makes it known again.
    pub(super) fn unresponsive(&mut self, pod: &Name, unresponsive: &Unresponsive) {
        let mut until = None;
        match self.care(pod, unresponsive) {
            Care::Wait(at) => until = at,
            Care::Resume => self.resume_shim(pod, unresponsive),
            // Its removal comes first.
            Care::Replace => return,
        }
        for (name, ..) in self.target.graph.containers(pod) {
            self.wait(pod, name, WaitsFor::Shim(unresponsive.clone()), until);
        }
    }

    /// A shim that has to go is let run on first.
    pub(super) fn resume_undeclared(&mut self) {
        for (pod, found) in &self.observed.pods {
            if self.target.graph.pod(pod).is_none()
                && let Some(unresponsive) = &found.unresponsive
                && let Care::Resume = self.care(pod, unresponsive)
            {
                self.resume_shim(pod, unresponsive);
            }
        }
    }

    /// What to do about a shim. One that does not go on though it was let is like one that is
    /// silent.
    pub(super) fn care(&self, pod: &Name, unresponsive: &Unresponsive) -> Care {
        let in_vain = || {
            let resume = Step::ResumeShim { pod: pod.clone() }.id();
            let mut failures = self.observed.failures.iter();
            failures.any(|failed| failed.step == resume && failed.count >= PATIENCE)
        };
        match Care::of(unresponsive, self.observed.now) {
            Care::Resume if in_vain() => Care::Replace,
            care => care,
        }
    }

    fn resume_shim(&mut self, pod: &Name, unresponsive: &Unresponsive) {
        let step = Step::ResumeShim { pod: pod.clone() };
        let why = Why::Unresponsive(unresponsive.clone());
        self.add(step, Class::InPlace, why, true, &[]);
    }
}
