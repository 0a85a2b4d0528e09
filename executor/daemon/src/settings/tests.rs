//! What `tank.toml` may say, and the table of it in `docs/installing.md`.

use super::*;

#[test]
fn a_host_without_ipv6_gives_its_pods_none() {
    let config = Config::default();
    let both = of_this_host(config.clone(), true).expect("both").networks;
    assert_eq!(both, config.networks);
    let four = of_this_host(config.clone(), false).expect("IPv4").networks;
    assert_eq!(four, config.networks[..1]);
    let six = Config {
        networks: config.networks[1..].to_vec(),
        ..config
    };
    assert!(of_this_host(six, false).is_err());
}

#[test]
fn pools_are_of_one_family_each_and_nobody_elses() {
    let with = |toml: &str| check(&toml::from_str(toml).expect("it is read"));
    let refused = |toml: &str| with(toml).expect_err(toml);
    assert_eq!(with(""), Ok(()));
    assert_eq!(with("network_pools = []"), Ok(()));
    assert_eq!(with(r#"network_pools = ["10.99.0.0/24"]"#), Ok(()));
    let two = refused(r#"network_pools = ["10.91.0.0/16", "10.92.0.0/16"]"#);
    assert_eq!(
        two,
        "network_pools: give one of IPv4 and one of IPv6 at most"
    );
    let small = refused(r#"network_pools = ["10.91.0.0/25"]"#);
    assert_eq!(small, "network_pools: 10.91.0.0/25 has no subnet of /24");
    let mine = r#"networks = ["10.91.0.0/16"]"#;
    assert_eq!(with(mine), Ok(()), "it was fine before there were pools");
    let mine = of_this_host(toml::from_str(mine).expect("it is read"), true);
    assert_eq!(
        mine.expect("settled").network_pools,
        Config::default().network_pools[1..]
    );
    let taken = refused(r#"network_pools = ["10.0.0.0/8"]"#);
    assert_eq!(
        taken,
        "network_pools: 10.0.0.0/8 and 10.90.0.0/16 of `networks` overlap"
    );
    let bridge = refused(r#"bridge = "tank-012345678""#);
    assert_eq!(
        bridge,
        "bridge: `tank-012345678` is how the bridges of other networks are called"
    );
}

/// The table has every key with its default, and each line of it is read.
#[test]
fn the_documents_have_every_key_with_its_default() {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("run by cargo");
    let page = std::fs::read_to_string(format!("{package}/../../docs/installing.md"));
    let page = page.expect("the page");
    let table = page.split("| key | default | |").nth(1).expect("the table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        let mut cells = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned());
        cells.next();
        Some((cells.next()?, cells.next()?))
    };
    let text: String = rows
        .filter_map(cells)
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect();
    let read: Config = toml::from_str(&text).expect("what the page says is read");
    assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
    // Debug shows each field of the configuration: none is left out.
    assert_eq!(text.lines().count(), keys_of("").len(), "{text}");
}

/// Each mistake is at its own line, and says what to write.
#[test]
fn metrics_are_for_this_host_unless_that_is_said() {
    let read = |toml: &str| toml::from_str::<Config>(toml).map(|config| config.metrics);
    let address = |text: &str| Metrics::Address(text.parse().expect("an address"));
    assert_eq!(read("metrics = \"\""), Ok(Metrics::Off));
    assert_eq!(
        read("metrics = \"127.0.0.1:9464\""),
        Ok(address("127.0.0.1:9464"))
    );
    assert_eq!(read("metrics = \"[::1]:9464\""), Ok(address("[::1]:9464")));
    let socket = PathBuf::from("/run/tank/metrics.sock");
    assert_eq!(
        read("metrics = \"/run/tank/metrics.sock\""),
        Ok(Metrics::Socket(socket))
    );
    let beyond = "metrics = { listen = \"10.0.0.5:9464\", beyond_loopback = true }";
    assert_eq!(read(beyond), Ok(address("10.0.0.5:9464")));
    for (wrong, why) in [
        ("\"0.0.0.0:9464\"", "can be reached from elsewhere"),
        (
            "{ listen = \"[::]:9464\" }",
            "can be reached from elsewhere",
        ),
        ("\"localhost:9464\"", "neither an address with a port"),
        ("\"127.0.0.1:0\"", "no port that anybody could know"),
        ("9464", "an address, the path of a socket"),
        (
            "{ listen = \"\", anywhere = true }",
            "unknown field `anywhere`",
        ),
    ] {
        let toml = format!("mtu = 1500\nmetrics = {wrong}\n");
        let error = toml::from_str::<Config>(&toml)
            .expect_err(wrong)
            .to_string();
        assert!(error.contains("line 2") && error.contains(why), "{error}");
    }
}

#[test]
fn a_hook_says_for_what_it_is_and_what_it_does() {
    let hook = |rest: &str| {
        let toml = format!("mtu = 1500\n[[on_event]]\n{rest}\n");
        let config = toml::from_str::<Config>(&toml).map_err(|error| error.to_string())?;
        Ok::<_, String>(config.on_event[0].action.clone())
    };
    let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(
        hook("kinds = [\"failed\"]\ncommand = [\"/bin/page\", \"-x\"]"),
        Ok(hooks::Action::Command {
            argv: argv(&["/bin/page", "-x"]),
            user: "nobody".to_owned(),
            limit: Millis(30_000),
        })
    );
    let url = "https://chat.example/hook/SECRET";
    let shown = hook(&format!("kinds = [\"failed\"]\nwebhook = \"{url}\""));
    assert_eq!(format!("{shown:?}"), "Ok(Webhook(chat.example))");
    for (wrong, why) in [
        ("kinds = []\ncommand = [\"/bin/page\"]", "name one at least"),
        (
            "kinds = [\"hook\"]\ncommand = [\"/bin/page\"]",
            "would never end",
        ),
        (
            "kinds = [\"fail\"]\ncommand = [\"/bin/page\"]",
            "unknown variant `fail`",
        ),
        ("kinds = [\"failed\"]", "say `command` or `webhook`"),
        (
            "kinds = [\"failed\"]\ncommand = [\"page\"]",
            "the absolute path",
        ),
        ("kinds = [\"failed\"]\ncommand = []", "the absolute path"),
        (
            "kinds = [\"failed\"]\ncommand = [\"/bin/page\"]\nlimit = \"1h\"",
            "600 s at most",
        ),
        (
            "kinds = [\"failed\"]\nwebhook = \"http://chat.example/\"",
            "to this host only",
        ),
        (
            "kinds = [\"failed\"]\nwebhook = \"file:///etc/passwd\"",
            "write `https",
        ),
        (
            "kinds = [\"failed\"]\nwebhook = \"https://a/\"\nuser = \"root\"",
            "are of a command",
        ),
    ] {
        let error = hook(wrong).expect_err(wrong);
        assert!(error.contains("line ") && error.contains(why), "{error}");
    }
    assert!(hook("kinds = [\"failed\"]\nwebhook = \"http://[::1]:8080/\"").is_ok());
}

/// What is installed says what holds without it, and its example is read.
#[test]
fn the_installed_file_has_the_defaults() {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("run by cargo");
    let text = std::fs::read_to_string(format!("{package}/../../packaging/tank.toml"));
    let text = text.expect("the file");
    let commented = |begin: &str| -> String {
        let lines = text.lines().filter_map(|line| line.strip_prefix(begin));
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(' '));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let defaults = commented("#");
    assert_eq!(defaults.lines().count(), keys_of("").len(), "{defaults}");
    let read: Config = toml::from_str(&defaults).expect("it is read");
    assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
    let example: Config = toml::from_str(&commented("#    ")).expect("it is read");
    assert_eq!((example.on_event.len(), example.registries.len()), (2, 3));
}

/// The keys of a table: those that are named where an unknown one is refused.
fn keys_of(table: &str) -> Vec<String> {
    let error = toml::from_str::<Config>(&format!("{table}\nnone_of_them = 1\n"));
    let error = error.expect_err("an unknown key").to_string();
    let (_, expected) = error.split_once("expected ").expect("what is known");
    let keys = expected.split('`').skip(1).step_by(2);
    keys.map(str::to_owned).collect()
}

/// tank.toml(5) has every key, also those of the tables within.
#[test]
fn the_page_for_man_has_every_key() {
    let page = manual::page();
    let keys = keys_of("");
    assert_eq!(keys.len(), 16, "{keys:?}");
    for key in &keys {
        let heading = format!("\n\\fB{key} = ");
        assert_eq!(page.matches(&heading).count(), 1, "{key}: {page}");
    }
    let tables = ["[registries.\"*\"]", "[[on_event]]", "[metrics]"];
    let inner: Vec<String> = tables.map(keys_of).concat();
    assert_eq!(inner.len(), 4 + 7 + 2, "{inner:?}");
    for key in &inner {
        assert!(page.contains(&format!("`{key}`")), "{key}: {page}");
    }
    // Nothing of it is taken for a request of roff's.
    for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
        let known = [
            ".TH", ".nh", ".SH", ".TP", ".TQ", ".RS", ".RE", ".PP", ".EX", ".EE",
        ];
        assert!(
            known.contains(&line.split(' ').next().unwrap_or_default()),
            "{line}"
        );
    }
}
