use super::*;
use crate::pairs::MAX_LEVELS;
use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::AsFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
        },
    },
    path::{Path, PathBuf},
};
use tank_layer::budget::Share;

/// Two directories beside each other, gone at the end. Empty files share nothing, so any file system
/// does.
struct Trees(PathBuf);

impl Trees {
    fn new(name: &str) -> Self {
        let top = std::env::temp_dir().join(format!("tank-clone-{}-{name}", std::process::id()));
        fs::create_dir_all(top.join("from")).expect("a folder");
        fs::create_dir_all(top.join("into")).expect("a folder");
        Self(top)
    }

    fn original(&self) -> PathBuf {
        self.0.join("from")
    }

    fn copy(&self) -> PathBuf {
        self.0.join("into")
    }

    fn clone_within(&self, entries: u64) -> io::Result<u64> {
        let share = Share {
            bytes: u64::MAX,
            entries,
            time: 60_000,
        };
        let open = |path: &Path| fs::File::open(path).expect("a folder");
        let (from, into) = (open(&self.original()), open(&self.copy()));
        let budget = Budget::of(share, &self.0, None);
        tree(from.as_fd(), into.as_fd(), &budget)
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn all_of_a_tree_is_there_and_no_link_of_it_is_followed() {
    let trees = Trees::new("all");
    let from = trees.original();
    let odd = OsStr::from_bytes(b"new\nline\x1b\xff");
    fs::create_dir(from.join(odd)).expect("a folder");
    fs::write(from.join(odd).join("a"), "").expect("a file");
    fs::hard_link(from.join(odd).join("a"), from.join("b")).expect("a name");
    symlink("/etc", from.join("up")).expect("a link");
    symlink("../../../../etc/passwd", from.join("far")).expect("a link");
    fs::hard_link(from.join("up"), from.join("up2")).expect("a name");
    fs::set_permissions(from.join("b"), fs::Permissions::from_mode(0o6711)).expect("a mode");
    fs::set_permissions(&from, fs::Permissions::from_mode(0o1750)).expect("a mode");
    let fifo = FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, from.join("pipe"), fifo, Mode::RUSR, 0).expect("a pipe");
    let socket = std::os::unix::net::UnixListener::bind(from.join("s")).expect("a socket");
    // Other than in an archive, what an overlay has noted stays.
    let given = [c"user.a=b", c"user.overlay.opaque", c"user.\xff"];
    let marked = fs::File::open(from.join("b")).expect("a file").into();
    for name in given {
        attributes::set(&marked, name, b"of it").expect("an attribute");
    }
    assert_eq!(trees.clone_within(100).expect("a copy"), 8);
    let copied = fs::File::open(trees.copy().join("b"))
        .expect("a file")
        .into();
    let mut value = Vec::new();
    for name in given {
        let found = attributes::value(&copied, name, &mut value).expect("it is read");
        assert_eq!(found, Some(&b"of it"[..]), "{name:?}");
    }
    drop(socket);
    let into = trees.copy();
    let stat = |path: &Path| fs::symlink_metadata(path).expect("it is there");
    let (a, b) = (stat(&into.join(odd).join("a")), stat(&into.join("b")));
    assert_eq!(
        (a.ino(), a.nlink(), a.mode() & 0o7777),
        (b.ino(), 2, 0o6711)
    );
    assert_eq!(
        fs::read_link(into.join("up")).expect("a link"),
        Path::new("/etc")
    );
    assert_eq!(stat(&into.join("up")).ino(), stat(&into.join("up2")).ino());
    assert!(stat(&into.join("pipe")).file_type().is_fifo());
    assert!(stat(&into.join("s")).file_type().is_socket());
    assert_eq!(stat(&into).mode() & 0o7777, 0o1750);
    for name in ["b", "far", "pipe"] {
        let (one, other) = (stat(&from.join(name)), stat(&into.join(name)));
        let times = |of: &fs::Metadata| (of.mtime(), of.mtime_nsec());
        assert_eq!(times(&one), times(&other), "{name}");
    }
}

#[test]
fn what_is_more_than_it_may_be_is_refused() {
    let trees = Trees::new("more");
    for name in ["a", "b", "c"] {
        fs::write(trees.original().join(name), "").expect("a file");
    }
    let refused = trees.clone_within(2).expect_err("too many");
    assert!(refused.to_string().contains("entries"), "{refused}");
    let deep = Trees::new("deep");
    let mut path = deep.original();
    path.extend(std::iter::repeat_n("d", MAX_LEVELS + 1));
    fs::create_dir_all(path).expect("folders");
    let refused = deep.clone_within(1_000).expect_err("too deep");
    assert_eq!(refused.to_string(), "it has more than 300 levels");
}

#[test]
fn a_refusal_names_the_entry_and_no_control_character() {
    let trees = Trees::new("named");
    let name = std::ffi::OsString::from_vec(b"bad\x1bname".to_vec());
    fs::write(trees.original().join(&name), "").expect("a file");
    fs::write(trees.copy().join(&name), "").expect("a file");
    let refused = trees.clone_within(10).expect_err("it is there already");
    assert!(
        refused.to_string().starts_with(r#""bad\u{1b}name": "#),
        "{refused}"
    );
}
