//! Compose (the specification at compose-spec.io): a service becomes a pod with one container.
//!
//! * [`run`]: what a service runs and when. [`storage`]: what it sees. [`mod@ports`]: how it
//!   is reached. [`networks`]: on which networks. [`names`]: by which names, and where it asks for
//!   others. [`values`]: how scalars are read.

mod configs;
mod names;
mod networks;
mod ports;
mod run;
mod sizes;
mod storage;
mod values;

pub use ports::{ports, publish};

use super::{Booleans, Draft, ImportError, documents, name_of, record, text_of};
use networks::Link;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use tank_model::stack::RESERVED_STACKS;

type Fields = Map<String, Value>;

pub fn read(files: &[(&Path, String)], draft: &mut Draft) -> Result<(), ImportError> {
    let mut whole = Fields::new();
    for (file, text) in files {
        for document in documents(file, text, Booleans::Strict)? {
            let Value::Object(fields) = document else {
                return Err(ImportError::Shape(
                    file.to_path_buf(),
                    "this is no Compose file".to_owned(),
                ));
            };
            // Later files win, as `docker compose -f a -f b` has it.
            over(&mut whole, fields);
        }
    }
    let Some((file, _)) = files.first() else {
        return Ok(());
    };
    // The first format: the whole file is services.
    let later = [
        "version", "services", "volumes", "networks", "secrets", "configs", "name", "include",
    ];
    if !whole.is_empty()
        && !whole.keys().any(|key| later.contains(&key.as_str()))
        && whole.values().all(Value::is_object)
    {
        whole = [("services".to_owned(), Value::Object(whole))]
            .into_iter()
            .collect();
    }
    if !whole.contains_key("services") {
        return Err(ImportError::Shape(
            file.to_path_buf(),
            "it has no `services`".to_owned(),
        ));
    }
    let full = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let dir = full.parent().unwrap_or(Path::new("/")).to_path_buf();
    let mut compose = Compose {
        environment: dot_env(&dir),
        uses: uses(&whole),
        containers: container_names(&whole),
        aliases: BTreeMap::new(),
        networks: BTreeMap::new(),
        links: BTreeMap::new(),
        whole,
        dir,
        draft,
    };
    compose.top();
    Ok(())
}

const VOLUME: &str =
    "a volume is kept by Tank, a directory of the host, or memory: fill it or point to it";

fn over(below: &mut Fields, above: Fields) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(Value::Object(known)), Value::Object(fields)) => over(known, fields),
            (Some(Value::Array(known)), Value::Array(items)) => known.extend(items),
            (_, value) => {
                below.insert(name, value);
            }
        }
    }
}

/// The `.env` beside the file.
fn dot_env(dir: &Path) -> BTreeMap<String, String> {
    env_lines(&std::fs::read_to_string(dir.join(".env")).unwrap_or_default())
}

fn env_lines(text: &str) -> BTreeMap<String, String> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line
            .strip_prefix("export ")
            .unwrap_or(line)
            .split_once('=')?;
        let value = value.trim();
        let plain = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let plain = plain.or_else(|| value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')));
        Some((name.trim().to_owned(), plain.unwrap_or(value).to_owned()))
    };
    lines.filter_map(pair).collect()
}

/// How many services use each named volume.
fn uses(whole: &Fields) -> BTreeMap<String, usize> {
    let mut uses = BTreeMap::new();
    for service in objects(whole.get("services")).map(|(_, service)| service) {
        let mut own = BTreeSet::new();
        for volume in array(service.get("volumes")) {
            let source = match volume {
                Value::String(text) => text
                    .split(':')
                    .next()
                    .filter(|_| text.contains(':'))
                    .map(str::to_owned),
                Value::Object(fields)
                    if fields.get("type").and_then(Value::as_str) == Some("volume") =>
                {
                    fields.get("source").and_then(text_of)
                }
                _ => None,
            };
            own.extend(source.filter(|source| !source.starts_with(['.', '/', '~', '$'])));
        }
        for volume in own {
            *uses.entry(volume).or_insert(0) += 1;
        }
    }
    uses
}

/// What the container of each service is called.
fn container_names(whole: &Fields) -> BTreeMap<String, String> {
    let name = |(service, fields): (&String, &Fields)| {
        let given = fields
            .get("container_name")
            .and_then(text_of)
            .filter(|name| !name.contains('$'));
        (
            service.clone(),
            given.map_or_else(|| "app".to_owned(), |name| name_of(&name)),
        )
    };
    objects(whole.get("services")).map(name).collect()
}

fn objects(value: Option<&Value>) -> impl Iterator<Item = (&String, &Fields)> {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name, value.as_object()?)))
}

fn array(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

/// A list, or one word alone.
fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    }
}

/// `{ A: b }` or `[A=b]`, as pairs; none where there is a name alone.
fn pairs(value: &Value) -> Vec<(String, Option<String>)> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), text_of(value)))
            .collect(),
        Value::Array(items) => items
            .iter()
            .filter_map(text_of)
            .map(|item| match item.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (item, None),
            })
            .collect(),
        _ => Vec::new(),
    }
}

struct Compose<'a> {
    whole: Fields,
    dir: std::path::PathBuf,
    environment: BTreeMap<String, String>,
    uses: BTreeMap<String, usize>,
    containers: BTreeMap<String, String>,
    /// Other names of each pod.
    aliases: BTreeMap<String, BTreeSet<String>>,
    /// What the networks of the file are called here.
    networks: BTreeMap<String, String>,
    /// The networks of the file that sit on a link of the host, and are none here.
    links: BTreeMap<String, Link>,
    draft: &'a mut Draft,
}

impl Compose<'_> {
    fn top(&mut self) {
        let whole = self.whole.clone();
        for (key, value) in &whole {
            match key.as_str() {
                // `version` has no meaning since 2020, `x-` is the user's own.
                "services" | "secrets" | "configs" | "version" => {}
                extension if extension.starts_with("x-") => {}
                "name" => self.project(value),
                "volumes" => self.volumes(value),
                "networks" => self.networks(value),
                other => self.draft.note(other, "Tank has no such key"),
            }
        }
        self.default_network();
        for (name, service) in objects(whole.get("services")) {
            self.service(name, service);
        }
        if !whole.contains_key("name") {
            self.unnamed_project();
        }
        self.give_aliases();
    }

    /// A project without a name is called by its environment, or after its folder, as by Compose.
    fn unnamed_project(&mut self) {
        let folder = || Some(self.dir.file_name()?.to_string_lossy().into_owned());
        let (name, source) = match self.environment.get("COMPOSE_PROJECT_NAME") {
            Some(name) => (name.clone(), "`COMPOSE_PROJECT_NAME`"),
            None => (folder().unwrap_or_default(), "the folder"),
        };
        if name.contains(|c: char| c.is_ascii_alphanumeric()) {
            let stack = stack_of(&name);
            let remark = format!("The stack is called `{stack}` after {source}, as by Compose.");
            self.draft.remarks.push(remark);
            self.draft.stack = Some(stack);
        }
    }

    /// A project is a stack.
    fn project(&mut self, value: &Value) {
        let given = text_of(value).unwrap_or_default();
        match self.plain(&given).filter(|name| !name.is_empty()) {
            Some(name) => {
                let stack = stack_of(&name);
                if stack != name {
                    let remark = format!("The project is called `{name}`, the stack `{stack}`.");
                    self.draft.remarks.push(remark);
                }
                self.draft.stack = Some(stack);
            }
            None => self.draft.note(
                "name",
                "its variable has no value here: say `stack`, or use `tank switch --stack`",
            ),
        }
    }

    fn volumes(&mut self, value: &Value) {
        for (name, fields) in objects(Some(value)) {
            for (key, value) in fields {
                let path = format!("volumes.{name}.{key}");
                let plain = match key.as_str() {
                    "driver" => value.as_str() == Some("local"),
                    "driver_opts" => self.bound(name).is_some() || self.size(name).is_some(),
                    "external" => !self.is_external(&path, value),
                    key => key.starts_with("x-"),
                };
                if !plain {
                    let why = match key.as_str() {
                        "name" => "a volume has the name of its pod and its own",
                        "labels" => "Tank's volumes have no labels",
                        _ => VOLUME,
                    };
                    self.draft.note(path, why);
                }
            }
        }
    }

    /// The directory of the host that a named volume is, where the local driver's options say so.
    fn bound(&mut self, volume: &str) -> Option<String> {
        let options = self.whole.get("volumes")?.get(volume)?.get("driver_opts")?;
        let text = |key: &str| options.get(key).and_then(text_of);
        let known = options.as_object()?.keys();
        let known = known
            .map(String::as_str)
            .all(|key| matches!(key, "type" | "o" | "device"));
        let is_bind = known
            && text("type").is_none_or(|kind| matches!(kind.as_str(), "none" | "bind" | ""))
            && text("o").is_some_and(|options| matches!(options.as_str(), "bind" | "rbind"));
        let device = text("device").filter(|_| is_bind)?;
        self.plain(&device)
            .filter(|device| device.starts_with(['/', '.']))
    }

    fn service(&mut self, name: &str, service: &Fields) {
        let container = self
            .containers
            .get(name)
            .cloned()
            .unwrap_or_else(|| "app".to_owned());
        let mut pod = Fields::new();
        record(record(&mut pod, "containers"), &container);
        let mut at = Service {
            name,
            container: &container,
            pod: &mut pod,
        };
        // Compose restarts nothing unless a service declares it.
        let declared = service.contains_key("restart")
            || service
                .get("deploy")
                .is_some_and(|deploy| deploy.get("restart_policy").is_some());
        if !declared {
            at.pod.insert("restart".to_owned(), "never".into());
        }
        for (key, value) in service {
            let key = format!("services.{name}.{key}");
            self.field(&mut at, &key, value);
        }
        self.on_default(&mut at, service);
        if at.container().get("image").is_none() {
            at.set("image", format!("{}:latest", name_of(name)).into());
        }
        let pod_name = name_of(name);
        if pod_name != name {
            self.draft.note(
                format!("services.{name}"),
                format!("the pod is called `{pod_name}`: names are DNS labels"),
            );
            // Others still ask for it by that.
            self.alias(name, &format!("services.{name}"), name);
        }
        self.draft.pods.insert(pod_name, Value::Object(pod));
    }

    /// A key of a service.
    // long: it has an arm for each key with a meaning of its own
    fn field(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let key = path.rsplit('.').next().unwrap_or(path).to_owned();
        match key.as_str() {
            "image" => {
                let image = text_of(value).unwrap_or_default();
                let image = self.text(&image);
                at.set("image", image.into());
            }
            "build" => self.draft.note(
                path,
                "Tank builds no images: build it, push it, and name it as `image`",
            ),
            "container_name" => {
                let alias = text_of(value).unwrap_or_default();
                self.alias(at.name, path, &alias);
            }
            "command" => self.command(at, "args", value),
            "entrypoint" => self.command(at, "command", value),
            "environment" => self.environment(at, path, value),
            "env_file" => self.env_file(at, path, value),
            "ports" => list(value)
                .iter()
                .for_each(|port| self.port(at, path, port)),
            "expose" => self.expose(at, path, value),
            "volumes" => list(value)
                .iter()
                .for_each(|volume| self.volume(at, path, volume)),
            "tmpfs" => list(value)
                .iter()
                .for_each(|mount| self.tmpfs(at, path, mount)),
            "depends_on" => self.depends_on(at, path, value),
            "links" => self.links(at, path, value),
            "healthcheck" => self.healthcheck(at, path, value),
            "restart" => self.restart(at, path, value),
            "deploy" => self.deploy(at, path, value),
            "labels" => {
                for (name, value) in pairs(value) {
                    let value = self.text(&value.unwrap_or_default());
                    record(at.pod, "labels").insert(name, value.into());
                }
            }
            "sysctls" => {
                for (name, value) in pairs(value) {
                    record(at.pod, "sysctls").insert(name, value.unwrap_or_default().into());
                }
            }
            "hostname" => match text_of(value).and_then(|name| self.plain(&name)) {
                Some(name) => self.hostname(at, path, &name),
                None => self
                    .draft
                    .note(path, "it depends on a variable that has no value here"),
            },
            "networks" => self.service_networks(at, path, value),
            "dns" | "dns_search" | "dns_opt" => self.dns(at, path, &key, value),
            "extra_hosts" => self.extra_hosts(at, path, value),
            "network_mode" => match value.as_str() {
                Some("bridge" | "default") => {}
                Some(mode @ ("host" | "none")) => {
                    at.pod.insert("network".to_owned(), mode.into());
                }
                _ => self.draft.note(
                    path,
                    "containers that share a network are containers of one pod",
                ),
            },
            "secrets" => list(value)
                .iter()
                .for_each(|secret| self.secret(at, path, secret)),
            "configs" => list(value)
                .iter()
                .for_each(|config| self.config(at, path, config)),
            _ => self.plain_field(at, path, &key, value),
        }
    }
}

/// The nearest name to a project's that a stack can have.
fn stack_of(project: &str) -> String {
    let name = name_of(project);
    match RESERVED_STACKS.contains(&name.as_str()) {
        true => format!("{name}-stack"),
        false => name,
    }
}

/// One service on its way to be a pod.
struct Service<'a> {
    name: &'a str,
    container: &'a str,
    pod: &'a mut Fields,
}

impl Service<'_> {
    fn container(&mut self) -> &mut Fields {
        record(record(self.pod, "containers"), self.container)
    }

    fn set(&mut self, field: &str, value: Value) {
        self.container().insert(field.to_owned(), value);
    }
}
