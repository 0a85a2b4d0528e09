//! Places for archives that are written or read: few at once, and none for who sends nothing.

use super::{Error, Generations, error::Context};
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::{net::unix::pipe, sync::OwnedSemaphorePermit, time::timeout};

/// The most archives that are written or read at once.
pub const MAX_TRANSFERS: usize = 4;

/// The longest that is waited for the first byte: an image is saved elsewhere first, and somebody may type a password.
const FIRST_BYTE: Duration = Duration::from_secs(600);

impl Generations {
    /// A place for an archive.
    ///
    /// # Errors
    /// When there is none left.
    pub(super) fn transfer(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = Arc::clone(&self.transfers).try_acquire_owned();
        place.map_err(|_| Error::TooManyTransfers)
    }

    /// A place for an archive that comes out of a pipe, once something of it has come: who sends nothing holds a connection
    /// and no place.
    ///
    /// # Errors
    /// When nothing comes, or there is no place left by then.
    pub(super) async fn transfer_from(
        &self,
        pipe: &OwnedFd,
        what: &'static str,
    ) -> Result<OwnedSemaphorePermit, Error> {
        rustix::io::ioctl_fionbio(pipe, true).doing(what)?;
        let same = pipe.try_clone().doing(what)?;
        let begun = pipe::Receiver::from_owned_fd(same).doing(what)?;
        let Ok(ready) = timeout(FIRST_BYTE, begun.readable()).await else {
            let why = format!("nothing has come for {} s", FIRST_BYTE.as_secs());
            return Err(why).doing(what);
        };
        ready.doing(what)?;
        self.transfer()
    }
}
