//! `volume backup` and `volume backups`.

use super::volume;
use crate::{args::Backups, client::Client, error::Error, output};
use serde::Serialize;
use tank_model::units::Millis;
use tank_proto::varlink::{
    Archive, BackUpVolumeReply, Backup, BackupArchivesReply, BackupsReply, FormerBackup, Method,
    RestoreVolumeCall,
};

const HEADING: [&str; 6] = ["VOLUME", "TO", "KEPT", "NEWEST", "NEXT", "LAST"];

const ARCHIVES: [&str; 4] = ["NUMBER", "BEGUN", "SIZE", "PATH"];

pub async fn backups(client: &mut Client, command: Backups, json: bool) -> Result<u8, Error> {
    match command {
        Backups::Backup { volume } => back_up(client, volume, json).await,
        Backups::List { volume: None } => list(client, json).await,
        Backups::List {
            volume: Some(volume),
        } => of_volume(client, volume, json).await,
        Backups::Restore {
            volume,
            backup,
            replaced,
        } => {
            let call = RestoreVolumeCall {
                volume,
                backup,
                replaced: replaced.then_some(true),
            };
            volume::restore(client, call, json).await
        }
    }
}

async fn back_up(client: &mut Client, volume: String, json: bool) -> Result<u8, Error> {
    let reply: BackUpVolumeReply = client.call(Method::BackUpVolume { volume }).await?;
    let (entries, bytes) = (reply.entries, reply.bytes);
    match json {
        true => output::json(&reply)?,
        false => output::line(&format!(
            "wrote {} to {} ({bytes} bytes)",
            output::counted(entries, "entry", "entries"),
            reply.archive
        ))?,
    }
    match reply.failed {
        Some(why) => Err(Error::failed("clean up after the backup", why)),
        None => Ok(0),
    }
}

async fn list(client: &mut Client, json: bool) -> Result<u8, Error> {
    let reply: BackupsReply = client.call(Method::Backups { former: Some(true) }).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let former = reply.former.unwrap_or_default();
    if reply.backups.is_empty() && former.is_empty() {
        output::line(
            "no backups are declared, and none is where an earlier generation that is there declared one",
        )?;
        return Ok(0);
    }
    table(&reply.backups, &former)?;
    if !former.is_empty() {
        output::line(
            "`tank volume backups VOLUME` lists those that are not declared any more too, and `tank volume restore VOLUME` brings the \
             newest back",
        )?;
    }
    Ok(0)
}

fn table(backups: &[Backup], former: &[FormerBackup]) -> Result<(), Error> {
    let rows = backups.iter().map(row);
    let rows: Vec<Vec<String>> = rows.chain(former.iter().map(former_row)).collect();
    output::table_of_sentences(&HEADING, &rows)
}

fn former_row(one: &FormerBackup) -> Vec<String> {
    vec![
        one.volume.clone(),
        one.to.clone(),
        one.count.to_string(),
        one.newest.map_or_else(|| "-".to_owned(), output::ago),
        "-".to_owned(),
        format!("last declared by generation {}", one.generation),
    ]
}

/// What is printed of one volume with `--json`.
#[derive(Serialize)]
struct OfVolume {
    /// As the current generation declares them: none, if that does not.
    backups: Vec<Backup>,
    /// The newest first. None: the folder can't be read.
    archives: Option<Vec<Archive>>,
    /// Why it can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

async fn of_volume(client: &mut Client, volume: String, json: bool) -> Result<u8, Error> {
    let reply: BackupsReply = client.call(Method::Backups { former: None }).await?;
    let mut backups = reply.backups;
    backups.retain(|one| one.volume == volume || one.of == volume);
    let found: Result<BackupArchivesReply, Error> =
        client.call(Method::BackupArchives { volume }).await;
    let (archives, error) = match found {
        Ok(found) => (Some(found.archives), None),
        // Without a backup that is declared there is nothing else to be said.
        Err(error) if backups.is_empty() => return Err(error),
        Err(error) => (None, Some(error)),
    };
    if json {
        let unreadable = error.as_ref().map(ToString::to_string);
        output::json(&OfVolume {
            backups,
            archives,
            unreadable,
        })?;
        return Ok(0);
    }
    if !backups.is_empty() {
        table(&backups, &[])?;
        output::line("")?;
    }
    if let Some(error) = error {
        return Err(error);
    }
    match archives.unwrap_or_default().as_slice() {
        [] => output::line("no archives")?,
        archives => {
            let rows: Vec<Vec<String>> = archives.iter().map(archive_row).collect();
            output::table(&ARCHIVES, &rows)?;
        }
    }
    Ok(0)
}

fn archive_row(archive: &Archive) -> Vec<String> {
    let size = match archive.empty {
        true => "empty".to_owned(),
        false => output::bytes(archive.bytes),
    };
    vec![
        archive.number.to_string(),
        output::ago(archive.time),
        size,
        archive.path.clone(),
    ]
}

fn row(backup: &Backup) -> Vec<String> {
    let last = match (&backup.hangs, &backup.failed, backup.failures) {
        (Some(why), ..) => format!("hangs: {why}"),
        (None, Some(why), Some(count @ 2..)) => format!("failed {count} times in a row: {why}"),
        (None, Some(why), _) => format!("failed: {why}"),
        (None, None, _) if backup.newest.is_some() => "good".to_owned(),
        (None, None, _) => "none yet".to_owned(),
    };
    vec![
        backup.volume.clone(),
        backup.to.clone(),
        format!("{} of {}", backup.count, backup.keep),
        backup.newest.map_or_else(|| "-".to_owned(), output::ago),
        match (backup.running, backup.next) {
            (true, _) => "now".to_owned(),
            (false, _) if backup.hangs.is_some() => "-".to_owned(),
            (false, Some(next)) => format!("in {}", rounded(next)),
            (false, None) => "-".to_owned(),
        },
        last,
    ]
}

/// In `volume list`: the newest, or that it failed.
pub fn in_short(backups: &[Backup]) -> String {
    let newest = backups.iter().filter_map(|one| one.newest).max();
    let newest = newest.map(output::ago);
    let is_bad = |one: &Backup| one.failed.is_some() || one.hangs.is_some();
    match (backups.iter().any(is_bad), newest) {
        (false, Some(newest)) => newest,
        (false, None) if backups.is_empty() => "-".to_owned(),
        (false, None) => "none yet".to_owned(),
        (true, Some(newest)) => format!("failed ({newest})"),
        (true, None) => "failed".to_owned(),
    }
}

/// In the largest unit of which there is one.
fn rounded(millis: u64) -> String {
    let unit = [86_400_000, 3_600_000, 60_000, 1_000]
        .into_iter()
        .find(|unit| millis >= *unit);
    match unit {
        Some(86_400_000) => format!("{}d", millis / 86_400_000),
        Some(unit) => Millis(millis / unit * unit).to_string(),
        None => "0s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(newest: Option<u64>, failed: Option<&str>) -> Backup {
        Backup {
            volume: "db/data".to_owned(),
            of: "db/data".to_owned(),
            to: "/srv".to_owned(),
            every: 60_000,
            keep: 7,
            count: 2,
            newest,
            running: false,
            failed: failed.map(str::to_owned),
            failures: failed.map(|_| 3),
            failed_at: failed.map(|_| 1),
            next: Some(7_300_000),
            hangs: None,
        }
    }

    #[test]
    fn what_failed_is_said_and_so_is_what_there_is() {
        let shown = row(&backup(None, Some("no space")));
        let expected = [
            "db/data",
            "/srv",
            "2 of 7",
            "-",
            "in 2h",
            "failed 3 times in a row: no space",
        ];
        assert_eq!(shown, expected);
        let hangs = Backup {
            hangs: Some("`/srv` does not answer".to_owned()),
            ..backup(Some(1), Some("no space"))
        };
        assert_eq!(row(&hangs)[4..], ["-", "hangs: `/srv` does not answer"]);
        assert!(in_short(&[hangs]).starts_with("failed ("));
        assert_eq!(row(&backup(None, None))[5], "none yet");
        assert_eq!(row(&backup(Some(1), None))[5], "good");
        assert_eq!(in_short(&[]), "-");
        assert_eq!(in_short(&[backup(None, None)]), "none yet");
        assert_eq!(
            in_short(&[backup(None, None), backup(None, Some("no"))]),
            "failed"
        );
    }

    #[test]
    fn what_is_not_declared_any_more_is_a_line_too() {
        let former = FormerBackup {
            volume: "db/data".to_owned(),
            of: "db/data".to_owned(),
            to: "/srv".to_owned(),
            generation: 4,
            count: 2,
            newest: None,
        };
        let expected = [
            "db/data",
            "/srv",
            "2",
            "-",
            "-",
            "last declared by generation 4",
        ];
        assert_eq!(former_row(&former), expected);
    }

    #[test]
    fn an_archive_is_a_line() {
        let mut archive = Archive {
            number: 1,
            time: 1_795_793_400_000,
            bytes: 3 << 20,
            path: "/srv/db.data-20261127T153000Z.tar.zst".to_owned(),
            empty: false,
        };
        let row = archive_row(&archive);
        assert_eq!(row[0], "1");
        assert_eq!(row[2..], ["3.0 MiB", &archive.path]);
        archive.empty = true;
        assert_eq!(archive_row(&archive)[2], "empty");
    }

    #[test]
    fn a_time_is_said_in_one_unit() {
        let times = [
            0,
            999,
            1_000,
            59_999,
            60_000,
            3_599_999,
            3_600_000,
            200_000_000,
        ];
        let said = times.map(rounded);
        assert_eq!(said, ["0s", "0s", "1s", "59s", "1m", "59m", "1h", "2d"]);
    }
}
