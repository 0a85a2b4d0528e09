//! Archives written again, and recipes that are none.

use super::*;
use crate::{
    fuzzing::{self, tests::file},
    recipe::Recipe,
};
use std::{path::Path, process::Command};

/// What a script prints, which has a folder of its own.
fn archive(script: &str) -> Vec<u8> {
    let script = format!("set -eu; d=$(mktemp -d); trap 'rm -r $d' EXIT; cd $d; {script}");
    let output = Command::new("bash").args(["-c", &script]).output();
    let output = output.expect("bash");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    output.stdout
}

const FILES: &str = "mkdir -p a/b; head -c 100000 /dev/urandom > a/big; echo small > a/b/small; : > a/empty; \
     ln a/big a/same; ln -s big a/link; mkfifo a/fifo; truncate -s 900K a/holes; \
     printf x | dd of=a/holes bs=1 seek=500000 conv=notrunc status=none; head -c 70000 /dev/zero > a/zeros; \
     head -c 4096 /dev/urandom > a/block; l=$(printf 'l%.0s' $(seq 200)); echo long > a/$l; echo hid > a/.wh.gone; ";

/// What GNU tar and Python write, in every format of theirs.
#[test]
fn what_others_write_is_written_again() {
    let python = |code: &str| {
        format!(
            "python3 -c \"import tarfile, io, sys\nt = tarfile.open(fileobj=sys.stdout.buffer, mode='w|')\n\
             def add(name, data=b'', **more):\n    i = tarfile.TarInfo(name); i.size = len(data)\n    \
             [setattr(i, k, v) for k, v in more.items()]\n    t.addfile(i, io.BytesIO(data))\n{code}\nt.close()\""
        )
    };
    let scripts = [
        format!("{FILES} tar -c --format=gnu --sparse a"),
        format!("{FILES} tar -c --format=pax --sparse a"),
        format!("{FILES} tar -c --format=pax --sparse --sparse-version=0.0 a"),
        format!("{FILES} tar -c --format=pax --sparse --sparse-version=0.1 a"),
        format!("{FILES} tar -c --format=oldgnu --sparse a"),
        // No end, and something behind it.
        format!("{FILES} tar -c --blocking-factor=1 a | head -c -1024"),
        format!("{FILES} tar -c a; echo behind; head -c 200000 /dev/urandom"),
        // Twice the same name, a whiteout with content, a folder with content, what nobody knows.
        python("add('f', b'first'); add('f', b'second' * 9999); add('.wh.f', b'w' * 700)"),
        python(
            "add('d', b'of a folder', type=tarfile.DIRTYPE); add('e', b'z' * 600000, type=b'Q')",
        ),
        python(
            "add('x', b'1', pax_headers={'SCHILY.xattr.user.a': 'b', 'mtime': '1.5'}); add('y', type=tarfile.CHRTYPE)",
        ),
    ];
    for script in scripts {
        let bytes = archive(&script);
        assert!(bytes.len() > 500, "{script}");
        assert!(fuzzing::convert(&bytes, file(), file()), "{script}");
    }
}

/// An image with one file of `content`, and the recipe that `write` writes of it.
fn made(content: &[u8], write: impl FnOnce(&mut Recipe, Nid)) -> (File, Image) {
    let (image, recipe) = (file(), file());
    let mut writer = tank_erofs::Writer::new(image.try_clone().expect("a file"));
    let attributes = tank_erofs::Attributes::default();
    let mut begun = writer
        .content(content.len() as u64, &attributes)
        .expect("a file");
    begun.write(content).expect("writes");
    let nid = begun.finish(Kind::File, &attributes).expect("an inode");
    writer
        .finish(&tank_erofs::Tree::default())
        .expect("an image");
    let written = recipe.try_clone().expect("a file");
    let mut begun = Recipe::new(written, &budget()).expect("a recipe");
    write(&mut begun, nid);
    begun.finish().expect("ends");
    (recipe, Image::open(image).expect("an image"))
}

fn budget() -> Budget {
    Budget::new(Path::new("/"))
}

fn written((recipe, image): &(File, Image)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    rebuild(recipe, image, &mut bytes, &budget())?;
    assert_eq!(length(recipe)?, bytes.len() as u64);
    Ok(bytes)
}

#[test]
fn a_recipe_leads_to_nothing_but_content_of_its_image() {
    let content = vec![7; 10_000];
    let good = made(&content, |recipe, nid| {
        recipe.bytes(b"head").expect("writes");
        recipe.content(nid, 9_000, 1_000).expect("writes");
        recipe.content(nid, 0, 1).expect("writes");
    });
    let expected = [&b"head"[..], &[7; 1_001]].concat();
    assert_eq!(written(&good).expect("an archive"), expected);
    type Wrong = fn(&mut Recipe, Nid);
    let wrong: [(Wrong, &str); 5] = [
        (
            |recipe, nid| recipe.content(nid, 9_000, 1_001).expect("writes"),
            "does not have",
        ),
        (
            |recipe, nid| recipe.content(nid, u64::MAX, 2).expect("writes"),
            "does not have",
        ),
        // The root, which is a directory; and one behind the file's end.
        (
            |recipe, _| recipe.content(Nid::of_number(36), 0, 1).expect("writes"),
            "does not have",
        ),
        (
            |recipe, _| {
                recipe
                    .content(Nid::of_number(1 << 40), 0, 1)
                    .expect("writes")
            },
            "",
        ),
        (
            |recipe, nid| recipe.content(nid, 0, MAX_BYTES + 1).expect("writes"),
            "too long",
        ),
    ];
    for (write, why) in wrong {
        let error = written(&made(&content, write)).expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn what_is_no_recipe_is_refused() {
    let packed = |bytes: &[u8]| {
        let (mut out, compressed) = (file(), zstd::encode_all(bytes, 1).expect("packs"));
        out.write_all(&compressed).expect("writes");
        out
    };
    let of = |rest: &[u8]| packed(&[&MAGIC[..], rest].concat());
    assert_eq!(length(&of(&[2, b'x', 0, 1])).expect("one byte"), 1);
    for (recipe, why) in [
        (packed(b"TANKTAR\x02\0\0"), "another form"),
        (of(&[2, b'x', 0, 2]), "another length"),
        (of(&[1, 0, 0]), "is none"),
        (of(&[0x82, 0x80, 0x08, b'x']), "too long"),
        (of(&[0xff; 12]), "too large"),
        (of(&[2, b'x']), ""),
        (of(&[]), ""),
        (file(), ""),
    ] {
        let error = length(&recipe).expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
    }
    // What needs more memory than a recipe may.
    let (mut out, mut far) = (file(), Vec::new());
    let mut encoder = zstd::Encoder::new(&mut far, 1).expect("an encoder");
    encoder.window_log(27).expect("a window");
    encoder.write_all(MAGIC).expect("packs");
    encoder.finish().expect("packs");
    out.write_all(&far).expect("writes");
    let error = length(&out).expect_err("too much memory");
    assert!(error.to_string().contains("memory"), "{error}");
}
