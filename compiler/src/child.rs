//! Evaluation with limits. Nickel is a language: a configuration can loop, recurse and build what
//! no memory holds. So it is evaluated in a child process, as the calling user, that may use so
//! much time, memory and stack; what ends there is an error here.
//!
//! The child is this program again. It takes the inputs on standard input and gives its result on
//! standard output, both as JSON. It sets its own limits before it reads a file of the user's.

use crate::{CompileError, Compiled, Inputs, STDLIB, compile_with};
use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

/// The stack of the thread that evaluates: Nickel recurses with the depth of what it reads.
const STACK_BYTES: usize = 256 << 20;

/// The most bytes of a result.
const MAX_RESULT: u64 = 256 << 20;

/// The most bytes that are read of a child's standard error.
const MAX_STDERR: u64 = 64 << 10;

/// Settings for an allocator of many small objects in a process that soon ends: one arena, and no
/// memory is returned to the kernel before the end (mallopt(3)).
const MALLOC_TUNABLES: &str = "glibc.malloc.arena_max=1:glibc.malloc.trim_threshold=4294967295:glibc.malloc.top_pad=67108864:\
glibc.malloc.mmap_threshold=1073741824:glibc.malloc.tcache_count=65000:glibc.malloc.mxfast=160";

/// How a configuration is evaluated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This program and the arguments with which it calls [`main`].
    pub program: PathBuf,
    /// The arguments that make it call [`main`].
    pub args: Vec<OsString>,
    /// The most time it may take.
    pub time: Duration,
    /// In bytes.
    pub memory: u64,
    /// Where results are kept, and a copy of the stdlib for `import "tank.ncl"`.
    pub cache_dir: Option<PathBuf>,
}

/// The most time an evaluation takes unless configured: 30 s.
pub const DEFAULT_TIME: Duration = Duration::from_secs(30);

/// The most memory an evaluation takes unless configured: 2 GiB. A thousand pods take a tenth.
pub const DEFAULT_MEMORY: u64 = 2 << 30;

/// What the child is to evaluate, and with which limits.
#[derive(Serialize, Deserialize)]
struct Request {
    inputs: Inputs,
    memory: u64,
    seconds: u64,
    stdlib_dir: Option<PathBuf>,
}

pub(crate) fn compile(inputs: &Inputs, settings: &Settings) -> Result<Compiled, CompileError> {
    let internal =
        |what: &str, why: &dyn std::fmt::Display| CompileError::Internal(format!("{what}: {why}"));
    let request = Request {
        inputs: inputs.clone(),
        memory: settings.memory,
        seconds: settings.time.as_secs().saturating_add(1),
        stdlib_dir: settings.cache_dir.as_deref().and_then(stdlib_dir),
    };
    let request = serde_json::to_vec(&request).map_err(|e| internal("write the request", &e))?;
    let mut child = Command::new(&settings.program)
        .args(&settings.args)
        .env("RUST_BACKTRACE", "0")
        .env("GLIBC_TUNABLES", MALLOC_TUNABLES)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| internal("start the evaluator", &e))?;
    let (done, result) = mpsc::channel();
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends early is reported by its status below.
        let _ = stdin.write_all(&request);
    }
    if let Some(stdout) = child.stdout.take() {
        let done = done.clone();
        std::thread::spawn(move || done.send((true, read_all(stdout, MAX_RESULT))));
    }
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || done.send((false, read_all(stderr, MAX_STDERR))));
    }
    let deadline = std::time::Instant::now() + settings.time;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match result.recv_timeout(left) {
            Ok((true, bytes)) => out = bytes,
            Ok((false, bytes)) => err = bytes,
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(too_long(settings.time));
            }
        }
    }
    // Both pipes are closed: it has ended, or does so now.
    let _ = child.kill();
    let status = child
        .wait()
        .map_err(|e| internal("wait for the evaluator", &e))?;
    match serde_json::from_slice::<Result<Compiled, CompileError>>(&out) {
        Ok(answer) => answer,
        Err(_) if out.len() as u64 > MAX_RESULT => Err(too_large(settings.memory)),
        Err(_) => Err(ended(status, &String::from_utf8_lossy(&err), settings)),
    }
}

fn read_all(from: impl Read, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.take(most + 1).read_to_end(&mut bytes);
    bytes
}

fn too_long(time: Duration) -> CompileError {
    CompileError::Limit {
        code: "tank::limit::time".to_owned(),
        what: format!("evaluating the configuration took longer than {} s", time.as_secs_f32()),
        help: "look for a recursion that does not end; TANK_EVAL_TIMEOUT allows more, for example `2m`".to_owned(),
    }
}

fn too_large(memory: u64) -> CompileError {
    CompileError::Limit {
        code: "tank::limit::memory".to_owned(),
        what: format!("evaluating the configuration took more than {} of memory", tank_model::units::Bytes(memory)),
        help: "look for a recursion, a text or an array without end; TANK_EVAL_MEMORY allows more, for example `8GiB`"
            .to_owned(),
    }
}

/// What a child without an answer wrote of its own end to standard error.
#[derive(Debug, PartialEq, Eq)]
enum LastWords {
    OutOfMemory,
    OutOfStack,
    Other,
}

/// Reads them. The runtime that aborts has no other channel: these are the texts of Rust 1.90
/// (`handle_alloc_error`, a vector's growth, the guard page) and of nickel-lang-core 0.19.0's own
/// allocator. `what_never_ends_ends_in_an_error` in `tests/tests/language.rs` fails when they change.
fn last_words(stderr: &str) -> LastWords {
    let exhausted = ["memory allocation of", "out of memory", "capacity overflow"];
    if exhausted.iter().any(|words| stderr.contains(words)) {
        LastWords::OutOfMemory
    } else if stderr.contains("overflowed its stack") {
        LastWords::OutOfStack
    } else {
        LastWords::Other
    }
}

/// What a child that gave no answer ended of.
fn ended(status: ExitStatus, stderr: &str, settings: &Settings) -> CompileError {
    use std::os::unix::process::ExitStatusExt;
    let signal = status.signal();
    match last_words(stderr) {
        LastWords::OutOfMemory => return too_large(settings.memory),
        LastWords::Other if signal != Some(Signal::SEGV.as_raw()) => {}
        LastWords::OutOfStack | LastWords::Other => {
            return CompileError::Limit {
                code: "tank::limit::depth".to_owned(),
                what: "the configuration is nested or recurses too deeply".to_owned(),
                help: "look for a function that calls itself without end".to_owned(),
            };
        }
    }
    if signal == Some(Signal::XCPU.as_raw()) {
        return too_long(settings.time);
    }
    let said = stderr
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("thread '"))
        .unwrap_or_default();
    CompileError::Internal(format!("the evaluator ended with {status}: {said}"))
}

/// The child's whole life: limits, a request, an answer. Returns its exit status.
pub fn main() -> u8 {
    match answer() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fn answer() -> Result<(), Box<dyn std::error::Error>> {
    // A command that is killed takes its evaluator with it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut text = Vec::new();
    std::io::stdin().take(MAX_RESULT).read_to_end(&mut text)?;
    let request: Request = serde_json::from_slice(&text)?;
    let limit = |resource, most: u64| {
        let most = Some(most);
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: most,
                maximum: most,
            },
        )
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, request.seconds)?;
    limit(
        Resource::As,
        request.memory.saturating_add(2 * STACK_BYTES as u64),
    )?;
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let thread = thread.spawn(move || {
        let answer = compile_with(&request.inputs, request.stdlib_dir.as_deref(), true);
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &answer)
            .map_err(std::io::Error::from)
            .and_then(|()| out.flush())?;
        // What was evaluated can be deeper than a destructor's recursion is: it goes with the
        // process.
        std::process::exit(0)
    })?;
    let ended: std::io::Result<()> = thread.join().map_err(|_| "the evaluator panicked")?;
    Ok(ended?)
}

/// A folder with a copy of the stdlib, made if it is not there: what `import "tank.ncl"` finds,
/// here and in an editor.
pub fn stdlib_dir(cache_dir: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = cache_dir.join(format!(
        "stdlib-{}",
        tank_model::Digest::of(STDLIB.as_bytes()).short()
    ));
    let file = dir.join("tank.ncl");
    if std::fs::read_to_string(&file).is_ok_and(|text| text == STDLIB) {
        return Some(dir);
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .ok()?;
    let new = dir.join(format!(".{}", std::process::id()));
    std::fs::write(&new, STDLIB)
        .and_then(|()| std::fs::rename(&new, &file))
        .ok()?;
    Some(dir)
}
