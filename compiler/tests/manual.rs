//! The manual does what it says: every example compiles, every code's page shows its mistake.

use miette::{GraphicalReportHandler, GraphicalTheme};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Mutex,
};
use tank_compiler::{
    CompileError, Compiled, Inputs, compile_here,
    manual::{self, examples},
};
use tank_model::schema::{Kind, Shape};

/// A folder of this test's own, removed when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tank-manual-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }

    fn compile(&self, text: &str) -> Result<Compiled, CompileError> {
        let file = self.0.join("pods.ncl");
        std::fs::write(&file, text).expect("write");
        compile_here(
            &Inputs {
                files: vec![file],
                this_host: true,
                ..Inputs::default()
            },
            None,
        )
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// This package's folder.
fn package() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo"))
}

/// The problems as they print, without the folder.
fn drawn(error: &CompileError, dir: &Path) -> String {
    let CompileError::Problems(problems) = error else {
        return error.to_string();
    };
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_links(false)
        .with_width(100);
    let mut text = String::new();
    for problem in problems.diagnostics() {
        handler.render_report(&mut text, &problem).expect("renders");
    }
    text.replace(&format!("{}/", dir.display()), "")
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

fn codes_of(error: &CompileError) -> Vec<&str> {
    match error {
        CompileError::Problems(problems) => problems
            .list
            .iter()
            .map(|problem| problem.code.as_str())
            .collect(),
        CompileError::Limit { code, .. } => vec![code],
        _ => Vec::new(),
    }
}

/// The blocks of a page: whether each is one that is refused, and its text.
fn blocks(page: &str) -> Vec<(bool, &str)> {
    let blocks = page
        .split("```nickel")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    blocks
        .map(|block| {
            block
                .strip_prefix(" refused")
                .map_or((false, block), |block| (true, block))
        })
        .collect()
}

/// Each page refuses what it says it refuses, and takes the rest.
fn shown_by_its_page(code: &str, scratch: &Scratch) {
    for (refused, text) in blocks(manual::error_page(code).expect("a page")) {
        let compiled = scratch.compile(text.trim());
        if !refused {
            if let Err(error) = compiled {
                panic!(
                    "the good example of {code} is refused:\n{}",
                    drawn(&error, &scratch.0)
                );
            }
            continue;
        }
        let error = compiled.expect_err(code);
        assert_eq!(codes_of(&error), [code], "{}", drawn(&error, &scratch.0));
        insta::assert_snapshot!(code.replace("::", "_"), drawn(&error, &scratch.0));
    }
}

#[test]
fn every_code_is_shown_by_its_page() {
    let codes = Mutex::new(manual::codes());
    let next = &|| codes.lock().expect("no thread has panicked").next();
    // One page takes seconds and most take none.
    std::thread::scope(|scope| {
        for thread in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(move || {
                let scratch = Scratch::new(&format!("codes-{thread}"));
                while let Some(code) = next() {
                    shown_by_its_page(code, &scratch);
                }
            });
        }
    });
}

/// What is written for users: the README and the pages in `docs/`, by their names. Those of the reference are tried field by field.
fn pages() -> Vec<(String, String)> {
    let root = package().join("..");
    let docs = std::fs::read_dir(root.join("docs")).expect("docs");
    let mut names: Vec<String> = docs
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| format!("docs/{}", name.to_string_lossy()))
        .filter(|name| name.ends_with(".md") && name != "docs/reference.md")
        .collect();
    names.push("README.md".to_owned());
    names.sort();
    let read = |name: String| {
        let text = std::fs::read_to_string(root.join(&name)).expect(&name);
        (name, text)
    };
    names.into_iter().map(read).collect()
}

#[test]
fn what_the_documents_show_compiles() {
    let scratch = Scratch::new("documents");
    let mut count = 0;
    for (name, text) in pages() {
        for example in examples(&text) {
            count += 1;
            let compiled = scratch.compile(example);
            compiled.unwrap_or_else(|e| panic!("{name}: {example}: {}", drawn(&e, &scratch.0)));
        }
    }
    assert!(count >= 8, "{count}");
}

/// The mistakes that the README and the page of the language show, made.
#[test]
fn mistakes_are_shown_as_the_documents_have_them() {
    let scratch = Scratch::new("mistakes");
    let library = "fun name => { image = name, limts.memory = \"1GiB\" }\n";
    std::fs::write(scratch.0.join("lib.ncl"), library).expect("write");
    let error = scratch
        .compile(
            r#"let service = import "lib.ncl" in
{
  pods.shop.containers.app = service "shop:2.1",
  pods.db = {
    containers.app = { image = "db", mounts.data = { volume = "dta", path = "/data" } },
    volumes.data = {},
  },
}
"#,
        )
        .expect_err("two mistakes");
    let indented = |text: &str| -> String {
        let lines = text.lines().map(|line| match line {
            "" => "\n".to_owned(),
            line => format!("    {line}\n"),
        });
        lines.collect()
    };
    let shown = drawn(&error, &scratch.0);
    let all: Vec<&str> = shown.split("tank::").skip(1).map(str::trim_end).collect();
    assert_eq!(all.len(), 2, "{shown}");
    for (name, text) in pages() {
        for (problem, pages) in all.iter().zip([
            ["README.md", "docs/language.md"].as_slice(),
            &["docs/language.md"],
        ]) {
            let problem = indented(&format!("tank::{problem}"));
            let is_there = text.contains(&problem);
            assert_eq!(
                is_there,
                pages.contains(&name.as_str()),
                "{name}: {problem}"
            );
        }
    }
}

/// Two sources of one stack, or of none: the names that their pods have on a host.
#[test]
fn a_stack_is_said_in_the_source_or_beside_it() {
    let scratch = Scratch::new("stack");
    let compile = |text: &str, asked: Option<&str>, default: Option<&str>| {
        let file = scratch.0.join("pods.ncl");
        std::fs::write(&file, text).expect("write");
        let name = |text: &str| tank_model::Name::new(text).expect("a name");
        compile_here(
            &Inputs {
                files: vec![file],
                stack: asked.map(name),
                default_stack: default.map(name),
                ..Inputs::default()
            },
            None,
        )
    };
    let pods = "pods.db.containers.x.image = \"x\", pods.web = { containers.x.image = \"x\", depends_on = { db = 'ready, \"shop:db\" = 'started, \":db\" = 'started } }";
    let plain = format!("{{ {pods} }}");
    let said = format!("{{ stack = \"blog\", {pods} }}");
    let inner = r#"{"containers":{"x":{"image":"x"}}}"#;
    let of = |stack: &str, prefix: &str| {
        let db = format!("{prefix}db");
        let web = r#"{"containers":{"x":{"image":"x"}},"depends_on":{"#;
        format!(
            "{{\"pods\":{{\"{db}\":{inner},\"{prefix}web\":{web}\"{db}\":\"ready\",\"db\":\"started\",\"shop:db\":\"started\"}}}}}}{stack}}}"
        )
    };
    let blog = of(",\"stack\":\"blog\"", "blog:");
    for (text, asked, default) in [
        (&said, None, None),
        (&said, Some("blog"), None),
        (&said, None, Some("other")),
        (&plain, Some("blog"), None),
        (&plain, Some("blog"), Some("other")),
        (&plain, None, Some("blog")),
    ] {
        let compiled = compile(text, asked, default).expect("compiles");
        assert_eq!(compiled.canonical, blog);
        assert!(
            compiled
                .provenance
                .contains("pods.\\\"blog:web\\\".depends_on.\\\"shop:db\\\"")
        );
    }
    // Which of the two `db` is meant is not guessed.
    let error = compile(&plain, None, None).expect_err("one pod, twice");
    assert_eq!(codes_of(&error), ["tank::name::invalid"]);
    let error = compile(&said, Some("shop"), None).expect_err("two names");
    assert_eq!(codes_of(&error), ["tank::stack::two_names"]);
    insta::assert_snapshot!("two_names", drawn(&error, &scratch.0));
    // Mistakes are shown as the source has them.
    let wrong = "{ stack = \"blog\", pods.web = { containers.x.image = \"x\", depends_on.dbb = 'ready }, pods.db = { containers.x.image = \"x\", volumes.v.hosst = \"/\" }, pods.\"shop:x\".containers.x.image = \"x\" }";
    let error = compile(wrong, None, None).expect_err("refused");
    insta::assert_snapshot!("in_a_stack", drawn(&error, &scratch.0));
}

/// Networks have their stack in their names on the host as pods have, but for the default one; and
/// mistakes are shown as the source has them.
#[test]
fn networks_belong_to_their_stack() {
    let scratch = Scratch::new("networks");
    let web = |on: &str| {
        format!(
            "{{ stack = \"blog\", networks = {{ back.internal = true, front.subnets = [\"10.91.7.0/24\"] }}, pods.web = {{ containers.x.image = \"x\", networks = {on} }} }}"
        )
    };
    let all = "{ back = {}, front.addresses = [\"10.91.7.10\"], \"shop:back\" = {}, \":back\".aliases.db = {}, default = {} }";
    let compiled = scratch.compile(&web(all)).expect("compiles");
    let inner = r#"{"containers":{"x":{"image":"x"}},"networks":{"back":{"aliases":{"db":{}}},"blog:back":{},"blog:front":{"addresses":["10.91.7.10"]},"default":{},"shop:back":{}}}"#;
    let networks = r#"{"blog:back":{"internal":true},"blog:front":{"subnets":["10.91.7.0/24"]}}"#;
    assert_eq!(
        compiled.canonical,
        format!("{{\"networks\":{networks},\"pods\":{{\"blog:web\":{inner}}},\"stack\":\"blog\"}}")
    );
    for line in [
        "networks.\\\"blog:back\\\".internal",
        "networks.\\\"blog:front\\\".subnets",
        "pods.\\\"blog:web\\\".networks.\\\"blog:front\\\".addresses",
    ] {
        assert!(
            compiled.provenance.contains(line),
            "{line}: {}",
            compiled.provenance
        );
    }
    // One network by two names is not guessed about.
    let error = scratch
        .compile(&web("{ back = {}, \"blog:back\" = {} }"))
        .expect_err("twice");
    assert_eq!(codes_of(&error), ["tank::name::invalid"]);
    let wrong = web("{ bakc = {}, \"blog:front\".addresses = [\"10.0.0.1\"], default.addresses = [\"10.0.0.2\"], Bad = {} }")
        .replace("front.subnets = [", "\"shop:x\" = {}, default = {}, odd.subnets = [5], front.subnets = [");
    let error = scratch.compile(&wrong).expect_err("refused");
    insta::assert_snapshot!("networks_in_a_stack", drawn(&error, &scratch.0));
    // What follows from a mistake in a network is not said.
    let follows = "{ networks.n.subnets = [5], pods.web = { containers.x.image = \"x\", networks.n.addresses = [\"10.0.0.2\"] } }";
    let error = scratch.compile(follows).expect_err("refused");
    assert_eq!(codes_of(&error), ["tank::value::type"]);
}

/// Codes that no configuration gives: they are the machine's, or another client's, or of what is
/// not in this version.
const WITHOUT_EXAMPLE: [&str; 16] = [
    "tank::volume::many_shared",
    "tank::host::port",
    "tank::host::network",
    "tank::host::nic",
    "tank::host::image",
    "tank::host::volume",
    "tank::host::backup",
    "tank::update::shared_address",
    "tank::read",
    "tank::internal",
    "tank::limit::time",
    "tank::limit::memory",
    "tank::limit::depth",
    "tank::limit::size",
    "tank::publish::port_zero",
    "tank::stack::two_names",
];

#[test]
fn every_code_has_a_page() {
    let mut used = BTreeSet::new();
    let root = package();
    let mut folders = vec![root.join("src"), root.join("model/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("read");
            for rest in text.split("\"tank::").skip(1) {
                let code: String = rest.chars().take_while(|c| *c != '"').collect();
                if code
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | ':'))
                {
                    used.insert(format!("tank::{code}"));
                }
            }
        }
    }
    used.extend(["tank::read", "tank::internal"].map(str::to_owned));
    let paged: BTreeSet<String> = manual::codes().map(str::to_owned).collect();
    assert_eq!(used, paged);
    for code in paged {
        let refused = blocks(manual::error_page(&code).expect("a page"))
            .iter()
            .any(|(refused, _)| *refused);
        assert_ne!(refused, WITHOUT_EXAMPLE.contains(&code.as_str()), "{code}");
    }
}

/// A configuration in which `snippet` is written into a record of this contract.
// long: it has an arm for each contract
fn around(contract: &str, snippet: &str) -> String {
    let container = |inner: &str| {
        let image = if inner.contains("image =") {
            ""
        } else {
            "image = \"nginx\","
        };
        format!(
            "{{ pods.db.containers.x.image = \"x\", pods.web = {{ volumes.data = {{}}, containers.app = {{ {image} {inner} }} }} }}"
        )
    };
    let pod = |inner: &str| {
        let own = if inner.contains("containers.") {
            ""
        } else {
            "containers.app.image = \"nginx\","
        };
        let networks = "networks = { back = {}, front.subnets = [\"10.91.7.0/24\"] }";
        format!(
            "{{ {networks}, volumes.uploads = {{}}, pods.db.containers.x.image = \"x\", pods.web = {{ {own} {inner} }} }}"
        )
    };
    let with = |field: &str, rest: &str| {
        let given = |name: &str| snippet.trim_start().starts_with(name);
        let rest: Vec<&str> = rest
            .split(", ")
            .filter(|part| !part.is_empty() && !given(&part[..part.find(' ').unwrap_or(0)]))
            .collect();
        format!("{field} = {{ {snippet}, {} }}", rest.join(", "))
    };
    match contract {
        "Config" => format!("{{ {snippet} }}"),
        "Pod" => pod(snippet),
        "Container" => container(snippet),
        "Mount" if snippet.starts_with("propagation") => {
            container(&with("mounts.m", "volume = \"srv\", path = \"/data\""))
                .replace("volumes.data = {}", "volumes.srv.host = \"/srv\"")
        }
        "Mount" => container(&with("mounts.m", "volume = \"data\", path = \"/data\"")),
        "File" if snippet.starts_with("source") => String::new(),
        "File" => container(&with("files.\"/f\"", "text = \"\"")),
        "Secret" => container(&with(
            "secrets.s",
            "file = \"/etc/hostname\", path = \"/s\"",
        )),
        "Limits" | "Logs" | "Capabilities" | "Seccomp" | "Stop" => {
            container(&with(&contract.to_lowercase(), ""))
        }
        "Ulimit" => container(&with(
            "ulimits.core",
            if snippet.starts_with("soft") {
                "hard = 2048"
            } else {
                "soft = 1"
            },
        )),
        "Device" => container(&with("devices.d", "path = \"/dev/fuse\"")),
        "HttpProbe" => container(&with("readiness.http", "port = 80")),
        "TcpProbe" => container(&with("readiness.tcp", "")),
        "Probe"
            if ["http", "tcp", "exec"]
                .iter()
                .any(|kind| snippet.starts_with(kind)) =>
        {
            container(&with("readiness", ""))
        }
        "Probe" => container(&with("readiness", "tcp.port = 80")),
        "Volume" => pod(&with("volumes.v", "")),
        "Publish" => pod(&with("publish.p", "port = 80")),
        "Dns" => pod(&with("dns", "")),
        "Nic" if snippet.starts_with('p') => pod(&with(
            "network.nics.eth0",
            "mode = 'macvlan, pool = \"10.0.0.128/25\"",
        )),
        "Nic" => pod(&with(
            "network.nics.eth0",
            "mode = 'macvlan, address = \"10.0.0.9/24\", addresses.other = \"fd00::9/64\"",
        )),
        "NicRoute" => {
            let own = "mode = 'macvlan, address = \"10.0.0.9/24\"";
            let route = with("routes.r", "to = \"192.168.7.0/24\", via = \"10.0.0.254\"");
            pod(&format!("network.nics.eth0 = {{ {own}, {route} }}"))
        }
        "Nics" => pod(&with("network", "")),
        "NamedNetwork" => format!("{{ {} }}", with("networks.back", "")),
        "Backup" | "Hook" => {
            let backup = match contract {
                "Backup" => with("volumes.v.backup", "to = \"/srv\", every = \"1d\""),
                _ => {
                    let hook = with("before", "exec = [\"sync\"]");
                    format!("volumes.v.backup = {{ to = \"/srv\", every = \"1d\", {hook} }}")
                }
            };
            pod(&format!(
                "containers.app = {{ image = \"nginx\", mounts.v = {{ volume = \"v\", path = \"/v\" }} }}, {backup}"
            ))
        }
        "SharedVolume" => format!("{{ {} }}", with("volumes.uploads", "")),
        "Membership" => pod(&with("networks.front", "")),
        other => panic!("no place for the examples of {other}"),
    }
}

#[test]
fn what_is_not_in_this_version_is_documented_so() {
    for feature in &tank_model::unsupported::FEATURES {
        let page = manual::field_page(feature.field).expect("a page");
        let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains("not in this version"),
            "{}: {page}",
            feature.field
        );
        let page = manual::error_page(feature.code).expect("a page");
        assert!(page.contains("not in this version"), "{page}");
    }
}

#[test]
fn every_field_is_documented() {
    let scratch = Scratch::new("fields");
    let schema = tank_compiler::schema();
    let mut fields = 0;
    for (name, contract) in &schema.contracts {
        assert!(!contract.doc.is_empty(), "{name} has no doc");
        match &contract.shape {
            Shape::Helper => {
                for example in examples(&contract.doc) {
                    scratch
                        .compile(example)
                        .unwrap_or_else(|e| panic!("{name}: {}", drawn(&e, &scratch.0)));
                }
                assert!(!examples(&contract.doc).is_empty(), "{name} has no example");
            }
            Shape::Record(known) => {
                for field in known {
                    fields += 1;
                    let at = format!("{name}.{}", field.name);
                    let stated = field.required()
                        || field.default.is_some()
                        || field.doc.contains("Default: ");
                    assert!(stated, "{at} does not say its default");
                    let examples = examples(&field.doc);
                    assert!(!examples.is_empty(), "{at} has no example");
                    for example in examples {
                        assert!(
                            example.starts_with(&field.name),
                            "the example of {at} shows something else"
                        );
                    }
                }
            }
            Shape::Enum(_) | Shape::Value => {}
        }
    }
    assert!(fields > 70, "{fields}");
}

/// A plan shows them as people write them.
#[test]
fn quantities_are_known_by_the_names_of_their_fields() {
    use tank_model::units::{OF_BYTES, OF_MILLIS};
    let schema = tank_compiler::schema();
    let (mut bytes, mut millis) = (BTreeSet::new(), BTreeSet::new());
    let mut others = BTreeSet::new();
    for contract in schema.contracts.values() {
        let Shape::Record(fields) = &contract.shape else {
            continue;
        };
        for field in fields {
            let of = match &field.kind {
                Kind::Named(kind) if kind == "Size" => &mut bytes,
                Kind::Named(kind) if kind == "Time" || kind == "Age" => &mut millis,
                _ => &mut others,
            };
            of.insert(field.name.as_str());
        }
    }
    assert_eq!(bytes, OF_BYTES.into());
    assert_eq!(millis, OF_MILLIS.into());
    assert!(others.is_disjoint(&bytes) && others.is_disjoint(&millis));
}

/// The examples of all fields compile, and what the contracts say of them is what the walk says: a
/// configuration that goes through `tank.Config` in Nickel, with all its defaults filled in, is the
/// same configuration.
fn examples_of(folder: &str, of: impl Fn(&str) -> bool) {
    let scratch = Scratch::new(folder);
    // The `tank` in scope takes every record, for the sake of better messages; a copy of the file
    // does not.
    std::fs::write(scratch.0.join("contracts.ncl"), tank_compiler::STDLIB).expect("write");
    let schema = tank_compiler::schema();
    let mut compiled = 0;
    for (name, contract) in schema.contracts.iter().filter(|(name, _)| of(name)) {
        let Shape::Record(known) = &contract.shape else {
            continue;
        };
        for example in known.iter().flat_map(|field| examples(&field.doc)) {
            let text = around(name, example);
            if text.is_empty() {
                continue;
            }
            let plain = scratch.compile(&text);
            let plain = plain.unwrap_or_else(|e| panic!("{text}\n{}", drawn(&e, &scratch.0)));
            let applied = scratch.compile(&format!("{text} | (import \"contracts.ncl\").Config"));
            let applied = applied.unwrap_or_else(|e| panic!("{text}\n{}", drawn(&e, &scratch.0)));
            assert_eq!(applied.canonical, plain.canonical, "{text}");
            compiled += 1;
        }
    }
    assert!(compiled > 30, "{compiled}");
}

// Two tests, for two threads.

#[test]
fn the_examples_of_pods_and_containers_compile_with_and_without_the_contracts() {
    examples_of("pods", |contract| matches!(contract, "Pod" | "Container"));
}

#[test]
fn the_other_examples_compile_with_and_without_the_contracts() {
    examples_of("others", |contract| {
        !matches!(contract, "Pod" | "Container")
    });
}

#[test]
fn what_the_contracts_refuse_the_walk_refuses() {
    let scratch = Scratch::new("refused");
    let schema = tank_compiler::schema();
    let wrong = [
        ("Port", vec!["0", "65536", "1.5", "\"80\""]),
        ("Count", vec!["-1", "0.5", "\"1\""]),
        ("Amount", vec!["-1", "\"much\"", "0.5"]),
        ("Size", vec!["\"lots\"", "\"1.\"", "-1", "true"]),
        ("Age", vec!["30", "\"1 year\"", "1"]),
        ("Time", vec!["30", "\"30\"", "\"1 week\""]),
        ("Rate", vec!["\"lots\"", "-1", "true"]),
        ("Cpu", vec!["\"much\"", "-1", "true"]),
        ("Mode", vec!["644", "\"999\"", "\"rw\""]),
        ("FolderMode", vec!["750", "\"7777\"", "\"rw\""]),
        (
            "Owner",
            vec!["999", "\"postgres\"", "\"1:2:3\"", "\"65536\"", "\"\""],
        ),
        (
            "FileOwner",
            vec![
                "33",
                "\"\"",
                "\":5\"",
                "\"33:\"",
                "\"a:b:c\"",
                "\"-1\"",
                "\"a b\"",
                "\"65536\"",
                "\"1:65536\"",
            ],
        ),
        ("Signal", vec!["9", "\"TERM\""]),
        ("Address", vec!["\"here\"", "1"]),
        ("HostAddress", vec!["\"gateway\"", "1"]),
        ("Cidr", vec!["\"10.0.0.1\"", "1"]),
        ("Subnet", vec!["\"10.91.7.0\"", "1"]),
        ("Capability", vec!["\"NET_ADMIN\"", "1"]),
        ("SystemCall", vec!["\"Open\"", "1"]),
        ("Name", vec!["\"Blog\"", "\"a:b\"", "\"-a\"", "\"\"", "1"]),
    ];
    // A contract that is not known takes whatever is written. Of these three the walk compares the tags before.
    let nonsense = serde_json::json!({ "no": "value" });
    let takes = |contract: &str| tank_compiler::schema::check_value(contract, &nonsense).is_ok();
    let values = schema.contracts.iter();
    let values = values.filter(|(_, found)| matches!(found.shape, Shape::Value));
    let unknown: Vec<&String> = values
        .map(|(name, _)| name)
        .filter(|name| takes(name))
        .collect();
    assert_eq!(unknown, ["AllowFrom", "Egress", "Network"]);
    // One evaluation, with a pod on a line of its own for each value.
    let mut lines = Vec::new();
    for (contract, values) in &wrong {
        assert!(schema.contracts.contains_key(*contract), "{contract}");
        for value in values {
            let json: serde_json::Value = serde_json::from_str(value).expect("JSON");
            assert!(
                tank_compiler::schema::check_value(contract, &json).is_err(),
                "{contract} takes {value}"
            );
            let pod = lines.len();
            lines.push(format!(
                "  pods.p{pod}.containers.x.image = \"x:%{{std.to_string ({value} | tank.{contract})}}\","
            ));
        }
    }
    let error = scratch.compile(&format!("{{\n{}\n}}", lines.join("\n")));
    let error = error.expect_err("refused");
    let CompileError::Problems(problems) = &error else {
        panic!("{error}");
    };
    let found = codes_of(&error);
    assert_eq!(
        found,
        vec!["tank::nickel::contract"; lines.len()],
        "{}",
        drawn(&error, &scratch.0)
    );
    let at: BTreeSet<String> = problems
        .list
        .iter()
        .filter_map(|problem| problem.path.get(1).cloned())
        .collect();
    assert_eq!(at, (0..lines.len()).map(|pod| format!("p{pod}")).collect());
}

#[test]
fn the_pages_of_the_manual() {
    for page in ["pods", "networks", "stack"] {
        let name = format!("doc_{page}");
        insta::assert_snapshot!(name, manual::field_page(page).expect("a page"));
    }
    insta::assert_snapshot!(
        "doc_limits",
        manual::field_page("pods.containers.limits").expect("a page")
    );
    // A network, and what a pod is on it.
    for (path, default) in [
        ("networks.back.internal", "false"),
        ("networks.internal", "false"),
        ("networks.back.aliases", "{}"),
        ("pods.web.networks.back.addresses", "[]"),
    ] {
        assert_eq!(manual::default_of(path).as_deref(), Some(default), "{path}");
        manual::field_page(path).unwrap_or_else(|unknown| panic!("{path}: {unknown:?}"));
    }
    insta::assert_snapshot!("doc_top", manual::field_page("").expect("a page"));
    insta::assert_snapshot!(
        "doc_replicas",
        manual::field_page("tank.replicas").expect("a page")
    );
    insta::assert_snapshot!(
        "doc_error",
        manual::error_page("tank::mount::unknown_volume").expect("a page")
    );
    assert!(
        matches!(tank_compiler::schema().record("Pod"), Some(fields) if fields[0].kind == Kind::Dict(Box::new(Kind::Named("Container".to_owned()))))
    );
}

/// `UPDATE_REFERENCE=1` writes it.
#[test]
fn the_reference_says_what_the_contracts_say() {
    let path = package().join("../docs/reference.md");
    let reference = manual::reference();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &reference).expect("writes");
    }
    let kept = std::fs::read_to_string(&path).expect("docs/reference.md");
    assert!(
        kept == reference,
        "docs/reference.md is not what the contracts say: UPDATE_REFERENCE=1"
    );
    // Every field of every record that is met, and every link leads somewhere.
    for (path, _) in manual::fields() {
        let name = path.rsplit('.').next().expect("a name");
        assert!(reference.contains(&format!("\n### {name}\n")), "{path}");
    }
    for link in reference.split("](#").skip(1) {
        let anchor = link.split(')').next().expect("an anchor");
        let leads = reference.lines().any(|line| {
            line.strip_prefix("## ")
                .is_some_and(|to| to.to_lowercase() == anchor)
        });
        assert!(leads, "{anchor}");
    }
}

#[test]
fn twenty_mistakes_are_twenty_problems() {
    let scratch = Scratch::new("twenty");
    let text = std::fs::read_to_string("tests/fixtures/twenty.ncl").expect("read");
    let error = scratch.compile(&text).expect_err("refused");
    insta::assert_snapshot!("twenty", drawn(&error, &scratch.0));
    assert_eq!(codes_of(&error).len(), 23, "{:?}", codes_of(&error));
}

#[test]
fn a_mistake_is_shown_in_the_file_it_is_in() {
    let scratch = Scratch::new("elsewhere");
    let write = |name: &str, text: &str| std::fs::write(scratch.0.join(name), text).expect("write");
    // A library's function that is used wrongly, a record that is wrong itself, and a broken one.
    write(
        "lib.ncl",
        "{\n  service | String -> Dyn = fun name => { image = name },\n  side = { image = \"x\", tty = \"no\" },\n}\n",
    );
    let main = "let lib = import \"lib.ncl\" in\n{\n  pods.web.containers = { a = lib.service 5, b = lib.side },\n}\n";
    insta::assert_snapshot!(
        "in_an_import",
        drawn(&scratch.compile(main).expect_err("refused"), &scratch.0)
    );
    write(
        "lib.ncl",
        "{\n  side = { image \"x\" },\n  other.image = 5,\n}\n",
    );
    let main = "let lib = import \"lib.ncl\" in\n{ pods.web.containers = { a = lib.other, b.image = \"y\" } }\n";
    insta::assert_snapshot!(
        "in_a_broken_import",
        drawn(&scratch.compile(main).expect_err("refused"), &scratch.0)
    );
    // Two files that are merged, each with a mistake, and one that they make together.
    write(
        "base.ncl",
        "{ pods.web.containers.a = { image = \"x\", limits.pids = \"few\", env.A = \"1\" } }\n",
    );
    write(
        "more.yaml",
        "pods:\n  web:\n    restart: sometimes\n    containers: { a: { env: { A: \"2\" } } }\n",
    );
    let files = ["base.ncl", "more.yaml"]
        .map(|name| scratch.0.join(name))
        .to_vec();
    let error = compile_here(
        &Inputs {
            files,
            ..Inputs::default()
        },
        None,
    )
    .expect_err("refused");
    insta::assert_snapshot!("in_merged_files", drawn(&error, &scratch.0));
    // What one field of a record contract says to one who asks for completion does not hide the
    // rest.
    let error = scratch.compile(
        "{ pods.web = { containers.a = { imagee = \"x\" }, restrt = 'never } } | tank.Config",
    );
    insta::assert_snapshot!(
        "with_the_contract_written_out",
        drawn(&error.expect_err("refused"), &scratch.0)
    );
}
