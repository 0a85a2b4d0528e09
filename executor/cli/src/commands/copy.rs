//! `cp`: files between this host and a container. The stream comes from, or goes to, a process in the container; here it is taken
//! as what a stranger sends, and with no more rights than the caller has.

mod place;
mod stream;

use super::transfer;
use crate::{
    args::Copy as Args,
    client::Client,
    error::Error,
    output,
    status::{INTERRUPTED, SIGNALLED},
};
use place::{Local, Remote, Side};
use serde::Serialize;
use std::{
    io::{self, IsTerminal, Read, Write},
    os::fd::OwnedFd,
    path::Path,
    task::Poll,
    time::Duration,
};
use stream::Stoppable;
use tank_copy::{Error as CopyError, Layout, Source, Tally, Target};
use tank_proto::{
    copy::{CopyEnd, MAX_END},
    varlink::{self, CopyInCall, CopyOutCall, CopyReply, Method},
};
use tank_sys::beneath::Root;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

/// How long what is not finished may take to be removed after an interrupt.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(5);

/// What ends this, with what the shell says of it: 128 and its number.
const SIGNALS: [(SignalKind, u8); 3] = [
    (SignalKind::interrupt(), INTERRUPTED),
    (SignalKind::terminate(), SIGNALLED + 15),
    (SignalKind::hangup(), SIGNALLED + 1),
];

/// What is said to programs.
#[derive(Serialize)]
struct Copied {
    entries: u64,
    bytes: u64,
    left_out: u64,
}

/// What was asked for, beside where from and where to.
struct Asked {
    ids: bool,
    follow: bool,
    quiet: bool,
    json: bool,
}

pub async fn copy(client: &mut Client, args: Args, json: bool) -> Result<u8, Error> {
    let asked = Asked {
        ids: args.archive,
        follow: args.follow_link,
        quiet: args.quiet,
        json,
    };
    let sides = (Side::of(&args.from)?, Side::of(&args.to)?);
    match sides {
        (Side::Container(from), Side::Local(to)) => to_host(client, &from, to, &asked).await,
        (Side::Container(from), Side::Stream) => to_stream(client, &from, &asked).await,
        (Side::Local(from), Side::Container(to)) => to_container(client, from, &to, &asked).await,
        (Side::Stream, Side::Container(to)) => from_stream(client, &to, &asked).await,
        (Side::Container(from), Side::Container(to)) => Err(Error::failed(
            "copy from a container into another one",
            format!("do it through a pipe: `tank cp {from} - | tank cp - {to}`"),
        )),
        _ => Err(Error::failed(
            "copy without a container",
            "one of the two is `POD:/PATH` or `POD/CONTAINER:/PATH`, with its path from the container's `/`",
        )),
    }
}

/// The descriptors of a copying that has begun.
struct Begun {
    /// For as long as it is open, the process in the container is not ended.
    _control: OwnedFd,
    stream: OwnedFd,
    end: OwnedFd,
}

async fn begin(client: &mut Client, method: Method) -> Result<Begun, Error> {
    let answer = client.call_with::<CopyReply>(method, Vec::new()).await;
    let fds = match answer {
        Ok((_, fds)) => fds,
        Err(Error::Refused(varlink::Error::NotRunning { pod, container })) => {
            let why = format!(
                "it does not run, and has no files put together then: `tank start {pod}` starts it; what is in its volumes, \
                 `tank volume export` and `tank volume import` reach without it"
            );
            return Err(Error::failed(
                format!("copy files of `{pod}/{container}`"),
                why,
            ));
        }
        Err(error) => return Err(error),
    };
    let Ok([control, stream, end]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(Error::Answer("tankd sent no pipes"));
    };
    Ok(Begun {
        _control: control,
        stream,
        end,
    })
}

fn out_call(from: &Remote, follow: bool) -> Method {
    Method::CopyOut(CopyOutCall {
        pod: from.pod.clone(),
        container: from.container.clone(),
        path: from.path.clone(),
        name: from.name.clone(),
        follow: Some(follow || from.is_folder),
    })
}

fn in_call(to: &Remote, archive: bool, ids: bool) -> Method {
    Method::CopyIn(CopyInCall {
        pod: to.pod.clone(),
        container: to.container.clone(),
        path: to.path.clone(),
        archive: Some(archive),
        ids: Some(ids),
    })
}

/// What became of both ends: of the one here, and of the one in the container, which may have ended without a word.
type Ends = (Result<Tally, CopyError>, Option<CopyEnd>);

async fn to_host(
    client: &mut Client,
    from: &Remote,
    to: Local,
    asked: &Asked,
) -> Result<u8, Error> {
    let begun = begin(client, out_call(from, asked.follow)).await?;
    let (name, path, ids) = (from.name.clone(), to.path.clone(), asked.ids);
    let work = move |mut stream: Stoppable, root: &Root| {
        let target = Target {
            root,
            path: &path,
            layout: Layout::One(Some(name.as_bytes())),
            ids,
        };
        tank_copy::receive(&target, &mut stream)
    };
    let what = format!("copy `{from}` to {}", to.shown);
    let (here, there) = match work_until_interrupt(begun, work).await? {
        Ok(ends) => ends,
        Err(number) => return Ok(interrupted(&what, number)),
    };
    let tally = judge(&what, (here, there.clone()))?;
    let left_out = there.map_or(0, |end| end.left_out);
    say(asked, Tally { left_out, ..tally }, &to.shown)
}

async fn to_container(
    client: &mut Client,
    from: Local,
    to: &Remote,
    asked: &Asked,
) -> Result<u8, Error> {
    let what = format!("copy {} to `{to}`", from.shown);
    // Before anything is asked of the container.
    let failed = |e| Error::failed(what.clone(), e);
    std::fs::symlink_metadata(&from.path).map_err(failed)?;
    let begun = begin(client, in_call(to, false, asked.ids)).await?;
    let follow = asked.follow || from.is_folder;
    let work = move |mut stream: Stoppable, root: &Root| {
        let source = Source {
            root,
            path: &from.path,
            name: &from.name,
            follow,
        };
        tank_copy::send(&source, &mut stream)
    };
    let (here, there) = match work_until_interrupt(begun, work).await? {
        Ok(ends) => ends,
        Err(number) => return Ok(interrupted(&what, number)),
    };
    let tally = judge(&what, (here, there))?;
    say(asked, tally, &to.to_string())
}

/// A tar archive on standard output.
async fn to_stream(client: &mut Client, from: &Remote, asked: &Asked) -> Result<u8, Error> {
    // Refuses a terminal.
    let target = transfer::target(None)?;
    let begun = begin(client, out_call(from, asked.follow)).await?;
    let what = format!("copy `{from}`");
    let last = end_of(begun.end, &what);
    transfer::write(begun.stream, target, last).await?;
    Ok(0)
}

/// A tar archive from standard input.
async fn from_stream(client: &mut Client, to: &Remote, asked: &Asked) -> Result<u8, Error> {
    if io::stdin().is_terminal() {
        let why = "redirect it: `tank cp - POD:/PATH < FILE`";
        return Err(Error::failed("read an archive from a terminal", why));
    }
    let begun = begin(client, in_call(to, true, asked.ids)).await?;
    let what = format!("copy an archive to `{to}`");
    let last = end_of(begun.end, &what);
    let end = transfer::read(Box::new(io::stdin()), begun.stream, last).await?;
    let tally = Tally {
        entries: end.entries,
        bytes: end.bytes,
        left_out: end.left_out,
    };
    say(asked, tally, &to.to_string())
}

/// How it went in the container, once it is over.
async fn end_of(end: OwnedFd, what: &str) -> Result<CopyEnd, Error> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || sender.send(read_end(std::fs::File::from(end))));
    match receiver.await.ok().flatten() {
        Some(CopyEnd {
            failed: Some(why), ..
        }) => Err(Error::failed(what, why)),
        Some(end) => Ok(end),
        None => Err(Error::failed(what, GONE)),
    }
}

const GONE: &str = "the container ended, or somebody in it ended the copying";

/// None: it ended without a word.
fn read_end(end: impl Read) -> Option<CopyEnd> {
    let mut text = Vec::new();
    end.take(MAX_END).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The status to end with, once a signal comes.
async fn ended_by(signals: &mut [(Signal, u8)]) -> u8 {
    std::future::poll_fn(|cx| {
        let mut all = signals.iter_mut();
        let came =
            all.find_map(|(signal, status)| signal.poll_recv(cx).is_ready().then_some(*status));
        came.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Copies on a thread of its own. An error is the status after a signal: what was not finished is removed.
async fn work_until_interrupt(
    begun: Begun,
    work: impl FnOnce(Stoppable, &Root) -> Result<Tally, CopyError> + Send + 'static,
) -> Result<Result<Ends, u8>, Error> {
    let listen = |(kind, status)| Ok::<_, io::Error>((signal(kind)?, status));
    let signals: Result<Vec<_>, _> = SIGNALS.into_iter().map(listen).collect();
    let mut signals = signals.map_err(|e| Error::failed("copy files", e))?;
    let failed = |e: tank_sys::Error| Error::failed("copy files", e);
    let root = Root::current().map_err(failed)?;
    let (stopped, stop) = tank_sys::namespace::pipe().map_err(failed)?;
    let prepare = |fd: OwnedFd| Stoppable::new(fd, &stopped);
    let stream = prepare(begun.stream).map_err(|e| Error::failed("copy files", e))?;
    let end = prepare(begun.end).map_err(|e| Error::failed("copy files", e))?;
    let (sender, mut ends) = oneshot::channel();
    std::thread::spawn(move || {
        // Its end of the stream is closed by then.
        let here = work(stream, &root);
        let there = read_end(end);
        let _ = sender.send((here, there));
    });
    Ok(tokio::select! {
        done = &mut ends => {
            let done = done.map_err(|e| Error::failed("copy files", e))?;
            Ok(done)
        }
        number = ended_by(&mut signals) => {
            drop(stop);
            let _ = timeout(CLEAN_UP_LIMIT, ends).await;
            Err(number)
        }
    })
}

fn interrupted(what: &str, status: u8) -> u8 {
    output::error(&format!(
        "interrupted: {what}; of a folder there is what had come, of a single file nothing\n"
    ));
    status
}

/// Which of the two ends has the reason.
fn judge(what: &str, (here, there): Ends) -> Result<Tally, Error> {
    let follows = |error: &CopyError| {
        error.is_unread() || matches!(error, CopyError::Cut | CopyError::Nothing)
    };
    match (here, there) {
        (Err(error), _) if !follows(&error) => Err(Error::failed(what, error)),
        (
            _,
            Some(CopyEnd {
                failed: Some(why), ..
            }),
        ) => Err(Error::failed(what, why)),
        (_, None) => Err(Error::failed(what, GONE)),
        (Err(error), _) => Err(Error::failed(what, error)),
        (Ok(tally), Some(_)) => Ok(tally),
    }
}

fn say(asked: &Asked, tally: Tally, to: &str) -> Result<u8, Error> {
    let Tally {
        entries,
        bytes,
        left_out,
    } = tally;
    if asked.json {
        output::json(&Copied {
            entries,
            bytes,
            left_out,
        })?;
        return Ok(0);
    }
    if !asked.quiet {
        let entries = match entries {
            1 => "1 entry".to_owned(),
            more => format!("{more} entries"),
        };
        output::line(&format!(
            "copied {entries} ({}) to {to}",
            output::bytes(bytes)
        ))?;
    }
    if left_out > 0 {
        let _ = writeln!(
            io::stderr(),
            "left out: {left_out} of devices, named pipes, sockets and folders of the kernel's"
        );
    }
    Ok(0)
}

/// What there is to say of a path.
fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_that_has_the_reason_says_it() {
        let end = |failed: Option<&str>| {
            Some(CopyEnd {
                failed: failed.map(str::to_owned),
                ..CopyEnd::default()
            })
        };
        let broken = || Err(CopyError::Write(io::ErrorKind::BrokenPipe.into()));
        let full = || Err(CopyError::Write(io::ErrorKind::StorageFull.into()));
        let why = |ends: Ends| match judge("copy", ends) {
            Err(Error::Failed { source, .. }) => Some(source.to_string()),
            _ => None,
        };
        let said = Some("`/x`: no".to_owned());
        assert_eq!(why((Ok(Tally::default()), end(None))), None);
        assert_eq!(why((Ok(Tally::default()), end(Some("`/x`: no")))), said);
        assert_eq!(why((broken(), end(Some("`/x`: no")))), said);
        assert_eq!(why((Err(CopyError::Cut), end(Some("`/x`: no")))), said);
        assert_eq!(why((Err(CopyError::Cut), None)), Some(GONE.to_owned()));
        assert_eq!(why((Ok(Tally::default()), None)), Some(GONE.to_owned()));
        let here = why((full(), end(Some("broken pipe"))));
        assert!(here.is_some_and(|here| here.contains("send what is copied")));
    }
}
