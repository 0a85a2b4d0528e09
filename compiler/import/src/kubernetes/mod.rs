//! Kubernetes manifests: pods and what makes pods, the ConfigMaps they read, the Services that lead
//! to them.
//!
//! * [`container`]: what a container runs. [`volumes`]: what it sees. [`service`]: what leads to it.

mod container;
mod service;
mod volumes;

use super::{Booleans, Draft, ImportError, documents, name_of, record, text_of};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

type Fields = Map<String, Value>;

pub fn read(files: &[(&Path, String)], draft: &mut Draft) -> Result<(), ImportError> {
    let mut objects = Vec::new();
    for (file, text) in files {
        for document in documents(file, text, Booleans::Words)? {
            flatten(document, &mut objects);
        }
    }
    if objects.is_empty() {
        let (file, _) = &files[0];
        return Err(ImportError::Shape(
            file.to_path_buf(),
            "no document has a `kind`".to_owned(),
        ));
    }
    let mut cluster = Cluster {
        draft,
        config_maps: BTreeMap::new(),
        claims: claims(&objects),
        labels: Vec::new(),
    };
    for object in objects.iter().filter(|object| kind(object) == "ConfigMap") {
        let data = object
            .get("data")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        cluster.config_maps.insert(name(object), data);
    }
    for object in &objects {
        cluster.object(object);
    }
    for object in objects.iter().filter(|object| kind(object) == "Service") {
        cluster.service(object);
    }
    Ok(())
}

/// How many objects name each claim of a volume.
fn claims(objects: &[Value]) -> BTreeMap<String, usize> {
    fn within(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                let claim = fields.get("persistentVolumeClaim");
                let claim = claim.and_then(|claim| claim["claimName"].as_str());
                found.extend(claim.map(str::to_owned));
                fields.values().for_each(|value| within(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| within(item, found)),
            _ => {}
        }
    }
    let mut uses = BTreeMap::new();
    for object in objects {
        let mut own = BTreeSet::new();
        within(object, &mut own);
        for claim in own {
            *uses.entry(claim).or_insert(0) += 1;
        }
    }
    uses
}

/// The objects of a document, those of a `List` one by one.
fn flatten(document: Value, objects: &mut Vec<Value>) {
    if kind(&document) == "List" {
        let items = document
            .get("items")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        items.into_iter().for_each(|item| flatten(item, objects));
    } else if !kind(&document).is_empty() {
        objects.push(document);
    }
}

fn kind(object: &Value) -> &str {
    object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or("unnamed")
        .to_owned()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

struct Cluster<'a> {
    draft: &'a mut Draft,
    config_maps: BTreeMap<String, Fields>,
    /// How many objects with pods use each claim.
    claims: BTreeMap<String, usize>,
    /// The labels of each pod's template, for the Services that select by them.
    labels: Vec<(String, Fields)>,
}

impl Cluster<'_> {
    /// An object that is no Service.
    // long: it has an arm for each kind of object
    fn object(&mut self, object: &Value) {
        let (kind, name) = (kind(object).to_owned(), name(object));
        let at = format!("{kind}/{name}");
        for (key, value) in fields(&object["metadata"]) {
            match key.as_str() {
                "name" | "labels" | "creationTimestamp" => {}
                "namespace" if value.as_str() == Some("default") => {}
                "namespace" => self.draft.note(
                    format!("{at}.metadata.namespace"),
                    "a host has one space of names",
                ),
                other => self
                    .draft
                    .note(format!("{at}.metadata.{other}"), "Tank has no such key"),
            }
        }
        let spec = &object["spec"];
        match kind.as_str() {
            "Pod" => self.pod(&at, &name, spec, &object["metadata"]["labels"], "Always"),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" => {
                self.note_keys(
                    &format!("{at}.spec"),
                    spec,
                    &["template", "selector", "replicas", "serviceName"],
                );
                if spec["replicas"].as_u64().unwrap_or(1) != 1 {
                    self.draft.note(
                        format!("{at}.spec.replicas"),
                        "use `tank.replicas`; one is imported",
                    );
                }
                let labels = spec["template"]["metadata"]["labels"].clone();
                self.pod(&at, &name, &spec["template"]["spec"], &labels, "Always");
            }
            "Job" => {
                self.note_keys(&format!("{at}.spec"), spec, &["template"]);
                let labels = spec["template"]["metadata"]["labels"].clone();
                self.pod(&at, &name, &spec["template"]["spec"], &labels, "Never");
            }
            "ConfigMap" => self.note_keys(
                &at,
                object,
                &["apiVersion", "kind", "metadata", "data", "immutable"],
            ),
            "PersistentVolumeClaim" => {
                // A managed volume has what the host has: a claim's size and class ask for less
                // than that.
                self.note_keys(
                    &format!("{at}.spec"),
                    spec,
                    &["accessModes", "resources", "storageClassName", "volumeMode"],
                );
            }
            "Service" => {}
            "Secret" => self.draft.note(
                at,
                "a secret is a file of the host that is never stored: `secrets.NAME.file`",
            ),
            "Ingress" => self
                .draft
                .note(at, "Tank publishes ports; a proxy is a pod like others"),
            "CronJob" => self.draft.note(
                at,
                "Tank has no timers: let one of the host's switch or exec",
            ),
            _ => self.draft.note(at, "Tank has no such object"),
        }
    }

    fn note_keys(&mut self, at: &str, value: &Value, known: &[&str]) {
        for (key, _) in fields(value).filter(|(key, _)| !known.contains(&key.as_str())) {
            self.draft
                .note(format!("{at}.{key}"), "Tank has no such key");
        }
    }

    fn pod(&mut self, at: &str, pod_name: &str, spec: &Value, labels: &Value, restart: &str) {
        let mut pod = Fields::new();
        let at = format!("{at}.spec");
        let restart = spec["restartPolicy"].as_str().unwrap_or(restart);
        match restart {
            "Never" => drop(pod.insert("restart".to_owned(), "never".into())),
            "OnFailure" => drop(pod.insert("restart".to_owned(), "on_failure".into())),
            _ => {}
        }
        self.pod_keys(&at, spec, &mut pod);
        let security = &spec["securityContext"];
        let users = (
            text_of(&security["runAsUser"]),
            text_of(&security["runAsGroup"]),
        );
        for (label, value) in fields(labels) {
            record(&mut pod, "labels")
                .insert(label.clone(), text_of(value).unwrap_or_default().into());
        }
        let grace = spec["terminationGracePeriodSeconds"].as_u64();
        let mut single = Vec::new();
        for container in array(&spec["containers"]) {
            let name = name_of(container["name"].as_str().unwrap_or("app"));
            let mut made = self.container(&at, container, &users, false);
            if let Some(seconds) = grace {
                record(&mut made, "stop")
                    .insert("timeout".to_owned(), format!("{seconds}s").into());
            }
            record(&mut pod, "containers").insert(name.clone(), Value::Object(made));
            single.push((name, container, "containers"));
        }
        for (index, container) in array(&spec["initContainers"]).enumerate() {
            // They run in the order of their names here.
            let name = name_of(&format!(
                "{:02}-{}",
                index + 1,
                container["name"].as_str().unwrap_or("init")
            ));
            let made = self.container(&at, container, &users, true);
            record(&mut pod, "init").insert(name.clone(), Value::Object(made));
            single.push((name, container, "init"));
        }
        self.volumes(&at, &mut pod, spec, &single);
        let name = name_of(pod_name);
        self.labels.push((
            name.clone(),
            labels.as_object().cloned().unwrap_or_default(),
        ));
        self.draft.pods.insert(name, Value::Object(pod));
    }

    /// The fields of a pod that are not its containers and volumes.
    fn pod_keys(&mut self, at: &str, spec: &Value, pod: &mut Fields) {
        for (key, value) in fields(spec) {
            let path = format!("{at}.{key}");
            match key.as_str() {
                "containers"
                | "initContainers"
                | "volumes"
                | "restartPolicy"
                | "terminationGracePeriodSeconds" => {}
                "hostNetwork" if *value == Value::Bool(true) => {
                    drop(pod.insert("network".to_owned(), "host".into()))
                }
                "hostNetwork" => {}
                "hostname" => drop(pod.insert("hostname".to_owned(), value.clone())),
                "dnsPolicy" if matches!(value.as_str(), Some("ClusterFirst" | "Default")) => {}
                "enableServiceLinks" | "automountServiceAccountToken"
                    if *value == Value::Bool(false) => {}
                "securityContext" => self.pod_security(&path, value, pod),
                _ => self.draft.note(path, "Tank has no such key"),
            }
        }
    }

    fn pod_security(&mut self, path: &str, value: &Value, pod: &mut Fields) {
        for (key, value) in fields(value) {
            match key.as_str() {
                "runAsUser" | "runAsGroup" | "runAsNonRoot" => {}
                "sysctls" => {
                    for sysctl in array(value) {
                        let name = text_of(&sysctl["name"]).unwrap_or_default();
                        record(pod, "sysctls").insert(name, text_of(&sysctl["value"]).into());
                    }
                }
                "seccompProfile" if value["type"].as_str() == Some("RuntimeDefault") => {}
                other => self
                    .draft
                    .note(format!("{path}.{other}"), "Tank has no such key"),
            }
        }
    }
}
