//! The impure writer: carries steps out, the independent ones side by side.
//!
//! *Never*: decides what should be, or plans. *Guarantees*: every step is idempotent; a step that
//! failed leaves nothing that its next try trips over; what depends on a failed step is left.

mod data;
mod error;
mod files;
mod layers;
mod network;
mod nics;
mod order;
mod sandbox;
pub mod sources;
mod start;
mod under_way;
pub mod volumes;

pub use error::Error;
use error::NoFiles;
pub use layers::{make_skeleton, remove_stale};

use crate::{
    events::{Events, Kind, Subject},
    faults,
    pods::{Names, NoShim, Pods, Shim, runs::NotStarted},
    settings::Settings,
    sysctls::Record,
    timings::Timings,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use order::Order;
use sandbox::{Leavings, Spawner};
use sources::Sources;
use start::{Prepared, Preparer, Start};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tank_image::Images;
use tank_model::Name;
use tank_plan::{Plan, Step, StepId};
use tank_proto::shim;
use tank_sys::{cgroup::Cgroups, process::SIGCONT, route::Routes, with_causes};
pub use under_way::At;
use under_way::UnderWay;
use volumes::Volumes;

/// The most steps at once that do something.
const MAX_WORKING: usize = 16;

/// The most steps at once that wait for processes to end: each may take as long as its container
/// may.
const MAX_ENDING: usize = 128;

/// A step that was not carried out.
#[derive(Debug)]
pub struct Failed {
    pub step: Step,
    pub error: Error,
}

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Carried {
    pub done: Vec<Step>,
    /// Root causes: what depends on them was not tried.
    pub failed: Vec<Failed>,
}

/// What the actuator may touch.
pub struct Actuator {
    pub settings: Arc<Settings>,
    pub cgroups: Arc<Cgroups>,
    /// The host's own network namespace.
    pub routes: Arc<Routes>,
    pub pods: Arc<Pods>,
    pub names: Arc<Names>,
    pub images: Arc<Images>,
    /// What containers get from the host.
    pub sources: Arc<Sources>,
    pub volumes: Arc<Volumes>,
    pub events: Arc<Events>,
    pub timings: Arc<Timings>,
}

impl Actuator {
    /// Makes the record of the host's settings anew, should it hold something else, of what the rules
    /// still say. What is not mended is said by whoever reads it.
    pub async fn mend_record(&self) {
        let record = Record::of(&self.settings.run_dir);
        let mend = move || (record.mend(network::changed_by_the_rules), record);
        let Ok((mended, record)) = tokio::task::spawn_blocking(mend).await else {
            return;
        };
        let place = record.path().display();
        let message = match mended {
            Ok(None) => return,
            Ok(Some(why)) => format!(
                "{place} can't be read: {why}; it is kept as {} and made anew of what the rules say: links stay \
                 apart, and forwarding is given back with the bridge; no other setting is until a reboot (`accept_ra`)",
                record.damaged().display()
            ),
            Err(error) => format!(
                "{place} can't be read: {error}; pods run on, and nothing is changed until it can be, or is removed"
            ),
        };
        self.events.add(Kind::Failed, None, message);
    }

    /// Carries a plan out: each step when those before it are done. `progress` is called when a step
    /// begins, and when another one is waited for than that.
    pub async fn carry_out(
        self: &Arc<Self>,
        plan: &Plan,
        progress: &(dyn Fn(At<'_>) + Sync),
    ) -> Carried {
        let mut order = Order::of(plan);
        let mut carried = Carried::default();
        // What was begun before its step was. Detached mounts: what is not used is gone when it is
        // dropped.
        let mut ahead: BTreeMap<StepId, Prepared> = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        let mut under_way = UnderWay::default();
        loop {
            while let Some(id) = order.take(|id| under_way.has_room(&plan.steps[id].step)) {
                let step = plan.steps[id].step.clone();
                under_way.begin(id, &step);
                progress(At::Begins(&step));
                let prepared = ahead.remove(&id);
                running.push(self.carry_out_step(id, step, prepared, &plan.host_writable));
            }
            if let Some(step) = under_way.next_shown() {
                progress(At::WaitsFor(step));
            }
            let Some((id, step, outcome)) = running.next().await else {
                return carried;
            };
            under_way.end(id, &step);
            match outcome {
                Ok(()) => {
                    faults::boundary("after a step");
                    let why = plan.steps[id].why.text(tank_sys::users::named);
                    self.add_event(Kind::Step, &step, format!("{step}: {why}"));
                    order.done(id);
                    if let Step::StartSandbox { pod, .. } = &step {
                        for id in order.starts_once_connected(plan, pod, id) {
                            let start = Start::of(&plan.steps[id].step, &plan.host_writable);
                            // Without a shim the step itself says so.
                            if let (Some(start), Some(shim)) = (start, self.pods.get(pod)) {
                                ahead.insert(id, self.preparer().prepare_ahead(shim, start));
                            }
                        }
                    }
                    carried.done.push(step);
                }
                Err(error) => {
                    let message = format!("can't {step}: {}", with_causes(&error));
                    self.add_event(Kind::Failed, &step, message);
                    carried.failed.push(Failed { step, error });
                }
            }
        }
    }

    fn preparer(&self) -> Preparer {
        Preparer {
            settings: Arc::clone(&self.settings),
            cgroups: Arc::clone(&self.cgroups),
            images: Arc::clone(&self.images),
            sources: Arc::clone(&self.sources),
            volumes: Arc::clone(&self.volumes),
            runs: Arc::clone(self.pods.runs()),
            timings: Arc::clone(&self.timings),
        }
    }

    fn spawner(&self) -> Spawner {
        Spawner {
            settings: Arc::clone(&self.settings),
            cgroups: Arc::clone(&self.cgroups),
            pods: Arc::clone(&self.pods),
            timings: Arc::clone(&self.timings),
        }
    }

    fn add_event(&self, kind: Kind, step: &Step, message: String) {
        let of = Subject {
            container: step.container().map(Name::to_string),
            ..step.pod().map(Name::as_str).into()
        };
        self.events.add_of(kind, of, message);
    }

    async fn carry_out_step(
        self: &Arc<Self>,
        id: StepId,
        step: Step,
        prepared: Option<Prepared>,
        host_writable: &BTreeSet<String>,
    ) -> (StepId, Step, Result<(), Error>) {
        faults::boundary("before a step");
        let _span = self.timings.span(|| step.to_string());
        let outcome = self.perform(&step, prepared, host_writable).await;
        // However it went, the pod is not what was read.
        let shim = step.pod().and_then(|pod| self.pods.get(pod));
        shim.into_iter().for_each(|shim| shim.invalidate_kernel());
        (id, step, outcome)
    }

    // long: one arm a step
    async fn perform(
        self: &Arc<Self>,
        step: &Step,
        prepared: Option<Prepared>,
        host_writable: &BTreeSet<String>,
    ) -> Result<(), Error> {
        match step {
            Step::EnsureBridge { bridge } => {
                let (routes, bridge) = (Arc::clone(&self.routes), bridge.clone());
                let record = Record::of(&self.settings.run_dir);
                let ensure = move || network::ensure_bridge(&routes, &record, &bridge);
                blocking("set up the bridge", ensure).await
            }
            Step::RemoveBridge { name, restore } => {
                let (routes, name) = (Arc::clone(&self.routes), name.clone());
                let (record, restore) = (Record::of(&self.settings.run_dir), restore.clone());
                let remove = move || network::remove_bridge(&routes, &record, &name, &restore);
                blocking("remove the bridge", remove).await
            }
            Step::StartSandbox { pod, hash, spec } => {
                self.spawner().start_sandbox(pod, *hash, spec).await
            }
            Step::StopSandbox { pod } => {
                let shim = self.pods.get(pod);
                if let Some(shim) = &shim {
                    shim.shut_down().await;
                }
                self.sweep(pod, shim).await
            }
            Step::SweepPod { pod } => self.sweep(pod, self.pods.get(pod)).await,
            Step::SweepContainer { pod, container } => {
                self.leavings().sweep_container(pod, container).await
            }
            Step::ResumeShim { pod } => match self.pods.get(pod) {
                Some(shim) => sandbox::resume_shim(&shim, &self.cgroups, pod).await,
                None => Ok(()),
            },
            Step::EnsureNetwork { pod, links } => {
                let shim = self.pods.get(pod).ok_or(Error::Connect(NoShim))?;
                network::ensure_network(&self.routes, shim, links).await
            }
            Step::EnsureNic { pod, nic } => {
                let shim = self.pods.get(pod).ok_or(Error::Connect(NoShim))?;
                nics::ensure_nic(&self.routes, shim, nic).await
            }
            Step::EnsureHostLink { link } => {
                let (routes, link) = (Arc::clone(&self.routes), link.clone());
                let ensure = move || nics::ensure_host_link(&routes, &link);
                blocking("make a host link", ensure).await
            }
            Step::RemoveHostLink { name } => {
                let (routes, name) = (Arc::clone(&self.routes), name.clone());
                let remove = move || nics::remove_host_link(&routes, &name);
                blocking("remove a host link", remove).await
            }
            Step::StartContainer { .. } => self.start(step, prepared, host_writable).await,
            Step::StopContainer {
                pod,
                container,
                signal,
                timeout,
            } => {
                self.stop(pod, container, *signal, Duration::from_millis(*timeout))
                    .await
            }
            Step::EndContainer {
                pod,
                container,
                signal,
                timeout,
            } => {
                let end = (*signal, Duration::from_millis(*timeout));
                Ok(self.pods.begin_end(pod, container, end).await?)
            }
            Step::SetLimits {
                pod,
                container,
                limits,
            } => {
                let (cgroups, limits) = (Arc::clone(&self.cgroups), limits.clone());
                let (pod, container) = (pod.clone(), container.clone());
                let set = move || start::set_limits(&cgroups, &pod, &container, &limits);
                blocking("set limits", set).await
            }
            Step::Resume { pod, container } => self.resume(pod, container).await,
            Step::WriteFiles {
                pod,
                container,
                files,
            } => {
                let shim = self.pods.get(pod);
                let shim = shim.ok_or(Error::WriteFiles(NoFiles::Gone))?;
                files::write(&shim, container, files).await
            }
            Step::EnsureFirewall { table } => {
                let table = table.clone();
                blocking("publish ports", move || network::ensure_firewall(&table)).await
            }
            Step::EndFlows { flows, opened } => {
                let (routes, flows, opened) =
                    (Arc::clone(&self.routes), flows.clone(), opened.clone());
                let end = move || network::end_flows(&routes, &flows, &opened);
                blocking("end flows", end).await
            }
            Step::RemoveFirewall => blocking("remove the rules", network::remove_firewall).await,
            Step::EnsureNames { zone } => {
                let (names, zone) = (Arc::clone(&self.names), zone.clone());
                blocking("answer names", move || Ok(names.ensure(&zone)?)).await
            }
            Step::RemoveNames => {
                let names = Arc::clone(&self.names);
                blocking("end the name server", move || Ok(names.remove()?)).await
            }
            Step::SnapshotVolume { .. } | Step::RestoreVolume { .. } => self.data(step).await,
            Step::LimitVolume { volume, quota } => self.limit(volume, *quota).await,
        }
    }

    async fn start(
        self: &Arc<Self>,
        step: &Step,
        prepared: Option<Prepared>,
        host_writable: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let Some(start) = Start::of(step, host_writable) else {
            return Ok(());
        };
        let shim = self.pods.get(&start.pod);
        let shim = shim.ok_or(Error::Start(NoShim))?;
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => {
                // A shim that was taken over was not asked for them yet.
                shim.namespaces().await?;
                let shim = Arc::clone(&shim);
                self.preparer().prepare_ahead(shim, start.clone())
            }
        };
        let started = start::start(&shim, &self.timings, &start, prepared).await;
        let runs = self.pods.runs();
        match started {
            Ok(fds) => runs.answer(&start.pod, &start.container, Ok(fds)),
            Err(error) => {
                let kind = error.kind();
                let why = with_causes(&error);
                let failed = Err(NotStarted { kind, why });
                runs.answer(&start.pod, &start.container, failed);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn sweep(&self, pod: &Name, shim: Option<Arc<Shim>>) -> Result<(), Error> {
        self.pods.remove(pod);
        self.leavings().sweep(pod).await?;
        let Some(shim) = shim else { return Ok(()) };
        let release = move || {
            // Without them its network goes as well, only later.
            let released = shim.known_routes().map(network::release_addresses);
            if let Some(Err(error)) = released {
                tracing::warn!(
                    error = with_causes(&error),
                    "a pod's addresses stay a while"
                );
            }
            Ok(())
        };
        blocking("release a pod's addresses", release).await
    }

    fn leavings(&self) -> Leavings {
        Leavings {
            settings: Arc::clone(&self.settings),
            cgroups: Arc::clone(&self.cgroups),
        }
    }

    /// Thaws the container's cgroup and lets its main process go on.
    async fn resume(&self, pod: &Name, container: &Name) -> Result<(), Error> {
        self.cgroups.thaw(pod.as_str(), container.as_str())?;
        let Some(shim) = self.pods.get(pod) else {
            return Ok(());
        };
        let container = container.to_string();
        let request = shim::Request::Signal {
            container,
            signal: SIGCONT,
        };
        Ok(shim.request(&request, &[]).await.map(drop)?)
    }

    /// Asks, waits, kills; then the shim forgets it.
    async fn stop(
        &self,
        pod: &Name,
        container: &Name,
        signal: i32,
        limit: Duration,
    ) -> Result<(), Error> {
        let Some(shim) = self.pods.get(pod) else {
            return Ok(());
        };
        shim.end(container, signal, limit).await?;
        let request = shim::Request::Forget {
            container: container.to_string(),
        };
        Ok(shim.request(&request, &[]).await.map(drop)?)
    }
}

/// Whether most of a step is waiting for processes to end.
fn is_an_end(step: &Step) -> bool {
    matches!(step, Step::StopContainer { .. } | Step::StopSandbox { .. })
}

/// Runs what blocks on a thread for it.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| Error::Thread { what, source })?
}
