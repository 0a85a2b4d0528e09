//! By the bytes of a registry or an archive: bodies without an end, bytes that drip, entries that
//! are more than they seem. Beside them what looks like an attack and is none: real images have
//! binary attributes, links to layers below, holes and long names.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tank_tests::{Host, RUN, eventually, fixtures, repo};

/// The most memory of a daemon that is attacked, in KiB. An attack offers at least half a GiB.
const MOST_MEMORY: u64 = 200 << 10;

const BLOCK: usize = 512;

fn pod(image: &str) -> String {
    format!("{{ pods.web.containers.app = {{ image = \"{image}\", {RUN} }} }}")
}

/// The most memory that the daemon has had, in KiB.
fn peak_memory(host: &Host) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).expect("a status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("a peak");
    line.split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number")
}

/// The hostile registry, until the test is over.
struct Hostile(Child);

impl Hostile {
    fn start(host: &Host) -> Self {
        let mut python = host.inside("python3");
        python
            .arg(repo().join("tests/fixtures/hostile-registry.py"))
            .arg(&host.dir);
        let hostile = Self(
            python
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("python3"),
        );
        eventually("the hostile registry answers", || {
            host.get("http://127.0.0.1:5000/v2").status == 0
        });
        hostile
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Switches to an image that has to be refused, and gives what is said. Nothing may be left of it.
#[track_caller]
fn refused(host: &Host, image: &str) -> String {
    host.write("bad.ncl", &pod(image));
    let ended = host.tank(&["switch", "bad.ncl"]);
    assert_eq!(ended.status, 1, "{}{}", ended.stdout, ended.stderr);
    // A thread that unpacks removes what it has made after its client was answered.
    eventually("nothing is left", || host.traces().is_empty());
    ended.stderr
}

/// How much of an endless body was taken.
fn sent(host: &Host, name: &str) -> u64 {
    let path = host.dir.join(format!("{name}.sent"));
    eventually("the connection is closed", || path.exists());
    fs::read_to_string(path)
        .expect("a count")
        .parse()
        .expect("a number")
}

#[track_caller]
fn takes_no_more_than_a_document(name: &str, says: &str) {
    let host = Host::new();
    let hostile = Hostile::start(&host);
    let said = refused(&host, &format!("127.0.0.1:5000/{name}"));
    assert!(said.contains(says), "{said}");
    let (memory, sent) = (peak_memory(&host), sent(&host, name));
    assert!(memory < MOST_MEMORY, "the daemon had {memory} KiB");
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    drop(hostile);
    host.finish();
}

#[test]
fn a_manifest_without_an_end_is_not_read_to_it() {
    takes_no_more_than_a_document(
        "endless-manifest",
        "it sends a document of more than 4194304 bytes",
    );
}

#[test]
fn an_error_without_an_end_is_not_read_to_it() {
    takes_no_more_than_a_document("endless-error", "it answers 500 Internal Server Error");
}

#[test]
fn a_token_without_an_end_is_not_read_to_it() {
    takes_no_more_than_a_document(
        "endless-token",
        "it names a giver of tokens, which gives none",
    );
}

#[test]
fn a_redirect_to_itself_ends() {
    let host = Host::new();
    let hostile = Hostile::start(&host);
    let said = refused(&host, "127.0.0.1:5000/redirects");
    assert!(said.contains("it redirects more than 5 times"), "{said}");
    drop(hostile);
    host.finish();
}

#[test]
fn a_layer_that_drips_is_given_up() {
    let host = Host::new();
    let hostile = Hostile::start(&host);
    let said = refused(&host, "127.0.0.1:5000/drip");
    assert!(
        said.contains("sends less than 16 KiB of blob sha256:"),
        "{said}"
    );
    sent(&host, "drip");
    drop(hostile);
    host.finish();
}

/// An archive's header with the right checksum; `more` is written over it from the given places on.
fn header(kind: u8, name: &str, size: u64, more: &[(usize, &[u8])]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let size = format!("{size:011o}");
    let fields: [(usize, &[u8]); 8] = [
        (0, name.as_bytes()),
        (100, b"0000755"),
        (108, b"0000000"),
        (116, b"0000000"),
        (124, size.as_bytes()),
        (136, b"00000000000"),
        (148, b"        "),
        (257, b"ustar  \0"),
    ];
    block[156] = kind;
    for (at, bytes) in fields.iter().chain(more) {
        block[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
    padded
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    [
        header(b'0', name, content.len() as u64, &[]),
        padded(content),
    ]
    .concat()
}

fn link(name: &str, target: &str) -> Vec<u8> {
    header(b'1', name, 0, &[(157, target.as_bytes())])
}

/// A pax record, whose length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..9)
        .map(|digits| rest + digits)
        .find(|all| all.to_string().len() + rest == *all)
        .expect("a length");
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A GNU sparse file of `size` bytes with one block of content at its end.
fn sparse(name: &str, size: u64) -> Vec<u8> {
    // Numbers beyond the octal field's are written in base 256, with the first bit set.
    let number = |value: u64| [&[0x80, 0, 0, 0][..], &value.to_be_bytes()].concat();
    let (offset, length, real) = (
        number(size - BLOCK as u64),
        number(BLOCK as u64),
        number(size),
    );
    let fields: [(usize, &[u8]); 3] = [(386, &offset), (398, &length), (483, &real)];
    [header(b'S', name, BLOCK as u64, &fields), vec![b'x'; BLOCK]].concat()
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 2 * BLOCK]].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip")
        .arg("-1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut input = gzip.stdin.take().expect("stdin");
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).expect("write"));
        gzip.wait_with_output().expect("wait").stdout
    })
}

/// A layer in a few kilobytes: `start`, `count` mebibytes of zeros, `end`.
fn bomb(start: &[u8], count: usize, end: &[u8]) -> Vec<u8> {
    let zeros = gzip(&vec![0; 1 << 20]);
    [gzip(start), zeros.repeat(count), gzip(end)].concat()
}

/// Packs layers on top of BusyBox, as the tag of the layout `DIR/images`. What begins as gzip does
/// is taken for it.
fn pack(host: &Host, tag: &str, layers: &[Vec<u8>]) -> String {
    let paths: Vec<PathBuf> = layers
        .iter()
        .enumerate()
        .map(|(index, layer)| write_layer(host, index, layer))
        .collect();
    pack_files(host, tag, &paths)
}

fn write_layer(host: &Host, index: usize, layer: &[u8]) -> PathBuf {
    let kind = if layer.starts_with(&[0x1f, 0x8b]) {
        "gz"
    } else {
        "tar"
    };
    let path = host.dir.join(format!("layer-{index}.{kind}"));
    fs::write(&path, layer).expect("write");
    path
}

fn pack_files(host: &Host, tag: &str, layers: &[PathBuf]) -> String {
    let mut python = Command::new("python3");
    python
        .arg(repo().join("tests/fixtures/pack.py"))
        .arg(fixtures().join("busybox"))
        .arg(host.dir.join("images"));
    let packed = python.arg(tag).args(layers).output().expect("python3");
    assert!(
        packed.status.success(),
        "{}",
        String::from_utf8_lossy(&packed.stderr)
    );
    format!("oci:./images:{tag}")
}

/// How many bytes of a host's state folder, which has a file system of its own, are used.
fn used(host: &Host) -> u64 {
    let output = host
        .inside("df")
        .args(["--output=used", "-B1"])
        .arg(host.dir.join("state"))
        .output()
        .expect("df");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .last()
        .expect("a line")
        .trim()
        .parse()
        .expect("a number")
}

#[test]
fn a_sparse_entry_of_a_kilobyte_does_not_fill_the_disk() {
    let host = Host::without_daemon()
        .with_state_on("size=256m")
        .started_with(&[]);
    let image = pack(&host, "tebibyte", &[archive(&[sparse("big", 1 << 40)])]);
    let said = refused(&host, &image);
    assert!(
        said.contains("can't unpack `big`: its files have more than 68719476736 bytes"),
        "{said}"
    );
    // Within the bounds it is a file like others, and its hole stays one.
    host.switch(&pod(&pack(
        &host,
        "gibibytes",
        &[archive(&[sparse("big", 32 << 30)])],
    )));
    assert_eq!(
        host.exec(
            "web",
            "stat -c %s /big; tail -c 513 /big | tr -d '\\0' | wc -c"
        ),
        "34359738368\n512"
    );
    assert!(used(&host) < 64 << 20, "{} bytes are used", used(&host));
    host.finish();
}

#[test]
fn names_and_records_of_half_a_gibibyte_take_no_memory() {
    let host = Host::new();
    for (tag, kind) in [
        ("name", b'L'),
        ("link", b'K'),
        ("records", b'x'),
        ("global", b'g'),
    ] {
        let image = pack(
            &host,
            tag,
            &[bomb(
                &header(kind, "x", 512 << 20, &[]),
                512,
                &archive(&[file("f", b"")]),
            )],
        );
        let said = refused(&host, &image);
        assert!(
            said.contains("it is no tar archive: metadata exceeds limit"),
            "{said}"
        );
    }
    let memory = peak_memory(&host);
    assert!(memory < MOST_MEMORY, "the daemon had {memory} KiB");
    host.finish();
}

#[test]
fn folders_by_the_hundred_thousand_take_no_memory() {
    let host = Host::new();
    // Each with a name of 3,500 bytes, all of them together more than the daemon may have.
    let long = format!("{}/", "d".repeat(250)).repeat(13);
    let mut layer = Vec::new();
    for index in 0..60_000 {
        let name = format!("{long}{index:0>230}/");
        layer.extend(header(b'L', "././@LongLink", name.len() as u64 + 1, &[]));
        layer.extend(padded(&[name.as_bytes(), b"\0"].concat()));
        layer.extend(header(b'5', "folder", 0, &[]));
    }
    let image = pack(&host, "many", &[gzip(&archive(&[layer]))]);
    host.switch(&pod(&image));
    assert_eq!(host.exec("web", &format!("ls /{long} | wc -l")), "60000");
    let memory = peak_memory(&host);
    assert!(memory < MOST_MEMORY, "the daemon had {memory} KiB");
    host.finish();
}

#[test]
fn a_layer_does_not_take_the_space_the_store_needs() {
    let host = Host::without_daemon()
        .with_state_on("size=128m")
        .started_with(&[]);
    let image = pack(
        &host,
        "zeros",
        &[bomb(
            &header(b'0', "zeros", 1 << 30, &[]),
            1024,
            &archive(&[]),
        )],
    );
    let said = refused(&host, &image);
    assert!(
        said.contains("15 MiB are free and 16 MiB kept for the store"),
        "{said}"
    );
    host.switch(&pod("oci:./busybox"));
    host.finish();
}

/// Where an image's file lies in the host's image store.
fn unpacked(host: &Host, path: &str) -> PathBuf {
    let layers = fs::read_dir(host.dir.join("state/images/layers")).expect("layers");
    let found = layers
        .map(|layer| layer.expect("a layer").path().join(path))
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no layer has {path}"))
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
        .arg(unpacked(&host, "marked"))
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
        .arg(unpacked(&host, "one"))
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
        let blocks: u64 = host
            .exec("web", "stat -c %b /holes")
            .parse()
            .expect("a number");
        assert!(blocks < 4_096, "{flags:?}: {blocks} blocks");
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
