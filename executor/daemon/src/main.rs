//! `tankd`: keeps a host as its current generation declares.
//!
//! ```text
//! server ─► engine ─► observe ─► plan (tank-plan) ─► actuate ─► start ─► shims
//!             │          │                                        │
//!             │          └─► seen    what holds until            └─► forkserver    makes shims
//!             │                      something is told
//!             ├─► tank-image    references to layers
//!             ├─► prober    probes the runs of the current generation
//!             └─► store     nodes, generations, leases, pointers
//! ```
//!
//! It evaluates no Nickel: a client sends canonical bytes, and nothing in them is taken on trust.
//! It may be killed at any time: what runs belongs to the shims, what is declared to the store, and
//! the next start finds both.

#![forbid(unsafe_code)]

mod actuate;
mod api;
mod events;
mod faults;
mod generations;
mod observe;
mod ownership;
mod pods;
mod probe;
mod reconcile;
mod settings;
mod store;
mod timings;

use clap::Parser;
use generations::Engine;
use ownership::Ownership;
use pods::host::Host;
use settings::{Flags, Settings};
use std::{process::ExitCode, sync::Arc};
use tank_proto::shim::{Event, ExitStatus};
use tank_sys::cgroup;
use tokio::sync::mpsc;

/// How many notices of shims may wait to be heard: beyond that, a shim waits.
const NOTICES: usize = 1_024;

/// The most threads for what blocks: unpacking, the store, the file system.
const BLOCKING: usize = 24;

fn main() -> ExitCode {
    let flags = Flags::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("TANK_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    tank_sys::process::share_memory_arenas();
    // While there is one thread. Where it is not permitted, running as root is the first thing to
    // be missing.
    if let Err(error) = tank_sys::mount::own_namespace() {
        eprintln!("tankd: {error}: it has to run as root");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(|e| e.to_string())
        .and_then(|runtime| runtime.block_on(run(&flags)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tankd: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: &Flags) -> Result<(), String> {
    let mut settings = Settings::settle(flags)?;
    let said = |error: &dyn std::error::Error| {
        let source = error
            .source()
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        format!("{error}{source}")
    };
    if !rustix::process::geteuid().is_root() {
        return Err("it has to run as root".to_owned());
    }
    settings.nofile = tank_sys::process::raise_descriptor_limit().map_err(|e| said(&e))?;
    // What is in these folders is nobody else's to read; the socket's folder has to let callers
    // through.
    let mut ownership = Ownership::of_folders(&settings.state_dir, &settings.run_dir)?;
    let layout = cgroup::detect().map_err(|e| said(&e))?;
    let cgroups = cgroup::Cgroups::new(layout, &settings.config.cgroup);
    ownership.add_cgroup(&cgroups, &settings.state_dir)?;
    ownership.add_network()?;
    private_dir(&settings.run_dir.join("pods"), 0o700)?;
    private_dir(&settings.attach_dir(), 0o700)?;
    actuate::start::make_skeleton(&settings.skeleton_dir())
        .map_err(|e| format!("{}: {e}", settings.skeleton_dir().display()))?;
    let recovery = store::recover::Recovery {
        accept_loss: flags.accept_loss,
        repair: flags.repair_store,
    };
    let store = store::rocks::RocksStore::open(&settings.state_dir.join("store"), recovery);
    let (store, recovered) = store.map_err(|e| said(&e))?;
    let images = tank_image::Images::open(
        &settings.state_dir.join("images"),
        &settings.config.insecure_registries,
    )
    .map_err(|e| format!("open the image store: {e}"))?;
    let (notices, mut received) = mpsc::channel(NOTICES);
    // Before anything that runs is looked at.
    let listener = ownership::bind(&settings.socket)?;
    let host =
        Host::new(settings, Box::new(store), images, cgroups, notices).map_err(|e| said(&e))?;
    let host = Arc::new(host);
    for note in recovered {
        tracing::warn!("{note}");
        host.events.add("recovered", None, note);
    }
    let stopped = Arc::clone(&host);
    pods::forkserver::reap(move |pid| {
        let host = Arc::clone(&stopped);
        drop(tokio::spawn(async move { host.check_shim(pid).await }));
    })?;
    // The first pod need not wait for it; what keeps it from starting is said when it is needed.
    let _ = host.forkserver.start();
    host.adopt();
    actuate::start::remove_stale(&host);
    let engine = Arc::new(Engine::new(Arc::clone(&host)));
    if let Err(error) = engine.lease_current() {
        host.events.add(
            "failed",
            None,
            format!("can't lease what is declared: {error}"),
        );
    }

    let listening = Arc::clone(&host);
    tokio::spawn(async move {
        while let Some(notice) = received.recv().await {
            match notice {
                pods::shim::Notice::Event(
                    pod,
                    Event::Exited {
                        container, exit, ..
                    },
                ) => {
                    let how = match exit {
                        ExitStatus::Code(code) => format!("ended with status {code}"),
                        ExitStatus::Signal(signal) => {
                            format!("was killed by {}", tank_sys::process::signal_name(signal))
                        }
                    };
                    let message = format!("container {container} {how}");
                    listening.events.add("exited", Some(&pod), message);
                }
                pods::shim::Notice::Event(pod, Event::Stopped { container }) => {
                    listening.events.add(
                        "stopped",
                        Some(&pod),
                        format!("container {container} was stopped"),
                    );
                }
                pods::shim::Notice::Gone(pod) => {
                    listening.events.add("gone", Some(&pod), "its shim is gone")
                }
                pods::shim::Notice::Silent(pod) => {
                    listening
                        .events
                        .add("unresponsive", Some(&pod), "its shim does not answer");
                }
                pods::shim::Notice::Answers(pod) => {
                    listening
                        .events
                        .add("responsive", Some(&pod), "its shim answers again");
                }
                pods::shim::Notice::Changed(pod) => tracing::debug!(pod, "its network changed"),
            }
            listening.wake.notify_one();
        }
    });

    let [links, rules, writes] = std::array::from_fn(|_| Arc::clone(&host));
    tokio::spawn(ring(Arc::clone(&host), async move || {
        links.links.told().await
    }));
    tokio::spawn(ring(Arc::clone(&host), async move || {
        rules.rules.told().await
    }));
    tokio::spawn(ring(Arc::clone(&host), async move || {
        writes.told_of_writes().await
    }));

    if let Some(path) = &flags.seed {
        let fresh = host.store.current().map_err(|e| said(&e))?.is_none();
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let base = path.parent().map(std::path::Path::to_owned);
        if fresh {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move { engine.seed(&text, base.as_deref()).await });
        } else {
            host.events.add(
                "note",
                None,
                format!(
                    "the seed {} is ignored: this store has generations",
                    path.display()
                ),
            );
        }
    }

    tokio::spawn(Arc::clone(&engine).run());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|e| e.to_string())?;
    tokio::select! {
        () = api::serve(engine, listener) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Wakes the loop for as long as there is something to be told, and not more often than has a
/// point.
async fn ring(host: Arc<Host>, told: impl AsyncFn() -> tank_sys::Result<()>) {
    while told().await.is_ok() {
        host.wake.notify_one();
        tokio::time::sleep(pods::shim::CALM).await;
    }
}

fn private_dir(path: &std::path::Path, mode: u32) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| format!("{}: {e}", path.display()))
}
