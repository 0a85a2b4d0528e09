//! When volumes are written into archives.

use super::{Pass, did_you_mean, is_absolute};
use crate::{
    name::Name,
    spec::{Backup, Hook, LEAST_EVERY, MOST_EVERY, MOST_HOOK, Pod, Volume},
};

/// The most words of a hook's command, and the most bytes of them together: what a probe's may have as well, once it is
/// in a packet to the pod's shim.
const MAX_WORDS: usize = 1_000;
const MAX_BYTES: usize = 128 << 10;

impl Pass<'_> {
    /// What a volume says of its backups.
    pub(super) fn backup(&mut self, name: &Name, volume: &Volume, pod: &Pod) {
        let Some(backup) = &volume.backup else { return };
        let mut at = self.at.clone();
        at.extend(super::path(["volumes", name.as_str(), "backup"]));
        let mut pass = Pass {
            problems: self.problems,
            at,
        };
        pass.when_and_where(backup);
        for (field, hook) in backup.hooks() {
            pass.hook(field, hook, (name, pod));
        }
    }

    fn when_and_where(&mut self, backup: &Backup) {
        if !is_absolute(&backup.to) {
            self.relative(&["to"], &backup.to);
        } else if backup.to.trim_end_matches('/').is_empty() {
            let message = "`/` is the host's root, and no folder of backups".to_owned();
            self.report(
                "tank::backup::to",
                &["to"],
                message,
                "name a folder of root's, as `/srv/backups`",
            );
        }
        if !(LEAST_EVERY..=MOST_EVERY).contains(&backup.every) {
            let message = format!("a backup every {} can't be made", backup.every);
            let help = "write at least \"1m\", and at most a hundred years";
            self.report("tank::backup::every", &["every"], message, help);
        }
        if backup.keep == 0 {
            let message = "no backup would be kept".to_owned();
            self.report(
                "tank::backup::keep",
                &["keep"],
                message,
                "keep at least 1, or leave `backup` out",
            );
        }
    }

    fn hook(&mut self, field: &'static str, hook: &Hook, (volume, pod): (&Name, &Pod)) {
        let bytes: usize = hook.exec.iter().map(String::len).sum();
        let is_text = hook.exec.iter().all(|word| !word.contains('\0'));
        let is_command = hook.exec.first().is_some_and(|first| !first.is_empty()) && is_text;
        if !is_command || hook.exec.len() > MAX_WORDS || bytes > MAX_BYTES {
            let message = match is_command {
                true => "the hook's command is too long".to_owned(),
                false => "the hook has no command".to_owned(),
            };
            self.report(
                "tank::backup::command",
                &[field, "exec"],
                message,
                "name the program to run and its arguments; a long script is a file of the container's",
            );
        }
        if hook.timeout.0 == 0 || hook.timeout > MOST_HOOK {
            let message = format!("a hook can't take {}", hook.timeout);
            self.report(
                "tank::backup::timeout",
                &[field, "timeout"],
                message,
                "give it more than 0, and at most \"1h\"",
            );
        }
        self.container_of_hook(field, hook, (volume, pod));
    }

    /// The container that a hook runs in mounts the volume.
    fn container_of_hook(
        &mut self,
        field: &'static str,
        hook: &Hook,
        (volume, pod): (&Name, &Pod),
    ) {
        let mounts = |name: &&Name| {
            let container = pod.containers.get(*name);
            container.is_some_and(|spec| spec.mounts.values().any(|at| at.volume == *volume))
        };
        let mounting: Vec<&str> = pod
            .containers
            .keys()
            .filter(mounts)
            .map(Name::as_str)
            .collect();
        match &hook.container {
            Some(named) if mounting.contains(&named.as_str()) => {}
            Some(named) => {
                let message = match pod.containers.contains_key(named) {
                    true => format!("container `{named}` does not mount the volume `{volume}`"),
                    false => {
                        format!("the hook is to run in `{named}`, which its pod does not have")
                    }
                };
                let otherwise = match mounting.as_slice() {
                    [] => {
                        format!("no container of the pod mounts `{volume}`: a hook can run in none")
                    }
                    all => format!("name one that mounts it: `{}`", all.join("`, `")),
                };
                let help = did_you_mean(named.as_str(), mounting, &otherwise);
                self.report(
                    "tank::backup::container",
                    &[field, "container"],
                    message,
                    help,
                );
            }
            None if mounting.len() == 1 => {}
            None => {
                let (message, help) = match mounting.as_slice() {
                    [] => (
                        format!(
                            "no container of the pod mounts `{volume}`: the hook can run in none"
                        ),
                        "mount it, or leave the hook out".to_owned(),
                    ),
                    [first, ..] => (
                        format!("several containers mount `{volume}`"),
                        format!("say in which the hook runs: `container = \"{first}\"`"),
                    ),
                };
                self.report("tank::backup::container", &[field], message, help);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use serde_json::{Value, json};

    fn found(backup: Value) -> Vec<(&'static str, String)> {
        let mounts = json!({ "d": { "volume": "data", "path": "/d" } });
        let pod = json!({
            "containers": {
                "db": { "image": "a:1", "mounts": mounts },
                "side": { "image": "a:1" },
            },
            "volumes": { "data": { "backup": backup } },
        });
        let config = serde_json::from_value(json!({ "pods": { "web": pod } })).expect("it is one");
        let problems = check(&config).into_iter();
        let field = |path: &[String]| path[5..].join(".");
        problems.map(|one| (one.code, field(&one.path))).collect()
    }

    #[test]
    fn a_backup_says_what_can_be_done() {
        let hook = json!({ "exec": ["sync"] });
        let whole = json!({ "to": "/srv/backups", "every": "1d", "before": hook, "after": hook });
        assert_eq!(found(whole.clone()), []);
        let but = |field: &str, value: Value| {
            let mut changed = whole.clone();
            changed[field] = value;
            found(changed)
        };
        for (field, value, code, at) in [
            ("to", json!("backups"), "tank::path::relative", "to"),
            ("to", json!("/srv/../etc"), "tank::path::relative", "to"),
            ("to", json!("/"), "tank::backup::to", "to"),
            ("every", json!("59s"), "tank::backup::every", "every"),
            ("every", json!("99999w"), "tank::backup::every", "every"),
            ("keep", json!(0), "tank::backup::keep", "keep"),
            (
                "before",
                json!({ "exec": [] }),
                "tank::backup::command",
                "before.exec",
            ),
            (
                "before",
                json!({ "exec": ["a\0b"] }),
                "tank::backup::command",
                "before.exec",
            ),
            (
                "after",
                json!({ "exec": ["a", "b".repeat(200_000)] }),
                "tank::backup::command",
                "after.exec",
            ),
            (
                "after",
                json!({ "exec": ["a"], "timeout": "0s" }),
                "tank::backup::timeout",
                "after.timeout",
            ),
            (
                "after",
                json!({ "exec": ["a"], "timeout": "61m" }),
                "tank::backup::timeout",
                "after.timeout",
            ),
            (
                "before",
                json!({ "exec": ["a"], "container": "side" }),
                "tank::backup::container",
                "before.container",
            ),
            (
                "before",
                json!({ "exec": ["a"], "container": "dc" }),
                "tank::backup::container",
                "before.container",
            ),
        ] {
            assert_eq!(
                but(field, value.clone()),
                [(code, at.to_owned())],
                "{field} = {value}"
            );
        }
        assert_eq!(but("every", json!("1m")), []);
        assert_eq!(
            but("before", json!({ "exec": ["a"], "container": "db" })),
            []
        );
    }

    #[test]
    fn of_several_that_mount_it_the_hook_names_one() {
        let mounts = json!({ "d": { "volume": "data", "path": "/d" } });
        let container = json!({ "image": "a:1", "mounts": mounts });
        let with = |containers: Value| {
            let backup = json!({ "to": "/srv", "every": "1h", "before": { "exec": ["a"] } });
            let pod =
                json!({ "containers": containers, "volumes": { "data": { "backup": backup } } });
            let config = serde_json::from_value(json!({ "pods": { "web": pod } }));
            let problems = check(&config.expect("it is one")).into_iter();
            problems.map(|one| (one.code, one.help)).collect::<Vec<_>>()
        };
        let said = "say in which the hook runs: `container = \"a\"`".to_owned();
        let several = with(json!({ "a": container, "b": container }));
        assert_eq!(several, [("tank::backup::container", said)]);
        let none = with(json!({ "a": { "image": "a:1" } }));
        let left = "mount it, or leave the hook out".to_owned();
        assert_eq!(none, [("tank::backup::container", left)]);
    }
}
