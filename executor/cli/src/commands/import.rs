//! `import`: Compose, Kubernetes and Quadlet files as Nickel.

use crate::{args, error::Error, output};
use std::{
    io::Write,
    path::{Path, PathBuf},
};
use tank_import::Dialect;
use tank_model::Name;

pub fn import(
    (files, from): (&[PathBuf], Option<args::Dialect>),
    stack: Option<&Name>,
    (out, force): (Option<&Path>, bool),
    strict: bool,
    json: bool,
) -> Result<u8, Error> {
    let dialect = from.map(|from| match from {
        args::Dialect::Compose => Dialect::Compose,
        args::Dialect::Kubernetes => Dialect::Kubernetes,
        args::Dialect::Quadlet => Dialect::Quadlet,
    });
    let imported = tank_import::import(files, dialect, tank_compiler::schema(), stack)?;
    if let Some(path) = out {
        write(path, force, &imported.nickel)?;
    }
    if json {
        let notes: Vec<_> = imported
            .notes
            .iter()
            .map(|note| serde_json::json!({ "key": note.key, "why": note.why }))
            .collect();
        let nickel = out.is_none().then_some(&imported.nickel);
        output::json(
            &serde_json::json!({ "pods": imported.pods, "unmapped": notes, "nickel": nickel }),
        )?;
    } else {
        if out.is_none() {
            output::whole(imported.nickel.trim_end())?;
        }
        for note in &imported.notes {
            output::error(&output::for_error(
                &format!("not mapped: {}: {}\n", note.key, note.why),
                2,
            ));
        }
        let what = if imported.notes.is_empty() {
            "every key is mapped".to_owned()
        } else if imported.notes.len() == 1 {
            "1 key is not mapped".to_owned()
        } else {
            format!("{} keys are not mapped", imported.notes.len())
        };
        let pods = match imported.pods {
            1 => "1 pod".to_owned(),
            many => format!("{many} pods"),
        };
        output::error(&format!("{pods}, {what}\n"));
    }
    Ok(u8::from(strict && !imported.notes.is_empty()))
}

/// Writes a file that must not be there, unless it is to be overwritten.
fn write(path: &Path, force: bool, text: &str) -> Result<(), Error> {
    let failed = |e: std::io::Error| Error::failed(format!("write {}", path.display()), e);
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    let opened = match force {
        true => options.create(true).truncate(true).open(path),
        false => options.create_new(true).open(path),
    };
    let mut file = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists {
            file: path.to_owned(),
        },
        _ => failed(error),
    })?;
    file.write_all(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::error::Error;

    #[test]
    fn a_file_that_is_there_is_overwritten_only_where_that_is_said() {
        let path = std::env::temp_dir().join(format!("tank-import-{}.ncl", std::process::id()));
        write(&path, false, "first, and long").expect("it is written");
        let refused = write(&path, false, "second").expect_err("it is there");
        assert!(
            matches!(&refused, Error::Exists { file } if *file == path),
            "{refused}"
        );
        assert_eq!(std::fs::read(&path).expect("reads"), b"first, and long");
        write(&path, true, "third").expect("it is overwritten");
        assert_eq!(std::fs::read(&path).expect("reads"), b"third");
        std::fs::remove_file(&path).expect("removes");
    }
}
