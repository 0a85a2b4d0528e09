//! Layers as the kernel shows them: real archives, real attributes and real mounts, so these tests
//! run as root. Each packs images into a layout of its own and pulls them.

#[path = "layers/umoci.rs"]
mod umoci;

use rustix::fs::{OFlags, ResolveFlags};
use std::{
    fs,
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tank_image::{Converter, ImageConfig, Images, Registries};
use tank_model::Digest;
use tank_sys::mount::{self, Way};

const BLOCK: usize = 512;

/// Whom the tests' layers are converted by.
fn converter() -> Converter {
    Converter {
        program: env!("CARGO_BIN_EXE_tank-layer").into(),
        id: 3_000_000_000,
    }
}

/// An entry of an archive: its type (`0` file, `2` symbolic link, `5` directory, `6` FIFO, `3` a
/// device), its name, and its content or where it leads.
type Entry<'e> = (u8, &'e str, &'e str);

fn dir(name: &str) -> Entry<'_> {
    (b'5', name, "")
}

fn file<'e>(name: &'e str, content: &'e str) -> Entry<'e> {
    (b'0', name, content)
}

fn link<'e>(name: &'e str, to: &'e str) -> Entry<'e> {
    (b'2', name, to)
}

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, text) in entries {
        let (content, to) = if matches!(*kind, b'1' | b'2') {
            ("", *text)
        } else {
            (*text, "")
        };
        let mut block = vec![0; BLOCK];
        let size = format!("{:011o}", content.len());
        let fields: [(usize, &[u8]); 10] = [
            (0, name.as_bytes()),
            (100, b"0000755"),
            (108, b"0000000"),
            (116, b"0000000"),
            (124, size.as_bytes()),
            (136, b"00000000000"),
            (148, b"        "),
            (157, to.as_bytes()),
            (257, b"ustar  \0"),
            // The null device's numbers.
            (329, b"0000001\x000000003"),
        ];
        block[156] = *kind;
        for (at, field) in fields {
            block[at..at + field.len()].copy_from_slice(field);
        }
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(block);
        bytes.extend(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

/// A store and a layout, in a folder that goes with this.
struct Place {
    folder: PathBuf,
    images: Images,
}

impl Place {
    fn new(name: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "layers are made and mounted: run it as root"
        );
        let folder =
            std::env::temp_dir().join(format!("tank-layers-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("layout/blobs/sha256")).expect("a folder");
        let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(folder.join("layout/oci-layout"), version).expect("writes");
        let images = Images::open(&folder.join("store"), Registries::default(), converter())
            .expect("a store");
        Self { folder, images }
    }

    fn blob(&self, bytes: &[u8]) -> (Digest, usize) {
        let digest = Digest::of(bytes);
        let path = self.folder.join("layout/blobs/sha256").join(digest.hex());
        fs::write(path, bytes).expect("writes");
        (digest, bytes.len())
    }

    /// Packs an image of these layers, with `config` as its `config`, and pulls it.
    fn pull(&self, config: &str, layers: &[Vec<u8>]) -> Digest {
        let ids: Vec<String> = layers
            .iter()
            .map(|layer| format!(r#""{}""#, Digest::of(layer)))
            .collect();
        let arch = oci_spec::image::Arch::default();
        let config = format!(
            r#"{{"architecture":"{arch}","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            ids.join(",")
        );
        let described = |kind: &str, (digest, size): (Digest, usize)| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#
            )
        };
        let layers: Vec<String> = layers
            .iter()
            .map(|layer| described("layer.v1.tar", self.blob(layer)))
            .collect();
        let config = described("config.v1+json", self.blob(config.as_bytes()));
        let layers = layers.join(",");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
        let manifest = described("manifest.v1+json", self.blob(manifest.as_bytes()));
        // Others find it by a tag.
        let tag = r#","annotations":{"org.opencontainers.image.ref.name":"it"}}"#;
        let manifest = format!("{}{tag}", manifest.trim_end_matches('}'));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
        fs::write(self.folder.join("layout/index.json"), index).expect("writes");
        let reference = format!("oci:{}/layout", self.folder.display());
        let reference = reference.parse().expect("a reference");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime
            .block_on(self.images.pull(&reference, None, None))
            .expect("it is pulled")
    }

    fn config_of(&self, layers: &[Vec<u8>]) -> Arc<ImageConfig> {
        let digest = self.pull("{}", layers);
        self.images.config(&digest).expect("a configuration")
    }

    /// What the layers show together.
    fn shows(&self, layers: &[Vec<u8>]) -> Shown {
        let (layers, [upper, work, places]) = self.opened(layers);
        Shown(mount::overlay(&layers, &upper, &work, &places).expect("mounts"))
    }

    /// The same, made in one of the ways of older kernels.
    fn shows_by(&self, way: Way, layers: &[Vec<u8>]) -> Shown {
        let (layers, [upper, work, places]) = self.opened(layers);
        let made = mount::overlay_by(&[way], &layers, (&upper, &work), &places);
        Shown(made.expect("mounts").1)
    }

    /// Layers, and empty folders to mount them with.
    fn opened(&self, layers: &[Vec<u8>]) -> (Vec<OwnedFd>, [PathBuf; 3]) {
        let image = self.images.find(self.pull("{}", layers)).expect("an image");
        let open = |layer| self.images.mounts().open(layer);
        let layers: Result<Vec<OwnedFd>, _> = image.layers.iter().map(open).collect();
        let scratch = ["upper", "work", "places"].map(|name| self.folder.join(name));
        for dir in &scratch[..2] {
            let _ = tank_sys::remove::tree(dir);
            fs::create_dir_all(dir).expect("makes");
        }
        (layers.expect("opens"), scratch)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = tank_sys::remove::tree(&self.folder);
    }
}

/// The root of a mounted image.
struct Shown(OwnedFd);

impl Shown {
    fn names(&self, dir: &str) -> Vec<String> {
        let resolve = ResolveFlags::IN_ROOT;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = rustix::fs::openat2(
            self.0.as_fd(),
            dir,
            flags,
            rustix::fs::Mode::empty(),
            resolve,
        )
        .expect("a directory");
        let mut names: Vec<String> = rustix::fs::Dir::read_from(&dir)
            .expect("lists")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|name| name != "." && name != "..")
            .collect();
        names.sort();
        names
    }

    fn text(&self, path: &str) -> String {
        let mut text = String::new();
        fs::File::from(mount::open_in_root(self.0.as_fd(), path, OFlags::RDONLY).expect("opens"))
            .read_to_string(&mut text)
            .expect("reads");
        text
    }
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("mounts")
}

#[test]
fn a_whiteout_and_a_directory_of_one_layer_hide_what_lies_below_in_either_order() {
    let place = Place::new("opaque");
    let lower = archive(&[
        dir("foo"),
        file("foo/secret", "old"),
        file("beside", "stays"),
    ]);
    let hidden = [
        [file(".wh.foo", ""), dir("foo"), file("foo/new", "new")],
        [dir("foo"), file(".wh.foo", ""), file("foo/new", "new")],
        [dir("foo"), file("foo/new", "new"), file(".wh.foo", "")],
        // Twice, and a file between them.
        [file(".wh.foo", ""), file("foo", ""), dir("foo")],
    ];
    for entries in &hidden {
        let shown = place.shows(&[lower.clone(), archive(entries)]);
        let names = shown.names("foo");
        assert!(
            !names.contains(&"secret".to_owned()),
            "{entries:?}: {names:?}"
        );
        assert!(
            names.iter().all(|name| name == "new"),
            "{entries:?}: {names:?}"
        );
        assert_eq!(shown.names("."), ["beside", "foo"], "{entries:?}");
    }
    // A directory that no entry of its own names, as many archivers write it.
    let implied = [file(".wh.foo", ""), file("foo/deep/new", "new")];
    let shown = place.shows(&[lower.clone(), archive(&implied)]);
    assert_eq!(shown.names("foo"), ["deep"]);
    assert_eq!(shown.text("foo/deep/new"), "new");
    // Without a whiteout both are shown, and a whiteout alone hides all of it.
    let merged = place.shows(&[
        lower.clone(),
        archive(&[dir("foo"), file("foo/new", "new")]),
    ]);
    assert_eq!(merged.names("foo"), ["new", "secret"]);
    let gone = place.shows(&[lower, archive(&[file(".wh.foo", "")])]);
    assert_eq!(gone.names("."), ["beside"]);
}

#[test]
fn a_whiteout_does_not_hide_a_file_of_its_own_layer() {
    let place = Place::new("own");
    let lower = archive(&[file("foo", "old"), file("gone", "old")]);
    for entries in [
        [
            file("foo", "new"),
            file(".wh.foo", ""),
            file(".wh.gone", ""),
        ],
        [
            file(".wh.foo", ""),
            file("foo", "new"),
            file(".wh.gone", ""),
        ],
    ] {
        let shown = place.shows(&[lower.clone(), archive(&entries)]);
        assert_eq!(shown.names("."), ["foo"], "{entries:?}");
        assert_eq!(shown.text("foo"), "new", "{entries:?}");
    }
    // Nor does an entry go through a file because a whiteout is near.
    let through = archive(&[
        file("foo", "new"),
        file(".wh.foo", ""),
        file("foo/inner", ""),
    ]);
    let pulled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        place.shows(&[lower, through]);
    }));
    assert!(pulled.is_err(), "a file is no directory");
}

#[test]
fn an_image_says_how_it_is_run_and_who_its_users_are() {
    let place = Place::new("config");
    let lower = archive(&[
        dir("etc"),
        file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        file("etc/group", "root:x:0:\n"),
    ]);
    let upper = archive(&[dir("etc"), file("etc/group", "wheel:x:10:\n")]);
    let config = r#"{"Entrypoint":["/init"],"Cmd":["-v"],"Env":["A=1"],"User":"app:wheel","WorkingDir":"/srv","StopSignal":"SIGQUIT"}"#;
    let digest = place.pull(config, &[lower.clone(), upper.clone()]);
    let expected = ImageConfig {
        entrypoint: vec!["/init".to_owned()],
        cmd: vec!["-v".to_owned()],
        env: vec!["A=1".to_owned()],
        user: Some("app:wheel".to_owned()),
        working_dir: Some("/srv".to_owned()),
        stop_signal: Some("SIGQUIT".to_owned()),
        passwd: "root:x:0:0::/root:/bin/sh\n".to_owned(),
        group: "wheel:x:10:\n".to_owned(),
    };
    let before = mounts();
    let found = place.images.config(&digest).expect("a configuration");
    assert_eq!(*found, expected);
    assert_eq!(mounts(), before, "nothing is in the mount table");
    let again = place.images.config(&digest).expect("a configuration");
    assert!(Arc::ptr_eq(&found, &again), "it is from the cache");
    // One layer alone, and one that says nothing.
    assert_eq!(
        place.config_of(std::slice::from_ref(&lower)).group,
        "root:x:0:\n"
    );
    assert_eq!(
        *place.config_of(&[archive(&[dir("etc")])]),
        ImageConfig::default()
    );
    // What was hidden is not there.
    let hidden = archive(&[file("etc/.wh.passwd", "")]);
    let config = place.config_of(&[lower.clone(), hidden]);
    assert_eq!(
        (config.passwd.as_str(), config.group.as_str()),
        ("", "root:x:0:\n")
    );
    let hidden = archive(&[file(".wh.etc", "")]);
    assert_eq!(*place.config_of(&[lower, hidden]), ImageConfig::default());
}

#[test]
fn an_image_may_have_as_many_layers_as_tank_takes() {
    let place = Place::new("many");
    let layer = |index: usize| {
        let content = format!("user{index}:x:0:0::/:/\n");
        archive(&[
            file("etc/passwd", &content),
            file(&format!("layer{index}"), ""),
        ])
    };
    let layers: Vec<Vec<u8>> = (0..tank_image::MAX_LAYERS).map(layer).collect();
    let config = place.config_of(&layers);
    assert_eq!(config.passwd, "user255:x:0:0::/:/\n");
}

#[test]
fn users_behind_hostile_links_are_none_of_the_hosts() {
    let place = Place::new("hostile");
    let host = place.folder.join("host");
    fs::write(&host, "host:x:0:0::/:/\n").expect("writes");
    let host = host.display().to_string();
    let up = format!("../../../../../../../../..{host}");
    let passwd = "etc/passwd";
    let hostile: [&[Entry<'_>]; 10] = [
        &[link("etc", "/proc/self")],
        &[link("etc", "/proc/1/root/etc")],
        &[link("etc", "/etc")],
        &[link("etc", "..")],
        &[link(passwd, &host)],
        &[link(passwd, &up)],
        &[link(passwd, "/proc/self/environ")],
        &[(b'6', passwd, "")],
        &[(b'3', passwd, ""), file(".wh.passwd", "")],
        &[dir("etc"), dir(passwd)],
    ];
    let below = archive(&[dir("proc"), file("beside", "")]);
    for entries in hostile {
        let begun = Instant::now();
        // Alone, and on top of another layer.
        for layers in [
            vec![archive(entries)],
            vec![below.clone(), archive(entries)],
        ] {
            assert_eq!(
                *place.config_of(&layers),
                ImageConfig::default(),
                "{entries:?}"
            );
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{entries:?}");
    }
    // A link within the image is its own affair, absolute or not.
    let within = [file("usr/lib/passwd", "own"), link("etc", "/usr/lib")];
    assert_eq!(place.config_of(&[archive(&within)]).passwd, "own");
    let within = [
        file("usr/lib/group", "own"),
        link("etc/group", "../../usr/lib/group"),
    ];
    assert_eq!(place.config_of(&[below, archive(&within)]).group, "own");
}

#[test]
fn a_list_of_users_without_an_end_is_read_to_a_mebibyte() {
    let place = Place::new("endless");
    let long = "x".repeat(3 << 20);
    let config = place.config_of(&[archive(&[file("etc/passwd", &long)])]);
    assert_eq!(config.passwd.len(), 1 << 20);
    assert!(Path::new(&place.folder).is_dir());
}

/// Pods of stacks have a colon in their folders' names, and what mounts for older kernels separates layers by
/// colons and options by commas.
#[test]
fn layers_are_the_same_in_every_way_that_a_kernel_has() {
    let place = Place::new("ways:a,b=c");
    let layer = |number: usize| {
        archive(&[
            file("topmost", &number.to_string()),
            file(&format!("of-{number:03}"), &number.to_string()),
        ])
    };
    let layers: Vec<Vec<u8>> = (0..150).map(layer).collect();
    let attached = || mounts().contains("tank-layers-ways");
    for way in Way::ALL {
        let shown = place.shows_by(way, &layers);
        assert_eq!(shown.text("topmost"), "149", "{way:?}");
        let names = shown.names(".");
        let own: Vec<String> = (0..150).map(|number| format!("of-{number:03}")).collect();
        assert_eq!(names[..150], own, "{way:?}");
        assert!(!attached(), "{way:?} leaves nothing");
        let written = rustix::fs::openat(
            shown.0.as_fd(),
            "written",
            OFlags::CREATE | OFlags::WRONLY,
            rustix::fs::Mode::RUSR,
        );
        written.expect("the overlay is written to");
        assert!(place.folder.join("upper/written").exists(), "{way:?}");
    }
    // More than the page of options takes is refused, not cut off.
    let (many, [upper, work, places]) = place.opened(&(0..250).map(layer).collect::<Vec<_>>());
    let refused = mount::overlay_by(&[Way::Options], &many, (&upper, &work), &places);
    let refused = refused.map(drop).expect_err("250 layers");
    assert_eq!(
        refused.to_string(),
        "mount 250 layers on a kernel before 6.8"
    );
    assert!(!attached());
}

/// What `find` says of each entry below a folder, but for the sizes and counts of directories, which
/// are each file system's own.
fn listed(at: &Path) -> Vec<String> {
    let script = "find . -mindepth 1 \\( -type d -printf '%P|%y|%m|%U|%G|%T@\\n' \\) -o -printf '%P|%y|%m|%U|%G|%T@|%s|%n|%l\\n'; \
                  find . -type f -print0 | sort -z | xargs -0 sha256sum; getfattr -Rhd -m '^user' . 2> /dev/null";
    let listed = Command::new("sh")
        .args(["-c", script])
        .current_dir(at)
        .output();
    let listed = listed.expect("sh");
    assert!(listed.status.success() && !listed.stdout.is_empty());
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Runs a script in a folder.
fn run(script: &str, at: &Path) {
    let mut sh = Command::new("sh");
    let ended = sh.args(["-ec", script]).current_dir(at).status();
    assert!(ended.expect("sh").success(), "{}", at.display());
}

/// A folder as GNU tar packs it.
fn packed(from: &Path, more: &[&str]) -> Vec<u8> {
    let tar = Command::new("tar")
        .args(["--create", "--format=pax", "--xattrs", "--numeric-owner"])
        .args(more)
        .arg("--directory")
        .arg(from)
        .arg(".")
        .output()
        .expect("tar");
    let stderr = String::from_utf8_lossy(&tar.stderr);
    assert!(tar.status.success(), "{stderr}");
    tar.stdout
}

/// A folder with what archives have, as GNU tar packs it, and some thousand files of the host's own.
#[test]
fn a_layer_shows_what_was_packed() {
    let place = Place::new("packed");
    let from = place.folder.join("from");
    fs::create_dir_all(&from).expect("a folder");
    let script = r#"
        cp -a /usr/lib/python3* . && find . -name __pycache__ -prune -exec rm -r {} +
        mkdir -p d/empty; chmod 1777 d/empty; printf x > d/one; ln d/one d/two; ln d/one three; chmod 4750 d/one; chown 1000:2000 d/one
        ln -s d/one sym; ln -s /absolute/$(printf 'l%.0s' $(seq 200)) long; ln -s nowhere dangling; chown -h 5:6 sym; mkfifo -m 640 pipe
        for size in 1 4000 4031 4032 4033 4095 4096 4097 8192 12345 1048577; do head -c $size /dev/urandom > size-$size; done
        truncate -s 5M holes; printf end >> holes; : > nothing
        touch -d '1969-12-31 23:59:58.5 UTC' before; touch -d '2120-02-03 04:05:06.123456789 UTC' after
        name=$(printf 'n%.0s' $(seq 255)); : > "$name"; mkdir -p "$name.d" 2>/dev/null || mkdir many; mkdir -p many
        for i in $(seq 3000); do : > many/file-with-a-name-of-some-length-$i; done
        printf 'a b\n\377' > "$(printf 'odd\tname\377')"
        setfattr -n user.text -v hello d/one; setfattr -n user.empty d; setfattr -n user.long -v "$(head -c 3000 /dev/zero | tr '\0' v)" nothing"#;
    run(script, &from);
    let shown = place.shows(&[packed(&from, &["--sparse"])]);
    let at = PathBuf::from(format!("/proc/self/fd/{}", shown.0.as_raw_fd()));
    let (expected, found) = (listed(&from), listed(&at));
    assert!(expected.len() > 4_000, "{}", expected.len());
    let missing: Vec<&String> = expected
        .iter()
        .filter(|line| found.binary_search(line).is_err())
        .collect();
    let strange: Vec<&String> = found
        .iter()
        .filter(|line| expected.binary_search(line).is_err())
        .collect();
    assert!(
        missing.is_empty() && strange.is_empty(),
        "missing {missing:#?}, strange {strange:#?}"
    );
    // Nor does the tool of EROFS itself find anything wrong.
    for layer in fs::read_dir(place.folder.join("store/layers")).expect("layers") {
        let layer = layer.expect("a layer").path();
        if layer.extension().is_none_or(|end| end != "erofs") {
            continue;
        }
        let checked = Command::new("fsck.erofs")
            .arg(&layer)
            .output()
            .expect("fsck.erofs");
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(
            checked.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&checked.stdout)
        );
    }
}

/// The bytes of a file that are in the page cache.
fn cached(path: &Path) -> u64 {
    let found = Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .arg(path)
        .output()
        .expect("fincore");
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    text.trim().parse().unwrap_or_else(|_| panic!("{text}"))
}

#[test]
fn what_is_read_of_a_layer_is_in_memory_once() {
    const SIZE: usize = 16 << 20;
    let place = Place::new("cached");
    let content: String = (0..SIZE / 8)
        .map(|number| format!("{number:07}\n"))
        .collect();
    let shown = place.shows(&[archive(&[file("content", &content)])]);
    let layers = fs::read_dir(place.folder.join("store/layers")).expect("layers");
    let mut layers = layers.map(|layer| layer.expect("a layer").path());
    let layer = layers.find(|layer| layer.extension().is_some_and(|end| end == "erofs"));
    let layer = layer.expect("an image");
    // It was written a moment ago.
    let opened = fs::File::open(&layer).expect("opens");
    rustix::fs::fadvise(&opened, 0, None, rustix::fs::Advice::DontNeed).expect("lets go");
    let before = cached(&layer);
    assert!(before < SIZE as u64 / 4, "{before} bytes stay in memory");
    assert!(shown.text("content") == content, "the content is another");
    let flags = OFlags::RDONLY;
    let read = mount::open_in_root(shown.0.as_fd(), "content", flags).expect("opens");
    let path = PathBuf::from(format!("/proc/self/fd/{}", read.as_raw_fd()));
    let read = fs::File::open(path).expect("opens");
    let own = format!("/proc/{}/fd/{}", std::process::id(), read.as_raw_fd());
    assert!(cached(Path::new(&own)) >= SIZE as u64, "the mount keeps it");
    let after = cached(&layer);
    assert!(after < SIZE as u64 / 4, "{after} bytes are there twice");
}
