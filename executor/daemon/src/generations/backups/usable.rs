//! Whether the folders that a change names for backups can be used: looked at before anything is disturbed, and not at the first backup.
//!
//! Only those of backups that are new, or go somewhere else now: a disk that is away for a time keeps no other change waiting.

use super::{
    Key,
    archives::{READ_LIMIT, silent, unexpected},
    wire::{Packet, Work},
};
use crate::generations::{
    Error, Generations,
    error::{Context, Misfit, Unfit},
};
use std::{collections::BTreeMap, error::Error as _};
use tank_model::{
    Graph, Name,
    check::{HOST_BACKUP, Problem},
};
use tank_sys::with_causes;
use tokio::time::timeout;

/// The field of a folder.
fn field(pod: &Name, volume: &Name) -> Vec<String> {
    let parts = [
        "pods",
        pod.as_str(),
        "volumes",
        volume.as_str(),
        "backup",
        "to",
    ];
    parts.map(str::to_owned).to_vec()
}

/// By their folders, the volumes whose backups go to another one than before.
fn new_folders(before: &Graph, after: &Graph) -> BTreeMap<String, Vec<Key>> {
    let known: BTreeMap<(&Name, &Name), &str> = before
        .backups()
        .map(|(pod, volume, backup)| ((pod, volume), backup.to.as_str()))
        .collect();
    let mut new: BTreeMap<String, Vec<Key>> = BTreeMap::new();
    for (pod, volume, backup) in after.backups() {
        if known.get(&(pod, volume)) != Some(&backup.to.as_str()) {
            let of_folder = new.entry(backup.to.clone()).or_default();
            of_folder.push((pod.clone(), volume.clone()));
        }
    }
    new
}

impl Generations {
    /// Refuses a change whose backups go to a folder that is not there, or that can't be used.
    ///
    /// # Errors
    /// [`Error::Unfit`] with each of these.
    pub(in crate::generations) async fn refuse_unusable_folders(
        &self,
        before: &Graph,
        after: &Graph,
    ) -> Result<(), Error> {
        let mut list = Vec::new();
        for (to, volumes) in new_folders(before, after) {
            let Err(error) = self.look_at_folder(&to, &volumes, after).await else {
                continue;
            };
            let why = match error.source() {
                Some(source) => with_causes(source),
                None => error.to_string(),
            };
            list.extend(volumes.iter().map(|(pod, volume)| Misfit {
                problem: Problem {
                    code: HOST_BACKUP,
                    path: field(pod, volume),
                    message: format!("the backups of {pod}/{volume} can't go there: {why}"),
                    help: format!(
                        "name a folder of root's that nobody else can write, outside of what containers reach: `install -d -m 0700 {to}`"
                    ),
                    related: None,
                },
                place: None,
                related: None,
            }));
        }
        let words = list.iter().map(|one: &Misfit| one.problem.message.clone());
        let words: Vec<String> = words.collect();
        match words.is_empty() {
            true => Ok(()),
            false => Err(Error::Unfit(Box::new(Unfit { words, list }))),
        }
    }

    /// Has a folder be opened as a backup does.
    async fn look_at_folder(&self, to: &str, volumes: &[Key], after: &Graph) -> Result<(), Error> {
        let Some(key) = volumes.first() else {
            return Ok(());
        };
        let (mut writer, _looks) = self.look_into((key, to), after, Work::Look(key.clone()))?;
        let said = timeout(READ_LIMIT, writer.next(READ_LIMIT)).await;
        let usable = match said {
            Ok(Ok(Packet::Usable)) => Ok(()),
            Ok(Ok(other)) => unexpected(&other),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                writer.is_still();
                Err(silent(to)).doing("use the folder of backups")
            }
        };
        writer.end(|| ()).await;
        usable
    }
}
