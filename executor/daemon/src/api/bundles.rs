//! Generations and images that leave this host and come to it, over the socket. They go through pipes that this daemon
//! makes, as archives of volumes do.

use super::{
    client::Client,
    refusal::{Refusal, internal},
    streams::while_connected,
    views,
    volumes::{expect_more, pipe},
};
use crate::generations::{
    Generations, MAX_PROGRESS, Progress,
    bundle::{AskedRoot, Bundle, Import},
};
use std::sync::Arc;
use tank_model::diff;
use tank_proto::varlink::{
    self, Error, ExportGenerationReply, ImportGenerationCall, ImportGenerationReply, TransferReply,
};
use tokio::sync::mpsc;

impl Client {
    /// Writes a generation into a pipe that the first reply comes with.
    pub(super) async fn export_generation(
        &mut self,
        generations: &Arc<Generations>,
        number: Option<u64>,
        more: bool,
    ) -> Result<(), Refusal> {
        expect_more(more)?;
        let export = async { Ok(generations.export_generation(number).await?) };
        let export = while_connected(&self.stream, export).await?;
        let (read, write) = pipe()?;
        self.reply(&ExportGenerationReply::default(), true, vec![read])
            .await?;
        let work = async { Ok(export.write(write).await?) };
        let bundle = while_connected(&self.stream, work).await?;
        let reply = ExportGenerationReply {
            bundle: Some(view(bundle)),
        };
        self.reply(&reply, false, Vec::new()).await
    }

    /// Makes what comes out of a pipe, whose other end the first reply comes with, the next generation.
    pub(super) async fn import_generation(
        &mut self,
        generations: &Arc<Generations>,
        call: ImportGenerationCall,
        more: bool,
    ) -> Result<(), Refusal> {
        expect_more(more)?;
        let dry_run = call.dry_run == Some(true);
        let import = Arc::new(to_import(call, self.uid)?);
        let (read, write) = pipe()?;
        self.reply(&ImportGenerationReply::default(), true, vec![write])
            .await?;
        let (sender, mut progress) = mpsc::channel(MAX_PROGRESS);
        let work = async { Ok(generations.take_bundle(read, &import, &sender).await?) };
        let imported = while_connected(&self.stream, work).await?;
        let reply = ImportGenerationReply {
            bundle: Some(view(imported.bundle.clone())),
            ..ImportGenerationReply::default()
        };
        self.reply(&reply, true, Vec::new()).await?;
        if dry_run {
            let intent = &imported.intent;
            let planned = generations.preview(&intent.graph, &intent.before, Some(&intent.scope));
            let planned = planned.await?;
            let changes = views::changes(&diff::diff(&intent.before, &intent.graph));
            let reply = ImportGenerationReply {
                changes: Some(changes),
                steps: Some(planned.plan.steps.iter().map(views::step).collect()),
                waiting: Some(views::not_done(&planned.report)),
                ..ImportGenerationReply::default()
            };
            return self.reply(&reply, false, Vec::new()).await;
        }
        let (generations, import) = (Arc::clone(generations), Arc::clone(&import));
        let work = async move {
            generations
                .switch_to_bundle(imported, &import, &sender)
                .await
        };
        let work = tokio::spawn(work);
        while let Some(progress) =
            while_connected(&self.stream, async { Ok(progress.recv().await) }).await?
        {
            self.import_progress(progress).await?;
        }
        let outcome = work
            .await
            .map_err(|e| internal("carry the change out", e))??;
        let reply = ImportGenerationReply {
            outcome: Some(views::outcome(outcome)),
            ..ImportGenerationReply::default()
        };
        self.reply(&reply, false, Vec::new()).await
    }

    async fn import_progress(&mut self, progress: Progress) -> Result<(), Refusal> {
        let reply = ImportGenerationReply {
            progress: Some(views::progress(progress)),
            ..ImportGenerationReply::default()
        };
        self.reply(&reply, true, Vec::new()).await
    }

    /// Writes images into a pipe that the first reply comes with.
    pub(super) async fn save_images(
        &mut self,
        generations: &Arc<Generations>,
        images: Vec<String>,
        more: bool,
    ) -> Result<(), Refusal> {
        expect_more(more)?;
        let save = async { Ok(generations.save_images(images).await?) };
        let save = while_connected(&self.stream, save).await?;
        let (read, write) = pipe()?;
        self.reply(&TransferReply::default(), true, vec![read])
            .await?;
        let work = async { Ok(save.write(write).await?) };
        let (entries, bytes) = while_connected(&self.stream, work).await?;
        let reply = TransferReply {
            entries: Some(entries),
            bytes: Some(bytes),
        };
        self.reply(&reply, false, Vec::new()).await
    }
}

fn to_import(call: ImportGenerationCall, uid: u32) -> Result<Import, Error> {
    let root = call.root.map(|root| {
        let parsed = root.parse::<AskedRoot>();
        parsed.map_err(|error| Error::invalid(vec![format!("root: {error}")]))
    });
    Ok(Import {
        root: root.transpose()?,
        replace: call.replace == Some(true),
        source: call.source,
        uid,
        wait: call.wait,
        rollback: call.rollback != Some(false),
    })
}

fn view(bundle: Bundle) -> varlink::Bundle {
    varlink::Bundle {
        root: bundle.root.to_string(),
        generation: bundle.generation,
        images: bundle.images,
        layers: bundle.layers,
        bytes: bundle.bytes,
        needs: bundle.needs,
    }
}
