//! What a service says of its logs.

use super::{
    super::{record, size_of, text_of},
    Compose, Service,
};
use serde_json::Value;
use tank_model::{
    spec::{LOG_SIZES, MAX_LOG_FILES},
    units::Bytes,
};

impl Compose<'_> {
    pub(super) fn logging(&mut self, at: &mut Service<'_>, path: &str, value: &Value) {
        let driver = value.get("driver").and_then(text_of);
        match driver.as_deref() {
            None | Some("json-file" | "local" | "k8s-file") => {}
            Some("journald") => {
                record(at.container(), "logs").insert("journald".to_owned(), true.into());
            }
            Some("none") => self.draft.note(
                format!("{path}.driver"),
                "a bounded log is kept of every container",
            ),
            Some(_) => self.draft.note(
                format!("{path}.driver"),
                "logs are files, which shippers read (CRI), and are given to journald with `logs.journald`",
            ),
        }
        let options = value.get("options").and_then(Value::as_object);
        for (key, value) in options.into_iter().flatten() {
            let path = format!("{path}.options.{key}");
            let text = text_of(value).unwrap_or_default();
            match key.as_str() {
                "max-size" => self.log_size(at, &path, &text),
                "max-file" => self.log_files(at, &path, &text),
                _ => self.draft.note(path, "Tank's logs have no such option"),
            }
        }
    }

    fn log_size(&mut self, at: &mut Service<'_>, path: &str, text: &str) {
        let size = size_of(text).and_then(|size| Some((Bytes::parse(size.as_str()?).ok()?, size)));
        let (least, most) = LOG_SIZES;
        let size = match size {
            // No bound.
            _ if text == "-1" => None,
            Some((bytes, size)) if (least..=most).contains(&bytes) => {
                return set(at, "max_size", size);
            }
            Some((bytes, _)) => Some(bytes.clamp(least, most)),
            None => return self.draft.note(path, format!("`{text}` is no size")),
        };
        let size = size.unwrap_or(most);
        set(at, "max_size", size.to_string().into());
        self.draft
            .note(path, format!("it is {size}: a file has {least} to {most}"));
    }

    fn log_files(&mut self, at: &mut Service<'_>, path: &str, text: &str) {
        match text.parse::<u32>() {
            Ok(count) if (1..=MAX_LOG_FILES).contains(&count) => set(at, "max_files", count.into()),
            Ok(count) => {
                let count = count.clamp(1, MAX_LOG_FILES);
                set(at, "max_files", count.into());
                self.draft.note(
                    path,
                    format!("it is {count}: there are 1 to {MAX_LOG_FILES}"),
                );
            }
            Err(_) => self.draft.note(path, format!("`{text}` is no number")),
        }
    }
}

fn set(at: &mut Service<'_>, field: &str, value: Value) {
    record(at.container(), "logs").insert(field.to_owned(), value);
}
