//! What a stream makes of files, and what a hostile one does not.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};
use tank_copy::{Layout, Source, Tally, Target, receive, send};
use tank_sys::beneath::Root;
use tar_core::{EntryType, builder::EntryBuilder};

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("tank-copy-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }

    fn at(&self, path: &str) -> PathBuf {
        // Not `join`, which takes the `/` at the end from nobody, but would an absolute path.
        PathBuf::from(format!("{}/{path}", self.0.display()))
    }

    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(&path, text).expect("written");
        path
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| e.to_string())
    }

    /// Every name below it.
    fn names(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let entry = entry.expect("an entry");
                let path = entry.path();
                let shown = path.strip_prefix(&self.0).expect("below");
                found.push(shown.display().to_string());
                if entry.file_type().expect("a type").is_dir() {
                    folders.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn root() -> Root {
    Root::current().expect("a root")
}

fn sent(path: &Path, name: &str, follow: bool, out: &mut dyn Write) -> Result<Tally, String> {
    let root = root();
    let source = Source {
        root: &root,
        path,
        name: name.as_bytes(),
        follow,
    };
    send(&source, out).map_err(|e| e.to_string())
}

fn stream(path: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    sent(path, name, name == ".", &mut bytes).expect("sent");
    bytes
}

fn received(bytes: &[u8], path: &Path, layout: Layout<'_>) -> Result<Tally, String> {
    let root = root();
    let target = Target {
        root: &root,
        path,
        layout,
        ids: false,
    };
    receive(&target, bytes).map_err(|e| e.to_string())
}

const ONE: Layout<'static> = Layout::One(None);

fn copy(from: &Path, name: &str, to: &Path) -> Result<Tally, String> {
    received(&stream(from, name), to, ONE)
}

/// Kind, path, what a link leads to or a file holds.
type Entry<'e> = (EntryType, &'e str, &'e str);

/// An archive as anybody may write one.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, text) in entries {
        let mut entry = EntryBuilder::new_gnu();
        let size = match kind {
            EntryType::Regular => text.len() as u64,
            _ => 0,
        };
        entry.path(path).entry_type(*kind);
        entry.mode(0o6755).expect("fits");
        entry.size(size).expect("fits").uid(0).expect("fits");
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            entry.link_name(text);
        }
        bytes.extend(entry.finish_bytes());
        if size > 0 {
            bytes.extend(text.as_bytes());
            bytes.extend(vec![0; (size.wrapping_neg() % 512) as usize]);
        }
    }
    bytes.extend([0; 1024]);
    bytes
}

#[test]
fn a_file_goes_where_cp_puts_it() {
    let folder = Folder::new("file");
    let from = folder.file("from/a", "text");
    fs::set_permissions(&from, fs::Permissions::from_mode(0o4750)).expect("set");
    fs::create_dir(folder.at("into")).expect("made");
    folder.file("old", "before, and longer");
    for (to, at) in [
        ("into", "into/a"),
        ("into/", "into/a"),
        ("into/b", "into/b"),
        ("old", "old"),
        ("into/../new", "new"),
    ] {
        copy(&from, "a", &folder.at(to)).expect(to);
        assert_eq!(folder.read(at), "text", "{to}");
    }
    let (made, old) = (
        fs::metadata(folder.at("into/b")).expect("made"),
        fs::metadata(&from).expect("there"),
    );
    assert_eq!((made.mode() & 0o7777, made.mtime()), (0o750, old.mtime()));
    for (to, why) in [
        ("none/", "there is no such folder"),
        ("none/b", "No such file"),
        ("old/", "Not a directory"),
    ] {
        let error = copy(&from, "a", &folder.at(to)).expect_err(to);
        assert!(error.contains(why) && error.contains(to), "{to}: {error}");
    }
    // A folder is in the way, and stays.
    fs::create_dir_all(folder.at("into2/a/x")).expect("made");
    let error = copy(&from, "a", &folder.at("into2")).expect_err("a folder");
    assert!(error.contains("it is a folder there"), "{error}");
    // A link to a folder is the folder, one to a file is the file, and one to nothing is what it leads to.
    symlink("into", folder.at("link")).expect("linked");
    symlink("old", folder.at("to-file")).expect("linked");
    symlink("later", folder.at("to-nothing")).expect("linked");
    fs::write(&from, "2").expect("written");
    for to in ["link", "to-file", "to-nothing"] {
        copy(&from, "a", &folder.at(to)).expect(to);
    }
    assert_eq!(
        ["into/a", "old", "later"].map(|path| folder.read(path)),
        ["2", "2", "2"]
    );
    assert!(folder.at("to-file").is_symlink() && folder.at("to-nothing").is_symlink());
    let left = folder.names();
    assert!(
        left.iter().all(|name| !name.contains(".tank-cp")),
        "{left:?}"
    );
}

#[test]
fn a_folder_goes_where_cp_puts_it() {
    let folder = Folder::new("folder");
    folder.file("from/log/a", "a");
    folder.file("from/log/deep/b", "b");
    symlink("/nowhere", folder.at("from/log/link")).expect("linked");
    let from = folder.at("from/log");
    fs::set_permissions(
        folder.at("from/log/deep"),
        fs::Permissions::from_mode(0o555),
    )
    .expect("set");

    // What is missing becomes it; what is there gets it, or what is in it.
    copy(&from, "log", &folder.at("missing")).expect("copied");
    fs::create_dir(folder.at("there")).expect("made");
    let tally = copy(&from, "log", &folder.at("there")).expect("copied");
    assert_eq!((tally.entries, tally.bytes, tally.left_out), (5, 2, 0));
    copy(&from, ".", &folder.at("there/inner")).expect("copied");
    copy(&from, ".", &folder.at("there/inner")).expect("again, into what is there");
    for at in ["missing", "there/log", "there/inner"] {
        assert_eq!(folder.read(&format!("{at}/deep/b")), "b", "{at}");
        let link = fs::read_link(folder.at(&format!("{at}/link"))).expect("a link");
        assert_eq!(link, Path::new("/nowhere"));
        let deep = fs::metadata(folder.at(&format!("{at}/deep"))).expect("there");
        assert_eq!(deep.mode() & 0o7777, 0o555);
    }
    // A folder does not become a file.
    let file = folder.file("file", "kept");
    let error = copy(&from, "log", &file).expect_err("a file");
    assert!(error.contains("it is no folder there"), "{error}");
}

#[test]
fn only_a_folder_has_something_in_it() {
    let folder = Folder::new("dot");
    let file = folder.file("file", "kept");
    let error = sent(&file, ".", true, &mut io::sink()).expect_err("no folder");
    assert!(error.contains("it is no folder there"), "{error}");
}

#[test]
fn links_are_sent_as_links_unless_they_are_followed() {
    let folder = Folder::new("follow");
    folder.file("real", "text");
    symlink("real", folder.at("link")).expect("linked");
    copy(&folder.at("link"), "link", &folder.at("copy")).expect("copied");
    assert_eq!(
        fs::read_link(folder.at("copy")).expect("a link"),
        Path::new("real")
    );
    let mut bytes = Vec::new();
    sent(&folder.at("link"), "link", true, &mut bytes).expect("sent");
    received(&bytes, &folder.at("followed"), ONE).expect("received");
    assert!(!folder.at("followed").is_symlink());
    assert_eq!(folder.read("followed"), "text");
}

#[test]
fn what_is_no_file_is_left_out_or_refused() {
    let folder = Folder::new("special");
    folder.file("from/a", "a");
    let made = std::process::Command::new("mkfifo")
        .arg(folder.at("from/pipe"))
        .status();
    assert!(made.expect("mkfifo").success());
    // Nobody writes to it: opening it would wait for ever.
    let mut bytes = Vec::new();
    let tally = sent(&folder.at("from"), "from", false, &mut bytes).expect("sent");
    assert_eq!((tally.entries, tally.left_out), (2, 1));
    received(&bytes, &folder.at("to"), ONE).expect("received");
    assert_eq!(
        folder
            .names()
            .iter()
            .filter(|name| name.contains("pipe"))
            .count(),
        1
    );
    let error = sent(&folder.at("from/pipe"), "pipe", false, &mut io::sink()).expect_err("a pipe");
    assert!(error.contains("a named pipe"), "{error}");
    // Nothing is put in its place either.
    let error = copy(&folder.at("from/a"), "a", &folder.at("from/pipe")).expect_err("a pipe");
    assert!(error.contains("a named pipe"), "{error}");
    for path in ["/proc", "/proc/self/environ", "/sys/kernel"] {
        let error = sent(Path::new(path), "x", false, &mut io::sink()).expect_err(path);
        assert!(error.contains("of the kernel"), "{error}");
    }
    // A way through what a process has open is none.
    let error = sent(
        Path::new("/proc/self/cwd/Cargo.toml"),
        "x",
        false,
        &mut io::sink(),
    );
    assert!(
        error
            .expect_err("a magic link")
            .contains("a link that is not followed")
    );
}

/// Shortens a file once something of it was sent.
struct Shorten<'s>(&'s Path, Vec<u8>);

impl Write for Shorten<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = fs::File::options().write(true).open(self.0)?;
        file.set_len(10)?;
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_becomes_shorter_leaves_nothing_half() {
    let folder = Folder::new("shrunk");
    let from = folder.file("from", &"x".repeat(1 << 20));
    folder.file("to", "before");
    let mut out = Shorten(&from, Vec::new());
    let error = sent(&from, "from", false, &mut out).expect_err("it is shorter");
    assert!(
        error.contains("it became shorter") && error.contains("from"),
        "{error}"
    );
    received(&out.1, &folder.at("to"), ONE).expect_err("no end");
    assert_eq!(folder.read("to"), "before");
    assert_eq!(folder.names(), ["from", "to"]);
}

#[test]
fn a_stream_that_is_cut_leaves_nothing_half() {
    let folder = Folder::new("cut");
    let from = folder.file("from", &"x".repeat(3000));
    folder.file("to", "before");
    let whole = stream(&from, "from");
    for length in [0, 100, 512, 1000, whole.len() - 1024, whole.len() - 512] {
        let error = received(&whole[..length], &folder.at("to"), ONE).expect_err("cut");
        assert_eq!(error, "what is copied ended in the middle", "{length}");
        received(&whole[..length], &folder.at("new"), ONE).expect_err("cut");
        assert_eq!(folder.read("to"), "before", "{length}");
        assert_eq!(folder.names(), ["from", "to"], "{length}");
    }
}

#[test]
fn a_hostile_stream_stays_in_its_folder() {
    use EntryType::{Char, Directory, Link, Regular, Symlink};
    let folder = Folder::new("hostile");
    let secret = folder.file("outside/secret", "secret");
    let dir = (Directory, "x/", "");
    let streams: [(&[Entry<'_>], &str); 12] = [
        (&[(Regular, "../outside/secret", "taken")], "leads out"),
        (
            &[dir, (Regular, "x/../../outside/secret", "taken")],
            "leads out",
        ),
        (&[dir, (Regular, "y", "taken")], "something else came"),
        (&[(Regular, "y", "taken")], "something else came"),
        (&[(Directory, "x/y/", "")], "something else came"),
        (
            &[(Regular, "x", "one"), (Regular, "x", "two")],
            "something else came",
        ),
        (
            &[
                dir,
                (Symlink, "x/l", "../../outside"),
                (Regular, "x/l/secret", "taken"),
            ],
            "it is no folder there",
        ),
        (
            &[
                dir,
                (Symlink, "x/l", "../../outside"),
                (Directory, "x/l/", ""),
            ],
            "it is no folder there",
        ),
        (&[dir, (Link, "x/l", "../outside/secret")], "a hard link"),
        (
            &[dir, (Directory, "x/d/", ""), (Regular, "x/d", "file")],
            "it is a folder there",
        ),
        (&[(Char, "x", "")], "something else came"),
        (&[(Link, "x", "../outside/secret")], "something else came"),
    ];
    for (number, (entries, why)) in streams.iter().enumerate() {
        let into = folder.at("into");
        fs::create_dir(&into).expect("made");
        let error = received(&archive(entries), &into, Layout::One(Some(b"x"))).expect_err(why);
        assert!(error.contains(why), "{number}: {error}");
        assert_eq!(
            fs::read_to_string(&secret).expect("there"),
            "secret",
            "{number}"
        );
        assert!(!into.join("x").is_file(), "{number}");
        fs::remove_dir_all(&into).expect("removed");
    }
    // What was planted by an earlier copy is not followed by the next one; a link is replaced, and not what it leads to.
    let into = folder.at("into");
    fs::create_dir_all(into.join("x")).expect("made");
    symlink("../../outside/secret", into.join("x/a")).expect("linked");
    symlink("../../outside", into.join("x/d")).expect("linked");
    let entries = [dir, (Regular, "x/a", "mine")];
    received(&archive(&entries), &into, Layout::One(Some(b"x"))).expect("received");
    assert_eq!(folder.read("into/x/a"), "mine");
    let entries = [dir, (Regular, "x/d/secret", "taken")];
    let error = received(&archive(&entries), &into, Layout::One(Some(b"x"))).expect_err("a link");
    assert!(error.contains("it is no folder there"), "{error}");
    assert_eq!(fs::read_to_string(&secret).expect("there"), "secret");
    // Devices are left out, and bits that lend rights.
    let entries = [dir, (Char, "x/null", ""), (Regular, "x/s", "text")];
    let tally = received(&archive(&entries), &into, Layout::One(Some(b"x"))).expect("received");
    assert_eq!((tally.entries, tally.left_out), (2, 1));
    let mode = fs::metadata(into.join("x/s")).expect("made").mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert!(!into.join("x/null").exists());
}

#[test]
fn an_archive_of_anybody_goes_into_a_folder() {
    use EntryType::{Link, Regular, Symlink};
    let folder = Folder::new("archive");
    let into = folder.at("into");
    let entries = [
        (Regular, "/etc/a", "a"),
        (Regular, "deep/down/b", "b"),
        (Link, "deep/c", "deep/down/b"),
        (Symlink, "deep/d", "/etc/passwd"),
    ];
    let error = received(&archive(&entries), &into, Layout::Archive).expect_err("no folder");
    assert!(error.contains("there is no such folder"), "{error}");
    fs::create_dir(&into).expect("made");
    received(&archive(&entries), &into, Layout::Archive).expect("received");
    assert_eq!(folder.read("into/etc/a"), "a");
    assert_eq!(folder.read("into/deep/c"), "b");
    let inode = |path: &str| fs::metadata(folder.at(path)).expect("there").ino();
    assert_eq!(inode("into/deep/c"), inode("into/deep/down/b"));
    // A second time: in the place of the first.
    received(&archive(&entries), &into, Layout::Archive).expect("received");
    let through = [(Link, "x", "deep/d")];
    let error = received(&archive(&through), &into, Layout::Archive).expect_err("a link");
    assert!(error.contains("a hard link"), "{error}");
    let left = folder.names();
    assert!(
        left.iter().all(|name| !name.contains(".tank-cp")),
        "{left:?}"
    );
}

#[test]
fn a_file_of_zeros_takes_no_place() {
    let folder = Folder::new("holes");
    let from = folder.at("from");
    let file = fs::File::create(&from).expect("made");
    file.set_len(8 << 20).expect("set");
    copy(&from, "from", &folder.at("to")).expect("copied");
    let made = fs::metadata(folder.at("to")).expect("made");
    assert_eq!((made.len(), made.blocks() < 64), (8 << 20, true));
    // More than there may be is refused before a byte of it is sent.
    file.set_len(2 << 40).expect("set");
    let mut out = Vec::new();
    let error = sent(&from, "from", false, &mut out).expect_err("too large");
    assert!(error.contains("1 TiB") && out.is_empty(), "{error}");
}
