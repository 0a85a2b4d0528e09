//! Going back to an earlier generation, as a new one.

use super::{
    Error, Generations, ProgressSender, Stage,
    data::Wanted,
    notify,
    provenance::Lines,
    switch::Candidate,
    way::{Aim, Committed, Switched},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tank_model::{Generation, Graph, Outcome, Rollback, Scope, generation::last_good};
use tokio::{sync::MutexGuard, time::sleep};

/// How long a rollback waits for the pass under way: longer than containers are usually given to
/// stop.
const PASS_LIMIT: Duration = Duration::from_secs(120);

/// What is left, and what for.
pub(super) struct Back {
    pub current: Option<u64>,
    /// What the current generation declares.
    pub before: Arc<Graph>,
    /// A change on its way, which is ended by it.
    pub ended: Option<u64>,
    pub candidate: Candidate,
    /// What is good to know of it.
    pub notes: Vec<String>,
}

impl Generations {
    /// Goes back to an earlier generation, as a new one; the newest good one that differs unless
    /// `to` names another. It ends a change that is on its way, and is done when all that it
    /// declares runs. With `stack` only the pods of that stack go back. With `with_data` their volumes
    /// go back as well, as far as there are snapshots.
    ///
    /// # Errors
    /// When there is no such generation, or the store refuses.
    pub async fn rollback(
        &self,
        (to, stack, with_data): (Option<u64>, Option<&str>, bool),
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let result = match stack {
            Some(stack) => {
                self.rollback_part(stack, (to, with_data), uid, progress)
                    .await
            }
            None => {
                self.rollback_until_superseded((to, with_data), uid, progress)
                    .await
            }
        };
        self.name_successor(result).await
    }

    async fn rollback_until_superseded(
        &self,
        (to, with_data): (Option<u64>, bool),
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        // What can't be gone back to ends nothing.
        self.target(to)?;
        let _switching = self.supersede(progress).await?;
        let back = self.whole_back((to, with_data), uid, progress).await?;
        let parent = (back.current, back.before);
        let gone = self
            .go_back(parent, back.ended, back.candidate, progress)
            .await;
        gone.map(|switched| switched.noting(back.notes))
    }

    /// What going back with the whole host means as things are.
    pub(super) async fn whole_back(
        &self,
        (to, with_data): (Option<u64>, bool),
        uid: u32,
        progress: &ProgressSender,
    ) -> Result<Back, Error> {
        let (current, before) = self.current()?;
        let (target, note) = self.target(to)?;
        let is_pending = |number: &u64| {
            self.store
                .outcome(*number)
                .is_ok_and(|outcome| outcome == Outcome::Pending)
        };
        let ended = current.filter(is_pending);
        notify(progress, Stage::Note, note);
        let graph = self.graphs.get(target.root)?;
        // What is on its way to a generation is asked for once more, with its data.
        let (asked, mut data) = match target.rollback {
            Some(Rollback::To(asked)) if ended == Some(target.number) => (asked, target.data),
            _ => (target.number, Wanted::new()),
        };
        let mut notes = Vec::new();
        if with_data && data.is_empty() {
            data = self.wanted_data(asked, &graph, None, progress).await?;
        } else if data.is_empty() {
            notes = self.note_left_data((asked, None), &graph, progress).await;
        }
        let candidate = Candidate {
            graph,
            scope: Scope::Host,
            data,
            source: format!("rollback to {}", target.number),
            uid,
            provenance: Lines::of(target.provenance),
            rollback: Some(Rollback::To(target.number)),
            aim: Aim::Running,
        };
        Ok(Back {
            current,
            before,
            ended,
            candidate,
            notes,
        })
    }

    /// Commits what is gone back to and brings the host there. `pending`: the generation that is ended
    /// by that.
    pub(super) async fn go_back(
        &self,
        (parent, before): (Option<u64>, Arc<Graph>),
        pending: Option<u64>,
        candidate: Candidate,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let notes = self.notes_of_new(&candidate.graph, &candidate.scope).await;
        let number = self
            .committed(parent, &before, &candidate, progress)
            .await?;
        if let Some(pending) = pending {
            self.store.set_outcome(pending, Outcome::RolledBack)?;
        }
        let Candidate {
            graph,
            uid,
            aim,
            scope,
            ..
        } = candidate;
        let committed = Committed {
            number,
            parent,
            uid,
            graph,
            before,
            aim,
            scope,
            verified: None,
        };
        let switched = self.converge(committed, progress).await?;
        Ok(switched.noting(notes))
    }

    /// Takes the right to change the desired state from whoever has it: they stop after the pass
    /// under way.
    pub(super) async fn supersede(
        &self,
        progress: &ProgressSender,
    ) -> Result<MutexGuard<'_, ()>, Error> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.superseding.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.superseding);
        tokio::select! {
            guard = self.switch_lock.lock() => Ok(guard),
            () = progress.closed() => Err(Error::CallerLeft),
            () = sleep(PASS_LIMIT) => Err(Error::PassUnderWay(PASS_LIMIT)),
        }
    }

    /// A generation and how it went.
    pub(super) fn judged(&self, number: u64) -> Result<Option<(Generation, Outcome)>, Error> {
        let found = self.store.generation(number)?;
        found
            .map(|found| Ok((found, self.store.outcome(number)?)))
            .transpose()
    }

    /// Which generation to go back to, and that in words.
    fn target(&self, to: Option<u64>) -> Result<(Generation, String), Error> {
        let read = |number: u64| self.judged(number);
        let current = self.store.current()?.ok_or(Error::NoSuchGeneration(to))?;
        if let Some(number) = to {
            let (found, outcome) = read(number)?.ok_or_else(|| self.no_such(number))?;
            let was = match outcome {
                Outcome::Good => String::new(),
                bad => format!("; it was {bad}"),
            };
            let note = format!("going back to generation {number} ({}){was}", found.source);
            return Ok((found, note));
        }
        let newest = read(current)?.filter(|(_, outcome)| *outcome == Outcome::Pending);
        let by_itself = match newest.as_ref().map(|(newest, _)| newest) {
            // Who asks for what is being done already does not mean the one before.
            Some(newest) if matches!(newest.rollback, Some(Rollback::To(_))) => {
                let note = format!(
                    "generation {current} ({}) is on its way already",
                    newest.source
                );
                return Ok((newest.clone(), note));
            }
            Some(newest) => matches!(newest.rollback, Some(Rollback::Of(_))),
            None => false,
        };
        let found = last_good(current, by_itself, read)?.ok_or(Error::NothingGood(current))?;
        let Generation { number, source, .. } = &found;
        let note = format!(
            "going back to generation {number} ({source}), the newest good one that differs"
        );
        Ok((found, note))
    }
}
