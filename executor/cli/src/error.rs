//! What an error says and which status it ends with: the message says what was attempted, the cause
//! why, the help what to do next.

use crate::output;
use miette::{GraphicalReportHandler, GraphicalTheme, ThemeCharacters, ThemeStyles};
use tank_compiler::{CompileError, Problems};
use tank_proto::varlink;

#[derive(Debug)]
pub struct Error {
    message: String,
    cause: Option<String>,
    help: Option<String>,
    /// Shown instead of the message, already drawn.
    drawn: Option<String>,
    /// Of `exec`: 126 or 127 where the command itself is at fault.
    exec_status: Option<u8>,
}

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            cause: None,
            help: None,
            drawn: None,
            exec_status: None,
        }
    }

    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn print(&self) {
        if let Some(drawn) = &self.drawn {
            return output::drawn_error(drawn);
        }
        let mut text = format!("Error: {}\n", self.message);
        if let Some(cause) = &self.cause {
            text = format!("{text}  caused by: {cause}\n");
        }
        if let Some(help) = &self.help {
            text = format!("{text}  help: {help}\n");
        }
        output::error(&text);
    }

    /// 1, or what container users expect of `exec`.
    pub fn status(&self, exec: bool) -> u8 {
        if exec {
            self.exec_status.unwrap_or(125)
        } else {
            1
        }
    }
}

impl From<varlink::Error> for Error {
    fn from(error: varlink::Error) -> Self {
        let exec_status = match &error {
            varlink::Error::NotFound { .. } => Some(127),
            varlink::Error::NotExecutable { .. } => Some(126),
            _ => None,
        };
        let help = error.help();
        let (message, cause) = match &error {
            varlink::Error::ImageUnavailable { image, why, .. } => {
                (format!("can't get the image `{image}`"), Some(why.clone()))
            }
            varlink::Error::Failed { what, why } => (format!("can't {what}"), Some(why.clone())),
            other => (other.to_string(), None),
        };
        Self {
            message,
            cause,
            help,
            drawn: None,
            exec_status,
        }
    }
}

impl From<CompileError> for Error {
    fn from(error: CompileError) -> Self {
        let message = error.to_string();
        match error {
            CompileError::Problems(problems) => Self {
                drawn: Some(draw(&problems, &message)),
                ..Self::new(message)
            },
            CompileError::Limit { help, .. } => Self::new(message).help(help),
            CompileError::Read(..) | CompileError::Internal(_) => Self::new(message),
        }
    }
}

/// The most problems that are drawn; who has more starts with these.
const MAX_DRAWN: usize = 100;

/// Every problem with its snippets.
fn draw(problems: &Problems, count: &str) -> String {
    let styles = if output::colours() {
        ThemeStyles::ansi()
    } else {
        ThemeStyles::none()
    };
    let theme = GraphicalTheme {
        characters: ThemeCharacters::unicode(),
        styles,
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_width(100);
    let mut text = String::new();
    let diagnostics = problems.diagnostics();
    for problem in diagnostics.iter().take(MAX_DRAWN) {
        if handler.render_report(&mut text, problem).is_err() {
            text.push_str(&problem.to_string());
        }
        text.push('\n');
    }
    let more = diagnostics.len().saturating_sub(MAX_DRAWN);
    let rest = if more > 0 {
        format!(", {more} of them not shown")
    } else {
        String::new()
    };
    format!("{text}{count}{rest}; what a code means: `tank doc --error CODE`\n")
}
