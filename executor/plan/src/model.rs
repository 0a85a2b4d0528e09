//! A host made of data: applying a step changes the observation as carrying it out would change a
//! real host's. It takes nothing but the step, as the actuator does.

use crate::{
    flows::{Flow, Port},
    inputs::Inputs,
    observed::{
        ChangedSetting, FoundLink, HostNetwork, NameServer, Observed, Pod, Run, Sandbox, State,
        Verdict,
    },
    overrides::Overrides,
    planner::SHIM_FILES,
    runs::Runs,
    step::{Plan, Step},
    target::{
        ContainerSpec, DEFAULT_MTU, File, HostConfig, ImageConfig, MountSource, NetworkLease,
        PodLink, Pooled, Resolver, Setting,
        networks::{FIRST_POD_NUMBER, memberships},
        pools::{Demand, Wanted},
    },
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};
use tank_model::{Config, Digest, Graph, Name, VolumeId, reference::Reference, spec::NamedNetwork};

/// Carries a whole plan out.
pub fn apply(plan: &Plan, host: &mut Observed) {
    for step in &plan.steps {
        apply_step(&step.step, host);
    }
}

/// Carries one step out.
// long: one arm a step
pub fn apply_step(step: &Step, host: &mut Observed) {
    let now = host.now;
    match step {
        Step::EnsureBridge { bridge } => {
            let addresses = Some(bridge.addresses.clone());
            host.bridges.insert(bridge.name.clone(), addresses);
            let settings = bridge.settings.iter();
            settings.for_each(|setting| set(setting, &mut host.network));
        }
        Step::RemoveBridge { name, restore } => {
            host.bridges.remove(name);
            give_back(restore, &mut host.network);
        }
        Step::SnapshotVolume { pod, volume, .. } | Step::RestoreVolume { pod, volume, .. } => {
            let of_pod = host.data.volumes.get_mut(pod);
            if let Some(data) = of_pod.and_then(|volumes| volumes.get_mut(volume)) {
                data.kept = true;
                data.images = Some(BTreeSet::new());
            }
        }
        Step::LimitVolume { volume, quota } => {
            if let Some(found) = host.data.counted.get_mut(&volume.to_string()) {
                let own = found.project.filter(|own| quota.has(*own));
                if quota.bytes > 0 {
                    found.project = own.or(Some(quota.project));
                }
                (found.counting, found.in_progress) = (false, false);
                found.limited = quota.bytes > 0;
                (found.bytes, found.inodes) = (quota.bytes & !1023, quota.inodes);
            }
        }
        Step::EnsureFirewall { table } => host.firewall = Some(table.clone()),
        Step::RemoveFirewall => host.firewall = None,
        Step::EndFlows { flows, opened } => {
            let all = std::mem::take(&mut host.network.flows).into_iter();
            let is_over = |flow: &Flow| match flow.to {
                Some(to) => flows.iter().any(|of| of.has(flow.asked, to)),
                None => {
                    let own = [flow.asked.ip()].into();
                    Port::among(opened, flow.asked, &own).is_some()
                }
            };
            host.network.flows = all.filter(|flow| !is_over(flow)).collect();
        }
        Step::EnsureNames { zone } => {
            host.names = Some(NameServer {
                zone: Some(zone.digest()),
                current: true,
            });
        }
        Step::RemoveNames => host.names = None,
        Step::StartSandbox { pod, hash, .. } => {
            let sandbox = Some(Sandbox {
                hash: *hash,
                pid: 1,
                version: SHIM_FILES,
                links: BTreeMap::new(),
                gateways: BTreeSet::new(),
                nics: BTreeMap::new(),
            });
            let made = Pod {
                sandbox,
                ..Pod::default()
            };
            host.pods.insert(pod.clone(), made);
        }
        Step::StopSandbox { pod } | Step::SweepPod { pod } => drop(host.pods.remove(pod)),
        Step::SweepContainer { pod, container } => {
            if let Some(pod) = host.pods.get_mut(pod) {
                pod.left_over.remove(container);
            }
        }
        // It says what it said before; what that was is known to nobody here.
        Step::ResumeShim { pod } => {
            if let Some(pod) = host.pods.get_mut(pod) {
                pod.unresponsive = None;
            }
        }
        Step::EnsureNetwork { pod, links } => {
            if let Some(sandbox) = host.pods.get_mut(pod).and_then(|pod| pod.sandbox.as_mut()) {
                let found = |link: &PodLink| (link.name.clone(), FoundLink::of(link));
                sandbox.links.extend(links.iter().map(found));
                let gateways = links.iter().flat_map(|link| &link.gateways);
                sandbox.gateways = gateways.copied().collect();
            }
        }
        Step::EnsureNic { pod, nic } => {
            if let Some(sandbox) = host.pods.get_mut(pod).and_then(|pod| pod.sandbox.as_mut()) {
                sandbox.nics.insert(nic.name.clone(), nic.clone());
            }
        }
        Step::EnsureHostLink { link } => {
            let links = &mut host.network.host_links;
            links.insert(link.name.clone(), Some(link.clone()));
        }
        Step::RemoveHostLink { name } => drop(host.network.host_links.remove(name)),
        Step::StopContainer { pod, container, .. } => {
            if let Some(pod) = host.pods.get_mut(pod) {
                pod.containers.remove(container);
                pod.left_over.insert(container.clone());
            }
        }
        Step::StartContainer { pod, container, .. } => {
            note_writers(step, host);
            if let (Some(pod), Some(run)) = (host.pods.get_mut(pod), started(step, now)) {
                pod.left_over.remove(container);
                pod.containers.insert(container.clone(), run);
            }
        }
        Step::EndContainer { pod, container, .. }
        | Step::SetLimits { pod, container, .. }
        | Step::Resume { pod, container }
        | Step::WriteFiles { pod, container, .. } => {
            if let Some(found) = container_of(host, pod, container) {
                change(step, now, found);
            }
        }
    }
}

/// Notes which image may write to volumes from now on.
fn note_writers(step: &Step, host: &mut Observed) {
    let Step::StartContainer { pod, spec, .. } = step else {
        return;
    };
    for mount in &spec.mounts {
        let MountSource::Managed {
            writers,
            shared,
            quota,
            ..
        } = &mount.source
        else {
            continue;
        };
        let own = || VolumeId::Own(pod.clone(), mount.volume.clone());
        if let Some(quota) = quota {
            let volume = shared.clone().map_or_else(own, VolumeId::Shared);
            let found = host.data.counted.entry(volume.to_string()).or_default();
            found.held = true;
            found.project.get_or_insert(quota.project);
            found.limited = true;
            (found.bytes, found.inodes) = (quota.bytes & !1023, quota.inodes);
        }
        let volumes = host.data.volumes.entry(pod.clone()).or_default();
        let data = volumes.entry(mount.volume.clone()).or_default();
        if !writers.is_empty() {
            data.note(spec.image.digest, writers);
        }
    }
}

/// Gives back what still says what it was set to.
fn give_back(restore: &BTreeMap<String, ChangedSetting>, network: &mut HostNetwork) {
    for (path, changed) in restore {
        let found = network.settings.get_mut(path);
        if let Some(found) = found.filter(|found| **found == changed.set) {
            found.clone_from(&changed.before);
        }
        network.changed.remove(path);
    }
}

/// Changes a setting that the host has, and records that.
fn set(setting: &Setting, network: &mut HostNetwork) {
    let Setting { path, value, links } = setting;
    let Some(found) = network
        .settings
        .get_mut(path)
        .filter(|found| *found != value)
    else {
        return;
    };
    let before = std::mem::replace(found, value.clone());
    let changed = ChangedSetting {
        before,
        set: value.clone(),
        links: links.clone(),
        along: BTreeSet::new(),
    };
    network.changed.insert(path.clone(), changed);
}

fn container_of<'a>(host: &'a mut Observed, pod: &Name, container: &Name) -> Option<&'a mut Run> {
    host.pods.get_mut(pod)?.containers.get_mut(container)
}

/// What changes a container that is there.
fn change(step: &Step, now: u64, found: &mut Run) {
    match step {
        Step::EndContainer { .. } => {
            found.state = State::Exited { status: 0, at: now };
            found.ending = false;
        }
        Step::SetLimits { limits, .. } => found.limits = limits.clone(),
        Step::Resume { .. } => found.halted = false,
        Step::WriteFiles { files, .. } => {
            let written = files.iter().map(|(path, file)| (path, &file.text));
            let written = written.map(|(path, text)| (path.clone(), Digest::of(text.as_bytes())));
            found.files.get_or_insert_default().extend(written);
        }
        _ => {}
    }
}

/// The run that a step starts. What runs before the containers ends well at once; the others stay.
fn started(step: &Step, now: u64) -> Option<Run> {
    let Step::StartContainer {
        hash,
        attempt,
        spec,
        ..
    } = step
    else {
        return None;
    };
    let ContainerSpec {
        init,
        files,
        limits,
        tty,
        stop_signal,
        stop_timeout,
        ..
    } = &**spec;
    let state = match init {
        true => State::Exited { status: 0, at: now },
        false => State::Running {
            pid: 2,
            verdict: Verdict::unasked(true, now),
        },
    };
    let digest = |file: &File| Digest::of(file.text.as_bytes());
    let files = files.iter();
    Some(Run {
        hash: *hash,
        attempt: *attempt,
        started: now,
        since: now,
        state,
        limits: limits.clone(),
        halted: false,
        files: Some(
            files
                .map(|(path, file)| (path.clone(), digest(file)))
                .collect(),
        ),
        out_of_memory: false,
        ending: false,
        tty: *tty,
        stop_signal: *stop_signal,
        stop_timeout: *stop_timeout,
    })
}

/// The inputs of a target for a host of its own: every pod with a lease, and for every image one
/// that runs a program as root.
///
/// # Panics
/// When the configuration has no graph, which its own types do not let happen.
pub fn inputs(config: &Config) -> Inputs {
    let digest_of = |image: &Reference| Some(Digest::of(image.to_string().as_bytes()));
    let graph = Graph::build(config, digest_of).expect("values of the model have canonical bytes");
    let image = ImageConfig {
        entrypoint: vec!["/bin/program".to_owned()],
        passwd: "root:x:0:0:root:/root:/bin/sh\n".to_owned(),
        group: "root:x:0:\n".to_owned(),
        ..ImageConfig::default()
    };
    let images = graph.images().into_values();
    let images = images.map(|digest| (digest, image.clone())).collect();
    // The first address is the bridge's own.
    let leases = (2..)
        .zip(graph.pods())
        .map(|(lease, pod)| (pod.clone(), lease));
    let leases = leases.collect();
    let network = |(number, (name, _)): (u32, (&Name, &NamedNetwork))| {
        let is_on = |pod: &&Name| {
            let own = memberships(&graph, pod);
            own.iter().any(|(network, _)| network == name)
        };
        let pods = graph.pods().filter(is_on).cloned();
        let pods = pods.zip(FIRST_POD_NUMBER..).collect();
        (name.clone(), NetworkLease { number, pods })
    };
    let leased = (0..).zip(graph.networks()).map(network).collect();
    let networks = vec![IpNet::new_assert(Ipv4Addr::new(10, 90, 0, 0).into(), 16)];
    let pooled = pooled(&Demand::of(&graph));
    // Each has two.
    let projects = graph.sizes().zip((0x5441_0000..).step_by(2));
    let projects = projects.map(|((volume, _), project)| (volume.to_string(), project));
    let projects = projects.collect();
    Inputs {
        graph,
        projects,
        previous: None,
        host: HostConfig {
            bridge: "tank0".to_owned(),
            networks,
            pools: vec![IpNet::new_assert(Ipv4Addr::new(10, 91, 0, 0).into(), 16)],
            id_base: 0x7000_0000,
            mtu: DEFAULT_MTU,
            machine: "model".to_owned(),
        },
        leases,
        pooled,
        networks: leased,
        images,
        resolver: Resolver {
            host: "nameserver 192.0.2.53\n".to_owned(),
            upstream: String::new(),
        },
        overrides: Overrides::default(),
        runs: Runs::default(),
    }
}

/// To each the first address of its pool that nobody has.
fn pooled(demand: &Demand) -> Pooled {
    let mut taken = demand.avoid.clone();
    let mut pooled = Pooled::new();
    for Wanted { pod, nic, pool } in &demand.wanted {
        let mut all = (0..pool.len()).filter_map(|nth| pool.nth(nth));
        if let Some(address) = all.find(|address| taken.insert(*address)) {
            let of_pod = pooled.entry(pod.clone()).or_default();
            of_pod.insert(nic.clone(), address);
        }
    }
    pooled
}
