//! The rooms of the house and the doors between them.
//!
//! * [`floors`]: the modules inside a room.
//! * [`sizes`]: how long files and functions are.
//! * [`source`]: Rust source as the two read it.

#[path = "architecture/floors.rs"]
mod floors;
#[path = "architecture/sizes.rs"]
mod sizes;
#[path = "architecture/source.rs"]
mod source;

use std::{collections::BTreeSet, process::Command};
use tank_tests::repo;

/// What each crate may use of Tank's own, as the design has it.
const ROOMS: [(&str, &[&str]); 9] = [
    ("tank-model", &[]),
    ("tank-compiler", &["tank-model"]),
    ("tank-plan", &["tank-model"]),
    ("tank-sys", &[]),
    ("tank-proto", &["tank-model", "tank-plan"]),
    ("tank-shim", &["tank-proto", "tank-sys"]),
    (
        "tankd",
        &["tank-model", "tank-plan", "tank-proto", "tank-sys"],
    ),
    // `doctor` asks the kernel, and `exec` and `attach` pump bytes: the command needs descriptors,
    // not pods.
    (
        "tank",
        &["tank-compiler", "tank-model", "tank-proto", "tank-sys"],
    ),
    ("tank-tests", &["*"]),
];

/// What the pure rooms may use of others': nothing that reaches a disk, a clock or the kernel.
const PURE: [(&str, &[&str]); 2] = [
    (
        "tank-model",
        &[
            "petgraph",
            "serde",
            "serde_json",
            "sha2",
            "strsim",
            "thiserror",
        ],
    ),
    ("tank-plan", &["serde", "serde_json", "tank-model"]),
];

fn packages() -> Vec<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(repo())
        .output()
        .expect("cargo");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata");
    metadata["packages"].as_array().expect("packages").clone()
}

fn dependencies(package: &serde_json::Value) -> BTreeSet<String> {
    let list = package["dependencies"].as_array().expect("dependencies");
    list.iter()
        .filter(|d| d["kind"].is_null())
        .map(|d| d["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn arrows_are_those_of_the_design() {
    let packages = packages();
    let names: BTreeSet<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        names,
        ROOMS.iter().map(|(name, _)| *name).collect(),
        "a room was added or taken away"
    );
    for package in &packages {
        let name = package["name"].as_str().expect("a name");
        let (_, allowed) = ROOMS
            .iter()
            .find(|(room, _)| *room == name)
            .expect("a room");
        let used: Vec<String> = dependencies(package)
            .into_iter()
            .filter(|d| names.contains(d.as_str()))
            .collect();
        for dependency in used {
            assert!(
                allowed.contains(&"*") || allowed.contains(&dependency.as_str()),
                "{name} must not use {dependency}"
            );
        }
    }
}

#[test]
fn the_middle_is_pure() {
    for package in packages() {
        let name = package["name"].as_str().expect("a name").to_owned();
        if let Some((_, allowed)) = PURE.iter().find(|(room, _)| *room == name) {
            let extra: Vec<String> = dependencies(&package)
                .into_iter()
                .filter(|d| !allowed.contains(&d.as_str()))
                .collect();
            assert_eq!(extra, Vec::<String>::new(), "{name}");
        }
    }
    // Nor do they reach there through the standard library.
    for room in ["compiler/model/src", "executor/plan/src"] {
        for entry in std::fs::read_dir(repo().join(room)).expect("a room") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("read");
            for forbidden in [
                "std::fs",
                "std::net::Tcp",
                "std::process",
                "SystemTime",
                "Instant",
                "std::env",
                "std::thread",
            ] {
                assert!(
                    !text.contains(forbidden),
                    "{} uses {forbidden}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_one_room() {
    let output = Command::new("grep")
        .args([
            "-rlE",
            r"(unsafe \{|unsafe fn|unsafe impl)",
            "--include=*.rs",
            "compiler",
            "executor",
            "tests",
        ])
        .current_dir(repo())
        .output()
        .expect("grep");
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    let elsewhere: Vec<&str> = found
        .lines()
        .filter(|path| !path.starts_with("executor/sys/") && *path != "tests/tests/architecture.rs")
        .collect();
    assert_eq!(elsewhere, Vec::<&str>::new());
    for path in found
        .lines()
        .filter(|path| path.starts_with("executor/sys/"))
    {
        let text = std::fs::read_to_string(repo().join(path)).expect("read");
        assert!(
            text.contains("// SAFETY:"),
            "{path} has unsafe code without its invariant"
        );
    }
}
