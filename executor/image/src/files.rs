//! Files of an image that is on this host: in a folder, or in a tar archive, where each member is read at
//! its place and nothing is unpacked.

use crate::{Error, MAX_DOCUMENT, error::Attempt, intake::Intake};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Seek},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tank_layer::{
    archive::{Archive, EntryType},
    budget::Budget,
};

/// The most members of an archive: some five for each layer there are.
const MAX_MEMBERS: usize = 10_000;

/// The most links that lead from a name to a member.
const MAX_LINKS: usize = 8;

/// The bytes that are read between two looks at the free space.
const PIECE: u64 = 1 << 20;

/// The files of one image.
#[derive(Clone, Debug)]
pub struct Files {
    /// The folder, or the archive.
    pub path: PathBuf,
    members: Option<Arc<Members>>,
}

/// Where the members of an archive are.
#[derive(Debug)]
struct Members {
    archive: Arc<File>,
    places: HashMap<String, Place>,
}

#[derive(Clone, Debug)]
enum Place {
    /// Where its content begins, and where it ends.
    Content(u64, u64),
    /// It is another one.
    Link(String),
}

/// A file that is read from its begin to its end.
#[derive(Debug)]
pub struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
    /// What it is, for errors.
    name: String,
}

impl Files {
    /// The files of a folder.
    pub fn of_folder(path: PathBuf) -> Self {
        let members = None;
        Self { path, members }
    }

    /// The members of an archive. Reads its heads, which blocks.
    pub fn of_archive(path: PathBuf) -> Result<Self, Error> {
        let file = open(&path)?;
        Self::of_opened(path, file)
    }

    /// The same of one that is open; `path` is what errors call it.
    pub fn of_opened(path: PathBuf, mut file: File) -> Result<Self, Error> {
        let mut magic = [0; 4];
        let known = file.read_exact_at(&mut magic, 0).is_ok();
        if known && is_compressed(&magic) {
            return Err(Error::CompressedArchive(path));
        }
        let places = places(&mut file).attempt(|| format!("read {}", path.display()))?;
        let archive = Arc::new(file);
        let members = Some(Arc::new(Members { archive, places }));
        Ok(Self { path, members })
    }

    /// Whether there is a file with this name.
    pub fn has(&self, name: &str) -> bool {
        match &self.members {
            None => self.path.join(name).is_file(),
            Some(members) => members.find(name).is_some(),
        }
    }

    /// A file by its name, which an image may have given.
    pub fn open(&self, name: &str) -> Result<Part, Error> {
        let path = self.path.join(name);
        let Some(members) = &self.members else {
            let file = open(&path)?;
            let length = file
                .metadata()
                .attempt(|| format!("read {}", path.display()))?;
            return Ok(Part {
                end: length.len(),
                file: Arc::new(file),
                at: 0,
                name: path.display().to_string(),
            });
        };
        let missing = || Error::NoMember {
            path: self.path.clone(),
            name: name.to_owned(),
        };
        let (at, end) = members.find(name).ok_or_else(missing)?;
        Ok(Part {
            file: Arc::clone(&members.archive),
            at,
            end,
            name: path.display().to_string(),
        })
    }

    /// A file of at most [`MAX_DOCUMENT`] bytes, whole.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.read_most(name, MAX_DOCUMENT)
    }

    /// A file of at most `most` bytes, whole.
    pub fn read_most(&self, name: &str, most: u64) -> Result<Vec<u8>, Error> {
        let part = self.open(name)?;
        let length = part.length();
        if length > most {
            let path = self.path.join(name);
            return Err(Error::LongDocument { path, most });
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = part.file.read_exact_at(&mut bytes, part.at);
        read.attempt(|| format!("read {}", part.name))?;
        Ok(bytes)
    }
}

impl Members {
    fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = normal(name);
        for _ in 0..MAX_LINKS {
            match self.places.get(&name)? {
                Place::Content(at, end) => return Some((*at, *end)),
                Place::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

impl Part {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        self.end - self.at
    }

    /// Its first bytes, as far as there are so many.
    pub fn begin(&self) -> Result<Vec<u8>, Error> {
        let mut magic = vec![0; usize::try_from(self.length().min(4)).unwrap_or(0)];
        let read = self.file.read_exact_at(&mut magic, self.at);
        read.attempt(|| format!("read {}", self.name))?;
        Ok(magic)
    }

    /// Passes on at most `most` bytes of it.
    pub async fn copy(mut self, most: u64, out: &mut Intake, budget: &Budget) -> Result<(), Error> {
        self.end = self.end.min(self.at.saturating_add(most));
        while self.at < self.end {
            budget.space()?;
            let (file, at) = (Arc::clone(&self.file), self.at);
            let length = usize::try_from(self.length().min(PIECE)).unwrap_or(0);
            let piece = move || -> io::Result<Vec<u8>> {
                let mut bytes = vec![0; length];
                let read = file.read_at(&mut bytes, at)?;
                bytes.truncate(read);
                Ok(bytes)
            };
            let read = tokio::task::spawn_blocking(piece).await;
            let bytes = read.map_err(io::Error::from).flatten();
            let bytes = bytes.attempt(|| format!("read {}", self.name))?;
            // It was cut meanwhile. Its digest says so.
            if bytes.is_empty() {
                break;
            }
            out.take(&bytes).await.map_err(Error::Intake)?;
            self.at += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Whether these are the first bytes of a compressed file: gzip (RFC 1952), Zstandard (RFC 8878), XZ or bzip2.
pub fn is_compressed(magic: &[u8]) -> bool {
    let known: [&[u8]; 4] = [&GZIP, &ZSTANDARD, b"\xfd7zX", b"BZh"];
    known.iter().any(|known| magic.starts_with(known))
}

/// How a file in the format gzip begins.
pub const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How a file in the format Zstandard begins.
pub const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads the heads of an archive. The last member of a name counts, as it would where it is unpacked.
fn places(file: &mut File) -> io::Result<HashMap<String, Place>> {
    let length = file.metadata()?.len();
    file.rewind()?;
    let mut archive = Archive::of_file(&mut *file);
    let mut places = HashMap::new();
    let mut count = 0;
    while let Some(member) = archive.advance()? {
        count += 1;
        if count > MAX_MEMBERS {
            let many = format!("it has more than {MAX_MEMBERS} members");
            return Err(io::Error::new(io::ErrorKind::InvalidData, many));
        }
        let Ok(name) = String::from_utf8(member.path) else {
            continue;
        };
        let link = || {
            let link = member.link.as_deref().unwrap_or_default();
            String::from_utf8_lossy(link).into_owned()
        };
        let place = match member.kind {
            EntryType::Regular if member.pieces.is_none() => {
                let (at, stored) = archive.place()?;
                let end = at.checked_add(stored).filter(|end| *end <= length);
                let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early");
                Place::Content(at, end.ok_or_else(cut)?)
            }
            // What `docker save` once wrote for a layer that is there already.
            EntryType::Symlink => Place::Link(normal(&format!("{name}/../{}", link()))),
            EntryType::Link => Place::Link(normal(&link())),
            _ => continue,
        };
        places.insert(normal(&name), place);
    }
    Ok(places)
}

/// A name without `.` and `..`, as far as there is something above.
fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Opens a file, and only a file: opening a FIFO would wait for whoever writes to it.
fn open(path: &Path) -> Result<File, Error> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path);
    let file = file.attempt(|| format!("open {}", path.display()))?;
    if file.metadata().is_ok_and(|found| found.is_file()) {
        return Ok(file);
    }
    Err(Error::NoFile(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_paths_and_lead_nowhere_above() {
        for (name, expected) in [
            ("./index.json", "index.json"),
            ("a//b/./c", "a/b/c"),
            ("a/layer.tar/../../b/layer.tar", "b/layer.tar"),
            ("../../etc/passwd", "etc/passwd"),
            ("/etc/passwd", "etc/passwd"),
        ] {
            assert_eq!(normal(name), expected);
        }
    }
}
