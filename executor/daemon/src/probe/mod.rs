//! Probes the runs of the current generation's containers, and knows how each run stands.
//!
//! *Flow*: each pass towards the current generation hands over what it observed
//! ([`Prober::reconcile`]); a run that is as declared and has probes gets a task, one that is not
//! there any more loses its own. Whoever observes reads what is known ([`Prober::standing`]) and
//! starts nothing: of a graph that is not the current one, only those runs are known whose probes
//! are the same.
//!
//! The startup probe comes first, until it says yes. Then readiness, until it says yes, once for
//! each run: it is what a switch and a dependency wait for. Beside it liveness, for good. A run
//! whose startup or liveness probe says no as often as it may is unhealthy: that is data, for the
//! planner to decide on. Its task waits for the planner's step ([`Prober::end`]) and then ends the
//! run, which may take as long as the container may; no pass waits for it.

mod ask;

use crate::{
    actuate,
    pods::host::Host,
    probe::ask::{Run, ask, pause},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tank_model::{Digest, Graph, Key, Name, Node, graph::LifecycleNode, spec::Probe};
use tank_plan::{
    Observed,
    observed::{Probed, State, Unhealthy},
};
use tank_proto::shim::ContainerState;
use tokio::{sync::oneshot, task::AbortHandle, time::sleep};

/// How long after an end that failed it is asked for again.
const END_AGAIN: Duration = Duration::from_secs(1);

/// What is known of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    pub ready: bool,
    pub unhealthy: Option<Unhealthy>,
}

/// How a run is asked to end: the signal, and the time until it is killed.
type End = (i32, Duration);

/// A run that is probed.
#[derive(Debug)]
struct Probing {
    standing: Standing,
    /// Where an unhealthy run waits for the planner's word.
    end: Option<oneshot::Sender<End>>,
    task: AbortHandle,
}

/// The tasks, by their runs: no more than there are running containers.
#[derive(Debug, Default)]
pub struct Prober(Mutex<BTreeMap<Run, Probing>>);

impl Prober {
    fn runs(&self) -> MutexGuard<'_, BTreeMap<Run, Probing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a run stands by the probes of `graph`. One that is not probed by these has yet to become
    /// ready by them.
    pub fn standing(&self, graph: &Graph, pod: &Name, container: &Name, started: u64) -> Standing {
        let Some((probes, hash)) = probes(graph, pod, container) else {
            return Standing {
                ready: true,
                unhealthy: None,
            };
        };
        let known = self
            .runs()
            .get(&(pod.clone(), container.clone(), started, hash))
            .map(|probing| probing.standing);
        known.unwrap_or(unknown(probes))
    }

    /// Probes the runs of the current generation, and no others.
    pub fn reconcile(&self, host: &Arc<Host>, current: &Graph, observed: &Observed) {
        let wanted = wanted(current, observed);
        let mut runs = self.runs();
        runs.retain(|run, probing| {
            let stays = wanted.contains_key(run);
            if !stays {
                probing.task.abort();
            }
            stays
        });
        for (run, probes) in wanted {
            runs.entry(run.clone()).or_insert_with(|| {
                // It comes to its own entry when this lock is released.
                let task =
                    tokio::spawn(watch(Arc::clone(host), run, probes.clone())).abort_handle();
                Probing {
                    standing: unknown(probes),
                    end: None,
                    task,
                }
            });
        }
    }

    /// Lets an unhealthy run end. It is ending when this returns; of any other run nothing is done.
    pub fn end(&self, pod: &Name, container: &Name, signal: i32, timeout: Duration) {
        let mut runs = self.runs();
        let own = runs
            .iter_mut()
            .filter(|((of, name, ..), _)| of == pod && name == container);
        for (_, probing) in own {
            let (Some(unhealthy), Some(end)) =
                (&mut probing.standing.unhealthy, probing.end.take())
            else {
                continue;
            };
            unhealthy.ending = end.send((signal, timeout)).is_ok();
        }
    }

    /// Writes down what was found out; false when the run is not probed any more.
    fn set(&self, run: &Run, change: impl FnOnce(&mut Probing)) -> bool {
        self.runs().get_mut(run).map(change).is_some()
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

fn unknown(probes: &LifecycleNode) -> Standing {
    Standing {
        ready: !probes.is_probed(),
        unhealthy: None,
    }
}

/// The runs that are probed: those that were started from what `graph` declares. Pure.
fn wanted<'a>(graph: &'a Graph, observed: &Observed) -> BTreeMap<Run, &'a LifecycleNode> {
    let mut wanted = BTreeMap::new();
    for (pod, found) in &observed.pods {
        for (name, container) in &found.containers {
            let declared = graph
                .container(pod, name)
                .is_some_and(|(_, hash)| hash == container.hash);
            if declared
                && matches!(container.state, State::Running { .. })
                && let Some((probes, hash)) = probes(graph, pod, name)
            {
                wanted.insert((pod.clone(), name.clone(), container.since, hash), probes);
            }
        }
    }
    wanted
}

/// Probes a run until it is aborted.
async fn watch(host: Arc<Host>, run: Run, probes: LifecycleNode) {
    if let Some(startup) = &probes.startup
        && !until(&host, &run, startup, Some(startup.failures)).await
    {
        return fail(&host, &run, Probed::Startup).await;
    }
    let readiness = async {
        if let Some(readiness) = &probes.readiness {
            until(&host, &run, readiness, None).await;
        }
        if probes.is_probed()
            && host
                .prober
                .set(&run, |probing| probing.standing.ready = true)
        {
            host.events.add(
                "ready",
                Some(run.0.as_str()),
                format!("container {} is ready", run.1),
            );
            host.wake.notify_one();
        }
    };
    let liveness = async {
        if let Some(liveness) = &probes.liveness {
            sleep(liveness.delay.duration()).await;
            let mut failed = 0;
            loop {
                failed = if ask(&host, &run, liveness).await {
                    0
                } else {
                    failed + 1
                };
                if failed >= liveness.failures {
                    return fail(&host, &run, Probed::Liveness).await;
                }
                pause(liveness).await;
            }
        }
    };
    tokio::join!(readiness, liveness);
}

/// Asks until the answer is yes; false when it was no so many times.
async fn until(host: &Host, run: &Run, probe: &Probe, failures: Option<u32>) -> bool {
    sleep(probe.delay.duration()).await;
    let mut failed = 0;
    while !ask(host, run, probe).await {
        failed += 1;
        if failures.is_some_and(|most| failed >= most) {
            return false;
        }
        pause(probe).await;
    }
    true
}

/// Calls a run unhealthy, and ends it once the planner has decided so.
async fn fail(host: &Host, run: &Run, probe: Probed) {
    // One that has ended is no unhealthy run: nobody could have answered.
    if running(host, run).await.is_none() {
        return;
    }
    host.events.add(
        "unhealthy",
        Some(run.0.as_str()),
        format!("container {}: {}", run.1, probe.failure()),
    );
    loop {
        let (sender, receiver) = oneshot::channel();
        host.prober.set(run, |probing| {
            probing.standing.unhealthy = Some(Unhealthy {
                probe,
                ending: false,
            });
            probing.end = Some(sender);
        });
        host.wake.notify_one();
        let Ok((signal, limit)) = receiver.await else {
            return;
        };
        let Some(shim) = host.shim(&run.0) else {
            return;
        };
        // The task of a run is aborted before another run begins: what is signalled is this one.
        match actuate::end(&shim, &run.1, signal, limit).await {
            Ok(()) => return,
            Err(failure) => {
                host.events.add(
                    "failed",
                    Some(run.0.as_str()),
                    format!("can't {}: {}", failure.what, failure.why),
                );
                sleep(END_AGAIN).await;
            }
        }
    }
}

/// What the shim says of a run that has not ended.
async fn running(host: &Host, run: &Run) -> Option<ContainerState> {
    let state = host.shim(&run.0)?.state().await.ok()?;
    state.containers.into_iter().find(|found| {
        found.name == run.1.as_str() && found.exited.is_none() && found.started == run.2
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tank_model::Config;
    use tank_plan::{
        Desired,
        model::apply,
        observed::{Container, Pod},
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
        Graph::build(&config, |_| None).expect("a graph")
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn host_of(graph: &Graph) -> Observed {
        let none = BTreeSet::new();
        let desired = Desired {
            graph,
            previous: None,
            addresses: &BTreeMap::new(),
            bridge: &none,
            firewall: &none,
            stop_signals: &BTreeMap::new(),
            files: &BTreeMap::new(),
        };
        let mut host = Observed {
            now: 1_000,
            ..Observed::default()
        };
        apply(&plan(&desired, &host), &desired, &mut host);
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
        assert_eq!(
            runs(&one, &host),
            [(name("web"), name("probed"), 1_000, hash(&one))]
        );
        // Another probe of the same run.
        assert_eq!(
            runs(&other, &host),
            [(name("web"), name("probed"), 1_000, hash(&other))]
        );
        assert_ne!(hash(&one), hash(&other));
        let change = |host: &mut Observed, change: &dyn Fn(&mut Container)| {
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
    fn what_is_not_probed_is_not_known_and_nothing_is_begun_by_asking() {
        let prober = Prober::default();
        let live = graph(&serde_json::json!({ "tcp": { "port": 1 } }));
        let standing = |name_of: &str| prober.standing(&live, &name("web"), &name(name_of), 1_000);
        assert_eq!(
            standing("probed"),
            Standing {
                ready: true,
                unhealthy: None
            }
        );
        assert_eq!(
            standing("plain"),
            Standing {
                ready: true,
                unhealthy: None
            }
        );
        assert!(prober.runs().is_empty());
    }
}
