//! What pods have used over time, on disk: `usage/POD/CONTAINER` of the state folder, and `usage/POD/_pod` for all of a pod.
//!
//! A file has two rings of records of one size ([`tank_plan::figures`]); the place of each follows from its time. So nothing is ever moved,
//! and a death of the daemon, or of the host, costs what was not written and no more. They are files beside the database and not in
//! it: a database that is only added to writes each figure again and again as it compacts itself, syncs what need not be
//! synced, and is woken by it; and damage to figures is to be nobody's damage but theirs.
//!
//! *Bounds*: [`FILE_BYTES`] a file and [`MAX_FILES`] of them, of which the one that was written longest ago gives way; [`MAX_PENDING`]
//! records of each series in memory. *Guarantees*: one [`Figures::flush`] writes all that waits, and who samples decides when. Nothing is
//! synced: the kernel writes it within its own time (half a minute, unless the host says otherwise), so that a power cut costs that
//! and what waited. What can't be written is left out, and said once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use tank_model::Name;
use tank_plan::figures::{COARSE, FILE_BYTES, FINE, HEADER, Kept, RECORD_BYTES, Sample};

/// The folder in the state folder.
pub const FOLDER: &str = "usage";

/// The file of all of a pod: no container is called so.
const POD: &str = "_pod";

/// The most files, of all pods together: 141 MiB, were each of them full.
const MAX_FILES: usize = 1_024;

/// The most records of a series that wait to be written.
const MAX_PENDING: usize = 8;

/// A pod, or one container of it.
pub type Series = (Name, Option<Name>);

/// What there is, and what waits to be written.
#[derive(Debug)]
pub struct Figures {
    folder: PathBuf,
    state: Mutex<State>,
    max_files: usize,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<Series, Vec<Sample>>,
    /// How many files there were at the last count, and those made since. None: they were not counted yet.
    files: Option<usize>,
}

/// A file, and when it was written.
type Written = (SystemTime, PathBuf);

impl Figures {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            folder: Self::folder(state_dir),
            state: Mutex::default(),
            max_files: MAX_FILES,
        }
    }

    /// Where the files of pods are: a folder for each.
    pub fn folder(state_dir: &Path) -> PathBuf {
        state_dir.join(FOLDER)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was used at a time. It waits to be written.
    pub fn add(&self, series: Series, sample: Sample) {
        let mut state = self.lock();
        let pending = state.pending.entry(series).or_default();
        if pending.len() == MAX_PENDING {
            pending.remove(0);
        }
        pending.push(sample);
    }

    /// Writes all that waits. Blocking.
    ///
    /// # Errors
    /// The first of those that could not be written, which are left out.
    pub fn flush(&self) -> io::Result<()> {
        let (pending, mut files) = {
            let mut state = self.lock();
            (std::mem::take(&mut state.pending), state.files)
        };
        let mut result = Ok(());
        let paths: BTreeSet<PathBuf> = pending.keys().map(|of| self.path(of)).collect();
        for (series, samples) in &pending {
            let path = self.path(series);
            let written = self
                .make_room(&path, &paths, &mut files)
                .and_then(|()| write(&path, samples));
            if let Err(error) = written {
                let at = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                result = result.and(Err(at));
            }
        }
        self.lock().files = files;
        result
    }

    /// What is kept of a pod and of each of its containers. What can't be read of it is not there. Blocking.
    pub fn read(&self, pod: &Name) -> BTreeMap<Option<Name>, Kept> {
        let mut all: BTreeMap<Option<Name>, Kept> = BTreeMap::new();
        let entries = fs::read_dir(self.folder.join(pod.as_str()));
        for entry in entries.into_iter().flatten().flatten().take(self.max_files) {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let part = match name.as_str() {
                POD => None,
                name => match Name::new(name) {
                    Ok(name) => Some(name),
                    Err(_) => continue,
                },
            };
            if let Ok(kept) = read(&entry.path()) {
                all.insert(part, kept);
            }
        }
        let state = self.lock();
        let own = state.pending.iter().filter(|((of, _), _)| of == pod);
        for ((_, part), samples) in own {
            all.entry(part.clone()).or_default().newest = samples.clone();
        }
        all
    }

    /// How many files there are. Blocking, the first time.
    pub fn count(&self) -> usize {
        let known = self.lock().files;
        known.unwrap_or_else(|| {
            let files = self.files().len();
            *self.lock().files.get_or_insert(files)
        })
    }

    fn path(&self, (pod, part): &Series) -> PathBuf {
        let file = part.as_ref().map_or(POD, Name::as_str);
        self.folder.join(pod.as_str()).join(file)
    }

    /// Where a file would be one too many, removes the one that was written longest ago, unless that is among those to be written now.
    fn make_room(
        &self,
        path: &Path,
        wanted: &BTreeSet<PathBuf>,
        files: &mut Option<usize>,
    ) -> io::Result<()> {
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        // What was counted may have been collected since: it is counted again before anything gives way.
        if files.is_none_or(|files| files >= self.max_files) {
            let there = self.files();
            let mut left = there.len();
            if left >= self.max_files {
                let mut others: Vec<Written> = there
                    .into_iter()
                    .filter(|(_, path)| !wanted.contains(path))
                    .collect();
                others.sort();
                let too_many = left + 1 - self.max_files;
                for (_, path) in others.iter().take(too_many) {
                    fs::remove_file(path)?;
                    left -= 1;
                    // Another container of that pod may have one.
                    let _ = path.parent().map(fs::remove_dir);
                }
            }
            *files = Some(left);
            if left >= self.max_files {
                let why = format!("{} containers have their figures already", self.max_files);
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
            }
        }
        *files = files.map(|files| files + 1);
        Ok(())
    }

    fn files(&self) -> Vec<Written> {
        let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
        let pods =
            entries(&self.folder).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let files = pods.flat_map(|pod| entries(&pod.path()));
        files
            .filter_map(|file| {
                // What is no file is nobody's of Tank's.
                let found = file.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((found.modified().ok()?, file.path()))
            })
            .collect()
    }
}

/// Opens the file, or makes it: a regular one of this name, for root alone.
fn open(path: &Path, write: bool) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .create(write)
        .mode(0o600)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() > 1 {
        let why = "it is no file of Tank's: remove it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(file)
}

fn write(path: &Path, samples: &[Sample]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let file = open(path, true)?;
    let mut header = [0; RECORD_BYTES];
    let is_whole = file.read_exact_at(&mut header, 0).is_ok() && header == HEADER;
    if !is_whole {
        // A new one, one that is damaged, or one of a format that is not known here: figures are not worth more than to begin anew.
        file.set_len(0)?;
        file.write_all_at(&HEADER, 0)?;
    }
    if file.metadata()?.len() != FILE_BYTES {
        // Holes are read as zeros, which are no record.
        file.set_len(FILE_BYTES)?;
    }
    for sample in samples {
        file.write_all_at(&sample.encode(), FINE.offset(sample.time))?;
        let at = COARSE.offset(sample.time);
        let mut there = [0; RECORD_BYTES];
        file.read_exact_at(&mut there, at)?;
        let merged = COARSE.merged(Sample::decode(&there), *sample);
        file.write_all_at(&merged.encode(), at)?;
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Kept> {
    let file = open(path, false)?;
    let mut bytes = vec![0; FILE_BYTES as usize];
    let mut length = 0;
    while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    if !bytes.starts_with(&HEADER) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let part = |begin: u64, end: u64| bytes.get(begin as usize..end as usize).unwrap_or_default();
    Ok(Kept {
        fine: FINE.read(part(FINE.begin, FINE.end())),
        coarse: COARSE.read(part(COARSE.begin, COARSE.end())),
        newest: Vec::new(),
    })
}

#[cfg(test)]
#[path = "figures/tests.rs"]
mod tests;
