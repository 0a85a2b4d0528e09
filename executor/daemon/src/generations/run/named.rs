//! Runs by hand by their names: which one somebody means, and ending one.

use crate::{
    events::{Kind, Subject},
    generations::{
        Error, Generations,
        by_hand::{AFTER_KILL, ByHand, Which},
        error::Context,
    },
    pods::runs::{RunsByHand, until_ended},
};
use std::{sync::Arc, time::Duration};
use tank_model::{
    Graph, Name,
    spec::{Container, Pod},
};
use tank_plan::{RunByHand, overrides::Operation};
use tokio::time::timeout;

const GOES_ON: &str = "it is run by hand (`tank run`), and declared in no generation: `exec`, `cp`, `port-forward`, `stats`, `explain` \
                       and `stop` know it";
const ENDED: &str = "its run by hand has ended, and nothing of it is left";

/// A run by hand that somebody has named.
pub struct NamedRun {
    pub pod: Name,
    pub container: Name,
    pub run: RunByHand,
}

impl Generations {
    /// The run that is called so: `run-0123abcd`, in a pod of its own, or that container beside those of a pod. None: there
    /// is none; a pod that is declared by that name is what is meant.
    pub fn run_named(&self, graph: &Graph, pod: &str, container: Option<&str>) -> Option<NamedRun> {
        let container = container.map(Name::new).transpose().ok()?;
        let pod = match self.declared(graph, pod) {
            Ok(_) if container.is_none() => return None,
            Ok(pod) => pod,
            Err(_) => Name::new(pod).ok()?,
        };
        let (container, run) = self.pods.runs().find(&pod, container.as_ref())?;
        Some(NamedRun {
            pod,
            container,
            run,
        })
    }

    /// A pod that is declared, or that of a run by hand.
    ///
    /// # Errors
    /// As [`Generations::declared`].
    pub fn declared_or_run(&self, graph: &Graph, pod: &str) -> Result<Name, Error> {
        match self.run_named(graph, pod, None) {
            Some(named) => Ok(named.pod),
            None => self.declared(graph, pod),
        }
    }

    /// Why a name that no declared pod has means none: its run goes on, and can't be meant here, or has ended.
    pub(in crate::generations) fn refused_as_run(&self, pod: &str) -> Option<Error> {
        let name = Name::new(pod).ok()?;
        let runs = self.pods.runs();
        let why = match (runs.find(&name, None), runs.pod_of(&name)) {
            (Some(_), _) => GOES_ON.to_owned(),
            (None, Some(pod)) => format!("it runs beside pod `{pod}`: it is called `{pod}/{name}`"),
            (None, None) if RunsByHand::is_pod(&name) => ENDED.to_owned(),
            (None, None) => return None,
        };
        Some(Error::OfRun { run: name, why })
    }

    /// The graph with a run as a container of its image: what that calls its users is asked of it.
    ///
    /// # Errors
    /// When it can't be built.
    pub fn graph_with(&self, graph: &Graph, named: &NamedRun) -> Result<Graph, Error> {
        let image = &named.run.spec.image;
        let container = serde_json::json!({ "image": image.name.to_string() });
        let container: Container =
            serde_json::from_value(container).doing("declare a container")?;
        let pod = serde_json::json!({ "containers": {} });
        let own: Pod = serde_json::from_value(pod).doing("declare a pod")?;
        let mut config = graph.config();
        let pod = config.pods.entry(named.pod.clone()).or_insert(own);
        pod.containers.insert(named.container.clone(), container);
        let built = Graph::build(&config, |wanted| match *wanted == image.name {
            true => Some(image.digest),
            false => graph.image(wanted),
        });
        built.doing("build the graph")
    }

    /// Ends the runs that are named among what is to be stopped by hand. Gives their names, and what is left to be done.
    ///
    /// # Errors
    /// When one is to be started, or is given another time to end; and when one does not end.
    pub(in crate::generations) async fn stop_runs(
        self: &Arc<Self>,
        asked: &ByHand,
    ) -> Result<(Vec<String>, ByHand), Error> {
        let Which::Named(targets) = &asked.which else {
            return Ok((Vec::new(), asked.clone()));
        };
        let (_, graph) = self.current()?;
        let (mut runs, mut rest) = (Vec::new(), Vec::new());
        for target in targets {
            let (pod, container) = match target.split_once('/') {
                Some((pod, container)) => (pod, Some(container)),
                None => (target.as_str(), None),
            };
            match self.run_named(&graph, pod, container) {
                Some(named) => runs.push(named),
                None => rest.push(target.clone()),
            }
        }
        if let Some(NamedRun { container, .. }) = runs.first() {
            let why = match (asked.operation, asked.timeout) {
                (Operation::Start | Operation::Restart, _) => "runs until its command ends, once",
                (Operation::Stop, Some(_)) => "ends in the time that it was started with",
                (Operation::Stop, None) => "",
            };
            if !why.is_empty() {
                let why = format!("`{container}` is run by hand (`tank run`): it {why}");
                return Err(Error::NotByHand(why));
            }
        }
        let mut ended = Vec::new();
        for named in runs {
            ended.push(self.stop_run(named, asked.uid).await?);
        }
        let which = Which::Named(rest);
        Ok((
            ended,
            ByHand {
                which,
                ..asked.clone()
            },
        ))
    }

    /// Has a run ended as a container that is not declared any more, and waits for that.
    async fn stop_run(self: &Arc<Self>, named: NamedRun, uid: u32) -> Result<String, Error> {
        let NamedRun {
            pod,
            container,
            run,
        } = named;
        let of = Subject {
            pod: Some(pod.to_string()),
            container: Some(container.to_string()),
            uid: Some(uid),
            ..Subject::default()
        };
        let who = tank_sys::users::named(uid);
        let message = format!("{who} stopped it by hand: {container}");
        self.events.add_of(Kind::ByHand, of, message);
        self.pods.runs().forget(&pod, &container);
        self.dirty.mark();
        // The loop has a pass of its own, unless it repairs nothing.
        let generations = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = generations.pass_to_current().await {
                tracing::debug!(error = tank_sys::with_causes(&error), "a pass to end a run");
            }
        });
        let limit = Duration::from_millis(run.spec.stop_timeout).saturating_add(AFTER_KILL);
        let ended = timeout(limit, until_ended(&self.pods, &pod, &container)).await;
        let whole = format!("{pod}/{container}");
        match ended {
            Ok(()) => Ok(whole),
            Err(_) => Err(Error::NotByHand(format!(
                "{whole} did not end in {} s: `tank events` says why",
                limit.as_secs()
            ))),
        }
    }
}
