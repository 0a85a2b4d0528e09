//! What is removed in the background: what containers, images and archives made may be millions of files, and neither a pass nor a
//! start waits until all of them are gone.
//!
//! In each folder of Tank's that such things are in there is one `.trash`, which is root's alone. [`put`] moves something there: one
//! renaming, on one file system. A thread for each of these folders removes what is in it, one thing at a time, and so does the next
//! daemon with what is left. The folders themselves are the list of what is to be removed: nothing of it is kept in memory.
//!
//! *Guarantees*: what is in a `.trash` is no volume, image, snapshot, log or root of anything any more, and nobody looks for one there.
//! Where nothing can be moved there (a disk that is full, another file system) it is removed at once, however long that takes.
//! *Never*: follows a link, or goes into what somebody has mounted there.

use crate::settings::Settings;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tank_sys::remove::{self, TRASH};

/// The most things of one folder that can't be removed and are remembered: with more of them its others wait for the next try.
const MAX_STUCK: usize = 64;

/// How often whoever waits looks whether it is gone.
const LOOK: Duration = Duration::from_millis(20);

/// What whoever puts something away, and those who remove it, know of each other. All are of one process.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The folders from which something is removed. No other folder of that name is anybody's of Tank's.
    trashes: Vec<PathBuf>,
    /// How often something was put away, or is to be tried again.
    version: u64,
    /// What can't be removed, and why.
    stuck: BTreeMap<PathBuf, String>,
}

static SHARED: Shared = Shared {
    state: Mutex::new(State {
        trashes: Vec::new(),
        version: 0,
        stuck: BTreeMap::new(),
    }),
    changed: Condvar::new(),
};

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.state().version += 1;
        self.changed.notify_all();
    }
}

/// The folders with what may be much.
fn folders(state_dir: &Path) -> [PathBuf; 5] {
    ["volumes", "shared-volumes", "scratch", "images", "logs"].map(|name| state_dir.join(name))
}

/// Has something of Tank's own, that may not be there, be removed in the background: its name is free at once. Whether there was
/// anything. Blocking.
///
/// # Errors
/// What the disk gives.
pub fn put(path: &Path) -> io::Result<bool> {
    let trashes = SHARED.state().trashes.clone();
    put_in(path, &trashes)
}

fn put_in(path: &Path, trashes: &[PathBuf]) -> io::Result<bool> {
    let has = |trash: &&PathBuf| {
        let folder = trash.parent();
        folder.is_some_and(|folder| path.starts_with(folder))
    };
    let moved = match trashes.iter().find(has) {
        Some(trash) => remove::put_away(path, trash),
        None => Err(io::ErrorKind::Unsupported.into()),
    };
    let gone = match moved {
        Ok(()) => {
            SHARED.notify();
            return Ok(true);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        // The disk is full, or somebody has mounted one of theirs on the way: what is mounted there is refused.
        Err(_) => remove::anything(path),
    };
    match gone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

/// Begins to remove what is there, and what will be put there. Once, before anything is put away.
pub fn begin(settings: &Settings) {
    for trash in places(&settings.state_dir) {
        let path = trash.clone();
        let thread = std::thread::Builder::new().name("trash".to_owned());
        match thread.spawn(move || keep_empty(&trash)) {
            Ok(_) => SHARED.state().trashes.push(path),
            // What is to go is removed at once then.
            Err(error) => tracing::warn!(%error, "nothing is removed in the background"),
        }
    }
}

fn keep_empty(trash: &Path) {
    loop {
        let version = SHARED.state().version;
        empty(trash);
        let is_same = |state: &mut State| state.version == version;
        drop(SHARED.changed.wait_while(SHARED.state(), is_same));
    }
}

/// Removes all that is there and can be removed, one thing after the other.
fn empty(trash: &Path) {
    while let Some(path) = next(trash) {
        match remove::anything(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "what is to be removed stays");
                let mut state = SHARED.state();
                state.stuck.insert(path, error.to_string());
            }
            _ => drop(SHARED.state().stuck.remove(&path)),
        }
    }
}

/// What is to be removed next.
fn next(trash: &Path) -> Option<PathBuf> {
    // Nobody else waits while a disk is read.
    let stuck = stuck();
    let of_it = stuck.keys().filter(|path| path.starts_with(trash));
    if of_it.count() >= MAX_STUCK {
        return None;
    }
    let mut paths = remove::put_away_in(trash).into_iter();
    paths.find(|path| !stuck.contains_key(path))
}

/// Waits until all that is being removed below one of the folders, and can be, is gone; whether it is. Blocking.
#[expect(
    clippy::disallowed_methods,
    reason = "whoever waits has a thread for that"
)]
pub fn wait(folder: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let trash = folder.join(TRASH);
    loop {
        let stuck = stuck();
        let mut left = remove::put_away_in(&trash).into_iter();
        let is_gone = left.all(|path| stuck.contains_key(&path));
        if is_gone || Instant::now() >= deadline {
            return is_gone;
        }
        std::thread::sleep(LOOK);
    }
}

/// As [`wait`], of all the folders, where there is a limit; what could not be removed before is tried again then. What is left, a
/// sentence each. Blocking.
pub fn finish(state_dir: &Path, limit: Option<Duration>) -> Vec<String> {
    if let Some(limit) = limit {
        SHARED.state().stuck.clear();
        SHARED.notify();
        let deadline = Instant::now() + limit;
        for folder in folders(state_dir) {
            wait(&folder, deadline.saturating_duration_since(Instant::now()));
        }
    }
    let mut left = words().unwrap_or_default();
    let count = count(state_dir).saturating_sub(left.len() as u64);
    if count > 0 {
        left.push(format!(
            "what is being removed in the background: {count} things more; `tank disk-usage` says how much they are"
        ));
    }
    left
}

/// What can't be removed, and why.
pub fn stuck() -> BTreeMap<PathBuf, String> {
    SHARED.state().stuck.clone()
}

/// The same, a sentence each. None: there is nothing.
pub fn words() -> Option<Vec<String>> {
    let words =
        |(path, why): (PathBuf, String)| format!("{}: it can't be removed: {why}", path.display());
    let all: Vec<String> = stuck().into_iter().map(words).collect();
    Some(all).filter(|all| !all.is_empty())
}

/// Where what is being removed is.
pub fn places(state_dir: &Path) -> [PathBuf; 5] {
    folders(state_dir).map(|folder| folder.join(TRASH))
}

/// How many things are being removed. Blocking.
pub fn count(state_dir: &Path) -> u64 {
    let all = places(state_dir).into_iter();
    all.map(|trash| remove::put_away_in(&trash).len() as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A state folder of a test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("tank-trash-{name}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(dir.join("volumes/db")).expect("a folder");
            Self(dir)
        }

        fn has(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.join("a/b")).expect("a folder");
            fs::write(path.join("a/b/f"), "x").expect("a file");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_put_away_waits_in_its_folder_s_trash_and_goes_from_there() {
        let folder = Folder::new("waits");
        let trash = folder.0.join("volumes").join(TRASH);
        let put = |path: &Path| put_in(path, std::slice::from_ref(&trash)).expect("no error");
        let path = folder.has("volumes/db/.data.new");
        assert!(put(&path) && !path.exists());
        assert_eq!(count(&folder.0), 1);
        assert!(!put(&path));
        assert!(!wait(&folder.0.join("volumes"), Duration::ZERO));
        // Nobody else's, though it is called so: it is removed at once.
        let elsewhere = folder.has("run/db");
        folder.has("run/.trash");
        assert!(put(&elsewhere) && !elsewhere.exists());
        let entries = fs::read_dir(folder.0.join("run/.trash")).expect("a folder");
        assert_eq!(entries.count(), 1);
        // As the thread does, also that of the next daemon.
        empty(&trash);
        assert!(wait(&folder.0.join("volumes"), Duration::ZERO));
        assert_eq!(count(&folder.0), 0);
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = Folder::new("link");
        let trash = folder.0.join("volumes").join(TRASH);
        let outside = folder.has("outside");
        std::os::unix::fs::symlink(&outside, &trash).expect("a link");
        let path = folder.has("volumes/db/.data.new");
        let put = put_in(&path, std::slice::from_ref(&trash));
        assert!(put.expect("removed") && !path.exists());
        // Nor is what it leads to removed, or counted.
        empty(&trash);
        assert_eq!(count(&folder.0), 0);
        assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 1);
        assert!(outside.join("a/b/f").exists());
        // And one that is in it is removed, and not what it leads to.
        fs::remove_file(&trash).expect("removed");
        fs::create_dir(&trash).expect("made");
        std::os::unix::fs::symlink(&outside, trash.join("x")).expect("a link");
        empty(&trash);
        assert_eq!(count(&folder.0), 0);
        assert!(outside.join("a/b/f").exists());
    }
}
