//! What fields are called elsewhere, in Compose, Docker's `run` and Kubernetes, and what they are here.

use super::{Unknown, page_of};
use std::fmt::Write;

/// A word of others, and the fields that do it here: the first is meant most.
const WORDS: [(&str, &[&str]); 39] = [
    ("build", &["containers.image"]),
    ("cap_add", &["containers.capabilities"]),
    ("cap_drop", &["containers.capabilities"]),
    ("configmap", &["containers.files"]),
    ("configs", &["containers.files"]),
    ("container_name", &["pods"]),
    ("cpus", &["containers.limits"]),
    ("deploy", &["containers.limits", "tank.replicas"]),
    ("entrypoint", &["containers.command", "containers.args"]),
    ("env_file", &["containers.env"]),
    ("environment", &["containers.env"]),
    ("expose", &["publish"]),
    (
        "healthcheck",
        &["containers.readiness", "containers.liveness"],
    ),
    ("imagePullPolicy", &["containers.pull"]),
    ("initContainers", &["init"]),
    ("links", &["depends_on"]),
    ("livenessProbe", &["containers.liveness"]),
    ("logging", &["containers.logs"]),
    ("mem_limit", &["containers.limits"]),
    ("memory", &["containers.limits"]),
    ("network_mode", &["network"]),
    ("ports", &["publish", "containers.ports"]),
    ("pull_policy", &["containers.pull"]),
    ("readinessProbe", &["containers.readiness"]),
    ("replicas", &["tank.replicas"]),
    ("resources", &["containers.limits"]),
    ("restartPolicy", &["restart"]),
    ("restart_policy", &["restart"]),
    ("scale", &["tank.replicas"]),
    (
        "securityContext",
        &["containers.user", "containers.capabilities"],
    ),
    ("security_opt", &["containers.seccomp"]),
    ("services", &["pods"]),
    ("startupProbe", &["containers.startup"]),
    ("stop_grace_period", &["containers.stop"]),
    ("stop_signal", &["containers.stop"]),
    ("tmpfs", &["volumes"]),
    ("volumeMounts", &["containers.mounts"]),
    ("volumes_from", &["volumes"]),
    ("workdir", &["containers.working_dir"]),
];

/// The pages of what a word of others is here. None: it is no such word.
///
/// # Errors
/// When one of them is not there, which a test holds.
pub(super) fn pages(word: &str) -> Option<Result<String, Unknown>> {
    let (_, here) = WORDS
        .iter()
        .find(|(theirs, _)| theirs.eq_ignore_ascii_case(word))?;
    let names: Vec<String> = here.iter().map(|field| format!("`{field}`")).collect();
    let mut out = String::new();
    let _ = writeln!(out, "`{word}` of others is {} here.", names.join(" and "));
    for field in *here {
        match page_of(field) {
            Ok(page) => {
                let _ = write!(out, "\n{page}");
            }
            Err(unknown) => return Some(Err(unknown)),
        }
    }
    Some(Ok(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manual::field_page;

    #[test]
    fn a_word_of_others_leads_to_what_does_it_here() {
        for (word, _) in WORDS {
            let page = field_page(word).unwrap_or_else(|unknown| panic!("{word}: {unknown:?}"));
            let begin = format!("`{word}` of others is ");
            assert!(page.starts_with(&begin), "{word}: {page}");
        }
        let mut sorted = WORDS.map(|(word, _)| word.to_lowercase());
        sorted.sort();
        sorted
            .windows(2)
            .for_each(|pair| assert_ne!(pair[0], pair[1]));
        let health = field_page("healthcheck").expect("a page");
        assert!(
            health.contains("\npods.NAME.containers.NAME.readiness  ")
                || health.contains("readiness  "),
            "{health}"
        );
        // A field that there is here, by its path, is that field's.
        let own = field_page("pods.containers.ports").expect("a page");
        assert!(!own.contains("of others"), "{own}");
        assert!(field_page("entrypiont").is_err());
    }
}
