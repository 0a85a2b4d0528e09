//! Bytes that change, and files that are cut or gone, in a store of which everything was committed.
//! It opens with the newest generation or not at all.

use super::{Store, StoreError, newest, recover::Recovery, rocks::RocksStore};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tank_model::{Digest, Generation};

const GENERATIONS: u64 = 12;

fn generation(number: u64) -> Generation {
    let (root, parent) = (
        Digest::of(&number.to_be_bytes()),
        (number > 1).then(|| number - 1),
    );
    Generation {
        rollback: None,
        data: std::collections::BTreeMap::new(),
        number,
        root,
        parent,
        time: 7,
        uid: 0,
        source: "test".to_owned(),
        provenance: None,
    }
}

/// A folder with a store as `kill -9` leaves it.
struct Killed(PathBuf);

impl Killed {
    /// `before_last` is called before the last commit, with the store's folder.
    fn new(name: &str, before_last: impl Fn(&Path)) -> Self {
        let dir = std::env::temp_dir().join(format!("tank-damage-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a folder");
        let killed = Self(dir);
        let live = killed.0.join("live");
        let (store, _) = RocksStore::open(&live, Recovery::default()).expect("opens");
        for number in 1..=GENERATIONS {
            if number == GENERATIONS {
                before_last(&live);
            }
            store
                .put_nodes(&[(Digest::of(&[number as u8]), vec![number as u8; 100])])
                .expect("writes");
            store.commit(&generation(number)).expect("commits");
        }
        // Its files are those it has while it is open.
        copy(&live, &killed.0.join("kept"));
        killed
    }

    /// A copy that may be damaged.
    fn store(&self) -> PathBuf {
        let dir = self.0.join("store");
        for path in [dir.clone(), dir.with_extension("damaged")] {
            let _ = fs::remove_dir_all(path);
        }
        copy(&self.0.join("kept"), &dir);
        dir
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
    }
    fs::copy(newest::path_of(from), newest::path_of(to)).expect("copies");
}

fn file(dir: &Path, is: impl Fn(&str) -> bool) -> PathBuf {
    let entries = fs::read_dir(dir).expect("a folder").flatten();
    let found = entries
        .map(|entry| entry.path())
        .find(|path| is(&path.file_name().expect("a name").to_string_lossy()));
    found.expect("the file")
}

fn log(dir: &Path) -> PathBuf {
    file(dir, |name| name.ends_with(".log"))
}

fn current(dir: &Path, recovery: Recovery) -> Result<(Option<u64>, Vec<String>), StoreError> {
    let (store, notes) = RocksStore::open(dir, recovery)?;
    Ok((store.current()?, notes))
}

#[test]
fn a_bit_of_the_log_that_flips_never_gives_an_older_generation() {
    let killed = Killed::new("bits", |_| {});
    let length = fs::read(log(&killed.store())).expect("reads").len();
    let mut refused = 0;
    for at in (0..length).step_by(37) {
        let dir = killed.store();
        let path = log(&dir);
        let mut bytes = fs::read(&path).expect("reads");
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).expect("writes");
        match current(&dir, Recovery::default()) {
            Ok((found, _)) => assert_eq!(found, Some(GENERATIONS), "byte {at}"),
            Err(error) => {
                refused += 1;
                let error = error.to_string();
                assert!(
                    error.contains("generation 12 (sha256:") && error.contains("--accept-loss"),
                    "{error}"
                );
                // Nothing was touched: a copy, or another try, finds what there was.
                assert_eq!(fs::read(&path).expect("reads"), bytes);
            }
        }
    }
    assert!(refused > 20, "{refused} of {} were refused", length / 37);
}

#[test]
fn a_loss_is_accepted_by_its_name_and_what_there_was_is_kept() {
    let killed = Killed::new("accepted", |_| {});
    let dir = killed.store();
    let path = log(&dir);
    let mut bytes = fs::read(&path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, &bytes).expect("writes");
    let refused = current(&dir, Recovery::default())
        .expect_err("refused")
        .to_string();
    let accept = Recovery {
        accept_loss: true,
        repair: false,
    };
    let (found, notes) = current(&dir, accept).expect("opens");
    let found = found.expect("a generation");
    assert!(0 < found && found < GENERATIONS, "{found}");
    assert!(
        refused.contains(&format!("ends with generation {found} (")),
        "{refused}"
    );
    assert!(
        notes
            .iter()
            .any(|note| note.contains("generation 12") && note.contains("is lost")),
        "{notes:?}"
    );
    assert_eq!(
        fs::read(log(&dir.with_extension("damaged"))).expect("reads"),
        bytes
    );
    // It is the newest one from now on.
    assert_eq!(
        current(&dir, Recovery::default()).expect("opens"),
        (Some(found), vec![])
    );
    let (store, _) = RocksStore::open(&dir, Recovery::default()).expect("opens");
    store.commit(&generation(found + 1)).expect("commits");
    drop(store);
    assert_eq!(
        current(&dir, Recovery::default()).expect("opens"),
        (Some(found + 1), vec![])
    );
}

#[test]
fn a_log_that_is_cut_within_what_was_committed_is_refused() {
    let killed = Killed::new("cut", |_| {});
    let length = fs::read(log(&killed.store())).expect("reads").len();
    for cut in [1, 3, 50, 500, length / 2, length] {
        let dir = killed.store();
        let open = fs::File::options()
            .write(true)
            .open(log(&dir))
            .expect("opens");
        open.set_len((length - cut) as u64).expect("cuts");
        let refused = current(&dir, Recovery::default())
            .expect_err("refused")
            .to_string();
        assert!(
            refused.contains("generation 12 (sha256:"),
            "{cut}: {refused}"
        );
    }
}

#[test]
fn a_commit_that_was_cut_off_is_none() {
    // As the power leaves it: the commit is half in the log, and its record was not begun.
    let killed = Killed::new("torn", |live| {
        fs::copy(newest::path_of(live), live.with_extension("before")).expect("copies");
    });
    for cut in [1, 3, 50] {
        let dir = killed.store();
        fs::copy(killed.0.join("live.before"), newest::path_of(&dir)).expect("copies");
        let length = fs::read(log(&dir)).expect("reads").len();
        let open = fs::File::options()
            .write(true)
            .open(log(&dir))
            .expect("opens");
        open.set_len((length - cut) as u64).expect("cuts");
        assert_eq!(
            current(&dir, Recovery::default()).expect("opens"),
            (Some(GENERATIONS - 1), vec![]),
            "{cut}"
        );
    }
    // And as it leaves it between the two writes.
    let dir = killed.store();
    fs::copy(killed.0.join("live.before"), newest::path_of(&dir)).expect("copies");
    assert_eq!(
        current(&dir, Recovery::default()).expect("opens"),
        (Some(GENERATIONS), vec![])
    );
    let newest = newest::read(&newest::path_of(&dir))
        .expect("reads")
        .expect("a record");
    assert_eq!(newest.number, GENERATIONS);
}

#[test]
fn an_end_that_is_wrong_loses_nothing_that_was_committed() {
    let killed = Killed::new("end", |_| {});
    let dir = killed.store();
    let path = log(&dir);
    let mut bytes = fs::read(&path).expect("reads");
    // A whole record, whose checksum is wrong: what a disk may leave of a write that nobody waited
    // for.
    bytes.extend([1, 2, 3, 4, 8, 0, 1]);
    bytes.extend(*b"not this");
    fs::write(&path, &bytes).expect("writes");
    let (found, notes) = current(&dir, Recovery::default()).expect("opens");
    assert_eq!(found, Some(GENERATIONS));
    assert!(
        notes.len() == 1 && notes[0].contains("the end of the store's log can't be read"),
        "{notes:?}"
    );
}

#[test]
fn files_that_are_cut_or_gone_are_named_with_what_to_do() {
    let killed = Killed::new("files", |_| {});
    let manifest = |dir: &Path| file(dir, |name| name.starts_with("MANIFEST-"));
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: [Damage<'_>; 3] = [
        ("half a manifest", &|dir| {
            let length = fs::metadata(manifest(dir)).expect("is there").len();
            fs::File::options()
                .write(true)
                .open(manifest(dir))
                .expect("opens")
                .set_len(length / 2)
                .expect("cuts");
        }),
        ("no manifest", &|dir| {
            fs::remove_file(manifest(dir)).expect("removes")
        }),
        ("no CURRENT", &|dir| {
            fs::remove_file(dir.join("CURRENT")).expect("removes")
        }),
    ];
    for (name, damage) in damages {
        let dir = killed.store();
        damage(&dir);
        match current(&dir, Recovery::default()) {
            Ok((found, _)) => assert_eq!(found, Some(GENERATIONS), "{name}"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains(&dir.display().to_string()),
                    "{name}: {error}"
                );
                assert!(
                    error.contains("--repair-store") || error.contains("--accept-loss"),
                    "{name}: {error}"
                );
                let repair = Recovery {
                    accept_loss: false,
                    repair: true,
                };
                let (found, notes) = current(&dir, repair).expect("repairs");
                assert_eq!(found, Some(GENERATIONS), "{name}");
                assert!(notes[0].contains("the store was repaired"), "{notes:?}");
            }
        }
        assert_eq!(
            current(&dir, Recovery::default()).expect("opens"),
            (Some(GENERATIONS), vec![]),
            "{name}"
        );
    }
}

#[test]
fn a_store_that_is_gone_is_no_new_one() {
    let killed = Killed::new("gone", |_| {});
    let dir = killed.store();
    fs::remove_dir_all(&dir).expect("removes");
    let refused = current(&dir, Recovery::default())
        .expect_err("refused")
        .to_string();
    assert!(
        refused.contains("ends with no generation, and generation 12"),
        "{refused}"
    );
    assert!(!dir.exists());
}
