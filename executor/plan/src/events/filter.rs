//! Which events somebody asks for.

use super::{Event, Kind};
use std::collections::BTreeSet;

/// What an event has to be. What says nothing admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of one of these pods, by their names on the host.
    pub pods: BTreeSet<String>,
    /// Of one of these kinds.
    pub kinds: BTreeSet<Kind>,
    /// Of a pod of this stack.
    pub stack: Option<String>,
    /// Not before this time, in milliseconds since the epoch.
    pub since: Option<u64>,
    /// Not after this one.
    pub until: Option<u64>,
}

impl Filter {
    /// Whether an event is asked for. One that has repeated itself was there from its first time to its last.
    pub fn admits(&self, event: &Event) -> bool {
        let of_pod = |pods: &BTreeSet<String>| {
            let pod = event.of.pod.as_deref();
            pod.is_some_and(|pod| pods.contains(pod))
        };
        (self.pods.is_empty() || of_pod(&self.pods))
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.stack.is_none() || self.stack.as_deref() == event.of.stack())
            && self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.since() <= until)
    }

    /// Those of the past that are asked for, the last `tail` of them.
    pub fn select(&self, past: Vec<Event>, tail: Option<u64>) -> Vec<Event> {
        let mut chosen: Vec<Event> = past
            .into_iter()
            .filter(|event| self.admits(event))
            .collect();
        let tail = tail.map_or(usize::MAX, |tail| {
            usize::try_from(tail).unwrap_or(usize::MAX)
        });
        chosen.split_off(chosen.len().saturating_sub(tail))
    }
}
