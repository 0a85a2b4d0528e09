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
use tank_model::{Config, Digest};
use tank_proto::varlink::{Method, ResolveReply};

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
    let ask = used
        .keys()
        .filter(|image| !known.images.contains_key(*image) || again.contains(image.as_str()));
    let ask: Vec<String> = ask.cloned().collect();
    let resolved = resolve(socket, ask).await?;
    let kept = known
        .images
        .iter()
        .filter(|(image, _)| used.contains_key(*image));
    let mut images: BTreeMap<String, Digest> = kept
        .map(|(image, digest)| (image.clone(), *digest))
        .collect();
    images.extend(resolved);
    let new = Lock {
        images,
        ..Lock::default()
    };
    report(&known, &new, json)?;
    if new != known || !path.exists() {
        write(&path, &new.text())?;
    }
    Ok(0)
}

/// The images that are resolved again although the lock has them.
fn again<'a>(
    request: &Request,
    config: &Config,
    used: &'a BTreeMap<String, BTreeSet<String>>,
) -> Result<BTreeSet<&'a str>, Error> {
    Ok(match request.update.as_deref() {
        None => BTreeSet::new(),
        Some("") => used.keys().map(String::as_str).collect(),
        Some(pod) => {
            let names = || config.pods.keys().map(tank_model::Name::local);
            if !names().any(|name| name == pod) {
                let near = tank_model::name::nearest(pod, names());
                return Err(Error::NoSuchPod {
                    pod: pod.to_owned(),
                    nearest: near.map(str::to_owned),
                });
            }
            used.iter()
                .filter(|(_, pods)| pods.contains(pod))
                .map(|(image, _)| image.as_str())
                .collect()
        }
    })
}

/// Which digests the daemon finds the tags of `ask` to stand for; it is not called for none.
async fn resolve(socket: &Path, ask: Vec<String>) -> Result<BTreeMap<String, Digest>, Error> {
    let mut resolved: BTreeMap<String, Digest> = BTreeMap::new();
    if !ask.is_empty() {
        let reply: ResolveReply = Client::connect(socket)
            .await?
            .call(Method::Resolve { images: ask })
            .await?;
        for answer in reply.images {
            let digest = answer
                .digest
                .parse()
                .map_err(|_| Error::Answer("tankd's answer holds no digest"))?;
            resolved.insert(answer.image, digest);
        }
    }
    Ok(resolved)
}

/// Every image that a lock can hold, with the pods that use it: a source has one stack.
fn used(config: &Config) -> BTreeMap<String, BTreeSet<String>> {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (pod, spec) in &config.pods {
        for container in spec.containers.values().chain(spec.init.values()) {
            if lock::lockable(&container.image) {
                used.entry(container.image.to_string())
                    .or_default()
                    .insert(pod.local().to_owned());
            }
        }
    }
    used
}

fn check(
    known: &Lock,
    used: &BTreeMap<String, BTreeSet<String>>,
    path: &Path,
    json: bool,
) -> Result<u8, Error> {
    let missing: Vec<&String> = used
        .keys()
        .filter(|image| !known.images.contains_key(*image))
        .collect();
    let unused: Vec<&String> = known
        .images
        .keys()
        .filter(|image| !used.contains_key(*image))
        .collect();
    let fits = missing.is_empty() && unused.is_empty();
    if json {
        output::json(&serde_json::json!({ "ok": fits, "missing": missing, "unused": unused }))?;
        return Ok(u8::from(!fits));
    }
    if fits {
        output::line(&format!("{} locks {} images", path.display(), used.len()))?;
        return Ok(0);
    }
    let owned = |images: Vec<&String>| images.into_iter().cloned().collect();
    Err(Error::LockDiffers {
        path: path.to_owned(),
        missing: owned(missing),
        unused: owned(unused),
    })
}

fn report(old: &Lock, new: &Lock, json: bool) -> Result<(), Error> {
    if json {
        return output::json(&serde_json::json!({ "images": new.images }));
    }
    let short = |digest: &Digest| digest.short();
    for (image, digest) in &new.images {
        let line = match old.images.get(image) {
            Some(before) if before == digest => format!("{image}  {}", short(digest)),
            Some(before) => format!("{image}  {} (was {})", short(digest), short(before)),
            None => format!("{image}  {} (new)", short(digest)),
        };
        output::line(&line)?;
    }
    for image in old
        .images
        .keys()
        .filter(|image| !new.images.contains_key(*image))
    {
        output::line(&format!("{image}  removed: nothing uses it"))?;
    }
    if new.images.is_empty() {
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
