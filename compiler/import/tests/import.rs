//! Files of others become Nickel that compiles and says the same; what has no counterpart is
//! listed.

use proptest::prelude::*;
use std::path::{Path, PathBuf};
use tank_compiler::{Inputs, compile_here, schema};
use tank_import as import;

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures").join(name)
}

/// The Nickel, and what it compiles to.
fn imported(name: &str, files: &[&str]) -> import::Imported {
    let files: Vec<PathBuf> = files.iter().map(|file| fixture(file)).collect();
    let imported = import::import(&files, None, schema(), None).expect("imports");
    // Beside the source, so that relative files are found; the path of the repository is not for a
    // snapshot.
    let here = std::env::current_dir()
        .expect("a folder")
        .display()
        .to_string();
    insta::assert_snapshot!(name, imported.nickel.replace(&here, "REPO"));
    let file = files[0].with_file_name(format!(".{}-{name}.ncl", std::process::id()));
    std::fs::write(&file, &imported.nickel).expect("write");
    let compiled = compile_here(
        &Inputs {
            files: vec![file.clone()],
            ..Inputs::default()
        },
        None,
    );
    std::fs::remove_file(&file).expect("remove");
    let compiled =
        compiled.unwrap_or_else(|error| panic!("{error}: {:?}\n{}", error, imported.nickel));
    insta::assert_snapshot!(
        format!("{name}_compiled"),
        compiled.canonical.replace(&here, "REPO")
    );
    imported
}

#[test]
fn compose_without_a_key_that_is_not_mapped() {
    assert_eq!(imported("wordpress", &["compose/wordpress.yaml"]).notes, []);
}

#[test]
fn compose_with_one_of_each() {
    // `TAG` has no value anywhere: the file has to be given one before it compiles, so it is here.
    let text = std::fs::read_to_string(fixture("compose/everything.yaml")).expect("read");
    let file = fixture(&format!("compose/.{}-tagged.yaml", std::process::id()));
    std::fs::write(&file, text.replace("${TAG}", "${TAG:-1.0}")).expect("write");
    let name = file
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let made = import::import(
        std::slice::from_ref(&file),
        Some(import::Dialect::Compose),
        schema(),
        None,
    )
    .expect("imports");
    std::fs::remove_file(&file).expect("remove");
    let nickel = made.nickel.replace(&name, "everything.yaml");
    let here = std::env::current_dir()
        .expect("a folder")
        .display()
        .to_string();
    insta::assert_snapshot!("everything", nickel.replace(&here, "REPO"));
    let out = fixture(&format!("compose/.{}-everything.ncl", std::process::id()));
    std::fs::write(&out, &made.nickel).expect("write");
    let compiled = compile_here(
        &Inputs {
            files: vec![out.clone()],
            ..Inputs::default()
        },
        None,
    );
    std::fs::remove_file(&out).expect("remove");
    let compiled = compiled.unwrap_or_else(|error| panic!("{error:?}\n{}", made.nickel));
    insta::assert_snapshot!(
        "everything_compiled",
        compiled.canonical.replace(&here, "REPO")
    );
    for key in [
        "privileged",
        "build",
        "logging",
        "deploy.replicas",
        "depends_on.nobody",
        "ports.9000",
    ] {
        assert!(
            made.notes.iter().any(|note| note.key.ends_with(key)),
            "{key} was dropped in silence"
        );
    }
}

#[test]
fn kubernetes_manifests() {
    imported("kubernetes", &["kubernetes/web.yaml"]);
}

#[test]
fn quadlet_units() {
    imported(
        "quadlet",
        &[
            "quadlet/web.container",
            "quadlet/db.container",
            "quadlet/db.volume",
        ],
    );
}

#[test]
fn a_project_with_a_name_is_a_stack() {
    let folder = format!("tank-projects-{}", std::process::id());
    let dir = std::env::temp_dir().join(&folder);
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("compose.yaml");
    for (name, stack) in [
        ("name: blog", Some("blog")),
        ("name: My_Blog", Some("my-blog")),
        ("name: ${TANK_TEST_PROJECT:-shop}", Some("shop")),
        ("name: ${TANK_TEST_PROJECT}", None),
        ("", Some(folder.as_str())),
    ] {
        let text = format!("{name}\nservices: {{ web: {{ image: x }} }}\n");
        std::fs::write(&file, text).expect("write");
        let made =
            import::import(std::slice::from_ref(&file), None, schema(), None).expect("imports");
        let declared = stack.map(|stack| format!("stack = \"{stack}\","));
        match declared {
            Some(declared) => assert!(made.nickel.contains(&declared), "{}", made.nickel),
            None => assert!(!made.nickel.contains("stack ="), "{}", made.nickel),
        }
        // A name that could not be read is listed.
        let listed = made.notes.iter().any(|note| note.key == "name");
        assert_eq!(listed, name.ends_with("PROJECT}"), "{:?}", made.notes);
        // Whoever runs the import has the last word.
        let given = "given".parse().expect("a name");
        let made = import::import(std::slice::from_ref(&file), None, schema(), Some(&given));
        let made = made.expect("imports");
        assert!(
            made.nickel.contains("stack = \"given\","),
            "{}",
            made.nickel
        );
        assert!(
            made.notes.iter().all(|note| note.key != "name"),
            "{:?}",
            made.notes
        );
    }
    let text = "services: { web: { image: x } }\n";
    std::fs::write(&file, text).expect("write");
    std::fs::write(dir.join(".env"), "COMPOSE_PROJECT_NAME=Of_Env\n").expect("write");
    let made = import::import(&[file], None, schema(), None).expect("imports");
    assert!(
        made.nickel.contains("stack = \"of-env\","),
        "{}",
        made.nickel
    );
    std::fs::remove_dir_all(dir).expect("remove");
}

#[test]
fn what_is_nothing_is_refused() {
    let dir = std::env::temp_dir().join(format!("tank-import-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    for (name, text) in [
        ("a.yaml", "hello"),
        ("b.yaml", "services: ["),
        ("c.yaml", "apiVersion: v1\nkind:"),
        ("d.container", "nonsense"),
        ("e.yaml", "services:\n  a: &a [*a]\n"),
    ] {
        let file = dir.join(name);
        std::fs::write(&file, text).expect("write");
        let refused = import::import(std::slice::from_ref(&file), None, schema(), None);
        assert!(
            refused.is_err(),
            "{name}: {:?}",
            refused.map(|imported| imported.nickel)
        );
    }
    assert!(import::import(&[dir.join("none")], None, schema(), None).is_err());
    std::fs::remove_dir_all(dir).expect("remove");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a text holds, the Nickel that is written for it says the same.
    #[test]
    fn texts_survive(text in "[a-z%{}\"\\\\ \n\t$'é]{0,40}") {
        let dir = std::env::temp_dir().join(format!("tank-texts-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let value = serde_json::to_string(&text.replace('$', "$$")).expect("JSON");
        let source = dir.join("compose.yaml");
        std::fs::write(&source, format!("{{\"services\": {{\"a\": {{\"image\": \"x\", \"environment\": {{\"X\": {value}}}}}}}}}")).expect("write");
        let made = import::import(std::slice::from_ref(&source), Some(import::Dialect::Compose), schema(), None).expect("imports");
        let file = dir.join("pods.ncl");
        std::fs::write(&file, &made.nickel).expect("write");
        let compiled = compile_here(&Inputs { files: vec![file], ..Inputs::default() }, None).expect(&made.nickel);
        std::fs::remove_dir_all(dir).expect("remove");
        let config = compiled.config().expect("a configuration");
        let pod = config.pods.values().next().expect("a pod");
        prop_assert_eq!(&pod.containers.values().next().expect("a container").env["X"], &text);
    }
}
