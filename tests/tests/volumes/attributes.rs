//! Extended attributes: all of them are in an archive, or there is none.

use super::on_disk;
use std::{fs, path::Path, process::Command};
use tank_tests::{Host, RUN, images::image, segment::sh, words};

fn pod(image: &str) -> String {
    format!(
        "{{ pods.db = {{ volumes.data = {{}}, containers.app = {{ image = \"{image}\", {RUN}, stop.signal = \"SIGKILL\",
              mounts.data = {{ volume = \"data\", path = \"/d\" }} }} }} }}"
    )
}

/// Runs a script with `f`, a path, where the host's state is mounted: what it prints.
#[track_caller]
fn python(host: &Host, script: &str, file: &Path) -> String {
    let text = format!("import os, sys, io, tarfile\nf = sys.argv[1]\n{script}\n");
    let path = host.dir.join("script.py");
    fs::write(&path, text).expect("writes");
    let command = format!("python3 {} {}", path.display(), file.display());
    sh(host, &command)
}

/// Each file of a volume with its attributes.
fn attributes(host: &Host, volume: &str) -> String {
    let script = "for n in sorted(os.listdir(f)):\n  p = os.path.join(f, n)\n  print(n, sorted((os.fsencode(a), os.getxattr(p, a)) for a in os.listxattr(p)))";
    python(host, script, &on_disk(host, volume))
}

#[test]
fn attributes_are_kept_or_what_has_them_is_named() {
    let mut host = Host::without_daemon().with_state_on_disk("xfs");
    host.start_daemon();
    let (old, new) = (
        image(&host, "old", "file('v', b'1')"),
        image(&host, "new", "file('v', b'2')"),
    );
    host.switch(&pod(&old));
    let data = on_disk(&host, "data");
    host.exec("db", "cd /d && touch odd much many");
    python(
        &host,
        "for name in [b'user.a=b', b'user.%', b'user.%3D', b'user.\\xff\\xfe', b'user.' + b'n' * 250]:\n  os.setxattr(f, name, b'=\\n' + name)\n\
         os.setxattr(f, 'user.long', b'v' * 65535)",
        &data.join("odd"),
    );
    let tar = host.dir.join("v.tar").display().to_string();
    let export = || {
        let _ = fs::remove_file(&tar);
        host.tank(&["volume", "export", "db/data", "-o", &tar])
    };
    export().ok();
    host.tank(&["volume", "import", "db/copy", &tar]).ok();
    let kept = attributes(&host, "copy");
    assert_eq!(kept, attributes(&host, "data"));
    assert!(
        kept.contains("user.a=b") && kept.contains("user.\\xff\\xfe"),
        "{kept}"
    );
    // GNU tar reads the same of it.
    let listed = Command::new("tar")
        .args(["--xattrs", "-tvvf", &tar])
        .output()
        .expect("tar");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("user.a=b"), "{listed}");
    // A value that an archive has and no file of an image: neither is it written, nor taken for less.
    python(
        &host,
        "os.setxattr(f, 'user.long', b'v' * 65536)",
        &data.join("much"),
    );
    let refused = export();
    assert_eq!(refused.status, 1);
    let said = words(&refused.stderr);
    assert!(
        said.contains(
            "`much`: its attribute `user.long`: it has 65536 bytes, and 65535 are the most"
        ),
        "{said}"
    );
    python(&host, "os.removexattr(f, 'user.long')", &data.join("much"));
    let hand = host.dir.join("hand.tar");
    python(
        &host,
        "t = tarfile.open(f, 'w', format=tarfile.PAX_FORMAT)\ni = tarfile.TarInfo('file')\n\
         i.pax_headers = {'SCHILY.xattr.user.long': 'v' * 65536}\nt.addfile(i, io.BytesIO(b''))\nt.close()",
        &hand,
    );
    let refused = host.tank(&["volume", "import", "db/hand", &hand.display().to_string()]);
    assert_eq!(refused.status, 1);
    let said = words(&refused.stderr);
    assert!(
        said.contains("`file`")
            && said.contains("its attribute `user.long` has 65536 bytes, and 65535 are the most"),
        "{said}"
    );
    // More names than the kernel lists: nobody can have them all.
    python(
        &host,
        "for n in range(300): os.setxattr(f, b'user.%03d' % n + b'n' * 240, b'')",
        &data.join("many"),
    );
    let many = "the names of its attributes have more than 64 KiB";
    let refused = export();
    assert_eq!(refused.status, 1);
    let said = words(&refused.stderr);
    assert!(said.contains("`many`: ") && said.contains(many), "{said}");
    // Nor is a snapshot without them one: the switch goes back.
    host.write("pods.ncl", &pod(&new));
    let failed = host.tank(&["switch", "pods.ncl"]);
    assert_ne!(failed.status, 0);
    let said = words(&failed.stderr);
    assert!(said.contains("\"many\": ") && said.contains(many), "{said}");
    python(&host, "os.remove(f)", &data.join("many"));
    host.tank(&["switch", "pods.ncl"]).ok();
    host.finish();
}
