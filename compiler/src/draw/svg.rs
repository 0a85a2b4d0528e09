//! The desired state as people think of it: a card a pod, what runs in it, how it is reached, and
//! what waits for what.
//!
//! Pods that have to do with each other stand together, in columns by how much they wait for: what
//! waits for nothing is on the left, what waits for it is right of it. These groups fill lines, as
//! words do, so that a picture of sixty pods is a little wider than it is high. An arrow begins at
//! the line that says in words what it means.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};
use tank_model::{
    Graph, Name,
    reference::ImageSource,
    spec::{Condition, Network, Publish, Volume},
};

const CARD_WIDTH: usize = 250;
const LINE: usize = 18;
const PADDING: usize = 12;
const GAP_X: usize = 70;
const GAP_Y: usize = 18;
const MARGIN: usize = 24;

/// How many characters of a line fit into a card.
const CHARS: usize = 34;

struct Card<'a> {
    name: &'a Name,
    lines: Vec<Line>,
    /// In the order of their lines, which are the last ones.
    needs: Vec<&'a Name>,
    x: usize,
    y: usize,
}

struct Line {
    class: &'static str,
    text: String,
}

impl Card<'_> {
    fn height(&self) -> usize {
        2 * PADDING + LINE + self.lines.len() * LINE
    }
}

/// An SVG document of the pods of `graph`.
pub fn svg(graph: &Graph) -> String {
    let mut cards: BTreeMap<&Name, Card<'_>> =
        graph.pods().map(|name| (name, card(graph, name))).collect();
    let (width, height) = place(&mut cards);
    let mut out = head(width.max(320), height.max(80), cards.len());
    for card in cards.values() {
        for (index, needed) in card.needs.iter().enumerate() {
            if let Some(needed) = cards.get(needed) {
                arrow(&mut out, card, index, needed);
            }
        }
    }
    for card in cards.values() {
        draw(&mut out, card);
    }
    if cards.is_empty() {
        let _ = writeln!(
            out,
            "<text class=\"name\" x=\"{MARGIN}\" y=\"48\">nothing is declared</text>"
        );
    }
    out + "</svg>\n"
}

// long: a line for each thing there may be
fn card<'a>(graph: &'a Graph, name: &'a Name) -> Card<'a> {
    let mut lines = Vec::new();
    let mut add = |class, text: String| lines.push(Line { class, text });
    for (init, spec, _) in graph.init(name) {
        add(
            "init",
            format!("first {init}  {}", short_image(spec.image.source())),
        );
    }
    for (container, node, _) in graph.containers(name) {
        add(
            "container",
            format!("{container}  {}", short_image(node.image.source())),
        );
    }
    for (_, publish) in graph.published(name) {
        add("port", published(publish));
    }
    for (volume, kind) in graph.volumes(name) {
        add("volume", format!("{volume}  {}", kept(kind)));
    }
    for line in networks(graph, name) {
        add("network", line);
    }
    match graph.sandbox(name).map(|(sandbox, _)| &sandbox.network) {
        Some(Network::Host) => add("network", "the host's network".to_owned()),
        Some(Network::None) => add("network", "no network".to_owned()),
        Some(Network::Nics(nics)) => {
            for (nic, spec) in nics {
                let own = spec.static_addresses();
                let mut own: String = own.map(|own| format!("  {own}")).collect();
                if let Some(pool) = spec.own_pool() {
                    own = format!("  one of {}{own}", pool.addresses);
                }
                add("network", format!("{nic}{own}"));
            }
        }
        Some(Network::Bridge) | None => {}
    }
    let mut needs = Vec::new();
    for (other, how) in graph.pod(name).into_iter().flat_map(|pod| &pod.depends_on) {
        let how = match how {
            Condition::Started => "started",
            Condition::Ready => "ready",
            Condition::Completed => "completed",
        };
        add("how", format!("after {other} {how}"));
        needs.push(other);
    }
    Card {
        name,
        lines,
        needs,
        x: 0,
        y: 0,
    }
}

/// The networks that a pod is on, if it says so: whether each is internal, and a static address.
fn networks(graph: &Graph, pod: &Name) -> Vec<String> {
    let declared: BTreeMap<_, _> = graph.networks().collect();
    let sandbox = graph.sandbox(pod).map(|(sandbox, _)| sandbox);
    let on = sandbox.into_iter().flat_map(|sandbox| &sandbox.networks);
    let line = |(name, membership): (&Name, &tank_model::spec::Membership)| {
        let internal = declared.get(name).is_some_and(|network| network.internal);
        let internal = if internal { "  internal" } else { "" };
        let own = membership.addresses.iter();
        let own: String = own.map(|own| format!("  {own}")).collect();
        format!("on {name}{internal}{own}")
    };
    on.map(line).collect()
}

/// An image without its registry, repository path and digest.
fn short_image(source: &ImageSource) -> String {
    match source {
        ImageSource::Registry {
            repository, tag, ..
        } => {
            let name = repository.rsplit('/').next().unwrap_or(repository);
            tag.as_ref()
                .map_or_else(|| name.to_owned(), |tag| format!("{name}:{tag}"))
        }
        ImageSource::Layout { path, tag } => format!("{path}:{tag}"),
        ImageSource::Archive { path, name, .. } => match name {
            Some(name) => format!("{path}:{name}"),
            None => path.clone(),
        },
        ImageSource::Folder { path } => path.clone(),
        // The hash says nothing to people.
        ImageSource::Closure { path } => {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.split_once('-')
                .map_or_else(|| name.to_owned(), |(_, name)| name.to_owned())
        }
    }
}

fn published(publish: &Publish) -> String {
    let words = |address: std::net::IpAddr| match address {
        address if address.is_loopback() => String::new(),
        address if address.is_unspecified() => "everyone".to_owned(),
        address => address.to_string(),
    };
    let mut addresses: Vec<String> = publish.address.iter().map(words).collect();
    addresses.dedup();
    let mut address = addresses.join(" ");
    if !address.is_empty() {
        address.push(' ');
    }
    let (from, to, protocol) = (publish.port, publish.target(), publish.protocol.suffix());
    format!("{address}:{from}{protocol} → {to}")
}

fn kept(volume: &Volume) -> String {
    if let Some(shared) = &volume.shared {
        return format!("shared {shared}");
    }
    match (&volume.host, volume.tmpfs) {
        (Some(host), _) => host.clone(),
        (None, Some(size)) => format!("memory {size}"),
        (None, None) => String::new(),
    }
}

/// The pods in groups that have to do with each other, the largest first; those that stand alone
/// are the last group.
fn groups<'a>(cards: &BTreeMap<&'a Name, Card<'a>>) -> Vec<Vec<&'a Name>> {
    let mut neighbours: BTreeMap<&Name, BTreeSet<&'a Name>> = BTreeMap::new();
    for card in cards.values() {
        for other in card.needs.iter().filter_map(|other| cards.get(other)) {
            neighbours.entry(card.name).or_default().insert(other.name);
            neighbours.entry(other.name).or_default().insert(card.name);
        }
    }
    let mut seen = BTreeSet::new();
    let mut groups: Vec<Vec<&Name>> = Vec::new();
    for name in cards.keys() {
        let (mut group, mut next) = (Vec::new(), vec![*name]);
        while let Some(name) = next.pop() {
            if seen.insert(name) {
                group.push(name);
                next.extend(neighbours.get(name).into_iter().flatten());
            }
        }
        if !group.is_empty() {
            groups.push(group);
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let alone = groups
        .iter()
        .position(|group| group.len() == 1)
        .unwrap_or(groups.len());
    let alone: Vec<&Name> = groups.split_off(alone).into_iter().flatten().collect();
    groups.extend(Some(alone).filter(|alone| !alone.is_empty()));
    groups
}

/// The pods of a group by column: one more than the furthest right of what each needs. Within a
/// column, those that need the same stand together.
fn columns<'a>(cards: &BTreeMap<&'a Name, Card<'a>>, group: &[&'a Name]) -> Vec<Vec<&'a Name>> {
    let mut depth: BTreeMap<&Name, usize> = BTreeMap::new();
    // A checked configuration has no cycle; of one that has, as many rounds as pods are enough.
    for _ in 0..group.len() {
        let mut moved = false;
        for name in group {
            let needs = cards[name]
                .needs
                .iter()
                .filter(|pod| cards.contains_key(*pod));
            let deepest = needs
                .map(|pod| depth.get(pod).copied().unwrap_or(0) + 1)
                .max()
                .unwrap_or(0);
            moved |= depth.insert(name, deepest) != Some(deepest);
        }
        if !moved {
            break;
        }
    }
    let mut columns: Vec<Vec<&Name>> = Vec::new();
    for (name, depth) in &depth {
        if columns.len() <= *depth {
            columns.resize(depth + 1, Vec::new());
        }
        columns[*depth].push(name);
    }
    let mut position: BTreeMap<&Name, usize> = BTreeMap::new();
    for column in &mut columns {
        let center = |name: &&Name| {
            let at: Vec<usize> = cards[*name]
                .needs
                .iter()
                .filter_map(|pod| position.get(pod).copied())
                .collect();
            if at.is_empty() {
                usize::MAX
            } else {
                at.iter().sum::<usize>() * 1_000 / at.len()
            }
        };
        column.sort_by_key(|name| (center(name), *name));
        position.extend(
            column
                .iter()
                .enumerate()
                .map(|(index, name)| (*name, index)),
        );
    }
    columns
}

/// Gives each card its place; the size of the whole.
fn place<'a>(cards: &mut BTreeMap<&'a Name, Card<'a>>) -> (usize, usize) {
    let area: usize = cards
        .values()
        .map(|card| (card.height() + GAP_Y) * (CARD_WIDTH + GAP_X))
        .sum();
    let tallest = cards.values().map(Card::height).max().unwrap_or(0);
    // A little wider than high, as screens are.
    let most_high = ((area as f64 / 2.0).sqrt() as usize).max(tallest).max(420);
    let groups: Vec<Vec<Vec<&Name>>> = groups(cards)
        .iter()
        .map(|group| columns(cards, group))
        .collect();
    let sizes: Vec<_> = groups
        .iter()
        .map(|columns| place_group(cards, columns, (0, 0), most_high))
        .collect();
    let area: usize = sizes
        .iter()
        .map(|(wide, high)| (wide + GAP_X) * (high + 2 * GAP_Y))
        .sum();
    let most_wide = ((area as f64 * 1.8).sqrt() as usize).max(CARD_WIDTH);
    let (mut left, mut top, mut line, mut width) = (MARGIN, MARGIN, 0, 0);
    for (columns, (wide, high)) in groups.iter().zip(sizes) {
        if left > MARGIN && left + wide > most_wide + MARGIN {
            (left, top, line) = (MARGIN, top + line + 2 * GAP_Y, 0);
        }
        place_group(cards, columns, (left, top), most_high);
        width = width.max(left + wide + MARGIN);
        left += wide + GAP_X / 2;
        line = line.max(high);
    }
    (width, top + line + MARGIN)
}

/// Places a group's columns from a corner on; their size.
fn place_group<'a>(
    cards: &mut BTreeMap<&'a Name, Card<'a>>,
    columns: &[Vec<&'a Name>],
    (left, top): (usize, usize),
    most: usize,
) -> (usize, usize) {
    let (mut x, mut width, mut height) = (left, 0, 0);
    for column in columns {
        let mut y = top;
        for name in column {
            let Some(card) = cards.get_mut(name) else {
                continue;
            };
            if y > top && y + card.height() > top + most {
                (x, y) = (x + CARD_WIDTH + GAP_X / 3, top);
            }
            (card.x, card.y) = (x, y);
            y += card.height() + GAP_Y;
            width = width.max(x + CARD_WIDTH - left);
            height = height.max(y - GAP_Y - top);
        }
        x += CARD_WIDTH + GAP_X;
    }
    (width, height)
}

fn head(width: usize, height: usize, pods: usize) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
role=\"img\" aria-label=\"{pods} pods\">\n<style>\n{STYLE}</style>\n\
<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto-start-reverse\">\
<path d=\"M0 0 8 4 0 8z\" class=\"tip\"/></marker></defs>\n<rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n"
    )
}

const STYLE: &str = "\
text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #333 }
.page { fill: #fbfbfa }
.card { fill: #fff; stroke: #c9ced6 }
.name { font-weight: 600; font-size: 14px; fill: #111 }
.init { fill: #777 }
.port { fill: #0b6e4f }
.volume { fill: #7a4b00 }
.network { fill: #5b3a9b }
.needs { fill: none; stroke: #7a8699; stroke-width: 1.3 }
.how { fill: #5a6678; font-style: italic }
.tip { fill: #7a8699 }
@media (prefers-color-scheme: dark) {
  text { fill: #ccc } .page { fill: #16181d } .card { fill: #20242c; stroke: #3b4250 } .name { fill: #fff }
  .init { fill: #999 } .port { fill: #5fd3a8 } .volume { fill: #e0b070 } .network { fill: #b79cf0 }
}
";

fn draw(out: &mut String, card: &Card<'_>) {
    let (x, y, height) = (card.x, card.y, card.height());
    let _ = writeln!(out, "<g><title>{}</title>", escape(card.name.as_str()));
    let _ = writeln!(
        out,
        "<rect class=\"card\" x=\"{x}\" y=\"{y}\" width=\"{CARD_WIDTH}\" height=\"{height}\" rx=\"6\"/>"
    );
    let (left, mut line) = (x + PADDING, y + PADDING + LINE - 5);
    let _ = writeln!(
        out,
        "<text class=\"name\" x=\"{left}\" y=\"{line}\">{}</text>",
        escape(&shortened(card.name.as_str()))
    );
    for Line { class, text } in &card.lines {
        line += LINE;
        let _ = writeln!(
            out,
            "<text class=\"{class}\" x=\"{left}\" y=\"{line}\">{}</text>",
            escape(&shortened(text))
        );
    }
    out.push_str("</g>\n");
}

/// From the line of a pod that names what it needs: out of its left side, into the other's right.
fn arrow(out: &mut String, from: &Card<'_>, index: usize, to: &Card<'_>) {
    let line = 1 + from.lines.len() - from.needs.len() + index;
    let (x1, y1) = (from.x, from.y + PADDING + LINE / 2 + line * LINE);
    let (x2, y2) = (to.x + CARD_WIDTH, to.y + PADDING + LINE / 2);
    let bend = (x1.saturating_sub(x2) / 2).max(GAP_X / 2);
    let (c1, c2) = (x1.saturating_sub(bend), x2 + bend);
    let _ = writeln!(
        out,
        "<path class=\"needs\" d=\"M{x1} {y1} C{c1} {y1} {c2} {y2} {x2} {y2}\" marker-end=\"url(#tip)\"/>"
    );
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= CHARS {
        return text.to_owned();
    }
    text.chars().take(CHARS - 1).chain(['…']).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
