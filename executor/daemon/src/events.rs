//! What happened, for `tank events` and for whoever wakes on it: a bounded memory that outlives the daemon, and a
//! broadcast. What is remembered, and what counts as the same, is `tank_plan::events`' to say.

mod journal;

pub use tank_plan::events::{Event, Filter, Kind, LastEnd, Subject};

use journal::Journal;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tank_model::Name;
use tank_plan::events::History;
use tokio::sync::broadcast;

/// The most events that wait for one listener; who is slower misses some.
const MAX_WAITING: usize = 256;

/// How long is waited at the end until what was added is written.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Debug)]
pub struct Events {
    history: Arc<Mutex<History>>,
    live: broadcast::Sender<Event>,
    /// None: it is remembered while the process lives.
    journal: Option<Journal>,
    /// How many there were of each kind since this process began.
    totals: Mutex<BTreeMap<Kind, u64>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            history: Arc::default(),
            live: broadcast::channel(MAX_WAITING).0,
            journal: None,
            totals: Mutex::default(),
        }
    }
}

impl Events {
    /// Those that a daemon before this one has left in a folder, and what is added to them. What can't be read of them is said
    /// by an event, and keeps nothing from going on.
    pub fn open(folder: &Path) -> Self {
        let events = Self::default();
        let opened = Journal::open(folder, Arc::clone(&events.history));
        let (journal, lost) = match opened {
            Ok((journal, lost)) => (Some(journal), lost),
            Err(error) => (None, Some(format!("events are not kept: {error}"))),
        };
        let events = Self { journal, ..events };
        if let Some(lost) = lost {
            events.add(Kind::Note, None, lost);
        }
        events
    }

    /// Adds what happened to a pod, or to the host.
    pub fn add(&self, kind: Kind, pod: Option<&str>, message: impl Into<String>) {
        self.add_of(kind, pod.into(), message);
    }

    /// Adds what happened, and to what.
    pub fn add_of(&self, kind: Kind, of: Subject, message: impl Into<String>) {
        let event = Event::new(now(), kind, of, message.into());
        let (word, pod, message) = (kind.as_str(), &event.of.pod, &event.message);
        tracing::info!(kind = word, pod, message);
        *self.totals().entry(kind).or_default() += 1;
        let mut history = self.history();
        let event = history.add(event);
        if let Some(journal) = self.journal.as_ref().filter(|_| event.is_milestone()) {
            journal.write(&event);
        }
        // Under the lock, so that a listener that subscribed under it misses nothing and sees
        // nothing twice.
        let _ = self.live.send(event);
    }

    /// What is remembered, and what comes from now on.
    pub fn listen(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let history = self.history();
        (history.events().cloned().collect(), self.live.subscribe())
    }

    /// How the containers of a pod ended last, as far as that is remembered.
    pub fn last_ends(&self, pod: &str) -> BTreeMap<Name, LastEnd> {
        tank_plan::events::last_ends(pod, self.history().events())
    }

    /// How many there were of each kind since this process began.
    pub fn counted(&self) -> BTreeMap<Kind, u64> {
        self.totals().clone()
    }

    /// Waits until what was added is written, for some time. Blocking.
    pub fn flush(&self) {
        if let Some(journal) = &self.journal {
            journal.flush(FLUSH_LIMIT);
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn totals(&self) -> MutexGuard<'_, BTreeMap<Kind, u64>> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}
