//! Running a command in a container of its own: beside those of a pod, or of an image in a pod of its own.

use super::{
    client::Client,
    exec::{self, declared_target},
    refusal::{Refusal, of_shim},
    streams::while_connected,
    views,
};
use crate::{
    generations::{
        Error as Refused, MAX_PROGRESS, ProgressSender,
        run::{ImageToRun, Run},
    },
    pods::runs::{Streams, Wanted},
};
use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};
use tank_model::{Name, spec::Pull};
use tank_proto::{
    shim::{FailureKind, WITH_BY_HAND},
    varlink::{Error, PullPolicy, RunCall, RunReply},
};
use tokio::sync::mpsc;

impl Client {
    /// Runs it, and hands its control to the client.
    pub(super) async fn run_by_hand(
        &mut self,
        mut call: RunCall,
        fds: Vec<OwnedFd>,
        more: bool,
    ) -> Result<(), Refusal> {
        let floors = Arc::clone(&self.floors);
        let generations = &floors.generations;
        let image = self.image_of(&mut call)?;
        let terminal = call.rows.map(|rows| (rows, call.columns.unwrap_or(80)));
        let of = (call.argv.as_slice(), call.cwd.as_deref());
        let checked = exec::check_command(of, terminal.is_some(), &fds);
        checked.map_err(|problem| Error::invalid(vec![problem]))?;
        let (pod, container) = match &image {
            Some(_) => {
                let name = generations.name_of_run(self.uid)?;
                (name.clone(), name)
            }
            None => {
                let (pod, container) =
                    declared_target(generations, &call.pod, call.container.as_deref())?;
                self.check_shim(&pod, &container).await?;
                (pod, container)
            }
        };
        let program = call.argv.first().cloned().unwrap_or_default();
        let asked = Run {
            pod,
            container,
            argv: call.argv,
            entrypoint: call.entrypoint,
            env: call.env.into_iter().collect(),
            cwd: call.cwd,
            user: call.user,
            tty: terminal.is_some(),
            uid: self.uid,
        };
        let streams = Streams {
            // One with a terminal has no others.
            fds: match terminal {
                Some(_) => Vec::new(),
                None => fds,
            },
            size: terminal.unwrap_or_default(),
        };
        let started = self.start_run((image, asked, streams), more).await?;
        let (wanted, fds) = started.map_err(|error| refused(error, program))?;
        let reply = RunReply {
            progress: None,
            container: Some(wanted.container.to_string()),
        };
        tokio::spawn(Arc::clone(generations).keep_run(wanted));
        self.reply(&reply, false, fds).await
    }

    /// Starts it, and sends what is done for it where `more` is called for. When the client leaves, that ends.
    async fn start_run(
        &mut self,
        (image, asked, streams): (Option<ImageToRun>, Run, Streams),
        more: bool,
    ) -> Result<Result<(Wanted, Vec<OwnedFd>), Refused>, Refusal> {
        let generations = Arc::clone(&self.floors.generations);
        let (sender, mut progress) = mpsc::channel(MAX_PROGRESS);
        let sender: ProgressSender = sender;
        let work = async {
            match image {
                Some(image) => generations.run_image(image, &asked, streams, &sender).await,
                None => generations.run_by_hand(&asked, streams).await,
            }
        };
        let mut work = std::pin::pin!(work);
        loop {
            let next = async {
                tokio::select! {
                    biased;
                    Some(progress) = progress.recv() => Ok(Err(progress)),
                    done = &mut work => Ok(Ok(done)),
                }
            };
            match while_connected(&self.stream, next).await? {
                Ok(done) => return Ok(done),
                Err(progress) if more => {
                    let reply = RunReply {
                        progress: Some(views::progress(progress)),
                        container: None,
                    };
                    self.reply(&reply, true, Vec::new()).await?;
                }
                Err(_) => {}
            }
        }
    }

    /// The image that is meant. None: it is a pod, of which there is one that is called so, or that alone is asked for.
    fn image_of(&self, call: &mut RunCall) -> Result<Option<ImageToRun>, Refusal> {
        let Some(image) = call.image.take() else {
            return Ok(None);
        };
        let generations = &self.floors.generations;
        let (_, graph) = generations.current()?;
        let nearest = match generations.declared(&graph, &call.pod) {
            Ok(_) => return Ok(None),
            Err(Refused::NoSuchPod { nearest, .. }) => nearest,
            Err(other) => return Err(other.into()),
        };
        if !image.contains([':', '/', '@']) {
            let nearest = nearest.map(|pod| format!(" (`{pod}` is near)"));
            let nearest = nearest.unwrap_or_default();
            let why = format!(
                "no pod is called so{nearest}, and an image is named with its tag, as `{image}:latest`"
            );
            return Err(Error::failed(format!("run a command of `{image}`"), why).into());
        }
        Ok(Some(ImageToRun {
            image,
            base_dir: call.base_dir.take().map(PathBuf::from),
            pull: match call.pull {
                Some(PullPolicy::Always) => Pull::Always,
                Some(PullPolicy::Missing) | None => Pull::Missing,
                Some(PullPolicy::Never) => Pull::Never,
            },
        }))
    }

    /// Refuses a pod that does not run, and one whose shim knows no runs by hand.
    async fn check_shim(&self, pod: &Name, container: &Name) -> Result<(), Refusal> {
        let failed =
            |why: String| Error::failed(format!("run a command beside {pod}/{container}"), why);
        let shim = self.floors.pods.get(pod);
        let shim = shim.ok_or_else(|| {
            failed(format!(
                "its pod does not run: `tank explain {pod}` says why"
            ))
        })?;
        let state = shim.state().await;
        let state = state.map_err(|e| of_shim(&e, pod.as_str(), container.as_str()))?;
        if state.version >= WITH_BY_HAND {
            return Ok(());
        }
        let why = format!(
            "the shim of pod `{pod}` is of a Tank before this: `tank delete {pod}` and another switch to it make it anew"
        );
        Err(failed(why).into())
    }
}

fn refused(error: Refused, program: String) -> Refusal {
    match error {
        Refused::NotRun {
            kind: FailureKind::NotFound,
            ..
        } => Error::NotFound { program }.into(),
        Refused::NotRun {
            kind: FailureKind::NotExecutable,
            ..
        } => Error::NotExecutable { program }.into(),
        other => other.into(),
    }
}
