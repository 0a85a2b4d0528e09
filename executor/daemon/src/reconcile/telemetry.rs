//! What passes have cost and done since this process began: for whoever asks for metrics.

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use std::time::Duration;

/// In seconds: a pass without steps takes milliseconds, one that waits for processes to end as long as these may.
const BUCKETS: [f64; 12] = [
    0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0,
];

/// Counted while the process lives. Clones share what they count.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// How long each pass took.
    pub passes: Histogram,
    /// Passes that found or did not do all they should.
    pub failures: Counter,
    /// Steps that were carried out.
    pub steps: Counter,
    /// Those of them that put back what no change of the configuration made different.
    pub repairs: Counter,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            passes: Histogram::new(BUCKETS),
            failures: Counter::default(),
            steps: Counter::default(),
            repairs: Counter::default(),
        }
    }
}

impl Telemetry {
    pub fn add_pass(&self, took: Duration, failed: bool) {
        self.passes.observe(took.as_secs_f64());
        if failed {
            self.failures.inc();
        }
    }
}
