//! A configuration as it comes over the socket: decoded, checked, and refused where this daemon can't carry it out.

use tank_model::{
    Config, canonical, check,
    spec::{self, READS_AGAIN},
};
use tank_proto::varlink::Error;

/// Decodes and checks a configuration that came over the socket: nothing a client says is taken on trust.
pub fn read_config(text: &str) -> Result<Config, Error> {
    let config: Config = canonical::decode(text.as_bytes()).map_err(|e| {
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
        Error::Invalid { problems: vec![format!("{e}{cause}")] }
    })?;
    let mut problems: Vec<String> =
        check::check(&config).iter().map(|p| format!("{}: {} ({})", p.path.join("."), p.message, p.help)).collect();
    for (pod, spec) in &config.pods {
        for (group, name, container) in spec.processes() {
            check_names(&format!("pods.{pod}.{group}.{name}"), container, &mut problems);
        }
    }
    problems.extend(unsupported(&config));
    if problems.is_empty() { Ok(config) } else { Err(Error::Invalid { problems }) }
}

/// Names that only this machine knows.
fn check_names(at: &str, container: &spec::Container, problems: &mut Vec<String>) {
    let capabilities = container.capabilities.add.iter().chain(&container.capabilities.drop);
    for unknown in capabilities.filter(|name| *name != "ALL" && !tank_sys::privilege::is_capability(name)) {
        problems.push(format!("{at}.capabilities: `{unknown}` is no capability"));
    }
    let reloads = container.files.values().filter_map(|file| file.reload.as_deref());
    let signals = reloads.filter(|signal| *signal != READS_AGAIN).chain(container.stop.signal.as_deref());
    for signal in signals.filter(|signal| tank_sys::process::signal_number(signal).is_none()) {
        problems.push(format!("{at}: `{signal}` is no signal"));
    }
}

/// What a configuration may say and this daemon can't carry out yet: refused, not ignored.
fn unsupported(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    for (pod, spec) in &config.pods {
        let mut report = |field: &str| problems.push(format!("pods.{pod}.{field}: this tankd can't do that yet"));
        if spec.update != spec::Update::Recreate {
            report("update");
        }
        if matches!(spec.network, spec::Network::Nics(_)) {
            report("network.nics");
        }
        for (group, name, container) in spec.processes() {
            let calls = container.seccomp.allow.iter().chain(&container.seccomp.deny);
            for call in calls.filter(|call| tank_sys::seccomp::number(call).is_none()) {
                report(&format!("{group}.{name}.seccomp.{call}"));
            }
        }
    }
    problems
}
