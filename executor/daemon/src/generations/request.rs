//! A configuration as it comes over the socket: decoded, checked, and refused where this daemon
//! can't carry it out.

use super::Error;
use tank_model::{
    Config, canonical, check,
    spec::{self, READS_AGAIN},
};

/// Decodes and checks a configuration that came over the socket. That the command has checked it
/// does not count: a client may send anything.
pub fn read_config(text: &str) -> Result<Config, Error> {
    let config: Config = canonical::decode(text.as_bytes()).map_err(|e| {
        let cause = std::error::Error::source(&e)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        Error::Invalid(vec![format!("{e}{cause}")])
    })?;
    let mut problems: Vec<String> = check::check(&config)
        .iter()
        .map(|p| format!("{}: {} ({})", p.path.join("."), p.message, p.help))
        .collect();
    for (pod, spec) in &config.pods {
        for (group, name, container) in spec.processes() {
            check_names(
                &format!("pods.{pod}.{group}.{name}"),
                container,
                &mut problems,
            );
        }
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Error::Invalid(problems))
    }
}

/// What is wrong with `after` and was not with `before`. What an older version stored may be
/// refused now: it neither keeps other pods from being changed, nor itself from being taken away.
pub fn added_problems(before: &Config, after: &Config) -> Vec<String> {
    let known = check::check(before);
    let added = check::check(after)
        .into_iter()
        .filter(|problem| !known.contains(problem));
    added.map(|problem| problem.message).collect()
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
