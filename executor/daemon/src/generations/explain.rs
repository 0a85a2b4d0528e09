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
    /// Why a pod is in the state it is in.
    ///
    /// # Errors
    /// When it is not declared, or something can't be read.
    pub async fn explain(&self, pod: &str) -> Result<Explained, Error> {
        let (current, graph) = self.current()?;
        let pod = self.declared(&graph, pod)?;
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
        let mut reasons = explain(&Subject {
            pod: &pod,
            graph: &graph,
            observed: &planned.observed,
            plan: &planned.plan,
            report: &planned.report,
            probes: &probes,
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
