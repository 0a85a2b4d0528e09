//! `generations rollback --dry-run`: what going back would do.

use super::change::print_diff;
use crate::{client::Client, error::Error, output, status};
use tank_proto::varlink::{DiffReply, DiffRollbackReply, Method};

/// Shows what a rollback would do; `call` is the question.
pub async fn diff(
    client: &mut Client,
    call: Method,
    exit_code: bool,
    json: bool,
) -> Result<u8, Error> {
    let reply: DiffRollbackReply = client.call(call).await?;
    let differs = !reply.data.is_empty()
        || !reply.steps.is_empty()
        || !reply.changes.is_empty()
        || !reply.waiting.is_empty();
    if json {
        output::json(&reply)?;
    } else {
        for note in &reply.notes {
            output::line(note)?;
        }
        for back in &reply.data {
            let when = back.time.map(|time| format!(", {}", output::ago(time)));
            output::line(&format!(
                "data   {}: as generation {} left it{}",
                back.volume,
                back.generation,
                when.unwrap_or_default()
            ))?;
        }
        let shown = DiffReply {
            changes: reply.changes,
            steps: reply.steps,
            waiting: reply.waiting,
            // A rollback is not carried out by the name of a plan.
            plan: String::new(),
            parent: reply.parent,
            by_hand: None,
            dump: None,
            notes: None,
            progress: None,
        };
        print_diff(&shown, true)?;
    }
    Ok(if exit_code && differs {
        status::DIFFERS
    } else {
        status::DONE
    })
}
