//! The volumes that Tank keeps, beside what is declared: which there are and who names them, what
//! may be removed, and archives of them.
//!
//! *Guarantees*: a volume that the current generation declares, or that a container has mounted, is not
//! removed, and nothing is put in its place meanwhile. What a container was started from says what it has mounted,
//! and of one that was started from something else than the current generation has, anything may be. What the
//! kernel says of its mounts is not asked: a container chooses a part of that.

use super::{Error, Generations, error::Context};
use crate::actuate::volumes::{Outlet, Places, Size, Turn, VolumeError, Volumes, used};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};
use tank_image::{Budget, Share};
use tank_model::{Graph, Name, graph::Node, name::nearest};
use tank_plan::{
    Observed,
    observed::{Run, State},
};
use tokio::{net::unix::pipe, task::spawn_blocking};

/// The most archives that are written or read at once.
pub const MAX_TRANSFERS: usize = 4;

/// What an archive may have: the disk is the bound of its bytes.
const ARCHIVE: Share = Share {
    bytes: 1 << 60,
    entries: 1_000_000,
    time: 2 * 3600 * 1000,
};

/// The longest that the volumes of a list are measured, all together.
const MEASURING: Duration = Duration::from_secs(20);

/// What is longest waited for the containers of a pod to be known.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// A volume that is kept.
#[derive(Clone, Debug)]
pub struct Volume {
    pub pod: Name,
    pub volume: Name,
    pub size: Size,
    /// Whether the current generation declares it.
    pub declared: bool,
    /// The generations that declare it.
    pub generations: Vec<u64>,
    /// Whether a process has it mounted, or may have.
    pub mounted: bool,
    /// When a container with it was started last, in milliseconds since the epoch.
    pub used: Option<u64>,
}

/// What is to be removed.
#[derive(Clone, Debug)]
pub enum Doomed {
    /// These, each as `pod/volume`.
    Named(Vec<String>),
    /// All that no generation declares.
    Orphans,
}

/// A volume that is being written into a pipe.
pub struct Exported {
    volumes: Arc<Volumes>,
    places: Places,
    shown: OwnedFd,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Generations {
    /// Every volume that is kept. Its size is what a look of some seconds finds.
    ///
    /// # Errors
    /// When the store, the host or the disk can't be read.
    pub async fn volumes(self: &Arc<Self>) -> Result<Vec<Volume>, Error> {
        let mut all = self.unmeasured().await?;
        self.measure(&mut all).await?;
        Ok(all)
    }

    /// Says of volumes what they take of the disk, within [`MEASURING`] for all of them.
    async fn measure(self: &Arc<Self>, volumes: &mut Vec<Volume>) -> Result<(), Error> {
        let this = Arc::clone(self);
        let mut measured = std::mem::take(volumes);
        let measure = move || {
            let deadline = Instant::now() + MEASURING;
            for Volume {
                pod, volume, size, ..
            } in &mut measured
            {
                let places = this.volumes.places(pod.as_str(), volume.as_str());
                let found = this.volumes.measure(&places, deadline);
                *size = found.doing("measure a volume")?;
            }
            Ok::<_, Error>(measured)
        };
        let measured = spawn_blocking(measure).await.doing("measure volumes")?;
        *volumes = measured?;
        Ok(())
    }

    async fn unmeasured(self: &Arc<Self>) -> Result<Vec<Volume>, Error> {
        let (_, graph) = self.current()?;
        let observed = self.reconciler.observe(&graph).await?;
        let this = Arc::clone(self);
        let list = move || {
            let kept = this.volumes.kept().doing("list the volumes")?;
            let named = this.named()?;
            let mut list = Vec::new();
            for (pod, volume) in kept {
                list.push(this.volume((pod, volume), &graph, &named, &observed));
            }
            Ok(list)
        };
        spawn_blocking(list).await.doing("list the volumes")?
    }

    fn volume(
        &self,
        (pod, volume): (Name, Name),
        graph: &Graph,
        named: &Named,
        observed: &Observed,
    ) -> Volume {
        let places = self.volumes.places(pod.as_str(), volume.as_str());
        let key = (pod, volume);
        let generations = named.get(&key).cloned().unwrap_or_default();
        let (pod, volume) = key;
        Volume {
            size: Size::default(),
            declared: declares(graph, &pod, &volume),
            generations,
            mounted: has_mounted(observed, graph, &pod, &volume),
            used: used(&places),
            pod,
            volume,
        }
    }

    /// The volumes that any generation declares, and which. Blocking.
    fn named(&self) -> Result<Named, Error> {
        let mut named = Named::new();
        let mut by_root: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for generation in self.store.generations()? {
            let of_root = by_root.entry(generation.root).or_default();
            of_root.push(generation.number);
        }
        for (root, numbers) in by_root {
            let graph = self.graphs.get(root)?;
            for (pod, volume) in managed(&graph) {
                let known: &mut Vec<u64> = named.entry((pod, volume)).or_default();
                known.extend(&numbers);
            }
        }
        named
            .values_mut()
            .for_each(|numbers| numbers.sort_unstable());
        Ok(named)
    }

    /// Removes volumes, all of them or, if one may not go, none; with `dry_run` none in any case. They
    /// are what is given back.
    ///
    /// # Errors
    /// When there is none of a name, one is declared or mounted, or the disk does not let it go.
    pub async fn remove_volumes(
        self: &Arc<Self>,
        doomed: Doomed,
        dry_run: bool,
    ) -> Result<Vec<Volume>, Error> {
        let all = self.unmeasured().await?;
        let mut chosen = match doomed {
            Doomed::Orphans => all
                .into_iter()
                .filter(|one| one.generations.is_empty() && !one.mounted)
                .collect(),
            Doomed::Named(names) => choose(&all, names)?,
        };
        self.measure(&mut chosen).await?;
        // What they were found to be has to be so still.
        let _switching = self.begin(self.store.current()?).await?;
        let now = self.unmeasured().await?;
        for one in &mut chosen {
            let is_it = |other: &&Volume| (&other.pod, &other.volume) == (&one.pod, &one.volume);
            if let Some(found) = now.iter().find(is_it) {
                let size = one.size;
                *one = Volume {
                    size,
                    ..found.clone()
                };
            }
        }
        let uses: Vec<String> = chosen.iter().filter_map(use_of).collect();
        if !uses.is_empty() {
            let help =
                "take it out of the configuration and switch first, or `tank delete` its pod";
            return Err(Error::InUse {
                uses,
                help: help.to_owned(),
            });
        }
        if dry_run {
            return Ok(chosen);
        }
        let this = Arc::clone(self);
        let remove = move || {
            for Volume { pod, volume, .. } in &chosen {
                let places = this.volumes.places(pod.as_str(), volume.as_str());
                this.volumes.remove(&places).doing("remove a volume")?;
                let message = format!("volume {pod}/{volume} is removed");
                this.events.add("volume", Some(pod.as_str()), message);
            }
            Ok(chosen)
        };
        spawn_blocking(remove).await.doing("remove a volume")?
    }

    /// A volume by its name, `pod/volume`, shown as it is: what is to be written into an archive.
    ///
    /// # Errors
    /// When there is none of that name, or too many archives are on their way.
    pub async fn export(self: &Arc<Self>, name: &str) -> Result<Exported, Error> {
        let place = self.transfer()?;
        let kept = || self.volumes.kept().unwrap_or_default();
        let (pod, volume) = split(name).ok_or_else(|| no_such(name, &kept()))?;
        let places = self.volumes.places(pod.as_str(), volume.as_str());
        let this = Arc::clone(self);
        let name = name.to_owned();
        let show = move || {
            let kept = this.volumes.kept().doing("list the volumes")?;
            if !kept.contains(&(pod, volume)) {
                return Err(no_such(&name, &kept));
            }
            let shown = this.volumes.show(&places).doing("look at a volume")?;
            Ok(Exported {
                volumes: Arc::clone(&this.volumes),
                places,
                shown,
                _place: place,
            })
        };
        spawn_blocking(show).await.doing("look at a volume")?
    }

    /// Makes a volume of what comes out of a pipe: all of it is there, or nothing was changed. One
    /// that has something in it is replaced only if that is said, and none while a process has it
    /// mounted. It need not be declared yet.
    ///
    /// # Errors
    /// When it may not be, or what comes is no archive.
    pub async fn import(
        self: &Arc<Self>,
        name: &str,
        replace: bool,
        archive: OwnedFd,
    ) -> Result<u64, Error> {
        let _place = self.transfer()?;
        let what = "import a volume";
        let kept = || self.volumes.kept().unwrap_or_default();
        let (pod, volume) = split(name).ok_or_else(|| no_such(name, &kept()))?;
        let places = Arc::new(self.volumes.places(pod.as_str(), volume.as_str()));
        self.may_replace((&pod, &volume), &places, replace).await?;
        rustix::io::ioctl_fionbio(&archive, true).doing(what)?;
        let archive = pipe::Receiver::from_owned_fd(archive).doing(what)?;
        let budget = Budget::of(ARCHIVE, &self.settings.state_dir, None);
        let begun = Begun::new(&self.volumes, &places).await?;
        let into = begun.dir.try_clone().doing(what)?;
        // Whoever asked may leave: then this ends.
        let _cancel = budget.cancel_on_drop();
        let entries = self.images.unpack(archive, into, &budget).await;
        let entries = entries.doing("read the archive")?;
        // No container starts until it is in its place.
        let pass = tokio::time::timeout(LOCK_WAIT, self.reconciler.lock()).await;
        let _pass = pass.map_err(|_| Error::Busy(None))?;
        self.may_replace((&pod, &volume), &places, replace).await?;
        begun.take().await?;
        let message = format!("volume {pod}/{volume} is imported: {entries} entries");
        self.events.add("volume", Some(pod.as_str()), message);
        Ok(entries)
    }

    /// Refuses to put something in a volume's place.
    async fn may_replace(
        &self,
        (pod, volume): (&Name, &Name),
        places: &Arc<Places>,
        replace: bool,
    ) -> Result<(), Error> {
        let (_, graph) = self.current()?;
        let name = format!("{pod}/{volume}");
        if let Some(declared) = graph.volume(pod, volume)
            && !declared.is_managed()
        {
            let why = format!("`{name}` is none that Tank keeps: it is of the host, or in memory");
            return Err(Error::Invalid(vec![why]));
        }
        let observed = self.reconciler.observe(&graph).await?;
        if has_mounted(&observed, &graph, pod, volume) {
            let why = format!(
                "a container of pod `{pod}` has `{volume}` mounted: `tank delete {pod}` ends it, and keeps its volumes"
            );
            return Err(why).doing("import a volume");
        }
        let (volumes, places) = (Arc::clone(&self.volumes), Arc::clone(places));
        let look = spawn_blocking(move || volumes.has_content(&places)).await;
        let has_content = look.doing("look at a volume")?.doing("look at a volume")?;
        if has_content && !replace {
            let why = format!("`{name}` has something in it: `--replace` removes that");
            return Err(why).doing("import a volume");
        }
        Ok(())
    }

    pub(super) fn transfer(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Error> {
        let place = Arc::clone(&self.transfers).try_acquire_owned();
        place.map_err(|_| Error::TooManyTransfers)
    }
}

impl Exported {
    /// Writes all of it into a pipe. Blocking.
    ///
    /// # Errors
    /// When nobody reads on, the kernel refuses something, or the volume has gone meanwhile.
    pub fn write(self, pipe: OwnedFd) -> Result<tank_image::Exported, Error> {
        let what = "export a volume";
        let mut out = Outlet::new(pipe).doing(what)?;
        let disk = std::path::Path::new("/");
        let share = Share {
            entries: u64::MAX,
            ..ARCHIVE
        };
        let budget = Budget::of(share, disk, None);
        let tally = tank_image::export(self.shown.as_fd(), &mut out, &budget).doing(what)?;
        if !self.volumes.is_shown(&self.places, &self.shown) {
            return Err("it was removed or replaced meanwhile").doing(what);
        }
        Ok(tally)
    }
}

/// What is being imported: it goes with this.
struct Begun {
    volumes: Arc<Volumes>,
    places: Arc<Places>,
    dir: OwnedFd,
    turn: Option<Turn>,
}

impl Begun {
    async fn new(volumes: &Arc<Volumes>, places: &Arc<Places>) -> Result<Self, Error> {
        let (volumes, places) = (Arc::clone(volumes), Arc::clone(places));
        let begin = move || {
            let begun = volumes.begin_import(&places)?;
            Ok::<_, VolumeError>(begun.map(|(dir, turn)| Self {
                volumes,
                places,
                dir,
                turn: Some(turn),
            }))
        };
        let begun = spawn_blocking(begin).await.doing("make a volume")?;
        begun.doing("make a volume")?.ok_or(Error::TooManyTransfers)
    }

    async fn take(mut self) -> Result<(), Error> {
        let turn = self.turn.take();
        let (volumes, places) = (Arc::clone(&self.volumes), Arc::clone(&self.places));
        let take = move || {
            let taken = volumes.end_import(&places, true);
            drop(turn);
            taken
        };
        let taken = spawn_blocking(take).await.doing("make a volume")?;
        taken.doing("make a volume")
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let (volumes, places) = (Arc::clone(&self.volumes), Arc::clone(&self.places));
        let remove = move || {
            // What can't be removed now is swept at the next start.
            let _ = volumes.end_import(&places, false);
            drop(turn);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Which generations declare a volume.
type Named = BTreeMap<(Name, Name), Vec<u64>>;

fn managed(graph: &Graph) -> BTreeSet<(Name, Name)> {
    let volumes = graph.entries().filter_map(|entry| match &entry.key {
        tank_model::Key::Volume(pod, volume) => Some((pod.clone(), volume.clone())),
        _ => None,
    });
    volumes
        .filter(|(pod, volume)| declares(graph, pod, volume))
        .collect()
}

fn declares(graph: &Graph, pod: &Name, volume: &Name) -> bool {
    let volume = graph.volume(pod, volume);
    volume.is_some_and(tank_model::spec::Volume::is_managed)
}

/// Whether a container of a pod has a volume mounted, or may have: of a pod that does not answer, and of a
/// container that the graph does not have as it runs, that is not known.
fn has_mounted(observed: &Observed, graph: &Graph, pod: &Name, volume: &Name) -> bool {
    let Some(found) = observed.pods.get(pod) else {
        return false;
    };
    let may_have = |run: &Run| {
        let entry = graph.entries().find(|entry| entry.hash == run.hash);
        let mounts = entry.and_then(|entry| match &entry.node {
            Node::Container(node) => Some(&node.mounts),
            Node::Init(spec) => Some(&spec.mounts),
            _ => None,
        });
        mounts.is_none_or(|mounts| mounts.values().any(|mount| mount.volume == *volume))
    };
    let mut runs = found.containers.values();
    found.unresponsive.is_some()
        || runs.any(|run| matches!(run.state, State::Running { .. }) && may_have(run))
}

/// Why a volume may not be removed.
fn use_of(one: &Volume) -> Option<String> {
    let Volume { pod, volume, .. } = one;
    if one.declared {
        return Some(format!("pod `{pod}` declares the volume `{volume}`"));
    }
    one.mounted
        .then(|| format!("a container of pod `{pod}` has `{volume}` mounted"))
}

fn choose(all: &[Volume], names: Vec<String>) -> Result<Vec<Volume>, Error> {
    let mut chosen: Vec<Volume> = Vec::new();
    for name in names {
        let names = all.iter().map(|one| (one.pod.clone(), one.volume.clone()));
        let names: Vec<(Name, Name)> = names.collect();
        let (pod, volume) = split(&name).ok_or_else(|| no_such(&name, &names))?;
        let is_it = |one: &&Volume| one.pod == pod && one.volume == volume;
        let found = all
            .iter()
            .find(is_it)
            .ok_or_else(|| no_such(&name, &names))?;
        if !chosen.iter().any(|one| is_it(&one)) {
            chosen.push(found.clone());
        }
    }
    Ok(chosen)
}

fn no_such(name: &str, kept: &[(Name, Name)]) -> Error {
    let names: Vec<String> = kept
        .iter()
        .map(|(pod, volume)| format!("{pod}/{volume}"))
        .collect();
    // The volume alone, or a pod without its stack.
    let ends = |full: &&String| {
        let rest = full.strip_suffix(name);
        rest.is_some_and(|rest| rest.ends_with(['/', ':']))
    };
    let ending = names.iter().find(ends).map(String::as_str);
    let nearest = ending.or_else(|| nearest(name, names.iter().map(String::as_str)));
    Error::NoSuchVolume {
        volume: name.to_owned(),
        nearest: nearest.map(str::to_owned),
    }
}

/// `pod/volume`, and a pod with its stack as everywhere: `blog:db/data`.
fn split(name: &str) -> Option<(Name, Name)> {
    let (pod, volume) = name.split_once('/')?;
    Some((Name::of_pod(pod).ok()?, Name::new(volume).ok()?))
}
