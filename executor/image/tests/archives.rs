//! Images in archives: what `docker save` writes, OCI image layouts, and what is neither. Layers are
//! converted, so these tests run as root.

use oci_spec::image::Arch;
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};
use tank_image::{Converter, Error, Images, Registries};
use tank_model::Digest;

/// A folder that becomes an archive, and the store that takes it in.
struct Desk {
    dir: PathBuf,
    images: Images,
}

impl Desk {
    fn new(name: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "layers are converted: run it as root"
        );
        let name = format!("tank-archives-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("in")).expect("a folder");
        let converter = Converter {
            program: env!("CARGO_BIN_EXE_tank-layer").into(),
            id: 3_000_000_000,
        };
        let images = Images::open(&dir.join("store"), Registries::default(), converter);
        let images = images.expect("opens");
        Self { dir, images }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.dir.join("in").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("writes");
    }

    /// A layer with one file, as a tar archive.
    fn layer(&self, file: &str) -> Vec<u8> {
        let dir = self.dir.join("content");
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join(file), file.repeat(1_000)).expect("writes");
        let tar = Command::new("tar")
            .args(["--create", "--mtime=@1", "--directory"])
            .args([&dir, Path::new(file)])
            .output()
            .expect("tar");
        assert!(tar.status.success());
        tar.stdout
    }

    /// The folder as an archive.
    fn pack(&self) -> PathBuf {
        let path = self.dir.join("image.tar");
        let tar = Command::new("tar")
            .args(["--create", "--file"])
            .arg(&path)
            .arg("--directory")
            .arg(self.dir.join("in"))
            .arg(".")
            .status()
            .expect("tar");
        assert!(tar.success());
        path
    }

    fn pull(&self, reference: &str) -> Result<Digest, Error> {
        let reference = reference.parse().expect("a reference");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let pull = self.images.pull(&reference, Some(&self.dir), None);
        let pulled = runtime.expect("a runtime").block_on(pull);
        let left = fs::read_dir(self.dir.join("store/tmp")).expect("a folder");
        assert_eq!(left.count(), 0, "nothing that is half done stays");
        pulled
    }

    fn refused(&self, reference: &str) -> String {
        let error = self.pull(reference).expect_err(reference);
        let help = error
            .help()
            .map_or(String::new(), |help| format!(" ({help})"));
        format!("{}{help}", error.message()).replace(&self.dir.display().to_string(), "DIR")
    }

    /// The digests of the layers that are here.
    fn layers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("store/layers")).expect("a folder");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            let name = entry.expect("an entry").file_name();
            Some(name.to_str()?.strip_suffix(".erofs")?.to_owned())
        };
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| Digest::of(layer).to_string())
        .collect();
    let config = json!({
        "architecture": Arch::default().to_string(), "os": "linux",
        "config": { "Cmd": ["/a"] }, "rootfs": { "type": "layers", "diff_ids": ids },
    });
    serde_json::to_vec(&config).expect("encodes")
}

fn gzip(bytes: &[u8], dir: &Path) -> Vec<u8> {
    let path = dir.join("plain");
    fs::write(&path, bytes).expect("writes");
    let packed = Command::new("gzip")
        .args(["--stdout", "--no-name"])
        .stdin(File::open(path).expect("opens"))
        .output()
        .expect("gzip");
    assert!(packed.status.success());
    packed.stdout
}

/// As Docker before version 25 wrote them: a folder a layer, and a link where one stands twice.
#[test]
fn what_docker_saved_is_an_image() {
    let desk = Desk::new("saved");
    let (one, two) = (desk.layer("one"), desk.layer("two"));
    desk.write("1/layer.tar", &one);
    desk.write("2/layer.tar", gzip(&two, &desk.dir));
    fs::create_dir(desk.dir.join("in/3")).expect("a folder");
    symlink("../1/layer.tar", desk.dir.join("in/3/layer.tar")).expect("a link");
    desk.write("app.json", config(&[&one, &two]));
    desk.write("other.json", config(&[&one]));
    let manifest = json!([
        { "Config": "app.json", "RepoTags": ["app:1", "app:latest"], "Layers": ["1/layer.tar", "2/layer.tar"] },
        { "Config": "other.json", "RepoTags": ["there.example/team/other:2"], "Layers": ["3/layer.tar"] },
    ]);
    desk.write("manifest.json", manifest.to_string());
    let path = desk.pack();
    let app = desk
        .pull("docker-archive:image.tar:app:1")
        .expect("an image");
    let again = desk.pull(&format!(
        "docker-archive:{}:docker.io/library/app",
        path.display()
    ));
    assert_eq!(
        again.expect("an image"),
        app,
        "it is the same by each of its names"
    );
    let image = desk.images.find(app).expect("it is whole");
    assert_eq!(image.layers.len(), 2);
    let cmd = desk
        .images
        .config(&app)
        .expect("a configuration")
        .cmd
        .clone();
    assert_eq!(cmd, ["/a"]);
    let other = desk
        .pull("docker-archive:image.tar:there.example/team/other:2")
        .expect("an image");
    assert_ne!(other, app);
    let mut expected = [&one, &two].map(|layer| Digest::of(layer).hex());
    expected.sort();
    assert_eq!(desk.layers(), expected, "a layer of both is there once");
    // Pinned, it is that or nothing.
    let pinned = desk.pull(&format!("docker-archive:image.tar:app:1@{app}"));
    assert_eq!(pinned.expect("an image"), app);
    let fresh = Desk::new("pinned");
    fs::copy(path, fresh.dir.join("image.tar")).expect("copies");
    let wrong = fresh.refused(&format!("docker-archive:image.tar:app:1@{other}"));
    assert!(wrong.contains(&app.to_string()), "{wrong}");
    // Which one is meant is asked, and what there is said.
    let several = desk.refused("docker-archive:image.tar");
    assert_eq!(
        several,
        "DIR/image.tar has not one image alone (it has app:1, app:latest, there.example/team/other:2: write one behind the path, `docker-archive:PATH:NAME`)"
    );
    let unknown = desk.refused("docker-archive:image.tar:app:3");
    assert!(
        unknown.starts_with("DIR/image.tar has no image `app:3` (it has app:1,"),
        "{unknown}"
    );
}

#[test]
fn a_layout_in_an_archive_is_what_it_is_in_a_folder() {
    let desk = Desk::new("layout");
    let layer = desk.layer("one");
    let packed = gzip(&layer, &desk.dir);
    let config = config(&[&layer]);
    let kind = "application/vnd.oci.image";
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": format!("{kind}.config.v1+json"), "digest": Digest::of(&config).to_string(), "size": config.len() },
        "layers": [{ "mediaType": format!("{kind}.layer.v1.tar+gzip"), "digest": Digest::of(&packed).to_string(), "size": packed.len() }],
    })
    .to_string();
    let digest = Digest::of(manifest.as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": format!("{kind}.manifest.v1+json"), "digest": digest.to_string(), "size": manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": "v1" },
    }] });
    for bytes in [config.as_slice(), manifest.as_bytes(), &packed] {
        desk.write(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes);
    }
    desk.write("index.json", index.to_string());
    desk.write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    desk.pack();
    assert_eq!(
        desk.pull("oci-archive:image.tar:v1").expect("an image"),
        digest
    );
    desk.images.find(digest).expect("it is whole");
    let folder = Desk::new("folder");
    let path = desk.dir.join("in");
    assert_eq!(
        folder
            .pull(&format!("oci:{}:v1", path.display()))
            .expect("an image"),
        digest
    );
    assert_eq!(
        desk.refused("oci-archive:image.tar:v2"),
        "DIR/image.tar has no tag `v2` (it has v1)"
    );
    let saved = desk.refused("docker-archive:image.tar");
    assert!(
        saved.starts_with(
            "DIR/image.tar has no manifest.json: it is no image that `docker save` wrote"
        ),
        "{saved}"
    );
}

/// An archive is a stranger's: it reads nothing of the host, ends, and gives nothing that is not what its
/// configuration says.
#[test]
fn an_archive_that_lies_is_refused() {
    let desk = Desk::new("lies");
    let layer = desk.layer("one");
    let saved = |config: &str, layers: &[&str]| {
        let entry: Value = json!([{ "Config": config, "RepoTags": null, "Layers": layers }]);
        desk.write("manifest.json", entry.to_string());
        desk.pack();
    };
    desk.write("app.json", config(&[&layer]));
    // Names that lead out of it.
    for name in ["/etc/passwd", "../../../../etc/passwd", "nope"] {
        saved("app.json", &[name]);
        let refused = desk.refused("docker-archive:image.tar");
        assert_eq!(refused, format!("DIR/image.tar has no file `{name}`"));
        saved(name, &["layer.tar"]);
        let refused = desk.refused("docker-archive:image.tar");
        assert_eq!(refused, format!("DIR/image.tar has no file `{name}`"));
    }
    symlink("/etc/passwd", desk.dir.join("in/out")).expect("a link");
    symlink("loop", desk.dir.join("in/loop")).expect("a link");
    for name in ["out", "loop"] {
        saved("app.json", &[name]);
        let refused = desk.refused("docker-archive:image.tar");
        assert_eq!(refused, format!("DIR/image.tar has no file `{name}`"));
    }
    // Another layer than the configuration says, and another number of them.
    desk.write("layer.tar", desk.layer("two"));
    saved("app.json", &["layer.tar"]);
    let refused = desk.refused("docker-archive:image.tar");
    assert!(refused.contains("has the digest"), "{refused}");
    saved("app.json", &["layer.tar", "layer.tar"]);
    let refused = desk.refused("docker-archive:image.tar");
    assert_eq!(
        refused,
        "the manifest has 2 layers, its configuration 1 (1 to 256)"
    );
    // Documents without an end, and what is none.
    desk.write("app.json", vec![b' '; (4 << 20) + 1]);
    saved("app.json", &["layer.tar"]);
    let refused = desk.refused("docker-archive:image.tar");
    assert_eq!(
        refused,
        "DIR/image.tar/app.json has more than 4194304 bytes"
    );
    desk.write("manifest.json", "{}");
    desk.pack();
    assert!(
        desk.refused("docker-archive:image.tar")
            .starts_with("can't read DIR/image.tar/manifest.json")
    );
    assert!(desk.layers().is_empty());
    // Archives that are cut, compressed, of too many files, or none.
    let path = desk.pack();
    let whole = fs::read(&path).expect("reads");
    let cut = whole.len() / 2;
    fs::write(&path, &whole[..cut]).expect("writes");
    let refused = desk.refused("docker-archive:image.tar");
    assert_eq!(refused, "can't read DIR/image.tar: it ends too early");
    fs::write(&path, gzip(&whole, &desk.dir)).expect("writes");
    let refused = desk.refused("docker-archive:image.tar");
    assert_eq!(
        refused,
        "DIR/image.tar is compressed (decompress it first: `gunzip`, `unxz`, `unzstd` or `bunzip2`)"
    );
    fs::write(&path, "no archive").expect("writes");
    assert!(
        desk.refused("oci-archive:image.tar")
            .starts_with("can't read DIR/image.tar")
    );
    fs::remove_file(&path).expect("removes");
    assert!(
        desk.refused("oci-archive:image.tar")
            .starts_with("can't open DIR/image.tar")
    );
    fs::create_dir(&path).expect("a folder");
    assert_eq!(
        desk.refused("oci-archive:image.tar"),
        "DIR/image.tar is no file (an archive is a file; an OCI image layout in a folder is `oci:PATH`)"
    );
    fs::remove_dir(&path).expect("removes");
    for number in 0..10_001 {
        fs::write(desk.dir.join("in").join(number.to_string()), "").expect("writes");
    }
    desk.pack();
    assert_eq!(
        desk.refused("docker-archive:image.tar"),
        "can't read DIR/image.tar: it has more than 10000 members"
    );
}
