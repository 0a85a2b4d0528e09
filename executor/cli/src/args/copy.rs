//! Files into and out of containers, and what takes the disk.

use clap::{Args as ClapArgs, Subcommand};
use std::ffi::OsString;

#[derive(Subcommand, Debug)]
pub enum Files {
    /// Copy files into or out of a running container. `FOLDER/.` is what is in a folder.
    Cp(Copy),
    /// Show what takes the disk, and what `gc` would free.
    #[command(visible_alias = "df")]
    DiskUsage,
}

#[derive(ClapArgs, Debug)]
pub struct Copy {
    /// `POD:/PATH`, `POD/CONTAINER:/PATH`, a path of this host, or `-`: a tar archive from standard input.
    pub from: OsString,
    /// The same; `-`: as a tar archive to standard output. What is no folder yet becomes what is copied, and a folder gets it.
    pub to: OsString,
    /// Files keep the numbers of their users and groups. Else they belong to the caller, and in a container to its root.
    #[arg(short, long)]
    pub archive: bool,
    /// Copy what `from` leads to where it is a link, and not the link.
    #[arg(short = 'L', long, alias = "follow-links")]
    pub follow_link: bool,
    /// Say nothing of what was copied.
    #[arg(short, long)]
    pub quiet: bool,
}
