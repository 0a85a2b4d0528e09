//! What a service runs, under which conditions, and with which limits.

use super::{
    super::{capability_of, name_of, record, signal_of, size_of, text_of, time_of, words},
    Compose, Fields, Service, env_lines, list, pairs,
};
use serde_json::{Value, json};
use tank_model::{Platform, units::Millis};

/// Of a service that is wanted more than once.
const REPLICAS: &str = "use `tank.replicas`; one is imported";

impl Compose<'_> {
    /// A key that is a container's field of nearly the same name.
    // long: it has an arm for each
    pub(super) fn plain_field(
        &mut self,
        at: &mut Service<'_>,
        path: &str,
        key: &str,
        value: &Value,
    ) {
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
            ("tty" | "read_only", _) => {
                let flag = self.flag(path, value);
                at.set(key, flag.into());
            }
            ("stdin_open", _) => {
                // A terminal can be written to; a closed standard input is what everything else
                // has.
                let service = self.whole["services"][at.name].clone();
                let whole = path.strip_suffix(".stdin_open").unwrap_or(path);
                let terminal = self.flag_of(whole, &service, "tty") == Some(true);
                if self.flag(path, value) && !terminal {
                    self.draft.note(
                        path,
                        "only a container with a terminal (`tty`) can be written to",
                    );
                }
            }
            ("stop_signal", Some(signal)) => {
                record(at.container(), "stop")
                    .insert("signal".to_owned(), signal_of(signal).into());
            }
            ("stop_grace_period", Some(time)) => match time_of(time) {
                Some(time) => {
                    record(at.container(), "stop").insert("timeout".to_owned(), time.into());
                }
                None => self.draft.note(path, format!("`{time}` is no time")),
            },
            ("cap_add" | "cap_drop", _) => {
                let names: Vec<Value> = list(value)
                    .iter()
                    .filter_map(text_of)
                    .map(|name| capability_of(&name).into())
                    .collect();
                record(at.container(), "capabilities").insert(key[4..].to_owned(), names.into());
            }
            ("ulimits", _) => self.ulimits(at, path, value),
            ("devices", _) => list(value)
                .iter()
                .for_each(|device| self.device(at, path, device)),
            ("security_opt", _) => list(value)
                .iter()
                .for_each(|option| self.security(at, path, option)),
            ("mem_limit", Some(size)) => self.limit(at, path, "memory", size),
            ("cpus", Some(cpus)) => self.limit(at, path, "cpu", cpus),
            ("pids_limit", Some(pids)) => self.limit(at, path, "pids", pids),
            ("privileged" | "init", _) if !self.flag(path, value) => {}
            ("init", _) => self.draft.note(
                path,
                "the first process is the command itself: let it reap its children",
            ),
            ("privileged", _) => {
                self.draft
                    .note(path, "no container is root on the host: name what it needs (`capabilities`, `devices`)");
            }
            ("scale", Some("1")) => {}
            ("scale", _) => self.draft.note(path, REPLICAS),
            ("profiles", _) => self.draft.note(
                path,
                "a profile is a file of its own, merged when it is wanted",
            ),
            ("extends", _) => self
                .draft
                .note(path, "write what is shared as a Nickel function or record"),
            ("logging", _) => crate::logging::logging((at.container(), self.draft), path, value),
            // Whichever this host's is.
            ("platform", Some("linux")) => {}
            ("platform", Some(platform)) if platform.parse::<Platform>().is_ok() => {
                at.set("platform", platform.into());
            }
            ("platform", _) => self.draft.note(
                path,
                "write it as `platform = \"linux/ARCHITECTURE[/VARIANT]\"`; without one the image is that for this host",
            ),
            ("pull_policy", Some("always")) => {}
            ("pull_policy", Some("missing" | "if_not_present")) => {
                at.set("pull", "missing".into());
            }
            ("pull_policy", Some("never")) => at.set("pull", "never".into()),
            ("pull_policy", _) => self.draft.note(
                path,
                "a tag is asked for at each switch: `pull` says when, and `tank.lock` holds it",
            ),
            _ => self.draft.note(path, "Tank has no such key"),
        }
    }

    pub(super) fn command(&mut self, at: &mut Service<'_>, field: &str, value: &Value) {
        let texts: Vec<String> = match value {
            Value::Null => return,
            Value::Array(items) => items.iter().filter_map(text_of).collect(),
            one => words(&text_of(one).unwrap_or_default()),
        };
        let texts: Vec<Value> = texts.iter().map(|text| self.text(text).into()).collect();
        // An empty one takes the image's own away, which is what having none of the other means
        // here.
        if !texts.is_empty() {
            at.set(field, texts.into());
        }
    }

    pub(super) fn environment(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
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

    pub(super) fn env_file(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for file in list(value) {
            let name = file
                .as_str()
                .map(str::to_owned)
                .or_else(|| file.get("path").and_then(text_of))
                .unwrap_or_default();
            let optional = self.flag_of(path, &file, "required") == Some(false);
            match std::fs::read_to_string(self.dir.join(&name)) {
                Ok(text) => {
                    for (name, value) in env_lines(&text) {
                        let value = self.text(&value);
                        // What `environment` says wins.
                        record(at.container(), "env")
                            .entry(name)
                            .or_insert_with(|| value.into());
                    }
                }
                Err(_) if optional => {}
                Err(_) => self.draft.note(
                    path,
                    format!("`{name}` is not there: write its variables into `env`"),
                ),
            }
        }
    }

    pub(super) fn depends_on(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let conditions: Vec<(String, &str)> = match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(name, fields)| {
                    let condition = self.condition(&format!("{path}.{name}"), fields);
                    (name.clone(), condition)
                })
                .collect(),
            other => list(other)
                .iter()
                .filter_map(text_of)
                .map(|name| (name, "started"))
                .collect(),
        };
        for (name, condition) in conditions {
            self.needs(at, path, &name, condition);
        }
    }

    /// What has to be so of a service that is depended on.
    fn condition(&mut self, path: &str, fields: &Value) -> &'static str {
        if self.flag_of(path, fields, "restart") == Some(true) {
            self.draft.note(
                format!("{path}.restart"),
                "a pod is not restarted because another one was",
            );
        }
        if self.flag_of(path, fields, "required") == Some(false) {
            self.draft.note(
                format!("{path}.required"),
                "a pod that is depended on has to be declared",
            );
        }
        let given = fields.get("condition").and_then(text_of);
        let given = given.map(|text| self.plain(&text).unwrap_or(text));
        match given.as_deref() {
            Some("service_healthy") => "ready",
            Some("service_completed_successfully") => "completed",
            Some("service_started") | None => "started",
            Some(other) => {
                let why = format!(
                    "`{other}` is no condition: it is `service_started`, `service_healthy` or `service_completed_successfully`"
                );
                self.draft.refuse(format!("{path}.condition"), why);
                "started"
            }
        }
    }

    pub(super) fn needs(&mut self, at: &mut Service<'_>, path: &str, name: &str, condition: &str) {
        if self
            .whole
            .get("services")
            .and_then(|services| services.get(name))
            .is_none()
        {
            self.draft.note(
                format!("{path}.{name}"),
                "no such service is in these files",
            );
            return;
        }
        record(at.pod, "depends_on")
            .entry(name_of(name))
            .or_insert_with(|| condition.into());
    }

    pub(super) fn healthcheck(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let Value::Object(fields) = value else { return };
        let Some(command) = self.command_of_check(path, value, fields) else {
            return;
        };
        let mut probe = Fields::new();
        probe.insert("exec".to_owned(), command.into());
        // Between the attempts while it starts, and how long failures do not count then.
        let (mut start_interval, mut start_period) = ("5s".to_owned(), None);
        // Docker's defaults, where Tank's differ.
        probe.insert("period".to_owned(), "30s".into());
        probe.insert("timeout".to_owned(), "30s".into());
        for (key, value) in fields {
            let text = text_of(value).unwrap_or_default();
            let text = self.plain(&text).unwrap_or_default();
            let time =
                |field: &str| time_of(&text).map(|time| (field.to_owned(), Value::from(time)));
            let mapped = match key.as_str() {
                "test" | "disable" => continue,
                // Docker takes nothing for its default.
                "interval" | "timeout" | "start_interval" if is_zero(&text) => continue,
                "retries" if text == "0" => continue,
                "interval" => time("period"),
                "timeout" => time("timeout"),
                "start_period" if time_of(&text).is_some() => {
                    start_period = time_of(&text);
                    continue;
                }
                "start_interval" if time_of(&text).is_some() => {
                    start_interval = time_of(&text).unwrap_or_default();
                    continue;
                }
                "retries" => text
                    .parse::<u32>()
                    .ok()
                    .map(|n| ("failures".to_owned(), n.into())),
                _ => None,
            };
            match mapped {
                Some((field, value)) => {
                    probe.insert(field, value);
                }
                None => self
                    .draft
                    .note(format!("{path}.{key}"), "Tank's probes have no such key"),
            }
        }
        if let Some(startup) = start_period.and_then(|time| startup(&probe, &time, start_interval))
        {
            at.set("startup", Value::Object(startup));
        }
        at.set("readiness", Value::Object(probe));
    }

    /// What a check runs; none where there is to be no check, or it is noted.
    fn command_of_check(
        &mut self,
        path: &str,
        value: &Value,
        fields: &Fields,
    ) -> Option<Vec<Value>> {
        if self.flag_of(path, value, "disable") == Some(true) {
            return None;
        }
        let Some(command) = command(fields) else {
            let why = "the image's own check is not known here: give a `readiness`";
            self.draft.note(path, why);
            return None;
        };
        let texts = command?;
        Some(texts.iter().map(|text| self.text(text).into()).collect())
    }

    pub(super) fn restart(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
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
            self.draft.note(
                path,
                "there is no limit to the attempts: they are made ever less often",
            );
        }
        if restart == "always" {
            at.pod.remove("restart");
        } else {
            at.pod.insert("restart".to_owned(), restart.into());
        }
    }

    pub(super) fn deploy(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for (key, value) in value.as_object().into_iter().flatten() {
            match key.as_str() {
                "replicas" if value.as_u64() == Some(1) => {}
                "replicas" => self.draft.note(format!("{path}.replicas"), REPLICAS),
                "mode" if value.as_str() == Some("replicated") => {}
                "resources" => {
                    for (key, value) in value.as_object().into_iter().flatten() {
                        if key != "limits" {
                            self.draft.note(
                                format!("{path}.resources.{key}"),
                                "Tank limits, it does not reserve",
                            );
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
                other => self
                    .draft
                    .note(format!("{path}.{other}"), "Tank runs on one host"),
            }
        }
    }

    pub(super) fn limit(&mut self, at: &mut Service<'_>, path: &str, field: &str, text: &str) {
        let text = self.plain(text).unwrap_or_default();
        let value = match field {
            "memory" => size_of(&text),
            "pids" => text.parse::<u32>().ok().map(Value::from),
            _ => tank_model::units::MilliCpu::parse(&text)
                .ok()
                .map(|_| Value::from(text.clone())),
        };
        match value {
            Some(value) => {
                record(at.container(), "limits").insert(field.to_owned(), value);
            }
            None => self
                .draft
                .note(path, format!("`{text}` is nothing to limit by")),
        }
    }

    pub(super) fn ulimits(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let amount = |value: &Value| match value.as_i64() {
                Some(-1) => Some(Value::from("unlimited")),
                _ => value.as_u64().map(Value::from),
            };
            let both = match value {
                Value::Object(fields) => fields
                    .get("soft")
                    .and_then(amount)
                    .zip(fields.get("hard").and_then(amount)),
                one => amount(one).map(|amount| (amount.clone(), amount)),
            };
            match both.filter(|_| tank_model::spec::ULIMITS.contains(&name.as_str())) {
                Some((soft, hard)) => {
                    let entry = json!({ "soft": soft, "hard": hard });
                    record(at.container(), "ulimits").insert(name.clone(), entry);
                }
                None => self
                    .draft
                    .note(format!("{path}.{name}"), "this is no limit of setrlimit(2)"),
            }
        }
    }

    pub(super) fn security(&mut self, at: &mut Service<'_>, path: &str, option: &Value) {
        match text_of(option)
            .unwrap_or_default()
            .replace('=', ":")
            .as_str()
        {
            "no-new-privileges" | "no-new-privileges:true" => {}
            "seccomp:unconfined" => {
                record(at.container(), "seccomp").insert("profile".to_owned(), "unconfined".into());
            }
            other => self.draft.note(path, format!("`{other}`")),
        }
    }
}

/// Whether a time is none at all.
fn is_zero(text: &str) -> bool {
    time_of(text).and_then(|time| Millis::parse(&time).ok()) == Some(Millis(0))
}

/// The probe that the others wait for while a container starts: failures do not count for as long as
/// `time`, and then as often as the others' may be.
fn startup(probe: &Fields, time: &str, interval: String) -> Option<Fields> {
    let millis = |text: &str| Millis::parse(text).ok().map(|Millis(millis)| millis);
    let of = |field: &str| probe.get(field).and_then(Value::as_str).and_then(millis);
    let retries = probe.get("failures").and_then(Value::as_u64);
    let after = retries.unwrap_or(3).saturating_mul(of("period")?);
    let (time, every) = (millis(time)?, millis(&interval)?.max(1));
    if time == 0 {
        return None;
    }
    let failures = time.saturating_add(after).div_ceil(every);
    let mut startup = probe.clone();
    startup.insert("period".to_owned(), interval.into());
    let failures = u32::try_from(failures).unwrap_or(u32::MAX);
    startup.insert("failures".to_owned(), failures.into());
    Some(startup)
}

/// The command of a check: the inner none where there is to be no check, the outer where it is the
/// image's own.
fn command(fields: &Fields) -> Option<Option<Vec<String>>> {
    let test = fields.get("test").cloned().unwrap_or_default();
    let shell = |command: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), command];
    let texts: Vec<String> = list(&test).iter().filter_map(text_of).collect();
    match (test.is_array(), texts.as_slice()) {
        (true, [kind]) if kind == "NONE" => Some(None),
        (true, [kind, rest @ ..]) if kind == "CMD" => Some(Some(rest.to_vec())),
        (true, [kind, rest @ ..]) if kind == "CMD-SHELL" => Some(Some(shell(rest.join(" ")))),
        (false, [text]) => Some(Some(shell(text.clone()))),
        _ => None,
    }
}
