//! What a container runs, what it may use and what it may do.

use super::{Pass, did_you_mean, is_absolute};
use crate::{
    host_files::WITHHELD,
    name::Name,
    reference::ImageSource,
    spec::{
        Amount, Container, LOG_SIZES, LogRate, Logs, MAX_LOG_FILES, MIN_LOG_RATE, Pod, ULIMITS,
    },
};

/// The most bytes of `NAME=VALUE` and its NUL: MAX_ARG_STRLEN of execve(2).
const MAX_VARIABLE: usize = 128 * 1024;

/// The code of a bound of a log that can't be.
const LOGS: &str = "tank::logs::bounds";

impl Pass<'_> {
    pub(super) fn container(
        &mut self,
        name: &Name,
        spec: &Container,
        (pod, shared): (&Pod, &[&str]),
    ) {
        self.platform(spec);
        self.mounts(name, spec, (pod, shared));
        self.command(name, spec);
        self.limits(spec);
        self.logs(&spec.logs);
        self.ulimits(spec);
        self.capabilities(spec, pod);
        self.devices(spec);
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

    /// A platform where there is nothing to choose from.
    fn platform(&mut self, spec: &Container) {
        let is_tree = matches!(
            spec.image.source(),
            ImageSource::Folder { .. } | ImageSource::Closure { .. }
        );
        if let Some(platform) = spec.platform.as_ref().filter(|_| is_tree) {
            let message = format!(
                "`{}` is of no platform, and none to choose `{platform}` of",
                spec.image
            );
            let help = "leave it out";
            self.report("tank::platform::none", &["platform"], message, help);
        }
    }

    /// The command, its environment and its working directory.
    fn command(&mut self, name: &Name, spec: &Container) {
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
    }

    fn limits(&mut self, spec: &Container) {
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
    }

    /// Bounds that are none, or that hold nothing.
    fn logs(&mut self, logs: &Logs) {
        let (least, most) = LOG_SIZES;
        if logs.max_size < least || logs.max_size > most {
            let message = format!("a log's files can't be of {}", logs.max_size);
            let help = format!("they have {least} to {most}");
            self.report(LOGS, &["logs", "max_size"], message, help);
        }
        if !(1..=MAX_LOG_FILES).contains(&logs.max_files) {
            let message = format!("a log can't have {} files", logs.max_files);
            let help = format!("it has 1 to {MAX_LOG_FILES}");
            self.report(LOGS, &["logs", "max_files"], message, help);
        }
        if let LogRate::Of(rate) = logs.rate
            && rate < MIN_LOG_RATE
        {
            let message = format!("a log of {rate} a second would hold no line");
            let help = format!("give at least {MIN_LOG_RATE}, or \"unlimited\"");
            self.report(LOGS, &["logs", "rate"], message, help);
        }
    }

    fn ulimits(&mut self, spec: &Container) {
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

    fn devices(&mut self, spec: &Container) {
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

    /// Fields that only make sense for a container that stays running.
    pub(super) fn init(&mut self, spec: &Container) {
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
}
