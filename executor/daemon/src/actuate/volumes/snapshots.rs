//! Snapshots of volumes: taken, brought back, shown and removed.
//!
//! They are below `volumes/.snapshots/`, and not beside `volumes/`, since that may be a file system of
//! its own, and a snapshot shares the bytes of files with what it is of: both have to be on one. Below
//! `.snapshots/GENERATION/POD/` there is, for each volume:
//!
//! | name | what it is |
//! |---|---|
//! | `VOLUME` | the volume as that generation left it, whole |
//! | `.VOLUME.by` | which images have written to it since the snapshot before, and which generation left it, if it was handed on from that |
//! | `.VOLUME.none` | that none is kept with it: nothing was there, or it could not be taken |
//! | `.VOLUME.new` | half of one, or of what is brought back: removed at the next try, and at the start |
//! | `.VOLUME.back` | what takes the volume's place, whole; after that, what the volume was |
//! | `.VOLUME.inode` | the inode of what takes its place: which of the two `.VOLUME.back` is |
//!
//! and beside the volume itself `.VOLUME.images`: the images that have written to it since the last
//! snapshot, and the generation that this one is kept with. A snapshot is there once it has its name, and
//! with that the images before it count no more: so whatever ends the daemon, there is none half, none is
//! taken twice, and what a volume has is brought back once.
//!
//! The folder is root's alone, as `volumes/` is: set-id files of a container stay what they are in it,
//! and nobody else gets there. *Never*: takes or brings back what a container has mounted; the plan makes
//! sure of that.

mod gone;
mod past;

pub(super) use gone::sweep;

use super::{Places, VolumeError, Volumes, make_at, make_private, remove, sync_parent};
use crate::{faults, settings::Settings};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};
use tank_image::{Budget, Share};
use tank_model::{Digest, Name};
use tank_plan::observed::VolumeData;

/// The folder of all of them. No pod is called so.
const FOLDER: &str = ".snapshots";

/// How the folder of a generation began that versions before this one were removing.
const TRASH: &str = ".gone-";

/// What one snapshot may take: its bytes are those of the volume.
const SHARE: Share = Share {
    bytes: u64::MAX,
    entries: 1_000_000,
    time: 10 * 60 * 1000,
};

/// The most bytes of a list of images.
const MAX_LIST: u64 = 256 << 10;

/// A volume as a generation left it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Snapshot {
    pub generation: u64,
    pub pod: Name,
    pub volume: Name,
}

/// Where one snapshot is, and what is on the way to it.
struct Kept {
    whole: PathBuf,
    by: PathBuf,
    none: PathBuf,
    new: PathBuf,
    back: PathBuf,
    inode: PathBuf,
}

/// Which images have written to a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Writers {
    images: BTreeSet<Digest>,
    /// Those count no more once something is kept with this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    /// None has, since what is there was put in its place by hand: an archive's, or what was there before one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    imported: bool,
}

impl Writers {
    fn of(images: BTreeSet<Digest>, until: Option<u64>) -> Self {
        Self {
            images,
            until,
            imported: false,
        }
    }
}

fn folder(settings: &Settings) -> PathBuf {
    settings.volumes_dir().join(FOLDER)
}

impl Kept {
    fn new(settings: &Settings, generation: u64, pod: &str, volume: &str) -> Self {
        let dir = folder(settings).join(generation.to_string()).join(pod);
        let beside = |end: &str| dir.join(format!(".{volume}.{end}"));
        Self {
            whole: dir.join(volume),
            by: beside("by"),
            none: beside("none"),
            new: beside("new"),
            back: beside("back"),
            inode: beside("inode"),
        }
    }

    /// Whether it is decided what is kept.
    fn is_decided(&self) -> bool {
        is_there(&self.whole) || is_there(&self.none)
    }

    /// Makes the folder that it is in, to stay.
    fn make_folder(&self) -> io::Result<()> {
        let dir = self.whole.parent().unwrap_or(Path::new("/"));
        if !is_there(dir) {
            make_private(dir)?;
            // The generation's, that of all, and `volumes`.
            for above in dir.ancestors().skip(1).take(3) {
                fs::File::open(above)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Notes that nothing is kept.
    fn decide_none(&self) -> io::Result<()> {
        self.make_folder()?;
        fs::File::create(&self.none)?.sync_all()?;
        sync_parent(&self.none)
    }

    /// Notes who wrote what is about to be kept, as far as that is known; `until`: the generation that it was taken for, where
    /// that is another one.
    fn note_by(&self, images: &BTreeSet<Digest>, until: Option<u64>) -> io::Result<()> {
        let images = images.clone();
        match images.is_empty() && until.is_none() {
            true => unlink(&self.by),
            false => write(&self.by, &Writers::of(images, until)),
        }
    }

    /// Whether `back` is what the volume was, and no more what was made to take its place.
    fn is_exchanged(&self, places: &Places) -> bool {
        let inode = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.ino());
        let record = fs::read_to_string(&self.inode).ok();
        // One that is not whole was not synced: nothing was exchanged after it.
        let Some(made) = record.and_then(|text| text.parse::<u64>().ok()) else {
            return false;
        };
        match inode(&self.back) {
            Some(back) => back != made,
            // There was no volume.
            None => inode(&places.volume) == Some(made),
        }
    }

    /// The last part of bringing something back: what the volume was is kept.
    fn finish(&self, places: &Places) -> Result<(), VolumeError> {
        fs::File::create(&places.filled)?;
        write(&places.images, &Writers::default())?;
        let times = times(&self.back);
        match fs::rename(&self.back, &self.whole) {
            // There was no volume.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.decide_none()?,
            other => other?,
        }
        set_times(&self.whole, times);
        sync_parent(&self.whole)?;
        faults::boundary("what a volume was is kept");
        Ok(unlink(&self.inode)?)
    }

    /// Has what is kept count to no volume's size: it may be millions of files.
    fn uncount(&self) {
        super::limits::uncount(&self.whole);
    }
}

/// When a directory was used and changed.
fn times(path: &Path) -> Option<Timestamps> {
    let found = fs::symlink_metadata(path).ok()?;
    let time = |tv_sec, nanos: i64| Timespec {
        tv_sec,
        tv_nsec: nanos as _,
    };
    Some(Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    })
}

/// Gives a directory these times again: under another parent some file systems count it as changed.
fn set_times(path: &Path, times: Option<Timestamps>) {
    if let Some(times) = times {
        let _ = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn unlink(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a list of images in place of the one before.
fn write(path: &Path, writers: &Writers) -> io::Result<()> {
    let new = path.with_extension("images.new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(writers)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_parent(path)
}

/// Notes that no image has written to what a volume has, where anything was started with what it had before.
pub(super) fn written_by_none(places: &Places) -> io::Result<()> {
    if !is_there(&places.images) && !is_there(&places.used) {
        return Ok(());
    }
    let imported = Writers {
        imported: true,
        ..Writers::default()
    };
    write(&places.images, &imported)
}

fn read(path: &Path) -> Option<Writers> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(MAX_LIST).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

impl Volumes {
    fn kept_with(&self, generation: u64, pod: &Name, volume: &Name) -> Kept {
        Kept::new(&self.settings, generation, pod.as_str(), volume.as_str())
    }

    /// Whether files can share what they have, where volumes are: tried once, with two files. Blocking.
    pub fn can_share(&self) -> bool {
        if let Some(known) = self.shares.get() {
            return *known;
        }
        match self.try_to_share() {
            Ok(()) => *self.shares.get_or_init(|| true),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => false,
            Err(_) => *self.shares.get_or_init(|| false),
        }
    }

    fn try_to_share(&self) -> io::Result<()> {
        let folder = folder(&self.settings);
        make_private(&folder)?;
        let file = || {
            let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
            rustix::fs::open(&folder, flags, Mode::RUSR | Mode::WUSR)
        };
        let (from, into) = (file()?, file()?);
        rustix::io::write(&from, b"x")?;
        Ok(rustix::fs::ioctl_ficlone(&into, &from)?)
    }

    /// What is known of who wrote what a volume has, and whether it is decided what is kept with the
    /// generation `left`. None: there is no such volume. Blocking.
    pub fn data(&self, pod: &Name, volume: &Name, left: Option<u64>) -> Option<VolumeData> {
        let places = self.own(pod, volume);
        let disk = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.dev());
        let own = disk(&places.volume)?;
        let is_decided = |generation| self.kept_with(generation, pod, volume).is_decided();
        Some(VolumeData {
            // Of what a container had once, nobody may have kept who wrote to it: then any image is new.
            images: self
                .writers(&places, (pod, volume))
                .or_else(|| is_there(&places.used).then(BTreeSet::new)),
            kept: left.is_some_and(is_decided),
            imported: read(&places.images).is_some_and(|writers| writers.imported),
            wanted: None,
            origin: None,
            apart: disk(&self.settings.volumes_dir()) != Some(own),
        })
    }

    /// Whether it is decided what is kept of a volume with a generation. Blocking.
    pub fn is_decided(&self, (pod, volume): (&Name, &Name), generation: u64) -> bool {
        self.kept_with(generation, pod, volume).is_decided()
    }

    /// The images that have written to a volume since the last snapshot. None: nobody has kept that.
    fn writers(&self, places: &Places, (pod, volume): (&Name, &Name)) -> Option<BTreeSet<Digest>> {
        let Writers { images, until, .. } = read(&places.images)?;
        let counts = until.is_none_or(|until| !self.kept_with(until, pod, volume).is_decided());
        Some(if counts { images } else { BTreeSet::new() })
    }

    /// Notes that a container of an image is about to start that may write to a volume; `declared` are
    /// the images of all that may. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn note_writer(
        &self,
        (pod, volume): (&Name, &Name),
        image: Digest,
        declared: &BTreeSet<Digest>,
    ) -> Result<(), VolumeError> {
        let places = self.own(pod, volume);
        let _turn = self.turn(&places);
        let known = self.writers(&places, (pod, volume));
        let mut data = VolumeData {
            images: known.clone(),
            ..VolumeData::default()
        };
        data.note(image, declared);
        if data.images == known {
            return Ok(());
        }
        make_private(places.volume.parent().unwrap_or(Path::new("/")))?;
        let images = data.images.unwrap_or_default();
        Ok(write(&places.images, &Writers::of(images, None))?)
    }

    /// Notes of a volume, of which nobody has kept that, which images have written to it. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn adopt_writers(
        &self,
        (pod, volume): (&Name, &Name),
        images: BTreeSet<Digest>,
    ) -> Result<(), VolumeError> {
        let places = self.own(pod, volume);
        if is_there(&places.images) || !is_there(&places.volume) || images.is_empty() {
            return Ok(());
        }
        Ok(write(&places.images, &Writers::of(images, None))?)
    }

    /// Takes a snapshot of a volume, which no container writes to, unless it is decided already. Blocking.
    ///
    /// # Errors
    /// What the kernel gives, or would be more than one may take.
    pub fn take_snapshot(
        &self,
        (pod, volume): (&Name, &Name),
        generation: u64,
    ) -> Result<(), VolumeError> {
        let places = self.own(pod, volume);
        let _turn = self.turn(&places);
        let kept = self.kept_with(generation, pod, volume);
        if kept.is_decided() {
            return Ok(());
        }
        if !is_there(&places.volume) {
            return Ok(kept.decide_none()?);
        }
        kept.make_folder()?;
        let images = self.writers(&places, (pod, volume)).unwrap_or_default();
        let writers = Writers::of(images, Some(generation));
        write(&places.images, &writers)?;
        let from = self.show(&places)?;
        self.share_into(from.as_fd(), &kept.new)?;
        faults::boundary("a snapshot is written");
        kept.note_by(&writers.images, None)?;
        fs::rename(&kept.new, &kept.whole)?;
        sync_parent(&kept.whole)?;
        faults::boundary("a snapshot is whole");
        Ok(())
    }

    /// Has nothing be kept of a volume with a generation, since no snapshot could be taken. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn take_none(
        &self,
        (pod, volume): (&Name, &Name),
        generation: u64,
    ) -> Result<(), VolumeError> {
        Ok(self.kept_with(generation, pod, volume).decide_none()?)
    }

    /// Makes a directory of what another one has, on the disk; what is half done is removed.
    fn share_into(
        &self,
        from: std::os::fd::BorrowedFd<'_>,
        path: &Path,
    ) -> Result<(), VolumeError> {
        let new = make_at(path)?;
        let budget = Budget::of(SHARE, &self.settings.state_dir, None);
        let shared = tank_image::clone_tree(from, new.as_fd(), &budget);
        if let Err(error) = shared {
            drop(new);
            remove(path)?;
            return Err(error.into());
        }
        Ok(rustix::fs::syncfs(&new).map_err(io::Error::from)?)
    }

    /// Puts a copy of a snapshot in the place of a volume, which no container has mounted, and keeps what
    /// that was with the generation `generation`: unless that is decided already. Blocking.
    ///
    /// # Errors
    /// When there is no such snapshot, or what the kernel gives.
    pub fn restore(
        &self,
        (pod, volume): (&Name, &Name),
        from: u64,
        generation: u64,
    ) -> Result<(), VolumeError> {
        let places = self.own(pod, volume);
        let _turn = self.turn(&places);
        let kept = self.kept_with(generation, pod, volume);
        if kept.is_decided() {
            return Ok(());
        }
        // What it was counts to none from then on.
        self.counting.stop(&places);
        if kept.is_exchanged(&places) {
            kept.finish(&places)?;
            kept.uncount();
            return Ok(());
        }
        kept.make_folder()?;
        remove(&kept.back)?;
        unlink(&kept.inode)?;
        let source = self.places_of_snapshot(from, pod, volume);
        let source = self.show(&source).map_err(|error| match error {
            VolumeError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                VolumeError::NoSnapshot(from)
            }
            other => other,
        })?;
        self.share_into(source.as_fd(), &kept.new)?;
        fs::rename(&kept.new, &kept.back)?;
        let inode = fs::symlink_metadata(&kept.back)?.ino();
        let mut record = fs::File::create(&kept.inode)?;
        record.write_all(inode.to_string().as_bytes())?;
        record.sync_all()?;
        sync_parent(&kept.inode)?;
        faults::boundary("what is brought back is whole");
        let by = self.writers(&places, (pod, volume)).unwrap_or_default();
        kept.note_by(&by, None)?;
        make_private(places.volume.parent().unwrap_or(Path::new("/")))?;
        let flags = match is_there(&places.volume) {
            true => RenameFlags::EXCHANGE,
            false => RenameFlags::NOREPLACE,
        };
        let (new, old) = (times(&kept.back), times(&places.volume));
        rustix::fs::renameat_with(CWD, &kept.back, CWD, &places.volume, flags)
            .map_err(io::Error::from)?;
        set_times(&places.volume, new);
        set_times(&kept.back, old);
        sync_parent(&places.volume)?;
        sync_parent(&kept.back)?;
        faults::boundary("what is brought back is in its place");
        kept.finish(&places)?;
        kept.uncount();
        Ok(())
    }

    /// A snapshot, where a volume would be.
    fn places_of_snapshot(&self, generation: u64, pod: &Name, volume: &Name) -> Places {
        let mut places = self.own(pod, volume);
        places.volume = self.kept_with(generation, pod, volume).whole;
        places
    }
}
