//! Unit files by themselves: what they are called, and their lines.

use crate::ImportError;
use std::path::Path;

/// A line of a unit: section, key, value.
pub(super) type Entry = (String, String, String);

pub(super) fn is_container(file: &Path) -> bool {
    !matches!(
        file.extension().and_then(|extension| extension.to_str()),
        Some("volume" | "network" | "pod" | "kube" | "image" | "build")
    )
}

pub(super) fn is_network(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "network")
}

/// As systemd reads a boolean.
pub(super) fn is_yes(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "true" | "yes" | "on" | "1"
    )
}

pub(super) fn stem(file: &Path) -> String {
    file.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

pub(super) fn name_of_file(file: &Path) -> String {
    file.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The lines of a unit file, as systemd.syntax(7) has them: comments, sections, `\` at the end of a
/// line.
pub(super) fn entries(file: &Path, text: &str) -> Result<Vec<Entry>, ImportError> {
    let mut entries = Vec::new();
    let mut section = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        while line.ends_with('\\') {
            line.pop();
            line.push(' ');
            line.push_str(lines.next().unwrap_or_default().trim());
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            entries.push((
                section.clone(),
                key.trim().to_owned(),
                value.trim().to_owned(),
            ));
        } else {
            return Err(ImportError::Shape(
                file.to_owned(),
                format!("`{line}` is no line of a unit"),
            ));
        }
    }
    Ok(entries)
}
