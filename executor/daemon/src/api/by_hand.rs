//! Stopping, starting and restarting by hand, and what is shown of that: overrides are data beside the graph
//! and what is observed, so whoever shows pods adds them here.

use super::{
    client::Client,
    refusal::{Refusal, internal},
    states,
    streams::while_connected,
    views,
};
use crate::{
    events::now,
    generations::{
        Generations, MAX_PROGRESS,
        by_hand::{ByHand, MAX_TIMEOUT, MAX_WAIT, Which},
    },
};
use std::{sync::Arc, time::Duration};
use tank_model::{Graph, Name};
use tank_plan::{
    Overrides, Runs,
    explain::Reason,
    overrides::{Operation, Stopped},
};
use tank_proto::varlink::{self, Error, ExplainReply, OperateCall, OperateReply};
use tokio::sync::mpsc;

impl Client {
    /// Stops, starts or restarts, and sends the steps that are taken.
    pub(super) async fn operate(
        &mut self,
        generations: Arc<Generations>,
        call: OperateCall,
        more: bool,
    ) -> Result<(), Refusal> {
        let asked = to_asked(call, self.uid)?;
        let (sender, mut progress) = mpsc::channel(MAX_PROGRESS);
        let work = tokio::spawn(async move { generations.by_hand(&asked, &sender).await });
        while let Some(progress) =
            while_connected(&self.stream, async { Ok(progress.recv().await) }).await?
        {
            if more {
                let reply = OperateReply {
                    progress: Some(views::progress(progress)),
                    operated: None,
                };
                self.reply(&reply, true, Vec::new()).await?;
            }
        }
        let operated = work.await.map_err(|e| internal("do that by hand", e))??;
        let reply = OperateReply {
            progress: None,
            operated: Some(varlink::Operated {
                concerned: operated.concerned,
                unchanged: operated.unchanged,
                ended: Some(operated.ended).filter(|ended| !ended.is_empty()),
                failure: operated.failure,
            }),
        };
        self.reply(&reply, false, Vec::new()).await
    }

    /// Why a pod is in the state it is in.
    pub(super) async fn explain(
        &mut self,
        generations: &Generations,
        pod: &str,
    ) -> Result<(), Refusal> {
        let explained = generations.explain(pod).await?;
        let boot = explained.observed.now;
        let mut pods = vec![views::pod(
            &explained.pod,
            &explained.graph,
            &explained.observed,
        )];
        mark(&mut pods, &generations.overrides()?);
        let state = match explained.of_run {
            true => Some(varlink::State::Running),
            false => pods.first().map(|pod| pod.state),
        };
        let reasons = explained.reasons.into_iter();
        let reply = ExplainReply {
            pod: explained.pod.to_string(),
            state: state.unwrap_or(varlink::State::Undeclared),
            reasons: reasons.map(|reason| self::reason(reason, boot)).collect(),
        };
        self.reply(&reply, false, Vec::new()).await
    }
}

/// A reason, with its time by the clock of people.
fn reason(reason: Reason, boot: u64) -> varlink::Reason {
    let until = reason.until.map(|until| now() + until.saturating_sub(boot));
    varlink::Reason {
        container: reason.container.map(|name| name.to_string()),
        text: reason.text,
        since: reason.since,
        until,
        next: reason.next,
    }
}

fn to_asked(call: OperateCall, uid: u32) -> Result<ByHand, Error> {
    let named = call.pods.filter(|pods| !pods.is_empty());
    let which = match (named, call.stack, call.all == Some(true)) {
        (Some(pods), None, false) => Which::Named(pods),
        (None, Some(stack), false) => Which::Stack(stack),
        (None, None, true) => Which::All,
        _ => {
            let problem = "name pods, a stack, or all, and no two of them";
            return Err(Error::invalid(vec![problem.to_owned()]));
        }
    };
    let within = |name: &str, value: Option<u64>, most: Duration| match value {
        Some(value) if u128::from(value) > most.as_millis() => {
            let hours = most.as_secs() / 3_600;
            let problem = format!("`{name}` is {value} ms, and {hours} h is the most");
            Err(Error::invalid(vec![problem]))
        }
        value => Ok(value),
    };
    Ok(ByHand {
        operation: match call.operation {
            varlink::Operation::Stop => Operation::Stop,
            varlink::Operation::Start => Operation::Start,
            varlink::Operation::Restart => Operation::Restart,
        },
        which,
        timeout: within("timeout", call.timeout, MAX_TIMEOUT)?,
        wait: within("wait", call.wait, MAX_WAIT)?,
        uid,
    })
}

/// Adds to pods which of their containers are stopped by hand, and by whom.
pub fn mark(pods: &mut [varlink::Pod], overrides: &Overrides) {
    if overrides.is_empty() {
        return;
    }
    for pod in pods {
        let Ok(name) = Name::of_pod(pod.name.as_str()) else {
            continue;
        };
        for view in &mut pod.containers {
            let container = Name::new(view.name.as_str()).ok();
            let found = container.and_then(|container| {
                let found = overrides.stopped(&name, &container)?;
                Some((found.time, found.uid))
            });
            view.stopped = found.map(|(time, _)| time);
            view.stopped_by = found.map(|(_, uid)| uid);
        }
        states::mark_stopped(pod);
    }
}

/// Adds to pods which of their containers somebody runs by hand, and who.
pub fn mark_runs(pods: &mut [varlink::Pod], runs: &Runs) {
    for pod in pods {
        let Ok(name) = Name::of_pod(pod.name.as_str()) else {
            continue;
        };
        if runs.alone().any(|(own, ..)| *own == name) && pod.state == varlink::State::Undeclared {
            pod.state = varlink::State::Running;
        }
        for view in &mut pod.containers {
            let container = Name::new(view.name.as_str()).ok();
            let run = container.and_then(|container| runs.get(&name, &container));
            if let Some(run) = run {
                view.run_by = Some(run.uid);
                view.image = run.spec.image.name.to_string();
            }
        }
        states::mark_stopped(pod);
    }
}

/// The containers that are stopped by hand. None: there are none.
pub fn stopped(overrides: &Overrides, graph: &Graph) -> Option<Vec<String>> {
    let all = overrides.all_stopped(graph).into_iter();
    let all: Vec<String> = all
        .map(|one| format!("{}/{}", one.pod, one.container))
        .collect();
    Some(all).filter(|all| !all.is_empty())
}

/// What is stopped by hand, a sentence each. None: nothing is.
pub fn sentences(stopped: &[Stopped]) -> Option<Vec<String>> {
    let one = |one: &Stopped| {
        let (pod, container) = (&one.pod, &one.container);
        let who = tank_sys::users::named(one.uid);
        format!(
            "{pod}/{container}: {who} stopped it by hand; `tank start {pod}`, or the next change of it, starts it"
        )
    };
    let all: Vec<String> = stopped.iter().map(one).collect();
    Some(all).filter(|all| !all.is_empty())
}
