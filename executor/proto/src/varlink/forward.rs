//! What [`super::Method::Forward`] answers.

use serde::{Deserialize, Serialize};

/// The answer to [`super::Method::Forward`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ForwardReply {
    /// The pod's address and port that the connection is to. None: none was asked for.
    pub address: Option<String>,
}
