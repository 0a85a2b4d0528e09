//! Volumes over the socket. An archive goes through a pipe that this daemon makes: nothing is ever
//! written to, or read from, a descriptor of the client's.

use super::{
    client::Client,
    refusal::{Refusal, internal},
    streams::while_connected,
};
use crate::generations::{
    Error as Unknown, Generations, backups,
    imports::Imported,
    volumes::{Doomed, Volume},
};
use serde_json::json;
use std::sync::Arc;
use tank_model::{Name, VolumeId};
use tank_proto::varlink::{
    self, BackUpVolumeReply, BackupArchivesReply, BackupsReply, Error, ImportVolumeReply,
    RemoveVolumesCall, RestoreVolumeCall, RestoreVolumeReply, TransferReply, VolumesReply,
};

impl Client {
    /// Every volume that is kept.
    pub(super) async fn volumes(&mut self, generations: &Arc<Generations>) -> Result<(), Refusal> {
        let list = async { Ok(generations.volumes().await?) };
        let list = while_connected(&self.stream, list).await?;
        let mut reply = reply(list);
        for backup in views(generations)? {
            let mut volumes = reply.volumes.iter_mut();
            if let Some(volume) = volumes.find(|volume| volume.name == backup.of) {
                volume.backups.get_or_insert_default().push(backup);
            }
        }
        self.reply(&reply, false, Vec::new()).await
    }

    /// The backups that are declared, and, if that is asked, those that are there of volumes of which none is any more.
    pub(super) async fn backups(
        &mut self,
        generations: &Arc<Generations>,
        with_former: bool,
    ) -> Result<(), Refusal> {
        let backups = views(generations)?;
        let look = async {
            Ok(match with_former {
                true => generations.former_backups().await?,
                false => Vec::new(),
            })
        };
        let former = while_connected(&self.stream, look).await?;
        let view = |one: backups::Former| varlink::FormerBackup {
            volume: one.name,
            of: one.id.to_string(),
            to: one.to,
            generation: one.generation,
            count: one.count as u64,
            newest: one.newest,
        };
        let former: Vec<_> = former.into_iter().map(view).collect();
        let reply = BackupsReply {
            backups,
            former: Some(former).filter(|former| !former.is_empty()),
        };
        self.reply(&reply, false, Vec::new()).await
    }

    /// Makes a backup. Once begun it goes on, whether the client stays or not.
    pub(super) async fn back_up_volume(
        &mut self,
        generations: &Arc<Generations>,
        volume: &str,
    ) -> Result<(), Refusal> {
        let volume = whole_name(generations, volume).await?;
        let made = async { Ok(generations.back_up(&volume).await?) };
        let made = while_connected(&self.stream, made).await?;
        let reply = BackUpVolumeReply {
            archive: made.path.display().to_string(),
            entries: made.entries,
            bytes: made.bytes,
            failed: made.after,
        };
        self.reply(&reply, false, Vec::new()).await
    }

    /// Removes volumes. Once begun it goes on, whether the client stays or not.
    pub(super) async fn remove_volumes(
        &mut self,
        generations: &Arc<Generations>,
        call: RemoveVolumesCall,
    ) -> Result<(), Refusal> {
        let is_set = |flag: Option<bool>| flag == Some(true);
        let flags = (is_set(call.orphans), is_set(call.replaced));
        let doomed = match (call.volumes, flags) {
            (None, (true, false)) => Doomed::Orphans,
            (Some(names), (false, false)) if !names.is_empty() => Doomed::Named(names),
            (Some(names), (false, true)) if !names.is_empty() => {
                let (generations, dry_run) = (Arc::clone(generations), is_set(call.dry_run));
                let work = async move { generations.remove_replaced(names, dry_run).await };
                let removed = tokio::spawn(work).await;
                let removed = removed.map_err(|e| internal("remove volumes", e))??;
                return self.reply(&reply(removed), false, Vec::new()).await;
            }
            _ => {
                let problem = "name volumes, or say `orphans`, and not both";
                return Err(Error::invalid(vec![problem.to_owned()]).into());
            }
        };
        let (generations, dry_run) = (Arc::clone(generations), call.dry_run == Some(true));
        let work = async move { generations.remove_volumes(doomed, dry_run).await };
        let removed = tokio::spawn(work).await;
        let removed = removed.map_err(|e| internal("remove volumes", e))??;
        self.reply(&reply(removed), false, Vec::new()).await
    }

    /// Writes a volume into a pipe that the first reply comes with; the last says that all was written.
    pub(super) async fn export_volume(
        &mut self,
        generations: &Arc<Generations>,
        volume: &str,
        more: bool,
    ) -> Result<(), Refusal> {
        expect_more(more)?;
        let volume = whole_name(generations, volume).await?;
        let exported = generations.export(&volume).await?;
        let (read, write) = pipe()?;
        self.reply(&TransferReply::default(), true, vec![read])
            .await?;
        let work = tokio::task::spawn_blocking(move || exported.write(write));
        let work = async {
            work.await
                .map_err(|e| internal("export a volume", e).into())
        };
        let tally = while_connected(&self.stream, work).await??;
        let reply = TransferReply {
            entries: Some(tally.entries),
            bytes: Some(tally.bytes),
        };
        self.reply(&reply, false, Vec::new()).await
    }

    /// Makes a volume of what comes out of a pipe, whose other end the first reply comes with.
    pub(super) async fn import_volume(
        &mut self,
        generations: &Arc<Generations>,
        (volume, replace): (&str, bool),
        more: bool,
    ) -> Result<(), Refusal> {
        expect_more(more)?;
        let (read, write) = pipe()?;
        self.reply(&ImportVolumeReply::default(), true, vec![write])
            .await?;
        let work = async { Ok(generations.import(volume, replace, read).await?) };
        let imported = while_connected(&self.stream, work).await?;
        let (kept, dropped, still) = kept(&imported);
        let reply = ImportVolumeReply {
            entries: imported.entries,
            bytes: None,
            kept,
            dropped,
            still,
        };
        self.reply(&reply, false, Vec::new()).await
    }

    /// Makes a volume of a backup, or what it was before.
    pub(super) async fn restore_volume(
        &mut self,
        generations: &Arc<Generations>,
        call: RestoreVolumeCall,
    ) -> Result<(), Refusal> {
        let volume = call.volume.as_str();
        let work = async {
            let restored = match (call.replaced == Some(true), call.backup.as_deref()) {
                (false, backup) => generations.restore(volume, backup).await?,
                (true, None) => generations.put_back_replaced(volume).await?,
                (true, Some(_)) => {
                    let problem = "name a backup, or say `replaced`, and not both";
                    return Err(Error::invalid(vec![problem.to_owned()]).into());
                }
            };
            Ok::<_, Refusal>(restored)
        };
        let restored = while_connected(&self.stream, work).await?;
        let (kept, dropped, still) = kept(&restored);
        let reply = RestoreVolumeReply {
            archive: restored.archive.map(|path| path.display().to_string()),
            entries: restored.entries,
            kept,
            dropped,
            still,
        };
        self.reply(&reply, false, Vec::new()).await
    }

    /// The archives of a volume.
    pub(super) async fn backup_archives(
        &mut self,
        generations: &Arc<Generations>,
        volume: &str,
    ) -> Result<(), Refusal> {
        let whole = whole_name(generations, volume).await?;
        let list = async {
            match generations.archives(volume).await {
                // An older generation may have declared one by just this name.
                Err(Unknown::NoSuchVolume { .. }) if whole != volume => {
                    Ok(generations.archives(&whole).await?)
                }
                found => Ok(found?),
            }
        };
        let (_, found) = while_connected(&self.stream, list).await?;
        let view = |(number, one): (u64, backups::Archived)| varlink::Archive {
            number,
            time: one.time,
            bytes: one.bytes,
            path: one.path.display().to_string(),
            empty: one.empty,
        };
        let archives = (1..).zip(found.list).map(view).collect();
        self.reply(&BackupArchivesReply { archives }, false, Vec::new())
            .await
    }
}

/// The whole name of a volume that is read.
async fn whole_name(generations: &Arc<Generations>, volume: &str) -> Result<String, Refusal> {
    let (generations, volume) = (Arc::clone(generations), volume.to_owned());
    let find = tokio::task::spawn_blocking(move || generations.volume_name(&volume));
    find.await
        .map_err(|e| internal("look for a volume", e).into())
}

pub(super) fn expect_more(more: bool) -> Result<(), Refusal> {
    match more {
        true => Ok(()),
        false => Err(Refusal::Service("ExpectedMore", json!({}))),
    }
}

pub(super) fn pipe() -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd), Refusal> {
    tank_sys::namespace::pipe().map_err(|e| internal("make a pipe", e).into())
}

/// What of an answer says what became of what was there.
fn kept(imported: &Imported) -> (Option<String>, Option<bool>, Option<bool>) {
    let replaced = &imported.replaced;
    let kept = replaced.kept.as_ref();
    let kept = kept.map(|path| path.display().to_string());
    let of = |flag: bool| flag.then_some(true);
    (kept, of(replaced.dropped), of(replaced.still))
}

fn views(generations: &Generations) -> Result<Vec<varlink::Backup>, Refusal> {
    let view = |shown: backups::Shown| {
        let (failed, failures, at) = match shown.failed.clone() {
            Some((why, count, at)) => (Some(why), Some(count.into()), Some(at)),
            None => (None, None, None),
        };
        varlink::Backup {
            volume: shown.name(),
            of: shown.id.to_string(),
            to: shown.backup.to,
            every: shown.backup.every.0,
            keep: shown.backup.keep,
            count: shown.count as u64,
            newest: shown.newest,
            running: shown.running,
            failed,
            failures,
            failed_at: at,
            next: shown.next,
            hangs: shown.hangs,
        }
    };
    Ok(generations.backups()?.into_iter().map(view).collect())
}

fn reply(volumes: Vec<Volume>) -> VolumesReply {
    let view = |volume: Volume| varlink::Volume {
        pods: matches!(volume.id, VolumeId::Shared(_))
            .then(|| volume.pods.iter().map(Name::to_string).collect()),
        name: volume.id.to_string(),
        bytes: volume.size.bytes,
        at_least: volume.size.at_least,
        declared: volume.declared,
        generations: volume.generations,
        mounted: volume.mounted,
        supposed: volume.supposed.then_some(true),
        used: volume.used,
        size: volume.limit,
        counting: volume.counting.then_some(true),
        snapshots: Some(volume.snapshots).filter(|all| !all.is_empty()),
        backups: None,
        replaced: volume.replaced.then_some(true),
    };
    VolumesReply {
        volumes: volumes.into_iter().map(view).collect(),
    }
}
