//! How a configuration is written does not matter, only what it says: in any order, in how many
//! files, by which names.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use tank_compiler::{Inputs, compile_here};

/// A configuration as data: every leaf a text or a number that its field takes.
fn any_config() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-Z]{1,4}", "[a-z0-9 ]{0,6}", 0..4);
    let container = (env, any::<bool>(), 1u32..500, prop::option::of(1u64..64)).prop_map(
        |(env, tty, pids, memory)| {
            let mut limits = json!({ "pids": pids });
            if let Some(memory) = memory {
                limits["memory"] = format!("{}MiB", memory + 4).into();
            }
            json!({ "image": "nginx:1.27", "env": env, "tty": tty, "limits": limits })
        },
    );
    let labels = prop::collection::btree_map("[a-z]{1,5}", "[a-z]{0,5}", 0..3);
    let pod = (container, labels, prop::option::of(1u16..65535)).prop_map(|(container, labels, port)| {
        let mut pod = json!({ "containers": { "app": container }, "labels": labels, "volumes": { "data": {} } });
        if let Some(port) = port {
            pod["publish"] = json!({ "http": { "port": port, "address": format!("10.0.0.{}", port % 250 + 1) } });
        }
        pod
    });
    // Many pods, and few cases: most of what an evaluation takes does not depend on the configuration.
    prop::collection::btree_map("[a-z]{1,6}", pod, 1..12).prop_map(|pods| {
        let mut pods: Map<String, Value> = pods.into_iter().collect();
        // One port is published once.
        for (index, pod) in pods.values_mut().enumerate() {
            if let Some(port) = pod.pointer_mut("/publish/http/port") {
                *port = (20_000 + index).into();
            }
        }
        json!({ "pods": pods })
    })
}

/// The short words of Nickel, which are a field's name only between quotes.
const KEYWORDS: &[&str] = &[
    "as", "doc", "else", "false", "force", "fun", "if", "import", "in", "let", "match", "null",
    "or", "rec", "then", "true",
];

/// How to write it: a stream of decisions.
struct Style {
    decisions: Vec<u8>,
    next: usize,
    lets: Vec<(String, String)>,
}

impl Style {
    fn decide(&mut self, among: usize) -> usize {
        self.next += 1;
        usize::from(self.decisions[self.next % self.decisions.len()]) % among
    }

    /// A value as Nickel: fields in any order, nested or by dotted path, scalars in place or bound
    /// by `let`.
    fn write(&mut self, value: &Value) -> String {
        match value {
            Value::Object(fields) => {
                let mut names: Vec<&String> = fields.keys().collect();
                for i in (1..names.len()).rev() {
                    let j = self.decide(i + 1);
                    names.swap(i, j);
                }
                let entries: Vec<String> = names
                    .into_iter()
                    .map(|name| self.entry(name, &fields[name]))
                    .collect();
                format!("{{ {} }}", entries.join(", "))
            }
            scalar => {
                let text = scalar.to_string();
                if self.decide(3) == 0 {
                    let name = format!("v{}_{}", self.lets.len(), ["x", "y", "zz"][self.decide(3)]);
                    self.lets.push((name.clone(), text));
                    return name;
                }
                text
            }
        }
    }

    fn entry(&mut self, name: &str, value: &Value) -> String {
        let quoted = if KEYWORDS.contains(&name) || self.decide(2) == 0 {
            format!("{name:?}")
        } else {
            name.to_owned()
        };
        match value {
            Value::Object(inner) if !inner.is_empty() && self.decide(2) == 0 => {
                // `a.b = 1, a.c = 2`: a definition in pieces.
                let pieces: Vec<String> = inner
                    .iter()
                    .map(|(field, value)| format!("{quoted}.{field:?} = {}", self.write(value)))
                    .collect();
                pieces.join(", ")
            }
            _ => format!("{quoted} = {}", self.write(value)),
        }
    }

    fn file(&mut self, value: &Value) -> String {
        self.lets.clear();
        let body = self.write(value);
        let lets: String = self
            .lets
            .iter()
            .map(|(name, text)| format!("let {name} = {text} in\n"))
            .collect();
        format!("{lets}{body}\n")
    }

    /// Splits a record in two that merge to it.
    fn split(&mut self, value: &Value) -> (Value, Value) {
        let Value::Object(fields) = value else {
            return (value.clone(), json!({}));
        };
        let (mut left, mut right) = (Map::new(), Map::new());
        for (name, field) in fields {
            match self.decide(3) {
                0 => drop(left.insert(name.clone(), field.clone())),
                1 => drop(right.insert(name.clone(), field.clone())),
                _ if field.is_object() => {
                    let (a, b) = self.split(field);
                    left.insert(name.clone(), a);
                    right.insert(name.clone(), b);
                }
                _ => drop(left.insert(name.clone(), field.clone())),
            }
        }
        (Value::Object(left), Value::Object(right))
    }
}

/// Files that hold JSON are `.json`, which is an input like the others.
fn canonical(files: &[String]) -> String {
    let thread = std::thread::current().id();
    let dir = std::env::temp_dir().join(format!("tank-writing-{}-{thread:?}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let paths: Vec<PathBuf> = files
        .iter()
        .enumerate()
        .map(|(index, text)| {
            dir.join(format!(
                "{index}.{}",
                if text.starts_with("{\"") {
                    "json"
                } else {
                    "ncl"
                }
            ))
        })
        .collect();
    for (path, text) in paths.iter().zip(files) {
        std::fs::write(path, text).expect("write");
    }
    let compiled = compile_here(
        &Inputs {
            files: paths,
            ..Inputs::default()
        },
        None,
    );
    let _ = std::fs::remove_dir_all(&dir);
    match compiled {
        Ok(compiled) => compiled.canonical,
        Err(error) => panic!("{error:?}\n{}", files.join("\n---\n")),
    }
}

/// Decides how something is written.
fn style(decisions: Vec<u8>) -> Style {
    Style {
        decisions,
        next: 0,
        lets: Vec::new(),
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

// Two tests, for two threads.
proptest! {
    #![proptest_config(cases())]

    #[test]
    fn order_and_names_change_no_hash(
        config in any_config(),
        decisions in prop::collection::vec(any::<u8>(), 16..64),
    ) {
        let plain = canonical(&[config.to_string()]);
        prop_assert_eq!(&canonical(&[style(decisions).file(&config)]), &plain);
    }

    #[test]
    fn files_change_no_hash(
        config in any_config(),
        decisions in prop::collection::vec(any::<u8>(), 16..64),
    ) {
        let mut style = style(decisions);
        let (left, right) = style.split(&config);
        let files = [style.file(&left), style.file(&right)];
        // By an import instead of a second file on the command line.
        let merged = format!("({}) & ({})", files[1], files[0]);
        let plain = canonical(&[config.to_string()]);
        prop_assert_eq!(&canonical(&files), &plain);
        prop_assert_eq!(&canonical(&[merged]), &plain);
    }
}
