//! Refuses a change whose interfaces can't be connected on this host, whose networks can't be made, or whose
//! volumes can't be limited or backed up, before anything is disturbed.

use super::{Error, Generations, error::Unfit};
use tank_model::{
    Graph,
    check::{HOST_NETWORK, HOST_NIC},
};

impl Generations {
    /// Refuses a change that declares an interface whose parent is not there, is down, or can't be
    /// one, a network whose subnet is somebody's already, a volume's size that nothing would hold it to, or backups
    /// into a folder that can't be used.
    ///
    /// # Errors
    /// [`Error::Unfit`] with each of these; what the kernel gave where it can't be looked at.
    pub(super) async fn refuse_unconnectable(
        &self,
        before: &Graph,
        after: &Graph,
    ) -> Result<(), Error> {
        self.refuse_unlimitable(before, after).await?;
        self.refuse_unusable_folders(before, after).await?;
        let nics = self.reconciler.unusable_nics(before, after).await?;
        let networks = self.reconciler.unusable_networks(before, after).await?;
        let nics = nics.into_iter().map(|found| (HOST_NIC, found));
        let networks = networks.into_iter().map(|found| (HOST_NETWORK, found));
        let found: Vec<_> = nics.chain(networks).collect();
        match found.is_empty() {
            true => Ok(()),
            false => Err(Error::Unfit(Box::new(Unfit::on_this_host(found)))),
        }
    }
}
