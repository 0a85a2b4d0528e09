//! One backup: the hook before, the volume into an archive, the hook after.
//!
//! *Order*: the folder is looked at first, so that nothing is disturbed for an archive that could not be written; `before`; a
//! snapshot, where the file system can; `after`; the archive of the snapshot. Without a snapshot the volume itself is read
//! before `after`. Once `before` was begun `after` is run, whatever has happened. The archive gets its name last: so whatever ends
//! the daemon on the way, the backup is still due at the next start, and the hooks run again. Only then do old ones go.

use super::{
    Done,
    folder::{Folder, MAX_EMPTY, New},
};
use crate::{
    actuate::volumes::Shared,
    events::now,
    faults,
    generations::{Error, Generations, error::Context},
    pods::command::Command,
};
use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::Arc,
    time::Instant,
};
use tank_image::{Budget, Exported, Refusal, Share};
use tank_model::{
    Graph, Name, VolumeId,
    spec::{Backup, Hook},
};
use tank_plan::backups::{Archive, replaced};
use tokio::task::spawn_blocking;

/// What an archive may have, and the snapshot that it is of: the disk is the bound of its bytes, and what can't be imported
/// again is not exported.
const ARCHIVE: Share = Share {
    bytes: u64::MAX,
    entries: u64::MAX,
    time: 2 * 3600 * 1000,
};

/// The entries of a snapshot.
const MAX_SHARED: u64 = 1_000_000;

/// How hard it is compressed: zstd's own default.
const LEVEL: i32 = 3;

/// The bytes between two looks at what is free.
const LOOK: u64 = 1 << 20;

/// What one backup is made of.
pub struct Run {
    pub pod: Name,
    pub volume: Name,
    pub id: VolumeId,
    pub backup: Backup,
    pub graph: Arc<Graph>,
}

impl Run {
    fn name(&self) -> String {
        format!("{}/{}", self.pod, self.volume)
    }

    fn container(&self, hook: &Hook) -> Result<Name, Error> {
        let mut mounting = self.graph.mounting(&self.pod, &self.volume);
        let named = hook.container.clone().or_else(|| mounting.next().cloned());
        named
            .ok_or("no container mounts the volume")
            .doing("run a hook")
    }
}

impl Generations {
    /// Makes a backup.
    ///
    /// # Errors
    /// When it was not made.
    pub(super) async fn back_up_now(self: &Arc<Self>, run: Run) -> Result<Done, Error> {
        let (begun, begin) = (now(), Instant::now());
        let run = Arc::new(run);
        let folder = Arc::new(self.open_folder(&run).await?);
        let before = match &run.backup.before {
            Some(hook) => {
                self.hook(&run, "before", hook, (&folder, begun), None)
                    .await
            }
            None => Ok(()),
        };
        let disk = folder.disk().doing("use the folder of backups")?;
        let budget = Budget::of(ARCHIVE, &folder.path, Some(disk));
        // Whoever waits for it may leave with the daemon: then this ends.
        let _cancel = budget.cancel_on_drop();
        let read = match before {
            Ok(()) => self.read_volume(&run, &folder, (begun, &budget)).await,
            Err(error) => Err(error),
        };
        let after = match &run.backup.after {
            Some(hook) => {
                let ok = Some(read.is_ok());
                self.hook(&run, "after", hook, (&folder, begun), ok).await
            }
            None => Ok(()),
        };
        let written = match read? {
            Read::Written(written) => written,
            Read::Shared(shared) => {
                let from = Source::Shared(shared);
                self.write_archive(&run, &folder, (begun, &budget), from)
                    .await?
            }
        };
        let mut done = self.keep_archive(&run, written).await?;
        done.took = begin.elapsed();
        done.after = after.err().map(|error| tank_sys::with_causes(&error));
        Ok(done)
    }

    async fn open_folder(self: &Arc<Self>, run: &Arc<Run>) -> Result<Folder, Error> {
        let (this, run) = (Arc::clone(self), Arc::clone(run));
        let open = move || {
            let places = this.volumes.places(&run.id);
            if !this.volumes.is_there(&places) {
                let why = "it is not there yet: it is made when a container that mounts it starts";
                return Err(why).doing("find the volume");
            }
            this.folder_of((&run.pod, &run.volume), &run.backup.to, &run.graph)
        };
        spawn_blocking(open)
            .await
            .doing("use the folder of backups")?
    }

    /// The folder of a volume's archives. Blocking.
    pub(super) fn folder_of(
        &self,
        volume: (&Name, &Name),
        to: &str,
        graph: &Graph,
    ) -> Result<Folder, Error> {
        let config = graph.config();
        Folder::open(
            &self.sources,
            (to, &config),
            &self.settings.state_dir,
            volume,
        )
    }

    /// Runs a hook. What of it failed, the error says with what it printed last.
    async fn hook(
        &self,
        run: &Run,
        which: &'static str,
        hook: &Hook,
        (folder, begun): (&Folder, u64),
        ok: Option<bool>,
    ) -> Result<(), Error> {
        let container = run.container(hook)?;
        let archive = folder.path.join(folder.name(begun));
        let mut env = vec![
            ("TANK_VOLUME".to_owned(), run.name()),
            ("TANK_HOOK".to_owned(), which.to_owned()),
            ("TANK_ARCHIVE".to_owned(), archive.display().to_string()),
        ];
        if let Some(ok) = ok {
            let result = if ok { "ok" } else { "failed" };
            env.push(("TANK_RESULT".to_owned(), result.to_owned()));
        }
        let command = Command {
            container: &container,
            argv: &hook.exec,
            env,
            limit: hook.timeout.duration(),
        };
        let what = match which {
            "before" => "run the hook `before`",
            _ => "run the hook `after`",
        };
        self.pods.run(&run.pod, command).await.doing(what)
    }

    /// What has to be done between the hooks.
    async fn read_volume(
        self: &Arc<Self>,
        run: &Arc<Run>,
        folder: &Arc<Folder>,
        when: (u64, &Budget),
    ) -> Result<Read, Error> {
        let what = "take a snapshot";
        let (this, owned) = (Arc::clone(self), Arc::clone(run));
        let share = Share {
            entries: MAX_SHARED,
            ..ARCHIVE
        };
        // Its own disk is what it takes of.
        let budget = Budget::of(share, &self.settings.state_dir, None);
        let _cancel = budget.cancel_on_drop();
        let name = format!("{}.{}", run.pod.as_str().replace(':', "."), run.volume);
        let share = move || {
            faults::boundary("before a volume is read for a backup");
            this.volumes.share(&owned.id, &name, &budget)
        };
        let shared = spawn_blocking(share).await.doing(what)?.doing(what)?;
        match shared {
            Some(shared) => Ok(Read::Shared(shared)),
            None => {
                let written = self
                    .write_archive(run, folder, when, Source::Volume)
                    .await?;
                Ok(Read::Written(written))
            }
        }
    }

    /// Writes the archive, all but its name.
    async fn write_archive(
        self: &Arc<Self>,
        run: &Arc<Run>,
        folder: &Arc<Folder>,
        (begun, budget): (u64, &Budget),
        from: Source,
    ) -> Result<Written, Error> {
        let (this, run) = (Arc::clone(self), Arc::clone(run));
        let (folder, budget) = (Arc::clone(folder), budget.clone());
        let write = move || this.write_archive_blocking(&run, folder, (begun, &budget), &from);
        spawn_blocking(write).await.doing("write an archive")?
    }

    fn write_archive_blocking(
        &self,
        run: &Run,
        folder: Arc<Folder>,
        (begun, budget): (u64, &Budget),
        from: &Source,
    ) -> Result<Written, Error> {
        let what = "write an archive";
        let places = self.volumes.places(&run.id);
        let shown = match from {
            Source::Volume => self.volumes.show(&places).doing(what)?,
            Source::Shared(shared) => shared.open().doing(what)?,
        };
        let new = folder.begin(begun)?;
        let out = Checked {
            out: &new.file,
            budget,
            unlooked: LOOK,
            bytes: 0,
        };
        let mut packer = zstd::stream::write::Encoder::new(out, LEVEL).doing(what)?;
        packer.include_checksum(true).doing(what)?;
        let tally =
            tank_image::export(shown.as_fd(), &mut packer, budget).doing("back up the volume")?;
        let bytes = packer.finish().doing(what)?.bytes;
        if matches!(from, Source::Volume) && !self.volumes.is_shown(&places, &shown) {
            return Err("the volume was removed or replaced meanwhile").doing(what);
        }
        new.sync()?;
        faults::boundary("a backup is written");
        Ok(Written {
            folder,
            new,
            tally,
            bytes,
            shared: matches!(from, Source::Shared(_)),
        })
    }

    /// Gives the archive its name, and removes those that are beyond what is kept.
    async fn keep_archive(
        self: &Arc<Self>,
        run: &Arc<Run>,
        written: Written,
    ) -> Result<Done, Error> {
        let run = Arc::clone(run);
        let take = move || {
            let Written {
                folder,
                new,
                tally,
                bytes,
                shared,
            } = written;
            let (path, time) = (new.path(), new.time().unwrap_or_default());
            new.take()?;
            faults::boundary("a backup has its name");
            let empty = tally.entries == 0 && bytes <= MAX_EMPTY;
            let (kept, left, stay) = rotate(&folder, Archive { time, empty }, &run);
            Ok(Done {
                path,
                time,
                entries: tally.entries,
                bytes,
                shared,
                kept,
                left,
                stay,
                after: None,
                took: std::time::Duration::ZERO,
            })
        };
        spawn_blocking(take).await.doing("keep an archive")?
    }
}

/// Removes the archives in whose place the new one is: how many there are now, which could not be removed, and why older
/// ones stay. The new one is good whatever becomes of them: one that failed would be made again, beside it.
fn rotate(folder: &Folder, new: Archive, run: &Run) -> (usize, Vec<String>, Option<String>) {
    let mut all = match folder.archives() {
        Ok(all) => all,
        Err(error) => return (1, vec![tank_sys::with_causes(&error)], None),
    };
    all.retain(|one| one.time != new.time);
    all.push(new);
    let gone = replaced(now(), &all, new.time, run.backup.keep);
    let left = folder.remove(&gone);
    let stay = new.empty && all.iter().any(|one| !one.empty);
    let stay = stay.then(|| format!("`{}` is empty: older backups stay", run.name()));
    (all.len() - gone.len() + left.len(), left, stay)
}

/// What was read between the hooks.
enum Read {
    Shared(Shared),
    Written(Written),
}

/// What an archive is written of.
enum Source {
    Volume,
    Shared(Shared),
}

/// An archive that is whole and has no name yet.
struct Written {
    folder: Arc<Folder>,
    new: New,
    tally: Exported,
    bytes: u64,
    shared: bool,
}

/// A file on a disk of which some stays free, for Tank's own store or for whoever else has something there.
struct Checked<'a> {
    out: &'a std::fs::File,
    budget: &'a Budget,
    unlooked: u64,
    bytes: u64,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unlooked >= LOOK {
            self.unlooked = 0;
            self.budget.space().map_err(no_space)?;
        }
        let written = self.out.write(bytes)?;
        self.unlooked += written as u64;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In the words of a backup.
fn no_space(refusal: Refusal) -> io::Error {
    match refusal {
        Refusal::NoSpace { disk, free, spare } => {
            let disk = disk.display();
            let why = format!("`{disk}` has {free} free, and {spare} of that stay free");
            io::Error::new(io::ErrorKind::StorageFull, why)
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_in_the_words_of_a_backup() {
        let error = no_space(Refusal::NoSpace {
            disk: "/srv/backups".into(),
            free: "15 MiB".into(),
            spare: "64 MiB".into(),
        });
        let expected = "`/srv/backups` has 15 MiB free, and 64 MiB of that stay free";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_is_written_is_counted_and_ends_with_the_daemon() {
        let path = std::env::temp_dir().join(format!("tank-backup-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("a file");
        std::fs::remove_file(&path).expect("goes");
        let budget = Budget::of(ARCHIVE, std::path::Path::new("/"), None);
        let mut out = Checked {
            out: &file,
            budget: &budget,
            unlooked: 0,
            bytes: 0,
        };
        out.write_all(&[7; 1000]).expect("writes");
        assert_eq!((out.bytes, out.unlooked), (1000, 1000));
        drop(budget.cancel_on_drop());
        out.unlooked = LOOK;
        out.write_all(&[7]).expect_err("nobody waits");
    }
}
