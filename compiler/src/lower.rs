//! From an evaluated value to the typed model: takes in the files a configuration refers to and
//! pins its images by the lock, each at the field's own place.

use crate::{Inputs, diagnostics::Problem, lock::Lock, nickel::Evaluated, stack};
use serde::Deserialize;
use serde_json::Value;
use std::{
    io::Read,
    path::{Path, PathBuf},
};
use tank_model::{Config, Platform, Reference, name::nearest};

/// The most bytes of a file put into a container; larger ones belong in an image or a volume.
const MAX_FILE: u64 = 1 << 20;

/// An image that stands in for one that is missing or wrong, so that the rest can be checked.
const NO_IMAGE: &str = "missing:image";

/// The configuration, as far as there is one, with what is wrong added to the problems. What was
/// read besides the sources is added to the reads.
pub fn lower(
    evaluated: &mut Evaluated,
    base_dir: &Path,
    lock: &Lock,
    inputs: &Inputs,
) -> Option<Config> {
    let mut value = std::mem::take(&mut evaluated.value);
    if let Some(pods) = value.get_mut("pods").and_then(Value::as_object_mut) {
        for (pod, spec) in pods {
            // A pod whose containers are all wrong has a problem for each: it needs no further one.
            if let Some(spec) = spec.as_object_mut() {
                spec.entry("containers")
                    .or_insert_with(|| Value::Object(serde_json::Map::new()));
            }
            for group in ["containers", "init"] {
                let containers = spec
                    .get_mut(group)
                    .and_then(Value::as_object_mut)
                    .into_iter()
                    .flatten();
                for (container, spec) in containers {
                    let path = ["pods", pod, group, container].map(str::to_owned).to_vec();
                    container_of(spec, &path, evaluated, base_dir, lock);
                    if inputs.this_host {
                        secrets(spec, &path, evaluated);
                    }
                }
            }
        }
    }
    stack::qualify(&mut value, inputs, evaluated);
    if let Ok(config) = Config::deserialize(&value) {
        // Left to the end of the process like the rest, or dropped with the caller's.
        evaluated.value = value;
        return Some(config);
    }
    match serde_path_to_error::deserialize(&value) {
        Ok(config) => Some(config),
        Err(error) => {
            let path: Vec<String> = error.path().iter().filter_map(segment).collect();
            let path = stack::source_path(&path, evaluated);
            if !evaluated.is_poisoned(&path) {
                let message = error.into_inner().to_string();
                let problem = evaluated.problem("tank::value::invalid", &path, message, None);
                evaluated.problems.push(problem);
            }
            None
        }
    }
}

fn segment(segment: &serde_path_to_error::Segment) -> Option<String> {
    match segment {
        serde_path_to_error::Segment::Map { key } => Some(key.clone()),
        _ => None,
    }
}

fn container_of(
    spec: &mut Value,
    path: &[String],
    evaluated: &mut Evaluated,
    base_dir: &Path,
    lock: &Lock,
) {
    let Some(fields) = spec.as_object_mut() else {
        return;
    };
    let platform = fields.get("platform").and_then(Value::as_str);
    let platform = platform.and_then(|platform| platform.parse::<Platform>().ok());
    match fields.get("image").and_then(Value::as_str) {
        Some(image) => {
            if let Some(pinned) = image
                .parse::<Reference>()
                .ok()
                .and_then(|image| lock.pin(&image, platform.as_ref()))
            {
                fields.insert("image".to_owned(), Value::String(pinned));
            }
        }
        None => {
            fields.insert("image".to_owned(), Value::String(NO_IMAGE.to_owned()));
        }
    }
    let files = fields
        .get_mut("files")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten();
    for (target, file) in files {
        let mut path = path.to_vec();
        path.extend(["files".to_owned(), target.clone()]);
        if let Err(problem) = take_in(file, path.clone(), evaluated, base_dir) {
            evaluated.problems.push(*problem);
            evaluated.poisoned.insert(path);
            // Something has to stand there for the rest to be checked.
            *file = serde_json::json!({ "text": "" });
        }
    }
}

/// Reports the secrets whose file this host does not have. What may not be looked at is left to the
/// daemon.
fn secrets(spec: &Value, path: &[String], evaluated: &mut Evaluated) {
    let secrets = spec
        .get("secrets")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    for (secret, at) in secrets {
        let Some(file) = at
            .get("file")
            .and_then(Value::as_str)
            .filter(|file| file.starts_with('/'))
        else {
            continue;
        };
        let gone = std::fs::metadata(file)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if gone {
            let mut path = path.to_vec();
            path.extend(["secrets", secret, "file"].map(str::to_owned));
            let message = format!("this host has no file `{file}`");
            let problem = evaluated.problem(
                "tank::secret::missing",
                &path,
                message,
                Some(beside(Path::new(file))),
            );
            evaluated.problems.push(problem);
        }
    }
}

/// Replaces a file's `source` by its `text`.
fn take_in(
    file: &mut Value,
    mut path: Vec<String>,
    evaluated: &mut Evaluated,
    base_dir: &Path,
) -> Result<(), Box<Problem>> {
    if evaluated.is_poisoned(&path) {
        return Ok(());
    }
    let Some(fields) = file.as_object_mut() else {
        return Ok(());
    };
    let Some(source) = source_of(fields, &path, evaluated)? else {
        return Ok(());
    };
    let problem = |code: &str, path: &[String], message: String, help: &str| {
        Box::new(evaluated.problem(code, path, message, Some(help.to_owned())))
    };
    path.push("source".to_owned());
    // Relative to the file the source is named in, as an import would be.
    let dir = evaluated
        .file(&path)
        .and_then(|name| Path::new(name).parent())
        .map_or_else(PathBuf::new, Path::to_owned);
    let dir = std::path::absolute(&dir).unwrap_or_else(|_| base_dir.join(&dir));
    let full = dir.join(&source);
    match read(&full) {
        Ok(text) => {
            evaluated.reads.push((full, text.clone()));
            fields.insert("text".to_owned(), Value::String(text));
            Ok(())
        }
        Err(Refused::TooLarge) => {
            let message = format!("`{source}` has more than {MAX_FILE} bytes");
            Err(problem(
                "tank::files::too_large",
                &path,
                message,
                "put it into the image or a volume",
            ))
        }
        Err(Refused::Unreadable(error)) => {
            let message = format!("can't read `{source}`: {error}");
            Err(problem(
                "tank::files::unreadable",
                &path,
                message,
                &beside(&full),
            ))
        }
    }
}

/// Takes the `source` out of a file that has one and no `text`; none for one with a `text`.
fn source_of(
    fields: &mut serde_json::Map<String, Value>,
    path: &[String],
    evaluated: &Evaluated,
) -> Result<Option<String>, Box<Problem>> {
    let problem = |code: &str, path: &[String], message: String, help: &str| {
        Box::new(evaluated.problem(code, path, message, Some(help.to_owned())))
    };
    match (fields.remove("source"), fields.contains_key("text")) {
        (None, true) => Ok(None),
        (Some(Value::String(source)), false) => Ok(Some(source)),
        (Some(_), _) => {
            let message = "a file has either a `text` or a `source`".to_owned();
            Err(problem(
                "tank::files::two_contents",
                path,
                message,
                "keep one of the two",
            ))
        }
        (None, false) => {
            let message = "a file needs a `text` or a `source`".to_owned();
            Err(problem(
                "tank::files::no_content",
                path,
                message,
                "for example `{ text = \"…\" }`",
            ))
        }
    }
}

enum Refused {
    TooLarge,
    Unreadable(std::io::Error),
}

fn read(path: &Path) -> Result<String, Refused> {
    let metadata = std::fs::metadata(path).map_err(Refused::Unreadable)?;
    if !metadata.is_file() {
        // A pipe or a device would be waited for.
        return Err(Refused::Unreadable(std::io::Error::other(
            "it is no regular file",
        )));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(Refused::Unreadable)?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(Refused::Unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Refused::TooLarge);
    }
    String::from_utf8(bytes)
        .map_err(|_| Refused::Unreadable(std::io::Error::other("it is no UTF-8 text")))
}

/// What was meant by a file that is not there.
fn beside(full: &Path) -> String {
    if full.exists() {
        return "what is no text belongs into an image or a volume".to_owned();
    }
    let siblings: Vec<String> = std::fs::read_dir(full.parent().unwrap_or(Path::new("/")))
        .into_iter()
        .flatten()
        .flatten()
        .take(10_000)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let name = full
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    nearest(&name, siblings.iter().map(String::as_str)).map_or_else(
        || format!("it is looked for at {}", full.display()),
        |near| format!("did you mean `{near}`?"),
    )
}
