//! What a container runs, with what, and how it is asked for its health.

use super::{Cluster, Fields, array, fields};
use crate::{capability_of, fresh, name_of, record, size_of, text_of};
use serde_json::{Value, json};

impl Cluster<'_> {
    pub(super) fn container(
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
                "imagePullPolicy" => {
                    let pull = match value.as_str() {
                        Some("Always") => continue,
                        Some("IfNotPresent") => "missing",
                        Some("Never") => "never",
                        _ => {
                            self.draft
                                .note(path, "it is `Always`, `IfNotPresent` or `Never`");
                            continue;
                        }
                    };
                    out.insert("pull".to_owned(), pull.into());
                }
                "terminationMessagePath" | "terminationMessagePolicy" => {}
                "ports" => self.ports(&path, value, &mut out, init),
                "resources" => self.resources(&path, value, &mut out),
                "readinessProbe" | "livenessProbe" | "startupProbe" if init => {
                    self.draft.note(path, "what runs to its end is not probed");
                }
                "readinessProbe" | "livenessProbe" | "startupProbe" => {
                    if let Some(probe) = self.probe(&path, value, spec) {
                        out.insert(key.trim_end_matches("Probe").to_owned(), probe);
                    }
                }
                "securityContext" => self.security(&path, value, &mut out, (&mut user, &mut group)),
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

    fn resources(&mut self, path: &str, value: &Value, out: &mut Fields) {
        for (limit, value) in fields(&value["limits"]) {
            let text = text_of(value).unwrap_or_default();
            let mapped = match limit.as_str() {
                "memory" => size_of(&text).map(|size| ("memory", size)),
                "cpu" => Some(("cpu", text.clone().into())),
                _ => None,
            };
            match mapped {
                Some((field, value)) => drop(record(out, "limits").insert(field.to_owned(), value)),
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

    fn security(
        &mut self,
        path: &str,
        value: &Value,
        out: &mut Fields,
        (user, group): (&mut Option<String>, &mut Option<String>),
    ) {
        for (key, value) in fields(value) {
            match key.as_str() {
                "runAsUser" => *user = text_of(value),
                "runAsGroup" => *group = text_of(value),
                "runAsNonRoot" => {}
                "readOnlyRootFilesystem" => drop(out.insert("read_only".to_owned(), value.clone())),
                "privileged" | "allowPrivilegeEscalation" if *value == Value::Bool(false) => {}
                "seccompProfile" if value["type"].as_str() == Some("RuntimeDefault") => {}
                "seccompProfile" if value["type"].as_str() == Some("Unconfined") => {
                    record(out, "seccomp").insert("profile".to_owned(), "unconfined".into());
                }
                "capabilities" => {
                    for (how, names) in
                        fields(value).filter(|(how, _)| matches!(how.as_str(), "add" | "drop"))
                    {
                        let names: Vec<Value> = array(names)
                            .filter_map(text_of)
                            .map(|name| capability_of(&name).into())
                            .collect();
                        record(out, "capabilities").insert(how.clone(), names.into());
                    }
                }
                other => self
                    .draft
                    .note(format!("{path}.{other}"), "Tank has no such key"),
            }
        }
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
}

fn port_of(port: &Value, container: &Value) -> Option<u64> {
    match port {
        Value::String(name) => array(&container["ports"])
            .find(|port| port["name"].as_str() == Some(name))
            .and_then(|port| port["containerPort"].as_u64()),
        number => number.as_u64(),
    }
}
