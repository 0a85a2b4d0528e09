//! What pods use, and what has happened to them.

use super::{
    client::Client,
    refusal::{Refusal, internal},
    views,
};
use crate::{
    events::{Event, Filter, Kind, now},
    generations::Generations,
    observe::PodUsage,
};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tank_proto::varlink::{self, ContainerUsage, Error, EventsCall, StatsReply, Traffic, Usage};
use tokio::{sync::broadcast::error::RecvError, time::sleep};

/// The most kinds and pods that a call names.
const MAX_WORDS: usize = 4_096;

impl Client {
    pub(super) async fn stats(
        &mut self,
        generations: &Arc<Generations>,
        pods: Option<Vec<String>>,
        stack: Option<String>,
    ) -> Result<(), Refusal> {
        let named = pods.unwrap_or_default();
        if named.len() > MAX_WORDS {
            let problem = format!("name at most {MAX_WORDS} pods");
            return Err(Error::invalid(vec![problem]).into());
        }
        let and_others = named.is_empty() && stack.is_none();
        let store = Arc::clone(generations);
        let choose = move || store.chosen(&named, stack.as_deref());
        let chosen = tokio::task::spawn_blocking(choose).await;
        let (pods, _) = chosen.map_err(|e| internal("look for the pods", e))??;
        let read = self.floors.reconciler.usage(pods, and_others).await?;
        let reply = StatsReply {
            time: read.time,
            pods: read.pods.into_iter().map(pod_usage).collect(),
        };
        self.reply(&reply, false, Vec::new()).await
    }

    pub(super) async fn events(
        &mut self,
        generations: &Generations,
        call: EventsCall,
        more: bool,
    ) -> Result<(), Refusal> {
        if !more {
            return Err(Refusal::Service("ExpectedMore", json!({})));
        }
        let mut filter = filter(&call)?;
        let (past, mut live) = self.floors.events.listen();
        resolve(generations, &mut filter, &past)?;
        for event in filter.select(past, call.tail) {
            self.event(event).await?;
        }
        if call.follow == Some(true) {
            let left = filter.until.map(|until| until.saturating_sub(now()));
            let over = async {
                match left {
                    Some(left) => sleep(Duration::from_millis(left)).await,
                    None => std::future::pending().await,
                }
            };
            let mut over = std::pin::pin!(over);
            loop {
                // The channel drops the oldest events for a client that reads too slowly. Only the
                // gap in their times shows it.
                let next = async {
                    tokio::select! {
                        next = live.recv() => Some(next),
                        () = &mut over => None,
                    }
                };
                match self.while_listening(next).await? {
                    Some(Ok(event)) if filter.admits(&event) => self.event(event).await?,
                    Some(Ok(_) | Err(RecvError::Lagged(_))) => {}
                    Some(Err(RecvError::Closed)) | None => break,
                }
            }
        }
        let event = varlink::Event {
            time: now(),
            kind: "end".to_owned(),
            pod: None,
            container: None,
            generation: None,
            uid: None,
            message: String::new(),
            count: None,
            since: None,
        };
        self.reply(&varlink::EventsReply { event }, false, Vec::new())
            .await
    }

    async fn event(&mut self, event: Event) -> Result<(), Refusal> {
        let event = views::event(event);
        self.reply(&varlink::EventsReply { event }, true, Vec::new())
            .await
    }
}

fn filter(call: &EventsCall) -> Result<Filter, Refusal> {
    let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let (pods, kinds) = (words(&call.pods), words(&call.kinds));
    let mut problems = Vec::new();
    if pods.len().max(kinds.len()) > MAX_WORDS {
        problems.push(format!("name at most {MAX_WORDS} pods and kinds"));
    }
    let mut known = BTreeSet::new();
    for kind in kinds.iter().take(MAX_WORDS) {
        match kind.parse::<Kind>() {
            Ok(kind) => drop(known.insert(kind)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if let (Some(since), Some(until)) = (call.since, call.until)
        && since > until
    {
        problems.push("nothing is after `since` and before `until`".to_owned());
    }
    if !problems.is_empty() {
        return Err(Error::invalid(problems).into());
    }
    Ok(Filter {
        pods: pods.into_iter().collect(),
        kinds: known,
        stack: call.stack.clone(),
        since: call.since,
        until: call.until,
    })
}

/// Puts whole names in the place of those without their stack. A pod, or a stack, that is neither declared nor in any event is a word that
/// was mistyped.
fn resolve(generations: &Generations, filter: &mut Filter, past: &[Event]) -> Result<(), Refusal> {
    let stack = filter.stack.as_deref();
    let is_of = |event: &Event| {
        let of = event.of.pod.as_deref().and_then(|pod| pod.split_once(':'));
        of.map(|(stack, _)| stack) == stack
    };
    if let Some(stack) = stack.filter(|_| !past.iter().any(is_of)) {
        generations.known_stack(stack)?;
    }
    if filter.pods.is_empty() {
        return Ok(());
    }
    let (_, graph) = generations.current()?;
    let mut pods = BTreeSet::new();
    for pod in &filter.pods {
        let is_it = |event: &Event| event.of.pod.as_deref() == Some(pod);
        let has_events = past.iter().any(is_it);
        match generations.declared_in(&graph, stack, pod) {
            Ok(name) => drop(pods.insert(name.to_string())),
            Err(error) if !has_events => return Err(error.into()),
            Err(_) => {}
        }
        if has_events {
            pods.insert(pod.clone());
        }
    }
    filter.pods = pods;
    Ok(())
}

fn pod_usage(pod: PodUsage) -> varlink::PodUsage {
    varlink::PodUsage {
        pod: pod.pod.to_string(),
        usage: pod.usage.map(usage),
        traffic: pod.traffic.map(|traffic| Traffic {
            received: traffic.received,
            sent: traffic.sent,
        }),
        containers: pod
            .containers
            .into_iter()
            .map(|(name, used)| ContainerUsage {
                name: name.to_string(),
                usage: usage(used),
            })
            .collect(),
    }
}

fn usage(usage: tank_sys::cgroup::Usage) -> Usage {
    Usage {
        cpu: usage.cpu,
        memory: usage.memory,
        inactive: usage.inactive,
        memory_limit: usage.memory_limit,
        memory_pressure: usage.memory_pressure,
        oom_kills: usage.oom_kills,
        read: usage.read,
        written: usage.written,
        pids: usage.pids,
        pids_limit: usage.pids_limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever filters by kinds finds them in the interface.
    #[test]
    fn the_interface_names_every_kind_of_event() {
        let file = varlink::DESCRIPTION;
        let (about, _) = file.split_once("\ntype Event (").expect("the type");
        let (_, about) = about.rsplit_once("\n\n").expect("what is before it");
        let words = about.replace("\n#", "");
        let is_missing = |kind: &&Kind| !words.contains(&format!("`{kind}`"));
        let missing: Vec<&Kind> = Kind::ALL.iter().filter(is_missing).collect();
        assert_eq!(missing, Vec::<&Kind>::new());
    }

    #[test]
    fn a_filter_is_refused_with_all_that_is_wrong_in_it() {
        let call = EventsCall {
            kinds: Some(vec!["failed".to_owned(), "failing".to_owned()]),
            since: Some(2),
            until: Some(1),
            ..EventsCall::default()
        };
        let problems = match filter(&call) {
            Err(Refusal::Error(error)) => format!("{error:?}"),
            Err(_) | Ok(_) => panic!("it is refused in words"),
        };
        assert!(problems.contains("did you mean `failed`?"), "{problems}");
        assert!(problems.contains("nothing is after `since`"), "{problems}");
    }
}
