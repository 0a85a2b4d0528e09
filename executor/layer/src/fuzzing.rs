//! What a fuzzer feeds (feature `fuzzing`, see `fuzz/` of tank-image), without network or clock.

use crate::{archive::Archive, below::Below, budget::Budget, layer, rebuild, recipe::Recipe};
use std::{
    fs::File,
    io::{Read, sink},
    path::Path,
};

/// The most content that is read of one member: more of the same finds nothing new.
const MAX_CONTENT: u64 = 1 << 20;

/// Reads bytes as the uncompressed archive of a layer: every member with its content, every other
/// one's passed over.
pub fn archive(bytes: &[u8]) {
    let mut archive = Archive::new(bytes);
    let mut count = 0u64;
    while let Ok(Some(member)) = archive.advance() {
        if let Ok(path) = layer::clean(&member.path) {
            assert!(path.is_relative());
        }
        count += 1;
        if count.is_multiple_of(2)
            && std::io::copy(&mut (&mut archive).take(MAX_CONTENT), &mut sink()).is_err()
        {
            return;
        }
    }
}

/// Converts bytes as the uncompressed archive of a layer into `output`, for as long as that goes, reads
/// what it has become, and writes the archive again of that and the `recipe`. Whether it was an archive
/// to its end: then it is the same again.
pub fn convert(bytes: &[u8], output: File, recipe: File) -> bool {
    let budget = Budget::new(Path::new("/"));
    let (Ok(written), Ok(written_recipe)) = (output.try_clone(), recipe.try_clone()) else {
        return false;
    };
    let mut converted = layer::Layer::new(output, Below::new(None), &budget);
    let mut archive = Archive::new(bytes);
    archive.record(Recipe::new(recipe, &budget).expect("a recipe"));
    let mut is_whole = true;
    loop {
        let member = match archive.advance() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(_) => {
                is_whole = false;
                break;
            }
        };
        // A hole of a terabyte is none of the fuzzer's disk.
        if member.size > MAX_CONTENT {
            continue;
        }
        let Ok(path) = layer::clean(&member.path) else {
            continue;
        };
        // What was read of its content before is not written down; a layer ends there.
        let unread = archive.unread();
        is_whole &=
            converted.add(&path, &member, &mut archive).is_ok() || archive.unread() == unread;
    }
    if converted.finish().is_err() {
        return false;
    }
    let ended = archive.end_recording();
    let image = tank_erofs::Image::open(written).expect("what was written is an image");
    let mut left = vec![image.root()];
    while let Some(nid) = left.pop() {
        let inode = image.inode(nid).expect("an inode that has a name");
        if inode.kind == tank_erofs::Kind::Directory {
            let entries = image.entries(&inode).expect("a directory that has a name");
            left.extend(entries.into_iter().map(|(_, nid, _)| nid));
        }
    }
    if !is_whole {
        return false;
    }
    ended.expect("a recipe that ends");
    let length = rebuild::length(&written_recipe).expect("a recipe");
    assert_eq!(length, bytes.len() as u64);
    let mut again = Vec::new();
    let rebuilt = rebuild::rebuild(&written_recipe, &image, &mut again, &budget);
    rebuilt.expect("an archive");
    assert!(again == bytes, "the archive is another one");
    true
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const BLOCK: usize = 512;

    /// A file without a name.
    pub(crate) fn file() -> File {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tank-layer-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        std::fs::remove_file(&path).expect("removes");
        file.expect("a file")
    }

    /// An entry of an archive.
    fn entry((kind, name, to, size): (u8, String, String, usize)) -> Vec<u8> {
        let content = if kind == b'0' { size } else { 0 };
        let mut block = vec![0; BLOCK];
        let fields: [(usize, &[u8]); 8] = [
            (0, name.as_bytes()),
            (100, b"0000755"),
            (108, b"0000000"),
            (116, b"0000000"),
            (124, &format!("{content:011o}").into_bytes()),
            (136, b"00000000000"),
            (148, b"        "),
            (157, to.as_bytes()),
        ];
        for (at, field) in fields {
            block[at..at + field.len()].copy_from_slice(field);
        }
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar  \0");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block.extend(vec![b'x'; content]);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }

    fn path() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            6 => "[abc]",
            1 => Just("..".to_owned()),
            1 => Just(".".to_owned()),
            2 => "\\.wh\\.[abc]",
            1 => Just(".wh..wh..opq".to_owned()),
            1 => Just(String::new()),
        ];
        proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
    }

    proptest! {
        /// Few names, so that entries meet: files where directories were, links to and through each
        /// other, whiteouts of what comes before and after.
        #[test]
        fn whatever_the_entries_are_what_is_written_is_an_image(
            entries in proptest::collection::vec(
                (prop::sample::select(b"0123456S".to_vec()), path(), path(), 0usize..9_000).prop_map(entry),
                0..60,
            ),
            end in 0usize..5,
            behind in proptest::collection::vec(any::<u8>(), 0..600),
            broken in proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut bytes = entries.concat();
            bytes.resize(bytes.len() + end * BLOCK, 0);
            bytes.extend(behind);
            if let Some((at, byte)) = broken {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            convert(&bytes, file(), file());
        }
    }
}
