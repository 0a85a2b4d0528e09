//! Why a change of the desired state, or a question about it, is refused.

use crate::{actuate::sources::SourceError, reconcile, store::StoreError};
use std::time::Duration;
use tank_model::{Digest, Name, check::Problem, provenance::PodSource};
use tank_plan::{TargetError, unusable::Unusable};

/// What stops a change. Until its commit nothing was disturbed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Reconcile(#[from] reconcile::Error),
    /// Each problem is a sentence with its field.
    #[error("the configuration is not valid: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// What is asked for is nothing that can be done: why.
    #[error("{0}")]
    Unaskable(String),
    /// What is asked for does not fit what the host has.
    #[error("the configuration is not valid: {}", .0.words.join("; "))]
    Unfit(Box<Unfit>),
    /// What would be removed is used by pods that stay; each use is a sentence.
    #[error("what others use can't be removed: {}", uses.join("; "))]
    InUse { uses: Vec<String>, help: String },
    #[error("no such pod: `{pod}`")]
    NoSuchPod {
        pod: String,
        nearest: Option<String>,
        /// The pods of several stacks that are called so.
        several: Vec<String>,
    },
    #[error("no such container in pod `{pod}`")]
    NoSuchContainer {
        pod: Name,
        /// None: it was not named.
        container: Option<String>,
        known: Vec<String>,
    },
    /// What is asked for by hand can't be done so: why.
    #[error("{0}")]
    NotByHand(String),
    /// A run by hand is named where one can't be meant, or one that is over.
    #[error("`{run}`: {why}")]
    OfRun { run: Name, why: String },
    /// What is run by hand was not started.
    #[error("can't run it: {why}")]
    NotRun {
        kind: tank_proto::shim::FailureKind,
        why: String,
    },
    /// A change was committed that decides about what was asked for by hand.
    #[error(
        "generation {generation} ({by}) was committed meanwhile: what its pods are is what it says"
    )]
    Overtaken { generation: u64, by: String },
    #[error("no such network: `{network}`")]
    NoSuchNetwork {
        network: String,
        nearest: Option<String>,
    },
    #[error("no such volume: `{volume}`")]
    NoSuchVolume {
        volume: String,
        nearest: Option<String>,
    },
    #[error("no such image: `{image}`")]
    NoSuchImage {
        image: String,
        nearest: Option<String>,
    },
    #[error("can't load images")]
    Load(#[source] Box<tank_image::Error>),
    #[error("too many archives are on their way")]
    TooManyTransfers,
    #[error("no such stack: `{stack}`")]
    NoSuchStack {
        stack: String,
        nearest: Option<String>,
    },
    #[error("no such generation{}", .0.map(|number| format!(": {number}")).unwrap_or_default())]
    NoSuchGeneration(Option<u64>),
    #[error("generation {0} was deleted")]
    DeletedGeneration(u64),
    /// Each a sentence: a generation and why it stays.
    #[error("{}", .0.join("; "))]
    Undeletable(Vec<String>),
    /// A generation of which it is not known what it needs.
    #[error("can't read what generation {generation} declares")]
    Unreadable { generation: u64, source: StoreError },
    #[error("can't collect images")]
    Sweep(#[source] Box<tank_image::Error>),
    #[error("another collection or check of the store is under way")]
    Collecting,
    #[error("can't get the image `{image}`")]
    Image {
        image: String,
        /// The containers that use it: `pod/container`.
        users: Vec<String>,
        source: tank_image::Error,
    },
    /// What of a bundle is wrong.
    #[error("can't use the bundle: {0}")]
    Bundle(String),
    /// Images can't leave this host, or come to it, as a whole.
    #[error("can't carry the images")]
    Carry(#[source] Box<tank_image::Error>),
    #[error("`{image}` is no reference of an image: {why}")]
    Reference { image: String, why: String },
    /// What a container declares does not fit its image.
    #[error("can't start {pod}/{container}")]
    Target {
        pod: Name,
        container: Name,
        source: TargetError,
    },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("pod `{pod}` comes from {known}, and {asked} is another source")]
    OtherSource {
        pod: String,
        known: PodSource,
        asked: PodSource,
    },
    #[error(
        "what would be done is not that plan: the configuration or the host is another one by now"
    )]
    PlanChanged { expected: String, actual: Digest },
    /// The change that is under way, where that is known.
    #[error("another change is under way")]
    Busy(Option<UnderWay>),
    #[error("generation {generation} ({by}) came first")]
    Superseded {
        generation: u64,
        by: String,
        ended: Option<u64>,
    },
    /// A rollback ended the change that this generation is: which one, is found out by
    /// [`super::Generations::name_successor`].
    #[error("generation {0} was ended on its way")]
    Ended(u64),
    #[error("a rollback ended generation {0} and did not come to its own; tankd goes on")]
    NoSuccessor(u64),
    #[error("the caller has left before the commit")]
    CallerLeft,
    #[error("the pass under way has not ended for {} s", .0.as_secs())]
    PassUnderWay(Duration),
    #[error("no generation before {0} was good and is another one")]
    NothingGood(u64),
    #[error("no generation before {current} was good and has another `{stack}`")]
    NothingGoodOf { current: u64, stack: String },
    /// What to do about another one, beside what it says by itself.
    #[error("{}", tank_sys::with_causes(of.as_ref()))]
    Helped { of: Box<Self>, help: String },
    /// What a process for backups could not do.
    #[error("can't {what}")]
    Backup {
        what: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("can't {what}")]
    Internal {
        what: &'static str,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// The same, with something to do about it.
    #[must_use]
    pub fn helped(self, help: Option<String>) -> Self {
        match help {
            Some(help) => Self::Helped {
                of: Box::new(self),
                help,
            },
            None => self,
        }
    }
}

/// What is wrong with a configuration on this host.
#[derive(Debug)]
pub struct Unfit {
    /// Each problem in words, with its field and its line.
    pub words: Vec<String>,
    pub list: Vec<Misfit>,
}

impl Unfit {
    /// What this host can't give, under a code.
    pub fn on_this_host(found: Vec<(&'static str, Unusable)>) -> Self {
        let words = found.iter().map(|(_, unusable)| unusable.text.clone());
        let words = words.collect();
        let misfit = |(code, Unusable { field, text }): (&'static str, Unusable)| Misfit {
            problem: Problem {
                code,
                path: field,
                message: text,
                help: String::new(),
                related: None,
            },
            place: None,
            related: None,
        };
        Self {
            words,
            list: found.into_iter().map(misfit).collect(),
        }
    }
}

/// A problem, and the lines of it that are known.
#[derive(Debug)]
pub struct Misfit {
    pub problem: Problem,
    pub place: Option<String>,
    /// The other field that has to do with it: its role and where it is.
    pub related: Option<String>,
}

/// A change that is under way.
#[derive(Debug)]
pub struct UnderWay {
    pub generation: u64,
    /// What it came from, in words.
    pub source: String,
    /// The one stack that it concerns. None: several, or pods that belong to none.
    pub stack: Option<String>,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Reconcile(error.into())
    }
}

/// Adds what was attempted to an error of this daemon's own.
pub trait Context<T> {
    /// # Errors
    /// [`Error::Internal`].
    fn doing(self, what: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn doing(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::Internal {
            what,
            source: error.into(),
        })
    }
}
