//! The commands that change the desired state, and `diff`, which shows what they would do.

use super::{frames::drawn, source::Source};
use crate::{
    args::{ChangeArgs, Configuration},
    client::Client,
    error::Error,
    output,
    progress::ProgressView,
    status,
    timings::{Timings, picture},
};
use std::path::{Path, PathBuf};
use tank_proto::varlink::{
    Change, ChangeKind, DiffCall, DiffReply, Method, Outcome, Stage, SwitchCall, SwitchReply,
};

/// What happens to pods that the configuration does not name, and to those of other sources.
#[derive(Clone, Copy)]
pub struct How {
    pub merge: bool,
    pub replace: bool,
}

/// What of a diff is shown, and where.
pub struct Show {
    pub exit_code: bool,
    /// Where what the plan was made from is written; `-` is stdout, and nothing else is shown.
    pub observed: Option<PathBuf>,
    pub json: bool,
}

pub async fn diff(
    client: &mut Client,
    declared: Option<Source>,
    how: How,
    show: &Show,
) -> Result<u8, Error> {
    let mut call = DiffCall {
        merge: how.merge.then_some(true),
        replace: how.replace.then_some(true),
        dump: show.observed.is_some().then_some(true),
        ..DiffCall::default()
    };
    let of_a_file = declared.is_some();
    let mut lines = String::new();
    if let Some(declared) = declared {
        lines.clone_from(&declared.provenance);
        call = DiffCall {
            config: Some(declared.canonical),
            base_dir: declared.base_dir.map(|dir| dir.display().to_string()),
            files: Some(declared.files),
            provenance: Some(declared.provenance),
            stacks: declared.stacks,
            ..call
        };
    }
    let reply = look(client, call).await;
    let mut reply = reply.map_err(|error| drawn(error, &lines))?;
    let dump = reply.dump.take().unwrap_or_default();
    let to_stdout = show.observed.as_deref() == Some(Path::new("-"));
    match &show.observed {
        Some(_) if to_stdout => output::whole(&dump)?,
        Some(path) => write_private(path, &dump).map_err(|error| Error::Failed {
            what: format!("write {}", path.display()),
            source: error.into(),
        })?,
        None => {}
    }
    let differs = differs(&reply);
    match show.json {
        _ if to_stdout => {}
        true => output::json(&reply)?,
        false => print_diff(&reply, of_a_file)?,
    }
    Ok(if show.exit_code && differs {
        status::DIFFERS
    } else {
        status::DONE
    })
}

fn differs(reply: &DiffReply) -> bool {
    !reply.steps.is_empty() || !reply.changes.is_empty() || !reply.waiting.is_empty()
}

/// Asks what a switch would do, and shows how far the layers are that are fetched for that.
async fn look(client: &mut Client, call: DiffCall) -> Result<DiffReply, Error> {
    let mut view = ProgressView::new();
    let method = view.asking_for_layers(Method::Diff(call));
    let more = matches!(&method, Method::Diff(call) if call.layers.is_some());
    client.send(method, Vec::new(), more).await?;
    loop {
        let received = client.receive::<DiffReply>().await;
        let (reply, _, more) = received.inspect_err(|_| view.finish())?;
        match reply.progress.as_ref().filter(|_| more) {
            Some(progress) => view.show(progress),
            None => {
                view.finish();
                return Ok(reply);
            }
        }
    }
}

/// Writes a file that only its owner reads: it has the values of variables.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::{
        io::Write,
        os::unix::fs::{OpenOptionsExt, PermissionsExt},
    };
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    // One that was there keeps its mode.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

/// What a switch would do is asked with the file: without one, the host is compared with what it has.
const OF_A_FILE: &str = "the host is as its generation says; `tank diff pods.ncl` shows what a switch to that file would do\n";

/// Shows what would be done.
pub fn print_diff(reply: &DiffReply, of_a_file: bool) -> Result<(), Error> {
    for stopped in reply.by_hand.iter().flatten() {
        output::line(&format!("by hand  {stopped}"))?;
    }
    if !differs(reply) {
        output::line("nothing to do")?;
        if !of_a_file && Path::new("pods.ncl").exists() {
            output::error(OF_A_FILE);
        }
        return Ok(());
    }
    for change in &reply.changes {
        output::line(&change_line(change))?;
    }
    if !reply.steps.is_empty() {
        output::line("")?;
        let row = |step: &tank_proto::varlink::Step| {
            let drift = if step.drift { "drift: " } else { "" };
            vec![
                step.class.as_str().replace('_', " "),
                step.text.clone(),
                format!("{drift}{}", step.why),
            ]
        };
        output::table_of_sentences(
            &["CLASS", "STEP", "WHY"],
            &reply.steps.iter().map(row).collect::<Vec<_>>(),
        )?;
    }
    for waiting in &reply.waiting {
        output::line(&format!("later  {waiting}"))?;
    }
    for note in reply.notes.iter().flatten() {
        output::sentence(&format!("note   {note}"), 7)?;
    }
    if reply.plan.is_empty() {
        return Ok(());
    }
    output::line("")?;
    output::line(&format!("plan {}", reply.plan))
}

pub fn change_line(change: &Change) -> String {
    let sign = match change.change {
        ChangeKind::Added => "+",
        ChangeKind::Removed => "-",
        ChangeKind::Modified => "~",
    };
    let Some(field) = &change.field else {
        return format!("{sign} {}", change.what);
    };
    let is_policy = matches!(field.as_str(), "allow_from" | "egress");
    let side = |value: &Option<String>| match value {
        None => "(none)".to_owned(),
        // As it is written: a text is quoted, and what is none is not.
        Some(value) if is_policy || value.starts_with(['[', '{']) => value.clone(),
        Some(value) => format!("{value:?}"),
    };
    format!(
        "{sign} {}  {field}: {} → {}",
        change.what,
        side(&change.before),
        side(&change.after)
    )
}

pub async fn switch(
    socket: &Path,
    asked: &Configuration,
    change: &ChangeArgs,
    plan: Option<String>,
    how: How,
    json: bool,
) -> Result<u8, Error> {
    let mut timings = Timings::default();
    let declared = timings.of("compile the configuration", || {
        super::config::compile(asked)
    })?;
    let begin = tank_sys::trace::now();
    let mut client = Client::connect(socket).await?;
    timings.end("connect to tankd", begin);
    let verb = if how.merge { "apply" } else { "switch" };
    let lines = declared.provenance.clone();
    let call = SwitchCall {
        config: declared.canonical,
        base_dir: declared.base_dir.map(|dir| dir.display().to_string()),
        source: format!("{verb} {}", declared.words),
        merge: Some(how.merge),
        rollback: Some(!change.no_rollback),
        wait: change.timeout.map(|timeout| timeout.0),
        plan,
        provenance: Some(declared.provenance),
        timings: change.timings.then_some(true),
        files: Some(declared.files),
        replace: how.replace.then_some(true),
        parent: None,
        stacks: declared.stacks,
        layers: None,
    };
    let about = (declared.stack, timings);
    let switched = follow(&mut client, Method::Switch(call), about, json).await;
    switched.map_err(|error| drawn(error, &lines))
}

/// The command that takes a change back: of one stack, where it was one's.
fn undo(stack: Option<&str>) -> String {
    match stack {
        Some(stack) => format!("tank generations rollback --stack {stack}"),
        None => "tank generations rollback".to_owned(),
    }
}

/// Sends a change to the daemon, shows its progress, and prints its outcome. `stack` is the one that
/// it is about.
pub async fn follow(
    client: &mut Client,
    method: Method,
    (stack, mut timings): (Option<String>, Timings),
    json: bool,
) -> Result<u8, Error> {
    let undo = undo(stack.as_deref());
    // Without it what the images of that generation wrote would stay under the others.
    let undo = match &method {
        Method::Rollback {
            with_data: Some(true),
            ..
        } => format!("{undo} --with-data"),
        _ => undo,
    };
    let mut view = ProgressView::new();
    let begin = tank_sys::trace::now();
    let gated = matches!(method, Method::Switch(_));
    let method = view.asking_for_layers(method);
    client.send(method, Vec::new(), true).await?;
    let mut committed = None;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut outcome = loop {
        let received = tokio::select! {
            received = client.receive::<SwitchReply>() => received,
            _ = &mut interrupt => {
                view.finish();
                return Err(Error::Interrupted { committed, undo });
            }
        };
        let (reply, _, more) = received.inspect_err(|_| view.finish())?;
        if let Some(progress) = &reply.progress {
            if progress.stage == Stage::Commit {
                committed = Some(progress.message.clone());
            }
            view.show(progress);
        }
        if !more {
            break reply
                .outcome
                .ok_or(Error::Answer("tankd does not say how it ended"))?;
        }
    };
    view.finish();
    timings.end("ask tankd", begin);
    outcome.timings = outcome.timings.map(|spans| timings.merge(spans));
    if let Some(spans) = outcome.timings.as_ref().filter(|_| !json) {
        output::error(&picture(spans));
    }
    ended(outcome, &undo, gated, json)
}

/// Says how a change has ended. `gated`: it was put back where it did not become healthy.
pub fn ended(outcome: Outcome, undo: &str, gated: bool, json: bool) -> Result<u8, Error> {
    if json {
        output::json(&outcome)?;
    } else if outcome.failure.is_none() {
        output::line(&done(&outcome, undo))?;
    }
    if !json {
        let warnings = outcome.unmet.iter().flatten();
        warnings.for_each(|unmet| output::error(&format!("warning: {unmet}\n")));
        let notes = outcome.notes.iter().flatten();
        notes.for_each(|note| output::error(&output::for_error(&format!("note: {note}\n"), 2)));
    }
    match outcome.failure.clone() {
        None => Ok(0),
        Some(failure) => Err(Error::Change {
            outcome: Box::new(outcome),
            failure,
            gated,
            undo: undo.to_owned(),
        }),
    }
}

fn done(outcome: &Outcome, undo: &str) -> String {
    if let Some(steps) = outcome.repaired.as_ref().filter(|steps| !steps.is_empty()) {
        format!(
            "repaired generation {} ({}): {}",
            outcome.generation,
            output::short(&outcome.root),
            steps.join(", ")
        )
    } else if outcome.changed {
        let undo = match outcome.generation {
            0 | 1 => String::new(),
            _ => format!("; undo with `{undo}`"),
        };
        format!(
            "generation {} ({}){undo}",
            outcome.generation,
            output::short(&outcome.root)
        )
    } else {
        format!(
            "nothing changed: generation {} ({})",
            outcome.generation,
            output::short(&outcome.root)
        )
    }
}
