//! The archive of a layer: never a panic, and an end; and what was converted is written again as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Files without a name: what is written is read again.
    let file = |what: &str| {
        let name = format!("tank-fuzz-{}-{what}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let _ = std::fs::remove_file(&path);
        file.expect("a file")
    };
    tank_image::fuzzing::convert(bytes, file("image"), file("recipe"));
});
