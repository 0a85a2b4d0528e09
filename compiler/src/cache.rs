//! What was compiled before, for as long as nothing that was read has changed.
//!
//! An entry is found by what was asked for (files, overrides, this very program) and holds the
//! digest of everything the result came from: sources, imports, files put into containers, the
//! lock. It counts only while all of them are as they were. It is a cache: whatever can't be read
//! or written is compiled again.

use crate::{Compiled, Inputs, Read, STDLIB};
use serde::{Deserialize, Serialize};
use std::{
    io::{Read as _, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use tank_model::{Digest, canonical, digest::Hasher};

/// The most bytes of an entry and of a file it depends on.
const MAX_BYTES: u64 = 64 << 20;

/// The most entries that are kept; the oldest go first.
const MAX_ENTRIES: usize = 64;

/// One place in the cache.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
}

/// The first line of an entry: what has to be as it was. The second is the canonical configuration,
/// the third the provenance.
#[derive(Serialize, Deserialize)]
struct Head {
    reads: Vec<Read>,
    base_dir: PathBuf,
    /// Of the other lines.
    rest: Digest,
}

impl Entry {
    /// The entry for these inputs.
    pub fn of(dir: &Path, inputs: &Inputs) -> Option<Self> {
        let program = std::fs::metadata("/proc/self/exe").ok()?;
        let here = std::env::current_dir().ok()?;
        let hasher = Hasher::new("tank.eval.v1")
            .field(STDLIB.as_bytes())
            .field(
                format!(
                    "{}:{}:{}",
                    program.ino(),
                    program.size(),
                    program.mtime_nsec()
                )
                .as_bytes(),
            )
            .field(program.mtime().to_string().as_bytes())
            .field(here.as_os_str().as_encoded_bytes())
            .field(&canonical::encode(inputs).ok()?);
        Some(Self {
            path: dir.join("eval").join(hasher.finish().short()),
        })
    }

    /// The result, if nothing has changed.
    pub fn load(&self) -> Option<Compiled> {
        let text = String::from_utf8(read(&self.path)?).ok()?;
        let (head, rest) = text.split_once('\n')?;
        let head: Head = serde_json::from_str(head).ok()?;
        let fresh = head
            .reads
            .iter()
            .all(|known| match read_digest(&known.path) {
                Ok(digest) => digest == known.digest,
                Err(()) => false,
            });
        if !fresh || Digest::of(rest.as_bytes()) != head.rest {
            return None;
        }
        let (canonical, provenance) = rest.split_once('\n')?;
        Some(Compiled {
            canonical: canonical.to_owned(),
            base_dir: head.base_dir,
            provenance: provenance.to_owned(),
            reads: head.reads,
        })
    }

    /// Keeps a result. The entry appears at once, by a rename: no reader sees a part of it.
    pub fn save(&self, compiled: &Compiled) {
        let _ = self.write(compiled);
    }

    fn write(&self, compiled: &Compiled) -> std::io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let rest = format!("{}\n{}", compiled.canonical, compiled.provenance);
        let rest_digest = Digest::of(rest.as_bytes());
        let head = Head {
            reads: compiled.reads.clone(),
            base_dir: compiled.base_dir.clone(),
            rest: rest_digest,
        };
        let new = self
            .path
            .with_extension(format!("{}.new", std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let written =
            file.write_all(format!("{}\n{rest}", serde_json::to_string(&head)?).as_bytes());
        let renamed = written.and_then(|()| std::fs::rename(&new, &self.path));
        if renamed.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        prune(dir);
        renamed
    }
}

/// Removes the entries that were written longest ago.
fn prune(dir: &Path) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut known: Vec<_> = entries
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    if known.len() > MAX_ENTRIES {
        known.sort();
        for (_, path) in &known[..known.len() - MAX_ENTRIES] {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    (bytes.len() as u64 <= MAX_BYTES).then_some(bytes)
}

/// The digest of a file, or that there is none.
fn read_digest(path: &Path) -> Result<Option<Digest>, ()> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Ok(metadata) if metadata.is_file() => {
            read(path).map(|bytes| Some(Digest::of(&bytes))).ok_or(())
        }
        _ => Err(()),
    }
}
