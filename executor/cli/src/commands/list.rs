//! Lists of what there is: the pods, and the networks.

use super::view::container_state;
use crate::{client::Client, error::Error, output};
use tank_model::Name;
use tank_proto::varlink::{ListReply, Method, Network, NetworksReply, Pod, PodState};

const HEADING: [&str; 7] = [
    "POD",
    "CONTAINER",
    "STATE",
    "RESTARTS",
    "ADDRESS",
    "PUBLISHED",
    "IMAGE",
];

/// The pods, or those of one stack. What is wider than the terminal, or than 100 columns where there is
/// none, is shortened unless `wide`.
pub async fn list(
    client: &mut Client,
    stack: Option<&Name>,
    wide: bool,
    json: bool,
) -> Result<u8, Error> {
    let mut reply: ListReply = client.call(Method::List {}).await?;
    if let Some(stack) = stack {
        let is_of = |pod: &Pod| {
            let name = Name::of_pod(pod.name.as_str());
            name.is_ok_and(|name| name.stack() == Some(stack.as_str()))
        };
        reply.pods.retain(is_of);
    }
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    if let (Some(stack), true) = (stack, reply.pods.is_empty()) {
        output::line(&format!("no pods of a stack `{stack}`"))?;
        return Ok(0);
    }
    let most = if wide { usize::MAX } else { output::width() };
    output::table(&HEADING, &fitting(&reply.pods, most))?;
    Ok(0)
}

/// How much of a row is left out.
#[derive(Clone, Copy)]
struct Shortened {
    addresses: bool,
    published: Published,
    image: bool,
}

/// How published ports are shown.
#[derive(Clone, Copy)]
enum Published {
    /// Each at each of its addresses.
    All,
    /// Each once.
    Once,
    /// The first, and how many more there are.
    First,
}

/// The rows, with no more left out than it takes for them to have `most` columns at most, if that can be.
fn fitting(pods: &[Pod], most: usize) -> Vec<Vec<String>> {
    let ways = [
        (false, Published::All, false),
        (true, Published::All, false),
        (true, Published::Once, false),
        (true, Published::Once, true),
        (true, Published::First, true),
    ];
    let ways = ways.map(|(addresses, published, image)| Shortened {
        addresses,
        published,
        image,
    });
    let tries = ways.iter().map(|way| rows(pods, *way));
    let mut shortest = Vec::new();
    for rows in tries {
        let fits = output::table_width(&HEADING, &rows) <= most;
        shortest = rows;
        if fits {
            break;
        }
    }
    shortest
}

fn rows(pods: &[Pod], way: Shortened) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for pod in pods {
        for container in &pod.containers {
            rows.push(vec![
                pod.name.clone(),
                container.name.clone(),
                match pod.state {
                    PodState::Unresponsive => pod.state.to_string(),
                    _ => container_state(container),
                },
                container.restarts.to_string(),
                match way.addresses || pod.addresses.is_empty() {
                    true => first_of(&pod.addresses, " "),
                    false => pod.addresses.join(", "),
                },
                published(&pod.published, way.published),
                match way.image {
                    true => short_image(&container.image),
                    false => container.image.clone(),
                },
            ]);
        }
    }
    rows
}

/// The first of some, and how many more there are: `tank get POD` has them all.
fn first_of(all: &[String], before: &str) -> String {
    match all {
        [] => "-".to_owned(),
        [only] => only.clone(),
        [first, more @ ..] => format!("{first}{before}+{}", more.len()),
    }
}

/// The published ports of a pod: `127.0.0.1:8080->80`. Where they are shortened `*:8080->80` is at every address of
/// both families, `10.0.0.7(+1):53/udp` at one more, and leads to the same port inside.
fn published(all: &[String], way: Published) -> String {
    if let (Published::All, false) = (way, all.is_empty()) {
        return all.join(", ");
    }
    // In the order that they are in, each with its addresses.
    let mut ports: Vec<(String, Vec<String>)> = Vec::new();
    for one in all {
        let (from, to) = one.split_once("->").unwrap_or((one, ""));
        let (address, from) = from.split_at(from.rfind(':').unwrap_or_default());
        // The same ports inside are said once.
        let own = from.trim_start_matches(':');
        let port = match to.strip_prefix(own) {
            Some(protocol) if protocol.is_empty() || protocol.starts_with('/') => {
                format!("{from}{protocol}")
            }
            _ => format!("{from}->{to}"),
        };
        match ports.iter_mut().find(|(known, _)| *known == port) {
            Some((_, addresses)) => addresses.push(address.to_owned()),
            None => ports.push((port, vec![address.to_owned()])),
        }
    }
    let once = ports.iter().map(|(port, addresses)| {
        let is_any = |any: &str| addresses.iter().any(|address| address == any);
        let at = match is_any("0.0.0.0") && is_any("[::]") {
            true => "*".to_owned(),
            false => match addresses.as_slice() {
                [first, more @ ..] if !more.is_empty() => format!("{first}(+{})", more.len()),
                all => all.concat(),
            },
        };
        format!("{at}{port}")
    });
    let once: Vec<String> = once.collect();
    match way {
        Published::Once if !once.is_empty() => once.join(", "),
        _ => first_of(&once, " "),
    }
}

/// An image without its registry and its folders, and of a digest the first twelve digits.
fn short_image(image: &str) -> String {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, format!("@{}", output::short(digest))),
        None => (image, String::new()),
    };
    match name.rsplit_once('/') {
        Some((_, name)) => format!("\u{2026}/{name}{digest}"),
        None => format!("{name}{digest}"),
    }
}

/// The networks, or those of one stack, and who is on them.
pub async fn networks(client: &mut Client, stack: Option<&Name>, json: bool) -> Result<u8, Error> {
    let mut reply: NetworksReply = client.call(Method::Networks {}).await?;
    if let Some(stack) = stack {
        let is_of = |network: &Network| network.stack.as_deref() == Some(stack.as_str());
        reply.networks.retain(is_of);
    }
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    if reply.networks.is_empty() {
        output::line("no networks")?;
    }
    reply.networks.iter().try_for_each(print_network)?;
    Ok(0)
}

fn print_network(network: &Network) -> Result<(), Error> {
    let of_stack = network.stack.as_ref();
    let of_stack = of_stack.map(|stack| format!("of the stack {stack}"));
    let internal = network.internal.then(|| "internal".to_owned());
    let facts: Vec<String> = internal.into_iter().chain(of_stack).collect();
    let facts = match facts.as_slice() {
        [] => String::new(),
        facts => format!(": {}", facts.join(", ")),
    };
    output::line(&format!("{}{facts}", network.name))?;
    for subnet in &network.subnets {
        output::line(&format!("  subnet     {subnet}"))?;
    }
    match &network.bridge {
        Some(bridge) => output::line(&format!("  bridge     {bridge}"))?,
        None => output::line("  no pod is on it")?,
    }
    for on in &network.pods {
        let addresses = on.addresses.join(", ");
        output::line(&format!("  pod        {}: {addresses}", on.pod))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_proto::varlink::{ContainerState, ContainerStatus};

    fn pod(name: &str, published: &[&str], image: &str) -> Pod {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Pod {
            name: name.to_owned(),
            state: PodState::Running,
            addresses: texts(&["10.91.120.76", "fd74:616e:6b01:78::4c", "10.90.0.32"]),
            published: texts(published),
            containers: vec![ContainerStatus {
                name: "app".to_owned(),
                image: image.to_owned(),
                digest: None,
                state: ContainerState::Running,
                pid: Some(7),
                status: None,
                restarts: 0,
                started: None,
                ready: true,
                stopped: None,
                stopped_by: None,
                run_by: None,
            }],
            reason: None,
            policies: None,
            interfaces: None,
        }
    }

    fn drawn(pods: &[Pod], most: usize) -> String {
        let rows = fitting(pods, most);
        let lines = output::table_lines(&HEADING, &rows);
        let width = lines.iter().map(|line| line.chars().count()).max();
        format!("{} columns\n{}", width.unwrap_or(0), lines.join("\n"))
    }

    #[test]
    fn no_more_is_left_out_than_has_to_be() {
        let any = ["0.0.0.0:8080->80", "[::]:8080->80"];
        let more = [
            "10.0.0.7:8443-8450->443-450",
            "[fd00::7]:8443-8450->443-450",
            "127.0.0.1:53->53/udp",
        ];
        let many: Vec<&str> = any.into_iter().chain(more).collect();
        let digest = format!(
            "registry.example.org:5000/team/shop@sha256:{}",
            "ab".repeat(32)
        );
        let short = [
            pod("db", &[], "postgres:16"),
            pod("web", &any[..1], "nginx:1.27"),
        ];
        insta::assert_snapshot!("list_short", drawn(&short, 100));
        let both = [
            pod("db", &[], "postgres:16"),
            pod("web", &any, "nginx:1.27"),
        ];
        insta::assert_snapshot!("list_both", drawn(&both, 100));
        let wide = [
            pod("shop:db", &[], "postgres:16"),
            pod("shop:web", &many, &digest),
        ];
        insta::assert_snapshot!("list_narrow", drawn(&wide, 100));
        insta::assert_snapshot!("list_wide", drawn(&wide, usize::MAX));
    }
}
