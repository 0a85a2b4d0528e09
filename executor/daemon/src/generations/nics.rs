//! Refuses a change whose interfaces can't be connected on this host, before anything is disturbed.

use super::{Error, Generations};
use tank_model::Graph;

impl Generations {
    /// Refuses a change that declares an interface whose parent is not there, is down, or can't be
    /// one.
    ///
    /// # Errors
    /// [`Error::Invalid`] with each such interface; what the kernel gave where it can't be looked at.
    pub(super) async fn refuse_nics(&self, before: &Graph, after: &Graph) -> Result<(), Error> {
        let problems = self.reconciler.unusable_nics(before, after).await?;
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::Invalid(problems)),
        }
    }
}
