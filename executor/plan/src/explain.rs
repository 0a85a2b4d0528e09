//! Why a pod is in the state it is in, for people: made of what is declared, what was found, and what the next
//! pass would do and leaves. Nothing branches on it.

use crate::{
    events::LastEnd,
    observed::{FailedStep, Observed, Run, State},
    report::Report,
    step::Plan,
    why::WaitsFor,
};
use std::collections::BTreeMap;
use tank_model::{Graph, Name, spec::Restart};

/// The most reasons that are given.
pub const MAX_REASONS: usize = 200;

/// One reason.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reason {
    /// The container that it is about. None: it is about the pod.
    pub container: Option<Name>,
    /// A sentence.
    pub text: String,
    /// Since when that is so, in milliseconds since the Unix epoch.
    pub since: Option<u64>,
    /// When it is tried again, by the clock of [`Observed::now`].
    pub until: Option<u64>,
    /// What to type next.
    pub next: Option<String>,
}

/// A pod, and all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its name.
    pub pod: &'a Name,
    /// What is declared.
    pub graph: &'a Graph,
    /// What was found.
    pub observed: &'a Observed,
    /// What the next pass would do.
    pub plan: &'a Plan,
    /// What it leaves.
    pub report: &'a Report,
    /// How the probes of the pod's containers failed last.
    pub probes: &'a BTreeMap<Name, String>,
    /// How its containers ended last.
    pub ends: &'a BTreeMap<Name, LastEnd>,
    /// What users are called.
    pub users: &'a BTreeMap<u32, String>,
}

impl Reason {
    fn of_pod(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    fn of(container: &Name, text: impl Into<String>) -> Self {
        Self {
            container: Some(container.clone()),
            ..Self::of_pod(text)
        }
    }

    fn next(self, command: impl Into<String>) -> Self {
        Self {
            next: Some(command.into()),
            ..self
        }
    }
}

/// Why the pod is in the state it is in: what weighs most first. Empty: it runs, as it is declared.
pub fn explain(subject: &Subject<'_>) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = of_shim(subject).into_iter().collect();
    reasons.extend(stopped(subject));
    reasons.extend(blocked(subject));
    reasons.extend(failing(subject));
    reasons.extend(waiting(subject));
    reasons.extend(containers(subject));
    reasons.extend(of_host(subject));
    reasons.extend(to_come(subject));
    reasons.truncate(MAX_REASONS);
    reasons
}

fn of_shim(subject: &Subject<'_>) -> Option<Reason> {
    let found = subject.observed.pods.get(subject.pod)?;
    let why = found.unresponsive.as_ref()?;
    Some(Reason::of_pod(why.to_string()).next("tank events"))
}

/// What somebody has stopped.
fn stopped(subject: &Subject<'_>) -> Vec<Reason> {
    let Subject {
        pod, graph, report, ..
    } = *subject;
    let own: Vec<_> = report
        .stopped
        .iter()
        .filter(|one| one.pod == *pod)
        .collect();
    let is_whole = own.len() == graph.containers(pod).count();
    let reasons = own.iter().map(|one| {
        let who = subject.users.get(&one.uid).cloned();
        let who = who.unwrap_or_else(|| crate::overrides::who(one.uid));
        let text = format!("{who} stopped it by hand");
        let command = match is_whole {
            true => format!("tank start {pod}"),
            false => format!("tank start {pod}/{}", one.container),
        };
        Reason {
            since: Some(one.time),
            ..Reason::of(&one.container, text).next(command)
        }
    });
    reasons.collect()
}

/// What can't be started from what is declared.
fn blocked(subject: &Subject<'_>) -> Vec<Reason> {
    let own = subject
        .report
        .blocked
        .iter()
        .filter(|one| one.pod == *subject.pod);
    let reasons = own.map(|one| Reason {
        container: one.container.clone(),
        ..Reason::of_pod(one.to_string())
    });
    reasons.collect()
}

/// Steps that failed: those that are not tried yet, and those that the next pass tries.
fn failing(subject: &Subject<'_>) -> Vec<Reason> {
    let Subject {
        pod,
        observed,
        plan,
        report,
        ..
    } = *subject;
    let held = report
        .held
        .iter()
        .filter(|held| concerns(held.pod.as_ref(), pod));
    let held = held.map(|held| Reason {
        until: Some(held.until),
        ..Reason::of_pod(format!("can't {}: {}", held.step, held.reason()))
            .next(format!("tank start {pod}"))
    });
    let failed = |planned: &crate::PlannedStep| {
        let id = planned.step.id();
        let mut failures = observed.failures.iter();
        failures.find(|failed| failed.step == id)
    };
    let steps = plan
        .steps
        .iter()
        .filter(|planned| concerns(planned.step.pod(), pod));
    let retried = steps.filter_map(|planned| {
        let FailedStep { count, why, .. } = failed(planned)?;
        let times = if *count == 1 { "time" } else { "times" };
        let text = format!("can't {}: it failed {count} {times}: {why}", planned.step);
        Some(Reason::of_pod(text))
    });
    held.chain(retried).collect()
}

/// Whether what is of a pod, or of the host, concerns this one.
fn concerns(of: Option<&Name>, pod: &Name) -> bool {
    of.is_none_or(|of| of == pod)
}

fn waiting(subject: &Subject<'_>) -> Vec<Reason> {
    let pod = subject.pod;
    let own = subject.report.waiting.iter().filter(|one| one.pod == *pod);
    let reasons = own.map(|one| {
        let name = &one.container;
        let next = match &one.why {
            WaitsFor::Dependency { pod: other, .. } => format!("tank explain {other}"),
            WaitsFor::Stopped { pod: other } => format!("tank start {other}"),
            WaitsFor::Init { name } => format!("tank logs {pod}/{name}"),
            WaitsFor::Address(_) => "tank list".to_owned(),
            WaitsFor::Shim(_) => "tank events".to_owned(),
            WaitsFor::End(_) => format!("tank logs {pod}/{name}"),
            WaitsFor::Restart { .. } => format!("tank logs {pod}/{name}"),
        };
        Reason {
            until: one.until,
            ..Reason::of(name, one.why.to_string()).next(next)
        }
    });
    reasons.collect()
}

/// What the containers do that is not what they should.
fn containers(subject: &Subject<'_>) -> Vec<Reason> {
    let Subject {
        pod,
        graph,
        observed,
        report,
        ..
    } = *subject;
    let Some(found) = observed.pods.get(pod) else {
        return Vec::new();
    };
    let restart = graph.pod(pod).map(|node| node.restart);
    let inits = graph.init(pod).map(|(name, _, hash)| (name, hash));
    let all = inits.chain(graph.containers(pod).map(|(name, _, hash)| (name, hash)));
    let all = all.filter(|(name, _)| !report.is_stopped(pod, name));
    let reasons = all.flat_map(|(name, hash)| {
        let run = found.containers.get(name);
        let is_init = graph.container(pod, name).is_none();
        let reasons = run.map(|run| {
            let is_over = is_init && run.ended_well();
            match run.hash == hash {
                _ if is_over => Vec::new(),
                true => of_run(subject, name, run, restart),
                false => vec![Reason::of(
                    name,
                    "it runs as an earlier generation declared it",
                )],
            }
        });
        reasons.unwrap_or_default()
    });
    reasons.collect()
}

/// What is wrong with a run, or why it is over.
fn of_run(subject: &Subject<'_>, name: &Name, run: &Run, restart: Option<Restart>) -> Vec<Reason> {
    let pod = subject.pod;
    let logs = format!("tank logs {pod}/{name}");
    let mut reasons = Vec::new();
    let probe = subject.probes.get(name);
    let answer = probe.map_or_else(String::new, |answer| {
        format!(": its probe failed: {answer}")
    });
    match &run.state {
        State::Running { verdict, .. } => {
            if let Some(probed) = verdict.failed {
                let text = format!("{}{answer}", probed.failure());
                reasons.push(Reason::of(name, text).next(logs.clone()));
            } else if !verdict.ready {
                let since = ago(subject.observed.now, verdict.since);
                let text = format!("it runs, and is not ready for {since}{answer}");
                reasons.push(Reason::of(name, text).next(logs.clone()));
            }
            if run.halted {
                reasons.push(Reason::of(name, "somebody stopped or froze it"));
            }
            if run.attempt > 0 {
                let times = match run.attempt {
                    1 => "once".to_owned(),
                    more => format!("{more} times in a row"),
                };
                let last = subject.ends.get(name);
                let how = last.map_or_else(String::new, |last| format!("; {}", before(name, last)));
                let text = format!("it was restarted {times}{how}");
                let previous = format!("tank logs --previous {pod}/{name}");
                reasons.push(Reason {
                    since: last.map(|last| last.time),
                    ..Reason::of(name, text).next(previous)
                });
            }
        }
        State::Exited { status, at } => {
            let since = ago(subject.observed.now, *at);
            let policy = match restart {
                Some(Restart::Never) => ", and `restart = 'never` wants no other run",
                Some(Restart::OnFailure) if *status == 0 => {
                    ", and `restart = 'on_failure` wants no other run"
                }
                _ => "",
            };
            let text = format!("it ended with status {status} {since} ago{policy}");
            reasons.push(Reason::of(name, text).next(logs.clone()));
            if let Some(probe) = subject.ends.get(name).and_then(|last| last.probe.as_ref()) {
                let found = without_name(name, probe);
                let text = format!("it was ended because of a probe: {found}");
                reasons.push(Reason::of(name, text).next(format!("tank events {pod}")));
            }
        }
    }
    if run.out_of_memory {
        let text = "the kernel ended processes of it that were out of memory (`limits.memory`)";
        reasons.push(Reason::of(name, text).next(format!("tank why {pod}.{name}.limits.memory")));
    }
    reasons
}

/// How the run before this one ended, and why.
fn before(name: &Name, last: &LastEnd) -> String {
    let how = without_name(name, &last.how);
    match &last.probe {
        Some(probe) => format!(
            "the last time it {how}, because of a probe: {}",
            without_name(name, probe)
        ),
        None => format!("the last time it {how}"),
    }
}

/// The message of an event without the name of its container, with which it begins.
fn without_name<'a>(name: &Name, message: &'a str) -> &'a str {
    let rest = message.strip_prefix("container ");
    let rest = rest.and_then(|rest| rest.strip_prefix(name.as_str()));
    rest.map_or(message, |rest| rest.trim_start_matches([':', ' ']))
}

/// A span of time up to `now`, in words.
fn ago(now: u64, then: u64) -> String {
    let seconds = now.saturating_sub(then) / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

/// What it lacks of the host, and its ports.
fn of_host(subject: &Subject<'_>) -> Vec<Reason> {
    let Subject { pod, report, .. } = *subject;
    let held = report.ports.iter().filter(|held| held.to == *pod);
    let held = held
        .map(|held| Reason::of_pod(held.to_string()).next(format!("tank explain {}", held.from)));
    let unmet = report.unmet.iter().filter(|unmet| unmet.pod() == pod);
    let unmet = unmet.map(|unmet| Reason::of_pod(unmet.to_string()));
    held.chain(unmet).collect()
}

/// What the next pass does, where nothing of it has failed.
fn to_come(subject: &Subject<'_>) -> Vec<Reason> {
    let Subject {
        pod,
        observed,
        plan,
        ..
    } = *subject;
    let failed = |planned: &crate::PlannedStep| {
        let id = planned.step.id();
        observed.failures.iter().any(|failed| failed.step == id)
    };
    let steps = plan
        .steps
        .iter()
        .filter(|planned| planned.step.pod() == Some(pod));
    let steps = steps.filter(|planned| !failed(planned));
    let reasons = steps.map(|planned| {
        let called = |uid| {
            let known = subject.users.get(&uid).cloned();
            known.unwrap_or_else(|| crate::overrides::who(uid))
        };
        let why = planned.why.text(called);
        let text = format!("next comes: {}, since {why}", planned.step);
        Reason::of_pod(text)
    });
    reasons.collect()
}
