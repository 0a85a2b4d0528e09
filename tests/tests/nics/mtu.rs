//! The longest packet of pods on the bridge.

use super::{on_host, sh};
use std::fs;
use tank_tests::{Host, eventually, sleeper};

fn mtu(text: &str) -> u64 {
    let found: serde_json::Value = serde_json::from_str(text).expect("JSON");
    found[0]["mtu"].as_u64().expect("a number")
}

/// On a host whose uplink takes less than Ethernet does, pods say so to whoever they speak to.
#[test]
fn is_what_the_settings_say() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("a")));
    let link = |host: &Host| mtu(&sh(super::pid(host, "a"), "ip -j link show dev eth0"));
    let bridge = |host: &Host| mtu(&on_host(host, "ip -j link show dev tank0"));
    assert_eq!((link(&host), bridge(&host)), (1500, 1500));
    host.kill_daemon();
    let settings = host.dir.join("tank.toml");
    let text = fs::read_to_string(&settings).expect("settings");
    fs::write(&settings, format!("{text}mtu = 1400\n")).expect("settings");
    host.start_daemon();
    // Pods that run get it, too, and keep it.
    eventually("the links follow", || {
        (link(&host), bridge(&host)) == (1400, 1400)
    });
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    sh(super::pid(&host, "a"), "ip link set eth0 mtu 1500");
    eventually("it is repaired", || link(&host) == 1400);
    host.switch(&format!("{{ {} {} }}", sleeper("a"), sleeper("b")));
    assert_eq!(
        mtu(&sh(super::pid(&host, "b"), "ip -j link show dev eth0")),
        1400
    );
    fs::write(&settings, text).expect("settings");
    host.kill_daemon();
    host.start_daemon();
    eventually("the links follow", || {
        (link(&host), bridge(&host)) == (1500, 1500)
    });
    host.finish();
}
