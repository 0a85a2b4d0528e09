//! A host made of data: applying a step changes the observation as carrying it out would change a
//! real host's.

use crate::{
    observed::{Container, Observed, Pod, Sandbox, State},
    planner::{Desired, SHIM_FILES, effective_limits},
    step::{Plan, Step},
};

/// Carries a whole plan out.
pub fn apply(plan: &Plan, desired: &Desired<'_>, host: &mut Observed) {
    for step in &plan.steps {
        apply_step(&step.step, desired, host);
    }
}

/// Carries one step out.
pub fn apply_step(step: &Step, desired: &Desired<'_>, host: &mut Observed) {
    let now = host.now;
    match step {
        Step::EnsureBridge => host.bridge = Some(desired.bridge.clone()),
        Step::RemoveBridge => host.bridge = None,
        Step::EnsureFirewall => host.firewall = desired.firewall.clone(),
        Step::RemoveFirewall => host.firewall.clear(),
        Step::StartSandbox { pod, hash } => {
            let sandbox = Some(Sandbox {
                hash: *hash,
                pid: 1,
                version: SHIM_FILES,
                network: None,
            });
            host.pods.insert(
                pod.clone(),
                Pod {
                    sandbox,
                    ..Pod::default()
                },
            );
        }
        Step::StopSandbox { pod } | Step::SweepPod { pod } => {
            host.pods.remove(pod);
        }
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
        Step::EnsureNetwork { pod } => {
            if let Some(sandbox) = host.pods.get_mut(pod).and_then(|pod| pod.sandbox.as_mut()) {
                sandbox.network = desired.addresses.get(pod).cloned();
            }
        }
        Step::StartContainer {
            pod,
            container,
            hash,
            attempt,
        } => {
            // What runs before the containers ends well at once; the others stay.
            let state = match desired.graph.init_container(pod, container) {
                Some(_) => State::Exited { status: 0, at: now },
                None => State::Running {
                    pid: 2,
                    ready: true,
                },
            };
            let started = Container {
                hash: *hash,
                attempt: *attempt,
                started: now,
                since: now,
                state,
                limits: effective_limits(&desired.graph.limits(pod, container)),
                halted: false,
                files: desired
                    .files
                    .get(&(pod.clone(), container.clone()))
                    .cloned(),
                out_of_memory: false,
                unhealthy: None,
                tty: false,
                stop_signal: 15,
                stop_timeout: 10_000,
            };
            if let Some(pod) = host.pods.get_mut(pod) {
                pod.left_over.remove(container);
                pod.containers.insert(container.clone(), started);
            }
        }
        Step::StopContainer { pod, container, .. } => {
            if let Some(pod) = host.pods.get_mut(pod) {
                pod.containers.remove(container);
                pod.left_over.insert(container.clone());
            }
        }
        Step::EndContainer { pod, container, .. } => {
            if let Some(found) = host
                .pods
                .get_mut(pod)
                .and_then(|pod| pod.containers.get_mut(container))
            {
                found.state = State::Exited { status: 0, at: now };
                found.unhealthy = None;
            }
        }
        Step::SetLimits {
            pod,
            container,
            limits,
        } => {
            if let Some(found) = host
                .pods
                .get_mut(pod)
                .and_then(|pod| pod.containers.get_mut(container))
            {
                found.limits = limits.clone();
            }
        }
        Step::Resume { pod, container } => {
            if let Some(found) = host
                .pods
                .get_mut(pod)
                .and_then(|pod| pod.containers.get_mut(container))
            {
                found.halted = false;
            }
        }
        Step::WriteFiles {
            pod,
            container,
            paths,
        } => {
            let files = host
                .pods
                .get_mut(pod)
                .and_then(|pod| pod.containers.get_mut(container)?.files.as_mut());
            let wanted = desired.files.get(&(pod.clone(), container.clone()));
            if let (Some(files), Some(wanted)) = (files, wanted) {
                let written = wanted.iter().filter(|(path, _)| paths.contains(*path));
                files.extend(written.map(|(path, digest)| (path.clone(), *digest)));
            }
        }
    }
}
