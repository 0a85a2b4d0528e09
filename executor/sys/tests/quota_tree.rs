//! Trees that are counted to a project, on a file system that knows projects. Few do, and of the kernels that tests run on only that of the
//! virtual machine for sure: `tests/tests/quota.rs` runs these there, with `TMPDIR` on such a file system.

#![allow(unsafe_code, reason = "a lease is taken by fcntl(2)")]

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::PathBuf,
    time::{Duration, Instant},
};
use tank_sys::quota::{count_tree, project};

/// A folder of the test's own.
fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tank-count-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir).expect("made");
    dir
}

fn count(dir: &PathBuf, id: u32) -> io::Result<()> {
    let dir = fs::File::open(dir).expect("opened");
    let deadline = Instant::now() + Duration::from_secs(100);
    count_tree(dir.into(), id, &mut || {
        assert!(Instant::now() < deadline, "it has no end");
        Ok(())
    })
}

fn id(path: PathBuf) -> u32 {
    let file = fs::File::open(path).expect("opened");
    project(file.as_fd()).expect("asked").expect("known").id
}

#[test]
#[ignore = "runs in a virtual machine, where projects are known: tests/tests/quota.rs"]
fn all_of_a_tree_counts_however_deep_it_is_and_whatever_is_beside_it() {
    let dir = folder("deep");
    for name in ["a", "b", "z"] {
        fs::create_dir(dir.join(name)).expect("made");
        fs::write(dir.join(name).join("file"), "x").expect("written");
    }
    fs::create_dir(dir.join("n")).expect("made");
    fs::write(dir.join("n/file"), "x").expect("written");
    for _ in 0..700 {
        fs::create_dir(dir.join("m")).expect("made");
        fs::create_dir(dir.join("m/a")).expect("made");
        fs::create_dir(dir.join("m/z")).expect("made");
        fs::rename(dir.join("n"), dir.join("m/n")).expect("moved");
        fs::rename(dir.join("m"), dir.join("n")).expect("moved");
    }
    for wanted in [7, 0] {
        count(&dir, wanted).expect("counts");
        for name in ["a", "b", "z"] {
            assert_eq!(id(dir.join(name).join("file")), wanted);
        }
        let mut path = dir.join("n");
        for _ in 0..700 {
            assert_eq!((id(path.join("a")), id(path.join("z"))), (wanted, wanted));
            path.push("n");
        }
        assert_eq!(id(path.join("file")), wanted);
    }
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
#[ignore = "runs in a virtual machine, where projects are known: tests/tests/quota.rs"]
fn whoever_counts_is_asked_at_each_entry_and_what_is_changed_by_then_stays() {
    let dir = folder("stopped");
    for n in 0..50 {
        fs::write(dir.join(n.to_string()), "x").expect("written");
    }
    let mut asked = 0;
    let own = fs::File::open(&dir).expect("opened");
    let stopped = count_tree(own.into(), 7, &mut || {
        asked += 1;
        match asked {
            20.. => Err(io::Error::other("enough")),
            _ => Ok(()),
        }
    });
    assert_eq!(stopped.expect_err("stopped").to_string(), "enough");
    let counted = (0..50).filter(|n| id(dir.join(n.to_string())) == 7);
    // Two of its entries are no files.
    assert!((17..=19).contains(&counted.count()));
    assert_eq!(id(dir.clone()), 7);
    count(&dir, 7).expect("counts");
    assert!((0..50).all(|n| id(dir.join(n.to_string())) == 7));
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
#[ignore = "runs in a virtual machine, where projects are known: tests/tests/quota.rs"]
fn a_file_under_a_lease_is_waited_for_and_keeps_nothing_else_from_counting() {
    let dir = folder("lease");
    for name in ["a", "m", "z"] {
        fs::write(dir.join(name), "x").expect("written");
    }
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_CLOEXEC);
    let holder = options.open(dir.join("m")).expect("opened");
    let lease = |kind: i32| {
        // SAFETY: no address is handed over.
        unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, kind) }
    };
    // SAFETY: SIGIO, which says that it was called back, would end this process.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    assert_eq!(lease(libc::F_WRLCK), 0);
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| count(&dir, 7));
        while id(dir.join("a")) != 7 || id(dir.join("z")) != 7 {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Given back, and taken again at once, as long as that is possible.
        assert_eq!(lease(libc::F_UNLCK), 0);
        lease(libc::F_WRLCK);
        counting.join().expect("ends").expect("counts");
    });
    lease(libc::F_UNLCK);
    assert_eq!(id(dir.join("m")), 7);
    fs::remove_dir_all(&dir).expect("removed");
}
