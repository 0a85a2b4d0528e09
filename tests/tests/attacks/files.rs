//! What looks like an attack and is none: attributes, links, holes, long names.

use super::*;
use std::os::unix::fs::MetadataExt;

/// Where a container's file is for the host's root.
fn shown(host: &Host, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root/{path}", host.pid("web", "app")))
}

#[test]
fn an_attribute_may_hold_a_line_feed() {
    let host = Host::new();
    let value = b"\x00\x01\n25 path=etc/passwd\n\xff\xfe\n";
    let pax = record("SCHILY.xattr.user.binary", value);
    let entry = [
        header(b'x', "pax", pax.len() as u64, &[]),
        padded(&pax),
        file("marked", b"content"),
    ]
    .concat();
    host.switch(&pod(&pack(&host, "binary", &[archive(&[entry])])));
    assert_eq!(host.exec("web", "cat /marked"), "content");
    let script = "import os, sys; sys.stdout.buffer.write(os.getxattr(sys.argv[1], 'user.binary'))";
    let read = Command::new("python3")
        .args(["-c", script])
        .arg(shown(&host, "marked"))
        .output()
        .expect("python3");
    assert_eq!(read.stdout, value);
    host.finish();
}

#[test]
fn a_link_to_a_file_of_a_lower_layer_is_that_file() {
    let host = Host::new();
    let pax = record("SCHILY.xattr.user.of", b"below");
    let lower = |content: &[u8]| {
        let marked = [
            header(b'x', "pax", pax.len() as u64, &[]),
            padded(&pax),
            header(
                b'0',
                "data",
                5,
                &[(100, b"0004640"), (108, b"0001750"), (136, b"00000000017")],
            ),
        ];
        archive(&[marked.concat(), padded(content), file("hidden", b"no")])
    };
    let whiteout = archive(&[file(".wh.hidden", b"")]);
    let upper = archive(&[
        link("one", "data"),
        link("two", "./data"),
        link("sh2", "bin/busybox"),
    ]);
    let image = pack(
        &host,
        "first",
        &[lower(b"first"), whiteout.clone(), upper.clone()],
    );
    host.switch(&pod(&image));
    let look = "cat /one /two; stat -c '%a %u %Y' /one; [ /one -ef /two ] && echo same; cmp /bin/busybox /sh2 && echo equal";
    assert_eq!(
        host.exec("web", look),
        "firstfirst4640 1000 15\nsame\nequal"
    );
    let script = "import os, sys; sys.stdout.buffer.write(os.getxattr(sys.argv[1], 'user.of'))";
    let read = Command::new("python3")
        .args(["-c", script])
        .arg(shown(&host, "one"))
        .output()
        .expect("python3");
    assert_eq!(read.stdout, b"below");
    // The same layer on top of another one is another layer: links are to what lies below.
    host.switch(&pod(&pack(
        &host,
        "second",
        &[lower(b"other"), whiteout.clone(), upper],
    )));
    assert_eq!(host.exec("web", "cat /one /two"), "otherother");
    host.switch(&pod(&image));
    assert_eq!(host.exec("web", "cat /one /two"), "firstfirst");
    host.finish();
}

#[test]
fn a_link_to_what_no_layer_shows_is_refused() {
    let host = Host::new();
    let lower = archive(&[
        file("hidden", b"no"),
        header(b'5', "dir/", 0, &[]),
        file("dir/inner", b"no"),
    ]);
    let whiteouts = archive(&[
        file(".wh.hidden", b""),
        header(b'5', "dir/", 0, &[]),
        file("dir/.wh..wh..opq", b""),
    ]);
    let refusals = [
        ("hidden", "hidden"),
        ("inner", "dir/inner"),
        ("none", "nowhere/at/all"),
        ("folder", "dir"),
    ];
    for (tag, target) in refusals {
        let upper = archive(&[link("new", target)]);
        let said = refused(
            &host,
            &pack(&host, tag, &[lower.clone(), whiteouts.clone(), upper]),
        );
        let expected = if tag == "folder" {
            "nothing to link to"
        } else {
            "its image has no"
        };
        assert!(
            said.contains("can't unpack `new`") && said.contains(expected),
            "{said}"
        );
    }
    // Nor does a link on the way lead out of the image.
    fs::write(host.dir.join("secret"), "secret").expect("write");
    let way = archive(&[header(
        b'2',
        "way",
        0,
        &[(157, host.dir.display().to_string().as_bytes())],
    )]);
    let said = refused(
        &host,
        &pack(&host, "way", &[way, archive(&[link("new", "way/secret")])]),
    );
    assert!(
        said.contains("its image has no `way/secret` to link to"),
        "{said}"
    );
    host.finish();
}

/// Packs a folder with GNU tar.
fn tar(host: &Host, flags: &[&str], name: &str, folder: &Path) -> PathBuf {
    let path = host.dir.join(format!("{name}.tar"));
    let mut tar = Command::new("tar");
    tar.arg("--create")
        .args(flags)
        .arg("--file")
        .arg(&path)
        .arg("--directory")
        .arg(folder)
        .arg(".");
    assert!(tar.status().expect("tar").success());
    path
}

#[test]
fn files_with_holes_come_out_as_they_went_in() {
    let host = Host::new();
    let folder = host.dir.join("holes");
    fs::create_dir(&folder).expect("a folder");
    // More pieces than a header has places for.
    let script = "for i in 0 3 4 9 20 21 35 60 61 90 91 92; do \
                  echo piece $i | dd of=holes bs=64k seek=$i conv=notrunc status=none; done; truncate -s 8M holes";
    assert!(
        Command::new("sh")
            .args(["-c", script])
            .current_dir(&folder)
            .status()
            .expect("sh")
            .success()
    );
    let sum = Command::new("sha256sum")
        .stdin(fs::File::open(folder.join("holes")).expect("open"))
        .output();
    let sum = String::from_utf8_lossy(&sum.expect("sha256sum").stdout).into_owned();
    for flags in [
        &["--sparse", "--format=gnu"][..],
        &["--sparse", "--format=pax", "--sparse-version=0.0"],
        &["--sparse", "--format=pax", "--sparse-version=0.1"],
        &["--sparse", "--format=pax", "--sparse-version=1.0"],
    ] {
        let tag = flags.join("").replace(['-', '=', '.'], "");
        let layer = tar(&host, flags, &tag, &folder);
        assert!(
            fs::metadata(&layer).expect("a layer").len() < 1 << 20,
            "{flags:?}: no holes in the archive"
        );
        host.switch(&pod(&pack_files(&host, &tag, &[layer])));
        assert_eq!(
            host.exec("web", "sha256sum < /holes"),
            sum.trim_end(),
            "{flags:?}"
        );
        let layers = fs::read_dir(host.dir.join("state/images/layers")).expect("layers");
        let largest = layers
            .map(|layer| layer.expect("a layer").metadata().expect("it is there"))
            .max_by_key(fs::Metadata::len)
            .expect("a layer");
        assert!(
            largest.len() > 8 << 20,
            "{flags:?}: {} bytes",
            largest.len()
        );
        assert!(
            largest.blocks() < 4_096,
            "{flags:?}: {} blocks",
            largest.blocks()
        );
    }
    host.finish();
}

#[test]
fn a_name_may_be_long() {
    let host = Host::new();
    let folder = host.dir.join("long");
    let path = format!("{}/", "n".repeat(249)).repeat(15) + &"f".repeat(240);
    // Longer than a path of the host's may be, so one step after the other.
    let script = format!(
        "mkdir {0} && cd {0} && for i in $(seq 15); do mkdir {1} && cd {1}; done && printf content > {2}",
        folder.display(),
        "n".repeat(249),
        "f".repeat(240)
    );
    assert!(
        Command::new("sh")
            .args(["-c", &script])
            .status()
            .expect("sh")
            .success()
    );
    for format in ["gnu", "pax"] {
        let layer = tar(&host, &[&format!("--format={format}")], format, &folder);
        host.switch(&pod(&pack_files(&host, format, &[layer])));
        assert_eq!(
            host.exec("web", &format!("cat /{path}")),
            "content",
            "{format}"
        );
    }
    host.finish();
}
