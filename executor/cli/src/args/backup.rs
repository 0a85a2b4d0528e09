//! Backups of volumes.

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Backups {
    /// Make a backup now, into the folder and with the hooks that the volume declares.
    Backup {
        /// The volume, as `POD/VOLUME`.
        volume: String,
    },
    /// The backups that are declared: where they are, how old the newest is, and how the last one went. Of one volume also its
    /// archives, the newest first.
    #[command(name = "backups")]
    List {
        /// Only those of this volume, as `POD/VOLUME`.
        volume: Option<String>,
    },
    /// Make a volume of one of its backups. No container may have it mounted; what is in it now is kept beside it.
    Restore {
        /// The volume, as `POD/VOLUME`.
        volume: String,
        /// The backup's number (1 is the newest), its path or its file's name, as `tank volume backups VOLUME` lists them, or its
        /// time as in that name or in UTC: `20261127T153000Z`, `2026-11-27T15:30:00Z`. The newest unless given.
        #[arg(conflicts_with = "replaced")]
        backup: Option<String>,
        /// No backup: what the volume was before the last `import --replace` or `restore`. What it is now is kept in its place.
        #[arg(long)]
        replaced: bool,
    },
}
