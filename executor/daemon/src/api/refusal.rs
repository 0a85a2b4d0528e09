//! What is sent back in place of a reply, and which error of the interface each error of this daemon
//! is. The only place that knows both.

use crate::{
    actuate::sources::SourceError,
    generations::{Error as Refused, Generations, Misfit},
    pods::{self, why},
    reconcile::Error as ReconcileError,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tank_plan::TargetError;
use tank_proto::{
    call::Wrong,
    shim::FailureKind,
    varlink::{self, Error},
};

/// What is sent back: an error of the interface, of `org.varlink.service`, or that the client has
/// gone.
pub enum Refusal {
    Error(Error),
    /// What a full disk may be behind: what to do about that is found out where it is sent.
    Full(Box<Refused>),
    Service(&'static str, Value),
    Gone,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Wrong> for Refusal {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Interface(name) => {
                Self::Service("InterfaceNotFound", json!({ "interface": name }))
            }
            Wrong::Method(name) => Self::Service("MethodNotFound", json!({ "method": name })),
            Wrong::Parameter(name) => {
                Self::Service("InvalidParameter", json!({ "parameter": name }))
            }
        }
    }
}

#[derive(Debug, Serialize)]
pub struct RawError {
    error: String,
    /// Left out where an error has none: clients tell `{}` from nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
}

impl RawError {
    /// None: the client has gone, or the error can't be written.
    pub fn new(refusal: Refusal) -> Option<Self> {
        let (error, parameters) = match refusal {
            Refusal::Gone => return None,
            Refusal::Service(name, parameters) => {
                (format!("org.varlink.service.{name}"), parameters)
            }
            Refusal::Full(error) => return Self::new(Refusal::Error(wire(*error))),
            Refusal::Error(error) => {
                let value = serde_json::to_value(&error).ok()?;
                (
                    value["error"].as_str()?.to_owned(),
                    value["parameters"].clone(),
                )
            }
        };
        let parameters = Some(parameters)
            .filter(|value| value.as_object().is_none_or(|fields| !fields.is_empty()));
        Some(Self { error, parameters })
    }
}

impl From<Refused> for Refusal {
    fn from(error: Refused) -> Self {
        match error.may_be_no_space() {
            true => Self::Full(Box::new(error)),
            false => Self::Error(wire(error)),
        }
    }
}

impl Refusal {
    /// The same, with what to do about a full disk where that is behind it.
    pub async fn explained(self, generations: &Arc<Generations>) -> Self {
        match self {
            Self::Full(error) => {
                let help = generations.help_where_full(&error).await;
                Self::Error(wire(error.helped(help)))
            }
            other => other,
        }
    }
}

impl From<ReconcileError> for Refusal {
    fn from(error: ReconcileError) -> Self {
        Refused::from(error).into()
    }
}

fn failed(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::failed(what, why)
}

/// An error of this daemon as one of the interface.
// long: one arm an error
fn wire(error: Refused) -> Error {
    match error {
        Refused::Reconcile(ReconcileError::Store(error)) => {
            failed("use the store", tank_sys::with_causes(&error))
        }
        Refused::Reconcile(ReconcileError::Observe(error)) => {
            failed(error.to_string(), why(&error))
        }
        Refused::Reconcile(ReconcileError::Inputs(error)) => {
            failed("read what is declared", error.to_string())
        }
        Refused::Invalid(problems) => Error::of_configuration(problems),
        Refused::Unaskable(problem) => Error::invalid(vec![problem]),
        Refused::Unfit(found) => {
            let detail = |misfit: Misfit| varlink::Problem {
                code: misfit.problem.code.to_owned(),
                field: misfit.problem.path,
                place: misfit.place,
                message: misfit.problem.message,
                help: misfit.problem.help,
                related: misfit.related,
            };
            Error::Invalid {
                details: Some(found.list.into_iter().map(detail).collect()),
                problems: found.words,
                call: None,
            }
        }
        Refused::InUse { uses, help } => Error::InUse { uses, help },
        Refused::NoSuchPod {
            pod,
            nearest,
            several,
        } => Error::NoSuchPod {
            pod,
            nearest,
            several: Some(several).filter(|several| !several.is_empty()),
        },
        Refused::NoSuchContainer {
            pod,
            container,
            known,
        } => Error::NoSuchContainer {
            pod: pod.to_string(),
            container,
            known,
        },
        Refused::NotByHand(why) => failed("do that by hand", why),
        Refused::OfRun { run, why } => failed(format!("use `{run}`"), why),
        Refused::NotRun { why, .. } => failed("run it", why),
        error @ Refused::Overtaken { .. } => failed("wait for it", error.to_string()),
        Refused::NoSuchNetwork { network, nearest } => Error::NoSuchNetwork { network, nearest },
        Refused::NoSuchVolume { volume, nearest } => Error::NoSuchVolume { volume, nearest },
        Refused::NoSuchImage { image, nearest } => Error::NoSuchImage { image, nearest },
        Refused::Load(error) => failed(
            "load images",
            match error.help_of_sent() {
                Some(help) => format!("{}; {help}", error.message()),
                None => error.message(),
            },
        ),
        error @ Refused::TooManyTransfers => Error::Busy {
            message: format!("{error}: try again when some of them are over"),
            ends: None,
        },
        Refused::NoSuchStack { stack, nearest } => Error::NoSuchStack { stack, nearest },
        Refused::NoSuchGeneration(number) => Error::NoSuchGeneration {
            number,
            deleted: None,
        },
        Refused::DeletedGeneration(number) => Error::NoSuchGeneration {
            number: Some(number),
            deleted: Some(true),
        },
        error @ Refused::Undeletable(_) => failed("delete that", error.to_string()),
        Refused::Unreadable { generation, source } => failed(
            format!("find out what generation {generation} needs"),
            format!(
                "{}; nothing was collected: `tank fsck` names all that is damaged, and \
                 `tank generations delete {generation}` gives that one up",
                tank_sys::with_causes(&source)
            ),
        ),
        Refused::Sweep(error) => failed("collect images", error.message()),
        Refused::Collecting => Error::Busy {
            message:
                "another collection or check of the store is under way; try again when it is done"
                    .to_owned(),
            ends: None,
        },
        Refused::Image {
            image,
            users,
            source,
        } => Error::ImageUnavailable {
            image,
            containers: Some(users).filter(|users| !users.is_empty()),
            why: source.message(),
            help: source.help(),
        },
        Refused::Bundle(why) => failed("use the bundle", why),
        Refused::Carry(error) => failed(
            "carry the images",
            match error.help() {
                Some(help) => format!("{} ({help})", error.message()),
                None => error.message(),
            },
        ),
        Refused::Helped { of, help } => wire(*of).with_help(help),
        Refused::Reference { image, why } => Error::ImageUnavailable {
            image,
            containers: None,
            why,
            help: None,
        },
        Refused::Target {
            source: TargetError::RelativeWorkingDir { image, dir },
            pod,
            container,
        } => Error::ImageUnavailable {
            image: image.to_string(),
            containers: Some(vec![format!("{pod}/{container}")]),
            why: format!("its working directory `{dir}` is not absolute"),
            help: Some("set `working_dir` of its container to an absolute path".to_owned()),
        },
        Refused::Target {
            source: TargetError::Nul { image, field },
            pod,
            container,
        } => Error::ImageUnavailable {
            image: image.to_string(),
            containers: Some(vec![format!("{pod}/{container}")]),
            why: format!("its {field} has a NUL byte, at which the kernel would end the text"),
            help: None,
        },
        Refused::Target {
            pod,
            container,
            source,
        } => failed(format!("start {pod}/{container}"), source.to_string()),
        Refused::Source(error) => {
            let why = why(&error);
            let what = match error {
                SourceError::Volume { pod, volume, .. } => {
                    format!("use the volume `{volume}` of pod `{pod}`")
                }
                SourceError::Secret { pod, .. } => format!("use a secret of pod `{pod}`"),
            };
            failed(what, why)
        }
        Refused::OtherSource { pod, known, asked } => Error::OtherSource {
            pod,
            known: known.to_string(),
            asked: asked.to_string(),
        },
        Refused::PlanChanged { expected, actual } => Error::PlanChanged {
            expected,
            actual: actual.to_string(),
        },
        Refused::Busy(under_way) => {
            let what = match &under_way {
                Some(one) => format!("generation {} ({})", one.generation, one.source),
                None => "another change".to_owned(),
            };
            let ends = under_way.map(|one| match one.stack {
                Some(stack) => format!("tank generations rollback --stack {stack}"),
                None => "tank generations rollback".to_owned(),
            });
            Error::Busy {
                message: format!("{what} is under way; try again when it is done"),
                ends,
            }
        }
        Refused::Superseded {
            generation,
            by,
            ended,
        } => Error::Superseded {
            generation,
            by,
            ended,
        },
        Refused::Ended(generation) => Error::Superseded {
            generation,
            by: String::new(),
            ended: Some(generation),
        },
        Refused::NoSuccessor(ended) => failed(
            format!("go on with generation {ended}"),
            "a rollback ended the change and did not come to its own; tankd goes on",
        ),
        error @ Refused::CallerLeft => failed("change anything", error.to_string()),
        error @ Refused::PassUnderWay(_) => {
            failed("end the change that is on its way", error.to_string())
        }
        Refused::NothingGood(current) => failed(
            "go back",
            format!(
                "no generation before {current} was good and is another one; `tank generations \
                 list` shows them, and `tank generations rollback N` goes to any"
            ),
        ),
        Refused::NothingGoodOf { current, stack } => failed(
            format!("take the stack `{stack}` back"),
            format!(
                "no generation before {current} was good and has it otherwise; `tank generations list` \
                 shows them, and `tank generations rollback --stack {stack} N` goes to any"
            ),
        ),
        Refused::Backup { what, source } => failed(what, tank_sys::with_causes(source.as_ref())),
        Refused::Internal { what, source } => failed(what, tank_sys::with_causes(source.as_ref())),
    }
}

/// What a pod's shim did not do, in the words of the interface.
pub fn of_shim(error: &pods::Error, pod: &str, container: &str) -> Error {
    let (pod, container) = (pod.to_owned(), container.to_owned());
    match error.kind() {
        FailureKind::NotRunning => Error::NotRunning { pod, container },
        FailureKind::NotATty => Error::NotATty { pod, container },
        _ => failed(error.to_string(), why(error)),
    }
}

/// Something of this daemon's own failed.
pub fn internal(what: &str, error: impl std::fmt::Display) -> Error {
    failed(what, error.to_string())
}
