//! What a service sees: volumes, files, secrets, devices.

use super::{
    super::{fresh, mount, name_of, normal, record, size_of, sub_path, text_of},
    Compose, Service,
};
use serde_json::{Map, Value, json};
use std::path::Path;
use tank_model::spec::FolderMode;

/// Why a mount is refused, as by Compose.
const UNDECLARED: &str = "the file declares no such volume in `volumes`";

/// A mount as a service has it.
struct Mounted {
    /// Whether it says that its source is a path of the host.
    bind: bool,
    source: Option<String>,
    target: String,
    read_only: bool,
    no_copy: bool,
    sub_path: Option<String>,
    /// How what is mounted on the host later gets there, in Compose's word.
    propagation: Option<String>,
}

impl Compose<'_> {
    pub(super) fn volume(&mut self, at: &mut Service<'_>, path: &str, volume: &Value) {
        let mounted = match volume {
            Value::Object(fields) => self.long_volume(at, path, fields),
            other => self.short_volume(path, other),
        };
        let Some(Mounted {
            bind,
            source,
            target,
            read_only,
            no_copy,
            sub_path,
            propagation,
        }) = mounted
        else {
            return;
        };
        let Some(source) = source else {
            let name = target
                .rsplit('/')
                .find(|part| !part.is_empty())
                .unwrap_or("data")
                .to_owned();
            mount(
                at.pod,
                at.container,
                &name,
                managed(no_copy),
                &target,
                read_only,
            );
            return;
        };
        let bind = bind || source.starts_with(['.', '/', '~']);
        if bind {
            self.bind(at, path, &source, &target, read_only);
            if let Some(propagation) = propagation {
                self.propagation(at, path, &target, &propagation);
            }
            return;
        }
        if let Some(device) = self.bound(&source) {
            let device = match sub_path {
                Some(inner) => format!("{device}/{inner}"),
                None => device,
            };
            return self.bind(at, path, &device, &target, read_only);
        }
        if !self.declares(&source) {
            return self.draft.refuse(path, UNDECLARED);
        }
        let mut volume = self.kept(&source, no_copy);
        if self.uses.get(&source).copied().unwrap_or(0) > 1 {
            volume = self.draft.shared(path, &source, volume);
        }
        let mounted = mount(at.pod, at.container, &source, volume, &target, read_only);
        if let Some(path) = sub_path {
            mounted["sub_path"] = path.into();
        }
    }

    /// Whether the file declares a volume, as far as that can be known: a variable may stand for any.
    fn declares(&self, volume: &str) -> bool {
        let declared = self.whole.get("volumes").and_then(|all| all.get(volume));
        declared.is_some() || volume.contains('$')
    }

    /// Notes what of a mount in the long syntax Tank does not have.
    fn unknown_keys(&mut self, path: &str, fields: &Map<String, Value>) {
        for (key, value) in fields {
            let known = matches!(
                key.as_str(),
                "type" | "source" | "target" | "read_only" | "tmpfs"
            );
            let plain = key == "volume"
                && value
                    .as_object()
                    .is_some_and(|f| f.keys().all(|k| k == "nocopy" || k == "subpath"));
            let create = key == "bind"
                && value.as_object().is_some_and(|f| {
                    f.keys()
                        .all(|k| k == "create_host_path" || k == "propagation")
                });
            if !known && !plain && !create {
                self.draft
                    .note(format!("{path}.{key}"), "Tank has no such key");
            }
        }
    }

    /// A mount in the long syntax; none if it is in memory, which is put in place here.
    fn long_volume(
        &mut self,
        at: &mut Service<'_>,
        path: &str,
        fields: &Map<String, Value>,
    ) -> Option<Mounted> {
        self.unknown_keys(path, fields);
        let text = |key: &str| fields.get(key).and_then(text_of);
        let of_tmpfs = |key: &str| fields.get("tmpfs").and_then(|tmpfs| tmpfs.get(key));
        if text("type").as_deref() == Some("tmpfs") {
            let size = of_tmpfs("size").and_then(text_of);
            let size = size.map(|size| format!("size={size}"));
            let mode = of_tmpfs("mode").map(|mode| format!("mode={}", folder_mode_of(mode)));
            let options: Vec<String> = size.into_iter().chain(mode).collect();
            let target = text("target").unwrap_or_default();
            let entry = format!("{target}:{}", options.join(","));
            self.tmpfs(at, path, &Value::String(entry));
            return None;
        }
        let kind = text("type").unwrap_or_default();
        if !matches!(kind.as_str(), "volume" | "bind" | "") {
            let why = format!("Tank has no mounts of type `{kind}`");
            self.draft.note(path, why);
            return None;
        }
        let read_only = fields
            .get("read_only")
            .is_some_and(|value| self.flag(&format!("{path}.read_only"), value));
        let of_volume = |key: &str| fields.get("volume").and_then(|volume| volume.get(key));
        let no_copy = of_volume("nocopy")
            .is_some_and(|value| self.flag(&format!("{path}.volume.nocopy"), value));
        let inner = of_volume("subpath").and_then(text_of);
        let inner = inner.map(|inner| sub_path(&inner).ok_or(inner));
        if let Some(Err(inner)) = &inner {
            let why = format!("`{inner}` is no directory inside of a volume");
            self.draft.note(format!("{path}.volume.subpath"), why);
        }
        Some(Mounted {
            bind: kind == "bind",
            source: text("source"),
            target: text("target").unwrap_or_default(),
            read_only,
            no_copy,
            sub_path: inner.and_then(Result::ok),
            propagation: propagation_of(fields),
        })
    }

    /// A mount in the short syntax, `[SOURCE:]TARGET[:OPTIONS]`; none if it is noted.
    fn short_volume(&mut self, path: &str, volume: &Value) -> Option<Mounted> {
        let text = text_of(volume).unwrap_or_default();
        let Some(text) = self.plain(&text) else {
            self.draft.note(
                path,
                format!("`{text}` depends on a variable that has no value here"),
            );
            return None;
        };
        let parts: Vec<&str> = text.split(':').collect();
        let mut no_copy = false;
        let mut propagation = None;
        let (source, target, read_only) = match parts.as_slice() {
            [target] => (None, (*target).to_owned(), false),
            [source, target] => (Some((*source).to_owned()), (*target).to_owned(), false),
            [source, target, options] => {
                let mut read_only = false;
                for option in options.split(',') {
                    match option {
                        "ro" => read_only = true,
                        "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
                        "nocopy" => no_copy = true,
                        "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                            propagation = Some(option.to_owned());
                        }
                        other => self.draft.note(path, format!("the option `{other}`")),
                    }
                }
                (Some((*source).to_owned()), (*target).to_owned(), read_only)
            }
            _ => {
                self.draft.note(path, format!("`{text}` is no mount"));
                return None;
            }
        };
        Some(Mounted {
            bind: false,
            source,
            target,
            read_only,
            no_copy,
            sub_path: None,
            propagation,
        })
    }

    /// What is mounted on the host later: from there to the container, and never back.
    fn propagation(&mut self, at: &mut Service<'_>, path: &str, target: &str, said: &str) {
        if matches!(said, "private" | "rprivate" | "") {
            return;
        }
        let target = normal(target);
        let mounts = record(at.container(), "mounts");
        let entry = mounts.values_mut().find(|entry| entry["path"] == *target);
        match (said, entry) {
            ("slave" | "rslave", Some(entry)) if entry.get("read_only").is_none() => {
                entry["propagation"] = "slave".into();
            }
            ("slave" | "rslave", Some(_)) => {
                let why = "`slave` of a read-only mount: what is mounted later could be written";
                self.draft.note(path, why);
            }
            (_, None) => {}
            (other, _) => {
                let why = format!("`{other}`: what a container mounts never appears on the host");
                self.draft.note(path, why);
            }
        }
    }

    pub(super) fn bind(
        &mut self,
        at: &mut Service<'_>,
        path: &str,
        source: &str,
        target: &str,
        read_only: bool,
    ) {
        if source.starts_with('~') {
            self.draft
                .note(path, format!("`{source}`: name the home directory in full"));
            return;
        }
        let full = self.dir.join(source);
        let full = full
            .components()
            .filter(|part| *part != std::path::Component::CurDir)
            .collect::<std::path::PathBuf>();
        let name = target
            .rsplit('/')
            .find(|part| !part.is_empty())
            .unwrap_or("data");
        let is_file = if full.exists() {
            full.is_file()
        } else {
            looks_like_a_file(source)
        };
        if source.ends_with(".sock") {
            self.draft.note(
                path,
                format!("`{source}`: a socket of the host is not handed into a container"),
            );
        } else if is_file && !source.starts_with('/') {
            let source = if source.starts_with("./") || source.starts_with("../") {
                source.to_owned()
            } else {
                format!("./{source}")
            };
            record(at.container(), "files").insert(normal(target), json!({ "source": source }));
        } else if is_file {
            let why = format!(
                "`{source}`: a file of the host is put into a container with `files` or `secrets`"
            );
            self.draft.note(path, why);
        } else {
            let full = squashed(&full);
            mount(
                at.pod,
                at.container,
                name,
                json!({ "host": full }),
                target,
                read_only,
            );
        }
    }

    pub(super) fn tmpfs(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let text = text_of(value).unwrap_or_default();
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut size = Value::from("64MiB");
        let (mut mode, mut uid, mut gid) = (None, None, None);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let known = match option.split_once('=') {
                Some(("size", given)) => {
                    size = size_of(given).unwrap_or(size);
                    true
                }
                Some(("mode", given)) => {
                    mode = FolderMode::try_from(given.to_owned())
                        .ok()
                        .map(String::from);
                    mode.is_some()
                }
                Some(("uid", given)) => {
                    uid = given.parse::<u16>().ok();
                    uid.is_some()
                }
                Some(("gid", given)) => {
                    gid = given.parse::<u16>().ok();
                    gid.is_some()
                }
                _ => true,
            };
            if !known {
                self.draft.note(path, format!("the option `{option}`"));
            }
        }
        let mut volume = json!({ "tmpfs": size });
        if let Some(mode) = mode {
            volume["mode"] = mode.into();
        }
        if uid.or(gid).is_some() {
            let owner = format!("{}:{}", uid.unwrap_or(0), gid.unwrap_or(0));
            volume["owner"] = owner.into();
        }
        let name = target
            .rsplit('/')
            .find(|part| !part.is_empty())
            .unwrap_or("tmp")
            .to_owned();
        mount(at.pod, at.container, &name, volume, target, false);
    }

    pub(super) fn device(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let text = text_of(value).unwrap_or_default();
        let mut parts = text.split(':');
        let device = parts.next().unwrap_or_default().to_owned();
        if !device.starts_with("/dev/") {
            self.draft.note(path, format!("`{text}` is no device"));
            return;
        }
        let mut entry = json!({ "path": device });
        if let Some(to) = parts.next().filter(|to| *to != device) {
            entry["to"] = to.into();
        }
        match parts.next() {
            Some("r") => entry["read_only"] = true.into(),
            Some(access) if access != "rwm" && access != "rw" => {
                self.draft.note(path, format!("the access `{access}`"))
            }
            _ => {}
        }
        let devices = record(at.container(), "devices");
        let name = fresh(
            devices,
            &name_of(device.rsplit('/').next().unwrap_or("device")),
        );
        devices.insert(name, entry);
    }

    pub(super) fn secret(&mut self, at: &mut Service<'_>, path: &str, secret: &Value) {
        let source = secret
            .as_str()
            .map(str::to_owned)
            .or_else(|| secret.get("source").and_then(text_of));
        let source = source.unwrap_or_default();
        let declared = self
            .whole
            .get("secrets")
            .and_then(|secrets| secrets.get(&source))
            .cloned()
            .unwrap_or_default();
        let Some(file) = declared
            .get("file")
            .and_then(text_of)
            .and_then(|file| self.plain(&file))
        else {
            self.draft.note(
                format!("secrets.{source}"),
                "a secret is a file of the host",
            );
            return;
        };
        let target = secret
            .get("target")
            .and_then(text_of)
            .unwrap_or_else(|| source.clone());
        let target = if target.starts_with('/') {
            target
        } else {
            format!("/run/secrets/{target}")
        };
        let mut entry = json!({ "file": squashed(&self.dir.join(file)), "path": normal(&target) });
        // Compose's is readable by every user of the container, unless it says otherwise; Tank's is not.
        let mode = secret.get("mode").map_or_else(|| "0444".into(), mode_of);
        entry["mode"] = mode.into();
        let id = |key: &str| secret.get(key).and_then(text_of);
        match (id("uid"), id("gid")) {
            (None, None) => {}
            (uid, gid) => {
                let both = [uid, gid].map(|id| id.unwrap_or_else(|| "0".to_owned()));
                match both.iter().all(|id| id.parse::<u16>().is_ok()) {
                    true => entry["owner"] = both.join(":").into(),
                    false => self.draft.note(
                        format!("{path}.{source}"),
                        "its `uid` and `gid` are numbers below 65536",
                    ),
                }
            }
        }
        record(at.container(), "secrets").insert(name_of(&source), entry);
    }
}

/// What `bind.propagation` says.
fn propagation_of(fields: &Map<String, Value>) -> Option<String> {
    fields.get("bind")?.get("propagation").and_then(text_of)
}

/// A volume that Tank keeps.
pub(super) fn managed(no_copy: bool) -> Value {
    match no_copy {
        true => json!({ "no_copy": true }),
        false => json!({}),
    }
}

fn looks_like_a_file(source: &str) -> bool {
    let name = source.rsplit('/').next().unwrap_or_default();
    let extension = name
        .rsplit_once('.')
        .map(|(stem, extension)| !stem.is_empty() && !extension.is_empty());
    extension == Some(true) && !name.ends_with(".d")
}

/// A path without `..`, as far as its text says.
fn squashed(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let text = path.to_string_lossy();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// As [`mode_of`], of a directory.
fn folder_mode_of(value: &Value) -> String {
    match value.as_u64() {
        Some(number) => format!("{number:04o}"),
        None => mode_of(value),
    }
}

/// Compose writes modes as octal numbers, which YAML reads as decimals or, in quotes, as texts.
pub(super) fn mode_of(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("{:04o}", number.as_u64().unwrap_or(0o400) & 0o777),
        other => format!(
            "{:0>4}",
            text_of(other)
                .unwrap_or_else(|| "0400".to_owned())
                .trim_start_matches("0o")
        ),
    }
}
