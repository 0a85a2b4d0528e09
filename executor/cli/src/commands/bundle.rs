//! `generations export|import`: a generation with its images, as one file.

use super::{change, transfer};
use crate::{args::Import, client::Client, error::Error, output, progress::ProgressView};
use std::path::Path;
use tank_proto::varlink::{
    Bundle, DiffReply, ExportGenerationReply, ImportGenerationCall, ImportGenerationReply, Method,
    Outcome, Stage,
};

/// How a change is taken back.
const UNDO: &str = "tank generations rollback";

/// Writes a generation into a file that must not exist, or to standard output.
pub async fn export(
    client: &mut Client,
    number: u64,
    file: Option<&Path>,
    json: bool,
) -> Result<u8, Error> {
    let target = transfer::target(file)?;
    let number = Some(number);
    let call = Method::ExportGeneration { number };
    client.send(call, Vec::new(), true).await?;
    let (_, mut fds, _) = client.receive::<ExportGenerationReply>().await?;
    let pipe = fds.pop().ok_or(Error::Answer("tankd sent no pipe"))?;
    let last = async {
        let (reply, ..) = client.receive::<ExportGenerationReply>().await?;
        let nothing = Error::Answer("tankd does not say what it wrote");
        reply.bundle.ok_or(nothing)
    };
    let (bundle, place) = transfer::write(pipe, target, last).await?;
    match (&place, json) {
        (Some(_), true) => output::json(&bundle)?,
        (Some(place), false) => {
            let Bundle {
                root, generation, ..
            } = &bundle;
            let (has, place) = (has(&bundle), place.display());
            output::line(&format!(
                "wrote generation {generation} ({has}) to {place}\nroot {root}"
            ))?;
        }
        // Standard output has the archive.
        (None, _) => output::error(&format!("root {}\n", bundle.root)),
    }
    say_needs(&bundle);
    Ok(0)
}

fn has(bundle: &Bundle) -> String {
    let count = |count: u64, one: &str| match count {
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    };
    let images = count(bundle.images, "image");
    format!("{images}, {}", count(bundle.layers, "layer"))
}

/// What is not in it, and has to be there.
fn say_needs(bundle: &Bundle) {
    if bundle.needs.is_empty() {
        return;
    }
    output::error("not in it, and needed where it runs:\n");
    for need in &bundle.needs {
        output::error(&format!("  {need}\n"));
    }
}

/// Makes a bundle the next generation, or says what that would do.
pub async fn import(client: &mut Client, asked: &Import, json: bool) -> Result<u8, Error> {
    let source = transfer::open(Some(&asked.file))?;
    let name = match asked.file.file_name() {
        Some(name) if asked.file != Path::new("-") => name.to_string_lossy().into_owned(),
        _ => "a bundle".to_owned(),
    };
    let call = ImportGenerationCall {
        source: name,
        root: asked.root.clone(),
        replace: asked.replace.then_some(true),
        dry_run: asked.dry_run.then_some(true),
        wait: asked.timeout.map(|timeout| timeout.0),
        rollback: asked.no_rollback.then_some(false),
    };
    let call = Method::ImportGeneration(call);
    client.send(call, Vec::new(), true).await?;
    let (_, mut fds, _) = client.receive::<ImportGenerationReply>().await?;
    let pipe = fds.pop().ok_or(Error::Answer("tankd sent no pipe"))?;
    let came = async { Ok(client.receive::<ImportGenerationReply>().await?.0) };
    let came = transfer::read(source, pipe, came).await?;
    let bundle = came.bundle;
    let bundle = bundle.ok_or(Error::Answer("tankd does not say what came"))?;
    if !json {
        output::error(&format!(
            "generation {} of another host, root {}: {}, all of it verified\n",
            bundle.generation,
            bundle.root,
            has(&bundle)
        ));
    }
    if asked.dry_run {
        let (reply, ..) = client.receive::<ImportGenerationReply>().await?;
        return show(&bundle, reply, json);
    }
    let outcome = follow(client).await?;
    change::ended(outcome, UNDO, true, json)
}

/// Shows what an import would do.
fn show(bundle: &Bundle, mut reply: ImportGenerationReply, json: bool) -> Result<u8, Error> {
    if json {
        reply.bundle = Some(bundle.clone());
        output::json(&reply)?;
        return Ok(0);
    }
    let diff = DiffReply {
        progress: None,
        changes: reply.changes.unwrap_or_default(),
        steps: reply.steps.unwrap_or_default(),
        waiting: reply.waiting.unwrap_or_default(),
        plan: String::new(),
        parent: None,
        by_hand: None,
        dump: None,
        notes: None,
    };
    say_needs(bundle);
    change::print_diff(&diff, true)?;
    Ok(0)
}

/// Shows the progress of a change until it has ended.
async fn follow(client: &mut Client) -> Result<Outcome, Error> {
    let mut view = ProgressView::new();
    let mut committed = None;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let received = tokio::select! {
            received = client.receive::<ImportGenerationReply>() => received,
            _ = &mut interrupt => {
                view.finish();
                return Err(Error::Interrupted { committed, undo: UNDO.to_owned() });
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
            view.finish();
            let nothing = Error::Answer("tankd does not say how it ended");
            return reply.outcome.ok_or(nothing);
        }
    }
}
