//! Metrics for Prometheus, where `tank.toml` says: OpenMetrics text over HTTP/1.1, by `hyper`.
//!
//! *Bounds*: [`MAX_CONNECTIONS`] connections, of each [`CONNECTION_LIMIT`]; a request is a head of [`MAX_HEAD`] bytes within
//! [`HEAD_LIMIT`], and no body is read; one sample is made at a time, and shown for [`FRESH`]. *Guarantees*: it acts on nothing.
//! Whoever reaches the address may read it: names of pods are in it, and nothing of what is in them.

mod render;
#[cfg(test)]
mod tests;

use super::{Floors, access, by_hand, views};
use crate::{events::Kind, ownership, settings::Metrics};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HOST},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use render::Sample;
use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tank_sys::with_causes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Mutex, Semaphore},
    time::{sleep, timeout},
};

const MAX_CONNECTIONS: usize = 16;
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
const HEAD_LIMIT: Duration = Duration::from_secs(5);
const MAX_HEAD: usize = 16 << 10;

/// How long a sample is shown, whoever asks how often.
const FRESH: Duration = Duration::from_secs(1);

/// How long one may take to be made.
const SAMPLE_LIMIT: Duration = Duration::from_secs(20);

/// How long after what could not be bound, or accepted, it is tried again.
const BIND_RETRY_AFTER: Duration = Duration::from_secs(10);
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves metrics for ever, if that is asked for.
pub fn keep(floors: &Arc<Floors>) {
    let endpoint = Arc::new(Endpoint {
        floors: Arc::clone(floors),
        last: Mutex::default(),
        places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    });
    if floors.settings.config.metrics != Metrics::Off {
        tokio::spawn(endpoint.serve());
    }
}

/// What is bound.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

struct Endpoint {
    floors: Arc<Floors>,
    /// The last sample, and when it was made. Held by who makes one.
    last: Mutex<Option<(Instant, Bytes)>>,
    places: Arc<Semaphore>,
}

impl Endpoint {
    async fn serve(self: Arc<Self>) {
        loop {
            match self.bind().await {
                Ok(listener) => self.accept(&listener).await,
                // Pods are kept whether anybody looks or not.
                Err(why) => {
                    let message = format!("metrics are not served: {why}");
                    self.floors.events.add(Kind::Failed, None, message);
                    sleep(BIND_RETRY_AFTER).await;
                }
            }
        }
    }

    async fn bind(&self) -> Result<Listener, String> {
        match &self.floors.settings.config.metrics {
            Metrics::Off => std::future::pending().await,
            Metrics::Socket(path) => ownership::bind(path, access::restrict).map(Listener::Unix),
            Metrics::Address(address) => {
                let bound = TcpListener::bind(address).await;
                bound
                    .map(Listener::Tcp)
                    .map_err(|error| format!("listen at {address}: {error}"))
            }
        }
    }

    async fn accept(self: &Arc<Self>, listener: &Listener) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            let endpoint = Arc::clone(self);
            let accepted = match listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        endpoint.connection(stream).await;
                        drop(place);
                    })
                }),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        endpoint.connection(stream).await;
                        drop(place);
                    })
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "accept");
                sleep(ACCEPT_RETRY_AFTER).await;
            }
        }
    }

    async fn connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let service = service_fn(|request| self.answer(request));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(MAX_HEAD)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Ok(Err(error)) = timeout(CONNECTION_LIMIT, served).await {
            tracing::debug!(%error, "a connection for metrics");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let text = |status, text: &'static str| plain(status, Bytes::from_static(text.as_bytes()));
        let host = request.headers().get(HOST);
        let host = host.and_then(|host| host.to_str().ok());
        if !self.is_for_us(host) {
            let why = "ask for it by an address, or as localhost\n";
            return Ok(text(StatusCode::MISDIRECTED_REQUEST, why));
        }
        Ok(match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/metrics") => match self.sample().await {
                Ok(sample) => typed(StatusCode::OK, OPEN_METRICS, sample),
                Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n").into()),
            },
            (_, "/healthz" | "/metrics") => text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n"),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        })
    }

    /// Whether a request at loopback was meant for it: a browser's, for a page whose name was given this host's address, was not.
    fn is_for_us(&self, host: Option<&str>) -> bool {
        match (&self.floors.settings.config.metrics, host) {
            (Metrics::Address(address), Some(host)) if address.ip().is_loopback() => is_here(host),
            _ => true,
        }
    }

    async fn sample(&self) -> Result<Bytes, String> {
        let make = async {
            let mut last = self.last.lock().await;
            if let Some((made, text)) = &*last
                && made.elapsed() < FRESH
            {
                return Ok(text.clone());
            }
            let sample = self.read().await?;
            let text = Bytes::from(render::render(&sample)?);
            *last = Some((Instant::now(), text.clone()));
            Ok(text)
        };
        let made = timeout(SAMPLE_LIMIT, make).await;
        made.unwrap_or_else(|_| Err("the host was not looked at in time".to_owned()))
    }

    async fn read(&self) -> Result<Sample, String> {
        let Floors {
            generations,
            reconciler,
            settings,
            events,
            ..
        } = &*self.floors;
        let store = Arc::clone(generations);
        let state_dir = settings.state_dir.clone();
        let look = move || {
            let (number, graph) = store.current()?;
            let current = match number {
                Some(_) => Some(store.get(number)?.0),
                None => None,
            };
            let backups = store.backups()?;
            let disk = rustix::fs::statvfs(&state_dir).ok();
            let overrides = store.overrides()?;
            let read = (current, graph, backups, disk, overrides);
            Ok::<_, crate::generations::Error>(read)
        };
        let looked = tokio::task::spawn_blocking(look).await;
        let looked = looked.map_err(|error| error.to_string())?;
        let (current, graph, backups, disk, overrides) =
            looked.map_err(|error| with_causes(&error))?;
        let observed = reconciler.observe(&graph).await;
        let observed = observed.map_err(|error| with_causes(&error))?;
        let declared = graph.pods().cloned().collect();
        let usage = reconciler.usage(declared, false).await;
        let mut pods = views::pods(&graph, &observed);
        by_hand::mark(&mut pods, &overrides);
        Ok(Sample {
            pods,
            usage: usage.map_err(|error| with_causes(&error))?.pods,
            generation: current.map(|entry| (entry.generation.number, entry.outcome)),
            events: events.counted(),
            passes: reconciler.telemetry().clone(),
            backups,
            disk: disk.map(|disk| {
                let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
                (bytes(disk.f_blocks), bytes(disk.f_bavail))
            }),
        })
    }
}

/// Whether `HOST` or `HOST:PORT` is an address or `localhost`.
fn is_here(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

fn plain(status: StatusCode, text: Bytes) -> Response<Full<Bytes>> {
    typed(status, PLAIN, text)
}

fn typed(status: StatusCode, kind: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
