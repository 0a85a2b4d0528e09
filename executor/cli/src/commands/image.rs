//! `image`: which there are, one in detail, and those that are kept by hand.

use super::transfer::{feed, open};
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
        None => [output::bytes(image.own), output::bytes(image.shared)],
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
        output::bytes(image.own),
        output::bytes(image.shared)
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
            output::bytes(layer.size),
            layer
                .disk
                .map_or_else(|| "not here".to_owned(), output::bytes),
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
    if let Some(why) = file.and_then(no_archive) {
        return Err(Error::failed(
            format!("load {}", file.unwrap_or(Path::new("-")).display()),
            why,
        ));
    }
    let source = open(file)?;
    let reply: LoadImagesReply = feed(client, Method::LoadImages { name }, source).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let loaded = reply.loaded.unwrap_or_default();
    for image in &loaded {
        say(image, "loaded")?;
    }
    if loaded.iter().any(|image| image.image.is_some()) {
        output::sentence(USE, 2)?;
    }
    Ok(0)
}

/// Why what is named is no archive, where that is plain: a reference as configurations have them, or a folder.
fn no_archive(file: &Path) -> Option<String> {
    if file.is_dir() {
        let folder = file.display();
        return Some(format!(
            "it is a folder: of an OCI image layout, `tar -C {folder} -c . | tank image load`; a configuration takes it as it is, `image = \"oci:{folder}\"`"
        ));
    }
    let text = file.to_str().filter(|_| !file.exists())?;
    let (kind, rest) = text.split_once(':')?;
    let path = rest.split(':').next().unwrap_or(rest);
    match kind {
        "oci-archive" | "docker-archive" => Some(format!(
            "that is a reference of a configuration, and this takes the file: `tank image load {path}`"
        )),
        "oci" => Some(format!(
            "that is a reference of a configuration, and this takes an archive: `tar -C {path} -c . | tank image load`"
        )),
        "dir" | "nix" => Some(
            "that is a reference of a configuration, which takes it as it is: this takes an archive that `docker save`, `podman save` or `skopeo` wrote".to_owned(),
        ),
        _ => None,
    }
}

fn say(image: &KeptImage, done: &str) -> Result<(), Error> {
    said(image, done)
        .iter()
        .try_for_each(|line| output::line(line))
}

fn said(image: &KeptImage, done: &str) -> Vec<String> {
    let digest = &image.digest;
    let mut lines = match (&image.image, &image.tag) {
        (Some(name), _) => vec![format!("{done} {name} ({digest})")],
        (None, Some(tag)) => vec![
            format!("{done} `{tag}` of the archive, which is no image's whole name ({digest})"),
            format!("  a configuration has it by its digest: `image = \"NAME:{tag}@{digest}\"`"),
        ],
        (None, None) => vec![format!(
            "{done} an image without a name: `image = \"NAME@{digest}\"`, or load it with `--name NAME:TAG`"
        )],
    };
    if let Some(before) = &image.before {
        let before = output::short(before);
        lines.push(format!("  it was {before} before, which is kept no longer"));
    }
    lines
}

/// How what was loaded is used. By its digest no registry is asked.
const USE: &str = "containers with `pull = 'missing` or `'never` use what was loaded; with the default, `'always`, the registry is asked first";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded_is_named() {
        let of = |image: Option<&str>, tag: Option<&str>| KeptImage {
            image: image.map(str::to_owned),
            digest: "sha256:00".to_owned(),
            before: None,
            tag: tag.map(str::to_owned),
        };
        let first = |image| said(&image, "loaded").into_iter().next();
        assert_eq!(
            first(of(Some("app:1"), None)).as_deref(),
            Some("loaded app:1 (sha256:00)")
        );
        assert_eq!(
            first(of(None, Some("v1"))).as_deref(),
            Some("loaded `v1` of the archive, which is no image's whole name (sha256:00)")
        );
        let nameless = first(of(None, None)).expect("a line");
        assert!(nameless.contains("--name NAME:TAG"), "{nameless}");
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_none() {
        let why = |text: &str| no_archive(Path::new(text)).unwrap_or_default();
        assert!(why("docker-archive:/no/app.tar:app:1").ends_with("`tank image load /no/app.tar`"));
        assert!(why("oci:/no/layout:v1").contains("tar -C /no/layout -c . | tank image load"));
        assert!(why("/").contains("it is a folder"));
        assert_eq!(why("/no/such.tar"), "");
    }
}
