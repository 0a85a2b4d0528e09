//! Writing down what an archive has beside the content of files.

use super::{Archive, FormatError};
use crate::recipe::Recipe;
use std::io::{self, Read};
use tank_erofs::Nid;

/// The bytes that are passed over at once: a member's padding is less.
const PIECE: usize = 4096;

impl<R: Read> Archive<R> {
    /// Has all that is read from now on, and is not said to be [kept](Self::kept), written down.
    pub fn record(&mut self, recipe: Recipe) {
        self.recipe = Some(Box::new(recipe));
    }

    /// The content that was read of the present member is that of this inode, in these pieces.
    ///
    /// # Errors
    /// What writing gives, or the budget refuses.
    pub fn kept(&mut self, nid: Nid, pieces: &[(u64, u64)]) -> io::Result<()> {
        let Some(recipe) = &mut self.recipe else {
            return Ok(());
        };
        let mut pieces = pieces.iter();
        pieces.try_for_each(|(offset, length)| recipe.content(nid, *offset, *length))
    }

    /// How much of the present member's content was not read.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn unread(&self) -> u64 {
        self.content
    }

    /// Writes down what is left of the reader, and ends that.
    ///
    /// # Errors
    /// What reading or writing gives, or the budget refuses.
    pub fn end_recording(&mut self) -> io::Result<()> {
        let Some(mut recipe) = self.recipe.take() else {
            return Ok(());
        };
        recipe.bytes(self.buffer.get(self.begin..).unwrap_or_default())?;
        recipe.rest(&mut self.reader)?;
        recipe.finish()
    }

    /// Consumes what no file is made of.
    pub(super) fn pass_over(&mut self, count: usize) -> io::Result<()> {
        if let Some(recipe) = &mut self.recipe {
            let passed = self
                .buffer
                .get(self.begin..self.begin.saturating_add(count));
            recipe.bytes(passed.unwrap_or_default())?;
        }
        self.consume(count);
        Ok(())
    }

    /// Passes over so many bytes of the reader.
    pub(super) fn record_next(&mut self, mut left: u64) -> io::Result<()> {
        let mut piece = [0; PIECE];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = self.reader.read(&mut piece[..most])?;
            if read == 0 {
                return Err(FormatError::Cut.into());
            }
            if let Some(recipe) = &mut self.recipe {
                recipe.bytes(&piece[..read])?;
            }
            left -= read as u64;
        }
        Ok(())
    }
}
