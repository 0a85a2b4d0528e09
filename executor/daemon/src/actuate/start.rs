//! Starting a container: from its specification to mounts, cgroups and the request to its shim.

use super::{
    Error,
    error::{TooMany, UnknownCall, UnknownNamespaces, unexpected},
    files, layers,
    sources::{Kind, Sources},
    volumes::{Volumes, sub_path},
};
use crate::{
    pods::{
        Shim,
        runs::{RunsByHand, Streams},
    },
    settings::Settings,
    timings::Timings,
};
use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};
use tank_image::Images;
use tank_model::{Digest, Name, VolumeId, spec, units::Bytes};
use tank_plan::{
    Step,
    target::{self, ContainerSpec, Folder, Mount, MountSource},
};
use tank_proto::shim::{
    ByHand, Device, LogBounds, MAX_BESIDE, MAX_DESCRIPTORS, Reply, Request, Seccomp, StartSpec,
    User, WITH_IDS,
};
use tank_sys::{
    cgroup::{Cgroups, ControllerLimits},
    mount::{self, attr},
    packet,
};
use tokio::task::JoinHandle;

/// The descriptors that go with a start, by their places.
#[derive(Default)]
struct Parts(Vec<OwnedFd>);

impl Parts {
    /// Keeps a descriptor and gives its place.
    fn push(&mut self, fd: OwnedFd) -> usize {
        self.0.push(fd);
        self.0.len() - 1
    }
}

/// A container that is about to start.
#[derive(Clone)]
pub struct Start {
    pub pod: Name,
    pub container: Name,
    pub hash: Digest,
    pub attempt: u32,
    pub spec: Box<ContainerSpec>,
    /// The host's directories that containers may write: no link in them is followed.
    pub host_writable: BTreeSet<String>,
}

impl Start {
    /// The container that a step starts.
    pub fn of(step: &Step, host_writable: &BTreeSet<String>) -> Option<Self> {
        let Step::StartContainer {
            pod,
            container,
            hash,
            attempt,
            spec,
        } = step
        else {
            return None;
        };
        Some(Self {
            pod: pod.clone(),
            container: container.clone(),
            hash: *hash,
            attempt: *attempt,
            spec: spec.clone(),
            host_writable: host_writable.clone(),
        })
    }

    pub(super) fn writable(&self) -> BTreeSet<PathBuf> {
        self.host_writable.iter().map(PathBuf::from).collect()
    }
}

/// Everything a start needs, as it becomes ready on a thread of its own.
pub type Prepared = JoinHandle<Result<(StartSpec, Vec<OwnedFd>), Error>>;

/// Prepares starts.
pub struct Preparer {
    pub settings: Arc<Settings>,
    pub cgroups: Arc<Cgroups>,
    pub images: Arc<Images>,
    pub sources: Arc<Sources>,
    pub volumes: Arc<Volumes>,
    pub runs: Arc<RunsByHand>,
    pub timings: Arc<Timings>,
}

/// Starts a container. Gives what comes for whoever runs it by hand, if somebody does.
///
/// # Errors
/// What of it could not be prepared, or what its shim answers.
pub async fn start(
    shim: &Shim,
    timings: &Timings,
    start: &Start,
    prepared: Prepared,
) -> Result<Vec<OwnedFd>, Error> {
    let Start { pod, container, .. } = start;
    let what = "prepare a container";
    let prepared = prepared.await;
    let (mut spec, mut fds) = prepared.map_err(|source| Error::Thread { what, source })??;
    if fds.len() > MAX_BESIDE {
        bundle(shim, &mut spec, &mut fds).await?;
    }
    let text = serde_json::to_vec(&spec).map_err(Error::Specification)?;
    let sealed = packet::sealed("start", &text)?;
    let fds = fds.iter().map(AsFd::as_fd);
    let all: Vec<_> = std::iter::once(sealed.as_fd()).chain(fds).collect();
    let started = shim.request(&Request::Start, &all).await;
    match started? {
        (Reply::Started { spans, .. }, fds) => {
            timings.add(&format!("{pod}/{container}"), spans);
            Ok(fds)
        }
        (other, _) => Err(unexpected(other)),
    }
}

/// Puts the descriptors that are too many for a packet into a socket that takes their place.
async fn bundle(shim: &Shim, spec: &mut StartSpec, fds: &mut Vec<OwnedFd>) -> Result<(), Error> {
    let count = fds.len();
    let refuse = |source| Err(Error::HandOver { count, source });
    if count > MAX_DESCRIPTORS {
        return refuse(TooMany::Ever);
    }
    if shim.state().await?.version < WITH_IDS {
        return refuse(TooMany::ForAnOlderShim);
    }
    let rest = fds.split_off(MAX_BESIDE - 1);
    fds.push(packet::bundle(&packet::borrow(&rest))?);
    spec.descriptors = Some(count);
    Ok(())
}

/// What a shim is to keep of a container's output.
fn log_bounds(declared: &spec::Logs) -> LogBounds {
    LogBounds {
        max_size: declared.max_size.0,
        max_files: declared.max_files,
        rate: declared.rate.bytes(),
        journald: declared.journald,
    }
}

impl Preparer {
    /// Mounts and makes what a container needs: all of that can be done while its pod is being
    /// connected. The namespaces of the pod's shim have to be known.
    pub fn prepare_ahead(self, shim: Arc<Shim>, start: Start) -> Prepared {
        tokio::task::spawn_blocking(move || {
            let what = || format!("{}/{}: mount what it needs", start.pod, start.container);
            let _span = self.timings.span(what);
            self.prepare(&shim, &start)
        })
    }

    // long: the fields of the request, one after the other
    fn prepare(&self, shim: &Shim, start: &Start) -> Result<(StartSpec, Vec<OwnedFd>), Error> {
        let Start {
            pod,
            container,
            spec,
            ..
        } = start;
        let image = self.images.find(spec.image.digest);
        let image = image.map_err(|source| Error::Image {
            image: spec.image.name.to_string(),
            source,
        })?;
        let namespaces = shim.known_namespaces();
        let namespaces = namespaces.ok_or(Error::Namespaces(UnknownNamespaces))?;
        let user_namespace = namespaces.user.as_fd();
        let mut parts = Parts::default();
        let owner = (user_namespace, spec.id_base);
        let image = (self.images.mounts(), &image);
        let root = layers::root_mount(&self.settings, image, pod, container, owner)?;
        let root = parts.push(root);
        let mut mounts = Vec::new();
        for mount in &spec.mounts {
            let fd = self.volume(start, mount, user_namespace)?;
            mounts.push((parts.push(fd), mount.path.clone()));
        }
        let (files, entries) = files::mount(&self.sources, start)?;
        let files = Some((parts.push(files), entries));
        let cgroup = self.cgroups.ensure(pod.as_str(), container.as_str());
        let cgroup = cgroup?;
        let into = Some(parts.push(cgroup.dir));
        let entrances = cgroup.tasks.into_iter().chain([cgroup.procs]);
        let cgroup = entrances.map(|fd| parts.push(fd)).collect();
        set_limits(&self.cgroups, pod, container, &spec.limits)?;
        let target::User { uid, gid, groups } = spec.user.clone();
        let ulimits = spec.ulimits.iter();
        let ulimits =
            ulimits.map(|(name, limit)| (name.clone(), amount(limit.soft), amount(limit.hard)));
        let by_hand = self
            .runs
            .take(pod, container)
            .map(|Streams { fds, size }| ByHand {
                streams: fds.into_iter().map(|fd| parts.push(fd)).collect(),
                size,
            });
        let devices = spec
            .devices
            .iter()
            .map(|declared| device(&self.sources, declared));
        let request = StartSpec {
            name: container.to_string(),
            hash: start.hash.to_string(),
            attempt: start.attempt,
            argv: spec.argv.clone(),
            env: spec.env.clone(),
            cwd: spec.cwd.clone(),
            user: User { uid, gid, groups },
            tty: spec.tty,
            read_only: spec.read_only,
            bounding: spec.bounding.clone(),
            ambient: spec.ambient.clone(),
            stop_signal: spec.stop_signal,
            stop_timeout: spec.stop_timeout,
            root,
            mounts,
            files,
            cgroup,
            into,
            descriptors: None,
            ulimits: ulimits.collect(),
            seccomp: seccomp(&spec.seccomp, spec.writes_host)?,
            devices: devices.collect::<Result<_, Error>>()?,
            logs: log_bounds(&spec.logs),
            timed: self.timings.is_on(),
            by_hand,
        };
        Ok((request, parts.0))
    }

    /// A detached mount of what a mount shows.
    // long: one arm a source
    fn volume(
        &self,
        start: &Start,
        mount: &Mount,
        user_namespace: BorrowedFd<'_>,
    ) -> Result<OwnedFd, Error> {
        let own = attr::NOSUID | attr::NODEV;
        let fd = match &mount.source {
            MountSource::Tmpfs {
                size,
                owner,
                folder,
            } => in_memory(*size, *owner, folder)?,
            MountSource::Host { path } => {
                let fd = host_volume(&self.sources, start, path, mount)?;
                mount::idmap(fd.as_fd(), user_namespace)?;
                if mount.propagation.is_slave() {
                    // What is mounted there now; what comes later is as the host mounts it.
                    mount::restrict(fd.as_fd(), own, true)?;
                }
                fd
            }
            MountSource::Managed {
                folder,
                content,
                writers,
                shared,
                quota,
            } => {
                let own = || VolumeId::Own(start.pod.clone(), mount.volume.clone());
                let volume = shared.clone().map_or_else(own, VolumeId::Shared);
                if !writers.is_empty() {
                    let of = (&start.pod, &mount.volume);
                    let noted = self
                        .volumes
                        .note_writer(of, start.spec.image.digest, writers);
                    noted.map_err(|source| Error::ManagedVolume {
                        volume: mount.volume.clone(),
                        source,
                    })?;
                }
                let sub_path = mount.sub_path.as_deref();
                let opened =
                    self.volumes
                        .open(&volume, sub_path, (folder, content), quota.as_ref());
                let opened = opened.map_err(|source| Error::ManagedVolume {
                    volume: mount.volume.clone(),
                    source,
                })?;
                let fd = mount::clone_place(opened.as_fd(), false)?;
                mount::idmap(fd.as_fd(), user_namespace)?;
                fd
            }
        };
        let attributes = if mount.read_only {
            own | attr::RDONLY
        } else {
            own
        };
        mount::restrict(fd.as_fd(), attributes, false)?;
        Ok(fd)
    }
}

fn amount(amount: spec::Amount) -> Option<u64> {
    match amount {
        spec::Amount::Of(number) => Some(number),
        spec::Amount::Unlimited => None,
    }
}

/// A filter, with the numbers that this machine's kernel gives system calls.
fn seccomp(declared: &spec::Seccomp, no_set_id: bool) -> Result<Seccomp, Error> {
    let numbers = |names: &[String]| -> Result<Vec<i64>, Error> {
        let unknown = |name: &String| Error::Filter(UnknownCall(name.clone()));
        let number = |name: &String| tank_sys::seccomp::number(name).ok_or_else(|| unknown(name));
        names.iter().map(number).collect()
    };
    Ok(Seccomp {
        unconfined: declared.profile == spec::SeccompProfile::Unconfined,
        allow: numbers(&declared.allow)?,
        deny: numbers(&declared.deny)?,
        no_set_id,
    })
}

/// What a device is on this host. No link is followed: it could lead to another one tomorrow.
fn device(sources: &Sources, declared: &target::Device) -> Result<Device, Error> {
    let found = sources.device(&declared.source);
    let found = found.map_err(|source| Error::Device {
        device: declared.source.clone(),
        source,
    })?;
    Ok(Device {
        path: declared.path.clone(),
        block: found.block,
        major: rustix::fs::major(found.number),
        minor: rustix::fs::minor(found.number),
        read_only: declared.read_only,
    })
}

/// Sets a container's limits in its cgroups.
///
/// # Errors
/// What the kernel gives.
pub fn set_limits(
    cgroups: &Cgroups,
    pod: &Name,
    container: &Name,
    limits: &spec::Limits,
) -> Result<(), Error> {
    let limits = ControllerLimits {
        memory: limits.memory.map(|memory| memory.0),
        pids: limits.pids.map(u64::from),
        cpu: limits.cpu.map(|cpu| u64::from(cpu.0)),
    };
    Ok(cgroups.set_limits(pod.as_str(), container.as_str(), &limits)?)
}

/// A detached mount of a directory of the host.
fn host_volume(
    sources: &Sources,
    start: &Start,
    path: &str,
    mount: &Mount,
) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Volume {
        volume: mount.volume.clone(),
        source,
    };
    let opened = sources.open_at(path, Kind::Directory, || start.writable());
    let (place, opened) = opened.map_err(failed)?;
    if !mount.read_only {
        sources.add_writable(&opened).map_err(failed)?;
    }
    let follows = mount.propagation.is_slave();
    if follows {
        sources.refuse_private(path, &place).map_err(failed)?;
    }
    let copy = |place: BorrowedFd<'_>| match follows {
        true => mount::clone_followed(place),
        false => mount::clone_place(place, false),
    };
    let Some(sub_path) = &mount.sub_path else {
        return Ok(copy(place.as_fd())?);
    };
    let opened = sub_path::open(place, sub_path, None);
    let opened = opened.map_err(|source| Error::ManagedVolume {
        volume: mount.volume.clone(),
        source: source.into(),
    })?;
    Ok(copy(opened.as_fd())?)
}

/// A file system of its own in memory, whose ids are the host's.
fn in_memory(size: Bytes, root: u32, folder: &Folder) -> Result<OwnedFd, Error> {
    let Folder { owner, mode } = folder;
    let (uid, gid) = owner.map_or((0, 0), |owner| (owner.uid, owner.gid));
    let size = size.0.to_string();
    let id = |id: u16| (root + u32::from(id)).to_string();
    let (uid, gid) = (id(uid), id(gid));
    let mode = format!("{:o}", mode.map_or(0o1777, |mode| mode.0));
    let options = [
        ("size", size.as_str()),
        ("mode", mode.as_str()),
        ("uid", uid.as_str()),
        ("gid", gid.as_str()),
    ];
    let attributes = attr::NOSUID | attr::NODEV;
    Ok(mount::filesystem("tmpfs", &options, attributes)?)
}
