//! The commands that keep a host in order: generations deleted and pinned, `gc`, `fsck`.

use crate::{client::Client, error::Error, output, status};
use tank_proto::varlink::{
    CheckStoreReply, CollectReply, Collected, Damage, DeleteGenerationsReply, Method,
    PinGenerationReply, StoreReport, SweptSnapshot,
};

/// The most numbers of generations on a line.
const MAX_NUMBERS: usize = 12;

pub async fn delete(client: &mut Client, numbers: Vec<u64>, json: bool) -> Result<u8, Error> {
    let call = Method::DeleteGenerations { numbers };
    let reply: DeleteGenerationsReply = client.call(call).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let numbers = named_generations(&reply.collected.generations);
    output::line(&format!(
        "deleted {numbers}; `tank gc` removes the images that only they needed"
    ))?;
    let kinds = reply.collected.kinds.iter();
    for kind in kinds.filter(|kind| kind.kind == "snapshots" && kind.count > 0) {
        let snapshots = output::counted(kind.count, "snapshot", "snapshots");
        output::line(&format!(
            "{snapshots} of volumes went with them: of their bytes, those that no volume shares"
        ))?;
        for line in snapshot_lines(&reply.collected) {
            output::line(&line)?;
        }
    }
    for left in &reply.collected.left {
        output::error(&format!("left: {left}\n"));
    }
    Ok(0)
}

pub async fn pin(client: &mut Client, number: u64, pinned: bool, json: bool) -> Result<u8, Error> {
    let call = Method::PinGeneration { number, pinned };
    let reply: PinGenerationReply = client.call(call).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let generation = &reply.generation;
    let (number, source) = (generation.number, &generation.source);
    output::line(&match generation.pinned {
        Some(true) => format!(
            "generation {number} ({source}) is never deleted; undo with `tank generations unpin {number}`"
        ),
        _ => format!("generation {number} ({source}) may be deleted"),
    })?;
    Ok(0)
}

pub async fn collect(
    client: &mut Client,
    dry_run: bool,
    (keep, older_than): (Option<u64>, Option<u64>),
    json: bool,
) -> Result<u8, Error> {
    let call = Method::Collect {
        dry_run: dry_run.then_some(true),
        keep,
        older_than,
    };
    let reply: CollectReply = client.call(call).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    for line in collected_lines(&reply.collected, dry_run) {
        output::line(&line)?;
    }
    for left in &reply.collected.left {
        output::error(&format!("left: {left}\n"));
    }
    Ok(0)
}

fn collected_lines(collected: &Collected, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let verb = if dry_run { "would remove" } else { "removed" };
    if !collected.generations.is_empty() {
        let numbers = named_generations(&collected.generations);
        lines.push(format!("{verb} {numbers}"));
    }
    for kind in collected.kinds.iter().filter(|kind| kind.count > 0) {
        if kind.kind == "snapshots" {
            let count = kind.count;
            let snapshots = output::counted(count, "snapshot", "snapshots");
            lines.push(format!(
                "{verb} {snapshots} of volumes: of their bytes, those that no volume shares"
            ));
            lines.extend(snapshot_lines(collected));
            continue;
        }
        let (one, many) = match kind.kind.as_str() {
            "nodes" => ("node of graphs", "nodes of graphs"),
            "documents" => ("document of images", "documents of images"),
            "layers" => ("layer of images", "layers of images"),
            "logs" => ("pod's logs", "pods' logs"),
            "scratch" => ("pod's scratch folder", "pods' scratch folders"),
            "figures" => ("pod's figures over time", "pods' figures over time"),
            other => (other, other),
        };
        let (what, size) = (
            output::counted(kind.count, one, many),
            output::bytes(kind.bytes),
        );
        lines.push(format!("{verb} {what}: {size}"));
    }
    if !collected.leases.is_empty() {
        let verb = if dry_run { "would release" } else { "released" };
        let leases = collected.leases.join(", ");
        lines.push(format!("{verb} the addresses of {leases}"));
    }
    if lines.is_empty() {
        lines.push("nothing to collect".to_owned());
    } else {
        let all = collected.kinds.iter().map(|kind| kind.bytes).sum();
        let verb = if dry_run { "would free" } else { "freed" };
        lines.push(format!("{verb} {}", output::bytes(all)));
    }
    lines
}

/// The most snapshots that are named.
const MAX_SNAPSHOTS: usize = 20;

/// Which snapshots of volumes go, each with what it takes where that is known.
fn snapshot_lines(collected: &Collected) -> Vec<String> {
    let all = collected.snapshots.as_deref().unwrap_or_default();
    let line = |one: &SweptSnapshot| {
        let least = if one.at_least { "more than " } else { "" };
        let bytes = one
            .bytes
            .map(|bytes| format!(" ({least}{})", output::bytes(bytes)));
        format!(
            "  {} as generation {} left it{}",
            one.volume,
            one.generation,
            bytes.unwrap_or_default()
        )
    };
    let mut lines: Vec<String> = all.iter().take(MAX_SNAPSHOTS).map(line).collect();
    if all.len() > MAX_SNAPSHOTS {
        lines.push(format!(
            "  and {} more: `--json` names them",
            all.len() - MAX_SNAPSHOTS
        ));
    }
    lines
}

/// `generation 3`, `generations 3-7`.
fn named_generations(numbers: &[u64]) -> String {
    let what = if numbers.len() == 1 {
        "generation"
    } else {
        "generations"
    };
    format!("{what} {}", list_of(numbers))
}

/// Numbers in order, runs of them as `3-7`.
fn list_of(numbers: &[u64]) -> String {
    let runs = output::runs(numbers);
    let more = match runs.len() > MAX_NUMBERS {
        true => format!(" and more: {} in all", numbers.len()),
        false => String::new(),
    };
    let named: Vec<String> = runs.into_iter().take(MAX_NUMBERS).collect();
    format!("{}{more}", named.join(", "))
}

pub async fn fsck(client: &mut Client, repair: bool, json: bool) -> Result<u8, Error> {
    let call = Method::CheckStore {
        repair: repair.then_some(true),
    };
    client.send(call, Vec::new(), true).await?;
    let report = loop {
        let (reply, _, more) = client.receive::<CheckStoreReply>().await?;
        if let Some(progress) = &reply.progress {
            let pulls = progress.stage == tank_proto::varlink::Stage::Pull;
            let verb = if pulls { "pull " } else { "" };
            output::error(&format!("{verb}{}\n", progress.message));
        }
        if !more {
            break reply
                .report
                .ok_or(Error::Answer("tankd does not say what it found"))?;
        }
    };
    let is_damaged = report.damages.iter().any(|damage| !damage.repaired);
    match json {
        true => output::json(&report)?,
        false => report_lines(&report)
            .iter()
            .try_for_each(|line| output::line(line))?,
    }
    // What is damaged still.
    Ok(if is_damaged {
        status::FAILED
    } else {
        status::DONE
    })
}

fn report_lines(report: &StoreReport) -> Vec<String> {
    let StoreReport {
        generations,
        nodes,
        leases,
        documents,
        layers,
        bytes,
        ..
    } = report;
    let mut lines: Vec<String> = report.damages.iter().flat_map(damage_lines).collect();
    for unverified in &report.unverified {
        lines.push(format!(
            "unverified: {unverified}: no digest of its file was kept when it was made"
        ));
    }
    for container in &report.restart {
        lines.push(format!(
            "{container} runs from the file that was damaged until it is started again"
        ));
    }
    let damaged = report.damages.iter().filter(|one| !one.repaired).count();
    let how = match damaged {
        0 => "all of it is good".to_owned(),
        1 => "1 of it is damaged".to_owned(),
        more => format!("{more} of it are damaged"),
    };
    lines.push(format!(
        "read {}, {}, {}, {} and {} ({}): {how}",
        output::counted(*generations, "generation", "generations"),
        output::counted(*nodes, "node", "nodes"),
        output::counted(*leases, "lease", "leases"),
        output::counted(*documents, "document", "documents"),
        output::counted(*layers, "layer", "layers"),
        output::bytes(*bytes)
    ));
    lines
}

fn damage_lines(damage: &Damage) -> Vec<String> {
    let state = if damage.repaired {
        "repaired"
    } else {
        "damaged"
    };
    let mut lines = vec![format!("{state}: {}: {}", damage.what, damage.why)];
    let users = [
        ("images", damage.images.join(", ")),
        ("generations", list_of(&damage.generations)),
        ("pods", damage.pods.join(", ")),
    ];
    for (what, list) in users.into_iter().filter(|(_, list)| !list.is_empty()) {
        lines.push(format!("  {what}: {list}"));
    }
    lines.extend(damage.help.iter().map(|help| format!("  help: {help}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_proto::varlink::Leftover;

    #[test]
    fn numbers_are_listed_as_runs() {
        assert_eq!(list_of(&[]), "");
        assert_eq!(list_of(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
        let odd: Vec<u64> = (0..30).map(|i| 2 * i + 1).collect();
        assert_eq!(
            list_of(&odd),
            "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and more: 30 in all"
        );
    }

    #[test]
    fn what_went_is_said_by_kind() {
        let kind = |kind: &str, count, bytes| Leftover {
            kind: kind.to_owned(),
            count,
            bytes,
        };
        let mut collected = Collected {
            generations: vec![1, 2],
            kinds: vec![
                kind("nodes", 3, 300),
                kind("layers", 1, 2 << 20),
                kind("logs", 0, 0),
            ],
            snapshots: None,
            leases: vec!["web".to_owned()],
            left: Vec::new(),
        };
        assert_eq!(
            collected_lines(&collected, true),
            [
                "would remove generations 1-2",
                "would remove 3 nodes of graphs: 300 B",
                "would remove 1 layer of images: 2.0 MiB",
                "would release the addresses of web",
                "would free 2.0 MiB"
            ]
        );
        collected.generations.clear();
        collected.kinds.clear();
        collected.leases.clear();
        assert_eq!(collected_lines(&collected, false), ["nothing to collect"]);
    }
    #[test]
    fn snapshots_are_named_with_what_they_take() {
        let one = |volume: &str, bytes| SweptSnapshot {
            generation: 3,
            volume: volume.to_owned(),
            bytes,
            at_least: false,
        };
        let collected = Collected {
            generations: vec![3],
            kinds: vec![Leftover {
                kind: "snapshots".to_owned(),
                count: 2,
                bytes: 0,
            }],
            snapshots: Some(vec![one("db/data", Some(3 << 20)), one("web/up", None)]),
            leases: Vec::new(),
            left: Vec::new(),
        };
        let lines = collected_lines(&collected, true);
        assert_eq!(
            lines.get(2..4),
            Some(
                &[
                    "  db/data as generation 3 left it (3.0 MiB)".to_owned(),
                    "  web/up as generation 3 left it".to_owned()
                ][..]
            )
        );
        let many = Collected {
            snapshots: Some(vec![one("db/data", None); MAX_SNAPSHOTS + 2]),
            ..collected
        };
        let last = snapshot_lines(&many).pop().expect("a line");
        assert_eq!(last, "  and 2 more: `--json` names them");
    }
}
