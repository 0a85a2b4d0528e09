//! A change that would cut off a program of the host is refused.

use super::{
    Error,
    error::{Context, Unfit},
};
use crate::observe::listeners;
use std::sync::Arc;
use tank_model::{Graph, check::HOST_PORT};
use tank_plan::ports;
use tank_sys::cgroup::Cgroups;

/// Refuses a change that would publish a port at which a program of the host listens.
///
/// # Errors
/// [`Error::Unfit`] with each such port; what the kernel gave where it can't be looked at.
pub async fn refuse_taken(
    cgroups: &Arc<Cgroups>,
    before: &Graph,
    after: &Graph,
) -> Result<(), Error> {
    let wanted = ports::added(before, after);
    if wanted.is_empty() {
        return Ok(());
    }
    let cgroups = Arc::clone(cgroups);
    let look = move || listeners(&cgroups, &wanted);
    let found = tokio::task::spawn_blocking(look)
        .await
        .doing("look who listens")?;
    let problems = ports::taken(before, after, &found.doing("look who listens")?);
    if problems.is_empty() {
        Ok(())
    } else {
        let found = problems.into_iter().map(|found| (HOST_PORT, found));
        Err(Error::Unfit(Box::new(Unfit::on_this_host(found.collect()))))
    }
}
