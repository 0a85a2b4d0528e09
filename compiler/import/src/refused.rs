//! What others allow and Tank refuses: taken out of a draft, each with a note, so that what is
//! written compiles.

use super::{Draft, text_of};
use serde_json::{Map, Value};
use tank_model::host_files::WITHHELD;

/// Takes out what `tank check` would refuse.
pub fn take_out(draft: &mut Draft) {
    let mut pods = std::mem::take(&mut draft.pods);
    for (name, pod) in &mut pods {
        let Some(pod) = pod.as_object_mut() else {
            continue;
        };
        if pod.get("network").and_then(Value::as_str) == Some("host") {
            sysctls(draft, name, pod);
        }
        let writes_host = writes_host(pod);
        for group in ["containers", "init"] {
            for (container, spec) in pod
                .get_mut(group)
                .and_then(Value::as_object_mut)
                .into_iter()
                .flatten()
            {
                capabilities(draft, &format!("{name}.{container}"), spec, writes_host);
            }
        }
    }
    draft.pods = pods;
}

fn sysctls(draft: &mut Draft, name: &str, pod: &mut Map<String, Value>) {
    let Some(sysctls) = pod.get_mut("sysctls").and_then(Value::as_object_mut) else {
        return;
    };
    let keys: Vec<String> = sysctls
        .keys()
        .filter(|key| key.starts_with("net."))
        .cloned()
        .collect();
    for key in keys {
        sysctls.remove(&key);
        draft.note(
            format!("{name}.sysctls.{key}"),
            "with the host's network it would be the host's: set it there",
        );
    }
    if sysctls.is_empty() {
        pod.remove("sysctls");
    }
}

/// As `Pod::writes_host`, of what is not typed yet.
fn writes_host(pod: &Map<String, Value>) -> bool {
    let of_host = |volume: &str| {
        pod.get("volumes")
            .is_some_and(|volumes| volumes[volume].get("host").is_some())
    };
    let mut containers = ["containers", "init"]
        .into_iter()
        .filter_map(|group| pod.get(group)?.as_object())
        .flatten();
    containers.any(|(_, container)| {
        let mut mounts = container
            .get("mounts")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        mounts.any(|(_, mount)| {
            mount["read_only"] != true && mount["volume"].as_str().is_some_and(of_host)
        })
    })
}

fn capabilities(draft: &mut Draft, at: &str, spec: &mut Value, writes_host: bool) {
    let Some(add) = spec
        .get_mut("capabilities")
        .and_then(|all| all.get_mut("add"))
    else {
        return;
    };
    let Some(names) = add.as_array_mut() else {
        return;
    };
    let mut refused = Vec::new();
    names.retain(|name| {
        let name = text_of(name).unwrap_or_default();
        let refuse = name == "ALL" || (writes_host && WITHHELD.contains(&name.as_str()));
        if refuse {
            refused.push(name);
        }
        !refuse
    });
    for name in refused {
        let why = if name == "ALL" {
            "all capabilities are not given at once: name those that are needed"
        } else {
            "it is not given in a pod that writes files of the host: mount them `read_only`, or use a volume of Tank's own"
        };
        draft.note(format!("{at}.capabilities.add.{name}"), why);
    }
}
