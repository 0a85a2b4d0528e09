//! Which crates may use which others.
//!
//! * [`docs`]: that what the documents point to is there.
//! * [`floors`]: which modules of a crate may use which others.
//! * [`sizes`]: how long files and functions are.
//! * [`source`]: Rust source as the two read it.

#[path = "architecture/docs.rs"]
mod docs;
#[path = "architecture/floors.rs"]
mod floors;
#[path = "architecture/sizes.rs"]
mod sizes;
#[path = "architecture/source.rs"]
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};
use tank_tests::repo;

/// What each crate may use of Tank's own, as the design has it.
const ROOMS: [(&str, &[&str]); 15] = [
    ("tank-model", &[]),
    ("tank-compiler", &["tank-model"]),
    ("tank-import", &["tank-model"]),
    ("tank-plan", &["tank-model"]),
    ("tank-sys", &[]),
    ("tank-erofs", &[]),
    ("tank-layer", &["tank-erofs", "tank-model", "tank-sys"]),
    (
        "tank-image",
        &["tank-erofs", "tank-layer", "tank-model", "tank-sys"],
    ),
    ("tank-copy", &["tank-layer", "tank-sys"]),
    ("tank-proto", &["tank-model", "tank-plan"]),
    ("tank-shim", &["tank-copy", "tank-proto", "tank-sys"]),
    ("tank-names", &["tank-plan", "tank-proto", "tank-sys"]),
    (
        "tankd",
        &[
            "tank-image",
            "tank-model",
            "tank-plan",
            "tank-proto",
            "tank-sys",
        ],
    ),
    // `doctor` asks the kernel, and `exec` and `attach` pump bytes: the command needs descriptors,
    // not pods.
    (
        "tank",
        &[
            "tank-compiler",
            "tank-copy",
            "tank-import",
            "tank-model",
            "tank-proto",
            "tank-sys",
        ],
    ),
    ("tank-tests", &["*"]),
];

/// What the pure crates may use of others': nothing that reaches a disk, a clock or the kernel.
const PURE: [(&str, &[&str]); 3] = [
    // It writes and reads the one file that it is given.
    ("tank-erofs", &[]),
    (
        "tank-model",
        &[
            "ipnet",
            "petgraph",
            "serde",
            "serde_json",
            "sha2",
            "strsim",
            "thiserror",
        ],
    ),
    (
        "tank-plan",
        &["ipnet", "serde", "serde_json", "tank-model", "thiserror"],
    ),
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
    let mut folders = ["compiler/model/src", "executor/plan/src"]
        .map(|room| repo().join(room))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
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

/// The feature of `tank-plan` that has the model host.
const MODEL_HOST: &str = "model-host";

#[test]
fn no_program_has_the_model_host() {
    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        let features = package["features"].as_object().expect("features");
        if name == "tank-plan" {
            assert!(features.contains_key(MODEL_HOST) && !features.contains_key("default"));
        }
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        for dependency in dependencies.iter().filter(|one| one["name"] == "tank-plan") {
            let asked = dependency["features"].as_array().expect("features");
            let asks = asked.iter().any(|feature| feature == MODEL_HOST);
            let for_tests = dependency["kind"] == "dev" || name == "tank-tests";
            assert_eq!(asks, for_tests, "{name}");
        }
    }
    let makefile = std::fs::read_to_string(repo().join("Makefile")).expect("read");
    let released = makefile
        .lines()
        .filter(|line| line.contains("cargo build --release"));
    let released: Vec<&str> = released.collect();
    assert!(!released.is_empty());
    for line in released {
        assert!(
            !line.contains("tank-tests") && !line.contains("--workspace"),
            "{line}"
        );
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

/// The modules that each module of a crate imports: top-level ones, by `crate::…` outside comments
/// and tests.
fn module_imports(src: &std::path::Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for file in files(src) {
        let below = file.strip_prefix(src).expect("below");
        let first = below.iter().next().expect("a part").to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&file).expect("read");
        let code = text.split("#[cfg(test)]\nmod tests").next().expect("code");
        let code = code
            .lines()
            .map(|line| line.split("//").next().expect("code"));
        if below.file_name().is_some_and(|name| name != "tests.rs") {
            texts.entry(module).or_default().extend(code);
        }
    }
    texts.remove("lib");
    let imports = |code: &str| {
        let mut words = BTreeSet::new();
        for rest in code.split("crate::").skip(1) {
            // Of a group the first word of each member, and not those of groups within.
            let (mut depth, mut word, mut fresh) = (0, String::new(), true);
            for c in rest.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => fresh = true,
                    c if c.is_alphanumeric() || c == '_' => {
                        if fresh {
                            word.push(c);
                        }
                        continue;
                    }
                    _ => {}
                }
                if !word.is_empty() {
                    words.insert(std::mem::take(&mut word));
                    fresh = c == ',' && depth == 1;
                }
                if depth <= 0 {
                    break;
                }
            }
            words.insert(word);
        }
        words
    };
    let names: BTreeSet<String> = texts.keys().cloned().collect();
    let within = |(module, code): (String, String)| {
        let mut imported = imports(&code);
        imported.retain(|word| names.contains(word) && *word != module);
        (module, imported)
    };
    texts.into_iter().map(within).collect()
}

fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let (dirs, mut found): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    found.extend(dirs.iter().flat_map(|dir| files(dir)));
    found
}

#[test]
fn modules_of_the_kernel_room_import_each_other_one_way() {
    let mut left = module_imports(&repo().join("executor/sys/src"));
    assert!(left["namespace"].contains("route") && left["nft"].contains("netlink"));
    // Take away what imports nothing that is left, until nothing is.
    loop {
        let leaves: Vec<String> = left
            .iter()
            .filter(|(_, imported)| imported.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        if leaves.is_empty() {
            break;
        }
        for leaf in leaves {
            left.remove(&leaf);
            left.values_mut().for_each(|imported| {
                imported.remove(&leaf);
            });
        }
    }
    assert!(left.is_empty(), "these import each other: {left:?}");
}
