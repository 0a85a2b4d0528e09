//! `check` and `build`, which need no daemon, and what every command that takes a configuration
//! compiles it with.

use super::source::{Asked, Source};
use crate::{
    args::{Configuration, Drawing},
    error::{Error, json::problems},
    output,
};
use std::{ffi::OsString, path::PathBuf};
use tank_compiler::{child, child::Settings, draw};
use tank_model::units::{Bytes, Millis};

/// The argument with which this program evaluates instead of being a command.
pub const EVALUATE: &str = "__evaluate";

/// How configurations are evaluated, by the environment: `TANK_EVAL_TIMEOUT`, `TANK_EVAL_MEMORY`,
/// `TANK_CACHE_DIR`.
pub fn settings() -> Result<Settings, Error> {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let wrong = |name: &'static str, why: String| Error::Environment { name, why };
    let time = match variable("TANK_EVAL_TIMEOUT") {
        Some(text) => Millis::parse(&text)
            .map_err(|e| wrong("TANK_EVAL_TIMEOUT", e.to_string()))?
            .duration(),
        None => child::DEFAULT_TIME,
    };
    let memory = match variable("TANK_EVAL_MEMORY") {
        Some(text) => {
            Bytes::parse(&text)
                .map_err(|e| wrong("TANK_EVAL_MEMORY", e.to_string()))?
                .0
        }
        None => child::DEFAULT_MEMORY,
    };
    Ok(Settings {
        program: PathBuf::from("/proc/self/exe"),
        args: vec![OsString::from(EVALUATE)],
        time,
        memory,
        cache_dir: cache_dir(),
    })
}

/// `$TANK_CACHE_DIR`, or `tank` in the user's cache folder. An empty variable means none.
fn cache_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("TANK_CACHE_DIR") {
        return Some(PathBuf::from(dir)).filter(|dir| !dir.as_os_str().is_empty());
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let base =
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("tank"))
}

/// Compiles what is to run on this host.
pub fn compile(asked: &Configuration) -> Result<Source, Error> {
    compile_for(asked, true)
}

fn compile_for(asked: &Configuration, this_host: bool) -> Result<Source, Error> {
    Source::compile(&Asked {
        files: &asked.files,
        overrides: &asked.overrides,
        stack: asked.stack.as_ref(),
        host: asked.host.as_deref(),
        this_host,
    })
}

/// As [`compile`]; none without files.
pub fn compile_some(asked: &Configuration) -> Result<Option<Source>, Error> {
    if asked.files.is_empty() && asked.host.is_none() {
        return match asked.overrides.set.as_slice() {
            [] => Ok(None),
            _ => Err(Error::NothingToOverride),
        };
    }
    compile(asked).map(Some)
}

pub fn check(asked: &Configuration, json: bool) -> Result<u8, Error> {
    let compiled = compile(asked);
    if json {
        let problems = match &compiled {
            Ok(_) => Vec::new(),
            Err(error) => problems(error),
        };
        output::json(&serde_json::json!({ "ok": compiled.is_ok(), "problems": problems }))?;
        return Ok(u8::from(compiled.is_err()));
    }
    let config = compiled?.config()?;
    let containers: usize = config.pods.values().map(|pod| pod.containers.len()).sum();
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let pods = counted(config.pods.len(), "pod");
    let containers = counted(containers, "container");
    output::line(&format!("{pods} with {containers}, nothing wrong"))?;
    Ok(0)
}

pub fn build(
    asked: &Configuration,
    graph: Option<Drawing>,
    canonical: bool,
    json: bool,
) -> Result<u8, Error> {
    let compiled = compile_for(asked, false)?;
    if canonical {
        return output::whole(&compiled.canonical).map(|()| 0);
    }
    let built = compiled.graph()?;
    if let Some(drawing) = graph {
        let text = match drawing {
            Drawing::Dot => draw::dot(&built),
            Drawing::Mermaid => draw::mermaid(&built),
            Drawing::Svg => draw::svg(&built),
        };
        output::whole(text.trim_end())?;
    } else if json {
        let nodes: Vec<serde_json::Value> = built
            .entries()
            .map(|entry| {
                let needs: Vec<String> = built
                    .needs(&entry.key)
                    .iter()
                    .map(|need| need.key.to_string())
                    .collect();
                serde_json::json!({
                    "key": entry.key.to_string(),
                    "hash": entry.hash,
                    "node": entry.node,
                    "needs": needs,
                })
            })
            .collect();
        output::json(&serde_json::json!({ "root": built.root(), "nodes": nodes }))?;
    } else {
        output::line(&built.root().to_string())?;
        for entry in built.entries() {
            output::line(&format!("{}  {}", entry.hash.short(), entry.key))?;
        }
    }
    Ok(0)
}
