//! What a volume was before the last import, kept beside it until the next one: `.VOLUME.replaced`.
//!
//! It is the directory itself, under another name, so it costs no copy on any file system; but it takes the disk that it took. It
//! counts to no size.
//!
//! *Whatever ends the daemon on the way*: the volume is what it was, with what was kept before, or what was imported, with what it was
//! ([`settle`]). A volume that is not there has nothing beside it that was replaced, except on the way.

use super::{
    Places, Turn, VolumeError, Volumes, is_empty, limits, open_dir, remove, remove_now, sync_parent,
};
use crate::faults;
use rustix::fs::{CWD, RenameFlags};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// What became of what was there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replaced {
    /// Where it is. None: there was nothing.
    pub kept: Option<PathBuf>,
    /// What the import before had replaced is gone for it.
    pub dropped: bool,
    /// It is what was kept there before: what was in its place by now was imported, and no container has had it.
    pub still: bool,
}

/// Which directories of a volume were imported, and never opened for a container since: by their inodes.
fn imported(places: &Places) -> Vec<u64> {
    let text = fs::read_to_string(&places.imported).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn note_imported(places: &Places, all: &[u64]) -> io::Result<()> {
    let lines: String = all.iter().map(|inode| format!("{inode}\n")).collect();
    fs::write(&places.imported, lines)
}

fn inode(dir: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(dir)?.st_ino)
}

/// Notes that a container is about to have a volume: from then on it is not what was imported alone.
pub(super) fn note_use(places: &Places, volume: &OwnedFd) -> io::Result<()> {
    let (mut all, used) = (imported(places), inode(volume)?);
    if !all.contains(&used) {
        return Ok(());
    }
    all.retain(|inode| *inode != used);
    note_imported(places, &all)
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Puts what was imported, whole and on the disk, in a volume's place, and keeps what is there if it is anything.
pub(super) fn replace(places: &Places) -> Result<Replaced, VolumeError> {
    let Places {
        volume,
        import,
        replaced,
        older,
        ..
    } = places;
    let known = imported(places);
    let new = inode(&open_dir(import)?)?;
    let has_content = match open_dir(volume) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return begin(places, new);
        }
        dir => {
            let dir = dir?;
            let old = inode(&dir)?;
            let unused = known.contains(&old).then_some(old);
            // Before it is there: wherever this ends, what is in the volume's place is known to be used or not.
            let all: Vec<u64> = unused.into_iter().chain([new]).collect();
            note_imported(places, &all)?;
            faults::boundary("what is imported is noted");
            if unused.is_some() && is_there(replaced) {
                return replace_unused(places);
            }
            !is_empty(&dir)?
        }
    };
    if !has_content {
        let exchange = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(CWD, import, CWD, volume, exchange).map_err(io::Error::from)?;
        sync_parent(volume)?;
        faults::boundary("what is imported is in its place");
        // It is empty: what of it stays is swept at the start.
        let _ = remove(import);
        return Ok(Replaced::default());
    }
    remove(older)?;
    let dropped = is_there(replaced);
    if dropped {
        fs::rename(replaced, older)?;
        faults::boundary("what was replaced before is out of the way");
    }
    fs::rename(volume, replaced)?;
    faults::boundary("what a volume was has its place");
    if let Err(error) = fs::rename(import, volume) {
        settle(volume)?;
        return Err(error.into());
    }
    sync_parent(volume)?;
    faults::boundary("what is imported is in its place");
    Ok(Replaced {
        kept: Some(replaced.clone()),
        dropped,
        still: false,
    })
}

/// Puts what was imported, of this inode, where there is no volume.
fn begin(places: &Places, new: u64) -> Result<Replaced, VolumeError> {
    note_imported(places, &[new])?;
    super::kept::note_begin(places)?;
    faults::boundary("what is imported is noted");
    fs::rename(&places.import, &places.volume)?;
    sync_parent(&places.volume)?;
    faults::boundary("what is imported is in its place");
    Ok(Replaced::default())
}

/// Puts what was imported in the place of what was imported before, which no container has had: what was kept then stays.
fn replace_unused(places: &Places) -> Result<Replaced, VolumeError> {
    let Places {
        volume,
        import,
        replaced,
        older,
        ..
    } = places;
    remove(older)?;
    faults::boundary("there is a place for what was imported before");
    let exchange = RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(CWD, import, CWD, volume, exchange).map_err(io::Error::from)?;
    sync_parent(volume)?;
    faults::boundary("what is imported is in its place");
    // What stays of it is swept at the start.
    let _ = fs::rename(import, older);
    faults::boundary("what was imported before is out of the way");
    Ok(Replaced {
        kept: Some(replaced.clone()),
        dropped: false,
        still: true,
    })
}

/// What takes its time of having replaced a volume: what it was counts to no size, and what was kept before goes.
fn tidy(places: &Places) {
    limits::uncount(&places.replaced);
    // What of it stays is put away at the start.
    let _ = remove_now(&places.older);
}

/// Finishes or takes back what a daemon before this one was at when it ended, of the volume at `volume`. Before anything is started.
pub(super) fn settle(volume: &Path) -> io::Result<()> {
    let Some(name) = volume.file_name().and_then(|name| name.to_str()) else {
        return Ok(());
    };
    let beside = |end: &str| volume.with_file_name(format!(".{name}.{end}"));
    let (replaced, older) = (beside("replaced"), beside("older"));
    if is_there(&replaced) && !is_there(volume) {
        fs::rename(&replaced, volume)?;
    }
    match is_there(&replaced) {
        false if is_there(&older) => fs::rename(&older, &replaced)?,
        _ => remove(&older)?,
    }
    sync_parent(volume)
}

impl Volumes {
    /// Exchanges a volume, which no container has mounted, with what it was before the last import: how that is kept now. Blocking.
    ///
    /// # Errors
    /// When nothing was replaced, or what the disk gives.
    pub fn put_back(&self, places: &Places) -> Result<(PathBuf, Turn), VolumeError> {
        let Some(import) = self.imports.try_take(&places.import) else {
            return Err(VolumeError::Importing);
        };
        self.counting.stop(places);
        let _turn = self.turn(places);
        if !self.has_replaced(places) {
            return Err(VolumeError::NothingReplaced);
        }
        for left in [&places.new, &places.whole] {
            remove(left)?;
        }
        fs::File::create(&places.filled)?;
        super::snapshots::written_by_none(places)?;
        let exchange = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(CWD, &places.replaced, CWD, &places.volume, exchange)
            .map_err(io::Error::from)?;
        sync_parent(&places.volume)?;
        Ok((places.replaced.clone(), import))
    }

    /// What takes its time once a volume is another one, and what it was is beside it. Whoever has the turn of the import is at it
    /// alone. Blocking.
    pub fn tidy(&self, places: &Places) {
        tidy(places);
    }

    /// Whether what a volume was before the last import is kept. Blocking.
    pub fn has_replaced(&self, places: &Places) -> bool {
        is_there(&places.replaced)
    }

    /// Removes what a volume was before the last import. Blocking.
    ///
    /// # Errors
    /// When nothing was replaced, or what the disk gives.
    pub fn remove_replaced(&self, places: &Places) -> Result<(), VolumeError> {
        let _turn = self.turn(places);
        if !self.has_replaced(places) {
            return Err(VolumeError::NothingReplaced);
        }
        remove(&places.gone)?;
        // Nobody finds half of it.
        fs::rename(&places.replaced, &places.gone)?;
        sync_parent(&places.gone)?;
        Ok(remove_now(&places.gone)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::kept, *};

    /// A folder with a volume, gone at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("tank-replaced-{name}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).expect("a folder");
            Self(dir)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn places(&self) -> Places {
            let at = |end: &str| self.at(&format!(".data.{end}"));
            Places {
                volume: self.at("data"),
                new: at("new"),
                whole: at("whole"),
                filled: at("filled"),
                used: at("used"),
                began: at("began"),
                imported: at("imported"),
                images: at("images"),
                past: at("past"),
                counting: at("counting"),
                import: at("import"),
                replaced: at("replaced"),
                older: at("older"),
                gone: at("gone"),
            }
        }

        /// Makes a directory with one file.
        fn has(&self, name: &str, content: &str) {
            fs::create_dir_all(self.at(name)).expect("a folder");
            fs::write(self.at(name).join("f"), content).expect("a file");
        }

        fn content(&self, name: &str) -> String {
            fs::read_to_string(self.at(name).join("f")).expect("a file")
        }

        /// Every directory, with what it has.
        fn all(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("a folder");
            let paths = entries.map(|entry| entry.expect("an entry").path());
            let mut all: Vec<String> = paths
                .filter(|path| path.is_dir())
                .map(|path| {
                    let name = path.file_name().expect("a name").to_string_lossy();
                    let content = fs::read_to_string(path.join("f")).unwrap_or_default();
                    format!("{name}={content}")
                })
                .collect();
            all.sort();
            all
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_there_is_kept_until_the_next_time() {
        let folder = Folder::new("kept");
        let (places, kept) = (folder.places(), Some(folder.at(".data.replaced")));
        folder.has(".data.import", "1");
        let first = replace(&places).expect("it is put there");
        assert_eq!(first, Replaced::default());
        let use_it = || note_use(&places, &open_dir(&places.volume).expect("a volume"));
        use_it().expect("noted");
        folder.has(".data.import", "2");
        let second = replace(&places).expect("it is put there");
        assert_eq!((&second.kept, second.dropped), (&kept, false));
        assert_eq!(folder.all(), [".data.replaced=1", "data=2"]);
        use_it().expect("noted");
        folder.has(".data.import", "3");
        let third = replace(&places).expect("it is put there");
        assert_eq!((&third.kept, third.dropped), (&kept, true));
        let untidy = [".data.older=1", ".data.replaced=2", "data=3"];
        assert_eq!(folder.all(), untidy);
        tidy(&places);
        assert_eq!(folder.all(), [".data.replaced=2", "data=3"]);
        // Of nothing there is nothing to be kept, and what is kept stays.
        fs::remove_file(folder.at("data/f")).expect("goes");
        use_it().expect("noted");
        folder.has(".data.import", "4");
        let fourth = replace(&places).expect("it is put there");
        assert_eq!(fourth, Replaced::default());
        assert_eq!(folder.all(), [".data.replaced=2", "data=4"]);
    }

    #[test]
    fn what_no_container_has_had_is_not_kept_in_the_place_of_what_one_had() {
        let folder = Folder::new("unused");
        let (places, kept) = (folder.places(), Some(folder.at(".data.replaced")));
        let use_it = || {
            let volume = open_dir(&places.volume).expect("a volume");
            note_use(&places, &volume).expect("noted");
        };
        let import = |content: &str| {
            folder.has(".data.import", content);
            let done = replace(&places).expect("it is put there");
            tidy(&places);
            (done.kept == kept, done.dropped, done.still)
        };
        folder.has("data", "live");
        assert_eq!(import("1"), (true, false, false));
        // Nobody has had the first one: the second takes its place, and what was live stays.
        assert_eq!(import("2"), (true, false, true));
        assert_eq!(import("3"), (true, false, true));
        assert_eq!(folder.content(".data.replaced"), "live");
        assert_eq!(folder.content("data"), "3");
        // A container has had the third one.
        use_it();
        assert_eq!(import("4"), (true, true, false));
        assert_eq!(folder.content(".data.replaced"), "3");
        assert_eq!(folder.content("data"), "4");
    }

    /// What is there after an import of `content` that ended at its `count`-th step, and after the next start. None: it came to its end.
    fn ended(folder: &Folder, count: u32, content: &str) -> Option<Vec<String>> {
        let places = folder.places();
        folder.has(".data.import", content);
        let work = || {
            replace(&places).expect("it is put there");
            tidy(&places);
        };
        if faults::unit::up_to(count, work).is_some() {
            return None;
        }
        kept::sweep_folder(&folder.0);
        Some(folder.all())
    }

    /// Begins with what `make` makes, and ends an import of `3` at each of its steps: what was found after them. The next import, of
    /// `4`, which nothing ends, leaves one of `last`.
    fn at_each_step(name: &str, make: &dyn Fn(&Folder), last: &[&[&str]]) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for count in 1.. {
            let folder = Folder::new(&format!("{name}-{count}"));
            make(&folder);
            let Some(all) = ended(&folder, count, "3") else {
                break;
            };
            found.push(all);
            folder.has(".data.import", "4");
            replace(&folder.places()).expect("it is put there");
            tidy(&folder.places());
            let all = folder.all();
            assert!(last.iter().any(|last| all == *last), "{count}: {all:?}");
        }
        found
    }

    fn import_and_use(folder: &Folder, content: &str, used: bool) {
        let places = folder.places();
        folder.has(".data.import", content);
        replace(&places).expect("it is put there");
        tidy(&places);
        if used {
            note_use(&places, &open_dir(&places.volume).expect("a volume")).expect("noted");
        }
    }

    #[test]
    fn wherever_an_import_over_an_unused_one_ends_what_containers_wrote_stays() {
        let make = |folder: &Folder| {
            folder.has("data", "live");
            import_and_use(folder, "2", false);
        };
        let last: [&[&str]; 1] = [&[".data.replaced=live", "data=4"]];
        let found = at_each_step("unused-steps", &make, &last);
        let (before, after) = (
            [".data.replaced=live", "data=2"],
            [".data.replaced=live", "data=3"],
        );
        assert_eq!(found, [before, before, after, after]);
    }

    #[test]
    fn wherever_an_import_over_a_used_one_ends_the_volume_is_one_or_the_other() {
        let make = |folder: &Folder| {
            folder.has("data", "1");
            import_and_use(folder, "2", true);
        };
        // Nobody has had what was imported by then, if it is there: what was used before stays.
        let last: [&[&str]; 1] = [&[".data.replaced=2", "data=4"]];
        let found = at_each_step("used-steps", &make, &last);
        let (before, after) = (
            [".data.replaced=1", "data=2"],
            [".data.replaced=2", "data=3"],
        );
        assert_eq!(found, [before, before, before, after]);
    }

    #[test]
    fn wherever_the_first_import_ends_there_is_all_of_it_or_nothing() {
        // What was imported by then, where nothing is kept, is kept.
        let last: [&[&str]; 2] = [&["data=4"], &[".data.replaced=3", "data=4"]];
        let found = at_each_step("first-steps", &|_| {}, &last);
        assert_eq!(found, [vec![], vec!["data=3".to_owned()]]);
        let make = |folder: &Folder| fs::create_dir(folder.at("data")).expect("a folder");
        let found = at_each_step("empty-steps", &make, &last);
        assert_eq!(found, [["data="], ["data=3"]]);
    }

    #[test]
    fn wherever_it_ends_the_volume_is_one_or_the_other() {
        let folder = Folder::new("ends");
        let move_to = |from: &str, to: &str| fs::rename(folder.at(from), folder.at(to));
        let settled = || {
            settle(&folder.at("data")).expect("it is settled");
            folder.all()
        };
        folder.has("data", "2");
        folder.has(".data.replaced", "1");
        let before = [".data.replaced=1", "data=2"];
        assert_eq!(settled(), before);
        move_to(".data.replaced", ".data.older").expect("the first step");
        assert_eq!(settled(), before);
        move_to(".data.replaced", ".data.older").expect("the first step");
        move_to("data", ".data.replaced").expect("the second step");
        assert_eq!(settled(), before);
        move_to(".data.replaced", ".data.older").expect("the first step");
        move_to("data", ".data.replaced").expect("the second step");
        folder.has("data", "3");
        assert_eq!(settled(), [".data.replaced=2", "data=3"]);
    }
}
