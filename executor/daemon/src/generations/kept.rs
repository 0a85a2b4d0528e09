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

/// Of which pod a container has a volume mounted, or may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    pub pod: Name,
    /// The container's name, if the graph has none of that name.
    pub undeclared: Option<Name>,
    /// It is known to have it. Else nobody knows what its container was started with, or its pod does not answer.
    pub is_sure: bool,
}

/// Who has a volume mounted, or may have: of a pod that does not answer, and of a container that the graph does not have as it runs (the
/// store may be another one than that which it was started from), what it has mounted is not known. Of a shared volume it may be any
/// pod of its stack. One that no container was ever started with (`was_used`), none has.
pub(super) fn who_has(
    observed: &Observed,
    graph: &Graph,
    id: &VolumeId,
    was_used: bool,
) -> Option<Holder> {
    // None: it is not known.
    let has = |pod: &Name, run: &Run| {
        let entry = graph.entries().find(|entry| entry.hash == run.hash);
        let mounts = entry.and_then(|entry| match &entry.node {
            Node::Container(node) => Some(&node.mounts),
            Node::Init(spec) => Some(&spec.mounts),
            _ => None,
        });
        let mut mounted = mounts?.values();
        Some(mounted.any(|mount| graph.kept_volume(pod, &mount.volume).as_ref() == Some(id)))
    };
    let may_be = |pod: &Name| match id {
        VolumeId::Own(own, _) => own == pod,
        VolumeId::Shared(name) => name.stack() == pod.stack(),
    };
    let holders = observed.pods.iter().filter(|(pod, _)| may_be(pod));
    let holders = holders.flat_map(|(pod, found)| {
        let running = found.containers.iter();
        let running = running.filter(|(_, run)| matches!(run.state, State::Running { .. }));
        let running = running.filter_map(move |(name, run)| {
            let is_sure = match has(pod, run) {
                Some(false) => return None,
                found => found.is_some(),
            };
            let is_declared = graph.process(pod, name).is_some();
            Some(Holder {
                pod: pod.clone(),
                undeclared: (!is_declared).then(|| name.clone()),
                is_sure,
            })
        });
        let silent = found.unresponsive.is_some().then(|| Holder {
            pod: pod.clone(),
            undeclared: None,
            is_sure: false,
        });
        running.chain(silent)
    });
    let holders = holders.filter(|holder| holder.is_sure || was_used);
    // Of several, one that is known, and that is declared: who ends that ends what is known of.
    holders.min_by_key(|holder| (!holder.is_sure, holder.undeclared.is_some()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tank_model::{Config, Digest, Key};
    use tank_plan::observed::{Pod, Verdict};

    /// A pod `db` with a container that mounts `data` and not `old`, and what runs of it.
    fn host(declares: bool) -> (Graph, Observed) {
        let config = serde_json::json!({ "pods": { "db": {
            "containers": { "app": {
                "image": "app:1",
                "mounts": { "data": { "volume": "data", "path": "/data" } },
            } },
            "volumes": { "data": {}, "old": {} },
        } } });
        let config: Config = serde_json::from_value(config).expect("a configuration");
        let build = |config: &Config| {
            let digest = Digest::of(b"app");
            Graph::build(config, |_| Some(digest)).expect("a graph")
        };
        let graph = build(&config);
        let (db, app) = (name("db"), name("app"));
        let key = Key::Container(db.clone(), app.clone());
        let hash = graph.get(&key).expect("its node").hash;
        let run = Run {
            hash,
            attempt: 0,
            started: 0,
            since: 0,
            state: State::Running {
                pid: 1,
                verdict: Verdict::unasked(true, 0),
            },
            limits: tank_model::spec::Limits::default(),
            halted: false,
            files: None,
            out_of_memory: false,
            ending: false,
            tty: false,
            stop_signal: 15,
            stop_timeout: 0,
        };
        let mut pod = Pod::default();
        pod.containers.insert(app, run);
        let mut observed = Observed::default();
        observed.pods.insert(db, pod);
        match declares {
            true => (graph, observed),
            false => (build(&Config::default()), observed),
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn what_a_container_was_started_from_says_what_it_has() {
        let (graph, observed) = host(true);
        let has = |volume: &str, was_used| {
            let id = VolumeId::Own(name("db"), name(volume));
            who_has(&observed, &graph, &id, was_used)
        };
        let holder = has("data", true).expect("it has it");
        assert_eq!((holder.undeclared, holder.is_sure), (None, true));
        assert_eq!(has("old", true), None);
    }

    #[test]
    fn of_another_store_a_volume_is_only_supposed_to_be_used_and_not_where_it_never_was() {
        let (graph, observed) = host(false);
        let has = |pod: &str, was_used| {
            let id = VolumeId::Own(name(pod), name("old"));
            who_has(&observed, &graph, &id, was_used)
        };
        let holder = has("db", true).expect("it may have it");
        assert_eq!(
            (holder.undeclared, holder.is_sure),
            (Some(name("app")), false)
        );
        assert_eq!(has("db", false), None);
        assert_eq!(has("web", true), None);
        let shared = VolumeId::Shared(name("up"));
        assert_eq!(who_has(&observed, &graph, &shared, false), None);
        assert!(who_has(&observed, &graph, &shared, true).is_some());
    }
}
