//! What a container may use and do: limits, capabilities, system calls.

use super::is_default;
use crate::units::{Bytes, MilliCpu};
use serde::{Deserialize, Serialize};

/// What a container may use at most. None: no limit, except for processes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: Option<Bytes>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pids: Option<u32>,
    /// The most CPU time, in thousandths of one CPU.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cpu: Option<MilliCpu>,
}

/// The pids limit of a container that declares none: a fork bomb stays in its pod.
pub const DEFAULT_PIDS: u32 = 4096;

/// What one process may use at most, as `setrlimit(2)` has it. None: unlimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// What is enforced; a process may raise it up to `hard`.
    pub soft: Amount,
    /// The ceiling of `soft`.
    pub hard: Amount,
}

/// A number, or no limit at all. Reads a number or `"unlimited"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum Amount {
    /// In the unit setrlimit(2) has for the resource.
    Of(u64),
    /// `RLIM_INFINITY`.
    Unlimited,
}

impl TryFrom<serde_json::Value> for Amount {
    type Error = String;
    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        match (&value, value.as_u64()) {
            (_, Some(number)) => Ok(Self::Of(number)),
            (serde_json::Value::String(text), _) if text == "unlimited" => Ok(Self::Unlimited),
            _ => Err(format!(
                "`{value}` is no amount, write a whole number or \"unlimited\""
            )),
        }
    }
}

impl From<Amount> for serde_json::Value {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Of(number) => number.into(),
            Amount::Unlimited => "unlimited".into(),
        }
    }
}

/// Capabilities on top of, or taken from, the default set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Names of capabilities(7) that are given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub add: Vec<String>,
    /// Names of capabilities(7) that are taken away; `ALL` means all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub drop: Vec<String>,
}

/// Which system calls a container may make: the default filter, with exceptions by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seccomp {
    /// What is allowed before the exceptions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub profile: SeccompProfile,
    /// Allowed although the profile denies them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow: Vec<String>,
    /// Denied with `EPERM` although the profile allows them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deny: Vec<String>,
}

/// The system calls that are allowed before the exceptions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompProfile {
    /// Those that container engines allow by default.
    #[default]
    Default,
    /// Every system call.
    Unconfined,
}
