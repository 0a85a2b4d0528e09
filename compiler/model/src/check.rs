//! The checks that cross fields: what a contract on one field cannot see.
//!
//! Run twice, over the same data: by the compiler, which has the spans to point with, and by the
//! daemon, which trusts no client. All problems are found at once, in the order of their paths.

use crate::{
    host_files::WITHHELD,
    name::{Name, nearest},
    spec::{
        Amount, Condition, Config, Container, Network, Nic, Pod, Probe, Restart, ULIMITS, Update,
    },
    unsupported,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// One mistake, with the field at fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Stable, of the form `tank::mount::unknown_volume`.
    pub code: &'static str,
    /// The field, as its path from the top of the configuration.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
    /// Another field that matters, with its role.
    pub related: Option<(Vec<String>, &'static str)>,
}

/// Every problem of `config`. Of a feature that is not in this version only that is said.
pub fn check(config: &Config) -> Vec<Problem> {
    let mut problems = unsupported::problems(config);
    let mut others = fields(config);
    others.retain(|found| {
        !problems
            .iter()
            .any(|unsupported| found.path.starts_with(&unsupported.path))
    });
    problems.append(&mut others);
    problems.sort_by(|a, b| (&a.path, a.code).cmp(&(&b.path, b.code)));
    problems
}

/// The mistakes, of what is not in this version as well.
fn fields(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, pod) in &config.pods {
        Pass {
            problems: &mut problems,
            at: path(["pods", name.as_str()]),
        }
        .pod(name, pod, config);
    }
    published_twice(config, &mut problems);
    addresses_twice(config, &mut problems);
    dependency_cycles(config, &mut problems);
    problems
}

fn path<'a>(parts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    parts.into_iter().map(str::to_owned).collect()
}

/// The fields below one place of the configuration.
struct Pass<'a> {
    problems: &'a mut Vec<Problem>,
    at: Vec<String>,
}

impl Pass<'_> {
    fn report(
        &mut self,
        code: &'static str,
        field: &[&str],
        message: String,
        help: impl Into<String>,
    ) {
        let mut path = self.at.clone();
        path.extend(field.iter().map(|part| (*part).to_owned()));
        self.problems.push(Problem {
            code,
            path,
            message,
            help: help.into(),
            related: None,
        });
    }

    fn pod(&mut self, name: &Name, pod: &Pod, config: &Config) {
        if pod.containers.is_empty() {
            let help = "add one under `containers`, with at least its `image`";
            self.report(
                "tank::pod::empty",
                &["containers"],
                format!("pod `{name}` has no container"),
                help,
            );
        }
        for (volume, source) in &pod.volumes {
            if source.host.is_some() && source.tmpfs.is_some() {
                let message = format!("volume `{volume}` is both a path of the host and in memory");
                self.report(
                    "tank::volume::two_kinds",
                    &["volumes", volume.as_str()],
                    message,
                    "keep one of the two",
                );
            }
            if let Some(host) = source.host.as_deref().filter(|host| !is_absolute(host)) {
                let field = ["volumes", volume.as_str(), "host"];
                self.relative(&field, host);
            }
        }
        for other in pod.depends_on.keys() {
            if !config.pods.contains_key(other) {
                let candidates = config
                    .pods
                    .keys()
                    .map(Name::as_str)
                    .filter(|other| *other != name.as_str());
                let help = did_you_mean(other.as_str(), candidates, "no such pod is declared");
                let message = format!("pod `{name}` depends on `{other}`, which is not declared");
                self.report(
                    "tank::depends_on::unknown_pod",
                    &["depends_on", other.as_str()],
                    message,
                    help,
                );
            }
        }
        for (other, condition) in &pod.depends_on {
            let dependency = config.pods.get(other);
            if *condition == Condition::Completed
                && dependency.is_some_and(|pod| pod.restart == Restart::Always)
            {
                let message =
                    format!("`{other}` never completes: it is restarted whenever it ends");
                let help = format!("set `pods.{other}.restart` to `'on_failure` or `'never`");
                self.report(
                    "tank::depends_on::never_completes",
                    &["depends_on", other.as_str()],
                    message,
                    help,
                );
            }
        }
        if let Some(hostname) = &pod.hostname
            && (hostname.len() > 64 || !hostname.split('.').all(|label| Name::new(label).is_ok()))
        {
            let message = format!("`{hostname}` is no host name");
            self.report(
                "tank::hostname::invalid",
                &["hostname"],
                message,
                "use at most 64 of `a-z`, `0-9`, `-`, `.`",
            );
        }
        if let Network::Nics(nics) = &pod.network {
            for (nic, spec) in nics {
                self.nic(nic, spec);
            }
            if nics.is_empty() {
                let message = format!("pod `{name}` has a network without interfaces");
                self.report(
                    "tank::nic::none",
                    &["network", "nics"],
                    message,
                    "declare one, or use `network = 'none`",
                );
            }
        }
        let fixed = matches!(&pod.network, Network::Nics(nics) if nics.values().any(|nic| nic.address.is_some()));
        if pod.update == Update::StartFirst && (pod.network == Network::Host || fixed) {
            let message = "the old and the new pod can't both have the same address".to_owned();
            let help =
                "use `update = 'recreate`, or a network that gives each an address of its own";
            self.report("tank::update::shared_address", &["update"], message, help);
        }
        let terminals: Vec<&str> = pod
            .containers
            .iter()
            .filter(|(_, c)| c.tty)
            .map(|(name, _)| name.as_str())
            .collect();
        if let [first, second, ..] = terminals.as_slice() {
            let message = format!(
                "`{first}` and `{second}` both have a terminal, and `tank attach {name}` can show one"
            );
            let help = "give `tty` to one container of a pod";
            self.report(
                "tank::tty::several",
                &["containers", second, "tty"],
                message,
                help,
            );
        }
        self.declared_ports(pod);
        if pod.network != Network::Bridge && !pod.publish.is_empty() {
            let message = format!("pod `{name}` publishes ports but has no address of its own");
            let help = "use `network = 'bridge`, or drop `publish`: with `'host` its ports are the host's already";
            self.report("tank::publish::no_network", &["publish"], message, help);
        }
        for (port, publish) in &pod.publish {
            for (field, number) in [("port", publish.port), ("to", publish.target())] {
                if number == 0 {
                    let message = "0 is no port".to_owned();
                    self.report(
                        "tank::publish::port_zero",
                        &["publish", port.as_str(), field],
                        message,
                        "use 1 to 65535",
                    );
                }
            }
            if publish.address == IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]) {
                let message = "a port can't be published on `::1`".to_owned();
                let help = "the kernel routes IPv6 loopback nowhere else; use `127.0.0.1`";
                self.report(
                    "tank::publish::ipv6_loopback",
                    &["publish", port.as_str(), "address"],
                    message,
                    help,
                );
            }
        }
        self.sysctls(pod);
        for (group, containers) in [("containers", &pod.containers), ("init", &pod.init)] {
            for (container, spec) in containers {
                let mut at = self.at.clone();
                at.extend(path([group, container.as_str()]));
                let mut pass = Pass {
                    problems: self.problems,
                    at,
                };
                pass.container(container, spec, pod);
                if group == "init" {
                    pass.init(spec);
                    if pod.containers.contains_key(container) {
                        let message = format!("`{container}` is also a container of this pod");
                        let help = "give it a name of its own: logs and `tank exec` go by it";
                        pass.report("tank::init::same_name", &[], message, help);
                    }
                }
            }
        }
    }

    fn sysctls(&mut self, pod: &Pod) {
        for key in pod.sysctls.keys() {
            if !NAMESPACED
                .iter()
                .any(|own| key.starts_with(own.trim_end_matches('*')))
            {
                let message = format!("`{key}` is a setting of the whole host");
                let help = match key.as_str() {
                    "kernel.hostname" => "use the pod's `hostname`".to_owned(),
                    _ => format!(
                        "a pod has its own {} only",
                        NAMESPACED.map(|own| format!("`{own}`")).join(", ")
                    ),
                };
                self.report(
                    "tank::sysctl::not_namespaced",
                    &["sysctls", key],
                    message,
                    help,
                );
            } else if key.starts_with("net.") && pod.network == Network::Host {
                let message = format!(
                    "`{key}` would be set for the whole host, for good: the pod has the host's network"
                );
                let help = "set it on the host (sysctl.d(5)), or use another `network`";
                self.report(
                    "tank::sysctl::host_network",
                    &["sysctls", key],
                    message,
                    help,
                );
                self.relate(&["network"], "the host's network is shared here");
            }
        }
    }

    /// Capabilities that no container is given, or none of this pod.
    fn capabilities(&mut self, spec: &Container, pod: &Pod) {
        let add = &spec.capabilities.add;
        if add.iter().any(|name| name == "ALL") {
            let message = "all capabilities are not given at once".to_owned();
            let help = "name those it needs; `drop = [\"ALL\"]` takes the others away";
            self.report(
                "tank::capability::add_all",
                &["capabilities", "add"],
                message,
                help,
            );
        }
        let withheld = add.iter().find(|name| WITHHELD.contains(&name.as_str()));
        if let Some(name) = withheld.filter(|_| pod.writes_host()) {
            let message = format!("`{name}` is not given in a pod that writes files of the host");
            let help = "with it a program could be left there that makes root of whoever runs it; mount the host's \
                        directory `read_only`, or use a volume of Tank's own";
            self.report(
                "tank::capability::host_volume",
                &["capabilities", "add"],
                message,
                help,
            );
        }
    }

    /// Adds another field of the pod to the last problem.
    fn relate(&mut self, field: &[&str], role: &'static str) {
        let mut path = self.at.clone();
        path.extend(field.iter().map(|part| (*part).to_owned()));
        if let Some(last) = self.problems.last_mut() {
            last.related = Some((path, role));
        }
    }

    /// What only makes sense for what stays running.
    fn init(&mut self, spec: &Container) {
        let given = [
            ("readiness", spec.readiness.is_some()),
            ("liveness", spec.liveness.is_some()),
            ("startup", spec.startup.is_some()),
            ("tty", spec.tty),
            ("ports", !spec.ports.is_empty()),
        ];
        for (field, _) in given.iter().filter(|(_, given)| *given) {
            let message = format!("a container that runs to its end has no use for `{field}`");
            self.report(
                "tank::init::not_for_init",
                &[field],
                message,
                "remove it, or move it to `containers`",
            );
        }
    }

    fn nic(&mut self, name: &Name, nic: &Nic) {
        let field = |last: &'static str| ["network", "nics", name.as_str(), last];
        if name.as_str().len() > 15 {
            let message = format!(
                "`{name}` has more than the 15 characters a network interface's name can have"
            );
            self.report(
                "tank::nic::name_too_long",
                &["network", "nics", name.as_str()],
                message,
                "for example `eth0`",
            );
        }
        if nic.parent != "auto"
            && (nic.parent.len() > 15
                || nic.parent.is_empty()
                || nic.parent.contains(['/', ' ', '\0']))
        {
            let message = format!("`{}` can't be the name of a network interface", nic.parent);
            self.report(
                "tank::nic::parent",
                &field("parent"),
                message,
                "use the name `ip link` shows, or \"auto\"",
            );
        }
        if let (Some(address), Some(pool)) = (nic.address, nic.pool)
            && !pool.contains(&address.addr())
        {
            let message = format!("{} is not in the pool {pool}", address.addr());
            self.report(
                "tank::nic::outside_pool",
                &field("address"),
                message,
                "choose one from the pool, or drop it",
            );
        }
        if let (Some(address), Some(gateway)) = (nic.address, nic.gateway)
            && !address.contains(&gateway)
        {
            let message = format!("the gateway {gateway} is not in the network of {address}");
            self.report(
                "tank::nic::gateway",
                &field("gateway"),
                message,
                "a gateway is reached directly",
            );
        }
    }

    /// Where a pod says what it listens on, nothing leads elsewhere.
    fn declared_ports(&mut self, pod: &Pod) {
        let declared: BTreeMap<u16, &Name> = pod
            .containers
            .values()
            .flat_map(|spec| &spec.ports)
            .map(|(name, port)| (*port, name))
            .collect();
        if declared.is_empty() {
            return;
        }
        let known: Vec<String> = declared
            .iter()
            .map(|(port, name)| format!("{port} ({name})"))
            .collect();
        for (name, publish) in &pod.publish {
            if !declared.contains_key(&publish.target()) {
                let field = if publish.to.is_some() { "to" } else { "port" };
                let message = format!("nobody in the pod declares port {}", publish.target());
                let help = format!(
                    "it declares {}; name one of them, or add this one to `ports`",
                    known.join(", ")
                );
                self.report(
                    "tank::publish::undeclared_port",
                    &["publish", name.as_str(), field],
                    message,
                    help,
                );
            }
        }
    }

    fn container(&mut self, name: &Name, spec: &Container, pod: &Pod) {
        let mut targets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (mount, at) in &spec.mounts {
            if !pod.volumes.contains_key(&at.volume) {
                let message = format!(
                    "mount `{mount}` names the volume `{}`, which its pod does not have",
                    at.volume
                );
                let declare = format!("declare it: `volumes.{} = {{}}`", at.volume);
                let help = did_you_mean(
                    at.volume.as_str(),
                    pod.volumes.keys().map(Name::as_str),
                    &declare,
                );
                self.report(
                    "tank::mount::unknown_volume",
                    &["mounts", mount.as_str(), "volume"],
                    message,
                    help,
                );
            }
            self.target(&["mounts", mount.as_str(), "path"], &at.path, &mut targets);
        }
        for file in spec.files.keys() {
            self.target(&["files", file], file, &mut targets);
        }
        for (secret, at) in &spec.secrets {
            self.target(
                &["secrets", secret.as_str(), "path"],
                &at.path,
                &mut targets,
            );
            if !is_absolute(&at.file) {
                self.relative(&["secrets", secret.as_str(), "file"], &at.file);
            }
        }
        if let Some(dir) = spec.working_dir.as_deref().filter(|dir| !is_absolute(dir)) {
            self.relative(&["working_dir"], dir);
        }
        if spec.command.as_ref().is_some_and(Vec::is_empty) {
            let message = format!("container `{name}` has an empty `command`");
            self.report(
                "tank::command::empty",
                &["command"],
                message,
                "leave it out to use the image's own",
            );
        }
        for variable in spec
            .env
            .keys()
            .filter(|key| key.is_empty() || key.contains(['=', '\0']))
        {
            let message = format!("`{variable}` is no name of an environment variable");
            self.report(
                "tank::env::invalid",
                &["env", variable],
                message,
                "it can't be empty or hold `=`",
            );
        }
        let texts = spec
            .env
            .values()
            .chain(spec.command.iter().flatten())
            .chain(spec.args.iter().flatten());
        if texts
            .chain(spec.user.iter())
            .chain(spec.working_dir.iter())
            .any(|text| text.contains('\0'))
        {
            let message =
                format!("container `{name}` has a NUL byte in a text the kernel ends at one");
            self.report("tank::text::nul", &[], message, "remove it");
        }
        if let Some(memory) = spec.limits.memory.filter(|memory| memory.0 < 4 << 20) {
            let message = format!("{memory} of memory are not enough to start a process");
            self.report(
                "tank::limits::memory",
                &["limits", "memory"],
                message,
                "give at least \"4MiB\"",
            );
        }
        if spec.limits.pids == Some(0) {
            let message = "0 processes are not enough to start one".to_owned();
            self.report(
                "tank::limits::pids",
                &["limits", "pids"],
                message,
                "give at least 1",
            );
        }
        if spec.limits.cpu.is_some_and(|cpu| cpu.0 < 10) {
            let message =
                "less than a hundredth of a CPU is below what the kernel can give".to_owned();
            self.report(
                "tank::limits::cpu",
                &["limits", "cpu"],
                message,
                "give at least 0.01",
            );
        }
        self.limits(spec);
        self.capabilities(spec, pod);
        for (device, at) in &spec.devices {
            if !is_absolute(&at.path) || !at.path.starts_with("/dev/") {
                let message = format!("`{}` is no path below /dev", at.path);
                self.report(
                    "tank::device::path",
                    &["devices", device.as_str(), "path"],
                    message,
                    "for example \"/dev/fuse\"",
                );
            }
            if let Some(to) = at
                .to
                .as_deref()
                .filter(|to| !is_absolute(to) || !to.starts_with("/dev/"))
            {
                let message = format!("`{to}` is no path below /dev");
                self.report(
                    "tank::device::path",
                    &["devices", device.as_str(), "to"],
                    message,
                    "for example \"/dev/fuse\"",
                );
            }
        }
        if let Some(call) = spec
            .seccomp
            .allow
            .iter()
            .find(|call| spec.seccomp.deny.contains(call))
        {
            let message = format!("`{call}` is both allowed and denied");
            self.report(
                "tank::seccomp::both",
                &["seccomp"],
                message,
                "keep it in one of the two lists",
            );
        }
        for (field, probe) in [
            ("readiness", &spec.readiness),
            ("liveness", &spec.liveness),
            ("startup", &spec.startup),
        ] {
            if let Some(probe) = probe {
                self.probe(field, probe, pod);
            }
        }
    }

    fn limits(&mut self, spec: &Container) {
        for (resource, limit) in &spec.ulimits {
            if !ULIMITS.contains(&resource.as_str()) {
                let message = format!("`{resource}` is no resource that can be limited");
                let help = did_you_mean(resource, ULIMITS, "see setrlimit(2)");
                self.report(
                    "tank::ulimit::unknown",
                    &["ulimits", resource],
                    message,
                    help,
                );
            }
            if limit.soft > limit.hard {
                let message = "the soft limit is above the hard one".to_owned();
                self.report(
                    "tank::ulimit::soft_above_hard",
                    &["ulimits", resource, "soft"],
                    message,
                    "raise `hard`",
                );
            }
        }
        // MAX_ARG_STRLEN of execve(2), which holds `NAME=VALUE` and a NUL.
        const MAX_VARIABLE: usize = 128 * 1024;
        for (variable, value) in &spec.env {
            if variable.len() + value.len() + 2 > MAX_VARIABLE {
                let message = format!(
                    "`{variable}` has more than the {MAX_VARIABLE} bytes the kernel passes on"
                );
                self.report(
                    "tank::env::too_long",
                    &["env", variable],
                    message,
                    "put it into a file: `files`",
                );
            }
        }
        let unlimited = |amount: Amount| amount == Amount::Unlimited;
        if spec
            .ulimits
            .get("nofile")
            .is_some_and(|limit| unlimited(limit.soft) || unlimited(limit.hard))
        {
            let message =
                "open files can't be unlimited: the kernel refuses more than `fs.nr_open`"
                    .to_owned();
            self.report(
                "tank::ulimit::nofile",
                &["ulimits", "nofile"],
                message,
                "for example 1048576",
            );
        }
    }

    fn probe(&mut self, field: &'static str, probe: &Probe, pod: &Pod) {
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

    /// A path inside the container that something is put at.
    fn target<'p>(
        &mut self,
        field: &[&'p str],
        target: &'p str,
        seen: &mut BTreeMap<&'p str, Vec<&'p str>>,
    ) {
        if !is_absolute(target) {
            self.relative(field, target);
            return;
        }
        let special = ["/", "/proc", "/sys", "/dev"];
        if special
            .iter()
            .any(|dir| target == *dir || (dir.len() > 1 && target.starts_with(&format!("{dir}/"))))
        {
            let message = format!("`{target}` is Tank's own to mount");
            self.report(
                "tank::mount::reserved",
                field,
                message,
                "choose a path outside /proc, /sys and /dev",
            );
        }
        if let Some(first) = seen.insert(target.trim_end_matches('/'), field.to_vec()) {
            let message = format!("two things are put at `{target}`");
            self.report(
                "tank::mount::same_path",
                field,
                message,
                format!("the other is `{}`", first.join(".")),
            );
        }
    }

    fn relative(&mut self, field: &[&str], given: &str) {
        let message = format!("`{given}` is no absolute path");
        self.report(
            "tank::path::relative",
            field,
            message,
            "begin it with `/` and leave out `.`, `..` and `//`",
        );
    }
}

/// The kernel settings that each network or IPC namespace has for itself; `*` stands for any
/// ending.
const NAMESPACED: [&str; 5] = [
    "net.*",
    "kernel.shm*",
    "kernel.msg*",
    "kernel.sem*",
    "fs.mqueue.*",
];

/// Absolute, without empty, `.` or `..` components and without NUL: one spelling per place.
fn is_absolute(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    path.len() < 4096
        && !path.contains('\0')
        && (rest.is_empty() || rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

/// `did you mean` and the nearest candidate, or what to say when nothing is near.
fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> String {
    nearest(word, candidates).map_or_else(
        || otherwise.to_owned(),
        |near| format!("did you mean `{near}`?"),
    )
}

/// Two pods can't listen on one port of one protocol, where either of the addresses covers the
/// other.
fn published_twice(config: &Config, problems: &mut Vec<Problem>) {
    let mut taken: Vec<(IpAddr, u16, crate::spec::Protocol, Vec<String>)> = Vec::new();
    for (pod, name, publish) in config.pods.iter().flat_map(|(pod, spec)| {
        spec.publish
            .iter()
            .map(move |(name, port)| (pod, name, port))
    }) {
        let at = path(["pods", pod.as_str(), "publish", name.as_str(), "port"]);
        let covers = |a: IpAddr, b: IpAddr| {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        };
        let clash = taken.iter().find(|(address, port, protocol, _)| {
            covers(*address, publish.address)
                && *port == publish.port
                && *protocol == publish.protocol
        });
        if let Some((_, _, _, first)) = clash {
            problems.push(Problem {
                code: "tank::publish::port_taken",
                path: at.clone(),
                message: format!("port {} of the host is published twice", publish.port),
                help: format!(
                    "`{}.{}` has it already; choose another port or address",
                    first[1], first[3]
                ),
                related: Some((first.clone(), "taken here")),
            });
        }
        taken.push((publish.address, publish.port, publish.protocol, at));
    }
}

/// Two interfaces can't have one static address on one network.
fn addresses_twice(config: &Config, problems: &mut Vec<Problem>) {
    let mut taken: BTreeMap<(IpAddr, &str), Vec<String>> = BTreeMap::new();
    for (pod, spec) in &config.pods {
        let Network::Nics(nics) = &spec.network else {
            continue;
        };
        for (name, nic) in nics {
            let Some(address) = nic.address else { continue };
            let at = path([
                "pods",
                pod.as_str(),
                "network",
                "nics",
                name.as_str(),
                "address",
            ]);
            if let Some(first) = taken.get(&(address.addr(), nic.parent.as_str())) {
                problems.push(Problem {
                    code: "tank::nic::address_taken",
                    path: at.clone(),
                    message: format!("{} is given to two interfaces", address.addr()),
                    help: format!("`{}` has it already", first[1]),
                    related: Some((first.clone(), "taken here")),
                });
            }
            taken.insert((address.addr(), nic.parent.as_str()), at);
        }
    }
}

/// Each cycle is reported once, at the dependency that closes it, starting from its alphabetically
/// first pod.
fn dependency_cycles(config: &Config, problems: &mut Vec<Problem>) {
    let mut reported: BTreeSet<BTreeSet<&Name>> = BTreeSet::new();
    for start in config.pods.keys() {
        let mut stack = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while let Some(trail) = stack.pop() {
            let Some(pod) = trail
                .last()
                .and_then(|last| config.pods.get_key_value(*last))
            else {
                continue;
            };
            for next in pod.1.depends_on.keys() {
                if next == start && reported.insert(trail.iter().copied().collect()) {
                    let names: Vec<_> = trail
                        .iter()
                        .chain([&start])
                        .map(|name| name.to_string())
                        .collect();
                    problems.push(Problem {
                        code: "tank::depends_on::cycle",
                        path: path(["pods", pod.0.as_str(), "depends_on", next.as_str()]),
                        message: format!("pods wait for each other: {}", names.join(" → ")),
                        help: "remove one of these dependencies".to_owned(),
                        related: None,
                    });
                } else if next > start && seen.insert(next) {
                    stack.push(trail.iter().copied().chain([next]).collect());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(problems: &[Problem]) -> Vec<(&str, String)> {
        problems
            .iter()
            .map(|found| (found.code, found.path.join(".")))
            .collect()
    }

    fn config(pod: serde_json::Value) -> Config {
        serde_json::from_value(serde_json::json!({ "pods": { "web": pod } }))
            .expect("a configuration")
    }

    #[test]
    fn what_is_not_in_this_version_is_said_once() {
        let pod = serde_json::json!({
            "containers": { "app": { "image": "x" } },
            "update": "start_first",
            "network": { "nics": { "a-very-long-name": {
                "parent": "eth 0", "address": "10.0.0.5/24", "pool": "10.0.0.128/25", "gateway": "10.0.1.1",
            } } },
        });
        let found = check(&config(pod.clone()));
        assert_eq!(
            codes(&found),
            [
                (
                    "tank::unsupported::nics",
                    "pods.web.network.nics".to_owned()
                ),
                (
                    "tank::unsupported::start_first",
                    "pods.web.update".to_owned()
                )
            ]
        );
        // The mistakes in it are found as they will be.
        let found = fields(&config(pod));
        let found: BTreeSet<&str> = found.iter().map(|found| found.code).collect();
        let expected = [
            "tank::nic::gateway",
            "tank::nic::name_too_long",
            "tank::nic::outside_pool",
            "tank::nic::parent",
            "tank::update::shared_address",
        ];
        assert_eq!(found, expected.into());
        let nics = |nics: serde_json::Value| {
            let pod = serde_json::json!({ "containers": { "app": { "image": "x" } }, "network": { "nics": nics } });
            fields(&config(pod))
                .iter()
                .map(|found| found.code)
                .collect::<Vec<_>>()
        };
        assert_eq!(nics(serde_json::json!({})), ["tank::nic::none"]);
        let twice = serde_json::json!({ "a": { "address": "10.0.0.5/24" }, "b": { "address": "10.0.0.5/24" } });
        assert_eq!(nics(twice), ["tank::nic::address_taken"]);
    }

    #[test]
    fn settings_of_the_host_are_not_a_pods() {
        let keys = |network: &str| {
            let keys = [
                "net.core.somaxconn",
                "kernel.sem",
                "kernel.shmmax",
                "kernel.msgmax",
                "fs.mqueue.msg_max",
            ];
            let hosts = [
                "kernel.core_pattern",
                "kernel.hostname",
                "kernel.domainname",
                "vm.swappiness",
                "fs.file-max",
                "net",
            ];
            let sysctls: BTreeMap<_, _> =
                keys.iter().chain(&hosts).map(|key| (*key, "1")).collect();
            let pod = serde_json::json!({
                "containers": { "app": { "image": "x" } }, "network": network, "sysctls": sysctls,
            });
            let found = check(&config(pod));
            found
                .iter()
                .map(|found| (found.code, found.path[3].clone()))
                .collect::<BTreeSet<_>>()
        };
        let hosts = [
            "fs.file-max",
            "kernel.core_pattern",
            "kernel.domainname",
            "kernel.hostname",
            "net",
            "vm.swappiness",
        ];
        let mut expected: BTreeSet<_> = hosts
            .iter()
            .map(|key| ("tank::sysctl::not_namespaced", (*key).to_owned()))
            .collect();
        assert_eq!(keys("bridge"), expected);
        expected.insert((
            "tank::sysctl::host_network",
            "net.core.somaxconn".to_owned(),
        ));
        assert_eq!(keys("host"), expected);
    }

    #[test]
    fn what_makes_programs_of_root_is_not_given_beside_files_of_the_host() {
        let pod = |read_only: bool, volume: serde_json::Value| {
            let plain =
                serde_json::json!({ "image": "x", "capabilities": { "add": ["CAP_SETFCAP"] } });
            let mounts =
                serde_json::json!({ "m": { "volume": "v", "path": "/v", "read_only": read_only } });
            let other = serde_json::json!({ "image": "x", "mounts": mounts });
            let pod = serde_json::json!({ "containers": { "a": plain, "b": other }, "volumes": { "v": volume } });
            check(&config(pod))
                .iter()
                .map(|found| found.code)
                .collect::<Vec<_>>()
        };
        let of_host = serde_json::json!({ "host": "/srv/a" });
        assert_eq!(
            pod(false, of_host.clone()),
            ["tank::capability::host_volume"]
        );
        assert_eq!(pod(true, of_host), Vec::<&str>::new());
        assert_eq!(pod(false, serde_json::json!({})), Vec::<&str>::new());
    }
}
