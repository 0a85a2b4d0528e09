//! What has happened on a host, as data: the kinds of events, the bounded memory of them, and which of them somebody
//! asks for. Pure.

mod ends;
mod filter;
mod history;
#[cfg(test)]
mod tests;

pub use ends::{LastEnd, last_ends};
pub use filter::Filter;
pub use history::{History, MAX_BYTES, MAX_EVENTS, MAX_MESSAGE};

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A closed set of words, each as it is printed, kept and filtered by.
macro_rules! kinds {
    ($($(#[$meaning:meta])* $variant:ident = $word:literal,)*) => {
        /// What kind of thing has happened. What is printed of it is kept on disk, and asked for by name: a word is never
        /// given another meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$meaning])* #[serde(rename = $word)] $variant,)*
        }

        impl Kind {
            /// Every kind, by its word.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

kinds! {
    /// A daemon that has started has found a pod's shim.
    Adopted = "adopted",
    /// A backup is begun, or was made.
    Backup = "backup",
    /// A backup was not made, or its hook has failed.
    BackupFailed = "backup_failed",
    /// A backup goes on and can't be ended: its folder does not answer.
    BackupHangs = "backup_hangs",
    /// Somebody has stopped, started or restarted containers by hand.
    ByHand = "by_hand",
    /// All that is kept was read and compared.
    Checked = "checked",
    /// What nothing needs was removed.
    Collected = "collected",
    /// A generation is the current one.
    Committed = "committed",
    /// Generations were deleted.
    Deleted = "deleted",
    /// A pod was taken down.
    Ended = "ended",
    /// A container has ended.
    Exited = "exited",
    /// Something was not done.
    Failed = "failed",
    /// A pod's shim is gone.
    Gone = "gone",
    /// A command or a webhook of `on_event` was not run, or has failed.
    Hook = "hook",
    /// An image was pulled, loaded or removed by hand.
    Image = "image",
    /// Something to know.
    Note = "note",
    /// A generation is kept from being deleted.
    Pinned = "pinned",
    /// A container is ready.
    Ready = "ready",
    /// The store was put back or repaired.
    Recovered = "recovered",
    /// A pod's shim answers again.
    Responsive = "responsive",
    /// A generation is waited for that an earlier daemon has begun.
    Resumed = "resumed",
    /// A generation is put back to its parent.
    Rollback = "rollback",
    /// A step of a plan was carried out.
    Step = "step",
    /// Somebody has stopped a container's process.
    Stopped = "stopped",
    /// A generation is reached.
    Switched = "switched",
    /// A probe has failed as often as it may.
    Unhealthy = "unhealthy",
    /// A pod lacks something of the host.
    Unmet = "unmet",
    /// A generation may be deleted again.
    Unpinned = "unpinned",
    /// A container is not ready any more.
    Unready = "unready",
    /// A pod's shim does not answer.
    Unresponsive = "unresponsive",
    /// Something was done to a volume, or is to be known of it.
    Volume = "volume",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no kind of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no kind of event{}", nearest_to(.word))]
pub struct NoSuchKind {
    /// The word.
    pub word: String,
}

fn nearest_to(word: &str) -> String {
    let words = || Kind::ALL.iter().map(|kind| kind.as_str());
    match tank_model::name::nearest(word, words()) {
        Some(nearest) => format!(": did you mean `{nearest}`?"),
        None => format!(": there are {}", words().collect::<Vec<_>>().join(", ")),
    }
}

impl FromStr for Kind {
    type Err = NoSuchKind;

    fn from_str(word: &str) -> Result<Self, NoSuchKind> {
        let found = Self::ALL.iter().find(|kind| kind.as_str() == word).copied();
        found.ok_or_else(|| NoSuchKind {
            word: word.to_owned(),
        })
    }
}

/// What an event is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The pod, by its name on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The container of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The user who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

impl Subject {
    /// A container.
    pub fn container(pod: &str, container: &str) -> Self {
        Self {
            pod: Some(pod.to_owned()),
            container: Some(container.to_owned()),
            ..Self::default()
        }
    }

    /// A generation, and who has asked for it.
    pub fn generation(number: u64, uid: Option<u32>) -> Self {
        Self {
            generation: Some(number),
            uid,
            ..Self::default()
        }
    }

    /// The stack that the pod belongs to.
    pub fn stack(&self) -> Option<&str> {
        let (stack, _) = self.pod.as_deref()?.split_once(':')?;
        Some(stack)
    }
}

impl From<Option<&str>> for Subject {
    fn from(pod: Option<&str>) -> Self {
        Self {
            pod: pod.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the Unix epoch: of what has repeated itself, that of the last time.
    pub time: u64,
    /// What kind of thing it was.
    pub kind: Kind,
    /// What it was of.
    #[serde(flatten)]
    pub of: Subject,
    /// For people.
    pub message: String,
    /// How often it has happened with nothing else of the pod between.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u64,
    /// When it did first: milliseconds since the Unix epoch.
    #[serde(default, rename = "since", skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
}

fn once() -> u64 {
    1
}

fn is_once(count: &u64) -> bool {
    *count == 1
}

impl Event {
    /// One that has happened for the first time.
    pub fn new(time: u64, kind: Kind, of: Subject, message: String) -> Self {
        Self {
            time,
            kind,
            of,
            message: bounded(message),
            count: 1,
            first: None,
        }
    }

    /// When it has happened first.
    pub fn since(&self) -> u64 {
        self.first.unwrap_or(self.time)
    }

    /// Whether this time of many is one to be kept and passed on: the first, and each one that doubles them. So what never ends
    /// costs little, and is not taken for something that happened once.
    pub fn is_milestone(&self) -> bool {
        self.count.is_power_of_two()
    }
}

/// A message of [`MAX_MESSAGE`] bytes at most.
fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE - '…'.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}
