//! The archive of a layer: never a panic, and an end.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tank_image::fuzzing::archive(bytes));
