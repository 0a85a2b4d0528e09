//! What a service, or a unit, says of its logs.

use super::{Draft, record, size_of, text_of};
use serde_json::{Map, Value};
use tank_model::{
    spec::{LOG_SIZES, MAX_LOG_FILES},
    units::Bytes,
};

type Fields = Map<String, Value>;

/// `logging` of a Compose service.
pub fn logging((container, draft): (&mut Fields, &mut Draft), path: &str, value: &Value) {
    if let Some(name) = value.get("driver").and_then(text_of) {
        driver((container, draft), &format!("{path}.driver"), &name);
    }
    let options = value.get("options").and_then(Value::as_object);
    for (key, value) in options.into_iter().flatten() {
        let path = format!("{path}.options.{key}");
        let text = text_of(value).unwrap_or_default();
        option((container, draft), &path, (key, &text));
    }
}

/// A logging driver, by Docker's name for it or Podman's.
pub fn driver((container, draft): (&mut Fields, &mut Draft), path: &str, name: &str) {
    match name {
        "json-file" | "local" | "k8s-file" => {}
        "journald" => {
            record(container, "logs").insert("journald".to_owned(), true.into());
        }
        "none" => draft.note(path, "a bounded log is kept of every container"),
        _ => draft.note(
            path,
            "logs are files, which shippers read (CRI), and are given to journald with `logs.journald`",
        ),
    }
}

/// An option of a logging driver.
pub fn option(
    (container, draft): (&mut Fields, &mut Draft),
    path: &str,
    (key, text): (&str, &str),
) {
    let set = match key {
        "max-size" | "max_size" => log_size(draft, path, text),
        "max-file" => log_files(draft, path, text),
        _ => return draft.note(path, "Tank's logs have no such option"),
    };
    if let Some((field, value)) = set {
        record(container, "logs").insert(field.to_owned(), value);
    }
}

fn log_size(draft: &mut Draft, path: &str, text: &str) -> Option<(&'static str, Value)> {
    let size = size_of(text).and_then(|size| Some((Bytes::parse(size.as_str()?).ok()?, size)));
    let (least, most) = LOG_SIZES;
    let size = match size {
        // No bound.
        _ if text == "-1" => most,
        Some((bytes, size)) if (least..=most).contains(&bytes) => return Some(("max_size", size)),
        Some((bytes, _)) => bytes.clamp(least, most),
        None => {
            draft.note(path, format!("`{text}` is no size"));
            return None;
        }
    };
    draft.note(path, format!("it is {size}: a file has {least} to {most}"));
    Some(("max_size", size.to_string().into()))
}

fn log_files(draft: &mut Draft, path: &str, text: &str) -> Option<(&'static str, Value)> {
    let Ok(asked) = text.parse::<u32>() else {
        draft.note(path, format!("`{text}` is no number"));
        return None;
    };
    let count = asked.clamp(1, MAX_LOG_FILES);
    if count != asked {
        let why = format!("it is {count}: there are 1 to {MAX_LOG_FILES}");
        draft.note(path, why);
    }
    Some(("max_files", count.into()))
}
