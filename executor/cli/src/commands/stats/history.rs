//! What pods have used since a time: a line for each pod and container, and on a terminal the way it went.

use super::{MIN_NAME, dash, fitted, short};
use crate::{args, client::Client, error::Error, output};
use tank_proto::varlink::{Method, PodHistory, UsageHistoryReply, UsagePoint};

const HEADING: [&str; 10] = [
    "POD", "CPU", "MOST", "MEMORY", "MOST", "READ", "WRITE", "RX", "TX", "PIDS",
];

/// How high a column of what went up and down is.
const COLUMNS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub async fn show(
    client: &mut Client,
    asked: args::Stats,
    since: u64,
    json: bool,
) -> Result<u8, Error> {
    let call = Method::UsageHistory {
        pods: Some(asked.pods).filter(|pods| !pods.is_empty()),
        stack: asked.stack.map(|stack| stack.to_string()),
        since,
    };
    let reply: UsageHistoryReply = client.call(call).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let terminal = output::is_terminal().then(output::width);
    for line in lines(&reply, terminal) {
        output::line(&line)?;
    }
    Ok(0)
}

/// What is shown: with what went up and down where it is for a terminal of so many columns.
fn lines(reply: &UsageHistoryReply, terminal: Option<usize>) -> Vec<String> {
    let series: Vec<(String, &[UsagePoint])> = reply.pods.iter().flat_map(series).collect();
    let rows: Vec<Vec<String>> = series
        .iter()
        .map(|(name, points)| row(name, points))
        .collect();
    let mut table = fitted(&HEADING, &rows, terminal.unwrap_or(usize::MAX)).into_iter();
    let Some(width) = terminal else {
        return table.collect();
    };
    let mut lines: Vec<String> = table.next().into_iter().collect();
    for (line, (_, points)) in table.zip(&series) {
        lines.push(line);
        lines.extend(ways(points, (reply.since, reply.until, reply.step), width));
    }
    lines
}

/// A pod and its containers, by the names they are shown by.
fn series(pod: &PodHistory) -> Vec<(String, &[UsagePoint])> {
    let containers = pod.containers.iter();
    let containers = containers.map(|one| (format!("  {}", one.name), one.points.as_slice()));
    let own = (pod.pod.clone(), pod.points.as_slice());
    std::iter::once(own).chain(containers).collect()
}

fn row(name: &str, points: &[UsagePoint]) -> Vec<String> {
    let bytes = |bytes: Option<u64>| bytes.map_or_else(dash, short);
    let most = |of: fn(&UsagePoint) -> Option<u64>| points.iter().filter_map(of).max();
    let sum = |of: fn(&UsagePoint) -> Option<u64>| {
        let all = points.iter().filter_map(of);
        all.reduce(u64::saturating_add)
    };
    let percent = |tenths: Option<u64>| {
        tenths.map_or_else(dash, |tenths| format!("{}.{}%", tenths / 10, tenths % 10))
    };
    let memory: Vec<u64> = points.iter().filter_map(|point| point.memory).collect();
    let of_all = memory.iter().copied().reduce(u64::saturating_add);
    let mean = of_all.and_then(|all| all.checked_div(memory.len() as u64));
    vec![
        name.to_owned(),
        percent(mean_rate(points)),
        percent(points.iter().filter_map(rate).max()),
        bytes(mean),
        bytes(memory.iter().copied().max()),
        bytes(sum(|point| point.read)),
        bytes(sum(|point| point.written)),
        bytes(sum(|point| point.received)),
        bytes(sum(|point| point.sent)),
        most(|point| point.pids).map_or_else(dash, |pids| pids.to_string()),
    ]
}

/// How much of a processor it had, in tenths of a percent of one.
fn rate(point: &UsagePoint) -> Option<u64> {
    point.cpu?.checked_div(point.span?)
}

/// Of all the time that is known.
fn mean_rate(points: &[UsagePoint]) -> Option<u64> {
    let known = points
        .iter()
        .filter_map(|point| Some((point.cpu?, point.span?)));
    let add = |one: (u64, u64), other: (u64, u64)| {
        (one.0.saturating_add(other.0), one.1.saturating_add(other.1))
    };
    let (used, span) = known.reduce(add)?;
    used.checked_div(span)
}

/// Two lines, of processors and of memory, that go from the begin of what was asked for to now. What is not known is empty.
fn ways(points: &[UsagePoint], time: (u64, u64, u64), width: usize) -> Vec<String> {
    let of = [
        (
            "cpu",
            points
                .iter()
                .map(|one| (one.time, rate(one)))
                .collect::<Vec<_>>(),
        ),
        (
            "memory",
            points.iter().map(|one| (one.time, one.memory)).collect(),
        ),
    ];
    let most = width.saturating_sub(4 + MIN_NAME);
    let drawn = of.into_iter().filter_map(|(what, values)| {
        let way = way(&values, time, most)?;
        Some(format!("  {what:6}  {way}"))
    });
    drawn.collect()
}

/// The highest of each column, of no more columns than there are steps. None: there are not two values to go between.
fn way(
    values: &[(u64, Option<u64>)],
    (since, until, step): (u64, u64, u64),
    most: usize,
) -> Option<String> {
    let known: Vec<(u64, u64)> = values
        .iter()
        .filter_map(|(time, value)| Some((*time, (*value)?)))
        .collect();
    let top = known.iter().map(|(_, value)| *value).max()?;
    if known.len() < 2 {
        return None;
    }
    let length = until.saturating_sub(since).max(1);
    let count = length.div_ceil(step.max(1)).clamp(1, most.max(1) as u64);
    let mut columns: Vec<Option<u64>> = vec![None; count as usize];
    for (time, value) in known {
        let at = u128::from(time.saturating_sub(since)) * u128::from(count) / u128::from(length);
        let at = at.min(u128::from(count - 1)) as usize;
        if let Some(column) = columns.get_mut(at) {
            *column = (*column).max(Some(value));
        }
    }
    let high = COLUMNS.len() as u128 - 1;
    let drawn = columns.into_iter().map(|column| match column {
        None => ' ',
        Some(value) => {
            let height = u128::from(value) * high / u128::from(top.max(1));
            COLUMNS.get(height as usize).copied().unwrap_or(' ')
        }
    });
    let drawn: String = drawn.collect();
    Some(drawn.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_proto::varlink::ContainerHistory;

    const NOW: u64 = 1_800_000_000_000;
    const STEP: u64 = 30_000;

    fn point(step: u64, cpu: u64, memory: u64) -> UsagePoint {
        UsagePoint {
            time: NOW - 120 * STEP + step * STEP,
            span: Some(STEP),
            cpu: Some(cpu * STEP),
            memory: Some(memory << 20),
            read: None,
            written: Some(1 << 20),
            received: Some(1_000),
            sent: Some(0),
            pids: Some(step % 5),
        }
    }

    fn reply() -> UsageHistoryReply {
        let busy: Vec<UsagePoint> = (1..=120)
            .filter(|step| !(40..60).contains(step))
            .map(|step| point(step, step * step / 15, 64 + step))
            .collect();
        let still = |memory| (110..=120).map(|step| point(step, 0, memory)).collect();
        UsageHistoryReply {
            since: NOW - 120 * STEP,
            until: NOW,
            step: STEP,
            pods: vec![
                PodHistory {
                    pod: "absent".to_owned(),
                    points: Vec::new(),
                    containers: Vec::new(),
                },
                PodHistory {
                    pod: "shop:a-pod-with-a-name-that-is-long".to_owned(),
                    points: busy,
                    containers: Vec::new(),
                },
                PodHistory {
                    pod: "web".to_owned(),
                    points: still(70),
                    containers: vec![ContainerHistory {
                        name: "side".to_owned(),
                        points: vec![UsagePoint {
                            span: None,
                            cpu: None,
                            ..point(120, 0, 5)
                        }],
                    }],
                },
            ],
        }
    }

    #[test]
    fn a_history_fits_its_terminal() {
        for width in [40, 80, 200] {
            let shown = lines(&reply(), Some(width));
            if width >= 80 {
                let most = shown.iter().map(|line| line.chars().count()).max();
                assert!(most <= Some(width), "{shown:#?}");
            }
        }
        insta::assert_snapshot!("history", lines(&reply(), Some(80)).join("\n"));
        // A pipe gets the table, and whole names.
        insta::assert_snapshot!("history-piped", lines(&reply(), None).join("\n"));
    }

    #[test]
    fn a_way_shows_what_is_known() {
        let time = (NOW - 8 * STEP, NOW, STEP);
        let at = |step: u64| NOW - 8 * STEP + step * STEP;
        let values: Vec<(u64, Option<u64>)> = (0..=8)
            .map(|step| (at(step), (step != 3).then_some(step * 10)))
            .collect();
        assert_eq!(way(&values, time, 80).as_deref(), Some("▁▁▂ ▄▅▆█"));
        assert_eq!(way(&values, time, 2).as_deref(), Some("▂█"));
        assert_eq!(way(&values[..1], time, 80), None);
        assert_eq!(way(&[], time, 80), None);
        let none: Vec<(u64, Option<u64>)> = (0..8).map(|step| (at(step), Some(0))).collect();
        assert_eq!(way(&none, time, 80).as_deref(), Some("▁▁▁▁▁▁▁▁"));
        let huge = [
            (at(0), Some(u64::MAX)),
            (at(1), Some(1)),
            (u64::MAX, Some(0)),
        ];
        assert_eq!(way(&huge, time, 80).as_deref(), Some("█▁     ▁"));
        assert_eq!(way(&huge, (5, 5, 0), 0).as_deref(), Some("█"));
    }
}
