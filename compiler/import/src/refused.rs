//! What others allow and Tank refuses: taken out of a draft, each with a note, so that what is
//! written compiles.

use super::{Draft, text_of};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{
    host_files::WITHHELD,
    spec::{DEFAULT_NETWORK, MAX_MEMBERSHIPS},
};

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
        networks(draft, name, pod);
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
    aliases(draft, &mut pods);
    draft.pods = pods;
}

/// A name that is another pod's on a network of both is that one's alone.
fn aliases(draft: &mut Draft, pods: &mut BTreeMap<String, Value>) {
    let on = |pod: &Value| -> BTreeSet<String> {
        let networks = pod.get("networks").and_then(Value::as_object);
        let named = networks.map(|networks| networks.keys().cloned().collect());
        named.unwrap_or_else(|| [DEFAULT_NETWORK.to_owned()].into())
    };
    let there: BTreeMap<String, BTreeSet<String>> = pods
        .iter()
        .filter(|(_, pod)| pod.get("network").is_none())
        .map(|(name, pod)| (name.clone(), on(pod)))
        .collect();
    for (name, pod) in pods {
        let own = there.get(name).cloned().unwrap_or_default();
        let mut keep = |on: &BTreeSet<String>, aliases: Option<&mut Value>| {
            let Some(Value::Object(aliases)) = aliases else {
                return;
            };
            aliases.retain(|alias, _| {
                let other = there.get(alias).filter(|_| alias != name);
                let is_taken = other.is_some_and(|other| !other.is_disjoint(on));
                if is_taken {
                    let why = format!("`{alias}` is another pod's name: it leads there alone");
                    draft.note(format!("{name}.aliases.{alias}"), why);
                }
                !is_taken
            });
        };
        keep(&own, pod.get_mut("aliases"));
        let networks = pod.get_mut("networks").and_then(Value::as_object_mut);
        for (network, membership) in networks.into_iter().flatten() {
            keep(&[network.clone()].into(), membership.get_mut("aliases"));
            without_empty_aliases(membership);
        }
        without_empty_aliases(pod);
    }
}

fn without_empty_aliases(of: &mut Value) {
    let is_empty = of["aliases"].as_object().is_some_and(Map::is_empty);
    if let Some(fields) = of.as_object_mut().filter(|_| is_empty) {
        fields.remove("aliases");
    }
}

/// On networks a pod is by bridges, ports lead to pods that are on one, and nothing leads into those that are internal.
fn networks(draft: &mut Draft, name: &str, pod: &mut Map<String, Value>) {
    if pod.contains_key("network") && pod.remove("networks").is_some() {
        let why = "it has another `network`, and is on no bridge";
        draft.note(format!("{name}.networks"), why);
    }
    let mode = pod.get("network").and_then(Value::as_str);
    let why = match mode {
        Some("host") => {
            "with the host's network its ports are the host's already: none is published, as by the source"
        }
        _ => "without a network nothing leads to it: no port is published",
    };
    if mode.is_some() && pod.remove("publish").is_some() {
        draft.note(format!("{name}.publish"), why);
    }
    let Some(on) = pod.get_mut("networks").and_then(Value::as_object_mut) else {
        return;
    };
    let beyond: Vec<String> = on.keys().skip(MAX_MEMBERSHIPS).cloned().collect();
    for network in beyond {
        on.remove(&network);
        let why = format!("a pod is on {MAX_MEMBERSHIPS} networks at most");
        draft.note(format!("{name}.networks.{network}"), why);
    }
    let is_internal = |network: &String| {
        let network = draft.networks.get(network);
        network.is_some_and(|network| network["internal"] == true)
    };
    if on.keys().all(is_internal) && pod.remove("publish").is_some() {
        let why = "nothing leads into an internal network, and the pod is on no other";
        draft.note(format!("{name}.publish"), why);
    }
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
