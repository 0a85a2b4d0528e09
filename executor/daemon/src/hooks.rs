//! What this host's owner has done when something has happened: `[[on_event]]` of `tank.toml`.
//!
//! *Bounds*: of each hook one runs at a time, for its limit, and [`MAX_QUEUE`] events wait; what comes on top of that is left out,
//! counted and said. *Guarantees*: nothing waits for a hook, and what a hook does or prints decides nothing. What it fails with is
//! an event of a kind that no hook is for. *Never*: a shell; a program runs as a user without privileges, in a cgroup of its own
//! that ends with it, and knows of the event what stands on its standard input.

pub mod child;
mod command;
mod webhook;

use crate::{
    events::{Event, Events, Kind},
    settings::{
        Settings,
        hooks::{Action, Hook},
    },
};
use command::Runner;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tank_sys::cgroup::Cgroups;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    task::{JoinHandle, JoinSet, spawn_blocking},
};
use webhook::Poster;

/// The most events that wait for one hook.
const MAX_QUEUE: usize = 64;

/// The most of what a command printed that is shown, in bytes.
const MAX_SHOWN: usize = 400;

/// Hooks that are run.
pub struct Hooks {
    work: JoinHandle<()>,
    cgroups: Arc<Cgroups>,
}

impl Hooks {
    /// Ends those that run: nobody would wait for them.
    pub async fn end(self) {
        self.work.abort();
        let _ = self.work.await;
        let _ = spawn_blocking(move || command::sweep(&self.cgroups)).await;
    }
}

/// Begins what goes on for ever, if any hook is declared. What a daemon before this one has left running ends.
pub fn keep(settings: &Settings, cgroups: &Arc<Cgroups>, events: &Arc<Events>) -> Hooks {
    let (_, mut live) = events.listen();
    let (hooks, own) = (settings.config.on_event.clone(), Arc::clone(cgroups));
    let (events, cgroups) = (Arc::clone(events), Arc::clone(cgroups));
    let work = tokio::spawn(async move {
        let left = Arc::clone(&cgroups);
        let _ = spawn_blocking(move || command::sweep(&left)).await;
        // They end with this.
        let mut runners = JoinSet::new();
        let queues = begin(hooks, (&cgroups, &events), &mut runners);
        while !queues.is_empty() {
            match live.recv().await {
                Ok(event) => queues.iter().for_each(|queue| queue.add(&event)),
                Err(RecvError::Lagged(missed)) => {
                    queues.iter().for_each(|queue| queue.note(missed));
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
    Hooks { work, cgroups: own }
}

/// Has each hook wait for its events.
fn begin(
    hooks: Vec<Hook>,
    (cgroups, events): (&Arc<Cgroups>, &Arc<Events>),
    runners: &mut JoinSet<()>,
) -> Vec<Queue> {
    hooks
        .into_iter()
        .enumerate()
        .map(|(number, hook)| {
            let (sender, waiting) = mpsc::channel(MAX_QUEUE);
            let dropped = Arc::<AtomicU64>::default();
            let runner = HookRunner {
                number,
                action: hook.action.clone(),
                cgroups: Arc::clone(cgroups),
                events: Arc::clone(events),
                dropped: Arc::clone(&dropped),
            };
            runners.spawn(runner.run(waiting));
            Queue {
                hook,
                sender,
                dropped,
            }
        })
        .collect()
}

/// What waits for one hook.
struct Queue {
    hook: Hook,
    sender: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    fn add(&self, event: &Event) {
        if self.hook.is_for(event) && self.sender.try_send(event.clone()).is_err() {
            self.note(1);
        }
    }

    fn note(&self, dropped: u64) {
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
    }
}

/// Runs one hook, for one event after the other.
struct HookRunner {
    number: usize,
    action: Action,
    cgroups: Arc<Cgroups>,
    events: Arc<Events>,
    dropped: Arc<AtomicU64>,
}

impl HookRunner {
    async fn run(self, mut waiting: mpsc::Receiver<Event>) {
        let poster = match &self.action {
            Action::Webhook(url) => match Poster::new(url) {
                Ok(poster) => Some(poster),
                Err(why) => return self.say(format!("can't be called: {why}")),
            },
            Action::Command { .. } => None,
        };
        while let Some(event) = waiting.recv().await {
            let done = match (&self.action, &poster) {
                (Action::Command { argv, user, limit }, _) => {
                    let runner = Runner {
                        cgroups: &self.cgroups,
                        number: self.number,
                        argv,
                        user,
                        limit: Duration::from_millis(limit.0),
                    };
                    runner.run(&event).await
                }
                (Action::Webhook(_), Some(poster)) => poster.post(&event).await,
                (Action::Webhook(_), None) => return,
            };
            if let Err(why) = done {
                let kind = event.kind;
                self.say(format!("failed for an event of the kind {kind}: {why}"));
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                self.say(format!(
                    "missed {dropped} events: it is slower than they come"
                ));
            }
        }
    }

    fn say(&self, what: String) {
        let name = match &self.action {
            Action::Command { argv, .. } => argv.first().cloned().unwrap_or_default(),
            Action::Webhook(url) => format!("the webhook to {url:?}"),
        };
        let number = self.number + 1;
        let message = format!("on_event {number}: {name} {what}");
        self.events.add(Kind::Hook, None, message);
    }
}

/// The last of what was printed, on one line.
fn shown(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let text: Vec<&str> = text.split_whitespace().collect();
    let text = text.join(" ");
    let mut begin = text.len().saturating_sub(MAX_SHOWN);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    text.get(begin..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_plan::events::{Filter, Subject};

    fn event(kind: Kind, pod: Option<&str>, count: u64) -> Event {
        let event = Event::new(1, kind, Subject::from(pod), "x".to_owned());
        Event { count, ..event }
    }

    #[test]
    fn a_hook_is_for_what_it_says_and_for_no_hook() {
        let hook = Hook {
            filter: Filter {
                kinds: [Kind::Failed, Kind::Hook].into(),
                stack: Some("shop".to_owned()),
                ..Filter::default()
            },
            action: Action::Command {
                argv: vec!["/bin/true".to_owned()],
                user: "nobody".to_owned(),
                limit: tank_model::units::Millis(1),
            },
        };
        assert!(hook.is_for(&event(Kind::Failed, Some("shop:db"), 1)));
        assert!(!hook.is_for(&event(Kind::Failed, Some("db"), 1)));
        assert!(!hook.is_for(&event(Kind::Exited, Some("shop:db"), 1)));
        assert!(!hook.is_for(&event(Kind::Hook, Some("shop:db"), 1)));
        let often: Vec<u64> = (1..20)
            .filter(|count| hook.is_for(&event(Kind::Failed, Some("shop:db"), *count)))
            .collect();
        assert_eq!(often, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn what_was_printed_is_short_and_of_one_line() {
        assert_eq!(shown(b" a\nb\xff\r\n"), "a b\u{fffd}");
        let long = shown("ü".repeat(MAX_SHOWN).as_bytes());
        assert!(long.len() <= MAX_SHOWN && long.starts_with('ü'), "{long}");
    }
}
