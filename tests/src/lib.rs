//! A host for a test: a network and mount namespace of its own, a daemon with its own folders and
//! cgroup, and the `tank` command. Tests run in parallel and leave nothing.
//!
//! Needs root, and what `scripts/setup.sh test` installs and `scripts/fixtures.sh` makes; a test
//! never skips itself.

#![forbid(unsafe_code)]

pub mod desk;
pub mod images;
pub mod layouts;
pub mod packets;
pub mod picture;
pub mod pty;
pub mod segment;
mod traces;

use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// What a command ended with.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            status: output
                .status
                .code()
                .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// The output, of a command that has to have ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.status, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stdout
    }

    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

/// What a script in a virtual machine printed, of a command that has to have ended well and with `done`.
#[track_caller]
pub fn in_a_machine(command: &mut Command) -> String {
    let ended: Ended = command.output().expect("a machine").into();
    assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    assert!(
        ended.stdout.trim_end().ends_with("done"),
        "{}",
        ended.stdout
    );
    ended.stdout
}

/// What a diagnostic says, without the lines that it is broken into.
pub fn words(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| *word != "│");
    words.collect::<Vec<_>>().join(" ")
}

/// Where the programs are that are tested: where cargo puts them, or `TANK_BIN_DIR`, for the
/// release build or for another version.
pub fn bin(name: &str) -> PathBuf {
    let dir = std::env::var_os("TANK_BIN_DIR").map_or_else(
        || {
            let test = std::env::current_exe().expect("a path");
            test.parent()
                .and_then(Path::parent)
                .expect("target/debug/deps")
                .to_owned()
        },
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not built: `cargo build --workspace` comes first",
        path.display()
    );
    path
}

/// The repository. Asked of cargo when the test runs: a build folder may be shared by several
/// clones.
pub fn repo() -> PathBuf {
    let tests = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo"));
    tests.parent().expect("the workspace").to_owned()
}

/// What `scripts/fixtures.sh` made.
pub fn fixtures() -> PathBuf {
    let cache = std::env::var_os("TANK_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/tank"),
        PathBuf::from,
    );
    let dir = cache.join("fixtures");
    assert!(
        dir.join("version").exists(),
        "no fixtures: `scripts/fixtures.sh` makes them"
    );
    dir
}

/// Waits until `is` says yes.
#[track_caller]
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A host.
pub struct Host {
    pub dir: PathBuf,
    pub cgroup: String,
    /// Holds the namespaces open.
    holder: Child,
    daemon: Option<Child>,
    registry: Option<Child>,
    daemon_args: Vec<String>,
    /// What the test itself has mounted.
    mounted: Vec<PathBuf>,
}

impl Host {
    /// A host with a running daemon.
    pub fn new() -> Self {
        let mut host = Self::without_daemon();
        host.start_daemon();
        host
    }

    /// Starts the daemon of a host that has none, with more flags.
    pub fn started_with(mut self, args: &[&str]) -> Self {
        self.daemon_args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.start_daemon();
        self
    }

    pub fn without_daemon() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tank-t-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(
            dir.join("tank.toml"),
            format!("cgroup = \"{name}\"\ngrace = \"200ms\"\n"),
        )
        .expect("settings");
        std::os::unix::fs::symlink(fixtures().join("busybox"), dir.join("busybox"))
            .expect("a link");
        let ready = dir.join("ready");
        let script = format!(
            "ip link set lo up && touch {} && exec sleep 14400",
            ready.display()
        );
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let host = Self {
            dir,
            cgroup: name,
            holder,
            daemon: None,
            registry: None,
            daemon_args: Vec::new(),
            mounted: Vec::new(),
        };
        eventually("the namespaces are there", || ready.exists());
        host
    }

    /// Puts the state folder on a file system in memory with these limits:
    /// `size=40m,nr_inodes=2000`.
    pub fn with_state_on(mut self, limits: &str) -> Self {
        let state = self.dir.join("state");
        fs::create_dir_all(&state).expect("a folder");
        let mut mount = self.inside("mount");
        let mounted = mount
            .args(["-t", "tmpfs", "-o", limits, "state"])
            .arg(&state)
            .status()
            .expect("mount");
        assert!(mounted.success());
        self.mounted.push(state);
        self
    }

    /// Puts the state folder on a file system of its own whose files can share what they have: `xfs` or
    /// `btrfs`, in a sparse file.
    pub fn with_state_on_disk(mut self, kind: &str) -> Self {
        let state = self.dir.join("state");
        fs::create_dir_all(&state).expect("a folder");
        let disk = self.dir.join("disk");
        let file = fs::File::create(&disk).expect("a file");
        file.set_len(2 << 30).expect("a size");
        let made: Ended = Command::new(format!("mkfs.{kind}"))
            .arg("-q")
            .arg(&disk)
            .output()
            .expect("mkfs")
            .into();
        made.ok();
        let mut mount = self.inside("mount");
        let mounted: Ended = mount
            .args(["-t", kind, "-o", "loop"])
            .args([&disk, &state])
            .output()
            .expect("mount")
            .into();
        mounted.ok();
        self.mounted.push(state);
        self
    }

    /// The daemon's pid.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("tankd runs").id()
    }

    /// A command inside the host's namespaces.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.holder.id()))
            .args(["--net", "--mount", "--"])
            .arg(program);
        command
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/tank.sock")
    }

    pub fn start_daemon(&mut self) {
        self.start_daemon_with(&[]);
    }

    /// The daemon, as it is started.
    pub fn daemon_command(&self) -> Command {
        let mut command = self.inside(&bin("tankd").display().to_string());
        command
            .arg(format!("--state-dir={}", self.dir.join("state").display()))
            .arg(format!("--run-dir={}", self.dir.join("run").display()))
            .arg(format!("--config={}", self.dir.join("tank.toml").display()))
            .args(&self.daemon_args);
        command
    }

    /// Starts the daemon with something in its environment.
    pub fn start_daemon_with(&mut self, env: &[(&str, &str)]) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("tankd.log"))
            .expect("a log");
        let mut command = self.daemon_command();
        command
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.daemon = Some(command.spawn().expect("tankd"));
        eventually("tankd answers", || self.tank(&["status"]).status == 0);
    }

    /// `kill -9`.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("tankd runs");
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
    }

    /// Has it end as a service manager does, and waits for that.
    pub fn end_daemon(&mut self) {
        let pid = self.daemon_pid().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill").success());
        self.reap_daemon();
    }

    /// Whether it has ended by itself; waits a moment for one that is about to.
    pub fn daemon_has_ended(&mut self) -> bool {
        let daemon = self.daemon.as_mut().expect("tankd was started");
        (0..10).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            daemon.try_wait().expect("wait").is_some()
        })
    }

    /// Forgets a daemon that has ended by itself.
    pub fn reap_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("tankd was started");
        daemon.wait().expect("wait");
    }

    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.dir.join("tankd.log")).unwrap_or_default()
    }

    /// The `tank` command, in this host's folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin("tank"));
        command
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command.env("TANK_CACHE_DIR", self.dir.join("cache"));
        // A test reads all at once.
        command.env("TANK_PAGER", "");
        command
    }

    pub fn tank(&self, args: &[&str]) -> Ended {
        self.command(args).output().expect("tank").into()
    }

    /// Runs `tank` with something on its standard input.
    pub fn tank_with_input(&self, args: &[&str], input: &[u8]) -> Ended {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("tank");
        let mut stdin = child.stdin.take().expect("stdin");
        match stdin.write_all(input) {
            // It has ended without reading: what it says tells why.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.expect("write"),
        }
        drop(stdin);
        child.wait_with_output().expect("wait").into()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).expect("write");
    }

    /// Switches to a configuration.
    #[track_caller]
    pub fn switch(&self, config: &str) -> Value {
        self.write("pods.ncl", config);
        self.tank(&["--json", "switch", "pods.ncl"]).json()
    }

    /// What a command in a container prints.
    #[track_caller]
    pub fn exec(&self, target: &str, script: &str) -> String {
        self.tank(&["exec", target, "--", "/bin/sh", "-c", script])
            .ok()
            .trim_end()
            .to_owned()
    }

    /// One pod as `list` shows it.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Value {
        let list = self.tank(&["--json", "list"]).json();
        let pods = list["pods"].as_array().expect("pods");
        pods.iter()
            .find(|pod| pod["name"] == name)
            .cloned()
            .unwrap_or(Value::Null)
    }

    #[track_caller]
    pub fn pid(&self, pod: &str, container: &str) -> i64 {
        let view = self.pod(pod);
        let containers = view["containers"].as_array().expect("containers");
        let found = containers
            .iter()
            .find(|found| found["name"] == container)
            .expect("the container");
        found["pid"]
            .as_i64()
            .unwrap_or_else(|| panic!("{pod}/{container} does not run: {view}"))
    }

    /// What a page says, asked from the host.
    pub fn get(&self, url: &str) -> Ended {
        let mut curl = self.inside("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "5", url])
            .output()
            .expect("curl")
            .into()
    }

    /// Serves the fixtures' registry at `localhost:5000` of this host.
    pub fn start_registry(&mut self) {
        self.start_registry_of(&fixtures().join("registry"));
    }

    /// Serves what is stored in a folder at `localhost:5000` of this host.
    pub fn start_registry_of(&mut self, storage: &Path) {
        self.start_registry_with(storage, "");
    }

    /// As [`Host::start_registry`], for the users of an htpasswd(1) file: lines of `USER:BCRYPT`.
    pub fn start_registry_for(&mut self, users: &str) {
        self.write("htpasswd", users);
        let users = self.dir.join("htpasswd");
        let auth = format!(
            "auth: {{ htpasswd: {{ realm: here, path: {} }} }}\n",
            users.display()
        );
        self.start_registry_with(&fixtures().join("registry"), &auth);
    }

    /// Serves a folder, with more lines of configuration.
    fn start_registry_with(&mut self, storage: &Path, more: &str) {
        let config = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: \"127.0.0.1:5000\" }}\nlog: {{ level: error }}\n{more}",
            storage.display()
        );
        self.write("registry.yml", &config);
        let log = fs::File::create(self.dir.join("registry.log")).expect("a log");
        let mut command = self.inside("docker-registry");
        command
            .arg("serve")
            .arg(self.dir.join("registry.yml"))
            .stdout(Stdio::null())
            .stderr(log);
        self.registry = Some(command.spawn().expect("docker-registry"));
        eventually("the registry answers", || {
            // 22: it answers, with an error (curl(1), `--fail`).
            matches!(self.get("http://localhost:5000/v2/").status, 0 | 22)
        });
    }

    /// Sends the registry a signal, by its name.
    pub fn signal_registry(&self, signal: &str) {
        let pid = self.registry.as_ref().expect("a registry").id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status()
            .expect("kill");
        assert!(sent.success());
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// A pod that sleeps, for tests that look at it from inside.
pub fn sleeper(pod: &str) -> String {
    format!("pods.{pod}.containers.app = {{ image = \"oci:./busybox\", {RUN} }},")
}

/// A main process that ends when it is asked to.
pub const RUN: &str =
    r#"command = ["/bin/sh", "-c", "trap 'exit 0' TERM USR1; while true; do sleep 0.1; done"]"#;
