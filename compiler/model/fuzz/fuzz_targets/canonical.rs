//! The decoder that reads what clients send: never a panic, and what it takes it would write the
//! same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tank_model::{Config, Graph, canonical, check};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = canonical::decode::<Config>(bytes) {
        assert_eq!(canonical::encode(&config).expect("encodes"), bytes);
        let _ = check::check(&config);
        let graph = Graph::build(&config, |_| None).expect("builds");
        // The stack of a source is no part of what runs: its pods' names hold it.
        let stack = config.stack.clone();
        assert_eq!(Config { stack, ..graph.config() }, config);
    }
});
