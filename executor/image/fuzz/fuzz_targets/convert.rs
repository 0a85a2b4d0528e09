//! The archive of a layer: never a panic, and an end.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // A file without a name: what is written is read again.
    let path = std::env::temp_dir().join(format!("tank-fuzz-{}", std::process::id()));
    let mut options = std::fs::File::options();
    let output = options.read(true).write(true).create_new(true).open(&path);
    let _ = std::fs::remove_file(&path);
    tank_image::fuzzing::convert(bytes, output.expect("a file"));
});
