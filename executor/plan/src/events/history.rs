//! The events that are remembered: the newest, of each pod its share.

use super::Event;
use std::collections::{BTreeMap, VecDeque};

/// How many events are remembered at most.
pub const MAX_EVENTS: usize = 2_000;

/// The most bytes of all their texts.
pub const MAX_BYTES: usize = 1 << 20;

/// The most bytes of one message.
pub const MAX_MESSAGE: usize = 4 << 10;

/// The most bytes of one event beside its message: names of 63 bytes, and numbers.
const OVERHEAD: usize = 256;

/// What is remembered, the oldest first, and what there is of each pod.
#[derive(Debug, Default)]
pub struct History {
    events: VecDeque<Event>,
    shares: BTreeMap<Option<String>, Share>,
    bytes: usize,
}

/// What events of one pod take.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    count: usize,
    bytes: usize,
}

fn size(event: &Event) -> usize {
    event.message.len() + OVERHEAD
}

impl History {
    /// All of it, the oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// Remembers an event, and gives it as it is remembered: what repeats itself, with nothing else of the pod between, is one
    /// event with how often.
    pub fn add(&mut self, mut event: Event) -> Event {
        if let Some(last) = self.take_same(&event) {
            event.count = last.count.saturating_add(event.count);
            event.first = Some(last.since());
        }
        self.push(event.clone());
        event
    }

    /// Remembers an event that was written down, with how often it had happened by then: it stands for what was written of it
    /// before.
    pub fn restore(&mut self, event: Event) {
        if event.count > 1 {
            self.take_same(&event);
        }
        self.push(event);
    }

    /// Takes an event out that says the same as this one, if that is the last of its pod.
    fn take_same(&mut self, event: &Event) -> Option<Event> {
        self.shares.get(&event.of.pod)?;
        let at = self
            .events
            .iter()
            .rposition(|last| last.of.pod == event.of.pod)?;
        let last = self.events.get(at)?;
        let is_same =
            (last.kind, &last.of, &last.message) == (event.kind, &event.of, &event.message);
        is_same.then(|| self.remove(at)).flatten()
    }

    fn remove(&mut self, at: usize) -> Option<Event> {
        let event = self.events.remove(at)?;
        self.bytes = self.bytes.saturating_sub(size(&event));
        if let Some(share) = self.shares.get_mut(&event.of.pod) {
            share.count -= 1;
            share.bytes = share.bytes.saturating_sub(size(&event));
            if share.count == 0 {
                self.shares.remove(&event.of.pod);
            }
        }
        Some(event)
    }

    fn push(&mut self, event: Event) {
        let bytes = size(&event);
        while self.events.len() >= MAX_EVENTS {
            self.forget_one(|share| share.count);
        }
        while self.bytes + bytes > MAX_BYTES && !self.events.is_empty() {
            self.forget_one(|share| share.bytes);
        }
        let share = self.shares.entry(event.of.pod.clone()).or_default();
        share.count += 1;
        share.bytes += bytes;
        self.bytes += bytes;
        self.events.push_back(event);
    }

    /// Forgets the oldest event of the pod that has the most: one that is never quiet pushes out its own.
    fn forget_one(&mut self, measure: impl Fn(&Share) -> usize) {
        let most = self.shares.iter().max_by_key(|(_, share)| measure(share));
        let pod = most.map(|(pod, _)| pod.clone());
        let of_most = |event: &Event| pod.as_ref().is_none_or(|pod| event.of.pod == *pod);
        let oldest = self.events.iter().position(of_most).unwrap_or(0);
        self.remove(oldest);
    }
}
