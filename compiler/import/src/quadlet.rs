//! Quadlet units (podman-systemd.unit(5)): a `.container` file becomes a pod, a `.network` file a network.

mod networks;
mod units;
mod volumes;

use super::{
    Draft, ImportError, capability_of, fresh, logging, mount, name_of, normal, record, signal_of,
    size_of, time_of, words,
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use units::{Entry, entries, is_container, is_network, is_yes, name_of_file, stem};
use volumes::volume;

type Fields = Map<String, Value>;

pub fn read(files: &[(&Path, String)], draft: &mut Draft) -> Result<(), ImportError> {
    let stems: BTreeSet<String> = files
        .iter()
        .filter(|(file, _)| is_container(file))
        .map(|(file, _)| stem(file))
        .collect();
    let uses = uses(files)?;
    let mut declared: BTreeMap<String, Option<String>> = BTreeMap::new();
    for (file, text) in files.iter().filter(|(file, _)| is_network(file)) {
        let entries = entries(file, text)?;
        let own = networks::network(&stem(file), &name_of_file(file), &entries, draft);
        declared.insert(stem(file), own);
    }
    let mut volumes = BTreeMap::new();
    let is_volume = |file: &Path| !is_network(file) && !is_container(file);
    for (file, text) in files.iter().filter(|(file, _)| is_volume(file)) {
        let declared = volume(&name_of_file(file), &entries(file, text)?, draft);
        volumes.insert(stem(file), declared);
    }
    for (file, text) in files.iter().filter(|(file, _)| !is_network(file)) {
        let entries = entries(file, text)?;
        if is_container(file) {
            let mut unit = Unit {
                file: name_of_file(file),
                pod: Fields::new(),
                draft,
                stems: &stems,
                declared: &declared,
                volumes: &volumes,
                uses: &uses,
                networks: networks::Networks::default(),
                probe: Fields::new(),
            };
            unit.pod.insert("restart".to_owned(), "never".into());
            entries.iter().for_each(|entry| unit.entry(entry));
            unit.finish(&stem(file));
        }
    }
    Ok(())
}

/// How many units have each volume mounted.
fn uses(files: &[(&Path, String)]) -> Result<BTreeMap<String, usize>, ImportError> {
    let mut uses = BTreeMap::new();
    for (file, text) in files.iter().filter(|(file, _)| is_container(file)) {
        let entries = entries(file, text)?;
        let mounted = entries.iter().filter(|(_, key, _)| key == "Volume");
        let named = mounted.filter_map(|(_, _, volume)| {
            let (source, _) = volume.split_once(':')?;
            (!source.starts_with(['/', '.', '%'])).then(|| source.trim_end_matches(".volume"))
        });
        let own: BTreeSet<&str> = named.collect();
        for volume in own {
            *uses.entry(volume.to_owned()).or_insert(0) += 1;
        }
    }
    Ok(uses)
}

struct Unit<'a> {
    file: String,
    pod: Fields,
    draft: &'a mut Draft,
    stems: &'a BTreeSet<String>,
    /// What the networks of the files are called here; none for those that sit on a link of the host.
    declared: &'a BTreeMap<String, Option<String>>,
    volumes: &'a BTreeMap<String, Value>,
    /// How many units have each volume.
    uses: &'a BTreeMap<String, usize>,
    networks: networks::Networks,
    probe: Fields,
}

impl Unit<'_> {
    fn container(&mut self) -> &mut Fields {
        record(record(&mut self.pod, "containers"), "app")
    }

    fn note(&mut self, (section, key, _): &Entry, why: impl Into<String>) {
        self.draft
            .note(format!("{}.{section}.{key}", self.file), why);
    }

    fn entry(&mut self, entry: &Entry) {
        // `%h` and the like are systemd's to fill in.
        let specifier = entry
            .2
            .split('%')
            .skip(1)
            .any(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()));
        match entry.0.as_str() {
            "Unit" => self.unit(entry),
            "Container"
                if specifier
                    && !matches!(
                        entry.1.as_str(),
                        "Label" | "Exec" | "Environment" | "HealthCmd"
                    ) =>
            {
                self.note(entry, "systemd would fill in its `%`: write the value");
            }
            "Container" => self.field(entry),
            "Service" => self.service(entry),
            // Every pod is started when the host is.
            "Install" => {}
            _ => self.note(entry, "Tank has no such section"),
        }
    }

    fn unit(&mut self, entry: &Entry) {
        match entry.1.as_str() {
            "Description" => self
                .draft
                .remarks
                .push(format!("{}: {}", self.file, entry.2)),
            "After" | "Requires" | "Wants" | "BindsTo" => {
                for unit in entry.2.split_whitespace() {
                    let name = unit.trim_end_matches(".service");
                    if self.stems.contains(name) {
                        record(&mut self.pod, "depends_on").insert(name_of(name), "started".into());
                    } else if !unit.starts_with("network") && !unit.ends_with(".target") {
                        self.note(entry, format!("`{unit}` is none of these files"));
                    }
                }
            }
            "Documentation" => {}
            _ => self.note(entry, "Tank has no such key"),
        }
    }

    fn service(&mut self, entry: &Entry) {
        match (entry.1.as_str(), entry.2.as_str()) {
            ("Restart", "always") => drop(self.pod.remove("restart")),
            ("Restart", "on-failure" | "on-abnormal") => {
                drop(self.pod.insert("restart".to_owned(), "on_failure".into()))
            }
            ("Restart", "no") => {}
            // How long a start may take is the switch's `--timeout`.
            ("TimeoutStartSec", _) => {}
            ("TimeoutStopSec", time) => match time_of(time) {
                Some(time) => {
                    drop(record(self.container(), "stop").insert("timeout".to_owned(), time.into()))
                }
                None => self.note(entry, "it is no time"),
            },
            ("RestartSec", _) => {
                self.note(entry, "attempts are made ever less often, by themselves")
            }
            _ => self.note(entry, "Tank has no such key"),
        }
    }

    /// A key of `[Container]`.
    // long: it has an arm for each key there is
    fn field(&mut self, entry: &Entry) {
        let value = entry.2.as_str();
        let yes = is_yes(value);
        match entry.1.as_str() {
            "Image" if value.ends_with(".image") || value.ends_with(".build") => {
                self.note(entry, "Tank builds no images: name one of a registry");
            }
            "Image" => drop(self.container().insert("image".to_owned(), value.into())),
            "ContainerName" | "ServiceName" => {}
            "Exec" => drop(
                self.container()
                    .insert("args".to_owned(), words(value).into()),
            ),
            "Entrypoint" => {
                let words =
                    serde_json::from_str::<Vec<String>>(value).unwrap_or_else(|_| words(value));
                self.container().insert("command".to_owned(), words.into());
            }
            "Environment" => {
                for word in words(value) {
                    if let Some((name, value)) = word.split_once('=') {
                        record(self.container(), "env").insert(name.to_owned(), value.into());
                    }
                }
            }
            "PublishPort" => self.port(entry),
            "Volume" => self.volume(entry),
            "Tmpfs" => {
                let (target, options) = value.split_once(':').unwrap_or((value, ""));
                let size = options
                    .split(',')
                    .find_map(|option| option.strip_prefix("size="))
                    .and_then(size_of);
                let name = target
                    .rsplit('/')
                    .find(|part| !part.is_empty())
                    .unwrap_or("tmp")
                    .to_owned();
                let size = size.unwrap_or_else(|| "64MiB".into());
                mount(
                    &mut self.pod,
                    "app",
                    &name,
                    json!({ "tmpfs": size }),
                    target,
                    false,
                );
            }
            "Network" | "NetworkAlias" | "IP" | "IP6" => self.network(entry),
            "User" => drop(self.container().insert("user".to_owned(), value.into())),
            "Group" => {
                let user = self
                    .container()
                    .get("user")
                    .and_then(Value::as_str)
                    .unwrap_or("0")
                    .to_owned();
                self.container()
                    .insert("user".to_owned(), format!("{user}:{value}").into());
            }
            "WorkingDir" => drop(
                self.container()
                    .insert("working_dir".to_owned(), value.into()),
            ),
            "HostName" => drop(self.pod.insert("hostname".to_owned(), value.into())),
            "ReadOnly" => drop(self.container().insert("read_only".to_owned(), yes.into())),
            "NoNewPrivileges" if yes => {}
            "AddCapability" | "DropCapability" => {
                let how = if entry.1 == "AddCapability" {
                    "add"
                } else {
                    "drop"
                };
                let names = value
                    .split_whitespace()
                    .map(|name| Value::from(capability_of(name)));
                let capabilities = record(self.container(), "capabilities");
                let list = capabilities.entry(how).or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.extend(names);
                }
            }
            "Label" => {
                for word in words(value) {
                    let (name, value) = word.split_once('=').unwrap_or((&word, ""));
                    record(&mut self.pod, "labels").insert(name.to_owned(), value.into());
                }
            }
            "Sysctl" => {
                for word in words(value) {
                    let (name, value) = word.split_once('=').unwrap_or((&word, ""));
                    record(&mut self.pod, "sysctls").insert(name.to_owned(), value.into());
                }
            }
            "AddDevice" => {
                let device = value
                    .trim_start_matches('-')
                    .split(':')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                let devices = record(self.container(), "devices");
                let name = fresh(
                    devices,
                    &name_of(device.rsplit('/').next().unwrap_or("device")),
                );
                devices.insert(name, json!({ "path": device }));
            }
            "Memory" | "PidsLimit" => self.limit(entry),
            "Ulimit" => self.ulimit(entry),
            "StopSignal" => drop(
                record(self.container(), "stop")
                    .insert("signal".to_owned(), signal_of(value).into()),
            ),
            "StopTimeout" => {
                drop(
                    record(self.container(), "stop")
                        .insert("timeout".to_owned(), format!("{value}s").into()),
                );
            }
            "SeccompProfile" if value == "unconfined" => {
                record(self.container(), "seccomp")
                    .insert("profile".to_owned(), "unconfined".into());
            }
            key if key.starts_with("Health") => self.health(entry),
            "LogDriver" | "LogOpt" => self.logging(entry),
            "Secret" => self.note(
                entry,
                "a secret is a file of the host that is never stored: `secrets.NAME.file`",
            ),
            "EnvironmentFile" => self.note(
                entry,
                "write its variables into `env`, or hand it in with `secrets`",
            ),
            "Pull" => match value {
                "always" | "newer" => {}
                "missing" | "never" => {
                    self.container().insert("pull".to_owned(), value.into());
                }
                _ => self.note(entry, "it is `always`, `missing`, `never` or `newer`"),
            },
            "AutoUpdate" => self.note(
                entry,
                "a tag is looked up at each switch, or held by `tank.lock`",
            ),
            _ => self.note(entry, "Tank has no such key"),
        }
    }

    fn logging(&mut self, entry: &Entry) {
        let (section, key, value) = entry;
        let path = format!("{}.{section}.{key}", self.file);
        let container = record(record(&mut self.pod, "containers"), "app");
        let to = (container, &mut *self.draft);
        match (key.as_str(), value.split_once('=')) {
            ("LogDriver", _) => logging::driver(to, &path, value),
            (_, Some(option)) => logging::option(to, &path, option),
            (_, None) => self.note(entry, "it is no option, which is `NAME=VALUE`"),
        }
    }

    fn limit(&mut self, entry: &Entry) {
        let (field, value) = match entry.1.as_str() {
            "Memory" => ("memory", size_of(&entry.2)),
            _ => ("pids", entry.2.parse::<u32>().ok().map(Value::from)),
        };
        match value {
            Some(value) => drop(record(self.container(), "limits").insert(field.to_owned(), value)),
            None => self.note(entry, "it is nothing to limit by"),
        }
    }

    fn ulimit(&mut self, entry: &Entry) {
        let amount = |text: &str| match text {
            "-1" | "unlimited" => Some(Value::from("unlimited")),
            number => number.parse::<u64>().ok().map(Value::from),
        };
        let parsed = entry.2.split_once('=').and_then(|(name, limits)| {
            let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
            let known = tank_model::spec::ULIMITS.contains(&name);
            known
                .then(|| Some((name.to_owned(), amount(soft)?, amount(hard)?)))
                .flatten()
        });
        match parsed {
            Some((name, soft, hard)) => {
                record(self.container(), "ulimits")
                    .insert(name, json!({ "soft": soft, "hard": hard }));
            }
            None => self.note(entry, "this is no limit of setrlimit(2)"),
        }
    }

    fn port(&mut self, entry: &Entry) {
        match super::compose::ports(&entry.2) {
            Ok(port) => super::compose::publish(record(&mut self.pod, "publish"), &port),
            Err(why) => self.note(entry, why),
        }
    }

    fn volume(&mut self, entry: &Entry) {
        let parts: Vec<&str> = entry.2.split(':').collect();
        let read_only = parts
            .get(2)
            .is_some_and(|options| options.split(',').any(|option| option == "ro"));
        match parts.as_slice() {
            [target] => {
                let name = target
                    .rsplit('/')
                    .find(|part| !part.is_empty())
                    .unwrap_or("data")
                    .to_owned();
                mount(&mut self.pod, "app", &name, json!({}), target, false);
            }
            [source, target, ..] if source.starts_with('/') => {
                let name = target
                    .rsplit('/')
                    .find(|part| !part.is_empty())
                    .unwrap_or("data")
                    .to_owned();
                if Path::new(source).is_file() {
                    self.note(
                        entry,
                        "a file of the host is put into a container with `files` or `secrets`",
                    );
                } else {
                    mount(
                        &mut self.pod,
                        "app",
                        &name,
                        json!({ "host": normal(source) }),
                        target,
                        read_only,
                    );
                }
            }
            [source, target, ..] if !source.starts_with('.') => {
                let name = source.trim_end_matches(".volume").to_owned();
                let mut volume = self.volumes.get(&name).cloned().unwrap_or(json!({}));
                let options = parts.get(2).copied().unwrap_or_default();
                if options.split(',').any(|option| option == "nocopy") {
                    volume["no_copy"] = true.into();
                }
                if self.uses.get(&name).copied().unwrap_or(0) > 1 {
                    let key = format!("{}.{}.{}", self.file, entry.0, entry.1);
                    volume = self.draft.shared(&key, &name, volume);
                }
                mount(&mut self.pod, "app", &name, volume, target, read_only);
            }
            _ => self.note(entry, "name the host's directory in full"),
        }
    }

    fn health(&mut self, entry: &Entry) {
        let value = entry.2.as_str();
        match entry.1.as_str() {
            "HealthCmd" => {
                let command = match serde_json::from_str::<Vec<String>>(value) {
                    Ok(words) if words.first().is_some_and(|word| word == "CMD") => {
                        words[1..].to_vec()
                    }
                    Ok(words) => words,
                    Err(_) => vec!["/bin/sh".to_owned(), "-c".to_owned(), value.to_owned()],
                };
                self.probe.insert("exec".to_owned(), command.into());
            }
            "HealthInterval" | "HealthTimeout" | "HealthStartPeriod" => {
                let field = match entry.1.as_str() {
                    "HealthInterval" => "period",
                    "HealthTimeout" => "timeout",
                    _ => "delay",
                };
                match time_of(value) {
                    Some(time) => drop(self.probe.insert(field.to_owned(), time.into())),
                    None => self.note(entry, "it is no time"),
                }
            }
            "HealthRetries" => {
                let retries = value.parse::<u32>().unwrap_or(3).max(1);
                self.probe.insert("failures".to_owned(), retries.into());
            }
            _ => self.note(entry, "Tank's probes have no such key"),
        }
    }

    fn finish(mut self, stem: &str) {
        self.finish_networks();
        if self.probe.contains_key("exec") {
            let mut probe = std::mem::take(&mut self.probe);
            probe.entry("period").or_insert_with(|| "30s".into());
            self.container()
                .insert("readiness".to_owned(), Value::Object(probe));
        }
        if self.container().get("image").is_none() {
            let image = format!("{}:latest", name_of(stem));
            self.container().insert("image".to_owned(), image.into());
        }
        self.draft
            .pods
            .insert(name_of(stem), Value::Object(self.pod));
    }
}
