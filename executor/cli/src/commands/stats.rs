//! What pods use, and what they have used over time ([`history`]).

mod history;

use crate::{args, client::Client, error::Error, output};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tank_proto::varlink::{Method, PodUsage, StatsReply, Usage};
use tokio::signal::unix::{SignalKind, signal};

/// How long a rate is measured for where it is shown once, and where it is shown again and again.
const ONCE: Duration = Duration::from_millis(500);
const EACH: Duration = Duration::from_secs(1);

pub async fn stats(client: &mut Client, asked: args::Stats, json: bool) -> Result<u8, Error> {
    if let Some(since) = asked.since {
        return history::show(client, asked, since, json).await;
    }
    let call = Method::Stats {
        pods: Some(asked.pods).filter(|pods| !pods.is_empty()),
        stack: asked.stack.map(|stack| stack.to_string()),
    };
    let once = json || asked.no_stream || !output::is_terminal();
    let mut before: StatsReply = client.call(call.clone()).await?;
    tokio::time::sleep(ONCE).await;
    let mut drawn = false;
    let mut interrupts = None;
    loop {
        let now: StatsReply = client.call(call.clone()).await?;
        let rates = Rates::between(&before, &now);
        if json {
            output::json(&with_rates(&now, &rates)?)?;
            return Ok(0);
        }
        let rows: Vec<Vec<String>> = now.pods.iter().flat_map(|pod| rates.rows(pod)).collect();
        if once {
            let width = match output::is_terminal() {
                true => output::width(),
                false => usize::MAX,
            };
            let lines = fitted(&HEADING, &rows, width);
            lines.iter().try_for_each(|text| output::line(text))?;
            return Ok(0);
        }
        output::screen(&fitted(&HEADING, &rows, output::width()), !drawn)?;
        (before, drawn) = (now, true);
        // Made once, so that what comes while a call is under way is not lost; a command that prints once ends as any.
        let interrupts = match &mut interrupts {
            Some(interrupts) => interrupts,
            none => none.insert(signal(SignalKind::interrupt()).map_err(Error::Print)?),
        };
        tokio::select! {
            () = tokio::time::sleep(EACH) => {}
            _ = interrupts.recv() => return Ok(0),
        }
    }
}

const HEADING: [&str; 10] = [
    "POD", "CPU", "MEMORY", "LIMIT", "PSI", "READ", "WRITE", "RX", "TX", "PIDS",
];

/// The fewest columns for a name.
const MIN_NAME: usize = 10;

/// The lines of a table that is no wider than this: names are cut.
fn fitted(heading: &[&str], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let first = heading.first().map_or(0, |name| name.len());
    let without = |row: &Vec<String>| [vec![String::new()], row[1..].to_vec()].concat();
    let others = rows.iter().map(without).collect::<Vec<_>>();
    let others = output::table_width(heading, &others).saturating_sub(first);
    let most = width.saturating_sub(others).max(MIN_NAME);
    let cut = |row: &Vec<String>| {
        let mut row = row.clone();
        if let Some(name) = row.first_mut()
            && name.chars().count() > most
        {
            *name = name.chars().take(most - 1).chain(['…']).collect();
        }
        row
    };
    output::table_lines(heading, &rows.iter().map(cut).collect::<Vec<_>>())
}

/// How much of a processor each pod and container has had, in tenths of a percent of one.
struct Rates(BTreeMap<(String, Option<String>), u64>);

impl Rates {
    fn between(before: &StatsReply, now: &StatsReply) -> Self {
        let (before_cpu, time) = (cpu(before), now.time.saturating_sub(before.time));
        let rate = |(key, after): ((String, Option<String>), u64)| {
            // What was made anew meanwhile counts from nothing.
            let used = after.checked_sub(*before_cpu.get(&key)?)?;
            Some((key, used.saturating_mul(1_000).checked_div(time)?))
        };
        Self(cpu(now).into_iter().filter_map(rate).collect())
    }

    fn of(&self, pod: &str, container: Option<&str>) -> Option<u64> {
        let key = (pod.to_owned(), container.map(str::to_owned));
        self.0.get(&key).copied()
    }

    /// A pod and its containers, each on a line; where it has one container, that and the pod are one.
    fn rows(&self, pod: &PodUsage) -> Vec<Vec<String>> {
        let none = Usage::default();
        let mut whole = pod.usage.clone().unwrap_or(none);
        if let [only] = pod.containers.as_slice() {
            whole.memory_limit = whole.memory_limit.or(only.usage.memory_limit);
        }
        let mut first = cells(&pod.pod, self.of(&pod.pod, None), &whole);
        let traffic = |bytes: Option<u64>| bytes.map_or_else(dash, short);
        first[7] = traffic(pod.traffic.as_ref().map(|traffic| traffic.received));
        first[8] = traffic(pod.traffic.as_ref().map(|traffic| traffic.sent));
        let mut rows = vec![first];
        if pod.containers.len() > 1 {
            rows.extend(pod.containers.iter().map(|container| {
                let rate = self.of(&pod.pod, Some(&container.name));
                let mut row = cells(&format!("  {}", container.name), rate, &container.usage);
                (row[7], row[8]) = (String::new(), String::new());
                row
            }));
        }
        rows
    }
}

fn cpu(reply: &StatsReply) -> BTreeMap<(String, Option<String>), u64> {
    let of = |pod: &PodUsage| {
        let own = pod.usage.as_ref().and_then(|usage| usage.cpu);
        let own = own.map(|cpu| ((pod.pod.clone(), None), cpu));
        let containers = pod.containers.iter().filter_map(|container| {
            let key = (pod.pod.clone(), Some(container.name.clone()));
            Some((key, container.usage.cpu?))
        });
        own.into_iter().chain(containers).collect::<Vec<_>>()
    };
    reply.pods.iter().flat_map(of).collect()
}

fn dash() -> String {
    "-".to_owned()
}

fn cells(name: &str, rate: Option<u64>, usage: &Usage) -> Vec<String> {
    let bytes = |bytes: Option<u64>| bytes.map_or_else(dash, short);
    // As people know it from elsewhere: without what the kernel takes back first.
    let memory = usage
        .memory
        .map(|all| all.saturating_sub(usage.inactive.unwrap_or(0)));
    let pressure = usage
        .memory_pressure
        .map(|part| format!("{}.{}%", part / 100, part % 100 / 10));
    vec![
        name.to_owned(),
        rate.map_or_else(dash, |rate| format!("{}.{}%", rate / 10, rate % 10)),
        bytes(memory),
        bytes(usage.memory_limit),
        pressure.unwrap_or_else(dash),
        bytes(usage.read),
        bytes(usage.written),
        dash(),
        dash(),
        usage.pids.map_or_else(dash, |pids| pids.to_string()),
    ]
}

/// Bytes in five characters at most: `1023K`, `1.5G`.
fn short(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    if bytes < 1_000 {
        return format!("{bytes}B");
    }
    // In tenths of the unit.
    let (mut tenths, mut unit) = (bytes.saturating_mul(10) >> 10, 0);
    if bytes > u64::MAX / 10 {
        tenths = (bytes >> 10).saturating_mul(10);
    }
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths >>= 10;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or('E');
    match tenths < 100 {
        true => format!("{}.{}{unit}", tenths / 10, tenths % 10),
        false => format!("{}{unit}", tenths / 10),
    }
}

/// The reply, with `cpu_percent` of one processor in each `usage`.
fn with_rates(reply: &StatsReply, rates: &Rates) -> Result<Value, Error> {
    let mut value = serde_json::to_value(reply).map_err(Error::Json)?;
    let percent = |rate: Option<u64>| rate.map_or(Value::Null, |rate| json!(rate as f64 / 10.0));
    let pods = value.get_mut("pods").and_then(Value::as_array_mut);
    for (pod, value) in reply.pods.iter().zip(pods.into_iter().flatten()) {
        if pod.usage.is_some() {
            value["usage"]["cpu_percent"] = percent(rates.of(&pod.pod, None));
        }
        let own = value.get_mut("containers").and_then(Value::as_array_mut);
        for (container, value) in pod.containers.iter().zip(own.into_iter().flatten()) {
            let rate = rates.of(&pod.pod, Some(&container.name));
            value["usage"]["cpu_percent"] = percent(rate);
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_proto::varlink::{ContainerUsage, Traffic};

    fn usage(cpu: u64) -> Usage {
        Usage {
            cpu: Some(cpu),
            memory: Some(30 << 20),
            inactive: Some(6 << 20),
            memory_limit: Some(256 << 20),
            memory_pressure: Some(1_234),
            oom_kills: Some(0),
            read: Some(1_536),
            written: None,
            pids: Some(7),
            pids_limit: None,
        }
    }

    fn reply(time: u64, cpu: u64) -> StatsReply {
        let container = |name: &str, cpu| ContainerUsage {
            name: name.to_owned(),
            usage: usage(cpu),
        };
        let pod = |pod: &str, containers: Vec<ContainerUsage>| PodUsage {
            pod: pod.to_owned(),
            usage: Some(Usage {
                memory_limit: None,
                ..usage(cpu)
            }),
            traffic: Some(Traffic {
                received: 123_456_789,
                sent: 999,
            }),
            containers,
        };
        StatsReply {
            time,
            pods: vec![
                PodUsage {
                    pod: "gone".to_owned(),
                    usage: None,
                    traffic: None,
                    containers: Vec::new(),
                },
                pod(
                    "shop:a-pod-with-a-name-that-is-long",
                    vec![container("app", cpu)],
                ),
                pod("web", vec![container("app", cpu), container("side", 0)]),
            ],
        }
    }

    #[test]
    fn a_table_fits_a_terminal_and_a_rate_is_of_one_processor() {
        let (before, now) = (reply(0, 1_000), reply(500_000, 601_000));
        let rates = Rates::between(&before, &now);
        let rows: Vec<_> = now.pods.iter().flat_map(|pod| rates.rows(pod)).collect();
        let lines = fitted(&HEADING, &rows, 80);
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{lines:#?}"
        );
        insta::assert_snapshot!("stats", lines.join("\n"));
        // One that began anew has no rate, and no time has none.
        let none = Rates::between(&now, &before);
        assert_eq!(none.of("web", None), None);
        assert_eq!(Rates::between(&now, &now).of("web", None), None);
        let value = with_rates(&now, &rates).expect("a value");
        assert_eq!(value["pods"][2]["usage"]["cpu_percent"], json!(120.0));
        assert_eq!(
            value["pods"][2]["containers"][1]["usage"]["cpu_percent"],
            json!(0.0)
        );
        assert_eq!(value["pods"][0]["usage"], Value::Null);
    }

    #[test]
    fn bytes_are_short() {
        let short = [
            0,
            999,
            1_000,
            1_536,
            10_240,
            1_023_999,
            1 << 20,
            5 << 30,
            u64::MAX,
        ]
        .map(short);
        let expected = [
            "0B", "999B", "0.9K", "1.5K", "10K", "999K", "1.0M", "5.0G", "15E",
        ];
        assert_eq!(short, expected);
    }
}
