//! Which snapshots there are, and their end: with their generation, with their volume, and of what was
//! left half done.

use super::{
    super::{Places, Size, VolumeError, Volumes, limits, remove, sync_parent},
    Kept, Snapshot, TRASH, folder, is_there, read, set_times, times, unlink,
};
use crate::{faults, settings::Settings};
use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};
use tank_model::{Digest, Name, VolumeId};

/// How stale folders are called, before its number.
const STALE: &str = ".stale-";

impl Volumes {
    /// All snapshots, by their generations. Blocking.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut all = Vec::new();
        for generation in numbers(&folder(&self.settings)) {
            all.extend(self.snapshots_of(generation));
        }
        all.sort();
        all
    }

    /// The snapshots that are kept with a generation, by name. Blocking.
    pub fn snapshots_of(&self, generation: u64) -> Vec<Snapshot> {
        let mut all = Vec::new();
        let dir = folder(&self.settings).join(generation.to_string());
        for pod in names(&dir).filter_map(|name| Name::of_pod(name).ok()) {
            let volumes = names(&dir.join(pod.as_str()));
            for volume in volumes.filter_map(|name| Name::new(name).ok()) {
                let pod = pod.clone();
                all.push(Snapshot {
                    generation,
                    pod,
                    volume,
                });
            }
        }
        all.sort();
        all
    }

    /// Removes the snapshots of a volume, which is about to be removed itself. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn remove_snapshots_of(&self, pod: &Name, volume: &Name) -> Result<(), VolumeError> {
        let places = self.own(pod, volume);
        let _turn = self.turn(&places);
        for generation in numbers(&folder(&self.settings)) {
            let kept = self.kept_with(generation, pod, volume);
            if is_there(&kept.whole) {
                remove(&kept.whole)?;
                sync_parent(&kept.whole)?;
                unlink(&kept.by)?;
            }
        }
        unlink(&places.past)?;
        Ok(())
    }

    /// Which images have written what a snapshot is of. None: that was not kept.
    fn written_by(&self, of: &Snapshot) -> Option<BTreeSet<Digest>> {
        let kept = self.kept_with(of.generation, &of.pod, &of.volume);
        let images = read(&kept.by)?.images;
        Some(images).filter(|images| !images.is_empty())
    }

    /// Has a snapshot be kept with another generation. Whatever ends the daemon, it is with one of the two, and with the
    /// first one it is handed on again. Blocking.
    fn hand(&self, of: &Snapshot, to: u64) -> io::Result<()> {
        let places = self.own(&of.pod, &of.volume);
        let _turn = self.turn(&places);
        let kept = |generation| self.kept_with(generation, &of.pod, &of.volume);
        let (from, to) = (kept(of.generation), kept(to));
        to.make_folder()?;
        let by = self.written_by(of).unwrap_or_default();
        to.note_by(&by, Some(self.origin(of)))?;
        let times = times(&from.whole);
        rustix::fs::renameat_with(CWD, &from.whole, CWD, &to.whole, RenameFlags::NOREPLACE)?;
        set_times(&to.whole, times);
        sync_parent(&to.whole)?;
        sync_parent(&from.whole)?;
        faults::boundary("a snapshot is handed on");
        Ok(())
    }

    /// Has what is kept with generations other than these be removed in the background, but for what is `handed` to one of them:
    /// which snapshots those were. With `dry` none goes. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn sweep_snapshots(
        &self,
        kept: &BTreeSet<u64>,
        handed: &BTreeMap<Snapshot, u64>,
        dry: bool,
    ) -> io::Result<Vec<Snapshot>> {
        let folder = folder(&self.settings);
        let mut swept = Vec::new();
        for generation in numbers(&folder).filter(|number| !kept.contains(number)) {
            for snapshot in self.snapshots_of(generation) {
                match handed.get(&snapshot) {
                    Some(to) if !dry => self.hand(&snapshot, *to)?,
                    Some(_) => {}
                    None => swept.push(snapshot),
                }
            }
            if dry {
                continue;
            }
            remove(&folder.join(generation.to_string()))?;
            faults::boundary("a generation's snapshots are out of the way");
        }
        Ok(swept)
    }

    /// What a snapshot takes, with what it shares with the volume and with others. Blocking.
    ///
    /// # Errors
    /// When it is not there any more, or can't be looked at.
    pub fn snapshot_size(&self, of: &Snapshot, until: Instant) -> Result<Size, VolumeError> {
        let places = self.places_of_snapshot(of.generation, &of.pod, &of.volume);
        self.measure(&places, until)
    }

    /// Marks as stale what is kept with generations from this number on: none of them was left yet, so it is of a store that
    /// had others of these numbers. It is not removed, since it may be all that there is. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn mark_stale(&self, from: u64) -> io::Result<Vec<(u64, PathBuf)>> {
        let folder = folder(&self.settings);
        let mut stale = Vec::new();
        self.forget_past(from)?;
        for number in numbers(&folder).filter(|number| *number >= from) {
            let old = folder.join(number.to_string());
            for copy in 0u64.. {
                let path = folder.join(format!("{STALE}{number}-{copy}"));
                let flags = RenameFlags::NOREPLACE;
                match rustix::fs::renameat_with(CWD, &old, CWD, &path, flags) {
                    Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                    other => {
                        other?;
                        stale.push((number, path));
                        break;
                    }
                }
            }
        }
        Ok(stale)
    }
}

pub(super) fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The generations that something is kept with.
pub(super) fn numbers(folder: &Path) -> impl Iterator<Item = u64> + use<> {
    names(folder).filter_map(|name| name.parse().ok())
}

/// Finishes or removes what an earlier daemon has left half done. Before anything is started.
pub(in super::super) fn sweep(settings: &Settings) {
    let all = folder(settings);
    for name in names(&all).filter(|name| name.starts_with(TRASH)) {
        warn(remove(&all.join(name)).map_err(VolumeError::from));
    }
    for generation in numbers(&all) {
        let dir = all.join(generation.to_string());
        for pod in names(&dir) {
            for name in names(&dir.join(&pod)) {
                let Some((volume, end)) = name
                    .strip_prefix('.')
                    .and_then(|name| name.rsplit_once('.'))
                else {
                    continue;
                };
                let (Ok(of), Ok(volume)) = (Name::of_pod(&pod), Name::new(volume)) else {
                    continue;
                };
                let kept = Kept::new(settings, generation, &pod, volume.as_str());
                let places = Places::new(settings, &VolumeId::Own(of, volume));
                warn(settle(&kept, &places, end));
            }
        }
    }
}

fn settle(kept: &Kept, places: &Places, end: &str) -> Result<(), VolumeError> {
    match end {
        "new" => Ok(remove(&kept.new)?),
        "by" if [&kept.whole, &kept.back, &kept.inode]
            .into_iter()
            .any(|path| is_there(path)) =>
        {
            Ok(())
        }
        "by" => Ok(unlink(&kept.by)?),
        "inode" if kept.is_decided() => Ok(unlink(&kept.inode)?),
        "back" | "inode" if kept.is_exchanged(places) => {
            kept.finish(places)?;
            // Nobody waits for that.
            let whole = kept.whole.clone();
            let thread = std::thread::Builder::new().name("uncounting".to_owned());
            thread.spawn(move || limits::uncount(&whole))?;
            Ok(())
        }
        "back" | "inode" => {
            remove(&kept.back)?;
            Ok(unlink(&kept.inode)?)
        }
        _ => Ok(()),
    }
}

fn warn(done: Result<(), VolumeError>) {
    if let Err(error) = done {
        let error = tank_sys::with_causes(&error);
        tracing::warn!(error, "half a snapshot stays");
    }
}
