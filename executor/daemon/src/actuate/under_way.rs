//! The steps that are being carried out, and which of them whoever waits is shown: the one that began last, and once that is over the
//! one that goes on for longest.

use super::{MAX_ENDING, MAX_WORKING, is_an_end};
use tank_plan::{Step, StepId};

/// What a plan that is carried out is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At<'a> {
    /// This step begins.
    Begins(&'a Step),
    /// Those that began after it are over, and this one is waited for.
    WaitsFor(&'a Step),
}

/// Steps that are under way, in the order in which they began.
#[derive(Default)]
pub struct UnderWay {
    steps: Vec<(StepId, Step)>,
    shown: Option<StepId>,
    working: usize,
    ending: usize,
}

impl UnderWay {
    /// Whether another step of its kind may begin.
    pub fn has_room(&self, step: &Step) -> bool {
        match is_an_end(step) {
            true => self.ending < MAX_ENDING,
            false => self.working < MAX_WORKING,
        }
    }

    pub fn begin(&mut self, id: StepId, step: &Step) {
        *self.count(step) += 1;
        self.steps.push((id, step.clone()));
        self.shown = Some(id);
    }

    pub fn end(&mut self, id: StepId, step: &Step) {
        let count = self.count(step);
        *count = count.saturating_sub(1);
        self.steps.retain(|(other, _)| *other != id);
    }

    /// The step that is waited for, where another one is shown that is over.
    pub fn next_shown(&mut self) -> Option<&Step> {
        let is_shown = |(id, _): &(StepId, Step)| self.shown == Some(*id);
        if self.steps.iter().any(is_shown) {
            return None;
        }
        let (id, step) = self.steps.first()?;
        self.shown = Some(*id);
        Some(step)
    }

    fn count(&mut self, step: &Step) -> &mut usize {
        match is_an_end(step) {
            true => &mut self.ending,
            false => &mut self.working,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(link: &str) -> Step {
        let name = link.to_owned();
        Step::RemoveHostLink { name }
    }

    #[test]
    fn what_is_shown_is_what_is_waited_for() {
        let (slow, quick, last) = (step("slow"), step("quick"), step("last"));
        let mut all = UnderWay::default();
        all.begin(0, &slow);
        all.begin(1, &quick);
        assert_eq!(all.next_shown(), None);
        all.end(1, &quick);
        assert_eq!(all.next_shown(), Some(&slow));
        // It is shown by now.
        assert_eq!(all.next_shown(), None);
        all.begin(2, &last);
        all.end(0, &slow);
        assert_eq!(all.next_shown(), None);
        all.end(2, &last);
        assert_eq!(all.next_shown(), None);
    }
}
