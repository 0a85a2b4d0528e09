//! The newest committed generation, known a second time.
//!
//! A database finds out that a byte of it has changed; that its end is missing it can't, for an end
//! that was never written looks the same. So the number and the root of what was committed last are
//! also in a small file beside it. They are written *after* the commit is on the disk and before
//! anybody is answered:
//!
//! | the power goes | database | this file | at the next start |
//! |---|---|---|---|
//! | before the commit is on the disk | old | old | the old generation |
//! | between the two | new | old | the new generation; the file follows |
//! | after both | new | new | the new generation |
//!
//! A database that is *behind* the file has lost what was committed, whatever the reason. The file
//! has two places that are written by turns, each with a checksum, so that a write which is cut off
//! leaves the other one. It has its full length from the start and is written past the cache
//! (`O_DSYNC`): one write to the disk, and no space is needed for it.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use tank_model::Digest;

/// Where the two places begin. Apart by more than a disk writes at once.
const PLACES: [u64; 2] = [0, 4096];

/// The length of a place, and of the file.
const PLACE: usize = 256;
const LENGTH: u64 = 8192;

/// What the text in a place begins with.
const MAGIC: &str = "tank-newest-1";

/// A generation, as far as it is known twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    pub number: u64,
    pub root: Digest,
}

/// How a database and the file beside it agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    Same,
    /// The file has to follow.
    Ahead,
    /// The database has lost what was committed.
    Behind,
}

/// Compares what a database has with what the file says.
pub fn compare(found: Option<Committed>, newest: Option<Committed>) -> Agreement {
    match (found, newest) {
        (None, None) => Agreement::Same,
        (Some(_), None) => Agreement::Ahead,
        (Some(found), Some(newest)) if found == newest => Agreement::Same,
        (Some(found), Some(newest)) if found.number > newest.number => Agreement::Ahead,
        _ => Agreement::Behind,
    }
}

/// Where the file of the database in `dir` is.
pub fn path_of(dir: &Path) -> PathBuf {
    dir.with_extension("newest")
}

/// What the file says; nothing if it is not there, or says nothing that can be read.
pub fn read(path: &Path) -> io::Result<Option<Committed>> {
    match File::open(path) {
        Ok(file) => Ok(latest(&file)?.map(|(_, committed)| committed)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the file holds something, and none of it can be read: it has been written, and is not
/// what was written.
pub fn is_unreadable(path: &Path) -> io::Result<bool> {
    use std::io::Read;
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let mut bytes = Vec::new();
    (&file).take(LENGTH).read_to_end(&mut bytes)?;
    Ok(latest(&file)?.is_none() && bytes.iter().any(|byte| *byte != 0))
}

/// The file, to be written.
#[derive(Debug)]
pub struct Newest {
    file: File,
    /// The count of writes.
    count: Mutex<u64>,
}

impl Newest {
    /// Opens the file, made if it is missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        let dsync = i32::try_from(rustix::fs::OFlags::DSYNC.bits()).map_err(io::Error::other)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(dsync)
            .open(path)?;
        if file.metadata()?.len() != LENGTH {
            // Its blocks are there from now on. A file that is cut off here says nothing, as
            // before.
            file.set_len(0)?;
            file.write_all_at(&[0; LENGTH as usize], 0)?;
            file.sync_all()?;
            File::open(path.parent().unwrap_or(path))?.sync_all()?;
        }
        let count = latest(&file)?.map_or(0, |(count, _)| count);
        Ok(Self {
            file,
            count: Mutex::new(count),
        })
    }

    /// Writes what was committed; it is on the disk when this returns.
    pub fn write(&self, committed: Committed) -> io::Result<()> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        self.file
            .write_all_at(&encode(*count, committed), PLACES[(*count % 2) as usize])
    }
}

fn latest(file: &File) -> io::Result<Option<(u64, Committed)>> {
    let mut found = Vec::new();
    for place in PLACES {
        let mut bytes = [0; PLACE];
        match file.read_exact_at(&mut bytes, place) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            other => {
                other?;
                found.extend(decode(&bytes));
            }
        }
    }
    Ok(found.into_iter().max_by_key(|(count, _)| *count))
}

/// A place: a line of text and the digest of that.
fn encode(count: u64, committed: Committed) -> [u8; PLACE] {
    let text = format!("{MAGIC} {count} {} {}", committed.number, committed.root);
    let line = format!("{text} {}\n", Digest::of(text.as_bytes()));
    let mut bytes = [0; PLACE];
    // 13 + 2 × 20 + 2 × 71 bytes, with what is between: it fits.
    let length = line.len().min(PLACE);
    bytes[..length].copy_from_slice(&line.as_bytes()[..length]);
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, Committed)> {
    let line = std::str::from_utf8(bytes).ok()?.split('\n').next()?;
    let (text, digest) = line.rsplit_once(' ')?;
    if digest.parse::<Digest>().ok()? != Digest::of(text.as_bytes()) {
        return None;
    }
    let fields: Vec<&str> = text.split(' ').collect();
    let [MAGIC, count, number, root] = fields.as_slice() else {
        return None;
    };
    Some((
        count.parse().ok()?,
        Committed {
            number: number.parse().ok()?,
            root: root.parse().ok()?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(number: u64) -> Committed {
        Committed {
            number,
            root: Digest::of(&number.to_be_bytes()),
        }
    }

    #[test]
    fn a_database_may_be_ahead_and_never_behind() {
        let (four, twelve) = (committed(4), committed(12));
        let other = Committed {
            number: 4,
            root: twelve.root,
        };
        for (found, newest, expected) in [
            (None, None, Agreement::Same),
            (Some(four), Some(four), Agreement::Same),
            (Some(four), None, Agreement::Ahead),
            (Some(twelve), Some(four), Agreement::Ahead),
            (Some(four), Some(twelve), Agreement::Behind),
            (None, Some(four), Agreement::Behind),
            (Some(other), Some(four), Agreement::Behind),
        ] {
            assert_eq!(compare(found, newest), expected, "{found:?} {newest:?}");
        }
    }

    #[test]
    fn a_place_is_read_as_it_was_written_or_not_at_all() {
        let largest = Committed {
            number: u64::MAX,
            root: Digest::of(b"x"),
        };
        let bytes = encode(u64::MAX, largest);
        assert_eq!(decode(&bytes), Some((u64::MAX, largest)));
        assert!(bytes.contains(&b'\n'), "it does not fit");
        let length = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .expect("an end");
        for at in 0..length {
            for bit in 0..8 {
                let mut changed = bytes;
                changed[at] ^= 1 << bit;
                assert_eq!(decode(&changed), None, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_write_that_is_cut_off_leaves_the_one_before() {
        let path = std::env::temp_dir().join(format!("tank-newest-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        assert_eq!(read(&path).expect("reads"), None);
        for number in 1..=5 {
            Newest::open(&path)
                .expect("opens")
                .write(committed(number))
                .expect("writes");
            assert_eq!(read(&path).expect("reads"), Some(committed(number)));
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("opens");
        file.write_all_at(&[b'x'; 40], PLACES[5 % 2])
            .expect("writes");
        assert_eq!(read(&path).expect("reads"), Some(committed(4)));
        assert!(!is_unreadable(&path).expect("reads"));
        file.write_all_at(&[b'x'; 40], PLACES[4 % 2])
            .expect("writes");
        assert_eq!(read(&path).expect("reads"), None);
        assert!(is_unreadable(&path).expect("reads"));
        let newest = Newest::open(&path).expect("opens");
        newest.write(committed(6)).expect("writes");
        assert_eq!(read(&path).expect("reads"), Some(committed(6)));
        std::fs::remove_file(&path).expect("removes");
    }
}
