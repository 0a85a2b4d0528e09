//! Layers: from a compressed tar to one file with an EROFS image, of which overlay makes a root.
//!
//! A layer is hostile input, and nothing of it becomes a file of the host: no path is resolved by
//! the kernel, no owner is set, no device is made. The program `tank-layer` reads one descriptor and
//! writes another, as a user who owns nothing, in a root directory with nothing in it, without a
//! network, under Landlock and a filter of system calls. Whoever breaks it writes one file, which the
//! kernel mounts without devices, set-user-id and programs, and with the ids of a pod.
//!
//! ```text
//! compressed bytes ─▶ decode ─▶ Archive ─▶ Layer ─▶ tank_erofs::Writer ─▶ the image's file
//!                        │                                    └─▶ the file's own digest, for its record
//!                        └────▶ their digest, which has to be the configuration's
//! ```
//!
//! | module | what it has |
//! |---|---|
//! | `convert` | [`convert()`]: from the one descriptor to the other |
//! | `decode` | decompressing and hashing, on threads of their own |
//! | `archive` | the tar, member by member |
//! | `layer`, `links` | what a member does to the layer; `below`: the layers under it |
//! | `budget` | what one image may take of this host |
//! | `recipe`, `rebuild` | what else it takes to write the tar again, and writing it |
//! | `sums` | digests of the files, taken while they are written |
//! | `wire` | what `tankd` and `tank-layer` say to each other |
//! | `confine` | what the program gives up |
//!
//! Memory is taken by names, of which there are a million at most, and by nothing of the content.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod archive;
mod below;
pub mod budget;
pub mod confine;
mod convert;
mod decode;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod layer;
mod links;
pub mod names;
pub mod rebuild;
pub mod recipe;
pub mod sums;
pub mod wire;

pub use convert::{Converted, convert};
pub use decode::Pipeline;
pub use error::{EntryError, LayerError};
