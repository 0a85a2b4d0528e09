//! Which images wrote to a volume in generations that are gone, noted beside it: `.VOLUME.past`.

use super::{
    super::{VolumeError, Volumes},
    Snapshot, Writers, folder,
    gone::{names, numbers},
    is_there, read, unlink,
};
use crate::actuate::volumes::sync_parent;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    path::Path,
};
use tank_model::{Digest, Name};

/// The most bytes of one.
const MAX_PAST: u64 = 16 << 20;

/// How it ends.
const END: &str = ".past";

/// By generation.
type Past = BTreeMap<u64, BTreeSet<Digest>>;

fn read_past(path: &Path) -> Option<Past> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(MAX_PAST).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn write_past(path: &Path, past: &Past) -> io::Result<()> {
    if past.is_empty() {
        return unlink(path);
    }
    let new = path.with_extension("past.new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(past)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_parent(path)
}

impl Volumes {
    /// What was noted of generations that are gone. Blocking.
    pub fn past(&self, (pod, volume): (&Name, &Name)) -> Past {
        read_past(&self.own(pod, volume).past).unwrap_or_default()
    }

    /// Notes that, if the volume is there. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn note_past(&self, (pod, volume): (&Name, &Name), past: Past) -> Result<(), VolumeError> {
        let places = self.own(pod, volume);
        let _turn = self.turn(&places);
        match is_there(&places.volume) {
            true => Ok(write_past(&places.past, &past)?),
            false => Ok(()),
        }
    }

    /// The images that have written to a volume since the last snapshot. None: nobody has kept that. Blocking.
    pub fn writers_now(&self, (pod, volume): (&Name, &Name)) -> Option<BTreeSet<Digest>> {
        self.writers(&self.own(pod, volume), (pod, volume))
    }

    /// Where it is decided what is kept of a volume: with which generation, which one left it, and who had written to it since
    /// what was decided before. Blocking.
    pub fn decided(
        &self,
        (pod, volume): (&Name, &Name),
    ) -> Vec<(u64, u64, Option<BTreeSet<Digest>>)> {
        let mut all = Vec::new();
        for generation in numbers(&folder(&self.settings)) {
            let kept = self.kept_with(generation, pod, volume);
            if is_there(&kept.whole) {
                let by = read(&kept.by).unwrap_or_default();
                let origin = by.until.unwrap_or(generation);
                let images = Some(by.images).filter(|images| !images.is_empty());
                all.push((generation, origin, images));
            }
            if is_there(&kept.none) {
                all.push((generation, generation, None));
            }
        }
        all
    }

    /// Which generation left what a snapshot is of: another one than it is kept with, if it was handed on. Blocking.
    pub fn origin(&self, of: &Snapshot) -> u64 {
        let kept = self.kept_with(of.generation, &of.pod, &of.volume);
        let by: Option<Writers> = read(&kept.by);
        by.and_then(|by| by.until).unwrap_or(of.generation)
    }

    /// Lets go of what was noted of generations from this number on: it is of a store that had others of these numbers.
    pub(super) fn forget_past(&self, from: u64) -> io::Result<()> {
        let root = self.settings.volumes_dir();
        for pod in names(&root).filter(|name| Name::of_pod(name.clone()).is_ok()) {
            let dir = root.join(pod);
            for name in names(&dir).filter(|name| name.starts_with('.') && name.ends_with(END)) {
                let path = dir.join(name);
                let mut past = read_past(&path).unwrap_or_default();
                if past.split_off(&from).is_empty() {
                    continue;
                }
                write_past(&path, &past)?;
            }
        }
        Ok(())
    }
}
