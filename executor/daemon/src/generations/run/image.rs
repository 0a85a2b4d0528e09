//! Running a command of an image that no pod has to have: in a pod of its own, beside the graph.
//!
//! The pod is as one that declares the image and nothing else: on the default network, confined by the defaults, without
//! volumes and ports. Its leases are in no store and its image is in no generation: both are held for as long as the run is
//! wanted, and its pod there.

use super::{Run, to_run};
use crate::{
    events::now,
    generations::{Error, Generations, ProgressSender, error::Context, request},
    pods::runs::{Alone, RunsByHand, Streams, Wanted},
};
use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf, sync::Arc};
use tank_model::{
    Graph, Name, Reference, Scope,
    spec::{Container, Pod, Pull},
};
use tank_plan::RunByHand;

/// What is to be run of an image.
pub struct ImageToRun {
    pub image: String,
    /// What a path is relative to.
    pub base_dir: Option<PathBuf>,
    pub pull: Pull,
}

impl Generations {
    /// A name for a run in a pod of its own, which the pod has as well.
    ///
    /// # Errors
    /// When its user may not run more, or pods are left of a state that is not there any more.
    pub fn name_of_run(&self, uid: u32) -> Result<Name, Error> {
        let runs = self.pods.runs();
        let refused = runs.refuse_more(uid);
        refused.map_err(|error| Error::NotByHand(error.to_string()))?;
        let is_left = |(pod, _): &(Name, _)| !RunsByHand::is_pod(pod);
        if self.store.current()?.is_none() && self.pods.living().iter().any(is_left) {
            let why = "nothing is declared, and pods are there of a state that is gone: `tank switch` says what becomes of them";
            return Err(Error::NotByHand(why.to_owned()));
        }
        let name = runs.next_name(now());
        name.ok_or_else(|| Error::NotByHand("it has no name".to_owned()))
    }

    /// Fetches the image and starts it; gives what the client controls it by.
    ///
    /// # Errors
    /// When it is not started: the image can't be had, what it would be does not fit, or there are too many.
    pub async fn run_image(
        self: &Arc<Self>,
        image: ImageToRun,
        asked: &Run,
        streams: Streams,
        progress: &ProgressSender,
    ) -> Result<(Wanted, Vec<OwnedFd>), Error> {
        let (name, uid) = (&asked.pod, asked.uid);
        let reference = parse(&image.image)?;
        let (_, before) = self.current()?;
        let (own, config) = declared(&before, &reference, asked)?;
        let scope = Scope::Pods([name.clone()].into());
        let there = before.config();
        request::refuse_added_problems((&[&there], &config), &scope, &[])?;
        let held = self.images.holding();
        let base_dir = image
            .base_dir
            .filter(|_| reference.source().path().is_some());
        let from = (base_dir, reference.clone(), image.pull);
        let digest = self.fetch_one(&held, from, progress).await?;
        let graph = Graph::build(&config, |wanted| match *wanted == reference {
            true => Some(digest),
            false => before.image(wanted),
        });
        let graph = graph.doing("build the graph")?;
        self.refuse_unconnectable(&before, &graph).await?;
        let leased = {
            // What is committed meanwhile would get the same ones.
            let _history = self.history.lock().await;
            self.reconciler.lease_run(&graph, name)?
        };
        let inputs = self.reconciler.read_inputs(&graph).await?;
        let spec = inputs.target(&graph, None).container(name, name);
        let failed = |source| Error::Target {
            pod: name.clone(),
            container: name.clone(),
            source,
        };
        let hash = graph.container(name, name).map(|(_, hash)| hash);
        let run = RunByHand {
            uid,
            time: now(),
            hash: hash.unwrap_or(graph.root()),
            spec: Box::new(spec.map_err(failed)?),
            started: false,
            own: Some(Box::new(own)),
        };
        let alone = Alone {
            pod: name.clone(),
            leased,
            image: held,
        };
        let who = tank_sys::users::named(uid);
        let message = format!("{who} runs a command of image {reference} by hand");
        let of = (name.clone(), name.clone());
        self.start_run(of, run, (streams, Some(alone)), message)
            .await
    }
}

fn parse(image: &str) -> Result<Reference, Error> {
    let reference = image.parse::<Reference>();
    reference.map_err(|error| Error::Reference {
        why: error.to_string(),
        image: image.to_owned(),
    })
}

/// The pod without its container, and what is declared together with it.
fn declared(
    before: &Graph,
    reference: &Reference,
    asked: &Run,
) -> Result<(Pod, tank_model::Config), Error> {
    let name = &asked.pod;
    let container = serde_json::json!({ "image": reference.to_string() });
    let container: Container = serde_json::from_value(container).doing("declare a container")?;
    let pod = serde_json::json!({ "containers": {}, "restart": "never" });
    let own: Pod = serde_json::from_value(pod).doing("declare a pod")?;
    let mut whole = own.clone();
    whole.containers = BTreeMap::from([(name.clone(), to_run(container, asked))]);
    let mut config = before.config();
    config.pods.insert(name.clone(), whole);
    Ok((own, config))
}
