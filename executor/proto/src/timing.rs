//! Where time went, measured by whoever spent it.

use serde::{Deserialize, Serialize};

/// Something that took its time. Both ends are microseconds of `CLOCK_MONOTONIC`, so those of
/// several processes of one host go together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Span {
    /// What took the time.
    pub name: String,
    /// When it began.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
}
