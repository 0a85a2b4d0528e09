//! Compose (the specification at compose-spec.io): a service becomes a pod with one container.

use super::{
    Draft, ImportError, SHARED, capability_of, documents, fresh, mount, name_of, normal, record, signal_of, size_of,
    text_of, time_of, words, write::MARK,
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The most ports of one range.
const MAX_PORTS: u16 = 64;

type Fields = Map<String, Value>;

pub fn read(files: &[(&Path, String)], draft: &mut Draft) -> Result<(), ImportError> {
    let mut whole = Fields::new();
    for (file, text) in files {
        for document in documents(file, text)? {
            let Value::Object(fields) = document else {
                return Err(ImportError::Shape(file.to_path_buf(), "this is no Compose file".to_owned()));
            };
            // Later files win, as `docker compose -f a -f b` has it.
            over(&mut whole, fields);
        }
    }
    let Some((file, _)) = files.first() else { return Ok(()) };
    // The first format: the whole file is services.
    let is_service = |value: &Value| value.get("image").is_some() || value.get("build").is_some();
    if !whole.contains_key("services") && !whole.is_empty() && whole.values().all(is_service) {
        whole = [("services".to_owned(), Value::Object(whole))].into_iter().collect();
    }
    if !whole.contains_key("services") {
        return Err(ImportError::Shape(file.to_path_buf(), "it has no `services`".to_owned()));
    }
    let full = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let dir = full.parent().unwrap_or(Path::new("/")).to_path_buf();
    let mut compose = Compose {
        environment: dot_env(&dir),
        uses: uses(&whole),
        containers: container_names(&whole),
        whole,
        dir,
        draft,
    };
    compose.top();
    Ok(())
}

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
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
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
                Value::String(text) => text.split(':').next().filter(|_| text.contains(':')).map(str::to_owned),
                Value::Object(fields) if fields.get("type").and_then(Value::as_str) == Some("volume") => {
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
        let given = fields.get("container_name").and_then(text_of).filter(|name| !name.contains('$'));
        (service.clone(), given.map_or_else(|| "app".to_owned(), |name| name_of(&name)))
    };
    objects(whole.get("services")).map(name).collect()
}

fn objects(value: Option<&Value>) -> impl Iterator<Item = (&String, &Fields)> {
    value.and_then(Value::as_object).into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_object()?)))
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
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), text_of(value))).collect(),
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
                "name" => {
                    let name = text_of(value).unwrap_or_default();
                    self.draft.remarks.push(format!("The project is called `{name}`."));
                }
                "volumes" => self.volumes(value),
                "networks" => self.networks(value, &whole),
                other => self.draft.note(other, "Tank has no such key"),
            }
        }
        for (name, service) in objects(whole.get("services")) {
            self.service(name, service);
        }
    }

    fn volumes(&mut self, value: &Value) {
        for (name, fields) in objects(Some(value)) {
            for (key, value) in fields {
                let plain = match key.as_str() {
                    "driver" => value.as_str() == Some("local"),
                    "name" | "labels" => true,
                    "external" => *value == Value::Bool(false),
                    _ => false,
                };
                if !plain {
                    let why = "a volume is kept by Tank, a directory of the host, or memory: fill it or point to it";
                    self.draft.note(format!("volumes.{name}.{key}"), why);
                }
            }
        }
    }

    fn networks(&mut self, value: &Value, whole: &Fields) {
        let separate = value.as_object().map_or(0, Map::len) > 1
            && objects(whole.get("services")).any(|(_, service)| service.contains_key("networks"));
        if separate {
            self.draft.note("networks", "all pods are on one bridge: they are not kept apart");
        }
        for (name, fields) in objects(Some(value)) {
            for (key, value) in fields {
                let plain = match key.as_str() {
                    "driver" => value.as_str() == Some("bridge"),
                    "name" | "labels" | "attachable" | "enable_ipv6" => true,
                    "external" => *value == Value::Bool(false),
                    _ => false,
                };
                if !plain {
                    self.draft.note(format!("networks.{name}.{key}"), "pods have addresses of Tank's bridge");
                }
            }
        }
    }

    /// A text with its `${VARIABLES}` marked, for the writer to interpolate.
    fn text(&mut self, text: &str) -> String {
        self.interpolate(text, true)
    }

    /// A text with its variables replaced by the values they have here; none where one has no value.
    fn plain(&mut self, text: &str) -> Option<String> {
        let replaced = self.interpolate(text, false);
        (!replaced.contains(MARK)).then_some(replaced)
    }

    /// Compose's `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR:?error}`, `${VAR:+other}` and `$$`.
    fn interpolate(&mut self, text: &str, keep: bool) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let (name, default, after) = if let Some(inner) = rest.strip_prefix('{') {
                let Some(end) = inner.find('}') else {
                    out.push('$');
                    continue;
                };
                let body = &inner[..end];
                let split = body.find([':', '-', '?', '+']).unwrap_or(body.len());
                let modifier = body[split..].trim_start_matches(':');
                let default = modifier.strip_prefix('-').map(str::to_owned);
                (body[..split].to_owned(), default, &inner[end + 1..])
            } else {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (rest[..end].to_owned(), None, &rest[end..])
            };
            rest = after;
            if name.is_empty() {
                out.push('$');
                continue;
            }
            let value = self.environment.get(&name).cloned().or(default);
            match (&value, keep) {
                (Some(value), false) => out.push_str(value),
                _ => {
                    out.extend([MARK]);
                    out.push_str(&name);
                    out.extend([MARK]);
                    if keep {
                        let known = self.draft.variables.entry(name).or_insert(None);
                        *known = known.take().or(value);
                    }
                }
            }
        }
        out.push_str(rest);
        out
    }

    fn service(&mut self, name: &str, service: &Fields) {
        let container = self.containers.get(name).cloned().unwrap_or_else(|| "app".to_owned());
        let mut pod = Fields::new();
        record(record(&mut pod, "containers"), &container);
        let mut at = Service { name, container: &container, pod: &mut pod };
        // Compose starts nothing again unless it is told to.
        let told = service.contains_key("restart")
            || service.get("deploy").is_some_and(|deploy| deploy.get("restart_policy").is_some());
        if !told {
            at.pod.insert("restart".to_owned(), "never".into());
        }
        for (key, value) in service {
            let key = format!("services.{name}.{key}");
            self.field(&mut at, &key, value);
        }
        if at.container().get("image").is_none() {
            at.set("image", format!("{}:latest", name_of(name)).into());
        }
        let pod_name = name_of(name);
        if pod_name != name {
            self.draft
                .note(format!("services.{name}"), format!("the pod is called `{pod_name}`: names are DNS labels"));
        }
        self.draft.pods.insert(pod_name, Value::Object(pod));
    }

    fn field(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let key = path.rsplit('.').next().unwrap_or(path).to_owned();
        match key.as_str() {
            "image" => {
                let image = text_of(value).unwrap_or_default();
                let image = self.text(&image);
                at.set("image", image.into());
            }
            "build" => self.draft.note(path, "Tank builds no images: build it, push it, and name it as `image`"),
            "container_name" if text_of(value).is_some_and(|name| !name.contains('$')) => {}
            "command" => self.command(at, "args", value),
            "entrypoint" => self.command(at, "command", value),
            "environment" => self.environment(at, path, value),
            "env_file" => self.env_file(at, path, value),
            "ports" => list(value).iter().for_each(|port| self.port(at, path, port)),
            "expose" => self.expose(at, path, value),
            "volumes" => list(value).iter().for_each(|volume| self.volume(at, path, volume)),
            "tmpfs" => list(value).iter().for_each(|mount| self.tmpfs(at, path, mount)),
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
                Some(name) => {
                    at.pod.insert("hostname".to_owned(), name.into());
                }
                None => self.draft.note(path, "it depends on a variable that has no value here"),
            },
            "networks" => self.service_networks(path, value),
            "network_mode" => match value.as_str() {
                Some("bridge" | "default") => {}
                Some(mode @ ("host" | "none")) => {
                    at.pod.insert("network".to_owned(), mode.into());
                }
                _ => self.draft.note(path, "containers that share a network are containers of one pod"),
            },
            "secrets" => list(value).iter().for_each(|secret| self.secret(at, path, secret)),
            "configs" => list(value).iter().for_each(|config| self.config(at, path, config)),
            _ => self.plain_field(at, path, &key, value),
        }
    }

    /// What is a container's field of nearly the same name.
    fn plain_field(&mut self, at: &mut Service<'_>, path: &str, key: &str, value: &Value) {
        let text = text_of(value);
        match (key, text.as_deref()) {
            ("user", Some(user)) => {
                let user = self.text(user);
                at.set("user", user.into());
            }
            ("working_dir", Some(dir)) => {
                let dir = self.text(dir);
                at.set("working_dir", dir.into());
            }
            ("tty", _) => at.set("tty", (*value == Value::Bool(true)).into()),
            ("read_only", _) => at.set("read_only", (*value == Value::Bool(true)).into()),
            ("stdin_open", _) => {
                // A terminal can be written to; a closed standard input is what everything else has.
                let terminal = self.whole["services"][at.name].get("tty") == Some(&Value::Bool(true));
                if *value == Value::Bool(true) && !terminal {
                    self.draft.note(path, "only a container with a terminal (`tty`) can be written to");
                }
            }
            ("stop_signal", Some(signal)) => {
                record(at.container(), "stop").insert("signal".to_owned(), signal_of(signal).into());
            }
            ("stop_grace_period", Some(time)) => match time_of(time) {
                Some(time) => {
                    record(at.container(), "stop").insert("timeout".to_owned(), time.into());
                }
                None => self.draft.note(path, format!("`{time}` is no time")),
            },
            ("cap_add" | "cap_drop", _) => {
                let names: Vec<Value> =
                    list(value).iter().filter_map(text_of).map(|name| capability_of(&name).into()).collect();
                record(at.container(), "capabilities").insert(key[4..].to_owned(), names.into());
            }
            ("ulimits", _) => self.ulimits(at, path, value),
            ("devices", _) => list(value).iter().for_each(|device| self.device(at, path, device)),
            ("security_opt", _) => list(value).iter().for_each(|option| self.security(at, path, option)),
            ("mem_limit", Some(size)) => self.limit(at, path, "memory", size),
            ("cpus", Some(cpus)) => self.limit(at, path, "cpu", cpus),
            ("pids_limit", Some(pids)) => self.limit(at, path, "pids", pids),
            ("privileged", _) if *value == Value::Bool(false) => {}
            ("init", _) => self.draft.note(path, "the first process is the command itself: let it reap its children"),
            ("privileged", _) => {
                self.draft
                    .note(path, "no container is root on the host: name what it needs (`capabilities`, `devices`)");
            }
            ("profiles", _) => self.draft.note(path, "a profile is a file of its own, merged when it is wanted"),
            ("extends", _) => self.draft.note(path, "write what is shared as a Nickel function or record"),
            ("logging", _) => self.draft.note(path, "Tank keeps and bounds the logs itself"),
            ("platform", _) => self.draft.note(path, "images are those of this host's architecture"),
            ("extra_hosts", _) => self.draft.note(path, "write `/etc/hosts` with `files`"),
            ("pull_policy", _) => self.draft.note(path, "a tag is looked up at each switch, or held by `tank.lock`"),
            _ => self.draft.note(path, "Tank has no such key"),
        }
    }

    fn command(&mut self, at: &mut Service<'_>, field: &str, value: &Value) {
        let texts: Vec<String> = match value {
            Value::Null => return,
            Value::Array(items) => items.iter().filter_map(text_of).collect(),
            one => words(&text_of(one).unwrap_or_default()),
        };
        let texts: Vec<Value> = texts.iter().map(|text| self.text(text).into()).collect();
        // An empty one takes the image's own away, which is what having none of the other means here.
        if !texts.is_empty() {
            at.set(field, texts.into());
        }
    }

    fn environment(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for (name, value) in pairs(value) {
            // A name alone is the caller's own variable.
            let value = self.text(&value.unwrap_or_else(|| format!("${{{name}}}")));
            if name.is_empty() {
                self.draft.note(path, "a variable without a name");
                continue;
            }
            record(at.container(), "env").insert(name, value.into());
        }
    }

    fn env_file(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for file in list(value) {
            let name =
                file.as_str().map(str::to_owned).or_else(|| file.get("path").and_then(text_of)).unwrap_or_default();
            let optional = file.get("required") == Some(&Value::Bool(false));
            match std::fs::read_to_string(self.dir.join(&name)) {
                Ok(text) => {
                    for (name, value) in env_lines(&text) {
                        let value = self.text(&value);
                        // What `environment` says wins.
                        record(at.container(), "env").entry(name).or_insert_with(|| value.into());
                    }
                }
                Err(_) if optional => {}
                Err(_) => self.draft.note(path, format!("`{name}` is not there: write its variables into `env`")),
            }
        }
    }

    fn port(&mut self, at: &mut Service<'_>, path: &str, port: &Value) {
        let entry = match port {
            Value::Object(fields) => {
                for key in fields.keys() {
                    if !matches!(
                        key.as_str(),
                        "target" | "published" | "protocol" | "host_ip" | "mode" | "name" | "app_protocol"
                    ) {
                        self.draft.note(format!("{path}.{key}"), "Tank has no such key");
                    }
                }
                let text = |key: &str| fields.get(key).and_then(text_of);
                let target = text("target").unwrap_or_default();
                let address = text("host_ip").map(|ip| format!("{ip}:")).unwrap_or_default();
                let protocol = text("protocol").map(|protocol| format!("/{protocol}")).unwrap_or_default();
                match text("published") {
                    Some(published) => format!("{address}{published}:{target}{protocol}"),
                    None => format!("{target}{protocol}"),
                }
            }
            other => text_of(other).unwrap_or_default(),
        };
        let Some(entry) = self.plain(&entry) else {
            self.draft.note(path, format!("`{entry}` depends on a variable that has no value here"));
            return;
        };
        match ports(&entry) {
            Ok(ports) => {
                for (address, host, target, protocol) in ports {
                    let publish = record(at.pod, "publish");
                    let wanted = if protocol == "udp" { format!("p{host}-udp") } else { format!("p{host}") };
                    let name = fresh(publish, &wanted);
                    let mut entry = json!({ "port": host });
                    if address != "127.0.0.1" {
                        entry["address"] = address.into();
                    }
                    if host != target {
                        entry["to"] = target.into();
                    }
                    if protocol == "udp" {
                        entry["protocol"] = "udp".into();
                    }
                    publish.insert(name, entry);
                }
            }
            Err(why) => self.draft.note(format!("{path}.{entry}"), why),
        }
    }

    fn expose(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for port in list(value) {
            let text = text_of(&port).unwrap_or_default();
            // Said for people: every port of a pod can be reached by the others. `ports` would close the rest.
            if text.split('/').next().and_then(|port| port.split('-').next()?.parse::<u16>().ok()).is_none() {
                self.draft.note(path, format!("`{text}` is no port"));
            }
        }
        let _ = at;
    }

    fn volume(&mut self, at: &mut Service<'_>, path: &str, volume: &Value) {
        let (kind, source, target, read_only) = match volume {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let known = matches!(key.as_str(), "type" | "source" | "target" | "read_only" | "tmpfs");
                    let plain = key == "volume" && value.as_object().is_some_and(|f| f.keys().all(|k| k == "nocopy"));
                    let create =
                        key == "bind" && value.as_object().is_some_and(|f| f.keys().all(|k| k == "create_host_path"));
                    if !known && !plain && !create {
                        self.draft.note(format!("{path}.{key}"), "Tank has no such key");
                    }
                }
                let text = |key: &str| fields.get(key).and_then(text_of);
                let size = fields.get("tmpfs").and_then(|tmpfs| tmpfs.get("size")).and_then(text_of);
                if text("type").as_deref() == Some("tmpfs") {
                    let options = size.map(|size| format!(":size={size}")).unwrap_or_default();
                    let entry = format!("{}{options}", text("target").unwrap_or_default());
                    return self.tmpfs(at, path, &Value::String(entry));
                }
                let read_only = fields.get("read_only") == Some(&Value::Bool(true));
                (text("type"), text("source"), text("target").unwrap_or_default(), read_only)
            }
            other => {
                let text = text_of(other).unwrap_or_default();
                let Some(text) = self.plain(&text) else {
                    self.draft.note(path, format!("`{text}` depends on a variable that has no value here"));
                    return;
                };
                let parts: Vec<&str> = text.split(':').collect();
                match parts.as_slice() {
                    [target] => (None, None, (*target).to_owned(), false),
                    [source, target] => (None, Some((*source).to_owned()), (*target).to_owned(), false),
                    [source, target, options] => {
                        let mut read_only = false;
                        for option in options.split(',') {
                            match option {
                                "ro" => read_only = true,
                                "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "nocopy" => {}
                                other => self.draft.note(path, format!("the option `{other}`")),
                            }
                        }
                        (None, Some((*source).to_owned()), (*target).to_owned(), read_only)
                    }
                    _ => {
                        self.draft.note(path, format!("`{text}` is no mount"));
                        return;
                    }
                }
            }
        };
        let Some(source) = source else {
            let name = target.rsplit('/').find(|part| !part.is_empty()).unwrap_or("data").to_owned();
            return mount(at.pod, at.container, &name, json!({}), &target, read_only);
        };
        let bind = kind.as_deref() == Some("bind") || source.starts_with(['.', '/', '~']);
        if bind {
            return self.bind(at, path, &source, &target, read_only);
        }
        if self.uses.get(&source).copied().unwrap_or(0) > 1 {
            self.draft.note(format!("volumes.{source}"), SHARED);
        }
        mount(at.pod, at.container, &source, json!({}), &target, read_only);
    }

    fn bind(&mut self, at: &mut Service<'_>, path: &str, source: &str, target: &str, read_only: bool) {
        if source.starts_with('~') {
            self.draft.note(path, format!("`{source}`: name the home directory in full"));
            return;
        }
        let full = self.dir.join(source);
        let full =
            full.components().filter(|part| *part != std::path::Component::CurDir).collect::<std::path::PathBuf>();
        let name = target.rsplit('/').find(|part| !part.is_empty()).unwrap_or("data");
        let is_file = if full.exists() { full.is_file() } else { looks_like_a_file(source) };
        if source.ends_with(".sock") {
            self.draft.note(path, format!("`{source}`: a socket of the host is not handed into a container"));
        } else if is_file && !source.starts_with('/') {
            let source = if source.starts_with("./") || source.starts_with("../") {
                source.to_owned()
            } else {
                format!("./{source}")
            };
            record(at.container(), "files").insert(normal(target), json!({ "source": source }));
        } else if is_file {
            let why = format!("`{source}`: a file of the host is put into a container with `files` or `secrets`");
            self.draft.note(path, why);
        } else {
            let full = squashed(&full);
            mount(at.pod, at.container, name, json!({ "host": full }), target, read_only);
        }
    }

    fn tmpfs(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let text = text_of(value).unwrap_or_default();
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut size = Value::from("64MiB");
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("size", given)) => size = size_of(given).unwrap_or(size),
                Some(("mode" | "uid" | "gid", _)) => self.draft.note(path, format!("the option `{option}`")),
                _ => {}
            }
        }
        let name = target.rsplit('/').find(|part| !part.is_empty()).unwrap_or("tmp").to_owned();
        mount(at.pod, at.container, &name, json!({ "tmpfs": size }), target, false);
    }

    fn depends_on(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let conditions: Vec<(String, &str)> = match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(name, fields)| {
                    if fields.get("restart") == Some(&Value::Bool(true)) {
                        self.draft
                            .note(format!("{path}.{name}.restart"), "a pod is not restarted because another one was");
                    }
                    if fields.get("required") == Some(&Value::Bool(false)) {
                        self.draft
                            .note(format!("{path}.{name}.required"), "a pod that is depended on has to be declared");
                    }
                    let condition = match fields.get("condition").and_then(Value::as_str) {
                        Some("service_healthy") => "ready",
                        Some("service_completed_successfully") => "completed",
                        _ => "started",
                    };
                    (name.clone(), condition)
                })
                .collect(),
            other => list(other).iter().filter_map(text_of).map(|name| (name, "started")).collect(),
        };
        for (name, condition) in conditions {
            self.needs(at, path, &name, condition);
        }
    }

    fn needs(&mut self, at: &mut Service<'_>, path: &str, name: &str, condition: &str) {
        if self.whole.get("services").and_then(|services| services.get(name)).is_none() {
            self.draft.note(format!("{path}.{name}"), "no such service is in these files");
            return;
        }
        record(at.pod, "depends_on").entry(name_of(name)).or_insert_with(|| condition.into());
    }

    fn links(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for link in list(value).iter().filter_map(text_of) {
            let (name, alias) = link.split_once(':').unwrap_or((&link, &link));
            if name != alias {
                self.draft.note(path, format!("the alias `{alias}`: a pod is found by its own name, `{name}`"));
            }
            self.needs(at, path, name, "started");
        }
    }

    fn healthcheck(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let Value::Object(fields) = value else { return };
        let test = fields.get("test").cloned().unwrap_or_default();
        let shell = |command: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), command];
        let texts: Vec<String> = list(&test).iter().filter_map(text_of).collect();
        let command = match (test.is_array(), texts.as_slice()) {
            _ if fields.get("disable") == Some(&Value::Bool(true)) => return,
            (true, [kind]) if kind == "NONE" => return,
            (true, [kind, rest @ ..]) if kind == "CMD" => rest.to_vec(),
            (true, [kind, rest @ ..]) if kind == "CMD-SHELL" => shell(rest.join(" ")),
            (false, [text]) => shell(text.clone()),
            _ => {
                self.draft.note(path, "the image's own check is not known here: give a `readiness`");
                return;
            }
        };
        let command: Vec<Value> = command.iter().map(|text| self.text(text).into()).collect();
        let mut probe = Fields::new();
        probe.insert("exec".to_owned(), command.into());
        // Docker's defaults, where Tank's differ.
        probe.insert("period".to_owned(), "30s".into());
        probe.insert("timeout".to_owned(), "30s".into());
        for (key, value) in fields {
            let text = text_of(value).unwrap_or_default();
            let text = self.plain(&text).unwrap_or_default();
            let time = |field: &str| time_of(&text).map(|time| (field.to_owned(), Value::from(time)));
            let mapped = match key.as_str() {
                "test" | "disable" => continue,
                "interval" => time("period"),
                "timeout" => time("timeout"),
                "start_period" => time("delay"),
                "retries" => text.parse::<u32>().ok().map(|n| ("failures".to_owned(), n.max(1).into())),
                _ => None,
            };
            match mapped {
                Some((field, value)) => {
                    probe.insert(field, value);
                }
                None => self.draft.note(format!("{path}.{key}"), "Tank's probes have no such key"),
            }
        }
        at.set("readiness", Value::Object(probe));
    }

    fn restart(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let text = text_of(value).unwrap_or_default();
        let restart = match text.split(':').next().unwrap_or_default() {
            // YAML reads a bare `no` as false.
            "no" | "false" => "never",
            "always" | "unless-stopped" => "always",
            "on-failure" => "on_failure",
            other => {
                self.draft.note(path, format!("`{other}` is no policy"));
                return;
            }
        };
        if text.contains(':') {
            self.draft.note(path, "there is no limit to the attempts: they are made ever less often");
        }
        if restart == "always" {
            at.pod.remove("restart");
        } else {
            at.pod.insert("restart".to_owned(), restart.into());
        }
    }

    fn deploy(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for (key, value) in value.as_object().into_iter().flatten() {
            match key.as_str() {
                "replicas" if value.as_u64() == Some(1) => {}
                "replicas" => self.draft.note(format!("{path}.replicas"), "use `tank.replicas`; one is imported"),
                "mode" if value.as_str() == Some("replicated") => {}
                "resources" => {
                    for (key, value) in value.as_object().into_iter().flatten() {
                        if key != "limits" {
                            self.draft.note(format!("{path}.resources.{key}"), "Tank limits, it does not reserve");
                            continue;
                        }
                        for (key, value) in value.as_object().into_iter().flatten() {
                            let text = text_of(value).unwrap_or_default();
                            let at_key = format!("{path}.resources.limits.{key}");
                            match key.as_str() {
                                "memory" => self.limit(at, &at_key, "memory", &text),
                                "cpus" => self.limit(at, &at_key, "cpu", &text),
                                "pids" => self.limit(at, &at_key, "pids", &text),
                                _ => self.draft.note(at_key, "Tank has no such limit"),
                            }
                        }
                    }
                }
                "restart_policy" => {
                    for (key, value) in value.as_object().into_iter().flatten() {
                        match (key.as_str(), value.as_str()) {
                            ("condition", Some("any")) => {
                                at.pod.remove("restart");
                            }
                            ("condition", Some("none")) => {
                                at.pod.insert("restart".to_owned(), "never".into());
                            }
                            ("condition", Some("on-failure")) => {
                                at.pod.insert("restart".to_owned(), "on_failure".into());
                            }
                            _ => {
                                let why = "attempts are made ever less often, by themselves";
                                self.draft.note(format!("{path}.restart_policy.{key}"), why);
                            }
                        }
                    }
                }
                "labels" => {
                    for (name, value) in pairs(value) {
                        record(at.pod, "labels").insert(name, value.unwrap_or_default().into());
                    }
                }
                other => self.draft.note(format!("{path}.{other}"), "Tank runs on one host"),
            }
        }
    }

    fn limit(&mut self, at: &mut Service<'_>, path: &str, field: &str, text: &str) {
        let text = self.plain(text).unwrap_or_default();
        let value = match field {
            "memory" => size_of(&text),
            "pids" => text.parse::<u32>().ok().map(Value::from),
            _ => tank_model::units::MilliCpu::parse(&text).ok().map(|_| Value::from(text.clone())),
        };
        match value {
            Some(value) => {
                record(at.container(), "limits").insert(field.to_owned(), value);
            }
            None => self.draft.note(path, format!("`{text}` is nothing to limit by")),
        }
    }

    fn ulimits(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let amount = |value: &Value| match value.as_i64() {
                Some(-1) => Some(Value::from("unlimited")),
                _ => value.as_u64().map(Value::from),
            };
            let both = match value {
                Value::Object(fields) => fields.get("soft").and_then(amount).zip(fields.get("hard").and_then(amount)),
                one => amount(one).map(|amount| (amount.clone(), amount)),
            };
            match both.filter(|_| tank_model::spec::ULIMITS.contains(&name.as_str())) {
                Some((soft, hard)) => {
                    let entry = json!({ "soft": soft, "hard": hard });
                    record(at.container(), "ulimits").insert(name.clone(), entry);
                }
                None => self.draft.note(format!("{path}.{name}"), "this is no limit of setrlimit(2)"),
            }
        }
    }

    fn device(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
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
        let name = fresh(devices, &name_of(device.rsplit('/').next().unwrap_or("device")));
        devices.insert(name, entry);
    }

    fn security(&mut self, at: &mut Service<'_>, path: &str, option: &Value) {
        match text_of(option).unwrap_or_default().replace('=', ":").as_str() {
            "no-new-privileges" | "no-new-privileges:true" => {}
            "seccomp:unconfined" => {
                record(at.container(), "seccomp").insert("profile".to_owned(), "unconfined".into());
            }
            other => self.draft.note(path, format!("`{other}`")),
        }
    }

    fn service_networks(&mut self, path: &str, value: &Value) {
        for (network, fields) in objects(Some(value)) {
            for key in fields.keys() {
                let why = match key.as_str() {
                    "aliases" => "a pod is found by its own name",
                    _ => "a pod's address is Tank's to give: it stays with the name",
                };
                self.draft.note(format!("{path}.{network}.{key}"), why);
            }
        }
    }

    fn secret(&mut self, at: &mut Service<'_>, path: &str, secret: &Value) {
        let source = secret.as_str().map(str::to_owned).or_else(|| secret.get("source").and_then(text_of));
        let source = source.unwrap_or_default();
        for key in secret.as_object().into_iter().flatten().map(|(key, _)| key) {
            if matches!(key.as_str(), "uid" | "gid") {
                self.draft
                    .note(format!("{path}.{source}.{key}"), "a secret belongs to the container's root: see `mode`");
            }
        }
        let declared = self.whole.get("secrets").and_then(|secrets| secrets.get(&source)).cloned().unwrap_or_default();
        let Some(file) = declared.get("file").and_then(text_of).and_then(|file| self.plain(&file)) else {
            self.draft.note(format!("secrets.{source}"), "a secret is a file of the host");
            return;
        };
        let target = secret.get("target").and_then(text_of).unwrap_or_else(|| source.clone());
        let target = if target.starts_with('/') { target } else { format!("/run/secrets/{target}") };
        let mut entry = json!({ "file": squashed(&self.dir.join(file)), "path": normal(&target) });
        if let Some(mode) = secret.get("mode") {
            entry["mode"] = mode_of(mode).into();
        }
        record(at.container(), "secrets").insert(name_of(&source), entry);
    }

    fn config(&mut self, at: &mut Service<'_>, path: &str, config: &Value) {
        let source = config.as_str().map(str::to_owned).or_else(|| config.get("source").and_then(text_of));
        let source = source.unwrap_or_default();
        let declared = self.whole.get("configs").and_then(|configs| configs.get(&source)).cloned().unwrap_or_default();
        let target = config.get("target").and_then(text_of).unwrap_or_else(|| format!("/{source}"));
        let mut entry = match (declared.get("file").and_then(text_of), declared.get("content").and_then(text_of)) {
            (Some(file), _) => {
                json!({ "source": if file.starts_with(['.', '/']) { file } else { format!("./{file}") } })
            }
            (None, Some(content)) => json!({ "text": self.text(&content) }),
            (None, None) => {
                self.draft.note(format!("configs.{source}"), "a config is a file or a text");
                return;
            }
        };
        if let Some(mode) = config.get("mode") {
            entry["mode"] = mode_of(mode).into();
        }
        for key in config.as_object().into_iter().flatten().map(|(key, _)| key) {
            if matches!(key.as_str(), "uid" | "gid") {
                self.draft.note(format!("{path}.{source}.{key}"), "a file belongs to the container's root: see `mode`");
            }
        }
        record(at.container(), "files").insert(normal(&target), entry);
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

/// Address, port of the host, port of the container, protocol.
type Port = (String, u16, u16, &'static str);

/// `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, each of the ports a range.
pub fn ports(text: &str) -> Result<Vec<Port>, String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => "tcp",
        "udp" => "udp",
        other => return Err(format!("Tank publishes tcp and udp, not {other}")),
    };
    let Some((rest, target)) = rest.rsplit_once(':') else {
        return Err("the host's port would be any: name one".to_owned());
    };
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (address.trim_start_matches('[').trim_end_matches(']').to_owned(), host),
        None => ("0.0.0.0".to_owned(), rest),
    };
    if host.is_empty() {
        return Err("the host's port would be any: name one".to_owned());
    }
    let range = |text: &str| -> Result<(u16, u16), String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |text: &str| text.trim().parse::<u16>().map_err(|_| format!("`{text}` is no port"));
        Ok((parse(first)?, parse(last)?))
    };
    let ((host, host_end), (target, target_end)) = (range(host)?, range(target)?);
    let count = host_end.saturating_sub(host);
    if count != target_end.saturating_sub(target) || count >= MAX_PORTS {
        return Err("the two ranges differ, or are too long".to_owned());
    }
    Ok((0..=count).map(|n| (address.clone(), host + n, target + n, protocol)).collect())
}

fn looks_like_a_file(source: &str) -> bool {
    let name = source.rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.').map(|(stem, extension)| !stem.is_empty() && !extension.is_empty());
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

/// Compose writes modes as octal numbers, which YAML reads as decimals or, in quotes, as texts.
fn mode_of(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("{:04o}", number.as_u64().unwrap_or(0o400) & 0o777),
        other => format!("{:0>4}", text_of(other).unwrap_or_else(|| "0400".to_owned()).trim_start_matches("0o")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_compose_reads_them() {
        let port = |a: &str, h, t, p| (a.to_owned(), h, t, p);
        assert_eq!(ports("8080:80"), Ok(vec![port("0.0.0.0", 8080, 80, "tcp")]));
        assert_eq!(ports("127.0.0.1:53:53/udp"), Ok(vec![port("127.0.0.1", 53, 53, "udp")]));
        assert_eq!(ports("[::1]:1:2"), Ok(vec![port("::1", 1, 2, "tcp")]));
        assert_eq!(ports("3000-3001:80-81").map(|ports| ports.len()), Ok(2));
        for refused in ["80", "1-2:3", "a:b", "1:2/sctp", "127.0.0.1::80"] {
            assert!(ports(refused).is_err(), "{refused}");
        }
    }
}
