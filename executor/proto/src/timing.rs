//! Where time went, by those who spent it.

use serde::{Deserialize, Serialize};

/// Something that took its time. Both ends are microseconds of `CLOCK_MONOTONIC`, so those of
/// several processes of one host go together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub name: String,
    pub begin: u64,
    pub end: u64,
}
