//! `tankd`: keeps a host as its current generation declares.
//!
//! Each floor imports what is below it and nothing above (a test holds that):
//!
//! ```text
//! api            Varlink in and out; the only floor that knows its shapes
//! generations    switch (apply is one with merge), delete, rollback, seed, and how they ended
//! reconcile      observe, plan (tank-plan), carry out; the loop
//! observe  probe  actuate    read the host; ask containers how they are; change the host
//! pods           the daemon's side of the shims
//! store          nodes, generations, leases, pointers
//! ```
//!
//! It evaluates no Nickel: a client sends canonical bytes, and nothing in them is taken on trust. It
//! may be killed at any time: what runs belongs to the shims, what is declared to the store, and the
//! next start finds both.

#![forbid(unsafe_code)]

mod actuate;
mod api;
mod cache;
mod dirty;
mod events;
mod faults;
mod figures;
mod generations;
mod hooks;
mod observe;
mod ownership;
mod pods;
mod probe;
mod reconcile;
mod rules;
mod settings;
mod store;
mod supervisor;
mod sysctls;
mod timings;
mod trash;

use actuate::{Actuator, sources::Sources, volumes::Volumes};
use api::Floors;
use clap::{CommandFactory, Parser};
use dirty::Dirty;
use events::{Events, Kind, Subject};
use generations::Generations;
use observe::Observer;
use ownership::Ownership;
use pods::{Names, Notification, Pods};
use probe::Prober;
use reconcile::Reconciler;
use settings::{Flags, Settings};
use std::{io::Write, os::unix::net::UnixListener, path::Path, process::ExitCode, sync::Arc};
use store::{Store, graphs::Graphs, off_worker::OffWorker};
use tank_image::{Converter, Images};
use tank_proto::shim::{Event, ExitStatus};
use tank_sys::{
    cgroup::{self, Cgroups},
    route::Routes,
    with_causes,
};
use timings::Timings;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// The first argument that has a page for `man` printed: that of `tankd`, or that of `tank.toml`.
const MAN_PAGE: &str = "__man-page";
const MAN_PAGE_OF_SETTINGS: &str = "__man-page-of-settings";

/// The most notifications of shims that wait: beyond that, a shim waits.
const MAX_NOTIFICATIONS: usize = 1_024;

/// The most threads for what blocks: unpacking, the store, the file system.
const MAX_BLOCKING_THREADS: usize = 24;

/// How long is waited at the end for what blocks.
const SHUTDOWN_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// How long figures over time may take to be written then.
const FIGURES_LIMIT: std::time::Duration = std::time::Duration::from_secs(3);

/// What this program is by its first argument, where that is not the daemon.
fn other_than_daemon() -> Option<ExitCode> {
    let first = std::env::args_os().nth(1)?;
    if first == generations::backups::wire::ARGUMENT {
        return Some(generations::backups::archiver::main());
    }
    if first == hooks::child::ARGUMENT {
        let order = std::env::args_os().nth(2);
        let order = order.and_then(|order| order.into_string().ok());
        return Some(hooks::child::run(order));
    }
    let mut out = std::io::stdout();
    let printed = if first == MAN_PAGE {
        let page = clap_mangen::Man::new(Flags::command()).section("8");
        page.render(&mut out)
    } else if first == MAN_PAGE_OF_SETTINGS {
        out.write_all(settings::manual::page().as_bytes())
    } else {
        return None;
    };
    Some(printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

fn main() -> ExitCode {
    if let Some(status) = other_than_daemon() {
        return status;
    }
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
    let handed = match supervisor::listener() {
        Ok(handed) => handed,
        Err(error) => {
            eprintln!("tankd: {error}");
            return ExitCode::FAILURE;
        }
    };
    // While there is one thread. Where it is not permitted, running as root is the first thing to
    // be missing.
    if let Err(error) = tank_sys::mount::own_namespace() {
        eprintln!("tankd: {error}: it has to run as root");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build();
    let outcome = runtime.map_err(|e| e.to_string()).and_then(|runtime| {
        let outcome = runtime.block_on(run(&flags, handed));
        // What still copies may be ended anywhere.
        runtime.shutdown_timeout(SHUTDOWN_LIMIT);
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tankd: {error}");
            ExitCode::FAILURE
        }
    }
}

// long: what there is, in the order in which it begins
async fn run(flags: &Flags, handed: Option<UnixListener>) -> Result<(), String> {
    let mut settings = Settings::settle(flags)?;
    if !rustix::process::geteuid().is_root() {
        return Err("it has to run as root".to_owned());
    }
    settings.nofile = tank_sys::process::raise_descriptor_limit().map_err(|e| with_causes(&e))?;
    let settings = Arc::new(settings);
    // What is claimed is this daemon's for as long as it holds that.
    let (_ownership, cgroups) = claim(&settings)?;
    let cgroups = Arc::new(cgroups);
    trash::begin(&settings);
    actuate::make_skeleton(&settings.skeleton_dir())
        .map_err(|e| format!("{}: {e}", settings.skeleton_dir().display()))?;
    let (store, recovered) = open_store(flags, &settings)?;
    let registries = settings.registries()?;
    let converter = Converter {
        program: settings.layer.clone(),
        id: settings.host_config().id_base,
    };
    let images = Images::open(&settings.state_dir.join("images"), registries, converter)
        .map_err(|e| format!("open the image store: {e}"))?;
    // Before anything that runs is looked at. To end it nobody needs to call.
    let listener = match flags.end_pods {
        true => None,
        false => Some(listen_at(&settings.socket, handed)?),
    };
    let (sender, notifications) = mpsc::channel(MAX_NOTIFICATIONS);
    let house = House::build(
        settings,
        Arc::new(OffWorker(store)),
        images,
        Arc::clone(&cgroups),
        sender,
    );
    let House {
        floors,
        observer,
        dirty,
    } = house.map_err(|e| with_causes(&e))?;
    let (generations, events) = (Arc::clone(&floors.generations), Arc::clone(&floors.events));
    // Before the first thing that one may be asked to run for.
    let begin = || hooks::keep(&floors.settings, &cgroups, &events);
    let hooks = listener.is_some().then(begin);
    for note in recovered {
        tracing::warn!("{note}");
        events.add(Kind::Recovered, None, note);
    }
    take_over(&floors.pods, Arc::clone(&dirty))?;
    actuate::remove_stale(&floors.settings);
    if let Err(error) = generations.lease_current() {
        let message = format!("can't lease what is declared: {}", with_causes(&error));
        events.add(Kind::Failed, None, message);
    }
    tokio::spawn(listen(notifications, Arc::clone(&events), dirty));
    tokio::spawn(async move { observer.watch().await });
    let Some(listener) = listener else {
        return generations.end_pods().await;
    };
    if let Some(path) = &flags.seed {
        seed(&generations, path, &events).await?;
    }
    keep(Arc::clone(&floors.reconciler), generations);
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    tokio::spawn(supervisor::keep_alive());
    supervisor::ready(&format!("serving {}", floors.settings.socket.display()));
    let backups = Arc::clone(&floors.generations);
    let reconciler = Arc::clone(&floors.reconciler);
    tokio::select! {
        () = api::serve(floors, listener) => {}
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    supervisor::stopping();
    if let Some(hooks) = hooks {
        hooks.end().await;
    }
    backups.end_backups().await;
    let figures = tokio::task::spawn_blocking(move || reconciler.end_figures());
    let _ = tokio::time::timeout(FIGURES_LIMIT, figures).await;
    let _ = tokio::task::spawn_blocking(move || events.flush()).await;
    Ok(())
}

/// The socket that is served: one that a service manager has bound, or else one of its own.
fn listen_at(
    path: &Path,
    handed: Option<UnixListener>,
) -> Result<tokio::net::UnixListener, String> {
    let Some(handed) = handed else {
        return ownership::bind(path, api::access::restrict);
    };
    supervisor::check_place(&handed, path)?;
    let at = |e: std::io::Error| format!("serve {}: {e}", path.display());
    api::access::restrict(path).map_err(at)?;
    tokio::net::UnixListener::from_std(handed).map_err(at)
}

/// Begins what goes on for ever.
fn keep(reconciler: Arc<Reconciler>, generations: Arc<Generations>) {
    tokio::spawn(Arc::clone(&generations).collect_when_due());
    tokio::spawn(Arc::clone(&generations).back_up_when_due());
    reconciler.keep_figures();
    tokio::spawn(reconciler.keep(generations));
}

/// Reaps shims, watches logs, and connects to the shims that are there.
fn take_over(pods: &Arc<Pods>, dirty: Arc<Dirty>) -> Result<(), String> {
    let stopped = Arc::clone(pods);
    pods::forkserver::reap(move |pid| {
        // It may be the name server: whoever looks next asks it.
        dirty.mark();
        let pods = Arc::clone(&stopped);
        drop(tokio::spawn(async move { pods.check_process(pid).await }));
    })?;
    let logs = Arc::clone(pods.logs());
    tokio::spawn(async move { logs.run().await });
    pods.warm_up();
    pods.adopt();
    Ok(())
}

fn open_store(
    flags: &Flags,
    settings: &Settings,
) -> Result<(store::rocks::RocksStore, Vec<String>), String> {
    let recovery = store::recover::Recovery {
        accept_loss: flags.accept_loss,
        repair: flags.repair_store,
    };
    let opened = store::rocks::RocksStore::open(&settings.state_dir.join("store"), recovery);
    opened.map_err(|e| with_causes(&e))
}

/// Takes the folders, the cgroups and the network for this daemon.
fn claim(settings: &Settings) -> Result<(Ownership, Cgroups), String> {
    // What is in these folders is nobody else's to read; the socket's folder has to let callers
    // through.
    let mut ownership = Ownership::of_folders(&settings.state_dir, &settings.run_dir)?;
    let layout = cgroup::detect().map_err(|e| with_causes(&e))?;
    let cgroups = Cgroups::new(layout, &settings.config.cgroup);
    ownership.add_cgroup(&cgroups, &settings.state_dir)?;
    ownership.add_network()?;
    if let Err(error) = cgroups.count_disk(&settings.state_dir) {
        tracing::warn!(error = with_causes(&error), "what disks do is not counted");
    }
    private_dir(&settings.run_dir.join("pods"), 0o700)?;
    private_dir(&settings.attach_dir(), 0o700)?;
    Ok((ownership, cgroups))
}

/// The floors, and what keeps looking at the host.
struct House {
    floors: Floors,
    observer: Arc<Observer>,
    dirty: Arc<Dirty>,
}

impl House {
    // long: one floor after the other, each with what it may touch
    fn build(
        settings: Arc<Settings>,
        store: Arc<dyn Store>,
        images: Images,
        cgroups: Arc<Cgroups>,
        notifications: mpsc::Sender<Notification>,
    ) -> Result<Self, tank_sys::Error> {
        let (events, timings) = (Events::open(&settings.state_dir), Arc::<Timings>::default());
        let events = Arc::new(events);
        let dirty = Arc::<Dirty>::default();
        let (images, routes) = (Arc::new(images), Arc::new(Routes::here()?));
        let leaves = (
            Arc::clone(&events),
            Arc::clone(&timings),
            Arc::clone(&dirty),
        );
        let pods = Pods::new(
            Arc::clone(&settings),
            Arc::clone(&cgroups),
            leaves.clone(),
            notifications,
        );
        let pods = Arc::new(pods);
        let lowest = (Arc::clone(&settings), Arc::clone(&cgroups));
        let names = Names::new(lowest, (Arc::clone(&dirty), Arc::clone(&events)));
        let names = Arc::new(names);
        let observer = Observer::new(
            Arc::clone(&settings),
            Arc::clone(&cgroups),
            Arc::clone(&routes),
            (Arc::clone(&pods), Arc::clone(&names)),
            Arc::clone(&dirty),
        )?;
        let observer = Arc::new(observer);
        let volumes = Arc::new(Volumes::new(
            Arc::clone(&settings),
            Arc::clone(&images),
            Arc::clone(&dirty),
        ));
        let actuator = Arc::new(Actuator {
            settings: Arc::clone(&settings),
            cgroups: Arc::clone(&cgroups),
            routes,
            pods: Arc::clone(&pods),
            names,
            images: Arc::clone(&images),
            sources: Arc::new(Sources::open(&settings.state_dir)),
            volumes: Arc::clone(&volumes),
            events: Arc::clone(&events),
            timings: Arc::clone(&timings),
        });
        let sources = Arc::clone(&actuator.sources);
        let prober = Prober::new(Arc::clone(&pods), Arc::clone(&events), Arc::clone(&dirty));
        let graphs = Arc::new(Graphs::new(Arc::clone(&store)));
        let prober = Arc::new(prober);
        let declared = (
            Arc::clone(&settings),
            Arc::clone(&store),
            Arc::clone(&graphs),
        );
        let lower = (Arc::clone(&pods), Arc::clone(&images));
        let beside = (Arc::clone(&observer), actuator, Arc::clone(&prober));
        let reconciler = Arc::new(Reconciler::new(declared, lower, beside, leaves));
        let handles = generations::Handles {
            settings: Arc::clone(&settings),
            store,
            graphs,
            images,
            sources,
            volumes,
            pods: Arc::clone(&pods),
            cgroups,
            prober,
            events: Arc::clone(&events),
            timings,
            dirty: Arc::clone(&dirty),
        };
        let generations = Arc::new(Generations::new(Arc::clone(&reconciler), handles));
        let floors = Floors {
            generations,
            reconciler,
            pods,
            settings,
            events,
        };
        Ok(Self {
            floors,
            observer,
            dirty,
        })
    }
}

/// Makes events of what the shims notify of, and wakes the loop.
async fn listen(
    mut notifications: mpsc::Receiver<Notification>,
    events: Arc<Events>,
    dirty: Arc<Dirty>,
) {
    while let Some(notification) = notifications.recv().await {
        match notification {
            Notification::Event(
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
                let of = Subject::container(&pod, &container);
                events.add_of(Kind::Exited, of, format!("container {container} {how}"));
            }
            Notification::Event(pod, Event::Stopped { container }) => {
                let of = Subject::container(&pod, &container);
                events.add_of(
                    Kind::Stopped,
                    of,
                    format!("container {container} was stopped"),
                );
            }
            Notification::Gone(pod) => events.add(Kind::Gone, Some(&pod), "its shim is gone"),
            Notification::Ended(pod) => events.add(Kind::Ended, Some(&pod), "it was taken down"),
            Notification::Silent(pod) => {
                events.add(Kind::Unresponsive, Some(&pod), "its shim does not answer");
            }
            Notification::Answers(pod) => {
                events.add(Kind::Responsive, Some(&pod), "its shim answers again");
            }
            Notification::Changed(pod) => tracing::debug!(pod, "its network changed"),
        }
        dirty.mark();
    }
}

/// Declares the pods of a file where nothing was ever declared.
async fn seed(generations: &Arc<Generations>, path: &Path, events: &Events) -> Result<(), String> {
    let (current, _) = generations.current().map_err(|e| with_causes(&e))?;
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let base_dir = path.parent().map(Path::to_owned);
    if current.is_some() {
        let path = path.display();
        let message = format!("the seed {path} is ignored: this store has generations");
        events.add(Kind::Note, None, message);
        return Ok(());
    }
    let generations = Arc::clone(generations);
    tokio::spawn(async move { generations.seed(&text, base_dir.as_deref()).await });
    Ok(())
}

fn private_dir(path: &Path, mode: u32) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let at = |e: std::io::Error| format!("{}: {e}", path.display());
    std::fs::create_dir_all(path).map_err(at)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(at)
}
