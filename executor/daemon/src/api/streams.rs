//! Calls that are answered by more than one reply, and what is done while a client stays.

use super::{
    client::Client,
    exec::target,
    refusal::{Refusal, internal},
    views,
};
use crate::{
    dirty::DEBOUNCE,
    generations::{self, Generations, Progress, Switched},
    pods::{
        log_watch::Followed,
        logs::{self, Tail},
    },
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tank_proto::{
    varlink::{self, Error, LogsCall},
    wire,
};
use tokio::{
    io::Interest,
    net::UnixStream,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use zlink::Reply;

/// How often it is looked whether the client of a long call is still there.
const CLIENT_POLL_PERIOD: Duration = Duration::from_millis(100);

/// How often a followed log is read whatever the kernel notifies of.
const LOG_RECHECK_PERIOD: Duration = Duration::from_secs(10);

/// How often a followed log is read whose folder can't be watched.
const LOG_POLL_PERIOD: Duration = Duration::from_millis(100);

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

    pub async fn logs(
        &mut self,
        generations: &Generations,
        call: LogsCall,
        more: bool,
    ) -> Result<(), Refusal> {
        if !more {
            return Err(Refusal::Service("ExpectedMore", json!({})));
        }
        let (pod, container) = target(generations, &call.pod, call.container.as_deref())?;
        let (path, count) = (
            logs::path(&self.floors.settings, pod.as_str(), container.as_str()),
            call.tail,
        );
        let follow = call.follow == Some(true);
        let gone = || Error::Failed {
            what: "read the log".to_owned(),
            why: "its reader ended".to_owned(),
        };
        let mut tail = logs::blocking(move || Tail::open(path, count))
            .await
            .ok_or_else(gone)?;
        let folder = self.floors.settings.log_dir(pod.as_str());
        let watch = Arc::clone(self.floors.pods.logs());
        let mut followed = None;
        loop {
            if follow {
                // Before it is read: what is written meanwhile wakes the wait below.
                match &mut followed {
                    None => followed = watch.follow(&folder),
                    Some(followed) => followed.mark_seen(),
                }
            }
            // A block is read when the one before is sent, so an asker who left has the rest read
            // to nobody.
            let read = move || {
                let lines = if follow { tail.follow() } else { tail.read() };
                (tail, lines)
            };
            let (back, lines) = logs::blocking(read).await.ok_or_else(gone)?;
            tail = back;
            if !lines.is_empty() {
                self.log_lines(container.as_str(), lines).await?;
            } else if follow {
                if !self.while_listening(next_write(&mut followed)).await? {
                    followed = None;
                }
            } else {
                break;
            }
        }
        self.end_of_logs().await
    }

    /// The last reply of a stream carries nothing: an empty line of no container.
    async fn end_of_logs(&mut self) -> Result<(), Refusal> {
        let (container, line) = (String::new(), String::new());
        let end = varlink::LogsReply { container, line };
        self.reply(&end, false, Vec::new()).await
    }

    /// Sends a block of lines at once, each as a reply of its own.
    async fn log_lines(&mut self, container: &str, lines: Vec<String>) -> Result<(), Refusal> {
        let mut bytes = Vec::new();
        for line in lines {
            let reply = varlink::LogsReply {
                container: container.to_owned(),
                line,
            };
            let reply = Reply::new(Some(&reply)).set_continues(Some(true));
            wire::encode(&reply, &mut bytes).map_err(|_| Refusal::Gone)?;
        }
        self.send_encoded(&bytes, Vec::new()).await
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

/// Waits until there may be more of a followed log. False: its folder is watched anew.
async fn next_write(followed: &mut Option<Followed>) -> bool {
    let Some(followed) = followed else {
        sleep(LOG_POLL_PERIOD).await;
        return false;
    };
    match timeout(LOG_RECHECK_PERIOD, followed.changed()).await {
        Ok(true) => {
            // A log that is written line by line is read in blocks.
            sleep(DEBOUNCE).await;
            true
        }
        Ok(false) => false,
        Err(_) => true,
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
