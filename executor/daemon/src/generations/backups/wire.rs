//! What the daemon and the process that reads folders and writes archives send each other: packets of JSON. Both are the same
//! program, so there is one version of it.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::PathBuf};
use tank_model::Name;

/// The first argument that makes a process one of these.
pub const ARGUMENT: &str = "__archiver";

/// The most bytes of an order, which comes in a sealed memory file.
pub const MAX_ORDER: u64 = 16 << 20;

/// The first packet to it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The folder, as it is declared.
    pub to: String,
    /// What containers may write.
    pub roots: BTreeSet<PathBuf>,
    pub state_dir: PathBuf,
    pub work: Work,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Says what there is of these volumes, one packet for each.
    List(Vec<(Name, Name)>),
    /// Writes an archive of a volume, a [`Next`] at a time.
    Write {
        of: (Name, Name),
        /// When that was begun, in milliseconds since the epoch.
        begun: u64,
        keep: u32,
        /// When the volume began anew, in milliseconds since the epoch, where that is known.
        began: Option<u64>,
    },
    /// Says whether archives of a volume can be made there.
    Look((Name, Name)),
    /// Says which there are of a volume, the newest first.
    Archives((Name, Name)),
    /// Sends the archive of a time into the pipe that comes with a [`Next`].
    Read { of: (Name, Name), time: u64 },
}

/// What a process that writes does next.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Makes the second of two directories share what the first has.
    Share,
    /// Writes the archive of a directory, all but its name.
    Write,
    /// Gives it its name, and removes those beyond what is kept.
    Keep,
    /// Sends an archive into a pipe.
    Read,
}

/// A packet from it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packet {
    /// Once a second while it works: another count says that it gets on.
    Progress {
        count: u64,
        /// It is the folder that is waited for.
        in_folder: bool,
    },
    /// The folder is open: its path without links, and the name that the archive will have.
    Opened {
        path: PathBuf,
        name: String,
    },
    /// What there is of the next volume.
    Listed(Listed),
    /// Whether the directory has all that the other one has.
    Shared(bool),
    Written,
    Kept(Kept),
    /// The folder, or the archive in it, can be used.
    Usable,
    Archived(Archived),
    /// There are no more.
    End,
    /// It ends.
    Failed {
        what: String,
        why: String,
    },
}

/// What a folder has of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub count: usize,
    /// The newest one's time: of those whose age is known, and of those that may be shown.
    pub dated: Option<u64>,
    pub newest: Option<u64>,
}

/// An archive that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// What its name says, in milliseconds since the epoch.
    pub time: u64,
    pub bytes: u64,
    pub path: PathBuf,
    /// It has nothing but the top.
    pub empty: bool,
}

/// An archive that is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    pub path: PathBuf,
    /// What its name says, in milliseconds since the epoch.
    pub time: u64,
    pub entries: u64,
    pub bytes: u64,
    /// How many there are now.
    pub count: usize,
    /// Old ones that could not be removed, each with why.
    pub left: Vec<String>,
    /// Nothing is in it, and older ones with something in them stay.
    pub stay: bool,
}
