//! The rules and the bridge, in the order in which neither opens the host.

use crate::{
    planner::Planner,
    step::{Class, Step, StepId},
    target::{Table, firewall::Difference},
    why::Why,
};

impl Planner<'_> {
    /// The rules, which name the bridge and need none: with the bridge the host begins to forward,
    /// and takes packets to 127.0.0.0/8 that come over it. Nothing may be able to use that before
    /// there are rules against it.
    pub(super) fn ensure_firewall(&mut self, wanted: Option<&Table>) {
        let Some(wanted) = wanted else { return };
        let found = self.observed.firewall.as_ref();
        let difference = Difference::of(wanted, found);
        if difference.is_none() && found.is_some() {
            return;
        }
        let Difference { missing, unwanted } = difference;
        let why = Why::RulesDiffer { missing, unwanted };
        let declared = self
            .target
            .previous
            .is_some_and(|previous| previous.root() == self.target.graph.root());
        let step = Step::EnsureFirewall {
            table: wanted.clone(),
        };
        let step = self.add(step, Class::InPlace, why, declared, &[]);
        self.network.push(step);
    }

    pub(super) fn ensure_bridge(&mut self) {
        if !self.target.needs_bridge() {
            return;
        }
        let bridge = self.target.bridge();
        let found = self.observed.bridge.as_ref();
        if found.is_some_and(|found| found.is_superset(&bridge.addresses)) {
            return;
        }
        let drift = !self.observed.pods.is_empty();
        let after = self.network.clone();
        let step = Step::EnsureBridge { bridge };
        let step = self.add(step, Class::InPlace, Why::BridgeNeeded, drift, &after);
        self.network.push(step);
    }

    /// In the opposite order: the rules go when there is no bridge any more.
    pub(super) fn remove_bridge(&mut self, keeps_rules: bool) {
        let mut after = Vec::new();
        if self.observed.bridge.is_some() && !self.target.needs_bridge() {
            let all: Vec<StepId> = (0..self.plan.steps.len()).collect();
            let step = Step::RemoveBridge {
                name: self.target.host.bridge.clone(),
            };
            after.push(self.add(step, Class::InPlace, Why::BridgeNotNeeded, false, &all));
        }
        if !keeps_rules && self.observed.firewall.is_some() {
            self.add(
                Step::RemoveFirewall,
                Class::InPlace,
                Why::NothingPublished,
                false,
                &after,
            );
        }
    }
}
