//! How a container is asked for its health, and how it is ended.

use super::is_default;
use crate::units::Millis;
use serde::{Deserialize, Serialize};

/// A question to a container. Exactly one of `http`, `tcp`, `exec`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Asked over HTTP.
    #[serde(default, skip_serializing_if = "is_default")]
    pub http: Option<HttpProbe>,
    /// Asked by connecting.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp: Option<TcpProbe>,
    /// A command that is run in the container and has to end with status 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exec: Option<Vec<String>>,
    /// Between the starts of two attempts; 1 s unless given.
    #[serde(default = "default_period", skip_serializing_if = "is_default_period")]
    pub period: Millis,
    /// How long an answer may take; 1 s unless given.
    #[serde(default = "default_period", skip_serializing_if = "is_default_period")]
    pub timeout: Millis,
    /// How many times in a row it has to fail before that counts.
    #[serde(
        default = "default_failures",
        skip_serializing_if = "is_default_failures"
    )]
    pub failures: u32,
    /// The time before it is asked first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub delay: Millis,
}

/// A `GET` whose answer is 200 to 399.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// Of the pod.
    pub port: u16,
    /// Of the request; `/` unless given.
    #[serde(default = "root_path", skip_serializing_if = "is_root_path")]
    pub path: String,
}

/// A connection that is accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    /// Of the pod.
    pub port: u16,
}

/// How a main process is asked to end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// By name; the image's `StopSignal`, or `SIGTERM`, unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signal: Option<String>,
    /// After this long it is killed; 10 s unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeout: Option<Millis>,
}

/// The time between asking a process to end and killing it, unless declared.
pub const DEFAULT_STOP_TIMEOUT: Millis = Millis(10_000);

fn default_period() -> Millis {
    Millis(1_000)
}

fn is_default_period(period: &Millis) -> bool {
    *period == default_period()
}

fn default_failures() -> u32 {
    3
}

fn is_default_failures(failures: &u32) -> bool {
    *failures == default_failures()
}

fn root_path() -> String {
    "/".to_owned()
}

fn is_root_path(path: &str) -> bool {
    path == "/"
}
