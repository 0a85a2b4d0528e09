//! Manifests, indexes and configurations, as a registry sends them: never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tank_image::fuzzing::documents(bytes));
