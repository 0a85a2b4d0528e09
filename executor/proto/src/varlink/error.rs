//! The interface's errors, and what a person may do about them.

use super::Problem;
use serde::{Deserialize, Serialize};

/// Every error of the interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
#[cfg_attr(test, derive(zlink::introspect::ReplyError))]
pub enum Error {
    /// No pod of that name is declared or there, or several stacks have one.
    #[error("{}", match several {
        Some(_) => format!("several stacks have a pod `{pod}`"),
        None => format!("no such pod: `{pod}`"),
    })]
    #[serde(rename = "io.tank.Executor.NoSuchPod")]
    NoSuchPod {
        /// The name that was asked for.
        pod: String,
        /// A pod with a similar name.
        nearest: Option<String>,
        /// The pods of several stacks that are called so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        several: Option<Vec<String>>,
    },
    /// No network of that name is declared.
    #[error("no such network: `{network}`")]
    #[serde(rename = "io.tank.Executor.NoSuchNetwork")]
    NoSuchNetwork {
        /// The name that was asked for.
        network: String,
        /// A network with a similar name.
        nearest: Option<String>,
    },
    /// No volume of that name is kept.
    #[error("no such volume: `{volume}`")]
    #[serde(rename = "io.tank.Executor.NoSuchVolume")]
    NoSuchVolume {
        /// The name that was asked for.
        volume: String,
        /// A volume with a similar name.
        nearest: Option<String>,
    },
    /// No image of that name or digest is here.
    #[error("no such image: `{image}`")]
    #[serde(rename = "io.tank.Executor.NoSuchImage")]
    NoSuchImage {
        /// The name or the digest that was asked for.
        image: String,
        /// An image with a similar name.
        nearest: Option<String>,
    },
    /// No pod of that stack is declared, or was.
    #[error("no such stack: `{stack}`")]
    #[serde(rename = "io.tank.Executor.NoSuchStack")]
    NoSuchStack {
        /// The name that was asked for.
        stack: String,
        /// A stack with a similar name.
        nearest: Option<String>,
    },
    /// The pod has no such container, or several and none was named.
    #[error("pod `{pod}` has {}", match container {
        Some(container) => format!("no container `{container}`"),
        None => "several containers".to_owned(),
    })]
    #[serde(rename = "io.tank.Executor.NoSuchContainer")]
    NoSuchContainer {
        /// The pod.
        pod: String,
        /// The name that was asked for; none if none was named.
        container: Option<String>,
        /// The containers that the pod has.
        known: Vec<String>,
    },
    /// The container does not run.
    #[error("not running: `{pod}/{container}`")]
    #[serde(rename = "io.tank.Executor.NotRunning")]
    NotRunning {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The container has no terminal to attach to.
    #[error("not a tty: `{pod}/{container}` has no terminal")]
    #[serde(rename = "io.tank.Executor.NotATty")]
    NotATty {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The program does not exist in the container.
    #[error("`{program}`: not found in the container")]
    #[serde(rename = "io.tank.Executor.NotFound")]
    NotFound {
        /// The first word of the command.
        program: String,
    },
    /// The program exists and can't be executed.
    #[error("`{program}`: can't be executed")]
    #[serde(rename = "io.tank.Executor.NotExecutable")]
    NotExecutable {
        /// The first word of the command.
        program: String,
    },
    /// There is no such generation.
    #[error("{}", no_such_generation(*number, *deleted == Some(true)))]
    #[serde(rename = "io.tank.Executor.NoSuchGeneration")]
    NoSuchGeneration {
        /// The one that was asked for; none if it was the current one or the one to go back to.
        number: Option<u64>,
        /// There was one, and it was deleted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deleted: Option<bool>,
    },
    /// The plan is not the one that was named: the host or the history has changed since.
    #[error(
        "what would be done is not that plan: the configuration or the host is another one by now"
    )]
    #[serde(rename = "io.tank.Executor.PlanChanged")]
    PlanChanged {
        /// The name that was given.
        expected: String,
        /// The name of the plan as it is now.
        actual: String,
    },
    /// Another change is under way.
    #[error("{message}")]
    #[serde(rename = "io.tank.Executor.Busy")]
    Busy {
        /// Which one, for people.
        message: String,
        /// The command that ends it, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ends: Option<String>,
    },
    /// Another change came first.
    #[error("{}generation {generation} ({by}) came first", match ended {
        Some(ended) => format!("generation {ended} was ended on its way: "),
        None => String::new(),
    })]
    #[serde(rename = "io.tank.Executor.Superseded")]
    Superseded {
        /// The generation that is current now.
        generation: u64,
        /// Who committed it, for people.
        by: String,
        /// The caller's own generation, where it was committed already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<u64>,
    },
    /// The pod came from another source.
    #[error("pod `{pod}` comes from {known}, and {asked} is another source")]
    #[serde(rename = "io.tank.Executor.OtherSource")]
    OtherSource {
        /// The pod.
        pod: String,
        /// The source it came from.
        known: String,
        /// The source that names it now.
        asked: String,
    },
    /// The configuration is refused, or what a call asks for.
    #[error("{}{}", match call {
        Some(true) => "",
        _ => "the configuration is not valid: ",
    }, problems.join("; "))]
    #[serde(rename = "io.tank.Executor.Invalid")]
    Invalid {
        /// Everything that is wrong with it, for people.
        problems: Vec<String>,
        /// The same as data, where it does not fit what the host has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        details: Option<Vec<Problem>>,
        /// It is about what is asked for, and no configuration.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<bool>,
    },
    /// What would be removed is used by pods that stay.
    #[error("what others use can't be removed: {}", uses.join("; "))]
    #[serde(rename = "io.tank.Executor.InUse")]
    InUse {
        /// Who uses what, for people.
        uses: Vec<String>,
        /// What to do about it.
        help: String,
    },
    /// An image can't be had.
    #[error("can't get the image `{image}`{}: {why}", used_by(containers.as_deref()))]
    #[serde(rename = "io.tank.Executor.ImageUnavailable")]
    ImageUnavailable {
        /// Its reference.
        image: String,
        /// The containers that use it, `pod/container`; absent where it is asked for itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        containers: Option<Vec<String>>,
        /// Why not, for people.
        why: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// Anything else.
    #[error("can't {what}: {why}")]
    #[serde(rename = "io.tank.Executor.Failed")]
    Failed {
        /// What was attempted.
        what: String,
        /// Why it failed.
        why: String,
        /// What to do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        help: Option<String>,
    },
}

impl Error {
    /// [`Error::Failed`], about which nothing can be done that is known.
    pub fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Failed {
            what: what.into(),
            why: why.into(),
            help: None,
        }
    }

    /// The same error, with something to do about it beside what it says by itself, where it says that.
    #[must_use]
    pub fn with_help(mut self, more: String) -> Self {
        if let Self::ImageUnavailable { help, .. } | Self::Failed { help, .. } = &mut self {
            *help = Some(match help.take() {
                // A question is a sentence of its own.
                Some(help) if help.ends_with('?') => format!("{help} {more}"),
                Some(help) => format!("{help}; {more}"),
                None => more,
            });
        }
        self
    }

    /// [`Error::Invalid`] of a call.
    pub fn invalid(problems: Vec<String>) -> Self {
        Self::Invalid {
            problems,
            details: None,
            call: Some(true),
        }
    }

    /// [`Error::Invalid`] of a configuration, in words alone.
    pub fn of_configuration(problems: Vec<String>) -> Self {
        Self::Invalid {
            problems,
            details: None,
            call: None,
        }
    }

    /// What to do about it.
    // long: it has an arm for each kind
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoSuchPod {
                several: Some(several),
                ..
            } => Some(format!("name one: `{}`", several.join("`, `"))),
            Self::NoSuchPod {
                nearest: Some(nearest),
                ..
            }
            | Self::NoSuchNetwork {
                nearest: Some(nearest),
                ..
            }
            | Self::NoSuchVolume {
                nearest: Some(nearest),
                ..
            }
            | Self::NoSuchImage {
                nearest: Some(nearest),
                ..
            }
            | Self::NoSuchStack {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Self::NoSuchPod { nearest: None, .. } => {
                Some("`tank list` shows the pods there are".to_owned())
            }
            Self::NoSuchNetwork { nearest: None, .. } => {
                Some("`tank list networks` shows the networks there are".to_owned())
            }
            Self::NoSuchVolume { nearest: None, .. } => {
                Some("`tank volume list` shows the volumes there are".to_owned())
            }
            Self::NoSuchImage { nearest: None, .. } => {
                Some("`tank image list` shows the images there are".to_owned())
            }
            Self::NoSuchStack { nearest: None, .. } => Some(
                "`tank list` shows the pods there are, each with its stack before the `:`"
                    .to_owned(),
            ),
            Self::NoSuchContainer { pod, known, .. } => Some(format!(
                "name one: {}",
                known
                    .iter()
                    .map(|c| format!("`{pod}/{c}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            Self::NotRunning { pod, .. } => {
                Some(format!("`tank logs {pod}` shows what it said last"))
            }
            Self::NotATty { pod, container } => Some(format!(
                "set `tty = true` for it, or use `tank logs -f {pod}/{container}` to watch and `tank exec` to enter"
            )),
            Self::NoSuchGeneration { .. } => {
                Some("`tank generations list` shows those there are".to_owned())
            }
            Self::Superseded {
                generation,
                ended: Some(_),
                ..
            } => Some(format!(
                "the host is what generation {generation} declares; `tank diff` shows what is missing"
            )),
            Self::OtherSource { pod, .. } => Some(format!(
                "give one of the two another name, or replace `{pod}` with `--replace`"
            )),
            Self::Busy { ends, .. } => ends.as_ref().map(|ends| format!("`{ends}` ends it")),
            Self::Superseded { .. } => {
                Some("nothing was changed; look at `tank diff` and switch again".to_owned())
            }
            Self::PlanChanged { expected, .. } => Some(match is_hash(expected) {
                true => "look at `tank diff` again".to_owned(),
                false => format!(
                    "`{expected}` is no plan: `tank diff` prints its hash, `sha256:` and 64 digits"
                ),
            }),
            Self::ImageUnavailable { help, .. } | Self::Failed { help, .. } => help.clone(),
            Self::InUse { help, .. } => Some(help.clone()),
            _ => None,
        }
    }
}

fn no_such_generation(number: Option<u64>, deleted: bool) -> String {
    match number {
        Some(number) if deleted => format!("generation {number} was deleted"),
        Some(number) => format!("no such generation: {number}"),
        None => "no such generation".to_owned(),
    }
}

/// How many of the containers that use an image are named.
const USERS_NAMED: usize = 3;

/// Who uses an image, in words that follow it: ` of web/app and db/app`.
pub fn used_by(containers: Option<&[String]>) -> String {
    let containers = containers.unwrap_or_default();
    let named = containers.get(..USERS_NAMED).unwrap_or(containers);
    match (named, containers.len() - named.len()) {
        ([], _) => String::new(),
        (named, 0) => format!(" of {}", named.join(" and ")),
        (named, more) => format!(" of {} and {more} more", named.join(", ")),
    }
}

fn is_hash(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}
