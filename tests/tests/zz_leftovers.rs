//! Runs last (test programs run in the order of their names): nothing of Tank's is left on this
//! machine.

use std::process::Command;

fn lines(script: &str) -> Vec<String> {
    let output = Command::new("sh")
        .args(["-c", script])
        .output()
        .expect("sh");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn nothing_is_left() {
    let empty = Vec::<String>::new();
    // By what the tests name their own. Links and rules have no such name: they are looked for in
    // this machine's own network namespace, where no test works, so a machine that runs the tests
    // runs no Tank of its own.
    assert_eq!(
        lines("find /sys/fs/cgroup -maxdepth 2 -type d -name 'tank-t-*'"),
        empty,
        "cgroups"
    );
    assert_eq!(lines("ls -d /tmp/tank-t-* 2>/dev/null"), empty, "folders");
    assert_eq!(lines("grep -E 'tank-t-' /proc/mounts"), empty, "mounts");
    assert_eq!(
        lines("ps -eo pid,args | grep -E '[t]ank-t-[0-9]'"),
        empty,
        "processes with a test host's folder"
    );
    // A shim's environment and arguments do not name its host: its open log folder does.
    assert_eq!(
        lines(
            "for p in /proc/[0-9]*; do readlink $p/fd/* 2>/dev/null | grep -q '/tmp/tank-t-' && echo $p; done"
        ),
        empty,
        "processes"
    );
    assert_eq!(
        lines("ip -oneline link | grep -E ': (tank0|tk[0-9]+)'"),
        empty,
        "links"
    );
    assert_eq!(lines("nft list tables | grep -w tank"), empty, "rules");
}
