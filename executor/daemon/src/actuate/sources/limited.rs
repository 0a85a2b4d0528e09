//! Work that may wait for a file system whose server is gone: on a thread of its own, and not waited
//! for for ever.

use super::{Error, lock};
use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// How long opening and reading one source may take.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The most threads that wait for sources which do not answer; beyond that, none is asked.
pub const MAX_STUCK: usize = 64;

/// One attempt, between its thread and who waits for it.
struct Attempt<T> {
    result: Option<Result<T, Error>>,
    overdue: bool,
}

/// How many attempts for each path have not come back.
pub type Stuck = Arc<Mutex<BTreeMap<String, usize>>>;

/// Runs `work`, which is for `path`, for [`LIMIT`] at most. Blocking.
///
/// # Errors
/// Those of `work`, or that an attempt for that path has not come back.
// long: one attempt and both of its sides
pub fn run<T: Send + 'static>(
    stuck: &Stuck,
    path: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    {
        let stuck = lock(stuck);
        if stuck.contains_key(path) {
            return Err(Error::Unanswered(path.to_owned()));
        }
        if stuck.values().sum::<usize>() >= MAX_STUCK {
            return Err(Error::TooManyUnanswered);
        }
    }
    let attempt = Arc::new((
        Mutex::new(Attempt {
            result: None,
            overdue: false,
        }),
        Condvar::new(),
    ));
    let (theirs, overdue, name) = (Arc::clone(&attempt), Arc::clone(stuck), path.to_owned());
    let run = move || {
        let result = work();
        let mut attempt = lock(&theirs.0);
        if attempt.overdue {
            let mut stuck = lock(&overdue);
            match stuck.get_mut(&name) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(stuck.remove(&name)),
            }
        }
        attempt.result = Some(result);
        theirs.1.notify_one();
    };
    let thread = std::thread::Builder::new()
        .name("source".to_owned())
        .stack_size(256 << 10);
    thread.spawn(run).map_err(Error::Thread)?;
    let waited = attempt
        .1
        .wait_timeout_while(lock(&attempt.0), LIMIT, |attempt| attempt.result.is_none());
    let (mut done, _) = waited.unwrap_or_else(PoisonError::into_inner);
    done.result.take().unwrap_or_else(|| {
        done.overdue = true;
        *lock(stuck).entry(path.to_owned()).or_default() += 1;
        Err(Error::Silent {
            path: path.to_owned(),
            limit: LIMIT,
        })
    })
}
