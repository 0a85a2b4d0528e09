//! When an ended container starts again: at once the first time, then after 1 s, 2 s, 4 s … up to
//! five minutes. One that ran for ten seconds counts as stable and starts over.
//!
//! And when a step that failed is tried again: twice at once, then likewise. Its failure is data of
//! the step's own, so neither what happens meanwhile nor what happens to others makes it come
//! earlier or later.

use crate::{
    observed::FailedStep,
    report::{Held, Report},
    step::Plan,
};
use std::collections::BTreeMap;
use tank_model::spec::Restart;

/// A run at least this long, in milliseconds, forgives the failures before it.
pub const STABLE: u64 = 10_000;

/// The longest wait, in milliseconds.
pub const CAP: u64 = 300_000;

/// What to do about an ended container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Start it as its `attempt`th restart in a row, not before `at` (by the clock of `started`).
    Restart {
        /// How many restarts in a row this one makes, from 1.
        attempt: u32,
        /// Milliseconds.
        at: u64,
    },
    /// It stays ended: the policy wants no other run.
    Leave,
}

/// Decides from how the last run went. `attempt` is that run's own.
pub fn verdict(policy: Restart, success: bool, attempt: u32, started: u64, exited: u64) -> Verdict {
    let wanted = match policy {
        Restart::Always => true,
        Restart::OnFailure => !success,
        Restart::Never => false,
    };
    if !wanted {
        return Verdict::Leave;
    }
    let stable = exited.saturating_sub(started) >= STABLE;
    let attempt = if stable { 1 } else { attempt.saturating_add(1) };
    Verdict::Restart {
        attempt,
        at: exited.saturating_add(delay(attempt)),
    }
}

/// Milliseconds to wait before the `attempt`th restart in a row.
pub fn delay(attempt: u32) -> u64 {
    match attempt {
        0 | 1 => 0,
        // 1 s shifted by nine is more than the cap.
        n => (1_000u64 << (n - 2).min(9)).min(CAP),
    }
}

/// Takes the steps out of a plan that failed and are not to be tried again yet, and what depends on
/// them.
pub(crate) fn hold_back(
    plan: Plan,
    report: &mut Report,
    failures: &[FailedStep],
    now: u64,
) -> Plan {
    if failures.is_empty() {
        return plan;
    }
    let mut kept = Plan {
        steps: Vec::new(),
        ..plan
    };
    // The new places of those that stay.
    let mut places = BTreeMap::new();
    for (place, mut planned) in plan.steps.into_iter().enumerate() {
        let id = planned.step.id();
        let failed = failures.iter().find(|failed| failed.step == id);
        let held = failed.and_then(|failed| {
            let wait = delay(failed.count.saturating_sub(1));
            let until = failed.at.saturating_add(wait);
            (until > now).then(|| Held::new(&planned.step, failed.count, &failed.why, until))
        });
        if let Some(held) = held {
            report.held.push(held);
            continue;
        }
        let Some(after) = planned
            .after
            .iter()
            .map(|before| places.get(before).copied())
            .collect()
        else {
            continue;
        };
        planned.after = after;
        places.insert(place, kept.steps.len());
        kept.steps.push(planned);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        step::{Class, PlannedStep, Step},
        why::Why,
    };
    use tank_model::Name;

    #[test]
    fn what_failed_waits_and_keeps_only_what_needs_it_waiting() {
        let step = |pod: &str| Step::SweepPod {
            pod: Name::new(pod).expect("a name"),
        };
        let planned = |pod: &str, after: &[usize]| PlannedStep {
            step: step(pod),
            class: Class::Create,
            why: Why::Declared,
            drift: false,
            after: after.to_vec(),
        };
        let steps = vec![
            planned("a", &[]),
            planned("b", &[]),
            planned("needs-a", &[0, 1]),
            planned("needs-b", &[1]),
        ];
        let plan = Plan {
            steps,
            ..Plan::default()
        };
        let failed = |pod: &str, count| {
            [FailedStep {
                step: step(pod).id(),
                count,
                at: 1_000,
                why: "no".to_owned(),
            }]
        };
        let hold = |failures: &[FailedStep], now| {
            let mut report = Report::default();
            let kept = hold_back(plan.clone(), &mut report, failures, now);
            (kept, report)
        };
        // Twice it is tried again at once.
        for count in [1, 2] {
            assert_eq!(hold(&failed("a", count), 1_000).0, plan);
        }
        let (kept, report) = hold(&failed("a", 3), 1_999);
        assert_eq!(kept.steps, [planned("b", &[]), planned("needs-b", &[0])]);
        assert_eq!(report.held[0].step, "sweep what is left of pod a");
        assert_eq!(report.held[0].reason(), "it failed 3 times in a row: no");
        assert_eq!(report.wake_at(), Some(2_000));
        assert!(!report.is_settled());
        assert_eq!(hold(&failed("a", 3), 2_000).0, plan);
        let (_, report) = hold(&failed("a", u32::MAX), 2_000);
        assert_eq!(report.wake_at(), Some(1_000 + CAP));
        // Another step is not the one that failed.
        assert_eq!(
            hold(&failed("z", 9), 1_000),
            (plan.clone(), Report::default())
        );
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<u64> = (0..12).map(delay).collect();
        let expected = [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300].map(|seconds| seconds * 1_000);
        assert_eq!(delays, expected);
        assert!(
            (12..200)
                .chain([u32::MAX])
                .all(|attempt| delay(attempt) == CAP)
        );
    }

    #[test]
    fn a_stable_run_starts_over() {
        let quick = verdict(Restart::Always, true, 5, 0, STABLE - 1);
        assert_eq!(
            quick,
            Verdict::Restart {
                attempt: 6,
                at: STABLE - 1 + delay(6)
            }
        );
        let stable = verdict(Restart::Always, true, 5, 0, STABLE);
        assert_eq!(
            stable,
            Verdict::Restart {
                attempt: 1,
                at: STABLE
            }
        );
    }

    #[test]
    fn policies_decide_by_the_status() {
        assert_eq!(verdict(Restart::Never, false, 0, 0, 1), Verdict::Leave);
        assert_eq!(verdict(Restart::OnFailure, true, 0, 0, 1), Verdict::Leave);
        assert_eq!(
            verdict(Restart::OnFailure, false, 0, 0, 1),
            Verdict::Restart { attempt: 1, at: 1 }
        );
    }
}
