//! The volumes that Tank keeps, as a graph declares them and as containers have them mounted.

use super::Error;
use std::collections::BTreeSet;
use tank_model::{Graph, Name, VolumeId, graph::Node, name::nearest};
use tank_plan::{
    Observed,
    observed::{Run, State},
};

/// What Tank keeps for what a graph declares.
pub(super) fn managed(graph: &Graph) -> BTreeSet<VolumeId> {
    let shared = graph.shared_volumes();
    let shared = shared.map(|(name, _)| VolumeId::Shared(name.clone()));
    let pods = graph.pods();
    let own = pods.flat_map(|pod| graph.volumes(pod).map(move |(volume, _)| (pod, volume)));
    own.filter_map(|(pod, volume)| graph.kept_volume(pod, volume))
        .chain(shared)
        .collect()
}

pub(super) fn declares(graph: &Graph, id: &VolumeId) -> bool {
    match id {
        VolumeId::Own(pod, volume) => graph.kept_volume(pod, volume).as_ref() == Some(id),
        VolumeId::Shared(name) => graph.shared_volume(name).is_some(),
    }
}

/// The pods that declare it as theirs.
pub(super) fn declaring(graph: &Graph, id: &VolumeId) -> Vec<Name> {
    let is_it = |pod: &&Name| {
        let mut volumes = graph.volumes(pod);
        volumes.any(|(volume, _)| graph.kept_volume(pod, volume).as_ref() == Some(id))
    };
    match id {
        VolumeId::Own(pod, _) => graph
            .pods()
            .filter(|own| *own == pod)
            .filter(is_it)
            .cloned()
            .collect(),
        VolumeId::Shared(_) => graph.pods().filter(is_it).cloned().collect(),
    }
}

/// A pod of which a container has a volume mounted, or may have: of a pod that does not answer, and of a
/// container that the graph does not have as it runs, that is not known. Of a shared volume it may be any
/// pod of its stack. With it, the container's name if the graph has none of that name.
pub(super) fn who_has(
    observed: &Observed,
    graph: &Graph,
    id: &VolumeId,
) -> Option<(Name, Option<Name>)> {
    let may_have = |pod: &Name, run: &Run| {
        let entry = graph.entries().find(|entry| entry.hash == run.hash);
        let mounts = entry.and_then(|entry| match &entry.node {
            Node::Container(node) => Some(&node.mounts),
            Node::Init(spec) => Some(&spec.mounts),
            _ => None,
        });
        mounts.is_none_or(|mounts| {
            let mut mounted = mounts.values();
            mounted.any(|mount| graph.kept_volume(pod, &mount.volume).as_ref() == Some(id))
        })
    };
    let may_be = |pod: &Name| match id {
        VolumeId::Own(own, _) => own == pod,
        VolumeId::Shared(name) => name.stack() == pod.stack(),
    };
    let mut pods = observed.pods.iter().filter(|(pod, _)| may_be(pod));
    pods.find_map(|(pod, found)| {
        let has = |(_, run): &(&Name, &Run)| {
            matches!(run.state, State::Running { .. }) && may_have(pod, run)
        };
        // Of several, one that is declared: who ends that ends what is known of.
        let all = || found.containers.iter().filter(has);
        let is_declared = |(name, _): &(&Name, &Run)| graph.process(pod, name).is_some();
        let holder = all().find(is_declared).or_else(|| all().next());
        match holder {
            Some(holder) if !is_declared(&holder) => Some((pod.clone(), Some(holder.0.clone()))),
            Some(_) => Some((pod.clone(), None)),
            None => found.unresponsive.is_some().then(|| (pod.clone(), None)),
        }
    })
}

pub(super) fn words(pods: &[Name], between: &str) -> String {
    let pods: Vec<&str> = pods.iter().map(Name::as_str).collect();
    pods.join(between)
}

/// Whether a name is a pod's, of which the volume was left out, rather than that of a shared volume which
/// is not declared yet.
pub(super) fn is_pod(graph: &Graph, kept: &[VolumeId], id: &VolumeId) -> bool {
    let VolumeId::Shared(name) = id else {
        return false;
    };
    let is_volume = declares(graph, id) || kept.contains(id);
    let of_pod = |kept: &VolumeId| kept.pod() == Some(name);
    !is_volume && (graph.pods().any(|pod| pod == name) || kept.iter().any(of_pod))
}

/// Its name in its pod or on the host.
pub(super) fn local(id: &VolumeId) -> &Name {
    match id {
        VolumeId::Own(_, name) | VolumeId::Shared(name) => name,
    }
}

pub(super) fn no_such(name: &str, kept: &[VolumeId]) -> Error {
    let names: Vec<String> = kept.iter().map(VolumeId::to_string).collect();
    // The volume alone, or a pod without its stack.
    let ends = |full: &&String| {
        let rest = full.strip_suffix(name);
        rest.is_some_and(|rest| rest.ends_with(['/', ':']))
    };
    // A pod without its volume.
    let begins = |full: &&String| {
        let rest = full.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    let mut all = names.iter();
    let ending = all.find(|full| ends(full) || begins(full));
    let ending = ending.map(String::as_str);
    let nearest = ending.or_else(|| nearest(name, names.iter().map(String::as_str)));
    Error::NoSuchVolume {
        volume: name.to_owned(),
        nearest: nearest.map(str::to_owned),
    }
}
