//! `disk-usage`: what takes the disk.

use crate::{client::Client, error::Error, output};
use std::time::Duration;
use tank_proto::varlink::{DiskPart, DiskUsageReply, Method};

const HEADING: [&str; 4] = ["WHAT", "COUNT", "SIZE", "GC FREES"];

pub async fn usage(client: &mut Client, json: bool) -> Result<u8, Error> {
    let reply: DiskUsageReply = client.call(Method::DiskUsage { advice: None }).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let (rows, notes) = rows(&reply);
    output::table(&HEADING, &rows)?;
    for note in notes {
        output::line(&note)?;
    }
    if reply.free < reply.total / FULL {
        for advice in advice(client).await {
            output::line(&advice)?;
        }
    }
    Ok(0)
}

/// Where a share of the disk is free that is less than one in so many, what would free some is said as well.
const FULL: u64 = 10;

/// The longest that is waited for what would free some of the disk.
const ADVICE: Duration = Duration::from_secs(30);

/// What would free some of the disk, as far as the daemon says that in time.
pub async fn advice(client: &mut Client) -> Vec<String> {
    let call = Method::DiskUsage { advice: Some(true) };
    let reply = tokio::time::timeout(ADVICE, client.call::<DiskUsageReply>(call)).await;
    match reply {
        Ok(Ok(reply)) => reply.advice.unwrap_or_default(),
        // Of an older daemon.
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// The rows of the table, and what is said below it.
fn rows(reply: &DiskUsageReply) -> (Vec<Vec<String>>, Vec<String>) {
    let shown = reply
        .parts
        .iter()
        .filter(|part| part.count > 0 || part.bytes.is_some());
    let mut rows: Vec<Vec<String>> = shown.clone().map(row).collect();
    let bytes = reply.parts.iter().filter_map(|part| part.bytes).sum();
    let freed = reply.parts.iter().map(|part| part.freed).sum();
    let at_least = reply.parts.iter().any(|part| part.at_least);
    rows.push(vec![
        "all".to_owned(),
        String::new(),
        amount(bytes, at_least),
        amount(freed, false),
    ]);
    let (free, total) = (output::bytes(reply.free), output::bytes(reply.total));
    let mut notes = vec![format!("of the disk, {free} of {total} are free")];
    if shown.clone().any(|part| part.bytes.is_none()) {
        notes.push(
            "what is kept beside volumes shares most bytes with them, and is in no sum".to_owned(),
        );
    }
    if freed > 0 {
        notes.push("`tank gc` frees it; `tank gc --dry-run` says what that is".to_owned());
    }
    (rows, notes)
}

fn row(part: &DiskPart) -> Vec<String> {
    let what = match part.kind.as_str() {
        "layers" => "layers of images",
        "documents" => "documents of images",
        "scratch" => "scratch layers of pods",
        "logs" => "logs of pods",
        "figures" => "figures of pods over time",
        "snapshots" => "snapshots of volumes",
        "replaced" => "volumes before an import",
        "trash" => "what is being removed",
        other => other,
    };
    let bytes = part.bytes.map(|bytes| amount(bytes, part.at_least));
    let freed = match part.freed {
        0 => "-".to_owned(),
        freed => amount(freed, false),
    };
    vec![
        what.to_owned(),
        part.count.to_string(),
        bytes.unwrap_or_else(|| "-".to_owned()),
        freed,
    ]
}

fn amount(bytes: u64, at_least: bool) -> String {
    let least = if at_least { ">" } else { "" };
    format!("{least}{}", output::bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: &str, count: u64, bytes: Option<u64>, freed: u64) -> DiskPart {
        DiskPart {
            kind: kind.to_owned(),
            count,
            bytes,
            at_least: kind == "volumes",
            freed,
        }
    }

    #[test]
    fn a_table_says_what_is_known_and_fits() {
        let reply = DiskUsageReply {
            parts: vec![
                part("layers", 12, Some(3 << 30), 1 << 20),
                part("volumes", 2, Some(5 << 20), 0),
                part("snapshots", 3, None, 0),
                part("replaced", 0, None, 0),
                part("trash", 1, Some(7 << 20), 0),
            ],
            total: 100 << 30,
            free: 40 << 30,
            advice: None,
        };
        let (rows, notes) = rows(&reply);
        let rows: Vec<String> = rows.iter().map(|row| row.join("|")).collect();
        assert_eq!(
            rows,
            [
                "layers of images|12|3.0 GiB|1.0 MiB",
                "volumes|2|>5.0 MiB|-",
                "snapshots of volumes|3|-|-",
                "what is being removed|1|7.0 MiB|-",
                "all||>3.0 GiB|1.0 MiB",
            ]
        );
        assert!(
            rows.iter()
                .chain(&notes)
                .all(|line| line.chars().count() <= 80)
        );
        assert_eq!(notes.len(), 3);
    }
}
