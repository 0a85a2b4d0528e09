//! Calls that are answered by more than one reply, and what is done while a client stays.

use super::{
    client::Client,
    refusal::{Refusal, internal},
    views,
};
use crate::generations::{self, Progress, Switched};
use std::time::Duration;
use tank_proto::varlink;
use tokio::{io::Interest, net::UnixStream, sync::mpsc, task::JoinHandle, time::sleep};

/// How often it is looked whether the client of a long call is still there.
const CLIENT_POLL_PERIOD: Duration = Duration::from_millis(100);

impl Client {
    /// Passes progress on while a change goes its way. When the client leaves, the progress has
    /// nobody any more: that ends a change which is not committed yet, and no other.
    pub async fn stream_change(
        &mut self,
        work: JoinHandle<Result<Switched, generations::Error>>,
        mut progress: mpsc::Receiver<Progress>,
        (more, layers): (bool, bool),
    ) -> Result<(), Refusal> {
        while let Some(progress) =
            while_connected(&self.stream, async { Ok(progress.recv().await) }).await?
        {
            if more && (layers || progress.layer.is_none()) {
                let reply = varlink::SwitchReply {
                    progress: Some(views::progress(progress)),
                    outcome: None,
                };
                self.reply(&reply, true, Vec::new()).await?;
            }
        }
        let outcome = work
            .await
            .map_err(|e| internal("carry the change out", e))??;
        self.reply(
            &varlink::SwitchReply {
                progress: None,
                outcome: Some(views::outcome(outcome)),
            },
            false,
            Vec::new(),
        )
        .await
    }

    /// Waits for something, but no longer than the client stays: one that has gone has closed its
    /// side.
    pub(super) async fn while_listening<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        tokio::select! {
            done = work => Ok(done),
            // Not readable but closed: what it calls next is read when this call is over.
            _ = self.stream.ready(Interest::PRIORITY) => Err(Refusal::Gone),
        }
    }
}

/// Works for a client for as long as it is connected. What it sends meanwhile waits for its turn;
/// one that only closes its own direction still listens.
pub async fn while_connected<T>(
    client: &UnixStream,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let hung_up = async {
        let both = Interest::READABLE | Interest::WRITABLE;
        while !client
            .ready(both)
            .await
            .is_ok_and(|ready| ready.is_write_closed())
        {
            sleep(CLIENT_POLL_PERIOD).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = hung_up => Err(Refusal::Gone),
    }
}
