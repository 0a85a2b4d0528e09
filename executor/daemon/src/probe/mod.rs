//! Probes the runs of the current generation's containers, and knows what was found of each run.
//!
//! *Flow*: each pass towards the current generation hands over what it observed
//! ([`Prober::reconcile`]); a run that is as declared and has probes gets a task, one that is not
//! there any more loses its own. Whoever observes reads what is known ([`Prober::verdict`]) and
//! starts nothing: of a graph that is not the current one, only those runs are known whose probes are
//! the same.
//!
//! The startup probe comes first, until it succeeds. Then readiness, for as long as the container
//! runs: it may be lost again, after as many failures in a row as the probe allows. Beside it
//! liveness. A run whose startup or liveness probe fails as often as it may is unhealthy: that is
//! data, and the planner decides what follows.

mod ask;

use crate::{
    dirty::Dirty,
    events::{Events, Kind, Subject},
    pods::{Pods, RunId},
};
use ask::{ProbeError, ask, pause};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tank_model::{Digest, Graph, Key, Name, Node, graph::LifecycleNode, spec::Probe};
use tank_plan::{
    Observed,
    observed::{Probed, State, Verdict},
};
use tank_sys::clock::boot_millis;
use tokio::{task::AbortHandle, time::sleep};

/// How long after a shim did not say whether a run has ended it is asked again.
const STATE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Which run, and by which probes: a new start, and a new probe, has to become ready anew.
type ProbedRun = (RunId, Digest);

/// Where a pod's ports are. None: it has no network.
pub type AddressOf<'a> = dyn Fn(&Name) -> Option<IpAddr> + 'a;

/// A run that is probed.
#[derive(Debug)]
struct Probing {
    verdict: Verdict,
    /// Where it is asked.
    address: Option<IpAddr>,
    /// How its last question failed, if that did.
    last_failure: Option<String>,
    task: AbortHandle,
}

/// What a task is for.
#[derive(Clone, Debug)]
struct Target {
    run: ProbedRun,
    probes: LifecycleNode,
    address: Option<IpAddr>,
}

/// The tasks, by their runs: no more than there are running containers.
pub struct Prober {
    pods: Arc<Pods>,
    events: Arc<Events>,
    dirty: Arc<Dirty>,
    runs: Mutex<BTreeMap<ProbedRun, Probing>>,
}

impl Prober {
    pub fn new(pods: Arc<Pods>, events: Arc<Events>, dirty: Arc<Dirty>) -> Self {
        Self {
            pods,
            events,
            dirty,
            runs: Mutex::default(),
        }
    }

    fn runs(&self) -> MutexGuard<'_, BTreeMap<ProbedRun, Probing>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the probes of `graph` have found of a run, which started at `started` by the clock of
    /// [`Observed::now`]. One that is not probed by these has yet to become ready by them.
    pub fn verdict(&self, graph: &Graph, run: &RunId, started: u64) -> Verdict {
        verdict_in(&self.runs(), graph, run, started)
    }

    /// How the last question to a run failed, for people. None: it did not, or none was asked.
    pub fn last_failure(&self, run: &RunId) -> Option<String> {
        let runs = self.runs();
        let of_run = runs.iter().filter(|((of, _), _)| of == run);
        of_run
            .filter_map(|(_, probing)| probing.last_failure.clone())
            .next()
    }

    /// Asks until there is an answer, and notes how it failed. A shim that does not get to ask says
    /// nothing of the container: it is asked again.
    async fn ask(&self, target: &Target, probe: &Probe) -> bool {
        loop {
            let failure = ask(&self.pods, target, probe).await.err();
            let unknown = failure.as_ref().is_some_and(ProbeError::is_unknown);
            let succeeded = failure.is_none();
            if let Some(probing) = self.runs().get_mut(&target.run) {
                probing.last_failure = failure.map(|failure| failure.to_string());
            }
            if !unknown {
                return succeeded;
            }
            pause(probe).await;
        }
    }

    /// Probes the runs of the current generation, and no others. Needs a tokio runtime.
    pub fn reconcile(
        self: &Arc<Self>,
        current: &Graph,
        observed: &Observed,
        address_of: &AddressOf<'_>,
    ) {
        let wanted = wanted(current, observed);
        let mut runs = self.runs();
        runs.retain(|run, probing| {
            // A run that is asked at another address is asked anew.
            let stays = wanted.contains_key(run) && probing.address == address_of(&run.0.0);
            if !stays {
                probing.task.abort();
            }
            stays
        });
        for (run, (probes, started)) in wanted {
            runs.entry(run.clone()).or_insert_with(|| {
                let address = address_of(&run.0.0);
                let target = Target {
                    run,
                    probes: probes.clone(),
                    address,
                };
                // It comes to its own entry when this lock is released.
                let prober = Arc::clone(self);
                let task = tokio::spawn(async move { prober.watch(&target).await });
                Probing {
                    verdict: unasked(probes, started),
                    address,
                    last_failure: None,
                    task: task.abort_handle(),
                }
            });
        }
    }

    /// Changes the verdict on a run, and notes when; false when it is not probed any more.
    fn set(&self, run: &ProbedRun, change: impl FnOnce(&mut Verdict)) -> bool {
        let mut runs = self.runs();
        let Some(probing) = runs.get_mut(run) else {
            return false;
        };
        set_verdict(&mut probing.verdict, boot_millis(), change);
        true
    }

    /// Probes a run until it is aborted.
    async fn watch(&self, target: &Target) {
        let probes = &target.probes;
        if let Some(startup) = &probes.startup
            && !self.starts_up(target, startup).await
        {
            return self.fail(target, Probed::Startup).await;
        }
        tokio::join!(self.watch_readiness(target), self.watch_liveness(target));
    }

    /// Asks until the answer is yes; false when it was no as often as it may be.
    async fn starts_up(&self, target: &Target, startup: &Probe) -> bool {
        sleep(startup.delay.duration()).await;
        let mut failures = 0;
        while !self.ask(target, startup).await {
            failures += 1;
            if failures >= startup.failures {
                return false;
            }
            pause(startup).await;
        }
        true
    }

    async fn watch_readiness(&self, target: &Target) {
        let Some(readiness) = &target.probes.readiness else {
            // With a startup probe only, what came up is ready.
            if target.probes.is_probed() {
                self.set_ready(target, true);
            }
            return;
        };
        sleep(readiness.delay.duration()).await;
        let (mut ready, mut failures) = (false, 0);
        loop {
            if self.ask(target, readiness).await {
                failures = 0;
                if !ready {
                    ready = true;
                    self.set_ready(target, true);
                }
            } else if ready {
                failures += 1;
                if failures >= readiness.failures {
                    ready = false;
                    self.set_ready(target, false);
                }
            }
            pause(readiness).await;
        }
    }

    fn set_ready(&self, target: &Target, ready: bool) {
        let ((pod, container, _), _) = &target.run;
        if self.set(&target.run, |verdict| verdict.ready = ready) {
            let (kind, is) = if ready {
                (Kind::Ready, "is ready")
            } else {
                (Kind::Unready, "is not ready")
            };
            let of = Subject::container(pod.as_str(), container.as_str());
            let message = format!("container {container} {is}");
            self.events.add_of(kind, of, message);
            self.dirty.mark();
        }
    }

    async fn watch_liveness(&self, target: &Target) {
        let Some(liveness) = &target.probes.liveness else {
            return;
        };
        sleep(liveness.delay.duration()).await;
        let mut failures = 0;
        while failures < liveness.failures {
            failures = if self.ask(target, liveness).await {
                0
            } else {
                failures + 1
            };
            if failures < liveness.failures {
                pause(liveness).await;
            }
        }
        self.fail(target, Probed::Liveness).await;
    }

    /// A run's probe has failed as often as it may: the planner decides what follows.
    async fn fail(&self, target: &Target, probe: Probed) {
        // One that has ended is no unhealthy run: nobody could have answered.
        loop {
            match self.is_running(&target.run.0).await {
                Some(true) => break,
                Some(false) => return,
                // Its shim does not say.
                None => sleep(STATE_RETRY_AFTER).await,
            }
        }
        let ((pod, container, _), _) = &target.run;
        let last = self.last_failure(&target.run.0);
        let last = last
            .map(|failure| format!(" ({failure})"))
            .unwrap_or_default();
        let message = format!("container {container}: {}{last}", probe.failure());
        let of = Subject::container(pod.as_str(), container.as_str());
        self.events.add_of(Kind::Unhealthy, of, message);
        self.set(&target.run, |verdict| verdict.failed = Some(probe));
        self.dirty.mark();
    }

    /// Whether a run has not ended. None: its shim does not say.
    async fn is_running(&self, (pod, container, started): &RunId) -> Option<bool> {
        let state = self.pods.get(pod)?.state().await.ok()?;
        Some(state.containers.iter().any(|found| {
            found.name == container.as_str() && found.exited.is_none() && found.started == *started
        }))
    }
}

/// The probes of a container and the hash that names them. None: it has none.
fn probes<'a>(
    graph: &'a Graph,
    pod: &Name,
    container: &Name,
) -> Option<(&'a LifecycleNode, Digest)> {
    let entry = graph.get(&Key::Lifecycle(pod.clone(), container.clone()))?;
    match &entry.node {
        Node::Lifecycle(node) if node.is_probed() || node.liveness.is_some() => {
            Some((node, entry.hash))
        }
        _ => None,
    }
}

fn verdict_in(
    runs: &BTreeMap<ProbedRun, Probing>,
    graph: &Graph,
    run: &RunId,
    started: u64,
) -> Verdict {
    let Some((probes, hash)) = probes(graph, &run.0, &run.1) else {
        return Verdict::unasked(true, started);
    };
    let known = runs.get(&(run.clone(), hash));
    known.map_or_else(|| unasked(probes, started), |probing| probing.verdict)
}

fn unasked(probes: &LifecycleNode, started: u64) -> Verdict {
    Verdict::unasked(!probes.is_probed(), started)
}

/// Changes a verdict. What is said once more has not changed.
fn set_verdict(verdict: &mut Verdict, now: u64, change: impl FnOnce(&mut Verdict)) {
    let before = *verdict;
    change(verdict);
    if *verdict != before {
        verdict.since = now;
    }
}

/// The runs that are probed, by which probes, and when each started: those that were started from
/// what `graph` declares. Pure.
fn wanted<'a>(
    graph: &'a Graph,
    observed: &Observed,
) -> BTreeMap<ProbedRun, (&'a LifecycleNode, u64)> {
    let mut wanted = BTreeMap::new();
    for (pod, found) in &observed.pods {
        for (name, container) in &found.containers {
            let declared = graph.container(pod, name);
            if declared.is_some_and(|(_, hash)| hash == container.hash)
                && matches!(container.state, State::Running { .. })
                && let Some((probes, hash)) = probes(graph, pod, name)
            {
                let run = (pod.clone(), name.clone(), container.since);
                wanted.insert((run, hash), (probes, container.started));
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_model::Config;
    use tank_plan::{
        model::{apply, inputs},
        observed::{Pod, Run},
        plan,
    };

    fn graph(probe: &serde_json::Value) -> Graph {
        let config: Config = serde_json::from_value(serde_json::json!({ "pods": {
            "web": { "network": "none", "containers": {
                "probed": { "image": "x", "liveness": probe },
                "plain": { "image": "x" },
            } },
        } }))
        .expect("a configuration");
        inputs(&config).graph
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn host_of(graph: &Graph) -> Observed {
        let inputs = inputs(&graph.config());
        let mut host = Observed {
            now: 1_000,
            ..Observed::default()
        };
        let (plan, _) = plan(&inputs.target(), &host);
        apply(&plan, &mut host);
        host
    }

    #[test]
    fn only_runs_of_the_current_generation_with_probes_are_probed() {
        let one = graph(&serde_json::json!({ "tcp": { "port": 1 } }));
        let other = graph(&serde_json::json!({ "tcp": { "port": 2 } }));
        let mut host = host_of(&one);
        let runs =
            |graph: &Graph, host: &Observed| wanted(graph, host).into_keys().collect::<Vec<_>>();
        let hash = |graph: &Graph| {
            probes(graph, &name("web"), &name("probed"))
                .expect("probes")
                .1
        };
        let run = || (name("web"), name("probed"), 1_000);
        assert_eq!(runs(&one, &host), [(run(), hash(&one))]);
        // Another probe of the same run.
        assert_eq!(runs(&other, &host), [(run(), hash(&other))]);
        assert_ne!(hash(&one), hash(&other));
        let change = |host: &mut Observed, change: &dyn Fn(&mut Run)| {
            host.pods
                .values_mut()
                .for_each(|pod: &mut Pod| pod.containers.values_mut().for_each(change));
        };
        // What was started from something else, and what has ended, is not.
        let mut outdated = host.clone();
        change(&mut outdated, &|found| found.hash = Digest::of(b"other"));
        assert_eq!(runs(&one, &outdated), []);
        change(&mut host, &|found| {
            found.state = State::Exited {
                status: 0,
                at: 1_000,
            }
        });
        assert_eq!(runs(&one, &host), []);
    }

    #[test]
    fn what_is_not_probed_is_not_known() {
        let live = graph(&serde_json::json!({ "tcp": { "port": 1 } }));
        let run = |container: &str| (name("web"), name(container), 1_000);
        let none = BTreeMap::new();
        let unprobed = Verdict::unasked(true, 700);
        assert_eq!(verdict_in(&none, &live, &run("probed"), 700), unprobed);
        assert_eq!(verdict_in(&none, &live, &run("plain"), 700), unprobed);
        let readiness: Config = serde_json::from_value(serde_json::json!({ "pods": { "web": {
            "containers": { "app": { "image": "x", "readiness": { "tcp": { "port": 1 } } } },
        } } }))
        .expect("a configuration");
        let graph = inputs(&readiness).graph;
        let unready = Verdict::unasked(false, 700);
        assert_eq!(verdict_in(&none, &graph, &run("app"), 700), unready);
    }

    #[test]
    fn a_verdict_is_as_old_as_what_it_says() {
        let mut verdict = Verdict::unasked(false, 700);
        set_verdict(&mut verdict, 800, |verdict| verdict.ready = false);
        assert_eq!(verdict, Verdict::unasked(false, 700));
        set_verdict(&mut verdict, 900, |verdict| verdict.ready = true);
        assert_eq!(verdict, Verdict::unasked(true, 900));
        set_verdict(&mut verdict, 1_000, |verdict| verdict.ready = true);
        assert_eq!(verdict, Verdict::unasked(true, 900));
        let failed = Some(Probed::Liveness);
        set_verdict(&mut verdict, 1_100, |verdict| verdict.failed = failed);
        let expected = Verdict {
            ready: true,
            failed,
            since: 1_100,
        };
        assert_eq!(verdict, expected);
    }
}
