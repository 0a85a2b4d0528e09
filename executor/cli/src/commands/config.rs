//! `check` and `build`: nothing but the configuration, no daemon.

use crate::{
    args::{Drawing, Overrides, Source},
    error::Error,
    output,
};
use std::path::PathBuf;
use tank_compiler::{CompileError, Compiled, Inputs, draw};

pub fn compile(source: &Source) -> Result<Compiled, Error> {
    let inputs = Inputs { files: source.files.clone(), overrides: source.overrides.set.clone() };
    Ok(tank_compiler::compile(&inputs)?)
}

/// As [`compile`]; none without files.
pub fn compile_some(files: &[PathBuf], overrides: &Overrides) -> Result<Option<Compiled>, Error> {
    if files.is_empty() {
        return match overrides.set.as_slice() {
            [] => Ok(None),
            _ => Err(Error::new("--set overrides a field of a file, and no file is named")),
        };
    }
    let inputs = Inputs { files: files.to_vec(), overrides: overrides.set.clone() };
    Ok(Some(tank_compiler::compile(&inputs)?))
}

pub fn check(source: &Source, json: bool) -> Result<u8, Error> {
    let inputs = Inputs { files: source.files.clone(), overrides: source.overrides.set.clone() };
    let compiled = tank_compiler::compile(&inputs);
    if json {
        let problems: Vec<serde_json::Value> = match &compiled {
            Ok(_) => Vec::new(),
            Err(CompileError::Problems(problems)) => problems.iter().map(problem_json).collect(),
            Err(error) => vec![serde_json::json!({ "code": "tank::nickel", "message": error.to_string() })],
        };
        output::json(&serde_json::json!({ "ok": compiled.is_ok(), "problems": problems }))?;
        return Ok(u8::from(compiled.is_err()));
    }
    let compiled = compiled?;
    let containers: usize = compiled.config.pods.values().map(|pod| pod.containers.len()).sum();
    output::line(&format!("{} pods with {containers} containers, nothing wrong", compiled.config.pods.len()))?;
    Ok(0)
}

fn problem_json(problem: &tank_compiler::Problem) -> serde_json::Value {
    let location = problem.location();
    serde_json::json!({
        "code": problem.code,
        "field": problem.path.join("."),
        "message": problem.message,
        "help": problem.help,
        "file": location.as_ref().map(|(file, _, _)| file),
        "line": location.as_ref().map(|(_, line, _)| line),
        "column": location.as_ref().map(|(_, _, column)| column),
    })
}

pub fn build(source: &Source, graph: Option<Drawing>, canonical: bool, json: bool) -> Result<u8, Error> {
    let compiled = compile(source)?;
    if canonical {
        output::line(&compiled.canonical)?;
    } else if let Some(drawing) = graph {
        let text = match drawing {
            Drawing::Dot => draw::dot(&compiled.graph),
            Drawing::Mermaid => draw::mermaid(&compiled.graph),
        };
        output::line(text.trim_end())?;
    } else if json {
        let nodes: Vec<serde_json::Value> = compiled
            .graph
            .entries()
            .map(|entry| {
                let needs: Vec<String> =
                    compiled.graph.needs(&entry.key).iter().map(|need| need.key.to_string()).collect();
                serde_json::json!({
                    "key": entry.key.to_string(),
                    "hash": entry.hash,
                    "node": entry.node,
                    "needs": needs,
                })
            })
            .collect();
        output::json(&serde_json::json!({ "root": compiled.graph.root(), "nodes": nodes }))?;
    } else {
        output::line(&compiled.graph.root().to_string())?;
        for entry in compiled.graph.entries() {
            output::line(&format!("{}  {}", entry.hash.short(), entry.key))?;
        }
    }
    Ok(0)
}
