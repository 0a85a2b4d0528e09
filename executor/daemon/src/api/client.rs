//! One connection: its calls, one after the other, and their replies.

use super::{
    Floors,
    access::Place,
    refusal::{RawError, Refusal},
};
use crate::pods::logs;
use serde::Serialize;
use serde_json::{Value, json};
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};
use tank_proto::{
    call::{Head, Wrong},
    varlink::{DESCRIPTION, Error, INTERFACE, Method},
    wire::{self, Calls, Frame, MAX_CALL, Unread},
};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use zlink::Reply;

/// The longest a client may take to read one reply.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// A call of more bytes than this (256 KiB: a configuration of some hundred pods) is a long one.
const LONG_CALL: usize = 256 << 10;

/// How long a long call waits for others to be over, and how long it may then take to arrive.
const LONG_CALL_WAIT: Duration = Duration::from_secs(60);
const LONG_CALL_LIMIT: Duration = Duration::from_secs(30);

/// A connection.
pub struct Client {
    pub floors: Arc<Floors>,
    pub stream: UnixStream,
    pub calls: Calls,
    pub long_calls: Arc<Semaphore>,
    pub uid: u32,
    /// The call in flight wants no reply.
    pub oneway: bool,
}

impl Client {
    pub async fn run(mut self, place: &Place) {
        loop {
            let received = tokio::select! {
                received = self.receive() => received,
                () = place.lost() => return,
            };
            let (frame, long) = match received {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(refusal) => {
                    let _ = self.fail(refusal).await;
                    return;
                }
            };
            if !place.works() {
                return;
            }
            let answered = match self.handle(frame).await {
                Ok(()) => Ok(()),
                Err(refusal) => self.fail(refusal).await,
            };
            drop(long);
            self.oneway = false;
            place.waits();
            if answered.is_err() {
                return;
            }
        }
    }

    /// The next call and, of a long one, the permit to have it in memory.
    async fn receive(&mut self) -> Result<Option<(Frame, Option<OwnedSemaphorePermit>)>, Refusal> {
        match self.calls.next(&self.stream, LONG_CALL).await {
            Err(Unread::TooLong(_)) => {}
            short => return Ok(unrefused(short)?.map(|frame| (frame, None))),
        }
        let waits = || Error::Busy {
            message: "too many long calls are under way: try again".to_owned(),
            ends: None,
        };
        let permit = timeout(LONG_CALL_WAIT, Arc::clone(&self.long_calls).acquire_owned()).await;
        let permit = permit.map_err(|_| waits())?.map_err(|_| waits())?;
        let long = timeout(LONG_CALL_LIMIT, self.calls.next(&self.stream, MAX_CALL)).await;
        let long = unrefused(long.map_err(|_| Refusal::Gone)?)?;
        Ok(long.map(|frame| (frame, Some(permit))))
    }

    async fn fail(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        let refusal = refusal.explained(&self.floors.generations).await;
        let error = RawError::new(refusal).ok_or(Refusal::Gone)?;
        self.send(&error, Vec::new()).await
    }

    pub async fn reply<T: Serialize>(
        &mut self,
        value: &T,
        continues: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let reply = Reply::new(Some(value)).set_continues(Some(continues));
        self.send(&reply, fds).await
    }

    async fn send<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes).map_err(|_| Refusal::Gone)?;
        self.send_encoded(&bytes, fds).await
    }

    pub async fn send_encoded(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        if self.oneway {
            return Ok(());
        }
        match timeout(WRITE_LIMIT, wire::send_encoded(&self.stream, bytes, fds)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Refusal::Gone),
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), Refusal> {
        let Frame { bytes, fds } = frame;
        let long = bytes.len() > LONG_CALL;
        let parse = move || {
            let head = Head::parse(&bytes).map_err(|error| tracing::debug!(%error, "no call"))?;
            let service = head.method.starts_with("org.varlink.service.");
            let method = (!service).then(|| head.method(&bytes));
            // The one parameter of the service's methods.
            let parameters = service
                .then(|| serde_json::from_slice::<Value>(&bytes))
                .and_then(Result::ok);
            Ok((head, method, parameters))
        };
        let parsed: Result<_, ()> = if long {
            logs::blocking(parse).await.unwrap_or(Err(()))
        } else {
            parse()
        };
        let (head, method, parameters) = parsed.map_err(|()| Refusal::Gone)?;
        self.oneway = head.oneway;
        match method {
            // Descriptors of another call are closed before it is carried out.
            Some(method) => match method? {
                with_fds @ (Method::Exec(_) | Method::Run(_)) => {
                    self.dispatch(with_fds, head.more, fds).await
                }
                method => {
                    drop(fds);
                    self.dispatch(method, head.more, Vec::new()).await
                }
            },
            None => {
                drop(fds);
                let method = head.method.rsplit('.').next().unwrap_or_default();
                self.service(
                    method,
                    parameters.as_ref().and_then(|call| call.get("parameters")),
                )
                .await
            }
        }
    }

    async fn service(&mut self, method: &str, parameters: Option<&Value>) -> Result<(), Refusal> {
        match method {
            "GetInfo" => {
                let info = json!({
                    "vendor": "oshlabs",
                    "product": "tankd",
                    "version": env!("CARGO_PKG_VERSION"),
                    "url": "https://github.com/oshlabs/tank",
                    "interfaces": ["org.varlink.service", INTERFACE],
                });
                self.reply(&info, false, Vec::new()).await
            }
            "GetInterfaceDescription" => {
                let wanted = parameters.and_then(|value| value["interface"].as_str());
                let description = match wanted {
                    Some(INTERFACE) => DESCRIPTION.to_owned(),
                    Some("org.varlink.service") => zlink::varlink_service::DESCRIPTION.to_string(),
                    Some(other) => {
                        return Err(Refusal::Service(
                            "InterfaceNotFound",
                            json!({ "interface": other }),
                        ));
                    }
                    None => return Err(Wrong::Parameter("interface".to_owned()).into()),
                };
                self.reply(&json!({ "description": description }), false, Vec::new())
                    .await
            }
            other => Err(Wrong::Method(format!("org.varlink.service.{other}")).into()),
        }
    }

    /// A place for a reply that may be as long as a configuration: what those hold in memory until
    /// they are read is bounded with what long calls do.
    pub async fn long_reply(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        match timeout(LONG_CALL_WAIT, Arc::clone(&self.long_calls).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::Busy {
                message: "too many long replies wait for their readers".to_owned(),
                ends: None,
            }
            .into()),
        }
    }
}

/// What is wrong with a call that can't be received, as it is sent back.
fn unrefused<T>(received: Result<T, Unread>) -> Result<T, Refusal> {
    received.map_err(|error| match error {
        Unread::Io(_) => Refusal::Gone,
        wrong => Error::invalid(vec![wrong.to_string()]).into(),
    })
}
