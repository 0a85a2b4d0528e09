//! From what was read to the text that is sent. Pure.
//!
//! *Labels*: `pod`, `stack` and `container` are those that the current generation declares, `kind`, `state` and `outcome` closed sets
//! of words: no container makes a label, however it behaves.

use crate::{events::Kind, generations::backups::Shown, observe::PodUsage, reconcile::Telemetry};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Metric, Registry},
};
use std::{collections::BTreeMap, sync::atomic::AtomicU64};
use tank_model::Outcome;
use tank_proto::varlink::{self, State};

/// All that metrics are made of.
pub struct Sample {
    pub pods: Vec<varlink::Pod>,
    pub usage: Vec<PodUsage>,
    /// The current one.
    pub generation: Option<(u64, Outcome)>,
    pub events: BTreeMap<Kind, u64>,
    pub passes: Telemetry,
    pub backups: Vec<Shown>,
    /// Bytes of the disk that has the state folder, and those that are free.
    pub disk: Option<(u64, u64)>,
}

type Labels = Vec<(&'static str, String)>;
type Number = Gauge<f64, AtomicU64>;
type Total = Counter<f64, AtomicU64>;

/// A table of values by labels, under one name.
struct Table<'a> {
    registry: &'a mut Registry,
}

impl Table<'_> {
    fn add(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.registry.register(name, help, metric);
    }

    /// One value, where there is one.
    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            let gauge = Number::default();
            gauge.set(value);
            self.add(name, help, gauge);
        }
    }

    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Number>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.add(name, help, family);
    }

    fn totals(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Total>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.add(name, help, family);
    }
}

/// The text of a sample.
///
/// # Errors
/// A text, when it can't be encoded.
pub fn render(sample: &Sample) -> Result<String, String> {
    let mut registry = Registry::with_prefix("tank");
    let mut table = Table {
        registry: &mut registry,
    };
    daemon(&mut table, sample);
    pods(&mut table, &sample.pods);
    usage(&mut table, sample);
    backups(&mut table, &sample.backups);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| error.to_string())?;
    Ok(text)
}

fn daemon(table: &mut Table<'_>, sample: &Sample) {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    table.gauges("build_info", "The daemon's version", [(version, 1.0)]);
    let number = sample.generation.as_ref().map(|(number, _)| *number as f64);
    table.gauge("generation", "The number of the current generation", number);
    let outcome = sample.generation.iter().map(|(_, outcome)| {
        let word = match outcome {
            Outcome::Pending => "pending",
            Outcome::Good => "good",
            Outcome::Failed => "failed",
            Outcome::RolledBack => "rolled_back",
        };
        (vec![("outcome", word.to_owned())], 1.0)
    });
    let help = "How the switch to the current generation has ended";
    table.gauges("generation_outcome", help, outcome);
    let events = Kind::ALL.iter().map(|kind| {
        let count = sample.events.get(kind).copied().unwrap_or(0);
        (vec![("kind", kind.to_string())], count as f64)
    });
    table.totals("events", "Events since the daemon was started", events);
    let Telemetry {
        passes,
        failures,
        steps,
        repairs,
    } = sample.passes.clone();
    table.add("reconcile_duration_seconds", "How long passes took", passes);
    let help = "Passes that could not do all they should";
    table.add("reconcile_failures", help, failures);
    table.add("reconcile_steps", "Steps that were carried out", steps);
    let help = "Steps that put back what no change of the configuration made different";
    table.add("drift_repairs", help, repairs);
    let (size, free) = sample.disk.unzip();
    let help = "The disk that has the state folder";
    table.gauge("state_disk_bytes", help, size.map(|bytes| bytes as f64));
    let help = "What is free of the disk that has the state folder";
    table.gauge(
        "state_disk_free_bytes",
        help,
        free.map(|bytes| bytes as f64),
    );
}

fn of_pod(pod: &str) -> Labels {
    let stack = pod.split_once(':').map_or("", |(stack, _)| stack);
    vec![("pod", pod.to_owned()), ("stack", stack.to_owned())]
}

fn of_container(pod: &str, container: &str) -> Labels {
    let own = [("container", container.to_owned())];
    of_pod(pod).into_iter().chain(own).collect()
}

fn pods(table: &mut Table<'_>, pods: &[varlink::Pod]) {
    let count = |state: &State| pods.iter().filter(|pod| pod.state == *state).count();
    let counts = State::ALL
        .iter()
        .map(|state| (vec![("state", state.to_string())], count(state) as f64));
    table.gauges("pods", "How many pods are in a state", counts);
    let declared = || pods.iter().filter(|pod| pod.state != State::Undeclared);
    let states = declared().map(|pod| {
        let state = [("state", pod.state.to_string())];
        (of_pod(&pod.name).into_iter().chain(state).collect(), 1.0)
    });
    table.gauges("pod_state", "The state that a pod is in", states);
    let containers = |value: fn(&varlink::ContainerStatus) -> f64| {
        declared().flat_map(move |pod| {
            let of = pod.containers.iter();
            of.map(move |one| (of_container(&pod.name, &one.name), value(one)))
        })
    };
    let runs = |one: &varlink::ContainerStatus| f64::from(u8::from(one.state == State::Running));
    table.gauges(
        "container_running",
        "Whether a container runs",
        containers(runs),
    );
    let ready = |one: &varlink::ContainerStatus| f64::from(u8::from(one.ready));
    table.gauges(
        "container_ready",
        "Whether a container is ready",
        containers(ready),
    );
    let restarts = |one: &varlink::ContainerStatus| f64::from(one.restarts);
    let help = "How often a container was started again, in a row";
    table.gauges("container_restarts", help, containers(restarts));
}

// long: one name after the other
fn usage(table: &mut Table<'_>, sample: &Sample) {
    type Part = fn(&tank_sys::cgroup::Usage) -> Option<f64>;
    let of = |part: Part| {
        sample.usage.iter().flat_map(move |pod| {
            let containers = pod.containers.iter();
            containers.filter_map(move |(container, usage)| {
                let labels = of_container(pod.pod.as_str(), container.as_str());
                Some((labels, part(usage)?))
            })
        })
    };
    table.totals(
        "container_cpu_seconds",
        "Time of processors that a container has had",
        of(|usage| usage.cpu.map(|micros| micros as f64 / 1e6)),
    );
    table.gauges(
        "container_memory_bytes",
        "Memory of a container, with cached pages of files",
        of(|usage| usage.memory.map(|bytes| bytes as f64)),
    );
    table.gauges(
        "container_memory_working_set_bytes",
        "Memory of a container, without cached pages that were not used lately",
        of(|usage| {
            let inactive = usage.inactive.unwrap_or(0);
            let bytes = usage.memory?.saturating_sub(inactive);
            Some(bytes as f64)
        }),
    );
    table.gauges(
        "container_memory_limit_bytes",
        "The most memory that a container may have",
        of(|usage| usage.memory_limit.map(|bytes| bytes as f64)),
    );
    table.gauges(
        "container_memory_pressure_ratio",
        "For how much of the last ten seconds something of a container has waited for memory (PSI)",
        of(|usage| usage.memory_pressure.map(|part| part as f64 / 1e4)),
    );
    table.totals(
        "container_oom_kills",
        "How often the kernel has ended processes of a container that were out of memory",
        of(|usage| usage.oom_kills.map(|count| count as f64)),
    );
    table.totals(
        "container_disk_read_bytes",
        "Bytes that a container has read from disks",
        of(|usage| usage.read.map(|bytes| bytes as f64)),
    );
    table.totals(
        "container_disk_written_bytes",
        "Bytes that a container has written to disks",
        of(|usage| usage.written.map(|bytes| bytes as f64)),
    );
    table.gauges(
        "container_pids",
        "Processes and threads of a container",
        of(|usage| usage.pids.map(|count| count as f64)),
    );
    table.gauges(
        "container_pids_limit",
        "The most processes and threads that a container may have",
        of(|usage| usage.pids_limit.map(|count| count as f64)),
    );
    let traffic = |part: fn(&tank_sys::route::Counters) -> u64| {
        sample.usage.iter().filter_map(move |pod| {
            let bytes = part(pod.traffic.as_ref()?);
            Some((of_pod(pod.pod.as_str()), bytes as f64))
        })
    };
    let help = "Bytes that a pod has received over its own links";
    table.totals(
        "pod_network_received_bytes",
        help,
        traffic(|one| one.received),
    );
    let help = "Bytes that a pod has sent over its own links";
    table.totals("pod_network_sent_bytes", help, traffic(|one| one.sent));
}

fn backups(table: &mut Table<'_>, backups: &[Shown]) {
    let of = |value: fn(&Shown) -> Option<f64>| {
        backups.iter().filter_map(move |one| {
            let pod = one.pod.as_str();
            let volume = [("volume", one.volume.to_string())];
            let labels = of_pod(pod).into_iter().chain(volume).collect();
            Some((labels, value(one)?))
        })
    };
    table.gauges(
        "backup_newest_timestamp_seconds",
        "When the newest backup of a volume was begun",
        of(|one| one.newest.map(|millis| millis as f64 / 1e3)),
    );
    table.gauges(
        "backup_interval_seconds",
        "How old the newest backup of a volume may get",
        of(|one| Some(one.backup.every.0 as f64 / 1e3)),
    );
    table.gauges(
        "backup_failures",
        "How often the backup of a volume has failed, in a row",
        of(|one| {
            Some(
                one.failed
                    .as_ref()
                    .map_or(0.0, |(_, count, _)| f64::from(*count)),
            )
        }),
    );
}
