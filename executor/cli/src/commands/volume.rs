//! `volume`: what Tank keeps for pods, removed, written into archives and read from them.

use super::feed::{feed, last, source};
use crate::{client::Client, error::Error, output};
use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tank_proto::varlink::{Method, RemoveVolumesCall, TransferReply, Volume, VolumesReply};

const HEADING: [&str; 5] = ["VOLUME", "SIZE", "STATE", "GENERATIONS", "LAST START"];

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
    let rows: Vec<Vec<String>> = reply.volumes.iter().map(row).collect();
    output::table(&HEADING, &rows)?;
    Ok(0)
}

fn row(volume: &Volume) -> Vec<String> {
    let state = match (
        volume.mounted,
        volume.declared,
        volume.generations.as_slice(),
    ) {
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
    ]
}

/// Numbers in order, those in a row together: `1-3, 7`.
fn ranges(numbers: &[u64]) -> String {
    match output::runs(numbers) {
        runs if runs.is_empty() => "none".to_owned(),
        runs => runs.join(", "),
    }
}

fn size(volume: &Volume) -> String {
    let least = if volume.at_least { ">" } else { "" };
    let bytes = volume.bytes as f64;
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, bits)| volume.bytes >= 1 << bits);
    match unit {
        Some((unit, bits)) => format!("{least}{:.1} {unit}", bytes / f64::from(1 << bits)),
        None => format!("{least}{} B", volume.bytes),
    }
}

/// Removes volumes, or says what would be removed.
pub async fn remove(
    client: &mut Client,
    volumes: Vec<String>,
    (orphans, dry_run): (bool, bool),
    json: bool,
) -> Result<u8, Error> {
    let call = RemoveVolumesCall {
        volumes: (!orphans).then_some(volumes),
        orphans: orphans.then_some(true),
        dry_run: dry_run.then_some(true),
    };
    let reply: VolumesReply = client.call(Method::RemoveVolumes(call)).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let done = if dry_run { "would remove" } else { "removed" };
    for volume in &reply.volumes {
        let (name, size) = (&volume.name, size(volume));
        output::line(&format!("{done} {name} ({size})"))?;
        if !volume.generations.is_empty() {
            let named = ranges(&volume.generations);
            output::line(&format!(
                "  declared by {named}: going back there begins with what the image has"
            ))?;
        }
    }
    if reply.volumes.is_empty() {
        output::line("nothing to remove: every volume is in use, or some generation declares it")?;
    }
    Ok(0)
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
    let target = output.map(Target::new).transpose()?;
    let file = target.as_ref().map(|target| target.file.try_clone());
    let file = file.transpose().map_err(Error::Print)?;
    let pump = tokio::task::spawn_blocking(move || match file {
        Some(mut file) => {
            io::copy(&mut File::from(pipe), &mut file)?;
            file.sync_all()
        }
        None => {
            let mut out = io::stdout().lock();
            io::copy(&mut File::from(pipe), &mut out)?;
            out.flush()
        }
    });
    let pumped = pump.await;
    let done = last::<TransferReply>(client).await;
    // That nobody reads on is what happened, where the file took no more.
    let written = pumped.map_err(|e| Error::failed("write an archive", e))?;
    written.map_err(|e| Error::failed("write an archive", e))?;
    let done = done?;
    if let Some(target) = target {
        let place = target.keep();
        match json {
            true => output::json(&done)?,
            false => output::line(&format!(
                "wrote {} entries to {}",
                done.entries.unwrap_or(0),
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
    let source = source(file)?;
    let name = volume.clone();
    let replace = replace.then_some(true);
    let call = Method::ImportVolume { volume, replace };
    let done: TransferReply = feed(client, call, source).await?;
    match json {
        true => output::json(&done)?,
        false => output::line(&format!(
            "{name} has {} entries now",
            done.entries.unwrap_or(0)
        ))?,
    }
    Ok(0)
}

/// The pipe that the first of two replies comes with.
async fn first(client: &mut Client) -> Result<std::os::fd::OwnedFd, Error> {
    let (_, mut fds, _) = client.receive::<TransferReply>().await?;
    fds.pop().ok_or(Error::Answer("tankd sent no pipe"))
}

/// A file that goes again unless it becomes whole.
struct Target {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Target {
    fn new(path: &Path) -> Result<Self, Error> {
        // A database is nobody else's to read.
        let mut options = File::options();
        let options = options.write(true).create_new(true).mode(0o600);
        let file = options.open(path);
        let failed = |e| Error::failed(format!("make {}", path.display()), e);
        Ok(Self {
            path: path.to_owned(),
            file: file.map_err(failed)?,
            kept: false,
        })
    }

    fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_one() {
        assert_eq!(ranges(&[]), "none");
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
    }
}
