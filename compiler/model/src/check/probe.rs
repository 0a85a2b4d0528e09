//! How a container is asked for its health.

use super::Pass;
use crate::spec::{Network, Pod, Probe};
use std::collections::BTreeSet;

impl Pass<'_> {
    pub(super) fn probe(&mut self, field: &'static str, probe: &Probe, pod: &Pod) {
        let kinds = [
            probe.http.is_some(),
            probe.tcp.is_some(),
            probe.exec.is_some(),
        ];
        if kinds.iter().filter(|given| **given).count() != 1 {
            let message = "a probe is exactly one of `http`, `tcp` and `exec`".to_owned();
            self.report(
                "tank::probe::kind",
                &[field],
                message,
                format!("for example `{field} = {{ tcp.port = 80 }}`"),
            );
        }
        if probe.exec.as_ref().is_some_and(Vec::is_empty) {
            let message = "the probe has an empty command".to_owned();
            self.report(
                "tank::probe::empty",
                &[field, "exec"],
                message,
                "name the program to run",
            );
        }
        if probe.period.0 == 0 || probe.timeout.0 == 0 {
            let message = "a probe needs time to answer and time between two of them".to_owned();
            self.report(
                "tank::probe::zero",
                &[field],
                message,
                "give `period` and `timeout` more than 0",
            );
        }
        if probe.failures == 0 {
            let message = "no failures are not enough to count".to_owned();
            self.report(
                "tank::probe::zero",
                &[field, "failures"],
                message,
                "give at least 1",
            );
        }
        self.probed_port(field, probe, pod);
        if pod.network == Network::None && probe.exec.is_none() {
            let message = "a pod without a network can't be asked over one".to_owned();
            self.report(
                "tank::probe::no_network",
                &[field],
                message,
                "use an `exec` probe",
            );
        }
    }

    /// Where a pod says what it listens on, a probe asks nothing else.
    fn probed_port(&mut self, field: &'static str, probe: &Probe, pod: &Pod) {
        let declared: BTreeSet<u16> = pod
            .containers
            .values()
            .flat_map(|spec| spec.ports.values().copied())
            .collect();
        let asked = probe
            .http
            .as_ref()
            .map(|http| http.port)
            .or(probe.tcp.as_ref().map(|tcp| tcp.port));
        if let Some(port) = asked.filter(|port| !declared.is_empty() && !declared.contains(port)) {
            let message = format!("nobody in the pod declares port {port}");
            let kind = if probe.http.is_some() { "http" } else { "tcp" };
            self.report(
                "tank::probe::undeclared_port",
                &[field, kind, "port"],
                message,
                "add it to `ports`",
            );
        }
    }
}
