//! What pods and containers do, in the one set of words that is shown of both ([`State`]). Pure.

use tank_model::Name;
use tank_plan::observed;
use tank_proto::varlink::{ContainerStatus, Pod, PodStatus, State};

/// A container as it was found; what is declared of it is for the caller to compare.
pub fn container(
    name: &Name,
    (image, digest): (String, Option<String>),
    there: Option<&observed::Run>,
) -> ContainerStatus {
    let mut view = ContainerStatus {
        name: name.to_string(),
        image,
        digest,
        state: State::Absent,
        pid: None,
        status: None,
        restarts: 0,
        started: None,
        ready: false,
        stopped: None,
        stopped_by: None,
        run_by: None,
    };
    let Some(there) = there else { return view };
    view.restarts = there.attempt;
    view.started = Some(there.since);
    match there.state {
        observed::State::Running { pid, verdict } => {
            view.state = State::Running;
            view.pid = Some(pid);
            view.ready = verdict.ready;
        }
        observed::State::Exited { status, .. } => {
            view.state = match status {
                0 => State::Completed,
                _ => State::Failed,
            };
            view.status = Some(status);
        }
    }
    view
}

/// The state of a declared pod whose shim answers. `unfinished`: what runs before its containers has
/// not ended well.
pub fn of_pod(containers: &[ContainerStatus], unfinished: bool) -> State {
    let is = |state: State| move |one: &ContainerStatus| one.state == state;
    let all = |state: State| !containers.is_empty() && containers.iter().all(is(state));
    let any_runs = containers.iter().any(is(State::Running));
    let ended = |one: &ContainerStatus| one.status.is_some_and(|status| status != 0);
    if all(State::Running) && containers.iter().all(|container| container.ready) {
        State::Running
    } else if all(State::Running) || unfinished && !any_runs {
        State::Starting
    } else if containers.iter().all(|one| one.status == Some(0)) {
        State::Completed
    } else if any_runs {
        State::Degraded
    } else if all(State::Outdated) {
        State::Outdated
    } else if containers.iter().any(ended) {
        State::Failed
    } else if all(State::Absent) {
        State::Absent
    } else {
        State::Starting
    }
}

/// Says that somebody has stopped what was stopped by hand and does not run, and so of a pod of which nothing else is to run.
pub fn mark_stopped(pod: &mut Pod) {
    let is_stopped = |one: &ContainerStatus| one.stopped.is_some() && one.state != State::Running;
    let mut any = false;
    for one in pod.containers.iter_mut().filter(|one| is_stopped(one)) {
        if one.state != State::Unresponsive {
            one.state = State::Stopped;
            any = true;
        }
    }
    // What somebody runs by hand beside it is none of what is declared.
    let is_over = |one: &ContainerStatus| {
        one.run_by.is_some() || matches!(one.state, State::Stopped | State::Completed)
    };
    let is_known = !matches!(pod.state, State::Undeclared | State::Unresponsive);
    if any && is_known && pod.containers.iter().all(is_over) {
        pod.state = State::Stopped;
    }
}

/// The pods that are not as they should be. None: all are.
pub fn failing(pods: &[Pod]) -> Option<Vec<PodStatus>> {
    let is_well = |pod: &&Pod| {
        matches!(
            pod.state,
            State::Running | State::Completed | State::Stopped
        )
    };
    let failing = pods.iter().filter(|pod| !is_well(pod));
    let failing: Vec<PodStatus> = failing
        .map(|pod| PodStatus {
            pod: pod.name.clone(),
            state: pod.state,
        })
        .collect();
    Some(failing).filter(|failing| !failing.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `r`: runs and is ready; `n`: runs and is not; `0`, `1`: ended so; `a`: absent; `o`: outdated.
    fn containers(all: &str) -> Vec<ContainerStatus> {
        let name = Name::new("app").expect("a name");
        let one = |word: char| {
            let mut one = container(&name, (String::new(), None), None);
            (one.state, one.ready, one.status) = match word {
                'r' => (State::Running, true, None),
                'n' => (State::Running, false, None),
                '0' => (State::Completed, false, Some(0)),
                '1' => (State::Failed, false, Some(1)),
                'o' => (State::Outdated, false, None),
                _ => (State::Absent, false, None),
            };
            one
        };
        all.chars().map(one).collect()
    }

    #[test]
    fn a_pod_has_one_word_for_what_its_containers_do() {
        for (all, unfinished, expected) in [
            ("rr", false, State::Running),
            ("rn", false, State::Starting),
            ("ra", true, State::Degraded),
            ("aa", true, State::Starting),
            ("aa", false, State::Absent),
            ("00", false, State::Completed),
            ("r0", false, State::Degraded),
            ("r1", false, State::Degraded),
            ("01", false, State::Failed),
            ("1a", false, State::Failed),
            ("0a", false, State::Starting),
            ("oo", false, State::Outdated),
        ] {
            let found = of_pod(&containers(all), unfinished);
            assert_eq!(found, expected, "{all} {unfinished}");
        }
    }

    #[test]
    fn stopped_is_what_somebody_has_stopped() {
        let pod = |all: &str, stopped: &[usize]| {
            let mut containers = containers(all);
            let state = of_pod(&containers, false);
            for at in stopped {
                containers[*at].stopped = Some(7);
            }
            let mut pod = Pod {
                name: "web".to_owned(),
                state,
                addresses: Vec::new(),
                published: Vec::new(),
                containers,
                reason: None,
                policies: None,
                interfaces: None,
            };
            mark_stopped(&mut pod);
            let states: Vec<State> = pod.containers.iter().map(|one| one.state).collect();
            (pod.state, states)
        };
        assert_eq!(pod("1", &[0]), (State::Stopped, vec![State::Stopped]));
        let (part, states) = pod("r1", &[1]);
        assert_eq!(part, State::Degraded);
        assert_eq!(states, [State::Running, State::Stopped]);
        // Another one has failed by itself.
        assert_eq!(pod("11", &[1]).0, State::Failed);
        assert_eq!(pod("01", &[1]).0, State::Stopped);
        // It is asked to end, and runs yet.
        assert_eq!(pod("r", &[0]).0, State::Running);
        assert_eq!(pod("1", &[]).0, State::Failed);
    }
}
