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
        "logging.driver",
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

/// Bounds of logs are taken over; one that Tank can't keep becomes the nearest, with a note.
#[test]
fn logging_of_services() {
    let dir = std::env::temp_dir().join(format!("tank-logging-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("compose.yaml");
    let logs_of = |logging: &str| {
        let text = format!("services: {{ a: {{ image: x, logging: {logging} }} }}");
        std::fs::write(&file, text).expect("write");
        let made = import::import(std::slice::from_ref(&file), None, schema(), None);
        let made = made.expect("imports");
        let written: String = made
            .nickel
            .lines()
            .filter(|line| !line.starts_with('#') && line.contains("logs"))
            .collect();
        let notes: Vec<String> = made.notes.iter().map(|note| note.why.clone()).collect();
        (written, notes)
    };
    for (logging, expected, count) in [
        (
            "{ driver: json-file, options: { max-size: 10m, max-file: 3 } }",
            "logs = { max_size = \"10MiB\", max_files = 3 }",
            0,
        ),
        ("{ driver: journald }", "logs.journald = true", 0),
        (
            "{ options: { max-size: 10k, max-file: \"40\" } }",
            "logs = { max_size = \"64KiB\", max_files = 16 }",
            2,
        ),
    ] {
        let (written, notes) = logs_of(logging);
        assert!(written.contains(expected), "{logging}: {written}");
        assert_eq!(notes.len(), count, "{notes:?}");
    }
    let unit = dir.join("a.container");
    for (keys, expected, count) in [
        ("LogDriver=journald", "logs.journald = true", 0),
        (
            "LogDriver=k8s-file\nLogOpt=max-size=10mb\nLogOpt=tag=x",
            "logs.max_size = \"10MiB\"",
            1,
        ),
        ("LogDriver=passthrough", "", 1),
        ("LogOpt=max-size", "", 1),
    ] {
        let text = format!("[Container]\nImage=docker.io/library/x:1\n{keys}\n");
        std::fs::write(&unit, text).expect("write");
        let made = import::import(std::slice::from_ref(&unit), None, schema(), None);
        let made = made.expect("imports");
        let is_written = |line: &str| !line.starts_with('#') && line.contains(expected);
        assert!(made.nickel.lines().any(is_written), "{}", made.nickel);
        let notes: Vec<&str> = made.notes.iter().map(|note| note.key.as_str()).collect();
        assert_eq!(notes.len(), count, "{notes:?}");
        assert!(
            notes
                .iter()
                .all(|key| key.starts_with("a.container.Container.Log")),
            "{notes:?}"
        );
    }
    for odd in [
        "{ driver: none }",
        "{ options: { max-size: big } }",
        "{ options: { compress: true } }",
    ] {
        let (written, notes) = logs_of(odd);
        assert_eq!((written.as_str(), notes.len()), ("", 1), "{odd}");
    }
    std::fs::remove_dir_all(dir).expect("removes");
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

/// Whom services that name no networks reach is what it is by Compose, once the file says that of anybody: the
/// project's own default network. Where it says it of nobody, the file says where they are.
#[test]
fn services_without_networks_are_on_the_projects_own() {
    let folder = format!("tank-default-{}", std::process::id());
    let dir = std::env::temp_dir().join(&folder);
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("compose.yaml");
    let networks_of = |text: &str| {
        std::fs::write(&file, text).expect("write");
        let made = import::import(std::slice::from_ref(&file), None, schema(), None);
        let made = made.expect("imports");
        let out = dir.join("pods.ncl");
        std::fs::write(&out, &made.nickel).expect("write");
        let inputs = Inputs {
            files: vec![out],
            ..Inputs::default()
        };
        let compiled =
            compile_here(&inputs, None).unwrap_or_else(|e| panic!("{e:?}\n{}", made.nickel));
        let config = compiled.config().expect("a configuration");
        let pods = config.pods.iter().map(|(pod, spec)| {
            let on = spec.networks.keys().map(|on| on.local());
            format!("{}: {}", pod.local(), on.collect::<Vec<_>>().join(" "))
        });
        let remark = made.nickel.lines().nth(1).unwrap_or_default().to_owned();
        (pods.collect::<Vec<_>>().join(", "), remark)
    };
    let (of_none, remark) =
        networks_of("name: a\nservices: { web: { image: x }, db: { image: x } }\n");
    assert_eq!(of_none, "db: , web: ");
    assert!(remark.contains("as those of other stacks are"), "{remark}");
    for (text, expected) in [
        (
            "name: a
services:
  web: { image: x }
  api: { image: x, networks: [default, back] }
  db: { image: x, networks: { back: } }
  nil: { image: x, networks: }
  host: { image: x, network_mode: host }
  old: { image: x, network_mode: bridge }
networks: { back: }
",
            "api: back project, db: back, host: , nil: project, old: , web: project",
        ),
        (
            "name: a\nservices: { web: { image: x } }\nnetworks: { default: { internal: true } }\n",
            "web: project",
        ),
        (
            "name: a\nservices: { web: { image: x, networks: [project] }, db: { image: x } }\nnetworks: { project: {} }\n",
            "db: project-2, web: project",
        ),
        (
            "name: a\nservices: { web: { image: x, networks: [back] } }\nnetworks: { back: {} }\n",
            "web: back",
        ),
    ] {
        assert_eq!(networks_of(text).0, expected);
    }
    std::fs::remove_dir_all(dir).expect("remove");
}

/// Who is on which network, what is internal, addresses and names there; and what is refused or has no
/// counterpart, each listed.
#[test]
fn networks_of_compose() {
    let made = imported("networks", &["compose/networks.yaml"]);
    let listed = |key: &str| made.notes.iter().any(|note| note.key == key);
    for key in [
        "networks.default.attachable",
        "networks.default.enable_ipv6",
        "networks.default.labels",
        "networks.default.name",
        "networks.four.enable_ipv6",
        "networks.front.name",
        "networks.six.attachable",
        "networks.unset.enable_ipv6",
        "services.web.ports.app_protocol",
        "services.web.ports.mode",
        "services.web.ports.name",
        "networks.back.ipam.config.ip_range",
        "networks.back.ipam.config.gateway",
        "networks.back.ipam.config.subnet",
        "networks.front.external",
        "networks.odd_Net.driver",
        "networks.odd_Net.driver_opts",
        "networks.odd_Net.ipam.config.subnet",
        "alone.aliases.plain",
        "hosted.publish",
        "lan.publish",
        "networks.flat.driver",
        "networks.lan.driver",
        "nowhere.publish",
        "services.both.networks.flat",
        "services.lan.networks.lan",
        "services.db.networks.back.mac_address",
        "services.web.networks.default.ipv4_address",
        "services.worker.networks.back.ipv4_address",
        "services.worker.networks.odd_Net.ipv4_address",
        "services.worker.networks.odd_Net.priority",
        "worker.publish",
        "nowhere.networks",
    ] {
        assert!(
            listed(key),
            "{key} was dropped in silence: {:?}",
            made.notes
        );
    }
}

/// What Compose itself refuses, and what would be open where it is not read, is refused with its key and value.
#[test]
fn what_compose_refuses_is_not_guessed() {
    let dir = std::env::temp_dir().join(format!("tank-refused-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("compose.yaml");
    let mut said = Vec::new();
    for text in [
        "services: { web: { image: x, networks: [back] } }\nnetworks: { back: { internal: maybe } }\n",
        "services: { web: { image: x } }\nnetworks: { back: { internal: \"${TANK_TEST_UNSET}\" } }\n",
        "services: { web: { image: x } }\nnetworks: { back: { internal: [true], external: 7 } }\n",
        "services: { web: { image: x, networks: [back] } }\n",
        "services: { web: { image: x, depends_on: { db: { condition: service_ready } } }, db: { image: x } }\n",
        "services: { web: { image: x, read_only: readonly, tty: 2 } }\n",
        "services: { web: { image: x, volumes: [{ type: volume, source: a, target: /a, read_only: never }] } }\nvolumes: { a: {} }\n",
        "services: { web: { image: x, volumes: ['undeclared:/a'] } }\n",
    ] {
        std::fs::write(&file, text).expect("write");
        let refused = import::import(std::slice::from_ref(&file), None, schema(), None);
        let error = refused.expect_err(text).to_string();
        said.push(error.replace(&format!("{}/", dir.display()), ""));
    }
    std::fs::remove_dir_all(dir).expect("remove");
    insta::assert_snapshot!(said.join("\n"));
}

/// What is said of each key, and what is made of it.
fn said_of(text: &str) -> String {
    let dir = std::env::temp_dir().join(format!("tank-said-{}-{}", std::process::id(), text.len()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("compose.yaml");
    std::fs::write(&file, text).expect("write");
    let made = import::import(std::slice::from_ref(&file), None, schema(), None).expect("imports");
    std::fs::remove_dir_all(&dir).expect("remove");
    made.nickel.replace(&format!("{}/", dir.display()), "")
}

#[test]
fn booleans_are_read_as_compose_reads_them() {
    let text = "name: a
services:
  web:
    image: x
    networks: [back]
    read_only: \"${TANK_TEST_RO:-True}\"
    tty: \"off\"
    init: \"no\"
    privileged: \"false\"
    volumes: [{ type: volume, source: data, target: /data, read_only: \"on\" }]
    healthcheck: { test: [CMD, ok], disable: \"yes\" }
    stdin_open: no
    restart: no
    environment: { A: yes, B: on, C: true, D: n }
networks:
  back: { internal: \"true\", external: no }
volumes:
  data: { external: \"false\" }
";
    // Of another project, as files before version 3.5 have it: listed, and not refused.
    let old = "services: { web: { image: x } }\nvolumes: { bar: { external: { name: b } } }\nnetworks: { foo: { external: { name: f } } }\n";
    let said = said_of(old);
    for key in ["volumes.bar.external", "networks.foo.external"] {
        assert!(said.contains(key), "{said}");
    }
    insta::assert_snapshot!(said_of(text));
}

#[test]
fn zeros_of_a_healthcheck_are_dockers_defaults() {
    let text = "name: a
services:
  web:
    image: x
    scale: 3
    ports: [\"\", 80]
    healthcheck: { test: [CMD, ok], interval: 0s, timeout: 0, retries: 0, start_period: 0s, start_interval: 0s }
";
    insta::assert_snapshot!(said_of(text));
}

#[test]
fn networks_of_quadlet() {
    let units = [
        "back.network",
        "front.network",
        "api.container",
        "db.container",
        "deep.container",
        "host.container",
        "lan.container",
        "lan.network",
        "web.container",
    ];
    let units = units.map(|unit| format!("quadlet/networks/{unit}"));
    let made = imported("quadlet_networks", &units.each_ref().map(String::as_str));
    let listed = |key: &str| made.notes.iter().any(|note| note.key == key);
    for key in [
        "back.network.Network.IPRange",
        "front.network.Network.Driver",
        "api.container.Container.Network",
        "api.container.Container.IP",
        "host.container.Container.Network",
        "host.container.Container.NetworkAlias",
        "lan.container.Container.Network",
        "lan.network.Network.Driver",
        "lan.publish",
        "web.container.Container.IP",
        "deep.publish",
    ] {
        assert!(
            listed(key),
            "{key} was dropped in silence: {:?}",
            made.notes
        );
    }
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

/// What is imported is accepted: a project that no stack can be called as, host names that are none or another
/// service's, and a network that is called as the project's own would be.
#[test]
fn names_that_are_refused_are_not_imported() {
    let dir = std::env::temp_dir().join(format!("tank-import-names-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("compose.yaml");
    let text = "name: net
networks: { project: {} }
services:
  db: { image: x, networks: [project] }
  api: { image: x, hostname: db }
  web: { image: x, hostname: www_1 }
  own: { image: x, hostname: own.example.org }
  zone: { image: x, hostname: localhost }
";
    std::fs::write(&file, text).expect("write");
    let made = import::import(std::slice::from_ref(&file), None, schema(), None).expect("imports");
    let keys: Vec<&str> = made.notes.iter().map(|note| note.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "services.api.hostname",
            "services.web.hostname",
            "services.zone.hostname"
        ]
    );
    assert!(made.nickel.contains("stack = \"net-stack\","));
    assert!(made.nickel.contains("hostname = \"own.example.org\""));
    assert!(
        !made.nickel.contains("`project` is called"),
        "{}",
        made.nickel
    );
    assert!(
        made.nickel.contains("`default` is called `project-2`"),
        "{}",
        made.nickel
    );
    let pods = dir.join("pods.ncl");
    std::fs::write(&pods, &made.nickel).expect("write");
    let inputs = Inputs {
        files: vec![pods],
        ..Inputs::default()
    };
    compile_here(&inputs, None).expect(&made.nickel);
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

#[test]
fn a_platform_of_compose_is_the_containers() {
    let imported = |platform: &str| {
        let text = format!("services:\n  a:\n    image: nginx\n    platform: {platform}\n");
        let file = fixture(&format!("compose/.{}-platform.yaml", std::process::id()));
        std::fs::write(&file, text).expect("write");
        let made = import::import(std::slice::from_ref(&file), None, schema(), None);
        std::fs::remove_file(&file).expect("remove");
        let made = made.expect("imports");
        (made.nickel, made.notes.len())
    };
    let (nickel, notes) = imported("linux/arm64/v8");
    assert!(nickel.contains("platform = \"linux/arm64/v8\""), "{nickel}");
    assert_eq!(notes, 0);
    // Whichever the host's is; and what Tank has no word for.
    let (nickel, notes) = imported("linux");
    assert!(!nickel.contains("platform ="), "{nickel}");
    assert_eq!(notes, 0);
    for text in ["windows/amd64", "arm64", "${PLATFORM}"] {
        let (nickel, notes) = imported(text);
        assert!(!nickel.contains("platform = \"arm64\""), "{nickel}");
        assert!(notes >= 1, "{text}");
    }
}
