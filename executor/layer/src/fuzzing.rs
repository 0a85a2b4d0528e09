//! What a fuzzer feeds (feature `fuzzing`, see `fuzz/` of tank-image), without network or clock.

use crate::{archive::Archive, below::Below, budget::Budget, layer};
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
    while let Ok(Some(member)) = archive.next() {
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

/// Converts bytes as the uncompressed archive of a layer into `output`, for as long as that goes, and
/// reads what it has become.
pub fn convert(bytes: &[u8], output: File) {
    let budget = Budget::new(Path::new("/"));
    let Ok(written) = output.try_clone() else {
        return;
    };
    let mut converted = layer::Layer::new(output, Below::new(None), &budget);
    let mut archive = Archive::new(bytes);
    while let Ok(Some(member)) = archive.next() {
        // A hole of a terabyte is none of the fuzzer's disk.
        if member.size > MAX_CONTENT {
            continue;
        }
        let Ok(path) = layer::clean(&member.path) else {
            continue;
        };
        let _ = converted.add(&path, &member, &mut archive);
    }
    if converted.finish().is_err() {
        return;
    }
    let image = tank_erofs::Image::open(written).expect("what was written is an image");
    let mut left = vec![image.root()];
    while let Some(nid) = left.pop() {
        let inode = image.inode(nid).expect("an inode that has a name");
        if inode.kind == tank_erofs::Kind::Directory {
            let entries = image.entries(&inode).expect("a directory that has a name");
            left.extend(entries.into_iter().map(|(_, nid, _)| nid));
        }
    }
}
