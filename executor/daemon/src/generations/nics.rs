//! Refuses a change whose interfaces can't be connected on this host, or whose networks can't be made,
//! before anything is disturbed.

use super::{Error, Generations};
use tank_model::Graph;

impl Generations {
    /// Refuses a change that declares an interface whose parent is not there, is down, or can't be
    /// one, or a network whose subnet is somebody's already.
    ///
    /// # Errors
    /// [`Error::Invalid`] with each of these; what the kernel gave where it can't be looked at.
    pub(super) async fn refuse_unconnectable(
        &self,
        before: &Graph,
        after: &Graph,
    ) -> Result<(), Error> {
        let mut problems = self.reconciler.unusable_nics(before, after).await?;
        problems.extend(self.reconciler.unusable_networks(before, after).await?);
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::Invalid(problems)),
        }
    }
}
