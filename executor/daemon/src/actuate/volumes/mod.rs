//! Managed volumes: the directories that Tank keeps for pods, below `volumes/` of the state folder, and
//! for several pods together, below `shared-volumes/`.
//!
//! On disk, ids are those of the container: a mount shows them through the pod's id map, so a file of
//! user 33 is user 33's in every pod. Below `volumes/POD/`, and below `shared-volumes/`, there is for each
//! volume (no name of one begins with a dot):
//!
//! | name | what it is |
//! |---|---|
//! | `VOLUME` | the volume |
//! | `.VOLUME.new` | what it will be, half done: removed when its turn comes |
//! | `.VOLUME.whole` | what it will be, whole on the disk: put in its place when its turn comes |
//! | `.VOLUME.filled` | that the image's content was put into it, or an archive's |
//! | `.VOLUME.used` | when a container with it was started last: its time |
//! | `.VOLUME.began` | when it began, since there was none: its time |
//! | `.VOLUME.imported` | which directories were imported and never opened for a container since: see `replaced` |
//! | `.VOLUME.counting` | that what is in it does not count to its project yet: see `limits` |
//! | `.VOLUME.images` | which images have written to it: see [`snapshots`] |
//! | `.VOLUME.past` | which images wrote to it in generations that are gone |
//! | `.VOLUME.replaced` | what it was before the last import: see `replaced` |
//! | `.VOLUME.older` | the same of the import before, while that one's place is taken |
//! | `.VOLUME.import`, `.VOLUME.gone` | half of what is imported, or removed: put away at the start |
//!
//! and in `volumes/.trash/` and `shared-volumes/.trash/` what is removed in the background: see [`trash`].
//!
//! So whatever ends the daemon, no container starts with half of what an image has. *Never*: looks a
//! path up in what a container may write, but for a `sub_path`: beneath the volume's descriptor, a
//! name at a time, through no link and onto no other file system.

mod backup;
mod counting;
mod error;
mod kept;
mod limits;
mod outlet;
mod replaced;
pub(super) mod snapshots;
pub(super) mod sub_path;
mod turns;

pub use backup::{Shared, Sharing};
use counting::Counting;
pub use error::{SubPathError, VolumeError};
pub(super) use kept::sweep;
pub use kept::{Size, began, measure, used};
pub use limits::{Unlimitable, is_full};
pub use outlet::Outlet;
pub use replaced::Replaced;
pub use snapshots::Snapshot;
pub use turns::Turn;
use turns::Turns;

use crate::{dirty::Dirty, faults, settings::Settings, trash};
use rustix::{
    fs::{Dir, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
};
use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};
use tank_image::{Budget, Images};
use tank_model::{Name, VolumeId};
use tank_plan::target::{Content, Folder, Quota};

/// The mode of a volume's directory that nobody has set.
const DEFAULT_MODE: u32 = 0o755;

/// The longest that is waited until what counts to a volume's size, and is being removed, is gone.
const SETTLING: Duration = Duration::from_secs(5);

/// The volumes of a host.
pub struct Volumes {
    settings: Arc<Settings>,
    images: Arc<Images>,
    turns: Turns,
    counting: Counting,
    /// Those that an archive is being read for.
    imports: Turns,
    /// Whether files can share what they have, once that was tried.
    shares: OnceLock<bool>,
    /// How many snapshots were taken for backups: each has a name of its own.
    shares_taken: AtomicU64,
}

/// Where the parts of one volume are.
pub struct Places {
    volume: PathBuf,
    new: PathBuf,
    whole: PathBuf,
    filled: PathBuf,
    used: PathBuf,
    began: PathBuf,
    imported: PathBuf,
    images: PathBuf,
    past: PathBuf,
    counting: PathBuf,
    import: PathBuf,
    replaced: PathBuf,
    older: PathBuf,
    gone: PathBuf,
}

impl Places {
    fn new(settings: &Settings, volume: &VolumeId) -> Self {
        let dir = settings.volume_dir(volume);
        let name = match volume {
            VolumeId::Own(_, name) | VolumeId::Shared(name) => name,
        };
        let beside = |end: &str| dir.with_file_name(format!(".{name}.{end}"));
        Self {
            new: beside("new"),
            whole: beside("whole"),
            filled: beside("filled"),
            used: beside("used"),
            began: beside("began"),
            imported: beside("imported"),
            images: beside("images"),
            past: beside("past"),
            counting: beside("counting"),
            import: beside("import"),
            replaced: beside("replaced"),
            older: beside("older"),
            gone: beside("gone"),
            volume: dir,
        }
    }
}

impl Volumes {
    pub fn new(settings: Arc<Settings>, images: Arc<Images>, dirty: Arc<Dirty>) -> Self {
        let turns = Turns::default();
        Self {
            settings,
            images,
            counting: Counting::new(turns.clone(), dirty),
            turns,
            imports: Turns::default(),
            shares: OnceLock::new(),
            shares_taken: AtomicU64::new(0),
        }
    }

    /// Of one that a pod does not share.
    fn own(&self, pod: &Name, volume: &Name) -> Places {
        self.places(&VolumeId::Own(pod.clone(), volume.clone()))
    }

    pub fn places(&self, volume: &VolumeId) -> Places {
        Places::new(&self.settings, volume)
    }

    /// Waits until nobody else changes where the volume is.
    fn turn(&self, places: &Places) -> Turn {
        self.turns.take(&places.volume)
    }

    /// Opens what a mount shows of a managed volume, made if it is missing. Blocking: it may copy
    /// what an image has.
    ///
    /// # Errors
    /// What of it can't be had.
    pub fn open(
        &self,
        id: &VolumeId,
        sub_path: Option<&str>,
        (folder, content): (&Folder, &[Content]),
        quota: Option<&Quota>,
    ) -> Result<OwnedFd, VolumeError> {
        let places = self.places(id);
        // Of a volume that pods share each may start: one makes what is missing, the others find it.
        let _turn = self.turn(&places);
        let (volume, is_counted) = self.ensure(&places, (folder, content), quota)?;
        if let Some(quota) = quota.filter(|_| !is_counted) {
            self.counting.begin(self.places(id), *quota)?;
        }
        kept::note_use(&places)?;
        replaced::note_use(&places, &volume)?;
        match sub_path {
            None => Ok(volume),
            Some(path) => {
                let new = sub_path::New {
                    folder,
                    beside: &places.new,
                };
                Ok(sub_path::open(volume, path, Some(&new))?)
            }
        }
    }

    /// What of a volume is to be there, and whether all that is in it counts to its size.
    fn ensure(
        &self,
        places: &Places,
        (folder, content): (&Folder, &[Content]),
        quota: Option<&Quota>,
    ) -> Result<(OwnedFd, bool), VolumeError> {
        make_private(places.volume.parent().unwrap_or(Path::new("/")))?;
        adopt(places)?;
        let found = open_dir(&places.volume);
        let begins = match &found {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(dir) => !content.is_empty() && !places.filled.exists() && is_untouched(dir)?,
        };
        if begins {
            match self.begin(places, content, quota) {
                Ok(has) if has || found.is_err() => {
                    if found.is_err() {
                        kept::note_begin(places)?;
                    }
                    finish(places)?;
                    adopt(places)?;
                }
                other => {
                    // What was copied by then may be much.
                    remove(&places.new)?;
                    other.map_err(|error| match quota {
                        Some(quota) if is_full(&error) => VolumeError::TooLarge(quota.bytes),
                        _ => error,
                    })?;
                }
            }
        }
        let is_counted = quota.map_or(Ok(true), |quota| limits::limit(places, quota))?;
        let volume = open_dir(&places.volume)?;
        set(&volume, folder)?;
        Ok((volume, is_counted))
    }

    /// Makes what a volume begins with, beside it; whether an image has a directory there.
    fn begin(
        &self,
        places: &Places,
        content: &[Content],
        quota: Option<&Quota>,
    ) -> Result<bool, VolumeError> {
        let new = make_at(&places.new)?;
        if let Some(quota) = quota {
            settle(&places.new);
            limits::hold(new.as_fd(), quota)?;
            limits::begin(new.as_fd(), limits::id_of(places, quota)?)?;
        }
        let budget = Budget::new(&self.settings.state_dir);
        let copy = |content: &Content| {
            self.images
                .copy_out(content.image, &content.path, new.as_fd(), &budget)
        };
        let mut empty = None;
        for one in content {
            match copy(one)? {
                None => {}
                Some(0) => empty = empty.or(Some(one)),
                Some(_) => return Ok(true),
            }
        }
        // Nothing is in any of them: the owner and the mode are those of the first.
        let Some(first) = empty else { return Ok(false) };
        copy(first)?;
        Ok(true)
    }
}

/// Gives what was beside a volume before, and counts to it until it is removed, some time to go: its successor is held to the same
/// limit.
fn settle(beside: &Path) {
    for folder in beside.ancestors().skip(1).take(2) {
        trash::wait(folder, SETTLING);
    }
}

/// Makes an empty directory beside a volume, for what is to become it.
fn make_at(path: &Path) -> io::Result<OwnedFd> {
    make_private(path.parent().unwrap_or(Path::new("/")))?;
    remove(path)?;
    make_empty(path)
}

fn make_empty(path: &Path) -> io::Result<OwnedFd> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    let new = open_dir(path)?;
    rustix::fs::fchmod(&new, Mode::from_raw_mode(DEFAULT_MODE)).map_err(io::Error::from)?;
    Ok(new)
}

/// Has what was made beside a volume be whole, also after a power cut.
fn finish(places: &Places) -> Result<(), VolumeError> {
    let new = open_dir(&places.new)?;
    rustix::fs::syncfs(&new).map_err(io::Error::from)?;
    faults::boundary("what a volume begins with is written");
    fs::rename(&places.new, &places.whole)?;
    sync_parent(&places.whole)?;
    faults::boundary("what a volume begins with is whole");
    Ok(())
}

/// Puts what is whole in the volume's place, also where a daemon before this one had begun that. A
/// volume that is there stays the directory it is, since a container may have it mounted, and keeps
/// what it has.
fn adopt(places: &Places) -> Result<(), VolumeError> {
    let whole = match open_dir(&places.whole) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        whole => whole?,
    };
    if !is_empty(&whole)? {
        fs::File::create(&places.filled)?;
    }
    let volume = match open_dir(&places.volume) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::rename(&places.whole, &places.volume)?;
            return Ok(sync_parent(&places.volume)?);
        }
        volume => volume?,
    };
    limits::same(&whole, &volume)?;
    for entry in Dir::read_from(&whole).map_err(io::Error::from)? {
        let entry = entry.map_err(io::Error::from)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let keep = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&whole, name, &volume, name, keep) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        faults::boundary("an entry of a volume is in its place");
    }
    let stat = rustix::fs::fstat(&whole).map_err(io::Error::from)?;
    own(&volume, (stat.st_uid, stat.st_gid))?;
    rustix::fs::fchmod(&volume, Mode::from_raw_mode(stat.st_mode & 0o3777))
        .map_err(io::Error::from)?;
    rustix::fs::syncfs(&volume).map_err(io::Error::from)?;
    Ok(remove(&places.whole)?)
}

/// Gives a directory what is declared of it.
pub(super) fn set(dir: &OwnedFd, folder: &Folder) -> io::Result<()> {
    if let Some(owner) = folder.owner {
        own(dir, (owner.uid.into(), owner.gid.into()))?;
    }
    if let Some(mode) = folder.mode {
        rustix::fs::fchmod(dir, Mode::from_raw_mode(mode.0))?;
    }
    Ok(())
}

fn own(dir: &OwnedFd, (user, group): (u32, u32)) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    Ok(rustix::fs::fchown(dir, Some(user), Some(group))?)
}

/// Whether nobody has put anything into a volume or changed it since Tank made it.
fn is_untouched(dir: &OwnedFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(dir)?;
    let is_default = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (0, 0, DEFAULT_MODE);
    Ok(is_default && is_empty(dir)?)
}

fn is_empty(dir: &OwnedFd) -> io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens a directory of Tank's own.
fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The folder that a pod's volumes are in.
fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Has what is Tank's own, and may not be there, be out of the way: what of it is much is removed in the background.
fn remove(path: &Path) -> io::Result<()> {
    trash::put(path).map(drop)
}

/// Removes what may not be there, before this returns: for who asked for its space.
fn remove_now(path: &Path) -> io::Result<()> {
    match tank_sys::remove::tree(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}
