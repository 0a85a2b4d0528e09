//! The number of an inode, for whoever keeps it beside the image.

use crate::Nid;

impl Nid {
    /// Its number: what [`Nid::of_number`] makes it of again.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The inode of this number, whether there is one or not: reading it says so.
    pub fn of_number(number: u64) -> Self {
        Self(number)
    }
}
