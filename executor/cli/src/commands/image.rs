//! `image`: which there are, one in detail, and those that are kept by hand.

use super::{
    gc::size,
    transfer::{feed, open},
};
use crate::{client::Client, error::Error, output, progress::ProgressView};
use std::{io::IsTerminal, path::Path};
use tank_proto::varlink::{
    Image, ImageLayer, ImagesReply, InspectImageReply, KeptImage, LoadImagesReply, Method,
    PullImageReply, RemoveImagesReply,
};

const HEADING: [&str; 7] = [
    "IMAGE",
    "DIGEST",
    "OWN",
    "SHARED",
    "KEPT",
    "GENERATIONS",
    "PODS",
];

/// Every image that something needs.
pub async fn list(client: &mut Client, json: bool) -> Result<u8, Error> {
    let reply: ImagesReply = client.call(Method::Images {}).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    if reply.images.is_empty() {
        output::line("no images")?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = reply.images.iter().map(row).collect();
    output::table(&HEADING, &rows)?;
    Ok(0)
}

fn row(image: &Image) -> Vec<String> {
    let [own, shared] = match &image.missing {
        Some(_) => ["not whole".to_owned(), String::new()],
        None => [size(image.own), size(image.shared)],
    };
    vec![
        or_dash(image.references.join(", ")),
        output::short(&image.digest).to_owned(),
        own,
        shared,
        if image.by_hand { "by hand" } else { "-" }.to_owned(),
        or_dash(output::runs(&image.generations).join(", ")),
        or_dash(image.pods.join(", ")),
    ]
}

fn or_dash(text: String) -> String {
    match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    }
}

/// One image in detail.
pub async fn inspect(client: &mut Client, image: String, json: bool) -> Result<u8, Error> {
    let reply: InspectImageReply = client.call(Method::InspectImage { image }).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let image = &reply.image;
    let one = |text: &Option<String>| text.clone().unwrap_or_default();
    let labels = reply.labels.iter();
    let labels: Vec<String> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let kept = if image.by_hand { "by hand" } else { "" };
    let taken = format!(
        "{} of its own, {} shared",
        size(image.own),
        size(image.shared)
    );
    let lines = [
        ("image", image.references.clone()),
        ("digest", vec![image.digest.clone()]),
        ("manifest", vec![reply.manifest.clone()]),
        ("config", vec![reply.config.clone()]),
        ("platform", vec![reply.platform.clone()]),
        ("entrypoint", reply.entrypoint.clone()),
        ("cmd", reply.cmd.clone()),
        ("env", reply.env.clone()),
        ("user", vec![one(&reply.user)]),
        ("working dir", vec![one(&reply.working_dir)]),
        ("stop signal", vec![one(&reply.stop_signal)]),
        ("ports", reply.ports.clone()),
        ("volumes", reply.volumes.clone()),
        ("labels", labels),
        ("disk", vec![image.missing.clone().unwrap_or(taken)]),
        ("kept", vec![kept.to_owned()]),
        ("generations", output::runs(&image.generations)),
        ("pods", image.pods.clone()),
    ];
    for (name, values) in lines {
        print_field(name, &values)?;
    }
    output::line("")?;
    let layer = |layer: &ImageLayer| {
        let kind = layer.media_type.rsplit(['.', '/']).next();
        let kind = kind.map(|kind| kind.trim_start_matches("v1+").to_owned());
        vec![
            output::short(&layer.digest).to_owned(),
            output::short(&layer.diff_id).to_owned(),
            size(layer.size),
            layer.disk.map_or_else(|| "not here".to_owned(), size),
            kind.unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = reply.layers.iter().map(layer).collect();
    output::table(&["LAYER", "DIFF ID", "SIZE", "ON DISK", "PACKED"], &rows)?;
    Ok(0)
}

/// Prints what an image says of itself, each value as one line, whatever is in it.
fn print_field(name: &str, values: &[String]) -> Result<(), Error> {
    for (at, value) in values.iter().filter(|value| !value.is_empty()).enumerate() {
        let name = if at == 0 { name } else { "" };
        let value = output::visible(value);
        let value = value.replace('\n', "\\n").replace('\t', "\\t");
        output::line(&format!("{name:<12} {value}"))?;
    }
    Ok(())
}

/// Fetches an image and keeps it.
pub async fn pull(
    client: &mut Client,
    (image, platform): (String, Option<String>),
    json: bool,
) -> Result<u8, Error> {
    let mut view = ProgressView::new();
    let call = Method::PullImage { image, platform };
    client.send(call, Vec::new(), true).await?;
    let pulled = loop {
        let received = client.receive::<PullImageReply>().await;
        let (reply, _, more) = received.inspect_err(|_| view.finish())?;
        if let Some(progress) = &reply.progress {
            view.show(progress);
        }
        if !more {
            break reply.pulled;
        }
    };
    view.finish();
    let pulled = pulled.ok_or(Error::Answer("tankd does not say what it pulled"))?;
    match json {
        true => output::json(&pulled)?,
        false => say(&pulled, "pulled")?,
    }
    Ok(0)
}

/// Takes in the images of an archive, and keeps them.
pub async fn load(
    client: &mut Client,
    file: Option<&Path>,
    name: Option<String>,
    json: bool,
) -> Result<u8, Error> {
    if file.is_none() && std::io::stdin().is_terminal() {
        let why =
            "say where from: `tank image load FILE`, or `docker save IMAGE | tank image load`";
        return Err(Error::failed("read an archive from a terminal", why));
    }
    let source = open(file)?;
    let reply: LoadImagesReply = feed(client, Method::LoadImages { name }, source).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    for image in reply.loaded.iter().flatten() {
        say(image, "loaded")?;
    }
    Ok(0)
}

fn say(image: &KeptImage, done: &str) -> Result<(), Error> {
    let digest = &image.digest;
    match &image.image {
        Some(name) => output::line(&format!("{done} {name} ({digest})"))?,
        None => output::line(&format!(
            "{done} an image without a name: `image = \"NAME@{digest}\"`, or load it with `--name NAME:TAG`"
        ))?,
    }
    if let Some(before) = &image.before {
        let before = output::short(before);
        output::line(&format!(
            "  it was {before} before, which is kept no longer"
        ))?;
    }
    Ok(())
}

/// Keeps images no longer.
pub async fn remove(client: &mut Client, images: Vec<String>, json: bool) -> Result<u8, Error> {
    let named = images.join(", ");
    let reply: RemoveImagesReply = client.call(Method::RemoveImages { images }).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    for image in &reply.removed {
        let name = image.image.as_ref().unwrap_or(&image.digest);
        output::line(&format!("{name} is kept no longer"))?;
    }
    match reply.removed.is_empty() {
        true => output::line(&format!("{named}: nothing keeps it")),
        false => output::line("`tank gc` removes what nothing needs now"),
    }?;
    Ok(0)
}
