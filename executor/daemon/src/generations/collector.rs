//! Collecting what no generation needs: old generations, and then images, layers, nodes, leases, logs and scratch
//! folders that were only theirs, and what of volumes is kept with them. Volumes are never touched.
//!
//! *Roots*: the generations that are kept, the images of containers that run, and what a change on its way has
//! pulled and not committed yet (`tank_image` holds that). *Order*: generations first, in one synced write with
//! their nodes; then documents before layers. So after a death at any instant each kept generation is whole, and
//! what is left over is collected by the next one.
//!
//! *Beside changes*: a commit and a removal exclude each other (`history`), and nothing else of a change is waited
//! for. Leases, and the folders of pods, are left where a change is under way: the next collection takes them. Locks
//! are taken in this order: `collecting`, the reconciler's, `history`.

use super::{
    Error,
    error::Context,
    leftovers::There,
    retention::{self, History, Policy},
};
use crate::{
    actuate::volumes::{Size, Snapshot, Volumes},
    events::{Events, Kind, now},
    faults,
    reconcile::Reconciler,
    settings::Settings,
    store::{Removal, Store, StoreError, graphs::Graphs},
    trash,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tank_image::{Collection, Images, Sweep, Swept, Tally};
use tank_model::{Digest, Graph, graph::Survey};
use tokio::{
    sync::{Mutex, Notify},
    task::spawn_blocking,
    time::timeout,
};

/// How long a collection waits for another one.
pub(super) const COLLECTION_WAIT: Duration = Duration::from_secs(60);

/// How long it waits for the pass under way before it leaves the folders of pods.
pub(super) const PASS_WAIT: Duration = Duration::from_millis(500);

/// How long it waits until what is removed in the background is gone.
const REMOVING: Duration = Duration::from_secs(10);

/// The nodes of one write, and of one look into the store.
const MAX_NODES: usize = 50_000;

/// What is asked of a collection.
#[derive(Clone, Copy, Debug)]
pub struct Collect {
    /// Nothing is done.
    pub dry: bool,
    pub policy: Policy,
}

/// What was collected, or would be.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    pub generations: BTreeSet<u64>,
    /// Graphs' nodes and generations' lines: their bytes are those of the store's values.
    pub nodes: Tally,
    pub leases: BTreeSet<String>,
    pub images: Swept,
    pub logs: Tally,
    pub scratch: Tally,
    /// What pods have used over time.
    pub figures: Tally,
    /// What of volumes was kept with generations. Their bytes are not known: most are those of the volume
    /// too.
    pub snapshots: Tally,
    /// Which those are, and what each takes with what it shares; none: it was not measured.
    pub swept: Vec<(Snapshot, Option<Size>)>,
    /// What was left, a sentence each.
    pub left: Vec<String>,
}

impl Collected {
    /// Whether anything went.
    pub fn is_empty(&self) -> bool {
        self.generations.is_empty()
            && self.leases.is_empty()
            && self.tallies().iter().all(|(_, tally)| tally.count == 0)
    }

    /// What has a size, by what it is.
    pub fn tallies(&self) -> [(&'static str, Tally); 7] {
        [
            ("nodes", self.nodes),
            ("documents", self.images.documents),
            ("layers", self.images.layers),
            ("logs", self.logs),
            ("scratch", self.scratch),
            ("figures", self.figures),
            ("snapshots", self.snapshots),
        ]
    }

    /// In words, for an event.
    fn words(&self) -> String {
        let generations = self.generations.len();
        let counts = [("generations", generations as u64)].into_iter();
        let tallies = self.tallies();
        let counts = counts.chain(tallies.iter().map(|(what, tally)| (*what, tally.count)));
        let counts = counts.chain([("leases", self.leases.len() as u64)]);
        let counts = counts.filter(|(_, count)| *count > 0);
        let list: Vec<String> = counts
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        let bytes: u64 = tallies.iter().map(|(_, tally)| tally.bytes).sum();
        format!("{}: {} KiB", list.join(", "), bytes.div_ceil(1024))
    }
}

/// What a collection has found out.
pub(super) struct Found {
    history: History,
    outdated: BTreeSet<u64>,
    /// Of what is kept.
    pub(super) survey: Survey,
    /// Nodes that it does not have, with their bytes.
    nodes: Vec<(Digest, u64)>,
    /// Images of containers that run, which nothing kept declares.
    running: BTreeSet<Digest>,
    /// Whether of every container that runs it is known which image it has.
    all_known: bool,
}

/// Collects.
pub struct Collector {
    pub settings: Arc<Settings>,
    pub store: Arc<dyn Store>,
    pub graphs: Arc<Graphs>,
    pub images: Arc<Images>,
    pub volumes: Arc<Volumes>,
    pub events: Arc<Events>,
    pub reconciler: Arc<Reconciler>,
    /// Held by whoever commits a generation, and by whoever removes some.
    pub history: Arc<Mutex<()>>,
    /// Held by whoever collects, or repairs.
    pub collecting: Mutex<()>,
    /// Something may have become old.
    pub due: Notify,
}

impl Collector {
    /// The history as it is. Blocking.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn history(&self) -> Result<History, Error> {
        let current = self.store.current()?;
        let generations = self.store.generations()?.into_iter();
        let generations = generations.map(|one| {
            let outcome = self.store.outcome(one.number)?;
            Ok::<_, Error>((one.number, (one, outcome)))
        });
        Ok(History {
            current,
            generations: generations.collect::<Result<_, _>>()?,
            pins: self.store.pins()?,
        })
    }

    /// Collects what the policy lets go and nothing needs.
    ///
    /// # Errors
    /// When the store or the disk refuses; what was collected by then is gone.
    pub async fn collect(self: &Arc<Self>, how: Collect) -> Result<Collected, Error> {
        let one = timeout(COLLECTION_WAIT, self.collecting.lock()).await;
        let _one = one.map_err(|_| Error::Collecting)?;
        let choose = move |history: &History| history.outdated(how.policy, now());
        let mut collected = Collected::default();
        // Before anything is found out: see `tank_image`.
        let collection = Arc::new(self.images.collection());
        let there = self.there().await;
        let mut removed = self
            .remove_generations(choose, there.as_ref(), how.dry, &mut collected)
            .await;
        if let Err(Error::Reconcile(_)) = &removed
            && !how.dry
        {
            // Where the disk has no space for that, what is not needed as it is makes some.
            let none = |_: &History| BTreeSet::new();
            let found = self.find(none, there.clone()).await?;
            self.sweep_images(&collection, &found, false, &mut collected)
                .await?;
            removed = self
                .remove_generations(choose, there.as_ref(), false, &mut collected)
                .await;
        }
        let found = removed?;
        self.sweep_snapshots(&found.outdated, how.dry, &mut collected)
            .await?;
        self.sweep_images(&collection, &found, how.dry, &mut collected)
            .await?;
        self.sweep_folders(found, there.as_ref(), how.dry, &mut collected)
            .await?;
        collected
            .left
            .extend(std::mem::take(&mut collected.images.left));
        let state = self.settings.state_dir.clone();
        let finish = move || trash::finish(&state, if how.dry { None } else { Some(REMOVING) });
        let removing = spawn_blocking(finish)
            .await
            .doing("remove what is put away")?;
        collected.left.extend(removing);
        if !how.dry && !collected.is_empty() {
            self.events.add(Kind::Collected, None, collected.words());
        }
        Ok(collected)
    }

    /// Deletes generations by their numbers, with the nodes and leases that only they needed.
    ///
    /// # Errors
    /// When one is not there, or needed; none is deleted then.
    pub async fn delete(self: &Arc<Self>, numbers: &BTreeSet<u64>) -> Result<Collected, Error> {
        let one = timeout(COLLECTION_WAIT, self.collecting.lock()).await;
        let _one = one.map_err(|_| Error::Collecting)?;
        let asked = numbers.clone();
        let choose = move |_: &History| asked.clone();
        let mut collected = Collected::default();
        let there = self.there().await;
        self.remove_generations(choose, there.as_ref(), false, &mut collected)
            .await?;
        self.sweep_snapshots(numbers, false, &mut collected).await?;
        let list: Vec<String> = numbers.iter().map(u64::to_string).collect();
        let message = format!("generations deleted: {}", list.join(", "));
        self.events.add(Kind::Deleted, None, message);
        Ok(collected)
    }

    /// The pods that are there. None: that can't be found out.
    async fn there(&self) -> Option<There> {
        let graph = self.store.current().ok()??;
        let graph: Arc<Graph> = self.graphs.of_generation(graph).ok()??;
        let observed = self.reconciler.observe(&graph).await;
        There::of(&observed.ok()?)
    }

    async fn find(
        self: &Arc<Self>,
        choose: impl Fn(&History) -> BTreeSet<u64> + Send + 'static,
        there: Option<There>,
    ) -> Result<Found, Error> {
        let collector = Arc::clone(self);
        let find = move || collector.find_blocking(&choose, there.as_ref());
        spawn_blocking(find)
            .await
            .doing("find out what is needed")?
    }

    /// What is needed of all that is there. Blocking, and without a lock: what is committed meanwhile is added
    /// under it.
    fn find_blocking(
        &self,
        choose: &dyn Fn(&History) -> BTreeSet<u64>,
        there: Option<&There>,
    ) -> Result<Found, Error> {
        let history = self.history()?;
        let outdated = choose(&history);
        let mut found = Found {
            history: History::default(),
            outdated,
            survey: Survey::default(),
            nodes: Vec::new(),
            running: BTreeSet::new(),
            all_known: there.is_some(),
        };
        self.survey(&mut found, history)?;
        let mut last = None;
        loop {
            let next = self.store.node_hashes(last.as_ref(), MAX_NODES)?;
            let Some((end, _)) = next.last() else { break };
            last = Some(*end);
            let hashes = next.iter().map(|(hash, _)| *hash);
            let unneeded = retention::unneeded(&found.history, &found.survey, hashes);
            let nodes = next.into_iter();
            found
                .nodes
                .extend(nodes.filter(|(hash, _)| unneeded.contains(hash)));
        }
        if let Some(there) = there {
            self.find_running(&mut found, there)?;
        }
        Ok(found)
    }

    /// Finds the images of containers that run and that nothing kept declares. Blocking.
    fn find_running(&self, found: &mut Found, there: &There) -> Result<(), Error> {
        let unknown = |survey: &Survey| {
            let runs = there.runs.iter();
            runs.filter(|run| !survey.containers.contains_key(run))
                .copied()
                .collect::<BTreeSet<_>>()
        };
        let mut left = unknown(&found.survey);
        // What runs and is not declared any more was declared lately.
        let mut old = Survey::default();
        for number in found.outdated.iter().rev() {
            if left.is_empty() {
                break;
            }
            let root = self.store.generation(*number)?.map(|one| one.root);
            // Of one that can't be read nothing is known.
            if let Some(root) = root
                && old
                    .add::<StoreError>(root, |hash| self.store.node(hash))
                    .is_ok()
            {
                left.retain(|run| !old.containers.contains_key(run));
            }
        }
        let runs = there.runs.iter();
        found.running = runs
            .filter_map(|run| old.containers.get(run).copied())
            .collect();
        found.all_known = left.is_empty();
        Ok(())
    }

    /// Adds every generation of `history` that stays and was not looked at before. Blocking.
    pub(super) fn survey(&self, found: &mut Found, history: History) -> Result<(), Error> {
        let kept = history.without(&found.outdated);
        for (number, (generation, _)) in &kept.generations {
            let known = found.history.generations.get(number);
            if known.is_some_and(|(known, _)| known.root == generation.root) {
                continue;
            }
            let read = |hash: &Digest| self.store.node(hash);
            let added = found.survey.add::<StoreError>(generation.root, read);
            added.map_err(|source| Error::Unreadable {
                generation: *number,
                source,
            })?;
        }
        found.history = kept;
        Ok(())
    }

    /// Removes the generations that `choose` says, with what only they needed.
    async fn remove_generations(
        self: &Arc<Self>,
        choose: impl Fn(&History) -> BTreeSet<u64> + Clone + Send + 'static,
        there: Option<&There>,
        dry: bool,
        collected: &mut Collected,
    ) -> Result<Found, Error> {
        let mut found = self.find(choose.clone(), there.cloned()).await?;
        // Nobody plans meanwhile with a lease that this takes away.
        let pass = timeout(PASS_WAIT, self.reconciler.lock()).await;
        let there = there.filter(|_| pass.is_ok()).cloned();
        let history = Arc::clone(&self.history).lock_owned().await;
        let collector = Arc::clone(self);
        let remove = move || {
            let _history = history;
            let removal = collector.decide(&mut found, &choose, there.as_ref())?;
            if !dry {
                collector.note_written(&removal.generations)?;
            }
            for batch in retention::in_batches(removal.clone(), MAX_NODES) {
                if dry || batch.is_empty() {
                    continue;
                }
                faults::boundary("before generations are removed");
                collector.store.remove(&batch, found.history.current)?;
                faults::boundary("after generations are removed");
            }
            Ok::<_, Error>((found, removal))
        };
        let (found, removal) = spawn_blocking(remove).await.doing("remove generations")??;
        for (_, bytes) in found
            .nodes
            .iter()
            .filter(|(hash, _)| removal.nodes.contains(hash))
        {
            collected.nodes.add(*bytes);
        }
        collected.generations.extend(removal.generations);
        collected.leases.extend(removal.leases);
        Ok(found)
    }

    /// What is removed of the store, now that nobody changes the history. Blocking.
    fn decide(
        &self,
        found: &mut Found,
        choose: &dyn Fn(&History) -> BTreeSet<u64>,
        there: Option<&There>,
    ) -> Result<Removal, Error> {
        let history = self.history()?;
        let chosen = choose(&history);
        super::history::refuse_needed(&history, &chosen)?;
        // What has become old since then goes the next time.
        found.outdated.retain(|number| chosen.contains(number));
        self.survey(found, history)?;
        let candidates = found.nodes.iter().map(|(hash, _)| *hash);
        let leases = self.store.leases();
        Ok(Removal {
            generations: found.outdated.clone(),
            nodes: retention::unneeded(&found.history, &found.survey, candidates),
            leases: there
                .map(|there| {
                    let strangers = there.strangers(&found.survey);
                    retention::free_leases(&leases, &found.survey, &strangers)
                })
                .unwrap_or_default(),
        })
    }

    async fn sweep_images(
        &self,
        collection: &Arc<Collection>,
        found: &Found,
        dry: bool,
        collected: &mut Collected,
    ) -> Result<(), Error> {
        let images = found.survey.images.keys().chain(&found.running);
        let mut needed: BTreeSet<Digest> = images.copied().collect();
        let own = Arc::clone(&self.images);
        let by_hand = spawn_blocking(move || own.by_hand()).await;
        match by_hand.doing("collect images")? {
            Ok(by_hand) => {
                if dry {
                    Self::say_by_hand(&by_hand, &needed, collected);
                }
                needed.extend(by_hand.iter().map(|kept| kept.digest));
            }
            // Any image may be among them.
            Err(error) => {
                let why = error.message();
                let left = format!(
                    "documents and layers of images: what is kept by hand is not known ({why})"
                );
                collected.left.push(left);
                return Ok(());
            }
        }
        let how = Sweep {
            dry,
            keep_folders: !found.all_known,
        };
        let collection = Arc::clone(collection);
        let sweep = move || collection.sweep(&needed, how, &mut |what| faults::boundary(what));
        let swept = spawn_blocking(sweep).await.doing("collect images")?;
        let swept = swept.map_err(|source| Error::Sweep(Box::new(source)))?;
        let all = &mut collected.images;
        for (sum, more) in [
            (&mut all.documents, swept.documents),
            (&mut all.layers, swept.layers),
        ] {
            sum.count += more.count;
            sum.bytes += more.bytes;
        }
        all.left = swept.left;
        Ok(())
    }
}
