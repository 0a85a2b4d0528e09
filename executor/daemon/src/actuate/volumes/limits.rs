//! Volumes and the most that they may take of the disk: project quotas.
//!
//! A volume with a size has two project ids. What is in it counts to one of them, and what is imported to take its place to
//! the other, so that neither is kept from anything by what is in the other one. While what is in a volume is being counted there is `.VOLUME.counting` beside
//! it: so whatever ends the daemon, none is taken for limited of which half counts.
//!
//! *Never*: changes what counts to somebody else's project, unless that is what the volume is declared for; what snapshots keep counts
//! to none.

mod kernel;

use super::{Places, VolumeError, Volumes, open_dir, sync_parent};
use crate::store::leases::projects::{FIRST_PROJECT, VOLUMES, is_own};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};
use tank_model::VolumeId;
use tank_plan::{observed::Counted, target::Quota};
use tank_sys::{
    mount::{self, attr},
    quota::{self, Project, Usage},
};

/// The longest that it takes to have what is put into a volume count, or what was one.
const COUNTING: Duration = Duration::from_secs(600);

/// How long the end of counting is waited for by who declares the size: most volumes are counted by then.
const SOON: Duration = Duration::from_secs(5);

/// The most bytes that are read of a file of project ids.
const MAX_FILE: u64 = 1 << 20;

/// Where those who number projects by hand write them down (projects(5), projid(5)).
const FILES: [&str; 2] = ["/etc/projects", "/etc/projid"];

/// ext2, ext3 and ext4; XFS: their magic numbers in statfs(2).
const EXT4: i64 = 0xef53;
const XFS: i64 = 0x5846_5342;

/// Why a volume can't be held to a size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unlimitable {
    /// What there is instead, for people.
    pub why: String,
    /// What to do.
    pub help: String,
}

/// The one of its two ids that a directory counts to.
pub(super) fn own(dir: BorrowedFd<'_>, quota: &Quota) -> io::Result<Option<u32>> {
    let found = quota::project(dir)?;
    let own = found.filter(|found| found.inherits && quota.has(found.id));
    Ok(own.map(|found| found.id))
}

/// Sets the limits of both ids of a volume, on the file system that a directory is on.
pub(super) fn hold(dir: BorrowedFd<'_>, quota: &Quota) -> Result<(), VolumeError> {
    let lifted = quota.bytes == 0;
    if !quota::is_enforced(dir)? {
        // There is nothing to be lifted.
        return if lifted {
            Ok(())
        } else {
            Err(VolumeError::NoQuotas)
        };
    }
    for id in [quota.project, quota.project + 1] {
        quota::set_limits(dir, id, quota.bytes, quota.inodes)?;
    }
    Ok(())
}

/// Has a new and empty directory, which is to be a volume's or in it, count to one of the ids.
pub(super) fn begin(dir: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    let project = Project { id, inherits: true };
    quota::set_project(dir, project)
}

/// The id that what is put into a volume has to have: the volume's.
pub(super) fn id_of(places: &Places, quota: &Quota) -> io::Result<u32> {
    match open_dir(&places.volume) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(quota.project),
        dir => Ok(own(dir?.as_fd(), quota)?.unwrap_or(quota.project)),
    }
}

/// The id that what is to take a volume's place has: the other one.
pub(super) fn other_id(places: &Places, quota: &Quota) -> io::Result<u32> {
    let other = if id_of(places, quota)? == quota.project {
        quota.project + 1
    } else {
        quota.project
    };
    Ok(other)
}

/// Has what is about to be moved into a directory count to what that counts to: the kernel moves nothing else there.
pub(super) fn same(moved: &OwnedFd, into: &OwnedFd) -> io::Result<()> {
    let wanted = quota::project(into.as_fd())?.filter(|into| into.inherits);
    let Some(wanted) = wanted else { return Ok(()) };
    match quota::project(moved.as_fd())? {
        Some(found) if found == wanted => Ok(()),
        _ => {
            let moved = moved.try_clone()?;
            let deadline = Instant::now() + COUNTING;
            quota::count_tree(moved, wanted.id, &mut || until(deadline))
        }
    }
}

/// Refuses once that is over.
pub(super) fn until(deadline: Instant) -> io::Result<()> {
    match Instant::now() > deadline {
        true => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "there is too much in it to be counted in time",
        )),
        false => Ok(()),
    }
}

/// Holds a volume that is there to its limit, whoever writes to it meanwhile: what is made in it from now on counts. Whether all
/// that was there does; if not, that is to be [counted](super::counting). The caller has its turn.
pub(super) fn limit(places: &Places, quota: &Quota) -> Result<bool, VolumeError> {
    let volume = open_dir(&places.volume)?;
    hold(volume.as_fd(), quota)?;
    if quota.bytes == 0 {
        let_go(places, &volume, quota)?;
        return Ok(true);
    }
    let found = own(volume.as_fd(), quota)?;
    let is_marked = places.counting.exists();
    if found.is_some() && !is_marked {
        return Ok(true);
    }
    if !is_marked {
        fs::File::create(&places.counting)?.sync_all()?;
        sync_parent(&places.counting)?;
    }
    if found.is_none() {
        begin(volume.as_fd(), quota.project)?;
    }
    Ok(false)
}

/// Forgets that a volume of which the limit is lifted is being counted. Its directory hands nothing on then: with the next size
/// all of it is counted.
fn let_go(places: &Places, volume: &OwnedFd, quota: &Quota) -> Result<(), VolumeError> {
    if !places.counting.exists() {
        return Ok(());
    }
    if let Some(id) = own(volume.as_fd(), quota)? {
        let alone = Project {
            id,
            inherits: false,
        };
        quota::set_project(volume.as_fd(), alone)?;
        rustix::fs::syncfs(volume).map_err(io::Error::from)?;
    }
    forget(&places.counting)
}

/// Has what was a volume, and is kept as a snapshot, count to no project of Tank's. What can't be changed goes on counting until the
/// snapshot is removed, and keeps no data from coming back.
pub(super) fn uncount(was: &Path) {
    let uncounted = || -> Result<(), VolumeError> {
        let was = match open_dir(was) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            was => was?,
        };
        // The directory is changed first, so of one that is half counted it is so, too.
        match quota::project(was.as_fd())? {
            Some(found) if is_own(found.id) => {
                let deadline = Instant::now() + COUNTING;
                count(&was, 0, &mut || until(deadline))
            }
            _ => Ok(()),
        }
    };
    if let Err(error) = uncounted() {
        let (error, snapshot) = (tank_sys::with_causes(&error), was.display());
        tracing::warn!(%snapshot, error, "what a volume was goes on counting to its size");
    }
}

pub(super) fn forget(mark: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(mark) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed?;
            Ok(sync_parent(mark)?)
        }
    }
}

/// Through a mount of its own, in which no device is opened and no link followed.
pub(super) fn count(
    volume: &OwnedFd,
    id: u32,
    go_on: &mut dyn FnMut() -> io::Result<()>,
) -> Result<(), VolumeError> {
    let shown = mount::clone_place(volume.as_fd(), false)?;
    let attributes = attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;
    mount::restrict(shown.as_fd(), attributes, false)?;
    let top = mount::open_root(&shown)?;
    Ok(quota::count_tree(top, id, go_on)?)
}

/// Whether an error says that a limit, or the disk, is reached.
pub fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = match error.downcast_ref::<VolumeError>() {
            // Its own source is what is behind that one.
            Some(VolumeError::Io(io)) => Some(io),
            _ => error.downcast_ref::<io::Error>(),
        };
        let kind = io.map(io::Error::kind);
        if matches!(
            kind,
            Some(io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull)
        ) {
            return true;
        }
        // An error of input and output hides the one that it was made of.
        let inner = io.and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    false
}

impl Volumes {
    /// Holds a volume that is there to its limit, or lets it have what the disk has. What is in it may go on being counted
    /// afterwards. Blocking.
    ///
    /// # Errors
    /// What the kernel gives, that there are no quotas, or why not all of it counted the last time.
    pub fn limit(&self, volume: &VolumeId, quota: &Quota) -> Result<(), VolumeError> {
        let places = self.places(volume);
        self.counting.outcome(&places)?;
        if quota.bytes == 0 {
            self.counting.stop(&places);
        }
        let turn = self.turn(&places);
        let is_counted = limit(&places, quota)?;
        drop(turn);
        if is_counted {
            return Ok(());
        }
        self.counting.begin(self.places(volume), *quota)?;
        self.counting.wait(&places, SOON)
    }

    /// Whether what is in a volume is being counted.
    pub fn is_counting(&self, places: &Places) -> bool {
        self.counting.has(places)
    }

    /// What the kernel counts of a volume, which has `leased` and the next one as its ids. None: it is not there. Blocking.
    pub fn counted(&self, volume: &VolumeId, leased: Option<u32>) -> Option<Counted> {
        let places = self.places(volume);
        let dir = open_dir(&places.volume).ok()?;
        let found = quota::project(dir.as_fd()).ok().flatten();
        let found = found.filter(|found| found.inherits && is_own(found.id));
        let project = found.map(|found| found.id);
        let usage = |id| quota::usage(dir.as_fd(), id).unwrap_or_default();
        let is_limited = |id| {
            let usage = usage(id);
            (usage.max_bytes, usage.max_inodes) != (0, 0)
        };
        let limited = leased.is_some_and(|id| is_limited(id) || is_limited(id + 1));
        let usage = project.map_or(Usage::default(), usage);
        Some(Counted {
            held: quota::is_enforced(dir.as_fd()).unwrap_or(false),
            project,
            counting: places.counting.exists(),
            in_progress: self.counting.has(&places),
            limited,
            bytes: usage.max_bytes,
            inodes: usage.max_inodes,
            used: usage.bytes,
            used_inodes: usage.inodes,
        })
    }

    /// Lets go of what the kernel keeps of the ids of a volume that is removed. Blocking.
    pub fn release(&self, volume: &VolumeId, project: u32) {
        let folder = self.folder(volume);
        let lifted = Quota::new(project, None);
        let released = open_existing(&folder).and_then(|dir| hold(dir.as_fd(), &lifted));
        if let Err(error) = released {
            let error = tank_sys::with_causes(&error);
            tracing::warn!(%volume, error, "the limit of a volume that is removed stays");
        }
    }

    /// The folder that a volume's folder is in, or will be.
    fn folder(&self, volume: &VolumeId) -> std::path::PathBuf {
        match volume {
            VolumeId::Own(..) => self.settings.volumes_dir(),
            VolumeId::Shared(_) => self.settings.shared_volumes_dir(),
        }
    }

    /// What keeps a volume from being held to a size. Blocking.
    ///
    /// # Errors
    /// When its folder can't be looked at.
    pub fn unlimitable(&self, volume: &VolumeId) -> Result<Option<Unlimitable>, VolumeError> {
        unlimitable(&self.folder(volume))
    }

    /// What keeps volumes from being held to sizes: of pods' own, or else of those that pods share. Blocking.
    ///
    /// # Errors
    /// The same.
    pub fn unlimitable_folders(&self) -> Result<Option<Unlimitable>, VolumeError> {
        match unlimitable(&self.settings.volumes_dir())? {
            None => unlimitable(&self.settings.shared_volumes_dir()),
            found => Ok(found),
        }
    }

    /// The project ids of Tank's range that somebody has: in a file, or on the disk. Blocking.
    pub fn projects_in_use(&self) -> BTreeSet<u32> {
        let mut used = BTreeSet::new();
        for file in FILES {
            used.extend(numbers(file).into_iter().filter(|id| is_own(*id)));
        }
        let folders = [
            self.settings.volumes_dir(),
            self.settings.shared_volumes_dir(),
        ];
        for folder in folders {
            let Ok(dir) = open_existing(&folder) else {
                continue;
            };
            let mut from = FIRST_PROJECT;
            // Each turn goes on behind what was found.
            while let Ok(Some(id)) = quota::next(dir.as_fd(), from)
                && (from..FIRST_PROJECT + 2 * VOLUMES).contains(&id)
            {
                used.insert(id);
                from = id + 1;
            }
        }
        used
    }
}

/// What keeps the volumes of a folder from being held to sizes.
fn unlimitable(folder: &Path) -> Result<Option<Unlimitable>, VolumeError> {
    let dir = open_existing(folder)?;
    let found = quota::project(dir.as_fd())?;
    if let Some(found) = found.filter(|found| found.inherits && !is_own(found.id)) {
        return Ok(Some(Unlimitable {
            why: format!(
                "{} counts to the project {} of somebody else's, and what is made there with it",
                folder.display(),
                found.id
            ),
            help: format!(
                "take it out of that project: `chattr -P -p 0 {}`",
                folder.display()
            ),
        }));
    }
    if quota::is_enforced(dir.as_fd())? {
        return Ok(None);
    }
    let kind = rustix::fs::fstatfs(&dir).map_err(io::Error::from)?.f_type;
    let part = match kind {
        EXT4 => Some(&kernel::EXT4),
        XFS => Some(&kernel::XFS),
        _ => None,
    };
    let lacks = part.filter(|part| part.is_lacking());
    Ok(Some(lacking(folder, kind, lacks.map(|part| part.option))))
}

/// What a file system of a kind lacks, and how it gets that. `option`: the kernel was built without what it takes.
fn lacking(folder: &Path, kind: i64, option: Option<&str>) -> Unlimitable {
    let folder = folder.display();
    if let Some(option) = option {
        return Unlimitable {
            why: format!(
                "{folder} is on {}, and this kernel has no quotas for it ({option})",
                if kind == XFS { "XFS" } else { "ext4" }
            ),
            help:
                "it takes a kernel that has them, as those of distributions do; or leave `size` out"
                    .to_owned(),
        };
    }
    let (name, help) = match kind {
        EXT4 => (
            "ext4 without project quotas",
            "`umount` it, `tune2fs -O project,quota -Q prjquota DEVICE`, and mount it with the option `prjquota`",
        ),
        XFS => (
            "XFS without project quotas",
            "mount it with the option `pquota`",
        ),
        _ => (
            "a file system that has no project quotas",
            "have it on ext4 or XFS, with project quotas: it may be a file system of its own",
        ),
    };
    Unlimitable {
        why: format!("{folder} is on {name}"),
        help: format!("{help}; or leave `size` out"),
    }
}

/// A folder of Tank's, or what is above it where it is not made yet.
fn open_existing(folder: &Path) -> Result<OwnedFd, VolumeError> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for path in folder.ancestors() {
        match open_dir(path) {
            Ok(dir) => return Ok(dir),
            Err(error) => last = error,
        }
        if last.kind() != io::ErrorKind::NotFound {
            break;
        }
    }
    Err(last.into())
}

/// The numbers of a file of project ids: `ID:PATH` or `NAME:ID` in a line.
fn numbers(path: &str) -> Vec<u32> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    match read {
        Ok(_) => ids(&text),
        Err(_) => Vec::new(),
    }
}

fn ids(text: &str) -> Vec<u32> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.flat_map(|line| line.split(':'));
    parts.filter_map(|part| part.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_number_by_hand_is_found() {
        let text = "# comment 12:/x\n10:/srv/data\nlogs:1413545985\nbad\n1413545986:/var/x\n";
        assert_eq!(ids(text), [10, 1_413_545_985, 1_413_545_986]);
    }

    #[test]
    fn what_is_lacking_is_said_with_what_to_do() {
        let folder = Path::new("/var/lib/tank/volumes");
        let of = |kind| lacking(folder, kind, None);
        assert_eq!(
            of(EXT4).why,
            "/var/lib/tank/volumes is on ext4 without project quotas"
        );
        assert!(of(EXT4).help.contains("tune2fs"));
        assert!(of(XFS).help.contains("pquota"));
        assert!(of(0x0102_1994).help.starts_with("have it on ext4 or XFS"));
        let none = lacking(folder, EXT4, Some("CONFIG_QFMT_V2"));
        assert_eq!(
            none.why,
            "/var/lib/tank/volumes is on ext4, and this kernel has no quotas for it (CONFIG_QFMT_V2)"
        );
        assert!(!none.help.contains("mount"), "{}", none.help);
    }

    #[test]
    fn a_limit_that_is_reached_is_found_behind_other_errors() {
        let full = io::Error::from_raw_os_error(libc_edquot());
        let named = io::Error::new(full.kind(), format!("\"name\": {full}"));
        assert!(is_full(&full) && is_full(&named));
        assert!(is_full(&io::Error::other(named)));
        assert!(is_full(&VolumeError::Io(io::Error::from(
            io::ErrorKind::StorageFull
        ))));
        assert!(!is_full(&io::Error::from(io::ErrorKind::NotFound)));
    }

    fn libc_edquot() -> i32 {
        rustix::io::Errno::DQUOT.raw_os_error()
    }
}
