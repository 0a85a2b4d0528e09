//! The process between the daemon and a hook's program: it has one thread, so that what is done between fork and exec is done
//! before there is a second one, and it waits for the program, whose end nobody else is to reap.

use serde::{Deserialize, Serialize};
use std::{
    io::{Write, stderr},
    os::{
        fd::AsFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// The first argument by which `tankd` is that process.
pub const ARGUMENT: &str = "__hook";

/// How long it waits until it is in its cgroup.
const MOVE_LIMIT: Duration = Duration::from_secs(10);

/// What it does: the second argument.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub argv: Vec<String>,
    pub uid: u32,
    pub gid: u32,
    pub env: Vec<(String, String)>,
}

/// Runs the program, and prints its status on standard output.
pub fn run(order: Option<String>) -> ExitCode {
    let status = match order.as_deref().map(serde_json::from_str::<Order>) {
        Some(Ok(order)) => start(order),
        _ => Err("nobody but tankd starts this".to_owned()),
    };
    match status {
        Ok(status) => {
            let _ = write!(std::io::stdout(), "{status}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = write!(stderr(), "{why}");
            let _ = write!(std::io::stdout(), "127");
            ExitCode::FAILURE
        }
    }
}

fn start(order: Order) -> Result<i32, String> {
    // Whoever has started the daemon may have left it some.
    tank_sys::process::close_descriptors_but(&[]).map_err(|e| e.to_string())?;
    wait_for_group()?;
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("can't {what}: {error}");
    rustix::process::setsid().map_err(|e| failed("begin a session", &e))?;
    rustix::thread::set_no_new_privs(true).map_err(|e| failed("give up new privileges", &e))?;
    tank_sys::process::reset_signals();
    tank_sys::process::reset_umask();
    tank_sys::process::reset_oom_score();
    let mut argv = order.argv.iter();
    let program = argv.next().ok_or("there is no program")?;
    let stdout = stderr().as_fd().try_clone_to_owned();
    let stdout = stdout.map_err(|e| failed("print", &e))?;
    // With a user, the program has no other groups than that one's own.
    let mut child = Command::new(program)
        .args(argv)
        .env_clear()
        .envs(order.env)
        .current_dir("/")
        .stdin(Stdio::inherit())
        .stdout(stdout)
        .stderr(Stdio::inherit())
        .uid(order.uid)
        .gid(order.gid)
        .spawn()
        .map_err(|e| failed(&format!("run {program}"), &e))?;
    let ended = child.wait().map_err(|e| failed("wait", &e))?;
    let status = ended.code().or(ended.signal().map(|signal| 128 + signal));
    Ok(status.unwrap_or(255))
}

/// Waits until the daemon has put this process into its cgroup: what it starts before that is in none.
fn wait_for_group() -> Result<(), String> {
    let begun = Instant::now();
    while begun.elapsed() < MOVE_LIMIT {
        let groups = std::fs::read_to_string(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let of_hooks = |line: &str| line.contains("/_hook-");
        // It is put into that of version 2, `0::`, last.
        if groups
            .lines()
            .any(|line| line.starts_with("0::") && of_hooks(line))
        {
            return Ok(());
        }
        // One thread, and no worker of anybody's.
        #[expect(clippy::disallowed_methods, reason = "this process has no workers")]
        std::thread::sleep(Duration::from_millis(1));
    }
    Err("it is in no cgroup of its own".to_owned())
}
