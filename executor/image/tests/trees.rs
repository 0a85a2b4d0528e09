//! Folders as images: what is in them comes out again, the same of the same content, and nothing of the host comes in. Layers
//! are converted and things are mounted, so these tests run as root.

use rustix::{
    fs::{CWD, FileType, Mode, XattrFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use std::{
    fs,
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tank_image::{Converter, Error, Images, Registries};
use tank_model::Digest;

/// A folder, and the store that takes it in.
struct Desk {
    dir: PathBuf,
    images: Images,
}

impl Desk {
    fn new(name: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "layers are converted: run it as root"
        );
        let name = format!("tank-trees-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("root")).expect("a folder");
        let converter = Converter {
            program: env!("CARGO_BIN_EXE_tank-layer").into(),
            id: 3_000_000_000,
        };
        let images = Images::open(&dir.join("store"), Registries::default(), converter);
        let images = images.expect("opens");
        Self { dir, images }
    }

    fn root(&self, name: &str) -> PathBuf {
        self.dir.join("root").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root(name), text).expect("writes");
    }

    fn pull(&self, reference: &str) -> Result<Digest, Error> {
        let reference = reference.parse().expect("a reference");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let pull = self.images.pull(&reference, Some(&self.dir), None);
        let pulled = runtime.expect("a runtime").block_on(pull);
        let left = fs::read_dir(self.dir.join("store/tmp")).expect("a folder");
        assert_eq!(left.count(), 0, "nothing that is half done stays");
        pulled
    }

    fn refused(&self, reference: &str) -> String {
        let error = self.pull(reference).expect_err(reference);
        error
            .message()
            .replace(&self.dir.display().to_string(), "DIR")
    }

    /// The image's one layer, mounted where nobody else finds it.
    fn open(&self, image: Digest) -> OwnedFd {
        let image = self.images.find(image).expect("it is whole");
        let [layer] = image.layers.as_slice() else {
            panic!("{image:?}");
        };
        self.images.mounts().open(layer).expect("mounts")
    }

    /// What the image has, each entry with its kind, mode, owner and time.
    fn entries(&self, image: Digest) -> Vec<String> {
        described(&path_of(&self.open(image)))
    }
}

fn path_of(opened: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/", opened.as_raw_fd()).into()
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Everything in a folder, in order. The times are whole seconds.
fn described(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let stat = fs::symlink_metadata(&path).expect("it is there");
            let content = match FileType::from_raw_mode(stat.mode()) {
                FileType::RegularFile => format!(
                    "{:?}",
                    fs::read(&path).expect("reads").escape_ascii().to_string()
                ),
                FileType::Symlink => {
                    format!("-> {}", fs::read_link(&path).expect("a link").display())
                }
                FileType::Directory => {
                    folders.push(path.clone());
                    String::new()
                }
                other => format!("{other:?}"),
            };
            let name = path
                .strip_prefix(top)
                .expect("below")
                .to_string_lossy()
                .into_owned();
            let links = if stat.is_dir() { 0 } else { stat.nlink() };
            let (mode, uid, gid, time) = (stat.mode(), stat.uid(), stat.gid(), stat.mtime());
            found.push(format!(
                "{name:?} {mode:o} {uid}:{gid} {time} {links} {content}"
            ));
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_in_a_folder_is_in_the_image_and_the_same_of_a_copy() {
    let desk = Desk::new("same");
    fs::create_dir_all(desk.root("a/b")).expect("a folder");
    desk.write("a/b/file", "text");
    desk.write("a/empty", "");
    desk.write("a/name\u{1b}[2J\n", "odd");
    fs::hard_link(desk.root("a/b/file"), desk.root("also")).expect("a link");
    fs::set_permissions(desk.root("also"), PermissionsExt::from_mode(0o644)).expect("chmod");
    std::os::unix::fs::chown(desk.root("a/empty"), Some(70_000), Some(5)).expect("chown");
    fs::set_permissions(desk.root("a/empty"), PermissionsExt::from_mode(0o6755)).expect("chmod");
    symlink("/etc/shadow", desk.root("outside")).expect("a link");
    symlink("../../../..", desk.root("a/up")).expect("a link");
    let mode = Mode::from_raw_mode(0o622);
    rustix::fs::mknodat(CWD, desk.root("fifo"), FileType::Fifo, mode, 0).expect("a FIFO");
    let past = fs::File::options()
        .write(true)
        .open(desk.root("a/empty"))
        .expect("opens");
    past.set_modified(std::time::UNIX_EPOCH - std::time::Duration::from_secs(1000))
        .expect("a time");
    rustix::fs::setxattr(desk.root("also"), "user.b", b"\0two", XattrFlags::empty()).expect("sets");
    rustix::fs::setxattr(desk.root("also"), "user.a", b"one", XattrFlags::empty()).expect("sets");
    let expected = described(&desk.dir.join("root"));
    // What a layer leaves out is left out of a folder.
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        CWD,
        desk.root("null"),
        FileType::CharacterDevice,
        mode,
        device,
    )
    .expect("a device");
    let _socket = std::os::unix::net::UnixListener::bind(desk.root("socket")).expect("a socket");
    rustix::fs::setxattr(
        desk.root("a"),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .expect("sets");
    let image = desk.pull("dir:root").expect("an image");
    assert_eq!(desk.entries(image), expected);
    let attribute = |path: PathBuf, name: &str| {
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(path, name, &mut value)?;
        Ok::<_, Errno>(value[..length].to_vec())
    };
    let opened = desk.open(image);
    let out = path_of(&opened);
    assert_eq!(attribute(out.join("also"), "user.b"), Ok(b"\0two".to_vec()));
    assert_eq!(
        attribute(out.join("a"), "trusted.overlay.opaque"),
        Err(Errno::NODATA)
    );
    // Elsewhere, in another order, without holes or with, by another tool: it is the same.
    let copied = Command::new("cp")
        .args(["--archive", "--sparse=always"])
        .args([desk.dir.join("root"), desk.dir.join("copy")])
        .status();
    assert!(copied.expect("cp").success());
    assert_eq!(desk.pull("dir:./copy/").expect("an image"), image);
    // A byte, a mode or a time is another image; and pinned, it is that or nothing.
    fs::set_permissions(desk.dir.join("copy/a"), PermissionsExt::from_mode(0o700)).expect("chmod");
    let other = desk.pull("dir:copy").expect("an image");
    assert_ne!(other, image);
    assert_eq!(
        desk.pull(&format!("dir:copy@{image}")).expect("it is here"),
        image
    );
    let absent = Digest::of(b"absent");
    assert!(
        desk.refused(&format!("dir:copy@{absent}"))
            .contains(&other.to_string())
    );
}

#[test]
fn what_is_no_folder_or_not_its_own_is_refused() {
    let desk = Desk::new("refused");
    desk.write("file", "");
    let cases: [(&str, &str, &dyn Fn()); 6] = [
        ("dir:none", "No such file", &|| {}),
        ("dir:root/file", "it is no folder", &|| {}),
        ("dir:root", "`sub/.wh.x` is called as", &|| {
            fs::create_dir(desk.root("sub")).expect("a folder");
            desk.write("sub/.wh.x", "");
        }),
        (
            "dir:root",
            "something is mounted at `sub/mnt` in it",
            &|| {
                fs::remove_file(desk.root("sub/.wh.x")).expect("removes");
                fs::create_dir(desk.root("sub/mnt")).expect("a folder");
                fs::create_dir(desk.dir.join("elsewhere")).expect("a folder");
                let bind = MountFlags::BIND;
                rustix::mount::mount(
                    desk.dir.join("elsewhere"),
                    desk.root("sub/mnt"),
                    "",
                    bind,
                    None,
                )
                .expect("mounts");
            },
        ),
        ("dir:link", "is a link that somebody else", &|| {
            rustix::mount::unmount(desk.root("sub/mnt"), UnmountFlags::DETACH).expect("unmounts");
            symlink("/etc", desk.dir.join("link")).expect("a link");
            std::os::unix::fs::lchown(desk.dir.join("link"), Some(1000), None).expect("chown");
        }),
        ("dir:root", "it is an OCI image layout", &|| {
            desk.write("oci-layout", "");
            desk.write("index.json", "");
        }),
    ];
    for (reference, why, prepare) in cases {
        prepare();
        let said = desk.refused(reference);
        assert!(said.contains(why), "{reference}: {said}");
    }
    // A name is shown without what a terminal obeys.
    for file in ["oci-layout", "index.json"] {
        fs::remove_file(desk.root(file)).expect("removes");
    }
    desk.write(".wh.\u{1b}[2J", "");
    assert!(!desk.refused("dir:root").contains('\u{1b}'));
}

/// Somebody who writes to the folder swaps a directory for a link to the host's, again and again.
#[test]
fn a_folder_that_is_swapped_for_a_link_shows_nothing_of_the_host() {
    let desk = Desk::new("swapped");
    fs::create_dir_all(desk.dir.join("host")).expect("a folder");
    fs::write(desk.dir.join("host/secret"), "of the host").expect("writes");
    fs::create_dir(desk.root("sub")).expect("a folder");
    desk.write("sub/mine", "mine");
    symlink(desk.dir.join("host"), desk.root("other")).expect("a link");
    let ends = Arc::new(AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let (ends, sub, other) = (Arc::clone(&ends), desk.root("sub"), desk.root("other"));
        move || {
            while !ends.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &sub, CWD, &other, exchange).expect("swaps");
            }
        }
    });
    for _ in 0..50 {
        match desk.pull("dir:root") {
            Ok(image) => {
                let entries = desk.entries(image).join("\n");
                assert!(!entries.contains("of the host"), "{entries}");
            }
            Err(error) => {
                let said = error.message();
                assert!(said.contains("changed while it was read"), "{said}");
            }
        }
    }
    ends.store(true, Ordering::Relaxed);
    swapping.join().expect("it swaps");
}

/// A file that is written to all the time is an error, or what it was: never an image that is not what its digest says.
#[test]
fn what_changes_while_it_is_read_is_no_wrong_image() {
    let desk = Desk::new("changes");
    desk.write("file", &"x".repeat(3 << 20));
    let ends = Arc::new(AtomicBool::new(false));
    let writing = std::thread::spawn({
        let (ends, path) = (Arc::clone(&ends), desk.root("file"));
        move || {
            let mut byte = b'a';
            while !ends.load(Ordering::Relaxed) {
                let mut file = fs::File::options().write(true).open(&path).expect("opens");
                file.write_all(&[byte; 1 << 20]).expect("writes");
                byte = if byte == b'z' { b'a' } else { byte + 1 };
            }
        }
    });
    for _ in 0..20 {
        if let Err(error) = desk.pull("dir:root") {
            let said = error.message();
            assert!(said.contains("changed while it was read"), "{said}");
        }
    }
    ends.store(true, Ordering::Relaxed);
    writing.join().expect("it writes");
    let parts = desk.images.kept().expect("a list");
    for part in parts {
        let verdict = desk.images.check(&part, &mut || true).expect("reads");
        assert_eq!(verdict, tank_image::Verdict::Good, "{part}");
    }
}

#[test]
fn holes_count_and_too_many_bytes_are_refused_in_time() {
    let desk = Desk::new("holes");
    let file = fs::File::create(desk.root("huge")).expect("a file");
    file.set_len(1 << 40).expect("a hole");
    let said = desk.refused("dir:root");
    assert!(said.contains("its files have more than"), "{said}");
    file.set_len(8 << 20).expect("a hole");
    let image = desk.pull("dir:root").expect("an image");
    let image = desk.images.find(image).expect("it is whole");
    let tank_image::Layer::Image(path) = &image.layers[0] else {
        panic!("{image:?}");
    };
    let stored = fs::metadata(path).expect("a file").blocks() * 512;
    assert!(stored < 1 << 20, "a hole takes {stored} bytes");
}
