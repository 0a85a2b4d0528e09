//! What `tank.toml` may say, and the README's table of it.

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

/// The README's table has every key with its default, and each line of it is read.
#[test]
fn the_readme_has_every_key_with_its_default() {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("run by cargo");
    let readme = std::fs::read_to_string(format!("{package}/../../README.md"));
    let readme = readme.expect("the README");
    let table = readme
        .split("| key | default | |")
        .nth(1)
        .expect("the table");
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
    let read: Config = toml::from_str(&text).expect("what the README says is read");
    assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
    // Debug shows each field of the configuration: none is left out.
    assert_eq!(text.lines().count(), 14, "{text}");
}
