//! What a pod depends on, and whether it is there.

use crate::{observed, planner::Planner, why::WaitsFor};
use tank_model::{Name, spec::Condition};

impl Planner<'_> {
    /// The first dependency of `pod` that is not met, of those that `container` waits for.
    pub(crate) fn blocker(&self, pod: &Name, container: &Name) -> Option<WaitsFor> {
        let node = self.target.graph.pod(pod)?;
        let found = self.observed.pods.get(pod);
        let only = found.and_then(|found| self.target.overrides.awaits(pod, container, found));
        let depends_on = node.depends_on.iter();
        let mut awaited =
            depends_on.filter(|(other, _)| only.is_none_or(|only| only.contains(*other)));
        awaited.find_map(|(other, condition)| {
            let containers: Vec<&Name> = self
                .target
                .graph
                .containers(other)
                .map(|(name, _, _)| name)
                .collect();
            let found = self.observed.pods.get(other);
            let current = |found: &observed::Pod| {
                self.target
                    .graph
                    .containers(other)
                    .all(|(name, _, hash)| found.current(name, hash).is_some())
            };
            let met = found.is_some_and(|found| match condition {
                Condition::Started => found.started(containers),
                Condition::Ready => found.ready(containers),
                Condition::Completed => found.completed(containers),
            });
            if met && found.is_some_and(|found| current(found) && !self.ends(other, found)) {
                return None;
            }
            let overrides = self.target.overrides;
            let mut names = self.target.graph.containers(other).map(|(name, ..)| name);
            let pod = other.clone();
            Some(
                match names.any(|name| overrides.stopped(other, name).is_some()) {
                    true => WaitsFor::Stopped { pod },
                    false => WaitsFor::Dependency {
                        pod,
                        condition: *condition,
                    },
                },
            )
        })
    }

    /// Whether a run of a pod has yet to end since it is restarted by hand.
    fn ends(&self, pod: &Name, found: &observed::Pod) -> bool {
        let mut runs = found.containers.iter();
        runs.any(|(name, run)| self.target.overrides.restarts(pod, name, run).is_some())
    }
}
