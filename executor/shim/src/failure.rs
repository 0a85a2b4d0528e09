//! From errors to the words of the protocol.

use std::io;
use tank_proto::shim::{Failure, FailureKind};
use tank_sys::with_causes;

/// A kernel's refusal.
pub fn failure(error: &tank_sys::Error) -> Failure {
    let why = std::error::Error::source(error)
        .map(with_causes)
        .unwrap_or_default();
    Failure {
        what: error.what().to_owned(),
        why,
        kind: FailureKind::Other,
    }
}

/// That `what` failed.
pub fn other(what: &str, error: &io::Error) -> Failure {
    Failure {
        what: what.to_owned(),
        why: error.to_string(),
        kind: FailureKind::Other,
    }
}
