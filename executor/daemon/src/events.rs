//! What happened, for `tank events` and for whoever wakes on it: a bounded memory and a broadcast.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::broadcast;

/// How many events are remembered.
const REMEMBERED: usize = 1_000;

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// Milliseconds since the Unix epoch.
    pub time: u64,
    pub kind: &'static str,
    pub pod: Option<String>,
    /// For people.
    pub message: String,
    /// How often it has happened to the pod with nothing else between.
    pub count: u64,
    /// When it did first: milliseconds since the Unix epoch.
    pub since: u64,
}

/// What happened since this process began.
#[derive(Debug)]
pub struct Events {
    past: Mutex<Past>,
    live: broadcast::Sender<Event>,
}

/// What is remembered, the oldest first, and how many there are of each pod.
#[derive(Debug, Default)]
struct Past {
    events: VecDeque<Event>,
    counts: BTreeMap<Option<String>, usize>,
}

impl Past {
    /// Takes an event out that tells the same as this one, if that is the last of its pod.
    fn take_same(&mut self, event: &Event) -> Option<Event> {
        self.counts.get(&event.pod)?;
        let at = self.events.iter().rposition(|last| last.pod == event.pod)?;
        let last = self.events.get(at)?;
        let is_same = (last.kind, &last.message) == (event.kind, &event.message);
        is_same.then(|| self.remove(at)).flatten()
    }

    fn remove(&mut self, at: usize) -> Option<Event> {
        let event = self.events.remove(at)?;
        if let Some(count) = self.counts.get_mut(&event.pod) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&event.pod);
            }
        }
        Some(event)
    }

    fn push(&mut self, event: Event) {
        if self.events.len() == REMEMBERED {
            self.forget_one();
        }
        *self.counts.entry(event.pod.clone()).or_default() += 1;
        self.events.push_back(event);
    }

    /// Forgets the oldest event of the pod that has the most: one that is never quiet pushes out its
    /// own.
    fn forget_one(&mut self) {
        let most = self.counts.iter().max_by_key(|(_, count)| **count);
        let Some((most, _)) = most else { return };
        let oldest = self.events.iter().position(|event| event.pod == *most);
        oldest.and_then(|at| self.remove(at));
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            past: Mutex::default(),
            live: broadcast::channel(256).0,
        }
    }
}

impl Events {
    pub fn add(&self, kind: &'static str, pod: Option<&str>, message: impl Into<String>) {
        let time = now();
        let mut event = Event {
            time,
            kind,
            pod: pod.map(str::to_owned),
            message: message.into(),
            count: 1,
            since: time,
        };
        tracing::info!(kind, pod, message = event.message);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        // What repeats itself is one, with how often.
        if let Some(last) = past.take_same(&event) {
            event.count = last.count.saturating_add(1);
            event.since = last.since;
        }
        past.push(event.clone());
        // Under the lock, so that a listener that subscribed under it misses nothing and sees
        // nothing twice.
        let _ = self.live.send(event);
    }

    /// What is remembered, and what comes from now on.
    pub fn listen(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.events.iter().cloned().collect(), self.live.subscribe())
    }
}

/// Milliseconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(events: &Events) -> Vec<(String, u64)> {
        let (past, _) = events.listen();
        let each = past.into_iter().map(|event| (event.message, event.count));
        each.collect()
    }

    #[test]
    fn what_repeats_itself_is_one_and_pushes_nothing_out() {
        let events = Events::default();
        events.add("step", Some("web"), "start web/app");
        for _ in 0..REMEMBERED {
            events.add("step", Some("a"), "connect pod a");
            events.add("step", None, "publish ports");
        }
        let count = REMEMBERED as u64;
        let expected = [
            ("start web/app", 1),
            ("connect pod a", count),
            ("publish ports", count),
        ];
        let expected = expected.map(|(message, count)| (message.to_owned(), count));
        assert_eq!(remembered(&events), expected.clone());
        // One that always says something else pushes out its own.
        for number in 0..2 * REMEMBERED {
            events.add("unhealthy", Some("b"), number.to_string());
        }
        let all = remembered(&events);
        assert_eq!((all.len(), &all[..3]), (REMEMBERED, &expected[..]));
        // With something between, it is another one.
        let events = Events::default();
        for message in ["ready", "unready", "ready", "ready"] {
            events.add("ready", Some("a"), message);
            events.add("ready", Some("b"), message);
        }
        let of_each = [("ready", 1), ("unready", 1), ("ready", 2)].into_iter();
        let both = of_each.flat_map(|(message, count)| [0, 1].map(|_| (message.to_owned(), count)));
        assert_eq!(remembered(&events), both.collect::<Vec<_>>());
    }
}
