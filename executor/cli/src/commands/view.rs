//! The commands that read the daemon's state and change nothing.

use super::change::change_line;
use crate::{
    client::Client,
    error::Error,
    output::{self, ago, short},
};
use tank_compiler::{manual::default_of, schema::entries_around};
use tank_model::provenance;
use tank_proto::varlink::{
    ChangesReply, GenerationReply, GenerationsReply, GetReply, Method, Pod, PodInterface,
    PodStatus, State, StatusReply, WhyReply,
};

/// What a container does, in words.
pub fn container_state(container: &tank_proto::varlink::ContainerStatus) -> String {
    if let Some(uid) = container.run_by {
        return format!("run by hand, {}", tank_sys::users::named(uid));
    }
    match (container.state, container.status, container.stopped) {
        (State::Running, ..) if !container.ready => "running, not ready".to_owned(),
        (State::Failed, Some(status), _) => format!("failed ({status})"),
        (State::Stopped, _, Some(when)) => format!("stopped {}", ago(when)),
        (state, ..) => state.to_string(),
    }
}

pub async fn get(client: &mut Client, pod: String, json: bool) -> Result<u8, Error> {
    let reply: GetReply = client.call(Method::Get { pod }).await?;
    if json {
        let config: serde_json::Value = parse(&reply.config)?;
        output::json(&serde_json::json!({ "pod": reply.pod, "config": config }))?;
        return Ok(0);
    }
    print_pod(&reply.pod)?;
    print_config(&reply.config)?;
    Ok(0)
}

fn print_pod(pod: &Pod) -> Result<(), Error> {
    let reason = pod
        .reason
        .as_deref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    output::line(&format!("{}: {}{reason}", pod.name, pod.state))?;
    for address in addresses(pod) {
        output::line(&format!("  address    {address}"))?;
    }
    for policy in pod.policies.iter().flatten() {
        output::line(&format!("  policy     {policy}"))?;
    }
    for published in &pod.published {
        output::line(&format!("  published  {published}"))?;
    }
    for container in &pod.containers {
        let pid = container
            .pid
            .map(|pid| format!(", pid {pid}"))
            .unwrap_or_default();
        let by = container
            .stopped_by
            .map(|uid| format!(" by {}", tank_sys::users::named(uid)))
            .unwrap_or_default();
        let since = container
            .started
            .map(|started| format!(", started {}", ago(started)))
            .unwrap_or_default();
        output::line(&format!(
            "  container  {}: {}{by}{pid}{since}",
            container.name,
            container_state(container)
        ))?;
        let digest = container
            .digest
            .as_deref()
            .map(|digest| format!(" ({})", short(digest)))
            .unwrap_or_default();
        output::line(&format!("    image    {}{digest}", container.image))?;
    }
    Ok(())
}

/// The addresses of a pod, each with where it is; one of an older tankd, which does not say that, alone.
fn addresses(pod: &Pod) -> Vec<String> {
    let Some(interfaces) = &pod.interfaces else {
        return pod.addresses.clone();
    };
    let of = |interface: &PodInterface| {
        let name = &interface.name;
        let place = match (&interface.network, &interface.parent) {
            (Some(network), _) => format!("on the network {network} ({name})"),
            (None, Some(parent)) => format!("on {parent} of the host ({name})"),
            (None, None) => format!("({name})"),
        };
        let addresses = interface.addresses.iter();
        addresses
            .map(|address| format!("{address} {place}"))
            .collect::<Vec<_>>()
    };
    interfaces.iter().flat_map(of).collect()
}

fn parse(config: &str) -> Result<serde_json::Value, Error> {
    serde_json::from_str(config).map_err(Error::AnswerJson)
}

fn print_config(config: &str) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&parse(config)?).unwrap_or_default();
    output::line(&text)
}

pub async fn status(client: &mut Client, json: bool) -> Result<u8, Error> {
    let reply: StatusReply = client.call(Method::Status {}).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let generation = match (reply.generation, &reply.root) {
        (Some(number), Some(root)) => format!("{number} ({})", short(root)),
        _ => "none yet".to_owned(),
    };
    output::line(&format!(
        "tankd       {} (pid {})",
        reply.version, reply.pid
    ))?;
    output::line(&format!("kernel      {}", reply.kernel))?;
    output::line(&format!("generation  {generation}"))?;
    output::line(&format!(
        "pods        {} of {} running",
        reply.running, reply.pods
    ))?;
    if let Some(failing) = &reply.failing {
        output::sentence(&failing_line(failing), 12)?;
    }
    if let Some(stopped) = &reply.stopped {
        let stopped = stopped.join(", ");
        output::sentence(&format!("by hand     stopped: {stopped}"), 12)?;
    }
    if let Some(failed) = &reply.failed_backups {
        let failed = failed.join(", ");
        let failed = format!("backups     failed of {failed}: `tank volume backups` says why");
        output::sentence(&failed, 12)?;
    }
    if let Some(low) = &reply.low {
        output::sentence(&format!("disk        {low}"), 12)?;
        for advice in super::disk::advice(client).await {
            output::sentence(&format!("            {advice}"), 12)?;
        }
    }
    Ok(0)
}

/// How many of the pods that are not as they should be are named.
const MAX_FAILING: usize = 10;

/// The pods that are not as they should be, and what to type.
fn failing_line(failing: &[PodStatus]) -> String {
    let named = failing.iter().take(MAX_FAILING);
    let mut named: Vec<String> = named
        .map(|one| format!("{} ({})", one.pod, one.state))
        .collect();
    let more = failing.len() - named.len();
    named.extend((more > 0).then(|| format!("and {more} more")));
    let first = failing.first().map_or("POD", |one| one.pod.as_str());
    format!(
        "failing     {}: `tank explain {first}` says why",
        named.join(", ")
    )
}

pub async fn generations(client: &mut Client, json: bool) -> Result<u8, Error> {
    let reply: GenerationsReply = client.call(Method::Generations {}).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let mut heading = vec!["GENERATION", "ROOT", "OUTCOME", "WHEN", "SOURCE"];
    let has_snapshots = reply.generations.iter().any(|one| one.snapshots.is_some());
    heading.extend(has_snapshots.then_some("SNAPSHOTS"));
    let row = |generation: &tank_proto::varlink::Generation| {
        let snapshots = generation.snapshots.iter().flatten().cloned();
        let snapshots: Vec<String> = snapshots.collect();
        let snapshots = has_snapshots.then(|| snapshots.join(", "));
        let mut row = vec![
            format!(
                "{}{}{}",
                generation.number,
                if generation.current { " *" } else { "" },
                if generation.pinned == Some(true) {
                    " pinned"
                } else {
                    ""
                }
            ),
            short(&generation.root).to_owned(),
            generation.outcome.as_str().replace('_', " "),
            ago(generation.time),
            generation.source.clone(),
        ];
        row.extend(snapshots);
        row
    };
    let rows: Vec<_> = reply.generations.iter().map(row).collect();
    output::table(&heading, &rows)?;
    Ok(0)
}

pub async fn generation(client: &mut Client, number: Option<u64>, json: bool) -> Result<u8, Error> {
    let reply: GenerationReply = client.call(Method::GetGeneration { number }).await?;
    if json {
        let config = parse(&reply.config)?;
        output::json(&serde_json::json!({ "generation": reply.generation, "config": config }))?;
        return Ok(0);
    }
    let generation = &reply.generation;
    let current = if generation.current { ", current" } else { "" };
    let pinned = if generation.pinned == Some(true) {
        ", pinned"
    } else {
        ""
    };
    output::line(&format!(
        "generation {}: {}{current}{pinned}",
        generation.number,
        generation.outcome.as_str().replace('_', " ")
    ))?;
    output::line(&format!("  root    {}", generation.root))?;
    if let Some(parent) = generation.parent {
        output::line(&format!("  parent  {parent}"))?;
    }
    output::line(&format!(
        "  made    {} by {}: {}",
        ago(generation.time),
        tank_sys::users::named(generation.uid),
        generation.source
    ))?;
    if let Some(snapshots) = &generation.snapshots {
        output::line(&format!(
            "  keeps   {} as it left them: `tank generations rollback {} --with-data` brings them back",
            snapshots.join(", "),
            generation.number
        ))?;
    }
    print_config(&reply.config)?;
    Ok(0)
}

pub async fn generation_diff(
    client: &mut Client,
    from: u64,
    to: u64,
    json: bool,
) -> Result<u8, Error> {
    let reply: ChangesReply = client.call(Method::GenerationDiff { from, to }).await?;
    if json {
        output::json(&reply)?;
    } else if reply.changes.is_empty() {
        output::line("no difference")?;
    } else {
        reply
            .changes
            .iter()
            .try_for_each(|change| output::line(&change_line(change)))?;
    }
    Ok(0)
}

async fn ask_why(client: &mut Client, field: &str) -> Result<WhyReply, Error> {
    let field = field.to_owned();
    client.call(Method::Why { field }).await
}

/// Of the entries around a field (pods, containers, networks, …) the first that nothing declares: what would
/// be in it has no default either.
async fn undeclared_above(client: &mut Client, field: &str) -> Result<Option<String>, Error> {
    let parts = provenance::parse_field(field);
    for length in entries_around(tank_compiler::schema(), &parts) {
        let above = provenance::field(&parts[..length]);
        if ask_why(client, &above).await?.value.is_none() {
            return Ok(Some(above));
        }
    }
    Ok(None)
}

/// Why a value is what it is.
pub async fn why(client: &mut Client, field: &str, json: bool) -> Result<u8, Error> {
    let reply = ask_why(client, field).await?;
    if json {
        output::json(&reply)?;
        return Ok(u8::from(reply.value.is_none()));
    }
    let Some(value) = &reply.value else {
        if let Some(field) = undeclared_above(client, &reply.field).await? {
            return Err(Error::NotDeclared { field });
        }
        return match default_of(&reply.field) {
            Some(default) => {
                output::line(&format!("{} = {default}", reply.field))?;
                output::line("  the default: nothing declares it")?;
                Ok(0)
            }
            None => Err(Error::NotDeclared { field: reply.field }),
        };
    };
    output::line(&format!("{} = {value}", reply.field))?;
    match &reply.place {
        Some(place) => output::line(&format!("  set at      {place}"))?,
        None => output::line("  set at      an unknown line: it did not come from a file")?,
    }
    for also in reply.also.iter().flatten() {
        output::line(&format!("  and at      {also}"))?;
    }
    if let Some(via) = &reply.via {
        output::line(&format!("  asked for   {via}"))?;
    }
    for over in &reply.overrode {
        let priority = over
            .priority
            .as_ref()
            .map(|priority| format!(" ({priority})"))
            .unwrap_or_default();
        output::line(&format!(
            "  overrode    {} at {}{priority}",
            over.text, over.place
        ))?;
    }
    if let Some(since) = &reply.since {
        let number = since.number;
        output::line(&format!(
            "  since       generation {number}, {} ({})",
            output::ago(since.time),
            since.source
        ))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_well_is_named_and_bounded() {
        let of = |pod: &str, state| PodStatus {
            pod: pod.to_owned(),
            state,
        };
        let few = [of("web", State::Failed), of("shop:api", State::Degraded)];
        assert_eq!(
            failing_line(&few),
            "failing     web (failed), shop:api (degraded): `tank explain web` says why"
        );
        let many: Vec<PodStatus> = (0..30)
            .map(|number| of(&format!("p{number}"), State::Absent))
            .collect();
        let line = failing_line(&many);
        assert!(
            line.contains("p9 (absent), and 20 more: `tank explain p0`"),
            "{line}"
        );
    }
}
