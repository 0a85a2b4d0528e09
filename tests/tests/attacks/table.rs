//! Through the table of rules, edited or alike.

use super::*;

/// Tank compares the table's content, so it finds and undoes every edit.
#[test]
fn an_edited_table_is_put_right_whatever_its_comments_say() {
    let host = Host::new();
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }},
             publish.a = {{ port = 18080, to = 80 }}, publish.b = {{ port = 18081, to = 81 }} }} }}"
    ));
    let sound = table(&host);
    let load = |text: &str| {
        // That of the bridge stays: `nft` before 1.0.8 has no words for the target of a neighbour's
        // message, and loads none.
        let end = text.find("table bridge").unwrap_or(text.len());
        let text = &text[..end];
        host.write("edited.nft", &format!("delete table inet tank\n{text}\n"));
        sh(&host, &format!("nft -f {}/edited.nft", host.dir.display()));
    };
    let swapped = {
        let mut lines: Vec<&str> = sound.lines().collect();
        let rules: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].contains("dport 1808"))
            .collect();
        lines.swap(rules[0], rules[1]);
        lines.join("\n")
    };
    let first = |from: &str, to: &str| sound.replacen(from, to, 1);
    let edits = [
        ("a guard that accepts", first(" drop ", " accept ")),
        ("a guard for less", first("127.0.0.0/8", "127.0.0.0/16")),
        (
            "a port that leads elsewhere",
            first(":80 comment", ":8 comment"),
        ),
        (
            "a chain that comes later",
            first("priority raw", "priority 50"),
        ),
        ("a chain that drops", first("policy accept", "policy drop")),
        ("rules in another order", swapped),
        (
            "a rule more",
            first("\t\tiifname", "\t\ttcp dport 9 accept\n\t\tiifname"),
        ),
        ("a rule twice", {
            let line = sound
                .lines()
                .find(|line| line.contains("dport 18080"))
                .expect("a rule");
            first(line, &format!("{line}\n{line}"))
        }),
    ];
    for (what, text) in edits {
        assert_ne!(text, sound, "{what}: nothing is edited");
        load(&text);
        eventually(what, || table(&host) == sound);
    }
    for (what, command) in [
        (
            "a table that sleeps",
            "nft 'add table inet tank { flags dormant; }'",
        ),
        ("a chain more", "nft add chain inet tank mine"),
        (
            "a set more",
            "nft 'add set inet tank mine { type ipv4_addr; }'",
        ),
        (
            "a sender more",
            "nft add element bridge tank senders4 '{ 0x746b0002 . 02:74:6b:00:00:02 . 10.90.0.9 }'",
        ),
        ("no senders", "nft flush set bridge tank senders6"),
        ("no table of the bridge", "nft delete table bridge tank"),
    ] {
        sh(&host, command);
        eventually(what, || table(&host) == sound);
    }
    host.finish();
}

#[test]
fn long_names_and_ipv6_do_not_make_rules_alike() {
    let host = Host::new();
    let (pod, publish) = ("p".repeat(63), "n".repeat(62));
    let container = format!("containers.app = {{ image = \"oci:./busybox\", {RUN} }}");
    let address = "address = \"2001:db8:1111:2222:3333:4444:5555:6666\"";
    host.switch(&format!(
        "{{ pods.{pod} = {{ {container}, publish = {{
             {publish}1 = {{ port = 18080, to = 80, {address} }}, {publish}2 = {{ port = 18080, to = 80 }},
             {publish}3 = {{ port = 18081, to = 18080, {address} }}, {publish}4 = {{ port = 18081, to = 18081, {address}, protocol = 'udp }},
             {publish}5 = {{ port = 18082, to = 18081, address = \"::\" }} }} }} }}"
    ));
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    assert_eq!(
        table(&host).matches("dport 1808").count(),
        4 * 2 + 1,
        "one on loopback is for the host alone"
    );
    host.finish();
}
