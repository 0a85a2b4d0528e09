//! What pods use, as the kernel counts it. Acts on nothing, and no container is asked: shims say which containers there are, where
//! that is not known already, and one that does not answer costs its own pod [`STATE_LIMIT`] at most, all of them at once.

use super::{Error, Observer};
use crate::{
    events::now,
    figures::Series,
    pods::{Shim, outer_link_name, runs::RunsByHand},
};
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tank_model::{Name, spec::MAX_MEMBERSHIPS};
use tank_plan::{figures::Sample, runs};
use tank_proto::shim::State;
use tank_sys::{cgroup::Usage, clock::monotonic_micros, route::Counters};
use tokio::time::timeout;

/// How long a shim may take to say which containers there are; what it said last counts then.
const STATE_LIMIT: Duration = Duration::from_millis(500);

/// A pod, and what it uses.
#[derive(Clone, Debug)]
pub struct PodUsage {
    pub pod: Name,
    /// None: it does not run.
    pub usage: Option<Usage>,
    /// From the pod's side. None: it has no link of its own.
    pub traffic: Option<Counters>,
    /// Those that run.
    pub containers: Vec<(Name, Usage)>,
}

/// What was read at one time.
#[derive(Clone, Debug, Default)]
pub struct UsageSnapshot {
    /// Microseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    pub pods: Vec<PodUsage>,
}

type Running = BTreeMap<Name, (Arc<Shim>, Option<Arc<State>>)>;

impl Observer {
    /// What these pods use, and, where that is asked for, all others that run.
    ///
    /// # Errors
    /// When the host's links can't be read.
    pub async fn usage(
        self: &Arc<Self>,
        mut pods: BTreeSet<Name>,
        and_others: bool,
    ) -> Result<UsageSnapshot, Error> {
        let living = self.pods.living().into_iter();
        let living = living.filter(|(name, _)| and_others || pods.contains(name));
        let ask = |(name, shim): (Name, Arc<Shim>)| async move {
            let answer = match shim.silence() {
                None => timeout(STATE_LIMIT, shim.state()).await.ok(),
                Some(_) => None,
            };
            let state = answer.and_then(Result::ok).or_else(|| shim.last_state());
            (name, (shim, state))
        };
        let running: Running = join_all(living.map(ask)).await.into_iter().collect();
        pods.extend(running.keys().cloned());
        let observer = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || observer.read_usage(pods, &running));
        read.await.map_err(Error::Pods)?
    }

    /// What every pod that runs has used by now, and each of its containers where it has several; nobody is asked for it. Runs by hand have no
    /// history of their own; what one beside a pod's containers uses is that pod's. Blocking.
    ///
    /// # Errors
    /// When the host's links can't be read.
    pub fn sample(&self) -> Result<Vec<(Series, Sample)>, Error> {
        let mut living = self.pods.living();
        living.retain(|(pod, _)| !RunsByHand::is_pod(pod));
        if living.is_empty() {
            return Ok(Vec::new());
        }
        let (links, time) = (self.routes.counters()?, now());
        let mut samples = Vec::new();
        for (pod, shim) in living {
            let state = shim.last_state();
            let state = state.as_deref();
            if let Some(used) = self.cgroups.used(pod.as_str(), "") {
                let traffic = state.and_then(|state| traffic(&shim, state, &links));
                samples.push(((pod.clone(), None), figures(time, &used, traffic)));
            }
            // One container and its pod are one.
            if state.is_none_or(|state| count_declared(state) < 2) {
                continue;
            }
            let running = containers(state).into_iter();
            for container in running.filter(|container| !runs::is_name(container)) {
                if let Some(used) = self.cgroups.used(pod.as_str(), container.as_str()) {
                    let sample = figures(time, &used, None);
                    samples.push(((pod.clone(), Some(container)), sample));
                }
            }
        }
        Ok(samples)
    }

    /// Blocking.
    fn read_usage(&self, pods: BTreeSet<Name>, running: &Running) -> Result<UsageSnapshot, Error> {
        let links = match running.is_empty() {
            true => BTreeMap::new(),
            false => self.routes.counters()?,
        };
        let read = |pod: Name| {
            let Some((shim, state)) = running.get(&pod) else {
                return PodUsage {
                    pod,
                    usage: None,
                    traffic: None,
                    containers: Vec::new(),
                };
            };
            let used = |name: Name| {
                Some((
                    name.clone(),
                    self.cgroups.usage(pod.as_str(), name.as_str())?,
                ))
            };
            PodUsage {
                usage: self.cgroups.usage(pod.as_str(), ""),
                traffic: state
                    .as_deref()
                    .and_then(|state| traffic(shim, state, &links)),
                containers: containers(state.as_deref())
                    .into_iter()
                    .filter_map(used)
                    .collect(),
                pod,
            }
        };
        Ok(UsageSnapshot {
            time: monotonic_micros(),
            pods: pods.into_iter().map(read).collect(),
        })
    }
}

fn figures(time: u64, used: &Usage, traffic: Option<Counters>) -> Sample {
    // As `tank stats` shows it: without what the kernel takes back first.
    let inactive = used.inactive.unwrap_or(0);
    Sample {
        time,
        cpu: used.cpu,
        memory: used.memory.map(|all| all.saturating_sub(inactive)),
        read: used.read,
        written: used.written,
        received: traffic.as_ref().map(|traffic| traffic.received),
        sent: traffic.map(|traffic| traffic.sent),
        pids: used.pids,
    }
}

/// The containers that run, as their shim says it.
fn containers(state: Option<&State>) -> BTreeSet<Name> {
    let all = state.into_iter().flat_map(|state| &state.containers);
    let running = all.filter(|container| container.exited.is_none());
    running
        .filter_map(|container| Name::new(container.name.clone()).ok())
        .collect()
}

/// How many containers there are that are not run by hand.
fn count_declared(state: &State) -> usize {
    let names = state.containers.iter();
    let names = names.filter_map(|container| Name::new(container.name.clone()).ok());
    names.filter(|name| !runs::is_name(name)).count()
}

/// What went over a pod's links: over those to Tank's bridges, from the host's ends, where no container counts for itself; over
/// interfaces of its own, from inside.
fn traffic(shim: &Shim, state: &State, links: &BTreeMap<String, Counters>) -> Option<Counters> {
    let ends = (0..MAX_MEMBERSHIPS).map(|place| links.get(&outer_link_name(state.pid, place)));
    let ends = ends.map_while(|end| end).map(|end| Counters {
        received: end.sent,
        sent: end.received,
    });
    let inside = || {
        let mut links = shim.known_routes()?.counters().ok()?;
        links.remove("lo");
        sum(links.into_values())
    };
    sum(ends).or_else(inside)
}

fn sum(all: impl Iterator<Item = Counters>) -> Option<Counters> {
    all.reduce(|one, other| Counters {
        received: one.received.saturating_add(other.received),
        sent: one.sent.saturating_add(other.sent),
    })
}
