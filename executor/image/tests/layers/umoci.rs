//! Images beside what `umoci unpack` makes of them: what is legal in a layer, entry by entry.

use super::{BLOCK, Place, archive, packed, run};
use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsRawFd,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use tank_model::Digest;

/// What a script makes in a folder of its own, packed.
fn made(place: &Place, name: &str, script: &str) -> Vec<u8> {
    let from = place.folder.join(name);
    fs::create_dir_all(&from).expect("a folder");
    run(script, &from);
    let tar = packed(&from, &["--xattrs-include=*"]);
    fs::remove_dir_all(&from).expect("removed");
    tar
}

/// A layer of two archives, the first without its end.
fn joined(mut first: Vec<u8>, second: &[u8]) -> Vec<u8> {
    while first.ends_with(&[0; BLOCK]) {
        first.truncate(first.len() - BLOCK);
    }
    first.extend(second);
    first
}

/// All there is of every entry, and which of them are one file.
fn described(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut files: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(top).expect("below").as_os_str();
            let name = name.as_encoded_bytes().escape_ascii().to_string();
            let stat = fs::symlink_metadata(&path).expect("it is there");
            let kind = stat.file_type();
            let content = if kind.is_dir() {
                folders.push(path.clone());
                String::new()
            } else if kind.is_file() {
                Digest::of(&fs::read(&path).expect("reads")).to_string()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("a link").display())
            } else {
                format!("{:x}", stat.rdev())
            };
            if !kind.is_dir() {
                files.entry(stat.ino()).or_default().push(name.clone());
            }
            let (mode, owner) = (stat.mode(), (stat.uid(), stat.gid()));
            let time = (stat.mtime(), stat.mtime_nsec());
            let attributes = attributes(&path);
            lines.push(format!(
                "{name} {mode:o} {owner:?} {time:?} {content} {attributes:?}"
            ));
        }
    }
    for mut names in files.into_values().filter(|names| names.len() > 1) {
        names.sort();
        lines.push(format!("one file: {names:?}"));
    }
    lines.sort();
    lines
}

/// The extended attributes of an entry, but for those of overlayfs itself.
fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("names");
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    let names = names
        .split_terminator('\0')
        .filter(|name| !name.starts_with("trusted.overlay."));
    let mut found: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("a value");
            value.truncate(length);
            (name.to_owned(), value)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn an_image_is_what_umoci_makes_of_it() {
    let place = Place::new("umoci");
    let lower = made(
        &place,
        "lower",
        r#"
        mkdir -p a/deep/er b c hidden/in partly/in kept dir-to-file; chmod 1777 a; chmod 2750 b; chown -R 1000:2000 b
        printf x > a/one; ln a/one a/two; ln a/one b/three; chown 7:8 a/one; chmod 6755 a/one
        ln -s ../a/one c/sym; ln -s /etc/passwd c/absolute; ln -s nowhere c/dangling; chown -h 5:6 c/sym; mkfifo -m 640 c/pipe
        printf secret > hidden/in/file; printf secret > partly/in/file; printf stays > partly/stays; printf old > file-to-dir; printf f > dir-to-file/f
        printf old > replaced; printf gone > gone; ln -s a/one link-to-file; printf t > target; ln target other-name
        head -c 100000 /dev/urandom > c/random; : > c/empty; name=$(printf 'n%.0s' $(seq 255)); printf n > "c/$name"
        printf 'odd' > "$(printf 'c/odd\tname\377')"
        touch -d '1969-12-31 23:59:58.5 UTC' c/before; touch -d '2120-02-03 04:05:06.123456789 UTC' c/after; touch -h -d '2001-02-03 04:05:06.7 UTC' c/sym
        setfattr -n user.text -v hello a/one; setfattr -n user.binary -v 0x00ff0a3d22 a/deep
        find . -type d -exec touch -d '2020-01-02 03:04:05.25 UTC' {} +"#,
    );
    let upper = made(
        &place,
        "upper",
        r#"
        mkdir -p hidden partly/in a new/dir file-to-dir; : > hidden/.wh..wh..opq; : > .wh.gone; : > partly/.wh.in2; : > partly/in/.wh.file
        printf new > hidden/new; printf new > replaced; chmod 600 replaced; printf d > file-to-dir/d; printf now > dir-to-file
        printf inside > link-to-file; chmod 700 a; printf four > a/four; mkdir many; : > many/.wh.1
        find . -type d -exec touch -d '2021-01-02 03:04:05.25 UTC' {} +"#,
    );
    // As many as a large image has.
    let folders: Vec<String> = (0..275).map(|number| format!("many/{number}")).collect();
    let name = |number: usize| format!("many/{}/f{number}", number / 200);
    let files: Vec<String> = (0..55_000).map(name).collect();
    let mut many = vec![(b'5', "many", "")];
    many.extend(folders.iter().map(|name| (b'5', name.as_str(), "")));
    many.extend(
        files
            .iter()
            .map(|name| (b'0', name.as_str(), name.as_str())),
    );
    let lower = joined(lower, &archive(&many));
    // Names of a file of the layer below.
    let linked = archive(&[
        (b'1', "new/name-of-target", "target"),
        (b'1', "new/name-of-link", "c/sym"),
    ]);
    let shown = place.shows(&[lower, joined(upper, &linked)]);
    let at = PathBuf::from(format!("/proc/self/fd/{}", shown.0.as_raw_fd()));
    let bundle = place.folder.join("bundle");
    let image = format!("{}/layout:it", place.folder.display());
    let unpacked = Command::new("umoci")
        .args(["raw", "unpack", "--image", &image])
        .arg(&bundle)
        .output()
        .expect("umoci");
    assert!(
        unpacked.status.success(),
        "{}",
        String::from_utf8_lossy(&unpacked.stderr)
    );
    let (expected, found) = (described(&bundle), described(&at));
    assert!(expected.len() > 55_000, "{}", expected.len());
    let differ = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter()
            .filter(|line| other.binary_search(line).is_err())
            .take(50)
            .cloned()
            .collect()
    };
    // A name of a file of a layer below is a file of its own here, with the same content.
    let one = |names: &[&str]| format!("one file: {names:?}");
    let (target, link) = ("new/name-of-target", "new/name-of-link");
    let linked = [
        one(&["c/sym", link]),
        one(&[target, "other-name", "target"]),
    ];
    assert_eq!(differ(&expected, &found), linked);
    assert_eq!(differ(&found, &expected), [one(&["other-name", "target"])]);
}
