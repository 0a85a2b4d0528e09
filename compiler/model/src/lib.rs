//! The data Tank is about, and the pure functions over it.
//!
//! What lives here: names and digests ([`name`], [`digest`]), quantities with units ([`units`]),
//! image references ([`mod@reference`]), the typed configuration ([`spec`]), canonical bytes
//! ([`canonical`]), the checks that cross fields ([`check`]), the content-hashed graph ([`graph`]),
//! what differs between two graphs ([`diff`]), several sources on one host ([`stack`]) and the record
//! of a generation ([`generation`]).
//!
//! Nothing in this crate reads a file, a clock or the kernel, and nothing in it is `unsafe`. Both
//! ends of the socket link it: the compiler makes a [`spec::Config`], the daemon decodes, re-checks
//! and hashes it again before it trusts a byte of it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod canonical;
pub mod check;
pub mod diff;
pub mod digest;
pub mod generation;
pub mod graph;
pub mod host_files;
pub mod meant;
pub mod name;
pub mod platform;
pub mod provenance;
pub mod reference;
pub mod schema;
pub mod spec;
pub mod stack;
pub mod units;
pub mod unsupported;
pub mod volume;

pub use digest::Digest;
pub use generation::{Gate, Generation, Outcome, Rollback};
pub use graph::{Graph, Key, Node};
pub use name::{Name, NameError};
pub use platform::Platform;
pub use reference::Reference;
pub use spec::Config;
pub use stack::Scope;
pub use volume::VolumeId;
