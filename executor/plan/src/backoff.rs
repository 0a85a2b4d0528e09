//! When an ended container starts again: at once the first time, then after 1 s, 2 s, 4 s … up to five minutes. One
//! that ran for ten seconds counts as stable and starts over.

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
        attempt: u32,
        at: u64,
    },
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
    Verdict::Restart { attempt, at: exited.saturating_add(delay(attempt)) }
}

/// Milliseconds to wait before the `attempt`th restart in a row.
pub fn delay(attempt: u32) -> u64 {
    match attempt {
        0 | 1 => 0,
        n => 1_000u64.checked_shl(n - 2).unwrap_or(CAP).clamp(1_000, CAP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<u64> = (0..12).map(delay).collect();
        let expected = [0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300].map(|seconds| seconds * 1_000);
        assert_eq!(delays, expected);
        assert_eq!(delay(u32::MAX), CAP);
    }

    #[test]
    fn a_stable_run_starts_over() {
        let quick = verdict(Restart::Always, true, 5, 0, STABLE - 1);
        assert_eq!(quick, Verdict::Restart { attempt: 6, at: STABLE - 1 + delay(6) });
        let stable = verdict(Restart::Always, true, 5, 0, STABLE);
        assert_eq!(stable, Verdict::Restart { attempt: 1, at: STABLE });
    }

    #[test]
    fn policies_decide_by_the_status() {
        assert_eq!(verdict(Restart::Never, false, 0, 0, 1), Verdict::Leave);
        assert_eq!(verdict(Restart::OnFailure, true, 0, 0, 1), Verdict::Leave);
        assert_eq!(verdict(Restart::OnFailure, false, 0, 0, 1), Verdict::Restart { attempt: 1, at: 1 });
    }
}
