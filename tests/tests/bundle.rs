//! A generation leaves its host as one file, with its images, and another host runs it that can ask nobody; whatever
//! is no such file is refused. And images are saved for others to load.

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::PathBuf,
    process::{Command, Stdio},
};
use tank_tests::{Ended, Host, RUN, eventually, images::image, words};

/// A layer with what is not in every one: links to the layer below, holes, attributes, names that come twice, and
/// what becomes no file.
const ODD: &str = r"
same('srv/true', 'bin/busybox')
folder('srv/d', 0o1777, 5, 6)
file('srv/d/holes', b'begin' + b'\0' * 500000 + b'end', 0o640, 999, 998)
file('srv/twice', b'first' * 5000)
file('srv/twice', b'second', pax={'SCHILY.xattr.user.of': 'it'})
file('srv/large', bytes(range(256)) * 1000)
file('srv/d/.wh.gone', b'a whiteout with content')
link('srv/link', 'twice')
fifo('srv/fifo')
device('srv/mem')
file('srv/' + 'l' * 150, b'long')
";

fn pod(image: &str, more: &str) -> String {
    format!(
        "{{ pods.web.containers.app = {{ image = \"{image}\", pull = 'always, {RUN}, {more} }} }}"
    )
}

/// A host of which the generations are numbered from 1, one for each of these.
fn history(images: &[&str]) -> (Host, String) {
    let host = Host::new();
    let reference = image(&host, "app", ODD);
    for more in images {
        host.switch(&pod(&reference, more));
    }
    (host, reference)
}

/// Exports a generation: the file, and its root hash.
#[track_caller]
fn export(host: &Host, number: u64, name: &str) -> (PathBuf, String) {
    let file = host.dir.join(name);
    let number = number.to_string();
    let args = ["--json", "generations", "export", &number, "-o", name];
    let bundle = host.tank(&args).json();
    let root = bundle["root"].as_str().expect("a root").to_owned();
    (file, root)
}

fn import(host: &Host, file: &std::path::Path, more: &[&str]) -> Ended {
    let file = file.display().to_string();
    host.tank(&[&["generations", "import", &file], more].concat())
}

fn generations(host: &Host) -> Vec<Value> {
    let list = host.tank(&["--json", "generations", "list"]).json();
    list["generations"].as_array().expect("a list").clone()
}

fn names(host: &Host, folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(host.dir.join("state/images").join(folder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[track_caller]
fn is_whole(host: &Host) {
    let report = host.tank(&["--json", "fsck"]).json();
    assert_eq!(report["damages"], json!([]), "{report}");
}

/// The members of an archive, by their names.
type Members = Vec<(String, Vec<u8>)>;

fn unpack(bytes: &[u8]) -> Members {
    let (mut members, mut at) = (Members::new(), 0);
    while bytes[at] != 0 {
        let field = |begin: usize, length: usize| {
            let field = &bytes[at + begin..at + begin + length];
            String::from_utf8(
                field
                    .split(|byte| *byte == 0)
                    .next()
                    .expect("a field")
                    .to_vec(),
            )
            .expect("a text")
        };
        let size = usize::from_str_radix(&field(124, 12), 8).expect("a size");
        members.push((field(0, 100), bytes[at + 512..at + 512 + size].to_vec()));
        at += 512 + size.next_multiple_of(512);
    }
    assert_eq!(bytes[at..], [0; 1024]);
    members
}

fn head(name: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    let size = format!("{size:011o}");
    let fields: [(usize, &[u8]); 9] = [
        (0, name.as_bytes()),
        (100, b"0000644"),
        (108, b"0000000"),
        (116, b"0000000"),
        (124, size.as_bytes()),
        (136, b"00000000000"),
        (148, b"        "),
        (156, b"0"),
        (257, b"ustar\x0000"),
    ];
    for (at, field) in fields {
        block[at..at + field.len()].copy_from_slice(field);
    }
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn pack(members: &Members) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        bytes.extend(head(name, content.len() as u64));
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

fn sha256(host: &Host, bytes: &[u8]) -> String {
    let file = host.dir.join("summed");
    fs::write(&file, bytes).expect("writes");
    let sum = Command::new("sha256sum")
        .arg(&file)
        .output()
        .expect("sha256sum");
    let sum = String::from_utf8(sum.stdout).expect("a text");
    sum.split(' ').next().expect("a sum").to_owned()
}

/// What the file system of the pod is, as it is seen from inside.
const LISTING: &str = "cd /srv && find . -exec stat -c '%A %u:%g %s %h %n' {} + | grep -v ' \\./true$' | sort -k5 && \
     sha256sum true twice large d/holes && readlink link && /srv/true && echo runs";

#[test]
fn a_generation_runs_on_a_host_that_can_ask_nobody() {
    let (from, _) = history(&["env.N = \"1\"", "env.N = \"2\""]);
    let listing = from.exec("web", LISTING);
    assert!(listing.ends_with("twice\nruns"), "{listing}");
    let (first, root) = export(&from, 1, "one.tank");
    let (second, second_root) = export(&from, 2, "two.tank");
    assert_ne!(root, second_root);
    let there = from.tank(&["--json", "generations", "show", "1"]).json();
    assert_eq!(there["generation"]["root"], root.as_str());
    // The same of the same.
    assert_eq!(
        fs::read(export(&from, 1, "again.tank").0).expect("reads"),
        fs::read(&first).expect("reads")
    );

    // Neither a registry nor the folder of the image is there.
    let to = Host::new();
    let shown = import(&to, &first, &["--dry-run"]).ok();
    assert!(shown.contains("web"), "{shown}");
    assert_eq!(generations(&to), Vec::<Value>::new());
    let said = import(&to, &first, &["--root", &root]);
    assert!(said.stderr.contains(&root), "{}", said.stderr);
    said.ok();
    let imported = generations(&to);
    assert_eq!(imported[0]["root"], root.as_str());
    assert_eq!(imported[0]["source"], "import one.tank (generation 1)");
    assert_eq!(to.exec("web", LISTING), listing);
    assert_eq!(to.exec("web", "echo $N"), "1");
    for folder in ["layers", "blobs/sha256"] {
        assert_eq!(names(&to, folder), names(&from, folder));
    }
    is_whole(&to);
    let why = to.tank(&["why", "web.app.env.N"]).ok();
    assert!(why.contains("pods.ncl:1"), "{why}");

    // The next one from standard input; and back.
    let bytes = fs::read(&second).expect("reads");
    to.tank_with_input(&["generations", "import", "-"], &bytes)
        .ok();
    assert_eq!(to.exec("web", "echo $N"), "2");
    to.tank(&["generations", "rollback"]).ok();
    assert_eq!(to.exec("web", "echo $N"), "1");
    assert_eq!(generations(&to)[2]["root"], root.as_str());
    // It goes on from there as it came.
    assert_eq!(export(&to, 1, "on.tank").1, root);
    let third = Host::new();
    // As it is shown short.
    let short = root.get(..19).expect("a hash");
    import(&third, &to.dir.join("on.tank"), &["--root", short]).ok();
    assert_eq!(third.exec("web", LISTING), listing);
    for host in [from, to, third] {
        host.finish();
    }
}

#[test]
fn what_is_no_bundle_and_what_lies_is_refused() {
    let (from, _) = history(&["env.N = \"1\""]);
    let (file, root) = export(&from, 1, "one.tank");
    let bytes = fs::read(&file).expect("reads");
    let good = unpack(&bytes);
    assert_eq!(pack(&good), bytes);
    let order: Vec<&str> = good.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        order[..3],
        ["bundle.json", "config.json", "provenance.json"]
    );
    // Two documents, and two layers.
    let (manifest, layer) = (order[3].to_owned(), order[order.len() - 1].to_owned());
    let at = |name: &str| {
        order
            .iter()
            .position(|known| *known == name)
            .expect("a member")
    };
    let changed = |name: &str, from: &str, to: &str| {
        let mut members = good.clone();
        let content = &mut members[at(name)].1;
        let text = String::from_utf8(content.clone()).expect("a text");
        assert!(text.contains(from), "{text}");
        *content = text.replace(from, to).into_bytes();
        pack(&members)
    };
    let edited = |edit: &dyn Fn(&mut Members)| {
        let mut members = good.clone();
        edit(&mut members);
        pack(&members)
    };
    let header: Value = serde_json::from_slice(&good[0].1).expect("a header");
    let with_header = |edit: &dyn Fn(&mut Value)| {
        let (mut members, mut header) = (good.clone(), header.clone());
        edit(&mut header);
        members[0].1 = header.to_string().into_bytes();
        pack(&members)
    };
    let last = good.len() - 1;
    let other = format!("sha256:{}", "ab".repeat(32));
    let long = |name: &str| head(name, 1 << 32);
    let cases: Vec<(Vec<u8>, String)> = vec![
        (Vec::new(), "nothing came".into()),
        (bytes[..bytes.len() - 1024].to_vec(), "too early".into()),
        (bytes[..bytes.len() - 1].to_vec(), "too early".into()),
        (
            bytes[..bytes.len() - 3000].to_vec(),
            "middle of a file".into(),
        ),
        (bytes[..700].to_vec(), "middle of a file".into()),
        ([&bytes[..], b"x"].concat(), "behind its end".into()),
        (
            vec![0; 4096],
            "where `bundle.json` has to stand is its end".into(),
        ),
        (b"\x1f\x8b\x08 gzip".to_vec(), "compressed with gzip".into()),
        (b"\x28\xb5\x2f\xfd zstd".to_vec(), "`zstd -dc".into()),
        (
            edited(&|all| all.swap(3, 4)),
            format!("where `{manifest}` has to stand is something else"),
        ),
        (
            edited(&|all| all.swap(1, 2)),
            "where `config.json` has to stand".into(),
        ),
        (
            edited(&|all| {
                let twice = all[last].clone();
                all.push(twice);
            }),
            "nothing belongs".into(),
        ),
        (
            edited(&|all| drop(all.remove(last))),
            format!("where `{layer}` has to stand is its end"),
        ),
        (
            edited(&|all| all[last].0 = "../../etc/passwd".into()),
            "something else, `../../etc/passwd`".into(),
        ),
        (
            edited(&|all| all[last].0 = "\x1b[2Jx".into()),
            "something else, `?[2Jx`".into(),
        ),
        (edited(&|all| all[last].1[600] ^= 1), format!("`{layer}`")),
        (
            edited(&|all| all[last].1.truncate(1024)),
            format!("`{layer}`"),
        ),
        (
            edited(&|all| all[last - 1].1 = all[last].1.clone()),
            format!("`{}`", order[last - 1]),
        ),
        (
            changed(&manifest, "schemaVersion", "schemaversion"),
            format!("`{manifest}`: blob"),
        ),
        (
            changed("config.json", "\"N\":\"1\"", "\"N\":\"2\""),
            "has the root".into(),
        ),
        (
            changed("config.json", "\"web\"", "\"we b\""),
            "not valid".into(),
        ),
        (changed("config.json", "{", "{ "), "second spelling".into()),
        (changed("provenance.json", "{", "["), "provenance".into()),
        (
            with_header(&|h| h["version"] = 2.into()),
            "version 2 of the form".into(),
        ),
        (
            with_header(&|h| h["format"] = "zip".into()),
            "something else".into(),
        ),
        (
            with_header(&|h| h["platform"] = "linux/s390x".into()),
            "s390x".into(),
        ),
        (
            with_header(&|h| h["root"] = other.clone().into()),
            "has the root".into(),
        ),
        (
            with_header(&|h| h["more"] = 1.into()),
            "unknown field".into(),
        ),
        (
            with_header(&|h| {
                let image = h["images"].as_object_mut().expect("images");
                image
                    .values_mut()
                    .for_each(|digest| *digest = other.clone().into());
            }),
            "has the root".into(),
        ),
        (
            with_header(&|h| {
                drop(
                    h["contents"]["layers"]
                        .as_array_mut()
                        .expect("layers")
                        .pop(),
                )
            }),
            "its images need".into(),
        ),
        (
            with_header(&|h| {
                h["contents"]["layers"]
                    .as_array_mut()
                    .expect("layers")
                    .reverse()
            }),
            "not what its images need".into(),
        ),
        (
            with_header(&|h| {
                drop(
                    h["contents"]["layers"][1]
                        .as_object_mut()
                        .expect("a layer")
                        .remove("chain_id"),
                )
            }),
            format!("`{layer}`"),
        ),
        (
            with_header(&|h| h["contents"]["layers"][0]["diff_id"] = other.clone().into()),
            "its images need".into(),
        ),
        (
            [long("bundle.json"), vec![b' '; 4096]].concat(),
            "`bundle.json` has 4294967296 bytes".into(),
        ),
    ];
    let to = Host::new();
    for (bytes, why) in cases {
        let refused = to.import_of(&bytes);
        assert_eq!(refused.status, 1, "{why}: {refused:?}");
        let said = words(&refused.stderr).replace(' ', "");
        assert!(
            said.contains(&why.replace(' ', "")),
            "no `{why}`: {}",
            refused.stderr
        );
        assert_eq!(names(&to, "blobs/sha256"), BTreeSet::new(), "{why}");
    }
    let refused = import(&to, &file, &["--root", &other]);
    assert_eq!(refused.status, 1);
    assert!(words(&refused.stderr).contains(&root), "{}", refused.stderr);
    assert_eq!(generations(&to), Vec::<Value>::new());
    assert_eq!(names(&to, "tmp"), BTreeSet::new());
    to.tank(&["gc"]).ok();
    assert_eq!(names(&to, "layers"), BTreeSet::new());
    import(&to, &file, &[]).ok();
    from.finish();
    to.finish();
}

trait Fed {
    fn import_of(&self, input: &[u8]) -> Ended;
}

impl Fed for Host {
    /// An import, which may end before all of its input is written.
    fn import_of(&self, input: &[u8]) -> Ended {
        let mut command = self.command(&["generations", "import", "-"]);
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("tank");
        let _ = child.stdin.take().expect("stdin").write_all(input);
        child.wait_with_output().expect("wait").into()
    }
}

#[test]
fn what_a_bundle_needs_has_to_be_there_and_what_fails_is_put_back() {
    // The same path on both hosts, in memory of their own.
    let place = "/mnt/shared";
    let inside = |host: &Host, script: &str| {
        let ended = host.inside("sh").args(["-c", script]).status();
        assert!(ended.expect("sh").success(), "{script}");
    };
    let host = || {
        let host = Host::without_daemon();
        inside(&host, "mount -t tmpfs shared /mnt");
        host.started_with(&[])
    };
    let from = host();
    inside(&from, "mkdir /mnt/shared && touch /mnt/shared/ready");
    from.switch(&format!(
        "{{ pods.web = {{ volumes.d = {{ host = \"{place}\" }}, restart = 'never, containers.app = {{ image = \"oci:./busybox\", \
         stop.signal = \"SIGKILL\", mounts.d = {{ volume = \"d\", path = \"/d\", read_only = true }}, \
         command = [\"/bin/sh\", \"-c\", \"test -e /d/ready && exec sleep 1000; exit 7\"] }} }} }}"
    ));
    let written = from.tank(&["generations", "export", "1", "-o", "one.tank"]);
    assert!(written.stderr.contains(place), "{}", written.stderr);
    written.ok();
    let file = from.dir.join("one.tank");
    // A file that is there is not written over, and a terminal never to.
    assert_eq!(
        from.tank(&["generations", "export", "1", "-o", "one.tank"])
            .status,
        1
    );
    assert_eq!(
        from.tank(&["generations", "export", "9", "-o", "nine.tank"])
            .status,
        1
    );
    assert!(!from.dir.join("nine.tank").exists());

    let to = host();
    to.switch("{ pods.own.containers.app = { image = \"oci:./busybox\", command = [\"/bin/sleep\", \"1000\"], stop.signal = \"SIGKILL\" } }");
    let own = to.pid("own", "app");
    // What others declare is not replaced unasked.
    let refused = import(&to, &file, &[]);
    assert_eq!(refused.status, 1);
    assert!(words(&refused.stderr).contains("own"), "{}", refused.stderr);
    let refused = import(&to, &file, &["--replace"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(words(&refused.stderr).contains(place), "{}", refused.stderr);
    assert_eq!((generations(&to).len(), to.pid("own", "app")), (1, own));
    inside(&to, "mkdir /mnt/shared");
    // It ends at once: what was there is there again.
    let failed = import(&to, &file, &["--replace"]);
    assert_eq!(failed.status, 3, "{failed:?}");
    eventually("its own pod runs again", || {
        to.pod("own")["state"] == "running"
    });
    assert_eq!(to.pod("web"), Value::Null);
    inside(&to, "touch /mnt/shared/ready");
    import(&to, &file, &["--replace"]).ok();
    assert_eq!(to.pod("own"), Value::Null);
    assert_eq!(to.pod("web")["state"], "running");
    from.finish();
    to.finish();
}

#[test]
fn whenever_the_daemon_dies_an_import_leaves_nothing_half() {
    let (from, _) = history(&["env.N = \"1\""]);
    let (file, root) = export(&from, 1, "one.tank");
    let mut counted = Host::new();
    let counter = counted.dir.join("count");
    counted.kill_daemon();
    counted.start_daemon_with(&[("TANKD_COUNT_TO", counter.to_str().expect("a path"))]);
    import(&counted, &file, &[]).ok();
    let count = fs::read_to_string(&counter).expect("a count");
    let count: u64 = count.parse().expect("a number");
    assert!(count > 6, "only {count} boundaries");
    counted.finish();
    // The later ones are any switch's.
    for at in 1..=count.min(10) {
        let mut to = Host::new();
        to.kill_daemon();
        to.start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        let _ = import(&to, &file, &[]);
        assert!(to.daemon_has_ended(), "boundary {at}");
        to.reap_daemon();
        to.start_daemon();
        // What the daemon goes on with may have some of its own, and not for long.
        eventually(&format!("nothing is half, boundary {at}"), || {
            names(&to, "tmp").is_empty()
        });
        is_whole(&to);
        // One that was committed is gone on with first.
        eventually("it is imported", || import(&to, &file, &[]).status == 0);
        let list = generations(&to);
        assert_eq!(list.last().expect("one")["root"], root.as_str());
        assert_eq!(to.exec("web", "cat /srv/twice"), "second");
        to.finish();
    }
    from.finish();
}

#[test]
fn an_export_keeps_what_it_reads_and_an_import_holds_nobody_up() {
    let (mut host, _) = history(&["env.N = \"1\""]);
    let (whole, root) = export(&host, 1, "whole.tank");
    let hold = host.dir.join("hold");
    host.kill_daemon();
    host.start_daemon_with(&[
        ("TANKD_HOLD_AT", "1"),
        ("TANKD_HOLD", hold.to_str().expect("a path")),
    ]);
    let mut command = host.command(&["generations", "export", "1", "-o", "held.tank"]);
    let exporting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut exporting = exporting.expect("tank");
    eventually("the export is held", || hold.exists());
    let before = names(&host, "layers");
    fs::remove_file(&hold).expect("goes on");
    assert!(exporting.wait().expect("tank").success());
    assert_eq!(
        fs::read(host.dir.join("held.tank")).expect("reads"),
        fs::read(&whole).expect("reads")
    );
    assert_eq!(names(&host, "layers"), before);

    // An export that nobody reads to its end, while its generation is deleted and all that it needs collected.
    let mut command = host.command(&["generations", "export", "1"]);
    let exporting = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut exporting = exporting.expect("tank");
    let mut out = exporting.stdout.take().expect("stdout");
    let mut bytes = vec![0; 512];
    std::io::Read::read_exact(&mut out, &mut bytes).expect("begins");
    host.switch("{}");
    host.tank(&["generations", "delete", "1"]).ok();
    host.tank(&["gc", "--keep", "1"]).ok();
    std::io::Read::read_to_end(&mut out, &mut bytes).expect("goes on");
    assert!(exporting.wait().expect("tank").success());
    assert!(bytes == fs::read(&whole).expect("reads"));
    host.tank(&["gc", "--keep", "1"]).ok();
    assert_eq!(names(&host, "layers"), BTreeSet::new());

    // Whoever sends slowly keeps nobody from anything.
    let mut command = host.command(&["generations", "import", "-"]);
    let slow = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut slow = slow.expect("tank");
    let mut input = slow.stdin.take().expect("stdin");
    input
        .write_all(&bytes[..bytes.len() - 2000])
        .expect("writes");
    eventually("layers come", || {
        !names(&host, "tmp").is_empty() || !names(&host, "layers").is_empty()
    });
    host.switch("{ pods.own.containers.app = { image = \"oci:./busybox\", command = [\"/bin/sleep\", \"1000\"], stop.signal = \"SIGKILL\" } }");
    host.tank(&["gc"]).ok();
    slow.kill().expect("kills");
    slow.wait().expect("ends");
    drop(input);
    eventually("what came of it goes", || names(&host, "tmp").is_empty());
    import(&host, &whole, &["--replace", "--root", &root]).ok();
    assert_eq!(host.exec("web", "cat /srv/twice"), "second");
    host.finish();
}

#[test]
fn a_damaged_layer_and_one_of_an_older_version_are_not_exported_until_repaired() {
    let (host, _) = history(&["env.N = \"1\""]);
    let (whole, _) = export(&host, 1, "whole.tank");
    let layers = host.dir.join("state/images/layers");
    let odd = names(&host, "layers")
        .into_iter()
        .filter(|name| name.ends_with(".recipe"));
    let odd = odd.min_by_key(|name| {
        fs::metadata(layers.join(name.replace(".recipe", ".erofs")))
            .expect("a layer")
            .len()
    });
    let odd = odd.expect("a layer").replace(".recipe", "");
    let of = |kind: &str| layers.join(format!("{odd}.{kind}"));
    let export_fails = |why: &str| {
        let failed = host.tank(&["generations", "export", "1", "-o", "bad.tank"]);
        assert_eq!(failed.status, 1);
        let said = words(&failed.stderr);
        assert!(
            said.contains(why) && said.contains("tank fsck --repair"),
            "{said}"
        );
        assert!(!host.dir.join("bad.tank").exists());
    };
    let export_works = |name: &str| {
        let again = export(&host, 1, name).0;
        assert!(fs::read(again).expect("reads") == fs::read(&whole).expect("reads"));
    };
    // A bit of a file's content: only the digest of the tar says it.
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(of("erofs"))
        .expect("opens");
    let mut content = fs::read(of("erofs")).expect("reads");
    let at = content
        .windows(8)
        .position(|window| window == [0, 1, 2, 3, 4, 5, 6, 7])
        .expect("its content");
    content[at] ^= 1;
    file.write_at(&content[at..=at], at as u64).expect("writes");
    export_fails("is damaged");
    host.tank(&["fsck", "--repair"]).ok();
    export_works("one.tank");
    // A recipe that is another one, and none.
    let recipe = fs::read(of("recipe")).expect("reads");
    fs::write(of("recipe"), &recipe[..recipe.len() / 2]).expect("writes");
    export_fails("is damaged");
    assert_eq!(host.tank(&["fsck"]).status, 1);
    host.tank(&["fsck", "--repair"]).ok();
    export_works("two.tank");
    fs::remove_file(of("recipe")).expect("removes");
    assert_eq!(host.tank(&["fsck"]).status, 1);
    host.tank(&["fsck", "--repair"]).ok();
    export_works("three.tank");
    // As a version before this one left it: it runs, and nothing is wrong with it.
    fs::remove_file(of("recipe")).expect("removes");
    let sum = fs::read_to_string(of("sum")).expect("reads");
    fs::write(
        of("sum"),
        format!("{}\n", sum.lines().next().expect("a line")),
    )
    .expect("writes");
    host.tank(&["fsck"]).ok();
    export_fails("kept no recipe");
    host.switch(&pod("oci:./images:app", "env.N = \"2\""));
    host.tank(&["fsck", "--repair"]).ok();
    export_works("four.tank");
    host.finish();
}

#[test]
fn images_are_saved_for_others_to_load() {
    let (mut host, reference) = history(&["env.N = \"1\""]);
    host.tank(&["image", "save", &reference, "-o", "saved.tar"])
        .ok();
    let members = unpack(&fs::read(host.dir.join("saved.tar")).expect("reads"));
    let member = |name: &str| {
        let mut found = members.iter().filter(|(known, _)| known == name);
        let (_, content) = found.next().expect("a member");
        assert!(found.next().is_none(), "{name} is there twice");
        content
    };
    let document = |name: &str| -> Value { serde_json::from_slice(member(name)).expect("JSON") };
    for (name, content) in &members {
        if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            assert_eq!(sha256(&host, content), hex);
        }
    }
    assert_eq!(
        document("oci-layout"),
        json!({ "imageLayoutVersion": "1.0.0" })
    );
    let blob = |digest: &Value| digest.as_str().expect("a digest").replace(':', "/");
    let listed = &document("index.json")["manifests"][0];
    let manifest = document(&format!("blobs/{}", blob(&listed["digest"])));
    let config = document(&format!("blobs/{}", blob(&manifest["config"]["digest"])));
    let entry = &document("manifest.json")[0];
    assert_eq!(
        entry["Config"],
        format!("blobs/{}", blob(&manifest["config"]["digest"]))
    );
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 2);
    for (index, layer) in layers.iter().enumerate() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
        assert_eq!(layer["digest"], config["rootfs"]["diff_ids"][index]);
        let name = format!("blobs/{}", blob(&layer["digest"]));
        assert_eq!(entry["Layers"][index], name.as_str());
        assert_eq!(layer["size"], member(&name).len());
    }
    // The layer is the one that was packed, to the byte.
    let packed = fs::read(host.dir.join("app.tar")).expect("reads");
    let top = format!("blobs/{}", blob(&layers[1]["digest"]));
    assert!(*member(&top) == packed);
    // Others read it, and Tank does, both ways.
    let listed = Command::new("tar")
        .arg("-tf")
        .arg(host.dir.join("saved.tar"))
        .output()
        .expect("tar");
    assert!(listed.status.success());
    let listing = host.exec("web", LISTING);
    let to = Host::new();
    for (number, way) in ["docker-archive", "oci-archive"].iter().enumerate() {
        let image = format!("{way}:{}", host.dir.join("saved.tar").display());
        to.switch(&pod(&image, &format!("env.WAY = \"{number}\"")));
        assert_eq!(to.exec("web", LISTING), listing);
    }
    // Several, of which one has a registry's name.
    host.start_registry();
    let named = "localhost:5000/nginx";
    host.switch(&pod(named, ""));
    let save = ["image", "save", named, &reference, "-o", "two.tar"];
    host.tank(&save).ok();
    let members = unpack(&fs::read(host.dir.join("two.tar")).expect("reads"));
    let (_, entries) = members
        .iter()
        .find(|(name, _)| name == "manifest.json")
        .expect("it is there");
    let entries: Value = serde_json::from_slice(entries).expect("JSON");
    assert_eq!(
        entries[0]["RepoTags"],
        json!(["localhost:5000/nginx:latest"])
    );
    assert_eq!(entries[1]["RepoTags"], Value::Null);
    let place = host.dir.join("two.tar");
    for (number, name) in ["docker-archive", "oci-archive"]
        .iter()
        .zip(["localhost:5000/nginx", "latest"])
        .enumerate()
    {
        let image = format!("{}:{}:{}", name.0, place.display(), name.1);
        to.switch(&pod(&image, &format!("env.NAMED = \"{number}\"")));
        assert_eq!(to.exec("web", "echo $NAMED"), number.to_string());
    }
    let unknown = to.tank(&["image", "save", "nginx:1.27", "-o", "x.tar"]);
    assert_eq!(unknown.status, 1);
    assert!(!to.dir.join("x.tar").exists());
    host.finish();
    to.finish();
}
