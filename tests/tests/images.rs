//! Images that are no registry's: folders and closures of Nix, run and gone back to when what they were made of is
//! gone; and images that are pulled, loaded, kept and let go of by hand.

use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};
use tank_tests::{Host, RUN, fixtures, words};

/// A folder with BusyBox in it.
fn rootfs(host: &Host, name: &str) -> std::path::PathBuf {
    let root = host.dir.join(name);
    for dir in ["bin", "etc", "tmp", "usr"] {
        fs::create_dir_all(root.join(dir)).expect("a folder");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copies");
    for tool in ["sh", "cat", "sleep", "stat", "ls"] {
        symlink("busybox", root.join("bin").join(tool)).expect("a link");
    }
    root
}

fn pod(image: &str, more: &str) -> String {
    format!(
        "{{ pods.web.containers.app = {{ image = \"{image}\", {RUN}, stop.signal = \"SIGKILL\", {more} }} }}"
    )
}

/// The digest of the image that a pod runs.
fn digest(host: &Host) -> String {
    let digest = &host.pod("web")["containers"][0]["digest"];
    digest.as_str().expect("a digest").to_owned()
}

fn images(host: &Host) -> Vec<Value> {
    let list = host.tank(&["--json", "image", "list"]).json();
    list["images"].as_array().expect("a list").clone()
}

#[test]
fn a_folder_runs_and_is_gone_back_to_when_it_is_no_more() {
    let host = Host::new();
    let root = rootfs(&host, "rootfs");
    fs::write(root.join("etc/version"), "one").expect("writes");
    fs::hard_link(root.join("etc/version"), root.join("etc/same")).expect("a link");
    std::os::unix::fs::chown(root.join("etc/version"), Some(1000), Some(1001)).expect("chown");
    fs::set_permissions(root.join("etc/version"), PermissionsExt::from_mode(0o4640))
        .expect("chmod");
    // Without a command there is none.
    let bare = "{ pods.web.containers.app.image = \"dir:./rootfs\" }";
    host.write("web.ncl", bare);
    let refused = host.tank(&["switch", "web.ncl"]);
    assert_eq!(refused.status, 1);
    let said = words(&refused.stderr);
    assert!(said.contains("command"), "{said}");
    host.write("web.ncl", &pod("dir:./rootfs", ""));
    host.tank(&["switch", "web.ncl"]).ok();
    let first = digest(&host);
    let found = host.exec(
        "web",
        "cat /etc/version /etc/same; stat -c ' %a %u:%g %h' /etc/same",
    );
    assert_eq!(found, "oneone 4640 1000:1001 2");
    assert_eq!(
        host.exec("web", "echo $PATH"),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    // The same content is the same image, also elsewhere; a time is content.
    let copy = Command::new("cp")
        .arg("-a")
        .args([&root, &host.dir.join("copy")])
        .status();
    assert!(copy.expect("cp").success());
    host.write("web.ncl", &pod("dir:./copy", ""));
    host.tank(&["switch", "web.ncl"]).ok();
    assert_eq!(digest(&host), first);
    let list = images(&host);
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(
        list[0]["references"],
        serde_json::json!(["dir:./copy", "dir:./rootfs"])
    );
    assert_eq!(list[0]["generations"], serde_json::json!([1, 2]));
    assert_eq!(list[0]["pods"], serde_json::json!(["web"]));
    assert_eq!(
        (&list[0]["by_hand"], &list[0]["shared"]),
        (&false.into(), &0.into())
    );
    fs::write(host.dir.join("copy/etc/version"), "two").expect("writes");
    host.tank(&["switch", "web.ncl"]).ok();
    assert_ne!(digest(&host), first);
    assert_eq!(host.exec("web", "cat /etc/version"), "two");
    // What it was made of may go.
    for name in ["rootfs", "copy"] {
        fs::remove_dir_all(host.dir.join(name)).expect("removes");
    }
    host.tank(&["generations", "rollback", "1"]).ok();
    assert_eq!(digest(&host), first);
    assert_eq!(host.exec("web", "cat /etc/version"), "one");
    host.tank(&["gc"]).ok();
    let fsck = host.tank(&["--json", "fsck"]).json();
    assert_eq!(fsck["damages"], serde_json::json!([]));
    // A folder that is not there is refused, and nothing changes.
    host.write("web.ncl", &pod("dir:./rootfs", "env.A = \"1\""));
    let refused = host.tank(&["switch", "web.ncl"]);
    assert_eq!(refused.status, 1);
    assert_eq!(digest(&host), first);
    host.finish();
}

/// A closure of two store paths, and a third that nothing refers to: made by Nix, in a store of this host's alone.
const NIX: &str = r#"
let
  make = name: script: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh";
    args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  };
  words = make "words" "echo hello > $out";
  app = make "app" ''
    mkdir -p $out/bin $out/share
    cp /bin/busybox $out/bin/busybox
    for tool in sh cat ls sleep; do ln -s busybox $out/bin/$tool; done
    ln -s ${words} $out/share/words
  '';
in [ app (make "other" "echo secret > $out") ]
"#;

#[test]
fn a_closure_of_nix_runs_and_survives_its_store() {
    // Where the store of this host alone is mounted; Debian's package has none. What Nix writes when that is gone goes into the
    // mount below it, and with it.
    let place = PlaceOfNix::new();
    let mut host = Host::without_daemon();
    let script = "set -e; mount -t tmpfs none /nix; mount -t tmpfs none /nix; mkdir -p /nix/store /nix/var; chmod 755 /nix/store; \
        nix-build --option sandbox false --option build-users-group '' --option substitute false --no-out-link ";
    host.write("app.nix", NIX);
    let mut build = host.inside("sh");
    let script = format!("{script}{}", host.dir.join("app.nix").display());
    let built = build.args(["-c", &script]).output().expect("sh");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    let built = String::from_utf8(built.stdout).expect("text");
    let paths: Vec<&str> = built.lines().collect();
    let [app, other] = paths.as_slice() else {
        panic!("{built}");
    };
    host = host.started_with(&[]);
    let run = r#"command = ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"], stop.signal = "SIGKILL""#;
    let config =
        |path: &str| format!("{{ pods.web.containers.app = {{ image = \"nix:{path}\", {run} }} }}");
    host.write("web.ncl", &config(app));
    host.tank(&["switch", "web.ncl"]).ok();
    let first = digest(&host);
    assert_eq!(exec(&host, &format!("cat {app}/share/words")), "hello");
    // Its closure, and nothing else of the store or the host.
    let listed = exec(&host, "ls /nix/store");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(!listed.contains("other"), "{listed}");
    assert_eq!(
        exec(&host, "ls /"),
        "dev\netc\nnix\nproc\nroot\nrun\nsys\ntmp\nvar"
    );
    // What is something else than a store path, or is not there, is refused.
    for (path, why) in [
        (format!("{app}/bin"), "write the store path alone"),
        ("/nix/store/../etc".to_owned(), "something in a store path"),
        (format!("/nix/store/{}-none", "0".repeat(32)), "nix-store"),
    ] {
        host.write("other.ncl", &config(&path));
        let refused = host.tank(&["switch", "other.ncl"]);
        assert_eq!(refused.status, 1, "{path}");
        let said = words(&refused.stderr);
        assert!(said.contains(why), "{path}: {said}");
    }
    host.write(
        "web.ncl",
        &config(other).replace("command = [\"sh\"", "command = [\"/nope\""),
    );
    let _ = host.tank(&["switch", "web.ncl"]);
    // The store goes, all of it; the image stays.
    let gone = host.inside("umount").arg("/nix").status().expect("umount");
    assert!(gone.success());
    host.tank(&["generations", "rollback", "1"]).ok();
    assert_eq!(digest(&host), first);
    assert_eq!(exec(&host, &format!("cat {app}/share/words")), "hello");
    let below = host.inside("umount").arg("/nix").status().expect("umount");
    assert!(below.success());
    host.finish();
    drop(place);
}

/// `/nix` of this machine: nothing is written there, and what was not there before is not there afterwards.
struct PlaceOfNix {
    before: Option<Vec<std::path::PathBuf>>,
}

impl PlaceOfNix {
    fn new() -> Self {
        let before = Self::entries();
        fs::create_dir_all("/nix").expect("a folder");
        Self { before }
    }

    fn entries() -> Option<Vec<std::path::PathBuf>> {
        let entries = fs::read_dir("/nix").ok()?.flatten();
        let mut entries: Vec<_> = entries.map(|entry| entry.path()).collect();
        entries.sort();
        Some(entries)
    }
}

impl Drop for PlaceOfNix {
    fn drop(&mut self) {
        let now = Self::entries();
        if self.before.is_none() {
            let _ = fs::remove_dir("/nix");
        }
        if !std::thread::panicking() {
            assert_eq!(
                now.unwrap_or_default(),
                self.before.clone().unwrap_or_default()
            );
        }
    }
}

/// A script in a container that has no `/bin/sh`.
fn exec(host: &Host, script: &str) -> String {
    let ended = host.tank(&["exec", "web", "--", "sh", "-c", script]);
    ended.ok().trim_end().to_owned()
}

/// What `docker save` writes of BusyBox under these names.
fn saved(host: &Host, file: &str, names: &[&str]) -> std::path::PathBuf {
    const SCRIPT: &str = r"
import io, json, sys, tarfile
layout, file, *names = sys.argv[1:]
blob = lambda d: open(f'{layout}/blobs/sha256/' + d['digest'][7:], 'rb').read()
manifest = json.loads(blob(json.load(open(f'{layout}/index.json'))['manifests'][0]))
t = tarfile.open(file, 'w')
def add(name, data):
    i = tarfile.TarInfo(name)
    i.size = len(data)
    t.addfile(i, io.BytesIO(data))
add('config.json', blob(manifest['config']))
layers = [f'{n}/layer.tar' for n, _ in enumerate(manifest['layers'])]
for name, layer in zip(layers, manifest['layers']): add(name, blob(layer))
add('manifest.json', json.dumps([{'Config': 'config.json', 'RepoTags': names, 'Layers': layers}]).encode())
t.close()
";
    let path = host.dir.join(file);
    let made = Command::new("python3")
        .args(["-c", SCRIPT])
        .args([&fixtures().join("busybox"), &path])
        .args(names)
        .status();
    assert!(made.expect("python3").success());
    path
}

#[test]
fn a_loaded_image_is_found_by_its_name_and_kept_until_it_is_removed() {
    let host = Host::new();
    let archive = saved(
        &host,
        "app.tar",
        &["app:1", "there.example/team/app:stable"],
    );
    let never = |image: &str| pod(image, "pull = 'never");
    host.write("web.ncl", &never("app:1"));
    assert_eq!(host.tank(&["switch", "web.ncl"]).status, 1);
    let bytes = fs::read(&archive).expect("an archive");
    let loaded = host
        .tank_with_input(&["--json", "image", "load"], &bytes)
        .json();
    let loaded = loaded["loaded"].as_array().expect("a list").clone();
    assert_eq!(loaded.len(), 2);
    let names: Vec<&str> = loaded
        .iter()
        .filter_map(|one| one["image"].as_str())
        .collect();
    assert_eq!(names, ["app:1", "there.example/team/app:stable"]);
    let image = loaded[0]["digest"].as_str().expect("a digest").to_owned();
    // Nothing but the hand keeps it, also over a restart, and a collection says so.
    let mut host = host;
    host.kill_daemon();
    host.start_daemon();
    let dry = host.tank(&["gc", "--dry-run"]);
    let said = "left: image app:1: it is kept by hand; `tank image remove app:1` lets it go";
    assert!(dry.stderr.contains(said), "{}", dry.stderr);
    host.tank(&["gc"]).ok();
    for name in [
        "app:1",
        "docker.io/library/app:1",
        "there.example/team/app:stable",
    ] {
        host.write("web.ncl", &never(name));
        host.tank(&["switch", "web.ncl"]).ok();
        assert_eq!(digest(&host), image, "{name}");
    }
    assert_eq!(host.exec("web", "echo runs"), "runs");
    let inspected = host.tank(&["--json", "image", "inspect", "app:1"]).json();
    assert_eq!(inspected["manifest"], image.as_str());
    assert_eq!(inspected["image"]["by_hand"], true);
    assert!(inspected["layers"][0]["disk"].as_u64().expect("bytes") > 0);
    let short = &image["sha256:".len()..][..12];
    assert_eq!(
        host.tank(&["--json", "image", "inspect", short]).json(),
        inspected
    );
    host.tank(&["image", "inspect", "app:1"]).ok();
    host.tank(&["image", "list"]).ok();
    // A name goes, whoever needs the image: that stays with the generation.
    let removed = host.tank(&["--json", "image", "remove", "app:1"]).json();
    assert_eq!(removed["removed"].as_array().map(Vec::len), Some(1));
    host.tank(&["gc"]).ok();
    assert_eq!(digest(&host), image);
    // A digest takes all of its names away.
    let removed = host.tank(&["--json", "image", "remove", short]).json();
    assert_eq!(removed["removed"].as_array().map(Vec::len), Some(1));
    // What a generation needs is not removed, and that one is named.
    let refused = host.tank(&["image", "remove", short]);
    assert_eq!(refused.status, 1);
    let said = words(&refused.stderr);
    assert!(
        said.contains("3 (the current one)") && said.contains("for web"),
        "{said}"
    );
    host.tank(&["gc"]).ok();
    assert_eq!(host.exec("web", "echo runs"), "runs");
    host.tank(&["delete", "web"]).ok();
    host.tank(&["generations", "delete", "1", "2", "3"]).ok();
    assert_eq!(images(&host), Vec::<Value>::new());
    host.tank(&["gc"]).ok();
    let layers = fs::read_dir(host.dir.join("state/images/layers")).expect("a folder");
    assert_eq!(layers.count(), 0, "nothing needs them");
    let gone = host.tank(&["image", "inspect", "app:1"]);
    assert_eq!(gone.status, 1);
    assert!(
        gone.stderr.contains("no such image: `app:1`"),
        "{}",
        gone.stderr
    );
    host.finish();
}

#[test]
fn an_archive_that_is_none_is_refused_and_leaves_nothing() {
    let host = Host::new();
    let load = |bytes: &[u8]| {
        let refused = host.tank_with_input(&["image", "load"], bytes);
        assert_eq!((refused.status, refused.stdout.as_str()), (1, ""));
        let left = fs::read_dir(host.dir.join("state/images/tmp")).expect("a folder");
        assert_eq!(left.count(), 0);
        assert!(!refused.stderr.contains('\u{1b}'), "{}", refused.stderr);
        words(&refused.stderr)
    };
    assert!(load(b"").contains("no archive of images"));
    assert!(load(&[0x1f, 0x8b, 8, 0, 0, 0]).contains("gunzip"));
    assert!(load(&[7; 2000]).contains("load images"));
    // Names are an attacker's.
    for name in [
        "app:1\u{1b}[2J",
        "oci:/etc",
        "docker-archive:/etc/shadow",
        &"a".repeat(600),
    ] {
        let archive = saved(&host, "bad.tar", &[name]);
        let said = load(&fs::read(archive).expect("an archive"));
        assert!(said.contains("can't name the image"), "{name}: {said}");
    }
    assert_eq!(images(&host), Vec::<Value>::new());
    // Without a name it is kept by its digest, and gets one when it is loaded with one.
    let unnamed = saved(&host, "unnamed.tar", &[]);
    let unnamed = unnamed.to_str().expect("text");
    let loaded = host
        .tank(&["--json", "image", "load", "-i", unnamed])
        .json();
    let digest = loaded["loaded"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    assert!(loaded["loaded"][0]["image"].is_null());
    host.write("web.ncl", &pod(&format!("any@{digest}"), "pull = 'never"));
    host.tank(&["switch", "web.ncl"]).ok();
    let named = host
        .tank(&["--json", "image", "load", unnamed, "--name", "mine:2"])
        .json();
    assert_eq!(named["loaded"][0]["image"], "mine:2");
    host.finish();
}

#[test]
fn a_pulled_image_needs_no_registry_any_more() {
    let mut host = Host::new();
    host.start_registry();
    let pulled = host
        .tank(&["--json", "image", "pull", "localhost:5000/nginx"])
        .json();
    let image = pulled["digest"].as_str().expect("a digest").to_owned();
    let none = host.tank(&[
        "image",
        "pull",
        "localhost:5000/nginx",
        "--platform",
        "linux/sparc64",
    ]);
    let said = words(&none.stderr);
    assert!(
        said.contains("it has nothing for linux/sparc64, only for linux/"),
        "{said}"
    );
    let wrong = host.tank(&[
        "image",
        "pull",
        "localhost:5000/nginx",
        "--platform",
        "arm64",
    ]);
    assert!(
        words(&wrong.stderr).contains("is no platform"),
        "{}",
        wrong.stderr
    );
    let local = host.tank(&["image", "pull", "oci:./busybox"]);
    assert!(
        words(&local.stderr).contains("tank image load"),
        "{}",
        local.stderr
    );
    host.signal_registry("KILL");
    for pull in ["'missing", "'never"] {
        host.write(
            "web.ncl",
            &pod("localhost:5000/nginx", &format!("pull = {pull}")),
        );
        host.tank(&["switch", "web.ncl"]).ok();
        assert_eq!(digest(&host), image);
    }
    host.finish();
}

/// What is sent before the last reply says how far each layer is, for who asks for it.
#[test]
fn a_diff_says_how_far_a_pull_is() {
    const SCRIPT: &str = r"
import json, socket, sys
path, config, layers = sys.argv[1:]
s = socket.socket(socket.AF_UNIX)
s.connect(path)
parameters = {'config': config}
if layers == 'yes': parameters['layers'] = True
call = {'method': 'io.tank.Executor.Diff', 'parameters': parameters, 'more': True}
s.sendall(json.dumps(call).encode() + b'\0')
data, replies = b'', []
while not replies or replies[-1].get('continues'):
    while b'\0' not in data: data += s.recv(65536)
    one, data = data.split(b'\0', 1)
    replies.append(json.loads(one))
way = [r['parameters']['progress'] for r in replies[:-1]]
done = [p['layer']['done'] == p['layer']['size'] for p in way if p.get('layer')]
print(way[0]['message'] if way else None, True in done, len(replies[-1]['parameters']['plan']))
";
    for (layers, expected) in [
        ("yes", "localhost:5000/nginx True 71\n"),
        ("no", "None False 71\n"),
    ] {
        let mut host = Host::new();
        host.start_registry();
        host.write("web.ncl", &pod("localhost:5000/nginx", ""));
        let config = host.tank(&["build", "--canonical", "web.ncl"]).ok();
        let asked = Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(host.socket())
            .args([config.trim(), layers])
            .output()
            .expect("python3");
        let said = String::from_utf8_lossy(&asked.stderr);
        assert_eq!(String::from_utf8_lossy(&asked.stdout), expected, "{said}");
        host.finish();
    }
}

/// Whoever loads, removes, lists and collects at once has each image whole, or not at all.
#[test]
fn loads_removals_and_collections_at_once_leave_whole_images() {
    let host = Host::new();
    let archive = saved(&host, "app.tar", &["app:1"]);
    let archive = archive.to_str().expect("text");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..10 {
                host.tank(&["image", "load", archive]).ok();
            }
        });
        scope.spawn(|| {
            for _ in 0..10 {
                // It may not be there just now.
                let removed = host.tank(&["image", "remove", "app:1"]);
                assert!(removed.status == 0 || removed.stderr.contains("no such image"));
            }
        });
        for _ in 0..10 {
            host.tank(&["gc"]).ok();
            for image in images(&host) {
                assert_eq!(image["missing"], Value::Null, "{image}");
            }
        }
    });
    host.tank(&["image", "load", archive]).ok();
    host.tank(&["gc"]).ok();
    host.write("web.ncl", &pod("app:1", "pull = 'never"));
    host.tank(&["switch", "web.ncl"]).ok();
    let fsck = host.tank(&["--json", "fsck"]).json();
    assert_eq!(fsck["damages"], serde_json::json!([]));
    host.finish();
}

/// An image for machines of another kind is refused before anything changes.
#[test]
fn an_image_for_another_machine_is_refused() {
    let host = Host::new();
    let layout = host.dir.join("foreign");
    let script = r"
import hashlib, json, shutil, sys
base, layout = sys.argv[1:]
shutil.copytree(base, layout)
def put(value):
    data = json.dumps(value).encode()
    name = hashlib.sha256(data).hexdigest()
    open(f'{layout}/blobs/sha256/{name}', 'wb').write(data)
    return {'digest': f'sha256:{name}', 'size': len(data)}
read = lambda d: json.load(open(f'{layout}/blobs/sha256/' + d['digest'][7:]))
index = json.load(open(f'{layout}/index.json'))
manifest = read(index['manifests'][0])
config = read(manifest['config'])
config['architecture'] = 's390x'
manifest['config'].update(put(config))
index['manifests'][0].update(put(manifest))
json.dump(index, open(f'{layout}/index.json', 'w'))
";
    let made = Command::new("python3")
        .args(["-c", script])
        .args([&fixtures().join("busybox"), &layout])
        .status();
    assert!(made.expect("python3").success());
    host.write("web.ncl", &pod("oci:./foreign", ""));
    let refused = host.tank(&["switch", "web.ncl"]);
    assert_eq!(refused.status, 1);
    let said = words(&refused.stderr);
    assert!(
        said.contains("it is for linux/s390x, and this host is linux/"),
        "{said}"
    );
    assert!(said.contains("web/app"), "{said}");
    host.finish();
}

/// A layout with an index for this host's platform, one that it runs beside that, and one that it does not run. Each has
/// `PLATFORM` say which.
const INDEX: &str = r"
import hashlib, json, shutil, sys
base, layout, *platforms = sys.argv[1:]
shutil.copytree(base, layout)
def put(value, media):
    data = json.dumps(value).encode()
    name = hashlib.sha256(data).hexdigest()
    open(f'{layout}/blobs/sha256/{name}', 'wb').write(data)
    return {'mediaType': f'application/vnd.oci.image.{media}.v1+json', 'digest': f'sha256:{name}', 'size': len(data)}
read = lambda d: json.load(open(f'{layout}/blobs/sha256/' + d['digest'][7:]))
index = json.load(open(f'{layout}/index.json'))
base = read(index['manifests'][0])
manifests = []
for platform in platforms:
    os, arch, *variant = platform.split('/')
    config = read(base['config'])
    config.update({'os': os, 'architecture': arch})
    config['config'].setdefault('Env', []).append(f'PLATFORM={platform}')
    manifest = dict(base, mediaType='application/vnd.oci.image.manifest.v1+json', config=put(config, 'config'))
    of = {'os': os, 'architecture': arch}
    if variant: of['variant'] = variant[0]
    manifests.append(dict(put(manifest, 'manifest'), platform=of))
media = 'application/vnd.oci.image.index.v1+json'
whole = put({'schemaVersion': 2, 'mediaType': media, 'manifests': manifests}, 'index')
whole['annotations'] = {'org.opencontainers.image.ref.name': 'latest'}
json.dump({'schemaVersion': 2, 'manifests': [whole]}, open(f'{layout}/index.json', 'w'))
";

/// Serves the image of a layout as `localhost:5000/multi`, whatever its tag.
const SERVE: &str = r"
import http.server, json, os, sys
layout = sys.argv[1]
class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def do_GET(self):
        name = self.path.rsplit('/', 1)[1]
        if '/manifests/' in self.path and ':' not in name:
            name = json.load(open(f'{layout}/index.json'))['manifests'][0]['digest']
        path = f'{layout}/blobs/' + name.replace(':', '/')
        found = self.path == '/v2/' or os.path.isfile(path)
        body = open(path, 'rb').read() if found and self.path != '/v2/' else b'{}'
        self.send_response(200 if found else 404)
        if '/manifests/' in self.path and found:
            self.send_header('Content-Type', json.loads(body)['mediaType'])
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('127.0.0.1', 5000), Registry).serve_forever()
";

/// A program that ends with its test.
struct Served(std::process::Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This host's platform, and another one of which it runs the programs by itself.
fn platforms() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => ("linux/arm64", "linux/arm/v7"),
        _ => ("linux/amd64", "linux/386"),
    }
}

fn index(host: &Host, name: &str) {
    let (own, other) = platforms();
    let made = Command::new("python3")
        .args(["-c", INDEX])
        .args([&fixtures().join("busybox"), &host.dir.join(name)])
        .args([own, other, "linux/s390x"])
        .status();
    assert!(made.expect("python3").success());
}

/// Two pods of one image: `web` for this host, `old` for another platform.
fn two(image: &str, platform: &str, more: &str) -> String {
    let of =
        |more: &str| format!("{{ image = \"{image}\", {RUN}, stop.signal = \"SIGKILL\", {more} }}");
    format!(
        "{{\n  pods.web.containers.app = {},\n  pods.old.containers.app = {},\n}}",
        of(more),
        of(&format!("platform = \"{platform}\", {more}"))
    )
}

fn pod_digest(host: &Host, pod: &str) -> String {
    let digest = &host.pod(pod)["containers"][0]["digest"];
    digest.as_str().expect("a digest").to_owned()
}

/// What two pods say that their images are for.
fn run_for(host: &Host) -> (String, String) {
    let said = |pod| host.exec(pod, "echo $PLATFORM");
    (said("web"), said("old"))
}

#[test]
fn a_container_has_the_image_for_its_platform() {
    let host = Host::new();
    let (own, other) = platforms();
    index(&host, "multi");
    host.write("web.ncl", &two("oci:./multi", other, ""));
    host.tank(&["switch", "web.ncl"]).ok();
    assert_eq!(run_for(&host), (own.to_owned(), other.to_owned()));
    assert_ne!(pod_digest(&host, "web"), pod_digest(&host, "old"));
    // The same again is nothing, also for the plan.
    assert_eq!(host.tank(&["diff", "web.ncl", "--exit-code"]).status, 0);
    host.tank(&["switch", "web.ncl"]).ok();
    let generations =
        || host.tank(&["--json", "generations", "list"]).json()["generations"].clone();
    assert_eq!(generations().as_array().expect("a list").len(), 1);
    // What this host does not run, and what there is none of, is refused at the line, and nothing changes.
    let before = host.tank(&["--json", "list"]).stdout;
    for (platform, why) in [
        (
            "linux/s390x",
            "it is for linux/s390x, and this host is linux/",
        ),
        (
            "linux/riscv64",
            "it has nothing for linux/riscv64, only for linux/",
        ),
    ] {
        host.write("web.ncl", &two("oci:./multi", platform, ""));
        for command in ["switch", "diff"] {
            let refused = host.tank(&[command, "web.ncl"]);
            assert_eq!(refused.status, 1, "{platform}");
            let said = words(&refused.stderr);
            assert!(said.contains(why), "{said}");
            assert!(
                said.contains("tank::host::image") && said.contains("web.ncl:3:"),
                "{said}"
            );
        }
    }
    assert_eq!(host.tank(&["--json", "list"]).stdout, before);
    assert_eq!(generations().as_array().expect("a list").len(), 1);
    // Another platform is another image: that pod is replaced, and no other.
    host.write("web.ncl", &two("oci:./multi", own, ""));
    let diff = host.tank(&["diff", "web.ncl"]).ok();
    let (to, from) = (
        format!("platform: \"{other}\" → \"{own}\""),
        "replace  start old/app",
    );
    assert!(
        diff.contains(&to) && words(&diff).contains(&words(from)),
        "{diff}"
    );
    assert!(!diff.contains("web/app"), "{diff}");
    host.tank(&["switch", "web.ncl"]).ok();
    assert_eq!(run_for(&host), (own.to_owned(), own.to_owned()));
    assert_eq!(
        pod_digest(&host, "web").len(),
        pod_digest(&host, "old").len()
    );
    // Back without what it came from.
    fs::remove_dir_all(host.dir.join("multi")).expect("removes");
    host.tank(&["gc"]).ok();
    host.tank(&["generations", "rollback", "1"]).ok();
    assert_eq!(run_for(&host), (own.to_owned(), other.to_owned()));
    let fsck = host.tank(&["--json", "fsck"]).json();
    assert_eq!(fsck["damages"], serde_json::json!([]));
    // In an image for one platform only there is nothing for another.
    host.write(
        "one.ncl",
        &pod("oci:./busybox", &format!("platform = \"{other}\"")),
    );
    let refused = host.tank(&["switch", "one.ncl", "--replace"]);
    let said = words(&refused.stderr);
    assert!(
        said.contains(&format!("it has nothing for {other}, only for")),
        "{said}"
    );
    host.finish();
}

#[test]
fn a_lock_and_what_is_kept_by_name_have_an_image_for_each_platform() {
    let host = Host::new();
    let (own, other) = platforms();
    index(&host, "multi");
    let mut serve = host.inside("python3");
    serve.args(["-c", SERVE]).arg(host.dir.join("multi"));
    let (out, err) = (std::process::Stdio::null(), std::process::Stdio::null());
    let child = serve.stdout(out).stderr(err).spawn();
    let registry = Served(child.expect("python3"));
    tank_tests::eventually("the registry answers", || {
        host.get("http://localhost:5000/v2/").status == 0
    });
    let image = "localhost:5000/multi:1";
    host.write("web.ncl", &two(image, other, ""));
    let missing = host.tank(&["lock", "web.ncl", "--check"]);
    let said = words(&missing.stderr);
    assert!(said.contains(&format!("{image} ({other})")), "{said}");
    let said = host.tank(&["lock", "web.ncl"]).ok();
    assert_eq!(said.matches("(new)").count(), 2, "{said}");
    host.tank(&["lock", "web.ncl", "--check"]).ok();
    host.tank(&["switch", "web.ncl"]).ok();
    assert_eq!(run_for(&host), (own.to_owned(), other.to_owned()));
    // What the lock has is what runs, and the graph is the same one before and after it was found.
    let lock = fs::read_to_string(host.dir.join("tank.lock")).expect("a lock");
    assert!(lock.contains(&format!("[platforms.\"{other}\"]")), "{lock}");
    assert!(lock.contains(&pod_digest(&host, "old")), "{lock}");
    let built = host.tank(&["build", "web.ncl"]).ok();
    let shown = host.tank(&["--json", "generations", "show", "1"]).json();
    let root = built.lines().next().expect("a root");
    assert_eq!(shown["generation"]["root"], root);
    // For one platform less there is one entry less.
    host.write("one.ncl", &pod(image, ""));
    host.tank(&["lock", "one.ncl"]).ok();
    assert!(
        !fs::read_to_string(host.dir.join("tank.lock"))
            .expect("a lock")
            .contains("platforms")
    );
    fs::remove_file(host.dir.join("tank.lock")).expect("removes");
    // By hand: one for each, by one name.
    let pull = |more: &[&str]| {
        let pulled = host
            .tank(&[&["--json", "image", "pull", image], more].concat())
            .json();
        pulled["digest"].as_str().expect("a digest").to_owned()
    };
    let mine = pull(&[]);
    assert_eq!(pull(&["--platform", other]), pod_digest(&host, "old"));
    assert_eq!(pull(&[]), mine);
    host.tank(&["delete", "web", "old"]).ok();
    host.tank(&["generations", "delete", "1"]).ok();
    host.tank(&["gc"]).ok();
    drop(registry);
    for pull in ["pull = 'missing", "pull = 'never"] {
        host.write("web.ncl", &two(image, other, pull));
        host.tank(&["switch", "web.ncl"]).ok();
        assert_eq!(run_for(&host), (own.to_owned(), other.to_owned()), "{pull}");
    }
    // A name is let go of for all platforms; what a generation has is found there.
    host.tank(&["image", "remove", image]).ok();
    assert!(images(&host).iter().all(|image| image["by_hand"] == false));
    host.write(
        "web.ncl",
        &two(image, other, "pull = 'never, env.A = \"1\""),
    );
    host.tank(&["switch", "web.ncl"]).ok();
    assert_eq!(run_for(&host), (own.to_owned(), other.to_owned()));
    // Of the third there is nothing here, whatever is called so.
    host.write("web.ncl", &two(image, "linux/s390x", "pull = 'never"));
    assert_eq!(host.tank(&["switch", "web.ncl"]).status, 1);
    host.finish();
}
