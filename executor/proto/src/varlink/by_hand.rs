//! What the methods take and answer that stop, start and restart by hand, and explain.

use super::{replies::Progress, words::Operation, words::State};
use serde::{Deserialize, Serialize};

/// What [`super::Method::Operate`] takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct OperateCall {
    /// What is done.
    pub operation: Operation,
    /// `POD` or `POD/CONTAINER` each.
    pub pods: Option<Vec<String>>,
    /// All pods of this stack.
    pub stack: Option<String>,
    /// Every pod.
    pub all: Option<bool>,
    /// Milliseconds between the signal to end and `SIGKILL`; none as declared.
    pub timeout: Option<u64>,
    /// Milliseconds that readiness is waited for; none as the host is set up to.
    pub wait: Option<u64>,
}

/// The answer to [`super::Method::Operate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct OperateReply {
    /// In every reply but the last.
    pub progress: Option<Progress>,
    /// In the last reply.
    pub operated: Option<Operated>,
}

/// What came of an operation by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Operated {
    /// The containers of which something was done, `POD/CONTAINER`.
    pub concerned: Vec<String>,
    /// Those that were what is asked for already.
    pub unchanged: Vec<String>,
    /// Runs by hand (`POD/CONTAINER`) that were ended, and are not started again. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Vec<String>>,
    /// Why it is not, or not yet, as asked for.
    pub failure: Option<String>,
}

/// The answer to [`super::Method::Explain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ExplainReply {
    /// The pod's name on the host.
    pub pod: String,
    /// What it does.
    pub state: State,
    /// Why it does; none where it does what is declared.
    pub reasons: Vec<Reason>,
}

/// Why a pod is in the state it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct Reason {
    /// The container that it is about; none: the pod.
    pub container: Option<String>,
    /// A sentence.
    pub text: String,
    /// Since when, in milliseconds since the epoch.
    pub since: Option<u64>,
    /// When it is tried again, in milliseconds since the epoch.
    pub until: Option<u64>,
    /// The command to type next.
    pub next: Option<String>,
}
