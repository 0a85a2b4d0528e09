//! What a change says of volumes that begin anew though there are backups of them: one was removed, or the store is another one.

use super::{archives::Place, wire::Archived};
use crate::generations::{Generations, kept::managed};
use std::sync::Arc;
use tank_model::{Graph, Name, Scope, VolumeId};
use tokio::{
    task::spawn_blocking,
    time::{Duration, Instant},
};

/// The most volumes of one change whose folders are looked into.
const MAX_LOOKED: usize = 8;

/// When no other folder is begun to be looked into: one that does not answer takes up to twenty seconds, and is left alone afterwards.
const LOOKING: Duration = Duration::from_secs(10);

impl Generations {
    /// Of each volume that is meant and not there yet, which backups of it there are and how the newest is brought back. A folder that
    /// can't be read says nothing: there was none, most often.
    pub async fn notes_of_new(&self, graph: &Graph, scope: &Scope) -> Vec<String> {
        let (volumes, all) = (Arc::clone(&self.volumes), managed(graph));
        let is_meant = |id: &VolumeId| match id {
            VolumeId::Own(pod, _) => scope.has(pod),
            VolumeId::Shared(_) => true,
        };
        let all: Vec<VolumeId> = all.into_iter().filter(is_meant).collect();
        let look = move || {
            let is_new = |id: &VolumeId| !volumes.is_there(&volumes.places(id));
            all.into_iter().filter(is_new).collect::<Vec<_>>()
        };
        let Ok(new) = spawn_blocking(look).await else {
            return Vec::new();
        };
        let begin = Instant::now();
        let (mut notes, mut looked) = (Vec::new(), 0);
        for id in new {
            // One that several pods back up has several folders: which is meant, nobody knows.
            let Ok(place) = self.place_of_new(&id.to_string(), graph) else {
                continue;
            };
            if looked >= MAX_LOOKED || begin.elapsed() > LOOKING {
                break;
            }
            looked += 1;
            if self.backups.hold(&place.key, &place.to).is_some() {
                continue;
            }
            if let Ok(list) = self.list_archives(&place, graph).await {
                let users = crate::generations::kept::declaring(graph, &id);
                notes.extend(note(&id, &place.to, &list, &users));
            }
        }
        notes
    }

    /// Where the backups of a volume are: as the graph says it, or else as an earlier generation did.
    fn place_of_new(&self, name: &str, graph: &Graph) -> Result<Place, crate::generations::Error> {
        match super::archives::place_in(name, graph)? {
            Some(place) => Ok(place),
            None => self.place_of_backups(name),
        }
    }
}

/// What is said of a volume that begins anew; `list` has the newest first.
fn note(id: &VolumeId, to: &str, list: &[Archived], users: &[Name]) -> Option<String> {
    // One of an empty volume is nothing to bring back.
    let (at, newest) = (1..).zip(list).find(|(_, one)| !one.empty)?;
    let which = match at {
        1 => String::new(),
        at => format!(" {at}"),
    };
    let count = list.len();
    let backups = if count == 1 { "backup" } else { "backups" };
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(newest.time))?;
    let time = humantime::format_rfc3339_seconds(time);
    let users: Vec<&str> = users.iter().map(Name::as_str).collect();
    let around = match users.as_slice() {
        [] => String::new(),
        users => format!(
            " while its containers are stopped (`tank stop {0}`, then `tank start {0}`)",
            users.join(" ")
        ),
    };
    Some(format!(
        "volume {id} begins anew, and `{to}` has {count} {backups} of it, the newest with something in it of {time}: `tank volume restore {id}{which}` brings that back{around}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backups_of_what_begins_anew_are_named_with_the_way_back() {
        let id = VolumeId::parse("db/data").expect("a volume");
        let one = |time, empty| Archived {
            time,
            bytes: 1,
            path: "/srv/x".into(),
            empty,
        };
        let users = [Name::new("db").expect("a name")];
        let (full, empty) = (one(1_795_793_400_000, false), one(1, true));
        let said = note(&id, "/srv", &[full.clone(), empty.clone()], &users);
        assert_eq!(
            said.expect("a note"),
            "volume db/data begins anew, and `/srv` has 2 backups of it, the newest with something in it of 2026-11-27T15:30:00Z: \
             `tank volume restore db/data` brings that back while its containers are stopped (`tank stop db`, then `tank start db`)"
        );
        let later = note(&id, "/srv", &[empty.clone(), full], &[]).expect("a note");
        assert!(
            later.ends_with("`tank volume restore db/data 2` brings that back"),
            "{later}"
        );
        assert_eq!(note(&id, "/srv", &[], &users), None);
        assert_eq!(note(&id, "/srv", &[empty], &users), None);
    }
}
