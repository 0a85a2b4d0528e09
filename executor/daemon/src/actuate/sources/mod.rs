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
//! * **It takes [`limited::LIMIT`] at most.** A network file system whose server is gone can't be
//!   interrupted, so each source is opened on a thread of its own; one that does not come back is
//!   remembered, and not asked again until it does.
//!
//! The record holds paths as they were opened, without links. When it can't be read no link is
//! followed at all.

mod error;
mod limited;
mod path;
mod record;
mod set_id;

pub use error::Error;

use path::{check_kind, follow, open_plain};
use record::RECORD;
use rustix::{
    fs::{FileType, OFlags},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tank_model::{
    Name,
    spec::{Config, Mount},
};

/// The most bytes of a secret.
pub const MAX_SECRET: u64 = 1 << 20;

/// What has to be behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    #[error("can't use the volume `{volume}` of pod `{pod}`")]
    Volume {
        pod: Name,
        volume: Name,
        source: Error,
    },
    #[error("can't use a secret of pod `{pod}`")]
    Secret { pod: Name, source: Error },
}

/// The sources of one host.
pub struct Sources {
    state_dir: PathBuf,
    /// None: the record can't be read.
    record: Mutex<Option<BTreeSet<PathBuf>>>,
    stuck: limited::Stuck,
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
    // What many pods share is looked at once: each look is a thread's.
    let mut checked = BTreeSet::new();
    for (pod, spec) in config.pods.iter().filter(|(pod, _)| named.contains(*pod)) {
        for (name, volume) in &spec.volumes {
            if let Some(path) = &volume.host {
                let what = |source| SourceError::Volume {
                    pod: pod.clone(),
                    volume: name.clone(),
                    source,
                };
                let of_it = |mount: &&Mount| mount.volume == *name;
                let all = spec.processes();
                let all = all.flat_map(|(_, _, container)| container.mounts.values());
                let mounts: Vec<&Mount> = all.filter(of_it).collect();
                let is_slave = mounts.iter().any(|mount| mount.propagation.is_slave());
                let is_written = mounts.iter().any(|mount| !mount.read_only);
                if !checked.insert((path, Kind::Directory, is_slave, is_written)) {
                    continue;
                }
                let (place, _) = sources
                    .open_at(path, Kind::Directory, declared)
                    .map_err(what)?;
                if is_slave {
                    sources.refuse_private(path, &place).map_err(what)?;
                }
                if is_written {
                    sources.refuse_set_id(path, place).map_err(what)?;
                }
            }
        }
        for (_, _, container) in spec.processes() {
            for secret in container.secrets.values() {
                let what = |source| SourceError::Secret {
                    pod: pod.clone(),
                    source,
                };
                if checked.insert((&secret.file, Kind::File, false, false)) {
                    sources
                        .open_at(&secret.file, Kind::File, declared)
                        .map_err(what)?;
                }
            }
        }
    }
    Ok(())
}

impl Sources {
    /// Reads the record.
    pub fn open(state_dir: &Path) -> Self {
        let record = record::read(&state_dir.join(RECORD));
        if let Err(error) = &record {
            tracing::error!(
                error = tank_sys::with_causes(error),
                "the record of writable sources can't be read: no link is followed"
            );
        }
        Self {
            state_dir: state_dir.to_owned(),
            record: Mutex::new(record.ok()),
            stuck: Arc::default(),
        }
    }

    /// How many directories are in the record, which only grows. None: it can't be read.
    pub fn recorded(&self) -> Option<usize> {
        lock(&self.record).as_ref().map(BTreeSet::len)
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
    ) -> Result<(OwnedFd, PathBuf), Error> {
        let first = PathBuf::from(path);
        let plain = limited::run(&self.stuck, path, move || match open_plain(&first, kind) {
            Ok(fd) => check_kind(&first, &fd, kind).map(|()| Some((fd, first))),
            Err(Errno::LOOP) => Ok(None),
            Err(error) => Err(Error::open(&first, kind, error)),
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
                return Err(Error::NoRecord(path.to_owned()));
            };
            let (count, from) = (known.len(), PathBuf::from(path));
            let roots: BTreeSet<PathBuf> = roots.union(&known).cloned().collect();
            let opened = limited::run(&self.stuck, path, move || {
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
        Err(Error::RecordChanges(path.to_owned()))
    }

    /// Refuses a directory to be written by a container that holds a program which makes another
    /// user of whoever runs it.
    fn refuse_set_id(&self, path: &str, place: OwnedFd) -> Result<(), Error> {
        let found = limited::run(&self.stuck, path, move || Ok(set_id::find(place.as_fd())?))?;
        found.map_or(Ok(()), |program| Err(Error::SetId(program)))
    }

    /// Refuses a directory below which nothing appears that the host mounts later.
    ///
    /// # Errors
    /// That, or why it is not known.
    pub fn refuse_private(&self, path: &str, place: &OwnedFd) -> Result<(), Error> {
        match tank_sys::mount::is_followed(place.as_fd())? {
            true => Ok(()),
            false => Err(Error::Private(PathBuf::from(path))),
        }
    }

    /// What a device is. No link is followed, not even root's. Blocking.
    ///
    /// # Errors
    /// Why it is none.
    pub fn device(&self, path: &str) -> Result<Device, Error> {
        let owned = PathBuf::from(path);
        limited::run(&self.stuck, path, move || {
            let place = open_plain(&owned, Kind::File).map_err(|error| match error {
                Errno::LOOP => Error::DeviceLink(owned),
                error => error.into(),
            })?;
            let stat = rustix::fs::fstat(&place)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::BlockDevice => Ok(Device {
                    block: true,
                    number: stat.st_rdev,
                }),
                FileType::CharacterDevice => Ok(Device {
                    block: false,
                    number: stat.st_rdev,
                }),
                other => Err(Error::NotADevice(other)),
            }
        })
    }

    /// Notes that a container may write what is at `path`, before it can.
    ///
    /// # Errors
    /// When the record can't be written.
    pub fn add_writable(&self, path: &Path) -> Result<(), Error> {
        let mut record = lock(&self.record);
        // One that can't be read is not written over: nothing is followed until somebody looks at
        // it.
        let Some(known) = record.as_mut().filter(|known| !known.contains(path)) else {
            return Ok(());
        };
        let mut all = known.clone();
        all.insert(path.to_owned());
        let path = self.state_dir.join(RECORD);
        record::write(&path, &all).map_err(|source| Error::Record { path, source })?;
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
    ) -> Result<Vec<u8>, Error> {
        let (place, _) = self.open_at(path, Kind::File, declared)?;
        limited::run(&self.stuck, path, move || {
            // The descriptor's own name in /proc: the file that was looked at, under whatever name
            // it is now.
            let own = format!("/proc/self/fd/{}", place.as_raw_fd());
            let mut options = fs::OpenOptions::new();
            let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
            let file = options.read(true).custom_flags(flags as i32).open(own)?;
            let mut content = Vec::new();
            file.take(MAX_SECRET + 1).read_to_end(&mut content)?;
            if content.len() as u64 > MAX_SECRET {
                return Err(Error::TooLarge);
            }
            Ok(content)
        })
    }
}
