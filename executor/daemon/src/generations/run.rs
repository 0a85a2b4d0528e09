//! Running a command in a container of its own beside those of a pod, by hand and without a generation.
//!
//! *Flow*: the container is worked out of the pod as it is declared now, checked as a switch checks it, and
//! added to what is run by hand ([`crate::pods::runs`]); the next pass starts it. *Guarantees*: it is in no
//! generation, and whoever is not there any more when it has started has it ended.

mod image;
mod named;

pub use image::ImageToRun;
pub use named::NamedRun;

use super::{Error, Generations, request};
use crate::{
    events::{Kind, Subject, now},
    pods::runs::{Alone, NotStarted, Streams, Wanted},
};
use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc, time::Duration};
use tank_model::{Graph, Name, Scope, spec::Container};
use tank_plan::RunByHand;
use tank_proto::shim::FailureKind;
use tokio::time::timeout;

/// How long a start may take, what its pod waits for among it.
const LIMIT: u64 = 60;
const START_LIMIT: Duration = Duration::from_secs(LIMIT);

/// What is to be run.
#[derive(Debug)]
pub struct Run {
    pub pod: Name,
    /// Whose image, environment, files and volumes it has.
    pub container: Name,
    pub argv: Vec<String>,
    /// None: the image's, where the container declares no `command`.
    pub entrypoint: Option<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub tty: bool,
    pub uid: u32,
}

impl Generations {
    /// Starts it; gives what the client controls it by.
    ///
    /// # Errors
    /// When it is not started: what it would be does not fit, there are too many, or its pod waits.
    pub async fn run_by_hand(
        self: &Arc<Self>,
        asked: &Run,
        streams: Streams,
    ) -> Result<(Wanted, Vec<OwnedFd>), Error> {
        let (pod, uid) = (&asked.pod, asked.uid);
        let (_, graph) = self.current()?;
        let runs = self.pods.runs();
        let name = runs.next_name(now());
        let name = name.ok_or_else(|| Error::NotByHand("it has no name".to_owned()))?;
        let with = with_run(&graph, asked, &name)?;
        let (hash, spec) = {
            let inputs = self.reconciler.read_inputs(&with).await?;
            let spec = inputs.target(&with, None).container(pod, &name);
            let hash = with.container(pod, &name).map(|(_, hash)| hash);
            let failed = |source| Error::Target {
                pod: pod.clone(),
                container: asked.container.clone(),
                source,
            };
            (hash.unwrap_or(with.root()), Box::new(spec.map_err(failed)?))
        };
        let run = RunByHand {
            uid,
            time: now(),
            hash,
            spec,
            started: false,
            own: None,
        };
        let who = tank_sys::users::named(uid);
        let message = format!("{who} runs a command of {} by hand", asked.container);
        let of = (pod.clone(), name);
        self.start_run(of, run, (streams, None), message).await
    }

    /// Has it started by a pass.
    async fn start_run(
        self: &Arc<Self>,
        (pod, name): (Name, Name),
        run: RunByHand,
        with: (Streams, Option<Alone>),
        message: String,
    ) -> Result<(Wanted, Vec<OwnedFd>), Error> {
        let (uid, is_alone) = (run.uid, run.own.is_some());
        let runs = self.pods.runs();
        let added = runs.add((pod.clone(), name), run, with, &self.dirty);
        let (wanted, started) = added.map_err(|error| Error::NotByHand(error.to_string()))?;
        let of = Subject {
            pod: Some(pod.to_string()),
            container: Some(wanted.container.to_string()),
            uid: Some(uid),
            ..Subject::default()
        };
        self.events.add_of(Kind::ByHand, of, message);
        // The loop has a pass of its own, unless it repairs nothing.
        let generations = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = generations.pass_to_current().await {
                tracing::debug!(error = tank_sys::with_causes(&error), "a pass for a run");
            }
        });
        match timeout(START_LIMIT, started).await {
            Ok(Ok(Ok(fds))) => Ok((wanted, fds)),
            Ok(Ok(Err(NotStarted { kind, why }))) => Err(Error::NotRun { kind, why }),
            _ => Err(Error::NotRun {
                kind: FailureKind::Other,
                why: match is_alone {
                    true => format!("it was not started in {LIMIT} s: `tank events` says why"),
                    false => format!(
                        "it was not started in {LIMIT} s: `tank explain {pod}` says what the pod waits for"
                    ),
                },
            }),
        }
    }
}

impl Generations {
    /// Keeps a run for as long as its container runs, and what its own pod has until that is gone.
    pub async fn keep_run(self: Arc<Self>, wanted: Wanted) {
        let alone = wanted.keep(&self.pods).await;
        // The loop takes away what is over, unless it repairs nothing.
        if self.settings.no_repair
            && let Err(error) = self.pass_to_current().await
        {
            tracing::debug!(error = tank_sys::with_causes(&error), "a pass after a run");
        }
        if let Some(alone) = alone {
            alone.until_gone(&self.pods).await;
        }
    }
}

/// The graph with the container that is to be run.
fn with_run(graph: &Graph, asked: &Run, name: &Name) -> Result<Graph, Error> {
    let before = graph.config();
    let mut config = before.clone();
    let missing = || Error::NoSuchContainer {
        pod: asked.pod.clone(),
        container: Some(asked.container.to_string()),
        known: Vec::new(),
    };
    let spec = config.pods.get_mut(&asked.pod).ok_or_else(missing)?;
    let container = spec.containers.get(&asked.container);
    let container = container.ok_or_else(missing)?.clone();
    spec.containers
        .insert(name.clone(), to_run(container, asked));
    let scope = Scope::Pods([asked.pod.clone()].into());
    request::refuse_added_problems((&[&before], &config), &scope, &[])?;
    let built = Graph::build(&config, |reference| graph.image(reference));
    built.map_err(|error| Error::NotByHand(error.to_string()))
}

/// A container as it is declared, with what is asked for in its place; nobody probes it or publishes it.
fn to_run(mut container: Container, asked: &Run) -> Container {
    let argv = asked.argv.clone();
    match &asked.entrypoint {
        Some(word) if word.is_empty() => {
            (container.command, container.args) = (Some(argv), None);
        }
        Some(word) => {
            (container.command, container.args) = (Some(vec![word.clone()]), Some(argv));
        }
        None if container.command.is_some() => {
            (container.command, container.args) = (Some(argv), None);
        }
        None => container.args = Some(argv),
    }
    container.env.extend(asked.env.clone());
    if let Some(cwd) = &asked.cwd {
        container.working_dir = Some(cwd.clone());
    }
    if let Some(user) = &asked.user {
        container.user = Some(user.clone());
    }
    container.tty = asked.tty;
    container.ports.clear();
    (container.readiness, container.liveness, container.startup) = (None, None, None);
    container
}
