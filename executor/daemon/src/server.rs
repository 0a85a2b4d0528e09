//! The socket: Varlink connections, each a task of its own, so that a client that does not read stops nobody else.

use crate::{
    engine::{Engine, internal, store_error},
    logs::{Tail, text_of},
    views,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tank_model::{Name, canonical, diff};
use tank_proto::{
    shim::{ExecSpec, Failure, FailureKind, Reply as ShimReply, Request},
    varlink::{self, DESCRIPTION, Error, ExecCall, INTERFACE, LogsCall, METHODS, Method},
    wire,
};
use tokio::{io::Interest, net::UnixStream, sync::Semaphore, sync::mpsc, time::timeout};
use zlink::Reply;

/// The most connections at once.
const MAX_CONNECTIONS: usize = 512;

/// The most connections at once of callers that may not use it, and how long each is listened to: enough to tell them.
const MAX_STRANGERS: usize = 16;
const STRANGER_LIMIT: Duration = Duration::from_secs(2);

/// The longest a client may take to read one reply.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether the client of a long call is still there.
const LOOK_FOR_CLIENT: Duration = Duration::from_millis(100);

type Connection = zlink::Connection<zlink::tokio::unix::Stream>;

/// A call before it is known which.
#[derive(Debug, Deserialize)]
struct RawCall {
    method: String,
    #[serde(default)]
    parameters: Option<Value>,
}

/// What is sent back: an error of the interface, of `org.varlink.service`, or that the client has gone.
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

#[derive(Debug, Serialize)]
struct RawError {
    error: String,
    /// Left out where an error has none: clients tell `{}` from nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
}

/// Serves `path` until the process ends.
///
/// # Errors
/// When the socket can't be made.
pub async fn serve(engine: Arc<Engine>, path: &Path) -> Result<(), String> {
    let at = |e: &dyn std::fmt::Display| format!("serve {}: {e}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| at(&e))?;
    }
    // The lock on the store says that no other daemon is there: a socket that is left is nobody's.
    let _ = std::fs::remove_file(path);
    let listener = tokio::net::UnixListener::bind(path).map_err(|e| at(&e))?;
    // Who may call is decided by credentials, and said in words; the mode only has to let them in.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(|e| at(&e))?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Over the bound a connection is closed at once.
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
                let Ok((connection, writer)) = wire::split(stream) else { continue };
                let (engine, strangers) = (Arc::clone(&engine), Arc::clone(&strangers));
                tokio::spawn(async move {
                    let mut client = Client { engine, connection, writer, uid: None };
                    if client.authorize().await {
                        client.run().await;
                    } else if let Ok(_seat) = strangers.try_acquire() {
                        client.turn_away().await;
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Client {
    engine: Arc<Engine>,
    connection: Connection,
    writer: UnixStream,
    uid: Option<u32>,
}

impl Client {
    /// Says that the caller may not, and nothing more: one call is read, for a moment, and none is looked at.
    async fn turn_away(mut self) {
        let _ = timeout(STRANGER_LIMIT, self.connection.receive_call::<RawCall>()).await;
        let _ = self.fail("org.varlink.service.PermissionDenied", json!({})).await;
    }

    async fn run(mut self) {
        loop {
            let received = self.connection.receive_call::<RawCall>().await;
            let (method, parameters, more, fds) = match received {
                Ok((call, fds)) => {
                    let more = call.more();
                    let raw = call.method();
                    (raw.method.clone(), raw.parameters.clone(), more, fds)
                }
                Err(error) => {
                    tracing::debug!(?error, "a client left");
                    return;
                }
            };
            let handled = self.handle(&method, parameters, more, fds).await;
            let sent = match handled {
                Ok(()) => Ok(()),
                Err(Refusal::Gone) => return,
                Err(Refusal::Error(error)) => match serde_json::to_value(&error) {
                    Ok(value) => {
                        self.fail(value["error"].as_str().unwrap_or_default(), value["parameters"].clone()).await
                    }
                    Err(_) => return,
                },
                Err(Refusal::Service(name, parameters)) => {
                    self.fail(&format!("org.varlink.service.{name}"), parameters).await
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Root, and members of the group `tank`.
    async fn authorize(&mut self) -> bool {
        let Ok(credentials) = self.connection.peer_credentials().await else { return false };
        let uid = credentials.unix_user_id().as_raw();
        self.uid = Some(uid);
        let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let tank = group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some("tank")).then(|| fields.nth(1)?.parse::<u32>().ok()).flatten()
        });
        let groups = credentials
            .unix_supplementary_group_ids()
            .iter()
            .chain([credentials.unix_primary_group_id()].iter())
            .map(|gid| gid.as_raw())
            .collect::<Vec<_>>();
        uid == 0 || tank.is_some_and(|tank| groups.contains(&tank))
    }

    async fn fail(&mut self, error: &str, parameters: Value) -> Result<(), Refusal> {
        let parameters = Some(parameters).filter(|value| value.as_object().is_none_or(|fields| !fields.is_empty()));
        let error = RawError { error: error.to_owned(), parameters };
        match timeout(WRITE_LIMIT, wire::send(&self.writer, &error, Vec::new())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Refusal::Gone),
        }
    }

    async fn reply<T: Serialize>(&mut self, value: &T, continues: bool, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let reply = Reply::new(Some(value)).set_continues(Some(continues));
        match timeout(WRITE_LIMIT, wire::send(&self.writer, &reply, fds)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Refusal::Gone),
        }
    }

    async fn handle(
        &mut self,
        name: &str,
        parameters: Option<Value>,
        more: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        if let Some(method) = name.strip_prefix("org.varlink.service.") {
            return self.service(method, parameters).await;
        }
        let known = name.strip_prefix(INTERFACE).and_then(|rest| rest.strip_prefix('.'));
        match known {
            Some(method) if METHODS.contains(&method) => {}
            Some(_) => return Err(Refusal::Service("MethodNotFound", json!({ "method": name }))),
            None => {
                let interface = name.rsplit_once('.').map_or(name, |(interface, _)| interface);
                return Err(Refusal::Service("InterfaceNotFound", json!({ "interface": interface })));
            }
        }
        let call = json!({ "method": name, "parameters": parameters.unwrap_or_else(|| json!({})) });
        let method: Method = serde_json::from_value(call)
            .map_err(|e| Refusal::Service("InvalidParameter", json!({ "parameter": e.to_string() })))?;
        self.dispatch(method, more, fds).await
    }

    async fn service(&mut self, method: &str, parameters: Option<Value>) -> Result<(), Refusal> {
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
                let wanted = parameters.as_ref().and_then(|value| value["interface"].as_str()).unwrap_or_default();
                let description = match wanted {
                    INTERFACE => DESCRIPTION.to_owned(),
                    "org.varlink.service" => zlink::varlink_service::DESCRIPTION.to_string(),
                    other => return Err(Refusal::Service("InterfaceNotFound", json!({ "interface": other }))),
                };
                self.reply(&json!({ "description": description }), false, Vec::new()).await
            }
            other => {
                let method = format!("org.varlink.service.{other}");
                Err(Refusal::Service("MethodNotFound", json!({ "method": method })))
            }
        }
    }

    async fn dispatch(&mut self, method: Method, more: bool, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let engine = Arc::clone(&self.engine);
        let uid = self.uid.unwrap_or(u32::MAX);
        match method {
            Method::Status {} => {
                let status = status(&engine).await?;
                self.reply(&status, false, Vec::new()).await
            }
            Method::Diff(call) => {
                let diff = while_connected(&self.writer, diff_reply(&engine, call, uid)).await?;
                self.reply(&diff, false, Vec::new()).await
            }
            Method::Switch(call) => {
                let (told, progress) = mpsc::channel(crate::engine::PROGRESS);
                let work = tokio::spawn(async move { engine.switch(&call, uid, &told).await });
                self.stream(work, progress, more).await
            }
            Method::Delete { pod } => {
                let (told, progress) = mpsc::channel(crate::engine::PROGRESS);
                let work = tokio::spawn(async move { engine.delete(&pod, uid, &told).await });
                self.stream(work, progress, more).await
            }
            Method::Rollback { to } => {
                let (told, progress) = mpsc::channel(crate::engine::PROGRESS);
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
                self.reply(&varlink::GenerationsReply { generations }, false, Vec::new()).await
            }
            Method::Generation { number } => {
                let reply = generation_reply(&engine, number)?;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::GenerationDiff { from, to } => {
                let graph = |number: u64| {
                    let found = engine.host.generation_graph(number).map_err(store_error)?;
                    found.ok_or(Error::NoSuchGeneration { number: Some(number) })
                };
                let changes = views::changes(&diff::diff(&*graph(from)?, &*graph(to)?));
                self.reply(&varlink::ChangesReply { changes }, false, Vec::new()).await
            }
            Method::List {} => {
                let (_, graph) = engine.current()?;
                let observed = engine.observe(&graph).await?;
                self.reply(&varlink::ListReply { pods: views::pods(&graph, &observed) }, false, Vec::new()).await
            }
            Method::Get { pod } => {
                let (_, graph) = engine.current()?;
                let name = engine.declared(&graph, &pod)?;
                let observed = engine.observe(&graph).await?;
                let mut config = graph.config();
                config.pods.retain(|other, _| *other == name);
                let config = canonical::encode(&config).map_err(|e| internal("encode a pod", e))?;
                let config = String::from_utf8(config).map_err(|e| internal("encode a pod", e))?;
                let pod = views::pod(&name, &graph, &observed);
                self.reply(&varlink::GetReply { pod, config }, false, Vec::new()).await
            }
            Method::Exec(call) => {
                let (pid, fds) = exec(&engine, call, fds).await?;
                self.reply(&varlink::ExecReply { pid }, false, fds).await
            }
            Method::Attach { pod, container } => {
                let (pod, container) = target(&engine, &pod, container.as_deref())?;
                let running = || Error::NotRunning { pod: pod.to_string(), container: container.to_string() };
                let shim = engine.host.shim(&pod).ok_or_else(running)?;
                let request = Request::Attach { container: container.to_string() };
                let answer = shim.request(&request, &[]).await;
                let (_, fds) = answer.map_err(|e| as_error(&e, pod.as_str(), container.as_str()))?;
                self.reply(&varlink::AttachReply { container: container.to_string() }, false, fds).await
            }
            Method::Logs(call) => self.logs(&engine, call, more).await,
            Method::Why { field } => {
                let reply = tokio::task::spawn_blocking(move || engine.why(&field)).await;
                let reply = reply.map_err(|e| internal("look for the reason", e))??;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::Resolve { images } => {
                let reply = engine.resolve(images).await?;
                self.reply(&reply, false, Vec::new()).await
            }
            Method::Events { follow } => self.events(&engine, follow == Some(true), more).await,
        }
    }

    /// Passes progress on while a change goes its way. When the client leaves, the progress has nobody any more: that ends
    /// a change which is not committed yet, and no other.
    async fn stream(
        &mut self,
        work: tokio::task::JoinHandle<Result<varlink::Outcome, Error>>,
        mut progress: mpsc::Receiver<varlink::Progress>,
        more: bool,
    ) -> Result<(), Refusal> {
        while let Some(progress) = while_connected(&self.writer, async { Ok(progress.recv().await) }).await? {
            if more {
                let reply = varlink::SwitchReply { progress: Some(progress), outcome: None };
                self.reply(&reply, true, Vec::new()).await?;
            }
        }
        let outcome = work.await.map_err(|e| internal("carry the change out", e))??;
        self.reply(&varlink::SwitchReply { progress: None, outcome: Some(outcome) }, false, Vec::new()).await
    }

    async fn logs(&mut self, engine: &Engine, call: LogsCall, more: bool) -> Result<(), Refusal> {
        if !more {
            return Err(Refusal::Service("ExpectedMore", json!({})));
        }
        let (pod, container) = target(engine, &call.pod, call.container.as_deref())?;
        let path = crate::logs::path(&engine.host, pod.as_str(), container.as_str());
        let tail = call.tail;
        let mut tail = tokio::task::spawn_blocking(move || Tail::open(path, tail))
            .await
            .map_err(|e| internal("read the log", e))?;
        loop {
            for line in std::mem::take(&mut tail.lines) {
                let line = varlink::LogsReply { container: container.to_string(), line: text_of(&line).to_owned() };
                self.reply(&line, true, Vec::new()).await?;
            }
            if call.follow != Some(true) {
                break;
            }
            self.while_listening(tail.follow()).await?;
        }
        // The last reply of a stream carries nothing: an empty line of no container.
        let end = varlink::LogsReply { container: String::new(), line: String::new() };
        self.reply(&end, false, Vec::new()).await
    }

    async fn events(&mut self, engine: &Engine, follow: bool, more: bool) -> Result<(), Refusal> {
        if !more {
            return Err(Refusal::Service("ExpectedMore", json!({})));
        }
        let (past, mut live) = engine.host.events.listen();
        for event in past {
            self.reply(&varlink::EventsReply { event }, true, Vec::new()).await?;
        }
        if follow {
            loop {
                // A listener that lags loses the oldest, and is told by the gap in time.
                if let Ok(event) = self.while_listening(live.recv()).await? {
                    self.reply(&varlink::EventsReply { event }, true, Vec::new()).await?;
                }
            }
        }
        let event =
            varlink::Event { time: crate::events::now(), kind: "end".to_owned(), pod: None, message: String::new() };
        self.reply(&varlink::EventsReply { event }, false, Vec::new()).await
    }

    /// Waits for something, but no longer than the client stays: one that has gone has closed its side.
    async fn while_listening<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Refusal> {
        tokio::select! {
            done = work => Ok(done),
            _ = self.connection.receive_call::<RawCall>() => Err(Refusal::Gone),
        }
    }
}

/// Works for a client for as long as it is connected. What it sends meanwhile waits for its turn; one that only closes
/// its own direction still listens.
async fn while_connected<T>(client: &UnixStream, work: impl Future<Output = Result<T, Error>>) -> Result<T, Refusal> {
    let hung_up = async {
        let both = Interest::READABLE | Interest::WRITABLE;
        while !client.ready(both).await.is_ok_and(|ready| ready.is_write_closed()) {
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
        running: pods.iter().filter(|pod| pod.state == "running").count() as u64,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    })
}

async fn diff_reply(engine: &Engine, call: varlink::DiffCall, uid: u32) -> Result<varlink::DiffReply, Error> {
    let (parent, before, after) = match crate::intent::Request::of_diff(&call, uid) {
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
    let (_, plan) = engine.preview(&after, &before).await?;
    let waiting = plan.waiting.iter().map(|waiting| format!("{}/{}: {}", waiting.pod, waiting.container, waiting.why));
    Ok(varlink::DiffReply {
        changes: views::changes(&diff::diff(&before, &after)),
        steps: plan.steps.iter().map(views::step).collect(),
        waiting: waiting.collect(),
        plan: plan.hash(after.root()).to_string(),
        parent,
    })
}

fn generation_reply(engine: &Engine, number: Option<u64>) -> Result<varlink::GenerationReply, Error> {
    let store = &engine.host.store;
    let current = store.current().map_err(store_error)?;
    let number = number.or(current).ok_or(Error::NoSuchGeneration { number: None })?;
    let found =
        store.generation(number).map_err(store_error)?.ok_or(Error::NoSuchGeneration { number: Some(number) })?;
    let graph = engine.host.graph(found.root).map_err(store_error)?;
    let config = canonical::encode(&graph.config()).map_err(|e| internal("encode a generation", e))?;
    Ok(varlink::GenerationReply {
        generation: views::generation(&found, store.outcome(number).map_err(store_error)?, current),
        config: String::from_utf8(config).map_err(|e| internal("encode a generation", e))?,
    })
}

/// The container a command is about: the one named, or the only one.
fn target(engine: &Engine, pod: &str, container: Option<&str>) -> Result<(Name, Name), Error> {
    let (_, graph) = engine.current()?;
    let pod = engine.declared(&graph, pod)?;
    let known: Vec<Name> = graph.containers(&pod).map(|(name, _, _)| name.clone()).collect();
    let inits: Vec<Name> = graph.init(&pod).map(|(name, ..)| name.clone()).collect();
    let found = match container {
        Some(wanted) => known.iter().chain(&inits).find(|name| name.as_str() == wanted),
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

async fn exec(engine: &Engine, call: ExecCall, streams: Vec<OwnedFd>) -> Result<(i32, Vec<OwnedFd>), Error> {
    let (pod, container) = target(engine, &call.pod, call.container.as_deref())?;
    let program = call.argv.first().cloned().unwrap_or_default();
    if program.is_empty() {
        return Err(Error::Invalid { problems: vec!["no command is given".to_owned()] });
    }
    let terminal = call.rows.map(|rows| (rows, call.columns.unwrap_or(80)));
    if terminal.is_none() && streams.len() != 3 {
        return Err(Error::Invalid {
            problems: vec!["without a terminal, three streams have to come along".to_owned()],
        });
    }
    // A client's terminal is never handed into a container: what can push keys into it could run commands outside.
    if streams.iter().any(rustix::termios::isatty) {
        return Err(Error::Invalid { problems: vec!["one of the streams is a terminal".to_owned()] });
    }
    let running = || Error::NotRunning { pod: pod.to_string(), container: container.to_string() };
    let shim = engine.host.shim(&pod).ok_or_else(running)?;
    let spec = ExecSpec {
        container: container.to_string(),
        argv: call.argv,
        env: call.env.into_iter().collect(),
        cwd: call.cwd,
        terminal,
    };
    let text = serde_json::to_vec(&spec).map_err(|e| internal("write a specification", e))?;
    let sealed = tank_sys::packet::sealed("exec", &text).map_err(|e| internal("write a specification", e))?;
    let fds: Vec<_> = std::iter::once(sealed.as_fd()).chain(streams.iter().map(AsFd::as_fd)).collect();
    match shim.request(&Request::Exec, &fds).await {
        Ok((ShimReply::Executed { pid }, fds)) => Ok((pid, fds)),
        Ok((other, _)) => Err(as_error(&crate::shims::unexpected(&other), pod.as_str(), container.as_str())),
        Err(Failure { kind: FailureKind::NotFound, .. }) => Err(Error::NotFound { program }),
        Err(Failure { kind: FailureKind::NotExecutable, .. }) => Err(Error::NotExecutable { program }),
        Err(failure) => Err(as_error(&failure, pod.as_str(), container.as_str())),
    }
}

/// A shim's refusal in the words of the interface.
fn as_error(failure: &Failure, pod: &str, container: &str) -> Error {
    let (pod, container) = (pod.to_owned(), container.to_owned());
    match failure.kind {
        FailureKind::NotRunning => Error::NotRunning { pod, container },
        FailureKind::NotATty => Error::NotATty { pod, container },
        _ => Error::Failed { what: failure.what.clone(), why: failure.why.clone() },
    }
}
