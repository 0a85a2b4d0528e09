//! The files Tank writes into a container: names and resolvers, those that were declared, secrets.
//!
//! They are in a memory file system of the container's own, each under the digest of its path, and
//! mounted read-only one by one. The shim keeps that file system open, so that what the files say
//! can be looked at, and put right or changed under the running container. Secrets are written at
//! its start and not looked at again.

use crate::{
    actuate::Actuator,
    actuate::resolver::Resolver,
    actuate::sources,
    pods::{Shim, fail, failure, files::name_of},
    settings::Settings,
    store::{StoreError, leases::Proposal},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};
use tank_model::{
    Digest, Graph, Key, Name,
    graph::ContainerNode,
    spec::{self, Network},
};
use tank_proto::shim::{Failure, Request};
use tank_sys::mount::{self, attr};

/// What a container's files say, secrets apart, by their paths.
///
/// # Errors
/// When the pod needs addresses and has no lease.
pub fn contents(
    host: &Actuator,
    graph: &Graph,
    resolver: &Resolver,
    pod: &Name,
    container: &Name,
) -> Result<BTreeMap<String, spec::File>, StoreError> {
    let addresses = if is_bridged(graph, pod) {
        host.addresses(pod)?
    } else {
        BTreeSet::new()
    };
    Ok(contents_at(graph, resolver, pod, container, &addresses))
}

fn is_bridged(graph: &Graph, pod: &Name) -> bool {
    graph
        .sandbox(pod)
        .is_some_and(|(node, _)| node.network == Network::Bridge)
}

/// As [`contents`], of a pod with these addresses.
fn contents_at(
    graph: &Graph,
    resolver: &Resolver,
    pod: &Name,
    container: &Name,
    addresses: &BTreeSet<IpNet>,
) -> BTreeMap<String, spec::File> {
    let mut files = graph.files(pod, container);
    let Some((sandbox, _)) = graph.sandbox(pod) else {
        return files;
    };
    let hosts = hosts_file(
        &sandbox.hostname,
        addresses.iter().map(|cidr| cidr.addr().to_string()),
    );
    let generated = [
        ("/etc/hosts", hosts),
        ("/etc/hostname", format!("{}\n", sandbox.hostname)),
        (
            "/etc/resolv.conf",
            resolver.text(sandbox.network == Network::Host),
        ),
    ];
    for (path, text) in generated {
        files.entry(path.to_owned()).or_insert(spec::File {
            text,
            mode: spec::Mode(0o644),
            reload: None,
        });
    }
    files
}

/// What every container's files have to say, where the pods have, or get, these leases.
///
/// # Errors
/// When one has none.
/// What the files of each container have to say, by their paths.
pub type Files = BTreeMap<(Name, Name), BTreeMap<String, Digest>>;

pub fn digests(settings: &Settings, graph: &Graph, leases: &Proposal) -> Result<Files, StoreError> {
    let resolver = Resolver::read();
    let mut all = BTreeMap::new();
    for entry in graph.entries() {
        let (Key::Container(pod, container) | Key::Init(pod, container)) = &entry.key else {
            continue;
        };
        let addresses = if is_bridged(graph, pod) {
            settings.addresses_of(leases.get(pod)?)
        } else {
            BTreeSet::new()
        };
        let files = contents_at(graph, &resolver, pod, container, &addresses);
        let digests = files
            .into_iter()
            .map(|(path, file)| (path, Digest::of(file.text.as_bytes())));
        all.insert((pod.clone(), container.clone()), digests.collect());
    }
    Ok(all)
}

/// The memory file system of a container that is about to start, and which file of it goes where.
pub fn mount(
    host: &Actuator,
    graph: &Graph,
    pod: &Name,
    container: &Name,
    node: &ContainerNode,
    base: u32,
) -> Result<(OwnedFd, Vec<(String, String)>), Failure> {
    let options = [("mode", "0755"), ("size", "64m")];
    let mount_fd = mount::filesystem("tmpfs", &options, attr::NOSUID | attr::NODEV)
        .map_err(|e| failure(&e))?;
    let dir = mount::open_root(&mount_fd).map_err(|e| failure(&e))?;
    let mut entries = Vec::new();
    let mut add = |path: &str, content: &[u8], mode: u32| -> Result<(), Failure> {
        let name = name_of(path);
        mount::write_file(dir.as_fd(), &name, content, mode, base).map_err(|e| failure(&e))?;
        entries.push((name, path.to_owned()));
        Ok(())
    };
    let files = contents(host, graph, &Resolver::read(), pod, container)
        .map_err(|e| fail("lease an address", e))?;
    for (path, file) in &files {
        add(path, file.text.as_bytes(), file.mode.0)?;
    }
    for (name, secret) in &node.secrets {
        let content = host
            .sources
            .read_secret(&secret.file, || sources::writable(&graph.config()));
        let content = content.map_err(|why| fail(format!("read the secret `{name}`"), why))?;
        add(&secret.path, &content, secret.mode.0)?;
    }
    Ok((mount_fd, entries))
}

/// Writes files anew under the running container, then sends the signals that make it read them.
///
/// # Errors
/// When the shim can't show them, or the kernel refuses.
pub async fn write(
    host: &Actuator,
    shim: &Arc<Shim>,
    graph: &Graph,
    pod: &Name,
    container: &Name,
    paths: &BTreeSet<String>,
) -> Result<(), Failure> {
    let state = shim.state().await?;
    let running = state
        .containers
        .iter()
        .find(|found| found.name == container.as_str() && found.exited.is_none());
    // One that has ended meanwhile starts with the right files.
    let Some(running) = running else {
        return Ok(());
    };
    let dir = shim.files(container.as_str(), running.started).await?;
    let dir = dir.ok_or_else(|| fail("write files", "the pod's shim can't show them"))?;
    let files = contents(host, graph, &Resolver::read(), pod, container)
        .map_err(|e| fail("lease an address", e))?;
    let mut signals = BTreeSet::new();
    for (path, file) in files.iter().filter(|(path, _)| paths.contains(*path)) {
        mount::rewrite_file(dir.as_fd(), &name_of(path), file.text.as_bytes())
            .map_err(|e| failure(&e))?;
        signals.extend(
            file.reload
                .as_deref()
                .and_then(tank_sys::process::signal_number),
        );
    }
    for signal in signals {
        shim.request(
            &Request::Signal {
                container: container.to_string(),
                signal,
            },
            &[],
        )
        .await?;
    }
    Ok(())
}

/// `/etc/hosts` of a pod: loopback, and its own name at its own addresses.
pub fn hosts_file(hostname: &str, addresses: impl Iterator<Item = String>) -> String {
    let own: Vec<String> = addresses
        .map(|address| format!("{address}\t{hostname}\n"))
        .collect();
    let own = if own.is_empty() {
        vec![format!("127.0.0.1\t{hostname}\n")]
    } else {
        own
    };
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}",
        own.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_say_what_a_pod_can_reach() {
        assert!(
            hosts_file("web", ["10.90.0.2".to_owned()].into_iter()).contains("10.90.0.2\tweb\n")
        );
    }
}
