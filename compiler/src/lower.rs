//! From an evaluated value to the typed model: takes in the files a configuration refers to, and turns what the model
//! refuses into problems at the field's own place.

use crate::{CompileError, Problem, nickel::Evaluated};
use serde_json::Value;
use std::{
    io::Read,
    path::{Path, PathBuf},
};
use tank_model::{Config, name::nearest};

/// The most bytes of a file put into a container; larger ones belong in an image or a volume.
const MAX_FILE: u64 = 1 << 20;

pub fn lower(evaluated: &Evaluated, base_dir: &Path) -> Result<Config, CompileError> {
    let mut value = evaluated.value.clone();
    let mut problems = Vec::new();
    take_in_sources(&mut value, evaluated, base_dir, &mut problems);
    if !problems.is_empty() {
        return Err(CompileError::Problems(problems));
    }
    serde_path_to_error::deserialize(&value).map_err(|error| {
        let path = error.path().iter().filter_map(segment).collect();
        let message = error.into_inner().to_string();
        CompileError::Problems(vec![Problem::new("tank::type", path, message, None, evaluated)])
    })
}

fn segment(segment: &serde_path_to_error::Segment) -> Option<String> {
    match segment {
        serde_path_to_error::Segment::Map { key } => Some(key.clone()),
        _ => None,
    }
}

/// Replaces `source` by `text` in every file of every container.
fn take_in_sources(value: &mut Value, evaluated: &Evaluated, base_dir: &Path, problems: &mut Vec<Problem>) {
    let pods = value.get_mut("pods").and_then(Value::as_object_mut).into_iter().flatten();
    for (pod, spec) in pods {
        let containers = spec.get_mut("containers").and_then(Value::as_object_mut).into_iter().flatten();
        for (container, spec) in containers {
            let files = spec.get_mut("files").and_then(Value::as_object_mut).into_iter().flatten();
            for (target, file) in files {
                let path = ["pods", pod, "containers", container, "files", target].map(str::to_owned).to_vec();
                if let Err(problem) = take_in(file, path, evaluated, base_dir) {
                    problems.push(*problem);
                }
            }
        }
    }
}

fn take_in(
    file: &mut Value,
    mut path: Vec<String>,
    evaluated: &Evaluated,
    base_dir: &Path,
) -> Result<(), Box<Problem>> {
    let Some(fields) = file.as_object_mut() else { return Ok(()) };
    let problem = |code: &str, path: Vec<String>, message: String, help: &str| {
        Box::new(Problem::new(code, path, message, Some(help.to_owned()), evaluated))
    };
    let source = match (fields.remove("source"), fields.contains_key("text")) {
        (None, true) => return Ok(()),
        (Some(Value::String(source)), false) => source,
        (Some(_), _) => {
            let message = "a file has either a `text` or a `source`".to_owned();
            return Err(problem("tank::files::two_contents", path, message, "keep one of the two"));
        }
        (None, false) => {
            let message = "a file needs a `text` or a `source`".to_owned();
            return Err(problem("tank::files::no_content", path, message, "for example `{ text = \"…\" }`"));
        }
    };
    path.push("source".to_owned());
    // Relative to the file the source is named in, as an import would be.
    let dir = evaluated.file(&path).and_then(|name| Path::new(name).parent()).map_or_else(PathBuf::new, Path::to_owned);
    let full = base_dir.join(dir).join(&source);
    let mut text = String::new();
    let read = std::fs::File::open(&full).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    if let Err(error) = read {
        let siblings: Vec<String> = std::fs::read_dir(full.parent().unwrap_or(Path::new("/")))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        let name = full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let help = nearest(&name, siblings.iter().map(String::as_str)).map_or_else(
            || "it is looked for beside the configuration".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let message = format!("can't read {}: {error}", full.display());
        return Err(problem("tank::files::unreadable", path, message, &help));
    }
    if text.len() as u64 > MAX_FILE {
        let message = format!("{} has more than {MAX_FILE} bytes", full.display());
        return Err(problem("tank::files::too_large", path, message, "put it into the image or a volume"));
    }
    fields.insert("text".to_owned(), Value::String(text));
    Ok(())
}
