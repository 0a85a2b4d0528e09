//! The configs of a service: files that it finds.

use super::{
    super::{normal, record, text_of},
    Compose, Service,
    storage::mode_of,
};
use serde_json::{Value, json};

impl Compose<'_> {
    pub(super) fn config(&mut self, at: &mut Service<'_>, path: &str, config: &Value) {
        let source = config
            .as_str()
            .map(str::to_owned)
            .or_else(|| config.get("source").and_then(text_of));
        let source = source.unwrap_or_default();
        let declared = self
            .whole
            .get("configs")
            .and_then(|configs| configs.get(&source))
            .cloned()
            .unwrap_or_default();
        let target = config
            .get("target")
            .and_then(text_of)
            .unwrap_or_else(|| format!("/{source}"));
        let mut entry = match (
            declared.get("file").and_then(text_of),
            declared.get("content").and_then(text_of),
        ) {
            (Some(file), _) => {
                json!({ "source": if file.starts_with(['.', '/']) { file } else { format!("./{file}") } })
            }
            (None, Some(content)) => json!({ "text": self.text(&content) }),
            (None, None) => {
                self.draft
                    .note(format!("configs.{source}"), "a config is a file or a text");
                return;
            }
        };
        if let Some(mode) = config.get("mode") {
            entry["mode"] = mode_of(mode).into();
        }
        for key in config.as_object().into_iter().flatten().map(|(key, _)| key) {
            if matches!(key.as_str(), "uid" | "gid") {
                self.draft.note(
                    format!("{path}.{source}.{key}"),
                    "a file belongs to the container's root: see `mode`",
                );
            }
        }
        record(at.container(), "files").insert(normal(&target), entry);
    }
}
