//! Services: names and ports that lead to pods.

use super::{Cluster, Fields, array, fields, name};
use crate::{fresh, name_of, record};
use serde_json::{Value, json};

impl Cluster<'_> {
    /// A Service: a name that pods have anyway, or a port of the host.
    pub(super) fn service(&mut self, object: &Value) {
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
            self.service_port(&at, port, (&pod_name, &pod), outside);
        }
    }

    /// A port of a Service: published if it can be reached from outside.
    fn service_port(
        &mut self,
        at: &str,
        port: &Value,
        (pod_name, pod): (&str, &Value),
        outside: bool,
    ) {
        let Some(number) = port["port"].as_u64() else {
            return;
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
            return;
        };
        if !outside {
            if target != number {
                let why =
                    format!("pods speak to each other directly: port {number} is {target} there");
                self.draft.note(format!("{at}.ports"), why);
            }
            return;
        }
        self.publish(
            pod_name,
            port,
            port["nodePort"].as_u64().unwrap_or(number),
            target,
        );
    }

    fn publish(&mut self, pod_name: &str, port: &Value, number: u64, target: u64) {
        let Some(Value::Object(pod)) = self.draft.pods.get_mut(pod_name) else {
            return;
        };
        let publish = record(pod, "publish");
        let wanted = port["name"]
            .as_str()
            .map_or_else(|| format!("p{number}"), name_of);
        let key = fresh(publish, &wanted);
        let mut entry = json!({ "port": number, "address": ["0.0.0.0", "::"] });
        if target != number {
            entry["to"] = target.into();
        }
        if port["protocol"].as_str() == Some("UDP") {
            entry["protocol"] = "udp".into();
        }
        publish.insert(key, entry);
    }
}
