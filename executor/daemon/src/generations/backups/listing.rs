//! What the folders have of the backups that are declared, as far as they answer.

use super::{
    Backups, Key, Known, declared, spread,
    wire::{Listed, Packet, Work},
    writer::Writer,
};
use crate::{
    events::now,
    generations::{Error, Generations},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tank_model::{Graph, spec::Backup};
use tank_plan::backups::{Series, since_boot};
use tank_sys::clock::boot_millis;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

/// How long a folder may take to be read, with all that there is of the volumes whose backups it has.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// When one that was not read in time is read again, in milliseconds.
const READ_AGAIN: u64 = 600_000;

/// How many folders are read at once: one that does not answer keeps none of the others from that.
const READ_AT_ONCE: usize = 4;

impl Backups {
    /// Those of which it is not known what their folders have, by folder. No other is known any more, but for those that are being made.
    fn unknown(&self, declared: &BTreeMap<Key, Backup>) -> BTreeMap<String, Vec<Key>> {
        let mut new: BTreeMap<String, Vec<Key>> = BTreeMap::new();
        let mut known = self.known();
        // One that is being made is known until it has ended.
        known.retain(|key, one| one.series.running || declared.contains_key(key));
        for (key, backup) in declared {
            match known.get_mut(key) {
                // What is declared meanwhile counts once it has ended.
                Some(one) if one.series.running => continue,
                Some(one) if one.backup.to == backup.to => {
                    one.is_to_be(backup);
                    let again = one.unread.is_some_and(|at| at <= boot_millis());
                    if !again || self.hold(key, &backup.to).is_some() {
                        continue;
                    }
                }
                _ => {}
            }
            new.entry(backup.to.clone()).or_default().push(key.clone());
        }
        new
    }

    /// Notes what a folder has, or when it is read again since it did not answer.
    fn note(&self, key: Key, backup: &Backup, listed: Result<Listed, u64>) {
        let (boot, wall) = (boot_millis(), now());
        let unread = listed.err();
        let listed = listed.unwrap_or_default();
        let dated: Vec<u64> = listed.dated.into_iter().collect();
        let series = Series {
            every: backup.every.0,
            known: boot,
            newest: since_boot(boot, wall, &dated),
            failed: None,
            running: false,
            held: false,
            spread: spread(&key),
        };
        let mut one = Known {
            series,
            backup: backup.clone(),
            newest: listed.newest,
            count: listed.count,
            failed: None,
            unread,
        };
        let mut known = self.known();
        // Somebody else may have looked at it meanwhile, and begun one.
        if let Some(there) = known.get(&key) {
            let is_old = there.unread.is_some() || there.backup.to != one.backup.to;
            if there.series.running || !is_old {
                return;
            }
            if there.backup.to == one.backup.to {
                (one.series.failed, one.failed) = (there.series.failed, there.failed.clone());
            }
        }
        known.insert(key, one);
    }
}

impl Generations {
    /// Knows of each backup that is declared what its folder has, and of no other. Gives the current graph.
    pub(super) async fn look_at_backups(self: &Arc<Self>) -> Result<Arc<Graph>, Error> {
        let (_, graph) = self.current()?;
        let declared = Arc::new(declared(&graph));
        let mut waiting = self.backups.unknown(&declared).into_iter();
        let mut reading = JoinSet::new();
        loop {
            while reading.len() < READ_AT_ONCE
                && let Some((to, keys)) = waiting.next()
            {
                let (this, graph) = (Arc::clone(self), Arc::clone(&graph));
                let declared = Arc::clone(&declared);
                reading.spawn(async move {
                    let (listed, again) = this.list_folder(&to, &keys, &graph).await;
                    let mut listed = listed.into_iter();
                    for key in keys {
                        let of_it = listed.next().ok_or(again);
                        if let Some(backup) = declared.get(&key) {
                            this.backups.note(key, backup, of_it);
                        }
                    }
                });
            }
            if reading.join_next().await.is_none() {
                return Ok(graph);
            }
        }
    }

    /// What a folder has of some volumes, of as many as it says in time, and when it is to be asked again for the others. Of one that
    /// can't be read nothing is there: whoever writes to it finds out why.
    pub(super) async fn list_folder(
        self: &Arc<Self>,
        to: &str,
        keys: &[Key],
        graph: &Graph,
    ) -> (Vec<Listed>, u64) {
        let later = boot_millis().saturating_add(READ_AGAIN);
        let Some(first) = keys.first() else {
            return (Vec::new(), later);
        };
        // Once nothing hangs there.
        if self.backups.hold(first, to).is_some() {
            return (Vec::new(), 0);
        }
        let order = self.order(to, graph, Work::List(keys.to_vec()));
        let mut writer = match Writer::start(&self.backups.writers, first, &order) {
            Ok(writer) => writer,
            Err(error) => {
                let why = tank_sys::with_causes(&error);
                tracing::warn!(to, why, "a folder of backups is not read");
                return (Vec::new(), later);
            }
        };
        let mut listed = Vec::new();
        let deadline = Instant::now() + READ_LIMIT;
        let mut why = None;
        while listed.len() < keys.len() {
            // Each is to come by then, whatever it says meanwhile.
            let next = timeout_at(deadline, writer.next(READ_LIMIT)).await;
            match next {
                Ok(Ok(Packet::Listed(one))) => listed.push(one),
                // It is not there, or may not be used.
                Ok(Err(Error::Backup { .. })) => listed.resize(keys.len(), Listed::default()),
                Ok(Ok(_)) | Err(_) => {
                    let limit = READ_LIMIT.as_secs();
                    why = Some(format!("`{to}` was not read in {limit} s"));
                    writer.is_still();
                    break;
                }
                Ok(Err(error)) => {
                    why = Some(tank_sys::with_causes(&error));
                    break;
                }
            }
        }
        match self.end_writer(writer, first, why).await {
            true => (listed, 0),
            false => (listed, later),
        }
    }
}
