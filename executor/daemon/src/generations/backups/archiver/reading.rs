//! Archives that are there: which, and one of them into a pipe.

use super::{
    super::wire::{Archived, Packet},
    Doing, Folder,
};
use crate::generations::{Error, error::Context};
use std::io::{self, Write};

/// The bytes of an archive that are passed on at once.
const PIECE: usize = 256 << 10;

/// Says which archives of a volume there are.
pub(super) fn list(doing: &Doing, folder: &Folder) -> Result<(), Error> {
    let mut all = doing.in_folder(|| folder.archives())?;
    all.sort_by_key(|one| std::cmp::Reverse(one.time));
    let mut packets = Vec::new();
    for one in all {
        // Removed meanwhile.
        let Some(bytes) = doing.in_folder(|| folder.size(one.time)) else {
            continue;
        };
        packets.push(Packet::Archived(Archived {
            time: one.time,
            bytes,
            path: folder.path.join(folder.name(one.time)),
            empty: one.empty,
        }));
    }
    packets.push(Packet::End);
    let sent = packets.iter().try_for_each(|packet| doing.send(packet));
    sent.doing("answer the daemon")
}

/// Sends an archive into a pipe, as far as somebody reads it.
pub(super) fn read(doing: &Doing, mut file: std::fs::File) -> Result<(), Error> {
    let what = "read the backup";
    doing.send(&Packet::Usable).doing("answer the daemon")?;
    let (_, fds) = doing.next()?;
    let pipe = fds.into_iter().next().ok_or("no pipe came").doing(what)?;
    let mut pipe = std::fs::File::from(pipe);
    let mut piece = vec![0; PIECE];
    loop {
        let length = doing
            .in_folder(|| io::Read::read(&mut file, &mut piece))
            .doing(what)?;
        let piece = piece.get(..length).unwrap_or_default();
        match pipe.write_all(piece) {
            // Who reads it says why it reads no more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.doing(what)?,
        }
        doing.gets_on();
        if length == 0 {
            break;
        }
    }
    drop(pipe);
    doing.send(&Packet::Written).doing("answer the daemon")
}
