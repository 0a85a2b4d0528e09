//! An error for programs: what `--json` writes to standard error, one document on one line.

use super::Error;
use crate::output;
use serde_json::{Value, json};
use tank_compiler::CompileError;

impl Error {
    /// `error`: what kind it is, the name of a Varlink error (`io.tank.Executor.…`) where the daemon refused, else `tank.…`; `parameters`:
    /// what the daemon said beside that; `message`, `cause` and `help`: the texts that people get, or null; `status`: what the
    /// command ends with; `problems`: as `tank check --json` has them, of a configuration that does not compile.
    pub fn json(&self, status: u8) -> Value {
        let (name, parameters) = match self {
            Self::Refused(refusal) => named(refusal),
            other => (format!("tank.{}", other.kind()), Value::Null),
        };
        let problems = match self {
            Self::Compile(_) => problems(self),
            _ => Vec::new(),
        };
        json!({
            "error": name,
            "parameters": parameters,
            "message": self.to_string(),
            "cause": self.cause(),
            "help": self.help(),
            "status": status,
            "problems": problems,
        })
    }

    /// What kind of error of this program's it is. Programs compare it: these names stay.
    fn kind(&self) -> &'static str {
        match self {
            Self::Refused(_) => "Refused",
            Self::NotPermitted { .. } => "NotPermitted",
            Self::NoDaemon { .. } => "NoDaemon",
            Self::Unreachable { .. } | Self::Closed | Self::Connection(_) => "NoConnection",
            Self::Answer(_) | Self::AnswerJson(_) => "UnexpectedReply",
            Self::Compile(_) => "Compile",
            Self::Import(_) => "Import",
            Self::Failed { .. } | Self::Start(_) | Self::Print(_) | Self::Json(_) => "Failed",
            Self::Change { outcome, .. } if outcome.rolled_back => "RolledBack",
            Self::Change { .. } => "NotReached",
            Self::Interrupted { .. } | Self::GoesOn { .. } => "Interrupted",
            Self::NotDeclared { .. } => "NotDeclared",
            Self::NoSuchPod { .. } => "NoSuchPod",
            Self::LockDiffers { .. } => "LockDiffers",
            Self::Exists { .. } => "Exists",
            Self::Unknown { .. } => "Unknown",
            Self::PodGone => "PodGone",
            Self::RelativeDirectory(_)
            | Self::NotAStream { .. }
            | Self::NotATty
            | Self::NoStdlibFolder
            | Self::Environment { .. }
            | Self::NothingToOverride
            | Self::NoStacks { .. }
            | Self::NoPods { .. }
            | Self::NoStackName { .. }
            | Self::SameStack { .. } => "Usage",
        }
    }
}

/// The name and the parameters of a refusal, as they came over the socket.
fn named(refusal: &tank_proto::varlink::Error) -> (String, Value) {
    let mut value = serde_json::to_value(refusal).unwrap_or_default();
    let name = value.get("error").and_then(Value::as_str);
    let name = name.unwrap_or("io.tank.Executor.Failed").to_owned();
    let parameters = value.get_mut("parameters").map(Value::take);
    (name, parameters.unwrap_or_default())
}

/// A use of this program that it does not know: `message` is what is wrong, `help` what to type.
pub fn usage(message: &str, help: Option<&str>, status: u8) {
    print(&json!({
        "error": "tank.Usage",
        "parameters": null,
        "message": message,
        "cause": null,
        "help": help,
        "status": status,
        "problems": [],
    }));
}

/// Writes it to standard error.
pub fn print(error: &Value) {
    output::error(&format!("{}\n", output::json_text(error)));
}

/// What is wrong with a configuration: the same keys for every problem, null where there is nothing to say.
pub fn problems(error: &Error) -> Vec<Value> {
    let one = |code: Option<&str>| {
        vec![json!({
            "code": code,
            "field": null,
            "message": error.to_string(),
            "help": error.help(),
            "file": null,
            "line": null,
            "column": null,
        })]
    };
    let problems = match error {
        Error::Compile(CompileError::Problems(problems)) => problems,
        Error::Compile(CompileError::Limit { code, .. }) => return one(Some(code)),
        Error::Compile(CompileError::Read(..)) => return one(Some("tank::read")),
        Error::Compile(_) => return one(Some("tank::internal")),
        _ => return one(None),
    };
    let problem = |problem: &tank_compiler::Problem| {
        let location = problem
            .labels
            .first()
            .and_then(|label| problems.location(&label.place));
        json!({
            "code": problem.code,
            "field": tank_model::provenance::field(&problem.path),
            "message": problem.message,
            "help": problem.help,
            "file": location.map(|(file, _, _)| file),
            "line": location.map(|(_, line, _)| line),
            "column": location.map(|(_, _, column)| column),
        })
    };
    problems.list.iter().map(problem).collect()
}
