//! The volumes that Tank keeps, beside what is declared: which there are and who names them, what
//! may be removed, and archives of them.
//!
//! *Guarantees*: a volume that the current generation declares, or that a container has mounted, is not
//! removed, and nothing is put in its place meanwhile. What a container was started from says what it has mounted,
//! and of one that was started from something else than the current generation has, anything may be. What the
//! kernel says of its mounts is not asked: a container chooses a part of that.

use super::{
    Error, Generations,
    data::{add_snapshots, left},
    error::Context,
    kept::{declares, declaring, managed, no_such, who_has, words},
};
use crate::{
    actuate::volumes::{Outlet, Places, Size, Volumes, used},
    events::Kind,
};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};
use tank_image::{Budget, Share};
use tank_model::{Graph, Name, VolumeId};
use tank_plan::Observed;
use tokio::task::spawn_blocking;

/// What an archive may have: the disk is the bound of its bytes.
pub(super) const ARCHIVE: Share = Share {
    bytes: 1 << 60,
    entries: 1_000_000,
    time: 2 * 3600 * 1000,
};

/// The longest that the volumes of a list are measured, all together.
const MEASURING: Duration = Duration::from_secs(20);

/// A volume that is kept.
#[derive(Clone, Debug)]
pub struct Volume {
    pub id: VolumeId,
    pub size: Size,
    /// The pods of the current generation that declare it as theirs.
    pub pods: Vec<Name>,
    /// Whether the current generation declares it.
    pub declared: bool,
    /// The generations that declare it.
    pub generations: Vec<u64>,
    /// Whether a process has it mounted, or may have.
    pub mounted: bool,
    /// It only may have.
    pub supposed: bool,
    /// The most that it may take, as the current generation declares it.
    pub limit: Option<u64>,
    /// Not all that was in it before counts to that yet.
    pub counting: bool,
    /// When a container with it was started last, in milliseconds since the epoch.
    pub used: Option<u64>,
    /// The generations that a snapshot of it is kept with.
    pub snapshots: Vec<u64>,
    /// Whether what it was before the last import is kept.
    pub replaced: bool,
}

/// What is to be removed.
#[derive(Clone, Debug)]
pub enum Doomed {
    /// These, each as `pod/volume`, or as `volume` if pods share it.
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
        let measured = std::mem::take(volumes);
        let measure = move || {
            let deadline = Instant::now() + MEASURING;
            let mut found = Vec::with_capacity(measured.len());
            for mut one in measured {
                match this.volumes.size(&one.id, deadline) {
                    Ok(size) => one.size = size,
                    // It was removed since it was listed.
                    Err(_) if !this.volumes.is_there(&this.volumes.places(&one.id)) => continue,
                    Err(error) => return Err(error).doing("measure a volume"),
                }
                found.push(one);
            }
            Ok::<_, Error>(found)
        };
        let measured = spawn_blocking(measure).await.doing("measure volumes")?;
        *volumes = measured?;
        Ok(())
    }

    pub(super) async fn unmeasured(self: &Arc<Self>) -> Result<Vec<Volume>, Error> {
        let (_, graph) = self.current()?;
        let observed = self.reconciler.observe(&graph).await?;
        let this = Arc::clone(self);
        let list = move || {
            let kept = this.volumes.kept().doing("list the volumes")?;
            let named = this.named()?;
            let mut list = Vec::new();
            for id in kept {
                list.push(this.volume(id, &graph, &named, &observed));
            }
            let snapshots = left(this.volumes.snapshots(), this.store.current()?);
            add_snapshots(&snapshots, &mut list);
            Ok(list)
        };
        spawn_blocking(list).await.doing("list the volumes")?
    }

    fn volume(&self, id: VolumeId, graph: &Graph, named: &Named, observed: &Observed) -> Volume {
        let places = self.volumes.places(&id);
        let last_used = used(&places);
        let holder = who_has(observed, graph, &id, last_used.is_some());
        Volume {
            size: Size::default(),
            pods: declaring(graph, &id),
            declared: declares(graph, &id),
            generations: named.get(&id).cloned().unwrap_or_default(),
            mounted: holder.is_some(),
            supposed: holder.is_some_and(|holder| !holder.is_sure),
            limit: graph.size(&id).map(|size| size.0),
            counting: self.volumes.is_counting(&places),
            used: last_used,
            snapshots: Vec::new(),
            replaced: self.volumes.has_replaced(&places),
            id,
        }
    }

    /// The volumes that any generation declares, and which. Blocking.
    pub(super) fn named(&self) -> Result<Named, Error> {
        let mut named = Named::new();
        let mut by_root: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for generation in self.store.generations()? {
            let of_root = by_root.entry(generation.root).or_default();
            of_root.push(generation.number);
        }
        for (root, numbers) in by_root {
            let graph = self.graphs.get(root)?;
            for id in managed(&graph) {
                let known: &mut Vec<u64> = named.entry(id).or_default();
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
            let is_it = |other: &&Volume| other.id == one.id;
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
            let deletes = chosen.iter().find_map(|one| match &one.id {
                VolumeId::Shared(name) => Some(format!("`tank delete volumes.{name}`")),
                VolumeId::Own(..) => None,
            });
            let deletes = deletes.unwrap_or_else(|| "`tank delete` its pod".to_owned());
            let help = format!("take it out of the configuration and switch first, or {deletes}");
            return Err(Error::InUse { uses, help });
        }
        if dry_run {
            return Ok(chosen);
        }
        let this = Arc::clone(self);
        let remove = move || {
            for Volume { id, .. } in &chosen {
                let places = this.volumes.places(id);
                if let VolumeId::Own(pod, volume) = id {
                    let snapshots = this.volumes.remove_snapshots_of(pod, volume);
                    snapshots.doing("remove the snapshots of a volume")?;
                }
                this.volumes.remove(&places).doing("remove a volume")?;
                this.release_project(id)?;
                let message = format!("volume {id} is removed");
                let pod = id.pod().map(Name::as_str);
                this.events.add(Kind::Volume, pod, message);
            }
            Ok(chosen)
        };
        spawn_blocking(remove).await.doing("remove a volume")?
    }

    /// A volume by its name, `pod/volume` or `volume`, shown as it is: what is to be written into an archive.
    ///
    /// # Errors
    /// When there is none of that name, or too many archives are on their way.
    pub async fn export(self: &Arc<Self>, name: &str) -> Result<Exported, Error> {
        let place = self.transfer()?;
        let kept = || self.volumes.kept().unwrap_or_default();
        let id = VolumeId::parse(name).ok_or_else(|| no_such(name, &kept()))?;
        let places = self.volumes.places(&id);
        let this = Arc::clone(self);
        let name = name.to_owned();
        let show = move || {
            let kept = this.volumes.kept().doing("list the volumes")?;
            if !kept.contains(&id) {
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

/// Which generations declare a volume.
pub(super) type Named = BTreeMap<VolumeId, Vec<u64>>;

/// Why a volume may not be removed.
fn use_of(one: &Volume) -> Option<String> {
    match &one.id {
        VolumeId::Own(pod, volume) if one.declared => {
            Some(format!("pod `{pod}` declares the volume `{volume}`"))
        }
        VolumeId::Own(pod, volume) if one.supposed => Some(format!(
            "a container of pod `{pod}` runs of which it is not known what it has mounted, and `{volume}` was in use once"
        )),
        VolumeId::Shared(name) if one.supposed && !one.declared => Some(format!(
            "a container runs of which it is not known what it has mounted, and the shared volume `{name}` was in use once"
        )),
        VolumeId::Own(pod, volume) => one
            .mounted
            .then(|| format!("a container of pod `{pod}` has `{volume}` mounted")),
        VolumeId::Shared(name) if one.declared && one.pods.is_empty() => {
            Some(format!("the shared volume `{name}` is declared"))
        }
        VolumeId::Shared(name) if one.declared => {
            let pods = words(&one.pods, ", ");
            Some(format!(
                "the shared volume `{name}` is declared, and used by {pods}"
            ))
        }
        VolumeId::Shared(name) => one
            .mounted
            .then(|| format!("a container has the shared volume `{name}` mounted")),
    }
}

pub(super) fn choose(all: &[Volume], names: Vec<String>) -> Result<Vec<Volume>, Error> {
    let mut chosen: Vec<Volume> = Vec::new();
    for name in names {
        let id = VolumeId::parse(&name);
        let found = all.iter().find(|one| Some(&one.id) == id.as_ref());
        let kept = || all.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
        let found = found.ok_or_else(|| no_such(&name, &kept()))?;
        if !chosen.iter().any(|one| one.id == found.id) {
            chosen.push(found.clone());
        }
    }
    Ok(chosen)
}
