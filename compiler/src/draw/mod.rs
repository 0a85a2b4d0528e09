//! Pictures of a graph: [`svg`] of its pods, for people; [`dot`] and [`mermaid`] of its nodes, for
//! others to draw.

mod svg;

pub use svg::svg;

use std::fmt::Write;
use tank_model::{Graph, Key};

fn entries(graph: &Graph) -> Vec<(String, String, &'static str)> {
    let shape = |key: &Key| match key {
        Key::Root => "doublecircle",
        Key::Pod(_) => "box3d",
        Key::Container(..) => "box",
        Key::Image(_) => "cylinder",
        Key::Network(_) => "hexagon",
        Key::Volume(..) | Key::SharedVolume(_) => "folder",
        _ => "ellipse",
    };
    graph
        .entries()
        .map(|entry| (entry.key.to_string(), entry.hash.short(), shape(&entry.key)))
        .collect()
}

fn edges(graph: &Graph) -> Vec<(String, String)> {
    let of = |entry: &tank_model::graph::Entry| {
        let from = entry.key.to_string();
        graph
            .needs(&entry.key)
            .into_iter()
            .map(move |need| (from.clone(), need.key.to_string()))
            .collect::<Vec<_>>()
    };
    graph.entries().flat_map(of).collect()
}

/// Graphviz: `tank build --graph dot | dot -Tsvg`.
pub fn dot(graph: &Graph) -> String {
    let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out =
        String::from("digraph tank {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n");
    for (key, hash, shape) in entries(graph) {
        let _ = writeln!(
            out,
            "  \"{0}\" [shape={shape}, label=\"{0}\\n{hash}\"];",
            quote(&key)
        );
    }
    for (from, to) in edges(graph) {
        let _ = writeln!(out, "  \"{}\" -> \"{}\";", quote(&from), quote(&to));
    }
    out + "}\n"
}

/// Mermaid, as code hosts draw it.
pub fn mermaid(graph: &Graph) -> String {
    let entries = entries(graph);
    let id = |key: &str| {
        entries
            .iter()
            .position(|(known, _, _)| known == key)
            .unwrap_or(0)
    };
    let mut out = String::from("flowchart LR\n");
    for (index, (key, hash, _)) in entries.iter().enumerate() {
        let _ = writeln!(
            out,
            "  n{index}[\"{}<br/>{hash}\"]",
            key.replace('"', "#quot;")
        );
    }
    for (from, to) in edges(graph) {
        let _ = writeln!(out, "  n{} --> n{}", id(&from), id(&to));
    }
    out
}
