//! The methods that keep a host in order: deleting generations, collecting, checking.

use super::{
    client::Client,
    refusal::{Refusal, internal},
    streams::while_connected,
    views,
};
use crate::generations::{Collected, Damage, DiskUse, Generations, Inspected, MAX_PROGRESS};
use std::sync::Arc;
use tank_model::diff;
use tank_proto::varlink::{self, BroughtBack, DiffRollbackReply};
use tokio::sync::mpsc;

/// The most snapshots that are named of a collection.
const MAX_NAMED: usize = 1_000;

impl Client {
    /// What a rollback would do.
    pub(super) async fn diff_rollback(
        &mut self,
        generations: &Generations,
        back: (Option<u64>, Option<&str>, bool),
        uid: u32,
    ) -> Result<(), Refusal> {
        let look = async { Ok(generations.preview_rollback(back, uid).await?) };
        let preview = while_connected(&self.stream, look).await?;
        let data = preview.data.into_iter().map(|one| BroughtBack {
            volume: one.volume,
            generation: one.generation,
            time: one.time,
        });
        let changes = diff::diff(&preview.before, &preview.after);
        let planned = preview.planned;
        let reply = DiffRollbackReply {
            generation: preview.to,
            notes: preview.notes,
            data: data.collect(),
            changes: views::changes(&changes),
            steps: planned.plan.steps.iter().map(views::step).collect(),
            waiting: views::not_done(&planned.report),
            parent: preview.parent,
        };
        self.reply(&reply, false, Vec::new()).await
    }

    pub(super) async fn delete_generations(
        &mut self,
        generations: &Generations,
        numbers: Vec<u64>,
    ) -> Result<(), Refusal> {
        let collected = generations.delete_generations(numbers).await?;
        let collected = self::collected(collected);
        let reply = varlink::DeleteGenerationsReply { collected };
        self.reply(&reply, false, Vec::new()).await
    }

    pub(super) async fn pin_generation(
        &mut self,
        generations: &Generations,
        number: u64,
        pinned: bool,
    ) -> Result<(), Refusal> {
        let generation = views::generation(&generations.pin(number, pinned).await?);
        let reply = varlink::PinGenerationReply { generation };
        self.reply(&reply, false, Vec::new()).await
    }

    pub(super) async fn collect(
        &mut self,
        generations: Arc<Generations>,
        dry: bool,
        (keep, older_than): (Option<u64>, Option<u64>),
    ) -> Result<(), Refusal> {
        // Whoever leaves does not end it halfway.
        let work = async move { generations.collect(dry, keep, older_than).await };
        let work = tokio::spawn(work);
        let done = async { work.await.map_err(|e| internal("collect", e).into()) };
        let collected = while_connected(&self.stream, done).await??;
        let collected = self::collected(collected);
        let reply = varlink::CollectReply { collected };
        self.reply(&reply, false, Vec::new()).await
    }

    /// What takes the disk. Measuring ends when the client leaves.
    pub(super) async fn disk_usage(
        &mut self,
        generations: &Arc<Generations>,
        only_advice: bool,
    ) -> Result<(), Refusal> {
        if only_advice {
            let advise = async { Ok(generations.space_advice().await) };
            let advice = while_connected(&self.stream, advise).await?;
            let free = generations.free_space().await?;
            let reply = varlink::DiskUsageReply {
                parts: Vec::new(),
                total: free.total,
                free: free.free,
                advice: Some(advice),
            };
            return self.reply(&reply, false, Vec::new()).await;
        }
        let measure = async { Ok(generations.disk().await?) };
        let disk = while_connected(&self.stream, measure).await?;
        let part = |part: DiskUse| varlink::DiskPart {
            kind: part.kind.to_owned(),
            count: part.count,
            bytes: part.size.map(|size| size.bytes),
            at_least: part.size.is_some_and(|size| size.at_least),
            freed: part.freed,
        };
        let reply = varlink::DiskUsageReply {
            parts: disk.parts.into_iter().map(part).collect(),
            total: disk.total,
            free: disk.free,
            advice: None,
        };
        self.reply(&reply, false, Vec::new()).await
    }

    pub(super) async fn check_store(
        &mut self,
        generations: Arc<Generations>,
        repair: bool,
        more: bool,
    ) -> Result<(), Refusal> {
        let (sender, mut progress) = mpsc::channel(MAX_PROGRESS);
        let work = async move { generations.inspect(repair, &sender).await };
        let work = tokio::spawn(work);
        // A client that leaves drops the receiver, which ends the check.
        while let Some(progress) =
            while_connected(&self.stream, async { Ok(progress.recv().await) }).await?
        {
            if more {
                let reply = varlink::CheckStoreReply {
                    progress: Some(views::progress(progress)),
                    report: None,
                };
                self.reply(&reply, true, Vec::new()).await?;
            }
        }
        let found = work.await.map_err(|e| internal("check the store", e))??;
        let reply = varlink::CheckStoreReply {
            progress: None,
            report: Some(report(found)),
        };
        self.reply(&reply, false, Vec::new()).await
    }
}

fn collected(collected: Collected) -> varlink::Collected {
    let kinds = collected.tallies().into_iter();
    let kinds = kinds.map(|(kind, tally)| varlink::Leftover {
        kind: kind.to_owned(),
        count: tally.count,
        bytes: tally.bytes,
    });
    let swept = collected.swept.into_iter().take(MAX_NAMED);
    let swept = swept.map(|(snapshot, size)| varlink::SweptSnapshot {
        generation: snapshot.generation,
        volume: format!("{}/{}", snapshot.pod, snapshot.volume),
        bytes: size.map(|size| size.bytes),
        at_least: size.is_some_and(|size| size.at_least),
    });
    let swept: Vec<_> = swept.collect();
    varlink::Collected {
        snapshots: Some(swept).filter(|swept| !swept.is_empty()),
        kinds: kinds.collect(),
        generations: collected.generations.into_iter().collect(),
        leases: collected.leases.into_iter().collect(),
        left: collected.left,
    }
}

fn report(found: Inspected) -> varlink::StoreReport {
    let damage = |damage: Damage| varlink::Damage {
        what: damage.what,
        why: damage.why,
        images: damage.images.into_iter().collect(),
        generations: damage.generations.into_iter().collect(),
        pods: damage.pods.iter().map(ToString::to_string).collect(),
        help: damage.help.filter(|_| !damage.repaired),
        repaired: damage.repaired,
    };
    varlink::StoreReport {
        generations: found.generations,
        nodes: found.nodes,
        leases: found.leases,
        documents: found.documents,
        layers: found.layers,
        bytes: found.bytes,
        unverified: found.unverified,
        damages: found.damages.into_iter().map(damage).collect(),
        restart: found.restart.into_iter().collect(),
    }
}
