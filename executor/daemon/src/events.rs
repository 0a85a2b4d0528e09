//! What happened, for `tank events` and for whoever wakes on it: a bounded memory and a broadcast.

use std::{
    collections::VecDeque,
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
}

/// What happened since this process began.
#[derive(Debug)]
pub struct Events {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
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
        let event = Event {
            time: now(),
            kind,
            pod: pod.map(str::to_owned),
            message: message.into(),
        };
        tracing::info!(kind, pod, message = event.message);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Under the lock, so that a listener that subscribed under it misses nothing and sees
        // nothing twice.
        let _ = self.live.send(event);
    }

    /// What is remembered, and what comes from now on.
    pub fn listen(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.live.subscribe())
    }
}

/// Milliseconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}
