//! The socket: Varlink connections, each a task of its own, so that a client that does not read
//! stops nobody else.
//!
//! Who may call is settled before a byte is read ([`crate::api::access`]), and how much of a call is
//! taken before it is parsed ([`wire::Calls`]).

pub mod access;
pub mod views;

use crate::{
    api::access::{Authorizer, Place, Places},
    generations::{Engine, internal, store_error},
    pods::logs::{self, Tail},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tank_model::{Name, canonical, diff};
use tank_proto::{
    call::{Head, Wrong},
    shim::{ExecSpec, Failure, FailureKind, Reply as ShimReply, Request},
    varlink::{self, DESCRIPTION, Error, ExecCall, INTERFACE, LogsCall, Method},
    wire::{self, Calls, Frame, MAX_CALL, Unread},
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use zlink::Reply;

/// The longest a client may take to read one reply.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// A call of more bytes than this (256 KiB: a configuration of some hundred pods) is a long one.
const LONG_CALL: usize = 256 << 10;

/// How often it is looked whether the client of a long call is still there.
const LOOK_FOR_CLIENT: Duration = Duration::from_millis(100);

/// The most long calls at once of root, and of everybody else: what they hold in memory is bounded
/// by that.
const LONG_CALLS_OF_ROOT: usize = 8;
const LONG_CALLS_OF_MEMBERS: usize = 2;

/// How long a long call waits for others to be over, and how long it may then take to arrive.
const LONG_CALL_WAIT: Duration = Duration::from_secs(60);
const LONG_CALL_LIMIT: Duration = Duration::from_secs(30);

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(100);

/// What is sent back: an error of the interface, of `org.varlink.service`, or that the client has
/// gone.
enum Refusal {
    Error(Error),
    Service(&'static str, Value),
    Gone,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Wrong> for Refusal {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Interface(name) => {
                Self::Service("InterfaceNotFound", json!({ "interface": name }))
            }
            Wrong::Method(name) => Self::Service("MethodNotFound", json!({ "method": name })),
            Wrong::Parameter(name) => {
                Self::Service("InvalidParameter", json!({ "parameter": name }))
            }
        }
    }
}

#[derive(Debug, Serialize)]
struct RawError {
    error: String,
    /// Left out where an error has none: clients tell `{}` from nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
}

impl RawError {
    /// None: the client has gone, or the error can't be written.
    fn new(refusal: Refusal) -> Option<Self> {
        let (error, parameters) = match refusal {
            Refusal::Gone => return None,
            Refusal::Service(name, parameters) => {
                (format!("org.varlink.service.{name}"), parameters)
            }
            Refusal::Error(error) => {
                let value = serde_json::to_value(&error).ok()?;
                (
                    value["error"].as_str()?.to_owned(),
                    value["parameters"].clone(),
                )
            }
        };
        let parameters = Some(parameters)
            .filter(|value| value.as_object().is_none_or(|fields| !fields.is_empty()));
        Some(Self { error, parameters })
    }
}

/// Serves what was bound until the process ends.
pub async fn serve(engine: Arc<Engine>, listener: UnixListener) {
    let server = Arc::new(Server {
        engine,
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
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What all connections share.
struct Server {
    engine: Arc<Engine>,
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
            return refuse(&stream, Error::Busy { message }.into());
        };
        let long_calls = if uid == 0 {
            &self.long_of_root
        } else {
            &self.long_of_members
        };
        let client = Client {
            engine: Arc::clone(&self.engine),
            stream,
            calls: Calls::default(),
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

struct Client {
    engine: Arc<Engine>,
    stream: UnixStream,
    calls: Calls,
    long_calls: Arc<Semaphore>,
    uid: u32,
    /// The call in flight wants no reply.
    oneway: bool,
}

impl Client {
    async fn run(mut self, place: &Place) {
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
        };
        let permit = timeout(LONG_CALL_WAIT, Arc::clone(&self.long_calls).acquire_owned()).await;
        let permit = permit.map_err(|_| waits())?.map_err(|_| waits())?;
        let long = timeout(LONG_CALL_LIMIT, self.calls.next(&self.stream, MAX_CALL)).await;
        let long = unrefused(long.map_err(|_| Refusal::Gone)?)?;
        Ok(long.map(|frame| (frame, Some(permit))))
    }

    async fn fail(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        let error = RawError::new(refusal).ok_or(Refusal::Gone)?;
        self.send(&error, Vec::new()).await
    }

    async fn reply<T: Serialize>(
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

    async fn send_encoded(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), Refusal> {
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
                exec @ Method::Exec(_) => self.dispatch(exec, head.more, fds).await,
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
    async fn long_reply(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        match timeout(LONG_CALL_WAIT, Arc::clone(&self.long_calls).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::Busy {
                message: "too many long replies wait for their readers".to_owned(),
            }
            .into()),
        }
    }

    async fn dispatch(
        &mut self,
        method: Method,
        more: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let engine = Arc::clone(&self.engine);
        let uid = self.uid;
        match method {
            Method::Status {} => {
                let status = status(&engine).await?;
                self.reply(&status, false, Vec::new()).await
            }
            Method::Diff(call) => {
                let diff = while_connected(&self.stream, diff_reply(&engine, call, uid)).await?;
                self.reply(&diff, false, Vec::new()).await
            }
            Method::Switch(call) => {
                let (told, progress) = mpsc::channel(crate::generations::PROGRESS);
                let work = tokio::spawn(async move { engine.switch(&call, uid, &told).await });
                self.stream(work, progress, more).await
            }
            Method::Delete { pod } => {
                let (told, progress) = mpsc::channel(crate::generations::PROGRESS);
                let work = tokio::spawn(async move { engine.delete(&pod, uid, &told).await });
                self.stream(work, progress, more).await
            }
            Method::Rollback { to } => {
                let (told, progress) = mpsc::channel(crate::generations::PROGRESS);
                let work = tokio::spawn(async move { engine.rollback(to, uid, &told).await });
                self.stream(work, progress, more).await
            }
            Method::Generations {} => {
                let store = &engine.host.store;
                let current = store.current().map_err(store_error)?;
                let mut generations = Vec::new();
                for generation in store.generations().map_err(store_error)? {
                    let outcome = store.outcome(generation.number).map_err(store_error)?;
                    generations.push(views::generation(&generation, outcome, current));
                }
                self.reply(
                    &varlink::GenerationsReply { generations },
                    false,
                    Vec::new(),
                )
                .await
            }
            Method::GetGeneration { number } => {
                let _place = self.long_reply().await?;
                let read = move || generation_reply(&engine, number);
                let reply = tokio::task::spawn_blocking(read)
                    .await
                    .map_err(|e| internal("read a generation", e))??;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::GenerationDiff { from, to } => {
                let _place = self.long_reply().await?;
                let compare = move || generation_diff(&engine, from, to);
                let reply = tokio::task::spawn_blocking(compare)
                    .await
                    .map_err(|e| internal("compare", e))??;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::List {} => {
                let (_, graph) = engine.current()?;
                let observed = engine.observe(&graph).await?;
                self.reply(
                    &varlink::ListReply {
                        pods: views::pods(&graph, &observed),
                    },
                    false,
                    Vec::new(),
                )
                .await
            }
            Method::Get { pod } => {
                let _place = self.long_reply().await?;
                let (_, graph) = engine.current()?;
                let name = engine.declared(&graph, &pod)?;
                let observed = engine.observe(&graph).await?;
                let mut config = graph.config();
                config.pods.retain(|other, _| *other == name);
                let config = canonical::encode(&config).map_err(|e| internal("encode a pod", e))?;
                let config = String::from_utf8(config).map_err(|e| internal("encode a pod", e))?;
                let pod = views::pod(&name, &graph, &observed);
                self.reply(&varlink::GetReply { pod, config }, false, Vec::new())
                    .await
            }
            Method::Exec(call) => {
                let (pid, fds) = exec(&engine, call, fds).await?;
                self.reply(&varlink::ExecReply { pid }, false, fds).await
            }
            Method::Attach { pod, container } => {
                let (pod, container) = target(&engine, &pod, container.as_deref())?;
                let running = || Error::NotRunning {
                    pod: pod.to_string(),
                    container: container.to_string(),
                };
                let shim = engine.host.shim(&pod).ok_or_else(running)?;
                let request = Request::Attach {
                    container: container.to_string(),
                };
                let answer = shim.request(&request, &[]).await;
                let (_, fds) =
                    answer.map_err(|e| as_error(&e, pod.as_str(), container.as_str()))?;
                self.reply(
                    &varlink::AttachReply {
                        container: container.to_string(),
                    },
                    false,
                    fds,
                )
                .await
            }
            Method::Logs(call) => self.logs(&engine, call, more).await,
            Method::Why { field } => {
                let reply = tokio::task::spawn_blocking(move || engine.why(&field)).await;
                let reply = reply.map_err(|e| internal("look for the reason", e))??;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::Resolve { images } => {
                let reply = while_connected(&self.stream, engine.resolve(images)).await?;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::Events { follow } => self.events(&engine, follow == Some(true), more).await,
        }
    }

    /// Passes progress on while a change goes its way. When the client leaves, the progress has
    /// nobody any more: that ends a change which is not committed yet, and no other.
    async fn stream(
        &mut self,
        work: tokio::task::JoinHandle<Result<varlink::Outcome, Error>>,
        mut progress: mpsc::Receiver<varlink::Progress>,
        more: bool,
    ) -> Result<(), Refusal> {
        while let Some(progress) =
            while_connected(&self.stream, async { Ok(progress.recv().await) }).await?
        {
            if more {
                let reply = varlink::SwitchReply {
                    progress: Some(progress),
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
                outcome: Some(outcome),
            },
            false,
            Vec::new(),
        )
        .await
    }

    async fn logs(&mut self, engine: &Engine, call: LogsCall, more: bool) -> Result<(), Refusal> {
        if !more {
            return Err(Refusal::Service("ExpectedMore", json!({})));
        }
        let (pod, container) = target(engine, &call.pod, call.container.as_deref())?;
        let (path, count) = (
            logs::path(&engine.host, pod.as_str(), container.as_str()),
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
        loop {
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
                self.while_listening(sleep(FOLLOW)).await?;
            } else {
                break;
            }
        }
        // The last reply of a stream carries nothing: an empty line of no container.
        let end = varlink::LogsReply {
            container: String::new(),
            line: String::new(),
        };
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

    async fn events(&mut self, engine: &Engine, follow: bool, more: bool) -> Result<(), Refusal> {
        if !more {
            return Err(Refusal::Service("ExpectedMore", json!({})));
        }
        let (past, mut live) = engine.host.events.listen();
        for event in past {
            self.reply(&varlink::EventsReply { event }, true, Vec::new())
                .await?;
        }
        if follow {
            loop {
                // A listener that lags loses the oldest, and is told by the gap in time.
                if let Ok(event) = self.while_listening(live.recv()).await? {
                    self.reply(&varlink::EventsReply { event }, true, Vec::new())
                        .await?;
                }
            }
        }
        let event = varlink::Event {
            time: crate::events::now(),
            kind: "end".to_owned(),
            pod: None,
            message: String::new(),
        };
        self.reply(&varlink::EventsReply { event }, false, Vec::new())
            .await
    }

    /// Waits for something, but no longer than the client stays: one that has gone has closed its
    /// side.
    async fn while_listening<T>(&self, work: impl Future<Output = T>) -> Result<T, Refusal> {
        tokio::select! {
            done = work => Ok(done),
            // Not readable but closed: what it calls next is read when this call is over.
            _ = self.stream.ready(Interest::PRIORITY) => Err(Refusal::Gone),
        }
    }
}

/// What is wrong with a call that can't be received, as it is sent back.
fn unrefused<T>(received: Result<T, Unread>) -> Result<T, Refusal> {
    received.map_err(|error| match error {
        Unread::Io(_) => Refusal::Gone,
        wrong => Error::Invalid {
            problems: vec![wrong.to_string()],
        }
        .into(),
    })
}

/// Works for a client for as long as it is connected. What it sends meanwhile waits for its turn;
/// one that only closes its own direction still listens.
async fn while_connected<T>(
    client: &UnixStream,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Refusal> {
    let hung_up = async {
        let both = Interest::READABLE | Interest::WRITABLE;
        while !client
            .ready(both)
            .await
            .is_ok_and(|ready| ready.is_write_closed())
        {
            tokio::time::sleep(LOOK_FOR_CLIENT).await;
        }
    };
    tokio::select! {
        done = work => Ok(done?),
        () = hung_up => Err(Refusal::Gone),
    }
}

async fn status(engine: &Engine) -> Result<varlink::StatusReply, Error> {
    let (generation, graph) = engine.current()?;
    let observed = engine.observe(&graph).await?;
    let pods = views::pods(&graph, &observed);
    Ok(varlink::StatusReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        generation,
        root: generation.map(|_| graph.root().to_string()),
        pods: pods.len() as u64,
        running: pods
            .iter()
            .filter(|pod| pod.state == varlink::PodState::Running)
            .count() as u64,
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
    })
}

async fn diff_reply(
    engine: &Engine,
    call: varlink::DiffCall,
    uid: u32,
) -> Result<varlink::DiffReply, Error> {
    let (parent, before, after) = match crate::generations::intent::Request::of_diff(&call, uid) {
        None => {
            let (parent, before) = engine.current()?;
            (parent, Arc::clone(&before), before)
        }
        Some(request) => {
            let (progress, _) = mpsc::channel(1);
            let intent = engine.intend(&request, &progress).await?;
            (intent.current, intent.before, intent.graph)
        }
    };
    crate::generations::ports::refuse_taken(&engine.host, &before, &after).await?;
    let (_, plan) = engine.preview(&after, &before).await?;
    let waiting = plan
        .waiting
        .iter()
        .map(|waiting| format!("{}/{}: {}", waiting.pod, waiting.container, waiting.why));
    let held = plan
        .held
        .iter()
        .map(|held| format!("{}: {}", held.step, held.why));
    Ok(varlink::DiffReply {
        changes: views::changes(&diff::diff(&before, &after)),
        steps: plan.steps.iter().map(views::step).collect(),
        waiting: waiting.chain(held).collect(),
        plan: plan.hash(after.root()).to_string(),
        parent,
    })
}

fn generation_diff(engine: &Engine, from: u64, to: u64) -> Result<varlink::ChangesReply, Error> {
    let graph = |number: u64| {
        let found = engine.host.generation_graph(number).map_err(store_error)?;
        found.ok_or(Error::NoSuchGeneration {
            number: Some(number),
        })
    };
    Ok(varlink::ChangesReply {
        changes: views::changes(&diff::diff(&*graph(from)?, &*graph(to)?)),
    })
}

fn generation_reply(
    engine: &Engine,
    number: Option<u64>,
) -> Result<varlink::GenerationReply, Error> {
    let store = &engine.host.store;
    let current = store.current().map_err(store_error)?;
    let number = number
        .or(current)
        .ok_or(Error::NoSuchGeneration { number: None })?;
    let found = store
        .generation(number)
        .map_err(store_error)?
        .ok_or(Error::NoSuchGeneration {
            number: Some(number),
        })?;
    let graph = engine.host.graph(found.root).map_err(store_error)?;
    let config =
        canonical::encode(&graph.config()).map_err(|e| internal("encode a generation", e))?;
    Ok(varlink::GenerationReply {
        generation: views::generation(&found, store.outcome(number).map_err(store_error)?, current),
        config: String::from_utf8(config).map_err(|e| internal("encode a generation", e))?,
    })
}

/// The container a command is about: the one named, or the only one.
fn target(engine: &Engine, pod: &str, container: Option<&str>) -> Result<(Name, Name), Error> {
    let (_, graph) = engine.current()?;
    let pod = engine.declared(&graph, pod)?;
    let known: Vec<Name> = graph
        .containers(&pod)
        .map(|(name, _, _)| name.clone())
        .collect();
    let inits: Vec<Name> = graph.init(&pod).map(|(name, ..)| name.clone()).collect();
    let found = match container {
        Some(wanted) => known
            .iter()
            .chain(&inits)
            .find(|name| name.as_str() == wanted),
        None if known.len() == 1 => known.first(),
        None => None,
    };
    let found = found.cloned().ok_or_else(|| Error::NoSuchContainer {
        pod: pod.to_string(),
        container: container.map(str::to_owned),
        known: known.iter().map(ToString::to_string).collect(),
    })?;
    Ok((pod, found))
}

async fn exec(
    engine: &Engine,
    call: ExecCall,
    streams: Vec<OwnedFd>,
) -> Result<(i32, Vec<OwnedFd>), Error> {
    let (pod, container) = target(engine, &call.pod, call.container.as_deref())?;
    let program = call.argv.first().cloned().unwrap_or_default();
    if program.is_empty() {
        return Err(Error::Invalid {
            problems: vec!["no command is given".to_owned()],
        });
    }
    let terminal = call.rows.map(|rows| (rows, call.columns.unwrap_or(80)));
    if terminal.is_none() && streams.len() != 3 {
        return Err(Error::Invalid {
            problems: vec!["without a terminal, three streams have to come along".to_owned()],
        });
    }
    if let Some(cwd) = call.cwd.as_deref().filter(|cwd| !cwd.starts_with('/')) {
        let problem = format!(
            "the working directory `{cwd}` is not absolute: name it from the container's `/`"
        );
        return Err(Error::Invalid {
            problems: vec![problem],
        });
    }
    // Neither a client's terminal nor a directory of its is ever handed into a container.
    tank_sys::stream::check_all(streams.iter().map(AsFd::as_fd)).map_err(|why| Error::Invalid {
        problems: vec![why],
    })?;
    let running = || Error::NotRunning {
        pod: pod.to_string(),
        container: container.to_string(),
    };
    let shim = engine.host.shim(&pod).ok_or_else(running)?;
    let spec = ExecSpec {
        container: container.to_string(),
        argv: call.argv,
        env: call.env.into_iter().collect(),
        cwd: call.cwd,
        terminal,
        kill_on_close: false,
    };
    let text = serde_json::to_vec(&spec).map_err(|e| internal("write a specification", e))?;
    let sealed = tank_sys::packet::sealed("exec", &text)
        .map_err(|e| internal("write a specification", e))?;
    let fds: Vec<_> = std::iter::once(sealed.as_fd())
        .chain(streams.iter().map(AsFd::as_fd))
        .collect();
    match shim.request(&Request::Exec, &fds).await {
        Ok((ShimReply::Executed { pid }, fds)) => Ok((pid, fds)),
        Ok((other, _)) => Err(as_error(
            &crate::pods::shim::unexpected(&other),
            pod.as_str(),
            container.as_str(),
        )),
        Err(Failure {
            kind: FailureKind::NotFound,
            ..
        }) => Err(Error::NotFound { program }),
        Err(Failure {
            kind: FailureKind::NotExecutable,
            ..
        }) => Err(Error::NotExecutable { program }),
        Err(failure) => Err(as_error(&failure, pod.as_str(), container.as_str())),
    }
}

/// A shim's refusal in the words of the interface.
fn as_error(failure: &Failure, pod: &str, container: &str) -> Error {
    let (pod, container) = (pod.to_owned(), container.to_owned());
    match failure.kind {
        FailureKind::NotRunning => Error::NotRunning { pod, container },
        FailureKind::NotATty => Error::NotATty { pod, container },
        _ => Error::Failed {
            what: failure.what.clone(),
            why: failure.why.clone(),
        },
    }
}
