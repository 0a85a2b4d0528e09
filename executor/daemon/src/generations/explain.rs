//! Why a pod is in the state it is in: what the daemon knows of it, handed to the pure
//! [`tank_plan::explain`]. Acts on nothing.

use super::{Error, Generations, run::NamedRun};
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
    /// Whether it is the pod of a run by hand, which is declared in no generation.
    pub of_run: bool,
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
        if let Some(named) = self.run_named(&graph, pod, container) {
            return self.explain_run(graph, named).await;
        }
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
        let doers = planned.plan.steps.iter().filter_map(|one| one.why.uid());
        let users: BTreeMap<u32, String> = stoppers
            .chain(doers)
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
            of_run: false,
        })
    }

    /// Of a run by hand there is one reason: somebody runs it.
    async fn explain_run(&self, graph: Arc<Graph>, named: NamedRun) -> Result<Explained, Error> {
        let NamedRun {
            pod,
            container,
            run,
        } = named;
        let who = tank_sys::users::named(run.uid);
        let image = &run.spec.image.name;
        let text = format!(
            "{who} runs it by hand: a command of {image}, in no generation. It ends with that command, or with the `tank run` of \
             {who}"
        );
        let whole = match run.own {
            Some(_) => pod.to_string(),
            None => format!("{pod}/{container}"),
        };
        let reason = Reason {
            container: Some(container),
            text,
            since: Some(run.time),
            until: None,
            next: Some(format!("tank stop {whole}")),
        };
        Ok(Explained {
            observed: self.reconciler.observe(&graph).await?,
            of_run: run.own.is_some(),
            pod,
            graph,
            reasons: vec![reason],
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
