//! The words of messages and what they point at, and the lines that are kept of records.

use std::{collections::BTreeSet, path::PathBuf};
use tank_compiler::{CompileError, Compiled, Inputs, compile_here, schema::noun};
use tank_model::{
    provenance::{Provenance, parse_field},
    schema::Shape,
};

/// A folder of this test's own, removed when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tank-words-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }

    fn compile(&self, files: &[(&str, &str)]) -> Result<Compiled, CompileError> {
        let write = |(name, text): &(&str, &str)| {
            let file = self.0.join(name);
            std::fs::write(&file, text).expect("write");
            file
        };
        let inputs = Inputs {
            files: files.iter().map(write).collect(),
            ..Inputs::default()
        };
        compile_here(&inputs, None)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where there is a record of each contract.
const RECORDS: [(&str, &str); 28] = [
    ("Alias", "pods.web.aliases.x"),
    ("Backup", "pods.web.volumes.v.backup"),
    ("Capabilities", "pods.web.containers.app.capabilities"),
    ("Config", ""),
    ("Container", "pods.web.containers.app"),
    ("Device", "pods.web.containers.app.devices.d"),
    ("Dns", "pods.web.dns"),
    ("File", "pods.web.containers.app.files.f"),
    ("Hook", "pods.web.volumes.v.backup.before"),
    ("HttpProbe", "pods.web.containers.app.readiness.http"),
    ("Limits", "pods.web.containers.app.limits"),
    ("Logs", "pods.web.containers.app.logs"),
    ("Membership", "pods.web.networks.back"),
    ("Mount", "pods.web.containers.app.mounts.m"),
    ("NamedNetwork", "networks.back"),
    ("Nic", "pods.own.network.nics.eth0"),
    ("NicRoute", "pods.own.network.nics.eth0.routes.r"),
    ("Nics", "pods.own.network"),
    ("Pod", "pods.web"),
    ("Probe", "pods.web.containers.app.readiness"),
    ("Publish", "pods.web.publish.p"),
    ("Seccomp", "pods.web.containers.app.seccomp"),
    ("Secret", "pods.web.containers.app.secrets.s"),
    ("SharedVolume", "volumes.v"),
    ("Stop", "pods.web.containers.app.stop"),
    ("TcpProbe", "pods.web.containers.app.readiness.tcp"),
    ("Ulimit", "pods.web.containers.app.ulimits.nofile"),
    ("Volume", "pods.web.volumes.v"),
];

/// What a record is called is the field's word, and no contract's name.
#[test]
fn records_are_called_what_they_are() {
    let schema = tank_compiler::schema();
    let records = schema.contracts.iter();
    let records = records.filter(|(_, contract)| matches!(contract.shape, Shape::Record(_)));
    let records: BTreeSet<&str> = records.map(|(name, _)| name.as_str()).collect();
    assert_eq!(records, RECORDS.iter().map(|(name, _)| *name).collect());
    let fields = RECORDS.map(|(_, at)| match at {
        "" => "  nonsense = 1,\n".to_owned(),
        at => format!("  {at}.nonsense = 1,\n"),
    });
    let scratch = Scratch::new("nouns");
    let text = format!("{{\n{}}}\n", fields.concat());
    let error = scratch
        .compile(&[("pods.ncl", &text)])
        .expect_err("refused");
    let CompileError::Problems(problems) = error else {
        panic!("{error}");
    };
    let found = problems.list.iter();
    let found = found.filter(|problem| problem.message.contains("nonsense"));
    let messages: BTreeSet<&str> = found.map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages.len(), RECORDS.len(), "{messages:#?}");
    for (contract, _) in RECORDS {
        assert!(messages.contains(format!("{} has no field `nonsense`", noun(contract)).as_str()));
    }
    let messages: Vec<&str> = messages.into_iter().collect();
    insta::assert_snapshot!(messages.join("\n"));
}

/// What is written in place of a backup or of a hook is answered with how it is written.
#[test]
fn a_backup_and_its_hooks_are_records() {
    let scratch = Scratch::new("backups");
    let help = |backup: &str| {
        let text = format!(
            "{{ pods.web = {{ containers.app.image = \"x\", volumes.v.backup = {backup} }} }}"
        );
        match scratch.compile(&[("pods.ncl", &text)]) {
            Err(CompileError::Problems(problems)) => {
                let help = problems
                    .list
                    .iter()
                    .map(|problem| problem.help.clone().unwrap_or_default());
                help.collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    let whole = "write `backup = { to = \"/srv/backups\", every = \"1d\" }`";
    assert_eq!(help("\"/srv/backups\""), [whole]);
    let hook = "write `before.exec = [\"PROGRAM\", \"ARGUMENT\"]`";
    let with = |before: &str| {
        help(&format!(
            "{{ to = \"/srv\", every = \"1d\", before = {before} }}"
        ))
    };
    assert_eq!(with("[\"sync\"]"), [hook]);
    assert_eq!(with("\"sync\""), [hook]);
}

/// What Compose calls the fields of networks is answered with what they are here, and not with a field that is
/// spelt alike (`internal` would cut an `external` network off).
#[test]
fn words_of_compose_for_networks_are_answered() {
    let text = r#"{
  networks.back = { external = true, driver = "bridge", ipam = {}, name = "x" },
  pods.web = {
    containers.app = { image = "x", networks.back = {} },
    networks.back = { ipv4_address = "10.0.0.5", ipv6_address = "fd00::5" },
  },
}
"#;
    let scratch = Scratch::new("compose");
    let error = scratch.compile(&[("pods.ncl", text)]).expect_err("refused");
    let CompileError::Problems(problems) = error else {
        panic!("{error}");
    };
    let found = problems.list.iter();
    let found = found.filter(|problem| problem.code == "tank::field::unknown");
    let words = found.map(|problem| {
        let help = problem.help.as_deref().unwrap_or_default();
        format!("{}: {help}", problem.message)
    });
    insta::assert_snapshot!(words.collect::<Vec<_>>().join("\n"));
}

/// What is written as by Compose is answered with how it is written here, by what stands there; and a network
/// that is an address with what it would be as a network.
#[test]
fn values_as_compose_has_them_are_answered() {
    let text = r#"{
  networks = { back.subnets = ["10.91.7.5"], front.subnets = ["fd00:7::"], lab.subnets = ["10.91.7"], one.subnets = "10.91.7.0/24" },
  pods.web = {
    containers.app.image = "x",
    publish = { one = "8080:80", two = "0.0.0.0:53:53/udp", three = 80, four = "http" },
  },
  pods.list = { containers.app.image = "x", publish = ["8080:80"], networks = ["back"] },
}
"#;
    let scratch = Scratch::new("values");
    let error = scratch.compile(&[("pods.ncl", text)]).expect_err("refused");
    let CompileError::Problems(problems) = error else {
        panic!("{error}");
    };
    let words = problems.list.iter().map(|problem| {
        let help = problem.help.as_deref().unwrap_or_default();
        format!("{}: {}: {help}", problem.path.join("."), problem.message)
    });
    insta::assert_snapshot!(words.collect::<Vec<_>>().join("\n"));
}

/// Of what is empty the name is pointed at: `{}` says nothing.
#[test]
fn what_is_empty_is_shown_by_its_name() {
    let text = r#"{
  networks.default = {},
  networks.back.internal = true,
  pods.web = { containers.app.image = "x", networks = { front = {}, back = { } } },
  pods.db = { containers = {}, networks.back = {} },
  pods.lone = { containers.app.image = "x", networks.back = {}, publish.http = { port = 80 } },
}
"#;
    let scratch = Scratch::new("empty");
    let error = scratch.compile(&[("pods.ncl", text)]).expect_err("refused");
    let CompileError::Problems(problems) = error else {
        panic!("{error}");
    };
    let words = problems.list.iter().map(|problem| {
        let at = problem.labels.iter().map(|label| {
            let range = label.place.range.clone();
            problems.sources[label.place.source].text[range].to_owned()
        });
        let at: Vec<String> = at.collect();
        format!("{}: {}", problem.code, at.join(", "))
    });
    insta::assert_snapshot!(words.collect::<Vec<_>>().join("\n"));
}

/// The lines that a field is said to be written on, without the folder.
fn lines(scratch: &Scratch, compiled: &Compiled, field: &str) -> String {
    let known: Provenance = serde_json::from_str(&compiled.provenance).expect("reads");
    let Some(origin) = known.origin(&parse_field(field)) else {
        return "unknown".to_owned();
    };
    let words = |line| {
        let words = known.words(line);
        words.replace(&format!("{}/", scratch.0.display()), "")
    };
    let also = origin
        .also
        .into_iter()
        .map(|line| format!(", {}", words(line)));
    let via = origin.via.map(|line| format!(" via {}", words(line)));
    let first = words(origin.line);
    format!(
        "{first}{}{}",
        also.collect::<String>(),
        via.unwrap_or_default()
    )
}

#[test]
fn a_record_is_known_by_every_line_that_names_it() {
    let scratch = Scratch::new("records");
    let base = "{
  networks.back = {},
  pods.own = {
    containers.app.image = \"x\",
    network = {
      nics.eth0 = {
        mode = 'macvlan,
        address = \"10.0.0.5/24\",
      },
    },
  },
  pods.web = {
    containers.app.image = \"x\",
    networks = {
      back.aliases.database = {},
      default = {},
    },
  },
}
";
    let more = "{
  networks.back.internal = true,
  pods.web.networks.back = {
    aliases.db = {},
  },
}
";
    let compiled = scratch.compile(&[("base.ncl", base), ("more.ncl", more)]);
    let compiled = compiled.unwrap_or_else(|error| panic!("{error:?}"));
    for (field, expected) in [
        ("networks.back", "base.ncl:2, more.ncl:2"),
        ("networks.back.internal", "more.ncl:2"),
        ("pods.own.network", "base.ncl:5"),
        ("pods.own.network.nics", "base.ncl:6"),
        ("pods.own.network.nics.eth0", "base.ncl:6"),
        ("pods.own.network.nics.eth0.mode", "base.ncl:7"),
        ("pods.web", "base.ncl:12, more.ncl:3"),
        ("pods.web.networks", "base.ncl:14, more.ncl:3"),
        ("pods.web.networks.back", "base.ncl:15, more.ncl:3"),
        ("pods.web.networks.back.aliases", "base.ncl:15, more.ncl:4"),
        ("pods.web.networks.back.aliases.database", "base.ncl:15"),
        ("pods.web.networks.back.aliases.db", "more.ncl:4"),
        ("pods.web.networks.default", "base.ncl:16"),
        ("pods.web.containers.app", "base.ncl:13"),
        ("pods.web.containers.app.image", "base.ncl:13"),
        ("pods.web.nothing", "unknown"),
    ] {
        assert_eq!(lines(&scratch, &compiled, field), expected, "{field}");
    }
}

#[test]
fn what_a_function_makes_is_known_by_who_asked_for_it() {
    let scratch = Scratch::new("functions");
    let text = "{
  networks.back = {},
  pods =
    tank.with_defaults
      {
        networks.back = {},
      }
      {
        web = {
          containers.app.image = \"x\",
        },
        job.containers.app.image = \"x\",
      }
    & tank.replicas \"many\" 2 (fun index => {
      containers.app.image = \"x\",
      networks.back = {},
    }),
}
";
    let compiled = scratch.compile(&[("pods.ncl", text)]);
    let compiled = compiled.unwrap_or_else(|error| panic!("{error:?}"));
    let known = [
        "pods.web",
        "pods.web.networks",
        "pods.web.networks.back",
        "pods.job",
        "pods.job.containers",
        "pods.many-0",
        "pods.many-1.networks.back",
        "pods.many-1.containers.app",
    ];
    let known = known.map(|field| format!("{field}  {}", lines(&scratch, &compiled, field)));
    insta::assert_snapshot!(known.join("\n"));
}

/// The messages of a file, each with its path and help, and the line that it points at.
fn said(name: &str, file: &str, text: &str) -> String {
    let scratch = Scratch::new(name);
    let error = scratch.compile(&[(file, text)]).expect_err("refused");
    let CompileError::Problems(problems) = error else {
        panic!("{error}");
    };
    let words = problems.list.iter().map(|problem| {
        let help = problem.help.as_deref().unwrap_or("-");
        let at = problem.labels.first().map_or("nowhere", |label| {
            &problems.sources[label.place.source].text[label.place.range.clone()]
        });
        format!(
            "{}: {}: {help} [{at}]",
            problem.path.join("."),
            problem.message
        )
    });
    let words = words.collect::<Vec<_>>().join("\n");
    words.replace(&format!("{}/", scratch.0.display()), "")
}

/// What has a `:` where JSON and YAML have it is a type by Nickel: the field is shown, and `=` is asked for.
#[test]
fn fields_with_a_colon_are_told_of_the_equals_sign() {
    let cases = [
        "{ pods: { web: { containers: { app: { image: \"x\" } } } } }\n",
        "{\n  networks: { front = {} },\n  pods.web = { containers.app.image = \"x\", networks: { front = {} } },\n}\n",
        "{ pods.web = { containers: { app: {} } } }\n",
        "{ pods: {} }\n",
        "{ pods.web = { containers.app.image = \"x\", networks: {} }, networks: {} }\n",
        "{ pods.web.containers.app = { image = \"x\", env: { A = \"b\" } } }\n",
        "pods:\n  web:\n    containers:\n      app:\n        image: nginx\nnetworks:\n  front:\n",
        "# mine\nservices:\n  web:\n    image: nginx:1.27\n",
    ];
    let words = cases.map(|text| said("colons", "pods.ncl", text));
    insta::assert_snapshot!(words.join("\n\n"));
}

/// A null is called so, and what is empty is written as in the file that has it.
#[test]
fn a_null_is_answered_with_what_is_empty() {
    let cases = [
        (
            "pods.ncl",
            "{ networks = null, pods.web = { containers.app = { image = null, args = null }, networks.front = null } }\n",
        ),
        (
            "pods.yaml",
            "pods:\n  web:\n    containers:\n      app:\n        image: x\n    publish:\nnetworks:\n  front:\n",
        ),
        (
            "pods.json",
            "{ \"networks\": { \"front\": null }, \"pods\": { \"web\": { \"containers\": { \"app\": { \"image\": \"x\" } } } } }\n",
        ),
    ];
    let words = cases.map(|(file, text)| said("nulls", file, text));
    insta::assert_snapshot!(words.join("\n\n"));
}

/// What a policy names is in a list, and what is said of everybody stands alone.
#[test]
fn policies_say_what_is_in_a_list() {
    let text = "{
  pods.b.containers.app.image = \"x\",
  pods.a = { containers.app.image = \"x\", allow_from = \"b\", egress = [\"all\"] },
  pods.c = { containers.app.image = \"x\", allow_from = ['b, \"10.0.0.1\"], egress = ['internet] },
  pods.d = { containers.app.image = \"x\", allow_from = ['none], egress = \"nnoe\" },
  pods.e = { containers.app.image = \"x\", network.nics.x = { mode = 'ipvlan } },
}
";
    insta::assert_snapshot!(said("policies", "pods.ncl", text));
}

#[test]
fn words_of_compose_for_ports_and_probes_are_answered() {
    let text = "{
  networks.back = { attachable = true, enable_ipv6 = true, labels = {}, gateway = \"10.0.0.1\", driver_opts = {} },
  pods.web = {
    expose = [80],
    scale = 3,
    publish.http = { port = 80, published = 80, host_ip = \"0.0.0.0\" },
    containers.app = {
      image = \"x\",
      expose = [80],
      readiness = { exec = [\"ok\"], interval = \"1s\", retries = 3, start_period = \"5s\", test = [] },
    },
  },
}
";
    insta::assert_snapshot!(said("ports", "pods.ncl", text));
}

/// What somebody types who has written Compose files for years.
#[test]
fn lists_tags_and_texts_of_compose_are_answered() {
    let text = "{
  networks.back.internal = \"yes\",
  pods.web = {
    containers.app = { image = \"x\", privileged = true },
    aliases = [\"db\"],
    depends_on = [\"b\", \"c\"],
    restart = \"unless-stopped\",
    network = \"back\",
    publish.http = { port = \"8080:80\" },
    readiness = {},
  },
  pods.b = {
    containers.app = { image = \"x\", tty = \"maybe\" },
    depends_on.c = 'service_healthy,
    networks = \"back\",
    network_mode = \"host\",
    aliases = \"not a name\",
  },
  pods.c.containers.app.image = \"x\",
}
";
    insta::assert_snapshot!(said("habits", "pods.ncl", text));
}

/// What is a text or a list elsewhere, and addresses and peers that are none.
#[test]
fn what_else_is_typed_first_is_answered() {
    let text = "{
  pods.web = {
    containers.app = {
      image = \"x\",
      files.\"/etc/x\" = \"./x\",
      env_file = \".env\",
      stop_grace_period = \"10s\",
    },
    publish.one = { port = 80, address = \"[::]\" },
    publish.two = { port = 80, address = \"localhost\" },
    publish.three = { port = \"8010-8000\" },
    dns = \"1.1.1.1\",
    volumes = { data = \"./data\", etc = \"/etc/x\", own = \"own\" },
    allow_from = [\"*\", \"host\"],
    egress = [\"b:5432\", \"host\"],
    build = \".\",
    deploy.replicas = 2,
    sysctls.\"net.ipv6.conf.all.disable_ipv6\" = \"1\",
  },
  pods.b = { containers.app.image = \"x\", allow_from = { web = {} }, egress = \"host\", dns = [\"1.1.1.1\"] },
  pods.c = { containers.app.image = \"x\", allow_from = \"host\", egress = \"*\" },
}
";
    insta::assert_snapshot!(said("first", "pods.ncl", text));
}

/// What is typed next: the opposite of what is meant is no suggestion, and what is a pod's is written in the
/// pod.
#[test]
fn what_is_typed_next_is_answered() {
    let text = "{
  pods.web = {
    containers.app = { image = \"x\", hostname = \"www\", network = \"back\", dns = {}, links = [\"b\"] },
    ingress = [\"b\"],
    allow_to = [\"b\"],
    deny = [\"b\"],
    nics.eth0 = {},
    dns_search = [\"example.org\"],
    publish.one = { host = \"0.0.0.0\", containerPort = 80, hostPort = 80, port = 80 },
    publish.two = { port = 81, protocol = 'sctp },
    depends_on.b = 'healthy,
  },
  pods.b = {
    containers.app.image = \"x\",
    allow_from = 'internet,
    egress = 'internal,
  },
  pods.c = { containers.app.image = \"x\", allow_from = [\"10.0.0.1/8\", \"mv\"], network = 'macvlan },
  pods.mv = {
    containers.app.image = \"x\",
    network.nics.eth0 = { mode = 'macvlan, parent = \"up0\", address = \"192.0.2.5\" },
    allow_from = [\"c\"],
  },
}
";
    insta::assert_snapshot!(said("next", "pods.ncl", text));
}

/// What is right by itself and wrong beside the others.
#[test]
fn what_is_wrong_beside_others_is_answered() {
    let text = "{
  pods.b = {
    containers.app.image = \"x\",
    hostname = \"localhost\",
    dns.servers = { a = \"0.0.0.0\", b = \"::ffff:10.0.0.1\", c = \"fe80::1\" },
    sysctls = { \"net.ipv4.conf.eth0.rp_filter\" = \"0\", \"net.ipv4.ip_forward\" = \"1\\n2\" },
  },
  pods.web = { containers.app.image = \"x\", hostname = \"b\", allow_from = [\"mv\"] },
  pods.mv = {
    containers.app.image = \"x\",
    network.nics.eth0 = { mode = 'macvlan, parent = \"up0\", address = \"192.0.2.5/24\" },
    allow_from = [\"web\"],
  },
}
";
    insta::assert_snapshot!(said("beside", "pods.ncl", text));
}
