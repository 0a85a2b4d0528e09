//! What there is of volumes on this host: found, measured, shown, replaced and removed.

use super::{
    Places, Replaced, Turn, VolumeError, Volumes, limits, open_dir, remove, remove_now, sync_parent,
};
use crate::{faults, settings::Settings};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tank_model::{Name, VolumeId};
use tank_plan::{observed::Counted, target::Quota};
use tank_sys::mount::{self, attr};

/// The longest that one volume is measured, and the most entries and levels of it.
const MEASURE_LIMIT: Duration = Duration::from_secs(5);
const MAX_MEASURED: u64 = 1_000_000;
const MAX_LEVELS: usize = 256;

/// How long an import waits for another one of the same volume, or for what one that failed has left.
const IMPORT_WAIT: Duration = Duration::from_secs(10);

/// What a volume takes of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    pub bytes: u64,
    /// It is that at least: there is too much to be measured.
    pub at_least: bool,
}

impl Volumes {
    /// Every volume that is kept: those of pods by pod and name, then those that pods share. Blocking.
    ///
    /// # Errors
    /// What reading the folders gives.
    pub fn kept(&self) -> io::Result<Vec<VolumeId>> {
        let mut kept = Vec::new();
        let root = self.settings.volumes_dir();
        for pod in names(&root)?.into_iter().filter_map(pod) {
            let own = names(&root.join(pod.as_str()))?.into_iter();
            let own = own.filter_map(|name| Name::new(name).ok());
            kept.extend(own.map(|volume| VolumeId::Own(pod.clone(), volume)));
        }
        let shared = names(&self.settings.shared_volumes_dir())?.into_iter();
        kept.extend(shared.filter_map(pod).map(VolumeId::Shared));
        kept.sort();
        Ok(kept)
    }

    /// What a volume takes of the disk: as the kernel counts it, of one that has had a size; of another one as
    /// [`Volumes::measure`] finds it. Blocking.
    ///
    /// # Errors
    /// The same.
    pub fn size(&self, volume: &VolumeId, until: Instant) -> Result<Size, VolumeError> {
        let counted = self.counted(volume, None);
        let is_all = |one: &Counted| one.held && one.project.is_some() && !one.counting;
        if let Some(counted) = counted.filter(is_all) {
            return Ok(Size {
                bytes: counted.used,
                at_least: false,
            });
        }
        self.measure(&self.places(volume), until)
    }

    /// What a volume takes of the disk; a file with several names counts once at most. Blocking.
    ///
    /// # Errors
    /// When it can't be mounted to be looked at.
    pub fn measure(&self, places: &Places, until: Instant) -> Result<Size, VolumeError> {
        let deadline = until.min(Instant::now() + MEASURE_LIMIT);
        let top = self.show(places)?;
        Ok(measure_below(top, &|| Instant::now() > deadline)?)
    }

    /// A mount of a volume through which nothing can be written, no link followed and no device
    /// opened, of which nobody else knows: its top directory. Blocking.
    ///
    /// # Errors
    /// When there is no such volume, or what the kernel gives.
    pub fn show(&self, places: &Places) -> Result<OwnedFd, VolumeError> {
        let dir = open_dir(&places.volume)?;
        let shown = mount::clone_place(dir.as_fd(), false)?;
        let attributes =
            attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;
        mount::restrict(shown.as_fd(), attributes, false)?;
        Ok(mount::open_root(&shown)?)
    }

    /// Whether the volume's directory is still the one that is shown. Blocking.
    pub fn is_shown(&self, places: &Places, shown: &OwnedFd) -> bool {
        let id = |dir: &OwnedFd| {
            let stat = rustix::fs::fstat(dir).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        open_dir(&places.volume).is_ok_and(|now| id(&now).is_some() && id(&now) == id(shown))
    }

    /// Removes a volume: none is there at once, and then its files go. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn remove(&self, places: &Places) -> Result<(), VolumeError> {
        self.counting.stop(places);
        let turn = self.turn(places);
        remove(&places.gone)?;
        // Without the volume it would be put back at the start.
        for left in [&places.replaced, &places.older] {
            // Nobody finds half of it.
            match fs::rename(left, &places.gone) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            }
            sync_parent(&places.gone)?;
            faults::boundary("what was replaced is out of the way");
            remove_now(&places.gone)?;
        }
        fs::rename(&places.volume, &places.gone)?;
        for left in [&places.new, &places.whole] {
            remove(left)?;
        }
        let Places {
            filled,
            used,
            images,
            counting,
            began,
            imported,
            ..
        } = places;
        for mark in [filled, used, images, counting, began, imported] {
            match fs::remove_file(mark) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        sync_parent(&places.volume)?;
        drop(turn);
        faults::boundary("a volume is out of the way");
        remove_now(&places.gone)?;
        // It is the last one of a pod.
        let _ = fs::remove_dir(places.volume.parent().unwrap_or(Path::new("/")));
        Ok(())
    }

    /// Makes an empty directory for what will be a volume, which is the caller's for as long as the
    /// turn is, and held to the volume's limit. What another import has left is waited for. Blocking.
    ///
    /// # Errors
    /// When somebody else imports it, or what the disk gives.
    pub fn begin_import(
        &self,
        places: &Places,
        quota: Option<&Quota>,
    ) -> Result<(OwnedFd, Turn), VolumeError> {
        let turn = self.imports.take_within(&places.import, IMPORT_WAIT);
        let turn = turn.ok_or(VolumeError::Importing)?;
        let dir = super::make_at(&places.import)?;
        if let Some(quota) = quota {
            super::settle(&places.import);
            limits::hold(dir.as_fd(), quota)?;
            limits::begin(dir.as_fd(), limits::other_id(places, quota)?)?;
        }
        Ok((dir, turn))
    }

    /// Puts what was imported in the volume's place: what became of what was there. [`Volumes::tidy`] does the rest. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn take_import(&self, places: &Places) -> Result<Replaced, VolumeError> {
        self.counting.stop(places);
        let _turn = self.turn(places);
        let import = open_dir(&places.import)?;
        rustix::fs::syncfs(&import).map_err(io::Error::from)?;
        faults::boundary("what is imported is written");
        for left in [&places.new, &places.whole] {
            remove(left)?;
        }
        fs::File::create(&places.filled)?;
        super::snapshots::written_by_none(places)?;
        super::replaced::replace(places)
    }

    /// Lets go of what was imported. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn drop_import(&self, places: &Places) -> Result<(), VolumeError> {
        Ok(remove_now(&places.import)?)
    }

    /// Whether a volume is there and has something in it. Blocking.
    ///
    /// # Errors
    /// What the disk gives.
    pub fn has_content(&self, places: &Places) -> Result<bool, VolumeError> {
        match open_dir(&places.volume) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            dir => Ok(!super::is_empty(&dir?)?),
        }
    }
}

/// What a folder of Tank's takes of the disk, by which nothing is followed. Blocking.
///
/// # Errors
/// When it can't be opened.
pub fn measure(path: &Path, stop: &dyn Fn() -> bool) -> io::Result<Size> {
    measure_below(open_dir(path)?, stop)
}

/// What is below a directory, until there is too much of it or `stop` says so.
fn measure_below(top: OwnedFd, stop: &dyn Fn() -> bool) -> io::Result<Size> {
    let mut size = Size::default();
    let mut count = 0;
    let mut levels = vec![(Dir::read_from(&top)?, top)];
    while let depth @ 1.. = levels.len()
        && let Some((entries, dir)) = levels.last_mut()
    {
        let Some(Ok(entry)) = entries.read() else {
            levels.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        count += 1;
        if count > MAX_MEASURED || stop() {
            size.at_least = true;
            break;
        }
        let Ok(stat) = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        let names = if is_dir { 1 } else { stat.st_nlink.max(1) };
        size.bytes += stat.st_blocks as u64 * 512 / names;
        if !is_dir {
            continue;
        }
        if depth >= MAX_LEVELS {
            size.at_least = true;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(below) = rustix::fs::openat(&*dir, name, flags, Mode::empty())
            && let Ok(entries) = Dir::read_from(&below)
        {
            levels.push((entries, below));
        }
    }
    Ok(size)
}

/// What is in a folder, which need not be there.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

fn pod(name: String) -> Option<Name> {
    Name::of_pod(name).ok()
}

/// Has what imports and removals of an earlier daemon have left half done be out of the way. Before anything is started.
pub fn sweep(settings: &Settings) {
    super::snapshots::sweep(settings);
    super::backup::sweep(settings);
    let root = settings.volumes_dir();
    let pods = names(&root).unwrap_or_default().into_iter().filter_map(pod);
    let own = pods.map(|pod| root.join(pod.as_str()));
    let folders: Vec<PathBuf> = own.chain([settings.shared_volumes_dir()]).collect();
    folders.iter().for_each(|dir| sweep_folder(dir));
}

/// The same of the volumes in one folder.
pub(super) fn sweep_folder(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some((volume, end)) = name
            .strip_prefix('.')
            .and_then(|name| name.rsplit_once('.'))
        else {
            continue;
        };
        let done = match end {
            "import" | "gone" => remove(&entry.path()),
            "replaced" | "older" => super::replaced::settle(&dir.join(volume)),
            _ => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!(path = %entry.path().display(), %error, "half a volume stays");
        }
    }
}

/// When a container that mounts it was started last, in milliseconds since the epoch. Blocking.
pub fn used(places: &Places) -> Option<u64> {
    time_of(&places.used)
}

/// When a volume began, of which there was nothing, in milliseconds since the epoch. None: an older Tank has made it. Blocking.
pub fn began(places: &Places) -> Option<u64> {
    time_of(&places.began)
}

fn time_of(mark: &Path) -> Option<u64> {
    let modified = fs::metadata(mark).ok()?.modified().ok()?;
    let since = modified.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// Notes that a container that mounts it is about to start.
pub(super) fn note_use(places: &Places) -> io::Result<()> {
    note_time(&places.used)
}

/// Notes that it begins. Before it is there: what ends the daemon in between begins it again.
pub(super) fn note_begin(places: &Places) -> io::Result<()> {
    note_time(&places.began)
}

fn note_time(mark: &Path) -> io::Result<()> {
    let mark = fs::File::create(mark)?;
    mark.set_modified(SystemTime::now())
}
