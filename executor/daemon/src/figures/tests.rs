use super::*;
use std::{os::unix::fs::PermissionsExt, time::Duration};

const NOW: u64 = 1_800_000_000_000;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tankd-figures-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn name(text: &str) -> Name {
    Name::of_pod(text).expect("a name")
}

fn sample(step: u64) -> Sample {
    Sample {
        time: NOW + step * FINE.step,
        cpu: Some(step),
        memory: Some(100 - step),
        ..Sample::default()
    }
}

fn all(web: &Name) -> Series {
    (web.clone(), None)
}

#[test]
fn figures_outlive_their_daemon_and_each_is_there_once() {
    let folder = folder("again");
    let web = name("shop:web");
    let first = Figures::new(&folder);
    for step in 0..4 {
        first.add(all(&web), sample(step));
        first.add((web.clone(), Some(name("app"))), sample(step));
        if step == 1 {
            first.flush().expect("written");
        }
    }
    let fine =
        |kept: &Kept| -> Vec<Sample> { kept.fine.iter().chain(&kept.newest).copied().collect() };
    let expected: Vec<Sample> = (0..4).map(sample).collect();
    let read = first.read(&web);
    assert_eq!(
        read.keys().cloned().collect::<Vec<_>>(),
        [None, Some(name("app"))]
    );
    assert!(read.values().all(|kept| fine(kept) == expected), "{read:?}");
    // What waited goes with a daemon that is killed; what was written does not.
    drop(first);
    let second = Figures::new(&folder);
    assert_eq!(fine(&second.read(&web)[&None]), expected[..2]);
    second.add(all(&web), sample(3));
    second.flush().expect("written");
    second.flush().expect("nothing waits");
    let kept = &second.read(&web)[&None];
    assert_eq!(fine(kept), [sample(0), sample(1), sample(3)]);
    // Of the coarse ring it is one, with the most memory of all of it.
    let coarse = Sample {
        memory: Some(100),
        ..sample(3)
    };
    assert_eq!(kept.coarse, [coarse]);
    let path = folder.join("usage/shop:web/_pod");
    let found = fs::metadata(&path).expect("a file");
    assert_eq!(
        (found.len(), found.permissions().mode() & 0o777),
        (FILE_BYTES, 0o600)
    );
    let inside = fs::metadata(folder.join("usage")).expect("a folder");
    assert_eq!(inside.permissions().mode() & 0o777, 0o700);
    assert_eq!(second.read(&name("web")), BTreeMap::new());
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn damage_costs_what_is_damaged() {
    let folder = folder("damage");
    let web = name("web");
    let figures = Figures::new(&folder);
    let write = |step: u64| {
        figures.add(all(&web), sample(step));
        figures.flush()
    };
    let times = || -> Vec<u64> {
        let read = figures.read(&web);
        let fine = read.get(&None).map(|kept| kept.fine.iter());
        let steps = fine
            .into_iter()
            .flatten()
            .map(|one| (one.time - NOW) / FINE.step);
        steps.collect()
    };
    (0..3).for_each(|step| write(step).expect("written"));
    let path = folder.join("usage/web/_pod");
    let file = || OpenOptions::new().write(true).open(&path).expect("a file");
    // Half of a record.
    file()
        .write_all_at(&[0xaa; 32], FINE.offset(sample(1).time))
        .expect("written");
    assert_eq!(times(), [0, 2]);
    // The end is missing, and is made again.
    file().set_len(FINE.offset(sample(2).time)).expect("cut");
    let before = times();
    assert!(before.len() < 2, "{before:?}");
    write(3).expect("written");
    assert!(times().contains(&3), "{:?}", times());
    assert_eq!(fs::metadata(&path).expect("there").len(), FILE_BYTES);
    // It is longer than it may be.
    file().set_len(1 << 40).expect("grown");
    write(4).expect("written");
    assert_eq!(fs::metadata(&path).expect("there").len(), FILE_BYTES);
    // Another format, or garbage: begun anew.
    for head in [*b"tank figures, format 2\n", [0xff; 23]] {
        file().write_all_at(&head, 0).expect("written");
        assert_eq!(times(), [0; 0]);
        write(5).expect("written");
        assert_eq!(times(), [5]);
    }
    // Nothing at all.
    file().set_len(0).expect("cut");
    assert_eq!(times(), [0; 0]);
    write(6).expect("written");
    assert_eq!(times(), [6]);
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn what_is_no_file_of_its_own_is_neither_read_nor_written() {
    let folder = folder("link");
    let (web, other) = (name("web"), folder.join("other"));
    fs::write(&other, "mine").expect("written");
    let own = folder.join("usage/web");
    fs::create_dir_all(&own).expect("a folder");
    let path = own.join("_pod");
    let figures = Figures::new(&folder);
    for made in [
        std::os::unix::fs::symlink(&other, &path),
        fs::remove_file(&path).and_then(|()| fs::hard_link(&other, &path)),
        fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
    ] {
        made.expect("made");
        figures.add(all(&web), sample(1));
        // The others are written all the same.
        figures.add((web.clone(), Some(name("app"))), sample(1));
        figures.flush().expect_err("it is none");
        let read = figures.read(&web);
        assert_eq!(
            read.keys().cloned().collect::<Vec<_>>(),
            [Some(name("app"))]
        );
        assert_eq!(fs::read_to_string(&other).expect("read"), "mine");
    }
    // Names that no container has are nobody's.
    fs::write(own.join("..x"), "").expect("written");
    assert_eq!(figures.read(&web).len(), 1);
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn so_many_files_and_no_more() {
    let folder = folder("many");
    let figures = Figures {
        max_files: 3,
        ..Figures::new(&folder)
    };
    let there = || -> Vec<String> {
        let entries = fs::read_dir(folder.join("usage"))
            .expect("a folder")
            .flatten();
        let mut names: Vec<String> = entries
            .filter_map(|one| one.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    };
    for (age, pod) in ["c", "b", "a"].iter().enumerate() {
        figures.add(all(&name(pod)), sample(0));
        figures.flush().expect("written");
        let file = File::open(folder.join(format!("usage/{pod}/_pod"))).expect("a file");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 * (age as u64 + 1));
        file.set_modified(time).expect("its time");
    }
    // The oldest gives way, unless it is written now.
    figures.add(all(&name("c")), sample(1));
    figures.add(all(&name("d")), sample(1));
    figures.flush().expect("written");
    assert_eq!(there(), ["a", "c", "d"]);
    // All are written now: one is left out, and said to be.
    for pod in ["a", "c", "d", "e"] {
        figures.add(all(&name(pod)), sample(2));
    }
    let error = figures.flush().expect_err("too many").to_string();
    assert!(
        error.contains("usage/e/_pod: 3 containers have their figures"),
        "{error}"
    );
    assert_eq!(there(), ["a", "c", "d"]);
    // What somebody else has removed makes room.
    fs::remove_dir_all(folder.join("usage/a")).expect("removed");
    figures.add(all(&name("e")), sample(3));
    figures.flush().expect("written");
    assert_eq!(there(), ["c", "d", "e"]);
    fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn what_waits_is_bounded() {
    let folder = folder("waits");
    let web = name("web");
    let figures = Figures::new(&folder);
    // The folder can't be made.
    fs::write(folder.join("usage"), "").expect("a file");
    (0..20).for_each(|step| figures.add(all(&web), sample(step)));
    let kept = figures.read(&web).remove(&None).expect("what waits");
    assert_eq!(kept.newest.len(), MAX_PENDING);
    assert_eq!(kept.newest.last(), Some(&sample(19)));
    figures.flush().expect_err("there is no folder");
    assert_eq!(figures.read(&web), BTreeMap::new());
    fs::remove_dir_all(&folder).expect("removed");
}
