//! What a container sees: volumes, claims, and ConfigMaps as files.

use super::{Cluster, Fields, array, fields};
use crate::{mount, name_of, normal, record, size_of, text_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Cluster<'_> {
    // long: a branch for each kind
    pub(super) fn volumes(
        &mut self,
        at: &str,
        pod: &mut Fields,
        spec: &Value,
        containers: &[(String, &Value, &str)],
    ) {
        let declared: BTreeMap<&str, &Value> = array(&spec["volumes"])
            .filter_map(|volume| Some((volume["name"].as_str()?, volume)))
            .collect();
        for (container, fields_of, group) in containers {
            for mounted in array(&fields_of["volumeMounts"]) {
                let name = mounted["name"].as_str().unwrap_or_default();
                let path = mounted["mountPath"].as_str().unwrap_or("/");
                let at = format!("{at}.{container}.volumeMounts.{name}");
                for (key, _) in fields(mounted) {
                    let known = match key.as_str() {
                        "name" | "mountPath" | "readOnly" | "subPath" => true,
                        "mountPropagation" => is_known(mounted, declared.get(name).copied()),
                        _ => false,
                    };
                    if !known {
                        self.draft
                            .note(format!("{at}.{key}"), "Tank has no such key");
                    }
                }
                let Some(volume) = declared.get(name) else {
                    // The claim templates of a StatefulSet have no other counterpart.
                    self.put(pod, group, container, name, json!({}), path, mounted);
                    continue;
                };
                let claim = volume["persistentVolumeClaim"]["claimName"].as_str();
                let uses = claim.and_then(|claim| self.claims.get(claim)).copied();
                if let Some(claim) = claim.filter(|_| uses.unwrap_or(0) > 1) {
                    let source = self.draft.shared(&at, claim, json!({}));
                    self.note_sub_path(&at, mounted, &source);
                    self.put(pod, group, container, name, source, path, mounted);
                    continue;
                }
                if let Some(map) = volume["configMap"]["name"].as_str() {
                    self.files(
                        &at,
                        pod,
                        group,
                        container,
                        map,
                        mounted,
                        &volume["configMap"],
                    );
                    continue;
                }
                match volume_of(volume) {
                    Some(source) => {
                        self.note_sub_path(&at, mounted, &source);
                        self.put(pod, group, container, name, source, path, mounted);
                    }
                    None => self.draft.note(
                        at,
                        "a volume is kept by Tank, a directory of the host, or memory",
                    ),
                }
            }
        }
    }

    /// Notes a directory inside of a volume that there can't be.
    fn note_sub_path(&mut self, at: &str, mounted: &Value, source: &Value) {
        let sub_path = mounted["subPath"].as_str().filter(|path| !path.is_empty());
        if let Some(path) = sub_path
            && (crate::sub_path(path).is_none() || source.get("tmpfs").is_some())
        {
            let why = "it is no directory inside of a volume on disk";
            self.draft.note(format!("{at}.subPath"), why);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a mount is all of these")]
    fn put(
        &mut self,
        pod: &mut Fields,
        group: &str,
        container: &str,
        name: &str,
        source: Value,
        path: &str,
        mounted: &Value,
    ) {
        let read_only = mounted["readOnly"] == Value::Bool(true);
        let sub_path = mounted["subPath"].as_str().and_then(crate::sub_path);
        let sub_path = sub_path.filter(|_| source.get("tmpfs").is_none());
        let is_followed = follows(mounted) && source.get("host").is_some();
        if group == "containers" {
            let entry = mount(pod, container, name, source, path, read_only);
            if is_followed {
                entry["propagation"] = "slave".into();
            }
            if let Some(sub_path) = sub_path {
                entry["sub_path"] = sub_path.into();
            }
            return;
        }
        record(pod, "volumes").insert(name_of(name), source);
        let mut entry = json!({ "volume": name_of(name), "path": normal(path) });
        if read_only {
            entry["read_only"] = true.into();
        }
        if is_followed {
            entry["propagation"] = "slave".into();
        }
        if let Some(sub_path) = sub_path {
            entry["sub_path"] = sub_path.into();
        }
        record(record(record(pod, group), container), "mounts").insert(name_of(name), entry);
    }

    /// A ConfigMap as files.
    #[allow(clippy::too_many_arguments, reason = "a mount is all of these")]
    fn files(
        &mut self,
        at: &str,
        pod: &mut Fields,
        group: &str,
        container: &str,
        map: &str,
        mounted: &Value,
        volume: &Value,
    ) {
        let Some(data) = self.config_maps.get(map).cloned() else {
            self.draft
                .note(at, format!("the ConfigMap `{map}` is not in these files"));
            return;
        };
        let path = mounted["mountPath"].as_str().unwrap_or("/");
        let items: Vec<(String, String)> = match volume.get("items") {
            Some(items) => array(items)
                .filter_map(|item| Some((text_of(&item["key"])?, text_of(&item["path"])?)))
                .collect(),
            None => data.keys().map(|key| (key.clone(), key.clone())).collect(),
        };
        for (key, file) in items {
            let target = match mounted["subPath"].as_str() {
                Some(sub) if sub == file => normal(path),
                Some(_) => continue,
                None => normal(&format!("{path}/{file}")),
            };
            let text = data.get(&key).and_then(text_of).unwrap_or_default();
            record(record(record(pod, group), container), "files")
                .insert(target, json!({ "text": text }));
        }
    }
}

/// Whether what the host mounts later is in a mount that may be written.
fn follows(mounted: &Value) -> bool {
    mounted["mountPropagation"] == "HostToContainer" && mounted["readOnly"] != Value::Bool(true)
}

/// Whether the propagation of a mount has a counterpart.
fn is_known(mounted: &Value, volume: Option<&Value>) -> bool {
    let is_host = volume.is_some_and(|volume| volume.get("hostPath").is_some());
    mounted["mountPropagation"] == "None" || (is_host && follows(mounted))
}

fn volume_of(volume: &Value) -> Option<Value> {
    if let Some(empty) = volume.get("emptyDir") {
        if empty["medium"].as_str() == Some("Memory") {
            let size = empty["sizeLimit"]
                .as_str()
                .and_then(size_of)
                .unwrap_or_else(|| "64MiB".into());
            return Some(json!({ "tmpfs": size }));
        }
        let size = empty["sizeLimit"].as_str().and_then(size_of);
        return Some(size.map_or_else(|| json!({}), |size| json!({ "size": size })));
    }
    if let Some(host) = volume.get("hostPath") {
        let directory = matches!(
            host["type"].as_str(),
            None | Some("" | "Directory" | "DirectoryOrCreate")
        );
        return directory.then(|| json!({ "host": normal(host["path"].as_str().unwrap_or("/")) }));
    }
    volume.get("persistentVolumeClaim").map(|_| json!({}))
}
