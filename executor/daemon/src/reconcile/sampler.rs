//! What pods use over time: looked at and kept, by a thread of its own.
//!
//! An idle host is woken twice a minute for it, and not at all where nothing runs: the thread sleeps until the next full half minute, and
//! neither a shim nor another thread of this process has to wake for what it reads. Every second time it writes, all of it at once.

use super::Reconciler;
use crate::{
    events::{Kind, now},
    figures::{Figures, Series},
};
use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};
use tank_plan::figures::{FINE, Sample};
use tank_sys::with_causes;
use tokio::runtime::Handle;

/// How many samples are written at once.
const SAMPLES_OF_A_WRITE: u32 = 2;

/// How long after something has happened on a host without pods it is looked for some again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Reconciler {
    /// What is kept.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Begins to sample, for as long as the process lives.
    pub fn keep_figures(self: &Arc<Self>) {
        let (reconciler, runtime) = (Arc::clone(self), Handle::current());
        let thread = thread::Builder::new().name("figures".to_owned());
        let spawned = thread.spawn(move || {
            // A shim may be connected to again, which is the runtime's to do.
            let _entered = runtime.enter();
            reconciler.keep_sampling(&runtime);
        });
        if let Err(error) = spawned {
            let message = format!("figures over time are not kept: {error}");
            self.events.add(Kind::Note, None, message);
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own may wait: it is no worker"
    )]
    fn keep_sampling(&self, runtime: &Handle) {
        let (mut failing, mut waiting) = (false, 0);
        loop {
            let version = self.dirty.version();
            if self.pods.living().is_empty() {
                if std::mem::take(&mut waiting) > 0 {
                    self.write_figures(&mut failing);
                }
                runtime.block_on(self.dirty.changed_since(version));
                thread::sleep(LOOK_AGAIN_AFTER);
                continue;
            }
            // Times that are everybody's wake a host once for all of them.
            thread::sleep(Duration::from_millis(FINE.step - now() % FINE.step));
            self.sample(&mut failing);
            waiting += 1;
            if waiting >= SAMPLES_OF_A_WRITE {
                waiting = 0;
                self.write_figures(&mut failing);
            }
        }
    }

    /// Looks once more, and writes what waits: before this process ends. Blocking.
    pub fn end_figures(&self) {
        let mut failing = false;
        self.sample(&mut failing);
        self.write_figures(&mut failing);
    }

    /// What every pod that runs has used by now; it is not kept. Blocking.
    pub fn sample_now(&self) -> BTreeMap<Series, Sample> {
        // Where it can't be read, what is kept is all there is.
        let samples = self.observer.sample().unwrap_or_default();
        samples.into_iter().collect()
    }

    fn sample(&self, failing: &mut bool) {
        match self.observer.sample() {
            Ok(samples) => {
                for (series, sample) in samples {
                    self.figures.add(series, sample);
                }
            }
            Err(error) => self.note_failure(failing, &with_causes(&error)),
        }
    }

    fn write_figures(&self, failing: &mut bool) {
        match self.figures.flush() {
            Ok(()) => *failing = false,
            Err(error) => self.note_failure(failing, &error.to_string()),
        }
    }

    /// One event for as long as it goes on.
    fn note_failure(&self, failing: &mut bool, why: &str) {
        if !std::mem::replace(failing, true) {
            let message = format!("figures over time are not kept: {why}");
            self.events.add(Kind::Note, None, message);
        }
    }
}
