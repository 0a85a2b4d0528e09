//! The content of one file, as it comes.

use crate::{
    format::Kind,
    writer::{Attributes, Nid, Output, Writer},
};
use std::{fs::File, io};

/// The content of a file that is being written. One that is dropped unfinished leaves bytes that
/// nothing leads to.
#[derive(Debug)]
pub struct Content<'w, O = File> {
    writer: &'w mut Writer<O>,
    size: u64,
    /// The bytes that stand in blocks of their own; the others stand beside the inode.
    whole: u64,
    first: u64,
    position: u64,
    tail: Vec<u8>,
}

impl<'w, O: Output> Content<'w, O> {
    /// Of a file of `size` bytes, of which `whole` go into blocks from block `first` on.
    pub(crate) fn new(writer: &'w mut Writer<O>, size: u64, whole: u64, first: u64) -> Self {
        Self {
            writer,
            size,
            whole,
            first,
            position: 0,
            tail: Vec::new(),
        }
    }

    /// How much of the content is still to come, in bytes.
    pub fn left(&self) -> u64 {
        self.size - self.position
    }

    /// Appends bytes; those that are more than the file's size are left out.
    ///
    /// # Errors
    /// What writing gives.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let most = usize::try_from(self.left()).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(most)];
        let in_blocks = usize::try_from(self.whole.saturating_sub(self.position));
        let in_blocks = in_blocks.unwrap_or(usize::MAX).min(bytes.len());
        let (blocks, tail) = bytes.split_at(in_blocks);
        if !blocks.is_empty() {
            self.writer.append(blocks)?;
        }
        self.tail.extend_from_slice(tail);
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Appends zeros, as a hole where they are many.
    ///
    /// # Errors
    /// What writing gives.
    pub fn hole(&mut self, length: u64) -> io::Result<()> {
        let length = length.min(self.left());
        let in_blocks = self.whole.saturating_sub(self.position).min(length);
        self.writer.append_hole(in_blocks)?;
        // Less than a block.
        let tail = self.tail.len() + (length - in_blocks) as usize;
        self.tail.resize(tail, 0);
        self.position += length;
        Ok(())
    }

    /// Writes the inode. What is missing of the content is a hole.
    ///
    /// # Errors
    /// What writing gives.
    pub fn finish(mut self, kind: Kind, attributes: &Attributes) -> io::Result<Nid> {
        self.hole(self.left())?;
        self.writer.align()?;
        self.writer
            .inode(kind, attributes, self.size, self.first, &self.tail)
    }
}
