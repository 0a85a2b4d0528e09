//! Backups of volumes.

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Backups {
    /// Make a backup now, into the folder and with the hooks that the volume declares.
    Backup {
        /// The volume, as `POD/VOLUME`.
        volume: String,
    },
    /// The backups that are declared: where they are, how old the newest is, and how the last one went.
    Backups {
        /// Only those of this volume.
        volume: Option<String>,
    },
}
