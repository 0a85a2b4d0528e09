//! What an attacker tries: one test for each attack, named after it. Whoever adds a way in adds the
//! attack here.
//!
//! * [`container`]: out of a container, by descriptors, links, working directories, programs and
//!   streams.
//! * [`sources`]: through volumes, secrets and devices that come from the host, and settings that
//!   are the host's.
//! * [`images`]: by the bytes of a registry or an archive.
//! * [`volumes`]: through the volumes that Tank keeps. [`shared`]: through those of several pods.
//! * [`socket`]: by whoever talks to the daemon, and by what reaches an operator's terminal.
//! * [`shims`]: from one pod against its neighbours, through its shim, its probes or the loop.
//! * [`network`]: by packets of a neighbour, rules that somebody edits, and a second daemon.

#[path = "attacks/container.rs"]
mod container;
#[path = "attacks/images.rs"]
mod images;
#[path = "attacks/network.rs"]
mod network;
#[path = "attacks/shared.rs"]
mod shared;
#[path = "attacks/shims.rs"]
mod shims;
#[path = "attacks/socket.rs"]
mod socket;
#[path = "attacks/sources.rs"]
mod sources;
#[path = "attacks/volumes.rs"]
mod volumes;
