//! The arguments of what leaves this host and comes to it.

use clap::Args as ClapArgs;
use std::path::PathBuf;

#[derive(ClapArgs, Debug)]
pub struct Import {
    /// What `export` wrote; `-` is standard input.
    pub file: PathBuf,
    /// Refuse it unless this is its root hash, as `export` printed it, or its first 12 digits or more: those keep you from taking
    /// another file by mistake, the whole hash also from one that somebody made to have them.
    #[arg(long, value_name = "HASH")]
    pub root: Option<String>,
    /// Show what would be done. The images are kept until the next `gc`.
    #[arg(long)]
    pub dry_run: bool,
    /// Replace what this host runs from other sources: pods that are not in the file are removed.
    #[arg(long)]
    pub replace: bool,
    /// How long to wait for health: `30s`, `1m30s`, or a number of seconds.
    #[arg(long, value_parser = crate::when::duration)]
    pub timeout: Option<tank_model::units::Millis>,
    /// Leave a generation that does not become healthy as it is.
    #[arg(long)]
    pub no_rollback: bool,
}
