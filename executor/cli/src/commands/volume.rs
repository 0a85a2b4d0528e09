//! `volume`: what Tank keeps for pods, removed, written into archives and read from them.

use super::{
    backup::in_short,
    transfer::{self, feed, last},
};
use crate::{client::Client, error::Error, output};
use std::{
    io::{self, IsTerminal},
    path::Path,
};
use tank_proto::varlink::{
    BackupArchivesReply, ImportVolumeReply, Method, RemoveVolumesCall, RestoreVolumeCall,
    RestoreVolumeReply, TransferReply, Volume, VolumesReply,
};

const HEADING: [&str; 6] = [
    "VOLUME",
    "SIZE",
    "STATE",
    "GENERATIONS",
    "LAST START",
    "USED BY",
];

/// The most volumes that are removed of which the backups are asked for.
const MAX_ASKED: usize = 8;

/// Every volume there is.
pub async fn list(client: &mut Client, json: bool) -> Result<u8, Error> {
    let reply: VolumesReply = client.call(Method::Volumes {}).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    if reply.volumes.is_empty() {
        output::line("no volumes")?;
        return Ok(0);
    }
    let mut rows: Vec<Vec<String>> = reply.volumes.iter().map(row).collect();
    let mut heading = HEADING.to_vec();
    if reply
        .volumes
        .iter()
        .any(|volume| volume.snapshots.is_some() || volume.replaced.is_some())
    {
        heading.push("SNAPSHOTS");
        for (row, volume) in rows.iter_mut().zip(&reply.volumes) {
            row.push(snapshots(volume));
        }
    }
    if reply.volumes.iter().any(|volume| volume.backups.is_some()) {
        heading.push("BACKUP");
        for (row, volume) in rows.iter_mut().zip(&reply.volumes) {
            row.push(in_short(volume.backups.as_deref().unwrap_or_default()));
        }
    }
    output::table(&heading, &rows)?;
    Ok(0)
}

fn row(volume: &Volume) -> Vec<String> {
    let state = match (
        volume.mounted,
        volume.declared,
        volume.generations.as_slice(),
    ) {
        (true, ..) if volume.supposed == Some(true) => "may be in use",
        (true, ..) => "in use",
        (false, true, _) => "declared",
        (false, false, []) => "orphan",
        (false, false, _) => "kept",
    };
    vec![
        volume.name.clone(),
        size(volume),
        state.to_owned(),
        ranges(&volume.generations),
        volume.used.map_or_else(|| "-".to_owned(), output::ago),
        used_by(volume),
    ]
}

/// The pods that use it, where it is not one pod's: that one's name begins with it.
fn used_by(volume: &Volume) -> String {
    match &volume.pods {
        Some(pods) if pods.is_empty() => "nobody".to_owned(),
        Some(pods) => pods.join(", "),
        None => volume
            .name
            .split_once('/')
            .filter(|_| volume.declared)
            .map_or_else(|| "-".to_owned(), |(pod, _)| pod.to_owned()),
    }
}

/// The generations that one is kept with, and whether what it was before the last import is.
fn snapshots(volume: &Volume) -> String {
    let numbers = volume.snapshots.as_deref().unwrap_or_default();
    match (numbers, volume.replaced) {
        ([], Some(true)) => "replaced".to_owned(),
        (_, Some(true)) => format!("{}, replaced", ranges(numbers)),
        _ => ranges(numbers),
    }
}

/// Numbers in order, those in a row together: `1-3, 7`.
fn ranges(numbers: &[u64]) -> String {
    match output::runs(numbers) {
        runs if runs.is_empty() => "none".to_owned(),
        runs => runs.join(", "),
    }
}

/// What it takes, and of how much where it has a size.
fn size(volume: &Volume) -> String {
    let least = if volume.at_least { ">" } else { "" };
    let takes = output::bytes(volume.bytes);
    match volume.size {
        Some(most) if volume.counting == Some(true) => {
            format!("{least}{takes} / {}, being counted", output::bytes(most))
        }
        Some(most) => format!("{least}{takes} / {}", output::bytes(most)),
        None => format!("{least}{takes}"),
    }
}

/// Removes volumes, or says what would be removed.
pub async fn remove(client: &mut Client, call: RemoveVolumesCall, json: bool) -> Result<u8, Error> {
    let is_set = |flag: Option<bool>| flag == Some(true);
    let (dry_run, replaced) = (is_set(call.dry_run), is_set(call.replaced));
    let reply: VolumesReply = client.call(Method::RemoveVolumes(call)).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let done = if dry_run { "would remove" } else { "removed" };
    if replaced {
        for Volume { name, .. } in &reply.volumes {
            output::line(&format!("{done} what {name} was before the last import"))?;
        }
        return Ok(0);
    }
    for volume in &reply.volumes {
        let (name, size) = (&volume.name, size(volume));
        output::line(&format!("{done} {name} ({size})"))?;
        if let Some(snapshots) = &volume.snapshots {
            let kept = ranges(snapshots);
            output::line(&format!(
                "  and its snapshots, kept with generations {kept}"
            ))?;
        }
        if volume.replaced == Some(true) {
            output::line("  and what it was before the last import, which is not in that size")?;
        }
        if !volume.generations.is_empty() {
            let named = ranges(&volume.generations);
            output::line(&format!(
                "  declared by {named}: going back there begins with what the image has"
            ))?;
        }
    }
    say_backups(client, &reply.volumes).await?;
    if reply.volumes.is_empty() {
        let all: VolumesReply = client.call(Method::Volumes {}).await?;
        for line in why_none(&all.volumes) {
            output::sentence(&line, 2)?;
        }
    }
    Ok(0)
}

/// How many volumes are named that an older generation keeps.
const MAX_KEPT: usize = 5;

/// Why no volume is an orphan, and how those go that only an older generation declares: a pod that was deleted can be gone back to, with
/// what is in its volumes.
fn why_none(all: &[Volume]) -> Vec<String> {
    let is_kept = |volume: &&Volume| !volume.declared && !volume.mounted;
    let kept: Vec<&Volume> = all.iter().filter(is_kept).collect();
    let Some(first) = kept.first() else {
        let why = match all.is_empty() {
            true => "nothing to remove: there are no volumes",
            false => "nothing to remove: every volume is in use, or declared",
        };
        return vec![why.to_owned()];
    };
    let mut lines = vec![
        "nothing to remove: an older generation declares what the current one does not, and could be gone back to"
            .to_owned(),
    ];
    lines.extend(kept.iter().take(MAX_KEPT).map(|volume| {
        let (name, generations) = (&volume.name, ranges(&volume.generations));
        format!(
            "  {name} ({}): declared by generation {generations}",
            size(volume)
        )
    }));
    let more = kept.len().saturating_sub(MAX_KEPT);
    lines.extend((more > 0).then(|| format!("  and {more} more: `tank volume list`")));
    lines.push(format!(
        "`tank volume remove {}` removes it now; with those generations (`tank generations delete N`, `tank gc`) they \
         become orphans",
        first.name
    ));
    lines
}

/// Says which backups there are of volumes that are removed, as far as their folders say it.
async fn say_backups(client: &mut Client, volumes: &[Volume]) -> Result<(), Error> {
    for Volume { name, .. } in volumes.iter().take(MAX_ASKED) {
        let call = Method::BackupArchives {
            volume: name.clone(),
        };
        // Where none is declared there is nothing to be said.
        let Ok(reply) = client.call::<BackupArchivesReply>(call).await else {
            continue;
        };
        let newest = reply.archives.first();
        let folder = newest.and_then(|one| Path::new(&one.path).parent());
        if let Some(folder) = folder {
            let (count, folder) = (reply.archives.len(), folder.display());
            let verb = if count == 1 {
                "backup is"
            } else {
                "backups are"
            };
            output::line(&format!(
                "  {count} {verb} in {folder}: `tank volume restore {name}` brings the newest back"
            ))?;
        }
    }
    Ok(())
}

/// Writes a volume into a file that must not exist, or to standard output.
pub async fn export(
    client: &mut Client,
    volume: String,
    output: Option<&Path>,
    json: bool,
) -> Result<u8, Error> {
    if output.is_none() && io::stdout().is_terminal() {
        let why = "say where to: `-o FILE`, or redirect it";
        return Err(Error::failed("write an archive to a terminal", why));
    }
    client
        .send(Method::ExportVolume { volume }, Vec::new(), true)
        .await?;
    let pipe = first(client).await?;
    let target = transfer::target(output)?;
    let (done, place) = transfer::write(pipe, target, last::<TransferReply>(client)).await?;
    if let Some(place) = place {
        match json {
            true => output::json(&done)?,
            false => output::line(&format!(
                "wrote {} to {}",
                entries(done.entries),
                place.display()
            ))?,
        }
    }
    Ok(0)
}

/// Makes a volume of an archive.
pub async fn import(
    client: &mut Client,
    (volume, replace): (String, bool),
    file: Option<&Path>,
    json: bool,
) -> Result<u8, Error> {
    let source = transfer::open(file)?;
    let name = volume.clone();
    let replace = replace.then_some(true);
    let call = Method::ImportVolume { volume, replace };
    let done: ImportVolumeReply = feed(client, call, source).await?;
    if json {
        output::json(&done)?;
        return Ok(0);
    }
    output::line(&format!("{name} has {} now", entries(done.entries)))?;
    say_kept(
        &name,
        done.kept.as_deref(),
        (done.dropped == Some(true), done.still == Some(true)),
    )?;
    Ok(0)
}

fn entries(count: Option<u64>) -> String {
    output::counted(count.unwrap_or(0), "entry", "entries")
}

/// Makes a volume of a backup, or what it was before the last import.
pub async fn restore(
    client: &mut Client,
    call: RestoreVolumeCall,
    json: bool,
) -> Result<u8, Error> {
    let name = call.volume.clone();
    let done: RestoreVolumeReply = client.call(Method::RestoreVolume(call)).await?;
    if json {
        output::json(&done)?;
        return Ok(0);
    }
    let said = match (&done.archive, done.entries) {
        (Some(archive), count) => {
            format!("{name} has {} now, of {archive}", entries(count))
        }
        (None, _) => format!("{name} is what it was before the last import"),
    };
    output::line(&said)?;
    say_kept(
        &name,
        done.kept.as_deref(),
        (done.dropped == Some(true), done.still == Some(true)),
    )?;
    Ok(0)
}

/// Where what was there is, and what can be done with it.
fn say_kept(name: &str, kept: Option<&str>, (dropped, still): (bool, bool)) -> Result<(), Error> {
    let Some(kept) = kept else { return Ok(()) };
    let what = match still {
        true => {
            "what was imported before is gone, since no container has had it; what it was before that is still kept"
        }
        false => "what it was is kept",
    };
    let text = format!(
        "  {what} in {kept}, until the next import or restore: `tank volume restore {name} --replaced` brings it back, \
         `tank volume remove {name} --replaced` removes it"
    );
    output::sentence(&text, 2)?;
    if dropped {
        output::line("  what was kept there before is gone")?;
    }
    Ok(())
}

/// The pipe that the first of two replies comes with.
async fn first(client: &mut Client) -> Result<std::os::fd::OwnedFd, Error> {
    let (_, mut fds, _) = client.receive::<TransferReply>().await?;
    fds.pop().ok_or(Error::Answer("tankd sent no pipe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_one() {
        assert_eq!(ranges(&[]), "none");
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
    }

    #[test]
    fn why_nothing_is_an_orphan_is_said() {
        let volume = |name: &str, declared, generations: &[u64]| Volume {
            name: name.to_owned(),
            declared,
            generations: generations.to_vec(),
            ..serde_json::from_value(serde_json::json!({
                "name": "", "bytes": 2048, "at_least": false, "declared": false, "mounted": false,
                "generations": [],
            }))
            .expect("a volume")
        };
        assert_eq!(why_none(&[]), ["nothing to remove: there are no volumes"]);
        assert_eq!(
            why_none(&[volume("web/data", true, &[1])]),
            ["nothing to remove: every volume is in use, or declared"]
        );
        let all = [
            volume("web/data", true, &[1]),
            volume("db/data", false, &[1, 2]),
        ];
        let lines = why_none(&all);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], "  db/data (2.0 KiB): declared by generation 1-2");
        assert!(
            lines[2].starts_with("`tank volume remove db/data` removes it now"),
            "{lines:?}"
        );
    }
}
