//! Volumes that pods share: declared once, beside the pods, and mounted by those that say so.

use super::{Pass, Problem, did_you_mean, path};
use crate::{
    name::Name,
    spec::{Config, MAX_SHARED_VOLUMES, MAX_VOLUME_SIZE, MIN_VOLUME_SIZE, Pod, Volume},
    stack::Scope,
    units::Bytes,
};

impl Pass<'_> {
    /// The shared volumes that a pod names, all of its own stack.
    pub(super) fn shared_volumes(&mut self, name: &Name, pod: &Pod, config: &Config) {
        for (volume, source) in &pod.volumes {
            let Some(shared) = &source.shared else {
                continue;
            };
            if let Some(called) = source.shared_of(name)
                && !config.volumes.contains_key(&called)
            {
                let own = config.volumes.keys();
                let own = own.filter(|other| other.stack() == name.stack());
                let help = did_you_mean(
                    shared.as_str(),
                    own.map(Name::local),
                    &format!("declare it beside `pods`: `volumes.{shared} = {{}}`"),
                );
                let message = format!(
                    "volume `{volume}` is the shared volume `{shared}`, which is not declared"
                );
                let field = ["volumes", volume.as_str(), "shared"];
                self.report("tank::volume::unknown_shared", &field, message, help);
            }
            self.beside_shared((volume, source), shared);
        }
    }

    /// What a shared volume is, its own declaration says.
    fn beside_shared(&mut self, (volume, source): (&Name, &Volume), shared: &Name) {
        let kinds = [
            ("host", source.host.is_some()),
            ("tmpfs", source.tmpfs.is_some()),
        ];
        let above = [
            ("owner", source.owner.is_some()),
            ("mode", source.mode.is_some()),
            ("no_copy", source.no_copy),
            ("size", source.size.is_some()),
        ];
        let kinds = kinds.map(|(field, said)| (field, said, "keep one of the two".to_owned()));
        let above = above.map(|(field, said)| {
            let help = format!("write it where the volume is declared: `volumes.{shared}.{field}`");
            (field, said, help)
        });
        for (field, _, help) in kinds.into_iter().chain(above).filter(|(_, said, _)| *said) {
            let message = format!(
                "volume `{volume}` is the shared volume `{shared}`, and says its `{field}` itself"
            );
            let at = ["volumes", volume.as_str(), field];
            self.report("tank::volume::beside_shared", &at, message, help);
            self.relate(&["volumes", volume.as_str(), "shared"], "it is shared here");
        }
    }
}

/// A volume's size is none.
pub(super) const SIZE: &str = "tank::volume::size";

/// What is wrong with the size of a volume, and what to do.
pub(super) fn size(volume: &Name, size: Option<Bytes>) -> Option<(String, String)> {
    let size = size?;
    if size < MIN_VOLUME_SIZE {
        let message = format!(
            "volume `{volume}` would have {size}, and {MIN_VOLUME_SIZE} are the least that one can have"
        );
        let help = "write a larger one, or leave `size` out: then the disk is the bound";
        return Some((message, help.to_owned()));
    }
    (size > MAX_VOLUME_SIZE).then(|| {
        let message = format!(
            "volume `{volume}` would have {size}, and {MAX_VOLUME_SIZE} are the most that is counted"
        );
        let help = "leave `size` out: then the disk is the bound";
        (message, help.to_owned())
    })
}

/// The sizes of those that are declared beside the pods.
pub(super) fn sizes(config: &Config, problems: &mut Vec<Problem>) {
    for (name, volume) in &config.volumes {
        if let Some((message, help)) = size(name, volume.size) {
            problems.push(Problem {
                code: SIZE,
                path: path(["volumes", name.as_str(), "size"]),
                message,
                help,
                related: None,
            });
        }
    }
}

/// There is a most of them, those that `scope` means last.
pub(super) fn volumes(config: &Config, scope: &Scope, problems: &mut Vec<Problem>) {
    let all = config.volumes.keys();
    let (meant, there): (Vec<_>, Vec<_>) = all.partition(|name| scope.has_network(name));
    let mut in_order = there.into_iter().chain(meant);
    if let Some(name) = in_order.nth(MAX_SHARED_VOLUMES) {
        problems.push(Problem {
            code: "tank::volume::many_shared",
            path: path(["volumes", name.as_str()]),
            message: format!(
                "there are {} shared volumes, and {MAX_SHARED_VOLUMES} are the most of a host",
                config.volumes.len()
            ),
            help: "have pods mount directories of one with `sub_path`".to_owned(),
            related: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{check, check_host};
    use crate::{name::Name, spec::Config, stack::Scope};
    use serde_json::json;
    use std::collections::BTreeSet;

    fn config(volumes: &serde_json::Value, own: &serde_json::Value) -> Config {
        let container =
            json!({ "image": "a:1", "mounts": { "up": { "volume": "up", "path": "/up" } } });
        let pod = json!({ "containers": { "app": container }, "volumes": { "up": own } });
        serde_json::from_value(json!({ "pods": { "web": pod }, "volumes": volumes }))
            .expect("it is one")
    }

    fn found(config: &Config) -> Vec<(&'static str, String, String)> {
        let problems = check(config).into_iter();
        problems
            .map(|found| (found.code, found.path.join("."), found.help))
            .collect()
    }

    #[test]
    fn a_shared_volume_has_to_be_declared_and_says_itself_what_it_is() {
        let declared = json!({ "uploads": { "mode": "0750" } });
        assert_eq!(
            found(&config(&declared, &json!({ "shared": "uploads" }))),
            []
        );
        let unknown = found(&config(&declared, &json!({ "shared": "upload" })));
        let field = "pods.web.volumes.up.shared".to_owned();
        let near = "did you mean `uploads`?".to_owned();
        assert_eq!(
            unknown,
            [("tank::volume::unknown_shared", field.clone(), near)]
        );
        let none = found(&config(&json!({}), &json!({ "shared": "up" })));
        let declare = "declare it beside `pods`: `volumes.up = {}`".to_owned();
        assert_eq!(none, [("tank::volume::unknown_shared", field, declare)]);
        for (beside, help) in [
            (json!({ "host": "/srv" }), "keep one of the two"),
            (json!({ "tmpfs": 1 }), "keep one of the two"),
            (
                json!({ "owner": "1:1" }),
                "write it where the volume is declared: `volumes.uploads.owner`",
            ),
            (
                json!({ "mode": "0700" }),
                "write it where the volume is declared: `volumes.uploads.mode`",
            ),
            (
                json!({ "no_copy": true }),
                "write it where the volume is declared: `volumes.uploads.no_copy`",
            ),
            (
                json!({ "size": "1GiB" }),
                "write it where the volume is declared: `volumes.uploads.size`",
            ),
        ] {
            let mut own = beside.clone();
            own["shared"] = "uploads".into();
            let field = beside
                .as_object()
                .and_then(|own| own.keys().next())
                .expect("a field");
            let at = format!("pods.web.volumes.up.{field}");
            let expected = [("tank::volume::beside_shared", at, help.to_owned())];
            assert_eq!(found(&config(&declared, &own)), expected);
        }
    }

    /// Of a stack's volumes the pods of no other stack have any, whatever they say.
    #[test]
    fn a_volume_is_shared_within_its_stack_alone() {
        let pod = |shared: &str| json!({ "containers": { "app": { "image": "a:1" } }, "volumes": { "up": { "shared": shared } } });
        let whole = |pods: serde_json::Value| -> Result<Config, _> {
            serde_json::from_value(json!({ "pods": pods, "volumes": { "shop:up": {} } }))
        };
        let own = whole(json!({ "shop:web": pod("up") })).expect("it is one");
        assert_eq!(check_host(&own, &Scope::Host), []);
        for other in ["blog:web", "web"] {
            let other = whole(json!({ other: pod("up") })).expect("it is one");
            let codes: BTreeSet<_> = check_host(&other, &Scope::Host)
                .iter()
                .map(|found| found.code)
                .collect();
            assert_eq!(codes, BTreeSet::from(["tank::volume::unknown_shared"]));
        }
        whole(json!({ "blog:web": pod("shop:up") })).expect_err("a name has no stack here");
        let name = |text: &str| Name::of_pod(text).expect("a name");
        let volume = &own.pods[&name("shop:web")].volumes[&name("up")];
        assert_eq!(volume.shared_of(&name("shop:web")), Some(name("shop:up")));
        assert_eq!(volume.shared_of(&name("web")), Some(name("up")));
    }
}
