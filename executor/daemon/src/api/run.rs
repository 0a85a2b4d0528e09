//! Running a command in a container of its own beside those of a pod.

use super::{
    client::Client,
    exec::{self, target},
    refusal::{Refusal, of_shim},
    streams::while_connected,
};
use crate::{
    generations::{Error as Refused, run::Run},
    pods::runs::Streams,
};
use std::{os::fd::OwnedFd, sync::Arc};
use tank_model::Name;
use tank_proto::{
    shim::{FailureKind, WITH_BY_HAND},
    varlink::{Error, RunCall, RunReply},
};

impl Client {
    /// Runs it, and hands its control to the client.
    pub(super) async fn run_by_hand(
        &mut self,
        call: RunCall,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let floors = Arc::clone(&self.floors);
        let generations = &floors.generations;
        let (pod, container) = target(generations, &call.pod, call.container.as_deref())?;
        let terminal = call.rows.map(|rows| (rows, call.columns.unwrap_or(80)));
        let of = (call.argv.as_slice(), call.cwd.as_deref());
        let checked = exec::check_command(of, terminal.is_some(), &fds);
        checked.map_err(|problem| Error::invalid(vec![problem]))?;
        self.check_shim(&pod, &container).await?;
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
        let run = async { Ok(generations.run_by_hand(&asked, streams).await) };
        let started = while_connected(&self.stream, run).await?;
        let (wanted, fds) = started.map_err(|error| refused(error, program))?;
        let reply = RunReply {
            container: wanted.container.to_string(),
        };
        let pods = Arc::clone(&floors.pods);
        tokio::spawn(wanted.keep(pods));
        self.reply(&reply, false, fds).await
    }

    /// Refuses a pod that does not run, and one whose shim knows no runs by hand.
    async fn check_shim(&self, pod: &Name, container: &Name) -> Result<(), Refusal> {
        let failed = |why: String| Error::Failed {
            what: format!("run a command beside {pod}/{container}"),
            why,
        };
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
