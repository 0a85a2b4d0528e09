//! A configuration as it comes over the socket: decoded, checked, and refused where this daemon
//! can't carry it out.

use super::{Error, Misfit, error::Unfit, uses};
use tank_model::{
    Config, Name, Scope, canonical,
    check::{self, Problem},
    provenance::Provenance,
    spec::{self, READS_AGAIN},
};

/// What is wrong, in words.
#[derive(Default)]
pub struct Problems(Vec<String>);

impl Problems {
    pub fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    /// # Errors
    /// [`Error::Invalid`] where anything is wrong.
    pub fn result<T>(self, value: T) -> Result<T, Error> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(Error::Invalid(self.0))
        }
    }
}

/// Decodes and checks a configuration that came over the socket: of one source or, `is_host`, of the
/// whole host. That the command has checked it does not count: a client may send anything.
pub fn read_config(text: &str, is_host: bool) -> Result<Config, Error> {
    let config: Config = canonical::decode(text.as_bytes()).map_err(|e| {
        let cause = std::error::Error::source(&e)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        Error::Invalid(vec![format!("{e}{cause}")])
    })?;
    let mut problems = foreign_pods(&config, is_host);
    let found = match is_host {
        true => check::check_host(&config, &Scope::Host),
        false => check::check(&config),
    };
    for problem in &found {
        problems.add(worded(problem, &[]));
    }
    for (pod, spec) in &config.pods {
        for (group, name, container) in spec.processes() {
            check_names(
                &format!("pods.{pod}.{group}.{name}"),
                container,
                &mut problems.0,
            );
        }
    }
    problems.result(config)
}

/// The pods, networks and shared volumes that a configuration may not name. A source names those of its stack and no
/// others: a host, which names all, has no stack itself.
fn foreign_pods(config: &Config, is_host: bool) -> Problems {
    let mut problems = Problems::default();
    if is_host {
        if let Some(stack) = &config.stack {
            problems.add(format!("stack: the whole host is no part of `{stack}`"));
        }
        return problems;
    }
    let stack = config.stack.as_ref().map(Name::as_str);
    for pod in config.pods.keys().filter(|pod| pod.stack() != stack) {
        problems.add(match stack {
            Some(stack) => format!("pods.{pod}: it is no pod of the stack `{stack}`"),
            None => format!("pods.{pod}: it is a pod of a stack, and this names none"),
        });
    }
    let networks = config.networks.keys();
    for network in networks.filter(|network| network.stack() != stack) {
        problems.add(match stack {
            Some(stack) => format!("networks.{network}: it is no network of the stack `{stack}`"),
            None => {
                format!("networks.{network}: it is a network of a stack, and this names none")
            }
        });
    }
    let volumes = config.volumes.keys();
    for volume in volumes.filter(|volume| volume.stack() != stack) {
        problems.add(match stack {
            Some(stack) => format!("volumes.{volume}: it is no volume of the stack `{stack}`"),
            None => format!("volumes.{volume}: it is a volume of a stack, and this names none"),
        });
    }
    problems
}

/// A problem with its field, its line where one of these knows that, and what to do.
fn worded(problem: &Problem, lines: &[&Provenance]) -> String {
    let line = |path: &[String]| {
        let place = place(path, lines);
        place.map(|place| format!("{place}: ")).unwrap_or_default()
    };
    let (at, path) = (line(&problem.path), problem.path.join("."));
    let related = problem.related.iter().map(|(path, role)| {
        let (at, path) = (line(path), path.join("."));
        format!("; {role}: {at}{path}")
    });
    let related = related.collect::<String>();
    let Problem { message, help, .. } = problem;
    format!("{at}{path}: {message} ({help}{related})")
}

/// What is wrong with `after` and was with none of `before`, of which the first is what there is. What an
/// older version stored may be refused now: it neither keeps other pods from being changed, nor itself
/// from being taken away or gone back to. `lines`: who knows which line set a field.
///
/// # Errors
/// [`Error::InUse`] where all that is wrong is that pods which stay use what goes, else
/// [`Error::Unfit`].
pub fn refuse_added_problems(
    (before, after): (&[&Config], &Config),
    scope: &Scope,
    lines: &[&Provenance],
) -> Result<(), Error> {
    let mut added = check::check_host(after, scope);
    for config in before {
        let known = check::check_host(config, scope);
        added.retain(|problem| !known.contains(problem));
    }
    let Some(there) = before.first().filter(|_| !added.is_empty()) else {
        return Ok(());
    };
    if let Some(refused) = uses::refusal((there, after), scope, &added, lines) {
        return Err(refused);
    }
    let words = added.iter().map(|problem| worded(problem, lines)).collect();
    let list = added.into_iter().map(|problem| {
        let related = problem.related.as_ref().map(|(path, role)| {
            let at = place(path, lines).unwrap_or_else(|| path.join("."));
            format!("{role}: {at}")
        });
        Misfit {
            place: place(&problem.path, lines),
            related,
            problem,
        }
    });
    let list = list.collect();
    Err(Error::Unfit(Box::new(Unfit { words, list })))
}

/// The line of a field, by whoever knows it first.
pub(super) fn place(path: &[String], lines: &[&Provenance]) -> Option<String> {
    lines.iter().find_map(|lines| lines.place(path))
}

/// Names that only this machine knows.
fn check_names(at: &str, container: &spec::Container, problems: &mut Vec<String>) {
    let capabilities = container
        .capabilities
        .add
        .iter()
        .chain(&container.capabilities.drop);
    for unknown in
        capabilities.filter(|name| *name != "ALL" && !tank_sys::privilege::is_capability(name))
    {
        problems.push(format!("{at}.capabilities: `{unknown}` is no capability"));
    }
    let reloads = container
        .files
        .values()
        .filter_map(|file| file.reload.as_deref());
    let signals = reloads
        .filter(|signal| *signal != READS_AGAIN)
        .chain(container.stop.signal.as_deref());
    for signal in signals.filter(|signal| tank_sys::process::signal_number(signal).is_none()) {
        problems.push(format!("{at}: `{signal}` is no signal"));
    }
    let calls = container
        .seccomp
        .allow
        .iter()
        .chain(&container.seccomp.deny);
    for call in calls.filter(|call| tank_sys::seccomp::number(call).is_none()) {
        problems.push(format!(
            "{at}.seccomp: `{call}` is no system call of this machine"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of `stays`, and of a stack's pod with more fields.
    fn host(web: serde_json::Value) -> Config {
        let app = serde_json::json!({ "app": { "image": "x" } });
        let mut pod = serde_json::json!({ "containers": app });
        let more = web.as_object().expect("fields").clone();
        pod.as_object_mut().expect("a pod").extend(more);
        let stays = serde_json::json!({
            "containers": app,
            "publish": { "http": { "port": 8080, "to": 80 } },
        });
        let pods = serde_json::json!({ "pods": { "blog:web": pod, "stays": stays } });
        serde_json::from_value(pods).expect("a configuration")
    }

    #[test]
    fn what_was_refused_by_nobody_then_is_gone_back_to_and_conflicts_are_not() {
        let scope = Scope::Stack(Some(Name::new("blog").expect("a name")));
        let there = host(serde_json::json!({}));
        let refused = |before: &[&Config], after: &Config| -> Vec<&str> {
            match refuse_added_problems((before, after), &scope, &[]) {
                Ok(()) => Vec::new(),
                Err(Error::Unfit(unfit)) => unfit
                    .list
                    .iter()
                    .map(|misfit| misfit.problem.code)
                    .collect(),
                Err(other) => panic!("{other}"),
            }
        };
        // As an older version took it.
        let then = host(serde_json::json!({ "update": "start_first" }));
        assert_eq!(
            refused(&[&there], &then),
            ["tank::unsupported::start_first"]
        );
        assert!(refused(&[&there, &then], &then).is_empty());
        // What others have by now is theirs.
        let publish = serde_json::json!({ "web": { "port": 8080, "to": 80 } });
        let mut alone = host(serde_json::json!({ "publish": publish }));
        let both = alone.clone();
        alone.pods.retain(|pod, _| pod.stack().is_some());
        assert_eq!(refused(&[&there, &alone], &both).len(), 1);
    }

    /// What the compiler takes, this daemon takes: the names of both are the same.
    #[test]
    fn every_name_of_the_model_is_known_here() {
        for name in tank_model::spec::CAPABILITIES {
            assert!(tank_sys::privilege::is_capability(name), "{name}");
        }
        let real_time = ["SIGRTMIN+0".to_owned(), "SIGRTMIN+30".to_owned()];
        for name in tank_model::spec::SIGNALS
            .iter()
            .map(|name| (*name).to_owned())
            .chain(real_time)
        {
            assert!(tank_sys::process::signal_number(&name).is_some(), "{name}");
        }
    }
}
