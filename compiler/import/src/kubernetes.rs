//! Kubernetes manifests: pods and what makes pods, the ConfigMaps they read, the Services that lead
//! to them.

use super::{
    Draft, ImportError, SHARED, capability_of, documents, fresh, mount, name_of, normal, record,
    size_of, text_of,
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

type Fields = Map<String, Value>;

pub fn read(files: &[(&Path, String)], draft: &mut Draft) -> Result<(), ImportError> {
    let mut objects = Vec::new();
    for (file, text) in files {
        for document in documents(file, text)? {
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
        claims: BTreeMap::new(),
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
    let shared: Vec<String> = cluster
        .claims
        .iter()
        .filter(|(_, n)| **n > 1)
        .map(|(claim, _)| claim.clone())
        .collect();
    for claim in shared {
        cluster
            .draft
            .note(format!("PersistentVolumeClaim/{claim}"), SHARED);
    }
    Ok(())
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
    /// How many pods use each claim.
    claims: BTreeMap<String, usize>,
    /// The labels of each pod's template, for the Services that select by them.
    labels: Vec<(String, Fields)>,
}

impl Cluster<'_> {
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
        let mut users: (Option<String>, Option<String>) = (None, None);
        let at = format!("{at}.spec");
        let restart = spec["restartPolicy"].as_str().unwrap_or(restart);
        match restart {
            "Never" => drop(pod.insert("restart".to_owned(), "never".into())),
            "OnFailure" => drop(pod.insert("restart".to_owned(), "on_failure".into())),
            _ => {}
        }
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
                "securityContext" => {
                    users = (
                        value.get("runAsUser").and_then(text_of),
                        value.get("runAsGroup").and_then(text_of),
                    );
                    for (key, value) in fields(value) {
                        match key.as_str() {
                            "runAsUser" | "runAsGroup" | "runAsNonRoot" => {}
                            "sysctls" => {
                                for sysctl in array(value) {
                                    let name = text_of(&sysctl["name"]).unwrap_or_default();
                                    record(&mut pod, "sysctls")
                                        .insert(name, text_of(&sysctl["value"]).into());
                                }
                            }
                            "seccompProfile"
                                if value["type"].as_str() == Some("RuntimeDefault") => {}
                            other => self
                                .draft
                                .note(format!("{path}.{other}"), "Tank has no such key"),
                        }
                    }
                }
                _ => self.draft.note(path, "Tank has no such key"),
            }
        }
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

    fn container(
        &mut self,
        at: &str,
        spec: &Value,
        users: &(Option<String>, Option<String>),
        init: bool,
    ) -> Fields {
        let mut out = Fields::new();
        let (mut user, mut group) = users.clone();
        let at = format!("{at}.{}", spec["name"].as_str().unwrap_or("app"));
        for (key, value) in fields(spec) {
            let path = format!("{at}.{key}");
            match key.as_str() {
                "name" | "volumeMounts" | "env" | "envFrom" => {}
                "image" | "command" | "args" => drop(out.insert(key.clone(), value.clone())),
                "workingDir" => drop(out.insert("working_dir".to_owned(), value.clone())),
                "tty" => drop(out.insert("tty".to_owned(), value.clone())),
                "stdin" if spec["tty"] == Value::Bool(true) || *value == Value::Bool(false) => {}
                "imagePullPolicy" if value.as_str() != Some("Never") => {}
                "terminationMessagePath" | "terminationMessagePolicy" => {}
                "ports" => self.ports(&path, value, &mut out, init),
                "resources" => {
                    for (limit, value) in fields(&value["limits"]) {
                        let text = text_of(value).unwrap_or_default();
                        let mapped = match limit.as_str() {
                            "memory" => size_of(&text).map(|size| ("memory", size)),
                            "cpu" => Some(("cpu", text.clone().into())),
                            _ => None,
                        };
                        match mapped {
                            Some((field, value)) => {
                                drop(record(&mut out, "limits").insert(field.to_owned(), value))
                            }
                            None => self
                                .draft
                                .note(format!("{path}.limits.{limit}"), "Tank has no such limit"),
                        }
                    }
                    if value.get("requests").is_some() {
                        self.draft.note(
                            format!("{path}.requests"),
                            "Tank limits, it does not reserve",
                        );
                    }
                }
                "readinessProbe" | "livenessProbe" | "startupProbe" if init => {
                    self.draft.note(path, "what runs to its end is not probed");
                }
                "readinessProbe" | "livenessProbe" | "startupProbe" => {
                    if let Some(probe) = self.probe(&path, value, spec) {
                        out.insert(key.trim_end_matches("Probe").to_owned(), probe);
                    }
                }
                "securityContext" => {
                    for (key, value) in fields(value) {
                        match key.as_str() {
                            "runAsUser" => user = text_of(value),
                            "runAsGroup" => group = text_of(value),
                            "runAsNonRoot" => {}
                            "readOnlyRootFilesystem" => {
                                drop(out.insert("read_only".to_owned(), value.clone()))
                            }
                            "privileged" | "allowPrivilegeEscalation"
                                if *value == Value::Bool(false) => {}
                            "seccompProfile"
                                if value["type"].as_str() == Some("RuntimeDefault") => {}
                            "seccompProfile" if value["type"].as_str() == Some("Unconfined") => {
                                record(&mut out, "seccomp")
                                    .insert("profile".to_owned(), "unconfined".into());
                            }
                            "capabilities" => {
                                for (how, names) in fields(value)
                                    .filter(|(how, _)| matches!(how.as_str(), "add" | "drop"))
                                {
                                    let names: Vec<Value> = array(names)
                                        .filter_map(text_of)
                                        .map(|name| capability_of(&name).into())
                                        .collect();
                                    record(&mut out, "capabilities")
                                        .insert(how.clone(), names.into());
                                }
                            }
                            other => self
                                .draft
                                .note(format!("{path}.{other}"), "Tank has no such key"),
                        }
                    }
                }
                _ => self.draft.note(path, "Tank has no such key"),
            }
        }
        if let Some(user) = user {
            let group = group.map(|group| format!(":{group}")).unwrap_or_default();
            out.insert("user".to_owned(), format!("{user}{group}").into());
        }
        self.environment(&at, spec, &mut out);
        out
    }

    fn ports(&mut self, path: &str, value: &Value, out: &mut Fields, init: bool) {
        for port in array(value) {
            let Some(number) = port["containerPort"].as_u64() else {
                continue;
            };
            let wanted = port["name"]
                .as_str()
                .map_or_else(|| format!("p{number}"), name_of);
            if !init {
                let ports = record(out, "ports");
                let name = fresh(ports, &wanted);
                ports.insert(name, number.into());
            }
            for (key, _) in fields(port)
                .filter(|(key, _)| !matches!(key.as_str(), "containerPort" | "name" | "protocol"))
            {
                self.draft.note(
                    format!("{path}.{key}"),
                    "publish the port of the pod: `publish`",
                );
            }
        }
    }

    fn environment(&mut self, at: &str, spec: &Value, out: &mut Fields) {
        for from in array(&spec["envFrom"]) {
            let map = from["configMapRef"]["name"]
                .as_str()
                .and_then(|name| self.config_maps.get(name));
            match map.cloned() {
                Some(data) => {
                    let prefix = text_of(&from["prefix"]).unwrap_or_default();
                    for (key, value) in data {
                        let value = text_of(&value).unwrap_or_default();
                        record(out, "env").insert(format!("{prefix}{key}"), value.into());
                    }
                }
                None => self.draft.note(
                    format!("{at}.envFrom"),
                    "what it names is not in these files, or is a Secret",
                ),
            }
        }
        for variable in array(&spec["env"]) {
            let name = text_of(&variable["name"]).unwrap_or_default();
            let from = &variable["valueFrom"]["configMapKeyRef"];
            let known = from["name"]
                .as_str()
                .and_then(|map| self.config_maps.get(map));
            let known = known
                .and_then(|map| map.get(from["key"].as_str()?))
                .and_then(text_of);
            let value = match (variable.get("valueFrom"), known) {
                (None, _) => Some(text_of(&variable["value"]).unwrap_or_default()),
                (Some(_), known) => known,
            };
            match value {
                Some(value) => drop(record(out, "env").insert(name, value.into())),
                None => {
                    let why = "its value comes from elsewhere: give it here, or hand the secret in as a file (`secrets`)";
                    self.draft.note(format!("{at}.env.{name}"), why);
                }
            }
        }
    }

    fn probe(&mut self, path: &str, probe: &Value, container: &Value) -> Option<Value> {
        let mut out = Fields::new();
        for (key, value) in fields(probe) {
            let at = format!("{path}.{key}");
            let seconds = || {
                value
                    .as_u64()
                    .map(|seconds| Value::from(format!("{seconds}s")))
            };
            match key.as_str() {
                "httpGet" => {
                    let Some(port) = port_of(&value["port"], container) else {
                        self.draft.note(at, "its port is not declared");
                        return None;
                    };
                    let mut http = json!({ "port": port });
                    if let Some(path) = value["path"].as_str().filter(|path| *path != "/") {
                        http["path"] = path.into();
                    }
                    out.insert("http".to_owned(), http);
                    for (key, value) in
                        fields(value).filter(|(key, _)| !matches!(key.as_str(), "port" | "path"))
                    {
                        if !(key == "scheme" && value.as_str() == Some("HTTP")) {
                            self.draft.note(
                                format!("{at}.{key}"),
                                "Tank asks plainly, by HTTP and the pod's own name",
                            );
                        }
                    }
                }
                "tcpSocket" => match port_of(&value["port"], container) {
                    Some(port) => drop(out.insert("tcp".to_owned(), json!({ "port": port }))),
                    None => {
                        self.draft.note(at, "its port is not declared");
                        return None;
                    }
                },
                "exec" => drop(out.insert("exec".to_owned(), value["command"].clone())),
                "periodSeconds" => drop(out.insert("period".to_owned(), seconds()?)),
                "timeoutSeconds" => drop(out.insert("timeout".to_owned(), seconds()?)),
                "initialDelaySeconds" => drop(out.insert("delay".to_owned(), seconds()?)),
                "failureThreshold" => drop(out.insert("failures".to_owned(), value.clone())),
                "successThreshold" if value.as_u64() == Some(1) => {}
                _ => self.draft.note(at, "Tank's probes have no such key"),
            }
        }
        // Kubernetes' default, where Tank's differs.
        out.entry("period").or_insert_with(|| "10s".into());
        if !["http", "tcp", "exec"]
            .iter()
            .any(|kind| out.contains_key(*kind))
        {
            return None;
        }
        Some(Value::Object(out))
    }

    fn volumes(
        &mut self,
        at: &str,
        pod: &mut Fields,
        spec: &Value,
        containers: &[(String, &Value, &str)],
    ) {
        let declared: BTreeMap<&str, &Value> = array(&spec["volumes"])
            .filter_map(|volume| Some((volume["name"].as_str()?, volume)))
            .collect();
        let mut counted = BTreeSet::new();
        for (container, fields_of, group) in containers {
            for mounted in array(&fields_of["volumeMounts"]) {
                let name = mounted["name"].as_str().unwrap_or_default();
                let path = mounted["mountPath"].as_str().unwrap_or("/");
                let at = format!("{at}.{container}.volumeMounts.{name}");
                for (key, _) in fields(mounted) {
                    if !matches!(key.as_str(), "name" | "mountPath" | "readOnly" | "subPath") {
                        self.draft
                            .note(format!("{at}.{key}"), "Tank has no such key");
                    }
                }
                let Some(volume) = declared.get(name) else {
                    // The claim templates of a StatefulSet have no other counterpart.
                    self.put(pod, group, container, name, json!({}), path, mounted);
                    continue;
                };
                if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str()
                    && counted.insert(claim.to_owned())
                {
                    *self.claims.entry(claim.to_owned()).or_insert(0) += 1;
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
                        if mounted.get("subPath").is_some() {
                            self.draft
                                .note(format!("{at}.subPath"), "a volume is seen as a whole");
                        }
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
        if group == "containers" {
            mount(pod, container, name, source, path, read_only);
            return;
        }
        record(pod, "volumes").insert(name_of(name), source);
        let mut entry = json!({ "volume": name_of(name), "path": normal(path) });
        if read_only {
            entry["read_only"] = true.into();
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

    /// A Service: a name that pods have anyway, or a port of the host.
    fn service(&mut self, object: &Value) {
        let (name, spec) = (name(object), &object["spec"]);
        let at = format!("Service/{name}.spec");
        let known = [
            "selector",
            "ports",
            "type",
            "clusterIP",
            "sessionAffinity",
            "ipFamilies",
            "ipFamilyPolicy",
        ];
        self.note_keys(&at, spec, &known);
        let selector: Vec<(&String, &Value)> = fields(&spec["selector"]).collect();
        let selects = |labels: &Fields| {
            !selector.is_empty()
                && selector
                    .iter()
                    .all(|(key, value)| labels.get(*key) == Some(*value))
        };
        let Some((pod_name, _)) = self
            .labels
            .iter()
            .find(|(_, labels)| selects(labels))
            .cloned()
        else {
            self.draft
                .note(at, "no pod of these files is selected by it");
            return;
        };
        if pod_name != name_of(&name) {
            self.draft.note(
                format!("Service/{name}"),
                format!("the pod is found by its own name, `{pod_name}`"),
            );
        }
        let outside = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
        let Some(pod) = self.draft.pods.get(&pod_name).cloned() else {
            return;
        };
        for port in array(&spec["ports"]) {
            let Some(number) = port["port"].as_u64() else {
                continue;
            };
            let target = match &port["targetPort"] {
                Value::Null => Some(number),
                Value::String(name) => pod["containers"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .find_map(|(_, container)| container["ports"].get(name_of(name))?.as_u64()),
                other => other.as_u64(),
            };
            let Some(target) = target else {
                self.draft.note(
                    format!("{at}.ports"),
                    format!("`{}` is declared by no container", port["targetPort"]),
                );
                continue;
            };
            if !outside {
                if target != number {
                    let why = format!(
                        "pods speak to each other directly: port {number} is {target} there"
                    );
                    self.draft.note(format!("{at}.ports"), why);
                }
                continue;
            }
            let number = port["nodePort"].as_u64().unwrap_or(number);
            let Some(Value::Object(pod)) = self.draft.pods.get_mut(&pod_name) else {
                continue;
            };
            let publish = record(pod, "publish");
            let wanted = port["name"]
                .as_str()
                .map_or_else(|| format!("p{number}"), name_of);
            let key = fresh(publish, &wanted);
            let mut entry = json!({ "port": number, "address": "0.0.0.0" });
            if target != number {
                entry["to"] = target.into();
            }
            if port["protocol"].as_str() == Some("UDP") {
                entry["protocol"] = "udp".into();
            }
            publish.insert(key, entry);
        }
    }
}

fn port_of(port: &Value, container: &Value) -> Option<u64> {
    match port {
        Value::String(name) => array(&container["ports"])
            .find(|port| port["name"].as_str() == Some(name))
            .and_then(|port| port["containerPort"].as_u64()),
        number => number.as_u64(),
    }
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
        return Some(json!({}));
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
