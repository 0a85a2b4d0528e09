//! The archives of one volume: listed, and one of them opened to be restored.
//!
//! Where they are, the current generation says; and where that declares no backup of the volume, the newest that does: a pod is
//! deleted before its volume is put back.

use super::{
    Key, declared,
    wire::{Archived, Next, Packet, Work},
    writer::Writer,
};
use crate::{
    events::now,
    generations::{Error, Generations, error::Context, kept::no_such},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tank_model::{Graph, VolumeId, spec::Backup};
use tank_plan::backups::Hold;
use tokio::{
    sync::OwnedSemaphorePermit,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

/// How long a folder may take to be read.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(20);

/// How far in the future an archive's time may be that is taken for the newest, in milliseconds: clocks are set by seconds all the time.
const SLACK: u64 = 60_000;

/// The archives of one volume.
pub struct Archives {
    place: Place,
    /// The newest first.
    pub list: Vec<Archived>,
}

/// How the reading of an archive ends.
type Fed = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Where the backups of a volume are.
pub(super) struct Place {
    pub key: Key,
    pub id: VolumeId,
    pub to: String,
}

impl Archives {
    /// The newest one, or the one that is named: by its number in the list, from 1 on, its time, its name or its path.
    ///
    /// # Errors
    /// That there is none.
    pub fn pick(&self, wanted: Option<&str>) -> Result<Archived, String> {
        let Some(wanted) = wanted else {
            let until = now().saturating_add(SLACK);
            let newest = self.list.iter().find(|one| one.time <= until);
            let none = || format!("there is none in `{}`", self.place.to);
            return newest.cloned().ok_or_else(none);
        };
        let found = match wanted.parse::<usize>() {
            Ok(number) => number.checked_sub(1).and_then(|at| self.list.get(at)),
            Err(_) => self.list.iter().find(|one| is_it(one, wanted)),
        };
        found.cloned().ok_or_else(|| {
            let count = self.list.len();
            format!("no backup is called `{wanted}`, of {count} in `{}`: say its number or its time, as `tank volume backups VOLUME` lists them", self.place.to)
        })
    }
}

fn is_it(one: &Archived, wanted: &str) -> bool {
    let name = one.path.file_name();
    let path = one.path.to_str();
    wanted == super::names::stamp(one.time)
        || humantime::parse_rfc3339(wanted).is_ok_and(|time| {
            let since = time.duration_since(std::time::UNIX_EPOCH);
            since.is_ok_and(|since| since.as_secs() == one.time / 1_000)
        })
        || name.is_some_and(|name| name == wanted)
        || path.is_some_and(|path| path == wanted)
}

impl Generations {
    /// The archives of a volume, and what it is called.
    ///
    /// # Errors
    /// When no generation declares a backup of it, or its folder can't be read.
    pub async fn archives(self: &Arc<Self>, name: &str) -> Result<(VolumeId, Archives), Error> {
        let what = "read the folder of backups";
        let (this, owned) = (Arc::clone(self), name.to_owned());
        let find = move || this.place_of_backups(&owned);
        let place = spawn_blocking(find).await.doing(what)??;
        let (_, graph) = self.current()?;
        let list = self.list_archives(&place, &graph).await?;
        Ok((place.id.clone(), Archives { place, list }))
    }

    /// Which archives there are, the newest first.
    pub(super) async fn list_archives(
        &self,
        place: &Place,
        graph: &Graph,
    ) -> Result<Vec<Archived>, Error> {
        let what = "read the folder of backups";
        let work = Work::Archives(place.key.clone());
        let (mut writer, _looks) = self.look_into((&place.key, &place.to), graph, work)?;
        let mut list = Vec::new();
        let deadline = Instant::now() + READ_LIMIT;
        let read = loop {
            match timeout_at(deadline, writer.next(READ_LIMIT)).await {
                Ok(Ok(Packet::Archived(one))) => list.push(one),
                Ok(Ok(Packet::End)) => break Ok(()),
                Ok(Ok(other)) => break unexpected(&other),
                Ok(Err(error)) => break Err(error),
                Err(_) => {
                    writer.is_still();
                    break Err(silent(&place.to)).doing(what);
                }
            }
        };
        writer.end(|| ()).await;
        read?;
        Ok(list)
    }

    /// Begins to read one of them: what comes out of the pipe is the archive. It ends once nobody reads on, and says why the archive
    /// could not be read, if that is so.
    ///
    /// # Errors
    /// When it is gone meanwhile, or too many are read.
    pub(in crate::generations) async fn read_archive(
        &self,
        archives: &Archives,
        chosen: &Archived,
    ) -> Result<(OwnedFd, Fed), Error> {
        let what = "read the backup";
        let Place { key, to, .. } = &archives.place;
        let work = Work::Read {
            of: key.clone(),
            time: chosen.time,
        };
        let (_, graph) = self.current()?;
        let (mut writer, looks) = self.look_into((key, to), &graph, work)?;
        let opened = match writer.next(READ_LIMIT).await {
            Ok(Packet::Usable) => Ok(()),
            Ok(other) => unexpected(&other),
            Err(error) => Err(error),
        };
        if let Err(error) = opened {
            writer.end(|| ()).await;
            return Err(error);
        }
        let (read, write) = tank_sys::namespace::pipe().doing(what)?;
        let feed = async move {
            let read = writer.has(Next::Read, &[write.as_fd()]).await;
            drop(write);
            writer.end(|| ()).await;
            drop(looks);
            match read? {
                Packet::Written => Ok(()),
                other => unexpected(&other),
            }
        };
        Ok((read, Box::pin(feed)))
    }

    /// Starts what looks into a folder, unless something hangs there.
    pub(super) fn look_into(
        &self,
        (key, to): (&Key, &str),
        graph: &Graph,
        work: Work,
    ) -> Result<(Writer, OwnedSemaphorePermit), Error> {
        match self.backups.hold(key, to) {
            // Who asks for it wants to know whether it does.
            None | Some(Hold::Silent(_)) => {}
            Some(hold) => return Err(hold.to_string()).doing("use the folder of backups"),
        }
        let looks = Arc::clone(&self.backups.looks.0).try_acquire_owned();
        let looks = looks.map_err(|_| Error::TooManyTransfers)?;
        let order = self.order(to, graph, work);
        let writer = Writer::start(&self.backups.writers, key, &order)?;
        Ok((writer, looks))
    }

    /// Where the backups of a volume are: of the newest generation that says it. Blocking.
    pub(super) fn place_of_backups(&self, name: &str) -> Result<Place, Error> {
        let (_, current) = self.current()?;
        if let Some(place) = place_in(name, &current)? {
            return Ok(place);
        }
        for (_, graph) in self.other_graphs(current.root())? {
            if let Some(place) = place_in(name, &graph)? {
                return Ok(place);
            }
        }
        let kept = self.volumes.kept().unwrap_or_default();
        let is_there = VolumeId::parse(name).is_some_and(|id| kept.contains(&id));
        match no_such(name, &kept) {
            error @ Error::NoSuchVolume {
                nearest: Some(_), ..
            } if !is_there => Err(error),
            _ => Err(format!(
                "no generation that is there declares a `backup` of `{name}`: `tank volume import {name} FILE` makes it of an archive, and \
                 with `--replace` in the place of what is there"
            ))
            .doing("find its backups"),
        }
    }
}

/// What of the backups that a graph declares a name means: `pod/volume`, or that of a volume that pods share.
pub(super) fn matching(name: &str, graph: &Graph) -> Vec<(Key, Backup)> {
    let wanted = VolumeId::parse(name);
    let is_it = |(pod, volume): &Key| match &wanted {
        Some(VolumeId::Own(of, own)) => (of, own) == (pod, volume),
        shared => graph.kept_volume(pod, volume) == *shared && shared.is_some(),
    };
    let all = declared(graph).into_iter();
    all.filter(|(key, _)| is_it(key)).collect()
}

/// Why a name does not say which backups are meant.
pub(super) fn several<'k>(keys: impl Iterator<Item = &'k Key>) -> String {
    let all: Vec<String> = keys
        .map(|(pod, volume)| format!("`{pod}/{volume}`"))
        .collect();
    format!("several pods back it up: name one, {}", all.join(" or "))
}

/// Where a graph says that they are.
pub(super) fn place_in(name: &str, graph: &Graph) -> Result<Option<Place>, Error> {
    let found = matching(name, graph);
    let [(key, backup)] = found.as_slice() else {
        return match found.is_empty() {
            true => Ok(None),
            false => Err(several(found.iter().map(|(key, _)| key))).doing("find its backups"),
        };
    };
    let id = graph.kept_volume(&key.0, &key.1);
    Ok(id.map(|id| Place {
        key: key.clone(),
        id,
        to: backup.to.clone(),
    }))
}

/// Why a folder is not waited for any more.
pub(super) fn silent(to: &str) -> String {
    format!("`{to}` has not answered for {} s", READ_LIMIT.as_secs())
}

/// The process said something else than it was asked for.
pub(super) fn unexpected<T>(packet: &Packet) -> Result<T, Error> {
    Err(format!("its process said {packet:?}")).doing("use the folder of backups")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn an_archive_is_known_by_its_time_its_name_and_its_path() {
        let name = "web.data-20261127T153000Z.tar.zst";
        let one = Archived {
            time: 1_795_793_400_000,
            bytes: 1,
            path: PathBuf::from("/srv").join(name),
            empty: false,
        };
        for wanted in [
            "20261127T153000Z",
            "2026-11-27T15:30:00Z",
            name,
            "/srv/web.data-20261127T153000Z.tar.zst",
        ] {
            assert!(is_it(&one, wanted), "{wanted}");
        }
        for other in [
            "",
            "2026",
            "20261127T153001Z",
            "2026-11-27T15:30:01Z",
            "/etc/web.data-20261127T153000Z.tar.zst",
            "../srv/web.data-20261127T153000Z.tar.zst",
        ] {
            assert!(!is_it(&one, other), "{other}");
        }
    }
}
