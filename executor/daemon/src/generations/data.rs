//! The data of volumes over generations: what a rollback brings back, and what a failed switch says of
//! it.
//!
//! A snapshot that is kept with a generation is what that one left, and also what those before it left,
//! as far as no snapshot was taken then: the same images went on with the same data. So a rollback takes
//! of each volume the earliest one at or after the generation that it leads to; and where that one's generation goes, one
//! that is kept and goes back to it has it from then on ([`super::handed`]).
//!
//! The generation that is committed says which ones it wants, and what is brought back is proven by what
//! is kept with the generation before it. So it happens once, whatever ends the daemon, and never again
//! while that generation is the current one.
//!
//! *Never*: brings back data unasked. What a switch that failed has left may hold what somebody relies on; its failure says which command brings back what was there before.

use super::{
    Collected, Collector, Error, Generations, ProgressSender, Stage,
    error::Context,
    handed::{Known, handed, is_used},
    kept::managed,
    notify,
    switch::Candidate,
    volumes::Volume,
    written::{History, known},
};
use crate::{actuate::volumes::Snapshot, events::Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tank_model::{Graph, Name, Outcome, Rollback, VolumeId};
use tokio::{sync::mpsc, task::spawn_blocking};

/// By pod and volume, the generation whose snapshot takes the volume's place.
pub type Wanted = BTreeMap<Name, BTreeMap<Name, u64>>;

/// The longest that snapshots are measured which a collection would remove.
const MEASURING: Duration = Duration::from_secs(10);

fn is_of(stack: Option<&str>, name: &Name) -> bool {
    stack.is_none_or(|stack| name.stack() == Some(stack))
}

/// Those of generations before the current one: no other was left, and what is there all the same is of another store.
pub(super) fn left(mut all: Vec<Snapshot>, current: Option<u64>) -> Vec<Snapshot> {
    all.retain(|one| current.is_some_and(|current| one.generation < current));
    all
}

/// The earliest snapshot of a volume at or after a generation.
pub(super) fn earliest(all: &[Snapshot], (pod, volume): (&Name, &Name), at: u64) -> Option<u64> {
    let own = all.iter().filter(|one| one.generation >= at);
    let own = own.filter(|one| one.pod == *pod && one.volume == *volume);
    own.map(|one| one.generation).min()
}

/// Says of volumes which snapshots of them there are.
pub(super) fn add_snapshots(all: &[Snapshot], volumes: &mut [Volume]) {
    for Volume { id, snapshots, .. } in volumes {
        let VolumeId::Own(pod, volume) = id else {
            continue;
        };
        let own = all
            .iter()
            .filter(|one| one.pod == *pod && one.volume == *volume);
        snapshots.extend(own.map(|one| one.generation));
    }
}

impl Collector {
    /// Removes what of volumes was kept with generations that are gone, unless one that is kept goes back to it: that has it from
    /// then on. `dry` only counts, as if `outdated` were gone.
    pub(super) async fn sweep_snapshots(
        &self,
        outdated: &BTreeSet<u64>,
        dry: bool,
        collected: &mut Collected,
    ) -> Result<(), Error> {
        // No generation is committed, and with that none left, between the two looks.
        let history = Arc::clone(&self.history).lock_owned().await;
        let (store, volumes) = (Arc::clone(&self.store), Arc::clone(&self.volumes));
        let graphs = Arc::clone(&self.graphs);
        let outdated = outdated.clone();
        let sweep = move || {
            let all = store.generations()?.into_iter().map(|one| one.number);
            let kept = all.filter(|one| !dry || !outdated.contains(one));
            let kept: BTreeSet<u64> = kept.collect();
            let known = known(&volumes, left(volumes.snapshots(), store.current()?));
            let read = History::read(&*store, &graphs, &volumes)?;
            let declared = |number, of: (&Name, &Name)| read.declared(number, of);
            let handed = handed(&known, &kept, declared, |of| read.written(of));
            let swept = volumes.sweep_snapshots(&kept, &handed, dry);
            drop(history);
            let swept = swept.doing("look for snapshots of volumes")?;
            let until = Instant::now() + MEASURING;
            let size = |one: &Snapshot| match dry {
                true => volumes.snapshot_size(one, until).ok(),
                false => None,
            };
            let swept = swept.into_iter().map(|one| (size(&one), one));
            let swept: Vec<_> = swept.map(|(size, one)| (one, size)).collect();
            let said = known.into_iter().filter_map(|Known { snapshot, origin }| {
                let to = handed.get(&snapshot)?;
                let Snapshot { pod, volume, .. } = snapshot;
                Some(format!(
                    "what generation {origin} left of {pod}/{volume}: generation {to} goes back to it, and has it from then on"
                ))
            });
            Ok::<_, Error>((swept, said.collect::<Vec<_>>()))
        };
        let swept = spawn_blocking(sweep).await.doing("remove snapshots")?;
        let (swept, said) = swept?;
        collected.snapshots.count += swept.len() as u64;
        collected.swept.extend(swept);
        collected.left.extend(said);
        Ok(())
    }
}

impl Generations {
    /// All snapshots of volumes, of generations that were left.
    ///
    /// # Errors
    /// When the store can't be read, or the thread that reads them has panicked.
    pub(super) async fn snapshots(&self) -> Result<Vec<Snapshot>, Error> {
        let current = self.store.current()?;
        let volumes = Arc::clone(&self.volumes);
        let read = spawn_blocking(move || left(volumes.snapshots(), current)).await;
        read.doing("look for snapshots")
    }

    /// What data a generation wants that comes after `parent`: what was asked for, and what `parent`
    /// was to bring back and has not, unless somebody asks for another generation. And marks as stale what is
    /// kept as if `parent` or a later one had been left.
    ///
    /// # Errors
    /// When the store or the disk refuses.
    pub(super) async fn carried_data(
        &self,
        parent: Option<u64>,
        candidate: &Candidate,
    ) -> Result<Wanted, Error> {
        let mut wanted = candidate.data.clone();
        for (pod, volume, from) in self.pending_data(parent, candidate)? {
            wanted.entry(pod).or_default().entry(volume).or_insert(from);
        }
        let volumes = Arc::clone(&self.volumes);
        let stale = spawn_blocking(move || volumes.mark_stale(parent.unwrap_or(0))).await;
        let stale = stale.doing("look for snapshots")?;
        self.say_stale(stale.doing("mark snapshots as stale")?);
        Ok(wanted)
    }

    fn say_stale(&self, stale: Vec<(u64, PathBuf)>) {
        for (number, path) in stale {
            let path = path.display();
            let message = format!(
                "snapshots of a generation {number} are of another store, which had one of that number: they are at {path} now"
            );
            self.events.add(Kind::Volume, None, message);
        }
    }

    /// What data a generation was to bring back and has not, as far as the next one has these volumes.
    fn pending_data(
        &self,
        number: Option<u64>,
        candidate: &Candidate,
    ) -> Result<Vec<(Name, Name, u64)>, Error> {
        let mut pending = Vec::new();
        let before = number.map(|number| self.judged(number)).transpose()?;
        let Some((before, outcome)) = before.flatten() else {
            return Ok(pending);
        };
        let asks_for_another = matches!(candidate.rollback, Some(Rollback::To(_)));
        let Some(left) = before.parent.filter(|_| !asks_for_another) else {
            return Ok(pending);
        };
        // What was kept goes with the generation that it is kept with: without it nothing is proven.
        if outcome == Outcome::Good || self.store.generation(left)?.is_none() {
            return Ok(pending);
        }
        let managed = managed(&candidate.graph);
        for (pod, own) in before.data {
            for (volume, from) in own {
                let id = VolumeId::Own(pod.clone(), volume.clone());
                let is_there = managed.contains(&id) && self.store.generation(from)?.is_some();
                if is_there && !self.volumes.is_decided((&pod, &volume), left) {
                    pending.push((pod.clone(), volume, from));
                }
            }
        }
        Ok(pending)
    }

    /// Which snapshots make the volumes of a graph what they were when a generation was left; of one
    /// stack, if that is named. Says of each volume what comes of it.
    ///
    /// # Errors
    /// As [`Generations::snapshots`].
    pub(super) async fn wanted_data(
        &self,
        number: u64,
        graph: &Graph,
        stack: Option<&str>,
        progress: &ProgressSender,
    ) -> Result<Wanted, Error> {
        let all = self.snapshots().await?;
        let read = History::read(&*self.store, &self.graphs, &self.volumes)?;
        let mut wanted = Wanted::new();
        for id in managed(graph) {
            let (pod, volume) = match &id {
                VolumeId::Own(pod, volume) => (pod.clone(), volume.clone()),
                VolumeId::Shared(name) if is_of(stack, name) => {
                    let note =
                        format!("{id} stays as it is: of one that pods share no snapshot is taken");
                    notify(progress, Stage::Note, note);
                    continue;
                }
                VolumeId::Shared(_) => continue,
            };
            if !is_of(stack, &pod) {
                continue;
            }
            let Some(from) = earliest(&all, (&pod, &volume), number) else {
                let note = format!(
                    "{pod}/{volume} stays as it is: no snapshot of it is kept with generation {number} or a later one"
                );
                notify(progress, Stage::Note, note);
                continue;
            };
            let snapshot = Snapshot {
                generation: from,
                pod: pod.clone(),
                volume: volume.clone(),
            };
            let origin = self.volumes.origin(&snapshot);
            let (of, own) = ((&pod, &volume), graph.writers(&pod, &volume));
            if !is_used(&read.written(of), number, origin, &own) {
                let note = format!(
                    "{pod}/{volume} stays as it is: the first that is kept of it is what generation {origin} left, and other images have written to it by then; `tank generations rollback {from} --with-data` brings that back"
                );
                notify(progress, Stage::Note, note);
                continue;
            }
            let note = format!("{pod}/{volume} becomes what generation {origin} left");
            notify(progress, Stage::Note, note);
            wanted.entry(pod).or_default().insert(volume, from);
        }
        Ok(wanted)
    }

    /// What a rollback without data says of it: that volumes stay, and which it could bring back.
    pub(super) async fn note_left_data(
        &self,
        (number, stack): (u64, Option<&str>),
        graph: &Graph,
        progress: &ProgressSender,
    ) -> Vec<String> {
        let (unread, _) = mpsc::channel(1);
        // Where that can't be found out, nothing is to be said.
        let wanted = self.wanted_data(number, graph, stack, &unread).await;
        let note = left_note((number, stack), &wanted.unwrap_or_default());
        note.iter()
            .for_each(|note| notify(progress, Stage::Note, note));
        note.into_iter().collect()
    }

    /// Refuses to commit what wants snapshots of generations that were deleted meanwhile.
    ///
    /// # Errors
    /// [`Error::DeletedGeneration`].
    pub(super) fn refuse_deleted_data(&self, wanted: &Wanted) -> Result<(), Error> {
        let sources: BTreeSet<u64> = wanted
            .values()
            .flat_map(|own| own.values().copied())
            .collect();
        for from in sources {
            if self.store.generation(from)?.is_none() {
                return Err(self.no_such(from));
            }
        }
        Ok(())
    }

    /// What a switch that is put back says of the data that its parent starts on, if anything.
    pub(super) async fn left_data(&self, parent: Option<u64>, number: u64) -> Option<String> {
        let parent = parent?;
        let all = self.snapshots().await.ok()?;
        let kept = all.into_iter().filter(|one| one.generation == parent);
        let names: Vec<String> = kept
            .map(|Snapshot { pod, volume, .. }| format!("{pod}/{volume}"))
            .collect();
        (!names.is_empty()).then(|| {
            format!(
                "\n  the data of {} stay as generation {number} left them: `tank generations rollback {parent} --with-data` brings back what was there before it",
                names.join(", ")
            )
        })
    }

    /// Notes of volumes that containers of an older Tank write to which images those are of, and marks as stale what is kept
    /// of another store. Before anything is started. Blocking.
    ///
    /// # Errors
    /// When the store or the disk refuses.
    pub fn adopt_volumes(&self) -> Result<(), Error> {
        let (current, graph) = self.current()?;
        // Before what no generation has is collected.
        let stale = self.volumes.mark_stale(current.unwrap_or(0));
        self.say_stale(stale.doing("mark snapshots as stale")?);
        for id in managed(&graph) {
            let VolumeId::Own(pod, volume) = id else {
                continue;
            };
            let images = graph.writers(&pod, &volume);
            let adopted = self.volumes.adopt_writers((&pod, &volume), images);
            adopted.doing("look at a volume")?;
        }
        Ok(())
    }
}

/// That volumes stay as they are, where `wanted` would come back.
fn left_note((number, stack): (u64, Option<&str>), wanted: &Wanted) -> Option<String> {
    let volumes = wanted.iter();
    let volumes =
        volumes.flat_map(|(pod, own)| own.keys().map(move |name| format!("{pod}/{name}")));
    let volumes: Vec<String> = volumes.collect();
    if volumes.is_empty() {
        return None;
    }
    let of = stack.map(|stack| format!("--stack {stack} "));
    let (of, volumes) = (of.unwrap_or_default(), volumes.join(", "));
    Some(format!(
        "volumes stay as they are: `tank generations rollback {of}{number} --with-data` would bring back {volumes} as well"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_without_data_says_which_it_leaves() {
        let name = |text: &str| Name::new(text).expect("a name");
        let own = BTreeMap::from([(name("data"), 4), (name("up"), 5)]);
        let wanted = Wanted::from([(name("db"), own)]);
        assert_eq!(left_note((3, None), &Wanted::new()), None);
        assert_eq!(
            left_note((3, None), &wanted).expect("a note"),
            "volumes stay as they are: `tank generations rollback 3 --with-data` would bring back db/data, db/up as well"
        );
        let of = left_note((3, Some("blog")), &wanted).expect("a note");
        assert!(
            of.contains("`tank generations rollback --stack blog 3 --with-data`"),
            "{of}"
        );
    }

    #[test]
    fn a_volume_goes_back_to_what_the_first_one_left_that_changed_it() {
        let name = |text: &str| Name::new(text).expect("a name");
        let (db, web, data) = (name("db"), name("web"), name("data"));
        let one = |generation, pod: &Name| Snapshot {
            generation,
            pod: pod.clone(),
            volume: data.clone(),
        };
        let all = [one(3, &db), one(4, &web), one(7, &db)];
        let at = |number| earliest(&all, (&db, &data), number);
        assert_eq!(
            [at(1), at(3), at(4), at(7), at(8)],
            [Some(3), Some(3), Some(7), Some(7), None]
        );
        assert_eq!(earliest(&all, (&web, &data), 5), None);
        assert_eq!(earliest(&all, (&db, &db), 1), None);
    }
}
