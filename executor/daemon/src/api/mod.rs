//! The socket: Varlink connections, each a task of its own, so that a client that does not read stops
//! nobody else. The only floor that knows the shapes of the interface.
//!
//! Who may call is settled before a byte is read ([`access`]), and how much of a call is taken before
//! it is parsed ([`tank_proto::wire::Calls`]).

pub mod access;
mod bundles;
mod by_hand;
mod calls;
mod client;
mod copies;
mod exec;
mod figures;
mod forward;
mod images;
mod logs;
mod metrics;
mod refusal;
mod registries;
mod run;
mod states;
mod stats;
mod streams;
mod upkeep;
mod views;
mod volumes;

use crate::{
    events::Events, generations::Generations, pods::Pods, reconcile::Reconciler, settings::Settings,
};
use access::{Authorizer, Places};
use client::Client;
use refusal::{RawError, Refusal};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tank_proto::{varlink::Error, wire};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::sleep,
};

/// The most long calls at once of root, and of everybody else: what they hold in memory is bounded by
/// that.
const LONG_CALLS_OF_ROOT: usize = 8;
const LONG_CALLS_OF_MEMBERS: usize = 2;

/// How long after a connection that could not be accepted the next one is.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// What calls are answered from.
pub struct Floors {
    pub generations: Arc<Generations>,
    pub reconciler: Arc<Reconciler>,
    pub pods: Arc<Pods>,
    pub settings: Arc<Settings>,
    pub events: Arc<Events>,
}

/// Serves what was bound until the process ends.
pub async fn serve(floors: Floors, listener: UnixListener) {
    let floors = Arc::new(floors);
    metrics::keep(&floors);
    let server = Arc::new(Server {
        floors,
        authorizer: Authorizer::default(),
        places: Arc::default(),
        long_of_root: Arc::new(Semaphore::new(LONG_CALLS_OF_ROOT)),
        long_of_members: Arc::new(Semaphore::new(LONG_CALLS_OF_MEMBERS)),
    });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(Arc::clone(&server).receive(stream))),
            Err(error) => {
                tracing::warn!(%error, "accept");
                sleep(ACCEPT_RETRY_AFTER).await;
            }
        }
    }
}

/// What all connections share.
struct Server {
    floors: Arc<Floors>,
    authorizer: Authorizer,
    places: Arc<Places>,
    long_of_root: Arc<Semaphore>,
    long_of_members: Arc<Semaphore>,
}

impl Server {
    /// Serves one connection, or sends why not, without reading from it or waiting for it.
    async fn receive(self: Arc<Self>, stream: UnixStream) {
        let Some(uid) = self.authorizer.authorize(&stream).await else {
            return refuse(&stream, Refusal::Service("PermissionDenied", json!({})));
        };
        let Some(place) = self.places.take(uid) else {
            let message =
                format!("user {uid} has too many calls open: try again when some of them are over");
            let ends = None;
            return refuse(&stream, Error::Busy { message, ends }.into());
        };
        let long_calls = if uid == 0 {
            &self.long_of_root
        } else {
            &self.long_of_members
        };
        let client = Client {
            floors: Arc::clone(&self.floors),
            stream,
            calls: wire::Calls::default(),
            long_calls: Arc::clone(long_calls),
            uid,
            oneway: false,
        };
        client.run(&place).await;
    }
}

/// Sends as much of it as fits: a refused client is not waited for.
fn refuse(stream: &UnixStream, refusal: Refusal) {
    let mut bytes = Vec::new();
    if RawError::new(refusal).is_some_and(|error| wire::encode(&error, &mut bytes).is_ok()) {
        let _ = stream.try_write(&bytes);
    }
}
