//! `lock`: which digests the tags of a configuration stand for.

use super::config;
use crate::{args::Overrides, client::Client, error::Error, output};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
};
use tank_compiler::{
    Inputs,
    lock::{self, Lock},
};
use tank_model::{Config, Digest, Platform};
use tank_proto::varlink::{Method, ResolveReply};

/// A tag, and the platform that it is used for if not the host's own.
type Tag = (String, Option<Platform>);

pub struct Request {
    pub files: Vec<PathBuf>,
    pub overrides: Overrides,
    /// A pod, or all of them if it is empty.
    pub update: Option<String>,
    pub check: bool,
}

pub async fn lock(socket: &Path, request: Request, json: bool) -> Result<u8, Error> {
    let inputs = Inputs {
        files: request.files.clone(),
        overrides: request.overrides.set.clone(),
        unlocked: true,
        ..Inputs::default()
    };
    let compiled = tank_compiler::compile(&inputs, &config::settings()?)?;
    let config = compiled.config()?;
    let known = Lock::read(&compiled.base_dir)?
        .map(|(lock, _)| lock)
        .unwrap_or_default();
    let used = used(&config);
    let path = Lock::path(&compiled.base_dir);
    if request.check {
        return check(&known, &used, &path, json);
    }
    let again = again(&request, &config, &used)?;
    let is_new = |tag: &&Tag| known.digest(&tag.0, tag.1.as_ref()).is_none() || again.contains(tag);
    let ask = used.keys().filter(is_new).cloned().collect();
    let mut new = Lock::default();
    for (image, platform, digest) in known.tags() {
        let tag = (image.clone(), platform.cloned());
        if used.contains_key(&tag) {
            new.add(tag.0, tag.1, digest);
        }
    }
    resolve(socket, ask, &mut new).await?;
    report(&known, &new, json)?;
    // Nothing to lock makes no file.
    let is_there = path.exists();
    if new != known || !is_there && new.tags().next().is_some() {
        write(&path, &new.text())?;
    }
    Ok(0)
}

/// The tags that are resolved again although the lock has them.
fn again<'a>(
    request: &Request,
    config: &Config,
    used: &'a BTreeMap<Tag, BTreeSet<String>>,
) -> Result<BTreeSet<&'a Tag>, Error> {
    Ok(match request.update.as_deref() {
        None => BTreeSet::new(),
        Some("") => used.keys().collect(),
        Some(pod) => {
            let names = || config.pods.keys().map(tank_model::Name::local);
            if !names().any(|name| name == pod) {
                let near = tank_model::name::nearest(pod, names());
                return Err(Error::NoSuchPod {
                    pod: pod.to_owned(),
                    nearest: near.map(str::to_owned),
                });
            }
            let of_pod = used.iter().filter(|(_, pods)| pods.contains(pod));
            of_pod.map(|(tag, _)| tag).collect()
        }
    })
}

/// Adds the digests that the daemon finds tags to stand for, a platform at a time; it is not called for none.
async fn resolve(socket: &Path, ask: Vec<Tag>, lock: &mut Lock) -> Result<(), Error> {
    let mut by_platform: BTreeMap<Option<Platform>, Vec<String>> = BTreeMap::new();
    for (image, platform) in ask {
        by_platform.entry(platform).or_default().push(image);
    }
    for (platform, images) in by_platform {
        let asked = platform.as_ref().map(ToString::to_string);
        let call = Method::Resolve {
            images,
            platform: asked.clone(),
        };
        let reply: ResolveReply = Client::connect(socket).await?.call(call).await?;
        if reply.platform != asked {
            return Err(Error::Answer(
                "tankd is of a version that knows no platforms of images: it said what this host's is",
            ));
        }
        for answer in reply.images {
            let digest = answer
                .digest
                .parse()
                .map_err(|_| Error::Answer("tankd's answer holds no digest"))?;
            lock.add(answer.image, platform.clone(), digest);
        }
    }
    Ok(())
}

/// Every image that a lock can hold, with the pods that use it: a source has one stack.
fn used(config: &Config) -> BTreeMap<Tag, BTreeSet<String>> {
    let mut used: BTreeMap<Tag, BTreeSet<String>> = BTreeMap::new();
    for (pod, spec) in &config.pods {
        for container in spec.containers.values().chain(spec.init.values()) {
            if lock::lockable(&container.image) {
                let tag = (container.image.to_string(), container.platform.clone());
                used.entry(tag).or_default().insert(pod.local().to_owned());
            }
        }
    }
    used
}

/// A tag in words.
fn words(image: &str, platform: Option<&Platform>) -> String {
    match platform {
        Some(platform) => format!("{image} ({platform})"),
        None => image.to_owned(),
    }
}

fn check(
    known: &Lock,
    used: &BTreeMap<Tag, BTreeSet<String>>,
    path: &Path,
    json: bool,
) -> Result<u8, Error> {
    let tags = used
        .keys()
        .map(|(image, platform)| (image, platform.as_ref()));
    let missing = tags.filter(|(image, platform)| known.digest(image, *platform).is_none());
    let missing: Vec<String> = missing
        .map(|(image, platform)| words(image, platform))
        .collect();
    let is_unused = |(image, platform, _): &(&String, Option<&Platform>, Digest)| {
        !used.contains_key(&((*image).clone(), platform.cloned()))
    };
    let unused = known.tags().filter(is_unused);
    let unused: Vec<String> = unused
        .map(|(image, platform, _)| words(image, platform))
        .collect();
    let fits = missing.is_empty() && unused.is_empty();
    if json {
        output::json(&serde_json::json!({ "ok": fits, "missing": missing, "unused": unused }))?;
        return Ok(u8::from(!fits));
    }
    if fits {
        let images = output::counted(used.len() as u64, "image", "images");
        output::line(&format!("{} locks {images}", path.display()))?;
        return Ok(0);
    }
    Err(Error::LockDiffers {
        path: path.to_owned(),
        missing,
        unused,
    })
}

fn report(old: &Lock, new: &Lock, json: bool) -> Result<(), Error> {
    if json {
        let mut reply = serde_json::json!({ "images": new.images });
        if !new.platforms.is_empty() {
            reply["platforms"] = serde_json::json!(new.platforms);
        }
        return output::json(&reply);
    }
    let short = |digest: &Digest| digest.short();
    for (image, platform, digest) in new.tags() {
        let tag = words(image, platform);
        let line = match old.digest(image, platform) {
            Some(before) if before == digest => format!("{tag}  {}", short(&digest)),
            Some(before) => format!("{tag}  {} (was {})", short(&digest), short(&before)),
            None => format!("{tag}  {} (new)", short(&digest)),
        };
        output::line(&line)?;
    }
    let gone = old
        .tags()
        .filter(|(image, platform, _)| new.digest(image, *platform).is_none());
    for (image, platform, _) in gone {
        output::line(&format!(
            "{}  removed: nothing uses it",
            words(image, platform)
        ))?;
    }
    if new.tags().next().is_none() {
        output::line("no image has a tag to lock")?;
    }
    Ok(())
}

/// Writes a file that appears at once, by a rename: no reader sees a part of it.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |e: std::io::Error| Error::failed(format!("write {}", path.display()), e);
    let new = path.with_extension(format!("lock.{}.new", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&new)
        .map_err(failed)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        failed(error)
    })
}
