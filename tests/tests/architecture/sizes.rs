//! How long files and functions may be.

use crate::{packages, source::of_crate};
use std::path::Path;
use tank_tests::repo;

/// The most lines of a file.
const MAX_FILE: usize = 500;

/// The most lines of a function, unless a comment `// long: <reason>` stands above it. Tests are
/// exempt.
const MAX_FUNCTION: usize = 60;

#[test]
fn files_and_functions_are_short() {
    let repo = repo();
    let mut long = Vec::new();
    for package in packages() {
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        let root = manifest
            .parent()
            .and_then(|root| root.strip_prefix(&repo).ok())
            .expect("in the repository");
        for source in of_crate(&repo, &root.to_string_lossy()) {
            let (path, lines) = (source.path.display(), source.text.lines().count());
            if lines > MAX_FILE {
                long.push(format!(
                    "{path}: {lines} lines, and a file has {MAX_FILE} at most"
                ));
            }
            if source.path.ends_with("tests.rs") || source.module.contains(&"tests".to_owned()) {
                continue;
            }
            for function in source.functions() {
                if function.lines > MAX_FUNCTION && !function.excused {
                    long.push(format!(
                        "{path}:{}: `{}` has {} lines, and a function has {MAX_FUNCTION} at most: \
                         split it, or say above it why not (`// long: …`)",
                        function.line, function.name, function.lines,
                    ));
                }
            }
        }
    }
    assert!(
        long.is_empty(),
        "{} too long:\n{}",
        long.len(),
        long.join("\n")
    );
}
