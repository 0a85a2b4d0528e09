//! `doc` and `init`: the manual, and a file to begin with.

use super::config;
use crate::{error::Error, output};
use std::{io::Write, path::Path};
use tank_compiler::manual::{self, Unknown};

/// What `init` writes.
const TEMPLATE: &str = include_str!("../../../../stdlib/init.ncl");

pub fn doc(field: Option<&str>, error: Option<&str>, import_path: bool) -> Result<u8, Error> {
    if import_path {
        let dir = config::settings()?
            .cache_dir
            .as_deref()
            .and_then(tank_compiler::child::stdlib_dir);
        let dir = dir.ok_or(Error::NoStdlibFolder)?;
        return output::whole(&dir.display().to_string()).map(|()| 0);
    }
    let unknown = |what: &'static str, name: Unknown| Error::Unknown { what, name };
    let page = match error {
        Some(code) => format!(
            "{code}\n\n{}",
            manual::error_page(code).map_err(|e| unknown("error", e))?
        ),
        None => manual::field_page(field.unwrap_or_default()).map_err(|e| unknown("field", e))?,
    };
    output::sentence(page.trim_end(), 2)?;
    Ok(0)
}

pub fn init(file: &Path, force: bool) -> Result<u8, Error> {
    let name = file.display();
    let mut options = std::fs::OpenOptions::new();
    let opened = if force {
        options.write(true).create(true).truncate(true)
    } else {
        options.write(true).create_new(true)
    }
    .open(file);
    let mut out = match opened {
        Ok(out) => out,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::Exists {
                file: file.to_owned(),
            });
        }
        Err(error) => {
            return Err(Error::failed(format!("write {name}"), error));
        }
    };
    out.write_all(TEMPLATE.as_bytes())
        .map_err(|e| Error::failed(format!("write {name}"), e))?;
    output::line(&format!(
        "{name} is written: look at it, then `tank check {name}` and `tank switch {name}`"
    ))?;
    Ok(0)
}
