//! From errors to the words of the protocol.

use std::io;
use tank_proto::shim::{Failure, FailureKind};

/// An error and everything behind it on one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A kernel's refusal.
pub fn failure(error: &tank_sys::Error) -> Failure {
    let why = std::error::Error::source(error)
        .map(describe)
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
