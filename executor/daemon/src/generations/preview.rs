//! What a rollback would do: the same as it does, up to its commit. Nothing is ended, taken or kept.

use super::{Error, Generations, MAX_PROGRESS, Stage};
use crate::{
    actuate::volumes::Snapshot,
    reconcile::{Planned, Way},
};
use std::sync::Arc;
use tank_model::{Graph, Name, Rollback};
use tokio::sync::mpsc;

/// What a rollback would do.
pub struct Preview {
    /// Which generation is gone back to.
    pub to: u64,
    /// What the rollback would say of itself.
    pub notes: Vec<String>,
    pub parent: Option<u64>,
    pub before: Arc<Graph>,
    pub after: Arc<Graph>,
    pub planned: Planned,
    pub data: Vec<BroughtBack>,
}

/// A volume that would become what a generation left.
pub struct BroughtBack {
    pub volume: String,
    pub generation: u64,
    /// When the one after it was committed, in milliseconds since the epoch.
    pub time: Option<u64>,
}

impl Generations {
    /// What [`Generations::rollback`] would do.
    ///
    /// # Errors
    /// As that, as far as it would not have begun.
    // long: what a rollback does, step for step, and nothing done
    pub async fn preview_rollback(
        &self,
        (to, stack, with_data): (Option<u64>, Option<&str>, bool),
        uid: u32,
    ) -> Result<Preview, Error> {
        let (progress, mut said) = mpsc::channel(MAX_PROGRESS);
        let back = match stack {
            Some(stack) => {
                let how = (to, with_data, false);
                self.stack_back(stack, how, uid, &progress).await?
            }
            None => self.whole_back((to, with_data), uid, &progress).await?,
        };
        drop(progress);
        let mut notes = Vec::new();
        while let Ok(progress) = said.try_recv() {
            if matches!(progress.stage, Stage::Note) {
                notes.push(progress.message);
            }
        }
        let candidate = back.candidate;
        let (Some(Rollback::To(to) | Rollback::Part(to) | Rollback::Of(to)), after) =
            (candidate.rollback, candidate.graph)
        else {
            return Err(Error::NoSuchGeneration(to));
        };
        let all = self.store.generations()?;
        let left_at = |from: u64| {
            let mut later = all.iter().filter(|one| one.number > from);
            later.next().map(|next| next.time)
        };
        let volumes = candidate.data.iter().flat_map(|(pod, own)| {
            let one = move |(volume, from): (&Name, &u64)| {
                let snapshot = Snapshot {
                    generation: *from,
                    pod: pod.clone(),
                    volume: volume.clone(),
                };
                (format!("{pod}/{volume}"), self.volumes.origin(&snapshot))
            };
            own.iter().map(one)
        });
        let data = volumes.map(|(volume, generation)| BroughtBack {
            volume,
            generation,
            time: left_at(generation),
        });
        let data = data.collect();
        let way = Way {
            left: back.current,
            back: true,
            wanted: candidate.data,
        };
        let before = back.before;
        let change = (Some(way), Some(&candidate.scope));
        let planned = self.reconciler.plan_on(&after, Some(&before), change);
        let planned = planned.await?;
        Ok(Preview {
            to,
            notes,
            parent: back.current,
            before,
            after,
            planned,
            data,
        })
    }
}
