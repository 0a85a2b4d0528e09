//! Why a pod is in the state it is in: what the daemon knows of it, handed to the pure
//! [`tank_plan::explain`]. Acts on nothing.

use super::{Error, Generations};
use std::{collections::BTreeMap, sync::Arc};
use tank_model::{Graph, Name, Outcome};
use tank_plan::{
    Observed,
    explain::{Reason, Subject, explain},
};

/// What is known of a pod, and why.
pub struct Explained {
    pub pod: Name,
    pub graph: Arc<Graph>,
    pub observed: Observed,
    pub reasons: Vec<Reason>,
}

impl Generations {
    /// Why a pod, or one container of it (`POD/CONTAINER`), is in the state it is in.
    ///
    /// # Errors
    /// When it is not declared, or something can't be read.
    pub async fn explain(&self, target: &str) -> Result<Explained, Error> {
        let (current, graph) = self.current()?;
        let (pod, container) = match target.split_once('/') {
            Some((pod, container)) => (pod, Some(container)),
            None => (target, None),
        };
        let pod = self.declared(&graph, pod)?;
        let container = container
            .map(|container| container_of(&graph, &pod, container))
            .transpose()?;
        // A shim that does not answer is one of the reasons.
        self.pods.check().await;
        let planned = self.reconciler.plan(&graph, Some(&graph)).await?;
        let found = planned.observed.pods.get(&pod);
        let runs = found.into_iter().flat_map(|found| &found.containers);
        let probes = runs.filter_map(|(name, run)| {
            let run = (pod.clone(), name.clone(), run.since);
            Some((name.clone(), self.prober.last_failure(&run)?))
        });
        let probes: BTreeMap<Name, String> = probes.collect();
        let stoppers = planned.report.stopped.iter().map(|one| one.uid);
        let users: BTreeMap<u32, String> = stoppers
            .map(|uid| (uid, tank_sys::users::named(uid)))
            .collect();
        let mut reasons = explain(&Subject {
            pod: &pod,
            graph: &graph,
            observed: &planned.observed,
            plan: &planned.plan,
            report: &planned.report,
            probes: &probes,
            ends: &self.events.last_ends(pod.as_str()),
            users: &users,
        });
        // What is about the whole pod is about each of its containers.
        reasons.retain(|reason| {
            container.is_none() || reason.container.is_none() || reason.container == container
        });
        reasons.extend(self.on_its_way(current)?);
        Ok(Explained {
            pod,
            graph,
            observed: planned.observed,
            reasons,
        })
    }

    /// A change that is on its way.
    fn on_its_way(&self, current: Option<u64>) -> Result<Option<Reason>, Error> {
        let Some(number) = current else {
            return Ok(None);
        };
        if self.store.outcome(number)? != Outcome::Pending {
            return Ok(None);
        }
        let generation = self.store.generation(number)?;
        Ok(generation.map(|generation| Reason {
            text: format!(
                "generation {number} ({}) is on its way: not everything that it declares is there yet",
                generation.source
            ),
            since: Some(generation.time),
            next: Some("tank events".to_owned()),
            ..Reason::default()
        }))
    }
}

/// A container that a pod declares, or what runs before those.
fn container_of(graph: &Graph, pod: &Name, container: &str) -> Result<Name, Error> {
    let inits = graph.init(pod).map(|(name, ..)| name);
    let all = inits.chain(graph.containers(pod).map(|(name, ..)| name));
    let all: Vec<&Name> = all.collect();
    let found = all.iter().find(|name| name.as_str() == container);
    found
        .map(|name| (*name).clone())
        .ok_or_else(|| Error::NoSuchContainer {
            pod: pod.clone(),
            container: Some(container.to_owned()),
            known: all.iter().map(ToString::to_string).collect(),
        })
}
