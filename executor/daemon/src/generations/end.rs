//! Ending all that runs, for whoever takes Tank off a host: what is declared stays, and another start brings it back.

use super::{Error, Generations, empty_graph, error::Context};
use std::sync::Arc;
use tank_sys::with_causes;

/// How often it is tried. What is in the way of a step is often gone with the step after it.
const PASSES: u32 = 10;

impl Generations {
    /// Ends every pod, in the order of a change that removes them, with what this host has for their sake. The next
    /// start of this daemon would begin them again.
    ///
    /// # Errors
    /// A text that says what is left, and why.
    pub async fn end_pods(&self) -> Result<(), String> {
        let text = |error: Error| with_causes(&error);
        let nothing = Arc::new(empty_graph().map_err(text)?);
        let current = self.store.current().doing("read the current generation");
        let current = match current.map_err(text)? {
            Some(current) => self.graphs.of_generation(current),
            None => Ok(None),
        };
        let current = current.doing("read the current generation").map_err(text)?;
        let _lock = self.reconciler.lock().await;
        let mut left = Vec::new();
        for _ in 0..PASSES {
            self.reconciler.retry_failures();
            let pass = self.reconciler.pass(&nothing, current.as_deref(), &|_| {});
            let pass = pass.await.map_err(|error| with_causes(&error))?;
            if pass.plan.is_empty() {
                return Ok(());
            }
            left = pass.failed;
        }
        let left: Vec<String> = left
            .iter()
            .map(|failed| format!("{}: {}", failed.step, with_causes(&failed.error)))
            .collect();
        Err(format!("not everything has ended: {}", left.join("; ")))
    }
}
