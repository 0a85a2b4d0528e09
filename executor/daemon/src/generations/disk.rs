//! What takes the disk, by what it is, and what of it a collection would free.
//!
//! Each file counts once: a layer that several images have is one file. What volumes share with their snapshots is known by the
//! file system alone, so snapshots have a count and no size.

use super::{Error, Generations, error::Context, space::Free};
use crate::{
    actuate::volumes::{Size, measure},
    trash,
};
use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tank_sys::remove::TRASH;
use tokio::task::spawn_blocking;

/// The longest that everything but volumes is measured: what is not measured by then is said to be at least so much.
const MEASURING: Duration = Duration::from_secs(20);

/// Something that takes the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUse {
    pub kind: &'static str,
    pub count: u64,
    /// None: it is not known, since others share its bytes.
    pub size: Option<Size>,
    /// What `tank gc` would free of it.
    pub freed: u64,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Disk {
    pub parts: Vec<DiskUse>,
    /// Bytes of the file system with the state folder, and those that are free.
    pub total: u64,
    pub free: u64,
}

/// The folders below the state folder that are measured, each with what its entries are.
const FOLDERS: [(&str, &str); 6] = [
    ("layers", "images/layers"),
    ("documents", "images/blobs/sha256"),
    ("logs", "logs"),
    ("scratch", "scratch"),
    ("figures", crate::figures::FOLDER),
    ("generations", "store"),
];

impl Generations {
    /// Measures. It changes nothing, and ends when whoever asked has gone.
    ///
    /// # Errors
    /// When the store or a folder can't be read.
    pub async fn disk(self: &Arc<Self>) -> Result<Disk, Error> {
        let what = "measure what takes the disk";
        let (gone, state) = (Gone::default(), self.settings.state_dir.clone());
        let asked = Arc::clone(&gone.0);
        let look = move || {
            let deadline = Instant::now() + MEASURING;
            let mut measured = Vec::new();
            for (kind, folder) in FOLDERS {
                let stop = || asked.load(Ordering::Relaxed) || Instant::now() > deadline;
                let (count, size) = of_folder(&state.join(folder), kind == "layers", &stop)?;
                measured.push((kind, count, size));
            }
            measured.push(of_trash(&state, &|| {
                asked.load(Ordering::Relaxed) || Instant::now() > deadline
            }));
            let found = Free::of(&state)?;
            Ok::<_, io::Error>((measured, found.total, found.free))
        };
        let look = spawn_blocking(look).await.doing(what)?;
        let (measured, total, free) = look.doing(what)?;
        let generations = self.list()?.len() as u64;
        let collected = self.collect(true, None, None).await?;
        let freed = |kind: &str| {
            let kind = if kind == "generations" { "nodes" } else { kind };
            let tallies = collected.tallies();
            let found = tallies.iter().find(|(of, _)| *of == kind);
            found.map_or(0, |(_, tally)| tally.bytes)
        };
        let mut parts: Vec<DiskUse> = measured
            .into_iter()
            .map(|(kind, count, size)| DiskUse {
                kind,
                count: if kind == "generations" {
                    generations
                } else {
                    count
                },
                size: Some(size),
                freed: freed(kind),
            })
            .collect();
        parts.extend(self.disk_of_volumes().await?);
        drop(gone);
        Ok(Disk { parts, total, free })
    }

    async fn disk_of_volumes(self: &Arc<Self>) -> Result<[DiskUse; 3], Error> {
        let volumes = self.volumes().await?;
        let mut all = Size::default();
        for volume in &volumes {
            all.bytes = all.bytes.saturating_add(volume.size.bytes);
            all.at_least |= volume.size.at_least;
        }
        let snapshots = volumes.iter().map(|one| one.snapshots.len() as u64);
        let replaced = volumes.iter().filter(|one| one.replaced).count();
        let part = |kind, count, size| DiskUse {
            kind,
            count,
            size,
            freed: 0,
        };
        Ok([
            part("volumes", volumes.len() as u64, Some(all)),
            part("snapshots", snapshots.sum(), None),
            part("replaced", replaced as u64, None),
        ])
    }
}

/// Says that nobody waits any more.
#[derive(Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a folder takes, and how many entries it has; of layers only the layers count.
fn of_folder(path: &Path, layers: bool, stop: &dyn Fn() -> bool) -> io::Result<(u64, Size)> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, Size::default())),
        entries => entries?,
    };
    let is_one = |name: &str| {
        let kept = !name.starts_with('.');
        kept && (!layers || name.ends_with(".erofs") || !name.contains('.'))
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let count = names.filter(|name| is_one(name)).count();
    Ok((count as u64, measure_but_trash(path, stop)?))
}

/// What is in it and is not being removed, which is a kind of its own.
fn measure_but_trash(path: &Path, stop: &dyn Fn() -> bool) -> io::Result<Size> {
    let all = measure(path, stop)?;
    let removed = measure(&path.join(TRASH), stop).unwrap_or_default();
    Ok(Size {
        bytes: all.bytes.saturating_sub(removed.bytes),
        at_least: all.at_least || removed.at_least,
    })
}

/// What is being removed in the background.
fn of_trash(state: &Path, stop: &dyn Fn() -> bool) -> (&'static str, u64, Size) {
    let mut all = Size::default();
    for trash in trash::places(state) {
        let size = measure(&trash, stop).unwrap_or_default();
        all.bytes = all.bytes.saturating_add(size.bytes);
        all.at_least |= size.at_least;
    }
    ("trash", trash::count(state), all)
}
