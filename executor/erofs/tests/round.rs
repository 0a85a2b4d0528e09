//! What is written is what is read: by [`tank_erofs::Image`] here, by the kernel and `fsck.erofs` in
//! tank-image's tests, which are root.

use proptest::{collection::vec, prelude::*};
use std::{
    collections::BTreeMap,
    fs::File,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};
use tank_erofs::{Attributes, BLOCK, DirId, Entry, Image, Kind, Nid, Time, Tree, Writer};

/// A file without a name.
fn scratch() -> File {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("tank-erofs-{}-{count}", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(&path);
    std::fs::remove_file(&path).expect("removes");
    file.expect("a file")
}

/// One thing in a directory.
#[derive(Clone, Debug)]
enum Thing {
    File(Vec<(u64, Vec<u8>)>, u64),
    Link(Vec<u8>),
    Fifo,
    Directory(BTreeMap<Vec<u8>, (Attributes, Thing)>),
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let xattr = (vec(1u8..=255, 1..40), vec(any::<u8>(), 0..200));
    let xattrs = vec(xattr, 0..4).prop_map(|xattrs| {
        let whole = |(name, value): (Vec<u8>, Vec<u8>)| ([&b"user."[..], &name].concat(), value);
        xattrs.into_iter().map(whole).collect()
    });
    let time = (any::<i64>(), 0u32..1_000_000_000);
    (0u16..0o10000, any::<u32>(), any::<u32>(), time, xattrs).prop_map(
        |(mode, uid, gid, (seconds, nanoseconds), xattrs)| Attributes {
            mode,
            uid,
            gid,
            modified: Time {
                seconds,
                nanoseconds,
            },
            xattrs,
        },
    )
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1u8..=255).prop_filter("no slash", |byte| *byte != b'/');
    vec(byte, 1..=tank_erofs::MAX_NAME).prop_filter("a name", |name| name != b"." && name != b"..")
}

/// Up to so many bytes, none of them zero: made of a few, since each that is chosen by itself takes time.
fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let of =
        |(length, first): (usize, u8)| (0..length).map(move |at| first.wrapping_add(at as u8) | 1);
    (1..most, any::<u8>()).prop_map(move |seed| of(seed).collect())
}

/// Sizes around the ends of blocks, and holes of every length.
fn content() -> impl Strategy<Value = Thing> {
    let size = prop_oneof![
        0u64..200,
        (0u64..40, 0u64..200)
            .prop_map(|(blocks, more)| { (blocks * BLOCK + more).saturating_sub(100) })
    ];
    let piece = (0u64..200_000, bytes(9_000));
    (size, vec(piece, 0..4)).prop_map(|(size, pieces)| {
        let mut end = 0;
        let mut placed = Vec::new();
        for (skip, bytes) in pieces {
            placed.push((end + skip, bytes.clone()));
            end += skip + bytes.len() as u64;
        }
        Thing::File(placed, end + size)
    })
}

fn directory() -> impl Strategy<Value = Thing> {
    let leaf = prop_oneof![
        6 => content(),
        2 => bytes(4_000).prop_map(Thing::Link),
        1 => Just(Thing::Fifo),
    ];
    let within = leaf.prop_recursive(3, 24, 8, |inner| {
        proptest::collection::btree_map(name(), (attributes(), inner), 0..8)
            .prop_map(Thing::Directory)
    });
    proptest::collection::btree_map(name(), (attributes(), within), 0..40)
        .prop_map(Thing::Directory)
}

fn write(
    writer: &mut Writer,
    tree: &mut Tree,
    at: DirId,
    entries: &BTreeMap<Vec<u8>, (Attributes, Thing)>,
) {
    for (name, (attributes, thing)) in entries {
        let (nid, kind) = match thing {
            Thing::Directory(below) => {
                let made = tree.make_dir(at, name, attributes.clone());
                write(writer, tree, made, below);
                continue;
            }
            Thing::File(pieces, size) => {
                let mut content = writer.content(*size, attributes).expect("begins");
                for (offset, bytes) in pieces {
                    let position = size - content.left();
                    content.hole(offset - position).expect("a hole");
                    content.write(bytes).expect("writes");
                }
                (
                    content.finish(Kind::File, attributes).expect("ends"),
                    Kind::File,
                )
            }
            Thing::Link(target) => (
                writer.symlink(target, attributes).expect("a link"),
                Kind::Symlink,
            ),
            Thing::Fifo => (
                writer.special(Kind::Fifo, attributes).expect("a pipe"),
                Kind::Fifo,
            ),
        };
        tree.insert(at, name, Entry::Inode(nid, kind));
    }
}

fn compare(image: &Image, at: Nid, entries: &BTreeMap<Vec<u8>, (Attributes, Thing)>) {
    let dir = image.inode(at).expect("a directory");
    let found = image.entries(&dir).expect("entries");
    let names: Vec<&Vec<u8>> = found.iter().map(|(name, ..)| name).collect();
    assert_eq!(names, entries.keys().collect::<Vec<_>>());
    for (name, nid, kind) in &found {
        assert_eq!(image.find(&dir, name).expect("finds"), Some(*nid));
        let inode = image.inode(*nid).expect("an inode");
        let (attributes, thing) = &entries[name];
        assert_eq!((&inode.attributes, inode.kind), (attributes, *kind));
        match thing {
            Thing::Directory(below) => compare(image, *nid, below),
            Thing::Fifo => assert_eq!(inode.size, 0),
            Thing::Link(target) => assert_eq!(&image.target(&inode).expect("reads"), target),
            Thing::File(pieces, size) => {
                assert_eq!(inode.size, *size);
                let mut expected = vec![0; *size as usize];
                for (offset, bytes) in pieces {
                    expected[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
                }
                let mut read = vec![1; *size as usize + 10];
                let mut end = 0;
                loop {
                    match image
                        .read_at(&inode, &mut read[end..], end as u64)
                        .expect("reads")
                    {
                        0 => break,
                        more => end += more,
                    }
                }
                assert!(read[..end] == expected, "{size} bytes of {name:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_image_is_read_as_it_was_written(root in attributes(), within in directory()) {
        let Thing::Directory(entries) = within else { unreachable!() };
        let mut writer = Writer::new(scratch());
        let mut tree = Tree::new(root.clone());
        write(&mut writer, &mut tree, DirId::ROOT, &entries);
        let image = Image::open(writer.finish(&tree).expect("an image")).expect("opens");
        prop_assert_eq!(image.inode(image.root()).expect("the root").attributes, root);
        compare(&image, image.root(), &entries);
    }

    /// Whatever the bytes are: no panic, no end that does not come.
    #[test]
    fn a_broken_image_is_an_error(within in directory(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        use std::os::unix::fs::FileExt;
        let Thing::Directory(entries) = within else { unreachable!() };
        let mut writer = Writer::new(scratch());
        let mut tree = Tree::default();
        write(&mut writer, &mut tree, DirId::ROOT, &entries);
        let file = writer.finish(&tree).expect("an image");
        let length = file.metadata().expect("a length").len() as usize;
        file.write_all_at(&[byte], at.index(length) as u64).expect("writes");
        let Ok(image) = Image::open(file) else { return Ok(()) };
        let mut left = vec![(image.root(), 0)];
        let mut visited = 0;
        while let Some((nid, depth)) = left.pop() {
            visited += 1;
            let Ok(inode) = image.inode(nid) else { continue };
            let mut buffer = [0; 100];
            let _ = image.read_at(&inode, &mut buffer, inode.size.saturating_sub(50));
            let _ = image.target(&inode);
            // A directory may be in itself by now.
            if depth < 6 && visited < 2_000 {
                let entries = image.entries(&inode).unwrap_or_default();
                left.extend(entries.into_iter().map(|(_, nid, _)| (nid, depth + 1)));
            }
        }
    }
}

#[test]
fn names_of_one_inode_are_counted() {
    let mut writer = Writer::new(scratch());
    let mut tree = Tree::default();
    let none = Attributes::default();
    let mut content = writer.content(3, &none).expect("begins");
    content
        .write(b"abcdef")
        .expect("what is too much is left out");
    let nid = content.finish(Kind::File, &none).expect("ends");
    for name in [&b"a"[..], b"b", b"c"] {
        if tree
            .insert(DirId::ROOT, name, Entry::Inode(nid, Kind::File))
            .is_none()
            && name != b"a"
        {
            writer.add_link(nid);
        }
    }
    writer.remove_link(nid);
    tree.remove(DirId::ROOT, b"b");
    let image = Image::open(writer.finish(&tree).expect("an image")).expect("opens");
    let root = image.inode(image.root()).expect("the root");
    assert_eq!(root.links, 2);
    let found = image
        .find(&root, b"c")
        .expect("finds")
        .expect("it is there");
    let inode = image.inode(found).expect("an inode");
    assert_eq!((inode.links, inode.size), (2, 3));
    assert_eq!(image.find(&root, b"b").expect("finds"), None);
}
