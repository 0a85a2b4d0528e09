//! What a second process is made from.

use super::User;
use crate::copy::Copy;
use serde::{Deserialize, Serialize};

/// Everything a second process in a container is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The container's name.
    pub container: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// On top of the main process's environment.
    pub env: Vec<(String, String)>,
    /// An absolute working directory; none: the main process's own.
    pub cwd: Option<String>,
    /// Rows and columns. None: no terminal.
    pub terminal: Option<(u16, u16)>,
    /// Who it is. None: as the main process. Another one has no capability, unless it is root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// The process, and whatever it started, ends when its control socket is closed; it counts
    /// apart from those that an operator runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill_on_close: bool,
    /// It copies files, and executes no program. Root, whoever the main process is. Its stream is standard input or output, and
    /// what it writes to standard error is a [`crate::copy::CopyEnd`]. It ends by itself when nobody has the other end any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Copy>,
}
