//! Backups of which an earlier generation says where they are, and the current one nothing: a pod was deleted, or its volume.

use super::{Key, declared};
use crate::generations::{Error, Generations};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tank_model::{Digest, Graph, VolumeId, spec::Backup};

/// The most volumes of these.
const MAX_FORMER: usize = 100;

/// When no other folder is begun to be read: one that does not answer takes up to twenty seconds, and is left alone afterwards.
const READING: Duration = Duration::from_secs(10);

/// What there is of a volume of which no backup is declared any more.
#[derive(Clone, Debug)]
pub struct Former {
    /// The pod that said so, and its volume.
    pub name: String,
    /// What was written.
    pub id: VolumeId,
    pub to: String,
    /// The newest generation that says it.
    pub generation: u64,
    pub count: usize,
    /// When the newest was begun, in milliseconds since the epoch.
    pub newest: Option<u64>,
}

/// Of which generation a backup is known.
struct Known {
    id: VolumeId,
    to: String,
    generation: u64,
}

impl Generations {
    /// The backups that are there of volumes of which the current generation declares none, as far as their folders answer.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn former_backups(self: &Arc<Self>) -> Result<Vec<Former>, Error> {
        let (_, current) = self.current()?;
        let known = self.known_before(&declared(&current), current.root())?;
        let mut folders: BTreeMap<String, Vec<Key>> = BTreeMap::new();
        for (key, one) in known.iter().take(MAX_FORMER) {
            folders.entry(one.to.clone()).or_default().push(key.clone());
        }
        let begin = Instant::now();
        let mut former = Vec::new();
        for (to, keys) in folders {
            if begin.elapsed() > READING {
                break;
            }
            let (listed, _) = self.list_folder(&to, &keys, &current).await;
            for (key, listed) in keys.into_iter().zip(listed) {
                if let Some(one) = known.get(&key).filter(|_| listed.count > 0) {
                    former.push(Former {
                        name: format!("{}/{}", key.0, key.1),
                        id: one.id.clone(),
                        to: to.clone(),
                        generation: one.generation,
                        count: listed.count,
                        newest: listed.newest,
                    });
                }
            }
        }
        former.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(former)
    }

    /// Where backups were, by the newest generation that says so, of those that `now` has not.
    fn known_before(
        &self,
        now: &BTreeMap<Key, Backup>,
        current: Digest,
    ) -> Result<BTreeMap<Key, Known>, Error> {
        let mut known = BTreeMap::new();
        for (number, graph) in self.other_graphs(current)? {
            for (key, backup) in declared(&graph) {
                if now.contains_key(&key) || known.contains_key(&key) {
                    continue;
                }
                if let Some(id) = graph.kept_volume(&key.0, &key.1) {
                    let (to, generation) = (backup.to, number);
                    known.insert(key, Known { id, to, generation });
                }
            }
        }
        Ok(known)
    }

    /// The graphs of generations that are not `current`, the newest first, each once with its newest generation's number. Of one
    /// that can't be read nothing is known.
    pub(super) fn other_graphs(
        &self,
        current: Digest,
    ) -> Result<impl Iterator<Item = (u64, Arc<Graph>)> + '_, Error> {
        let mut all = self.store.generations()?;
        all.sort_by_key(|one| std::cmp::Reverse(one.number));
        let mut roots = BTreeSet::from([current]);
        let distinct = all.into_iter().filter(move |one| roots.insert(one.root));
        Ok(distinct.filter_map(|one| Some((one.number, self.graphs.get(one.root).ok()?))))
    }
}
