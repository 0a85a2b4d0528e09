//! What is put into volumes by hand: archives, backups, and what was there before.
//!
//! *Guarantees*: all of it is there, or nothing was changed. Nothing is put in the place of a volume that a container has mounted, or
//! may have. What was there is kept beside the volume until the next time, so nobody loses it by a mistake in a name.

use super::{
    Error, Generations,
    error::Context,
    kept::{declaring, is_pod, local, no_such, who_has, words},
    sizes::not_taken,
    volumes::{ARCHIVE, Volume, choose},
};
use crate::{
    actuate::volumes::{Places, Replaced, Turn, VolumeError, Volumes, used},
    events::Kind,
};
use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};
use tank_image::Budget;
use tank_model::{Name, VolumeId};
use tank_plan::target::Quota;
use tokio::{net::unix::pipe, task::spawn_blocking};

/// What is longest waited for the containers of a pod to be known.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// How long it may take to say why a backup could not be read.
const FEED_LIMIT: Duration = Duration::from_secs(2);

/// What was put into a volume.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Files, directories and links. None: what was there before is there again.
    pub entries: Option<u64>,
    pub replaced: Replaced,
    /// The backup that it is of.
    pub archive: Option<PathBuf>,
}

impl Generations {
    /// Makes a volume of what comes out of a pipe. One that has something in it is replaced only if that is said. It need not be
    /// declared yet.
    ///
    /// # Errors
    /// When it may not be, or what comes is no archive.
    pub async fn import(
        self: &Arc<Self>,
        name: &str,
        replace: bool,
        archive: OwnedFd,
    ) -> Result<Imported, Error> {
        let kept = || self.volumes.kept().unwrap_or_default();
        let id = VolumeId::parse(name).ok_or_else(|| no_such(name, &kept()))?;
        let (_, graph) = self.current()?;
        let all = kept();
        if is_pod(&graph, &all, &id) {
            return Err(no_such(name, &all));
        }
        self.refuse_misspelt(name, &id, &all)?;
        let imported = self.take_in(&id, replace, archive).await?;
        let entries = imported.entries.unwrap_or(0);
        self.say_of(&id, format!("volume {id} is imported: {entries} entries"));
        Ok(imported)
    }

    /// Makes a volume of one of its backups: of the newest, or of the one that is named.
    ///
    /// # Errors
    /// When there is none, or as [`Generations::import`].
    pub async fn restore(
        self: &Arc<Self>,
        name: &str,
        backup: Option<&str>,
    ) -> Result<Imported, Error> {
        let what = "restore a volume";
        let (id, backups) = self.archives(name).await?;
        let chosen = backups.pick(backup).doing(what)?;
        // Refused before an archive is read, as an import is.
        let places = Arc::new(self.volumes.places(&id));
        let may = self.may_replace(&id, &places, true).await;
        may.map_err(as_restore)?;
        let (read, feed) = self.read_archive(&backups, &chosen).await?;
        let path = chosen.path;
        // Once the pipe is not read any more it ends.
        let feed = tokio::spawn(feed);
        let mut imported = match self.take_in(&id, true, read).await {
            Ok(imported) => imported,
            // Where the archive can't be read, that is why.
            Err(error) => {
                let fed = tokio::time::timeout(FEED_LIMIT, feed).await;
                return match fed {
                    Ok(Ok(Err(fed))) => Err(fed),
                    _ => Err(as_restore(error)),
                };
            }
        };
        let entries = imported.entries.unwrap_or(0);
        let shown = path.display();
        self.say_of(
            &id,
            format!("volume {id} is restored from {shown}: {entries} entries"),
        );
        imported.archive = Some(path);
        Ok(imported)
    }

    /// Exchanges a volume with what it was before the last import.
    ///
    /// # Errors
    /// When nothing was replaced, or it may not be now.
    pub async fn put_back_replaced(self: &Arc<Self>, name: &str) -> Result<Imported, Error> {
        let what = "bring back what a volume was";
        let kept = self.volumes.kept().doing("list the volumes")?;
        let id = VolumeId::parse(name).filter(|id| kept.contains(id));
        let id = id.ok_or_else(|| no_such(name, &kept))?;
        let places = Arc::new(self.volumes.places(&id));
        let this = Arc::clone(self);
        let exchange = async move {
            // No container starts until it is in its place.
            let pass = tokio::time::timeout(LOCK_WAIT, this.reconciler.lock()).await;
            let pass = pass.map_err(|_| Error::Busy(None))?;
            this.may_replace(&id, &places, true).await?;
            let (volumes, of) = (Arc::clone(&this.volumes), Arc::clone(&places));
            let put = spawn_blocking(move || volumes.put_back(&of)).await;
            let (kept, _import) = put.doing(what)?.doing(what)?;
            drop(pass);
            let volumes = Arc::clone(&this.volumes);
            let tidied = spawn_blocking(move || volumes.tidy(&places)).await;
            tidied.doing(what)?;
            this.say_of(
                &id,
                format!("volume {id} is what it was before the last import"),
            );
            Ok(Imported {
                entries: None,
                replaced: Replaced {
                    kept: Some(kept),
                    dropped: false,
                    still: false,
                },
                archive: None,
            })
        };
        // Once begun it goes on.
        tokio::spawn(exchange).await.doing(what)?
    }

    /// Removes of volumes what they were before the last import.
    ///
    /// # Errors
    /// When nothing was replaced of one, or what the disk gives.
    pub async fn remove_replaced(
        self: &Arc<Self>,
        names: Vec<String>,
        dry_run: bool,
    ) -> Result<Vec<Volume>, Error> {
        let chosen = choose(&self.unmeasured().await?, names)?;
        let what = "remove what a volume was";
        if let Some(one) = chosen.iter().find(|one| !one.replaced) {
            let why = format!(
                "nothing was replaced of `{}`, or what was is removed",
                one.id
            );
            return Err(why).doing(what);
        }
        if dry_run {
            return Ok(chosen);
        }
        let this = Arc::clone(self);
        let remove = move || {
            for Volume { id, .. } in &chosen {
                let places = this.volumes.places(id);
                this.volumes.remove_replaced(&places).doing(what)?;
                this.say_of(
                    id,
                    format!("what volume {id} was before the last import is removed"),
                );
            }
            Ok(chosen)
        };
        spawn_blocking(remove).await.doing(what)?
    }

    /// Refuses a name that nothing declares and that is nearly one that is: another one is of a volume that is declared later.
    fn refuse_misspelt(&self, name: &str, id: &VolumeId, kept: &[VolumeId]) -> Result<(), Error> {
        let known: Vec<VolumeId> = self.named()?.into_keys().collect();
        let is_own = matches!(id, VolumeId::Own(..));
        if is_own || known.contains(id) || kept.contains(id) {
            return Ok(());
        }
        match no_such(name, &known) {
            error @ Error::NoSuchVolume {
                nearest: Some(_), ..
            } => Err(error),
            _ => Ok(()),
        }
    }

    fn say_of(&self, id: &VolumeId, message: String) {
        let pod = id.pod().map(Name::as_str);
        self.events.add(Kind::Volume, pod, message);
    }

    /// Makes a volume of what comes out of a pipe.
    async fn take_in(
        self: &Arc<Self>,
        id: &VolumeId,
        replace: bool,
        archive: OwnedFd,
    ) -> Result<Imported, Error> {
        let what = "import a volume";
        let (_, graph) = self.current()?;
        let places = Arc::new(self.volumes.places(id));
        self.may_replace(id, &places, replace).await?;
        let _place = self.transfer_from(&archive, what).await?;
        self.may_replace(id, &places, replace).await?;
        let archive = pipe::Receiver::from_owned_fd(archive).doing(what)?;
        let budget = Budget::of(ARCHIVE, &self.settings.state_dir, None);
        let quota = self.quota(&graph, id);
        let begun = Begun::new(&self.volumes, &places, quota).await?;
        let into = begun.dir.try_clone().doing(what)?;
        // Whoever asked may leave: then this ends.
        let _cancel = budget.cancel_on_drop();
        let entries = self.images.unpack(archive, into, &budget).await;
        let entries = entries.map_err(|error| not_taken(error, quota))?;
        // All of it is on the disk before anybody has to wait for that.
        begun.sync().await?;
        // Once begun this goes on.
        let (this, id) = (Arc::clone(self), id.clone());
        let put = async move { this.put_in_place(&id, replace, begun).await };
        let replaced = tokio::spawn(put).await.doing(what)??;
        Ok(Imported {
            entries: Some(entries),
            replaced,
            archive: None,
        })
    }

    async fn put_in_place(
        &self,
        id: &VolumeId,
        replace: bool,
        begun: Begun,
    ) -> Result<Replaced, Error> {
        let what = "make a volume";
        // No container starts until it is in its place.
        let pass = tokio::time::timeout(LOCK_WAIT, self.reconciler.lock()).await;
        let pass = pass.map_err(|_| Error::Busy(None))?;
        self.may_replace(id, &begun.places, replace).await?;
        let places = Arc::clone(&begun.places);
        let (replaced, turn) = begun.take().await?;
        // What was there may be much.
        drop(pass);
        let volumes = Arc::clone(&self.volumes);
        let tidy = move || {
            volumes.tidy(&places);
            drop(turn);
        };
        spawn_blocking(tidy).await.doing(what)?;
        Ok(replaced)
    }

    /// Refuses to put something in a volume's place.
    async fn may_replace(
        &self,
        id: &VolumeId,
        places: &Arc<Places>,
        replace: bool,
    ) -> Result<(), Error> {
        let (_, graph) = self.current()?;
        if let VolumeId::Own(pod, volume) = id
            && let Some(declared) = graph.volume(pod, volume)
            && !declared.is_managed()
        {
            let why = match declared.shared_of(pod) {
                Some(shared) => format!("`{id}` is the shared volume `{shared}`: name that"),
                None => format!("`{id}` is none that Tank keeps: it is of the host, or in memory"),
            };
            return Err(Error::Unaskable(why));
        }
        let of = Arc::clone(places);
        let was_used = spawn_blocking(move || used(&of).is_some()).await;
        let was_used = was_used.doing("look at a volume")?;
        let observed = self.reconciler.observe(&graph).await?;
        if let Some(holder) = who_has(&observed, &graph, id, was_used) {
            let (pod, volume) = (holder.pod, local(id));
            if let Some(name) = holder.undeclared {
                // `tank stop` ends what is declared.
                let has = if holder.is_sure { "has" } else { "may have" };
                let why = format!(
                    "`{pod}/{name}`, which no generation declares, {has} `{volume}` mounted: a `tank run` ends with its command, and with \
                     whoever runs it; of what another store declared it is known after a switch to that"
                );
                return Err(why).doing("import a volume");
            }
            if !holder.is_sure {
                let why = format!(
                    "of pod `{pod}` it is not known what it has mounted, and `{volume}` was in use once: it does not answer, or is not yet what \
                     the current generation declares; `tank explain {pod}` says which"
                );
                return Err(why).doing("import a volume");
            }
            let all = match declaring(&graph, id) {
                pods if pods.is_empty() => pod.to_string(),
                pods => words(&pods, " "),
            };
            let why = format!(
                "a container of pod `{pod}` has `{volume}` mounted: `tank stop {all}` ends it, and `tank start {all}` starts it afterwards"
            );
            return Err(why).doing("import a volume");
        }
        let (volumes, places) = (Arc::clone(&self.volumes), Arc::clone(places));
        let look = spawn_blocking(move || volumes.has_content(&places)).await;
        let has_content = look.doing("look at a volume")?.doing("look at a volume")?;
        if has_content && !replace {
            let why = format!(
                "`{id}` has something in it: `--replace` puts the archive in its place, and keeps what is there beside it"
            );
            return Err(why).doing("import a volume");
        }
        Ok(())
    }
}

/// What of an import is refused, in the words of whoever asked for a restore.
fn as_restore(error: Error) -> Error {
    match error {
        Error::Internal {
            what: "import a volume",
            source,
        } => Error::Internal {
            what: "restore a volume",
            source,
        },
        other => other,
    }
}

/// What is being imported: it goes with this.
struct Begun {
    volumes: Arc<Volumes>,
    places: Arc<Places>,
    dir: OwnedFd,
    turn: Option<Turn>,
}

impl Begun {
    async fn new(
        volumes: &Arc<Volumes>,
        places: &Arc<Places>,
        quota: Option<Quota>,
    ) -> Result<Self, Error> {
        let (volumes, places) = (Arc::clone(volumes), Arc::clone(places));
        let begin = move || {
            let begun = volumes.begin_import(&places, quota.as_ref())?;
            Ok::<_, VolumeError>(Self {
                volumes,
                places,
                dir: begun.0,
                turn: Some(begun.1),
            })
        };
        let begun = spawn_blocking(begin).await.doing("make a volume")?;
        begun.doing("make a volume")
    }

    async fn sync(&self) -> Result<(), Error> {
        let what = "write a volume to the disk";
        let dir = self.dir.try_clone().doing(what)?;
        let sync = move || rustix::fs::syncfs(&dir).map_err(io::Error::from);
        spawn_blocking(sync).await.doing(what)?.doing(what)
    }

    /// Puts it in the volume's place. The turn is that of what has to be done afterwards.
    async fn take(mut self) -> Result<(Replaced, Option<Turn>), Error> {
        let turn = self.turn.take();
        let (volumes, places) = (Arc::clone(&self.volumes), Arc::clone(&self.places));
        let take = move || (volumes.take_import(&places), turn);
        let (taken, turn) = spawn_blocking(take).await.doing("make a volume")?;
        match taken {
            Ok(replaced) => Ok((replaced, turn)),
            Err(error) => {
                // What was imported goes.
                self.turn = turn;
                Err(error).doing("make a volume")
            }
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        let (volumes, places) = (Arc::clone(&self.volumes), Arc::clone(&self.places));
        let remove = move || {
            // What can't be removed now is swept at the next start.
            let _ = volumes.drop_import(&places);
            drop(turn);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
