//! Containers that somebody runs by hand in a pod (`tank run`): beside those that are declared, in no
//! generation, and for as long as whoever runs them stays.
//!
//! A run brings all that it is started with, worked out from what is declared when it was asked for. It is
//! started once and never again, whatever becomes of it, and no run of a pod keeps others waiting: neither
//! dependents nor health nor names know of it.

use crate::target::ContainerSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tank_model::{Digest, Graph, Name, spec::Pod};

/// What the names of runs, and of their own pods, begin with.
pub const PREFIX: &str = "run-";

/// Whether a container, or a pod, is called as those of runs are: [`PREFIX`] and 8 hexadecimal digits.
pub fn is_name(name: &Name) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let digits = name.as_str().strip_prefix(PREFIX);
    digits.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(is_digit))
}

/// What is run by hand, by pod and container.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Runs(BTreeMap<Name, BTreeMap<Name, RunByHand>>);

/// One container that is run by hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunByHand {
    /// Who runs it.
    pub uid: u32,
    /// Since when, in milliseconds since the Unix epoch, for people.
    pub time: u64,
    /// Of the container node that it would be if it were declared.
    pub hash: Digest,
    /// What it is started with.
    pub spec: Box<ContainerSpec>,
    /// It was started, or that was tried.
    pub started: bool,
    /// The pod that it is in alone, without its container. None: one that is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Box<Pod>>,
}

impl Runs {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one.
    pub fn insert(&mut self, pod: Name, container: Name, run: RunByHand) {
        self.0.entry(pod).or_default().insert(container, run);
    }

    /// Takes one away.
    pub fn remove(&mut self, pod: &Name, container: &Name) {
        if let Some(of_pod) = self.0.get_mut(pod) {
            of_pod.remove(container);
            if of_pod.is_empty() {
                self.0.remove(pod);
            }
        }
    }

    /// One of them.
    pub fn get(&self, pod: &Name, container: &Name) -> Option<&RunByHand> {
        self.0.get(pod)?.get(container)
    }

    /// One of them, to be changed.
    pub fn get_mut(&mut self, pod: &Name, container: &Name) -> Option<&mut RunByHand> {
        self.0.get_mut(pod)?.get_mut(container)
    }

    /// The pod that a container runs beside those of, by hand.
    pub fn pod_of(&self, container: &Name) -> Option<&Name> {
        let mut all = self.0.iter();
        all.find_map(|(pod, runs)| runs.contains_key(container).then_some(pod))
    }

    /// Those of a pod.
    pub fn of_pod(&self, pod: &Name) -> impl Iterator<Item = (&Name, &RunByHand)> {
        self.0.get(pod).into_iter().flatten()
    }

    /// Those in pods of their own.
    pub fn alone(&self) -> impl Iterator<Item = (&Name, &Pod, &RunByHand)> {
        let all = self.0.iter();
        let all = all.flat_map(|(pod, runs)| runs.values().map(move |run| (pod, run)));
        all.filter_map(|(pod, run)| Some((pod, run.own.as_deref()?, run)))
    }

    /// A graph with the pods of runs that are in none of those, as far as their runs are among `which`. None: it is as it is
    /// without them. A pod that is declared by such a name is what is declared.
    pub fn beside(&self, graph: &Graph, which: impl Fn(&RunByHand) -> bool) -> Option<Graph> {
        let pods = self
            .alone()
            .filter(|(pod, _, run)| which(run) && graph.pod(pod).is_none());
        let pods: Vec<_> = pods
            .map(|(pod, own, _)| (pod.clone(), own.clone()))
            .collect();
        if pods.is_empty() {
            return None;
        }
        let mut config = graph.config();
        config.pods.extend(pods);
        Graph::build(&config, |reference| graph.image(reference)).ok()
    }

    /// Of all pods.
    pub fn all(&self) -> impl Iterator<Item = &RunByHand> {
        self.0.values().flat_map(BTreeMap::values)
    }
}
