//! Lists of what there is: the pods, and the networks.

use super::view::container_state;
use crate::{client::Client, error::Error, output};
use std::collections::BTreeSet;
use tank_model::Name;
use tank_proto::varlink::{self, ListReply, Method, Network, NetworksReply, Pod};

const HEADING: [&str; 7] = [
    "POD",
    "CONTAINER",
    "STATE",
    "RESTARTS",
    "ADDRESS",
    "PUBLISHED",
    "IMAGE",
];

/// Where in a row restarts are.
const RESTARTS: usize = 3;

/// The pods, or those of one stack. What is wider than the terminal is shortened unless `wide`; where there is none, nothing is: programs
/// read it.
pub async fn list(
    client: &mut Client,
    stack: Option<&Name>,
    wide: bool,
    json: bool,
) -> Result<u8, Error> {
    let mut reply: ListReply = client.call(Method::List {}).await?;
    if let Some(stack) = stack {
        let stacks = reply.pods.iter().filter_map(|pod| stack_of(&pod.name));
        let stacks: BTreeSet<String> = stacks.map(str::to_owned).collect();
        reply
            .pods
            .retain(|pod| stack_of(&pod.name) == Some(stack.as_str()));
        if reply.pods.is_empty() {
            let networks: NetworksReply = client.call(Method::Networks {}).await?;
            refuse_unknown(stack, stacks, &networks.networks)?;
        }
    }
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    if reply.pods.is_empty() {
        output::line(&match stack {
            Some(stack) => format!("the stack `{stack}` has no pods"),
            None => "no pods: `tank init` writes a first configuration".to_owned(),
        })?;
        return Ok(0);
    }
    let most = match wide || !output::is_terminal() {
        true => usize::MAX,
        false => output::width(),
    };
    let (heading, rows) = fitting(&reply.pods, most);
    output::table(&heading, &rows)?;
    Ok(0)
}

fn stack_of(pod: &str) -> Option<&str> {
    Some(pod.split_once(':')?.0)
}

/// Refuses the name of a stack that there is not, as the daemon does where it is given one.
fn refuse_unknown(
    stack: &Name,
    mut known: BTreeSet<String>,
    networks: &[Network],
) -> Result<(), Error> {
    known.extend(networks.iter().filter_map(|network| network.stack.clone()));
    if known.contains(stack.as_str()) {
        return Ok(());
    }
    let nearest = tank_model::name::nearest(stack.as_str(), known.iter().map(String::as_str));
    Err(Error::Refused(varlink::Error::NoSuchStack {
        stack: stack.to_string(),
        nearest: nearest.map(str::to_owned),
    }))
}

/// How much of a row is left out.
#[derive(Clone, Copy)]
struct Shortened {
    addresses: Addresses,
    published: Published,
    image: Image,
}

/// How the addresses of a pod are shown.
#[derive(Clone, Copy)]
enum Addresses {
    All,
    /// The first, and how many more there are.
    Counted,
    /// The first.
    First,
}

/// How an image is shown.
#[derive(Clone, Copy)]
enum Image {
    Whole,
    /// Without its registry and its folders, and of a digest the first twelve digits.
    Name,
    /// So many of the last characters of that.
    End(usize),
}

/// The fewest characters of an image that are shown.
const MIN_IMAGE: usize = 8;

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

/// The heading and the rows, with no more left out than it takes for them to have `most` columns at most, if that can be.
fn fitting(pods: &[Pod], most: usize) -> (Vec<&'static str>, Vec<Vec<String>>) {
    use {Addresses as A, Image as I, Published as P};
    let ways = [
        (A::All, P::All, I::Whole),
        (A::Counted, P::All, I::Whole),
        (A::First, P::All, I::Whole),
        (A::First, P::Once, I::Whole),
        (A::First, P::Once, I::Name),
        (A::First, P::First, I::Name),
    ];
    let way = |(addresses, published, image)| Shortened {
        addresses,
        published,
        image,
    };
    let mut heading = HEADING.to_vec();
    let mut shortest = Vec::new();
    for one in ways {
        shortest = rows(pods, way(one));
        if output::table_width(&heading, &shortest) <= most {
            return (heading, shortest);
        }
    }
    // Where nothing was restarted, that is no news.
    let restarts = shortest.iter().all(|row| row[RESTARTS] == "0");
    let drop_restarts = |rows: &mut Vec<Vec<String>>| {
        let rows = rows.iter_mut().filter(|_| restarts);
        rows.for_each(|row| drop(row.remove(RESTARTS)));
    };
    if restarts {
        heading.remove(RESTARTS);
        drop_restarts(&mut shortest);
    }
    // The image is what a row has last: the most of its end that there is room for.
    let over = output::table_width(&heading, &shortest).saturating_sub(most);
    if over > 0 {
        let images = shortest.iter().filter_map(|row| row.last());
        let longest = images.map(|image| image.chars().count()).max().unwrap_or(0);
        let left = longest.saturating_sub(over).max(MIN_IMAGE);
        shortest = rows(pods, way((A::First, P::First, I::End(left))));
        drop_restarts(&mut shortest);
    }
    (heading, shortest)
}

fn rows(pods: &[Pod], way: Shortened) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for pod in pods {
        for container in &pod.containers {
            rows.push(vec![
                pod.name.clone(),
                container.name.clone(),
                container_state(container),
                container.restarts.to_string(),
                match (way.addresses, pod.addresses.as_slice()) {
                    (Addresses::All, [_, ..]) => pod.addresses.join(", "),
                    (Addresses::First, [first, ..]) => first.clone(),
                    (_, all) => first_of(all, " "),
                },
                published(&pod.published, way.published),
                match way.image {
                    Image::Whole => container.image.clone(),
                    Image::Name => short_image(&container.image),
                    Image::End(most) => end_of(&short_image(&container.image), most),
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

/// The last of a text, in `most` characters: of an image the tag says most.
fn end_of(text: &str, most: usize) -> String {
    let count = text.chars().count();
    match count > most {
        true => {
            let end = text.chars().skip(count + 1 - most.max(1));
            ['\u{2026}'].into_iter().chain(end).collect()
        }
        false => text.to_owned(),
    }
}

/// The networks, or those of one stack, and who is on them.
pub async fn networks(client: &mut Client, stack: Option<&Name>, json: bool) -> Result<u8, Error> {
    let mut reply: NetworksReply = client.call(Method::Networks {}).await?;
    if let Some(stack) = stack {
        let all = std::mem::take(&mut reply.networks);
        let is_of = |network: &&Network| network.stack.as_deref() == Some(stack.as_str());
        reply.networks = all.iter().filter(is_of).cloned().collect();
        if reply.networks.is_empty() {
            let list: ListReply = client.call(Method::List {}).await?;
            let stacks = list.pods.iter().filter_map(|pod| stack_of(&pod.name));
            refuse_unknown(stack, stacks.map(str::to_owned).collect(), &all)?;
        }
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
    use tank_proto::varlink::{ContainerStatus, State};

    fn pod(name: &str, published: &[&str], image: &str) -> Pod {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        Pod {
            name: name.to_owned(),
            state: State::Running,
            addresses: texts(&["10.91.120.76", "fd74:616e:6b01:78::4c", "10.90.0.32"]),
            published: texts(published),
            containers: vec![ContainerStatus {
                name: "app".to_owned(),
                image: image.to_owned(),
                digest: None,
                state: State::Running,
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
        let (heading, rows) = fitting(pods, most);
        let lines = output::table_lines(&heading, &rows);
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
        insta::assert_snapshot!("list_80", drawn(&wide, 80));
    }

    #[test]
    fn a_pod_with_an_address_and_a_port_fits_80_columns() {
        let one = pod(
            "web",
            &["127.0.0.1:8080->80"],
            "ghcr.io/example-organization/frontend-service:2026.11.27-rc1",
        );
        let shown = drawn(&[one.clone(), pod("proj:database", &[], "postgres:16")], 80);
        insta::assert_snapshot!("list_fits_80", shown);
        let width = shown.lines().map(|line| line.chars().count()).max();
        assert!(width.is_some_and(|width| width <= 80), "{shown}");
        assert_eq!(end_of("nginx:1.27", 6), "\u{2026}:1.27");
        assert_eq!(end_of("nginx", 5), "nginx");
    }

    #[test]
    fn a_stack_that_there_is_not_is_refused_with_the_nearest() {
        let stack = |text: &str| Name::new(text).expect("a name");
        let known = || BTreeSet::from(["blog".to_owned()]);
        let network = Network {
            name: "shop:back".to_owned(),
            stack: Some("shop".to_owned()),
            internal: false,
            subnets: Vec::new(),
            bridge: None,
            pods: Vec::new(),
        };
        let networks = [network];
        assert!(refuse_unknown(&stack("blog"), known(), &networks).is_ok());
        assert!(refuse_unknown(&stack("shop"), known(), &networks).is_ok());
        let error = refuse_unknown(&stack("blgo"), known(), &networks).expect_err("none");
        assert!(
            matches!(&error, Error::Refused(varlink::Error::NoSuchStack { nearest: Some(near), .. }) if near == "blog"),
            "{error}"
        );
    }
}
