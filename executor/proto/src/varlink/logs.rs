//! Reading logs: what the method takes, and what it answers.

use serde::{Deserialize, Serialize};

/// What [`super::Method::Logs`] takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct LogsCall {
    /// Pods, or containers as `web/app`; none for all that are declared.
    pub targets: Vec<String>,
    /// Those of this stack.
    pub stack: Option<String>,
    /// Lines from this time on, in milliseconds since the epoch.
    pub since: Option<u64>,
    /// Lines before this time.
    pub until: Option<u64>,
    /// How many lines of each container, of what is there already; none for all.
    pub tail: Option<u64>,
    /// A regular expression that finds something in each line.
    pub grep: Option<String>,
    /// The lines of the run before the last.
    pub previous: Option<bool>,
    /// Go on for as long as the caller listens.
    pub follow: Option<bool>,
}

/// One answer to [`super::Method::Logs`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct LogsReply {
    /// Whose logs they are; in the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<Vec<LogName>>,
    /// None in the last answer.
    pub lines: Vec<LogLine>,
}

/// A container that has a log, or may get one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct LogName {
    /// Its pod.
    pub pod: String,
    /// Its name.
    pub container: String,
}

/// A line that a container printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct LogLine {
    /// The container's pod.
    pub pod: String,
    /// Who printed it.
    pub container: String,
    /// When its end was read; RFC 3339 in UTC.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// It goes on in the next one of the same container and stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<bool>,
    /// It is not the container's: it says what is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<bool>,
    /// What was printed, without the line's end.
    pub line: String,
}
