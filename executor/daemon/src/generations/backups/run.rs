//! One backup: the hook before, the volume into an archive, the hook after.
//!
//! *Order*: the folder is looked at first, so that nothing is disturbed for an archive that could not be written; `before`; a
//! snapshot, where the file system can; `after`; the archive of the snapshot. Without a snapshot the volume itself is read
//! before `after`. Once `before` was begun `after` is run, whatever has happened: also where the folder or the volume does not
//! answer any more. The archive gets its name last: so whatever ends
//! the daemon on the way, the backup is still due at the next start, and the hooks run again. Only then do old ones go.
//!
//! What waits for the folder is another process ([`Writer`]).

use super::{
    Done, Key,
    wire::{Kept, Next, Order, Packet, Work},
    writer::{Writer, max_still, name},
};
use crate::{
    actuate::{
        sources::writable,
        volumes::{Shared, Sharing, began},
    },
    events::{Kind, now},
    faults,
    generations::{Error, Generations, error::Context},
    pods::command::{Command, CommandError},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Instant,
};
use tank_model::{
    Graph, Name, VolumeId,
    spec::{Backup, Hook},
};
use tank_proto::shim::FailureKind;
use tokio::task::spawn_blocking;

/// What one backup is made of.
pub struct Run {
    pub key: Key,
    pub id: VolumeId,
    pub backup: Backup,
    pub graph: Arc<Graph>,
}

impl Run {
    fn container(&self, hook: &Hook) -> Result<Name, Error> {
        let mut mounting = self.graph.mounting(&self.key.0, &self.key.1);
        let named = hook.container.clone().or_else(|| mounting.next().cloned());
        named
            .ok_or("no container mounts the volume")
            .doing("run a hook")
    }
}

/// What was read between the hooks.
enum Read {
    Shared(Shared),
    Written,
}

/// The process said something else than it was asked for.
fn unexpected<T>(packet: &Packet) -> Result<T, Error> {
    Err(format!("its process said {packet:?}")).doing("make a backup")
}

/// Why what was read of a volume is no backup of it.
const GONE: &str = "the volume was removed or replaced meanwhile";

impl Generations {
    /// Makes a backup.
    ///
    /// # Errors
    /// When it was not made.
    pub(super) async fn back_up_now(self: &Arc<Self>, run: Run) -> Result<Done, Error> {
        let (begun, begin) = (now(), Instant::now());
        let run = Arc::new(run);
        let began = self.find_volume(&run).await?;
        let work = Work::Write {
            of: run.key.clone(),
            begun,
            keep: run.backup.keep,
            began,
        };
        // Read first: what is recorded by the time that the folder is open was not counted.
        let recorded = self.sources.recorded();
        let order = self.order(&run.backup.to, &run.graph, work);
        self.backups.writers.tries(&order.to);
        let mut writer = Writer::start(&self.backups.writers, &run.key, &order)?;
        let made = self.back_up_by(&run, &mut writer, recorded).await;
        let why = made
            .as_ref()
            .err()
            .map(|error| tank_sys::with_causes(error));
        self.end_writer(writer, &run.key, why).await;
        let mut done = made?;
        self.backups.writers.note(&run.backup.to, true);
        done.took = begin.elapsed();
        Ok(done)
    }

    /// What a process for the folder `to` needs to know.
    pub(super) fn order(&self, to: &str, graph: &Graph, work: Work) -> Order {
        Order {
            to: to.to_owned(),
            roots: writable(&graph.config()),
            state_dir: self.settings.state_dir.clone(),
            work,
        }
    }

    /// Ends a process. True: the kernel keeps it. Of such a one there is an event, and another once it has ended.
    pub(super) async fn end_writer(
        self: &Arc<Self>,
        writer: Writer,
        of: &Key,
        why: Option<String>,
    ) -> bool {
        let (this, name, pod) = (Arc::clone(self), name(of), of.0.to_string());
        let ended = name.clone();
        let end = move || {
            let message = format!("what hung of the backup of {ended} has ended");
            this.events
                .add(Kind::Backup, Some(this_pod(&ended)), message);
            this.backups.wake();
        };
        let hangs = writer.end(end).await;
        if hangs {
            let why = why.unwrap_or_else(|| "it does not end".to_owned());
            let message = format!("the backup of {name} hangs and can't be ended: {why}");
            self.events.add(Kind::BackupHangs, Some(&pod), message);
        }
        hangs
    }

    async fn back_up_by(
        self: &Arc<Self>,
        run: &Arc<Run>,
        writer: &mut Writer,
        recorded: Option<usize>,
    ) -> Result<Done, Error> {
        let archive = match writer.next(max_still()).await? {
            Packet::Opened { path, name } => path.join(name),
            other => return unexpected(&other),
        };
        if self.sources.recorded() != recorded {
            return Err("what containers may write has changed meanwhile")
                .doing("use the folder of backups");
        }
        let before = match &run.backup.before {
            Some(hook) => self.hook(run, "before", hook, &archive, None).await,
            None => Ok(()),
        };
        let read = match before {
            Ok(()) => self.read_volume(run, writer).await,
            Err(error) => Err(error),
        };
        let after = match &run.backup.after {
            Some(hook) => {
                let ok = Some(read.is_ok());
                self.hook(run, "after", hook, &archive, ok).await
            }
            None => Ok(()),
        };
        let read = read?;
        let of_snapshot = matches!(read, Read::Shared(_));
        if let Read::Shared(shared) = read {
            let written = self.write_shared(writer, &shared).await;
            // Its files go one by one.
            drop(spawn_blocking(move || drop(shared)));
            written?;
        }
        let mut done = match writer.has(Next::Keep, &[]).await? {
            Packet::Kept(kept) => Done::of(kept, run),
            other => return unexpected(&other),
        };
        faults::boundary("a backup has its name");
        done.shared = of_snapshot;
        done.after = after.err().map(|error| tank_sys::with_causes(&error));
        Ok(done)
    }

    async fn find_volume(self: &Arc<Self>, run: &Arc<Run>) -> Result<Option<u64>, Error> {
        let (this, run) = (Arc::clone(self), Arc::clone(run));
        let what = "find the volume";
        let find = move || {
            let places = this.volumes.places(&run.id);
            (this.volumes.is_there(&places), began(&places))
        };
        match spawn_blocking(find).await.doing(what)? {
            (true, began) => Ok(began),
            (false, _) => {
                Err("it is not there yet: it is made when a container that mounts it starts")
                    .doing(what)
            }
        }
    }

    /// Runs a hook. What of it failed, the error says with what it printed last.
    async fn hook(
        &self,
        run: &Run,
        which: &'static str,
        hook: &Hook,
        archive: &Path,
        ok: Option<bool>,
    ) -> Result<(), Error> {
        let container = run.container(hook)?;
        let mut env = vec![
            ("TANK_VOLUME".to_owned(), name(&run.key)),
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
        let pod = &run.key.0;
        let ran = self.pods.run(pod, command).await;
        let not_running = match &ran {
            Err(CommandError::Pod(error)) => error.kind() == FailureKind::NotRunning,
            Err(CommandError::NoShim(_)) => true,
            _ => false,
        };
        if not_running {
            let why = format!("`{pod}/{container}` does not run: `tank start {pod}` starts it");
            return Err(why).doing(what);
        }
        ran.doing(what)
    }

    /// What has to be done between the hooks.
    async fn read_volume(
        self: &Arc<Self>,
        run: &Arc<Run>,
        writer: &mut Writer,
    ) -> Result<Read, Error> {
        let what = "take a snapshot";
        let (this, owned) = (Arc::clone(self), Arc::clone(run));
        let name = format!("{}.{}", run.key.0.as_str().replace(':', "."), run.key.1);
        let begin = move || {
            faults::boundary("before a volume is read for a backup");
            this.volumes.begin_share(&owned.id, &name)
        };
        let sharing = spawn_blocking(begin).await.doing(what)?.doing(what)?;
        if let Some(sharing) = sharing
            && let Some(shared) = self.share(writer, sharing).await?
        {
            return Ok(Read::Shared(shared));
        }
        let (this, owned) = (Arc::clone(self), Arc::clone(run));
        let show = move || this.volumes.show(&this.volumes.places(&owned.id));
        let what = "write an archive";
        let shown = spawn_blocking(show).await.doing(what)?.doing(what)?;
        self.write(writer, &shown).await?;
        let (this, owned) = (Arc::clone(self), Arc::clone(run));
        let is_shown = move || {
            let places = this.volumes.places(&owned.id);
            this.volumes.is_shown(&places, &shown)
        };
        match spawn_blocking(is_shown).await.doing(what)? {
            true => Ok(Read::Written),
            false => Err(GONE).doing(what),
        }
    }

    async fn write_shared(&self, writer: &mut Writer, shared: &Shared) -> Result<(), Error> {
        let from = shared.open().doing("write an archive")?;
        self.write(writer, &from).await
    }

    /// Takes a snapshot. None: containers change the volume so that none can be.
    async fn share(
        self: &Arc<Self>,
        writer: &mut Writer,
        sharing: Sharing,
    ) -> Result<Option<Shared>, Error> {
        let fds = [sharing.from.as_fd(), sharing.into.as_fd()];
        let shared = match writer.has(Next::Share, &fds).await {
            Ok(Packet::Shared(true)) => {
                let what = "take a snapshot";
                let this = Arc::clone(self);
                let done = spawn_blocking(move || sharing.done(&this.volumes)).await;
                let shared = done.doing(what)?.ok_or(GONE).doing(what)?;
                return Ok(Some(shared));
            }
            Ok(Packet::Shared(false)) => Ok(None),
            Ok(other) => unexpected(&other),
            Err(error) => Err(error),
        };
        // What is there of it goes.
        drop(spawn_blocking(move || drop(sharing)));
        shared
    }

    /// Has the archive be written, all but its name.
    async fn write(&self, writer: &mut Writer, from: &OwnedFd) -> Result<(), Error> {
        match writer.has(Next::Write, &[from.as_fd()]).await? {
            Packet::Written => {}
            other => return unexpected(&other),
        }
        faults::boundary("a backup is written");
        Ok(())
    }
}

/// The pod of a name.
fn this_pod(name: &str) -> &str {
    name.split_once('/').map_or(name, |(pod, _)| pod)
}

impl Done {
    fn of(kept: Kept, run: &Run) -> Self {
        let stay = format!("`{}` is empty: older backups stay", name(&run.key));
        Self {
            path: kept.path,
            time: kept.time,
            entries: kept.entries,
            bytes: kept.bytes,
            shared: false,
            kept: kept.count,
            left: kept.left,
            stay: kept.stay.then_some(stay),
            after: None,
            took: std::time::Duration::ZERO,
        }
    }
}
