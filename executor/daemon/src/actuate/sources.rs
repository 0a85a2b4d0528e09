//! Sources: the directories, secrets and devices of the host that a configuration names, opened so
//! that no container chooses what is behind a name.
//!
//! A container writes into a host volume as the host's own root (its ids are mapped back), so
//! nothing that it can reach says who made it. A container with `/srv/a` could put a link to `/` at
//! `/srv/a/b`, which another mounts. So:
//!
//! * **A path without links** is opened by one `openat2(2)` that follows none
//!   (`RESOLVE_NO_SYMLINKS`).
//! * **A link is followed only where no one but the host's root can have put it.** It and every
//!   directory on the way belong to root and nobody else may write there (a directory above the
//!   last may be sticky, as `/tmp` is); and it is not inside a *writable source*, which is any
//!   directory that a declared container mounts from the host and may write, that one ever did (the
//!   record, kept in the state folder), or the state folder itself. Directories are compared by
//!   device and inode, so another name of one is the same one. Then the path is put together anew
//!   and opened as above: what is opened has no link in it, whatever changed meanwhile. Everything
//!   else is refused, with the link's name: `/var/run/x` works, and so does a certificate that
//!   root's own certbot links to.
//! * **What is behind it has to be what was declared**: a directory, a regular file, a device. A
//!   file is opened as a place first (`O_PATH`), which wakes no pipe and no driver, and read only
//!   when it is a regular one. Files of `/proc`, `/sys` and the kernel's other interfaces are no
//!   secrets: each reading may say something else, or wait.
//! * **The descriptor is what is mounted or read**: nothing is resolved a second time.
//! * **It takes [`LIMIT`] at most.** A network file system whose server is gone can't be
//!   interrupted, so each source is opened on a thread of its own; one that does not come back is
//!   remembered, and not asked again until it does.
//!
//! The record holds paths as they were opened, without links. When it can't be read no link is
//! followed at all.

use crate::actuate::set_id;
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tank_model::{Name, spec::Config};

/// How long opening and reading one source may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The most links that are followed for one path, as the kernel has it (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// The most threads that wait for sources which do not answer; beyond that, none is asked.
const MAX_STUCK: usize = 64;

/// The most bytes of the record.
const MAX_RECORD: u64 = 4 << 20;

/// The most bytes of a secret.
pub const MAX_SECRET: u64 = 1 << 20;

/// What has to be behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
}

/// A device of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    pub block: bool,
    /// Major and minor, as `stat(2)` has them.
    pub number: u64,
}

/// What a configuration names and the host does not have, or must not give.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("can't use the volume `{volume}` of pod `{pod}`: {why}")]
    Volume {
        pod: Name,
        volume: Name,
        why: String,
    },
    #[error("can't use a secret of pod `{pod}`: {why}")]
    Secret { pod: Name, why: String },
}

/// The sources of one host.
pub struct Sources {
    state_dir: PathBuf,
    /// None: the record can't be read.
    record: Mutex<Option<BTreeSet<PathBuf>>>,
    stuck: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// One attempt, between its thread and who waits for it.
struct Attempt<T> {
    result: Option<Result<T, String>>,
    overdue: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The directories of the host that a container of `config` may write.
pub fn writable(config: &Config) -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    for pod in config.pods.values() {
        let mounts = pod
            .processes()
            .flat_map(|(_, _, container)| container.mounts.values());
        let mounted = mounts
            .filter(|mount| !mount.read_only)
            .filter_map(|mount| pod.volumes.get(&mount.volume));
        paths.extend(
            mounted
                .filter_map(|volume| volume.host.as_ref())
                .map(PathBuf::from),
        );
    }
    paths
}

/// Opens everything that the `named` pods of a configuration name and lets go of it: what is not
/// there, or not what it should be, is known before anything is disturbed. `before` is what runs
/// now. Blocking.
///
/// # Errors
/// What can't be used, and why.
pub fn check(
    sources: &Sources,
    config: &Config,
    named: &BTreeSet<Name>,
    before: &Config,
) -> Result<(), SourceError> {
    let declared = || {
        let mut paths = writable(config);
        paths.extend(writable(before));
        paths
    };
    for (pod, spec) in config.pods.iter().filter(|(pod, _)| named.contains(*pod)) {
        for (name, volume) in &spec.volumes {
            if let Some(path) = &volume.host {
                let what = |why| {
                    let (pod, volume) = (pod.clone(), name.clone());
                    SourceError::Volume { pod, volume, why }
                };
                let (place, _) = sources
                    .open_at(path, Kind::Directory, declared)
                    .map_err(what)?;
                let mut mounts = spec
                    .processes()
                    .flat_map(|(_, _, container)| container.mounts.values());
                if mounts.any(|mount| mount.volume == *name && !mount.read_only) {
                    sources.refuse_set_id(path, place).map_err(what)?;
                }
            }
        }
        for (_, _, container) in spec.processes() {
            for secret in container.secrets.values() {
                let what = |why| SourceError::Secret {
                    pod: pod.clone(),
                    why,
                };
                sources
                    .open_at(&secret.file, Kind::File, declared)
                    .map_err(what)?;
            }
        }
    }
    Ok(())
}

impl Sources {
    /// Reads the record.
    pub fn open(state_dir: &Path) -> Self {
        let record = read_record(&state_dir.join(RECORD));
        if let Err(error) = &record {
            tracing::error!(%error, "the record of writable sources can't be read: no link is followed");
        }
        Self {
            state_dir: state_dir.to_owned(),
            record: Mutex::new(record.ok()),
            stuck: Arc::default(),
        }
    }

    /// Opens what is at `path`, as a place (`O_PATH`). `declared` gives the writable sources of
    /// what is declared; it is asked only when there is a link. Blocking.
    ///
    /// # Errors
    /// Why it is not opened.
    pub fn open_at(
        &self,
        path: &str,
        kind: Kind,
        declared: impl FnOnce() -> BTreeSet<PathBuf>,
    ) -> Result<(OwnedFd, PathBuf), String> {
        let first = PathBuf::from(path);
        let plain = self.limited(path, move || match open_plain(&first, kind) {
            Ok(fd) => check_kind(&first, &fd, kind).map(|()| Some((fd, first))),
            Err(Errno::LOOP) => Ok(None),
            Err(error) => Err(explain(&first, kind, error)),
        })?;
        if let Some(opened) = plain {
            return Ok(opened);
        }
        let mut roots = declared();
        roots.insert(self.state_dir.clone());
        // What a container that starts meanwhile may write counts as well.
        for _ in 0..8 {
            let known = lock(&self.record).clone();
            let Some(known) = known else {
                return Err(format!(
                    "`{path}` has a link in it, and what containers may write is not known"
                ));
            };
            let (count, from) = (known.len(), PathBuf::from(path));
            let roots: BTreeSet<PathBuf> = roots.union(&known).cloned().collect();
            let opened = self.limited(path, move || {
                let (fd, path) = follow(from, kind, &roots)?;
                check_kind(&path, &fd, kind).map(|()| (fd, path))
            })?;
            if lock(&self.record)
                .as_ref()
                .is_some_and(|known| known.len() == count)
            {
                return Ok(opened);
            }
        }
        Err(format!(
            "`{path}` has a link in it, and what containers may write keeps changing"
        ))
    }

    /// Refuses a directory to be written by a container that holds a program which makes another
    /// user of whoever runs it.
    fn refuse_set_id(&self, path: &str, place: OwnedFd) -> Result<(), String> {
        let found = self.limited(path, move || {
            set_id::find(place.as_fd()).map_err(|e| io::Error::from(e).to_string())
        })?;
        match found {
            None => Ok(()),
            Some(program) => Err(format!(
                "`{}` in it is set-user-id, set-group-id or has capabilities, and a container that may write it would be \
                 whoever runs it: mount the volume `read_only`, or move that file away",
                program.display()
            )),
        }
    }

    /// What a device is. No link is followed, not even root's. Blocking.
    ///
    /// # Errors
    /// Why it is none.
    pub fn device(&self, path: &str) -> Result<Device, String> {
        let owned = PathBuf::from(path);
        self.limited(path, move || {
            let place = open_plain(&owned, Kind::File).map_err(|error| match error {
                Errno::LOOP => format!(
                    "`{}` has a link in it: declare what it stands for",
                    owned.display()
                ),
                error => io::Error::from(error).to_string(),
            })?;
            let stat = rustix::fs::fstat(&place).map_err(|e| io::Error::from(e).to_string())?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::BlockDevice => Ok(Device {
                    block: true,
                    number: stat.st_rdev,
                }),
                FileType::CharacterDevice => Ok(Device {
                    block: false,
                    number: stat.st_rdev,
                }),
                other => Err(format!("it is {}, and no device", words(other))),
            }
        })
    }

    /// Notes that a container may write what is at `path`, before it can.
    ///
    /// # Errors
    /// When the record can't be written.
    pub fn add_writable(&self, path: &Path) -> Result<(), String> {
        let mut record = lock(&self.record);
        // One that can't be read is not written over: nothing is followed until somebody looks at
        // it.
        let Some(known) = record.as_mut().filter(|known| !known.contains(path)) else {
            return Ok(());
        };
        let mut all = known.clone();
        all.insert(path.to_owned());
        let file = self.state_dir.join(RECORD);
        write_record(&file, &all).map_err(|e| format!("write {}: {e}", file.display()))?;
        *known = all;
        Ok(())
    }

    /// Reads a secret. Blocking.
    ///
    /// # Errors
    /// Why it is not read.
    pub fn read_secret(
        &self,
        path: &str,
        declared: impl FnOnce() -> BTreeSet<PathBuf>,
    ) -> Result<Vec<u8>, String> {
        let (place, _) = self.open_at(path, Kind::File, declared)?;
        self.limited(path, move || {
            // The descriptor's own name in /proc: the file that was looked at, under whatever name
            // it is now.
            let own = format!("/proc/self/fd/{}", place.as_raw_fd());
            let mut options = fs::OpenOptions::new();
            let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
            let file = options
                .read(true)
                .custom_flags(flags as i32)
                .open(own)
                .map_err(|e| e.to_string())?;
            let mut content = Vec::new();
            file.take(MAX_SECRET + 1)
                .read_to_end(&mut content)
                .map_err(|e| e.to_string())?;
            if content.len() as u64 > MAX_SECRET {
                return Err(format!("it has more than {MAX_SECRET} bytes"));
            }
            Ok(content)
        })
    }

    /// Runs what may wait for a file system on a thread of its own, for [`LIMIT`].
    fn limited<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        {
            let stuck = lock(&self.stuck);
            if stuck.contains_key(path) {
                return Err(format!(
                    "the file system of `{path}` has not answered an earlier attempt yet"
                ));
            }
            if stuck.values().sum::<usize>() >= MAX_STUCK {
                return Err(format!(
                    "{MAX_STUCK} attempts to open sources of this host have not been answered"
                ));
            }
        }
        let attempt = Arc::new((
            Mutex::new(Attempt {
                result: None,
                overdue: false,
            }),
            Condvar::new(),
        ));
        let (theirs, stuck, name) = (
            Arc::clone(&attempt),
            Arc::clone(&self.stuck),
            path.to_owned(),
        );
        let run = move || {
            let result = work();
            let mut attempt = lock(&theirs.0);
            if attempt.overdue {
                let mut stuck = lock(&stuck);
                match stuck.get_mut(&name) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(stuck.remove(&name)),
                }
            }
            attempt.result = Some(result);
            theirs.1.notify_one();
        };
        let thread = std::thread::Builder::new()
            .name("source".to_owned())
            .stack_size(256 << 10);
        thread
            .spawn(run)
            .map_err(|e| format!("make a thread: {e}"))?;
        let waited = attempt
            .1
            .wait_timeout_while(lock(&attempt.0), LIMIT, |attempt| attempt.result.is_none());
        let (mut done, _) = waited.unwrap_or_else(PoisonError::into_inner);
        done.result.take().unwrap_or_else(|| {
            done.overdue = true;
            *lock(&self.stuck).entry(path.to_owned()).or_default() += 1;
            Err(format!(
                "the file system of `{path}` does not answer ({} s)",
                LIMIT.as_secs()
            ))
        })
    }
}

/// The record's name in the state folder.
const RECORD: &str = "writable-sources.json";

fn read_record(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut text = Vec::new();
    file.take(MAX_RECORD + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_RECORD {
        return Err(io::Error::other(format!(
            "{} has more than {MAX_RECORD} bytes",
            path.display()
        )));
    }
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// Puts the new record in the place of the old one: there is always one of them, whole.
fn write_record(path: &Path, record: &BTreeSet<PathBuf>) -> io::Result<()> {
    let text = serde_json::to_vec(record).map_err(io::Error::other)?;
    if text.len() as u64 > MAX_RECORD {
        return Err(io::Error::other(format!(
            "it would have more than {MAX_RECORD} bytes"
        )));
    }
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Opens a path that has no link in it. `O_DIRECTORY` has an automounter mount what it should.
fn open_plain(path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    let directory = if kind == Kind::Directory {
        OFlags::DIRECTORY
    } else {
        OFlags::empty()
    };
    rustix::fs::openat2(
        rustix::fs::CWD,
        path,
        PLACE.union(directory),
        Mode::empty(),
        NO_LINKS,
    )
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// Follows the links of `path` that may be, and opens what they lead to.
fn follow(
    path: PathBuf,
    kind: Kind,
    roots: &BTreeSet<PathBuf>,
) -> Result<(OwnedFd, PathBuf), String> {
    // A root that is not there is nothing anybody is inside of.
    let ids: BTreeSet<(u64, u64)> = roots
        .iter()
        .filter_map(|root| fs::metadata(root).ok())
        .map(|root| (root.dev(), root.ino()))
        .collect();
    let mut path = path;
    for _ in 0..=MAX_LINKS {
        match open_plain(&path, kind) {
            Ok(fd) => return Ok((fd, without_parents(&path))),
            Err(Errno::LOOP) => path = without_first_link(&path, roots, &ids)?,
            Err(error) => return Err(explain(&path, kind, error)),
        }
    }
    Err(format!(
        "`{}` has more than {MAX_LINKS} links in it",
        path.display()
    ))
}

/// The path with its first link replaced by what that says.
fn without_first_link(
    path: &Path,
    roots: &BTreeSet<PathBuf>,
    ids: &BTreeSet<(u64, u64)>,
) -> Result<PathBuf, String> {
    let mut holder = PathBuf::from("/");
    let mut components = path.components();
    // Whether only root can have put anything where the walk is, and a directory there that others
    // can rename in.
    let (mut root_only, mut inside) = (true, None);
    while let Some(component) = components.next() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir => {
                // Left of it is a directory and no link: its parent is the path without it.
                holder.pop();
                continue;
            }
            Component::Normal(name) => name,
            Component::Prefix(_) => {
                return Err(format!("`{}` is no path of this host", path.display()));
            }
        };
        let at = |e: Errno| format!("look at `{}`: {}", holder.display(), io::Error::from(e));
        let dir = open_plain(&holder, Kind::Directory).map_err(at)?;
        let dir_stat = rustix::fs::fstat(&dir).map_err(at)?;
        if roots.iter().any(|root| holder.starts_with(root))
            || ids.contains(&(dir_stat.st_dev, dir_stat.st_ino))
        {
            inside = Some(holder.clone());
        }
        let here = holder.join(name);
        let flags = PLACE.union(OFlags::NOFOLLOW);
        let found = rustix::fs::openat2(dir.as_fd(), name, flags, Mode::empty(), NO_LINKS);
        let found =
            found.map_err(|e| format!("look at `{}`: {}", here.display(), io::Error::from(e)))?;
        let stat = rustix::fs::fstat(&found).map_err(at)?;
        if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
            root_only &= is_roots(&dir_stat, true);
            holder = here;
            continue;
        }
        if let Some(inside) = inside {
            return Err(format!(
                "`{}` is a link inside of `{}`, which containers may write",
                here.display(),
                inside.display()
            ));
        }
        if !(root_only && is_roots(&dir_stat, false) && stat.st_uid == 0) {
            return Err(format!(
                "`{}` is a link that others than root may have put there",
                here.display()
            ));
        }
        let says = rustix::fs::readlinkat(&found, "", Vec::new()).map_err(at)?;
        let says = String::from_utf8(says.into_bytes());
        let says =
            says.map_err(|_| format!("`{}` is a link to what is no UTF-8 text", here.display()))?;
        let (next, rest) = (holder.join(says), components.as_path());
        // Joining nothing would leave a slash at the end, which asks for a directory.
        return Ok(if rest.as_os_str().is_empty() {
            next
        } else {
            next.join(rest)
        });
    }
    // The link that was there is gone.
    Ok(path.to_owned())
}

/// A path that has no link in it, without `..`.
fn without_parents(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

/// Whether nobody but root can put anything into a directory; with `sticky`, move what root put
/// there.
fn is_roots(dir: &rustix::fs::Stat, sticky: bool) -> bool {
    let others_write = dir.st_mode & 0o002 != 0 || (dir.st_mode & 0o020 != 0 && dir.st_gid != 0);
    dir.st_uid == 0 && (!others_write || (sticky && dir.st_mode & 0o1000 != 0))
}

fn check_kind(path: &Path, fd: &OwnedFd, kind: Kind) -> Result<(), String> {
    let look = |e: Errno| format!("look at `{}`: {}", path.display(), io::Error::from(e));
    let found = FileType::from_raw_mode(rustix::fs::fstat(fd).map_err(look)?.st_mode);
    match (kind, found) {
        (Kind::Directory, FileType::Directory) => Ok(()),
        (Kind::File, FileType::RegularFile) => {
            let system = rustix::fs::fstatfs(fd).map_err(look)?.f_type;
            if KERNEL_INTERFACES
                .iter()
                .any(|magic| i128::from(*magic) == i128::from(system))
            {
                return Err(format!(
                    "`{}` is an interface of the kernel and no file that somebody keeps",
                    path.display()
                ));
            }
            Ok(())
        }
        (Kind::Directory, _) => Err(format!(
            "there is no directory `{}` on this host",
            path.display()
        )),
        (Kind::File, _) => Err(format!(
            "`{}` is {}, and no regular file",
            path.display(),
            words(found)
        )),
    }
}

/// The magic numbers of statfs(2): proc, sysfs, debugfs, tracefs, securityfs, cgroups, bpf, EFI
/// variables, pstore, selinux.
const KERNEL_INTERFACES: [u32; 11] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x0027_e0eb,
    0x6367_7270,
    0xcafe_4a11,
    0xde5e_81e4,
    0x6165_676c,
    0xf97c_ff8c,
];

fn words(found: FileType) -> &'static str {
    match found {
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => "a link",
        FileType::RegularFile => "a regular file",
        _ => "something else",
    }
}

fn explain(path: &Path, kind: Kind, error: Errno) -> String {
    let what = if kind == Kind::Directory {
        "directory"
    } else {
        "file"
    };
    match error {
        Errno::NOENT | Errno::NOTDIR => {
            format!("there is no {what} `{}` on this host", path.display())
        }
        error => format!("open `{}`: {}", path.display(), io::Error::from(error)),
    }
}
