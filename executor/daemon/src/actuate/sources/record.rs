//! The record of the directories that a container may write, or ever might: paths as they were
//! opened, without links.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// The most bytes of the record.
const MAX_RECORD: u64 = 4 << 20;

/// The record's name in the state folder.
pub const RECORD: &str = "writable-sources.json";

/// Why the record can't be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it would have more than {MAX_RECORD} bytes")]
    WouldBeTooLarge,
    #[error("{} has more than {MAX_RECORD} bytes", .0.display())]
    TooLarge(PathBuf),
}

pub fn read(path: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut text = Vec::new();
    file.take(MAX_RECORD + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_RECORD {
        return Err(Error::TooLarge(path.to_owned()));
    }
    Ok(serde_json::from_slice(&text)?)
}

/// Puts the new record in the place of the old one: there is always one of them, whole.
pub fn write(path: &Path, record: &BTreeSet<PathBuf>) -> Result<(), Error> {
    let text = serde_json::to_vec(record)?;
    if text.len() as u64 > MAX_RECORD {
        return Err(Error::WouldBeTooLarge);
    }
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?)
}
