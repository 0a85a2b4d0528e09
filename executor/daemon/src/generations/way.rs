//! A way to a generation: what is aimed at, and how it ended.

use crate::reconcile::Planned;
use std::{collections::BTreeSet, sync::Arc};
use tank_model::{Digest, Gate, Graph, Name, Scope};
use tank_plan::{Step, Unmet};
use tank_proto::timing::Span;
use tokio::sync::MutexGuard;

/// What a generation has to be until its way is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Every changed pod is healthy.
    Healthy(Gate),
    /// All it declares runs, or has ended as it may.
    Running,
    /// The same of the changed pods: the others are another stack's, or were no better before.
    ChangedRunning,
    /// Nothing is left to do.
    Done,
}

impl Aim {
    pub fn gate(self) -> Option<Gate> {
        match self {
            Self::Healthy(gate) => Some(gate),
            Self::Running | Self::ChangedRunning | Self::Done => None,
        }
    }
}

/// A plan that was shown and has to be carried out as it is, and the lock under which it was made.
pub struct Verified<'a> {
    pub lock: MutexGuard<'a, ()>,
    pub planned: Planned,
}

/// A way to go.
pub struct Way<'a> {
    pub graph: &'a Arc<Graph>,
    pub previous: &'a Graph,
    pub aim: Aim,
    /// The pods whose health counts.
    pub changed: BTreeSet<Name>,
    /// Whose pods are meant: steps of these and of changed ones count. What can't be done of others is not
    /// what was asked.
    pub scope: &'a Scope,
    /// Nothing is declared anew: the health of pods that are meant counts too where they were repaired on
    /// the way, or wait.
    pub repairs: bool,
    pub verified: Option<Verified<'a>>,
}

/// How a way ended.
#[derive(Default)]
pub struct Reached {
    pub failure: Option<String>,
    /// A rollback ended it on the way: how this one would have ended is not known.
    pub superseded: bool,
    /// Every pod was healthy in the end, whatever was waited for.
    pub all_healthy: bool,
    /// What was done.
    pub steps: Vec<String>,
    /// What pods lacked of the host in the last pass.
    pub unmet: Vec<Unmet>,
}

/// A committed generation that is to be reached and judged.
pub struct Committed<'a> {
    pub number: u64,
    pub parent: Option<u64>,
    pub uid: u32,
    pub graph: Arc<Graph>,
    /// The graph of its parent.
    pub before: Arc<Graph>,
    pub aim: Aim,
    pub scope: Scope,
    pub verified: Option<Verified<'a>>,
}

impl Way<'_> {
    /// Whether a step counts. Data that is to be brought back counts to every change: a generation is not good without it.
    pub fn counts(&self, step: &Step) -> bool {
        if !self.repairs && matches!(step, Step::RestoreVolume { .. }) {
            return true;
        }
        let is_meant = |pod: &Name| self.scope.has(pod) || self.changed.contains(pod);
        step.is_vital() && step.pod().is_none_or(is_meant)
    }
}

/// How a change went.
#[derive(Clone, Debug)]
pub struct Switched {
    /// The current generation afterwards.
    pub generation: u64,
    pub root: Digest,
    pub changed: bool,
    pub rolled_back: bool,
    /// Why what was asked for is not what runs.
    pub failure: Option<String>,
    /// What was put right, where nothing was declared anew.
    pub repaired: Option<Vec<String>>,
    /// What pods lack of the host, and nothing waits for.
    pub unmet: Vec<Unmet>,
    /// What is good to know of it, a sentence each.
    pub notes: Vec<String>,
    pub timings: Option<Vec<Span>>,
}

impl Switched {
    /// The same, with what is good to know of it beside what it says.
    pub(super) fn noting(mut self, notes: Vec<String>) -> Self {
        self.notes.extend(notes);
        self
    }

    pub(super) fn new(
        generation: u64,
        graph: &Graph,
        (failure, unmet): (Option<String>, Vec<Unmet>),
        rolled_back: bool,
    ) -> Self {
        let root = graph.root();
        Self {
            generation,
            root,
            changed: true,
            rolled_back,
            failure,
            repaired: None,
            unmet,
            notes: Vec::new(),
            timings: None,
        }
    }
}
