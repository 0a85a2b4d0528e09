//! The daemon's side of the shims.

pub mod forkserver;
pub mod host;
pub mod logs;
mod pending;
pub mod shim;
