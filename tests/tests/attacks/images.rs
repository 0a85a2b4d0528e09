//! By the bytes of a registry or an archive: bodies without an end, bytes that drip, entries that
//! are more than they seem. Beside them what looks like an attack and is none: real images have
//! binary attributes, links to layers below, holes and long names.

#[path = "files.rs"]
mod files;
#[path = "layers.rs"]
mod layers;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tank_tests::{Host, RUN, eventually, fixtures, repo, sleeper, words};

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
    words(&ended.stderr)
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
    bomb_of(0, start, count, end)
}

/// The same, of another byte: nothing of it is a hole.
fn bomb_of(fill: u8, start: &[u8], count: usize, end: &[u8]) -> Vec<u8> {
    let filled = gzip(&vec![fill; 1 << 20]);
    [gzip(start), filled.repeat(count), gzip(end)].concat()
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
        "ones",
        &[bomb_of(
            1,
            &header(b'0', "ones", 1 << 30, &[]),
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
